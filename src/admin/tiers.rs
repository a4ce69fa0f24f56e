//! Metrics of where kept responses are: memory, Redis, and who fetches them. Those of what became of
//! requests are counted per API.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use crate::policy::cache::tiers::Tiers;

/// Nothing is told while no API keeps anything.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Tiers);

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let told = self.0.snapshot();
        if told.apis == 0 {
            return Ok(());
        }
        let vault = told.vault.as_ref();
        let gauges = [
            (
                "narrows_cache_entries",
                "Requests of which responses are in memory",
                Some(told.memory.entries),
            ),
            ("narrows_cache_bytes", "What they take there", Some(told.memory.bytes)),
            ("narrows_cache_flights", "Responses that are being fetched", Some(told.flights)),
            (
                "narrows_cache_redis_up",
                "Whether Redis answers about kept responses, 1 or 0",
                vault.map(|vault| u64::from(vault.is_up)),
            ),
            (
                "narrows_cache_redis_full",
                "Whether Redis has no room for more of them, 1 or 0",
                vault.map(|vault| u64::from(vault.is_full)),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encoder
                    .encode_descriptor(name, help, None, MetricType::Gauge)?
                    .encode_gauge(&value)?;
            }
        }
        let help = "Requests whose responses had to leave memory for others";
        encoder
            .encode_descriptor("narrows_cache_evicted", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&told.memory.evicted, None)?;
        let help = "How requests came to what was not in memory";
        let ways = [
            ("led", told.led),
            ("followed", told.followed),
            ("inherited", told.inherited),
            ("apart", told.apart),
            ("redis", told.found),
            ("relayed", told.relayed),
        ];
        counters(&mut encoder, ("narrows_cache_fetches", help), "way", &ways)?;
        if let Some(vault) = vault {
            let help = "Calls to Redis about kept responses: answered, not since it was away, not since too much was waiting";
            let results =
                [("answered", vault.answered), ("away", vault.away), ("dropped", vault.dropped)];
            counters(&mut encoder, ("narrows_cache_redis_calls", help), "result", &results)?;
        }
        Ok(())
    }
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &str,
    rows: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, n) in rows {
        let labels = [(label, *value)];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(n, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::get;
    use super::super::tests::sources;

    #[tokio::test]
    async fn it_is_told_how_full_memory_is_once_an_api_keeps_anything() {
        let sources = sources(1);
        assert!(!get(&sources, "/metrics").await.2.contains("narrows_cache_entries"));
        let _drawer = sources.tiers.drawer(&"shop".into(), 1000, Duration::ZERO);
        let (_, _, text) = get(&sources, "/metrics").await;
        for line in [
            "narrows_cache_entries 0",
            "narrows_cache_bytes 0",
            "narrows_cache_flights 0",
            "narrows_cache_evicted_total 0",
            "narrows_cache_fetches_total{way=\"led\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("narrows_cache_redis"), "there is none");
    }
}
