//! Which of a host's connections idle, by thread: so that the longest idle one can be asked for, on
//! whatever thread it is.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::Host;

/// What of a host's connections idles on one thread. Numbers that a moment may have overtaken: a
/// thread that is asked for more than it has says so.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// How many; written by that thread alone.
    pub(super) count: AtomicU32,
    /// Since when the longest does that may still be asked for, as [`Host::stamp`] has it; 0 is
    /// none. Written by that thread alone.
    pub(super) oldest: AtomicU64,
    /// How many the thread was asked to close; written under the host's lock.
    pub(super) asked: AtomicU32,
}

impl Idle {
    pub(super) fn is_rich(&self) -> bool {
        self.count.load(Relaxed) > self.asked.load(Relaxed)
    }

    /// What sorts threads by the age of what idles there.
    pub(super) fn age(&self) -> u64 {
        self.oldest.load(Relaxed).wrapping_sub(1)
    }
}

impl Host {
    /// One of this thread's connections idles, and has since then.
    pub(crate) fn park(&self, thread: usize, since: Instant) {
        let idle = &self.idle[thread];
        let stamp = self.stamp(since);
        if idle.age() > stamp - 1 {
            idle.oldest.store(stamp, Relaxed);
        }
        idle.count.fetch_add(1, Relaxed);
    }

    /// One of this thread's connections, idle since then, idles no more. `next` looks for the
    /// longest idle one that is left; it is only asked where that may be another one now.
    pub(crate) fn unpark(
        &self,
        thread: usize,
        since: Instant,
        next: impl FnOnce() -> Option<Instant>,
    ) {
        let idle = &self.idle[thread];
        if idle.count.fetch_sub(1, Relaxed) == 1 {
            idle.oldest.store(0, Relaxed);
        } else if idle.oldest.load(Relaxed) == self.stamp(since) {
            self.set_oldest(thread, next());
        }
    }

    /// This thread's longest idle connection that may still be asked for.
    pub(crate) fn set_oldest(&self, thread: usize, since: Option<Instant>) {
        let stamp = since.map_or(0, |since| self.stamp(since));
        self.idle[thread].oldest.store(stamp, Relaxed);
    }

    /// A moment as a number: microseconds from this host's birth, never 0.
    fn stamp(&self, at: Instant) -> u64 {
        let age = at.saturating_duration_since(self.born).as_micros();
        u64::try_from(age).unwrap_or(u64::MAX).saturating_add(1)
    }
}
