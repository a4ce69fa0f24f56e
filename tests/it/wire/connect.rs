//! CONNECT (RFC 9110 §9.3.6, RFC 9112 §3.2.3).

use super::Case;
use super::case;
use super::run;

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
/// What /health is answered with.
const HEALTH: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                      Content-Length: 15\r\n\r\n{\"status\":\"ok\"}";

fn connect(section: &'static str, name: &'static str, target: &str, rest: &str) -> Case {
    case(section, name, format!("CONNECT {target} HTTP/1.1\r\nHost: {{o}}\r\n{rest}"))
}

#[tokio::test]
async fn a_tunnel_carries_bytes_as_they_are() {
    run(vec![
        connect(
            "RFC 9110 §9.3.6",
            "200 without a length, and the origin's bytes behind it",
            "{o}",
            "\r\n",
        )
        .origin_is_raw("220 hello\r\n")
        .hears(format!("{ESTABLISHED}220 hello\r\n"))
        .without_sentinel()
        .gets(format!("{ESTABLISHED}220 hello\r\n"))
        .arrives(""),
        connect(
            "RFC 9110 §9.3.6",
            "bytes right behind the head",
            "{o}",
            "\r\nGET / HTTP/1.1\r\n\r\n\0\r\n",
        )
        .origin_is_raw("x")
        .hears(format!("{ESTABLISHED}x"))
        .without_sentinel()
        .gets(format!("{ESTABLISHED}x"))
        .arrives("GET / HTTP/1.1\r\n\r\n\0\r\n"),
        connect("RFC 9110 §9.3.6", "what looks like a request stays inside", "{o}", "\r\n")
            .hears(ESTABLISHED)
            .sends("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n")
            .origin_is_raw("")
            .without_sentinel()
            .gets(ESTABLISHED)
            .arrives("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        connect("RFC 9110 §9.3.6", "another Host does not matter", "{o}", "X: y\r\n\r\n")
            .origin_is_raw("x")
            .hears(format!("{ESTABLISHED}x"))
            .without_sentinel()
            .gets(format!("{ESTABLISHED}x")),
        case("RFC 9112 §3.2", "HTTP/1.0 without a Host", "CONNECT {o} HTTP/1.0\r\n\r\n")
            .origin_is_raw("x")
            .hears(format!("{ESTABLISHED}x"))
            .without_sentinel()
            .gets(format!("{ESTABLISHED}x")),
        case(
            "RFC 9110 §9.3.6",
            "behind a GET on the same connection",
            "GET /health HTTP/1.1\r\nHost: x\r\n\r\nCONNECT {o} HTTP/1.1\r\nHost: {o}\r\n\r\nin",
        )
        .origin_is_raw("out")
        .hears(format!("{HEALTH}{ESTABLISHED}out"))
        .without_sentinel()
        .gets(format!("{HEALTH}{ESTABLISHED}out"))
        .arrives("in"),
    ])
    .await;
}

#[tokio::test]
async fn a_tunnel_needs_a_host_and_a_port() {
    let bad = |name: &'static str, target: &str| {
        connect("RFC 9110 §9.3.6", name, target, "\r\n").refused(400)
    };
    run(vec![
        bad("no port", "127.0.0.1"),
        bad("an empty port", "127.0.0.1:"),
        bad("port 0", "127.0.0.1:0"),
        bad("port 65536", "127.0.0.1:65536"),
        bad("a port of six digits", "127.0.0.1:000{p}"),
        bad("a port that is no number", "127.0.0.1:https"),
        bad("a signed port", "127.0.0.1:+{p}"),
        bad("no host", ":{p}"),
        bad("userinfo", "user@{o}"),
        bad("empty userinfo", "@{o}"),
        bad("a URL", "http://{o}"),
        bad("a URL with a path", "http://{o}/"),
        bad("a path", "/"),
        bad("an authority with a path", "{o}/"),
        bad("an asterisk", "*"),
        bad("a fragment", "{o}#a"),
        bad("a query", "{o}?a"),
        bad("IPv6 without brackets", "::1:{p}"),
        bad("brackets without an end", "[::1:{p}"),
        bad("an IPv6 zone", "[fe80::1%25lo]:{p}"),
        bad("a name in brackets", "[localhost]:{p}"),
        bad("an address that only some would read", "127.1:{p}"),
        bad("bytes beyond ASCII", "\u{e9}.test:443"),
        bad("a backslash", "127.0.0.1\\:{p}"),
    ])
    .await;
}

#[tokio::test]
async fn a_tunnel_has_no_body_and_nothing_behind_its_refusal_is_a_request() {
    run(vec![
        connect("RFC 9110 §9.3.6", "a length", "{o}", "Content-Length: 2\r\n\r\nhi").refused(400),
        connect("RFC 9110 §9.3.6", "a length of 0", "{o}", "Content-Length: 0\r\n\r\n")
            .refused(400),
        connect("RFC 9110 §9.3.6", "chunks", "{o}", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            .refused(400),
        connect("RFC 9110 §9.3.6", "a refused one closes", "127.0.0.1:1", "\r\n")
            .own(403, "http_request_denied")
            .nobody()
            .closes(),
        connect("RFC 9110 §9.3.6", "a method of another case is another method", "{o}", "\r\n")
            .arrives("")
            .without_sentinel()
            .origin_is_raw(""),
        case("RFC 9110 §9.1", "connect in lower case", "connect {o} HTTP/1.1\r\nHost: {o}\r\n\r\n")
            .refused(400),
    ])
    .await;
}
