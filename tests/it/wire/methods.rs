//! Methods with rules of their own: HEAD, OPTIONS, TRACE; and answers that have no content.

use super::Case;
use super::OK_PASSED;
use super::case;
use super::get;
use super::run;

fn request(section: &'static str, name: &'static str, line: &str, fields: &str) -> Case {
    case(section, name, format!("{line} HTTP/1.1\r\nHost: {{o}}\r\n{fields}\r\n"))
}

#[tokio::test]
async fn an_answer_without_content_has_none() {
    run(vec![
        request("RFC 9110 §9.3.2", "HEAD tells the length and no content", "HEAD http://{o}/", "")
            .origin_says("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
            .gets("HTTP/1.1 200 OK\r\nContent-Length: 500\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        request("RFC 9110 §9.3.2", "HEAD of a chunked one", "HEAD http://{o}/", "")
            .origin_says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .gets_without("\r\n\r\n0")
            .goes_on(),
        request("RFC 9110 §9.3.2", "HEAD of an error of ours", "HEAD http://127.0.0.1:0/", "")
            .gets_with("HTTP/1.1 400 ")
            .gets_without("{\"type\"")
            .goes_on(),
        get("RFC 9110 §15.3.5", "204")
            .origin_says("HTTP/1.1 204 None\r\nA: b\r\n\r\n")
            .gets("HTTP/1.1 204 None\r\nA: b\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        get("RFC 9110 §15.4.5", "304")
            .origin_says("HTTP/1.1 304 Same\r\nETag: \"a\"\r\n\r\n")
            .gets("HTTP/1.1 304 Same\r\nETag: \"a\"\r\nVia: 1.1 wire\r\n\r\n")
            .goes_on(),
        get("RFC 9110 §15.4.5", "304 with the length of what it stands for")
            .origin_says("HTTP/1.1 304 Same\r\nContent-Length: 500\r\n\r\n")
            .gets_with("HTTP/1.1 304 Same\r\n")
            .goes_on(),
        get("RFC 9110 §15.3.6", "205")
            .origin_says("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n")
            .gets_with("HTTP/1.1 205 Reset\r\n")
            .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn max_forwards_counts_for_options_and_trace_alone() {
    let arrives = |method: &str, path: &str, forwards: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {{o}}\r\nMax-Forwards: {forwards}\r\nVia: 1.1 wire\r\n\r\n"
        )
    };
    run(vec![
        request("RFC 9110 §7.6.2", "OPTIONS at 0", "OPTIONS http://{o}", "Max-Forwards: 0\r\n")
            .gets("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .nobody()
            .goes_on(),
        request("RFC 9110 §7.6.2", "OPTIONS at 1", "OPTIONS http://{o}", "Max-Forwards: 1\r\n")
            .arrives(arrives("OPTIONS", "*", "0"))
            .gets(OK_PASSED)
            .goes_on(),
        request("RFC 9110 §7.6.2", "TRACE at 10", "TRACE http://{o}/a", "Max-Forwards: 10\r\n")
            .arrives(arrives("TRACE", "/a", "9"))
            .goes_on(),
        request(
            "RFC 9110 §7.6.2",
            "a number beyond ours",
            "TRACE http://{o}/a",
            "Max-Forwards: 99999999999999999999\r\n",
        )
        .arrives(arrives("TRACE", "/a", "4294967294"))
        .goes_on(),
        request("RFC 9110 §7.6.2", "GET at 0 goes on", "GET http://{o}/", "Max-Forwards: 0\r\n")
            .arrives(arrives("GET", "/", "0"))
            .goes_on(),
        request("RFC 9110 §7.6.2", "OPTIONS without one", "OPTIONS http://{o}/", "")
            .arrives_as("OPTIONS / HTTP/1.1")
            .goes_on(),
        request("RFC 9110 §7.6.2", "no number", "OPTIONS http://{o}", "Max-Forwards: x\r\n")
            .own(400, "http_request_error")
            .nobody()
            .goes_on(),
        request("RFC 9110 §7.6.2", "a negative number", "TRACE http://{o}", "Max-Forwards: -1\r\n")
            .own(400, "http_request_error")
            .nobody()
            .goes_on(),
        request(
            "RFC 9110 §7.6.2",
            "two",
            "OPTIONS http://{o}",
            "Max-Forwards: 1\r\nMax-Forwards: 1\r\n",
        )
        .own(400, "http_request_error")
        .nobody()
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_trace_that_ends_here_is_told_what_it_was_and_no_secrets() {
    let secrets =
        "Cookie: a=SECRET\r\nAuthorization: Basic SECRET\r\nProxy-Authorization: Basic SECRET\r\n";
    run(vec![
        request("RFC 9110 §9.3.8", "TRACE at 0", "TRACE http://{o}/a?b", &format!("X-A: 1\r\n{secrets}Max-Forwards: 0\r\n"))
            .gets_with("HTTP/1.1 200 OK\r\nContent-Type: message/http\r\n")
            .gets_with("\r\n\r\nTRACE http://{o}/a?b HTTP/1.1\r\nHost: {o}\r\nX-A: 1\r\nMax-Forwards: 0\r\n\r\n")
            .gets_without("SECRET")
            .nobody()
            .goes_on(),
        request("RFC 9110 §9.3.8", "TRACE with content", "TRACE http://{o}/", "Content-Length: 2\r\n")
            .refused(400),
        request("RFC 9110 §9.3.8", "TRACE with chunks", "TRACE http://{o}/", "Transfer-Encoding: chunked\r\n")
            .refused(400),
        request("RFC 9110 §9.3.8", "TRACE to the origin", "TRACE http://{o}/", "")
            .arrives_as("TRACE / HTTP/1.1")
            .goes_on(),
    ])
    .await;
}
