//! Looking at settings without obeying them: `narrows check` and `narrows config`.
//!
//! What they say comes from the tables that settings are read by. No port is bound and nothing is
//! asked of anybody.

mod example;
mod schema;
mod show;

use std::ffi::OsString;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use clap::builder::OsStringValueParser;

use super::Config;
use super::Problems;
use super::flags;
use super::source::Source;

/// The subcommands.
pub(super) const CHECK: &str = "check";
pub(super) const CONFIG: &str = "config";
const SCHEMA: &str = "schema";
const EXAMPLE: &str = "example";

pub(super) fn commands() -> [Command; 2] {
    let file = Arg::new(flags::CONFIG.name)
        .value_name("FILE")
        .value_parser(OsStringValueParser::new())
        .help("The config file; without it the one of --config or NARROWS_CONFIG");
    let check = Command::new(CHECK)
        .about("Say whether a config file is good, or all that is wrong with it: exit code 0 or 2")
        .arg(file)
        .arg(flags::SET.arg())
        .args_override_self(true);
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let config = Command::new(CONFIG)
        .about("Show the settings that hold and who said so; secrets are not shown")
        .args(flags::ALL.iter().map(|setting| setting.arg()))
        .arg(switch(flags::JSON, "As JSON, for programs"))
        .arg(switch(SCHEMA, "Print the JSON schema of the config file instead, for editors"))
        .arg(switch(
            EXAMPLE,
            "Print a config file with every key, its meaning and its default instead",
        ))
        .args_override_self(true);
    [check, config]
}

/// What there is to say to one of the subcommands.
pub(super) fn run(
    name: &str,
    inner: &ArgMatches,
    outer: &ArgMatches,
    environment: Vec<(OsString, OsString)>,
) -> Result<String, Problems> {
    if name == CONFIG && inner.get_flag(SCHEMA) {
        return Ok(schema::text());
    }
    if name == CONFIG && inner.get_flag(EXAMPLE) {
        return Ok(example::text());
    }
    let mut source = Source::new(vec![inner, outer], environment);
    let config = super::config(&mut source);
    if name == CHECK && source.given(&flags::CONFIG).is_ok_and(|given| given.is_none()) {
        source.problems.push("which file? give it as FILE, --config or NARROWS_CONFIG".to_owned());
    }
    let config = super::finish(config, std::mem::take(&mut source.problems))?;
    Ok(match name {
        CHECK => check(&mut source, &config),
        _ => show::text(&mut source, &config, inner.get_flag(flags::JSON)),
    })
}

fn check(source: &mut Source<'_>, config: &Config) -> String {
    let file =
        source.given(&flags::CONFIG).ok().flatten().map_or_else(String::new, |file| file.text);
    let settings = flags::ALL.iter().filter(|setting| source.stands_in_file(setting)).count();
    let names: Vec<&str> = config.apis.iter().map(|api| &*api.name).collect();
    let apis = match &*names {
        [] => "no API".to_owned(),
        [name] => format!("1 API ({name})"),
        names => format!("{} APIs ({})", names.len(), names.join(", ")),
    };
    let settings =
        if settings == 1 { "1 setting".to_owned() } else { format!("{settings} settings") };
    let warnings = source.warnings.iter().map(|warning| format!("\nwarning: {warning}"));
    format!("{file} is good: {settings}, {apis}{}", warnings.collect::<String>())
}

#[cfg(test)]
mod tests;
