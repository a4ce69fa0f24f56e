//! One host's slots and its waiting room.
//!
//! All that decides who gets a slot is here, behind one short lock: the count, the grant of the
//! fleet, who waits. Nothing here waits and nothing here speaks to Redis; what must be said to
//! others comes back as values ([`Due`], [`Claim`]) to be carried out after the lock is gone.
//!
//! Invariants: `open` is the number of permits that exist. Nobody is admitted past the room that
//! the [`Basis`] gives. Nobody overtakes those who wait. A grant is lowered here *before* Redis
//! hears of it and raised only by an answer.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Identity;
use super::Reason;
use super::queue::Place;
use super::queue::Queue;
use super::rules::Limit;
use super::rules::Ruling;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;

/// How long a host counts as short of slots for others after Redis last said so.
const STARVED: Duration = Duration::from_millis(1_500);
/// How long somebody who has no time waits all the same for slots that others hold unused: they
/// were told, and give them back within a round trip or two.
const BRIEF: Duration = Duration::from_millis(50);

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
enum Hope {
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
struct Hopes {
    /// For a place in the fleet's queue.
    queued: u32,
    /// For an answer, and of those whose question was not sent yet.
    asking: u32,
    unasked: u32,
    brief: u32,
}

impl Hopes {
    fn join(&mut self, hope: Hope) {
        self.count(hope, |number| *number += 1);
    }

    fn leave(&mut self, hope: Hope) {
        self.count(hope, |number| *number -= 1);
    }

    fn count(&mut self, hope: Hope, step: impl Fn(&mut u32)) {
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
struct Waiter {
    hope: Hope,
    ticket: oneshot::Sender<Verdict>,
}

/// What a waiter is told. `Slot` means that `open` already counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Slot,
    Refused(Reason),
}

/// What is to be done once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Due {
    told: Vec<(oneshot::Sender<Verdict>, Verdict)>,
    /// Threads that are to close an idle connection to this host.
    pub(crate) reclaim: Vec<usize>,
    /// Redis must hear of a new need.
    pub(crate) speak: bool,
}

impl Due {
    pub(crate) fn spoken(speak: bool) -> Self {
        Self { speak, ..Self::default() }
    }

    /// Tells the waiters; how many slots found nobody any more and must be released again.
    pub(crate) fn tell(&mut self) -> u32 {
        let lost = |(ticket, verdict): (oneshot::Sender<Verdict>, Verdict)| {
            ticket.send(verdict) == Err(Verdict::Slot)
        };
        self.told.drain(..).map(lost).map(u32::from).sum()
    }
}

/// A place in the waiting room, and where its verdict comes.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) place: Place,
    pub(crate) verdict: oneshot::Receiver<Verdict>,
}

/// The answer to a request for a slot, under the lock.
#[derive(Debug)]
pub(crate) enum Entry {
    Slot { speak: bool },
    Refused(Reason),
    Wait(Ticket, Due),
}

/// Who asks for a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) identity: &'a Identity,
    /// Whether it has time.
    pub(crate) may_wait: bool,
    /// How many may have that.
    pub(crate) seats: usize,
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
struct State {
    open: u32,
    /// Slots that may be used.
    granted: u32,
    /// Slots that Redis said were this instance's, in its last answer.
    heard: u32,
    /// The most that Redis may hold or queue for this instance: unlike `granted` it is not lowered
    /// before an answer has said so, and what a lost message may have taken is in it.
    recorded: u32,
    total: u32,
    /// The limit in force, and what the rules here say.
    limit: Limit,
    ruling: Ruling,
    rules: u64,
    /// Whether Redis has confirmed that the host is unlimited.
    is_free: bool,
    waiting: Queue<Waiter>,
    hopes: Hopes,
    /// How many places in the fleet's queue Redis knows of.
    queued: u32,
    /// Until when others count as short of slots; and how many instances use this host.
    starved_until: Option<Instant>,
    instances: u32,
    /// The most slots to be held ahead of need, and of instances in the fleet, as last heard.
    slack: u32,
    fleet: u32,
    /// The fewest slots that were unused since the last look; and how many are to go back.
    low: u32,
    trim: u32,
    /// The last admission left too few unused ones.
    is_low: bool,
    reclaiming: u32,
    /// Redis is to be asked though nothing changed here.
    is_polled: bool,
    outstanding: bool,
    listed: bool,
    refusals: u64,
    refusal_told: Option<Instant>,
}

/// Counts since the start, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) admitted: AtomicU64,
    /// How many waited, and for how long in all.
    pub(crate) waited: AtomicU64,
    pub(crate) wait_nanos: AtomicU64,
    pub(crate) refused: [AtomicU64; Reason::ALL.len()],
}

/// A host's numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSnapshot {
    /// The host.
    pub key: HostKey,
    /// Connections of this instance that are open or being dialled.
    pub open: u32,
    /// Slots granted to this instance; in memory the same as `open`.
    pub granted: u32,
    /// Slots in use in the fleet, as this instance last heard.
    pub total: u32,
    /// The limit in force; 0 is unlimited.
    pub limit: Limit,
    /// Requests that wait here.
    pub waiting: u32,
    /// Of the open connections, those that idle: in the pool, or as a tunnel that would yield.
    pub idle: u32,
    /// Of those, requests with a place in the fleet's queue.
    pub queued: u32,
    /// Whether requests wait for this host at other instances.
    pub starved: bool,
}

/// What of a host's connections idles on one thread. Numbers that a moment may have overtaken: a
/// thread that is asked for more than it has says so.
#[derive(Debug, Default)]
struct Idle {
    /// How many; written by that thread alone.
    count: AtomicU32,
    /// Since when the longest does that may still be asked for, as [`Host::stamp`] has it; 0 is
    /// none. Written by that thread alone.
    oldest: AtomicU64,
    /// How many the thread was asked to close; written under the host's lock.
    asked: AtomicU32,
}

impl Idle {
    fn is_rich(&self) -> bool {
        self.count.load(Relaxed) > self.asked.load(Relaxed)
    }

    /// What sorts threads by the age of what idles there.
    fn age(&self) -> u64 {
        self.oldest.load(Relaxed).wrapping_sub(1)
    }
}

/// A host that somebody asked for.
#[derive(Debug)]
pub(crate) struct Host {
    key: HostKey,
    /// Which part of Redis counts it.
    pub(crate) shard: u16,
    state: Mutex<State>,
    /// Per thread.
    idle: Box<[Idle]>,
    born: Instant,
    /// The number of those who wait, and whether others are short of slots, readable without the
    /// lock.
    waiting: AtomicU32,
    starved: AtomicBool,
    pub(crate) counters: Arc<Counters>,
    /// Whether a metric may carry this host's name.
    pub(crate) named: bool,
}

impl Host {
    pub(crate) fn new(
        key: HostKey,
        shard: u16,
        threads: usize,
        counters: Arc<Counters>,
        named: bool,
    ) -> Self {
        Self {
            key,
            shard,
            state: Mutex::new(State { rules: u64::MAX, ..State::default() }),
            idle: (0..threads).map(|_| Idle::default()).collect(),
            born: clock::now(),
            waiting: AtomicU32::new(0),
            starved: AtomicBool::new(false),
            counters,
            named,
        }
    }

    pub(crate) fn key(&self) -> &HostKey {
        &self.key
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers are whole at every point where a panic could happen under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot at once, a place among those who wait, or a refusal. `rules` is the version of the
    /// table and `ruling` reads it.
    pub(crate) fn enter(
        &self,
        basis: Basis,
        rules: u64,
        ruling: impl FnOnce() -> Ruling,
        asker: Asker<'_>,
    ) -> Entry {
        let mut state = self.lock();
        if state.rules != rules {
            state.obey(rules, ruling());
        }
        state.hear_of_fleet(basis);
        if state.waiting.is_empty() && state.room(basis) > 0 {
            state.open += 1;
            // Unlimited hosts pass at once; the fleet hears of them afterwards.
            let is_due = state.is_short_of_slack() || state.is_stale();
            return Entry::Slot { speak: basis.is_shared() && is_due && state.list() };
        }
        let hope = match basis {
            Basis::Away { .. } => return Entry::Refused(Reason::Away),
            Basis::Granted { .. } if !asker.may_wait => Hope::Answer(false),
            Basis::Local | Basis::Share { .. } | Basis::Open if !asker.may_wait => Hope::Reclaim,
            _ if state.hopes.queued as usize >= asker.seats => {
                return Entry::Refused(Reason::QueueFull);
            }
            Basis::Granted { .. } | Basis::Local | Basis::Share { .. } | Basis::Open => Hope::Time,
        };
        let mut due = Due::default();
        if !basis.is_shared() && !self.reclaim(&mut state, &mut due) && hope == Hope::Reclaim {
            return Entry::Refused(Reason::Full);
        }
        let (ticket, verdict) = oneshot::channel();
        state.hopes.join(hope);
        let place = state.waiting.push(asker.identity, Waiter { hope, ticket });
        self.count_waiting(&state);
        due.speak = basis.is_shared() && state.list();
        Entry::Wait(Ticket { place, verdict }, due)
    }

    /// A waiter gives up: its place is gone at once. What it was told meanwhile is its own to
    /// release.
    pub(crate) fn leave(&self, place: &Place, basis: Basis) -> Due {
        let mut state = self.lock();
        if let Some(waiter) = state.waiting.remove(place) {
            state.hopes.leave(waiter.hope);
        }
        self.count_waiting(&state);
        Due::spoken(basis.is_shared() && state.is_stale() && state.list())
    }

    /// A connection is gone: its slot goes to who is next, or back.
    pub(crate) fn release(&self, basis: Basis) -> Due {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        let is_over = state.limit > 0 && state.total > state.limit;
        let is_greedy = state.is_starved() && state.open >= state.fair_share();
        if basis.is_shared() && (is_over || is_greedy) {
            // It goes to the head of the fleet's queue, or to nobody.
            state.granted = state.granted.min(state.open);
        }
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        due.speak = basis.is_shared() && state.is_stale() && state.list();
        due
    }

    /// The limit may have changed: those who wait may pass.
    pub(crate) fn limit_changed(&self, basis: Basis, rules: u64, ruling: Ruling) -> Due {
        let mut state = self.lock();
        let is_other = state.ruling != ruling;
        state.obey(rules, ruling);
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        // The fleet is to hear of it by whoever has something at stake.
        state.is_polled |= is_other && (!state.waiting.is_empty() || state.recorded > 0);
        due.speak = basis.is_shared() && (state.is_polled || state.is_stale()) && state.list();
        due
    }

    /// A thread has closed an idle connection as it was asked, or, in vain, had none any more:
    /// then another is asked.
    pub(crate) fn reclaimed(&self, thread: usize, in_vain: bool) -> Due {
        let mut state = self.lock();
        let mut due = Due::default();
        state.reclaiming = state.reclaiming.saturating_sub(1);
        let asked = &self.idle[thread].asked;
        asked.store(asked.load(Relaxed).saturating_sub(1), Relaxed);
        if in_vain {
            self.reclaim_for(state.waiting.len(), &mut state, &mut due);
        }
        let mut hopes = state.reclaiming;
        self.refuse(&mut state, &mut due, |waiter| {
            if waiter.hope != Hope::Reclaim {
                return None;
            }
            let hopeless = hopes == 0;
            hopes = hopes.saturating_sub(1);
            hopeless.then_some(Reason::Full)
        });
        due
    }

    // The shared side: what the limiter's Redis worker asks and tells.

    /// The next message to Redis about this host, if one is due. The grant is lowered to what is
    /// kept here, before the message leaves.
    pub(crate) fn plan(&self) -> Option<Claim> {
        let mut state = self.lock();
        state.listed = false;
        if state.outstanding || !(state.is_polled || state.is_low || state.is_stale()) {
            return None;
        }
        Some(state.claim())
    }

    /// The first message about this host after a `hello`: what it holds, so that Redis knows it
    /// again. `keep` is whether the slots are still vouched for; else the grant starts anew. Who
    /// waits is asked for by the next message.
    pub(crate) fn reassert(&self, keep: bool) -> Option<Claim> {
        let mut state = self.lock();
        state.listed = false;
        state.outstanding = false;
        state.unask(); // the answer went with the connection
        if state.open == 0 && state.recorded == 0 {
            state.forget();
            return None;
        }
        // What is open beyond the grant stays a debt, whoever vouches for the rest: Redis takes what
        // is vouched for as it is, and what is on its books may be used.
        let vouched = state.granted.min(state.open);
        let hold = if keep && state.limit > 0 { vouched } else { state.open };
        state.granted = if keep { vouched } else { 0 };
        let Ruling { limit, term } = state.ruling;
        let claim = Claim { hold, limit, term, ..Claim::default() };
        state.send(&claim);
        Some(claim)
    }

    /// A message that changes nothing, so that Redis keeps what it knows for another day.
    pub(crate) fn audit(&self) -> Option<Claim> {
        let mut state = self.lock();
        (!state.outstanding && state.recorded > 0).then(|| state.claim())
    }

    /// Somebody waits here, or more is open than was granted: it is asked again, though nothing
    /// happened here.
    pub(crate) fn poll(&self) -> Due {
        let mut state = self.lock();
        state.is_polled |= matches!(state.again(), Again::Brief | Again::Debt | Again::Waiting);
        Due::spoken(state.is_polled && state.list())
    }

    /// Redis gave a slot to this instance's place in the queue.
    pub(crate) fn served(&self) -> Due {
        let mut state = self.lock();
        state.is_polled = true;
        Due::spoken(state.list())
    }

    /// So many wait elsewhere for what could be done without here.
    pub(crate) fn recalled(&self, wanted: u32) -> Due {
        let mut state = self.lock();
        self.starve(&mut state, true);
        let mut due = Due::default();
        self.reclaim_for(wanted as usize, &mut state, &mut due);
        due.speak = state.is_stale() && state.list();
        due
    }

    /// Time has passed: what nobody needed for a while goes back, and who had only a moment is told.
    pub(crate) fn look(&self) -> (Due, Again) {
        let mut state = self.lock();
        let mut due = Due::default();
        let now = clock::now();
        self.refuse(&mut state, &mut due, |waiter| match waiter.hope {
            Hope::Brief(until) if until <= now => Some(Reason::Full),
            Hope::Answer(_) | Hope::Brief(_) | Hope::Reclaim | Hope::Time => None,
        });
        let unused = state.granted.saturating_sub(state.open);
        state.trim = state.low.min(unused);
        state.low = unused - state.trim;
        let again = state.again();
        state.is_polled |= matches!(again, Again::Waiting | Again::Debt);
        due.speak = (state.is_polled || state.is_stale()) && state.list();
        (due, again)
    }

    /// This instance stops: nothing is held ahead of need any more.
    pub(crate) fn retire(&self) {
        self.lock().slack = 0;
    }

    /// Whether Redis may hold slots for this instance here.
    pub(crate) fn is_recorded(&self) -> bool {
        self.lock().recorded > 0
    }

    /// Redis answered.
    pub(crate) fn answered(&self, answer: Granted, basis: Basis) -> (Due, Again) {
        let mut state = self.lock();
        state.outstanding = false;
        state.hear_of_fleet(basis);
        state.heard = answer.here;
        state.total = answer.total;
        let short = answer.short;
        state.limit = short.map_or(state.ruling.limit, |short| short.limit);
        let is_learning = short.is_some_and(|short| short.learning.is_some());
        let is_sure = state.limit == 0 || !is_learning && state.total <= state.limit;
        // Beyond the limit, or before all have said what they hold, what is on the books may be no
        // more than that: it never makes a grant of a debt.
        state.granted = if is_sure { answer.here } else { answer.here.min(state.granted) };
        state.queued = short.map_or(0, |short| short.queued);
        state.instances = short.map_or(1, |short| short.instances);
        state.is_free = state.limit == 0;
        state.recorded = state.heard + state.queued;
        self.starve(&mut state, short.is_some_and(|short| short.others > 0));
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        if is_learning {
            // Nobody is refused for a loss that heals by itself: they ask again when it has.
            state.unask();
            due.speak = state.heard > state.open + state.kept() && state.list();
            return (due, state.again());
        }
        if basis == (Basis::Granted { leased: false, slack: state.slack, instances: state.fleet }) {
            state.unask(); // what was granted may not be used before the lease is renewed
            return (due, state.again());
        }
        self.reclaim_for(state.waiting.len(), &mut state, &mut due);
        self.disappoint(&mut state, short.map_or(0, |short| short.unused), &mut due);
        due.speak = state.is_stale() && state.list();
        (due, state.again())
    }

    /// The connection to Redis is gone, and with it any answer. `refuse` sends all waiters away;
    /// otherwise they stay for what the basis lets pass.
    pub(crate) fn lost(&self, basis: Basis, refuse: bool) -> Due {
        let mut state = self.lock();
        state.listed = false;
        state.outstanding = false;
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        self.refuse(&mut state, &mut due, |waiter| {
            let answerless = matches!(waiter.hope, Hope::Answer(_) | Hope::Brief(_));
            (refuse || answerless).then_some(Reason::Away)
        });
        due
    }

    /// What the fleet holds, as the last answer said.
    pub(crate) fn in_use(&self, shared: bool) -> (u32, Limit) {
        let state = self.lock();
        (if shared { state.total.max(state.open) } else { state.open }, state.limit)
    }

    /// Counts a refusal. How many there were since the last that was logged, when it is time to
    /// log again.
    pub(crate) fn count_refusal(&self, reason: Reason, now: Instant) -> Option<u64> {
        self.counters.refused[reason as usize].fetch_add(1, Relaxed);
        let mut state = self.lock();
        state.refusals += 1;
        let due = state.refusal_told.is_none_or(|told| now - told >= Duration::from_secs(1));
        due.then(|| {
            state.refusal_told = Some(now);
            std::mem::take(&mut state.refusals)
        })
    }

    /// One of this thread's connections idles, and has since then.
    pub(crate) fn park(&self, thread: usize, since: Instant) {
        let idle = &self.idle[thread];
        let stamp = self.stamp(since);
        if idle.age() > stamp - 1 {
            idle.oldest.store(stamp, Relaxed);
        }
        idle.count.fetch_add(1, Relaxed);
    }

    /// One of this thread's connections, idle since then, idles no more. `next` looks for the
    /// longest idle one that is left; it is only asked where that may be another one now.
    pub(crate) fn unpark(
        &self,
        thread: usize,
        since: Instant,
        next: impl FnOnce() -> Option<Instant>,
    ) {
        let idle = &self.idle[thread];
        if idle.count.fetch_sub(1, Relaxed) == 1 {
            idle.oldest.store(0, Relaxed);
        } else if idle.oldest.load(Relaxed) == self.stamp(since) {
            self.set_oldest(thread, next());
        }
    }

    /// This thread's longest idle connection that may still be asked for.
    pub(crate) fn set_oldest(&self, thread: usize, since: Option<Instant>) {
        let stamp = since.map_or(0, |since| self.stamp(since));
        self.idle[thread].oldest.store(stamp, Relaxed);
    }

    /// Something began to idle: it is asked for if somebody waits who has nothing to hope for.
    ///
    /// Under the lock, so that whoever asks for a slot at this moment either sees what idles or is
    /// seen waiting.
    pub(crate) fn offer(&self, basis: Basis) -> Due {
        let mut due = Due::default();
        if matches!(basis, Basis::Away { .. } | Basis::Granted { leased: false, .. }) {
            // Nobody could be given the slot.
            return due;
        }
        let mut state = self.lock();
        let wanted = state.waiting.len().max(usize::from(state.is_starved()));
        self.reclaim_for(wanted, &mut state, &mut due);
        due
    }

    /// A thread is gone: what idled there closes with it, and nobody is to be asked.
    pub(crate) fn gone(&self, thread: usize) {
        let _state = self.lock();
        self.idle[thread].asked.store(u32::MAX, Relaxed);
    }

    /// A moment as a number: microseconds from this host's birth, never 0.
    fn stamp(&self, at: Instant) -> u64 {
        let age = at.saturating_duration_since(self.born).as_micros();
        u64::try_from(age).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether somebody waits for a slot here, or at another instance.
    pub(crate) fn is_wanted(&self) -> bool {
        if self.waiting.load(Relaxed) > 0 {
            return true;
        }
        // PERF: the lock is taken only while others wait, or did a moment ago.
        self.starved.load(Relaxed) && {
            let mut state = self.lock();
            let is_starved = state.is_starved();
            if !is_starved {
                self.starve(&mut state, false);
            }
            is_starved
        }
    }

    pub(crate) fn snapshot(&self, shared: bool) -> HostSnapshot {
        let state = self.lock();
        HostSnapshot {
            key: self.key.clone(),
            open: state.open,
            granted: if shared { state.granted } else { state.open },
            total: if shared { state.total.max(state.open) } else { state.open },
            limit: state.limit,
            waiting: self.waiting.load(Relaxed),
            idle: self.idle.iter().map(|idle| idle.count.load(Relaxed)).sum(),
            queued: state.queued,
            starved: state.is_starved(),
        }
    }

    /// Whether nothing is left here that the next request would need to find.
    pub(crate) fn is_vacant(&self) -> bool {
        let state = self.lock();
        state.open == 0
            && state.recorded == 0
            && state.waiting.is_empty()
            && !state.outstanding
            && !state.listed
    }

    /// Who hoped for this answer got nothing by it: they hope for something else, or go.
    fn disappoint(&self, state: &mut State, unused: u32, due: &mut Due) {
        if state.hopes.asking == state.hopes.unasked {
            return;
        }
        let mut reclaims = state.reclaiming;
        let brief = (unused > state.spare()).then(|| Hope::Brief(clock::now() + BRIEF));
        let State { waiting, hopes, .. } = &mut *state;
        for waiter in waiting.iter_mut().filter(|waiter| waiter.hope == Hope::Answer(true)) {
            let hope = if reclaims > 0 {
                reclaims -= 1;
                Some(Hope::Reclaim)
            } else {
                brief
            };
            if let Some(hope) = hope {
                hopes.leave(waiter.hope);
                hopes.join(hope);
                waiter.hope = hope;
            }
        }
        self.refuse(state, due, |waiter| {
            (waiter.hope == Hope::Answer(true)).then_some(Reason::Full)
        });
    }

    /// Others wait for what this instance holds, or do not.
    fn starve(&self, state: &mut State, is_starved: bool) {
        state.starved_until = is_starved.then(|| clock::now() + STARVED);
        self.starved.store(is_starved, Relaxed);
    }

    /// Asks the thread with the longest idle connection to close it; whether there is one.
    fn reclaim(&self, state: &mut State, due: &mut Due) -> bool {
        let rich = self.idle.iter().enumerate().filter(|(_, idle)| idle.is_rich());
        let Some((thread, idle)) = rich.min_by_key(|(_, idle)| idle.age()) else { return false };
        idle.asked.store(idle.asked.load(Relaxed) + 1, Relaxed);
        state.reclaiming += 1;
        due.reclaim.push(thread);
        true
    }

    /// Asks for as many idle connections as `wanted` say, less those asked for already.
    fn reclaim_for(&self, wanted: usize, state: &mut State, due: &mut Due) {
        while wanted > state.reclaiming as usize && self.reclaim(state, due) {}
    }

    /// Gives what room there is to those who are next.
    fn pump(&self, state: &mut State, basis: Basis, due: &mut Due) {
        while state.room(basis) > 0 {
            let Some(waiter) = state.waiting.pop() else { break };
            state.hopes.leave(waiter.hope);
            state.open += 1;
            due.told.push((waiter.ticket, Verdict::Slot));
        }
        self.count_waiting(state);
    }

    fn refuse(
        &self,
        state: &mut State,
        due: &mut Due,
        mut why: impl FnMut(&Waiter) -> Option<Reason>,
    ) {
        let mut reasons = Vec::new();
        let taken = state.waiting.take_out(|waiter| {
            let reason = why(waiter);
            reasons.extend(reason);
            reason.is_some()
        });
        for (waiter, reason) in taken.into_iter().zip(reasons) {
            state.hopes.leave(waiter.hope);
            due.told.push((waiter.ticket, Verdict::Refused(reason)));
        }
        self.count_waiting(state);
    }

    fn count_waiting(&self, state: &State) {
        self.waiting.store(u32::try_from(state.waiting.len()).unwrap_or(u32::MAX), Relaxed);
    }
}

/// For the model checker, which looks at each host from without and goes on from copies.
#[cfg(test)]
impl Host {
    /// The same host once more. Who waits there waits there too, but cannot be told anything.
    pub(crate) fn fork(&self) -> Self {
        let counters = Arc::clone(&self.counters);
        let host = Self::new(self.key.clone(), self.shard, self.idle.len(), counters, self.named);
        *host.lock() = self.lock().clone();
        host.count_waiting(&host.lock());
        host
    }

    /// All that later steps depend on, but for clocks and slack.
    pub(crate) fn fingerprint(&self) -> impl std::hash::Hash + use<> {
        let state = self.lock();
        let Hopes { queued, asking, unasked, brief } = state.hopes;
        (
            (state.open, state.granted, state.heard, state.recorded, state.queued, state.limit),
            (state.is_free, state.is_starved(), state.is_polled, state.outstanding, state.listed),
            (queued, asking, unasked, brief, state.instances),
            (state.slack > 0).then_some((
                state.total,
                state.fleet,
                state.low,
                state.trim,
                state.is_low,
            )),
        )
    }

    /// Some time has passed: that others were short of slots is forgotten.
    pub(crate) fn calm(&self) {
        self.starve(&mut self.lock(), false);
    }

    /// Breaks what the model must notice.
    pub(crate) fn set_granted(&self, granted: u32) {
        self.lock().granted = granted;
    }
}

#[cfg(test)]
impl Clone for Waiter {
    fn clone(&self) -> Self {
        Self { hope: self.hope, ticket: oneshot::channel().0 }
    }
}

impl Basis {
    /// Whether Redis is to hear of what happens.
    fn is_shared(self) -> bool {
        matches!(self, Self::Granted { .. })
    }
}

impl State {
    /// Takes over what version `rules` of the table says.
    fn obey(&mut self, rules: u64, ruling: Ruling) {
        self.rules = rules;
        if self.ruling != ruling || self.recorded == 0 {
            self.ruling = ruling;
            self.limit = ruling.limit;
            self.is_free = false;
        }
    }

    /// Takes over what is known of the fleet.
    fn hear_of_fleet(&mut self, basis: Basis) {
        (self.slack, self.fleet) = match basis {
            Basis::Granted { slack, instances, .. } => (slack, instances.max(1)),
            Basis::Away { .. } | Basis::Local | Basis::Open | Basis::Share { .. } => (0, 1),
        };
    }

    /// Redis holds nothing for this instance here.
    fn forget(&mut self) {
        (self.granted, self.heard, self.queued) = (0, 0, 0);
    }

    fn room(&self, basis: Basis) -> u32 {
        let limit = match basis {
            Basis::Open => return u32::MAX,
            // An unlimited host passes at once, where the fleet agrees that it is.
            Basis::Granted { leased, .. } if self.limit > 0 || !self.is_free => {
                if leased {
                    self.granted
                } else {
                    0
                }
            }
            _ if self.limit == 0 => return u32::MAX,
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

    fn is_starved(&self) -> bool {
        self.starved_until.is_some_and(|until| clock::now() < until)
    }

    /// How many slots this instance may keep for those who come while others wait, too; none
    /// where there are fewer than instances: each goes round.
    fn fair_share(&self) -> u32 {
        self.limit / self.instances.max(1)
    }

    /// How many unused slots this instance may hold ahead of need: fewer the fuller the host is,
    /// and none when somebody goes short (a dynamic threshold: Choudhury and Hahne, "Dynamic queue
    /// length thresholds for shared-memory packet switches", 1998).
    fn spare(&self) -> u32 {
        if self.slack == 0 || self.limit == 0 || self.is_starved() {
            return 0;
        }
        let free = self.limit.saturating_sub(self.total.max(self.open));
        self.slack.min(free / self.fleet.saturating_mul(2).max(1))
    }

    /// Of the unused slots, those that stay here.
    fn kept(&self) -> u32 {
        let unused = self.granted.saturating_sub(self.open);
        unused.min(self.spare()).saturating_sub(self.trim)
    }

    /// Notes an admission; whether too few slots are left for the next ones.
    fn is_short_of_slack(&mut self) -> bool {
        let unused = self.granted.saturating_sub(self.open);
        self.low = self.low.min(unused);
        self.is_low = self.limit > 0 && unused < self.spare().div_ceil(2);
        self.is_low
    }

    /// What is open and not on the books of Redis.
    fn debt(&self) -> u32 {
        if self.limit == 0 { 0 } else { self.open.saturating_sub(self.heard) }
    }

    /// Redis holds another number for this instance than it should, or has not been asked for all
    /// who wait.
    fn is_stale(&self) -> bool {
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
    fn list(&mut self) -> bool {
        !self.outstanding && !std::mem::replace(&mut self.listed, true)
    }

    fn again(&self) -> Again {
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
    fn unask(&mut self) {
        for waiter in self.waiting.iter_mut() {
            if waiter.hope == Hope::Answer(true) {
                waiter.hope = Hope::Answer(false);
            }
        }
        self.hopes.unasked = self.hopes.asking;
    }

    /// The message that is about to leave: it asks for all who wait.
    fn claim(&mut self) -> Claim {
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

    fn send(&mut self, claim: &Claim) {
        self.granted = self.granted.min(claim.hold);
        self.recorded = self.recorded.max(claim.most());
        self.outstanding = true;
        (self.is_polled, self.is_low, self.trim) = (false, false, 0);
        self.low = self.low.min(self.granted.saturating_sub(self.open));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::scripts::Short;

    const LEASED: Basis = Basis::Granted { leased: true, slack: 0, instances: 2 };
    const LAVISH: Basis = Basis::Granted { leased: true, slack: 8, instances: 2 };
    const AWAY: Basis = Basis::Away { leased: true };

    fn host() -> Host {
        Host::new(HostKey::parse("a.test").unwrap(), 0, 1, Arc::default(), true)
    }

    /// Asks for a slot, to wait for one if it must.
    fn ask(host: &Host, basis: Basis, limit: Limit, may_wait: bool) -> Option<Ticket> {
        let asker = Asker { identity: &Identity::Anonymous, may_wait, seats: 10 };
        match host.enter(basis, 0, || Ruling { limit, term: 7 }, asker) {
            Entry::Wait(ticket, _) => Some(ticket),
            Entry::Slot { .. } => None,
            Entry::Refused(reason) => panic!("refused: {reason:?}"),
        }
    }

    fn claim(hold: u32, heard: u32, ask: u32, wait: u32, limit: Limit) -> Claim {
        Claim { hold, heard, ask, wait, limit, term: 7, ..Claim::default() }
    }

    fn answer(host: &Host, answer: Granted) -> Again {
        let (mut due, again) = host.answered(answer, LEASED);
        assert_eq!(due.tell(), 0);
        again
    }

    fn grant(host: &Host, here: u32, total: u32) -> Again {
        answer(host, Granted { here, total, short: None })
    }

    /// An answer that somebody went short of slots.
    fn short(host: &Host, here: u32, total: u32, queued: u32, others: u32) -> Again {
        let short = Short { queued, others, limit: total, instances: 2, ..Short::default() };
        answer(host, Granted { here, total, short: Some(short) })
    }

    fn told(ticket: &mut Ticket) -> Option<Verdict> {
        ticket.verdict.try_recv().ok()
    }

    /// A host with this many connections on granted slots.
    fn open(host: &Host, count: u32, limit: Limit) {
        let mut tickets: Vec<_> =
            (0..count).filter_map(|_| ask(host, LEASED, limit, false)).collect();
        assert_eq!(host.plan(), Some(claim(0, 0, count, 0, limit)));
        assert_eq!(grant(host, count, count), Again::No);
        assert!(tickets.iter_mut().all(|ticket| told(ticket) == Some(Verdict::Slot)));
    }

    #[test]
    fn one_message_asks_for_all_who_wait_and_none_follows_before_its_answer() {
        let host = host();
        let mut tickets = [ask(&host, LEASED, 5, false), ask(&host, LEASED, 5, false)];
        assert_eq!(host.plan(), Some(claim(0, 0, 2, 0, 5)));
        let mut late = ask(&host, LEASED, 5, false).unwrap();
        assert_eq!(host.plan(), None);
        short(&host, 1, 5, 0, 0);
        assert_eq!(told(tickets[0].as_mut().unwrap()), Some(Verdict::Slot));
        assert_eq!(told(tickets[1].as_mut().unwrap()), Some(Verdict::Refused(Reason::Full)));
        assert_eq!(told(&mut late), None, "who came later was not asked for yet");
        assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 5)));
    }

    #[test]
    fn who_has_a_place_in_the_queue_is_not_asked_for_again() {
        let host = host();
        let mut patient = ask(&host, LEASED, 1, true).unwrap();
        assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 1)));
        assert_eq!(short(&host, 0, 1, 1, 0), Again::Waiting);
        assert_eq!(host.plan(), None);
        assert!(host.served().speak, "but for a hint");
        assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 1)));
        grant(&host, 1, 1);
        assert_eq!(told(&mut patient), Some(Verdict::Slot));
    }

    #[test]
    fn who_leaves_the_queue_is_taken_off_it() {
        let host = host();
        let ticket = ask(&host, LEASED, 1, true).unwrap();
        host.plan();
        short(&host, 0, 1, 1, 0);
        assert!(host.leave(&ticket.place, LEASED).speak);
        assert_eq!(host.plan(), Some(claim(0, 0, 0, 0, 1)));
        grant(&host, 0, 1);
        assert!(host.is_vacant());
    }

    #[test]
    fn while_others_wait_a_freed_slot_is_theirs_beyond_the_fair_share() {
        let cases = [(4, 1, true), (4, 2, true), (4, 3, false), (1, 1, false)];
        for (limit, open_here, stays) in cases {
            let host = host();
            open(&host, open_here, limit);
            let mut waiting = ask(&host, LEASED, limit, true).unwrap();
            host.plan();
            short(&host, open_here, limit, 1, 1);
            host.release(LEASED).tell();
            assert_eq!(told(&mut waiting).is_some(), stays, "{open_here} of {limit} among two");
            let hold = if stays { open_here } else { open_here - 1 };
            let due = claim(hold, open_here, 0, u32::from(!stays), limit);
            assert_eq!(host.plan(), Some(due));
        }
    }

    #[test]
    fn a_limit_comes_with_its_term() {
        let host = host();
        open(&host, 1, 5);
        host.limit_changed(LEASED, 1, Ruling { limit: 4, term: 8 });
        let Some(Claim { limit, term, .. }) = host.plan() else { panic!("nothing said") };
        assert_eq!((limit, term), (4, 8));
    }

    #[test]
    fn the_limit_that_redis_tells_holds() {
        let host = host();
        let mut tickets = [ask(&host, LEASED, 5, false), ask(&host, LEASED, 5, false)];
        host.plan();
        let short = Short { limit: 1, ..Short::default() };
        answer(&host, Granted { here: 1, total: 1, short: Some(short) });
        assert_eq!(
            tickets.each_mut().map(|ticket| told(ticket.as_mut().unwrap())),
            [Some(Verdict::Slot), Some(Verdict::Refused(Reason::Full))]
        );
        assert_eq!(host.in_use(true), (1, 1));
    }

    #[test]
    fn an_unlimited_host_passes_at_once_when_redis_has_agreed() {
        let host = host();
        let mut first = ask(&host, LEASED, 0, false).unwrap();
        assert_eq!(host.plan(), Some(claim(0, 0, 1, 0, 0)));
        grant(&host, 1, 1);
        assert_eq!(told(&mut first), Some(Verdict::Slot));
        assert!(ask(&host, LEASED, 0, false).is_none());
        assert_eq!(host.plan(), Some(claim(2, 1, 0, 0, 0)));
    }

    #[test]
    fn a_slot_that_comes_free_is_lowered_here_before_redis_hears_of_it() {
        let host = host();
        open(&host, 2, 5);
        assert!(host.release(LEASED).speak);
        assert_eq!(host.plan(), Some(claim(1, 2, 0, 0, 5)));
        assert!(ask(&host, LEASED, 5, false).is_some(), "the slot is given back already");
    }

    #[test]
    fn without_a_lease_a_granted_slot_opens_nothing() {
        let host = host();
        open(&host, 1, 5);
        host.release(LEASED);
        let unleased = Basis::Granted { leased: false, slack: 0, instances: 2 };
        assert!(ask(&host, unleased, 5, false).is_some());
    }

    #[test]
    fn what_a_lost_message_may_have_taken_is_given_back() {
        let host = host();
        let ticket = ask(&host, LEASED, 5, false).unwrap();
        assert!(host.plan().is_some());
        host.leave(&ticket.place, LEASED);
        host.lost(AWAY, true);
        assert!(!host.is_vacant());
        for keep in [true, false] {
            assert_eq!(host.reassert(keep), Some(claim(0, 0, 0, 0, 5)));
        }
        grant(&host, 0, 0);
        assert_eq!(host.reassert(true), None);
        assert!(host.is_vacant());
    }

    #[test]
    fn what_a_lost_message_gave_back_is_given_back_again() {
        let host = host();
        open(&host, 1, 5);
        host.release(LEASED);
        assert!(host.plan().is_some());
        host.lost(AWAY, true);
        assert_eq!(host.reassert(true), Some(claim(0, 0, 0, 0, 5)));
    }

    #[test]
    fn a_vouched_re_assert_names_what_is_open_and_refuses_nobody() {
        let host = host();
        open(&host, 1, 2);
        let mut waiting = ask(&host, LEASED, 2, false).unwrap();
        assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 2)));
        // The connection breaks; the next hello vouches for what is open.
        assert_eq!(host.reassert(true), Some(claim(1, 0, 0, 0, 2)));
        let (due, again) = host.answered(Granted { here: 1, total: 1, short: None }, LEASED);
        assert!(due.speak, "who waits is asked for next");
        assert_eq!((told(&mut waiting), again), (None, Again::Waiting));
        assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 2)));
        grant(&host, 2, 2);
        assert_eq!(told(&mut waiting), Some(Verdict::Slot));
    }

    #[test]
    fn an_admitted_re_assert_opens_nothing_until_what_is_open_fits() {
        let host = host();
        open(&host, 2, 2);
        assert_eq!(host.reassert(false), Some(claim(2, 0, 0, 0, 2)));
        assert_eq!(short(&host, 1, 2, 0, 0), Again::Debt);
        assert_eq!(host.plan(), Some(claim(2, 1, 0, 0, 2)), "it is queued for");
        short(&host, 1, 2, 1, 0);
        assert_eq!(host.plan(), None);
        // Nor does a later hello that is vouched for make a grant of it.
        assert_eq!(host.reassert(true), Some(claim(1, 0, 0, 0, 2)), "a debt is never vouched for");
        short(&host, 2, 3, 0, 0);
        host.release(LEASED);
        assert_eq!(host.plan(), Some(claim(1, 2, 0, 0, 2)), "it goes back");
        assert!(ask(&host, LEASED, 2, true).is_some());
    }

    #[test]
    fn while_redis_learns_nobody_is_refused() {
        let host = host();
        let mut ticket = ask(&host, LEASED, 2, false).unwrap();
        host.plan();
        let learning = Some(Duration::from_secs(1));
        let short = Short { learning, limit: 2, ..Short::default() };
        assert_eq!(
            answer(&host, Granted { here: 0, total: 0, short: Some(short) }),
            Again::Waiting
        );
        assert_eq!(told(&mut ticket), None);
        assert!(host.poll().speak);
        assert!(host.plan().is_some());
        grant(&host, 1, 1);
        assert_eq!(told(&mut ticket), Some(Verdict::Slot));
    }

    #[test]
    fn a_loss_sends_those_away_who_wait_for_an_answer_and_all_if_told_so() {
        for (refuse, stays) in [(false, true), (true, false)] {
            let host = host();
            let mut quick = ask(&host, LEASED, 2, false).unwrap();
            let mut patient = ask(&host, LEASED, 2, true).unwrap();
            let basis = Basis::Share { instances: 9 };
            assert_eq!(host.lost(basis, refuse).tell(), 0);
            assert_eq!(told(&mut quick), Some(Verdict::Refused(Reason::Away)));
            assert_eq!(told(&mut patient).is_none(), stays);
        }
    }

    #[test]
    fn in_memory_nothing_is_listed_for_redis() {
        let host = host();
        assert!(ask(&host, Basis::Local, 1, true).is_none());
        let ticket = ask(&host, Basis::Local, 1, true).unwrap();
        assert!(!host.limit_changed(Basis::Local, 1, Ruling { limit: 1, term: 8 }).speak);
        host.leave(&ticket.place, Basis::Local);
        host.release(Basis::Local);
        assert!(host.is_vacant());
    }

    /// A host of limit 100 that has come to hold slots ahead of need.
    fn lavish() -> Host {
        let host = host();
        let mut first = ask(&host, LAVISH, 100, false).unwrap();
        assert_eq!(host.plan().unwrap().slack, 0, "most hosts are met once");
        host.answered(Granted { here: 1, total: 1, short: None }, LAVISH).0.tell();
        assert_eq!(told(&mut first), Some(Verdict::Slot));
        let mut second = ask(&host, LAVISH, 100, false).unwrap();
        assert_eq!(host.plan().unwrap().slack, 8);
        host.answered(Granted { here: 10, total: 10, short: None }, LAVISH).0.tell();
        assert_eq!(told(&mut second), Some(Verdict::Slot));
        host
    }

    #[test]
    fn slots_held_ahead_of_need_pass_without_a_word_to_redis() {
        let host = lavish();
        for _ in 0..4 {
            assert!(ask(&host, LAVISH, 100, false).is_none());
            assert_eq!(host.plan(), None);
        }
        for _ in 0..4 {
            assert!(!host.release(LAVISH).speak);
        }
        assert_eq!(host.plan(), None);
    }

    #[test]
    fn what_nobody_needed_for_a_while_goes_back() {
        let host = lavish();
        host.look();
        assert!(ask(&host, LAVISH, 100, false).is_none());
        host.release(LAVISH);
        let (due, _) = host.look();
        assert!(due.speak);
        assert_eq!(host.plan().unwrap().hold, 3, "two are open, and one was of use");
        host.answered(Granted { here: 3, total: 3, short: None }, LAVISH).0.tell();
        host.release(LAVISH);
        host.release(LAVISH);
        host.look();
        let hold = host.plan().unwrap().hold;
        host.answered(Granted { here: hold, total: hold, short: None }, LAVISH).0.tell();
        host.look();
        assert_eq!(host.plan().unwrap().hold, 0);
    }

    #[test]
    fn a_recall_takes_what_is_unused_at_once() {
        let host = lavish();
        assert!(host.recalled(3).speak);
        let claim = host.plan().unwrap();
        assert_eq!((claim.hold, claim.spare, claim.slack), (2, 0, 0));
        assert!(host.is_wanted(), "what begins to idle yields, too");
    }

    #[test]
    fn who_has_no_time_waits_a_moment_for_what_others_hold_unused() {
        let host = host();
        let mut ticket = ask(&host, LEASED, 5, false).unwrap();
        host.plan();
        let short = Short { limit: 5, unused: 3, ..Short::default() };
        let again = answer(&host, Granted { here: 0, total: 5, short: Some(short) });
        assert_eq!((again, told(&mut ticket)), (Again::Brief, None));
        assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 5)));
        let again =
            answer(&host, Granted { here: 0, total: 5, short: Some(Short { queued: 1, ..short }) });
        assert_eq!(again, Again::Brief);
        std::thread::sleep(BRIEF);
        host.look().0.tell();
        assert_eq!(told(&mut ticket), Some(Verdict::Refused(Reason::Full)));
    }
}
