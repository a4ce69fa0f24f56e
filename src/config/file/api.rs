//! `api.NAME` of the config file to the settings of an API and its policies.
//!
//! Each key of the table ([`super::keys`]) is read in one line, and put where it is obeyed; what holds
//! for keys that are not given is what the policies' own defaults say. A named API has a breaker and
//! cool-downs unless it says otherwise; the default API has what it is given.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use http::Method;

use super::access;
use super::cache;
use super::keys;
use super::keys::Key;
use super::keys::Section;
use super::parents;
use super::quota;
use super::reader::Map;
use super::reader::Notes;
use super::reader::Or;
use super::tree::Entry;
use super::url;
use crate::base::pattern::Pattern;
use crate::config::access::network;
use crate::policy::Cause;
use crate::policy::Mode;
use crate::policy::api::DEFAULT;
use crate::policy::api::Forwarded;
use crate::policy::api::Gateway;
use crate::policy::api::Settings;
use crate::policy::api::is_settable;
use crate::policy::breaker;
use crate::policy::cooldown;
use crate::policy::parents::Parent;
use crate::policy::retry;

/// How long an attempt at a named API may take if nothing is said.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Up to how many bytes `validate_json: true` looks at.
const JSON_BODY: u64 = 1024 * 1024;
/// What may be set and taken out of fields.
const SETTABLE: &str = "a field that does not belong to the connection itself";
/// The longest name of an API.
const LONGEST_NAME: usize = 64;

/// Reads one API. Its hosts are those that it names; the others are the caller's to find.
pub(super) fn read(entry: &Entry, shared: &[Arc<Parent>], notes: &mut Notes) -> Settings {
    let path = format!("api.{}", entry.key);
    if !is_name(&entry.key) {
        let words = "is no name of an API: 1 to 64 letters, digits, -, _ and ., with a letter or digit first";
        notes.problem(&entry.place, &path, words);
    }
    let map = Map::new(&entry.node, path, Section::Api, notes);
    let is_default = entry.key == DEFAULT;
    let mut api = Settings::new(entry.key.as_str());
    api.target =
        map.parse(notes, &keys::TARGET_URL, |text| url::target(text).ok_or(keys::TARGET_URL.kind));
    set(&mut api.hosts, map.list(notes, &keys::HOSTS, str::parse::<Pattern>));
    set(&mut api.lists.allow, map.list(notes, &keys::ALLOW_FROM, network));
    set(&mut api.lists.mode, mode(&map, notes, &keys::NETWORKS_MODE));
    set(&mut api.lists.deny, map.list(notes, &keys::DENY_FROM, network));
    api.keys = access::keys(&map, notes);
    api.jwt = access::jwt(&map, notes);
    api.gateway = gateway(&map, notes);
    certificates(&map, notes);
    api.cache = cache::read(&map, notes);
    if is_default {
        only_forward(&map, notes);
    }

    let breaker = part(&map, notes, &keys::CIRCUIT_BREAKER, !is_default);
    let of_breaker = breaker.as_ref().and_then(|breaker| {
        breaker
            .as_ref()
            .and_then(|breaker| breaker.time_or_off(notes, &keys::BREAKER_REQUEST_TIMEOUT))
    });
    let timeout = map.time_or_off(notes, &keys::REQUEST_TIMEOUT).or(of_breaker);
    api.request_timeout = timeout.unwrap_or((!is_default).then_some(REQUEST_TIMEOUT));
    api.total_timeout = map.time(notes, &keys::TOTAL_TIMEOUT);
    api.breaker =
        breaker.map(|map| map.map_or_else(Default::default, |map| self::breaker(&map, notes)));
    api.retry = retry(&map, notes);
    api.cooldown = part(&map, notes, &keys::COOL_DOWN, !is_default)
        .map(|map| map.map_or_else(Default::default, |map| cooldown(&map, notes)));
    api.quota = part(&map, notes, &keys::QUOTA, false)
        .map(|map| map.map_or_else(Default::default, |map| quota::read(&map, notes)));
    api.parents = parents::read(&map, shared, notes);
    api
}

/// A name that is safe in a path, a key of Redis, a metric and a log line.
fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Puts what was read where it belongs.
pub(super) fn set<T>(slot: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *slot = value;
    }
}

/// A part that is on or off; none within is on with nothing said.
#[expect(clippy::option_option, reason = "off, on with nothing said, on with a map")]
fn part<'t>(map: &Map<'t>, notes: &mut Notes, key: &Key, unset: bool) -> Option<Option<Map<'t>>> {
    match map.part(notes, key) {
        Some(Or::Else(inner)) => Some(Some(inner)),
        Some(Or::Switch(is_on)) => is_on.then_some(None),
        None => unset.then_some(None),
    }
}

fn gateway(map: &Map<'_>, notes: &mut Notes) -> Gateway {
    let mut gateway = Gateway::default();
    let method = |text: &str| Method::from_bytes(text.as_bytes()).map_err(|_bad| keys::METHOD.kind);
    let _without_effect = map.list(notes, &keys::METHOD, method);
    set(&mut gateway.methods, map.list(notes, &keys::METHODS, method));
    set(&mut gateway.headers, fields(map, notes, &keys::HEADERS));
    set(&mut gateway.remove_headers, map.list(notes, &keys::REMOVE_HEADERS, removable));
    set(&mut gateway.response_headers, fields(map, notes, &keys::RESPONSE_HEADERS));
    gateway.forward_headers = match map.switch_or(&keys::FORWARD_HEADERS) {
        None | Some(Or::Switch(false)) => Forwarded::None,
        Some(Or::Switch(true)) => Forwarded::All,
        Some(Or::Else(_)) => {
            let names = map.list(notes, &keys::FORWARD_HEADERS, field_name);
            names.map_or(Forwarded::None, Forwarded::Listed)
        }
    };
    set(&mut gateway.forwarded, map.switch(notes, &keys::FORWARDED));
    set(&mut gateway.requires_body, map.switch(notes, &keys::REQUIRES_BODY));
    gateway.validate_json = match map.switch_or(&keys::VALIDATE_JSON) {
        None | Some(Or::Switch(false)) => None,
        Some(Or::Switch(true)) => Some(JSON_BODY),
        Some(Or::Else(_)) => map.bytes(notes, &keys::VALIDATE_JSON),
    };
    gateway.rewrite = rewrite(map, notes);
    gateway
}

pub(super) fn field_name(text: &str) -> Result<HeaderName, &'static str> {
    text.parse().map_err(|_bad| "the name of a field, such as X-Api-Key")
}

fn removable(text: &str) -> Result<HeaderName, &'static str> {
    let name = field_name(text)?;
    if is_settable(&name) { Ok(name) } else { Err(SETTABLE) }
}

/// Fields that are set. Those that say where a message ends or which way it goes are ours.
fn fields(map: &Map<'_>, notes: &mut Notes, key: &Key) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut fields = Vec::new();
    for (name, value) in map.pairs(notes, key)? {
        match field_name(name.text) {
            Ok(name) if is_settable(&name) => match HeaderValue::from_str(value.text) {
                Ok(mut bytes) => {
                    // SECURITY: it may be a credential; nothing that is debugged shows it.
                    bytes.set_sensitive(true);
                    fields.push((name, bytes));
                }
                Err(_) => map.refuse(
                    notes,
                    key,
                    value,
                    &format!("a value that {name} can carry: one line of text"),
                ),
            },
            Ok(_) => map.refuse(notes, &plain(key), name, &SETTABLE),
            Err(allowed) => map.refuse(notes, &plain(key), name, &allowed),
        }
    }
    Some(fields)
}

/// The same row for what is no secret of it: a name.
fn plain(key: &Key) -> Key {
    Key { secret: false, ..*key }
}

fn rewrite(map: &Map<'_>, notes: &mut Notes) -> Vec<(String, String)> {
    let is_path = |text: &str| {
        text.starts_with('/')
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    };
    let mut rules = Vec::new();
    for (from, to) in map.pairs(notes, &keys::REWRITE).unwrap_or_default() {
        for item in [from, to] {
            if !is_path(item.text) {
                map.refuse(
                    notes,
                    &keys::REWRITE,
                    item,
                    &"a path that begins with /, percent-encoded, without ? and #",
                );
            }
        }
        rules.push((from.text.to_owned(), to.text.to_owned()));
    }
    rules
}

fn certificates(map: &Map<'_>, notes: &mut Notes) {
    if map.switch(notes, &keys::SSL_VERIFY) == Some(false) {
        let words = "false is not allowed: certificates are always verified; name the authority of this one \
                     by --upstream-ca (upstream_ca)";
        map.complain(notes, &keys::SSL_VERIFY, words);
    }
}

/// The default API has no gateway path and claims no hosts.
fn only_forward(map: &Map<'_>, notes: &mut Notes) {
    let of_gateway = [
        &keys::TARGET_URL,
        &keys::HOSTS,
        &keys::METHOD,
        &keys::METHODS,
        &keys::REQUIRES_BODY,
        &keys::VALIDATE_JSON,
        &keys::HEADERS,
        &keys::FORWARD_HEADERS,
        &keys::FORWARDED,
        &keys::REMOVE_HEADERS,
        &keys::RESPONSE_HEADERS,
        &keys::REWRITE,
    ];
    for key in of_gateway {
        if map.is_given(key) {
            let words =
                "default is the API of forward traffic that no other claims: it has policies alone";
            map.complain(notes, key, words);
        }
    }
}

/// Whether a policy is obeyed.
pub(super) fn mode(map: &Map<'_>, notes: &mut Notes, key: &Key) -> Option<Mode> {
    let word = map.word(notes, key)?;
    Mode::ALL.into_iter().find(|mode| mode.as_str() == word)
}

fn breaker(map: &Map<'_>, notes: &mut Notes) -> breaker::Settings {
    let mut settings = breaker::Settings::default();
    set(&mut settings.mode, mode(map, notes, &keys::BREAKER_MODE));
    set(&mut settings.failure_threshold, map.whole(notes, &keys::FAILURE_THRESHOLD));
    set(&mut settings.reset_timeout, map.time(notes, &keys::RESET_TIMEOUT));
    set(&mut settings.success_threshold, map.whole(notes, &keys::SUCCESS_THRESHOLD));
    set(&mut settings.probes, map.whole(notes, &keys::PROBES));
    settings.probe_lease = map.time(notes, &keys::PROBE_LEASE);
    let mut rates = breaker::Rates { failure_rate: 101.0, ..breaker::Rates::default() };
    set(&mut rates.window, map.time(notes, &keys::WINDOW));
    set(&mut rates.minimum_calls, map.whole(notes, &keys::MINIMUM_CALLS));
    set(&mut rates.failure_rate, map.decimal(notes, &keys::FAILURE_RATE));
    set(&mut rates.slow_call_rate, map.decimal(notes, &keys::SLOW_CALL_RATE));
    set(&mut rates.slow_call, map.time(notes, &keys::SLOW_CALL));
    if rates.failure_rate <= 100.0 || rates.slow_call_rate <= 100.0 {
        settings.rates = Some(rates);
    }
    for key in [&keys::WINDOW, &keys::MINIMUM_CALLS, &keys::SLOW_CALL] {
        if settings.rates.is_none() && map.is_given(key) {
            map.warn(notes, key, "has no effect without failure_rate or slow_call_rate");
        }
    }
    settings
}

fn retry(map: &Map<'_>, notes: &mut Notes) -> Option<retry::Settings> {
    let of_api: Option<bool> = map.switch(notes, &keys::RETRY_UNSAFE_OF_API);
    let Some(inner) = part(map, notes, &keys::RETRY, false) else {
        if of_api == Some(true) {
            map.warn(notes, &keys::RETRY_UNSAFE_OF_API, "has no effect without retry");
        }
        return None;
    };
    let mut settings = retry::Settings::default();
    set(&mut settings.retry_unsafe, of_api);
    let Some(map) = inner else { return Some(settings) };
    set(&mut settings.max_attempts, map.whole(notes, &keys::MAX_ATTEMPTS));
    set(&mut settings.initial_delay, map.time(notes, &keys::INITIAL_DELAY));
    set(&mut settings.max_delay, map.time(notes, &keys::MAX_DELAY));
    set(&mut settings.backoff_factor, map.decimal(notes, &keys::BACKOFF_FACTOR));
    set(&mut settings.jitter, map.decimal(notes, &keys::JITTER));
    set(&mut settings.retry_on_status, map.numbers(notes, &keys::RETRY_ON_STATUS));
    set(&mut settings.retry_on_errors, causes(&map, notes));
    set(&mut settings.retry_unsafe, map.switch(notes, &keys::RETRY_UNSAFE));
    set(&mut settings.budget, map.decimal(notes, &keys::BUDGET));
    set(&mut settings.budget_floor, map.decimal(notes, &keys::BUDGET_FLOOR));
    let body = map.bytes(notes, &keys::MAX_BODY).and_then(|bytes| usize::try_from(bytes).ok());
    set(&mut settings.max_body, body);
    Some(settings)
}

fn causes(map: &Map<'_>, notes: &mut Notes) -> Option<Vec<Cause>> {
    let mut causes = map.list(notes, &keys::RETRY_ON_ERRORS, |text| {
        let known = Cause::ALL.into_iter().find(|cause| cause.as_str() == text);
        // What resilient-proxy-out calls them.
        known
            .or(match text {
                "host not found" => Some(Cause::Dns),
                "connection refused" => Some(Cause::Refused),
                "connection reset" | "closed" | "socket" => Some(Cause::Reset),
                _ => None,
            })
            .ok_or(keys::RETRY_ON_ERRORS.kind)
    })?;
    causes.dedup();
    Some(causes)
}

fn cooldown(map: &Map<'_>, notes: &mut Notes) -> cooldown::Settings {
    let mut settings = cooldown::Settings::default();
    set(&mut settings.mode, mode(map, notes, &keys::COOL_DOWN_MODE));
    set(
        &mut settings.scope,
        map.word(notes, &keys::SCOPE).map(|word| match word {
            "api" => cooldown::Scope::Api,
            "host" => cooldown::Scope::Host,
            _ => cooldown::Scope::Credential,
        }),
    );
    set(&mut settings.max, map.time(notes, &keys::COOL_DOWN_MAX));
    set(&mut settings.default, map.time(notes, &keys::COOL_DOWN_DEFAULT));
    set(&mut settings.ramp, map.decimal(notes, &keys::RAMP));
    set(&mut settings.wait, map.time(notes, &keys::COOL_DOWN_WAIT));
    set(&mut settings.on_exhausted, map.switch(notes, &keys::ON_EXHAUSTED));
    settings
}
