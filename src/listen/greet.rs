//! What stands before HTTP on a connection: its place, the balancer's header, TLS.
//!
//! A connection without header and TLS is through at once. For the others there is
//! [`Entrant::greet`], which waits for the client; how long it may is up to the caller, who bounds it
//! with [`Greeter::timeout`].

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Accepted;
use super::Listener;
use super::Settings;
use super::accept::Arrival;
use super::bounds::Clients;
use super::bounds::Full;
use super::bounds::Gate;
use super::certificate;
use super::proxy_protocol;
use super::stream::Stream;
use super::stream::Watched;
use super::tls::Tls;

/// The first byte of a client that speaks TLS: a record of its handshake (RFC 8446 §5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// As much of a balancer's header as is looked at in one go; most are shorter.
const PIECE: usize = 256;

/// How one thread takes connections in.
pub(crate) struct Greeter {
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    balancers: Vec<IpNet>,
    gate: Rc<Gate>,
    timeout: Duration,
}

/// What is to be done with a connection.
pub(crate) enum Entry {
    /// Nobody is to be let in; who speaks plain HTTP can be told.
    Full(Full, Option<Accepted>),
    /// It is to be served.
    Ready(Accepted),
    /// It is to be greeted first.
    Strange(Entrant),
}

/// A connection that has to say something before HTTP.
pub(crate) struct Entrant {
    socket: Watched,
    peer: SocketAddr,
    is_proxied: bool,
    tls: Option<Arc<Tls>>,
}

/// Why a connection does not get as far as HTTP.
#[derive(Debug, Error)]
pub(crate) enum Unfit {
    /// Plain HTTP to a listener for TLS: what it is, to be told in the clear.
    #[error("plain HTTP where TLS is spoken")]
    ClearText(Accepted),
    /// There is no room for it; who speaks plain HTTP can be told.
    #[error("no room for another client from its address")]
    Full(Full, Option<Accepted>),
    /// It ended, or its header is none.
    #[error("{0}")]
    Header(io::Error),
    /// TLS failed.
    #[error("{0}")]
    Tls(io::Error),
}

impl Greeter {
    pub(crate) fn new(
        settings: &Settings,
        listeners: &[Listener],
        tls: Option<&Arc<Tls>>,
        clients: &Arc<Clients>,
    ) -> Self {
        Self {
            listeners: listeners.to_vec(),
            tls: tls.map(Arc::clone),
            balancers: settings.proxy_protocol_from.clone(),
            gate: Gate::new(clients),
            timeout: settings.handshake_timeout,
        }
    }

    /// How long a greeting may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Gives a connection its place, if there is one.
    pub(crate) fn enter(&self, arrival: Arrival) -> Entry {
        let Arrival { tcp, peer, listener } = arrival;
        let is_proxied = self.is_balancer(peer.ip());
        let is_tls = self.listeners.get(listener).is_some_and(|listener| listener.tls);
        let tls = self.tls.as_ref().filter(|_| is_tls).map(Arc::clone);
        let place = self.gate.enter(&tcp).and_then(|mut place| {
            if !is_proxied {
                place.claim(peer.ip())?;
            }
            Ok(place)
        });
        match (place, is_proxied || is_tls) {
            (Ok(place), false) => {
                Entry::Ready(Accepted::plain(Watched::new(tcp, Some(place)), peer))
            }
            (Ok(place), true) => {
                let socket = Watched::new(tcp, Some(place));
                Entry::Strange(Entrant { socket, peer, is_proxied, tls })
            }
            (Err(full), is_strange) => {
                let plain = (!is_strange && full != Full::Files)
                    .then(|| Accepted::plain(Watched::new(tcp, None), peer));
                Entry::Full(full, plain)
            }
        }
    }

    fn is_balancer(&self, address: IpAddr) -> bool {
        // PERF: most have none.
        !self.balancers.is_empty() && {
            let address = address.to_canonical();
            self.balancers.iter().any(|network| network.contains(&address))
        }
    }
}

impl Entrant {
    /// Whom the system calls its peer.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Hears what comes before HTTP.
    pub(crate) async fn greet(self) -> Result<Accepted, Unfit> {
        let Self { mut socket, mut peer, is_proxied, tls } = self;
        if is_proxied {
            peer = header(socket.tcp()).await.map_err(Unfit::Header)?.unwrap_or(peer);
            if let Err(full) = socket.claim(peer.ip()) {
                let plain = tls.is_none().then(|| Accepted::plain(socket, peer));
                return Err(Unfit::Full(full, plain));
            }
        }
        let Some(tls) = tls else { return Ok(Accepted::plain(socket, peer)) };
        let mut first = [0; 1];
        if socket.tcp().peek(&mut first).await.map_err(Unfit::Tls)? == 0 {
            return Err(Unfit::Tls(io::ErrorKind::UnexpectedEof.into()));
        }
        if first != [TLS_HANDSHAKE] {
            return Err(Unfit::ClearText(Accepted::plain(socket, peer)));
        }
        let stream = TlsAcceptor::from(tls.current()).accept(socket).await.map_err(Unfit::Tls)?;
        let stream = Stream::Tls(Box::new(stream));
        let chain = stream.certificates();
        let certificate = chain.and_then(|chain| certificate::name(chain.first()?));
        Ok(Accepted { stream, peer, certificate })
    }
}

/// Takes the balancer's header from the socket, and no byte behind it; the client's address.
async fn header(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        bytes.resize(before + PIECE, 0);
        let seen = tcp.peek(&mut bytes[before..]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(before + seen);
        let found = proxy_protocol::parse(&bytes).map_err(io::Error::other)?;
        // A part of a header is taken too, or the same bytes would be there to see for ever.
        let end = found.map_or(bytes.len(), |(length, _)| length);
        take(tcp, &mut bytes[before..end])?;
        if let Some((_, source)) = found {
            return Ok(source);
        }
    }
}

/// Takes bytes that are known to be there.
fn take(tcp: &TcpStream, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match tcp.try_read(bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => bytes = &mut bytes[taken..],
        }
    }
    Ok(())
}
