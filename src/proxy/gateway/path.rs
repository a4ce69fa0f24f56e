//! The target of a request that leaves the gateway: what the client wrote behind the name of the API,
//! put behind the path of the API's target.
//!
//! Pure. Nothing is decoded, merged or resolved: an escape, a double slash, a dot segment and each
//! argument leave as they came. The slash that ends `target_url` and the one behind the name are one.

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;

use super::PREFIX;
use crate::proxy::reject::Reject;

/// The name of the API in a path of the gateway.
pub(super) fn name(path: &str) -> &str {
    let rest = path.strip_prefix(PREFIX).unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}

/// What stands behind the name: the path as the API has it, and the query.
pub(super) fn behind_name(asked: &str) -> &str {
    let path = asked.split('?').next().unwrap_or_default();
    asked.get(PREFIX.len() + name(path).len()..).unwrap_or_default()
}

/// The target of what leaves: `asked`, path and query as they came, behind `base`, a path without a
/// slash at its end. Of `rewrite` the longest beginning that fits is replaced.
pub(super) fn join(base: &str, rewrite: &[(String, String)], asked: &str) -> Result<Uri, Reject> {
    let (path, query) = asked.split_at(asked.find('?').unwrap_or(asked.len()));
    let rest = path.get(PREFIX.len() + name(path).len()..).unwrap_or_default();
    let (first, rest) = rewritten(rewrite, rest).unwrap_or(("", rest));
    let mut target = String::with_capacity(base.len() + first.len() + asked.len() + 2);
    target.push_str(base);
    if !first.is_empty() && !first.starts_with('/') {
        target.push('/');
    }
    target.push_str(if rest.starts_with('/') { first.trim_end_matches('/') } else { first });
    target.push_str(rest);
    if leaves(&target, base) {
        return Err(Reject::LeavesApi);
    }
    if target.is_empty() {
        target.push('/');
    }
    target.push_str(query);
    // It was one before, and so is the operator's part of it.
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target));
    target.map(Uri::from).map_err(|_not_one| Reject::LeavesApi)
}

/// What stands in the place of the longest beginning that fits, whole segments alone, and what
/// follows it.
fn rewritten<'a>(rewrite: &'a [(String, String)], path: &'a str) -> Option<(&'a str, &'a str)> {
    let fits = rewrite.iter().filter_map(|(from, to)| {
        let rest = path.strip_prefix(from.as_str())?;
        let is_whole = rest.is_empty() || rest.starts_with('/') || from.ends_with('/');
        is_whole.then_some((from.len(), to.as_str(), rest))
    });
    let (_, first, rest) = fits.max_by_key(|(length, ..)| *length)?;
    Some((first, rest))
}

/// Whether a target's path climbs out of its base by dot segments.
///
/// SECURITY: whether `%2F` and `\` part segments, whether `//` is one slash, and whether `..;x` is
/// `..`, servers see in different ways. It must stay inside by each of them.
fn leaves(target: &str, base: &str) -> bool {
    // PERF: most have no dot segment at all.
    if base.is_empty() || !has_dots(target.as_bytes()) {
        return false;
    }
    let mut depth = 0_usize;
    for segment in target[base.len()..].split('/') {
        let (mut ups, mut names) = (0, 0);
        for part in parts(&segment.to_ascii_lowercase().replace("%2e", ".")) {
            match part.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => ups += 1,
                _ => names += 1,
            }
        }
        if ups > depth {
            return true;
        }
        depth -= ups;
        if ups == 0 && names > 0 {
            depth += 1;
        }
    }
    false
}

/// Whether two dots stand side by side, in any spelling.
fn has_dots(path: &[u8]) -> bool {
    let is_dot = |rest: &[u8]| -> Option<usize> {
        match rest {
            [b'.', ..] => Some(1),
            [b'%', b'2', b'e' | b'E', ..] => Some(3),
            _ => None,
        }
    };
    (0..path.len())
        .any(|at| is_dot(&path[at..]).is_some_and(|length| is_dot(&path[at + length..]).is_some()))
}

/// A segment's parts, by what some servers take for slashes.
fn parts(segment: &str) -> Vec<String> {
    let split = segment.replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    split.split('/').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, asked: &str) -> Option<String> {
        join(base, &[], asked).ok().map(|uri| uri.to_string())
    }

    #[test]
    fn what_stands_behind_the_name_is_put_behind_the_base_as_it_was_written() {
        for (base, asked, wanted) in [
            ("", "/api/a", "/"),
            ("", "/api/a/", "/"),
            ("", "/api/a?q=1", "/?q=1"),
            ("", "/api/a?", "/?"),
            ("", "/api/a/x", "/x"),
            ("", "/api/a//x//y/", "//x//y/"),
            ("", "/api/a/../x/./y", "/../x/./y"),
            ("", "/api/a/%2F%2e%7e%41", "/%2F%2e%7e%41"),
            ("", "/api/a/x?b=2&a=1&b=2&&%20=+?/../", "/x?b=2&a=1&b=2&&%20=+?/../"),
            ("/v1", "/api/a", "/v1"),
            ("/v1", "/api/a?q", "/v1?q"),
            ("/v1", "/api/a/", "/v1/"),
            ("/v1", "/api/a/x", "/v1/x"),
            ("/v1", "/api/a//x", "/v1//x"),
            ("/v1", "/api/a/x/../y", "/v1/x/../y"),
            ("/v1", "/api/a/x..y/...", "/v1/x..y/..."),
            ("/v1", "/api/a/api/a/x", "/v1/api/a/x"),
            ("", "/api/a/{\"x\":[1]}|^", "/{\"x\":[1]}|^"),
        ] {
            assert_eq!(joined(base, asked).as_deref(), Some(wanted), "{base} {asked}");
        }
    }

    #[test]
    fn no_dot_segment_in_any_spelling_climbs_out_of_the_base() {
        for path in [
            "/..",
            "/../x",
            "/./../x",
            "/x/../../y",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/..%2fx",
            "/x%2f..%2f..%2f..",
            "/..\\x",
            "/..%5Cx",
            "/..;a=b/x",
            "/x//../../y",
            "/x/./../../y",
            "/x%2Fy/../../z",
            "/x%2f../../y",
        ] {
            assert_eq!(joined("/v1", &format!("/api/a{path}")), None, "{path}");
            assert!(
                joined("", &format!("/api/a{path}")).is_some(),
                "{path}: a root has no outside"
            );
        }
        for path in ["/x/..", "/x/y/../..", "/x?../../..", "/..x", "/x;..", "/..."] {
            assert!(joined("/v1", &format!("/api/a{path}")).is_some(), "{path}");
        }
    }

    #[test]
    fn the_longest_beginning_that_fits_is_replaced() {
        let rewrite = [("/v1", "/old/"), ("/v1/users", "people"), ("/gone/", "/"), ("/up", "")]
            .map(|(from, to)| (from.to_owned(), to.to_owned()));
        for (path, wanted) in [
            ("/v1", "/b/old/"),
            ("/v1/x", "/b/old/x"),
            ("/v1//x?/v1", "/b/old//x?/v1"),
            ("/v10/x", "/b/v10/x"),
            ("/v1/users", "/b/people"),
            ("/v1/users/7", "/b/people/7"),
            ("/v1/users7", "/b/old/users7"),
            ("/gone/x", "/b/x"),
            ("/up", "/b"),
            ("/up/x", "/b/x"),
            ("/x/v1", "/b/x/v1"),
        ] {
            let uri = join("/b", &rewrite, &format!("/api/a{path}")).unwrap().to_string();
            assert_eq!(uri, wanted, "{path}");
        }
        assert!(join("/b", &rewrite, "/api/a/up/../x").is_err(), "out of the base, once rewritten");
    }

    #[test]
    fn a_name_ends_at_a_slash() {
        for (path, wanted) in
            [("/api/a/b", "a"), ("/api/a.b-c_1", "a.b-c_1"), ("/api//x", ""), ("/api/", "")]
        {
            assert_eq!(name(path), wanted);
        }
    }
}
