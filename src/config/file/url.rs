//! URLs of the config file: of upstreams, and of proxies on the way to them.

use std::sync::Arc;

use http::HeaderValue;

use crate::base::authority::Authority;
use crate::base::authority::Host;
use crate::policy::access::jwt::Url;
use crate::policy::api::Target;
use crate::policy::parents::Parent;

/// `scheme://`, userinfo, authority, and what follows.
struct Parts<'t> {
    tls: bool,
    userinfo: Option<&'t str>,
    authority: Authority,
    rest: &'t str,
}

impl<'t> Parts<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let port = if tls { 443 } else { 80 };
        let authority = Authority::parse(authority, Some(port)).ok()?;
        Some(Self { tls, userinfo, authority, rest })
    }
}

/// The base URL of an upstream; none if it is none, or has what none may have.
pub(super) fn target(text: &str) -> Option<Target> {
    let Parts { tls, userinfo: None, authority, rest } = Parts::parse(text)? else { return None };
    let is_path = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    if !rest.bytes().all(is_path) {
        return None;
    }
    Some(Target { tls, authority, path: rest.trim_end_matches('/').to_owned() })
}

/// Where a key set is; none if it is nowhere, or could be read or changed on its way.
pub(super) fn key_set(text: &str) -> Option<Url> {
    let Parts { tls, userinfo: None, authority, rest } = Parts::parse(text)? else { return None };
    let is_here = match authority.host() {
        Host::Address(address) => address.is_loopback(),
        Host::Name(name) => &**name == "localhost",
    };
    let is_path = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
    if !(tls || is_here) || !rest.bytes().all(is_path) || rest.starts_with('?') {
        return None;
    }
    let path = if rest.is_empty() { "/" } else { rest };
    Some(Url { tls, authority, path: path.to_owned() })
}

/// A proxy on the way; none if it is none.
pub(super) fn parent(text: &str) -> Option<Parent> {
    let Parts { tls, userinfo, authority, rest } = Parts::parse(text)?;
    if !matches!(rest, "" | "/") {
        return None;
    }
    let authorization = match userinfo {
        Some(userinfo) => Some(basic(userinfo)?),
        None => None,
    };
    let scheme = if tls { "https" } else { "http" };
    let name = Arc::from(format!("{scheme}://{}:{}", authority.host(), authority.port_number()));
    Some(Parent { name, tls, authority, authorization, weight: 1 })
}

/// The credentials of a userinfo, as a field carries them (RFC 7617).
fn basic(userinfo: &str) -> Option<HeaderValue> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut bytes = decode(user)?;
    // It would end the user (RFC 7617 §2).
    if bytes.contains(&b':') {
        return None;
    }
    bytes.push(b':');
    bytes.extend(decode(password)?);
    let mut value = HeaderValue::try_from(format!("Basic {}", base64(&bytes))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Percent-decoding (RFC 3986 §2.1) of text that may hold what should have been encoded.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
                let value = digits.reduce(|high, low| Some(high? * 16 + low?))??;
                bytes.push(u8::try_from(value).ok()?);
                rest = tail;
            }
            byte if byte.is_ascii_control() => return None,
            byte => bytes.push(*byte),
        }
    }
    Some(bytes)
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_set_comes_by_tls_or_from_this_machine() {
        for (text, told) in [
            ("https://a.test", Some("https://a.test:443/")),
            ("https://a.test:8443/keys?x=1", Some("https://a.test:8443/keys?x=1")),
            ("http://127.0.0.1:1/keys", Some("http://127.0.0.1:1/keys")),
            ("http://[::1]:1/keys", Some("http://[::1]:1/keys")),
            ("http://localhost/keys", Some("http://localhost:80/keys")),
            ("http://a.test/keys", None),
            ("http://10.0.0.1/keys", None),
            ("https://u:p@a.test/", None),
            ("https://a.test/#x", None),
            ("https://a.test?x", None),
            ("file:///keys", None),
        ] {
            assert_eq!(key_set(text).map(|url| url.to_string()).as_deref(), told, "{text}");
        }
    }

    #[test]
    fn a_target_is_a_scheme_a_host_and_perhaps_a_path() {
        let told = |text: &str| {
            target(text).map(|target| (target.tls, target.authority.to_string(), target.path))
        };
        assert_eq!(told("http://A.test"), Some((false, "a.test:80".into(), String::new())));
        assert_eq!(told("https://a.test/"), Some((true, "a.test:443".into(), String::new())));
        assert_eq!(
            told("https://[::1]:8/v1/%2Fx//"),
            Some((true, "[::1]:8".into(), "/v1/%2Fx".into()))
        );
        for text in [
            "",
            "a.test",
            "ftp://a.test",
            "http://",
            "http://a.test?x",
            "http://a.test/#x",
            "http://u@a.test",
            "http://u:p@a.test",
            "http://a.test:0",
            "http://a.test/a b",
            "http://a b/",
            "http:/a.test",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn a_parent_is_known_by_its_place_and_keeps_its_password_to_itself() {
        let found = parent("http://us%65r:p%40ss:w@Proxy.test").unwrap();
        assert_eq!(&*found.name, "http://proxy.test:80");
        let authorization = found.authorization.clone().unwrap();
        assert_eq!(authorization.to_str().unwrap(), "Basic dXNlcjpwQHNzOnc=");
        assert!(!format!("{found:?}").contains("dXN"), "{found:?}");
        let found = parent("https://[::1]:7001/").unwrap();
        assert_eq!((&*found.name, found.tls), ("https://[::1]:7001", true));
        assert_eq!(found.authorization, None);
        for text in [
            "p.test",
            "socks5://p.test",
            "http://p.test/x",
            "http://u%3:p@p.test",
            "http://u%3A:p@p.test",
            "http://u:p@",
        ] {
            assert!(parent(text).is_none(), "{text}");
        }
    }

    #[test]
    fn base_64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
