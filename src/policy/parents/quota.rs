//! How often a host is asked by one parent: so many requests in a time, as [`super::Settings::quota`]
//! says.
//!
//! Counted here alone; an instance of a fleet has its part of the number. Time is cut into [`PARTS`]
//! of the quota's own, and what was asked in one counts until the same part of the next round is
//! over: so never more than the number in any stretch of that length, wherever it begins.
//!
//! Invariant: at most [`MOST`] hosts are counted; of more, those unused longest are forgotten.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::authority::HostKey;

/// Parts that a round is cut into.
const PARTS: u32 = 16;
/// What is kept of them: one more, for the one that is under way.
const RING: usize = 17;
/// Hosts that are counted.
const MOST: usize = 4096;

/// What was asked by one parent.
#[derive(Clone, Debug, Default)]
struct Window {
    /// Requests of each part, in a ring.
    parts: [u32; RING],
    /// The part that was counted last.
    last: u64,
}

impl Window {
    fn roll(&mut self, part: u64) {
        let ring = self.parts.len() as u64;
        for passed in (self.last + 1)..=part.min(self.last + ring) {
            self.parts[slot(passed)] = 0;
        }
        self.last = self.last.max(part);
    }

    fn used(&self) -> u32 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// After how many parts there is room for one more.
    fn room_in(&self, most: u32) -> u64 {
        let mut left = self.used();
        let ring = self.parts.len() as u64;
        for step in 1..=ring {
            left -= self.parts[slot(self.last + step)];
            if left < most {
                return step;
            }
        }
        ring
    }
}

fn slot(part: u64) -> usize {
    usize::try_from(part % RING as u64).unwrap_or(0)
}

/// The counts of an API.
#[derive(Debug)]
pub(super) struct Quota {
    number: u32,
    part: Duration,
    began: Instant,
    hosts: Mutex<HashMap<HostKey, Vec<Window>>>,
}

impl Quota {
    pub(super) fn new(number: u32, time: Duration, began: Instant) -> Self {
        let part = (time / PARTS).max(Duration::from_micros(1));
        Self { number, part, began, hosts: Mutex::default() }
    }

    /// The counts for a host of so many parents, one of so many instances.
    pub(super) fn look(
        &self,
        host: &HostKey,
        parents: usize,
        instances: u32,
        now: Instant,
    ) -> Counted<'_> {
        let since = now.saturating_duration_since(self.began);
        let now = u64::try_from(since.as_nanos() / self.part.as_nanos()).unwrap_or(u64::MAX);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MOST && !hosts.contains_key(host) {
            let last = |windows: &Vec<Window>| windows.iter().map(|window| window.last).max();
            hosts.retain(|_, windows| {
                last(windows).is_some_and(|last| last + u64::from(PARTS) >= now)
            });
            if hosts.len() >= MOST {
                let oldest = hosts.iter().min_by_key(|(_, windows)| last(windows));
                if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                    hosts.remove(&oldest);
                }
            }
        }
        let windows = hosts.entry(host.clone()).or_default();
        windows.resize(parents, Window { last: now, ..Window::default() });
        for window in windows.iter_mut() {
            window.roll(now);
        }
        let most = (self.number / instances.max(1)).max(1);
        Counted { hosts, host: host.clone(), most, part: self.part }
    }
}

/// The counts for one host. Short-lived: it holds the lock.
pub(super) struct Counted<'q> {
    hosts: MutexGuard<'q, HashMap<HostKey, Vec<Window>>>,
    host: HostKey,
    most: u32,
    part: Duration,
}

impl Counted<'_> {
    fn window(&self, parent: usize) -> Option<&Window> {
        self.hosts.get(&self.host)?.get(parent)
    }

    /// Whether one more may go by this parent.
    pub(super) fn has(&self, parent: usize) -> bool {
        self.window(parent).is_none_or(|window| window.used() < self.most)
    }

    /// After how long one more may.
    pub(super) fn has_in(&self, parent: usize) -> Duration {
        let steps = self.window(parent).map_or(1, |window| window.room_in(self.most));
        self.part * u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// One goes.
    pub(super) fn take(&mut self, parent: usize) {
        let windows = self.hosts.get_mut(&self.host);
        if let Some(window) = windows.and_then(|windows| windows.get_mut(parent)) {
            let at = slot(window.last);
            window.parts[at] = window.parts[at].saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    #[test]
    fn never_more_in_any_stretch_and_all_at_once_if_need_be() {
        let began = clock::now();
        let quota = Quota::new(5, Duration::from_secs(16), began);
        let host = HostKey::parse("a.test").unwrap();
        let mut went: Vec<u64> = Vec::new();
        for tenth in 0..1000_u64 {
            let now = began + Duration::from_millis(tenth * 100);
            let mut counted = quota.look(&host, 1, 1, now);
            if counted.has(0) {
                counted.take(0);
                went.push(tenth);
            }
        }
        assert_eq!(went[..5], [0, 1, 2, 3, 4]);
        for (at, first) in went.iter().enumerate() {
            let within = went[at..].iter().filter(|later| *later - first < 160).count();
            assert!(within <= 5, "{went:?}");
        }
        assert!(went.len() >= 25, "{went:?}");
    }

    #[test]
    fn who_may_not_is_told_when_and_an_instance_has_its_part() {
        let began = clock::now();
        let quota = Quota::new(8, Duration::from_secs(16), began);
        let host = HostKey::parse("a.test").unwrap();
        let mut counted = quota.look(&host, 2, 4, began);
        counted.take(1);
        counted.take(1);
        assert_eq!((counted.has(0), counted.has(1)), (true, false));
        let left = counted.has_in(1);
        assert_eq!(left, Duration::from_secs(17));
        drop(counted);
        assert!(quota.look(&host, 2, 4, began + left).has(1));
    }
}
