//! `narrows key`: API keys for files of keys.

use std::ffi::OsString;

use clap::Arg;
use clap::ArgMatches;
use clap::Command;
use clap::builder::OsStringValueParser;

use super::source::Noted;
use super::source::Source;
use crate::policy::access::keys;

/// The subcommand.
pub(super) const KEY: &str = "key";
/// Its own.
const NEW: &str = "new";
const HASH: &str = "hash";
const NAME: &str = "NAME";
/// What may stand behind a hash: the option, what it is in a line, and help.
const ATTRIBUTES: [(&str, &str, &str, &str); 4] = [
    (
        "scopes",
        "scopes",
        "A,B",
        "What it may be used for: read, write, a method, a path, both as in read:/v1, api:NAME",
    ),
    ("plan", "plan", "NAME", "The plan that its quota is found by"),
    (
        "not-before",
        "not_before",
        "DAY",
        "From when it holds, such as 2026-12-31 or 2026-12-31T23:59:59Z",
    ),
    ("expires", "expires", "DAY", "Until when"),
];

/// A line of a file of keys that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine {
    /// Whose key it is.
    pub name: String,
    /// What stands behind the hash, such as `plan=paid`.
    pub attributes: Vec<String>,
    /// Whether there is a key already, to be read from standard input.
    pub is_there: bool,
}

pub(super) fn command() -> Command {
    let name = || {
        Arg::new(NAME)
            .required(true)
            .value_parser(OsStringValueParser::new())
            .help("Whose key it is")
    };
    let attributes = || {
        ATTRIBUTES.map(|(option, _, value, help)| {
            Arg::new(option)
                .long(option)
                .value_name(value)
                .value_parser(OsStringValueParser::new())
                .help(help)
        })
    };
    let new = Command::new(NEW)
        .about("Make a key: its line goes to standard output, the key itself to standard error")
        .arg(name())
        .args(attributes());
    let hash = Command::new(HASH)
        .about("Print the line of a key that there is, which is read from standard input")
        .arg(name())
        .args(attributes());
    Command::new(KEY)
        .about("Make API keys, and lines for the files of api.NAME.keys.file")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([new, hash])
}

/// What [`KEY`] asks for.
pub(super) fn read(
    source: &mut Source<'_>,
    word: &str,
    matches: &ArgMatches,
) -> Result<KeyLine, Noted> {
    let text = |id: &str| {
        let value = matches.get_one::<OsString>(id);
        value.map(|value| value.to_string_lossy().into_owned())
    };
    let name = text(NAME).unwrap_or_default();
    let attributes = ATTRIBUTES
        .iter()
        .filter_map(|(option, key, ..)| text(option).map(|value| format!("{key}={value}")))
        .collect::<Vec<_>>();
    // Whether the line would be read, by a key that anybody may know.
    match keys::line(&name, "0123456789abcdef", &attributes) {
        Ok(_line) => Ok(KeyLine { name, attributes, is_there: word == HASH }),
        Err(why) => {
            source.problems.push(format!("{KEY}: {name:?} is not allowed: {why}"));
            Err(Noted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Command as Asked;
    use super::super::tests::problems;
    use super::super::tests::read;

    #[test]
    fn a_key_is_asked_for_with_what_it_may_do() {
        let words = [
            "key",
            "new",
            "alice",
            "--scopes",
            "read,POST:/v1",
            "--plan",
            "paid",
            "--expires",
            "2027-01-01",
        ];
        let Asked::Key(key) = read(&words, &[]).unwrap() else { panic!() };
        assert_eq!((&*key.name, key.is_there), ("alice", false));
        assert_eq!(key.attributes, ["scopes=read,POST:/v1", "plan=paid", "expires=2027-01-01"]);
        let Asked::Key(key) = read(&["key", "hash", "bob"], &[]).unwrap() else { panic!() };
        assert!(key.is_there && key.attributes.is_empty());
    }

    #[test]
    fn what_no_file_could_hold_is_a_problem() {
        for words in [
            &["key", "new", "a b"][..],
            &["key", "new", "a", "--scopes", "all"],
            &["key", "new", "a", "--plan", "a b"],
        ] {
            let told = problems(words, &[]);
            assert!(told[0].contains("is not allowed: "), "{told:?}");
        }
    }
}
