//! One connection to an upstream, and the slot it occupies.
//!
//! Invariants: a connection owns its permit, and the socket is closed before the permit is given
//! back. A connection that is dropped before both of its directions ended is reset (RST, zero
//! linger): a FIN would leave it open at the origin until unsent bytes had gone, while its slot was
//! already another's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::idle::Parked;
use super::pool::Pool;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::base::socket;
use crate::limit::Permit;
use crate::limit::Seat;
use crate::limit::Share;

/// The bytes' way: plain, or through TLS that narrows originates.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS with the origin inside TLS with a parent.
    Nested(Box<TlsStream<TlsStream<TcpStream>>>),
}

impl Socket {
    /// The socket below all TLS.
    fn base(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Nested(stream) => stream.get_ref().0.get_ref().0,
        }
    }

    fn base_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
            Self::Nested(stream) => stream.get_mut().0.get_mut().0,
        }
    }

    /// Whether TLS holds bytes that still have to go out.
    fn holds(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
            Self::Nested(stream) => {
                let (outer, session) = stream.get_ref();
                session.wants_write() || outer.get_ref().1.wants_write()
            }
        }
    }
}

/// An open connection to an upstream. The order of the fields is the order in which they drop.
pub(crate) struct Conn {
    link: Link,
    /// Behind the permit: whoever asked for the slot hears when it is free.
    parked: Option<Box<Parked>>,
}

/// What of a connection may be handed to another thread: all but what binds it to its own.
pub(crate) struct Link {
    socket: Socket,
    ended: bool,
    attempts: u8,
    tally: Arc<Tally>,
    story: Option<Box<Story>>,
    waited: Duration,
    permit: Permit,
}

/// Bytes that crossed a connection so far; readable while hyper owns the connection. Written by one
/// thread at a time. PERF: so reading and writing are plain moves.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    fn add(&self, sent: u64, received: u64) {
        self.set(self.sent.load(Relaxed) + sent, self.received() + received);
    }

    fn set(&self, sent: u64, received: u64) {
        self.sent.store(sent, Relaxed);
        self.received.store(received, Relaxed);
    }
}

/// What the debug log tells when a connection closes; kept only if that is written.
struct Story {
    client: SocketAddr,
    /// Of whom it was opened for.
    identity: Option<Arc<str>>,
    opened: Instant,
}

impl Conn {
    pub(crate) fn new(
        socket: Socket,
        permit: Permit,
        client: SocketAddr,
        identity: &Identity,
        address: SocketAddr,
        waited: Duration,
    ) -> Self {
        let story = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let (in_use, limit) = permit.occupancy();
            let host = permit.key().as_str();
            let name = identity.name().map(Arc::clone);
            let identity = name.as_deref();
            tracing::debug!(host, in_use, limit, %client, identity, %address, "connection opened");
            Box::new(Story { client, identity: name, opened: clock::now() })
        });
        let (ended, attempts, tally) = (false, 1, Arc::default());
        let link = Link { socket, ended, attempts, tally, story, waited, permit };
        Self { link, parked: None }
    }

    /// Takes it off this thread.
    pub(crate) fn leave(self) -> Link {
        self.link
    }

    /// Takes it over on this thread, whose reactor is to watch the socket from now on.
    pub(crate) fn adopt(mut link: Link) -> io::Result<Self> {
        let socket = link.socket.base_mut();
        let again = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        *socket = TcpStream::from_std(again)?;
        Ok(Self { link, parked: None })
    }

    pub(crate) fn seat(&self) -> Seat {
        self.link.permit.seat()
    }

    /// The same of the parent's connections to the host, if those are limited.
    pub(crate) fn bond_seat(&self) -> Option<Seat> {
        self.link.permit.bond_seat()
    }

    /// The same, when so many connections were tried until this one was there.
    pub(crate) fn after_attempts(mut self, attempts: u8) -> Self {
        self.link.attempts = attempts;
        self
    }

    pub(crate) fn attempts(&self) -> u8 {
        self.link.attempts
    }

    /// Takes out what its user may have of the host: a line is lent to one user after the other.
    pub(crate) fn take_share(&mut self) -> Option<Box<Share>> {
        self.link.permit.take_share()
    }

    /// Puts that back: nobody else will use the connection.
    pub(crate) fn set_share(&mut self, share: Option<Box<Share>>) {
        self.link.permit.set_share(share);
    }

    /// How long its slot was waited for.
    pub(crate) fn waited(&self) -> Duration {
        self.link.waited
    }

    pub(crate) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.link.tally)
    }

    /// The socket of a connection without TLS, for the relay.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match &self.link.socket {
            Socket::Plain(socket) => Some(socket),
            Socket::Tls(_) | Socket::Nested(_) => None,
        }
    }

    /// Whether nothing is on its way through the socket, as far as the system tells: nothing to
    /// read, not even an end unless that is behind us, and nothing that still has to go out.
    pub(crate) fn is_still(&self, read_end: bool) -> bool {
        !self.link.socket.holds() && socket::is_still(self.link.socket.base(), read_end)
    }

    /// The connection, a tunnel's, has been without a byte since then, and would yield to whoever
    /// waits for its host: the task of this `waker` is woken for that.
    pub(crate) fn park(&mut self, pool: &Rc<Pool>, since: Instant, waker: &Waker) {
        self.parked = Some(Box::new(Parked::new(pool, self.seat(), since, waker)));
        self.link.permit.offer();
    }

    /// Its place among those that would yield, if it has one.
    pub(crate) fn parked(&self) -> Option<&Parked> {
        self.parked.as_deref()
    }

    /// It would not yield any more.
    pub(crate) fn unpark(&mut self) {
        if let Some(parked) = self.parked.take() {
            parked.unpark();
        }
    }

    /// Says that both directions have ended in good order, so that a plain close (FIN) is right.
    pub(crate) fn end(&mut self) {
        self.link.ended = true;
    }

    /// Ends what we send (FIN), while the other direction may go on.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Socket::Nested(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    /// Says what a relay moved in all, some of it past [`AsyncWrite`] and [`AsyncRead`].
    pub(crate) fn note_moved(&mut self, sent: u64, received: u64) {
        self.link.tally.set(sent, received);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.ended {
            socket::reset_on_close(self.socket.base());
        }
        if let Some(story) = &self.story {
            let (in_use, limit) = self.permit.occupancy();
            let (in_use, client) = (in_use.saturating_sub(1), story.client);
            let identity = story.identity.as_deref();
            let host = self.permit.key().as_str();
            let (sent, received) = (self.tally.sent.load(Relaxed), self.tally.received());
            let duration = clock::now() - story.opened;
            tracing::debug!(
                host, in_use, limit, %client, identity, sent, received, ?duration,
                "connection closed"
            );
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("permit", &self.link.permit).finish_non_exhaustive()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.link.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Socket::Nested(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        };
        self.link.tally.add(0, (buf.filled().len() - before) as u64);
        read
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(match &mut self.link.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Socket::Nested(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        })?;
        self.link.tally.add(written as u64, 0);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(match &mut self.link.socket {
            Socket::Plain(stream) => socket::poll_write_pieces(stream, cx, bufs),
            Socket::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
            Socket::Nested(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        })?;
        self.link.tally.add(written as u64, 0);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.link.socket {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
            Socket::Nested(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link.socket {
            Socket::Plain(_) => Poll::Ready(Ok(())),
            Socket::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Socket::Nested(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    /// The end of what we send. hyper calls this only where a message ended as it should; the far
    /// side has nothing more to say then, so a plain close may follow.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(self.poll_finish(cx));
        self.link.ended = shut.is_ok();
        Poll::Ready(shut)
    }
}
