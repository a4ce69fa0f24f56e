//! The tables in `docs/standards.md` and `docs/defects.md`: what they say shows a thing is a test that
//! is there.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

#[test]
fn each_test_that_the_tables_of_the_documents_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = HashSet::new();
    for place in ["src", "tests", "cmd"] {
        note_tests(&root.join(place), &mut tests);
    }
    let mut named = 0;
    for file in fs::read_dir(root.join("docs")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !matches!(&*name, "standards.md" | "defects.md") {
            continue;
        }
        for row in fs::read_to_string(&path).unwrap().lines().filter(|line| line.starts_with('|')) {
            let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
            // Words in backquotes that look like a sentence are names of tests.
            let quoted = last.split('`').skip(1).step_by(2);
            let words =
                quoted.map(|word| word.rsplit("::").next().unwrap_or(word)).filter(|word| {
                    word.matches('_').count() > 2
                        && word
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                });
            for test in words {
                assert!(tests.contains(test), "{name}: there is no test {test}");
                named += 1;
            }
        }
    }
    assert!(named > 90, "only {named} tests are named: is the table read?");
}

fn note_tests(place: &Path, tests: &mut HashSet<String>) {
    for entry in fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            note_tests(&path, tests);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names =
                text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, rest)| rest);
            tests.extend(names.filter_map(|rest| rest.split('(').next()).map(str::to_owned));
        }
    }
}
