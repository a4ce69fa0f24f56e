//! The cool-downs of one API that this instance knows of: its own, and what others say.
//!
//! A mirror of what is in Redis, which is asked for nothing on the way of a request. What is heard
//! here is told there (`lua/cooldown.lua`), and from there all instances. While Redis is away each
//! instance keeps to what it heard itself; when it is back, both sides give each other what they have.
//!
//! Invariants: at most [`MOST`] cool-downs are known and [`WAITERS`] requests wait for each API. The
//! lock is held for some dozens of instructions, and not taken at all while there is no cool-down.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Settings;
use super::pause::Asked;
use super::pause::Pace;
use super::pause::Pause;
use super::pause::Turn;
use super::pause::Word;
use super::subject::Name;
use super::subject::Subject;
use crate::base::clock;
use crate::policy::Decision;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::store::board::Board;
use crate::store::board::Listener;
use crate::store::scripts::COOLDOWN;

/// Cool-downs that are known at once; of more, those that end first are forgotten.
const MOST: usize = 4096;
/// Requests of one API that wait at once; whoever comes then is refused.
const WAITERS: usize = 1024;
/// How often those are looked for that are over.
const SWEEP: Duration = Duration::from_secs(1);
/// What cool-downs are called on the board.
const TOPIC: &str = "cooldown";

/// The cool-downs of one API. Lives on when its settings change.
pub(super) struct Book {
    api: Arc<str>,
    board: Board,
    pub(super) key: hmac::Key,
    state: Mutex<State>,
    /// How many there are: nobody takes the lock while there are none.
    live: AtomicUsize,
    waiting: AtomicUsize,
    counts: Counts,
    itself: Weak<Self>,
}

/// What happened, since the start.
#[derive(Debug, Default)]
struct Counts {
    heard: AtomicU64,
    told: AtomicU64,
    capped: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
    forgotten: AtomicU64,
}

/// The same, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Cool-downs that answers asked this instance for, or made longer.
    pub(crate) heard: u64,
    /// Those that were heard of from others.
    pub(crate) told: u64,
    /// Those of `heard` that asked for more than is obeyed.
    pub(crate) capped: u64,
    /// Requests that waited.
    pub(crate) waited: u64,
    /// Requests that were refused.
    pub(crate) refused: u64,
    /// Cool-downs that an operator has ended.
    pub(crate) forgotten: u64,
}

/// A cool-down, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `host`, `host#fingerprint`, or `*` for all of the API.
    pub(crate) name: String,
    /// How long it lasts; zero while the ramp does.
    pub(crate) left: Duration,
    /// Of the answer that asked for it.
    pub(crate) status: u16,
    /// Whether more was asked for than is obeyed.
    pub(crate) is_capped: bool,
    /// Requests that wait here.
    pub(crate) waiting: usize,
}

struct State {
    settings: Settings,
    pauses: HashMap<Name, Known>,
    /// Number of the last term.
    term: u64,
    sweep_at: Instant,
}

struct Known {
    pause: Pause,
    /// Told when it is another, or none any more.
    changed: Arc<Notify>,
}

/// A place among those who wait; dropped, it is given up.
#[derive(Debug)]
pub(super) struct Place {
    book: Arc<Book>,
    name: Name,
    turn: Turn,
    /// When that is, as was told last.
    at: Instant,
    /// Whether those behind it stay behind it when it is given up.
    keeps_turn: bool,
}

impl Place {
    /// Gives it up without a wait; the turn stays taken.
    pub(super) fn skip(mut self) {
        self.keeps_turn = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.waiting.fetch_sub(1, Relaxed);
        if let Some(known) = self.book.state().pauses.get_mut(&self.name) {
            if self.keeps_turn {
                known.pause.waiting = known.pause.waiting.saturating_sub(1);
            } else {
                known.pause.left(clock::now());
            }
        }
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").field("api", &self.api).finish_non_exhaustive()
    }
}

impl Book {
    pub(super) fn open(api: &Arc<str>, settings: Settings, board: &Board) -> Arc<Self> {
        let book = Arc::new_cyclic(|itself| Self {
            api: Arc::clone(api),
            board: board.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, board.prefix().as_bytes()),
            state: Mutex::new(State {
                settings,
                pauses: HashMap::new(),
                term: 0,
                sweep_at: clock::now(),
            }),
            live: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            counts: Counts::default(),
            itself: Weak::clone(itself),
        });
        let listener: Arc<dyn Listener> = Arc::<Self>::clone(&book);
        board.listen(TOPIC, Arc::downgrade(&listener));
        book
    }

    pub(super) fn api(&self) -> &str {
        &self.api
    }

    /// What holds from now on.
    pub(super) fn obey(&self, settings: Settings) {
        self.state().settings = settings;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.live.load(Relaxed) == 0
    }

    /// Whether an attempt may be made now; if not, whether it may wait, until `latest` at most.
    pub(super) fn enter(&self, subject: &Subject, latest: Option<Instant>) -> Decision<()> {
        if self.is_empty() {
            subject.place.take();
            return Decision::Pass(());
        }
        let now = clock::now();
        let name = subject.name(&self.api, &self.key);
        let place = subject.place.take();
        let turn = place.as_ref().map(|place| place.turn);
        let mut state = self.state();
        state.sweep(now, &self.live);
        let word = state.pauses.get_mut(name).map(|known| {
            let has_room = turn.is_some() || self.waiting.load(Relaxed) < WAITERS;
            let word = known.pause.ask(now, turn, latest.filter(|_| has_room));
            if matches!(word, Word::At(..)) && turn.is_none() {
                known.pause.waiting += 1;
            }
            (word, known.pause.status)
        });
        drop(state);
        let Some((word, status)) = word else { return Decision::Pass(()) };
        let refusal = |at| Refusal { rule: Rule::CoolDown(status), left: at - now };
        match word {
            // The place is given up with this.
            Word::Go => Decision::Pass(()),
            Word::TooLate(at) => {
                self.counts.refused.fetch_add(1, Relaxed);
                Decision::Refuse(refusal(at))
            }
            Word::At(at, turn) => {
                let place = match place {
                    Some(mut place) => {
                        (place.turn, place.at) = (turn, at);
                        Some(place)
                    }
                    None => self.place(name, turn, at),
                };
                subject.place.replace(place);
                Decision::Wait(refusal(at))
            }
        }
    }

    /// Whoever waits is counted already at the pause.
    fn place(&self, name: &Name, turn: Turn, at: Instant) -> Option<Place> {
        let book = self.itself.upgrade()?;
        self.waiting.fetch_add(1, Relaxed);
        self.counts.waited.fetch_add(1, Relaxed);
        Some(Place { book, name: name.clone(), turn, at, keeps_turn: false })
    }

    /// Until it may be worth asking again: the turn has come, or the cool-down is another.
    pub(super) async fn wait(&self, subject: &Subject) {
        let told = subject.place.borrow().as_ref().map(|place| (place.turn, place.at));
        let Some((turn, at)) = told else { return };
        let changed = {
            let state = self.state();
            let known = state.pauses.get(subject.name(&self.api, &self.key));
            let Some(known) = known.filter(|known| known.pause.when(turn) == Some(at)) else {
                return;
            };
            // Made with the lock held, so that no change is missed.
            Arc::clone(&known.changed).notified_owned()
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = changed => {}
        }
    }

    /// An answer asked for this; how much of it is obeyed.
    pub(super) fn hear(&self, subject: &Subject, status: u16, asked: Duration) -> Duration {
        let name = subject.name(&self.api, &self.key);
        let max = self.state().settings.max;
        let (left, is_capped) = (asked.min(max), asked > max);
        if left.is_zero() {
            return left;
        }
        let until = clock::now() + left;
        if self.note(name, Asked { until, status, is_capped }) {
            self.counts.heard.fetch_add(1, Relaxed);
            let (api, seconds) = (&self.api, left.as_secs_f64());
            tracing::info!(%api, subject = %name, status, seconds, "an upstream asked for a pause");
        }
        if is_capped {
            self.counts.capped.fetch_add(1, Relaxed);
            let (api, asked, max) = (&self.api, asked.as_secs(), max.as_secs());
            tracing::warn!(%api, subject = %name, asked, max, "a pause that is too long is cut short");
        }
        self.tell(name, left, status, is_capped);
        left
    }

    fn tell(&self, name: &Name, left: Duration, status: u16, is_capped: bool) {
        if !self.board.is_shared() {
            return;
        }
        let key = self.full(name);
        let words = ["set", &key, &left.as_millis().to_string(), &status.to_string()];
        let capped = if is_capped { "1" } else { "0" };
        self.board.tell(&COOLDOWN, TOPIC, &key, &[&words[..], &[capped]].concat());
    }

    /// Ends one, here and everywhere; whether it was known here.
    pub(super) fn forget(&self, name: &str) -> bool {
        let Some(name) = Name::parse(name) else { return false };
        let was_known = self.end(&name);
        if self.board.is_shared() {
            let key = self.full(&name);
            self.board.tell(&COOLDOWN, TOPIC, &key, &["end", &key]);
        }
        was_known
    }

    /// All that there are, the longest first.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let now = clock::now();
        let state = self.state();
        let pauses = state.pauses.iter().filter(|(_, known)| !known.pause.is_over(now));
        let mut seen: Vec<Seen> = pauses
            .map(|(name, Known { pause, .. })| Seen {
                name: name.to_string(),
                left: pause.until().saturating_duration_since(now),
                status: pause.status,
                is_capped: pause.is_capped,
                waiting: pause.waiting,
            })
            .collect();
        drop(state);
        seen.sort_by(|one, other| other.left.cmp(&one.left).then(one.name.cmp(&other.name)));
        seen
    }

    pub(super) fn counted(&self) -> Counted {
        let Counts { heard, told, capped, waited, refused, forgotten } = &self.counts;
        let [heard, told, capped, waited, refused, forgotten] =
            [heard, told, capped, waited, refused, forgotten].map(|count| count.load(Relaxed));
        Counted { heard, told, capped, waited, refused, forgotten }
    }

    /// What the cool-down of this name is called in Redis.
    fn full(&self, name: &Name) -> String {
        format!("{}/{name}", self.api)
    }

    /// The name in what a cool-down is called in Redis, if it is one of this API.
    fn own(&self, full: &str) -> Option<Name> {
        Name::parse(full.strip_prefix(&*self.api)?.strip_prefix('/')?)
    }

    /// Writes down what was asked for; whether that is news.
    fn note(&self, name: &Name, asked: Asked) -> bool {
        let now = clock::now();
        if asked.until <= now {
            return false;
        }
        let mut state = self.state();
        let pace = pace(state.settings.ramp, self.board.instances());
        state.term += 1;
        let term = state.term;
        let is_news = if let Some(known) = state.pauses.get_mut(name) {
            let is_news = known.pause.extend(asked, now, term, pace);
            if is_news {
                known.changed.notify_waiters();
            }
            is_news
        } else {
            state.make_room();
            let known = Known { pause: Pause::new(asked, term, pace), changed: Arc::default() };
            state.pauses.insert(name.clone(), known);
            true
        };
        self.live.store(state.pauses.len(), Relaxed);
        is_news
    }

    fn end(&self, name: &Name) -> bool {
        let mut state = self.state();
        let known = state.pauses.remove(name);
        self.live.store(state.pauses.len(), Relaxed);
        drop(state);
        let Some(known) = known else { return false };
        self.counts.forgotten.fetch_add(1, Relaxed);
        tracing::info!(api = %self.api, subject = %name, "a pause was ended by an operator");
        known.changed.notify_waiters();
        true
    }

    /// What another instance heard, or this one did.
    fn note_told(&self, name: &Name, left: &str, status: &str, capped: &str) {
        let (Ok(left), Ok(status)) = (left.parse(), status.parse()) else { return };
        let max = self.state().settings.max;
        let until = clock::now() + Duration::from_millis(left).min(max);
        if self.note(name, Asked { until, status, is_capped: capped == "1" }) {
            self.counts.told.fetch_add(1, Relaxed);
        }
    }

    /// Gives Redis what is known here, and takes what is known there.
    async fn exchange(&self) {
        for Seen { name, left, status, is_capped, .. } in self.seen() {
            if let Some(name) = Name::parse(&name).filter(|_| !left.is_zero()) {
                self.tell(&name, left, status, is_capped);
            }
        }
        let prefix = format!("{}/", self.api);
        let all = self.board.ask(&COOLDOWN, TOPIC, &prefix, &["all", &prefix]).await;
        let Ok(words) = all else { return };
        for row in words.chunks_exact(3) {
            if let Some(name) = self.own(&row[0]) {
                self.note_told(&name, &row[1], &row[2], "0");
            }
        }
    }
}

impl Listener for Book {
    fn heard(&self, key: &str, words: &[&str]) {
        let Some(name) = self.own(key) else { return };
        match words {
            ["set", left, status, capped] => self.note_told(&name, left, status, capped),
            ["end"] => drop(self.end(&name)),
            _ => {}
        }
    }

    fn back(&self) {
        if let Some(book) = self.itself.upgrade() {
            drop(tokio::spawn(async move { book.exchange().await }));
        }
    }
}

impl State {
    fn sweep(&mut self, now: Instant, live: &AtomicUsize) {
        if self.sweep_at > now {
            return;
        }
        self.sweep_at = now + SWEEP;
        self.pauses.retain(|_, known| known.pause.waiting > 0 || !known.pause.is_over(now));
        live.store(self.pauses.len(), Relaxed);
    }

    fn make_room(&mut self) {
        if self.pauses.len() < MOST {
            return;
        }
        let now = clock::now();
        self.pauses.retain(|_, known| !known.pause.is_over(now));
        // Some at a time, so that a flood does not look through all of them for each.
        let mut ends: Vec<Instant> =
            self.pauses.values().map(|known| known.pause.until()).collect();
        if ends.len() < MOST {
            return;
        }
        let (_, last, _) = ends.select_nth_unstable(MOST / 16);
        let last = *last;
        self.pauses.retain(|_, known| {
            let stays = known.pause.until() > last;
            if !stays {
                known.changed.notify_waiters();
            }
            stays
        });
    }
}

/// This instance's part of the fleet's pace.
fn pace(ramp: f64, instances: u32) -> Pace {
    let phase = if instances > 1 { fastrand::f64() } else { 0.0 };
    Pace { rate: ramp / f64::from(instances.max(1)), phase }
}

#[cfg(test)]
impl Book {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}
