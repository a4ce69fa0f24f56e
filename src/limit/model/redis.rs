//! The scripts of `lua/` once more, as a pure state machine: what they make of each message, and
//! what they leave behind. It is the oracle of the property tests, which hold it against the real
//! scripts, and the Redis of the model checker.
//!
//! It keeps no expiry of keys: only what a whole fleet left behind ever expires.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use super::Mutant;
use crate::store::scripts::Claim;
use crate::store::scripts::Granted;
use crate::store::scripts::Greeted;
use crate::store::scripts::Hello;
use crate::store::scripts::Manner;
use crate::store::scripts::Renewed;
use crate::store::scripts::Short;
use crate::store::scripts::Welcome;

/// An instance.
pub(super) type Id = u8;

/// What a hint says, and to whom; the host is that of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Hint {
    Granted(Id),
    Recall(Id, i64),
}

/// `#s`, or a host's `#g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) is_learning: bool,
    pub(super) generation: u64,
}

/// What is known of the fleet since data was last lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Term {
    pub(super) stamp: Stamp,
    /// `#first`.
    pub(super) first: u64,
    /// `#run`.
    pub(super) run: u64,
    /// `#until`.
    pub(super) until: u64,
}

/// One instance's field in a host's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) held: i64,
    pub(super) queued: i64,
    pub(super) unused: i64,
    pub(super) number: Option<u64>,
}

/// A host's two keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    pub(super) rows: BTreeMap<Id, Row>,
    /// `#t`.
    pub(super) total: i64,
    /// `#c`: term and limit.
    pub(super) limit: (u64, u32),
    /// `#g`.
    pub(super) swept: Stamp,
    /// `#q`.
    pub(super) queued: Option<i64>,
    /// `#k`.
    pub(super) unused: Option<i64>,
    /// `#r`.
    pub(super) recalled: Option<u64>,
    pub(super) queue: VecDeque<Id>,
}

/// What INFO says of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) run: u64,
    pub(super) start: u64,
    /// Something shows that it forgot, or was not always alone.
    pub(super) is_doubtful: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Redis {
    pub(super) server: Server,
    pub(super) term: Option<Term>,
    pub(super) workers: BTreeMap<Id, u64>,
    pub(super) leases: BTreeMap<Id, u64>,
    /// `#hb` and `#ok`.
    pub(super) beats: Option<(u64, u64)>,
    pub(super) hosts: BTreeMap<u8, Host>,
    pub(super) mutant: Option<Mutant>,
}

/// One message about one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    pub(super) id: Id,
    pub(super) epoch: u64,
    pub(super) host: u8,
    pub(super) number: u64,
    pub(super) claim: Claim,
    pub(super) manner: Manner,
}

impl Redis {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            term: None,
            workers: BTreeMap::new(),
            leases: BTreeMap::new(),
            beats: None,
            hosts: BTreeMap::new(),
            mutant: None,
        }
    }

    /// A new process without data.
    pub(super) fn restart(&mut self, now: u64) {
        let run = self.server.run + 1;
        let mutant = self.mutant;
        *self = Self::new(Server { run, start: now, is_doubtful: false });
        self.mutant = mutant;
    }

    /// A replica that had come as far as `snapshot` takes over.
    pub(super) fn fail_over(&mut self, snapshot: &Self) {
        let run = self.server.run + 1;
        let start = self.server.start;
        *self = snapshot.clone();
        self.server = Server { run, start, is_doubtful: true };
    }

    /// `FLUSHALL`.
    pub(super) fn flush(&mut self) {
        let (server, mutant) = (self.server, self.mutant);
        *self = Self::new(Server { is_doubtful: true, ..server });
        self.mutant = mutant;
    }

    /// Whether grants rise: nobody needs to be remembered first.
    pub(super) fn is_granting(&self) -> bool {
        self.term
            .as_ref()
            .is_some_and(|term| !term.stamp.is_learning && term.run == self.server.run)
    }

    fn is_in_force(&self, id: Id, epoch: u64) -> bool {
        match self.workers.get(&id) {
            Some(known) => *known == epoch || self.mutant == Some(Mutant::NoFence),
            None => self.mutant == Some(Mutant::NoFence) && self.term.is_some(),
        }
    }

    pub(super) fn hello(&mut self, now: u64, id: Id, hello: Hello) -> Greeted {
        let lease = millis(hello.lease);
        let known = self.workers.get(&id).copied();
        if known.is_some_and(|known| known >= hello.epoch) {
            return greeted(Welcome::Superseded, None, 0);
        }
        let server = self.server;
        let is_restarted = self.term.as_ref().is_some_and(|term| term.run != server.run);
        let term = match self.term.take() {
            Some(term) if !is_restarted => term,
            last => {
                let is_lost = last.is_none();
                let forgot = server.is_doubtful
                    || (is_lost && (hello.previous > 0 || !self.leases.is_empty()));
                let until = if forgot { now } else { server.start } + lease;
                let first = now.max(last.map_or(0, |term| term.stamp.generation) + 1);
                let is_learning =
                    (until > now || is_restarted) && self.mutant != Some(Mutant::NoLearning);
                let stamp = Stamp { is_learning, generation: first };
                Term { stamp, first, run: server.run, until }
            }
        };
        let is_known = known == Some(hello.previous);
        let still = term.stamp.is_learning && term.until > now;
        let is_forced = hello.vouched && (still || is_known);
        let welcome = if is_forced || self.mutant == Some(Mutant::ForcedReentry) {
            Welcome::Force
        } else {
            Welcome::Admit
        };
        let learning = term.stamp.is_learning.then(|| term.until.saturating_sub(now));
        self.term = Some(term);
        self.workers.insert(id, hello.epoch);
        self.leases.insert(id, now + lease);
        greeted(welcome, learning, self.leases.len())
    }

    /// None: the epoch is not in force.
    pub(super) fn heartbeat(
        &mut self,
        now: u64,
        id: Id,
        epoch: u64,
        lease: Duration,
    ) -> Option<Renewed> {
        if !self.is_in_force(id, epoch) {
            return None;
        }
        let lease = millis(lease);
        let term = self.term.as_mut()?;
        self.leases.insert(id, now + lease);
        let (last, since) = self.beats.unwrap_or((0, now));
        let since = if 2 * now.saturating_sub(last) > lease { now } else { since };
        self.beats = Some((now, since));
        let mut learning = term.stamp.is_learning.then(|| term.until.saturating_sub(now));
        let is_over = learning == Some(0);
        let most = match learning {
            Some(0) => usize::MAX,
            None if now.saturating_sub(since) >= lease => 16,
            Some(_) | None => 0,
        };
        let mut dead: Vec<(u64, Id)> =
            self.leases.iter().map(|(id, end)| (*end, *id)).filter(|(end, _)| *end < now).collect();
        dead.sort_unstable();
        dead.truncate(most);
        for (_, id) in &dead {
            self.workers.remove(id);
            self.leases.remove(id);
        }
        if !dead.is_empty() || is_over {
            let generation = term.stamp.generation + 1;
            term.stamp = Stamp { is_learning: false, generation };
            learning = None;
        }
        Some(Renewed {
            learning: learning.map(Duration::from_millis),
            instances: count(self.leases.len()),
            generation: term.stamp.generation,
        })
    }

    /// Whether the epoch is in force.
    pub(super) fn leave(&mut self, id: Id, epoch: u64, is_clean: bool) -> bool {
        if !self.is_in_force(id, epoch) {
            return false;
        }
        self.workers.remove(&id);
        self.leases.remove(&id);
        if let Some(term) = self.term.as_mut().filter(|_| !is_clean) {
            term.stamp.generation += 1;
        }
        true
    }

    /// None: the epoch is not in force.
    pub(super) fn grant(
        &mut self,
        now: u64,
        grant: Grant,
        hints: &mut Vec<Hint>,
    ) -> Option<Granted> {
        if !self.is_in_force(grant.id, grant.epoch) {
            return None;
        }
        let term = self.term.as_ref()?;
        let before = self
            .hosts
            .remove(&grant.host)
            .filter(|host| host.swept == term.stamp || host.swept.generation >= term.first);
        let mut turn = Turn::new(grant, term.stamp, before);
        turn.is_forced_late = self.mutant == Some(Mutant::ForcedLate);
        let answer = turn.run(now, term.until, &self.workers, hints);
        if turn.exists {
            self.hosts.insert(grant.host, turn.host);
        }
        Some(answer)
    }
}

/// One run of `grant.lua`, with its variables.
struct Turn {
    grant: Grant,
    stamp: Stamp,
    /// What is in Redis.
    host: Host,
    exists: bool,
    limit: i64,
    /// The sender's is the one in force.
    is_known: bool,
    is_told: bool,
    /// This very message has run.
    is_again: bool,
    is_forced_late: bool,
    row: Row,
    had: Row,
    total: i64,
    written: i64,
    queued: i64,
    want: i64,
    waits: i64,
    /// What is open beyond what was granted.
    debt: i64,
    /// Of what it had, what it learns only now.
    unheard: i64,
    got: i64,
}

impl Turn {
    fn new(grant: Grant, stamp: Stamp, before: Option<Host>) -> Self {
        let exists = before.is_some();
        let own = (grant.claim.term, grant.claim.limit);
        let host = before.unwrap_or(Host {
            rows: BTreeMap::new(),
            total: 0,
            limit: own,
            swept: stamp,
            queued: None,
            unused: None,
            recalled: None,
            queue: VecDeque::new(),
        });
        let had = host.rows.get(&grant.id).copied().unwrap_or_default();
        Self {
            grant,
            stamp,
            exists,
            limit: i64::from(grant.claim.limit),
            is_known: host.limit == own,
            is_told: false,
            is_again: had.number == Some(grant.number),
            is_forced_late: false,
            row: had,
            had,
            total: host.total,
            written: host.total,
            queued: host.queued.unwrap_or(0),
            want: 0,
            waits: 0,
            debt: 0,
            unheard: 0,
            got: 0,
            host,
        }
    }

    fn is_asserted(&self) -> bool {
        matches!(self.grant.manner, Manner::Force | Manner::Admit)
    }

    fn has_room(&self) -> bool {
        self.limit == 0 || self.total < self.limit
    }

    fn run(
        &mut self,
        now: u64,
        until: u64,
        workers: &BTreeMap<Id, u64>,
        hints: &mut Vec<Hint>,
    ) -> Granted {
        self.settle_limit();
        let may_grant = self.limit == 0 || !self.stamp.is_learning;
        self.settle_hold();
        let mut learning = None;
        if !may_grant {
            learning = Some(Duration::from_millis(until.saturating_sub(now)));
        } else if !self.is_again && (self.want > 0 || self.queued > 0) {
            self.sweep(workers);
            self.pass_on(hints);
            self.wait();
        }
        let keeps = self.row.queued > 0 || self.unheard > 0;
        let has_number = self.got > 0 || (keeps && !self.is_again);
        self.row.number = has_number.then_some(self.grant.number);
        if !self.is_again {
            self.row.unused = i64::from(self.grant.claim.spare).min(self.row.held);
            self.give_slack(may_grant);
        }
        self.write();
        self.answer(now, learning, hints)
    }

    /// Of two limits the one of the higher term holds, in one term the lower.
    fn settle_limit(&mut self) {
        let Claim { limit, term, .. } = self.grant.claim;
        let (stored_term, stored) = self.host.limit;
        if (term, limit) == self.host.limit {
            return;
        }
        let is_lower = limit > 0 && (stored == 0 || limit < stored);
        if term > stored_term || (term == stored_term && is_lower) {
            self.host.limit = (term, limit);
        } else {
            self.limit = i64::from(stored);
            self.is_told = true;
        }
    }

    fn settle_hold(&mut self) {
        let Claim { hold, heard, ask, wait, .. } = self.grant.claim;
        let [hold, heard, ask, wait] = [hold, heard, ask, wait].map(i64::from);
        let have = self.row.held;
        if self.is_again {
            return;
        }
        let is_late = self.is_forced_late && self.grant.manner == Manner::Force;
        if is_late || self.is_asserted() && self.stamp.is_learning {
            self.row.held = hold;
        } else if self.is_asserted() {
            self.row.held = have.min(hold);
            self.want = hold - self.row.held;
        } else {
            let unheard = (have - heard.max(hold)).max(0).min(ask + wait);
            self.unheard = if self.is_simple() { 0 } else { unheard };
            self.debt = (hold - have).max(0);
            self.row.held = have.min(hold + unheard);
            self.want = ask + wait - unheard + self.debt;
            self.waits = (wait - unheard).max(0);
        }
        self.total += self.row.held - have;
    }

    /// The script's short way, for what is granted whole where nobody waits: the same but for the
    /// number of the message, which it does not keep.
    fn is_simple(&self) -> bool {
        let Claim { hold, ask, wait, spare, slack, limit, .. } = self.grant.claim;
        let Row { held, queued, unused, number } = self.had;
        let is_plain = (queued, unused, number, spare, slack) == (0, 0, None, 0, 0);
        let is_known = self.is_known && self.host.swept == self.stamp;
        let limit = i64::from(limit);
        let all = i64::from(hold + ask + wait);
        let fits = self.total + all - held <= limit || (all <= held && ask + wait == 0);
        is_plain
            && is_known
            && fits
            && limit > 0
            && self.queued == 0
            && !self.stamp.is_learning
            && self.grant.manner == Manner::Ask
    }

    /// Somebody died since this host was last looked at: counts its rows.
    fn sweep(&mut self, workers: &BTreeMap<Id, u64>) {
        let (limit, total) = (self.limit, self.total);
        let matters = self.queued > 0
            || (limit > 0 && limit - total < self.want)
            || (limit == 0 && total > self.row.held);
        if !self.exists || self.host.swept == self.stamp || !matters {
            return;
        }
        let own = self.grant.id;
        self.host.rows.retain(|id, _| *id == own || workers.contains_key(id));
        let others = || self.host.rows.iter().filter(|(id, _)| **id != own).map(|(_, row)| row);
        self.total = self.row.held + others().map(|row| row.held).sum::<i64>();
        self.queued = self.row.queued + others().map(|row| row.queued).sum::<i64>();
        let unused = self.had.unused + others().map(|row| row.unused).sum::<i64>();
        self.written = self.total;
        self.host.total = self.total;
        self.host.swept = self.stamp;
        self.host.unused = Some(unused);
        self.host.queued = Some(self.queued);
        if self.queued == 0 {
            self.host.queue.clear();
        }
    }

    /// What is free goes to the queue, and what is left to the sender.
    fn pass_on(&mut self, hints: &mut Vec<Hint>) {
        let waits = if self.debt > 0 { self.debt } else { self.waits };
        let most = if self.limit == 0 { 0 } else { self.want.min(waits) };
        if self.row.queued > most && !self.is_asserted() {
            self.withdraw(self.row.queued - most);
        }
        while self.queued > 0 && self.has_room() {
            let Some(first) = self.host.queue.pop_front() else {
                self.forget_queue();
                break;
            };
            if first == self.grant.id {
                if self.row.queued > 0 {
                    self.row.queued -= 1;
                    self.row.held += 1;
                    self.queued -= 1;
                    self.total += 1;
                    self.got += 1;
                }
            } else if let Some(row) = self.host.rows.get_mut(&first).filter(|row| row.queued > 0) {
                row.queued -= 1;
                row.held += 1;
                self.queued -= 1;
                self.total += 1;
                hints.push(Hint::Granted(first));
            }
        }
        self.want -= self.got;
        if self.queued == 0 {
            let room =
                if self.limit == 0 { self.want } else { self.want.min(self.limit - self.total) };
            let room = room.max(0);
            self.row.held += room;
            self.total += room;
            self.want -= room;
        }
    }

    /// Gives places up, the last ones first.
    fn withdraw(&mut self, count: i64) {
        let mut left = count;
        while left > 0 {
            let Some(at) = self.host.queue.iter().rposition(|id| *id == self.grant.id) else {
                break;
            };
            self.host.queue.remove(at);
            left -= 1;
        }
        self.queued -= count;
        self.row.queued -= count;
    }

    fn forget_queue(&mut self) {
        self.queued = 0;
        self.row.queued = 0;
        for (id, row) in &mut self.host.rows {
            if *id != self.grant.id {
                *row = Row { queued: 0, number: None, ..*row };
            }
        }
    }

    fn wait(&mut self) {
        let debt = i64::from(self.grant.claim.hold) - self.row.held;
        let waits = if debt > 0 { debt } else { self.waits - (self.got - self.debt).max(0) };
        let waits = if self.limit == 0 { 0 } else { self.want.min(waits) };
        let more = waits - self.row.queued;
        if more <= 0 || self.is_asserted() {
            return;
        }
        for _ in 0..more {
            if debt > 0 {
                self.host.queue.push_front(self.grant.id);
            } else {
                self.host.queue.push_back(self.grant.id);
            }
        }
        self.queued += more;
        self.row.queued = waits;
    }

    /// Slots ahead of need come from what is plentiful.
    fn give_slack(&mut self, may_grant: bool) {
        let is_plain = self.grant.manner == Manner::Ask;
        if is_plain && self.want == 0 && self.queued == 0 && self.limit > 0 && may_grant {
            let plenty = (self.limit - self.total).div_euclid(2);
            let more = i64::from(self.grant.claim.slack).min(plenty).max(0);
            self.row.held += more;
            self.row.unused += more;
            self.total += more;
        }
    }

    fn write(&mut self) {
        let (row, id) = (self.row, self.grant.id);
        if self.total <= 0 && self.queued <= 0 {
            self.exists = false;
            self.host.queued = None;
            self.host.unused = None;
            self.host.recalled = None;
            self.host.rows.clear();
            return;
        }
        let was_there = self.exists;
        self.exists = true;
        if !was_there {
            self.host.limit = (self.grant.claim.term, self.grant.claim.limit);
            self.host.rows.insert(id, row);
            self.host.total = self.total;
        } else if !self.is_again
            && (Row { number: None, ..row } != Row { number: None, ..self.had }
                || self.total != self.written
                || row.number.is_some()
                || self.had.number.is_some())
        {
            if row.held == 0 && row.queued == 0 {
                self.host.rows.remove(&id);
            } else {
                self.host.rows.insert(id, row);
            }
            self.host.total = self.total;
        }
        let has_short = self.host.queued.is_some() && self.want > 0;
        if self.queued != self.host.queued.unwrap_or(0) || has_short {
            self.host.queued = Some(self.queued);
            if self.queued == 0 {
                self.host.queue.clear();
            }
        }
        if row.unused != self.had.unused {
            let all = self.host.unused.unwrap_or(0);
            self.host.unused = Some(all + row.unused - self.had.unused);
        }
    }

    fn answer(&mut self, now: u64, learning: Option<Duration>, hints: &mut Vec<Hint>) -> Granted {
        let (here, total) = (count(self.row.held), count(self.total));
        let others = count(self.queued - self.row.queued);
        let mut short = Short {
            learning,
            queued: count(self.row.queued),
            others,
            limit: count(self.limit),
            unused: 0,
            instances: 1,
        };
        if learning.is_some() {
            return Granted { here, total, short: Some(short) };
        }
        if self.want <= 0 && self.queued <= 0 && !self.is_told {
            return Granted { here, total, short: None };
        }
        if (self.want > 0 || self.queued > 0) && self.exists {
            let is_due = now.saturating_sub(self.host.recalled.unwrap_or(0)) >= 250;
            if is_due {
                self.host.recalled = Some(now);
                let need = self.queued.max(self.want);
                let others = self.host.rows.keys().filter(|id| **id != self.grant.id);
                hints.extend(others.map(|id| Hint::Recall(*id, need)));
            }
        }
        short.unused = count(self.host.unused.unwrap_or(0));
        short.instances = count(self.host.rows.len()).max(1);
        Granted { here, total, short: Some(short) }
    }
}

fn greeted(welcome: Welcome, learning: Option<u64>, instances: usize) -> Greeted {
    let learning = learning.map(Duration::from_millis);
    Greeted { welcome, learning, instances: count(instances), eviction: String::new() }
}

fn count<T: TryInto<u32>>(number: T) -> u32 {
    number.try_into().unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
