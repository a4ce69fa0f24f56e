//! The tier in memory: kept responses by their key, one table for all threads and all APIs.
//!
//! It is bounded in bytes, heads and keys included; of more, those that are asked for least often and
//! longest ago go, and what is new comes in only in their place (W-TinyLFU, by moka). It asks nobody,
//! waits for nobody and copies no body.
//!
//! A place that is forgotten leaves no list behind of what was kept of it. It leaves a number ([`Marks`]):
//! what was asked for before that number was drawn is not found any more, also when it comes only now.
//!
//! Invariant: what was asked for before its place was forgotten is never found after that.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::SeqCst;

use moka::notification::RemovalCause;
use moka::sync::Cache;

use super::entry::Entry;
use super::entry::Key;
use super::entry::Variants;
use super::key::Keys;

/// Places that share a mark are forgotten together, which costs one a request to the origin.
/// PERF: 1 MiB. At 1,000 unsafe requests a second, all to other places, a kept response is forgotten for
/// the sake of another place's after some two minutes.
const MARKS: usize = 1 << 17;
/// What a key and its place in the table cost.
const PER_KEY: usize = 128;

/// When something was asked for, or forgotten: a number of this process.
pub(crate) type Moment = u64;

/// All that is kept in memory.
pub(crate) struct Memory {
    table: Option<Cache<Key, Held>>,
    marks: Marks,
    evicted: Arc<AtomicU64>,
}

/// What stands in the table.
#[derive(Clone)]
struct Held {
    variants: Arc<Variants>,
    /// When the first of them was asked for.
    since: Moment,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Resources that had to go for others, since the start.
    pub(crate) evicted: u64,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("is_on", &self.table.is_some()).finish_non_exhaustive()
    }
}

impl Memory {
    /// With room for so many bytes; with none, nothing is kept.
    pub(crate) fn new(bytes: u64) -> Self {
        let evicted = Arc::<AtomicU64>::default();
        let count = Arc::clone(&evicted);
        let table = (bytes > 0).then(|| {
            Cache::builder()
                .max_capacity(bytes)
                .weigher(|_: &Key, held: &Held| {
                    u32::try_from(held.variants.size() + PER_KEY).unwrap_or(u32::MAX)
                })
                .eviction_listener(move |_, _, cause| {
                    if cause == RemovalCause::Size {
                        count.fetch_add(1, Relaxed);
                    }
                })
                .build()
        });
        Self { table, marks: Marks::new(), evicted }
    }

    /// Whether anything is kept at all.
    pub(crate) fn has_room(&self) -> bool {
        self.table.is_some()
    }

    /// The number of this moment: what is asked for now, and kept later, is kept as of now.
    pub(crate) fn moment(&self) -> Moment {
        self.marks.clock.load(SeqCst)
    }

    /// What is kept for a request, by an API all of whose responses were forgotten at `purged`.
    pub(crate) fn recall(&self, keys: &Keys, purged: Moment) -> Option<Arc<Variants>> {
        let held = self.table.as_ref()?.get(&keys.request)?;
        self.marks.is_known(&keys.place, held.since, purged).then_some(held.variants)
    }

    /// Keeps what was asked for at `since`, unless it was forgotten meanwhile.
    pub(crate) fn keep(&self, keys: &Keys, entry: Arc<Entry>, since: Moment, purged: Moment) {
        let Some(table) = &self.table else { return };
        let is_known = |since: Moment| self.marks.is_known(&keys.place, since, purged);
        if !is_known(since) {
            return;
        }
        table.entry(keys.request).and_upsert_with(|held| {
            match held.map(moka::Entry::into_value).filter(|held| is_known(held.since)) {
                Some(held) => Held {
                    variants: Arc::new(held.variants.with(entry)),
                    since: held.since.min(since),
                },
                None => Held { variants: Arc::new(Variants::default().with(entry)), since },
            }
        });
    }

    /// Forgets all that is kept of a place, and what of it is on its way.
    pub(crate) fn forget(&self, keys: &Keys) {
        self.forget_place(&keys.place);
        if let Some(table) = &self.table {
            // It could stay until its room is needed; but most places have the one request.
            table.invalidate(&keys.request);
        }
    }

    /// The same where only the place is known.
    pub(crate) fn forget_place(&self, place: &Key) {
        let now = self.tick();
        self.marks.slot(place).fetch_max(now, SeqCst);
    }

    /// A new moment, after all that were.
    pub(crate) fn tick(&self) -> Moment {
        self.marks.clock.fetch_add(1, SeqCst) + 1
    }

    pub(crate) fn level(&self) -> Level {
        let table = self.table.as_ref();
        // What is still to be counted is counted now.
        table.into_iter().for_each(Cache::run_pending_tasks);
        Level {
            entries: table.map_or(0, Cache::entry_count),
            bytes: table.map_or(0, Cache::weighted_size),
            evicted: self.evicted.load(Relaxed),
        }
    }

    /// Does now what is to be done some time, so that [`Memory::level`] is exact.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        self.table.iter().for_each(Cache::run_pending_tasks);
    }
}

/// When places were forgotten.
struct Marks {
    clock: AtomicU64,
    /// By a few bits of the place.
    slots: Box<[AtomicU64]>,
}

impl Marks {
    fn new() -> Self {
        Self { clock: AtomicU64::new(0), slots: (0..MARKS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether what was asked for at this moment was not forgotten since.
    fn is_known(&self, place: &Key, since: Moment, purged: Moment) -> bool {
        purged <= since && self.slot(place).load(SeqCst) <= since
    }

    fn slot(&self, place: &Key) -> &AtomicU64 {
        let [.., a, b, c, d] = place.0;
        let number = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or_default();
        &self.slots[number % MARKS]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::HeaderMap;
    use http::Method;
    use http::StatusCode;

    use super::super::entry::Head;
    use super::super::entry::Terms;
    use super::super::entry::Vary;
    use super::*;

    pub(crate) fn keys(number: u32) -> Keys {
        let mut key = [7; 32];
        key[28..].copy_from_slice(&number.to_be_bytes());
        Keys { place: Key(key), request: Key(key) }
    }

    pub(crate) fn entry(body: impl Into<Bytes>) -> Arc<Entry> {
        let head = Head {
            method: Method::GET,
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            asked: SystemTime::UNIX_EPOCH,
            answered: SystemTime::UNIX_EPOCH,
            vary: Vary::default(),
            lifetime: Duration::from_mins(1),
            keep: Duration::from_mins(2),
            terms: Terms::default(),
        };
        Arc::new(Entry { head: Arc::new(head), body: body.into() })
    }

    fn body(memory: &Memory, keys: &Keys) -> Option<Bytes> {
        memory.recall(keys, 0)?.iter().next().map(|entry| entry.body.clone())
    }

    #[test]
    fn what_was_kept_is_found_without_a_copy_until_it_is_forgotten() {
        let memory = Memory::new(1 << 20);
        let stored = entry("hello");
        memory.keep(&keys(1), Arc::clone(&stored), memory.moment(), 0);
        let found = body(&memory, &keys(1)).unwrap();
        assert_eq!(found.as_ptr(), stored.body.as_ptr());
        assert_eq!(body(&memory, &keys(2)), None);
        memory.forget(&keys(1));
        assert_eq!(body(&memory, &keys(1)), None);
        memory.keep(&keys(1), entry("again"), memory.moment(), 0);
        assert_eq!(body(&memory, &keys(1)).unwrap(), "again");
    }

    #[test]
    fn a_place_that_is_forgotten_takes_all_its_requests_along() {
        let memory = Memory::new(1 << 20);
        let others = (2..5).map(|number| Keys { place: keys(1).place, ..keys(number) });
        let others: Vec<Keys> = others.collect();
        for keys in &others {
            memory.keep(keys, entry("x"), memory.moment(), 0);
        }
        memory.keep(&keys(9), entry("x"), memory.moment(), 0);
        memory.forget(&keys(1));
        assert!(others.iter().all(|keys| body(&memory, keys).is_none()));
        assert!(body(&memory, &keys(9)).is_some(), "another place");
    }

    #[test]
    fn what_was_asked_for_before_its_place_was_forgotten_is_not_kept_after_that() {
        let memory = Memory::new(1 << 20);
        let asked = memory.moment();
        memory.forget(&keys(1));
        memory.keep(&keys(1), entry("late"), asked, 0);
        assert_eq!(body(&memory, &keys(1)), None);

        let asked = memory.moment();
        let purged = memory.tick();
        memory.keep(&keys(1), entry("late"), asked, purged);
        assert_eq!(memory.recall(&keys(1), purged), None);
        memory.keep(&keys(1), entry("new"), memory.moment(), purged);
        assert!(memory.recall(&keys(1), purged).is_some());
    }

    #[test]
    fn it_takes_no_more_room_than_it_has_and_heads_count() {
        const ROOM: u64 = 100_000;
        let memory = Memory::new(ROOM);
        for number in 0..1000 {
            memory.keep(&keys(number), entry(vec![0; 1000]), memory.moment(), 0);
        }
        memory.settle();
        let level = memory.level();
        assert!(level.bytes <= ROOM, "{level:?}");
        assert!((40..=62).contains(&level.entries), "of 1640 bytes each: {level:?}");
        assert!(level.evicted >= 900, "{level:?}");
    }

    #[test]
    fn what_is_asked_for_often_stays_while_others_come_and_go() {
        let memory = Memory::new(100_000);
        memory.keep(&keys(0), entry(vec![0; 1000]), memory.moment(), 0);
        for number in 1..2000 {
            assert!(body(&memory, &keys(0)).is_some(), "after {number}");
            memory.keep(&keys(number), entry(vec![0; 1000]), memory.moment(), 0);
            memory.settle();
        }
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let memory = Memory::new(0);
        memory.keep(&keys(1), entry("x"), memory.moment(), 0);
        assert_eq!(body(&memory, &keys(1)), None);
        assert_eq!(memory.level(), Level::default());
    }
}
