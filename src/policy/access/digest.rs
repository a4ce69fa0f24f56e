//! What stands for a secret that was shown: its SHA-256. API keys and tokens are long and random, so
//! that nothing slower is needed, and nothing that is kept is the secret itself.
//!
//! SECURITY: compared in constant time.

use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;

use aws_lc_rs::digest;
use subtle::ConstantTimeEq;

/// The SHA-256 of a secret.
#[derive(Clone, Copy, Eq)]
pub(super) struct Digest([u8; 32]);

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_be_bytes(first));
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(secret)")
    }
}

impl Digest {
    pub(super) fn of(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&digest::digest(&digest::SHA256, secret).as_ref()[..32]);
        Self(bytes)
    }

    /// Reads it as hexadecimal digits.
    pub(super) fn parse(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }

    /// One of its bytes, which are as good as random.
    pub(super) fn last(&self) -> u8 {
        self.0[31]
    }

    /// The same as text.
    pub(super) fn hex(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_standard_and_is_told_to_nobody() {
        // FIPS 180-4, of "abc".
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").hex(), hex);
        assert_eq!(Digest::parse(&hex.to_uppercase()), Some(Digest::of(b"abc")));
        assert_ne!(Digest::of(b"abd"), Digest::of(b"abc"));
        for wrong in ["", &hex[1..], &format!("{hex}00"), &hex.replace('b', "g")] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{:?}", Digest::of(b"abc")), "Digest(secret)");
    }
}
