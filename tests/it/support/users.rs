//! A file of users with passwords, and what a client sends that is one of them.

use std::path::PathBuf;

use argon2::Algorithm;
use argon2::Argon2;
use argon2::Params;
use argon2::PasswordHasher;
use argon2::Version;
use tempfile::TempDir;

use crate::support::Setup;
use crate::support::narrows;

/// A users file.
pub(crate) struct Users {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Users {
    /// Each with the password `NAME's` and what stands behind the colon.
    pub(crate) fn new(users: &[&str]) -> Users {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, lines(users)).unwrap();
        Users { folder, path }
    }

    pub(crate) fn setup(&self) -> Setup {
        narrows().flags(format!("--proxy-auth {}", self.path.display()))
    }
}

pub(crate) fn lines(users: &[&str]) -> String {
    let line = |user: &&str| {
        let (name, rest) = user.split_once(':').unwrap_or((user, ""));
        format!("{name}:{}:{rest}\n", hash(&format!("{name}'s"), 1))
    };
    users.iter().map(line).collect()
}

/// A hash that costs next to nothing, but for its `passes` over 8 MiB when there are several.
pub(crate) fn hash(password: &str, passes: u32) -> String {
    let memory = if passes == 1 { 8 } else { 8 * 1024 };
    let params = Params::new(memory, passes, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password(password.as_bytes()).unwrap().to_string()
}

/// The field that a client sends for this user with that password.
pub(crate) fn field(user: &str, password: &str) -> String {
    format!("Proxy-Authorization: {}", credentials(user, password))
}

/// The field of a user with the password that [`Users::new`] gave it.
pub(crate) fn own(user: &str) -> String {
    field(user, &format!("{user}'s"))
}

/// The value of that field.
pub(crate) fn credentials(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// RFC 4648 §4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) & 63;
            let digit = if digit <= group.len() { DIGITS[at as usize] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}
