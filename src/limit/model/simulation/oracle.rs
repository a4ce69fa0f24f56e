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
use crate::base::authority::HostKey;
use crate::limit::Limiter;

/// The ground truth of one simulation.
pub(super) struct Oracle {
    keys: Vec<HostKey>,
    caps: Vec<u32>,
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
}

#[derive(Clone, Copy)]
struct Connection {
    number: u64,
    host: usize,
    is_debt: bool,
}

#[derive(Clone, Default)]
struct Demand {
    /// Those who have time, and wait.
    waiting: u32,
    /// Since when a slot has been free for them without anybody being admitted.
    stuck_since: Option<Duration>,
    /// Slots in use and slots there are, summed over the moments in which somebody waited.
    used: u64,
    usable: u64,
}

/// What holds while nothing fails.
#[derive(Clone, Copy)]
struct Calm {
    stuck: Duration,
}

/// What happened in a simulation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) asked: u64,
    pub(super) opened: u64,
    pub(super) most_debt: u32,
}

impl Oracle {
    pub(super) fn new(keys: Vec<HostKey>, caps: Vec<u32>, is_traced: bool) -> Rc<Self> {
        let hosts = vec![Demand::default(); caps.len()];
        Rc::new(Self {
            keys,
            caps,
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

    pub(super) fn born(&self, limiter: Limiter) {
        let leased_until = Duration::ZERO;
        let instance = Instance { limiter, leased_until, is_alive: true, open: Vec::new() };
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
    pub(super) fn set_calm(&self, stuck: Option<Duration>) {
        let mut state = self.state.borrow_mut();
        state.calm = stuck.map(|stuck| Calm { stuck });
        for host in &mut state.hosts {
            host.stuck_since = None;
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

    /// Somebody with time begins to wait.
    pub(super) fn wait(self: &Rc<Self>, host: usize) -> Wait {
        self.state.borrow_mut().hosts[host].waiting += 1;
        Wait { oracle: Rc::clone(self), host }
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
        state.settle(now, &self.keys);
        state.hosts[host].stuck_since = None;
        let instance = &mut state.instances[usize::from(id)];
        let until = instance.leased_until;
        instance.open.push(Connection { number, host, is_debt: false });
        let (counted, cap) = (state.counted(now, host), self.caps[host]);
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
        state.settle(now, &self.keys);
        let Some(Calm { stuck }) = state.calm else { return };
        for (host, cap) in self.caps.iter().enumerate() {
            let used = state.counted(now, host).min(*cap);
            let demand = &mut state.hosts[host];
            if demand.waiting == 0 || used == *cap {
                demand.stuck_since = None;
            } else if now - *demand.stuck_since.get_or_insert(now) > stuck {
                let waiting = demand.waiting;
                state.violate(format!(
                    "{now:?}: {waiting} wait for host {host} with {used} of {cap} in use, and \
                     nobody was admitted for {stuck:?}"
                ));
                return;
            }
            let demand = &mut state.hosts[host];
            if demand.waiting > 0 {
                demand.used += u64::from(used);
                demand.usable += u64::from(*cap);
            }
        }
    }

    /// How much of the hosts was in use, in percent, while somebody waited for them and nothing failed.
    pub(super) fn utilisation(&self) -> Vec<u64> {
        let state = self.state.borrow();
        let used = |host: &Demand| host.used * 100 / host.usable.max(1);
        state.hosts.iter().filter(|host| host.usable > 0).map(used).collect()
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
        match state.hosts.iter().any(|host| host.waiting > 0) || !instance.open.is_empty() {
            true => Err("somebody still waits".to_owned()),
            false => Ok(()),
        }
    }

    pub(super) fn violate(&self, what: String) {
        self.state.borrow_mut().violate(what);
    }
}

impl State {
    /// What an instance had open when its lease ended is its debt, until it has it all on the books.
    fn settle(&mut self, now: Duration, keys: &[HostKey]) {
        let mut debts = 0;
        for instance in self.instances.iter_mut().filter(|instance| instance.is_alive) {
            if instance.leased_until < now {
                instance.open.iter_mut().for_each(|connection| connection.is_debt = true);
            } else if instance.open.iter().any(|connection| connection.is_debt) {
                for snapshot in instance.limiter.snapshot() {
                    if snapshot.granted >= snapshot.open {
                        let paid = |open: &&mut Connection| keys[open.host] == snapshot.key;
                        instance.open.iter_mut().filter(paid).for_each(|open| open.is_debt = false);
                    }
                }
            }
            debts += instance.open.iter().filter(|connection| connection.is_debt).count();
        }
        let debts = u32::try_from(debts).expect("they are few");
        self.counts.most_debt = self.counts.most_debt.max(debts);
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
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.oracle.state.borrow_mut().hosts[self.host].waiting -= 1;
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
