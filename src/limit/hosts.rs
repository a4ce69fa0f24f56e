//! Which hosts this instance knows, and which of them have their names in metrics.
//!
//! Host names come from clients, who may make them up by the million. So what is kept of a host goes
//! when nobody has used it for a while, and so does its name in metrics when somebody else wants one:
//! slowly, since each name is a series at whoever reads the metrics. Slots are none of this module's
//! business.
//!
//! Invariants: a host with a permit, with somebody who waits, or on the books of Redis is here, and
//! there are no two of one key. At most [`Settings::named`] hosts without a rule have names.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Limiter;
use super::host::Counters;
use super::host::Host;
use crate::base::authority::HostKey;
use crate::base::clock;

const SHARDS: usize = 16;
/// Hosts that a shard holds, at least, before those nobody uses go at once.
const SHARD_SIZE: usize = 512;
/// How long a host was unused before another may have its name.
const NAME_REST: Duration = Duration::from_mins(10);

/// What is remembered of hosts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one that nobody uses is, at most.
    pub idle: Duration,
    /// Hosts without a rule that have a name in metrics; all others count as one.
    pub named: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), named: 100 }
    }
}

/// The hosts.
pub(super) struct Hosts {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    names: Mutex<Names>,
    /// Counts of all hosts without a name.
    others: Arc<Counters>,
    /// Of what single identities may have of hosts.
    shares: Arc<Counters>,
}

struct Shard {
    hosts: HashMap<HostKey, Arc<Host>>,
    /// With how many hosts it is next looked whether all are used. PERF: it is twice what was left
    /// the last time, so that a new host costs the same however many are in use.
    full: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { hosts: HashMap::new(), full: SHARD_SIZE }
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

impl Hosts {
    /// A table in which so many hosts without a rule may have names.
    pub(super) fn new(named: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            names: Mutex::new(Names { most: named, ..Names::default() }),
            others: Arc::default(),
            shares: Arc::default(),
        }
    }

    pub(super) fn find(&self, key: &HostKey) -> Option<Arc<Host>> {
        lock(self.shard(key)).hosts.get(key).map(Arc::clone)
    }

    /// The host of this key, for use. One that is new is made by `make` from its counters and whether
    /// they are its own; `has_rule` is whether it has a name whatever happens.
    pub(super) fn enter(
        &self,
        key: &HostKey,
        has_rule: impl FnOnce() -> bool,
        make: impl FnOnce(Arc<Counters>, bool) -> Host,
    ) -> Arc<Host> {
        let mut shard = lock(self.shard(key));
        if let Some(host) = shard.hosts.get(key) {
            host.use_now();
            return Arc::clone(host);
        }
        let mut unused = Vec::new();
        if shard.hosts.len() >= shard.full {
            unused = shard.take_out(Host::is_vacant);
            shard.full = SHARD_SIZE.max(shard.hosts.len() * 2);
        }
        let (counters, named) = if key.as_share().is_some() {
            (Arc::clone(&self.shares), false)
        } else {
            let own = lock(&self.names).name(key, has_rule());
            let named = own.is_some();
            (own.unwrap_or_else(|| Arc::clone(&self.others)), named)
        };
        let host = Arc::new(make(counters, named));
        shard.hosts.insert(key.clone(), Arc::clone(&host));
        drop(shard);
        drop(unused);
        host
    }

    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<Host>)) {
        for shard in &self.shards {
            let hosts: Vec<_> = lock(shard).hosts.values().map(Arc::clone).collect();
            hosts.iter().for_each(&mut visit);
        }
    }

    pub(super) fn others(&self) -> &Arc<Counters> {
        &self.others
    }

    pub(super) fn shares(&self) -> &Arc<Counters> {
        &self.shares
    }

    /// All names, also of hosts that nobody has used for a while.
    pub(super) fn each_name(&self, mut visit: impl FnMut(&HostKey, &Counters)) {
        for (key, name) in &lock(&self.names).known {
            visit(key, &name.counters);
        }
    }

    /// Forgets hosts that were unused at the last look and are still.
    pub(super) fn look(&self, now: Instant, has_rule: impl Fn(&HostKey) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            // What goes is dropped outside the lock: it may be many.
            let unused = shard.take_out(|host| host.is_vacant() && !host.was_used());
            let Shard { hosts, full } = &mut *shard;
            *full = SHARD_SIZE.max(hosts.len() * 2);
            if hosts.capacity() > *full * 4 {
                hosts.shrink_to(*full);
            }
            drop(shard);
            drop(unused);
        }
        lock(&self.names).look(now, has_rule);
    }

    fn shard(&self, key: &HostKey) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(key);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }
}

impl Shard {
    /// Takes hosts out that are in nobody's hands and for which `is_due` holds.
    fn take_out(&mut self, is_due: impl Fn(&Host) -> bool) -> Vec<Arc<Host>> {
        let is_due = |host: &Arc<Host>| {
            let is_held = Arc::strong_count(host) > 1;
            if is_held {
                host.use_now();
            }
            !is_held && is_due(host)
        };
        self.hosts.extract_if(|_, host| is_due(host)).map(|(_, host)| host).collect()
    }
}

/// Names of hosts in metrics, and what was counted under them. They outlive the hosts, so that a host
/// that is used once an hour counts on.
#[derive(Default)]
struct Names {
    known: HashMap<HostKey, Name>,
    /// How many hosts without a rule may have one, and how many have.
    most: usize,
    taken: usize,
    /// Names that may go to others, as of the last look.
    rested: Vec<HostKey>,
}

struct Name {
    counters: Arc<Counters>,
    has_rule: bool,
    /// Of its host, as of the last look.
    unused_since: Option<Instant>,
}

impl Name {
    /// A host that is known holds its counters.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.counters) > 1
    }
}

impl Names {
    /// The counters of a host that has a name, or gets one now.
    fn name(&mut self, key: &HostKey, has_rule: bool) -> Option<Arc<Counters>> {
        if let Some(name) = self.known.get(key) {
            return Some(Arc::clone(&name.counters));
        }
        if !has_rule {
            if self.taken >= self.most && !self.give_up_one() {
                return None;
            }
            self.taken += 1;
        }
        let counters = Arc::default();
        let name = Name { counters: Arc::clone(&counters), has_rule, unused_since: None };
        self.known.insert(key.clone(), name);
        Some(counters)
    }

    /// Drops a name whose host has been unused for long; whether there was one.
    fn give_up_one(&mut self) -> bool {
        while let Some(key) = self.rested.pop() {
            if self.known.get(&key).is_some_and(|name| !name.is_used() && !name.has_rule) {
                self.known.remove(&key);
                self.taken -= 1;
                return true;
            }
        }
        false
    }

    fn look(&mut self, now: Instant, has_rule: impl Fn(&HostKey) -> bool) {
        self.rested.clear();
        self.taken = 0;
        for (key, name) in &mut self.known {
            name.has_rule = has_rule(key);
            self.taken += usize::from(!name.has_rule);
            if name.is_used() {
                name.unused_since = None;
            } else if now - *name.unused_since.get_or_insert(now) >= NAME_REST && !name.has_rule {
                self.rested.push(key.clone());
            }
        }
        // Rules that are gone leave names behind.
        while self.taken > self.most && self.give_up_one() {}
    }
}

/// Forgets hosts that nobody uses, for as long as it is polled.
pub(crate) async fn tend(limiter: Limiter) {
    let step = limiter.settings().hosts.idle / 2;
    loop {
        tokio::time::sleep(step).await;
        limiter.forget_unused();
    }
}

impl Limiter {
    /// Forgets what is known of hosts that nobody has used since the last call, and takes their names
    /// in metrics away from those unused for ten minutes if others want them. A running
    /// [`App`](crate::app::App) does it by itself, twice in each [`Settings::idle`].
    pub fn forget_unused(&self) {
        let rules = self.inner.rules.load();
        self.inner.hosts.look(clock::now(), |key| rules.named(key));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit;
    use crate::limit::Patience;

    fn limiter(named: usize) -> Limiter {
        let hosts = Settings { named, ..Settings::default() };
        Limiter::local(limit::Settings { default_limit: 1, hosts, ..limit::Settings::default() })
    }

    fn key(number: usize) -> HostKey {
        HostKey::parse(&format!("h{number}.test")).unwrap()
    }

    async fn use_once(limiter: &Limiter, key: &HostKey) {
        drop(limiter.acquire(key, Patience::None).await.unwrap());
    }

    fn names(limiter: &Limiter) -> Vec<String> {
        let mut names = Vec::new();
        limiter.inner.hosts.each_name(|key, _| names.push(key.to_string()));
        names.sort();
        names
    }

    #[tokio::test]
    async fn hosts_that_nobody_uses_do_not_fill_the_memory() {
        let limiter = limiter(100);
        for number in 0..20_000 {
            use_once(&limiter, &key(number)).await;
        }
        assert!(limiter.snapshot().len() <= SHARDS * SHARD_SIZE);
        limiter.forget_unused();
        limiter.forget_unused();
        assert_eq!(limiter.snapshot(), []);
        let capacity = |shard: &Mutex<Shard>| lock(shard).hosts.capacity();
        assert!(limiter.inner.hosts.shards.iter().map(capacity).sum::<usize>() < 50_000);
    }

    #[tokio::test]
    async fn a_host_that_is_used_or_was_a_moment_ago_is_kept() {
        let limiter = limiter(100);
        let held = limiter.acquire(&key(1), Patience::None).await.unwrap();
        for _ in 0..3 {
            use_once(&limiter, &key(2)).await;
            limiter.forget_unused();
            assert_eq!(limiter.snapshot().len(), 2);
        }
        assert_eq!(limiter.open_here(&key(1)), 1);
        drop(held);
        limiter.forget_unused();
        assert_eq!(limiter.snapshot().len(), 1, "the one that was in use at the last look");
        limiter.forget_unused();
        assert_eq!(limiter.snapshot(), []);
    }

    #[tokio::test]
    async fn somebody_who_waits_finds_the_host_that_is_asked_for() {
        let limiter = limiter(100);
        let held = limiter.acquire(&key(1), Patience::None).await.unwrap();
        let until = Patience::Until(clock::now() + Duration::from_mins(1));
        let key = key(1);
        let mut waiting = std::pin::pin!(limiter.acquire(&key, until));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        limiter.forget_unused();
        limiter.forget_unused();
        drop(held);
        let held = waiting.await.unwrap();
        assert_eq!(limiter.open_here(&key), 1);
        limiter.acquire(&key, Patience::None).await.unwrap_err();
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_goes_to_another_only_when_its_host_was_unused_for_long() {
        let limiter = limiter(2);
        let held = limiter.acquire(&key(1), Patience::None).await.unwrap();
        use_once(&limiter, &key(2)).await;
        use_once(&limiter, &key(3)).await;
        assert_eq!(names(&limiter), ["h1.test", "h2.test"]);
        for _ in 0..3 {
            limiter.forget_unused();
        }
        use_once(&limiter, &key(4)).await;
        assert_eq!(names(&limiter), ["h1.test", "h2.test"], "unused, but not for long");
        tokio::time::advance(NAME_REST).await;
        limiter.forget_unused();
        use_once(&limiter, &key(5)).await;
        use_once(&limiter, &key(6)).await;
        assert_eq!(names(&limiter), ["h1.test", "h5.test"], "one is in use, one was free");
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_counted_under_a_name_outlives_the_host() {
        let limiter = limiter(2);
        for _ in 0..3 {
            use_once(&limiter, &key(1)).await;
            limiter.forget_unused();
            limiter.forget_unused();
            assert_eq!(limiter.snapshot(), []);
            tokio::time::advance(NAME_REST * 2).await;
        }
        let mut admitted = Vec::new();
        let count =
            |counters: &Counters| counters.admitted.load(std::sync::atomic::Ordering::Relaxed);
        limiter
            .inner
            .hosts
            .each_name(|key, counters| admitted.push((key.clone(), count(counters))));
        assert_eq!(admitted, [(key(1), 3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_with_a_rule_has_a_name_whatever_happens() {
        let limiter = limiter(1);
        limiter.set_host_limit("h9.test".parse().unwrap(), 5);
        for number in [1, 2, 9] {
            use_once(&limiter, &key(number)).await;
        }
        assert_eq!(names(&limiter), ["h1.test", "h9.test"]);
        let rest = async || {
            limiter.forget_unused();
            limiter.forget_unused();
            limiter.forget_unused();
            tokio::time::advance(NAME_REST).await;
            limiter.forget_unused();
        };
        rest().await;
        use_once(&limiter, &key(3)).await;
        assert_eq!(names(&limiter), ["h3.test", "h9.test"]);
        limiter.remove_host_limit(&"h9.test".parse().unwrap());
        rest().await;
        assert_eq!(names(&limiter).len(), 1);
    }
}
