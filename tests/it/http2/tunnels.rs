//! CONNECT over HTTP/2 (RFC 9113 §8.5): many tunnels on one connection, each as one of its own.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::support::Answer;
use crate::support::Blackhole;
use crate::support::Certs;
use crate::support::Closed;
use crate::support::End;
use crate::support::Http2;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;
use crate::support::wait_until;

#[tokio::test]
async fn many_tunnels_on_one_connection_have_a_slot_each() {
    const TUNNELS: usize = 200;
    let origin = Origin::echo();
    let proxy = narrows().flags(format!("--max-connections {TUNNELS}")).start().await;
    let to = origin.authority();
    let mut client = Http2::to(proxy.address).await;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        tunnels.push(client.tunnel(&to).await);
    }
    assert_eq!(proxy.open(&to).await, TUNNELS as u64);
    for tunnel in &mut tunnels {
        tunnel.echo("through").await;
    }
    let refused = client.connect(&to).await.unwrap_err();
    refused.assert_refused(503, "connection_limit_reached");
    for tunnel in &mut tunnels {
        tunnel.echo("the others do not notice").await;
    }
    assert_eq!((origin.current(), origin.peak()), (TUNNELS, TUNNELS));
    proxy.wait_until_metric("narrows_client_connections", &[], 1.0).await;
    let opened = [("route", "connect"), ("status_class", "2xx")];
    proxy.wait_until_metric("narrows_requests_total", &opened, 200.0).await;
    tunnels.pop();
    proxy.wait_until_open(&to, TUNNELS as u64 - 1).await;
    client.tunnel(&to).await.echo("in the slot that was freed").await;
    assert_eq!(origin.peak(), TUNNELS);
}

#[tokio::test]
async fn refusals_of_connect_are_those_of_http_1() {
    let (closed, proxy) = (Closed::new(), narrows().flags("--connect-timeout 300ms").start().await);
    let mut client = Http2::to(proxy.address).await;
    let to = closed.authority();
    client.connect(&to).await.unwrap_err().assert_refused(502, "connection_refused");
    let silent = Blackhole::new();
    let answer = client.connect(&silent.authority()).await.unwrap_err();
    answer.assert_refused(504, "connection_timeout");
    let answer = client.connect("no-port.test").await.unwrap_err();
    answer.assert_refused(400, "http_request_error");
}

#[tokio::test]
async fn data_right_behind_the_connect_reaches_the_origin() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::connect(origin.authority()).body(()).unwrap();
    let (answer, mut sending) = client.begin(request, false).await;
    sending.send_data(Bytes::from_static(b"early"), true).unwrap();
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(Answer::of(answer).await.unwrap().body, b"early");
}

#[tokio::test]
async fn a_client_that_ends_first_still_gets_the_whole_reply() {
    let (go, wait) = watch::channel(false);
    let origin = Origin::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            let request = connection.rest().await.unwrap();
            wait.wait_for(|go| *go).await.unwrap();
            connection.send(request).await.unwrap();
            connection.send(pattern(MIB)).await.unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    tunnel.send(b"all I have").await;
    tunnel.finish();
    wait_until("the origin has heard the end", async || origin.current() == 0).await;
    assert_eq!(proxy.open(&origin.authority()).await, 1, "half a tunnel is a connection");
    go.send_replace(true);
    assert_eq!(tunnel.exactly(10).await, b"all I have");
    assert!(tunnel.rest().await.unwrap() == pattern(MIB), "the reply is whole and in order");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_ends_first_still_gets_all_that_the_client_sends() {
    let (heard, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let heard = heard.clone();
        async move {
            connection.send("last words").await.unwrap();
            connection.finish().await.unwrap();
            heard.send(connection.rest().await.unwrap()).unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    assert_eq!(tunnel.rest().await.unwrap(), b"last words");
    assert_eq!(proxy.open(&origin.authority()).await, 1, "half a tunnel is a connection");
    tunnel.send(&pattern(MIB)).await;
    tunnel.finish();
    assert!(soon("the origin's share", arrived.recv()).await.unwrap() == pattern(MIB));
    proxy.wait_until_open(&origin.authority(), 0).await;
}

/// An origin that tells how its connections end.
fn watched_origin() -> (Origin, mpsc::UnboundedReceiver<End>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let ended = ended.clone();
        async move { ended.send(connection.end().await.0).unwrap() }
    });
    (origin, ends)
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_origin_as_a_reset() {
    let (origin, mut ends) = watched_origin();
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut other = client.tunnel(&origin.authority()).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    tunnel.send(b"hello").await;
    wait_until("the origin has it", async || origin.current() == 2).await;
    tunnel.reset();
    assert_eq!(soon("the origin to hear of it", ends.recv()).await.unwrap(), End::Reset);
    proxy.wait_until_open(&origin.authority(), 1).await;
    other.finish();
    assert_eq!(soon("the other's end", ends.recv()).await.unwrap(), End::Fin);
}

#[tokio::test]
async fn a_reset_behind_the_end_of_the_client_reaches_the_origin_too() {
    let (go, wait) = watch::channel(false);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let (mut wait, ended) = (wait.clone(), ended.clone());
        async move {
            connection.rest().await.unwrap();
            wait.wait_for(|go| *go).await.unwrap();
            let block = pattern(MIB);
            while connection.send(&block).await.is_ok() {}
            ended.send(()).unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    tunnel.finish();
    wait_until("the origin has heard the end", async || origin.current() == 0).await;
    tunnel.reset();
    proxy.wait_until_open(&origin.authority(), 0).await;
    go.send_replace(true);
    soon("the origin to be cut", ends.recv()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_gone_resets_all_its_tunnels() {
    let (origin, mut ends) = watched_origin();
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let _first = client.tunnel(&origin.authority()).await;
    let _second = client.tunnel(&origin.authority()).await;
    client.connection.abort();
    for _ in 0..2 {
        assert_eq!(soon("the origin to hear of it", ends.recv()).await.unwrap(), End::Reset);
    }
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_reset_by_the_origin_is_connect_error_on_its_stream_alone() {
    let origin = Origin::raw(|mut connection| async move {
        if connection.exactly(3).await.unwrap() == b"die" {
            connection.reset();
        } else {
            connection.send("ok").await.unwrap();
            connection.end().await;
        }
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut other = client.tunnel(&origin.authority()).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    tunnel.send(b"die").await;
    assert_eq!(tunnel.reset_by().await, Reason::CONNECT_ERROR);
    other.send(b"go!").await;
    assert_eq!(other.exactly(2).await, b"ok");
}

#[tokio::test]
async fn a_client_that_resets_while_we_dial_frees_the_slot() {
    let (blackhole, proxy) = (Blackhole::new(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let to = blackhole.authority();
    let request = Request::connect(to.as_str()).body(()).unwrap();
    let (_answer, mut sending) = client.begin(request, false).await;
    proxy.wait_until_open(&to, 1).await;
    sending.send_reset(Reason::CANCEL);
    proxy.wait_until_open(&to, 0).await;
}

#[tokio::test]
async fn a_tunnel_whose_origin_does_not_read_fills_its_own_window_only() {
    let (_open, wait) = watch::channel(false);
    let stuck = Origin::raw_with_small_buffers(move |connection| {
        let mut wait = wait.clone();
        async move {
            drop(wait.wait_for(|go| *go).await);
            drop(connection);
        }
    });
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let (mut blocked, flood) = (Vec::new(), pattern(8 * MIB));
    for _ in 0..20 {
        let mut tunnel = client.tunnel(&stuck.authority()).await;
        let sending = crate::support::http2::send(&mut tunnel.sending, &flood);
        // It never ends: the point is that it stops.
        let sent = tokio::time::timeout(Duration::from_millis(300), Box::pin(sending)).await;
        assert!(sent.is_err(), "8 MiB went nowhere");
        blocked.push(tunnel);
    }
    let mut tunnel = client.tunnel(&origin.authority()).await;
    let (mut sending, sent) = (tunnel.sending, pattern(4 * MIB));
    let up = tokio::spawn(async move {
        crate::support::http2::send(&mut sending, &sent).await.unwrap();
        sending.send_data(Bytes::new(), true).unwrap();
    });
    let mut back = Vec::new();
    while let Some(data) = soon("the other tunnel", tunnel.receiving.data()).await {
        let data = data.unwrap();
        tunnel.receiving.flow_control().release_capacity(data.len()).unwrap();
        back.extend_from_slice(&data);
    }
    up.await.unwrap();
    assert!(back == pattern(4 * MIB), "{} bytes came back", back.len());
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_its_origin_back_and_gets_every_byte() {
    const FLOOD: usize = 100 * MIB;
    let (count, sends) = watch::channel(0);
    let origin = Origin::raw_with_small_buffers(move |mut connection| {
        let count = count.clone();
        async move {
            for _ in 0..FLOOD / MIB {
                connection.send(pattern(MIB)).await.unwrap();
                count.send_modify(|sent| *sent += MIB);
            }
        }
    });
    let proxy = narrows().start().await;
    let before = proxy.resident();
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    let mut last = usize::MAX;
    while last != *sends.borrow() {
        last = *sends.borrow();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < FLOOD, "no back-pressure at all");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more in memory after {last} sent");
    for _ in 0..FLOOD / MIB {
        assert!(tunnel.exactly(MIB).await == pattern(MIB), "a block is not as it was sent");
    }
    assert!(tunnel.rest().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_idle_tunnel_is_cancelled_after_its_time() {
    let (origin, mut ends) = watched_origin();
    let proxy = narrows().flags("--tunnel-idle-timeout 300ms").start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    assert_eq!(tunnel.reset_by().await, Reason::CANCEL);
    assert_eq!(soon("the origin to hear of it", ends.recv()).await.unwrap(), End::Reset);
    proxy.wait_until_open(&origin.authority(), 0).await;
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "tunnel_idle")], 1.0).await;
}

#[tokio::test]
async fn an_idle_tunnel_yields_to_who_waits() {
    let origin = Origin::echo();
    let flags = "--max-connections 1 --queue-timeout 60s --idle-reclaim 100ms --access-log stderr";
    let proxy = narrows().flags(flags).start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut first = client.tunnel(&origin.authority()).await;
    first.echo("hello").await;
    let mut second = client.tunnel(&origin.authority()).await;
    assert_eq!(first.reset_by().await, Reason::CANCEL);
    second.echo("mine now").await;
    assert_eq!(origin.peak(), 1);
    let line = &proxy.stderr.wait_for(1, "\"end\":\"yielded\"").await[0];
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((line["method"].as_str(), line["sent"].as_u64()), (Some("CONNECT"), Some(5)));
    let tunnels = [("kind", "tunnel")];
    proxy.wait_until_metric("narrows_idle_reclaimed_total", &tunnels, 1.0).await;
}

#[tokio::test]
async fn a_stop_says_goaway_and_lets_the_tunnels_finish() {
    let origin = Origin::echo();
    let mut proxy = narrows().flags("--shutdown-timeout 60s").start().await;
    let mut client = Http2::to(proxy.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    proxy.terminate();
    wait_until("the connection takes no more", async || {
        client.sender.clone().ready().await.is_err()
    })
    .await;
    tunnel.echo("I am not done").await;
    assert!(proxy.is_running());
    tunnel.finish();
    assert_eq!(tunnel.rest().await.unwrap(), b"");
    drop(tunnel);
    client.ended().await.unwrap();
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn tls_in_a_tunnel_in_http_2_is_the_origins_own() {
    let certs = Certs::new();
    let (acceptor, certificate) = certs.server(&["localhost"], &["h2", "http/1.1"]);
    let origin = Origin::raw(move |connection| {
        let acceptor = acceptor.clone();
        async move {
            let mut connection = connection.secured(acceptor).await.unwrap();
            let word = connection.exactly(4).await.unwrap();
            connection.send(word).await.unwrap();
            connection.finish().await.unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let stream = client.tunnel(&origin.authority()).await.into_stream();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream =
        soon("a handshake", certs.client(&["h2"]).connect(name, stream)).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(session.peer_certificates().unwrap()[0], certificate);
    stream.write_all(b"ping").await.unwrap();
    let mut word = Vec::new();
    soon("an echo", stream.read_to_end(&mut word)).await.unwrap();
    assert_eq!(word, b"ping");
}
