//! Asking whether what is kept still holds, and being asked that (RFC 9111 §4.3, RFC 9110 §13).

use super::Case;
use super::Expected;
use super::Says;
use super::case;
use super::fresh;
use super::old;
use super::says;

/// Kept with this, fresh; a request with that is answered by a 304, or by the whole.
fn asked(name: &'static str, says: Says, fields: &[&'static str], is_same: bool) -> Case {
    let mut case = case("RFC 9111 §4.3.2", name).origin(says).get().asked(1).get();
    for field in fields {
        case = case.with(field);
    }
    if is_same { case.unchanged() } else { case.kept(1).status(200) }
}

/// What came stale, validated by a 304 with this.
fn updated(name: &'static str, first: Says, then: Says) -> Case {
    case("RFC 9111 §3.2", name).origin(first).origin(then).get().asked(1).get().validated(1)
}

/// An answer that came stale, and then a failure of the origin.
fn failed(name: &'static str, status: u16) -> Case {
    case("RFC 9111 §4.3.3", name)
        .origin(old())
        .origin(says(status))
        .origin(says(304).with("Cache-Control: max-age=100"))
        .get()
        .fetched(1)
        .get()
        .fetched(2)
        .get()
        .validated(1)
}

pub(super) fn cases() -> Vec<Case> {
    [asking(), updating(), being_asked(), by_head()].concat()
}

fn asking() -> Vec<Case> {
    let send = "RFC 9111 §4.3.1";
    let stale = || says(200).with("Cache-Control: max-age=100").with("Age: 150");
    let same = || says(304).with("Cache-Control: max-age=100");
    vec![
        case(send, "what is stale is validated by its tag")
            .origin(stale().with("ETag: \"a\""))
            .origin(same().with("ETag: \"a\""))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a\"")
            .sent_no("If-Modified-Since"),
        case(send, "what is stale is validated by a weak tag as it is")
            .origin(stale().with("ETag: W/\"a\""))
            .origin(same().with("ETag: W/\"a\""))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-None-Match", "W/\"a\""),
        case(send, "what is stale is validated by when it was changed")
            .origin(stale().with("Last-Modified: {now-1000}"))
            .origin(same())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-Modified-Since", "{now-1000}")
            .sent_no("If-None-Match"),
        case(send, "what is stale is validated by both")
            .origin(stale().with("ETag: \"a\"").with("Last-Modified: {now-1000}"))
            .origin(same())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a\"")
            .sent("If-Modified-Since", "{now-1000}"),
        case(send, "what is stale and has no validator is asked for whole")
            .origin(stale())
            .get()
            .fetched(1)
            .get()
            .fetched(2)
            .sent_no("If-None-Match")
            .sent_no("If-Modified-Since"),
        case(send, "a Last-Modified that is no date is not asked by")
            .origin(stale().with("Last-Modified: yesterday"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .fetched(2)
            .sent_no("If-Modified-Since"),
        case(send, "a tag may hold anything that a tag may")
            .origin(stale().with("ETag: \"a,b W/x;y\""))
            .origin(same())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a,b W/x;y\""),
        case(send, "the client's fields go on with the question")
            .origin(stale().with("ETag: \"a\""))
            .origin(same())
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .validated(1)
            .sent("X-A", "2"),
        case("RFC 9111 §4.3.3", "a 304 makes what is kept fresh")
            .origin(old())
            .origin(same())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .get()
            .kept(1)
            .age(0, 5),
        case("RFC 9111 §4.3.3", "a 304 that makes nothing fresh means that it is asked again")
            .origin(old())
            .origin(same().with("Age: 150"))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .get()
            .validated(1),
        case("RFC 9111 §4.3.3", "a 200 takes the place of what was kept")
            .origin(old())
            .origin(fresh().with("ETag: \"b\""))
            .get()
            .fetched(1)
            .get()
            .fetched(2)
            .get()
            .kept(2)
            .field("ETag", "\"b\""),
        case("RFC 9111 §4.3.3", "an answer that is not to be kept is passed on, and not kept")
            .origin(old())
            .origin(says(200).with("Cache-Control: no-store"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .fetched(2)
            .get()
            .fetched(3),
        case("RFC 9111 §4.3.3", "a 404 is passed on")
            .origin(old())
            .origin(says(404))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        failed("a 500 instead of an answer is passed on, and what was kept stays", 500),
        failed("a 502 instead of an answer is passed on, and what was kept stays", 502),
        failed("a 503 instead of an answer is passed on, and what was kept stays", 503),
        failed("a 504 instead of an answer is passed on, and what was kept stays", 504),
        case(
            "RFC 9111 §4.3.4",
            "a 304 for another strong tag is of no use, and the whole is asked for",
        )
        .origin(old())
        .origin(same().with("ETag: \"b\""))
        .origin(fresh().with("ETag: \"b\""))
        .get()
        .fetched(1)
        .get()
        .asked(2)
        .answer(3)
        .status(200)
        .sent_no("If-None-Match")
        .get()
        .kept(3),
        case(
            "RFC 9111 §4.3.1",
            "a client's own condition and ours: the client has it, and is told so",
        )
        .origin(old().conditional())
        .get()
        .fetched(1)
        .get()
        .with("If-None-Match: \"a\"")
        .asked(1)
        .status(304),
        case(
            "RFC 9111 §4.3.1",
            "a client's own condition and ours: the client has another, and gets the whole",
        )
        .origin(old().conditional())
        .get()
        .fetched(1)
        .get()
        .with("If-None-Match: \"b\"")
        .asked(1)
        .status(200)
        .answer(1),
        case("RFC 9111 §4.3.1", "a client's condition where nothing is kept: the client has it")
            .origin(fresh().with("ETag: \"a\"").conditional())
            .get()
            .with("If-None-Match: \"a\"")
            .asked(1)
            .status(304)
            .get()
            .status(200),
        case(
            "RFC 9111 §4.3.1",
            "a client's condition where nothing is kept: the client has another",
        )
        .origin(fresh().with("ETag: \"a\"").conditional())
        .get()
        .with("If-None-Match: \"b\"")
        .fetched(1)
        .status(200)
        .get()
        .kept(1),
    ]
}

fn updating() -> Vec<Case> {
    let same = || says(304).with("Cache-Control: max-age=100");
    vec![
        updated(
            "a 304 changes the fields that it has",
            old().with("X-A: 1"),
            same().with("X-A: 2"),
        )
        .field("X-A", "2")
        .get()
        .kept(1)
        .field("X-A", "2"),
        updated(
            "a 304 leaves the fields that it has not",
            old().with("X-A: 1").with("X-B: 1"),
            same().with("X-B: 2"),
        )
        .field("X-A", "1")
        .get()
        .kept(1)
        .field("X-A", "1")
        .field("X-B", "2"),
        updated("a 304 brings new fields", old(), same().with("X-A: 1"))
            .get()
            .kept(1)
            .field("X-A", "1"),
        updated(
            "a 304 changes all lines of a field",
            old().with("X-A: 1").with("X-A: 2"),
            same().with("X-A: 3"),
        )
        .get()
        .kept(1)
        .field("X-A", "3"),
        updated(
            "a 304 does not change the length",
            old().body("0123456789"),
            same().with("Content-Length: 3"),
        )
        .field("Content-Length", "10")
        .get()
        .kept(1)
        .field("Content-Length", "10"),
        updated(
            "a 304 does not change the coding",
            old().with("Content-Encoding: x"),
            same().with("Content-Encoding: y"),
        )
        .field("Content-Encoding", "x")
        .get()
        .kept(1)
        .field("Content-Encoding", "x"),
        updated(
            "a 304 makes no part of a whole",
            old(),
            same().with("Content-Range: bytes 0-3/10"),
        )
        .lacks("Content-Range")
        .get()
        .kept(1)
        .lacks("Content-Range"),
        updated(
            "a 304 brings no field of its hop",
            old(),
            same().with("Connection: X-Mine").with("X-Mine: 1").with("Keep-Alive: timeout=5"),
        )
        .lacks("X-Mine")
        .get()
        .kept(1)
        .lacks("X-Mine")
        .lacks("Keep-Alive"),
        updated(
            "a 304 with another Date makes it the younger",
            old().with("Date: {now-100}"),
            same().with("Date: {now-10}"),
        )
        .get()
        .kept(1)
        .field("Date", "{now-10}")
        .age(10, 16),
        updated(
            "a 304 with another lifetime gives it that",
            old(),
            says(304).with("Cache-Control: max-age=1000"),
        )
        .get()
        .kept(1)
        .field("Cache-Control", "max-age=1000"),
        updated("a 304 without a lifetime leaves it its own", old(), says(304).with("Age: 0"))
            .get()
            .kept(1)
            .field("Cache-Control", "max-age=100"),
        updated(
            "a 304 for a weak tag makes fresh what has it",
            says(200).with("Cache-Control: max-age=100").with("Age: 150").with("ETag: W/\"a\""),
            same().with("ETag: W/\"a\""),
        )
        .get()
        .kept(1),
        updated(
            "a 304 without a tag makes fresh what was asked for",
            says(200)
                .with("Cache-Control: max-age=100")
                .with("Age: 150")
                .with("Last-Modified: {now-1000}"),
            same().with("Last-Modified: {now-1000}"),
        )
        .get()
        .kept(1),
        case(
            "RFC 9111 §3.2",
            "a 304 that sets a cookie sets it for who asked, and nothing is kept on",
        )
        .origin(old())
        .origin(same().with("Set-Cookie: a=b"))
        .origin(fresh())
        .get()
        .fetched(1)
        .get()
        .validated(1)
        .field("Set-Cookie", "a=b")
        .get()
        .fetched(3)
        .lacks("Set-Cookie"),
        case(
            "RFC 9111 §3.2",
            "of those who come at once nobody gets the cookie that a 304 sets for another",
        )
        .origin(old())
        .origin(
            fresh()
                .with("ETag: \"a\"")
                .with("Set-Cookie: a=b")
                .body("answer 1")
                .conditional()
                .slow(200),
        )
        .get()
        .fetched(1)
        .get()
        .clients(3)
        .asked(3)
        .answer(1)
        .status(200)
        .each_its_own(),
        case("RFC 9111 §3.2", "a 304 that says private lets nothing be kept on")
            .origin(old())
            .origin(says(304).with("Cache-Control: private, max-age=100"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .get()
            .fetched(3),
        case("RFC 9111 §3.2", "a 304 that says Vary tells requests apart from then on")
            .origin(old())
            .origin(same().with("Vary: X-A"))
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 1")
            .validated(1)
            .get()
            .with("X-A: 2")
            .fetched(3)
            .get()
            .with("X-A: 1")
            .kept(1),
        case("RFC 9111 §3.2", "a 304 that says no-store lets nothing be kept on")
            .origin(old())
            .origin(says(304).with("Cache-Control: no-store"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .get()
            .expect(Expected::Asked(1)),
    ]
}

fn being_asked() -> Vec<Case> {
    let tagged = || fresh().with("ETag: \"a\"");
    let weak = || fresh().with("ETag: W/\"a\"");
    let dated = || fresh().with("Last-Modified: {now-1000}");
    vec![
        asked("who has it by its tag is told so", tagged(), &["If-None-Match: \"a\""], true),
        asked("who has another gets the whole", tagged(), &["If-None-Match: \"b\""], false),
        asked(
            "who has several, and it among them, is told so",
            tagged(),
            &["If-None-Match: \"x\", \"a\""],
            true,
        ),
        asked(
            "who has several on several lines, and it among them, is told so",
            tagged(),
            &["If-None-Match: \"x\"", "If-None-Match: \"a\""],
            true,
        ),
        asked(
            "tags are compared weakly: a weak one is asked for",
            tagged(),
            &["If-None-Match: W/\"a\""],
            true,
        ),
        asked(
            "tags are compared weakly: a weak one is kept",
            weak(),
            &["If-None-Match: \"a\""],
            true,
        ),
        asked("tags are compared by case", tagged(), &["If-None-Match: \"A\""], false),
        asked(
            "a comma within a tag parts nothing",
            fresh().with("ETag: \"a,b\""),
            &["If-None-Match: \"a,b\""],
            true,
        ),
        asked(
            "a part of a tag is no tag",
            fresh().with("ETag: \"a,b\""),
            &["If-None-Match: \"a\", \"b\""],
            false,
        ),
        asked("a star is whatever is kept", fresh(), &["If-None-Match: *"], true),
        asked(
            "what has no tag is none that a client has",
            fresh(),
            &["If-None-Match: \"a\""],
            false,
        ),
        asked("who has it by date is told so", dated(), &["If-Modified-Since: {now-1000}"], true),
        asked(
            "who has it by a later date is told so",
            dated(),
            &["If-Modified-Since: {now-500}"],
            true,
        ),
        asked(
            "who has an earlier one gets the whole",
            dated(),
            &["If-Modified-Since: {now-1001}"],
            false,
        ),
        asked(
            "a date that is none is no condition",
            dated(),
            &["If-Modified-Since: yesterday"],
            false,
        ),
        asked(
            "a date in the form of RFC 850 is one",
            dated(),
            &["If-Modified-Since: {rfc850-1000}"],
            true,
        ),
        asked(
            "where nobody says when it was changed, Date does",
            fresh().with("Date: {now-50}"),
            &["If-Modified-Since: {now-20}"],
            true,
        ),
        asked(
            "where nobody says when it was changed, who has it from before Date gets the whole",
            fresh().with("Date: {now-50}"),
            &["If-Modified-Since: {now-80}"],
            false,
        ),
        asked(
            "a tag that is another counts more than a date that is the same",
            tagged().with("Last-Modified: {now-1000}"),
            &["If-None-Match: \"b\"", "If-Modified-Since: {now-1000}"],
            false,
        ),
        asked(
            "a tag that is the same counts more than a date that is another",
            tagged().with("Last-Modified: {now-1000}"),
            &["If-None-Match: \"a\"", "If-Modified-Since: {now-2000}"],
            true,
        ),
        asked("HEAD is told so too", tagged(), &[], false)
            .head()
            .with("If-None-Match: \"a\"")
            .unchanged(),
        case("RFC 9110 §15.4.5", "a 304 has the fields by which a cache is brought up to date")
            .origin(
                tagged()
                    .with("Date: {now-10}")
                    .with("Vary: X-A")
                    .with("Content-Location: /x")
                    .with("Expires: {now+50}"),
            )
            .get()
            .fetched(1)
            .get()
            .with("If-None-Match: \"a\"")
            .unchanged()
            .field("ETag", "\"a\"")
            .field("Cache-Control", "max-age=100")
            .field("Date", "{now-10}")
            .field("Vary", "X-A")
            .field("Content-Location", "/x")
            .field("Expires", "{now+50}"),
        case(
            "RFC 9111 §4.3.2",
            "a condition that is for origins alone changes nothing of what is kept",
        )
        .origin(tagged())
        .get()
        .fetched(1)
        .get()
        .with("If-Match: \"b\"")
        .status(200)
        .get()
        .with("If-Unmodified-Since: {now-2000}")
        .status(200),
        case("RFC 9111 §4.3.2", "what is kept and no 200 answers no condition")
            .origin(says(301).with("Cache-Control: max-age=100").with("ETag: \"a\""))
            .get()
            .fetched(1)
            .get()
            .with("If-None-Match: \"a\"")
            .kept(1)
            .status(301),
    ]
}

fn by_head() -> Vec<Case> {
    vec![
        case("RFC 9111 §4.3.5", "HEAD asks the origin where what is kept is stale")
            .origin(old())
            .origin(fresh().with("ETag: \"a\"").body("answer 1"))
            .get()
            .fetched(1)
            .head()
            .status(200)
            .asked(1)
            .no_hit(),
        case(
            "RFC 9111 §4.3.5",
            "HEAD that tells of another representation makes what is kept stale",
        )
        .origin(fresh().with("ETag: \"a\"").body("0123456789"))
        .origin(fresh().with("ETag: \"b\"").body("01234567890123456789"))
        .get()
        .fetched(1)
        .head()
        .with("Cache-Control: no-cache")
        .status(200)
        .asked(1)
        .get()
        .asked(1)
        .status(200),
        case("RFC 9111 §4.3.5", "HEAD that tells of another length makes what is kept stale")
            .origin(fresh().body("0123456789"))
            .origin(fresh().body("01234567890123456789"))
            .get()
            .fetched(1)
            .head()
            .with("Cache-Control: no-cache")
            .status(200)
            .asked(1)
            .get()
            .asked(1)
            .status(200),
        case("RFC 9111 §4.3.5", "HEAD that tells of the same makes what is kept fresh")
            .origin(old().with("X-A: 1").body("0123456789"))
            .origin(fresh().with("ETag: \"a\"").with("X-A: 2").body("0123456789"))
            .get()
            .fetched(1)
            .head()
            .status(200)
            .asked(1)
            .get()
            .kept(1)
            .field("X-A", "2"),
    ]
}
