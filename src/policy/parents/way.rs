//! A way that was chosen for one attempt, and what comes of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use super::Parent;
use super::Strategy;
use super::memory::Standing;
use super::memory::Why;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::policy::End;
use crate::policy::Facts;

/// What holds for connections by parents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) keepalive_timeout: Duration,
    pub(crate) keepalive_pool: usize,
    pub(crate) max_connections: u32,
}

/// A way that was chosen. Dropped without a word it says nothing about the parent.
#[derive(Debug)]
pub(crate) struct Way {
    /// None is directly.
    pub(crate) parent: Option<Arc<Parent>>,
    terms: Terms,
    reply: Cell<Reply>,
    /// None where nothing is learned of it.
    stake: Option<Stake>,
}

/// What a way has to do with what is remembered.
#[derive(Debug)]
struct Stake {
    inner: Arc<Inner>,
    /// Which parent; none is directly.
    at: Option<usize>,
    host: HostKey,
    /// Others wait for what comes of it.
    trial: bool,
    since: Instant,
}

/// What the parent itself had to say to an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reply {
    /// Nothing that makes sense: it was not reached, or nobody tried.
    #[default]
    None,
    /// It is there.
    Reached,
    /// It would open no tunnel, and said so with this status.
    Status(u16),
}

/// A parent as a dial needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    pub(crate) parent: &'a Arc<Parent>,
    pub(crate) terms: Terms,
    /// Whether what goes by it is a client's own tunnel.
    pub(crate) tunnel: bool,
    id: &'a str,
    reply: &'a Cell<Reply>,
}

impl<'a> Hop<'a> {
    /// The same for a client's own tunnel.
    pub(crate) fn of_tunnel(self) -> Self {
        Self { tunnel: true, ..self }
    }

    /// By which name, and how often, connections by it are counted, if they are.
    pub(crate) fn bond(self) -> Option<(&'a str, u32)> {
        let limit = self.terms.max_connections;
        (limit > 0).then_some((self.id, limit))
    }

    /// It was reached.
    pub(crate) fn reached(self) {
        self.reply.set(Reply::Reached);
    }

    /// It was, and then said nothing that makes sense.
    pub(crate) fn failed(self) {
        self.reply.set(Reply::None);
    }

    /// It would open no tunnel, and said so with this status.
    pub(crate) fn answered(self, status: u16) {
        self.reply.set(Reply::Status(status));
    }
}

impl Way {
    /// Directly, and nothing is learned.
    pub(super) fn direct(terms: Terms) -> Self {
        Self { parent: None, terms, reply: Cell::default(), stake: None }
    }

    pub(super) fn new(inner: &Arc<Inner>, at: Option<usize>, host: &HostKey, trial: bool) -> Self {
        let slot = at.map(|at| &inner.slots[at]);
        if let Some(slot) = slot {
            slot.in_use.fetch_add(1, Relaxed);
            slot.requests.fetch_add(1, Relaxed);
        }
        let parent = slot.map(|slot| Arc::clone(&slot.parent));
        let since = clock::now();
        let stake = Stake { inner: Arc::clone(inner), at, host: host.clone(), trial, since };
        Self { parent, terms: inner.terms, reply: Cell::default(), stake: Some(stake) }
    }

    /// What a dial needs to know of it; none is directly.
    pub(crate) fn hop(&self) -> Option<Hop<'_>> {
        let parent = self.parent.as_ref()?;
        let id = self.stake.as_ref().map_or(&*parent.name, |stake| stake.id());
        Some(Hop { parent, terms: self.terms, tunnel: false, id, reply: &self.reply })
    }

    /// Whether an attempt that failed came to nothing by the parent's own doing: another could do.
    pub(crate) fn is_to_blame(&self) -> bool {
        let reply = self.reply.get();
        self.parent.is_some() && matches!(reply, Reply::None | Reply::Status(403 | 407 | 429))
    }

    /// Whether the host could be reached by another way at the moment.
    pub(crate) fn has_others(&self) -> bool {
        let Some(Stake { inner, at, host, .. }) = &self.stake else { return false };
        let memory = inner.memory().look(host, clock::now());
        let is_good = |other: usize| {
            let standing = memory.as_ref().map(|view| view.standing(&inner.slots[other].id));
            matches!(standing, None | Some(Standing::Free | Standing::Due))
        };
        (0..inner.slots.len()).any(|other| Some(other) != *at && is_good(other))
    }

    /// What came of it.
    pub(crate) fn record(mut self, facts: Facts) {
        let Some(stake) = &mut self.stake else { return };
        let Some(verdict) = judge(facts.end, self.reply.get(), stake.at.is_some()) else { return };
        stake.trial = false;
        match verdict {
            Ok(()) => stake.good(),
            Err(why) => stake.bad(why),
        }
    }
}

/// Whether a way is good; none where that is not known. To go directly is no good only where too much
/// was asked: what else a host says is not the way's doing.
fn judge(end: End, reply: Reply, by_parent: bool) -> Option<Result<(), Why>> {
    let verdict = match (reply, end) {
        (_, End::Neutral) => return None,
        (Reply::Status(407), _) => Err(Why::Credentials),
        (Reply::Status(429), _) | (_, End::Status(429)) => Err(Why::Limited),
        (Reply::Status(403), _) => Err(Why::Forbidden),
        _ if !by_parent => Ok(()),
        (_, End::Status(407)) => Err(Why::Credentials),
        (_, End::Status(403)) => Err(Why::Forbidden),
        (_, End::Status(_)) => Ok(()),
        (Reply::None, End::Failed(_)) => Err(Why::Unreachable),
        (Reply::Reached | Reply::Status(_), End::Failed(_)) => Err(Why::Failed),
    };
    Some(verdict)
}

impl Stake {
    fn id(&self) -> &Arc<str> {
        self.at.map_or(&self.inner.direct, |at| &self.inner.slots[at].id)
    }

    fn good(&self) {
        self.inner.fleet.clear(self.id(), &self.host, self.since);
    }

    fn bad(&self, why: Why) {
        let inner = &*self.inner;
        if let Some(at) = self.at {
            inner.slots[at].failures.fetch_add(1, Relaxed);
        }
        let way = (self.id(), &self.host);
        let is_new = inner.fleet.ban(way, why, inner.ban, clock::now());
        if why == Why::Limited && is_new && matches!(inner.strategy, Strategy::Subset(_)) {
            inner.picker.slide();
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.inner.slots[at].in_use.fetch_sub(1, Relaxed);
        }
        if self.trial {
            self.inner.memory().untried(self.id(), &self.host);
        }
    }
}
