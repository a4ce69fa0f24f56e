//! The fields of a request that leaves the gateway, and what an API sets by every route.
//!
//! Pure. What concerns the hop has been taken out before, and is put back after.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use http::request::Parts;

use crate::base::authority::Authority;
use crate::policy::api::Api;
use crate::policy::api::Forwarded;
use crate::policy::api::Gateway;
use crate::proxy::asker::Asker;

/// Whether a field goes on, whatever `forward_headers` says: it describes the body, or HTTP itself
/// needs it (expectations, trailers, loops, hops left).
fn is_needed(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-encoding"
            | "content-length"
            | "content-type"
            | "expect"
            | "max-forwards"
            | "trailer"
            | "via"
    )
}

/// The client's fields that go on, with the Host of the target; and all that came, where those are
/// not the same. `ours` are fields that were meant for us. `upgrades` is whether the protocol is to switch, which for a WebSocket has fields of
/// its own (RFC 6455 §4.1).
pub(super) fn choose(
    came: HeaderMap,
    gateway: &Gateway,
    upgrades: bool,
    ours: &[HeaderName],
    host: &HeaderValue,
) -> (HeaderMap, Option<HeaderMap>) {
    if gateway.forward_headers == Forwarded::All && ours.is_empty() {
        let mut fields = came;
        fields.insert(header::HOST, host.clone());
        return (fields, None);
    }
    let goes = |name: &HeaderName| goes(gateway, ours, upgrades, name);
    let mut fields = HeaderMap::with_capacity(came.len() + 4);
    fields.insert(header::HOST, host.clone());
    for (name, value) in came.iter().filter(|(name, _)| goes(name)) {
        fields.append(name.clone(), value.clone());
    }
    (fields, Some(came))
}

/// Whether a field of the client's goes on; its Host never does.
pub(in crate::proxy) fn goes(
    gateway: &Gateway,
    ours: &[HeaderName],
    upgrades: bool,
    name: &HeaderName,
) -> bool {
    let is_ours = ours.contains(name);
    let is_chosen = match &gateway.forward_headers {
        Forwarded::None => false,
        Forwarded::All => true,
        Forwarded::Listed(listed) => listed.contains(name),
    };
    let is_asked = upgrades && name.as_str().starts_with("sec-websocket-");
    name != header::HOST && !is_ours && (is_chosen || is_needed(name) || is_asked)
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the target is told of a client, where the API wants that.
pub(super) struct Told {
    /// The addresses that the client's own field named, and then the client's.
    by: Option<HeaderValue>,
    host: Option<HeaderValue>,
    proto: HeaderValue,
}

impl Told {
    /// `named` is the authority of the request's target, which comes before its Host.
    pub(super) fn of(client: &Asker, fields: &HeaderMap, named: Option<HeaderValue>) -> Self {
        let mut by = Vec::new();
        for value in fields.get_all(&X_FORWARDED_FOR) {
            by.extend_from_slice(value.as_bytes());
            by.extend_from_slice(b", ");
        }
        by.extend_from_slice(client.peer().ip().to_canonical().to_string().as_bytes());
        Self {
            by: HeaderValue::try_from(by).ok(),
            host: named.or_else(|| fields.get(header::HOST).cloned()),
            proto: HeaderValue::from_static(if client.is_secure() { "https" } else { "http" }),
        }
    }

    pub(super) fn put(self, fields: &mut HeaderMap) {
        for (name, value) in [
            (&X_FORWARDED_FOR, self.by),
            (&X_FORWARDED_HOST, self.host),
            (&X_FORWARDED_PROTO, Some(self.proto)),
        ] {
            match value {
                Some(value) => fields.insert(name, value),
                // SECURITY: a client's word must not pass for ours.
                None => fields.remove(name),
            };
        }
    }
}

/// Sets what the API sets, and takes out what it takes out.
///
/// SECURITY: who echoes a TRACE would tell the client what was set (RFC 9110 §9.3.8).
pub(super) fn dress(fields: &mut HeaderMap, method: &Method, gateway: &Gateway) {
    if *method != Method::TRACE {
        put(fields, &gateway.headers);
    }
    for name in &gateway.remove_headers {
        fields.remove(name);
    }
}

/// The same for forward traffic to a host that the API claims.
///
/// SECURITY: a key of the API must not be read on the way because a client wrote `http://`. In clear
/// text it goes to the target alone, if the operator has put that in clear text.
pub(in crate::proxy) fn dress_forward(parts: &mut Parts, api: &Api, bound_for: (&Authority, bool)) {
    if dresses(api, bound_for) {
        dress(&mut parts.headers, &parts.method, &api.settings.gateway);
    }
}

/// Whether that is done to what is bound for there.
pub(in crate::proxy) fn dresses(api: &Api, (authority, tls): (&Authority, bool)) -> bool {
    let target = api.settings.target.as_ref();
    tls || target.is_some_and(|target| !target.tls && target.authority == *authority)
}

/// Sets what the API sets in responses.
pub(in crate::proxy) fn dress_response(fields: &mut HeaderMap, api: Option<&Api>) {
    if let Some(api) = api {
        put(fields, &api.settings.gateway.response_headers);
    }
}

/// Sets each of these in the place of what was there; one that is named twice is set twice.
fn put(fields: &mut HeaderMap, set: &[(HeaderName, HeaderValue)]) {
    for (at, (name, value)) in set.iter().enumerate() {
        if set[..at].iter().any(|(before, _)| before == name) {
            fields.append(name.clone(), value.clone());
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::api::Settings;
    use crate::policy::api::Target;
    use crate::policy::cache;
    use crate::policy::cache::tiers::Tiers;
    use crate::store::board::Board;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn chosen(forwarded: Forwarded, upgrades: bool, ours: &[HeaderName]) -> Vec<String> {
        let came = map(&[
            ("host", "narrows"),
            ("accept", "*/*"),
            ("authorization", "Basic x"),
            ("content-type", "text/plain"),
            ("content-length", "3"),
            ("via", "1.1 a"),
            ("x-api-key", "1"),
            ("sec-websocket-key", "k"),
        ]);
        let gateway = Gateway { forward_headers: forwarded, ..Gateway::default() };
        let host = HeaderValue::from_static("h");
        let (fields, _came) = choose(came, &gateway, upgrades, ours, &host);
        assert_eq!(fields["host"], "h");
        fields.keys().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn what_describes_the_body_goes_on_and_of_the_rest_what_is_chosen() {
        let needed = ["host", "content-type", "content-length", "via"];
        assert_eq!(chosen(Forwarded::None, false, &[]), needed);
        assert_eq!(
            chosen(Forwarded::None, true, &[]),
            [&needed[..], &["sec-websocket-key"]].concat()
        );
        let listed = Forwarded::Listed(vec![HeaderName::from_static("x-api-key")]);
        assert_eq!(chosen(listed, false, &[]), [&needed[..], &["x-api-key"]].concat());
        assert_eq!(chosen(Forwarded::All, false, &[]).len(), 8);
    }

    #[test]
    fn what_is_meant_for_us_goes_no_further() {
        let key = HeaderName::from_static("x-api-key");
        for ours in [header::AUTHORIZATION, key] {
            let listed = Forwarded::Listed(vec![ours.clone()]);
            let has = |forwarded: Forwarded, fields: &[HeaderName]| {
                chosen(forwarded, false, fields).contains(&ours.to_string())
            };
            assert!(has(Forwarded::All, &[]) && has(listed.clone(), &[]));
            let fields = std::slice::from_ref(&ours);
            assert!(!has(Forwarded::All, fields) && !has(listed, fields));
        }
    }

    #[test]
    fn a_key_leaves_in_clear_text_only_where_the_operator_wrote_http() {
        let clear = |text: &str| Authority::parse(text, Some(80)).unwrap();
        for (target, asked, tls, wanted) in [
            (Some((true, "h:443")), "h:443", true, true),
            (Some((true, "h:443")), "h:80", false, false),
            (Some((false, "h:80")), "h:80", false, true),
            (Some((false, "h:80")), "h:81", false, false),
            (Some((false, "h:80")), "h:443", true, true),
            (None, "h:80", false, false),
            (None, "h:443", true, true),
        ] {
            let mut settings = Settings::new("a");
            settings.target = target.map(|(tls, authority)| Target {
                tls,
                authority: clear(authority),
                path: String::new(),
            });
            settings.hosts = vec!["h".parse().unwrap()];
            settings.gateway.headers =
                vec![(header::AUTHORIZATION, HeaderValue::from_static("Bearer key"))];
            let apis = crate::policy::api::Apis::new(
                &[settings],
                &Board::alone(),
                &Tiers::alone(&cache::tiers::Settings::default()),
                None,
            );
            let authority = clear(asked);
            let api = apis.of_host(authority.key()).unwrap();
            let (mut parts, ()) = http::Request::new(()).into_parts();
            dress_forward(&mut parts, api, (&authority, tls));
            let set = parts.headers.get(header::AUTHORIZATION);
            assert_eq!(set.is_some(), wanted, "{target:?} {asked} {tls}");
            assert!(set.is_none_or(HeaderValue::is_sensitive));
            assert!(!format!("{api:?}").contains("Bearer"), "{api:?}");
        }
    }

    #[test]
    fn a_trace_carries_nothing_that_was_set() {
        let headers = vec![(header::AUTHORIZATION, HeaderValue::from_static("key"))];
        let gateway = Gateway { headers, ..Gateway::default() };
        for (method, wanted) in [(Method::GET, true), (Method::TRACE, false)] {
            let mut fields = HeaderMap::new();
            dress(&mut fields, &method, &gateway);
            assert_eq!(fields.contains_key(header::AUTHORIZATION), wanted, "{method}");
        }
    }

    #[test]
    fn what_is_set_replaces_what_came_and_what_is_removed_is_gone_at_last() {
        let set = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let gateway = Gateway {
            headers: vec![set("a", "1"), set("b", "1"), set("b", "2"), set("c", "1")],
            remove_headers: vec![HeaderName::from_static("c"), HeaderName::from_static("d")],
            ..Gateway::default()
        };
        let mut fields = map(&[("a", "x"), ("a", "y"), ("b", "x"), ("d", "x"), ("e", "x")]);
        dress(&mut fields, &Method::GET, &gateway);
        assert_eq!(fields, map(&[("a", "1"), ("b", "1"), ("b", "2"), ("e", "x")]));
    }
}
