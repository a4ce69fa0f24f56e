//! APIs and their policies, out of the file and the settings of the default API.
//!
//! A setting of the default API is put into the tree of the file, where the key stands that says the
//! same, so that one reader reads both.

use std::sync::Arc;

use super::file;
use super::file::parents;
use super::file::tree::Kind;
use super::file::tree::Node;
use super::file::tree::Place;
use super::file::tree::Scalar;
use super::file::tree::Value;
use super::flags;
use super::flags::Setting;
use super::flags::Values;
use super::source::Given;
use super::source::Origin;
use super::source::Source;
use super::source::named;
use crate::policy::api::DEFAULT;
use crate::policy::api::Settings;
use crate::policy::parents::Parent;

/// Settings of the default API, and the keys that say the same.
const DEFAULTS: [(&Setting, &[&str]); 19] = [
    (&flags::REQUEST_TIMEOUT, &["request_timeout"]),
    (&flags::TOTAL_TIMEOUT, &["total_timeout"]),
    (&flags::RETRY_ATTEMPTS, &["retry", "max_attempts"]),
    (&flags::RETRY_DELAY, &["retry", "initial_delay"]),
    (&flags::RETRY_ON_STATUS, &["retry", "retry_on_status"]),
    (&flags::RETRY_ON_ERRORS, &["retry", "retry_on_errors"]),
    (&flags::RETRY_UNSAFE, &["retry", "retry_unsafe"]),
    (&flags::BREAKER_FAILURES, &["circuit_breaker", "failure_threshold"]),
    (&flags::BREAKER_RESET, &["circuit_breaker", "reset_timeout"]),
    (&flags::BREAKER_SUCCESSES, &["circuit_breaker", "success_threshold"]),
    (&flags::BREAKER_MODE, &["circuit_breaker", "mode"]),
    (&flags::COOL_DOWN, &["cool_down"]),
    (&flags::QUOTA_MINUTE, &["quota", "minute"]),
    (&flags::QUOTA_HOUR, &["quota", "hour"]),
    (&flags::QUOTA_DAY, &["quota", "day"]),
    (&flags::QUOTA_KEY, &["quota", "key"]),
    (&flags::PARENT, &["proxies"]),
    (&flags::PARENT_STRATEGY, &["proxy_strategy"]),
    (&flags::NO_PARENT, &["no_proxy"]),
];

/// Whether a setting is one of the default API, and stands there in what is shown.
pub(super) fn is_of_default(setting: &Setting) -> bool {
    DEFAULTS.iter().any(|(known, _)| known.name == setting.name)
}

/// Reads all APIs. `file` is what the config file holds.
pub(super) fn read(source: &mut Source<'_>, file: Option<Node>) -> Vec<Settings> {
    let mut tree = file.unwrap_or_else(|| Node::empty(Place::of("narrows")));
    for (setting, keys) in DEFAULTS {
        put(source, &mut tree, setting, keys);
    }
    let shared = shared(source, &tree);
    let mut notes = file::Notes::default();
    let apis = file::apis(&tree, &shared, &mut notes);
    source.note(notes);
    source.tree = Some(tree);
    apis
}

fn put(source: &mut Source<'_>, tree: &mut Node, setting: &'static Setting, keys: &[&str]) {
    let Ok(Some(given)) = source.given(setting) else { return };
    // One that is observed is on.
    let is_observed = std::ptr::eq(setting, &raw const flags::COOL_DOWN) && given.text == "observe";
    let keys = if is_observed { &["cool_down", "mode"] } else { keys };
    let path: Vec<String> =
        ["api", DEFAULT].iter().chain(keys).map(|key| (*key).to_owned()).collect();
    let there = find(tree, &path);
    if let (Origin::File, Some(there)) = (given.origin, there) {
        let problem = format!("says the same as {} at {}; give one", path.join("."), there.place);
        let _noted = source.clash(setting, &problem);
        return;
    }
    // What only says how needs something that says whether.
    let needs = match keys {
        ["retry", key] if *key != "max_attempts" => Some((&flags::RETRY_ATTEMPTS, "retry")),
        ["circuit_breaker", key] if *key != "failure_threshold" => {
            Some((&flags::BREAKER_FAILURES, "circuit_breaker"))
        }
        ["quota", "key"] => Some((&flags::QUOTA_MINUTE, "quota")),
        ["proxy_strategy" | "no_proxy"] => Some((&flags::PARENT, "proxies")),
        _ => None,
    };
    if let Some((other, key)) = needs
        && find(tree, &[path[..2].to_vec(), vec![key.to_owned()]].concat()).is_none()
    {
        let warning = format!("--{} has no effect without --{}", setting.name, other.name);
        source.warnings.push(warning);
        return;
    }
    let place =
        given.place().unwrap_or_else(|| Place::of_expression(&named(setting, Some(&given))));
    tree.put(&path, node(setting, &given, &place));
    if std::ptr::eq(setting, &raw const flags::PARENT) {
        let value = Value::Scalar(Scalar::new("true", Kind::Bool));
        let path = [&path[..2], &["use_proxy".to_owned()]].concat();
        tree.put(&path, Node { place, value });
    }
}

fn find<'t>(tree: &'t Node, path: &[String]) -> Option<&'t Node> {
    path.iter().try_fold(tree, |node, key| node.find(key).map(|entry| &entry.node))
}

/// The value as it would stand in the file.
fn node(setting: &Setting, given: &Given, place: &Place) -> Node {
    let scalar = |text: &str| {
        let text = match text {
            // A number alone is seconds here, whatever it is there.
            _ if setting.is_time() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{text}s")
            }
            "on" if setting.takes_word("on") => "true".to_owned(),
            "off" if setting.takes_word("on") => "false".to_owned(),
            text => text.to_owned(),
        };
        let value =
            Value::Scalar(Scalar::plain(&text).unwrap_or_else(|| Scalar::new("", Kind::Text)));
        Node { place: place.clone(), value }
    };
    let texts = given.text.split(setting.values.separator()).map(str::trim);
    match setting.values {
        Values::One => scalar(&given.text),
        Values::Many | Values::Files | Values::Parts => {
            let nodes = texts.filter(|text| !text.is_empty()).map(scalar).collect();
            Node { place: place.clone(), value: Value::List(nodes) }
        }
    }
}

/// The parents of APIs that have none of their own.
fn shared(source: &mut Source<'_>, tree: &Node) -> Vec<Arc<Parent>> {
    let Ok(Some(given)) = source.given(&flags::PROXY_URLS) else { return Vec::new() };
    let wants = |node: &Node| {
        let is_used = node.find("use_proxy").map(|entry| &entry.node.value);
        node.find("proxies").is_none() && is_used.is_some_and(|value| !is_false(value))
    };
    let is_wanted = tree
        .find("api")
        .is_some_and(|apis| apis.node.entries().iter().any(|entry| wants(&entry.node)));
    if !is_wanted {
        if given.is_meant() {
            let name = named(&flags::PROXY_URLS, Some(&given));
            source
                .warnings
                .push(format!("{name} has no effect: no API says use_proxy: true without proxies"));
        }
        // Others may read PROXY_URLS too, and write it otherwise.
        return Vec::new();
    }
    let mut problems = Vec::new();
    let texts = given.text.split(flags::PROXY_URLS.values.separator());
    let parents = parents::shared(texts, |problem| problems.push(problem));
    for problem in problems {
        let _noted = source.clash(&flags::PROXY_URLS, &problem);
    }
    parents
}

fn is_false(value: &Value) -> bool {
    matches!(value, Value::Nothing)
        || matches!(value, Value::Scalar(scalar) if scalar.text == "false")
}
