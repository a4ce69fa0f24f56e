//! The retry budget: retries are a share of the requests, so that they never multiply an outage.
//!
//! Each request puts in its share of a retry, each retry takes a whole one out. Beside that a few
//! per second are free, so that an API with few requests can be retried at all. One budget is shared
//! by all threads of the instance; with it full, as it is while all goes well, a request costs one
//! load of a word that nobody writes.
//!
//! Invariant: of N requests in T seconds at most N x share + (T + 1) x floor are followed by retries,
//! and [`RESERVE`] more if they come after better times.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock;

/// Of one retry, in parts.
const ONE: u64 = 10_000;
/// Retries that good times can save up.
const RESERVE: u64 = 100;

/// What may be spent on retries.
#[derive(Debug)]
pub(super) struct Budget {
    /// Saved up by requests, in parts of a retry.
    saved: AtomicU64,
    began: Instant,
    /// Nanoseconds from `began` to when all that was free has been earned again.
    earned: AtomicU64,
}

/// How a budget is filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What a request puts in, in parts of a retry.
    share: u64,
    /// How long it takes to earn a free one; none are free without.
    every: Option<Duration>,
}

impl Terms {
    /// So many per cent of the requests, and so many per second.
    pub(super) fn new(percent: f64, floor: f64) -> Self {
        let every = (floor > 0.0).then(|| Duration::try_from_secs_f64(1.0 / floor)).transpose();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of 0 to 100 per cent; a cast never wraps"
        )]
        let share = (percent * 100.0).round() as u64;
        // Too seldom to be told is never.
        Self { share, every: every.unwrap_or_default() }
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { saved: AtomicU64::new(0), began: clock::now(), earned: AtomicU64::new(0) }
    }

    /// A request has come.
    pub(super) fn earn(&self, terms: Terms) {
        // Two threads may overshoot the reserve by a share each, which is no harm.
        if self.saved.load(Relaxed) < RESERVE * ONE {
            self.saved.fetch_add(terms.share, Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub(super) fn spend(&self, terms: Terms, now: Instant) -> bool {
        let saved = self.saved.fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(ONE));
        saved.is_ok() || terms.every.is_some_and(|every| self.take_free(every, now))
    }

    /// Takes one of those that are free: what a second brings at once, and then each in its time.
    fn take_free(&self, every: Duration, now: Instant) -> bool {
        let now = nanoseconds(now.saturating_duration_since(self.began));
        let every = nanoseconds(every).max(1);
        let most = now + every.max(nanoseconds(Duration::from_secs(1)));
        let taken = self.earned.fetch_update(Relaxed, Relaxed, |earned| {
            let after = earned.max(now) + every;
            (after <= most).then_some(after)
        });
        taken.is_ok()
    }
}

/// As many as fit, four times over: a century.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spent(budget: &Budget, terms: Terms, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| budget.spend(terms, now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_requests_may_be_retries() {
        let (budget, terms) = (Budget::new(), Terms::new(20.0, 0.0));
        assert!(!budget.spend(terms, clock::now()), "nothing is saved at first");
        for _ in 0..50 {
            budget.earn(terms);
        }
        assert_eq!(spent(&budget, terms, clock::now(), 100), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_free_comes_back_with_time() {
        let (budget, terms) = (Budget::new(), Terms::new(0.0, 10.0));
        assert_eq!(spent(&budget, terms, clock::now(), 100), 10);
        tokio::time::advance(Duration::from_millis(301)).await;
        assert_eq!(spent(&budget, terms, clock::now(), 100), 3);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(spent(&budget, terms, clock::now(), 100), 10, "it does not pile up");
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_free_where_less_than_one_per_second_is() {
        let (budget, terms) = (Budget::new(), Terms::new(0.0, 0.5));
        assert_eq!(spent(&budget, terms, clock::now(), 100), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(spent(&budget, terms, clock::now(), 100), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(spent(&budget, terms, clock::now(), 100), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn good_times_save_up_no_more_than_the_reserve() {
        let (budget, terms) = (Budget::new(), Terms::new(20.0, 0.0));
        for _ in 0..100_000 {
            budget.earn(terms);
        }
        assert_eq!(spent(&budget, terms, clock::now(), 1000), 100);
    }

    #[test]
    fn threads_together_spend_no_more_than_one_would() {
        let (budget, terms) = (Budget::new(), Terms::new(10.0, 0.0));
        let each = || {
            let once = |_: &usize| {
                budget.earn(terms);
                budget.spend(terms, budget.began)
            };
            (0..10_000).filter(once).count()
        };
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(all, 4000);
    }

    proptest! {
        /// Each is a request that fails, after so many milliseconds.
        #[test]
        fn no_outage_is_multiplied(
            percent in 0.0..100.0_f64,
            floor in 0.0..50.0_f64,
            gaps in prop::collection::vec(0_u64..500, 1..300),
        ) {
            let (budget, terms) = (Budget::new(), Terms::new(percent, floor));
            let (mut now, mut retries) = (budget.began, 0);
            let number = |count: usize| f64::from(u32::try_from(count).unwrap());
            for gap in &gaps {
                now += Duration::from_millis(*gap);
                budget.earn(terms);
                retries += spent(&budget, terms, now, 4);
            }
            let (requests, seconds) = (number(gaps.len()), (now - budget.began).as_secs_f64());
            let most = requests * (percent + 0.005) / 100.0 + (seconds + 1.0) * floor + 1.0;
            prop_assert!(number(retries) <= most, "{retries} > {most}");
        }
    }
}
