//! The numbers per API in `/metrics`.
//!
//! The `api` label has the names that the settings have, the `parent` label those of their parents.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use crate::policy::Rule;
use crate::policy::access::entrance::Entrance;
use crate::policy::access::reloads::Of;
use crate::policy::api::Api;
use crate::policy::api::Apis;
use crate::policy::api::counts::Outcome;
use crate::policy::api::counts::RESULTS;
use crate::policy::api::counts::Totals;
use crate::policy::breaker;
use crate::policy::breaker::Breakers;
use crate::policy::breaker::Circuit;
use crate::policy::breaker::Condition;
use crate::policy::cache::status::Outcome as Cached;
use crate::policy::cooldown::CoolDowns;
use crate::policy::cooldown::Counted;
use crate::policy::decided::Effect;
use crate::policy::decided::Sums;
use crate::policy::parents::ParentSnapshot;
use crate::policy::parents::Snapshot;
use crate::policy::quota;
use crate::policy::quota::Quotas;
use crate::store;

/// All APIs, as of one moment.
#[derive(Debug)]
pub(in super::super) struct Numbers {
    pub(in super::super) apis: Arc<Apis>,
    /// Circuits of CONNECT.
    pub(in super::super) connects: Option<Arc<Breakers>>,
    /// How the policies' way to Redis is doing, if they have one.
    pub(in super::super) board: Option<store::board::Snapshot>,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let apis: Vec<(&Api, Totals)> =
            self.apis.all().into_iter().map(|api| (&**api, api.counts.totals())).collect();
        let encoder = &mut encoder;
        if let Some(board) = &self.board {
            redis(encoder, board)?;
        }
        let tunnels = self.connects.iter().map(|connects| (breaker::TUNNELS, &**connects));
        let breakers =
            apis.iter().filter_map(|(api, _)| Some((&**api.name(), api.breakers.as_ref()?)));
        circuits(encoder, &breakers.chain(tunnels).collect::<Vec<_>>())?;
        decisions(encoder, &apis, self.connects.as_deref())?;
        if apis.is_empty() {
            return Ok(());
        }
        let help = "Requests of an API by what their clients got";
        let outcomes = Outcome::ALL.map(Outcome::as_str);
        let label = ("outcome", outcomes.as_slice());
        family(encoder, ("narrows_api_requests", help), label, &apis, |totals| &totals.requests)?;
        let help = "Attempts at the upstream of an API, by class of status or cause of failure";
        let label = ("result", RESULTS.as_slice());
        family(encoder, ("narrows_api_attempts", help), label, &apis, |totals| &totals.attempts)?;
        let help = "Attempts that were not the first of their request";
        single(encoder, ("narrows_api_retries", help), &apis, |totals| totals.retries)?;
        reloads(encoder, &apis)?;
        caches(encoder, &apis)?;
        cool_downs(encoder, &apis)?;
        quotas(encoder, &apis)?;
        parents(encoder, &apis)
    }
}

/// The policies' way to Redis.
fn redis(encoder: &mut DescriptorEncoder<'_>, board: &store::board::Snapshot) -> fmt::Result {
    let help = "Whether Redis answers the policies of APIs, 1 or 0";
    encoder
        .encode_descriptor("narrows_policies_redis_up", help, None, MetricType::Gauge)?
        .encode_gauge(&u64::from(board.is_up))?;
    let help = "What policies said or asked in Redis: answered, not since it was away, not since too much was waiting";
    let name = "narrows_policies_redis_calls";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (result, n) in
        [("answered", board.answered), ("away", board.away), ("dropped", board.dropped)]
    {
        let labels = [("result", result)];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
    }
    let help = "Connections to Redis that policies have had";
    encoder
        .encode_descriptor("narrows_policies_redis_connects", help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&board.connects, None)
}

/// What caches did; of those APIs that have one.
fn caches(encoder: &mut DescriptorEncoder<'_>, apis: &[(&Api, Totals)]) -> fmt::Result {
    let apis: Vec<(&Api, Totals)> =
        apis.iter().filter(|(api, _)| api.cache.is_some()).cloned().collect();
    if apis.is_empty() {
        return Ok(());
    }
    let help = "Requests by what the cache of their API did for them";
    let outcomes = Cached::ALL.map(Cached::as_str);
    let label = ("outcome", outcomes.as_slice());
    family(encoder, ("narrows_cache_requests", help), label, &apis, |totals| &totals.cached)?;
    let help = "Responses that were kept, validated ones too";
    single(encoder, ("narrows_cache_stored", help), &apis, |totals| totals.stored)
}

/// How circuits are; where each host has its own, the worst of them.
fn circuits(encoder: &mut DescriptorEncoder<'_>, breakers: &[(&str, &Breakers)]) -> fmt::Result {
    let all: Vec<(&str, Vec<Circuit>)> =
        breakers.iter().map(|(name, breakers)| (*name, breakers.snapshot())).collect();
    if all.is_empty() {
        return Ok(());
    }
    let help = "Whether the circuit of an API is closed (0), half-open (1) or open (2)";
    let name = "narrows_breaker_state";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (api, circuits) in &all {
        let worst = circuits.iter().map(|circuit| number(circuit.condition)).max().unwrap_or(0);
        family.encode_family(&[("api", *api)])?.encode_gauge(&worst)?;
    }
    let help = "Circuits that are open: one for an API, or one for each host";
    let name = "narrows_breaker_open_circuits";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (api, circuits) in &all {
        let open = circuits.iter().filter(|circuit| circuit.condition == Condition::Open).count();
        family.encode_family(&[("api", *api)])?.encode_gauge(&(open as u64))?;
    }
    Ok(())
}

fn number(condition: Condition) -> u64 {
    match condition {
        Condition::Closed => 0,
        Condition::HalfOpen => 1,
        Condition::Open => 2,
    }
}

/// What rules did, and would have done.
fn decisions(
    encoder: &mut DescriptorEncoder<'_>,
    apis: &[(&Api, Totals)],
    connects: Option<&Breakers>,
) -> fmt::Result {
    let mut all: Vec<(&str, Sums)> =
        apis.iter().map(|(api, totals)| (&**api.name(), totals.decided)).collect();
    if let Some(connects) = connects {
        let mut sums = Sums::default();
        connects.decided().add_to(&mut sums);
        all.push((breaker::TUNNELS, sums));
    }
    if all.is_empty() {
        return Ok(());
    }
    let help = "What rules of an API decided against: it waited, was refused, or was let go since the rule only observes";
    let name = "narrows_decisions";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, sums) in &all {
        for (rule, counts) in Rule::WORDS.iter().zip(sums) {
            for (effect, n) in Effect::ALL.iter().zip(counts) {
                let labels = [("api", *api), ("rule", *rule), ("outcome", effect.as_str())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(n, None)?;
            }
        }
    }
    Ok(())
}

/// Changes of the keys of those who come in.
fn reloads(encoder: &mut DescriptorEncoder<'_>, apis: &[(&Api, Totals)]) -> fmt::Result {
    let all: Vec<(&str, &Entrance)> =
        apis.iter().filter_map(|(api, _)| Some((&**api.name(), api.entrance.as_ref()?))).collect();
    if all.is_empty() {
        return Ok(());
    }
    let help = "Changes of the keys of an API, and fetches of its key set: taken over, or wrong and without effect";
    let name = "narrows_api_key_reloads";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, entrance) in &all {
        for of in Of::ALL {
            for (result, n) in ["failed", "ok"].into_iter().zip(entrance.reloads().counts(of)) {
                let labels = [("api", *api), ("of", of.as_str()), ("result", result)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
            }
        }
    }
    Ok(())
}

fn cool_downs(encoder: &mut DescriptorEncoder<'_>, apis: &[(&Api, Totals)]) -> fmt::Result {
    let all: Vec<(&str, &CoolDowns)> =
        apis.iter().filter_map(|(api, _)| Some((&**api.name(), api.cooldowns.as_ref()?))).collect();
    if all.is_empty() {
        return Ok(());
    }
    let help = "Upstreams of an API that are not asked for a while since they said so";
    let name = "narrows_cool_downs";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (api, cooldowns) in &all {
        let lasting = cooldowns.seen().iter().filter(|seen| !seen.left.is_zero()).count();
        family.encode_family(&[("api", *api)])?.encode_gauge(&(lasting as u64))?;
    }
    let help = "What became of cool-downs and of requests that met one";
    let name = "narrows_cool_down_events";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, cooldowns) in &all {
        let Counted { heard, told, capped, waited, refused, forgotten } = cooldowns.counted();
        for (event, n) in [
            ("heard", heard),
            ("told", told),
            ("capped", capped),
            ("waited", waited),
            ("refused", refused),
            ("forgotten", forgotten),
        ] {
            let labels = [("api", *api), ("event", event)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
        }
    }
    Ok(())
}

fn quotas(encoder: &mut DescriptorEncoder<'_>, apis: &[(&Api, Totals)]) -> fmt::Result {
    let all: Vec<(&str, &Quotas, quota::Counted)> = apis
        .iter()
        .filter_map(|(api, _)| {
            let quotas = api.quotas.as_ref()?;
            Some((&**api.name(), quotas, quotas.counted()))
        })
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    let help = "Requests by what was left of their client's quotas; alone are those admitted without Redis";
    let name = "narrows_quota_requests";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, _, counted) in &all {
        let quota::Counted { admitted, denied, away, alone, asked: _, keys: _ } = counted;
        for (result, n) in
            [("admitted", admitted), ("denied", denied), ("away", away), ("alone", alone)]
        {
            let labels = [("api", *api), ("result", result)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(n, None)?;
        }
    }
    let help = "Requests for which nothing was left, by the window that had nothing";
    let name = "narrows_quota_denied";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, quotas, _) in &all {
        for (tier, n) in quotas.denied_by() {
            let labels = [("api", *api), ("tier", &**tier)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
        }
    }
    let help = "Questions to Redis for quotas";
    let name = "narrows_quota_redis_questions";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (api, _, counted) in &all {
        let labels = [("api", *api)];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&counted.asked, None)?;
    }
    let help = "Clients whose quotas are remembered here";
    let name = "narrows_quota_keys";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (api, _, counted) in &all {
        family.encode_family(&[("api", *api)])?.encode_gauge(&counted.keys)?;
    }
    Ok(())
}

/// Name, help, and what a parent says.
type Number = (&'static str, &'static str, fn(&ParentSnapshot) -> u64);

fn parents(encoder: &mut DescriptorEncoder<'_>, apis: &[(&Api, Totals)]) -> fmt::Result {
    let all: Vec<(&str, Snapshot)> = apis
        .iter()
        .filter_map(|(api, _)| Some((&**api.name(), api.parents.as_ref()?.snapshot())))
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    let counters: [Number; 2] = [
        ("narrows_parent_requests", "Attempts by way of a parent", |parent| parent.requests),
        ("narrows_parent_failures", "Those of them for which it was banned", |parent| {
            parent.failures
        }),
    ];
    for (name, help, count) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (api, parent) in each(&all) {
            let labels = [("api", api), ("parent", &*parent.parent)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count(parent), None)?;
        }
    }
    let gauges: [Number; 2] = [
        (
            "narrows_parent_in_use",
            "Attempts by way of a parent that wait for a response",
            |parent| parent.in_use.into(),
        ),
        (
            "narrows_parent_bans",
            "Hosts for which a parent is not used now, all of them as one",
            |parent| parent.bans.len() as u64,
        ),
    ];
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (api, parent) in each(&all) {
            let labels = [("api", api), ("parent", &*parent.parent)];
            family.encode_family(&labels)?.encode_gauge(&value(parent))?;
        }
    }
    Ok(())
}

fn each<'a>(all: &'a [(&'a str, Snapshot)]) -> impl Iterator<Item = (&'a str, &'a ParentSnapshot)> {
    all.iter().flat_map(|(api, snapshot)| snapshot.parents.iter().map(|parent| (*api, parent)))
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
    use crate::policy::cache;
    use crate::policy::cache::tiers::Tiers;
    use crate::store::board::Board;

    #[tokio::test]
    async fn each_api_tells_how_its_requests_and_attempts_ended() {
        let sources = sources(1);
        let (_, _, text) = get(&sources, "/metrics").await;
        assert!(!text.contains("narrows_api"), "there is none");

        let settings = [Settings::new("orders"), Settings::new("default")];
        sources.apis.store(Arc::new(Apis::new(
            &settings,
            &Board::alone(),
            &Tiers::alone(&cache::tiers::Settings::default()),
            None,
        )));
        let apis = sources.apis.load();
        let counts = &apis.named("orders").unwrap().counts;
        counts.attempted(End::Status(503), false);
        counts.attempted(End::Status(200), true);
        counts.asked(Outcome::Success);
        counts.asked(Outcome::Breaker);
        counts.decided().note(Rule::Breaker, Effect::Observed);
        let (_, _, text) = get(&sources, "/metrics").await;
        for line in [
            "narrows_api_requests_total{api=\"orders\",outcome=\"success\"} 1",
            "narrows_api_requests_total{api=\"orders\",outcome=\"breaker_open\"} 1",
            "narrows_api_requests_total{api=\"orders\",outcome=\"failure\"} 0",
            "narrows_api_requests_total{api=\"default\",outcome=\"success\"} 0",
            "narrows_api_attempts_total{api=\"orders\",result=\"5xx\"} 1",
            "narrows_api_attempts_total{api=\"orders\",result=\"2xx\"} 1",
            "narrows_api_attempts_total{api=\"orders\",result=\"connect_refused\"} 0",
            "narrows_decisions_total{api=\"orders\",rule=\"breaker\",outcome=\"observed\"} 1",
            "narrows_decisions_total{api=\"orders\",rule=\"breaker\",outcome=\"refused\"} 0",
            "narrows_api_retries_total{api=\"orders\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
