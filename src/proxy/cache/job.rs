//! What is fetched where no client waits for it: what is stale and was served nevertheless, and what
//! another instance brought and brings no longer.
//!
//! It goes through the pipeline as any request does, meets the same gates and counts as attempts; it is
//! no request of a client's, and is counted as none.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::Version;
use http::request::Parts;

use super::super::Thread;
use super::super::asker::Asker;
use super::super::asker::Nobody;
use super::super::pipeline::Failed;
use super::super::pipeline::Order;
use super::super::spawn;
use super::super::story::Story;
use super::Inquiry;
use super::Role;
use super::Sight;
use super::fetch::bring;
use crate::base::authority::Authority;
use crate::base::identity::Identity;
use crate::policy::api::Api;
use crate::policy::cache::control::OfRequest;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::entry::Vary;
use crate::policy::cache::key::Keys;
use crate::policy::cache::status::Forward;
use crate::policy::cache::tiers::Begun;
use crate::policy::cache::tiers::Lead;
use crate::policy::cache::tiers::Looked;
use crate::policy::cache::tiers::Relayed;
use crate::policy::cache::vary;
use crate::upstream::held::Held;
use crate::upstream::source::Source;

/// A request without its client.
struct Job {
    thread: Rc<Thread>,
    api: Arc<Api>,
    authority: Authority,
    tls: bool,
    identity: Identity,
    peer: SocketAddr,
    version: Version,
    parts: Parts,
    body: Option<Bytes>,
    sight: Sight,
    keys: Keys,
    method: Method,
    fields: HeaderMap,
    asked: OfRequest,
    stale: Option<Arc<Entry>>,
}

/// Asks for what is stale anew, unless somebody does.
pub(super) fn refresh(order: &Order<'_>, inquiry: &Inquiry<'_>, parts: &Parts, story: &Story) {
    let vary = inquiry.variant();
    let begun = inquiry.cache.drawer.begin(&inquiry.keys, vary.as_ref(), inquiry.seen.as_ref());
    let Begun::Lead(mut lead) = begun else { return };
    let job = Job::of(order, inquiry, parts, story);
    spawn(order.thread, async move {
        match lead.claim().await {
            Looked::Apart => lead.dissolve(),
            Looked::Elsewhere => job.relay(lead).await,
            Looked::Fetch | Looked::Kept(_) => job.bring(lead).await,
        }
    });
}

/// Passes on what another instance brings, to its end.
pub(super) fn relay(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    parts: &Parts,
    lead: Lead,
    story: &Story,
) {
    let job = Job::of(order, inquiry, parts, story);
    spawn(order.thread, job.relay(lead));
}

impl Job {
    fn of(order: &Order<'_>, inquiry: &Inquiry<'_>, parts: &Parts, story: &Story) -> Self {
        Self {
            thread: Rc::clone(story.thread()),
            api: Arc::clone(inquiry.api),
            authority: order.authority.clone(),
            tls: order.tls,
            identity: order.identity.clone(),
            peer: order.client.peer(),
            version: order.version,
            parts: parts.clone(),
            body: inquiry.body.clone(),
            sight: inquiry.sight.clone(),
            keys: inquiry.keys,
            method: inquiry.method.clone(),
            fields: inquiry.fields.clone(),
            asked: OfRequest::default(),
            stale: inquiry.stale.clone(),
        }
    }

    async fn relay(self, lead: Lead) {
        // Whatever else becomes of it, followers are told.
        let is_for = |vary: &Vary| {
            vary::matches(vary, &self.fields, |name| self.sight.sees(&self.api, name))
        };
        if let Relayed::Fetch(lead) = lead.relay(is_for).await {
            self.bring(lead).await;
        }
    }

    async fn bring(self, lead: Lead) {
        let Self { thread, api, parts, body, fields, .. } = &self;
        let Some(cache) = &api.cache else { return };
        let client = Asker::Nobody(Nobody::new(self.peer));
        let mut story = Story::of_nobody(thread, &client, &self.method);
        let inquiry = Inquiry {
            api,
            cache,
            sight: self.sight.clone(),
            keys: self.keys,
            method: self.method.clone(),
            fields: fields.clone(),
            asked: self.asked,
            role: Role::Fetch,
            why: Forward::Stale,
            seen: None,
            stale: self.stale.clone(),
            body: body.clone(),
        };
        let order = Order {
            thread,
            client: &client,
            identity: &self.identity,
            api: Some(api),
            authority: &self.authority,
            tls: self.tls,
            patience: thread.patience(None),
            deadline: None,
            version: self.version,
            asked: Some(fields),
        };
        let source = match body {
            Some(bytes) => Source::Held(Box::new(Held::of(bytes.clone()))),
            None => Source::Empty,
        };
        let request = (parts.clone(), source);
        match Box::pin(bring(&order, &inquiry, lead, request, &mut story)).await {
            Ok(_answer) => {}
            Err(Failed::Left) => {}
            Err(Failed::Rejected(why)) => {
                let (api, host) = (api.name(), order.authority.key());
                tracing::debug!(%api, %host, ?why, "what is stale could not be asked for anew");
            }
        }
    }
}
