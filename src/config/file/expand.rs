//! References to variables: `${NAME}` and `${NAME:-otherwise}` in any text of the file, `$$` for a
//! dollar.
//!
//! A variable that is empty is one that is not set, as everywhere. What came from one is never told.

use super::reader::Notes;
use super::tree::Node;

/// Puts the variables' values where they are referred to; `variable` finds one.
pub(super) fn expand(
    root: &mut Node,
    variable: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes,
) {
    root.retain_scalars(&mut |place, scalar| {
        if !scalar.text.contains('$') {
            return true;
        }
        match expanded(&scalar.text, variable) {
            Ok((text, referred)) => {
                scalar.text = text;
                scalar.referred = referred;
                true
            }
            Err(problem) => {
                notes.problems.push(format!("{place}: {problem}"));
                // No second problem for the same place.
                false
            }
        }
    });
}

/// The text, and whether a variable is part of it.
fn expanded(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(text.len());
    let mut referred = false;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let Some(inner) = after.strip_prefix('{') else {
            out.push('$');
            rest = after;
            continue;
        };
        let Some((inner, tail)) = inner.split_once('}') else {
            return Err("a reference that does not end: ${NAME}, or $$ for a dollar".to_owned());
        };
        let (name, otherwise) = match inner.split_once(":-") {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(format!(
                "{name:?} is no name of a variable: ${{NAME}}, or $$ for a dollar"
            ));
        }
        match (variable(name).filter(|value| !value.is_empty()), otherwise) {
            (Some(value), _) => {
                referred = true;
                out.push_str(&value);
            }
            (None, Some(otherwise)) => out.push_str(otherwise),
            (None, None) => {
                return Err(format!(
                    "the variable {name} is not set (${{{name}:-TEXT}} is TEXT then)"
                ));
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok((out, referred))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, bool), String> {
        let variables = [("A", "sesame"), ("B", "$${A}"), ("EMPTY", "")];
        expanded(text, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn references_become_what_they_refer_to() {
        for (text, is, referred) in [
            ("Bearer ${A}!", "Bearer sesame!", true),
            ("${NONE:-a}${EMPTY:-b}${NONE:-}", "ab", false),
            ("${A:-x}", "sesame", true),
            ("$$ $${A} $ $x a$", "$ ${A} $ $x a$", false),
            ("${B}", "$${A}", true),
        ] {
            assert_eq!(read(text), Ok((is.to_owned(), referred)), "{text}");
        }
    }

    #[test]
    fn what_refers_to_nothing_is_told() {
        for (text, problem) in [
            ("${NONE}", "the variable NONE is not set"),
            ("${EMPTY}", "the variable EMPTY is not set"),
            ("${A", "does not end"),
            ("${}", "is no name of a variable"),
            ("${1A}", "is no name of a variable"),
            ("${A-x}", "is no name of a variable"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(problem) && !told.contains("sesame"), "{text}: {told}");
        }
    }
}
