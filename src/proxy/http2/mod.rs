//! HTTP/2 from clients (RFC 9113): one connection, many requests and tunnels.
//!
//! The h2 crate keeps frames, flow control and the states of streams; each request becomes a task
//! that goes the way of all requests. What a connection may cost is bounded: streams, windows,
//! field lists, resets, and time without a stream.
//!
//! Invariants: a tunnel takes a slot of its own, as one over HTTP/1.1 does; what one stream does
//! not take fills its own window only, since the connection's holds that of every stream; a window
//! is given back only for bytes that went on.

mod extended;
mod request;
mod stream;
mod tunnel;
mod wire;

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::Builder;
use h2::server::Connection;
use h2::server::SendResponse;
use http::Method;
use http::Request;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

pub(crate) use self::request::check;
pub(crate) use self::stream::Stream;
pub(crate) use self::wire::Ahead;
use self::wire::Wire;
use super::DRAIN_HEAD;
use super::LINGER;
use super::Open;
use super::Thread;
use super::guard::Client;
use crate::base::clock;
use crate::base::clock::Alarm;
use crate::telemetry::metrics::Bound;

/// What a client that speaks HTTP/2 says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface and the smallest SETTINGS frame, without which nothing may follow.
const OPENING: u64 = PREFACE.len() as u64 + 9;
/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// Bytes of one answer that may wait in the connection for their turn.
const MAX_UNSENT: usize = 64 * 1024;

/// What a connection of HTTP/2 may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams at a time, 1 to 65535.
    pub max_streams: u32,
    /// Bytes that a client may send on one stream ahead of what was taken, 65535 to 16 MiB.
    pub window: u32,
    /// Requests that a client may reset before their answer, less those that were answered.
    pub max_resets: u32,
}

/// What all streams of a connection share.
struct Shared {
    thread: Rc<Thread>,
    client: Rc<Client>,
    wire: Rc<Wire>,
    live: Cell<u32>,
    /// Since when there is no stream.
    idle: Cell<Instant>,
    /// Streams that the client reset before their answer, less those answered.
    resets: Cell<u32>,
    /// The connection's task, to look anew.
    waker: RefCell<Option<Waker>>,
    _open: Open,
}

/// A stream that counts until it is over.
struct Live(Rc<Shared>);

impl Live {
    fn count(shared: &Rc<Shared>) -> Self {
        shared.live.set(shared.live.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
        self.0.idle.set(clock::now());
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// The client reset it before it had an answer.
    Left,
}

/// Serves a connection whose next bytes, those of `near`, are the preface.
pub(super) async fn serve(
    thread: &Rc<Thread>,
    client: &Rc<Client>,
    near: impl AsyncRead + AsyncWrite + Unpin,
    open: Open,
) {
    let wire = Rc::<Wire>::default();
    let shared = Rc::new(Shared {
        thread: Rc::clone(thread),
        client: Rc::clone(client),
        wire: Rc::clone(&wire),
        live: Cell::new(0),
        idle: Cell::new(clock::now()),
        resets: Cell::new(0),
        waker: RefCell::default(),
        _open: open,
    });
    let handshake = builder(thread).handshake(wire::Io::new(near, wire));
    let connection = match tokio::time::timeout(thread.settings.header_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "no HTTP/2 after all"),
        Err(_elapsed) => return thread.cells.bounded(Bound::HeadTime),
    };
    let ended = drive(&shared, connection).await;
    if let Err(error) = ended {
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && error.is_library() {
            thread.cells.bounded(Bound::Http2Calm);
        }
        tracing::debug!(%error, peer = %client.peer(), "a connection of HTTP/2 failed");
    }
}

fn builder(thread: &Thread) -> Builder {
    let Settings { max_streams, window, .. } = thread.settings.http2;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(max_streams)
        .initial_window_size(window)
        // A stream that nobody reads from must not keep the others from sending.
        .initial_connection_window_size(window.saturating_mul(max_streams).min(MAX_WINDOW))
        .max_send_buffer_size(MAX_UNSENT)
        // A list between the bound and this gets an answer that says so; the crate's has no body.
        .max_header_list_size(thread.settings.bounds.head_size.saturating_mul(2))
        .enable_connect_protocol();
    builder
}

/// Drives the connection and begins its streams, until it is closed and they are over.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Rc<Shared>,
    mut connection: Connection<S, Bytes>,
) -> Result<(), h2::Error> {
    let mut watch = Watch::new(shared);
    let mut listener = None;
    loop {
        let next = poll_fn(|cx| {
            listener.get_or_insert_with(|| shared.thread.drain.listen(cx.waker().clone()));
            shared.waker.replace(Some(cx.waker().clone()));
            loop {
                if let Poll::Ready(next) = connection.poll_accept(cx) {
                    return Poll::Ready(next);
                }
                match watch.poll(shared, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Due::GoAway) => connection.graceful_shutdown(),
                    Poll::Ready(Due::Calm) => {
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                    Poll::Ready(Due::Close) => return Poll::Ready(None),
                }
            }
        });
        let Some(accepted) = next.await else { return Ok(()) };
        let (request, respond) = accepted?;
        begin(shared, request, respond);
    }
}

fn begin(shared: &Rc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let live = Live::count(shared);
    let thread = Rc::clone(&shared.thread);
    super::spawn(&thread, async move {
        let shared = &live.0;
        let (client, wire) = (Rc::clone(&shared.client), Rc::clone(&shared.wire));
        let stream = Stream::new(client, wire, respond);
        let outcome = answer(&shared.thread, stream, request).await;
        let resets = shared.resets.get();
        shared.resets.set(match outcome {
            Outcome::Answered => resets.saturating_sub(1),
            Outcome::Left => resets + 1,
        });
    });
}

async fn answer(thread: &Rc<Thread>, stream: Rc<Stream>, request: Request<RecvStream>) -> Outcome {
    if *request.method() != Method::CONNECT {
        request::serve(thread, stream, request).await
    } else if let Some(protocol) = request.extensions().get::<Protocol>().cloned() {
        extended::serve(thread, stream, request, &protocol).await
    } else {
        tunnel::serve(thread, stream, request).await
    }
}

/// What a connection's time or its client's conduct asks for.
enum Due {
    /// Let it take no further streams.
    GoAway,
    /// End it, since the client resets too much.
    Calm,
    Close,
}

/// Watches what the crate does not: the opening, the time without a stream, resets, the drain.
struct Watch {
    opened: Instant,
    is_leaving: bool,
    /// When a connection that was told to end is closed if it has no stream.
    close: Option<Instant>,
    alarm: Alarm,
}

impl Watch {
    fn new(shared: &Shared) -> Self {
        let opened = shared.idle.get();
        Self { opened, is_leaving: false, close: None, alarm: Alarm::new() }
    }

    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Due> {
        let settings = &shared.thread.settings;
        if shared.resets.get() > settings.http2.max_resets {
            shared.resets.set(0);
            shared.thread.cells.bounded(Bound::Http2Calm);
            self.is_leaving = true;
            return Poll::Ready(Due::Calm);
        }
        if shared.thread.drain.is_on() && !self.is_leaving {
            self.is_leaving = true;
            return Poll::Ready(Due::GoAway);
        }
        if shared.wire.received() < OPENING {
            let deadline = self.opened + settings.header_timeout;
            return self.alarm.poll(cx, deadline).map(|()| {
                shared.thread.cells.bounded(Bound::HeadTime);
                Due::Close
            });
        }
        if shared.live.get() > 0 {
            return Poll::Pending;
        }
        let idle = shared.idle.get();
        if self.is_leaving {
            // The crate closes when the client has heard it; a silent one is not waited for.
            let patience = if shared.thread.drain.is_on() { DRAIN_HEAD } else { LINGER };
            let close = *self.close.get_or_insert_with(|| clock::now().max(idle) + patience);
            return self.alarm.poll(cx, close).map(|()| Due::Close);
        }
        std::task::ready!(self.alarm.poll(cx, idle + settings.keep_alive_timeout));
        self.is_leaving = true;
        Poll::Ready(Due::GoAway)
    }
}
