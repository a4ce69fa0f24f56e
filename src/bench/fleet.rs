//! Whole limiters that share one Redis, all in this process: what an admission costs in messages,
//! how long it waits, and how soon a slot that one gives back is used by another.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::FutureExt;
use redis::RedisError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Failure;
use super::place::Meter;
use super::place::Place;
use super::report::Row;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::limit;
use crate::limit::Limiter;
use crate::limit::Patience;
use crate::limit::Permit;
use crate::limit::shared;
use crate::limit::shared::Link;
use crate::store::keys::Keys;

const LOAD: &str = "four limiters, limit 100, connections of 50 ms";
const WAKE: &str = "a slot that one limiter gives back and another waits for";
const MEMBERS: u32 = 4;
const LIMIT: u32 = 100;
/// The mean of an exponential distribution.
const HOLD: Duration = Duration::from_millis(50);
/// How many times the limit are there to be served at once when there are too many.
const CROWD: u32 = 10;
/// How long one waits at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Redis messages that a counter without limiter would need.
const BARE: f64 = 2.0;
const LEASE: Duration = Duration::from_secs(2);

/// How many connections there are to be.
#[derive(Clone, Copy, Debug)]
enum Demand {
    /// As many as would use this part of the limit, coming at random.
    Share(f64),
    /// Ten times the limit, all at once, and each again when it has been served.
    Crowd,
}

impl Demand {
    fn name(self) -> String {
        match self {
            Self::Share(share) => format!("{:.0} % load", share * 100.0),
            Self::Crowd => format!("{CROWD} times the limit"),
        }
    }
}

pub(super) async fn measure(place: &Place, is_quick: bool) -> Result<Vec<Row>, Failure> {
    let (lasting, wakes) = if is_quick { (400, 30) } else { (1500, 300) };
    let lasting = Duration::from_millis(lasting);
    let demands: &[Demand] = if is_quick {
        &[Demand::Share(0.6), Demand::Crowd]
    } else {
        &[Demand::Share(0.3), Demand::Share(0.6), Demand::Share(0.95), Demand::Crowd]
    };
    let mut rows = Vec::new();
    for slack in [8, 0] {
        let fleet = Fleet::start(place, &format!("slack{slack}"), LIMIT, slack, MEMBERS).await?;
        for demand in demands {
            let tally = fleet.serve(*demand, lasting).await?;
            rows.extend(load_rows(*demand, slack, lasting, tally));
        }
        fleet.stop().await;
    }
    rows.extend(wake_ups(place, wakes).await?);
    Ok(rows)
}

fn load_rows(demand: Demand, slack: u32, lasting: Duration, mut tally: Tally) -> Vec<Row> {
    let name = |what: &str| format!("{}, slack {slack}: {what}", demand.name());
    let row = |what: &str, figure, unit| Row::new(LOAD, name(what), figure, unit);
    let admitted = f64::from(u32::try_from(tally.waits.len()).unwrap_or(u32::MAX));
    let messages = f64::from(u32::try_from(tally.messages).unwrap_or(u32::MAX));
    let at_once = f64::from(tally.at_once) / admitted * 100.0;
    let (middle, late) = (quantile(&mut tally.waits, 0.5), quantile(&mut tally.waits, 0.99));

    let per_admission =
        row("messages to Redis", messages / admitted, "/admission").beside("INCR and DECR", BARE);
    let without = row("admitted without network", at_once, "%");
    let (per_admission, without) = match demand {
        // Half of them and more at once: the median waits for no network.
        Demand::Share(share) if slack > 0 && share < 0.7 => {
            (per_admission.at_most(0.6), without.at_least(50.0))
        }
        Demand::Share(_) | Demand::Crowd => (per_admission, without),
    };
    let mut rows = vec![
        row("admissions", admitted / lasting.as_secs_f64(), "/s"),
        per_admission,
        without,
        row("wait, p50", micros(middle), "us"),
        row("wait, p99", micros(late), "us"),
    ];
    if let Demand::Crowd = demand {
        let used = tally.held.as_secs_f64() / lasting.as_secs_f64() / f64::from(LIMIT);
        rows.push(row("the limit in use", used * 100.0, "%"));
        let fair = admitted / f64::from(MEMBERS);
        let least = tally.by_member.iter().min().copied().unwrap_or(0);
        let least = row("admissions of the limiter that had fewest", f64::from(least), "");
        rows.push(least.beside("a quarter of all", fair));
    }
    rows
}

/// What happened to those who came.
#[derive(Debug, Default)]
struct Tally {
    /// Of each admission.
    waits: Vec<Duration>,
    /// Admissions that had their slot without any wait.
    at_once: u32,
    /// How many each limiter admitted.
    by_member: [u32; MEMBERS as usize],
    /// All slots together were held for so long.
    held: Duration,
    /// To Redis.
    messages: u64,
}

/// What is counted, and when.
#[derive(Debug)]
struct Window {
    from: Instant,
    to: Instant,
    tally: Mutex<Tally>,
}

impl Window {
    fn admitted(&self, member: usize, asked: Instant, at_once: bool) {
        let now = clock::now();
        if (self.from..self.to).contains(&now) {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.waits.push(now - asked);
            tally.at_once += u32::from(at_once);
            tally.by_member[member] += 1;
        }
    }

    /// A slot was held from then until now.
    fn released(&self, since: Instant) {
        let held = clock::now().min(self.to).saturating_duration_since(since.max(self.from));
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).held += held;
    }
}

/// Limiters that share one host.
struct Fleet {
    members: Vec<Member>,
    host: HostKey,
}

impl Fleet {
    async fn start(
        place: &Place,
        name: &str,
        limit: u32,
        slack: u32,
        members: u32,
    ) -> Result<Self, Failure> {
        let mut store = place.settings().clone();
        store.prefix = format!("{}:{name}", store.prefix);
        let keys = Keys::new(&store.prefix, store.shards());
        // What asks about its queue speaks to the node of the first shard.
        let host = (0..1000).map(super::host).find(|host| keys.shard(host) == 0);
        let host = host.ok_or(Failure::Limiter("no host is in the first shard"))?;
        for shard in 0..store.shards() {
            place.will_write(shard, [keys.workers(shard), keys.leases(shard)].map(str::to_owned));
        }
        place.will_write(keys.shard(&host), [keys.host(&host), keys.queue(&host)]);
        let settings = shared::Settings {
            store,
            lease: LEASE,
            heartbeat: LEASE / 4,
            failure: shared::Failure::Closed,
            lease_loss: shared::LeaseLoss::Keep,
            slack,
        };
        let of = members;
        let members: Vec<Member> = (0..of).map(|_| Member::start(&settings, limit)).collect();
        let fleet = Self { members, host };
        // A Redis that is new learns for one lease.
        let deadline = clock::now() + LEASE + Duration::from_secs(5);
        while !fleet.members.iter().all(|member| member.sees(of)) {
            if clock::now() > deadline {
                let state = fleet.members.first().map_or("none", |member| member.link.state_name());
                return Err(Failure::Limiter(state));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(fleet)
    }

    async fn stop(self) {
        for member in self.members {
            member.stop().await;
        }
    }

    fn messages(&self) -> u64 {
        self.members
            .iter()
            .filter_map(|member| member.limiter.fleet_snapshot())
            .map(|snapshot| snapshot.messages)
            .sum()
    }

    /// Meets a demand until it is in its stride, and then for as long as it is watched.
    async fn serve(&self, demand: Demand, lasting: Duration) -> Result<Tally, Failure> {
        let stride = match demand {
            Demand::Share(_) => HOLD * 4,
            // Until the first who came has been served again.
            Demand::Crowd => HOLD * CROWD,
        };
        let from = clock::now() + stride;
        let window = Arc::new(Window { from, to: from + lasting, tally: Mutex::default() });
        let mut clients = JoinSet::new();
        for (number, member) in self.members.iter().enumerate() {
            let client = || Client {
                member: number,
                limiter: member.limiter.clone(),
                host: self.host.clone(),
                window: Arc::clone(&window),
            };
            match demand {
                Demand::Share(share) => {
                    let rate = f64::from(LIMIT) * share / HOLD.as_secs_f64();
                    let gap = f64::from(MEMBERS) / rate;
                    clients.spawn(client().come_at_random(gap));
                }
                Demand::Crowd => {
                    for _ in 0..LIMIT * CROWD / MEMBERS {
                        clients.spawn(client().come_again());
                    }
                }
            }
        }
        tokio::time::sleep_until(window.from).await;
        let before = self.messages();
        tokio::time::sleep_until(window.to).await;
        let after = self.messages();
        clients.join_all().await;
        let mut tally =
            std::mem::take(&mut *window.tally.lock().unwrap_or_else(PoisonError::into_inner));
        tally.messages = after - before;
        if tally.waits.is_empty() {
            return Err(Failure::Limiter("nobody was admitted"));
        }
        Ok(tally)
    }
}

/// Who comes, holds a slot for a while, and goes.
#[derive(Clone)]
struct Client {
    /// Whose.
    member: usize,
    limiter: Limiter,
    host: HostKey,
    window: Arc<Window>,
}

impl Client {
    /// One after the other without regard to how the others fare: the gaps are exponential, and in
    /// seconds on average.
    async fn come_at_random(self, gap: f64) {
        let mut visits = JoinSet::new();
        let mut next = clock::now();
        while next < self.window.to {
            next += exponential(Duration::from_secs_f64(gap));
            tokio::time::sleep_until(next).await;
            visits.spawn(self.clone().visit());
            while visits.try_join_next().is_some() {}
        }
        visits.join_all().await;
    }

    async fn come_again(self) {
        while clock::now() < self.window.to {
            self.clone().visit().await;
        }
    }

    async fn visit(self) {
        let asked = clock::now();
        // Who waits has something to wait for; but nobody once all is over.
        let until = (asked + PATIENCE).min(self.window.to);
        let mut acquire = std::pin::pin!(self.limiter.acquire(&self.host, Patience::Until(until)));
        let at_once = acquire.as_mut().now_or_never();
        let is_at_once = at_once.is_some();
        let admitted = match at_once {
            Some(admitted) => admitted,
            None => acquire.await,
        };
        let Ok(permit) = admitted else { return };
        let since = clock::now();
        self.window.admitted(self.member, asked, is_at_once);
        let leave = since + exponential(HOLD);
        // What is held after the end interests nobody.
        tokio::time::sleep_until(leave.min(self.window.to)).await;
        drop(permit);
        self.window.released(since);
    }
}

fn exponential(mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - fastrand::f64()).ln())
}

/// One limiter, and who speaks to Redis for it.
struct Member {
    limiter: Limiter,
    link: Arc<Link>,
    stop: Option<oneshot::Sender<()>>,
    worker: JoinHandle<Result<(), RedisError>>,
}

/// However the run ends, nobody goes on speaking.
impl Drop for Member {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl Member {
    fn start(settings: &shared::Settings, limit: u32) -> Self {
        let link = Link::new(settings);
        let local = limit::Settings {
            default_limit: limit,
            queue_size: 1000,
            ..limit::Settings::default()
        };
        let (limiter, _ears) = Limiter::new(local, Some(Arc::clone(&link)), 1);
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            // Its sender gone is as good as told.
            let (Ok(()) | Err(_)) = stopped.await;
        };
        let calls: shared::Calls = Arc::new(|_, _| ());
        let run = shared::run(limiter.clone(), Arc::clone(&link), settings.clone(), calls, stopped);
        Self { limiter, link, stop: Some(stop), worker: tokio::spawn(run) }
    }

    /// Whether it is up, in a fleet of so many.
    fn sees(&self, members: u32) -> bool {
        self.link.state_name() == "up" && self.link.instances() >= members
    }

    async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let (Ok(()) | Err(())) = stop.send(());
        }
        if let Err(error) = (&mut self.worker).await {
            tracing::warn!(%error, "a limiter did not leave the fleet");
        }
    }
}

/// Two limiters and one slot, which goes from the one to the other and back.
async fn wake_ups(place: &Place, times: usize) -> Result<Vec<Row>, Failure> {
    let mut meter = place.meter().await?;
    let fleet = Fleet::start(place, "wake", 1, 8, 2).await?;
    let mut queue = place.settings().clone();
    queue.prefix = format!("{}:wake", queue.prefix);
    let queue = Keys::new(&queue.prefix, queue.shards()).queue(&fleet.host);

    let (mut waits, mut pings) = (Vec::with_capacity(times), Vec::with_capacity(times));
    let mut permit = take(&fleet.members[0].limiter, &fleet.host).await?;
    for number in 1..=times {
        let other = fleet.members[number % 2].limiter.clone();
        let host = fleet.host.clone();
        let waiter = tokio::spawn(async move {
            let permit = take(&other, &host).await;
            (permit, clock::now())
        });
        is_queued(&mut meter, &queue).await?;
        let released = clock::now();
        drop(permit);
        let (got, woken) = waiter.await.map_err(|_panic| Failure::Limiter("a waiter was lost"))?;
        permit = got?;
        waits.push(woken - released);

        let asked = clock::now();
        meter.ask::<String>(&["PING"]).await?;
        pings.push(clock::now() - asked);
    }
    drop(permit);
    fleet.stop().await;

    let round_trip = micros(quantile(&mut pings, 0.5));
    let (middle, late) = (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let ping = "a PING, p50";
    let bound = (2.0 * round_trip + 1000.0).round();
    Ok(vec![
        Row::new(WAKE, ping, round_trip, "us"),
        Row::new(WAKE, "from the release to the slot, p50", micros(middle), "us")
            .beside(ping, round_trip)
            .at_most(bound),
        Row::new(WAKE, "from the release to the slot, p99", micros(late), "us")
            .beside(ping, round_trip),
    ])
}

async fn take(limiter: &Limiter, host: &HostKey) -> Result<Permit, Failure> {
    let until = clock::now() + PATIENCE;
    let permit = limiter.acquire(host, Patience::Until(until)).await;
    permit.map_err(|refused| Failure::Limiter(refused.reason.as_str()))
}

/// Until somebody stands in the queue at Redis.
async fn is_queued(meter: &mut Meter, queue: &str) -> Result<(), Failure> {
    let deadline = clock::now() + PATIENCE;
    while meter.ask::<usize>(&["LLEN", queue]).await? == 0 {
        if clock::now() > deadline {
            return Err(Failure::Limiter("a waiter did not queue"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// So much of them is below it.
fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a part of an index"
    )]
    let index = (last as f64 * part).round() as usize;
    times.get(index).copied().unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_that_so_many_are_below() {
        let mut times: Vec<Duration> = (1..=101).rev().map(Duration::from_micros).collect();
        assert_eq!(quantile(&mut times, 0.5), Duration::from_micros(51));
        assert_eq!(quantile(&mut times, 0.99), Duration::from_micros(100));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
