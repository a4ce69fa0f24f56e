//! The fleet under judgement: instances, each with its own path to one Redis, the two origins that
//! count, and the clients. And who is excused from the count, when, and for how long.
//!
//! The cap binds at every moment. The one exception is an instance whose lease has run out while it
//! could not say that it lives (it was stopped, or cut off): its slots are others' then, but its
//! kernel keeps its sockets. What it has open at the end of its lease is excused from the count
//! until it is back and all of that is on the books again; nothing that anybody opens meanwhile is,
//! and it itself is checked to open nothing. So the most there may be is cap + what it had open.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use crate::oracle::load::Load;
use crate::oracle::load::Roster;
use crate::support::Origin;
use crate::support::PATIENCE;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Relay;
use crate::support::narrows;
use crate::support::ports_between;
use crate::support::wait_at_most;
use crate::support::wait_until;

pub(crate) const LEASE: Duration = Duration::from_millis(1_200);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long an instance waits for Redis: patient enough for a machine that stalls under its tests.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(500);
/// How long before its end a lease counts as over: we look at it now and then, not always.
const EARLY: Duration = Duration::from_millis(50);

pub(crate) struct Member {
    pub(crate) proxy: Proxy,
    pub(crate) relay: Relay,
    /// What Redis knows it as.
    id: String,
}

impl Member {
    pub(crate) async fn join(redis: &Redis, flags: &str) -> Member {
        let relay = Relay::to(redis.address()).await;
        let timing = format!(
            "--lease {}ms --heartbeat {}ms --redis-timeout {}ms",
            LEASE.as_millis(),
            HEARTBEAT.as_millis(),
            TIMEOUT.as_millis()
        );
        let address = relay.address();
        let setup = narrows().flags(format!("--redis-addr {address} --threads 1 {timing} {flags}"));
        let proxy = setup.start().await;
        let told = proxy.admin("/hosts").await.json();
        let id = told["fleet"]["instance"].as_str().unwrap().to_owned();
        Member { proxy, relay, id }
    }

    /// Whether Redis knows of all that it has open, and vouches for it.
    pub(crate) async fn is_on_the_books(&self) -> bool {
        let told = self.proxy.admin("/hosts").await.json();
        let is_booked = |row: &serde_json::Value| row["granted"].as_u64() >= row["open"].as_u64();
        !told["fleet"]["lease_ms"].is_null()
            && told["fleet"]["learning_ms"].is_null()
            && told["hosts"].as_array().unwrap().iter().all(is_booked)
    }

    /// How long Redis keeps its slots yet; none if it has forgotten it.
    pub(crate) async fn lease_left(&self, redis: &Redis) -> Option<Duration> {
        let command = format!("ZSCORE proxy_rate_limiter:{{0}}:@lease {}", self.id);
        let start = Instant::now();
        let (end, (seconds, micros)): (Option<f64>, (u64, u64)) = loop {
            // A busy machine may be late with an answer; that alone proves nothing.
            match (redis.try_ask(0, &command).await, redis.try_ask(0, "TIME").await) {
                (Ok(end), Ok(now)) => break (end, now),
                failed => assert!(start.elapsed() < PATIENCE, "{failed:?}"),
            }
        };
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        Some(Duration::from_secs_f64(end? / 1000.0).saturating_sub(now))
    }
}

pub(crate) struct Fleet {
    pub(crate) cap: usize,
    pub(crate) redis: Redis,
    pub(crate) members: Vec<Member>,
    /// Where the load goes.
    pub(crate) busy: Origin,
    /// Where tunnels are left idle.
    pub(crate) idle: Origin,
    pub(crate) roster: Roster,
    flags: String,
    /// What was done, and when.
    told: Vec<(Instant, String)>,
}

impl Fleet {
    pub(crate) async fn start(size: usize, cap: usize) -> Fleet {
        let redis = Redis::start().await;
        let flags = format!("--max-connections {cap} --queue-size 10000");
        let mut members = Vec::new();
        for _ in 0..size {
            members.push(Member::join(&redis, &flags).await);
        }
        let roster = members.iter().map(|member| member.proxy.address).collect();
        let roster = Arc::new(Mutex::new(roster));
        let (busy, idle, told) = (Origin::start(), Origin::start(), Vec::new());
        let fleet = Fleet { cap, redis, members, busy, idle, roster, flags, told };
        fleet.wait_until_well().await;
        fleet
    }

    pub(crate) fn load(&self, rng: &mut fastrand::Rng) -> [Load; 2] {
        let (clients, hold) = match self.cap {
            1 => (16, 60..250),
            2..50 => (7 * self.cap, 60..250),
            _ => (5 * self.cap / 2, 300..900),
        };
        [
            Load::start(&self.roster, self.busy.authority(), clients, hold, rng),
            Load::idle(&self.roster, &self.idle.authority(), self.cap, rng),
        ]
    }

    pub(crate) fn note(&mut self, what: String) {
        self.told.push((Instant::now(), what));
    }

    /// Until each instance has a lease, and may be granted slots.
    pub(crate) async fn wait_until_well(&self) {
        for member in &self.members {
            member.proxy.wait_until_up().await;
            wait_until("it is on the books", async || member.is_on_the_books().await).await;
        }
    }

    /// The part of the cap in use on average over so long.
    pub(crate) async fn utilisation(&self, length: Duration) -> f64 {
        let end = Instant::now() + length;
        let (mut sum, mut looks) = (0, 0_u32);
        while Instant::now() < end {
            sum += self.busy.current();
            looks += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        return sum as f64 / f64::from(looks) / self.cap as f64;
    }

    /// Fails if there ever were more connections than the cap allows; with all that was done.
    pub(crate) fn judge(&self) {
        for origin in [&self.busy, &self.idle] {
            let mut story = self.told.clone();
            for (when, peak) in origin.rises().into_iter().filter(|(_, peak)| *peak > self.cap) {
                story.push((when, format!("a peak of {peak} at {}", origin.authority())));
            }
            story.sort();
            let start = story.first().map_or_else(Instant::now, |(when, _)| *when);
            let line = |(when, what): &(Instant, String)| format!("{:?} {what}", *when - start);
            let story: Vec<String> = story.iter().map(line).collect();
            let (peak, cap) = (origin.peak(), self.cap);
            assert!(peak <= cap, "{peak} at once, allowed are {cap}:\n{}", story.join("\n"));
        }
    }

    /// Another instance in the place of one that is gone.
    pub(crate) async fn replace(&mut self, which: usize) {
        let member = Member::join(&self.redis, &self.flags).await;
        self.roster.lock().unwrap()[which] = member.proxy.address;
        self.members[which] = member;
    }

    /// Does to an instance what keeps it from renewing its lease for so long, and undoes it; until
    /// all is well with it. How many connections it had open when its lease ran out, if it did: those were excused.
    pub(crate) async fn silence(
        &mut self,
        which: usize,
        length: Duration,
        begin: impl Fn(&Member),
        end: impl Fn(&Member),
    ) -> Option<usize> {
        let member = &self.members[which];
        begin(member);
        let (start, mut excused, mut is_over) = (Instant::now(), None, false);
        let mut lease_end = self.suspect(member).await;
        let first_end = lease_end;
        while excused.is_none() || !is_over {
            if excused.is_none() && lease_end <= Instant::now() {
                excused = Some(self.excuse(member));
            }
            if !is_over && start.elapsed() >= length {
                if let Some(ports) = &excused {
                    let opened = &self.ports(member) - ports;
                    assert!(opened.is_empty(), "opened without a lease, from ports {opened:?}");
                }
                end(member);
                is_over = true;
            }
            if excused.is_none() {
                lease_end = self.suspect(member).await;
            }
            if is_over && excused.is_none() && lease_end > first_end + HEARTBEAT / 4 {
                self.excuse_nobody();
                return None;
            }
            assert!(start.elapsed() < length + PATIENCE, "it has not come back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let what = "it has all that it holds on the books";
        wait_at_most(PATIENCE, what, async || member.is_on_the_books().await).await;
        self.excuse_nobody();
        excused.map(|ports| ports.len())
    }

    /// What it has open is excused when its lease is over; when that is.
    async fn suspect(&self, member: &Member) -> Instant {
        let left = member.lease_left(&self.redis).await.unwrap_or_default();
        let end = Instant::now() + left.saturating_sub(EARLY);
        for origin in [&self.busy, &self.idle] {
            origin.suspect(member.proxy.process(), end);
        }
        end
    }

    /// What it has open counts no more.
    fn excuse(&self, member: &Member) -> HashSet<u16> {
        self.busy.excuse_suspect();
        self.idle.excuse_suspect();
        self.ports(member)
    }

    fn excuse_nobody(&self) {
        self.busy.excuse_nobody();
        self.idle.excuse_nobody();
    }

    fn ports(&self, member: &Member) -> HashSet<u16> {
        let process = member.proxy.process();
        let [busy, idle] = [&self.busy, &self.idle].map(|to| ports_between(process, to.port()));
        &busy | &idle
    }
}
