//! The breaker of an API, in an instance that is alone.

use std::time::Duration;
use std::time::Instant;

use super::File;
use super::assert_open;
use super::circuit;
use super::crowd;
use super::probe;
use super::wait_until_hit;
use crate::support::Closed;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::wait_until;

#[tokio::test]
async fn five_failures_pass_and_the_sixth_request_is_refused_at_once() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 5, reset_timeout: 30");
    let proxy = file.setup().start().await;
    for _ in 0..5 {
        let answer = proxy.get(origin.url("/status/503")).await;
        assert_eq!((answer.status(), answer.text()), (503, "status 503"));
    }
    let told = circuit(&proxy).await;
    assert_eq!((&told["state"], &told["failures"]), (&"OPEN".into(), &5.into()), "{told}");
    assert!(told["time_to_reset"].as_u64().unwrap() > 25, "{told}");
    assert_eq!(told["config"]["failure_threshold"], 5, "{told}");
    let mut client = proxy.client().await;
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let after = assert_open(&client.get(origin.url("/")).await);
        fastest = fastest.min(start.elapsed());
        assert!((25..=30).contains(&after), "{after}");
    }
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
    assert_eq!(origin.hits(), 5);
}

#[tokio::test]
async fn a_success_between_failures_leaves_the_circuit_closed() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 5");
    let proxy = file.setup().start().await;
    for path in ["/status/500", "/", "/status/502"] {
        for _ in 0..if path == "/" { 1 } else { 4 } {
            let answer = proxy.get(origin.url(path)).await;
            assert!(answer.head.field("x-origin").is_some(), "{answer:?}");
        }
    }
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    let told = circuit(&proxy).await;
    assert_eq!((&told["state"], &told["failures"]), (&"CLOSED".into(), &0.into()), "{told}");
}

#[tokio::test]
async fn one_probe_goes_through_while_fifty_are_refused_and_two_successes_close() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 2, reset_timeout: 300ms");
    let proxy = file.setup().start().await;
    for _ in 0..2 {
        proxy.get(origin.url("/status/500")).await;
    }
    let probing = tokio::spawn(probe(proxy.address, origin.url("/slow?ms=1500")));
    wait_until_hit(&origin, 3).await;
    for answer in crowd(&proxy, &origin.url("/"), 50).await {
        assert_open(&answer);
    }
    assert!(!probing.is_finished(), "the crowd was to be there while the probe was");
    assert_eq!(origin.hits(), 3);
    assert_eq!(probing.await.unwrap().status(), 200);

    // One success is not enough: again there is one probe.
    let told = circuit(&proxy).await;
    assert_eq!((&told["state"], &told["successes"]), (&"HALF_OPEN".into(), &1.into()), "{told}");
    let probing = tokio::spawn(probe(proxy.address, origin.url("/slow?ms=500")));
    wait_until_hit(&origin, 4).await;
    assert_open(&proxy.get(origin.url("/")).await);
    assert_eq!(probing.await.unwrap().status(), 200);
    for answer in crowd(&proxy, &origin.url("/"), 10).await {
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn a_failed_probe_opens_the_circuit_again_for_the_whole_time() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 1, reset_timeout: 1");
    let proxy = file.setup().start().await;
    proxy.get(origin.url("/status/500")).await;
    let answer = probe(proxy.address, origin.url("/status/500")).await;
    let failed = Instant::now();
    assert_eq!((answer.status(), origin.hits()), (500, 2));
    assert_eq!(assert_open(&proxy.get(origin.url("/")).await), 1);
    assert_eq!(probe(proxy.address, origin.url("/")).await.status(), 200);
    assert!(failed.elapsed() > Duration::from_millis(950), "{:?}", failed.elapsed());
}

#[tokio::test]
async fn of_two_apis_with_one_target_each_has_its_own_circuit_and_thresholds() {
    let origin = Origin::start();
    let api = |name: &str, threshold: u32| {
        let url = origin.url("");
        let breaker = format!("circuit_breaker: {{failure_threshold: {threshold}}}");
        format!("{name}: {{target_url: '{url}', cool_down: false, {breaker}}}")
    };
    let file = File::with(&format!("api: {{{}, {}}}", api("one", 1), api("two", 3)));
    let proxy = file.setup().start().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/api/one/status/500").await.text(), "status 500");
    assert_open(&client.get("/api/one/").await);
    for _ in 0..3 {
        assert_eq!(client.get("/api/two/status/500").await.text(), "status 500");
    }
    assert_open(&client.get("/api/two/").await);
    assert_eq!(origin.hits(), 4);
}

#[tokio::test]
async fn too_many_slow_calls_open_it() {
    let origin = Origin::start();
    let breaker = "failure_threshold: 0, slow_call_rate: 50, slow_call: 100ms, minimum_calls: 4";
    let file = File::of(&origin, breaker);
    let proxy = file.setup().start().await;
    for path in ["/slow?ms=150", "/slow?ms=150", "/", "/slow?ms=150"] {
        assert_eq!(proxy.get(origin.url(path)).await.status(), 200);
    }
    assert_open(&proxy.get(origin.url("/")).await);
    assert_eq!(origin.hits(), 4);
}

#[tokio::test]
async fn too_large_a_share_of_failures_opens_it_though_no_two_are_in_a_row() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_rate: 50, minimum_calls: 6");
    let proxy = file.setup().start().await;
    for _ in 0..3 {
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
        assert_eq!(proxy.get(origin.url("/status/500")).await.text(), "status 500");
    }
    assert_open(&proxy.get(origin.url("/")).await);
}

#[tokio::test]
async fn nobody_waits_for_a_slot_of_a_host_whose_circuit_is_open() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 1");
    let flags = "--max-connections 1 --queue-timeout 10s";
    let proxy = file.setup().flags(flags).start().await;
    proxy.get(origin.url("/status/500")).await;
    let tunnel = proxy.tunnel(origin.authority()).await;
    let start = Instant::now();
    assert_open(&proxy.get(origin.url("/")).await);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(proxy.host(&origin.authority()).await.waiting, 0);
    drop(tunnel);
}

#[tokio::test]
async fn our_own_refusals_and_clients_that_leave_count_for_nothing() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 1");
    let proxy = file.setup().flags("--max-connections 1").start().await;

    let tunnel = proxy.tunnel(origin.authority()).await;
    let refused = proxy.get(origin.url("/")).await;
    refused.assert_refused(503, "connection_limit_reached");
    drop(tunnel);
    proxy.wait_until_open(&origin.authority(), 0).await;

    let mut leaver = proxy.client().await;
    leaver.send_request("GET", &origin.url("/slow?ms=60000"), &[]).await;
    wait_until_hit(&origin, 1).await;
    leaver.reset();
    proxy.wait_until_open(&origin.authority(), 0).await;

    // Four of a body's ten bytes, and no more: the client's fault, whatever the upstream makes of it.
    let mut liar = proxy.client().await;
    liar.send_request("POST", &origin.url("/echo"), &["Content-Length: 10"]).await;
    liar.send("four").await;
    wait_until_hit(&origin, 2).await;
    liar.finish().await;
    proxy.wait_until_open(&origin.authority(), 0).await;

    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
}

#[tokio::test]
async fn a_429_is_no_failure_and_no_success() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 2");
    let proxy = file.setup().start().await;
    for path in ["/status/500", "/status/429", "/status/500"] {
        proxy.get(origin.url(path)).await;
    }
    assert_open(&proxy.get(origin.url("/")).await);
    assert_eq!(origin.hits(), 3);
}

#[tokio::test]
async fn a_probe_whose_client_leaves_makes_room_for_another() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 1, reset_timeout: 100ms");
    let proxy = file.setup().start().await;
    proxy.get(origin.url("/status/500")).await;
    let probing = tokio::spawn(probe(proxy.address, origin.url("/slow?ms=60000")));
    wait_until_hit(&origin, 2).await;
    assert_open(&proxy.get(origin.url("/")).await);
    probing.abort();
    assert_eq!(probe(proxy.address, origin.url("/")).await.status(), 200);
}

#[tokio::test]
async fn the_default_api_has_a_circuit_for_each_host() {
    let (origin, closed) = (Origin::start(), Closed::new());
    let file = File::with("api: {default: {circuit_breaker: {failure_threshold: 2}}}");
    let proxy = file.setup().start().await;
    let dead = format!("http://{}/", closed.authority());
    for _ in 0..2 {
        proxy.get(&dead).await.assert_refused(502, "connection_refused");
    }
    assert_open(&proxy.get(&dead).await);
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
}

#[tokio::test]
async fn an_open_circuit_answers_requests_of_http2_alike() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 1");
    let proxy = file.setup().start().await;
    let mut client = Http2::to(proxy.address).await;
    assert_eq!(client.get(&origin.url("/status/500")).await.status, 500);
    let answer = client.get(&origin.url("/")).await;
    answer.assert_refused(503, "destination_unavailable");
    assert_eq!(answer.field("retry-after"), Some("30"));
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn an_upstream_that_fails_without_an_answer_opens_it_too() {
    let origin = Origin::start();
    let file = File::of(&origin, "failure_threshold: 3");
    let proxy = file.setup().flags("--response-timeout 200ms").start().await;
    proxy.get(origin.url("/reset")).await.assert_refused(502, "connection_terminated");
    proxy.get(origin.url("/die")).await.assert_refused(502, "connection_terminated");
    let late = proxy.get(origin.url("/slow?ms=60000")).await;
    late.assert_refused(504, "http_response_timeout");
    let hits = origin.hits();
    assert_open(&proxy.get(origin.url("/")).await);
    wait_until("nothing is under way", async || origin.current() == 0).await;
    assert_eq!(origin.hits(), hits);
}
