//! Architecture invariant: a module uses only the floors listed before it in `src/lib.rs`.
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn no_module_uses_its_own_floor_or_a_higher_one() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    let floors: Vec<Vec<&str>> = lib
        .split("\n\n")
        .map(|floor| floor.lines().filter_map(module).collect())
        .filter(|floor: &Vec<&str>| !floor.is_empty())
        .collect();
    assert!(floors.len() > 3, "lib.rs lists the floors");

    let mut wrong = Vec::new();
    for (level, floor) in floors.iter().enumerate() {
        for here in floor {
            let barred = floors[level..].iter().flatten().filter(|other| other != &here);
            let barred: Vec<String> = barred.map(|other| format!("crate::{other}")).collect();
            for file in rust_files(&src, here) {
                let text = fs::read_to_string(&file).unwrap();
                for (number, line) in text.lines().enumerate() {
                    let comment = line.trim_start().starts_with("//");
                    if !comment && barred.iter().any(|path| line.contains(path)) {
                        wrong.push(format!("{}:{}: {line}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "uses of the same or a higher floor:\n{}", wrong.join("\n"));
}

fn module(line: &str) -> Option<&str> {
    line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
}

fn rust_files(src: &Path, floor: &str) -> Vec<PathBuf> {
    let mut found = Vec::from([src.join(format!("{floor}.rs"))]);
    let mut folders = Vec::from([src.join(floor)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found.retain(|file| file.exists());
    found
}
