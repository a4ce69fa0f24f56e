//! The JSON schema of the config file, for editors: made of the tables that it is read by.
//!
//! It is no stricter than the reader: where text must have a form that words describe, the schema says
//! text. Anything may be a reference to a variable.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::config::file::keys::Key;
use crate::config::file::keys::Kind;
use crate::config::file::keys::Section;
use crate::config::file::settings;
use crate::config::flags;
use crate::config::flags::Setting;
use crate::config::flags::Values;

/// A part that is a reference, or text that is read as what it holds.
const REFERENCE: &str = "\\$\\{";

pub(super) fn text() -> String {
    format!("{:#}", schema())
}

fn schema() -> Value {
    let mut properties: Map<String, Value> = flags::ALL
        .iter()
        .filter(|setting| settings::may_stand(setting))
        .map(|known| (settings::key_of(known), setting(known)))
        .collect();
    let limit = json!({ "type": ["integer", "string"] });
    properties.insert("limits".to_owned(), json!({
        "description": "Connections at once to each host: the same as max_connections and host_limit.",
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "default": { "description": "To each host without a limit of its own.", "anyOf": [limit.clone()] },
            "hosts": {
                "description": "Limits of hosts: HOST, HOST:PORT or *.SUFFIX.",
                "type": ["object", "null"],
                "additionalProperties": limit,
            },
        },
    }));
    let mut api = section(Section::Api);
    api["description"] = json!("An API: what the gateway does with it, and its policies.");
    properties.insert(
        "api".to_owned(),
        json!({
            "description": "APIs by name; default is for forward traffic that no other claims.",
            "type": ["object", "null"],
            "additionalProperties": api,
        }),
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Config file of narrows",
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": properties,
    })
}

fn setting(setting: &Setting) -> Value {
    let one = json!({ "type": ["string", "number", "boolean"] });
    let mut schema = match setting.values {
        Values::One => json!({ "type": ["string", "number", "boolean", "null"] }),
        Values::Many | Values::Files | Values::Parts => {
            json!({ "anyOf": [one.clone(), { "type": "null" }, { "type": "array", "items": one }] })
        }
    };
    schema["description"] = json!(setting.help());
    if let flags::Unset::Text(text) = setting.unset {
        schema["default"] = json!(text);
    }
    schema
}

fn section(section: Section) -> Value {
    let properties: Map<String, Value> =
        section.keys().map(|known| (known.name.to_owned(), key(known))).collect();
    json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties })
}

fn key(key: &Key) -> Value {
    let mut schema = json!({ "anyOf": [{ "type": "null" }, kind(key.kind)] });
    schema["description"] = json!(key.help);
    if !key.unset.is_empty() {
        schema["default"] = super::show::plain(key.unset);
    }
    schema
}

fn kind(kind: Kind) -> Value {
    let reference = json!({ "type": "string", "pattern": REFERENCE });
    let text = json!({ "type": ["string", "number", "boolean"] });
    let number = |kind: &str, from: Value, to: Value| json!({ "anyOf": [{ "type": kind, "minimum": from, "maximum": to }, reference] });
    let texts = json!({ "anyOf": [text, { "type": "array", "items": text }] });
    let switch = json!({ "anyOf": [{ "type": "boolean" }, reference] });
    match kind {
        Kind::Switch => switch,
        Kind::Whole(from, to) => number("integer", json!(from), json!(to)),
        Kind::Decimal(from, to) => number("number", json!(from), json!(to)),
        Kind::Time(..) | Kind::Bytes(..) => json!({ "type": ["string", "number"] }),
        Kind::Word(words) => json!({ "anyOf": [{ "enum": words }, reference] }),
        Kind::Text(_) => text,
        Kind::Texts(_) => texts,
        Kind::Numbers(from, to) => {
            let one = number("integer", json!(from), json!(to));
            json!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
        }
        Kind::Pairs(_) => json!({ "type": "object", "additionalProperties": text }),
        Kind::SwitchOrTexts(_) => json!({ "anyOf": [switch, texts] }),
        Kind::SwitchOrBytes(..) => json!({ "anyOf": [switch, { "type": ["string", "number"] }] }),
        Kind::Part(part) => json!({ "anyOf": [switch, section(part)] }),
        Kind::Named(part, _) => {
            json!({ "type": "object", "additionalProperties": section(part) })
        }
        Kind::Parts(part, _) => {
            let one = json!({ "anyOf": [text, section(part)] });
            json!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
        }
    }
}
