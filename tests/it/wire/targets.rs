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
        bad("RFC 9110 §4.2.1", "a port and no host", "GET http://:{p}/ HTTP/1.1"),
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
