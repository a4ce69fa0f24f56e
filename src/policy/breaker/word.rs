//! What instances say to each other of a circuit: one line of words, as `lua/breaker.lua` makes it.

use std::time::Duration;

/// The state of a circuit as one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letter {
    Closed,
    Open,
    HalfOpen,
}

impl Letter {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "c",
            Self::Open => "o",
            Self::HalfOpen => "h",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "c" => Some(Self::Closed),
            "o" => Some(Self::Open),
            "h" => Some(Self::HalfOpen),
            _ => None,
        }
    }
}

/// What the fleet knows of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Rises with each change: of two words the higher is the newer.
    pub(super) version: u64,
    /// Changes with the state.
    pub(super) generation: u64,
    pub(super) letter: Letter,
    pub(super) failures: u32,
    pub(super) successes: u32,
    /// Until an attempt may probe; half-open, until a place to do so may come free.
    pub(super) left: Duration,
}

impl Word {
    /// Reads one; none if it is another version's.
    pub(super) fn parse<T: AsRef<str>>(words: &[T]) -> Option<Self> {
        let [version, generation, letter, failures, successes, left, ..] = words else {
            return None;
        };
        Some(Self {
            version: version.as_ref().parse().ok()?,
            generation: generation.as_ref().parse().ok()?,
            letter: Letter::parse(letter.as_ref())?,
            failures: failures.as_ref().parse().ok()?,
            successes: successes.as_ref().parse().ok()?,
            left: Duration::from_millis(left.as_ref().parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_another_kind_is_no_word() {
        let good = ["7", "5", "o", "3", "0", "1500"];
        let word = Word::parse(&good).unwrap();
        assert_eq!((word.version, word.generation, word.letter), (7, 5, Letter::Open));
        assert_eq!(word.left, Duration::from_millis(1500));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] = "x";
            assert_eq!(Word::parse(&bad), None, "{bad:?}");
            assert_eq!(Word::parse(&good[..at]), None);
        }
    }
}
