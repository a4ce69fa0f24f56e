//! What idles on one thread: connections kept for the next request, and tunnels that would yield.
//!
//! A kept connection still holds its slot. It is closed when it has idled long enough, when the
//! upstream closes it (watched while idle), when the limiter asks for its slot, and at once when
//! somebody waits for its host. Whom the limiter's asking meets is decided here by age alone;
//! tunnels ([`super::idle`]) are only told. Nothing here sends a request.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::exchange::Line;
use super::idle::Tunnels;
use super::screen::Bounds;
use super::shelf::Shelf;
use super::shelf::Wanted;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::limit::Reclaim;
use crate::limit::Seat;
use crate::policy::parents::Parent;
use crate::policy::parents::Terms;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Cells;
use crate::telemetry::metrics::Yielded;

/// Requests for the same key may share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) tls: bool,
    /// SECURITY: whether the client that it was dialled for is on loopback, and so may reach more.
    pub(crate) inside: bool,
    pub(crate) authority: Authority,
    /// SECURITY: by which parent, and as whom it knows us.
    pub(crate) parent: Option<Arc<Parent>>,
}

/// How a connection by a parent is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// For how long at most.
    timeout: Duration,
    /// How many of its key at most.
    size: usize,
}

impl Keep {
    pub(crate) fn of(terms: Terms) -> Self {
        Self { timeout: terms.keepalive_timeout, size: terms.keepalive_pool }
    }
}

/// A kept connection.
struct Idle {
    line: Line,
    since: Instant,
}

/// The idle connections of one thread.
pub(crate) struct Pool {
    thread: usize,
    idle_timeout: Duration,
    size: usize,
    idle: RefCell<HashMap<PoolKey, Vec<Idle>>>,
    count: Cell<usize>,
    tunnels: Tunnels,
    /// Of the task that watches.
    watcher: RefCell<Waker>,
    watching: Cell<bool>,
    /// The shortest time that any is kept.
    shortest: Cell<Duration>,
    /// What threads have kept by parents, and who asks this one for that.
    shelf: Arc<Shelf>,
    wanted: Cell<Option<mpsc::UnboundedReceiver<Wanted>>>,
    cells: Arc<Cells>,
}

impl Pool {
    pub(crate) fn new(
        thread: usize,
        idle_timeout: Duration,
        size: usize,
        shelf: Arc<Shelf>,
        cells: Arc<Cells>,
    ) -> Rc<Self> {
        let wanted = Cell::new(Some(shelf.enter(thread)));
        Rc::new(Self {
            thread,
            idle_timeout,
            size,
            idle: RefCell::default(),
            count: Cell::new(0),
            tunnels: Tunnels::default(),
            watcher: RefCell::new(Waker::noop().clone()),
            watching: Cell::new(false),
            shortest: Cell::new(idle_timeout),
            shelf,
            wanted,
            cells,
        })
    }

    /// The connection for `key` that has idled for the shortest time, if less than `fresh`.
    pub(crate) fn take(&self, key: &PoolKey, fresh: Duration) -> Option<Line> {
        loop {
            let mut idle = {
                let mut all = self.idle.borrow_mut();
                let kept = all.get_mut(key)?;
                let newest = kept.last()?;
                if clock::now() - newest.since >= fresh {
                    return None;
                }
                kept.pop()?
            };
            self.left(key, &idle);
            // What the upstream said meanwhile (a FIN, most likely) is seen now.
            if !idle.line.is_spent(Waker::noop()) {
                return Some(idle.line);
            }
        }
    }

    /// Keeps a connection whose last exchange is complete; closes it if it is of no use.
    pub(crate) fn put(&self, key: PoolKey, mut line: Line) {
        let spent = line.is_spent(&self.watcher.borrow());
        if spent || !line.is_ready() {
            return;
        }
        let keep = line.kept();
        if line.seats().any(Seat::is_wanted)
            || self.count.get() >= self.size
            || keep.is_some_and(|keep| !self.shelf.put(&key, self.thread, keep.size))
        {
            line.end();
            return;
        }
        // It is nobody's until somebody takes it.
        line.lend(None);
        let idle = Idle { line, since: clock::now() };
        for seat in idle.line.seats() {
            self.note_parked(seat, idle.since);
        }
        self.cells.parked();
        self.count.set(self.count.get() + 1);
        self.idle.borrow_mut().entry(key).or_default().push(idle);
        let is_shorter = keep.is_some_and(|keep| keep.timeout < self.shortest.get());
        if let (Some(keep), true) = (keep, is_shorter) {
            self.shortest.set(keep.timeout);
        }
        if is_shorter || !self.watching.get() {
            self.watcher.borrow().wake_by_ref();
        }
    }

    /// The same from another thread's, for a connection by a parent.
    pub(crate) async fn fetch(&self, key: &PoolKey, bounds: Bounds) -> Option<Line> {
        let parcel = self.shelf.ask(key, self.thread).await?;
        Line::adopt(parcel, bounds).await
    }

    /// Another thread asks for a kept connection.
    fn hand_over(&self, Wanted { key, answer }: Wanted) {
        let parcel = self.take(&key, Duration::MAX).and_then(Line::leave);
        // Who has given up meanwhile does without, and it closes.
        drop(answer.send(parcel));
    }

    /// An upstream met a bound while its response was on its way.
    pub(crate) fn note_bounded(&self, what: Bound) {
        self.cells.bounded(what);
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.close(|_, _| true);
    }

    /// Watches what idles until `asks` ends: to be spawned once on the pool's thread.
    pub(crate) async fn watch(self: Rc<Self>, mut asks: mpsc::UnboundedReceiver<Reclaim>) {
        let mut sweep = clock::Alarm::new();
        let mut due = clock::now();
        let mut wanted = self.wanted.take();
        poll_fn(|cx| {
            let step = (self.shortest.get() / 4).max(Duration::from_millis(5));
            due = due.min(clock::now() + step);
            self.watcher.replace(cx.waker().clone());
            loop {
                match asks.poll_recv(cx) {
                    Poll::Ready(Some(ask)) => self.reclaim(ask),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            while let Some(ear) = &mut wanted
                && let Poll::Ready(Some(wanted)) = ear.poll_recv(cx)
            {
                self.hand_over(wanted);
            }
            self.close(|idle, _| idle.line.has_stirred() && idle.line.is_spent(cx.waker()));
            if !self.watching.get() {
                self.watching.set(self.count.get() > 0);
                due = clock::now() + step;
            }
            while self.watching.get() && sweep.poll(cx, due).is_ready() {
                self.close(|idle, now| {
                    let timeout = idle.line.kept().map_or(self.idle_timeout, |keep| keep.timeout);
                    now - idle.since >= timeout
                });
                // Looked at once more when empty: a busy thread empties and fills the pool all
                // the time, and should not have to wake this task for it.
                self.watching.set(self.count.get() > 0);
                due = clock::now() + step;
            }
            Poll::Pending
        })
        .await;
    }

    /// Closes what has idled for longest of all that has a slot of this host.
    pub(crate) fn reclaim(&self, mut ask: Reclaim) {
        let kept = self.oldest_kept(ask.key());
        let tunnel = self.tunnels.oldest(ask.key());
        if let Some((key, at, since)) = kept
            && tunnel.is_none_or(|tunnel| since <= tunnel)
        {
            let taken = self.idle.borrow_mut().get_mut(&key).map(|kept| kept.remove(at));
            if let Some(idle) = taken {
                self.left(&key, &idle);
                self.cells.yielded(Yielded::Pooled);
                tracing::debug!(host = ask.key().as_str(), idle = ?(clock::now() - since), "kept connection yields");
                ask.granted();
                idle.line.end();
            }
        } else if let Some(ear) = self.tunnels.pop(ask.key()) {
            ask.passed_on(self.oldest(ask.key()));
            ear.tell(ask);
        }
    }

    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// A connection of this thread has idled since then.
    pub(crate) fn note_parked(&self, seat: &Seat, since: Instant) {
        seat.park(self.thread, since);
    }

    /// The same idles no more, and is gone from here.
    pub(crate) fn note_unparked(&self, seat: &Seat, since: Instant) {
        seat.unpark(self.thread, since, || self.oldest(seat.key()));
    }

    fn oldest(&self, key: &HostKey) -> Option<Instant> {
        let kept = self.oldest_kept(key).map(|(_, _, since)| since);
        kept.into_iter().chain(self.tunnels.oldest(key)).min()
    }

    /// Where the longest idle kept connection of a host is. By the seat's host: several authorities
    /// may share one budget.
    fn oldest_kept(&self, key: &HostKey) -> Option<(PoolKey, usize, Instant)> {
        let idle = self.idle.borrow();
        let firsts = idle.iter().filter_map(|(pooled, kept)| {
            let has = |idle: &Idle| idle.line.seats().any(|seat| seat.key() == key);
            let at = kept.iter().position(has)?;
            Some((pooled, at, kept[at].since))
        });
        let (pooled, at, since) = firsts.min_by_key(|(_, _, since)| *since)?;
        Some((pooled.clone(), at, since))
    }

    fn close(&self, mut which: impl FnMut(&mut Idle, Instant) -> bool) {
        let now = clock::now();
        let mut closing = Vec::new();
        self.idle.borrow_mut().retain(|key, kept| {
            let before = closing.len();
            closing.extend(kept.extract_if(.., |idle| which(idle, now)));
            if key.parent.is_some() {
                closing[before..].iter().for_each(|_| self.shelf.left(key, self.thread));
            }
            !kept.is_empty()
        });
        for idle in closing {
            self.gone(&idle);
            idle.line.end();
        }
    }

    fn left(&self, key: &PoolKey, idle: &Idle) {
        if key.parent.is_some() {
            self.shelf.left(key, self.thread);
        }
        self.gone(idle);
    }

    fn gone(&self, idle: &Idle) {
        self.count.set(self.count.get() - 1);
        self.cells.unparked();
        for seat in idle.line.seats() {
            self.note_unparked(seat, idle.since);
        }
    }
}
