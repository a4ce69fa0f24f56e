//! The cache's place around a request: what is kept answers it, or what comes for it is kept.
//!
//! [`look`] stands before all but the front gates, so that a fresh answer costs nothing that is made of
//! a request, and is given while the circuit is open. What it cannot answer is an [`Inquiry`], which
//! [`fetch`](fetch::fetch) takes to the flights and, where this request leads one, to the pipeline;
//! [`answer`] makes answers of what is kept, and [`job`] fetches where no client waits. What may be kept
//! and what it may be used for decides [`policy::cache`](crate::policy::cache).
//!
//! Invariants: an answer that no origin was asked for tells no breaker anything; each request of a
//! client is counted once, by what it got; whoever waits for another's response waits as long as its
//! client would and no longer.

mod answer;
mod fetch;
mod job;
mod keeping;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Request;
use http::Response;
use http::header;
use http_body::Body as _;

pub(super) use self::fetch::fetch;
pub(super) use self::keeping::Followed;
pub(super) use self::keeping::Kept;
use super::Thread;
use super::asker::Asker;
use super::gateway::fields;
use super::headers;
use super::story::Kind;
use super::story::Story;
use crate::base::clock;
use crate::policy::api::Api;
use crate::policy::api::counts::Outcome as Ending;
use crate::policy::cache::Cache;
use crate::policy::cache::control::OfRequest;
use crate::policy::cache::control::OfResponse;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::entry::Head;
use crate::policy::cache::entry::Variants;
use crate::policy::cache::entry::Vary;
use crate::policy::cache::key::Asked;
use crate::policy::cache::key::Keys;
use crate::policy::cache::key::Place;
use crate::policy::cache::serving;
use crate::policy::cache::serving::Because;
use crate::policy::cache::serving::Use;
use crate::policy::cache::status::Forward;
use crate::policy::cache::status::Outcome;
use crate::policy::cache::validation;
use crate::policy::cache::vary;
use crate::upstream::source::Source;

/// A request, as far as its answer may be kept or found.
pub(super) struct Site<'a, 'r> {
    pub(super) api: &'a Arc<Api>,
    /// What it asks for, at its origin.
    pub(super) place: Place<'r>,
    pub(super) method: &'r Method,
    /// As they came.
    pub(super) fields: &'r HeaderMap,
    pub(super) has_body: bool,
    pub(super) sight: Sight,
}

impl<'a, 'r> Site<'a, 'r> {
    pub(super) fn of(
        api: &'a Arc<Api>,
        place: Place<'r>,
        request: &'r Request<Source>,
        sight: Sight,
    ) -> Self {
        let (method, fields) = (request.method(), request.headers());
        Self { api, place, method, fields, has_body: !request.body().is_end_stream(), sight }
    }
}

/// Which fields of a client its origin sees, by the route that the request takes.
#[derive(Clone)]
pub(super) enum Sight {
    /// All, but where the API sets its own in their place.
    Forward { is_dressed: bool },
    /// Those that the gateway sends on: none that was meant for us.
    Gateway { ours: Vec<HeaderName> },
}

impl Sight {
    fn sees(&self, api: &Api, name: &HeaderName) -> bool {
        let gateway = &api.settings.gateway;
        let is_ours = gateway.headers.iter().any(|(own, _)| own == name)
            || gateway.remove_headers.contains(name);
        match self {
            Self::Forward { is_dressed } => !(*is_dressed && is_ours),
            Self::Gateway { ours } => !is_ours && fields::goes(gateway, ours, false, name),
        }
    }
}

/// What the cache does for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing is looked for, and nothing kept.
    Pass(Forward),
    /// Its body, of up to so many bytes, is part of what it asks for, and has yet to be read.
    Body(u64),
    /// Nothing has been found that answers it.
    Fetch,
    /// What was found answers it, and is asked for anew.
    Refresh,
}

/// What was found.
#[expect(clippy::large_enum_variant, reason = "PERF: a hit is not boxed to be handed on once")]
pub(super) enum Looked<'a> {
    Answer(Response<Kind>),
    /// Nothing that answers it at once.
    Inquiry(Box<Inquiry<'a>>),
    /// There is no cache here.
    Nothing,
}

/// A request whose answer was looked for.
pub(super) struct Inquiry<'a> {
    api: &'a Arc<Api>,
    cache: &'a Cache,
    sight: Sight,
    keys: Keys,
    method: Method,
    /// As they came.
    fields: HeaderMap,
    asked: OfRequest,
    role: Role,
    why: Forward,
    /// What memory had.
    seen: Option<Arc<Variants>>,
    /// What was found for this request, and has to be asked about.
    stale: Option<Arc<Entry>>,
    /// All of its body, where that is a part of what it asks for.
    body: Option<Bytes>,
}

/// Looks for an answer that is kept in memory.
pub(super) fn look<'a>(
    thread: &Thread,
    client: &Asker,
    site: Site<'a, '_>,
    story: &mut Story,
) -> Looked<'a> {
    let Site { api, place, method, fields, ref sight, .. } = site;
    let Some(cache) = &api.cache else { return Looked::Nothing };
    let asked = OfRequest::read(fields);
    let role = role(cache, &site, &asked);
    let place = place.hash(api.name());
    let mut keys = Keys { place, request: place };
    if role == Role::Fetch {
        keys = key(api, cache, sight, (keys, method), fields, None);
        if let Some(variants) = cache.drawer.recall(&keys) {
            let judge = Judge { api, sight, fields, asked: &asked };
            match judge.variants(&variants, clock::wall()) {
                Judged::Answer(entry, outcome) => {
                    note(api, client, outcome, story);
                    api.counts.asked(Ending::Hit);
                    if headers::closes(fields) {
                        client.says_goodbye();
                    }
                    let response = answer::whole(thread, api, (method, fields), &entry, outcome);
                    return Looked::Answer(response);
                }
                Judged::Refresh(entry) => {
                    let found = (Role::Refresh, Forward::Stale, Some(entry));
                    return inquiry(site, cache, keys, asked, found, Some(variants));
                }
                Judged::Ask(entry, why) => {
                    let found = (Role::Fetch, why, entry);
                    return inquiry(site, cache, keys, asked, found, Some(variants));
                }
            }
        }
    }
    let why = if let Role::Pass(why) = role { why } else { Forward::UriMiss };
    inquiry(site, cache, keys, asked, (role, why, None), None)
}

fn inquiry<'a>(
    site: Site<'a, '_>,
    cache: &'a Cache,
    keys: Keys,
    asked: OfRequest,
    (role, why, stale): (Role, Forward, Option<Arc<Entry>>),
    seen: Option<Arc<Variants>>,
) -> Looked<'a> {
    let Site { api, sight, method, .. } = site;
    let fields = match role {
        Role::Pass(_) => HeaderMap::new(),
        Role::Body(_) | Role::Fetch | Role::Refresh => site.fields.clone(),
    };
    let method = method.clone();
    Looked::Inquiry(Box::new(Inquiry {
        api,
        cache,
        sight,
        keys,
        method,
        fields,
        asked,
        role,
        why,
        seen,
        stale,
        body: None,
    }))
}

/// What the cache may do for a request.
fn role(cache: &Cache, site: &Site<'_, '_>, asked: &OfRequest) -> Role {
    let Site { method, fields, has_body, .. } = site;
    // A client that wants nothing kept is not served what was; conditions for the origin are judged
    // there; what upgrades is no answer at all.
    let is_apart =
        asked.no_store || validation::is_for_origin(fields) || fields.contains_key(header::UPGRADE);
    if is_apart {
        return Role::Pass(Forward::Bypass);
    }
    match **method {
        Method::GET | Method::HEAD if *has_body => Role::Pass(Forward::Bypass),
        Method::GET | Method::HEAD => Role::Fetch,
        _ => match cache.settings.takes_body(method) {
            Some(bound) => Role::Body(bound),
            None => Role::Pass(Forward::Method),
        },
    }
}

/// The key of a request.
fn key(
    api: &Api,
    cache: &Cache,
    sight: &Sight,
    (keys, method): (Keys, &Method),
    fields: &HeaderMap,
    body: Option<&[u8]>,
) -> Keys {
    let is_private = cache.settings.over().authorization && is_authorized(api, sight, fields);
    let asked = Asked { method, fields, body };
    Keys::of(keys.place, asked, &cache.settings.strategy, is_private)
}

/// Whether the origin is told who the client is, by the client.
fn is_authorized(api: &Api, sight: &Sight, fields: &HeaderMap) -> bool {
    fields.contains_key(header::AUTHORIZATION) && sight.sees(api, &header::AUTHORIZATION)
}

/// Notes what the cache did for a request.
fn note(api: &Api, client: &Asker, outcome: Outcome, story: &mut Story) {
    if !matches!(client, Asker::Nobody(_)) {
        api.counts.cached(outcome);
        story.cached(outcome);
    }
}

/// A request, before what was found for it.
struct Judge<'a> {
    api: &'a Api,
    sight: &'a Sight,
    fields: &'a HeaderMap,
    asked: &'a OfRequest,
}

/// What may be done with what was found.
enum Judged {
    Answer(Arc<Entry>, Outcome),
    /// It answers, and is asked for anew.
    Refresh(Arc<Entry>),
    /// The origin is asked, about this one if there is one for the request.
    Ask(Option<Arc<Entry>>, Forward),
}

impl Judge<'_> {
    /// Whether a response is for this request.
    fn is_for(&self, vary: &Vary) -> bool {
        vary::matches(vary, self.fields, |name| self.sight.sees(self.api, name))
    }

    /// Whether a response may answer a client that says who it is: only one that is for all (RFC 9111
    /// §3.5 has that of what such a request brought; who logs in is not to see what those do who have
    /// not). Where the key has who asks, it is that one's own.
    fn is_open(&self, head: &Head) -> bool {
        let is_own =
            self.api.cache.as_ref().is_some_and(|cache| cache.settings.over().authorization);
        is_own
            || !is_authorized(self.api, self.sight, self.fields)
            || OfResponse::read(&head.fields).is_for_all()
    }

    fn variants(&self, variants: &Variants, now: SystemTime) -> Judged {
        let mut is_any = false;
        let found = variants.iter().find(|entry| {
            is_any = true;
            self.is_for(&entry.head.vary) && self.is_open(&entry.head)
        });
        match found {
            Some(entry) => self.entry(entry, now),
            None => Judged::Ask(None, if is_any { Forward::VaryMiss } else { Forward::UriMiss }),
        }
    }

    /// What may be done with one that is for this request, as Redis has it.
    fn found(&self, entry: &Arc<Entry>) -> Judged {
        if self.is_open(&entry.head) {
            self.entry(entry, clock::wall())
        } else {
            Judged::Ask(None, Forward::VaryMiss)
        }
    }

    fn entry(&self, entry: &Arc<Entry>, now: SystemTime) -> Judged {
        let entry = Arc::clone(entry);
        match serving::judge(&entry.head, self.asked, now) {
            Use::Fresh => Judged::Answer(entry, Outcome::Hit),
            Use::Stale => Judged::Answer(entry, Outcome::Stale),
            Use::WhileRevalidated => Judged::Refresh(entry),
            Use::Ask(Because::Stale) => Judged::Ask(Some(entry), Forward::Stale),
            Use::Ask(Because::Request) => Judged::Ask(Some(entry), Forward::Request),
        }
    }
}

impl Inquiry<'_> {
    /// Whether something that is kept may answer it yet, or stand in for an answer.
    pub(super) fn may_be_found(&self) -> bool {
        !matches!(self.role, Role::Pass(_))
    }

    fn judge(&self) -> Judge<'_> {
        let Self { api, sight, fields, asked, .. } = self;
        Judge { api, sight, fields, asked }
    }

    /// What of this request tells it from others of the same key, as far as what was found says.
    fn variant(&self) -> Option<Vary> {
        let found = self.stale.as_ref().map(|entry| &entry.head);
        let seen = self.seen.as_ref().and_then(|seen| seen.iter().next());
        found.or(seen.map(|entry| &entry.head)).map(|head| self.told_apart(head))
    }

    fn told_apart(&self, head: &Head) -> Vary {
        let names: Vec<HeaderName> = head.vary.0.iter().map(|(name, _)| name.clone()).collect();
        vary::nominate(&names, &self.fields, |name| self.sight.sees(self.api, name))
    }

    /// Whether what comes for it may be others' too: it is for all of a response, or becomes a
    /// question about what is kept.
    fn leads(&self) -> bool {
        self.method != Method::HEAD && (!self.is_part() || self.stale.is_some())
    }

    /// Whether it asks for less than all of a response.
    fn is_part(&self) -> bool {
        validation::is_conditional(&self.fields) || self.fields.contains_key(header::RANGE)
    }
}
