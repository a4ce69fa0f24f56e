//! `narrows.example.yaml`: every key, its meaning and its default, made of the tables that files are
//! read by. What is there to be tried stands as it is, all else is commented out.

use std::fmt::Write;

use crate::config::file::keys::Key;
use crate::config::file::keys::Kind;
use crate::config::file::keys::Section;
use crate::config::file::settings;
use crate::config::flags;
use crate::config::flags::Group;
use crate::config::flags::Unset;
use crate::config::flags::Values;

/// What stands before all.
const HEAD: &str = "\
# Config file of narrows: narrows --config narrows.example.yaml
#
# Every key there is stands here. One behind a # without a space shows what holds if it is not given.
# Flags beat variables, variables beat this file; --set KEY=VALUE changes one key of it. Anywhere in a
# text ${NAME} is the variable NAME, ${NAME:-TEXT} is TEXT if that is not set, and $$ is a dollar.
# narrows check FILE says what is wrong with a file, narrows config what holds in the end.
";

/// Limits and APIs to be tried.
const MIDDLE: &str = "\
# ---- Limits: another way to write max_connections and host_limit

limits:
  default: 20
  hosts:
    api.example.com: 5
    '*.example.net': 10/shared

# ---- APIs

api:
  # All forward traffic that no other API claims; it has just the policies that it is given.
  default:
    retry:
      max_attempts: 2
      initial_delay: 200ms

  # curl http://127.0.0.1:8080/api/hyperliquid/info -d '{\"type\": \"meta\"}'
  hyperliquid:
    target_url: https://api.hyperliquid.xyz
    methods: [POST]
    requires_body: true
    headers:
      Content-Type: application/json
      # The client never sees the key.
      X-Api-Key: ${HYPERLIQUID_KEY:-none}
    circuit_breaker: {failure_threshold: 5, reset_timeout: 30, success_threshold: 2}
    retry: {max_attempts: 3, initial_delay: 1, max_delay: 10, backoff_factor: 2}

  # Every key of an API.
";

pub(super) fn text() -> String {
    written(true)
}

/// With the keys that hold by default commented out, or as if they were given.
pub(super) fn written(commented: bool) -> String {
    let mark = if commented { "#" } else { "" };
    let mut text = HEAD.to_owned();
    for group in Group::ALL {
        let _written = write!(text, "\n# ---- {}\n", group.title());
        for setting in flags::ALL.iter().filter(|setting| setting.group == group) {
            let key = settings::key_of(setting);
            if !settings::may_stand(setting) {
                continue;
            }
            text.push('\n');
            comment(&mut text, "", setting.help());
            let value = match (setting.unset, setting.values) {
                (Unset::Text(value), Values::One) => format!(" {}", super::show::quoted(value)),
                (Unset::Text(value), _) => format!(" [{}]", value.replace(',', ", ")),
                (Unset::Said(words), _) => format!("  # {words}"),
                (Unset::Nothing, _) => String::new(),
            };
            // What limits say below may not be said twice.
            let is_below =
                [flags::MAX_CONNECTIONS.name, flags::HOST_LIMIT.name].contains(&setting.name);
            let mark = if is_below { "#" } else { mark };
            let _written = writeln!(text, "{mark}{key}:{value}");
        }
    }
    text.push('\n');
    text.push_str(MIDDLE);
    let _written = writeln!(text, "  {mark}every_key:");
    keys(&mut text, Section::Api, &format!("  {mark}  "));
    text
}

fn keys(text: &mut String, section: Section, indent: &str) {
    for key in section.keys() {
        comment(text, indent, key.help);
        match key.kind {
            Kind::Part(part) => {
                let _written = writeln!(text, "{indent}{}:", key.name);
                // A part that is off has keys of its own all the same.
                let switch = if key.unset == "false" { "  # false" } else { "" };
                if !switch.is_empty() {
                    text.pop();
                    let _written = writeln!(text, "{switch}");
                }
                keys(text, part, &format!("{indent}  "));
            }
            Kind::Parts(part, _) | Kind::Named(part, _) => {
                let _written = writeln!(text, "{indent}{}: {}", key.name, key.unset);
                for inner in part.keys() {
                    comment(text, indent, &format!("- {}: {}", inner.name, inner.help));
                }
            }
            Kind::Switch
            | Kind::Whole(..)
            | Kind::Decimal(..)
            | Kind::Time(..)
            | Kind::Bytes(..)
            | Kind::Word(_)
            | Kind::Text(_)
            | Kind::Texts(_)
            | Kind::Numbers(..)
            | Kind::Pairs(_)
            | Kind::SwitchOrTexts(_)
            | Kind::SwitchOrBytes(..) => value(text, key, indent),
        }
    }
}

fn value(text: &mut String, key: &Key, indent: &str) {
    let space = if key.unset.is_empty() { "" } else { " " };
    let _written = writeln!(text, "{indent}{}:{space}{}", key.name, key.unset);
}

/// Words, in lines that are not too long.
fn comment(text: &mut String, indent: &str, words: &str) {
    const WIDTH: usize = 98;
    let mut line = format!("{indent}#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _written = writeln!(text, "{line}");
            line = format!("{indent}#");
        }
        let _written = write!(line, " {word}");
    }
    let _written = writeln!(text, "{line}");
}
