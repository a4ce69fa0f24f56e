//! The rules as tables: RFC 9111 by section.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;

use super::Over;
use super::Settings;
use super::control::OfRequest;
use super::entry::Head;
use super::invalidation;
use super::key::Place;
use super::range;
use super::range::Part;
use super::serving;
use super::serving::Because;
use super::serving::Use;
use super::storing;
use super::storing::Asked;
use super::storing::Why;
use super::validation;
use crate::base::authority::Authority;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW: u64 = 784_111_777;
const DATE: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn fields(lines: &[&str]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name: HeaderName = name.parse().unwrap();
        fields.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    fields
}

/// A response of this status and these fields, that came a second after it was asked for.
fn keep(settings: &Settings, asked: &[&str], status: u16, lines: &[&str]) -> Result<Head, Why> {
    keep_of(settings, &Method::GET, asked, status, lines)
}

fn keep_of(
    settings: &Settings,
    method: &Method,
    asked: &[&str],
    status: u16,
    lines: &[&str],
) -> Result<Head, Why> {
    let asked = fields(asked);
    let asked = Asked {
        method,
        fields: &asked,
        sees: &|_| true,
        no_store: OfRequest::read(&asked).no_store,
        is_authorized: asked.contains_key(header::AUTHORIZATION),
        has_cookie: asked.contains_key(header::COOKIE),
        at: at(NOW),
    };
    let status = StatusCode::from_u16(status).unwrap();
    storing::keep(settings, &asked, status, &fields(lines), at(NOW))
}

fn kept(lines: &[&str]) -> Head {
    keep(&Settings::default(), &[], 200, lines).unwrap()
}

#[test]
fn what_may_be_kept() {
    for (section, asked, status, lines, wanted) in [
        ("3", &[][..], 200, &[][..], Ok(())),
        ("3", &[], 200, &["cache-control: max-age=60"], Ok(())),
        ("3", &[], 302, &["cache-control: max-age=60"], Ok(())),
        ("3", &[], 302, &["cache-control: public"], Ok(())),
        ("3", &[], 302, &["expires: Sun, 06 Nov 1994 08:50:37 GMT"], Ok(())),
        // Of a status that is not for keeping nobody guesses a lifetime.
        ("4.2.2", &[], 302, &[], Err(Why::Lifetime)),
        ("4.2.2", &[], 301, &[], Ok(())),
        ("4.2.2", &[], 204, &[], Ok(())),
        ("3", &[], 299, &["cache-control: max-age=60"], Ok(())),
        ("3", &[], 299, &["cache-control: max-age=60, must-understand"], Err(Why::Status)),
        ("3.3", &[], 206, &["cache-control: max-age=60"], Err(Why::Partial)),
        ("3", &[], 304, &["cache-control: max-age=60"], Err(Why::Partial)),
        ("5.2.2.5", &[], 200, &["cache-control: no-store"], Err(Why::NoStore)),
        ("5.2.2.5", &[], 200, &["cache-control: max-age=60, no-store"], Err(Why::NoStore)),
        (
            "5.2.2.5",
            &[],
            200,
            &["cache-control: max-age=60", "cache-control: NO-STORE"],
            Err(Why::NoStore),
        ),
        ("5.2.2.3", &[], 200, &["cache-control: max-age=60, no-store, must-understand"], Ok(())),
        (
            "5.2.2.3",
            &[],
            299,
            &["cache-control: max-age=60, no-store, must-understand"],
            Err(Why::Status),
        ),
        (
            "5.2.1.5",
            &["cache-control: no-store"],
            200,
            &["cache-control: max-age=60"],
            Err(Why::Request),
        ),
        ("5.2.2.7", &[], 200, &["cache-control: private"], Err(Why::Private)),
        ("5.2.2.7", &[], 200, &["cache-control: private, max-age=60"], Err(Why::Private)),
        ("5.2.2.7", &[], 200, &["cache-control: private=\"x-a\", max-age=60"], Ok(())),
        ("5.2.2.7", &[], 200, &["cache-control: private, public, max-age=60"], Err(Why::Private)),
        (
            "3.5",
            &["authorization: x"],
            200,
            &["cache-control: max-age=60"],
            Err(Why::Authorization),
        ),
        ("3.5", &["authorization: x"], 200, &[], Err(Why::Authorization)),
        ("3.5", &["authorization: x"], 200, &["cache-control: public"], Ok(())),
        ("3.5", &["authorization: x"], 200, &["cache-control: s-maxage=60"], Ok(())),
        (
            "3.5",
            &["authorization: x"],
            200,
            &["cache-control: max-age=60, must-revalidate"],
            Ok(()),
        ),
        (
            "3.5",
            &["authorization: x"],
            200,
            &["cache-control: max-age=60, proxy-revalidate"],
            Err(Why::Authorization),
        ),
        // What is for one user is mostly asked for with a Cookie.
        ("4.2.2", &["cookie: a=b"], 200, &[], Err(Why::Cookie)),
        ("4.2.2", &["cookie: a=b"], 200, &["cache-control: public"], Ok(())),
        ("4.2.1", &["cookie: a=b"], 200, &["cache-control: max-age=60"], Ok(())),
        ("7.3", &[], 200, &["cache-control: max-age=60", "set-cookie: a=b"], Err(Why::SetCookie)),
        (
            "7.3",
            &[],
            200,
            &["cache-control: public, max-age=60", "set-cookie: a=b"],
            Err(Why::SetCookie),
        ),
        (
            "7.3",
            &[],
            200,
            &["cache-control: no-cache=set-cookie, max-age=60", "set-cookie: a=b"],
            Ok(()),
        ),
        (
            "7.3",
            &[],
            200,
            &["cache-control: private=set-cookie, max-age=60", "set-cookie: a=b"],
            Ok(()),
        ),
        ("4.1", &[], 200, &["cache-control: max-age=60", "vary: *"], Err(Why::Vary)),
        ("4.1", &[], 200, &["cache-control: max-age=60", "vary: accept"], Ok(())),
        ("3", &[], 404, &["cache-control: max-age=60"], Err(Why::Status)),
        ("3", &[], 500, &["cache-control: max-age=60"], Err(Why::Status)),
        // Without a lifetime or a validator there is no use in it.
        ("4.2.1", &[], 200, &["cache-control: max-age=0"], Err(Why::Lifetime)),
        ("4.2.1", &[], 200, &["cache-control: max-age=0", "etag: \"a\""], Ok(())),
        ("4.2.1", &[], 200, &["cache-control: max-age=60", "age: 60"], Err(Why::Lifetime)),
        ("5.3", &[], 200, &["expires: 0"], Err(Why::Lifetime)),
        ("5.2.2.4", &[], 200, &["cache-control: no-cache"], Err(Why::Lifetime)),
        (
            "5.2.2.4",
            &[],
            200,
            &["cache-control: no-cache", "last-modified: Sun, 06 Nov 1994 08:49:36 GMT"],
            Ok(()),
        ),
        ("3", &[], 200, &["content-length: 99999999999"], Err(Why::Length)),
        // §3.4: a whole answer to a request for a part.
        ("3.4", &["range: bytes=0-1"], 200, &["cache-control: max-age=60"], Ok(())),
    ] {
        let came = keep(&Settings::default(), asked, status, lines).map(|_| ());
        assert_eq!(came, wanted, "§{section} {asked:?} {status} {lines:?}");
    }
}

#[test]
fn methods_are_get_and_what_the_operator_says_of_post() {
    let keep = |settings: &Settings, method: &Method, lines: &[&str]| {
        keep_of(settings, method, &[], 200, lines).map(|_| ())
    };
    let settings = Settings::default();
    let post = Settings { post: Some(1), ..Settings::default() };
    for method in [Method::POST, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let lines = &["cache-control: max-age=60"];
        assert_eq!(keep(&settings, &method, lines), Err(Why::Method), "{method}");
    }
    assert_eq!(keep(&post, &Method::POST, &[]), Ok(()));
    assert_eq!(keep(&post, &Method::PUT, &[]), Err(Why::Method));
}

#[test]
fn failures_are_kept_where_they_are_named() {
    let not_found = (StatusCode::NOT_FOUND, Duration::from_secs(10));
    let teapot = (StatusCode::IM_A_TEAPOT, Duration::from_secs(5));
    let settings = Settings { negative: vec![not_found, teapot], ..Settings::default() };
    for (status, lines, wanted) in [
        (404, &[][..], Ok(10)),
        (404, &["cache-control: max-age=60"], Ok(60)),
        (404, &["cache-control: no-store"], Err(Why::NoStore)),
        (418, &[], Ok(5)),
        (410, &[], Err(Why::Status)),
        (200, &[], Ok(60)),
    ] {
        let came = keep(&settings, &[], status, lines).map(|head| head.lifetime.as_secs());
        assert_eq!(came, wanted, "{status} {lines:?}");
    }
}

#[test]
fn lifetimes_and_ages() {
    for (section, lines, lifetime, age) in [
        ("4.2.1", &["cache-control: s-maxage=5, max-age=60"][..], 5, 0),
        ("4.2.1", &["cache-control: max-age=60", "expires: 0"], 60, 0),
        ("4.2.1", &["cache-control: s-maxage=0", "etag: \"a\""], 0, 0),
        ("5.3", &[DATE, "expires: Sun, 06 Nov 1994 08:50:37 GMT"], 60, 0),
        // Without a Date it is when the response came.
        ("5.3", &["expires: Sun, 06 Nov 1994 08:50:37 GMT"], 60, 0),
        ("5.3", &[DATE, "expires: Sun, 06 Nov 1994 08:49:37 GMT", "etag: \"a\""], 0, 0),
        ("4.2.3", &["cache-control: max-age=60", "age: 7"], 60, 7),
        ("4.2.3", &["cache-control: max-age=60", "date: Sun, 06 Nov 1994 08:49:27 GMT"], 60, 10),
        (
            "4.2.3",
            &["cache-control: max-age=60", "age: 7", "date: Sun, 06 Nov 1994 08:49:27 GMT"],
            60,
            10,
        ),
        (
            "4.2.3",
            &["cache-control: max-age=60", "age: 17", "date: Sun, 06 Nov 1994 08:49:27 GMT"],
            60,
            17,
        ),
        // A clock ahead of ours makes nothing younger.
        ("4.2.3", &["cache-control: max-age=60", "date: Sun, 06 Nov 1994 09:49:27 GMT"], 60, 0),
        ("4.2.3", &["cache-control: max-age=60", "date: soon"], 60, 0),
        // What we say is from when it came.
        ("4.2.2", &["age: 7"], 67, 7),
        ("4.2.2", &["date: Sun, 06 Nov 1994 08:49:27 GMT"], 70, 10),
    ] {
        let head = kept(lines);
        assert_eq!(head.lifetime.as_secs(), lifetime, "§{section} {lines:?}");
        assert_eq!(head.age(at(NOW)).as_secs(), age, "§{section} {lines:?}");
        assert_eq!(head.age(at(NOW + 5)).as_secs(), age + 5);
        assert_eq!(head.age(at(NOW - 5)).as_secs(), age, "a clock that was put back");
    }
}

#[test]
fn what_a_response_waited_for_counts_as_its_age() {
    let none = HeaderMap::new();
    let sees = &|_: &HeaderName| true;
    let asked = Asked {
        method: &Method::GET,
        fields: &none,
        sees,
        no_store: false,
        is_authorized: false,
        has_cookie: false,
        at: at(NOW - 3),
    };
    let lines = fields(&["age: 2", "cache-control: max-age=60"]);
    let head = storing::keep(&Settings::default(), &asked, StatusCode::OK, &lines, at(NOW));
    assert_eq!(head.unwrap().age(at(NOW)).as_secs(), 5);
}

#[test]
fn what_is_kept_of_a_response_is_what_others_may_see() {
    let head = kept(&[
        "age: 3",
        "cache-control: max-age=60, private=\"x-user\", no-cache=\"x-turn, set-cookie\"",
        "set-cookie: a=b",
        "trailer: x-sum",
        "x-turn: 1",
        "x-user: alice",
        "x-other: 1",
        "x-other: 2",
        "date: Sun, 06 Nov 1994 08:49:30 GMT",
    ]);
    let wanted = fields(&[
        "cache-control: max-age=60, private=\"x-user\", no-cache=\"x-turn, set-cookie\"",
        "x-other: 1",
        "x-other: 2",
        "date: Sun, 06 Nov 1994 08:49:30 GMT",
    ]);
    assert_eq!(head.fields, wanted);
    // RFC 9110 §6.6.1.
    assert_eq!(kept(&[]).fields[header::DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
}

#[test]
fn force_overrides_lifetimes_and_what_is_named_and_nothing_else() {
    let ttl = Duration::from_secs(30);
    let force = Settings { ttl, force: true, ..Settings::default() };
    let lines =
        &["cache-control: max-age=600, must-revalidate, no-cache", "age: 2", "pragma: no-cache"];
    let head = keep(&force, &[], 200, lines).unwrap();
    assert_eq!(head.lifetime.as_secs(), 32);
    assert!(head.terms.may_be_stale && !head.terms.is_always_validated);
    let one = Over { no_store: true, ..Over::default() };
    for (why, asked, lines, over) in [
        (Why::NoStore, &[][..], &["cache-control: no-store"][..], one),
        (Why::Private, &[], &["cache-control: private"], Over { private: true, ..Over::default() }),
        (Why::SetCookie, &[], &["set-cookie: a=b"], Over { set_cookie: true, ..Over::default() }),
        (
            Why::Authorization,
            &["authorization: x"],
            &[],
            Over { authorization: true, ..Over::default() },
        ),
    ] {
        let came = |force_over, force| {
            let settings = Settings { ttl, force, force_over, ..Settings::default() };
            keep(&settings, asked, 200, lines).map(|_| ())
        };
        assert_eq!(came(Over::default(), true), Err(why));
        assert_eq!(came(over, true), Ok(()));
        assert_eq!(came(over, false), Err(why), "without force");
        let others = Over {
            no_store: !over.no_store,
            private: !over.private,
            authorization: !over.authorization,
            set_cookie: !over.set_cookie,
        };
        assert_eq!(came(others, true), Err(why), "with all others");
    }
    assert_eq!(keep(&force, &["cache-control: no-store"], 200, &[]), Err(Why::Request));
    assert_eq!(keep(&force, &[], 200, &["vary: *"]), Err(Why::Vary));
    assert_eq!(keep(&force, &[], 500, &[]), Err(Why::Status));
}

#[test]
fn a_ttl_of_zero_keeps_what_has_a_lifetime_of_its_own() {
    let settings = Settings { ttl: Duration::ZERO, ..Settings::default() };
    assert_eq!(keep(&settings, &[], 200, &["etag: \"a\""]), Err(Why::Lifetime));
    let head = keep(&settings, &[], 200, &["cache-control: max-age=5"]).unwrap();
    assert_eq!(head.lifetime.as_secs(), 5);
}

#[test]
fn it_is_kept_for_as_long_as_it_is_of_use() {
    let swr = "cache-control: max-age=60, stale-while-revalidate=100, stale-if-error=10";
    for (lines, wanted) in [
        (&["cache-control: max-age=60"][..], 60),
        (&["cache-control: max-age=60", "age: 10"], 50),
        (&["cache-control: max-age=600", "etag: \"a\""], 1200),
        (&["cache-control: max-age=6", "etag: \"a\""], 66),
        (&["cache-control: max-age=0", "etag: \"a\""], 60),
        (&["cache-control: max-age=31536000", "etag: \"a\""], 31_536_000 + 86_400),
        (&[swr], 160),
    ] {
        assert_eq!(kept(lines).keep.as_secs(), wanted, "{lines:?}");
    }
}

#[test]
fn what_may_be_done_with_it() {
    let minute = "cache-control: max-age=60";
    let (stale, request) = (Use::Ask(Because::Stale), Use::Ask(Because::Request));
    for (section, lines, asked, age, wanted) in [
        ("4.2", &[minute][..], "", 59, Use::Fresh),
        ("4.2", &[minute], "", 60, stale),
        ("4.2.4", &[minute], "", 61, stale),
        ("5.2.1.1", &[minute], "max-age=10", 10, Use::Fresh),
        ("5.2.1.1", &[minute], "max-age=10", 11, request),
        ("5.2.1.1", &[minute], "max-age=0", 0, Use::Fresh),
        ("5.2.1.1", &[minute], "max-age=0", 1, request),
        ("5.2.1.1", &[minute], "max-age=x", 1, request),
        ("5.2.1.3", &[minute], "min-fresh=10", 50, Use::Fresh),
        ("5.2.1.3", &[minute], "min-fresh=10", 51, request),
        ("5.2.1.3", &[minute], "min-fresh=x", 0, request),
        ("5.2.1.2", &[minute], "max-stale", 6000, Use::Stale),
        ("5.2.1.2", &[minute], "max-stale=10", 70, Use::Stale),
        ("5.2.1.2", &[minute], "max-stale=10", 71, stale),
        ("5.2.1.2", &[minute], "max-stale=x", 70, stale),
        ("5.2.1.2", &[minute], "max-stale, max-age=65", 65, Use::Stale),
        ("5.2.1.2", &[minute], "max-stale, max-age=65", 66, stale),
        ("5.2.1.4", &[minute], "no-cache", 0, request),
        ("5.2.1.4", &[minute], "no-cache, max-stale", 61, stale),
        ("5.2.2.2", &["cache-control: max-age=60, must-revalidate"], "max-stale", 59, Use::Fresh),
        ("5.2.2.2", &["cache-control: max-age=60, must-revalidate"], "max-stale", 61, stale),
        ("5.2.2.8", &["cache-control: max-age=60, proxy-revalidate"], "max-stale", 61, stale),
        ("5.2.2.10", &["cache-control: s-maxage=60"], "max-stale", 61, stale),
        ("5.2.2.4", &["cache-control: max-age=60, no-cache", "etag: \"a\""], "", 0, stale),
        ("5.2.2.4", &["cache-control: max-age=60, no-cache", "etag: \"a\""], "max-stale", 0, stale),
        ("5.2.2.4", &["cache-control: max-age=60, no-cache=\"x\""], "", 0, Use::Fresh),
        (
            "5861 3",
            &["cache-control: max-age=60, stale-while-revalidate=10"],
            "",
            69,
            Use::WhileRevalidated,
        ),
        ("5861 3", &["cache-control: max-age=60, stale-while-revalidate=10"], "", 70, stale),
        (
            "5861 3",
            &["cache-control: max-age=60, stale-while-revalidate=10"],
            "max-age=99",
            65,
            stale,
        ),
        (
            "5861 3",
            &["cache-control: max-age=60, stale-while-revalidate=10"],
            "no-cache",
            65,
            stale,
        ),
        (
            "5861 3",
            &["cache-control: max-age=60, stale-while-revalidate=10, must-revalidate"],
            "",
            65,
            stale,
        ),
        ("5861 3", &["cache-control: s-maxage=60, stale-while-revalidate=10"], "", 65, stale),
    ] {
        let asked_fields = fields(&[&format!("cache-control: {asked}")]);
        let came = serving::judge(&kept(lines), &OfRequest::read(&asked_fields), at(NOW + age));
        assert_eq!(came, wanted, "§{section} {lines:?} {asked} {age}");
    }
}

#[test]
fn what_stands_in_for_an_error() {
    let sie = "cache-control: max-age=60, stale-if-error=10";
    for (line, asked, age, wanted) in [
        (sie, "", 69, true),
        (sie, "", 70, false),
        (sie, "stale-if-error=100", 159, true),
        ("cache-control: max-age=60", "stale-if-error=100", 159, true),
        ("cache-control: max-age=60", "stale-if-error=100", 160, false),
        ("cache-control: max-age=60", "", 61, false),
        (sie, "no-cache", 61, false),
        (sie, "max-age=100", 61, false),
        ("cache-control: max-age=60, stale-if-error=10, must-revalidate", "", 61, false),
        (
            "cache-control: max-age=60, stale-if-error=10, proxy-revalidate",
            "stale-if-error=9",
            61,
            false,
        ),
        ("cache-control: s-maxage=60, stale-if-error=10", "", 61, false),
        ("cache-control: max-age=60, stale-if-error=10, no-cache", "", 61, false),
    ] {
        let head = kept(&[line, "etag: \"a\""]);
        let said = OfRequest::read(&fields(&[&format!("cache-control: {asked}")]));
        let came = serving::replaces_error(&head, &said, at(NOW + age));
        assert_eq!(came, wanted, "{line} {asked} {age}");
    }
    let settings = Settings {
        stale_if_error: Duration::from_secs(10),
        stale_while_revalidate: Duration::from_secs(5),
        ..Settings::default()
    };
    let head = keep(&settings, &[], 200, &[]).unwrap();
    let asked = OfRequest::default();
    assert!(serving::replaces_error(&head, &asked, at(NOW + 69)));
    assert_eq!(serving::judge(&head, &asked, at(NOW + 64)), Use::WhileRevalidated);
    assert_eq!(serving::judge(&head, &asked, at(NOW + 65)), Use::Ask(Because::Stale));
    let own = keep(&settings, &[], 200, &["cache-control: max-age=60, stale-if-error=0"]).unwrap();
    assert!(!serving::replaces_error(&own, &asked, at(NOW + 61)), "what the origin says counts");
    assert!([500, 502, 503, 504].into_iter().all(serving::is_error));
    assert!(![200, 404, 429, 501, 505].into_iter().any(serving::is_error));
}

#[test]
fn a_client_that_has_it_gets_a_304() {
    let modified = "last-modified: Sun, 06 Nov 1994 08:00:00 GMT";
    let both = &["etag: \"a\"", modified][..];
    for (lines, asked, wanted) in [
        (both, &["if-none-match: \"a\""][..], true),
        (both, &["if-none-match: W/\"a\""], true),
        (&["etag: W/\"a\""], &["if-none-match: \"a\""], true),
        (both, &["if-none-match: \"b\", \"a\""], true),
        (both, &["if-none-match: \"b,\"", "if-none-match: \"a\""], true),
        (both, &["if-none-match: \"b\""], false),
        (both, &["if-none-match: \"b, \\\"a\""], false),
        (both, &["if-none-match: a"], false),
        (both, &["if-none-match: *"], true),
        (&[], &["if-none-match: *"], true),
        (&[], &["if-none-match: \"a\""], false),
        // RFC 9110 §13.2.2: one that does not match makes dates of no account.
        (
            both,
            &["if-none-match: \"b\"", "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT"],
            false,
        ),
        (both, &["if-modified-since: Sun, 06 Nov 1994 08:00:00 GMT"], true),
        (both, &["if-modified-since: Sun, 06 Nov 1994 08:00:01 GMT"], true),
        (both, &["if-modified-since: Sun, 06 Nov 1994 07:59:59 GMT"], false),
        (both, &["if-modified-since: 0"], false),
        // RFC 9111 §4.3.2: without a Last-Modified, its Date.
        (&[DATE], &["if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT"], true),
        (&[DATE], &["if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT"], false),
        (both, &[], false),
    ] {
        let came = validation::is_known(&Method::GET, &fields(asked), &kept(lines));
        assert_eq!(came, wanted, "{lines:?} {asked:?}");
    }
    let moved = keep(&Settings::default(), &[], 301, both).unwrap();
    assert!(!validation::is_known(&Method::GET, &fields(&["if-none-match: \"a\""]), &moved));
    let head = kept(both);
    assert!(!validation::is_known(&Method::POST, &fields(&["if-none-match: \"a\""]), &head));
    assert!(validation::is_known(&Method::HEAD, &fields(&["if-none-match: \"a\""]), &head));
}

#[test]
fn an_origin_is_asked_by_what_is_kept() {
    let mut asked = fields(&[
        "accept: x",
        "if-none-match: \"b\"",
        "range: bytes=0-1",
        "if-range: \"b\"",
        "if-modified-since: Sun, 06 Nov 1994 07:00:00 GMT",
    ]);
    let modified = "Sun, 06 Nov 1994 08:00:00 GMT";
    validation::ask(&mut asked, &kept(&["etag: W/\"a\"", &format!("last-modified: {modified}")]));
    let wanted = ["accept: x", "if-none-match: W/\"a\"", &format!("if-modified-since: {modified}")];
    assert_eq!(asked, fields(&wanted));
}

#[test]
fn a_304_is_about_what_was_asked_about_or_about_nothing() {
    let modified = "last-modified: Sun, 06 Nov 1994 08:00:00 GMT";
    for (lines, new, wanted) in [
        (&["etag: \"a\""][..], &["etag: \"a\""][..], true),
        (&["etag: \"a\""], &["etag: \"b\""], false),
        (&["etag: W/\"a\""], &["etag: \"a\""], false),
        (&["etag: W/\"a\""], &["etag: W/\"a\""], true),
        (&["etag: \"a\""], &["etag: W/\"a\""], true),
        (&["etag: \"a\""], &[], true),
        (&[modified], &[modified], true),
        (&[modified], &["last-modified: Sun, 06 Nov 1994 08:00:01 GMT"], false),
        (&[modified], &[], true),
        (&[modified], &["etag: \"a\""], false),
    ] {
        assert_eq!(validation::is_about(&kept(lines), &fields(new)), wanted, "{lines:?} {new:?}");
    }
}

#[test]
fn a_304_freshens_what_is_about_the_response_and_not_about_its_body() {
    let head = kept(&[
        "cache-control: max-age=60",
        "content-type: text/plain",
        "content-length: 5",
        "x-a: 1",
        "x-a: 2",
        "x-b: 1",
        DATE,
    ]);
    let new = fields(&[
        "cache-control: max-age=5",
        "content-type: text/html",
        "content-length: 0",
        "x-a: 3",
        "x-c: 1",
        "x-c: 2",
        "date: Sun, 06 Nov 1994 09:49:37 GMT",
    ]);
    let fresh = validation::freshened(&head, &new);
    for (name, values) in [
        ("cache-control", &["max-age=5"][..]),
        ("content-type", &["text/plain"]),
        ("content-length", &["5"]),
        ("x-a", &["3"]),
        ("x-b", &["1"]),
        ("x-c", &["1", "2"]),
        ("date", &["Sun, 06 Nov 1994 09:49:37 GMT"]),
    ] {
        let came: Vec<_> =
            fresh.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(came, values, "{name}");
    }
}

#[test]
fn a_head_that_would_have_been_another_response_is_about_another() {
    let head = kept(&["etag: \"a\"", "content-length: 5"]);
    for (status, lines, wanted) in [
        (200, &["etag: \"a\"", "content-length: 5"][..], true),
        (200, &["etag: \"a\""], true),
        (200, &["content-length: 5"], true),
        (200, &["etag: \"b\"", "content-length: 5"], false),
        (200, &["etag: \"a\"", "content-length: 6"], false),
        (200, &["etag: \"a\"", "last-modified: Sun, 06 Nov 1994 08:00:00 GMT"], false),
        (404, &["etag: \"a\"", "content-length: 5"], false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(
            validation::is_same(&head, status, &fields(lines)),
            wanted,
            "{status} {lines:?}"
        );
    }
}

#[test]
fn parts_of_what_is_kept() {
    let modified = "last-modified: Sun, 06 Nov 1994 08:00:00 GMT";
    for (lines, asked, wanted) in [
        (&["etag: \"a\""][..], &["range: bytes=0-0"][..], Part::Of(0, 1)),
        (&[], &["range: bytes=2-4"], Part::Of(2, 5)),
        (&[], &["range: BYTES=2-4"], Part::Of(2, 5)),
        (&[], &["range: bytes=2-"], Part::Of(2, 10)),
        (&[], &["range: bytes=2-99"], Part::Of(2, 10)),
        (&[], &["range: bytes=9-18446744073709551615"], Part::Of(9, 10)),
        (&[], &["range: bytes=0-99999999999999999999999"], Part::Of(0, 10)),
        (&[], &["range: bytes=-3"], Part::Of(7, 10)),
        (&[], &["range: bytes=-99"], Part::Of(0, 10)),
        (&[], &["range: bytes=-0"], Part::Beyond),
        (&[], &["range: bytes=10-"], Part::Beyond),
        (&[], &["range: bytes=10-12"], Part::Beyond),
        (&[], &["range: bytes=99999999999999999999999-"], Part::Beyond),
        // What is no range of bytes, or several, is none.
        (&[], &["range: bytes=4-2"], Part::Whole),
        (&[], &["range: bytes=0-1,3-4"], Part::Whole),
        (&[], &["range: bytes=0-1", "range: bytes=3-4"], Part::Whole),
        (&[], &["range: items=0-1"], Part::Whole),
        (&[], &["range: bytes=a-b"], Part::Whole),
        (&[], &["range: bytes=-"], Part::Whole),
        (&[], &["range: bytes"], Part::Whole),
        (&[], &["range: bytes=+1-2"], Part::Whole),
        (&[], &[], Part::Whole),
        (&["etag: \"a\""], &["range: bytes=0-0", "if-range: \"a\""], Part::Of(0, 1)),
        (&["etag: \"a\""], &["range: bytes=0-0", "if-range: \"b\""], Part::Whole),
        (&["etag: \"a\""], &["range: bytes=99-", "if-range: \"b\""], Part::Whole),
        (&["etag: W/\"a\""], &["range: bytes=0-0", "if-range: W/\"a\""], Part::Whole),
        (&["etag: W/\"a\""], &["range: bytes=0-0", "if-range: \"a\""], Part::Whole),
        (&[], &["range: bytes=0-0", "if-range: \"a\""], Part::Whole),
        (
            &[modified, DATE],
            &["range: bytes=0-0", "if-range: Sun, 06 Nov 1994 08:00:00 GMT"],
            Part::Of(0, 1),
        ),
        (
            &[modified, DATE],
            &["range: bytes=0-0", "if-range: Sun, 06 Nov 1994 08:00:01 GMT"],
            Part::Whole,
        ),
        // It may have been changed again in that second.
        (
            &[modified, "date: Sun, 06 Nov 1994 08:00:00 GMT", "cache-control: max-age=9999"],
            &["range: bytes=0-0", "if-range: Sun, 06 Nov 1994 08:00:00 GMT"],
            Part::Whole,
        ),
        (&[modified, DATE], &["range: bytes=0-0", "if-range: soon"], Part::Whole),
    ] {
        let came = range::asked(&Method::GET, &fields(asked), &kept(lines), 10);
        assert_eq!(came, wanted, "{lines:?} {asked:?}");
    }
    let first = fields(&["range: bytes=0-0"]);
    assert_eq!(range::asked(&Method::HEAD, &first, &kept(&[]), 10), Part::Whole);
    assert_eq!(range::asked(&Method::GET, &first, &kept(&[]), 0), Part::Beyond);
    let moved = keep(&Settings::default(), &[], 301, &[]).unwrap();
    assert_eq!(range::asked(&Method::GET, &first, &moved, 10), Part::Whole);
}

#[test]
fn an_unsafe_request_that_succeeds_has_its_target_forgotten() {
    let settings = Settings::default();
    for (method, status, wanted) in [
        ("POST", 200, true),
        ("POST", 303, true),
        ("PUT", 204, true),
        ("DELETE", 204, true),
        ("PATCH", 200, true),
        ("UNKNOWN", 200, true),
        ("POST", 404, false),
        ("POST", 500, false),
        ("GET", 200, false),
        ("HEAD", 200, false),
        ("OPTIONS", 200, false),
        ("TRACE", 200, false),
        ("PROPFIND", 207, false),
    ] {
        let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
        assert_eq!(invalidation::is_due(&settings, &method, status), wanted, "{method} {status}");
    }
    let post = Settings { post: Some(1), ..Settings::default() };
    assert!(!invalidation::is_due(&post, &Method::POST, StatusCode::OK));
    assert!(invalidation::is_due(&post, &Method::PUT, StatusCode::OK));
}

#[test]
fn other_places_of_the_same_origin_are_forgotten_too() {
    let authority = &Authority::parse("a.test:80", None).unwrap();
    let place = Place { tls: false, authority, path: "/x/y", query: Some("q=1") };
    for (reference, wanted) in [
        ("/z", Some("/z")),
        ("/z?a=b#c", Some("/z?a=b")),
        ("z", Some("/x/z")),
        ("../z", Some("/z")),
        ("./../../z/.", Some("/z/")),
        ("?a=b", Some("/x/y?a=b")),
        ("http://a.test", Some("/")),
        ("http://a.test/z", Some("/z")),
        ("HTTP://A.Test:80/z", Some("/z")),
        ("//a.test/z", Some("/z")),
        ("http://a.test?q", Some("/?q")),
        // Of another origin nobody has anything forgotten.
        ("http://b.test/z", None),
        ("https://a.test/z", None),
        ("http://a.test:81/z", None),
        ("http://u@a.test/z", None),
        ("//b.test/z", None),
        ("mailto:a@b.test", None),
        // The target itself is forgotten anyhow.
        ("/x/y?q=1", None),
        ("#c", None),
        ("", None),
    ] {
        for name in ["location", "content-location"] {
            let mut forgotten = Vec::new();
            let fields = fields(&[&format!("{name}: {reference}")]);
            invalidation::others(&place, &fields, |other| forgotten.push(other.to_string()));
            let wanted: Vec<_> =
                wanted.iter().map(|path| format!("http://a.test:80{path}")).collect();
            assert_eq!(forgotten, wanted, "{name}: {reference}");
        }
    }
}
