//! Interim responses and expectations (RFC 9110 §10.1.1, §15.2).

use super::Case;
use super::OK;
use super::OK_PASSED;
use super::case;
use super::get;
use super::run;
use super::run_on;
use crate::support::narrows;

fn post(name: &'static str, version: &str, fields: &str) -> Case {
    case(
        "RFC 9110 §10.1.1",
        name,
        format!("POST http://{{o}}/ {version}\r\nHost: {{o}}\r\nContent-Length: 2\r\n{fields}\r\n"),
    )
}

fn told(interim: &str) -> Vec<u8> {
    [interim.as_bytes(), OK].concat()
}

fn heard(interim: &str) -> Vec<u8> {
    [interim.as_bytes(), OK_PASSED].concat()
}

#[tokio::test]
async fn an_expectation_is_the_origins_to_meet() {
    let continued = "HTTP/1.1 100 Continue\r\n\r\n";
    run(vec![
        post("a 100 of the origin's", "HTTP/1.1", "Expect: 100-continue\r\n")
            .origin_says_early(continued)
            .hears(continued)
            .sends("hi")
            .arrives("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 2\r\nExpect: 100-continue\r\nVia: 1.1 wire\r\n\r\nhi")
            .goes_on(),
        post("in any case", "HTTP/1.1", "expect: 100-Continue\r\n")
            .origin_says_early(continued)
            .hears(continued)
            .sends("hi")
            .arrives_with("expect: 100-Continue\r\n"),
        post("a final answer instead, and no body", "HTTP/1.1", "Expect: 100-continue\r\n")
            .origin_says_early("HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig")
            .hears("HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nVia: 1.1 wire\r\n\r\nbig")
            .closes(),
        post("another expectation", "HTTP/1.1", "Expect: tea\r\n")
            .own(417, "http_request_error")
            .nobody()
            .closes()
            .ends(),
        post("two expectations", "HTTP/1.1", "Expect: 100-continue\r\nExpect: tea\r\n")
            .own(417, "http_request_error")
            .nobody()
            .closes()
            .ends(),
        post("of HTTP/1.0 it is ignored", "HTTP/1.0", "Expect: 100-continue\r\n")
            .sends("hi")
            .arrives("POST / HTTP/1.1\r\nHost: {o}\r\nContent-Length: 2\r\nVia: 1.0 wire\r\n\r\nhi")
            .gets_without("100 Continue")
            .closes(),
    ])
    .await;
}

#[tokio::test]
async fn interim_responses_reach_clients_that_know_them() {
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-a\r\nX-A: 1\r\n\r\n";
    let passed = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nVia: 1.1 wire\r\n\r\n";
    run(vec![
        get("RFC 9110 §15.2", "early hints, less what concerns the hop")
            .origin_says(told(hints))
            .gets(heard(passed))
            .goes_on(),
        get("RFC 9110 §15.2", "several")
            .origin_says(told(&hints.repeat(3)))
            .gets(heard(&passed.repeat(3)))
            .goes_on(),
        get("RFC 9110 §15.2", "a 100 that nobody asked for")
            .origin_says(told("HTTP/1.1 100 Continue\r\n\r\n"))
            .gets(heard("HTTP/1.1 100 Continue\r\nVia: 1.1 wire\r\n\r\n"))
            .goes_on(),
        get("RFC 9110 §15.2", "an unknown one")
            .origin_says(told("HTTP/1.1 199 Well\r\nA: b\r\n\r\n"))
            .gets_with("HTTP/1.1 199 ")
            .goes_on(),
        case("RFC 9110 §15.2", "never to HTTP/1.0", "GET http://{o}/ HTTP/1.0\r\n\r\n")
            .origin_says(told(&hints.repeat(3)))
            .gets_without("103")
            .answered(&[200])
            .closes(),
    ])
    .await;
}

#[tokio::test]
async fn interim_responses_have_a_bound() {
    let hint = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let passed = "HTTP/1.1 103 Early Hints\r\nVia: 1.1 wire\r\n\r\n";
    run_on(
        narrows().flags("--max-interim 3"),
        vec![
            get("RFC 9110 §15.2", "as many as are allowed")
                .origin_says(told(&hint.repeat(3)))
                .gets(heard(&passed.repeat(3)))
                .goes_on(),
            get("RFC 9110 §15.2", "one more")
                .origin_says(told(&hint.repeat(4)))
                .gets_with("HTTP/1.1 502 ")
                .gets_with("more interim responses (1xx) than are allowed"),
            get("RFC 9110 §15.2", "without an end")
                .origin_says(hint.repeat(5000))
                .gets_with("HTTP/1.1 502 "),
            case("RFC 9110 §15.2", "for HTTP/1.0 too", "GET http://{o}/ HTTP/1.0\r\n\r\n")
                .origin_says(told(&hint.repeat(4)))
                .own(502, "http_protocol_error"),
        ],
    )
    .await;
}
