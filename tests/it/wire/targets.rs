//! Request lines and request-targets (RFC 9112 §3, §3.2).

use super::Case;
use super::OK_PASSED;
use super::case;
use super::run;

fn request(section: &'static str, name: &'static str, line: &str) -> Case {
    case(section, name, format!("{line}\r\nHost: {{o}}\r\n\r\n"))
}

#[tokio::test]
async fn a_good_target_is_forwarded_as_it_was_written() {
    let passes = |name: &'static str, method: &str, target: &str, becomes: &str| {
        request("RFC 9112 §3.2.2", name, &format!("{method} {target} HTTP/1.1"))
            .arrives_as(&format!("{method} {becomes} HTTP/1.1"))
            .gets(OK_PASSED)
            .goes_on()
    };
    run(vec![
        passes("absolute-form", "GET", "http://{o}/a/b", "/a/b"),
        passes("no path", "GET", "http://{o}", "/"),
        passes("no path, a query", "GET", "http://{o}?a=b", "/?a=b"),
        passes("a question mark alone", "GET", "http://{o}/a?", "/a?"),
        passes("percent-encoding", "GET", "http://{o}/%2e%2E/%00%ff%zz/%", "/%2e%2E/%00%ff%zz/%"),
        passes("double slashes", "GET", "http://{o}//a//b//", "//a//b//"),
        passes("dots", "GET", "http://{o}/a/../b/./c/..", "/a/../b/./c/.."),
        passes("a bar, a caret, quotes", "GET", "http://{o}/a|b^c\"d{e}", "/a|b^c\"d{e}"),
        passes(
            "a URL in the path",
            "GET",
            "http://{o}/http://x/?u=http://y",
            "/http://x/?u=http://y",
        ),
        passes("an unknown method", "BREW", "http://{o}/pot", "/pot"),
        passes("a method in lower case is another one", "get", "http://{o}/", "/"),
        passes("the scheme in any case", "GET", "hTTp://{o}/a", "/a"),
        passes("OPTIONS without a path", "OPTIONS", "http://{o}", "*"),
        passes("OPTIONS with a path", "OPTIONS", "http://{o}/", "/"),
        passes("OPTIONS with a query alone", "OPTIONS", "http://{o}?q", "/?q"),
    ])
    .await;
}

#[tokio::test]
async fn a_bad_target_is_refused() {
    let bad = |section: &'static str, name: &'static str, line: &str| {
        request(section, name, line).refused(400)
    };
    run(vec![
        bad("RFC 9112 §3.2", "a fragment", "GET http://{o}/a#b HTTP/1.1"),
        bad("RFC 9112 §3.2", "a fragment behind the authority", "GET http://{o}#b HTTP/1.1"),
        bad("RFC 9110 §4.2.4", "userinfo", "GET http://user@{o}/ HTTP/1.1"),
        bad("RFC 9110 §4.2.4", "userinfo with a password", "GET http://u:p@{o}/ HTTP/1.1"),
        bad("RFC 9110 §4.2.4", "empty userinfo", "GET http://@{o}/ HTTP/1.1"),
        bad("RFC 9112 §3.2.2", "another scheme", "GET ftp://{o}/ HTTP/1.1"),
        bad("RFC 9112 §3.2.2", "a scheme without an authority", "GET mailto:x HTTP/1.1"),
        bad("RFC 9110 §4.2.1", "no host", "GET http:///a HTTP/1.1"),
        bad("RFC 9112 §3.2.4", "asterisk-form of a GET", "GET * HTTP/1.1"),
        bad("RFC 9112 §3.2.3", "authority-form of a GET", "GET {o} HTTP/1.1"),
        bad("RFC 9112 §3.2.3", "authority-form of OPTIONS", "OPTIONS {o} HTTP/1.1"),
        bad("RFC 9112 §3.2", "no target", "GET  HTTP/1.1"),
        bad("RFC 9112 §3", "no target and no second space", "GET HTTP/1.1"),
        bad("RFC 9112 §3", "two spaces behind the method", "GET  http://{o}/ HTTP/1.1"),
        bad("RFC 9112 §3", "two spaces before the version", "GET http://{o}/  HTTP/1.1"),
        bad("RFC 9112 §3", "a tab behind the method", "GET\thttp://{o}/ HTTP/1.1"),
        bad("RFC 9112 §3", "a space in the target", "GET http://{o}/a b HTTP/1.1"),
        bad("RFC 9112 §3", "a space before the method", " GET http://{o}/ HTTP/1.1"),
        bad("RFC 9112 §3", "a space behind the version", "GET http://{o}/ HTTP/1.1 "),
        bad("RFC 9112 §3.2", "bytes beyond ASCII", "GET http://{o}/\u{e9} HTTP/1.1"),
        bad("RFC 9112 §2.3", "no version (HTTP/0.9)", "GET http://{o}/"),
        bad("RFC 9112 §3.2", "a backquote", "GET http://{o}/a`b HTTP/1.1"),
        bad("RFC 9112 §3.2", "angle brackets", "GET http://{o}/<a> HTTP/1.1"),
        bad("RFC 9112 §3.2", "a backslash as a slash", "GET http:\\\\{o}\\ HTTP/1.1"),
    ])
    .await;
}

#[tokio::test]
async fn a_url_whose_host_is_none_is_400_and_the_connection_goes_on() {
    let bad = |name: &'static str, url: &str| {
        request("RFC 9110 §4.2.1", name, &format!("GET {url} HTTP/1.1"))
            .own(400, "http_request_error")
            .nobody()
            .goes_on()
    };
    run(vec![
        bad("a port and no host", "http://:{p}/"),
        bad("port 0", "http://127.0.0.1:0/"),
        bad("a port beyond 65535", "http://127.0.0.1:65536/"),
        bad("a port that is no number", "http://127.0.0.1:8o/"),
        bad("an address that only some would read", "http://127.1:{p}/"),
        bad("an address as one number", "http://2130706433:{p}/"),
        bad("an address with a zone", "http://[fe80::1%25lo]:{p}/"),
        bad("an empty label", "http://a..b:{p}/"),
    ])
    .await;
}

#[tokio::test]
async fn a_request_that_is_for_the_proxy_itself_ends_here() {
    run(vec![
        case("RFC 9112 §3.2.4", "OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: proxy\r\n\r\n")
            .gets("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .nobody()
            .goes_on(),
        case("RFC 9112 §3.2.1", "origin-form", "GET /a HTTP/1.1\r\nHost: {o}\r\n\r\n")
            .own(404, "destination_not_found")
            .nobody()
            .goes_on(),
        case(
            "RFC 9112 §3.2.1",
            "origin-form with a fragment",
            "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .refused(400),
        case(
            "RFC 9112 §3.2.1",
            "two slashes are a path",
            "GET //{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n",
        )
        .own(404, "destination_not_found")
        .nobody()
        .goes_on(),
    ])
    .await;
}

#[tokio::test]
async fn a_request_line_has_a_bound_and_a_version() {
    let path = |length: usize| "a".repeat(length);
    // "GET http://127.0.0.1:NNNNN/" and " HTTP/1.1" around the path, NNNNN of five digits.
    let most = 16 * 1024 - 36;
    let version = |name: &'static str, version: &str| {
        request("RFC 9112 §2.3", name, &format!("GET http://{{o}}/ {version}"))
    };
    run(vec![
        request(
            "RFC 9112 §3",
            "the longest request line",
            &format!("GET http://{{o}}/{} HTTP/1.1", path(most)),
        )
        .arrives_as(&format!("GET /{} HTTP/1.1", path(most)))
        .goes_on(),
        request(
            "RFC 9112 §3",
            "one byte more",
            &format!("GET http://{{o}}/{} HTTP/1.1", path(most + 1)),
        )
        .refused(414),
        case(
            "RFC 9112 §3",
            "a request line without an end",
            format!("GET http://{{o}}/{}", path(20_000)),
        )
        .refused(414),
        case("RFC 9112 §3", "a method without an end", path(20_000)).refused(414),
        version("HTTP/2.0 in an HTTP/1 line", "HTTP/2.0").refused(505),
        version("HTTP/1.2", "HTTP/1.2").refused(505),
        version("HTTP/0.9", "HTTP/0.9").refused(505),
        version("a version in lower case", "http/1.1").refused(400),
        version("a version of two digits", "HTTP/1.10").refused(400),
        version("a version without a point", "HTTP/11").refused(400),
    ])
    .await;
}
