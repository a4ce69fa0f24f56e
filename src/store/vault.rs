//! How kept responses are put into Redis and got out of it: one script, `lua/cache.lua`, whose words are
//! bytes, on connections of its own, so that no heartbeat and no policy waits behind a body.
//!
//! A [`Vault`] is the way there from every thread: [`Vault::ask`] waits for an answer, [`Vault::tell`] for
//! nothing. A task for each shard ([`Vault::run`]) has a connection to its node. It is also the breaker on
//! that Redis: an answer that does not come in time, or a connection that ends, sends everybody away who
//! waits, and all who come until it has answered again in the background. So a Redis that hangs costs one
//! time-out, once.
//!
//! It also looks how full that Redis is ([`Vault::has_room`]), which the limiter needs too.
//!
//! Invariants: what is sent for one place is executed in that order, or not at all: what meets a Redis that has
//! lost its scripts is not repeated. Nobody waits longer than [`Settings::timeout`], and no more than [`MOST_BYTES`] wait for
//! each shard: what is more is not sent, and counted.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::Cmd;
use redis::Pipeline;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Settings;
use super::keys;
use super::keys::Keys;
pub(crate) use super::keys::Names;
use super::route::Route;
use super::route::Wire;
use super::scripts::CACHE;
use super::scripts::Trouble;
use crate::base::clock;
use crate::base::clock::Alarm;
pub(crate) use crate::store::board::Away;

/// Calls that may wait to be sent to a shard.
const QUEUE: usize = 4096;
/// Calls that may be unanswered at once. PERF: enough for a write to be full, and few enough that one that
/// is slow is seen to be.
const CALLS: usize = 128;
/// Bytes that may wait for a shard. PERF: some 40 ms of what one connection carries, which is well within
/// the time-out.
const MOST_BYTES: usize = 16 << 20;
/// How often it is asked how full it is.
const LOOK: Duration = Duration::from_secs(5);
/// After how long Redis is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The way to kept responses in Redis. Cheap to clone; used on every thread.
#[derive(Clone, Default)]
pub(crate) struct Vault {
    shared: Option<Arc<Shared>>,
}

/// Who hears what is said about kept responses, by its own instance too.
pub(crate) trait Hearer: fmt::Debug + Send + Sync {
    /// Called where the connection is read; must be quick.
    fn heard(&self, message: &[u8]);
}

/// How the vault is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Whether Redis answers; on a cluster, all of it.
    pub(crate) is_up: bool,
    /// Calls that were answered.
    pub(crate) answered: u64,
    /// What was not sent, or asked and not answered, since Redis was away.
    pub(crate) away: u64,
    /// What was not sent since too much was waiting.
    pub(crate) dropped: u64,
    /// Whether there is no room for more, at one of its nodes.
    pub(crate) is_full: bool,
}

struct Shared {
    keys: Keys,
    timeout: Duration,
    lines: Vec<Line>,
    hearers: Mutex<Vec<Weak<dyn Hearer>>>,
    counts: Counts,
}

/// The way to one shard.
struct Line {
    /// Which connection it is that answers; 0 while none does.
    up: AtomicU64,
    jobs: mpsc::Sender<Job>,
    ear: Mutex<Option<mpsc::Receiver<Job>>>,
    waiting: Arc<AtomicUsize>,
    is_full: AtomicBool,
    /// Somebody found that Redis does not answer.
    wake: Notify,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    away: AtomicU64,
    dropped: AtomicU64,
}

/// One call.
struct Job {
    call: Pipeline,
    answer: Option<oneshot::Sender<Vec<Vec<u8>>>>,
    /// Whether it asks how full it is.
    looks: bool,
    _weight: Option<Weight>,
}

/// Bytes that wait; dropped, they do not any more.
struct Weight {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Relaxed);
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("is_shared", &self.is_shared()).finish_non_exhaustive()
    }
}

impl Vault {
    /// The vault of an instance that has none.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// The vault in this Redis. Until it is [run](Vault::run) Redis is away.
    pub(crate) fn new(settings: &Settings) -> Self {
        let keys = Keys::new(&settings.prefix, settings.shards());
        let lines = (0..keys.shards()).map(|_| {
            let (jobs, ear) = mpsc::channel(QUEUE);
            Line {
                up: AtomicU64::new(0),
                jobs,
                ear: Mutex::new(Some(ear)),
                waiting: Arc::default(),
                is_full: AtomicBool::new(false),
                wake: Notify::new(),
            }
        });
        let lines = lines.collect();
        let (hearers, counts) = (Mutex::default(), Counts::default());
        let timeout = settings.timeout;
        Self { shared: Some(Arc::new(Shared { keys, timeout, lines, hearers, counts })) }
    }

    /// Whether there is one.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// How it is doing; none for none.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let shared = self.shared.as_ref()?;
        let counts = &shared.counts;
        Some(Snapshot {
            is_up: shared.lines.iter().all(|line| line.up.load(Relaxed) != 0),
            answered: counts.answered.load(Relaxed),
            away: counts.away.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            is_full: shared.lines.iter().any(|line| line.is_full.load(Relaxed)),
        })
    }

    /// Whether that Redis has room for more, as far as it was seen: the last fifth of its `maxmemory` (where
    /// there is none, the last half of its machine's memory) is left to others, the limiter among them.
    pub(crate) fn has_room(&self, names: &Names) -> bool {
        let line = self.shared.as_ref().map(|shared| shared.line(names));
        line.is_some_and(|line| !line.is_full.load(Relaxed))
    }

    /// Runs the script on these keys, and waits for its words: no longer than a call to Redis may take, and
    /// not at all while Redis is known to be away. Who drops it does not know whether it ran.
    pub(crate) async fn ask(&self, names: &Names, words: &[&[u8]]) -> Result<Vec<Vec<u8>>, Away> {
        let Some(shared) = &self.shared else { return Err(Away) };
        let line = shared.line(names);
        let up = shared.up(line)?;
        let (answer, answered) = oneshot::channel();
        shared.put(names, &names.flight, words, Some(answer))?;
        match tokio::time::timeout(shared.timeout, answered).await {
            Ok(Ok(words)) => Ok(words),
            Ok(Err(_gone)) => {
                shared.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
            Err(_elapsed) => {
                // All others are to be spared this wait; a newer connection is not to blame.
                if line.up.compare_exchange(up, 0, Relaxed, Relaxed).is_ok() {
                    line.wake.notify_one();
                }
                shared.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
        }
    }

    /// Runs the script, and waits for nothing; whether it was sent. It is not while Redis is away, or while
    /// too much is to be sent; that is counted.
    pub(crate) fn tell(&self, names: &Names, words: &[&[u8]]) -> bool {
        let Some(shared) = &self.shared else { return false };
        let sent = shared.up(shared.line(names));
        sent.and_then(|_| shared.put(names, &names.flight, words, None)).is_ok()
    }

    /// As [`Vault::tell`]; what is said of it names the place.
    pub(crate) fn tell_of_place(&self, names: &Names, words: &[&[u8]]) -> bool {
        let Some(shared) = &self.shared else { return false };
        let sent = shared.up(shared.line(names));
        sent.and_then(|_| shared.put(names, &names.place, words, None)).is_ok()
    }

    /// Lets somebody hear, for as long as they live.
    pub(crate) fn listen(&self, hearer: Weak<dyn Hearer>) {
        let Some(shared) = &self.shared else { return };
        let mut hearers = shared.hearers();
        hearers.retain(|hearer| hearer.strong_count() > 0);
        hearers.push(hearer);
    }

    /// Speaks to Redis, until it is dropped. To be run once.
    pub(crate) async fn run(self, settings: Settings) -> Result<(), RedisError> {
        let Some(shared) = self.shared else { return Ok(()) };
        let route = Route::new(&settings)?;
        let clerks = (0_u16..).zip(&shared.lines).filter_map(|(number, line)| {
            let jobs = line.ear.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            let (shared, route) = (Arc::clone(&shared), route.clone());
            Some(Clerk { shared, number, route, jobs, told_away: false }.work())
        });
        join_all(clerks).await;
        Ok(())
    }
}

impl Shared {
    fn line(&self, names: &Names) -> &Line {
        &self.lines[usize::from(self.keys.shard_of_place(&names.place))]
    }

    fn up(&self, line: &Line) -> Result<u64, Away> {
        match line.up.load(Relaxed) {
            0 => {
                self.counts.away.fetch_add(1, Relaxed);
                Err(Away)
            }
            up => Ok(up),
        }
    }

    /// Has a call sent.
    fn put(
        &self,
        names: &Names,
        about: &[u8; 32],
        words: &[&[u8]],
        answer: Option<oneshot::Sender<Vec<Vec<u8>>>>,
    ) -> Result<(), Away> {
        let line = self.line(names);
        let bytes = words.iter().map(|word| word.len()).sum::<usize>() + 512;
        let waiting = line.waiting.fetch_add(bytes, Relaxed);
        let weight = Weight { waiting: Arc::clone(&line.waiting), bytes };
        let full = || {
            self.counts.dropped.fetch_add(1, Relaxed);
            Away
        };
        if waiting > 0 && waiting + bytes > MOST_BYTES {
            return Err(full());
        }
        let keys = &self.keys;
        let mut call = CACHE.call(4);
        call.arg(&keys.kept(names)[..]);
        call.arg(keys.kept_channel(keys.shard_of_place(&names.place))).arg(keys.publish());
        let mut name = String::with_capacity(64);
        keys::push_hex(&mut name, about);
        call.arg(name).arg(words);
        let job = Job { call: alone(call), answer, looks: false, _weight: Some(weight) };
        line.jobs.try_send(job).map_err(|_full| full())
    }

    fn hearers(&self) -> MutexGuard<'_, Vec<Weak<dyn Hearer>>> {
        self.hearers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, message: &[u8]) {
        let hearers: Vec<Arc<dyn Hearer>> =
            self.hearers().iter().filter_map(Weak::upgrade).collect();
        for hearer in hearers {
            hearer.heard(message);
        }
    }
}

/// Who speaks to the node of a shard.
struct Clerk {
    shared: Arc<Shared>,
    number: u16,
    route: Route,
    jobs: mpsc::Receiver<Job>,
    /// Whether the log says that Redis is away.
    told_away: bool,
}

/// However it ends, nobody is left waiting.
impl Drop for Clerk {
    fn drop(&mut self) {
        self.line().up.store(0, Relaxed);
    }
}

/// A call that went out, and what came back.
type Call = Pin<Box<dyn Future<Output = (Job, Result<Vec<Value>, RedisError>)> + Send>>;

impl Clerk {
    fn line(&self) -> &Line {
        &self.shared.lines[usize::from(self.number)]
    }

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
                    self.line().up.store(0, Relaxed);
                    error
                }
                Err(error) => error,
            };
            self.send_away(&error);
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection that answers, that knows the script, and on which all is heard.
    async fn connect(&self) -> Result<Wire, RedisError> {
        let (shared, timeout) = (&self.shared, self.shared.timeout);
        let wire = in_time(timeout, self.route.connect(self.number)).await?;
        let mut subscribe = redis::cmd(shared.keys.subscribe());
        subscribe.arg(shared.keys.kept_channel(self.number));
        let mut pipeline = Pipeline::new();
        pipeline.add_command(CACHE.load()).add_command(subscribe).add_command(redis::cmd("PING"));
        let mut connection = wire.connection.clone();
        let asked = connection.send_packed_commands(&pipeline, 0, 3);
        let answers = in_time(timeout, asked).await?;
        if let Some(Value::ServerError(error)) = answers.into_iter().next_back() {
            return Err(error.into());
        }
        Ok(wire)
    }

    fn open(&mut self, number: u64) {
        // What was asked of an old connection has nobody left who waits for it.
        while self.jobs.try_recv().is_ok() {}
        self.line().up.store(number, Relaxed);
        if self.told_away {
            self.told_away = false;
            tracing::info!(shard = self.number, "redis is back for kept responses");
        }
    }

    fn send_away(&mut self, error: &RedisError) {
        while self.jobs.try_recv().is_ok() {}
        self.route.moved();
        if !self.told_away {
            self.told_away = true;
            let what = "redis is away for kept responses: each instance has its own alone";
            tracing::warn!(%error, shard = self.number, "{what}");
        }
    }

    /// Serves until the connection is of no use any more.
    async fn serve(&mut self, mut wire: Wire, number: u64) -> RedisError {
        let shared = Arc::clone(&self.shared);
        let line = &shared.lines[usize::from(self.number)];
        let mut calls: FuturesUnordered<Call> = FuturesUnordered::new();
        // When each unanswered one was sent; the answers come in that order.
        let mut sent: VecDeque<Instant> = VecDeque::new();
        let mut alarm = Alarm::new();
        let (mut look_at, mut looking) = (clock::now(), Alarm::new());
        loop {
            let due_at = sent.front().map(|sent| *sent + shared.timeout);
            let due = async {
                match due_at {
                    Some(at) => std::future::poll_fn(|cx| alarm.poll(cx, at)).await,
                    None => std::future::pending().await,
                }
            };
            // As on the board: answers before the clock says that they did not come.
            tokio::select! {
                biased;
                Some((job, reply)) = calls.next(), if !calls.is_empty() => {
                    sent.pop_front();
                    match self.hear(job, reply) {
                        Ok(None) => {}
                        Ok(Some(load)) => {
                            sent.push_back(clock::now());
                            calls.push(send(wire.connection.clone(), load));
                        }
                        Err(error) => return error,
                    }
                }
                () = due => return io::Error::from(io::ErrorKind::TimedOut).into(),
                () = std::future::poll_fn(|cx| looking.poll(cx, look_at)) => {
                    look_at = clock::now() + LOOK;
                    sent.push_back(clock::now());
                    calls.push(send(wire.connection.clone(), look()));
                }
                () = line.wake.notified() => {
                    if line.up.load(Relaxed) != number {
                        return io::Error::from(io::ErrorKind::TimedOut).into();
                    }
                }
                push = wire.pushes.recv() => match push {
                    Some(push) => shared.pass_on(&push.payload),
                    None => return io::Error::from(io::ErrorKind::ConnectionReset).into(),
                },
                Some(job) = self.jobs.recv(), if calls.len() < CALLS => {
                    sent.push_back(clock::now());
                    calls.push(send(wire.connection.clone(), job));
                }
            }
        }
    }

    fn note_room(&self, is_full: bool) {
        if self.line().is_full.swap(is_full, Relaxed) == is_full {
            return;
        }
        if is_full {
            let what = "redis is nearly full: no more responses are kept there";
            tracing::warn!(shard = self.number, "{what}");
        } else {
            tracing::info!(shard = self.number, "redis has room for kept responses again");
        }
    }

    /// Hands an answer out; says what is to be sent now, or why the connection is of no use any more.
    fn hear(
        &self,
        mut job: Job,
        reply: Result<Vec<Value>, RedisError>,
    ) -> Result<Option<Job>, RedisError> {
        let value = reply?.pop().unwrap_or(Value::Nil);
        if job.looks {
            // Who may not look sees no bound.
            let told = redis::from_redis_value::<String>(value).unwrap_or_default();
            self.note_room(is_full(&told));
            return Ok(None);
        }
        if !matches!(value, Value::ServerError(_)) {
            self.shared.counts.answered.fetch_add(1, Relaxed);
            if let Some(answer) = job.answer.take() {
                // The asker may have left.
                drop(answer.send(words(value)));
            }
            return Ok(None);
        }
        match Trouble::of(&value) {
            Trouble::NoScript => {
                let call = alone(CACHE.load());
                Ok(Some(Job { call, answer: None, looks: false, _weight: None }))
            }
            Trouble::Moved => Err(io::Error::other("another node has this shard").into()),
            trouble @ (Trouble::Fenced | Trouble::Moving | Trouble::Other(_)) => {
                tracing::debug!(%trouble, "redis did not run a script");
                Ok(None)
            }
        }
    }
}

fn look() -> Job {
    let mut call = redis::cmd("INFO");
    call.arg("memory");
    Job { call: alone(call), answer: None, looks: true, _weight: None }
}

/// Whether there is no room for more, by what INFO says.
fn is_full(told: &str) -> bool {
    let number = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let room = match (number("maxmemory"), number("total_system_memory")) {
        (0, 0) => return false,
        (0, machine) => machine / 2,
        (most, _) => most / 5 * 4,
    };
    number("used_memory") > room
}

fn alone(call: Cmd) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(call);
    pipeline
}

fn send(mut connection: MultiplexedConnection, job: Job) -> Call {
    Box::pin(async move {
        let reply = connection.send_packed_commands(&job.call, 0, 1).await;
        (job, reply)
    })
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

fn words(value: Value) -> Vec<Vec<u8>> {
    if let Value::Array(values) = value {
        return values.into_iter().map(word).collect();
    }
    vec![word(value)]
}

fn word(value: Value) -> Vec<u8> {
    if let Value::BulkString(bytes) = value {
        return bytes;
    }
    redis::from_redis_value::<String>(value).map(String::into_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fifth_of_what_it_may_take_is_left_to_others() {
        let info = |used: u64, most: u64, machine: u64| {
            format!(
                "# Memory\r\nused_memory:{used}\r\nused_memory_human:x\r\n\
                 total_system_memory:{machine}\r\nmaxmemory:{most}\r\nmaxmemory_policy:x\r\n"
            )
        };
        assert!(!is_full(&info(80, 100, 1000)));
        assert!(is_full(&info(81, 100, 1000)));
        assert!(!is_full(&info(500, 0, 1000)), "half of the machine's, where it may take all");
        assert!(is_full(&info(501, 0, 1000)));
        assert!(!is_full(""), "who may not look sees no bound");
    }
}
