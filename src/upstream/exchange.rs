//! One request and its response on one connection.
//!
//! hyper's connection is driven by the very task that waits for the response: no task of its own,
//! no wake-up from one to the other. The response's body carries the connection to its end, and
//! hands it to the pool there; dropped earlier, it takes the connection down with it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Method;
use http::Request;
use http::Response;
use http::header;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;

use super::ahead::Ahead;
use super::conn::Conn;
use super::conn::Link;
use super::conn::Tally;
use super::pool::Keep;
use super::pool::Pool;
use super::pool::PoolKey;
use super::screen::Bounds;
use super::screen::Brief;
use super::screen::Expected;
use super::screen::Fault;
use super::screen::Screened;
use super::upload::RequestBody;
use crate::base::clock::Pulse;
use crate::limit::Seat;
use crate::limit::Share;
use crate::policy::cache;
use crate::telemetry::metrics::Bound;

/// Fields that hyper has room for without being told.
const HYPER_FIELDS: usize = 100;

/// Why there is no response.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The connection ended before the response's head was complete.
    #[error("the upstream closed the connection before its response")]
    Closed,
    /// What came is no sound response, or more of one than is allowed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// What came is no HTTP/1.1 response, as hyper says.
    #[error("{0}")]
    Malformed(String),
    /// The client's request body failed.
    #[error("the request's body broke off")]
    Request,
    /// The head of the response did not come in time.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// It switched to a protocol that is not among those that were asked for.
    #[error("the upstream switched to another protocol than it was asked for")]
    Upgrade,
}

impl ExchangeError {
    /// The bound that was met, if it was one.
    pub(crate) fn bound(&self) -> Option<Bound> {
        match self {
            Self::Fault(fault) => fault.bound(),
            Self::TimedOut(_) => Some(Bound::ResponseTime),
            Self::Closed | Self::Malformed(_) | Self::Request | Self::Upgrade => None,
        }
    }
}

/// A failed exchange, and the request if none of it can have left.
pub(crate) struct Failed {
    pub(crate) error: ExchangeError,
    pub(crate) unsent: Option<Request<RequestBody>>,
    /// No byte of an answer had come.
    pub(crate) silent: bool,
}

/// A connection that speaks HTTP/1.1, and hyper's halves of it.
///
/// PERF: boxed once, since a line is handed on several times per request and hyper's part is large.
pub(crate) struct Line(Box<Halves>);

struct Halves {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<Screened>, RequestBody>,
    brief: Rc<Brief>,
    seat: Seat,
    /// Of the way it goes, if what that may have is limited.
    bond: Option<Seat>,
    /// How it is kept; none is as any.
    keep: Option<Keep>,
    tally: Arc<Tally>,
    stir: Arc<Stir>,
    /// Of `stir`: what the driver is always polled with.
    waker: Waker,
    /// hyper's part has ended, and must not be driven on.
    over: bool,
    /// Of whoever has a request on it. Behind the driver, which has the socket.
    share: Option<Box<Share>>,
}

/// A line on its way from one thread to another.
pub(crate) struct Parcel {
    link: Link,
    keep: Option<Keep>,
}

/// Turns per poll in which a line may wake itself.
const TURNS: usize = 8;

/// Wakes whoever waits for a line: the task that has a request on it, or the pool's watcher.
///
/// PERF: hyper's halves speak through channels, and would wake the task that polls them both for
/// each word between them. While that task is at it (`busy`), a wake-up is only noted.
#[derive(Debug, Default)]
struct Stir {
    busy: AtomicBool,
    stirred: AtomicBool,
    target: AtomicWaker,
}

impl Wake for Stir {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stirred.store(true, Release);
        if !self.busy.load(Acquire) {
            self.target.wake();
        }
    }
}

impl Stir {
    /// Does something to the line during which it need not wake anybody.
    fn during<T>(&self, something: impl FnOnce() -> T) -> T {
        self.busy.store(true, Release);
        let done = something();
        self.busy.store(false, Release);
        done
    }

    /// Repeats `turn` until it is ready, or the line has fallen still; then `waker` is woken by
    /// what happens next.
    fn turns<T>(&self, waker: &Waker, mut turn: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.target.register(waker);
        for _ in 0..TURNS {
            self.stirred.store(false, Release);
            if let Poll::Ready(done) = self.during(&mut turn) {
                return Poll::Ready(done);
            }
            if !self.stirred.load(Acquire) {
                return Poll::Pending;
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }
}

impl Line {
    pub(crate) async fn new(mut conn: Conn, bounds: Bounds) -> Result<Self, ExchangeError> {
        let (seat, tally, share) = (conn.seat(), conn.tally(), conn.take_share());
        let bond = conn.bond_seat();
        let (screened, brief) = Screened::new(conn, bounds);
        let mut builder = http1::Builder::new();
        builder.preserve_header_case(true).title_case_headers(true);
        if bounds.fields > HYPER_FIELDS {
            builder.max_headers(bounds.fields);
        }
        let (sender, driver) = builder
            .handshake(TokioIo::new(screened))
            .await
            .map_err(|error| ExchangeError::Malformed(error.to_string()))?;
        let stir = Arc::<Stir>::default();
        let waker = Waker::from(Arc::clone(&stir));
        let over = false;
        Ok(Self(Box::new(Halves {
            sender,
            driver,
            brief,
            seat,
            bond,
            keep: None,
            tally,
            stir,
            waker,
            over,
            share,
        })))
    }

    /// All it occupies: a slot of its host, and of the way to that if those are counted too.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat> {
        std::iter::once(&self.0.seat).chain(&self.0.bond)
    }

    /// How it is to be kept, if not as any.
    pub(crate) fn keep(&mut self, keep: Option<Keep>) {
        self.0.keep = keep;
    }

    pub(crate) fn kept(&self) -> Option<Keep> {
        self.0.keep
    }

    /// Whoever has it now holds this of the host; what the one before held is given back.
    pub(crate) fn lend(&mut self, share: Option<Box<Share>>) {
        self.0.share = share;
    }

    /// Whether something has happened on the line since this was asked last.
    pub(crate) fn has_stirred(&self) -> bool {
        self.0.stir.stirred.swap(false, AcqRel)
    }

    /// Whether the next request may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.sender.is_ready()
    }

    /// Lets the idle connection hear its peer, and wake `watcher` when there is something to hear;
    /// whether it is of no use any more.
    pub(crate) fn is_spent(&mut self, watcher: &Waker) -> bool {
        let stir = Arc::clone(&self.0.stir);
        stir.target.register(watcher);
        stir.during(|| self.drive());
        self.0.over || self.0.brief.fault().is_some()
    }

    /// What was wrong with what came, if anything was.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.0.brief.fault()
    }

    /// Drives hyper's part on. How it ends is told to whoever waits for its answer or its body.
    fn drive(&mut self) {
        let halves = &mut *self.0;
        if !halves.over {
            let mut cx = Context::from_waker(&halves.waker);
            halves.over = Pin::new(&mut halves.driver).poll(&mut cx).is_ready();
        }
    }

    /// Closes an idle connection in good order.
    pub(crate) fn end(self) {
        self.0.driver.into_parts().io.into_inner().end();
    }

    /// Takes an idle connection off this thread; none if it is of no use elsewhere.
    pub(crate) fn leave(self) -> Option<Parcel> {
        let keep = self.0.keep;
        let parts = self.0.driver.into_parts();
        let (conn, early) = parts.io.into_inner().into_parts(parts.read_buf);
        early.is_empty().then(|| Parcel { link: conn.leave(), keep })
    }

    /// Takes it over.
    pub(crate) async fn adopt(parcel: Parcel, bounds: Bounds) -> Option<Self> {
        let mut line = Self::new(Conn::adopt(parcel.link).ok()?, bounds).await.ok()?;
        line.keep(parcel.keep);
        Some(line)
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn exchange(
        mut self,
        request: Request<RequestBody>,
        pulse: &Pulse,
        timeout: Duration,
    ) -> Result<(Response<Incoming>, Self), Failed> {
        let before = self.0.tally.received();
        pulse.beat();
        self.0.brief.expect(Expected::new(
            *request.method() == Method::HEAD,
            request.headers().contains_key(header::UPGRADE),
        ));
        let stir = Arc::clone(&self.0.stir);
        let result = {
            let sent = stir.during(|| self.0.sender.try_send_request(request));
            let mut answer = std::pin::pin!(sent);
            std::future::poll_fn(|cx| {
                let answered = stir.turns(cx.waker(), || {
                    self.drive();
                    // Only the driver can make the answer ready: it needs no waker of its own.
                    answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                });
                match answered {
                    Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                    Poll::Pending => pulse.poll_silent(cx, timeout).map(Err),
                }
            })
            .await
        };
        let silent = self.0.tally.received() == before;
        match result {
            Ok(Ok(response)) => Ok((response, self)),
            Ok(Err(mut failed)) => {
                let unsent = failed.take_message();
                let error = match self.fault() {
                    // Before the request was: as if the connection had ended.
                    Some(Fault::Unsolicited) => ExchangeError::Closed,
                    Some(fault) => fault.into(),
                    None => failed.into_error().into(),
                };
                Err(Failed { error, unsent, silent })
            }
            Err(()) => {
                let error = ExchangeError::TimedOut(timeout);
                Err(Failed { error, unsent: None, silent })
            }
        }
    }

    /// After a 101: the connection, and what came of the new protocol already.
    pub(crate) async fn upgrade(mut self) -> (Conn, Bytes) {
        // Only the end of hyper's part is of interest, not how it ended. Driven past that, it would
        // shut the connection down.
        if !self.0.over {
            let _ended = std::future::poll_fn(|cx| self.0.driver.poll_without_shutdown(cx)).await;
        }
        let parts = self.0.driver.into_parts();
        let (mut conn, early) = parts.io.into_inner().into_parts(parts.read_buf);
        conn.set_share(self.0.share);
        (conn, early)
    }
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        let io =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        if error.is_parse() {
            Self::Malformed(error.to_string())
        } else if error.is_user() {
            Self::Request
        } else if error.is_incomplete_message()
            || error.is_canceled()
            || error.is_closed()
            || io.is_some()
        {
            Self::Closed
        } else {
            Self::Malformed(error.to_string())
        }
    }
}

/// The body of a response on its way down, with the connection that it comes by.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    line: Option<Line>,
    key: PoolKey,
    pool: Rc<Pool>,
    pulse: Rc<Pulse>,
    idle_timeout: Duration,
    over: bool,
    /// All of it, read before anybody wanted it.
    held: Option<Box<Ahead>>,
}

/// Why a response's body broke off.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    /// The upstream broke it off.
    #[error("the upstream broke its response off")]
    Broken(#[source] hyper::Error),
    /// Another request brought it, and no more comes.
    #[error(transparent)]
    Followed(#[from] cache::Broken),
    /// Nothing came for too long.
    #[error("the upstream fell silent for {0:?}")]
    Silent(Duration),
}

impl ResponseBody {
    pub(crate) fn new(
        incoming: Incoming,
        line: Line,
        key: PoolKey,
        pool: Rc<Pool>,
        pulse: Rc<Pulse>,
        idle_timeout: Duration,
    ) -> Self {
        let line = Some(line);
        Self { incoming, line, key, pool, pulse, idle_timeout, over: false, held: None }
    }

    /// Whether all of it has come.
    pub(crate) fn is_over(&self) -> bool {
        match &self.held {
            Some(held) => held.is_over(),
            None => self.over || self.incoming.is_end_stream(),
        }
    }

    /// Reads all of it ahead, and so frees its connection. One that is longer than `bound` or breaks
    /// off is of no use any more.
    pub(crate) async fn hold(mut self, bound: usize) -> Option<Self> {
        let hint = self.incoming.size_hint();
        if hint.lower() > bound as u64 {
            return None;
        }
        let mut held = Ahead::new(hint);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await
        {
            held.add(frame.ok()?, bound)?;
        }
        if let Some(line) = self.line.take() {
            self.pool.put(self.key.clone(), line);
        }
        self.held = Some(Box::new(held));
        Some(self)
    }

    /// It goes on without the client that it was for, and is silent on its own account.
    pub(crate) fn outlive_client(&mut self) {
        self.pulse = Rc::new(Pulse::new());
    }

    /// Takes the connection out, after a 101.
    pub(crate) fn into_line(mut self) -> Option<Line> {
        self.line.take()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(held) = &mut this.held {
            return Poll::Ready(held.take().map(Ok));
        }
        let incoming = &mut this.incoming;
        let frame = match &mut this.line {
            Some(line) => {
                let stir = Arc::clone(&line.0.stir);
                stir.turns(cx.waker(), || {
                    // Only the driver can make a frame ready, and it fetches one when asked to.
                    let mut cx = Context::from_waker(Waker::noop());
                    let frame = Pin::new(&mut *incoming).poll_frame(&mut cx);
                    if frame.is_ready() {
                        return frame;
                    }
                    line.drive();
                    Pin::new(&mut *incoming).poll_frame(&mut cx)
                })
            }
            None => Pin::new(incoming).poll_frame(cx),
        };
        match frame {
            Poll::Pending => this.pulse.poll_silent(cx, this.idle_timeout).map(|()| {
                this.pool.note_bounded(Bound::BodyIdle);
                Some(Err(BodyError::Silent(this.idle_timeout)))
            }),
            Poll::Ready(frame) => {
                this.pulse.beat();
                this.over = frame.is_none();
                if let Some(Err(_)) = &frame
                    && let Some(bound) = this.line.as_ref().and_then(|line| line.fault()?.bound())
                {
                    this.pool.note_bounded(bound);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.held {
            Some(held) => held.is_over(),
            None => self.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.held {
            Some(held) => held.size_hint(),
            None => self.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.is_over()
            && let Some(line) = self.line.take()
        {
            self.pool.put(self.key.clone(), line);
        }
    }
}
