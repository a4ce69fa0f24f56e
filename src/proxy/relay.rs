//! Copies a tunnel's bytes, both ways, until both directions have ended.
//!
//! Each direction ends on its own: a FIN goes on as a FIN while the other direction lives. A reset,
//! a failure or a silence too long resets both sides; so does a shorter silence where that is set
//! and somebody waits for the slot, unless a last look finds a byte on its way. A direction that waits holds no buffer:
//! bytes are read into the thread's own, and kept only where the other side cannot take them. Once
//! a direction has moved much it goes by splice(2), through pipes that are lent for as long as it
//! has something to move.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use rustix::pipe::SpliceFlags;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Thread;
use super::guard::Detached;
use crate::base::clock;
use crate::base::clock::Alarm;
use crate::base::clock::Pulse;
use crate::base::socket;
use crate::base::socket::with_scratch;
use crate::listen::stream::Stream;
use crate::upstream::conn::Conn;

/// Bytes that a direction moves by copying before it goes by splice. PERF: splice costs a small
/// exchange a quarter more CPU and saves a stream half of it.
const SPLICE_AFTER: u64 = 256 * 1024;
/// A splice that moves less than this is worse than a copy.
const SPLICE_WORTH: usize = 16 * 1024;
/// How many such splices in a row send a direction back to copying.
const SPLICE_PATIENCE: u8 = 8;
/// The size asked of the kernel for a pipe.
const PIPE_SIZE: usize = 1024 * 1024;
/// Pipes that a thread keeps.
const PIPES: usize = 32;
/// How often a side that has ended is looked at: its reset raises no event then.
const ENDED_LOOK: Duration = Duration::from_millis(250);

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both directions ended in good order.
    Complete,
    /// The client reset it.
    Client,
    /// The upstream reset it.
    Upstream,
    /// No byte for too long.
    Silent,
    /// No byte for long, and somebody else waited for its slot.
    Yielded,
}

/// What a tunnel moved, and how it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) end: End,
}

/// One side of a tunnel.
pub(crate) trait Side: AsyncWrite + Unpin {
    fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    /// Ends what goes to this side (FIN).
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
    /// The socket, where bytes may be spliced past us.
    fn socket(&self) -> Option<&TcpStream>;
}

/// The client's side of a tunnel. Unless it is told that the tunnel is complete, dropping it is a
/// reset.
pub(crate) trait Near: Side {
    /// Whether the client has reset it, for a side that has ended: nothing else would tell.
    fn has_failed(&mut self, cx: &mut Context<'_>) -> bool;

    /// Whether the client has reset it while nobody reads from it; a socket's reader hears of that.
    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Whether no byte is on its way through it, not even one that nobody has heard of yet;
    /// `read_end` is whether its end has been.
    fn is_still(&mut self, cx: &mut Context<'_>, read_end: bool) -> bool;

    /// The tunnel ended so.
    fn finish(&mut self, end: End);
}

/// Reset when it is dropped before the tunnel has ended, as a [`Conn`] is.
struct ClientSide {
    stream: Stream,
    ended: bool,
}

impl Drop for ClientSide {
    fn drop(&mut self) {
        if !self.ended {
            socket::reset_on_close(self.stream.tcp());
        }
    }
}

impl Side for ClientSide {
    fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.stream.plain()
    }
}

impl Near for ClientSide {
    fn has_failed(&mut self, _cx: &mut Context<'_>) -> bool {
        socket::has_failed(self.stream.tcp())
    }

    fn is_still(&mut self, _cx: &mut Context<'_>, read_end: bool) -> bool {
        self.stream.is_still(read_end)
    }

    fn finish(&mut self, end: End) {
        self.ended = end == End::Complete;
    }
}

impl AsyncWrite for ClientSide {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Side for Conn {
    fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_read(cx, buf)
    }

    /// Not a shutdown: that would say that the connection has ended in good order.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.tcp()
    }
}

/// A failure, and whose it was.
enum Broken {
    Reading,
    Writing,
}

fn reading(_why: io::Error) -> Broken {
    Broken::Reading
}

fn writing(_why: io::Error) -> Broken {
    Broken::Writing
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Bytes that the far side could not take yet.
    held: Vec<u8>,
    moved: u64,
    copied: u64,
    small: u8,
    pipe: Option<Pipe>,
    /// TLS on the far side may hold bytes that it was given.
    unsent: bool,
    read_end: bool,
    ended: bool,
}

impl Direction {
    /// Moves what can be moved; ready when the direction has ended.
    fn poll<A: Side, B: Side>(
        &mut self,
        from: &mut A,
        to: &mut B,
        pulse: &Pulse,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.held.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held));
                let written = written.map_err(writing)?;
                pulse.beat();
                self.held.drain(..written);
                self.unsent = true;
                if self.held.is_empty() {
                    self.held = Vec::new();
                }
            }
            if self.unsent {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(writing)?;
                self.unsent = false;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.read_end {
                ready!(to.poll_end(cx)).map_err(writing)?;
                self.ended = true;
                continue;
            }
            if self.copied >= SPLICE_AFTER
                && let (Some(source), Some(sink)) = (from.socket(), to.socket())
            {
                ready!(self.poll_splice(source, sink, pulse, cx))?;
                continue;
            }
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(from.poll_take(cx, &mut buffer)).map_err(reading)?;
                let bytes = buffer.filled();
                let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
                    _ if bytes.is_empty() => 0,
                    Poll::Ready(written) => written.map_err(writing)?,
                    Poll::Pending => 0,
                };
                self.held.extend_from_slice(&bytes[written..]);
                Poll::Ready(Ok(bytes.len()))
            });
            match ready!(read)? {
                0 => self.read_end = true,
                read => {
                    pulse.beat();
                    self.moved += read as u64;
                    self.copied += read as u64;
                    // TLS keeps what it was given until it is told to send it.
                    self.unsent = to.socket().is_none();
                }
            }
        }
    }

    fn return_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }

    /// Moves bytes through a pipe until there are none, or splicing is not worth it.
    fn poll_splice(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        pulse: &Pulse,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.pipe.is_none() {
            ready!(from.poll_read_ready(cx)).map_err(reading)?;
            let Ok(pipe) = Pipe::lend() else {
                // No descriptors left: copying needs none.
                self.copied = 0;
                return Poll::Ready(Ok(()));
            };
            self.pipe = Some(pipe);
        }
        loop {
            let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
            while pipe.filled > 0 {
                ready!(to.poll_write_ready(cx)).map_err(writing)?;
                match to.try_io(Interest::WRITABLE, || pipe.drain_to(to)) {
                    Ok(_) => pulse.beat(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Broken::Writing)),
                }
            }
            match from.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(reading)?,
                Poll::Pending => {
                    // Nothing to move: another tunnel may want the pipe.
                    self.return_pipe();
                    return Poll::Pending;
                }
            }
            match from.try_io(Interest::READABLE, || pipe.fill_from(from)) {
                Ok(0) => {
                    self.read_end = true;
                    self.return_pipe();
                    return Poll::Ready(Ok(()));
                }
                Ok(read) => {
                    self.moved += read as u64;
                    self.small = if read < SPLICE_WORTH { self.small + 1 } else { 0 };
                    if self.small > SPLICE_PATIENCE {
                        self.small = 0;
                        self.copied = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Broken::Reading)),
            }
            if self.copied < SPLICE_AFTER && self.pipe.as_ref().is_some_and(|pipe| pipe.filled == 0)
            {
                self.return_pipe();
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// A pipe that a direction splices through.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled: usize,
}

thread_local! {
    static SPARE_PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    fn lend() -> io::Result<Self> {
        if let Some(pipe) = SPARE_PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Past a user's share of pipe pages the kernel says no: the pipe stays small, and works.
        let _small = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_SIZE);
        Ok(Self { reader, writer, filled: 0 })
    }

    /// Keeps an empty pipe for the next; one with bytes of a dead tunnel in it is closed.
    fn give_back(self) {
        SPARE_PIPES.with_borrow_mut(|spare| {
            if self.filled == 0 && spare.len() < PIPES {
                spare.push(self);
            }
        });
    }

    fn fill_from(&mut self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let read = rustix::pipe::splice(from, None, &self.writer, None, PIPE_SIZE, flags)?;
        self.filled += read;
        Ok(read)
    }

    fn drain_to(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let written = rustix::pipe::splice(&self.reader, None, to, None, self.filled, flags)?;
        self.filled -= written;
        Ok(written)
    }
}

/// Waits out a tunnel that has nothing to move: ready when it is to end for that. `stirred` is
/// when a last look found bytes that nothing had moved yet.
fn poll_quiet(
    thread: &Thread,
    cx: &mut Context<'_>,
    pulse: &Pulse,
    upstream: &mut Conn,
    stirred: &mut Instant,
    is_still: impl FnOnce(&Conn, &mut Context<'_>) -> bool,
) -> Poll<End> {
    let timeout = thread.settings.tunnel_idle_timeout;
    let Some(reclaim) = thread.settings.idle_reclaim else {
        return pulse.poll_silent(cx, timeout).map(|()| End::Silent);
    };
    let last = pulse.last();
    match upstream.parked() {
        Some(parked) if parked.since() != last => upstream.unpark(),
        Some(parked) if parked.is_asked(cx.waker()) => {
            if is_still(upstream, cx) {
                return Poll::Ready(End::Yielded);
            }
            *stirred = clock::now();
            upstream.unpark();
        }
        Some(_) | None => {}
    }
    let reclaimable = last.max(*stirred) + reclaim;
    if upstream.parked().is_none() && reclaimable < last + timeout {
        ready!(pulse.poll_until(cx, reclaimable));
        upstream.park(thread.upstream.pool(), last, cx.waker());
    }
    pulse.poll_silent(cx, timeout).map(|()| End::Silent)
}

/// Whether no byte is on its way through a tunnel, not even one that only the system knows of.
fn is_still(
    up: &Direction,
    down: &Direction,
    near: &mut impl Near,
    upstream: &Conn,
    cx: &mut Context<'_>,
) -> bool {
    let is_empty = |direction: &Direction| {
        direction.held.is_empty()
            && !direction.unsent
            && direction.pipe.as_ref().is_none_or(|pipe| pipe.filled == 0)
    };
    is_empty(up)
        && is_empty(down)
        && near.is_still(cx, up.read_end)
        && upstream.is_still(down.read_end)
}

/// Relays between a client's socket and an upstream. `early` came from the upstream behind its last
/// head.
pub(crate) async fn relay(
    client: Detached,
    upstream: Conn,
    early: &[u8],
    pulse: &Pulse,
    thread: &Thread,
) -> Moved {
    let mut up = Direction { held: client.early, ..Direction::default() };
    // The last answer of ours may still be in what TLS holds.
    let mut down = Direction { held: client.unsent, unsent: true, ..Direction::default() };
    up.moved = up.held.len() as u64;
    down.moved = early.len() as u64;
    down.held.extend_from_slice(early);
    let near = ClientSide { stream: client.stream, ended: false };
    run(upstream, near, (up, down), pulse, thread).await
}

/// Relays between any other near side and an upstream, as [`relay`].
pub(crate) async fn relay_near(
    near: impl Near,
    upstream: Conn,
    early: &[u8],
    pulse: &Pulse,
    thread: &Thread,
) -> Moved {
    let (held, moved) = (early.to_vec(), early.len() as u64);
    let down = Direction { held, moved, ..Direction::default() };
    run(upstream, near, (Direction::default(), down), pulse, thread).await
}

async fn run(
    mut upstream: Conn,
    mut near: impl Near,
    (mut up, mut down): (Direction, Direction),
    pulse: &Pulse,
    thread: &Thread,
) -> Moved {
    pulse.beat();
    let mut look = None;
    let mut stirred = pulse.last();
    let end = poll_fn(|cx| {
        let ups = up.poll(&mut near, &mut upstream, pulse, cx);
        let downs = down.poll(&mut upstream, &mut near, pulse, cx);
        match (ups, downs) {
            (Poll::Ready(Err(Broken::Reading)), _) | (_, Poll::Ready(Err(Broken::Writing))) => {
                Poll::Ready(End::Client)
            }
            (Poll::Ready(Err(Broken::Writing)), _) | (_, Poll::Ready(Err(Broken::Reading))) => {
                Poll::Ready(End::Upstream)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Complete),
            (Poll::Pending, Poll::Pending) => {
                if near.is_reset(cx) {
                    return Poll::Ready(End::Client);
                }
                poll_quiet(thread, cx, pulse, &mut upstream, &mut stirred, |upstream, cx| {
                    is_still(&up, &down, &mut near, upstream, cx)
                })
            }
            (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {
                let failed = if near.is_reset(cx) || (up.ended && near.has_failed(cx)) {
                    Some(End::Client)
                } else if up.ended {
                    None
                } else {
                    upstream.tcp().is_some_and(socket::has_failed).then_some(End::Upstream)
                };
                if let Some(end) = failed {
                    return Poll::Ready(end);
                }
                let look = look.get_or_insert_with(Alarm::new);
                // Only its waking is of use: each look sets the next.
                let _pending = look.poll(cx, clock::now() + ENDED_LOOK);
                poll_quiet(thread, cx, pulse, &mut upstream, &mut stirred, |upstream, cx| {
                    is_still(&up, &down, &mut near, upstream, cx)
                })
            }
        }
    })
    .await;
    if end == End::Yielded {
        let (seat, idle) = (upstream.seat(), clock::now() - pulse.last());
        tracing::debug!(host = seat.key().as_str(), ?idle, "tunnel yields");
    }
    upstream.note_moved(up.moved, down.moved);
    near.finish(end);
    if end == End::Complete {
        upstream.end();
    }
    Moved { sent: up.moved, received: down.moved, end }
}
