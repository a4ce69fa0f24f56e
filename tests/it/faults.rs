//! One fault at a time, between two instances with a path of their own to Redis: what is promised
//! for it, and that nothing is left of it. More of them are in `fleet` and `deployments`; all of
//! them under load in `oracle`.
//!
//! No fault here is a wrong clock of an instance: narrows looks at none (clippy's
//! `disallowed-methods`), it measures lengths of time, and Redis has the only clock that counts.

use std::time::Duration;
use std::time::Instant;

use http::Request;

use crate::oracle::fleet::HEARTBEAT;
use crate::oracle::fleet::LEASE;
use crate::oracle::fleet::Member;
use crate::oracle::fleet::TIMEOUT;
use crate::support::Answer;
use crate::support::Client;
use crate::support::End;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::Path;
use crate::support::Redis;
use crate::support::ports_between;
use crate::support::wait_at_most;
use crate::support::wait_until;

/// Two instances that share this cap.
async fn pair(cap: usize) -> (Redis, Member, Member) {
    pair_with(&format!("--max-connections {cap}")).await
}

async fn pair_with(flags: &str) -> (Redis, Member, Member) {
    let redis = Redis::start().await;
    let (a, b) = (Member::join(&redis, flags).await, Member::join(&redis, flags).await);
    for member in [&a, &b] {
        wait_until_well(member).await;
    }
    (redis, a, b)
}

async fn wait_until_well(member: &Member) {
    member.proxy.wait_until_up().await;
    let what = "all that it holds is on the books";
    wait_until(what, async || member.is_on_the_books().await).await;
}

/// A tunnel, as soon as there is a slot for it.
async fn tunnel_at_last(member: &Member, to: &str) -> Client {
    let mut tunnel = None;
    wait_until("a tunnel is admitted", async || {
        let mut client = member.proxy.client().await;
        let is_admitted = client.connect(to).await.status() == 200;
        tunnel = is_admitted.then_some(client);
        is_admitted
    })
    .await;
    tunnel.unwrap()
}

async fn assert_full(member: &Member, to: &str) {
    member.proxy.connect(to).await.assert_refused(503, "connection_limit_reached");
}

async fn assert_away(member: &Member, to: &str) {
    let start = Instant::now();
    let answer = member.proxy.connect(to).await;
    answer.assert_refused(503, "proxy_internal_error");
    assert!(answer.head.reason().starts_with("limiter away"), "{answer:?}");
    assert!(start.elapsed() < TIMEOUT + Duration::from_millis(300), "{:?}", start.elapsed());
}

async fn wait_until_empty(redis: &Redis) {
    let what = "nothing is left in Redis";
    let limit = Duration::from_secs(3);
    wait_at_most(limit, what, async || redis.host_keys().await.is_empty()).await;
}

#[tokio::test]
async fn an_instance_that_was_stopped_keeps_its_tunnels_and_opens_nothing_until_they_fit() {
    let (redis, a, b) = pair(2).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = [a.proxy.tunnel(&to).await, a.proxy.tunnel(&to).await];
    wait_until("both are accepted", async || origin.current() == 2).await;
    a.proxy.freeze();
    let excused = origin.excuse(&ports_between(a.proxy.process(), origin.port()));
    assert_eq!(excused, 2, "the named overshoot: what it had open");
    let mut new = vec![tunnel_at_last(&b, &to).await, tunnel_at_last(&b, &to).await];
    a.proxy.thaw();
    for tunnel in &mut old {
        tunnel.echo("kept").await;
    }
    a.proxy.wait_until_up().await;
    assert_full(&a, &to).await;

    // What B gives back goes to what A has open already, one by one.
    drop(new.pop());
    wait_until("B has closed it", async || origin.current() == 1).await;
    for _ in 0..10 {
        assert_full(&a, &to).await;
        assert_full(&b, &to).await;
    }
    drop(new);
    wait_until_well(&a).await;
    origin.excuse_nobody();
    assert_full(&a, &to).await;
    assert_full(&b, &to).await;
    for tunnel in &mut old {
        tunnel.echo("kept to the end").await;
    }
    drop(old);
    let both = (tunnel_at_last(&a, &to).await, tunnel_at_last(&b, &to).await);
    assert_eq!(origin.peak(), 2);
    drop(both);
    wait_until_empty(&redis).await;
}

#[tokio::test]
async fn an_instance_that_is_cut_off_opens_nothing_past_its_lease_and_keeps_its_tunnels() {
    for path in [Path::Silent, Path::Closed] {
        let (redis, a, b) = pair(2).await;
        let origin = Origin::echo();
        let to = origin.authority();
        let mut old = a.proxy.tunnel(&to).await;
        a.relay.set(path);
        wait_until("Redis is away for it", async || a.proxy.readiness().await["redis"] == "away")
            .await;
        let slots = [tunnel_at_last(&b, &to).await];
        wait_until("both are accepted", async || origin.current() == 2).await;
        let what = "it is forgotten";
        wait_until(what, async || a.lease_left(&redis).await.is_none()).await;
        origin.excuse(&ports_between(a.proxy.process(), origin.port()));
        let slots = (slots, tunnel_at_last(&b, &to).await);
        for _ in 0..5 {
            assert_away(&a, &to).await;
        }
        old.echo("kept").await;
        a.relay.set(Path::Open);
        a.proxy.wait_until_up().await;
        assert_full(&a, &to).await;
        old.echo("kept when it is back").await;
        drop(slots);
        wait_until_well(&a).await;
        origin.excuse_nobody();
        let _one = tunnel_at_last(&b, &to).await;
        assert_full(&b, &to).await;
        assert_eq!(origin.peak(), 2);
    }
}

#[tokio::test]
async fn an_instance_that_is_cut_off_and_closes_all_shows_the_origin_no_more_than_the_cap() {
    let (_redis, a, b) = pair_with("--max-connections 2 --on-lease-loss close").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = [a.proxy.tunnel(&to).await, a.proxy.tunnel(&to).await];
    a.relay.set(Path::Silent);
    let _new = [tunnel_at_last(&b, &to).await, tunnel_at_last(&b, &to).await];
    for tunnel in &mut old {
        assert_eq!(tunnel.end().await, End::Reset);
    }
    a.relay.set(Path::Open);
    wait_until_well(&a).await;
    assert_full(&a, &to).await;
    assert_eq!(origin.peak(), 2, "nobody is excused");
}

#[tokio::test]
async fn streams_of_http_2_are_closed_with_the_lease_too() {
    let (_redis, a, b) = pair_with("--max-connections 3 --on-lease-loss close").await;
    let origin = Origin::start();
    let to = origin.authority();
    let mut client = Http2::to(a.proxy.address).await;
    let mut old = [client.tunnel(&to).await, client.tunnel(&to).await];
    let slow = Request::get(origin.url("/slow?ms=60000")).body(()).unwrap();
    let (answer, _sending) = client.begin(slow, true).await;
    wait_until("all are at the origin", async || origin.current() == 3).await;
    a.relay.set(Path::Silent);
    for tunnel in &mut old {
        assert!(tunnel.rest().await.is_err(), "a tunnel that was cut looks whole");
    }
    assert!(Answer::read(answer).await.is_err());
    let _new = [
        tunnel_at_last(&b, &to).await,
        tunnel_at_last(&b, &to).await,
        tunnel_at_last(&b, &to).await,
    ];
    a.relay.set(Path::Open);
    wait_until_well(&a).await;
    assert_full(&a, &to).await;
    assert_eq!(origin.peak(), 3, "nobody is excused");
}

#[tokio::test]
async fn a_slot_whose_answer_was_lost_is_not_lost() {
    let (redis, a, b) = pair(1).await;
    let origin = Origin::echo();
    let to = origin.authority();
    a.relay.set(Path::Mute);
    assert_away(&a, &to).await;
    assert_eq!(redis.host_keys().await.len(), 1, "Redis has heard, and granted it");
    assert_full(&b, &to).await;
    a.relay.set(Path::Open);
    wait_until_well(&a).await;
    let tunnel = tunnel_at_last(&b, &to).await;
    assert_full(&a, &to).await;
    drop(tunnel);
    wait_until_empty(&redis).await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_slot_given_back_comes_back_though_the_answer_was_lost() {
    let (redis, a, b) = pair(1).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let tunnel = a.proxy.tunnel(&to).await;
    a.relay.set(Path::Mute);
    drop(tunnel);
    let _tunnel = tunnel_at_last(&b, &to).await;
    a.relay.set(Path::Open);
    wait_until_well(&a).await;
    assert_full(&a, &to).await;
    assert_full(&b, &to).await;
    assert_eq!(redis.host_keys().await.len(), 1);
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn what_an_old_connection_says_late_changes_nothing() {
    let (redis, a, b) = pair(1).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let tunnel = a.proxy.tunnel(&to).await;
    let connections = a.relay.opened();
    a.relay.hold_old();
    // That it has none any more is what will arrive late, when it has one.
    drop(tunnel);
    let what = "it has another connection";
    wait_until(what, async || a.relay.opened() > connections).await;
    let mut tunnel = tunnel_at_last(&a, &to).await;
    let hash = format!("proxy_rate_limiter:{{0}}:{to}");
    assert_eq!(redis.ask::<u64>(&format!("HGET {hash} #t")).await, 1);
    let commands = async || {
        let stats: String = redis.ask("INFO commandstats").await;
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.unwrap().split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = commands().await;
    a.relay.set(Path::Open);
    wait_until("it has arrived", async || commands().await > before).await;
    for _ in 0..10 {
        assert_full(&b, &to).await;
    }
    tunnel.echo("counted").await;
    assert_eq!(redis.ask::<u64>(&format!("HGET {hash} #t")).await, 1);
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_slow_redis_is_waited_for_and_one_that_is_too_slow_is_away() {
    let (_redis, a, b) = pair(2).await;
    let origin = Origin::echo();
    let to = origin.authority();
    a.relay.set(Path::Slow(TIMEOUT / 6));
    let start = Instant::now();
    let mut first = a.proxy.tunnel(&to).await;
    assert!(start.elapsed() >= TIMEOUT / 3, "there and back: {:?}", start.elapsed());
    a.relay.set(Path::Slow(TIMEOUT));
    a.proxy.wait_until_redis_is("away").await;
    assert_away(&a, &to).await;
    first.echo("kept").await;
    a.relay.set(Path::Open);
    let _second = tunnel_at_last(&a, &to).await;
    assert_full(&b, &to).await;
    assert_eq!(origin.peak(), 2);
}

#[tokio::test]
async fn a_redis_that_stood_still_for_longer_than_all_leases_forgets_nobody() {
    let (redis, a, b) = pair(2).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = [a.proxy.tunnel(&to).await, b.proxy.tunnel(&to).await];
    redis.freeze();
    tokio::time::sleep(2 * LEASE).await;
    redis.thaw();
    let end = Instant::now() + LEASE + 2 * HEARTBEAT;
    while Instant::now() < end {
        assert_eq!(a.proxy.connect(&to).await.status(), 503);
        assert_eq!(b.proxy.connect(&to).await.status(), 503);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for tunnel in &mut old {
        tunnel.echo("still there").await;
    }
    assert_eq!(origin.peak(), 2);
    drop(old);
    drop((tunnel_at_last(&a, &to).await, tunnel_at_last(&b, &to).await));
    wait_until_empty(&redis).await;
}

/// Nobody has a lease when Redis is back, and it knows nothing.
#[tokio::test]
async fn a_redis_that_comes_back_empty_after_all_leases_learns_what_is_open() {
    let (mut redis, a, b) = pair(2).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = [a.proxy.tunnel(&to).await, a.proxy.tunnel(&to).await];
    redis.kill();
    tokio::time::sleep(LEASE + 2 * HEARTBEAT).await;
    redis.restart().await;
    let end = Instant::now() + 2 * LEASE;
    while Instant::now() < end {
        assert_eq!(b.proxy.connect(&to).await.status(), 503);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for tunnel in &mut old {
        tunnel.echo("still there").await;
    }
    assert_eq!(origin.peak(), 2);
    drop(old);
    drop((tunnel_at_last(&a, &to).await, tunnel_at_last(&b, &to).await));
    wait_until_empty(&redis).await;
}

/// A clock that leaps forward ends leases before their time; here the leases' ends leap back.
#[tokio::test]
async fn a_clock_of_redis_that_leaps_makes_a_zombie_and_no_more() {
    let (redis, a, b) = pair(1).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = a.proxy.tunnel(&to).await;
    let workers = "proxy_rate_limiter:{0}:@w";
    let known: Vec<String> = redis.ask("ZRANGE proxy_rate_limiter:{0}:@lease 0 -1").await;
    let epochs: Vec<u64> = redis.ask(&format!("HMGET {workers} {}", known.join(" "))).await;
    let what = "both have been forgotten, and said hello";
    wait_until(what, async || {
        for id in &known {
            let command = format!("ZADD proxy_rate_limiter:{{0}}:@lease XX 1 {id}");
            redis.ask::<()>(&command).await;
        }
        let now: Vec<Option<u64>> =
            redis.ask(&format!("HMGET {workers} {}", known.join(" "))).await;
        now.iter().zip(&epochs).all(|(now, before)| now.is_some_and(|now| now > *before))
    })
    .await;
    old.echo("kept").await;
    origin.excuse(&ports_between(a.proxy.process(), origin.port()));
    // B may have had the slot in the moment in which it was nobody's.
    let at_b = b.proxy.connect(&to).await;
    assert!([200, 503].contains(&at_b.status()), "{at_b:?}");
    wait_until_well(&a).await;
    origin.excuse_nobody();
    assert_full(&a, &to).await;
    assert_full(&b, &to).await;
    old.echo("kept to the end").await;
    assert_eq!(origin.peak(), 1);
    drop(old);
    drop(tunnel_at_last(&b, &to).await);
    wait_until_empty(&redis).await;
}
