//! How often the log hears of failed attempts of one API: of each cause once in a while.
//!
//! All threads of the instance tell it here; it costs nothing while nothing fails. What is counted for
//! metrics stands in `api/counts.rs`.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::Cause;
use crate::base::clock;

/// The log hears of one cause no more often.
const SAY: Duration = Duration::from_secs(1);

/// Failed attempts of one API.
#[derive(Debug)]
pub(crate) struct Failures {
    began: Instant,
    by_cause: [Count; Cause::ALL.len()],
}

#[derive(Debug, Default)]
struct Count {
    all: AtomicU64,
    told: AtomicU64,
    /// Milliseconds from `began` to when it may be told again.
    silent_until: AtomicU64,
}

impl Default for Failures {
    fn default() -> Self {
        Self { began: clock::now(), by_cause: Default::default() }
    }
}

impl Failures {
    /// Counts one; how many there were since the log was told last, if it is to be told now.
    pub(crate) fn note(&self, cause: Cause, now: Instant) -> Option<u64> {
        let count = &self.by_cause[cause as usize];
        let all = count.all.fetch_add(1, Relaxed) + 1;
        let now = milliseconds(now.saturating_duration_since(self.began));
        let until = count.silent_until.load(Relaxed);
        let next = now + milliseconds(SAY);
        let is_due = now >= until
            && count.silent_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        is_due.then(|| all.saturating_sub(count.told.swap(all, Relaxed)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_is_told_of_the_first_and_then_once_in_a_while_of_all_since() {
        let failures = Failures::default();
        let note = |cause| failures.note(cause, clock::now());
        assert_eq!(note(Cause::Reset), Some(1));
        assert_eq!((note(Cause::Reset), note(Cause::Reset)), (None, None));
        assert_eq!(note(Cause::Dns), Some(1), "each cause speaks for itself");
        tokio::time::advance(SAY).await;
        assert_eq!(note(Cause::Reset), Some(3));
    }

    #[test]
    fn causes_are_counted_at_their_places() {
        for (at, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at);
        }
    }
}
