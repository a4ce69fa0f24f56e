//! One instance of the model: the program's own session and host, between them what
//! the shared limiter's worker does, and its connections.
//!
//! A connection is ordered. One that failed is never used again, but what was sent on it may still
//! arrive: that is [`Worker::old`].

use std::collections::VecDeque;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Duration;

use tokio::time::Instant;

use super::Mutant;
use super::redis::Grant;
use super::redis::Id;
use crate::base::identity::Identity;
use crate::limit::host::Again;
use crate::limit::host::Asker;
use crate::limit::host::Basis;
use crate::limit::host::Due;
use crate::limit::host::Entry;
use crate::limit::host::Host;
use crate::limit::protocol::Act;
use crate::limit::protocol::Event;
use crate::limit::protocol::Session;
use crate::limit::rules::Ruling;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;
use crate::store::scripts::Greeted;
use crate::store::scripts::Hello;
use crate::store::scripts::Manner;
use crate::store::scripts::Renewed;

/// The model's one host.
pub(super) const HOST: u8 = 0;

/// What is under way to Redis.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Grant(Grant),
    Heartbeat { epoch: u64, sent: Instant },
    Hello(Hello),
}

/// What is under way from Redis.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Fenced,
    Granted(Granted),
    Greeted(Greeted),
    Recalled(u32),
    Renewed { answer: Renewed, sent: Instant },
    Served,
}

/// What threads that admit know of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Away,
    Connecting,
    Up,
}

/// What all instances have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) limit: u32,
    pub(super) slack: u32,
    /// Whether requests wait in the fleet's queue, or are refused when there is no slot.
    pub(super) may_wait: bool,
    /// Whether those who wait are asked for again when some time has passed.
    pub(super) polls: bool,
    pub(super) mutant: Option<Mutant>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: Id,
    pub(super) session: Session,
    pub(super) host: Host,
    phase: Phase,
    /// The connection, as far as both ends know it.
    pub(super) requests: VecDeque<Request>,
    pub(super) replies: VecDeque<Reply>,
    /// It failed, and this instance has not noticed.
    pub(super) is_broken: bool,
    /// What was sent on connections that failed.
    pub(super) old: VecDeque<Request>,
    number: u64,
    /// The host is to be looked at when some time has passed; it has.
    rests: bool,
    is_rested: bool,
    pub(super) is_paused: bool,
}

impl Clone for Worker {
    fn clone(&self) -> Self {
        Self {
            session: self.session.clone(),
            host: self.host.fork(),
            requests: self.requests.clone(),
            replies: self.replies.clone(),
            old: self.old.clone(),
            ..*self
        }
    }
}

impl Worker {
    pub(super) fn new(id: Id, session: Session, host: Host) -> Self {
        Self {
            id,
            session,
            host,
            phase: Phase::Connecting,
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            is_broken: false,
            old: VecDeque::new(),
            number: 0,
            rests: false,
            is_rested: false,
            is_paused: false,
        }
    }

    /// Open connections; and the slots that it would use.
    pub(super) fn open_and_granted(&self) -> (u32, u32) {
        let snapshot = self.host.snapshot(true);
        (snapshot.open, snapshot.granted)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.host.snapshot(true).waiting
    }

    pub(super) fn is_leased(&self, now: Instant) -> bool {
        self.session.leased_until().is_some_and(|until| now < until)
    }

    /// Whether there is a step it would take by itself.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.session.wake_at().is_some_and(|at| at <= now)
            || (self.is_rested && self.session.is_serving())
    }

    /// Whether nothing happens before time passes.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.requests.is_empty() && self.replies.is_empty() && !self.is_broken && !self.is_due(now)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.session.is_serving() || !self.requests.is_empty()
    }

    /// Time has passed.
    pub(super) fn rest(&mut self, rules: Rules) {
        self.host.calm();
        self.is_rested |= std::mem::take(&mut self.rests) && rules.polls;
    }

    /// As the desk looks at the clock.
    pub(super) fn look(&mut self, now: Instant, rules: Rules) {
        if self.is_rested && self.session.is_serving() {
            self.is_rested = false;
            let (due, again) = self.host.look();
            let is_asked = due.speak;
            self.carry_out(due, rules);
            if !is_asked {
                self.rests |= rules.polls && again != Again::No;
            }
        }
        self.step(now, Event::Tick, rules);
    }

    /// A request comes in.
    pub(super) fn enter(&mut self, now: Instant, rules: Rules) {
        let basis = self.basis(now, rules);
        let (identity, may_wait) = (&Identity::Anonymous, rules.may_wait);
        let asker = Asker { identity, weight: 1, may_wait, seats: 10 };
        let ruling = Ruling { limit: rules.limit, term: 1 };
        let due = match self.host.enter(basis, 1, || ruling, asker) {
            Entry::Slot { speak } => Due::spoken(speak),
            Entry::Refused(_) => Due::default(),
            Entry::Wait(_, due) => due,
        };
        self.carry_out(due, rules);
    }

    /// A connection closes.
    pub(super) fn close(&mut self, now: Instant, rules: Rules) {
        let due = self.host.release(self.basis(now, rules));
        self.carry_out(due, rules);
    }

    /// It sees that the connection has failed.
    pub(super) fn notice(&mut self, now: Instant, rules: Rules) {
        self.step(now, Event::Failed { slow: false }, rules);
        self.is_broken = false; // also where it had noticed already, and waits
    }

    /// It reads the next reply.
    pub(super) fn read(&mut self, now: Instant, rules: Rules) {
        let count = |sent| if rules.mutant == Some(Mutant::LateAck) { now } else { sent };
        match self.replies.pop_front() {
            None => {}
            Some(Reply::Fenced) => self.step(now, Event::Fenced, rules),
            Some(Reply::Greeted(answer)) => self.step(now, Event::Greeted { answer }, rules),
            Some(Reply::Renewed { answer, sent }) => {
                self.step(now, Event::Renewed { sent: count(sent), answer }, rules);
            }
            Some(Reply::Granted(answer)) => self.answer(now, answer, rules),
            Some(Reply::Recalled(wanted)) => {
                let due = self.host.recalled(wanted);
                self.carry_out(due, rules);
            }
            Some(Reply::Served) => {
                let due = self.host.served();
                self.carry_out(due, rules);
            }
        }
    }

    fn answer(&mut self, now: Instant, answer: Granted, rules: Rules) {
        let (due, again) = self.host.answered(answer, self.basis(now, rules));
        let is_asked = due.speak;
        self.carry_out(due, rules);
        let learning = answer.short.and_then(|short| short.learning);
        if let Some(left) = learning {
            self.step(now, Event::Learning(left), rules);
        }
        if !(is_asked || learning.is_some()) {
            self.rests |= rules.polls && again != Again::No;
        }
    }

    /// As the desk's `basis`.
    fn basis(&self, now: Instant, rules: Rules) -> Basis {
        let leased = self.is_leased(now);
        let instances = self.session.instances();
        match self.phase {
            Phase::Up => Basis::Granted { leased, slack: rules.slack, instances },
            Phase::Connecting => Basis::Granted { leased: false, slack: 0, instances },
            Phase::Away => Basis::Away { leased },
        }
    }

    fn step(&mut self, now: Instant, event: Event, rules: Rules) {
        for act in self.session.step(now, event) {
            match act {
                Act::AskAgain => {
                    let due = self.host.poll();
                    self.carry_out(due, rules);
                }
                Act::Away => {
                    self.phase = Phase::Away;
                    drop(self.host.lost(self.basis(now, rules), true));
                }
                Act::Connect => self.step(now, Event::Connected, rules),
                Act::Drop => self.hang_up(),
                Act::Heartbeat => self.send_heartbeat(now),
                Act::Hello(hello) => self.requests.push_back(Request::Hello(hello)),
                Act::Serve { force } => self.serve(now, force, rules),
            }
        }
    }

    fn hang_up(&mut self) {
        self.old.append(&mut self.requests);
        self.replies.clear();
        self.is_broken = false;
        self.rests = false;
        self.is_rested = false;
        if self.phase == Phase::Up {
            self.phase = Phase::Connecting;
        }
    }

    fn serve(&mut self, now: Instant, force: bool, rules: Rules) {
        self.phase = Phase::Up;
        let manner = if force { Manner::Force } else { Manner::Admit };
        let (open, _) = self.open_and_granted();
        if let Some(mut claim) = self.host.reassert(force) {
            if force && rules.mutant == Some(Mutant::ForcedDebt) {
                claim.hold = open;
                self.host.set_granted(open);
            }
            self.put(claim, manner);
            self.send_heartbeat(now);
        } else {
            self.send_heartbeat(now);
            self.plan(rules);
        }
    }

    fn carry_out(&mut self, due: Due, rules: Rules) {
        if due.speak && self.session.is_serving() {
            self.plan(rules);
        }
    }

    fn plan(&mut self, rules: Rules) {
        let (_, granted) = self.open_and_granted();
        if let Some(claim) = self.host.plan() {
            if rules.mutant == Some(Mutant::GiveBackBeforeLowering) {
                self.host.set_granted(granted);
            }
            self.put(claim, Manner::Ask);
        }
    }

    fn put(&mut self, claim: Claim, manner: Manner) {
        self.number += 1;
        let (id, epoch, number) = (self.id, self.session.epoch(), self.number);
        let grant = Grant { id, epoch, host: HOST, number, claim, manner };
        self.requests.push_back(Request::Grant(grant));
    }

    fn send_heartbeat(&mut self, now: Instant) {
        let epoch = self.session.epoch();
        self.requests.push_back(Request::Heartbeat { epoch, sent: now });
    }

    /// What later steps depend on. Numbers of messages are left out: none is met twice.
    pub(super) fn hash(
        &self,
        state: &mut impl Hasher,
        now: Instant,
        (unit, lease): (Duration, Duration),
        generation: Option<u64>,
    ) {
        // What was sent a lease ago renews nothing, however old it is.
        let ago = |sent: Instant| now.saturating_duration_since(sent).min(lease);
        let is_known = |seen: Option<u64>| seen == generation;
        self.session.fingerprint(now, unit).hash(state);
        is_known(self.session.generation()).hash(state);
        self.host.fingerprint().hash(state);
        (self.phase, self.is_broken, self.rests, self.is_rested, self.is_paused).hash(state);
        for (request, is_old) in self
            .requests
            .iter()
            .map(|request| (request, false))
            .chain(self.old.iter().map(|request| (request, true)))
        {
            let sent = |sent| (!is_old).then(|| ago(sent));
            is_old.hash(state);
            match request {
                Request::Grant(grant) => (0, Grant { number: 0, ..*grant }).hash(state),
                Request::Heartbeat { epoch, sent: at } => (1, epoch, sent(*at)).hash(state),
                Request::Hello(hello) => (2, hello).hash(state),
            }
        }
        for reply in &self.replies {
            match reply {
                Reply::Fenced => 10.hash(state),
                Reply::Granted(answer) => (11, answer).hash(state),
                Reply::Greeted(answer) => (12, answer).hash(state),
                Reply::Recalled(wanted) => (13, wanted).hash(state),
                Reply::Renewed { answer, sent } => {
                    let seen = Some(answer.generation);
                    let is_news = seen == self.session.generation();
                    (14, answer.learning, is_known(seen), is_news, ago(*sent)).hash(state);
                }
                Reply::Served => 15.hash(state),
            }
        }
    }
}
