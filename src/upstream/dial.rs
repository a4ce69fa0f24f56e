//! The one place that opens connections.
//!
//! Invariant: a socket exists only beside its permit, from before the look-up to after the close.
//! Dropping a dial at any point closes what it had opened, then frees the slots.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::Bounds;
use super::Settings;
use super::conn::Conn;
use super::conn::Socket;
use super::egress::Denied;
use super::egress::Egress;
use super::parent;
use super::parent::ParentError;
use super::resolve::Lookup;
use super::resolve::ResolveError;
use super::tls::Tls;
use super::tls::TlsError;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit::Limiter;
use crate::limit::Patience;
use crate::limit::Permit;
use crate::limit::Reason;
use crate::limit::Refused;
use crate::limit::Share;
use crate::policy::Cause;
use crate::policy::End;
use crate::policy::parents::Hop;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Cells;
use crate::telemetry::metrics::DialResult;

/// How long an attempt is alone before the next address is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// It is not gone to.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// No slot.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No address could be connected to; what the last one said.
    #[error("{address}: {source}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No address answered in time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS did not come about in time.
    #[error("no TLS within {0:?}")]
    TlsTimedOut(Duration),
    /// The parent does not lead there.
    #[error(transparent)]
    Parent(#[from] ParentError),
}

impl DialError {
    /// How long a slot was waited for in vain.
    pub(crate) fn waited(&self) -> Duration {
        match self {
            Self::Refused(refused) => refused.waited,
            Self::Connect { .. }
            | Self::Denied(_)
            | Self::Parent(_)
            | Self::Resolve(_)
            | Self::TimedOut(_)
            | Self::Tls(_)
            | Self::TlsTimedOut(_) => Duration::ZERO,
        }
    }

    /// What this says about the upstream.
    pub(crate) fn end(&self) -> End {
        End::Failed(match self {
            Self::Denied(_) | Self::Refused(_) => return End::Neutral,
            Self::Resolve(ResolveError::Failed(_)) => Cause::Dns,
            Self::Resolve(ResolveError::TimedOut(_)) | Self::TimedOut(_) | Self::TlsTimedOut(_) => {
                Cause::Timeout
            }
            Self::Tls(_) => Cause::Tls,
            // 504 is a gateway's word for the same (RFC 9110 §15.6.5).
            Self::Parent(ParentError::TimedOut(_) | ParentError::Status(504)) => Cause::Timeout,
            Self::Connect { .. } | Self::Parent(ParentError::Status(_)) => Cause::Refused,
            Self::Parent(ParentError::Closed | ParentError::Fault(_)) => Cause::Reset,
        })
    }

    fn result(&self) -> Option<DialResult> {
        Some(match self {
            Self::Refused(_) | Self::Denied(Denied::Host | Denied::Port) => return None,
            Self::Denied(Denied::Address | Denied::Loop) => DialResult::Prohibited,
            Self::Resolve(ResolveError::Failed(_)) => DialResult::DnsError,
            Self::Resolve(ResolveError::TimedOut(_)) => DialResult::DnsTimeout,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                DialResult::Refused
            }
            Self::Connect { .. } => DialResult::Unreachable,
            Self::Parent(ParentError::TimedOut(_)) | Self::TimedOut(_) | Self::TlsTimedOut(_) => {
                DialResult::Timeout
            }
            Self::Parent(_) => DialResult::Refused,
            Self::Tls(_) => DialResult::Tls,
        })
    }

    /// The bound that was met, if it was one.
    fn bound(&self) -> Option<Bound> {
        match self {
            Self::Resolve(ResolveError::TimedOut(_)) => Some(Bound::DnsTime),
            Self::Parent(ParentError::TimedOut(_)) | Self::TimedOut(_) => Some(Bound::ConnectTime),
            Self::Parent(ParentError::Fault(fault)) => fault.bound(),
            Self::TlsTimedOut(_) => Some(Bound::TlsTime),
            Self::Connect { .. }
            | Self::Denied(_)
            | Self::Parent(ParentError::Closed | ParentError::Status(_))
            | Self::Refused(_)
            | Self::Resolve(ResolveError::Failed(_))
            | Self::Tls(_) => None,
        }
    }
}

/// Opens connections for one thread.
pub(crate) struct Dialer {
    limiter: Limiter,
    lookup: Lookup,
    egress: Egress,
    tls: Tls,
    connect_timeout: Duration,
    bounds: Bounds,
    cells: Arc<Cells>,
}

/// What a dial is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) tls: bool,
    pub(crate) patience: Patience,
    pub(crate) client: SocketAddr,
    /// Who asks, for the limits.
    pub(crate) identity: &'a Identity,
    /// By which parent; none is directly.
    pub(crate) parent: Option<Hop<'a>>,
    /// How long it may take from the slot to an open connection, and then to the head of a
    /// response; none leaves that to the settings.
    pub(crate) request_timeout: Option<Duration>,
}

impl Dialer {
    pub(crate) fn new(
        limiter: Limiter,
        tls: Tls,
        settings: &Settings,
        cells: Arc<Cells>,
    ) -> io::Result<Self> {
        let pinned = settings.pinned.clone();
        let lookup = Lookup::new(&settings.resolver, pinned, settings.dns_timeout)?;
        let egress = Egress::new(settings.egress.clone(), Arc::clone(&cells));
        let (connect_timeout, bounds) = (settings.connect_timeout, settings.bounds);
        Ok(Self { limiter, lookup, egress, tls, connect_timeout, bounds, cells })
    }

    /// Whether a tunnel may be asked for.
    pub(crate) fn tunnel(&self, errand: Errand<'_>) -> Result<(), DialError> {
        Ok(self.egress.tunnel(errand)?)
    }

    /// Takes a slot, finds the addresses, connects to one of them, puts TLS on it if asked.
    pub(crate) async fn connect(&self, errand: Errand<'_>) -> Result<Conn, DialError> {
        let asked = clock::now();
        let share = self.share(errand).await?;
        self.connect_with(share, errand, asked).await
    }

    /// Whether anybody may have to have a share.
    pub(crate) fn has_shares(&self) -> bool {
        self.limiter.has_shares()
    }

    /// What whoever asks may have of the host, if that is limited: to be taken first.
    pub(crate) async fn share(&self, errand: Errand<'_>) -> Result<Option<Box<Share>>, DialError> {
        // Before anything is waited for.
        self.egress.ask(errand)?;
        let key = errand.authority.key();
        Ok(self.limiter.share(key, errand.patience, errand.identity).await?)
    }

    /// The same as [`Dialer::connect`] for who has a share, and has waited since `asked`.
    pub(crate) async fn connect_with(
        &self,
        share: Option<Box<Share>>,
        errand: Errand<'_>,
        asked: Instant,
    ) -> Result<Conn, DialError> {
        // SECURITY: again, so that no way to here goes around it.
        self.egress.ask(errand)?;
        let Errand { authority, patience, identity, .. } = errand;
        let bond = match errand.parent.and_then(Hop::bond) {
            Some(way) => {
                let bond = self.limiter.bond(authority.key(), way, patience, identity);
                Some(bond.await?)
            }
            None => None,
        };
        let permit = self.limiter.acquire_with(share, authority.key(), patience, identity).await?;
        let permit = permit.bind(bond);
        let started = clock::now();
        let mut left = Unfinished { cells: &self.cells, started, done: false };
        let opened = std::pin::pin!(self.open(errand, permit, started - asked));
        let result = match errand.request_timeout {
            None => opened.await,
            Some(timeout) => match tokio::time::timeout(timeout, opened).await {
                Ok(result) => result,
                Err(_elapsed) => Err(DialError::TimedOut(timeout)),
            },
        };
        left.done = true;
        let told = result.as_ref().map_or_else(DialError::result, |_| Some(DialResult::Ok));
        if let Some(told) = told {
            self.cells.dialled(told, clock::now() - started);
        }
        if let Err(error) = &result {
            let host = errand.authority.key().as_str();
            tracing::debug!(host, client = %errand.client, %error, "connection failed");
        }
        if let Some(bound) = result.as_ref().err().and_then(DialError::bound) {
            self.cells.bounded(bound);
        }
        result
    }

    async fn open(
        &self,
        errand: Errand<'_>,
        permit: Permit,
        waited: Duration,
    ) -> Result<Conn, DialError> {
        let parent = errand.parent.map(|hop| &hop.parent.authority);
        let mut found = self.lookup.addresses(parent.unwrap_or(errand.authority)).await?;
        if found.len() > self.bounds.addresses {
            self.cells.bounded(Bound::DnsAddresses);
            found.truncate(self.bounds.addresses);
        }
        // SECURITY: from here on nothing is looked up; what is judged is what is dialled.
        let addresses = if parent.is_some() {
            self.egress.admit_parent(errand, found)?
        } else {
            self.egress.admit(errand, found)?
        };
        let timeout = self.connect_timeout;
        let tried = Cell::new(1);
        let (stream, permit, address) = if let [address] = addresses[..] {
            let attempt = self.attempt(address, permit, timeout);
            attempt.await.map_err(|(error, _permit)| error)?
        } else {
            let race = self.race(addresses, permit, errand.identity, &tried);
            match tokio::time::timeout(timeout, race).await {
                Ok(connected) => connected?,
                Err(_elapsed) => return Err(DialError::TimedOut(timeout)),
            }
        };
        let socket = if let Some(hop) = errand.parent {
            // PERF: boxed, so that a dial without a parent does not carry the room for it.
            Box::pin(self.through(hop, errand, stream)).await?
        } else if errand.tls {
            Socket::Tls(Box::new(self.secure(errand.authority, stream).await?))
        } else {
            Socket::Plain(stream)
        };
        let conn = Conn::new(socket, permit, errand.client, errand.identity, address, waited);
        Ok(conn.after_attempts(tried.get()))
    }

    /// From an open connection to a parent to one on which the destination can be spoken to.
    async fn through(
        &self,
        hop: Hop<'_>,
        errand: Errand<'_>,
        stream: TcpStream,
    ) -> Result<Socket, DialError> {
        let near = if hop.parent.tls {
            Socket::Tls(Box::new(self.secure(&hop.parent.authority, stream).await?))
        } else {
            Socket::Plain(stream)
        };
        hop.reached();
        if !errand.tls && !hop.tunnel {
            return Ok(near);
        }
        let timeout = self.connect_timeout;
        let asked = parent::ask(hop.parent, errand.authority, near, self.bounds.responses);
        let far = match tokio::time::timeout(timeout, asked).await {
            Ok(far) => far,
            Err(_elapsed) => Err(ParentError::TimedOut(timeout)),
        };
        match &far {
            Err(ParentError::Status(status)) => hop.answered(*status),
            Err(ParentError::Closed | ParentError::Fault(_)) => hop.failed(),
            // The destination may be what it waits for.
            Ok(_) | Err(ParentError::TimedOut(_)) => {}
        }
        let far = far?;
        if !errand.tls {
            return Ok(far);
        }
        Ok(match far {
            Socket::Plain(stream) => {
                Socket::Tls(Box::new(self.secure(errand.authority, stream).await?))
            }
            Socket::Tls(stream) => {
                Socket::Nested(Box::new(self.secure(errand.authority, *stream).await?))
            }
            Socket::Nested(_) => far,
        })
    }

    /// Puts TLS on a way to this authority.
    async fn secure<S>(&self, to: &Authority, stream: S) -> Result<TlsStream<S>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let timeout = self.bounds.tls_timeout;
        match tokio::time::timeout(timeout, self.tls.handshake(to.host(), stream)).await {
            Ok(stream) => Ok(stream?),
            Err(_elapsed) => Err(DialError::TlsTimedOut(timeout)),
        }
    }

    /// Tries the addresses in order, the next one beside the last after [`ATTEMPT_DELAY`] if a
    /// further slot is free without waiting, else only once a socket is closed and its slot free.
    async fn race(
        &self,
        addresses: Vec<SocketAddr>,
        permit: Permit,
        identity: &Identity,
        tried: &Cell<u8>,
    ) -> Result<(TcpStream, Permit, SocketAddr), DialError> {
        let key = permit.key().clone();
        // What a way may have is one connection's.
        let is_bound = permit.bond_seat().is_some();
        // Where there is no second slot, an address that does not answer must not use up the time
        // of the next.
        let part = self.connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let total = addresses.len();
        let mut untried = VecDeque::from(addresses);
        let mut attempts = FuturesUnordered::new();
        let mut spare = Some(permit);
        let mut failed = None;
        loop {
            if let (Some(next), Some(permit)) = (untried.front().copied(), spare.take()) {
                untried.pop_front();
                tried.set(u8::try_from(total - untried.len()).unwrap_or(u8::MAX));
                let time = if untried.is_empty() { self.connect_timeout } else { part };
                attempts.push(self.attempt(next, permit, time));
            }
            let another = async {
                if untried.is_empty() || is_bound {
                    return std::future::pending().await;
                }
                tokio::time::sleep(ATTEMPT_DELAY).await;
                match self.limiter.acquire_as(&key, Patience::None, identity).await {
                    Ok(permit) => permit,
                    Err(_full) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ended = attempts.next() => match ended {
                    Some(Ok(connected)) => return Ok(connected),
                    Some(Err((error, permit))) => {
                        failed = Some(error);
                        spare = Some(permit);
                    }
                    None => break,
                },
                permit = another => spare = Some(permit),
            }
        }
        Err(failed.unwrap_or_else(|| ResolveError::Failed("no address to try".to_owned()).into()))
    }

    /// One address. The permit comes back with a failure, once the socket is closed.
    async fn attempt(
        &self,
        address: SocketAddr,
        permit: Permit,
        time: Duration,
    ) -> Result<(TcpStream, Permit, SocketAddr), (DialError, Permit)> {
        if !permit.is_vouched() {
            let (in_use, limit) = permit.occupancy();
            let host = permit.key().clone();
            let reason = Reason::Away;
            let (waited, identity) = (Duration::ZERO, None);
            let refused = Refused { host, reason, in_use, limit, waited, identity };
            return Err((refused.into(), permit));
        }
        match tokio::time::timeout(time, connect(address)).await {
            Ok(Ok(stream)) => Ok((stream, permit, address)),
            Ok(Err(source)) => Err((DialError::Connect { address, source }, permit)),
            Err(_elapsed) => Err((DialError::TimedOut(time), permit)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that connects")]
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Counts a dial that was dropped before it ended.
struct Unfinished<'a> {
    cells: &'a Cells,
    started: Instant,
    done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.cells.dialled(DialResult::Cancelled, clock::now() - self.started);
        }
    }
}
