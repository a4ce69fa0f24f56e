//! How connections go on, switch and end (RFC 9112 §9, RFC 9110 §7.8).

use super::Case;
use super::OK_PASSED;
use super::case;
use super::get;
use super::run;

const GET: &str = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n";

fn with(section: &'static str, name: &'static str, version: &str, fields: &str) -> Case {
    case(section, name, format!("GET http://{{o}}/ {version}\r\nHost: {{o}}\r\n{fields}\r\n"))
}

#[tokio::test]
async fn a_connection_goes_on_unless_somebody_closes_it() {
    run(vec![
        with("RFC 9112 §9.3", "HTTP/1.1", "HTTP/1.1", "").gets(OK_PASSED).goes_on(),
        with("RFC 9112 §9.3", "HTTP/1.1 and close", "HTTP/1.1", "Connection: close\r\n")
            .arrives_as("GET / HTTP/1.1")
            .answered(&[200])
            .gets_with("\r\nConnection: close\r\n")
            .closes(),
        with(
            "RFC 9112 §9.3",
            "close among others, in any case",
            "HTTP/1.1",
            "Connection: x-a, Close\r\n",
        )
        .answered(&[200])
        .closes(),
        with(
            "RFC 9112 §9.3",
            "close in a second line",
            "HTTP/1.1",
            "Connection: keep-alive\r\nConnection: close\r\n",
        )
        .answered(&[200])
        .closes(),
        with("RFC 9112 §9.3", "HTTP/1.0", "HTTP/1.0", "").answered(&[200]).closes(),
        with(
            "RFC 9112 §9.3",
            "HTTP/1.0 that asks for more",
            "HTTP/1.0",
            "Connection: keep-alive\r\n",
        )
        .gets_with("\r\nConnection: keep-alive\r\n")
        .goes_on(),
        with(
            "RFC 9112 §C.2.2",
            "Proxy-Connection does not keep HTTP/1.0",
            "HTTP/1.0",
            "Proxy-Connection: keep-alive\r\n",
        )
        .answered(&[200])
        .closes(),
        with("RFC 9112 §9.3", "the origin's close is its own", "HTTP/1.1", "")
            .origin_says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .origin_closes()
            .gets(OK_PASSED)
            .goes_on(),
        // An end is taken for a client that has left, since one that waits for nothing cannot be told
        // from one that still listens; see ARCHITECTURE.md.
        case("RFC 9112 §9.6", "a client that ends has left", GET).without_sentinel().gets(""),
        case("RFC 9112 §9.6", "a client that ends in a head", "GET http://{o}/ HTTP/1.1\r\nHo")
            .without_sentinel()
            .gets("")
            .nobody(),
        case("RFC 9112 §9.6", "a client that says nothing", "")
            .without_sentinel()
            .gets("")
            .nobody(),
    ])
    .await;
}

#[tokio::test]
async fn http_1_0_clients_get_no_chunks_and_see_what_is_cut() {
    let old = |section: &'static str, name: &'static str| {
        case(section, name, "GET http://{o}/ HTTP/1.0\r\n\r\n")
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    run(vec![
        old("RFC 9112 §7.1", "a chunked answer ends with the connection")
            .origin_says(format!("{chunked}0\r\n\r\n"))
            .gets_without("ransfer-")
            .gets_with("\r\n\r\nhello")
            .closes(),
        old("RFC 9112 §8", "one that is cut is reset")
            .origin_says(chunked)
            .origin_closes()
            .resets(),
        get("RFC 9112 §8", "as is one to HTTP/1.1, whose last chunk is missing")
            .origin_says(chunked)
            .origin_closes()
            .gets_without("\r\n0\r\n")
            .resets(),
        get("RFC 9112 §8", "or whose length is not reached")
            .origin_says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
            .origin_closes()
            .resets(),
        get("RFC 9112 §8", "an origin's reset is a reset")
            .origin_says("HTTP/1.1 200 OK\r\n\r\nhel")
            .origin_resets()
            .resets(),
        get("RFC 9112 §6.3", "an answer that ends with the origin's connection is whole")
            .origin_says("HTTP/1.1 200 OK\r\n\r\nhello")
            .origin_closes()
            .gets("HTTP/1.1 200 OK\r\nVia: 1.1 wire\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let request = |path: &str| format!("GET http://{{o}}/{path} HTTP/1.1\r\nHost: {{o}}\r\n\r\n");
    let arrived =
        |path: &str| format!("GET /{path} HTTP/1.1\r\nHost: {{o}}\r\nVia: 1.1 wire\r\n\r\n");
    let says = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{text}");
    let got =
        |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nVia: 1.1 wire\r\n\r\n{text}");
    run(vec![
        case("RFC 9112 §9.3.2", "three at once", request("a") + &request("b") + &request("c"))
            .origin_says(says("a"))
            .origin_says(says("b"))
            .origin_says(says("c"))
            .arrives(arrived("a") + &arrived("b") + &arrived("c"))
            .gets(got("a") + &got("b") + &got("c"))
            .goes_on(),
        case("RFC 9112 §9.3.2", "a bad one between", request("a") + "GET  http://{o}/b HTTP/1.1\r\n\r\n" + &request("c"))
            .arrives(arrived("a"))
            .answered(&[200, 400])
            .closes(),
        case("RFC 9112 §9.3.2", "nothing behind close", format!("GET http://{{o}}/a HTTP/1.1\r\nHost: {{o}}\r\nConnection: close\r\n\r\n{}", request("b")))
            .arrives(arrived("a"))
            .answered(&[200])
            .closes(),
        case("RFC 9112 §9.3.2", "a body and a request behind it", format!("POST http://{{o}}/a HTTP/1.1\r\nHost: {{o}}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n{}", request("b")))
            .arrives_with(arrived("b"))
            .answered(&[200, 200])
            .goes_on(),
        case("RFC 9110 §9.3.6", "a CONNECT behind a GET", request("a") + "CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: x\r\n\r\n")
            .arrives(arrived("a"))
            .answered(&[200, 400])
            .closes(),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_whole_request() {
    let post = |name: &'static str, body: &str| {
        let head = "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 100000\r\n\r\n";
        case("RFC 9112 §9.3", name, format!("{head}{body}"))
    };
    let early = "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno";
    let passed = "HTTP/1.1 403 No\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nno";
    run(vec![
        post("while nothing of the body is there", "")
            .origin_says_early(early)
            .hears(passed)
            .gets(passed)
            .closes()
            .ends(),
        post("while half of the body is there", &"x".repeat(50_000))
            .origin_says_early(early)
            .hears(passed)
            .sends("y".repeat(40_000))
            .gets(passed)
            .closes()
            .ends(),
        post("and the origin closes", &"x".repeat(50_000))
            .origin_says_early(early)
            .origin_closes()
            .hears(passed)
            .sends("y".repeat(40_000))
            .gets(passed)
            .closes()
            .ends(),
        post("and the whole body follows", &"x".repeat(100_000))
            .origin_says_early(early)
            .hears(passed)
            .answered(&[403]),
        post("a refusal of ours, too", &"x".repeat(50_000))
            .origin_says_early("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            .sends("y".repeat(40_000))
            .own(502, "http_protocol_error")
            .closes()
            .ends(),
    ])
    .await;
}

#[tokio::test]
async fn protocols_switch_where_both_ends_want_it() {
    let ask = |name: &'static str, version: &str, fields: &str| {
        with("RFC 9110 §7.8", name, version, fields)
    };
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nVia: 1.1 wire\r\nUpgrade: websocket\r\n\
                    Connection: upgrade\r\n\r\n";
    run(vec![
        ask(
            "a websocket",
            "HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n",
        )
        .arrives_with("\r\nSec-WebSocket-Key: k\r\n")
        .arrives_with("\r\nUpgrade: websocket\r\nConnection: upgrade\r\n")
        .origin_says(format!("{switching}frame"))
        .hears(format!("{switched}frame"))
        .sends("raw")
        .gets(format!("{switched}frame"))
        .without_sentinel()
        .arrives_with("\r\n\r\nraw"),
        ask("declined", "HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
            .gets(OK_PASSED)
            .goes_on(),
        ask("not from HTTP/1.0", "HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
            .arrives_without("pgrade")
            .answered(&[200])
            .closes(),
        ask(
            "HTTP/2 is not among what is offered",
            "HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        )
        .arrives_with("\r\nUpgrade: websocket\r\n")
        .arrives_without("h2c")
        .goes_on(),
        ask("a switch that nobody asked for", "HTTP/1.1", "")
            .origin_says(format!("{switching}HTTP/1.1 200 OK\r\n\r\n"))
            .own(502, "http_protocol_error"),
        ask("a switch to something else", "HTTP/1.1", "Connection: Upgrade\r\nUpgrade: echo\r\n")
            .origin_says(switching)
            .own(502, "http_upgrade_failed"),
    ])
    .await;
}
