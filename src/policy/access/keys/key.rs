//! One API key as a line of text: `NAME sha256:HEX`, and behind that what it may do and for how long.
//!
//! Names may stand more than once, so that an old and a new key hold side by side while clients change.
//!
//! SECURITY: no error tells what a line holds, and nothing here is printed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use super::date;
use super::scope;
use super::scope::BadScope;
use super::scope::Deed;
use super::scope::Scope;
use crate::policy::access::digest::Digest;
use crate::policy::access::users::check_name;

/// Before the digits of a hash.
const HASHED: &str = "sha256:";
/// The shortest key that is taken as it is.
const SHORTEST: usize = 16;
/// Bytes of the name of a plan.
const LONGEST_PLAN: usize = 64;

/// Why a line is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    /// Something behind the hash.
    #[error(
        "behind the hash may stand scopes=A,B, plan=NAME, not_before=DAY and expires=DAY, each once and with spaces between them"
    )]
    Attribute,
    /// A time that is none.
    #[error(
        "a time is a day or a moment in UTC, such as 2026-12-31 or 2026-12-31T23:59:59Z, and a key expires behind its not_before"
    )]
    Date,
    /// A hash that is none.
    #[error(
        "behind the name stands sha256: and 64 hexadecimal digits, as `narrows key new NAME` prints them"
    )]
    Hash,
    /// The name.
    #[error("the name of a key is 1 to 128 bytes without spaces, colons and control characters")]
    Name,
    /// The name of a plan.
    #[error("the name of a plan is 1 to 64 letters, digits, -, _ and .")]
    Plan,
    /// A scope that is none.
    #[error(transparent)]
    Scope(#[from] BadScope),
    /// A key itself that is too short.
    #[error("a key that is not hashed has at least 16 characters, all of them printable ASCII")]
    Short,
    /// A second line for one key.
    #[error("the same key stands above, too")]
    Twice,
}

/// Whether a line may hold the key itself in the place of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Allowed,
    Refused,
}

/// An API key: whose it is, what it may be used for, and when.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub(super) name: Arc<str>,
    pub(super) digest: Digest,
    pub(super) scopes: Vec<Scope>,
    pub(super) plan: Option<Arc<str>>,
    pub(super) not_before: Option<SystemTime>,
    pub(super) expires: Option<SystemTime>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FromStr for Key {
    type Err = BadKey;

    /// Reads a line of a file.
    fn from_str(line: &str) -> Result<Self, BadKey> {
        Self::parse(line, Plain::Refused)
    }
}

impl Key {
    /// The name of who has it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The plan that they are on.
    pub fn plan(&self) -> Option<&Arc<str>> {
        self.plan.as_ref()
    }

    /// Whether it may be used for that.
    pub(crate) fn opens(&self, deed: Deed<'_>) -> bool {
        scope::allow(&self.scopes, deed)
    }

    /// Whether some of what it may be used for depends on the path.
    pub(crate) fn has_paths(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, Scope::Requests(_, Some(_))))
    }

    /// Whether it is the same text as another, whoever has that.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Reads a line.
    pub(crate) fn parse(line: &str, plain: Plain) -> Result<Self, BadKey> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().ok_or(BadKey::Name)?;
        check_name(name).map_err(|_why| BadKey::Name)?;
        let secret = words.next().ok_or(BadKey::Hash)?;
        let digest = match (secret.strip_prefix(HASHED), plain) {
            (Some(hex), _) => Digest::parse(hex).ok_or(BadKey::Hash)?,
            (None, Plain::Refused) => return Err(BadKey::Hash),
            (None, Plain::Allowed) => {
                let is_sound =
                    secret.len() >= SHORTEST && secret.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_sound {
                    return Err(BadKey::Short);
                }
                Digest::of(secret.as_bytes())
            }
        };
        let mut key = Self {
            name: name.into(),
            digest,
            scopes: Vec::new(),
            plan: None,
            not_before: None,
            expires: None,
        };
        let mut seen = Vec::new();
        for word in words {
            let (attribute, value) = word.split_once('=').ok_or(BadKey::Attribute)?;
            if seen.contains(&attribute) {
                return Err(BadKey::Attribute);
            }
            seen.push(attribute);
            match attribute {
                "scopes" => {
                    key.scopes = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "plan" => key.plan = Some(plan(value).ok_or(BadKey::Plan)?),
                "not_before" => key.not_before = Some(date::parse(value).ok_or(BadKey::Date)?),
                "expires" => key.expires = Some(date::parse(value).ok_or(BadKey::Date)?),
                _ => return Err(BadKey::Attribute),
            }
        }
        if let (Some(from), Some(to)) = (key.not_before, key.expires)
            && from >= to
        {
            return Err(BadKey::Date);
        }
        Ok(key)
    }

    /// The line of a key, which it would be read from; `attributes` as they are written.
    pub(super) fn line(name: &str, secret: &[u8], attributes: &[String]) -> String {
        let mut line = format!("{name} {HASHED}{}", Digest::of(secret).hex());
        for attribute in attributes {
            line.push(' ');
            line.push_str(attribute);
        }
        line
    }
}

fn plan(text: &str) -> Option<Arc<str>> {
    let is_sound = (1..=LONGEST_PLAN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    is_sound.then(|| text.into())
}

/// All keys of a text, one a line; empty lines and such as begin with `#` say nothing. The number of the
/// first line that is wrong, and why.
pub(crate) fn lines(text: &str, plain: Plain) -> Result<Vec<Key>, (usize, BadKey)> {
    let mut keys: Vec<Key> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = Key::parse(line, plain).map_err(|why| (index + 1, why))?;
        if !seen.insert(key.digest) {
            return Err((index + 1, BadKey::Twice));
        }
        keys.push(key);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_line_says_whose_key_it_is_what_it_may_do_and_for_how_long() {
        let line = format!(
            "alice  sha256:{HEX} scopes=read,POST:/v1 plan=paid not_before=2026-01-01 expires=2027-01-01"
        );
        let key = Key::parse(&line, Plain::Refused).unwrap();
        assert_eq!((&*key.name, key.plan.as_deref()), ("alice", Some("paid")));
        assert_eq!(key.digest, Digest::of(b"abc"));
        let scopes: Vec<String> = key.scopes.iter().map(ToString::to_string).collect();
        assert_eq!(scopes, ["read", "POST:/v1"]);
        assert_eq!(key.not_before, date::parse("2026-01-01"));
        assert_eq!(key.expires, date::parse("2027-01-01"));
        let bare = Key::parse(&format!("b sha256:{HEX}"), Plain::Refused).unwrap();
        assert!(bare.scopes.is_empty() && bare.plan.is_none() && bare.expires.is_none());
    }

    #[test]
    fn a_key_itself_is_read_only_where_that_is_allowed() {
        let line = "alice 0123456789abcdef plan=free";
        assert_eq!(Key::parse(line, Plain::Refused), Err(BadKey::Hash));
        let key = Key::parse(line, Plain::Allowed).unwrap();
        assert_eq!(key.digest, Digest::of(b"0123456789abcdef"));
        assert_eq!(Key::parse("alice 0123456789abcde", Plain::Allowed), Err(BadKey::Short));
    }

    #[test]
    fn a_wrong_line_is_told_by_its_number_and_without_what_it_holds() {
        let good = format!("sha256:{HEX}");
        for (line, why) in [
            ("alice".to_owned(), BadKey::Hash),
            ("alice sesame".to_owned(), BadKey::Hash),
            ("alice sha256:sesame".to_owned(), BadKey::Hash),
            (format!("a:b {good}"), BadKey::Name),
            (format!("{} {good}", "a".repeat(129)), BadKey::Name),
            (format!("alice {good} sesame"), BadKey::Attribute),
            (format!("alice {good} color=sesame"), BadKey::Attribute),
            (format!("alice {good} plan=a plan=b"), BadKey::Attribute),
            (format!("alice {good} plan="), BadKey::Plan),
            (format!("alice {good} plan=a/b"), BadKey::Plan),
            (format!("alice {good} scopes="), BadKey::Scope(BadScope)),
            (format!("alice {good} scopes=read,sesame"), BadKey::Scope(BadScope)),
            (format!("alice {good} expires=tomorrow"), BadKey::Date),
            (format!("alice {good} expires=2026-01-01 not_before=2026-01-01"), BadKey::Date),
            (format!("bob {good}"), BadKey::Twice),
        ] {
            let text = format!("# keys\nalice {good} plan=a\n\n{line}\n");
            let (number, told) = lines(&text, Plain::Refused).unwrap_err();
            assert_eq!((number, told), (4, why), "{line}");
            assert!(!told.to_string().contains("sesame"));
        }
    }

    #[test]
    fn one_name_may_have_several_keys() {
        let text = format!("alice sha256:{HEX}\nalice {}\n", &Key::line("x", b"other", &[])[2..]);
        assert_eq!(lines(&text, Plain::Refused).unwrap().len(), 2);
        assert!(!format!("{:?}", lines(&text, Plain::Refused)).contains(&HEX[..8]));
    }
}
