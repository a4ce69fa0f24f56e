//! Which ways are not gone for a while: bans, each of one parent (or of going directly) for one host
//! or for all.
//!
//! A ban is made by what came back. Once its time is over one request tries the way, and until that
//! is told nobody else; a success ends the ban, a failure makes the next one twice as long. A parent
//! that fails for [`IN_A_ROW`] hosts, with no success between, is banned for all.
//!
//! Nothing here waits or speaks to Redis. PERF: where nothing is banned, that is one atomic read.
//! Invariant: at most [`MOST`] hosts have bans.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::authority::HostKey;
use crate::base::clock;

/// Hosts for which a parent fails until it is down for all.
const IN_A_ROW: usize = 3;
/// Hosts that have bans.
const MOST: usize = 4096;
/// By how much a ban grows at most, and to how much in any case.
const GROWTH: u32 = 16;
const LONGEST: Duration = Duration::from_mins(10);
/// How long a request that tries a way again keeps others from it if nothing is heard of it.
const TRIAL: Duration = Duration::from_secs(30);
/// Where all ways are down, one of them is tried so often.
const RESORT: Duration = Duration::from_secs(1);

/// Why a way is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The parent cannot be reached.
    Unreachable,
    /// The parent does not take what it is told of us.
    Credentials,
    /// By this parent the host did not answer.
    Failed,
    /// A 429: too much was asked by this way.
    Limited,
    /// A 403: this way is not welcome there.
    Forbidden,
}

impl Why {
    const ALL: [Self; 5] =
        [Self::Unreachable, Self::Credentials, Self::Failed, Self::Limited, Self::Forbidden];

    /// The word for logs, Redis and the admin port.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Credentials => "credentials",
            Self::Failed => "failed",
            Self::Limited => "limited",
            Self::Forbidden => "forbidden",
        }
    }

    pub(super) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.as_str() == word)
    }

    /// Whether nothing can come by this way at all.
    fn is_down(self) -> bool {
        matches!(self, Self::Unreachable | Self::Credentials)
    }

    /// Whether it is held against the parent, and not against what was asked by it.
    fn is_failure(self) -> bool {
        self.is_down() || self == Self::Failed
    }
}

/// One way that is not gone.
#[derive(Clone, Debug)]
struct Ban {
    id: Arc<str>,
    why: Why,
    until: Instant,
    length: Duration,
    /// Until when somebody tries it.
    trial: Option<Instant>,
}

impl Ban {
    /// Until when it is not gone; none if it may be tried.
    fn holds(&self, now: Instant) -> Option<Instant> {
        let end = self.trial.map_or(self.until, |trial| trial.max(self.until));
        (end > now).then_some(end)
    }

    /// Nobody has tried it for so long that it says nothing any more.
    fn is_stale(&self, now: Instant) -> bool {
        now > self.until + self.length * 2 + TRIAL
    }
}

/// A ban as it is told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Of which way.
    pub(crate) id: Arc<str>,
    /// For which host; none for all.
    pub(crate) host: Option<HostKey>,
    pub(crate) why: Why,
    pub(crate) left: Duration,
    /// How long it is in all.
    pub(crate) length: Duration,
}

/// How a way stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Free,
    /// Its ban is over, and nobody has tried it since.
    Due,
    Banned {
        until: Instant,
        down: bool,
    },
}

#[derive(Debug, Default)]
struct Page {
    hosts: HashMap<HostKey, Entry>,
    all: Vec<Ban>,
    /// For which hosts ways have failed one after the other.
    rows: HashMap<Arc<str>, Vec<HostKey>>,
}

#[derive(Debug, Default)]
struct Entry {
    bans: Vec<Ban>,
    /// When one was tried though all were down.
    resort: Option<Instant>,
}

/// All bans of an API. It outlives changes of its settings.
#[derive(Debug, Default)]
pub(super) struct Memory {
    page: Mutex<Page>,
    /// Bans and rows.
    troubles: AtomicUsize,
}

impl Memory {
    /// What is held against ways to this host; none is nothing.
    pub(super) fn look<'m>(&'m self, host: &'m HostKey, now: Instant) -> Option<View<'m>> {
        if self.troubles.load(Relaxed) == 0 {
            return None;
        }
        let mut page = self.lock();
        page.forget(host, now);
        self.count(&page);
        Some(View { page, host, now })
    }

    /// A way to this host was no good. What others are to be told: a ban that is new, and one for
    /// all hosts.
    pub(super) fn ban(
        &self,
        (id, host): (&Arc<str>, &HostKey),
        why: Why,
        base: Duration,
        now: Instant,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        if base.is_zero() {
            return told;
        }
        let mut page = self.lock();
        page.make_room(host, now);
        let bans = &mut page.hosts.entry(host.clone()).or_default().bans;
        told.extend(strike(bans, id, why, base, now).map(|ban| ban.told(Some(host), now)));
        if why.is_failure() {
            let row = page.rows.entry(Arc::clone(id)).or_default();
            if !row.contains(host) {
                row.push(host.clone());
            }
            if row.len() >= IN_A_ROW {
                row.clear();
                let ban = strike(&mut page.all, id, why, base, now);
                told.extend(ban.map(|ban| ban.told(None, now)));
            }
        }
        self.count(&page);
        told
    }

    /// A way to this host that was gone `since` then is good; whether anything had been held against
    /// it. What was held against it later stays: of many under way one may be told no, and others not.
    pub(super) fn clear(&self, id: &Arc<str>, host: &HostKey, since: Instant) -> bool {
        if self.troubles.load(Relaxed) == 0 {
            return false;
        }
        let mut page = self.lock();
        let freed = page.free(id, Some(host), since) | page.free(id, None, since);
        page.rows.remove(id);
        self.count(&page);
        freed
    }

    /// Whoever tried a way came to nothing: another may.
    pub(super) fn untried(&self, id: &Arc<str>, host: &HostKey) {
        let mut page = self.lock();
        let Page { hosts, all, .. } = &mut *page;
        let bans = hosts.get_mut(host).map(|entry| &mut entry.bans);
        for ban in bans.into_iter().flatten().chain(all).filter(|ban| ban.id == *id) {
            ban.trial = None;
        }
    }

    /// Others say this; what is known here already stays if it is longer.
    pub(super) fn heard(&self, told: &Told, now: Instant) {
        let mut page = self.lock();
        let ban = Ban {
            id: Arc::clone(&told.id),
            why: told.why,
            until: now + told.left.min(LONGEST.max(told.length)),
            length: told.length,
            trial: None,
        };
        let bans = match &told.host {
            Some(host) => {
                page.make_room(host, now);
                &mut page.hosts.entry(host.clone()).or_default().bans
            }
            None => &mut page.all,
        };
        match bans.iter_mut().find(|known| known.id == ban.id) {
            Some(known) if known.until >= ban.until => {}
            Some(known) => *known = ban,
            None => bans.push(ban),
        }
        self.count(&page);
    }

    /// Others say that this way is good again.
    pub(super) fn freed(&self, id: &Arc<str>, host: Option<&HostKey>) {
        let mut page = self.lock();
        page.free(id, host, clock::now());
        self.count(&page);
    }

    /// All bans that hold, in no order.
    pub(super) fn snapshot(&self, now: Instant) -> Vec<Told> {
        let page = self.lock();
        let of_hosts = page.hosts.iter();
        let of_hosts =
            of_hosts.flat_map(|(host, entry)| entry.bans.iter().map(move |ban| (Some(host), ban)));
        let all = of_hosts.chain(page.all.iter().map(|ban| (None, ban)));
        let holding = all.filter(|(_, ban)| ban.until > now);
        holding.map(|(host, ban)| ban.told(host, now)).collect()
    }

    fn count(&self, page: &Page) {
        self.troubles.store(page.hosts.len() + page.all.len() + page.rows.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ban {
    fn told(&self, host: Option<&HostKey>, now: Instant) -> Told {
        Told {
            id: Arc::clone(&self.id),
            host: host.cloned(),
            why: self.why,
            left: self.until.saturating_duration_since(now),
            length: self.length,
        }
    }
}

/// Bans a way, for longer than before if it was tried again in vain; none if it is banned already.
fn strike<'b>(
    bans: &'b mut Vec<Ban>,
    id: &Arc<str>,
    why: Why,
    base: Duration,
    now: Instant,
) -> Option<&'b Ban> {
    let cap = (base * GROWTH).min(LONGEST).max(base);
    let at = bans.iter().position(|ban| ban.id == *id);
    let length = match at.map(|at| &bans[at]) {
        Some(known) if known.until > now => return None,
        Some(known) => (known.length * 2).clamp(base, cap),
        None => base,
    };
    let ban = Ban { id: Arc::clone(id), why, until: now + length, length, trial: None };
    match at {
        Some(at) => bans[at] = ban,
        None => bans.push(ban),
    }
    bans.iter().find(|ban| ban.id == *id)
}

impl Page {
    /// Drops what says nothing any more about ways to this host.
    fn forget(&mut self, host: &HostKey, now: Instant) {
        self.all.retain(|ban| !ban.is_stale(now));
        if let Some(entry) = self.hosts.get_mut(host) {
            entry.bans.retain(|ban| !ban.is_stale(now));
            if entry.bans.is_empty() {
                self.hosts.remove(host);
            }
        }
    }

    /// Drops what was held against a way before `since`.
    fn free(&mut self, id: &Arc<str>, host: Option<&HostKey>, since: Instant) -> bool {
        let bans = match host {
            Some(host) => match self.hosts.get_mut(host) {
                Some(entry) => &mut entry.bans,
                None => return false,
            },
            None => &mut self.all,
        };
        let before = bans.len();
        bans.retain(|ban| ban.id != *id || ban.until > since + ban.length);
        let freed = bans.len() < before;
        if let (true, Some(host)) = (bans.is_empty(), host) {
            self.hosts.remove(host);
        }
        freed
    }

    /// SECURITY: hosts come from clients, who may make them up.
    fn make_room(&mut self, host: &HostKey, now: Instant) {
        if self.hosts.len() < MOST || self.hosts.contains_key(host) {
            return;
        }
        self.hosts.retain(|_, entry| entry.bans.iter().any(|ban| ban.until > now));
        while self.hosts.len() >= MOST {
            let ends = |entry: &Entry| entry.bans.iter().map(|ban| ban.until).max();
            let first = self.hosts.iter().min_by_key(|(_, entry)| ends(entry));
            let Some(first) = first.map(|(host, _)| host.clone()) else { return };
            self.hosts.remove(&first);
        }
    }
}

/// What is held against ways to one host, at one moment. Short-lived: it holds the lock.
pub(super) struct View<'m> {
    page: MutexGuard<'m, Page>,
    host: &'m HostKey,
    now: Instant,
}

impl View<'_> {
    pub(super) fn standing(&self, id: &Arc<str>) -> Standing {
        let bans = self.page.hosts.get(self.host).map(|entry| &entry.bans);
        let all = bans.into_iter().flatten().chain(&self.page.all);
        let mut standing = Standing::Free;
        for ban in all.filter(|ban| ban.id == *id) {
            standing = match (ban.holds(self.now), standing) {
                (None, Standing::Free) => Standing::Due,
                (None, known) => known,
                (Some(end), Standing::Banned { until, down }) => {
                    Standing::Banned { until: until.max(end), down: down | ban.why.is_down() }
                }
                (Some(until), _) => Standing::Banned { until, down: ban.why.is_down() },
            };
        }
        standing
    }

    /// Somebody tries this way; others wait for what comes of it.
    pub(super) fn try_again(&mut self, id: &Arc<str>) {
        let until = self.now + TRIAL;
        let Page { hosts, all, .. } = &mut *self.page;
        let bans = hosts.get_mut(self.host).map(|entry| &mut entry.bans);
        for ban in bans.into_iter().flatten().chain(all).filter(|ban| ban.id == *id) {
            ban.trial = Some(until);
        }
    }

    /// All ways are down: none if one of them may be tried all the same, else after how long.
    pub(super) fn last_resort(&mut self) -> Option<Duration> {
        let entry = self.page.hosts.entry(self.host.clone()).or_default();
        let next = entry.resort.map_or(self.now, |last| last + RESORT);
        if next > self.now {
            return Some(next - self.now);
        }
        entry.resort = Some(self.now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(30);

    fn host(text: &str) -> HostKey {
        HostKey::parse(text).unwrap()
    }

    fn standing(memory: &Memory, id: &Arc<str>, host: &HostKey, now: Instant) -> Standing {
        memory.look(host, now).map_or(Standing::Free, |view| view.standing(id))
    }

    #[test]
    fn a_ban_is_one_ways_to_one_host_and_ends() {
        let (memory, now) = (Memory::default(), clock::now());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (a, b) = (host("a.test"), host("b.test"));
        assert!(memory.look(&a, now).is_none());
        assert_eq!(memory.ban((&one, &a), Why::Limited, BASE, now).len(), 1);
        assert_eq!(memory.ban((&one, &a), Why::Limited, BASE, now).len(), 0, "known already");
        let until = now + BASE;
        assert_eq!(standing(&memory, &one, &a, now), Standing::Banned { until, down: false });
        assert_eq!(standing(&memory, &other, &a, now), Standing::Free);
        assert_eq!(standing(&memory, &one, &b, now), Standing::Free);
        assert_eq!(standing(&memory, &one, &a, until), Standing::Due);
        assert!(!memory.clear(&one, &a, now - BASE), "it began before");
        assert!(memory.clear(&one, &a, now));
        assert!(memory.look(&a, now).is_none());
    }

    #[test]
    fn one_tries_again_and_a_failure_doubles_the_ban_up_to_a_cap() {
        let (memory, mut now) = (Memory::default(), clock::now());
        let (id, a): (Arc<str>, _) = ("one".into(), host("a.test"));
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let told = memory.ban((&id, &a), Why::Failed, BASE, now);
            lengths.push(told[0].left.as_secs());
            now += told[0].left;
            let mut view = memory.look(&a, now).unwrap();
            assert_eq!(view.standing(&id), Standing::Due);
            view.try_again(&id);
            assert!(matches!(view.standing(&id), Standing::Banned { .. }), "one tries");
        }
        assert_eq!(lengths, [30, 60, 120, 240, 480, 480, 480]);
        memory.untried(&id, &a);
        assert_eq!(standing(&memory, &id, &a, now), Standing::Due);
        now += Duration::from_hours(1);
        assert!(standing(&memory, &id, &a, now) == Standing::Free, "it says nothing any more");
    }

    #[test]
    fn a_parent_that_fails_for_several_hosts_in_a_row_is_down_for_all() {
        let (memory, now) = (Memory::default(), clock::now());
        let id: Arc<str> = "one".into();
        let [a, b, c, d] = ["a.test", "b.test", "c.test", "d.test"].map(host);
        memory.ban((&id, &a), Why::Unreachable, BASE, now);
        memory.ban((&id, &b), Why::Unreachable, BASE, now);
        memory.clear(&id, &c, now);
        memory.ban((&id, &a), Why::Unreachable, BASE, now + BASE);
        memory.ban((&id, &b), Why::Unreachable, BASE, now + BASE);
        assert_eq!(standing(&memory, &id, &d, now + BASE), Standing::Free);
        let told = memory.ban((&id, &c), Why::Unreachable, BASE, now + BASE);
        assert_eq!(told.iter().map(|told| told.host.clone()).collect::<Vec<_>>(), [Some(c), None]);
        let is_down = |now| standing(&memory, &id, &d, now);
        assert!(matches!(is_down(now + BASE), Standing::Banned { down: true, .. }));
        memory.clear(&id, &d, now + BASE);
        assert_eq!(is_down(now + BASE), Standing::Free);
    }

    #[test]
    fn a_429_is_no_failure_of_the_parent() {
        let (memory, now) = (Memory::default(), clock::now());
        let id: Arc<str> = "one".into();
        for name in ["a.test", "b.test", "c.test"] {
            memory.ban((&id, &host(name)), Why::Limited, BASE, now);
        }
        assert_eq!(standing(&memory, &id, &host("d.test"), now), Standing::Free);
    }

    #[test]
    fn hosts_that_clients_make_up_do_not_fill_the_memory() {
        let (memory, now) = (Memory::default(), clock::now());
        let id: Arc<str> = "one".into();
        for number in 0..MOST + 10 {
            memory.ban((&id, &host(&format!("h{number}.test"))), Why::Limited, BASE, now);
        }
        assert_eq!(memory.snapshot(now).len(), MOST);
    }

    #[test]
    fn where_all_are_down_one_is_tried_each_second() {
        let (memory, now) = (Memory::default(), clock::now());
        let (id, a): (Arc<str>, _) = ("one".into(), host("a.test"));
        memory.ban((&id, &a), Why::Unreachable, BASE, now);
        assert_eq!(memory.look(&a, now).unwrap().last_resort(), None);
        assert_eq!(memory.look(&a, now).unwrap().last_resort(), Some(RESORT));
        assert_eq!(memory.look(&a, now + RESORT).unwrap().last_resort(), None);
    }

    #[test]
    fn what_others_say_counts_as_far_as_it_is_longer() {
        let (memory, now) = (Memory::default(), clock::now());
        let (id, a): (Arc<str>, _) = ("one".into(), host("a.test"));
        let told = |left| Told {
            id: Arc::clone(&id),
            host: Some(a.clone()),
            why: Why::Limited,
            left: Duration::from_secs(left),
            length: Duration::from_secs(left),
        };
        memory.heard(&told(20), now);
        memory.heard(&told(10), now);
        assert_eq!(memory.snapshot(now), [told(20)]);
        memory.freed(&id, Some(&a));
        assert_eq!(memory.snapshot(now), []);
    }
}
