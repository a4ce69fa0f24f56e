//! Each file of `lua/` alone, against a real Redis of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

use std::collections::BTreeMap;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
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
    server: Child,
    _folder: TempDir,
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
        Self { connection, server, _folder: folder }
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
        let _: () = self.connection.hset(WORKERS, "#s", "G7").unwrap();
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
        manner: &str,
    ) -> [i64; 3] {
        let script = Script::new(include_str!("../../lua/grant.lua"));
        let mut call = script.key(host);
        call.key(WORKERS).arg(id).arg(epoch).arg(need).arg(limit).arg(manner);
        let reply: Reply = call.invoke(&mut self.connection).unwrap();
        if let Reply::Int(number) = reply {
            let packed = [number >> 26, number & ((1 << 26) - 1), -1];
            return if number < 0 { [-1, 0, -1] } else { packed };
        }
        FromRedisValue::from_redis_value(reply).unwrap()
    }

    fn heartbeat(&mut self, id: &str, epoch: u64) -> [i64; 3] {
        let script = Script::new(include_str!("../../lua/heartbeat.lua"));
        let mut call = script.key(WORKERS);
        call.key(LEASES).arg(id).arg(epoch).arg(LEASE);
        call.invoke(&mut self.connection).unwrap()
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
    assert_eq!(redis.grant("a", 1, 1, 5), [1, 1, -1], "giving back is always possible");
    assert_eq!(redis.grant_as(HOST, "b", 1, 4, 5, "F"), [4, 5, -1]);
    assert_eq!(redis.grant_as(HOST, "a", 1, 3, 5, "F"), [3, 7, -1], "what is open is counted");
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
    assert_eq!(redis.row(HOST).len(), 3);
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

// All together, against a model.

#[derive(Clone, Debug)]
enum Op {
    Die(usize),
    Grant {
        worker: usize,
        host: usize,
        need: u32,
        twice: bool,
    },
    Hello(usize),
    Leave(usize),
    /// A message of an epoch that is over.
    Stale {
        worker: usize,
        host: usize,
        need: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..3_usize).prop_map(Op::Die),
        12 => (0..3_usize, 0..2_usize, 0..6_u32, any::<bool>())
            .prop_map(|(worker, host, need, twice)| Op::Grant { worker, host, need, twice }),
        2 => (0..3_usize).prop_map(Op::Hello),
        1 => (0..3_usize).prop_map(Op::Leave),
        1 => (0..3_usize, 0..2_usize, 0..6_u32)
            .prop_map(|(worker, host, need)| Op::Stale { worker, host, need }),
    ]
}

/// What the scripts should make of it.
#[derive(Default)]
struct Oracle {
    epochs: [u64; 3],
    alive: [bool; 3],
    /// Deaths so far.
    generation: u64,
    hosts: [OracleHost; 2],
}

#[derive(Default)]
struct OracleHost {
    slots: BTreeMap<usize, u32>,
    swept: u64,
}

const LIMIT: u32 = 4;

impl Oracle {
    fn grant(&mut self, worker: usize, host: usize, need: u32) -> (u32, u32) {
        let alive = self.alive;
        let generation = self.generation;
        let host = &mut self.hosts[host];
        if host.slots.is_empty() {
            host.swept = generation;
        }
        let total = |host: &OracleHost| host.slots.values().sum::<u32>();
        let have = host.slots.get(&worker).copied().unwrap_or(0);
        let granted = if need <= have {
            need
        } else {
            if LIMIT - total(host) < need - have && host.swept != generation {
                host.slots.retain(|worker, _| alive[*worker]);
                host.swept = generation;
            }
            have + (need - have).min(LIMIT - total(host))
        };
        if granted == 0 {
            host.slots.remove(&worker);
        } else {
            host.slots.insert(worker, granted);
        }
        (granted, total(host))
    }
}

#[test]
fn any_sequence_of_messages_keeps_the_sum_true_and_under_the_limit() {
    let mut redis = Redis::start();
    let hosts = ["p:{0}:one", "p:{0}:two"];
    let ids = ["w0", "w1", "w2"];
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 60, ..Default::default() });
    let redis = std::cell::RefCell::new(&mut redis);
    let sequences = proptest::collection::vec(op(), 1..60);
    let outcome = runner.run(&sequences, |ops| {
        let redis = &mut **redis.borrow_mut();
        let _: () = redis.query(&["FLUSHALL"]);
        let mut oracle = Oracle::default();
        redis.hello("reaper", 0, 1, LEASE, false);
        redis.stop_learning();
        for op in ops {
            match op {
                Op::Hello(worker) => {
                    let epoch = oracle.epochs[worker] + 1;
                    redis.hello(ids[worker], epoch - 1, epoch, LEASE, true);
                    oracle.epochs[worker] = epoch;
                    oracle.alive[worker] = true;
                }
                Op::Die(worker) if oracle.alive[worker] => {
                    redis.expire(ids[worker]);
                    redis.heartbeat("reaper", 1);
                    oracle.alive[worker] = false;
                    oracle.generation += 1;
                }
                Op::Leave(worker) if oracle.alive[worker] => {
                    redis.leave(ids[worker], oracle.epochs[worker], false);
                    oracle.alive[worker] = false;
                    oracle.generation += 1;
                }
                Op::Die(_) | Op::Leave(_) => {}
                Op::Grant { worker, host, need, twice } => {
                    let epoch = oracle.epochs[worker];
                    for _ in 0..=u8::from(twice) {
                        let answer =
                            redis.grant_as(hosts[host], ids[worker], epoch, need, LIMIT, "");
                        let expected = if oracle.alive[worker] {
                            let (granted, total) = oracle.grant(worker, host, need);
                            [i64::from(granted), i64::from(total), -1]
                        } else {
                            [-1, 0, -1]
                        };
                        prop_assert_eq!(answer, expected);
                    }
                }
                Op::Stale { worker, host, need } => {
                    let epoch = oracle.epochs[worker] + 1;
                    let answer = redis.grant_as(hosts[host], ids[worker], epoch, need, LIMIT, "F");
                    prop_assert_eq!(answer, [-1, 0, -1]);
                }
            }
            for (host, expected) in hosts.iter().zip(&oracle.hosts) {
                let mut row = redis.row(host);
                let total: u32 = row.remove("#t").map_or(0, |total| total.parse().unwrap());
                row.remove("#g");
                let row: BTreeMap<String, u32> =
                    row.into_iter().map(|(id, slots)| (id, slots.parse().unwrap())).collect();
                let slots: BTreeMap<String, u32> = expected
                    .slots
                    .iter()
                    .map(|(id, slots)| (ids[*id].to_owned(), *slots))
                    .collect();
                prop_assert_eq!(&row, &slots);
                prop_assert_eq!(total, row.values().sum::<u32>());
                prop_assert!(total <= LIMIT);
                prop_assert_eq!(redis.exists(host), total > 0);
            }
        }
        Ok(())
    });
    outcome.unwrap();
}
