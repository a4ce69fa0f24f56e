//! `/hosts`: who holds how many connections to whom.
//!
//! Of hosts that this instance knows, or of any one host by `?host=`; of one that shares a budget
//! with others, the budget. What the fleet holds is asked
//! of Redis in one exchange, for up to [`ASKED`] of the hosts listed; beyond that, and while Redis
//! is away, it is what this instance heard last, and `holders` is null.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use super::Answer;
use super::Held;
use super::RedisState;
use super::Sources;
use super::decoded;
use super::problem;
use crate::base::authority::HostKey;
use crate::limit::host::HostSnapshot;
use crate::limit::rules::Pattern;

/// Hosts about which Redis is asked for one answer.
const ASKED: usize = 256;
/// For its answer, should the limiter's own time-out be longer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn list(sources: &Sources, query: &str) -> Answer {
    let one = query.split('&').find_map(|pair| pair.strip_prefix("host="));
    let hosts = match one {
        None => {
            let mut hosts = sources.limiter.snapshot();
            hosts.sort_by(|one, other| one.key.cmp(&other.key));
            hosts
        }
        Some(text) => {
            let Some(text) = decoded(text) else {
                return problem(StatusCode::BAD_REQUEST, "host: not percent-encoded UTF-8");
            };
            let key = match text.parse() {
                Ok(Pattern::Suffix(suffix)) => Ok(HostKey::budget(&suffix)),
                _ => HostKey::parse(&text),
            };
            match key {
                Ok(key) => vec![snapshot(sources, &sources.limiter.counted(&key))],
                Err(why) => return problem(StatusCode::BAD_REQUEST, &format!("host: {why}")),
            }
        }
    };
    let redis = sources.instances.redis();
    let held = match redis {
        RedisState::Learning | RedisState::Up => {
            let keys = hosts.iter().take(ASKED).map(|host| host.key.clone()).collect();
            let held = tokio::time::timeout(PATIENCE, sources.instances.held(keys)).await;
            held.ok().flatten().unwrap_or_default()
        }
        RedisState::Away | RedisState::Off => Vec::new(),
    };
    let held = held.into_iter().map(Some).chain(std::iter::repeat(None));
    let tell = |(host, held): (&HostSnapshot, Option<Held>)| match redis {
        // Nobody else is there to hold any.
        RedisState::Off => told(host, Some(Held { total: host.open, ..Held::default() })),
        RedisState::Away | RedisState::Learning | RedisState::Up => told(host, held),
    };
    let hosts: Vec<Value> = hosts.iter().zip(held).map(tell).collect();
    super::json(StatusCode::OK, &json!({ "hosts": hosts, "fleet": fleet(sources) }))
}

/// A host's numbers; zeros for one that nobody asked this instance for.
fn snapshot(sources: &Sources, key: &HostKey) -> HostSnapshot {
    match sources.limiter.find(key) {
        Some(host) => host.snapshot(sources.limiter.is_shared()),
        None => HostSnapshot {
            key: key.clone(),
            open: 0,
            granted: 0,
            total: 0,
            limit: sources.limiter.limit(key),
            waiting: 0,
            idle: 0,
            queued: 0,
            starved: false,
        },
    }
}

/// How this instance stands to its fleet; null without one.
fn fleet(sources: &Sources) -> Value {
    let Some(fleet) = sources.limiter.fleet_snapshot() else { return Value::Null };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "instance": fleet.instance,
        "instances": fleet.instances,
        "state": fleet.state,
        "epoch": fleet.epoch,
        "term": fleet.term,
        "lease_ms": fleet.lease.map(millis),
        "learning_ms": fleet.learning.map(millis),
        "hints": { "served": fleet.served, "recalled": fleet.recalled },
        "messages": fleet.messages,
    })
}

fn told(host: &HostSnapshot, held: Option<Held>) -> Value {
    let fleet_open = held.as_ref().map_or(host.total, |held| held.total.max(host.open));
    json!({
        "host": host.key.as_str(),
        "open": host.open,
        "fleet_open": fleet_open,
        "granted": host.granted,
        "slack": host.granted.saturating_sub(host.open),
        "limit": (host.limit > 0).then_some(host.limit),
        "waiting": host.waiting,
        "queued": host.queued,
        "starved": host.starved,
        "idle": host.idle,
        "holders": held.map(|held| held.holders),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::future::BoxFuture;

    use super::super::Instances;
    use super::super::tests::get;
    use super::super::tests::sources;
    use super::*;
    use crate::limit::Patience;

    async fn hosts(sources: &Sources, target: &str) -> Value {
        let (status, kind, text) = get(sources, target).await;
        assert_eq!((status, kind.as_str()), (200, "application/json"), "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["hosts"].take()
    }

    #[tokio::test]
    async fn the_hosts_it_knows_are_listed_by_name() {
        let sources = sources(2);
        let mut held = Vec::new();
        for host in ["b.test", "a.test:81", "a.test:81"] {
            let key = HostKey::parse(host).unwrap();
            held.push(sources.limiter.acquire(&key, Patience::None).await.unwrap());
        }
        let host = |name: &str, open: u32| {
            json!({
                "host": name, "open": open, "fleet_open": open, "granted": open, "limit": 2,
                "waiting": 0, "idle": 0, "queued": 0, "slack": 0, "starved": false, "holders": {},
            })
        };
        assert_eq!(
            hosts(&sources, "/hosts").await,
            json!([host("a.test:81", 2), host("b.test", 1)])
        );
        assert_eq!(
            hosts(&sources, "/hosts?x=1&host=A.test.%3a81").await,
            json!([host("a.test:81", 2)])
        );
    }

    #[tokio::test]
    async fn a_host_nobody_asked_for_has_zeros_and_its_limit() {
        let sources = sources(0);
        sources.limiter.set_host_limit("*.test".parse().unwrap(), 7);
        let found = hosts(&sources, "/hosts?host=new.test").await;
        assert_eq!((&found[0]["open"], &found[0]["limit"]), (&json!(0), &json!(7)));
        let found = hosts(&sources, "/hosts?host=%5B::1%5D:99").await;
        assert_eq!((&found[0]["host"], &found[0]["limit"]), (&json!("[::1]:99"), &json!(null)));
        assert_eq!(hosts(&sources, "/hosts").await, json!([]), "asking does not make it known");
    }

    #[tokio::test]
    async fn a_host_that_shares_a_budget_is_told_as_that() {
        let sources = sources(9);
        let rule = "*.test=2/shared".parse().unwrap();
        sources.limiter.set_fleet_limit(rule).await.unwrap();
        let key = HostKey::parse("a.test").unwrap();
        let _held = sources.limiter.acquire(&key, Patience::None).await.unwrap();
        for asked in ["a.test", "b.test:81", "*.test", "%2a.TEST"] {
            let found = hosts(&sources, &format!("/hosts?host={asked}")).await;
            assert_eq!(
                (&found[0]["host"], &found[0]["open"], &found[0]["limit"]),
                (&json!("*.test"), &json!(1), &json!(2)),
                "{asked}"
            );
        }
    }

    #[tokio::test]
    async fn a_host_that_is_none_is_a_bad_request() {
        let sources = sources(0);
        for host in ["127.1", "a%zz", "a%4", "%ff", "", "u@a"] {
            let (status, kind, _) = get(&sources, &format!("/hosts?host={host}")).await;
            assert_eq!((status, kind.as_str()), (400, "application/problem+json"), "{host}");
        }
    }

    #[derive(Debug)]
    struct Two(RedisState);

    impl Instances for Two {
        fn redis(&self) -> RedisState {
            self.0
        }

        fn held(&self, hosts: Vec<HostKey>) -> BoxFuture<'_, Option<Vec<Held>>> {
            let holders = BTreeMap::from([("w1".to_owned(), 3), ("w2".to_owned(), 4)]);
            let held = hosts.iter().map(|_| Held { total: 7, holders: holders.clone() }).collect();
            Box::pin(async { Some(held) })
        }
    }

    #[tokio::test]
    async fn the_fleet_is_asked_unless_redis_is_away() {
        let mut sources = sources(9);
        sources.instances = Box::new(Two(RedisState::Up));
        let found = hosts(&sources, "/hosts?host=a.test").await;
        assert_eq!((&found[0]["open"], &found[0]["fleet_open"]), (&json!(0), &json!(7)));
        assert_eq!(found[0]["holders"], json!({ "w1": 3, "w2": 4 }));
        sources.instances = Box::new(Two(RedisState::Away));
        let found = hosts(&sources, "/hosts?host=a.test").await;
        assert_eq!((&found[0]["fleet_open"], &found[0]["holders"]), (&json!(0), &json!(null)));
    }
}
