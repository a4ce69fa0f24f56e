//! What holds a slot, or a place in front of one: guards, each of which gives back what it stands for
//! when it is dropped.
//!
//! A [`Permit`] is one slot. A [`Seat`] is the host whose slot an idle connection occupies, and a
//! [`Reclaim`] asks for such a connection. A [`Waiting`] is a place among those who wait.

use std::sync::Arc;

use tokio::time::Instant;

use super::Limiter;
use super::Patience;
use super::Reason;
use super::host::Basis;
use super::host::Host;
use super::host::Ticket;
use super::host::Verdict;
use super::rules::Limit;
use crate::base::authority::HostKey;

/// The request that a thread close its longest idle connection to this host, for somebody who
/// waits. Kept until that connection's slot is free.
#[derive(Debug)]
pub(crate) struct Reclaim {
    pub(super) host: Arc<Host>,
    pub(super) limiter: Limiter,
    pub(super) thread: usize,
    pub(super) in_vain: bool,
}

impl Reclaim {
    pub(crate) fn key(&self) -> &HostKey {
        self.host.key()
    }

    /// The longest idle connection was told, and counts as idle until it closes or says no; `next`
    /// is the longest idle one beside it.
    pub(crate) fn passed_on(&self, next: Option<Instant>) {
        self.host.set_oldest(self.thread, next);
    }

    /// There is a connection, and it closes. Unless this is said, another is looked for when the
    /// request is dropped.
    pub(crate) fn granted(&mut self) {
        self.in_vain = false;
    }
}

impl Drop for Reclaim {
    fn drop(&mut self) {
        self.limiter.carry_out(&self.host, self.host.reclaimed(self.thread, self.in_vain));
    }
}

/// A place in the queue. When the future that waits is dropped, the place is left, and a slot that
/// came in the same instant is released.
pub(super) struct Waiting<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) host: &'a Arc<Host>,
    pub(super) ticket: Ticket,
    pub(super) answered: bool,
}

impl Waiting<'_> {
    pub(super) async fn verdict(mut self, patience: Patience) -> Result<(), Reason> {
        let told = match patience {
            Patience::None => (&mut self.ticket.verdict).await,
            Patience::Until(deadline) => {
                match tokio::time::timeout_at(deadline, &mut self.ticket.verdict).await {
                    Ok(told) => told,
                    Err(_elapsed) => return Err(Reason::TimedOut),
                }
            }
        };
        self.answered = true;
        match told {
            Ok(Verdict::Slot) => Ok(()),
            Ok(Verdict::Refused(reason)) => Err(reason),
            Err(_unanswered) => Err(Reason::Away),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let Self { limiter, host, ticket, .. } = self;
        limiter.carry_out(host, host.leave(&ticket.place, limiter.basis(host)));
        ticket.verdict.close();
        if ticket.verdict.try_recv() == Ok(Verdict::Slot) {
            limiter.carry_out(host, host.release(limiter.basis(host)));
        }
    }
}

/// One slot of one host, held. Dropping it frees the slot, so it is dropped after the connection's
/// socket is closed.
#[derive(Debug)]
pub struct Permit {
    pub(super) host: Arc<Host>,
    pub(super) limiter: Limiter,
    /// Given back behind the slot itself.
    pub(super) share: Option<Box<Share>>,
    /// What of the host one way to it may have; the connection's for as long as it lives.
    pub(super) bond: Option<Box<Share>>,
}

/// One of the slots of a host that its holder's identity may have. Who uses a connection holds one;
/// a connection that is kept for whoever comes next holds none.
#[derive(Debug)]
pub(crate) struct Share {
    pub(super) host: Arc<Host>,
    pub(super) limiter: Limiter,
}

impl Drop for Share {
    fn drop(&mut self) {
        let due = self.host.release(self.limiter.basis(&self.host));
        self.limiter.carry_out(&self.host, due);
    }
}

impl Permit {
    /// The host whose slot this is.
    pub fn key(&self) -> &HostKey {
        self.host.key()
    }

    /// Slots in use (in the fleet when shared) and the limit; 0 is unlimited.
    pub fn occupancy(&self) -> (u32, Limit) {
        self.host.in_use(self.limiter.is_shared())
    }

    /// Whether a connection may still be opened on it: a slot of the fleet is vouched for only as
    /// long as the lease that was renewed last.
    pub fn is_vouched(&self) -> bool {
        match self.limiter.basis(&self.host) {
            Basis::Away { leased } | Basis::Granted { leased, .. } => {
                leased || self.host.in_use(false).1 == 0
            }
            Basis::Local | Basis::Open | Basis::Share { .. } => true,
        }
    }

    /// Takes out the share of whom it was given to: for a connection that will outlive their use of it.
    pub(crate) fn take_share(&mut self) -> Option<Box<Share>> {
        self.share.take()
    }

    /// Puts it back.
    pub(crate) fn set_share(&mut self, share: Option<Box<Share>>) {
        self.share = share;
    }

    /// The connection goes by a way of which it holds this.
    pub(crate) fn bind(mut self, bond: Option<Box<Share>>) -> Self {
        self.bond = bond;
        self
    }

    /// The way's side of it, as [`Permit::seat`].
    pub(crate) fn bond_seat(&self) -> Option<Seat> {
        self.bond.as_ref().map(|bond| Seat(Arc::clone(&bond.host)))
    }

    /// The connection idles (its [`Seat`] is parked): whoever waits for its host may have it.
    pub(crate) fn offer(&self) {
        self.limiter.carry_out(&self.host, self.host.offer(self.limiter.basis(&self.host)));
    }

    /// The host's side of the permit, for whoever keeps the connection without holding it.
    pub(crate) fn seat(&self) -> Seat {
        Seat(Arc::clone(&self.host))
    }
}

/// The host whose slot an idle connection occupies. Holds no slot itself.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Host>);

impl Seat {
    /// The host, as the limit counts it.
    pub(crate) fn key(&self) -> &HostKey {
        self.0.key()
    }

    /// The connection, one of `thread`, has idled since then.
    pub(crate) fn park(&self, thread: usize, since: Instant) {
        self.0.park(thread, since);
    }

    /// The connection, which idled since then, is in use again or about to close. `next` tells the
    /// moment of the longest idle one that `thread` has left for this host.
    pub(crate) fn unpark(
        &self,
        thread: usize,
        since: Instant,
        next: impl FnOnce() -> Option<Instant>,
    ) {
        self.0.unpark(thread, since, next);
    }

    /// Whether somebody waits for this slot.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let due = self.host.release(self.limiter.basis(&self.host));
        self.limiter.carry_out(&self.host, due);
    }
}
