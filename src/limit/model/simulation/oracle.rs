//! What is true in a simulation, whatever the instances and Redis believe: which instances live,
//! which connections they have open, until when Redis has vouched for them, who waits.
//!
//! The promises that it holds them to:
//!
//! - *The cap.* No connection opens while the connections of all instances that hold a lease, with
//!   the new one, are more than the limit. What an instance had open when its lease ended is a debt,
//!   which no fence can close: it does not count, until that instance has it on its books again.
//! - *The lease.* An instance opens nothing past its lease. The lease is Redis's: from the moment in
//!   which it took the heartbeat.
//! - *Progress.* Where nothing fails, no slot stays free while somebody waits for one, longer than
//!   the poll that finds a lost hint.
//! - *Patience.* Nobody waits past the time they said.

use std::cell::Cell;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;

use super::super::redis::Id;
use super::plan::Plan;
use crate::limit::Limiter;
use crate::limit::shared::LeaseLoss;

/// The ground truth of one simulation.
pub(super) struct Oracle {
    plan: Rc<Plan>,
    now: Cell<Duration>,
    state: RefCell<State>,
    trace: Option<RefCell<Vec<String>>>,
}

#[derive(Default)]
struct State {
    instances: Vec<Instance>,
    /// Per host.
    hosts: Vec<Demand>,
    last: u64,
    violation: Option<String>,
    calm: Option<Calm>,
    counts: Counts,
}

struct Instance {
    limiter: Limiter,
    leased_until: Duration,
    is_alive: bool,
    open: Vec<Connection>,
    /// How often its process stood still.
    freezes: Rc<Cell<u32>>,
    /// Since nothing failed: whether somebody waited there, and how many were admitted, per host.
    asked: Vec<bool>,
    served: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Connection {
    number: u64,
    host: usize,
    is_debt: bool,
}

#[derive(Clone, Default)]
struct Demand {
    /// Those who wait, and of those the ones who have time.
    asking: u32,
    waiting: u32,
    /// Since when a slot has been free for them without anybody being admitted.
    stuck_since: Option<Duration>,
    /// Slots in use and slots there are, summed over the moments in which twice as many waited.
    used: u64,
    usable: u64,
}

/// What holds while nothing fails.
#[derive(Clone, Copy)]
pub(super) struct Calm {
    /// How long a slot may be free while somebody waits, without anybody being admitted.
    pub(super) stuck: Duration,
    /// How long who has no time waits for an answer.
    pub(super) answer: Duration,
}

/// What happened in a simulation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) asked: u64,
    pub(super) opened: u64,
    pub(super) most_debt: u32,
}

impl Oracle {
    pub(super) fn new(plan: Rc<Plan>, is_traced: bool) -> Rc<Self> {
        let hosts = vec![Demand::default(); plan.keys.len()];
        Rc::new(Self {
            plan,
            now: Cell::default(),
            state: RefCell::new(State { hosts, ..State::default() }),
            trace: is_traced.then(RefCell::default),
        })
    }

    /// Writes down what happened, if anybody is going to read it.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let now = turmoil::sim_elapsed().unwrap_or(self.now.get());
            trace.borrow_mut().push(format!("{:>9.3} {}", now.as_secs_f64(), what()));
        }
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        self.trace.as_ref().map(RefCell::take).unwrap_or_default()
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.state.borrow().violation.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// The number that the next instance will have.
    pub(super) fn next_id(&self) -> Id {
        Id::try_from(self.state.borrow().instances.len()).expect("they are few")
    }

    pub(super) fn born(&self, limiter: Limiter, freezes: Rc<Cell<u32>>) {
        let hosts = self.plan.keys.len();
        let instance = Instance {
            limiter,
            leased_until: Duration::ZERO,
            is_alive: true,
            open: Vec::new(),
            freezes,
            asked: vec![false; hosts],
            served: vec![0; hosts],
        };
        self.state.borrow_mut().instances.push(instance);
    }

    /// All that it had open is closed by now.
    pub(super) fn died(&self, id: Id) {
        let instance = &mut self.state.borrow_mut().instances[usize::from(id)];
        assert!(instance.open.is_empty());
        instance.is_alive = false;
    }

    /// Redis has taken a heartbeat.
    pub(super) fn renewed(&self, id: Id, until: Duration) {
        let instance = &mut self.state.borrow_mut().instances[usize::from(id)];
        instance.leased_until = instance.leased_until.max(until);
    }

    /// From now on, until it is told otherwise, nothing fails.
    pub(super) fn set_calm(&self, calm: Option<Calm>) {
        let mut state = self.state.borrow_mut();
        state.calm = calm;
        for host in &mut state.hosts {
            host.stuck_since = None;
        }
        if calm.is_some() {
            state.instances.iter_mut().for_each(|instance| instance.served.fill(0));
        }
    }

    /// A task of a host, whose panic nobody else would see.
    pub(super) fn watch(
        self: Rc<Self>,
        task: impl Future<Output = ()>,
    ) -> impl Future<Output = ()> {
        AssertUnwindSafe(task)
            .catch_unwind()
            .map(move |ended| ended.unwrap_or_else(|_| self.violate("a task panicked".to_owned())))
    }

    /// Somebody begins to wait.
    pub(super) fn wait(self: &Rc<Self>, id: Id, host: usize, has_time: bool) -> Wait {
        let mut state = self.state.borrow_mut();
        state.hosts[host].asking += 1;
        state.hosts[host].waiting += u32::from(has_time);
        let is_calm = state.calm.is_some();
        state.instances[usize::from(id)].asked[host] |= is_calm && has_time;
        Wait { oracle: Rc::clone(self), host, has_time, is_calm }
    }

    pub(super) fn asked(&self) {
        self.state.borrow_mut().counts.asked += 1;
    }

    /// An instance opens a connection.
    pub(super) fn open(self: &Rc<Self>, id: Id, host: usize) -> Open {
        let now = turmoil::sim_elapsed().expect("inside of a simulation");
        let mut state = self.state.borrow_mut();
        state.counts.opened += 1;
        state.last += 1;
        let number = state.last;
        state.settle(now, &self.plan);
        state.hosts[host].stuck_since = None;
        let instance = &mut state.instances[usize::from(id)];
        let until = instance.leased_until;
        instance.served[host] += 1;
        instance.open.push(Connection { number, host, is_debt: false });
        let (counted, cap) = (state.counted(now, host), self.plan.cap(host, now));
        self.note(|| format!("{id} opens on host {host}: {counted} of {cap}"));
        if until < now {
            state.violate(format!("{now:?}: {id} opens on host {host}, leased until {until:?}"));
        }
        if counted > cap {
            state.violate(format!("{now:?}: {id} opens on host {host}: {counted} of {cap}"));
        }
        Open { oracle: Rc::clone(self), id, number }
    }

    /// Looks at what is true between two steps.
    pub(super) fn look(&self, now: Duration) {
        self.now.set(now);
        let mut state = self.state.borrow_mut();
        state.settle(now, &self.plan);
        let Some(Calm { stuck, .. }) = state.calm else { return };
        for host in 0..self.plan.keys.len() {
            let cap = self.plan.cap(host, now);
            let used = state.counted(now, host).min(cap);
            let demand = &mut state.hosts[host];
            if demand.waiting == 0 || used == cap {
                demand.stuck_since = None;
            } else if now.saturating_sub(*demand.stuck_since.get_or_insert(now)) > stuck {
                let waiting = demand.waiting;
                state.violate(format!(
                    "{now:?}: {waiting} wait for host {host} with {used} of {cap} in use, and \
                     nobody was admitted for {stuck:?}"
                ));
                return;
            }
            let demand = &mut state.hosts[host];
            if demand.waiting >= 2 * cap {
                demand.used += u64::from(used);
                demand.usable += u64::from(cap);
            }
        }
    }

    /// While nothing failed, was enough of each host in use, and did everybody get some of it?
    pub(super) fn judge(&self) {
        let mut state = self.state.borrow_mut();
        for host in 0..self.plan.keys.len() {
            let Demand { used, usable, .. } = state.hosts[host];
            let (percent, least) = (used * 100 / usable.max(1), self.plan.utilisation());
            let is_long = usable > 250 * u64::from(self.plan.cap(host, self.now.get()));
            if is_long && self.plan.lost_hints == 0 && percent < least {
                state.violate(format!("host {host} was used by {percent} %, not by {least} %"));
            }
            // Who holds its share for long may have to be content with that.
            let got = |one: &Instance| {
                let holds = one.open.iter().filter(|open| open.host == host).count();
                one.served[host] as usize + holds
            };
            let asked = state.instances.iter().filter(|one| one.is_alive && one.asked[host]);
            let got: Vec<usize> = asked.map(got).collect();
            let is_lean = got.iter().sum::<usize>() < 20 * got.len();
            if !is_lean && got.contains(&0) {
                state.violate(format!("of host {host} somebody got nothing: {got:?}"));
            }
        }
    }

    /// Whether nobody waits, and an instance has nothing open and holds nothing.
    pub(super) fn rests(&self, id: Id) -> Result<(), String> {
        let state = self.state.borrow();
        let instance = &state.instances[usize::from(id)];
        for host in instance.limiter.snapshot() {
            if (host.open, host.granted, host.waiting) != (0, 0, 0) {
                return Err(format!("at rest {id} has {host:?}"));
            }
        }
        let is_over = state.hosts.iter().all(|host| host.asking == 0) && instance.open.is_empty();
        if is_over { Ok(()) } else { Err("somebody still waits".to_owned()) }
    }

    pub(super) fn violate(&self, what: String) {
        self.state.borrow_mut().violate(what);
    }
}

impl State {
    /// What an instance had open when its lease ended is its debt, until it has it all on the books.
    fn settle(&mut self, now: Duration, plan: &Plan) {
        let (mut debts, mut unclosed) = (0, None);
        for (id, instance) in self.instances.iter_mut().enumerate() {
            if instance.leased_until < now {
                let closes = plan.lease_loss == LeaseLoss::Close && instance.freezes.get() == 0;
                unclosed = unclosed.or((closes && !instance.open.is_empty()).then_some(id));
                instance.open.iter_mut().for_each(|connection| connection.is_debt = true);
            } else if instance.open.iter().any(|connection| connection.is_debt) {
                for snapshot in instance.limiter.snapshot() {
                    if snapshot.granted >= snapshot.open {
                        let paid = |open: &&mut Connection| plan.keys[open.host] == snapshot.key;
                        instance.open.iter_mut().filter(paid).for_each(|open| open.is_debt = false);
                    }
                }
            }
            debts += instance.open.iter().filter(|connection| connection.is_debt).count();
        }
        let debts = u32::try_from(debts).expect("they are few");
        self.counts.most_debt = self.counts.most_debt.max(debts);
        if let Some(id) = unclosed.filter(|_| !plan.is_reckless) {
            self.violate(format!("{now:?}: {id} has connections open past its lease"));
        }
    }

    /// Connections to this host that count against its limit.
    fn counted(&self, now: Duration, host: usize) -> u32 {
        let vouched = self.instances.iter().filter(|one| one.is_alive && one.leased_until >= now);
        let open = vouched.flat_map(|instance| &instance.open);
        let counted = open.filter(|open| open.host == host && !open.is_debt).count();
        u32::try_from(counted).expect("they are few")
    }

    /// Only the first counts.
    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

/// Somebody waits.
pub(super) struct Wait {
    oracle: Rc<Oracle>,
    host: usize,
    has_time: bool,
    /// Whether it began when nothing failed.
    is_calm: bool,
}

impl Wait {
    /// They were told.
    pub(super) fn is_over(&self, time: Option<Duration>, waited: Duration) {
        let calm = self.oracle.state.borrow().calm.filter(|_| self.is_calm);
        // A timer may be a millisecond late.
        let longest = time.map(|time| time + Duration::from_millis(1)).or(calm.map(|c| c.answer));
        if longest.is_some_and(|longest| longest < waited) {
            self.oracle.violate(format!("{time:?} of time, and {waited:?} waited"));
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let host = &mut self.oracle.state.borrow_mut().hosts[self.host];
        host.asking -= 1;
        host.waiting -= u32::from(self.has_time);
    }
}

/// A connection that is open.
pub(super) struct Open {
    oracle: Rc<Oracle>,
    id: Id,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.oracle.state.borrow_mut();
        let instance = &mut state.instances[usize::from(self.id)];
        instance.open.retain(|open| open.number != self.number);
    }
}
