//! What happens to a plain request, by whichever route it came: the policies of its API, around
//! attempts to have it answered.
//!
//! The order is the product. The breaker is asked before the cool-down and both before any slot is
//! waited for, so that nobody queues for a host that is known to be down; a slot comes last, and is
//! held for the shortest time. What a gate decides ([`Decision`]) is done in one place, [`obey`].

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::HeaderMap;
use http::Request;
use http::Version;
use http::request::Parts;
use http_body::Body as _;
use tokio::time::Instant;

use super::Thread;
use super::asker::Asker;
use super::head::Flaw;
use super::headers;
use super::interim::Interim;
use super::reject::Reject;
use super::story::Story;
use super::tally::Tally;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit::Patience;
use crate::policy::Decision;
use crate::policy::End;
use crate::policy::Facts;
use crate::policy::api::Api;
use crate::policy::cooldown::CoolDowns;
use crate::policy::parents::Asked;
use crate::policy::parents::Hop;
use crate::policy::parents::Way;
use crate::telemetry::metrics::Bound;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::dial::Errand;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::exchange::Gate;
use crate::upstream::exchange::RequestBody;
use crate::upstream::source::Source;

/// A request that is to be answered.
pub(super) struct Order<'a> {
    pub(super) thread: &'a Thread,
    pub(super) client: &'a Asker,
    pub(super) identity: &'a Identity,
    /// Whose policies it meets; none meets none.
    pub(super) api: Option<&'a Api>,
    pub(super) authority: &'a Authority,
    pub(super) tls: bool,
    pub(super) patience: Patience,
    /// Until when the client would wait at all, if it says so (RFC 7240 §4.3).
    pub(super) deadline: Option<Instant>,
    /// The client's.
    pub(super) version: Version,
    /// The client's fields as they came, where not all of them are sent on.
    pub(super) asked: Option<&'a HeaderMap>,
}

impl Order<'_> {
    /// Until when a gate may be waited for; the client's own word goes before the settings'.
    fn until(&self, cooldowns: &CoolDowns) -> Option<Instant> {
        let slot = match self.patience {
            Patience::Until(until) => Some(until),
            Patience::None => None,
        };
        match self.deadline {
            Some(deadline) => slot.map(|until| until.min(deadline)),
            None => slot.max(clock::now().checked_add(cooldowns.patience())),
        }
    }
}

/// Why there is no response.
pub(super) enum Failed {
    /// The client left; there is nobody to answer.
    Left,
    /// It is answered by this.
    Rejected(Reject),
}

impl From<Reject> for Failed {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

/// Has a request answered, in as many attempts as its API allows.
pub(super) async fn answer(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Sent, Failed> {
    let tally = Tally::begin(order.api);
    if let Some(api) = order.api {
        story.meets(api);
    }
    let result = answered(order, parts, body, story).await;
    tally.end(&result);
    result
}

async fn answered(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Sent, Failed> {
    let sent = match order.api {
        Some(api) => attempt(order, api, parts, body, story).await?,
        None => send(order, None, parts, body).await?,
    };
    match sent {
        Ok(sent) => {
            story.waited(sent.waited, sent.reused);
            Ok(sent)
        }
        Err(error) => {
            story.waited(error.waited(), false);
            Err(unsent(error, order.client, order.thread).into())
        }
    }
}

/// One attempt, and what its API's gates say to it.
async fn attempt(
    order: &Order<'_>,
    api: &Api,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Result<Sent, SendError>, Failed> {
    let host = order.authority.key();
    let cooldowns = api.cooldowns.as_ref();
    let subject = cooldowns.map(|cooldowns| (cooldowns, cooldowns.subject(host, &parts.headers)));
    let until = cooldowns.and_then(|cooldowns| order.until(cooldowns));
    let pass = loop {
        let pass = match &api.breakers {
            Some(breakers) => Some(obey(breakers.enter(host).await)?),
            None => None,
        };
        let Some((cooldowns, subject)) = &subject else { break pass };
        match cooldowns.enter(subject, until) {
            Decision::Pass(()) => break pass,
            Decision::Refuse(refusal) => return Err(Reject::Policy(refusal).into()),
            Decision::Wait(_) => drop(pass),
        }
        let waited = order.client.unless_left(cooldowns.wait(subject)).await;
        waited.ok_or(Failed::Left)?;
    };
    let client = order.client.peer().ip();
    let way = match &api.parents {
        Some(parents) => {
            let fields = order.asked.unwrap_or(&parts.headers);
            let asked = Asked { client, host, fields, before: None };
            Some(obey(parents.choose(asked))?)
        }
        None => None,
    };
    let started = clock::now();
    let hop = way.as_ref().and_then(Way::hop);
    let sent = send(order, hop, parts, body).await?;
    let waited = sent.as_ref().map_or_else(SendError::waited, |sent| sent.waited);
    let end = match &sent {
        Ok(sent) => End::Status(sent.response.status().as_u16()),
        Err(error) => error.end(),
    };
    let facts = Facts { end, took: (clock::now() - started).saturating_sub(waited) };
    if let (Some((cooldowns, subject)), Ok(sent)) = (&subject, &sent) {
        let response = &sent.response;
        let asked = cooldowns.hear(subject, response.status().as_u16(), response.headers());
        if asked.is_some() {
            api.counts.cooled();
        }
    }
    story.attempted(api, end, way.as_ref().and_then(|way| way.parent.as_deref()));
    if let Some(way) = way {
        way.record(facts);
    }
    if let Some(pass) = pass {
        pass.record(facts).await;
    }
    Ok(sent)
}

/// Does what a gate says.
fn obey<T>(decision: Decision<T>) -> Result<T, Failed> {
    match decision {
        Decision::Pass(guard) => Ok(guard),
        Decision::Wait(refusal) | Decision::Refuse(refusal) => Err(Reject::Policy(refusal).into()),
    }
}

/// Sends a request and waits for the head of its response, for as long as the client wants it.
async fn send(
    order: &Order<'_>,
    parent: Option<Hop<'_>>,
    parts: Parts,
    body: Source,
) -> Result<Result<Sent, SendError>, Failed> {
    let Order { thread, client, identity, authority, tls, patience, version, .. } = *order;
    let expects = headers::expects_continue(&parts.headers) == Ok(true);
    let gate = (expects && !body.is_end_stream()).then(Arc::<Gate>::default);
    let body = RequestBody::new(body, gate.clone(), Rc::clone(client.pulse()));
    let mut request = Request::from_parts(parts, body);
    let bound = thread.settings.bounds.interim;
    let continues = client.continues_by_itself();
    let interim = Interim::listen(&mut request, gate, continues, (version, bound));
    let request_timeout = order.api.and_then(|api| api.settings.request_timeout);
    let client_address = client.peer();
    let errand = Errand {
        authority,
        tls,
        patience,
        client: client_address,
        identity,
        parent,
        request_timeout,
    };
    let mut sending = std::pin::pin!(thread.upstream.send(errand, request, client.pulse()));
    let sent = client.unless_left(std::future::poll_fn(|cx| {
        let sent = sending.as_mut().poll(cx);
        if interim.pass_on(client, thread) { sent.map(Some) } else { Poll::Ready(None) }
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

/// Why a request got no response, the client's own fault named as exactly as it is known.
fn unsent(error: SendError, client: &Asker, thread: &Thread) -> Reject {
    match (&error, client.broken()) {
        (SendError::Exchange(ExchangeError::Request), Some(malformed)) => {
            let flaw = Flaw::from(malformed);
            if let Some(bound) = flaw.bound() {
                thread.cells.bounded(bound);
            }
            Reject::Flaw(flaw)
        }
        _ => error.into(),
    }
}
