//! Where passwords are verified: on threads of their own, since each takes tens of milliseconds of
//! pure work, and no connection is to wait for another's password.
//!
//! How many may wait is bounded, and of one address only a part of them: one that tries passwords
//! without end is told to come again, and the others take turns with it. The threads yield to
//! those that serve.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::Denied;
use super::basic::Credentials;
use super::memory::Tag;

/// The part of the queue that one address may fill.
const PART: usize = 4;
/// How much the threads yield to the others: see `nice(2)`.
const NICE: i32 = 5;

/// A password to verify.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) credentials: Credentials,
    pub(super) tag: Tag,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: HashMap<IpAddr, VecDeque<Job>>,
    /// Addresses with jobs, the next first.
    turn: VecDeque<IpAddr>,
    len: usize,
    closed: bool,
}

/// What waits to be verified.
#[derive(Debug)]
pub(super) struct Desk {
    size: usize,
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Desk {
    /// A desk at which `size` jobs may wait.
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, waiting: Mutex::default(), bell: Condvar::new() })
    }

    /// Has `threads` threads do what is put on the desk, until it is closed.
    pub(super) fn staff(
        self: &Arc<Self>,
        threads: usize,
        work: impl Fn(Job) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let work = Arc::new(work);
        for _ in 0..threads {
            let (desk, work) = (Arc::clone(self), Arc::clone(&work));
            let thread = std::thread::Builder::new().name("narrows-verify".to_owned());
            thread.spawn(move || {
                // Not being allowed to yield is no reason not to work. Of this thread alone: Linux.
                let _yields = rustix::process::nice(NICE);
                while let Some(job) = desk.next() {
                    work(job);
                }
            })?;
        }
        Ok(())
    }

    /// Puts a job of this address on the desk.
    pub(super) fn put(&self, address: IpAddr, job: Job) -> Result<(), Denied> {
        let mut waiting = self.lock();
        let most = (self.size / PART).max(1);
        let own = waiting.jobs.get(&address).map_or(0, VecDeque::len);
        if waiting.closed || waiting.len >= self.size || own >= most {
            return Err(Denied::Busy);
        }
        waiting.len += 1;
        waiting.jobs.entry(address).or_default().push_back(job);
        if own == 0 {
            waiting.turn.push_back(address);
        }
        drop(waiting);
        self.bell.notify_one();
        Ok(())
    }

    /// Lets the threads go home.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(job) = waiting.pop() {
                return Some(job);
            }
            waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Job> {
        let address = self.turn.pop_front()?;
        let jobs = self.jobs.get_mut(&address)?;
        let job = jobs.pop_front()?;
        self.len -= 1;
        if jobs.is_empty() {
            self.jobs.remove(&address);
        } else {
            self.turn.push_back(address);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    fn job(memory: &Memory, user: &str) -> Job {
        let credentials = Credentials { user: user.into(), password: Box::default() };
        Job { tag: memory.tag(&credentials), credentials }
    }

    #[test]
    fn addresses_take_turns_and_none_fills_the_desk() {
        let memory = Memory::new().unwrap();
        let desk = Desk::new(8);
        let put =
            |address: &str, user: &str| desk.put(address.parse().unwrap(), job(&memory, user));
        for user in ["a1", "a2"] {
            put("192.0.2.1", user).unwrap();
        }
        assert_eq!(put("192.0.2.1", "a3"), Err(Denied::Busy));
        for user in ["b1", "b2"] {
            put("192.0.2.2", user).unwrap();
        }
        put("192.0.2.3", "c1").unwrap();
        let users: Vec<Box<str>> = (0..5).map(|_| desk.next().unwrap().credentials.user).collect();
        assert_eq!(
            users.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
            ["a1", "b1", "c1", "a2", "b2"]
        );
        let waiting = desk.lock();
        assert!(waiting.jobs.is_empty() && waiting.turn.is_empty() && waiting.len == 0);
    }

    #[test]
    fn no_more_wait_than_may() {
        let memory = Memory::new().unwrap();
        let desk = Desk::new(3);
        for last in 1..=3_u8 {
            desk.put(IpAddr::from([192, 0, 2, last]), job(&memory, "a")).unwrap();
        }
        let fourth = desk.put(IpAddr::from([192, 0, 2, 4]), job(&memory, "a"));
        assert_eq!(fourth, Err(Denied::Busy));
        desk.close();
        assert!(desk.next().is_none());
    }
}
