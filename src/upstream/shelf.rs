//! Which threads have kept connections by parents: a request on one thread may take what another has
//! kept, since to come by a parent costs more than to ask.
//!
//! Only counts are here, and doors to knock at: a kept connection is its own thread's, which takes it
//! off its pool and hands it over ([`Parcel`]). Connections without a parent are not here at all.
//! Invariant: never more of one key on the shelf than its size, all threads together.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::exchange::Parcel;
use super::pool::PoolKey;

/// How long another thread may take to answer. A busy one takes longer than a new connection.
const PATIENCE: Duration = Duration::from_millis(50);

/// Somebody asks for a kept connection.
pub(crate) struct Wanted {
    pub(crate) key: PoolKey,
    pub(crate) answer: oneshot::Sender<Option<Parcel>>,
}

/// What all threads together have kept.
#[derive(Default)]
pub(crate) struct Shelf {
    page: Mutex<Page>,
}

#[derive(Default)]
struct Page {
    /// By thread.
    kept: HashMap<PoolKey, Vec<usize>>,
    doors: Vec<Option<mpsc::UnboundedSender<Wanted>>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

impl Shelf {
    /// A thread that keeps connections; where it hears who asks for one.
    pub(crate) fn enter(&self, thread: usize) -> mpsc::UnboundedReceiver<Wanted> {
        let (door, ear) = mpsc::unbounded_channel();
        let mut page = self.lock();
        if page.doors.len() <= thread {
            page.doors.resize_with(thread + 1, || None);
        }
        page.doors[thread] = Some(door);
        ear
    }

    /// A thread would keep one of a key of which there may be `size`; whether there is room.
    pub(crate) fn put(&self, key: &PoolKey, thread: usize, size: usize) -> bool {
        let mut page = self.lock();
        let kept = page.kept.entry(key.clone()).or_default();
        let has_room = kept.iter().sum::<usize>() < size;
        if has_room {
            if kept.len() <= thread {
                kept.resize(thread + 1, 0);
            }
            kept[thread] += 1;
        }
        if kept.iter().all(|count| *count == 0) {
            page.kept.remove(key);
        }
        has_room
    }

    /// A thread has one less.
    pub(crate) fn left(&self, key: &PoolKey, thread: usize) {
        let mut page = self.lock();
        let Some(kept) = page.kept.get_mut(key) else { return };
        if let Some(count) = kept.get_mut(thread) {
            *count = count.saturating_sub(1);
        }
        if kept.iter().all(|count| *count == 0) {
            page.kept.remove(key);
        }
    }

    /// Asks a thread that has one, if another than `thread` has.
    pub(crate) async fn ask(&self, key: &PoolKey, thread: usize) -> Option<Parcel> {
        let answered = {
            let page = self.lock();
            let kept = page.kept.get(key)?;
            let has = |(other, count): &(usize, &usize)| *other != thread && **count > 0;
            let (other, _) = kept.iter().enumerate().find(has)?;
            let door = page.doors.get(other)?.as_ref()?;
            let (answer, answered) = oneshot::channel();
            door.send(Wanted { key: key.clone(), answer }).ok()?;
            answered
        };
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()?
    }

    fn lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
