//! Changes to the file from outside: `api.NAME.key=value`, of `--set` and `NARROWS_SET`.
//!
//! The left side is a way through the file, the right side a value in YAML. What is said here beats
//! what the file says, and is read by the same reader.

use super::reader::Notes;
use super::tree::Node;
use super::tree::Place;
use super::yaml;

/// Changes the tree as an expression says; `by` is who says it (`--set`).
pub(super) fn apply(root: &mut Node, by: &str, expression: &str, notes: &mut Notes) {
    let Some((path, value)) = split(expression) else {
        // SECURITY: what stands where may not be known, and some of it may be a secret.
        let start: String =
            expression.chars().take_while(|c| !"=:@ ".contains(*c)).take(80).collect();
        notes.problems.push(format!(
            "{by} {start}: must be KEY=VALUE, such as api.NAME.request_timeout=500ms"
        ));
        return;
    };
    let place = Place::of_expression(&format!("{by} {}", path.join(".")));
    let before = notes.problems.len();
    let mut node = yaml::parse(value, &place, &mut notes.problems);
    if notes.problems.len() == before {
        node.place = place;
        root.put(&with_names(root, path), node);
    }
}

/// Sees in the segments of a way the name of an API that has dots itself.
fn with_names(root: &Node, path: Vec<String>) -> Vec<String> {
    if path.first().is_none_or(|first| first != "api") {
        return path;
    }
    let known = |end: usize| {
        let name = path.get(1..end)?.join(".");
        root.find("api")?.node.find(&name).map(|_| (name, end))
    };
    // The longest: the others would be keys in it.
    match (2..=path.len()).rev().find_map(known) {
        Some((name, end)) => {
            let mut whole = vec!["api".to_owned(), name];
            whole.extend_from_slice(&path[end..]);
            whole
        }
        None => path,
    }
}

/// The segments of the way, and the value. A segment in double quotes may hold dots.
fn split(expression: &str) -> Option<(Vec<String>, &str)> {
    let mut path = Vec::new();
    let mut rest = expression.trim_start();
    loop {
        let (segment, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(['.', '='])?),
        };
        let segment = segment.trim();
        if segment.is_empty() {
            return None;
        }
        path.push(segment.to_owned());
        match tail.trim_start().split_at_checked(1)? {
            ("=", value) => return Some((path, value)),
            (".", tail) => rest = tail,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_a_way_and_a_value() {
        let is = |text: &str| split(text).map(|(path, value)| (path.join("|"), value.to_owned()));
        let some = |path: &str, value: &str| Some((path.to_owned(), value.to_owned()));
        assert_eq!(is("a=1"), some("a", "1"));
        assert_eq!(is("api.x.retry.max_attempts=5"), some("api|x|retry|max_attempts", "5"));
        assert_eq!(is("api.\"x.y\".headers=a=b"), some("api|x.y|headers", "a=b"));
        assert_eq!(is("a="), some("a", ""));
        for text in ["", "a", "=1", "a..b=1", "\"a=1", "\"a\"b=1", ".=1", "é"] {
            assert_eq!(is(text), None, "{text}");
        }
    }

    #[test]
    fn the_name_of_an_api_may_have_dots() {
        let mut root = Node::empty(Place::of("x"));
        let mut notes = Notes::default();
        apply(&mut root, "--set", "api.\"a.b\".method=GET", &mut notes);
        apply(&mut root, "--set", "api.a.b.method=POST", &mut notes);
        let apis = &root.find("api").unwrap().node;
        assert_eq!(apis.entries().len(), 1);
        let method = apis.find("a.b").unwrap().node.find("method").unwrap();
        assert_eq!(method.node.place.to_string(), "--set api.a.b.method");
        assert!(notes.problems.is_empty(), "{notes:?}");
    }

    #[test]
    fn what_is_no_expression_is_told_without_its_value() {
        for text in ["api.a.headers.Authorization:sesame", "a=[sesame", "sesame@x"] {
            let mut root = Node::empty(Place::of("x"));
            let mut notes = Notes::default();
            apply(&mut root, "--set", text, &mut notes);
            assert_eq!(notes.problems.len(), 1, "{text}");
            assert_eq!(root, Node::empty(Place::of("x")));
        }
    }
}
