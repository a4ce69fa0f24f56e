//! YAML to a tree.
//!
//! One document of maps, lists and scalars. What makes YAML dangerous or ambiguous is refused:
//! aliases (a small file could become a huge one), tags, merge keys, keys that are no text, keys
//! that are there twice, depth without bound.

use std::collections::HashMap;

use saphyr_parser::Event;
use saphyr_parser::Marker;
use saphyr_parser::Parser;
use saphyr_parser::ScalarStyle;
use saphyr_parser::StrInput;

use super::tree::Entry;
use super::tree::Kind;
use super::tree::Node;
use super::tree::Place;
use super::tree::Scalar;
use super::tree::Value;

/// Maps and lists within each other.
const DEEPEST: usize = 32;

/// Reads a whole file; what is wrong with it goes to `problems`.
pub(super) fn parse(text: &str, file: &Place, problems: &mut Vec<String>) -> Node {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        place: file,
        problems,
        depth: 0,
        ended: false,
    };
    reader.document()
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    place: &'a Place,
    problems: &'a mut Vec<String>,
    depth: usize,
    /// After what no reading can go on.
    ended: bool,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Node {
        let mut root = None;
        while let Some((event, place)) = self.next() {
            match event {
                Event::Nothing
                | Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd
                    if root.is_some() =>
                {
                    self.stop(&place, "a second document; only one is read");
                }
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => root = Some(self.node(event, place)),
            }
        }
        root.unwrap_or_else(|| Node { place: self.place.clone(), value: Value::Nothing })
    }

    fn next(&mut self) -> Option<(Event<'a>, Place)> {
        if self.ended {
            return None;
        }
        match self.parser.next_event()? {
            Ok((event, span)) => {
                let place = self.at(span.start);
                Some((event, place))
            }
            Err(error) => {
                let place = self.at(*error.marker());
                self.stop(&place, &format!("is no YAML: {}", error.info()));
                None
            }
        }
    }

    fn at(&self, marker: Marker) -> Place {
        self.place.at(marker.line(), marker.col() + 1)
    }

    /// Notes a problem after which nothing that is read would be right.
    fn stop(&mut self, place: &Place, problem: &str) {
        self.problems.push(format!("{place}: {problem}"));
        self.ended = true;
    }

    fn node(&mut self, event: Event<'a>, place: Place) -> Node {
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    self.stop(&place, "a tag; write the value without");
                }
                if style == ScalarStyle::Plain {
                    Scalar::plain(&text).map_or(Value::Nothing, Value::Scalar)
                } else {
                    Value::Scalar(Scalar::new(text, Kind::Text))
                }
            }
            Event::SequenceStart(_, tag) => {
                if tag.is_some() {
                    self.stop(&place, "a tag; write the value without");
                }
                self.within(&place, Self::list)
            }
            Event::MappingStart(_, tag) => {
                if tag.is_some() {
                    self.stop(&place, "a tag; write the value without");
                }
                self.within(&place, Self::map)
            }
            Event::Alias(_) => {
                self.stop(&place, "an alias; write the value itself");
                Value::Nothing
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                self.stop(&place, "is no YAML: something ends that did not begin");
                Value::Nothing
            }
        };
        Node { place, value }
    }

    fn within(&mut self, place: &Place, read: impl FnOnce(&mut Self) -> Value) -> Value {
        if self.depth == DEEPEST {
            self.stop(place, "maps and lists within each other more than 32 deep");
            return Value::Nothing;
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Value {
        let mut nodes = Vec::new();
        while let Some((event, place)) = self.next() {
            if event == Event::SequenceEnd {
                break;
            }
            nodes.push(self.node(event, place));
        }
        Value::List(nodes)
    }

    fn map(&mut self) -> Value {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, Place> = HashMap::new();
        while let Some((event, place)) = self.next() {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.key(event, &place);
            let Some((event, value_place)) = self.next() else { break };
            let node = self.node(event, value_place);
            if self.ended {
                break;
            }
            if let Some(first) = known.get(&key) {
                let problem = format!("{place}: the key {key:?} is there twice, first at {first}");
                self.problems.push(problem);
                continue;
            }
            known.insert(key.clone(), place.clone());
            entries.push(Entry { key, place, node });
        }
        Value::Map(entries)
    }

    fn key(&mut self, event: Event<'a>, place: &Place) -> String {
        if let Event::Scalar(text, _, _, None) = event {
            if text == "<<" {
                self.stop(place, "a merge key; write the keys themselves");
            }
            return text.into_owned();
        }
        self.stop(place, "a key must be plain text");
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, Vec<String>> {
        let mut problems = Vec::new();
        let node = parse(text, &Place::of("f.yaml"), &mut problems);
        if problems.is_empty() { Ok(node) } else { Err(problems) }
    }

    #[test]
    fn keys_and_values_have_lines_and_columns() {
        let root = read("# first\na:\n  b: [1, {c: 'true'}]\nd:\n").unwrap();
        let a = root.find("a").unwrap();
        assert_eq!(a.place.to_string(), "f.yaml:2:1");
        let b = a.node.find("b").unwrap();
        assert_eq!(
            (b.place.to_string(), b.node.place.to_string()),
            ("f.yaml:3:3".into(), "f.yaml:3:6".into())
        );
        let Value::List(list) = &b.node.value else { panic!("{b:?}") };
        assert_eq!(list[0].value, Value::Scalar(Scalar::new("1", Kind::Number)));
        let c = list[1].find("c").unwrap();
        assert_eq!(c.node.value, Value::Scalar(Scalar::new("true", Kind::Text)));
        assert_eq!(c.node.place.to_string(), "f.yaml:3:14");
        assert_eq!(root.find("d").unwrap().node.value, Value::Nothing);
    }

    #[test]
    fn an_empty_file_is_nothing() {
        for text in ["", "# only words\n", "---\n"] {
            assert_eq!(read(text).unwrap().value, Value::Nothing, "{text:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_with_its_line() {
        let deep = "[".repeat(40);
        for (text, problem) in [
            ("a: 1\na: 2\n", "f.yaml:2:1: the key \"a\" is there twice, first at f.yaml:1:1"),
            ("a: &x 1\nb: *x\n", "f.yaml:2:4: an alias"),
            ("a: !!str 1\n", "a tag"),
            ("a: {}\nb:\n  <<: 1\n", "f.yaml:3:3: a merge key"),
            ("[a]: 1\n", "f.yaml:1:1: a key must be plain text"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("a: [1\n", "is no YAML: "),
            ("a: 'b\n", "is no YAML: "),
            ("\ta: b: c\n", "is no YAML: "),
            (&deep, "more than 32 deep"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.len() == 1 && told[0].contains(problem), "{text}: {told:?}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_hides_no_other_problem() {
        assert_eq!(read("a: 1\na: 2\nb: 1\nb: 2\n").unwrap_err().len(), 2);
    }
}
