//! Who may use an API: the keys and tokens of `api.NAME`.

use std::path::PathBuf;

use http::HeaderName;

use super::api::mode;
use super::api::set;
use super::keys;
use super::keys::Key;
use super::reader::Map;
use super::reader::Notes;
use super::reader::Or;
use super::url;
use crate::policy::access::jwt;
use crate::policy::access::jwt::Algorithm;
use crate::policy::access::jwt::Jwks;
use crate::policy::access::jwt::Secret;
use crate::policy::access::keys::BadKey;
use crate::policy::access::keys::Key as ApiKey;
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

/// Reads the tokens of an API.
pub(super) fn jwt(map: &Map<'_>, notes: &mut Notes) -> Option<jwt::Settings> {
    let map = match map.part(notes, &keys::JWT)? {
        Or::Else(inner) => inner,
        Or::Switch(false) => return None,
        Or::Switch(true) => {
            map.complain(
                notes,
                &keys::JWT,
                "true is not allowed: a map with keys to verify tokens with",
            );
            return None;
        }
    };
    let map = &map;
    let mut settings = jwt::Settings::default();
    let algorithm =
        |text: &str| text.parse::<Algorithm>().map_err(|_none| keys::JWT_ALGORITHMS.kind);
    set(&mut settings.algorithms, map.list(notes, &keys::JWT_ALGORITHMS, algorithm));
    let allowed = settings.algorithms.clone();
    settings.secret = map.parse(notes, &keys::JWT_SECRET, |text| {
        let secret = Secret::new(text.as_bytes());
        jwt::check_secret(&secret, &allowed).map(|()| secret)
    });
    let mut file = |key: &Key, kind: jwt::Kind| {
        map.parse(notes, key, |text| {
            let path = PathBuf::from(text);
            match jwt::check_file(kind, &path, &allowed) {
                Ok(()) => Ok(path),
                Err(error) => Err(format!("{} ({error})", key.kind)),
            }
        })
    };
    settings.secret_file = file(&keys::JWT_SECRET_FILE, jwt::Kind::Secret);
    settings.public_key_file = file(&keys::JWT_PUBLIC_KEY_FILE, jwt::Kind::PublicKeys);
    settings.jwks_file = file(&keys::JWT_JWKS_FILE, jwt::Kind::Set);
    let refresh = map.time(notes, &keys::JWT_JWKS_REFRESH);
    let refresh_min = map.time(notes, &keys::JWT_JWKS_REFRESH_MIN);
    let timeout = map.time(notes, &keys::JWT_JWKS_TIMEOUT);
    let url = |text: &str| url::key_set(text).ok_or(keys::JWT_JWKS_URL.kind);
    settings.jwks = map.parse(notes, &keys::JWT_JWKS_URL, url).map(|url| {
        let mut jwks = Jwks::at(url);
        set(&mut jwks.refresh, refresh);
        set(&mut jwks.refresh_min, refresh_min);
        set(&mut jwks.timeout, timeout);
        jwks
    });
    let text = |text: &str| if text.is_empty() { Err("some text") } else { Ok(text.to_owned()) };
    set(&mut settings.issuers, map.list(notes, &keys::JWT_ISSUER, text));
    set(&mut settings.audiences, map.list(notes, &keys::JWT_AUDIENCE, text));
    set(&mut settings.leeway, map.time(notes, &keys::JWT_LEEWAY));
    set(&mut settings.required_claims, map.list(notes, &keys::JWT_REQUIRED_CLAIMS, text));
    set(&mut settings.subject_claim, map.parse(notes, &keys::JWT_SUBJECT_CLAIM, text));
    settings.plan_claim = map.parse(notes, &keys::JWT_PLAN_CLAIM, text);
    set(&mut settings.scope_claim, map.parse(notes, &keys::JWT_SCOPE_CLAIM, text));
    set(&mut settings.required_scopes, map.list(notes, &keys::JWT_REQUIRED_SCOPES, text));
    set(&mut settings.types, map.list(notes, &keys::JWT_TYPES, text));
    let longest = map.bytes(notes, &keys::JWT_MAX_LENGTH);
    set(&mut settings.longest, longest.and_then(|bytes| usize::try_from(bytes).ok()));
    set(&mut settings.mode, mode(map, notes, &keys::JWT_MODE));
    let sources = [
        &keys::JWT_SECRET,
        &keys::JWT_SECRET_FILE,
        &keys::JWT_PUBLIC_KEY_FILE,
        &keys::JWT_JWKS_FILE,
        &keys::JWT_JWKS_URL,
    ];
    if !sources.iter().any(|key| map.is_given(key)) {
        let words = "secret, secret_file, public_key_file, jwks_file or jwks_url must be given";
        notes.problem(map.place(), &map.path, words);
    }
    Some(settings)
}

fn header(text: &str) -> Result<HeaderName, keys::Kind> {
    let name = text.parse::<HeaderName>().ok();
    name.filter(is_settable).ok_or(keys::KEYS_HEADER.kind)
}

/// The keys of a list, of which each text may have several lines, as a variable may.
fn list(map: &Map<'_>, notes: &mut Notes) -> Vec<ApiKey> {
    let mut all: Vec<ApiKey> = Vec::new();
    for item in map.texts(notes, &keys::KEYS_LIST).unwrap_or_default() {
        match parse_keys(item.text, item.referred) {
            Ok(found) => {
                let is_there = |key: &ApiKey| all.iter().any(|other| other.is_same(key));
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
