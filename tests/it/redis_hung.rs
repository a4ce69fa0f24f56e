//! A Redis that hangs, under an API with all its policies on: nobody waits for it longer than once,
//! and each policy goes on by itself.

use std::time::Duration;
use std::time::Instant;

use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_until;

/// `--redis-timeout`.
const TIMEOUT: Duration = Duration::from_millis(300);
/// What a machine that runs other tests meanwhile may take for one request. Without the breaker on
/// Redis each request that fails would take the whole time-out, and so would one that probes.
const SLACK: Duration = Duration::from_millis(200);

/// An origin whose every third answer is a 500, so that the breaker has to speak.
fn failing_now_and_then() -> Origin {
    Origin::raw(|mut connection| async move {
        let mut count = 0;
        while let Ok(Some(_head)) = connection.head().await {
            count += 1;
            let status = if count % 3 == 0 { "500 Internal Server Error" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nX-Origin: 1\r\nContent-Length: 2\r\n\r\nok");
            if connection.send(answer).await.is_err() {
                return;
            }
        }
    })
}

/// How long each of so many requests took, one after the other.
async fn times(proxy: &Proxy, url: &str, count: usize) -> Vec<Duration> {
    let mut client = proxy.client().await;
    let mut times = Vec::new();
    for _ in 0..count {
        let asked = Instant::now();
        let answer = client.get(url).await;
        assert!([200, 500].contains(&answer.status()), "{answer:?}");
        times.push(asked.elapsed());
    }
    times
}

#[tokio::test]
async fn a_hung_redis_costs_a_request_its_time_out_once_and_those_after_it_nothing() {
    let redis = Redis::start().await;
    let origin = failing_now_and_then();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("narrows.yaml");
    let text = format!(
        "api:\n  shop:\n    target_url: \"{}\"\n    request_timeout: 10s\n    circuit_breaker: \
         {{failure_threshold: 1000}}\n    cool_down: true\n    retry: {{max_attempts: 2, \
         initial_delay: 0, retry_on_status: [502]}}\n",
        origin.url("")
    );
    std::fs::write(&path, text).unwrap();
    let flags = format!("--config {} --redis-failure open", path.display());
    let proxy = narrows().shared(&redis).flags(flags).flags("--redis-timeout 300ms").start().await;
    proxy.wait_until_up().await;
    // The path of the gateway, as a client that knows nothing of proxies asks for it.
    let url = "/api/shop/x";
    wait_until("the breaker has told Redis of a failure", async || {
        times(&proxy, url, 3).await;
        let keys: Vec<String> = redis.ask("KEYS *@p:*").await;
        !keys.is_empty()
    })
    .await;

    redis.freeze();
    let first = times(&proxy, url, 30).await;
    let slow = first.iter().filter(|took| **took >= TIMEOUT).count();
    let longest = first.iter().max().unwrap();
    assert!(*longest < TIMEOUT + SLACK, "{first:?}");
    // Limiter and policies have a connection each, and find out each for itself.
    assert!(slow <= 2, "{first:?}");

    let begin = Instant::now();
    let mut after = Vec::new();
    while begin.elapsed() < TIMEOUT * 5 {
        after.extend(times(&proxy, url, 20).await);
    }
    after.sort_unstable();
    let p99 = after[after.len() * 99 / 100];
    println!("hung: first {longest:?}, then p99 {p99:?} of {}", after.len());
    assert!(after.iter().all(|took| *took < SLACK), "{:?}", after.last());

    redis.thaw();
    proxy.wait_until_redis_is("up").await;
    times(&proxy, url, 10).await;
}
