//! What is kept of a message (RFC 9111 §3.1, §3.3, RFC 9112): all of its content or nothing, and no
//! field of a hop.

use super::Case;
use super::case;
use super::fresh;
use super::old;
use super::says;

pub(super) fn cases() -> Vec<Case> {
    let fields = "RFC 9111 §3.1";
    let whole = "RFC 9111 §3.3";
    let long = || "0123456789abcdef".repeat(20_000);
    vec![
        case(fields, "a field that Connection names is not kept")
            .origin(fresh().with("Connection: X-Mine").with("X-Mine: 1").with("X-Ours: 1"))
            .get()
            .fetched(1)
            .lacks("X-Mine")
            .get()
            .kept(1)
            .lacks("X-Mine")
            .field("X-Ours", "1"),
        case(fields, "fields of a hop are not kept")
            .origin(
                fresh()
                    .with("Connection: keep-alive, Upgrade")
                    .with("Keep-Alive: timeout=5")
                    .with("Proxy-Connection: keep-alive")
                    .with("Upgrade: foo/1"),
            )
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .lacks("Keep-Alive")
            .lacks("Proxy-Connection")
            .lacks("Upgrade"),
        case(fields, "fields for proxies are not kept")
            .origin(fresh().with("Proxy-Authentication-Info: a=b"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .lacks("Proxy-Authentication-Info"),
        case(fields, "what Connection names does not take out what says not to keep it")
            .origin(
                says(200)
                    .with("Connection: Cache-Control")
                    .with("Cache-Control: no-store")
                    .with("Expires: {now+100}"),
            )
            .get()
            .asked(1)
            .get()
            .asked(1)
            .answer(2),
        case(whole, "an answer in chunks is kept whole")
            .origin(fresh().body("0123456789").chunked())
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .lacks("Transfer-Encoding"),
        case(whole, "of an answer in chunks a part is served")
            .origin(fresh().body("0123456789").chunked())
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=2-4")
            .asked(0)
            .status(206)
            .body_is("234")
            .field("Content-Range", "bytes 2-4/10"),
        case(whole, "a long answer is kept whole")
            .origin(fresh().body(long()))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case(whole, "a long answer in chunks is kept whole")
            .origin(fresh().body("abc".repeat(5_000)).chunked())
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case(whole, "an answer that is shorter than its length is not kept")
            .origin(fresh().cut())
            .origin(fresh())
            .get()
            .asked(1)
            .cut()
            .get()
            .fetched(2)
            .get()
            .kept(2),
        case(whole, "an answer that lacks its last chunk is not kept")
            .origin(fresh().cut_chunked())
            .origin(fresh())
            .get()
            .asked(1)
            .cut()
            .get()
            .fetched(2)
            .get()
            .kept(2),
        case(whole, "an answer that is cut short does not replace what was kept")
            .origin(old())
            .origin(fresh().with("ETag: \"b\"").cut())
            .origin(says(304).with("Cache-Control: max-age=100").with("ETag: \"a\""))
            .get()
            .fetched(1)
            .get()
            .asked(1)
            .cut()
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a\""),
        case(
            "RFC 9112 §8",
            "an answer that ends with its connection is served, and asked for or kept whole",
        )
        .origin(fresh().until_close().body("0123456789"))
        .get()
        .fetched(1)
        .get()
        .status(200)
        .body_is("0123456789"),
        case("RFC 9110 §15.2", "interim answers are not kept, and what follows them is")
            .origin(fresh().behind_hints())
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .lacks("X-Hint"),
        case("RFC 9110 §6.5", "an answer with trailers is kept whole")
            .origin(fresh().with("Trailer: X-Sum").body("0123456789").trailers("X-Sum: 1"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .lacks("X-Sum"),
        case("RFC 9110 §6.5.1", "a trailer says nothing of caching")
            .origin(
                says(200)
                    .with("Cache-Control: max-age=100")
                    .with("Trailer: Cache-Control")
                    .trailers("Cache-Control: no-store"),
            )
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case("RFC 9110 §15.3.5", "a 204 is kept without content")
            .origin(says(204).with("Cache-Control: max-age=100").with("X-A: 1"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("X-A", "1")
            .lacks("Content-Length"),
        case("RFC 9110 §7.6.3", "what is kept tells by Via how it came")
            .origin(fresh())
            .get()
            .fetched(1)
            .has("Via")
            .get()
            .kept(1)
            .has("Via"),
        case(fields, "a field of no hop is kept, known or not")
            .origin(
                fresh()
                    .with("X-A: 1")
                    .with("Strict-Transport-Security: max-age=1")
                    .with("WWW-Authenticate: Basic realm=x"),
            )
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("X-A", "1")
            .field("Strict-Transport-Security", "max-age=1")
            .field("WWW-Authenticate", "Basic realm=x"),
    ]
}
