//! What the instances of a fleet share of kept responses, by `lua/cache.lua`: the responses, and who fetches
//! one. What is said to the script and what it answers is known here alone.
//!
//! Who fetches for the fleet has a lease of [`LEASE`], which a [`Wing`] renews for as long as it lives. What
//! comes of it is put into Redis as it comes: the head, the body in pieces of [`PIECE`] or after [`BEAT`];
//! what is short goes there once, when it is whole. Others read from there, and are told that there is more.
//! A leader that is killed leaves its lease to end; whoever asks next leads.
//!
//! Nothing here waits longer than one call to Redis may take. Invariant: a wing that is dropped gives its
//! lease up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;
use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::sync::Notify;

use super::entry::Entry;
use super::entry::Head;
use super::entry::Key;
use super::entry::Vary;
use crate::policy::Cause;
use crate::store::vault::Away;
use crate::store::vault::Names;
use crate::store::vault::Vault;

/// For how long who fetches for the fleet leads it, unless it says that it goes on.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How often it says so.
const BEAT: Duration = Duration::from_millis(333);
/// Bytes of a body that go to Redis at once.
const PIECE: usize = 64 << 10;
/// Bytes of a body that come from there at once.
const READ: usize = 256 << 10;
/// For how long it is told that a fetch has failed.
const FAILED: Duration = Duration::from_secs(2);
/// The longest life of a kept response in Redis. What all of an API's have in common lives for a day more
/// (`lua/purge.lua`).
const LIFE: Duration = Duration::from_hours(30 * 24);
/// Places that were forgotten and of which the others have yet to be told; of more, they are not.
const UNSAID: usize = 4096;
/// The version of the frame around head and body.
const VERSION: u8 = 1;

/// The way to what the fleet shares.
pub(super) struct Fleet {
    pub(super) vault: Vault,
    /// What this instance calls itself in what it says.
    name: String,
    ears: Mutex<HashMap<Key, Arc<Notify>>>,
    wings: Mutex<Vec<Weak<Wing>>>,
    unsaid: Mutex<Vec<Names>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("vault", &self.vault).finish_non_exhaustive()
    }
}

/// What somebody who wants to fetch something says.
#[derive(Debug)]
pub(super) struct Fly<'a> {
    /// Whether what is kept is found first.
    pub(super) looks: bool,
    /// Whom this one follows, as far as it is known.
    pub(super) known: &'a str,
    /// Whether it has the head of that one.
    pub(super) has_head: bool,
    /// How much it has of the body.
    pub(super) offset: u64,
}

/// What it hears.
#[derive(Debug)]
pub(super) enum Flown {
    Apart,
    Failed(Option<Cause>),
    Flies(Box<Flies>),
    Kept(Found),
    Lead,
    /// Each instance fetches it for itself.
    Own,
}

/// What another instance has fetched so far.
#[derive(Debug)]
pub(super) struct Flies {
    pub(super) token: String,
    pub(super) is_whole: bool,
    pub(super) length: u64,
    pub(super) head: Option<Head>,
    pub(super) piece: Bytes,
    /// Of its lease.
    pub(super) left: Duration,
}

/// What is kept.
#[derive(Debug)]
pub(super) enum Found {
    /// The only variant there is; none for one that cannot be read.
    Only(Option<Kept>),
    /// Which there are, by what they are called.
    Of(Vec<(Vec<u8>, Vary)>),
}

/// A response out of Redis.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// How often all of its API had been forgotten when it was asked for.
    pub(super) generation: u64,
    pub(super) entry: Entry,
}

impl Fleet {
    pub(super) fn new(vault: Vault) -> Self {
        let (ears, wings, unsaid) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { vault, name: token(), ears, wings, unsaid }
    }

    pub(super) fn is_on(&self) -> bool {
        self.vault.is_shared()
    }

    /// Renews what this instance leads, and says what could not be said, for as long as it runs.
    pub(super) async fn tend(&self) {
        loop {
            tokio::time::sleep(BEAT).await;
            let unsaid = std::mem::take(&mut *self.unsaid());
            for names in unsaid {
                self.forget(&names);
            }
            let mut wings = self.wings();
            wings.retain(|wing| wing.strong_count() > 0);
            let alive: Vec<Arc<Wing>> = wings.iter().filter_map(Weak::upgrade).collect();
            drop(wings);
            for wing in alive {
                wing.beat();
            }
        }
    }

    /// What is kept for a request, of those variants that are for it the newest.
    pub(super) async fn look(
        &self,
        names: &Names,
        is_for: impl Fn(&Vary) -> bool,
    ) -> Result<Option<Kept>, Away> {
        let mut words = self.vault.ask(names, &[b"look", b""]).await?;
        match found(&mut words) {
            Some(found) => self.choose(names, found, is_for).await,
            None => Ok(None),
        }
    }

    /// Of what was found, that for this request.
    pub(super) async fn choose(
        &self,
        names: &Names,
        found: Found,
        is_for: impl Fn(&Vary) -> bool,
    ) -> Result<Option<Kept>, Away> {
        let variants = match found {
            Found::Only(kept) => return Ok(kept.filter(|kept| is_for(&kept.entry.head.vary))),
            Found::Of(variants) => variants,
        };
        let Some((id, _)) = variants.into_iter().find(|(_, vary)| is_for(vary)) else {
            return Ok(None);
        };
        let mut words = self.vault.ask(names, &[b"look", &id]).await?;
        Ok(match self::found(&mut words) {
            Some(Found::Only(kept)) => kept.filter(|kept| is_for(&kept.entry.head.vary)),
            Some(Found::Of(_)) | None => None,
        })
    }

    /// Leads or follows; what is led is renewed for as long as there is the wing.
    pub(super) async fn fly(
        self: &Arc<Self>,
        names: Names,
        fly: Fly<'_>,
    ) -> (Result<Flown, Away>, Option<Arc<Wing>>) {
        // Before it is asked: who leaves before the answer comes may have got the lead, and gives it up.
        let wing = self.wing(names);
        let flown = self.ask(&names, &wing.token, fly).await;
        match flown {
            Ok(Flown::Lead) => {
                self.wings().push(Arc::downgrade(&wing));
                (flown, Some(wing))
            }
            Ok(Flown::Apart | Flown::Failed(_) | Flown::Flies(_) | Flown::Kept(_) | Flown::Own) => {
                wing.due().is_over = true;
                (flown, None)
            }
            Err(Away) => (flown, None),
        }
    }

    async fn ask(&self, names: &Names, token: &str, fly: Fly<'_>) -> Result<Flown, Away> {
        let (lease, offset, most) = (millis(LEASE), fly.offset.to_string(), READ.to_string());
        let flag = |is: bool| if is { b"1" } else { b"0" };
        let words: [&[u8]; 9] = [
            b"fly",
            token.as_bytes(),
            lease.as_bytes(),
            token.as_bytes(),
            flag(fly.looks),
            fly.known.as_bytes(),
            flag(fly.has_head),
            offset.as_bytes(),
            most.as_bytes(),
        ];
        flown(self.vault.ask(names, &words).await?).ok_or(Away)
    }

    fn wing(self: &Arc<Self>, names: Names) -> Arc<Wing> {
        let due = Mutex::new(Due { is_new: true, ..Due::default() });
        Arc::new(Wing { fleet: Arc::clone(self), names, token: token(), due })
    }

    /// Keeps what was fetched without the fleet.
    pub(super) fn keep(&self, names: &Names, generation: u64, entry: &Entry, now: SystemTime) {
        if self.vault.has_room(names) {
            self.put(names, "", generation, entry, now, None);
        }
    }

    fn put(
        &self,
        names: &Names,
        token: &str,
        generation: u64,
        entry: &Entry,
        now: SystemTime,
        rest: Option<&[u8]>,
    ) {
        let head = &entry.head;
        let age = now.duration_since(head.answered).unwrap_or_default();
        let life = head.keep.saturating_sub(age).clamp(Duration::from_secs(1), LIFE);
        let vary = head.vary.encode();
        let (life, id, place) = (millis(life), id(&vary), self::token());
        let front = front(generation, &head.encode(), entry.body.len());
        self.vault.tell(
            names,
            &[
                b"keep",
                token.as_bytes(),
                place.as_bytes(),
                life.as_bytes(),
                id.as_bytes(),
                &vary,
                &front,
                rest.unwrap_or(&entry.body),
                if rest.is_some() { b"1" } else { b"0" },
            ],
        );
    }

    /// Forgets all that is kept of a place, and what of it is on its way.
    pub(super) fn forget(&self, names: &Names) {
        if !self.is_on() || self.vault.tell_of_place(names, &[b"forget", self.name.as_bytes()]) {
            return;
        }
        let mut unsaid = self.unsaid();
        if unsaid.len() < UNSAID {
            unsaid.push(*names);
        }
    }

    /// Lets somebody hear of a flight, for as long as they have this.
    pub(super) fn hear(&self, flight: Key) -> Ear<'_> {
        let news = Arc::clone(self.ears().entry(flight).or_default());
        Ear { fleet: self, flight, news }
    }

    /// What was said; the place that another instance has forgotten, if that was it.
    pub(super) fn heard(&self, message: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(message).ok()?;
        if let Some(flight) = text.strip_prefix('f') {
            let news = self.ears().get(&Key::parse(flight)?).map(Arc::clone);
            if let Some(news) = news {
                news.notify_one();
            }
            return None;
        }
        let (place, by) = text.strip_prefix('g')?.split_once(' ')?;
        Key::parse(place).filter(|_| by != self.name)
    }

    fn unsaid(&self) -> MutexGuard<'_, Vec<Names>> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ears(&self) -> MutexGuard<'_, HashMap<Key, Arc<Notify>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wings(&self) -> MutexGuard<'_, Vec<Weak<Wing>>> {
        self.wings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for news of a flight.
pub(super) struct Ear<'a> {
    fleet: &'a Fleet,
    flight: Key,
    news: Arc<Notify>,
}

impl Ear<'_> {
    /// Waits for news, but no longer than that. What came since the last time counts.
    pub(super) async fn wait(&self, longest: Duration) {
        // Whichever it is, the script is asked.
        drop(tokio::time::timeout(longest, self.news.notified()).await);
    }
}

impl Drop for Ear<'_> {
    fn drop(&mut self) {
        let mut ears = self.fleet.ears();
        // One is in the map, one is here.
        if ears.get(&self.flight).is_some_and(|news| Arc::strong_count(news) <= 2) {
            ears.remove(&self.flight);
        }
    }
}

/// The lead of a flight for the fleet. Dropped, it is given up.
pub(super) struct Wing {
    fleet: Arc<Fleet>,
    names: Names,
    token: String,
    due: Mutex<Due>,
}

/// What Redis is to be told.
#[derive(Default)]
struct Due {
    /// It was told that this one leads, just now.
    is_new: bool,
    head: Vec<u8>,
    pieces: Vec<Bytes>,
    bytes: usize,
    /// Whether it has the beginning of the body.
    has_begun: bool,
    /// Whether a part of it could not be told: it is not told before it is whole.
    is_cut: bool,
    /// Nothing more is to be said.
    is_over: bool,
}

impl fmt::Debug for Wing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wing").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Drop for Wing {
    fn drop(&mut self) {
        self.over(b"", Duration::ZERO, "");
    }
}

impl Wing {
    /// The head; `length` is that of the body where it is known.
    pub(super) fn head(&self, head: &Head, length: Option<u64>) {
        let mut due = self.due();
        due.head = head.encode();
        // What is short is told at its end, or with the next beat.
        if length.is_none_or(|length| length > PIECE as u64) {
            self.say(&mut due);
        }
    }

    /// More of the body.
    pub(super) fn chunk(&self, bytes: Bytes) {
        let mut due = self.due();
        if due.is_cut {
            return;
        }
        due.bytes += bytes.len();
        due.pieces.push(bytes);
        if due.bytes >= PIECE {
            self.say(&mut due);
        }
    }

    /// It goes on, whatever there is to say.
    fn beat(&self) {
        let mut due = self.due();
        if !std::mem::take(&mut due.is_new) {
            self.say(&mut due);
        }
    }

    /// All of it is here, and is kept.
    pub(super) fn keep(&self, generation: u64, entry: &Entry, now: SystemTime) {
        if !self.fleet.vault.has_room(&self.names) {
            // Who waits elsewhere fetches it.
            return self.over(b"", Duration::ZERO, "");
        }
        let mut due = self.due();
        if std::mem::replace(&mut due.is_over, true) {
            return;
        }
        let rest = (due.has_begun && !due.is_cut).then(|| due.pieces.concat());
        self.fleet.put(&self.names, &self.token, generation, entry, now, rest.as_deref());
    }

    /// It has failed.
    pub(super) fn fail(&self, cause: Option<Cause>) {
        self.over(b"f", FAILED, cause.map_or("", Cause::as_str));
    }

    /// It is not for other instances: for so long each fetches it for itself.
    pub(super) fn own(&self, time: Duration) {
        self.over(b"o", time, "");
    }

    /// It is nobody else's; nobody waits for it for so long.
    pub(super) fn apart(&self, time: Duration) {
        self.over(b"x", time, "");
    }

    fn over(&self, state: &[u8], time: Duration, why: &str) {
        let mut due = self.due();
        if std::mem::replace(&mut due.is_over, true) {
            return;
        }
        let time = millis(time);
        let words = [b"over", self.token.as_bytes(), state, time.as_bytes(), why.as_bytes()];
        self.fleet.vault.tell(&self.names, &words);
    }

    /// Under the lock, so that all is said in turn.
    fn say(&self, due: &mut Due) {
        if due.is_over || due.is_cut {
            return;
        }
        if !due.pieces.is_empty() && !self.fleet.vault.has_room(&self.names) {
            due.is_cut = true;
            due.pieces.clear();
            return;
        }
        let (head, body) = (std::mem::take(&mut due.head), due.pieces.concat());
        due.pieces.clear();
        due.bytes = 0;
        due.has_begun |= !body.is_empty();
        let lease = millis(LEASE);
        let words: [&[u8]; 5] = [b"say", self.token.as_bytes(), lease.as_bytes(), &head, &body];
        let is_told = self.fleet.vault.tell(&self.names, &words);
        // What is missing there cannot be told later: somebody else is to lead when this lease ends.
        due.is_cut = !is_told && (!head.is_empty() || !body.is_empty());
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nobody else says.
fn token() -> String {
    format!("{:016x}", fastrand::u64(..))
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// What a variant is called: 16 letters.
fn id(vary: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, vary);
    let start = digest.as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start))
}

/// What stands before a body: 13 bytes, the head, 8 bytes (`lua/cache.lua` cuts the head out).
fn front(generation: u64, head: &[u8], length: usize) -> Vec<u8> {
    let mut front = Vec::with_capacity(head.len() + 21);
    front.push(VERSION);
    front.extend(generation.to_be_bytes());
    front.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
    front.extend(head);
    front.extend((length as u64).to_be_bytes());
    front
}

/// A kept response of any bytes; none where they are anything else.
pub(super) fn kept(bytes: Vec<u8>) -> Option<Kept> {
    let (front, rest) = bytes.split_first_chunk::<13>()?;
    let [version, number @ .., a, b, c, d] = *front;
    if version != VERSION {
        return None;
    }
    let generation = u64::from_be_bytes(number);
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    let (head, rest) = rest.split_at_checked(length)?;
    let head = Arc::new(Head::decode(head)?);
    let (length, body) = rest.split_first_chunk::<8>()?;
    if u64::from_be_bytes(*length) != body.len() as u64 {
        return None;
    }
    let start = bytes.len() - body.len();
    Some(Kept { generation, entry: Entry { head, body: Bytes::from(bytes).slice(start..) } })
}

/// Takes what was found out of an answer.
fn found(words: &mut [Vec<u8>]) -> Option<Found> {
    match words {
        [word, entry] if word == b"kept" => Some(Found::Only(kept(std::mem::take(entry)))),
        [word, variants @ ..] if word == b"of" => {
            let pairs = variants.chunks_exact(2);
            let pairs = pairs.filter_map(|pair| Some((pair[0].clone(), Vary::decode(&pair[1])?)));
            Some(Found::Of(pairs.collect()))
        }
        _ => None,
    }
}

/// None for what is no answer.
fn flown(mut words: Vec<Vec<u8>>) -> Option<Flown> {
    if let Some(found) = found(&mut words) {
        return Some(Flown::Kept(found));
    }
    let word = words.first()?.as_slice();
    let cause =
        |text: &[u8]| Cause::ALL.into_iter().find(|cause| cause.as_str().as_bytes() == text);
    match (word, words.len()) {
        (b"apart", 1) => Some(Flown::Apart),
        (b"lead", 1) => Some(Flown::Lead),
        (b"own", 1) => Some(Flown::Own),
        (b"failed", 2) => Some(Flown::Failed(cause(&words[1]))),
        (b"flies", 7) => {
            let mut words = words.into_iter().skip(1);
            let mut next = || words.next().unwrap_or_default();
            let (token, state, length) = (next(), next(), next());
            let (head, piece, left) = (next(), next(), next());
            let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
            Some(Flown::Flies(Box::new(Flies {
                token: String::from_utf8(token).ok()?,
                is_whole: state == b"e",
                length: number(&length)?,
                head: if head.is_empty() { None } else { Some(Head::decode(&head)?) },
                piece: Bytes::from(piece),
                left: Duration::from_millis(number(&left)?),
            })))
        }
        _ => None,
    }
}
