//! The fleet's table of limits as it stands in Redis: texts, a version, and how to change them.
//!
//! What the texts mean is the limiter's business. All of the table is one hash, read whole; each
//! change is one script (`lua/limits.lua`), so that two at once are two versions.

use std::collections::BTreeMap;

use redis::Cmd;
use redis::FromRedisValue;
use redis::Script;
use redis::ServerErrorKind;

use super::Away;
use super::Store;
use super::keys::LIMITS;

pub(super) const CHANGE: &str = include_str!("../../lua/limits.lua");
const VERSION: &str = "#v";
const STAMP: &str = "#at";

/// Which table it is: of two with one version the other was made after a loss of Redis's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edition {
    /// Raised by each change; 0 is a table that nobody has made.
    pub(crate) version: u64,
    /// When it was made, by Redis's clock; compared and never read.
    pub(crate) stamp: String,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) edition: Edition,
    /// Pattern and value, as they were written.
    pub(crate) rows: BTreeMap<String, String>,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The version now.
    pub(crate) version: u64,
    /// Whether it was another before.
    pub(crate) done: bool,
}

impl Store {
    /// Which table there is now: one cheap read.
    pub(crate) async fn limits_edition(&self) -> Result<Edition, Away> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.keys.limits()).arg(VERSION).arg(STAMP);
        let (version, stamp): (Option<u64>, Option<String>) = self.ask(&read).await?;
        Ok(Edition { version: version.unwrap_or(0), stamp: stamp.unwrap_or_default() })
    }

    /// All of the table.
    pub(crate) async fn limits(&self) -> Result<Table, Away> {
        let mut read = redis::cmd("HGETALL");
        read.arg(self.keys.limits());
        let mut rows: BTreeMap<String, String> = self.ask(&read).await?;
        let version = rows.remove(VERSION).and_then(|text| text.parse().ok()).unwrap_or(0);
        let stamp = rows.remove(STAMP).unwrap_or_default();
        Ok(Table { edition: Edition { version, stamp }, rows })
    }

    /// Sets one row; nothing is done if it stands there already.
    pub(crate) async fn set_limit(&self, pattern: &str, value: &str) -> Result<Changed, Away> {
        self.change(&["set", pattern, value]).await
    }

    /// Takes one row away; nothing is done if there is none.
    pub(crate) async fn remove_limit(&self, pattern: &str) -> Result<Changed, Away> {
        self.change(&["rm", pattern]).await
    }

    /// Puts a table back that Redis has lost; nothing is done if the one there is as new.
    pub(crate) async fn restore_limits(&self, table: &Table) -> Result<Changed, Away> {
        let version = table.edition.version.to_string();
        let mut words = vec!["put", &version, &table.edition.stamp];
        words.extend(table.rows.iter().flat_map(|(pattern, value)| [pattern.as_str(), value]));
        self.change(&words).await
    }

    async fn change(&self, words: &[&str]) -> Result<Changed, Away> {
        let script = Script::new(CHANGE);
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(1).arg(self.keys.limits()).arg(words);
        let unknown = |error: &Away| {
            matches!(error, Away::Redis(error)
                if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript))
        };
        let (version, done): (u64, bool) = match self.ask(&call).await {
            Err(error) if unknown(&error) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(CHANGE);
                let _hash: String = self.ask(&load).await?;
                self.ask(&call).await?
            }
            other => other?,
        };
        Ok(Changed { version, done })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        self.call(LIMITS, async |connection| command.query_async(connection).await).await
    }
}
