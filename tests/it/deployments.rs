//! Redis as it is run: TLS with certificates on both sides, users with the least rights, sentinels, a
//! cluster. On each, two instances share one cap; and `narrows redis check` tells what is wrong.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::Certs;
use crate::support::Cluster;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Sentinel;
use crate::support::narrows;
use crate::support::wait_until;

/// Two instances, up, that share what these flags say.
async fn pair(place: &str, flags: &str) -> (Proxy, Proxy) {
    let start = async || narrows().shared_by(place).flags(flags).start().await;
    let (a, b) = (start().await, start().await);
    a.wait_until_up().await;
    b.wait_until_up().await;
    (a, b)
}

/// One cap for both, and a slot that one gives back is the other's.
async fn share_a_cap_of_one(a: &Proxy, b: &Proxy, to: &str) {
    let held = a.tunnel(to).await;
    b.connect(to).await.assert_refused(503, "connection_limit_reached");
    for proxy in [a, b] {
        let what = format!("both count one to {to} in the fleet");
        wait_until(&what, async || proxy.host(to).await.fleet_open == 1).await;
    }
    // Who waits at the other one is given the slot.
    let mut patient = b.client().await;
    let (answer, ()) = tokio::join!(patient.connect_with(to, &["Prefer: wait=15"]), async {
        wait_until("it waits in the queue", async || b.host(to).await.waiting == 1).await;
        drop(held);
    });
    assert_eq!(answer.status(), 200, "{answer:?}");
    drop(patient);
    wait_until(&format!("the slot of {to} is free"), async || {
        let mut client = b.client().await;
        let is_open = client.connect(to).await.status() == 200;
        if is_open {
            a.connect(to).await.assert_refused(503, "connection_limit_reached");
        }
        is_open
    })
    .await;
}

/// The findings of `narrows redis check`, each by what it is about, and the exit code.
struct Checked {
    code: Option<i32>,
    findings: Vec<Value>,
}

async fn check(place: &str) -> Checked {
    // So patient that a machine that stalls under its tests is not found slow.
    let flags = "redis check --json --redis-timeout 6s";
    let ended = narrows().bare().flags(flags).flags(place).run().await;
    let lines = ended.stdout.lines();
    let findings: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!findings.is_empty(), "{ended:?}");
    Checked { code: ended.code, findings }
}

impl Checked {
    fn find(&self, about: &str) -> &Value {
        let mut all = self.findings.iter().filter(|finding| finding["about"] == about);
        let found =
            all.next().unwrap_or_else(|| panic!("nothing about {about}: {:?}", self.findings));
        assert!(all.all(|other| other["grade"] == found["grade"]), "{:?}", self.findings);
        found
    }

    fn assert_grade(&self, about: &str, grade: &str) -> &Value {
        let found = self.find(about);
        assert_eq!(found["grade"], grade, "{found}");
        found
    }

    fn assert_all_ok(&self) {
        let bad: Vec<&Value> =
            self.findings.iter().filter(|finding| finding["grade"] != "ok").collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(self.code, Some(0));
    }
}

fn text<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding[field].as_str().unwrap()
}

/// Makes the user as the check advises, with the password `geheim`.
async fn follow_the_advice(redis: &Redis, checked: &Checked, about: &str) {
    let remedy = text(checked.assert_grade(about, "fail"), "remedy");
    let line = remedy.split_once("ACL SETUSER").unwrap().1.replace("PASSWORD", "geheim");
    redis.ask::<String>(&format!("ACL SETUSER{line}")).await;
}

/// What Redis refused a user since it started.
async fn refused(redis: &Redis) -> Vec<String> {
    let log: Vec<redis::Value> = redis.ask("ACL LOG").await;
    log.iter().map(|entry| format!("{entry:?}")).collect()
}

#[tokio::test]
async fn over_tls_with_certificates_a_user_of_least_rights_a_database_and_a_prefix() {
    let certs = Certs::new();
    let (cert, key) = certs.files("redis", &["127.0.0.1"]);
    let (our_cert, our_key) = certs.files("narrows", &["narrows"]);
    let ca = certs.file();
    let (cert, key, ca) = (cert.display(), key.display(), ca.display());
    let options = format!(
        "--tls-port SECOND --tls-cert-file {cert} --tls-key-file {key} --tls-ca-cert-file {ca} \
         --tls-auth-clients yes"
    );
    let redis = Redis::with_options(&options, "").await;
    let address = format!("127.0.0.1:{}", redis.second_port());
    let trust = format!("--redis-tls-ca {ca}");
    let certificate =
        format!("--redis-tls-cert {} --redis-tls-key {}", our_cert.display(), our_key.display());
    let user = "--redis-username me --redis-password geheim --redis-db 3 --redis-prefix mi*ne";
    let place = format!("--redis-addr {address} {trust} {certificate} {user}");

    redis.ask::<String>("ACL SETUSER me on >geheim").await;
    follow_the_advice(&redis, &check(&place).await, "reachable").await;
    check(&place).await.assert_all_ok();
    redis.ask::<String>("ACL LOG RESET").await;

    let (a, b) = pair(&place, "--max-connections 1").await;
    let origin = Origin::echo();
    share_a_cap_of_one(&a, &b, &origin.authority()).await;
    assert_eq!(refused(&redis).await, [""; 0], "the advised rights are enough");
    let keys: Vec<String> = redis.ask_in(3, "KEYS *").await;
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("mi*ne:{0}:")), "{keys:?}");
    assert_eq!(redis.ask::<u64>("DBSIZE").await, 0, "nothing in another database");

    // Without the certificate, or without trust, there is no connection.
    let stranger = format!("--redis-url rediss://{address}/3 {trust} --redis-username me");
    check(&stranger).await.assert_grade("reachable", "fail");
    let checked = check(&format!("--redis-url rediss://{address}")).await;
    let found = checked.assert_grade("reachable", "fail");
    assert!(text(found, "remedy").contains("--redis-tls-ca"), "{found}");
    assert_eq!(checked.code, Some(1));
}

#[tokio::test]
async fn behind_sentinels_the_master_is_found() {
    let redis = Sentinel::start().await;
    let place = redis.flags();
    let checked = check(&place).await;
    checked.assert_grade("sentinel", "ok");
    checked.assert_grade("quorum", "ok");
    checked.assert_grade("role", "ok");
    let found = checked.assert_grade("replicas", "warn");
    assert!(text(found, "remedy").contains("min-replicas-to-write"), "{found}");
    assert_eq!(checked.code, Some(0));
    let checked = check(&place.replace(Sentinel::MASTER, "dog")).await;
    let found = checked.assert_grade("sentinel", "fail");
    assert!(text(found, "remedy").contains("--redis-sentinel-master"), "{found}");
    assert_eq!(checked.code, Some(1));

    let (a, b) = pair(&place, "--max-connections 1").await;
    let origin = Origin::echo();
    share_a_cap_of_one(&a, &b, &origin.authority()).await;
    let master = redis.master().await;
    let keys: Vec<String> = redis.servers[master].ask("KEYS *:@w").await;
    assert_eq!(keys, ["proxy_rate_limiter:{0}:@w"]);
}

#[tokio::test]
async fn a_failover_keeps_the_cap_and_the_fleet_goes_on_with_the_new_master() {
    let mut redis = Sentinel::start().await;
    let (a, b) = pair(&redis.flags(), "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut held = a.tunnel(&to).await;
    let old = redis.master().await;
    redis.kill_master().await;
    for proxy in [&a, &b] {
        proxy.wait_until_up().await;
    }
    held.echo("still there").await;
    // Whatever the new master had of the old one's writes.
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    wait_until("the new master counts one", async || b.host(&to).await.fleet_open == 1).await;
    drop(held);
    wait_until("the slot is free", async || b.connect(&to).await.status() == 200).await;
    assert_ne!(redis.master().await, old);
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_failover_while_all_are_well_moves_the_fleet_along_before_the_new_master_grants() {
    let redis = Sentinel::start().await;
    let (a, b) = pair(&redis.flags(), "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut held = a.tunnel(&to).await;
    let old = redis.master().await;
    redis.failover().await;
    // The old master is well, and would go on answering for some ten seconds.
    let lease = "ZCARD proxy_rate_limiter:{0}:@lease";
    let new = redis.master().await;
    assert_ne!(old, new);
    let started = Instant::now();
    wait_until("both have left the old master", async || {
        let clients: String = redis.servers[old].ask("CLIENT LIST").await;
        !clients.contains("cmd=evalsha")
    })
    .await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "by themselves, not thrown out: {took:?}");
    // A newcomer finds what they hold.
    let c = narrows().shared_by(&redis.flags()).flags("--max-connections 1").start().await;
    for proxy in [&a, &b, &c] {
        proxy.wait_until_up().await;
    }
    assert_eq!(redis.servers[new].ask::<u64>(lease).await, 3);
    for proxy in [&b, &c] {
        proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    }
    held.echo("still there").await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn on_a_cluster_all_nodes_share_the_work() {
    let cluster = Cluster::start().await;
    let place = format!("{} --redis-username me --redis-password geheim", cluster.flags());
    cluster.ask_all::<String>("ACL SETUSER me on >geheim").await;
    let unable = check(&place).await;
    for node in &cluster.nodes {
        follow_the_advice(node, &unable, "cluster").await;
        node.ask::<String>("ACL LOG RESET").await;
    }
    check(&place).await.assert_all_ok();
    let (a, b) = pair(&place, "--max-connections 1").await;
    let origins: Vec<Origin> = (0..8).map(|_| Origin::echo()).collect();
    for origin in &origins {
        share_a_cap_of_one(&a, &b, &origin.authority()).await;
    }
    let mut held = Vec::new();
    for origin in &origins {
        let to = origin.authority();
        wait_until("a slot is free", async || {
            let mut client = a.client().await;
            let is_open = client.connect(&to).await.status() == 200;
            held.extend(is_open.then_some(client));
            is_open
        })
        .await;
    }
    assert_eq!(cluster.host_keys().await.len(), origins.len());
    for node in &cluster.nodes {
        assert_eq!(refused(node).await, [""; 0], "the advised rights are enough");
    }
    let commands: Vec<String> = cluster.ask_all("INFO commandstats").await;
    assert!(commands.iter().all(|stats| stats.contains("cmdstat_evalsha:")), "{commands:?}");
    for origin in &origins {
        b.connect(origin.authority()).await.assert_refused(503, "connection_limit_reached");
        assert_eq!(b.host(&origin.authority()).await.fleet_open, 1);
    }
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_takes_its_counts_along() {
    let cluster = Cluster::start().await;
    let (a, b) = pair(&cluster.flags(), "--max-connections 1").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut held = a.tunnel(&to).await;
    let key = cluster.host_keys().await.pop().unwrap();
    let slot: u16 = cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT {key}")).await;
    let before = Cluster::node_of(slot);
    let after = (before + 1) % cluster.nodes.len();
    cluster.move_slot(slot, after).await;
    held.echo("still there").await;
    // Each asks the old node first, and is told where the slot has gone.
    assert_eq!(b.connect(&to).await.status(), 503);
    for proxy in [&a, &b] {
        wait_until("the new node tells the count", async || {
            proxy.readiness().await["redis"] == "up" && proxy.host(&to).await.fleet_open == 1
        })
        .await;
    }
    b.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert!(cluster.nodes[after].host_keys().await.contains(&key));
    drop(held);
    wait_until("the slot is free", async || b.connect(&to).await.status() == 200).await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn the_check_says_what_is_wrong() {
    let redis = Redis::with_options("--requirepass geheim", "geheim").await;
    let place = format!("--redis-addr {}", redis.address());
    let good = format!("{place} --redis-password geheim");
    check(&good).await.assert_all_ok();
    let keys: Vec<String> = redis.ask("KEYS *").await;
    assert_eq!(keys, [""; 0], "the check leaves nothing behind");

    for (flags, words) in [("", "it wants a password"), (" --redis-password no", "is wrong")] {
        let checked = check(&format!("{place}{flags}")).await;
        let found = checked.assert_grade("reachable", "fail");
        assert!(text(found, "words").contains(words), "{found}");
        assert!(text(found, "remedy").contains("--redis-password"), "{found}");
        assert_eq!(checked.code, Some(1));
    }

    redis.ask::<String>("CONFIG SET maxmemory-policy allkeys-lru").await;
    let checked = check(&good).await;
    let found = checked.assert_grade("eviction", "warn");
    assert!(text(found, "remedy").contains("maxmemory-policy noeviction"), "{found}");
    assert_eq!(checked.code, Some(0), "a warning is no failure");

    let ended = narrows().bare().flags("redis check").flags(&good).run().await;
    let line = "\nwarn eviction: the policy is allkeys-lru, which does nothing as long as \
                maxmemory is 0. Better: CONFIG SET maxmemory-policy noeviction\n";
    assert!(ended.stdout.contains(line), "{}", ended.stdout);
}

#[tokio::test]
async fn the_check_finds_replicas_clusters_and_nobody() {
    let mut master = Redis::start().await;
    let options = format!("--replicaof 127.0.0.1 {}", master.port());
    let replica = Redis::with_options(&options, "").await;
    let checked = check(&format!("--redis-addr {}", replica.address())).await;
    let found = checked.assert_grade("role", "fail");
    assert!(text(found, "words").contains("replica of 127.0.0.1"), "{found}");
    assert_eq!(checked.code, Some(1));

    let place = format!("--redis-addr {}", master.address());
    let not_clustered = check(&place.replace("addr", "cluster")).await;
    not_clustered.assert_grade("cluster", "fail");
    master.kill();
    let checked = check(&place).await;
    let found = checked.assert_grade("reachable", "fail");
    assert!(text(found, "words").contains("refused"), "{found}");
    assert_eq!(checked.code, Some(1));

    let node = Redis::with_options("--cluster-enabled yes --cluster-port SECOND", "").await;
    let checked = check(&format!("--redis-addr {}", node.address())).await;
    let found = checked.assert_grade("mode", "fail");
    assert!(text(found, "remedy").contains("--redis-cluster"), "{found}");
    let checked = check(&format!("--redis-cluster {}", node.address())).await;
    let found = checked.assert_grade("cluster", "fail");
    assert!(text(found, "words").contains("down"), "{found}");
}

#[tokio::test]
async fn the_check_names_each_right_that_is_missing() {
    let redis = Redis::start().await;
    let place =
        format!("--redis-addr {} --redis-password geheim --redis-username me", redis.address());
    let rights = async |rules: &str| {
        redis.ask::<String>(&format!("ACL SETUSER me reset on >geheim {rules}")).await;
        check(&place).await
    };
    let found = |checked: &Checked| text(checked.find("rights"), "words").to_owned();

    rights("~* &* +@all").await.assert_grade("rights", "ok");
    let words = found(&rights("~* &* +@all -evalsha -zadd").await);
    assert_eq!(words, "this user may not run EVALSHA, ZADD");
    let words = found(&rights("~other:* &* +@all").await);
    assert_eq!(words, "this user may not use the keys proxy_rate_limiter:*");
    let words = found(&rights("~* &other:* +@all").await);
    assert_eq!(words, "this user may not use the channels proxy_rate_limiter:*");
    let checked = rights("~* &* +@all -info").await;
    checked.assert_grade("rights", "warn");
    checked.assert_grade("info", "warn");
    assert_eq!(checked.code, Some(0), "it works without INFO");
    let checked = rights("").await;
    follow_the_advice(&redis, &checked, "rights").await;
    check(&place).await.assert_all_ok();
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_told() {
    let refused = async |flags: &str| {
        let ended = narrows().flags(flags).run().await;
        assert_eq!(ended.code, Some(2), "{flags}: {ended:?}");
        ended.stderr
    };
    let told = refused("--redis-addr r:1 --redis-cluster a:1").await;
    assert!(told.contains("--redis-cluster") && told.contains("--redis-addr"), "{told}");
    let told = refused("--redis-cluster a:1,b:2 --redis-db 1").await;
    assert!(told.contains("--redis-db") && told.contains("the only database"), "{told}");
    let told = refused("--redis-sentinels a:x").await;
    assert!(told.contains("--redis-sentinels") && told.contains("\"a:x\""), "{told}");
    let told = refused("--redis-url redis://r --redis-tls on").await;
    assert!(told.contains("--redis-tls") && told.contains("rediss://"), "{told}");
    let told = refused("--redis-addr r --redis-tls-cert /dev/null").await;
    assert!(told.contains("--redis-tls-cert"), "{told}");
    let told = refused("--redis-addr r --redis-tls yes").await;
    assert!(told.contains("on or off"), "{told}");
}
