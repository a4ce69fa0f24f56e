//! Redis and nothing else: how to reach it, what is kept there ([`keys`]), and the messages that
//! change it ([`scripts`], [`limits`]).
//!
//! Policies speak to it by way of [`board`], kept responses by way of [`vault`].
//!
//! [`nodes`] knows which Redis is the one to ask, of a single one, behind sentinels, or in a
//! cluster. [`Store`] is the pool for everything that needs no order: reads for people. The limiter
//! has connections of its own ([`route`]), because its messages must keep theirs.
//!
//! Invariant: nothing here waits longer than [`Settings::timeout`] for each step, and nothing
//! scans the keyspace.

pub(crate) mod board;
pub mod check;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod nodes;
pub(crate) mod route;
pub(crate) mod scripts;
mod sentinel;
pub(crate) mod vault;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use deadpool_redis::Connection;
use deadpool_redis::Manager;
use deadpool_redis::Pool;
use deadpool_redis::PoolError;
use deadpool_redis::Runtime;
use futures_util::future::try_join_all;
use redis::AsyncConnectionConfig;
use redis::RedisError;
use subtle::ConstantTimeEq;
use thiserror::Error;

use self::keys::Keys;
use self::nodes::Nodes;
use self::nodes::Place;
use crate::base::authority::HostKey;

/// Where Redis is and how long it may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which Redis, or which of them.
    pub deployment: Deployment,
    /// What TLS needs beside the address: where it is set, all nodes of a [`Deployment::Sentinel`]
    /// or [`Deployment::Cluster`] are spoken to by TLS; a single Redis says so in its URL.
    pub tls: Option<Tls>,
    /// The first part of every key.
    pub prefix: String,
    /// How long one call, or one connect, may take.
    pub timeout: Duration,
}

/// How Redis is run.
#[derive(Clone, Debug, PartialEq)]
pub enum Deployment {
    /// A cluster: the hosts are spread over its nodes.
    Cluster {
        /// Nodes to ask for all others; more than one in case that one is down.
        seeds: Vec<Node>,
        /// The same at all nodes.
        login: Login,
    },
    /// A master with replicas, watched by sentinels who choose another master when it fails.
    Sentinel {
        /// Whom to ask for the master.
        sentinels: Vec<Node>,
        /// What the sentinels call it.
        master: String,
        /// At the sentinels.
        sentinel_login: Login,
        /// At the master.
        login: Login,
        /// Number of the database.
        database: i64,
    },
    /// One Redis.
    Single {
        /// `redis://`, `rediss://` or `redis+unix://`, with user, password and database filled in.
        url: Secret,
    },
}

/// A Redis process by its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// A name or IP address, this without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who one is at Redis; nobody by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Login {
    /// The user of an ACL; none is `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

/// Whom to trust, and who one is, by TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Certificates in PEM of the authorities to trust; none trusts the system's.
    pub authority: Option<Vec<u8>>,
    /// A certificate of one's own.
    pub client: Option<ClientCertificate>,
}

/// What a Redis that asks for certificates is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificate {
    /// The chain, in PEM.
    pub certificate: Vec<u8>,
    /// Its key, in PEM.
    pub key: Secret,
}

impl Settings {
    /// Into how many parts the hosts are divided: one, or on a cluster a fixed number.
    pub(crate) fn shards(&self) -> u16 {
        match self.deployment {
            Deployment::Cluster { .. } => keys::CLUSTER,
            Deployment::Sentinel { .. } | Deployment::Single { .. } => 1,
        }
    }

    /// The documented defaults, for the Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            deployment: Deployment::Single { url: Secret(url.into()) },
            tls: None,
            prefix: "proxy_rate_limiter".to_owned(),
            timeout: Duration::from_millis(200),
        }
    }
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(pub String);

/// SECURITY: in a time that tells no more than the length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Why Redis did not tell.
#[derive(Debug, Error)]
pub(crate) enum Away {
    #[error("no connection")]
    Pool(#[from] PoolError),
    #[error("redis failed")]
    Redis(#[from] RedisError),
    #[error("redis took too long")]
    TooLong(#[from] tokio::time::error::Elapsed),
}

/// The slots of one host in the whole fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Slots that instances which are alive hold.
    pub total: u32,
    /// Which instance holds how many.
    pub holders: BTreeMap<String, u32>,
}

/// A few connections for what needs no order. To be used on one runtime. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    nodes: Nodes,
    /// By name of the node.
    pools: Arc<Mutex<HashMap<String, Pool>>>,
    keys: Keys,
    timeout: Duration,
}

/// To each node.
const CONNECTIONS: usize = 2;

impl Store {
    /// Errs when the settings name nothing that could be a Redis.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RedisError> {
        let nodes = Nodes::new(settings)?;
        let keys = Keys::new(&settings.prefix, nodes.shards());
        Ok(Self { nodes, pools: Arc::default(), keys, timeout: settings.timeout })
    }

    /// Who holds slots of these hosts, one answer for each, in their order. Instances whose lease
    /// was reaped do not count, though their slots may still stand in Redis.
    pub(crate) async fn fleet(&self, hosts: &[HostKey]) -> Result<Vec<Fleet>, Away> {
        let mut shards: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (number, host) in hosts.iter().enumerate() {
            shards.entry(self.keys.shard(host)).or_default().push(number);
        }
        let reads = shards.into_iter().map(async |(shard, numbers)| {
            let hosts: Vec<&HostKey> = numbers.iter().map(|number| &hosts[*number]).collect();
            let fleets = self.call(shard, async |connection| {
                read_fleets(connection, &self.keys, shard, &hosts).await
            });
            Ok::<_, Away>((numbers, fleets.await?))
        });
        let mut all = vec![Fleet::default(); hosts.len()];
        for (numbers, fleets) in try_join_all(reads).await? {
            for (number, fleet) in numbers.into_iter().zip(fleets) {
                all[number] = fleet;
            }
        }
        Ok(all)
    }

    /// Lets `call` use a connection to the node of a shard, for as long as one call may take. After
    /// a failure the node is looked for anew the next time.
    pub(crate) async fn call<T>(
        &self,
        shard: u16,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        let called = self.try_call(shard, call).await;
        if called.is_err() && self.nodes.may_move() {
            self.nodes.forget();
            self.pools().clear();
        }
        called
    }

    async fn try_call<T>(
        &self,
        shard: u16,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        let place = tokio::time::timeout(self.timeout, self.nodes.place(shard)).await??;
        let mut connection = self.pool(place)?.get().await?;
        Ok(tokio::time::timeout(self.timeout, call(&mut connection)).await??)
    }

    fn pool(&self, place: Place) -> Result<Pool, RedisError> {
        let mut pools = self.pools();
        if let Some(pool) = pools.get(&place.name) {
            return Ok(pool.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let manager = Manager::new_with_config(place.info, config)?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(self.timeout))
            .create_timeout(Some(self.timeout))
            .recycle_timeout(Some(self.timeout))
            .build()
            .map_err(|error| {
                RedisError::from((
                    redis::ErrorKind::InvalidClientConfig,
                    "the pool cannot be built",
                    error.to_string(),
                ))
            })?;
        pools.insert(place.name, pool.clone());
        Ok(pool)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hosts of one shard.
async fn read_fleets(
    connection: &mut Connection,
    keys: &Keys,
    shard: u16,
    hosts: &[&HostKey],
) -> Result<Vec<Fleet>, RedisError> {
    let mut reads = redis::pipe();
    for host in hosts {
        reads.cmd("HGETALL").arg(keys.host(host));
    }
    let mut rows = read_counts(reads.query_async(connection)).await?;
    let ids: BTreeSet<&String> = rows.iter().flat_map(BTreeMap::keys).collect();
    if ids.is_empty() {
        return Ok(rows.into_iter().map(|_| Fleet::default()).collect());
    }
    let mut read = redis::cmd("HMGET");
    read.arg(keys.workers(shard)).arg(&ids);
    let epochs: Vec<Option<String>> = read.query_async(connection).await?;
    let alive: BTreeSet<String> =
        ids.into_iter().zip(epochs).filter_map(|(id, epoch)| epoch.map(|_| id.clone())).collect();
    for row in &mut rows {
        row.retain(|id, _| alive.contains(id));
    }
    Ok(rows.into_iter().map(|holders| Fleet { total: holders.values().sum(), holders }).collect())
}

/// Host hashes without the fields that are no instance's.
async fn read_counts(
    rows: impl Future<Output = Result<Vec<BTreeMap<String, String>>, RedisError>>,
) -> Result<Vec<BTreeMap<String, u32>>, RedisError> {
    let counts = |row: BTreeMap<String, String>| {
        let slots = row.into_iter().filter(|(id, _)| !id.starts_with('#'));
        // Behind the number there may be more: `5+2~3^17` (lua/grant.lua).
        let held = |text: &str| text.split(['+', '~', '^']).next()?.parse().ok();
        slots.filter_map(|(id, slots)| Some((id, held(&slots)?))).collect()
    };
    Ok(rows.await?.into_iter().map(counts).collect())
}

#[cfg(test)]
mod tests {
    use super::route::Route;
    use super::*;

    fn settings(url: &str) -> Settings {
        Settings { prefix: "p".into(), ..Settings::new(url) }
    }

    #[tokio::test]
    async fn tls_finds_its_provider() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(&format!("rediss://{}", listener.local_addr().unwrap()));
        let route = Route::new(&settings).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (connected, ()) = tokio::join!(route.connect(0), hang_up);
        assert!(connected.unwrap_err().is_io_error(), "not a panic");
    }

    #[test]
    fn what_is_no_redis_is_an_error() {
        assert!(Route::new(&settings("http://localhost")).is_err());
        assert!(Store::new(&settings("")).is_err());
    }

    #[test]
    fn a_password_is_never_printed() {
        let text = format!("{:?}", settings("redis://:hunter2@localhost"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
