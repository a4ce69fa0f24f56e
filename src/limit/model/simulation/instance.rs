//! One instance on a host of the simulation: the program's own limiter and worker, and clients that
//! load them.
//!
//! A client opens its connection as `upstream::dial` does: with a permit in hand, after a last look
//! at the lease. Its socket is a line in the books of the [`Oracle`].

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use redis::AsyncConnectionConfig;
use redis::ProtocolVersion;
use redis::PushInfo;
use redis::PushKind;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use redis::aio::SendError;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::LocalSet;
use turmoil::net::TcpStream;

use super::super::redis::Id;
use super::oracle::Oracle;
use super::plan;
use super::plan::Plan;
use super::server;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit;
use crate::limit::Limiter;
use crate::limit::Patience;
use crate::limit::rules::Rule;
use crate::limit::rules::Rules;
use crate::limit::shared;
use crate::limit::shared::Link;
use crate::limit::shared::Worker;
use crate::store;
use crate::store::route::Push;
use crate::store::route::Route;
use crate::store::route::Wire;

/// By which the simulation moves one host.
#[derive(Clone)]
pub(super) struct Handle {
    /// Until when the process is stopped, as by SIGSTOP, while time and network go on.
    pub(super) frozen_until: Rc<Cell<Duration>>,
    /// How often it was.
    pub(super) freezes: Rc<Cell<u32>>,
    /// Whether it shall drain and leave.
    pub(super) stop: watch::Sender<bool>,
    /// Which instance runs there, or ran there last.
    pub(super) id: Rc<Cell<Id>>,
}

impl Handle {
    pub(super) fn new() -> Self {
        let stop = watch::Sender::new(false);
        Self { frozen_until: Rc::default(), freezes: Rc::default(), stop, id: Rc::default() }
    }

    /// As it was when the host was set up.
    pub(super) fn reset(&self) {
        self.frozen_until.set(Duration::ZERO);
        self.stop.send_replace(false);
    }
}

/// Runs all of a host's tasks, except while it is frozen.
pub(super) async fn freezable(handle: Handle, tasks: LocalSet) {
    let mut tasks = pin!(tasks);
    let mut thaw = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        let now = turmoil::sim_elapsed().expect("inside of a simulation");
        let left = handle.frozen_until.get().saturating_sub(now);
        if left.is_zero() {
            return tasks.as_mut().poll(cx);
        }
        thaw.as_mut().reset(clock::now() + left);
        match thaw.as_mut().poll(cx) {
            Poll::Ready(()) => tasks.as_mut().poll(cx),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

/// An instance from its start to its end.
pub(super) async fn live(
    plan: Rc<Plan>,
    oracle: Rc<Oracle>,
    handle: Handle,
    load: watch::Receiver<bool>,
) {
    let id = oracle.next_id();
    let settings = shared::Settings {
        store: store::Settings::new("redis://redis"),
        lease: plan.lease,
        heartbeat: plan.heartbeat,
        failure: shared::Failure::Closed,
        lease_loss: plan.lease_loss,
        slack: plan.slack,
    };
    let link = Link::named(&settings, server::name(id));
    link.set_reckless(plan.is_reckless);
    let limits = limit::Settings { queue_size: 1000, ..limit::Settings::default() };
    let (limiter, _ears) = Limiter::new(limits, Some(Arc::clone(&link)), 1);
    limiter.change_rules(|rules| {
        let each = plan.keys.iter().zip(&plan.caps);
        // Rules of one age: no instance tells the others what the limit is.
        *rules = Rules::new(0, each.map(|(key, cap)| rule(key, *cap))).since(1);
    });
    oracle.born(limiter.clone(), Rc::clone(&handle.freezes));
    let route = Route::custom(Arc::new(|_| connect().boxed()));
    let worker = Worker::new(0, limiter.clone(), link, settings, Arc::new(|_, _| ()), route);
    handle.id.set(id);

    let tasks = LocalSet::new();
    let stop = handle.stop.clone();
    let freezes = Rc::clone(&handle.freezes);
    let watching = Rc::clone(&oracle);
    tasks.spawn_local(watching.watch(async move {
        let stopping = watch::Sender::new(false);
        let working =
            tokio::task::spawn_local(Rc::clone(&oracle).watch(worker.work(stopping.subscribe())));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..plan.clients {
            let client = Client {
                plan: Rc::clone(&plan),
                oracle: Rc::clone(&oracle),
                limiter: limiter.clone(),
                id,
                identity: Identity::Name(format!("{}", number % 3).into()),
                load: load.clone(),
                freezes: Rc::clone(&freezes),
            };
            clients.spawn_local(Rc::clone(&oracle).watch(client.run()));
        }
        clients.spawn_local(Rc::clone(&oracle).watch(hear_of_change(plan, limiter)));
        let mut told = stop.subscribe();
        told.wait_for(|stop| *stop).await.expect("its sender is at hand");
        // The end of a drain: what is open is closed, and only then does the worker leave.
        clients.shutdown().await;
        stopping.send_replace(true);
        working.await.expect("it is watched");
    }));
    freezable(handle, tasks).await;
}

/// The limit changes when the fleet's table says so, of which each instance hears in its time.
async fn hear_of_change(plan: Rc<Plan>, limiter: Limiter) {
    let Some((at, cap)) = plan.change else { return };
    let now = turmoil::sim_elapsed().expect("inside of a simulation");
    if let Some(left) = at.checked_sub(now) {
        tokio::time::sleep(left + plan::random(plan::CHANGE / 4)).await;
    }
    limiter.change_rules(|rules| rules.set_table(1, [rule(&plan.keys[0], cap)]));
}

async fn connect() -> Result<Wire, RedisError> {
    let stream = TcpStream::connect(("redis", server::PORT)).await?;
    let (sender, pushes) = mpsc::unbounded_channel();
    let ears = std::sync::Mutex::new(Some(sender));
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            let mut ears = ears.lock().expect("nobody panics with it");
            match (push.kind, &push.data[..]) {
                (PushKind::Message, [_, Value::BulkString(payload)]) => {
                    let push = Push { payload: payload.clone() };
                    drop(ears.as_ref().map(|sender| sender.send(push)));
                }
                (PushKind::Disconnection, _) => *ears = None,
                _ => {}
            }
            Ok::<(), SendError>(())
        });
    let info =
        RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&info, stream, config).await?;
    tokio::task::spawn_local(driver);
    Ok(Wire { connection, pushes })
}

/// Who asks for connections, one after the other.
struct Client {
    plan: Rc<Plan>,
    oracle: Rc<Oracle>,
    limiter: Limiter,
    id: Id,
    identity: Identity,
    /// Whether there is any.
    load: watch::Receiver<bool>,
    freezes: Rc<Cell<u32>>,
}

impl Client {
    async fn run(self) {
        while *self.load.borrow() {
            tokio::time::sleep(plan::random(self.plan.think)).await;
            let host = fastrand::usize(..self.plan.keys.len());
            let key = &self.plan.keys[host];
            self.oracle.asked();
            match fastrand::u32(..10) {
                0..3 => self.ask(host, key, None).await,
                3 => {
                    // It leaves without having said when.
                    let leaves = tokio::time::sleep(plan::random(Duration::from_millis(300)));
                    tokio::select! {
                        biased;
                        () = leaves => {}
                        () = self.ask(host, key, Some(Duration::from_secs(2))) => {}
                    }
                }
                _ => self.ask(host, key, Some(plan::random(Duration::from_secs(2)))).await,
            }
        }
    }

    async fn ask(&self, host: usize, key: &HostKey, time: Option<Duration>) {
        let asked = clock::now();
        let patience = time.map_or(Patience::None, |time| Patience::Until(asked + time));
        let wait = self.oracle.wait(self.id, host, time.is_some());
        let freezes = self.freezes.get();
        let acquired = self.limiter.acquire_as(key, patience, &self.identity).await;
        if freezes == self.freezes.get() {
            wait.is_over(time, clock::now() - asked);
        }
        drop(wait);
        let Ok(permit) = acquired else { return };
        if !permit.is_vouched() && !self.plan.is_reckless {
            return;
        }
        let (losses, mut load) = (self.limiter.losses(), self.load.clone());
        let open = self.oracle.open(self.id, host);
        tokio::select! {
            biased;
            () = is_cut(losses) => {}
            () = tokio::time::sleep(self.plan.any_hold()) => {}
            _ = load.wait_for(|is_on| !is_on) => {}
        }
        drop(open);
        drop(permit);
    }
}

fn rule(key: &HostKey, cap: u32) -> Rule {
    format!("{key}={cap}").parse().expect("a rule")
}

/// Ends when all connections are to be closed.
async fn is_cut(losses: Option<watch::Receiver<()>>) {
    match losses {
        Some(mut losses) => losses.changed().await.expect("the limiter is at hand"),
        None => std::future::pending().await,
    }
}
