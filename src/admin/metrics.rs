//! `/metrics`: the sums of all threads' cells, and the limiter's numbers per host.
//!
//! The text is `OpenMetrics` 1.0, which Prometheus reads. The `host` label is bounded: hosts with a
//! rule of their own and a hundred others (`limit::hosts`) have their names, all the rest are
//! [`OTHERS`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit;

use super::Answer;
use super::RedisState;
use super::Sources;
use super::apis::metrics::Numbers;
use super::body;
use super::problem;
use super::tiers::Kept;
use crate::base::authority::HostKey;
use crate::limit::Limiter;
use crate::limit::Reason;
use crate::limit::host::Counters;
use crate::limit::rules::Limit;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;

/// The label of all hosts without a name of their own; no host is called so.
const OTHERS: &str = "(other)";
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn text(sources: &Sources) -> Answer {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(&sources.metrics)));
    registry.register_collector(Box::new(Hosts(sources.limiter.clone())));
    registry.register_collector(Box::new(Access(sources.access.clone())));
    registry.register_collector(Box::new(Decided(sources.decisions.clone())));
    registry.register_collector(Box::new(Redis(sources.instances.redis())));
    registry.register_collector(Box::new(Fleet(sources.limiter.clone())));
    registry.register_collector(Box::new(Numbers {
        apis: sources.apis.load_full(),
        connects: sources.connects.clone(),
        board: sources.board.snapshot(),
    }));
    registry.register_collector(Box::new(Kept(sources.tiers.clone())));
    let mut text = String::with_capacity(16 * 1024);
    match encode(&mut text, &registry) {
        Ok(()) => body(StatusCode::OK, KIND, text),
        Err(fmt::Error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics not encodable"),
    }
}

/// What one line per host says.
#[derive(Debug, Default)]
struct Row {
    name: String,
    open: u64,
    slack: u64,
    waiting: u64,
    starved: u64,
    /// None for [`OTHERS`], whose limits may differ.
    limit: Option<Limit>,
    admitted: u64,
    waited: u64,
    wait_seconds: f64,
    refused: [u64; Reason::ALL.len()],
}

impl Row {
    fn count(&mut self, counters: &Counters) {
        self.admitted = counters.admitted.load(Relaxed);
        self.waited = counters.waited.load(Relaxed);
        let waited = Duration::from_nanos(counters.wait_nanos.load(Relaxed));
        self.wait_seconds = waited.as_secs_f64();
        self.refused = counters.refused.each_ref().map(|count| count.load(Relaxed));
    }
}

/// Name, help, and what a row says; nothing where it does not apply.
type Gauge = (&'static str, &'static str, fn(&Row) -> Option<u64>);

#[derive(Debug)]
struct Hosts(Limiter);

impl Hosts {
    fn rows(&self) -> Vec<Row> {
        let mut others = Row { name: OTHERS.to_owned(), ..Row::default() };
        others.count(self.0.others());
        let mut named: HashMap<HostKey, Row> = HashMap::new();
        self.0.each_name(|key, counters| {
            let limit = Some(self.0.limit(key));
            let mut row = Row { name: key.to_string(), limit, ..Row::default() };
            row.count(counters);
            named.insert(key.clone(), row);
        });
        self.0.each_host(|host| {
            let now = host.snapshot(self.0.is_shared());
            // One that was named a moment ago counts among the others this time.
            let row = named.get_mut(&now.key).filter(|_| host.named).unwrap_or(&mut others);
            row.open += u64::from(now.open);
            row.slack += u64::from(now.granted.saturating_sub(now.open));
            row.waiting += u64::from(now.waiting);
            row.starved += u64::from(now.starved);
            row.limit = row.limit.map(|_| now.limit);
        });
        let mut rows: Vec<Row> = named.into_values().collect();
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        rows.push(others);
        rows
    }
}

impl Collector for Hosts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut known: u64 = 0;
        self.0.each(|_| known += 1);
        let help = "Hosts that this instance remembers, used or not";
        encoder
            .encode_descriptor("narrows_hosts", help, None, MetricType::Gauge)?
            .encode_gauge(&known)?;
        let rows = self.rows();
        let gauges: [Gauge; 5] = [
            (
                "narrows_connections",
                "Connections of this instance to a host, open or being dialled",
                |row| Some(row.open),
            ),
            ("narrows_connection_limit", "Limit in force for a host; 0 is unlimited", |row| {
                row.limit.map(u64::from)
            }),
            ("narrows_waiting", "Requests of this instance waiting for a host", |row| {
                Some(row.waiting)
            }),
            ("narrows_slack", "Slots of a host that this instance holds and does not use", |row| {
                Some(row.slack)
            }),
            (
                "narrows_starved",
                "Whether requests wait for a host at other instances, 1 or 0; hosts where they do",
                |row| Some(row.starved),
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for row in &rows {
                if let Some(value) = value(row) {
                    let labels = [("host", row.name.as_str())];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }

        let help = "Requests refused for what whoever asks may have of a host";
        let mut family = encoder.encode_descriptor(
            "narrows_identity_refused",
            help,
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            let count = self.0.shares().refused[reason as usize].load(Relaxed);
            let labels = [("reason", reason.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }

        let help = "Slots given";
        let mut family =
            encoder.encode_descriptor("narrows_admitted", help, None, MetricType::Counter)?;
        for row in &rows {
            let labels = [("host", row.name.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&row.admitted, None)?;
        }

        let help = "Requests that had to wait for a slot, or for the word that there is none";
        let mut family =
            encoder.encode_descriptor("narrows_waited", help, None, MetricType::Counter)?;
        for row in &rows {
            let labels = [("host", row.name.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&row.waited, None)?;
        }

        let help = "How long they waited in all";
        let unit = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("narrows_wait", help, unit, MetricType::Counter)?;
        for row in &rows {
            let labels = [("host", row.name.as_str())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&row.wait_seconds, None)?;
        }

        let help = "Requests that got no slot, by reason";
        let mut family =
            encoder.encode_descriptor("narrows_refused", help, None, MetricType::Counter)?;
        for row in &rows {
            for reason in Reason::ALL {
                let labels = [("host", row.name.as_str()), ("reason", reason.as_str())];
                let mut metric = family.encode_family(&labels)?;
                let refused = row.refused[reason as usize];
                metric.encode_counter::<NoLabelSet, _, u64>(&refused, None)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Access(Log);

impl Collector for Access {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if !self.0.is_on() {
            return Ok(());
        }
        let help = "Lines of the access log dropped because its writing was behind";
        let name = "narrows_access_log_dropped";
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.0.dropped(), None)
    }
}

#[derive(Debug)]
struct Decided(Decisions);

impl Collector for Decided {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if !self.0.is_on() {
            return Ok(());
        }
        let help = "Lines of the decision log dropped because its writing was behind";
        let name = "narrows_decision_log_dropped";
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.0.dropped(), None)
    }
}

#[derive(Debug)]
struct Redis(RedisState);

impl Collector for Redis {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let up: u64 = match self.0 {
            RedisState::Off => return Ok(()),
            RedisState::Away => 0,
            RedisState::Learning | RedisState::Up => 1,
        };
        let help = "Whether Redis answers, 1 or 0";
        encoder
            .encode_descriptor("narrows_redis_up", help, None, MetricType::Gauge)?
            .encode_gauge(&up)
    }
}

/// How this instance stands to its fleet.
#[derive(Debug)]
struct Fleet(Limiter);

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(fleet) = self.0.fleet_snapshot() else { return Ok(()) };
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        let gauges = [
            ("narrows_instances", "Instances in the fleet", f64::from(fleet.instances)),
            (
                "narrows_lease_left_seconds",
                "How long Redis still vouches for the slots of this instance",
                seconds(fleet.lease),
            ),
            (
                "narrows_learning_left_seconds",
                "How long nothing new is granted after a loss of data; 0 in between",
                seconds(fleet.learning),
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            family.encode_gauge(&value)?;
        }
        let counters = [
            ("narrows_epochs", "Connections of the limiter to Redis", fleet.epoch),
            (
                "narrows_redis_messages",
                "Calls of a script for the limiter; over narrows_admitted, calls per admission",
                fleet.messages,
            ),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let help = "Hints heard from Redis: slots that came to the queue, and calls to give back";
        let mut family =
            encoder.encode_descriptor("narrows_hints", help, None, MetricType::Counter)?;
        for (kind, count) in [("served", fleet.served), ("recalled", fleet.recalled)] {
            let labels = [("kind", kind)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Changes with each death of an instance and each loss of data";
        encoder
            .encode_descriptor("narrows_term", help, None, MetricType::Gauge)?
            .encode_gauge(&fleet.term)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::get;
    use super::super::tests::sources;
    use super::*;
    use crate::limit::Patience;

    #[tokio::test]
    async fn each_host_tells_what_it_has_and_what_was_refused() {
        let sources = sources(1);
        let key = HostKey::parse("a.test:81").unwrap();
        let held = sources.limiter.acquire(&key, Patience::None).await.unwrap();
        sources.limiter.acquire(&key, Patience::None).await.unwrap_err();
        let (status, kind, text) = get(&sources, "/metrics").await;
        assert_eq!((status, kind.as_str()), (200, KIND));
        for line in [
            "narrows_connections{host=\"a.test:81\"} 1",
            "narrows_connection_limit{host=\"a.test:81\"} 1",
            "narrows_waiting{host=\"a.test:81\"} 0",
            "narrows_admitted_total{host=\"a.test:81\"} 1",
            "narrows_refused_total{host=\"a.test:81\",reason=\"limit\"} 1",
            "narrows_refused_total{host=\"a.test:81\",reason=\"timeout\"} 0",
            "narrows_admitted_total{host=\"(other)\"} 0",
            "narrows_hosts 1",
            "narrows_client_connections 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("redis"), "there is none");
        drop(held);
        let (_, _, text) = get(&sources, "/metrics").await;
        assert!(text.contains("narrows_connections{host=\"a.test:81\"} 0"), "{text}");
    }

    #[test]
    fn redis_is_up_when_it_answers() {
        for (state, line) in [
            (RedisState::Away, "narrows_redis_up 0\n"),
            (RedisState::Learning, "narrows_redis_up 1\n"),
            (RedisState::Up, "narrows_redis_up 1\n"),
        ] {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(Redis(state)));
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            assert!(text.contains(line), "{text}");
        }
    }

    #[tokio::test]
    async fn hosts_beyond_the_bound_share_a_label() {
        let sources = sources(1);
        let mut held = Vec::new();
        for number in 0..150 {
            let key = HostKey::parse(&format!("h{number}.test")).unwrap();
            held.push(sources.limiter.acquire(&key, Patience::None).await.unwrap());
        }
        let (_, _, text) = get(&sources, "/metrics").await;
        let named = text.lines().filter(|line| line.starts_with("narrows_connections{"));
        assert_eq!(named.count(), 101);
        assert!(text.contains("narrows_connections{host=\"(other)\"} 50\n"), "{text}");
        assert!(text.contains("narrows_admitted_total{host=\"(other)\"} 50\n"), "{text}");
        assert!(!text.contains("narrows_connection_limit{host=\"(other)\"}"), "{text}");
    }
}
