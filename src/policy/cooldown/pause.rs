//! One cool-down: until when nobody goes, and at which pace they go then.
//!
//! A state that takes the time and gives turns; it waits for nothing and tells nobody. Turns are
//! numbered, and the number says when one's turn is: at the pace of the ramp, which is `rate` per
//! second in the first second and twice that in each that follows. A turn that nobody took in time
//! is lost, so that silence saves nothing up for a stampede.
//!
//! Invariants: an end moves later and never earlier, but by an operator's word; then it is another
//! pause, or none. Who has a turn keeps it when the end moves while all still wait. In any second of
//! the ramp no more turns come than the pace has, and one.

use std::time::Duration;

use tokio::time::Instant;

/// For how long at least the pace is kept.
const RAMP: Duration = Duration::from_secs(5);
/// Two ends that differ by less are the same one, heard by two ways.
const SAME: Duration = Duration::from_millis(100);

/// A cool-down.
#[derive(Debug)]
pub(super) struct Pause {
    until: Instant,
    /// That of the answer that asked for it.
    pub(super) status: u16,
    /// Whether more was asked for than is obeyed.
    pub(super) is_capped: bool,
    /// Who waits here with a turn.
    pub(super) waiting: usize,
    /// Another number than before: turns are given anew.
    term: u64,
    /// Number of the next turn.
    next: u64,
    pace: Pace,
}

/// What an answer, or another instance, asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) until: Instant,
    pub(super) status: u16,
    pub(super) is_capped: bool,
}

/// A place in the order of those who go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    term: u64,
    number: u64,
}

/// How fast turns follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Per second, in the first second; 0 is without a pace.
    pub(super) rate: f64,
    /// By which part of a turn all turns are later, so that instances do not go in step.
    pub(super) phase: f64,
}

/// What one who asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Go.
    Go,
    /// Go then, with this turn.
    At(Instant, Turn),
    /// It cannot be now; before then it is not worth asking.
    TooLate(Instant),
}

impl Pause {
    pub(super) fn new(asked: Asked, term: u64, pace: Pace) -> Self {
        let Asked { until, status, is_capped } = asked;
        Self { until, status, is_capped, waiting: 0, term, next: 0, pace }
    }

    /// Until when nobody goes.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Whether it has come to nothing: the ramp is over too, and all who waited could go.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let ramp = if self.pace.rate > 0.0 { RAMP } else { Duration::ZERO };
        self.until + ramp <= now && self.at(self.next) <= now
    }

    /// Somebody asked for this; whether that changes anything. `term` is used if it begins anew.
    pub(super) fn extend(&mut self, asked: Asked, now: Instant, term: u64, pace: Pace) -> bool {
        if asked.until <= self.until + SAME {
            return false;
        }
        if self.until <= now {
            let waiting = self.waiting;
            *self = Self { waiting, ..Self::new(asked, term, pace) };
            return true;
        }
        self.until = asked.until;
        self.status = asked.status;
        self.is_capped = asked.is_capped;
        true
    }

    /// Whether one may go, who has a turn perhaps and waits until `latest` at most.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        turn: Option<Turn>,
        latest: Option<Instant>,
    ) -> Word {
        let has_turn = turn.filter(|turn| turn.term == self.term);
        let number = match has_turn {
            Some(turn) => turn.number,
            None => self.next.max(self.pace.lost(now.saturating_duration_since(self.until))),
        };
        let at = self.at(number);
        if at > now && latest.is_none_or(|latest| latest < at) {
            // Whoever comes back at its end finds others, or nobody; that is not known yet.
            return Word::TooLate(if now < self.until { self.until } else { at });
        }
        if has_turn.is_none() {
            self.next = number + 1;
        }
        if at <= now { Word::Go } else { Word::At(at, Turn { term: self.term, number }) }
    }

    /// When the one with this turn goes; none if it is one of another term.
    pub(super) fn when(&self, turn: Turn) -> Option<Instant> {
        (turn.term == self.term).then(|| self.at(turn.number))
    }

    /// One who waited has gone, or left.
    pub(super) fn left(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 && now < self.until {
            // Whoever comes does not wait behind those who gave up.
            self.next = 0;
        }
    }

    fn at(&self, number: u64) -> Instant {
        self.until + self.pace.offset(number)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "turns are counted in some thousands, and none is negative"
)]
impl Pace {
    /// How long after the end this turn is.
    fn offset(self, number: u64) -> Duration {
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        // In units of the first second's turns: before second n there are 2^n - 1 of those.
        let turns = (number as f64 + self.phase) / self.rate;
        let second = (turns + 1.0).log2().floor().min(60.0);
        let before = second.exp2() - 1.0;
        Duration::from_secs_f64(second + (turns - before) / second.exp2())
    }

    /// The number of the turn that is now, so long after the end: those before it are lost.
    fn lost(self, elapsed: Duration) -> u64 {
        if self.rate <= 0.0 {
            return 0;
        }
        let elapsed = elapsed.as_secs_f64().min(60.0);
        let second = elapsed.floor();
        let turns = second.exp2() - 1.0 + (elapsed - second) * second.exp2();
        (turns * self.rate - self.phase).max(0.0).floor() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    const TEN: Pace = Pace { rate: 10.0, phase: 0.0 };

    fn pause(start: Instant, seconds: u64, pace: Pace) -> Pause {
        Pause::new(asked(start, seconds), 1, pace)
    }

    fn asked(start: Instant, seconds: u64) -> Asked {
        let until = start + Duration::from_secs(seconds);
        Asked { until, status: 429, is_capped: false }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn far(start: Instant) -> Option<Instant> {
        Some(start + Duration::from_hours(1))
    }

    #[test]
    fn turns_come_at_the_pace_which_doubles_each_second() {
        let offsets: Vec<u128> = (0..32).map(|number| TEN.offset(number).as_millis()).collect();
        assert_eq!(offsets[..4], [0, 100, 200, 300]);
        assert_eq!(offsets[10..13], [1000, 1050, 1100]);
        assert_eq!(offsets[30..32], [2000, 2025]);
        let shifted = Pace { rate: 2.5, phase: 0.5 };
        assert_eq!(shifted.offset(0).as_millis(), 200);
        assert_eq!(Pace { rate: 0.0, phase: 0.0 }.offset(1000), Duration::ZERO);
    }

    #[test]
    fn who_waits_goes_in_turn_and_keeps_it_when_the_end_moves() {
        let start = clock::now();
        let mut pause = pause(start, 2, TEN);
        let Word::At(first, turn) = pause.ask(start, None, far(start)) else { panic!() };
        let Word::At(second, other) = pause.ask(start, None, far(start)) else { panic!() };
        assert_eq!((first - start).as_millis(), 2000);
        assert_eq!((second - start).as_millis(), 2100);
        assert!(pause.extend(asked(start, 4), start, 2, TEN));
        assert_eq!(pause.when(turn), Some(start + Duration::from_secs(4)));
        assert_eq!(
            pause.ask(first, Some(other), far(start)),
            Word::At(second + Duration::from_secs(2), other)
        );
        let end = start + Duration::from_secs(4);
        assert_eq!(pause.ask(end, Some(turn), None), Word::Go);
        assert!(matches!(pause.ask(end, Some(other), None), Word::TooLate(_)));
        assert_eq!(pause.ask(end + Duration::from_millis(100), Some(other), None), Word::Go);
    }

    #[test]
    fn the_longest_end_wins() {
        let start = clock::now();
        let mut pause = pause(start, 10, TEN);
        assert!(!pause.extend(asked(start, 3), start, 2, TEN));
        assert!(!pause.extend(asked(start, 10), start, 2, TEN));
        assert_eq!((pause.until() - start).as_secs(), 10);
    }

    #[test]
    fn an_upstream_that_asks_again_during_the_ramp_begins_anew() {
        let start = clock::now();
        let mut pause = pause(start, 1, TEN);
        let now = start + Duration::from_secs(1);
        for _ in 0..5 {
            pause.ask(now, None, far(start));
        }
        let Word::At(_, turn) = pause.ask(now, None, far(start)) else { panic!() };
        assert!(pause.extend(asked(now, 1), now, 2, TEN));
        assert_eq!(pause.when(turn), None);
        let Word::At(at, _) = pause.ask(now, Some(turn), far(start)) else { panic!() };
        assert_eq!((at - now).as_millis(), 1000, "first come, first served anew");
    }

    #[test]
    fn who_cannot_wait_so_long_takes_no_turn() {
        let start = clock::now();
        let mut pause = pause(start, 2, TEN);
        let until = start + Duration::from_secs(2);
        for latest in [None, Some(start + Duration::from_secs(1))] {
            assert_eq!(pause.ask(start, None, latest), Word::TooLate(until));
        }
        assert!(matches!(pause.ask(start, None, Some(until)), Word::At(at, _) if at == until));
    }

    #[test]
    fn those_who_gave_up_hold_nobody_up() {
        let start = clock::now();
        let mut pause = pause(start, 2, TEN);
        for _ in 0..50 {
            pause.ask(start, None, far(start));
            pause.waiting += 1;
        }
        (0..50).for_each(|_| pause.left(start));
        let Word::At(at, _) = pause.ask(start, None, far(start)) else { panic!() };
        assert_eq!((at - start).as_millis(), 2000);
    }

    #[test]
    fn it_is_over_when_the_ramp_is_and_all_have_gone() {
        let start = clock::now();
        let end = start + Duration::from_secs(2);
        let mut pause = pause(start, 2, TEN);
        assert!(!pause.is_over(end + Duration::from_secs(4)));
        assert!(pause.is_over(end + RAMP));
        for _ in 0..700 {
            pause.ask(start, None, far(start));
        }
        assert!(!pause.is_over(end + RAMP), "some still wait for their turn");
        assert!(pause.is_over(end + Duration::from_secs(7)));
        let unpaced = Pause::new(asked(start, 2), 1, Pace { rate: 0.0, phase: 0.0 });
        assert!(unpaced.is_over(end));
    }

    proptest! {
        /// Whoever comes whenever: in each second of the ramp no more go than the pace has, and one.
        #[test]
        fn no_second_sees_more_than_its_pace(
            rate in 0.2_f64..50.0,
            phase in 0.0_f64..1.0,
            steps in prop::collection::vec((0_u64..300, 0_usize..30), 1..60),
        ) {
            let start = clock::now();
            let pace = Pace { rate, phase };
            let mut pause = pause(start, 1, pace);
            let end = pause.until();
            let mut went = Vec::new();
            let mut now = start;
            for (millis, count) in steps {
                now += Duration::from_millis(millis);
                for _ in 0..count {
                    match pause.ask(now, None, far(start)) {
                        Word::Go => went.push(now),
                        Word::At(at, _) => went.push(at),
                        Word::TooLate(_) => {}
                    }
                }
            }
            prop_assert!(went.iter().all(|at| *at >= end));
            for second in 0..4_u32 {
                let from = end + Duration::from_secs(second.into());
                let count = went.iter().filter(|at| (from..from + Duration::from_secs(1)).contains(at)).count();
                let most = rate * f64::from(1 << second);
                prop_assert!(f64::from(u32::try_from(count).unwrap()) <= most + 2.0, "{count} of {most} in second {second}");
            }
        }

        #[test]
        fn a_turn_that_is_not_lost_is_not_over(rate in 0.2_f64..50.0, phase in 0.0_f64..1.0, millis in 0_u64..20_000) {
            let pace = Pace { rate, phase };
            let elapsed = Duration::from_millis(millis);
            let number = pace.lost(elapsed);
            prop_assert!(pace.offset(number + 1) + Duration::from_micros(1) >= elapsed);
        }
    }
}
