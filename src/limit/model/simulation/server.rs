//! Redis on a host of the simulation: what the limiter's connection says to it, in RESP3, carried
//! out by the model of the scripts ([`super::super::redis`]).
//!
//! It knows the commands that the limiter uses, and no others. What outlives its process is what a
//! snapshot would hold: everything else ([`Server::die`]) goes with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use turmoil::net::TcpListener;
use turmoil::net::TcpStream;

use super::super::redis;
use super::super::redis::Hint;
use super::super::redis::Id;
use super::oracle::Oracle;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;
use crate::store::scripts::Hello;
use crate::store::scripts::Manner;
use crate::store::scripts::Welcome;

pub(super) const PORT: u16 = 6379;
/// What Redis's clock shows when a simulation begins, in ms.
const EPOCH: u64 = 1_000_000;

const SCRIPTS: [(&str, Script); 4] = [
    (include_str!("../../../../lua/grant.lua"), Script::Grant),
    (include_str!("../../../../lua/heartbeat.lua"), Script::Heartbeat),
    (include_str!("../../../../lua/hello.lua"), Script::Hello),
    (include_str!("../../../../lua/leave.lua"), Script::Leave),
];

#[derive(Clone, Copy)]
enum Script {
    Grant,
    Heartbeat,
    Hello,
    Leave,
}

/// What was asked of it, for the bound on messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) grants: u64,
    pub(super) hellos: u64,
}

pub(super) struct Server {
    pub(super) redis: redis::Redis,
    pub(super) counts: Counts,
    /// Of a thousand hints, so many are lost.
    pub(super) lost_hints: u32,
    oracle: Rc<Oracle>,
    rng: fastrand::Rng,
    /// By hash.
    scripts: BTreeMap<String, Script>,
    /// Where what is said to each connection goes.
    connections: BTreeMap<u64, mpsc::UnboundedSender<Vec<u8>>>,
    channels: BTreeMap<String, BTreeSet<u64>>,
    last_connection: u64,
    /// Keys of hosts, by their number in the model.
    hosts: Vec<String>,
}

impl Server {
    /// `age` is how long the process has run.
    pub(super) fn new(oracle: Rc<Oracle>, age: Duration, lost_hints: u32, seed: u64) -> Self {
        let start = EPOCH - millis(age);
        let server = redis::Server { run: 1, start, is_doubtful: false };
        Self {
            redis: redis::Redis::new(server),
            counts: Counts::default(),
            lost_hints,
            oracle,
            rng: fastrand::Rng::with_seed(seed),
            scripts: BTreeMap::new(),
            connections: BTreeMap::new(),
            channels: BTreeMap::new(),
            last_connection: 0,
            hosts: Vec::new(),
        }
    }

    /// What is not kept on disk is gone.
    pub(super) fn die(&mut self) {
        self.flush_scripts();
        self.hang_up();
    }

    pub(super) fn flush_scripts(&mut self) {
        self.scripts.clear();
    }

    /// Ends all connections.
    pub(super) fn hang_up(&mut self) {
        self.connections.clear();
        self.channels.clear();
    }

    /// A new process, with what `snapshot` holds, or with nothing.
    pub(super) fn restart(&mut self, now: Duration, snapshot: Option<&redis::Redis>) {
        let run = self.redis.server.run + 1;
        self.redis.restart(clock(now));
        if let Some(snapshot) = snapshot {
            let server = redis::Server { run, start: clock(now), is_doubtful: false };
            self.redis = redis::Redis { server, ..snapshot.clone() };
        }
    }

    fn connected(&mut self) -> (u64, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, outbox) = mpsc::unbounded_channel();
        self.last_connection += 1;
        self.connections.insert(self.last_connection, sender);
        (self.last_connection, outbox)
    }

    fn disconnected(&mut self, connection: u64) {
        self.connections.remove(&connection);
        for listeners in self.channels.values_mut() {
            listeners.remove(&connection);
        }
    }

    fn say(&self, connection: u64, what: Vec<u8>) {
        if let Some(sender) = self.connections.get(&connection) {
            sender.send(what).unwrap_or_default(); // it has just gone
        }
    }

    fn obey(&mut self, connection: u64, words: &[String]) {
        let reply = match words[0].as_str() {
            "EVALSHA" => self.run(&words[1..]),
            "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
            "SCRIPT" => self.load(&words[2]),
            "SUBSCRIBE" => {
                self.channels.entry(words[1].clone()).or_default().insert(connection);
                format!(">3\r\n$9\r\nsubscribe\r\n{}:1\r\n", bulk(&words[1]))
            }
            other => panic!("the simulated redis does not know {other}"),
        };
        self.say(connection, reply.into_bytes());
    }

    fn load(&mut self, code: &str) -> String {
        let hash = ::redis::Script::new(code).get_hash().to_owned();
        let (_, script) = SCRIPTS.iter().find(|(known, _)| *known == code).expect("it is ours");
        let reply = bulk(&hash);
        self.scripts.insert(hash, *script);
        reply
    }

    /// EVALSHA: hash, number of keys, keys, arguments.
    fn run(&mut self, words: &[String]) -> String {
        let Some(script) = self.scripts.get(&words[0]).copied() else {
            return "-NOSCRIPT No matching script.\r\n".to_owned();
        };
        let (keys, arguments) = words[2..].split_at(number(&words[1]));
        let now = turmoil::sim_elapsed().expect("inside of a simulation");
        let id = instance(&arguments[0]);
        match script {
            Script::Grant => self.grant(now, id, keys, arguments),
            Script::Heartbeat => {
                let lease = Duration::from_millis(number(&arguments[2]));
                let epoch = number(&arguments[1]);
                let answer = self.redis.heartbeat(clock(now), id, epoch, lease);
                self.oracle.note(|| format!("{id} heartbeat {epoch} -> {answer:?}"));
                let Some(answer) = answer else { return integers(&[-1, -1, 0]) };
                self.oracle.renewed(id, now + lease);
                let generation = i64::try_from(answer.generation).expect("it is small");
                integers(&[generation, left(answer.learning), i64::from(answer.instances)])
            }
            Script::Hello => {
                self.counts.hellos += 1;
                let hello = Hello {
                    previous: number(&arguments[1]),
                    epoch: number(&arguments[2]),
                    lease: Duration::from_millis(number(&arguments[3])),
                    vouched: arguments[4] == "1",
                };
                let answer = self.redis.hello(clock(now), id, hello);
                self.oracle.note(|| format!("{id} {hello:?} -> {answer:?}"));
                let mode = match answer.welcome {
                    Welcome::Admit => "A",
                    Welcome::Force => "F",
                    Welcome::Superseded => "X",
                };
                let (learning, instances) = (left(answer.learning), answer.instances);
                let policy = bulk("noeviction");
                format!("*4\r\n{}:{learning}\r\n:{instances}\r\n{policy}", bulk(mode))
            }
            Script::Leave => {
                let is_clean = arguments[2] == "1";
                let has_left = self.redis.leave(id, number(&arguments[1]), is_clean);
                self.oracle.note(|| format!("{id} leaves, clean: {is_clean} -> {has_left}"));
                format!(":{}\r\n", u8::from(has_left))
            }
        }
    }

    fn grant(&mut self, now: Duration, id: Id, keys: &[String], words: &[String]) -> String {
        self.counts.grants += 1;
        let host = self.host(&keys[0]);
        let (term, _) = words[10].split_once(':').expect("term and limit");
        let claim = Claim {
            hold: number(&words[3]),
            heard: number(&words[4]),
            ask: number(&words[5]),
            wait: number(&words[6]),
            spare: number(&words[7]),
            slack: number(&words[8]),
            limit: number(&words[9]),
            term: number(term),
        };
        let manner = match words.get(11).map_or("", String::as_str) {
            "" => Manner::Ask,
            "A" => Manner::Admit,
            "F" => Manner::Force,
            "T" => Manner::Audit,
            other => panic!("no manner: {other}"),
        };
        let (epoch, serial) = (number(&words[1]), number(&words[2]));
        let grant = redis::Grant { id, epoch, host, number: serial, claim, manner };
        let mut hints = Vec::new();
        let answer = self.redis.grant(clock(now), grant, &mut hints);
        self.oracle.note(|| {
            let Claim { hold, heard, ask, wait, spare, slack, .. } = claim;
            let said = format!("hold {hold} heard {heard} ask {ask} wait {wait} spare {spare}");
            let row = self.redis.hosts.get(&host);
            format!(
                "{id} {manner:?} host {host} epoch {epoch} {said} slack {slack} -> {answer:?}; \
                 {hints:?}, {row:?}"
            )
        });
        self.publish(&keys[1], &keys[0], hints);
        match answer {
            None => ":-1\r\n".to_owned(),
            Some(Granted { here, total, short: None }) => {
                format!(":{}\r\n", (u64::from(here) << 26) + u64::from(total))
            }
            Some(Granted { here, total, short: Some(short) }) => {
                let [here, total, queued, others, limit, unused, instances] = [
                    here,
                    total,
                    short.queued,
                    short.others,
                    short.limit,
                    short.unused,
                    short.instances,
                ]
                .map(i64::from);
                let learning = left(short.learning);
                integers(&[here, total, learning, queued, others, limit, unused, instances])
            }
        }
    }

    fn publish(&mut self, workers: &str, host: &str, hints: Vec<Hint>) {
        let stem = workers.strip_suffix('w').expect("it ends in @w");
        for hint in hints {
            let (to, text) = match hint {
                Hint::Granted(to) => (to, format!("g{host}")),
                Hint::Recall(to, wanted) => (to, format!("r{wanted} {host}")),
            };
            let channel = format!("{stem}n:{}", name(to));
            if self.rng.u32(..1000) < self.lost_hints {
                continue;
            }
            let push = format!(">3\r\n$7\r\nmessage\r\n{}{}", bulk(&channel), bulk(&text));
            for listener in self.channels.get(&channel).into_iter().flatten() {
                self.say(*listener, push.clone().into_bytes());
            }
        }
    }

    fn host(&mut self, key: &str) -> u8 {
        let at = self.hosts.iter().position(|known| known == key).unwrap_or_else(|| {
            self.hosts.push(key.to_owned());
            self.hosts.len() - 1
        });
        u8::try_from(at).expect("they are few")
    }
}

/// What an instance is called in Redis.
pub(super) fn name(id: Id) -> String {
    format!("i{id}")
}

fn instance(name: &str) -> Id {
    number(&name[1..])
}

/// What Redis's clock shows.
fn clock(now: Duration) -> u64 {
    EPOCH + millis(now)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("simulations are short")
}

fn left(learning: Option<Duration>) -> i64 {
    learning.map_or(-1, |left| i64::try_from(left.as_millis()).expect("simulations are short"))
}

fn number<T: FromStr<Err: std::fmt::Debug>>(word: &str) -> T {
    word.parse().expect("a number")
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn integers(numbers: &[i64]) -> String {
    let all: Vec<String> = numbers.iter().map(|number| format!(":{number}\r\n")).collect();
    format!("*{}\r\n{}", numbers.len(), all.concat())
}

/// Takes connections, until the host crashes.
pub(super) async fn serve(server: Rc<RefCell<Server>>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let oracle = Rc::clone(&server.borrow().oracle);
        tokio::task::spawn_local(oracle.watch(converse(stream, Rc::clone(&server))));
    }
}

async fn converse(mut stream: TcpStream, server: Rc<RefCell<Server>>) {
    let (connection, mut outbox) = server.borrow_mut().connected();
    let mut input = Vec::new();
    loop {
        tokio::select! {
            biased;
            out = outbox.recv() => {
                let Some(mut out) = out else { break };
                while let Ok(more) = outbox.try_recv() {
                    out.extend(more);
                }
                if stream.write_all(&out).await.is_err() {
                    break;
                }
            }
            read = stream.read_buf(&mut input) => {
                if !read.is_ok_and(|length| length > 0) {
                    break;
                }
                while let Some((words, length)) = parse(&input) {
                    input.drain(..length);
                    server.borrow_mut().obey(connection, &words);
                }
            }
        }
    }
    server.borrow_mut().disconnected(connection);
}

/// The first command, an array of bulk strings, and its length; none before all of it has come.
fn parse(input: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let count = header(input, &mut at, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = header(input, &mut at, b'$')?;
        let word = input.get(at..at + length)?;
        words.push(String::from_utf8(word.to_vec()).expect("the limiter speaks UTF-8"));
        at += length + 2;
    }
    (at <= input.len()).then_some((words, at))
}

/// The number in a line such as `*3`.
fn header(input: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let line = &input[(*at).min(input.len())..];
    let end = line.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(line[0], kind, "RESP");
    *at += end + 2;
    Some(number(std::str::from_utf8(&line[1..end]).expect("digits")))
}
