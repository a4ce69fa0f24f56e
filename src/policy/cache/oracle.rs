//! The rules against `http-cache-semantics`, which others wrote and use, over random heads and times.
//!
//! Where the two differ on purpose, ours being the stricter but for what is said beside it, the case is
//! left to the tables in [`super::tests`], and named here.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_cache_semantics::BeforeRequest;
use http_cache_semantics::CacheOptions;
use http_cache_semantics::CachePolicy;
use proptest::prelude::*;

use super::Settings;
use super::control::OfRequest;
use super::entry::Head;
use super::serving;
use super::serving::Use;
use super::storing;
use super::storing::Asked;
use super::storing::Why;
use super::vary;

const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(at(seconds))
}

fn line(name: &'static str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
}

/// A subset of directives, each once: what is said twice is read differently on purpose (ours is
/// stale, §4.2.1; the oracle's has to be revalidated only when it is stale).
fn directives(
    all: Vec<BoxedStrategy<String>>,
    name: &'static str,
) -> impl Strategy<Value = Option<(HeaderName, HeaderValue)>> {
    let each: Vec<_> =
        all.into_iter().map(|one| prop::option::weighted(0.25, one).boxed()).collect();
    each.prop_map(move |said| {
        let said: Vec<String> = said.into_iter().flatten().collect();
        (!said.is_empty()).then(|| line(name, &said.join(", ")))
    })
}

fn just(text: &'static str) -> BoxedStrategy<String> {
    Just(text.to_owned()).boxed()
}

fn seconds(name: &'static str) -> BoxedStrategy<String> {
    (0..100u32).prop_map(move |seconds| format!("{name}={seconds}")).boxed()
}

prop_compose! {
    fn request()(
        control in directives(
            vec![
                just("no-cache"),
                seconds("max-age"),
                seconds("min-fresh"),
                seconds("max-stale"),
                just("max-stale"),
            ],
            "cache-control",
        ),
        authorization in prop::option::weighted(0.2, Just(line("authorization", "x"))),
        pragma in prop::option::weighted(0.1, Just(line("pragma", "no-cache"))),
        language in prop::option::of(prop_oneof![Just("en"), Just("de")]),
    ) -> HeaderMap {
        // Both forms of max-stale at once are read differently: ours takes the bound.
        let control = control.filter(|(_, value)| {
            value.to_str().unwrap().matches("max-stale").count() < 2
        });
        // Ours heeds Pragma where there is no Cache-Control alone (§5.4), the oracle always.
        let pragma = pragma.filter(|_| control.is_none());
        let language = language.map(|language| line("accept-language", language));
        [control, authorization, pragma, language].into_iter().flatten().collect()
    }
}

prop_compose! {
    fn response()(
        control in directives(
            vec![
                just("no-store"),
                just("no-cache"),
                just("private"),
                just("public"),
                just("must-revalidate"),
                seconds("max-age"),
                seconds("s-maxage"),
                seconds("stale-while-revalidate"),
            ],
            "cache-control",
        ),
        expires in prop::option::weighted(0.3, prop_oneof![
            (0..200u64).prop_map(|ahead| date(NOW - 50 + ahead)),
            Just("0".to_owned()),
        ]),
        // Our age counts what Date says (§4.2.3); the oracle's does not, so that it is said as it is.
        dated in any::<bool>(),
        age in prop::option::weighted(0.3, 0..50u32),
        etag in prop::option::of(Just(line("etag", "\"a\""))),
        vary in prop::option::weighted(0.3, prop_oneof![Just("accept-language"), Just("*")]),
        status in prop_oneof![
            4 => Just(200u16), 1 => Just(203), 1 => Just(204), 1 => Just(301), 1 => Just(308),
            1 => Just(302), 1 => Just(206),
        ],
    ) -> (u16, HeaderMap) {
        let fields = [
            control,
            expires.map(|expires| line("expires", &expires)),
            dated.then(|| line("date", &date(NOW))),
            age.map(|age| line("age", &age.to_string())),
            etag,
            vary.map(|vary| line("vary", vary)),
        ];
        (status, fields.into_iter().flatten().collect())
    }
}

fn with_fields<T>(mut message: T, fields: &HeaderMap, of: fn(&mut T) -> &mut HeaderMap) -> T {
    *of(&mut message) = fields.clone();
    message
}

fn get(fields: &HeaderMap) -> Request<()> {
    with_fields(Request::get("http://a.test/").body(()).unwrap(), fields, Request::headers_mut)
}

fn kept(asked: &HeaderMap, status: u16, fields: &HeaderMap) -> Result<Head, Why> {
    let asked = Asked {
        method: &Method::GET,
        fields: asked,
        sees: &|_| true,
        no_store: OfRequest::read(asked).no_store,
        is_authorized: asked.contains_key(header::AUTHORIZATION),
        has_cookie: false,
        at: at(NOW),
    };
    // A lifetime of ours is none of the oracle's.
    let settings = Settings { ttl: Duration::ZERO, ..Settings::default() };
    storing::keep(&settings, &asked, StatusCode::from_u16(status).unwrap(), fields, at(NOW))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_kept_and_what_answers_is_as_another_implementation_says(
        first in request(),
        (status, fields) in response(),
        second in request(),
        later in 0..200u64,
    ) {
        let response = Response::builder().status(status).body(()).unwrap();
        let response = with_fields(response, &fields, Response::headers_mut);
        let options = CacheOptions { shared: true, ..CacheOptions::default() };
        let policy = CachePolicy::new_options(&get(&first), &response, at(NOW), options);
        let ours = kept(&first, status, &fields);
        match ours {
            Ok(_) => prop_assert!(policy.is_storable(), "it may not be kept"),
            // What we do not keep though it may be, each for its reason.
            Err(Why::Lifetime) => {
                // It answers nobody, or has no lifetime but a guessed one.
                let control = fields.get(header::CACHE_CONTROL);
                let control = control.map_or("", |value| value.to_str().unwrap());
                let is_useless = policy.time_to_live(at(NOW)).is_zero()
                    || control.contains("no-cache");
                prop_assert!(is_useless, "it is of use");
            }
            Err(Why::Vary) => prop_assert_eq!(&fields[header::VARY], "*"),
            Err(
                Why::Authorization | Why::NoStore | Why::Partial | Why::Private,
            ) => prop_assert!(!policy.is_storable(), "it may be kept"),
            Err(
                why @ (Why::Cookie
                | Why::Length | Why::Method | Why::Request | Why::SetCookie | Why::Status),
            ) => prop_assert!(false, "it is not kept because of {why:?}"),
        }
        let Ok(head) = ours else { return Ok(()) };
        let now = at(NOW + later);
        prop_assert_eq!(head.age(now), policy.age(now));
        if !head.terms.is_always_validated {
            let left = head.lifetime.saturating_sub(head.age(now));
            prop_assert_eq!(left, policy.time_to_live(now));
        }
        let theirs = matches!(policy.before_request(&get(&second), now), BeforeRequest::Fresh(_));
        let matches = vary::matches(&head.vary, &second, |_| true);
        let used = serving::judge(&head, &OfRequest::read(&second), now);
        let is_used = matches && matches!(used, Use::Fresh | Use::Stale);
        let said = fields.get(header::CACHE_CONTROL).map_or("", |value| value.to_str().unwrap());
        if theirs && !is_used {
            // The oracle serves what is stale because of `max-stale` though s-maxage (§5.2.2.10) or
            // no-cache (§5.2.2.4) forbids that.
            prop_assert!(
                matches && (said.contains("s-maxage") || said.contains("no-cache")),
                "it could answer: {used:?}"
            );
        }
        // Of `max-stale=N` the oracle allows less than N, where it is no more than N (§5.2.1.2).
        let beyond = head.age(now).saturating_sub(head.lifetime);
        let is_edge = used == Use::Stale && OfRequest::read(&second).max_stale == Some(beyond);
        if is_used && !is_edge {
            prop_assert!(theirs, "it may not answer: {:?}", used);
        }
    }
}
