//! What the quotas of an API are: whose requests are counted together, how many each may make, and
//! for how many one counts. How they are counted is [`Settings`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::Method;

use super::Settings;
use super::Tier;
use super::subject::Keying;
use crate::policy::Mode;

/// The quotas of an API.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Whether they are obeyed.
    pub mode: Mode,
    /// By what requests are counted.
    pub keying: Keying,
    /// Those of all who have no plan.
    pub tiers: Vec<Tier>,
    /// Other ones, by the names of plans.
    pub plans: BTreeMap<Arc<str>, Plan>,
    /// So many seconds earlier than in UTC do windows of the calendar begin.
    pub offset: i32,
    /// The claim of a token that names the plan.
    pub plan_claim: Option<String>,
    /// For how many requests one counts.
    pub cost: Cost,
    /// Whether the older fields (X-RateLimit-Limit and so on) say it too.
    pub x_ratelimit: bool,
    /// How it is counted.
    pub counting: Settings,
}

/// What those have who have a plan.
#[derive(Clone, Default, PartialEq)]
pub struct Plan {
    /// None is not counted at all.
    pub tiers: Vec<Tier>,
    /// Who has it, whatever else is said of them: values of what requests are counted by.
    pub keys: BTreeSet<String>,
}

impl fmt::Debug for Plan {
    /// SECURITY: without the keys, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("tiers", &self.tiers)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// For how many requests one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// If nothing else says it.
    pub each: u64,
    /// By method; 0 is not counted.
    pub of: Vec<(Method, u64)>,
    /// A field of the request that says it, within 1 and `most`.
    pub header: Option<HeaderName>,
    /// The most that a field may say.
    pub most: u64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { each: 1, of: Vec::new(), header: None, most: 100 }
    }
}

impl Default for Terms {
    /// As apitwo: 5 in a minute, 50 in an hour and 500 in a day for each address.
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            keying: Keying::default(),
            tiers: [(5, 60), (50, 3600), (500, 86400)]
                .map(|(limit, seconds)| tier(limit, Duration::from_secs(seconds)))
                .to_vec(),
            plans: BTreeMap::new(),
            offset: 0,
            plan_claim: None,
            cost: Cost::default(),
            x_ratelimit: false,
            counting: Settings::default(),
        }
    }
}

/// A tier by the name that its window has.
pub fn tier(limit: u64, window: Duration) -> Tier {
    Tier::fixed(&name(window), limit, window)
}

/// What the tier of a window is called: `minute`, `hour` and `day` where it is one, else its length,
/// such as `10s` or `7d`.
pub fn name(window: Duration) -> Cow<'static, str> {
    let millis = window.as_millis();
    match millis {
        60_000 => return "minute".into(),
        3_600_000 => return "hour".into(),
        86_400_000 => return "day".into(),
        _ => {}
    }
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, size)| millis > 0 && millis.is_multiple_of(*size));
    let (unit, size) = unit.unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size).into()
}

impl Cost {
    /// For how many this one counts. A field that says no number says nothing.
    pub(super) fn of(&self, method: &Method, fields: &HeaderMap) -> u64 {
        let of_method = self.of.iter().find(|(known, _)| known == method).map(|(_, cost)| *cost);
        let said = self.header.as_ref().and_then(|name| {
            let text = fields.get(name)?.to_str().ok()?.trim();
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // More digits than any number has is more than the most.
            is_number.then(|| text.parse().unwrap_or(u64::MAX).clamp(1, self.most))
        });
        match of_method {
            Some(0) => 0,
            of_method => said.or(of_method).unwrap_or(self.each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_called_by_its_window() {
        let of = |seconds| name(Duration::from_secs(seconds));
        assert_eq!([of(60), of(3600), of(86400)], ["minute", "hour", "day"]);
        assert_eq!(
            [of(10), of(90), of(120), of(7200), of(7 * 86400)],
            ["10s", "90s", "2m", "2h", "7d"]
        );
        assert_eq!(name(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn a_request_counts_for_what_its_field_says_within_bounds_else_for_what_its_method_does() {
        let cost = Cost {
            each: 2,
            of: vec![(Method::POST, 5), (Method::OPTIONS, 0)],
            header: Some(HeaderName::from_static("x-cost")),
            most: 10,
        };
        let of = |method: Method, said: Option<&str>| {
            let mut fields = HeaderMap::new();
            if let Some(said) = said {
                fields.insert("x-cost", said.parse().unwrap());
            }
            cost.of(&method, &fields)
        };
        assert_eq!(of(Method::GET, None), 2);
        assert_eq!(of(Method::POST, None), 5);
        assert_eq!(of(Method::POST, Some("7")), 7);
        assert_eq!(of(Method::GET, Some("0")), 1, "nobody pays nothing by saying so");
        assert_eq!(of(Method::GET, Some("11")), 10);
        assert_eq!(of(Method::GET, Some("99999999999999999999999")), 10);
        for odd in ["", "-1", "+3", "1.5", "x"] {
            assert_eq!(of(Method::GET, Some(odd)), 2, "{odd}");
        }
        assert_eq!(of(Method::OPTIONS, Some("7")), 0);
    }
}
