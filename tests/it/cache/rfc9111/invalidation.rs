//! What no longer holds since somebody changed it (RFC 9111 §4.4).

use super::Api;
use super::Case;
use super::Says;
use super::case;
use super::fresh;
use super::origin::silence;
use super::says;

const SECTION: &str = "RFC 9111 §4.4";

/// What is kept is asked for again after this method was answered by this, or is not.
fn row(name: &'static str, method: &'static str, says: Says, is_gone: bool) -> Case {
    let case = case(SECTION, name).origin(fresh()).origin(says).origin(fresh());
    let case = case.get().fetched(1).ask(method).asked(1).answer(2).get();
    if is_gone { case.fetched(3) } else { case.kept(1) }
}

/// What is kept at `/b` is asked for again after a POST to `/a` was answered with this, or is not.
fn named(name: &'static str, says: Says, is_gone: bool) -> Case {
    let case = case(SECTION, name).origin(fresh()).origin(says).origin(fresh());
    let case = case.get().at("/b").fetched(1).ask("POST").at("/a").asked(1).answer(2);
    let case = case.get().at("/b");
    if is_gone { case.fetched(3) } else { case.kept(1) }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        row("POST makes what is kept invalid", "POST", says(200), true),
        row("PUT makes what is kept invalid", "PUT", says(204), true),
        row("DELETE makes what is kept invalid", "DELETE", says(200), true),
        row("PATCH makes what is kept invalid", "PATCH", says(200), true),
        row("an unknown method makes what is kept invalid", "BREW", says(200), true),
        row("a 201 to it makes what is kept invalid", "POST", says(201), true),
        row(
            "a 303 to it makes what is kept invalid",
            "POST",
            says(303).with("Location: /elsewhere"),
            true,
        ),
        row("a 302 to it makes what is kept invalid", "POST", says(302), true),
        row("a 400 to it leaves what is kept", "POST", says(400), false),
        row("a 404 to it leaves what is kept", "DELETE", says(404), false),
        row("a 412 to it leaves what is kept", "PUT", says(412), false),
        row("a 500 to it leaves what is kept", "POST", says(500), false),
        row("a 503 to it leaves what is kept", "POST", says(503), false),
        row("OPTIONS leaves what is kept", "OPTIONS", says(200), false),
        row("TRACE leaves what is kept", "TRACE", says(200), false),
        case(SECTION, "a request that reached nobody leaves what is kept")
            .origin(fresh())
            .origin(silence())
            .get()
            .fetched(1)
            .ask("POST")
            .status(502)
            .get()
            .kept(1),
        case(SECTION, "all that is kept for other fields is invalid too")
            .origin(fresh().with("Vary: X-A"))
            .origin(fresh().with("Vary: X-A"))
            .origin(says(200))
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .ask("POST")
            .with("X-A: 1")
            .fetched(3)
            .get()
            .with("X-A: 1")
            .fetched(4)
            .get()
            .with("X-A: 2")
            .fetched(5),
        case(SECTION, "what is kept for another query stays")
            .origin(fresh())
            .get()
            .at("?a")
            .fetched(1)
            .ask("POST")
            .fetched(2)
            .get()
            .at("?a")
            .kept(1),
        case(SECTION, "what is asked for behind it is kept again")
            .origin(fresh())
            .get()
            .fetched(1)
            .ask("DELETE")
            .fetched(2)
            .get()
            .fetched(3)
            .get()
            .kept(3),
        named("what Location names is invalid too", says(201).with("Location: {path}/b"), true),
        named(
            "what Content-Location names is invalid too",
            says(200).with("Content-Location: {path}/b"),
            true,
        ),
        named("a Location may be relative to what was asked", says(201).with("Location: b"), true),
        named(
            "a Location may be a whole URL",
            says(201).with("Location: http://{o}{path}/b"),
            true,
        ),
        named("what an error names stays", says(400).with("Location: {path}/b"), false),
        named(
            "what Location names on another host stays here",
            says(201).with("Location: http://{other}{path}/b"),
            false,
        ),
        named(
            "what Location names on another port stays here",
            says(201).with("Location: http://127.0.0.11:1{path}/b"),
            false,
        ),
        named(
            "what Location names by another scheme stays here",
            says(201).with("Location: https://{o}{path}/b"),
            false,
        ),
        case(SECTION, "what Location names on another host stays there")
            .origin(fresh())
            .origin(says(201).with("Location: http://{other}{path}"))
            .origin(fresh())
            .get()
            .by(Api::NoTtl)
            .fetched(1)
            .ask("POST")
            .at("/a")
            .fetched(2)
            .get()
            .by(Api::NoTtl)
            .kept(1),
    ]
}
