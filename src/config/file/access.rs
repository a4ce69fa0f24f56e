//! Who may use an API: the keys and tokens of `api.NAME`.

use std::path::PathBuf;

use http::HeaderName;

use super::api::mode;
use super::api::set;
use super::keys;
use super::reader::Map;
use super::reader::Notes;
use super::reader::Or;
use crate::policy::access::keys::BadKey;
use crate::policy::access::keys::Key;
use crate::policy::access::keys::Settings;
use crate::policy::access::keys::check_keys;
use crate::policy::access::keys::parse_keys;
use crate::policy::api::is_settable;

/// Reads the keys of an API.
pub(super) fn keys(map: &Map<'_>, notes: &mut Notes) -> Option<Settings> {
    let map = match map.part(notes, &keys::KEYS)? {
        Or::Else(inner) => inner,
        Or::Switch(false) => return None,
        Or::Switch(true) => {
            map.complain(notes, &keys::KEYS, "true is not allowed: a map with file or list");
            return None;
        }
    };
    let file = map.parse(notes, &keys::KEYS_FILE, |text| {
        let path = PathBuf::from(text);
        match check_keys(&path) {
            Ok(_count) => Ok(path),
            Err(error) => Err(format!("{} ({error})", keys::KEYS_FILE.kind)),
        }
    });
    let own = list(&map, notes);
    let mut settings = Settings { file, own, ..Settings::default() };
    set(&mut settings.header, map.parse(notes, &keys::KEYS_HEADER, header));
    set(&mut settings.mode, mode(&map, notes, &keys::KEYS_MODE));
    if !map.is_given(&keys::KEYS_FILE) && !map.is_given(&keys::KEYS_LIST) {
        notes.problem(map.place(), &map.path, "file or list must be given");
    }
    Some(settings)
}

fn header(text: &str) -> Result<HeaderName, keys::Kind> {
    let name = text.parse::<HeaderName>().ok();
    name.filter(is_settable).ok_or(keys::KEYS_HEADER.kind)
}

/// The keys of a list, of which each text may have several lines, as a variable may.
fn list(map: &Map<'_>, notes: &mut Notes) -> Vec<Key> {
    let mut all: Vec<Key> = Vec::new();
    for item in map.texts(notes, &keys::KEYS_LIST).unwrap_or_default() {
        match parse_keys(item.text, item.referred) {
            Ok(found) => {
                let is_there = |key: &Key| all.iter().any(|other| other.is_same(key));
                if found.iter().any(is_there) {
                    map.refuse(notes, &keys::KEYS_LIST, item, &BadKey::Twice);
                } else {
                    all.extend(found);
                }
            }
            Err(why) => map.refuse(notes, &keys::KEYS_LIST, item, &why),
        }
    }
    all
}
