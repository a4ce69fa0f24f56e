//! Each file of `lua/` as one typed message: how it is written, and how its answer reads.
//!
//! Nothing here sends. The limiter's own connection puts these commands into its pipelines, and
//! repeats one that was answered by NOSCRIPT behind the loads; that is safe, since each message
//! is idempotent.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use redis::Cmd;
use redis::Script;
use redis::ServerErrorKind;
use redis::Value;
use thiserror::Error;

use super::keys::Keys;
use crate::base::authority::HostKey;

static GRANT: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("../../lua/grant.lua")));
static HEARTBEAT: LazyLock<Source> =
    LazyLock::new(|| Source::new(include_str!("../../lua/heartbeat.lua")));
static HELLO: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("../../lua/hello.lua")));
static LEAVE: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("../../lua/leave.lua")));

struct Source {
    code: &'static str,
    hash: String,
}

impl Source {
    fn new(code: &'static str) -> Self {
        Self { code, hash: Script::new(code).get_hash().to_owned() }
    }

    /// EVALSHA of this script; keys and arguments are still to be added.
    fn call(&self, keys: u8) -> Cmd {
        let mut command = Cmd::with_capacity(10, 256);
        command.arg("EVALSHA").arg(&self.hash).arg(keys);
        command
    }
}

/// The commands that make all scripts known to a Redis.
pub(crate) fn loads() -> impl Iterator<Item = Cmd> {
    [&GRANT, &HEARTBEAT, &HELLO, &LEAVE].into_iter().map(|source| {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(source.code);
        command
    })
}

/// Every command that a script runs, in lower case.
pub(crate) fn commands() -> BTreeSet<String> {
    let sources = [&GRANT, &HEARTBEAT, &HELLO, &LEAVE];
    let calls = sources.into_iter().flat_map(|source| source.code.split("call('").skip(1));
    calls.filter_map(|call| call.split_once('\'')).map(|(name, _)| name.to_lowercase()).collect()
}

/// What went wrong with a message that Redis did answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Trouble {
    /// The epoch is not in force any more.
    #[error("this instance's epoch is not in force")]
    Fenced,
    /// The script is not loaded.
    #[error("the script is not loaded")]
    NoScript,
    /// Redis answered something else.
    #[error("unexpected answer: {0}")]
    Other(String),
}

impl Trouble {
    fn of(value: &Value) -> Self {
        if let Value::ServerError(error) = value {
            if error.kind() == Some(ServerErrorKind::NoScript) {
                return Self::NoScript;
            }
            return Self::Other(error.to_string());
        }
        Self::Other(format!("{value:?}"))
    }
}

/// `lua/grant.lua`: how many slots of one host this instance needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) host: &'a HostKey,
    pub(crate) need: u32,
    /// 0 is unlimited.
    pub(crate) limit: u32,
    pub(crate) manner: Manner,
}

/// How the need of a [`Grant`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// An ordinary need.
    Ask,
    /// An ordinary need; the key is also kept for another day.
    Audit,
    /// What is held already and vouched for, whatever the limit says.
    Force,
}

/// Redis's answer to a [`Grant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Slots this instance holds now.
    pub(crate) here: u32,
    /// Slots all instances hold.
    pub(crate) total: u32,
    /// Set where the need was not met because Redis is learning: how long that will last.
    pub(crate) learning: Option<Duration>,
}

impl Grant<'_> {
    pub(crate) fn command(&self, keys: &Keys, worker: &str, epoch: u64) -> Cmd {
        let mut command = GRANT.call(2);
        command
            .arg(keys.host(self.host))
            .arg(keys.workers(keys.shard(self.host)))
            .arg(worker)
            .arg(epoch);
        command.arg(self.need).arg(self.limit).arg(match self.manner {
            Manner::Ask => "",
            Manner::Audit => "T",
            Manner::Force => "F",
        });
        command
    }

    pub(crate) fn answer(value: &Value) -> Result<Granted, Trouble> {
        if let Value::Int(number) = value {
            if *number < 0 {
                return Err(Trouble::Fenced);
            }
            let (here, total) = (count(number >> 26), count(number & ((1 << 26) - 1)));
            return Ok(Granted { here, total, learning: None });
        }
        let Some([here, total, learning]) = numbers(value) else { return Err(Trouble::of(value)) };
        Ok(Granted { here: count(here), total: count(total), learning: left(learning) })
    }
}

/// `lua/heartbeat.lua`: the lease, renewed for all hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) lease: Duration,
}

/// Redis's answer to a [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// How long Redis goes on learning; none if it does not.
    pub(crate) learning: Option<Duration>,
    /// Instances that hold a lease.
    pub(crate) instances: u32,
}

impl Heartbeat {
    pub(crate) fn command(&self, keys: &Keys, worker: &str, epoch: u64) -> Cmd {
        let mut command = HEARTBEAT.call(2);
        command.arg(keys.workers(0)).arg(keys.leases(0)).arg(worker).arg(epoch);
        command.arg(millis(self.lease));
        command
    }

    pub(crate) fn answer(value: &Value) -> Result<Renewed, Trouble> {
        match numbers(value) {
            Some([0, _, _]) => Err(Trouble::Fenced),
            Some([_, learning, instances]) => {
                Ok(Renewed { learning: left(learning), instances: count(instances) })
            }
            None => Err(Trouble::of(value)),
        }
    }
}

/// `lua/hello.lua`: the first message on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The epoch of the last hello that was answered; 0 before the first.
    pub(crate) previous: u64,
    pub(crate) epoch: u64,
    pub(crate) lease: Duration,
    /// Whether the last lease still holds by this instance's own clock.
    pub(crate) vouched: bool,
}

/// What Redis makes of an instance that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// What it holds is admitted anew, as far as there is room.
    Admit,
    /// What it holds is vouched for.
    Force,
    /// A newer hello of the same instance has run.
    Superseded,
}

/// Redis's answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeted {
    pub(crate) welcome: Welcome,
    /// How long Redis goes on learning; none if it does not.
    pub(crate) learning: Option<Duration>,
    /// Instances that hold a lease.
    pub(crate) instances: u32,
    /// Redis's `maxmemory-policy`; empty where it may not be read.
    pub(crate) eviction: String,
}

impl Hello {
    pub(crate) fn command(&self, keys: &Keys, worker: &str) -> Cmd {
        let mut command = HELLO.call(2);
        command.arg(keys.workers(0)).arg(keys.leases(0)).arg(worker);
        command.arg(self.previous).arg(self.epoch).arg(millis(self.lease));
        command.arg(u8::from(self.vouched));
        command
    }

    pub(crate) fn answer(value: &Value) -> Result<Greeted, Trouble> {
        let Value::Array(parts) = value else { return Err(Trouble::of(value)) };
        let [mode, Value::Int(learning), Value::Int(instances), eviction] = parts.as_slice() else {
            return Err(Trouble::of(value));
        };
        let welcome = match text(mode) {
            Some("A") => Welcome::Admit,
            Some("F") => Welcome::Force,
            Some("X") => Welcome::Superseded,
            Some(_) | None => return Err(Trouble::of(value)),
        };
        Ok(Greeted {
            welcome,
            learning: left(*learning),
            instances: count(*instances),
            eviction: text(eviction).unwrap_or_default().to_owned(),
        })
    }
}

/// `lua/leave.lua`: the last message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    /// Whether all slots were given back before.
    pub(crate) clean: bool,
}

impl Leave {
    pub(crate) fn command(self, keys: &Keys, worker: &str, epoch: u64) -> Cmd {
        let mut command = LEAVE.call(2);
        command.arg(keys.workers(0)).arg(keys.leases(0)).arg(worker).arg(epoch);
        command.arg(u8::from(self.clean));
        command
    }
}

fn numbers(value: &Value) -> Option<[i64; 3]> {
    let Value::Array(parts) = value else { return None };
    match parts.as_slice() {
        [Value::Int(a), Value::Int(b), Value::Int(c)] => Some([*a, *b, *c]),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    let Value::BulkString(bytes) = value else { return None };
    std::str::from_utf8(bytes).ok()
}

fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

fn left(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(numbers: [i64; 3]) -> Value {
        Value::Array(numbers.into_iter().map(Value::Int).collect())
    }

    #[test]
    fn a_grant_is_read() {
        let learning = Some(Duration::from_millis(70));
        assert_eq!(Grant::answer(&ints([2, 5, 70])), Ok(Granted { here: 2, total: 5, learning }));
        assert_eq!(
            Grant::answer(&Value::Int((7 << 26) + 9)),
            Ok(Granted { here: 7, total: 9, learning: None })
        );
        assert_eq!(Grant::answer(&Value::Int(-1)), Err(Trouble::Fenced));
        assert!(matches!(Grant::answer(&Value::Nil), Err(Trouble::Other(_))));
    }

    #[test]
    fn a_heartbeat_is_read() {
        assert_eq!(
            Heartbeat::answer(&ints([1, -1, 3])),
            Ok(Renewed { learning: None, instances: 3 })
        );
        assert_eq!(Heartbeat::answer(&ints([0, -1, 0])), Err(Trouble::Fenced));
    }
}
