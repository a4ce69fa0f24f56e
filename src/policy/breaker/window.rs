//! The share of failed and of slow calls of late.
//!
//! Ten buckets, each for a tenth of the time that is looked back over; the oldest is used anew. So it
//! takes the same room however many calls there are, and forgets a tenth of them at once.

use std::time::Duration;

use tokio::time::Instant;

use super::Rates;

const BUCKETS: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Window {
    start: Instant,
    /// Of each bucket.
    width: Duration,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Which tenth since the start it counts.
    turn: u64,
    calls: u32,
    failed: u32,
    slow: u32,
}

impl Window {
    pub(super) fn new(rates: &Rates, now: Instant) -> Self {
        let width = (rates.window / 10).max(Duration::from_millis(1));
        Self { start: now, width, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    /// Whether it was made for these settings.
    pub(super) fn fits(&self, rates: &Rates) -> bool {
        self.width == (rates.window / 10).max(Duration::from_millis(1))
    }

    /// Counts a call, and says whether there are too many failed or slow ones now.
    pub(super) fn count(&mut self, failed: bool, slow: bool, now: Instant, rates: &Rates) -> bool {
        let turn = self.turn(now);
        let at = usize::try_from(turn % u64::from(BUCKETS)).unwrap_or_default();
        let bucket = &mut self.buckets[at];
        if bucket.turn != turn {
            *bucket = Bucket { turn, ..Bucket::default() };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failed = bucket.failed.saturating_add(failed.into());
        bucket.slow = bucket.slow.saturating_add(slow.into());
        let (calls, failed, slow) = self.sum(turn);
        let is_over =
            |part: u64, rate: f64| part > 0 && rate <= 100.0 && share(part, calls) >= rate;
        calls >= u64::from(rates.minimum_calls).max(1)
            && (is_over(failed, rates.failure_rate) || is_over(slow, rates.slow_call_rate))
    }

    /// Whether no call is remembered.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        self.sum(self.turn(now)).0 == 0
    }

    fn turn(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_micros();
        u64::try_from(passed / self.width.as_micros().max(1)).unwrap_or(u64::MAX)
    }

    fn sum(&self, turn: u64) -> (u64, u64, u64) {
        let fresh = self.buckets.iter().filter(|bucket| bucket.turn + u64::from(BUCKETS) > turn);
        fresh.fold((0, 0, 0), |(calls, failed, slow), bucket| {
            (
                calls + u64::from(bucket.calls),
                failed + u64::from(bucket.failed),
                slow + u64::from(bucket.slow),
            )
        })
    }
}

/// Per cent.
#[expect(clippy::cast_precision_loss, reason = "of a share nobody wants the twelfth digit")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    fn rates() -> Rates {
        Rates { window: Duration::from_secs(10), minimum_calls: 4, ..Rates::default() }
    }

    #[test]
    fn nothing_is_judged_below_the_minimum_of_calls() {
        let (rates, now) = (rates(), clock::now());
        let mut window = Window::new(&rates, now);
        for _ in 0..3 {
            assert!(!window.count(true, false, now, &rates));
        }
        assert!(window.count(true, false, now, &rates));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (rates, start) = (rates(), clock::now());
        let mut window = Window::new(&rates, start);
        for _ in 0..3 {
            window.count(true, false, start, &rates);
        }
        assert!(!window.is_empty(start + Duration::from_secs(9)));
        let later = start + Duration::from_secs(10);
        assert!(window.is_empty(later));
        assert!(!window.count(true, false, later, &rates));
    }

    #[test]
    fn slow_calls_are_judged_by_a_rate_of_their_own() {
        let rates = Rates { failure_rate: 101.0, slow_call_rate: 50.0, ..rates() };
        let now = clock::now();
        let mut window = Window::new(&rates, now);
        for slow in [true, false, false] {
            assert!(!window.count(true, slow, now, &rates));
        }
        assert!(window.count(false, true, now, &rates));
    }

    proptest! {
        #[test]
        fn it_counts_what_a_list_of_all_calls_would(
            steps in prop::collection::vec((0_u64..4, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let rates = Rates { slow_call_rate: 70.0, ..rates() };
            let start = clock::now();
            let mut window = Window::new(&rates, start);
            let mut list: VecDeque<(u64, bool, bool)> = VecDeque::new();
            let mut second = 0;
            for (wait, failed, slow) in steps {
                second += wait;
                // A bucket is a second wide here, so nothing is forgotten in part.
                list.retain(|(at, ..)| at + 10 > second);
                list.push_back((second, failed, slow));
                let over = window.count(failed, slow, start + Duration::from_secs(second), &rates);
                let count = |is: fn(&(u64, bool, bool)) -> bool| list.iter().filter(|c| is(c)).count();
                let (failures, slows) = (count(|call| call.1), count(|call| call.2));
                let wanted = list.len() >= 4
                    && (failures * 100 >= list.len() * 50 || slows * 100 >= list.len() * 70);
                prop_assert_eq!(over, wanted);
            }
        }
    }
}
