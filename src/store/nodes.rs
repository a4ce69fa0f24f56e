//! Which Redis is the one for a shard, and how to connect there.
//!
//! A single Redis is always the same. Behind sentinels there is one master, and they know which
//! ([`super::sentinel`]). A cluster has a node for each slot, and each node knows all; one that is
//! cut off from the majority is not believed.
//!
//! Nothing here keeps a connection. Invariant: no call repeats anything, and none has a time-out
//! but the callers'; who asks does that.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::AsyncConnectionConfig;
use redis::Client;
use redis::ClientTlsConfig;
use redis::ConnectionAddr;
use redis::ConnectionInfo;
use redis::ErrorKind;
use redis::IntoConnectionInfo;
use redis::ProtocolVersion;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::TlsCertificates;
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::Deployment;
use super::Login;
use super::Node;
use super::Settings;
use super::Tls;
use super::keys;
use super::sentinel::Master;
use super::sentinel::Sentinels;

/// Knows which node a shard is at. Clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    inner: Arc<Inner>,
}

struct Inner {
    deployment: Deployment,
    shards: u16,
    tls: Option<Tls>,
    /// A single Redis.
    fixed: Option<ConnectionInfo>,
    sentinels: Option<Sentinels>,
    /// The node of each shard of a cluster; empty when it must be asked for.
    map: Mutex<Map>,
}

/// What is known of a cluster.
#[derive(Clone, Default)]
struct Map {
    /// By shard; empty when it must be asked for.
    shards: Vec<Node>,
    /// All masters ever heard of last, to be asked when no seed answers.
    known: Vec<Node>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("deployment", &self.deployment).finish_non_exhaustive()
    }
}

/// Where a shard is now.
#[derive(Clone)]
pub(crate) struct Place {
    /// To tell nodes apart; `host:port` but for a single Redis.
    pub(crate) name: String,
    pub(crate) info: ConnectionInfo,
    /// Who is asked whether it is still there.
    pub(super) master: Option<(Sentinels, Master)>,
}

impl Nodes {
    /// Errs when the settings name nothing that could be a Redis.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RedisError> {
        // Two crates in the tree bring a TLS provider each; rustls wants to be told which. An
        // error says that somebody else in this process has told it, which is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let (deployment, tls) = (settings.deployment.clone(), settings.tls.clone());
        let fixed = match &deployment {
            Deployment::Single { url } => {
                let info = url.0.as_str().into_connection_info()?;
                Some(with_certificates(info, tls.as_ref())?)
            }
            Deployment::Sentinel { sentinels: nodes, .. }
            | Deployment::Cluster { seeds: nodes, .. } => {
                let no_node = || refusal(ErrorKind::InvalidClientConfig, "no address to ask");
                let first = nodes.first().ok_or_else(no_node)?;
                // Bad certificates are told now, not at each connection.
                address(first, &Login::default(), tls.as_ref())?;
                None
            }
        };
        let shards = settings.shards();
        let sentinels = match &deployment {
            Deployment::Sentinel { sentinels, master, sentinel_login, .. } => {
                let place = |node| address(node, sentinel_login, tls.as_ref());
                let places = sentinels.iter().map(place).collect::<Result<_, _>>()?;
                Some(Sentinels { places, master: master.clone() })
            }
            Deployment::Cluster { .. } | Deployment::Single { .. } => None,
        };
        let map = Mutex::default();
        let inner = Inner { deployment, shards, tls, fixed, sentinels, map };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn shards(&self) -> u16 {
        self.inner.shards
    }

    /// Whether a node may stop being the one for its shard while it answers.
    pub(crate) fn may_move(&self) -> bool {
        !matches!(self.inner.deployment, Deployment::Single { .. })
    }

    /// Where a shard is. Asks when that is not known: the sentinels always, a cluster's nodes once,
    /// and again after [`Nodes::forget`].
    pub(crate) async fn place(&self, shard: u16) -> Result<Place, RedisError> {
        let inner = &self.inner;
        match &inner.deployment {
            Deployment::Single { url } => {
                let info = match &inner.fixed {
                    Some(info) => info.clone(),
                    None => url.0.as_str().into_connection_info()?,
                };
                Ok(Place { name: String::new(), info, master: None })
            }
            Deployment::Sentinel { login, database, .. } => {
                let no_sentinel = || refusal(ErrorKind::EmptySentinelList, "no sentinel to ask");
                let sentinels = inner.sentinels.as_ref().ok_or_else(no_sentinel)?;
                let master = sentinels.ask().await?;
                let info = address(&master.node, login, inner.tls.as_ref())?;
                let settings = info.redis_settings().clone().set_db(*database);
                let info = info.set_redis_settings(settings);
                let name = master.node.to_string();
                Ok(Place { name, info, master: Some((sentinels.clone(), master)) })
            }
            Deployment::Cluster { seeds, login } => {
                let known = self.map().shards.get(usize::from(shard)).cloned();
                let node = match known {
                    Some(node) => node,
                    None => self.ask_cluster(seeds, login, shard).await?,
                };
                let info = address(&node, login, inner.tls.as_ref())?;
                Ok(Place { name: node.to_string(), info, master: None })
            }
        }
    }

    /// What was known of a cluster may be wrong: it is asked for again when needed.
    pub(crate) fn forget(&self) {
        let mut map = self.inner.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.shards.clear();
    }

    async fn ask_cluster(
        &self,
        seeds: &[Node],
        login: &Login,
        shard: u16,
    ) -> Result<Node, RedisError> {
        let mut nodes = seeds.to_vec();
        nodes.extend(self.map().known.into_iter().filter(|node| !seeds.contains(node)));
        let ask = |node: &Node| {
            let (node, info) = (node.clone(), address(node, login, self.inner.tls.as_ref()));
            async move {
                let mut connection = connect(info?, quiet()).await?;
                let mut questions = redis::pipe();
                questions.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
                let (info, slots): (String, Value) = questions.query_async(&mut connection).await?;
                if !info.contains("cluster_state:ok") {
                    let what = "the cluster is down, or this node is cut off from it";
                    return Err(refusal(ErrorKind::ClusterConnectionNotFound, what));
                }
                Ok(Ranges::read(&slots, &node))
            }
        };
        let ranges = first_good(nodes.iter().map(ask).collect()).await?;
        let uncovered = || {
            let what = "no node of the cluster has this shard's slot";
            refusal(ErrorKind::ClusterConnectionNotFound, what)
        };
        let found = ranges.node(keys::slot(shard)).cloned().ok_or_else(uncovered)?;
        let shards: Option<Vec<Node>> =
            (0..keys::CLUSTER).map(|shard| ranges.node(keys::slot(shard)).cloned()).collect();
        let mut map = self.inner.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.shards = shards.unwrap_or_default();
        map.known = ranges.0.into_iter().map(|(_, _, node)| node).collect();
        Ok(found)
    }

    fn map(&self) -> Map {
        self.inner.map.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connection without time-outs and repeats behind the caller's back.
pub(crate) fn quiet() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

pub(crate) async fn connect(
    info: ConnectionInfo,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, RedisError> {
    Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}

pub(crate) fn refusal(kind: ErrorKind, what: &'static str) -> RedisError {
    RedisError::from((kind, what))
}

/// How to connect to a node that is known by its address.
pub(crate) fn address(
    node: &Node,
    login: &Login,
    tls: Option<&Tls>,
) -> Result<ConnectionInfo, RedisError> {
    let (host, port) = (node.host.clone(), node.port);
    let place = match tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let mut settings = RedisConnectionInfo::default();
    if let Some(username) = &login.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(&password.0);
    }
    with_certificates(place.into_connection_info()?.set_redis_settings(settings), tls)
}

fn with_certificates(
    info: ConnectionInfo,
    tls: Option<&Tls>,
) -> Result<ConnectionInfo, RedisError> {
    // PERF: with Nagle's algorithm a second batch would wait for the answer to the first.
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    // Its name and version would be one more command that an ACL must allow.
    let settings =
        info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
    let Some(tls) = tls.filter(|tls| tls.authority.is_some() || tls.client.is_some()) else {
        return Ok(info);
    };
    let certificates = TlsCertificates {
        client_tls: tls.client.as_ref().map(|client| ClientTlsConfig {
            client_cert: client.certificate.clone(),
            client_key: client.key.0.clone().into_bytes(),
        }),
        root_cert: tls.authority.clone(),
    };
    Ok(Client::build_with_tls(info, certificates)?.get_connection_info().clone())
}

/// The first good answer; without one, the last bad one.
async fn first_good<T>(
    mut asked: FuturesUnordered<impl Future<Output = Result<T, RedisError>>>,
) -> Result<T, RedisError> {
    let mut failed = refusal(ErrorKind::InvalidClientConfig, "no address to ask");
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Slots from, slots to (inclusive), their master.
struct Ranges(Vec<(u16, u16, Node)>);

impl Ranges {
    /// The answer of `teller` to CLUSTER SLOTS.
    fn read(answer: &Value, teller: &Node) -> Self {
        let Value::Array(rows) = answer else { return Self(Vec::new()) };
        Self(rows.iter().filter_map(|row| range(row, teller)).collect())
    }

    fn node(&self, slot: u16) -> Option<&Node> {
        self.0.iter().find(|(from, to, _)| (*from..=*to).contains(&slot)).map(|(_, _, node)| node)
    }
}

fn range(row: &Value, teller: &Node) -> Option<(u16, u16, Node)> {
    let Value::Array(row) = row else { return None };
    let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = &row[..] else {
        return None;
    };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    // A node that does not know its own address leaves it out: it is the one that was asked.
    let host = match redis::from_redis_value_ref::<Option<String>>(host) {
        Ok(Some(host)) if !host.is_empty() => host,
        _ => teller.host.clone(),
    };
    let node = Node { host, port: u16::try_from(*port).ok()? };
    Some((u16::try_from(*from).ok()?, u16::try_from(*to).ok()?, node))
}
