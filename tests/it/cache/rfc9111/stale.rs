//! What is served though it is stale (RFC 5861, RFC 9111 §4.2.4).

use super::Api;
use super::Case;
use super::Expected;
use super::Says;
use super::case;
use super::fresh;
use super::origin::silence;
use super::says;

const WHILE: &str = "RFC 5861 §3";
const IF_ERROR: &str = "RFC 5861 §4";

/// An answer of Age 150 with this said of it.
fn aged(control: &'static str) -> Says {
    says(200).with(control).with("Age: 150").with("ETag: \"a\"")
}

/// It is served, and asked for anew behind that.
fn renewed(name: &'static str, control: &'static str) -> Case {
    case(WHILE, name)
        .origin(aged(control))
        .origin(fresh())
        .get()
        .fetched(1)
        .get()
        .answer(1)
        .expect(Expected::IsHit)
        .age(150, 156)
        .asked_in_all(2)
        .get()
        .soon()
        .kept(2)
        .asked_in_all(2)
}

/// It is not: who asks waits for the new one.
fn not_renewed(name: &'static str, control: &'static str) -> Case {
    case(WHILE, name).origin(aged(control)).origin(fresh()).get().fetched(1).get().fetched(2)
}

/// What is stale, with this said of it, is served instead of that failure, or is not.
fn failed(name: &'static str, control: &'static str, says: Says, is_served: bool) -> Case {
    let case = case(IF_ERROR, name).origin(aged(control)).origin(says).get().fetched(1).get();
    if is_served { case.stale(1).age(150, 156) } else { case.fetched(2) }
}

pub(super) fn cases() -> Vec<Case> {
    let error = "Cache-Control: max-age=100, stale-if-error=1000";
    vec![
        renewed(
            "what may be stale while it is asked for anew is served at once, and then the new",
            "Cache-Control: max-age=100, stale-while-revalidate=1000",
        ),
        renewed(
            "the directive is read in any case, and may be quoted",
            "Cache-Control: max-age=100, Stale-While-Revalidate=\"1000\"",
        ),
        not_renewed(
            "what is stale for longer than it may be is asked for first",
            "Cache-Control: max-age=100, stale-while-revalidate=10",
        ),
        not_renewed(
            "a time that is no number lets nothing be stale",
            "Cache-Control: max-age=100, stale-while-revalidate=long",
        ),
        not_renewed(
            "what must be revalidated is asked for first",
            "Cache-Control: max-age=100, must-revalidate, stale-while-revalidate=1000",
        ),
        not_renewed(
            "what proxies must revalidate is asked for first",
            "Cache-Control: max-age=100, proxy-revalidate, stale-while-revalidate=1000",
        ),
        not_renewed(
            "what is stale by s-maxage, which is the same, is asked for first",
            "Cache-Control: s-maxage=100, stale-while-revalidate=1000",
        ),
        not_renewed(
            "what says no-cache is asked for first",
            "Cache-Control: max-age=100, no-cache, stale-while-revalidate=1000",
        ),
        case(WHILE, "for who says no-cache it is asked for first")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: no-cache")
            .fetched(2),
        case(WHILE, "for who takes nothing so old it is asked for first")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: max-age=10")
            .fetched(2),
        case(WHILE, "it is asked for once, however many are served meanwhile")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(fresh().slow(500))
            .get()
            .fetched(1)
            .get()
            .answer(1)
            .get()
            .clients(4)
            .status(200)
            .get()
            .soon()
            .answer(2)
            .asked_in_all(2),
        case(WHILE, "it is asked for by its validator, and a 304 makes it fresh")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(says(304).with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .answer(1)
            .asked_in_all(2)
            .sent("If-None-Match", "\"a\"")
            .get()
            .soon()
            .kept(1)
            .age(0, 5)
            .asked_in_all(2),
        case(WHILE, "where asking fails it is served on")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .answer(1)
            .asked_in_all(2)
            .get()
            .soon()
            .answer(1)
            .status(200),
        case(WHILE, "the answer behind it is told to nobody, and not its failure")
            .origin(aged("Cache-Control: max-age=100, stale-while-revalidate=1000"))
            .origin(silence())
            .get()
            .fetched(1)
            .get()
            .answer(1)
            .status(200)
            .expect(Expected::IsHit),
        failed(
            "what may be stale if there is an error is served instead of a 500",
            error,
            says(500),
            true,
        ),
        failed(
            "what may be stale if there is an error is served instead of a 502",
            error,
            says(502),
            true,
        ),
        failed(
            "what may be stale if there is an error is served instead of a 503",
            error,
            says(503),
            true,
        ),
        failed(
            "what may be stale if there is an error is served instead of a 504",
            error,
            says(504),
            true,
        ),
        failed(
            "what may be stale if there is an error is served where the origin does not answer",
            error,
            silence(),
            true,
        ),
        failed("a 501 is none of these errors", error, says(501), false),
        failed("a 404 is none of these errors", error, says(404), false),
        failed("a 429 is none of these errors", error, says(429), false),
        failed(
            "what is stale for longer is not served",
            "Cache-Control: max-age=100, stale-if-error=10",
            says(503),
            false,
        ),
        failed(
            "without the directive nothing stale is served",
            "Cache-Control: max-age=100",
            says(503),
            false,
        ),
        failed(
            "what must be revalidated is not served instead of an error",
            "Cache-Control: max-age=100, must-revalidate, stale-if-error=1000",
            says(503),
            false,
        ),
        failed(
            "what proxies must revalidate is not served instead of an error",
            "Cache-Control: max-age=100, proxy-revalidate, stale-if-error=1000",
            says(503),
            false,
        ),
        failed(
            "what is stale by s-maxage is not served instead of an error",
            "Cache-Control: s-maxage=100, stale-if-error=1000",
            says(503),
            false,
        ),
        failed(
            "what says no-cache is not served instead of an error",
            "Cache-Control: max-age=100, no-cache, stale-if-error=1000",
            says(503),
            false,
        ),
        case(IF_ERROR, "a client may say so too")
            .origin(aged("Cache-Control: max-age=100"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: stale-if-error=1000")
            .stale(1),
        case(IF_ERROR, "a client has nothing for longer than it says")
            .origin(aged("Cache-Control: max-age=100"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: stale-if-error=10")
            .fetched(2),
        case(IF_ERROR, "a client has nothing against what the origin says")
            .origin(aged("Cache-Control: max-age=100, must-revalidate"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: stale-if-error=1000")
            .fetched(2),
        case(IF_ERROR, "the failure is not kept, and what comes after it is served")
            .origin(aged(error))
            .origin(says(503).with("Cache-Control: max-age=100"))
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .stale(1)
            .get()
            .fetched(3)
            .get()
            .kept(3),
        case(IF_ERROR, "the failure is told in Cache-Status")
            .origin(aged(error))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .stale(1)
            .says("fwd=stale")
            .says("fwd-status=503"),
        case(IF_ERROR, "a client that has what is stale is told so where the origin fails")
            .origin(aged(error))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .with("If-None-Match: \"a\"")
            .asked(1)
            .status(304),
        case(IF_ERROR, "where nothing is kept a failure is passed on")
            .origin(says(503).with("Cache-Control: stale-if-error=1000"))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        case(IF_ERROR, "the operator may say so where the origin does not")
            .api(Api::Stale)
            .origin(aged("Cache-Control: max-age=100"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .stale(1),
        case(IF_ERROR, "the operator's word does not count against the origin's")
            .api(Api::Stale)
            .origin(aged("Cache-Control: max-age=100, must-revalidate"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        case(IF_ERROR, "the origin's own time counts before the operator's")
            .api(Api::Stale)
            .origin(aged("Cache-Control: max-age=100, stale-if-error=10"))
            .origin(says(503))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        case(
            "RFC 9111 §4.2.4",
            "what is stale and has none of these is not served, though it was fresh once",
        )
        .origin(aged("Cache-Control: max-age=100"))
        .origin(silence())
        .get()
        .fetched(1)
        .get()
        .expect(Expected::AskedAtLeastOnce)
        .status(502),
    ]
}
