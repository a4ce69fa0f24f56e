//! The Host field (RFC 9112 §3.2, RFC 9110 §7.2).

use super::OK_PASSED;
use super::case;
use super::run;

#[tokio::test]
async fn a_request_has_one_host_and_a_sound_one() {
    let bad = |name: &'static str, fields: &str| {
        case("RFC 9112 §3.2", name, format!("GET http://{{o}}/ HTTP/1.1\r\n{fields}\r\n"))
            .refused(400)
    };
    let connect = |name: &'static str, fields: &str| {
        case("RFC 9112 §3.2", name, format!("CONNECT {{o}} HTTP/1.1\r\n{fields}\r\n")).refused(400)
    };
    run(vec![
        bad("no Host", ""),
        bad("two Hosts", "Host: {o}\r\nHost: {o}\r\n"),
        bad("two Hosts that differ", "Host: {o}\r\nhost: other\r\n"),
        bad("an empty Host beside an authority", "Host:\r\n"),
        bad("a list", "Host: a, b\r\n"),
        bad("userinfo", "Host: user@{o}\r\n"),
        bad("a path", "Host: {o}/\r\n"),
        bad("a URL", "Host: http://{o}\r\n"),
        bad("a port that is no number", "Host: a:b\r\n"),
        bad("a port and no host", "Host: :80\r\n"),
        bad("an address without brackets", "Host: ::1\r\n"),
        bad("brackets without an end", "Host: [::1\r\n"),
        bad("bytes beyond ASCII", "Host: \u{e9}\r\n"),
        bad("a space before the colon", "Host : {o}\r\n"),
        connect("CONNECT without one", ""),
        connect("CONNECT with two", "Host: {o}\r\nHost: {o}\r\n"),
        connect("CONNECT with a bad one", "Host: a b\r\n"),
        connect("CONNECT with an empty one", "Host: \r\n"),
    ])
    .await;
}

#[tokio::test]
async fn the_origin_is_told_the_host_of_the_target() {
    let arrives = |name: &'static str, head: &str, wanted: &str| {
        case("RFC 9112 §3.2.2", name, format!("{head}\r\n\r\n"))
            .arrives(format!("GET / HTTP/1.1\r\n{wanted}\r\n\r\n"))
            .gets(OK_PASSED)
    };
    run(vec![
        arrives(
            "another Host is replaced",
            "GET http://{o}/ HTTP/1.1\r\nHost: other:1\r\nA: b",
            "Host: {o}\r\nA: b\r\nVia: 1.1 wire",
        )
        .goes_on(),
        arrives(
            "in its place and its case",
            "GET http://{o}/ HTTP/1.1\r\nA: b\r\nHOST: other",
            "A: b\r\nHOST: {o}\r\nVia: 1.1 wire",
        )
        .goes_on(),
        case(
            "RFC 9112 §3.2.2",
            "HTTP/1.0 without Host gets one",
            "GET http://{o}/ HTTP/1.0\r\nA: b\r\n\r\n",
        )
        .arrives("GET / HTTP/1.1\r\nA: b\r\nHost: {o}\r\nVia: 1.0 wire\r\n\r\n")
        .closes(),
        case(
            "RFC 9112 §3.2.2",
            "HTTP/1.0 with a wrong one",
            "GET http://{o}/ HTTP/1.0\r\nHost: x\r\n\r\n",
        )
        .arrives("GET / HTTP/1.1\r\nHost: {o}\r\nVia: 1.0 wire\r\n\r\n")
        .closes(),
        case(
            "RFC 9112 §3.2",
            "an empty Host where there is no authority",
            "GET /health HTTP/1.1\r\nHost:\r\n\r\n",
        )
        .answered(&[200])
        .nobody()
        .goes_on(),
    ])
    .await;
}
