//! Each file of `lua/` as one typed message: how it is written, and how its answer reads.
//!
//! Nothing here sends. The limiter's own connection puts these commands into its pipelines, and
//! repeats one that was answered by NOSCRIPT behind the loads; that is safe, since each message
//! is idempotent. The scripts of the policies are known here by name; what is said to them is theirs
//! to know.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use redis::Cmd;
use redis::ServerErrorKind;
use redis::Value;
use thiserror::Error;

use super::keys::Keys;
use crate::base::authority::HostKey;

static GRANT: Script = Script::new(include_str!("../../lua/grant.lua"));
static HEARTBEAT: Script = Script::new(include_str!("../../lua/heartbeat.lua"));
static HELLO: Script = Script::new(include_str!("../../lua/hello.lua"));
static LEAVE: Script = Script::new(include_str!("../../lua/leave.lua"));

const LIMITER: [&Script; 4] = [&GRANT, &HEARTBEAT, &HELLO, &LEAVE];

/// `lua/breaker.lua`, for the policy of that name.
pub(crate) static BREAKER: Script = Script::new(include_str!("../../lua/breaker.lua"));

/// `lua/cooldown.lua`, for the policy of that name.
pub(crate) static COOLDOWN: Script = Script::new(include_str!("../../lua/cooldown.lua"));

/// `lua/parents.lua`, for the policy of that name.
pub(crate) static PARENTS: Script = Script::new(include_str!("../../lua/parents.lua"));

/// `lua/cache.lua`, by way of [`super::vault`].
pub(super) static CACHE: Script = Script::new(include_str!("../../lua/cache.lua"));

/// `lua/purge.lua`, for kept responses.
pub(crate) static PURGE: Script = Script::new(include_str!("../../lua/purge.lua"));

/// `lua/quota.lua`, for the policy of that name.
pub(crate) static QUOTA: Script = Script::new(include_str!("../../lua/quota.lua"));

/// All that run by way of [`super::board`].
const POLICIES: [&Script; 5] = [&BREAKER, &COOLDOWN, &PARENTS, &PURGE, &QUOTA];

/// A file of `lua/`.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(code: &'static str) -> Self {
        Self { code, hash: OnceLock::new() }
    }

    /// EVALSHA of this script; keys and arguments are still to be added.
    pub(super) fn call(&self, keys: u8) -> Cmd {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.code).get_hash().to_owned());
        let mut command = Cmd::with_capacity(20, 384);
        command.arg("EVALSHA").arg(hash).arg(keys);
        command
    }

    /// What makes it known to a Redis.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.code);
        command
    }
}

/// The commands that make all scripts of the limiter known to a Redis.
pub(crate) fn loads() -> impl Iterator<Item = Cmd> {
    LIMITER.into_iter().map(Script::load)
}

/// The commands that make those of the policies known.
pub(super) fn policy_loads() -> impl Iterator<Item = Cmd> {
    POLICIES.into_iter().map(Script::load)
}

/// Every command that a script runs, in lower case, but for those that send hints: which they are
/// is an argument.
pub(crate) fn commands() -> BTreeSet<String> {
    let own = LIMITER.into_iter().chain(POLICIES).chain([&CACHE]).map(|script| script.code);
    let sources = own.chain([super::limits::CHANGE]);
    let calls = sources.flat_map(|code| code.split("call('").skip(1));
    calls.filter_map(|call| call.split_once('\'')).map(|(name, _)| name.to_lowercase()).collect()
}

/// What went wrong with a message that Redis did answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Trouble {
    /// The epoch is not in force any more.
    #[error("this instance's epoch is not in force")]
    Fenced,
    /// Another node has this shard.
    #[error("another node has this shard")]
    Moved,
    /// The shard is on its way to another node, or the cluster cannot serve it at the moment. The
    /// message has not run.
    #[error("the cluster is moving this shard")]
    Moving,
    /// The script is not loaded.
    #[error("the script is not loaded")]
    NoScript,
    /// Redis answered something else.
    #[error("unexpected answer: {0}")]
    Other(String),
}

impl Trouble {
    pub(super) fn of(value: &Value) -> Self {
        if let Value::ServerError(error) = value {
            return match error.kind() {
                Some(ServerErrorKind::NoScript) => Self::NoScript,
                Some(ServerErrorKind::Moved | ServerErrorKind::ReadOnly) => Self::Moved,
                Some(
                    ServerErrorKind::Ask | ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain,
                ) => Self::Moving,
                _ => Self::Other(error.to_string()),
            };
        }
        Self::Other(format!("{value:?}"))
    }
}

/// `lua/grant.lua`: how many slots of one host this instance holds and wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) host: &'a HostKey,
    /// Rises with each message of an instance.
    pub(crate) number: u64,
    pub(crate) claim: Claim,
    pub(crate) manner: Manner,
}

/// What an instance says about its slots of one host. All numbers are absolute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    /// Slots it keeps: in use, and [`Claim::spare`] ones.
    pub(crate) hold: u32,
    /// Slots that the last answer said were its own.
    pub(crate) heard: u32,
    /// Slots it wants now or not at all.
    pub(crate) ask: u32,
    /// Slots it queues for.
    pub(crate) wait: u32,
    /// How many of those it keeps are not in use.
    pub(crate) spare: u32,
    /// How many more it would like to have ahead of need, if they are plentiful.
    pub(crate) slack: u32,
    /// The limit by its own rules; 0 is unlimited.
    pub(crate) limit: u32,
    /// Which of two instances' limits holds: the one of the higher term.
    pub(crate) term: u64,
}

impl Claim {
    /// All slots it may come to hold by this message.
    pub(crate) fn most(&self) -> u32 {
        [self.ask, self.wait, self.slack]
            .iter()
            .fold(self.hold, |sum, part| sum.saturating_add(*part))
    }
}

/// How a [`Claim`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Manner {
    /// An ordinary message.
    Ask,
    /// An ordinary message; the key is also kept for another day.
    Audit,
    /// After a hello: what is held is vouched for, whatever the limit says.
    Force,
    /// After a hello: what is held is put on the books as far as there is room.
    Admit,
}

/// Redis's answer to a [`Grant`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Granted {
    /// Slots this instance holds now.
    pub(crate) here: u32,
    /// Slots all instances hold.
    pub(crate) total: u32,
    /// What else there is to say where somebody went short; none where all is well.
    pub(crate) short: Option<Short>,
}

/// What an instance is told about a host on which somebody goes short, or with another limit than
/// its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Short {
    /// Set where nothing was granted because Redis is learning: how long that will last.
    pub(crate) learning: Option<Duration>,
    /// Requests of this instance in the queue.
    pub(crate) queued: u32,
    /// Requests of others in the queue.
    pub(crate) others: u32,
    /// The limit in force.
    pub(crate) limit: u32,
    /// Slots that instances hold and do not use, as far as they said.
    pub(crate) unused: u32,
    /// Instances that hold or want slots of this host.
    pub(crate) instances: u32,
}

impl Grant<'_> {
    pub(crate) fn command(&self, keys: &Keys, worker: &str, epoch: u64) -> Cmd {
        let Claim { hold, heard, ask, wait, spare, slack, limit, term } = self.claim;
        let shard = keys.shard(self.host);
        let mut command = GRANT.call(3);
        command.arg(keys.host(self.host)).arg(keys.workers(shard)).arg(keys.queue(self.host));
        command.arg(worker).arg(epoch).arg(self.number);
        command.arg(hold).arg(heard).arg(ask).arg(wait).arg(spare).arg(slack);
        command.arg(limit).arg(format_args!("{term}:{limit}").to_string());
        let manner = match self.manner {
            Manner::Ask => "",
            Manner::Audit => "T",
            Manner::Force => "F",
            Manner::Admit => "A",
        };
        // PERF: what is as usual is left out.
        if !manner.is_empty() || keys.is_sharded() {
            command.arg(manner);
        }
        if keys.is_sharded() {
            command.arg(keys.publish());
        }
        command
    }

    pub(crate) fn answer(value: &Value) -> Result<Granted, Trouble> {
        if let Value::Int(number) = value {
            if *number < 0 {
                return Err(Trouble::Fenced);
            }
            let (here, total) = (count(number >> 26), count(number & ((1 << 26) - 1)));
            return Ok(Granted { here, total, short: None });
        }
        let Some([here, total, learning, queued, others, limit, unused, instances]) =
            numbers(value)
        else {
            return Err(Trouble::of(value));
        };
        let [queued, others, limit] = [queued, others, limit].map(count);
        let [unused, instances] = [unused, instances].map(count);
        let short = Short { learning: left(learning), queued, others, limit, unused, instances };
        Ok(Granted { here: count(here), total: count(total), short: Some(short) })
    }
}

/// What Redis says unasked, on this instance's channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A slot of this host was given to a place in the queue.
    Granted(HostKey),
    /// So many wait for what others could do without.
    Recall(HostKey, u32),
}

impl Hint {
    /// The hint in a message, if it is one.
    pub(crate) fn read(keys: &Keys, payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        if let Some(key) = text.strip_prefix('g') {
            return keys.host_of(key).map(Self::Granted);
        }
        let (count, key) = text.strip_prefix('r')?.split_once(' ')?;
        Some(Self::Recall(keys.host_of(key)?, count.parse().ok()?))
    }
}

/// `lua/heartbeat.lua`: the lease, renewed for all hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) lease: Duration,
}

/// Redis's answer to a [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Renewed {
    /// How long Redis goes on learning; none if it does not.
    pub(crate) learning: Option<Duration>,
    /// Instances that hold a lease.
    pub(crate) instances: u32,
    /// Another number than before: somebody died, and hosts have room again.
    pub(crate) generation: u64,
}

impl Heartbeat {
    pub(crate) fn command(&self, keys: &Keys, shard: u16, worker: &str, epoch: u64) -> Cmd {
        let mut command = HEARTBEAT.call(2);
        command.arg(keys.workers(shard)).arg(keys.leases(shard)).arg(worker).arg(epoch);
        command.arg(millis(self.lease));
        command
    }

    pub(crate) fn answer(value: &Value) -> Result<Renewed, Trouble> {
        match numbers(value) {
            Some([-1, _, _]) => Err(Trouble::Fenced),
            Some([generation, learning, instances]) => Ok(Renewed {
                learning: left(learning),
                instances: count(instances),
                generation: u64::try_from(generation).unwrap_or(0),
            }),
            None => Err(Trouble::of(value)),
        }
    }
}

/// `lua/hello.lua`: the first message on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hello {
    /// The epoch of the last hello that was answered; 0 before the first.
    pub(crate) previous: u64,
    pub(crate) epoch: u64,
    pub(crate) lease: Duration,
    /// Whether the last lease still holds by this instance's own clock.
    pub(crate) vouched: bool,
}

/// What Redis makes of an instance that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Welcome {
    /// What it holds is admitted anew, as far as there is room.
    Admit,
    /// What it holds is vouched for.
    Force,
    /// A newer hello of the same instance has run.
    Superseded,
}

/// Redis's answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    pub(crate) fn command(&self, keys: &Keys, shard: u16, worker: &str) -> Cmd {
        let mut command = HELLO.call(2);
        command.arg(keys.workers(shard)).arg(keys.leases(shard)).arg(worker);
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
    pub(crate) fn command(self, keys: &Keys, shard: u16, worker: &str, epoch: u64) -> Cmd {
        let mut command = LEAVE.call(2);
        command.arg(keys.workers(shard)).arg(keys.leases(shard)).arg(worker).arg(epoch);
        command.arg(u8::from(self.clean));
        command
    }
}

fn numbers<const N: usize>(value: &Value) -> Option<[i64; N]> {
    let Value::Array(parts) = value else { return None };
    let mut numbers = [0; N];
    if parts.len() != N {
        return None;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        let Value::Int(int) = part else { return None };
        *number = *int;
    }
    Some(numbers)
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

    fn ints<const N: usize>(numbers: [i64; N]) -> Value {
        Value::Array(numbers.into_iter().map(Value::Int).collect())
    }

    #[test]
    fn each_file_is_known_here() {
        let known: Vec<&str> = LIMITER
            .into_iter()
            .chain(POLICIES)
            .chain([&CACHE])
            .map(|script| script.code)
            .chain([crate::store::limits::CHANGE])
            .collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lua");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let code = std::fs::read_to_string(&path).unwrap();
            assert!(known.contains(&code.as_str()), "{}", path.display());
        }
    }

    #[test]
    fn a_grant_is_read() {
        let learning = Some(Duration::from_millis(70));
        let short = Short { learning, queued: 1, others: 3, limit: 5, unused: 4, instances: 2 };
        assert_eq!(
            Grant::answer(&ints([2, 5, 70, 1, 3, 5, 4, 2])),
            Ok(Granted { here: 2, total: 5, short: Some(short) })
        );
        assert_eq!(
            Grant::answer(&Value::Int((7 << 26) + 9)),
            Ok(Granted { here: 7, total: 9, short: None })
        );
        assert_eq!(Grant::answer(&Value::Int(-1)), Err(Trouble::Fenced));
        assert!(matches!(Grant::answer(&Value::Nil), Err(Trouble::Other(_))));
    }

    #[test]
    fn a_heartbeat_is_read() {
        assert_eq!(
            Heartbeat::answer(&ints([7, -1, 3])),
            Ok(Renewed { learning: None, instances: 3, generation: 7 })
        );
        assert_eq!(Heartbeat::answer(&ints([-1, -1, 0])), Err(Trouble::Fenced));
    }
}
