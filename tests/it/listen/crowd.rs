//! Many clients at once, and one after the other.

use std::time::Duration;
use std::time::Instant;

use rustix::process::Resource;
use rustix::process::Rlimit;
use tokio::task::JoinSet;

use crate::support::Client;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

/// As many open files as this program may have.
fn raise_files() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// How long the slowest but one of a hundred requests takes, each on a connection of its own.
async fn round(proxy: &Proxy, origin: &Origin) -> Duration {
    let mut took = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        assert_eq!(proxy.get(origin.url("/x")).await.status(), 200);
        took.push(start.elapsed());
    }
    took.sort();
    took[98]
}

async fn rounds(proxy: &Proxy, origin: &Origin) -> Duration {
    let mut all = Vec::new();
    for _ in 0..7 {
        all.push(round(proxy, origin).await);
    }
    all.sort();
    all[all.len() / 2]
}

#[tokio::test]
async fn a_thousand_clients_that_drip_their_heads_do_not_slow_the_others_down() {
    raise_files();
    let origin = Origin::start();
    let proxy = narrows().flags("--header-timeout 10m").start().await;
    round(&proxy, &origin).await;
    let before = rounds(&proxy, &origin).await;

    let address = proxy.address;
    let mut dripping = JoinSet::new();
    for number in 0..1000 {
        dripping.spawn(async move {
            let mut client = Client::to(address).await;
            client.send("GET http://slow.test/ HTTP/1.1\r\nX-Slow: ").await;
            tokio::time::sleep(Duration::from_millis(number)).await;
            loop {
                client.send("x").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    wait_until("all drip", async || proxy.metric("narrows_client_connections", &[]).await > 999.5)
        .await;
    let during = rounds(&proxy, &origin).await;
    assert!(proxy.metric("narrows_client_connections", &[]).await > 999.5, "all drip still");
    dripping.shutdown().await;
    let after = rounds(&proxy, &origin).await;

    // What else the machine does is in all of them.
    let quiet = before.max(after);
    let bound = (quiet * 3 / 2).max(Duration::from_millis(20));
    assert!(during <= bound, "{during:?} with them, {before:?} before, {after:?} after");
}

/// Opens and closes that many tunnels, some at a time.
async fn tunnels(proxy: &Proxy, origin: &Origin, count: usize) {
    let (address, authority) = (proxy.address, origin.authority());
    let mut open = JoinSet::new();
    for number in 0..count {
        if open.len() >= 32 {
            open.join_next().await.unwrap().unwrap();
        }
        let authority = authority.clone();
        open.spawn(async move {
            let mut client = Client::to(address).await;
            assert_eq!(client.connect(authority).await.status(), 200);
            client.echo(number.to_string()).await;
            client.finish().await;
            assert!(client.rest().await.unwrap().is_empty());
        });
    }
    while let Some(ended) = open.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_tunnels_leave_neither_memory_nor_descriptors_behind() {
    raise_files();
    let origin = Origin::echo();
    let proxy = narrows().flags("--max-connections 100").start().await;
    let descriptors = proxy.descriptors();
    tunnels(&proxy, &origin, 2_000).await;
    let before = proxy.resident();
    tunnels(&proxy, &origin, 10_000).await;
    let grown = proxy.resident().saturating_sub(before);
    // Leaking 300 bytes each would show.
    assert!(grown < 3_000_000, "{grown} bytes");
    proxy.wait_until_open(&origin.authority(), 0).await;
    proxy.wait_until_metric("narrows_client_connections", &[], 0.0).await;
    // Pipes and the like may be kept, connections not.
    wait_until("connections are closed", async || proxy.descriptors() < descriptors + 20).await;
    assert!(origin.peak() <= 100);
}

/// More than a tunnel needs by some margin.
const PER_TUNNEL: usize = 4 * 1024;

#[tokio::test]
async fn an_idle_tunnel_costs_a_few_kilobytes() {
    raise_files();
    let origin = Origin::echo();
    let proxy = narrows().start().await;
    tunnels(&proxy, &origin, 500).await;
    let before = proxy.resident();
    let mut open = Vec::new();
    for _ in 0..2_000 {
        let mut client = proxy.tunnel(origin.authority()).await;
        client.echo("x").await;
        open.push(client);
    }
    let each = proxy.resident().saturating_sub(before) / open.len();
    eprintln!("{each} bytes for each idle tunnel");
    assert!(each < PER_TUNNEL, "{each} bytes for each of {}", open.len());
}
