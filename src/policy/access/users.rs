//! The users file: who there is, the hash of each one's password, and what each may have.
//!
//! One user a line, `NAME:HASH` or `NAME:HASH:limit=N,weight=N`; empty lines and such as begin with
//! `#` say nothing. A file with a line that is wrong is wrong as a whole.
//!
//! SECURITY: no error tells what a line holds, and nothing here is printed.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use argon2::Argon2;
use argon2::Params;
use argon2::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use bcrypt::HashParts;
use thiserror::Error;

use crate::base::identity::Traits;

/// Bytes of a name.
const LONGEST_NAME: usize = 128;
/// The costliest hashes that are taken: one that nobody could wait for helps nobody.
const MOST_MEMORY: u32 = 256 * 1024; // KiB
const MOST_PASSES: u32 = 20;
const MOST_LANES: u32 = 16;
const MOST_BCRYPT: u32 = 15;

/// Why a line is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadLine {
    /// Behind the hash.
    #[error(
        "behind the hash may stand limit=N (0 is unlimited), weight=N (1 to 100), or both with a comma"
    )]
    Attributes,
    /// A hash that is none of those.
    #[error(
        "the hash must be argon2's ($argon2id$v=19$m=...$...$...) or bcrypt's ($2b$12$...), as \
         `narrows passwd` prints one"
    )]
    Hash,
    /// The name.
    #[error(
        "the name must be 1 to 128 bytes, without control characters, and no space at its ends"
    )]
    Name,
    /// No colon.
    #[error("a user is NAME:HASH, or NAME:HASH:limit=N,weight=N")]
    Shape,
    /// A hash that would take too long.
    #[error(
        "the hash is too costly: argon2 up to m=262144 (KiB), t=20 and p=16, bcrypt up to a cost of 15"
    )]
    TooCostly,
    /// A second line for one name.
    #[error("the name stands on a line above, too")]
    Twice,
}

/// The hash of a password.
pub(super) struct Hash {
    text: Box<str>,
    kind: Kind,
}

enum Kind {
    Argon2(Box<PasswordHash>),
    Bcrypt,
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(secret)")
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, BadLine> {
        let kind = if text.starts_with("$argon2") {
            let hash = PasswordHash::new(text).map_err(|_why| BadLine::Hash)?;
            let params = Params::try_from(&hash).map_err(|_why| BadLine::Hash)?;
            let is_known = matches!(hash.algorithm.as_str(), "argon2id" | "argon2i" | "argon2d");
            if !is_known || hash.salt.is_none() || hash.hash.is_none() {
                return Err(BadLine::Hash);
            }
            let is_cheap = params.m_cost() <= MOST_MEMORY
                && params.t_cost() <= MOST_PASSES
                && params.p_cost() <= MOST_LANES;
            if !is_cheap {
                return Err(BadLine::TooCostly);
            }
            Kind::Argon2(Box::new(hash))
        } else {
            // "$2x$" marks hashes of a faulty implementation, which take more than one password.
            let is_known = ["$2a$", "$2b$", "$2y$"].iter().any(|known| text.starts_with(known));
            let parts: Option<HashParts> = text.parse().ok().filter(|_| is_known);
            if parts.ok_or(BadLine::Hash)?.get_cost() > MOST_BCRYPT {
                return Err(BadLine::TooCostly);
            }
            Kind::Bcrypt
        };
        Ok(Self { text: text.into(), kind })
    }

    /// Whether it is this password's. Takes as long as the hash was made to take; both
    /// implementations compare in constant time.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Kind::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or(false),
        }
    }
}

/// One user.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    /// The same [`Arc`] for as long as the hash stays the same, whatever else of the file changes.
    pub(super) hash: Arc<Hash>,
    pub(super) traits: Traits,
}

/// All users of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    by_name: HashMap<Arc<str>, User>,
    /// In the order of the file.
    hashes: Vec<Arc<Hash>>,
}

impl Users {
    /// Reads the text of a file that was read `before`; the number of the first line that is wrong, and
    /// why.
    pub(super) fn successor(before: &Self, text: &str) -> Result<Self, (usize, BadLine)> {
        let mut users = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            users.add(before, line).map_err(|why| (index + 1, why))?;
        }
        Ok(users)
    }

    fn add(&mut self, before: &Self, line: &str) -> Result<(), BadLine> {
        let (name, rest) = line.split_once(':').ok_or(BadLine::Shape)?;
        let (hash, attributes) = rest.split_once(':').unwrap_or((rest, ""));
        check_name(name)?;
        let traits = traits(attributes)?;
        let known = before.by_name.get(name).filter(|user| *user.hash.text == *hash);
        let hash = match known {
            Some(user) => Arc::clone(&user.hash),
            None => Arc::new(Hash::parse(hash)?),
        };
        self.hashes.push(Arc::clone(&hash));
        let name: Arc<str> = name.into();
        let user = User { name: Arc::clone(&name), hash, traits };
        if self.by_name.insert(name, user).is_some() {
            return Err(BadLine::Twice);
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// A hash for a name that nobody has, so that it costs what a user's costs: always the same for
    /// one `number`. What it says of a password means nothing.
    pub(super) fn decoy(&self, number: u64) -> Option<&Arc<Hash>> {
        let index = number.checked_rem(self.hashes.len() as u64)?;
        self.hashes.get(usize::try_from(index).ok()?)
    }

    /// Who of these is another now, or gone.
    pub(super) fn changed(&self, after: &Self) -> HashSet<Arc<str>> {
        let is_same = |user: &&User| {
            after.get(&user.name).is_some_and(|now| Arc::ptr_eq(&now.hash, &user.hash))
        };
        let changed = self.by_name.values().filter(|user| !is_same(user));
        changed.map(|user| Arc::clone(&user.name)).collect()
    }

    /// Those who have something of their own.
    pub(super) fn traits(&self) -> HashMap<Arc<str>, Traits> {
        let own = self.by_name.values().filter(|user| user.traits != Traits::default());
        own.map(|user| (Arc::clone(&user.name), user.traits)).collect()
    }
}

/// Whether a name can be a user's.
pub(crate) fn check_name(name: &str) -> Result<(), BadLine> {
    let is_sound = (1..=LONGEST_NAME).contains(&name.len())
        && name.trim() == name
        && !name.contains(':')
        && !name.starts_with('#')
        && !name.chars().any(char::is_control);
    if is_sound { Ok(()) } else { Err(BadLine::Name) }
}

fn traits(text: &str) -> Result<Traits, BadLine> {
    let mut traits = Traits::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or(BadLine::Attributes)?;
        // The standard library's parser takes "+5" too.
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u32> = value.parse().ok().filter(|_| is_number);
        let to = match key {
            "limit" => &mut traits.limit,
            "weight" if number.is_some_and(|weight| (1..=100).contains(&weight)) => {
                &mut traits.weight
            }
            _ => return Err(BadLine::Attributes),
        };
        if to.replace(number.ok_or(BadLine::Attributes)?).is_some() {
            return Err(BadLine::Attributes);
        }
    }
    Ok(traits)
}

#[cfg(test)]
pub(super) mod tests {
    use argon2::Algorithm;
    use argon2::PasswordHasher;
    use argon2::Version;

    use super::*;

    fn parse(text: &str) -> Result<Users, (usize, BadLine)> {
        Users::successor(&Users::default(), text)
    }

    /// A hash that costs next to nothing.
    pub(in super::super) fn cheap(password: &str) -> String {
        let params = Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn users_are_read_with_hashes_of_both_kinds_and_what_they_may_have() {
        let bcrypt = bcrypt::hash("two", 4).unwrap();
        let text = format!(
            "# users\n\n  # more\nalice:{}\r\nbob:{bcrypt}:limit=5, weight=3\nü b:{}:weight=2\n",
            cheap("one"),
            cheap("three")
        );
        let users = parse(&text).unwrap();
        assert_eq!(users.len(), 3);
        for (name, password) in [("alice", "one"), ("bob", "two"), ("ü b", "three")] {
            let user = users.get(name).unwrap();
            assert!(user.hash.verify(password.as_bytes()), "{name}");
            assert!(!user.hash.verify(b"four"), "{name}");
        }
        let traits = users.traits();
        assert_eq!(traits["bob"], Traits { limit: Some(5), weight: Some(3) });
        assert_eq!(traits["ü b"], Traits { limit: None, weight: Some(2) });
        assert_eq!(traits.get("alice"), None);
    }

    #[test]
    fn a_wrong_line_is_told_by_its_number_and_without_what_it_holds() {
        let hash = cheap("one");
        let costly = hash.replace("m=8,", "m=999999,");
        for (line, why) in [
            ("alice".to_owned(), BadLine::Shape),
            (format!(":{hash}"), BadLine::Name),
            (format!(" alice:{hash}"), BadLine::Name),
            (format!("a\tb:{hash}"), BadLine::Name),
            (format!("{}:{hash}", "a".repeat(129)), BadLine::Name),
            ("alice:".to_owned(), BadLine::Hash),
            ("alice:secret".to_owned(), BadLine::Hash),
            ("alice:$argon2id$v=19$m=8,t=1,p=1".to_owned(), BadLine::Hash),
            ("alice:$1$salt$hash".to_owned(), BadLine::Hash),
            (
                format!("alice:{}", bcrypt::hash("x", 4).unwrap().replace("$2b", "$2x")),
                BadLine::Hash,
            ),
            (format!("alice:{costly}"), BadLine::TooCostly),
            (format!("alice:{hash}:limit"), BadLine::Attributes),
            (format!("alice:{hash}:limit=+1"), BadLine::Attributes),
            (format!("alice:{hash}:weight=0"), BadLine::Attributes),
            (format!("alice:{hash}:limit=1,limit=2"), BadLine::Attributes),
            (format!("alice:{hash}:rate=1"), BadLine::Attributes),
            (format!("bob:{hash}"), BadLine::Twice),
        ] {
            let text = format!("#\nbob:{hash}\n{line}\n");
            let (number, told) = parse(&text).unwrap_err();
            assert_eq!((number, told), (3, why), "{line}");
            assert!(!told.to_string().contains("secret"));
        }
    }

    #[test]
    fn who_changed_is_known_by_the_hash_alone() {
        let (one, two, three) = (cheap("one"), cheap("two"), cheap("three"));
        let before = parse(&format!("a:{one}\nb:{two}\nc:{two}:limit=1")).unwrap();
        let after = format!("c:{two}:limit=2\nd:{one}\na:{three}");
        let after = Users::successor(&before, &after).unwrap();
        let changed = before.changed(&after);
        assert_eq!(changed.len(), 2);
        assert!(changed.contains("a") && changed.contains("b"));
    }

    #[test]
    fn a_stranger_costs_what_one_of_the_users_costs() {
        assert!(Users::default().decoy(7).is_none());
        let users = parse(&format!("a:{}\nb:{}", cheap("one"), cheap("two"))).unwrap();
        let decoy = |number| users.decoy(number).unwrap();
        assert!(Arc::ptr_eq(decoy(2), &users.get("a").unwrap().hash));
        assert!(Arc::ptr_eq(decoy(3), &users.get("b").unwrap().hash));
        assert_eq!(format!("{users:?}").matches("argon2").count(), 0);
    }
}
