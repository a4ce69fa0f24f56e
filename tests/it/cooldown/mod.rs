//! What one instance hears of an upstream that asks not to be asked, its fleet keeps to.

mod origin;

use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use tempfile::TempDir;

use self::origin::Asked;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Response;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

const ONE: &str = "Authorization: Bearer one";
const OTHER: &str = "Authorization: Bearer other";
/// Who says this waits for nothing.
const HASTY: &str = "Prefer: wait=0";
/// Within which all instances know; it is some milliseconds on a machine that has time.
const PROMISE: Duration = Duration::from_secs(1);

/// An API for an origin, as a file says it.
fn file(origin: &Asked, cool_down: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("narrows.yaml");
    let authority = origin.authority();
    let text = format!(
        "api:\n  shop:\n    hosts: [\"{authority}\"]\n    circuit_breaker: false\n    \
         cool_down: {cool_down}\n"
    );
    std::fs::write(&path, text).unwrap();
    (folder, format!("--config {}", path.display()))
}

/// Four instances of one fleet, each of which knows the others.
async fn fleet(redis: &Redis, flags: &str) -> Vec<Proxy> {
    let start = || narrows().shared(redis).flags(flags).start();
    let fleet = join_all([start(), start(), start(), start()]).await;
    for proxy in &fleet {
        proxy.wait_until_up().await;
        proxy.wait_until_metric("narrows_instances", &[], 4.0).await;
    }
    fleet
}

async fn get(proxy: &Proxy, origin: &Asked, fields: &[&str]) -> Response {
    proxy.client().await.request("GET", &origin.url(), fields).await
}

/// Until the instance refuses by itself; within the promise.
async fn knows(proxy: &Proxy, origin: &Asked) {
    wait_at_most(PROMISE, "the instance knows", async || {
        get(proxy, origin, &[ONE, HASTY]).await.head.field("proxy-status").is_some()
    })
    .await;
}

/// The time that a refusal of ours says is left.
fn left(response: &Response) -> u64 {
    response.head.field("retry-after").unwrap().parse().unwrap()
}

#[tokio::test]
async fn one_429_is_kept_to_by_all_instances_for_as_long_as_it_says_and_then_they_go_slowly() {
    let redis = Redis::start().await;
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{ramp: 10}");
    let fleet = fleet(&redis, &flags).await;
    for proxy in &fleet {
        assert_eq!(get(proxy, &origin, &[ONE]).await.status(), 200);
    }

    origin.limit_next("Retry-After: 2");
    let limited = get(&fleet[0], &origin, &[ONE]).await;
    assert_eq!((limited.status(), limited.text()), (429, "slow down"), "the origin's own answer");
    let start = origin.last();
    join_all(fleet.iter().map(|proxy| knows(proxy, &origin))).await;
    let known = start.elapsed();

    let refused = get(&fleet[2], &origin, &[ONE, HASTY]).await;
    refused.assert_refused(429, "destination_unavailable");
    assert!((1..=2).contains(&left(&refused)), "{refused:?}");
    assert_eq!(get(&fleet[3], &origin, &[OTHER, HASTY]).await.status(), 200, "not its affair");

    // Ten at each instance wait it out.
    let asked = Instant::now();
    let waiting = fleet.iter().flat_map(|proxy| (0..10).map(|_| get(proxy, &origin, &[ONE])));
    let answers = join_all(waiting).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    let came: Vec<Duration> = origin.came(ONE, asked).iter().map(|at| *at - start).collect();
    assert_eq!(came.len(), 40);
    let over = Duration::from_secs(2);
    assert!(came.iter().all(|at| *at >= over), "{came:?}");
    let first = came.iter().filter(|at| **at < over + Duration::from_secs(1)).count();
    assert!(first <= 10 + fleet.len(), "{first} in the first second, known after {known:?}");
}

#[tokio::test]
async fn under_load_only_what_was_in_flight_reaches_the_origin() {
    let redis = Redis::start().await;
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{ramp: 10}");
    let fleet = fleet(&redis, &flags).await;
    let begin = Instant::now();
    let load = async |proxy: &Proxy| {
        let mut client = proxy.client().await;
        while begin.elapsed() < Duration::from_secs(4) {
            client.request("GET", &origin.url(), &[ONE, HASTY]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = async {
        wait_until("there is load", async || origin.came(ONE, begin).len() > 50).await;
        origin.limit_next("Retry-After: 2");
        wait_until("the limit is told", async || origin.limited().is_some()).await;
        origin.limited().unwrap()
    };
    let (_, limited) = tokio::join!(join_all(fleet.iter().map(load)), limit);
    let within = |from, to| {
        let came = origin.came(ONE, limited);
        came.into_iter().filter(|at| (from..to).contains(&(*at - limited))).count()
    };
    let (early, late) = (within(Duration::ZERO, PROMISE), within(PROMISE, Duration::from_secs(2)));
    assert_eq!(late, 0, "after {early} in the first second");
}

#[tokio::test]
async fn the_longest_wins_an_absurd_one_is_cut_and_who_cannot_wait_so_long_is_told_at_once() {
    let redis = Redis::start().await;
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{max: 30}");
    let fleet = fleet(&redis, &flags).await;
    origin.limit_next("Retry-After: 31536000");
    assert_eq!(get(&fleet[0], &origin, &[ONE]).await.status(), 429);
    for proxy in &fleet {
        knows(proxy, &origin).await;
    }
    // The default patience of ten seconds is too short for it.
    let asked = Instant::now();
    let refused = get(&fleet[1], &origin, &[ONE]).await;
    refused.assert_refused(429, "destination_unavailable");
    assert!((25..=30).contains(&left(&refused)), "{refused:?}");
    assert!(asked.elapsed() < PROMISE, "it is told at once");
    assert_eq!(fleet[0].stderr.lines_with("cut short").len(), 1);
    assert!(!fleet[0].stderr.text().contains("Bearer"), "no log names a credential");
    let kept: Vec<String> = redis.ask("ZRANGE proxy_rate_limiter:{0}:@p:cooldown 0 -1").await;
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with(&format!("shop/{}#", origin.authority())), "{kept:?}");
    assert!(!kept[0].contains("one"), "only a fingerprint");
    let life: i64 = redis.ask("PTTL proxy_rate_limiter:{0}:@p:cooldown").await;
    assert!((1..=30_000).contains(&life), "{life}");
}

#[tokio::test]
async fn a_new_instance_and_one_that_was_cut_off_are_told_what_holds() {
    let mut redis = Redis::start().await;
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{}");
    let flags = format!("{flags} --redis-failure open");
    let first = narrows().shared(&redis).flags(&flags).start().await;
    first.wait_until_up().await;
    origin.limit_next("Retry-After: 60");
    assert_eq!(get(&first, &origin, &[ONE]).await.status(), 429);
    let second = narrows().shared(&redis).flags(&flags).start().await;
    knows(&second, &origin).await;

    redis.kill();
    first.wait_until_redis_is("away").await;
    origin.limit_next("Retry-After: 60");
    assert_eq!(get(&first, &origin, &[OTHER]).await.status(), 429, "heard here alone");
    get(&first, &origin, &[OTHER, HASTY]).await.assert_refused(429, "destination_unavailable");
    assert_eq!(get(&second, &origin, &[OTHER, HASTY]).await.status(), 200);
    redis.restart().await;
    wait_at_most(Duration::from_secs(5), "all is said again", async || {
        get(&second, &origin, &[OTHER, HASTY]).await.head.field("proxy-status").is_some()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_waits_no_longer() {
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{}");
    let proxy = narrows().flags(&flags).start().await;
    origin.limit_next("Retry-After: 1");
    assert_eq!(get(&proxy, &origin, &[ONE]).await.status(), 429);
    let mut gone = proxy.client().await;
    gone.send_request("GET", &origin.url(), &[ONE]).await;
    let stays = get(&proxy, &origin, &[ONE]);
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(gone);
    };
    let (answer, ()) = tokio::join!(stays, leaves);
    assert_eq!(answer.status(), 200);
    let hits = origin.came(ONE, origin.begun()).len();
    assert_eq!(hits, 2, "the limited one, and the one that stayed");
}

#[tokio::test]
async fn a_503_that_says_when_is_waited_out_and_one_that_does_not_is_no_matter() {
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{}");
    let proxy = narrows().flags(&flags).start().await;
    origin.answer_next("503 Service Unavailable", "X-Nothing: said");
    assert_eq!(get(&proxy, &origin, &[ONE]).await.status(), 503);
    assert_eq!(get(&proxy, &origin, &[ONE, HASTY]).await.status(), 200);
    origin.answer_next("503 Service Unavailable", "Retry-After: 1");
    assert_eq!(get(&proxy, &origin, &[ONE]).await.status(), 503);
    let start = origin.last();
    get(&proxy, &origin, &[ONE, HASTY]).await.assert_refused(503, "destination_unavailable");
    assert_eq!(get(&proxy, &origin, &[ONE]).await.status(), 200);
    assert!(origin.last() - start >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_retry_waits_as_long_as_it_was_asked_to_and_not_twice() {
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{}\n    retry: {initial_delay: 0}");
    let proxy = narrows().flags(&flags).start().await;
    origin.limit_next("Retry-After: 1");
    let asked = Instant::now();
    assert_eq!(get(&proxy, &origin, &[ONE]).await.status(), 200);
    let came = origin.came(ONE, asked);
    let gap = came[1] - came[0];
    assert_eq!(came.len(), 2);
    assert!((Duration::from_secs(1)..Duration::from_millis(1900)).contains(&gap), "{gap:?}");
}

#[tokio::test]
async fn a_time_that_is_too_long_goes_to_the_client() {
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{}\n    retry: {initial_delay: 0}");
    let proxy = narrows().flags(&flags).start().await;
    origin.limit_next("Retry-After: 300");
    let asked = Instant::now();
    let limited = get(&proxy, &origin, &[ONE]).await;
    assert_eq!((limited.status(), limited.text(), left(&limited)), (429, "slow down", 300));
    let refused = get(&proxy, &origin, &[ONE]).await;
    refused.assert_refused(429, "destination_unavailable");
    assert!((295..=300).contains(&left(&refused)), "{refused:?}");
    assert!(asked.elapsed() < PROMISE * 2, "nobody sleeps through it");
    assert_eq!(origin.came(ONE, asked).len(), 1);
}

/// How fast word goes round: `cargo nextest run --run-ignored only propagation --no-capture`.
#[tokio::test]
#[ignore = "a figure for docs/cooldown.md"]
async fn propagation() {
    let redis = Redis::start().await;
    let origin = Asked::start();
    let (_folder, flags) = file(&origin, "{ramp: 0, wait: 0}");
    let fleet = fleet(&redis, &flags).await;
    let mut took = Vec::new();
    let mut clients = Vec::new();
    for proxy in &fleet {
        clients.push(proxy.client().await);
    }
    for round in 0..300 {
        let field = format!("Authorization: Bearer {round}");
        origin.limit_next("Retry-After: 2");
        let (first, others) = clients.split_first_mut().unwrap();
        assert_eq!(first.request("GET", &origin.url(), &[&field]).await.status(), 429);
        let start = Instant::now();
        for client in others {
            while client
                .request("GET", &origin.url(), &[&field])
                .await
                .head
                .field("proxy-status")
                .is_none()
            {}
            took.push(start.elapsed());
        }
    }
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!("p50 {:?}, p90 {:?}, p99 {:?}, longest {:?}", at(50), at(90), at(99), at(100));
    assert!(at(99) < Duration::from_millis(50));
}
