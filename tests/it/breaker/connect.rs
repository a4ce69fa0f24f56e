//! The breaker of CONNECT: a circuit for each host, which dials that fail open.

use tokio::net::TcpListener;

use super::assert_open;
use super::circuit;
use crate::support::Closed;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::wait_until;

#[tokio::test]
async fn a_host_to_which_no_tunnel_opens_is_left_alone_for_a_while() {
    let (origin, closed) = (Origin::echo(), Closed::new());
    let flags = "--connect-breaker-failures 2 --connect-breaker-reset 300ms";
    let proxy = narrows().flags(flags).start().await;
    for _ in 0..2 {
        proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    }
    assert_eq!(assert_open(&proxy.connect(closed.authority()).await), 1);
    proxy.tunnel(origin.authority()).await.echo("another host").await;

    let address = closed.authority();
    drop(closed);
    let listener = TcpListener::bind(&address).await.unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            held.push(accepted);
        }
    });
    wait_until("a tunnel opens", async || proxy.connect(&address).await.status() == 200).await;
    assert_eq!(proxy.connect(&address).await.status(), 200);
}

#[tokio::test]
async fn without_the_flag_each_tunnel_is_tried() {
    let closed = Closed::new();
    let proxy = narrows().start().await;
    for _ in 0..10 {
        proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    }
}

#[tokio::test]
async fn tunnels_of_http2_meet_the_same_circuits() {
    let closed = Closed::new();
    let proxy = narrows().flags("--connect-breaker-failures 2").start().await;
    let mut client = Http2::to(proxy.address).await;
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    let refused = client.connect(&closed.authority()).await.unwrap_err();
    refused.assert_refused(502, "connection_refused");
    let open = client.connect(&closed.authority()).await.unwrap_err();
    open.assert_refused(503, "destination_unavailable");
    assert_eq!(open.field("retry-after"), Some("30"));
    assert_open(&proxy.connect(closed.authority()).await);
}

#[tokio::test]
async fn what_the_proxy_refuses_itself_says_nothing_of_the_host() {
    let origin = Origin::echo();
    let flags = "--connect-breaker-failures 1 --max-connections 1";
    let proxy = narrows().flags(flags).start().await;
    let tunnel = proxy.tunnel(origin.authority()).await;
    let refused = proxy.connect(origin.authority()).await;
    refused.assert_refused(503, "connection_limit_reached");
    drop(tunnel);
    proxy.wait_until_open(&origin.authority(), 0).await;
    proxy.tunnel(origin.authority()).await.echo("well").await;
}

#[tokio::test]
async fn a_look_up_that_fails_counts_and_a_time_that_is_too_long_does_too() {
    let hole = crate::support::Blackhole::new();
    let flags = "--connect-breaker-failures 1 --connect-timeout 200ms --resolver 127.0.0.1:9";
    let proxy = narrows().flags(flags).start().await;
    let late = proxy.connect(hole.authority()).await;
    late.assert_refused(504, "connection_timeout");
    assert_open(&proxy.connect(hole.authority()).await);
    let unknown = proxy.connect("nowhere.invalid:443").await;
    assert!(unknown.error().starts_with("dns_"), "{unknown:?}");
    assert_open(&proxy.connect("nowhere.invalid:443").await);
}

#[tokio::test]
async fn an_operator_sees_the_circuits_of_tunnels_and_can_close_one() {
    let closed = Closed::new();
    let flags = "--connect-breaker-failures 1 --admin-token sesame";
    let proxy = narrows().flags(flags).start().await;
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    assert_open(&proxy.connect(closed.authority()).await);
    let told = circuit(&proxy).await;
    assert_eq!((&told["api"], &told["state"]), (&"@connect".into(), &"OPEN".into()), "{told}");
    assert_eq!(told["host"], closed.authority(), "{told}");
    let path = format!("/circuit-status/@connect/{}", closed.authority());
    let token = ["Authorization: Bearer sesame"];
    assert_eq!(proxy.admin_request("DELETE", &path, &token, "").await.status(), 200);
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
}
