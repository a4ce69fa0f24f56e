//! What a replay found, for people and for programs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;

use crate::base::clock;
use crate::telemetry::rfc3339;

/// Rows about whom it would meet; of more, the rest of a rule is one row.
const MOST: usize = 10_000;
/// Rows of them that people are shown.
const SHOWN: usize = 30;
/// Who stands for all that have no row.
const OTHERS: &str = "(others)";

/// How a rule stopped a request, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Waited,
    Refused,
}

/// A rule that stopped a request, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stop {
    pub(super) rule: &'static str,
    pub(super) way: Way,
}

/// What rules did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    waited: u64,
    refused: u64,
    /// Those that only observed.
    observed: u64,
}

impl Counts {
    fn add(&mut self, way: Way, is_observed: bool) {
        match (is_observed, way) {
            (true, _) => self.observed += 1,
            (false, Way::Waited) => self.waited += 1,
            (false, Way::Refused) => self.refused += 1,
        }
    }

    fn all(self) -> u64 {
        self.waited + self.refused + self.observed
    }

    fn json(self) -> Value {
        let Self { waited, refused, observed } = self;
        json!({ "waited": waited, "refused": refused, "observed": observed })
    }
}

/// One rule of one API.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    recorded: Counts,
    replayed: Counts,
}

/// One of those whom it meets.
#[derive(Clone, Debug)]
struct Met {
    counts: Counts,
    first: SystemTime,
    last: SystemTime,
    longest: Duration,
}

/// By API, rule, key and who.
type Whom = (String, &'static str, String, String);

/// What a replay found. [`Display`](fmt::Display) is for people.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) lines: u64,
    pub(super) bad: u64,
    pub(super) requests: u64,
    instances: BTreeSet<String>,
    from: Option<SystemTime>,
    to: Option<SystemTime>,
    /// Requests that meet the same rules as then, and others.
    same: u64,
    other: u64,
    /// Stops that there were not, and such that there are no more.
    added: u64,
    removed: u64,
    rows: BTreeMap<(String, &'static str), Row>,
    whom: BTreeMap<Whom, Met>,
    notes: BTreeMap<String, u64>,
}

impl Report {
    /// A line of this instance.
    pub(super) fn saw(&mut self, instance: &str, at: SystemTime) {
        if !self.instances.contains(instance) && self.instances.len() < MOST {
            self.instances.insert(instance.to_owned());
        }
        self.from = Some(self.from.map_or(at, |from| from.min(at)));
        self.to = Some(self.to.map_or(at, |to| to.max(at)));
    }

    /// What could not be replayed, once more.
    pub(super) fn note(&mut self, words: &str) {
        if let Some(count) = self.notes.get_mut(words) {
            *count += 1;
        } else if self.notes.len() < MOST {
            self.notes.insert(words.to_owned(), 1);
        }
    }

    /// What the log says that a rule did.
    pub(super) fn recorded(&mut self, api: &str, stop: Stop, is_observed: bool) {
        self.row(api, stop.rule).recorded.add(stop.way, is_observed);
    }

    fn row(&mut self, api: &str, rule: &'static str) -> &mut Row {
        let mut name = (api.to_owned(), rule);
        if self.rows.len() >= MOST && !self.rows.contains_key(&name) {
            OTHERS.clone_into(&mut name.0);
        }
        self.rows.entry(name).or_default()
    }

    /// What a rule does now.
    pub(super) fn replayed(
        &mut self,
        api: &str,
        stop: Stop,
        is_observed: bool,
        (key, who): (&str, &str),
        wait: Duration,
    ) {
        self.row(api, stop.rule).replayed.add(stop.way, is_observed);
        let now = clock::wall();
        let mut whom = (api.to_owned(), stop.rule, key.to_owned(), who.to_owned());
        if self.whom.len() >= MOST && !self.whom.contains_key(&whom) {
            (whom.2, whom.3) = (OTHERS.to_owned(), OTHERS.to_owned());
        }
        let met = self.whom.entry(whom).or_insert_with(|| Met {
            counts: Counts::default(),
            first: now,
            last: now,
            longest: Duration::ZERO,
        });
        met.counts.add(stop.way, is_observed);
        met.last = met.last.max(now);
        met.longest = met.longest.max(wait);
    }

    /// A request is over.
    pub(super) fn compare(&mut self, recorded: &[Stop], replayed: &[Stop]) {
        let (mut before, mut now) = (recorded.to_vec(), replayed.to_vec());
        before.sort_unstable();
        now.sort_unstable();
        if before == now {
            self.same += 1;
            return;
        }
        self.other += 1;
        for stop in &before {
            match now.iter().position(|other| other == stop) {
                Some(at) => drop(now.swap_remove(at)),
                None => self.removed += 1,
            }
        }
        self.added += now.len() as u64;
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let time = |time: Option<SystemTime>| time.map(rfc3339::micros);
        let rows = self.rows.iter().map(|((api, rule), row)| {
            let (recorded, replayed) = (row.recorded.json(), row.replayed.json());
            json!({ "api": api, "rule": rule, "recorded": recorded, "replayed": replayed })
        });
        let whom = self.whom.iter().map(|((api, rule, key, who), met)| {
            let mut told = met.counts.json();
            told["api"] = api.as_str().into();
            told["rule"] = (*rule).into();
            told["key"] = key.as_str().into();
            told["who"] = who.as_str().into();
            told["first"] = rfc3339::micros(met.first).into();
            told["last"] = rfc3339::micros(met.last).into();
            told["longest_wait_ms"] = crate::telemetry::decisions::millis(met.longest).into();
            told
        });
        json!({
            "lines": self.lines,
            "bad_lines": self.bad,
            "instances": self.instances.len(),
            "from": time(self.from),
            "to": time(self.to),
            "requests": self.requests,
            "as_recorded": self.same,
            "otherwise": self.other,
            "stops_added": self.added,
            "stops_removed": self.removed,
            "rules": rows.collect::<Value>(),
            "whom": whom.collect::<Value>(),
            "not_replayed":
                self.notes.iter().map(|(words, n)| json!({ "count": n, "what": words })).collect::<Value>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<SystemTime>| time.map_or_else(String::new, rfc3339::micros);
        write!(f, "{} lines of {} instances, ", self.lines, self.instances.len())?;
        writeln!(f, "{} to {}; {} bad lines", time(self.from), time(self.to), self.bad)?;
        write!(f, "{} requests: {} are stopped as they were, ", self.requests, self.same)?;
        write!(f, "{} otherwise ({} stops more, {} fewer)", self.other, self.added, self.removed)?;
        if self.instances.len() > 1 {
            write!(f, "\nThe instances were replayed as a fleet that counts together.")?;
        }
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|((api, rule), Row { recorded, replayed })| {
                let numbers = [recorded, replayed].into_iter().flat_map(|counts| {
                    [counts.waited, counts.refused, counts.observed].map(|n| n.to_string())
                });
                [(*rule).to_owned(), api.clone()].into_iter().chain(numbers).collect()
            })
            .collect();
        let head = ["RULE", "API", "WAITED", "REFUSED", "OBSERVED", "WAITS", "REFUSES", "OBSERVES"];
        table(f, "What rules did, and what they do by these settings:", &head, &rows)?;
        let mut whom: Vec<_> = self.whom.iter().collect();
        whom.sort_by_key(|(_, met)| std::cmp::Reverse(met.counts.all()));
        let rows: Vec<Vec<String>> = whom
            .iter()
            .take(SHOWN)
            .map(|((api, rule, key, who), met)| {
                let Met { counts, first, last, longest } = met;
                let numbers =
                    [counts.waited, counts.refused, counts.observed].map(|n| n.to_string());
                let words = [(*rule).to_owned(), api.clone(), key.clone(), who.clone()];
                let times = [rfc3339::micros(*first), rfc3339::micros(*last)];
                let longest = format!("{:.3}s", longest.as_secs_f64());
                words.into_iter().chain(numbers).chain(times).chain([longest]).collect()
            })
            .collect();
        let head = [
            "RULE", "API", "KEY", "WHO", "WAITS", "REFUSES", "OBSERVES", "FIRST", "LAST", "LONGEST",
        ];
        table(f, "Whom they meet:", &head, &rows)?;
        if whom.len() > SHOWN {
            write!(f, "\n... and {} more; --json has them all", whom.len() - SHOWN)?;
        }
        if !self.notes.is_empty() {
            write!(f, "\n\nNot replayed:")?;
        }
        for (words, n) in &self.notes {
            write!(f, "\n- {n} {words}")?;
        }
        Ok(())
    }
}

/// A table; nothing if it has no rows.
fn table(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    head: &[&str],
    rows: &[Vec<String>],
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    write!(f, "\n\n{title}")?;
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(at, name)| rows.iter().map(|row| row[at].len()).max().unwrap_or(0).max(name.len()))
        .collect();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        write!(f, "\n{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
