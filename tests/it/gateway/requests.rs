//! A request by the gateway is one like any other: loops, hops, limits, upgrades, interim answers,
//! trailers, counts.

use http::Request;
use narrows::Config;
use narrows::policy::api::Forwarded;
use narrows::policy::api::Gateway;

use super::Served;
use super::api;
use super::with;
use crate::support::Client;
use crate::support::Origin;

#[tokio::test]
async fn a_loop_through_gateways_is_refused() {
    let served = {
        let origin = Origin::start();
        Served::new([api(&origin, "")])
    };
    let answer = served.request("GET", "/api/a/x", &["Via: 1.1 other, 1.1 gate"]).await;
    answer.assert_refused(502, "proxy_loop_detected");
}

#[tokio::test]
async fn max_forwards_counts_and_an_unknown_expectation_is_417() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    let answer = served.request("OPTIONS", "/api/a/x", &["Max-Forwards: 0"]).await;
    assert_eq!((answer.status(), origin.hits()), (200, 0));
    let answer = served.request("OPTIONS", "/api/a/x", &["Max-Forwards: 3"]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.only().head.field("max-forwards"), Some("2"));
    let answer = served.request("GET", "/api/a/x", &["Expect: more"]).await;
    answer.assert_refused(417, "http_request_error");
}

#[tokio::test]
async fn an_expectation_goes_on_and_the_origin_asks_for_the_body() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    let mut client = served.client().await;
    let fields = ["Expect: 100-continue", "Content-Length: 4"];
    client.send_request("POST", "/api/a/continue", &fields).await;
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    assert_eq!(client.response("POST").await.text(), "4 bytes");
    assert_eq!(origin.only().head.field("expect"), Some("100-continue"));
}

#[tokio::test]
async fn interim_answers_and_trailers_come_through() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    let mut client = served.client().await;
    client.send_request("GET", "/api/a/early-hints", &[]).await;
    assert_eq!(client.head().await.status(), 103);
    assert_eq!(client.response("GET").await.text(), "hinted");
    let answer = client.request("GET", "/api/a/trailers", &["TE: trailers"]).await;
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "5".to_owned())]);
    assert_eq!(origin.seen()[1].head.field("te"), Some("trailers"));
}

#[tokio::test]
async fn a_protocol_switches_through_the_gateway_whatever_is_forwarded() {
    for forward_headers in [Forwarded::None, Forwarded::All] {
        let origin = Origin::start();
        let gateway = Gateway { forward_headers, ..Gateway::default() };
        let served = Served::new([with(&origin, gateway)]);
        let mut client = served.client().await;
        let fields = [
            "Connection: Upgrade",
            "Upgrade: echo",
            "Sec-WebSocket-Key: k",
            "Sec-WebSocket-Protocol: p",
        ];
        client.send_request("GET", "/api/a/upgrade", &fields).await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.exactly(5).await, b"first");
        client.echo("hello").await;
        let seen = origin.only().head;
        assert_eq!(seen.field("sec-websocket-key"), Some("k"));
        assert_eq!(seen.field("sec-websocket-protocol"), Some("p"));
    }
}

#[tokio::test]
async fn the_gateway_and_forward_traffic_count_to_one_limit() {
    let origin = Origin::start();
    let served = Served::with([api(&origin, "")], |config: &mut Config| {
        config.limit.default_limit = 1;
    });
    let mut slow: Client = served.client().await;
    slow.send_request("GET", &origin.url("/slow?ms=1500"), &[]).await;
    crate::support::wait_until("the slow one is there", async || origin.hits() == 1).await;
    served.get("/api/a/x").await.assert_refused(503, "connection_limit_reached");
    assert_eq!(slow.response("GET").await.status(), 200);
    assert_eq!(served.get("/api/a/x").await.status(), 200);
    assert_eq!((origin.peak(), origin.accepted()), (1, 1), "on the connection that was kept");
}

#[tokio::test]
async fn over_http_2_a_request_goes_on_as_any_and_names_its_version_in_via() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "/v1")]);
    let request = Request::get(served.url("/api/a/x?y=%2F")).header("x-api-key", "k");
    let answer = served.http2().await.request(request.body(()).unwrap(), b"").await;
    assert_eq!((answer.status, &*answer.body), (200, &b"/v1/x?y=%2F"[..]));
    let seen = origin.only().head;
    assert_eq!(seen.start, "GET /v1/x?y=%2F HTTP/1.1");
    assert_eq!(seen.field("host"), Some(&*origin.authority()));
    assert_eq!(seen.field("via"), Some("2.0 gate"));
    assert_eq!(seen.fields.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn over_tls_the_gateway_is_known_by_the_name_in_the_handshake() {
    let origin = Origin::start();
    let certs = crate::support::Certs::new();
    let (cert, key) = certs.files("gate", &["gate.test"]);
    let gateway = Gateway { forwarded: true, ..Gateway::default() };
    let served = Served::with([with(&origin, gateway)], |config: &mut Config| {
        config.listen.tls =
            Some(narrows::listen::tls::Settings { certificate: cert, key, clients: None });
    });
    let stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let name = "gate.test".try_into().unwrap();
    let stream = certs.client(&["h2"]).connect(name, stream).await.unwrap();
    let mut client = crate::support::Http2::over(stream).await;
    // As behind a port that is mapped: the name counts, not the port.
    let answer = client.get("https://gate.test/api/a/x").await;
    assert_eq!((answer.status, &*answer.body), (200, &b"/x"[..]));
    let seen = origin.only().head;
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("gate.test"));
    let other = client.get("https://other.test/api/a/x").await;
    assert_ne!(other.status, 200, "that is forward traffic");
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn a_websocket_on_a_stream_of_http_2_goes_through_the_gateway() {
    let origin = Origin::raw(|mut connection| async move {
        let head = connection.head().await.unwrap().unwrap();
        assert_eq!(head.start, "GET /chat?x=1 HTTP/1.1");
        assert_eq!(head.field("upgrade"), Some("websocket"));
        let accept = crate::http2::websocket::right(head.field("sec-websocket-key").unwrap());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nfirst"
        );
        connection.send(answer).await.unwrap();
        let word = connection.exactly(5).await.unwrap();
        connection.send(word).await.unwrap();
    });
    let served = Served::new([api(&origin, "")]);
    let mut client = served.http2().await;
    let request = client.extended(&served.url("/api/a/chat?x=1"), "websocket").await;
    let mut socket = client.open(request).await.expect("a WebSocket");
    assert_eq!(socket.exactly(5).await, b"first");
    socket.echo("hello").await;
}
