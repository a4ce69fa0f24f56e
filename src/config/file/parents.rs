//! Proxies on the way to an API's upstream: which there are, and how one is chosen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::api::set;
use super::keys;
use super::keys::Section;
use super::mask;
use super::reader;
use super::reader::Map;
use super::reader::Notes;
use super::tree::Node;
use super::tree::Value;
use super::url;
use crate::base::pattern::Pattern;
use crate::config::units;
use crate::policy::parents::Parent;
use crate::policy::parents::Settings;
use crate::policy::parents::StickyKey;
use crate::policy::parents::Strategy;

/// Reads an API's parents; `shared` are those of APIs that have none of their own.
pub(super) fn read(map: &Map<'_>, shared: &[Arc<Parent>], notes: &mut Notes) -> Option<Settings> {
    let mut settings = Settings::default();
    set(&mut settings.keepalive_timeout, map.time(notes, &keys::KEEPALIVE_TIMEOUT));
    set(&mut settings.keepalive_pool, map.whole(notes, &keys::KEEPALIVE_POOL));
    set(&mut settings.ban, map.time(notes, &keys::PROXY_BAN));
    set(&mut settings.max_connections, map.whole(notes, &keys::PROXY_MAX_CONNECTIONS));
    settings.quota = map.parse(notes, &keys::PROXY_QUOTA, quota).flatten();
    set(&mut settings.except, map.list(notes, &keys::NO_PROXY, str::parse::<Pattern>));
    settings.strategy = strategy(map, notes);
    let own = list(map, notes);
    let is_used = map.switch(notes, &keys::USE_PROXY);
    if is_used != Some(true) {
        if is_used.is_none() && own.is_some() {
            map.warn(notes, &keys::PROXIES, "has no effect without use_proxy: true");
        }
        return None;
    }
    let is_given = own.is_some();
    settings.list = own.unwrap_or_else(|| shared.to_vec());
    // What is wrong with those that are given is told already.
    if settings.list.is_empty() && !is_given && settings.strategy != Strategy::Never {
        let words =
            "true is not allowed: there are no proxies; give some in proxies, or in PROXY_URLS";
        map.complain(notes, &keys::USE_PROXY, words);
    }
    Some(settings)
}

/// The parents of `PROXY_URLS`, one text each; a text that is none is handed to `refuse` masked.
pub(crate) fn shared<'t>(
    texts: impl Iterator<Item = &'t str>,
    mut refuse: impl FnMut(String),
) -> Vec<Arc<Parent>> {
    let mut parents = Vec::new();
    for (at, text) in texts.map(str::trim).filter(|text| !text.is_empty()).enumerate() {
        if let Some(parent) = url::parent(text) {
            parents.push(parent);
            continue;
        }
        let (entry, text, allowed) = (at + 1, mask::url(text), keys::PARENT_URL.kind);
        refuse(format!("entry {entry}, {text:?}, is not allowed: {allowed}"));
    }
    distinct(parents)
}

fn list(map: &Map<'_>, notes: &mut Notes) -> Option<Vec<Arc<Parent>>> {
    let entry = map.find(&keys::PROXIES)?;
    let values = match &entry.node.value {
        Value::List(values) => &**values,
        Value::Nothing | Value::Scalar(_) | Value::Map(_) => std::slice::from_ref(&entry.node),
    };
    let mut parents = Vec::new();
    for (at, node) in values.iter().enumerate() {
        let path = format!("{}[{at}]", map.path_of(&keys::PROXIES));
        parents.extend(one(node, path, notes));
    }
    Some(distinct(parents))
}

fn one(node: &Node, path: String, notes: &mut Notes) -> Option<Parent> {
    let parse = |text: &str| url::parent(text);
    match &node.value {
        Value::Scalar(scalar) => parse(&scalar.text).or_else(|| {
            let told = if scalar.referred {
                mask::SECRET.to_owned()
            } else {
                format!("{:?}", mask::url(&scalar.text))
            };
            notes.problem(
                &node.place,
                &path,
                &format!("{told} is not allowed: {}", keys::PARENT_URL.kind),
            );
            None
        }),
        Value::Map(_) => {
            let map = Map::new(node, path, Section::Parent, notes);
            let weight = map.whole(notes, &keys::PARENT_WEIGHT);
            if !map.is_given(&keys::PARENT_URL) {
                notes.problem(map.place(), &map.path, "url must be given");
            }
            let url = map.find(&keys::PARENT_URL)?;
            let mut parent = one(&url.node, map.path_of(&keys::PARENT_URL), notes)?;
            set(&mut parent.weight, weight);
            Some(parent)
        }
        Value::Nothing | Value::List(_) => {
            let words = format!("{} is not allowed: {}", node.value.noun(), keys::PARENT_URL.kind);
            notes.problem(&node.place, &path, &words);
            None
        }
    }
}

/// Gives those that differ in their credentials alone names of their own, since what is known of a
/// parent is known by its name.
fn distinct(parents: Vec<Parent>) -> Vec<Arc<Parent>> {
    let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
    let name = |mut parent: Parent| {
        let count = seen.entry(Arc::clone(&parent.name)).or_default();
        *count += 1;
        if *count > 1 {
            parent.name = format!("{}#{count}", parent.name).into();
        }
        Arc::new(parent)
    };
    parents.into_iter().map(name).collect()
}

fn strategy(map: &Map<'_>, notes: &mut Notes) -> Strategy {
    let key = map.parse(notes, &keys::PROXY_STICKY_KEY, sticky_key).unwrap_or_default();
    let size = map.whole(notes, &keys::PROXY_SUBSET_SIZE).unwrap_or(3);
    match map.word(notes, &keys::PROXY_STRATEGY) {
        Some("sticky") => Strategy::Sticky(key),
        Some("subset") => Strategy::Subset(size),
        Some("on_rate_limit") => Strategy::OnRateLimit,
        Some("never") => Strategy::Never,
        Some("least_used") => Strategy::LeastUsed,
        Some("weighted") => Strategy::Weighted,
        Some(_) | None => Strategy::RoundRobin,
    }
}

fn sticky_key(text: &str) -> Result<StickyKey, keys::Kind> {
    match text {
        "client_ip" => Ok(StickyKey::ClientIp),
        "api_name" => Ok(StickyKey::ApiName),
        _ => text
            .strip_prefix("header:")
            .and_then(|name| name.trim().parse().ok())
            .map(StickyKey::Header)
            .ok_or(keys::PROXY_STICKY_KEY.kind),
    }
}

fn quota(text: &str) -> Result<Option<(u32, Duration)>, keys::Kind> {
    if text == "off" {
        return Ok(None);
    }
    let quota = text.split_once('/').and_then(|(number, time)| {
        let number = reader::whole(number.trim(), keys::Kind::Whole(1, u32::MAX.into()))?;
        // `600/m` is usual too.
        let time = time.trim();
        let each = if time.starts_with(|c: char| c.is_ascii_digit()) {
            time.to_owned()
        } else {
            format!("1{time}")
        };
        let time = units::duration(&each).ok().filter(|time| !time.is_zero())?;
        Some((number, time))
    });
    quota.map(Some).ok_or(keys::PROXY_QUOTA.kind)
}
