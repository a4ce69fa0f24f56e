//! One instance's session with Redis, as a pure step function: events and the time come in, what
//! is to be done goes out. It opens nothing, sends nothing and knows no host; [`super::shared`]
//! carries it out.
//!
//! Invariants (each was found by a model of the protocol that broke without it):
//! a connection that failed in any way is never used again, and the first message on each is a
//! hello with a new epoch; the lease is counted from the moment its message was *sent*, less a
//! margin; past it this instance says so and opens nothing.

#[cfg(test)]
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::scripts::Greeted;
use crate::store::scripts::Hello;
use crate::store::scripts::Renewed;
use crate::store::scripts::Welcome;

/// How long nobody is refused after a connection broke: a new one takes a few milliseconds.
const GRACE: Duration = Duration::from_millis(50);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The lengths of time a session obeys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
    /// How long one call may take.
    pub(crate) timeout: Duration,
}

impl Timing {
    /// How long a lease is relied on here: one second of fifteen less, for clocks that run apart
    /// and for the moment between a look at the clock and the connect that it allowed.
    fn reliance(&self) -> Duration {
        self.lease * 14 / 15
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A connection stands, with nothing said on it.
    Connected,
    /// The connection, or the attempt to make one, failed. `slow` is whether it took its time
    /// over that, so that those who wait have waited enough.
    Failed { slow: bool },
    /// Redis answered with an error (a right that is missing, data still loading): a new
    /// connection would hear the same, so it is not tried at once.
    Denied,
    /// A message was answered by "your epoch is not in force".
    Fenced,
    /// The hello was answered.
    Greeted { answer: Greeted },
    /// A grant was not met because Redis is learning for so long.
    Learning(Duration),
    /// The heartbeat sent then was answered.
    Renewed { sent: Instant, answer: Renewed },
    /// [`Session::wake_at`] has come.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Slots may be used again, or there may be more of them: learning is over, a lease was
    /// renewed that had run out, somebody died. All who wait are to be asked for again.
    AskAgain,
    /// Redis is away: those who wait are to be told.
    Away,
    /// A new connection is to be made.
    Connect,
    /// The connection is to be dropped, with all that is under way on it.
    Drop,
    /// This is to be said on the connection.
    Hello(Hello),
    /// A heartbeat is to be sent, before anything else.
    Heartbeat,
    /// Each host is to be asserted again, and then a heartbeat sent; `force` is whether what is
    /// held is vouched for.
    Serve { force: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Connecting,
    Down { retry_at: Instant },
    Greeting,
    Serving,
}

/// The session.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Session {
    timing: Timing,
    line: Line,
    /// Of the last hello that was sent.
    epoch: u64,
    /// Of the last hello that was answered.
    confirmed: u64,
    leased_until: Option<Instant>,
    learning_until: Option<Instant>,
    heartbeat_at: Instant,
    heartbeat_under_way: bool,
    instances: u32,
    generation: Option<u64>,
    /// Failures since a heartbeat was last answered.
    failures: u32,
    /// Until when those who ask wait for a connection instead of being refused; none once they
    /// were told that Redis is away.
    patience: Option<Instant>,
    jitter: fastrand::Rng,
}

impl Session {
    pub(crate) fn new(timing: Timing, now: Instant, seed: u64) -> Self {
        Self {
            timing,
            line: Line::Down { retry_at: now },
            epoch: 0,
            confirmed: 0,
            leased_until: None,
            learning_until: None,
            heartbeat_at: now,
            heartbeat_under_way: false,
            instances: 1,
            generation: None,
            failures: 0,
            patience: Some(now + timing.timeout),
            jitter: fastrand::Rng::with_seed(seed),
        }
    }

    /// The epoch that messages carry.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Until when the slots granted may be used to open connections.
    pub(crate) fn leased_until(&self) -> Option<Instant> {
        self.leased_until
    }

    /// Until when nothing new is granted; none when Redis is not learning.
    pub(crate) fn learning_until(&self) -> Option<Instant> {
        self.learning_until
    }

    /// Instances that hold a lease, as Redis last said.
    pub(crate) fn instances(&self) -> u32 {
        self.instances
    }

    /// Whether messages about hosts may be sent.
    pub(crate) fn is_serving(&self) -> bool {
        self.line == Line::Serving
    }

    /// When [`Event::Tick`] is due.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let due = match self.line {
            Line::Connecting | Line::Greeting => None,
            Line::Down { retry_at } => Some(retry_at),
            Line::Serving => (!self.heartbeat_under_way).then_some(self.heartbeat_at),
        };
        let patience = self.patience.filter(|_| !self.is_serving());
        [due, patience].into_iter().flatten().min()
    }

    /// One step.
    pub(crate) fn step(&mut self, now: Instant, event: Event) -> Vec<Act> {
        match event {
            Event::Connected => {
                self.line = Line::Greeting;
                self.epoch += 1;
                vec![Act::Hello(Hello {
                    previous: self.confirmed,
                    epoch: self.epoch,
                    lease: self.timing.lease,
                    vouched: self.leased_until.is_some_and(|until| now < until),
                })]
            }
            Event::Failed { slow } => self.fail(now, slow),
            Event::Fenced => self.fail(now, false),
            Event::Denied => {
                let acts = self.fail(now, true);
                if let Line::Down { retry_at } = &mut self.line {
                    *retry_at = (*retry_at).max(now + LONGEST_DELAY);
                }
                acts
            }
            Event::Greeted { answer: Greeted { welcome: Welcome::Superseded, .. } } => {
                self.fail(now, false)
            }
            Event::Greeted { answer } => {
                self.line = Line::Serving;
                self.confirmed = self.epoch;
                self.patience = None;
                self.instances = answer.instances.max(1);
                self.learn(now, answer.learning);
                // The heartbeat goes out at once, behind what re-asserts each host: when it is
                // answered they have run, and only then may this instance rely on a lease. It also
                // ends learning that is over already, and tells the reaper that service is without
                // a gap.
                self.heartbeat_under_way = true;
                vec![Act::Serve { force: answer.welcome == Welcome::Force }]
            }
            Event::Learning(left) => {
                self.learn(now, Some(left));
                Vec::new()
            }
            Event::Renewed { sent, answer } => {
                self.failures = 0;
                self.heartbeat_under_way = false;
                self.heartbeat_at = sent + self.timing.heartbeat;
                let was_leased = self.leased_until.is_some_and(|until| now < until);
                self.renew(sent, answer.instances);
                let was_learning = self.learning_until.is_some();
                self.learn(now, answer.learning);
                let has_learnt = was_learning && self.learning_until.is_none();
                let generation = self.generation.replace(answer.generation);
                if !was_leased
                    || has_learnt
                    || generation.is_some_and(|known| known != answer.generation)
                {
                    return vec![Act::AskAgain];
                }
                Vec::new()
            }
            Event::Tick => self.tick(now),
        }
    }

    /// All that later steps depend on, as seen from now by who looks at the clock each `unit`; but
    /// not the generation.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self, now: Instant, unit: Duration) -> impl Hash + use<> {
        let units = |at: Instant| at.saturating_duration_since(now).as_nanos();
        let away = move |at: Instant| units(at).div_ceil(unit.as_nanos());
        let line = match self.line {
            Line::Connecting => (1, None),
            Line::Greeting => (2, None),
            Line::Serving => (3, None),
            Line::Down { retry_at } => (4, Some(away(retry_at))),
        };
        (
            (line, self.epoch, self.confirmed, self.heartbeat_under_way, self.failures.min(2)),
            (self.leased_until.map_or(0, away), self.learning_until.map(away)),
            (away(self.heartbeat_at), self.patience.map(away)),
        )
    }

    fn tick(&mut self, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        match self.line {
            Line::Down { retry_at } if retry_at <= now => {
                self.line = Line::Connecting;
                acts.push(Act::Connect);
            }
            Line::Serving if self.heartbeat_at <= now && !self.heartbeat_under_way => {
                self.heartbeat_under_way = true;
                acts.push(Act::Heartbeat);
            }
            Line::Connecting | Line::Down { .. } | Line::Greeting | Line::Serving => {}
        }
        if !self.is_serving() && self.patience.is_some_and(|end| end <= now) {
            self.patience = None;
            acts.push(Act::Away);
        }
        acts
    }

    fn fail(&mut self, now: Instant, slow: bool) -> Vec<Act> {
        if matches!(self.line, Line::Down { .. }) {
            return Vec::new();
        }
        let mut acts = vec![Act::Drop];
        if self.is_serving() {
            self.patience = Some(now + GRACE);
        }
        if slow && self.patience.take().is_some() {
            acts.push(Act::Away);
        }
        self.line = Line::Down { retry_at: now + self.delay() };
        self.failures += 1;
        self.heartbeat_under_way = false;
        self.learning_until = None;
        acts
    }

    /// Nothing after the first failure, then 50 ms doubled up to 1 s; a fifth of it is random, so
    /// that a fleet does not come back in step.
    fn delay(&mut self) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let whole = FIRST_DELAY.saturating_mul(1 << doublings.min(10)).min(LONGEST_DELAY);
        whole.mul_f64(0.8 + 0.2 * self.jitter.f64())
    }

    /// Changes with each death and each loss of data; none before the first heartbeat's answer.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.generation
    }

    fn renew(&mut self, sent: Instant, instances: u32) {
        let until = sent + self.timing.reliance();
        self.leased_until = self.leased_until.max(Some(until));
        self.instances = instances.max(1);
    }

    fn learn(&mut self, now: Instant, left: Option<Duration>) {
        self.learning_until = left.map(|left| now + left);
        if let Some(until) = self.learning_until {
            // The heartbeat that comes then is what ends it.
            self.heartbeat_at = self.heartbeat_at.min(until + Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        lease: Duration::from_secs(15),
        heartbeat: Duration::from_secs(3),
        timeout: Duration::from_millis(200),
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn begin() -> (Session, Instant) {
        let now = crate::base::clock::now();
        (Session::new(TIMING, now, 1), now)
    }

    fn greeted(welcome: Welcome, learning: Option<Duration>) -> Event {
        let eviction = String::new();
        Event::Greeted { answer: Greeted { welcome, learning, instances: 2, eviction } }
    }

    fn renewed(sent: Instant, learning: Option<Duration>) -> Event {
        Event::Renewed { sent, answer: Renewed { learning, instances: 3, generation: 7 } }
    }

    /// A session whose hello was sent and answered at `now`.
    fn serving(learning: Option<Duration>) -> (Session, Instant) {
        let (mut session, now) = begin();
        assert_eq!(session.step(now, Event::Tick), [Act::Connect]);
        session.step(now, Event::Connected);
        let acts = session.step(now, greeted(Welcome::Admit, learning));
        assert_eq!(acts, [Act::Serve { force: false }]);
        (session, now)
    }

    fn hello(acts: &[Act]) -> Hello {
        match acts {
            [Act::Hello(hello)] => *hello,
            other => panic!("no hello in {other:?}"),
        }
    }

    #[test]
    fn after_an_error_for_an_answer_redis_is_away_and_not_asked_at_once() {
        let (mut session, now) = serving(None);
        let acts = session.step(now, Event::Denied);
        assert_eq!(acts, [Act::Drop, Act::Away]);
        assert_eq!(session.wake_at(), Some(now + LONGEST_DELAY));
    }

    #[test]
    fn the_first_message_is_a_hello_that_vouches_for_nothing() {
        let (mut session, now) = begin();
        assert_eq!(session.wake_at(), Some(now));
        assert_eq!(session.step(now, Event::Tick), [Act::Connect]);
        let hello = hello(&session.step(now, Event::Connected));
        assert_eq!((hello.previous, hello.epoch, hello.vouched), (0, 1, false));
        assert!(!session.is_serving());
    }

    #[test]
    fn the_lease_counts_from_the_sending_less_a_margin() {
        let (mut session, now) = begin();
        session.step(now, Event::Tick);
        session.step(now, Event::Connected);
        session.step(now + ms(150), greeted(Welcome::Admit, None));
        assert_eq!(session.leased_until(), None, "what is held may not be on the books yet");
        session.step(now + ms(250), renewed(now + ms(150), None));
        assert_eq!(session.leased_until(), Some(now + ms(14_150)));
        session.step(now + ms(3_100), renewed(now + ms(3_000), None));
        assert_eq!(session.leased_until(), Some(now + ms(17_000)));
    }

    #[test]
    fn an_answer_that_comes_late_never_shortens_the_lease_and_renews_no_dead_one() {
        let (mut session, now) = serving(None);
        session.step(now + ms(20_000), renewed(now + ms(3_000), None));
        assert!(session.leased_until().unwrap() < now + ms(20_000), "void when it arrives");
        session.step(now + ms(20_001), renewed(now, None));
        assert_eq!(session.leased_until(), Some(now + ms(17_000)));
    }

    #[test]
    fn a_new_connection_means_a_new_epoch_that_names_the_last_one_answered() {
        let (mut session, now) = serving(None);
        session.step(now, renewed(now, None));
        assert_eq!(session.step(now, Event::Failed { slow: false }), [Act::Drop]);
        assert_eq!(session.step(now, Event::Tick), [Act::Connect]);
        let second = hello(&session.step(now, Event::Connected));
        assert_eq!((second.previous, second.epoch, second.vouched), (1, 2, true));
        // Its answer is lost: it may have run or not, so it is not the one to name.
        session.step(now, Event::Failed { slow: false });
        session.step(now + ms(50), Event::Tick);
        let third = hello(&session.step(now + ms(51), Event::Connected));
        assert_eq!((third.previous, third.epoch), (1, 3));
        let acts = session.step(now + ms(52), greeted(Welcome::Force, None));
        assert_eq!(acts, [Act::Serve { force: true }]);
    }

    #[test]
    fn past_its_lease_a_hello_says_so() {
        let (mut session, now) = serving(None);
        session.step(now, Event::Failed { slow: true });
        let late = now + ms(14_000);
        session.step(late, Event::Tick);
        assert!(!hello(&session.step(late, Event::Connected)).vouched);
    }

    #[test]
    fn a_fenced_or_superseded_session_begins_anew() {
        let (mut session, now) = serving(None);
        assert_eq!(session.step(now, Event::Fenced), [Act::Drop]);
        assert!(!session.is_serving());
        session.step(now, Event::Tick);
        session.step(now, Event::Connected);
        assert_eq!(session.step(now, greeted(Welcome::Superseded, None)), [Act::Drop]);
        assert!(!session.is_serving());
    }

    #[test]
    fn a_broken_connection_gets_a_moment_before_anybody_is_refused() {
        let (mut session, now) = serving(None);
        assert_eq!(session.step(now, Event::Failed { slow: false }), [Act::Drop]);
        assert_eq!(session.step(now, Event::Tick), [Act::Connect]);
        assert_eq!(session.wake_at(), Some(now + ms(50)));
        assert_eq!(session.step(now + ms(50), Event::Tick), [Act::Away]);
        assert_eq!(session.step(now + ms(60), Event::Tick), [], "told once");
    }

    #[test]
    fn a_call_that_took_too_long_has_used_up_the_patience() {
        let (mut session, now) = serving(None);
        assert_eq!(session.step(now, Event::Failed { slow: true }), [Act::Drop, Act::Away]);
    }

    #[test]
    fn at_the_start_requests_wait_for_one_time_out() {
        let (mut session, now) = begin();
        session.step(now, Event::Tick);
        assert_eq!(session.step(now + ms(1), Event::Failed { slow: false }), [Act::Drop]);
        assert_eq!(session.step(now + ms(199), Event::Tick), [Act::Connect]);
        assert_eq!(session.step(now + ms(200), Event::Tick), [Act::Away]);
    }

    #[test]
    fn attempts_to_reconnect_come_ever_slower_up_to_a_second() {
        let (mut session, mut now) = begin();
        let mut delays = Vec::new();
        for _ in 0..8 {
            session.step(now, Event::Tick);
            session.step(now, Event::Failed { slow: false });
            let Line::Down { retry_at } = session.line else { panic!("not down") };
            delays.push(retry_at - now);
            now = retry_at;
        }
        assert_eq!(delays[0], Duration::ZERO);
        for (delay, whole) in delays[1..].iter().zip([50, 100, 200, 400, 800, 1000, 1000]) {
            assert!(*delay >= ms(whole * 8 / 10) && *delay <= ms(whole), "{delay:?} of {whole}");
        }
    }

    #[test]
    fn heartbeats_keep_their_interval_and_never_overlap() {
        let (mut session, now) = serving(None);
        assert_eq!(session.wake_at(), None, "the first is under way with the hello");
        session.step(now, renewed(now, None));
        assert_eq!(session.wake_at(), Some(now + ms(3_000)));
        assert_eq!(session.step(now + ms(3_000), Event::Tick), [Act::Heartbeat]);
        assert_eq!(session.step(now + ms(3_001), Event::Tick), []);
        assert_eq!(session.instances(), 3);
    }

    #[test]
    fn the_end_of_learning_is_met_by_a_heartbeat_that_ends_it() {
        let (mut session, now) = serving(Some(ms(1_000)));
        assert_eq!(session.learning_until(), Some(now + ms(1_000)));
        session.step(now, renewed(now, Some(ms(1_000))));
        assert_eq!(session.wake_at(), Some(now + ms(1_001)));
        let end = now + ms(1_001);
        assert_eq!(session.step(end, Event::Tick), [Act::Heartbeat]);
        assert_eq!(session.step(end, renewed(end, None)), [Act::AskAgain]);
        assert_eq!(session.learning_until(), None);
        assert_eq!(session.wake_at(), Some(end + ms(3_000)));
    }

    #[test]
    fn a_grant_can_be_the_first_to_say_that_redis_learns() {
        let (mut session, now) = serving(None);
        session.step(now, renewed(now, None));
        session.step(now, Event::Learning(ms(500)));
        assert_eq!(session.learning_until(), Some(now + ms(500)));
        assert_eq!(session.wake_at(), Some(now + ms(501)));
    }
}
