//! The settings that hold, each with who said so; as YAML that could be a config file, or as JSON.

use std::fmt::Write;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::config::Config;
use crate::config::file::keys;
use crate::config::file::keys::Key;
use crate::config::file::keys::Kind;
use crate::config::file::keys::Section;
use crate::config::file::mask;
use crate::config::file::settings;
use crate::config::file::tree;
use crate::config::file::tree::Entry;
use crate::config::file::tree::Node;
use crate::config::file::tree::Place;
use crate::config::file::tree::Scalar;
use crate::config::flags;
use crate::config::flags::Setting;
use crate::config::flags::Unset;
use crate::config::flags::Values;
use crate::config::policies;
use crate::config::source::Origin;
use crate::config::source::Source;
use crate::policy::api::DEFAULT;
use crate::policy::api::Settings;

const BY_DEFAULT: &str = "default";

/// A value and who said so, or a map of them.
#[derive(Debug)]
enum Shown {
    Value(Value, String),
    Map(Vec<(String, Self)>),
}

/// What is shown of all settings.
pub(super) fn text(source: &mut Source<'_>, config: &Config, as_json: bool) -> String {
    let mut all = Vec::new();
    for setting in flags::ALL.iter().filter(|setting| settings::may_stand(setting)) {
        // Those of the default API are shown there.
        if !policies::is_of_default(setting) {
            all.push((settings::key_of(setting), one(source, setting)));
        }
    }
    let entries: Vec<Entry> = source
        .tree
        .as_ref()
        .and_then(|tree| tree.find("api"))
        .map_or_else(Vec::new, |apis| apis.node.entries().to_vec());
    let apis = config.apis.iter().zip(&entries);
    let apis = apis.map(|(settings, entry)| (entry.key.clone(), api(entry, settings)));
    all.push(("api".to_owned(), Shown::Map(apis.collect())));
    let all = Shown::Map(all);
    if as_json {
        return format!("{:#}", in_json(&all));
    }
    let mut text = "# The settings that hold; behind each stands who said so.\n".to_owned();
    in_yaml(&mut text, &all, 0);
    text
}

fn one(source: &mut Source<'_>, setting: &'static Setting) -> Shown {
    let Ok(Some(given)) = source.given(setting) else {
        let origin = match setting.unset {
            Unset::Said(words) => format!("{BY_DEFAULT}: {words}"),
            Unset::Nothing | Unset::Text(_) => BY_DEFAULT.to_owned(),
        };
        return Shown::Value(Value::Null, origin);
    };
    let shown = |text: &str| {
        if setting.secret { json!(mask::SECRET) } else { plain(&mask::url(text)) }
    };
    let value = match setting.values {
        Values::One => shown(&given.text),
        Values::Many | Values::Files | Values::Parts => {
            let texts = given.text.split(setting.values.separator()).map(str::trim);
            texts.filter(|text| !text.is_empty()).map(shown).collect()
        }
    };
    let origin = match (given.origin, given.place(), given.variable()) {
        (Origin::Default, ..) => BY_DEFAULT.to_owned(),
        (_, Some(place), _) => place.to_string(),
        (_, None, Some(variable)) => variable.to_owned(),
        (_, None, None) => format!("--{}", setting.name),
    };
    Shown::Value(value, origin)
}

fn api(entry: &Entry, settings: &Settings) -> Shown {
    let mut all = Vec::new();
    for key in Section::Api.keys() {
        let given = given(&entry.node, key);
        let shown = match (key.kind, given) {
            (Kind::Part(section), given) => part(section, given, settings),
            (_, Some(given)) => value(key, given),
            // It has what it is given.
            (_, None) if entry.key == DEFAULT => continue,
            (_, None) => unsaid(key, &entry.node, settings),
        };
        all.push((key.name.to_owned(), shown));
    }
    Shown::Map(all)
}

fn given<'t>(node: &'t Node, key: &Key) -> Option<&'t Node> {
    let node = &node.find(key.name)?.node;
    (node.value != tree::Value::Nothing).then_some(node)
}

fn part(section: Section, given: Option<&Node>, settings: &Settings) -> Shown {
    let is_on = match section {
        Section::Breaker => settings.breaker.is_some(),
        Section::Retry => settings.retry.is_some(),
        Section::CoolDown => settings.cooldown.is_some(),
        Section::Keys => settings.keys.is_some(),
        Section::Jwt => settings.jwt.is_some(),
        Section::Quota => settings.quota.is_some(),
        Section::Api | Section::Parent | Section::Plan => true,
    };
    let origin = given.map_or_else(|| BY_DEFAULT.to_owned(), |node| node.place.to_string());
    if !is_on {
        return Shown::Value(json!(false), origin);
    }
    let keys = section.keys().map(|key| {
        let shown = match given.and_then(|node| self::given(node, key)) {
            Some(node) => value(key, node),
            None => Shown::Value(plain(key.unset), BY_DEFAULT.to_owned()),
        };
        (key.name.to_owned(), shown)
    });
    Shown::Map(keys.collect())
}

/// What holds for a key that is not given.
fn unsaid(key: &Key, api: &Node, settings: &Settings) -> Shown {
    let is = |other: &'static Key| std::ptr::eq(key, other);
    if is(&keys::HOSTS) {
        // With the port: without one it would be all of them.
        let target = settings.target.iter().filter(|_| !settings.hosts.is_empty());
        let hosts = target.map(|target| json!(target.authority.to_string())).collect();
        return Shown::Value(hosts, format!("{BY_DEFAULT}, of target_url"));
    }
    if is(&keys::PROXIES)
        && let Some(parents) = &settings.parents
    {
        let names = parents.list.iter().map(|parent| json!(&*parent.name)).collect();
        return Shown::Value(names, flags::PROXY_URLS.variables[1].to_owned());
    }
    if is(&keys::REQUEST_TIMEOUT)
        && let Some(breaker) = given(api, &keys::CIRCUIT_BREAKER)
        && let Some(node) = given(breaker, &keys::BREAKER_REQUEST_TIMEOUT)
    {
        return value(key, node);
    }
    Shown::Value(plain(key.unset), BY_DEFAULT.to_owned())
}

fn value(key: &Key, node: &Node) -> Shown {
    let place = |place: &Place| place.to_string();
    match &node.value {
        tree::Value::Map(entries) if let Kind::Named(section, _) = key.kind => {
            let shown = entries.iter().map(|entry| {
                let keys = section.keys().filter_map(|key| {
                    let node = given(&entry.node, key)?;
                    Some((key.name.to_owned(), value(key, node)))
                });
                (entry.key.clone(), Shown::Map(keys.collect()))
            });
            Shown::Map(shown.collect())
        }
        tree::Value::Map(entries) => {
            let shown = entries.iter().map(|entry| {
                let text = match &entry.node.value {
                    tree::Value::Scalar(scalar) if key.secret => {
                        json!(mask::field(&entry.key, &scalar.text, scalar.referred))
                    }
                    tree::Value::Scalar(scalar) => told(scalar),
                    tree::Value::Nothing | tree::Value::List(_) | tree::Value::Map(_) => {
                        Value::Null
                    }
                };
                (entry.key.clone(), Shown::Value(text, place(&entry.node.place)))
            });
            Shown::Map(shown.collect())
        }
        tree::Value::List(nodes) => {
            let list = nodes.iter().map(|node| match &node.value {
                tree::Value::Scalar(_) if hides(key) => json!(mask::SECRET),
                tree::Value::Scalar(scalar) => told(scalar),
                // A parent, of which the URL says the most.
                tree::Value::Map(entries) => {
                    let pair = |entry: &Entry| match &entry.node.value {
                        tree::Value::Scalar(scalar) => Some((entry.key.clone(), told(scalar))),
                        tree::Value::Nothing | tree::Value::List(_) | tree::Value::Map(_) => None,
                    };
                    Value::Object(entries.iter().filter_map(pair).collect())
                }
                tree::Value::Nothing | tree::Value::List(_) => Value::Null,
            });
            Shown::Value(list.collect(), place(&node.place))
        }
        tree::Value::Scalar(_) if hides(key) => {
            Shown::Value(json!(mask::SECRET), place(&node.place))
        }
        tree::Value::Scalar(scalar) => Shown::Value(told(scalar), place(&node.place)),
        tree::Value::Nothing => Shown::Value(Value::Null, place(&node.place)),
    }
}

/// Whether nothing of a value may be told; of a parent's URL all but its userinfo may.
fn hides(key: &Key) -> bool {
    key.secret && key.section != Section::Parent && !std::ptr::eq(key, &raw const keys::PROXIES)
}

fn told(scalar: &Scalar) -> Value {
    match scalar.kind {
        tree::Kind::Bool | tree::Kind::Number => plain(&scalar.text),
        tree::Kind::Text => json!(mask::url(&scalar.text)),
    }
}

/// What a default of the table is: YAML, of which it uses the plainest.
pub(super) fn plain(text: &str) -> Value {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'))
        && !inner.contains(['[', ':'])
    {
        return inner
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(plain)
            .collect();
    }
    let Some(scalar) = Scalar::plain(text) else { return Value::Null };
    match scalar.kind {
        tree::Kind::Bool => json!(text == "true"),
        tree::Kind::Number => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        tree::Kind::Text if text == "{}" => json!({}),
        tree::Kind::Text => json!(text),
    }
}

fn in_json(shown: &Shown) -> Value {
    match shown {
        Shown::Value(value, origin) => json!({ "value": value, "from": origin }),
        Shown::Map(all) => {
            let pairs = all.iter().map(|(key, shown)| (key.clone(), in_json(shown)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
    }
}

fn in_yaml(text: &mut String, shown: &Shown, depth: usize) {
    let Shown::Map(all) = shown else { return };
    for (key, shown) in all {
        let indent = "  ".repeat(depth);
        let key = quoted(key);
        let _written = match shown {
            Shown::Map(inner) if inner.is_empty() => writeln!(text, "{indent}{key}: {{}}"),
            Shown::Map(_) => writeln!(text, "{indent}{key}:"),
            Shown::Value(Value::Null, origin) => writeln!(text, "{indent}{key}:  # {origin}"),
            Shown::Value(value, origin) => {
                writeln!(text, "{indent}{key}: {}  # {origin}", flow(value))
            }
        };
        in_yaml(text, shown, depth + 1);
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{}: {}", quoted(key), flow(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Text as YAML has it: bare where nothing else could be read in it, else in quotes.
pub(super) fn quoted(text: &str) -> String {
    let is_bare = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:|".contains(&byte))
        && !text.ends_with(':')
        && !text.contains(": ");
    let is_text = Scalar::plain(text).is_some_and(|scalar| scalar.kind == tree::Kind::Text);
    let is_number = Scalar::plain(text).is_some_and(|scalar| scalar.kind == tree::Kind::Number);
    if is_bare && (is_text || is_number) { text.to_owned() } else { json!(text).to_string() }
}
