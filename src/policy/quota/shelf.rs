//! What an instance remembers of keys: so many at most, and short locks.
//!
//! Keys are spread over [`SHARDS`] maps, each with a lock of its own, by a hash that nobody outside
//! can foresee. In a full one a new key takes the place of another: of some that are drawn by lot, of
//! the one that weighs least; one that is at rest weighs nothing. So any number of new keys (of IPv6
//! addresses there are 2^64 in the smallest network) costs no memory, and no more than some steps each.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

const SHARDS: usize = 64;
/// Keys that are drawn by lot when one has to go.
const DRAWN: usize = 8;

/// Some keys, and what is known of each.
#[derive(Debug)]
pub(super) struct Shelf<E> {
    hasher: RandomState,
    shards: Box<[Mutex<Shard<E>>]>,
    /// Keys in one shard.
    most: usize,
}

#[derive(Debug)]
struct Shard<E> {
    places: HashMap<Arc<str>, usize>,
    rows: Vec<(Arc<str>, E)>,
}

impl<E> Shelf<E> {
    /// One for so many keys.
    pub(super) fn new(most: usize) -> Self {
        let shard = || Mutex::new(Shard { places: HashMap::new(), rows: Vec::new() });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { hasher: RandomState::new(), shards, most: most.div_ceil(SHARDS) }
    }

    /// Does something to what is known of a key, which is made if there is nothing. `weigh` says what
    /// would be lost with another.
    pub(super) fn with<R>(
        &self,
        key: &str,
        make: impl FnOnce() -> E,
        weigh: impl Fn(&mut E) -> u8,
        act: impl FnOnce(&Arc<str>, &mut E) -> R,
    ) -> R {
        let mut shard = self.shard(key);
        let Shard { places, rows } = &mut *shard;
        let place = if let Some(place) = places.get(key) {
            *place
        } else {
            let name: Arc<str> = key.into();
            let row = (Arc::clone(&name), make());
            let place = if rows.len() < self.most {
                rows.push(row);
                rows.len() - 1
            } else {
                let place = lightest(rows, weigh);
                places.remove(&rows[place].0);
                rows[place] = row;
                place
            };
            places.insert(name, place);
            place
        };
        let (name, entry) = &mut rows[place];
        act(name, entry)
    }

    /// Does something to what is known of a key, if there is anything.
    pub(super) fn find<R>(&self, key: &str, act: impl FnOnce(&mut E) -> R) -> Option<R> {
        let mut shard = self.shard(key);
        let place = *shard.places.get(key)?;
        shard.rows.get_mut(place).map(|(_, entry)| act(entry))
    }

    /// Does something to all, until it says that it is enough.
    pub(super) fn each(&self, mut act: impl FnMut(&Arc<str>, &mut E) -> ControlFlow<()>) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            if shard.rows.iter_mut().try_for_each(|(key, entry)| act(key, entry)).is_break() {
                return;
            }
        }
    }

    /// Forgets a key; whether it was known.
    pub(super) fn forget(&self, key: &str) -> bool {
        let mut shard = self.shard(key);
        let Some(place) = shard.places.remove(key) else { return false };
        let row = shard.rows.swap_remove(place);
        if let Some(name) = shard.rows.get(place).map(|(name, _)| Arc::clone(name)) {
            shard.places.insert(name, place);
        }
        drop(shard);
        drop(row);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).rows.len()).sum()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard<E>> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[at])
    }
}

fn lock<E>(shard: &Mutex<Shard<E>>) -> MutexGuard<'_, Shard<E>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lightest of some.
fn lightest<E>(rows: &mut [(Arc<str>, E)], weigh: impl Fn(&mut E) -> u8) -> usize {
    let mut best = (u8::MAX, 0);
    for drawn in 0..DRAWN {
        let place = fastrand::usize(..rows.len());
        let weight = weigh(&mut rows[place].1);
        if drawn == 0 || weight < best.0 {
            best = (weight, place);
        }
        if weight == 0 {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(shelf: &Shelf<u8>, key: &str, weight: u8) {
        shelf.with(key, || weight, |entry| *entry, |_, _| ());
    }

    #[test]
    fn any_number_of_keys_takes_the_place_of_so_many() {
        let shelf = Shelf::new(640);
        for number in 0..100_000 {
            add(&shelf, &format!("2001:db8::{number:x}"), 1);
        }
        assert_eq!(shelf.len(), 640);
        for shard in &shelf.shards {
            let shard = lock(shard);
            assert_eq!(shard.places.len(), shard.rows.len());
            let known = shard.rows.iter().enumerate();
            assert!(known.into_iter().all(|(at, (key, _))| shard.places[key] == at));
        }
    }

    #[test]
    fn keys_at_rest_go_before_those_that_have_taken_something() {
        let shelf = Shelf::new(64 * 100);
        for number in 0..64 * 50 {
            add(&shelf, &format!("busy{number}"), 200);
        }
        for number in 0..64 * 200 {
            add(&shelf, &format!("idle{number}"), 0);
        }
        let busy = (0..64 * 50).filter(|number| {
            let known = shelf.find(&format!("busy{number}"), |weight| *weight);
            known.is_some()
        });
        // All eight that are drawn may be busy ones, once in 2^8 times.
        assert!(busy.count() > 64 * 35);
    }

    #[test]
    fn a_key_that_is_forgotten_leaves_the_others_where_they_can_be_found() {
        let shelf = Shelf::new(1000);
        for number in 0..200_u8 {
            add(&shelf, &number.to_string(), number);
        }
        for number in (0..200_u8).step_by(2) {
            assert!(shelf.forget(&number.to_string()));
            assert!(!shelf.forget(&number.to_string()));
        }
        for number in 0..200_u8 {
            let known = shelf.find(&number.to_string(), |weight| *weight);
            assert_eq!(known, (number % 2 == 1).then_some(number));
        }
    }
}
