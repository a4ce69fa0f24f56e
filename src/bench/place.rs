//! The Redis that is measured: a private one that ends with the run, or one that was named, from
//! which everything is removed again.
//!
//! Invariants: no Redis is touched that was not named. No key is written but under a prefix of this
//! run's own, and each is told to [`Place::will_write`] before. What a killed run leaves behind at a
//! named Redis goes away by itself within a day.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use redis::Cmd;
use redis::ConnectionInfo;
use redis::Pipeline;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::Failure;
use crate::base::clock;
use crate::store;
use crate::store::Store;
use crate::store::keys::Keys;
use crate::store::nodes;
use crate::store::nodes::Nodes;

/// How long one exchange may take: a machine that is measured is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a private Redis may take to start.
const START: Duration = Duration::from_secs(5);
/// Commands in one write where it does not matter.
const AT_ONCE: usize = 200;
/// For how long keys stay that nothing else ends.
pub(super) const LIFE: Duration = Duration::from_hours(1);

/// The Redis that is measured.
#[derive(Debug)]
pub(super) struct Place {
    settings: store::Settings,
    nodes: Nodes,
    /// What is to be removed in the end, by shard.
    written: Mutex<BTreeMap<u16, BTreeSet<String>>>,
    server: Option<Server>,
}

impl Place {
    /// The one that is named, or a private one.
    pub(super) async fn find(named: Option<&store::Settings>) -> Result<Self, Failure> {
        let (server, mut settings) = if let Some(settings) = named {
            (None, settings.clone())
        } else {
            let server = Server::start()?;
            let url = format!("redis+unix://{}", server.socket().display());
            (Some(server), store::Settings::new(url))
        };
        settings.prefix = format!("{}:bench-{:08x}", settings.prefix, fastrand::u32(..));
        settings.timeout = settings.timeout.max(Duration::from_secs(2));
        let nodes = Nodes::new(&settings)?;
        let mut place = Self { settings, nodes, written: Mutex::default(), server };
        place.wait_for_server().await?;
        Ok(place)
    }

    async fn wait_for_server(&mut self) -> Result<(), Failure> {
        let deadline = clock::now() + START;
        loop {
            let Some(server) = &mut self.server else { return Ok(()) };
            server.check()?;
            match self.connect().await {
                Ok(_connection) => return Ok(()),
                Err(_starting) if clock::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn settings(&self) -> &store::Settings {
        &self.settings
    }

    pub(super) fn is_private(&self) -> bool {
        self.server.is_some()
    }

    /// How to connect to the node that has the first shard.
    pub(super) async fn info(&self) -> Result<ConnectionInfo, Failure> {
        Ok(patiently(self.nodes.place(0)).await?.info)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let info = self.info().await?;
        Ok(patiently(nodes::connect(info, nodes::quiet())).await?)
    }

    /// A way to ask the node that has the first shard.
    pub(super) async fn meter(&self) -> Result<Meter, Failure> {
        Ok(Meter { connection: self.connect().await? })
    }

    /// Keys of this run that are all in the first shard.
    pub(super) fn keys(&self, name: &str) -> Keys {
        let keys = Keys::new(&format!("{}:{name}", self.settings.prefix), 1);
        self.will_write(0, [keys.workers(0), keys.leases(0)].map(str::to_owned));
        keys
    }

    /// These keys are removed in the end.
    pub(super) fn will_write(&self, shard: u16, keys: impl IntoIterator<Item = String>) {
        self.written().entry(shard).or_default().extend(keys);
    }

    /// Removes what was written; a private Redis just ends.
    pub(super) async fn clean(&self) -> Result<(), Failure> {
        if self.is_private() {
            return Ok(());
        }
        let store = Store::new(&self.settings)?;
        let written = std::mem::take(&mut *self.written());
        for (shard, keys) in written {
            for some in keys.into_iter().collect::<Vec<_>>().chunks(1000) {
                let delete = async |connection: &mut deadpool_redis::Connection| {
                    redis::cmd("DEL").arg(some).query_async::<()>(connection).await
                };
                store
                    .call(shard, delete)
                    .await
                    .map_err(|_away| Failure::Unclean { prefix: self.settings.prefix.clone() })?;
            }
        }
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<u16, BTreeSet<String>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn patiently<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result,
        Err(elapsed) => Err(io::Error::from(elapsed).into()),
    }
}

/// Asks Redis, and reads what that cost it.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    connection: MultiplexedConnection,
}

/// What Redis has spent so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// On scripts, or on INCR and DECR: microseconds.
    pub(super) scripts: f64,
    pub(super) bare: f64,
    /// By the whole process, user and system: microseconds.
    pub(super) process: f64,
}

impl Meter {
    /// The answers to commands that go out in one write. An error among them is one of the whole.
    pub(super) async fn write(&mut self, commands: &Pipeline) -> Result<Vec<Value>, Failure> {
        let call = self.connection.send_packed_commands(commands, 0, commands.len());
        let values = patiently(call).await?;
        for value in &values {
            if let Value::ServerError(error) = value {
                return Err(Failure::Answer(error.to_string()));
            }
        }
        Ok(values)
    }

    /// The answers to many commands.
    pub(super) async fn all(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, Failure> {
        let mut values = Vec::with_capacity(commands.len());
        for pipeline in pipelines(commands, AT_ONCE) {
            values.extend(self.write(&pipeline).await?);
        }
        Ok(values)
    }

    pub(super) async fn ask<T: redis::FromRedisValue>(
        &mut self,
        words: &[&str],
    ) -> Result<T, Failure> {
        let mut command = Cmd::new();
        command.arg(words);
        Ok(patiently(command.query_async(&mut self.connection)).await?)
    }

    /// Waits until Redis has nothing left to do: after many new keys it goes on for a while to move
    /// them to a larger table, a little with each command.
    pub(super) async fn settle(&mut self, is_alone: bool) -> Result<(), Failure> {
        const LOOK: Duration = Duration::from_millis(50);
        // One that serves others too never rests.
        let until = clock::now() + if is_alone { START } else { LOOK };
        while clock::now() < until {
            let before = self.spent().await?.process;
            tokio::time::sleep(LOOK).await;
            if self.spent().await?.process - before < LOOK.as_secs_f64() * 1e6 * 0.04 {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn version(&mut self) -> Result<String, Failure> {
        let text: String = self.ask(&["INFO", "server"]).await?;
        Ok(field(&text, "redis_version:").unwrap_or("of unknown version").to_owned())
    }

    /// At a Redis that others use too, what they cost it is in it.
    pub(super) async fn spent(&mut self) -> Result<Spent, Failure> {
        let commands: String = self.ask(&["INFO", "commandstats"]).await?;
        let cpu: String = self.ask(&["INFO", "cpu"]).await?;
        let of = |name: &str| {
            let stats = field(&commands, &format!("cmdstat_{name}:")).unwrap_or_default();
            let usec = stats.split(',').find_map(|part| part.strip_prefix("usec="));
            usec.and_then(|usec| usec.parse().ok()).unwrap_or(0.0)
        };
        let seconds = |name: &str| field(&cpu, name).and_then(|text| text.parse().ok());
        let seconds: Option<f64> =
            seconds("used_cpu_sys:").zip(seconds("used_cpu_user:")).map(|(a, b): (f64, f64)| a + b);
        Ok(Spent {
            scripts: of("evalsha"),
            bare: of("incr") + of("decr"),
            process: seconds.unwrap_or(0.0) * 1e6,
        })
    }
}

/// Commands in writes of so many each.
pub(super) fn pipelines(commands: Vec<Cmd>, at_once: usize) -> Vec<Pipeline> {
    let mut all = Vec::with_capacity(commands.len().div_ceil(at_once));
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() {
        let mut pipeline = Pipeline::with_capacity(at_once);
        for command in commands.by_ref().take(at_once) {
            pipeline.add_command(command);
        }
        all.push(pipeline);
    }
    all
}

/// What stands behind `name` at the beginning of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// A redis-server of this run's own, on a socket in a folder of its own; both end with it.
#[derive(Debug)]
struct Server {
    folder: PathBuf,
    process: Child,
}

impl Server {
    fn start() -> Result<Self, Failure> {
        let name = format!("narrows-bench-{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        let folder_failed = |source| Failure::Folder { path: folder.clone(), source };
        // SECURITY: nobody else may speak to it.
        DirBuilder::new().mode(0o700).create(&folder).map_err(folder_failed)?;
        match spawn(&folder) {
            Ok(process) => Ok(Self { folder, process }),
            Err(error) => {
                remove(&folder);
                Err(Failure::NoServer(error))
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    /// Errs when it has ended.
    fn check(&mut self) -> Result<(), Failure> {
        if let Ok(None) = self.process.try_wait() {
            return Ok(());
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        Err(Failure::Ended(log.lines().last().unwrap_or("it said nothing").to_owned()))
    }
}

fn spawn(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--loglevel", "warning"]);
    command.arg("--unixsocket").arg(folder.join("redis.sock")).args(["--unixsocketperm", "700"]);
    // It is to be done soon with work that it puts off.
    command.args(["--hz", "100"]);
    command.arg("--dir").arg(folder).arg("--logfile").arg(folder.join("log"));
    // A signal from the terminal is for narrows, which ends it then.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "cannot remove");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            tracing::warn!(%error, "cannot end the private redis-server");
        }
        remove(&self.folder);
    }
}
