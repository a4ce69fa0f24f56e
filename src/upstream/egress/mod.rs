//! Where the proxy may go.
//!
//! Two questions, each answered once per dial: may this name (and port) be asked for, before
//! anything is done for it; and may this address be dialled, of each address that the one look-up
//! gave, right before it is dialled. A name that is looked up again is a new dial, so a name server
//! that changes its mind changes nothing (DNS rebinding).
//!
//! What decides, in this order: narrows' own ports, rules that deny, rules that allow, then what
//! holds without rules. Rules for hosts speak of the name that was asked for and rules for networks
//! of the address; so a rule that allows a name opens no address that is barred by itself.
//!
//! SECURITY: every connection to an upstream passes [`Egress::admit`], and no other address than
//! those that come out of it is dialled. A kept connection is used only by clients of whom it would
//! have been dialled (`PoolKey::inside`). Redis is not an upstream.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::dial::Errand;
use crate::base::authority::Host;
use crate::base::clock;
use crate::base::network;
use crate::telemetry::metrics::Barred;
use crate::telemetry::metrics::Cells;

mod rules;

pub use self::rules::BadRule;
pub use self::rules::Ports;
pub use self::rules::Rule;

/// Which addresses may be dialled, as far as no rule speaks of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// All; for clients that are not on loopback themselves not this machine, its link, and what
    /// clouds tell their machines.
    #[default]
    Any,
    /// What is globally reachable, whoever asks.
    PublicOnly,
}

/// What becomes of a destination that no rule speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// It is reached, within [`Reach`].
    #[default]
    Allow,
    /// It is not.
    Deny,
}

/// Where the proxy may go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What may be reached at all.
    pub reach: Reach,
    /// What may be reached in any case.
    pub allow: Vec<Rule>,
    /// What may not, whatever is allowed.
    pub deny: Vec<Rule>,
    /// The rest.
    pub otherwise: Otherwise,
    /// To which ports there may be tunnels.
    pub connect_ports: Vec<Ports>,
    /// Where this narrows listens; filled in once it does.
    pub own: Own,
}

/// The addresses on which narrows itself listens.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// For clients.
    pub proxy: Vec<SocketAddr>,
    /// For operators.
    pub admin: Vec<SocketAddr>,
}

/// Why a destination is not gone to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// None of its addresses may be dialled.
    #[error("this proxy does not connect to the address of this host")]
    Address,
    /// It may not be asked for.
    #[error("this proxy is set not to go to this host and port")]
    Host,
    /// It is this proxy.
    #[error("the request would come back to this proxy")]
    Loop,
    /// There are no tunnels to this port.
    #[error("this proxy is set to open no tunnel to this port")]
    Port,
}

/// The settings as one thread obeys them.
pub(crate) struct Egress {
    settings: Settings,
    cells: Arc<Cells>,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

/// The log has a line about what was denied at most this often, per thread.
const TELL: Duration = Duration::from_secs(1);

impl Egress {
    pub(crate) fn new(settings: Settings, cells: Arc<Cells>) -> Self {
        Self { settings, cells, told: Cell::new(None), untold: Cell::new(0) }
    }

    /// Whether there may be a tunnel to the port that is asked for.
    pub(crate) fn tunnel(&self, errand: Errand<'_>) -> Result<(), Denied> {
        let port = errand.authority.port_number();
        if self.settings.connect_ports.iter().any(|ports| ports.contains(port)) {
            return Ok(());
        }
        self.tell(errand, Barred::ConnectPort, None);
        Err(Denied::Port)
    }

    /// Whether the name and port may be asked for, as far as that can be told without an address.
    pub(crate) fn ask(&self, errand: Errand<'_>) -> Result<(), Denied> {
        let Settings { allow, deny, otherwise, .. } = &self.settings;
        let barred = if deny.iter().any(|rule| rule.is_for_host(errand.authority)) {
            Barred::DenyRule
        } else if *otherwise == Otherwise::Deny
            && !allow.iter().any(|rule| rule.is_of_network() || rule.is_for_host(errand.authority))
        {
            Barred::Default
        } else {
            return Ok(());
        };
        self.tell(errand, barred, None);
        Err(Denied::Host)
    }

    /// Those of the addresses that may be dialled; at least one.
    pub(crate) fn admit(
        &self,
        errand: Errand<'_>,
        mut addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        let mut why = None;
        addresses.retain(|address| {
            let barred = self.judge(errand, *address);
            why = barred.map(|barred| (barred, *address)).or(why);
            barred.is_none()
        });
        if let (true, Some((barred, address))) = (addresses.is_empty(), why) {
            self.tell(errand, barred, Some(address));
            // To others, what is here and where we listen is not told.
            let is_loop = barred == Barred::Loop && is_inside(errand.client);
            return Err(if is_loop { Denied::Loop } else { Denied::Address });
        }
        Ok(addresses)
    }

    /// The same for addresses of a parent, which the operator chose: that they are not this proxy is
    /// all that is asked. The destination's name is looked up by the parent; so of the destination it
    /// is judged what it was asked for by, as far as that says.
    pub(crate) fn admit_parent(
        &self,
        errand: Errand<'_>,
        mut addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        let Settings { allow, otherwise, own, .. } = &self.settings;
        let port = errand.authority.port_number();
        let is_local = |name: &str| name == "localhost" || name.ends_with(".localhost");
        match errand.authority.host() {
            Host::Address(address) => {
                self.admit(errand, vec![SocketAddr::new(*address, port)])?;
            }
            // RFC 6761 §6.3: whoever looks it up, it is the machine that asks.
            Host::Name(name) if is_local(name) => {
                self.admit(errand, vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)])?;
            }
            // SECURITY: a rule for a network may have let the name pass so far; nobody will see its
            // address here.
            Host::Name(_)
                if *otherwise == Otherwise::Deny
                    && !allow.iter().any(|rule| rule.is_for_host(errand.authority)) =>
            {
                self.tell(errand, Barred::Default, None);
                return Err(Denied::Host);
            }
            Host::Name(_) => {}
        }
        let is_own = |address: &SocketAddr| {
            let is_at = |face| own.proxy.iter().any(|own| answers(*own, face, address.port()));
            network::faces(address.ip()).any(is_at)
        };
        let first = addresses.first().copied();
        addresses.retain(|address| !is_own(address));
        if addresses.is_empty() && first.is_some() {
            self.tell(errand, Barred::Loop, first);
            return Err(Denied::Loop);
        }
        Ok(addresses)
    }

    fn judge(&self, errand: Errand<'_>, address: SocketAddr) -> Option<Barred> {
        let Settings { reach, allow, deny, otherwise, own, .. } = &self.settings;
        let port = address.port();
        let is_own = |all: &[SocketAddr], face| all.iter().any(|own| answers(*own, face, port));
        let allows = |face| allow.iter().any(|rule| rule.is_for_address(face, port));
        let is_listed = *otherwise == Otherwise::Allow
            || allow.iter().any(|rule| rule.is_for_host(errand.authority))
            || allows(address.ip().to_canonical());
        let inside = is_inside(errand.client);
        let judge = |face: IpAddr| {
            if is_own(&own.proxy, face) {
                return Some(Barred::Loop);
            }
            if deny.iter().any(|rule| rule.is_for_address(face, port)) {
                return Some(Barred::DenyRule);
            }
            if !is_listed {
                return Some(Barred::Default);
            }
            if allows(face) {
                return None;
            }
            let closed = *reach == Reach::PublicOnly;
            if (!inside || closed) && (network::is_local(face) || is_own(&own.admin, face)) {
                return Some(Barred::Local);
            }
            (closed && !network::is_global(face)).then_some(Barred::NotPublic)
        };
        network::faces(address.ip()).find_map(judge)
    }

    /// Counts a denial, and logs it unless another was logged just now.
    fn tell(&self, errand: Errand<'_>, barred: Barred, address: Option<SocketAddr>) {
        self.cells.barred(barred);
        self.untold.set(self.untold.get() + 1);
        let now = clock::now();
        if self.told.get().is_none_or(|told| now - told >= TELL) {
            self.told.set(Some(now));
            tracing::warn!(
                host = errand.authority.key().as_str(),
                port = errand.authority.port_number(),
                address = address.map(tracing::field::display),
                client = %errand.client,
                rule = barred.as_str(),
                count = self.untold.take(),
                "egress denied"
            );
        }
    }
}

/// Whether a client is on this machine, by loopback: then it reaches what is here without us.
pub(crate) fn is_inside(client: SocketAddr) -> bool {
    client.ip().to_canonical().is_loopback()
}

/// Whether what listens at `own` would get a connection to `address` (canonical) and `port`.
fn answers(own: SocketAddr, address: IpAddr, port: u16) -> bool {
    if own.port() != port {
        return false;
    }
    let at = own.ip().to_canonical();
    // A socket of IPv6 that listens everywhere takes IPv4 too.
    let everywhere = at.is_unspecified() && (at.is_ipv6() || address.is_ipv4());
    // Connecting to nowhere in particular is connecting to oneself.
    at == address
        || (address.is_unspecified() && (at.is_unspecified() || at.is_loopback()))
        || (everywhere && is_here(address))
}

/// Whether an address is one of this machine: one can bind to no other.
fn is_here(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_unspecified() {
        return true;
    }
    let documentation = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    match UdpSocket::bind((address, 0)) {
        // Where the system lets one bind to any address (net.ipv4.ip_nonlocal_bind), the way to
        // oneself is what begins where it ends. No packet is sent.
        Ok(socket) if UdpSocket::bind((documentation, 0)).is_ok() => {
            drop(socket);
            let anywhere = SocketAddr::new(if address.is_ipv4() { V4 } else { V6 }, 0);
            let way = UdpSocket::bind(anywhere).and_then(|socket| {
                socket.connect((address, 9))?;
                socket.local_addr()
            });
            way.map_or(true, |from| from.ip() == address)
        }
        Ok(_) => true,
        // SECURITY: no descriptor left, say: better refused than gone round in circles.
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

#[cfg(test)]
mod tests;
