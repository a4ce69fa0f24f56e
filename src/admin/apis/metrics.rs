//! The numbers per API in `/metrics`.
//!
//! The `api` label has the names that the settings have, the `parent` label those of their parents.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use crate::policy::api::Api;
use crate::policy::api::Apis;
use crate::policy::api::counts::Outcome;
use crate::policy::api::counts::RESULTS;
use crate::policy::api::counts::Totals;

/// All APIs, as of one moment.
#[derive(Debug)]
pub(in super::super) struct Numbers(pub(in super::super) Arc<Apis>);

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let apis: Vec<(&Api, Totals)> =
            self.0.all().into_iter().map(|api| (&**api, api.counts.totals())).collect();
        if apis.is_empty() {
            return Ok(());
        }
        let encoder = &mut encoder;
        let help = "Requests of an API by what their clients got";
        let outcomes = Outcome::ALL.map(Outcome::as_str);
        let label = ("outcome", outcomes.as_slice());
        family(encoder, ("narrows_api_requests", help), label, &apis, |totals| &totals.requests)?;
        let help = "Attempts at the upstream of an API, by class of status or cause of failure";
        let label = ("result", RESULTS.as_slice());
        family(encoder, ("narrows_api_attempts", help), label, &apis, |totals| &totals.attempts)?;
        let help = "Attempts that were not the first of their request";
        single(encoder, ("narrows_api_retries", help), &apis, |totals| totals.retries)
    }
}

/// A counter for each API and word.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    (label, words): (&str, &[&str]),
    apis: &[(&Api, Totals)],
    counts: fn(&Totals) -> &[u64],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, totals) in apis {
        for (word, n) in words.iter().zip(counts(totals)) {
            let labels = [("api", &**api.name()), (label, *word)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(n, None)?;
        }
    }
    Ok(())
}

/// A counter for each API.
fn single(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    apis: &[(&Api, Totals)],
    count: fn(&Totals) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, totals) in apis {
        let labels = [("api", &**api.name())];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count(totals), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::get;
    use super::super::super::tests::sources;
    use super::*;
    use crate::policy::End;
    use crate::policy::api::Settings;
    use crate::store::board::Board;

    #[tokio::test]
    async fn each_api_tells_how_its_requests_and_attempts_ended() {
        let sources = sources(1);
        let (_, _, text) = get(&sources, "/metrics").await;
        assert!(!text.contains("narrows_api"), "there is none");

        let settings = [Settings::new("orders"), Settings::new("default")];
        sources.apis.store(Arc::new(Apis::new(&settings, &Board::alone(), None)));
        let apis = sources.apis.load();
        let counts = &apis.named("orders").unwrap().counts;
        counts.attempted(End::Status(503), false);
        counts.attempted(End::Status(200), true);
        counts.asked(Outcome::Success);
        counts.asked(Outcome::Breaker);
        let (_, _, text) = get(&sources, "/metrics").await;
        for line in [
            "narrows_api_requests_total{api=\"orders\",outcome=\"success\"} 1",
            "narrows_api_requests_total{api=\"orders\",outcome=\"breaker_open\"} 1",
            "narrows_api_requests_total{api=\"orders\",outcome=\"failure\"} 0",
            "narrows_api_requests_total{api=\"default\",outcome=\"success\"} 0",
            "narrows_api_attempts_total{api=\"orders\",result=\"5xx\"} 1",
            "narrows_api_attempts_total{api=\"orders\",result=\"2xx\"} 1",
            "narrows_api_attempts_total{api=\"orders\",result=\"connect_refused\"} 0",
            "narrows_api_retries_total{api=\"orders\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
