//! `narrows bench limiter`: what is to be measured, and where.
//!
//! Unlike all others it takes its Redis from the command line alone: a variable that was set for
//! the proxy must not turn its Redis into the subject of an experiment.

use std::ffi::OsString;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;

use super::flags;
use super::limits;
use super::redis;
use super::source::Noted;
use super::source::Source;
use crate::bench;

/// The subcommand, and what it has within.
pub(super) const NAME: &str = "bench";
const LIMITER: &str = "limiter";

const QUICK: &str = "quick";

/// The settings that name a Redis.
const PLACES: [&flags::Setting; 4] =
    [&flags::REDIS_ADDR, &flags::REDIS_URL, &flags::REDIS_SENTINELS, &flags::REDIS_CLUSTER];

/// What is measured.
#[derive(Clone, Debug)]
pub struct Bench {
    /// What, and where.
    pub settings: bench::Settings,
    /// Whether the report is for programs.
    pub json: bool,
}

const EXAMPLES: &str = "Examples:
  narrows bench limiter --quick
      Starts a private redis-server, asks it for a few seconds, and ends it.
  narrows bench limiter --redis-addr redis:6379
      That Redis, under keys of its own, which it removes; others who use it will notice.

The Redis must be named by a flag: variables such as NARROWS_REDIS_ADDR do not name one here.

Exit codes: 0 when all was measured, whatever targets were met; 1 if not, 2 for bad settings.";

pub(super) fn command() -> Command {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let about = "Measure what the limiter costs, beside bare INCR and DECR";
    let limiter = limits::with_redis(Command::new(LIMITER).about(about))
        .after_help(EXAMPLES)
        .arg(switch(QUICK, "A coarse result within seconds"))
        .arg(switch(flags::JSON, "As JSON, for programs"));
    Command::new(NAME)
        .about("Measure what narrows costs on this machine")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .subcommand(limiter)
}

/// What the subcommand within [`NAME`] asks for.
pub(super) fn read(
    matches: &ArgMatches,
    outer: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Bench, Vec<String>> {
    let matches = matches.subcommand_matches(LIMITER).unwrap_or(matches);
    let names_a_redis =
        |name: &OsString| PLACES.iter().any(|row| row.variables.iter().any(|own| name == own));
    let environment = environment.into_iter().filter(|(name, _)| !names_a_redis(name));
    let mut source = Source::new(vec![matches, outer], environment);
    let store = redis::store(&mut source);
    let (is_quick, json) = (matches.get_flag(QUICK), matches.get_flag(flags::JSON));
    match store {
        Ok(store) if source.problems.is_empty() => {
            Ok(Bench { settings: bench::Settings { store, is_quick }, json })
        }
        Ok(_) | Err(Noted) => Err(source.problems),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::read;
    use super::*;
    use crate::store::Deployment;

    fn bench(words: &[&str], environment: &[(&str, &str)]) -> Bench {
        let words: Vec<&str> = ["bench", "limiter"].iter().chain(words).copied().collect();
        let asked = read(&words, environment).unwrap();
        let super::super::Command::Bench(bench) = asked else { panic!("{asked:?}") };
        *bench
    }

    #[test]
    fn only_a_flag_names_the_redis_that_is_measured() {
        let variables = [
            ("NARROWS_REDIS_ADDR", "production:6379"),
            ("REDIS_ADDR", "production:6379"),
            ("NARROWS_REDIS_URL", "redis://production"),
            ("NARROWS_REDIS_SENTINELS", "production"),
            ("NARROWS_REDIS_CLUSTER", "production"),
        ];
        assert!(bench(&[], &variables).settings.store.is_none());
        let named = bench(&["--redis-addr", "redis:6379"], &[("REDIS_PASSWORD", "sesame")]);
        let Deployment::Single { url } = named.settings.store.unwrap().deployment else { panic!() };
        assert_eq!(url.0, "redis://:sesame@redis:6379");
    }

    #[test]
    fn it_is_thorough_and_for_people_unless_told_otherwise() {
        let plain = bench(&[], &[]);
        assert!(!plain.settings.is_quick && !plain.json);
        let other = bench(&["--quick", "--json"], &[]);
        assert!(other.settings.is_quick && other.json);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        assert!(problems(&["bench"], &[])[0].contains("limiter"));
        let told = problems(&["bench", "limiter", "--redis-addr", "nowhere:0x"], &[]);
        assert!(told[0].starts_with("--redis-addr"), "{told:?}");
    }
}
