//! Whole fleets under faults, simulated: hundreds of them, each drawn from a seed, and each the same
//! whenever it is run.
//!
//! `turmoil` gives hosts, a network and a clock. On one host is Redis ([`server`]: the model of the
//! scripts behind RESP3); on each other one is an instance ([`instance`]: the program's own limiter,
//! worker and connection, under load). [`plan`] says what happens to them, [`oracle`] judges.
//!
//! `SIM_SEED=7` runs that one and prints its trace, `SIM_SEEDS=100000` runs as many; see
//! `scripts/simulate`.
//!
//! Invariants: no thread, clock or random number from outside of the simulation takes part, so that
//! a seed tells it all.

mod instance;
mod oracle;
mod plan;
mod server;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;
use turmoil::Sim;

use self::instance::Handle;
use self::oracle::Calm;
use self::oracle::Oracle;
use self::plan::Fault;
use self::plan::Kept;
use self::plan::Kind;
use self::plan::Plan;
use self::server::Server;
use super::Mutant;

/// How many seeds are run where nobody says.
const SEEDS: u64 = 300;
/// Hosts run one after the other, each for so long, and messages come between these steps.
const TICK: Duration = Duration::from_millis(4);
/// How long Redis's last states are at hand.
const SNAPSHOTS: usize = 8;
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);

/// What one simulation came to.
struct Outcome {
    result: Result<Summary, String>,
    trace: Vec<String>,
}

/// What happened in one simulation.
#[derive(Clone, Copy, Debug)]
struct Summary {
    counts: oracle::Counts,
    messages: server::Counts,
}

impl Summary {
    /// A slot is asked for and given back, and neither is said twice where nothing fails; that
    /// leaves something for what does.
    fn judge(&self) -> Result<(), String> {
        let events = self.counts.asked + self.counts.opened;
        if self.messages.grants <= 2 * events + 200 {
            return Ok(());
        }
        Err(format!("{} messages for {events} events", self.messages.grants))
    }
}

struct Simulation<'a> {
    plan: Rc<Plan>,
    sim: Sim<'a>,
    oracle: Rc<Oracle>,
    server: Rc<RefCell<Server>>,
    redis: Handle,
    handles: Vec<Handle>,
    load: watch::Sender<bool>,
    snapshots: Vec<super::redis::Redis>,
    rng: fastrand::Rng,
}

fn simulate(plan: Plan, is_traced: bool) -> Outcome {
    // All hosts run on this thread.
    fastrand::seed(plan.seed);
    let mut simulation = Simulation::new(Rc::new(plan), is_traced);
    let result = simulation.run();
    let trace = simulation.oracle.take_trace();
    // The hosts' tasks end before what they speak of.
    drop(simulation);
    Outcome { result, trace }
}

fn host(number: usize) -> String {
    format!("w{number}")
}

impl Simulation<'_> {
    fn new(plan: Rc<Plan>, is_traced: bool) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(plan.seed)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_hours(1))
            .tick_duration(TICK)
            .tcp_capacity(1 << 16)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency)
            .enable_random_order();
        let mut sim = builder.build();
        let oracle = Oracle::new(Rc::clone(&plan), is_traced);
        let server = Server::new(Rc::clone(&oracle), plan.age, plan.lost_hints, plan.seed);
        let server = Rc::new(RefCell::new(server));
        server.borrow_mut().redis.mutant = plan.mutant;
        let redis = Handle::new();
        sim.host("redis", {
            let (server, handle) = (Rc::clone(&server), redis.clone());
            move || {
                let (server, handle) = (Rc::clone(&server), handle.clone());
                async move {
                    let tasks = LocalSet::new();
                    tasks.spawn_local(server::serve(server));
                    instance::freezable(handle, tasks).await;
                    Ok(())
                }
            }
        });
        let load = watch::Sender::new(true);
        let handles: Vec<Handle> = (0..plan.instances).map(|_| Handle::new()).collect();
        for (number, handle) in handles.iter().enumerate() {
            let (plan, oracle) = (Rc::clone(&plan), Rc::clone(&oracle));
            let (handle, load) = (handle.clone(), load.subscribe());
            sim.host(host(number), move || {
                let (plan, oracle) = (Rc::clone(&plan), Rc::clone(&oracle));
                let (handle, load) = (handle.clone(), load.clone());
                async move {
                    instance::live(plan, oracle, handle, load).await;
                    Ok(())
                }
            });
        }
        let rng = fastrand::Rng::with_seed(!plan.seed);
        Self { plan, sim, oracle, server, redis, handles, load, snapshots: Vec::new(), rng }
    }

    fn run(&mut self) -> Result<Summary, String> {
        let plan = Rc::clone(&self.plan);
        let mut begins: Vec<&Fault> = plan.faults.iter().collect();
        begins.sort_by_key(|fault| fault.at);
        let mut ends = begins.clone();
        ends.sort_by_key(|fault| fault.at + fault.lasts);
        let (mut begins, mut ends) = (begins.into_iter().peekable(), ends.into_iter().peekable());
        while self.sim.elapsed() < plan::FAULTS_END + TICK {
            let now = self.sim.elapsed();
            while let Some(fault) = ends.next_if(|fault| fault.at + fault.lasts <= now) {
                self.end(fault.kind);
            }
            while let Some(fault) = begins.next_if(|fault| fault.at <= now) {
                self.begin(fault);
            }
            self.step()?;
        }
        self.heal();
        self.step_until(plan::CALM)?;
        // The longest that a poll waits, and some round trips. Where hints are lost, a slot may go
        // to somebody who leaves before the poll, and be found by another's.
        let polls = if plan.lost_hints > 0 { 2 } else { 1 };
        let trips = 8 * (plan.latency + TICK);
        self.oracle.set_calm(Some(Calm {
            stuck: polls * Duration::from_millis(900) + trips,
            answer: Duration::from_millis(100) + trips,
        }));
        self.step_until(plan::REST)?;
        self.oracle.set_calm(None);
        self.load.send_replace(false);
        self.oracle.judge();
        let summary =
            Summary { counts: self.oracle.counts(), messages: self.server.borrow().counts };
        summary.judge()?;
        // The longest patience, and what gives unused slots back.
        self.step_for(Duration::from_secs(5))?;
        self.rests()?;
        for handle in &self.handles {
            handle.stop.send_replace(true);
        }
        self.step_for(Duration::from_secs(1))?;
        self.has_left()?;
        Ok(summary)
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        let now = self.sim.elapsed();
        self.oracle.look(now);
        if now.as_millis() % SNAPSHOT_EVERY.as_millis() < TICK.as_millis() {
            self.snapshots.push(self.server.borrow().redis.clone());
            if self.snapshots.len() > SNAPSHOTS {
                self.snapshots.remove(0);
            }
        }
        self.oracle.violation().map_or(Ok(()), Err)
    }

    fn step_until(&mut self, end: Duration) -> Result<(), String> {
        while self.sim.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    fn step_for(&mut self, length: Duration) -> Result<(), String> {
        self.step_until(self.sim.elapsed() + length)
    }

    fn begin(&mut self, fault: &Fault) {
        self.oracle.note(|| format!("BEGIN {fault:?}"));
        let now = self.sim.elapsed();
        match fault.kind {
            Kind::Crash(one) => self.crash(one),
            Kind::Cut(one) => self.sim.partition("redis", host(one)),
            Kind::FailOver => {
                let snapshot = self.snapshot();
                let mut server = self.server.borrow_mut();
                server.redis.fail_over(&snapshot);
                server.die();
            }
            Kind::Flush => self.server.borrow_mut().redis.flush(),
            Kind::FlushScripts => self.server.borrow_mut().flush_scripts(),
            Kind::Freeze(one) => {
                let handle = &self.handles[one];
                handle.frozen_until.set(now + fault.lasts);
                handle.freezes.set(handle.freezes.get() + 1);
            }
            Kind::HangUp => self.server.borrow_mut().hang_up(),
            Kind::Hold(one) | Kind::Lose(one) => self.sim.hold("redis", host(one)),
            Kind::Mute(one) => self.sim.partition_oneway(host(one), "redis"),
            Kind::Deafen(one) => self.sim.partition_oneway("redis", host(one)),
            Kind::RedisCrash(_) => {
                self.sim.crash("redis");
                self.redis.reset();
                self.server.borrow_mut().die();
            }
            Kind::RedisFreeze => self.redis.frozen_until.set(now + fault.lasts),
            Kind::Slow => self.sim.set_max_message_latency(Duration::from_millis(400)),
            Kind::Stop(one) => drop(self.handles[one].stop.send_replace(true)),
        }
    }

    fn end(&mut self, kind: Kind) {
        self.oracle.note(|| format!("END {kind:?}"));
        match kind {
            Kind::Crash(one) | Kind::Stop(one) => self.replace(one),
            Kind::Cut(one) | Kind::Lose(one) | Kind::Mute(one) | Kind::Deafen(one) => {
                self.sim.repair("redis", host(one));
            }
            Kind::Hold(one) => self.sim.release("redis", host(one)),
            Kind::RedisCrash(kept) => self.restart_redis(kept),
            Kind::Slow => self.sim.set_max_message_latency(self.plan.latency),
            Kind::FailOver
            | Kind::Flush
            | Kind::FlushScripts
            | Kind::Freeze(_)
            | Kind::HangUp
            | Kind::RedisFreeze => {}
        }
    }

    /// Nothing fails any more.
    fn heal(&mut self) {
        self.oracle.note(|| "HEAL".to_owned());
        for number in 0..self.plan.instances {
            self.sim.release("redis", host(number));
            self.sim.repair("redis", host(number));
        }
        self.sim.set_max_message_latency(self.plan.latency);
    }

    fn crash(&mut self, one: usize) {
        if self.sim.is_host_running(host(one)) {
            self.sim.crash(host(one));
            self.oracle.died(self.handles[one].id.get());
        }
    }

    /// Another instance starts on this host.
    fn replace(&mut self, one: usize) {
        if self.sim.is_host_running(host(one)) {
            if !*self.handles[one].stop.borrow() {
                return; // it has been replaced already
            }
            self.crash(one);
        }
        self.handles[one].reset();
        self.sim.bounce(host(one));
    }

    fn snapshot(&mut self) -> super::redis::Redis {
        let now = self.server.borrow().redis.clone();
        self.rng.choice(&self.snapshots).cloned().unwrap_or(now)
    }

    fn restart_redis(&mut self, kept: Kept) {
        if self.sim.is_host_running("redis") {
            return; // it crashed twice
        }
        let snapshot = match kept {
            Kept::All => Some(self.server.borrow().redis.clone()),
            Kept::None => None,
            Kept::Some => Some(self.snapshot()),
        };
        self.server.borrow_mut().restart(self.sim.elapsed(), snapshot.as_ref());
        self.sim.bounce("redis");
    }

    /// Whether nobody asks or waits, and Redis knows that nobody holds anything.
    fn rests(&self) -> Result<(), String> {
        let server = self.server.borrow();
        for (number, host) in &server.redis.hosts {
            for (id, row) in &host.rows {
                if server.redis.workers.contains_key(id) && (row.held, row.queued) != (0, 0) {
                    return Err(format!("at rest {id} has {row:?} of host {number}"));
                }
            }
        }
        for handle in &self.handles {
            self.oracle.rests(handle.id.get())?;
        }
        Ok(())
    }

    fn has_left(&mut self) -> Result<(), String> {
        for number in 0..self.plan.instances {
            if self.sim.is_host_running(host(number)) {
                return Err(format!("{} did not leave", self.handles[number].id.get()));
            }
        }
        let redis = &self.server.borrow().redis;
        if redis.leases.is_empty() && redis.workers.is_empty() {
            return Ok(());
        }
        Err(format!("{:?} are left behind, leased {:?}", redis.workers, redis.leases))
    }
}

/// What hundreds of simulations came to, for people.
fn tell(all: &[Summary]) {
    let sum = |number: fn(&Summary) -> u64| all.iter().map(number).sum::<u64>();
    let (asked, opened) = (sum(|one| one.counts.asked), sum(|one| one.counts.opened));
    let (grants, hellos) = (sum(|one| one.messages.grants), sum(|one| one.messages.hellos));
    let debts = all.iter().filter(|one| one.counts.most_debt > 0).count();
    println!(
        "{} fleets, {debts} of them with debts: {asked} asked, {opened} were served",
        all.len()
    );
    println!("{grants} messages and {hellos} hellos");
}

/// Runs these simulations on all processors; the first seed that breaks a promise, and how.
fn search(plans: impl Fn(u64) -> Plan + Sync, seeds: u64) -> Result<Vec<Summary>, String> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found: Vec<(u64, Result<Summary, String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= seeds {
                    return found;
                }
                let plan = plans(seed);
                let run = catch_unwind(AssertUnwindSafe(|| simulate(plan, false).result));
                let result = run.unwrap_or_else(|_| Err("it panicked".to_owned()));
                if result.is_err() {
                    next.store(seeds, Relaxed);
                }
                found.push((seed, result));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it catches")).collect()
    });
    found.sort_by_key(|(seed, _)| *seed);
    let tell = |(seed, result): (u64, Result<Summary, String>)| {
        result.map_err(|why| format!("SIM_SEED={seed}: {why}"))
    };
    found.into_iter().map(tell).collect()
}

#[expect(clippy::disallowed_methods, reason = "settings of a test, not of the program")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|why| panic!("{name}={text}: {why}")))
}

#[test]
fn fleets_keep_the_limit_and_serve_everybody_whatever_fails() {
    if let Some(seed) = setting("SIM_SEED") {
        let plan = Plan::new(seed);
        println!("{plan:#?}");
        let Outcome { result, trace } = simulate(plan, true);
        println!("{}", trace.join("\n"));
        println!("{result:?}");
        return assert!(result.is_ok(), "{result:?}");
    }
    match search(Plan::new, setting("SIM_SEEDS").unwrap_or(SEEDS)) {
        Ok(summaries) => tell(&summaries),
        Err(why) => panic!("{why}"),
    }
}

/// A Redis of which a rule is left out.
fn broken(seed: u64, mutant: Mutant) -> Plan {
    Plan { mutant: Some(mutant), ..Plan::new(seed) }
}

fn expect_found(plans: impl Fn(u64) -> Plan + Sync) {
    let found = search(plans, 10 * SEEDS);
    println!("{:?}", found.as_ref().err());
    assert!(found.is_err(), "nobody noticed");
}

#[test]
fn a_fleet_that_does_not_look_at_its_lease_is_found_out() {
    expect_found(|seed| Plan { is_reckless: true, ..Plan::new(seed) });
}

#[test]
fn a_redis_without_a_fence_is_found_out() {
    expect_found(|seed| broken(seed, Mutant::NoFence));
}

#[test]
fn a_redis_that_does_not_learn_is_found_out() {
    expect_found(|seed| broken(seed, Mutant::NoLearning));
}

#[test]
fn a_redis_that_believes_everybody_is_found_out() {
    expect_found(|seed| broken(seed, Mutant::ForcedReentry));
}

#[test]
fn lost_hints_cost_time_and_nothing_else() {
    let plans = |seed| {
        let plan = Plan::new(seed);
        // So few of them that nothing is said but what the poll says.
        let caps = vec![1; plan.keys.len()];
        Plan { lost_hints: 1000, caps, change: None, clients: 1, slack: 0, ..plan }
    };
    search(plans, SEEDS / 10).unwrap();
}

#[test]
fn a_seed_tells_it_all() {
    for seed in [3, 5] {
        let [one, two] = [1, 2].map(|_| simulate(Plan::new(seed), true).trace);
        let first = one.iter().zip(&two).position(|(one, two)| one != two);
        if let Some(at) = first {
            panic!("{}\n{}", one[at], two[at]);
        }
        assert_eq!(one.len(), two.len());
    }
}
