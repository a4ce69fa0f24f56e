//! One request to the origin for many who ask for the same, within one instance.
//!
//! The first who asks leads; the others have a [`Seat`] and follow. All threads share a [`Flight`]: its
//! head once, then its body in pieces, each read at the pace of who reads. What is shorter than the bound
//! is held whole, since it is to be kept; what is longer *relays*: nobody joins any more, a piece is freed
//! when all have it, and who brings them waits for the slowest, who is cut when it takes none for too long.
//!
//! A leader that goes before there is a head leaves the flight to one of those who wait; the others follow
//! that one. A response that is nobody else's ends the flight for all who follow: each goes for itself,
//! and for a short while nobody waits for anybody there ([`Flights::apart`]).
//!
//! This decides nothing about responses, speaks to nobody and knows no Redis. Invariants: there is one
//! flight for a key, and one leader of it. Whoever goes, at whatever moment, leaves nobody waiting. What is
//! held is counted in [`Air`], and beyond its room all that is longer relays.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use super::entry::Head;
use super::entry::Key;
use crate::base::clock;
use crate::policy::Cause;

/// For how long nobody waits for a response that turned out to be nobody else's.
pub(crate) const APART: Duration = Duration::from_secs(2);
/// Bytes that a flight which relays holds for its slowest follower.
pub(crate) const WINDOW: usize = 256 << 10;
const SHARDS: usize = 16;
/// Keys of a shard for which nobody waits, and which are remembered.
const MOST_APART: usize = 1024;

/// All flights of the process.
pub(super) struct Flights {
    shards: [Mutex<HashMap<Key, Slot>>; SHARDS],
    pub(super) air: Arc<Air>,
}

enum Slot {
    /// Nobody waits until then.
    Apart(Instant),
    Under(Arc<Flight>),
}

/// What all flights hold.
#[derive(Debug)]
pub(super) struct Air {
    held: AtomicUsize,
    room: usize,
}

/// How somebody came to a flight.
#[derive(Debug)]
pub(super) enum Joined {
    /// Nobody waits for it at the moment.
    Apart,
    Follow(Seat),
    /// It has been kept meanwhile.
    Kept,
    Lead(Arc<Flight>),
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("air", &self.air).finish_non_exhaustive()
    }
}

impl Flights {
    /// Which may hold so many bytes.
    pub(super) fn new(room: usize) -> Self {
        let air = Arc::new(Air { held: AtomicUsize::new(0), room });
        Self { shards: Default::default(), air }
    }

    /// The flight for this key: `bound` is how long it may get to be kept. What `is_kept` says is asked
    /// when there is none, and nobody else can begin one: what ended just now is found by it.
    pub(super) fn join(
        self: &Arc<Self>,
        key: &Key,
        bound: usize,
        is_kept: impl FnOnce() -> bool,
    ) -> Joined {
        let mut shard = self.shard(key);
        match shard.get(key) {
            Some(Slot::Under(flight)) => return Joined::Follow(self.seat(flight)),
            Some(Slot::Apart(until)) if clock::now() < *until => return Joined::Apart,
            Some(Slot::Apart(_)) | None => {}
        }
        if is_kept() {
            return Joined::Kept;
        }
        let flight = Arc::new(Flight::new(*key, bound, Arc::clone(&self.air)));
        shard.insert(*key, Slot::Under(Arc::clone(&flight)));
        Joined::Lead(flight)
    }

    /// A place among those who follow.
    pub(super) fn seat(self: &Arc<Self>, flight: &Arc<Flight>) -> Seat {
        let number = flight.state().take_seat();
        Seat { flights: Arc::clone(self), flight: Arc::clone(flight), number }
    }

    /// Nobody joins it any more.
    pub(super) fn close(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(&flight.key);
        if is_under(&shard, flight) {
            shard.remove(&flight.key);
        }
    }

    /// Nobody joins it any more, and for a while nobody waits for anybody there.
    pub(super) fn apart(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(&flight.key);
        if !is_under(&shard, flight) {
            return;
        }
        let now = clock::now();
        shard.remove(&flight.key);
        if shard.len() >= MOST_APART {
            shard.retain(|_, slot| match slot {
                Slot::Apart(until) => now < *until,
                Slot::Under(_) => true,
            });
        }
        if shard.len() < MOST_APART {
            shard.insert(flight.key, Slot::Apart(now + APART));
        }
    }

    /// Its leader has gone: somebody else leads, or nobody waits and it is no more.
    pub(super) fn leave(&self, flight: &Arc<Flight>) {
        // Held, so that nobody takes a seat in between.
        let mut shard = self.shard(&flight.key);
        if !flight.leave() && is_under(&shard, flight) {
            shard.remove(&flight.key);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let under = |slot: &&Slot| matches!(slot, Slot::Under(_));
        self.shards.iter().map(|shard| lock(shard).values().filter(under).count()).sum()
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Slot>> {
        lock(&self.shards[usize::from(key.0[0]) % SHARDS])
    }
}

fn is_under(shard: &HashMap<Key, Slot>, flight: &Arc<Flight>) -> bool {
    matches!(shard.get(&flight.key), Some(Slot::Under(under)) if Arc::ptr_eq(under, flight))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request to the origin, and who waits for what comes of it.
pub(super) struct Flight {
    pub(super) key: Key,
    bound: usize,
    air: Arc<Air>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    head: Option<Arc<Head>>,
    /// Whether somebody has taken the head: then there is no other.
    is_told: bool,
    /// Pieces of the body that somebody may still want, and how many of those who follow have yet to
    /// take each, which is counted once it relays.
    pieces: VecDeque<(Bytes, usize)>,
    /// Pieces before those.
    freed: u64,
    /// Bytes of those.
    held: usize,
    /// Bytes of the body so far.
    length: u64,
    relays: bool,
    seats: Vec<Option<Place>>,
    /// Who is to lead.
    heir: Option<usize>,
    pump: Option<Waker>,
    /// When a piece was freed last, or relaying began.
    moved: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is no head yet.
    Asked,
    Broken(Broken),
    /// Each goes for itself.
    Dissolved,
    Ended,
    Streaming,
}

/// Who follows.
#[derive(Default)]
struct Place {
    /// The number of the next piece.
    next: u64,
    waker: Option<Waker>,
    is_cut: bool,
}

/// Why a body is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Broken {
    /// The origin, or the way there, failed; or who fetched it has gone.
    #[error("the response that is followed has failed")]
    Failed(Option<Cause>),
    /// This one took too long to take it.
    #[error("too slow for the response that is followed")]
    TooSlow,
}

/// Nobody wants it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nobody follows any more")]
pub(crate) struct Deserted;

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// All is held.
    Held,
    /// It was too much: from now on it relays.
    Relays,
    /// It relays already.
    Relayed,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Flight")
            .field("key", &self.key)
            .field("phase", &state.phase)
            .field("relays", &state.relays)
            .finish_non_exhaustive()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let held = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).held;
        self.air.held.fetch_sub(held, Relaxed);
    }
}

impl Flight {
    fn new(key: Key, bound: usize, air: Arc<Air>) -> Self {
        let state = State {
            phase: Phase::Asked,
            head: None,
            is_told: false,
            pieces: VecDeque::new(),
            freed: 0,
            held: 0,
            length: 0,
            relays: false,
            seats: Vec::new(),
            heir: None,
            pump: None,
            moved: clock::now(),
        };
        Self { key, bound, air, state: Mutex::new(state) }
    }

    /// The head; whether it is taken: there is none yet that somebody has taken.
    pub(super) fn head(&self, head: Arc<Head>) -> bool {
        self.change(|state| {
            if state.is_told {
                return false;
            }
            self.air.held.fetch_sub(state.held, Relaxed);
            state.pieces.clear();
            (state.freed, state.held, state.length) = (0, 0, 0);
            for place in state.seats.iter_mut().flatten() {
                place.next = 0;
            }
            state.head = Some(head);
            state.phase = Phase::Streaming;
            true
        })
    }

    /// The head that was said, and whether somebody has taken it.
    pub(super) fn said(&self) -> Option<(Arc<Head>, bool)> {
        let state = self.state();
        state.head.clone().map(|head| (head, state.is_told))
    }

    /// Bytes of the body so far.
    pub(super) fn length(&self) -> u64 {
        self.state().length
    }

    /// The next piece of the body.
    pub(super) fn push(&self, piece: Bytes) -> Pushed {
        self.change(|state| {
            let more = piece.len();
            let held = self.air.held.fetch_add(more, Relaxed) + more;
            state.length += more as u64;
            state.held += more;
            let wanted = state.seats.iter().flatten().filter(|place| !place.is_cut).count();
            state.pieces.push_back((piece, wanted));
            if state.relays {
                state.free(&self.air);
                return Pushed::Relayed;
            }
            if state.held <= self.bound && held <= self.air.room {
                return Pushed::Held;
            }
            state.relay(&self.air);
            Pushed::Relays
        })
    }

    /// From now on it relays: nothing of it is to be kept.
    pub(super) fn relay(&self) {
        self.change(|state| {
            if !state.relays {
                state.relay(&self.air);
            }
        });
    }

    /// Ready when there is room for the next piece: for one that relays, when the slowest is not too far
    /// behind; whoever takes nothing for as long as `idle` is cut. Errs when nobody is left.
    pub(super) async fn room(&self, idle: Duration) -> Result<(), Deserted> {
        loop {
            let until = {
                let state = self.state();
                if !state.relays {
                    return Ok(());
                }
                state.moved + idle
            };
            let ready = std::future::poll_fn(|cx| self.poll_room(cx));
            if let Ok(ready) = tokio::time::timeout_at(until, ready).await {
                return ready;
            }
            self.change(|state| state.cut(clock::now(), idle, &self.air));
        }
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Deserted>> {
        let mut state = self.state();
        if state.seats.iter().flatten().all(|place| place.is_cut) {
            return Poll::Ready(Err(Deserted));
        }
        if state.held <= WINDOW {
            return Poll::Ready(Ok(()));
        }
        state.pump = Some(cx.waker().clone());
        Poll::Pending
    }

    /// All of the body, if it was held.
    pub(super) fn body(&self) -> Option<Bytes> {
        let pieces: Vec<Bytes> = {
            let state = self.state();
            if state.relays {
                return None;
            }
            state.pieces.iter().map(|(piece, _)| piece.clone()).collect()
        };
        // A copy, since a piece may be a small part of a large buffer.
        Some(Bytes::from(pieces.concat().into_boxed_slice()))
    }

    /// The body is whole.
    pub(super) fn end(&self) {
        self.change(|state| state.phase = Phase::Ended);
    }

    /// There will be no more of it.
    pub(super) fn fail(&self, cause: Option<Cause>) {
        self.change(|state| state.phase = Phase::Broken(Broken::Failed(cause)));
    }

    /// Who has no head goes for itself.
    pub(super) fn dissolve(&self) {
        self.change(|state| state.phase = Phase::Dissolved);
    }

    /// Who follows now.
    pub(super) fn followers(&self) -> usize {
        self.state().seats.iter().flatten().filter(|place| !place.is_cut).count()
    }

    /// The leader has gone; whether somebody else leads.
    fn leave(&self) -> bool {
        self.change(|state| match state.phase {
            Phase::Asked => {
                state.heir = state.seats.iter().position(Option::is_some);
                state.heir.is_some()
            }
            Phase::Streaming => {
                state.phase = Phase::Broken(Broken::Failed(None));
                false
            }
            Phase::Broken(_) | Phase::Dissolved | Phase::Ended => false,
        })
    }

    /// Changes something, and tells all who wait.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        let places = state.seats.iter_mut().flatten();
        let wakers: Vec<Waker> = places.filter_map(|place| place.waker.take()).collect();
        let pump = state.pump.take();
        drop(state);
        wakers.into_iter().chain(pump).for_each(Waker::wake);
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn relay(&mut self, air: &Air) {
        self.relays = true;
        self.moved = clock::now();
        let first = self.freed;
        for (number, (_, wanted)) in (first..).zip(&mut self.pieces) {
            let wants = |place: &&Place| !place.is_cut && place.next <= number;
            *wanted = self.seats.iter().flatten().filter(wants).count();
        }
        self.free(air);
    }

    /// Frees what nobody wants any more.
    fn free(&mut self, air: &Air) {
        while let Some((piece, 0)) = self.pieces.front() {
            let length = piece.len();
            air.held.fetch_sub(length, Relaxed);
            self.held -= length;
            self.freed += 1;
            self.moved = clock::now();
            self.pieces.pop_front();
        }
    }

    /// Somebody wants nothing from this piece on.
    fn release(&mut self, next: u64, air: &Air) {
        if self.relays {
            let skip = usize::try_from(next.saturating_sub(self.freed)).unwrap_or(usize::MAX);
            self.pieces
                .iter_mut()
                .skip(skip)
                .for_each(|(_, wanted)| *wanted = wanted.saturating_sub(1));
            self.free(air);
        }
    }

    /// Cuts those who have held up the others for too long.
    fn cut(&mut self, now: Instant, idle: Duration, air: &Air) {
        if now < self.moved + idle {
            return;
        }
        let first = self.freed;
        let mut released = Vec::new();
        for place in self.seats.iter_mut().flatten().filter(|place| !place.is_cut) {
            if place.next == first {
                place.is_cut = true;
                released.push(place.next);
            }
        }
        for next in released {
            self.release(next, air);
        }
        self.moved = now;
    }

    /// The number of a new one.
    fn take_seat(&mut self) -> usize {
        let free = self.seats.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.seats[number] = Some(Place { next: self.freed, ..Place::default() });
        if self.relays {
            self.pieces.iter_mut().for_each(|(_, wanted)| *wanted += 1);
        }
        number
    }
}

/// A place among those who follow; dropped, it is given up.
pub(super) struct Seat {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    number: usize,
}

/// What somebody who follows hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// It is not for others.
    Apart,
    Broken(Broken),
    Head(Arc<Head>),
    /// Nobody leads, and it is this one's turn.
    Heir,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("flight", &self.flight).finish_non_exhaustive()
    }
}

impl Seat {
    pub(super) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Heard> {
        let mut state = self.flight.state();
        let heard = match state.phase {
            Phase::Asked if state.heir == Some(self.number) => {
                state.heir = None;
                Heard::Heir
            }
            Phase::Asked => {
                if let Some(place) = &mut state.seats[self.number] {
                    place.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Phase::Ended | Phase::Streaming => match state.head.clone() {
                Some(head) => {
                    state.is_told = true;
                    Heard::Head(head)
                }
                // Cannot be: both come after the head.
                None => Heard::Broken(Broken::Failed(None)),
            },
            Phase::Broken(broken) => Heard::Broken(broken),
            Phase::Dissolved => Heard::Apart,
        };
        Poll::Ready(heard)
    }

    /// The next piece; none at the end.
    pub(super) fn poll_piece(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut guard = self.flight.state();
        let state = &mut *guard;
        let Some(place) = &mut state.seats[self.number] else { return Poll::Ready(None) };
        if place.is_cut {
            return Poll::Ready(Some(Err(Broken::TooSlow)));
        }
        let at = usize::try_from(place.next - state.freed).unwrap_or(usize::MAX);
        if let Some((piece, wanted)) = state.pieces.get_mut(at) {
            place.next += 1;
            let piece = piece.clone();
            if state.relays {
                *wanted = wanted.saturating_sub(1);
                state.free(&self.flight.air);
                let pump = if state.held <= WINDOW { state.pump.take() } else { None };
                drop(guard);
                pump.into_iter().for_each(Waker::wake);
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match state.phase {
            Phase::Asked | Phase::Streaming => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Phase::Broken(broken) => Poll::Ready(Some(Err(broken))),
            Phase::Dissolved => Poll::Ready(Some(Err(Broken::Failed(None)))),
            Phase::Ended => Poll::Ready(None),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        let place = state.seats[self.number].take();
        if let Some(place) = place.filter(|place| !place.is_cut) {
            state.release(place.next, &self.flight.air);
        }
        let was_heir = state.heir == Some(self.number);
        let pump = state.pump.take();
        drop(state);
        pump.into_iter().for_each(Waker::wake);
        if was_heir {
            // It never knew. Another is to lead.
            self.flights.leave(&self.flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::HeaderMap;
    use http::Method;
    use http::StatusCode;

    use super::super::entry::Terms;
    use super::super::entry::Vary;
    use super::*;

    const KEY: Key = Key([3; 32]);
    const IDLE: Duration = Duration::from_secs(30);

    fn flights() -> Arc<Flights> {
        Arc::new(Flights::new(1 << 20))
    }

    fn head(status: u16) -> Arc<Head> {
        Arc::new(Head {
            method: Method::GET,
            status: StatusCode::from_u16(status).unwrap(),
            fields: HeaderMap::new(),
            asked: SystemTime::UNIX_EPOCH,
            answered: SystemTime::UNIX_EPOCH,
            vary: Vary::default(),
            lifetime: Duration::from_mins(1),
            keep: Duration::from_mins(2),
            terms: Terms::default(),
        })
    }

    fn lead(flights: &Arc<Flights>, bound: usize) -> Arc<Flight> {
        match flights.join(&KEY, bound, || false) {
            Joined::Lead(flight) => flight,
            other @ (Joined::Apart | Joined::Follow(_) | Joined::Kept) => panic!("{other:?}"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Seat {
        match flights.join(&KEY, 1000, || false) {
            Joined::Follow(seat) => seat,
            other @ (Joined::Apart | Joined::Kept | Joined::Lead(_)) => panic!("{other:?}"),
        }
    }

    async fn heard(seat: &Seat) -> Heard {
        std::future::poll_fn(|cx| seat.poll_head(cx)).await
    }

    fn is_waiting(seat: &Seat) -> bool {
        seat.poll_head(&Context::from_waker(Waker::noop())).is_pending()
    }

    async fn piece(seat: &Seat) -> Option<Result<Bytes, Broken>> {
        std::future::poll_fn(|cx| seat.poll_piece(cx)).await
    }

    async fn all(seat: Seat) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        while let Some(piece) = piece(&seat).await {
            bytes.extend(piece?);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn all_who_follow_get_the_head_and_all_of_the_body_each_at_its_own_pace() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let early = follow(&flights);
        let reading = tokio::spawn(async move {
            assert!(matches!(heard(&early).await, Heard::Head(_)));
            all(early).await
        });
        tokio::task::yield_now().await;
        flight.head(head(200));
        flight.push("one ".into());
        let late = follow(&flights);
        assert!(matches!(heard(&late).await, Heard::Head(_)));
        tokio::task::yield_now().await;
        flight.push("two".into());
        assert_eq!(flight.body().unwrap(), "one two");
        flights.close(&flight);
        flight.end();
        assert_eq!(reading.await.unwrap().unwrap(), b"one two");
        assert_eq!(all(late).await.unwrap(), b"one two");
        assert_eq!(flights.count(), 0);
        drop(flight);
        assert_eq!(flights.air.held.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_leader_that_goes_before_the_head_leaves_it_to_one_of_those_who_wait() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let seats: Vec<Seat> = (0..3).map(|_| follow(&flights)).collect();
        assert!(seats.iter().all(is_waiting));
        flights.leave(&flight);
        let mut heirs = Vec::new();
        for (number, seat) in seats.iter().enumerate() {
            if let Poll::Ready(heard) = seat.poll_head(&Context::from_waker(Waker::noop())) {
                assert!(matches!(heard, Heard::Heir), "{heard:?}");
                heirs.push(number);
            }
        }
        assert_eq!(heirs.len(), 1);
        assert!(matches!(flights.join(&KEY, 1000, || false), Joined::Follow(_)), "still that one");
        flight.head(head(200));
        assert!(matches!(heard(&seats[2]).await, Heard::Head(_)));
    }

    #[tokio::test]
    async fn an_heir_that_goes_without_knowing_leaves_it_to_the_next_and_the_last_ends_it() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let mut seats: Vec<Seat> = (0..3).map(|_| follow(&flights)).collect();
        flights.leave(&flight);
        seats.remove(0);
        assert!(matches!(heard(&seats[0]).await, Heard::Heir));
        flights.leave(&flight);
        // It gave up too, but it is still there, and so it is asked again.
        assert!(matches!(heard(&seats[0]).await, Heard::Heir));
        drop(seats);
        flights.leave(&flight);
        assert_eq!(flights.count(), 0);
        assert!(matches!(flights.join(&KEY, 1000, || false), Joined::Lead(_)));
    }

    #[tokio::test]
    async fn what_breaks_breaks_for_all_and_is_no_whole_body() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let (waiting, reading) = (follow(&flights), follow(&flights));
        flight.head(head(200));
        assert!(matches!(heard(&reading).await, Heard::Head(_)));
        flight.push("half".into());
        flights.close(&flight);
        flight.fail(Some(Cause::Reset));
        assert_eq!(all(reading).await, Err(Broken::Failed(Some(Cause::Reset))));
        let told = heard(&waiting).await;
        assert!(matches!(told, Heard::Broken(Broken::Failed(Some(Cause::Reset)))), "{told:?}");
    }

    #[tokio::test]
    async fn a_leader_that_goes_in_the_middle_breaks_it() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let seat = follow(&flights);
        flight.head(head(200));
        flight.push("half".into());
        assert!(matches!(heard(&seat).await, Heard::Head(_)));
        flights.leave(&flight);
        assert_eq!(all(seat).await, Err(Broken::Failed(None)));
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_for_nobody_else_lets_all_go_and_nobody_waits_for_a_while() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let seat = follow(&flights);
        assert!(is_waiting(&seat));
        flights.apart(&flight);
        flight.dissolve();
        assert!(matches!(heard(&seat).await, Heard::Apart));
        assert!(matches!(flights.join(&KEY, 1000, || false), Joined::Apart));
        tokio::time::advance(APART).await;
        assert!(matches!(flights.join(&KEY, 1000, || false), Joined::Lead(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_keys_for_which_nobody_waits_there_are_not_too_many() {
        let flights = flights();
        let key = |number: usize| {
            let mut key = [0; 32];
            key[24..].copy_from_slice(&number.to_be_bytes());
            Key(key)
        };
        let mut put = |number| {
            let Joined::Lead(flight) = flights.join(&key(number), 1, || false) else { panic!() };
            flights.apart(&flight);
            matches!(flights.join(&key(number), 1, || false), Joined::Apart)
        };
        assert!((0..MOST_APART).all(&mut put));
        assert!(!put(MOST_APART), "it is forgotten at once");
        tokio::time::advance(APART).await;
        assert!(put(MOST_APART + 1), "those that are over made room");
    }

    #[test]
    fn what_was_kept_between_the_look_and_the_flight_is_found() {
        let flights = flights();
        assert!(matches!(flights.join(&KEY, 1, || true), Joined::Kept));
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_beyond_the_bound_is_relayed_at_the_pace_of_the_slowest() {
        let flights = flights();
        let flight = lead(&flights, 10);
        let (fast, slow) = (follow(&flights), follow(&flights));
        flight.head(head(200));
        assert_eq!(flight.push(Bytes::from_static(&[1; 10])), Pushed::Held);
        flight.room(IDLE).await.unwrap();
        assert_eq!(flight.push(Bytes::from_static(&[2; 1])), Pushed::Relays);
        assert_eq!(flight.body(), None);
        assert_eq!(flight.push(Bytes::from(vec![3; WINDOW])), Pushed::Relayed);
        for _ in 0..3 {
            piece(&fast).await.unwrap().unwrap();
        }
        let waiting = tokio::spawn({
            let flight = Arc::clone(&flight);
            async move { flight.room(IDLE).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the slow one has nothing yet");
        piece(&slow).await.unwrap().unwrap();
        piece(&slow).await.unwrap().unwrap();
        waiting.await.unwrap().unwrap();
        assert_eq!(flights.air.held.load(Relaxed), WINDOW);
        drop(fast);
        piece(&slow).await.unwrap().unwrap();
        assert_eq!(flights.air.held.load(Relaxed), 0, "all have all");
        drop(slow);
        assert_eq!(flight.room(IDLE).await, Err(Deserted));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_too_long_is_cut_and_the_others_go_on() {
        let flights = flights();
        let flight = lead(&flights, 10);
        let (fast, slow) = (follow(&flights), follow(&flights));
        flight.head(head(200));
        flight.push(Bytes::from(vec![1; WINDOW + 1]));
        piece(&fast).await.unwrap().unwrap();
        let start = clock::now();
        flight.room(IDLE).await.unwrap();
        assert_eq!(clock::now() - start, IDLE);
        assert_eq!(piece(&slow).await, Some(Err(Broken::TooSlow)));
        flight.push("more".into());
        flight.end();
        assert_eq!(all(fast).await.unwrap(), b"more");
        assert_eq!(flights.air.held.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn beyond_the_room_for_all_what_is_longer_relays() {
        let flights = Arc::new(Flights::new(100));
        let flight = lead(&flights, 1000);
        flight.head(head(200));
        assert_eq!(flight.push(Bytes::from_static(&[0; 100])), Pushed::Held);
        assert_eq!(flight.push(Bytes::from_static(&[0; 1])), Pushed::Relays);
        assert_eq!(flights.air.held.load(Relaxed), 0, "nobody wants it");
    }

    #[tokio::test]
    async fn another_head_may_come_until_somebody_has_taken_one() {
        let flights = flights();
        let flight = lead(&flights, 1000);
        let seat = follow(&flights);
        assert!(flight.head(head(200)));
        flight.push("of the first".into());
        assert!(flight.head(head(203)));
        flight.push("of the second".into());
        let Heard::Head(told) = heard(&seat).await else { panic!() };
        assert_eq!(told.status, 203);
        assert!(!flight.head(head(204)));
        flight.end();
        assert_eq!(all(seat).await.unwrap(), b"of the second");
    }
}
