//! What a key may be used for: some methods, some paths, some APIs.
//!
//! Whoever reads a path behind us may read it in more ways than one, so that a key of some paths
//! alone opens none that could lead out of them by any reading.

use std::fmt;
use std::str::FromStr;

use http::Method;
use memchr::memchr3;
use thiserror::Error;

/// How often a path is unescaped to see where it could lead.
const READINGS: usize = 3;

/// A scope that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a scope is read, write, a method such as GET, a path such as /v1, both as in read:/v1, or api:NAME"
)]
pub struct BadScope;

/// One of the things that a key may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Any request of the API of this name.
    Api(Box<str>),
    /// Requests by these methods, to paths that begin with this one.
    Requests(Methods, Option<Box<str>>),
}

/// Some methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    /// All but CONNECT.
    Any,
    /// GET, HEAD and OPTIONS.
    Read,
    /// All but those, TRACE and CONNECT.
    Write,
    /// This one.
    One(Method),
}

impl Methods {
    fn have(&self, method: &Method) -> bool {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match self {
            Self::Any => *method != Method::CONNECT,
            Self::Read => reads,
            Self::Write => !reads && !matches!(*method, Method::TRACE | Method::CONNECT),
            // RFC 9110 §9.1: who may GET may HEAD.
            Self::One(one) => one == method || (*one == Method::GET && *method == Method::HEAD),
        }
    }
}

impl FromStr for Scope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        if let Some(api) = text.strip_prefix("api:") {
            return if api.is_empty() { Err(BadScope) } else { Ok(Self::Api(api.into())) };
        }
        let (methods, path) = match text.split_once(':') {
            Some((methods, path)) => (Some(methods), Some(path)),
            None if text.starts_with('/') => (None, Some(text)),
            None => (Some(text), None),
        };
        let methods = match methods {
            None => Methods::Any,
            Some("read") => Methods::Read,
            Some("write") => Methods::Write,
            Some(name)
                if !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') =>
            {
                Methods::One(Method::from_bytes(name.as_bytes()).map_err(|_bad| BadScope)?)
            }
            Some(_) => return Err(BadScope),
        };
        let is_path = |path: &str| {
            path.starts_with('/')
                && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#%,".contains(&b))
        };
        if path.is_some_and(|path| !is_path(path) || leads_elsewhere(path)) {
            return Err(BadScope);
        }
        // A tunnel has no path that anybody could see.
        if path.is_some() && methods == Methods::One(Method::CONNECT) {
            return Err(BadScope);
        }
        Ok(Self::Requests(methods, path.map(|path| path.trim_end_matches('/').into())))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (methods, path) = match self {
            Self::Api(name) => return write!(f, "api:{name}"),
            Self::Requests(methods, path) => (methods, path.as_deref()),
        };
        let path = path.map(|path| if path.is_empty() { "/" } else { path });
        let methods = match methods {
            Methods::Any => return f.write_str(path.unwrap_or("/")),
            Methods::Read => "read",
            Methods::Write => "write",
            Methods::One(method) => method.as_str(),
        };
        match path {
            Some(path) => write!(f, "{methods}:{path}"),
            None => f.write_str(methods),
        }
    }
}

/// What is to be done with a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed<'a> {
    /// The name of the API.
    pub(crate) api: &'a str,
    pub(crate) method: &'a Method,
    /// The path as the client wrote it, behind the API's own; none for a tunnel, of which nobody sees any.
    pub(crate) path: Option<&'a str>,
}

/// Whether a key of these scopes may be used for that. One that has none may be used for all; one that names
/// APIs, for these alone, and one that names methods or paths, for these alone.
pub(super) fn allow(scopes: &[Scope], deed: Deed<'_>) -> bool {
    let (mut of_apis, mut of_requests) = (None, None);
    for scope in scopes {
        match scope {
            Scope::Api(name) => *of_apis.get_or_insert(false) |= **name == *deed.api,
            Scope::Requests(methods, prefix) => {
                let is_there = match (prefix, deed.path) {
                    (None, _) => true,
                    (Some(prefix), Some(path)) => is_below(prefix, path),
                    (Some(_), None) => false,
                };
                *of_requests.get_or_insert(false) |= is_there && methods.have(deed.method);
            }
        }
    }
    of_apis.unwrap_or(true) && of_requests.unwrap_or(true)
}

fn is_below(prefix: &str, path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !leads_elsewhere(path)
}

/// Whether anybody could read a dot segment in a path: plain or escaped, once or more often, behind
/// a backslash, or before a parameter.
fn leads_elsewhere(path: &str) -> bool {
    // PERF: most paths have none of these.
    if memchr3(b'%', b'\\', b';', path.as_bytes()).is_none() && !path.contains("/.") {
        return false;
    }
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..READINGS {
        let read = unescape(&bytes);
        if read == bytes {
            return has_dots(&bytes);
        }
        bytes = read;
    }
    true
}

fn has_dots(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
        let name = segment[..end].trim_ascii();
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        matches!(&name[..end], b"." | b"..")
    })
}

fn unescape(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            bytes.extend(u8::try_from(high << 4 | low));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(scopes: &str, method: &str, path: Option<&str>) -> bool {
        let scopes: Vec<Scope> = scopes
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().unwrap())
            .collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        allow(&scopes, Deed { api: "orders", method: &method, path })
    }

    #[test]
    fn a_key_may_be_used_for_what_its_scopes_say_and_for_nothing_else() {
        for (scopes, method, path, wanted) in [
            ("", "DELETE", Some("/x"), true),
            ("", "CONNECT", None, true),
            ("read", "GET", Some("/x"), true),
            ("read", "HEAD", Some("/x"), true),
            ("read", "OPTIONS", Some("/x"), true),
            ("read", "POST", Some("/x"), false),
            ("read", "CONNECT", None, false),
            ("write", "POST", Some("/x"), true),
            ("write", "GET", Some("/x"), false),
            ("write", "TRACE", Some("/x"), false),
            ("write", "CONNECT", None, false),
            ("read,write", "PATCH", Some("/x"), true),
            ("GET", "HEAD", Some("/x"), true),
            ("GET", "OPTIONS", Some("/x"), false),
            ("CONNECT", "CONNECT", None, true),
            ("CONNECT", "GET", Some("/x"), false),
            ("/v1", "POST", Some("/v1"), true),
            ("/v1", "POST", Some("/v1/x?y=/../z"), true),
            ("/v1/", "POST", Some("/v1/x"), true),
            ("/v1", "POST", Some("/v10"), false),
            ("/v1", "POST", Some("/v2"), false),
            ("/v1", "CONNECT", None, false),
            ("/", "POST", Some("/anything"), true),
            ("read:/v1", "GET", Some("/v1/x"), true),
            ("read:/v1", "POST", Some("/v1/x"), false),
            ("read:/v1,POST:/v1/orders", "POST", Some("/v1/orders"), true),
            ("read:/v1,POST:/v1/orders", "POST", Some("/v1/users"), false),
            ("api:orders", "POST", Some("/x"), true),
            ("api:users", "POST", Some("/x"), false),
            ("api:users,api:orders,read", "GET", Some("/x"), true),
            ("api:users,api:orders,read", "POST", Some("/x"), false),
            ("api:users,read", "GET", Some("/x"), false),
        ] {
            assert_eq!(may(scopes, method, path), wanted, "{scopes} {method} {path:?}");
        }
    }

    #[test]
    fn no_reading_of_a_path_leads_out_of_a_scope() {
        for path in [
            "/v1/../admin",
            "/v1/..",
            "/v1/./x",
            "/v1/%2e%2e/admin",
            "/v1/.%2E/admin",
            "/v1/..%2fadmin",
            "/v1/x%2f..%2f..%2fadmin",
            "/v1/..\\admin",
            "/v1/..%5cadmin",
            "/v1/%252e%252e/admin",
            "/v1/%25252e%25252e/admin",
            "/v1/..;/admin",
            "/v1/..;a=b/admin",
            "/v1/..%3b/admin",
            "/v1/..%00/admin",
            "/v1/..%20/admin",
            "/%761/x",
        ] {
            assert!(!may("/v1", "GET", Some(path)), "{path}");
        }
        for path in [
            "/v1/...",
            "/v1/.well-known",
            "/v1/a..b",
            "/v1/100%25",
            "/v1/a%2fb",
            "/v1//x",
            "/v1/a;b=..",
        ] {
            assert!(may("/v1", "GET", Some(path)), "{path}");
        }
    }

    #[test]
    fn a_scope_is_told_as_it_was_written_and_what_is_none_is_refused() {
        for text in [
            "read",
            "write",
            "GET",
            "/v1",
            "read:/v1",
            "PROPFIND:/dav",
            "api:orders",
            "/",
            "read:/",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "reads",
            "get",
            "api:",
            ":/v1",
            "read:",
            "read:v1",
            "/a/../b",
            "/a?b",
            "/%61",
            "CONNECT:/a",
            "/a b",
        ] {
            assert_eq!(text.parse::<Scope>(), Err(BadScope), "{text}");
        }
    }
}
