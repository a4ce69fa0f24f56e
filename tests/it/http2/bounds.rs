//! What a client of HTTP/2 may not do, or not for ever.

use std::time::Duration;
use std::time::Instant;

use h2::Reason;
use http::Request;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::frames::Frames;
use super::frames::GOAWAY;
use super::frames::PREFACE;
use super::frames::RST_STREAM;
use super::frames::SETTINGS;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::soon;

async fn met(proxy: &crate::support::Proxy, bound: &str) -> f64 {
    proxy.metric("narrows_bounds_met_total", &[("bound", bound)]).await
}

#[tokio::test]
async fn too_many_or_too_long_fields_are_431_on_their_stream() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let mut many = Request::get(origin.url("/"));
    for number in 0..101 {
        many = many.header(format!("x-{number}"), "1");
    }
    let long = Request::get(origin.url("/")).header("x", "y".repeat(70_000));
    for request in [many, long] {
        let answer = client.request(request.body(()).unwrap(), b"").await;
        answer.assert_refused(431, "http_request_error");
    }
    let endless = Request::get(origin.url("/")).header("x", "y".repeat(200_000));
    assert_eq!(client.request(endless.body(()).unwrap(), b"").await.status, 431);
    assert_eq!(client.get(&origin.url("/")).await.status, 200, "the connection goes on");
    assert_eq!(origin.hits(), 1);
    for bound in ["fields", "head_size"] {
        proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", bound)], 1.0).await;
    }
}

#[tokio::test]
async fn no_more_streams_than_allowed_are_served_at_a_time() {
    let origin = Origin::start();
    let proxy = narrows().flags("--http2-max-streams 2").start().await;
    let to = origin.authority();
    let mut frames = Frames::open(proxy.address).await;
    let settings = frames.next(SETTINGS).await.unwrap().payload;
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], [0, 0, 0, 2], "SETTINGS_MAX_CONCURRENT_STREAMS");
    let slow = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", to.as_str()),
        (":path", "/slow?ms=60000"),
    ];
    for stream in [1, 3, 5] {
        frames.headers(stream, &slow, true).await;
    }
    let reset = frames.next(RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, reset.code()), (5, 7), "REFUSED_STREAM");
    proxy.wait_until_open(&to, 2).await;
    assert!(origin.hits() <= 2);
}

#[tokio::test]
async fn a_client_that_resets_all_it_asks_for_is_told_to_calm_down() {
    let origin = Origin::start();
    let proxy = narrows().flags("--http2-max-resets 20").start().await;
    let mut client = Http2::to(proxy.address).await;
    let url = origin.url("/slow?ms=60000");
    for round in 0..21 {
        let request = Request::get(&url).body(()).unwrap();
        let (_answer, mut sending) = client.begin(request, true).await;
        proxy.wait_until_open(&origin.authority(), 1).await;
        assert!(met(&proxy, "http2_calm").await < 0.5, "round {round}");
        sending.send_reset(Reason::CANCEL);
        proxy.wait_until_open(&origin.authority(), 0).await;
    }
    let why = client.ended().await.unwrap_err();
    assert_eq!(why.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{why}");
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "http2_calm")], 1.0).await;
}

#[tokio::test]
async fn a_client_whose_requests_are_answered_may_reset_now_and_then() {
    let origin = Origin::start();
    let proxy = narrows().flags("--http2-max-resets 2").start().await;
    let mut client = Http2::to(proxy.address).await;
    for _ in 0..10 {
        assert_eq!(client.get(&origin.url("/")).await.status, 200);
        let request = Request::get(origin.url("/slow?ms=60000")).body(()).unwrap();
        let (_answer, mut sending) = client.begin(request, true).await;
        wait_for_hit(&origin).await;
        sending.send_reset(Reason::CANCEL);
        assert_eq!(client.get(&origin.url("/")).await.status, 200);
    }
    assert!(met(&proxy, "http2_calm").await < 0.5);
}

async fn wait_for_hit(origin: &Origin) {
    let slow = || origin.seen().last().is_some_and(|seen| seen.head.target().starts_with("/slow"));
    crate::support::wait_until("it is at the origin", async || slow()).await;
}

#[tokio::test]
async fn resets_faster_than_they_can_be_served_are_calmed_too() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let to = origin.authority();
    let mut frames = Frames::open(proxy.address).await;
    let get = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", to.as_str()),
        (":path", "/slow?ms=60000"),
    ];
    let flood = async {
        let mut stream = 1;
        while stream < 4000 {
            frames.headers(stream, &get, true).await;
            frames.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).await;
            stream += 2;
        }
    };
    // The proxy may close before all of it is out.
    let _cut = tokio::time::timeout(Duration::from_secs(10), flood).await;
    let goaway = frames.next(GOAWAY).await.expect("a GOAWAY");
    assert_eq!(goaway.code(), 11, "ENHANCE_YOUR_CALM");
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "http2_calm")], 1.0).await;
    proxy.wait_until_open(&to, 0).await;
}

#[tokio::test]
async fn a_preface_and_then_silence_is_closed_in_time() {
    let proxy = narrows().flags("--header-timeout 300ms").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let start = Instant::now();
    let mut bytes = Vec::new();
    soon("the end", stream.read_to_end(&mut bytes)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250), "only {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "head_time")], 1.0).await;
    proxy.wait_until_metric("narrows_client_connections", &[], 0.0).await;
}

#[tokio::test]
async fn half_a_preface_is_a_head_that_never_came() {
    let proxy = narrows().flags("--header-timeout 300ms").start().await;
    let mut client = proxy.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nS").await;
    let answer = client.response("GET").await;
    answer.assert_refused(408, "http_request_error");
    client.end().await;
}

#[tokio::test]
async fn a_connection_without_a_stream_is_closed_after_its_time() {
    let origin = Origin::start();
    let proxy = narrows().flags("--keep-alive-timeout 500ms").start().await;
    let mut client = Http2::to(proxy.address).await;
    assert_eq!(client.get(&origin.url("/slow?ms=900")).await.status, 200, "a stream is no idling");
    let start = Instant::now();
    client.ended().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    proxy.wait_until_metric("narrows_client_connections", &[], 0.0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_after_its_time() {
    let origin = Origin::start();
    let proxy = narrows().flags("--idle-timeout 300ms").start().await;
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/size?n=10000000")).body(()).unwrap();
    let (answer, _sending) = client.begin(request, true).await;
    let mut body = soon("an answer", answer).await.unwrap().into_body();
    proxy.wait_until_open(&origin.authority(), 0).await;
    let end = loop {
        // Nothing is given back to the window.
        match soon("the end", body.data()).await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    let why = end.expect("no good end").unwrap_err();
    assert_eq!(why.reason(), Some(Reason::CANCEL), "{why}");
    proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", "body_idle")], 1.0).await;
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused_by_name() {
    for (flag, value, allowed) in [
        ("--http2-max-streams", "0", "from 1 to 65535"),
        ("--http2-window", "1000", "from 65536 to 16777216"),
        ("--http2-max-resets", "many", "from 1 to 1000000"),
    ] {
        let ended = narrows().flags(format!("{flag} {value}")).run().await;
        assert_ne!(ended.code, Some(0));
        for part in [flag, value, allowed] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }
}
