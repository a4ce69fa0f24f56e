//! What came of what rules said: counted by rule, for the metrics.
//!
//! Admitted requests are not counted here: they are all that there were, less these. PERF: so a
//! request that nobody stops counts nothing.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::Rule;

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It had to wait.
    Waited,
    /// It was refused.
    Refused,
    /// It would have had to wait, or been refused, and went on since the rule only observes.
    Observed,
}

impl Effect {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Waited, Self::Refused, Self::Observed];

    /// The word for metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Waited => "waited",
            Self::Refused => "refused",
            Self::Observed => "observed",
        }
    }
}

/// How often each rule made itself felt, or would have.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    counts: [[AtomicU64; Effect::ALL.len()]; Rule::WORDS.len()],
}

impl Decided {
    /// A decision of this rule, and what came of it.
    pub(crate) fn note(&self, rule: Rule, effect: Effect) {
        self.counts[rule.index()][effect as usize].fetch_add(1, Relaxed);
    }

    /// Adds what was counted to the sums, by [`Rule::WORDS`] and [`Effect::ALL`].
    pub(crate) fn add_to(&self, sums: &mut Sums) {
        for (sums, counts) in sums.iter_mut().zip(&self.counts) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = sum.wrapping_add(count.load(Relaxed));
            }
        }
    }
}

/// By [`Rule::WORDS`], and within each by [`Effect::ALL`].
pub(crate) type Sums = [[u64; Effect::ALL.len()]; Rule::WORDS.len()];
