//! Windows of the calendar: a count that begins anew with each.
//!
//! Times are microseconds since 1970. A clock that goes back by less than two windows finds the later
//! window still there, and waits for its end; one that had been further ahead was wrong, and what was
//! counted by it counts now. Invariant: in no window more is taken than the limit.

use super::count::Meter;

/// How much in which windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) limit: u64,
    pub(super) window: u64,
    /// By how much later than UTC the clock shows.
    pub(super) offset: i64,
}

impl Rule {
    /// The time since 1970 that the clock shows.
    fn shown(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.offset)
    }

    fn index(&self, now: u64) -> u64 {
        self.shown(now) / self.window
    }
}

/// What was taken in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    rule: Rule,
    index: u64,
    used: u64,
}

impl Fixed {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, index: 0, used: 0 }
    }

    /// Goes by another rule, if it is about the same windows.
    pub(super) fn obey(&mut self, rule: Rule) -> bool {
        let are_same = (self.rule.window, self.rule.offset) == (rule.window, rule.offset);
        self.rule = rule;
        are_same
    }
}

impl Meter for Fixed {
    fn roll(&mut self, now: u64) {
        let index = self.rule.index(now);
        if self.index < index {
            (self.index, self.used) = (index, 0);
        } else if self.index > index + 1 {
            self.index = index;
        }
    }

    fn most(&self) -> u64 {
        self.rule.limit
    }

    fn room(&self) -> u64 {
        self.rule.limit.saturating_sub(self.used)
    }

    fn used(&self) -> u64 {
        self.used
    }

    fn charge(&mut self, _now: u64, cost: u64, lent: u64) {
        self.used = self.used.saturating_add(cost).saturating_add(lent);
    }

    fn left(&self, now: u64, _cost: u64) -> u64 {
        self.reset(now)
    }

    /// Until the window is over.
    fn reset(&self, now: u64) -> u64 {
        ((self.index + 1) * self.rule.window).saturating_sub(self.rule.shown(now))
    }

    fn lent_until(&self, now: u64) -> u64 {
        now + self.reset(now)
    }

    #[cfg(test)]
    fn give_back(&mut self, cost: u64, lent: u64, then: u64) {
        if self.rule.index(then) == self.index {
            self.used = self.used.saturating_sub(cost).saturating_sub(lent);
        }
    }
}
