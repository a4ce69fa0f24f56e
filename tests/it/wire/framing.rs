//! Where a request's head and body end (RFC 9112 §2.2, §5, §6).

use super::Case;
use super::OK_PASSED;
use super::case;
use super::run;

fn post(section: &'static str, name: &'static str, fields: &str) -> Case {
    let head = "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\n";
    case(section, name, format!("{head}{fields}"))
}

#[tokio::test]
async fn a_length_that_is_one_number_frames_the_body() {
    let arrives = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: {{o}}\r\n{fields}Via: 1.1 wire\r\n\r\n{body}")
    };
    run(vec![
        post("RFC 9112 §6.2", "a body", "Content-Length: 5\r\n\r\nhello")
            .arrives(arrives("Content-Length: 5\r\n", "hello"))
            .gets(OK_PASSED)
            .goes_on(),
        post("RFC 9112 §6.2", "no body", "Content-Length: 0\r\n\r\n")
            .arrives(arrives("Content-Length: 0\r\n", ""))
            .gets(OK_PASSED)
            .goes_on(),
        post("RFC 9112 §6.3", "neither length nor coding is no body", "\r\n")
            .arrives(arrives("", ""))
            .gets(OK_PASSED)
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn an_odd_length_is_refused() {
    let bad = |name: &'static str, fields: &str| {
        post("RFC 9112 §6.3", name, &format!("{fields}\r\n\r\n")).refused(400)
    };
    run(vec![
        bad("two lengths", "Content-Length: 5\r\nContent-Length: 6"),
        bad("the same length twice", "Content-Length: 0\r\nContent-Length: 0"),
        bad("a list of lengths", "Content-Length: 0, 0"),
        bad("a sign", "Content-Length: +0"),
        bad("a negative length", "Content-Length: -1"),
        bad("hex", "Content-Length: 0x0"),
        bad("a fraction", "Content-Length: 0.0"),
        bad("a space within", "Content-Length: 0 0"),
        bad("an empty length", "Content-Length:"),
        bad("a length beyond 64 bits", "Content-Length: 18446744073709551616"),
        bad("length and chunked", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        bad("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 0"),
    ])
    .await;
}

#[tokio::test]
async fn a_coding_other_than_chunked_alone_is_refused() {
    let bad = |status: u16, name: &'static str, fields: &str| {
        post("RFC 9112 §6.1", name, &format!("{fields}\r\n\r\n0\r\n\r\n")).refused(status)
    };
    run(vec![
        bad(501, "an unknown coding", "Transfer-Encoding: gzip"),
        bad(501, "chunked is not last", "Transfer-Encoding: chunked, gzip"),
        bad(501, "chunked behind another", "Transfer-Encoding: gzip, chunked"),
        bad(501, "chunked twice", "Transfer-Encoding: chunked, chunked"),
        bad(501, "two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        bad(501, "identity", "Transfer-Encoding: identity"),
        bad(501, "an empty coding", "Transfer-Encoding:"),
        bad(501, "a parameter", "Transfer-Encoding: chunked;q=1"),
        bad(501, "a vertical list", "Transfer-Encoding: , chunked"),
        bad(501, "a quoted coding", "Transfer-Encoding: \"chunked\""),
        bad(400, "a control character in it", "Transfer-Encoding: \x0bchunked"),
        bad(400, "a space before the colon", "Transfer-Encoding : chunked"),
        bad(400, "a folded line", "Transfer-Encoding:\r\n chunked"),
        case(
            "RFC 9112 §6.1",
            "chunked in HTTP/1.0",
            "POST http://{o}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )
        .refused(501),
        post(
            "RFC 9112 §6.1",
            "chunked in any case",
            "Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        )
        .arrives_with("\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .gets(OK_PASSED)
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn lines_end_in_crlf_and_hold_no_control_characters() {
    let bad = |name: &'static str, head: &[u8]| case("RFC 9112 §2.2", name, head).refused(400);
    run(vec![
        bad("a bare LF behind the request line", b"GET http://{o}/ HTTP/1.1\nHost: {o}\r\n\r\n"),
        bad("a bare LF behind a field", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\nA: b\r\n\r\n"),
        bad("bare LFs alone", b"GET http://{o}/ HTTP/1.1\nHost: {o}\n\n"),
        bad("a bare LF as the empty line", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\n"),
        bad("a bare CR in a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\rc\r\n\r\n"),
        bad("a bare CR behind a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\r\r\n\r\n"),
        bad("a bare CR in the request line", b"GET http://{o}/\r HTTP/1.1\r\nHost: {o}\r\n\r\n"),
        bad("NUL in a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\0c\r\n\r\n"),
        bad("NUL in a name", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA\0: b\r\n\r\n"),
        bad("NUL in the target", b"GET http://{o}/\0 HTTP/1.1\r\nHost: {o}\r\n\r\n"),
        bad("DEL in a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\x7f\r\n\r\n"),
        bad("ESC in a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: \x1b[2J\r\n\r\n"),
        bad("a form feed in a value", b"GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\x0c\r\n\r\n"),
        bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        bad("SSH", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        case(
            "RFC 9112 §2.2",
            "an empty line before the request line",
            "\r\nGET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n",
        )
        .arrives_as("GET / HTTP/1.1")
        .goes_on(),
        bad("too many of them", b"\r\n\r\n\r\nGET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
        case(
            "RFC 9112 §2.2",
            "a head in two parts, cut between CR and LF",
            "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r",
        )
        .sends("\n\r")
        .sends("\n")
        .arrives_as("GET / HTTP/1.1")
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_taken_for_whole() {
    run(vec![
        post("RFC 9112 §8", "shorter than its length", "Content-Length: 5\r\n\r\nhel")
            .without_sentinel()
            .arrives_cut("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 5\r\nVia: 1.1 wire\r\n\r\nhel"),
        post("RFC 9112 §8", "without the last chunk", "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
            .without_sentinel()
            .arrives_cut("POST / HTTP/1.1\r\nHost: {o}\r\nVia: 1.1 wire\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"),
        post("RFC 9112 §6.3", "bytes behind it are the next request", "Content-Length: 3\r\n\r\nabcGET http://{o}/b HTTP/1.1\r\nHost: {o}\r\n\r\n")
            .arrives("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3\r\nVia: 1.1 wire\r\n\r\nabcGET /b HTTP/1.1\r\nHost: {o}\r\nVia: 1.1 wire\r\n\r\n")
            .answered(&[200, 200])
            .goes_on(),
        post("RFC 9112 §6.3", "and are judged as such", "Content-Length: 3\r\n\r\nabcGET  http://{o}/b HTTP/1.1\r\nHost: {o}\r\n\r\n")
            .arrives("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 3\r\nVia: 1.1 wire\r\n\r\nabc")
            .answered(&[200, 400])
            .closes(),
    ])
    .await;
}

#[tokio::test]
async fn content_goes_with_any_method() {
    let with = |method: &'static str| {
        case(
            "RFC 9110 §9.3",
            method,
            format!(
                "{method} http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\nContent-Length: 2\r\n\r\nhi"
            ),
        )
        .arrives(format!(
            "{method} / HTTP/1.1\r\nHost: {{o}}\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nhi"
        ))
        .goes_on()
    };
    let chunked = |method: &'static str| {
        case(
            "RFC 9110 §9.3.1",
            method,
            format!(
                "{method} http://{{o}}/ HTTP/1.1\r\nHost: {{o}}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            ),
        )
        .arrives(format!(
            "{method} / HTTP/1.1\r\nHost: {{o}}\r\nVia: 1.1 wire\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        ))
        .goes_on()
    };
    let methods = ["GET", "DELETE", "OPTIONS", "PUT", "PATCH", "BREW"];
    run(methods.map(with).into_iter().chain(methods.map(chunked)).collect()).await;
}
