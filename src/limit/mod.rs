//! Admission: how many connections a host may have at once.
//!
//! [`Limiter::acquire`] gives a [`Permit`], makes the asker wait for one, or says no. A permit is a
//! guard: it lives inside the connection it stands for, and dropping it frees the slot. This
//! module knows no HTTP and opens no connection.
//!
//! Invariant: for each host, the permits that exist never exceed the limit, in this process
//! (in memory) or in the whole fleet (through Redis, [`shared`]).

pub mod hosts;
pub mod identities;
pub mod rules;
pub mod shared;
pub mod table;

pub(crate) mod host;
mod permit;
pub(crate) mod protocol;
pub(crate) mod queue;

#[cfg(test)]
mod model;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use self::host::Asker;
use self::host::Basis;
use self::host::Counters;
use self::host::Due;
use self::host::Entry;
use self::host::Host;
use self::host::HostSnapshot;
use self::hosts::Hosts;
use self::identities::Identities;
pub use self::permit::Permit;
pub(crate) use self::permit::Reclaim;
pub(crate) use self::permit::Seat;
pub(crate) use self::permit::Share;
use self::permit::Waiting;
use self::rules::Limit;
use self::rules::Pattern;
use self::rules::Rule;
use self::rules::Rules;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::identity;
use crate::base::identity::Identity;
use crate::base::identity::Traits;

/// What the limiter obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections at once to each host without a rule of its own; 0 is unlimited.
    pub default_limit: Limit,
    /// Rules for single hosts.
    pub rules: Vec<Rule>,
    /// How long a request waits for a full host when it does not say; zero refuses at once.
    pub queue_timeout: Duration,
    /// Requests that may wait for one host.
    pub queue_size: usize,
    /// The longest wait that a request may ask for (`Prefer: wait=N`).
    pub queue_timeout_max: Duration,
    /// What is remembered of hosts that nobody uses.
    pub hosts: hosts::Settings,
    /// What single identities may have.
    pub identities: Identities,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_limit: 0,
            rules: Vec::new(),
            queue_timeout: Duration::ZERO,
            queue_size: 1000,
            queue_timeout_max: Duration::from_mins(1),
            hosts: hosts::Settings::default(),
            identities: Identities::default(),
        }
    }
}

/// Why a request was told no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The fleet's limiter cannot be reached, and the policy is to refuse.
    Away,
    /// The host is at its limit.
    Full,
    /// The host is at its limit and its waiting room is full.
    QueueFull,
    /// The host stayed at its limit for as long as the request could wait.
    TimedOut,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Away, Self::Full, Self::QueueFull, Self::TimedOut];

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Full => "limit",
            Self::QueueFull => "queue_full",
            Self::TimedOut => "timeout",
        }
    }
}

/// A request that got no slot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{host} refused ({}): {in_use} of {limit} connections in use", reason.as_str())]
pub struct Refused {
    /// The host.
    pub host: HostKey,
    /// Why.
    pub reason: Reason,
    /// Slots in use, in the fleet when shared.
    pub in_use: u32,
    /// The limit that applied.
    pub limit: Limit,
    /// How long the request had waited.
    pub waited: Duration,
    /// Whose own limit for the host it was; none if it was the host's.
    pub identity: Option<Identity>,
}

/// Until when a request may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A slot now, or none.
    None,
    /// Until then.
    Until(Instant),
}

/// Hands out slots. Cheap to clone; all clones are the same limiter.
#[derive(Clone, Debug)]
pub struct Limiter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    rules: ArcSwap<Rules>,
    /// Counts changes of `rules`, so that a host knows when to look again.
    rules_version: AtomicU64,
    hosts: Hosts,
    /// For each thread, where it hears which host's idle connection to close.
    reclaimers: Vec<mpsc::UnboundedSender<Reclaim>>,
    shared: Option<Arc<shared::Link>>,
    /// The way to the fleet's table of limits.
    changes: table::Changes,
}

impl Limiter {
    /// A limiter for this process alone.
    pub fn local(settings: Settings) -> Self {
        Self::new(settings, None, 1).0
    }

    /// A limiter for `threads` threads with pools of their own; each gets the channel on which it
    /// hears what to close.
    pub(crate) fn new(
        settings: Settings,
        shared: Option<Arc<shared::Link>>,
        threads: usize,
    ) -> (Self, Vec<mpsc::UnboundedReceiver<Reclaim>>) {
        let (reclaimers, ears) = (0..threads).map(|_| mpsc::unbounded_channel()).unzip();
        let rules = Rules::new(settings.default_limit, settings.rules.iter().cloned())
            .since(table::seconds(clock::wall()))
            .with(settings.identities.clone());
        let inner = Inner {
            rules: ArcSwap::from_pointee(rules),
            rules_version: AtomicU64::new(0),
            hosts: Hosts::new(settings.hosts.named),
            settings,
            reclaimers,
            shared,
            changes: table::Changes::default(),
        };
        (Self { inner: Arc::new(inner) }, ears)
    }

    /// The settings it was built with; rules may have changed since.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Takes a slot of `key`, waiting for one until `patience` ends. Dropping the future gives up
    /// the place in the queue at once.
    pub async fn acquire(&self, key: &HostKey, patience: Patience) -> Result<Permit, Refused> {
        self.acquire_as(key, patience, &Identity::Anonymous).await
    }

    /// The same for one of several who share this limiter: while they wait, slots go to their
    /// identities in turn, and to each one's requests in the order of their coming.
    pub async fn acquire_as(
        &self,
        key: &HostKey,
        patience: Patience,
        identity: &Identity,
    ) -> Result<Permit, Refused> {
        let share = self.share(key, patience, identity).await?;
        self.acquire_with(share, key, patience, identity).await
    }

    /// Takes one of the connections to `key` that `identity` may have at once; none if it may have any
    /// number. It is taken before the host's slot, never behind it: so nobody who holds a slot waits.
    pub(crate) async fn share(
        &self,
        key: &HostKey,
        patience: Patience,
        identity: &Identity,
    ) -> Result<Option<Box<Share>>, Refused> {
        let Some(own) = self.share_key(key, identity) else { return Ok(None) };
        match self.take(&own, patience, identity).await {
            Ok(host) => Ok(Some(Box::new(Share { host, limiter: self.clone() }))),
            Err(refused) => {
                let identity = Some(identity.clone());
                Err(Refused { host: self.counted(key), identity, ..refused })
            }
        }
    }

    /// Takes one of the connections that `key` may be reached by one way at once: `limit`, not 0, for
    /// the way of this name. As a [`Limiter::share`] it is taken before the host's slot.
    pub(crate) async fn bond(
        &self,
        key: &HostKey,
        (way, limit): (&str, Limit),
        patience: Patience,
        identity: &Identity,
    ) -> Result<Box<Share>, Refused> {
        let budget = self.inner.rules.load().budget(key);
        let own = budget.as_ref().unwrap_or(key).share(&identity::way(way, limit));
        let host = self.take(&own, patience, identity).await?;
        Ok(Box::new(Share { host, limiter: self.clone() }))
    }

    /// Whether the connections of any identity are limited.
    pub(crate) fn has_shares(&self) -> bool {
        self.inner.rules.load().identities.have_limits()
    }

    /// The key that an identity's connections to a host are counted under, if they have a limit.
    fn share_key(&self, key: &HostKey, identity: &Identity) -> Option<HostKey> {
        let rules = self.inner.rules.load();
        if !rules.identities.have_limits() {
            return None;
        }
        let label = identity.label()?;
        let counted = rules.budget(key);
        let limit = rules.identities.limit(&label);
        (limit > 0).then(|| counted.as_ref().unwrap_or(key).share(&label))
    }

    /// The same as [`Limiter::acquire_as`] for who has a share already, if they need one.
    pub(crate) async fn acquire_with(
        &self,
        share: Option<Box<Share>>,
        key: &HostKey,
        patience: Patience,
        identity: &Identity,
    ) -> Result<Permit, Refused> {
        let budget = self.inner.rules.load().budget(key);
        let key = budget.as_ref().unwrap_or(key);
        let host = self.take(key, patience, identity).await?;
        Ok(Permit { host, limiter: self.clone(), share, bond: None })
    }

    /// Takes a slot of what is counted under `key`; whoever gets the host releases it.
    async fn take(
        &self,
        key: &HostKey,
        patience: Patience,
        identity: &Identity,
    ) -> Result<Arc<Host>, Refused> {
        let version = self.inner.rules_version.load(Relaxed);
        let weight = self.inner.rules.load().identities.weight(identity);
        let host = self.host(key);
        let ruling = || self.inner.rules.load().ruling(key);
        let (may_wait, seats) = (patience != Patience::None, self.inner.settings.queue_size);
        let asker = Asker { identity, weight, may_wait, seats };
        let verdict = match host.enter(self.basis(&host), version, ruling, asker) {
            Entry::Slot { speak } => {
                self.carry_out(&host, Due::spoken(speak));
                return Ok(Self::admit(host));
            }
            Entry::Refused(reason) => return Err(self.refuse(&host, reason, Duration::ZERO)),
            Entry::Wait(ticket, due) => {
                let started = clock::now();
                let waiting = Waiting { limiter: self, host: &host, ticket, answered: false };
                self.carry_out(&host, due);
                let verdict = waiting.verdict(patience).await;
                let waited = clock::now() - started;
                host.counters.waited.fetch_add(1, Relaxed);
                let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
                host.counters.wait_nanos.fetch_add(nanos, Relaxed);
                verdict.map_err(|reason| (reason, waited))
            }
        };
        match verdict {
            Ok(()) => Ok(Self::admit(host)),
            Err((reason, waited)) => Err(self.refuse(&host, reason, waited)),
        }
    }

    /// Sets the limit of hosts without a rule; 0 is unlimited. A lowered limit closes nothing.
    pub fn set_default_limit(&self, limit: Limit) {
        self.change_rules(|rules| rules.set_default(limit));
    }

    /// Sets the limit of the hosts that `pattern` speaks of; 0 is unlimited.
    pub fn set_host_limit(&self, pattern: Pattern, limit: Limit) {
        self.change_rules(|rules| rules.set(Rule::each(pattern.clone(), limit)));
    }

    /// Puts these rules in the place of all there are.
    pub fn set_host_limits(&self, rules: Vec<Rule>) {
        self.change_rules(|table| table.replace(rules.iter().cloned()));
    }

    /// Puts what is given in the place of the default, of all rules and of what identities may have,
    /// at once; what the users file says stays. Where instances disagree, this one is right from now
    /// on.
    pub(crate) fn set_own(
        &self,
        default: Option<Limit>,
        rules: Option<&[Rule]>,
        identities: Option<&Identities>,
    ) {
        let seconds = table::seconds(clock::wall());
        self.change_rules(|table| {
            if let Some(default) = default {
                table.set_default(default);
            }
            if let Some(rules) = rules {
                table.replace(rules.iter().cloned());
            }
            if let Some(identities) = identities {
                table.set_identities(identities);
            }
            table.date(seconds);
        });
    }

    /// Takes a rule away, so that the next less exact one holds; whether there was one.
    pub fn remove_host_limit(&self, pattern: &Pattern) -> bool {
        let mut removed = false;
        self.change_rules(|rules| removed = rules.remove(pattern));
        removed
    }

    /// What users may have, as their file says now.
    pub(crate) fn set_users(&self, users: &HashMap<Arc<str>, Traits>) {
        let seconds = table::seconds(clock::wall());
        self.change_rules(|rules| rules.set_users(users, seconds));
    }

    /// The limit in force for a host; 0 is unlimited.
    pub fn limit(&self, key: &HostKey) -> Limit {
        self.inner.rules.load().limit(key)
    }

    /// Connections of this instance to `key` that are open or being dialled.
    pub fn open_here(&self, key: &HostKey) -> u32 {
        self.find(key).map_or(0, |host| host.snapshot(false).open)
    }

    /// All hosts that this instance knows, in no order.
    pub fn snapshot(&self) -> Vec<HostSnapshot> {
        let shared = self.inner.shared.is_some();
        let mut all: Vec<HostSnapshot> = Vec::new();
        self.each_host(|host| all.push(host.snapshot(shared)));
        all
    }

    /// Whether slots are shared through Redis.
    pub fn is_shared(&self) -> bool {
        self.inner.shared.is_some()
    }

    /// Where it is heard that all connections are to be cut, since nobody vouches for their slots
    /// any more; none where that is never done.
    pub(crate) fn losses(&self) -> Option<watch::Receiver<()>> {
        self.link()?.losses()
    }

    pub(crate) fn link(&self) -> Option<&Arc<shared::Link>> {
        self.inner.shared.as_ref()
    }

    /// The hosts that one shard of Redis counts.
    pub(crate) fn hosts_of(&self, shard: u16) -> Vec<Arc<Host>> {
        let mut hosts = Vec::new();
        self.each(|host| {
            if host.shard == shard {
                hosts.push(Arc::clone(host));
            }
        });
        // A simulation is to run the same way twice; the tables above have a seed of their own.
        #[cfg(test)]
        hosts.sort_unstable_by_key(|host| host.number);
        hosts
    }

    pub(crate) fn each(&self, visit: impl FnMut(&Arc<Host>)) {
        self.inner.hosts.each(visit);
    }

    /// The counters of each host that has a name in metrics, though nobody may use it.
    pub(crate) fn each_name(&self, visit: impl FnMut(&HostKey, &Counters)) {
        self.inner.hosts.each_name(visit);
    }

    /// Visits the hosts without what single identities may have of them.
    pub(crate) fn each_host(&self, mut visit: impl FnMut(&Arc<Host>)) {
        self.each(|host| {
            if !host.is_share() {
                visit(host);
            }
        });
    }

    /// Counters of all hosts that have no name in metrics.
    pub(crate) fn others(&self) -> &Arc<Counters> {
        self.inner.hosts.others()
    }

    /// Counters of what identities may have.
    pub(crate) fn shares(&self) -> &Arc<Counters> {
        self.inner.hosts.shares()
    }

    pub(crate) fn find(&self, key: &HostKey) -> Option<Arc<Host>> {
        self.inner.hosts.find(key)
    }

    /// Does outside the lock what a host's state asked for.
    pub(crate) fn carry_out(&self, host: &Arc<Host>, mut due: Due) {
        loop {
            if let (true, Some(link)) = (due.speak, &self.inner.shared) {
                link.speak(Arc::clone(host));
            }
            for thread in due.reclaim.drain(..) {
                let (limiter, host) = (self.clone(), Arc::clone(host));
                let message = Reclaim { host, limiter, thread, in_vain: true };
                if let Err(unheard) = self.inner.reclaimers[thread].send(message) {
                    unheard.0.host.gone(thread);
                }
            }
            // A slot that was given to somebody who had left goes on to the next.
            let lost = due.tell();
            if lost == 0 {
                return;
            }
            due = host.release(self.basis(host));
            for _ in 1..lost {
                self.carry_out(host, std::mem::take(&mut due));
                due = host.release(self.basis(host));
            }
        }
    }

    pub(crate) fn basis(&self, host: &Host) -> Basis {
        self.inner.shared.as_ref().map_or(Basis::Local, |link| link.basis(host))
    }

    pub(crate) fn change_rules(&self, mut change: impl FnMut(&mut Rules)) {
        self.inner.rules.rcu(|rules| {
            let mut rules = Rules::clone(rules);
            change(&mut rules);
            rules
        });
        let version = self.inner.rules_version.fetch_add(1, Relaxed) + 1;
        let rules = self.inner.rules.load_full();
        self.each(|host| {
            let due = host.limit_changed(self.basis(host), version, rules.ruling(host.key()));
            self.carry_out(host, due);
        });
    }

    fn host(&self, key: &HostKey) -> Arc<Host> {
        let inner = &self.inner;
        inner.hosts.enter(
            key,
            || inner.rules.load().named(key),
            |counters, named| {
                let shard = inner.shared.as_ref().map_or(0, |link| link.shard(key));
                Host::new(key.clone(), shard, inner.reclaimers.len(), counters, named)
            },
        )
    }

    fn admit(host: Arc<Host>) -> Arc<Host> {
        host.counters.admitted.fetch_add(1, Relaxed);
        host
    }

    fn refuse(&self, host: &Host, reason: Reason, waited: Duration) -> Refused {
        let (in_use, limit) = host.in_use(self.is_shared());
        if let Some(count) = host.count_refusal(reason, clock::now()) {
            let (identity, host) = match host.key().as_share() {
                Some((label, host)) => (Some(label), host),
                None => (None, host.key().as_str()),
            };
            let reason = reason.as_str();
            tracing::warn!(host, identity, limit, in_use, reason, count, "connection refused");
        }
        let (host, identity) = (host.key().clone(), None);
        Refused { host, reason, in_use, limit, waited, identity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(limit: Limit, queue_size: usize) -> Limiter {
        Limiter::local(Settings { default_limit: limit, queue_size, ..Settings::default() })
    }

    fn key() -> HostKey {
        HostKey::parse("a.test").unwrap()
    }

    fn soon() -> Patience {
        Patience::Until(clock::now() + Duration::from_secs(1))
    }

    #[tokio::test]
    async fn a_full_host_is_refused_until_a_permit_is_dropped() {
        let limiter = limiter(2, 10);
        let one = limiter.acquire(&key(), Patience::None).await.unwrap();
        let _two = limiter.acquire(&key(), Patience::None).await.unwrap();
        let no = limiter.acquire(&key(), Patience::None).await.unwrap_err();
        assert_eq!((no.reason, no.in_use, no.limit), (Reason::Full, 2, 2));
        drop(one);
        limiter.acquire(&key(), Patience::None).await.unwrap();
        assert_eq!(limiter.open_here(&key()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_served_in_the_order_of_their_coming() {
        let limiter = limiter(1, 10);
        let first = limiter.acquire(&key(), Patience::None).await.unwrap();
        let (sender, mut order) = mpsc::unbounded_channel();
        for number in 0..3 {
            let (limiter, sender) = (limiter.clone(), sender.clone());
            tokio::spawn(async move {
                let permit = limiter.acquire(&key(), soon()).await.unwrap();
                sender.send(number).unwrap();
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        for number in 0..3 {
            assert_eq!(order.recv().await, Some(number));
        }
        assert_eq!(limiter.open_here(&key()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_deadline() {
        let limiter = limiter(1, 10);
        let _held = limiter.acquire(&key(), Patience::None).await.unwrap();
        let no = limiter.acquire(&key(), soon()).await.unwrap_err();
        assert_eq!((no.reason, no.waited), (Reason::TimedOut, Duration::from_secs(1)));
        assert_eq!(limiter.snapshot()[0].waiting, 0);
    }

    #[tokio::test]
    async fn the_waiting_room_is_bounded() {
        let limiter = limiter(1, 1);
        let _held = limiter.acquire(&key(), Patience::None).await.unwrap();
        let mut waiting = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let no = limiter.acquire(&key(), soon()).await.unwrap_err();
        assert_eq!(no.reason, Reason::QueueFull);
    }

    fn tokio_test_spawn(
        limiter: &Limiter,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Permit, Refused>>>> {
        let limiter = limiter.clone();
        Box::pin(async move { limiter.acquire(&key(), soon()).await })
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_takes_nothing_with_it_at_any_moment() {
        let limiter = limiter(1, 10);
        let held = limiter.acquire(&key(), Patience::None).await.unwrap();
        let mut leaves_early = tokio_test_spawn(&limiter);
        let mut leaves_with_a_slot = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut leaves_early).is_pending());
        assert!(futures_util::poll!(&mut leaves_with_a_slot).is_pending());
        drop(leaves_early);
        drop(held);
        assert_eq!(limiter.open_here(&key()), 1, "the slot is already the second waiter's");
        drop(leaves_with_a_slot);
        assert_eq!(limiter.open_here(&key()), 0);
        limiter.acquire(&key(), Patience::None).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_panics_gives_its_slot_back() {
        let limiter = limiter(1, 10);
        let permit = limiter.acquire(&key(), Patience::None).await.unwrap();
        let task = tokio::spawn(async move {
            let _held = permit;
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(limiter.open_here(&key()), 0);
    }

    #[tokio::test]
    async fn a_raised_limit_lets_those_who_wait_pass() {
        let limiter = limiter(1, 10);
        let _held = limiter.acquire(&key(), Patience::None).await.unwrap();
        let mut waiting = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        limiter.set_host_limit("a.test".parse().unwrap(), 2);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_of_another_thread_is_asked_for_before_a_refusal() {
        let settings = Settings { default_limit: 1, ..Settings::default() };
        let (limiter, mut ears) = Limiter::new(settings, None, 2);
        let idle = limiter.acquire(&key(), Patience::None).await.unwrap();
        idle.seat().park(1, clock::now());
        let mut asking = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut asking).is_pending());
        let reclaim = ears[1].recv().await.unwrap();
        idle.seat().unpark(1, clock::now(), || None);
        drop(idle);
        drop(reclaim);
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn a_reclaim_that_finds_nothing_ends_in_the_refusal() {
        let settings = Settings { default_limit: 1, ..Settings::default() };
        let (limiter, mut ears) = Limiter::new(settings, None, 1);
        let held = limiter.acquire(&key(), Patience::None).await.unwrap();
        held.seat().park(0, clock::now());
        let key = key();
        let asking = limiter.acquire(&key, Patience::None);
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        held.seat().unpark(0, clock::now(), || None);
        drop(ears[0].recv().await);
        assert_eq!(asking.await.unwrap_err().reason, Reason::Full);
    }

    /// A limiter for two threads, full of idle connections: one of each thread, in this order.
    async fn idle_on(
        threads: [usize; 2],
    ) -> (Limiter, Vec<mpsc::UnboundedReceiver<Reclaim>>, [(Permit, Instant); 2]) {
        let settings = Settings { default_limit: 2, ..Settings::default() };
        let (limiter, ears) = Limiter::new(settings, None, 2);
        let mut idle = Vec::new();
        for (age, thread) in threads.into_iter().enumerate() {
            let permit = limiter.acquire(&key(), Patience::None).await.unwrap();
            let since = clock::now() + Duration::from_secs(age as u64);
            permit.seat().park(thread, since);
            idle.push((permit, since));
        }
        (limiter, ears, idle.try_into().unwrap())
    }

    #[tokio::test]
    async fn the_thread_with_the_longest_idle_connection_is_asked() {
        for threads in [[0, 1], [1, 0]] {
            let (limiter, mut ears, _idle) = idle_on(threads).await;
            let mut asking = [tokio_test_spawn(&limiter), tokio_test_spawn(&limiter)];
            assert!(futures_util::poll!(&mut asking[0]).is_pending());
            let first = ears[threads[0]].try_recv().expect("the oldest is here");
            assert!(ears[threads[1]].try_recv().is_err());
            assert!(futures_util::poll!(&mut asking[1]).is_pending());
            let second = ears[threads[1]].try_recv().expect("the other one is asked for already");
            drop((asking, first, second));
        }
    }

    #[tokio::test]
    async fn age_is_known_of_what_is_left() {
        let (limiter, mut ears, [(oldest, since), _younger]) = idle_on([1, 1]).await;
        limiter.set_default_limit(3);
        let middle = limiter.acquire(&key(), Patience::None).await.unwrap();
        middle.seat().park(0, since + Duration::from_millis(500));
        oldest.seat().unpark(1, since, || Some(since + Duration::from_secs(1)));
        let mut asking = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert!(ears[0].try_recv().is_ok(), "thread 1 has only a younger one now");
    }

    #[tokio::test]
    async fn another_thread_is_asked_when_the_first_was_asked_in_vain() {
        let (limiter, mut ears, [(first, since), (second, _)]) = idle_on([0, 1]).await;
        let key = key();
        let asking = limiter.acquire(&key, Patience::None);
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        let ask = ears[0].try_recv().unwrap();
        first.seat().unpark(0, since, || None);
        drop(ask);
        let mut ask = ears[1].try_recv().expect("nobody is refused while something idles");
        assert!(futures_util::poll!(&mut asking).is_pending());
        ask.granted();
        drop(second);
        drop(ask);
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn what_falls_idle_is_asked_for_once_for_each_who_waits() {
        let (limiter, mut ears, [(one, since), (two, later)]) = idle_on([0, 0]).await;
        one.seat().unpark(0, since, || None);
        two.seat().unpark(0, later, || None);
        let mut asking = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert!(ears[0].try_recv().is_err(), "nothing idles");
        for permit in [&one, &two] {
            permit.seat().park(0, since);
            permit.offer();
        }
        let _ask = ears[0].try_recv().unwrap();
        assert!(ears[0].try_recv().is_err(), "one waits");
    }

    #[tokio::test]
    async fn a_thread_that_is_gone_is_not_asked_for_ever() {
        let (limiter, mut ears, _idle) = idle_on([0, 1]).await;
        drop(ears.remove(0));
        let mut asking = tokio_test_spawn(&limiter);
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert!(ears[0].try_recv().is_ok());
    }
}
