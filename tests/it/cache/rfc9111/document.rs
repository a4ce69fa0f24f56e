//! `docs/rfc9111.md` has each row, and none that is not there.

use std::collections::HashSet;
use std::path::Path;

use super::all;

#[test]
fn each_row_stands_in_the_document_under_its_section_and_no_other() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rfc9111.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut named = HashSet::new();
    for line in text.lines().filter(|line| line.starts_with("| RFC")) {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [section, _, quoted] = cells[..] else { panic!("not three cells: {line}") };
        // Names stand in backquotes.
        for name in quoted.split('`').skip(1).step_by(2) {
            assert!(named.insert((section.to_owned(), name.to_owned())), "twice: {name}");
        }
    }
    let mut rows = HashSet::new();
    let cases = all();
    for case in &cases {
        let row = (case.section.to_owned(), case.name.to_owned());
        assert!(rows.insert(row), "two rows are called so: {} {}", case.section, case.name);
    }
    let missing: Vec<_> = rows.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&rows).collect();
    assert!(missing.is_empty(), "not in the document: {missing:#?}");
    assert!(unknown.is_empty(), "no rows: {unknown:#?}");
    assert!(cases.len() >= 150, "only {} rows", cases.len());
}
