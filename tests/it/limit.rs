//! The cap, by one instance: what counts, who is refused, who waits, and how each slot comes back.
//!
//! What holds whatever keeps the counts is written once and run on each backend (`on_every_backend!`).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::support::Blackhole;
use crate::support::Client;
use crate::support::Closed;
use crate::support::Names;
use crate::support::Origin;
use crate::support::PATIENCE;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Response;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

/// What keeps the counts.
#[derive(Clone, Copy)]
enum Backend {
    Local,
    Shared,
}

impl Backend {
    async fn start(self, flags: &str) -> (Option<Redis>, Proxy) {
        match self {
            Backend::Local => (None, narrows().flags(flags).start().await),
            Backend::Shared => {
                let redis = Redis::start().await;
                let proxy = narrows().flags(flags).shared(&redis).start().await;
                proxy.wait_until_up().await;
                (Some(redis), proxy)
            }
        }
    }
}

macro_rules! on_every_backend {
    ($($behaviour:ident)*) => {
        mod local {
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(super::Backend::Local).await })*
        }
        mod shared {
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(super::Backend::Shared).await })*
        }
    };
}

on_every_backend! {
    a_full_host_is_refused_at_once_with_503_that_says_why
    parallel_requests_never_exceed_the_cap_and_all_succeed_when_they_may_wait
    tunnels_and_requests_share_one_budget
    every_way_to_end_gives_the_slot_back
    the_first_to_wait_is_the_first_to_go
    a_wait_that_is_too_long_is_503_and_says_how_long
    the_last_slot_is_found_under_five_times_the_demand
}

async fn a_full_host_is_refused_at_once_with_503_that_says_why(backend: Backend) {
    let (_redis, proxy) = backend.start("--max-connections 2").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let (mut first, mut second) = (proxy.tunnel(&to).await, proxy.tunnel(&to).await);
    let start = Instant::now();
    for _ in 0..2 {
        let answer = proxy.connect(&to).await;
        answer.assert_refused(503, "connection_limit_reached");
        assert_eq!(answer.head.reason(), format!("host limit 2/2 {to}"));
        assert!(retry_after(&answer) >= 1, "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["host"], to.as_str(), "{problem}");
        assert_eq!((&problem["limit"], &problem["in_use"]), (&2.into(), &2.into()), "{problem}");

        let answer = proxy.get(origin.url("/")).await;
        answer.assert_refused(503, "connection_limit_reached");
        assert_eq!(answer.json()["host"], to.as_str());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    first.echo("still there").await;
    second.echo("and I").await;
    drop(first);
    proxy.wait_until_open(&to, 1).await;
    proxy.tunnel(&to).await.echo("a free slot").await;
    assert_eq!((origin.accepted(), origin.peak()), (3, 2));
}

fn retry_after(answer: &Response) -> u64 {
    let seconds = answer.head.field("retry-after").unwrap_or_else(|| panic!("{answer:?}"));
    seconds.parse().unwrap_or_else(|_| panic!("not seconds: {seconds:?}"))
}

async fn parallel_requests_never_exceed_the_cap_and_all_succeed_when_they_may_wait(
    backend: Backend,
) {
    let (_redis, refusing) = backend.start("--max-connections 1").await;
    let origin = Origin::start();
    let answers = five_at_once(&refusing, &origin).await;
    let passed = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(passed, 1, "{answers:?}");
    assert_eq!(origin.peak(), 1);
    drop(refusing);

    let (_redis, patient) = backend.start("--max-connections 1 --queue-timeout 10s").await;
    let origin = Origin::start();
    let start = Instant::now();
    let answers = five_at_once(&patient, &origin).await;
    assert!(answers.iter().all(|answer| answer.status() == 200), "{answers:?}");
    assert!(start.elapsed() >= Duration::from_millis(500), "only {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "woken late: {:?}", start.elapsed());
    assert_eq!(origin.peak(), 1);
}

async fn five_at_once(proxy: &Proxy, origin: &Origin) -> Vec<Response> {
    let slow = origin.url("/slow?ms=100");
    let (a, b, c, d, e) = tokio::join!(
        proxy.get(&slow),
        proxy.get(&slow),
        proxy.get(&slow),
        proxy.get(&slow),
        proxy.get(&slow)
    );
    vec![a, b, c, d, e]
}

async fn tunnels_and_requests_share_one_budget(backend: Backend) {
    let (_redis, proxy) = backend.start("--max-connections 2").await;
    let origin = Origin::start();
    let to = origin.authority();
    let tunnel = proxy.tunnel(&to).await;
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/slow?ms=60000"), &[]).await;
    proxy.wait_until_open(&to, 2).await;
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    proxy.get(origin.url("/")).await.assert_refused(503, "connection_limit_reached");
    drop(tunnel);
    proxy.wait_until_open(&to, 1).await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    // That one is idle now, and is given up for a tunnel.
    let _tunnel = proxy.tunnel(&to).await;
    assert_eq!(origin.peak(), 2);
}

async fn every_way_to_end_gives_the_slot_back(backend: Backend) {
    let names = Names::of(&[]).await;
    let flags = format!(
        "--max-connections 1 --connect-timeout 200ms --resolver {} --pool-idle 1s",
        names.address()
    );
    let (_redis, proxy) = backend.start(&flags).await;
    let origin = Origin::raw(|mut connection| async move {
        match connection.exactly(1).await.as_deref() {
            Ok(b"f") => {}
            Ok(b"r") => connection.reset(),
            Ok(_) | Err(_) => {
                connection.end().await;
            }
        }
    });
    let to = origin.authority();
    let returned = async |host: &str, how: &str| {
        let what = format!("the slot is back after: {how}");
        wait_at_most(Duration::from_secs(1), &what, async || proxy.open(host).await == 0).await;
    };

    drop(proxy.tunnel(&to).await);
    returned(&to, "the client closes").await;

    proxy.tunnel(&to).await.reset();
    returned(&to, "the client is killed").await;

    for (how, byte) in [("the origin closes", "f"), ("the origin resets", "r")] {
        let mut client = proxy.tunnel(&to).await;
        client.send(byte).await;
        client.end().await;
        drop(client);
        returned(&to, how).await;
    }

    let closed = Closed::new().authority();
    proxy.connect(&closed).await.assert_refused(502, "connection_refused");
    returned(&closed, "the dial is refused").await;

    let blackhole = Blackhole::new();
    let silent = blackhole.authority();
    proxy.connect(&silent).await.assert_refused(504, "connection_timeout");
    returned(&silent, "the dial times out").await;

    proxy.connect("nowhere.test:443").await.assert_refused(502, "dns_error");
    returned("nowhere.test", "the name does not exist").await;

    let mut client = proxy.client().await;
    client.send_request("CONNECT", &silent, &[]).await;
    proxy.wait_until_open(&silent, 1).await;
    drop(client);
    returned(&silent, "the client leaves while we dial").await;

    let _tunnel = proxy.tunnel(&to).await;
    assert_eq!(origin.peak(), 1);
}

async fn the_first_to_wait_is_the_first_to_go(backend: Backend) {
    let (_redis, proxy) = backend.start("--max-connections 1 --queue-timeout 20s").await;
    let origin = Origin::start();
    let to = origin.authority();
    let holder = proxy.tunnel(&to).await;
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = proxy.client().await;
        client.send_request("GET", &origin.url(&format!("/{n}")), &[]).await;
        proxy.wait_until_waiting(&to, n + 1).await;
        clients.push(client);
    }
    drop(holder);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response("GET").await.text(), format!("/{n}"));
    }
    let order: Vec<String> =
        origin.seen().iter().map(|seen| seen.head.target().to_owned()).collect();
    assert_eq!(order, (0..8).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert_eq!(origin.peak(), 1);
}

async fn a_wait_that_is_too_long_is_503_and_says_how_long(backend: Backend) {
    let (_redis, proxy) = backend.start("--max-connections 1 --queue-timeout 1s").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _holder = proxy.tunnel(&to).await;
    let start = Instant::now();
    let answer = proxy.connect(&to).await;
    assert!(start.elapsed() >= Duration::from_secs(1), "only {:?}", start.elapsed());
    answer.assert_refused(503, "connection_limit_reached");
    assert_eq!(answer.head.reason(), format!("host limit 1/1 {to} waited 1.0s"));
    assert!(retry_after(&answer) >= 1);
    assert_eq!(proxy.host(&to).await.waiting, 0);
    let labels = [("host", to.as_str()), ("reason", "timeout")];
    proxy.wait_until_metric("narrows_refused_total", &labels, 1.0).await;
}

async fn the_last_slot_is_found_under_five_times_the_demand(backend: Backend) {
    let (_redis, proxy) = backend.start("--max-connections 4 --pool-idle 200ms").await;
    let (proxy, origin) = (Arc::new(proxy), Arc::new(Origin::start()));
    // So many calls rather than so much time: a slow machine is no reason to fail.
    let passed = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + PATIENCE;
    let mut callers = JoinSet::new();
    for caller in 0..20 {
        let (proxy, origin) = (Arc::clone(&proxy), Arc::clone(&origin));
        let passed = Arc::clone(&passed);
        callers.spawn(async move {
            while passed.load(Ordering::Relaxed) < 200 && Instant::now() < end {
                let is_admitted = call(&proxy, &origin, caller % 2 == 0).await;
                passed.fetch_add(usize::from(is_admitted), Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    assert!(passed.load(Ordering::Relaxed) >= 200, "starved: {passed:?}");
    assert_eq!(origin.peak(), 4);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

/// One exchange with an origin under load, by tunnel or by request; whether it was admitted.
pub(crate) async fn call(proxy: &Proxy, origin: &Origin, by_tunnel: bool) -> bool {
    let mut client = proxy.client().await;
    let answer = if by_tunnel {
        let answer = client.connect(origin.authority()).await;
        if answer.status() == 200 {
            client.send("GET /slow?ms=3 HTTP/1.1\r\nHost: h\r\n\r\n").await;
            assert_eq!(client.response("GET").await.text(), "slow");
        }
        answer
    } else {
        client.get(origin.url("/slow?ms=3")).await
    };
    if answer.status() != 200 {
        answer.assert_refused(503, "connection_limit_reached");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    answer.status() == 200
}

#[tokio::test]
async fn refuse_status_sets_the_code_and_nothing_else() {
    for status in [500, 429] {
        let flags = format!("--max-connections 1 --refuse-status {status}");
        let (origin, proxy) = (Origin::echo(), narrows().flags(flags).start().await);
        let _holder = proxy.tunnel(origin.authority()).await;
        let answer = proxy.connect(origin.authority()).await;
        answer.assert_refused(status, "connection_limit_reached");
        assert_eq!(answer.head.reason(), format!("host limit 1/1 {}", origin.authority()));
        assert!(retry_after(&answer) >= 1);
    }
}

#[tokio::test]
async fn without_a_limit_all_pass() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let mut tunnels = Vec::new();
    for _ in 0..50 {
        tunnels.push(proxy.tunnel(origin.authority()).await);
    }
    let host = proxy.host(&origin.authority()).await;
    assert_eq!((host.open, host.limit), (50, None));
    assert_eq!(origin.peak(), 50);
    drop(tunnels);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn hosts_do_not_share_a_budget() {
    let (one, two) = (Origin::echo(), Origin::echo());
    let proxy = narrows().flags("--max-connections 1").start().await;
    let _first = proxy.tunnel(one.authority()).await;
    let _second = proxy.tunnel(two.authority()).await;
    proxy.connect(one.authority()).await.assert_refused(503, "connection_limit_reached");
    proxy.connect(two.authority()).await.assert_refused(503, "connection_limit_reached");
}

/// Occupies a slot of `authority` for as long as the client lives: its name is never resolved, and a
/// slot is taken before that.
async fn occupy(proxy: &Proxy, authority: &str) -> Client {
    let mut client = proxy.client().await;
    client.send_request("CONNECT", authority, &[]).await;
    client
}

#[tokio::test]
async fn one_host_is_one_host_however_it_is_written_and_other_ports_are_others() {
    let names = Names::silent().await;
    let flags = format!("--resolver {} --dns-timeout 60s --max-connections 4", names.address());
    let proxy = narrows().flags(flags).start().await;
    let mut clients = Vec::new();
    let spellings =
        ["Example.test:443", "example.test.:443", "EXAMPLE.TEST:80", "Example.Test.:80"];
    for (n, spelling) in spellings.into_iter().enumerate() {
        clients.push(occupy(&proxy, spelling).await);
        proxy.wait_until_open("example.test", n as u64 + 1).await;
    }
    let refused = proxy.connect("example.test:443").await;
    assert_eq!(refused.head.reason(), "host limit 4/4 example.test");
    let refused = proxy.get("http://Example.test/").await;
    assert_eq!(refused.head.reason(), "host limit 4/4 example.test");
    for _ in 0..4 {
        clients.push(occupy(&proxy, "example.test:8443").await);
    }
    proxy.wait_until_open("example.test:8443", 4).await;
    assert_eq!(proxy.open("example.test").await, 4);
    clients.clear();
    proxy.wait_until_open("example.test", 0).await;
    proxy.wait_until_open("example.test:8443", 0).await;
}

#[tokio::test]
async fn ipv6_hosts_are_capped_in_any_spelling_and_a_mapped_address_is_its_ipv4() {
    let proxy = narrows().flags("--max-connections 1").start().await;
    let six = Origin::at("::1");
    let key = format!("[::1]:{}", six.port());
    let _holder = proxy.tunnel(&key).await;
    for spelling in ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]"] {
        let answer = proxy.connect(format!("{spelling}:{}", six.port())).await;
        answer.assert_refused(503, "connection_limit_reached");
        assert_eq!(answer.json()["host"], key.as_str());
    }
    let four = Origin::start();
    let _holder = proxy.tunnel(four.authority()).await;
    let answer = proxy.connect(format!("[::ffff:127.0.0.1]:{}", four.port())).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert_eq!(answer.json()["host"], four.authority().as_str());
}

#[tokio::test]
async fn the_most_exact_rule_wins() {
    let rules = "--max-connections 7 --host-limit a.test=1 --host-limit a.test:8443=2 \
                 --host-limit *.b.test=3 --host-limit deep.x.b.test=4 --host-limit free.test=0 \
                 --host-limit [::1]=5 --host-limit C.Test.=6";
    let proxy = narrows().flags(rules).start().await;
    for (host, limit) in [
        ("other.test", Some(7)),
        ("a.test", Some(1)),
        ("a.test:9000", Some(1)),
        ("a.test:8443", Some(2)),
        ("x.a.test", Some(7)),
        ("b.test", Some(7)),
        ("x.b.test", Some(3)),
        ("x.b.test:9000", Some(3)),
        ("y.x.b.test", Some(3)),
        ("deep.x.b.test", Some(4)),
        ("xb.test", Some(7)),
        ("free.test", None),
        ("free.test:1", None),
        ("[::1]:9000", Some(5)),
        ("c.test", Some(6)),
    ] {
        assert_eq!((host, proxy.host(host).await.limit), (host, limit));
    }
}

#[tokio::test]
async fn a_rule_for_a_bare_host_limits_each_of_its_ports_apart() {
    let (one, two) = (Origin::echo(), Origin::echo());
    let proxy = narrows().flags("--host-limit 127.0.0.1=1").start().await;
    let _first = proxy.tunnel(one.authority()).await;
    let _second = proxy.tunnel(two.authority()).await;
    let answer = proxy.connect(one.authority()).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert_eq!(answer.json()["limit"], 1, "the limit that applied");
}

#[tokio::test]
async fn no_more_wait_than_the_queue_may_hold() {
    let flags = "--max-connections 1 --queue-timeout 20s --queue-size 2";
    let (origin, proxy) = (Origin::echo(), narrows().flags(flags).start().await);
    let to = origin.authority();
    let holder = proxy.tunnel(&to).await;
    let mut waiters = Vec::new();
    for n in 1..=2 {
        waiters.push(occupy(&proxy, &to).await);
        proxy.wait_until_waiting(&to, n).await;
    }
    let start = Instant::now();
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    let labels = [("host", to.as_str()), ("reason", "queue_full")];
    proxy.wait_until_metric("narrows_refused_total", &labels, 1.0).await;

    drop(holder);
    let mut first = waiters.remove(0);
    assert_eq!(first.response("CONNECT").await.status(), 200);
    first.echo("my turn").await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_client_may_ask_to_wait_up_to_the_longest_wait_allowed() {
    let flags = "--max-connections 1 --queue-timeout-max 500ms";
    let (origin, proxy) = (Origin::echo(), narrows().flags(flags).start().await);
    let to = origin.authority();
    let holder = proxy.tunnel(&to).await;

    let start = Instant::now();
    let mut greedy = proxy.client().await;
    let answer = greedy.connect_with(&to, &["Prefer: wait=60"]).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert!(start.elapsed() >= Duration::from_millis(500), "only {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());

    let mut patient = proxy.client().await;
    patient.send_request("CONNECT", &to, &["Prefer: respond-async, wait=5"]).await;
    proxy.wait_until_waiting(&to, 1).await;
    drop(holder);
    assert_eq!(patient.response("CONNECT").await.status(), 200);
    patient.echo("worth the wait").await;
}

#[tokio::test]
async fn a_client_may_ask_not_to_wait() {
    let flags = "--max-connections 1 --queue-timeout 20s";
    let (origin, proxy) = (Origin::echo(), narrows().flags(flags).start().await);
    let _holder = proxy.tunnel(origin.authority()).await;
    let start = Instant::now();
    let mut hasty = proxy.client().await;
    let answer = hasty.connect_with(origin.authority(), &["Prefer: wait=0"]).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_waiter_that_leaves_lets_the_next_one_through() {
    let flags = "--max-connections 1 --queue-timeout 20s";
    let (origin, proxy) = (Origin::echo(), narrows().flags(flags).start().await);
    let to = origin.authority();
    let holder = proxy.tunnel(&to).await;
    let leaver = occupy(&proxy, &to).await;
    proxy.wait_until_waiting(&to, 1).await;
    let mut stayer = occupy(&proxy, &to).await;
    proxy.wait_until_waiting(&to, 2).await;
    drop(leaver);
    proxy.wait_until_waiting(&to, 1).await;
    drop(holder);
    assert_eq!(stayer.response("CONNECT").await.status(), 200);
    stayer.echo("mine").await;
    drop(stayer);
    proxy.wait_until_open(&to, 0).await;
    assert_eq!(origin.accepted(), 2, "the one that left never reached the origin");
}

/// A cap that is not the number of callers, and as many ends as the scenario asks for.
const CAP: usize = 6;
const DEATHS: usize = 1000;

#[tokio::test]
async fn after_a_thousand_deaths_no_slot_is_taken_and_the_cap_still_admits_exactly_its_number() {
    let flags = format!(
        "--max-connections {CAP} --queue-timeout 50ms --connect-timeout 100ms --pool-idle 100ms"
    );
    let proxy = Arc::new(narrows().flags(flags).start().await);
    let mortal = Arc::new(Origin::raw(|mut connection| async move {
        match connection.some().await.as_deref() {
            Ok([b'r', ..]) => connection.reset(),
            Ok([b'f', ..]) | Err(_) => {}
            Ok([b'G', ..]) => {
                let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
                drop(connection.send(half).await);
            }
            Ok(_) => drop(connection.end().await),
        }
    }));
    let (closed, blackhole) = (Closed::new(), Blackhole::new());
    let hosts = [mortal.authority(), closed.authority(), blackhole.authority()];

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut callers = JoinSet::new();
    for caller in 0..25_u64 {
        let (proxy, hosts) = (Arc::clone(&proxy), hosts.clone());
        callers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(caller));
            for _ in 0..DEATHS / 25 {
                die(&proxy, &hosts, &mut random).await;
            }
        });
    }
    callers.join_all().await;

    for host in &hosts {
        proxy.wait_until_open(host, 0).await;
        assert_eq!(proxy.host(host).await.waiting, 0);
    }
    wait_until("the origin is left", async || mortal.current() == 0).await;
    assert!(mortal.peak() <= CAP, "{} at once", mortal.peak());
    let mut tunnels = Vec::new();
    for _ in 0..CAP {
        tunnels.push(proxy.tunnel(&hosts[0]).await);
    }
    proxy.connect(&hosts[0]).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(proxy.open(&hosts[0]).await, CAP as u64);
}

/// One random client that ends badly, at a random moment, against a random host.
async fn die(proxy: &Proxy, hosts: &[String; 3], random: &mut fastrand::Rng) {
    let host = &hosts[[0, 0, 0, 0, 1, 2][random.usize(..6)]];
    let mut client = proxy.client().await;
    if random.u8(..4) == 0 {
        client.send_request("GET", &format!("http://{host}/"), &[]).await;
    } else {
        client.send_request("CONNECT", host, &[]).await;
        if random.bool() && client.try_head().await.is_some_and(|head| head.status() == 200) {
            // The origin closes, resets, or listens until we leave.
            let byte = random.choice(["f", "r", "."]).unwrap();
            client.try_send(byte).await;
            if random.bool() {
                tokio::time::sleep(Duration::from_millis(random.u64(..10))).await;
            }
        }
    }
    if random.bool() {
        tokio::time::sleep(Duration::from_millis(random.u64(..10))).await;
    }
    if random.bool() { client.reset() } else { drop(client) }
}
