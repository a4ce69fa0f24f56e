//! From a request that nothing answers at once to its answer: who fetches it, who waits for that, and
//! what is done with what comes.
//!
//! One request of a key leads, here and in the fleet ([`tiers`](crate::policy::cache::tiers)); it goes
//! through the pipeline as any does, with its own client. What comes and may be kept is brought to all
//! by a task of its own, so that no follower is cut because the leader's client leaves. What may not be
//! kept goes to the leader's client as it would without a cache, and each of the others goes for itself;
//! but a failure is shared by those who wait for it already.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::header;
use http::request::Parts;

use super::super::asker::Asker;
use super::super::forward;
use super::super::gateway::body as whole;
use super::super::headers;
use super::super::pipeline;
use super::super::pipeline::Failed;
use super::super::pipeline::Order;
use super::super::reject::Reject;
use super::super::story::Kind;
use super::super::story::Story;
use super::Ending;
use super::Inquiry;
use super::Judged;
use super::Role;
use super::Sight;
use super::answer;
use super::is_authorized;
use super::job;
use super::keeping;
use super::keeping::Followed;
use super::keeping::Keeping;
use super::keeping::Kept;
use super::key;
use super::note;
use crate::base::clock;
use crate::policy::Cause;
use crate::policy::End;
use crate::policy::api::Api;
use crate::policy::cache::Broken;
use crate::policy::cache::Cache;
use crate::policy::cache::Strategy;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::entry::Head;
use crate::policy::cache::entry::Terms;
use crate::policy::cache::entry::Vary;
use crate::policy::cache::invalidation;
use crate::policy::cache::key::Keys;
use crate::policy::cache::key::Place;
use crate::policy::cache::serving;
use crate::policy::cache::status::Forward;
use crate::policy::cache::status::Forwarded;
use crate::policy::cache::status::Handled;
use crate::policy::cache::status::Outcome;
use crate::policy::cache::storing;
use crate::policy::cache::storing::Asked;
use crate::policy::cache::storing::Why;
use crate::policy::cache::tiers;
use crate::policy::cache::tiers::Begun;
use crate::policy::cache::tiers::Follower;
use crate::policy::cache::tiers::Lead;
use crate::policy::cache::tiers::Looked;
use crate::policy::cache::tiers::Manner;
use crate::policy::cache::tiers::Moment;
use crate::policy::cache::validation;
use crate::policy::cache::vary;
use crate::policy::cache::vary::Chosen;
use crate::upstream::Sent;
use crate::upstream::source::Source;

/// How often a request looks for a flight before it goes for itself.
const ROUNDS: u32 = 4;
/// How long a failure that several waited for answers those who take their time to hear of it.
const SHARED: Duration = Duration::from_secs(2);

/// Where a request is on its way to an answer.
enum Went {
    /// It goes for itself.
    Alone,
    /// The same, once it has looked whether Redis has it: nobody here waits for anybody.
    Apart,
    Answer(Response<Kind>),
    /// It looks for a flight, of this variant.
    Begin(Option<Vary>),
    /// It fetches, for all.
    Fetch(Lead),
    Follow(Follower),
    /// It leads here, and has yet to ask the fleet.
    Lead(Lead),
}

/// Has a request answered that was looked for in vain.
pub(in crate::proxy) async fn fetch(
    order: &Order<'_>,
    mut inquiry: Box<Inquiry<'_>>,
    mut parts: Parts,
    mut body: Source,
    upgrade: Option<HeaderValue>,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    match inquiry.role {
        Role::Pass(why) => return pass(order, &inquiry, (parts, body), upgrade, why, story).await,
        Role::Body(bound) => {
            let gathered =
                whole::gather(order.thread, order.client, &mut parts.headers, body, bound).await?;
            let (source, Some(bytes)) = gathered else {
                let request = (parts, gathered.0);
                return pass(order, &inquiry, request, upgrade, Forward::Bypass, story).await;
            };
            body = source;
            inquiry.has_body(bytes);
            inquiry.role = Role::Fetch;
            if let Some(variants) = inquiry.cache.drawer.recall(&inquiry.keys) {
                let judged = inquiry.judge().variants(&variants, clock::wall());
                inquiry.seen = Some(variants);
                if let Some(answer) = heed(order, &mut inquiry, judged, &parts, story) {
                    return Ok(answer);
                }
            }
        }
        Role::Refresh => {
            if let Some(entry) = inquiry.stale.clone() {
                let judged = Judged::Refresh(entry);
                if let Some(answer) = heed(order, &mut inquiry, judged, &parts, story) {
                    return Ok(answer);
                }
            }
        }
        Role::Fetch => {}
    }
    if (!inquiry.leads() || inquiry.asked.only_if_cached)
        && let Some(answer) = look_further(order, &mut inquiry, &parts, story).await?
    {
        return Ok(answer);
    }
    let mut rounds = 0;
    let is_for_all = inquiry.leads() && !inquiry.asked.only_if_cached;
    let mut went = if is_for_all { Went::Begin(inquiry.variant()) } else { Went::Alone };
    loop {
        went = match went {
            Went::Begin(vary) if rounds < ROUNDS => {
                rounds += 1;
                begin(order, &mut inquiry, vary.as_ref(), &parts, story)
            }
            Went::Alone | Went::Begin(_) => {
                return alone(order, &inquiry, (parts, body), upgrade, story).await;
            }
            // What has once been fetched is in memory, where there is that.
            Went::Apart if inquiry.cache.drawer.has_memory() => Went::Alone,
            Went::Apart => look_further(order, &mut inquiry, &parts, story)
                .await?
                .map_or(Went::Alone, Went::Answer),
            Went::Answer(answer) => return Ok(answer),
            Went::Fetch(lead) => {
                let bringing = bring(order, &inquiry, lead, (parts, body), story);
                return Box::pin(bringing).await;
            }
            Went::Follow(follower) => follow(order, &inquiry, follower, story).await?,
            Went::Lead(lead) => claim(order, &mut inquiry, lead, &parts, story).await?,
        };
    }
}

/// Does what was judged; the answer, if that is one.
fn heed(
    order: &Order<'_>,
    inquiry: &mut Inquiry<'_>,
    judged: Judged,
    parts: &Parts,
    story: &mut Story,
) -> Option<Response<Kind>> {
    let (entry, outcome) = match judged {
        Judged::Answer(entry, outcome) => (entry, outcome),
        Judged::Refresh(entry) => {
            inquiry.stale = Some(Arc::clone(&entry));
            job::refresh(order, inquiry, parts, story);
            (entry, Outcome::Stale)
        }
        Judged::Ask(entry, why) => {
            inquiry.stale = entry.or(inquiry.stale.take());
            inquiry.why = why;
            return None;
        }
    };
    Some(inquiry.hit(order, &entry, outcome, story))
}

/// Looks in Redis for a request that is to fetch nothing for others, or waits for nobody.
async fn look_further(
    order: &Order<'_>,
    inquiry: &mut Inquiry<'_>,
    parts: &Parts,
    story: &mut Story,
) -> Result<Option<Response<Kind>>, Failed> {
    let found = {
        let judge = inquiry.judge();
        let looking = inquiry.cache.drawer.fetch(&inquiry.keys, |vary| judge.is_for(vary));
        order.wait(looking).await?
    };
    let Some(entry) = found else { return Ok(None) };
    let judged = inquiry.judge().found(&entry);
    Ok(heed(order, inquiry, judged, parts, story))
}

/// Looks for a flight.
fn begin(
    order: &Order<'_>,
    inquiry: &mut Inquiry<'_>,
    vary: Option<&Vary>,
    parts: &Parts,
    story: &mut Story,
) -> Went {
    match inquiry.cache.drawer.begin(&inquiry.keys, vary, inquiry.seen.as_ref()) {
        Begun::Apart => Went::Apart,
        Begun::Follow(follower) => Went::Follow(follower),
        Begun::Kept(variants) => {
            let judged = inquiry.judge().variants(&variants, clock::wall());
            inquiry.seen = Some(variants);
            let answer = heed(order, inquiry, judged, parts, story);
            answer.map_or_else(|| Went::Begin(inquiry.variant()), Went::Answer)
        }
        Begun::Lead(lead) => Went::Lead(lead),
    }
}

/// Asks the fleet, for a request that leads here.
async fn claim(
    order: &Order<'_>,
    inquiry: &mut Inquiry<'_>,
    mut lead: Lead,
    parts: &Parts,
    story: &mut Story,
) -> Result<Went, Failed> {
    let mut looked = {
        let judge = inquiry.judge();
        order.wait(lead.look(|vary| judge.is_for(vary))).await?
    };
    if lead.has_others() && inquiry.why == Forward::UriMiss {
        inquiry.why = Forward::VaryMiss;
    }
    if let Looked::Kept(entry) = &looked {
        let judged = inquiry.judge().found(entry);
        let entry = Arc::clone(entry);
        if matches!(judged, Judged::Answer(..) | Judged::Refresh(_)) {
            lead.serve(&entry);
            let answer = heed(order, inquiry, judged, parts, story);
            return Ok(answer.map_or(Went::Alone, Went::Answer));
        }
        heed(order, inquiry, judged, parts, story);
        looked = order.wait(lead.claim()).await?;
    }
    Ok(match looked {
        Looked::Apart => {
            lead.dissolve();
            Went::Alone
        }
        Looked::Elsewhere => {
            let follower = lead.follow();
            job::relay(order, inquiry, parts, lead, story);
            Went::Follow(follower)
        }
        Looked::Fetch | Looked::Kept(_) => Went::Fetch(lead),
    })
}

/// Waits for what another request brings.
async fn follow(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    mut follower: Follower,
    story: &mut Story,
) -> Result<Went, Failed> {
    let head = match order.wait(follower.head()).await? {
        tiers::Followed::Broken(Broken::Failed(Some(cause))) => {
            if let Some(entry) = inquiry.instead() {
                return Ok(Went::Answer(inquiry.hit(order, &entry, Outcome::Stale, story)));
            }
            order.count(Ending::Failure);
            return Err(Reject::Collapsed(cause).into());
        }
        tiers::Followed::Apart
        | tiers::Followed::Broken(Broken::Failed(None) | Broken::TooSlow) => {
            return Ok(Went::Alone);
        }
        tiers::Followed::Lead(lead) => return Ok(Went::Lead(lead)),
        tiers::Followed::Head(head) => head,
    };
    let judge = inquiry.judge();
    if !judge.is_for(&head.vary) {
        return Ok(Went::Begin(Some(inquiry.told_apart(&head))));
    }
    let is_of_use = !head.terms.is_always_validated && head.age(clock::wall()) < head.lifetime;
    if !is_of_use || !judge.is_open(&head) {
        return Ok(Went::Alone);
    }
    order.count(Ending::Hit);
    note(inquiry.api, order.client, Outcome::Miss, story);
    let went =
        Forwarded { why: inquiry.why, status: None, stored: None, collapsed: true, unkept: None };
    let said = (Handled::Forwarded(went), Outcome::Miss);
    let (thread, api) = (order.thread, inquiry.api);
    if validation::is_known(&inquiry.method, &inquiry.fields, &head) {
        return Ok(Went::Answer(answer::unchanged(thread, api, &head, said)));
    }
    let kind = Kind::Followed(Box::new(Followed::new(follower, &head)));
    Ok(Went::Answer(answer::begun(thread, api, &head, kind, said)))
}

/// Fetches for all, and answers the client that this one is of.
pub(super) async fn bring(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    mut lead: Lead,
    (parts, body): (Parts, Source),
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let (came, mut at, holds) = ask(order, inquiry, (parts, body), story).await;
    if let Some(entry) = holds {
        return Ok(revalidated(order, inquiry, Known::Led(lead), entry, came?, at, story));
    }
    let mut sent = match came {
        Ok(sent) => sent,
        Err(Failed::Left) => return Err(Failed::Left),
        Err(Failed::Rejected(reject)) => {
            if let Some(entry) = inquiry.instead() {
                lead.serve(&entry);
                return Ok(stand_in(order, inquiry, &entry, None, story));
            }
            lead.fail(cause(&reject));
            return Err(reject.into());
        }
    };
    // What a slot was waited for is no time of the response.
    at += sent.waited;
    let status = sent.response.status();
    if serving::is_error(status.as_u16())
        && let Some(entry) = inquiry.instead()
    {
        lead.serve(&entry);
        return Ok(stand_in(order, inquiry, &entry, Some(status.as_u16()), story));
    }
    let version = sent.response.version();
    headers::strip(sent.response.headers_mut(), version);
    let (head, manner) = match kept(inquiry, &sent, at) {
        Ok(head) => (head, Manner::Keep),
        Err(Why::Status) if is_shared(status) => (shared(inquiry, &sent, at), Manner::Share),
        Err(why) => {
            lead.dissolve();
            return through(order, inquiry, sent, None, (inquiry.why, Some(why)), story).await;
        }
    };
    let head = Arc::new(head);
    let mut follower = lead.follow();
    let is_gone_on_with = lead.head(Arc::clone(&head), manner).is_ok();
    let is_kept = is_gone_on_with && manner == Manner::Keep;
    let stored = is_kept.then(|| answer::ttl(&head));
    let unkept = (manner == Manner::Share).then_some(Why::Status);
    note(inquiry.api, order.client, Outcome::Miss, story);
    let response = forward::deliver(order, sent, None).await?;
    let (mut answer, kind) = response.into_parts();
    let went = Forwarded { why: inquiry.why, status: None, stored, collapsed: false, unkept };
    let said = (Handled::Forwarded(went), Outcome::Miss);
    answer::say(&mut answer.headers, said.0, said.1);
    let Kind::Upstream(mut body) = kind else { return Ok(Response::from_parts(answer, kind)) };
    if !is_gone_on_with || !matches!(follower.head().await, tiers::Followed::Head(_)) {
        return Ok(Response::from_parts(answer, Kind::Upstream(body)));
    }
    body.outlive_client();
    super::super::spawn(order.thread, keeping::pump(Arc::clone(inquiry.api), lead, body));
    if validation::is_known(&inquiry.method, &inquiry.fields, &head) {
        return Ok(answer::unchanged(order.thread, inquiry.api, &head, said));
    }
    // No trailers are kept, nor brought to several.
    answer.headers.remove(header::TRAILER);
    let kind = Kind::Followed(Box::new(Followed::new(follower, &head)));
    Ok(Response::from_parts(answer, kind))
}

/// Asks the origin, about what is stale if there is that: its answer, when it was asked, and what is kept if
/// that still holds.
async fn ask<'i>(
    order: &Order<'_>,
    inquiry: &'i Inquiry<'_>,
    (mut parts, body): (Parts, Source),
    story: &mut Story,
) -> (Result<Sent, Failed>, SystemTime, Option<&'i Arc<Entry>>) {
    let stale = inquiry.stale.as_ref().filter(|entry| entry.head.has_validator());
    let stale = stale.filter(|_| inquiry.method == Method::GET);
    let at = clock::wall();
    let Some(entry) = stale else {
        validation::clear(&mut parts.headers);
        return (pipeline::answer(order, parts, body, story).await, at, None);
    };
    let mut again = parts.clone();
    validation::ask(&mut parts.headers, &entry.head);
    let came = pipeline::answer(order, parts, body, story).await;
    let Ok(sent) = &came else { return (came, at, None) };
    if sent.response.status() != StatusCode::NOT_MODIFIED {
        return (came, at, None);
    }
    if validation::is_about(&entry.head, sent.response.headers()) {
        return (came, at, Some(entry));
    }
    // It speaks of another response, which nobody here has (RFC 9111 §4.3.4).
    validation::clear(&mut again.headers);
    let at = clock::wall();
    (pipeline::answer(order, again, Source::Empty, story).await, at, None)
}

/// To whom it is news that what is kept still holds.
enum Known {
    /// To all who follow.
    Led(Lead),
    /// To nobody else; when it was asked for.
    Alone(Moment),
}

/// What is kept still holds.
fn revalidated(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    known: Known,
    entry: &Entry,
    mut sent: Sent,
    at: SystemTime,
    story: &mut Story,
) -> Response<Kind> {
    let version = sent.response.version();
    headers::strip(sent.response.headers_mut(), version);
    let fields = validation::freshened(&entry.head, sent.response.headers());
    let body = entry.body.clone();
    let (head, is_kept) = match judge(inquiry, &inquiry.method, entry.head.status, &fields, at) {
        Ok(head) => (head, true),
        Err(_why) => {
            let (answered, head) = (clock::wall(), entry.head.as_ref().clone());
            (Head { fields, asked: at, answered, ..head }, false)
        }
    };
    let entry = Arc::new(Entry { head: Arc::new(head), body });
    let drawer = &inquiry.cache.drawer;
    if is_kept {
        match known {
            Known::Led(lead) => lead.finish(&entry),
            Known::Alone(since) => drawer.keep(&inquiry.keys, Arc::clone(&entry), since),
        }
        inquiry.api.counts.stored();
    } else {
        // SECURITY: what the 304 said is for this client alone: a cookie, say.
        drawer.forget(&inquiry.keys);
        if let Known::Led(lead) = known {
            lead.dissolve();
        }
    }
    note(inquiry.api, order.client, Outcome::Revalidated, story);
    let went = Forwarded {
        why: inquiry.why,
        status: Some(StatusCode::NOT_MODIFIED.as_u16()),
        stored: is_kept.then(|| answer::ttl(&entry.head)),
        collapsed: false,
        unkept: None,
    };
    let said = (Handled::Forwarded(went), Outcome::Revalidated);
    let asked = (&inquiry.method, &inquiry.fields);
    answer::of(order.thread, inquiry.api, asked, &entry, said)
}

/// What is kept answers, since the origin could not.
fn stand_in(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    entry: &Entry,
    status: Option<u16>,
    story: &mut Story,
) -> Response<Kind> {
    note(inquiry.api, order.client, Outcome::Stale, story);
    let (why, stored, collapsed, unkept) = (inquiry.why, None, false, None);
    let handled = Handled::Forwarded(Forwarded { why, status, stored, collapsed, unkept });
    let asked = (&inquiry.method, &inquiry.fields);
    answer::of(order.thread, inquiry.api, asked, entry, (handled, Outcome::Stale))
}

/// Fetches for one client, who waits for nobody. What may be kept is kept.
async fn alone(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    (parts, body): (Parts, Source),
    upgrade: Option<HeaderValue>,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    if inquiry.asked.only_if_cached {
        order.count(Ending::Request);
        return Err(Reject::NotCached.into());
    }
    let (since, at) = (inquiry.cache.drawer.moment(), clock::wall());
    let (came, at, holds) = if inquiry.method == Method::GET && !inquiry.is_part() {
        ask(order, inquiry, (parts, body), story).await
    } else {
        (pipeline::answer(order, parts, body, story).await, at, None)
    };
    if let Some(entry) = holds {
        return Ok(revalidated(order, inquiry, Known::Alone(since), entry, came?, at, story));
    }
    let mut sent = match came {
        Ok(sent) => sent,
        Err(Failed::Left) => return Err(Failed::Left),
        Err(Failed::Rejected(reject)) => {
            let entry = inquiry.instead().ok_or(reject)?;
            return Ok(stand_in(order, inquiry, &entry, None, story));
        }
    };
    let status = sent.response.status();
    if serving::is_error(status.as_u16())
        && let Some(entry) = inquiry.instead()
    {
        return Ok(stand_in(order, inquiry, &entry, Some(status.as_u16()), story));
    }
    let version = sent.response.version();
    headers::strip(sent.response.headers_mut(), version);
    if inquiry.method == Method::HEAD {
        hear_head(inquiry, &sent, at);
        return through(order, inquiry, sent, upgrade, (inquiry.why, None), story).await;
    }
    let head = match kept(inquiry, &sent, at) {
        Ok(head) => head,
        Err(why) => {
            let said = (inquiry.why, Some(why));
            return through(order, inquiry, sent, upgrade, said, story).await;
        }
    };
    note(inquiry.api, order.client, Outcome::Miss, story);
    let (why, ttl) = (inquiry.why, answer::ttl(&head));
    let went = Forwarded { why, status: None, stored: Some(ttl), collapsed: false, unkept: None };
    let mut response = forward::deliver(order, sent, upgrade).await?;
    answer::say(response.headers_mut(), Handled::Forwarded(went), Outcome::Miss);
    let (api, keys) = (Arc::clone(inquiry.api), inquiry.keys);
    let keeping = Keeping { api, keys, head, since, parts: Vec::new(), length: 0 };
    Ok(response.map(|kind| match kind {
        Kind::Upstream(body) => Kind::Kept(Box::new(Kept::new(body, keeping))),
        Kind::Empty | Kind::Followed(_) | Kind::Kept(_) | Kind::Own(_) => kind,
    }))
}

/// What a HEAD says of what is kept (RFC 9111 §4.3.5).
fn hear_head(inquiry: &Inquiry<'_>, sent: &Sent, at: SystemTime) {
    let Some(entry) = &inquiry.stale else { return };
    let (status, fields) = (sent.response.status(), sent.response.headers());
    if status != StatusCode::OK {
        return;
    }
    let drawer = &inquiry.cache.drawer;
    if !validation::is_same(&entry.head, status, fields) {
        drawer.forget(&inquiry.keys);
        return;
    }
    let fields = validation::freshened(&entry.head, fields);
    // It is about what GET would bring.
    if let Ok(head) = judge(inquiry, &Method::GET, status, &fields, at) {
        let entry = Entry { head: Arc::new(head), body: entry.body.clone() };
        drawer.keep(&inquiry.keys, Arc::new(entry), drawer.moment());
    }
}

/// Has a request answered that the cache has no part in, and forgets what it has changed.
async fn pass(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    (parts, body): (Parts, Source),
    upgrade: Option<HeaderValue>,
    why: Forward,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let uri = parts.uri.clone();
    let sent = pipeline::answer(order, parts, body, story).await?;
    let status = sent.response.status();
    if invalidation::is_due(&inquiry.cache.settings, &inquiry.method, status) {
        let drawer = &inquiry.cache.drawer;
        let (path, query) = (uri.path(), uri.query());
        let target = Place { tls: order.tls, authority: order.authority, path, query };
        let forget = |place| drawer.forget(&Keys { place, request: place });
        forget(inquiry.keys.place);
        invalidation::others(&target, sent.response.headers(), |place| {
            forget(place.hash(inquiry.api.name()));
        });
    }
    through(order, inquiry, sent, upgrade, (why, None), story).await
}

/// A response that its client alone gets.
async fn through(
    order: &Order<'_>,
    inquiry: &Inquiry<'_>,
    sent: Sent,
    upgrade: Option<HeaderValue>,
    (why, unkept): (Forward, Option<Why>),
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let mut response = forward::deliver(order, sent, upgrade).await?;
    let outcome = match why {
        Forward::Bypass | Forward::Method => Outcome::Bypass,
        Forward::Request | Forward::Stale | Forward::UriMiss | Forward::VaryMiss => Outcome::Miss,
    };
    note(inquiry.api, order.client, outcome, story);
    let went = Forwarded { why, status: None, stored: None, collapsed: false, unkept };
    answer::say(response.headers_mut(), Handled::Forwarded(went), outcome);
    Ok(response)
}

/// What may be kept of a response that has come now, without the fields of its hop.
fn kept(inquiry: &Inquiry<'_>, sent: &Sent, at: SystemTime) -> Result<Head, Why> {
    let (status, fields) = (sent.response.status(), sent.response.headers());
    judge(inquiry, &inquiry.method, status, fields, at)
}

fn judge(
    inquiry: &Inquiry<'_>,
    method: &Method,
    status: StatusCode,
    fields: &HeaderMap,
    at: SystemTime,
) -> Result<Head, Why> {
    let Inquiry { api, cache, sight, fields: asked, .. } = inquiry;
    if api.settings.gateway.forwarded && tells_of_clients(fields) {
        return Err(Why::Vary);
    }
    // Neither is for anybody but us.
    if !is_plain(status) {
        return Err(Why::Status);
    }
    let asked = Asked {
        method,
        fields: asked,
        sees: &|name| sight.sees(api, name),
        no_store: inquiry.asked.no_store,
        is_authorized: is_authorized(api, sight, asked),
        has_cookie: has_cookie(cache, api, sight, asked),
        at,
    };
    storing::keep(&cache.settings, &asked, status, fields, clock::wall())
}

/// Whether the origin saw a Cookie that makes no other request.
fn has_cookie(cache: &Cache, api: &Api, sight: &Sight, fields: &HeaderMap) -> bool {
    let is_part = match &cache.settings.strategy {
        Strategy::All => true,
        Strategy::Listed(names) => names.contains(&header::COOKIE),
        Strategy::None => false,
    };
    !is_part && fields.contains_key(header::COOKIE) && sight.sees(api, &header::COOKIE)
}

/// Whether a response was chosen by what the gateway says of a client, which no key has.
fn tells_of_clients(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(header::VARY).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).any(|name| {
        name.trim_ascii().get(..12).is_some_and(|name| name.eq_ignore_ascii_case(b"x-forwarded-"))
    })
}

fn is_plain(status: StatusCode) -> bool {
    !matches!(status, StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::SWITCHING_PROTOCOLS)
}

/// Whether those who wait for a response get it though it is not kept: a failure of the origin, or one
/// that any cache may keep (RFC 9110 §15.1). What was refused to one client was not refused to others.
fn is_shared(status: StatusCode) -> bool {
    let is_failure = status.is_client_error() || status.is_server_error();
    serving::is_error(status.as_u16()) || is_failure && storing::is_kept_by_default(status)
}

/// The head of a failure that those get who wait for it.
fn shared(inquiry: &Inquiry<'_>, sent: &Sent, at: SystemTime) -> Head {
    let fields = sent.response.headers();
    let vary = match Chosen::of(fields) {
        Chosen::By(names) => {
            vary::nominate(&names, &inquiry.fields, |name| inquiry.sight.sees(inquiry.api, name))
        }
        Chosen::Unknown => Vary::default(),
    };
    Head {
        method: inquiry.method.clone(),
        status: sent.response.status(),
        fields: fields.clone(),
        asked: at,
        answered: clock::wall(),
        vary,
        lifetime: SHARED,
        keep: Duration::ZERO,
        terms: Terms::default(),
    }
}

/// What those who wait for it are told of why there is no response.
fn cause(reject: &Reject) -> Option<Cause> {
    // Each hears for itself what a gate says.
    let Reject::Send(error) = reject else { return None };
    match error.end() {
        End::Failed(cause) => Some(cause),
        End::Neutral | End::Status(_) => None,
    }
}

impl Order<'_> {
    /// Waits for as long as the client does.
    async fn wait<T>(&self, something: impl Future<Output = T>) -> Result<T, Failed> {
        let came = self.client.unless_left(something).await;
        came.ok_or(Failed::Left).inspect_err(|_left| self.count(Ending::Left))
    }

    /// Counts a request that no attempt was made for.
    fn count(&self, ending: Ending) {
        if let Some(api) = self.api.filter(|_| !matches!(self.client, Asker::Nobody(_))) {
            api.counts.asked(ending);
        }
    }
}

impl Inquiry<'_> {
    /// All of its body has been read.
    fn has_body(&mut self, bytes: Bytes) {
        let found = (self.keys, &self.method);
        self.keys = key(self.api, self.cache, &self.sight, found, &self.fields, Some(&bytes));
        self.body = Some(bytes);
    }

    /// What may stand in for an answer that there is not.
    fn instead(&self) -> Option<Arc<Entry>> {
        let stale = self.stale.as_ref();
        let stale =
            stale.filter(|entry| serving::replaces_error(&entry.head, &self.asked, clock::wall()));
        stale.map(Arc::clone)
    }

    fn hit(
        &self,
        order: &Order<'_>,
        entry: &Entry,
        outcome: Outcome,
        story: &mut Story,
    ) -> Response<Kind> {
        order.count(Ending::Hit);
        note(self.api, order.client, outcome, story);
        answer::whole(order.thread, self.api, (&self.method, &self.fields), entry, outcome)
    }
}
