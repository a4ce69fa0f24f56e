//! Which request what is kept answers, and how it looks then (RFC 9111 §4).

use super::Api;
use super::Case;
use super::case;
use super::fresh;
use super::old;
use super::says;

/// A request of this method goes to the origin, though an answer to GET is kept.
fn passes(method: &'static str, name: &'static str) -> Case {
    case("RFC 9111 §4", name).origin(fresh()).get().fetched(1).ask(method).fetched(2)
}

/// Each of several clients who come at once has an answer of its own, with this field.
fn crowd(name: &'static str, field: &'static str) -> Case {
    let case = case("RFC 9111 §4", name).origin(says(200).with(field).slow(200));
    case.get().clients(3).asked(3).each_its_own().status(200)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        passes("POST", "POST is not answered by what is kept for GET"),
        passes("PUT", "PUT is not answered by what is kept for GET"),
        passes("DELETE", "DELETE is not answered by what is kept for GET"),
        passes("OPTIONS", "OPTIONS is not answered by what is kept for GET"),
        passes("BREW", "an unknown method is not answered by what is kept for GET"),
        case("RFC 9110 §9.3.2", "HEAD is answered by what is kept for GET, without its body")
            .origin(fresh().body("0123456789").with("X-A: 1"))
            .get()
            .fetched(1)
            .head()
            .kept(1)
            .field("Content-Length", "10")
            .field("X-A", "1"),
        case("RFC 9111 §4", "another path is another answer")
            .origin(fresh())
            .get()
            .at("/a")
            .fetched(1)
            .get()
            .at("/b")
            .fetched(2)
            .get()
            .at("/a")
            .kept(1),
        case("RFC 9111 §4", "a path is told by its case")
            .origin(fresh())
            .get()
            .at("/a")
            .fetched(1)
            .get()
            .at("/A")
            .fetched(2),
        case("RFC 9111 §4", "another query is another answer")
            .origin(fresh())
            .get()
            .at("?a=1")
            .fetched(1)
            .get()
            .at("?a=2")
            .fetched(2)
            .get()
            .at("?a=1")
            .kept(1)
            .get()
            .fetched(3),
        case("RFC 9111 §4", "an empty query is not none")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .at("?")
            .fetched(2),
        case("RFC 9111 §4", "the same arguments in another order are one query")
            .origin(fresh())
            .get()
            .at("?a=1&b=2")
            .fetched(1)
            .get()
            .at("?b=2&a=1")
            .kept(1),
        case("RFC 9111 §4", "arguments of one name keep their order")
            .origin(fresh())
            .get()
            .at("?a=1&a=2")
            .fetched(1)
            .get()
            .at("?a=2&a=1")
            .fetched(2),
        case("RFC 9111 §4", "what looks like another argument within one is none")
            .origin(fresh())
            .get()
            .at("?a=1&b=2")
            .fetched(1)
            .get()
            .at("?a=1:b=2")
            .fetched(2)
            .get()
            .at("?a=1%26b=2")
            .fetched(3),
        case("RFC 9111 §4", "another host is another answer")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .by(Api::NoTtl)
            .fetched(2)
            .get()
            .kept(1),
        case(
            "RFC 9111 §4",
            "what is kept comes with status, reason, fields and body as it came first",
        )
        .origin(
            says(203)
                .with("Cache-Control: max-age=100")
                .with("Link: <a>; rel=b")
                .with("Link: <c>; rel=d")
                .with("Content-Type: text/x; q=1")
                .with("Content-Encoding: x")
                .with("Content-Language: de"),
        )
        .get()
        .fetched(1)
        .get()
        .kept(1)
        .field("Link", "<a>; rel=b, <c>; rel=d")
        .field("Content-Type", "text/x; q=1")
        .field("Content-Encoding", "x")
        .field("Content-Language", "de")
        .field("Content-Length", "8"),
        case("RFC 9111 §4", "what is kept has the Date that it came with, and none of ours")
            .origin(says(200).with("Cache-Control: max-age=100").with("Date: {now-50}"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("Date", "{now-50}"),
        case("RFC 9111 §4", "what is kept serves any number of clients")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .get()
            .kept(1)
            .get()
            .kept(1),
        case("RFC 9111 §4", "a body without a byte is kept too")
            .origin(fresh().body(""))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("Content-Length", "0"),
        case("RFC 9111 §4", "fields that are not named by Vary do not matter")
            .origin(fresh())
            .get()
            .with("User-Agent: a")
            .with("Accept: text/html")
            .fetched(1)
            .get()
            .with("User-Agent: b")
            .with("Accept: text/plain")
            .kept(1),
        case("RFC 9111 §5.1", "what is kept has an Age, and only one")
            .origin(fresh())
            .get()
            .fetched(1)
            .lacks("Age")
            .get()
            .kept(1)
            .age(0, 5),
        case("RFC 9111 §5.1", "Age goes on from what it was when it came")
            .origin(fresh().with("Age: 30"))
            .get()
            .fetched(1)
            .field("Age", "30")
            .get()
            .kept(1)
            .age(30, 35),
        case("RFC 9111 §5.1", "Age grows while it is kept")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .after(1100)
            .kept(1)
            .age(1, 6),
        case("RFC 9111 §4", "what is fresh no more is asked for again")
            .origin(says(200).with("Cache-Control: max-age=1"))
            .get()
            .fetched(1)
            .get()
            .after(1200)
            .fetched(2),
        case("RFC 9111 §4", "an answer that is asked for again replaces what was kept")
            .origin(says(200).with("Cache-Control: max-age=100").with("Age: 200"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .fetched(2)
            .get()
            .kept(2),
        case("RFC 9111 §4", "who comes at once is answered by one request")
            .origin(fresh().slow(300))
            .get()
            .clients(5)
            .asked(1)
            .answer(1)
            .get()
            .kept(1),
        crowd(
            "of those who come at once nobody gets what is private to another",
            "Cache-Control: private, max-age=100",
        ),
        crowd(
            "of those who come at once nobody gets what is not to be stored",
            "Cache-Control: no-store",
        ),
        crowd("of those who come at once nobody gets another's cookie", "Set-Cookie: a=b"),
        crowd("of those who come at once nobody gets what varies by everything", "Vary: *"),
        case("RFC 9111 §4", "of those who come at once nobody is refused what another is")
            .origin(says(403).slow(200))
            .get()
            .clients(3)
            .asked(3)
            .each_its_own()
            .status(403),
        case("RFC 9111 §4", "those who come at once are told of one failure of the origin")
            .origin(says(503).slow(800))
            .get()
            .clients(5)
            .asked(1)
            .status(503)
            .get()
            .fetched(2),
        case("RFC 9111 §4.1", "of those who come at once each gets what is for its fields")
            .origin(fresh().with("Vary: X-A").slow(200))
            .get()
            .with("X-A: {client}")
            .clients(3)
            .asked(3)
            .each_its_own()
            .get()
            .with("X-A: 1")
            .asked(0)
            .status(200),
        case("RFC 9111 §4", "an escape in a path is not what it stands for")
            .origin(fresh())
            .get()
            .at("/~a")
            .fetched(1)
            .get()
            .at("/%7Ea")
            .fetched(2),
        case("RFC 9111 §3.5", "of those who come at once with Authorization each gets its own")
            .origin(fresh().slow(200))
            .get()
            .with("Authorization: Bearer {client}")
            .clients(3)
            .asked(3)
            .each_its_own(),
        case(
            "RFC 9111 §4",
            "of those who come at once each is told of one that is stale if it holds",
        )
        .origin(old())
        .origin(says(304).with("Cache-Control: max-age=100").slow(300))
        .get()
        .fetched(1)
        .get()
        .clients(5)
        .asked(1)
        .answer(1)
        .status(200),
    ]
}
