//! Where a setting's text comes from: the command line, the environment, the config file, or the
//! table's default.
//!
//! Nothing is read from the process here; arguments and environment are handed in. Problems are collected
//! instead of returned, so that whoever starts narrows sees all of them at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;

use clap::ArgMatches;

use super::file;
use super::file::mask;
use super::file::settings::Texts;
use super::file::settings::Told;
use super::file::tree::Node;
use super::file::tree::Place;
use super::flags;
use super::flags::Setting;
use super::flags::Unset;
use super::flags::Values;

/// Who said it; a later one beats an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Default,
    /// The config file.
    File,
    /// A variable whose name is not ours, such as `REDIS_URL`.
    Alias,
    Variable,
    Flag,
}

/// A text that somebody gave.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
    /// The variable that held it, if one did.
    variable: Option<&'static str>,
    /// The texts of the file that it is made of, if it is.
    told: Vec<Told>,
}

impl Given {
    fn new(text: String, origin: Origin, variable: Option<&'static str>) -> Self {
        Self { text, origin, variable, told: Vec::new() }
    }

    /// The variable that held it, if one did.
    pub(super) fn variable(&self) -> Option<&'static str> {
        self.variable
    }

    /// Where it stands in the file, if it does.
    pub(super) fn place(&self) -> Option<Place> {
        self.told.first().map(|told| told.place.clone())
    }

    /// Whether it was said to narrows: by a name that is not another program's too.
    pub(super) fn is_meant(&self) -> bool {
        match self.origin {
            Origin::Default | Origin::Alias => false,
            Origin::File | Origin::Variable | Origin::Flag => true,
        }
    }
}

/// A problem has been noted; there is no value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted;

/// All sources, and what was wrong with them so far.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// The innermost subcommand's first.
    matches: Vec<&'a ArgMatches>,
    /// Without what is empty.
    environment: BTreeMap<String, OsString>,
    /// What the config file says of settings.
    texts: Texts,
    /// Variables that the config file refers to, whatever they are called.
    referred: BTreeSet<String>,
    /// What the config file holds, with what flags and variables change in it.
    pub(super) tree: Option<Node>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        matches: Vec<&'a ArgMatches>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let environment = environment
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            // A name that is not UTF-8 is none of ours.
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        let (problems, warnings) = (Vec::new(), Vec::new());
        Self {
            matches,
            environment,
            texts: Texts::new(),
            referred: BTreeSet::new(),
            tree: None,
            problems,
            warnings,
        }
    }

    /// Reads the config file, if there is one, and what is changed in it from outside; from here on
    /// its settings are found. What it holds; nothing if there is neither.
    pub(super) fn open_file(&mut self) -> Option<Node> {
        let path = self.given(&flags::CONFIG).ok().flatten();
        let mut makings = file::Makings {
            file: path.as_ref().map(|given| Path::new(&given.text)),
            ..file::Makings::default()
        };
        // Each is about a key of its own: flags add to the variable, and come behind it.
        let said = [self.by_variable(&flags::SET), self.by_flag(&flags::SET)];
        for given in said.into_iter().filter_map(Result::ok).flatten() {
            let by = given.variable.unwrap_or("--set");
            let texts = given.text.split('\0').map(str::trim).filter(|text| !text.is_empty());
            makings.expressions.extend(texts.map(|text| (by, text.to_owned())));
        }
        if makings.file.is_none() && makings.expressions.is_empty() {
            return None;
        }
        let mut notes = file::Notes::default();
        let referred = RefCell::new(BTreeSet::new());
        let variable = |name: &str| {
            referred.borrow_mut().insert(name.to_owned());
            self.environment.get(name).and_then(|value| value.to_str()).map(str::to_owned)
        };
        let root = file::open(makings, &variable, &mut notes);
        self.referred = referred.take();
        self.texts = file::settings::read(&root, &mut notes);
        self.note(notes);
        Some(root)
    }

    /// The same for who needs a few settings alone: what is wrong with others is none of it, unless
    /// nothing could be read.
    pub(super) fn open_file_for_some(&mut self) {
        let _tree = self.open_file();
        if !self.texts.is_empty() {
            self.problems.clear();
        }
        self.warnings.clear();
    }

    /// Whether the config file says something of a setting.
    pub(super) fn stands_in_file(&self, setting: &Setting) -> bool {
        self.texts.contains_key(setting.name)
    }

    /// Takes over what was found to be wrong.
    pub(super) fn note(&mut self, notes: file::Notes) {
        self.problems.extend(notes.problems);
        self.warnings.extend(notes.warnings);
    }

    /// Whether a variable that is not in the table is set to something.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.environment.contains_key(name)
    }

    /// The setting's text, or its default's; none if it has no default as text.
    pub(super) fn given(&mut self, setting: &'static Setting) -> Result<Option<Given>, Noted> {
        if let Some(given) = self.by_flag(setting)? {
            return Ok(Some(given));
        }
        if let Some(given) = self.by_variable(setting)? {
            return Ok(Some(given));
        }
        if let Some(given) = self.by_file(setting) {
            return Ok(Some(given));
        }
        Ok(match setting.unset {
            Unset::Text(text) => Some(Given::new(text.to_owned(), Origin::Default, None)),
            Unset::Nothing | Unset::Said(_) => None,
        })
    }

    fn by_flag(&mut self, setting: &'static Setting) -> Result<Option<Given>, Noted> {
        let mut texts = Vec::new();
        let found = self
            .matches
            .iter()
            .find_map(|m| m.try_get_many::<OsString>(setting.name).ok().flatten());
        if let Some(values) = found {
            for value in values {
                texts.push(self.utf8(setting, None, value.clone())?);
            }
        }
        // `--port ""`, as scripts with unset variables make it, is unset too.
        texts.retain(|text| !text.is_empty());
        if texts.is_empty() {
            return Ok(None);
        }
        let text = match setting.values {
            Values::One => texts.swap_remove(texts.len() - 1),
            Values::Many | Values::Files | Values::Parts => texts.join(setting.values.separator()),
        };
        Ok(Some(Given::new(text, Origin::Flag, None)))
    }

    fn by_variable(&mut self, setting: &'static Setting) -> Result<Option<Given>, Noted> {
        for (rank, name) in setting.variables.iter().enumerate() {
            let Some(value) = self.environment.get(*name) else { continue };
            let text = self.utf8(setting, Some(name), value.clone())?;
            // Kubernetes sets NARROWS_PORT=tcp://10.0.0.1:8080 in every pod beside a Service of
            // the name "narrows"; nobody meant that as a setting.
            if name.ends_with("_PORT") && (text.starts_with("tcp://") || text.starts_with("udp://"))
            {
                let warning = format!("{name}={text:?} is ignored: a Kubernetes service link");
                // A setting may be looked at more than once.
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
                continue;
            }
            let text = match setting.values {
                Values::One | Values::Many => text,
                Values::Files => text.replace(',', "\0"),
                Values::Parts => text.replace(';', "\0"),
            };
            let origin = if rank == 0 { Origin::Variable } else { Origin::Alias };
            return Ok(Some(Given::new(text, origin, Some(name))));
        }
        Ok(None)
    }

    fn by_file(&self, setting: &'static Setting) -> Option<Given> {
        let told = self.texts.get(setting.name)?;
        // As in a flag: what is given as nothing is not given.
        let told: Vec<Told> = told.iter().filter(|told| !told.text.is_empty()).cloned().collect();
        let texts: Vec<&str> = told.iter().map(|told| &*told.text).collect();
        let text = texts.join(setting.values.separator());
        (!text.is_empty()).then_some(Given { text, origin: Origin::File, variable: None, told })
    }

    /// Reads a setting that has a default as text.
    pub(super) fn read<T, E: Display>(
        &mut self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Noted> {
        let value = self.read_if(setting, parse)?;
        value.ok_or_else(|| {
            self.problems.push(format!("--{}: must be given", setting.name));
            Noted
        })
    }

    /// Reads a setting that may be unset.
    pub(super) fn read_if<T, E: Display>(
        &mut self,
        setting: &'static Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Noted> {
        let Some(given) = self.given(setting)? else { return Ok(None) };
        match parse(&given.text) {
            Ok(value) => Ok(Some(value)),
            Err(allowed) => Err(self.refuse(setting, &given, &given.text, &allowed)),
        }
    }

    /// Reads a setting of many values; each that is wrong is a problem of its own.
    pub(super) fn list<T, E: Display>(
        &mut self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, Noted> {
        let Some(given) = self.given(setting)? else { return Ok(Vec::new()) };
        let comma = setting.values.separator();
        let mut values = Vec::new();
        let mut noted = None;
        for text in given.text.split(comma).map(str::trim).filter(|text| !text.is_empty()) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(allowed) => noted = Some(self.refuse(setting, &given, text, &allowed)),
            }
        }
        noted.map_or(Ok(values), Err)
    }

    /// Notes that what was given is not allowed.
    pub(super) fn refuse(
        &mut self,
        setting: &Setting,
        given: &Given,
        text: &str,
        allowed: &impl Display,
    ) -> Noted {
        let told = given.told.iter().find(|told| told.text.contains(text)).or(given.told.first());
        let referred = told.is_some_and(|told| told.referred);
        let value = mask::told(text, setting.secret, referred);
        let name = told.map_or_else(|| named(setting, Some(given)), name_in_file);
        let problem = format!("{name}: {value} is not allowed: {allowed}");
        self.problems.push(problem);
        Noted
    }

    /// Notes that settings that are right by themselves do not go together.
    pub(super) fn clash(&mut self, setting: &'static Setting, problem: &str) -> Noted {
        let given = self.given(setting).ok().flatten();
        self.problems.push(format!("{}: {problem}", named(setting, given.as_ref())));
        Noted
    }

    /// Warns of variables that look like ours and are not.
    pub(super) fn warn_of_strangers(&mut self) {
        let known: Vec<&str> =
            flags::ALL.iter().flat_map(|setting| setting.variables).copied().collect();
        for name in self.environment.keys() {
            let is_known = known.contains(&name.as_str()) || self.referred.contains(name);
            if !name.starts_with("NARROWS_") || is_known || is_link(name) {
                continue;
            }
            let guess = nearest(name, known.iter().copied());
            let guess = guess.map_or_else(String::new, |known| format!("; did you mean {known}?"));
            self.warnings.push(format!("{name} is not a setting of narrows{guess}"));
        }
    }

    fn utf8(
        &mut self,
        setting: &Setting,
        variable: Option<&'static str>,
        value: OsString,
    ) -> Result<String, Noted> {
        value.into_string().map_err(|value| {
            let origin = Origin::Default;
            let given = Given::new(value.to_string_lossy().into_owned(), origin, variable);
            self.refuse(setting, &given, &given.text, &"text in UTF-8")
        })
    }
}

/// The setting as somebody would look for it: its place in the file, or its flag and the variable that
/// held the value.
pub(super) fn named(setting: &Setting, given: Option<&Given>) -> String {
    if let Some(told) = given.and_then(|given| given.told.first()) {
        return name_in_file(told);
    }
    match given.and_then(|given| given.variable) {
        Some(variable) => format!("--{} ({variable})", setting.name),
        None => match setting.variables.first() {
            Some(variable) => format!("--{} (or {variable})", setting.name),
            None => format!("--{}", setting.name),
        },
    }
}

fn name_in_file(told: &Told) -> String {
    format!("{}: {}", told.place, told.path)
}

/// The name of those that are known that is the most like this one, if any is.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let nearest = known.map(|known| (distance(name, known), known)).min()?;
    // What has little in common with a short name was not meant by it.
    let (steps, known) = nearest;
    (steps <= 3 && steps * 2 <= name.len().max(known.len())).then_some(known)
}

/// Variables that Kubernetes makes for a Service whose name begins with "narrows".
fn is_link(name: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| numbered(rest))
}

/// Letters to insert, take away or change to make one name of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_letters() {
        for (one, other, steps) in [
            ("", "", 0),
            ("a", "", 1),
            ("PORT", "PROT", 2),
            ("LIMIT", "LIMITS", 1),
            ("ab", "xb", 1),
        ] {
            assert_eq!(distance(one, other), steps, "{one} {other}");
        }
    }

    #[test]
    fn service_links_are_known_by_their_names() {
        assert!(is_link("NARROWS_SERVICE_HOST"));
        assert!(is_link("NARROWS_PORT_8080_TCP_ADDR"));
        assert!(!is_link("NARROWS_PROT"));
    }
}
