//! What an origin may say, and what becomes of what it may not (RFC 9112 §4, §5, §6.3, §7.1, §8, §9).

use super::Case;
use super::OK;
use super::OK_PASSED;
use super::case;
use super::get;
use super::run;
use super::run_on;
use crate::support::narrows;

const PROTOCOL: &str = "http_protocol_error";
const CODING: &str = "http_response_transfer_coding";
const SIZE: &str = "http_response_header_section_size";

/// A GET that the origin answers so.
fn answer(section: &'static str, name: &'static str, bytes: impl AsRef<[u8]>) -> Case {
    get(section, name).origin_says(bytes)
}

/// A GET whose 200 has these fields and nothing behind them.
fn fields(section: &'static str, name: &'static str, fields: &str) -> Case {
    answer(section, name, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"))
}

/// A request with this line and no field but Host, whose answer is this.
fn request(section: &'static str, name: &'static str, line: &str, bytes: impl AsRef<[u8]>) -> Case {
    case(section, name, format!("{line}\r\nHost: {{o}}\r\n\r\n")).origin_says(bytes)
}

#[tokio::test]
async fn an_answer_that_is_no_status_line_is_502() {
    let bad = |name: &'static str, bytes: &str| {
        answer("RFC 9112 §4", name, bytes).own(502, PROTOCOL).goes_on()
    };
    run(vec![
        bad("a page without a head (HTTP/0.9)", "<html>hello</html>"),
        bad("a line that is no status line", "hello\r\n\r\n"),
        bad("another protocol", "ICY 200 OK\r\n\r\n"),
        bad("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/11.1", "HTTP/11.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("small letters", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("an empty line before it", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of letters", "HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"),
        bad("two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a tab", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        bad("a bare CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
        bad("NUL in the reason", "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
        bad("h2", "\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\x01\0\0"),
        bad("a TLS alert", "\x15\x03\x01\0\x02\x02\x46"),
    ])
    .await;
}

#[tokio::test]
async fn status_and_reason_are_passed_on() {
    let rest = "Content-Length: 0\r\n\r\n";
    let passed = "Via: 1.1 wire\r\nContent-Length: 0\r\n\r\n";
    let row = |name: &'static str, line: &str| {
        answer("RFC 9112 §4", name, format!("{line}\r\n{rest}"))
            .gets(format!("{line}\r\n{passed}"))
            .goes_on()
    };
    run(vec![
        row("a reason of one's own", "HTTP/1.1 200 Fine, thanks"),
        row("no reason", "HTTP/1.1 200 "),
        row("a status without a name", "HTTP/1.1 299 x"),
        row("a status beyond 599", "HTTP/1.1 999 Request denied"),
        answer("RFC 9112 §4", "a reason that is not ASCII is left out", {
            [b"HTTP/1.1 404 Nix d\xe9\r\n", rest.as_bytes()].concat()
        })
        .gets(format!("HTTP/1.1 404 \r\n{passed}"))
        .goes_on(),
        answer("RFC 9112 §4", "no space behind the status", format!("HTTP/1.1 200\r\n{rest}"))
            .gets(format!("HTTP/1.1 200 \r\n{passed}"))
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_field_that_could_be_read_in_two_ways_is_502() {
    let bad = |name: &'static str, line: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n");
        answer("RFC 9112 §5", name, head).own(502, PROTOCOL).goes_on()
    };
    run(vec![
        bad("a bare LF", "A: b\n"),
        bad("a bare CR", "A: b\rc\r\n"),
        bad("a bare CR before the name", "\rA: b\r\n"),
        bad("NUL in a value", "A: b\0c\r\n"),
        bad("NUL in a name", "A\0: b\r\n"),
        bad("DEL", "A: b\x7fc\r\n"),
        bad("a space before the colon", "A : b\r\n"),
        bad("a tab before the colon", "A\t: b\r\n"),
        bad("no colon", "A b\r\n"),
        bad("no name", ": b\r\n"),
        bad("a name that is no token", "A(b): c\r\n"),
        bad("a folded line", "A: b\r\n c\r\n"),
        bad("a folded line with a tab", "A: b\r\n\tc\r\n"),
        bad("a folded line at first", " A: b\r\n"),
        bad("a hidden length", "X: y\nContent-Length: 5\r\n"),
        answer("RFC 9112 §2.2", "an end of bare LFs", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n")
            .own(502, PROTOCOL)
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn sound_fields_pass_as_they_came() {
    let sent = b"HTTP/1.1 200 OK\r\nServer:none\r\nx-Case: a\r\nEmpty:\r\nSet-Cookie: 1\r\n\
        Wide: \t b c \t\r\nSet-Cookie: 2\r\nBytes: \xe9\xff\r\nContent-Length: 0\r\n\r\n";
    run(vec![
        answer("RFC 9112 §5.1", "case, order within a name, bytes", sent)
            .gets_with("x-Case: a\r\n")
            .gets_with("Set-Cookie: 1\r\nSet-Cookie: 2\r\n")
            .gets_with("Wide: b c\r\n")
            .gets_with("Empty: \r\n")
            .gets_with(b"Bytes: \xe9\xff\r\n")
            .gets_with("Server: none\r\n")
            .goes_on(),
        fields("RFC 9110 §6.6.1", "Date is not touched", "Date: then\r\nContent-Length: 0")
            .gets_with("Date: then\r\n")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn an_odd_length_or_coding_is_502() {
    let bad = |name: &'static str, lines: &str, word: &'static str| {
        let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        answer("RFC 9112 §6.3", name, head).own(502, word).goes_on()
    };
    let both = "Content-Length: 15\r\nTransfer-Encoding: chunked";
    run(vec![
        bad("length and chunked", both, PROTOCOL),
        bad("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 15", PROTOCOL),
        bad("two lengths", "Content-Length: 5\r\nContent-Length: 15", PROTOCOL),
        bad("the same length twice", "Content-Length: 15\r\ncontent-length: 15", PROTOCOL),
        bad("a list of lengths", "Content-Length: 15, 15", PROTOCOL),
        bad("a sign", "Content-Length: +15", PROTOCOL),
        bad("a negative length", "Content-Length: -15", PROTOCOL),
        bad("hex", "Content-Length: 0xf", PROTOCOL),
        bad("a space within", "Content-Length: 1 5", PROTOCOL),
        bad("an empty length", "Content-Length:", PROTOCOL),
        bad("words", "Content-Length: many", PROTOCOL),
        bad("a length beyond 64 bits", "Content-Length: 18446744073709551616", PROTOCOL),
        bad("a coding before chunked", "Transfer-Encoding: gzip, chunked", CODING),
        bad("a coding behind chunked", "Transfer-Encoding: chunked, gzip", CODING),
        bad("another coding alone", "Transfer-Encoding: gzip", CODING),
        bad("identity", "Transfer-Encoding: identity", CODING),
        bad("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", CODING),
        bad("chunked in a list twice", "Transfer-Encoding: chunked, chunked", CODING),
        bad("a parameter", "Transfer-Encoding: chunked;q=1", CODING),
        bad("a name that begins like it", "Transfer-Encoding: xchunked", CODING),
        bad("a control before chunked", "Transfer-Encoding: \x0bchunked", PROTOCOL),
        bad("an empty coding", "Transfer-Encoding:", CODING),
        answer(
            "RFC 9112 §6.1",
            "chunked in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .own(502, CODING)
        .goes_on(),
        request("RFC 9112 §6.3", "both in an answer to HEAD", "HEAD http://{o}/ HTTP/1.1", {
            format!("HTTP/1.1 200 OK\r\n{both}\r\n\r\n")
        })
        .gets_with("HTTP/1.1 502 ")
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_body_ends_where_its_head_says() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let passed = "HTTP/1.1 200 OK\r\nVia: 1.1 wire\r\nTransfer-Encoding: chunked\r\n\r\n";
    run(vec![
        answer("RFC 9112 §6.2", "a length", OK).gets(OK_PASSED).goes_on(),
        answer("RFC 9112 §7.1", "chunks", format!("{chunked}2\r\nok\r\n0\r\n\r\n"))
            .gets(format!("{passed}2\r\nok\r\n0\r\n\r\n"))
            .goes_on(),
        answer("RFC 9112 §7.1.1", "chunk extensions end here", {
            format!("{chunked}0002;a=\"b\"\r\nok\r\n000;c\r\n\r\n")
        })
        .gets(format!("{passed}2\r\nok\r\n0\r\n\r\n"))
        .goes_on(),
        answer("RFC 9112 §6.3", "the connection's end", "HTTP/1.1 200 OK\r\n\r\nok")
            .origin_closes()
            .gets(format!("{passed}2\r\nok\r\n0\r\n\r\n"))
            .goes_on(),
        answer("RFC 9112 §6.3", "the end of HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok")
            .origin_closes()
            .gets(format!("{}2\r\nok\r\n0\r\n\r\n", passed.replace("Via: 1.1", "Via: 1.0")))
            .goes_on(),
        answer(
            "RFC 9112 §6.2",
            "a length in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .gets(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.0 wire\r\n\r\nok")
        .goes_on(),
        request("RFC 9112 §7.1", "chunks to a client of HTTP/1.0", "GET http://{o}/ HTTP/1.0", {
            format!("{chunked}2\r\nok\r\n0\r\n\r\n")
        })
        .waits()
        .gets_with("\r\n\r\nok")
        .gets_without("chunked"),
    ])
    .await;
}

#[tokio::test]
async fn what_has_no_body_ends_with_its_head() {
    let head = "HEAD http://{o}/ HTTP/1.1";
    let get = "GET http://{o}/ HTTP/1.1";
    run(vec![
        request(
            "RFC 9112 §6.3",
            "HEAD keeps the length",
            head,
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        )
        .gets("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nVia: 1.1 wire\r\n\r\n")
        .goes_on(),
        request("RFC 9112 §6.3", "HEAD with a body", head, OK)
            .gets("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        request(
            "RFC 9112 §6.3",
            "HEAD of chunks",
            head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .gets_with("HTTP/1.1 200 OK\r\n")
        .gets_without("0\r\n\r\n")
        .goes_on(),
        request(
            "RFC 9110 §15.4.5",
            "304 goes without its length",
            get,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        )
        .gets("HTTP/1.1 304 Not Modified\r\nVia: 1.1 wire\r\n\r\n")
        .goes_on(),
        request("RFC 9110 §15.4.5", "304 with a body", get, "HTTP/1.1 304 Not Modified\r\n\r\nok")
            .gets("HTTP/1.1 304 Not Modified\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        request(
            "RFC 9110 §8.6",
            "204 with a length",
            get,
            "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
        )
        .gets("HTTP/1.1 204 No Content\r\nVia: 1.1 wire\r\n\r\n")
        .goes_on(),
        request("RFC 9110 §15.3.5", "204 with a body", get, "HTTP/1.1 204 No Content\r\n\r\nok")
            .gets("HTTP/1.1 204 No Content\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        request(
            "RFC 9112 §6.1",
            "204 with chunks",
            get,
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .gets("HTTP/1.1 204 No Content\r\nVia: 1.1 wire\r\n\r\n")
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys_answer() {
    let evil = "HTTP/1.1 200 Evil\r\nContent-Length: 4\r\n\r\nevil";
    let ok = std::str::from_utf8(OK).unwrap();
    let row = |name: &'static str, bytes: String| {
        answer("RFC 9112 §6.3", name, bytes).gets_without("vil").goes_on()
    };
    run(vec![
        row("a second answer", format!("{ok}{evil}")).gets(OK_PASSED),
        row("an empty line", format!("{ok}\r\n")).gets(OK_PASSED),
        row("more than the length", format!("{ok}evil")).gets(OK_PASSED),
        row("behind the last chunk", {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}")
        }),
        row("behind a 204", format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")),
        row(
            "in the body of a 204",
            format!("HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n{evil}"),
        ),
        row("behind a 304", format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}")),
        row(
            "behind no length at all",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}"),
        ),
        request("RFC 9112 §6.3", "in an answer to HEAD", "HEAD http://{o}/ HTTP/1.1", {
            format!("HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n{evil}")
        })
        .gets_without("vil")
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to() {
    let old = "GET http://{o}/ HTTP/1.0";
    let new = "GET http://{o}/ HTTP/1.1";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n";
    let until = "HTTP/1.1 200 OK\r\n\r\nshort";
    run(vec![
        request("RFC 9112 §8", "a length, ended", new, length).origin_closes().cut(),
        request("RFC 9112 §8", "a length, reset", new, length).origin_resets().cut(),
        request("RFC 9112 §8", "a length, ended, HTTP/1.0", old, length).origin_closes().cut(),
        request("RFC 9112 §8", "chunks, ended", new, chunked)
            .origin_closes()
            .cut()
            .gets_without("\r\n0\r\n"),
        request("RFC 9112 §8", "chunks, reset", new, chunked)
            .origin_resets()
            .cut()
            .gets_without("\r\n0\r\n"),
        request("RFC 9112 §8", "chunks, ended, HTTP/1.0", old, chunked).origin_closes().cut(),
        request("RFC 9112 §8", "chunks, ended within a chunk", new, format!("{chunked}5\r\nsh"))
            .origin_closes()
            .cut()
            .gets_without("\r\n0\r\n"),
        request("RFC 9112 §8", "chunks, ended within the last", new, format!("{chunked}0\r\n"))
            .origin_closes()
            .cut()
            .gets_without("\r\n0\r\n"),
        request("RFC 9112 §8", "the connection's end, reset", new, until)
            .origin_resets()
            .cut()
            .gets_without("\r\n0\r\n"),
        request("RFC 9112 §8", "the connection's end, reset, HTTP/1.0", old, until)
            .origin_resets()
            .cut(),
    ])
    .await;
}

#[tokio::test]
async fn a_malformed_chunk_never_ends_well() {
    let bad = |name: &'static str, chunks: &str| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        answer("RFC 9112 §7.1", name, format!("{head}{chunks}")).own(502, CODING).goes_on()
    };
    run(vec![
        bad("no number", "x\r\nok\r\n0\r\n\r\n"),
        bad("no size", "\r\nok\r\n0\r\n\r\n"),
        bad("a sign", "+2\r\nok\r\n0\r\n\r\n"),
        bad("0x", "0x2\r\nok\r\n0\r\n\r\n"),
        bad("a space behind the size", "2 \r\nok\r\n0\r\n\r\n"),
        bad("a space before the size", " 2\r\nok\r\n0\r\n\r\n"),
        bad("a bare LF behind the size", "2\nok\r\n0\r\n\r\n"),
        bad("a bare LF behind the data", "2\r\nok\n0\r\n\r\n"),
        bad("a bare CR", "2\rok\r\n0\r\n\r\n"),
        bad("a bare LF in an extension", "2;a\nb\r\nok\r\n0\r\n\r\n"),
        bad("more data than the size", "2\r\noktoo\r\n0\r\n\r\n"),
        bad("a size beyond 60 bits", "1000000000000000\r\nok\r\n0\r\n\r\n"),
        bad("a bare LF at the end", "2\r\nok\r\n0\r\n\n"),
        bad("a bare LF in the trailers", "2\r\nok\r\n0\r\nA: b\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_before_the_head_does_is_502() {
    let row = |name: &'static str, bytes: &str| answer("RFC 9112 §9.5", name, bytes);
    run(vec![
        row("nothing, ended", "").origin_closes().own(502, "connection_terminated").goes_on(),
        row("nothing, reset", "").origin_resets().own(502, "connection_terminated").goes_on(),
        row("within the status line", "HTTP/1.1 2")
            .origin_closes()
            .own(502, "http_response_incomplete")
            .goes_on(),
        row("within a field", "HTTP/1.1 200 OK\r\nContent-Le")
            .origin_closes()
            .own(502, "http_response_incomplete")
            .goes_on(),
        row("before the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n")
            .origin_closes()
            .own(502, "http_response_incomplete")
            .goes_on(),
        row("behind a 1xx", "HTTP/1.1 103 Early Hints\r\n\r\n")
            .origin_closes()
            .gets_with("HTTP/1.1 502 ")
            .goes_on(),
        row("HTTP/0.9 that ends", "hello").origin_closes().own(502, PROTOCOL).goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn interim_answers_are_held_to_the_rules_too() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let ok = std::str::from_utf8(OK).unwrap();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let wish = "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n";
    run(vec![
        answer("RFC 9110 §15.2", "103 and the answer in one", format!("{early}{ok}"))
            .gets(
                [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 wire\r\n\r\n", OK_PASSED]
                    .concat(),
            )
            .goes_on(),
        answer("RFC 9110 §15.2.1", "100 unasked", format!("HTTP/1.1 100 Continue\r\n\r\n{ok}"))
            .gets([b"HTTP/1.1 100 Continue\r\nVia: 1.1 wire\r\n\r\n", OK_PASSED].concat())
            .goes_on(),
        answer("RFC 9110 §8.6", "1xx with a length", {
            format!("HTTP/1.1 103 x\r\nContent-Length: 44\r\n\r\n{ok}")
        })
        .own(502, PROTOCOL)
        .goes_on(),
        answer("RFC 9112 §6.1", "1xx with chunks", {
            format!("HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{ok}")
        })
        .own(502, PROTOCOL)
        .goes_on(),
        answer("RFC 9110 §15.2.2", "101 unasked", format!("{switch}{ok}"))
            .own(502, PROTOCOL)
            .goes_on(),
        case("RFC 9110 §7.8", "101 to something else", wish)
            .origin_says(format!("{switch}{ok}"))
            .own(502, "http_upgrade_failed")
            .goes_on(),
        case("RFC 9110 §7.8", "101 to nothing", wish)
            .origin_says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n")
            .own(502, "http_upgrade_failed")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn what_concerns_the_connection_to_the_origin_ends_here() {
    let row = |name: &'static str, line: &str| {
        fields("RFC 9110 §7.6.1", name, &format!("{line}\r\nContent-Length: 0"))
            .gets("HTTP/1.1 200 OK\r\nVia: 1.1 wire\r\nContent-Length: 0\r\n\r\n")
            .goes_on()
    };
    run(vec![
        row("Connection: close", "Connection: close"),
        row("Connection: keep-alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5"),
        row("Proxy-Connection", "Proxy-Connection: keep-alive"),
        row("what Connection names", "Connection: X-Hop\r\nX-Hop: y"),
        row("Upgrade", "Connection: upgrade\r\nUpgrade: h2c"),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_early_arrives_though_the_origin_reads_no_more() {
    let head = "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 400000\r\n\r\n";
    let post = || case("RFC 9112 §9.5", "early", head.to_owned() + &"x".repeat(200_000));
    let no = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let reset = || post().origin_says_early(no).origin_resets().waits().answered(&[413]);
    let mut rows = vec![
        post().origin_says_early(no).origin_closes().waits().answered(&[413]),
        post().origin_says_early("hello\r\n\r\n").origin_resets().waits().gets_with(PROTOCOL),
    ];
    // Whether the write or the read hears of it first is chance.
    rows.extend((0..20).map(|_| reset()));
    run(rows).await;
}

#[tokio::test]
async fn heads_are_bounded_by_size_and_number() {
    let bounds = "--max-response-head 1024 --max-response-fields 4";
    let whole = |length: usize| {
        let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: ";
        format!("{start}{}\r\n\r\n", "a".repeat(length - start.len() - 4))
    };
    let many = |count: usize| {
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(count - 1))
    };
    let row = |name: &'static str, bytes: String| answer("RFC 9110 §5.4", name, bytes);
    run_on(
        narrows().flags(bounds),
        vec![
            row("as long as allowed", whole(1024)).answered(&[200]).goes_on(),
            row("a byte longer", whole(1025)).own(502, SIZE).goes_on(),
            row("much longer", whole(100_000)).own(502, SIZE).goes_on(),
            row("without an end", whole(100_000).trim_end().to_owned()).own(502, SIZE).goes_on(),
            row("as many fields as allowed", many(4)).answered(&[200]).goes_on(),
            row("one more", many(5)).own(502, SIZE).goes_on(),
        ],
    )
    .await;
    run_on(
        narrows().flags("--max-response-fields 300"),
        vec![
            row("more fields than hyper takes by itself", many(300)).answered(&[200]).goes_on(),
            row("one more", many(301)).own(502, SIZE).goes_on(),
        ],
    )
    .await;
    run(vec![
        row("by default 64 KiB", whole(65_536)).answered(&[200]).goes_on(),
        row("and a byte", whole(65_537)).own(502, SIZE).goes_on(),
        row("by default 100 fields", many(100)).answered(&[200]).goes_on(),
        row("and one", many(101)).own(502, SIZE).goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn what_stands_beside_the_data_of_chunks_is_bounded() {
    let bounds = "--max-response-chunk-extensions 8 --max-response-trailers 8";
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let row =
        |name: &'static str, chunks: &str| answer("RFC 9112 §7.1", name, format!("{head}{chunks}"));
    run_on(
        narrows().flags(bounds),
        vec![
            row("extensions", "1;2345\r\na\r\n1;6789\r\nb\r\n0\r\n\r\n").answered(&[200]).goes_on(),
            row("more", "1;2345\r\na\r\n1;67890\r\nb\r\n0\r\n\r\n").own(502, CODING).goes_on(),
            row("trailers", "0\r\nA: 45678\r\n\r\n").answered(&[200]).goes_on(),
            row("more", "0\r\nA: 456789\r\n\r\n")
                .own(502, "http_response_trailer_section_size")
                .goes_on(),
        ],
    )
    .await;
}
