//! What an answer says of quotas: `RateLimit` and `RateLimit-Policy`, as
//! draft-ietf-httpapi-ratelimit-headers-11 has them, and the older `X-RateLimit-*`.
//!
//! Both are Lists of RFC 9651: a String, the name of the tier, with its parameters. Pure.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use super::Level;
use super::Tier;

static LIMITS: HeaderName = HeaderName::from_static("ratelimit");
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Limit, remaining, reset.
static OLDER: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// What there is to be said of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(super) policy: HeaderValue,
    pub(super) limits: HeaderValue,
    pub(super) older: Option<[u64; 3]>,
}

impl Told {
    pub(super) fn of(policy: &HeaderValue, tiers: &[Tier], levels: &[Level], older: bool) -> Self {
        // Which is the closest to its end says the most in fields that have room for one.
        let scarcest =
            levels.iter().min_by_key(|level| (level.remaining, std::cmp::Reverse(level.reset)));
        let scarcest = scarcest.map(|level| [level.limit, level.remaining, seconds(level.reset)]);
        Self {
            policy: policy.clone(),
            limits: limits(tiers, levels),
            older: scarcest.filter(|_| older),
        }
    }

    /// Puts it into an answer. Ours stands first. What an upstream says of its own quotas stays behind
    /// it, but for what would be taken for ours: members of the same names, and forms that would make
    /// the List unreadable.
    pub(crate) fn put(&self, fields: &mut HeaderMap) {
        for (name, value) in [(&POLICY, &self.policy), (&LIMITS, &self.limits)] {
            let theirs: Vec<HeaderValue> = fields.get_all(name).iter().cloned().collect();
            fields.insert(name, value.clone());
            for theirs in theirs.into_iter().filter(|theirs| self.may_stand_beside(theirs)) {
                fields.append(name, theirs);
            }
        }
        for (name, number) in OLDER.iter().zip(self.older.iter().flatten()) {
            fields.insert(name, (*number).into());
        }
    }

    /// The same in lines, for an answer that is nobody's but ours.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let names = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];
        let older = names.into_iter().zip(self.older.into_iter().flatten());
        let own = [("RateLimit-Policy", text(&self.policy)), ("RateLimit", text(&self.limits))];
        own.into_iter().chain(older.map(|(name, number)| (name, number.to_string())))
    }

    fn may_stand_beside(&self, theirs: &HeaderValue) -> bool {
        let Ok(text) = theirs.to_str() else { return false };
        let ours = self.policy.as_bytes().split(|byte| *byte == b'"').skip(1).step_by(2);
        let has = |name: &[u8]| {
            let name = String::from_utf8_lossy(name);
            text.contains(&format!("\"{name}\""))
        };
        // Before draft 8 it was `limit=10, remaining=5, reset=30`.
        text.trim_start().starts_with('"') && !ours.into_iter().any(has)
    }
}

/// `"minute";q=5;w=60, "hour";q=50;w=3600`.
pub(super) fn policy(tiers: &[Tier]) -> HeaderValue {
    let mut text = String::with_capacity(tiers.len() * 24);
    for tier in tiers {
        let window = tier.window.as_secs().max(1);
        next(&mut text, tier);
        // Writing to a String cannot fail.
        let _written = write!(text, ";q={};w={window}", tier.limit);
    }
    value(text)
}

/// `"minute";r=4;t=37, "hour";r=49;t=3037`.
fn limits(tiers: &[Tier], levels: &[Level]) -> HeaderValue {
    let mut text = String::with_capacity(tiers.len() * 24);
    for (tier, level) in tiers.iter().zip(levels) {
        next(&mut text, tier);
        let _written = write!(text, ";r={};t={}", level.remaining, seconds(level.reset));
    }
    value(text)
}

fn next(text: &mut String, tier: &Tier) {
    if !text.is_empty() {
        text.push_str(", ");
    }
    text.push('"');
    text.push_str(&tier.name);
    text.push('"');
}

/// Rounded up, so that nobody comes too early.
fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Names of tiers are letters and digits, so that there is always one.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::super::tier;
    use super::*;

    fn told(older: bool) -> Told {
        let tiers = [tier(5, Duration::from_mins(1)), tier(100, Duration::from_secs(10))];
        let levels = [(5, 4, 36_001), (100, 0, 9000)].map(|(limit, remaining, reset)| Level {
            limit,
            remaining,
            reset: Duration::from_millis(reset),
        });
        Told::of(&policy(&tiers), &tiers, &levels, older)
    }

    #[test]
    fn each_tier_is_a_member_with_what_it_allows_and_what_is_left() {
        let told = told(true);
        let lines: Vec<String> =
            told.lines().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "RateLimit-Policy: \"minute\";q=5;w=60, \"10s\";q=100;w=10",
            // Rounded up: who comes after 36 seconds would come too early.
            "RateLimit: \"minute\";r=4;t=37, \"10s\";r=0;t=9",
            "X-RateLimit-Limit: 100",
            "X-RateLimit-Remaining: 0",
            "X-RateLimit-Reset: 9",
        ];
        assert_eq!(lines, expected);
        assert_eq!(self::told(false).lines().count(), 2);
    }

    #[test]
    fn what_an_upstream_says_stays_behind_ours_unless_it_could_be_taken_for_it() {
        let beside = |theirs: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert("ratelimit", HeaderValue::from_static(theirs));
            told(false).put(&mut fields);
            let all: Vec<_> = fields.get_all("ratelimit").into_iter().cloned().collect();
            assert_eq!(all[0], "\"minute\";r=4;t=37, \"10s\";r=0;t=9");
            all.len() == 2
        };
        assert!(beside("\"burst\";r=1;t=1") && beside("\"minutely\";r=1"));
        for mistakable in ["\"minute\";r=1", "\"a\";r=1, \"10s\";r=1", "limit=1, remaining=1", "5"]
        {
            assert!(!beside(mistakable), "{mistakable}");
        }
    }

    #[test]
    fn the_older_fields_are_ours_alone() {
        let mut fields = HeaderMap::new();
        fields.insert("x-ratelimit-limit", HeaderValue::from_static("7"));
        told(true).put(&mut fields);
        assert_eq!(fields.get_all("x-ratelimit-limit").iter().collect::<Vec<_>>(), ["100"]);
    }
}
