//! The origin judges: a fleet under more load than the cap and one fault after another, and an
//! origin that counts connections by itself.
//!
//! Checked: never more than the cap, but for what `fleet` excuses; at overload, with no fault under
//! way, the cap is used; tunnels that idle stay counted; when the last client is gone nothing is
//! left in Redis within 3 s; a killed instance's slots are back within lease, heartbeat and 1 s.
//!
//! Each fault on its own, and what else it must bring about, is in `faults` and `fleet`; a failover
//! and a moving part of a cluster in `deployments`. `scripts/soak` runs [`soak`] for as long as one
//! likes.

pub(crate) mod fleet;
mod load;

use std::fmt::Write;
use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::oracle::fleet::Fleet;
use crate::oracle::fleet::HEARTBEAT;
use crate::oracle::fleet::LEASE;
use crate::oracle::fleet::TIMEOUT;
use crate::support::PATIENCE;
use crate::support::Path;
use crate::support::wait_at_most;
use crate::support::wait_until;

/// The least part of the cap that is used at overload, with no fault under way.
const UTILISATION: f64 = 0.9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// All connections to Redis are closed by it.
    ClientKill,
    /// One instance cannot reach Redis: nothing arrives.
    CutOff,
    FlushAll,
    /// Published messages to one instance are lost.
    Hintless,
    Kill,
    /// What one instance said on a connection arrives after it has made another.
    Late,
    /// Commands of one instance arrive at Redis, and their answers are lost.
    LostAnswers,
    /// Redis stands still for longer than the instances wait for it.
    RedisHangs,
    /// The same for longer than a lease.
    RedisHangsLong,
    /// Redis stands still, for less than that.
    RedisStalls,
    RedisRestarts,
    /// One instance is refused by Redis.
    Refused,
    ScriptFlush,
    /// The path of one instance to Redis is slow.
    Slow,
    /// One instance stands still for less than its lease.
    Stop,
    /// One instance stands still for longer than its lease.
    StopLong,
}

const ALL: [Fault; 16] = [
    Fault::ClientKill,
    Fault::Slow,
    Fault::LostAnswers,
    Fault::Late,
    Fault::CutOff,
    Fault::ScriptFlush,
    Fault::Hintless,
    Fault::Kill,
    Fault::Refused,
    Fault::RedisStalls,
    Fault::RedisHangs,
    Fault::Stop,
    Fault::FlushAll,
    Fault::StopLong,
    Fault::RedisHangsLong,
    Fault::RedisRestarts,
];

#[tokio::test]
async fn a_cap_of_1_holds_through_every_fault() {
    every_fault(1).await;
}

#[tokio::test]
async fn a_cap_of_7_holds_through_every_fault() {
    every_fault(7).await;
}

#[tokio::test]
async fn a_cap_of_100_holds_through_every_fault() {
    every_fault(100).await;
}

async fn every_fault(cap: usize) {
    eprintln!("{}", round(cap, &ALL, 3 + cap as u64).await);
}

/// Rounds of random faults, without an end of their own: `scripts/soak` says how long, in
/// `SOAK_MINUTES`, and from which seed, in `SEED`.
#[tokio::test]
#[ignore = "for scripts/soak"]
async fn soak() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let end = Instant::now() + 60 * Duration::from_secs(number("SOAK_MINUTES").unwrap_or(10));
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut seeds = fastrand::Rng::with_seed(seed);
    let (mut rounds, mut seed) = (0, seed);
    while rounds == 0 || Instant::now() < end {
        rounds += 1;
        let mut rng = fastrand::Rng::with_seed(seed);
        let cap = [1, 7, 100][rng.usize(..3)];
        let faults: Vec<Fault> = (0..20).map(|_| ALL[rng.usize(..ALL.len())]).collect();
        eprintln!("round {rounds}, SEED={seed}, cap {cap}: {faults:?}");
        eprintln!("  {}", round(cap, &faults, seed).await);
        seed = seeds.u64(..);
    }
}

/// A whole life of a fleet with these faults; what is to be told of it.
async fn round(cap: usize, faults: &[Fault], seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut fleet = Fleet::start(4, cap).await;
    let [load, idle] = fleet.load(&mut rng);
    let what = "the cap is used";
    wait_until(what, async || fleet.busy.current().min(fleet.idle.current()) == cap).await;
    let calm = fleet.utilisation(Duration::from_millis(1_500)).await;

    let mut excused = 0;
    for fault in faults {
        fleet.note(format!("{fault:?}"));
        excused = excused.max(strike(&mut fleet, *fault, &mut rng).await);
        fleet.note(format!("end of {fault:?}"));
        fleet.wait_until_well().await;
        fleet.judge();
    }

    let what = "idle tunnels are back after the last fault";
    wait_until(what, async || fleet.idle.current() == cap).await;
    let after = fleet.utilisation(Duration::from_secs(2)).await;
    let told = load.tally.text();
    let odd = load.tally.odd.lock().unwrap().clone();
    drop((load, idle));
    let what = "nothing is left in Redis";
    let is_empty = async || fleet.redis.host_keys().await.is_empty();
    let emptied = wait_at_most(Duration::from_secs(3), what, is_empty).await;
    let returned = kill_one_that_holds_all(&mut fleet).await;
    fleet.judge();

    let mut text =
        format!("cap {cap}: peak {} and idle {}, ", fleet.busy.peak(), fleet.idle.peak());
    write!(text, "at most {excused} excused; {:.1} % used before ", calm * 100.0).unwrap();
    write!(text, "and {:.1} % after; {told}; ", after * 100.0).unwrap();
    write!(text, "empty after {emptied:?}, a killed one's slots back after {returned:?}").unwrap();
    assert!(odd.is_empty(), "{text}\n{odd:#?}");
    assert!(calm.min(after) >= UTILISATION, "{text}");
    text
}

/// Does it, and waits until it is over; how many connections were excused.
async fn strike(fleet: &mut Fleet, fault: Fault, rng: &mut fastrand::Rng) -> usize {
    let which = rng.usize(..fleet.members.len());
    let ms = Duration::from_millis;
    let brief = LEASE.mul_f64(0.2 + 0.2 * rng.f64());
    let long = LEASE.mul_f64(1.6 + 0.4 * rng.f64());
    let on_path = async |fleet: &mut Fleet, path, length| {
        let set = |path| move |member: &fleet::Member| member.relay.set(path);
        fleet.silence(which, length, set(path), set(Path::Open)).await
    };
    let excused = match fault {
        Fault::ClientKill => {
            fleet.redis.ask::<()>("CLIENT KILL TYPE normal").await;
            fleet.redis.ask::<()>("CLIENT KILL TYPE pubsub").await;
            None
        }
        Fault::CutOff => on_path(fleet, Path::Silent, long).await,
        Fault::FlushAll => {
            fleet.redis.ask::<()>("FLUSHALL").await;
            None
        }
        Fault::Hintless => on_path(fleet, Path::Hintless, brief).await,
        Fault::Kill => {
            fleet.members[which].proxy.kill();
            fleet.members[which].proxy.ended().await;
            fleet.replace(which).await;
            None
        }
        Fault::Late => {
            let hold = |member: &fleet::Member| member.relay.hold_old();
            let release = |member: &fleet::Member| member.relay.set(Path::Open);
            fleet.silence(which, TIMEOUT + brief, hold, release).await
        }
        Fault::LostAnswers => on_path(fleet, Path::Mute, brief).await,
        Fault::RedisHangs => stand_still(fleet, 2 * TIMEOUT).await,
        Fault::RedisHangsLong => stand_still(fleet, long).await,
        Fault::RedisStalls => stand_still(fleet, TIMEOUT / 3).await,
        Fault::RedisRestarts => {
            fleet.redis.kill();
            fleet.redis.restart().await;
            None
        }
        Fault::Refused => on_path(fleet, Path::Closed, long).await,
        Fault::ScriptFlush => {
            fleet.redis.ask::<()>("SCRIPT FLUSH").await;
            None
        }
        Fault::Slow => on_path(fleet, Path::Slow(ms(rng.u64(10..60))), brief).await,
        Fault::Stop | Fault::StopLong => {
            let length = if fault == Fault::Stop { brief } else { long };
            let stop = |member: &fleet::Member| member.proxy.freeze();
            fleet.silence(which, length, stop, |member| member.proxy.thaw()).await
        }
    };
    if let Some(excused) = excused {
        fleet.note(format!("{excused} of {which} were excused"));
    }
    excused.unwrap_or(0)
}

/// Redis does nothing for so long.
async fn stand_still(fleet: &Fleet, length: Duration) -> Option<usize> {
    fleet.redis.freeze();
    tokio::time::sleep(length).await;
    fleet.redis.thaw();
    None
}

/// How long after the death of one that holds all slots others have them all.
async fn kill_one_that_holds_all(fleet: &mut Fleet) -> Duration {
    let to = fleet.busy.authority();
    let mut held = Vec::new();
    for _ in 0..fleet.cap {
        held.push(fleet.members[0].proxy.tunnel(&to).await);
    }
    let mut heirs = JoinSet::new();
    fleet.members[0].proxy.kill();
    let died = Instant::now();
    for number in 0..fleet.cap {
        let proxy = &fleet.members[1 + number % (fleet.members.len() - 1)].proxy;
        let (mut client, to) = (proxy.client().await, to.clone());
        heirs.spawn(async move {
            let answer = client.connect_with(&to, &["Prefer: wait=10"]).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
            client
        });
    }
    let heirs = tokio::time::timeout(PATIENCE, heirs.join_all()).await.unwrap();
    let took = died.elapsed();
    let promised = LEASE + HEARTBEAT + Duration::from_secs(1);
    assert!(took < promised, "{took:?}, promised are {promised:?}");
    drop((held, heirs));
    took
}
