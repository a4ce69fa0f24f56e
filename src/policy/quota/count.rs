//! All tiers of one key: a request takes from each of them, or from none.
//!
//! A step function: a question and the time in, what is granted out. `lua/quota.lua` is this for the
//! fleet, and the tests hold the two together. Times are microseconds since 1970. O(1) for each tier.

use std::time::Duration;

use super::Level;
use super::bucket;
use super::bucket::Bucket;
use super::fixed;
use super::fixed::Fixed;
use super::sliding;
use super::sliding::Sliding;
use super::tier::Tiers;

/// Nothing is lent for a shorter time: it would be over before it is there.
pub(super) const SHORTEST_LOAN: u64 = 20_000;

/// How one tier is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Bucket(bucket::Rule),
    Fixed(fixed::Rule),
    Sliding(sliding::Rule),
}

/// What is counted of one tier. All but [`Meter::roll`] is as of the last roll.
pub(super) trait Meter {
    /// It is so late now.
    fn roll(&mut self, now: u64);
    /// How much there is when nothing is taken.
    fn most(&self) -> u64;
    fn room(&self) -> u64;
    /// What counts now.
    fn used(&self) -> u64;
    /// Takes `cost` to be used now, and `lent` to be used until [`Meter::lent_until`], though it be
    /// more than there is.
    fn charge(&mut self, now: u64, cost: u64, lent: u64);
    /// For how long there is no room for this.
    fn left(&self, now: u64, cost: u64) -> u64;
    /// For how long something counts, if nothing more is taken.
    fn reset(&self, now: u64) -> u64;
    /// Until when what is lent now may be used.
    fn lent_until(&self, now: u64) -> u64;
    /// What was charged at `then` was not used. Only in Redis; here to hold the two together.
    #[cfg(test)]
    fn give_back(&mut self, cost: u64, lent: u64, then: u64);
}

/// What somebody wants of all tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Question {
    /// This, or nothing.
    pub(super) need: u64,
    /// And up to this, if it is there: what those need who wait behind.
    pub(super) demand: u64,
    /// And up to this to keep for later, ...
    pub(super) want: u64,
    /// ... but no more than this part of what is there then: one in `share`.
    pub(super) share: u64,
}

impl Question {
    /// This, or nothing, now.
    pub(super) fn plain(cost: u64) -> Self {
        Self { need: cost, demand: cost, want: 0, share: 1 }
    }
}

/// What was taken from all tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// To be used at once.
    pub(super) now: u64,
    /// To be used within `valid` microseconds.
    pub(super) lent: u64,
    pub(super) valid: u64,
}

/// Which tier has too little, and for how many microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) tier: usize,
    pub(super) left: u64,
}

/// What was counted of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count {
    states: Box<[State]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Bucket(Bucket),
    Fixed(Fixed),
    Sliding(Sliding),
}

impl Count {
    pub(super) fn new(tiers: &Tiers) -> Self {
        Self { states: tiers.rules.iter().map(State::new).collect() }
    }

    /// The same for other tiers: what was counted of one that is still there lives on.
    pub(super) fn adapt(&mut self, before: &Tiers, after: &Tiers) {
        let states = after.list().iter().zip(&after.rules).map(|(tier, rule)| {
            let same = before.list().iter().position(|other| other.name == tier.name);
            let state = same.and_then(|at| self.states.get(at)?.with(rule));
            state.unwrap_or_else(|| State::new(rule))
        });
        self.states = states.collect();
    }

    /// Takes what is asked for from all tiers; from none if one has too little. With
    /// `charge_refused` it takes from them in turn up to that one, and from that too if it is fixed.
    pub(super) fn take(
        &mut self,
        now: u64,
        asked: Question,
        charge_refused: bool,
    ) -> Result<Granted, Denied> {
        self.roll(now);
        let wanted = asked.demand.max(asked.need);
        let room = self.meters().map(Meter::room).min().unwrap_or(wanted);
        if room < asked.need {
            return Err(if charge_refused {
                self.charge_in_turn(now, asked.need)
            } else {
                self.refuse(now, asked.need)
            });
        }
        let mut granted = Granted { now: wanted.min(room), lent: 0, valid: 0 };
        let until = self.meters().map(|meter| meter.lent_until(now)).min();
        granted.valid = until.unwrap_or(now).saturating_sub(now);
        if granted.valid >= SHORTEST_LOAN {
            granted.lent = asked.want.min((room - granted.now) / asked.share.max(1));
        }
        for state in &mut self.states {
            state.meter_mut().charge(now, granted.now, granted.lent);
        }
        Ok(granted)
    }

    /// The tier that has enough last.
    fn refuse(&self, now: u64, cost: u64) -> Denied {
        let full = self.meters().enumerate().filter(|(_, meter)| meter.room() < cost);
        let denied = full.map(|(tier, meter)| Denied { tier, left: meter.left(now, cost) });
        // Of those that have it at the same time, the first.
        let last = denied.reduce(|one, other| if other.left > one.left { other } else { one });
        last.unwrap_or(Denied { tier: 0, left: 0 })
    }

    fn charge_in_turn(&mut self, now: u64, cost: u64) -> Denied {
        for (tier, state) in self.states.iter_mut().enumerate() {
            let is_fixed = matches!(state, State::Fixed(_));
            let meter = state.meter_mut();
            let is_full = meter.room() < cost;
            if !is_full || is_fixed {
                meter.charge(now, cost, 0);
            }
            if is_full {
                return Denied { tier, left: meter.left(now, cost) };
            }
        }
        Denied { tier: 0, left: 0 }
    }

    /// Counts what went without having asked, though it be more than there is.
    pub(super) fn force(&mut self, now: u64, cost: u64) {
        self.roll(now);
        for state in &mut self.states {
            state.meter_mut().charge(now, cost, 0);
        }
    }

    /// What counts now, of each tier.
    pub(super) fn used(&mut self, now: u64) -> impl Iterator<Item = u64> {
        self.roll(now);
        self.meters().map(Meter::used)
    }

    pub(super) fn levels(&mut self, now: u64) -> Vec<Level> {
        self.roll(now);
        let levels = self.meters().map(|meter| Level {
            limit: meter.most(),
            remaining: meter.room(),
            reset: Duration::from_micros(meter.reset(now)),
        });
        levels.collect()
    }

    /// How much is taken of the tier that has least left, of 255; 0 is nothing of any.
    pub(super) fn weight(&mut self, now: u64) -> u8 {
        self.roll(now);
        let taken = self.meters().map(|meter| {
            let share = u128::from(meter.used()) * 255;
            u8::try_from(share.div_ceil(u128::from(meter.most().max(1)))).unwrap_or(255)
        });
        taken.max().unwrap_or(0)
    }

    /// The same, by tier.
    #[cfg(test)]
    pub(super) fn force_each(&mut self, now: u64, costs: &[u64]) {
        self.roll(now);
        for (state, cost) in self.states.iter_mut().zip(costs).filter(|(_, cost)| **cost > 0) {
            state.meter_mut().charge(now, *cost, 0);
        }
    }

    #[cfg(test)]
    pub(super) fn give_back(&mut self, now: u64, cost: u64, lent: u64, then: u64) {
        self.roll(now);
        for state in &mut self.states {
            state.meter_mut().give_back(cost, lent, then);
        }
    }

    fn roll(&mut self, now: u64) {
        for state in &mut self.states {
            state.meter_mut().roll(now);
        }
    }

    fn meters(&self) -> impl Iterator<Item = &dyn Meter> {
        self.states.iter().map(State::meter)
    }
}

impl State {
    fn new(rule: &Rule) -> Self {
        match *rule {
            Rule::Bucket(rule) => Self::Bucket(Bucket::new(rule)),
            Rule::Fixed(rule) => Self::Fixed(Fixed::new(rule)),
            Rule::Sliding(rule) => Self::Sliding(Sliding::new(rule)),
        }
    }

    /// The same by another rule, if what was counted says something of that.
    fn with(&self, rule: &Rule) -> Option<Self> {
        let mut same = self.clone();
        let obeys = match (&mut same, *rule) {
            (Self::Bucket(bucket), Rule::Bucket(rule)) => bucket.obey(rule),
            (Self::Fixed(fixed), Rule::Fixed(rule)) => fixed.obey(rule),
            (Self::Sliding(sliding), Rule::Sliding(rule)) => sliding.obey(rule),
            (Self::Bucket(_) | Self::Fixed(_) | Self::Sliding(_), _) => false,
        };
        obeys.then_some(same)
    }

    fn meter(&self) -> &dyn Meter {
        match self {
            Self::Bucket(bucket) => bucket,
            Self::Fixed(fixed) => fixed,
            Self::Sliding(sliding) => sliding,
        }
    }

    fn meter_mut(&mut self) -> &mut dyn Meter {
        match self {
            Self::Bucket(bucket) => bucket,
            Self::Fixed(fixed) => fixed,
            Self::Sliding(sliding) => sliding,
        }
    }
}
