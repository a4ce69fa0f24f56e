//! Tokens that were verified before, by their digests: right ones until they expire, wrong ones for a
//! while, so that one that comes again costs one hash and one look-up.
//!
//! Both are bounded and kept apart: no number of wrong ones pushes a right one out. What was found with
//! other keys than there are now is not known.

use std::array;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Flaw;
use super::Token;
use crate::policy::access::digest::Digest;
use crate::policy::access::recent::Recent;

/// How long a token counts as wrong without being verified again.
const WRONG: Duration = Duration::from_secs(10);
/// How many of either kind are kept, in each of the parts: of the longest tokens (8 KiB) some 64 MiB.
const KEPT: usize = 256;
const PARTS: usize = 16;

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

#[derive(Debug)]
struct Right {
    token: Arc<Token>,
    /// None holds for ever.
    until: Option<SystemTime>,
    generation: u64,
}

#[derive(Debug)]
struct Wrong {
    flaw: Flaw,
    until: Instant,
    generation: u64,
}

#[derive(Debug)]
struct Part {
    right: Recent<Digest, Right>,
    wrong: Recent<Digest, Wrong>,
}

#[derive(Debug)]
pub(super) struct Memory {
    parts: [Mutex<Part>; PARTS],
}

impl Memory {
    pub(super) fn new() -> Self {
        let part = || Part { right: Recent::new(KEPT), wrong: Recent::new(KEPT) };
        Self { parts: array::from_fn(|_| Mutex::new(part())) }
    }

    /// What is known of a token, by the keys of this generation.
    pub(super) fn recall(
        &self,
        digest: Digest,
        generation: u64,
        now: Now,
    ) -> Option<Result<Arc<Token>, Flaw>> {
        let mut part = self.part(digest);
        let right = part.right.get(digest).filter(|right| right.generation == generation);
        if let Some(right) = right {
            let holds = right.until.is_none_or(|until| now.wall < until);
            return Some(if holds { Ok(Arc::clone(&right.token)) } else { Err(Flaw::Expired) });
        }
        let wrong = part.wrong.get(digest).filter(|wrong| wrong.generation == generation);
        wrong.filter(|wrong| now.steady < wrong.until).map(|wrong| Err(wrong.flaw))
    }

    pub(super) fn right(
        &self,
        digest: Digest,
        generation: u64,
        token: &Arc<Token>,
        until: Option<SystemTime>,
    ) {
        let right = Right { token: Arc::clone(token), until, generation };
        self.part(digest).right.put(digest, right);
    }

    pub(super) fn wrong(&self, digest: Digest, generation: u64, flaw: Flaw, now: Now) {
        let wrong = Wrong { flaw, until: now.steady + WRONG, generation };
        self.part(digest).wrong.put(digest, wrong);
    }

    fn part(&self, digest: Digest) -> MutexGuard<'_, Part> {
        let part = &self.parts[usize::from(digest.last()) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = |part: &Mutex<Part>| {
            let part = part.lock().unwrap();
            part.right.len() + part.wrong.len()
        };
        self.parts.iter().map(len).sum()
    }
}
