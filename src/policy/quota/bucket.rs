//! A bucket of tokens that come back evenly (GCRA, the leaky bucket as a meter of ITU-T I.371).
//!
//! What is missing from a full bucket is counted, in units of which a token has `token` and each tick
//! of time brings `rate` back: whole numbers, the fraction window / limit in its lowest terms, so
//! nothing is rounded and nothing drifts. A tick is a microsecond, or a larger power of ten of them
//! where a full bucket would otherwise have more units than a double holds.
//!
//! What is lent may be used until the end of its part of the time in which a bucket fills, and so does
//! not begin to come back before. A clock that goes back finds time standing still; one that had been
//! ahead by more than it takes to fill was wrong, and counts from now on.
//!
//! Invariant: in any time t no more is taken than burst + limit * t / window, and a tick's worth.

use super::count::Meter;
use super::sliding::PARTS;

/// Half of what a double holds exactly, and with it Redis's Lua.
const MOST_UNITS: u64 = 1 << 52;
/// The longest tick: a second.
const LONGEST_TICK: u64 = 1_000_000;

/// How much, and how fast it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) burst: u64,
    /// Units of a token.
    pub(super) token: u64,
    /// Units that come back with each tick.
    pub(super) rate: u64,
    /// Microseconds.
    pub(super) tick: u64,
    /// Ticks for which something may be lent at most; 0 where nothing is.
    pub(super) part: u64,
}

impl Rule {
    pub(super) fn new(limit: u64, window: u64, burst: u64) -> Self {
        let limit = limit.max(1);
        let mut tick = 1;
        loop {
            // Rounded up: rather slower than promised than faster.
            let ticks = window.div_ceil(tick);
            let common = common(ticks, limit);
            let (token, rate) = (ticks / common, limit / common);
            let full = token.saturating_mul(burst);
            if full <= MOST_UNITS || tick == LONGEST_TICK {
                return Self { burst, token, rate, tick, part: full / rate / PARTS };
            }
            tick *= 10;
        }
    }

    /// Whether all that is counted is exact.
    pub(super) fn is_exact(&self) -> bool {
        self.full() <= MOST_UNITS
    }

    fn full(&self) -> u64 {
        self.units(self.burst)
    }

    fn units(&self, tokens: u64) -> u64 {
        self.token.saturating_mul(tokens)
    }

    /// The end of the part that this tick is in.
    fn end(&self, at: u64) -> u64 {
        at.checked_div(self.part).map_or(at, |part| (part + 1) * self.part)
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    rule: Rule,
    level: u64,
    /// The tick as of which that is.
    at: u64,
    /// Units that do not come back before the end of the part of `at`.
    held: u64,
}

impl Bucket {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, level: 0, at: 0, held: 0 }
    }

    /// Goes by another rule: the same tokens in its units, rounded up. In floating point, as in Lua.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below 2^53, and never negative"
    )]
    pub(super) fn obey(&mut self, rule: Rule) -> bool {
        let before = self.rule;
        if (before.token, before.rate, before.tick) != (rule.token, rule.rate, rule.tick) {
            let same = |units: u64| (units as f64 / before.token as f64 * rule.token as f64).ceil();
            self.level = same(self.level) as u64;
            self.held = same(self.held) as u64;
            self.at = self.at * before.tick / rule.tick;
        }
        self.rule = rule;
        true
    }

    fn drain(&mut self, ticks: u64) {
        self.level = self.level.saturating_sub(ticks.saturating_mul(self.rule.rate));
    }

    /// Until so much of what is missing has come back.
    fn when(&self, now: u64, units: u64) -> u64 {
        let Rule { rate, tick, .. } = self.rule;
        let mut ticks = units.div_ceil(rate);
        let till_end = self.rule.end(self.at) - self.at;
        if self.held > 0 && (units > self.level || ticks > till_end) {
            // Up to the end of the part only `level` comes back.
            let came = self.level.min(till_end.saturating_mul(rate)).min(units);
            ticks = till_end + (units - came).div_ceil(rate);
        }
        ((self.at + ticks) * tick).saturating_sub(now)
    }
}

impl Meter for Bucket {
    fn roll(&mut self, now: u64) {
        let rule = self.rule;
        let now = now / rule.tick;
        if self.at > now {
            if self.at - now > rule.full() / rule.rate + rule.part {
                self.at = now;
            }
            return;
        }
        let end = rule.end(self.at);
        if self.held > 0 && end <= now {
            self.drain(end - self.at);
            self.level += self.held;
            (self.held, self.at) = (0, end);
        }
        self.drain(now - self.at);
        self.at = now;
    }

    fn most(&self) -> u64 {
        self.rule.burst
    }

    fn room(&self) -> u64 {
        self.rule.full().saturating_sub(self.level + self.held) / self.rule.token
    }

    /// What is missing, in tokens, rounded up.
    fn used(&self) -> u64 {
        (self.level + self.held).div_ceil(self.rule.token)
    }

    fn charge(&mut self, _now: u64, cost: u64, lent: u64) {
        let rule = self.rule;
        self.level = (self.level.saturating_add(rule.units(cost))).min(rule.full().max(self.level));
        self.held += rule.units(lent);
    }

    fn left(&self, now: u64, cost: u64) -> u64 {
        let wanted = (self.level + self.held).saturating_add(self.rule.units(cost));
        let excess = wanted.saturating_sub(self.rule.full());
        if excess == 0 { 0 } else { self.when(now, excess) }
    }

    fn reset(&self, now: u64) -> u64 {
        let missing = self.level + self.held;
        if missing == 0 { 0 } else { self.when(now, missing) }
    }

    fn lent_until(&self, now: u64) -> u64 {
        let Rule { tick, part, .. } = self.rule;
        if part == 0 { now } else { self.rule.end(now / tick) * tick }
    }

    #[cfg(test)]
    fn give_back(&mut self, cost: u64, lent: u64, then: u64) {
        let rule = self.rule;
        self.level = self.level.saturating_sub(rule.units(cost));
        if rule.end(then / rule.tick) == rule.end(self.at) {
            self.held = self.held.saturating_sub(rule.units(lent));
        }
    }
}

/// The greatest common divisor.
fn common(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { common(other, one % other) }
}
