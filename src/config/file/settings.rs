//! What stands at the top of the file: each setting of the table of flags by its name, with `_` for
//! `-`, and `limits`, which is another way to write two of them.

use std::collections::BTreeMap;

use super::reader::Notes;
use super::reader::unknown;
use super::tree::Entry;
use super::tree::Kind;
use super::tree::Node;
use super::tree::Place;
use super::tree::Value;
use crate::config::flags;
use crate::config::flags::Setting;
use crate::config::flags::Values;

/// Keys of the file that are no settings of the table.
const OTHERS: [&str; 2] = ["api", "limits"];
/// Keys that a later version will know.
const LATER: [&str; 2] = ["quota", "keys"];
const LIMITS: [&str; 2] = ["default", "hosts"];

/// A text of the file, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// The key's way from the root.
    pub(crate) path: String,
    /// Whether it came from a variable.
    pub(crate) referred: bool,
}

/// Texts of the file, by the flag that each is in the place of.
pub(crate) type Texts = BTreeMap<&'static str, Vec<Told>>;

/// Whether a setting may stand in the file: what says which file, and what to change in it, may not.
pub(crate) fn may_stand(setting: &Setting) -> bool {
    setting.name != flags::CONFIG.name && setting.name != flags::SET.name
}

/// What a setting is called in the file.
pub(crate) fn key_of(setting: &Setting) -> String {
    setting.name.replace('-', "_")
}

/// All that stands at the top of the file, but for what is no setting.
pub(crate) fn read(root: &Node, notes: &mut Notes) -> Texts {
    let mut texts = Texts::new();
    if !matches!(root.value, Value::Map(_) | Value::Nothing) {
        let words = format!(
            "{}: the file holds {}; it must be a map of keys",
            root.place,
            root.value.noun()
        );
        notes.problems.push(words);
    }
    for entry in root.entries() {
        let setting =
            flags::ALL.iter().find(|setting| may_stand(setting) && key_of(setting) == entry.key);
        match (&*entry.key, setting) {
            ("api", _) => {}
            ("limits", _) => limits(entry, &mut texts, notes),
            (_, Some(setting)) => {
                let told = values(setting, &entry.node, &entry.key, notes);
                put(&mut texts, setting, told, notes);
            }
            (key, None) if LATER.contains(&key) => {
                notes.problem(
                    &entry.place,
                    key,
                    "is not known in this version yet; a later one will know it",
                );
            }
            (_, None) => {
                let known: Vec<String> = flags::ALL.iter().map(|setting| key_of(setting)).collect();
                unknown(notes, entry, "", known.iter().map(String::as_str).chain(OTHERS));
            }
        }
    }
    texts
}

fn put(texts: &mut Texts, setting: &'static Setting, told: Vec<Told>, notes: &mut Notes) {
    let Some(first) = told.first() else { return };
    if let Some(other) = texts.get(setting.name).and_then(|other| other.first()) {
        let words = format!("says the same as {} at {}; give one", other.path, other.place);
        notes.problem(&first.place, &first.path, &words);
        return;
    }
    texts.insert(setting.name, told);
}

fn limits(entry: &Entry, texts: &mut Texts, notes: &mut Notes) {
    if !matches!(entry.node.value, Value::Map(_) | Value::Nothing) {
        let words =
            format!("{} is not allowed: a map of default and hosts", entry.node.value.noun());
        notes.problem(&entry.node.place, "limits", &words);
    }
    for inner in entry.node.entries() {
        let path = format!("limits.{}", inner.key);
        match &*inner.key {
            "default" => {
                let told = values(&flags::MAX_CONNECTIONS, &inner.node, &path, notes);
                put(texts, &flags::MAX_CONNECTIONS, told, notes);
            }
            "hosts" => {
                let mut told = Vec::new();
                if !matches!(inner.node.value, Value::Map(_) | Value::Nothing) {
                    let words = format!(
                        "{} is not allowed: a map of hosts to limits",
                        inner.node.value.noun()
                    );
                    notes.problem(&inner.node.place, &path, &words);
                }
                for host in inner.node.entries() {
                    let path = format!("{path}.{}", host.key);
                    told.extend(
                        values(&flags::MAX_CONNECTIONS, &host.node, &path, notes).into_iter().map(
                            |told| Told { text: format!("{}={}", host.key, told.text), ..told },
                        ),
                    );
                }
                put(texts, &flags::HOST_LIMIT, told, notes);
            }
            _ => unknown(notes, inner, "limits", LIMITS.into_iter()),
        }
    }
}

/// The texts of one setting.
fn values(setting: &Setting, node: &Node, path: &str, notes: &mut Notes) -> Vec<Told> {
    let takes_many = setting.values != Values::One;
    let values = match &node.value {
        Value::List(values) if takes_many => &**values,
        Value::Nothing => &[],
        Value::Scalar(_) | Value::List(_) | Value::Map(_) => std::slice::from_ref(node),
    };
    let mut told = Vec::new();
    for node in values {
        match &node.value {
            Value::Scalar(scalar) => {
                let words = match (scalar.kind, &*scalar.text) {
                    (Kind::Bool, "true") if setting.takes_word("on") => Some("on"),
                    (Kind::Bool, "false") if setting.takes_word("off") => Some("off"),
                    _ => None,
                };
                told.push(Told {
                    text: words.unwrap_or(&scalar.text).to_owned(),
                    place: node.place.clone(),
                    path: path.to_owned(),
                    referred: scalar.referred,
                });
            }
            other @ (Value::Nothing | Value::List(_) | Value::Map(_)) => {
                let many = if takes_many { "one value, or a list of them" } else { "one value" };
                notes.problem(
                    &node.place,
                    path,
                    &format!("{} is not allowed: {many}", other.noun()),
                );
            }
        }
    }
    told
}
