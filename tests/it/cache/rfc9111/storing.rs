//! What may be kept (RFC 9111 §3): methods, statuses, who forbids it, and what is not whole.

use super::Case;
use super::case;
use super::fresh;
use super::says;

/// What is kept is not asked for again.
fn is_kept(section: &'static str, name: &'static str, says: super::Says) -> Case {
    case(section, name).origin(says).get().fetched(1).get().kept(1)
}

fn is_not_kept(section: &'static str, name: &'static str, says: super::Says) -> Case {
    case(section, name).origin(says).get().fetched(1).get().fetched(2)
}

/// The same of something that comes for a request with Authorization.
fn authorized(name: &'static str, control: &'static str, is_kept: bool) -> Case {
    let case = case("RFC 9111 §3.5", name).origin(says(200).with(control));
    let case = case.get().with("Authorization: Bearer alice").fetched(1);
    let case = case.get().with("Authorization: Bearer alice");
    if is_kept { case.kept(1).get().kept(1) } else { case.fetched(2).get().fetched(3) }
}

/// An answer to a method that is none to be kept.
fn by_method(method: &'static str, name: &'static str) -> Case {
    case("RFC 9111 §3", name).origin(fresh()).ask(method).fetched(1).ask(method).fetched(2)
}

pub(super) fn cases() -> Vec<Case> {
    let control = |control| says(200).with(control);
    let with = |status, control| says(status).with(control);
    [
        methods(),
        statuses(),
        vec![
            is_not_kept(
                "RFC 9111 §5.2.2.5",
                "no-store is not kept",
                control("Cache-Control: no-store"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.5",
                "no-store is not kept, whatever else is said",
                control("Cache-Control: public, max-age=100, no-store"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.5",
                "no-store is not kept though Expires gives a lifetime",
                control("Cache-Control: no-store").with("Expires: {now+100}"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.7",
                "private is not kept",
                control("Cache-Control: private, max-age=100"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.7",
                "private is not kept though public is said too",
                control("Cache-Control: public, private, s-maxage=100"),
            ),
            case("RFC 9111 §5.2.2.7", "a field that is private goes to nobody else")
                .origin(control("Cache-Control: max-age=100, private=\"X-User\"").with("X-User: a"))
                .origin(control("Cache-Control: max-age=100, private=\"X-User\""))
                .get()
                .asked(1)
                .field("X-User", "a")
                .get()
                .status(200)
                .lacks("X-User"),
            case("RFC 9111 §5.2.1.5", "the answer to a request with no-store is not kept")
                .origin(fresh())
                .get()
                .with("Cache-Control: no-store")
                .fetched(1)
                .get()
                .fetched(2)
                .get()
                .kept(2),
            authorized(
                "an answer to a request with Authorization is not kept",
                "Cache-Control: max-age=100",
                false,
            ),
            authorized("an answer to a request with Authorization is not kept by a default lifetime either", "X-Nothing: said", false),
            authorized(
                "an answer to a request with Authorization is kept if it is public",
                "Cache-Control: public, max-age=100",
                true,
            ),
            authorized(
                "an answer to a request with Authorization is kept if it has s-maxage",
                "Cache-Control: s-maxage=100",
                true,
            ),
            authorized(
                "an answer to a request with Authorization is kept if it must be revalidated",
                "Cache-Control: must-revalidate, max-age=100",
                true,
            ),
            authorized(
                "proxy-revalidate does not let an answer to a request with Authorization be kept",
                "Cache-Control: proxy-revalidate, max-age=100",
                false,
            ),
            authorized(
                "an answer to a request with Authorization that is public and private is not kept",
                "Cache-Control: public, private, max-age=100",
                false,
            ),
            case("RFC 9111 §3.5", "what was kept for others and is not public serves no request with Authorization")
                .origin(fresh())
                .get()
                .fetched(1)
                .get()
                .with("Authorization: Bearer alice")
                .fetched(2)
                .get()
                .kept(1),
            case("RFC 9111 §3.5", "what was kept for others and is public serves a request with Authorization")
                .origin(control("Cache-Control: public, max-age=100"))
                .get()
                .fetched(1)
                .get()
                .with("Authorization: Bearer alice")
                .kept(1),
            is_not_kept(
                "RFC 9111 §7.3",
                "an answer that sets a cookie is not kept",
                fresh().with("Set-Cookie: a=b"),
            ),
            is_not_kept(
                "RFC 9111 §7.3",
                "an answer that sets a cookie is not kept though it is public",
                control("Cache-Control: public, max-age=100").with("Set-Cookie: a=b"),
            ),
            case("RFC 9111 §3", "a request with a cookie is as any other")
                .origin(fresh())
                .get()
                .with("Cookie: a=1")
                .fetched(1)
                .get()
                .with("Cookie: a=2")
                .kept(1),
            is_kept(
                "RFC 9111 §5.2.2.9",
                "public and a lifetime is kept",
                control("Cache-Control: public, max-age=100"),
            ),
            is_kept(
                "RFC 9111 §5.2.2.3",
                "must-understand takes the place of no-store where the status is understood",
                control("Cache-Control: must-understand, no-store, max-age=100"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.3",
                "must-understand is not kept where the status is not understood",
                with(299, "Cache-Control: must-understand, max-age=100"),
            ),
            is_not_kept(
                "RFC 9111 §5.2.2.3",
                "must-understand with no-store is not kept where the status is not understood",
                with(299, "Cache-Control: must-understand, no-store, max-age=100"),
            ),
            is_not_kept(
                "RFC 9111 §5.4",
                "Pragma of an answer without Cache-Control is taken as no-cache",
                says(200).with("Pragma: no-cache"),
            ),
            is_kept(
                "RFC 9111 §5.4",
                "Pragma of an answer says nothing beside Cache-Control",
                fresh().with("Pragma: no-cache"),
            ),
            case("RFC 9111 §3.3", "a part is not kept as the whole")
                .origin(
                    with(206, "Cache-Control: max-age=100")
                        .with("Content-Range: bytes 0-3/10")
                        .body("0123"),
                )
                .origin(fresh().body("0123456789"))
                .get()
                .with("Range: bytes=0-3")
                .status(206)
                .body_is("0123")
                .get()
                .status(200)
                .body_is("0123456789"),
            case("RFC 9111 §3.3", "a part that nobody asked for is not kept")
                .origin(
                    with(206, "Cache-Control: max-age=100")
                        .with("Content-Range: bytes 0-3/10")
                        .body("0123"),
                )
                .origin(fresh().body("0123456789"))
                .get()
                .status(206)
                .get()
                .fetched(2)
                .body_is("0123456789"),
            case("RFC 9111 §3", "a 304 that a client caused is not kept")
                .origin(with(304, "Cache-Control: max-age=100").with("ETag: \"a\""))
                .origin(fresh().with("ETag: \"a\""))
                .get()
                .with("If-None-Match: \"a\"")
                .status(304)
                .get()
                .fetched(2),
            case("RFC 9111 §4.1", "an answer that varies by everything answers nobody else")
                .origin(fresh().with("Vary: *"))
                .get()
                .fetched(1)
                .get()
                .asked(1)
                .answer(2)
                .no_hit(),
            case("RFC 9111 §3", "an unknown field changes nothing")
                .origin(fresh().with("CDN-Cache-Control: no-store").with("X-Accel-Expires: 0"))
                .get()
                .fetched(1)
                .get()
                .kept(1),
        ],
    ]
    .concat()
}

fn methods() -> Vec<Case> {
    vec![
        is_kept("RFC 9111 §3", "an answer to GET with a lifetime is kept", fresh()),
        by_method("POST", "an answer to POST is not kept"),
        by_method("PUT", "an answer to PUT is not kept"),
        by_method("DELETE", "an answer to DELETE is not kept"),
        by_method("PATCH", "an answer to PATCH is not kept"),
        by_method("OPTIONS", "an answer to OPTIONS is not kept"),
        by_method("BREW", "an answer to an unknown method is not kept"),
        case("RFC 9111 §3", "an answer to POST does not answer GET")
            .origin(fresh())
            .ask("POST")
            .body("x")
            .fetched(1)
            .get()
            .fetched(2),
        case("RFC 9111 §3", "an answer to POST is not kept though it says where it is")
            .origin(fresh().with("Content-Location: {path}"))
            .ask("POST")
            .fetched(1)
            .get()
            .fetched(2),
        case("RFC 9111 §3", "an answer to HEAD does not answer GET")
            .origin(fresh())
            .head()
            .status(200)
            .asked(1)
            .get()
            .fetched(2),
        case("RFC 9110 §9.3.1", "a GET with a body goes to its origin")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .body("x")
            .fetched(2)
            .get()
            .body("y")
            .fetched(3),
    ]
}

fn statuses() -> Vec<Case> {
    let with = |status, control| says(status).with(control);
    let mut cases = Vec::new();
    for (status, name) in [
        (200, "a 200 is kept without a lifetime, for as long as the operator says"),
        (203, "a 203 is kept without a lifetime"),
        (204, "a 204 is kept without a lifetime"),
        (300, "a 300 is kept without a lifetime"),
        (301, "a 301 is kept without a lifetime"),
        (308, "a 308 is kept without a lifetime"),
    ] {
        cases.push(is_kept("RFC 9110 §15.1", name, says(status)));
    }
    for (status, name) in [
        (201, "a 201 is not kept without a lifetime"),
        (202, "a 202 is not kept without a lifetime"),
        (302, "a 302 is not kept without a lifetime"),
        (303, "a 303 is not kept without a lifetime"),
        (307, "a 307 is not kept without a lifetime"),
        (404, "a 404 is not kept without a lifetime"),
        (405, "a 405 is not kept without a lifetime"),
        (410, "a 410 is not kept without a lifetime"),
        (414, "a 414 is not kept without a lifetime"),
        (501, "a 501 is not kept without a lifetime"),
        (403, "a 403 is not kept without a lifetime"),
        (500, "a 500 is not kept without a lifetime"),
        (503, "a 503 is not kept without a lifetime"),
    ] {
        cases.push(is_not_kept("RFC 9110 §15.1", name, says(status)));
    }
    for (status, name) in [
        (203, "a 203 with a lifetime is kept"),
        (204, "a 204 with a lifetime is kept"),
        (301, "a 301 with a lifetime is kept"),
        (302, "a 302 with a lifetime is kept"),
        (303, "a 303 with a lifetime is kept"),
        (307, "a 307 with a lifetime is kept"),
        (308, "a 308 with a lifetime is kept"),
    ] {
        cases.push(is_kept("RFC 9111 §3", name, with(status, "Cache-Control: max-age=100")));
    }
    cases.push(is_kept(
        "RFC 9111 §3",
        "a status that is not known is kept if there is a lifetime",
        with(299, "Cache-Control: max-age=100"),
    ));
    cases.push(is_not_kept(
        "RFC 9111 §3",
        "a status that is not known is not kept without a lifetime",
        says(299),
    ));
    for (status, name) in [
        (400, "a 400 with a lifetime is not kept, as no failure is unless it is named"),
        (404, "a 404 with a lifetime is not kept"),
        (410, "a 410 with a lifetime is not kept"),
        (500, "a 500 with a lifetime is not kept"),
        (503, "a 503 with a lifetime is not kept"),
    ] {
        cases.push(is_not_kept("RFC 9111 §3", name, with(status, "Cache-Control: max-age=100")));
    }
    cases
}
