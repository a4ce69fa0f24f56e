//! One attempt to have a request answered: sent up, and its response's head waited for, for as long
//! as its client wants it. No policy is known here.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use http_body::Body as _;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::headers;
use super::interim::Interim;
use super::pipeline::Failed;
use super::pipeline::Order;
use super::reject::Reject;
use crate::limit::Patience;
use crate::policy::parents::Hop;
use crate::telemetry::metrics::Bound;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::dial::Errand;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::replay::Supply;
use crate::upstream::upload::Gate;
use crate::upstream::upload::RequestBody;

/// What the attempts of one request have in common.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// When all of it must have come to an answer's head, and how long that was in all.
    pub(super) end: Option<(Instant, Duration)>,
    /// The client was told to continue.
    pub(super) continued: Cell<bool>,
}

impl Course {
    /// Until when a slot may be waited for.
    fn patience(&self, patience: Patience) -> Patience {
        match (patience, self.end) {
            (Patience::Until(until), Some((end, _))) => Patience::Until(until.min(end)),
            (Patience::None | Patience::Until(_), _) => patience,
        }
    }
}

/// Sends a request and waits for the head of its response, for as long as the client wants it.
pub(super) async fn send(
    order: &Order<'_>,
    parent: Option<Hop<'_>>,
    parts: Parts,
    body: Supply,
    course: &Course,
) -> Result<Result<Sent, SendError>, Failed> {
    let Order { thread, client, identity, authority, tls, version, .. } = *order;
    let expects = headers::expects_continue(&parts.headers) == Ok(true);
    let gate = (expects && !body.is_end_stream()).then(Arc::<Gate>::default);
    let body = RequestBody::new(body, gate.clone(), Rc::clone(client.pulse()));
    let mut request = Request::from_parts(parts, body);
    let bound = thread.settings.bounds.interim;
    let continues = client.continues_by_itself();
    let interim =
        Interim::listen(&mut request, gate, continues, (version, bound), &course.continued);
    let errand = Errand {
        authority,
        tls,
        patience: course.patience(order.patience),
        client: client.peer(),
        identity,
        parent,
        request_timeout: order.api.and_then(|api| api.settings.request_timeout),
    };
    let mut late = Late::at(course.end);
    let mut sending = std::pin::pin!(thread.upstream.send(errand, request, client.pulse()));
    let sent = client.unless_left(std::future::poll_fn(|cx| {
        let sent = sending.as_mut().poll(cx);
        if !interim.pass_on(client, thread) {
            return Poll::Ready(None);
        }
        match sent {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending => late.poll(cx).map(|late| Some(Err(late))),
        }
    }));
    match sent.await {
        Some(Some(sent)) => Ok(sent),
        Some(None) => {
            thread.cells.bounded(Bound::Interim);
            Err(Reject::Interim.into())
        }
        None => Err(Failed::Left),
    }
}

/// The end of all time that a request has, if it has one.
struct Late(Option<(Pin<Box<Sleep>>, Duration)>);

impl Late {
    fn at(end: Option<(Instant, Duration)>) -> Self {
        Self(end.map(|(at, all)| (Box::pin(tokio::time::sleep_until(at)), all)))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        match &mut self.0 {
            Some((sleep, all)) => {
                sleep.as_mut().poll(cx).map(|()| ExchangeError::TimedOut(*all).into())
            }
            None => Poll::Pending,
        }
    }
}
