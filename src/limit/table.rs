//! The fleet's table of limits: one for all instances, kept in Redis, obeyed without a restart.
//!
//! [`run`] watches it for one instance: it looks every [`LOOK`] whether there is another edition,
//! and applies it. While Redis is away the last one known holds; a Redis that lost it gets it back.
//! Without Redis the table is this process's own. [`Table`] is for whoever is no instance.
//!
//! Invariant: a limiter's table is always one whole edition, never half of one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use deadpool_redis::PoolError;
use redis::RedisError;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::Limiter;
use super::rules::Pattern;
use super::rules::Rule;
use super::rules::Rules;
use crate::base::authority::HostKey;
use crate::store;
use crate::store::Away;
use crate::store::Store;
use crate::store::limits::Changed;
use crate::store::limits::Edition;

/// How often an instance looks for another edition. With the time of two calls it stays well below
/// the second in which a change is to be obeyed.
const LOOK: Duration = Duration::from_millis(500);
/// Changes that may wait for their turn.
const CHANGES: usize = 32;

/// The fleet's table of limits at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetLimits {
    /// Raised by each change; 0 is a table that nobody has made.
    pub version: u64,
    /// Its rules, by pattern.
    pub rules: Vec<Rule>,
}

impl FleetLimits {
    /// `{"version": 3, "rules": [{"pattern": "*.example.com", "limit": 10, "scope": "shared"}]}`
    pub fn to_json(&self) -> serde_json::Value {
        let rules: Vec<_> = self.rules.iter().map(Rule::to_json).collect();
        serde_json::json!({ "version": self.version, "rules": rules })
    }
}

impl Rule {
    /// `{"pattern": "*.example.com", "limit": 10, "scope": "shared"}`
    pub fn to_json(&self) -> serde_json::Value {
        let (pattern, scope) = (self.pattern.to_string(), self.scope.as_str());
        serde_json::json!({ "pattern": pattern, "limit": self.limit, "scope": scope })
    }
}

/// Why the fleet's table could not be read or changed.
#[derive(Debug, Error)]
pub enum Error {
    /// Redis cannot be reached, or refuses.
    #[error("redis: {0}")]
    Away(String),
    /// Nobody speaks to Redis for this limiter: its app does not run.
    #[error("the proxy does not run")]
    Stopped,
}

impl From<Away> for Error {
    fn from(away: Away) -> Self {
        Self::Away(match away {
            Away::Pool(PoolError::Backend(error)) | Away::Redis(error) => error.to_string(),
            Away::Pool(error) => error.to_string(),
            away @ Away::TooLong(_) => away.to_string(),
        })
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        Self::Away(error.to_string())
    }
}

/// The table in Redis, for a program that is no instance, such as `narrows limits`. To be used on
/// one runtime.
#[derive(Debug)]
pub struct Table(Store);

impl Table {
    /// Nothing is connected yet. Errs if the settings name nothing that could be a Redis.
    pub fn new(settings: &store::Settings) -> Result<Self, Error> {
        Ok(Self(Store::new(settings)?))
    }

    /// All of it.
    pub async fn read(&self) -> Result<FleetLimits, Error> {
        let table = self.0.limits().await?;
        Ok(FleetLimits { version: table.edition.version, rules: understood(&table.rows) })
    }

    /// Sets one rule; the version of the table that holds it.
    pub async fn set(&self, rule: &Rule) -> Result<u64, Error> {
        Ok(self.0.set_limit(&rule.pattern.to_string(), &rule.value()).await?.version)
    }

    /// Takes one rule away; the version of the table without it, none if there was no such rule.
    pub async fn remove(&self, pattern: &Pattern) -> Result<Option<u64>, Error> {
        let Changed { version, done } = self.0.remove_limit(&pattern.to_string()).await?;
        Ok(done.then_some(version))
    }
}

/// A change that somebody asks for; the version it made, none if there was nothing to change.
#[derive(Debug)]
struct Change {
    pattern: Pattern,
    /// None takes the rule away.
    rule: Option<Rule>,
    done: oneshot::Sender<Result<Option<u64>, Error>>,
}

/// The way from a limiter to the one that speaks to Redis for it.
#[derive(Debug)]
pub(super) struct Changes {
    sender: mpsc::Sender<Change>,
    ear: Mutex<Option<mpsc::Receiver<Change>>>,
}

impl Default for Changes {
    fn default() -> Self {
        let (sender, ear) = mpsc::channel(CHANGES);
        Self { sender, ear: Mutex::new(Some(ear)) }
    }
}

/// Seconds since 2020, for [`Rules::since`].
pub(super) fn seconds(time: SystemTime) -> u64 {
    const START: Duration = Duration::from_hours(438_288);
    time.duration_since(SystemTime::UNIX_EPOCH + START).map_or(0, |since| since.as_secs())
}

impl Limiter {
    /// The fleet's table of limits as this instance obeys it; without Redis, this process's own.
    pub fn fleet_limits(&self) -> FleetLimits {
        let (version, rules) = self.inner.rules.load().table();
        FleetLimits { version, rules }
    }

    /// The rules that hold where the fleet's table says nothing, by pattern; the default is the one
    /// for [`Pattern::Default`].
    pub fn own_limits(&self) -> Vec<Rule> {
        self.inner.rules.load().own()
    }

    /// Sets a limit in the fleet's table, for all instances; the version of the table that holds
    /// it. This instance obeys it when this returns, the others within a second. A lowered limit
    /// closes nothing: it holds for what comes.
    pub async fn set_fleet_limit(&self, rule: Rule) -> Result<u64, Error> {
        let version = self.change_table(rule.pattern.clone(), Some(rule)).await?;
        Ok(version.unwrap_or_else(|| self.fleet_limits().version))
    }

    /// Takes a rule out of the fleet's table, so that the next less exact one holds; the version of
    /// the table without it, none if there was no such rule.
    pub async fn remove_fleet_limit(&self, pattern: Pattern) -> Result<Option<u64>, Error> {
        self.change_table(pattern, None).await
    }

    /// What the connections to `key` are counted under: `key` itself, or the budget it shares.
    pub fn counted(&self, key: &HostKey) -> HostKey {
        self.inner.rules.load().budget(key).unwrap_or_else(|| key.clone())
    }

    async fn change_table(
        &self,
        pattern: Pattern,
        rule: Option<Rule>,
    ) -> Result<Option<u64>, Error> {
        if !self.is_shared() {
            return Ok(self.change_own_table(&pattern, rule));
        }
        let (done, told) = oneshot::channel();
        let change = Change { pattern, rule, done };
        self.inner.changes.sender.send(change).await.map_err(|_gone| Error::Stopped)?;
        told.await.map_err(|_gone| Error::Stopped)?
    }

    /// Without Redis there is nobody else to agree with.
    fn change_own_table(&self, pattern: &Pattern, rule: Option<Rule>) -> Option<u64> {
        let mut changed = None;
        self.change_rules(|rules| {
            let (version, mut table) = rules.table();
            let there = table.iter().position(|rule| rule.pattern == *pattern);
            changed = match (there, rule.clone()) {
                (None, None) => return,
                (Some(at), Some(rule)) if table[at] == rule => return,
                _ => Some(version + 1),
            };
            if let Some(at) = there {
                table.remove(at);
            }
            table.extend(rule.clone());
            rules.set_table(version + 1, table);
        });
        changed
    }
}

/// Keeps the limiter's table that of Redis, until the future is dropped. `looked` is told when it
/// has been looked at for the first time, or in vain.
pub(crate) async fn run(
    limiter: Limiter,
    settings: store::Settings,
    looked: std::sync::mpsc::Sender<()>,
) {
    let ear = &limiter.inner.changes.ear;
    let ear = ear.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(mut ear), Ok(store)) = (ear, Store::new(&settings)) else {
        // Whoever speaks to Redis for the slots has told why.
        return;
    };
    let mut watch =
        Watch { limiter: limiter.clone(), store, known: store::limits::Table::default() };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                if let Err(error) = watch.look().await {
                    tracing::debug!(%error, "the fleet's limits cannot be read");
                }
                // Only the first time is somebody waiting.
                let _heard = looked.send(());
            }
            Some(change) = ear.recv() => {
                if change.done.is_closed() {
                    // Asked before the start, and told that nobody listens.
                    continue;
                }
                let changed = watch.change(&change.pattern, change.rule.as_ref()).await;
                // The asker may have given up.
                drop(change.done.send(changed.map_err(Error::from)));
            }
        }
    }
}

struct Watch {
    limiter: Limiter,
    store: Store,
    known: store::limits::Table,
}

impl Watch {
    async fn look(&mut self) -> Result<(), Away> {
        let there = self.store.limits_edition().await?;
        if there == self.known.edition {
            return Ok(());
        }
        if there.version < self.known.edition.version {
            let Edition { version, .. } = self.known.edition;
            let restored = self.store.restore_limits(&self.known).await?;
            if restored.done {
                let lost = there.version;
                tracing::warn!(version, lost, "redis lost the fleet's limits: put back");
                return Ok(());
            }
        }
        self.fetch().await
    }

    async fn change(
        &mut self,
        pattern: &Pattern,
        rule: Option<&Rule>,
    ) -> Result<Option<u64>, Away> {
        // What was lost is put back first: the change is one of the table that is known here.
        self.look().await?;
        let text = pattern.to_string();
        let changed = match rule {
            Some(rule) => self.store.set_limit(&text, &rule.value()).await?,
            None => self.store.remove_limit(&text).await?,
        };
        if changed.done {
            self.fetch().await?;
        }
        Ok(changed.done.then_some(changed.version))
    }

    async fn fetch(&mut self) -> Result<(), Away> {
        let table = self.store.limits().await?;
        // It may have been lost between the two reads.
        if table.edition.version < self.known.edition.version {
            return Ok(());
        }
        let (version, rules) = (table.edition.version, understood(&table.rows));
        tracing::info!(version, rules = rules.len(), "the fleet's limits have changed");
        self.limiter.change_rules(|own: &mut Rules| own.set_table(version, rules.iter().cloned()));
        self.known = table;
        Ok(())
    }
}

/// The rules of these rows; what is none was written by somebody else, and is left out.
fn understood(rows: &BTreeMap<String, String>) -> Vec<Rule> {
    let read = |(pattern, value): (&String, &String)| {
        let rule = Pattern::of_table(pattern).ok().map(|pattern| Rule::read(pattern, value));
        let Some(Ok(rule)) = rule else {
            tracing::warn!(pattern, value, "this row of the fleet's limits is no rule");
            return None;
        };
        Some(rule)
    };
    rows.iter().filter_map(read).collect()
}
