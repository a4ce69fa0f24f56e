//! API keys: names for long random texts, of which only the SHA-256 is known here.
//!
//! They stand in a file that is looked at again and again ([`Ring::look`]), or in the settings. A key
//! that is shown costs one hash and one look-up, however many there are.
//!
//! Invariants: a file that is wrong replaces no key; a key holds from its `not_before` until its
//! `expires`, which are judged at each request; nothing here prints a key or its hash.

mod date;
pub(super) mod key;
pub(crate) mod scope;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use http::HeaderName;
use thiserror::Error;

pub use self::key::BadKey;
pub use self::key::Key;
use self::key::Plain;
use self::key::lines;
use super::digest::Digest;
use super::watched;
use super::watched::Watched;
use crate::policy::Mode;

/// The field by which a client of the gateway shows its key, if nothing else is said.
pub static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Before the letters of a key that is made here, so that who finds one knows what it is.
const PREFIX: &str = "nk_";
/// Random bytes of a key that is made here.
const RANDOM: usize = 32;

/// Which keys an API takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A file of keys, one a line.
    pub file: Option<PathBuf>,
    /// Keys that the settings have themselves.
    pub own: Vec<Key>,
    /// The field of a gateway's request that has the key; Authorization, with Bearer, is heard too.
    pub header: HeaderName,
    /// Whether who has no key is refused, or only counted.
    pub mode: Mode,
}

impl Default for Settings {
    fn default() -> Self {
        Self { file: None, own: Vec::new(), header: X_API_KEY.clone(), mode: Mode::default() }
    }
}

/// Why a file of keys is of no use.
#[derive(Debug, Error)]
pub enum BadKeys {
    /// A line that is wrong.
    #[error("line {number}: {why}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        why: BadKey,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Whether a file of keys can be read, and how many there are in it.
pub fn check_keys(path: &Path) -> Result<usize, BadKeys> {
    Ok(parse(&watched::read(path)?)?.len())
}

/// The keys of a text of the settings, one a line; one that came from a variable may hold keys themselves.
pub(crate) fn parse_keys(text: &str, referred: bool) -> Result<Vec<Key>, BadKey> {
    let plain = if referred { Plain::Allowed } else { Plain::Refused };
    lines(text, plain).map_err(|(_number, why)| why)
}

/// A fresh key.
pub fn fresh() -> io::Result<String> {
    let mut bytes = [0; RANDOM];
    rand::fill(&mut bytes).map_err(|_none| io::Error::other("there is no randomness to be had"))?;
    Ok(format!("{PREFIX}{}", letters(&bytes)))
}

/// The line of a key in a file, with attributes such as `plan=paid`; what is wrong with them, if it would not be
/// read.
pub fn line(name: &str, key: &str, attributes: &[String]) -> Result<String, BadKey> {
    let line = Key::line(name, key.as_bytes(), attributes);
    // As it will be read, and what it stands for.
    Key::parse(&line, Plain::Refused)?;
    Key::parse(&format!("{name} {key}"), Plain::Allowed)?;
    Ok(line)
}

/// Base 64 for URLs, without padding (RFC 4648 §5).
pub(super) fn letters(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=group.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

/// Why a key that was shown does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dud {
    Expired,
    NotYet,
    Unknown,
}

type Keys = HashMap<Digest, Arc<Key>>;

/// All keys of an API.
#[derive(Debug)]
pub(super) struct Ring {
    own: Keys,
    file: Option<(Watched, ArcSwap<Keys>)>,
}

impl Ring {
    /// The keys of these settings. A file that cannot be read leaves those that `former` had from it, or none.
    pub(super) fn new(api: &str, settings: &Settings, former: Option<&Self>) -> Self {
        let file = settings.file.as_deref().map(|path| {
            let known = former
                .and_then(|former| former.file.as_ref())
                .filter(|(watched, _)| watched.path() == path)
                .map(|(_, keys)| keys.load_full());
            (Watched::new(path), ArcSwap::new(known.unwrap_or_default()))
        });
        let ring = Self { own: by_digest(settings.own.clone()), file };
        // That it is good was found when the settings were read.
        let _first = ring.look(api);
        ring
    }

    /// The key that was shown, by its hash.
    pub(super) fn find(&self, shown: Digest, now: SystemTime) -> Result<Arc<Key>, Dud> {
        let in_file = || self.file.as_ref().and_then(|(_, keys)| keys.load().get(&shown).cloned());
        let key = self.own.get(&shown).cloned().or_else(in_file).ok_or(Dud::Unknown)?;
        if key.not_before.is_some_and(|from| now < from) {
            return Err(Dud::NotYet);
        }
        if key.expires.is_some_and(|to| now >= to) {
            return Err(Dud::Expired);
        }
        Ok(key)
    }

    /// The keys of this name that hold; while one takes the place of another there are two.
    pub(super) fn named(&self, name: &str, now: SystemTime) -> Vec<Arc<Key>> {
        let in_file = self.file.as_ref().map(|(_, keys)| keys.load_full());
        let all = self.own.values().chain(in_file.iter().flat_map(|keys| keys.values()));
        let holds = |key: &&Arc<Key>| {
            **key.name() == *name
                && key.not_before.is_none_or(|from| now >= from)
                && key.expires.is_none_or(|to| now < to)
        };
        all.filter(holds).map(Arc::clone).collect()
    }

    /// Looks at the file, and takes over what has changed; whether that is good, if it has.
    pub(super) fn look(&self, api: &str) -> Option<bool> {
        let (watched, keys) = self.file.as_ref()?;
        let text = watched.look()?;
        let path = watched.path().display();
        match text.map_err(BadKeys::from).and_then(|text| parse(&text)) {
            Ok(new) => {
                let count = new.len();
                keys.store(Arc::new(by_digest(new)));
                tracing::info!(api, %path, keys = count, "file of API keys taken over");
                Some(true)
            }
            Err(error) => {
                tracing::error!(api, %path, %error, "the file of API keys is wrong: the keys stay as they were");
                Some(false)
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.file.as_ref().map_or(0, |(_, keys)| keys.load().len())
    }
}

fn by_digest(keys: Vec<Key>) -> Keys {
    keys.into_iter().map(|key| (key.digest, Arc::new(key))).collect()
}

fn parse(text: &str) -> Result<Vec<Key>, BadKeys> {
    lines(text, Plain::Refused).map_err(|(number, why)| BadKeys::Line { number, why })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn find(ring: &Ring, key: &str, now: &str) -> Result<String, Dud> {
        let found = ring.find(Digest::of(key.as_bytes()), date::parse(now).unwrap());
        found.map(|key| key.name.to_string())
    }

    fn file_line(name: &str, key: &str, attributes: &[&str]) -> String {
        let attributes: Vec<String> = attributes.iter().map(|&text| text.to_owned()).collect();
        line(name, key, &attributes).unwrap()
    }

    #[test]
    fn a_fresh_key_is_long_and_never_the_same_and_its_line_is_read() {
        let (one, other) = (fresh().unwrap(), fresh().unwrap());
        assert!(one.starts_with(PREFIX) && one.len() == PREFIX.len() + 43 && one != other);
        let line = file_line("alice", &one, &["scopes=read", "plan=paid"]);
        assert!(!line.contains(&one));
        let keys = parse(&line).unwrap();
        assert_eq!(keys[0].digest, Digest::of(one.as_bytes()));
        assert_eq!(super::line("alice", &one, &["plan=a b".to_owned()]), Err(BadKey::Attribute));
        assert_eq!(super::line("alice", "short", &[]), Err(BadKey::Short));
    }

    #[test]
    fn letters_are_those_of_base_64_for_urls() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xfb\xff", "-_8")]
        {
            assert_eq!(letters(bytes), text);
        }
    }

    #[test]
    fn a_key_holds_in_its_time_alone() {
        let own = lines(
            "a 0123456789abcdef not_before=2026-01-02 expires=2026-01-03T12:00:00Z",
            Plain::Allowed,
        );
        let settings = Settings { own: own.unwrap(), ..Settings::default() };
        let ring = Ring::new("x", &settings, None);
        let at = |now: &str| find(&ring, "0123456789abcdef", now);
        assert_eq!(at("2026-01-01T23:59:59Z"), Err(Dud::NotYet));
        assert_eq!(at("2026-01-02"), Ok("a".to_owned()));
        assert_eq!(at("2026-01-03T11:59:59Z"), Ok("a".to_owned()));
        assert_eq!(at("2026-01-03T12:00:00Z"), Err(Dud::Expired));
        assert_eq!(find(&ring, "0123456789abcdeF", "2026-01-02"), Err(Dud::Unknown));
    }

    #[test]
    fn a_changed_file_is_obeyed_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (one, two) = ("0123456789abcdef", "fedcba9876543210");
        let settings = Settings { file: Some(path.clone()), ..Settings::default() };
        let ring = Ring::new("x", &settings, None);
        let has = |ring: &Ring, key: &str| find(ring, key, "2026-01-01").is_ok();
        assert!(!has(&ring, one), "without a file nobody has a key");
        fs::write(&path, file_line("a", one, &[])).unwrap();
        ring.look("x");
        assert!(has(&ring, one));
        // Both hold while clients change.
        fs::write(&path, format!("{}\n{}", file_line("a", one, &[]), file_line("a", two, &[])))
            .unwrap();
        ring.look("x");
        assert!(has(&ring, one) && has(&ring, two) && ring.len() == 2);
        fs::write(&path, file_line("a", two, &[])).unwrap();
        ring.look("x");
        assert!(!has(&ring, one) && has(&ring, two));
        fs::write(&path, format!("{}\nnonsense", file_line("a", one, &[]))).unwrap();
        ring.look("x");
        assert!(!has(&ring, one) && has(&ring, two));
        // The next settings find it as it was left, and a file that is gone takes nobody's key.
        let next = Ring::new("x", &settings, Some(&ring));
        assert!(!has(&next, one) && has(&next, two));
        fs::remove_file(&path).unwrap();
        assert!(has(&Ring::new("x", &settings, Some(&next)), two));
        assert!(!has(&Ring::new("x", &settings, None), two));
    }
}
