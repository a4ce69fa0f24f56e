//! The scripts of `lua/` against [`super::redis`]: random messages to both, and each answer, each
//! hint and all that is left behind must be the same.
//!
//! Time is not waited for: what a clock would change (a lease that is over, learning that ends) is
//! written into both. Moments may differ by what a message takes; then the real one is taken over.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample;
use proptest::test_runner::TestCaseError;
use proptest::test_runner::TestRunner;
use redis::Client;
use redis::Cmd;
use redis::Commands;
use redis::Connection;
use redis::ConnectionLike;
use redis::FromRedisValue;
use redis::Value;
use tempfile::TempDir;

use super::redis::Grant;
use super::redis::Hint;
use super::redis::Host;
use super::redis::Id;
use super::redis::Redis;
use super::redis::Row;
use super::redis::Server;
use super::redis::Stamp;
use super::redis::Term;
use crate::base::authority::HostKey;
use crate::store::keys::Keys;
use crate::store::scripts;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;
use crate::store::scripts::Heartbeat;
use crate::store::scripts::Hello;
use crate::store::scripts::Leave;
use crate::store::scripts::Manner;
use crate::store::scripts::Trouble;

/// Nothing expires by itself in a test.
const LEASE: Duration = Duration::from_mins(1);
const IDS: u8 = 4;
const HOSTS: u8 = 3;
/// By how much clocks may differ: Redis tells its age in whole seconds.
const ABOUT: u64 = 2_000;

/// Names that a glob, a format, a separator or an end could hide in.
fn names() -> Vec<String> {
    let odd = ["*", "a", "a:8080", "[::1]:8080", "a{b}c", "{1}", "a\0b", "a~q", "@w", "@lease"];
    let mut names: Vec<String> = odd.into_iter().map(str::to_owned).collect();
    names.extend(
        ["x[0-9].com", "%s%d", "a b", "#t", "\u{e9}\u{1f980}", "x1.com"].map(str::to_owned),
    );
    names.push("y".repeat(255));
    // What is a key of another kind is no host's: the edge refuses it.
    names.retain(|name| !name.starts_with('@') && !name.ends_with("~q"));
    names
}

fn word(id: Id) -> String {
    format!("w{id}")
}

/// A Redis of one's own.
struct Real {
    connection: Connection,
    ear: Connection,
    keys: Keys,
    hosts: Vec<HostKey>,
    run: String,
    server: Child,
    _folder: TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

impl Real {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(folder.path()).stdout(Stdio::null());
        let server = command.spawn().expect("redis-server is on the PATH");
        let client = Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let mut connection = (0..1000)
            .find_map(|_| {
                thread::sleep(Duration::from_millis(5));
                client.get_connection().ok()
            })
            .expect("redis starts");
        let mut ear = client.get_connection().unwrap();
        let _: Value = redis::cmd("PSUBSCRIBE").arg("*").query(&mut ear).unwrap();
        for load in scripts::loads() {
            let _: String = load.query(&mut connection).unwrap();
        }
        let info: String = redis::cmd("INFO").arg("server").query(&mut connection).unwrap();
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().to_owned();
        let (keys, hosts) = (Keys::new("p", 1), Vec::new());
        Self { connection, ear, keys, hosts, run, server, _folder: folder }
    }

    fn query<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection).unwrap()
    }

    fn send(&mut self, command: &Cmd) -> Value {
        let reply = self.connection.req_command(command);
        reply.unwrap_or_else(|error| panic!("{error}"))
    }

    fn now(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = self.query(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    fn grant(&mut self, grant: Grant) -> Option<Granted> {
        let host = self.hosts[usize::from(grant.host)].clone();
        let Grant { number, claim, manner, .. } = grant;
        let message = scripts::Grant { host: &host, number, claim, manner };
        let value = self.send(&message.command(&self.keys, &word(grant.id), grant.epoch));
        heard(scripts::Grant::answer(&value))
    }

    /// All hints since the last call.
    fn hints(&mut self) -> Vec<(HostKey, Hint)> {
        let _: i64 = self.query(&["PUBLISH", "all", "told"]);
        let mut hints = Vec::new();
        loop {
            let message = self.ear.recv_response().unwrap();
            let (_, _, channel, payload): (String, String, String, Vec<u8>) =
                FromRedisValue::from_redis_value(message).unwrap();
            if channel == "all" {
                return hints;
            }
            let id = (0..IDS).find(|id| self.keys.channel(0, &word(*id)) == channel).unwrap();
            hints.push(match scripts::Hint::read(&self.keys, &payload) {
                Some(scripts::Hint::Granted(host)) => (host, Hint::Granted(id)),
                Some(scripts::Hint::Recall(host, count)) => {
                    (host, Hint::Recall(id, i64::from(count)))
                }
                None => panic!("no hint: {payload:?}"),
            });
        }
    }

    /// All keys, as the model has them.
    fn content(&mut self, server: Server) -> Redis {
        let mut content = Redis::new(server);
        let workers = self.keys.workers(0).to_owned();
        let mut fields: BTreeMap<String, String> = self.connection.hgetall(&workers).unwrap();
        let mut take = |name: &str| fields.remove(name);
        let number = |text: String| text.parse::<u64>().unwrap();
        let (run, first, until) = (take("#run"), take("#first"), take("#until"));
        let beats = take("#hb").map(number).zip(take("#ok").map(number));
        if let Some(state) = take("#s") {
            content.term = Some(Term {
                stamp: stamp(&state),
                first: number(first.unwrap()),
                run: u64::from(run.unwrap() == self.run),
                until: number(until.unwrap()),
            });
        }
        content.beats = beats;
        content.workers =
            fields.into_iter().map(|(id, epoch)| (self::id(&id), number(epoch))).collect();
        let leases: Vec<(String, u64)> =
            self.connection.zrange_withscores(self.keys.leases(0), 0, -1).unwrap();
        content.leases = leases.into_iter().map(|(id, end)| (self::id(&id), end)).collect();
        let mut left: Vec<Vec<u8>> = self.query(&["KEYS", "*"]);
        left.retain(|key| *key != workers.as_bytes() && *key != self.keys.leases(0).as_bytes());
        for (index, host) in (0..).zip(self.hosts.clone()) {
            let (key, queue) = (self.keys.host(&host), self.keys.queue(&host));
            left.retain(|other| *other != key.as_bytes() && *other != queue.as_bytes());
            let fields: BTreeMap<String, String> = self.connection.hgetall(&key).unwrap();
            let queue: Vec<String> = self.connection.lrange(&queue, 0, -1).unwrap();
            if fields.is_empty() {
                assert!(queue.is_empty(), "a queue without a host: {queue:?}");
            } else {
                content.hosts.insert(index, parse_host(fields, &queue));
            }
        }
        assert!(left.is_empty(), "other keys: {left:?}");
        content
    }
}

fn id(word: &str) -> Id {
    word[1..].parse().unwrap()
}

fn heard<T>(answer: Result<T, Trouble>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(Trouble::Fenced) => None,
        Err(other) => panic!("{other}"),
    }
}

fn stamp(text: &str) -> Stamp {
    let (state, generation) = text.split_at(1);
    Stamp { is_learning: state == "L", generation: generation.parse().unwrap() }
}

fn parse_host(mut fields: BTreeMap<String, String>, queue: &[String]) -> Host {
    let limit = fields.remove("#c").unwrap();
    let (term, limit) = limit.split_once(':').unwrap();
    let total = fields.remove("#t").unwrap().parse().unwrap();
    let swept = stamp(&fields.remove("#g").unwrap());
    let mut take = |name: &str| fields.remove(name).map(|text| text.parse::<i64>().unwrap());
    let (queued, unused, recalled) = (take("#q"), take("#k"), take("#r"));
    Host {
        rows: fields.into_iter().map(|(word, row)| (id(&word), parse_row(&row))).collect(),
        total,
        limit: (term.parse().unwrap(), limit.parse().unwrap()),
        swept,
        queued,
        unused,
        recalled: recalled.map(|at| u64::try_from(at).unwrap()),
        queue: queue.iter().map(|word| id(word)).collect::<VecDeque<Id>>(),
    }
}

/// Such as `5+2~3^17`.
fn parse_row(text: &str) -> Row {
    let (rest, number) = text.split_once('^').map_or((text, None), |(rest, of)| (rest, Some(of)));
    let (rest, unused) = rest.split_once('~').unwrap_or((rest, "0"));
    let (held, queued) = rest.split_once('+').unwrap_or((rest, "0"));
    let int = |text: &str| text.parse::<i64>().unwrap();
    let number = number.map(|number| number.parse().unwrap());
    Row { held: int(held), queued: int(queued), unused: int(unused), number }
}

#[derive(Clone, Debug)]
enum Op {
    Grant {
        grant: Grant,
        knows: bool,
        twice: bool,
    },
    Hello {
        id: Id,
        vouched: bool,
        is_late: bool,
    },
    Heartbeat(Id),
    Leave {
        id: Id,
        is_clean: bool,
    },
    /// Its lease ends, after a service without gaps.
    Die(Id),
    /// The process is another one, with the same data.
    Restart,
    /// The time to learn is over.
    Learnt,
    Flush,
    Replicate,
    FailOver,
    /// A while has passed since anybody was called to give back.
    Calm,
}

fn claim() -> impl Strategy<Value = Claim> {
    let numbers = (0..4_u32, 0..5_u32, 0..3_u32, 0..3_u32);
    let slack = prop_oneof![3 => Just((0, 0)), 1 => (0..3_u32, 0..3_u32)];
    let limit = prop_oneof![
        5 => Just((3, 1)),
        1 => (0..5_u32, 1..4_u64),
    ];
    (numbers, slack, limit).prop_map(|((hold, heard, ask, wait), (spare, slack), (limit, term))| {
        Claim { hold, heard, ask, wait, spare, slack, limit, term }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let manner = prop_oneof![
        12 => Just(Manner::Ask),
        1 => Just(Manner::Audit),
        1 => Just(Manner::Force),
        1 => Just(Manner::Admit),
    ];
    let message = (0..IDS, 0..HOSTS, claim(), manner).prop_map(|(id, host, claim, manner)| Grant {
        id,
        epoch: 0,
        host,
        number: 0,
        claim,
        manner,
    });
    prop_oneof![
        40 => (message, prop::bool::weighted(0.9), prop::bool::weighted(0.2))
            .prop_map(|(grant, knows, twice)| Op::Grant { grant, knows, twice }),
        6 => (0..IDS, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(id, vouched, is_late)| Op::Hello { id, vouched, is_late }),
        4 => (0..IDS).prop_map(Op::Heartbeat),
        1 => (0..IDS, any::<bool>()).prop_map(|(id, is_clean)| Op::Leave { id, is_clean }),
        2 => (0..IDS).prop_map(Op::Die),
        1 => Just(Op::Restart),
        2 => Just(Op::Learnt),
        1 => prop_oneof![Just(Op::Flush), Just(Op::Replicate), Just(Op::FailOver)],
        2 => Just(Op::Calm),
    ]
}

/// All keys, as Redis dumps them.
type Dump = Vec<(Vec<u8>, Vec<u8>)>;

/// The real one and the model, side by side.
struct Pair<'a> {
    real: &'a mut Real,
    model: Redis,
    epochs: [u64; IDS as usize],
    /// What each last heard to be its own.
    heard: BTreeMap<(Id, u8), u32>,
    number: u64,
    replica: Option<(Redis, Dump)>,
}

impl<'a> Pair<'a> {
    fn new(real: &'a mut Real) -> Self {
        let _: () = real.query(&["FLUSHALL"]);
        // It has been flushed, so it never looks as if it had not forgotten anything.
        let server = Server { run: 1, start: 0, is_doubtful: true };
        let model = Redis::new(server);
        Self {
            real,
            model,
            epochs: [0; IDS as usize],
            heard: BTreeMap::new(),
            number: 0,
            replica: None,
        }
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Grant { grant, knows, twice } => self.grant(grant, knows, twice)?,
            Op::Hello { id, vouched, is_late } => self.hello(id, vouched, is_late)?,
            Op::Heartbeat(id) => {
                let (now, epoch) = (self.real.now(), self.epochs[usize::from(id)]);
                let command =
                    Heartbeat { lease: LEASE }.command(&self.real.keys, 0, &word(id), epoch);
                let value = self.real.send(&command);
                let mut real = heard(Heartbeat::answer(&value));
                let model = self.model.heartbeat(now, id, epoch, LEASE);
                if let (Some(real), Some(model)) = (&mut real, &model) {
                    near(&mut real.learning, model.learning);
                }
                prop_assert_eq!(real, model);
            }
            Op::Leave { id, is_clean } => {
                let epoch = self.epochs[usize::from(id)];
                let command =
                    Leave { clean: is_clean }.command(&self.real.keys, 0, &word(id), epoch);
                let real = self.real.send(&command);
                let model = self.model.leave(id, epoch, is_clean);
                prop_assert_eq!(real, Value::Int(i64::from(model)));
            }
            Op::Die(id) => self.die(id),
            Op::Restart => self.restart(),
            Op::Learnt => {
                if let Some(term) = &mut self.model.term {
                    term.until = 1;
                    let workers = self.real.keys.workers(0).to_owned();
                    let _: i64 = self.real.query(&["HSET", &workers, "#until", "1"]);
                }
            }
            Op::Flush => {
                let _: () = self.real.query(&["FLUSHALL"]);
                self.model.flush();
            }
            Op::Replicate => self.replicate(),
            Op::FailOver => self.fail_over(),
            Op::Calm => self.calm(1),
        }
        self.compare()
    }

    fn grant(&mut self, grant: Grant, knows: bool, twice: bool) -> Result<(), TestCaseError> {
        self.number += 1;
        let Grant { id, host, mut claim, .. } = grant;
        if knows {
            claim.heard = self.heard.get(&(id, host)).copied().unwrap_or(0);
        }
        let epoch = self.epochs[usize::from(id)];
        let grant = Grant { epoch, number: self.number, claim, ..grant };
        let before = self.model.hosts.get(&host).cloned();
        let first = self.exchange(grant)?;
        if let Some(answer) = first {
            self.heard.insert((id, host), answer.here);
            self.judge(grant, before.as_ref(), answer)?;
        }
        // A host without slots has no key, and what limit was in force is forgotten with it.
        let own = (claim.term, claim.limit);
        let is_gone = !self.model.hosts.contains_key(&host);
        if twice && !(is_gone && before.is_some_and(|before| before.limit != own)) {
            self.compare()?;
            let content = self.real.content(self.model.server);
            let again = self.exchange(grant)?;
            // It has nothing new to say of others.
            let own = |answer: Option<Granted>| {
                answer.map(|answer| {
                    let queued = answer.short.map_or(0, |short| short.queued);
                    (answer.here, answer.total, queued)
                })
            };
            prop_assert_eq!(own(again), own(first), "once more: {:?}", grant);
            self.hide_recalls();
            let mut later = self.real.content(self.model.server);
            for (index, host) in &mut later.hosts {
                let before = content.hosts.get(index);
                host.recalled = before.and_then(|host| host.recalled);
                // Whether it has run is noted where it would matter.
                if let Some(row) = host.rows.get_mut(&id) {
                    row.number = before.and_then(|host| host.rows.get(&id)?.number);
                }
            }
            prop_assert_eq!(later, content, "once more: {:?}", grant);
        }
        Ok(())
    }

    fn exchange(&mut self, grant: Grant) -> Result<Option<Granted>, TestCaseError> {
        self.hide_recalls();
        let now = self.real.now();
        let mut real = self.real.grant(grant);
        let mut hints = Vec::new();
        let model = self.model.grant(now, grant, &mut hints);
        near_granted(&mut real, model);
        prop_assert_eq!(real, model, "{:?}", grant);
        hints.sort_unstable();
        let mut told = self.real.hints();
        told.sort_by_key(|(_, hint)| *hint); // who is told first of many is as the hash has it
        let host = &self.real.hosts[usize::from(grant.host)];
        let hints: Vec<_> = hints.into_iter().map(|hint| (host.clone(), hint)).collect();
        prop_assert_eq!(told, hints, "{:?}", grant);
        Ok(real)
    }

    /// What must hold whatever the model says.
    fn judge(
        &self,
        grant: Grant,
        before: Option<&Host>,
        answer: Granted,
    ) -> Result<(), TestCaseError> {
        let limit = answer.short.map_or(grant.claim.limit, |short| short.limit);
        let is_learning = self.model.term.as_ref().is_some_and(|term| term.stamp.is_learning);
        let was = before.map_or(0, |host| u32::try_from(host.total).unwrap());
        let is_forced = matches!(grant.manner, Manner::Force | Manner::Admit) && is_learning;
        if limit > 0 && !is_forced {
            prop_assert!(answer.total <= was.max(limit), "{:?}: {:?}", grant, answer);
        }
        let queued = answer.short.map_or(0, |short| short.queued + short.others);
        if limit > 0 && queued > 0 && !is_learning {
            prop_assert!(
                answer.total >= limit,
                "room while others wait: {:?}: {:?}",
                grant,
                answer
            );
        }
        Ok(())
    }

    /// A recall is due when both clocks say so: long ago, or not for long.
    fn hide_recalls(&mut self) {
        let now = self.real.now();
        let last: Vec<u8> = (0..HOSTS)
            .filter(|host| {
                self.model
                    .hosts
                    .get(host)
                    .is_some_and(|host| host.recalled.is_some_and(|at| at > 1))
            })
            .collect();
        for host in last {
            self.set_recalled(host, now + 100_000);
        }
    }

    fn calm(&mut self, at: u64) {
        for host in 0..HOSTS {
            if self.model.hosts.get(&host).is_some_and(|host| host.recalled.is_some()) {
                self.set_recalled(host, at);
            }
        }
    }

    fn set_recalled(&mut self, host: u8, at: u64) {
        let key = self.real.keys.host(&self.real.hosts[usize::from(host)]);
        let _: i64 = self.real.query(&["HSET", &key, "#r", &at.to_string()]);
        if let Some(host) = self.model.hosts.get_mut(&host) {
            host.recalled = Some(at);
        }
    }

    fn hello(&mut self, id: Id, vouched: bool, is_late: bool) -> Result<(), TestCaseError> {
        let last = self.epochs[usize::from(id)];
        let epoch = if is_late { last } else { last + 1 };
        let hello = Hello { previous: last, epoch, lease: LEASE, vouched };
        let now = self.real.now();
        let value = self.real.send(&hello.command(&self.real.keys, 0, &word(id)));
        let mut real = Hello::answer(&value).unwrap();
        let model = self.model.hello(now, id, hello);
        near(&mut real.learning, model.learning);
        real.eviction.clear();
        prop_assert_eq!(real, model);
        self.epochs[usize::from(id)] = epoch;
        // A new term begins at the time of day.
        let real = self.real.content(self.model.server).term;
        if let (Some(real), Some(model)) = (real, &mut self.model.term) {
            for (model, real) in [
                (&mut model.first, real.first),
                (&mut model.stamp.generation, real.stamp.generation),
            ] {
                *model = if model.abs_diff(real) <= ABOUT { real } else { *model };
            }
        }
        Ok(())
    }

    fn die(&mut self, id: Id) {
        if !self.model.leases.contains_key(&id) {
            return;
        }
        let now = self.real.now();
        self.model.leases.insert(id, 1);
        self.model.beats = Some((now, 1));
        let (workers, leases) =
            (self.real.keys.workers(0).to_owned(), self.real.keys.leases(0).to_owned());
        let _: i64 = self.real.query(&["ZADD", &leases, "1", &word(id)]);
        let _: i64 = self.real.query(&["HSET", &workers, "#ok", "1", "#hb", &now.to_string()]);
    }

    fn restart(&mut self) {
        if let Some(term) = &mut self.model.term {
            term.run = 0;
            let workers = self.real.keys.workers(0).to_owned();
            let _: i64 = self.real.query(&["HSET", &workers, "#run", "another"]);
        }
    }

    fn replicate(&mut self) {
        let keys: Vec<Vec<u8>> = self.real.query(&["KEYS", "*"]);
        let dump = |key: Vec<u8>| {
            let value = redis::cmd("DUMP").arg(&key).query(&mut self.real.connection).unwrap();
            (key, value)
        };
        self.replica = Some((self.model.clone(), keys.into_iter().map(dump).collect()));
    }

    fn fail_over(&mut self) {
        let Some((model, keys)) = self.replica.take() else { return };
        let _: () = self.real.query(&["FLUSHALL"]);
        for (key, value) in keys {
            let mut restore = redis::cmd("RESTORE");
            restore.arg(key).arg(0).arg(value);
            let _: () = restore.query(&mut self.real.connection).unwrap();
        }
        self.model = model;
        self.restart();
    }

    /// What is left behind is the same, and sums are sums.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let real = self.real.content(self.model.server);
        let model = &mut self.model;
        for (id, end) in &mut model.leases {
            adopt(end, real.leases.get(id).copied());
        }
        if let (Some(term), Some(real)) = (&mut model.term, &real.term) {
            adopt(&mut term.until, Some(real.until));
        }
        if let Some((last, since)) = &mut model.beats {
            adopt(last, real.beats.map(|beats| beats.0));
            adopt(since, real.beats.map(|beats| beats.1));
        }
        for (host, row) in &mut model.hosts {
            if let Some(at) = &mut row.recalled {
                adopt(at, real.hosts.get(host).and_then(|host| host.recalled));
            }
        }
        prop_assert_eq!(&real, &self.model);
        for host in real.hosts.values() {
            let sum = |part: fn(&Row) -> i64| host.rows.values().map(part).sum::<i64>();
            prop_assert_eq!(host.total, sum(|row| row.held));
            prop_assert_eq!(host.queued.unwrap_or(0), sum(|row| row.queued));
            prop_assert_eq!(host.unused.unwrap_or(0), sum(|row| row.unused));
            prop_assert!(host.total > 0 || host.queued.unwrap_or(0) > 0, "an empty host has a key");
            for (id, row) in &host.rows {
                let places = host.queue.iter().filter(|other| *other == id).count();
                prop_assert!(i64::try_from(places).unwrap() >= row.queued, "a place was lost");
            }
        }
        Ok(())
    }
}

fn adopt(model: &mut u64, real: Option<u64>) {
    if let Some(real) = real.filter(|real| real.abs_diff(*model) <= ABOUT) {
        *model = real;
    }
}

/// A length of learning that is about the same is the same.
fn near(real: &mut Option<Duration>, model: Option<Duration>) {
    if let (Some(a), Some(b)) = (*real, model)
        && a.abs_diff(b) <= Duration::from_millis(ABOUT)
    {
        *real = model;
    }
}

fn near_granted(real: &mut Option<Granted>, model: Option<Granted>) {
    let part = |granted: Option<Granted>| granted.and_then(|granted| granted.short);
    if let (Some(real), Some(model)) = (real, part(model))
        && let Some(short) = &mut real.short
    {
        near(&mut short.learning, model.learning);
    }
}

fn walk(cases: u32, ops: impl Strategy<Value = Vec<Op>>) {
    let mut real = Real::start();
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    let names = sample::subsequence(names(), usize::from(HOSTS));
    let real = std::cell::RefCell::new(&mut real);
    let outcome = TestRunner::new(config).run(&(names, ops), |(names, ops)| {
        let real = &mut **real.borrow_mut();
        real.hosts = names.iter().map(|name| HostKey::recalled(name)).collect();
        let mut pair = Pair::new(real);
        for id in 0..IDS - 1 {
            pair.run(Op::Hello { id, vouched: false, is_late: false })?;
        }
        pair.run(Op::Learnt)?;
        pair.run(Op::Heartbeat(0))?;
        for op in ops {
            pair.run(op)?;
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn the_scripts_do_what_the_model_does() {
    walk(super::setting("CASES", 120), prop::collection::vec(op(), 1..80));
}

/// Each who asks goes into the queue; then slots come back, some of them because their holder died.
#[test]
fn slots_come_in_the_order_in_which_they_were_asked_for() {
    let mut real = Real::start();
    real.hosts = vec![HostKey::recalled("a.test")];
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    let real = std::cell::RefCell::new(&mut real);
    let askers = prop::collection::vec(1..IDS, 1..12);
    let outcome = TestRunner::new(config).run(&askers, |askers| {
        let real = &mut **real.borrow_mut();
        let mut pair = Pair::new(real);
        for id in 0..IDS {
            pair.run(Op::Hello { id, vouched: false, is_late: false })?;
        }
        pair.run(Op::Learnt)?;
        pair.run(Op::Heartbeat(0))?;
        let limit = u32::try_from(askers.len()).unwrap();
        let mut send = |id: Id, hold: u32, wait: u32| {
            pair.number += 1;
            let heard = pair.heard.get(&(id, 0)).copied().unwrap_or(0);
            let claim = Claim { hold, heard, wait, limit, term: 1, ..Claim::default() };
            let number = pair.number;
            let grant = Grant { id, epoch: 1, host: 0, number, claim, manner: Manner::Ask };
            let answer = pair.real.grant(grant).unwrap();
            pair.heard.insert((id, 0), answer.here);
            answer
        };
        send(0, limit, 0);
        let mut places = [0; IDS as usize];
        for id in &askers {
            places[usize::from(*id)] += 1;
            let answer = send(*id, 0, places[usize::from(*id)]);
            prop_assert_eq!(answer.here, 0);
        }
        for left in (0..limit).rev() {
            send(0, left, 0);
        }
        let served: Vec<Id> = pair
            .real
            .hints()
            .into_iter()
            .filter_map(|(_, hint)| match hint {
                Hint::Granted(id) => Some(id),
                Hint::Recall(..) => None,
            })
            .collect();
        prop_assert_eq!(served, askers);
        Ok(())
    });
    outcome.unwrap();
}
