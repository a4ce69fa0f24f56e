//! Stopping: what runs is finished until the deadline, then cut; nothing idle holds it up.

use std::time::Duration;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::support::End;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::wait_until;

#[tokio::test]
async fn a_signal_ends_an_idle_proxy_with_code_0() {
    for by_terminal in [false, true] {
        let mut proxy = narrows().start().await;
        let start = Instant::now();
        if by_terminal {
            proxy.interrupt();
        } else {
            proxy.terminate();
        }
        assert_eq!(proxy.ended().await.code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn nothing_that_idles_holds_it_up() {
    let origin = Origin::start();
    let flags = "--shutdown-timeout 60s --pool-idle 60s";
    let mut proxy = narrows().flags(flags).start().await;
    let mut used = proxy.client().await;
    assert_eq!(used.get(origin.url("/")).await.status(), 200);
    let mut unused = proxy.client().await;
    proxy.wait_until_metric("narrows_client_connections", &[], 2.0).await;
    let start = Instant::now();
    proxy.terminate();
    used.end().await;
    unused.end().await;
    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    wait_until("the origin is left", async || origin.current() == 0).await;
}

#[tokio::test]
async fn no_new_client_is_accepted_while_the_running_ones_finish() {
    let origin = Origin::start();
    let mut proxy = narrows().flags("--shutdown-timeout 60s").start().await;
    let mut tunnel = proxy.tunnel(origin.authority()).await;
    let mut request = proxy.client().await;
    request.send_request("GET", &origin.url("/slow?ms=500"), &[]).await;
    wait_until("the request is there", async || origin.hits() == 1).await;

    proxy.terminate();
    let address = proxy.address;
    let what = "the port is closed";
    wait_until(what, async || TcpStream::connect(address).await.is_err()).await;
    assert!(proxy.is_running());
    assert_eq!(proxy.admin("/readyz").await.status(), 503);
    assert_eq!(proxy.readiness().await["status"], "draining");
    assert_eq!(proxy.admin("/healthz").await.status(), 200);

    assert_eq!(request.response("GET").await.text(), "slow");
    tunnel.send("GET /in/the/tunnel HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(tunnel.response("GET").await.text(), "/in/the/tunnel");
    let start = Instant::now();
    drop(tunnel);
    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_tunnel_that_does_not_end_is_cut_at_the_deadline() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let ended = ended.clone();
        async move { ended.send(connection.end().await).unwrap() }
    });
    let mut proxy = narrows().flags("--shutdown-timeout 500ms").start().await;
    let mut tunnel = proxy.tunnel(origin.authority()).await;
    let start = Instant::now();
    proxy.terminate();
    assert_eq!(tunnel.end().await, End::Reset, "cut short, not ended");
    assert!(start.elapsed() >= Duration::from_millis(500), "only {:?}", start.elapsed());
    assert_eq!(ends.recv().await.unwrap().0, End::Reset);
    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let origin = Origin::echo();
    let mut proxy = narrows().flags("--shutdown-timeout 60s").start().await;
    let mut tunnel = proxy.tunnel(origin.authority()).await;
    proxy.terminate();
    let address = proxy.address;
    let what = "the first signal is heard";
    wait_until(what, async || TcpStream::connect(address).await.is_err()).await;
    tunnel.echo("still running").await;
    let start = Instant::now();
    proxy.interrupt();
    proxy.ended().await;
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    tunnel.end().await;
}

#[tokio::test]
async fn an_answer_cut_at_the_deadline_does_not_look_complete() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap().unwrap();
        let part = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
        connection.send(part).await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().flags("--shutdown-timeout 200ms").start().await;
    let mut client = proxy.client().await;
    // To HTTP/1.0 the end of the connection is the end of the body.
    client.send(format!("GET {} HTTP/1.0\r\nHost: h\r\n\r\n", origin.url("/"))).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.exactly(4).await, b"part");
    proxy.terminate();
    assert_eq!(client.end().await, End::Reset);
}
