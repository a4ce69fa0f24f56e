//! Each file of `lua/` alone, against a real Redis of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

use std::collections::BTreeMap;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use redis::Client;
use redis::Commands;
use redis::Connection;
use redis::FromRedisValue;
use redis::Script;
use redis::Value as Reply;
use tempfile::TempDir;

const HOST: &str = "p:{0}:a.test:8443";
const WORKERS: &str = "p:{0}:@w";
const LEASES: &str = "p:{0}:@lease";
/// Long enough that nothing expires by itself in a test.
const LEASE: u64 = 60_000;

struct Redis {
    connection: Connection,
    /// What each instance last heard to be its own, and the number of the last message.
    heard: BTreeMap<(String, String), u32>,
    number: u64,
    server: Child,
    folder: TempDir,
}

/// What an instance says of a host.
#[derive(Clone, Copy, Default)]
struct Claim {
    hold: u32,
    ask: u32,
    wait: u32,
    spare: u32,
    slack: u32,
    limit: u32,
    term: u64,
    manner: &'static str,
}

#[derive(Debug, PartialEq)]
struct Welcome {
    mode: String,
    learning: i64,
    instances: i64,
    policy: String,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(folder.path()).stdout(Stdio::null());
        let server = command.spawn().expect("redis-server is on the PATH");
        let client = Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let connection = (0..1000)
            .find_map(|_| {
                thread::sleep(Duration::from_millis(5));
                client.get_connection().ok()
            })
            .expect("redis starts");
        Self { connection, heard: BTreeMap::new(), number: 0, server, folder }
    }

    /// A Redis that grants, with these instances in it at epoch 1.
    fn granting(ids: &[&str]) -> Self {
        let mut redis = Self::start();
        for id in ids {
            redis.hello(id, 0, 1, LEASE, false);
        }
        redis.stop_learning();
        redis
    }

    fn stop_learning(&mut self) {
        let fields = [("#s", "G7"), ("#first", "1")];
        let _: () = self.connection.hset_multiple(WORKERS, &fields).unwrap();
    }

    fn start_learning(&mut self) {
        let until = self.now() + LEASE;
        let fields = [("#s", "L7".to_owned()), ("#until", until.to_string())];
        let _: () = self.connection.hset_multiple(WORKERS, &fields).unwrap();
    }

    /// The Redis has run for a second: longer than leases of 500 ms.
    fn grow_old(&mut self) {
        while self.query::<String>(&["INFO", "server"]).contains("uptime_in_seconds:0") {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn query<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection).unwrap()
    }

    /// Hears all hints.
    fn listen(&self) -> Connection {
        let socket = self.folder.path().join("redis.sock");
        let client = Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let mut ear = client.get_connection().unwrap();
        let _: Reply = redis::cmd("PSUBSCRIBE").arg("*").query(&mut ear).unwrap();
        ear
    }

    fn now(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = self.query(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    fn hello(&mut self, id: &str, previous: u64, epoch: u64, lease: u64, valid: bool) -> Welcome {
        let script = Script::new(include_str!("../../lua/hello.lua"));
        let mut call = script.key(WORKERS);
        call.key(LEASES).arg(id).arg(previous).arg(epoch).arg(lease).arg(u8::from(valid));
        let (mode, learning, instances, policy) = call.invoke(&mut self.connection).unwrap();
        Welcome { mode, learning, instances, policy }
    }

    fn grant(&mut self, id: &str, epoch: u64, need: u32, limit: u32) -> [i64; 3] {
        self.grant_as(HOST, id, epoch, need, limit, "")
    }

    /// Slots granted, sum of all, and how long Redis learns if that is why not all were.
    fn grant_as(
        &mut self,
        host: &str,
        id: &str,
        epoch: u64,
        need: u32,
        limit: u32,
        manner: &'static str,
    ) -> [i64; 3] {
        let own = (host.to_owned(), id.to_owned());
        let heard = self.heard.get(&own).copied().unwrap_or(0);
        let hold = if manner == "F" || manner == "A" { need } else { need.min(heard) };
        let claim = Claim { hold, ask: need - hold, limit, manner, ..Claim::default() };
        let answer = self.say(host, id, epoch, &claim);
        [answer[0], answer[1], answer[2]]
    }

    /// Slots granted, sum of all, ms of learning or -1, own requests queued, others', limit in
    /// force, unused slots, instances.
    fn say(&mut self, host: &str, id: &str, epoch: u64, claim: &Claim) -> [i64; 8] {
        self.number += 1;
        self.say_as(self.number, host.as_bytes(), id, epoch, claim)
    }

    fn say_as(
        &mut self,
        number: u64,
        host: &[u8],
        id: &str,
        epoch: u64,
        claim: &Claim,
    ) -> [i64; 8] {
        let own = (String::from_utf8_lossy(host).into_owned(), id.to_owned());
        let heard = self.heard.get(&own).copied().unwrap_or(0);
        let Claim { hold, ask, wait, spare, slack, limit, term, manner } = *claim;
        let script = Script::new(include_str!("../../lua/grant.lua"));
        let mut call = script.key(host);
        call.key(WORKERS).key([host, b"~q"].concat());
        call.arg(id).arg(epoch).arg(number).arg(hold).arg(heard).arg(ask).arg(wait);
        call.arg(spare).arg(slack).arg(limit).arg(format!("{term}:{limit}")).arg(manner);
        let reply: Reply = call.arg("PUBLISH").invoke(&mut self.connection).unwrap();
        let answer = if let Reply::Int(number) = reply {
            if number < 0 {
                return [-1, 0, -1, 0, 0, 0, 0, 0];
            }
            [number >> 26, number & ((1 << 26) - 1), -1, 0, 0, i64::from(limit), 0, 0]
        } else {
            FromRedisValue::from_redis_value(reply).unwrap()
        };
        self.heard.insert(own, u32::try_from(answer[0]).unwrap());
        answer
    }

    /// Whether it was heard (1 or 0), ms of learning or -1, instances.
    fn heartbeat(&mut self, id: &str, epoch: u64) -> [i64; 3] {
        let script = Script::new(include_str!("../../lua/heartbeat.lua"));
        let mut call = script.key(WORKERS);
        call.key(LEASES).arg(id).arg(epoch).arg(LEASE);
        let [generation, left, instances]: [i64; 3] = call.invoke(&mut self.connection).unwrap();
        [i64::from(generation >= 0), left, instances]
    }

    fn leave(&mut self, id: &str, epoch: u64, clean: bool) -> i64 {
        let script = Script::new(include_str!("../../lua/leave.lua"));
        let mut call = script.key(WORKERS);
        call.key(LEASES).arg(id).arg(epoch).arg(u8::from(clean));
        call.invoke(&mut self.connection).unwrap()
    }

    /// Its lease runs out, after a service without gaps.
    fn expire(&mut self, id: &str) {
        let _: () = self.connection.zadd(LEASES, id, 1).unwrap();
        let _: () = self.connection.hset(WORKERS, "#ok", 1).unwrap();
        let now = self.now();
        let _: () = self.connection.hset(WORKERS, "#hb", now).unwrap();
    }

    fn row(&mut self, host: &str) -> BTreeMap<String, String> {
        self.connection.hgetall(host).unwrap()
    }

    fn exists(&mut self, key: &str) -> bool {
        self.connection.exists(key).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

// grant.lua

#[test]
fn a_grant_stops_at_the_limit() {
    let mut redis = Redis::granting(&["a", "b"]);
    assert_eq!(redis.grant("a", 1, 2, 3), [2, 2, -1]);
    assert_eq!(redis.grant("b", 1, 2, 3), [1, 3, -1], "what fits is granted");
    assert_eq!(redis.grant("a", 1, 3, 3), [2, 3, -1]);
}

#[test]
fn a_message_that_runs_twice_changes_nothing() {
    let mut redis = Redis::granting(&["a"]);
    for need in [2, 5, 1, 0] {
        let first = redis.grant("a", 1, need, 3);
        let row = redis.row(HOST);
        assert_eq!(redis.grant("a", 1, need, 3), first);
        assert_eq!(redis.row(HOST), row);
    }
}

#[test]
fn a_host_without_slots_has_no_key() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("a", 1, 1, 3);
    redis.grant("b", 1, 1, 3);
    redis.grant("a", 1, 0, 3);
    assert!(!redis.row(HOST).contains_key("a"));
    assert!(redis.exists(HOST));
    assert_eq!(redis.grant("b", 1, 0, 3), [0, 0, -1]);
    assert!(!redis.exists(HOST));
    assert_eq!(redis.grant("b", 1, 1, 0), [1, 1, -1]);
    redis.grant("b", 1, 0, 0);
    assert!(!redis.exists(HOST));
}

#[test]
fn only_the_epoch_in_force_is_heard() {
    let mut redis = Redis::granting(&["a"]);
    redis.grant("a", 1, 2, 3);
    redis.hello("a", 1, 2, LEASE, true);
    for (id, epoch) in [("a", 1), ("a", 3), ("nobody", 1)] {
        assert_eq!(redis.grant_as(HOST, id, epoch, 0, 3, "F"), [-1, 0, -1]);
    }
    assert_eq!(redis.row(HOST)["a"], "2");
    assert_eq!(redis.grant("a", 2, 1, 3), [1, 1, -1]);
}

#[test]
fn zero_is_no_limit() {
    let mut redis = Redis::granting(&["a"]);
    assert_eq!(redis.grant("a", 1, 100_000, 0), [100_000, 100_000, -1]);
    redis.start_learning();
    assert_eq!(redis.grant("a", 1, 100_001, 0), [100_001, 100_001, -1]);
}

#[test]
fn a_lowered_limit_takes_nothing_away() {
    let mut redis = Redis::granting(&["a"]);
    redis.grant("a", 1, 5, 5);
    assert_eq!(redis.grant("a", 1, 5, 2), [5, 5, -1]);
    assert_eq!(redis.grant("a", 1, 6, 2), [5, 5, -1]);
    assert_eq!(redis.grant("a", 1, 3, 2), [3, 3, -1]);
}

#[test]
fn while_learning_nothing_rises_but_what_is_vouched_for() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("a", 1, 2, 5);
    redis.start_learning();
    let [granted, total, left] = redis.grant("a", 1, 3, 5);
    assert_eq!((granted, total), (2, 2));
    assert!(left > 0 && left <= i64::try_from(LEASE).unwrap());
    assert_eq!(redis.grant("a", 1, 1, 5)[..2], [1, 1], "giving back is always possible");
    assert_eq!(redis.grant_as(HOST, "b", 1, 4, 5, "F")[..2], [4, 5]);
    assert_eq!(redis.grant_as(HOST, "a", 1, 3, 5, "F")[..2], [3, 7], "what is open is counted");
}

#[test]
fn the_first_refusal_after_a_death_counts_anew_and_only_that() {
    let mut redis = Redis::granting(&["a", "b", "dead"]);
    redis.grant("a", 1, 1, 3);
    redis.grant("dead", 1, 2, 3);
    redis.expire("dead");
    redis.heartbeat("a", 1);
    assert_eq!(redis.row(HOST)["dead"], "2", "nobody was refused yet");
    assert_eq!(redis.grant("b", 1, 1, 3), [1, 2, -1]);
    assert!(!redis.row(HOST).contains_key("dead"));
    assert_eq!(redis.row(HOST)["#g"], "G8");
    // A count that is wrong stays wrong: no second sweep in one generation.
    let _: () = redis.connection.hset(HOST, "#t", 3).unwrap();
    assert_eq!(redis.grant("b", 1, 2, 3), [1, 3, -1]);
}

#[test]
fn an_unlimited_host_forgets_the_dead_as_well() {
    let mut redis = Redis::granting(&["a", "dead"]);
    redis.grant("dead", 1, 2, 0);
    redis.expire("dead");
    redis.heartbeat("a", 1);
    assert_eq!(redis.grant("a", 1, 1, 0), [1, 1, -1]);
}

#[test]
fn a_sweep_copes_with_more_instances_than_unpack() {
    let mut redis = Redis::granting(&["a"]);
    let dead: Vec<(String, u32)> = (0..20_000).map(|number| (format!("dead{number}"), 1)).collect();
    let _: () = redis.connection.hset_multiple(HOST, &dead).unwrap();
    let _: () = redis.connection.hset_multiple(HOST, &[("#t", "20000"), ("#g", "G6")]).unwrap();
    assert_eq!(redis.grant("a", 1, 2, 3), [2, 2, -1]);
    let row = redis.row(HOST);
    assert!(row.keys().all(|field| field == "a" || field.starts_with('#')), "{row:?}");
}

#[test]
fn a_hosts_key_lives_a_day_and_an_audit_renews_that() {
    let mut redis = Redis::granting(&["a"]);
    redis.grant("a", 1, 1, 3);
    let ttl = |redis: &mut Redis| redis.query::<i64>(&["TTL", HOST]);
    assert!(ttl(&mut redis) > 86_000);
    let _: i64 = redis.query(&["EXPIRE", HOST, "100"]);
    redis.grant("a", 1, 2, 3);
    assert!(ttl(&mut redis) <= 100);
    assert_eq!(redis.grant_as(HOST, "a", 1, 2, 3, "T"), [2, 2, -1]);
    assert!(ttl(&mut redis) > 86_000);
}

#[test]
fn a_host_name_is_data_and_never_a_pattern() {
    let mut redis = Redis::granting(&["a", "b"]);
    let hosts = ["*", "a", "a:8080", "x[0-9].com", "x1.com", "[::1]:8080", "%s", "a\0b"];
    let hosts = hosts.map(|host| format!("p:{{0}}:{host}"));
    for host in &hosts {
        assert_eq!(redis.grant_as(host, "a", 1, 2, 2, ""), [2, 2, -1], "{host:?}");
        assert_eq!(redis.grant_as(host, "b", 1, 1, 2, ""), [0, 2, -1], "{host:?}");
    }
}

fn waiting(wait: u32, limit: u32) -> Claim {
    Claim { wait, limit, ..Claim::default() }
}

fn holding(hold: u32, limit: u32) -> Claim {
    Claim { hold, limit, ..Claim::default() }
}

/// What is published until the commands so far have run.
fn hints(redis: &mut Redis, ear: &mut Connection) -> Vec<(String, String)> {
    let _: i64 = redis.query(&["PUBLISH", "end", ""]);
    let mut hints = Vec::new();
    loop {
        let (_, _, channel, text): (String, String, String, String) =
            FromRedisValue::from_redis_value(ear.recv_response().unwrap()).unwrap();
        if channel == "end" {
            return hints;
        }
        hints.push((channel, text));
    }
}

#[test]
fn who_queues_gets_the_slots_that_come_back_in_order_and_is_told() {
    let mut redis = Redis::granting(&["a", "b", "c"]);
    let mut ear = redis.listen();
    redis.grant("a", 1, 2, 2);
    assert_eq!(redis.say(HOST, "b", 1, &waiting(1, 2))[3..5], [1, 0]);
    assert_eq!(redis.say(HOST, "c", 1, &waiting(1, 2))[3..5], [1, 1]);
    hints(&mut redis, &mut ear);
    for id in ["b", "c"] {
        let left = u32::from(id == "b");
        assert_eq!(redis.say(HOST, "a", 1, &holding(left, 2))[..2], [i64::from(left), 2]);
        let told = (format!("p:{{0}}:@n:{id}"), format!("g{HOST}"));
        assert!(hints(&mut redis, &mut ear).contains(&told));
    }
    assert_eq!(redis.row(HOST)["#q"], "0");
    assert!(!redis.exists(&format!("{HOST}~q")));
}

#[test]
fn a_newcomer_does_not_overtake_the_queue() {
    let mut redis = Redis::granting(&["a", "b", "c"]);
    redis.grant("a", 1, 1, 1);
    redis.say(HOST, "b", 1, &waiting(1, 1));
    redis.say(HOST, "a", 1, &holding(0, 1));
    assert_eq!(redis.grant("c", 1, 1, 1), [0, 1, -1], "the slot is reserved");
    assert_eq!(redis.say(HOST, "b", 1, &waiting(1, 1))[0], 1);
}

#[test]
fn who_gives_back_and_queues_goes_behind_and_its_message_may_run_twice() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("a", 1, 1, 1);
    redis.say(HOST, "b", 1, &waiting(1, 1));
    for _ in 0..2 {
        let answer = redis.say_as(77, HOST.as_bytes(), "a", 1, &waiting(1, 1));
        assert_eq!((answer[0], answer[3]), (0, 1));
        assert_eq!(redis.row(HOST)["b"], "1^2");
    }
}

#[test]
fn those_who_hold_are_called_four_times_a_second_at_most() {
    let mut redis = Redis::granting(&["a", "b"]);
    let mut ear = redis.listen();
    redis.grant("a", 1, 1, 1);
    for _ in 0..3 {
        redis.say(HOST, "b", 1, &waiting(1, 1));
    }
    let recall = ("p:{0}:@n:a".to_owned(), format!("r1 {HOST}"));
    assert_eq!(hints(&mut redis, &mut ear), std::slice::from_ref(&recall));
    let _: () = redis.connection.hset(HOST, "#r", 1).unwrap();
    redis.say(HOST, "b", 1, &waiting(1, 1));
    assert_eq!(hints(&mut redis, &mut ear), [recall]);
}

#[test]
fn of_two_limits_the_one_of_the_higher_term_holds_and_in_one_the_lower() {
    let mut redis = Redis::granting(&["a", "b"]);
    let mut say = |limit, term| {
        let claim = Claim { hold: 1, limit, term, ..Claim::default() };
        redis.say(HOST, "a", 1, &claim)[5]
    };
    assert_eq!(say(5, 2), 5);
    assert_eq!(say(9, 1), 5);
    assert_eq!(say(9, 2), 5);
    assert_eq!(say(4, 2), 4);
    assert_eq!(say(9, 3), 9);
}

#[test]
fn slots_ahead_of_need_come_only_from_plenty() {
    let mut redis = Redis::granting(&["a", "b"]);
    let claim = Claim { hold: 0, ask: 1, slack: 8, limit: 9, ..Claim::default() };
    assert_eq!(redis.say(HOST, "a", 1, &claim)[0], 5, "half of what is left");
    assert_eq!(redis.row(HOST)["a"], "5~4");
    let claim = Claim { ask: 4, slack: 8, limit: 9, ..Claim::default() };
    assert_eq!(redis.say(HOST, "b", 1, &claim)[0], 4, "nothing is left to be had ahead");
}

#[test]
fn a_slot_handed_on_is_counted_although_the_senders_own_stay() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("a", 1, 1, 1);
    redis.say(HOST, "b", 1, &waiting(1, 1));
    let raised = Claim { hold: 1, limit: 2, term: 1, ..Claim::default() };
    assert_eq!(redis.say(HOST, "a", 1, &raised)[..2], [1, 2]);
    assert_eq!(redis.row(HOST)["#t"], "2");
}

#[test]
fn what_is_from_before_a_loss_of_data_is_void() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("b", 1, 3, 3);
    let _: () =
        redis.connection.hset_multiple(WORKERS, &[("#s", "G99"), ("#first", "99")]).unwrap();
    assert_eq!(redis.grant("a", 1, 1, 3), [1, 1, -1]);
    assert!(!redis.row(HOST).contains_key("b"));
}

#[test]
fn outside_learning_what_is_vouched_for_takes_no_room_from_others() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("b", 1, 1, 1);
    assert_eq!(redis.grant_as(HOST, "a", 1, 1, 1, "F"), [0, 1, -1]);
}

#[test]
fn a_key_that_is_no_text_is_a_key_as_well() {
    let mut redis = Redis::granting(&["a", "b"]);
    let host = [b"p:{0}:".as_slice(), &[0xff, 0, 0xc3, b'*'], &[b'x'; 255]].concat();
    let claim = Claim { ask: 2, limit: 2, ..Claim::default() };
    assert_eq!(redis.say_as(1, &host, "a", 1, &claim)[..2], [2, 2]);
    assert_eq!(redis.say_as(2, &host, "b", 1, &claim)[..2], [0, 2]);
    assert_eq!(redis.connection.hlen::<_, i64>(&host).unwrap(), 5);
}

// hello.lua

#[test]
fn a_redis_that_has_just_started_learns_for_the_rest_of_a_lease() {
    let mut redis = Redis::start();
    let welcome = redis.hello("a", 0, 1, LEASE, false);
    assert_eq!((welcome.mode.as_str(), welcome.instances), ("A", 1));
    let lease = i64::try_from(LEASE).unwrap();
    assert!(welcome.learning > lease - 3000 && welcome.learning <= lease, "{welcome:?}");
    assert_eq!(welcome.policy, "noeviction");
}

#[test]
fn a_redis_that_ran_for_longer_than_a_lease_serves_at_once() {
    let mut redis = Redis::start();
    redis.grow_old();
    assert_eq!(redis.hello("a", 0, 1, 500, false).learning, -1);
    assert_eq!(redis.grant("a", 1, 1, 1), [1, 1, -1]);
}

#[test]
fn whatever_shows_a_loss_means_a_lease_of_learning() {
    type Make = fn(&mut Redis);
    let evidence: [(&str, Make); 5] = [
        ("flushall", |redis| redis.query(&["FLUSHALL"])),
        ("flushdb", |redis| redis.query(&["FLUSHDB"])),
        ("a role change", |redis| {
            let _: () = redis.query(&["REPLICAOF", "127.0.0.1", "1"]);
            redis.query::<()>(&["REPLICAOF", "NO", "ONE"]);
        }),
        ("leases without workers", |redis| redis.connection.zadd(LEASES, "b", 1).unwrap()),
        ("no right to look", |redis| redis.query(&["ACL", "SETUSER", "default", "-info"])),
    ];
    for (name, make) in evidence {
        let mut redis = Redis::start();
        redis.grow_old();
        make(&mut redis);
        let left = redis.hello("a", 0, 1, 500, false).learning;
        assert!(left > 400 && left <= 500, "{name}: {left}");
    }
    let mut redis = Redis::start();
    redis.grow_old();
    let left = redis.hello("a", 3, 4, 500, false).learning;
    assert!(left > 400, "an instance that was known here: {left}");
}

#[test]
fn without_the_right_to_look_a_known_fleet_is_believed() {
    let mut redis = Redis::granting(&["a"]);
    let _: () = redis.query(&["ACL", "SETUSER", "default", "-info"]);
    assert_eq!(redis.hello("b", 0, 1, LEASE, false).learning, -1);
    assert_eq!(redis.hello("a", 1, 2, LEASE, true).mode, "F");
}

#[test]
fn another_process_with_the_same_data_means_learning_from_its_start() {
    let mut redis = Redis::granting(&["a", "b"]);
    let _: () = redis.connection.hset(WORKERS, "#run", "another").unwrap();
    let welcome = redis.hello("a", 1, 2, LEASE, true);
    assert_eq!(welcome.mode, "F", "its lease still holds");
    assert!(welcome.learning > 0);

    redis.grow_old();
    let _: () = redis.connection.hset(WORKERS, "#run", "a third").unwrap();
    assert_eq!(redis.hello("a", 2, 3, 500, false).learning, 0, "learning is over already");
    let _: () = redis.connection.zadd(LEASES, "b", 1).unwrap();
    assert_eq!(redis.heartbeat("a", 3), [1, -1, 1], "and who did not come back is forgotten");
}

#[test]
fn a_hello_vouches_only_for_the_epoch_it_was_known_by() {
    let mut redis = Redis::granting(&["a"]);
    assert_eq!(redis.hello("a", 1, 2, LEASE, true).mode, "F");
    assert_eq!(redis.hello("a", 1, 3, LEASE, true).mode, "A", "epoch 2 was in force");
    assert_eq!(redis.hello("a", 3, 4, LEASE, false).mode, "A", "its lease is over");
    assert_eq!(redis.hello("b", 7, 8, LEASE, true).mode, "A", "it was reaped");
    redis.start_learning();
    assert_eq!(redis.hello("a", 1, 5, LEASE, true).mode, "F");
    assert_eq!(redis.hello("b", 8, 9, LEASE, false).mode, "A");
}

#[test]
fn a_hello_that_comes_late_changes_nothing() {
    let mut redis = Redis::granting(&["a"]);
    redis.hello("a", 1, 5, LEASE, true);
    for epoch in [5, 4] {
        assert_eq!(redis.hello("a", 1, epoch, 1, true).mode, "X");
    }
    assert_eq!(redis.heartbeat("a", 5), [1, -1, 1]);
}

#[test]
fn a_policy_that_evicts_is_told() {
    let mut redis = Redis::start();
    let _: () = redis.query(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    assert_eq!(redis.hello("a", 0, 1, LEASE, false).policy, "volatile-lru");
}

// heartbeat.lua

#[test]
fn a_heartbeat_renews_its_own_lease_alone() {
    let mut redis = Redis::granting(&["a", "b"]);
    let _: () = redis.connection.zadd_multiple(LEASES, &[(5, "a"), (5, "b")]).unwrap();
    assert_eq!(redis.heartbeat("a", 1), [1, -1, 2]);
    let now = redis.now();
    let lease: u64 = redis.connection.zscore(LEASES, "a").unwrap();
    assert!(lease > now && lease <= now + LEASE);
    assert_eq!(redis.heartbeat("a", 2), [0, -1, 0]);
}

#[test]
fn the_dead_are_reaped_sixteen_at_a_time() {
    let ids: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
    let mut redis = Redis::granting(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for id in &ids[1..] {
        redis.expire(id);
    }
    for instances in [24, 8, 1, 1] {
        assert_eq!(redis.heartbeat("w0", 1), [1, -1, instances]);
    }
    let generation: String = redis.connection.hget(WORKERS, "#s").unwrap();
    assert_eq!(generation, "G10", "one for each reaping");
    assert_eq!(redis.grant("w1", 1, 1, 5), [-1, 0, -1]);
}

#[test]
fn after_a_gap_in_service_everybody_has_a_lease_to_come_back() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.expire("b");
    let silent = redis.now() - LEASE * 6 / 10;
    let _: () = redis.connection.hset(WORKERS, "#hb", silent).unwrap();
    assert_eq!(redis.heartbeat("a", 1), [1, -1, 2]);
    assert_eq!(redis.heartbeat("a", 1), [1, -1, 2]);
    redis.expire("b");
    assert_eq!(redis.heartbeat("a", 1), [1, -1, 1], "service was gapless for a lease");
}

#[test]
fn a_first_heartbeat_reaps_nobody() {
    let mut redis = Redis::granting(&["a", "b"]);
    let _: () = redis.connection.zadd(LEASES, "b", 1).unwrap();
    assert_eq!(redis.heartbeat("a", 1), [1, -1, 2]);
}

#[test]
fn learning_ends_on_time_and_all_who_did_not_come_are_forgotten() {
    let ids: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
    let mut redis = Redis::granting(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    redis.start_learning();
    let [_, left, instances] = redis.heartbeat("w0", 1);
    assert!(left > 0 && instances == 40);
    for id in &ids[1..] {
        redis.expire(id);
    }
    assert_eq!(redis.heartbeat("w0", 1)[2], 40, "nobody is reaped while learning");
    let _: () = redis.connection.hset(WORKERS, "#until", 1).unwrap();
    assert_eq!(redis.heartbeat("w0", 1), [1, -1, 1]);
    assert_eq!(redis.grant("w0", 1, 1, 1), [1, 1, -1]);
}

// leave.lua

#[test]
fn who_leaves_is_forgotten_at_once_and_redis_is_still_known() {
    let mut redis = Redis::start();
    redis.grow_old();
    let _: () = redis.query(&["FLUSHALL"]); // evidence of a loss, for ever
    redis.hello("a", 0, 1, 500, false);
    redis.stop_learning();
    assert_eq!(redis.leave("a", 2, true), 0);
    assert_eq!(redis.leave("a", 1, true), 1);
    assert!(!redis.exists(LEASES));
    assert!(redis.query::<i64>(&["TTL", WORKERS]) > 86_000);
    assert_eq!(redis.hello("b", 0, 1, 500, false).learning, -1, "nothing was lost");
}

#[test]
fn slots_that_a_leaver_left_behind_are_found() {
    let mut redis = Redis::granting(&["a", "b"]);
    redis.grant("a", 1, 2, 2);
    redis.leave("a", 1, false);
    assert_eq!(redis.grant("b", 1, 1, 2), [1, 1, -1]);
}
