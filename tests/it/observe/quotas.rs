//! Quotas that only observe, and quotas that are decided again.

use futures_util::future::join_all;

use super::replay::Desk;
use super::replay::assert_same;
use super::replay::config;
use super::replay::counts;
use crate::support::Origin;
use crate::support::Proxy;

/// Four clients at once, of three tenants, whose requests count for one, two or three: the same each
/// time, but for when they come.
async fn crowd(proxy: &Proxy, origin: &Origin) -> usize {
    const EACH: usize = 40;
    let one = async |client: usize| {
        let mut random = fastrand::Rng::with_seed(client as u64);
        let mut connection = proxy.client().await;
        for _ in 0..EACH {
            let tenant = format!("X-Tenant: {}", random.u8(..3));
            let cost = format!("X-Cost: {}", random.u8(1..4));
            connection.request("GET", &origin.url("/"), &[&tenant, &cost]).await;
            tokio::time::sleep(std::time::Duration::from_millis(random.u64(..30))).await;
        }
    };
    join_all((0..4).map(one)).await;
    4 * EACH
}

fn policies(algorithm: &str, mode: &str) -> String {
    format!(
        "circuit_breaker: false, cool_down: false, quota: {{windows: [8/1s, 60/10s], \
         key: [address, 'header:X-Tenant'], algorithm: {algorithm}, cost: 'header:X-Cost', \
         cost_max: 3, mode: {mode}}}"
    )
}

#[tokio::test]
async fn quotas_of_each_kind_are_decided_again_as_they_were() {
    for algorithm in ["fixed", "sliding", "token_bucket"] {
        for mode in ["enforce", "observe"] {
            let (desk, origin) = (Desk::new(), Origin::start());
            let file = desk.file("then", &origin.authority(), &policies(algorithm, mode));
            let log = desk.log("decided");
            let proxy = desk.start(&file, &log, "").await;
            let count = crowd(&proxy, &origin).await;
            let told = desk.replay(&log, count, &config(&file)).await;
            assert_same(&told);
            let ([_, refused, observed], _) = counts(&told, "quota");
            assert_eq!(origin.hits(), count - usize::try_from(refused).unwrap(), "{algorithm}");
            // What is observed would be refused, if it were enforced, and nothing else.
            let enforced = desk.file("now", &origin.authority(), &policies(algorithm, "enforce"));
            let told = desk.replay(&log, count, &config(&enforced)).await;
            assert_eq!(told["otherwise"], 0, "{algorithm} {mode}: {told:#}");
            assert_eq!(counts(&told, "quota").1, [0, refused + observed, 0], "{algorithm} {mode}");
            assert!(refused + observed > 20, "{algorithm} {mode}: {told:#}");
            assert_eq!(told["not_replayed"].as_array().unwrap().len(), 0, "{told:#}");
        }
    }
}

#[tokio::test]
async fn a_quota_that_there_was_not_says_whom_it_would_have_refused() {
    let (desk, origin) = (Desk::new(), Origin::start());
    let file = desk.file("then", &origin.authority(), "circuit_breaker: false, cool_down: false");
    let log = desk.log("decided");
    let proxy = desk.start(&file, &log, "").await;
    for _ in 0..7 {
        proxy.get(origin.url("/")).await;
    }
    // Whichever day it is, it does not end meanwhile as a minute might.
    let quota = "circuit_breaker: false, cool_down: false, quota: {windows: [5/30d]}";
    let file = desk.file("now", &origin.authority(), quota);
    let told = desk.replay(&log, 7, &config(&file)).await;
    assert_eq!(counts(&told, "quota"), ([0, 0, 0], [0, 2, 0]), "{told:#}");
    let whom = &told["whom"][0];
    assert_eq!((&whom["key"], &whom["refused"]), (&"127.0.0.1".into(), &2.into()), "{whom}");

    let by_field =
        "circuit_breaker: false, cool_down: false, quota: {day: 5, key: 'header:X-Tenant'}";
    let file = desk.file("field", &origin.authority(), by_field);
    let told = desk.replay(&log, 7, &config(&file)).await;
    assert_eq!(told["otherwise"], 0, "{told:#}");
    let note = &told["not_replayed"][0];
    assert_eq!(note["count"], 7, "{told:#}");
    assert!(note["what"].as_str().unwrap().contains("what is not in the log"), "{note}");
}
