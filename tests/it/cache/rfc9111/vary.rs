//! Which of several answers serves a request (RFC 9111 §4.1).

use super::Case;
use super::case;
use super::fresh;
use super::says;

const VARY: &str = "RFC 9111 §4.1";

/// Two requests whose X-A is this are the same, or are not.
fn pair(name: &'static str, a: &'static str, b: &'static str, is_same: bool) -> Case {
    let case = case(VARY, name).origin(fresh().with("Vary: X-A"));
    let case = case.get().with(a).fetched(1).get().with(b);
    if is_same { case.kept(1) } else { case.fetched(2).get().with(a).kept(1).get().with(b).kept(2) }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        pair("requests of the same value are one", "X-A: 1", "X-A: 1", true),
        pair("requests of other values are kept apart, each of them", "X-A: 1", "X-A: 2", false),
        pair("the name of the field may have any case", "X-A: 1", "x-a: 1", true),
        pair(
            "the case of a value counts, since nobody knows what it means",
            "X-A: a",
            "X-A: A",
            false,
        ),
        pair("blanks around commas do not count", "X-A: a, b", "X-A: a,b", true),
        pair("the order of members counts", "X-A: a, b", "X-A: b, a", false),
        pair("a value is not another that begins so", "X-A: a", "X-A: ab", false),
        case(VARY, "lines of one field are one list")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: a")
            .with("X-A: b")
            .fetched(1)
            .get()
            .with("X-A: a, b")
            .kept(1),
        case(VARY, "a field that neither request has is the same")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case(VARY, "a field that one request has and another has not is another")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .fetched(1)
            .get()
            .with("X-A: 1")
            .fetched(2)
            .get()
            .kept(1)
            .get()
            .with("X-A: 1")
            .kept(2),
        case(VARY, "an empty field is not one that is not there")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .fetched(1)
            .get()
            .with("X-A:")
            .fetched(2),
        case(VARY, "each of several fields counts")
            .origin(fresh().with("Vary: X-A, X-B"))
            .get()
            .with("X-A: 1")
            .with("X-B: 1")
            .fetched(1)
            .get()
            .with("X-A: 1")
            .with("X-B: 2")
            .fetched(2)
            .get()
            .with("X-A: 2")
            .with("X-B: 1")
            .fetched(3)
            .get()
            .with("X-B: 1")
            .with("X-A: 1")
            .kept(1),
        case(VARY, "what one field says is not taken for another's")
            .origin(fresh().with("Vary: X-A, X-B"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-B: 1")
            .fetched(2),
        case(VARY, "lines of Vary are one list")
            .origin(fresh().with("Vary: X-A").with("Vary: X-B"))
            .get()
            .with("X-A: 1")
            .with("X-B: 1")
            .fetched(1)
            .get()
            .with("X-A: 1")
            .with("X-B: 2")
            .fetched(2),
        case(VARY, "Vary names fields in any case")
            .origin(fresh().with("vary: x-a"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .get()
            .with("X-A: 1")
            .kept(1),
        case(VARY, "a star among names is a star")
            .origin(fresh().with("Vary: X-A, *"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 1")
            .asked(1)
            .answer(2)
            .no_hit(),
        case(VARY, "a star on a line of its own is a star")
            .origin(fresh().with("Vary: X-A").with("Vary: *"))
            .get()
            .fetched(1)
            .get()
            .asked(1)
            .answer(2)
            .no_hit(),
        case(VARY, "languages are kept apart")
            .origin(fresh().with("Vary: Accept-Language").with("Content-Language: en"))
            .origin(fresh().with("Vary: Accept-Language").with("Content-Language: fr"))
            .get()
            .with("Accept-Language: en")
            .fetched(1)
            .get()
            .with("Accept-Language: fr")
            .fetched(2)
            .get()
            .with("Accept-Language: en")
            .kept(1)
            .field("Content-Language", "en"),
        case(VARY, "codings are kept apart")
            .origin(fresh().with("Vary: Accept-Encoding").with("Content-Encoding: gzip"))
            .origin(fresh().with("Vary: Accept-Encoding"))
            .get()
            .with("Accept-Encoding: gzip")
            .fetched(1)
            .get()
            .fetched(2)
            .lacks("Content-Encoding")
            .get()
            .with("Accept-Encoding: gzip")
            .kept(1)
            .field("Content-Encoding", "gzip"),
        case(VARY, "HEAD is answered by the one for its fields")
            .origin(fresh().with("Vary: X-A").body("1"))
            .origin(fresh().with("Vary: X-A").body("22"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .head()
            .with("X-A: 1")
            .kept(1)
            .field("Content-Length", "1"),
        case(VARY, "one that is stale is asked for again, and the others stay")
            .origin(says(200).with("Vary: X-A").with("Cache-Control: max-age=100").with("Age: 200"))
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .get()
            .with("X-A: 1")
            .fetched(3)
            .get()
            .with("X-A: 2")
            .kept(2),
        case(VARY, "a later Vary tells requests apart that an earlier did not")
            .origin(says(200).with("Cache-Control: max-age=100").with("Age: 200"))
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 1")
            .fetched(2)
            .get()
            .with("X-A: 2")
            .fetched(3),
        case("RFC 9111 §4.3.1", "for fields that nothing is kept for the whole is asked for")
            .origin(fresh().with("Vary: X-A").with("ETag: \"a\""))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .sent_no("If-None-Match"),
        case("RFC 9111 §4.1", "what is kept comes with its Vary")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("Vary", "X-A"),
    ]
}
