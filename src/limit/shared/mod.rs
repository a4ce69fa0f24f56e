//! Slots shared through Redis: what all instances of a fleet have in common.
//!
//! [`Link`] is what the threads that admit and the one that speaks to Redis share: a desk for each
//! shard, and a way to ask what the fleet holds. [`run`] is the one that speaks, until it is told to
//! stop: a worker for each desk ([`worker`]), and whatever people ask beside them.

mod desk;
mod worker;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::RedisError;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use self::desk::Desk;
use self::desk::DeskSnapshot;
pub(crate) use self::worker::Worker;
use super::Limiter;
use super::host::Basis;
use super::host::Host;
use super::protocol::Timing;
use crate::base::authority::HostKey;
use crate::store::Fleet;
use crate::store::Store;
use crate::store::keys;
use crate::store::route::Route;

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

/// What happens to open connections when this instance's lease has run out, and Redis may give
/// their slots to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseLoss {
    /// They go on; nothing new is opened until what is open is on the books again.
    #[default]
    Keep,
    /// All are cut, so that the origin never sees more than the limit.
    Close,
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
    /// What happens to open connections when the lease has run out.
    pub lease_loss: LeaseLoss,
    /// The most unused slots of one host that this instance may hold ahead of need, while there
    /// are plenty; 0 is none.
    pub slack: u32,
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
            lease_loss: LeaseLoss::Keep,
            slack: 8,
        }
    }

    pub(super) fn timing(&self) -> Timing {
        Timing { lease: self.lease, heartbeat: self.heartbeat, timeout: self.store.timeout }
    }
}

/// Questions of people that may be under way.
const READS: usize = 32;

/// Told of each exchange with Redis: how long it took, and whether it succeeded.
pub(crate) type Calls = Arc<dyn Fn(Duration, bool) + Send + Sync>;

/// What the threads that admit and the one that speaks to Redis share.
pub(crate) struct Link {
    desks: Box<[Desk]>,
    worker: String,
    failure: Failure,
    slack: u32,
    /// Told of each lease that ran out, if that closes connections.
    losses: Option<watch::Sender<()>>,
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
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        // 48 random bits: short, since Redis keeps it in every host's hash.
        Self::named(settings, id[..12].to_owned())
    }

    /// The link of an instance of that name; no other may ever have had it.
    pub(super) fn named(settings: &Settings, worker: String) -> Arc<Self> {
        let (questions, ear) = mpsc::channel(READS);
        Arc::new(Self {
            desks: (0..settings.store.shards()).map(|_| Desk::new()).collect(),
            worker,
            failure: settings.failure,
            slack: settings.slack,
            losses: (settings.lease_loss == LeaseLoss::Close).then(|| watch::Sender::new(())),
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
        self.desks.iter().map(Desk::instances).max().unwrap_or(1)
    }

    /// `connecting`, `up`, `learning` or `away`: the worst of the shards.
    pub(crate) fn state_name(&self) -> &'static str {
        let is_any = |phase| self.desks.iter().any(|desk| desk.phase() == phase);
        if is_any(desk::AWAY) {
            "away"
        } else if is_any(desk::CONNECTING) {
            "connecting"
        } else if self.desks.iter().any(Desk::is_learning) {
            "learning"
        } else {
            "up"
        }
    }

    fn snapshot(&self) -> FleetSnapshot {
        let desks: Vec<DeskSnapshot> = self.desks.iter().map(Desk::snapshot).collect();
        let max = |read: fn(&DeskSnapshot) -> u64| desks.iter().map(read).max().unwrap_or(0);
        let sum = |read: fn(&DeskSnapshot) -> u64| desks.iter().map(read).sum();
        FleetSnapshot {
            instance: self.worker.clone(),
            instances: self.instances(),
            state: self.state_name(),
            epoch: max(|desk| desk.epoch),
            term: max(|desk| desk.generation),
            lease: desks.iter().map(|desk| desk.leased).min().flatten(),
            learning: desks.iter().filter_map(|desk| desk.learning).max(),
            served: sum(|desk| desk.hints),
            recalled: sum(|desk| desk.recalls),
            messages: sum(|desk| desk.messages),
        }
    }

    /// Where it is heard that a lease ran out; none if that closes nothing.
    pub(crate) fn losses(&self) -> Option<watch::Receiver<()>> {
        self.losses.as_ref().map(watch::Sender::subscribe)
    }

    /// A lease ran out.
    pub(super) fn lose(&self) {
        if let Some(losses) = &self.losses {
            tracing::warn!("the lease has run out: all connections are closed");
            losses.send_replace(());
        }
    }

    pub(super) fn shard(&self, key: &HostKey) -> u16 {
        keys::shard(key, self.desks.len())
    }

    pub(super) fn desk(&self, shard: u16) -> &Desk {
        &self.desks[usize::from(shard)]
    }

    /// Breaks what a simulation must notice: the lease is not looked at any more.
    #[cfg(test)]
    pub(super) fn set_reckless(&self, is_reckless: bool) {
        self.desks.iter().for_each(|desk| desk.set_reckless(is_reckless));
    }

    /// Puts a host on the list of those Redis must hear of.
    pub(super) fn speak(&self, host: Arc<Host>) {
        self.desk(host.shard).speak(host);
    }

    /// What room is measured against now.
    pub(super) fn basis(&self, host: &Host) -> Basis {
        self.desk(host.shard).basis(self.failure, self.slack)
    }

    /// The fleet's numbers of these hosts, one for each; none when Redis does not tell.
    pub(crate) async fn fleet(&self, hosts: Vec<HostKey>) -> Option<Vec<Fleet>> {
        let (answer, told) = oneshot::channel();
        self.questions.send(Question { hosts, answer }).await.ok()?;
        told.await.ok()
    }
}

/// How one instance stands to its fleet at one moment; on a cluster the worst of all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSnapshot {
    /// The name of this instance in Redis.
    pub instance: String,
    /// Instances that hold a lease.
    pub instances: u32,
    /// `connecting`, `up`, `learning` or `away`.
    pub state: &'static str,
    /// Of this instance's messages: how many connections to Redis there have been.
    pub epoch: u64,
    /// Changes with each death of an instance and each loss of data.
    pub term: u64,
    /// How long Redis still vouches for this instance's slots; none if it does not.
    pub lease: Option<Duration>,
    /// How long nothing new is granted after a loss of data; none in between.
    pub learning: Option<Duration>,
    /// Hints that a slot had come to a waiting request.
    pub served: u64,
    /// Hints that others waited for what is unused here.
    pub recalled: u64,
    /// Messages to Redis, for all hosts: each is one call of a script.
    pub messages: u64,
}

impl Limiter {
    /// How this instance stands to its fleet; none when nothing is shared.
    pub fn fleet_snapshot(&self) -> Option<FleetSnapshot> {
        self.link().map(|link| link.snapshot())
    }

    /// The fleet's numbers of one host, from Redis; none when it is away, or nothing is shared.
    pub async fn fleet(&self, key: &HostKey) -> Option<Fleet> {
        self.fleets(vec![key.clone()]).await?.pop()
    }

    /// The fleet's numbers of these hosts, one for each, in one exchange. This instance's own are
    /// what is open here now, whatever Redis has not heard yet; of the others' some may be unused,
    /// held ahead of need for a second.
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
    let (store, route) = connections.inspect_err(|_| link.desks.iter().for_each(Desk::close))?;
    run_by(limiter, link, settings, calls, store, route, stop).await;
    Ok(())
}

async fn run_by(
    limiter: Limiter,
    link: Arc<Link>,
    settings: Settings,
    calls: Calls,
    store: Store,
    route: Route,
    stop: impl Future<Output = ()>,
) {
    let stopping = watch::Sender::new(false);
    let mut workers: FuturesUnordered<_> = (0..route.shards())
        .map(|shard| {
            let (limiter, link, calls) = (limiter.clone(), Arc::clone(&link), Arc::clone(&calls));
            let worker = Worker::new(shard, limiter, link, settings.clone(), calls, route.clone());
            worker.work(stopping.subscribe())
        })
        .collect();
    let ear = link.ear.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut ear = ear.unwrap_or_else(|| mpsc::channel(1).1);
    let mut reads = FuturesUnordered::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop, if !*stopping.borrow() => drop(stopping.send_replace(true)),
            Some(()) = workers.next() => {
                if workers.is_empty() {
                    return;
                }
            }
            Some(question) = ear.recv(), if reads.len() < READS => {
                reads.push(answer(&store, question));
            }
            Some(()) = reads.next(), if !reads.is_empty() => {}
        }
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
mod tests;
