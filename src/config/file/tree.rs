//! What a config file holds, whichever language it was written in: values, and where each stands.
//!
//! No setting is known here. Keys of one map are never twice the same: who makes a map sees to that.

use std::fmt;
use std::sync::Arc;

/// Where something was said: a place in a file, or an expression of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, or the expression.
    name: Arc<str>,
    /// Whether it has lines: an expression has none.
    has_lines: bool,
    /// Line and column, both from 1; none for all of it.
    position: Option<(usize, usize)>,
}

impl Place {
    /// All of a file.
    pub(crate) fn of(file: &str) -> Self {
        Self { name: file.into(), has_lines: true, position: None }
    }

    /// An expression of the command line, a flag, or a variable.
    pub(crate) fn of_expression(expression: &str) -> Self {
        Self { name: expression.into(), has_lines: false, position: None }
    }

    /// A position in it.
    pub(crate) fn at(&self, line: usize, column: usize) -> Self {
        let position = self.has_lines.then_some((line, column));
        Self { name: Arc::clone(&self.name), has_lines: self.has_lines, position }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// A value, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing was said: `key:` or `key: null`.
    Nothing,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, where it stands, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// One value as text. What it must be is the reader's to say.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// Whether a part of it came from a variable, and is not to be told.
    pub(crate) referred: bool,
}

/// What a scalar looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`, which its text is then.
    Bool,
    Number,
    Text,
}

impl Scalar {
    pub(crate) fn new(text: impl Into<String>, kind: Kind) -> Self {
        Self { text: text.into(), kind, referred: false }
    }

    /// A scalar of text that says by itself what it is (YAML 1.2.2 §10.3.2, core schema); none for
    /// one that says nothing.
    pub(crate) fn plain(text: &str) -> Option<Self> {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => None,
            "true" | "True" | "TRUE" => Some(Self::new("true", Kind::Bool)),
            "false" | "False" | "FALSE" => Some(Self::new("false", Kind::Bool)),
            _ if is_number(text) => Some(Self::new(text, Kind::Number)),
            _ => Some(Self::new(text, Kind::Text)),
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SECURITY: what came from a variable is a secret most of the time.
        if self.referred {
            return f.write_str("(secret)");
        }
        write!(f, "{:?} ({:?})", self.text, self.kind)
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && digits.parse::<f64>().is_ok()
}

impl Value {
    /// What it is, for whoever expected something else.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Scalar(Scalar { kind: Kind::Bool, .. }) => "true or false",
            Self::Scalar(Scalar { kind: Kind::Number, .. }) => "a number",
            Self::Scalar(Scalar { kind: Kind::Text, .. }) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// An empty map.
    pub(crate) fn empty(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()) }
    }

    /// What a key of a map is for.
    pub(crate) fn find(&self, key: &str) -> Option<&Entry> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key)
    }

    /// Its entries; none for what is no map.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Nothing | Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    /// Puts a value where the path leads; what is on the way and is no map becomes one.
    pub(crate) fn put(&mut self, path: &[String], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let place = &node.place;
        let at = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let inner = Self::empty(place.clone());
            entries.push(Entry { key: key.clone(), place: place.clone(), node: inner });
            entries.len() - 1
        });
        let entry = &mut entries[at];
        if rest.is_empty() {
            entry.place = node.place.clone();
        }
        entry.node.put(rest, node);
    }

    /// Does something with each scalar within, and takes out those for which it says false.
    pub(crate) fn retain_scalars(&mut self, act: &mut impl FnMut(&Place, &mut Scalar) -> bool) {
        let mut keep = |node: &mut Self| match &mut node.value {
            Value::Scalar(scalar) => act(&node.place, scalar),
            Value::Nothing => true,
            Value::List(_) | Value::Map(_) => {
                node.retain_scalars(act);
                true
            }
        };
        match &mut self.value {
            Value::Nothing | Value::Scalar(_) => {}
            Value::List(nodes) => nodes.retain_mut(keep),
            Value::Map(entries) => entries.retain_mut(|entry| keep(&mut entry.node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_says_what_it_is() {
        for (text, kind) in [
            ("true", Kind::Bool),
            ("FALSE", Kind::Bool),
            ("on", Kind::Text),
            ("0", Kind::Number),
            ("-12", Kind::Number),
            ("0.2", Kind::Number),
            (".5", Kind::Number),
            ("1e3", Kind::Number),
            ("1.2.3", Kind::Text),
            ("127.0.0.1", Kind::Text),
            ("10s", Kind::Text),
            ("e5", Kind::Text),
            ("-", Kind::Text),
            (".", Kind::Text),
        ] {
            assert_eq!(Scalar::plain(text).unwrap().kind, kind, "{text}");
        }
        assert_eq!(Scalar::plain("~"), None);
    }

    #[test]
    fn a_value_is_put_where_the_path_leads() {
        let place = Place::of("x");
        let scalar = |text: &str| Node {
            place: place.at(1, 2),
            value: Value::Scalar(Scalar::new(text, Kind::Text)),
        };
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let mut root = Node::empty(place.clone());
        root.put(&path("a.b"), scalar("1"));
        root.put(&path("a.b"), scalar("2"));
        assert_eq!(root.find("a").unwrap().node.find("b").unwrap().node, scalar("2"));
        root.put(&path("a.b.c"), scalar("3"));
        let b = &root.find("a").unwrap().node.find("b").unwrap().node;
        assert_eq!(b.find("c").unwrap().node, scalar("3"));
        assert_eq!(b.find("c").unwrap().place.to_string(), "x:1:2");
    }

    #[test]
    fn what_came_from_a_variable_is_not_told() {
        let mut scalar = Scalar::new("sesame", Kind::Text);
        assert!(format!("{scalar:?}").contains("sesame"));
        scalar.referred = true;
        assert!(!format!("{scalar:?}").contains("sesame"));
    }
}
