//! How one of several parents is picked: each [`Strategy`] as a choice among those that may be used.
//!
//! What is remembered here is whose turn it is, for all threads together: round robin is exact over
//! them. Which parents may be used is asked, not known. PERF: one atomic step, and for weights a
//! lock for as long as it takes to add them up.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::Asked;
use super::Parent;
use super::StickyKey;
use super::Strategy;

/// One parent of an API.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its name, and which of those with this name it is if it is not the first.
    pub(super) id: Arc<str>,
    pub(super) parent: Arc<Parent>,
    pub(super) in_use: AtomicU32,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Slot {
    pub(super) fn new(id: Arc<str>, parent: Arc<Parent>) -> Self {
        let (in_use, requests, failures) = Default::default();
        Self { id, parent, in_use, requests, failures }
    }
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Picker {
    turn: AtomicUsize,
    /// Where the window of a subset begins.
    offset: AtomicUsize,
    /// What each has saved up of its weight.
    weights: Mutex<Vec<i64>>,
}

impl Picker {
    pub(super) fn new(parents: usize, former: Option<&Self>) -> Self {
        let known = |count: fn(&Self) -> &AtomicUsize| {
            AtomicUsize::new(former.map_or(0, |former| count(former).load(Relaxed)))
        };
        Self {
            turn: known(|former| &former.turn),
            offset: known(|former| &former.offset),
            weights: Mutex::new(vec![0; parents]),
        }
    }

    /// The choice for one attempt.
    pub(super) fn begin<'p>(
        &'p self,
        strategy: &'p Strategy,
        slots: &'p [Arc<Slot>],
        asked: Asked<'p>,
    ) -> Choice<'p> {
        let turn = match strategy {
            Strategy::Sticky(_) | Strategy::Weighted => 0,
            Strategy::RoundRobin
            | Strategy::Subset(_)
            | Strategy::OnRateLimit
            | Strategy::Never
            | Strategy::LeastUsed => self.turn.fetch_add(1, Relaxed),
        };
        Choice { picker: self, strategy, slots, asked, turn }
    }

    /// A parent of a subset is limited: the window slides past its first by one.
    pub(super) fn slide(&self) {
        self.offset.fetch_add(1, Relaxed);
    }
}

/// The choice for one attempt, which may be made more than once with other wishes.
pub(super) struct Choice<'p> {
    picker: &'p Picker,
    strategy: &'p Strategy,
    slots: &'p [Arc<Slot>],
    asked: Asked<'p>,
    turn: usize,
}

impl Choice<'_> {
    /// One of those that may be used; none if none may.
    pub(super) fn pick(&mut self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.slots.len();
        if count == 0 {
            return None;
        }
        let from = |start: usize| (0..count).map(move |step| start.wrapping_add(step) % count);
        match self.strategy {
            Strategy::RoundRobin | Strategy::OnRateLimit | Strategy::Never => {
                from(self.turn).find(|at| may(*at))
            }
            Strategy::Sticky(key) => {
                let score = |at: &usize| score(key, self.asked, &self.slots[*at].id);
                (0..count).filter(|at| may(*at)).max_by_key(score)
            }
            Strategy::Subset(size) => {
                let window = || {
                    let all = from(self.picker.offset.load(Relaxed));
                    all.filter(|at| may(*at)).take((*size).max(1))
                };
                let usable = window().count();
                if usable == 0 { None } else { window().nth(self.turn % usable) }
            }
            Strategy::LeastUsed => {
                let used = |at: &usize| self.slots[*at].in_use.load(Relaxed);
                from(self.turn).filter(|at| may(*at)).min_by_key(used)
            }
            Strategy::Weighted => self.by_weight(may),
        }
    }

    /// Smooth weighted round robin: each saves up its weight, who has most goes and pays for all.
    fn by_weight(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let mut saved = self.picker.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut total, mut best) = (0, None);
        for (at, slot) in self.slots.iter().enumerate().filter(|(at, _)| may(*at)) {
            let weight = i64::from(slot.parent.weight.max(1));
            saved[at] += weight;
            total += weight;
            if best.is_none_or(|best: usize| saved[at] > saved[best]) {
                best = Some(at);
            }
        }
        saved[best?] -= total;
        best
    }
}

/// How well a parent fits what requests have in common. The one that fits best has them: when another
/// comes or goes, only what fits that best moves (rendezvous hashing).
fn score(key: &StickyKey, asked: Asked<'_>, id: &str) -> u64 {
    let mut hash = Fnv::new();
    match key {
        StickyKey::ClientIp => hash.address(asked.client),
        // The API is the same for all that comes here.
        StickyKey::ApiName => {}
        StickyKey::Header(name) => match asked.fields.get(name) {
            Some(value) => hash.bytes(value.as_bytes()),
            None => hash.address(asked.client),
        },
    }
    hash.bytes(b"\n");
    hash.bytes(id.as_bytes());
    hash.mixed()
}

/// FNV-1a, and a mixing of its bits behind it: the same in every instance and version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address.to_canonical() {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    /// The finalizer of `SplitMix64`: FNV alone hardly moves its high bits by the last bytes.
    fn mixed(&self) -> u64 {
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
