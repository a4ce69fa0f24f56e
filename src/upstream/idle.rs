//! Tunnels of one thread that have been without a byte for long, so that they would yield.
//!
//! Only who they are and since when: [`Pool`] chooses between them and its own connections, and
//! the tunnel itself has the last word, since it alone sees whether a byte is on its way. A tunnel
//! that was told to yield is not told again, and counts as idle until it has.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

use tokio::time::Instant;

use super::pool::Pool;
use crate::base::authority::HostKey;
use crate::limit::Reclaim;
use crate::limit::Seat;

/// Since when, and a number to tell tunnels of the same moment apart.
type Mark = (Instant, u64);

/// Where a tunnel is told to yield.
pub(crate) struct Ear {
    ask: Cell<Option<Reclaim>>,
    waker: RefCell<Waker>,
}

impl Ear {
    pub(crate) fn tell(&self, ask: Reclaim) {
        self.ask.set(Some(ask));
        self.waker.borrow().wake_by_ref();
    }
}

/// The tunnels of one thread that would yield, by host and age.
#[derive(Default)]
pub(crate) struct Tunnels {
    hosts: RefCell<HashMap<HostKey, BTreeMap<Mark, Rc<Ear>>>>,
    last: Cell<u64>,
}

impl Tunnels {
    /// Since when the longest idle one of a host has idled.
    pub(crate) fn oldest(&self, key: &HostKey) -> Option<Instant> {
        let hosts = self.hosts.borrow();
        let ((since, _), _) = hosts.get(key)?.first_key_value()?;
        Some(*since)
    }

    /// Takes the longest idle one of a host out, to tell it to yield.
    pub(crate) fn pop(&self, key: &HostKey) -> Option<Rc<Ear>> {
        let mark = *self.hosts.borrow().get(key)?.keys().next()?;
        self.remove(key, mark)
    }

    fn insert(&self, key: &HostKey, since: Instant, ear: Rc<Ear>) -> Mark {
        self.last.set(self.last.get() + 1);
        let mark = (since, self.last.get());
        self.hosts.borrow_mut().entry(key.clone()).or_default().insert(mark, ear);
        mark
    }

    fn remove(&self, key: &HostKey, mark: Mark) -> Option<Rc<Ear>> {
        let mut hosts = self.hosts.borrow_mut();
        let all = hosts.get_mut(key)?;
        let ear = all.remove(&mark);
        if all.is_empty() {
            hosts.remove(key);
        }
        ear
    }
}

/// A tunnel's place among those that would yield. It is dropped after the tunnel's slot is free,
/// unless the tunnel goes on ([`Parked::unpark`]).
pub(crate) struct Parked {
    pool: Rc<Pool>,
    seat: Seat,
    mark: Mark,
    ear: Rc<Ear>,
}

impl Parked {
    /// The tunnel that holds this seat has been without a byte since then.
    pub(crate) fn new(pool: &Rc<Pool>, seat: Seat, since: Instant, waker: &Waker) -> Self {
        let ear = Rc::new(Ear { ask: Cell::new(None), waker: RefCell::new(waker.clone()) });
        let mark = pool.tunnels().insert(seat.key(), since, Rc::clone(&ear));
        pool.note_parked(&seat, since);
        Self { pool: Rc::clone(pool), seat, mark, ear }
    }

    pub(crate) fn since(&self) -> Instant {
        self.mark.0
    }

    /// Whether it was asked to yield; otherwise it will be woken for that.
    pub(crate) fn is_asked(&self, waker: &Waker) -> bool {
        let ask = self.ear.ask.take();
        let is_asked = ask.is_some();
        self.ear.ask.set(ask);
        if !is_asked && !self.ear.waker.borrow().will_wake(waker) {
            self.ear.waker.replace(waker.clone());
        }
        is_asked
    }

    /// It is in use after all: what it was asked, another is asked.
    pub(crate) fn unpark(self) {
        let (pool, ask) = (Rc::clone(&self.pool), self.ear.ask.take());
        drop(self);
        if let Some(ask) = ask {
            pool.reclaim(ask);
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.pool.tunnels().remove(self.seat.key(), self.mark);
        self.pool.note_unparked(&self.seat, self.since());
        if let Some(mut ask) = self.ear.ask.take() {
            // Whether it yielded or ended by itself, its slot is free.
            ask.granted();
        }
    }
}
