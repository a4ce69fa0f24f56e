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
