//! What an instance knows of one key that the fleet counts: tokens that it took beforehand, that there
//! are none, and who waits for what Redis says.
//!
//! A step function: it sends nothing and reads no clock. One question at a time is under way for a key;
//! who comes meanwhile waits for its answer, and if that is not enough, for that of the next, which
//! asks for all who wait. How many tokens are taken beforehand follows what the key has used lately;
//! Redis gives no more of what is left than each instance's part of it, so near the limit there are
//! none, and each is asked for alone.
//!
//! Tokens are taken from Redis before they are used, and are used only until the end of the windows
//! that they were taken from: less is used than is counted, never more. Invariants: a key that was
//! refused asks for nothing before it may again. Whoever leaves while waiting leaves no token unused
//! and uncounted: it is given back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Level;
use super::Taken;
use super::Verdict;
use super::count::Denied;
use super::count::Question;
use super::tier::Algorithm;
use super::tier::Tiers;
use super::word::Reply;

/// For how long tokens are taken beforehand, at the pace of lately.
const AHEAD: Duration = Duration::from_secs(5);
/// How much more is taken beforehand than was used since the last question: a key has to show its pace.
const GROWTH: u64 = 8;
/// A bucket with more than this is not asked for each token that comes back, but for this part of
/// it at once, ...
const LARGE: u64 = 64;
/// ... or for what comes back in this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Tokens whose ends are no further apart were taken from the same windows.
const SAME: Duration = Duration::from_millis(20);

/// One key.
#[derive(Debug)]
pub(super) struct Lease {
    /// No other has the same: an answer for one that is gone is no answer for this one.
    pub(super) id: u64,
    tiers: Arc<Tiers>,
    block: Block,
    denial: Option<Denial>,
    levels: Option<(Instant, Vec<Level>)>,
    waiting: VecDeque<Waiter>,
    /// Whether a question is under way.
    asking: bool,
    /// When all of it was given back, by Redis's clock: what was taken before says nothing any more.
    forgotten: u64,
    /// When the last question went, and what was used since.
    asked_at: Option<Instant>,
    used: u64,
}

/// Tokens that were taken beforehand.
#[derive(Clone, Copy, Debug)]
struct Block {
    left: u64,
    until: Instant,
    /// When they were taken, by Redis's clock.
    at: u64,
}

/// There is less than this, in this tier, until then.
#[derive(Clone, Copy, Debug)]
struct Denial {
    cost: u64,
    tier: usize,
    until: Instant,
}

#[derive(Debug)]
struct Waiter {
    cost: u64,
    answer: oneshot::Sender<Heard>,
}

/// What one who waited hears.
pub(super) type Heard = Option<Taken>;

/// What is to be done about tokens that nobody needs: so many to be used at once, so many lent, taken
/// at this time of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surplus {
    pub(super) now: u64,
    pub(super) lent: u64,
    pub(super) at: u64,
}

impl Surplus {
    fn new(now: u64, lent: u64, at: u64) -> Option<Self> {
        (now > 0 || lent > 0).then_some(Self { now, lent, at })
    }
}

impl Lease {
    pub(super) fn new(tiers: &Arc<Tiers>, now: Instant) -> Self {
        Self {
            id: fastrand::u64(..),
            tiers: Arc::clone(tiers),
            block: Block { left: 0, until: now, at: 0 },
            denial: None,
            levels: None,
            waiting: VecDeque::new(),
            asking: false,
            forgotten: 0,
            asked_at: None,
            used: 0,
        }
    }

    pub(super) fn tiers(&self) -> &Arc<Tiers> {
        &self.tiers
    }

    /// These are its tiers now. What was known of others is forgotten; tokens of theirs are surplus.
    pub(super) fn obey(&mut self, tiers: &Arc<Tiers>, now: Instant) -> Option<Surplus> {
        if Arc::ptr_eq(&self.tiers, tiers) {
            return None;
        }
        let are_same = *self.tiers == **tiers;
        self.tiers = Arc::clone(tiers);
        if are_same {
            return None;
        }
        (self.denial, self.levels) = (None, None);
        self.give_up(now)
    }

    /// What becomes of a request by what is known here; none if Redis has to be asked.
    pub(super) fn decide(&mut self, cost: u64, now: Instant) -> Option<Taken> {
        if self.block.until > now && self.block.left >= cost {
            self.block.left -= cost;
            self.used = self.used.saturating_add(cost);
            return Some(Taken { verdict: Verdict::Admitted, levels: self.levels(now) });
        }
        if cost == 0 {
            return Some(Taken { verdict: Verdict::Admitted, levels: self.levels(now) });
        }
        let Denial { tier, until, .. } =
            self.denial.filter(|denial| cost >= denial.cost && denial.until > now)?;
        let verdict = Verdict::Denied { tier, left: until - now };
        Some(Taken { verdict, levels: self.levels(now) })
    }

    /// Waits for Redis's answer; whether a question has to be asked for that.
    pub(super) fn wait(&mut self, cost: u64) -> (oneshot::Receiver<Heard>, bool) {
        let (answer, heard) = oneshot::channel();
        self.waiting.push_back(Waiter { cost, answer });
        (heard, !std::mem::replace(&mut self.asking, true))
    }

    /// What to ask next; none if nobody waits any more.
    pub(super) fn question(&mut self, instances: u32, now: Instant) -> Option<Question> {
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
        let Some(first) = self.waiting.front() else {
            self.asking = false;
            return None;
        };
        let demand =
            self.waiting.iter().fold(0, |sum: u64, waiter| sum.saturating_add(waiter.cost));
        let question = Question {
            need: first.cost,
            demand: demand.min(super::tier::MOST),
            want: self.ahead(now),
            // Half of each instance's part: those who ask next are to find something too.
            share: 2 * u64::from(instances.max(1)),
        };
        (self.asked_at, self.used) = (Some(now), 0);
        Some(question)
    }

    /// What the key will use, at the pace of lately.
    fn ahead(&self, now: Instant) -> u64 {
        let Some(asked_at) = self.asked_at else { return 0 };
        let since = (now - asked_at).max(Duration::from_micros(100)).as_micros();
        let ahead = u128::from(self.used) * AHEAD.as_micros() / since;
        u64::try_from(ahead).unwrap_or(u64::MAX).min(self.used.saturating_mul(GROWTH))
    }

    /// What Redis said to a question that was sent then: those who waited hear it, as far as it is
    /// about them. What nobody needs is returned.
    pub(super) fn hear(
        &mut self,
        asked: Question,
        reply: Reply,
        sent: Instant,
        now: Instant,
    ) -> Vec<Surplus> {
        if reply.at <= self.forgotten {
            // Who waits is asked for again.
            return Vec::new();
        }
        self.levels = Some((now, reply.levels));
        match reply.outcome {
            Ok(granted) => {
                let until = sent + Duration::from_micros(granted.valid);
                let mut surplus = Vec::new();
                surplus.extend(self.lend(Block { left: granted.lent, until, at: reply.at }, now));
                let spare = self.serve(granted.now, now);
                surplus.extend(Surplus::new(spare, 0, reply.at));
                surplus
            }
            Err(Denied { tier, left }) => {
                // What is held here is too little alone, and may be enough with what is there.
                if let Some(surplus) = self.give_up(now) {
                    return vec![surplus];
                }
                let until = now + self.pause(tier, Duration::from_micros(left));
                self.denial = Some(Denial { cost: asked.need, tier, until });
                let levels = self.levels(now);
                let verdict = Verdict::Denied { tier, left: until - now };
                for waiter in std::mem::take(&mut self.waiting) {
                    if waiter.cost < asked.need {
                        self.waiting.push_back(waiter);
                        continue;
                    }
                    // Who has left need not be told.
                    drop(waiter.answer.send(Some(Taken { verdict, levels: levels.clone() })));
                }
                Vec::new()
            }
        }
    }

    /// Gives tokens to those who wait, in turn; what is left of them.
    fn serve(&mut self, mut tokens: u64, now: Instant) -> u64 {
        let mut served = Vec::new();
        while let Some(waiter) = self.waiting.pop_front_if(|waiter| waiter.cost <= tokens) {
            if !waiter.answer.is_closed() {
                tokens -= waiter.cost;
                served.push(waiter);
            }
        }
        let levels = self.levels(now);
        for waiter in served {
            let taken = Taken { verdict: Verdict::Admitted, levels: levels.clone() };
            if waiter.answer.send(Some(taken)).is_ok() {
                self.used = self.used.saturating_add(waiter.cost);
            } else {
                tokens += waiter.cost;
            }
        }
        tokens
    }

    /// Puts tokens to those that are there already; those are surplus where they are over sooner.
    fn lend(&mut self, block: Block, now: Instant) -> Option<Surplus> {
        if block.left == 0 {
            return None;
        }
        let before = std::mem::replace(&mut self.block, block);
        if before.left == 0 || before.until <= now {
            return None;
        }
        if before.until + SAME < block.until {
            return Surplus::new(0, before.left, before.at);
        }
        self.block.left += before.left;
        self.block.until = block.until.min(before.until);
        None
    }

    /// For how long it is not asked again. A large bucket fills so fast that each token would be asked
    /// for by itself; waiting loses nothing, since they gather meanwhile.
    fn pause(&self, tier: usize, left: Duration) -> Duration {
        let Some(tier) = self.tiers.list().get(tier) else { return left };
        match tier.algorithm {
            Algorithm::TokenBucket { burst } if burst > LARGE => {
                let fill = tier.window.as_micros() * u128::from(burst) / u128::from(tier.limit);
                let least = u64::try_from(fill).unwrap_or(0) / LARGE;
                left.max(Duration::from_micros(least).min(LONGEST_PAUSE))
            }
            Algorithm::Fixed | Algorithm::Sliding | Algorithm::TokenBucket { .. } => left,
        }
    }

    /// Somebody else is short of them: tokens that are not used are surplus.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<Surplus> {
        let left = std::mem::take(&mut self.block.left);
        Surplus::new(0, left, self.block.at).filter(|_| self.block.until > now)
    }

    /// Something was given back: it is worth asking again.
    pub(super) fn lift(&mut self) {
        self.denial = None;
    }

    /// All of it was given back, then if that is known: what was known before holds no more.
    pub(super) fn forget(&mut self, at: Option<u64>) {
        if at.is_none_or(|at| self.block.at <= at) {
            self.block.left = 0;
        }
        self.forgotten = self.forgotten.max(at.unwrap_or(0));
        (self.denial, self.levels) = (None, None);
    }

    /// How full its tiers were at the last word, less what was used since; none if there was none.
    pub(super) fn levels(&self, now: Instant) -> Vec<Level> {
        let Some((told, levels)) = &self.levels else { return Vec::new() };
        let since = now.saturating_duration_since(*told);
        let own = if self.block.until > now { self.block.left } else { 0 };
        let level = |level: &Level| Level {
            limit: level.limit,
            remaining: if level.reset > since { level.remaining + own } else { level.limit },
            reset: level.reset.saturating_sub(since),
        };
        levels.iter().map(level).collect()
    }

    /// What would be lost with it.
    pub(super) fn weight(&self, now: Instant) -> u8 {
        if self.asking {
            return 255;
        }
        if self.denial.is_some_and(|denial| denial.until > now) {
            return 128;
        }
        u8::from(self.block.left > 0 && self.block.until > now) * 64
    }

    /// Redis is away: all who wait hear that.
    pub(super) fn hear_nothing(&mut self) {
        self.asking = false;
        for waiter in self.waiting.drain(..) {
            drop(waiter.answer.send(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tier;
    use super::super::count::Granted;
    use super::*;
    use crate::base::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(now: Instant) -> Lease {
        Lease::new(&tiers(1000), now)
    }

    fn tiers(limit: u64) -> Arc<Tiers> {
        Arc::new(Tiers::new(vec![Tier::fixed("hour", limit, SECOND * 3600)], 0))
    }

    /// What Redis says: so much now, so much lent, for how long.
    fn granted(now: u64, lent: u64, valid: Duration, at: u64) -> Reply {
        let valid = super::super::tier::micros(valid);
        let level = Level { limit: 1000, remaining: 500, reset: SECOND * 60 };
        Reply { outcome: Ok(Granted { now, lent, valid }), at, levels: vec![level] }
    }

    fn denied(left: Duration) -> Reply {
        let left = super::super::tier::micros(left);
        Reply { outcome: Err(Denied { tier: 0, left }), at: 9, levels: Vec::new() }
    }

    fn passes(lease: &mut Lease, cost: u64, now: Instant) -> bool {
        lease.decide(cost, now).is_some_and(|taken| taken.verdict == Verdict::Admitted)
    }

    /// One asks, and this is the answer.
    fn hear(lease: &mut Lease, reply: Reply, sent: Instant) -> Vec<Surplus> {
        let (heard, _) = lease.wait(1);
        let question = lease.question(4, sent).unwrap();
        let surplus = lease.hear(question, reply, sent, sent);
        drop(heard);
        assert!(lease.question(4, sent).is_none());
        surplus
    }

    #[test]
    fn what_is_lent_is_used_until_its_window_ends_counted_from_when_it_was_asked_for() {
        let start = clock::now();
        let mut lease = lease(start);
        assert_eq!(lease.decide(1, start), None);
        let (_heard, _) = lease.wait(1);
        let question = lease.question(4, start).unwrap();
        // The answer took half a second.
        lease.hear(question, granted(1, 3, SECOND, 1), start, start + SECOND / 2);
        assert!(passes(&mut lease, 2, start + SECOND / 2));
        assert_eq!(lease.decide(2, start + SECOND / 2), None, "not enough is left");
        assert!(!passes(&mut lease, 1, start + SECOND));
    }

    #[test]
    fn tokens_of_one_window_are_put_together_and_those_of_an_earlier_one_given_back() {
        let start = clock::now();
        let mut lease = lease(start);
        assert_eq!(hear(&mut lease, granted(1, 5, SECOND, 1), start), []);
        assert_eq!(hear(&mut lease, granted(1, 5, SECOND, 2), start), []);
        assert!(passes(&mut lease, 10, start));
        assert_eq!(hear(&mut lease, granted(1, 5, SECOND, 3), start), []);
        let back = hear(&mut lease, granted(1, 7, SECOND * 60, 4), start);
        assert_eq!(back, [Surplus { now: 0, lent: 5, at: 3 }]);
        assert!(passes(&mut lease, 7, start + SECOND * 2));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_given_back() {
        let start = clock::now();
        let mut lease = lease(start);
        let (first, asks) = lease.wait(2);
        let (second, asks_too) = lease.wait(3);
        assert!(asks && !asks_too, "one question for both");
        let question = lease.question(4, start).unwrap();
        assert_eq!((question.need, question.demand, question.share), (2, 5, 8));
        drop(first);
        let back = lease.hear(question, granted(5, 0, SECOND, 6), start, start);
        assert_eq!(back, [Surplus { now: 2, lent: 0, at: 6 }]);
        assert_eq!(second.blocking_recv().unwrap().unwrap().verdict, Verdict::Admitted);
    }

    #[test]
    fn a_refusal_holds_for_what_costs_as_much_until_it_is_over_or_lifted() {
        let start = clock::now();
        let mut lease = lease(start);
        let (dear, _) = lease.wait(5);
        let (cheap, _) = lease.wait(1);
        let question = lease.question(4, start).unwrap();
        lease.hear(question, denied(SECOND), start, start);
        let refused = Verdict::Denied { tier: 0, left: SECOND };
        assert_eq!(dear.blocking_recv().unwrap().unwrap().verdict, refused);
        assert_eq!(lease.question(4, start).unwrap().need, 1, "who is cheaper goes on waiting");
        drop(cheap);
        assert_eq!(lease.decide(5, start).unwrap().verdict, refused);
        assert_eq!(lease.decide(4, start), None);
        assert_eq!(lease.decide(5, start + SECOND), None);
        lease.lift();
        assert_eq!(lease.decide(5, start), None);
        hear(&mut lease, denied(SECOND), start);
        assert_eq!(lease.obey(&tiers(2000), start), None);
        assert_eq!(lease.decide(5, start), None, "another limit holds now");
    }

    #[test]
    fn who_holds_too_little_gives_it_back_and_asks_again_before_anybody_is_refused() {
        let start = clock::now();
        let mut lease = lease(start);
        hear(&mut lease, granted(1, 3, SECOND, 7), start);
        let (heard, _) = lease.wait(5);
        let question = lease.question(4, start).unwrap();
        let back = lease.hear(question, denied(SECOND), start, start);
        assert_eq!(back, [Surplus { now: 0, lent: 3, at: 7 }]);
        let question = lease.question(4, start).unwrap();
        assert_eq!(lease.hear(question, granted(5, 0, SECOND, 9), start, start), []);
        assert_eq!(heard.blocking_recv().unwrap().unwrap().verdict, Verdict::Admitted);
    }

    #[test]
    fn who_was_forgotten_has_nothing_of_before() {
        let start = clock::now();
        let mut lease = lease(start);
        hear(&mut lease, granted(1, 5, SECOND, 10), start);
        lease.forget(Some(11));
        assert!(!passes(&mut lease, 1, start));
        let (heard, _) = lease.wait(1);
        let question = lease.question(4, start).unwrap();
        assert_eq!(lease.hear(question, granted(1, 5, SECOND, 11), start, start), []);
        assert!(!passes(&mut lease, 1, start));
        let question = lease.question(4, start).unwrap();
        lease.hear(question, granted(1, 5, SECOND, 12), start, start);
        assert_eq!(heard.blocking_recv().unwrap().unwrap().verdict, Verdict::Admitted);
        assert!(passes(&mut lease, 5, start));
    }

    #[test]
    fn the_more_a_key_uses_the_more_it_takes_beforehand() {
        let start = clock::now();
        let mut lease = lease(start);
        let mut wants = Vec::new();
        for step in 0..4 {
            let now = start + SECOND / 2 * step;
            let (_heard, _) = lease.wait(1);
            let question = lease.question(4, now).unwrap();
            wants.push(question.want);
            lease.hear(question, granted(1, question.want, SECOND * 60, 1), now, now);
            while passes(&mut lease, 1, now) {}
            lease.waiting.clear();
        }
        assert_eq!(wants, [0, 8, 72, 584]);
        let late = start + SECOND * 60;
        assert_eq!(lease.question(4, late), None);
        let (_heard, _) = lease.wait(1);
        assert_eq!(lease.question(4, late).unwrap().want, 50, "at the pace of a minute");
    }
}
