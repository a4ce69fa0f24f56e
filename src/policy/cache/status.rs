//! What an answer says of the cache: `Cache-Status` (RFC 9211) and `X-Cache`.
//!
//! Values alone, and their text.

use std::fmt::Write;

use http::HeaderValue;

use super::storing::Why;

/// Why a request went on to its origin (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// The cache was not to be asked.
    Bypass,
    /// Its method is none that is answered from a cache.
    Method,
    /// Nothing was kept for it.
    UriMiss,
    /// What was kept was for other fields of a request.
    VaryMiss,
    /// The client did not take what was kept.
    Request,
    /// What was kept is stale.
    Stale,
}

impl Forward {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// How a request was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// By what was kept. `ttl` is how many seconds it is still fresh; below 0 it is stale.
    Hit { ttl: i64 },
    /// By its origin, or by one request to it for several.
    Forwarded(Forwarded),
}

/// How a request that went on was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) why: Forward,
    /// What the origin answered, where the client gets something else.
    pub(crate) status: Option<u16>,
    /// How many seconds what came is fresh, where it is kept.
    pub(crate) stored: Option<i64>,
    /// Another request brought it.
    pub(crate) collapsed: bool,
    /// Why it is not kept.
    pub(crate) unkept: Option<Why>,
}

/// What became of a request, in the words of logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Answered by what was kept.
    Hit,
    /// Answered by the origin, since nothing was kept.
    Miss,
    /// Answered by what was kept though it was stale.
    Stale,
    /// Answered by what was kept, which the origin said still holds.
    Revalidated,
    /// The cache was not asked.
    Bypass,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Hit, Self::Miss, Self::Stale, Self::Revalidated, Self::Bypass];

    /// The word for metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Bypass => "bypass",
        }
    }

    /// The value of `X-Cache`.
    pub(crate) fn field(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
            Self::Bypass => "BYPASS",
        })
    }
}

impl Handled {
    /// The member of `Cache-Status` that this cache adds.
    pub(crate) fn field(&self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(64);
        // Writing to a String cannot fail.
        let _written = match self {
            Self::Hit { ttl } => write!(text, "narrows; hit; ttl={ttl}"),
            Self::Forwarded(went) => {
                text.push_str("narrows; fwd=");
                text.push_str(went.why.as_str());
                let _status = went.status.map(|status| write!(text, "; fwd-status={status}"));
                let _stored = went.stored.map(|ttl| write!(text, "; stored; ttl={ttl}"));
                if went.collapsed {
                    text.push_str("; collapsed");
                }
                let _why = went.unkept.map(|why| write!(text, "; detail={}", why.as_str()));
                Ok(())
            }
        };
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_says_what_happened_in_the_words_of_rfc_9211() {
        let went = Forwarded {
            why: Forward::UriMiss,
            status: None,
            stored: None,
            collapsed: false,
            unkept: None,
        };
        for (handled, wanted) in [
            (Handled::Hit { ttl: 30 }, "narrows; hit; ttl=30"),
            (Handled::Hit { ttl: -5 }, "narrows; hit; ttl=-5"),
            (Handled::Forwarded(went), "narrows; fwd=uri-miss"),
            (
                Handled::Forwarded(Forwarded { stored: Some(60), ..went }),
                "narrows; fwd=uri-miss; stored; ttl=60",
            ),
            (
                Handled::Forwarded(Forwarded { stored: Some(60), collapsed: true, ..went }),
                "narrows; fwd=uri-miss; stored; ttl=60; collapsed",
            ),
            (
                Handled::Forwarded(Forwarded {
                    why: Forward::Stale,
                    status: Some(304),
                    stored: Some(9),
                    ..went
                }),
                "narrows; fwd=stale; fwd-status=304; stored; ttl=9",
            ),
            (
                Handled::Forwarded(Forwarded { unkept: Some(Why::NoStore), ..went }),
                "narrows; fwd=uri-miss; detail=no-store",
            ),
        ] {
            assert_eq!(handled.field().unwrap(), wanted);
        }
        for why in Why::ALL {
            // RFC 9651 §3.3.4: a token.
            let is_token = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(why.as_str().chars().all(is_token), "{}", why.as_str());
        }
    }
}
