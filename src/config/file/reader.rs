//! Reading of one map by the table of keys: what it may hold, and what is said of what it may not.
//!
//! Nothing is returned that was not allowed; each thing that was not is a problem of its own, with its
//! place, its key, its value and what is allowed. Values that may be secrets are not told.

use std::fmt::Display;
use std::time::Duration;

use super::keys::Key;
use super::keys::Kind as Wanted;
use super::keys::Section;
use super::keys::Unit;
use super::keys::Zero;
use super::mask;
use super::tree::Entry;
use super::tree::Kind;
use super::tree::Node;
use super::tree::Place;
use super::tree::Scalar;
use super::tree::Value;
use crate::config::source::nearest;
use crate::config::units;
use crate::config::units::LONGEST;

/// What was found to be wrong, or odd.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl Notes {
    pub(super) fn problem(&mut self, place: &Place, path: &str, words: &str) {
        self.problems.push(format!("{place}: {path}: {words}"));
    }

    pub(super) fn warn(&mut self, place: &Place, path: &str, words: &str) {
        self.warnings.push(format!("{place}: {path}: {words}"));
    }
}

/// A text that was read, and where it stood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'t> {
    pub(super) text: &'t str,
    pub(super) place: &'t Place,
    pub(super) referred: bool,
}

/// `true`, `false`, or something else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Or<T> {
    Switch(bool),
    Else(T),
}

/// A map of which each key is in the table, under one section.
#[derive(Debug)]
pub(super) struct Map<'t> {
    node: &'t Node,
    /// Its own way from the root.
    pub(super) path: String,
    section: Section,
}

impl<'t> Map<'t> {
    /// A map and its way from the root; keys that no row of the section knows are problems.
    pub(super) fn new(node: &'t Node, path: String, section: Section, notes: &mut Notes) -> Self {
        let map = Self { node, path, section };
        for entry in node.entries() {
            if !section.keys().any(|key| key.name == entry.key) {
                unknown(notes, entry, &map.path, section.keys().map(|key| key.name));
            }
        }
        if !matches!(node.value, Value::Map(_) | Value::Nothing) {
            let words = format!("{} is not allowed: a map of keys", node.value.noun());
            notes.problem(&node.place, &map.path, &words);
        }
        map
    }

    pub(super) fn place(&self) -> &'t Place {
        &self.node.place
    }

    /// What stands behind a key; none if nothing does.
    pub(super) fn find(&self, key: &Key) -> Option<&'t Entry> {
        debug_assert!(key.section == self.section, "{}", key.path());
        note_read(key);
        self.node.find(key.name).filter(|entry| entry.node.value != Value::Nothing)
    }

    pub(super) fn is_given(&self, key: &Key) -> bool {
        self.find(key).is_some()
    }

    /// Where a key stands, for who has something to say of it.
    pub(super) fn complain(&self, notes: &mut Notes, key: &Key, words: &str) {
        let place = self.find(key).map_or(self.place(), |entry| &entry.node.place);
        notes.problem(place, &self.path_of(key), words);
    }

    pub(super) fn warn(&self, notes: &mut Notes, key: &Key, words: &str) {
        let place = self.find(key).map_or(self.place(), |entry| &entry.node.place);
        notes.warn(place, &self.path_of(key), words);
    }

    pub(super) fn path_of(&self, key: &Key) -> String {
        format!("{}.{}", self.path, key.name)
    }

    /// Says that something is not allowed.
    pub(super) fn refuse(
        &self,
        notes: &mut Notes,
        key: &Key,
        item: Item<'_>,
        allowed: &dyn Display,
    ) {
        let value = mask::told(item.text, key.secret, item.referred);
        notes.problem(
            item.place,
            &self.path_of(key),
            &format!("{value} is not allowed: {allowed}"),
        );
    }

    fn scalar(&self, notes: &mut Notes, key: &Key) -> Option<(&'t Scalar, &'t Place)> {
        let entry = self.find(key)?;
        match &entry.node.value {
            Value::Scalar(scalar) => Some((scalar, &entry.node.place)),
            Value::Nothing => None,
            other @ (Value::List(_) | Value::Map(_)) => {
                self.wrong(notes, key, &entry.node.place, other);
                None
            }
        }
    }

    fn wrong(&self, notes: &mut Notes, key: &Key, place: &Place, value: &Value) {
        let words = format!("{} is not allowed: {}", value.noun(), key.kind);
        notes.problem(place, &self.path_of(key), &words);
    }

    /// Reads a scalar; an error is what is allowed in its place.
    pub(super) fn parse<T, E: Display>(
        &self,
        notes: &mut Notes,
        key: &Key,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (scalar, place) = self.scalar(notes, key)?;
        match parse(&scalar.text) {
            Ok(value) => Some(value),
            Err(allowed) => {
                let item = Item { text: &scalar.text, place, referred: scalar.referred };
                self.refuse(notes, key, item, &allowed);
                None
            }
        }
    }

    pub(super) fn switch(&self, notes: &mut Notes, key: &Key) -> Option<bool> {
        self.parse(notes, key, |text| switch(text).ok_or(key.kind))
    }

    pub(super) fn whole<T: TryFrom<u64>>(&self, notes: &mut Notes, key: &Key) -> Option<T> {
        self.parse(notes, key, |text| whole(text, key.kind).ok_or(key.kind))
    }

    pub(super) fn decimal(&self, notes: &mut Notes, key: &Key) -> Option<f64> {
        self.parse(notes, key, |text| decimal(text, key.kind).ok_or(key.kind))
    }

    /// A length of time; `off` is none within.
    #[expect(clippy::option_option, reason = "not given, given as off, given")]
    pub(super) fn time_or_off(&self, notes: &mut Notes, key: &Key) -> Option<Option<Duration>> {
        self.parse(notes, key, |text| time(text, key.kind).ok_or(key.kind))
    }

    pub(super) fn time(&self, notes: &mut Notes, key: &Key) -> Option<Duration> {
        self.time_or_off(notes, key).flatten()
    }

    pub(super) fn bytes(&self, notes: &mut Notes, key: &Key) -> Option<u64> {
        self.parse(notes, key, |text| bytes(text, key.kind).ok_or(key.kind))
    }

    /// One of the words of the row.
    pub(super) fn word(&self, notes: &mut Notes, key: &Key) -> Option<&'t str> {
        let Wanted::Word(words) = key.kind else { return None };
        let (scalar, _) = self.scalar(notes, key)?;
        self.parse(notes, key, |text| {
            if words.contains(&text) { Ok(&*scalar.text) } else { Err(key.kind) }
        })
    }

    /// The texts of a list, or the one that stands in its place.
    pub(super) fn texts(&self, notes: &mut Notes, key: &Key) -> Option<Vec<Item<'t>>> {
        let entry = self.find(key)?;
        match &entry.node.value {
            Value::Scalar(scalar) => Some(vec![item(scalar, &entry.node.place)]),
            Value::List(values) => {
                let mut items = Vec::new();
                for node in values {
                    match &node.value {
                        Value::Scalar(scalar) => items.push(item(scalar, &node.place)),
                        other @ (Value::Nothing | Value::List(_) | Value::Map(_)) => {
                            self.wrong(notes, key, &node.place, other);
                        }
                    }
                }
                Some(items)
            }
            other @ (Value::Map(_) | Value::Nothing) => {
                self.wrong(notes, key, &entry.node.place, other);
                None
            }
        }
    }

    /// A list of which each text is read by itself; an error is what is allowed.
    pub(super) fn list<T, E: Display>(
        &self,
        notes: &mut Notes,
        key: &Key,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let items = self.texts(notes, key)?;
        let mut values = Vec::new();
        for item in items {
            match parse(item.text) {
                Ok(value) => values.push(value),
                Err(allowed) => self.refuse(notes, key, item, &allowed),
            }
        }
        Some(values)
    }

    pub(super) fn numbers<T: TryFrom<u64>>(&self, notes: &mut Notes, key: &Key) -> Option<Vec<T>> {
        self.list(notes, key, |text| whole(text, key.kind).ok_or(key.kind))
    }

    /// The pairs of a map.
    pub(super) fn pairs(&self, notes: &mut Notes, key: &Key) -> Option<Vec<(Item<'t>, Item<'t>)>> {
        let entry = self.find(key)?;
        let Value::Map(entries) = &entry.node.value else {
            self.wrong(notes, key, &entry.node.place, &entry.node.value);
            return None;
        };
        let mut pairs = Vec::new();
        for entry in entries {
            let name = Item { text: &entry.key, place: &entry.place, referred: false };
            match &entry.node.value {
                Value::Scalar(scalar) => pairs.push((name, item(scalar, &entry.node.place))),
                other @ (Value::Nothing | Value::List(_) | Value::Map(_)) => {
                    let path = format!("{}.{}", self.path_of(key), entry.key);
                    let words = format!("{} is not allowed: text", other.noun());
                    notes.problem(&entry.node.place, &path, &words);
                }
            }
        }
        Some(pairs)
    }

    /// The maps of a section by their names.
    pub(super) fn named(&self, notes: &mut Notes, key: &Key) -> Option<Vec<(Item<'t>, Map<'t>)>> {
        let Wanted::Named(section, _) = key.kind else { return None };
        let entry = self.find(key)?;
        let Value::Map(entries) = &entry.node.value else {
            self.wrong(notes, key, &entry.node.place, &entry.node.value);
            return None;
        };
        let maps = entries.iter().map(|entry| {
            let name = Item { text: &entry.key, place: &entry.place, referred: false };
            let path = format!("{}.{}", self.path_of(key), entry.key);
            (name, Map::new(&entry.node, path, section, notes))
        });
        Some(maps.collect())
    }

    /// `true`, `false`, or what else stands there.
    pub(super) fn switch_or(&self, key: &Key) -> Option<Or<&'t Node>> {
        let entry = self.find(key)?;
        match &entry.node.value {
            Value::Scalar(scalar) => match switch(&scalar.text) {
                Some(is_on) => Some(Or::Switch(is_on)),
                None => Some(Or::Else(&entry.node)),
            },
            Value::Nothing => None,
            Value::List(_) | Value::Map(_) => Some(Or::Else(&entry.node)),
        }
    }

    /// The map of a section; what is neither that nor a switch is a problem.
    pub(super) fn part(&self, notes: &mut Notes, key: &Key) -> Option<Or<Map<'t>>> {
        let Wanted::Part(section) = key.kind else { return None };
        match self.switch_or(key)? {
            Or::Switch(is_on) => Some(Or::Switch(is_on)),
            Or::Else(node) if matches!(node.value, Value::Map(_)) => {
                Some(Or::Else(Map::new(node, self.path_of(key), section, notes)))
            }
            Or::Else(node) => {
                let item = |scalar| item(scalar, &node.place);
                match &node.value {
                    Value::Scalar(scalar) => self.refuse(notes, key, item(scalar), &key.kind),
                    other @ (Value::Nothing | Value::List(_) | Value::Map(_)) => {
                        self.wrong(notes, key, &node.place, other);
                    }
                }
                None
            }
        }
    }
}

fn item<'t>(scalar: &'t Scalar, place: &'t Place) -> Item<'t> {
    Item { text: &scalar.text, place, referred: scalar.referred }
}

/// Says that a key is not known, and which may have been meant.
pub(super) fn unknown<'k>(
    notes: &mut Notes,
    entry: &Entry,
    path: &str,
    known: impl Iterator<Item = &'k str>,
) {
    let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
    let guess = nearest(&entry.key, known);
    let guess = guess.map_or_else(String::new, |known| format!("; did you mean {known}?"));
    notes.problem(&entry.place, &path, &format!("is not a key of narrows{guess}"));
}

// What texts must be; none is not allowed.

pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(super) fn whole<T: TryFrom<u64>>(text: &str, kind: Wanted) -> Option<T> {
    let (Wanted::Whole(from, to) | Wanted::Numbers(from, to)) = kind else { return None };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse::<u64>().ok() } else { None };
    number.filter(|number| (from..=to).contains(number)).and_then(|number| number.try_into().ok())
}

pub(super) fn decimal(text: &str, kind: Wanted) -> Option<f64> {
    let Wanted::Decimal(from, to) = kind else { return None };
    Scalar::plain(text)
        .filter(|scalar| scalar.kind == Kind::Number)
        .and_then(|scalar| scalar.text.parse::<f64>().ok())
        .filter(|number| (from..=to).contains(number))
}

#[expect(clippy::option_option, reason = "not allowed, off, a time")]
pub(super) fn time(text: &str, kind: Wanted) -> Option<Option<Duration>> {
    let Wanted::Time(unit, zero) = kind else { return None };
    if text == "off" {
        return (zero == Zero::Off).then_some(None);
    }
    let time = match decimal(text, Wanted::Decimal(0.0, 1e12)) {
        Some(number) => {
            let seconds = match unit {
                Unit::Milliseconds => number / 1000.0,
                Unit::Seconds => number,
            };
            Duration::try_from_secs_f64(seconds).ok()?
        }
        None => units::duration(text).ok()?,
    };
    match (time, zero) {
        (time, _) if time > LONGEST => None,
        (Duration::ZERO, Zero::Refused) => None,
        (Duration::ZERO, Zero::Off) => Some(None),
        (time, Zero::Allowed | Zero::Refused | Zero::Off) => Some(Some(time)),
    }
}

pub(super) fn bytes(text: &str, kind: Wanted) -> Option<u64> {
    let (Wanted::Bytes(from, to) | Wanted::SwitchOrBytes(from, to)) = kind else { return None };
    let (number, unit) = text.strip_suffix("KiB").map_or((text, 1), |number| (number, 1024));
    let number: u64 = whole(number, Wanted::Whole(0, to))?;
    number.checked_mul(unit).filter(|bytes| (from..=to).contains(bytes))
}

#[cfg(test)]
thread_local! {
    /// Rows that were asked for, for the test that none is forgotten.
    pub(super) static READ: std::cell::RefCell<std::collections::BTreeSet<String>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

#[cfg(test)]
fn note_read(key: &Key) {
    READ.with_borrow_mut(|read| read.insert(key.path()));
}

#[cfg(not(test))]
fn note_read(_key: &Key) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_in_the_unit_of_their_key_or_say_their_own() {
        let millis = |kind, text| time(text, kind).map(|time| time.map(|time| time.as_millis()));
        let seconds = Wanted::Time(Unit::Seconds, Zero::Refused);
        assert_eq!(millis(seconds, "30"), Some(Some(30_000)));
        assert_eq!(millis(seconds, "0.2"), Some(Some(200)));
        assert_eq!(millis(seconds, "500ms"), Some(Some(500)));
        let millis_or_off = Wanted::Time(Unit::Milliseconds, Zero::Off);
        assert_eq!(millis(millis_or_off, "10000"), Some(Some(10_000)));
        assert_eq!(millis(millis_or_off, "1m30s"), Some(Some(90_000)));
        assert_eq!(millis(millis_or_off, "off"), Some(None));
        assert_eq!(millis(millis_or_off, "0"), Some(None));
        for text in ["0", "off", "-1", "soon", "1e300", "366d", "inf", "NaN", ""] {
            assert_eq!(time(text, seconds), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_within_their_bounds() {
        assert_eq!(whole::<u32>("5", Wanted::Whole(1, 5)), Some(5));
        for text in ["0", "6", "1.0", "+5", "-1", "5x", "", "99999999999999999999"] {
            assert_eq!(whole::<u32>(text, Wanted::Whole(1, 5)), None, "{text}");
        }
        assert_eq!(decimal("0.5", Wanted::Decimal(0.0, 1.0)), Some(0.5));
        for text in ["1.1", "-0.1", "nan", "x", ""] {
            assert_eq!(decimal(text, Wanted::Decimal(0.0, 1.0)), None, "{text}");
        }
        let kind = Wanted::Bytes(1, 64 * 1024);
        assert_eq!(bytes("64KiB", kind), Some(65_536));
        for text in ["0", "65KiB", "1 KiB", "1MiB", "99999999999999999KiB"] {
            assert_eq!(bytes(text, kind), None, "{text}");
        }
    }
}
