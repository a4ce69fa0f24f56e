//! One stream, as whoever answers its request sees it: resets in both directions, 1xx answers, and
//! the upstream of a protocol that was switched to.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use http::Response;
use http::StatusCode;

use super::wire::Wire;
use crate::base::clock::Pulse;
use crate::proxy::guard::Client;
use crate::upstream::conn::Conn;

/// A stream of a client's connection, from the side that answers.
pub(crate) struct Stream {
    client: Rc<Client>,
    wire: Rc<Wire>,
    pulse: Rc<Pulse>,
    respond: RefCell<SendResponse<Bytes>>,
    switched: RefCell<Option<(Conn, Bytes)>>,
}

impl Stream {
    pub(super) fn new(
        client: Rc<Client>,
        wire: Rc<Wire>,
        respond: SendResponse<Bytes>,
    ) -> Rc<Self> {
        let (pulse, respond) = (Rc::new(Pulse::new()), RefCell::new(respond));
        Rc::new(Self { client, wire, pulse, respond, switched: RefCell::default() })
    }

    /// The connection that it is a part of.
    pub(crate) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    pub(super) fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    pub(crate) fn pulse(&self) -> &Rc<Pulse> {
        &self.pulse
    }

    /// Runs `future` until the client resets the stream or its connection ends. Only before the
    /// answer's head.
    pub(crate) async fn unless_left<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_left(cx).map(|()| None),
        })
        .await
    }

    /// Waits for one thing of the stream; none if nothing moved on it for too long.
    pub(super) async fn unless_silent<T>(
        &self,
        limit: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.pulse.poll_silent(cx, limit).map(|()| None),
        })
        .await
    }

    fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.borrow_mut().poll_reset(cx).map(|_why| ())
    }

    /// Passes a 1xx answer on.
    pub(crate) fn interim(&self, status: StatusCode, fields: HeaderMap) {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = fields;
        if let Err(error) = self.respond.borrow_mut().send_informational(head) {
            // The stream is gone, which whoever answers hears by itself.
            tracing::debug!(%error, "a 1xx answer that did not go out");
        }
    }

    /// Sends the answer's head; with `end` that is all of it. None if nobody wants it any more.
    pub(super) fn answer(&self, head: Response<()>, end: bool) -> Option<SendStream<Bytes>> {
        self.pulse.beat();
        let sent = self.respond.borrow_mut().send_response(head, end);
        sent.inspect_err(|error| tracing::debug!(%error, "an answer that did not go out")).ok()
    }

    /// Says that the answer is not whole (RFC 9113 §8.1).
    pub(crate) fn cut(&self) {
        self.respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
    }

    /// A tunnel to `upstream` follows the answer, whose bytes so far are `early`.
    pub(crate) fn switch(&self, upstream: Conn, early: Bytes) {
        self.switched.replace(Some((upstream, early)));
    }

    /// The upstream of a stream that switched protocols.
    pub(super) fn take_switched(&self) -> Option<(Conn, Bytes)> {
        self.switched.take()
    }
}
