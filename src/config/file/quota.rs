//! `quota` of an API: whose requests are counted together, how many they may make, who has a plan.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::Method;

use super::api::mode;
use super::api::set;
use super::keys;
use super::keys::Key;
use super::reader;
use super::reader::Map;
use super::reader::Notes;
use crate::config::access::network;
use crate::config::units;
use crate::policy::quota::Algorithm;
use crate::policy::quota::Cost;
use crate::policy::quota::Keying;
use crate::policy::quota::Layout;
use crate::policy::quota::OnRedisError;
use crate::policy::quota::Part;
use crate::policy::quota::Plan;
use crate::policy::quota::Settings;
use crate::policy::quota::Terms;
use crate::policy::quota::Tier;
use crate::policy::quota::tier;

/// Windows that one client may have.
const MOST_TIERS: usize = 8;
/// The shortest, and the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(366 * 24);
/// Plans of one API.
const MOST_PLANS: usize = 1000;

/// Where windows stand: the same words in the quota itself and in a plan.
struct Windows {
    minute: &'static Key,
    hour: &'static Key,
    day: &'static Key,
    others: &'static Key,
    burst: &'static Key,
}

static OF_ALL: Windows = Windows {
    minute: &keys::QUOTA_MINUTE,
    hour: &keys::QUOTA_HOUR,
    day: &keys::QUOTA_DAY,
    others: &keys::QUOTA_WINDOWS,
    burst: &keys::QUOTA_BURST,
};
static OF_PLAN: Windows = Windows {
    minute: &keys::PLAN_MINUTE,
    hour: &keys::PLAN_HOUR,
    day: &keys::PLAN_DAY,
    others: &keys::PLAN_WINDOWS,
    burst: &keys::PLAN_BURST,
};

/// How tiers are counted.
#[derive(Clone, Copy)]
enum Way {
    Fixed,
    Sliding,
    TokenBucket,
}

pub(super) fn read(map: &Map<'_>, notes: &mut Notes) -> Terms {
    let mut terms = Terms::default();
    set(&mut terms.mode, mode(map, notes, &keys::QUOTA_MODE));
    set(&mut terms.counting.on_redis_error, on_redis_error(map, notes));
    set(&mut terms.counting.layout, layout(map, notes));
    set(&mut terms.counting.charge_refused, map.switch(notes, &keys::CHARGE_REFUSED));
    let way = match map.word(notes, &keys::ALGORITHM) {
        Some("sliding") => Way::Sliding,
        Some("token_bucket") => Way::TokenBucket,
        Some(_) | None => Way::Fixed,
    };
    let counting = &terms.counting;
    terms.tiers = tiers(map, notes, &OF_ALL, way, counting, terms.tiers);
    terms.plans = plans(map, notes, way, counting);
    set(&mut terms.offset, map.parse(notes, &keys::TZ, |text| offset(text).ok_or(keys::TZ.kind)));
    terms.keying = keying(map, notes);
    terms.plan_claim = map.parse(notes, &keys::PLAN_CLAIM, |text| match text.trim() {
        "" => Err(keys::PLAN_CLAIM.kind),
        name => Ok(name.to_owned()),
    });
    if terms.plan_claim.is_some() && terms.plans.is_empty() {
        map.warn(notes, &keys::PLAN_CLAIM, "has no effect without plans");
    }
    terms.cost = cost(map, notes);
    set(&mut terms.x_ratelimit, map.switch(notes, &keys::X_RATELIMIT));
    let all = terms.tiers.iter().chain(terms.plans.values().flat_map(|plan| &plan.tiers));
    if let Some(smallest) = all.map(|tier| tier.limit).min() {
        let dearest = terms.cost.of.iter().map(|(_, cost)| *cost).fold(terms.cost.each, u64::max);
        if dearest > smallest {
            let key = if terms.cost.each > smallest { &keys::COST } else { &keys::COST_OF };
            let words = format!("{dearest} is more than some may have at all, which is {smallest}");
            map.warn(notes, key, &words);
        }
    }
    terms
}

fn on_redis_error(map: &Map<'_>, notes: &mut Notes) -> Option<OnRedisError> {
    Some(match map.word(notes, &keys::ON_REDIS_ERROR)? {
        "closed" => OnRedisError::Closed,
        "error500" => OnRedisError::Error500,
        "open" => OnRedisError::Open,
        _ => OnRedisError::Local,
    })
}

fn layout(map: &Map<'_>, notes: &mut Notes) -> Option<Layout> {
    Some(match map.word(notes, &keys::LAYOUT)? {
        "apitwo" => Layout::Apitwo,
        _ => Layout::Narrows,
    })
}

/// In the order of their length, which is that in which they are told; `unset` if none is given.
fn tiers(
    map: &Map<'_>,
    notes: &mut Notes,
    windows: &Windows,
    way: Way,
    counting: &Settings,
    unset: Vec<Tier>,
) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for (key, seconds) in [(windows.minute, 60), (windows.hour, 3600), (windows.day, 86400)] {
        let limit = map.whole(notes, key);
        tiers.extend(limit.map(|limit| tier(limit, Duration::from_secs(seconds))));
    }
    for item in map.texts(notes, windows.others).unwrap_or_default() {
        match window(item.text) {
            Some((_, window)) if tiers.iter().any(|tier: &Tier| tier.window == window) => {
                map.refuse(notes, windows.others, item, &"a window that is not there yet");
            }
            Some((limit, window)) => tiers.push(tier(limit, window)),
            None => {
                let allowed = "N/TIME such as 100/10s, from 1s to 366d, in whole seconds";
                map.refuse(notes, windows.others, item, &allowed);
            }
        }
    }
    if tiers.len() > MOST_TIERS {
        let words = format!("so many windows are not allowed: at most {MOST_TIERS}");
        map.complain(notes, windows.others, &words);
    }
    if tiers.is_empty() {
        tiers = unset;
    }
    tiers.sort_by_key(|tier| tier.window);
    let burst = map.whole::<u64>(notes, windows.burst);
    for (at, tier) in tiers.iter_mut().enumerate() {
        tier.algorithm = match way {
            Way::Fixed => Algorithm::Fixed,
            Way::Sliding => Algorithm::Sliding,
            // Who has a minute of ten and a day of a thousand may come ten at once, not a thousand.
            Way::TokenBucket => {
                Algorithm::TokenBucket { burst: burst.filter(|_| at == 0).unwrap_or(tier.limit) }
            }
        };
    }
    if burst.is_some() && !matches!(way, Way::TokenBucket) {
        map.warn(notes, windows.burst, "has no effect without algorithm: token_bucket");
    }
    if let Some(problem) = counting.problem(&tiers) {
        notes.problem(map.place(), &map.path, &problem);
    }
    tiers
}

/// Seconds that a place is ahead of UTC.
fn offset(text: &str) -> Option<i32> {
    if text == "UTC" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, most: i32| {
        let is_one = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i32>().ok().filter(|number| is_one && *number <= most)
    };
    let (hours, minutes) = (number(hours, 14)?, number(minutes, 59)?);
    Some(sign * (hours * 3600 + minutes * 60))
}

/// `100/10s`, or `100/s`.
fn window(text: &str) -> Option<(u64, Duration)> {
    let (number, time) = text.split_once('/')?;
    let number = reader::whole(number.trim(), keys::QUOTA_MINUTE.kind)?;
    let time = time.trim();
    let each = if time.starts_with(|c: char| c.is_ascii_digit()) {
        time.to_owned()
    } else {
        format!("1{time}")
    };
    let window = units::duration(&each).ok()?;
    let is_one = (SHORTEST..=LONGEST).contains(&window) && window.subsec_nanos() == 0;
    is_one.then_some((number, window))
}

fn keying(map: &Map<'_>, notes: &mut Notes) -> Keying {
    let mut keying = Keying::default();
    let parts = map
        .list(notes, &keys::QUOTA_KEY, |text| Part::parse(text.trim()).ok_or(keys::QUOTA_KEY.kind));
    set(&mut keying.parts, parts.filter(|parts| !parts.is_empty()));
    set(&mut keying.ipv6_prefix, map.whole(notes, &keys::IPV6_PREFIX));
    set(&mut keying.trusted, map.list(notes, &keys::TRUSTED_PROXIES, network));
    for (at, part) in keying.parts.iter().enumerate() {
        if keying.parts[..at].contains(part) {
            let words = format!("{} is there twice", part.text());
            map.complain(notes, &keys::QUOTA_KEY, &words);
        }
    }
    keying
}

fn plans(
    map: &Map<'_>,
    notes: &mut Notes,
    way: Way,
    counting: &Settings,
) -> BTreeMap<Arc<str>, Plan> {
    let mut plans = BTreeMap::new();
    let mut listed = BTreeSet::new();
    for (name, inner) in map.named(notes, &keys::PLANS).unwrap_or_default() {
        let tiers = tiers(&inner, notes, &OF_PLAN, way, counting, Vec::new());
        let mut mine = BTreeSet::new();
        for key in inner.texts(notes, &keys::PLAN_KEYS).unwrap_or_default() {
            if listed.insert(key.text.to_owned()) {
                mine.insert(key.text.to_owned());
            } else {
                inner.refuse(notes, &keys::PLAN_KEYS, key, &"one that has no plan yet");
            }
        }
        plans.insert(Arc::from(name.text), Plan { tiers, keys: mine });
    }
    if plans.len() > MOST_PLANS {
        let words = format!("so many are not allowed: at most {MOST_PLANS}");
        map.complain(notes, &keys::PLANS, &words);
    }
    plans
}

/// What `cost` may be.
enum Said {
    Each(u64),
    Field(HeaderName),
}

fn cost(map: &Map<'_>, notes: &mut Notes) -> Cost {
    let mut cost = Cost::default();
    let number = |text: &str| reader::whole(text, keys::COST_MAX.kind);
    let said = map.parse(notes, &keys::COST, |text| {
        let field = text.strip_prefix("header:").map(|name| name.trim().parse().map(Said::Field));
        match field {
            Some(field) => field.map_err(|_bad| keys::COST.kind),
            None => number(text).map(Said::Each).ok_or(keys::COST.kind),
        }
    });
    match said {
        Some(Said::Each(each)) => cost.each = each,
        Some(Said::Field(name)) => cost.header = Some(name),
        None => {}
    }
    set(&mut cost.most, map.whole(notes, &keys::COST_MAX));
    for (method, times) in map.pairs(notes, &keys::COST_OF).unwrap_or_default() {
        let known = Method::from_bytes(method.text.as_bytes());
        let times_read = if times.text == "0" { Some(0) } else { number(times.text) };
        match (known, times_read) {
            (Ok(known), Some(times)) => cost.of.push((known, times)),
            (Err(_), _) => map.refuse(notes, &keys::COST_OF, method, &"a method, such as POST"),
            (Ok(_), None) => {
                map.refuse(notes, &keys::COST_OF, times, &"a number from 0 to 1000000");
            }
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::tests::file;
    use crate::config::tests::problems;
    use crate::config::tests::serve;
    use crate::policy::Mode;

    fn terms(quota: &str) -> (Terms, Vec<String>) {
        let (_folder, path) = file("yaml", &format!("api: {{a: {{quota: {quota}}}}}\n"));
        let served = serve(&["--config", &path], &[]);
        (served.config.apis[0].quota.clone().unwrap(), served.warnings)
    }

    fn said(tiers: &[Tier]) -> Vec<String> {
        tiers.iter().map(|tier| format!("{} {}", tier.name, tier.limit)).collect()
    }

    #[test]
    fn a_quota_that_says_nothing_is_apitwos() {
        for quota in ["true", "{}", "{key: address}"] {
            let (terms, warnings) = terms(quota);
            assert_eq!(terms, Terms::default(), "{quota}");
            assert_eq!(said(&terms.tiers), ["minute 5", "hour 50", "day 500"]);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        let (_folder, path) = file("yaml", "api: {a: {quota: false}, b: {}}\n");
        assert!(serve(&["--config", &path], &[]).config.apis.iter().all(|api| api.quota.is_none()));
    }

    #[test]
    fn a_quota_is_as_it_is_said() {
        let (terms, warnings) = terms(
            "{windows: [100/10s, 9/2m], day: 10, key: [api_key, 'header:X-Tenant'], ipv6_prefix: 48, \
             trusted_proxies: [10.0.0.0/8, 192.0.2.1], algorithm: token_bucket, burst: 20, \
             tz: '-05:30', mode: observe, \
             plans: {paid: {minute: 100, keys: [alice]}, inner: {}}, plan_claim: plan, cost: 'header:X-Cost', \
             cost_max: 7, cost_of: {POST: 5, HEAD: 0}, on_redis_error: closed, x_ratelimit: true}",
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(
            said(&terms.tiers),
            ["10s 100", "2m 9", "day 10"],
            "shortest first, and those alone"
        );
        let algorithms: Vec<Algorithm> = terms.tiers.iter().map(|tier| tier.algorithm).collect();
        assert_eq!(
            algorithms,
            [20, 9, 10].map(|burst| Algorithm::TokenBucket { burst }),
            "a burst is that of the shortest"
        );
        let keys: Vec<_> = terms.keying.parts.iter().map(Part::text).collect();
        assert_eq!(keys, ["api_key", "header:x-tenant"]);
        assert_eq!((terms.keying.ipv6_prefix, terms.keying.trusted.len()), (48, 2));
        assert_eq!(said(&terms.plans["paid"].tiers), ["minute 100"]);
        assert!(
            terms.plans["paid"].keys.contains("alice") && terms.plans["inner"].tiers.is_empty()
        );
        assert_eq!(terms.plan_claim.as_deref(), Some("plan"));
        assert_eq!((terms.cost.each, terms.cost.most), (1, 7));
        assert_eq!(terms.cost.header.as_ref().unwrap(), "x-cost");
        assert_eq!(terms.cost.of, [(Method::POST, 5), (Method::HEAD, 0)]);
        assert_eq!(terms.counting.on_redis_error, OnRedisError::Closed);
        assert!(terms.x_ratelimit && terms.mode == Mode::Observe);
        assert_eq!(terms.offset, -19_800);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (quota, wanted) in [
            ("{minute: 0}", "quota.minute: \"0\" is not allowed"),
            ("{windows: [10]}", "quota.windows: \"10\" is not allowed: N/TIME"),
            ("{windows: [10/500ms]}", "N/TIME"),
            ("{windows: [10/1500ms]}", "N/TIME"),
            ("{minute: 1, windows: [10/60s]}", "a window that is not there yet"),
            ("{key: adress}", "quota.key: \"adress\" is not allowed: a list of address"),
            ("{key: [host, host]}", "host is there twice"),
            ("{plans: {a: {keys: [x]}, b: {keys: [x]}}}", "plans.b.keys: (secret) is not allowed"),
            (
                "{plans: {a: {minuet: 1}}}",
                "plans.a.minuet: is not a key of narrows; did you mean minute?",
            ),
            ("{plans: [a]}", "quota.plans: a list is not allowed"),
            ("{cost: 0}", "quota.cost"),
            ("{cost: 'header:a b'}", "quota.cost"),
            ("{cost_of: {POST: many}}", "quota.cost_of"),
            ("{trusted_proxies: [everybody]}", "quota.trusted_proxies"),
            ("{algorithm: none}", "quota.algorithm"),
            ("{tz: Europe/Berlin}", "quota.tz"),
            ("{tz: '+2:00'}", "quota.tz"),
        ] {
            let (_folder, path) = file("yaml", &format!("api: {{a: {{quota: {quota}}}}}\n"));
            let told = problems(&["--config", &path], &[]);
            assert!(told.len() == 1 && told[0].contains(wanted), "{quota}: {told:?}");
        }
        for (quota, wanted) in [
            ("{burst: 5}", "burst: has no effect without algorithm"),
            ("{plan_claim: plan}", "plan_claim: has no effect without plans"),
            ("{cost: 6}", "cost: 6 is more than some may have at all, which is 5"),
            ("{cost_of: {PUT: 6}}", "cost_of: 6 is more than"),
        ] {
            let (_, warnings) = terms(quota);
            assert!(warnings.len() == 1 && warnings[0].contains(wanted), "{quota}: {warnings:?}");
        }
    }

    #[test]
    fn flags_give_the_default_api_a_quota() {
        let served = serve(&["--quota-minute=5", "--quota-key", "identity,host"], &[]);
        let terms = served.config.apis[0].quota.clone().unwrap();
        assert_eq!(said(&terms.tiers), ["minute 5"]);
        assert_eq!(terms.keying.parts, [Part::Identity, Part::Host]);
        let served = serve(&["--quota-key=host"], &[("NARROWS_QUOTA_DAY", "")]);
        assert!(served.warnings[0].contains("--quota-key has no effect without --quota-minute"));
    }
}
