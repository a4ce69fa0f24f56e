//! A window that slides: what is taken counts until the window's length has passed since.
//!
//! A log of all requests would be exact, and as long as the limit. Here requests of one part of the
//! window (of [`PARTS`]) are one entry, which counts until the length has passed since the last of
//! them: at most a part longer than it should, never shorter. Where the limit is no more than
//! [`PARTS`] each moment has its own entry, and the log is exact. Times are microseconds since 1970.
//!
//! What is lent may be used until the end of its part, so it counts from there on. A clock that goes
//! back finds entries that last longer; one that had been ahead by more than a window was wrong, and
//! all that it counted counts as of now.
//!
//! Invariants: in no stretch of the window's length more is taken than the limit. There are no more
//! than two entries more than [`PARTS`], so each step is O(1).

use std::collections::VecDeque;

use super::count::Meter;

/// Parts of a window.
pub(super) const PARTS: u64 = 16;

/// How much in any stretch of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) limit: u64,
    pub(super) window: u64,
    /// The length of a part; 0 where each moment has its own entry.
    pub(super) span: u64,
}

impl Rule {
    pub(super) fn new(limit: u64, window: u64) -> Self {
        let span = if limit <= PARTS { 0 } else { window / PARTS };
        Self { limit, window, span }
    }

    fn part(&self, time: u64) -> u64 {
        time.checked_div(self.span).unwrap_or(time)
    }
}

/// What was taken, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sliding {
    rule: Rule,
    /// When it was last, and how much. The times rise.
    entries: VecDeque<(u64, u64)>,
}

impl Sliding {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, entries: VecDeque::new() }
    }

    /// Goes by another rule, if it is about windows of the same length.
    pub(super) fn obey(&mut self, rule: Rule) -> bool {
        let are_same = self.rule.window == rule.window;
        self.rule = rule;
        are_same
    }
}

impl Meter for Sliding {
    fn roll(&mut self, now: u64) {
        let Rule { window, span, .. } = self.rule;
        if let Some((last, _)) = self.entries.back()
            && *last > now + window + span
        {
            let used = self.used();
            self.entries.clear();
            self.entries.push_back((now, used));
        }
        while let Some((last, _)) = self.entries.front()
            && last + window <= now
        {
            self.entries.pop_front();
        }
    }

    fn most(&self) -> u64 {
        self.rule.limit
    }

    fn room(&self) -> u64 {
        self.rule.limit.saturating_sub(self.used())
    }

    fn used(&self) -> u64 {
        self.entries.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    fn charge(&mut self, now: u64, cost: u64, lent: u64) {
        let at = if lent > 0 { self.lent_until(now) - 1 } else { now };
        let (rule, cost) = (self.rule, cost.saturating_add(lent));
        if cost == 0 {
            return;
        }
        match self.entries.back_mut() {
            Some((last, count)) if rule.part(*last) >= rule.part(now) => {
                *last = at.max(*last);
                *count = count.saturating_add(cost);
            }
            Some(_) | None => self.entries.push_back((at, cost)),
        }
    }

    fn left(&self, now: u64, cost: u64) -> u64 {
        let mut excess = self.used().saturating_add(cost).saturating_sub(self.rule.limit);
        let mut until = now;
        for (last, count) in &self.entries {
            if excess == 0 {
                break;
            }
            until = last + self.rule.window;
            excess = excess.saturating_sub(*count);
        }
        until.saturating_sub(now)
    }

    fn reset(&self, now: u64) -> u64 {
        self.entries.back().map_or(0, |(last, _)| (last + self.rule.window).saturating_sub(now))
    }

    fn lent_until(&self, now: u64) -> u64 {
        let span = self.rule.span;
        now.checked_div(span).map_or(now, |part| (part + 1) * span)
    }

    #[cfg(test)]
    fn give_back(&mut self, cost: u64, lent: u64, then: u64) {
        let part = self.rule.part(then);
        let place = self.entries.iter().rposition(|(last, _)| self.rule.part(*last) == part);
        if let Some((_, count)) = place.and_then(|place| self.entries.get_mut(place)) {
            *count = count.saturating_sub(cost).saturating_sub(lent);
        }
        self.entries.retain(|(_, count)| *count > 0);
    }
}
