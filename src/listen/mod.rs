//! Where clients come in: listening sockets, and all that stands between them and a stream of HTTP.
//!
//! [`accept`] takes connections, [`bounds`] says whether there is room for them, [`greet`] reads
//! what a balancer says in front ([`proxy_protocol`]) and ends TLS ([`tls`], [`certificate`]). What
//! comes out is an [`Accepted`]. Nothing here knows HTTP, or answers a client.

pub(crate) mod accept;
pub(crate) mod bounds;
pub(crate) mod certificate;
pub(crate) mod drain;
pub(crate) mod greet;
pub(crate) mod proxy_protocol;
pub(crate) mod stream;
pub mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;

use self::stream::Stream;
use self::stream::Watched;

/// Where clients come in, and how many.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address, if `listeners` has none; port 0 picks a free one. With `tls` it is for TLS alone.
    pub address: SocketAddr,
    /// All the addresses, if there are any.
    pub listeners: Vec<Listener>,
    /// Threads that serve, each with listening sockets and a pool of its own; at least 1.
    pub threads: usize,
    /// The certificate of listeners that are for TLS.
    pub tls: Option<tls::Settings>,
    /// Balancers: their connections begin with a PROXY header, which says whose they are.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long a client may take for TLS, and a balancer for its header before it.
    pub handshake_timeout: Duration,
    /// Connections of clients at once; none is as many as open files allow.
    pub max_clients: Option<usize>,
    /// Connections at once from one address (IPv6: one /64); 0 is as many as there may be in all.
    pub max_clients_per_address: usize,
}

/// One place to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// Whether clients speak TLS there.
    pub tls: bool,
}

/// As the ready line has it; without TLS, the address alone.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

impl Settings {
    /// All places to come in.
    pub fn all(&self) -> Vec<Listener> {
        if self.listeners.is_empty() {
            vec![Listener { address: self.address, tls: self.tls.is_some() }]
        } else {
            self.listeners.clone()
        }
    }
}

/// A client that has come in.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// The client's own address, whoever passed its connection on.
    pub(crate) peer: SocketAddr,
    /// Who the client is by the certificate that it proved to have.
    pub(crate) certificate: Option<Arc<str>>,
}

impl Accepted {
    pub(crate) fn plain(socket: Watched, peer: SocketAddr) -> Self {
        Self { stream: Stream::Plain(socket), peer, certificate: None }
    }
}

/// Connections that may wait to be accepted, per thread; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// When a client that says nothing is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Listeners with the ports they got, and for each thread one socket of each of them.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) sockets: Vec<Vec<TcpListener>>,
}

/// Binds one listening socket per thread and listener; errs with the address that cannot be had.
pub(crate) fn bind(settings: &Settings) -> Result<Bound, (SocketAddr, io::Error)> {
    let threads = settings.threads.max(1);
    let mut listeners = Vec::new();
    let mut sockets: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
    for Listener { address, tls } in settings.all() {
        let (bound, ones) = bind_all(address, threads).map_err(|error| (address, error))?;
        listeners.push(Listener { address: bound, tls });
        sockets.iter_mut().zip(ones).for_each(|(thread, one)| thread.push(one));
    }
    Ok(Bound { listeners, sockets })
}

/// `SO_REUSEPORT` would let a second process of the same user share a port silently, so the port is
/// bound once without it first.
fn bind_all(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if address.port() != 0 {
        drop(TcpListener::bind(address)?);
    }
    let first = bind_one(address)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(bind_one(address)?);
    }
    Ok((address, all))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // PERF: accepted sockets inherit these, which saves a call for each on every connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: SocketAddr, threads: usize) -> Settings {
        let listen = crate::Config::default().listen;
        Settings { address, threads, ..listen }
    }

    #[test]
    fn a_port_in_use_is_an_error_although_it_could_be_shared() {
        let bound = bind(&settings("127.0.0.1:0".parse().unwrap(), 2)).unwrap();
        assert_eq!((bound.sockets.len(), bound.sockets[0].len()), (2, 1));
        let taken = bound.listeners[0].address;
        let (address, again) = bind(&settings(taken, 1)).unwrap_err();
        assert_eq!((address, again.kind()), (taken, io::ErrorKind::AddrInUse));
    }
}
