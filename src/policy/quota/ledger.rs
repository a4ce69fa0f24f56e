//! All keys of one API, as this instance counts them: alone, or with the fleet.
//!
//! What is decided is decided in [`count`](super::count) and [`lease`](super::lease), under the short
//! lock of a [`Shelf`]. Here is who reads the clocks, asks Redis, and hears what others say.
//!
//! A question to Redis has a task of its own, so that a client that leaves takes no answer with it:
//! others wait for the same. It ends with the board's time-out.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::Counted;
use super::Level;
use super::MOST_KEYS;
use super::OnRedisError;
use super::Settings;
use super::Taken;
use super::Verdict;
use super::count::Count;
use super::count::Denied;
use super::count::Question;
use super::lease::Heard;
use super::lease::Lease;
use super::lease::Surplus;
use super::shelf::Shelf;
use super::tier::Tiers;
use super::tier::micros;
use super::word::Reply;
use super::word::Say;
use super::word::TOPIC;
use crate::base::clock;
use crate::store::board::Away;
use crate::store::board::Board;
use crate::store::board::Listener;
use crate::store::scripts::QUOTA;

/// Keys of which Redis is told at once when it is back; the board has no room for many more.
const DEBTS: usize = 1024;

/// The counts of all keys of one API. Cheap to clone; used on every thread.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    books: Arc<Books>,
}

struct Books {
    api: Arc<str>,
    board: Board,
    settings: ArcSwap<Settings>,
    keys: Shelf<Entry>,
    counts: Counts,
    itself: Weak<Self>,
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Books").field("api", &self.api).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicU64,
    denied: AtomicU64,
    away: AtomicU64,
    alone: AtomicU64,
    asked: AtomicU64,
}

/// One key.
#[derive(Debug)]
struct Entry {
    /// What this instance let through: all there is to know where it is alone, else what it may go by
    /// while Redis is away.
    own: Own,
    /// What it let through without Redis, to be told when it is back.
    owed: Option<Box<Own>>,
    lease: Option<Box<Lease>>,
}

/// A count, and what it is a count of.
#[derive(Debug)]
struct Own {
    tiers: Arc<Tiers>,
    count: Count,
}

impl Own {
    fn new(tiers: &Arc<Tiers>) -> Self {
        Self { tiers: Arc::clone(tiers), count: Count::new(tiers) }
    }

    /// The count of these tiers.
    fn of(&mut self, tiers: &Arc<Tiers>) -> &mut Count {
        if !Arc::ptr_eq(&self.tiers, tiers) {
            if *self.tiers != **tiers {
                self.count.adapt(&self.tiers, tiers);
            }
            self.tiers = Arc::clone(tiers);
        }
        &mut self.count
    }

    /// What of it counts, for each of these tiers.
    fn spell(&mut self, tiers: &Arc<Tiers>) -> String {
        let used = self.of(tiers).used(now());
        used.map(|used| used.to_string()).collect::<Vec<_>>().join(" ")
    }
}

impl Entry {
    fn weight(&mut self) -> u8 {
        let lease = self.lease.as_ref().map_or(0, |lease| lease.weight(clock::now()));
        // PERF: what is known to weigh something need not be counted.
        if lease > 0 { lease } else { self.own.count.weight(now()) }
    }
}

/// What is to be done for a request.
enum Step {
    Done(Taken),
    /// Redis is away.
    Alone,
    /// An answer comes; a question has to be asked for it, about the lease of this number.
    Wait(oneshot::Receiver<Heard>, Option<(Arc<str>, u64)>),
}

impl Ledger {
    /// Those of `former` live on.
    pub(crate) fn new(
        api: &Arc<str>,
        settings: Settings,
        board: &Board,
        former: Option<&Self>,
    ) -> Self {
        if let Some(former) = former {
            former.books.settings.store(Arc::new(settings));
            return former.clone();
        }
        let books = Arc::new_cyclic(|itself| Books {
            api: Arc::clone(api),
            board: board.clone(),
            settings: ArcSwap::from_pointee(settings),
            keys: Shelf::new(MOST_KEYS),
            counts: Counts::default(),
            itself: Weak::clone(itself),
        });
        let listener: Arc<dyn Listener> = Arc::<Books>::clone(&books);
        board.listen(TOPIC, Arc::downgrade(&listener));
        Self { books }
    }

    /// Takes `cost` from all tiers of this key, or from none. Dropped, it may have taken it.
    pub(crate) async fn take(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) -> Taken {
        let taken = self.books.take(key, tiers, cost).await;
        let counts = &self.books.counts;
        let count = match taken.verdict {
            Verdict::Admitted => &counts.admitted,
            Verdict::Away => &counts.away,
            Verdict::Denied { .. } | Verdict::Never { .. } => &counts.denied,
        };
        count.fetch_add(1, Relaxed);
        taken
    }

    /// How full they are: in the whole fleet, or, while Redis is away, as far as it is known here.
    pub(crate) async fn look(&self, key: &str, tiers: &Arc<Tiers>) -> Vec<Level> {
        let books = &self.books;
        if books.board.is_shared()
            && let Ok(reply) = books.ask(key, tiers, &Say::Look).await
        {
            return reply.levels;
        }
        books.known(key, tiers)
    }

    /// Gives a key all of its tiers back, on all instances; whether it was known here.
    pub(crate) fn forget(&self, key: &str, tiers: &Tiers) -> bool {
        self.books.tell(key, tiers, &Say::Forget);
        self.books.forget(key, None)
    }

    /// What happened since the start.
    pub(crate) fn counted(&self) -> Counted {
        let Counts { admitted, denied, away, alone, asked } = &self.books.counts;
        let [admitted, denied, away, alone, asked] =
            [admitted, denied, away, alone, asked].map(|count| count.load(Relaxed));
        let keys = u64::try_from(self.books.keys.len()).unwrap_or(u64::MAX);
        Counted { admitted, denied, away, alone, asked, keys }
    }
}

impl Books {
    async fn take(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) -> Taken {
        if let Some(tier) = tiers.never(cost) {
            return Taken { verdict: Verdict::Never { tier }, levels: self.known(key, tiers) };
        }
        if !self.board.is_shared() {
            let refused = self.settings.load().charge_refused;
            return self.with(key, tiers, |_, entry| count(&mut entry.own, tiers, cost, refused));
        }
        if self.settings.load().charge_refused {
            return self.take_each(key, tiers, cost).await;
        }
        let until = clock::now() + self.board.patience();
        loop {
            let (heard, ask) = match self.step(key, tiers, cost) {
                Step::Done(taken) => return taken,
                Step::Alone => return self.take_alone(key, tiers, cost),
                Step::Wait(heard, ask) => (heard, ask),
            };
            if let (Some((key, id)), Some(books)) = (ask, self.itself.upgrade()) {
                // It ends when nobody waits any more, each question by the board's time-out.
                drop(tokio::spawn(async move { books.serve(&key, id).await }));
            }
            match tokio::time::timeout_at(until, heard).await {
                Ok(Ok(Some(taken))) => {
                    if taken.verdict == Verdict::Admitted {
                        self.note(key, tiers, cost);
                    }
                    return taken;
                }
                // The key was forgotten, and is asked for anew.
                Ok(Err(_forgotten)) if clock::now() < until => {}
                Ok(Ok(None) | Err(_)) | Err(_) => return self.take_alone(key, tiers, cost),
            }
        }
    }

    fn step(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) -> Step {
        let now = clock::now();
        let counts_alone = self.counts_alone();
        let (step, surplus) = self.with(key, tiers, |name, entry| {
            let Entry { own, lease, .. } = entry;
            let lease = lease.get_or_insert_with(|| Box::new(Lease::new(tiers, now)));
            let surplus = lease.obey(tiers, now);
            let step = if let Some(taken) = lease.decide(cost, now) {
                if counts_alone && taken.verdict == Verdict::Admitted {
                    own.of(&tiers.share(self.board.instances())).force(self::now(), cost);
                }
                Step::Done(taken)
            } else if self.board.is_up() {
                let id = lease.id;
                let (heard, is_first) = lease.wait(cost);
                Step::Wait(heard, is_first.then(|| (Arc::clone(name), id)))
            } else {
                Step::Alone
            };
            (step, surplus)
        });
        self.give_back(key, tiers, surplus);
        step
    }

    /// Asks Redis for those who wait for this key, until nobody does.
    async fn serve(&self, key: &Arc<str>, id: u64) {
        let mut asking = Asking { books: self, key, id, is_done: false };
        loop {
            let sent = clock::now();
            let asked = self.lease(key, id, |entry, lease| {
                let question = lease.question(self.board.instances(), sent)?;
                Some((Arc::clone(lease.tiers()), question, entry.owed.take()))
            });
            let Some(Some((tiers, question, mut owed))) = asked else {
                asking.is_done = true;
                return;
            };
            let debt = owed.as_mut().map(|owed| owed.spell(&tiers));
            let say = Say::Take(question, debt.as_deref());
            let said = self.ask(key, &tiers, &say).await;
            let heard = self.lease(key, id, |entry, lease| {
                if let Ok(reply) = said {
                    return Some(lease.hear(question, reply, sent, clock::now()));
                }
                lease.hear_nothing();
                entry.owed = entry.owed.take().or(owed);
                None
            });
            let Some(Some(surplus)) = heard else {
                asking.is_done = true;
                return;
            };
            self.give_back(key, &tiers, surplus);
        }
    }

    /// Does something to this very lease, if it is still there.
    fn lease<R>(
        &self,
        key: &str,
        id: u64,
        act: impl FnOnce(&mut Entry, &mut Lease) -> R,
    ) -> Option<R> {
        let found = self.keys.find(key, |entry| {
            let mut lease = entry.lease.take()?;
            let done = (lease.id == id).then(|| act(entry, &mut lease));
            entry.lease = Some(lease);
            done
        });
        found.flatten()
    }

    /// Each request by itself, since each is counted.
    async fn take_each(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) -> Taken {
        let Ok(reply) = self.ask(key, tiers, &Say::Take(Question::plain(cost), None)).await else {
            return self.take_alone(key, tiers, cost);
        };
        let verdict = match reply.outcome {
            Ok(_) => {
                self.note(key, tiers, cost);
                Verdict::Admitted
            }
            Err(Denied { tier, left }) => {
                Verdict::Denied { tier, left: Duration::from_micros(left) }
            }
        };
        Taken { verdict, levels: reply.levels }
    }

    /// Redis is away.
    fn take_alone(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) -> Taken {
        let settings = self.settings.load();
        let taken = match settings.on_redis_error {
            OnRedisError::Closed | OnRedisError::Error500 => {
                return Taken { verdict: Verdict::Away, levels: Vec::new() };
            }
            OnRedisError::Open => Taken { verdict: Verdict::Admitted, levels: Vec::new() },
            OnRedisError::Local => {
                let share = tiers.share(self.board.instances());
                if let Some(tier) = share.never(cost) {
                    let levels = self.known(key, &share);
                    return Taken { verdict: Verdict::Never { tier }, levels };
                }
                let refused = settings.charge_refused;
                self.with(key, tiers, |_, entry| count(&mut entry.own, &share, cost, refused))
            }
        };
        if taken.verdict == Verdict::Admitted {
            self.counts.alone.fetch_add(1, Relaxed);
            self.with(key, tiers, |_, entry| {
                let owed = entry.owed.get_or_insert_with(|| Box::new(Own::new(tiers)));
                owed.of(tiers).force(now(), cost);
            });
        }
        taken
    }

    /// All of it was given back, then by Redis's clock; whether it was known here.
    fn forget(&self, key: &str, at: Option<u64>) -> bool {
        if !self.board.is_shared() {
            return self.keys.forget(key);
        }
        // What is being asked stays, and with it who waits.
        let found = self.keys.find(key, |entry| {
            entry.own = Own::new(&entry.own.tiers);
            entry.owed = None;
            if let Some(lease) = &mut entry.lease {
                lease.forget(at);
            }
        });
        found.is_some()
    }

    /// Tells Redis what went without it. Of more than [`DEBTS`] keys the rest is told with their next
    /// questions.
    fn tell_debts(&self) {
        let mut debts = Vec::new();
        self.keys.each(|key, entry| {
            if let Some(mut owed) = entry.owed.take() {
                let tiers = Arc::clone(&owed.tiers);
                debts.push((Arc::clone(key), owed.spell(&tiers), tiers));
            }
            if debts.len() < DEBTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        for (key, debt, tiers) in &debts {
            self.tell(key, tiers, &Say::Take(Question::default(), Some(debt)));
        }
    }

    /// Whether this instance counts what it lets through, for when Redis goes away.
    fn counts_alone(&self) -> bool {
        self.settings.load().on_redis_error == OnRedisError::Local
    }

    /// Counts what Redis has admitted.
    fn note(&self, key: &str, tiers: &Arc<Tiers>, cost: u64) {
        if self.counts_alone() {
            let share = tiers.share(self.board.instances());
            self.with(key, tiers, |_, entry| entry.own.of(&share).force(now(), cost));
        }
    }

    /// How full they are, as far as it is known here.
    fn known(&self, key: &str, tiers: &Arc<Tiers>) -> Vec<Level> {
        let found = self.keys.find(key, |entry| match &entry.lease {
            Some(lease) if **lease.tiers() == **tiers => lease.levels(clock::now()),
            Some(_) => Vec::new(),
            None => entry.own.of(tiers).levels(now()),
        });
        match found {
            Some(levels) if !levels.is_empty() => levels,
            Some(_) | None => Count::new(tiers).levels(now()),
        }
    }

    fn with<R>(
        &self,
        key: &str,
        tiers: &Arc<Tiers>,
        act: impl FnOnce(&Arc<str>, &mut Entry) -> R,
    ) -> R {
        let make = || Entry { own: Own::new(tiers), owed: None, lease: None };
        self.keys.with(key, make, Entry::weight, act)
    }

    async fn ask(&self, key: &str, tiers: &Tiers, say: &Say<'_>) -> Result<Reply, Away> {
        self.counts.asked.fetch_add(1, Relaxed);
        let full = self.full(key);
        let spelt = say.spell(key, tiers, &self.settings.load());
        let words = self.board.ask(&QUOTA, TOPIC, &full, &spelt.words()).await?;
        Reply::parse(&words, tiers).ok_or_else(|| {
            tracing::warn!(api = %self.api, ?words, "redis said of a quota what makes no sense");
            Away
        })
    }

    fn tell(&self, key: &str, tiers: &Tiers, say: &Say<'_>) {
        if self.board.is_shared() {
            let spelt = say.spell(key, tiers, &self.settings.load());
            self.board.tell(&QUOTA, TOPIC, &self.full(key), &spelt.words());
        }
    }

    fn give_back(&self, key: &str, tiers: &Tiers, surplus: impl IntoIterator<Item = Surplus>) {
        for Surplus { now, lent, at } in surplus {
            self.tell(key, tiers, &Say::Back(now, lent, at));
        }
    }

    /// What the key is called in Redis.
    fn full(&self, key: &str) -> String {
        [&self.api, "/", key].concat()
    }
}

impl Listener for Books {
    fn heard(&self, key: &str, words: &[&str]) {
        let own = key.strip_prefix(&*self.api).and_then(|key| key.strip_prefix('/'));
        let Some(key) = own else { return };
        match words {
            ["forget", at] => {
                self.forget(key, at.parse().ok());
            }
            ["room"] => drop(self.keys.find(key, |entry| {
                if let Some(lease) = &mut entry.lease {
                    lease.lift();
                }
            })),
            ["short"] => {
                let found = self.keys.find(key, |entry| {
                    let lease = entry.lease.as_mut()?;
                    Some((lease.give_up(clock::now())?, Arc::clone(lease.tiers())))
                });
                if let Some(Some((surplus, tiers))) = found {
                    self.give_back(key, &tiers, [surplus]);
                }
            }
            _ => {}
        }
    }

    fn back(&self) {
        if self.counts.alone.load(Relaxed) > 0 {
            self.tell_debts();
        }
    }
}

/// Somebody asks Redis about a key. Dropped before all is heard, as when its thread stops, those who
/// wait on other threads hear that there is no answer, and others ask anew.
struct Asking<'a> {
    books: &'a Books,
    key: &'a str,
    id: u64,
    is_done: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.books.lease(self.key, self.id, |_, lease| lease.hear_nothing());
        }
    }
}

/// Takes from what this instance counts by itself.
fn count(own: &mut Own, tiers: &Arc<Tiers>, cost: u64, charge_refused: bool) -> Taken {
    let now = now();
    let count = own.of(tiers);
    let verdict = match count.take(now, Question::plain(cost), charge_refused) {
        Ok(_) => Verdict::Admitted,
        Err(Denied { tier, left }) => Verdict::Denied { tier, left: Duration::from_micros(left) },
    };
    Taken { verdict, levels: count.levels(now) }
}

/// Microseconds since 1970.
fn now() -> u64 {
    clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, micros)
}
