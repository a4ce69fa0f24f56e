//! The keys of an API's cache to its settings.

use std::time::Duration;

use http::StatusCode;

use super::api::field_name;
use super::api::set;
use super::keys;
use super::keys::Kind;
use super::keys::Unit;
use super::keys::Zero;
use super::reader;
use super::reader::Map;
use super::reader::Notes;
use super::reader::Or;
use crate::policy::cache::Over;
use crate::policy::cache::Settings;
use crate::policy::cache::Strategy;

/// The longest body of a POST that `cache_post: true` reads.
const POST_BODY: u64 = 64 * 1024;
/// What a failure may be kept for.
const TIME: Kind = Kind::Time(Unit::Seconds, Zero::Refused);

/// What is kept of an API; none if nothing is.
pub(super) fn read(map: &Map<'_>, notes: &mut Notes) -> Option<Settings> {
    let is_on = map.switch(notes, &keys::ENABLE_CACHE).unwrap_or(false);
    let mut settings = Settings::default();
    set(&mut settings.ttl, map.time(notes, &keys::CACHE_TTL));
    set(&mut settings.force, map.switch(notes, &keys::CACHE_FORCE));
    settings.force_over = over(map, notes);
    set(&mut settings.negative, negative(map, notes));
    settings.strategy = strategy(map, notes);
    settings.post = match map.switch_or(&keys::CACHE_POST) {
        None | Some(Or::Switch(false)) => None,
        Some(Or::Switch(true)) => Some(POST_BODY),
        Some(Or::Else(_)) => map.bytes(notes, &keys::CACHE_POST),
    };
    set(&mut settings.max_object, map.bytes(notes, &keys::CACHE_MAX_OBJECT));
    let stale = map.time(notes, &keys::CACHE_STALE_WHILE_REVALIDATE);
    set(&mut settings.stale_while_revalidate, stale);
    set(&mut settings.stale_if_error, map.time(notes, &keys::CACHE_STALE_IF_ERROR));
    is_on.then_some(settings)
}

fn over(map: &Map<'_>, notes: &mut Notes) -> Over {
    let mut over = Over::default();
    let words = map.list(notes, &keys::CACHE_FORCE_OVER, |text| {
        let word = text.to_ascii_lowercase();
        let is_known = ["no-store", "private", "authorization", "set-cookie"].contains(&&*word);
        if is_known { Ok(word) } else { Err(keys::CACHE_FORCE_OVER.kind) }
    });
    for word in words.unwrap_or_default() {
        match &*word {
            "no-store" => over.no_store = true,
            "private" => over.private = true,
            "authorization" => over.authorization = true,
            _ => over.set_cookie = true,
        }
    }
    if over != Over::default() && map.switch(notes, &keys::CACHE_FORCE) != Some(true) {
        let words = "has no effect without cache_force: true";
        map.warn(notes, &keys::CACHE_FORCE_OVER, words);
    }
    over
}

fn negative(map: &Map<'_>, notes: &mut Notes) -> Option<Vec<(StatusCode, Duration)>> {
    let mut negative = Vec::new();
    for (status, time) in map.pairs(notes, &keys::CACHE_NEGATIVE)? {
        let code = status.text.parse::<u16>().ok().filter(|code| (400..600).contains(code));
        match code.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(code) => match reader::time(time.text, TIME).flatten() {
                Some(length) => negative.push((code, length)),
                None => map.refuse(notes, &keys::CACHE_NEGATIVE, time, &TIME),
            },
            None => map.refuse(notes, &keys::CACHE_NEGATIVE, status, &"a status from 400 to 599"),
        }
    }
    Some(negative)
}

/// SECURITY: fields that are listed count even where the strategy says none: who lists a key's field
/// does not want the answer to one key given to another.
fn strategy(map: &Map<'_>, notes: &mut Notes) -> Strategy {
    let listed = map.list(notes, &keys::CACHE_HEADERS, field_name).unwrap_or_default();
    let word = map.word(notes, &keys::CACHE_HEADER_STRATEGY);
    match word {
        Some("all") => Strategy::All,
        _ if listed.is_empty() => Strategy::None,
        Some("none") => {
            let words = "is not heeded: cache_headers are listed, and they count";
            map.warn(notes, &keys::CACHE_HEADER_STRATEGY, words);
            Strategy::Listed(listed)
        }
        Some(_) | None => Strategy::Listed(listed),
    }
}
