//! `narrows redis check`: whether a Redis is fit for a fleet, in words.
//!
//! It looks at what the limiter needs and nothing else: who answers, in which role, how fast, what
//! it would throw away, and whether this user may run what the scripts run. What one Redis is asked
//! is in [`node`], the rights in [`rights`].
//!
//! Invariants: no key is left behind, and none but those under the prefix is touched. Every wait has
//! an end ([`PATIENCE`]).

mod node;
mod rights;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use redis::ConnectionInfo;
use redis::ErrorKind;
use redis::RedisError;
use redis::ServerErrorKind;
use redis::aio::MultiplexedConnection;

use super::Deployment;
use super::Login;
use super::Node;
use super::Settings;
use super::Tls;
use super::nodes;
use super::nodes::Nodes;
use super::nodes::Place;

/// How long one step may take: more than `--redis-timeout`, so that a slow Redis can be told from
/// one that is not there.
const PATIENCE: Duration = Duration::from_secs(3);

/// How good or bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, with a risk.
    Warn,
    /// It does not work.
    Fail,
}

impl Grade {
    /// As the lines begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub grade: Grade,
    /// What was looked at, in a word.
    pub about: &'static str,
    /// Which Redis, where there are several: `host:port`.
    pub node: Option<String>,
    /// What was found, a sentence without its full stop.
    pub words: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4} {}", self.grade.name(), self.about)?;
        if let Some(node) = &self.node {
            write!(f, " ({node})")?;
        }
        write!(f, ": {}", self.words)?;
        if !self.remedy.is_empty() {
            write!(f, ". {}", self.remedy)?;
        }
        Ok(())
    }
}

/// What has been found so far, at one node or about all.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
    node: Option<String>,
}

impl Findings {
    fn at(node: &str) -> Self {
        Self { all: Vec::new(), node: Some(node.to_owned()).filter(|node| !node.is_empty()) }
    }

    fn ok(&mut self, about: &'static str, words: impl Into<String>) {
        self.note(Grade::Ok, about, words, "");
    }

    fn warn(&mut self, about: &'static str, words: impl Into<String>, remedy: impl Into<String>) {
        self.note(Grade::Warn, about, words, remedy);
    }

    fn fail(&mut self, about: &'static str, words: impl Into<String>, remedy: impl Into<String>) {
        self.note(Grade::Fail, about, words, remedy);
    }

    fn note(
        &mut self,
        grade: Grade,
        about: &'static str,
        words: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (words, remedy, node) = (words.into(), remedy.into(), self.node.clone());
        self.all.push(Finding { grade, about, node, words, remedy });
    }
}

/// Looks at the Redis of these settings, every node of it that narrows would use.
pub async fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = Findings::default();
    let nodes = match Nodes::new(settings) {
        Ok(nodes) => nodes,
        Err(error) => {
            findings.fail("settings", error.to_string(), "");
            return findings.all;
        }
    };
    if let Deployment::Sentinel { sentinels, master, sentinel_login, .. } = &settings.deployment {
        let tls = settings.tls.as_ref();
        look_at_sentinels(&mut findings, sentinels, master, sentinel_login, tls).await;
    }
    // Each node once, with the first shard that it has.
    let mut places: BTreeMap<String, (u16, Place)> = BTreeMap::new();
    for shard in 0..nodes.shards() {
        match in_time(nodes.place(shard)).await {
            Ok(place) => drop(places.entry(place.name.clone()).or_insert((shard, place))),
            Err(error) => {
                let (words, remedy) = explain(&error);
                let remedy = match &settings.deployment {
                    Deployment::Cluster { login, .. } if node::is_no_right(&error) => {
                        let info = nodes::address(&Node::default(), login, None);
                        info.map_or_else(
                            |_bad| remedy.to_owned(),
                            |info| rights::remedy(settings, info.redis_settings()),
                        )
                    }
                    Deployment::Cluster { .. }
                    | Deployment::Sentinel { .. }
                    | Deployment::Single { .. } => remedy.to_owned(),
                };
                findings.fail(what(&settings.deployment), words, remedy);
                return findings.all;
            }
        }
    }
    if matches!(settings.deployment, Deployment::Cluster { .. }) {
        let names: Vec<&str> = places.keys().map(String::as_str).collect();
        let words = format!(
            "it is up, and the {} shards are at {} of its nodes: {}",
            nodes.shards(),
            names.len(),
            names.join(", ")
        );
        findings.ok("cluster", words);
    }
    let mut all = findings.all;
    for (shard, place) in places.into_values() {
        all.extend(node::look(settings, shard, place).await);
    }
    all
}

fn what(deployment: &Deployment) -> &'static str {
    match deployment {
        Deployment::Cluster { .. } => "cluster",
        Deployment::Sentinel { .. } => "master",
        Deployment::Single { .. } => "reachable",
    }
}

async fn look_at_sentinels(
    findings: &mut Findings,
    sentinels: &[Node],
    master: &str,
    login: &Login,
    tls: Option<&Tls>,
) {
    let mut agree = true;
    let mut masters = Vec::new();
    for sentinel in sentinels {
        let mut here = Findings::at(&sentinel.to_string());
        match nodes::address(sentinel, login, tls) {
            Ok(info) => match ask_sentinel(info, master).await {
                Ok((Some(node), quorum)) => {
                    here.ok("sentinel", format!("the master {master} is {node}"));
                    if let Err(error) = quorum {
                        agree = false;
                        let words = format!("no failover is possible: {}", told(&error));
                        let remedy = "Start the sentinels that are down, or lower the quorum";
                        here.warn("quorum", words, remedy);
                    }
                    masters.push(node);
                }
                Ok((None, _)) => {
                    let words = format!("it knows no master of the name {master}");
                    here.fail("sentinel", words, "Give its name by --redis-sentinel-master");
                }
                Err(error) => {
                    let (words, remedy) = explain(&error);
                    // One of several may be down: that is what they are several for.
                    let grade = if sentinels.len() > 1 { Grade::Warn } else { Grade::Fail };
                    here.note(grade, "sentinel", words, remedy);
                }
            },
            Err(error) => here.fail("sentinel", error.to_string(), ""),
        }
        findings.all.append(&mut here.all);
    }
    if masters.windows(2).any(|pair| pair[0] != pair[1]) {
        let remedy = "Wait until the failover is over; if it lasts, some sentinel is cut off";
        findings.warn("quorum", "the sentinels do not agree on the master", remedy);
    } else if agree && !masters.is_empty() {
        findings.ok("quorum", "the sentinels agree, and could choose another master");
    }
}

type Quorum = Result<(), RedisError>;

async fn ask_sentinel(
    info: ConnectionInfo,
    master: &str,
) -> Result<(Option<Node>, Quorum), RedisError> {
    let mut connection = in_time(nodes::connect(info, nodes::quiet())).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    let address: Option<(String, u16)> = ask(&mut connection, &question).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("ckquorum").arg(master);
    let quorum = ask::<redis::Value>(&mut connection, &question).await.map(drop);
    Ok((address.map(|(host, port)| Node { host, port }), quorum))
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    question: &redis::Cmd,
) -> Result<T, RedisError> {
    in_time(question.query_async(connection)).await
}

async fn in_time<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(done) => done,
        Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
    }
}

/// What Redis said, without the library's words around it.
fn told(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Why one cannot speak to a Redis, and what to do.
fn explain(error: &RedisError) -> (String, &'static str) {
    let text = error.to_string();
    let has = |part: &str| text.to_lowercase().contains(part);
    if has("certificate") || has("tls") || has("invalidcontenttype") || has("handshake") {
        let remedy = "It must speak TLS, with a certificate for this name: see --redis-tls-ca, and \
                      --redis-tls-cert if it asks for one";
        return (format!("no TLS: {text}"), remedy);
    }
    if has("wrongpass") || has("invalid username-password") || has("without any password") {
        let remedy = "Give the right ones by --redis-username and --redis-password";
        return ("user or password is wrong".to_owned(), remedy);
    }
    if has("noauth") || error.kind() == ErrorKind::AuthenticationFailed {
        return ("it wants a password".to_owned(), "Give it by --redis-password");
    }
    if error.kind() == ErrorKind::RESP3NotSupported {
        return ("it is older than Redis 6".to_owned(), "Use Redis 6.0 or later, or Valkey");
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        let remedy = "Allow it; the ACL lines are in the README, at Redis";
        return (format!("this user may not: {}", told(error)), remedy);
    }
    if error.is_timeout() {
        let words = format!("no answer within {} s", PATIENCE.as_secs());
        let remedy = "See whether it hangs, or a firewall drops what is sent there; for a Redis \
                      that wants TLS give --redis-tls on";
        return (words, remedy);
    }
    if error.is_connection_refusal() {
        return (text, "Start it, or correct the address");
    }
    if error.is_connection_dropped() {
        let remedy = "It closed the connection: for a Redis that wants TLS give --redis-tls on";
        return (text, remedy);
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let mut findings = Findings::at("r:1");
        findings.warn("eviction", "it evicts", "Do not");
        findings.node = None;
        findings.ok("role", "master");
        let lines: Vec<String> = findings.all.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["warn eviction (r:1): it evicts. Do not", "ok   role: master"]);
    }
}
