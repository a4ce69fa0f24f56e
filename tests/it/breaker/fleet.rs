//! The breaker of a fleet: four instances and a real Redis.

use std::time::Duration;
use std::time::Instant;

use super::File;
use super::assert_open;
use super::crowd;
use super::probe;
use super::wait_until_hit;
use crate::support::Client;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

const CHANNEL: &str = "proxy_rate_limiter:{0}:@p";

/// Waits until so many instances listen to what is said of APIs.
async fn wait_until_listening(redis: &Redis, count: u64) {
    wait_until(&format!("{count} listen"), async || {
        let heard: (String, u64) = redis.ask(&format!("PUBSUB NUMSUB {CHANNEL}")).await;
        heard.1 == count
    })
    .await;
}

/// So many instances that share a Redis, once all of them hear each other.
async fn fleet(file: &File, redis: &Redis, count: u64) -> Vec<Proxy> {
    let mut fleet = Vec::new();
    for _ in 0..count {
        fleet.push(file.setup().shared(redis).start().await);
    }
    wait_until_listening(redis, count).await;
    fleet
}

async fn wait_until_open(proxy: &Proxy, url: &str) {
    wait_until("its circuit is open", async || {
        proxy.get(url).await.head.field("x-origin").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_dead_origin_is_hit_as_often_as_the_threshold_says_by_all_together() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let file = File::of(&origin, "failure_threshold: 5, reset_timeout: 30");
    let fleet = fleet(&file, &redis, 4).await;
    for (number, proxy) in fleet.iter().cycle().take(40).enumerate() {
        let answer = proxy.get(origin.url("/status/503")).await;
        if number < 5 {
            assert_eq!(answer.text(), "status 503", "{number}");
        } else {
            assert_open(&answer);
        }
    }
    assert_eq!(origin.hits(), 5);
    let key = "proxy_rate_limiter:{0}:@p:breaker:shop";
    let left: i64 = redis.ask(&format!("PTTL {key}")).await;
    assert!(left > 0, "the key has no end: {left}");
}

#[tokio::test]
async fn one_success_anywhere_forgets_the_failures_of_all() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let file = File::of(&origin, "failure_threshold: 5");
    let fleet = fleet(&file, &redis, 4).await;
    let key = "proxy_rate_limiter:{0}:@p:breaker:shop";
    for _ in 0..2 {
        for proxy in &fleet {
            assert_eq!(proxy.get(origin.url("/status/500")).await.text(), "status 500");
        }
        let failures: String = redis.ask(&format!("HGET {key} f")).await;
        assert_eq!(failures, "4");
        // It must have heard that there is something to be forgotten.
        wait_until("the failures are forgotten", async || {
            assert_eq!(fleet[2].get(origin.url("/")).await.status(), 200);
            redis.ask::<String>(&format!("HGET {key} f")).await == "0"
        })
        .await;
    }
}

#[tokio::test]
async fn one_probe_goes_out_while_500_wait_and_if_its_instance_is_killed_another_does() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let breaker = "failure_threshold: 2, reset_timeout: 500ms, probe_lease: 2";
    let file = File::of(&origin, breaker);
    let fleet = fleet(&file, &redis, 4).await;
    for proxy in &fleet[..2] {
        proxy.get(origin.url("/status/500")).await;
    }
    for proxy in &fleet {
        wait_until_open(proxy, &origin.url("/status/500")).await;
    }
    let hits = origin.hits();
    let probing = tokio::spawn(probe(fleet[0].address, origin.url("/slow?ms=60000")));
    wait_until_hit(&origin, hits + 1).await;
    let granted = Instant::now();
    for proxy in &fleet {
        for answer in crowd(proxy, &origin.url("/slow?ms=1"), 125).await {
            assert_open(&answer);
        }
    }
    assert!(granted.elapsed() < Duration::from_secs(2), "this machine is too slow to tell");
    assert_eq!(origin.hits(), hits + 1);

    fleet[0].kill();
    let second = tokio::spawn(probe(fleet[1].address, origin.url("/")));
    let third = tokio::spawn(probe(fleet[2].address, origin.url("/")));
    let limit = Duration::from_secs(5);
    wait_at_most(limit, "a new probe", async || origin.hits() > hits + 1).await;
    assert!(granted.elapsed() > Duration::from_millis(1900), "{:?}", granted.elapsed());
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(third.await.unwrap().status(), 200);
    probing.abort();
    for proxy in &fleet[1..] {
        wait_until("it is closed everywhere", async || {
            proxy.get(origin.url("/")).await.status() == 200
        })
        .await;
    }
}

#[tokio::test]
async fn five_hundred_at_once_send_one_probe_of_all_four() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let file = File::of(&origin, "failure_threshold: 2, reset_timeout: 1");
    let fleet = fleet(&file, &redis, 4).await;
    for proxy in &fleet[..2] {
        proxy.get(origin.url("/status/500")).await;
    }
    let hits = origin.hits();
    // All stand ready before the time is over, and ask on until one of them has been through.
    let asking: Vec<_> = (0..500)
        .map(|number| {
            let (address, url) = (fleet[number % 4].address, origin.url("/slow?ms=3000"));
            tokio::spawn(async move {
                let mut client = Client::to(address).await;
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(2500) {
                    if client.get(&url).await.head.field("x-origin").is_some() {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                false
            })
        })
        .collect();
    let mut through = 0;
    for one in asking {
        through += usize::from(one.await.unwrap());
    }
    assert_eq!((through, origin.hits()), (1, hits + 1));
}

#[tokio::test]
async fn without_redis_each_counts_by_itself_and_with_redis_again_all_together() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    let file = File::of(&origin, "failure_threshold: 3, reset_timeout: 1h");
    let fleet = fleet(&file, &redis, 2).await;
    redis.kill();
    for proxy in &fleet {
        for _ in 0..3 {
            assert_eq!(proxy.get(origin.url("/status/500")).await.text(), "status 500");
        }
        assert_open(&proxy.get(origin.url("/")).await);
    }
    assert_eq!(origin.hits(), 6);

    redis.restart().await;
    // What was made up meanwhile is forgotten; an hour has not passed.
    for proxy in &fleet {
        let again = async || proxy.get(origin.url("/")).await.status() == 200;
        wait_until("it is asked again", again).await;
    }
    wait_until_listening(&redis, 2).await;
    let hits = origin.hits();
    for proxy in fleet.iter().cycle().take(3) {
        assert_eq!(proxy.get(origin.url("/status/500")).await.text(), "status 500");
    }
    for proxy in &fleet {
        wait_until("it is open", async || proxy.get(origin.url("/")).await.status() == 503).await;
    }
    assert!(origin.hits() <= hits + 3 + 1, "{} hits", origin.hits() - hits);
}

#[tokio::test]
async fn a_redis_that_forgets_all_is_told_again() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let breaker = "failure_threshold: 2, reset_timeout: 1500ms, success_threshold: 1";
    let file = File::of(&origin, breaker);
    let fleet = fleet(&file, &redis, 4).await;
    for proxy in &fleet[..2] {
        proxy.get(origin.url("/status/500")).await;
    }
    for proxy in &fleet {
        wait_until("it is open", async || proxy.get(origin.url("/")).await.status() == 503).await;
    }
    let hits = origin.hits();
    let _: String = redis.ask("FLUSHALL").await;
    for proxy in &fleet {
        assert_open(&proxy.get(origin.url("/")).await);
    }
    // It goes on from what the instances know: one probe, and no more.
    let probing = tokio::spawn(probe(fleet[3].address, origin.url("/slow?ms=1000")));
    wait_until_hit(&origin, hits + 1).await;
    for proxy in &fleet {
        assert_open(&proxy.get(origin.url("/")).await);
    }
    assert_eq!(probing.await.unwrap().status(), 200);
    for proxy in &fleet {
        wait_until("it is closed", async || proxy.get(origin.url("/")).await.status() == 200).await;
    }
}

#[tokio::test]
async fn who_starts_while_it_is_open_hears_of_it() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let file = File::of(&origin, "failure_threshold: 1, reset_timeout: 1h");
    let fleet = fleet(&file, &redis, 1).await;
    fleet[0].get(origin.url("/status/500")).await;
    let late = file.setup().shared(&redis).start().await;
    // A success of somebody who has not heard yet closes nothing.
    wait_until("it has heard", async || late.get(origin.url("/")).await.status() == 503).await;
    assert_open(&fleet[0].get(origin.url("/")).await);
}

#[tokio::test]
async fn tunnels_are_counted_by_all_together_too() {
    let (closed, redis) = (Closed::new(), Redis::start().await);
    let mut fleet = Vec::new();
    for _ in 0..2 {
        let setup = narrows().flags("--connect-breaker-failures 4").shared(&redis);
        fleet.push(setup.start().await);
    }
    wait_until_listening(&redis, 2).await;
    for proxy in fleet.iter().cycle().take(4) {
        proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    }
    for proxy in &fleet {
        wait_until("it is left alone", async || {
            proxy.connect(closed.authority()).await.status() == 503
        })
        .await;
    }
}
