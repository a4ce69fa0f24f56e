//! What the threads that admit leave for the one that speaks to Redis, for one shard: the hosts that
//! Redis must hear of, and a few atomics that say what room is measured against.
//!
//! It decides nothing and sends nothing; [`super::worker`] writes what is read here.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Failure;
use crate::base::clock;
use crate::limit::host::Basis;
use crate::limit::host::Host;

pub(super) const CONNECTING: u8 = 0;
pub(super) const UP: u8 = 1;
pub(super) const AWAY: u8 = 2;

/// What the threads that admit and the one that speaks to Redis share, for one shard.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(super) listed: Mutex<Vec<Arc<Host>>>,
    pub(super) wake: Notify,
    /// Instants below are nanoseconds after this one; 0 is none.
    born: Instant,
    pub(super) phase: AtomicU8,
    pub(super) leased_until: AtomicU64,
    pub(super) learning_until: AtomicU64,
    pub(super) instances: AtomicU32,
    pub(super) epoch: AtomicU64,
    pub(super) generation: AtomicU64,
    pub(super) hints: AtomicU64,
    pub(super) recalls: AtomicU64,
    pub(super) messages: AtomicU64,
    #[cfg(test)]
    is_reckless: std::sync::atomic::AtomicBool,
}

/// What a desk is at, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeskSnapshot {
    /// The messages' epoch: how many connections there have been.
    pub(crate) epoch: u64,
    /// Changes with each death and each loss of data.
    pub(crate) generation: u64,
    /// How long the lease still holds, and Redis still learns.
    pub(crate) leased: Option<Duration>,
    pub(crate) learning: Option<Duration>,
    /// Hints heard: slots that came to waiters, and calls to give some back.
    pub(crate) hints: u64,
    pub(crate) recalls: u64,
    /// Messages sent, hellos left out.
    pub(crate) messages: u64,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            listed: Mutex::default(),
            wake: Notify::new(),
            born: clock::now(),
            phase: AtomicU8::new(CONNECTING),
            leased_until: AtomicU64::new(0),
            learning_until: AtomicU64::new(0),
            instances: AtomicU32::new(1),
            epoch: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            hints: AtomicU64::new(0),
            recalls: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            #[cfg(test)]
            is_reckless: std::sync::atomic::AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(super) fn set_reckless(&self, is_reckless: bool) {
        self.is_reckless.store(is_reckless, Relaxed);
    }

    pub(super) fn instances(&self) -> u32 {
        self.instances.load(Relaxed)
    }

    pub(super) fn phase(&self) -> u8 {
        self.phase.load(Relaxed)
    }

    pub(super) fn is_learning(&self) -> bool {
        self.left(&self.learning_until).is_some()
    }

    pub(super) fn snapshot(&self) -> DeskSnapshot {
        DeskSnapshot {
            epoch: self.epoch.load(Relaxed),
            generation: self.generation.load(Relaxed),
            leased: self.left(&self.leased_until),
            learning: self.left(&self.learning_until),
            hints: self.hints.load(Relaxed),
            recalls: self.recalls.load(Relaxed),
            messages: self.messages.load(Relaxed),
        }
    }

    /// Puts a host on the list of those Redis must hear of.
    pub(super) fn speak(&self, host: Arc<Host>) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = listed.is_empty();
        listed.push(host);
        drop(listed);
        if first {
            self.wake.notify_one();
        }
    }

    /// What room is measured against now.
    pub(super) fn basis(&self, failure: Failure, slack: u32) -> Basis {
        let leased = || {
            #[cfg(test)]
            if self.is_reckless.load(Relaxed) {
                return true;
            }
            self.left(&self.leased_until).is_some()
        };
        let instances = self.instances();
        match self.phase() {
            UP => Basis::Granted { leased: leased(), slack, instances },
            CONNECTING => Basis::Granted { leased: false, slack: 0, instances },
            _ => match failure {
                Failure::Closed => Basis::Away { leased: leased() },
                Failure::Open => Basis::Open,
                Failure::Share => Basis::Share { instances },
            },
        }
    }

    /// There is nobody to speak to.
    pub(super) fn close(&self) {
        self.phase.store(AWAY, Relaxed);
    }

    pub(super) fn take_listed(&self) -> Vec<Arc<Host>> {
        std::mem::take(&mut *self.listed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn left(&self, until: &AtomicU64) -> Option<Duration> {
        let until = self.born + Duration::from_nanos(until.load(Relaxed));
        // Before its birth's first nanosecond nothing was due.
        Some(until.saturating_duration_since(clock::now())).filter(|left| !left.is_zero())
    }

    pub(super) fn write(&self, to: &AtomicU64, instant: Option<Instant>) {
        let nanos = instant.map_or(0, |instant| (instant - self.born).as_nanos());
        to.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }
}
