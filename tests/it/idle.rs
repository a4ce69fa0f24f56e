//! Idle slots yield to those who wait, the longest idle first; what has traffic never does.

use std::time::Duration;
use std::time::Instant;

use crate::support::Certs;
use crate::support::Client;
use crate::support::End;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::wait_until;

const RECLAIM: &str = "--queue-timeout 15s --idle-reclaim 300ms --pool-idle 60s";

async fn wait_until_idle(proxy: &Proxy, origin: &Origin, idle: u64) {
    let what = format!("{idle} idle");
    wait_until(&what, async || proxy.host(&origin.authority()).await.idle == idle).await;
}

async fn assert_yielded(proxy: &Proxy, pooled: u32, tunnels: u32) {
    let name = "narrows_idle_reclaimed_total";
    proxy.wait_until_metric(name, &[("kind", "pooled")], pooled.into()).await;
    proxy.wait_until_metric(name, &[("kind", "tunnel")], tunnels.into()).await;
}

#[tokio::test]
async fn who_waits_gets_the_slot_of_the_longest_idle_of_three_tunnels() {
    let origin = Origin::echo();
    let flags = "--threads 1 --max-connections 3 --access-log stderr --log-level debug";
    let proxy = narrows().flags(RECLAIM).flags(flags).start().await;
    let to = origin.authority();
    let [mut first, mut second, mut third] =
        [proxy.tunnel(&to).await, proxy.tunnel(&to).await, proxy.tunnel(&to).await];
    for client in [&mut third, &mut first, &mut second] {
        client.echo("x").await;
    }
    wait_until_idle(&proxy, &origin, 3).await;
    let mut newcomer = proxy.tunnel(&to).await;
    assert_eq!(third.end().await, End::Reset);
    for client in [&mut first, &mut second, &mut newcomer] {
        client.echo("still there").await;
    }
    assert_eq!(origin.peak(), 3);
    assert_yielded(&proxy, 0, 1).await;
    proxy.stderr.wait_for(1, "\"end\":\"yielded\"").await;
    proxy.stderr.wait_for(1, "tunnel yields").await;
}

#[tokio::test]
async fn a_tunnel_that_falls_idle_while_somebody_waits_yields_then_and_not_before() {
    let origin = Origin::echo();
    let proxy = narrows().flags(RECLAIM).flags("--max-connections 1").start().await;
    let to = origin.authority();
    let mut holder = proxy.tunnel(&to).await;
    let start = Instant::now();
    holder.echo("x").await;
    let mut newcomer = proxy.tunnel(&to).await;
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(300), "only {waited:?}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(holder.end().await, End::Reset);
    newcomer.echo("x").await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn only_as_many_tunnels_yield_as_there_are_who_wait() {
    let origin = Origin::echo();
    let proxy = narrows().flags(RECLAIM).flags("--threads 2 --max-connections 6").start().await;
    let to = origin.authority();
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        tunnels.push(proxy.tunnel(&to).await);
    }
    // They wait already when all six fall idle at much the same moment.
    let _newcomers = tokio::join!(proxy.tunnel(&to), proxy.tunnel(&to));
    wait_until_idle(&proxy, &origin, 6).await;
    assert_yielded(&proxy, 0, 2).await;
    assert_eq!(origin.accepted(), 8);
}

#[tokio::test]
async fn a_tunnel_with_traffic_is_never_cut_however_long_others_wait() {
    let origin = Origin::echo();
    let flags = "--max-connections 1 --queue-timeout 5s --idle-reclaim 1s";
    let proxy = narrows().flags(flags).start().await;
    let to = origin.authority();
    let mut holder = proxy.tunnel(&to).await;
    let waiting = proxy.connect(&to);
    tokio::pin!(waiting);
    let refused = loop {
        tokio::select! {
            answer = &mut waiting => break answer,
            () = tokio::time::sleep(Duration::from_millis(50)) => holder.echo(".").await,
        }
    };
    refused.assert_refused(503, "connection_limit_reached");
    holder.echo("still there").await;
    assert_yielded(&proxy, 0, 0).await;
}

#[tokio::test]
async fn a_tunnel_whose_client_reads_slowly_is_not_cut_over_the_bytes_it_has_yet_to_read() {
    for size in [MIB / 4, 8 * MIB] {
        let origin = Origin::raw(move |mut connection| async move {
            connection.send(pattern(size)).await.unwrap();
            connection.end().await;
        });
        let flags = "--max-connections 1 --queue-timeout 2s --idle-reclaim 200ms";
        let proxy = narrows().flags(flags).start().await;
        let mut holder = Client::with_small_buffers(proxy.address).await;
        assert_eq!(holder.connect(origin.authority()).await.status(), 200);
        proxy.connect(origin.authority()).await.assert_refused(503, "connection_limit_reached");
        assert!(holder.exactly(size).await == pattern(size), "cut in the middle");
        // Read to its end, it is as idle as any.
        let _newcomer = proxy.tunnel(origin.authority()).await;
        assert_eq!(holder.end().await, End::Reset);
    }
}

#[tokio::test]
async fn a_byte_makes_an_idle_tunnel_one_in_use() {
    let origin = Origin::echo();
    let flags = "--max-connections 2 --queue-timeout 10s --idle-reclaim 1s";
    let proxy = narrows().flags(flags).start().await;
    let to = origin.authority();
    let mut awake = proxy.tunnel(&to).await;
    let mut asleep = proxy.tunnel(&to).await;
    wait_until_idle(&proxy, &origin, 2).await;
    awake.echo("x").await;
    wait_until_idle(&proxy, &origin, 1).await;
    let _newcomer = proxy.tunnel(&to).await;
    assert_eq!(asleep.end().await, End::Reset, "the older one is not the longer idle one");
    awake.echo("x").await;
}

#[tokio::test]
async fn unless_asked_to_no_tunnel_yields() {
    let origin = Origin::echo();
    let proxy = narrows().flags("--max-connections 1 --queue-timeout 1500ms").start().await;
    let to = origin.authority();
    let mut holder = proxy.tunnel(&to).await;
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(proxy.host(&to).await.idle, 0);
    holder.echo("still there").await;
}

#[tokio::test]
async fn a_kept_connection_yields_before_a_tunnel_that_idles_for_less() {
    let origin = Origin::start();
    let flags = "--threads 1 --max-connections 2";
    let proxy = narrows().flags(RECLAIM).flags(flags).start().await;
    let to = origin.authority();
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    wait_until_idle(&proxy, &origin, 1).await;
    let mut younger = proxy.tunnel(&to).await;
    wait_until_idle(&proxy, &origin, 2).await;
    let _newcomer = proxy.tunnel(&to).await;
    assert_yielded(&proxy, 1, 0).await;
    younger.send_request("GET", "/", &[]).await;
    assert_eq!(younger.unchecked_response().await.status(), 200);
}

#[tokio::test]
async fn a_kept_connection_yields_after_a_tunnel_that_idles_for_longer() {
    let origin = Origin::start();
    let flags = "--threads 1 --max-connections 2";
    let proxy = narrows().flags(RECLAIM).flags(flags).start().await;
    let to = origin.authority();
    let mut older = proxy.tunnel(&to).await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    wait_until_idle(&proxy, &origin, 2).await;
    let _newcomer = proxy.tunnel(&to).await;
    assert_eq!(older.end().await, End::Reset);
    assert_yielded(&proxy, 0, 1).await;
}

#[tokio::test]
async fn an_idle_websocket_yields_too() {
    let origin = Origin::start();
    let proxy = narrows().flags(RECLAIM).flags("--max-connections 1").start().await;
    let mut socket = proxy.client().await;
    let fields = ["Connection: Upgrade", "Upgrade: echo", "Sec-WebSocket-Key: k"];
    socket.send_request("GET", &origin.url("/upgrade"), &fields).await;
    assert_eq!(socket.head().await.status(), 101);
    assert_eq!(socket.exactly(5).await, b"first");
    socket.echo("hello").await;
    let _newcomer = proxy.tunnel(origin.authority()).await;
    assert_eq!(socket.end().await, End::Reset);
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn an_idle_websocket_over_tls_yields_too() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["127.0.0.1"], &[]).0);
    let flags = format!("--max-connections 1 --upstream-ca {}", certs.file().display());
    let proxy = narrows().flags(RECLAIM).flags(flags).start().await;
    let mut socket = proxy.client().await;
    let fields = ["Connection: Upgrade", "Upgrade: echo", "Sec-WebSocket-Key: k"];
    let url = format!("https://{}/upgrade", origin.authority());
    socket.send_request("GET", &url, &fields).await;
    assert_eq!(socket.head().await.status(), 101);
    assert_eq!(socket.exactly(5).await, b"first");
    let _newcomer = proxy.tunnel(origin.authority()).await;
    assert_eq!(socket.end().await, End::Reset);
}

#[tokio::test]
async fn an_idle_tunnel_yields_to_who_waits_where_counts_are_shared() {
    let (origin, redis) = (Origin::echo(), Redis::start().await);
    let setup = narrows().shared(&redis).flags(RECLAIM).flags("--max-connections 1");
    let proxy = setup.start().await;
    proxy.wait_until_up().await;
    for _ in 0..2 {
        let mut holder = proxy.tunnel(origin.authority()).await;
        wait_until_idle(&proxy, &origin, 1).await;
        let newcomer = proxy.tunnel(origin.authority()).await;
        assert_eq!(holder.end().await, End::Reset);
        drop(newcomer);
        proxy.wait_until_open(&origin.authority(), 0).await;
    }
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn an_idle_half_of_a_tunnel_yields_as_a_whole_one_does() {
    let origin = Origin::raw(|mut connection| async move {
        connection.rest().await.unwrap();
        std::future::pending::<()>().await;
    });
    let proxy = narrows().flags(RECLAIM).flags("--max-connections 1").start().await;
    let mut holder = proxy.tunnel(origin.authority()).await;
    holder.finish().await;
    let _newcomer = proxy.tunnel(origin.authority()).await;
    assert_eq!(holder.end().await, End::Reset);
}

#[tokio::test]
async fn the_longest_idle_goes_first_whichever_threads_they_are_on() {
    const TUNNELS: u32 = 8;
    let origin = Origin::echo();
    let flags = format!("--threads 2 --max-connections {TUNNELS}");
    let proxy = narrows().flags(RECLAIM).flags(flags).start().await;
    let to = origin.authority();
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        tunnels.push(proxy.tunnel(&to).await);
    }
    // Not the order of their coming.
    tunnels.rotate_left(3);
    for tunnel in &mut tunnels {
        tunnel.echo("x").await;
    }
    let mut newcomers = Vec::new();
    for yielded in 1..=TUNNELS {
        wait_until_idle(&proxy, &origin, TUNNELS.into()).await;
        newcomers.push(proxy.tunnel(&to).await);
        assert_eq!(tunnels.remove(0).end().await, End::Reset);
        assert_yielded(&proxy, 0, yielded).await;
    }
    for newcomer in &mut newcomers {
        newcomer.echo("still there").await;
    }
    assert_eq!(origin.peak(), 8);
}
#[tokio::test]
async fn an_idle_tunnel_yields_to_who_waits_at_another_instance() {
    let (origin, redis) = (Origin::echo(), Redis::start().await);
    let setup = narrows().shared(&redis).flags(RECLAIM).flags("--max-connections 1");
    let (one, other) = tokio::join!(setup.clone().start(), setup.start());
    one.wait_until_up().await;
    other.wait_until_up().await;
    let mut holder = one.tunnel(origin.authority()).await;
    wait_until_idle(&one, &origin, 1).await;
    let mut newcomer = other.tunnel(origin.authority()).await;
    assert_eq!(holder.end().await, End::Reset);
    newcomer.echo("x").await;
    assert_eq!(origin.peak(), 1);
}
