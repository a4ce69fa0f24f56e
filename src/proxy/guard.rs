//! One client connection: what stands between its socket and hyper.
//!
//! hyper keeps the HTTP state machine, and sees one sound message at a time: the next head only
//! when the answer to the last is out. Everything else stays here: heads that must be refused,
//! CONNECT (which hyper never sees), the client's leaving, 1xx answers, and the bytes behind a
//! message. All parts of a connection live on one thread and share it by [`Rc`].

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use super::Thread;
use super::bounds::Bounds;
use super::head;
use super::head::Connect;
use super::head::Flaw;
use super::http2;
use super::names::Names;
use crate::base::clock::Pulse;
use crate::base::framing::Framing;
use crate::base::framing::Malformed;
use crate::base::identity::Identity;
use crate::base::socket;
use crate::base::socket::with_scratch;
use crate::listen::Accepted;
use crate::listen::stream::Stream;
use crate::upstream::conn::Conn;

/// Bytes that a client may send ahead of its turn; more stay in the kernel.
const AHEAD: usize = 64 * 1024;

/// What a client connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between messages.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being answered; whoever answers it watches its time.
    Waiting,
    /// The answer's head is out, and its body follows.
    Answering,
}

/// What comes next on a client connection, where hyper has no part in it.
#[derive(Debug)]
pub(crate) enum Next {
    /// A request for hyper.
    Plain,
    Connect(Connect),
    Flaw(Flaw),
    /// The client speaks HTTP/2, as its first bytes say.
    Http2,
    /// The client has left, in the middle of a head or between messages.
    Left,
}

/// A client's connection.
pub(crate) struct Client {
    peer: SocketAddr,
    certificate: Option<Arc<str>>,
    identity: Identity,
    is_secure: bool,
    names: RefCell<Names>,
    bounds: Bounds,
    near: RefCell<Near>,
    phase: Cell<Phase>,
    pulse: Rc<Pulse>,
    /// The request is OPTIONS for the server as a whole, which hyper cannot say.
    starred: Cell<bool>,
    /// Its close is to be a reset.
    is_cut: Cell<bool>,
    /// The client has said that its request is the last.
    said_goodbye: Cell<bool>,
    switched: RefCell<Option<(Conn, Bytes)>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // A request stays without its answer; an answer's own end says whether it was cut short.
        if self.phase.get() == Phase::Waiting {
            self.cut();
        }
    }
}

/// The near end of the connection: its socket and what has been read but not passed on.
struct Near {
    stream: Option<Stream>,
    /// Bytes read; the first `cleared` of them are for hyper.
    ahead: Vec<u8>,
    cleared: usize,
    /// Nothing but first bytes have come that could become the preface of HTTP/2.
    fresh: bool,
    /// The rest of the message that hyper is reading.
    framing: Framing,
    /// What was wrong with the current message's body.
    broken: Option<Malformed>,
    /// The client's end (FIN or RST) has been read.
    has_ended: bool,
    next: Option<Next>,
    /// hyper has written all it had.
    flushed: bool,
    /// hyper's reading task, while it is kept waiting for a message that is already here.
    parked: Option<Waker>,
    /// Bytes of ours that go out before any of hyper's.
    out: Vec<u8>,
    /// hyper's part is over: its shutdown must not reach the socket.
    keep_open: bool,
}

impl Client {
    pub(crate) fn new(accepted: Accepted, bounds: Bounds) -> Rc<Self> {
        let Accepted { stream, peer, certificate } = accepted;
        // RFC 9113 §3.2: over TLS, HTTP/2 is agreed upon in the handshake or not at all.
        let fresh = matches!(stream, Stream::Plain(_));
        let near = Near {
            stream: Some(stream),
            ahead: Vec::new(),
            cleared: 0,
            fresh,
            framing: Framing::None,
            broken: None,
            has_ended: false,
            next: None,
            flushed: true,
            parked: None,
            out: Vec::new(),
            keep_open: false,
        };
        Rc::new(Self {
            peer,
            identity: match &certificate {
                Some(name) => Identity::Name(Arc::clone(name)),
                None => Identity::of_address(peer.ip()),
            },
            certificate,
            is_secure: !fresh,
            names: RefCell::default(),
            bounds,
            near: RefCell::new(near),
            phase: Cell::new(Phase::Idle),
            pulse: Rc::new(Pulse::new()),
            starred: Cell::new(false),
            is_cut: Cell::new(false),
            said_goodbye: Cell::new(false),
            switched: RefCell::new(None),
        })
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Who the client is by the certificate that it proved to have.
    pub(crate) fn certificate(&self) -> Option<&Arc<str>> {
        self.certificate.as_ref()
    }

    /// Who asks, as far as the connection itself tells.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it speaks TLS with us.
    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Notes what it may call us by, before its socket leaves for HTTP/2.
    pub(crate) fn note_names(&self) {
        if let Some(stream) = &self.near.borrow().stream {
            self.names.replace(Names::of(stream));
        }
    }

    /// Whether it may call us by this authority.
    pub(crate) fn is_called(&self, thread: &Thread, text: &str, tls: bool) -> bool {
        thread.authority(text, tls).is_ok_and(|authority| {
            let settings = &thread.settings.gateway_hosts;
            self.names.borrow().has(&authority, tls) || settings.contains(authority.host())
        })
    }

    pub(crate) fn pulse(&self) -> &Rc<Pulse> {
        &self.pulse
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether the request is `OPTIONS http://host` without a path (RFC 9112 §3.2.4).
    pub(crate) fn is_starred(&self) -> bool {
        self.starred.get()
    }

    /// What is wrong with the body of the request, if that is why it broke off.
    pub(crate) fn broken(&self) -> Option<Malformed> {
        self.near.borrow().broken
    }

    /// Whether all is said, and the client may still be sending: it has neither ended nor been cut,
    /// and no request of its stays without an answer.
    pub(crate) fn may_linger(&self) -> bool {
        let is_answered = matches!(self.phase.get(), Phase::Idle | Phase::Head);
        let near = self.near.borrow();
        // PERF: who has said all that it announced need not be waited for.
        let is_done = self.said_goodbye.get() && near.has_all();
        is_answered && !self.is_cut.get() && !near.has_ended && !is_done
    }

    /// The client has said that the request at hand is its last.
    pub(crate) fn says_goodbye(&self) {
        self.said_goodbye.set(true);
    }

    /// The answer's head goes out.
    pub(crate) fn begin_answer(&self) {
        self.phase.set(Phase::Answering);
    }

    /// The answer is complete, as far as hyper has taken it.
    pub(crate) fn end_answer(&self) {
        self.pulse.beat();
        self.phase.set(Phase::Idle);
        self.near.borrow_mut().unpark();
    }

    /// Waits for the next message, in front of hyper.
    pub(crate) async fn next(&self) -> Next {
        poll_fn(|cx| {
            let mut near = self.near.borrow_mut();
            match near.poll_message(self, cx) {
                Poll::Ready(Ok(true)) => Poll::Ready(Next::Plain),
                Poll::Ready(Ok(false)) => Poll::Ready(near.next.take().unwrap_or(Next::Left)),
                Poll::Ready(Err(_)) => Poll::Ready(Next::Left),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// What ended hyper's part, if it was not the client's leaving.
    pub(crate) fn take_next(&self) -> Option<Next> {
        self.near.borrow_mut().next.take()
    }

    /// Ready when the client has left: its FIN or RST is here, even behind bytes not read yet.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let near = &mut *self.near.borrow_mut();
        match &mut near.stream {
            Some(stream) => stream.poll_left(cx),
            None => Poll::Ready(()),
        }
    }

    /// Runs `future` for as long as the client stays.
    pub(crate) async fn unless_left<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.pulse.is_uploading() => Poll::Pending,
            Poll::Pending => self.poll_left(cx).map(|()| None),
        })
        .await
    }

    /// Writes bytes of our own while hyper has none to write: a 1xx, or the answer to a CONNECT.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut near = self.near.borrow_mut();
        near.out.extend_from_slice(bytes);
        near.write_out();
    }

    /// Waits until all bytes of our own are out.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.near.borrow_mut().poll_out(cx)).await
    }

    /// The protocol switches with the answer that goes out next (101): hyper must not close the
    /// connection, which goes on as a tunnel to `upstream`, whose bytes so far are `early`.
    pub(crate) fn switch(&self, upstream: Conn, early: Bytes) {
        self.near.borrow_mut().keep_open = true;
        self.switched.replace(Some((upstream, early)));
    }

    /// The upstream of a connection that switched protocols.
    pub(crate) fn take_switched(&self) -> Option<(Conn, Bytes)> {
        self.switched.take()
    }

    /// Makes the close a reset, for an answer that was cut short: a plain FIN would let it pass
    /// for complete where no length says otherwise.
    pub(crate) fn cut(&self) {
        self.is_cut.set(true);
        if let Some(stream) = &self.near.borrow().stream {
            socket::reset_on_close(stream.tcp());
        }
    }

    /// Takes the socket out for a relay, with the bytes that came behind the last message and
    /// those that could not be written yet.
    pub(crate) fn detach(&self) -> Option<Detached> {
        let mut near = self.near.borrow_mut();
        let stream = near.stream.take()?;
        let (early, unsent) = (std::mem::take(&mut near.ahead), std::mem::take(&mut near.out));
        Some(Detached { stream, early, unsent })
    }

    /// Closes in good order: what was written goes out, the client's own end is waited for.
    ///
    /// Closing with unread bytes would reset the connection, and the reset can overtake the
    /// answer (RFC 9112 §9.6).
    pub(crate) async fn close(&self) {
        if self.flush().await.is_err() {
            return;
        }
        let mut unread = 1024 * 1024;
        poll_fn(|cx| {
            let near = &mut *self.near.borrow_mut();
            let Some(stream) = &mut near.stream else { return Poll::Ready(()) };
            if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            loop {
                let read = with_scratch(|scratch| {
                    let mut buffer = ReadBuf::new(scratch);
                    let polled = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
                    polled.map_ok(|()| buffer.filled().len())
                });
                match ready!(read) {
                    Ok(read) if read > 0 && read <= unread => unread -= read,
                    Ok(_) | Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

/// A socket taken out of HTTP.
pub(crate) struct Detached {
    pub(crate) stream: Stream,
    /// Bytes of the client that nobody has read.
    pub(crate) early: Vec<u8>,
    /// Bytes for the client that are still to be written.
    pub(crate) unsent: Vec<u8>,
}

impl Near {
    /// Whether all that has come was read, and belonged to a request.
    fn has_all(&self) -> bool {
        let is_read = |stream: &Stream| !socket::has_more(stream.tcp());
        self.framing == Framing::None
            && self.ahead.is_empty()
            && self.stream.as_ref().is_some_and(is_read)
    }

    /// Ready with `true` when bytes are cleared for hyper, with `false` when hyper's part is over
    /// (`next` says why, if the client has not left).
    fn poll_message(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.cleared > 0 {
                return Poll::Ready(Ok(true));
            }
            if self.next.is_some() {
                return Poll::Ready(Ok(false));
            }
            if self.framing != Framing::None {
                if self.ahead.is_empty() && ready!(self.poll_fill(cx))? == 0 {
                    return Poll::Ready(Ok(false));
                }
                self.clear_body()?;
                continue;
            }
            let answering = matches!(client.phase.get(), Phase::Waiting | Phase::Answering);
            if !answering && self.flushed && !self.ahead.is_empty() {
                if self.fresh && self.ahead.starts_with(http2::PREFACE) {
                    self.next = Some(Next::Http2);
                    continue;
                }
                // What could still become the preface is a part of it.
                self.fresh &= http2::PREFACE.starts_with(&self.ahead);
                let scanned =
                    if self.fresh { Ok(None) } else { head::scan(&self.ahead, &client.bounds) };
                match scanned {
                    Ok(Some(head)) => {
                        client.pulse.beat();
                        if let Some(connect) = head.connect {
                            self.ahead.drain(..head.length);
                            self.next = Some(Next::Connect(connect));
                            self.keep_open = true;
                        } else {
                            self.cleared = head.length;
                            self.framing = head.framing;
                            client.starred.set(head.starred);
                            client.phase.set(Phase::Waiting);
                        }
                        continue;
                    }
                    Ok(None) => {
                        if client.phase.replace(Phase::Head) == Phase::Idle {
                            client.pulse.beat();
                        }
                    }
                    Err(flaw) => {
                        self.next = Some(Next::Flaw(flaw));
                        self.keep_open = true;
                        continue;
                    }
                }
            } else if !answering && !self.ahead.is_empty() {
                // A message is here, but hyper is still writing: its flush wakes us.
                self.parked = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if answering && !self.ahead.is_empty() {
                // hyper asks again only when it is woken, and no socket will do that for bytes
                // that are here already.
                self.parked = Some(cx.waker().clone());
            }
            // A head that is not whole yet has bounds of its own.
            if answering && self.ahead.len() >= AHEAD {
                return match &mut self.stream {
                    Some(stream) => stream.poll_left(cx).map(|()| Ok(false)),
                    None => Poll::Ready(Ok(false)),
                };
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }

    /// Clears what is here of the current message's body.
    ///
    /// A malformed body is an error of reading: whoever answers the request hears of it.
    fn clear_body(&mut self) -> io::Result<()> {
        let taken = self.framing.take(&self.ahead[self.cleared..]);
        let (taken, ended) = taken.map_err(|flaw| self.break_off(flaw))?;
        self.cleared += taken;
        if ended {
            self.framing = Framing::None;
        }
        Ok(())
    }

    fn break_off(&mut self, flaw: Malformed) -> io::Error {
        self.broken = Some(flaw);
        io::Error::other(flaw)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { stream: Some(stream), ahead, has_ended, .. } = self else {
            return Poll::Ready(Ok(0));
        };
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let result = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
            let read = buffer.filled();
            *has_ended |= read.is_empty();
            result?;
            ahead.extend_from_slice(read);
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Lets hyper ask for the message that it was kept waiting for.
    fn unpark(&mut self) {
        if let Some(parked) = self.parked.take() {
            parked.wake();
        }
    }

    fn write_out(&mut self) {
        if let Some(stream) = &mut self.stream {
            while !self.out.is_empty() {
                match stream.try_write(&self.out) {
                    Ok(written) => drop(self.out.drain(..written)),
                    // The next write of hyper, or the relay, tries again and sees the error.
                    Err(_) => return,
                }
            }
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let Some(stream) = &mut self.stream else { break };
            let written = ready!(Pin::new(stream).poll_write(cx, &self.out))?;
            self.out.drain(..written);
        }
        self.poll_flush(cx)
    }

    /// Sends what TLS still holds.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// What hyper reads and writes instead of the socket.
pub(crate) struct Guarded(pub(crate) Rc<Client>);

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let near = &mut *self.0.near.borrow_mut();
        // A body goes straight from the socket to hyper as long as nothing else is in the way.
        if near.cleared == 0 && near.ahead.is_empty() && near.framing != Framing::None {
            let Some(stream) = &mut near.stream else { return Poll::Ready(Ok(())) };
            let before = buf.filled().len();
            let result = ready!(Pin::new(stream).poll_read(cx, buf));
            let read = &buf.filled()[before..];
            near.has_ended |= read.is_empty();
            result?;
            let taken = near.framing.take(read);
            let (taken, ended) = taken.map_err(|flaw| near.break_off(flaw))?;
            near.ahead.extend_from_slice(&read[taken..]);
            buf.set_filled(before + taken);
            if ended {
                near.framing = Framing::None;
            }
            return Poll::Ready(Ok(()));
        }
        if ready!(near.poll_message(&self.0, cx))? {
            let passed = near.cleared.min(buf.remaining());
            buf.put_slice(&near.ahead[..passed]);
            near.cleared -= passed;
            near.ahead.drain(..passed);
            if near.ahead.is_empty() {
                // An idle connection holds no buffer.
                near.ahead = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let near = &mut *self.0.near.borrow_mut();
        near.flushed = false;
        if near.keep_open {
            // hyper will not be asked again after this head: it must not be left with a rest.
            for buf in bufs {
                near.out.extend_from_slice(buf);
            }
            near.write_out();
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        ready!(near.poll_out(cx))?;
        let Some(stream) = &mut near.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, bufs))?;
        self.0.pulse.beat();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let near = &mut *self.0.near.borrow_mut();
        ready!(near.poll_flush(cx))?;
        near.flushed = true;
        near.unpark();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let near = &mut *self.0.near.borrow_mut();
        match &mut near.stream {
            Some(stream) if !near.keep_open => Pin::new(stream).poll_shutdown(cx),
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}
