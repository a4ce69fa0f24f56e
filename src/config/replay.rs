//! `narrows replay`: which logs, and by which settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use clap::builder::OsStringValueParser;

use super::flags;
use super::flags::Group;
use super::source::Noted;
use super::source::Source;
use crate::replay;

/// The subcommand.
pub(super) const NAME: &str = "replay";

const LOG: &str = "LOG";

/// What is replayed.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What, and by which settings.
    pub settings: replay::Settings,
    /// Whether the report is for programs.
    pub json: bool,
}

const EXAMPLES: &str = "Examples:
  narrows --config narrows.yaml --decision-log decided.log
      Writes down what each rule decides of each request.
  narrows replay decided.log --config narrows.yaml
      Decides it again: the same, as far as all that was decided by is in the log.
  narrows replay decided.log --config narrows.yaml --set api.shop.circuit_breaker.failure_threshold=2
      Says whom a stricter breaker would have stopped.
  narrows replay one.log other.log --config new.yaml --json
      Of a fleet, all of its logs together.

No port is opened and nobody is asked: the answers of upstreams are those in the log.

Exit codes: 0 when it was replayed, whatever was found; 1 if a log cannot be read or none of its lines is one of a decision log;
2 for bad settings.";

pub(super) fn command() -> Command {
    let policies = flags::ALL.iter().filter(|setting| setting.group == Group::Policies);
    Command::new(NAME)
        .about("Say what other settings would have decided of the requests in a decision log")
        .after_help(EXAMPLES)
        .arg(
            Arg::new(LOG)
                .value_name(LOG)
                .required(true)
                .action(ArgAction::Append)
                .value_parser(OsStringValueParser::new())
                .help("A file that --decision-log wrote; of a fleet, all of them"),
        )
        .args([&flags::CONFIG, &flags::SET].map(flags::Setting::arg))
        .args(policies.map(|setting| setting.arg()))
        .arg(
            Arg::new(flags::JSON)
                .long(flags::JSON)
                .action(ArgAction::SetTrue)
                .help("As JSON, for programs"),
        )
        .args_override_self(true)
}

/// What the subcommand asks for.
pub(super) fn read(
    matches: &ArgMatches,
    outer: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Replay, Vec<String>> {
    let mut source = Source::new(vec![matches, outer], environment);
    let config = super::config(&mut source);
    match config {
        Ok(config) if source.problems.is_empty() => {
            let logs = matches.get_many::<OsString>(LOG).unwrap_or_default();
            let settings = replay::Settings {
                logs: logs.map(PathBuf::from).collect(),
                apis: config.apis,
                connects: config.proxy.connect_breaker,
            };
            Ok(Replay { settings, json: matches.get_flag(flags::JSON) })
        }
        Ok(_) | Err(Noted) => Err(source.problems),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::read;
    use super::*;

    #[test]
    fn it_takes_logs_and_the_settings_of_policies() {
        let words = ["replay", "a", "b", "--breaker-failures=2", "--connect-breaker-failures=3"];
        let asked = read(&words, &[]).unwrap();
        let super::super::Command::Replay(replay) = asked else { panic!("{asked:?}") };
        assert_eq!(replay.settings.logs, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(replay.settings.apis[0].breaker.as_ref().unwrap().failure_threshold, 2);
        assert_eq!(replay.settings.connects.unwrap().failure_threshold, 3);
        assert!(!replay.json);
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(problems(&["replay"], &[])[0].contains("LOG"));
        let told = problems(&["replay", "a", "--breaker-failures=x"], &[]);
        assert!(told[0].contains("--breaker-failures"), "{told:?}");
    }
}
