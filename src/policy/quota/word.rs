//! What is said to `lua/quota.lua`, and what it answers.

use std::time::Duration;

use super::Layout;
use super::Level;
use super::Settings;
use super::count::Denied;
use super::count::Granted;
use super::count::Question;
use super::tier::Tiers;

/// What quotas are called on the board.
pub(super) const TOPIC: &str = "quota";

/// What Redis is asked, or told, of one key.
#[derive(Clone, Debug)]
pub(super) enum Say<'a> {
    /// What was taken was not used: to be used at once, lent, when.
    Back(u64, u64, u64),
    /// All of it is there again.
    Forget,
    /// How full it is.
    Look,
    /// Something is wanted, and so much of each tier was taken without having asked.
    Take(Question, Option<&'a str>),
}

/// What Redis says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) outcome: Result<Granted, Denied>,
    /// When, by its clock.
    pub(super) at: u64,
    pub(super) levels: Vec<Level>,
}

/// The same, spelt out.
#[derive(Debug)]
pub(super) struct Spelt<'a> {
    verb: &'static str,
    numbers: [String; 4],
    owed: &'a str,
    flag: &'static str,
    key: &'a str,
    tiers: &'a Tiers,
}

impl<'a> Say<'a> {
    pub(super) fn spell(&self, key: &'a str, tiers: &'a Tiers, settings: &Settings) -> Spelt<'a> {
        let (verb, numbers, owed) = match *self {
            Say::Back(now, lent, at) => ("back", [now, lent, at, 0], None),
            Say::Forget => ("forget", [0; 4], None),
            Say::Look => ("look", [0; 4], None),
            Say::Take(Question { need, demand, want, share }, owed) => {
                ("take", [need, demand, want, share], owed)
            }
        };
        Spelt {
            verb,
            numbers: numbers.map(|number| number.to_string()),
            owed: owed.unwrap_or_default(),
            flag: if settings.charge_refused { "r" } else { "" },
            // Only that layout needs it; in ours the key of Redis says it.
            key: match settings.layout {
                Layout::Apitwo => key,
                Layout::Narrows => "",
            },
            tiers,
        }
    }
}

impl Spelt<'_> {
    pub(super) fn words(&self) -> Vec<&str> {
        let mut words = vec![self.verb];
        words.extend(self.numbers.iter().map(String::as_str));
        words.extend([self.flag, self.owed, self.key]);
        words.extend(self.tiers.words());
        words
    }
}

impl Reply {
    /// None if it makes no sense.
    pub(super) fn parse(words: &[String], tiers: &Tiers) -> Option<Self> {
        let (head, levels_said) = words.split_first_chunk::<7>()?;
        let mut numbers = [0; 7];
        for (number, word) in numbers.iter_mut().zip(head) {
            *number = word.parse().ok()?;
        }
        let [is_granted, now, lent, valid, refuses, wait, at] = numbers;
        let outcome = if is_granted == 1 {
            Ok(Granted { now, lent, valid })
        } else {
            let tier = usize::try_from(refuses).ok()?.checked_sub(1)?;
            Err(Denied { tier: Some(tier).filter(|tier| *tier < tiers.list().len())?, left: wait })
        };
        let mut levels = Vec::with_capacity(tiers.list().len());
        for (tier, level) in tiers.list().iter().zip(levels_said.as_chunks::<2>().0) {
            let [remaining, reset] = level;
            levels.push(Level {
                limit: tier.most(),
                remaining: remaining.parse().ok()?,
                reset: Duration::from_micros(reset.parse().ok()?),
            });
        }
        (levels.len() == tiers.list().len()).then_some(Self { outcome, at, levels })
    }
}
