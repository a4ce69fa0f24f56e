//! What is known of one host's slots, and all that is decided about them: plain numbers under
//! [`super::Host`]'s lock. Nothing here locks, waits or tells anybody.
//!
//! Invariants: `open` is the number of permits that exist. `granted` is lowered before Redis hears of
//! it and raised only by an answer; `recorded` is never less than what Redis may hold.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Verdict;
use crate::base::clock;
use crate::limit::queue::Queue;
use crate::limit::rules::Limit;
use crate::limit::rules::Ruling;
use crate::store::scripts::Claim;

/// How long a host counts as short of slots for others after Redis last said so.
pub(super) const STARVED: Duration = Duration::from_millis(1_500);
/// How long somebody who has no time waits all the same for slots that others hold unused: they
/// were told, and give them back within a round trip or two.
pub(super) const BRIEF: Duration = Duration::from_millis(50);

/// What a host's room is measured against at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Redis is away and the policy is to refuse: slots granted already may still be used while
    /// the lease lasts, but nobody is asked and nobody waits.
    Away { leased: bool },
    /// Slots that Redis granted to this instance. Without a valid lease none may be opened.
    /// `slack` is how many it may hold ahead of need, `instances` how many there are in the fleet.
    Granted { leased: bool, slack: u32, instances: u32 },
    /// This process alone.
    Local,
    /// Redis is away and the policy is to let all pass.
    Open,
    /// Redis is away and the policy is a share: the limit over the last known number of instances.
    Share { instances: u32 },
}

/// What a waiter may still hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hope {
    /// The next answer of Redis; `true` once the question has been sent.
    Answer(bool),
    /// A slot that another instance holds unused, until then.
    Brief(Instant),
    /// An idle connection that another thread was asked to close.
    Reclaim,
    /// Any slot that comes free; its own deadline ends it.
    Time,
}

/// How many waiters hope for what, so that nobody need look at each of them.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Hopes {
    /// For a place in the fleet's queue.
    pub(super) queued: u32,
    /// For an answer, and of those whose question was not sent yet.
    pub(super) asking: u32,
    pub(super) unasked: u32,
    pub(super) brief: u32,
}

impl Hopes {
    pub(super) fn join(&mut self, hope: Hope) {
        self.count(hope, |number| *number += 1);
    }

    pub(super) fn leave(&mut self, hope: Hope) {
        self.count(hope, |number| *number -= 1);
    }

    pub(super) fn count(&mut self, hope: Hope, step: impl Fn(&mut u32)) {
        match hope {
            Hope::Answer(asked) => {
                step(&mut self.asking);
                if !asked {
                    step(&mut self.unasked);
                }
            }
            Hope::Brief(_) => {
                step(&mut self.queued);
                step(&mut self.brief);
            }
            Hope::Reclaim => {}
            Hope::Time => step(&mut self.queued),
        }
    }
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) hope: Hope,
    pub(super) ticket: oneshot::Sender<Verdict>,
}

/// When a host must be looked at again, though nothing happens here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Somebody waits for what others hold unused.
    Brief,
    /// More is open here than was granted: what is held must be put on the books as it fits.
    Debt,
    /// No.
    No,
    /// Slots are held that may not be needed any more, or others were short of them.
    Spare,
    /// Somebody waits for a slot of the fleet. The hint may be lost that says there is one.
    Waiting,
}

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct State {
    pub(super) open: u32,
    /// Slots that may be used.
    pub(super) granted: u32,
    /// Slots that Redis said were this instance's, in its last answer.
    pub(super) heard: u32,
    /// The most that Redis may hold or queue for this instance: unlike `granted` it is not lowered
    /// before an answer has said so, and what a lost message may have taken is in it.
    pub(super) recorded: u32,
    pub(super) total: u32,
    /// The limit in force, and what the rules here say.
    pub(super) limit: Limit,
    pub(super) ruling: Ruling,
    pub(super) rules: u64,
    /// Whether Redis has confirmed that the host is unlimited.
    pub(super) is_free: bool,
    pub(super) waiting: Queue<Waiter>,
    pub(super) hopes: Hopes,
    /// How many places in the fleet's queue Redis knows of.
    pub(super) queued: u32,
    /// Until when others count as short of slots; and how many instances use this host.
    pub(super) starved_until: Option<Instant>,
    pub(super) instances: u32,
    /// The most slots to be held ahead of need, and of instances in the fleet, as last heard.
    pub(super) slack: u32,
    pub(super) fleet: u32,
    /// The fewest slots that were unused since the last look; and how many are to go back.
    pub(super) low: u32,
    pub(super) trim: u32,
    /// The last admission left too few unused ones.
    pub(super) is_low: bool,
    pub(super) reclaiming: u32,
    /// Redis is to be asked though nothing changed here.
    pub(super) is_polled: bool,
    pub(super) outstanding: bool,
    pub(super) listed: bool,
    pub(super) refusals: u64,
    pub(super) refusal_told: Option<Instant>,
}

#[cfg(test)]
impl Clone for Waiter {
    fn clone(&self) -> Self {
        Self { hope: self.hope, ticket: oneshot::channel().0 }
    }
}

impl Basis {
    /// Whether Redis is to hear of what happens.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::Granted { .. })
    }
}

impl State {
    /// Takes over what version `rules` of the table says.
    pub(super) fn obey(&mut self, rules: u64, ruling: Ruling) {
        self.rules = rules;
        if self.ruling != ruling || self.recorded == 0 {
            self.ruling = ruling;
            self.limit = ruling.limit;
            self.is_free = false;
        }
    }

    /// Takes over what is known of the fleet.
    pub(super) fn hear_of_fleet(&mut self, basis: Basis) {
        (self.slack, self.fleet) = match basis {
            Basis::Granted { slack, instances, .. } => (slack, instances.max(1)),
            Basis::Away { .. } | Basis::Local | Basis::Open | Basis::Share { .. } => (0, 1),
        };
    }

    /// Redis holds nothing for this instance here.
    pub(super) fn forget(&mut self) {
        (self.granted, self.heard, self.queued) = (0, 0, 0);
    }

    pub(super) fn room(&self, basis: Basis) -> u32 {
        let limit = match basis {
            Basis::Open => return u32::MAX,
            // An unlimited host passes at once, where the fleet agrees that it is.
            _ if self.limit == 0 && (self.is_free || !basis.is_shared()) => return u32::MAX,
            Basis::Away { leased } | Basis::Granted { leased, .. } => {
                if leased {
                    self.granted
                } else {
                    0
                }
            }
            Basis::Local => self.limit,
            Basis::Share { instances } => self.limit / instances.max(1),
        };
        limit.saturating_sub(self.open)
    }

    pub(super) fn is_starved(&self) -> bool {
        self.starved_until.is_some_and(|until| clock::now() < until)
    }

    /// How many slots this instance may keep for those who come while others wait, too; none
    /// where there are fewer than instances: each goes round.
    pub(super) fn fair_share(&self) -> u32 {
        self.limit / self.instances.max(1)
    }

    /// How many unused slots this instance may hold ahead of need: fewer the fuller the host is,
    /// and none when somebody goes short (a dynamic threshold: Choudhury and Hahne, "Dynamic queue
    /// length thresholds for shared-memory packet switches", 1998).
    pub(super) fn spare(&self) -> u32 {
        if self.slack == 0 || self.limit == 0 || self.is_starved() {
            return 0;
        }
        let free = self.limit.saturating_sub(self.total.max(self.open));
        self.slack.min(free / self.fleet.saturating_mul(2).max(1))
    }

    /// Of the unused slots, those that stay here.
    pub(super) fn kept(&self) -> u32 {
        let unused = self.granted.saturating_sub(self.open);
        let spare = self.spare();
        // A few more than it would ask for: else each release would say what the next request takes back.
        let most = spare.saturating_mul(2).min(self.slack);
        let kept = if unused <= most { unused } else { spare };
        kept.saturating_sub(self.trim)
    }

    /// Notes an admission; whether too few slots are left for the next ones.
    pub(super) fn is_short_of_slack(&mut self) -> bool {
        let unused = self.granted.saturating_sub(self.open);
        self.low = self.low.min(unused);
        self.is_low = self.limit > 0 && unused < self.spare().div_ceil(2);
        self.is_low
    }

    /// What is open and not on the books of Redis.
    pub(super) fn debt(&self) -> u32 {
        if self.limit == 0 { 0 } else { self.open.saturating_sub(self.heard) }
    }

    /// Redis holds another number for this instance than it should, or has not been asked for all
    /// who wait.
    pub(super) fn is_stale(&self) -> bool {
        if self.hopes.unasked > 0 {
            return true;
        }
        if self.limit == 0 {
            return self.heard as usize != self.open as usize + self.waiting.len();
        }
        let places = if self.debt() > 0 { self.debt() } else { self.hopes.queued };
        self.queued != places || self.heard > self.open + self.kept()
    }

    /// Puts the host on the Redis worker's list; false if it stands there already, or will be
    /// looked at when the outstanding answer comes.
    pub(super) fn list(&mut self) -> bool {
        !self.outstanding && !std::mem::replace(&mut self.listed, true)
    }

    pub(super) fn again(&self) -> Again {
        if self.hopes.brief > 0 {
            Again::Brief
        } else if !self.waiting.is_empty() {
            Again::Waiting
        } else if self.limit > 0 && self.open > self.granted {
            Again::Debt
        } else if self.limit > 0 && self.slack > 0 && self.granted > 0 {
            Again::Spare
        } else {
            Again::No
        }
    }

    /// The question that was sent for them has no answer.
    pub(super) fn unask(&mut self) {
        for waiter in self.waiting.iter_mut() {
            if waiter.hope == Hope::Answer(true) {
                waiter.hope = Hope::Answer(false);
            }
        }
        self.hopes.unasked = self.hopes.asking;
    }

    /// The message that is about to leave: it asks for all who wait.
    pub(super) fn claim(&mut self) -> Claim {
        if self.hopes.unasked > 0 {
            self.hopes.unasked = 0;
            for waiter in self.waiting.iter_mut() {
                if waiter.hope == Hope::Answer(false) {
                    waiter.hope = Hope::Answer(true);
                }
            }
        }
        let (ask, wait) = (self.hopes.asking, self.hopes.queued);
        let (kept, spare) = (self.kept(), self.spare());
        // Only a host in use gets slots ahead: most hosts of a crawler are met once.
        let is_warm = self.heard > 0 && self.debt() == 0 && (self.is_low || ask + wait > 0);
        let Ruling { limit, term } = self.ruling;
        let claim = Claim {
            hold: self.open.saturating_add(kept),
            heard: self.heard,
            ask,
            wait,
            spare: kept.max(spare),
            slack: if is_warm { spare.saturating_sub(kept) } else { 0 },
            limit,
            term,
        };
        self.send(&claim);
        claim
    }

    pub(super) fn send(&mut self, claim: &Claim) {
        self.granted = self.granted.min(claim.hold);
        self.recorded = self.recorded.max(claim.most());
        self.outstanding = true;
        (self.is_polled, self.is_low, self.trim) = (false, false, 0);
        self.low = self.low.min(self.granted.saturating_sub(self.open));
    }
}
