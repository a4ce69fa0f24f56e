//! Where kept responses are, and who fetches them: the face of it for those who judge them.
//!
//! [`Tiers`] are the process's: memory, Redis behind it, the flights. A [`Drawer`] is what one API has of
//! them, and what to call:
//!
//! 1. [`Drawer::recall`]: what memory has; at once.
//! 2. If that is of no use: [`Drawer::begin`]. The first who asks gets a [`Lead`], the others a
//!    [`Follower`]; or nobody waits for anybody there ([`Begun::Apart`]), or it has come into memory just
//!    now ([`Begun::Kept`]).
//! 3. The leader asks the fleet: [`Lead::look`] finds what Redis has, or, where that is of no use,
//!    [`Lead::claim`] says whether this instance is to fetch. If another does, [`Lead::relay`] passes on
//!    what that one brings. That, and what follows, is to be done by a task of its own: a lead that goes in
//!    the middle of a body breaks what all have of it.
//! 4. Who fetches says [`Lead::head`], each [`Lead::chunk`], [`Lead::end`]; or [`Lead::finish`] with an
//!    entry that is whole (validated, say), [`Lead::serve`] with one that was kept all along,
//!    [`Lead::dissolve`] for what is nobody else's, [`Lead::fail`]. Dropped before any of that, it leaves
//!    the flight to a follower.
//! 5. [`Follower::head`] is the head, or the news that there is none for this one; then
//!    [`Follower::poll_chunk`]. A leader's own client may follow too: [`Lead::follow`]; then the fetch does
//!    not end with that client.
//!
//! What is judged here: nothing about freshness, only how long a body is. Invariants: what was asked for
//! before its place was forgotten, or its API purged, is not kept after that. Nobody waits for ever: a
//! leader that goes is followed by another, each wait for Redis has its time-out, and a follower that takes
//! nothing is cut.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Buf;
use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use redis::RedisError;
use thiserror::Error;

use super::entry::Entry;
use super::entry::Head;
use super::entry::Key;
use super::entry::Variants;
use super::entry::Vary;
use super::fleet::Fleet;
use super::fleet::Flies;
use super::fleet::Flown;
use super::fleet::Fly;
use super::fleet::Found;
use super::fleet::Kept;
use super::fleet::Wing;
use super::flight;
pub(crate) use super::flight::Broken;
pub(crate) use super::flight::Deserted;
use super::flight::Flight;
use super::flight::Flights;
use super::flight::Heard;
use super::flight::Joined;
use super::flight::Pushed;
use super::flight::Seat;
use super::key::Keys;
pub(crate) use super::memory::Level;
use super::memory::Memory;
pub(crate) use super::memory::Moment;
use crate::base::clock;
use crate::policy::Cause;
use crate::store;
use crate::store::board::Board;
use crate::store::board::Listener;
use crate::store::scripts::PURGE;
use crate::store::vault;
use crate::store::vault::Hearer;
use crate::store::vault::Names;
use crate::store::vault::Vault;

/// What the process has for kept responses, whichever API they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What all of them may take in memory, in bytes; 0 keeps none there.
    pub memory: u64,
    /// Whether they are kept in Redis too, where there is one.
    pub redis: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory: 64 << 20, redis: true }
    }
}

/// What flights hold beside what is kept, at least.
const AIR: usize = 64 << 20;
/// How long it takes at most until the fleet is asked how a flight is, when nothing is heard of it.
const POLL: Duration = Duration::from_millis(500);
/// What purges are called on the board.
const TOPIC: &str = "cache";

/// Memory, Redis and flights of the process. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Tiers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: Memory,
    flights: Arc<Flights>,
    fleet: Arc<Fleet>,
    board: Board,
    parts: Mutex<HashMap<Arc<str>, Arc<Part>>>,
    counts: Counts,
}

/// What is known of an API's responses. Lives as long as the process: what was purged stays purged.
#[derive(Debug)]
struct Part {
    name: Arc<str>,
    /// When all of it was forgotten here.
    purged: AtomicU64,
    /// How often all of it was forgotten in the fleet.
    generation: AtomicU64,
    tiers: Weak<Inner>,
    itself: Weak<Self>,
}

impl Part {
    /// All of it was forgotten so often.
    fn learn(&self, generation: u64) {
        if self.generation.fetch_max(generation, SeqCst) < generation
            && let Some(tiers) = self.tiers.upgrade()
        {
            self.purged.fetch_max(tiers.memory.tick(), SeqCst);
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }
}

impl Listener for Part {
    fn heard(&self, key: &str, words: &[&str]) {
        if let (true, ["at", number]) = (key == &*self.name, words)
            && let Ok(number) = number.parse()
        {
            self.learn(number);
        }
    }

    fn back(&self) {
        let Some(part) = self.itself.upgrade() else { return };
        tokio::spawn(async move {
            let Some(board) = part.tiers.upgrade().map(|tiers| tiers.board.clone()) else { return };
            let known = part.generation().to_string();
            let told = board.ask(&PURGE, TOPIC, &part.name, &["at", &known]).await;
            // If it is away again, it will be back again.
            if let Some(number) = told.ok().and_then(|words| words.first()?.parse().ok()) {
                part.learn(number);
            }
        });
    }
}

impl Hearer for Inner {
    fn heard(&self, message: &[u8]) {
        if let Some(place) = self.fleet.heard(message) {
            self.memory.forget_place(&place);
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    led: AtomicU64,
    followed: AtomicU64,
    inherited: AtomicU64,
    apart: AtomicU64,
    found: AtomicU64,
    relayed: AtomicU64,
}

/// How the tiers are doing; numbers of events since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) memory: Level,
    /// APIs that keep something, or did.
    pub(crate) apis: usize,
    /// Of Redis; none without.
    pub(crate) vault: Option<vault::Snapshot>,
    /// Flights at the moment.
    pub(crate) flights: u64,
    /// Requests that led one.
    pub(crate) led: u64,
    /// Requests that followed one.
    pub(crate) followed: u64,
    /// Of those, who had to lead after all.
    pub(crate) inherited: u64,
    /// Requests that did not wait for a flight, since its response is nobody else's.
    pub(crate) apart: u64,
    /// Of those who led, who found it in Redis.
    pub(crate) found: u64,
    /// Of those who led, for whom another instance fetched it.
    pub(crate) relayed: u64,
}

impl Tiers {
    /// In memory, and in this Redis if there is one and the settings want it. Until they are
    /// [run](Tiers::run) Redis is away.
    pub(crate) fn new(settings: &Settings, redis: Option<&store::Settings>, board: &Board) -> Self {
        let vault = redis.filter(|_| settings.redis).map_or_else(Vault::none, Vault::new);
        let room = usize::try_from(settings.memory).unwrap_or(usize::MAX).max(AIR);
        let inner = Arc::new(Inner {
            memory: Memory::new(settings.memory),
            flights: Arc::new(Flights::new(room)),
            fleet: Arc::new(Fleet::new(vault.clone())),
            board: board.clone(),
            parts: Mutex::default(),
            counts: Counts::default(),
        });
        let hearer: Arc<dyn Hearer> = Arc::<Inner>::clone(&inner);
        vault.listen(Arc::downgrade(&hearer));
        Self { inner }
    }

    /// Tiers of an instance that is alone.
    pub(crate) fn alone(settings: &Settings) -> Self {
        Self::new(settings, None, &Board::alone())
    }

    /// Whether there is a Redis to speak to.
    pub(crate) fn is_shared(&self) -> bool {
        self.inner.fleet.is_on()
    }

    /// Whether all is there that may be: Redis answers, or nobody would ask it.
    pub(crate) fn is_ready(&self) -> bool {
        let told = self.snapshot();
        told.apis == 0 || told.vault.is_none_or(|vault| vault.is_up)
    }

    /// Speaks to Redis, until it is dropped. To be run once, where bodies hold up nothing else.
    pub(crate) async fn run(self, redis: store::Settings) -> Result<(), RedisError> {
        let fleet = Arc::clone(&self.inner.fleet);
        tokio::select! {
            ended = fleet.vault.clone().run(redis) => ended,
            () = fleet.tend() => Ok(()),
        }
    }

    /// What the API of this name has of them, the same as before if it had any. No body longer than
    /// `object` is kept, and who follows one that is longer is cut after taking nothing for `idle`.
    pub(crate) fn drawer(&self, api: &Arc<str>, object: usize, idle: Duration) -> Drawer {
        let mut parts = self.inner.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(Arc::clone(api)).or_insert_with(|| {
            let part = Arc::new_cyclic(|itself| Part {
                name: Arc::clone(api),
                purged: AtomicU64::new(0),
                generation: AtomicU64::new(0),
                tiers: Arc::downgrade(&self.inner),
                itself: Weak::clone(itself),
            });
            let listener: Arc<dyn Listener> = Arc::<Part>::clone(&part);
            self.inner.board.listen(TOPIC, Arc::downgrade(&listener));
            part
        });
        Drawer { tiers: Arc::clone(&self.inner), part: Arc::clone(part), object, idle }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let Inner { memory, flights, fleet, parts, counts, .. } = &*self.inner;
        Snapshot {
            memory: memory.level(),
            apis: parts.lock().unwrap_or_else(PoisonError::into_inner).len(),
            vault: fleet.vault.snapshot(),
            flights: flights.count() as u64,
            led: counts.led.load(Relaxed),
            followed: counts.followed.load(Relaxed),
            inherited: counts.inherited.load(Relaxed),
            apart: counts.apart.load(Relaxed),
            found: counts.found.load(Relaxed),
            relayed: counts.relayed.load(Relaxed),
        }
    }
}

/// What one API has of the tiers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Drawer {
    tiers: Arc<Inner>,
    part: Arc<Part>,
    object: usize,
    idle: Duration,
}

impl fmt::Debug for Drawer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drawer").field("api", &self.part.name).finish_non_exhaustive()
    }
}

/// How somebody begins to fetch something.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Nobody waits for anybody there: it was nobody else's a moment ago. Fetch it; if it may be kept after
    /// all, [`Drawer::keep`] it.
    Apart,
    Follow(Follower),
    /// It has come into memory since it was looked for there.
    Kept(Arc<Variants>),
    Lead(Lead),
}

impl Drawer {
    /// What memory has for a request. PERF: no lock that anybody else holds, no copy.
    pub(crate) fn recall(&self, keys: &Keys) -> Option<Arc<Variants>> {
        self.tiers.memory.recall(keys, self.purged())
    }

    /// What Redis has for a request that nobody is to fetch; it is in memory then, too. Waits no longer than a
    /// call to Redis may take.
    pub(crate) async fn fetch(
        &self,
        keys: &Keys,
        is_for: impl Fn(&Vary) -> bool,
    ) -> Option<Arc<Entry>> {
        let fleet = &self.tiers.fleet;
        if !fleet.is_on() {
            return None;
        }
        let since = self.moment();
        let kept = fleet.look(&names(keys, &keys.request), is_for).await.ok()??;
        self.take(keys, kept, since)
    }

    /// Begins to fetch it, or to follow who does. `vary` is what of this request tells it from others of
    /// the same key, where that is known: only those whose values are the same have one flight. `seen` is
    /// what memory had, and was of no use.
    pub(crate) fn begin(
        &self,
        keys: &Keys,
        vary: Option<&Vary>,
        seen: Option<&Arc<Variants>>,
    ) -> Begun {
        let Inner { flights, counts, .. } = &*self.tiers;
        // Before it is asked whether it was forgotten.
        let since = self.tiers.memory.moment();
        let mut kept = None;
        let joined = flights.join(&flight_key(keys, vary), self.object, || {
            kept = self.recall(keys).filter(|now| seen.is_none_or(|seen| !Arc::ptr_eq(seen, now)));
            kept.is_some()
        });
        match (joined, kept) {
            (Joined::Kept, Some(variants)) => Begun::Kept(variants),
            (Joined::Apart | Joined::Kept, _) => {
                counts.apart.fetch_add(1, Relaxed);
                Begun::Apart
            }
            (Joined::Follow(seat), _) => {
                counts.followed.fetch_add(1, Relaxed);
                Begun::Follow(Follower { drawer: self.clone(), keys: *keys, seat })
            }
            (Joined::Lead(flight), _) => {
                counts.led.fetch_add(1, Relaxed);
                Begun::Lead(Lead::new(self, keys, flight, since))
            }
        }
    }

    /// Whether anything is kept in memory at all.
    pub(crate) fn has_memory(&self) -> bool {
        self.tiers.memory.has_room()
    }

    /// When something is asked for now: for [`Drawer::keep`].
    pub(crate) fn moment(&self) -> Moment {
        self.tiers.memory.moment()
    }

    /// Keeps what was fetched without a flight, unless its place was forgotten since it was asked for.
    pub(crate) fn keep(&self, keys: &Keys, entry: Arc<Entry>, since: Moment) {
        if entry.body.len() > self.object {
            return;
        }
        let purged = self.purged();
        if purged <= since {
            let names = names(keys, &keys.request);
            self.tiers.fleet.keep(&names, self.part.generation(), &entry, clock::wall());
        }
        self.tiers.memory.keep(keys, entry, since, purged);
    }

    /// Forgets all that is kept of a place, here and in the fleet, and what of it is on its way.
    pub(crate) fn forget(&self, keys: &Keys) {
        self.tiers.memory.forget(keys);
        self.tiers.fleet.forget(&names(keys, &keys.request));
    }

    /// Forgets all that is kept of this API, here and in the fleet, and what is on its way.
    pub(crate) fn purge(&self) {
        // If Redis is away, the fleet hears of it when it is back.
        let known = self.part.generation.fetch_add(1, SeqCst) + 1;
        self.part.purged.fetch_max(self.tiers.memory.tick(), SeqCst);
        let known = known.to_string();
        self.tiers.board.tell(&PURGE, TOPIC, &self.part.name, &["purge", &known]);
    }

    /// Puts what Redis has into memory, unless it was forgotten.
    fn take(&self, keys: &Keys, kept: Kept, since: Moment) -> Option<Arc<Entry>> {
        let Kept { generation, entry } = kept;
        if generation < self.part.generation() {
            return None;
        }
        let entry = Arc::new(entry);
        self.tiers.memory.keep(keys, Arc::clone(&entry), since, self.purged());
        self.tiers.counts.found.fetch_add(1, Relaxed);
        Some(entry)
    }

    fn purged(&self) -> Moment {
        self.part.purged.load(SeqCst)
    }
}

fn names(keys: &Keys, flight: &Key) -> Names {
    Names { place: keys.place.0, request: keys.request.0, flight: flight.0 }
}

/// Requests of one key that a known Vary tells apart have flights of their own.
fn flight_key(keys: &Keys, vary: Option<&Vary>) -> Key {
    let Some(vary) = vary.filter(|vary| !vary.0.is_empty()) else { return keys.request };
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&keys.request.0);
    for (name, values) in &vary.0 {
        part(name.as_str().as_bytes());
        part(&(values.len() as u64).to_be_bytes());
        for value in values {
            part(value.as_bytes());
        }
    }
    let mut key = [0; 32];
    key.copy_from_slice(hash.finish().as_ref());
    Key(key)
}

/// How a response is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// To be kept: whoever asks meanwhile follows, here and at other instances.
    Keep,
    /// For those who wait already, here, and nobody else; nothing is kept. A failure that all may see.
    Share,
}

/// What the fleet has, or is to do.
#[derive(Debug)]
pub(crate) enum Looked {
    /// It is nobody else's: fetch it for this client alone, and [`Lead::dissolve`] the flight.
    Apart,
    /// Another instance fetches it: [`Lead::relay`].
    Elsewhere,
    /// This instance is to fetch it.
    Fetch,
    /// It is in Redis; now in memory too.
    Kept(Arc<Entry>),
}

/// What came of what another instance fetches.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// It is nobody else's. The flight is dissolved; who has a client fetches for itself.
    Apart,
    /// The other one has gone, or Redis has: fetch it now. What followers have of it is gone on with where
    /// the new response is the same ([`Lead::head`] says).
    Fetch(Lead),
    /// All followers have, or will have, all of it; if it is kept, in memory too.
    Whole,
    /// It failed there. Followers are told.
    Failed(Option<Cause>),
}

/// What followers have the beginning of is another response: they are cut, and the flight is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the response is another than the one that was begun")]
pub(crate) struct Another;

/// Who fetches a response for all. Dropped before it has said how it ends, it leaves that to a follower;
/// after its head, it breaks what they have.
#[derive(Debug)]
pub(crate) struct Lead {
    drawer: Drawer,
    keys: Keys,
    flight: Arc<Flight>,
    since: Moment,
    /// What is being fetched.
    head: Option<Arc<Head>>,
    manner: Manner,
    /// Bytes that followers have already.
    skip: u64,
    /// How often all of the API had been forgotten when it was asked for.
    generation: u64,
    /// Where this instance leads for the fleet.
    wing: Option<Arc<Wing>>,
    /// Who does, where it is another.
    known: String,
    /// Whether what is kept in Redis would be of use.
    looks: bool,
    /// Redis has some that are for other requests.
    has_others: bool,
    is_over: bool,
}

impl Lead {
    fn new(drawer: &Drawer, keys: &Keys, flight: Arc<Flight>, since: Moment) -> Self {
        Self {
            drawer: drawer.clone(),
            keys: *keys,
            flight,
            since,
            head: None,
            manner: Manner::Keep,
            skip: 0,
            generation: drawer.part.generation(),
            wing: None,
            known: String::new(),
            looks: false,
            has_others: false,
            is_over: false,
        }
    }

    /// Looks in Redis for a response that `is_for` this request, and takes the fleet's lead if there is
    /// none. Waits for Redis no longer than its time-out.
    pub(crate) async fn look(&mut self, is_for: impl Fn(&Vary) -> bool) -> Looked {
        self.looks = true;
        if let Some(looked) = self.fly(&is_for).await {
            return looked;
        }
        self.has_others = true;
        self.claim().await
    }

    /// Whether what was found is for other requests of the key, and nothing for this one.
    pub(crate) fn has_others(&self) -> bool {
        self.has_others
    }

    /// Takes the fleet's lead, whatever Redis has; never says [`Looked::Kept`].
    pub(crate) async fn claim(&mut self) -> Looked {
        self.looks = false;
        self.fly(&|_: &Vary| false).await.unwrap_or(Looked::Fetch)
    }

    /// None where what Redis has is not for this request.
    async fn fly(&mut self, is_for: &impl Fn(&Vary) -> bool) -> Option<Looked> {
        let fleet = Arc::clone(&self.drawer.tiers.fleet);
        if !fleet.is_on() || self.wing.is_some() {
            return Some(Looked::Fetch);
        }
        let names = self.names();
        let (looks, known) = (self.looks, self.known.as_str());
        let fly = Fly { looks, known, has_head: false, offset: 0 };
        let (flown, wing) = fleet.fly(names, fly).await;
        self.wing = wing;
        match flown {
            // What has failed is told to those alone who follow.
            Err(_) | Ok(Flown::Failed(_) | Flown::Lead | Flown::Own) => Some(Looked::Fetch),
            Ok(Flown::Apart) => Some(Looked::Apart),
            Ok(Flown::Flies(flies)) => {
                self.known = flies.token;
                Some(Looked::Elsewhere)
            }
            Ok(Flown::Kept(found)) => self.choose(&names, found, is_for).await.map(Looked::Kept),
        }
    }

    async fn choose(
        &self,
        names: &Names,
        found: Found,
        is_for: &impl Fn(&Vary) -> bool,
    ) -> Option<Arc<Entry>> {
        let kept = self.drawer.tiers.fleet.choose(names, found, is_for).await.ok()??;
        self.drawer.take(&self.keys, kept, self.since)
    }

    /// Passes on what another instance fetches, to its end; `is_for` as in [`Lead::look`]. Dropped, it is as if
    /// this was dropped.
    pub(crate) async fn relay(mut self, is_for: impl Fn(&Vary) -> bool) -> Relayed {
        let fleet = Arc::clone(&self.drawer.tiers.fleet);
        let (names, ear) = (self.names(), fleet.hear(self.flight.key));
        // Of the one who leads now.
        let (mut has_head, mut offset) = (false, 0);
        loop {
            let is_told = self.flight.said().is_some_and(|(_, is_told)| is_told);
            let looks = self.looks && !is_told;
            let fly = Fly { looks, known: &self.known, has_head, offset };
            let (flown, wing) = fleet.fly(names, fly).await;
            self.wing = wing;
            let flies = match flown {
                Err(_) | Ok(Flown::Lead | Flown::Own) => return Relayed::Fetch(self),
                Ok(Flown::Apart) if is_told => return Relayed::Fetch(self),
                Ok(Flown::Apart) => {
                    self.dissolve();
                    return Relayed::Apart;
                }
                Ok(Flown::Failed(cause)) => {
                    self.fail(cause);
                    return Relayed::Failed(cause);
                }
                Ok(Flown::Kept(found)) => {
                    if let Some(entry) = self.choose(&names, found, &is_for).await {
                        self.serve(&entry);
                        return Relayed::Whole;
                    }
                    self.looks = false;
                    continue;
                }
                Ok(Flown::Flies(flies)) => flies,
            };
            let Flies { token, is_whole, length, head, mut piece, left } = *flies;
            let asked = offset;
            if token != self.known {
                (self.known, has_head, offset) = (token, false, 0);
            }
            if let Some(head) = head.filter(|_| !has_head) {
                if self.head(Arc::new(head), Manner::Keep).is_err() {
                    return Relayed::Failed(None);
                }
                has_head = true;
                // What followers have already is not read again.
                offset = std::mem::take(&mut self.skip);
            }
            if !has_head || asked != offset {
                piece.clear();
            }
            if !piece.is_empty() {
                offset += piece.len() as u64;
                if self.chunk(piece).await.is_err() {
                    self.fail(None);
                    return Relayed::Failed(None);
                }
            }
            if has_head && is_whole && offset >= length {
                self.drawer.tiers.counts.relayed.fetch_add(1, Relaxed);
                let Ok(entry) = self.whole() else { return Relayed::Failed(None) };
                // Redis has it already.
                if let Some(entry) = &entry {
                    self.remember(entry);
                }
                self.close();
                return Relayed::Whole;
            }
            if !has_head || offset >= length {
                ear.wait(POLL.min(left + Duration::from_millis(10))).await;
            }
        }
    }

    /// A place among those who follow, for the leader's own client.
    pub(crate) fn follow(&self) -> Follower {
        let seat = self.drawer.tiers.flights.seat(&self.flight);
        Follower { drawer: self.drawer.clone(), keys: self.keys, seat }
    }

    /// How many follow now.
    pub(crate) fn followers(&self) -> usize {
        self.flight.followers()
    }

    /// The head. Where followers have the beginning of a response whose leader is gone, this one must be the
    /// same, by a strong entity-tag and its length; else they are cut, and this flight is over.
    pub(crate) fn head(&mut self, head: Arc<Head>, manner: Manner) -> Result<(), Another> {
        self.manner = manner;
        self.skip = 0;
        while !self.flight.head(Arc::clone(&head)) {
            match self.flight.said() {
                Some((begun, true)) if is_same(&begun, &head) => {
                    self.skip = self.flight.length();
                    break;
                }
                Some((_, true)) => {
                    self.break_off(None);
                    return Err(Another);
                }
                Some((_, false)) | None => {}
            }
        }
        let length = length(&head.fields);
        match manner {
            Manner::Keep if length.is_some_and(|length| length > self.drawer.object as u64) => {
                self.flight.relay();
                self.keep_not();
            }
            Manner::Keep => {
                if let Some(wing) = &self.wing {
                    wing.head(&head, length);
                }
            }
            Manner::Share => {
                self.flight.relay();
                self.drawer.tiers.flights.close(&self.flight);
                if let Some(wing) = self.wing.take() {
                    wing.own(flight::APART);
                }
            }
        }
        self.head = Some(head);
        Ok(())
    }

    /// The next bytes of the body. Of one that is too long to be kept it waits for the slowest follower, but
    /// no longer than that may be idle. Errs when nobody is left to whom it could go. Dropped while it
    /// waits, the bytes are on their way.
    pub(crate) async fn chunk(&mut self, mut bytes: Bytes) -> Result<(), Deserted> {
        if let Some(wing) = &self.wing {
            wing.chunk(bytes.clone());
        }
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(skip);
        self.skip -= skip as u64;
        if !bytes.is_empty() && self.flight.push(bytes) == Pushed::Relays {
            self.keep_not();
        }
        self.flight.room(self.drawer.idle).await
    }

    /// The body is whole; what is kept of it, if it is. Errs when it was shorter than what followers have of
    /// the one that it went on with: they are cut.
    pub(crate) fn end(mut self) -> Result<Option<Arc<Entry>>, Another> {
        let entry = self.whole()?;
        if let Some(entry) = &entry {
            self.store(entry);
        }
        self.close();
        Ok(entry)
    }

    /// The entry that it has become, if that is to be kept.
    fn whole(&mut self) -> Result<Option<Arc<Entry>>, Another> {
        self.is_over = true;
        if self.skip > 0 {
            self.break_off(None);
            return Err(Another);
        }
        let body = if self.manner == Manner::Keep { self.flight.body() } else { None };
        let entry = body.zip(self.head.take());
        Ok(entry.map(|(body, head)| Arc::new(Entry { head, body })))
    }

    /// It is this one, which is kept anew.
    pub(crate) fn finish(self, entry: &Arc<Entry>) {
        if entry.body.len() <= self.drawer.object {
            self.store(entry);
        }
        self.serve(entry);
    }

    /// It is this one, which is as it was kept.
    pub(crate) fn serve(mut self, entry: &Arc<Entry>) {
        self.is_over = true;
        if !self.flight.head(Arc::clone(&entry.head)) {
            self.break_off(None);
            return;
        }
        if !entry.body.is_empty() {
            self.flight.push(entry.body.clone());
        }
        self.close();
    }

    /// It is nobody else's: each goes for itself, and for a while nobody waits there.
    pub(crate) fn dissolve(mut self) {
        self.is_over = true;
        if let Some(wing) = self.wing.take() {
            wing.apart(flight::APART);
        }
        self.keep_not();
        self.flight.dissolve();
    }

    /// It failed; followers are told.
    pub(crate) fn fail(mut self, cause: Option<Cause>) {
        self.break_off(cause);
    }

    /// Keeps it, before nobody can follow any more: whoever comes finds the one or the other.
    fn store(&self, entry: &Arc<Entry>) {
        let drawer = &self.drawer;
        let now = clock::wall();
        if let Some(wing) = &self.wing {
            wing.keep(self.generation, entry, now);
        } else {
            drawer.tiers.fleet.keep(&self.names(), self.generation, entry, now);
        }
        self.remember(entry);
    }

    fn remember(&self, entry: &Arc<Entry>) {
        let drawer = &self.drawer;
        let memory = &drawer.tiers.memory;
        memory.keep(&self.keys, Arc::clone(entry), self.since, drawer.purged());
    }

    fn names(&self) -> Names {
        names(&self.keys, &self.flight.key)
    }

    fn close(&self) {
        self.drawer.tiers.flights.close(&self.flight);
        self.flight.end();
    }

    fn keep_not(&mut self) {
        self.manner = Manner::Share;
        self.drawer.tiers.flights.apart(&self.flight);
        if let Some(wing) = self.wing.take() {
            wing.own(flight::APART);
        }
    }

    fn break_off(&mut self, cause: Option<Cause>) {
        self.is_over = true;
        self.drawer.tiers.flights.close(&self.flight);
        self.flight.fail(cause);
        if let Some(wing) = self.wing.take() {
            wing.fail(cause);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.is_over {
            self.drawer.tiers.flights.leave(&self.flight);
        }
    }
}

/// Whether a response goes on where another was cut: both are whole, and of one strong entity-tag (RFC 9110
/// §8.8.1) and length.
fn is_same(begun: &Head, head: &Head) -> bool {
    let etag = |head: &Head| head.fields.get(header::ETAG).cloned();
    let is_strong = etag(head).is_some_and(|etag| etag.as_bytes().starts_with(b"\""));
    let length = length(&head.fields);
    let status = (begun.status, head.status);
    status == (StatusCode::OK, StatusCode::OK)
        && is_strong
        && etag(begun) == etag(head)
        && length.is_some()
        && self::length(&begun.fields) == length
        && begun.fields.get(header::CONTENT_ENCODING) == head.fields.get(header::CONTENT_ENCODING)
}

fn length(fields: &HeaderMap) -> Option<u64> {
    fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Who follows a flight. Dropped, it is left.
#[derive(Debug)]
pub(crate) struct Follower {
    drawer: Drawer,
    keys: Keys,
    seat: Seat,
}

/// What somebody who follows hears.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It is nobody else's: fetch it without waiting for anybody.
    Apart,
    /// There is none.
    Broken(Broken),
    /// The head; the body by [`Follower::poll_chunk`]. Whether it is for this request too (Vary) has yet to
    /// be judged.
    Head(Arc<Head>),
    /// Nobody leads any more, and this one is to. It still follows.
    Lead(Lead),
}

impl Follower {
    /// Waits for the head; for as long as it takes: who waits has a limit of its own.
    pub(crate) async fn head(&mut self) -> Followed {
        match std::future::poll_fn(|cx| self.seat.poll_head(cx)).await {
            Heard::Apart => Followed::Apart,
            Heard::Broken(broken) => Followed::Broken(broken),
            Heard::Head(head) => Followed::Head(head),
            Heard::Heir => {
                self.drawer.tiers.counts.inherited.fetch_add(1, Relaxed);
                let flight = Arc::clone(self.seat.flight());
                let since = self.drawer.moment();
                Followed::Lead(Lead::new(&self.drawer, &self.keys, flight, since))
            }
        }
    }

    /// The next bytes of the body; none at its end.
    pub(crate) fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.seat.poll_piece(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::HeaderValue;
    use http::Method;

    use super::super::entry::Terms;
    use super::super::memory::tests::entry;
    use super::super::memory::tests::keys;
    use super::*;

    const OBJECT: usize = 1000;

    fn drawer() -> Drawer {
        Tiers::alone(&Settings::default()).drawer(&"shop".into(), OBJECT, Duration::from_secs(30))
    }

    fn head(fields: &[(&'static str, &str)]) -> Arc<Head> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Arc::new(Head {
            method: Method::GET,
            status: StatusCode::OK,
            fields: map,
            asked: SystemTime::UNIX_EPOCH,
            answered: SystemTime::UNIX_EPOCH,
            vary: Vary::default(),
            lifetime: Duration::from_mins(1),
            keep: Duration::from_mins(2),
            terms: Terms::default(),
        })
    }

    fn lead(drawer: &Drawer) -> Lead {
        match drawer.begin(&keys(1), None, None) {
            Begun::Lead(lead) => lead,
            other @ (Begun::Apart | Begun::Follow(_) | Begun::Kept(_)) => panic!("{other:?}"),
        }
    }

    fn follow(drawer: &Drawer) -> Follower {
        match drawer.begin(&keys(1), None, None) {
            Begun::Follow(follower) => follower,
            other @ (Begun::Apart | Begun::Kept(_) | Begun::Lead(_)) => panic!("{other:?}"),
        }
    }

    fn kept(drawer: &Drawer) -> Option<Bytes> {
        drawer.recall(&keys(1))?.iter().next().map(|entry| entry.body.clone())
    }

    async fn body(follower: &mut Follower) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|cx| follower.poll_chunk(cx)).await {
            bytes.extend(chunk?);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn what_one_fetches_all_have_and_it_is_kept() {
        let drawer = drawer();
        let mut leading = lead(&drawer);
        let mut followers = [leading.follow(), follow(&drawer)];
        leading.head(head(&[]), Manner::Keep).unwrap();
        leading.chunk("hello ".into()).await.unwrap();
        leading.chunk("all".into()).await.unwrap();
        assert_eq!(leading.end().unwrap().unwrap().body, "hello all");
        for follower in &mut followers {
            assert!(matches!(follower.head().await, Followed::Head(_)));
            assert_eq!(body(follower).await.unwrap(), b"hello all");
        }
        assert_eq!(kept(&drawer).unwrap(), "hello all");
    }

    #[tokio::test]
    async fn who_looked_before_it_was_kept_and_comes_after_that_finds_it_and_fetches_nothing() {
        let drawer = drawer();
        assert_eq!(drawer.recall(&keys(1)), None);
        let mut leading = lead(&drawer);
        leading.head(head(&[]), Manner::Keep).unwrap();
        leading.end().unwrap().unwrap();
        let begun = drawer.begin(&keys(1), None, None);
        let Begun::Kept(variants) = begun else { panic!("{begun:?}") };
        // Who finds it of no use fetches it after all.
        assert!(matches!(drawer.begin(&keys(1), None, Some(&variants)), Begun::Lead(_)));
    }

    #[tokio::test]
    async fn what_was_forgotten_while_it_was_fetched_is_passed_on_and_not_kept() {
        for forget in [|drawer: &Drawer| drawer.forget(&keys(1)), Drawer::purge] {
            let drawer = drawer();
            let mut leading = lead(&drawer);
            let mut follower = follow(&drawer);
            forget(&drawer);
            leading.head(head(&[]), Manner::Keep).unwrap();
            leading.chunk("old".into()).await.unwrap();
            leading.end().unwrap();
            assert!(matches!(follower.head().await, Followed::Head(_)));
            assert_eq!(body(&mut follower).await.unwrap(), b"old");
            assert_eq!(kept(&drawer), None);
        }
    }

    #[tokio::test]
    async fn an_api_that_is_purged_forgets_its_own_and_no_other_apis() {
        let tiers = Tiers::alone(&Settings::default());
        let apis = ["one", "two"].map(|name| tiers.drawer(&name.into(), OBJECT, Duration::ZERO));
        for (drawer, number) in apis.iter().zip([1, 2]) {
            drawer.keep(&keys(number), entry("x"), drawer.moment());
        }
        apis[0].purge();
        assert_eq!(apis[0].recall(&keys(1)), None);
        assert!(apis[1].recall(&keys(2)).is_some());
        let again = tiers.drawer(&"one".into(), OBJECT, Duration::ZERO);
        assert_eq!(again.recall(&keys(1)), None, "after a reload too");
    }

    #[tokio::test]
    async fn a_body_that_says_it_is_too_long_or_is_reaches_who_waits_and_nobody_joins() {
        let long = (OBJECT + 1).to_string();
        for fields in [&[("content-length", long.as_str())][..], &[]] {
            let drawer = drawer();
            let mut leading = lead(&drawer);
            let mut follower = follow(&drawer);
            leading.head(head(fields), Manner::Keep).unwrap();
            leading.chunk(Bytes::from(vec![1; OBJECT + 1])).await.unwrap();
            assert!(matches!(drawer.begin(&keys(1), None, None), Begun::Apart));
            assert_eq!(leading.end(), Ok(None));
            assert!(matches!(follower.head().await, Followed::Head(_)));
            assert_eq!(body(&mut follower).await.unwrap().len(), OBJECT + 1);
            assert_eq!(kept(&drawer), None);
        }
    }

    #[tokio::test]
    async fn what_is_shared_is_for_those_who_wait_and_is_not_kept() {
        let drawer = drawer();
        let mut leading = lead(&drawer);
        let mut follower = follow(&drawer);
        leading.head(head(&[]), Manner::Share).unwrap();
        let next = lead(&drawer);
        leading.chunk("sorry".into()).await.unwrap();
        assert_eq!(leading.end(), Ok(None));
        assert!(matches!(follower.head().await, Followed::Head(_)));
        assert_eq!(body(&mut follower).await.unwrap(), b"sorry");
        assert_eq!(kept(&drawer), None);
        drop(next);
    }

    #[tokio::test]
    async fn a_leader_that_is_dropped_leaves_it_to_a_follower() {
        let drawer = drawer();
        let leading = lead(&drawer);
        let mut followers = [follow(&drawer), follow(&drawer)];
        drop(leading);
        let Followed::Lead(mut heir) = followers[0].head().await else { panic!() };
        heir.head(head(&[]), Manner::Keep).unwrap();
        heir.chunk("hello".into()).await.unwrap();
        heir.end().unwrap();
        for follower in &mut followers {
            assert!(matches!(follower.head().await, Followed::Head(_)));
            assert_eq!(body(follower).await.unwrap(), b"hello");
        }
    }

    #[tokio::test]
    async fn a_response_that_is_the_same_is_gone_on_with_and_another_cuts_who_has_its_beginning() {
        let same = [("etag", "\"a\""), ("content-length", "8")];
        let cases: [(&[(&str, &str)], bool); 4] = [
            (&same, true),
            (&[("etag", "\"b\""), ("content-length", "8")], false),
            (&[("etag", "W/\"a\""), ("content-length", "8")], false),
            (&[("etag", "\"a\""), ("content-length", "9")], false),
        ];
        for (fields, is_same) in cases {
            let drawer = drawer();
            let mut leading = lead(&drawer);
            let mut follower = follow(&drawer);
            leading.head(head(&same), Manner::Keep).unwrap();
            leading.chunk("1234".into()).await.unwrap();
            assert!(matches!(follower.head().await, Followed::Head(_)));
            assert_eq!(leading.head(head(fields), Manner::Keep).is_ok(), is_same, "{fields:?}");
            if is_same {
                leading.chunk("123".into()).await.unwrap();
                leading.chunk("45678".into()).await.unwrap();
                assert_eq!(leading.end().unwrap().unwrap().body, "12345678");
                assert_eq!(body(&mut follower).await.unwrap(), b"12345678");
            } else {
                assert_eq!(body(&mut follower).await, Err(Broken::Failed(None)));
            }
        }
    }

    #[tokio::test]
    async fn requests_that_a_known_vary_tells_apart_do_not_wait_for_each_other() {
        let drawer = drawer();
        let vary = |value: &'static str| {
            Vary(vec![(header::ACCEPT_LANGUAGE, vec![HeaderValue::from_static(value)])])
        };
        let begin = |vary: &Vary| drawer.begin(&keys(1), Some(vary), None);
        let _german = begin(&vary("de"));
        assert!(matches!(begin(&vary("en")), Begun::Lead(_)));
        assert!(matches!(begin(&vary("de")), Begun::Follow(_)));
    }

    #[tokio::test]
    async fn what_is_kept_already_is_served_to_all_who_follow() {
        let drawer = drawer();
        let leading = lead(&drawer);
        let mut follower = follow(&drawer);
        leading.finish(&entry("validated"));
        assert!(matches!(follower.head().await, Followed::Head(_)));
        assert_eq!(body(&mut follower).await.unwrap(), b"validated");
        assert_eq!(kept(&drawer).unwrap(), "validated");
        let snapshot = Tiers { inner: Arc::clone(&drawer.tiers) }.snapshot();
        assert_eq!((snapshot.flights, snapshot.led, snapshot.followed), (0, 1, 1));
    }

    #[tokio::test]
    async fn what_is_nobody_elses_lets_everybody_go() {
        let drawer = drawer();
        let leading = lead(&drawer);
        let mut follower = follow(&drawer);
        leading.dissolve();
        assert!(matches!(follower.head().await, Followed::Apart));
        assert!(matches!(drawer.begin(&keys(1), None, None), Begun::Apart));
    }
}
