//! The bytes' way under a connection of HTTP/2: what has been read ahead, how far the client has
//! come, whether anything is stuck, and a close that lets the last frames arrive.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::base::clock;
use crate::base::clock::Alarm;
use crate::base::socket::with_scratch;
use crate::proxy::LINGER;

/// Bytes of a client that are read and dropped after our last frame.
const MAX_UNREAD: usize = 1024 * 1024;

/// What one knows of a connection's bytes.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    received: Cell<u64>,
    is_blocked: Cell<bool>,
}

impl Wire {
    /// Bytes that have come.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether there are bytes that the client does not take at the moment.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }
}

/// A client's connection, told of in a [`Wire`].
pub(super) struct Io<S> {
    near: S,
    wire: Rc<Wire>,
    unread: usize,
    linger: Option<(Instant, Alarm)>,
}

impl<S> Io<S> {
    pub(super) fn new(near: S, wire: Rc<Wire>) -> Self {
        Self { near, wire, unread: MAX_UNREAD, linger: None }
    }

    fn noted<T>(&self, written: Poll<T>) -> Poll<T> {
        self.wire.is_blocked.set(written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.near).poll_read(cx, buf);
        let received = self.wire.received.get() + (buf.filled().len() - before) as u64;
        self.wire.received.set(received);
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.near).poll_write(cx, buf);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.near).poll_write_vectored(cx, bufs);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.near.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.near).poll_flush(cx);
        self.noted(flushed)
    }

    /// Ends what goes to the client, then waits for its own end: closing with unread bytes would
    /// reset the connection, and the reset can overtake the last frames. Not for ever.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.near).poll_shutdown(cx))?;
        let this = &mut *self;
        while this.unread > 0 {
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let polled = Pin::new(&mut this.near).poll_read(cx, &mut buffer);
                polled.map_ok(|()| buffer.filled().len())
            });
            match read {
                Poll::Ready(Ok(read)) if read > 0 => {
                    this.unread = this.unread.saturating_sub(read);
                }
                Poll::Ready(Ok(_) | Err(_)) => break,
                Poll::Pending => {
                    let (until, alarm) =
                        this.linger.get_or_insert_with(|| (clock::now() + LINGER, Alarm::new()));
                    return alarm.poll(cx, *until).map(Ok);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection some of whose bytes have been read already.
pub(crate) struct Ahead<S> {
    ahead: Vec<u8>,
    near: S,
}

impl<S> Ahead<S> {
    pub(crate) fn new(ahead: Vec<u8>, near: S) -> Self {
        Self { ahead, near }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.near).poll_read(cx, buf);
        }
        let passed = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..passed]);
        self.ahead.drain(..passed);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.near.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
