//! Redis and nothing else: how to reach it, what is kept there ([`keys`]), and the messages that
//! change it ([`scripts`], [`limits`]).
//!
//! [`Store`] is the pool for everything that needs no order: reads for people. The limiter opens
//! its own connection ([`Settings::client`]), because its messages must keep theirs.
//!
//! Invariant: nothing here waits longer than [`Settings::timeout`] for each step, and nothing
//! scans the keyspace.

pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod scripts;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use deadpool_redis::Manager;
use deadpool_redis::Pool;
use deadpool_redis::PoolError;
use deadpool_redis::Runtime;
use redis::AsyncConnectionConfig;
use redis::Client;
use redis::ConnectionInfo;
use redis::IntoConnectionInfo;
use redis::RedisError;
use thiserror::Error;

use self::keys::Keys;
use crate::base::authority::HostKey;

/// Where Redis is and how long it may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://`, `rediss://` or `redis+unix://`, with user, password and database filled in.
    pub url: Secret,
    /// The first part of every key.
    pub prefix: String,
    /// How long one call, or one connect, may take.
    pub timeout: Duration,
}

impl Settings {
    /// The documented defaults, for the Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret(url.into()),
            prefix: "proxy_rate_limiter".to_owned(),
            timeout: Duration::from_millis(200),
        }
    }
}

impl Settings {
    /// The client for a connection of one's own, and how to connect: without time-outs and repeats
    /// behind the caller's back.
    pub(crate) fn client(&self) -> Result<(Client, AsyncConnectionConfig), RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        Ok((Client::open(self.address()?)?, config))
    }

    fn address(&self) -> Result<ConnectionInfo, RedisError> {
        // Two crates in the tree bring a TLS provider each; rustls wants to be told which. An
        // error says that somebody else in this process has told it, which is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let address = self.url.0.as_str().into_connection_info()?;
        // PERF: with Nagle's algorithm a second batch would wait for the answer to the first.
        let tcp = address.tcp_settings().clone().set_nodelay(true);
        Ok(address.set_tcp_settings(tcp))
    }
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(pub String);

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

/// A few connections for what needs no order. To be used on one runtime.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: Pool,
    keys: Keys,
    timeout: Duration,
}

const CONNECTIONS: usize = 2;

impl Store {
    pub(crate) fn new(settings: &Settings) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.timeout))
            .set_response_timeout(Some(settings.timeout));
        let manager = Manager::new_with_config(settings.address()?, config)?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.timeout))
            .create_timeout(Some(settings.timeout))
            .recycle_timeout(Some(settings.timeout))
            .build()
            .map_err(|error| {
                RedisError::from((
                    redis::ErrorKind::InvalidClientConfig,
                    "the pool cannot be built",
                    error.to_string(),
                ))
            })?;
        Ok(Self { pool, keys: Keys::new(&settings.prefix), timeout: settings.timeout })
    }

    /// Who holds slots of these hosts, one answer for each, in their order. Instances whose lease
    /// was reaped do not count, though their slots may still stand in Redis.
    pub(crate) async fn fleet(&self, hosts: &[HostKey]) -> Result<Vec<Fleet>, Away> {
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.pool.get().await?;
        let mut reads = redis::pipe();
        for host in hosts {
            reads.cmd("HGETALL").arg(self.keys.host(host));
        }
        let rows = reads.query_async(&mut connection);
        let mut rows: Vec<BTreeMap<String, u32>> =
            tokio::time::timeout(self.timeout, read_counts(rows)).await??;
        let ids: BTreeSet<&String> = rows.iter().flat_map(BTreeMap::keys).collect();
        if ids.is_empty() {
            return Ok(rows.into_iter().map(|_| Fleet::default()).collect());
        }
        let mut read = redis::cmd("HMGET");
        read.arg(self.keys.workers()).arg(&ids);
        let epochs = read.query_async(&mut connection);
        let epochs: Vec<Option<String>> = tokio::time::timeout(self.timeout, epochs).await??;
        let alive: BTreeSet<String> = ids
            .into_iter()
            .zip(epochs)
            .filter_map(|(id, epoch)| epoch.map(|_| id.clone()))
            .collect();
        for row in &mut rows {
            row.retain(|id, _| alive.contains(id));
        }
        Ok(rows
            .into_iter()
            .map(|holders| Fleet { total: holders.values().sum(), holders })
            .collect())
    }
}

/// Host hashes without the fields that are no instance's.
async fn read_counts(
    rows: impl Future<Output = Result<Vec<BTreeMap<String, String>>, RedisError>>,
) -> Result<Vec<BTreeMap<String, u32>>, RedisError> {
    let counts = |row: BTreeMap<String, String>| {
        let slots = row.into_iter().filter(|(id, _)| !id.starts_with('#'));
        slots.filter_map(|(id, slots)| Some((id, slots.parse().ok()?))).collect()
    };
    Ok(rows.await?.into_iter().map(counts).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Settings {
        let timeout = Duration::from_millis(200);
        Settings { url: Secret(url.into()), prefix: "p".into(), timeout }
    }

    #[tokio::test]
    async fn tls_finds_its_provider() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(&format!("rediss://{}", listener.local_addr().unwrap()));
        let (client, config) = settings.client().unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        let (connected, ()) = tokio::join!(connect, hang_up);
        assert!(connected.unwrap_err().is_io_error(), "not a panic");
    }

    #[test]
    fn what_is_no_redis_is_an_error() {
        assert!(settings("http://localhost").client().is_err());
        assert!(Store::new(&settings("")).is_err());
    }

    #[test]
    fn a_password_is_never_printed() {
        let text = format!("{:?}", settings("redis://:hunter2@localhost"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
