//! What makes two requests the same.
//!
//! A key is two hashes: of the place, which is all that a URI and an API's name say, and of the
//! request, which is that and what the API says makes a request another. What is hashed is written
//! so that no two different requests are the same text: each part stands behind its length. So no
//! argument can look like the beginning of the next, and none takes the place of another.
//!
//! The order of differently named arguments makes no difference: they are sorted by name. Those of
//! one name keep theirs. Nothing is decoded: what is only equivalent is another request.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::digest::SHA256;
use http::HeaderMap;
use http::HeaderName;
use http::Method;

use super::Strategy;
use super::entry::Key;
use super::vary;
use crate::base::authority::Authority;

/// Arguments that are sorted without asking for memory.
const FEW: usize = 16;

/// What a kept response is found by; which of those that are found answers, Vary says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Keys {
    /// Of the API and the URI: what an unsafe request and a purge mean.
    pub(crate) place: Key,
    /// Of the request.
    pub(crate) request: Key,
}

/// A URI as it is asked for at the origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) tls: bool,
    pub(crate) authority: &'a Authority,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl Place<'_> {
    /// The place in the cache of this API.
    pub(crate) fn hash(&self, api: &str) -> Key {
        let mut text = Text::new();
        text.part(api.as_bytes());
        text.part(if self.tls { b"https" } else { b"http" });
        // PERF: the key is text already; it leaves out 80 and 443, which the port tells apart.
        text.part(self.authority.key().as_str().as_bytes());
        text.count(usize::from(self.authority.port_number()));
        text.part(self.path.as_bytes());
        if let Some(query) = self.query {
            text.query(query.as_bytes());
        }
        text.hash()
    }
}

impl fmt::Display for Place<'_> {
    /// As a URI that is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)?;
        self.query.map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// What of a request, beside its place, may make it another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// HEAD is as GET.
    pub(crate) method: &'a Method,
    /// As the client sent them.
    pub(crate) fields: &'a HeaderMap,
    /// All of its body, where that is part of what is asked.
    pub(crate) body: Option<&'a [u8]>,
}

impl Keys {
    /// The key of a request. `is_private` is whether who asks is part of it, whatever the strategy.
    pub(crate) fn of(place: Key, asked: Asked<'_>, strategy: &Strategy, is_private: bool) -> Self {
        let is_plain = asked.body.is_none()
            && !is_private
            && (*asked.method == Method::GET || *asked.method == Method::HEAD);
        if is_plain && *strategy == Strategy::None {
            // PERF: the usual key costs one hash.
            return Self { place, request: place };
        }
        let mut text = Text::new();
        text.part(&place.0);
        let method = if *asked.method == Method::HEAD { &Method::GET } else { asked.method };
        text.part(method.as_str().as_bytes());
        match asked.body {
            Some(body) => text.part(digest::digest(&SHA256, body).as_ref()),
            None => text.part(b""),
        }
        match strategy {
            Strategy::None => {}
            Strategy::Listed(names) => {
                for name in names {
                    text.field(name, asked.fields);
                }
            }
            Strategy::All => {
                let mut names: Vec<&HeaderName> =
                    asked.fields.keys().filter(|name| makes_another(name)).collect();
                names.sort_unstable_by_key(|name| name.as_str());
                for name in names {
                    text.field(name, asked.fields);
                }
            }
        }
        if is_private {
            text.field(&http::header::AUTHORIZATION, asked.fields);
        }
        Self { place, request: text.hash() }
    }
}

/// Whether a field makes a request another where all do: one that is not about this connection or
/// this way, says not what the cache itself obeys, and comes not of the key's other parts.
fn makes_another(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "cache-control"
            | "connection"
            | "content-length"
            | "expect"
            | "forwarded"
            | "host"
            | "http2-settings"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "keep-alive"
            | "max-forwards"
            | "pragma"
            | "prefer"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
    )
}

/// What is hashed.
struct Text(Vec<u8>);

impl Text {
    fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    fn part(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.extend_from_slice(part);
    }

    fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_be_bytes());
    }

    /// A query, of which even an empty one is another than none.
    fn query(&mut self, query: &[u8]) {
        let name = |argument: &[u8]| {
            argument.iter().position(|byte| *byte == b'=').unwrap_or(argument.len())
        };
        let is_sorted = query
            .split(|byte| *byte == b'&')
            .is_sorted_by(|one, other| one[..name(one)] <= other[..name(other)]);
        let count = query.split(|byte| *byte == b'&').count();
        self.count(count);
        if is_sorted {
            query.split(|byte| *byte == b'&').for_each(|argument| self.part(argument));
            return;
        }
        let mut few = [&b""[..]; FEW];
        let mut many = Vec::new();
        let arguments = if count <= FEW {
            few.iter_mut()
                .zip(query.split(|byte| *byte == b'&'))
                .for_each(|(slot, one)| *slot = one);
            &mut few[..count]
        } else {
            many.extend(query.split(|byte| *byte == b'&'));
            &mut many[..]
        };
        // Stable: what has one name keeps its order.
        arguments.sort_by(|one, other| one[..name(one)].cmp(&other[..name(other)]));
        for argument in arguments {
            self.part(argument);
        }
    }

    /// A field with its values in normal form, or that there is none.
    fn field(&mut self, name: &HeaderName, fields: &HeaderMap) {
        self.part(name.as_str().as_bytes());
        match vary::value(fields.get_all(name)) {
            Some(value) => {
                self.count(1);
                self.part(value.as_bytes());
            }
            None => self.count(0),
        }
    }

    fn hash(&self) -> Key {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&SHA256, &self.0).as_ref());
        Key(hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::HeaderValue;
    use proptest::prop_assert_eq;
    use proptest::proptest;

    use super::*;

    fn authority(text: &str) -> Authority {
        Authority::parse(text, None).unwrap()
    }

    /// Of a place at `http://a.test`, in the cache of `x`.
    fn place(path: &str, query: Option<&str>) -> Key {
        Place { tls: false, authority: &authority("a.test:80"), path, query }.hash("x")
    }

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    fn key(fields: &HeaderMap, strategy: &Strategy) -> Key {
        let asked = Asked { method: &Method::GET, fields, body: None };
        Keys::of(Key([0; 32]), asked, strategy, false).request
    }

    #[test]
    fn the_order_of_arguments_makes_no_other_request_and_that_of_one_name_does() {
        for (one, other, is_same) in [
            ("a=1&b=2", "b=2&a=1", true),
            ("b=2&a=1&c", "c&a=1&b=2", true),
            ("a=1&a=2", "a=2&a=1", false),
            ("b=0&a=1&a=2", "a=1&b=0&a=2", true),
            ("b=0&a=1&a=2", "a=2&b=0&a=1", false),
            ("a=1&b=2", "a=1:b=2", false),
            ("a=1&b=2", "a=1%26b=2", false),
            ("a=1&b=2", "a=1&&b=2", false),
            ("a", "a=", false),
            ("ab=", "a=b", false),
            ("", "&", false),
            ("a=%2f", "a=%2F", false),
        ] {
            let is_one = place("/", Some(one)) == place("/", Some(other));
            assert_eq!(is_one, is_same, "{one} {other}");
        }
        let many: Vec<String> = (0..100).map(|n| format!("{n}={n}")).collect();
        let mut turned = many.clone();
        turned.reverse();
        let hash = |arguments: &[String]| place("/", Some(&arguments.join("&")));
        assert_eq!(hash(&many), hash(&turned));
    }

    #[test]
    fn no_two_places_are_one() {
        let (plain, other) = (authority("a.test:80"), authority("a.test:443"));
        let base = Place { tls: false, authority: &plain, path: "/", query: None };
        let places = [
            base.hash("x"),
            base.hash("y"),
            Place { tls: true, ..base }.hash("x"),
            Place { authority: &other, ..base }.hash("x"),
            Place { authority: &authority("a.test:8"), ..base }.hash("x"),
            place("/", Some("")),
            place("/?", None),
            place("/a", None),
            place("/a", Some("b")),
            place("/", Some("a&b")),
            place("/", Some("b&a&b")),
        ];
        assert_eq!(places.iter().collect::<HashSet<_>>().len(), places.len());
    }

    #[test]
    fn which_fields_make_another_request_the_strategy_says() {
        let (plain, one, two) = (
            fields(&[("accept", "x")]),
            fields(&[("accept", "x"), ("x-api-key", "1")]),
            fields(&[("x-api-key", "2"), ("accept", "x")]),
        );
        let listed = Strategy::Listed(vec![HeaderName::from_static("x-api-key")]);
        for (strategy, count) in [(Strategy::None, 1), (Strategy::All, 3), (listed, 3)] {
            let keys: HashSet<_> = [&plain, &one, &two].map(|fields| key(fields, &strategy)).into();
            assert_eq!(keys.len(), count, "{strategy:?}");
        }
        let strategy = Strategy::All;
        for (one, other, is_same) in [
            // A repeated field is one of several values.
            (&[("x-a", "1"), ("x-a", "2")][..], &[("x-a", "1, 2")][..], true),
            (&[("x-a", "1"), ("x-a", "2")], &[("x-a", "2"), ("x-a", "1")], false),
            (&[("x-a", "1"), ("x-b", "2")], &[("x-b", "2"), ("x-a", "1")], true),
            (&[("x-a", "")], &[], false),
            // What says how the cache is to be used is not what is asked for.
            (&[("cache-control", "no-cache"), ("range", "bytes=0-1")], &[], true),
        ] {
            assert_eq!(
                key(&fields(one), &strategy) == key(&fields(other), &strategy),
                is_same,
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn bodies_methods_and_who_asks_make_another_request() {
        let none = HeaderMap::new();
        let alice = fields(&[("authorization", "Bearer alice")]);
        let bob = fields(&[("authorization", "Bearer bob")]);
        let of = |method: &Method, fields, body, is_private| {
            let asked = Asked { method, fields, body };
            Keys::of(Key([1; 32]), asked, &Strategy::None, is_private).request
        };
        let keys = [
            of(&Method::GET, &none, None, false),
            of(&Method::POST, &none, Some(&b""[..]), false),
            of(&Method::POST, &none, Some(b"a"), false),
            of(&Method::GET, &none, Some(b"a"), false),
            of(&Method::GET, &none, None, true),
            of(&Method::GET, &alice, None, true),
            of(&Method::GET, &bob, None, true),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        assert_eq!(of(&Method::HEAD, &none, None, false), keys[0]);
        assert_eq!(of(&Method::HEAD, &alice, None, true), keys[5]);
        assert_eq!(of(&Method::GET, &alice, None, false), keys[0]);
    }

    proptest! {
        /// What is hashed can be read back: parts behind their lengths are never ambiguous.
        #[test]
        fn queries_of_other_arguments_are_other_places(
            one in "[ab=&]{0,8}", other in "[ab=&]{0,8}",
        ) {
            let sorted = |query: &str| {
                let mut arguments: Vec<String> = query.split('&').map(str::to_owned).collect();
                arguments.sort_by_key(|one| one.split('=').next().map(str::to_owned));
                arguments
            };
            let is_one = place("/", Some(&one)) == place("/", Some(&other));
            prop_assert_eq!(is_one, sorted(&one) == sorted(&other));
        }
    }
}
