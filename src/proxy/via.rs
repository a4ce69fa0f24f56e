//! Via (RFC 9110 §7.6.3): our name on what is forwarded, and loops that are known by it.

use http::HeaderMap;
use http::HeaderValue;
use http::Version;
use http::header;

/// The Via fields this proxy adds, by the version of the message.
pub(crate) struct Via {
    name: Box<str>,
    new: HeaderValue,
    old: HeaderValue,
    two: HeaderValue,
}

impl Via {
    /// The fields for a pseudonym; none if it is no token.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let field = |version: &str| HeaderValue::try_from(format!("{version} {name}")).ok();
        Some(Self { name: name.into(), new: field("1.1")?, old: field("1.0")?, two: field("2.0")? })
    }

    /// Puts the field behind those that are there.
    pub(crate) fn add(&self, headers: &mut HeaderMap, version: Version) {
        let via = match version {
            Version::HTTP_10 => &self.old,
            Version::HTTP_2 => &self.two,
            _ => &self.new,
        };
        headers.append(header::VIA, via.clone());
    }

    /// Whether a request with these fields has been here before.
    pub(crate) fn has_passed(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(header::VIA).iter();
        // A comment may hold commas, but no pair of words in it is anybody's entry unless somebody
        // wrote it there to be refused.
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).any(|entry| {
            let received_by = entry.split_ascii_whitespace().nth(1);
            received_by.is_some_and(|by| by.eq_ignore_ascii_case(&self.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_known_by_the_whole_name_wherever_it_stands() {
        let via = Via::new("me").unwrap();
        for (lines, looped) in [
            (&["1.1 me"][..], true),
            (&["1.0 fred, 1.1 ME (again)"], true),
            (&["1.1 fred", "HTTP/1.1  me"], true),
            (&["1.1 me2, 1.1 notme, 1.1 me:80"], false),
            (&["me"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::VIA, HeaderValue::from_static(line));
            }
            assert_eq!(via.has_passed(&headers), looped, "{lines:?}");
        }
    }
}
