//! Each bound on an upstream is met once, answered, and counted.

use std::time::Duration;

use crate::support::Blackhole;
use crate::support::Client;
use crate::support::Names;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

impl Proxy {
    async fn wait_until_bounded(&self, bound: &str) {
        let labels = [("bound", bound)];
        self.wait_until_metric("narrows_bounds_met_total", &labels, 1.0).await;
    }
}

#[tokio::test]
async fn connecting_takes_no_longer_than_its_bound() {
    let hole = Blackhole::new();
    let proxy = narrows().flags("--connect-timeout 200ms").start().await;
    let answer = proxy.get(format!("http://{}/", hole.authority())).await;
    answer.assert_refused(504, "connection_timeout");
    proxy.wait_until_bounded("connect_time").await;
}

#[tokio::test]
async fn a_tls_handshake_takes_no_longer_than_its_bound() {
    let origin = Origin::raw(|mut connection| async move {
        connection.end().await;
    });
    let proxy = narrows().flags("--tls-timeout 200ms").start().await;
    let answer = proxy.get(format!("https://{}/", origin.authority())).await;
    answer.assert_refused(504, "connection_timeout");
    proxy.wait_until_bounded("tls_time").await;
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_look_up_takes_no_longer_than_its_bound() {
    let names = Names::silent().await;
    let flags = format!("--dns-timeout 200ms --resolver {}", names.address());
    let proxy = narrows().flags(flags).start().await;
    proxy.get("http://slow.test/").await.assert_refused(504, "dns_timeout");
    proxy.wait_until_bounded("dns_time").await;
}

#[tokio::test]
async fn no_more_addresses_of_a_name_are_tried_than_their_bound() {
    let origin = Origin::start();
    let port = origin.port();
    // Nobody listens on the others, and they come first.
    let names = Names::of(&[("many.test", &["127.0.0.9", "127.0.0.8", "127.0.0.1"])]).await;
    let start = async |bound: &str| {
        let flags = format!("--resolver {} --max-addresses {bound}", names.address());
        narrows().flags(flags).start().await
    };
    let url = format!("http://many.test:{port}/");
    let proxy = start("2").await;
    proxy.get(&url).await.assert_refused(502, "connection_refused");
    proxy.wait_until_bounded("dns_addresses").await;
    assert_eq!(start("3").await.get(&url).await.status(), 200);
}

#[tokio::test]
async fn a_head_takes_no_longer_than_its_bound_though_it_comes_byte_by_byte() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(10_000);
        for byte in head.bytes() {
            if connection.send([byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let proxy = narrows().flags("--response-timeout 300ms").start().await;
    proxy.get(origin.url("/")).await.assert_refused(504, "http_response_timeout");
    proxy.wait_until_bounded("response_time").await;
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_body_that_falls_silent_is_cut() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nX-Origin: y\r\n\r\nbegun").await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().flags("--idle-timeout 300ms").start().await;
    let mut client = begun(&proxy, &origin).await;
    assert!(client.rest().await.is_err(), "an answer that was given up looks whole");
    proxy.wait_until_bounded("body_idle").await;
}

#[tokio::test]
async fn a_body_that_nobody_takes_is_cut() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--idle-timeout 300ms").start().await);
    let mut client = Client::with_small_buffers(proxy.address).await;
    client.send_request("GET", &origin.url("/size?n=30000000"), &[]).await;
    assert_eq!(client.head().await.status(), 200);
    proxy.wait_until_open(&origin.authority(), 0).await;
    assert!(client.rest().await.is_err(), "an answer that was given up looks whole");
    proxy.wait_until_bounded("body_idle").await;
}

/// A client that has the head of its answer.
async fn begun(proxy: &Proxy, origin: &Origin) -> Client {
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/"), &[]).await;
    assert_eq!(client.head().await.status(), 200);
    client
}

#[tokio::test]
async fn what_is_too_long_is_counted_by_what_it_is() {
    for (flag, says, bound) in [
        ("--max-response-head 1024", "A: ".to_owned() + &"b".repeat(1024), "response_head"),
        ("--max-response-fields 1", "A: b\r\nC: d\r\n\r\n".to_owned(), "response_fields"),
        (
            "--max-response-chunk-extensions 1",
            "Transfer-Encoding: chunked\r\n\r\n0;ab\r\n\r\n".to_owned(),
            "response_chunk_extensions",
        ),
        (
            "--max-response-trailers 1",
            "Transfer-Encoding: chunked\r\n\r\n0\r\nA:\r\n\r\n".to_owned(),
            "response_trailers",
        ),
    ] {
        let says = format!("HTTP/1.1 200 OK\r\n{says}");
        let origin = Origin::raw(move |mut connection| {
            let says = says.clone();
            async move {
                connection.head().await.unwrap();
                drop(connection.send(says).await);
                connection.end().await;
            }
        });
        let proxy = narrows().flags(flag).start().await;
        assert_eq!(proxy.get(origin.url("/")).await.status(), 502, "{flag}");
        proxy.wait_until_bounded(bound).await;
    }
}

/// Here the client has a part of the answer already: it must see that the rest is missing.
#[tokio::test]
async fn what_turns_bad_in_the_middle_of_a_body_is_cut_there() {
    for (line, bad) in [
        ("1.1", "xyz\r\n"),
        ("1.1", "5\r\nabcdefg\r\n0\r\n\r\n"),
        ("1.1", "0\n\n"),
        ("1.1", "0\r\nA : b\r\n\r\n"),
        ("1.1", "0\r\nA: b\r\n folded\r\n\r\n"),
        ("1.0", "xyz\r\n"),
    ] {
        let (go, wait) = tokio::sync::watch::channel(false);
        let origin = Origin::raw(move |mut connection| {
            let mut wait = wait.clone();
            async move {
                connection.head().await.unwrap();
                let head = "HTTP/1.1 200 OK\r\nX-Origin: y\r\nTransfer-Encoding: chunked\r\n\r\n";
                connection.send(format!("{head}5\r\nbegun\r\n")).await.unwrap();
                wait.wait_for(|go| *go).await.unwrap();
                connection.send(bad).await.unwrap();
                connection.end().await;
            }
        });
        let proxy = narrows().start().await;
        let mut client = proxy.client().await;
        client.send(format!("GET {} HTTP/{line}\r\nHost: h\r\n\r\n", origin.url("/"))).await;
        let head = client.head().await;
        let chunked = !head.all("transfer-encoding").is_empty();
        let first = if chunked { client.chunk().await } else { client.exactly(5).await };
        assert_eq!(first, b"begun");
        go.send_replace(true);
        assert!(client.rest().await.is_err(), "{bad:?} passed for an end");
        wait_until("the origin is left", async || origin.current() == 0).await;
    }
}

/// A head in many pieces is looked at where it was left, not again from its start.
#[tokio::test]
async fn a_head_in_many_pieces_is_read_like_one_in_one() {
    let fields = "A-Field-Like-Another: of some length, as they are\r\n".repeat(90);
    let head = format!("HTTP/1.1 200 OK\r\nX-Origin: y\r\n{fields}Content-Length: 2\r\n\r\nok");
    let origin = Origin::raw(move |mut connection| {
        let head = head.clone();
        async move {
            while let Ok(Some(_)) = connection.head().await {
                for piece in head.as_bytes().chunks(7) {
                    connection.send(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let proxy = narrows().flags("--threads 1").start().await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        let answer = client.get(origin.url("/")).await;
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.head.all("a-field-like-another").len(), 90);
    }
    assert_eq!(origin.accepted(), 1);
}
