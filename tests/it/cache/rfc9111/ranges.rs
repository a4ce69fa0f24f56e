//! Parts of what is kept (RFC 9110 §14, RFC 9111 §3.3).

use super::Case;
use super::Expected;
use super::Says;
use super::case;
use super::fresh;
use super::old;
use super::says;

const TEN: &str = "0123456789";

/// Of ten bytes that are kept this part is served: its body and its Content-Range.
fn part(name: &'static str, range: &'static str, body: &'static str, is: &'static str) -> Case {
    let case = case("RFC 9110 §14.2", name).origin(fresh().body(TEN)).get().fetched(1);
    case.get().with(range).asked(0).status(206).body_is(body).field("Content-Range", is).hit()
}

/// Of ten bytes that are kept the whole is served.
fn whole(name: &'static str, range: &'static str) -> Case {
    let case = case("RFC 9110 §14.2", name).origin(fresh().body(TEN)).get().fetched(1);
    case.get().with(range).kept(1).status(200).lacks("Content-Range")
}

/// None of ten bytes that are kept is meant.
fn nothing(name: &'static str, range: &'static str) -> Case {
    let case = case("RFC 9110 §15.5.17", name).origin(fresh().body(TEN)).get().fetched(1);
    case.get().with(range).asked(0).status(416).field("Content-Range", "bytes */10")
}

/// The part, if the client's copy is of the same; the whole otherwise.
fn conditional(name: &'static str, says: Says, condition: &'static str, is_part: bool) -> Case {
    let case = case("RFC 9110 §13.1.5", name).origin(says.body(TEN)).get().fetched(1);
    let case = case.get().with("Range: bytes=0-3").with(condition).asked(0).hit();
    if is_part { case.status(206).body_is("0123") } else { case.status(200).body_is(TEN) }
}

impl Case {
    fn hit(self) -> Case {
        self.expect(Expected::IsHit)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let tagged = || fresh().with("ETag: \"a\"");
    vec![
        part(
            "the first bytes are served of what is kept",
            "Range: bytes=0-3",
            "0123",
            "bytes 0-3/10",
        )
        .field("Content-Length", "4"),
        part("one byte is served", "Range: bytes=4-4", "4", "bytes 4-4/10"),
        part("all from a byte on is served", "Range: bytes=7-", "789", "bytes 7-9/10"),
        part("the last bytes are served", "Range: bytes=-3", "789", "bytes 7-9/10"),
        part(
            "more than the last bytes there are is all of them",
            "Range: bytes=-30",
            TEN,
            "bytes 0-9/10",
        ),
        part("a part ends where the whole does", "Range: bytes=5-100", "56789", "bytes 5-9/10"),
        part("the unit may have any case", "Range: BYTES=0-3", "0123", "bytes 0-3/10"),
        nothing("a part behind the end is 416", "Range: bytes=10-"),
        nothing("the last no bytes are 416", "Range: bytes=-0"),
        whole("a part that ends before it begins is none", "Range: bytes=5-3"),
        whole("a part that is no number is none", "Range: bytes=a-b"),
        whole("a part without numbers is none", "Range: bytes=-"),
        whole("a unit that is not known is none", "Range: lines=0-3"),
        case("RFC 9110 §14.2", "several parts are served so that each byte of them arrives")
            .origin(fresh().body(TEN))
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=0-1,8-9")
            .asked(0)
            .hit(),
        case("RFC 9110 §14.2", "a part of HEAD is none")
            .origin(fresh().body(TEN))
            .get()
            .fetched(1)
            .head()
            .with("Range: bytes=0-3")
            .kept(1)
            .status(200)
            .field("Content-Length", "10"),
        conditional(
            "If-Range of the same strong tag gets the part",
            tagged(),
            "If-Range: \"a\"",
            true,
        ),
        conditional("If-Range of another tag gets the whole", tagged(), "If-Range: \"b\"", false),
        conditional("If-Range of a weak tag gets the whole", tagged(), "If-Range: W/\"a\"", false),
        conditional(
            "If-Range of a weak tag gets the whole though it is the same",
            fresh().with("ETag: W/\"a\""),
            "If-Range: W/\"a\"",
            false,
        ),
        conditional(
            "If-Range of the same strong date gets the part",
            fresh().with("Last-Modified: {now-1000}"),
            "If-Range: {now-1000}",
            true,
        ),
        conditional(
            "If-Range of a later date gets the whole: dates are compared as they are",
            fresh().with("Last-Modified: {now-1000}"),
            "If-Range: {now-500}",
            false,
        ),
        case("RFC 9110 §13.2.2", "a client that has it is told so before it is given a part")
            .origin(tagged().body(TEN))
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=0-3")
            .with("If-None-Match: \"a\"")
            .unchanged(),
        case("RFC 9110 §13.2.2", "a client that has another is given its part")
            .origin(tagged().body(TEN))
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=0-3")
            .with("If-None-Match: \"b\"")
            .asked(0)
            .status(206)
            .body_is("0123"),
        case("RFC 9110 §15.3.7", "a part has the fields of the whole, and an Age")
            .origin(
                tagged()
                    .with("Date: {now-10}")
                    .with("Vary: X-A")
                    .with("Content-Type: text/x")
                    .with("X-A: 1")
                    .body(TEN),
            )
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=0-3")
            .asked(0)
            .status(206)
            .hit()
            .age(10, 16)
            .field("ETag", "\"a\"")
            .field("Date", "{now-10}")
            .field("Cache-Control", "max-age=100")
            .field("Content-Type", "text/x")
            .field("X-A", "1"),
        case("RFC 9110 §14.2", "a part of what is kept and no 200 is none")
            .origin(says(203).with("Cache-Control: max-age=100").body(TEN))
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=0-3")
            .kept(1)
            .status(203),
        case("RFC 9111 §3.3", "a part that is asked for first arrives, and the whole after it")
            .origin(tagged().body(TEN).conditional())
            .get()
            .with("Range: bytes=2-4")
            .asked(1)
            .status(206)
            .body_is("234")
            .get()
            .status(200)
            .body_is(TEN),
        case("RFC 9111 §3.3", "other parts are not answered by a part")
            .origin(tagged().body(TEN).conditional())
            .get()
            .with("Range: bytes=2-4")
            .status(206)
            .body_is("234")
            .get()
            .with("Range: bytes=0-1")
            .status(206)
            .body_is("01"),
        case("RFC 9111 §4.3", "a part of what is stale and holds is served of what is kept")
            .origin(old().body(TEN))
            .origin(says(304).with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .with("Range: bytes=2-4")
            .asked(1)
            .status(206)
            .body_is("234")
            .sent("If-None-Match", "\"a\"")
            .get()
            .asked(0)
            .status(200)
            .body_is(TEN),
        case(
            "RFC 9111 §4.3",
            "a part of what is stale and has changed is answered by the whole of the new",
        )
        .origin(old().body(TEN))
        .origin(fresh().with("ETag: \"b\"").body("abcdefghij").conditional())
        .get()
        .fetched(1)
        .get()
        .with("Range: bytes=2-4")
        .asked(1)
        .status(200)
        .body_is("abcdefghij")
        .get()
        .kept(2),
    ]
}
