//! One circuit as it is used: a state that the whole fleet has in common, and one that is this
//! instance's own.
//!
//! The common one counts failures in a row. Where there is a fleet it is a mirror: Redis counts,
//! opens and gives the places to probe away (`lua/breaker.lua`), and says what came of it in a
//! [`Word`], in its answer and on the channel. While Redis is away the mirror goes on by itself from
//! what it showed last; what it makes up then is forgotten when Redis is back. The own one is opened
//! by shares of failed and slow calls ([`Rates`]): one instance with a bad line is no reason to stop
//! the others.
//!
//! PERF: while it is closed, an attempt costs two loads of atomics, and a success one more, for as
//! long as no failure is known and no share is judged. Everything else takes a lock, for some dozen
//! nanoseconds. Redis is asked, and waited for, on a failure, for a place to probe, and before each
//! attempt while the last one of the fleet has failed; it is told, and not waited for, of the success
//! after a failure.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Rates;
use super::TOPIC;
use super::state::Look;
use super::state::Outcome;
use super::state::Phase;
use super::state::Rules;
use super::state::SHORTLY;
use super::state::State;
use super::state::Ticket;
use super::window::Window;
use super::word::Letter;
use super::word::Word;
use crate::base::clock;
use crate::store::board::Away;
use crate::store::board::Board;
use crate::store::scripts::BREAKER;

/// The bits of [`Switch::hint`] beside the generation.
const CLOSED: u64 = 1;
const CALM: u64 = 2;

/// Enough for a script that counts nothing: how long the key is kept is said anew with each report.
const RESUMED: Rules = Rules {
    threshold: u32::MAX,
    reset: Duration::from_hours(1),
    needed: u32::MAX,
    probes: u32::MAX,
    lease: Duration::ZERO,
};

/// Where a circuit is spoken of, and by which rules it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) board: &'a Board,
    pub(super) key: &'a str,
    pub(super) rules: &'a Rules,
    pub(super) rates: Option<&'a Rates>,
}

/// The right to one attempt, by both states.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tickets {
    pub(super) common: Ticket,
    pub(super) own: Ticket,
}

impl Default for Tickets {
    /// Of a circuit that was never opened.
    fn default() -> Self {
        let ticket = Ticket { generation: 0, probe: None };
        Self { common: ticket, own: ticket }
    }
}

/// What of an attempt counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) failed: bool,
    pub(super) took: Duration,
}

#[derive(Debug)]
pub(super) struct Switch {
    /// What the common state is: its generation, and whether it is closed and calm.
    hint: AtomicU64,
    common: Mutex<Mirror>,
    own_hint: AtomicU64,
    own: Mutex<Own>,
    pub(super) trips: AtomicU64,
    pub(super) refused: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) state: State,
    /// Of the last word that was taken over.
    version: u64,
    /// Whether it says what Redis never heard.
    made_up: bool,
    /// Places to probe that are being asked for.
    asking: u32,
    pub(super) last_failure: Option<SystemTime>,
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) state: State,
    window: Option<Window>,
}

/// What is to be said of an attempt.
enum Say {
    Nothing,
    Tell(&'static str),
    Ask(&'static str),
}

impl Switch {
    pub(super) fn new() -> Self {
        let common = Mirror {
            state: State::new(),
            version: 0,
            made_up: false,
            asking: 0,
            last_failure: None,
        };
        Self {
            hint: AtomicU64::new(CLOSED | CALM),
            common: Mutex::new(common),
            own_hint: AtomicU64::new(CLOSED | CALM),
            own: Mutex::new(Own { state: State::new(), window: None }),
            trips: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn common(&self) -> MutexGuard<'_, Mirror> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an attempt may be made, as far as nobody has to be asked: its tickets, a refusal, or
    /// nothing, which is for [`Switch::probe`] to find out.
    pub(super) fn enter(&self, place: Place<'_>) -> Option<Result<Tickets, Duration>> {
        let (common, own) =
            (self.hint.load(Ordering::Acquire), self.own_hint.load(Ordering::Acquire));
        let is_known = common & CALM != 0 || !place.board.is_shared();
        if common & own & CLOSED != 0 && is_known {
            let ticket = |hint: u64| Ticket { generation: hint >> 2, probe: None };
            return Some(Ok(Tickets { common: ticket(common), own: ticket(own) }));
        }
        let now = clock::now();
        let common = self.common().state.look(now, place.rules);
        let own = self.own().state.look(now, place.rules);
        match (common, own) {
            (Look::Refused(one), Look::Refused(other)) => Some(self.refuse(one.max(other))),
            (Look::Refused(left), _) | (_, Look::Refused(left)) => Some(self.refuse(left)),
            (Look::Closed | Look::Probe, Look::Closed | Look::Probe) => None,
        }
    }

    fn refuse<T>(&self, left: Duration) -> Result<T, Duration> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(left)
    }

    /// The same where Redis is to be asked: for a place to probe, or since there are failures, and
    /// what came of the last ones may not have been heard. Dropped before it is done, it has none.
    pub(super) async fn probe(&self, place: Place<'_>) -> Result<Tickets, Duration> {
        let own = self.own().state.enter(clock::now(), place.rules, token());
        let own = match own {
            Ok(own) => own,
            Err(left) => return self.refuse(left),
        };
        let mut held = OwnPlace { switch: self, probe: own.probe };
        match self.probe_common(place).await {
            Ok(common) => {
                held.probe = None;
                Ok(Tickets { common, own })
            }
            Err(left) => self.refuse(left),
        }
    }

    async fn probe_common(&self, place: Place<'_>) -> Result<Ticket, Duration> {
        self.hear(place).await;
        let token = token();
        let mut claim = {
            let mut mirror = self.common();
            let now = clock::now();
            match mirror.state.look(now, place.rules) {
                Look::Closed | Look::Refused(_) => {
                    return mirror.state.enter(now, place.rules, token);
                }
                Look::Probe if !place.board.is_shared() => {
                    let ticket = mirror.state.enter(now, place.rules, token);
                    self.show(&mirror);
                    return ticket;
                }
                // Nobody else of this instance would get what is asked for already.
                Look::Probe if mirror.asking >= place.rules.probes.max(1) => return Err(SHORTLY),
                Look::Probe => mirror.asking += 1,
            }
            Claim { switch: self, place, token, told: mirror.told(), settled: false }
        };
        let said = claim.ask().await;
        claim.settled = true;
        let mut mirror = self.common();
        mirror.asking -= 1;
        let now = clock::now();
        let Ok((granted, word)) = said else {
            mirror.made_up = true;
            let ticket = mirror.state.enter(now, place.rules, token);
            self.show(&mirror);
            return ticket;
        };
        self.adopt_into(&mut mirror, &word, place.key);
        if granted {
            return Ok(Ticket { generation: word.generation, probe: Some(token) });
        }
        match mirror.state.look(now, place.rules) {
            Look::Closed => Ok(Ticket { generation: mirror.state.generation, probe: None }),
            Look::Probe => Err(SHORTLY),
            Look::Refused(left) => Err(left),
        }
    }

    /// Asks what the fleet has counted by now, where a failure more may be one too many.
    async fn hear(&self, place: Place<'_>) {
        let told = {
            let mirror = self.common();
            let is_troubled = mirror.state.is_closed() && !mirror.state.is_calm();
            if !is_troubled || !place.board.is_shared() {
                return;
            }
            mirror.told()
        };
        if let Ok((_, word)) = told.ask("look", None, place).await {
            self.adopt(&word, place.key);
        }
    }

    /// What came of an attempt, as far as it takes no time: whether that is all.
    pub(super) fn is_noted(&self, tickets: Tickets, call: Call, place: Place<'_>) -> bool {
        let unchanged = tickets.common.generation << 2 | CLOSED | CALM;
        let is_plain = tickets.common.probe.is_none() && !call.failed;
        if place.rates.is_some() || tickets.own.probe.is_some() {
            self.judge(tickets.own, call, place);
        }
        is_plain && self.hint.load(Ordering::Acquire) == unchanged
    }

    /// Counts a call among those whose shares are judged.
    fn judge(&self, ticket: Ticket, call: Call, place: Place<'_>) {
        let now = clock::now();
        let mut own = self.own();
        let Own { state, window } = &mut *own;
        let is_slow = place.rates.is_some_and(|rates| call.took >= rates.slow_call);
        let was_closed = state.is_closed();
        if ticket.probe.is_some() {
            let bad = place.rates.is_some_and(|rates| is_slow && rates.slow_call_rate <= 100.0);
            let outcome = if call.failed || bad { Outcome::Failure } else { Outcome::Success };
            state.record(ticket, outcome, now, place.rules);
        } else if let Some(rates) = place.rates
            && was_closed
            && ticket.generation == state.generation
        {
            if !window.as_ref().is_some_and(|window| window.fits(rates)) {
                *window = Some(Window::new(rates, now));
            }
            let is_over = window
                .as_mut()
                .is_some_and(|window| window.count(call.failed, is_slow, now, rates));
            if is_over {
                state.open(now, place.rules);
                *window = None;
                self.trips.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    circuit = place.key,
                    "opened for this instance: too many failed or slow calls"
                );
            }
        }
        self.own_hint.store(hint(state), Ordering::Release);
    }

    /// What came of an attempt that changes the common state.
    pub(super) async fn report(&self, ticket: Ticket, call: Call, place: Place<'_>) {
        let (say, told) = {
            let mut mirror = self.common();
            (self.weigh(&mut mirror, ticket, call, place), mirror.told())
        };
        match say {
            Say::Nothing => {}
            Say::Tell(verb) => told.tell(verb, ticket.probe, place),
            Say::Ask(verb) => {
                let said = told.ask(verb, ticket.probe, place).await;
                let mut mirror = self.common();
                match said {
                    Ok((_, word)) => self.adopt_into(&mut mirror, &word, place.key),
                    Err(Away) => self.record(&mut mirror, ticket, call, place),
                }
            }
        }
    }

    fn weigh(&self, mirror: &mut Mirror, ticket: Ticket, call: Call, place: Place<'_>) -> Say {
        if ticket.generation != mirror.state.generation {
            return Say::Nothing;
        }
        if call.failed {
            mirror.last_failure = Some(clock::wall());
        }
        let counts = place.rules.threshold > 0 || ticket.probe.is_some();
        if call.failed && !counts || !call.failed && mirror.state.is_calm() {
            return Say::Nothing;
        }
        if !place.board.is_shared() {
            self.record(mirror, ticket, call, place);
            return Say::Nothing;
        }
        match (ticket.probe, call.failed) {
            (_, true) => Say::Ask("bad"),
            (Some(_), false) => Say::Ask("good"),
            (None, false) => {
                mirror.state.failures = 0;
                self.show(mirror);
                Say::Tell("good")
            }
        }
    }

    /// Lets the mirror decide by itself.
    fn record(&self, mirror: &mut Mirror, ticket: Ticket, call: Call, place: Place<'_>) {
        let before = mirror.state.phase;
        let outcome = if call.failed { Outcome::Failure } else { Outcome::Success };
        mirror.state.record(ticket, outcome, clock::now(), place.rules);
        mirror.made_up |= place.board.is_shared();
        self.show(mirror);
        self.note(before, mirror.state.phase, place.key);
    }

    /// Gives back what an attempt held of which there is nothing to say.
    pub(super) fn release(&self, tickets: Tickets, place: Place<'_>) {
        if let Some(token) = tickets.own.probe {
            self.own().state.release(token);
        }
        let Some(token) = tickets.common.probe else { return };
        let mut mirror = self.common();
        if mirror.state.generation != tickets.common.generation {
            return;
        }
        mirror.state.release(token);
        let told = mirror.told();
        drop(mirror);
        told.tell("free", Some(token), place);
    }

    /// Takes over what the fleet says, if it is news.
    pub(super) fn adopt(&self, word: &Word, key: &str) {
        self.adopt_into(&mut self.common(), word, key);
    }

    fn adopt_into(&self, mirror: &mut Mirror, word: &Word, key: &str) {
        // An older generation is what somebody said who knew no better after Redis had lost its data;
        // the next report from here sets it right.
        let is_older = word.generation < mirror.state.generation && !mirror.made_up;
        if word.version <= mirror.version || is_older {
            return;
        }
        let before = mirror.state.phase;
        if word.failures > mirror.state.failures {
            mirror.last_failure = Some(clock::wall());
        }
        mirror.version = word.version;
        mirror.made_up = false;
        mirror.state.adopt(word, clock::now());
        self.show(mirror);
        self.note(before, mirror.state.phase, key);
    }

    /// Tells the fleet what is known here, if it is the fleet's, and has it say what there is.
    pub(super) fn resume(&self, board: &Board, key: &str) {
        self.common().told().tell("sync", None, Place { board, key, rules: &RESUMED, rates: None });
    }

    /// Closes it, here and for the fleet.
    pub(super) fn reset(&self, place: Place<'_>) {
        let mut own = self.own();
        own.state.close();
        own.window = None;
        self.own_hint.store(hint(&own.state), Ordering::Release);
        drop(own);
        let mut mirror = self.common();
        let (told, before) = (mirror.told(), mirror.state.phase);
        mirror.state.close();
        self.show(&mirror);
        self.note(before, mirror.state.phase, place.key);
        drop(mirror);
        told.tell("reset", None, place);
    }

    /// Whether forgetting it would change nothing.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let own = self.own();
        let is_quiet = own.window.as_ref().is_none_or(|window| window.is_empty(now));
        is_quiet && own.state.is_calm() && self.common().state.is_calm()
    }

    /// How much would be lost with it: nothing much, some failures, or that it is open.
    pub(super) fn weight(&self, now: Instant) -> u8 {
        let is_open = |state: &State| !state.is_closed() && !state.left(now).is_zero();
        if is_open(&self.common().state) || is_open(&self.own().state) {
            2
        } else {
            u8::from(!self.is_idle(now))
        }
    }

    fn show(&self, mirror: &Mirror) {
        self.hint.store(hint(&mirror.state), Ordering::Release);
    }

    fn note(&self, before: Phase, after: Phase, key: &str) {
        let is_open = |phase| matches!(phase, Phase::Open { .. });
        if is_open(after) && !is_open(before) {
            self.trips.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(circuit = key, "opened: the upstream fails");
        } else if after == Phase::Closed && before != Phase::Closed {
            tracing::info!(circuit = key, "closed");
        }
    }
}

fn hint(state: &State) -> u64 {
    let bits = [(state.is_closed(), CLOSED), (state.is_calm(), CALM)];
    bits.iter().filter(|(is, _)| *is).fold(state.generation << 2, |hint, (_, bit)| hint | bit)
}

/// A name for a probe that no other has.
fn token() -> u64 {
    fastrand::u64(1..)
}

/// What a mirror shows, to be told to Redis with a report: if Redis has lost it, it goes on from
/// there.
#[derive(Clone, Copy, Debug)]
struct Told {
    generation: u64,
    letter: Letter,
    failures: u32,
    left: Duration,
}

impl Mirror {
    fn told(&self) -> Told {
        let letter = match self.state.phase {
            Phase::Closed => Letter::Closed,
            Phase::Open { .. } => Letter::Open,
            Phase::HalfOpen { .. } => Letter::HalfOpen,
        };
        // What was made up here is nothing that Redis has lost.
        let generation = if self.made_up { 0 } else { self.state.generation };
        let (failures, left) = (self.state.failures, self.state.left(clock::now()));
        Told { generation, letter, failures, left }
    }
}

impl Told {
    fn words(&self, verb: &str, probe: Option<u64>, rules: &Rules) -> [String; 11] {
        let millis = |time: Duration| time.as_millis().to_string();
        [
            verb.to_owned(),
            self.generation.to_string(),
            probe.map_or_else(String::new, |token| format!("{token:x}")),
            self.letter.as_str().to_owned(),
            self.failures.to_string(),
            millis(self.left),
            rules.threshold.to_string(),
            millis(rules.reset),
            rules.needed.to_string(),
            rules.probes.max(1).to_string(),
            millis(rules.lease),
        ]
    }

    fn tell(&self, verb: &'static str, probe: Option<u64>, place: Place<'_>) {
        if place.board.is_shared() {
            let words = self.words(verb, probe, place.rules);
            place.board.tell(&BREAKER, TOPIC, place.key, &words.each_ref().map(String::as_str));
        }
    }

    /// Whether a place was granted, and what is known now.
    async fn ask(
        &self,
        verb: &'static str,
        probe: Option<u64>,
        place: Place<'_>,
    ) -> Result<(bool, Word), Away> {
        let words = self.words(verb, probe, place.rules);
        let words = words.each_ref().map(String::as_str);
        let said = place.board.ask(&BREAKER, TOPIC, place.key, &words).await?;
        let [granted, word @ ..] = &*said else { return Err(Away) };
        Ok((granted == "1", Word::parse(word).ok_or(Away)?))
    }
}

/// A place to probe that was asked for. Dropped unsettled it is given back, whether it was got or
/// not.
struct Claim<'a> {
    switch: &'a Switch,
    place: Place<'a>,
    token: u64,
    told: Told,
    settled: bool,
}

impl Claim<'_> {
    async fn ask(&self) -> Result<(bool, Word), Away> {
        self.told.ask("try", Some(self.token), self.place).await
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.switch.common().asking -= 1;
        self.told.tell("free", Some(self.token), self.place);
    }
}

/// A place to probe by this instance's own state, given back unless it is taken out.
struct OwnPlace<'a> {
    switch: &'a Switch,
    probe: Option<u64>,
}

impl Drop for OwnPlace<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.probe {
            self.switch.own().state.release(token);
        }
    }
}
