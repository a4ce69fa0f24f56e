//! How many clients there may be: in all, from one address, and as open files allow.
//!
//! A connection has a [`Place`] for as long as its socket lives, and gives it back by being
//! dropped. Nobody waits here: there is room or there is none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use rustix::process::Resource;
use rustix::process::Rlimit;

use super::Settings;

/// Why there is no room for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many as may be in all.
    Clients,
    /// The last open files are not for clients.
    Files,
    /// As many as may be from its address.
    OfAddress,
}

/// Descriptors of a thread's own: sockets, the poller, pipes.
const PER_THREAD: usize = 8;
/// Descriptors of the rest: files, Redis, the admin port.
const OWN: usize = 32;

/// The open files that this process may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    limit: usize,
    /// From this number on a descriptor is not for another client: connections to upstreams for
    /// those who are here must still be had.
    last: usize,
}

impl Files {
    /// Raises the bound on open descriptors as far as it may go; two are used per tunnel.
    pub(crate) fn raise() -> Self {
        let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(error) => {
                tracing::debug!(%error, "cannot raise the limit of open descriptors");
                current
            }
        };
        Self::of(current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX))
    }

    fn of(limit: usize) -> Self {
        Self { limit, last: limit - (limit / 8).min(512) }
    }

    /// Whether this connection has one of the last descriptors. The system gives the lowest that
    /// is free, so all below it are in use.
    pub(crate) fn are_scarce(self, of: &impl AsRawFd) -> bool {
        usize::try_from(of.as_raw_fd()).is_ok_and(|number| number >= self.last)
    }

    /// As many clients as can each have an upstream.
    fn clients(self, threads: usize) -> usize {
        (self.last.saturating_sub(OWN + PER_THREAD * threads) / 2).max(1)
    }
}

/// All clients' connections of this process.
#[derive(Debug)]
pub(crate) struct Clients {
    open: AtomicUsize,
    max: usize,
    files: Files,
    /// Those of each address, where that is bounded.
    addresses: Option<Addresses>,
}

#[derive(Debug)]
struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Clients {
    pub(crate) fn new(settings: &Settings, files: Files) -> Arc<Self> {
        let possible = files.clients(settings.threads);
        let max = settings.max_clients.unwrap_or(possible);
        if max > possible {
            tracing::warn!(
                "--max-clients {max} is more than open files allow: with {} of them, {possible} \
                 clients can each have an upstream (see ulimit -n)",
                files.limit
            );
        }
        let per_address = settings.max_clients_per_address;
        let addresses =
            (per_address > 0).then(|| Addresses { max: per_address, open: Mutex::default() });
        Arc::new(Self { open: AtomicUsize::new(0), max, files, addresses })
    }
}

/// The clients as one thread sees them. PERF: connections hold an [`Rc`] of this, which costs no
/// atomic.
#[derive(Debug)]
pub(crate) struct Gate(Arc<Clients>);

impl Gate {
    pub(crate) fn new(clients: &Arc<Clients>) -> Rc<Self> {
        Rc::new(Self(Arc::clone(clients)))
    }

    /// A place for a connection, or the bound that it met.
    pub(crate) fn enter(self: &Rc<Self>, socket: &impl AsRawFd) -> Result<Place, Full> {
        if self.0.files.are_scarce(socket) {
            return Err(Full::Files);
        }
        let others = self.0.open.fetch_add(1, Relaxed);
        let place = Place { gate: Rc::clone(self), address: None };
        if others < self.0.max { Ok(place) } else { Err(Full::Clients) }
    }
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Rc<Gate>,
    /// What it counts as. PERF: in a box, since few ask for that.
    address: Option<Box<IpAddr>>,
}

impl Place {
    /// Counts the connection as one of this address, now that it is known; the bound, if there
    /// are too many.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<(), Full> {
        let Some(addresses) = &self.gate.0.addresses else { return Ok(()) };
        let address = counted(address);
        let mut open = addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= addresses.max {
            return Err(Full::OfAddress);
        }
        *count += 1;
        self.address = Some(Box::new(address));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let clients = &self.gate.0;
        clients.open.fetch_sub(1, Relaxed);
        if let (Some(addresses), Some(address)) = (&clients.addresses, &self.address) {
            let mut open = addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = open.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    open.remove(address);
                }
            }
        }
    }
}

/// What connections count as one client by: who has an IPv6 address has the /64 around it.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some descriptor.
    struct Number(i32);

    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> i32 {
            self.0
        }
    }

    fn gate(max: usize, per_address: usize) -> Rc<Gate> {
        let listen = crate::Config::default().listen;
        let settings = Settings {
            max_clients: Some(max),
            max_clients_per_address: per_address,
            threads: 1,
            ..listen
        };
        Gate::new(&Clients::new(&settings, Files::of(1024)))
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let gate = gate(2, 0);
        let one = gate.enter(&Number(9)).unwrap();
        let _two = gate.enter(&Number(9)).unwrap();
        assert_eq!(gate.enter(&Number(9)).unwrap_err(), Full::Clients);
        assert_eq!(gate.enter(&Number(9)).unwrap_err(), Full::Clients, "a refusal takes nothing");
        drop(one);
        gate.enter(&Number(9)).unwrap();
    }

    #[test]
    fn an_address_has_as_many_as_it_may_and_leaves_nothing_behind() {
        let gate = gate(100, 1);
        let claim = |text: &str| {
            let mut place = gate.enter(&Number(9)).unwrap();
            place.claim(text.parse().unwrap()).map(|()| place)
        };
        let held = [claim("192.0.2.1").unwrap(), claim("2001:db8::1").unwrap()];
        for taken in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::ffff:1"] {
            assert_eq!(claim(taken).unwrap_err(), Full::OfAddress, "{taken}");
        }
        claim("192.0.2.2").unwrap();
        claim("2001:db8:0:1::1").unwrap();
        drop(held);
        assert!(gate.0.addresses.as_ref().unwrap().open.lock().unwrap().is_empty());
        assert_eq!(gate.0.open.load(Relaxed), 0);
    }

    #[test]
    fn the_last_descriptors_are_not_for_new_clients() {
        let gate = gate(100, 0);
        assert_eq!(gate.enter(&Number(896)).unwrap_err(), Full::Files);
        gate.enter(&Number(895)).unwrap();
        assert_eq!(Files::of(1024).clients(2), (896 - 32 - 16) / 2);
        assert_eq!(Files::of(20).clients(64), 1, "however few there are");
        assert!(Files::of(usize::MAX).clients(1) > 1 << 40);
    }
}
