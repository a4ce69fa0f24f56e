//! The ordered connection of each shard, for the limiter.
//!
//! With a single Redis, or behind sentinels, each connect is a new connection. On a cluster the
//! shards of one node share one, so that a fleet of many shards costs few connections; a message
//! that is pushed goes to the shard its channel belongs to.
//!
//! Invariants: what a shard sends on one [`Wire`] is executed in that order. A connection has no
//! time-outs and repeats of its own. Who connects again has given up the connection it had, and
//! never gets that one back.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use redis::AsyncConnectionConfig;
use redis::ErrorKind;
use redis::PushInfo;
use redis::PushKind;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use redis::aio::SendError;
use tokio::sync::OnceCell;
use tokio::sync::mpsc;

use super::Settings;
use super::keys;
use super::nodes;
use super::nodes::Nodes;
use super::nodes::Place;

/// What one shard speaks through.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) connection: MultiplexedConnection,
    /// Ends when the connection has, or another shard's connect has replaced it.

    pub(crate) pushes: mpsc::UnboundedReceiver<Push>,
}

/// A message on one of the channels that a shard has subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) payload: Vec<u8>,
}

/// Makes the connections. Clones share them.
#[derive(Clone)]
pub(crate) struct Route {
    way: Way,
}

#[derive(Clone)]
enum Way {
    #[cfg(test)]
    Custom(Connector),
    Nodes {
        nodes: Nodes,
        /// Of a cluster.
        lines: Arc<Mutex<Lines>>,
    },
}

/// Makes the connection of a shard in a simulation.
#[cfg(test)]
pub(crate) type Connector = Arc<
    dyn Fn(u16) -> futures_util::future::BoxFuture<'static, Result<Wire, RedisError>> + Send + Sync,
>;

/// Connections that shards of one node have in common.
#[derive(Default)]
struct Lines {
    /// By name of the node: what the next shard that connects there gets.
    current: HashMap<String, Arc<OnceCell<Line>>>,
    /// By shard: what it got last.
    given: HashMap<u16, Arc<OnceCell<Line>>>,
}

/// One connection, and who hears what is pushed there.
struct Line {
    connection: MultiplexedConnection,
    ears: Arc<Ears>,
}

#[derive(Default)]
struct Ears {
    shards: Mutex<HashMap<u16, mpsc::UnboundedSender<Push>>>,
    is_over: AtomicBool,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

impl Route {
    /// Errs when the settings name nothing that could be a Redis.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RedisError> {
        let nodes = Nodes::new(settings)?;
        Ok(Self { way: Way::Nodes { nodes, lines: Arc::default() } })
    }

    /// One shard, whose connections come from `connector`.
    #[cfg(test)]
    pub(crate) fn custom(connector: Connector) -> Self {
        Self { way: Way::Custom(connector) }
    }

    /// How many shards there are; their numbers begin at 0. It never changes.
    pub(crate) fn shards(&self) -> u16 {
        match &self.way {
            #[cfg(test)]
            Way::Custom(_) => 1,
            Way::Nodes { nodes, .. } => nodes.shards(),
        }
    }

    /// The next connect asks the cluster anew which node is whose: to be called after a MOVED, and
    /// when a node could not be reached or has failed.
    pub(crate) fn moved(&self) {
        match &self.way {
            #[cfg(test)]
            Way::Custom(_) => {}
            Way::Nodes { nodes, .. } => nodes.forget(),
        }
    }

    /// A connection for a shard, other than the last it got. Has no time-out; may be dropped at any
    /// moment.
    pub(crate) async fn connect(&self, shard: u16) -> Result<Wire, RedisError> {
        let (nodes, lines) = match &self.way {
            #[cfg(test)]
            Way::Custom(connector) => return connector(shard).await,
            Way::Nodes { nodes, lines } => (nodes, lines),
        };
        if nodes.shards() == 1 {
            let line = Line::open(nodes.place(shard).await?, nodes.may_move()).await?;
            return Ok(line.wire(shard));
        }
        let connected = self.connect_shared(nodes, lines, shard).await;
        if connected.is_err() {
            // The node may be gone, and another have its slots.
            nodes.forget();
        }
        connected
    }

    async fn connect_shared(
        &self,
        nodes: &Nodes,
        lines: &Mutex<Lines>,
        shard: u16,
    ) -> Result<Wire, RedisError> {
        lock(lines).give_up(shard);
        let place = nodes.place(shard).await?;
        let cell = lock(lines).cell(&place.name);
        // Others who want the same node wait for one connect; if that fails they try themselves.
        let wire = cell.get_or_try_init(|| Line::open(place, true)).await?.wire(shard);
        lock(lines).given.insert(shard, cell);
        Ok(wire)
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// What this shard got last is given to nobody any more.
    fn give_up(&mut self, shard: u16) {
        if let Some(given) = self.given.remove(&shard) {
            self.current.retain(|_, current| !Arc::ptr_eq(current, &given));
        }
    }

    fn cell(&mut self, node: &str) -> Arc<OnceCell<Line>> {
        let cell = self.current.entry(node.to_owned()).or_default();
        if cell.get().is_some_and(Line::is_over) {
            *cell = Arc::default();
        }
        Arc::clone(cell)
    }
}

impl Line {
    async fn open(place: Place, check_role: bool) -> Result<Self, RedisError> {
        let ears = Arc::<Ears>::default();
        let hearing = Arc::clone(&ears);
        let config: AsyncConnectionConfig = nodes::quiet().set_push_sender(move |push| {
            hearing.hear(push);
            Ok::<(), SendError>(())
        });
        let mut connection = nodes::connect(place.info, config).await?;
        if check_role {
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            if !role.first().is_some_and(is_master) {
                return Err(nodes::refusal(ErrorKind::Client, "this redis is not a master"));
            }
        }
        Ok(Self { connection, ears })
    }

    fn wire(&self, shard: u16) -> Wire {
        let (sender, pushes) = mpsc::unbounded_channel();
        self.ears.lock().insert(shard, sender);
        if self.is_over() {
            // It ended between being opened and now.
            self.ears.lock().clear();
        }
        Wire { connection: self.connection.clone(), pushes }
    }

    fn is_over(&self) -> bool {
        self.ears.is_over.load(Relaxed)
    }
}

fn is_master(role: &Value) -> bool {
    redis::from_redis_value_ref::<String>(role).is_ok_and(|role| role == "master")
}

impl Ears {
    /// Must not block: it runs where the connection is read.
    fn hear(&self, push: PushInfo) {
        match (&push.kind, &push.data[..]) {
            (
                PushKind::Message | PushKind::SMessage,
                [Value::BulkString(channel), Value::BulkString(payload)],
            ) => {
                let shard = keys::shard_of(channel);
                if let Some(ear) = shard.and_then(|shard| self.lock().get(&shard).cloned()) {
                    // A shard that has gone on to another connection hears nothing here.
                    drop(ear.send(Push { payload: payload.clone() }));
                }
            }
            (PushKind::Disconnection, _) => {
                self.is_over.store(true, Relaxed);
                self.lock().clear();
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, mpsc::UnboundedSender<Push>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: PushKind, channel: &str) -> PushInfo {
        let data = [channel, "hint"].map(|text| Value::BulkString(text.into()));
        PushInfo { kind, data: data.into() }
    }

    #[tokio::test]
    async fn a_push_goes_to_the_shard_its_channel_belongs_to() {
        let ears = Ears::default();
        let mut pushes = Vec::new();
        for shard in [3, 11] {
            let (sender, receiver) = mpsc::unbounded_channel();
            ears.lock().insert(shard, sender);
            pushes.push(receiver);
        }
        ears.hear(message(PushKind::Message, "p:{11}:@n:w"));
        ears.hear(message(PushKind::SMessage, "p:{11}:@n:w"));
        ears.hear(message(PushKind::Message, "p:{4}:@n:w"));
        ears.hear(message(PushKind::Subscribe, "p:{3}:@n:w"));
        assert!(pushes[0].try_recv().is_err());
        assert_eq!(pushes[1].recv().await.unwrap().payload, b"hint");
        assert_eq!(pushes[1].recv().await.unwrap().payload, b"hint");

        ears.hear(PushInfo { kind: PushKind::Disconnection, data: Vec::new() });
        assert_eq!(pushes[0].recv().await, None, "the end of the connection is the end of pushes");
        assert_eq!(pushes[1].recv().await, None);
    }

    #[test]
    fn who_connects_again_never_gets_the_same_connection() {
        let mut lines = Lines::default();
        let first = lines.cell("a:1");
        assert!(Arc::ptr_eq(&first, &lines.cell("a:1")), "two shards of one node share");
        lines.given.insert(0, Arc::clone(&first));
        lines.given.insert(1, Arc::clone(&first));
        lines.give_up(0);
        let second = lines.cell("a:1");
        assert!(!Arc::ptr_eq(&first, &second));
        lines.given.insert(0, Arc::clone(&second));
        lines.give_up(1);
        assert!(Arc::ptr_eq(&second, &lines.cell("a:1")), "what 1 gives up was given up already");
    }

    #[tokio::test]
    async fn a_connector_of_ones_own_is_asked_for_each_connection() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let route = Route::custom(Arc::new({
            let asked = Arc::clone(&asked);
            move |shard| {
                asked.lock().unwrap().push(shard);
                Box::pin(async { Err(nodes::refusal(ErrorKind::Client, "not today")) })
            }
        }));
        route.moved();
        assert_eq!(route.shards(), 1);
        assert!(route.connect(0).await.is_err());
        assert_eq!(*asked.lock().unwrap(), [0]);
    }
}
