//! What is known of credentials that were verified a while ago, and who asks for one verification
//! together.
//!
//! Credentials are known by a keyed hash of them, with a key that this process made up and nobody
//! else has. What was found right and what was found wrong are kept apart, so that no number of
//! wrong ones pushes a right one out; each is bounded, and what was asked for last stays longest.
//!
//! Invariant: between [`Found::Asked`] and [`Memory::settle`] of one credential nobody else is told
//! `Asked`.

use std::collections::HashMap;
use std::collections::HashSet;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Denied;
use super::basic::Credentials;
use super::recent::Recent;
use crate::base::clock;

/// How long credentials count as right without being verified again; and as wrong.
const RIGHT: Duration = Duration::from_mins(5);
const WRONG: Duration = Duration::from_mins(1);
/// How many of either kind are kept, in each of the parts.
const KEPT: usize = 512;
const PARTS: usize = 16;

/// What stands for a user and a password.
#[derive(Clone, Copy, Debug, Eq)]
pub(super) struct Tag([u8; 32]);

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for Tag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

impl Tag {
    /// A number that is as good as random.
    fn number(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

/// What came of a verification.
pub(super) type Outcome = Result<Arc<str>, Denied>;

/// What a look into the memory finds.
#[derive(Debug)]
pub(super) enum Found {
    /// It is known.
    Known(Outcome),
    /// It is being verified; here is where the outcome comes.
    Asked(oneshot::Receiver<Outcome>),
}

#[derive(Debug)]
struct Right {
    user: Arc<str>,
    until: Instant,
}

#[derive(Debug)]
struct Part {
    right: Recent<Tag, Right>,
    wrong: Recent<Tag, Instant>,
    asked: HashMap<Tag, Vec<oneshot::Sender<Outcome>>>,
}

impl Part {
    fn new() -> Self {
        Self { right: Recent::new(KEPT), wrong: Recent::new(KEPT), asked: HashMap::new() }
    }
}

#[derive(Debug)]
pub(super) struct Memory {
    key: hmac::Key,
    /// Of names that nobody has: else whoever asks for one could choose what it costs.
    names: hmac::Key,
    parts: [Mutex<Part>; PARTS],
}

impl Memory {
    pub(super) fn new() -> Option<Self> {
        let random = SystemRandom::new();
        let key = || hmac::Key::generate(hmac::HMAC_SHA256, &random).ok();
        let parts = std::array::from_fn(|_| Mutex::new(Part::new()));
        Some(Self { key: key()?, names: key()?, parts })
    }

    pub(super) fn tag(&self, credentials: &Credentials) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // No user has a colon in it: RFC 7617 §2.
        context.update(credentials.user.as_bytes());
        context.update(b":");
        context.update(&credentials.password);
        tag(&context.sign())
    }

    /// A number for a name: always the same, and nobody's to choose.
    pub(super) fn number(&self, name: &str) -> u64 {
        tag(&hmac::sign(&self.names, name.as_bytes())).number()
    }

    /// What is known of these credentials. If that is nothing, and nobody asks for them already, `ask`
    /// is to have them verified; its refusal is the outcome.
    pub(super) fn recall(&self, tag: Tag, ask: impl FnOnce() -> Result<(), Denied>) -> Found {
        let mut part = self.part(tag);
        let now = clock::now();
        if let Some(right) = part.right.get(tag).filter(|right| now < right.until) {
            return Found::Known(Ok(Arc::clone(&right.user)));
        }
        if part.wrong.get(tag).is_some_and(|until| now < *until) {
            return Found::Known(Err(Denied::Credentials));
        }
        if !part.asked.contains_key(&tag)
            && let Err(denied) = ask()
        {
            return Found::Known(Err(denied));
        }
        let (sender, outcome) = oneshot::channel();
        part.asked.entry(tag).or_default().push(sender);
        Found::Asked(outcome)
    }

    /// Whether somebody still wants to know. If not, the next who asks begins anew.
    pub(super) fn is_awaited(&self, tag: Tag) -> bool {
        let mut part = self.part(tag);
        let is_awaited =
            part.asked.get(&tag).is_some_and(|all| all.iter().any(|one| !one.is_closed()));
        if !is_awaited {
            part.asked.remove(&tag);
        }
        is_awaited
    }

    /// Tells all who asked. `is_current` is whether what was found may be remembered, asked under the
    /// lock that [`Memory::forget`] takes.
    pub(super) fn settle(&self, tag: Tag, outcome: &Outcome, is_current: impl FnOnce() -> bool) {
        let asked = {
            let mut part = self.part(tag);
            if is_current() {
                let now = clock::now();
                match outcome {
                    Ok(user) => {
                        let right = Right { user: Arc::clone(user), until: now + RIGHT };
                        part.right.put(tag, right);
                    }
                    Err(_wrong) => part.wrong.put(tag, now + WRONG),
                }
            }
            part.asked.remove(&tag)
        };
        for sender in asked.into_iter().flatten() {
            // Who asked may have left.
            drop(sender.send(outcome.clone()));
        }
    }

    /// These users are others now, or gone; and what was wrong may be right.
    pub(super) fn forget(&self, changed: &HashSet<Arc<str>>) {
        for part in &self.parts {
            let mut part = lock(part);
            part.right.retain(|right| !changed.contains(&right.user));
            part.wrong.clear();
        }
    }

    fn part(&self, tag: Tag) -> MutexGuard<'_, Part> {
        lock(&self.parts[usize::from(tag.0[31]) % PARTS])
    }
}

fn tag(signed: &hmac::Tag) -> Tag {
    let mut tag = Tag([0; 32]);
    tag.0.copy_from_slice(&signed.as_ref()[..32]);
    tag
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new().unwrap()
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: password.as_bytes().into() }
    }

    fn known(memory: &Memory, tag: Tag) -> Option<Outcome> {
        match memory.recall(tag, || Err(Denied::Busy)) {
            Found::Known(Err(Denied::Busy)) => None,
            Found::Known(outcome) => Some(outcome),
            Found::Asked(_) => panic!("somebody asks"),
        }
    }

    #[test]
    fn a_tag_stands_for_one_user_and_one_password_in_one_process() {
        let memory = memory();
        let tag = |user: &str, password: &str| memory.tag(&credentials(user, password));
        assert_eq!(tag("a", "b"), tag("a", "b"));
        assert_ne!(tag("a", "b"), tag("a", "c"));
        assert_ne!(tag("ab", "c"), tag("a", "bc"));
        assert_ne!(Memory::new().unwrap().tag(&credentials("a", "b")), tag("a", "b"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_known_for_a_while() {
        let memory = memory();
        let (right, wrong) =
            (memory.tag(&credentials("a", "b")), memory.tag(&credentials("a", "c")));
        assert_eq!(known(&memory, right), None);
        memory.settle(right, &Ok("a".into()), || true);
        memory.settle(wrong, &Err(Denied::Credentials), || true);
        tokio::time::advance(WRONG.saturating_sub(Duration::from_secs(1))).await;
        assert_eq!(known(&memory, right), Some(Ok("a".into())));
        assert_eq!(known(&memory, wrong), Some(Err(Denied::Credentials)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(known(&memory, wrong), None);
        tokio::time::advance(RIGHT).await;
        assert_eq!(known(&memory, right), None);
    }

    #[tokio::test]
    async fn who_asks_for_the_same_asks_once_and_all_are_told() {
        let memory = memory();
        let tag = memory.tag(&credentials("a", "b"));
        let Found::Asked(one) = memory.recall(tag, || Ok(())) else { panic!("nothing is known") };
        let second = memory.recall(tag, || panic!("it is asked for already"));
        let Found::Asked(two) = second else { panic!("nothing is known") };
        drop(one);
        assert!(memory.is_awaited(tag));
        memory.settle(tag, &Ok("a".into()), || true);
        assert_eq!(two.await, Ok(Ok("a".into())));
        assert!(!memory.is_awaited(tag));
    }

    #[test]
    fn whom_nobody_waits_for_is_not_awaited_and_can_be_asked_for_again() {
        let memory = memory();
        let tag = memory.tag(&credentials("a", "b"));
        drop(memory.recall(tag, || Ok(())));
        assert!(!memory.is_awaited(tag));
        let mut asked = false;
        drop(memory.recall(tag, || {
            asked = true;
            Ok(())
        }));
        assert!(asked);
    }

    #[test]
    fn a_changed_user_is_forgotten_with_all_that_was_wrong() {
        let memory = memory();
        let tag = |user: &str| memory.tag(&credentials(user, "p"));
        for user in ["a", "b"] {
            memory.settle(tag(user), &Ok(user.into()), || true);
        }
        memory.settle(tag("c"), &Err(Denied::Credentials), || true);
        memory.settle(tag("d"), &Ok("d".into()), || false);
        memory.forget(&HashSet::from(["a".into()]));
        assert_eq!(known(&memory, tag("a")), None);
        assert_eq!(known(&memory, tag("b")), Some(Ok("b".into())));
        assert_eq!(known(&memory, tag("c")), None);
        assert_eq!(known(&memory, tag("d")), None, "it was not current");
    }

    #[test]
    fn wrong_ones_push_no_right_one_out_and_fill_no_memory() {
        let memory = memory();
        let good = memory.tag(&credentials("a", "b"));
        memory.settle(good, &Ok("a".into()), || true);
        for number in 0..PARTS * KEPT * 3 {
            let tag = memory.tag(&credentials("a", &number.to_string()));
            memory.settle(tag, &Err(Denied::Credentials), || true);
        }
        assert_eq!(known(&memory, good), Some(Ok("a".into())));
        let kept = memory.parts.iter().map(|part| {
            let part = lock(part);
            part.wrong.len()
        });
        assert!(kept.sum::<usize>() <= PARTS * KEPT);
    }

    #[test]
    fn what_is_asked_for_stays_while_others_come_and_go() {
        let memory = memory();
        let good = memory.tag(&credentials("a", "b"));
        memory.settle(good, &Ok("a".into()), || true);
        for number in 0..PARTS * KEPT * 3 {
            let tag = memory.tag(&credentials("b", &number.to_string()));
            memory.settle(tag, &Ok("b".into()), || true);
            assert!(known(&memory, good).is_some(), "{number}");
        }
    }
}
