//! How many pass, and what those are told that do not.

use futures_util::future::join_all;

use super::alone;
use super::ask;
use super::assert_over;
use super::early_in;
use super::passed;
use super::statuses;
use crate::support::Origin;
use crate::support::Response;
use crate::support::narrows;

#[tokio::test]
async fn five_pass_and_the_sixth_is_too_frequent_for_this_minute_by_the_gateway() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "true").await;
    early_in(60).await;
    assert_eq!(statuses(&proxy, 5, &[]).await, [200; 5]);
    let refused = ask(&proxy, &[]).await;
    assert_over(&refused, "minute");
    assert_eq!(refused.head.field("content-type"), Some("application/problem+json"));
    let after: u64 = refused.head.field("retry-after").unwrap().parse().unwrap();
    assert!(after <= 60, "{refused:?}");
    assert_eq!(origin.hits(), 5, "the origin sees what passes");
    proxy
        .wait_until_metric("narrows_quota_denied_total", &[("api", "a"), ("tier", "minute")], 1.0)
        .await;
    let outcome = [("api", "a"), ("outcome", "no_quota")];
    proxy.wait_until_metric("narrows_api_requests_total", &outcome, 1.0).await;
}

#[tokio::test]
async fn the_same_to_a_forward_proxy_by_any_route_and_flags() {
    let origin = Origin::start();
    let proxy = narrows().flags("--quota-minute 5 --quota-hour 50 --quota-day 500").start().await;
    early_in(60).await;
    for _ in 0..3 {
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    }
    drop(proxy.tunnel(origin.authority()).await);
    let mut http2 = crate::support::Http2::to(proxy.address).await;
    assert_eq!(http2.get(&origin.url("/")).await.status, 200);
    // Whichever way it comes now.
    assert_over(&proxy.get(origin.url("/")).await, "minute");
    assert_over(&proxy.connect(origin.authority()).await, "minute");
    http2.get(&origin.url("/")).await.assert_refused(429, "http_request_error");
    let Err(refused) = http2.connect(&origin.authority()).await else { panic!("it has opened") };
    refused.assert_refused(429, "http_request_error");
    assert!(refused.field("ratelimit").is_some_and(|left| left.contains("\"minute\";r=0")));
}

#[tokio::test]
async fn with_the_next_window_as_many_pass_again_until_a_longer_one_is_full_and_says_so() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{windows: [5/2s], hour: 12}").await;
    early_in(3600).await;
    let mut refusals: Vec<Response> = Vec::new();
    let mut client = proxy.client().await;
    let mut by_hour = None;
    while by_hour.is_none() {
        let answer = client.get("/api/a/x").await;
        match answer.status() {
            200 => {}
            _ if answer.json()["msg"] == "Request too frequent (hour)" => by_hour = Some(answer),
            _ => {
                assert_over(&answer, "2s");
                refusals.push(answer);
            }
        }
    }
    assert_over(&by_hour.unwrap(), "hour");
    assert_eq!(origin.hits(), 12, "the hour stops the thirteenth");
    assert!(!refusals.is_empty(), "and each two seconds the sixth");
}

#[tokio::test]
async fn of_two_hundred_at_once_five_reach_the_origin() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{hour: 5}").await;
    early_in(3600).await;
    let answers = join_all((0..200).map(|_| ask(&proxy, &[]))).await;
    let passed = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!((passed, origin.hits()), (5, 5));
    answers.iter().filter(|answer| answer.status() != 200).for_each(|answer| {
        assert_over(answer, "hour");
    });
}

#[tokio::test]
async fn a_window_that_slides_holds_in_any_stretch_and_one_of_the_calendar_lets_twice_as_many_by() {
    let origin = Origin::start();
    // From the last moment of one window to the first of the next.
    let around_the_edge = async |quota: &str| {
        let (_file, proxy) = alone(&origin, quota).await;
        let mut client = proxy.client().await;
        let late = async || {
            let now = std::time::SystemTime::now();
            let passed = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() % 4000;
            (3500..3800).contains(&passed)
        };
        crate::support::wait_at_most(std::time::Duration::from_secs(9), "late", late).await;
        let start = std::time::Instant::now();
        let mut passed = 0;
        while start.elapsed() < std::time::Duration::from_millis(1500) {
            passed += usize::from(client.get("/api/a/x").await.status() == 200);
        }
        passed
    };
    assert_eq!(around_the_edge("{windows: [5/4s]}").await, 10, "as docs/quota.md says");
    assert_eq!(around_the_edge("{windows: [5/4s], algorithm: sliding}").await, 5);
    // Five tokens, and one more each 800 ms.
    let tokens = around_the_edge("{windows: [5/4s], algorithm: token_bucket}").await;
    assert!((5..=7).contains(&tokens), "{tokens}");
}

#[tokio::test]
async fn a_request_may_count_for_several_by_its_method_or_by_a_field_within_bounds() {
    let origin = Origin::start();
    let quota = "{day: 100, cost: 'header:X-Cost', cost_max: 30, cost_of: {POST: 20, HEAD: 0}}";
    let (_file, proxy) = alone(&origin, quota).await;
    let mut client = proxy.client().await;
    let mut left = async |method: &str, fields: &[&str]| {
        let answer = client.request(method, "/api/a/x", fields).await;
        answer.head.field("ratelimit").map(|left| {
            left.split(';').nth(1).unwrap().trim_start_matches("r=").parse::<u64>().unwrap()
        })
    };
    assert_eq!(left("GET", &[]).await, Some(99));
    assert_eq!(left("GET", &["X-Cost: 9"]).await, Some(90));
    assert_eq!(left("GET", &["X-Cost: 1000000"]).await, Some(60), "at most 30");
    assert_eq!(left("HEAD", &[]).await, None, "not counted");
    assert_eq!(left("POST", &["Content-Length: 0"]).await, Some(40));
    assert_eq!(left("GET", &["X-Cost: 0"]).await, Some(39), "at least one");
    assert_eq!(left("GET", &["X-Cost: none"]).await, Some(38));
    let mut client = proxy.client().await;
    client.request("GET", "/api/a/x", &["X-Cost: 30"]).await;
    let refused = client.request("GET", "/api/a/x", &["X-Cost: 9"]).await;
    assert_over(&refused, "day");
    assert_eq!(passed(&proxy, 9, &[]).await, 8, "what it was refused it did not pay");
}

#[tokio::test]
async fn observed_quotas_are_counted_and_neither_refuse_nor_show() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{hour: 5, mode: observe}").await;
    early_in(3600).await;
    let mut client = proxy.client().await;
    for _ in 0..8 {
        let answer = client.get("/api/a/x").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.head.field("ratelimit"), None, "nobody is to notice");
    }
    assert_eq!(origin.hits(), 8);
    let labels = [("api", "a"), ("tier", "hour")];
    proxy.wait_until_metric("narrows_quota_denied_total", &labels, 3.0).await;
    let labels = [("api", "a"), ("outcome", "no_quota")];
    proxy.wait_until_metric("narrows_api_requests_total", &labels, 0.0).await;
}

#[tokio::test]
async fn the_example_for_compose_is_good_and_lets_five_pass() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quota");
    let file = folder.join("narrows.yaml");
    let checked = narrows().bare().flags(format!("check {}", file.display())).run().await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let compose = std::fs::read_to_string(folder.join("compose.yaml")).unwrap();
    for part in ["./narrows.yaml:/etc/narrows/narrows.yaml", "\"80:8080\"", "NARROWS_REDIS_ADDR"] {
        assert!(compose.contains(part), "{part}");
    }
    let redis = crate::support::Redis::start().await;
    let origin = Origin::start();
    let target = format!("--set api.site.target_url={}", origin.url(""));
    let setup = narrows().flags(format!("--config {} {target}", file.display()));
    let proxy = setup.shared(&redis).start().await;
    proxy.wait_until_up().await;
    early_in(60).await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/api/site/").await.status(), 200);
    }
    assert_over(&proxy.get("/api/site/").await, "minute");
}

#[tokio::test]
async fn what_is_answered_from_the_cache_counts_and_tells_what_is_left_now() {
    let origin = Origin::raw(|mut connection| async move {
        while let Ok(Some(_head)) = connection.head().await {
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{}: 1\r\nCache-Control: max-age=60\r\n\
                 Content-Length: 2\r\n\r\nok",
                crate::support::origin::MARK
            );
            if connection.send(answer).await.is_err() {
                return;
            }
        }
    });
    let (_file, proxy) = alone(&origin, "{hour: 3}, enable_cache: true").await;
    early_in(3600).await;
    let mut left = Vec::new();
    let mut kept = 0;
    for _ in 0..3 {
        let answer = ask(&proxy, &[]).await;
        assert_eq!(answer.status(), 200);
        kept += usize::from(answer.head.field("age").is_some());
        let all = answer.head.all("ratelimit");
        assert_eq!(all.len(), 1, "{answer:?}");
        left.push(all[0].split(';').nth(1).unwrap().to_owned());
    }
    assert_eq!(left, ["r=2", "r=1", "r=0"]);
    assert!(kept > 0, "some came from the cache");
    assert_over(&ask(&proxy, &[]).await, "hour");
}
