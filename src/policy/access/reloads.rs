//! How often keys changed while it runs: taken over, or wrong and without effect.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The file of API keys.
    Keys,
    /// Files of keys that tokens are verified with.
    Tokens,
    /// A key set that is fetched; each fetch counts.
    KeySet,
}

impl Of {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Keys, Self::Tokens, Self::KeySet];

    /// The word for metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Tokens => "tokens",
            Self::KeySet => "jwks_url",
        }
    }
}

/// Counts, by [`Of`]: failed, and taken over.
#[derive(Debug, Default)]
pub(crate) struct Reloads([[AtomicU64; 2]; Of::ALL.len()]);

impl Reloads {
    pub(super) fn note(&self, of: Of, is_good: bool) {
        self.0[of as usize][usize::from(is_good)].fetch_add(1, Relaxed);
    }

    /// Those that failed, and those that were good.
    pub(crate) fn counts(&self, of: Of) -> [u64; 2] {
        [0, 1].map(|at| self.0[of as usize][at].load(Relaxed))
    }
}
