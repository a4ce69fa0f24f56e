//! What each message costs Redis: microseconds on the script (`INFO commandstats`), and of the
//! process (`INFO cpu`), which has reading and writing in it.
//!
//! The messages are those of [`crate::store::scripts`], with numbers as the limiter sends them, but
//! without a limiter: one connection, many in each write.

use std::time::Duration;

use redis::Cmd;
use redis::Pipeline;
use redis::Value;

use super::Failure;
use super::Rounds;
use super::place::LIFE;
use super::place::Meter;
use super::place::Place;
use super::place::pipelines;
use super::report::Row;
use crate::base::authority::HostKey;
use crate::store::keys::Keys;
use crate::store::scripts;
use crate::store::scripts::Claim;
use crate::store::scripts::Grant;
use crate::store::scripts::Heartbeat;
use crate::store::scripts::Manner;
use crate::store::scripts::Trouble;

const PAIR: &str = "Redis CPU of an acquire and its release";
const MELTED: &str = "Redis CPU of messages that melt or share a write, for each pair";
const OTHERS: &str = "Redis CPU of other messages";
const BARE: &str = "bare INCR and DECR";
/// Instances in the fleet.
const INSTANCES: usize = 1000;
/// On each of many hosts.
const ON_EACH: usize = 20;
const EPOCH: u64 = 1;
/// More than anybody wants.
const PLENTY: u32 = 1_000_000;
const LEASE: Duration = Duration::from_mins(1);
/// Runs beside the same unrelated keys.
const REPEATS: u32 = 6;
/// Commands in one write, where nothing else is said.
const AT_ONCE: usize = 200;

/// The keys and the fleet that messages are about.
pub(super) struct Ground<'a> {
    place: &'a Place,
    pub(super) keys: Keys,
    number: u64,
}

impl<'a> Ground<'a> {
    /// A fleet of so many instances, none of which holds a lease: nobody looks.
    pub(super) async fn new(
        place: &'a Place,
        meter: &mut Meter,
        name: &str,
        instances: usize,
    ) -> Result<Self, Failure> {
        let keys = place.keys(name);
        let mut fleet = redis::cmd("HSET");
        fleet.arg(keys.workers(0)).arg(&["#s", "G1", "#first", "1"]);
        for instance in 0..instances {
            fleet.arg(id(instance)).arg(EPOCH);
        }
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(keys.workers(0)).arg(LIFE.as_secs());
        meter.all(vec![fleet, expire]).await?;
        Ok(Self { place, keys, number: 0 })
    }

    /// So many hosts, whose keys end with the run.
    pub(super) fn hosts(&self, hosts: usize) -> Vec<HostKey> {
        let hosts: Vec<HostKey> = (0..hosts).map(super::host).collect();
        let keys = hosts.iter().flat_map(|host| [self.keys.host(host), self.keys.queue(host)]);
        self.place.will_write(0, keys);
        hosts
    }

    pub(super) fn message(&mut self, host: &HostKey, instance: usize, claim: Claim) -> Cmd {
        self.number += 1;
        let grant = Grant { host, number: self.number, claim, manner: Manner::Ask };
        grant.command(&self.keys, &id(instance), EPOCH)
    }

    /// One more slot of those who have `held`, and back.
    pub(super) fn pair(&mut self, host: &HostKey, instance: usize, held: u32) -> [Cmd; 2] {
        [(held, 1), (held + 1, 0)].map(|(heard, ask)| {
            self.message(host, instance, Claim { hold: held, heard, ask, ..plenty() })
        })
    }
}

/// A claim of nothing, where there is room for everything.
pub(super) fn plenty() -> Claim {
    Claim { limit: PLENTY, term: 1, ..Claim::default() }
}

/// As long as those of the limiter.
pub(super) fn id(instance: usize) -> String {
    format!("{instance:012x}")
}

/// Messages whose cost is wanted, and the best figures so far.
struct Work {
    part: &'static str,
    name: String,
    writes: Vec<Pipeline>,
    /// What the cost is divided by.
    units: u32,
    best: Cost,
}

/// Microseconds for one unit.
#[derive(Clone, Copy, Debug)]
struct Cost {
    scripts: f64,
    process: f64,
}

impl Work {
    fn new(
        part: &'static str,
        name: impl Into<String>,
        units: usize,
        commands: Vec<Cmd>,
        at_once: usize,
    ) -> Self {
        Self {
            part,
            name: name.into(),
            writes: pipelines(commands, at_once),
            units: u32::try_from(units).unwrap_or(u32::MAX),
            best: Cost { scripts: f64::INFINITY, process: f64::INFINITY },
        }
    }

    /// Does it once more.
    async fn run(&mut self, meter: &mut Meter) -> Result<(), Failure> {
        let before = meter.spent().await?;
        for write in &self.writes {
            for value in meter.write(write).await? {
                check(&value)?;
            }
        }
        let after = meter.spent().await?;
        let units = f64::from(self.units);
        let scripts = after.scripts - before.scripts + after.bare - before.bare;
        self.best.scripts = self.best.scripts.min(scripts / units);
        self.best.process = self.best.process.min((after.process - before.process) / units);
        Ok(())
    }

    fn row(&self) -> Row {
        Row::new(self.part, &self.name, self.best.scripts, "us")
    }

    fn process_row(&self) -> Row {
        Row::new(self.part, format!("{}: process", self.name), self.best.process, "us")
    }
}

/// Who is fenced costs little: such figures would be of nothing.
fn check(value: &Value) -> Result<(), Failure> {
    match Grant::answer(value) {
        Err(Trouble::Fenced) => Err(Failure::Answer("fenced".to_owned())),
        // A heartbeat answers otherwise.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// All rows of this part.
pub(super) async fn measure(place: &Place, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let mut meter = place.meter().await?;
    meter.all(scripts::loads().collect()).await?;
    let mut rows = pairs(place, &mut meter, is_quick).await?;
    rows.extend(beside_others(place, &mut meter, is_quick).await?);
    rows.extend(melted(place, &mut meter, is_quick).await?);
    rows.extend(others(place, &mut meter, is_quick).await?);
    Ok(rows)
}

async fn in_turns(millis: u64, works: &mut [&mut Work], meter: &mut Meter) -> Result<(), Failure> {
    let mut rounds = Rounds::new(Duration::from_millis(millis));
    while rounds.next() {
        for work in &mut *works {
            work.run(meter).await?;
        }
    }
    Ok(())
}

/// By how many instances are on the host, and by how many hosts there are.
async fn pairs(place: &Place, meter: &mut Meter, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let (millis, pairs) = if is_quick { (800, 300) } else { (7000, 2000) };
    let many = if is_quick { [1, 1000, 2000] } else { [1, 1000, 10_000] };

    let bare = bare_pair(place, meter).await?;
    let commands = (0..pairs).flat_map(|_| bare.clone()).collect();
    let mut bare = Work::new(PAIR, BARE, pairs, commands, AT_ONCE);

    let mut on_host = Vec::new();
    for instances in [1, 10, 100, 1000] {
        let name = format!("cost{instances}");
        let mut ground = Ground::new(place, meter, &name, INSTANCES).await?;
        let host = &ground.hosts(1)[0];
        let one = Claim { ask: 1, ..plenty() };
        let fill = (0..instances).map(|own| ground.message(host, own, one)).collect();
        meter.all(fill).await?;
        let pair = |number| ground.pair(host, number % instances, 1);
        let commands = (0..pairs).flat_map(pair).collect();
        let name = format!("{instances} {} on the host", plural(instances, "instance"));
        on_host.push(Work::new(PAIR, name, pairs, commands, AT_ONCE));
    }
    let mut ground = Ground::new(place, meter, "cost", INSTANCES).await?;
    let host = &ground.hosts(1)[0];
    let pair = |number| ground.pair(host, number % INSTANCES, 0);
    let commands = (0..pairs).flat_map(pair).collect();
    let name = "1000 instances that come and go";
    let mut come_and_go = Work::new(PAIR, name, pairs, commands, AT_ONCE);

    let mut of_hosts = Vec::new();
    for hosts in many {
        let mut ground = Ground::new(place, meter, &format!("hosts{hosts}"), INSTANCES).await?;
        let named = ground.hosts(hosts);
        let instances = |number: usize| (0..ON_EACH).map(move |own| (number * 7 + own) % INSTANCES);
        let fill = named.iter().enumerate().map(|(number, host)| {
            let mut fields = redis::cmd("HSET");
            fields.arg(ground.keys.host(host));
            fields.arg("#t").arg(ON_EACH).arg("#c").arg(format!("1:{PLENTY}")).arg("#g").arg("G1");
            for own in instances(number) {
                fields.arg(id(own)).arg(1);
            }
            fields
        });
        let lives = named.iter().map(|host| {
            let mut expire = redis::cmd("EXPIRE");
            expire.arg(ground.keys.host(host)).arg(LIFE.as_secs());
            expire
        });
        meter.all(fill.chain(lives).collect()).await?;
        let pair = |number: usize| {
            // Far from one to the next, as fleets are.
            let at = number * 7919 % hosts;
            let own = (at * 7 + number % ON_EACH) % INSTANCES;
            ground.pair(&named[at], own, 1)
        };
        let commands = (0..pairs).flat_map(pair).collect();
        let name = format!("{hosts} {} with {ON_EACH} instances each", plural(hosts, "host"));
        of_hosts.push(Work::new(PAIR, name, pairs, commands, AT_ONCE));
    }

    let mut works: Vec<&mut Work> = vec![&mut bare];
    works.extend(on_host.iter_mut().chain([&mut come_and_go]).chain(&mut of_hosts));
    in_turns(millis, &mut works, meter).await?;

    let (first, first_host) = (&on_host[0], &of_hosts[0]);
    let against = |work: &Work, other: &Work| work.row().beside(&other.name, other.best.scripts);
    let process =
        |work: &Work| work.process_row().beside(format!("{BARE}: process"), bare.best.process);
    let mut rows = vec![bare.row(), bare.process_row(), against(first, &bare), process(first)];
    rows.extend(on_host[1..].iter().zip([1.5, 2.0, 1.5]).map(|(work, most)| {
        // A hash of up to 128 fields is a list that is searched from its beginning.
        against(work, first).within(most)
    }));
    rows.extend([against(&come_and_go, first), against(first_host, &bare)]);
    rows.extend(of_hosts[1..].iter().map(|work| against(work, first_host).within(1.5)));
    if let Some(last) = of_hosts.last() {
        rows.push(last.row().beside(BARE, bare.best.scripts).at_most(12.0));
        rows.push(process(last).at_most(14.0));
    }
    Ok(rows)
}

/// INCR and DECR of one key of this run.
pub(super) async fn bare_pair(place: &Place, meter: &mut Meter) -> Result<[Cmd; 2], Failure> {
    // The hash tag puts it where all else is.
    let key = format!("{}:{{0}}:bare", place.settings().prefix);
    place.will_write(0, [key.clone()]);
    let life = LIFE.as_secs().to_string();
    meter.ask::<()>(&["SET", &key, "0", "EX", &life]).await?;
    Ok(["INCR", "DECR"].map(|name| {
        let mut command = redis::cmd(name);
        command.arg(&key);
        command
    }))
}

fn plural(number: usize, word: &str) -> String {
    if number == 1 { word.to_owned() } else { format!("{word}s") }
}

/// By how many keys there are that are none of the limiter's.
async fn beside_others(
    place: &Place,
    meter: &mut Meter,
    is_quick: bool,
) -> Result<Vec<Row>, Failure> {
    let (millis, pairs) = if is_quick { (300, 300) } else { (4000, 1000) };
    // At a Redis that others use, a million would be too much to ask.
    let steps: &[usize] = match (is_quick, place.is_private()) {
        (true, _) => &[0, 50_000],
        (false, false) => &[0, 100_000],
        (false, true) => &[0, 100_000, 1_000_000],
    };
    let mut ground = Ground::new(place, meter, "beside", 10).await?;
    let host = &ground.hosts(1)[0];
    let one = Claim { ask: 1, ..plenty() };
    let fill = (0..10).map(|own| ground.message(host, own, one)).collect();
    meter.all(fill).await?;
    let mut works: Vec<Work> = steps
        .iter()
        .map(|others| {
            let commands = (0..pairs).flat_map(|number| ground.pair(host, number % 10, 1));
            let name = format!("10 instances beside {others} unrelated keys");
            Work::new(PAIR, name, pairs, commands.collect(), AT_ONCE)
        })
        .collect();
    let strangers = Strangers::new(place);
    let mut rounds = Rounds::new(Duration::from_millis(millis));
    while rounds.next() {
        let mut have = 0;
        for (work, others) in works.iter_mut().zip(steps) {
            strangers.write(meter, have, *others).await?;
            have = *others;
            meter.settle(place.is_private()).await?;
            // Again and again while they are there: to write them takes longer.
            for _ in 0..REPEATS {
                work.run(meter).await?;
            }
        }
        strangers.remove(meter, have).await?;
    }
    let none = &works[0];
    let beside = |work: &Work| work.row().beside(&none.name, none.best.scripts).within(1.1);
    Ok([none.row()].into_iter().chain(works[1..].iter().map(beside)).collect())
}

/// Keys that have nothing to do with the limiter.
struct Strangers {
    stem: String,
}

impl Strangers {
    /// Keys in one call: others are not to wait for long.
    const CHUNK: usize = 10_000;

    fn new(place: &Place) -> Self {
        Self { stem: format!("{}:{{0}}:stranger:", place.settings().prefix) }
    }

    async fn write(&self, meter: &mut Meter, from: usize, to: usize) -> Result<(), Failure> {
        let code = "for i = ARGV[2], ARGV[3] - 1 do redis.call('SET', ARGV[1] .. i, '1', 'EX', ARGV[4]) end";
        self.each(meter, code, from, to).await
    }

    async fn remove(&self, meter: &mut Meter, to: usize) -> Result<(), Failure> {
        let code = "for i = ARGV[2], ARGV[3] - 1 do redis.call('DEL', ARGV[1] .. i) end";
        self.each(meter, code, 0, to).await
    }

    async fn each(
        &self,
        meter: &mut Meter,
        code: &str,
        from: usize,
        to: usize,
    ) -> Result<(), Failure> {
        for first in (from..to).step_by(Self::CHUNK) {
            let mut command = redis::cmd("EVAL");
            let last = (first + Self::CHUNK).min(to);
            // The first key says where on a cluster they all are.
            command.arg(code).arg(1).arg(format!("{}0", self.stem)).arg(&self.stem);
            command.arg(first).arg(last).arg(LIFE.as_secs());
            meter.all(vec![command]).await?;
        }
        Ok(())
    }
}

/// Several acquires in one message, and several messages in one write.
async fn melted(place: &Place, meter: &mut Meter, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let (millis, pairs) = if is_quick { (400, 320) } else { (4000, 1600) };
    let mut ground = Ground::new(place, meter, "melted", 10).await?;
    let hosts = ground.hosts(16);
    let one = Claim { ask: 1, ..plenty() };
    let fill = hosts.iter().map(|host| ground.message(host, 0, one)).collect();
    meter.all(fill).await?;

    let mut melted: Vec<Work> = [1, 10, 100]
        .into_iter()
        .map(|acquires| {
            let times = pairs / usize::try_from(acquires).unwrap_or(1);
            let commands = (0..times).flat_map(|_| {
                [(1, acquires), (1 + acquires, 0)].map(|(heard, ask)| {
                    let claim = Claim { hold: 1, heard, ask, ..plenty() };
                    ground.message(&hosts[0], 0, claim)
                })
            });
            let name = match acquires {
                1 => "1 acquire of a host in a message".to_owned(),
                _ => format!("{acquires} acquires of a host in a message"),
            };
            let times = times * usize::try_from(acquires).unwrap_or(1);
            Work::new(MELTED, name, times, commands.collect(), AT_ONCE)
        })
        .collect();
    let mut shared: Vec<Work> = [1, 16]
        .into_iter()
        .map(|at_once| {
            let mut rounds = Vec::new();
            for _ in 0..pairs / 16 {
                let all = hosts.iter().map(|host| ground.pair(host, 0, 1));
                let (acquires, releases): (Vec<Cmd>, Vec<Cmd>) =
                    all.map(|[acquire, release]| (acquire, release)).unzip();
                rounds.extend(acquires.into_iter().chain(releases));
            }
            let name = match at_once {
                1 => "a write for each message".to_owned(),
                _ => format!("{at_once} hosts in a write"),
            };
            Work::new(MELTED, name, pairs / 16 * 16, rounds, at_once)
        })
        .collect();
    let mut works: Vec<&mut Work> = melted.iter_mut().chain(&mut shared).collect();
    in_turns(millis, &mut works, meter).await?;

    let against = |work: &Work, other: &Work| work.row().beside(&other.name, other.best.scripts);
    let (alone, split) = (&melted[0], &shared[0]);
    let both = shared[1].process_row();
    Ok(vec![
        alone.row(),
        against(&melted[1], alone).at_most(1.2),
        against(&melted[2], alone),
        split.row(),
        split.process_row(),
        against(&shared[1], split).at_most(7.0),
        both.beside(format!("{}: process", split.name), split.best.process),
    ])
}

/// What is not a plain acquire or release.
async fn others(place: &Place, meter: &mut Meter, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let (millis, times) = if is_quick { (600, 200) } else { (5000, 1000) };
    let mut beats = Vec::new();
    for instances in [10, 1000] {
        beats.push(heartbeats(place, meter, instances, times).await?);
    }
    let mut refused = refusals(place, meter, times).await?;
    let mut sweep = sweeps(place, meter, if is_quick { 5 } else { 50 }).await?;
    let mut hand_over = Vec::new();
    for instances in [10, 100, 1000] {
        hand_over.push(hand_overs(place, meter, instances, times).await?);
    }
    let mut ahead = asks_ahead(place, meter, times).await?;

    let mut works: Vec<&mut Work> = beats.iter_mut().collect();
    works.extend([&mut refused, &mut sweep, &mut ahead]);
    works.extend(&mut hand_over);
    in_turns(millis, &mut works, meter).await?;

    let against = |work: &Work, other: &Work| work.row().beside(&other.name, other.best.scripts);
    let mut rows = vec![beats[0].row(), against(&beats[1], &beats[0]).at_most(6.0)];
    rows.extend([refused.row().at_most(8.0), sweep.row().at_most(500.0), ahead.row()]);
    rows.push(hand_over[0].row());
    rows.extend(hand_over[1..].iter().map(|work| against(work, &hand_over[0])));
    Ok(rows)
}

async fn heartbeats(
    place: &Place,
    meter: &mut Meter,
    instances: usize,
    times: usize,
) -> Result<Work, Failure> {
    let ground = Ground::new(place, meter, &format!("beats{instances}"), instances).await?;
    let beat = |number: usize| {
        let heartbeat = Heartbeat { lease: LEASE };
        heartbeat.command(&ground.keys, 0, &id(number % instances), EPOCH)
    };
    meter.all((0..instances).map(beat).collect()).await?;
    let name = format!("a heartbeat, {instances} instances");
    Ok(Work::new(OTHERS, name, times, (0..times).map(beat).collect(), AT_ONCE))
}

async fn refusals(place: &Place, meter: &mut Meter, times: usize) -> Result<Work, Failure> {
    let mut ground = Ground::new(place, meter, "refused", 10).await?;
    let host = &ground.hosts(1)[0];
    let ask = Claim { ask: 1, limit: 1, ..plenty() };
    let taken = ground.message(host, 0, ask);
    meter.all(vec![taken]).await?;
    let commands = (0..times).map(|number| ground.message(host, 1 + number % 9, ask)).collect();
    Ok(Work::new(OTHERS, "a refused message", times, commands, AT_ONCE))
}

/// A refusal after a death, of which each host learns once.
async fn sweeps(place: &Place, meter: &mut Meter, times: usize) -> Result<Work, Failure> {
    let mut ground = Ground::new(place, meter, "sweep", INSTANCES).await?;
    let host = &ground.hosts(1)[0];
    let limit = u32::try_from(INSTANCES).unwrap_or(u32::MAX) - 1;
    let ask = Claim { ask: 1, limit, ..plenty() };
    let fill = (1..INSTANCES).map(|own| ground.message(host, own, ask)).collect();
    meter.all(fill).await?;
    let commands = (0..times).flat_map(|_| {
        // In each repeat of the same messages, another generation than in the one before.
        let mut death = redis::cmd("EVAL");
        let code = "local s = redis.call('HGET', KEYS[1], '#s') \
             return redis.call('HSET', KEYS[1], '#s', 'G' .. string.sub(s, 2) + 1)";
        death.arg(code).arg(1).arg(ground.keys.workers(0));
        [death, ground.message(host, 0, ask)]
    });
    let commands = commands.collect();
    Ok(Work::new(OTHERS, "a refused message that sweeps 1000 instances", times, commands, 2))
}

/// All want the one slot: who has it gives it up, and waits for the next.
async fn hand_overs(
    place: &Place,
    meter: &mut Meter,
    instances: usize,
    times: usize,
) -> Result<Work, Failure> {
    let mut ground = Ground::new(place, meter, &format!("hand{instances}"), instances).await?;
    let host = &ground.hosts(1)[0];
    let wait = Claim { wait: 1, limit: 1, ..plenty() };
    let queue_up = (0..instances).map(|own| ground.message(host, own, wait)).collect();
    meter.all(queue_up).await?;
    // Whole rounds, so that a repeat begins where the one before ended; two at least, since a
    // message just like the last one of the same instance would count as the same.
    let times = times.div_ceil(instances).max(2) * instances;
    let handing = Claim { heard: 1, ..wait };
    let commands = (0..times).map(|number| ground.message(host, number % instances, handing));
    let commands = commands.collect();
    let name = format!("a release handed to a waiter, {instances} instances wait in turn");
    Ok(Work::new(OTHERS, name, times, commands, AT_ONCE))
}

/// With slots ahead of need: one message for what are eight acquires and more.
async fn asks_ahead(place: &Place, meter: &mut Meter, times: usize) -> Result<Work, Failure> {
    let mut ground = Ground::new(place, meter, "ahead", 10).await?;
    let host = &ground.hosts(1)[0];
    let commands = (0..times).flat_map(|number| {
        let ask = Claim { ask: 1, slack: 8, ..plenty() };
        let back = Claim { heard: 9, ..plenty() };
        [ask, back].map(|claim| ground.message(host, number % 10, claim))
    });
    let name = "an acquire that gets eight more ahead of need, and all back";
    Ok(Work::new(OTHERS, name, times, commands.collect(), AT_ONCE))
}
