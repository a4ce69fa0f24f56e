//! A fleet as a model: instances, one Redis, the connections between them, a clock that moves in
//! steps, and a few faults.
//!
//! Whatever is under way may happen in any order, but an instance that is not paused does what is
//! due before the clock moves: all that is late is late because of a fault. A paused one does
//! nothing while its sockets stay open; what it has sent may run meanwhile, or later.

use std::fmt;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use stateright::Model;
use stateright::Property;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::Mutant;
use super::redis::Hint;
use super::redis::Id;
use super::redis::Redis;
use super::redis::Server;
use super::worker::HOST;
use super::worker::Reply;
use super::worker::Request;
use super::worker::Rules;
use super::worker::Worker;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::limit::host::Host;
use crate::limit::protocol::Session;
use crate::limit::protocol::Timing;

const LEASE: Duration = Duration::from_secs(15);
/// A lease is three steps of the clock, of which an instance relies on fourteen fifteenths.
const UNIT: Duration = Duration::from_secs(5);
const TIMING: Timing =
    Timing { lease: LEASE, heartbeat: Duration::from_secs(3), timeout: Duration::from_millis(200) };
/// Redis had run for long when the fleet came.
const BEGIN: u64 = 1_000_000;

/// How often each fault may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    /// A connection breaks; what was sent on it may still arrive, whenever.
    pub(super) breaks: u8,
    /// An instance stops, for any time.
    pub(super) pauses: u8,
    /// Redis starts anew, without its data.
    pub(super) restarts: u8,
    /// All data is deleted.
    pub(super) flushes: u8,
    /// A replica takes over that may lack any of the last writes.
    pub(super) failovers: u8,
}

impl Faults {
    /// These and those.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            breaks: self.breaks + other.breaks,
            pauses: self.pauses + other.pauses,
            restarts: self.restarts + other.restarts,
            flushes: self.flushes + other.flushes,
            failovers: self.failovers + other.failovers,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Break(Id),
    Close(Id),
    Enter(Id),
    FailOver,
    Flush,
    Notice(Id),
    Pause(Id),
    Read(Id),
    /// The replica hears what Redis has done so far.
    Replicate,
    Restart,
    Resume(Id),
    Run(Id),
    /// What was sent on a connection that failed is run.
    RunOld(Id),
    Tick,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    /// Milliseconds of Redis's clock, and the same of the instances'.
    now: u64,
    instant: Instant,
    redis: Redis,
    replica: Option<Redis>,
    workers: Vec<Worker>,
    left: Faults,
    /// A connection was opened past the limit.
    is_over: bool,
}

pub(super) struct Fleet {
    pub(super) instances: u8,
    pub(super) rules: Rules,
    pub(super) faults: Faults,
    /// Of one instance: requests that wait, and connections.
    pub(super) most_waiting: u32,
    pub(super) most_open: u32,
    base: Instant,
    /// Its clock stands still: what reads it reads the same for ever.
    runtime: Runtime,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instances, rules, faults, .. } = self;
        write!(f, "{instances} instances, {rules:?}, {faults:?}")
    }
}

impl Fleet {
    pub(super) fn new(instances: u8, limit: u32, faults: Faults) -> Self {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let base = runtime.block_on(async { clock::now() });
        Self {
            instances,
            rules: Rules { limit, slack: 0, may_wait: true, polls: false, mutant: None },
            faults,
            most_waiting: 1,
            most_open: limit,
            base,
            runtime,
        }
    }

    pub(super) fn slack(mut self, slack: u32) -> Self {
        self.rules.slack = slack;
        self
    }

    /// Who asks is refused where there is no slot.
    pub(super) fn impatient(mut self) -> Self {
        self.rules.may_wait = false;
        self
    }

    pub(super) fn mutant(mut self, mutant: Mutant) -> Self {
        self.rules.mutant = Some(mutant);
        self
    }

    /// Redis runs one message; what it answers, and whom it tells what.
    fn run(redis: &mut Redis, now: u64, id: Id, request: Request) -> (Reply, Vec<Hint>) {
        let mut hints = Vec::new();
        let reply = match request {
            Request::Hello { hello, sent } => {
                Reply::Greeted { answer: redis.hello(now, id, hello), sent }
            }
            Request::Heartbeat { epoch, sent } => redis
                .heartbeat(now, id, epoch, LEASE)
                .map_or(Reply::Fenced, |answer| Reply::Renewed { answer, sent }),
            Request::Grant(grant) => {
                redis.grant(now, grant, &mut hints).map_or(Reply::Fenced, Reply::Granted)
            }
        };
        (reply, hints)
    }

    fn hint(state: &mut State, hints: &[Hint]) {
        for hint in hints {
            let (id, reply) = match *hint {
                Hint::Granted(id) => (id, Reply::Served),
                Hint::Recall(id, wanted) => {
                    (id, Reply::Recalled(u32::try_from(wanted).unwrap_or(0)))
                }
            };
            let worker = &mut state.workers[usize::from(id)];
            // Two of a kind say no more than one.
            let is_said = matches!(
                (worker.replies.back(), &reply),
                (Some(Reply::Served), Reply::Served)
                    | (Some(Reply::Recalled(_)), Reply::Recalled(_))
            );
            if worker.session.is_serving() && !worker.is_broken && !is_said {
                worker.replies.push_back(reply);
            }
        }
    }

    /// The process is gone that the connections led to, with all that it had not run.
    fn lose_all(state: &mut State) {
        for worker in &mut state.workers {
            worker.requests.clear();
            worker.old.clear();
            Self::lose(worker);
        }
    }

    /// Who is awake sees it at once: what it could do before that, it could do before the break.
    fn lose(worker: &mut Worker) {
        worker.old.append(&mut worker.requests);
        worker.is_broken = true;
        if !worker.is_paused {
            worker.replies.clear();
        }
    }

    /// What cannot matter when it happens, within one step of the clock, happens at once: that an
    /// instance does what is due, and reads what only makes it say something.
    fn settle(&self, state: &mut State) {
        let (now, rules) = (state.instant, self.rules);
        for id in 0..self.instances {
            loop {
                let worker = &state.workers[usize::from(id)];
                let is_slot = matches!(worker.replies.front(), Some(Reply::Granted(_)));
                if worker.is_paused {
                    break;
                } else if worker.is_due(now) {
                    self.act(state, id, 0, |worker| worker.look(now, rules));
                } else if !worker.replies.is_empty() && !is_slot {
                    self.act(state, id, 0, |worker| worker.read(now, rules));
                } else if worker.replies.is_empty() && worker.is_broken {
                    self.act(state, id, 0, |worker| worker.notice(now, rules));
                } else {
                    break;
                }
            }
        }
    }

    /// What `act` did, seen as a connection that was opened.
    fn judge(&self, state: &mut State, id: Id, before: u32) {
        let now = state.instant;
        let worker = &state.workers[usize::from(id)];
        if worker.open_and_granted().0 <= before {
            return;
        }
        // What a zombie came back with, and has no slot for, is owned up to and not counted.
        let live = state.workers.iter().filter(|worker| worker.is_leased(now));
        let open: u32 = live
            .map(|worker| {
                let (open, granted) = worker.open_and_granted();
                open.min(granted)
            })
            .sum();
        state.is_over |= open > self.rules.limit || !worker.is_leased(now);
    }

    fn step(&self, state: &mut State, action: Action) {
        let now = state.instant;
        let rules = self.rules;
        match action {
            Action::Tick => {
                state.now += u64::try_from(UNIT.as_millis()).unwrap();
                state.instant += UNIT;
                state.workers.iter_mut().for_each(|worker| worker.rest(rules));
            }
            Action::Break(id) => {
                state.left.breaks -= 1;
                Self::lose(&mut state.workers[usize::from(id)]);
            }
            Action::Pause(id) => {
                state.left.pauses -= 1;
                state.workers[usize::from(id)].is_paused = true;
            }
            Action::Resume(id) => state.workers[usize::from(id)].is_paused = false,
            Action::Replicate => state.replica = Some(state.redis.clone()),
            Action::FailOver => {
                state.left.failovers -= 1;
                if let Some(replica) = state.replica.take() {
                    state.redis.fail_over(&replica);
                    Self::lose_all(state);
                }
            }
            Action::Restart => {
                state.left.restarts -= 1;
                state.redis.restart(state.now);
                Self::lose_all(state);
            }
            Action::Flush => {
                state.left.flushes -= 1;
                state.redis.flush();
            }
            Action::Run(id) => {
                let worker = &mut state.workers[usize::from(id)];
                if let Some(request) = worker.requests.pop_front() {
                    let (reply, hints) = Self::run(&mut state.redis, state.now, id, request);
                    worker.replies.push_back(reply);
                    Self::hint(state, &hints);
                }
            }
            Action::RunOld(id) => {
                if let Some(request) = state.workers[usize::from(id)].old.pop_front() {
                    let (_, hints) = Self::run(&mut state.redis, state.now, id, request);
                    Self::hint(state, &hints);
                }
            }
            Action::Close(id) => self.act(state, id, 1, |worker| worker.close(now, rules)),
            Action::Enter(id) => self.act(state, id, 0, |worker| worker.enter(now, rules)),
            Action::Notice(id) => self.act(state, id, 0, |worker| worker.notice(now, rules)),
            Action::Read(id) => self.act(state, id, 0, |worker| worker.read(now, rules)),
        }
    }

    /// A step of one instance, which closes so many connections.
    fn act(&self, state: &mut State, id: Id, closes: u32, step: impl FnOnce(&mut Worker)) {
        let worker = &mut state.workers[usize::from(id)];
        let before = worker.open_and_granted().0;
        step(worker);
        self.judge(state, id, before - closes);
    }

    fn actions_of(&self, state: &State, worker: &Worker, actions: &mut Vec<Action>) {
        let id = worker.id;
        if !worker.requests.is_empty() {
            actions.push(Action::Run(id));
        }
        if !worker.old.is_empty() {
            actions.push(Action::RunOld(id));
        }
        if worker.is_paused {
            actions.push(Action::Resume(id));
        } else {
            if !worker.replies.is_empty() {
                actions.push(Action::Read(id));
            }
            if worker.is_broken {
                actions.push(Action::Notice(id));
            }
            if worker.open_and_granted().0 > 0 {
                actions.push(Action::Close(id));
            }
            if worker.waiting() < self.most_waiting
                && worker.open_and_granted().0 < self.most_open + worker.waiting()
            {
                actions.push(Action::Enter(id));
            }
            if state.left.pauses > 0 {
                actions.push(Action::Pause(id));
            }
        }
        if state.left.breaks > 0 && !worker.is_broken && worker.is_connected() {
            actions.push(Action::Break(id));
        }
    }
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    /// All are connected, and nothing is open.
    fn init_states(&self) -> Vec<State> {
        let _clock = self.runtime.enter();
        let start = BEGIN - 10 * u64::try_from(LEASE.as_millis()).unwrap();
        let mut redis = Redis::new(Server { run: 1, start, is_doubtful: false });
        redis.mutant = self.rules.mutant;
        let key = HostKey::parse("a.test").unwrap();
        let workers = (0..self.instances)
            .map(|id| {
                let session = Session::new(TIMING, self.base, 1);
                let host = Host::new(key.clone(), 0, 1, Arc::default(), false);
                Worker::new(id, session, host)
            })
            .collect();
        let left = self.faults;
        let (now, instant) = (BEGIN, self.base);
        let mut state = State { now, instant, redis, replica: None, workers, left, is_over: false };
        for id in 0..self.instances {
            let at = usize::from(id);
            self.settle(&mut state);
            while !state.workers[at].is_quiet(state.instant) {
                self.step(&mut state, Action::Run(id));
                self.settle(&mut state);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let _clock = self.runtime.enter();
        for worker in &state.workers {
            self.actions_of(state, worker, actions);
        }
        let now = state.instant;
        if state.workers.iter().all(|worker| worker.is_paused || worker.is_quiet(now)) {
            actions.push(Action::Tick);
        }
        let left = state.left;
        if left.restarts > 0 {
            actions.push(Action::Restart);
        }
        if left.flushes > 0 {
            actions.push(Action::Flush);
        }
        if left.failovers > 0 {
            actions.push(match state.replica {
                None => Action::Replicate,
                Some(_) => Action::FailOver,
            });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let _clock = self.runtime.enter();
        let mut state = last.clone();
        self.step(&mut state, action);
        self.settle(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: nothing is opened past the limit", |_, state: &State| {
                !state.is_over
            }),
            Property::always("S1: slots that may be used are within the limit", usable),
            Property::always("S2: Redis counts every slot that may be used", counted),
            Property::always("the sum is the sum", |_, state: &State| {
                state.redis.hosts.get(&HOST).is_none_or(|host| {
                    let queued: i64 = host.rows.values().map(|row| row.queued).sum();
                    host.total == host.rows.values().map(|row| row.held).sum::<i64>()
                        && host.queued.unwrap_or(0) == queued
                })
            }),
            Property::sometimes("a slot is used", |_, state: &State| {
                state.workers.iter().any(|worker| worker.open_and_granted().0 > 0)
            }),
            Property::sometimes("every fault has been and all is well", |_, state: &State| {
                let Faults { breaks, pauses, restarts, flushes, failovers } = state.left;
                breaks + pauses + restarts + flushes + failovers == 0
                    && state.redis.is_granting()
                    && state.workers.iter().all(|worker| {
                        worker.is_leased(state.instant) && worker.is_quiet(state.instant)
                    })
                    && state.workers.iter().any(|worker| worker.open_and_granted() == (1, 1))
            }),
            Property::sometimes("a slot passes from one to another", |_, state: &State| {
                state
                    .workers
                    .iter()
                    .any(|worker| worker.replies.iter().any(|reply| matches!(reply, Reply::Served)))
            }),
        ]
    }
}

fn live(state: &State) -> impl Iterator<Item = &Worker> {
    let now = state.instant;
    state.workers.iter().filter(move |worker| worker.is_leased(now))
}

fn usable(fleet: &Fleet, state: &State) -> bool {
    live(state).map(|worker| worker.open_and_granted().1).sum::<u32>() <= fleet.rules.limit
}

fn counted(_: &Fleet, state: &State) -> bool {
    let slots: u32 = live(state).map(|worker| worker.open_and_granted().1).sum();
    let total = state.redis.hosts.get(&HOST).map_or(0, |host| host.total);
    !state.redis.is_granting() || i64::from(slots) <= total
}

/// States are the same when all that can follow is: moments count from now, and what is long over
/// is over.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let now = self.now;
        (self.left, self.is_over).hash(hasher);
        let generation = self.redis.term.as_ref().map(|term| term.stamp.generation);
        hash_redis(&self.redis, now, hasher);
        self.replica.is_some().hash(hasher);
        if let Some(replica) = &self.replica {
            hash_redis(replica, now, hasher);
        }
        for worker in &self.workers {
            worker.hash(hasher, self.instant, (UNIT, LEASE), generation);
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let print = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        print(self) == print(other)
    }
}

fn hash_redis(redis: &Redis, now: u64, hasher: &mut impl Hasher) {
    let Redis { server, term, workers, leases, beats, hosts, mutant: _ } = redis;
    let lease = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
    let unit = u64::try_from(UNIT.as_millis()).unwrap_or(u64::MAX);
    let ago = |at: u64, most: u64| now.saturating_sub(at).min(most);
    // One unit past the end is over, and so is all that is later.
    let left = |end: u64| (end + unit).saturating_sub(now);
    (server.is_doubtful, ago(server.start, lease)).hash(hasher);
    term.as_ref()
        .map(|term| {
            (term.stamp.is_learning, term.run == server.run, term.until.saturating_sub(now))
        })
        .hash(hasher);
    workers.hash(hasher);
    for (id, end) in leases {
        (id, left(*end)).hash(hasher);
    }
    beats.map(|(last, since)| (ago(last, lease), ago(since, lease))).hash(hasher);
    for host in hosts.values() {
        for (id, row) in &host.rows {
            (id, row.held, row.queued, row.unused, row.number.is_some()).hash(hasher);
        }
        (host.total, host.limit, host.queued, host.unused, &host.queue).hash(hasher);
        (host.recalled == Some(now)).hash(hasher);
        if let Some(term) = term {
            let is_void = host.swept.generation < term.first;
            (host.swept == term.stamp, is_void).hash(hasher);
        }
    }
}
