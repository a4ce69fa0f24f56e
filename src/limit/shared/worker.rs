//! One shard's side of the conversation with Redis: what carries [`crate::limit::protocol`] out.
//!
//! On one ordered connection, everything that is due about all hosts in one write, at most
//! [`BATCHES`] writes unanswered; hints come back on the same connection.
//!
//! Invariants: at most one message per host is unanswered. A connection that failed in any way is
//! dropped, never repaired. Nobody waits for a Redis that does not answer: within
//! [`crate::store::Settings::timeout`] and 50 ms they are told.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::Pipeline;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Calls;
use super::Failure;
use super::Link;
use super::Settings;
use super::desk::AWAY;
use super::desk::CONNECTING;
use super::desk::Desk;
use super::desk::UP;
use crate::base::clock;
use crate::base::clock::Alarm;
use crate::limit::Limiter;
use crate::limit::host::Again;
use crate::limit::host::Host;
use crate::limit::protocol::Act;
use crate::limit::protocol::Event;
use crate::limit::protocol::Session;
use crate::store::keys::Keys;
use crate::store::route::Push;
use crate::store::route::Route;
use crate::store::route::Wire;
use crate::store::scripts;
use crate::store::scripts::Claim;
use crate::store::scripts::Grant;
use crate::store::scripts::Heartbeat;
use crate::store::scripts::Hello;
use crate::store::scripts::Hint;
use crate::store::scripts::Leave;
use crate::store::scripts::Manner;
use crate::store::scripts::Trouble;

/// Writes to Redis that may be unanswered at once. PERF: what becomes due meanwhile goes out in
/// one write, so that under load the messages of one host melt into one.
const BATCHES: usize = 2;
/// Messages in one write.
const BATCH: usize = 512;
/// How often Redis hears of each held host although nothing happens there; its keys live a day.
const AUDIT: Duration = Duration::from_hours(1);
/// After how long, at most, a waiter asks again although it has a place in the queue: the hint
/// that a slot came may be lost. A quarter of it is random.
const POLL: Duration = Duration::from_millis(900);
/// How often unused slots are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How soon those are looked at who wait for a moment.
const MOMENT: Duration = Duration::from_millis(50);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The connection, as far as it has come.
enum Line {
    Connecting(Boxed<Result<Wire, RedisError>>),
    Down,
    Greeting { wire: Wire, reply: Boxed<Reply> },
    Up(Wire),
}

type Reply = Result<Vec<Value>, RedisError>;

/// A line's next step.
enum Reached {
    Connection(Result<Wire, RedisError>),
    Greeting(Reply),
    Hint(Push),
    /// The connection has ended.
    End,
}

impl Line {
    async fn next(&mut self) -> Reached {
        match self {
            Self::Connecting(connecting) => Reached::Connection(connecting.await),
            Self::Greeting { reply, .. } => Reached::Greeting(reply.await),
            Self::Up(wire) => match wire.pushes.recv().await {
                Some(push) => Reached::Hint(push),
                None => Reached::End,
            },
            Self::Down => std::future::pending().await,
        }
    }
}

/// One message to Redis.
enum Message {
    Grant { host: Arc<Host>, claim: Claim, manner: Manner, number: u64 },
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
    generation: Option<u64>,
    learning: bool,
    up: bool,
}

/// Who speaks to Redis about the hosts of one shard.
pub(crate) struct Worker {
    shard: u16,
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
    /// The number of the last message.
    number: u64,
    loads_due: bool,
    /// Until when nothing is sent: a part of the cluster is moving.
    held_until: Option<Instant>,
    /// Hosts to be looked at again, and when.
    later: BTreeMap<(Instant, u64), Arc<Host>>,
    /// When those are due that are in `later`, by number.
    resting: HashMap<u64, Instant>,
    audit_at: Instant,
    told: Told,
    /// What went wrong last.
    trouble: String,
    /// The lease whose end was made known.
    lost: Option<Instant>,
    /// Set by a stop: until when all slots must be back.
    leaving: Option<Instant>,
}

/// However the worker ends, nobody is left waiting for it.
impl Drop for Worker {
    fn drop(&mut self) {
        self.desk().phase.store(AWAY, Relaxed);
        self.send_away(true);
    }
}

impl Worker {
    pub(crate) fn new(
        shard: u16,
        limiter: Limiter,
        link: Arc<Link>,
        settings: Settings,
        calls: Calls,
        route: Route,
    ) -> Self {
        Self {
            shard,
            session: Session::new(settings.timing(), clock::now(), fastrand::u64(..)),
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
            number: 0,
            loads_due: false,
            held_until: None,
            later: BTreeMap::new(),
            resting: HashMap::new(),
            audit_at: clock::now() + AUDIT,
            told: Told::default(),
            trouble: String::new(),
            lost: None,
            leaving: None,
        }
    }

    fn desk(&self) -> &Desk {
        self.link.desk(self.shard)
    }

    /// Works until it is told to stop, and has left the fleet then.
    pub(crate) async fn work(mut self, mut stop: watch::Receiver<bool>) {
        let link = Arc::clone(&self.link);
        let desk = link.desk(self.shard);
        let mut alarm = Alarm::new();
        self.step(Event::Tick);
        loop {
            self.send();
            if self.leaving.is_some() && self.has_left().await {
                return;
            }
            let wake_at = self.wake_at();
            let may_send = self.replies.len() < BATCHES;
            // In the order in which things matter: answers, of which few can come at once, before
            // the clock says that they did not; and the clock before what others may flood us with.
            tokio::select! {
                biased;
                // Its sender gone is as good as told.
                _ = stop.wait_for(|stop| *stop), if self.leaving.is_none() => self.leave(),
                Some(batch) = self.replies.next(), if !self.replies.is_empty() => self.hear(batch),
                () = std::future::poll_fn(|cx| alarm.poll(cx, wake_at)) => self.look_at_the_clock(),
                reached = self.line.next() => self.reach(reached),
                () = desk.wake.notified(), if may_send => self.collect(),
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
                        tracing::warn!(error, ?policy, shard = self.shard, "redis is away");
                    }
                    self.desk().phase.store(AWAY, Relaxed);
                    self.send_away(self.settings.failure == Failure::Closed);
                }
                Act::Connect => {
                    let (route, shard) = (self.route.clone(), self.shard);
                    let timeout = self.settings.store.timeout;
                    self.line = Line::Connecting(Box::pin(async move {
                        match tokio::time::timeout(timeout, route.connect(shard)).await {
                            Ok(connected) => connected,
                            Err(elapsed) => Err(io::Error::from(elapsed).into()),
                        }
                    }));
                }
                Act::Drop => self.hang_up(),
                Act::Heartbeat => self.due.push_front(Message::Heartbeat),
                Act::Hello(hello) => self.greet(hello),
                Act::Serve { force } => self.serve(force),
            }
        }
    }

    /// Tells the threads that admit, and the log.
    fn publish(&mut self) {
        let desk = self.link.desk(self.shard);
        desk.write(&desk.leased_until, self.session.leased_until());
        desk.write(&desk.learning_until, self.session.learning_until());
        desk.instances.store(self.session.instances(), Relaxed);
        desk.epoch.store(self.session.epoch(), Relaxed);
        let generation = self.session.generation();
        desk.generation.store(generation.unwrap_or(0), Relaxed);
        if let (Some(now), Some(before)) = (generation, self.told.generation)
            && now != before
        {
            let (instances, shard) = (self.session.instances(), self.shard);
            tracing::info!(
                generation = now,
                instances,
                shard,
                "a new term: an instance is gone, or a loss of data is learnt"
            );
        }
        self.told.generation = generation;
        let learning = self.session.learning_until();
        let shard = self.shard;
        if let (Some(until), false) = (learning, self.told.learning) {
            let seconds = (until - clock::now()).as_secs_f32();
            tracing::warn!(seconds, shard, "redis is new or lost data: new connections wait");
        } else if self.told.learning && learning.is_none() && self.session.is_serving() {
            tracing::info!(shard, "redis has learnt: new connections are served");
        }
        self.told.learning =
            learning.is_some() || (self.told.learning && !self.session.is_serving());
    }

    fn greet(&mut self, hello: Hello) {
        let Line::Up(wire) = std::mem::replace(&mut self.line, Line::Down) else { return };
        let mut pipeline = Pipeline::with_capacity(6);
        let mut count = 0;
        for load in scripts::loads() {
            pipeline.add_command(load);
            count += 1;
        }
        let mut subscribe = redis::cmd(self.keys.subscribe());
        subscribe.arg(self.keys.channel(self.shard, self.link.worker()));
        pipeline.add_command(subscribe);
        pipeline.add_command(hello.command(&self.keys, self.shard, self.link.worker()));
        count += 2;
        let mut sender = wire.connection.clone();
        let timeout = self.settings.store.timeout;
        let (calls, sent) = (Arc::clone(&self.calls), clock::now());
        let reply = Box::pin(async move {
            let exchange = sender.send_packed_commands(&pipeline, 0, count);
            let reply = match tokio::time::timeout(timeout, exchange).await {
                Ok(reply) => reply,
                Err(elapsed) => Err(io::Error::from(elapsed).into()),
            };
            calls(clock::now() - sent, reply.is_ok());
            reply
        });
        self.line = Line::Greeting { wire, reply };
    }

    fn reach(&mut self, reached: Reached) {
        match reached {
            Reached::Connection(Ok(wire)) => {
                self.line = Line::Up(wire);
                self.step(Event::Connected);
            }
            Reached::Connection(Err(error)) | Reached::Greeting(Err(error)) => self.fail(&error),
            Reached::Greeting(Ok(values)) => {
                // A subscription that is refused costs hints, not safety.
                let answer = Hello::answer(values.last().unwrap_or(&Value::Nil));
                match answer {
                    Ok(answer) => {
                        let line = std::mem::replace(&mut self.line, Line::Down);
                        if let Line::Greeting { wire, .. } = line {
                            self.line = Line::Up(wire);
                        }
                        self.warn_of_eviction(&answer.eviction);
                        self.step(Event::Greeted { answer });
                    }
                    Err(trouble) => self.stumble(&trouble),
                }
            }
            Reached::Hint(push) => self.take_hint(&push),
            Reached::End => self.fail(&io::Error::from(io::ErrorKind::ConnectionReset).into()),
        }
    }

    fn take_hint(&mut self, push: &Push) {
        let desk = self.link.desk(self.shard);
        let Some(hint) = Hint::read(&self.keys, &push.payload) else { return };
        let (key, counter) = match &hint {
            Hint::Granted(key) => (key, &desk.hints),
            Hint::Recall(key, _) => (key, &desk.recalls),
        };
        counter.fetch_add(1, Relaxed);
        let Some(host) = self.limiter.find(key) else { return };
        let due = match hint {
            Hint::Granted(_) => host.served(),
            Hint::Recall(_, wanted) => host.recalled(wanted),
        };
        self.limiter.carry_out(&host, due);
        self.collect();
    }

    /// Each host is asserted anew: Redis may know something else by now, or nothing. Then comes a
    /// heartbeat, whose answer says that all that has run; then those are asked for who wait.
    fn serve(&mut self, force: bool) {
        self.desk().phase.store(UP, Relaxed);
        if !self.told.up || self.told.away {
            let (worker, instances) = (self.link.worker(), self.session.instances());
            tracing::info!(worker, instances, shard = self.shard, "redis is up");
            self.told.up = true;
            self.told.away = false;
        }
        // What was listed on the old connection is part of what follows.
        drop(self.desk().take_listed());
        let manner = if force { Manner::Force } else { Manner::Admit };
        let mut others = Vec::new();
        for host in self.limiter.hosts_of(self.shard) {
            match host.reassert(force) {
                Some(claim) => self.put(host, claim, manner),
                None => others.push(host),
            }
        }
        self.due.push_back(Message::Heartbeat);
        for host in others {
            self.plan(host);
        }
    }

    /// Plans what the listed hosts need; while Redis is away, tells those who wait there.
    fn collect(&mut self) {
        let phase = self.desk().phase();
        if self.session.is_serving() {
            for host in self.desk().take_listed() {
                self.plan(host);
            }
        } else if phase == AWAY {
            // They asked in the instant in which it went.
            let refuse = self.settings.failure == Failure::Closed;
            for host in self.desk().take_listed() {
                self.limiter.carry_out(&host, host.lost(self.limiter.basis(&host), refuse));
            }
        }
    }

    fn plan(&mut self, host: Arc<Host>) {
        if let Some(claim) = host.plan() {
            self.put(host, claim, Manner::Ask);
        }
    }

    fn put(&mut self, host: Arc<Host>, claim: Claim, manner: Manner) {
        self.number += 1;
        self.due.push_back(Message::Grant { host, claim, manner, number: self.number });
    }

    /// Writes what is due, if the connection is up and has room.
    fn send(&mut self) {
        let Line::Up(wire) = &self.line else { return };
        let is_full = self.replies.len() >= BATCHES || self.held_until.is_some();
        if !self.session.is_serving() || is_full || self.due.is_empty() {
            return;
        }
        let mut connection: MultiplexedConnection = wire.connection.clone();
        let (worker, epoch) = (self.link.worker(), self.session.epoch());
        let messages: Vec<Message> = self.due.drain(..self.due.len().min(BATCH)).collect();
        let mut pipeline = Pipeline::with_capacity(messages.len());
        let mut loads = 0;
        if std::mem::take(&mut self.loads_due) {
            for load in scripts::loads() {
                pipeline.add_command(load);
                loads += 1;
            }
        }
        for message in &messages {
            pipeline.add_command(match message {
                Message::Heartbeat => {
                    let heartbeat = Heartbeat { lease: self.settings.lease };
                    heartbeat.command(&self.keys, self.shard, worker, epoch)
                }
                Message::Grant { host, claim, manner, number } => {
                    let (host, number) = (host.key(), *number);
                    let grant = Grant { host, number, claim: *claim, manner: *manner };
                    grant.command(&self.keys, worker, epoch)
                }
            });
        }
        let count = u64::try_from(messages.len()).unwrap_or(0);
        self.link.desk(self.shard).messages.fetch_add(count, Relaxed);
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
        let mut again = Vec::new();
        for (message, value) in batch.messages.into_iter().zip(values.iter().skip(batch.loads)) {
            let heard = match &message {
                // What was to run before it has not: its answer vouches for too much.
                Message::Heartbeat if !again.is_empty() => {
                    again.push(message);
                    continue;
                }
                Message::Heartbeat => Heartbeat::answer(value).map(|answer| {
                    self.step(Event::Renewed { sent: batch.sent, answer });
                }),
                Message::Grant { host, .. } => {
                    Grant::answer(value).map(|answer| self.answer(host, answer))
                }
            };
            match heard {
                Ok(()) => {}
                // The same message once more: it has not run, and would do no harm if it had.
                Err(Trouble::NoScript) => {
                    self.loads_due = true;
                    again.push(message);
                }
                Err(Trouble::Moving) => {
                    let rest = Duration::from_micros(fastrand::u64(20_000..60_000));
                    self.held_until = Some(clock::now() + rest);
                    again.push(message);
                }
                Err(trouble) => return self.stumble(&trouble),
            }
        }
        for message in again.into_iter().rev() {
            self.due.push_front(message);
        }
        self.collect();
    }

    fn answer(&mut self, host: &Arc<Host>, answer: scripts::Granted) {
        let basis = self.limiter.basis(host);
        let (due, again) = host.answered(answer, basis);
        let is_asked = due.speak;
        self.limiter.carry_out(host, due);
        let learning = answer.short.and_then(|short| short.learning);
        if let Some(left) = learning {
            self.step(Event::Learning(left));
        }
        // The end of learning asks for them all; and so does the message that follows.
        let is_cared_for = is_asked || learning.is_some();
        if !(is_cared_for && matches!(again, Again::Debt | Again::Waiting)) {
            self.rest(host, again);
        }
    }

    /// Looks at a host again in its time.
    fn rest(&mut self, host: &Arc<Host>, again: Again) {
        let rest = match again {
            Again::No => return,
            Again::Brief => MOMENT,
            Again::Debt => self.settings.heartbeat,
            Again::Spare => LOOK,
            Again::Waiting => POLL.mul_f64(1.0 - 0.25 * fastrand::f64()),
        };
        let (at, number) = (clock::now() + rest, host.number);
        if let Some(known) = self.resting.get(&number) {
            if *known <= at {
                return;
            }
            self.later.remove(&(*known, number));
        }
        self.resting.insert(number, at);
        self.later.insert((at, number), Arc::clone(host));
    }

    fn ask_for_all_who_wait(&mut self) {
        for host in self.limiter.hosts_of(self.shard) {
            self.limiter.carry_out(&host, host.poll());
        }
        self.collect();
    }

    fn wake_at(&self) -> Instant {
        let timeout = self.settings.store.timeout;
        [
            self.session.wake_at(),
            self.sent.front().map(|sent| *sent + timeout),
            self.later.keys().next().map(|(at, _)| *at).filter(|_| self.session.is_serving()),
            self.held_until,
            self.session.leased_until().filter(|until| self.lost != Some(*until)),
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
        self.held_until = self.held_until.filter(|until| *until > now);
        if let Some(until) = self.session.leased_until()
            && until <= now
            && self.lost != Some(until)
        {
            self.lost = Some(until);
            self.link.lose();
        }
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now || !self.session.is_serving() {
                break;
            }
            let ((_, number), host) = first.remove_entry();
            self.resting.remove(&number);
            let (due, again) = host.look();
            let is_asked = due.speak;
            self.limiter.carry_out(&host, due);
            if !is_asked {
                self.rest(&host, again);
            }
        }
        if self.audit_at <= now {
            self.audit_at = now + AUDIT;
            if self.session.is_serving() {
                for host in self.limiter.hosts_of(self.shard) {
                    if let Some(claim) = host.audit() {
                        self.put(host, claim, Manner::Audit);
                    }
                }
            }
        }
        self.step(Event::Tick);
        self.collect();
    }

    fn fail(&mut self, error: &RedisError) {
        self.trouble = error.to_string();
        tracing::debug!(error = self.trouble, shard = self.shard, "redis failed");
        self.step(Event::Failed { slow: error.is_timeout() });
    }

    /// Redis answered, but not with what was asked for.
    fn stumble(&mut self, trouble: &Trouble) {
        let shard = self.shard;
        match trouble {
            Trouble::Fenced => {
                tracing::warn!(shard, "redis does not know this instance's epoch: hello again");
                self.step(Event::Fenced);
            }
            Trouble::Moved => {
                tracing::info!(shard, "another node has this shard now");
                self.route.moved();
                self.step(Event::Failed { slow: false });
            }
            Trouble::Moving | Trouble::NoScript | Trouble::Other(_) => {
                self.trouble = trouble.to_string();
                tracing::debug!(error = self.trouble, shard, "redis failed");
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
        self.loads_due = false;
        self.held_until = None;
        let desk = self.desk();
        if desk.phase() == UP {
            desk.phase.store(CONNECTING, Relaxed);
        }
    }

    /// Tells all who wait for Redis that it is away; `refuse` is whether those go too who could
    /// wait for a slot of this instance.
    fn send_away(&self, refuse: bool) {
        drop(self.desk().take_listed());
        for host in self.limiter.hosts_of(self.shard) {
            self.limiter.carry_out(&host, host.lost(self.limiter.basis(&host), refuse));
        }
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
        self.desk().phase.store(AWAY, Relaxed);
        self.collect();
        for host in self.limiter.hosts_of(self.shard) {
            host.retire();
            self.plan(host);
        }
    }

    /// Whether nothing is left to be done: all slots are back and Redis knows, or it is away, or
    /// the time for that is over.
    async fn has_left(&mut self) -> bool {
        let late = self.leaving.is_some_and(|deadline| deadline <= clock::now());
        let Line::Up(wire) = &self.line else { return true };
        let idle = self.replies.is_empty() && self.due.is_empty();
        if !late && !idle {
            return false;
        }
        let clean = !self.limiter.hosts_of(self.shard).iter().any(|host| host.is_recorded());
        let leave = Leave { clean };
        let leave = leave.command(&self.keys, self.shard, self.link.worker(), self.session.epoch());
        let mut connection = wire.connection.clone();
        let exchange = connection.send_packed_command(&leave);
        match tokio::time::timeout(self.settings.store.timeout, exchange).await {
            Ok(Ok(Value::Int(1))) => tracing::debug!(clean, "left the fleet"),
            other => tracing::warn!(?other, "redis was not told that this instance stops"),
        }
        true
    }
}
