//! The way by which policies speak to Redis, in `/metrics`; nothing without Redis.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use crate::store::board::Board;
use crate::store::board::Snapshot;

/// How the board is doing.
#[derive(Debug)]
pub(super) struct Numbers(pub(super) Board);

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(snapshot) = self.0.snapshot() else { return Ok(()) };
        let Snapshot { is_up, answered, away, dropped, connects } = snapshot;
        let help = "Whether Redis answers the policies of APIs, 1 or 0";
        let mut up =
            encoder.encode_descriptor("narrows_policy_redis_up", help, None, MetricType::Gauge)?;
        up.encode_gauge(&i64::from(is_up))?;
        let (name, help) = ("narrows_policy_redis_connects", "Connections of policies to Redis");
        let mut made = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        made.encode_counter::<NoLabelSet, _, u64>(&connects, None)?;
        let name = "narrows_policy_redis_calls";
        let help = "What policies had to say to Redis, by what came of it";
        let mut calls = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (result, count) in [("answered", answered), ("away", away), ("dropped", dropped)] {
            let labels = [("result", result)];
            let mut metric = calls.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::get;
    use super::super::tests::sources;
    use super::*;
    use crate::store::Settings;

    #[tokio::test]
    async fn the_way_of_policies_to_redis_is_told_where_there_is_one() {
        let mut sources = sources(1);
        let (_, _, text) = get(&sources, "/metrics").await;
        assert!(!text.contains("narrows_policy_redis"), "{text}");
        sources.board = Board::new(&Settings::new("redis://localhost"), || 1);
        let (_, _, text) = get(&sources, "/metrics").await;
        for line in [
            "narrows_policy_redis_up 0",
            "narrows_policy_redis_connects_total 0",
            "narrows_policy_redis_calls_total{result=\"dropped\"} 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
    }
}
