//! What a client says of caches (RFC 9111 §5.2.1, §5.4).

use super::Case;
use super::Says;
use super::case;
use super::fresh;
use super::old;
use super::says;

/// What is kept (an answer of Age 50, fresh until 100) is served for this Cache-Control, or is not.
fn row(section: &'static str, name: &'static str, field: &'static str, is_served: bool) -> Case {
    let case = case(section, name).origin(fresh().with("Age: 50")).get().fetched(1);
    let case = case.get().with(field);
    if is_served { case.kept(1) } else { case.fetched(2) }
}

/// What is stale by 50 s is served for this Cache-Control, or is validated.
fn stale(name: &'static str, field: &'static str, is_served: bool) -> Case {
    let case = case("RFC 9111 §5.2.1.2", name).origin(old());
    let case = case.origin(says(304).with("Cache-Control: max-age=100"));
    let case = case.get().fetched(1).get().with(field);
    if is_served { case.kept(1).age(150, 156) } else { case.validated(1) }
}

/// What a client may not be told is stale, though it takes it.
fn must_not(name: &'static str, says: Says) -> Case {
    case("RFC 9111 §4.2.4", name)
        .origin(says.with("Age: 150").with("ETag: \"a\""))
        .origin(fresh())
        .get()
        .fetched(1)
        .get()
        .with("Cache-Control: max-stale")
        .fetched(2)
}

pub(super) fn cases() -> Vec<Case> {
    let max_age = "RFC 9111 §5.2.1.1";
    let min_fresh = "RFC 9111 §5.2.1.3";
    let only = "RFC 9111 §5.2.1.7";
    vec![
        row(max_age, "max-age=0 does not take what is kept", "Cache-Control: max-age=0", false),
        row(max_age, "max-age does not take what is older", "Cache-Control: max-age=10", false),
        row(max_age, "max-age takes what is younger", "Cache-Control: max-age=90", true),
        row(max_age, "max-age makes nothing fresh that is not", "Cache-Control: MAX-AGE=90", true),
        row(
            min_fresh,
            "min-fresh does not take what is stale sooner",
            "Cache-Control: min-fresh=60",
            false,
        ),
        row(
            min_fresh,
            "min-fresh takes what is fresh for longer",
            "Cache-Control: min-fresh=10",
            true,
        ),
        row(
            "RFC 9111 §5.2.1.4",
            "no-cache does not take what is kept",
            "Cache-Control: no-cache",
            false,
        ),
        row(
            "RFC 9111 §5.2.1.4",
            "no-cache counts wherever it stands",
            "Cache-Control: foo, No-Cache",
            false,
        ),
        row(
            "RFC 9111 §5.2.1.6",
            "no-transform is nothing to what is kept",
            "Cache-Control: no-transform",
            true,
        ),
        row(
            "RFC 9111 §5.2.1",
            "unknown directives of a request are skipped",
            "Cache-Control: foo=\"no-cache\", bar",
            true,
        ),
        row(
            "RFC 9111 §5.4",
            "Pragma is as no-cache where there is no Cache-Control",
            "Pragma: no-cache",
            false,
        ),
        row("RFC 9111 §5.4", "an unknown Pragma is none", "Pragma: foo", true),
        case("RFC 9111 §5.4", "Pragma is nothing beside Cache-Control")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Pragma: no-cache")
            .with("Cache-Control: max-age=100")
            .kept(1),
        case("RFC 9111 §5.2.1.4", "what no-cache asks for is validated, and kept on")
            .origin(fresh().with("ETag: \"a\""))
            .origin(says(304).with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: no-cache")
            .validated(1)
            .sent("If-None-Match", "\"a\"")
            .get()
            .kept(1),
        case("RFC 9111 §5.2.1.4", "what no-cache asks for and has changed replaces what was kept")
            .origin(fresh().with("ETag: \"a\""))
            .origin(fresh().with("ETag: \"b\""))
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: no-cache")
            .fetched(2)
            .get()
            .kept(2),
        case("RFC 9111 §5.2.1.4", "no-cache of a client goes on to the origin")
            .origin(fresh())
            .get()
            .with("Cache-Control: no-cache")
            .fetched(1)
            .sent("Cache-Control", "no-cache")
            .get()
            .kept(1),
        case("RFC 9111 §5.2.1.5", "no-store of a client takes nothing away that is kept")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: no-store")
            .status(200)
            .get()
            .kept(1),
        case(only, "only-if-cached takes what is kept")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: only-if-cached")
            .kept(1),
        case(only, "only-if-cached is 504 where nothing is kept")
            .origin(fresh())
            .get()
            .with("Cache-Control: only-if-cached")
            .status(504)
            .asked(0)
            .has("Proxy-Status"),
        case(only, "only-if-cached is 504 where what is kept is stale")
            .origin(old())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: only-if-cached")
            .status(504)
            .asked(0),
        case(only, "only-if-cached is 504 where what is kept is for other fields")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .with("Cache-Control: only-if-cached")
            .status(504)
            .asked(0),
        case(only, "only-if-cached with max-stale takes what is stale")
            .origin(old())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: only-if-cached, max-stale")
            .kept(1),
        case(only, "only-if-cached of HEAD is answered without the origin")
            .origin(fresh())
            .get()
            .fetched(1)
            .head()
            .with("Cache-Control: only-if-cached")
            .kept(1),
        stale("max-stale takes what is stale, however long", "Cache-Control: max-stale", true),
        stale("max-stale takes what is stale for less", "Cache-Control: max-stale=100", true),
        stale(
            "max-stale does not take what is stale for longer",
            "Cache-Control: max-stale=10",
            false,
        ),
        stale(
            "a max-age beside it still counts",
            "Cache-Control: max-stale=100, max-age=10",
            false,
        ),
        stale(
            "a min-fresh beside it still counts",
            "Cache-Control: max-stale=10, min-fresh=100",
            false,
        ),
        must_not(
            "max-stale does not take what must be revalidated",
            says(200).with("Cache-Control: max-age=100, must-revalidate"),
        ),
        must_not(
            "max-stale does not take what proxies must revalidate",
            says(200).with("Cache-Control: max-age=100, proxy-revalidate"),
        ),
        must_not(
            "max-stale does not take what is stale by s-maxage",
            says(200).with("Cache-Control: max-age=1000, s-maxage=100"),
        ),
        must_not(
            "max-stale does not take what says no-cache",
            says(200).with("Cache-Control: max-age=1000, no-cache"),
        ),
    ]
}
