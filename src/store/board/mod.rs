//! What instances tell each other about APIs: scripts that change a few words in Redis, and a
//! channel on which all hear of it.
//!
//! A [`Board`] is the way there from every thread: [`Board::ask`] waits for the words of a script,
//! [`Board::tell`] for nothing. One task on the control thread ([`Board::run`]) has one connection
//! and writes all that is due at once. It is also the breaker on Redis itself: an answer that does
//! not come in time, or a connection that ends, sends everybody away who waits, and all who come
//! until Redis has answered again in the background. So a Redis that hangs costs a request one
//! time-out at most, and none of those that come later.
//!
//! What a script is given, whichever it is:
//!
//! | | |
//! |---|---|
//! | `KEYS[1]` | the key of this topic: `prefix:{0}:@p:<topic>:<key>` |
//! | `KEYS[2]` | what the topic has in common: `prefix:{0}:@p:<topic>` |
//! | `ARGV[1]`, `ARGV[2]` | the channel, and the command that publishes there |
//! | `ARGV[3]` | the beginning of each message: topic, line feed, key, line feed |
//! | `ARGV[4]` and on | the words of the caller |
//!
//! A message is `ARGV[3]` and words with a line feed between them; who listens to the topic hears
//! them. Invariants: scripts run in the order in which they were sent, but for one that Redis had to
//! be given first. Nobody waits longer than [`Settings::timeout`]. What is asked is not repeated
//! when a connection breaks: whether it ran is not known then.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::Cmd;
use redis::Pipeline;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Settings;
use super::keys::Keys;
use super::keys::POLICIES;
use super::route::Route;
use super::route::Wire;
use super::scripts;
use super::scripts::Trouble;
use crate::base::clock;
use crate::base::clock::Alarm;

pub(crate) use super::scripts::Script;

/// What may wait to be sent. PERF: some 40 ms of a Redis under load, which is less than anybody
/// would wait for the answer.
const QUEUE: usize = 4096;
/// Writes that may be unanswered at once; what becomes due meanwhile goes out in one.
const BATCHES: usize = 4;
/// Scripts in one write.
const BATCH: usize = 256;
/// After how long Redis is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Redis is not there, or does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("redis is away")]
pub(crate) struct Away;

/// The way to the board. Cheap to clone; used on every thread.
#[derive(Clone, Default)]
pub(crate) struct Board {
    shared: Option<Arc<Shared>>,
}

/// Who hears what instances say about a topic, its own instance's words too.
pub(crate) trait Listener: fmt::Debug + Send + Sync {
    /// Somebody said this of a key. Called on the control thread; must be quick.
    fn heard(&self, key: &str, words: &[&str]);

    /// Redis is there, for the first time or again: what was said meanwhile was not heard. Called
    /// on the control thread, within its runtime: what takes time can be spawned.
    fn back(&self) {}
}

/// How the board is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Whether Redis answers.
    pub is_up: bool,
    /// Scripts that ran.
    pub answered: u64,
    /// What was not sent, or asked and not answered, since Redis was away.
    pub away: u64,
    /// What was not sent since too much was waiting.
    pub dropped: u64,
    /// Connections to Redis there have been.
    pub connects: u64,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("is_shared", &self.is_shared()).finish_non_exhaustive()
    }
}

/// What the threads that ask and the one that speaks to Redis have in common.
struct Shared {
    keys: Keys,
    timeout: Duration,
    instances: Box<dyn Fn() -> u32 + Send + Sync>,
    /// Which connection it is that answers; 0 while none does.
    up: AtomicU64,
    jobs: mpsc::Sender<Job>,
    ear: Mutex<Option<mpsc::Receiver<Job>>>,
    listeners: Mutex<Vec<Ear>>,
    /// There is a new listener, or somebody found that Redis does not answer.
    wake: Notify,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    away: AtomicU64,
    dropped: AtomicU64,
    connects: AtomicU64,
}

struct Ear {
    topic: &'static str,
    listener: Weak<dyn Listener>,
    /// The connection that it was told of.
    told: u64,
}

/// One call of a script.
struct Job {
    script: &'static Script,
    call: Cmd,
    answer: Option<oneshot::Sender<Vec<String>>>,
}

impl Board {
    /// The board of an instance that is alone.
    pub(crate) fn alone() -> Self {
        Self::default()
    }

    /// The board in this Redis. `instances` tells how many share it. Until it is [run](Board::run)
    /// Redis is away.
    pub(crate) fn new(
        settings: &Settings,
        instances: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        let (jobs, ear) = mpsc::channel(QUEUE);
        Self {
            shared: Some(Arc::new(Shared {
                keys: Keys::new(&settings.prefix, settings.shards()),
                timeout: settings.timeout,
                instances: Box::new(instances),
                up: AtomicU64::new(0),
                jobs,
                ear: Mutex::new(Some(ear)),
                listeners: Mutex::default(),
                wake: Notify::new(),
                counts: Counts::default(),
            })),
        }
    }

    /// Whether there are, or could be, other instances.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// How many instances there are, as far as it is known; at least this one.
    pub(crate) fn instances(&self) -> u32 {
        self.shared.as_ref().map_or(1, |shared| (shared.instances)().max(1))
    }

    /// What all instances that share it have in common, and others have not.
    pub(crate) fn prefix(&self) -> &str {
        self.shared.as_ref().map_or("", |shared| shared.keys.prefix())
    }

    /// Whether Redis answers, as far as it is known. What is asked while it does not is turned away.
    pub(crate) fn is_up(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.up.load(Relaxed) != 0)
    }

    /// How long an answer is waited for.
    pub(crate) fn patience(&self) -> Duration {
        self.shared.as_ref().map_or(Duration::ZERO, |shared| shared.timeout)
    }

    /// How it is doing; none for one that is alone.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let shared = self.shared.as_ref()?;
        let counts = &shared.counts;
        Some(Snapshot {
            is_up: shared.up.load(Relaxed) != 0,
            answered: counts.answered.load(Relaxed),
            away: counts.away.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            connects: counts.connects.load(Relaxed),
        })
    }

    /// Runs a script on the key of this topic, and waits for its words: no longer than a call to
    /// Redis may take, and not at all while Redis is known to be away. Who drops it does not know
    /// whether it ran.
    pub(crate) async fn ask(
        &self,
        script: &'static Script,
        topic: &'static str,
        key: &str,
        words: &[&str],
    ) -> Result<Vec<String>, Away> {
        let Some(shared) = &self.shared else { return Err(Away) };
        let up = shared.up()?;
        let (answer, answered) = oneshot::channel();
        shared.put(script, topic, key, words, Some(answer))?;
        match tokio::time::timeout(shared.timeout, answered).await {
            Ok(Ok(words)) => Ok(words),
            Ok(Err(_gone)) => {
                shared.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
            Err(_elapsed) => {
                // All others are to be spared this wait; a newer connection is not to blame.
                if shared.up.compare_exchange(up, 0, Relaxed, Relaxed).is_ok() {
                    shared.wake.notify_one();
                }
                shared.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
        }
    }

    /// Runs a script, and waits for nothing. It does not run while Redis is away, or while too much
    /// is to be sent; that is counted.
    pub(crate) fn tell(
        &self,
        script: &'static Script,
        topic: &'static str,
        key: &str,
        words: &[&str],
    ) {
        let Some(shared) = &self.shared else { return };
        // Whether it was sent is counted, and nobody's concern beyond that.
        let _sent = shared.up().and_then(|_| shared.put(script, topic, key, words, None));
    }

    /// Lets somebody hear, for as long as they live.
    pub(crate) fn listen(&self, topic: &'static str, listener: Weak<dyn Listener>) {
        let Some(shared) = &self.shared else { return };
        let mut listeners = shared.listeners();
        listeners.retain(|ear| ear.listener.strong_count() > 0);
        listeners.push(Ear { topic, listener, told: 0 });
        drop(listeners);
        shared.wake.notify_one();
    }

    /// Speaks to Redis, until it is dropped. To be run once, on the control thread.
    pub(crate) async fn run(self, settings: Settings) -> Result<(), RedisError> {
        let Some(shared) = self.shared else { return Ok(()) };
        let ear = shared.ear.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(jobs) = ear else { return Ok(()) };
        let route = Route::new(&settings)?;
        Clerk { shared, route, jobs, told_away: false }.work().await;
        Ok(())
    }
}

impl Shared {
    fn up(&self) -> Result<u64, Away> {
        match self.up.load(Relaxed) {
            0 => {
                self.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
            up => Ok(up),
        }
    }

    /// Has a script sent.
    fn put(
        &self,
        script: &'static Script,
        topic: &'static str,
        key: &str,
        words: &[&str],
        answer: Option<oneshot::Sender<Vec<String>>>,
    ) -> Result<(), Away> {
        let keys = &self.keys;
        let mut call = script.call(2);
        call.arg(keys.policy(topic, key)).arg(keys.policies_of(topic));
        call.arg(keys.policy_channel()).arg(keys.publish());
        call.arg(format_args!("{topic}\n{key}\n").to_string()).arg(words);
        self.jobs.try_send(Job { script, call, answer }).map_err(|_full| {
            self.counts.dropped.fetch_add(1, Relaxed);
            Away
        })
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Ear>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those that Redis is there who have not been told of this connection.
    fn tell_back(&self, up: u64) {
        let mut untold = Vec::new();
        for ear in self.listeners().iter_mut().filter(|ear| ear.told != up) {
            ear.told = up;
            untold.extend(ear.listener.upgrade());
        }
        // Without the lock: they may want to listen to something else.
        for listener in untold {
            listener.back();
        }
    }

    fn pass_on(&self, message: &[u8]) {
        let Ok(text) = std::str::from_utf8(message) else { return };
        let mut words = text.split('\n');
        let (Some(topic), Some(key)) = (words.next(), words.next()) else { return };
        let words: Vec<&str> = words.collect();
        let listeners: Vec<Arc<dyn Listener>> = self
            .listeners()
            .iter()
            .filter(|ear| ear.topic == topic)
            .filter_map(|ear| ear.listener.upgrade())
            .collect();
        for listener in listeners {
            listener.heard(key, &words);
        }
    }
}

type Reply = Result<Vec<Value>, RedisError>;

/// Calls that went out in one write, and what came back.
struct Batch {
    /// Answers to script loads that come first.
    loads: usize,
    jobs: Vec<Job>,
    reply: Reply,
}

/// Who speaks to Redis.
struct Clerk {
    shared: Arc<Shared>,
    route: Route,
    jobs: mpsc::Receiver<Job>,
    /// Whether the log says that Redis is away.
    told_away: bool,
}

/// However it ends, nobody is left waiting.
impl Drop for Clerk {
    fn drop(&mut self) {
        self.shared.up.store(0, Relaxed);
    }
}

impl Clerk {
    async fn work(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut connects = 0;
        loop {
            let error = match self.connect().await {
                Ok(wire) => {
                    pause = FIRST_PAUSE;
                    connects += 1;
                    self.open(connects);
                    let error = self.serve(wire, connects).await;
                    self.shared.up.store(0, Relaxed);
                    error
                }
                Err(error) => error,
            };
            self.send_away(&error);
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection on which all was heard: it answers, the scripts are loaded, and what is said
    /// from now on comes here.
    async fn connect(&self) -> Result<Wire, RedisError> {
        let (shared, timeout) = (&self.shared, self.shared.timeout);
        let wire = in_time(timeout, self.route.connect(POLICIES)).await?;
        let mut pipeline = Pipeline::new();
        let mut count = 2;
        for load in scripts::policy_loads() {
            pipeline.add_command(load);
            count += 1;
        }
        let mut subscribe = redis::cmd(shared.keys.subscribe());
        subscribe.arg(shared.keys.policy_channel());
        pipeline.add_command(subscribe);
        pipeline.add_command(redis::cmd("PING"));
        let mut connection = wire.connection.clone();
        let asked = connection.send_packed_commands(&pipeline, 0, count);
        let answers = in_time(timeout, asked).await?;
        if let Some(Value::ServerError(error)) = answers.into_iter().next_back() {
            return Err(error.into());
        }
        Ok(wire)
    }

    fn open(&mut self, number: u64) {
        // What was asked of an old connection has nobody left who waits for it.
        while self.jobs.try_recv().is_ok() {}
        self.shared.counts.connects.store(number, Relaxed);
        self.shared.up.store(number, Relaxed);
        if self.told_away {
            self.told_away = false;
            tracing::info!("redis is back for the policies of APIs");
        }
        self.shared.tell_back(number);
    }

    fn send_away(&mut self, error: &RedisError) {
        while self.jobs.try_recv().is_ok() {}
        self.route.moved();
        if !self.told_away {
            self.told_away = true;
            let what = "redis is away for the policies of APIs: each instance goes by what it \
                        sees itself";
            tracing::warn!(%error, "{what}");
        }
    }

    /// Serves until the connection is of no use any more.
    async fn serve(&mut self, mut wire: Wire, number: u64) -> RedisError {
        let shared = Arc::clone(&self.shared);
        let mut batches = Batches::new(wire.connection.clone(), shared.timeout);
        let mut fresh = Vec::with_capacity(BATCH);
        let mut alarm = Alarm::new();
        loop {
            let due_at = batches.due_at();
            let due = async {
                match due_at {
                    Some(at) => std::future::poll_fn(|cx| alarm.poll(cx, at)).await,
                    None => std::future::pending().await,
                }
            };
            // In the order in which things matter: answers before the clock says that they did not
            // come, and both before what others may flood us with.
            tokio::select! {
                biased;
                Some(batch) = batches.replies.next(), if !batches.replies.is_empty() => {
                    batches.sent.pop_front();
                    if let Some(error) = self.hear(batch, &mut batches) {
                        return error;
                    }
                }
                () = due => return io::Error::from(io::ErrorKind::TimedOut).into(),
                () = shared.wake.notified() => {
                    if shared.up.load(Relaxed) != number {
                        return io::Error::from(io::ErrorKind::TimedOut).into();
                    }
                    shared.tell_back(number);
                }
                push = wire.pushes.recv() => match push {
                    Some(push) => shared.pass_on(&push.payload),
                    None => return io::Error::from(io::ErrorKind::ConnectionReset).into(),
                },
                count = self.jobs.recv_many(&mut fresh, BATCH), if batches.has_room() => {
                    if count == 0 {
                        // Cannot be: `shared` has a sender.
                        return io::Error::from(io::ErrorKind::BrokenPipe).into();
                    }
                    batches.send(std::mem::take(&mut fresh), false);
                }
            }
        }
    }

    /// Hands answers out; the error that ends the connection, if there is one.
    fn hear(&self, batch: Batch, batches: &mut Batches) -> Option<RedisError> {
        let values = match batch.reply {
            Ok(values) => values,
            Err(error) => return Some(error),
        };
        let mut unknown = Vec::new();
        let mut moved = false;
        let answers = values.into_iter().skip(batch.loads);
        for (job, value) in batch.jobs.into_iter().zip(answers) {
            if !matches!(value, Value::ServerError(_)) {
                self.shared.counts.answered.fetch_add(1, Relaxed);
                if let Some(answer) = job.answer {
                    // The asker may have left.
                    drop(answer.send(words(value)));
                }
                continue;
            }
            match Trouble::of(&value) {
                Trouble::NoScript if batch.loads == 0 => unknown.push(job),
                Trouble::Moved => moved = true,
                trouble @ (Trouble::Fenced
                | Trouble::Moving
                | Trouble::NoScript
                | Trouble::Other(_)) => tracing::debug!(%trouble, "redis did not run a script"),
            }
        }
        if !unknown.is_empty() {
            batches.send(unknown, true);
        }
        moved.then(|| io::Error::other("another node has the policies of APIs").into())
    }
}

/// What is under way on one connection.
struct Batches {
    connection: MultiplexedConnection,
    timeout: Duration,
    replies: FuturesUnordered<Pin<Box<dyn Future<Output = Batch> + Send>>>,
    /// When each unanswered one was sent; the answers come in that order.
    sent: VecDeque<Instant>,
}

impl Batches {
    fn new(connection: MultiplexedConnection, timeout: Duration) -> Self {
        let (replies, sent) = (FuturesUnordered::new(), VecDeque::new());
        Self { connection, timeout, replies, sent }
    }

    fn has_room(&self) -> bool {
        self.replies.len() < BATCHES
    }

    fn due_at(&self) -> Option<Instant> {
        self.sent.front().map(|sent| *sent + self.timeout)
    }

    /// Sends calls, behind what makes their scripts known if that is wanted.
    fn send(&mut self, jobs: Vec<Job>, load: bool) {
        let mut pipeline = Pipeline::with_capacity(jobs.len());
        let mut loads = 0;
        if load {
            let mut scripts: Vec<&'static Script> = Vec::new();
            for job in &jobs {
                if !scripts.iter().any(|script| std::ptr::eq(*script, job.script)) {
                    scripts.push(job.script);
                    pipeline.add_command(job.script.load());
                    loads += 1;
                }
            }
        }
        for job in &jobs {
            pipeline.add_command(job.call.clone());
        }
        let count = loads + jobs.len();
        let mut connection = self.connection.clone();
        self.sent.push_back(clock::now());
        self.replies.push(Box::pin(async move {
            let reply = connection.send_packed_commands(&pipeline, 0, count).await;
            Batch { loads, jobs, reply }
        }));
    }
}

async fn in_time<T>(
    timeout: Duration,
    step: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout(timeout, step).await {
        Ok(done) => done,
        Err(elapsed) => Err(io::Error::from(elapsed).into()),
    }
}

fn words(value: Value) -> Vec<String> {
    if let Value::Array(values) = value {
        return values.iter().map(word).collect();
    }
    if value == Value::Nil { Vec::new() } else { vec![word(&value)] }
}

fn word(value: &Value) -> String {
    match redis::from_redis_value_ref::<Option<String>>(value) {
        Ok(word) => word.unwrap_or_default(),
        Err(_) => String::new(),
    }
}
