//! What a key may take: so much in so long, counted in one of three ways.
//!
//! [`Tier`] is what settings say; [`Tiers`] are those of one key, made ready to be counted, here and by
//! `lua/quota.lua`, which is given them with each question. Its numbers are doubles, so all that is
//! counted stays below 2^53, where those are exact: [`problem`] sees to that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::bucket;
use super::count::Rule;
use super::fixed;
use super::sliding;

/// The highest limit, burst or cost.
pub(super) const MOST: u64 = 1_000_000_000_000;
const LONGEST: Duration = Duration::from_hours(400 * 24);
const SHORTEST: Duration = Duration::from_millis(10);
/// Words that a tier has in a question to Redis.
const WORDS: usize = 8;

/// So much in so long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tier {
    /// What it is called in answers and in Redis: letters, digits, `-` and `_`.
    pub name: Arc<str>,
    /// How much.
    pub limit: u64,
    /// In how long.
    pub window: Duration,
    /// How that is counted.
    pub algorithm: Algorithm,
}

/// How a tier is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// In windows of the calendar, in UTC unless an offset is set: from one full minute to the next.
    /// So twice the limit may come at once, around the edge.
    Fixed,
    /// In any stretch of the window's length, wherever it begins. Exact for limits up to 16; above
    /// that a request counts for up to a sixteenth of the window longer, never shorter.
    Sliding,
    /// As tokens that come back evenly over the window, up to `burst` of them (GCRA).
    TokenBucket {
        /// How many there are at most.
        burst: u64,
    },
}

impl Tier {
    /// One of so many in a minute, an hour, a day, as the calendar has them.
    pub fn fixed(name: &str, limit: u64, window: Duration) -> Self {
        Self { name: name.into(), limit, window, algorithm: Algorithm::Fixed }
    }

    /// How much there is when nobody has taken anything.
    pub(crate) fn most(&self) -> u64 {
        match self.algorithm {
            Algorithm::Fixed | Algorithm::Sliding => self.limit,
            Algorithm::TokenBucket { burst } => burst,
        }
    }

    fn rule(&self, offset: i32) -> Rule {
        let window = micros(self.window).max(1);
        match self.algorithm {
            Algorithm::Fixed => {
                let offset = i64::from(offset) * 1_000_000;
                Rule::Fixed(fixed::Rule { limit: self.limit, window, offset })
            }
            Algorithm::Sliding => Rule::Sliding(sliding::Rule::new(self.limit, window)),
            Algorithm::TokenBucket { burst } => {
                Rule::Bucket(bucket::Rule::new(self.limit, window, burst))
            }
        }
    }

    /// A part of it, for one of so many instances; at least one.
    fn share(&self, instances: u32) -> Self {
        let part = |whole: u64| (whole / u64::from(instances.max(1))).max(whole.min(1));
        let algorithm = match self.algorithm {
            Algorithm::TokenBucket { burst } => Algorithm::TokenBucket { burst: part(burst) },
            Algorithm::Fixed | Algorithm::Sliding => self.algorithm,
        };
        Self { limit: part(self.limit), algorithm, ..self.clone() }
    }
}

/// All tiers of a key, as they are counted.
pub(crate) struct Tiers {
    list: Vec<Tier>,
    offset: i32,
    pub(super) rules: Vec<Rule>,
    words: Vec<String>,
    /// For one of so many instances, as was asked for last.
    share: ArcSwapOption<(u32, Arc<Self>)>,
}

impl PartialEq for Tiers {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list && self.offset == other.offset
    }
}

impl fmt::Debug for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tiers").field(&self.list).finish()
    }
}

impl Tiers {
    /// Those without a [`problem`]. Windows of the calendar begin so many seconds earlier than in UTC.
    pub(crate) fn new(list: Vec<Tier>, offset: i32) -> Self {
        let rules: Vec<Rule> = list.iter().map(|tier| tier.rule(offset)).collect();
        let words = list.iter().zip(&rules).flat_map(|(tier, rule)| words(tier, rule)).collect();
        Self { list, offset, rules, words, share: ArcSwapOption::empty() }
    }

    pub(crate) fn list(&self) -> &[Tier] {
        &self.list
    }

    /// The tier that never has so much.
    pub(super) fn never(&self, cost: u64) -> Option<usize> {
        self.list.iter().position(|tier| cost > tier.most())
    }

    /// What `lua/quota.lua` is told of them.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// The part of one of so many instances.
    pub(super) fn share(&self, instances: u32) -> Arc<Self> {
        if let Some((of, tiers)) = self.share.load().as_deref()
            && *of == instances
        {
            return Arc::clone(tiers);
        }
        let list = self.list.iter().map(|tier| tier.share(instances)).collect();
        let tiers = Arc::new(Self::new(list, self.offset));
        self.share.store(Some(Arc::new((instances, Arc::clone(&tiers)))));
        tiers
    }
}

/// The field of its count, and the numbers of its rule.
fn words(tier: &Tier, rule: &Rule) -> [String; WORDS] {
    let name = &tier.name;
    let (field, letter, numbers) = match rule {
        Rule::Fixed(fixed::Rule { limit, window, offset }) => {
            let numbers = [limit.to_string(), window.to_string(), offset.to_string()];
            let [limit, window, offset] = numbers;
            let field = format!("{name}:f:{window}:{offset}");
            (field, "f", [limit, window, offset, String::new(), String::new()])
        }
        Rule::Sliding(sliding::Rule { limit, window, span }) => {
            let [limit, window, span] = [limit, window, span].map(u64::to_string);
            let field = format!("{name}:s:{window}");
            (field, "s", [limit, window, span, String::new(), String::new()])
        }
        Rule::Bucket(bucket::Rule { burst, token, rate, tick, part }) => {
            (format!("{name}:b"), "b", [burst, token, rate, tick, part].map(u64::to_string))
        }
    };
    let [one, two, three, four, five] = numbers;
    [field, letter.to_owned(), one, two, three, four, five, name.to_string()]
}

/// What is wrong with these, in words.
pub(super) fn problem(tiers: &[Tier]) -> Option<String> {
    for (at, tier) in tiers.iter().enumerate() {
        let name = &tier.name;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
            return Some(format!("a tier is called {name:?}: letters, digits, - and _, up to 64"));
        }
        if tiers[..at].iter().any(|other| other.name == *name) {
            return Some(format!("two tiers are called {name}"));
        }
        if !(1..=MOST).contains(&tier.limit) || !(1..=MOST).contains(&tier.most()) {
            return Some(format!("{name}: a limit or burst is from 1 to {MOST}"));
        }
        if tier.window < SHORTEST || tier.window > LONGEST {
            return Some(format!("{name}: a window is from 10 ms to 400 days"));
        }
        if let Rule::Bucket(rule) = tier.rule(0)
            && !rule.is_exact()
        {
            let limit = tier.limit;
            return Some(format!("{name}: {limit} in so long cannot be counted with that burst"));
        }
    }
    None
}

/// What keeps them from being counted as apitwo did.
pub(super) fn apitwo_problem(tiers: &[Tier]) -> Option<String> {
    let windows = [Duration::from_mins(1), Duration::from_hours(1), Duration::from_hours(24)];
    let odd = tiers
        .iter()
        .find(|tier| tier.algorithm != Algorithm::Fixed || !windows.contains(&tier.window))?;
    Some(format!("{}: the layout of apitwo has fixed windows of 1m, 1h and 1d alone", odd.name))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
