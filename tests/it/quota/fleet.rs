//! Quotas of several instances on one Redis, and without it.

use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;

use super::File;
use super::ask;
use super::ask_from;
use super::assert_over;
use super::early_in;
use super::passed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;

async fn fleet(file: &File, redis: &Redis, size: usize, flags: &str) -> Vec<Proxy> {
    let start = || file.setup().shared(redis).flags(flags).start();
    let fleet = join_all((0..size).map(|_| start())).await;
    for proxy in &fleet {
        proxy.wait_until_up().await;
    }
    fleet
}

#[tokio::test]
async fn of_two_hundred_at_once_to_four_instances_exactly_five_reach_the_origin() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{hour: 5}");
    let fleet = fleet(&file, &redis, 4, "").await;
    early_in(3600).await;
    let answers = join_all((0..200).map(|at| ask(&fleet[at % 4], &[]))).await;
    let passed = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!((passed, origin.hits()), (5, 5));
    answers.iter().filter(|answer| answer.status() != 200).for_each(|answer| {
        assert_over(answer, "hour");
    });
}

#[tokio::test]
async fn a_large_quota_of_a_fleet_costs_redis_less_than_a_command_for_ten_requests() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{day: 4000}");
    let fleet = fleet(&file, &redis, 4, "").await;
    early_in(86400).await;
    let scripts = async || {
        let stats: String = redis.ask("INFO commandstats").await;
        let row = stats.lines().find(|row| row.starts_with("cmdstat_evalsha:")).unwrap();
        row.split_once("calls=").unwrap().1.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let ask_all = async |requests: usize| {
        let passing = fleet.iter().map(|proxy| passed(proxy, requests, &[]));
        join_all(passing).await.into_iter().sum::<usize>()
    };
    let before = scripts().await;
    assert_eq!(ask_all(500).await, 2000);
    // The slots of the origin's connections and heartbeats are scripts too.
    let asked = scripts().await - before;
    assert!(asked <= 200, "{asked} scripts for 2000 requests");
    assert_eq!(ask_all(600).await, 2000, "and no more than the limit, to the last one");
    assert_eq!(origin.hits(), 4000);
}

#[tokio::test]
async fn in_the_layout_of_apitwo_redis_holds_its_three_keys_with_their_lives() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{layout: apitwo}");
    let fleet = fleet(&file, &redis, 1, "").await;
    early_in(60).await;
    assert_eq!(passed(&fleet[0], 6, &[]).await, 5);
    let mut keys: Vec<String> = redis.ask("KEYS limit:*").await;
    keys.sort();
    let [day, hour, minute] = &keys[..] else { panic!("{keys:?}") };
    for (key, beginning, digits, life) in [
        (day, "limit:day:127.0.0.1:", 8, 86400),
        (hour, "limit:hour:127.0.0.1:", 10, 3600),
        (minute, "limit:minute:127.0.0.1:", 12, 60),
    ] {
        let stamp = key.strip_prefix(beginning).unwrap_or_else(|| panic!("{key}"));
        assert!(
            stamp.len() == digits && stamp.bytes().all(|digit| digit.is_ascii_digit()),
            "{key}"
        );
        let left: i64 = redis.ask(&format!("TTL {key}")).await;
        assert!((1..=life).contains(&left), "{key}: {left}");
        let count: u64 = redis.ask(&format!("GET {key}")).await;
        assert_eq!(count, 5, "{key}: the sixth was refused and has cost nothing");
    }
}

#[tokio::test]
async fn a_refused_request_costs_the_other_windows_nothing_unless_it_is_to_as_in_apitwo() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{layout: apitwo, minute: 5, hour: 50}");
    let first = fleet(&file, &redis, 1, "").await;
    early_in(60).await;
    assert_eq!(passed(&first[0], 9, &[]).await, 5);
    let of = async |tier: &str| {
        let keys: Vec<String> = redis.ask(&format!("KEYS limit:{tier}:*")).await;
        redis.ask::<u64>(&format!("GET {}", keys[0])).await
    };
    assert_eq!((of("minute").await, of("hour").await), (5, 5));

    let _gone: u64 = redis.ask("DEL nothing").await;
    let _flushed: String = redis.ask("FLUSHALL").await;
    drop(first);
    let file = File::new(&origin, "{layout: apitwo, minute: 5, hour: 50, charge_refused: true}");
    let second = fleet(&file, &redis, 1, "").await;
    early_in(60).await;
    assert_eq!(passed(&second[0], 9, &[]).await, 5);
    assert_eq!((of("minute").await, of("hour").await), (9, 5), "the minute refuses first");
}

#[tokio::test]
async fn who_is_refused_asks_redis_for_nothing() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{hour: 5}");
    let fleet = fleet(&file, &redis, 1, "").await;
    early_in(3600).await;
    assert_eq!(passed(&fleet[0], 6, &[]).await, 5);
    let asked =
        async || fleet[0].metric("narrows_quota_redis_questions_total", &[("api", "a")]).await;
    let before = asked().await;
    assert_eq!(passed(&fleet[0], 200, &[]).await, 0);
    assert!(asked().await <= before, "{before} before");
}

#[tokio::test]
async fn while_redis_is_away_each_policy_does_what_it_says_and_nobody_waits_for_it() {
    let origin = Origin::start();
    for (policy, status, more) in [
        ("closed", 503, 503),
        ("error500", 500, 500),
        ("open", 200, 200),
        // Its own part of ten, it being alone.
        ("local", 200, 429),
    ] {
        let mut redis = Redis::start().await;
        let file = File::new(&origin, &format!("{{hour: 10, on_redis_error: {policy}}}"));
        let fleet = fleet(&file, &redis, 1, "--redis-failure open").await;
        early_in(3600).await;
        redis.kill();
        fleet[0].wait_until_redis_is("away").await;
        let started = Instant::now();
        let first = ask_from(&fleet[0], "127.0.0.2", &[]).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{policy}: {:?}", started.elapsed());
        assert_eq!(first.status(), status, "{policy}");
        if status >= 500 {
            first.assert_refused(status, "proxy_internal_error");
            let after = (status == 503).then_some("1");
            assert_eq!(first.head.field("retry-after"), after);
        }
        for _ in 0..9 {
            assert_eq!(ask_from(&fleet[0], "127.0.0.2", &[]).await.status(), status, "{policy}");
        }
        assert_eq!(ask_from(&fleet[0], "127.0.0.2", &[]).await.status(), more, "{policy}");
        let result = match policy {
            "closed" | "error500" => "away",
            _ => "alone",
        };
        let counted = fleet[0]
            .metric("narrows_quota_requests_total", &[("api", "a"), ("result", result)])
            .await;
        assert!(counted >= 10.0, "{policy}: {counted}");
        redis.restart().await;
        fleet[0].wait_until_up().await;
        crate::support::wait_until("quotas are counted again", async || {
            let answer = ask_from(&fleet[0], "127.0.0.5", &[]).await;
            answer.status() != status || answer.head.field("ratelimit").is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_holds_a_request_up_for_its_time_out_once() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{hour: 10, on_redis_error: open}");
    let flags = "--redis-failure open --redis-timeout 200ms";
    let fleet = fleet(&file, &redis, 1, flags).await;
    early_in(3600).await;
    assert_eq!(ask(&fleet[0], &[]).await.status(), 200);
    redis.freeze();
    let started = Instant::now();
    for at in 0..20 {
        let from = format!("127.0.1.{}", at + 1);
        assert_eq!(ask_from(&fleet[0], &from, &[]).await.status(), 200);
    }
    assert!(started.elapsed() < Duration::from_millis(1200), "{:?}", started.elapsed());
    redis.thaw();
}
