//! One host's slots and its waiting room.
//!
//! All that decides who gets a slot is here, behind one short lock: the count, the grant of the
//! fleet, the queue. Nothing here waits and nothing here speaks to Redis; what must be said to
//! others comes back as values ([`Due`]) to be carried out after the lock is gone.
//!
//! Invariants: `open` is the number of permits that exist. Nobody is admitted past the room that
//! the [`Basis`] gives. Nobody overtakes the queue. A grant is lowered here *before* Redis hears of
//! it and raised only by an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Reason;
use super::rules::Limit;
use super::rules::Ruling;
use crate::base::authority::HostKey;

/// What a host's room is measured against at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Redis is away and the policy is to refuse: slots granted already may still be used while
    /// the lease lasts, but nobody is asked and nobody waits.
    Away { leased: bool },
    /// Slots that Redis granted to this instance. Without a valid lease none may be opened.
    Granted { leased: bool },
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
    /// An idle connection that another thread was asked to close.
    Reclaim,
    /// Any slot that comes free; its own deadline ends it.
    Time,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
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

/// A place in the waiting room.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: u64,
    pub(crate) verdict: oneshot::Receiver<Verdict>,
}

/// The answer to a request for a slot, under the lock.
#[derive(Debug)]
pub(crate) enum Entry {
    Slot { speak: bool },
    Refused(Reason),
    Wait(Place, Due),
}

/// One message to Redis about this host: the absolute need of this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Slots wanted in all: open, being dialled, and asked for.
    pub(crate) need: u32,
    /// The limit in force; 0 is unlimited.
    pub(crate) limit: Limit,
}

/// What Redis answered to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Slots this instance now holds.
    pub(crate) granted: u32,
    /// Slots all instances hold.
    pub(crate) total: u32,
    /// Redis is learning after a loss: nothing new is granted until that ends.
    pub(crate) learning: bool,
}

/// Whether Redis must be asked about a host again, though nothing happens here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// More is open here than was granted: what is held must be put on the books as it fits.
    Debt,
    /// No.
    No,
    /// Somebody waits for a slot of the fleet.
    Waiting,
}

#[derive(Debug, Default)]
struct State {
    open: u32,
    granted: u32,
    /// The most that Redis may hold for this instance: unlike `granted` it is not lowered before
    /// an answer has said so, and what a lost message may have taken is in it.
    recorded: u32,
    total: u32,
    limit: Limit,
    /// Of the ruling that set `limit`.
    term: u64,
    rules: u64,
    waiting: VecDeque<Waiter>,
    last_id: u64,
    reclaiming: u32,
    outstanding: bool,
    listed: bool,
    refusals: u64,
    refusal_told: Option<Instant>,
}

/// Counts since the start, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) admitted: AtomicU64,
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
    /// Of the open connections, those that idle in the pool.
    pub idle: u32,
}

/// A host that somebody asked for.
#[derive(Debug)]
pub(crate) struct Host {
    key: HostKey,
    state: Mutex<State>,
    /// Idle pooled connections per thread; written by that thread alone.
    idle: Box<[AtomicU32]>,
    /// The length of the queue, readable without the lock.
    waiting: AtomicU32,
    pub(crate) counters: Arc<Counters>,
    /// Whether a metric may carry this host's name.
    pub(crate) named: bool,
}

impl Host {
    pub(crate) fn new(key: HostKey, threads: usize, counters: Arc<Counters>, named: bool) -> Self {
        Self {
            key,
            state: Mutex::new(State { rules: u64::MAX, ..State::default() }),
            idle: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            waiting: AtomicU32::new(0),
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

    /// A slot at once, a place in the queue, or a refusal. `rules` is the version of the table and
    /// `limit` reads it; `wait` is whether the asker has time, `room` how many may have that.
    pub(crate) fn enter(
        &self,
        basis: Basis,
        rules: u64,
        limit: impl FnOnce() -> Ruling,
        wait: bool,
        seats: usize,
    ) -> Entry {
        let mut state = self.lock();
        if state.rules != rules {
            state.obey(rules, limit());
        }
        if state.waiting.is_empty() && state.room(basis) > 0 {
            state.open += 1;
            // Unlimited hosts pass at once; the fleet hears of them afterwards.
            let speak = matches!(basis, Basis::Granted { .. }) && state.is_stale() && state.list();
            return Entry::Slot { speak };
        }
        let hope = match basis {
            Basis::Away { .. } => return Entry::Refused(Reason::Away),
            Basis::Granted { .. } if !wait => Hope::Answer(false),
            Basis::Local | Basis::Share { .. } | Basis::Open if !wait => Hope::Reclaim,
            _ if state.patient() >= seats => return Entry::Refused(Reason::QueueFull),
            Basis::Granted { .. } | Basis::Local | Basis::Share { .. } | Basis::Open => Hope::Time,
        };
        let mut due = Due::default();
        let shared = matches!(basis, Basis::Granted { .. });
        if !shared && !self.reclaim(&mut state, &mut due) && hope == Hope::Reclaim {
            return Entry::Refused(Reason::Full);
        }
        let (ticket, verdict) = oneshot::channel();
        state.last_id += 1;
        let id = state.last_id;
        state.waiting.push_back(Waiter { id, hope, ticket });
        self.count_waiting(&state);
        due.speak = shared && state.list();
        Entry::Wait(Place { id, verdict }, due)
    }

    /// A waiter gives up: its place is gone at once. What it was told meanwhile is its own to
    /// release.
    pub(crate) fn leave(&self, id: u64) -> Due {
        let mut state = self.lock();
        state.waiting.retain(|waiter| waiter.id != id);
        self.count_waiting(&state);
        Due::spoken(state.granted > 0 && state.is_stale() && state.list())
    }

    /// A connection is gone: its slot goes to the head of the queue, or back.
    pub(crate) fn release(&self, basis: Basis) -> Due {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        due.speak = state.granted > 0 && state.is_stale() && state.list();
        due
    }

    /// The limit may have changed: those who wait may pass.
    pub(crate) fn limit_changed(&self, basis: Basis, rules: u64, ruling: Ruling) -> Due {
        let mut state = self.lock();
        state.obey(rules, ruling);
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        due.speak = matches!(basis, Basis::Granted { .. })
            && (!state.waiting.is_empty() || state.is_stale())
            && state.list();
        due
    }

    /// A thread has closed an idle connection as it was asked, or had none any more.
    pub(crate) fn reclaimed(&self) -> Due {
        let mut state = self.lock();
        let mut due = Due::default();
        state.reclaiming = state.reclaiming.saturating_sub(1);
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

    /// The next message to Redis about this host, if one is due. The grant is lowered to the need
    /// here, before the message leaves.
    pub(crate) fn plan(&self) -> Option<Ask> {
        let mut state = self.lock();
        state.listed = false;
        if state.outstanding {
            return None;
        }
        let need = state.open.saturating_add(self.waiting.load(Relaxed));
        if need == state.granted && state.waiting.is_empty() {
            return None;
        }
        state.put_question();
        Some(state.ask(need))
    }

    /// The first message about this host after a `hello`: what it holds, so that Redis knows it
    /// again. `keep` is whether the slots are still vouched for: then exactly they are asked for
    /// (who waits is asked for by the next message); else the grant starts anew.
    pub(crate) fn reassert(&self, keep: bool) -> Option<Ask> {
        let mut state = self.lock();
        state.listed = false;
        state.outstanding = false;
        for waiter in &mut state.waiting {
            if waiter.hope == Hope::Answer(true) {
                waiter.hope = Hope::Answer(false); // the answer went with the connection
            }
        }
        let need = if keep {
            state.open
        } else {
            state.granted = 0;
            state.put_question();
            state.open.saturating_add(self.waiting.load(Relaxed))
        };
        (need > 0 || state.recorded > 0).then(|| state.ask(need))
    }

    /// A message that changes nothing, so that Redis keeps what it knows for another day.
    pub(crate) fn audit(&self) -> Option<Ask> {
        let mut state = self.lock();
        if state.outstanding || state.recorded == 0 {
            return None;
        }
        let need = state.open.saturating_add(self.waiting.load(Relaxed));
        state.put_question();
        Some(state.ask(need))
    }

    /// Whether somebody waits here, or more is open than was granted.
    pub(crate) fn is_short(&self) -> bool {
        self.lock().again() != Again::No
    }

    /// Whether Redis may hold slots for this instance here.
    pub(crate) fn is_recorded(&self) -> bool {
        self.lock().recorded > 0
    }

    /// Redis answered.
    pub(crate) fn answered(&self, answer: Answer, basis: Basis) -> (Due, Again) {
        let mut state = self.lock();
        state.outstanding = false;
        state.granted = answer.granted;
        state.recorded = answer.granted;
        state.total = answer.total;
        let mut due = Due::default();
        self.pump(&mut state, basis, &mut due);
        if answer.learning {
            // Nobody is refused for a loss that heals by itself: they ask again when it has.
            for waiter in &mut state.waiting {
                if waiter.hope == Hope::Answer(true) {
                    waiter.hope = Hope::Answer(false);
                }
            }
            return (due, state.again());
        }
        for _ in 0..state.waiting.len() {
            if !self.reclaim(&mut state, &mut due) {
                break;
            }
        }
        let mut hopes = state.reclaiming;
        for waiter in &mut state.waiting {
            if waiter.hope == Hope::Answer(true) && hopes > 0 {
                waiter.hope = Hope::Reclaim;
                hopes -= 1;
            }
        }
        self.refuse(&mut state, &mut due, |waiter| {
            (waiter.hope == Hope::Answer(true)).then_some(Reason::Full)
        });
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
            let answerless = matches!(waiter.hope, Hope::Answer(_));
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

    /// One of this thread's connections begins to idle in the pool.
    pub(crate) fn park(&self, thread: usize) {
        self.idle[thread].fetch_add(1, Relaxed);
    }

    /// One of this thread's connections leaves the pool.
    pub(crate) fn unpark(&self, thread: usize) {
        self.idle[thread].fetch_sub(1, Relaxed);
    }

    /// Whether somebody waits for a slot here.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
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
            idle: self.idle.iter().map(|idle| idle.load(Relaxed)).sum(),
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

    /// Marks one idle connection to be closed by its thread; whether there is one.
    fn reclaim(&self, state: &mut State, due: &mut Due) -> bool {
        let idle = || self.idle.iter().map(|idle| idle.load(Relaxed));
        if idle().sum::<u32>() <= state.reclaiming {
            return false;
        }
        let richest = idle().enumerate().max_by_key(|(_, idle)| *idle);
        if let Some((thread, _)) = richest {
            state.reclaiming += 1;
            due.reclaim.push(thread);
        }
        true
    }

    /// Gives what room there is to the head of the queue.
    fn pump(&self, state: &mut State, basis: Basis, due: &mut Due) {
        while state.room(basis) > 0 {
            let Some(waiter) = state.waiting.pop_front() else { break };
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
        let mut kept = VecDeque::with_capacity(state.waiting.len());
        for waiter in state.waiting.drain(..) {
            match why(&waiter) {
                Some(reason) => due.told.push((waiter.ticket, Verdict::Refused(reason))),
                None => kept.push_back(waiter),
            }
        }
        state.waiting = kept;
        self.count_waiting(state);
    }

    fn count_waiting(&self, state: &State) {
        self.waiting.store(u32::try_from(state.waiting.len()).unwrap_or(u32::MAX), Relaxed);
    }
}

impl State {
    /// Takes over what version `rules` of the table says.
    fn obey(&mut self, rules: u64, ruling: Ruling) {
        self.rules = rules;
        self.limit = ruling.limit;
        self.term = ruling.term;
    }

    fn room(&self, basis: Basis) -> u32 {
        if self.limit == 0 || basis == Basis::Open {
            return u32::MAX;
        }
        match basis {
            Basis::Away { leased } | Basis::Granted { leased } => {
                if leased {
                    self.granted.saturating_sub(self.open)
                } else {
                    0
                }
            }
            Basis::Local => self.limit.saturating_sub(self.open),
            Basis::Open => u32::MAX,
            Basis::Share { instances } => (self.limit / instances.max(1)).saturating_sub(self.open),
        }
    }

    fn patient(&self) -> usize {
        self.waiting.iter().filter(|waiter| waiter.hope == Hope::Time).count()
    }

    /// Redis holds another number for this instance than it should: slots to give back, opened
    /// ones of an unlimited host that it never heard of, or waiters it was not asked for.
    fn is_stale(&self) -> bool {
        let need = self.open as usize + self.waiting.len();
        let granted = self.granted as usize;
        granted > need
            || (self.limit == 0 && granted != need)
            || self.waiting.iter().any(|waiter| waiter.hope == Hope::Answer(false))
    }

    /// Puts the host on the Redis worker's list; false if it stands there already, or will be
    /// looked at when the outstanding answer comes.
    fn list(&mut self) -> bool {
        !self.outstanding && !std::mem::replace(&mut self.listed, true)
    }

    /// The message that is about to leave asks for all who wait.
    fn put_question(&mut self) {
        for waiter in &mut self.waiting {
            if waiter.hope == Hope::Answer(false) {
                waiter.hope = Hope::Answer(true);
            }
        }
    }

    fn again(&self) -> Again {
        if !self.waiting.is_empty() {
            Again::Waiting
        } else if self.limit > 0 && self.open > self.granted {
            Again::Debt
        } else {
            Again::No
        }
    }

    fn ask(&mut self, need: u32) -> Ask {
        self.granted = self.granted.min(need);
        self.recorded = self.recorded.max(need);
        self.outstanding = true;
        Ask { need, limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASED: Basis = Basis::Granted { leased: true };

    fn host() -> Host {
        Host::new(HostKey::parse("a.test").unwrap(), 1, Arc::default(), true)
    }

    /// Asks for a slot, to wait for one if it must.
    fn ask(host: &Host, basis: Basis, limit: Limit, patient: bool) -> Option<Place> {
        match host.enter(basis, 0, || Ruling { limit, term: 7 }, patient, 10) {
            Entry::Wait(place, _) => Some(place),
            Entry::Slot { .. } => None,
            Entry::Refused(reason) => panic!("refused: {reason:?}"),
        }
    }

    fn grant(host: &Host, granted: u32, total: u32) -> Again {
        let (mut due, again) = host.answered(Answer { granted, total, learning: false }, LEASED);
        assert_eq!(due.tell(), 0);
        again
    }

    fn told(place: &mut Place) -> Option<Verdict> {
        place.verdict.try_recv().ok()
    }

    /// A host with this many connections on granted slots.
    fn open(host: &Host, count: u32, limit: Limit) {
        let mut places: Vec<_> =
            (0..count).filter_map(|_| ask(host, LEASED, limit, false)).collect();
        assert_eq!(host.plan(), Some(Ask { need: count, limit }));
        assert_eq!(grant(host, count, count), Again::No);
        assert!(places.iter_mut().all(|place| told(place) == Some(Verdict::Slot)));
    }

    #[test]
    fn one_message_asks_for_all_who_wait_and_none_follows_before_its_answer() {
        let host = host();
        let mut places = [ask(&host, LEASED, 5, false), ask(&host, LEASED, 5, false)];
        assert_eq!(host.plan(), Some(Ask { need: 2, limit: 5 }));
        let mut late = ask(&host, LEASED, 5, false).unwrap();
        assert_eq!(host.plan(), None);
        assert_eq!(grant(&host, 1, 5), Again::Waiting, "who came later was not asked for yet");
        assert_eq!(told(places[0].as_mut().unwrap()), Some(Verdict::Slot));
        assert_eq!(told(places[1].as_mut().unwrap()), Some(Verdict::Refused(Reason::Full)));
        assert_eq!(told(&mut late), None);
        assert_eq!(host.plan(), Some(Ask { need: 2, limit: 5 }));
    }

    #[test]
    fn a_limit_comes_with_its_term() {
        let host = host();
        open(&host, 1, 5);
        assert_eq!(host.lock().term, 7);
        host.limit_changed(LEASED, 1, Ruling { limit: 4, term: 8 });
        let state = host.lock();
        assert_eq!((state.limit, state.term), (4, 8));
    }

    #[test]
    fn a_slot_that_comes_free_is_lowered_here_before_redis_hears_of_it() {
        let host = host();
        open(&host, 2, 5);
        assert!(host.release(LEASED).speak);
        assert_eq!(host.plan(), Some(Ask { need: 1, limit: 5 }));
        assert!(ask(&host, LEASED, 5, false).is_some(), "the slot is given back already");
    }

    #[test]
    fn without_a_lease_a_granted_slot_opens_nothing() {
        let host = host();
        open(&host, 1, 5);
        host.release(LEASED);
        assert!(ask(&host, Basis::Granted { leased: false }, 5, false).is_some());
    }

    #[test]
    fn what_a_lost_message_may_have_taken_is_given_back() {
        let host = host();
        let place = ask(&host, LEASED, 5, false).unwrap();
        assert!(host.plan().is_some());
        host.leave(place.id);
        host.lost(Basis::Away { leased: true }, true);
        assert!(!host.is_vacant());
        for keep in [true, false] {
            assert_eq!(host.reassert(keep), Some(Ask { need: 0, limit: 5 }));
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
        host.lost(Basis::Away { leased: true }, true);
        assert_eq!(host.reassert(true), Some(Ask { need: 0, limit: 5 }));
    }

    #[test]
    fn a_vouched_re_assert_names_what_is_open_and_refuses_nobody() {
        let host = host();
        open(&host, 1, 2);
        let mut waiting = ask(&host, LEASED, 2, false).unwrap();
        assert_eq!(host.plan(), Some(Ask { need: 2, limit: 2 }));
        // The connection breaks; the next hello vouches for what is open.
        assert_eq!(host.reassert(true), Some(Ask { need: 1, limit: 2 }));
        let (due, again) = host.answered(Answer { granted: 1, total: 1, learning: false }, LEASED);
        assert!(due.speak, "who waits is asked for next");
        assert_eq!((told(&mut waiting), again), (None, Again::Waiting));
        assert_eq!(host.plan(), Some(Ask { need: 2, limit: 2 }));
        grant(&host, 2, 2);
        assert_eq!(told(&mut waiting), Some(Verdict::Slot));
    }

    #[test]
    fn an_admitted_re_assert_opens_nothing_until_what_is_open_fits() {
        let host = host();
        open(&host, 2, 2);
        assert_eq!(host.reassert(false), Some(Ask { need: 2, limit: 2 }));
        assert_eq!(grant(&host, 1, 2), Again::Debt, "it is asked for again until it fits");
        host.release(LEASED);
        assert!(ask(&host, LEASED, 2, true).is_some());
    }

    #[test]
    fn while_redis_learns_nobody_is_refused() {
        let host = host();
        let mut place = ask(&host, LEASED, 2, false).unwrap();
        host.plan();
        let (_, again) = host.answered(Answer { granted: 0, total: 0, learning: true }, LEASED);
        assert_eq!((told(&mut place), again), (None, Again::Waiting));
        assert!(host.plan().is_some());
        grant(&host, 1, 1);
        assert_eq!(told(&mut place), Some(Verdict::Slot));
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
        let place = ask(&host, Basis::Local, 1, true).unwrap();
        assert!(!host.limit_changed(Basis::Local, 1, Ruling { limit: 1, term: 8 }).speak);
        host.leave(place.id);
        host.release(Basis::Local);
        assert!(host.is_vacant());
    }
}
