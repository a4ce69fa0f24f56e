//! Slots shared through Redis: what carries [`super::protocol`] out.
//!
//! [`Link`] is what the threads that admit and the one that speaks to Redis share: the hosts that
//! Redis must hear of, and a few atomics that say what room is measured against. [`run`] is the
//! one that speaks: one ordered connection, everything that is due about all hosts in one write,
//! at most [`BATCHES`] writes unanswered.
//!
//! Invariants: at most one message per host is unanswered. A connection that failed in any way is
//! dropped, never repaired. Nobody waits for a Redis that does not answer: within
//! [`crate::store::Settings::timeout`] and 50 ms they are told.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::Pipeline;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Limiter;
use super::host::Again;
use super::host::Answer;
use super::host::Ask;
use super::host::Basis;
use super::host::Host;
use super::protocol::Act;
use super::protocol::Event;
use super::protocol::Session;
use super::protocol::Timing;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::clock::Alarm;
use crate::store::Fleet;
use crate::store::Store;
use crate::store::keys::Keys;
use crate::store::route::Route;
use crate::store::scripts;
use crate::store::scripts::Grant;
use crate::store::scripts::Heartbeat;
use crate::store::scripts::Hello;
use crate::store::scripts::Leave;
use crate::store::scripts::Manner;
use crate::store::scripts::Trouble;

/// What happens to new connections while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// They are refused.
    #[default]
    Closed,
    /// All pass, counted here alone.
    Open,
    /// The limit over the last known number of instances holds here.
    Share,
}

/// What the fleet's limiter obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Redis is.
    pub store: crate::store::Settings,
    /// How long Redis vouches for this instance's slots after each renewal.
    pub lease: Duration,
    /// How often the lease is renewed; less than a third of it.
    pub heartbeat: Duration,
    /// What happens while Redis is away.
    pub failure: Failure,
}

impl Settings {
    /// The documented defaults, for the Redis at `url`. A fleet is better off with a shorter
    /// `upstream.pool_idle` too: a kept connection holds a slot that
    /// another instance may want.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            store: crate::store::Settings::new(url),
            lease: Duration::from_secs(15),
            heartbeat: Duration::from_secs(3),
            failure: Failure::Closed,
        }
    }
}

/// Writes to Redis that may be unanswered at once. PERF: what becomes due meanwhile goes out in
/// one write, so that under load the messages of one host melt into one.
const BATCHES: usize = 2;
/// Messages in one write.
const BATCH: usize = 512;
/// How often Redis hears of each held host although nothing happens there; its keys live a day.
const AUDIT: Duration = Duration::from_hours(1);
/// Questions of people that may be under way.
const READS: usize = 32;

const CONNECTING: u8 = 0;
const UP: u8 = 1;
const AWAY: u8 = 2;

/// Told of each exchange with Redis: how long it took, and whether it succeeded.
pub(crate) type Calls = Box<dyn Fn(Duration, bool) + Send + Sync>;

/// What the threads that admit and the one that speaks to Redis share.
pub(crate) struct Link {
    listed: Mutex<Vec<Arc<Host>>>,
    wake: Notify,
    worker: String,
    failure: Failure,
    /// Instants below are nanoseconds after this one; 0 is none.
    born: Instant,
    phase: AtomicU8,
    leased_until: AtomicU64,
    learning_until: AtomicU64,
    instances: AtomicU32,
    questions: mpsc::Sender<Question>,
    ear: Mutex<Option<mpsc::Receiver<Question>>>,
}

/// Who holds slots of these hosts?
struct Question {
    hosts: Vec<HostKey>,
    answer: oneshot::Sender<Vec<Fleet>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(failure: Failure) -> Arc<Self> {
        let (questions, ear) = mpsc::channel(READS);
        let id = uuid::Uuid::new_v4().simple().to_string();
        Arc::new(Self {
            listed: Mutex::default(),
            wake: Notify::new(),
            // 48 random bits: short, since Redis keeps it in every host's hash.
            worker: id[..12].to_owned(),
            failure,
            born: clock::now(),
            phase: AtomicU8::new(CONNECTING),
            leased_until: AtomicU64::new(0),
            learning_until: AtomicU64::new(0),
            instances: AtomicU32::new(1),
            questions,
            ear: Mutex::new(Some(ear)),
        })
    }

    /// The name of this instance in Redis.
    pub(crate) fn worker(&self) -> &str {
        &self.worker
    }

    /// Instances in the fleet, as Redis last said.
    pub(crate) fn instances(&self) -> u32 {
        self.instances.load(Relaxed)
    }

    /// `connecting`, `up`, `learning` or `away`.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase.load(Relaxed) {
            CONNECTING => "connecting",
            UP if self.is_before(&self.learning_until) => "learning",
            UP => "up",
            _ => "away",
        }
    }

    /// Puts a host on the list of those Redis must hear of.
    pub(crate) fn speak(&self, host: Arc<Host>) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = listed.is_empty();
        listed.push(host);
        drop(listed);
        if first {
            self.wake.notify_one();
        }
    }

    /// What room is measured against now.
    pub(crate) fn basis(&self) -> Basis {
        match self.phase.load(Relaxed) {
            UP => Basis::Granted { leased: self.is_before(&self.leased_until) },
            CONNECTING => Basis::Granted { leased: false },
            _ => match self.failure {
                Failure::Closed => Basis::Away { leased: self.is_before(&self.leased_until) },
                Failure::Open => Basis::Open,
                Failure::Share => Basis::Share { instances: self.instances() },
            },
        }
    }

    /// The fleet's numbers of these hosts, one for each; none when Redis does not tell.
    pub(crate) async fn fleet(&self, hosts: Vec<HostKey>) -> Option<Vec<Fleet>> {
        let (answer, told) = oneshot::channel();
        self.questions.send(Question { hosts, answer }).await.ok()?;
        told.await.ok()
    }

    fn take_listed(&self) -> Vec<Arc<Host>> {
        std::mem::take(&mut *self.listed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_before(&self, instant: &AtomicU64) -> bool {
        let until = instant.load(Relaxed);
        until > 0 && clock::now() < self.born + Duration::from_nanos(until)
    }

    fn write(&self, to: &AtomicU64, instant: Option<Instant>) {
        let nanos = instant.map_or(0, |instant| (instant - self.born).as_nanos());
        to.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Limiter {
    /// The fleet's numbers of one host, from Redis; none when it is away, or nothing is shared.
    pub async fn fleet(&self, key: &HostKey) -> Option<Fleet> {
        self.fleets(vec![key.clone()]).await?.pop()
    }

    /// The fleet's numbers of these hosts, one for each, in one exchange. This instance's own are
    /// what is open here now, whatever Redis has not heard yet.
    pub async fn fleets(&self, keys: Vec<HostKey>) -> Option<Vec<Fleet>> {
        let link = self.link()?;
        let mut fleets = link.fleet(keys.clone()).await?;
        for (fleet, key) in fleets.iter_mut().zip(&keys) {
            match self.open_here(key) {
                0 => fleet.holders.remove(link.worker()),
                open => fleet.holders.insert(link.worker().to_owned(), open),
            };
            fleet.total = fleet.holders.values().sum();
        }
        Some(fleets)
    }
}

/// Speaks to Redis for `limiter` until `stop` completes; then gives back all slots, tells Redis
/// that this instance is gone, and returns. All connections should be closed by then: those that
/// are not are forgotten by Redis, and uncounted.
///
/// Errs at once, and leaves everybody with [`Failure`]'s answer, when the settings name nothing that
/// could be a Redis.
pub(crate) async fn run(
    limiter: Limiter,
    link: Arc<Link>,
    settings: Settings,
    calls: Calls,
    stop: impl Future<Output = ()>,
) -> Result<(), RedisError> {
    let connections =
        Store::new(&settings.store).and_then(|store| Ok((store, Route::new(&settings.store)?)));
    let (store, route) = connections.inspect_err(|_| link.phase.store(AWAY, Relaxed))?;
    let timing = Timing {
        lease: settings.lease,
        heartbeat: settings.heartbeat,
        timeout: settings.store.timeout,
    };
    let ear = link.ear.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut worker = Worker {
        session: Session::new(timing, clock::now(), fastrand::u64(..)),
        keys: Keys::new(&settings.store.prefix, route.shards()),
        limiter,
        link,
        settings,
        calls,
        route,
        line: Line::Down,
        replies: FuturesUnordered::new(),
        sent: VecDeque::new(),
        due: VecDeque::new(),
        heartbeat_due: false,
        loads_due: false,
        later: BTreeMap::new(),
        resting: HashSet::new(),
        audit_at: clock::now() + AUDIT,
        told: Told::default(),
        trouble: String::new(),
        leaving: None,
    };
    worker.work(store, ear, stop).await;
    Ok(())
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The connection, as far as it has come.
enum Line {
    Connecting(Boxed<Result<MultiplexedConnection, RedisError>>),
    Down,
    Greeting { connection: MultiplexedConnection, sent: Instant, reply: Boxed<Reply> },
    Up(MultiplexedConnection),
}

type Reply = Result<Vec<Value>, RedisError>;

/// A line's next step, when it has one to wait for.
enum Reached {
    Connection(Result<MultiplexedConnection, RedisError>),
    Greeting { sent: Instant, reply: Reply },
}

impl Line {
    async fn next(&mut self) -> Reached {
        match self {
            Self::Connecting(connecting) => Reached::Connection(connecting.await),
            Self::Greeting { sent, reply, .. } => {
                Reached::Greeting { sent: *sent, reply: reply.await }
            }
            Self::Down | Self::Up(_) => std::future::pending().await,
        }
    }
}

/// One message to Redis.
enum Message {
    Grant { host: Arc<Host>, ask: Ask, manner: Manner },
    Heartbeat,
}

/// Messages that went out in one write.
struct Batch {
    sent: Instant,
    /// Replies to script loads that come first.
    loads: usize,
    messages: Vec<Message>,
    reply: Reply,
}

/// What the log has said already.
#[derive(Default)]
struct Told {
    away: bool,
    eviction: bool,
    learning: bool,
    up: bool,
}

struct Worker {
    session: Session,
    keys: Keys,
    limiter: Limiter,
    link: Arc<Link>,
    settings: Settings,
    calls: Calls,
    route: Route,
    line: Line,
    replies: FuturesUnordered<Boxed<Batch>>,
    /// When each unanswered batch was sent.
    sent: VecDeque<Instant>,
    /// Messages that are to be sent, in order.
    due: VecDeque<Message>,
    heartbeat_due: bool,
    loads_due: bool,
    /// Hosts to be asked about again, and when.
    later: BTreeMap<(Instant, usize), Arc<Host>>,
    /// Those that are in `later`, by address.
    resting: HashSet<usize>,
    audit_at: Instant,
    told: Told,
    /// What went wrong last.
    trouble: String,
    /// Set by a stop: until when all slots must be back.
    leaving: Option<Instant>,
}

/// However the worker ends, nobody is left waiting for it.
impl Drop for Worker {
    fn drop(&mut self) {
        self.link.phase.store(AWAY, Relaxed);
        self.send_away(true);
    }
}

impl Worker {
    async fn work(
        &mut self,
        store: Store,
        ear: Option<mpsc::Receiver<Question>>,
        stop: impl Future<Output = ()>,
    ) {
        let link = Arc::clone(&self.link);
        let mut ear = ear.unwrap_or_else(|| mpsc::channel(1).1);
        let mut reads = FuturesUnordered::new();
        let mut alarm = Alarm::new();
        let mut stop = std::pin::pin!(stop);
        self.step(Event::Tick);
        loop {
            self.send();
            if self.leaving.is_some() && self.has_left().await {
                return;
            }
            let wake_at = self.wake_at();
            let may_send = self.replies.len() < BATCHES;
            tokio::select! {
                Some(batch) = self.replies.next(), if !self.replies.is_empty() => self.hear(batch),
                reached = self.line.next() => self.reach(reached),
                () = link.wake.notified(), if may_send => self.collect(),
                () = std::future::poll_fn(|cx| alarm.poll(cx, wake_at)) => self.look_at_the_clock(),
                () = &mut stop, if self.leaving.is_none() => self.leave(),
                Some(question) = ear.recv(), if reads.len() < READS => {
                    reads.push(answer(&store, question));
                }
                Some(()) = reads.next(), if !reads.is_empty() => {}
            }
        }
    }

    /// Carries one step of the session out.
    fn step(&mut self, event: Event) {
        let acts = self.session.step(clock::now(), event);
        self.publish();
        for act in acts {
            match act {
                Act::AskAgain => self.ask_for_all_who_wait(),
                Act::Away => {
                    if !self.told.away {
                        self.told.away = true;
                        let (policy, error) = (self.settings.failure, self.trouble.as_str());
                        tracing::warn!(error, ?policy, "redis is away");
                    }
                    self.link.phase.store(AWAY, Relaxed);
                    self.send_away(self.settings.failure == Failure::Closed);
                }
                Act::Connect => {
                    let route = self.route.clone();
                    let timeout = self.settings.store.timeout;
                    self.line = Line::Connecting(Box::pin(async move {
                        match tokio::time::timeout(timeout, route.connect(0)).await {
                            Ok(connected) => connected.map(|wire| wire.connection),
                            Err(elapsed) => Err(io::Error::from(elapsed).into()),
                        }
                    }));
                }
                Act::Drop => self.hang_up(),
                Act::Heartbeat => self.heartbeat_due = true,
                Act::Hello(hello) => self.greet(hello),
                Act::Serve { force } => self.serve(force),
            }
        }
    }

    /// Tells the threads that admit.
    fn publish(&mut self) {
        let link = &self.link;
        link.write(&link.leased_until, self.session.leased_until());
        link.write(&link.learning_until, self.session.learning_until());
        link.instances.store(self.session.instances(), Relaxed);
        let learning = self.session.learning_until();
        if let (Some(until), false) = (learning, self.told.learning) {
            let seconds = (until - clock::now()).as_secs_f32();
            tracing::warn!(seconds, "redis is new or lost data: new connections wait");
        } else if self.told.learning && learning.is_none() && self.session.is_serving() {
            tracing::info!("redis has learnt: new connections are served");
        }
        self.told.learning =
            learning.is_some() || (self.told.learning && !self.session.is_serving());
    }

    fn greet(&mut self, hello: Hello) {
        let Line::Up(connection) = std::mem::replace(&mut self.line, Line::Down) else { return };
        let mut pipeline = Pipeline::with_capacity(5);
        let mut loads = 0;
        for load in scripts::loads() {
            pipeline.add_command(load);
            loads += 1;
        }
        pipeline.add_command(hello.command(&self.keys, self.link.worker()));
        let mut sender = connection.clone();
        let timeout = self.settings.store.timeout;
        let reply = Box::pin(async move {
            let exchange = sender.send_packed_commands(&pipeline, 0, loads + 1);
            match tokio::time::timeout(timeout, exchange).await {
                Ok(reply) => reply,
                Err(elapsed) => Err(io::Error::from(elapsed).into()),
            }
        });
        self.line = Line::Greeting { connection, sent: clock::now(), reply };
    }

    fn reach(&mut self, reached: Reached) {
        match reached {
            Reached::Connection(Ok(connection)) => {
                self.line = Line::Up(connection);
                self.step(Event::Connected);
            }
            Reached::Connection(Err(error)) => self.fail(&error),
            Reached::Greeting { sent, reply } => {
                (self.calls)(clock::now() - sent, reply.is_ok());
                let answer = match &reply {
                    Ok(values) => Hello::answer(values.last().unwrap_or(&Value::Nil)),
                    Err(error) => return self.fail(error),
                };
                match answer {
                    Ok(answer) => {
                        let line = std::mem::replace(&mut self.line, Line::Down);
                        if let Line::Greeting { connection, .. } = line {
                            self.line = Line::Up(connection);
                        }
                        self.warn_of_eviction(&answer.eviction);
                        self.step(Event::Greeted { sent, answer });
                    }
                    Err(trouble) => self.stumble(&trouble),
                }
            }
        }
    }

    /// Each host is asserted anew: Redis may know something else by now, or nothing.
    fn serve(&mut self, force: bool) {
        self.link.phase.store(UP, Relaxed);
        if !self.told.up || self.told.away {
            let (worker, instances) = (self.link.worker(), self.session.instances());
            tracing::info!(worker, instances, "redis is up");
            self.told.up = true;
            self.told.away = false;
        }
        // What was listed on the old connection is part of what follows.
        drop(self.link.take_listed());
        let asserted = if force { Manner::Force } else { Manner::Ask };
        let due = &mut self.due;
        self.limiter.each(|host| {
            let message = match host.reassert(force) {
                Some(ask) => Some((ask, asserted)),
                None => host.plan().map(|ask| (ask, Manner::Ask)),
            };
            if let Some((ask, manner)) = message {
                due.push_back(Message::Grant { host: Arc::clone(host), ask, manner });
            }
        });
    }

    /// Plans what the listed hosts need; while Redis is away, tells those who wait there.
    fn collect(&mut self) {
        if self.session.is_serving() {
            for host in self.link.take_listed() {
                self.plan(host);
            }
        } else if self.link.phase.load(Relaxed) == AWAY {
            // They asked in the instant in which it went.
            let refuse = self.settings.failure == Failure::Closed;
            for host in self.link.take_listed() {
                self.limiter.carry_out(&host, host.lost(self.limiter.basis(), refuse));
            }
        }
    }

    fn plan(&mut self, host: Arc<Host>) {
        if let Some(ask) = host.plan() {
            self.due.push_back(Message::Grant { host, ask, manner: Manner::Ask });
        }
    }

    /// Writes what is due, if the connection is up and has room.
    fn send(&mut self) {
        let Line::Up(connection) = &self.line else { return };
        if !self.session.is_serving() || self.replies.len() >= BATCHES {
            return;
        }
        if self.due.is_empty() && !self.heartbeat_due {
            return;
        }
        let mut connection = connection.clone();
        let (worker, epoch) = (self.link.worker(), self.session.epoch());
        let grants = self.due.len().min(BATCH);
        let mut pipeline = Pipeline::with_capacity(grants + 1);
        let mut messages = Vec::with_capacity(grants + 1);
        let mut loads = 0;
        if std::mem::take(&mut self.loads_due) {
            for load in scripts::loads() {
                pipeline.add_command(load);
                loads += 1;
            }
        }
        if std::mem::take(&mut self.heartbeat_due) {
            let heartbeat = Heartbeat { lease: self.settings.lease };
            pipeline.add_command(heartbeat.command(&self.keys, worker, epoch));
            messages.push(Message::Heartbeat);
        }
        for message in self.due.drain(..grants) {
            if let Message::Grant { host, ask, manner } = &message {
                let grant =
                    Grant { host: host.key(), need: ask.need, limit: ask.limit, manner: *manner };
                pipeline.add_command(grant.command(&self.keys, worker, epoch));
            }
            messages.push(message);
        }
        let sent = clock::now();
        self.sent.push_back(sent);
        self.replies.push(Box::pin(async move {
            let count = loads + messages.len();
            let reply = connection.send_packed_commands(&pipeline, 0, count).await;
            Batch { sent, loads, messages, reply }
        }));
    }

    fn hear(&mut self, batch: Batch) {
        self.sent.pop_front();
        (self.calls)(clock::now() - batch.sent, batch.reply.is_ok());
        let values = match batch.reply {
            Ok(values) => values,
            Err(error) => return self.fail(&error),
        };
        for (message, value) in batch.messages.into_iter().zip(values.iter().skip(batch.loads)) {
            let trouble = match message {
                Message::Heartbeat => match Heartbeat::answer(value) {
                    Ok(answer) => {
                        self.step(Event::Renewed { sent: batch.sent, answer });
                        None
                    }
                    Err(Trouble::NoScript) => {
                        (self.loads_due, self.heartbeat_due) = (true, true);
                        None
                    }
                    Err(trouble) => Some(trouble),
                },
                Message::Grant { host, ask, manner } => match Grant::answer(value) {
                    Ok(answer) => {
                        self.answer(host, answer);
                        None
                    }
                    // The same message once more: it is idempotent.
                    Err(Trouble::NoScript) => {
                        self.loads_due = true;
                        self.due.push_front(Message::Grant { host, ask, manner });
                        None
                    }
                    Err(trouble) => Some(trouble),
                },
            };
            if let Some(trouble) = trouble {
                return self.stumble(&trouble);
            }
        }
        self.collect();
    }

    fn answer(&mut self, host: Arc<Host>, answer: scripts::Granted) {
        let basis = self.limiter.basis();
        let scripts::Granted { here: granted, total, learning } = answer;
        let (due, again) =
            host.answered(Answer { granted, total, learning: learning.is_some() }, basis);
        self.limiter.carry_out(&host, due);
        if let Some(left) = learning {
            self.step(Event::Learning(left));
        }
        let rest = match again {
            Again::No => return,
            // The end of learning asks for them all.
            Again::Waiting | Again::Debt if learning.is_some() => return,
            Again::Waiting => Duration::from_micros(fastrand::u64(20_000..60_000)),
            Again::Debt => self.settings.heartbeat,
        };
        let address = Arc::as_ptr(&host).addr();
        if self.resting.insert(address) {
            self.later.insert((clock::now() + rest, address), host);
        }
    }

    fn ask_for_all_who_wait(&mut self) {
        let mut hosts = Vec::new();
        self.limiter.each(|host| {
            if host.is_short() {
                hosts.push(Arc::clone(host));
            }
        });
        for host in hosts {
            self.plan(host);
        }
    }

    fn wake_at(&self) -> Instant {
        let timeout = self.settings.store.timeout;
        [
            self.session.wake_at(),
            self.sent.front().map(|sent| *sent + timeout),
            self.later.keys().next().map(|(at, _)| *at).filter(|_| self.session.is_serving()),
            self.leaving,
        ]
        .into_iter()
        .flatten()
        .fold(self.audit_at, Instant::min)
    }

    fn look_at_the_clock(&mut self) {
        let now = clock::now();
        let timeout = self.settings.store.timeout;
        if self.sent.front().is_some_and(|sent| *sent + timeout <= now) {
            (self.calls)(timeout, false);
            return self.fail(&io::Error::from(io::ErrorKind::TimedOut).into());
        }
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now || !self.session.is_serving() {
                break;
            }
            let ((_, address), host) = first.remove_entry();
            self.resting.remove(&address);
            self.plan(host);
        }
        if self.audit_at <= now {
            self.audit_at = now + AUDIT;
            if self.session.is_serving() {
                let due = &mut self.due;
                self.limiter.each(|host| {
                    if let Some(ask) = host.audit() {
                        let host = Arc::clone(host);
                        due.push_back(Message::Grant { host, ask, manner: Manner::Audit });
                    }
                });
            }
        }
        self.step(Event::Tick);
    }

    fn fail(&mut self, error: &RedisError) {
        self.trouble = error.to_string();
        tracing::debug!(error = self.trouble, "redis failed");
        self.step(Event::Failed { slow: error.is_timeout() });
    }

    /// Redis answered, but not with what was asked for.
    fn stumble(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Fenced => {
                tracing::warn!("redis does not know this instance's epoch: it says hello again");
                self.step(Event::Fenced);
            }
            Trouble::NoScript | Trouble::Other(_) => {
                self.trouble = trouble.to_string();
                tracing::debug!(error = self.trouble, "redis failed");
                self.step(Event::Denied);
            }
        }
    }

    /// Drops the connection and all that is under way on it. The hosts still believe that their
    /// message is; the next hello, or the notice that Redis is away, sets that right.
    fn hang_up(&mut self) {
        self.line = Line::Down;
        self.replies.clear();
        self.sent.clear();
        self.due.clear();
        self.later.clear();
        self.resting.clear();
        self.heartbeat_due = false;
        self.loads_due = false;
        if self.link.phase.load(Relaxed) == UP {
            self.link.phase.store(CONNECTING, Relaxed);
        }
    }

    /// Tells all who wait for Redis that it is away; `refuse` is whether those go too who could
    /// wait for a slot of this instance.
    fn send_away(&self, refuse: bool) {
        drop(self.link.take_listed());
        let basis = self.limiter.basis();
        self.limiter.each(|host| self.limiter.carry_out(host, host.lost(basis, refuse)));
    }

    fn warn_of_eviction(&mut self, policy: &str) {
        if !self.told.eviction && !policy.is_empty() && policy != "noeviction" {
            self.told.eviction = true;
            tracing::warn!(
                policy,
                "redis may evict the counts of connections: set maxmemory-policy noeviction"
            );
        }
    }

    fn leave(&mut self) {
        self.leaving = Some(clock::now() + 2 * self.settings.store.timeout);
        self.link.phase.store(AWAY, Relaxed);
        self.collect();
        let mut hosts = Vec::new();
        self.limiter.each(|host| hosts.push(Arc::clone(host)));
        for host in hosts {
            self.plan(host);
        }
    }

    /// Whether nothing is left to be done: all slots are back and Redis knows, or it is away, or
    /// the time for that is over.
    async fn has_left(&mut self) -> bool {
        let late = self.leaving.is_some_and(|deadline| deadline <= clock::now());
        let Line::Up(connection) = &self.line else { return true };
        let idle = self.replies.is_empty() && self.due.is_empty();
        if !late && !idle {
            return false;
        }
        let mut clean = true;
        self.limiter.each(|host| clean &= !host.is_recorded());
        let leave = Leave { clean };
        let leave = leave.command(&self.keys, self.link.worker(), self.session.epoch());
        let mut connection = connection.clone();
        let exchange = connection.send_packed_command(&leave);
        match tokio::time::timeout(self.settings.store.timeout, exchange).await {
            Ok(Ok(Value::Int(1))) => tracing::debug!(clean, "left the fleet"),
            other => tracing::warn!(?other, "redis was not told that this instance stops"),
        }
        true
    }
}

async fn answer(store: &Store, question: Question) {
    match store.fleet(&question.hosts).await {
        // Who asked may have gone.
        Ok(fleet) => drop(question.answer.send(fleet)),
        Err(error) => tracing::debug!(%error, "the fleet's numbers could not be read"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Child;
    use std::process::Command;
    use std::process::Stdio;

    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::limit::Patience;
    use crate::limit::Permit;
    use crate::limit::Reason;
    use crate::limit::Refused;

    const LEASE: Duration = Duration::from_secs(1);
    const HEARTBEAT: Duration = Duration::from_millis(200);

    /// A private Redis on a socket in a folder of its own.
    struct Redis {
        folder: TempDir,
        server: Child,
    }

    impl Redis {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let server = Self::spawn(folder.path());
            let redis = Self { folder, server };
            redis.answers().await;
            redis
        }

        fn spawn(folder: &Path) -> Child {
            let mut command = Command::new("redis-server");
            command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
            command.arg(folder.join("redis.sock")).arg("--dir").arg(folder);
            command.stdout(Stdio::null()).spawn().expect("redis-server is on the PATH")
        }

        fn url(&self) -> String {
            format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
        }

        async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
            redis::Client::open(self.url())?.get_multiplexed_async_connection().await
        }

        async fn answers(&self) {
            until(async || self.connection().await.is_ok()).await;
        }

        async fn query<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.query_async(&mut self.connection().await.unwrap()).await.unwrap()
        }

        async fn host_keys(&self) -> Vec<String> {
            let keys: Vec<String> = self.query(&["KEYS", "*"]).await;
            keys.into_iter().filter(|key| !key.contains('@')).collect()
        }

        fn kill(&mut self) {
            self.server.kill().unwrap();
            self.server.wait().unwrap();
        }

        async fn restart_empty(&mut self) {
            self.kill();
            self.server = Self::spawn(self.folder.path());
            self.answers().await;
        }
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            self.kill();
        }
    }

    /// One instance without a proxy.
    struct Instance {
        limiter: Limiter,
        link: Arc<Link>,
        stop: oneshot::Sender<()>,
        worker: JoinHandle<Result<(), RedisError>>,
    }

    impl Instance {
        fn start(redis: &Redis, limit: u32) -> Self {
            Self::failing(redis, limit, Failure::Closed)
        }

        fn failing(redis: &Redis, limit: u32, failure: Failure) -> Self {
            let link = Link::new(failure);
            let settings = crate::limit::Settings {
                default_limit: limit,
                ..crate::limit::Settings::default()
            };
            let (limiter, _ears) = Limiter::new(settings, Some(Arc::clone(&link)), 1);
            let store = crate::store::Settings::new(redis.url());
            let settings = Settings { store, lease: LEASE, heartbeat: HEARTBEAT, failure };
            let (stop, stopped) = oneshot::channel::<()>();
            let calls: Calls = Box::new(|_, _| ());
            let worker = run(limiter.clone(), Arc::clone(&link), settings, calls, async move {
                stopped.await.unwrap_or_default();
            });
            Self { limiter, link, stop, worker: tokio::spawn(worker) }
        }

        async fn up(redis: &Redis, limit: u32) -> Self {
            let instance = Self::start(redis, limit);
            instance.is("up").await;
            instance
        }

        async fn is(&self, state: &str) {
            until(async || self.link.state_name() == state).await;
        }

        async fn take(&self) -> Result<Permit, Refused> {
            self.limiter.acquire(&key(), Patience::None).await
        }

        async fn wait(&self) -> Result<Permit, Refused> {
            let deadline = clock::now() + Duration::from_secs(10);
            self.limiter.acquire(&key(), Patience::Until(deadline)).await
        }

        async fn total(&self) -> u32 {
            self.limiter.fleet(&key()).await.map_or(u32::MAX, |fleet| fleet.total)
        }

        async fn stop(self) {
            self.stop.send(()).unwrap();
            self.worker.await.unwrap().unwrap();
        }

        /// As SIGKILL: nothing is said any more.
        fn die(self) {
            self.worker.abort();
        }
    }

    fn key() -> HostKey {
        HostKey::parse("a.test:8443").unwrap()
    }

    async fn until(mut holds: impl AsyncFnMut() -> bool) {
        let deadline = clock::now() + Duration::from_secs(10);
        while !holds().await {
            assert!(clock::now() < deadline, "it never came to hold");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn two_instances_share_one_limit_and_leave_nothing_behind() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 3).await, Instance::up(&redis, 3).await);
        let one = a.take().await.unwrap();
        let two = b.take().await.unwrap();
        let three = b.take().await.unwrap();
        let no = a.take().await.unwrap_err();
        assert_eq!((no.reason, no.in_use, no.limit), (Reason::Full, 3, 3));
        let fleet = a.limiter.fleet(&key()).await.unwrap();
        assert_eq!((fleet.total, fleet.holders[b.link.worker()]), (3, 2));
        until(async || a.link.instances() == 2).await;
        drop((one, two, three));
        until(async || redis.host_keys().await.is_empty()).await;
        a.take().await.unwrap();
        a.stop().await;
        b.stop().await;
        assert_eq!(redis.host_keys().await, [""; 0]);
        let workers: Vec<String> = redis.query(&["HKEYS", "proxy_rate_limiter:{0}:@w"]).await;
        assert!(workers.iter().all(|id| id.starts_with('#')), "{workers:?}");
    }

    #[tokio::test]
    async fn the_fleet_never_holds_more_than_the_limit_under_many_requests() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 3).await, Instance::up(&redis, 3).await);
        let live = Arc::new(AtomicU32::new(0));
        let mut tasks = Vec::new();
        for number in 0_u64..400 {
            let limiter = if number % 2 == 0 { &a.limiter } else { &b.limiter }.clone();
            let live = Arc::clone(&live);
            tasks.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..200_000))).await;
                let patience = if number % 4 < 2 {
                    Patience::None
                } else {
                    Patience::Until(clock::now() + Duration::from_millis(fastrand::u64(..100)))
                };
                let Ok(permit) = limiter.acquire(&key(), patience).await else { return 0 };
                assert!(live.fetch_add(1, Relaxed) < 3, "over the limit");
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..5_000))).await;
                live.fetch_sub(1, Relaxed);
                drop(permit);
                1
            }));
        }
        let mut served = 0;
        for task in tasks {
            served += task.await.unwrap();
        }
        assert!(served > 20, "{served} of 400 were served");
        until(async || redis.host_keys().await.is_empty()).await;
        assert_eq!(a.limiter.open_here(&key()) + b.limiter.open_here(&key()), 0);
    }

    #[tokio::test]
    async fn a_waiter_gets_the_slot_that_another_instance_gives_back() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 1).await, Instance::up(&redis, 1).await);
        let held = a.take().await.unwrap();
        let waiting = b.wait();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err());
        drop(held);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_connection_heals_and_keeps_what_was_open() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 2).await, Instance::up(&redis, 2).await);
        let one = a.take().await.unwrap();
        let _two = b.take().await.unwrap();
        for _ in 0..5 {
            let _: i64 = redis.query(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            // Asked while there is no connection: answered by the next one.
            assert_eq!(a.take().await.unwrap_err().reason, Reason::Full);
        }
        drop(one);
        until(async || b.total().await == 1).await;
        b.take().await.unwrap();
    }

    #[tokio::test]
    async fn lost_scripts_are_loaded_again() {
        let redis = Redis::start().await;
        let a = Instance::up(&redis, 1).await;
        let _: String = redis.query(&["SCRIPT", "FLUSH"]).await;
        let held = a.take().await.unwrap();
        let _: String = redis.query(&["SCRIPT", "FLUSH"]).await;
        drop(held);
        until(async || redis.host_keys().await.is_empty()).await;
        assert_eq!(a.session_count(&redis).await, 1, "no new connection was needed");
    }

    impl Instance {
        async fn session_count(&self, redis: &Redis) -> u64 {
            let workers = "proxy_rate_limiter:{0}:@w";
            redis.query(&["HGET", workers, self.link.worker()]).await
        }
    }

    #[tokio::test]
    async fn an_instance_that_vanished_loses_its_slots_within_lease_and_heartbeat() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 1).await, Instance::up(&redis, 1).await);
        let held = a.take().await.unwrap();
        assert_eq!(b.take().await.unwrap_err().reason, Reason::Full);
        let died = clock::now();
        a.die();
        let slot = b.wait().await.unwrap();
        let took = clock::now() - died;
        assert!(took <= LEASE + HEARTBEAT + Duration::from_millis(200), "{took:?}");
        assert!(took + HEARTBEAT >= LEASE, "{took:?}");
        assert_eq!(b.total().await, 1);
        drop((held, slot));
        until(async || redis.host_keys().await.is_empty()).await;
    }

    #[tokio::test]
    async fn a_living_lease_keeps_an_idle_connection_counted() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 1).await, Instance::up(&redis, 1).await);
        let _held = a.take().await.unwrap();
        tokio::time::sleep(2 * LEASE).await;
        assert_eq!(b.take().await.unwrap_err().reason, Reason::Full);
    }

    #[tokio::test]
    async fn after_a_restart_without_data_nothing_new_is_granted_until_all_have_come_back() {
        let mut redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 2).await, Instance::up(&redis, 2).await);
        let _one = a.take().await.unwrap();
        let two = b.take().await.unwrap();
        redis.restart_empty().await;
        a.is("learning").await;
        // It waits for the end of learning instead of being refused, and then finds no room.
        assert_eq!(a.take().await.unwrap_err().reason, Reason::Full);
        a.is("up").await;
        b.is("up").await;
        assert_eq!(a.total().await, 2);
        drop(two);
        until(async || a.total().await == 1).await;
        a.take().await.unwrap();
    }

    #[tokio::test]
    async fn a_flush_is_healed_in_the_same_way() {
        let redis = Redis::start().await;
        let (a, b) = (Instance::up(&redis, 2).await, Instance::up(&redis, 2).await);
        let _held = (a.take().await.unwrap(), b.take().await.unwrap());
        let _: String = redis.query(&["FLUSHALL"]).await;
        assert_eq!(b.take().await.unwrap_err().reason, Reason::Full);
        until(async || a.total().await == 2).await;
    }

    #[tokio::test]
    async fn without_redis_a_request_is_refused_within_250_ms_and_served_again_by_itself() {
        let mut redis = Redis::start().await;
        let a = Instance::up(&redis, 5).await;
        let held = a.take().await.unwrap();
        redis.kill();
        for _ in 0..3 {
            let asked = clock::now();
            assert_eq!(a.take().await.unwrap_err().reason, Reason::Away);
            assert!(clock::now() - asked < Duration::from_millis(250));
        }
        assert_eq!(a.link.state_name(), "away");
        assert_eq!(a.limiter.fleet(&key()).await, None);
        redis.restart_empty().await;
        a.is("up").await;
        a.take().await.unwrap();
        drop(held);
        until(async || redis.host_keys().await.is_empty()).await;
    }

    #[tokio::test]
    async fn a_redis_that_does_not_answer_is_away_after_the_time_out() {
        let redis = Redis::start().await;
        let a = Instance::up(&redis, 5).await;
        let pid = rustix::process::Pid::from_child(&redis.server);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let asked = clock::now();
        let (quick, queued) = tokio::join!(a.take(), a.wait());
        assert_eq!(quick.unwrap_err().reason, Reason::Away);
        assert_eq!(queued.unwrap_err().reason, Reason::Away);
        assert!(clock::now() - asked < Duration::from_millis(350));
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        a.is("up").await;
        a.take().await.unwrap();
    }

    #[tokio::test]
    async fn the_other_policies_let_requests_pass_while_redis_is_away() {
        let mut redis = Redis::start().await;
        let share = Instance::failing(&redis, 4, Failure::Share);
        let open = Instance::failing(&redis, 4, Failure::Open);
        share.is("up").await;
        open.is("up").await;
        until(async || share.link.instances() == 2).await;
        redis.kill();
        share.is("away").await;
        open.is("away").await;
        let half = [share.take().await, share.take().await];
        assert!(half.iter().all(Result::is_ok));
        assert!(share.take().await.is_err(), "its share of four is two");
        let mut all = Vec::new();
        for _ in 0..6 {
            all.push(open.take().await.unwrap());
        }
        redis.restart_empty().await;
        share.is("up").await;
        open.is("up").await;
        // What was opened meanwhile is on the books as far as it fits; nothing new fits.
        assert_eq!(share.take().await.unwrap_err().reason, Reason::Full);
        drop((half, all));
        until(async || redis.host_keys().await.is_empty()).await;
        share.take().await.unwrap();
    }

    #[tokio::test]
    async fn an_unlimited_host_is_counted_and_never_refused() {
        let redis = Redis::start().await;
        let a = Instance::up(&redis, 0).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(a.take().await.unwrap());
        }
        let host = format!("proxy_rate_limiter:{{0}}:{}", key());
        until(async || redis.query::<Option<u32>>(&["HGET", &host, "#t"]).await == Some(50)).await;
        assert_eq!(a.total().await, 50);
        drop(held);
        until(async || redis.host_keys().await.is_empty()).await;
    }

    #[tokio::test]
    async fn requests_before_the_first_answer_wait_for_it() {
        let redis = Redis::start().await;
        tokio::time::sleep(LEASE).await;
        let a = Instance::start(&redis, 1);
        assert_eq!(a.link.state_name(), "connecting");
        a.take().await.unwrap();
        let mut redis = redis;
        redis.kill();
        let b = Instance::start(&redis, 1);
        let asked = clock::now();
        assert_eq!(b.take().await.unwrap_err().reason, Reason::Away);
        assert!(clock::now() - asked < Duration::from_millis(250));
    }

    #[tokio::test]
    async fn no_accident_of_redis_lets_the_fleet_past_the_limit() {
        const LIMIT: u32 = 5;
        let mut redis = Redis::start().await;
        let mut fleet = Vec::new();
        for _ in 0..3 {
            fleet.push(Instance::up(&redis, LIMIT).await);
        }
        let (live, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut tasks = Vec::new();
        let end = clock::now() + Duration::from_secs(6);
        for number in 0..18 {
            let limiter = fleet[number % 3].limiter.clone();
            let (live, most) = (Arc::clone(&live), Arc::clone(&most));
            tasks.push(tokio::spawn(async move {
                let mut served = 0;
                while clock::now() < end {
                    let patience = if number % 2 == 0 {
                        Patience::None
                    } else {
                        Patience::Until(clock::now() + Duration::from_millis(fastrand::u64(..300)))
                    };
                    if let Ok(permit) = limiter.acquire(&key(), patience).await {
                        most.fetch_max(live.fetch_add(1, Relaxed) + 1, Relaxed);
                        tokio::time::sleep(Duration::from_millis(fastrand::u64(..40))).await;
                        live.fetch_sub(1, Relaxed);
                        drop(permit);
                        served += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await;
                }
                served
            }));
        }
        for round in 0..10 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            match round {
                3 => redis.query::<()>(&["FLUSHALL"]).await,
                5 => redis.query::<()>(&["SCRIPT", "FLUSH"]).await,
                7 => redis.restart_empty().await,
                _ => drop(redis.query::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]).await),
            }
        }
        let mut served = 0;
        for task in tasks {
            served += task.await.unwrap();
        }
        assert_eq!(most.load(Relaxed), LIMIT);
        assert!(served > 100, "{served} were served");
        until(async || redis.host_keys().await.is_empty()).await;
    }
}
