//! Several instances on one Redis: together they keep one cap, and survive each other and Redis.
//!
//! The lease is 2 s and the heartbeat 400 ms (`Setup::shared`). A Redis that has just started is
//! learned from for up to one lease before anybody is admitted; `fleet` waits that out.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::limit::call;
use crate::support::Client;
use crate::support::End;
use crate::support::Origin;
use crate::support::PATIENCE;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

const LEASE: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_millis(400);

async fn fleet(redis: &Redis, size: usize, flags: &str) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for _ in 0..size {
        proxies.push(narrows().shared(redis).flags(flags).start().await);
    }
    for proxy in &proxies {
        proxy.wait_until_up().await;
    }
    proxies
}

/// Two instances with these flags.
async fn pair(redis: &Redis, flags: &str) -> (Proxy, Proxy) {
    let mut proxies = fleet(redis, 2, flags).await.into_iter();
    (proxies.next().unwrap(), proxies.next().unwrap())
}

/// A tunnel, as soon as one is admitted.
async fn tunnel_at_last(proxy: &Proxy, to: &str) -> (Client, Duration) {
    let mut tunnel = None;
    let took = wait_until(&format!("a tunnel to {to} is admitted"), async || {
        let mut client = proxy.client().await;
        let answer = client.connect(to).await;
        if answer.status() == 200 {
            tunnel = Some(client);
        } else {
            assert_eq!(answer.status(), 503, "{answer:?}");
        }
        tunnel.is_some()
    })
    .await;
    (tunnel.unwrap(), took)
}

#[tokio::test]
async fn two_instances_share_one_cap_and_both_know_the_count() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let held = a.tunnel(&to).await;
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    b.get(origin.url("/")).await.assert_refused(503, "connection_limit_reached");
    for proxy in [&a, &b] {
        let what = "both count one in the fleet";
        wait_until(what, async || proxy.host(&to).await.fleet_open == 1).await;
    }
    let (here, there) = (a.host(&to).await, b.host(&to).await);
    assert_eq!((here.open, there.open), (1, 0));
    assert_eq!(here.holders, there.holders);
    assert_eq!(here.holders.values().copied().collect::<Vec<_>>(), [1]);
    drop(held);
    let (mut held, took) = tunnel_at_last(&b, &to).await;
    assert!(took < Duration::from_secs(1), "a release is known at once: {took:?}");
    held.echo("mine now").await;
    a.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn counts_in_redis_are_one_hash_per_host_with_the_workers_and_their_total() {
    let redis = Redis::start().await;
    let flags = "--max-connections 5 --redis-prefix mine --slack 0";
    let (a, b) = pair(&redis, flags).await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _tunnels = (a.tunnel(&to).await, a.tunnel(&to).await, b.tunnel(&to).await);
    let key = format!("mine:{{0}}:{to}");
    assert_eq!(redis.host_keys().await, std::slice::from_ref(&key));
    let table: std::collections::BTreeMap<String, String> =
        redis.ask(&format!("HGETALL {key}")).await;
    assert_eq!(table["#t"], "3", "{table:?}");
    let workers = table.iter().filter(|(field, _)| !field.starts_with(['#', '?']));
    let mut counts: Vec<&str> = workers.map(|(_, count)| count.as_str()).collect();
    counts.sort_unstable();
    assert_eq!(counts, ["1", "2"], "{table:?}");
    assert_eq!(redis.ask::<u64>("ZCARD mine:{0}:@lease").await, 2, "one lease per worker");
}

async fn under_five_times_the_demand(size: usize, cap: usize) {
    let redis = Redis::start().await;
    let flags = format!("--max-connections {cap} --pool-idle 100ms --threads 2");
    let proxies = Arc::new(fleet(&redis, size, &flags).await);
    let origin = Arc::new(Origin::start());
    // So many calls by each rather than so much time: a slow machine is no reason to fail.
    let passed: Arc<Vec<AtomicUsize>> = Arc::new((0..size).map(|_| AtomicUsize::new(0)).collect());
    let is_done =
        |passed: &[AtomicUsize]| passed.iter().all(|passed| passed.load(Ordering::Relaxed) >= 100);
    let end = Instant::now() + PATIENCE;
    let mut callers = JoinSet::new();
    for caller in 0..5 * cap {
        let (proxies, origin) = (Arc::clone(&proxies), Arc::clone(&origin));
        let (passed, which) = (Arc::clone(&passed), caller % size);
        callers.spawn(async move {
            while !is_done(&passed) && Instant::now() < end {
                let is_admitted =
                    call(&proxies[which], &origin, (caller / size).is_multiple_of(2)).await;
                passed[which].fetch_add(usize::from(is_admitted), Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    assert_eq!(origin.peak(), cap, "the cap is kept and used");
    assert!(is_done(&passed), "one was starved: {passed:?}");
    let to = origin.authority();
    for proxy in proxies.iter() {
        proxy.wait_until_open(&to, 0).await;
    }
    wait_until("no host is left in Redis", async || redis.host_keys().await.is_empty()).await;
}

#[tokio::test]
async fn two_instances_under_five_times_the_demand_use_the_cap_and_never_more() {
    under_five_times_the_demand(2, 6).await;
}

#[tokio::test]
async fn four_instances_under_five_times_the_demand_use_the_cap_and_never_more() {
    under_five_times_the_demand(4, 10).await;
}

#[tokio::test]
async fn the_slots_of_a_killed_instance_come_back_within_lease_and_heartbeat() {
    let redis = Redis::start().await;
    let (mut a, b) = pair(&redis, "--max-connections 2").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _held = (a.tunnel(&to).await, a.tunnel(&to).await);
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    a.kill();
    a.ended().await;
    let (_first, took) = tunnel_at_last(&b, &to).await;
    let _second = b.tunnel(&to).await;
    // Twice the promise: a machine that stalls under its tests delays heartbeats too, and a gap in
    // those makes Redis wait for another lease.
    assert!(took < 2 * (LEASE + HEARTBEAT), "took {took:?}");
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(origin.peak(), 2);
}

#[tokio::test]
async fn tunnels_that_idle_for_three_leases_keep_their_slots() {
    let redis = Redis::start().await;
    let proxies = fleet(&redis, 4, "--max-connections 4").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut tunnels = Vec::new();
    for proxy in &proxies {
        tunnels.push(proxy.tunnel(&to).await);
    }
    let end = Instant::now() + 3 * LEASE + HEARTBEAT;
    while Instant::now() < end {
        for proxy in &proxies {
            let answer = proxy.connect(&to).await;
            answer.assert_refused(503, "connection_limit_reached");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for tunnel in &mut tunnels {
        tunnel.echo("still there").await;
    }
    assert_eq!(origin.peak(), 4);
}

/// Refusals for want of Redis, five in a row: each says so, and at least half come within 250 ms.
async fn assert_refused_for_want_of_redis(proxy: &Proxy, to: &str) {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let answer = proxy.connect(to).await;
        times.push(start.elapsed());
        answer.assert_refused(503, "proxy_internal_error");
        assert!(answer.head.reason().starts_with("limiter away"), "{answer:?}");
        assert!(answer.head.field("retry-after").is_some(), "{answer:?}");
    }
    times.sort();
    assert!(times[2] < Duration::from_millis(250), "{times:?}");
    assert!(times[4] < Duration::from_secs(1), "a hang: {times:?}");
}

async fn assert_degraded(proxy: &Proxy) {
    proxy.wait_until_redis_is("away").await;
    assert_eq!(proxy.readiness().await["status"], "degraded");
    assert_eq!(proxy.admin("/readyz").await.status(), 200, "one outage is no reason to leave");
    proxy.wait_until_metric("narrows_redis_up", &[], 0.0).await;
}

#[tokio::test]
async fn without_redis_tunnels_live_on_new_ones_are_refused_and_all_heals_when_it_returns() {
    let mut redis = Redis::start().await;
    let (a, b) =
        pair(&redis, "--max-connections 2 --queue-timeout 10s --redis-timeout 200ms").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = a.tunnel(&to).await;
    redis.kill();
    for proxy in [&a, &b] {
        assert_refused_for_want_of_redis(proxy, &to).await;
        assert_degraded(proxy).await;
    }
    old.echo("what Redis?").await;

    redis.restart().await;
    let (mut new, _) = tunnel_at_last(&b, &to).await;
    new.echo("back again").await;
    old.echo("all along").await;
    a.wait_until_up().await;
    b.wait_until_up().await;
    assert_eq!(a.readiness().await["status"], "ready");
    let mut hasty = b.client().await;
    let answer = hasty.connect_with(&to, &["Prefer: wait=0"]).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert_eq!(origin.peak(), 2, "the old tunnel still counts");
}

#[tokio::test]
async fn a_redis_that_hangs_is_as_good_as_gone_and_heals_too() {
    let redis = Redis::start().await;
    let (a, _b) = pair(&redis, "--max-connections 2 --redis-timeout 200ms").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut old = a.tunnel(&to).await;
    redis.freeze();
    assert_refused_for_want_of_redis(&a, &to).await;
    assert_degraded(&a).await;
    old.echo("what Redis?").await;
    redis.thaw();
    let (_new, _) = tunnel_at_last(&a, &to).await;
    a.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(origin.peak(), 2);
}

#[tokio::test]
async fn without_redis_share_lets_each_instance_pass_its_part_of_the_cap() {
    let mut redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 4 --redis-failure share").await;
    let origin = Origin::echo();
    let to = origin.authority();
    // A heartbeat later each has heard of the other.
    for proxy in [&a, &b] {
        drop(tunnel_at_last(proxy, &to).await);
        proxy.wait_until_open(&to, 0).await;
    }
    redis.kill();
    for proxy in [&a, &b] {
        proxy.wait_until_redis_is("away").await;
    }
    let mut tunnels = Vec::new();
    for proxy in [&a, &b] {
        tunnels.push(tunnel_at_last(proxy, &to).await.0);
        tunnels.push(tunnel_at_last(proxy, &to).await.0);
        assert_eq!(proxy.connect(&to).await.status(), 503);
    }
    assert_eq!(origin.peak(), 4);
}

#[tokio::test]
async fn without_redis_open_lets_all_pass_and_counts_them_here() {
    let mut redis = Redis::start().await;
    let (a, _b) = pair(&redis, "--max-connections 1 --redis-failure open").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _held = a.tunnel(&to).await;
    a.connect(&to).await.assert_refused(503, "connection_limit_reached");
    redis.kill();
    a.wait_until_redis_is("away").await;
    let _more = (a.tunnel(&to).await, a.tunnel(&to).await);
    assert_eq!(a.open(&to).await, 3);
}

#[tokio::test]
async fn an_instance_starts_without_redis_and_serves_when_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let proxy = narrows().flags("--max-connections 1").shared(&redis).start().await;
    let origin = Origin::echo();
    let to = origin.authority();
    assert_degraded(&proxy).await;
    assert_refused_for_want_of_redis(&proxy, &to).await;
    redis.restart().await;
    let (_held, _) = tunnel_at_last(&proxy, &to).await;
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
}

#[tokio::test]
async fn a_newcomer_waits_while_redis_is_learned_from_instead_of_being_refused() {
    let redis = Redis::start().await;
    let proxy = narrows().flags("--max-connections 1").shared(&redis).start().await;
    let origin = Origin::echo();
    proxy.wait_until_connected().await;
    let mut first = proxy.tunnel(origin.authority()).await;
    first.echo("admitted").await;
}

#[tokio::test]
async fn an_instance_that_stops_gives_its_slots_and_its_lease_back_at_once() {
    let redis = Redis::start().await;
    let (mut a, b) = pair(&redis, "--max-connections 2 --shutdown-timeout 200ms").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _held = (a.tunnel(&to).await, a.tunnel(&to).await);
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    a.terminate();
    assert_eq!(a.ended().await.code(), Some(0));
    let _first = b.tunnel(&to).await;
    let _second = b.tunnel(&to).await;
    assert_eq!(origin.peak(), 2);
    assert_eq!(redis.ask::<u64>("ZCARD proxy_rate_limiter:{0}:@lease").await, 1);
    let rows: Vec<String> = redis.ask("HKEYS proxy_rate_limiter:{0}:@w").await;
    let workers: Vec<&String> = rows.iter().filter(|row| !row.starts_with('#')).collect();
    assert_eq!(workers.len(), 1, "{rows:?}");
}

#[tokio::test]
async fn a_host_that_nobody_uses_leaves_no_key_and_no_key_is_ever_searched_for() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 2 --pool-idle 100ms").await;
    let origin = Origin::start();
    let to = origin.authority();
    let tunnels = (a.tunnel(&to).await, b.tunnel(&to).await);
    a.connect(&to).await.assert_refused(503, "connection_limit_reached");
    drop(tunnels);
    wait_until("both are free", async || a.open(&to).await + b.open(&to).await == 0).await;
    let (tunnel, _) = tunnel_at_last(&b, &to).await;
    assert_eq!(a.get(origin.url("/")).await.status(), 200);
    drop(tunnel);
    b.wait_until_open(&to, 0).await;
    a.wait_until_open(&to, 0).await;

    let stats: String = redis.ask("INFO commandstats").await;
    for searching in ["keys", "scan", "hscan", "zscan", "randomkey"] {
        assert!(!stats.contains(&format!("cmdstat_{searching}:")), "{stats}");
    }
    wait_until("no key is left", async || redis.host_keys().await.is_empty()).await;
}

#[tokio::test]
async fn a_redis_that_forgot_its_scripts_is_told_them_again() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let held = a.tunnel(&to).await;
    redis.ask::<()>("SCRIPT FLUSH").await;
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    redis.ask::<()>("SCRIPT FLUSH").await;
    drop(held);
    let (_held, took) = tunnel_at_last(&b, &to).await;
    assert!(took < Duration::from_secs(1), "took {took:?}");
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_redis_that_forgot_the_counts_learns_them_before_it_admits_anybody() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 2").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut held = [a.tunnel(&to).await, a.tunnel(&to).await];
    redis.ask::<()>("FLUSHALL").await;
    let end = Instant::now() + LEASE + 2 * HEARTBEAT;
    while Instant::now() < end {
        assert_eq!(b.connect(&to).await.status(), 503, "admitted beside two forgotten ones");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for tunnel in &mut held {
        tunnel.echo("still there").await;
    }
    assert_eq!(origin.peak(), 2);
    drop(held);
    let (_new, _) = tunnel_at_last(&b, &to).await;
}

#[tokio::test]
async fn an_instance_stopped_for_longer_than_its_lease_admits_nothing_on_an_old_count() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let held = a.tunnel(&to).await;
    drop(held);
    a.wait_until_open(&to, 0).await;
    a.freeze();
    let (_held, _) = tunnel_at_last(&b, &to).await;
    let what = "its lease is over";
    let leases = "ZCARD proxy_rate_limiter:{0}:@lease";
    wait_at_most(2 * LEASE, what, async || redis.ask::<u64>(leases).await == 1).await;
    a.thaw();
    for _ in 0..10 {
        assert_eq!(a.connect(&to).await.status(), 503);
    }
    assert_eq!(origin.peak(), 1);
    a.wait_until_up().await;
    a.connect(&to).await.assert_refused(503, "connection_limit_reached");
}

#[tokio::test]
async fn a_lease_that_runs_out_closes_all_connections_where_that_is_wanted() {
    let redis = Redis::start().await;
    let (a, b) = pair(&redis, "--max-connections 2 --on-lease-loss close").await;
    let origin = Origin::start();
    let to = origin.authority();
    assert_eq!(a.get(origin.url("/")).await.status(), 200);
    let mut held = a.tunnel(&to).await;
    redis.freeze();
    assert_eq!(held.end().await, End::Reset);
    wait_until("nothing is open", async || origin.current() == 0).await;
    redis.thaw();
    for proxy in [&a, &b] {
        let (_held, _) = tunnel_at_last(proxy, &to).await;
    }
    assert!(origin.peak() <= 2);
}
