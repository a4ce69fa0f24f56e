//! How many clients there may be, and what happens to one too many.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::listen::secure;
use crate::listen::with_tls;
use crate::support::Certs;
use crate::support::Client;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::soon;
use crate::support::wait_until;

async fn wait_until_clients(proxy: &Proxy, count: u32) {
    proxy.wait_until_metric("narrows_client_connections", &[], count.into()).await;
}

async fn wait_until_met(proxy: &Proxy, bound: &str, count: u32) {
    let labels = [("bound", bound)];
    proxy.wait_until_metric("narrows_bounds_met_total", &labels, count.into()).await;
}

#[tokio::test]
async fn one_client_too_many_is_told_503_and_the_next_has_the_place_of_who_left() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--max-clients 2").start().await);
    let mut one = proxy.client().await;
    assert_eq!(one.get(origin.url("/1")).await.status(), 200);
    let tunnel = proxy.tunnel(origin.authority()).await;
    let refused = proxy.client().await.response("GET").await;
    refused.assert_refused(503, "proxy_internal_response");
    assert_eq!(refused.head.field("retry-after"), Some("1"));
    wait_until_met(&proxy, "clients", 1).await;
    proxy.stderr.wait_for(1, "clients turned away").await;

    drop(tunnel);
    wait_until("there is room again", async || {
        let mut client = proxy.client().await;
        client.send_request("GET", &origin.url("/2"), &[]).await;
        client.response("GET").await.status() == 200
    })
    .await;
    assert_eq!(one.get(origin.url("/1")).await.status(), 200);
}

#[tokio::test]
async fn many_clients_too_many_cost_no_more_than_a_few_answers_at_a_time() {
    let proxy = narrows().flags("--threads 1 --max-clients 1").start().await;
    let _one = proxy.client().await;
    wait_until_clients(&proxy, 1).await;
    let mut others = Vec::new();
    for _ in 0..100 {
        // Some are reset before their connect has returned.
        others.extend(TcpStream::connect(proxy.address).await);
    }
    wait_until_met(&proxy, "clients", 100).await;
    let mut told = 0;
    for mut other in others {
        let mut answer = [0; 12];
        let read = soon("an answer or none", other.read_exact(&mut answer)).await;
        told += usize::from(read.is_ok() && answer == *b"HTTP/1.1 503");
    }
    assert!((1..=20).contains(&told), "{told}");
}

#[tokio::test]
async fn one_connection_too_many_from_an_address_is_told_429_and_others_are_not() {
    let origin = Origin::start();
    let proxy = narrows().flags("--bind 0.0.0.0 --max-clients-per-address 1").start().await;
    let one = proxy.client().await;
    wait_until_clients(&proxy, 1).await;
    let refused = proxy.client().await.response("GET").await;
    refused.assert_refused(429, "http_request_error");
    let port = proxy.address.port();
    let mut other = Client::from("127.0.0.9", format!("127.0.0.9:{port}").parse().unwrap()).await;
    assert_eq!(other.get(origin.url("/x")).await.status(), 200);
    wait_until_met(&proxy, "clients_per_address", 1).await;
    drop(one);
    wait_until("there is room again", async || {
        let mut client = proxy.client().await;
        client.send_request("GET", &origin.url("/2"), &[]).await;
        client.response("GET").await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn behind_a_balancer_each_client_is_bounded_by_its_own_address() {
    let origin = Origin::start();
    let flags = "--max-clients-per-address 1 --proxy-protocol-from 127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let come = async |address: &str| {
        let mut client = proxy.client().await;
        client.send(format!("PROXY TCP4 {address} 10.0.0.1 1 80\r\n")).await;
        client.send_request("GET", &origin.url("/x"), &[]).await;
        let status = client.response("GET").await.status();
        (client, status)
    };
    let (_one, status) = come("127.9.9.1").await;
    assert_eq!(status, 200);
    assert_eq!(come("127.9.9.1").await.1, 429);
    assert_eq!(come("127.9.9.2").await.1, 200);
}

#[tokio::test]
async fn one_client_too_many_by_tls_is_cut_before_its_handshake() {
    let certs = Certs::new();
    let proxy = with_tls(&certs).flags("--max-clients 1").start().await;
    let _one = secure(&proxy, &certs.client(&[])).await.unwrap();
    assert!(secure(&proxy, &certs.client(&[])).await.is_err());
    wait_until_met(&proxy, "clients", 1).await;
    assert!(proxy.metric("narrows_tls_handshakes_total", &[]).await < 1.5);
}

#[tokio::test]
async fn where_files_run_out_clients_wait_without_a_spinning_thread_and_dials_have_a_reserve() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let flags = "--threads 1 --max-clients 1000";
    let proxy = narrows().flags(flags).files(128).start().await;
    proxy.stderr.wait_for(1, "--max-clients 1000 is more than open files allow").await;
    let before = proxy.descriptors();

    // More than fit in: those beyond are closed, one at a time.
    let mut clients = Vec::new();
    for _ in 0..128 {
        clients.push(proxy.client().await);
    }
    wait_until("no client gets one of the last files", async || proxy.descriptors() >= 111).await;
    proxy.stderr.wait_for(1, "clients turned away bound=\"open_files\"").await;
    assert!(proxy.descriptors() <= 113, "{}", proxy.descriptors());

    // Those who are in have the rest for their upstreams, down to the last one.
    let mut tunnels = 0;
    for client in &mut clients {
        if client.connect(echo.authority()).await.status() != 200 {
            break;
        }
        tunnels += 1;
    }
    assert!((12..=16).contains(&tunnels), "{tunnels}");
    // More than who was refused has left room for: the system keeps them.
    for _ in 0..20 {
        clients.push(proxy.client().await);
    }
    wait_until("there is not one file left", async || proxy.descriptors() >= 128).await;

    let used = proxy.processor_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = proxy.processor_time().saturating_sub(used);
    assert!(used < Duration::from_millis(300), "{used:?} in a second without anything to do");

    drop(clients);
    wait_until("all files are closed", async || proxy.descriptors() <= before + 2).await;
    assert_eq!(proxy.get(origin.url("/x")).await.status(), 200);
    assert!(proxy.metric("narrows_bounds_met_total", &[("bound", "open_files")]).await > 0.5);
}
