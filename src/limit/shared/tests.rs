//! Several instances in one process, without a proxy, on a real Redis.

use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::base::clock;
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
        Self::tuned(redis, limit, |settings| settings.failure = failure)
    }

    fn tuned(redis: &Redis, limit: u32, tune: impl FnOnce(&mut Settings)) -> Self {
        let mut fleet =
            Settings { lease: LEASE, heartbeat: HEARTBEAT, slack: 0, ..Settings::new(redis.url()) };
        tune(&mut fleet);
        let link = Link::new(&fleet);
        let settings =
            crate::limit::Settings { default_limit: limit, ..crate::limit::Settings::default() };
        let (limiter, _ears) = Limiter::new(settings, Some(Arc::clone(&link)), 1);
        let (stop, stopped) = oneshot::channel::<()>();
        let calls: Calls = Arc::new(|_, _| ());
        let worker = run(limiter.clone(), Arc::clone(&link), fleet, calls, async move {
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
