//! Who is let in: requests that name this machine, or a name that the settings know.
//!
//! SECURITY: a page that somebody's browser has open can point a name of its own at this port (DNS
//! rebinding) and read what it answers, for to the browser that is the page's own site. What the
//! browser cannot do is leave that name out of Host. So an unknown name is turned away, whatever it
//! asks for; and no answer has a CORS field, so no other site's page can read any.

use std::net::IpAddr;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::Version;
use http::header;

use super::Answer;
use super::problem;
use crate::base::authority::Authority;
use crate::base::authority::Host;

/// What every answer carries: nothing in it is a document with rights of its own.
const SECURITY: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Puts the fields that protect browsers into an answer.
pub(super) fn protect(fields: &mut HeaderMap) {
    for (name, value) in SECURITY {
        fields.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether a request that came in at address `at` names it, this machine, or one of `known`; else
/// what it gets.
pub(super) fn admit<B>(
    request: &Request<B>,
    at: Option<IpAddr>,
    known: &[Host],
) -> Result<(), Box<Answer>> {
    let refuse = |status, detail: &str| Err(Box::new(problem(status, detail)));
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => field.to_str().ok(),
        // HTTP/1.0 did not have it, and no browser speaks that.
        (None, _) if request.version() == Version::HTTP_10 => return Ok(()),
        (None, _) => return refuse(StatusCode::BAD_REQUEST, "Host: it is missing"),
        (Some(_), Some(_)) => return refuse(StatusCode::BAD_REQUEST, "Host: there are several"),
    };
    // An absolute target is what counts (RFC 9112 §3.2.2), but no browser sends one here.
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    for named in [field].into_iter().chain(target.map(Some)) {
        let named = named.and_then(|named| Authority::parse(named, Some(80)).ok());
        let Some(named) = named else {
            return refuse(StatusCode::BAD_REQUEST, "Host: it is no host");
        };
        if !is_known(named.host(), at, known) {
            let detail = "this host is not known here: --admin-host says which names are";
            return refuse(StatusCode::MISDIRECTED_REQUEST, detail);
        }
    }
    Ok(())
}

fn is_known(named: &Host, at: Option<IpAddr>, known: &[Host]) -> bool {
    known.contains(named)
        || match named {
            Host::Address(address) => {
                address.is_loopback() || at.is_some_and(|at| at.to_canonical() == *address)
            }
            Host::Name(name) => **name == *"localhost",
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, target: &str, hosts: &[&str]) -> u16 {
        let known = ["narrows-1", "192.0.2.9"].map(|host| Host::parse(host).unwrap());
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(()).unwrap();
        let at = Some("::ffff:192.0.2.1".parse().unwrap());
        admit(&request, at, &known).map_or_else(|answer| answer.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_who_names_this_machine_or_a_known_name_is_let_in() {
        for host in [
            "localhost",
            "LocalHost.:9900",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:9900",
            "192.0.2.1:9900",
            "narrows-1:9900",
            "Narrows-1",
            "192.0.2.9",
        ] {
            assert_eq!(status(Version::HTTP_11, "/metrics", &[host]), 200, "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:9900",
            "localhost.evil.test",
            "a.localhost",
            "127.0.0.1.evil.test",
            "192.0.2.2",
            "[::2]",
            "narrows-10",
        ] {
            assert_eq!(status(Version::HTTP_11, "/metrics", &[host]), 421, "{host}");
        }
        for host in ["", "a b", "127.1", "localhost:x", "u@localhost"] {
            assert_eq!(status(Version::HTTP_11, "/metrics", &[host]), 400, "{host:?}");
        }
    }

    #[test]
    fn a_host_must_be_there_once_and_agree_with_the_target() {
        assert_eq!(status(Version::HTTP_11, "/", &[]), 400);
        assert_eq!(status(Version::HTTP_10, "/", &[]), 200);
        assert_eq!(status(Version::HTTP_10, "/", &["evil.test"]), 421);
        assert_eq!(status(Version::HTTP_11, "/", &["localhost", "localhost"]), 400);
        assert_eq!(status(Version::HTTP_11, "http://localhost/", &["localhost"]), 200);
        assert_eq!(status(Version::HTTP_11, "http://evil.test/", &["localhost"]), 421);
        assert_eq!(status(Version::HTTP_11, "http://localhost/", &["evil.test"]), 421);
    }
}
