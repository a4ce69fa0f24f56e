//! CONNECT: a tunnel is opened after the dial, carries bytes untouched, and ends as its ends do.

use std::time::Duration;
use std::time::Instant;

use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::support::Blackhole;
use crate::support::Certs;
use crate::support::Client;
use crate::support::Closed;
use crate::support::End;
use crate::support::MIB;
use crate::support::Names;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;
use crate::support::wait_until;

#[tokio::test]
async fn connect_is_answered_by_200_without_a_length_or_a_coding() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut client = proxy.client().await;
    let answer = client.connect(origin.authority()).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.head.start.starts_with("HTTP/1.1 200 "), "{:?}", answer.head.start);
    assert!(answer.head.all("content-length").is_empty(), "RFC 9110 §9.3.6: {:?}", answer.head);
    assert!(answer.head.all("transfer-encoding").is_empty(), "RFC 9110 §9.3.6: {:?}", answer.head);
    client.echo("through").await;
}

#[tokio::test]
async fn bytes_right_behind_the_connect_head_reach_the_origin() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut client = proxy.client().await;
    let to = origin.authority();
    client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET / early")).await;
    assert_eq!(client.response("CONNECT").await.status(), 200);
    assert_eq!(client.exactly(11).await, b"GET / early");
    client.echo("and later ones").await;
}

#[tokio::test]
async fn a_head_in_single_bytes_opens_a_tunnel_too() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut client = proxy.client().await;
    let to = origin.authority();
    for byte in format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").bytes() {
        client.send([byte]).await;
    }
    assert_eq!(client.response("CONNECT").await.status(), 200);
    client.echo("through").await;
}

#[tokio::test]
async fn an_origin_that_speaks_first_is_heard() {
    let origin = Origin::raw(|mut connection| async move {
        connection.send("220 hello\r\n").await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    assert_eq!(client.exactly(11).await, b"220 hello\r\n");
}

#[tokio::test]
async fn a_client_that_ends_first_still_gets_the_whole_reply_and_the_slot_is_held_until_then() {
    let (go, wait) = tokio::sync::watch::channel(false);
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
    let mut client = proxy.tunnel(origin.authority()).await;
    client.send("all I have").await;
    client.finish().await;
    wait_until("the origin has heard the end", async || origin.current() == 0).await;
    assert_eq!(proxy.open(&origin.authority()).await, 1, "half a tunnel is a connection");
    go.send_replace(true);
    assert_eq!(client.exactly(10).await, b"all I have");
    assert!(client.rest().await.unwrap() == pattern(MIB), "the reply is whole and in order");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_ends_first_still_gets_all_that_the_client_sends() {
    let (heard, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let heard = heard.clone();
        async move {
            connection.send("last words").await.unwrap();
            connection.finish().await.unwrap();
            heard.send(connection.rest().await.unwrap()).unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    assert_eq!(client.rest().await.unwrap(), b"last words");
    assert_eq!(proxy.open(&origin.authority()).await, 1, "half a tunnel is a connection");
    client.send(pattern(MIB)).await;
    client.finish().await;
    assert!(soon("the origin's share", arrived.recv()).await.unwrap() == pattern(MIB));
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_origin_as_a_reset() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let ended = ended.clone();
        async move { ended.send(connection.end().await).unwrap() }
    });
    let proxy = narrows().start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    client.send("hello").await;
    wait_until("the origin has it", async || origin.current() == 1).await;
    client.reset();
    let (end, _) = soon("the origin to hear of it", ends.recv()).await.unwrap();
    assert_eq!(end, End::Reset);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_reset_by_the_origin_reaches_the_client_as_a_reset() {
    let origin = Origin::raw(|mut connection| async move {
        connection.exactly(5).await.unwrap();
        connection.reset();
    });
    let proxy = narrows().start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    client.send("hello").await;
    assert_eq!(client.end().await, End::Reset);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_idle_tunnel_is_reset_on_both_sides_when_its_time_is_up() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut connection| {
        let ended = ended.clone();
        async move { ended.send(connection.end().await).unwrap() }
    });
    let proxy = narrows().flags("--tunnel-idle-timeout 400ms").start().await;
    let start = Instant::now();
    let mut client = proxy.tunnel(origin.authority()).await;
    assert_eq!(client.end().await, End::Reset);
    assert!(start.elapsed() >= Duration::from_millis(400), "only {:?}", start.elapsed());
    let (end, _) = soon("the origin to hear of it", ends.recv()).await.unwrap();
    assert_eq!(end, End::Reset);
    proxy.wait_until_open(&origin.authority(), 0).await;
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "tunnel_idle")], 1.0).await;
}

#[tokio::test]
async fn bytes_in_one_direction_alone_keep_a_tunnel_from_being_idle() {
    let origin = Origin::raw(|mut connection| async move {
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            connection.send(".").await.unwrap();
        }
    });
    let proxy = narrows().flags("--tunnel-idle-timeout 600ms").start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    assert_eq!(client.rest().await.unwrap(), b"............");
}

/// More than all socket buffers on the way hold, whatever the kernel tunes them to.
const FLOOD: usize = 160 * MIB;

#[tokio::test]
async fn a_client_faster_than_the_origin_is_slowed_down_and_not_buffered() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let (heard, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::raw_with_small_buffers(move |mut connection| {
        let (mut wait, heard) = (wait.clone(), heard.clone());
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            heard.send(connection.end().await).unwrap();
        }
    });
    let proxy = narrows().start().await;
    let mut client = Client::with_small_buffers(proxy.address).await;
    assert_eq!(client.connect(origin.authority()).await.status(), 200);
    let before = proxy.resident();
    let bytes = pattern(FLOOD);
    let sent = client.send_until_it_blocks(&bytes).await;
    assert!(sent < FLOOD, "no back-pressure at all");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more in memory after {sent} sent");

    go.send_replace(true);
    client.send("and the rest").await;
    client.finish().await;
    let all = soon("the origin to read it all", arrived.recv()).await.unwrap();
    assert_eq!(all, (End::Fin, sent + 12));
}

#[tokio::test]
async fn an_origin_faster_than_the_client_is_slowed_down_and_not_buffered() {
    let (sent, sends) = tokio::sync::watch::channel(0);
    let origin = Origin::raw_with_small_buffers(move |mut connection| {
        let sent = sent.clone();
        async move {
            let block = pattern(MIB);
            for _ in 0..FLOOD / MIB {
                connection.send(&block).await.unwrap();
                sent.send_modify(|sent| *sent += MIB);
            }
        }
    });
    let proxy = narrows().start().await;
    let mut client = Client::with_small_buffers(proxy.address).await;
    assert_eq!(client.connect(origin.authority()).await.status(), 200);
    let before = proxy.resident();
    let mut last = usize::MAX;
    while last != *sends.borrow() {
        last = *sends.borrow();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < FLOOD, "no back-pressure at all");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes more in memory after {last} sent");
    for _ in 0..FLOOD / MIB {
        assert!(client.exactly(MIB).await == pattern(MIB), "a block is not as it was sent");
    }
    assert!(client.rest().await.unwrap().is_empty());
}

#[tokio::test]
async fn megabytes_cross_both_ways_at_once_and_arrive_as_they_were_sent() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let stream = proxy.tunnel(origin.authority()).await.into_stream();
    let (mut reading, mut writing) = stream.into_split();
    let sent = tokio::spawn(async move {
        writing.write_all(&pattern(32 * MIB)).await.unwrap();
        // Dropping this half is a FIN.
    });
    let mut back = Vec::new();
    soon("all of it back", reading.read_to_end(&mut back)).await.unwrap();
    sent.await.unwrap();
    assert!(back == pattern(32 * MIB), "{} bytes came back, not as sent", back.len());
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_refused_connect_closes_the_connection_and_what_follows_is_no_request() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    let (to, url) = (Closed::new().authority(), origin.url("/smuggled"));
    client
        .send(format!(
            "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET {url} HTTP/1.1\r\nHost: h\r\n\r\n"
        ))
        .await;
    let answer = client.response("CONNECT").await;
    answer.assert_refused(502, "connection_refused");
    assert_eq!(answer.head.field("connection"), Some("close"));
    // A reset is as good an end: bytes of ours are unread.
    assert_eq!(client.rest().await.unwrap_or_default(), b"", "one answer, then the end");
    assert_eq!(origin.hits(), 0, "the bytes behind a refused CONNECT were read as a request");
}

#[tokio::test]
async fn connect_with_a_length_or_a_coding_is_400_and_closes() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    for field in ["Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client().await;
        let answer = client.connect_with(origin.authority(), &[field]).await;
        assert_eq!((field, answer.status()), (field, 400));
        answer.assert_refused(400, "http_request_error");
        client.end().await;
    }
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_port_that_refuses_is_502_connection_refused() {
    let (closed, proxy) = (Closed::new(), narrows().start().await);
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    proxy.wait_until_open(&closed.authority(), 0).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_502_dns_error() {
    let names = Names::of(&[]).await;
    let proxy = narrows().flags(format!("--resolver {}", names.address())).start().await;
    proxy.connect("nowhere.test:443").await.assert_refused(502, "dns_error");
    assert!(names.asked() > 0, "the name server was asked");
    proxy.wait_until_open("nowhere.test", 0).await;
}

#[tokio::test]
async fn a_name_server_that_stays_silent_is_504_dns_timeout() {
    let names = Names::silent().await;
    let flags = format!("--resolver {} --dns-timeout 300ms", names.address());
    let proxy = narrows().flags(flags).start().await;
    let start = Instant::now();
    proxy.connect("slow.test:443").await.assert_refused(504, "dns_timeout");
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    proxy.wait_until_open("slow.test", 0).await;
}

#[tokio::test]
async fn a_port_that_stays_silent_is_504_connection_timeout_and_never_200() {
    let (blackhole, proxy) =
        (Blackhole::new(), narrows().flags("--connect-timeout 300ms").start().await);
    let start = Instant::now();
    let answer = proxy.connect(blackhole.authority()).await;
    answer.assert_refused(504, "connection_timeout");
    assert!(start.elapsed() >= Duration::from_millis(300), "only {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    proxy.wait_until_open(&blackhole.authority(), 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_we_dial_frees_the_slot_even_with_bytes_unread() {
    let (blackhole, proxy) = (Blackhole::new(), narrows().start().await);
    let to = blackhole.authority();
    for early in ["", "bytes behind the head"] {
        let mut client = proxy.client().await;
        client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n{early}")).await;
        proxy.wait_until_open(&to, 1).await;
        client.finish().await;
        proxy.wait_until_open(&to, 0).await;
    }
    let mut client = proxy.client().await;
    client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nearly")).await;
    proxy.wait_until_open(&to, 1).await;
    client.reset();
    proxy.wait_until_open(&to, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_up_its_place_even_with_bytes_unread() {
    let (origin, to) = {
        let origin = Origin::echo();
        let to = origin.authority();
        (origin, to)
    };
    let proxy = narrows().flags("--max-connections 1 --queue-timeout 60s").start().await;
    let _holder = proxy.tunnel(&to).await;
    for early in ["", "bytes behind the head"] {
        let mut waiter = proxy.client().await;
        waiter.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n{early}")).await;
        proxy.wait_until_waiting(&to, 1).await;
        waiter.finish().await;
        proxy.wait_until_waiting(&to, 0).await;
    }
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn a_client_that_is_gone_while_the_origin_sends_frees_the_slot() {
    let origin = Origin::raw(|mut connection| async move {
        let block = pattern(MIB);
        while connection.send(&block).await.is_ok() {}
    });
    let proxy = narrows().start().await;
    let mut client = proxy.tunnel(origin.authority()).await;
    client.exactly(MIB).await;
    drop(client);
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
}

#[tokio::test]
async fn tls_in_a_tunnel_is_the_origins_own_certificate_and_its_own_choice_of_protocol() {
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
    let stream = proxy.tunnel(origin.authority()).await.into_stream();
    let name = ServerName::try_from("localhost").unwrap();
    let handshake = certs.client(&["h2"]).connect(name, stream);
    let mut stream = soon("a handshake", handshake).await.expect("the origin's own certificate");
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(session.peer_certificates().unwrap()[0], certificate);
    stream.write_all(b"ping").await.unwrap();
    let mut word = Vec::new();
    soon("an echo", stream.read_to_end(&mut word)).await.unwrap();
    assert_eq!(word, b"ping");
}

#[tokio::test]
async fn a_dead_first_address_is_overtaken_by_the_next_one() {
    let origin = Origin::at("127.0.0.3");
    let blackhole = Blackhole::at(&format!("127.0.0.2:{}", origin.port()));
    let names = Names::of(&[("two.test", &["127.0.0.2", "127.0.0.3"])]).await;
    let flags = format!("--resolver {} --connect-timeout 10s", names.address());
    let proxy = narrows().flags(flags).start().await;
    let start = Instant::now();
    let answer = proxy.get(format!("http://two.test:{}/x", origin.port())).await;
    assert_eq!(answer.status(), 200);
    assert!(start.elapsed() < Duration::from_secs(3), "RFC 8305: {:?}", start.elapsed());
    drop(blackhole);
}

#[tokio::test]
async fn with_one_slot_the_next_address_is_tried_after_the_first_is_given_up() {
    let origin = Origin::at("127.0.0.3");
    let key = format!("two.test:{}", origin.port());
    let blackhole = Blackhole::at(&format!("127.0.0.2:{}", origin.port()));
    let names = Names::of(&[("two.test", &["127.0.0.2", "127.0.0.3"])]).await;
    let flags = format!("--resolver {} --max-connections 1 --connect-timeout 2s", names.address());
    let proxy = narrows().flags(flags).start().await;
    let tunnel = proxy.tunnel(&key).await;
    assert_eq!(proxy.open(&key).await, 1, "no second slot for the second address");
    drop(tunnel);
    proxy.wait_until_open(&key, 0).await;
    drop(blackhole);
}

#[tokio::test]
async fn resolve_sends_a_name_to_an_address_as_curls_option_does() {
    let origin = Origin::start();
    let port = origin.port();
    let flags = format!("--resolve any.test=127.0.0.1 --resolve one.test:{port}=127.0.0.1");
    let proxy = narrows().flags(flags).start().await;
    for name in ["any.test", "one.test"] {
        assert_eq!(proxy.get(format!("http://{name}:{port}/")).await.status(), 200, "{name}");
    }
    let hosts: Vec<String> =
        origin.seen().iter().map(|seen| seen.head.field("host").unwrap().to_owned()).collect();
    assert_eq!(hosts, [format!("any.test:{port}"), format!("one.test:{port}")]);
}
