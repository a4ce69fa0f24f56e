//! What happens in a simulation, drawn from its seed: the fleet, its load, the network, and what
//! fails when.

use std::time::Duration;

use super::super::Mutant;
use crate::base::authority::HostKey;
use crate::limit::shared::LeaseLoss;

/// When the last fault ends.
pub(super) const FAULTS_END: Duration = Duration::from_secs(9);
/// By then all that failed has healed, too.
pub(super) const CALM: Duration = Duration::from_millis(13_500);
/// Within which time all instances hear of a change.
pub(super) const CHANGE: Duration = Duration::from_millis(1_500);
const LONGEST_HOLD: Duration = Duration::from_secs(6);
/// When the load stops.
pub(super) const REST: Duration = Duration::from_millis(16_500);

/// One simulation.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) instances: usize,
    pub(super) keys: Vec<HostKey>,
    pub(super) caps: Vec<u32>,
    /// When the first host's limit changes, and what it becomes. Instances hear of it one by one.
    pub(super) change: Option<(Duration, u32)>,
    pub(super) slack: u32,
    pub(super) lease: Duration,
    pub(super) heartbeat: Duration,
    pub(super) lease_loss: LeaseLoss,
    /// Clients of each instance; how long they hold most connections, and what they do in between.
    pub(super) clients: usize,
    pub(super) hold: Duration,
    pub(super) think: Duration,
    /// The longest that a message takes.
    pub(super) latency: Duration,
    /// Of a thousand hints.
    pub(super) lost_hints: u32,
    /// How long Redis has run.
    pub(super) age: Duration,
    pub(super) faults: Vec<Fault>,
    /// A rule of Redis that is left out.
    pub(super) mutant: Option<Mutant>,
    /// Nobody looks at the lease before opening.
    pub(super) is_reckless: bool,
}

/// Something fails for a while.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// An instance ends as by SIGKILL; another takes its place.
    Crash(usize),
    /// An instance's messages, and Redis's to it, are lost, from then on or all that are under way.
    Cut(usize),
    /// A replica takes over that had come as far as some moments ago.
    FailOver,
    Flush,
    FlushScripts,
    /// An instance stands still as by SIGSTOP, and time does not.
    Freeze(usize),
    /// Redis closes all connections.
    HangUp,
    /// Messages between an instance and Redis are late: they come all at once.
    Hold(usize),
    /// Messages are swallowed, and connections are neither made nor refused.
    Lose(usize),
    /// Redis hears nothing of an instance, which still hears it.
    Mute(usize),
    /// An instance hears nothing of Redis, which still hears it.
    Deafen(usize),
    RedisCrash(Kept),
    RedisFreeze,
    /// All messages take longer than an instance waits for.
    Slow,
    /// An instance drains and leaves; another takes its place.
    Stop(usize),
}

/// What a new process of Redis finds on its disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    All,
    None,
    /// Writes of some moments are missing.
    Some,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let millis = |rng: &mut fastrand::Rng, from, to| Duration::from_millis(rng.u64(from..=to));
        let instances = rng.usize(2..=4);
        let hosts = rng.usize(1..=2);
        let latency = match rng.u32(..3) {
            0 => Duration::from_millis(2),
            1 => Duration::from_millis(20),
            _ => Duration::from_millis(60),
        };
        let faults = (0..rng.usize(1..=6)).map(|_| {
            let at = millis(&mut rng, 1_000, 8_500);
            let kind = Kind::any(&mut rng, instances);
            let longest = if rng.bool() { 1_000 } else { 5_000 };
            let lasts = millis(&mut rng, 50, longest).min(FAULTS_END.saturating_sub(at));
            Fault { at, lasts, kind }
        });
        let faults = faults.collect();
        let key = |number| HostKey::parse(&format!("h{number}.test")).expect("a host");
        Self {
            seed,
            instances,
            keys: (0..hosts).map(key).collect(),
            caps: (0..hosts).map(|_| rng.u32(1..=8)).collect(),
            change: rng.bool().then(|| (millis(&mut rng, 500, 4_000), rng.u32(1..=8))),
            slack: if rng.bool() { 8 } else { 0 },
            lease: Duration::from_secs(2),
            heartbeat: Duration::from_millis(400),
            lease_loss: if rng.u32(..4) == 0 { LeaseLoss::Close } else { LeaseLoss::Keep },
            clients: rng.usize(1..=12),
            hold: millis(&mut rng, 20, 400),
            think: millis(&mut rng, 5, 100),
            latency,
            lost_hints: 0,
            age: if rng.bool() { Duration::ZERO } else { Duration::from_mins(1) },
            faults,
            mutant: None,
            is_reckless: false,
        }
    }
}

impl Plan {
    /// The most connections that a host may have at a moment: where the limit was lowered, slots of
    /// before may be used for as long as a lease.
    pub(super) fn cap(&self, host: usize, now: Duration) -> u32 {
        let cap = self.caps[host];
        match self.change.filter(|(at, _)| host == 0 && *at <= now) {
            Some((at, to)) if now < at + CHANGE + self.lease + LONGEST_HOLD => cap.max(to),
            Some((_, to)) => to,
            None => cap,
        }
    }

    /// How long a client holds a connection: one of thirty for longer than a lease, some.
    pub(super) fn any_hold(&self) -> Duration {
        random(if fastrand::u32(..30) == 0 { LONGEST_HOLD / 2 } else { self.hold })
    }

    /// How much of a host is in use at least, in percent, while twice as many wait. Between two
    /// holders of a slot there are four messages, each of them as late as the network makes it and
    /// up to a tick later.
    pub(super) fn utilisation(&self) -> u64 {
        let message = Duration::from_millis(3) + self.latency * 3 / 10;
        let ideal = 75 * self.hold.as_micros() / (self.hold + 4 * message).as_micros();
        u64::try_from(ideal).expect("a percentage")
    }
}

impl Kind {
    fn any(rng: &mut fastrand::Rng, instances: usize) -> Self {
        let one = rng.usize(..instances);
        match rng.u32(..17) {
            0 => Self::Crash(one),
            1 | 2 => Self::Cut(one),
            3 => Self::FailOver,
            4 => Self::Flush,
            5 => Self::FlushScripts,
            6 => Self::Freeze(one),
            7 => Self::HangUp,
            8 => Self::Hold(one),
            9 => Self::Lose(one),
            10 => Self::Mute(one),
            11 => Self::Deafen(one),
            12 => Self::RedisCrash(Kept::All),
            13 => Self::RedisCrash(Kept::None),
            14 => Self::RedisCrash(Kept::Some),
            15 => Self::RedisFreeze,
            _ if rng.bool() => Self::Slow,
            _ => Self::Stop(one),
        }
    }
}

/// Anything up to twice this.
pub(super) fn random(mean: Duration) -> Duration {
    mean.mul_f64(2.0 * fastrand::f64())
}
