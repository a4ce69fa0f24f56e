//! The config file: settings and APIs, each where somebody wrote it.
//!
//! A file of YAML or TOML becomes one tree ([`tree`]) that knows the place of each key and value. The
//! settings of the table of flags stand in it by their names, and are read as flags are; APIs are read
//! by a table of their own ([`keys`]). Nothing is done with a file that has a problem, and all of its
//! problems are told at once.

mod access;
mod api;
mod cache;
mod claims;
mod expand;
pub(super) mod keys;
pub(super) mod mask;
pub(super) mod parents;
mod quota;
mod reader;
mod set;
pub(super) mod settings;
mod toml;
pub(super) mod tree;
mod url;
mod yaml;

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub(super) use self::reader::Notes;
use self::tree::Node;
use self::tree::Place;
use self::tree::Value;
use crate::policy;
use crate::policy::parents::Parent;

/// The longest file, in bytes.
const LONGEST_FILE: u64 = 1024 * 1024;

/// What makes a tree: the file, what is changed in it from outside, and the variables it refers to.
#[derive(Debug, Default)]
pub(super) struct Makings<'a> {
    pub(super) file: Option<&'a Path>,
    /// Who says it, and what.
    pub(super) expressions: Vec<(&'static str, String)>,
}

/// Reads all of it; an empty map is what is left of a file that cannot be read.
pub(super) fn open(
    makings: Makings<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes,
) -> Node {
    let mut root = match makings.file {
        Some(path) => file(path, notes),
        None => Node::empty(Place::of("narrows")),
    };
    for (by, expression) in &makings.expressions {
        set::apply(&mut root, by, expression, notes);
    }
    expand::expand(&mut root, variable, notes);
    root
}

fn file(path: &Path, notes: &mut Notes) -> Node {
    let name = path.display().to_string();
    match text_of(path) {
        Ok(text) => parse(&text, &name, notes),
        Err(error) => {
            notes.problems.push(format!("{name}: the config file cannot be read: {error}"));
            Node::empty(Place::of(&name))
        }
    }
}

/// Reads a text; its name says whether it is TOML.
pub(crate) fn parse(text: &str, name: &str, notes: &mut Notes) -> Node {
    let place = Place::of(name);
    let ending = Path::new(name).extension();
    if ending.is_some_and(|ending| ending.eq_ignore_ascii_case("toml")) {
        toml::parse(text, &place, &mut notes.problems)
    } else {
        yaml::parse(text, &place, &mut notes.problems)
    }
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if length as u64 > LONGEST_FILE {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let lines = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n');
        io::Error::other(format!("line {} is not UTF-8", lines.count() + 1))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// What becomes of any text, for the fuzzer: it is read in both languages, as a change from outside,
/// and with a variable that it may refer to. What was said of it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn said_of(text: &str) -> Vec<String> {
    let variable = |name: &str| (name == "A").then(|| "open sesame!".to_owned());
    let mut said = Vec::new();
    for name in ["f.yaml", "f.toml", ""] {
        let mut notes = Notes::default();
        let mut root = match name {
            "" => Node::empty(Place::of("f")),
            name => parse(text, name, &mut notes),
        };
        if name.is_empty() {
            text.lines().for_each(|line| set::apply(&mut root, "--set", line, &mut notes));
        }
        expand::expand(&mut root, &variable, &mut notes);
        let _texts = settings::read(&root, &mut notes);
        let apis = apis(&root, &[], &mut notes);
        said.extend(notes.problems);
        said.extend(notes.warnings);
        said.push(format!("{root:?}{apis:?}"));
    }
    said
}

/// The APIs of a tree; `shared` are the parents of those that have none of their own.
pub(super) fn apis(
    root: &Node,
    shared: &[Arc<Parent>],
    notes: &mut Notes,
) -> Vec<policy::api::Settings> {
    let Some(entry) = root.find("api") else { return Vec::new() };
    if !matches!(entry.node.value, Value::Map(_) | Value::Nothing) {
        let words = format!("{} is not allowed: a map of names to APIs", entry.node.value.noun());
        notes.problem(&entry.node.place, "api", &words);
    }
    let entries = entry.node.entries();
    let mut apis: Vec<_> = entries.iter().map(|entry| api::read(entry, shared, notes)).collect();
    claims::settle(&mut apis, entries, notes);
    apis
}

#[cfg(test)]
pub(super) mod tests;
