//! Connections that a balancer passes on: the PROXY protocol.

use std::time::Duration;

use crate::listen::secure;
use crate::listen::with_tls;
use crate::support::Certs;
use crate::support::Client;
use crate::support::End;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;

/// Clients here are on loopback, or they could not go to an origin there.
const FROM: &str = "--proxy-protocol-from 127.0.0.0/24 --access-log stderr";

/// A header of version 2 for a client at 127.9.9.7:12345, with an extension behind the addresses.
fn binary() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11".to_vec();
    bytes.extend([127, 9, 9, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80, 4, 0, 2, 1, 2]);
    bytes
}

async fn client_of_the_log(proxy: &Proxy) -> String {
    let line = proxy.stderr.wait_for(1, "\"method\"").await.swap_remove(0);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    line["client"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_listed_balancer_says_whose_connection_it_is() {
    let origin = Origin::start();
    for header in [&b"PROXY TCP4 127.9.9.7 10.0.0.1 12345 80\r\n"[..], &binary()] {
        let proxy = narrows().flags(FROM).start().await;
        let mut client = proxy.client().await;
        client.send(header).await;
        assert_eq!(client.get(origin.url("/x")).await.status(), 200);
        assert_eq!(client_of_the_log(&proxy).await, "127.9.9.7:12345");
    }
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_with_the_request_behind_it() {
    let origin = Origin::start();
    let request =
        format!("GET {0} HTTP/1.1\r\nHost: {1}\r\n\r\n", origin.url("/x"), origin.authority());
    for header in [b"PROXY TCP4 127.9.9.7 10.0.0.1 12345 80\r\n".to_vec(), binary()] {
        let proxy = narrows().flags(FROM).start().await;
        let mut client = proxy.client().await;
        for byte in &header[..header.len() - 1] {
            client.send([*byte]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rest = [&header[header.len() - 1..], request.as_bytes()].concat();
        client.send(rest).await;
        assert_eq!(client.response("GET").await.status(), 200);
        assert_eq!(client_of_the_log(&proxy).await, "127.9.9.7:12345");
    }
}

#[tokio::test]
async fn a_balancer_that_speaks_for_itself_keeps_its_address() {
    let origin = Origin::start();
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let proxy = narrows().flags(FROM).start().await;
        let mut client = proxy.client().await;
        client.send(header).await;
        assert_eq!(client.get(origin.url("/x")).await.status(), 200);
        assert!(client_of_the_log(&proxy).await.starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn a_header_stands_before_tls() {
    let (certs, origin) = (Certs::new(), Origin::start());
    let proxy = with_tls(&certs).flags(FROM).start().await;
    let mut client = proxy.client().await;
    client.send(binary()).await;
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = certs.client(&[]).connect(name, client.into_stream()).await.unwrap();
    let mut client = crate::support::Wire::new(stream);
    let answer = super::ask(&mut client, "GET", &origin.url("/x"), "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(client_of_the_log(&proxy).await, "127.9.9.7:12345");
    // Without it there is no TLS either.
    assert!(secure(&proxy, &certs.client(&[])).await.is_err());
}

#[tokio::test]
async fn a_listed_balancer_without_a_sound_header_is_cut_without_an_answer() {
    let origin = Origin::start();
    let proxy = narrows().flags(FROM).flags("--handshake-timeout 500ms").start().await;
    for bytes in [
        format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", origin.url("/x")).as_bytes(),
        b"PROXY TCP4 127.9.9.7 10.0.0.1 99999 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        &[0; 200],
        b"PROXY TCP4",
        b"",
    ] {
        let mut client = proxy.client().await;
        client.try_send(bytes).await;
        // Unread bytes make a reset of the close.
        if let Ok(answer) = client.rest().await {
            assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
        }
    }
    assert_eq!(origin.hits(), 0);
    let labels = [("bound", "handshake_time")];
    proxy.wait_until_metric("narrows_bounds_met_total", &labels, 2.0).await;
}

#[tokio::test]
async fn a_header_of_anybody_else_is_no_header() {
    let origin = Origin::start();
    let proxy = narrows().flags(FROM).flags("--bind 0.0.0.0").start().await;
    let other = format!("127.0.1.1:{}", proxy.address.port()).parse().unwrap();
    let mut client = Client::from("127.0.1.1", other).await;
    client.send("PROXY TCP4 127.9.9.7 10.0.0.1 12345 80\r\n").await;
    client.send_request("GET", &origin.url("/x"), &[]).await;
    let answer = client.response("GET").await;
    assert!((400..=505).contains(&answer.status()), "a request line that is none: {answer:?}");
    assert_eq!(answer.error(), "http_request_error");
    assert_eq!(client.end().await, End::Fin);
    assert_eq!(origin.hits(), 0);
    let mut client = Client::from("127.0.1.1", other).await;
    assert_eq!(client.get(origin.url("/x")).await.status(), 200);
    assert!(client_of_the_log(&proxy).await.starts_with("127.0.1.1:"));
}
