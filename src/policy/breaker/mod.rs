//! Circuit breakers: whether an upstream that fails is asked at all.
//!
//! Each API has one circuit, by its name and not by where it leads: of two APIs with one target
//! each has its own. The default API, and CONNECT, have one for each host. A circuit is *closed*
//! and lets all attempts pass, until so many in a row have failed ([`Settings::failure_threshold`])
//! or too large a share ([`Rates`]); then *open*, and refuses all for a while; then *half-open*, and
//! lets a few attempts probe, of which the first failure opens it again and some successes close it.
//!
//! | what came of an attempt | counts as |
//! |---|---|
//! | a status of 500 and more, or no response: look-up, connect, TLS, time-out, reset | failure |
//! | 429 | nothing: the upstream is well, and [`cooldown`](super::cooldown) hears it |
//! | any other status | success |
//! | our own refusal, a client that left or was at fault | nothing |
//!
//! Failures in a row are counted by the whole fleet, and the places to probe are the fleet's, if it
//! has a Redis; [`switch`] says how, and what happens while Redis is away. An instance that starts, or
//! finds Redis again, asks how things are. Rates are judged by each instance for itself.
//!
//! Of hosts only those are known that have failed (with rates: that were asked), and no more than
//! [`HOSTS`]. When they are so many, those that are well are forgotten, then all that are not open; a
//! host that finds no room then is not watched.
//!
//! A breaker that only observes ([`Mode`]) decides the same. What it would have refused goes on, and
//! what becomes of that it does not hear: otherwise a host that is well again would count as well
//! through attempts that would never have been made.
//!
//! Nothing here answers anybody, and no attempt waits but for Redis: on a failure and for a place to
//! probe, for one time-out at most.

mod state;
mod switch;
mod window;
mod word;

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use self::state::Rules;
use self::state::State;
use self::switch::Call;
use self::switch::Place;
use self::switch::Switch;
use self::switch::Tickets;
use self::word::Letter;
use self::word::Word;
use super::Decision;
use super::End;
use super::Facts;
use super::Mode;
use super::Refusal;
use super::Rule;
use super::decided::Decided;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::store::board::Board;
use crate::store::board::Listener;

/// What the board knows circuits by.
const TOPIC: &str = "breaker";
/// What stands in the place of an API's name for CONNECT, which no API can be called.
pub(crate) const TUNNELS: &str = "@connect";
/// Hosts that one API, or CONNECT, has circuits for.
const HOSTS: usize = 4096;
/// How often room is made among them.
const SWEEP: Duration = Duration::from_secs(1);
/// The longest that an attempt of an API without a time-out is taken to last, and what is added.
const USUAL: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(2);

/// When a circuit opens, and when it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether it is obeyed. One that only observes is told of those attempts alone that it would have
    /// let pass, so that it opens and closes as it would if it were obeyed.
    pub mode: Mode,
    /// Consecutive failures that open it; 0 counts none.
    pub failure_threshold: u32,
    /// How long it stays open before it is tried whether it can be closed.
    pub reset_timeout: Duration,
    /// Consecutive successes, of those that try, that close it.
    pub success_threshold: u32,
    /// Requests of the whole fleet that may try at once.
    pub probes: u32,
    /// How long the place of such a request is kept if nothing is heard of it; none is the API's
    /// `request_timeout`, or 10 s, and two seconds more.
    pub probe_lease: Option<Duration>,
    /// Opened by shares of the calls too; none is not.
    pub rates: Option<Rates>,
}

/// Shares of failed and of slow calls that open a circuit, for the instance alone that made them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// The time that is looked back over.
    pub window: Duration,
    /// Calls in it without which nothing is judged.
    pub minimum_calls: u32,
    /// Per cent of failed calls that open it; above 100 is off.
    pub failure_rate: f64,
    /// Per cent of slow calls that open it; above 100 is off.
    pub slow_call_rate: f64,
    /// A call that takes so long is slow.
    pub slow_call: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            failure_threshold: 5,
            reset_timeout: Duration::from_secs(30),
            success_threshold: 2,
            probes: 1,
            probe_lease: None,
            rates: None,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(1),
            minimum_calls: 20,
            failure_rate: 50.0,
            slow_call_rate: 101.0,
            slow_call: Duration::from_mins(1),
        }
    }
}

/// How a circuit is.
#[derive(Clone, Debug)]
pub struct Circuit {
    /// Whose it is.
    pub api: Arc<str>,
    /// Which host's; none is that of the whole API.
    pub host: Option<HostKey>,
    /// What it does.
    pub condition: Condition,
    /// Failures in a row.
    pub failures: u32,
    /// Successes of those that try whether it can be closed.
    pub successes: u32,
    /// When an attempt failed last, as far as this instance knows.
    pub last_failure: Option<SystemTime>,
    /// Until an attempt may try whether it can be closed.
    pub left: Duration,
    /// Times that it was opened, as far as this instance saw.
    pub trips: u64,
    /// Attempts that this instance refused, or would have if it were obeyed.
    pub refused: u64,
    /// What it goes by.
    pub settings: Settings,
}

/// What a circuit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Lets all attempts pass.
    Closed,
    /// Lets none pass.
    Open,
    /// Lets a few probe.
    HalfOpen,
}

impl Condition {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Open => "OPEN",
            Self::HalfOpen => "HALF_OPEN",
        }
    }

    fn of(state: &State, now: Instant) -> Self {
        match state.phase {
            state::Phase::Closed => Self::Closed,
            state::Phase::Open { until } if now < until => Self::Open,
            state::Phase::Open { .. } | state::Phase::HalfOpen { .. } => Self::HalfOpen,
        }
    }
}

/// The circuits of one API: one, or for the default API one for each host.
pub(crate) struct Breakers {
    settings: Settings,
    rules: Rules,
    board: Board,
    table: Arc<Table>,
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, table, .. } = self;
        f.debug_struct("Breakers").field("api", &table.api).field("settings", settings).finish()
    }
}

/// One attempt that a circuit let pass. Dropped without a word it says nothing about the upstream.
pub(crate) struct Pass<'a> {
    breakers: &'a Breakers,
    host: &'a HostKey,
    circuit: Option<Held<'a>>,
    /// None once it is told what came of it.
    tickets: Option<Tickets>,
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("tickets", &self.tickets).finish_non_exhaustive()
    }
}

impl Breakers {
    /// With what `former` of the same API had learned. `timeout` is how long an attempt may take.
    pub(crate) fn new(
        api: &Arc<str>,
        settings: Settings,
        by_host: bool,
        timeout: Option<Duration>,
        board: &Board,
        former: Option<&Self>,
    ) -> Self {
        let lease = settings.probe_lease.unwrap_or(timeout.unwrap_or(USUAL) + MARGIN);
        let rules = Rules {
            threshold: settings.failure_threshold,
            reset: settings.reset_timeout,
            needed: settings.success_threshold,
            probes: settings.probes,
            lease,
        };
        let former = former.map(|former| &former.table);
        let table = match former.filter(|table| table.one.is_none() == by_host) {
            Some(table) => Arc::clone(table),
            None => Table::begin(api, by_host, board),
        };
        Self { settings, rules, board: board.clone(), table }
    }

    /// Those of hosts to which tunnels are opened, whose dial may take so long.
    pub(crate) fn of_tunnels(settings: Settings, timeout: Duration, board: &Board) -> Self {
        Self::new(&TUNNELS.into(), settings, true, Some(timeout), board, None)
    }

    pub(crate) fn mode(&self) -> Mode {
        self.settings.mode
    }

    /// Failures in a row of the circuit that stands before this host.
    pub(crate) fn failures(&self, host: &HostKey) -> u32 {
        self.table.find(host).map_or(0, |circuit| circuit.common().state.failures)
    }

    /// How many open it; none if they are not counted.
    pub(crate) fn threshold(&self) -> Option<u32> {
        Some(self.settings.failure_threshold).filter(|threshold| *threshold > 0)
    }

    /// What came of what they said, as far as no API counts it.
    pub(crate) fn decided(&self) -> &Decided {
        &self.table.decided
    }

    /// Whether it is known already that an attempt is refused, which then counts as one that was.
    pub(crate) fn refuse(&self, host: &HostKey) -> Option<Refusal> {
        if self.settings.mode == Mode::Observe {
            return None;
        }
        let circuit = self.table.find(host)?;
        let left = circuit.enter(self.place(circuit.key()))?.err()?;
        Some(Refusal { rule: Rule::Breaker, left })
    }

    /// Whether an attempt at this host may be made.
    pub(crate) async fn enter<'a>(&'a self, host: &'a HostKey) -> Decision<Pass<'a>> {
        let circuit = self.table.find(host);
        let tickets = match &circuit {
            None => None,
            Some(circuit) => {
                let entered = match circuit.enter(self.place(circuit.key())) {
                    Some(entered) => entered,
                    // PERF: boxed, so that not each request has the room for it.
                    None => Box::pin(circuit.probe(self.place(circuit.key()))).await,
                };
                match entered {
                    Ok(tickets) => Some(tickets),
                    Err(left) => return Decision::Refuse(Refusal { rule: Rule::Breaker, left }),
                }
            }
        };
        Decision::Pass(Pass { breakers: self, host, circuit, tickets })
    }

    /// Takes up again what was put aside.
    pub(crate) fn unpark<'a>(&'a self, parked: Parked, host: &'a HostKey) -> Pass<'a> {
        let Parked { tickets, had_circuit } = parked;
        let circuit = if had_circuit { self.table.find(host) } else { None };
        Pass { breakers: self, host, circuit, tickets }
    }

    /// All circuits that there are; of hosts only those that have failed of late.
    pub(crate) fn snapshot(&self) -> Vec<Circuit> {
        let now = clock::now();
        let one = self.table.one.iter().map(|one| (None, one));
        let hosts = self.table.hosts();
        let hosts = hosts.iter().map(|(host, circuit)| (Some(host.clone()), &**circuit));
        let mut all: Vec<Circuit> =
            one.chain(hosts).map(|(host, circuit)| self.view(host, circuit, now)).collect();
        all.sort_by(|one, other| one.host.cmp(&other.host));
        all
    }

    fn view(&self, host: Option<HostKey>, circuit: &Known, now: Instant) -> Circuit {
        let (common, own) = (circuit.common(), circuit.own());
        let of_common = Condition::of(&common.state, now);
        let of_own = Condition::of(&own.state, now);
        // The one that lets less pass is what callers feel.
        let (condition, state) = match (of_common, of_own) {
            (Condition::Open, _)
            | (_, Condition::Closed)
            | (Condition::HalfOpen, Condition::HalfOpen) => (of_common, &common.state),
            (_, Condition::Open) | (Condition::Closed, Condition::HalfOpen) => (of_own, &own.state),
        };
        Circuit {
            api: Arc::clone(&self.table.api),
            host,
            condition,
            failures: common.state.failures,
            successes: state.successes,
            last_failure: common.last_failure,
            left: state.left(now),
            trips: circuit.trips.load(Ordering::Relaxed),
            refused: circuit.refused.load(Ordering::Relaxed),
            settings: self.settings.clone(),
        }
    }

    /// Closes the circuit of the API, or of this host, for the whole fleet, as an operator wants it;
    /// whether there is one.
    pub(crate) fn reset(&self, host: Option<&HostKey>) -> bool {
        match (&self.table.one, host) {
            (Some(one), None) => one.reset(self.place(one.key())),
            (None, Some(host)) => match self.table.known(host) {
                Some(circuit) => circuit.reset(self.place(circuit.key())),
                None => return false,
            },
            (Some(_), Some(_)) | (None, None) => return false,
        }
        true
    }

    fn place<'a>(&'a self, key: &'a str) -> Place<'a> {
        let rates = self.settings.rates.as_ref();
        Place { board: &self.board, key, rules: &self.rules, rates }
    }
}

/// A [`Pass`] that is put aside, for whoever holds it longer than it can borrow. What is not taken up
/// again is not given back.
#[derive(Debug)]
pub(crate) struct Parked {
    tickets: Option<Tickets>,
    /// Whether there was a circuit.
    had_circuit: bool,
}

impl Pass<'_> {
    /// Puts it aside.
    pub(crate) fn park(mut self) -> Parked {
        Parked { tickets: self.tickets.take(), had_circuit: self.circuit.is_some() }
    }

    /// What came of it.
    pub(crate) async fn record(mut self, facts: Facts) {
        let failed = match facts.end {
            End::Neutral | End::Status(429) => return,
            End::Failed(_) => true,
            End::Status(status) => status >= 500,
        };
        let breakers = self.breakers;
        if self.circuit.is_none() && (failed || breakers.settings.rates.is_some()) {
            self.circuit = breakers.table.learn(self.host).map(Held::Shared);
        }
        let Some(circuit) = &self.circuit else { return };
        let call = Call { failed, took: facts.took };
        // Who passed before there was a circuit passed one that was never opened.
        let tickets = self.tickets.take().unwrap_or_default();
        let place = breakers.place(circuit.key());
        if !circuit.is_noted(tickets, call, place) {
            Box::pin(circuit.report(tickets.common, call, place)).await;
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let (Some(tickets), Some(circuit)) = (self.tickets.take(), &self.circuit) {
            circuit.release(tickets, self.breakers.place(circuit.key()));
        }
    }
}

/// The circuits of an API, whatever its settings are.
#[derive(Debug)]
struct Table {
    api: Arc<str>,
    board: Board,
    /// That of the whole API; none if each host has its own.
    one: Option<Known>,
    hosts: RwLock<HashMap<HostKey, Arc<Known>>>,
    /// How many hosts there are. PERF: as long as there are none, nobody takes the lock.
    count: AtomicUsize,
    /// When room was made last.
    swept: RwLock<Option<Instant>>,
    decided: Decided,
}

/// A circuit and what the board calls it.
#[derive(Debug)]
struct Known {
    key: Box<str>,
    switch: Switch,
}

impl Deref for Known {
    type Target = Switch;

    fn deref(&self) -> &Switch {
        &self.switch
    }
}

impl Known {
    fn new(key: impl Into<Box<str>>) -> Self {
        Self { key: key.into(), switch: Switch::new() }
    }

    fn key(&self) -> &str {
        &self.key
    }
}

/// A circuit in use: that of an API lives as long as it does, that of a host may be forgotten.
enum Held<'a> {
    Api(&'a Known),
    Shared(Arc<Known>),
}

impl Deref for Held<'_> {
    type Target = Known;

    fn deref(&self) -> &Known {
        match self {
            Self::Api(circuit) => circuit,
            Self::Shared(circuit) => circuit,
        }
    }
}

impl Table {
    fn begin(api: &Arc<str>, by_host: bool, board: &Board) -> Arc<Self> {
        let table = Arc::new(Self {
            api: Arc::clone(api),
            board: board.clone(),
            one: (!by_host).then(|| Known::new(&**api)),
            hosts: RwLock::default(),
            count: AtomicUsize::new(0),
            swept: RwLock::default(),
            decided: Decided::default(),
        });
        let listener: Arc<dyn Listener> = Arc::<Self>::clone(&table);
        board.listen(TOPIC, Arc::downgrade(&listener));
        table
    }

    fn find(&self, host: &HostKey) -> Option<Held<'_>> {
        match &self.one {
            Some(one) => Some(Held::Api(one)),
            None if self.count.load(Ordering::Relaxed) == 0 => None,
            None => self.known(host).map(Held::Shared),
        }
    }

    fn known(&self, host: &HostKey) -> Option<Arc<Known>> {
        self.hosts().get(host).map(Arc::clone)
    }

    /// The circuit of a host, a new one if it has none; none if there is no room for it.
    fn learn(&self, host: &HostKey) -> Option<Arc<Known>> {
        if let Some(known) = self.known(host) {
            return Some(known);
        }
        let mut hosts = self.hosts_mut();
        if hosts.len() >= HOSTS {
            self.make_room(&mut hosts);
        }
        if hosts.len() >= HOSTS {
            return None;
        }
        let new = || Arc::new(Known::new([&*self.api, "/", host.as_str()].concat()));
        let known = Arc::clone(hosts.entry(host.clone()).or_insert_with(new));
        self.count.store(hosts.len(), Ordering::Relaxed);
        Some(known)
    }

    /// Forgets hosts: those of which nothing would be lost, and if these are few, all but those that
    /// are open.
    fn make_room(&self, hosts: &mut HashMap<HostKey, Arc<Known>>) {
        let now = clock::now();
        let mut swept = self.swept.write().unwrap_or_else(PoisonError::into_inner);
        if swept.is_some_and(|swept| now < swept + SWEEP) {
            return;
        }
        *swept = Some(now);
        for weight in [1, 2] {
            hosts.retain(|_, circuit| circuit.weight(now) >= weight);
            if hosts.len() <= HOSTS * 3 / 4 {
                break;
            }
        }
    }

    fn hosts(&self) -> RwLockReadGuard<'_, HashMap<HostKey, Arc<Known>>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts_mut(&self) -> RwLockWriteGuard<'_, HashMap<HostKey, Arc<Known>>> {
        self.hosts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Table {
    fn heard(&self, key: &str, words: &[&str]) {
        let Some(word) = Word::parse(words) else { return };
        if let Some(one) = &self.one {
            if *key == *one.key {
                one.adopt(&word, key);
            }
            return;
        }
        let host = key.strip_prefix(&*self.api).and_then(|rest| rest.strip_prefix('/'));
        let Some(host) = host.map(HostKey::recalled) else { return };
        // Of a host that is well there is nothing to be remembered.
        let is_well = word.letter == Letter::Closed && word.failures == 0;
        let known = if is_well { self.known(&host) } else { self.learn(&host) };
        if let Some(known) = known {
            known.adopt(&word, key);
        }
    }

    fn back(&self) {
        let all: Vec<Arc<Known>> = self.hosts().values().map(Arc::clone).collect();
        for known in self.one.iter().chain(all.iter().map(|known| &**known)) {
            known.resume(&self.board, known.key());
        }
    }
}

#[cfg(test)]
mod tests;
