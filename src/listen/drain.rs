//! The end of service, as one thread's connections hear of it.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

/// Whether service ends.
///
/// PERF: a flag that each connection looks at whenever it runs; only the change wakes anybody.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    on: Cell<bool>,
    last: Cell<u64>,
    wakers: RefCell<HashMap<u64, Waker>>,
}

impl Drain {
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Begins the drain, and wakes all that listen.
    pub(crate) fn begin(&self) {
        self.on.set(true);
        self.wakers.take().into_values().for_each(Waker::wake);
    }

    /// Has this task woken when the drain begins, until the guard is dropped.
    pub(crate) fn listen(self: &Rc<Self>, waker: Waker) -> Listener {
        let id = self.last.get() + 1;
        self.last.set(id);
        self.wakers.borrow_mut().insert(id, waker);
        Listener { drain: Rc::clone(self), id }
    }
}

/// A task that hears of the drain.
#[derive(Debug)]
pub(crate) struct Listener {
    drain: Rc<Drain>,
    id: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.drain.wakers.borrow_mut().remove(&self.id);
    }
}
