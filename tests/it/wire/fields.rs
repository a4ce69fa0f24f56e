//! Fields: their syntax, which of them cross, and how they look afterwards (RFC 9110 §5, §7.6).

use super::Case;
use super::OK_PASSED;
use super::case;
use super::get;
use super::run;
use super::run_on;
use crate::support::Origin;
use crate::support::narrows;

fn with(section: &'static str, name: &'static str, fields: &str) -> Case {
    case(section, name, format!("GET http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\n{fields}\r\n"))
}

fn arrived(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {{o}}\r\n{fields}Via: 1.1 wire\r\n\r\n")
}

#[tokio::test]
async fn a_field_line_that_is_none_is_refused() {
    let bad = |section: &'static str, name: &'static str, fields: &str| {
        with(section, name, fields).refused(400)
    };
    run(vec![
        bad("RFC 9112 §5.1", "a space before the colon", "A : b\r\n"),
        bad("RFC 9112 §5.1", "a tab before the colon", "A\t: b\r\n"),
        bad("RFC 9112 §5.2", "a folded line", "A: b\r\n c\r\n"),
        bad("RFC 9112 §5.2", "a line folded by a tab", "A: b\r\n\tc\r\n"),
        bad("RFC 9112 §5", "no colon", "A b\r\n"),
        bad("RFC 9110 §5.1", "an empty name", ": b\r\n"),
        bad("RFC 9110 §5.1", "a name with a space", "A B: c\r\n"),
        bad("RFC 9110 §5.1", "a name in brackets", "(A): b\r\n"),
        bad("RFC 9110 §5.1", "a name beyond ASCII", "\u{e9}: b\r\n"),
        case(
            "RFC 9112 §2.2",
            "a space before the first field",
            "GET http://{o}/ HTTP/1.1\r\n Host: {o}\r\n\r\n",
        )
        .refused(400),
        case(
            "RFC 9112 §2.2",
            "a tab before the first field",
            "GET http://{o}/ HTTP/1.1\r\n\tA: b\r\nHost: {o}\r\n\r\n",
        )
        .refused(400),
    ])
    .await;
}

#[tokio::test]
async fn fields_cross_as_they_were_written() {
    let passes = |section: &'static str, name: &'static str, fields: &str, wanted: &str| {
        with(section, name, fields).arrives(arrived(wanted)).gets(OK_PASSED).goes_on()
    };
    run(vec![
        passes(
            "RFC 9110 §5.1",
            "names keep their case",
            "x-LOWer: 1\r\nACCEPT: */*\r\n",
            "x-LOWer: 1\r\nACCEPT: */*\r\n",
        ),
        passes(
            "RFC 9110 §5.3",
            "lines of one name keep their order and stay apart",
            "A: 1\r\nA: 2\r\nA: 1\r\n",
            "A: 1\r\nA: 2\r\nA: 1\r\n",
        ),
        passes(
            "RFC 9110 §5.3",
            "names keep their order",
            "Z: 1\r\nA: 2\r\nM: 3\r\n",
            "Z: 1\r\nA: 2\r\nM: 3\r\n",
        ),
        passes(
            "RFC 9110 §5.3",
            "also where one is taken out",
            "Z: 1\r\nConnection: x\r\nA: 2\r\nX: 4\r\nM: 3\r\n",
            "Z: 1\r\nA: 2\r\nM: 3\r\n",
        ),
        passes(
            "RFC 9112 §5",
            "white space around a value goes",
            "A:  b \t\r\nC:d\r\n",
            "A: b\r\nC: d\r\n",
        ),
        passes("RFC 9110 §5.5", "an empty value stays", "A:\r\nB: \r\n", "A:\r\nB:\r\n"),
        passes("RFC 9110 §5.5", "a tab within a value stays", "A: b\tc\r\n", "A: b\tc\r\n"),
        passes("RFC 9110 §5.5", "bytes beyond ASCII stay", "A: \u{e9}\r\n", "A: \u{e9}\r\n"),
        passes(
            "RFC 9110 §7.7",
            "codings and ranges are the ends' own",
            "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n",
            "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n",
        ),
        passes(
            "RFC 9110 §11.6.2",
            "credentials for the origin",
            "Authorization: Basic dTpw\r\n",
            "Authorization: Basic dTpw\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_concerns_a_hop_ends_there() {
    let strips = |section: &'static str, name: &'static str, fields: &str| {
        with(section, name, &format!("A: 1\r\n{fields}B: 2\r\n"))
            .arrives(arrived("A: 1\r\nB: 2\r\n"))
            .gets(OK_PASSED)
            .goes_on()
    };
    run(vec![
        strips("RFC 9110 §7.6.1", "Connection", "Connection: keep-alive\r\n"),
        strips("RFC 9110 §7.6.1", "what Connection names", "Connection: x-a, X-B\r\nX-A: 1\r\nx-b: 2\r\n"),
        strips("RFC 9110 §7.6.1", "what a second Connection names, ahead of it", "X-A: 1\r\nConnection: keep-alive\r\nConnection: ,, x-a\r\n"),
        strips("RFC 9110 §7.6.1", "Keep-Alive, unnamed", "Keep-Alive: timeout=5\r\n"),
        strips("RFC 9110 §7.6.1", "Proxy-Connection", "Proxy-Connection: keep-alive\r\n"),
        strips("RFC 9110 §7.6.1", "TE that is not of trailers", "Connection: TE\r\nTE: gzip;q=1\r\n"),
        strips("RFC 9110 §7.8", "Upgrade that Connection does not name", "Upgrade: websocket\r\n"),
        strips("RFC 9113 §3.1", "an upgrade to HTTP/2", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        strips("RFC 9110 §11.7.2", "Proxy-Authorization", "Proxy-Authorization: Basic dTpw\r\n"),
        strips("RFC 9110 §11.7", "Proxy-Authenticate in a request", "Proxy-Authenticate: Basic\r\n"),
        with("RFC 9110 §7.6.1", "Connection cannot take out Host or Via", "Via: 1.1 a\r\nConnection: host, via\r\n")
            .arrives("GET / HTTP/1.1\r\nHost: {o}\r\nVia: 1.1 a\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        case("RFC 9110 §7.6.1", "nor the length", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 2\r\nConnection: content-length\r\n\r\nhi")
            .arrives("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nhi")
            .goes_on(),
        with("RFC 9110 §10.1.4", "TE: trailers is said anew", "TE: gzip, trailers\r\nA: 1\r\n")
            .arrives("GET / HTTP/1.1\r\nHost: {o}\r\nA: 1\r\nTE: trailers\r\nConnection: te\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn what_concerns_a_hop_of_the_response_ends_there_too() {
    let strips = |section: &'static str, name: &'static str, fields: &str| {
        get(section, name)
            .origin_says(format!(
                "HTTP/1.1 200 OK\r\nA: 1\r\n{fields}B: 2\r\nContent-Length: 2\r\n\r\nok"
            ))
            .gets("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nok")
            .goes_on()
    };
    run(vec![
        strips("RFC 9110 §7.6.1", "nothing to take out", ""),
        strips("RFC 9110 §7.6.1", "Connection and what it names", "Connection: X-A, keep-alive\r\nX-A: 1\r\n"),
        strips("RFC 9110 §7.6.1", "Connection: close is the origin's own", "Connection: close\r\n"),
        strips("RFC 9110 §7.6.1", "Keep-Alive", "Keep-Alive: timeout=5\r\n"),
        strips("RFC 9110 §7.6.1", "Proxy-Connection", "Proxy-Connection: close\r\n"),
        strips("RFC 9110 §7.8", "Upgrade", "Upgrade: h2c\r\nConnection: upgrade\r\n"),
        strips("RFC 9110 §11.7.1", "Proxy-Authenticate", "Proxy-Authenticate: Basic realm=x\r\n"),
        strips("RFC 9110 §11.7.3", "Proxy-Authentication-Info", "Proxy-Authentication-Info: x\r\n"),
        get("RFC 9110 §15.5.8", "a 407 of an origin is none of ours")
            .origin_says("HTTP/1.1 407 Pay Up\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nok")
            .own(502, "http_protocol_error")
            .gets_without("Proxy-Authenticate")
            .goes_on(),
        get("RFC 9110 §6.6.1", "Date, and all else, stays as it was")
            .origin_says("HTTP/1.1 203 Told So\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nSet-Cookie: a\r\nSERVER: x\r\nSet-cookie: b\r\nContent-Length: 2\r\n\r\nok")
            .gets("HTTP/1.1 203 Told So\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nSet-Cookie: a\r\nSet-cookie: b\r\nSERVER: x\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nok")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn via_grows_and_a_loop_is_seen() {
    run(vec![
        with("RFC 9110 §7.6.3", "behind those that are there, lines apart", "Via: 1.0 fred, 1.1 p\r\nVia: 1.1 q\r\n")
            .arrives("GET / HTTP/1.1\r\nHost: {o}\r\nVia: 1.0 fred, 1.1 p\r\nVia: 1.1 q\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        get("RFC 9110 §7.6.3", "the version is the message's")
            .origin_says("HTTP/1.0 200 OK\r\nVia: 1.1 a\r\nContent-Length: 2\r\n\r\nok")
            .gets("HTTP/1.1 200 OK\r\nVia: 1.1 a\r\nVia: 1.0 wire\r\nContent-Length: 2\r\n\r\nok")
            .goes_on(),
        with("RFC 9110 §7.6.3", "our own name", "Via: 1.1 wire\r\n")
            .own(502, "proxy_loop_detected")
            .nobody()
            .goes_on(),
        with("RFC 9110 §7.6.3", "our own name among others", "Via: 1.1 a\r\nVia: 1.0 b (x), HTTP/1.1 WIRE (y)\r\n")
            .own(502, "proxy_loop_detected")
            .nobody()
            .goes_on(),
        with("RFC 9110 §7.6.3", "a name that is only like ours", "Via: 1.1 wire2\r\n")
            .answered(&[200])
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_head_has_bounds() {
    let fields = |count: usize| "A: b\r\n".repeat(count);
    let field = |length: usize| format!("A: {}\r\n", "b".repeat(length));
    let setup = narrows().flags("--max-head-size 2KiB --max-fields 10 --max-request-line 1KiB");
    run_on(
        setup,
        vec![
            with("RFC 6585 §5", "as many fields as are allowed", &fields(9))
                .answered(&[200])
                .goes_on(),
            with("RFC 6585 §5", "one more", &fields(10)).refused(431),
            with("RFC 6585 §5", "a head as long as is allowed", &field(1900))
                .answered(&[200])
                .goes_on(),
            with("RFC 6585 §5", "a longer one", &field(2048)).refused(431),
            case(
                "RFC 6585 §5",
                "one without an end",
                format!("GET http://{{o}}/ HTTP/1.1\r\n{}", field(2048)),
            )
            .refused(431),
            case(
                "RFC 9110 §15.5.15",
                "a request line longer than is allowed",
                format!("GET http://{{o}}/{} HTTP/1.1\r\n", "a".repeat(1024)),
            )
            .refused(414),
        ],
    )
    .await;
    let setup = narrows().flags("--max-fields 500 --max-head-size 200KiB");
    run_on(
        setup,
        vec![
            with("RFC 6585 §5", "more fields than usual, where they are allowed", &fields(499))
                .arrives(arrived(&fields(499)))
                .goes_on(),
            with("RFC 6585 §5", "one more", &fields(500)).refused(431),
            with("RFC 6585 §5", "a longer head than usual", &field(190_000))
                .arrives(arrived(&field(190_000)))
                .goes_on(),
        ],
    )
    .await;
    run(vec![
        with("RFC 6585 §5", "100 fields", &fields(99)).arrives(arrived(&fields(99))).goes_on(),
        with("RFC 6585 §5", "101 fields", &fields(100)).refused(431),
        with("RFC 6585 §5", "a head of more than 64 KiB", &field(66_000)).refused(431),
    ])
    .await;
}

#[tokio::test]
async fn each_bound_that_is_met_is_counted() {
    let flags = "--max-head-size 2KiB --max-fields 5 --max-request-line 1KiB --max-interim 1 \
                 --max-chunk-extensions 2 --max-trailers 2";
    let hint = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let origin = Origin::raw(move |mut connection| async move {
        while let Ok(Some(_)) = connection.head().await {
            connection.send(hint.repeat(2)).await.unwrap();
        }
    });
    let proxy = narrows().flags(flags).start().await;
    let head = format!("POST {} HTTP/1.1\r\nHost: h\r\n", origin.url("/"));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for (bound, sent) in [
        ("head_size", format!("{head}A: {}\r\n\r\n", "b".repeat(2048))),
        ("fields", format!("{head}{}\r\n", "A: b\r\n".repeat(5))),
        ("request_line", "A".repeat(1100)),
        ("interim", format!("{head}\r\n")),
        ("chunk_extensions", format!("{chunked}1;abc\r\nx\r\n0\r\n\r\n")),
        ("trailers", format!("{chunked}0\r\nA: b\r\n\r\n")),
    ] {
        let mut client = proxy.client().await;
        client.send(sent).await;
        proxy.wait_until_metric("narrows_bounds_met_total", &[("bound", bound)], 1.0).await;
    }
    assert!((proxy.metric("narrows_bounds_met_total", &[]).await - 6.0).abs() < 1e-9);
}
