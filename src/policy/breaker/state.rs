//! One circuit as a state machine: closed, open, half-open. Time is handed in; nothing here waits,
//! locks or speaks to anybody.
//!
//! Invariants: while half-open no more attempts are under way than may probe, but for such as have
//! outlived their lease; each change of state has a new generation, and what is reported of another
//! than the present one changes nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::word::Letter;
use super::word::Word;

/// What a prober that cannot say better says to those it sends away.
pub(super) const SHORTLY: Duration = Duration::from_secs(1);

/// What a machine goes by. Handed in each time, since settings change while states stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Failures in a row that open it; 0 counts none.
    pub(super) threshold: u32,
    pub(super) reset: Duration,
    /// Successes that close it.
    pub(super) needed: u32,
    /// Attempts that may probe at once.
    pub(super) probes: u32,
    /// How long a place to probe is kept for an attempt of which nothing is heard.
    pub(super) lease: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    /// `full` is until when others, whom this instance does not count, have all the places.
    HalfOpen {
        full: Option<Instant>,
    },
}

/// The right to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) generation: u64,
    /// Which probe it is, if it is one.
    pub(super) probe: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
}

/// What would be said to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Closed,
    /// It may probe, if it gets a place.
    Probe,
    Refused(Duration),
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// In a row.
    pub(super) failures: u32,
    /// While half-open.
    pub(super) successes: u32,
    /// Those under way that this instance counts, and when their leases end.
    probes: Vec<(u64, Instant)>,
}

impl State {
    pub(super) fn new() -> Self {
        let (phase, probes) = (Phase::Closed, Vec::new());
        Self { phase, generation: 0, failures: 0, successes: 0, probes }
    }

    /// Whether it lets everything pass, and a success changes nothing.
    pub(super) fn is_calm(&self) -> bool {
        self.is_closed() && self.failures == 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Until an attempt may probe; zero while closed.
    pub(super) fn left(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Closed | Phase::HalfOpen { .. } => Duration::ZERO,
            Phase::Open { until } => until.saturating_duration_since(now),
        }
    }

    pub(super) fn look(&self, now: Instant, rules: &Rules) -> Look {
        match self.phase {
            Phase::Closed => Look::Closed,
            Phase::Open { until } if now < until => Look::Refused(until - now),
            Phase::Open { .. } => Look::Probe,
            Phase::HalfOpen { full: Some(full) } if now < full => {
                // A probe is over long before its lease, as a rule.
                Look::Refused((full - now).min(SHORTLY))
            }
            Phase::HalfOpen { .. } => {
                let running = self.probes.iter().filter(|(_, ends)| now < *ends);
                if running.count() < rules.probes.max(1) as usize {
                    Look::Probe
                } else {
                    Look::Refused(SHORTLY)
                }
            }
        }
    }

    /// Lets an attempt pass, or says for how long none may; a probe is called `token`.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        rules: &Rules,
        token: u64,
    ) -> Result<Ticket, Duration> {
        match self.look(now, rules) {
            Look::Closed => Ok(Ticket { generation: self.generation, probe: None }),
            Look::Refused(left) => Err(left),
            Look::Probe => {
                if let Phase::Open { .. } = self.phase {
                    self.begin(Phase::HalfOpen { full: None });
                }
                self.probes.retain(|(_, ends)| now < *ends);
                self.probes.push((token, now + rules.lease));
                Ok(Ticket { generation: self.generation, probe: Some(token) })
            }
        }
    }

    /// What came of an attempt.
    pub(super) fn record(&mut self, ticket: Ticket, outcome: Outcome, now: Instant, rules: &Rules) {
        if ticket.generation != self.generation {
            return;
        }
        if let Some(token) = ticket.probe {
            self.release(token);
        }
        match (self.phase, outcome) {
            (Phase::Closed, Outcome::Success) => self.failures = 0,
            (Phase::Closed, Outcome::Failure) if rules.threshold > 0 => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= rules.threshold {
                    self.open(now, rules);
                }
            }
            (Phase::HalfOpen { .. }, Outcome::Success) => {
                self.successes = self.successes.saturating_add(1);
                if self.successes >= rules.needed {
                    self.close();
                }
            }
            (Phase::HalfOpen { .. }, Outcome::Failure) => {
                self.failures = self.failures.saturating_add(1);
                self.open(now, rules);
            }
            (Phase::Open { .. } | Phase::Closed, _) => {}
        }
    }

    /// Gives the place of a probe back.
    pub(super) fn release(&mut self, token: u64) {
        let before = self.probes.len();
        self.probes.retain(|(other, _)| *other != token);
        if let (Phase::HalfOpen { full }, true) = (&mut self.phase, self.probes.len() == before) {
            // A place that was got elsewhere: whoever gives it back may ask whether there is room.
            *full = None;
        }
    }

    pub(super) fn open(&mut self, now: Instant, rules: &Rules) {
        self.begin(Phase::Open { until: now + rules.reset });
    }

    pub(super) fn close(&mut self) {
        self.failures = 0;
        self.begin(Phase::Closed);
    }

    fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.successes = 0;
        self.probes.clear();
    }

    /// Takes over what the fleet says.
    pub(super) fn adopt(&mut self, word: &Word, now: Instant) {
        self.phase = match word.letter {
            Letter::Closed => Phase::Closed,
            Letter::Open => Phase::Open { until: now + word.left },
            Letter::HalfOpen => {
                Phase::HalfOpen { full: (!word.left.is_zero()).then(|| now + word.left) }
            }
        };
        self.generation = word.generation;
        self.failures = word.failures;
        self.successes = word.successes;
        self.probes.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    const RULES: Rules = Rules {
        threshold: 3,
        reset: Duration::from_secs(10),
        needed: 2,
        probes: 1,
        lease: Duration::from_secs(5),
    };

    fn fail(state: &mut State, now: Instant, times: u32) {
        for _ in 0..times {
            let ticket = state.enter(now, &RULES, 0).unwrap();
            state.record(ticket, Outcome::Failure, now, &RULES);
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (mut state, now) = (State::new(), clock::now());
        fail(&mut state, now, 2);
        let ticket = state.enter(now, &RULES, 0).unwrap();
        state.record(ticket, Outcome::Success, now, &RULES);
        fail(&mut state, now, 2);
        assert!(state.is_closed());
        fail(&mut state, now, 1);
        assert_eq!(state.enter(now, &RULES, 0), Err(RULES.reset));
    }

    #[test]
    fn half_open_lets_one_through_and_the_next_when_that_one_is_done() {
        let (mut state, start) = (State::new(), clock::now());
        fail(&mut state, start, 3);
        let now = start + RULES.reset;
        let probe = state.enter(now, &RULES, 1).unwrap();
        assert_eq!(state.enter(now, &RULES, 2), Err(SHORTLY));
        state.release(probe.probe.unwrap());
        let probe = state.enter(now, &RULES, 3).unwrap();
        state.record(probe, Outcome::Success, now, &RULES);
        assert!(!state.is_closed());
        let probe = state.enter(now, &RULES, 4).unwrap();
        state.record(probe, Outcome::Success, now, &RULES);
        assert!(state.is_calm());
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_the_whole_time() {
        let (mut state, start) = (State::new(), clock::now());
        fail(&mut state, start, 3);
        let now = start + RULES.reset;
        let probe = state.enter(now, &RULES, 1).unwrap();
        let later = now + Duration::from_secs(1);
        state.record(probe, Outcome::Failure, later, &RULES);
        assert_eq!(state.enter(later, &RULES, 2), Err(RULES.reset));
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_is_replaced_when_its_lease_ends() {
        let (mut state, start) = (State::new(), clock::now());
        fail(&mut state, start, 3);
        let now = start + RULES.reset;
        state.enter(now, &RULES, 1).unwrap();
        let almost = now + RULES.lease - Duration::from_millis(1);
        assert!(state.enter(almost, &RULES, 2).is_err());
        assert!(state.enter(now + RULES.lease, &RULES, 3).is_ok());
    }

    #[test]
    fn a_report_of_an_older_state_changes_nothing() {
        let (mut state, start) = (State::new(), clock::now());
        let late = state.enter(start, &RULES, 0).unwrap();
        fail(&mut state, start, 3);
        let now = start + RULES.reset;
        state.enter(now, &RULES, 1).unwrap();
        let before = state.clone();
        state.record(late, Outcome::Success, now, &RULES);
        state.record(late, Outcome::Failure, now, &RULES);
        assert_eq!((state.phase, state.successes), (before.phase, before.successes));
    }

    /// The same in as few words as possible: what happened is kept, and asked each time.
    #[derive(Default)]
    struct Naive {
        /// Outcomes since it closed last.
        row: u32,
        opened: Option<u64>,
        /// Successes and probes under way, while half-open.
        probing: Option<(u32, Vec<(u64, u64)>)>,
        era: u64,
    }

    impl Naive {
        fn enter(&mut self, now: u64, rules: &Rules, token: u64) -> Option<u64> {
            let Some(opened) = self.opened else { return Some(self.era) };
            if now < opened + rules.reset.as_secs() {
                return None;
            }
            if self.probing.is_none() {
                self.era += 1;
                self.probing = Some((0, Vec::new()));
            }
            let (_, running) = self.probing.as_mut()?;
            running.retain(|(_, began)| now < began + rules.lease.as_secs());
            if running.len() >= rules.probes as usize {
                return None;
            }
            running.push((token, now));
            Some(self.era)
        }

        /// None is an attempt that said nothing of the upstream.
        fn record(
            &mut self,
            era: u64,
            token: u64,
            outcome: Option<Outcome>,
            now: u64,
            rules: &Rules,
        ) {
            if era != self.era {
                return;
            }
            let Some((successes, running)) = &mut self.probing else {
                match outcome {
                    Some(Outcome::Success) => self.row = 0,
                    Some(Outcome::Failure) => self.row += 1,
                    None => {}
                }
                if self.opened.is_none() && self.row >= rules.threshold {
                    self.opened = Some(now);
                    self.era += 1;
                }
                return;
            };
            running.retain(|(other, _)| *other != token);
            match outcome {
                Some(Outcome::Success) => *successes += 1,
                Some(Outcome::Failure) => {
                    *self = Self { opened: Some(now), era: self.era + 1, ..Self::default() };
                    return;
                }
                None => {}
            }
            if *successes >= rules.needed {
                *self = Self { era: self.era + 1, ..Self::default() };
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_naive_model_does(
            threshold in 1_u32..5,
            needed in 1_u32..4,
            probes in 1_u32..4,
            steps in prop::collection::vec((0_u8..4, 0_usize..8, 0_u64..7), 0..200),
        ) {
            let rules = Rules { threshold, needed, probes, ..RULES };
            let (mut state, mut naive) = (State::new(), Naive::default());
            let (start, mut second) = (clock::now(), 0);
            let mut running: Vec<(Ticket, u64, u64)> = Vec::new();
            for (token, (kind, which, wait)) in (1_u64..).zip(steps) {
                second += wait.saturating_sub(3);
                let now = start + Duration::from_secs(second);
                let outcome = match kind {
                    0 => {
                        let one = state.enter(now, &rules, token);
                        let other = naive.enter(second, &rules, token);
                        prop_assert_eq!(one.is_ok(), other.is_some());
                        running.extend(one.ok().zip(other).map(|(one, era)| (one, era, token)));
                        continue;
                    }
                    1 => Some(Outcome::Success),
                    2 => Some(Outcome::Failure),
                    _ => None,
                };
                if running.is_empty() {
                    continue;
                }
                let (ticket, era, token) = running.remove(which % running.len());
                match (outcome, ticket.probe) {
                    (Some(outcome), _) => state.record(ticket, outcome, now, &rules),
                    (None, Some(token)) => state.release(token),
                    (None, None) => {}
                }
                naive.record(era, token, outcome, second, &rules);
                prop_assert_eq!(state.is_closed(), naive.opened.is_none());
            }
        }
    }
}
