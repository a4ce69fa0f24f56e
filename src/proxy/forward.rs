//! Plain requests: which way each takes, and what becomes of one in absolute-form: made the
//! upstream's, and its response made the client's. Between the two is [`pipeline`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http::request::Parts;
use http::uri::Scheme;
use http_body::Body as _;
use thiserror::Error;
use tokio::time::Instant;

use super::Thread;
use super::asker::Asker;
use super::cache;
use super::cache::Inquiry;
use super::cache::Looked;
use super::cache::Sight;
use super::cache::Site;
use super::front;
use super::gates;
use super::gates::Ask;
use super::gateway;
use super::gateway::Call;
use super::headers;
use super::http2;
use super::local;
use super::local::Forwards;
use super::pipeline;
use super::pipeline::Failed;
use super::pipeline::Order;
use super::reject;
use super::reject::Reject;
use super::status;
use super::story::Body;
use super::story::Kind;
use super::story::Story;
use super::toll;
use super::toll::Payer;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit::Patience;
use crate::policy::access::Denied;
use crate::policy::access::Given;
use crate::policy::access::Known;
use crate::policy::access::entrance::Place;
use crate::policy::api::Api;
use crate::policy::api::Apis;
use crate::policy::cache::key;
use crate::telemetry::metrics::Route;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::source::Source;

/// RFC 7240.
static PREFER: HeaderName = HeaderName::from_static("prefer");
/// Attempts after the first, on an answer that took any.
static RETRY_COUNT: HeaderName = HeaderName::from_static("x-retry-count");

/// The client left; there is nobody to answer.
#[derive(Debug, Error)]
#[error("the client left")]
pub(crate) struct Left;

/// Serves one request.
pub(crate) async fn serve(
    thread: Rc<Thread>,
    client: Asker,
    request: Request<Source>,
) -> Result<Response<Body>, Left> {
    let mut story = Story::begin(&thread, &client, &request);
    let is_ours = is_ours(&thread, &client, request.uri());
    // One state of the APIs for all that follows: else keys could be neither asked for nor passwords.
    let apis = thread.apis.load();
    let wish = Wish::read(&thread, &apis, &request, is_ours);
    let of_host = match &wish {
        Ok(Wish::Forward { authority, .. }) => apis.of_host(authority.key()),
        Ok(Wish::Gateway { .. } | Wish::Own(_)) | Err(_) => None,
    };
    let asks_for_keys = match &wish {
        Ok(Wish::Gateway { api, .. }) => api.asks_for_keys(),
        Ok(Wish::Forward { .. } | Wish::Own(_)) | Err(_) => {
            of_host.is_some_and(|api| api.asks_for_keys())
        }
    };
    // Whoever asks how it is may be a machine that knows no password.
    let is_health = is_ours && request.uri().path() == "/health";
    let is_open = is_health && matches!(wish, Ok(Wish::Own(_)));
    let is_gateway = is_ours && gateway::has(request.uri());
    let claim = is_gateway.then(|| gateway::claim(&thread, &client, &request));
    let claim = claim.unwrap_or(header::PROXY_AUTHORIZATION);
    let admitted = if is_open {
        Ok(Identity::Anonymous)
    } else if asks_for_keys {
        front::admit_without_password(&thread, &client)
    } else {
        let given = || Given::by(request.headers(), &claim);
        front::admit(&thread, &client, given).await.ok_or(Left)?
    };
    if let Ok(identity) = &admitted {
        story.asked_by(identity);
    }
    let result = match (admitted, wish) {
        // Who asks a gateway need know of no proxy (RFC 9110 §11.6.1).
        (Err(Reject::Denied(Denied::Credentials)), _) if is_gateway => Err(Reject::Stranger),
        (Err(reject), _) | (Ok(_), Err(reject)) => Err(reject),
        (Ok(_), Ok(Wish::Own(answer))) => Ok(answer.map(|body| Kind::Own(Some(body)))),
        (Ok(identity), Ok(Wish::Forward { authority, tls, left })) => {
            story.bound_for(Route::Forward, &authority);
            let bound_for = (of_host, &authority, tls, left);
            settled(forward(&thread, &client, request, bound_for, &identity, &mut story).await)?
        }
        (Ok(identity), Ok(Wish::Gateway { api, left })) => {
            let is_authorization_ours = claim == header::AUTHORIZATION && !asks_for_keys;
            let call = Call { api: &api, identity: &identity, left, is_authorization_ours };
            settled(gateway::serve(&thread, &client, request, call, &mut story).await)?
        }
    };
    client.begin_answer();
    let mut response = match result {
        Ok(response) => {
            story.answered(response.status().as_u16(), None);
            response
        }
        Err(reject) => {
            let (mut response, error) = reject::respond(&reject, thread.settings.manner());
            story.answered(response.status().as_u16(), Some(error));
            if reject.closes() && matches!(client, Asker::Connection(_)) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response.map(|body| Kind::Own(Some(body)))
        }
    };
    if let Some(told) = story.told.take() {
        told.put(response.headers_mut());
    }
    if story.retries() > 0 {
        response.headers_mut().insert(&RETRY_COUNT, story.retries().into());
    }
    Ok(response.map(|kind| Body { kind, story }))
}

/// Whether a target is ours: one without a host, or over HTTP/2, which has no other, one whose host
/// is a name of ours and whose path one of our own.
fn is_ours(thread: &Thread, client: &Asker, uri: &Uri) -> bool {
    let Some(named) = uri.authority() else { return true };
    let Asker::Stream(stream) = client else { return false };
    (uri.path() == "/health" || gateway::has(uri))
        && stream.client().is_called(thread, named.as_str(), uri.scheme() == Some(&Scheme::HTTPS))
}

/// What a request asks of us.
enum Wish {
    /// To be sent on; `left` is how many hops it may still make after this one.
    Forward { authority: Authority, tls: bool, left: Option<u32> },
    /// To be sent to an API.
    Gateway { api: Arc<Api>, left: Option<u32> },
    /// Nothing that anybody else could answer.
    Own(Response<Bytes>),
}

impl Wish {
    fn read(
        thread: &Thread,
        apis: &Apis,
        request: &Request<Source>,
        is_ours: bool,
    ) -> Result<Self, Reject> {
        if request.version() == Version::HTTP_2 {
            http2::check(thread, request).map_err(Reject::Flaw)?;
        }
        let uri = request.uri();
        let Some(authority) = uri.authority().filter(|_| !is_ours) else {
            if !gateway::has(uri) {
                return local::asked(request).map(Self::Own).ok_or(Reject::NotForProxy);
            }
            let api = gateway::find(thread, apis, request)?;
            return judge(thread, request, |left| Self::Gateway { api, left });
        };
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(Reject::BadScheme),
        };
        let authority = thread
            .authority(authority.as_str(), tls)
            .map_err(|why| Reject::BadTarget { target: uri.to_string(), why })?;
        judge(thread, request, |left| Self::Forward { authority, tls, left })
    }
}

/// Whether a request that is to be sent on may be, and how many hops it may still make then.
fn judge(
    thread: &Thread,
    request: &Request<Source>,
    on: impl FnOnce(Option<u32>) -> Wish,
) -> Result<Wish, Reject> {
    let headers = request.headers();
    if thread.via.as_ref().is_some_and(|via| via.has_passed(headers)) {
        return Err(Reject::Loop);
    }
    if request.version() != Version::HTTP_10 && headers::expects_continue(headers).is_err() {
        return Err(Reject::Expectation);
    }
    match local::forwards(request.method(), headers) {
        Ok(Forwards::Over) => Ok(Wish::Own(local::last(request))),
        Ok(Forwards::Left(left)) => Ok(on(Some(left))),
        Ok(Forwards::Unlimited) => Ok(on(None)),
        Err(()) => Err(Reject::MaxForwards),
    }
}

/// A response, or why we answer instead, unless there is nobody to answer.
fn settled(came: Result<Response<Kind>, Failed>) -> Result<Result<Response<Kind>, Reject>, Left> {
    match came {
        Ok(response) => Ok(Ok(response)),
        Err(Failed::Rejected(reject)) => Ok(Err(reject)),
        Err(Failed::Left) => Err(Left),
    }
}

async fn forward(
    thread: &Thread,
    client: &Asker,
    request: Request<Source>,
    (api, authority, tls, left): (Option<&Arc<Api>>, &Authority, bool, Option<u32>),
    identity: &Identity,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let mut known = Known::of(identity.clone());
    let mut inquiry = None;
    if let Some(api) = api {
        story.meets(api);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let ask = Ask {
            thread,
            client,
            api,
            identity,
            place: Place::Proxy(Given::of(request.headers())),
            method: request.method(),
            path: Some(path),
        };
        known = gates::enter(ask, story.docket()).await.ok_or(Failed::Left)??.known;
        story.asked_by(&known.identity);
        let payer = Payer {
            client,
            known: &known,
            host: authority.key(),
            method: request.method(),
            fields: request.headers(),
        };
        toll::take(api, payer, &mut story.docket, &mut story.told).await.ok_or(Failed::Left)??;
        if api.cache.is_some() {
            let is_dressed = gateway::fields::dresses(api, (authority, tls));
            let sight = Sight::Forward { is_dressed };
            let uri = request.uri();
            let place = key::Place { tls, authority, path: uri.path(), query: uri.query() };
            match cache::look(thread, client, Site::of(api, place, &request, sight), story) {
                Looked::Answer(answer) => return Ok(answer),
                Looked::Inquiry(found) => inquiry = Some(found),
                Looked::Nothing => {}
            }
        }
        if !inquiry.as_ref().is_some_and(|inquiry| inquiry.may_be_found()) {
            pipeline::refused(api, authority.key(), story.docket())?;
        }
    }
    let api = api.map(|api| &**api);
    let (mut parts, body) = request.into_parts();
    let (patience, deadline) = patience(thread, &parts.headers);
    let version = parts.version;
    let upgrade = prepare(&mut parts, client, thread);
    if let Some(api) = api {
        gateway::fields::dress_forward(&mut parts, api, (authority, tls));
    }
    finish(&mut parts, &body, left);
    let order = Order {
        thread,
        client,
        identity: &known.identity,
        api,
        authority,
        tls,
        patience,
        deadline,
        version,
        asked: None,
    };
    exchange(&order, parts, body, upgrade, inquiry, story).await
}

/// Until when a request may wait for a full host, and when it is to be done, as its Prefer says.
pub(super) fn patience(thread: &Thread, fields: &HeaderMap) -> (Patience, Option<Instant>) {
    let asked = fields.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok());
    let asked = headers::wait(asked);
    let deadline = asked.and_then(|wait| clock::now().checked_add(Duration::from_secs(wait)));
    (thread.patience(asked), deadline)
}

/// What is said last of a request that goes on: the hops that are left to it, and that it has a body.
pub(super) fn finish(parts: &mut Parts, body: &Source, left: Option<u32>) {
    if let Some(left) = left {
        parts.headers.insert(header::MAX_FORWARDS, left.into());
    }
    if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        // Unless it is told so, hyper takes a GET or a HEAD of unknown length for one without a body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Has a request that is the upstream's answered, and makes the response the client's. `upgrade` is
/// the protocols that it would switch to, `inquiry` what the cache knows of it.
pub(super) async fn exchange(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    upgrade: Option<HeaderValue>,
    inquiry: Option<Box<Inquiry<'_>>>,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    if let Some(inquiry) = inquiry {
        // PERF: boxed, so that a request without a cache does not carry the room for one.
        return Box::pin(cache::fetch(order, inquiry, parts, body, upgrade, story)).await;
    }
    let came = pipeline::answer(order, parts, body, story).await?;
    deliver(order, came, upgrade).await
}

/// Makes an upstream's response the client's.
pub(super) async fn deliver(
    order: &Order<'_>,
    came: Sent,
    upgrade: Option<HeaderValue>,
) -> Result<Response<Kind>, Failed> {
    let Order { thread, client, .. } = *order;
    let Sent { mut response, reused, waited, attempts } = came;
    if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        // SECURITY: an origin is no proxy, and what it asks for here would be our credentials.
        return Err(Reject::ForeignProxy.into());
    }
    let version = response.version();
    let hop = headers::strip(response.headers_mut(), version);
    if let Some(via) = &thread.via {
        via.add(response.headers_mut(), version);
    }
    gateway::fields::dress_response(response.headers_mut(), order.api);
    *response.version_mut() = Version::HTTP_11;
    if thread.settings.explain
        && let Some(told) = status::explained(waited, attempts, reused)
    {
        // Behind what others said before (RFC 9209 §2).
        response.headers_mut().append("proxy-status", told);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade.is_some_and(|asked| headers::is_among(hop.upgrade.as_ref(), &asked)) {
            // SECURITY: what follows would be relayed raw to a client that expects HTTP.
            return Err(Reject::from(SendError::from(ExchangeError::Upgrade)).into());
        }
        headers::restore(response.headers_mut(), hop);
        let (parts, body) = response.into_parts();
        if let Some(line) = body.into_line() {
            let (upstream, early) = line.upgrade().await;
            client.switch(upstream, early);
        }
        return Ok(Response::from_parts(parts, Kind::Empty));
    }
    Ok(response.map(Kind::Upstream))
}

/// Makes the head of a request to a proxy that of a request to an origin; the protocols that it
/// would upgrade to.
fn prepare(parts: &mut Parts, client: &Asker, thread: &Thread) -> Option<HeaderValue> {
    let named = parts.uri.authority().map_or("", |authority| authority.as_str());
    let is_named = parts.headers.get(header::HOST).is_some_and(|host| host == named);
    let host = HeaderValue::from_str(named).ok().filter(|_| !is_named);
    let hop = headers::strip(&mut parts.headers, parts.version);
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    if hop.closes {
        client.says_goodbye();
    }
    let upgrade = hop.upgrade.clone();
    headers::restore(&mut parts.headers, hop);
    if let Some(via) = &thread.via {
        via.add(&mut parts.headers, parts.version);
    }
    parts.uri = match parts.uri.path_and_query() {
        Some(_) if client.is_starred() => Uri::from_static("*"),
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    parts.version = Version::HTTP_11;
    upgrade
}
