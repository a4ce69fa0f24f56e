//! TOML to a tree.
//!
//! Beyond TOML itself, a `;` outside of strings ends a statement as the end of a line does, so that
//! what is written in one line elsewhere can be; a file that is TOML already never meets that.

use std::borrow::Cow;
use std::ops::Range;

use toml_edit::Document;
use toml_edit::InlineTable;
use toml_edit::Item;
use toml_edit::Key;
use toml_edit::Table;
use toml_edit::TomlError;
use toml_edit::Value as Written;

use super::tree::Entry;
use super::tree::Kind;
use super::tree::Node;
use super::tree::Place;
use super::tree::Scalar;
use super::tree::Value;

/// Reads a whole file; what is wrong with it goes to `problems`.
pub(super) fn parse(text: &str, file: &Place, problems: &mut Vec<String>) -> Node {
    let reader = Reader { text, place: file };
    match document(text) {
        Ok(document) => reader.table(document.as_table(), file.at(1, 1)),
        Err(error) => {
            let place = error.span().map_or_else(|| file.clone(), |span| reader.at(span));
            problems.push(format!("{place}: is no TOML: {}", error.message()));
            Node { place: file.clone(), value: Value::Nothing }
        }
    }
}

fn document(text: &str) -> Result<Document<Cow<'_, str>>, TomlError> {
    let strict = Document::parse(Cow::Borrowed(text));
    match (strict, broken(text)) {
        (Err(error), Some(broken)) => Document::parse(Cow::Owned(broken)).map_err(|_second| error),
        (strict, _) => strict,
    }
}

/// The text with a line's end for each `;` outside of strings and comments, every byte where it was;
/// none if there is no `;`.
fn broken(text: &str) -> Option<String> {
    let mut quote = None;
    let mut is_comment = false;
    let mut is_escaped = false;
    let mut found = false;
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        let was_escaped = std::mem::take(&mut is_escaped);
        let mut put = letter;
        match (letter, quote) {
            ('\n', _) => is_comment = false,
            _ if is_comment => {}
            ('\\', Some('"')) => is_escaped = !was_escaped,
            (letter, Some(open)) if letter == open && !was_escaped => quote = None,
            ('"' | '\'', None) => quote = Some(letter),
            ('#', None) => is_comment = true,
            (';', None) => (put, found) = ('\n', true),
            (_, Some(_) | None) => {}
        }
        out.push(put);
    }
    found.then_some(out)
}

struct Reader<'a> {
    text: &'a str,
    place: &'a Place,
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        self.place.at(line, before[begin..].chars().count() + 1)
    }

    fn place_of(&self, span: Option<Range<usize>>, otherwise: &Place) -> Place {
        span.map_or_else(|| otherwise.clone(), |span| self.at(span))
    }

    fn table(&self, table: &Table, place: Place) -> Node {
        let keys = table.iter().filter_map(|(name, _)| table.get_key_value(name));
        let entries = keys.map(|(key, item)| self.entry(key, item, &place)).collect();
        Node { place, value: Value::Map(entries) }
    }

    fn entry(&self, key: &Key, item: &Item, within: &Place) -> Entry {
        let place = self.place_of(key.span(), within);
        let node = match item {
            Item::None => Node { place: place.clone(), value: Value::Nothing },
            Item::Value(value) => self.value(value, &place),
            Item::Table(table) => self.table(table, place.clone()),
            Item::ArrayOfTables(tables) => {
                let nodes = tables.iter().map(|table| {
                    let place = self.place_of(table.span(), &place);
                    self.table(table, place)
                });
                Node { place: place.clone(), value: Value::List(nodes.collect()) }
            }
        };
        Entry { key: key.get().to_owned(), place, node }
    }

    fn value(&self, value: &Written, within: &Place) -> Node {
        let place = self.place_of(value.span(), within);
        let scalar = |text: String, kind| Value::Scalar(Scalar::new(text, kind));
        let value = match value {
            Written::String(text) => scalar(text.value().clone(), Kind::Text),
            Written::Integer(number) => scalar(number.value().to_string(), Kind::Number),
            Written::Float(number) => scalar(number.value().to_string(), Kind::Number),
            Written::Boolean(is) => scalar(is.value().to_string(), Kind::Bool),
            Written::Datetime(time) => scalar(time.value().to_string(), Kind::Text),
            Written::Array(array) => {
                Value::List(array.iter().map(|value| self.value(value, &place)).collect())
            }
            Written::InlineTable(table) => Value::Map(self.inline(table, &place)),
        };
        Node { place, value }
    }

    fn inline(&self, table: &InlineTable, place: &Place) -> Vec<Entry> {
        let keys = table.iter().filter_map(|(name, _)| table.get_key_value(name));
        keys.map(|(key, item)| self.entry(key, item, place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, Vec<String>> {
        let mut problems = Vec::new();
        let node = parse(text, &Place::of("f.toml"), &mut problems);
        if problems.is_empty() { Ok(node) } else { Err(problems) }
    }

    fn is(node: &Node, text: &str, kind: Kind, place: &str) {
        assert_eq!(node.value, Value::Scalar(Scalar::new(text, kind)));
        assert_eq!(node.place.to_string(), place);
    }

    #[test]
    fn keys_and_values_have_lines_and_columns() {
        let text = "# first\nn = 0x10\n[api.\"a.b\"]\nx = { y = [0.5, true], \"é\" = 'z' }\n";
        let root = read(text).unwrap();
        is(&root.find("n").unwrap().node, "16", Kind::Number, "f.toml:2:5");
        let api = &root.find("api").unwrap().node.find("a.b").unwrap();
        assert_eq!(api.place.to_string(), "f.toml:3:6");
        let x = api.node.find("x").unwrap();
        assert_eq!(x.place.to_string(), "f.toml:4:1");
        let Value::List(y) = &x.node.find("y").unwrap().node.value else { panic!("{x:?}") };
        is(&y[0], "0.5", Kind::Number, "f.toml:4:12");
        is(&y[1], "true", Kind::Bool, "f.toml:4:17");
        is(&x.node.find("é").unwrap().node, "z", Kind::Text, "f.toml:4:30");
    }

    #[test]
    fn statements_may_share_a_line() {
        let root = read("a = 'x;y'; b = \"\\\";\" # c; d\ne = 1;f=2\n").unwrap();
        is(&root.find("a").unwrap().node, "x;y", Kind::Text, "f.toml:1:5");
        is(&root.find("b").unwrap().node, "\";", Kind::Text, "f.toml:1:16");
        is(&root.find("f").unwrap().node, "2", Kind::Number, "f.toml:2:9");
        assert!(root.find("d").is_none());
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let deep = format!("a = {}", "[".repeat(100_000));
        for (text, place) in [
            ("a = 1\nb = \n", "f.toml:2:"),
            ("a = 1\na = 2\n", "f.toml:2:1"),
            ("a = [1; 2]\n", "f.toml:1:"),
            ("\n\n[x\n", "f.toml:3:"),
            (&deep, "f.toml:1:"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.len() == 1 && told[0].starts_with(place), "{told:?}");
            assert!(told[0].contains("is no TOML: "), "{told:?}");
        }
    }
}
