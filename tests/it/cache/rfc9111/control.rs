//! Cache-Control of an answer, and how it is read (RFC 9111 §5.2).

use super::Case;
use super::Says;
use super::case;
use super::fresh;
use super::old;
use super::origin::silence;
use super::says;

/// This Cache-Control gives a lifetime, or it does not: then it is asked for again, since there is
/// nothing to validate.
fn lifetime(section: &'static str, name: &'static str, control: &'static str, is: bool) -> Case {
    let case = case(section, name).origin(says(200).with(control)).get().fetched(1).get();
    if is { case.kept(1) } else { case.asked(1).answer(2).no_hit() }
}

/// What came stale, with this said of it beside max-age, and the client's taking it so.
fn never_stale(section: &'static str, name: &'static str, control: &'static str) -> Case {
    let says: Says = says(200).with(control).with("Age: 150").with("ETag: \"a\"");
    case(section, name)
        .origin(says)
        .origin(fresh())
        .get()
        .fetched(1)
        .get()
        .with("Cache-Control: max-stale=1000")
        .fetched(2)
}

pub(super) fn cases() -> Vec<Case> {
    let syntax = "RFC 9111 §5.2";
    vec![
        lifetime(syntax, "directives are read in any case", "Cache-Control: MAX-AGE=100", true),
        lifetime(
            syntax,
            "no-store is read in any case",
            "CACHE-CONTROL: Max-Age=100, No-STORE",
            false,
        ),
        lifetime(
            syntax,
            "unknown directives are skipped",
            "Cache-Control: foo, max-age=100, bar=1",
            true,
        ),
        lifetime(
            syntax,
            "what stands within quotes of an unknown directive is no directive",
            "Cache-Control: foo=\"a, no-store, b\", max-age=100",
            true,
        ),
        lifetime(
            syntax,
            "a quoted string may hold an escaped quote",
            "Cache-Control: foo=\"a\\\", no-store, b\", max-age=100",
            true,
        ),
        lifetime(
            syntax,
            "a directive that begins with the name of another is another",
            "Cache-Control: no-storey, max-age=100",
            true,
        ),
        lifetime(
            syntax,
            "empty members and blanks are skipped",
            "Cache-Control: ,, public ,\t, max-age=100 , ,",
            true,
        ),
        lifetime(
            syntax,
            "a comma without a blank parts members",
            "Cache-Control: max-age=100,no-store",
            false,
        ),
        case(syntax, "lines of Cache-Control are one list")
            .origin(fresh().with("Cache-Control: no-store"))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        case(syntax, "lines of Cache-Control are one list in either order")
            .origin(says(200).with("Cache-Control: public").with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        lifetime(
            "RFC 9111 §5.2.2.1",
            "max-age may be quoted",
            "Cache-Control: max-age=\"100\"",
            true,
        ),
        lifetime(
            "RFC 9111 §5.2.2.1",
            "max-age may have leading zeros",
            "Cache-Control: max-age=000100",
            true,
        ),
        lifetime(
            "RFC 9111 §1.2.2",
            "a max-age too large for any number is a long one",
            "Cache-Control: max-age=99999999999999999999999",
            true,
        ),
        lifetime(
            "RFC 9111 §1.2.2",
            "a max-age of 2^31 is one",
            "Cache-Control: max-age=2147483648",
            true,
        ),
        lifetime(
            "RFC 9111 §5.2.2.1",
            "max-age=0 is no lifetime",
            "Cache-Control: max-age=0",
            false,
        ),
        lifetime(
            "RFC 9111 §4.2.1",
            "a negative max-age is no lifetime",
            "Cache-Control: max-age=-1",
            false,
        ),
        lifetime(
            "RFC 9111 §4.2.1",
            "a max-age that is no number is no lifetime",
            "Cache-Control: max-age=abc",
            false,
        ),
        lifetime(
            "RFC 9111 §4.2.1",
            "a max-age with a unit is no lifetime",
            "Cache-Control: max-age=100s",
            false,
        ),
        lifetime(
            "RFC 9111 §4.2.1",
            "a max-age with a fraction is no lifetime",
            "Cache-Control: max-age=100.5",
            false,
        ),
        lifetime(
            "RFC 9111 §4.2.1",
            "a max-age without a value is no lifetime",
            "Cache-Control: max-age",
            false,
        ),
        case("RFC 9111 §4.2.1", "a max-age that is no number is not mended by Expires")
            .origin(says(200).with("Cache-Control: max-age=abc").with("Expires: {now+100}"))
            .get()
            .fetched(1)
            .get()
            .fetched(2),
        lifetime(
            "RFC 9111 §4.2.1",
            "of two max-age the first is none, so there is none",
            "Cache-Control: max-age=0, max-age=100",
            false,
        ),
        lifetime(
            "RFC 9111 §5.2.2.10",
            "s-maxage beats max-age",
            "Cache-Control: max-age=0, s-maxage=100",
            true,
        ),
        lifetime(
            "RFC 9111 §5.2.2.10",
            "s-maxage=0 beats max-age",
            "Cache-Control: s-maxage=0, max-age=100",
            false,
        ),
        lifetime(
            "RFC 9111 §5.2.2.10",
            "an s-maxage that is no number is not mended by max-age",
            "Cache-Control: s-maxage=abc, max-age=100",
            false,
        ),
        case("RFC 9111 §5.2.2.10", "s-maxage beats Expires")
            .origin(says(200).with("Cache-Control: s-maxage=100").with("Expires: {now-100}"))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        never_stale(
            "RFC 9111 §5.2.2.10",
            "what is stale by s-maxage is not served so, whatever the client takes",
            "Cache-Control: s-maxage=100",
        ),
        never_stale(
            "RFC 9111 §5.2.2.2",
            "what must be revalidated is not served stale, whatever the client takes",
            "Cache-Control: max-age=100, must-revalidate",
        ),
        never_stale(
            "RFC 9111 §5.2.2.8",
            "proxy-revalidate is that for us",
            "Cache-Control: max-age=100, proxy-revalidate",
        ),
        never_stale(
            "RFC 9111 §5.2.2.4",
            "what is not to be cached is not served stale, whatever the client takes",
            "Cache-Control: max-age=100, no-cache",
        ),
        case("RFC 9111 §5.2.2.2", "what must be revalidated is served while it is fresh")
            .origin(says(200).with("Cache-Control: max-age=100, must-revalidate"))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case("RFC 9111 §5.2.2.2", "what must be revalidated and cannot be is an error")
            .origin(
                says(200)
                    .with("Cache-Control: max-age=100, must-revalidate, stale-if-error=1000")
                    .with("Age: 150")
                    .with("ETag: \"a\""),
            )
            .origin(silence())
            .get()
            .fetched(1)
            .get()
            .expect(super::Expected::AskedAtLeastOnce)
            .has("Proxy-Status")
            .lacks("Age"),
        case("RFC 9111 §5.2.2.4", "what says no-cache is validated each time")
            .origin(says(200).with("Cache-Control: no-cache, max-age=100").with("ETag: \"a\""))
            .origin(says(304).with("Cache-Control: no-cache, max-age=100").with("ETag: \"a\""))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a\"")
            .get()
            .validated(1)
            .sent("If-None-Match", "\"a\""),
        lifetime(
            "RFC 9111 §5.2.2.4",
            "what says no-cache and has no validator is asked for each time",
            "Cache-Control: no-cache, max-age=100",
            false,
        ),
        case("RFC 9111 §5.2.2.4", "a field that no-cache names is not served again without asking")
            .origin(
                says(200).with("Cache-Control: max-age=100, no-cache=\"X-Once\"").with("X-Once: 1"),
            )
            .origin(says(200).with("Cache-Control: max-age=100"))
            .get()
            .asked(1)
            .field("X-Once", "1")
            .get()
            .status(200)
            .lacks("X-Once"),
        case("RFC 9111 §5.2.2.4", "a cookie that no-cache names is left out, and the rest is kept")
            .origin(
                says(200)
                    .with("Cache-Control: max-age=100, no-cache=\"Set-Cookie\"")
                    .with("Set-Cookie: a=b"),
            )
            .get()
            .fetched(1)
            .field("Set-Cookie", "a=b")
            .get()
            .kept(1)
            .lacks("Set-Cookie"),
        case("RFC 9111 §5.2.2.7", "a cookie that private names is left out, and the rest is kept")
            .origin(
                says(200)
                    .with("Cache-Control: max-age=100, private=\"Set-Cookie\"")
                    .with("Set-Cookie: a=b"),
            )
            .get()
            .fetched(1)
            .field("Set-Cookie", "a=b")
            .get()
            .kept(1)
            .lacks("Set-Cookie"),
        case(
            "RFC 9111 §5.2.2.7",
            "of those who come at once nobody gets the field that is private to another",
        )
        .origin(
            says(200)
                .with("Cache-Control: max-age=100, private=\"X-Origin\"")
                .with("X-A: 1")
                .slow(200),
        )
        .get()
        .clients(3)
        .status(200)
        .field("X-A", "1")
        .expect(super::Expected::AtMostOnce("X-Origin")),
        lifetime(
            "RFC 9111 §5.2.2.6",
            "no-transform is nothing to a cache that transforms nothing",
            "Cache-Control: no-transform, max-age=100",
            true,
        ),
        lifetime(
            "RFC 8246 §2",
            "immutable gives no lifetime of its own, nor takes one",
            "Cache-Control: immutable, max-age=100",
            true,
        ),
        case("RFC 8246 §2", "what is immutable is still validated when it is stale")
            .origin(
                says(200)
                    .with("Cache-Control: max-age=100, immutable")
                    .with("Age: 150")
                    .with("ETag: \"a\""),
            )
            .origin(says(304).with("Cache-Control: max-age=100, immutable"))
            .get()
            .fetched(1)
            .get()
            .validated(1),
        case("RFC 9111 §5.2.2", "what was kept is served with the Cache-Control that it came with")
            .origin(says(200).with("Cache-Control: max-age=100, foo=\"bar\""))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .field("Cache-Control", "max-age=100, foo=\"bar\""),
        case("RFC 9111 §5.2", "a request directive in an answer means nothing")
            .origin(says(200).with("Cache-Control: max-age=100, only-if-cached, min-fresh=1000"))
            .get()
            .fetched(1)
            .get()
            .kept(1),
        case("RFC 9111 §5.2", "an answer directive in a request means nothing")
            .origin(fresh())
            .get()
            .with("Cache-Control: private, s-maxage=0, must-revalidate")
            .fetched(1)
            .get()
            .with("Cache-Control: private, s-maxage=0, must-revalidate")
            .kept(1),
        case("RFC 9111 §5.2.2.1", "what came stale is validated before it is served")
            .origin(old())
            .origin(says(304).with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .get()
            .kept(1),
    ]
}
