//! Who waits for a slot of one host, in turn: one identity after the other, each as many times in a
//! round as its weight says, and within an identity first come, first served.
//!
//! It holds those who wait and nothing else; who may wait, and for how long, is [`super::host`]'s.
//! Joining, leaving and being next cost the same however many wait (leaving: however many of other
//! identities).
//!
//! Invariant: an identity stands in the turn if, and only if, it has somebody waiting.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::base::identity::Identity;

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    id: u64,
    identity: Identity,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Queue<T> {
    lines: HashMap<Identity, Line<T>>,
    /// And how many more times each is served in this round.
    turn: VecDeque<(Identity, u32)>,
    last_id: u64,
    len: usize,
}

/// Those of one identity.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Line<T> {
    weight: u32,
    waiters: VecDeque<(u64, T)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turn: VecDeque::new(), last_id: 0, len: 0 }
    }
}

impl<T> Queue<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Joins those of `identity`, who has `weight` (at least 1) turns in a round.
    pub(crate) fn push(&mut self, identity: &Identity, weight: u32, waiter: T) -> Place {
        self.last_id += 1;
        self.len += 1;
        let line = self.lines.entry(identity.clone());
        let line = line.or_insert_with(|| Line { weight, waiters: VecDeque::new() });
        line.weight = weight;
        if line.waiters.is_empty() {
            self.turn.push_back((identity.clone(), weight));
        }
        line.waiters.push_back((self.last_id, waiter));
        Place { id: self.last_id, identity: identity.clone() }
    }

    /// Who is next. Their identity's next one waits for the turn to come round.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (identity, left) = self.turn.pop_front()?;
        let line = self.lines.get_mut(&identity)?;
        let (_, waiter) = line.waiters.pop_front()?;
        self.len -= 1;
        if line.waiters.is_empty() {
            self.lines.remove(&identity);
        } else if left > 1 {
            self.turn.push_front((identity, left - 1));
        } else {
            self.turn.push_back((identity, line.weight));
        }
        Some(waiter)
    }

    /// Gives a place up; none if it was served meanwhile.
    pub(crate) fn remove(&mut self, place: &Place) -> Option<T> {
        let line = &mut self.lines.get_mut(&place.identity)?.waiters;
        let index = line.binary_search_by_key(&place.id, |(id, _)| *id).ok()?;
        let (_, waiter) = line.remove(index)?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&place.identity);
            self.turn.retain(|(identity, _)| *identity != place.identity);
        }
        Some(waiter)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.lines.values_mut().flat_map(|line| &mut line.waiters).map(|(_, waiter)| waiter)
    }

    /// Takes out all of whom `is_out` holds; each identity keeps its turn.
    pub(crate) fn take_out(&mut self, mut is_out: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for (identity, _) in &self.turn {
            let Some(Line { waiters: line, .. }) = self.lines.get_mut(identity) else { continue };
            let mut kept = VecDeque::with_capacity(line.len());
            for (id, waiter) in line.drain(..) {
                if is_out(&waiter) {
                    taken.push(waiter);
                } else {
                    kept.push_back((id, waiter));
                }
            }
            *line = kept;
        }
        self.lines.retain(|_, line| !line.waiters.is_empty());
        self.turn.retain(|(identity, _)| self.lines.contains_key(identity));
        self.len -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Identity {
        Identity::Name(name.into())
    }

    fn all(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn identities_take_turns_and_each_ones_requests_keep_their_order() {
        let mut queue = Queue::default();
        for waiter in ["a1", "a2", "a3"] {
            queue.push(&who("a"), 1, waiter);
        }
        queue.push(&who("b"), 1, "b1");
        queue.push(&who("c"), 1, "c1");
        queue.push(&who("b"), 1, "b2");
        assert_eq!(all(&mut queue), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.turn.is_empty());
    }

    #[test]
    fn an_identity_has_as_many_turns_in_a_round_as_its_weight() {
        let mut queue = Queue::default();
        for waiter in ["a1", "a2", "a3", "a4"] {
            queue.push(&who("a"), 1, waiter);
        }
        for waiter in ["b1", "b2", "b3", "b4", "b5"] {
            queue.push(&who("b"), 3, waiter);
        }
        assert_eq!(all(&mut queue), ["a1", "b1", "b2", "b3", "a2", "b4", "b5", "a3", "a4"]);
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.turn.is_empty());
    }

    #[test]
    fn who_leaves_in_the_middle_of_a_turn_leaves_the_rest_of_it_to_nobody() {
        let mut queue = Queue::default();
        let places = ["a1", "a2", "a3"].map(|waiter| queue.push(&who("a"), 2, waiter));
        queue.push(&who("b"), 1, "b1");
        assert_eq!(queue.pop(), Some("a1"));
        for place in &places[1..] {
            queue.remove(place);
        }
        queue.push(&who("a"), 2, "a4");
        assert_eq!(all(&mut queue), ["b1", "a4"]);
    }

    #[test]
    fn an_identity_that_comes_back_is_not_ahead_of_those_who_stayed() {
        let mut queue = Queue::default();
        queue.push(&who("a"), 1, "a1");
        queue.push(&who("b"), 1, "b1");
        assert_eq!(queue.pop(), Some("a1"));
        queue.push(&who("a"), 1, "a2");
        assert_eq!(all(&mut queue), ["b1", "a2"]);
    }

    #[test]
    fn a_place_is_given_up_once_and_takes_nobody_elses() {
        let mut queue = Queue::default();
        let first = queue.push(&who("a"), 1, "a1");
        let second = queue.push(&who("a"), 1, "a2");
        let alone = queue.push(&who("b"), 1, "b1");
        assert_eq!(queue.remove(&second), Some("a2"));
        assert_eq!(queue.remove(&second), None);
        assert_eq!(queue.remove(&alone), Some("b1"));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pop(), Some("a1"));
        assert_eq!(queue.remove(&first), None);
        assert!(queue.turn.is_empty());
    }

    #[test]
    fn who_is_taken_out_leaves_the_others_their_turn() {
        let mut queue = Queue::default();
        for (identity, waiter) in [("a", "a1"), ("b", "x1"), ("a", "x2"), ("c", "c1"), ("a", "a2")]
        {
            queue.push(&who(identity), 1, waiter);
        }
        let taken = queue.take_out(|waiter| waiter.starts_with('x'));
        assert_eq!(taken, ["x2", "x1"]);
        assert_eq!(queue.len(), 3);
        assert_eq!(all(&mut queue), ["a1", "c1", "a2"]);
    }
}
