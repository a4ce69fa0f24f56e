//! `narrows limits`: what is to be done with the fleet's table of limits, and where it stands.

use std::ffi::OsString;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use clap::builder::OsStringValueParser;

use super::flags;
use super::flags::Group;
use super::limit;
use super::source::Noted;
use super::source::Source;
use crate::limit::rules::Pattern;
use crate::limit::rules::Rule;
use crate::limit::rules::Scope;
use crate::store;

/// The subcommand.
pub(super) const NAME: &str = "limits";

const HOST: &str = "HOST";
const LIMIT: &str = "N";
const JSON: &str = "json";
const SHARED: &str = "shared";

/// What is asked of the fleet's table of limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where it stands.
    pub store: store::Settings,
    /// What is asked.
    pub action: Action,
}

/// What is done with the fleet's table of limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show it.
    List {
        /// As JSON instead of a table for people.
        json: bool,
    },
    /// Take the rule of these hosts away.
    Remove(Pattern),
    /// Set this rule.
    Set(Rule),
}

const EXAMPLES: &str = "Examples:
  narrows limits set api.example.com 5 --redis-addr redis:6379
  narrows limits set '*.example.com' 10 --shared
      All hosts below example.com together have 10.
  narrows limits set default 25
      Every host without another rule.

Exit codes: 0 when it is done, 1 if Redis failed or there was no such rule, 2 for bad settings.";

pub(super) fn command() -> Command {
    let host = || {
        let help = "api.example.com, api.example.com:8443, *.example.com, or default";
        positional(HOST).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let list = with_redis(Command::new("ls").about("Show the rules, and the table's version"))
        .arg(switch(JSON, "As JSON"));
    let set = with_redis(Command::new("set").about("Set the limit of a host"))
        .arg(host())
        .arg(positional(LIMIT).help("Connections at once; 0 is unlimited"))
        .arg(switch(SHARED, "All hosts of a *.SUFFIX together, not each of them"));
    let remove = with_redis(Command::new("rm").about("Take the limit of a host away")).arg(host());
    Command::new(NAME)
        .about("Show or change the limits that all instances on one Redis obey")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands([list, set, remove])
}

/// The settings that say where Redis is, as the proxy has them.
pub(super) fn with_redis(command: Command) -> Command {
    let is_place = |name: &str| name.starts_with("redis-") && name != flags::REDIS_FAILURE.name;
    let settings = flags::ALL.iter();
    let settings = settings.filter(|row| row.group == Group::Fleet && is_place(row.name));
    command.args_override_self(true).args(settings.map(|setting| setting.arg()))
}

fn positional(name: &'static str) -> Arg {
    let arg = Arg::new(name).value_name(name).value_parser(OsStringValueParser::new());
    arg.required(true).allow_negative_numbers(true)
}

/// What the subcommand within [`NAME`] asks for.
pub(super) fn read(
    source: &mut Source<'_>,
    name: &str,
    matches: &ArgMatches,
) -> Result<Limits, Noted> {
    let store = super::redis::store(source);
    let action = match name {
        "ls" => Ok(Action::List { json: matches.get_flag(JSON) }),
        "rm" => host(source, matches).map(Action::Remove),
        _ => set(source, matches),
    };
    let Some(store) = store? else {
        let missing = "must be given (or --redis-url): the fleet's limits stand in Redis";
        return Err(source.clash(&flags::REDIS_ADDR, missing));
    };
    Ok(Limits { store, action: action? })
}

fn set(source: &mut Source<'_>, matches: &ArgMatches) -> Result<Action, Noted> {
    let (host, limit) = (host(source, matches), word(source, matches, LIMIT, limit));
    let scope = if matches.get_flag(SHARED) { Scope::Shared } else { Scope::Each };
    let (pattern, limit) = (host?, limit?);
    let text = pattern.to_string();
    Rule::new(pattern, limit, scope).map(Action::Set).map_err(|why| {
        source.problems.push(format!("--{SHARED}: {text:?} is not allowed: {why}"));
        Noted
    })
}

fn host(source: &mut Source<'_>, matches: &ArgMatches) -> Result<Pattern, Noted> {
    word(source, matches, HOST, |text| {
        Pattern::of_table(text).map_err(|why| {
            format!("HOST, HOST:PORT, *.SUFFIX or default is what can have a limit ({why})")
        })
    })
}

fn word<T>(
    source: &mut Source<'_>,
    matches: &ArgMatches,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Noted> {
    let text = matches.get_one::<OsString>(name).map(|text| text.to_string_lossy());
    let text = text.unwrap_or_default();
    parse(&text).map_err(|allowed| {
        source.problems.push(format!("{name}: {text:?} is not allowed: {allowed}"));
        Noted
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::read;
    use super::*;
    use crate::store::Deployment;

    const REDIS: (&str, &str) = ("REDIS_ADDR", "redis:6379");

    fn action(words: &[&str]) -> Action {
        let words: Vec<&str> = ["limits"].iter().chain(words).copied().collect();
        let asked = read(&words, &[REDIS]).unwrap();
        let super::super::Command::Limits(limits) = asked else { panic!("{asked:?}") };
        let Deployment::Single { url } = &limits.store.deployment else { panic!("{limits:?}") };
        assert_eq!(url.0, "redis://redis:6379");
        limits.action
    }

    #[test]
    fn a_rule_is_set_shown_and_taken_away() {
        assert_eq!(action(&["ls"]), Action::List { json: false });
        assert_eq!(action(&["ls", "--json"]), Action::List { json: true });
        for (words, rule) in [
            (&["set", "A.test.", "5"][..], "a.test=5"),
            (&["set", "a.test:81", "0"], "a.test:81=0"),
            (&["set", "--shared", "*.test", "7"], "*.test=7/shared"),
        ] {
            assert_eq!(action(words), Action::Set(rule.parse().unwrap()), "{words:?}");
        }
        for text in ["*", "default"] {
            assert_eq!(action(&["rm", text]), Action::Remove(Pattern::Default));
            let rule = Rule::each(Pattern::Default, 3);
            assert_eq!(action(&["set", text, "3"]), Action::Set(rule));
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name_and_all_at_once() {
        let told = problems(&["limits", "set", "a b", "-1"], &[]);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("HOST: \"a b\" is not allowed: HOST, HOST:PORT"), "{told:?}");
        assert!(told[1].starts_with("N: \"-1\" is not allowed: a whole number"), "{told:?}");
        assert!(told[2].starts_with("--redis-addr (or NARROWS_REDIS_ADDR): must be"), "{told:?}");
        let told = problems(&["limits", "set", "a.test", "1", "--shared"], &[REDIS]);
        assert!(told[0].starts_with("--shared: \"a.test\" is not allowed: only"), "{told:?}");
        assert!(problems(&["limits"], &[REDIS])[0].contains("ls, set, rm"));
    }
}
