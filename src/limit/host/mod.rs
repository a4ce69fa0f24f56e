//! One host's slots and its waiting room.
//!
//! All that decides who gets a slot is here, behind one short lock: the count, the grant of the
//! fleet, who waits. Nothing here waits and nothing here speaks to Redis; what must be said to
//! others comes back as values ([`Due`], [`Claim`]) to be carried out after the lock is gone.
//!
//! Invariants: `open` is the number of permits that exist. Nobody is admitted past the room that
//! the [`Basis`] gives. Nobody overtakes those who wait. A grant is lowered here *before* Redis
//! hears of it and raised only by an answer.

mod idle;
mod state;

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

use self::idle::Idle;
pub(crate) use self::state::Again;
use self::state::BRIEF;
pub(crate) use self::state::Basis;
use self::state::Hope;
use self::state::STARVED;
use self::state::State;
use self::state::Waiter;
use super::Reason;
use super::queue::Place;
use super::rules::Limit;
use super::rules::Ruling;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;

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
    /// Its turns among those who wait, at least 1.
    pub(crate) weight: u32,
    /// Whether it has time.
    pub(crate) may_wait: bool,
    /// How many may have that.
    pub(crate) seats: usize,
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

/// A host that somebody asked for.
#[derive(Debug)]
pub(crate) struct Host {
    key: HostKey,
    /// No other host's. It orders them where they are dealt with together: the same way each time,
    /// in a simulation too.
    pub(crate) number: u64,
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
    /// Whether somebody has asked for it, or used it, since the last look.
    used: AtomicBool,
}

impl Host {
    pub(crate) fn new(
        key: HostKey,
        shard: u16,
        threads: usize,
        counters: Arc<Counters>,
        named: bool,
    ) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            key,
            number: NUMBERS.fetch_add(1, Relaxed),
            shard,
            state: Mutex::new(State { rules: u64::MAX, ..State::default() }),
            idle: (0..threads).map(|_| Idle::default()).collect(),
            born: clock::now(),
            waiting: AtomicU32::new(0),
            starved: AtomicBool::new(false),
            counters,
            named,
            used: AtomicBool::new(true),
        }
    }

    pub(crate) fn key(&self) -> &HostKey {
        &self.key
    }

    /// Whether it is what one identity may have of a host, and no host.
    pub(crate) fn is_share(&self) -> bool {
        self.key.as_share().is_some()
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
        let place = state.waiting.push(asker.identity, asker.weight, Waiter { hope, ticket });
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
        // All that is open is put on the books, and what is open beyond the grant is no grant for
        // that: `answered` sees to it.
        state.granted = if keep { state.granted.min(state.open) } else { 0 };
        let Ruling { limit, term } = state.ruling;
        let claim = Claim { hold: state.open, limit, term, ..Claim::default() };
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

    /// Whether nothing is left here that the next request would need to find. What is found in use
    /// counts as used now.
    pub(crate) fn is_vacant(&self) -> bool {
        let state = self.lock();
        let is_vacant = state.open == 0
            && state.recorded == 0
            && state.waiting.is_empty()
            && !state.outstanding
            && !state.listed;
        if !is_vacant {
            self.use_now();
        }
        is_vacant
    }

    /// Somebody asks for it.
    pub(crate) fn use_now(&self) {
        // PERF: written only where it changes something, so that threads do not fight for it.
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Whether it was used since this was asked last.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Relaxed)
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

#[cfg(test)]
mod tests;
