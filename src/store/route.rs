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
use std::time::Duration;

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
use super::sentinel::Master;
use super::sentinel::Sentinels;

/// What one shard speaks through.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) connection: MultiplexedConnection,
    /// Ends when the connection has, or is not to be used any more: the sentinels have another
    /// master. Then it is time to connect anew.
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
            let place = nodes.place(shard).await?;
            let master = place.master.clone();
            let line = Line::open(place, nodes.may_move()).await?;
            let wire = line.wire(shard);
            if let Some((sentinels, master)) = master {
                line.end_with(sentinels, master);
            }
            return Ok(wire);
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

    /// Ends the pushes, by which the session is told to connect anew, when the master is another.
    /// The task that looks for that ends soon after whoever has the [`Wire`] drops it.
    fn end_with(self, sentinels: Sentinels, master: Master) {
        let ears = self.ears;
        tokio::spawn(async move {
            tokio::select! {
                () = sentinels.watch(&master) => ears.end(),
                () = ears.are_deaf() => {}
            }
        });
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
                self.end();
            }
            _ => {}
        }
    }

    fn end(&self) {
        self.is_over.store(true, Relaxed);
        self.lock().clear();
    }

    /// Until nobody listens any more.
    async fn are_deaf(&self) {
        while self.lock().values().any(|ear| !ear.is_closed()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, mpsc::UnboundedSender<Push>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::Child;
    use std::process::Command;
    use std::process::Stdio;

    use tempfile::TempDir;

    use super::*;
    use crate::base::clock;
    use crate::store::Deployment;
    use crate::store::Login;
    use crate::store::Node;

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

    /// Three masters that share the slots; gone with the test.
    struct Cluster {
        servers: Vec<(Child, u16)>,
        folders: Vec<TempDir>,
    }

    impl Cluster {
        const LAST: [u16; 3] = [5460, 10922, 16383];

        async fn start() -> Self {
            let mut cluster = Self { servers: Vec::new(), folders: Vec::new() };
            for number in 0..3 {
                // Another test may have the port, or that of the bus.
                while cluster.servers.len() == number {
                    cluster.try_to_add().await;
                }
            }
            let mut first = 0;
            for (number, last) in Self::LAST.into_iter().enumerate() {
                let slots = format!("CLUSTER ADDSLOTSRANGE {first} {last}");
                cluster.ask::<Value>(number, &slots).await.unwrap();
                let epoch = format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1);
                cluster.ask::<Value>(number, &epoch).await.unwrap();
                first = last + 1;
            }
            for (_, port) in &cluster.servers[1..] {
                let meet = format!("CLUSTER MEET 127.0.0.1 {port} {}", port + 1);
                cluster.ask::<Value>(0, &meet).await.unwrap();
            }
            for number in 0..3 {
                cluster.until(number, "CLUSTER INFO", "cluster_slots_ok:16384").await;
                cluster.until(number, "CLUSTER INFO", "cluster_state:ok").await;
            }
            cluster
        }

        async fn try_to_add(&mut self) {
            let folder = tempfile::tempdir().unwrap();
            let port = fastrand::u16(5_000..16_000) * 2;
            let bus = (port + 1).to_string();
            let server = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
                .args(["--cluster-enabled", "yes", "--cluster-port", &bus])
                .arg("--dir")
                .arg(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let itself = format!("process_id:{}\r", server.id());
            let number = self.servers.len();
            self.servers.push((server, port));
            self.folders.push(folder);
            let deadline = clock::now() + Duration::from_secs(10);
            while clock::now() < deadline {
                if self.servers[number].0.try_wait().unwrap().is_some() {
                    self.servers.pop();
                    return;
                }
                let info = self.ask::<String>(number, "INFO server").await;
                if info.is_ok_and(|info| info.contains(&itself)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("redis-server does not answer on port {port}");
        }

        async fn ask<T: redis::FromRedisValue>(
            &self,
            number: usize,
            words: &str,
        ) -> Result<T, RedisError> {
            let url = format!("redis://127.0.0.1:{}", self.servers[number].1);
            let client = redis::Client::open(url)?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            command(words).query_async(&mut connection).await
        }

        async fn until(&self, number: usize, words: &str, is_in: &str) {
            let deadline = clock::now() + Duration::from_secs(15);
            while !self.ask::<String>(number, words).await.is_ok_and(|told| told.contains(is_in)) {
                assert!(clock::now() < deadline, "{words} never tells {is_in}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        fn settings(&self) -> Settings {
            // One that is not there, and one that is.
            let seeds = [1, self.servers[0].1];
            let seeds = seeds.map(|port| Node { host: "127.0.0.1".to_owned(), port });
            let deployment = Deployment::Cluster { seeds: seeds.into(), login: Login::default() };
            Settings { deployment, ..Settings::new("") }
        }
    }

    impl Drop for Cluster {
        fn drop(&mut self) {
            for (server, _) in &mut self.servers {
                drop(server.kill());
                drop(server.wait());
            }
        }
    }

    fn command(words: &str) -> redis::Cmd {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        command
    }

    async fn on<T: redis::FromRedisValue>(wire: &Wire, words: &str) -> T {
        command(words).query_async(&mut wire.connection.clone()).await.unwrap()
    }

    /// Which connection to which node it is.
    async fn line_of(wire: &Wire) -> (String, u64) {
        (on(wire, "CLUSTER MYID").await, on(wire, "CLIENT ID").await)
    }

    #[tokio::test]
    async fn on_a_cluster_shards_of_a_node_share_a_connection_and_each_hears_its_own() {
        let cluster = Cluster::start().await;
        let route = Route::new(&cluster.settings()).unwrap();
        let connects = (0..route.shards()).map(|shard| route.connect(shard));
        let mut wires = futures_util::future::try_join_all(connects).await.unwrap();
        let mut lines = HashSet::new();
        for (shard, wire) in wires.iter_mut().enumerate() {
            assert_eq!(
                on::<u16>(wire, &format!("CLUSTER KEYSLOT x{{{shard}}}")).await,
                keys::slot(u16::try_from(shard).unwrap())
            );
            let channel = format!("p:{{{shard}}}:@n:w");
            // It is the right node: another would say MOVED.
            on::<u64>(wire, &format!("HSET p:{{{shard}}}:h f 1")).await;
            on::<Value>(wire, &format!("SSUBSCRIBE {channel}")).await;
            on::<u64>(wire, &format!("SPUBLISH {channel} to-{shard}")).await;
            let push = wire.pushes.recv().await.unwrap();
            assert_eq!(push.payload, format!("to-{shard}").into_bytes());
            lines.insert(line_of(wire).await);
        }
        assert_eq!(lines.len(), 3, "one connection to each node: {lines:?}");
        assert!(wires.iter_mut().all(|wire| wire.pushes.try_recv().is_err()));

        // Who connects again gets a new one, and so do those that come after; the others go on.
        let again = route.connect(3).await.unwrap();
        assert!(!lines.contains(&line_of(&again).await));
        assert!(lines.contains(&line_of(&wires[7]).await), "{lines:?}");
        let after = route.connect(7).await.unwrap();
        assert_eq!(line_of(&after).await, line_of(&again).await, "3 and 7 are at one node");
        drop((again, after));

        // A connection that ends is heard by all who have it.
        let node = line_of(&wires[2]).await;
        for number in 0..3 {
            cluster.ask::<Value>(number, "CLIENT KILL TYPE pubsub").await.unwrap();
        }
        assert_eq!(wires[2].pushes.recv().await, None);
        let again = route.connect(2).await.unwrap();
        assert_ne!(line_of(&again).await, node);
    }

    #[tokio::test]
    async fn a_slot_that_has_moved_is_found_at_its_new_node() {
        let cluster = Cluster::start().await;
        let route = Route::new(&cluster.settings()).unwrap();
        let before = route.connect(0).await.unwrap();
        let target: String = cluster.ask(0, "CLUSTER MYID").await.unwrap();
        assert_ne!(line_of(&before).await.0, target);
        for number in 0..3 {
            let set = format!("CLUSTER SETSLOT {} NODE {target}", keys::slot(0));
            cluster.ask::<Value>(number, &set).await.unwrap();
        }
        let told = command("HSET p:{0}:h f 1");
        let told = told.query_async::<Value>(&mut before.connection.clone()).await;
        assert_eq!(
            told.unwrap_err().code(),
            Some("MOVED"),
            "nothing is redirected behind our back"
        );
        route.moved();
        let after = route.connect(0).await.unwrap();
        assert_eq!(line_of(&after).await.0, target);
        on::<u64>(&after, "HSET p:{0}:h f 1").await;
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
