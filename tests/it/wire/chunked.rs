//! Chunked bodies: chunks, extensions, trailers (RFC 9112 §7.1).

use super::Case;
use super::OK_PASSED;
use super::case;
use super::run;
use super::run_on;
use crate::support::narrows;

const CHUNKED: &str = "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\n";

fn post(section: &'static str, name: &'static str, rest: &str) -> Case {
    case(section, name, format!("{CHUNKED}{rest}"))
}

/// What arrives of such a request.
fn arrived(fields: &str, body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: {{o}}\r\n{fields}Via: 1.1 wire\r\n\
         Transfer-Encoding: chunked\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn chunks_arrive_as_content_and_not_as_they_were_written() {
    let passes = |name: &'static str, body: &str, wanted: &str| {
        post("RFC 9112 §7.1", name, &format!("\r\n{body}"))
            .arrives(arrived("", wanted))
            .gets(OK_PASSED)
            .goes_on()
    };
    run(vec![
        passes("no content", "0\r\n\r\n", "0\r\n\r\n"),
        passes("one chunk", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        passes(
            "a size in hex, of any case",
            "A\r\n0123456789\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
        ),
        passes("zeros before a size", "00005\r\nhello\r\n000\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        passes(
            "extensions are dropped",
            "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        passes(
            "chunks that look like a message",
            "8\r\n0\r\n\r\nGET\r\n0\r\n\r\n",
            "8\r\n0\r\n\r\nGET\r\n0\r\n\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_request_and_the_connection() {
    let bad = |name: &'static str, body: &[u8]| {
        let head = format!("{CHUNKED}\r\n");
        case("RFC 9112 §7.1", name, [head.as_bytes(), body].concat())
            .own(400, "http_request_error")
            .closes()
            .ends()
            .arrives_without("\r\n0\r\n\r\n")
    };
    run(vec![
        bad("a size that is no number", b"g\r\nhello\r\n0\r\n\r\n"),
        bad("no size", b"\r\nhello\r\n0\r\n\r\n"),
        bad("a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
        bad("a size beyond 60 bits", b"1000000000000000\r\nhello\r\n0\r\n\r\n"),
        bad("a size beyond 64 bits that would be 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad("a space behind a size", b"5 \r\nhello\r\n0\r\n\r\n"),
        bad("a space before a size", b" 5\r\nhello\r\n0\r\n\r\n"),
        bad("a bare LF behind a size", b"5\nhello\r\n0\r\n\r\n"),
        bad("a bare LF behind a chunk", b"5\r\nhello\n0\r\n\r\n"),
        bad("a chunk longer than its size", b"5\r\nhello!\r\n0\r\n\r\n"),
        bad("a chunk shorter than its size", b"5\r\nhell\r\n0\r\n\r\n"),
        bad("a bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
        bad("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        bad("NUL in an extension", b"5;a\0\r\nhello\r\n0\r\n\r\n"),
        bad("a bare LF in the trailers", b"0\r\nA: b\nC: d\r\n\r\n"),
        bad("a bare LF at the end", b"0\r\n\n"),
    ])
    .await;
}

#[tokio::test]
async fn trailers_that_were_announced_pass_unless_they_frame_route_or_authenticate() {
    let with = |name: &'static str, announced: &str, trailers: &str| {
        post(
            "RFC 9112 §7.1.2",
            name,
            &format!("Trailer: {announced}\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n"),
        )
        .gets(OK_PASSED)
        .goes_on()
    };
    let none = arrived("", "1\r\nx\r\n0\r\n\r\n");
    run(vec![
        with("a sum", "X-Sum", "X-Sum: 1\r\n")
            .arrives(arrived("Trailer: X-Sum\r\n", "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n")),
        with("one that was not announced", "X-Sum", "X-Other: 1\r\n")
            .arrives(arrived("Trailer: X-Sum\r\n", "1\r\nx\r\n0\r\n\r\n")),
        with("a length", "Content-Length", "Content-Length: 9\r\n").arrives(none.clone()),
        with("a coding", "Transfer-Encoding", "Transfer-Encoding: gzip\r\n").arrives(none.clone()),
        with("a host", "Host", "Host: other\r\n").arrives(none.clone()),
        with(
            "credentials",
            "Authorization, Cookie, Proxy-Authorization",
            "Authorization: x\r\nCookie: a=b\r\n",
        )
        .arrives(none.clone()),
        with("an option of the connection", "Connection, Upgrade", "Connection: close\r\n")
            .arrives(none.clone()),
        with("a condition", "If-Match", "If-Match: *\r\n").arrives(none.clone()),
        with("Via", "Via", "Via: 1.1 x\r\n").arrives(none.clone()),
        with("the good among the bad", "Host, X-Sum", "Host: x\r\nX-Sum: 1\r\n")
            .arrives(arrived("Trailer: X-Sum\r\n", "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n")),
        post(
            "RFC 9112 §7.1.2",
            "trailers that nobody announced are dropped",
            "\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .arrives(none)
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn trailers_of_a_response_pass_to_clients_that_take_them() {
    let says = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n";
    let get = |name: &'static str, fields: &str| {
        case(
            "RFC 9110 §6.5.1",
            name,
            format!("GET http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\n{fields}\r\n"),
        )
        .origin_says(says)
    };
    let head = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nVia: 1.1 wire\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    run(vec![
        get("TE: trailers", "TE: trailers\r\nConnection: TE\r\n")
            .gets(format!("{head}X-Sum: 1\r\n\r\n"))
            .goes_on(),
        get("without TE", "").gets(format!("{head}\r\n")).goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn extensions_and_trailers_have_bounds() {
    let setup = narrows().flags("--max-chunk-extensions 10 --max-trailers 8");
    run_on(
        setup,
        vec![
            post(
                "RFC 9112 §7.1.1",
                "as many bytes of extensions as are allowed",
                "\r\n1;01234\r\nx\r\n1;56789\r\ny\r\n0\r\n\r\n",
            )
            .answered(&[200])
            .goes_on(),
            post("RFC 9112 §7.1.1", "one more", "\r\n1;01234\r\nx\r\n1;567890\r\ny\r\n0\r\n\r\n")
                .own(400, "http_request_error")
                .gets_with("more bytes of extensions than are allowed")
                .arrives_without("\r\n0\r\n")
                .closes(),
            post(
                "RFC 9110 §6.5",
                "as many bytes of trailers as are allowed",
                "\r\n0\r\nA: b\r\nC: d\r\n\r\n",
            )
            .answered(&[200])
            .goes_on(),
            post("RFC 9110 §6.5", "one more", "\r\n0\r\nA: b\r\nC: de\r\n\r\n")
                .own(400, "http_request_error")
                .gets_with("trailer section is longer than is allowed")
                .arrives_without("\r\n0\r\n")
                .closes(),
        ],
    )
    .await;
}
