//! Connections by parents are kept: by origin, parent and credentials, for so long, and so many.

use std::time::Instant;

use super::*;
use crate::support::Origin;
use crate::support::wait_until;

fn https(origin: &Origin, path: &str) -> String {
    format!("https://localhost:{}{path}", origin.port())
}

/// An https origin, and a narrows that believes it.
async fn secure(settings: Settings) -> (Certs, Origin, Gate) {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["localhost", "127.0.0.1"], &["http/1.1"]).0);
    let gate = Gate::with(settings, trusting(&certs)).await;
    (certs, origin, gate)
}

#[tokio::test]
async fn a_hundred_https_requests_by_one_parent_cost_one_connection_one_connect_and_one_handshake()
{
    let parent = Parent::start().await;
    let (_certs, origin, gate) = secure(plain(&[&parent])).await;
    let mut client = gate.client().await;
    for number in 0..100 {
        let response = client.get(https(&origin, &format!("/{number}"))).await;
        assert_eq!(response.text(), format!("/{number}"));
    }
    assert_eq!((parent.accepted(), parent.connects().len(), origin.accepted()), (1, 1, 1));
    let connect = &parent.connects()[0];
    assert_eq!(connect.target(), format!("localhost:{}", origin.port()));
    assert_eq!(connect.field("host"), Some(connect.target()));
}

#[tokio::test]
async fn posts_are_sent_on_kept_connections_too() {
    let parent = Parent::start().await;
    let (_certs, origin, gate) = secure(plain(&[&parent])).await;
    let mut client = gate.client().await;
    for _ in 0..10 {
        assert_eq!(client.post(https(&origin, "/echo"), b"body").await.body, b"body");
    }
    assert_eq!((parent.accepted(), origin.accepted()), (1, 1));
}

#[tokio::test]
async fn tls_with_the_origin_goes_inside_tls_with_an_https_parent() {
    let certs = Certs::new();
    let parent = Parent::secure(certs.server(&["127.0.0.1"], &[]).0).await;
    let origin = Origin::https(certs.server(&["localhost"], &["http/1.1"]).0);
    let gate = Gate::with(plain(&[&parent]), trusting(&certs)).await;
    let mut client = gate.client().await;
    for _ in 0..5 {
        let response = client.get(https(&origin, "/size?n=300000")).await;
        assert_eq!(response.body.len(), 300_000);
    }
    assert_eq!((parent.accepted(), parent.handshakes(), origin.accepted()), (1, 1, 1));
    assert_eq!(client.get(Origin::start().url("/plain")).await.text(), "/plain");
    assert_eq!(parent.requests().len(), 1);
}

#[tokio::test]
async fn an_https_parent_with_a_certificate_that_nobody_knows_is_not_spoken_to() {
    let parent = Parent::secure(Certs::new().server(&["127.0.0.1"], &[]).0).await;
    let (origin, gate) = (Origin::start(), Gate::by(&[&parent]).await);
    gate.get(origin.url("/x")).await.assert_refused(502, "tls_certificate_error");
    assert_eq!((parent.hits(), origin.accepted()), (0, 0));
}

#[tokio::test]
async fn what_has_idled_for_long_enough_is_closed() {
    let parent = Parent::start().await;
    let keepalive_timeout = Duration::from_millis(300);
    let settings = Settings { keepalive_timeout, ..plain(&[&parent]) };
    let (_certs, origin, gate) = secure(settings).await;
    let mut client = gate.client().await;
    client.get(https(&origin, "/x")).await;
    let idle_since = Instant::now();
    wait_until("the connection is closed", async || parent.open() == 0).await;
    assert!(idle_since.elapsed() >= Duration::from_millis(250));
    client.get(https(&origin, "/x")).await;
    assert_eq!(parent.accepted(), 2);
}

#[tokio::test]
async fn never_more_idle_than_the_settings_say() {
    let parent = Parent::start().await;
    let settings = Settings { keepalive_pool: 2, ..plain(&[&parent]) };
    let (_certs, origin, gate) = secure(settings).await;
    let url = https(&origin, "/slow?ms=200");
    let all = (0..8).map(|_| gate.get(&url));
    futures_util::future::join_all(all).await;
    wait_until("what is too much is closed", async || parent.open() <= 2).await;
    assert_eq!(parent.accepted(), 8);
    assert_eq!(parent.open(), 2);
}

#[tokio::test]
async fn a_connection_by_one_parent_is_not_used_for_another_or_as_another_user() {
    let origin = Origin::start();
    let parent = Parent::start().await;
    let list = vec![of(&parent, Some("Basic YTph")), of(&parent, Some("Basic YjpiOg=="))];
    let gate = Gate::start(Settings { list, ..Settings::default() }).await;
    let mut client = gate.client().await;
    for _ in 0..6 {
        client.get(origin.url("/x")).await;
    }
    assert_eq!(parent.accepted(), 2);
    let users: Vec<_> = parent
        .requests()
        .iter()
        .map(|head| head.field("proxy-authorization").unwrap().to_owned())
        .collect();
    assert_eq!(users[..2], ["Basic YTph", "Basic YjpiOg=="]);
    assert_eq!(users[..2], users[2..4]);
}

#[tokio::test]
async fn a_hundred_clients_one_after_the_other_share_one_connection_whatever_thread_serves_them() {
    let parent = Parent::start().await;
    let (_certs, origin, gate) = secure(plain(&[&parent])).await;
    for number in 0..100 {
        let response = gate.get(https(&origin, &format!("/{number}"))).await;
        assert_eq!(response.text(), format!("/{number}"));
    }
    assert_eq!((parent.accepted(), parent.connects().len(), origin.accepted()), (1, 1, 1));
}
