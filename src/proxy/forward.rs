//! A plain request in absolute-form: made the upstream's, and its response made the client's.
//! Between the two is [`pipeline`].

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
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

use super::Thread;
use super::asker::Asker;
use super::front;
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
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::access::Given;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::source::Source;

/// RFC 7240.
static PREFER: HeaderName = HeaderName::from_static("prefer");

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
    let wish = Wish::read(&thread, &request);
    // Whoever asks how it is may be a machine that knows no password.
    let uri = request.uri();
    let is_health = uri.authority().is_none() && uri.path() == "/health";
    let is_open = is_health && matches!(wish, Ok(Wish::Own(_)));
    let admitted = if is_open {
        Ok(Identity::Anonymous)
    } else {
        front::admit(&thread, &client, || Given::of(request.headers())).await.ok_or(Left)?
    };
    if let Ok(identity) = &admitted {
        story.asked_by(identity);
    }
    let result = match (admitted, wish) {
        (Err(reject), _) | (Ok(_), Err(reject)) => Err(reject),
        (Ok(_), Ok(Wish::Own(answer))) => Ok(answer.map(|body| Kind::Own(Some(body)))),
        (Ok(identity), Ok(Wish::Forward { authority, tls, left })) => {
            story.host(&authority);
            let bound_for = (&authority, tls, left);
            match forward(&thread, &client, request, bound_for, &identity, &mut story).await {
                Ok(response) => Ok(response),
                Err(Failed::Rejected(reject)) => Err(reject),
                Err(Failed::Left) => return Err(Left),
            }
        }
    };
    client.begin_answer();
    Ok(match result {
        Ok(response) => {
            story.answered(response.status().as_u16(), None);
            response.map(|kind| Body { kind, story })
        }
        Err(reject) => {
            let (mut response, error) = reject::respond(&reject, thread.settings.manner());
            story.answered(response.status().as_u16(), Some(error));
            if reject.closes() && matches!(client, Asker::Connection(_)) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response.map(|body| Body { kind: Kind::Own(Some(body)), story })
        }
    })
}

/// What a request asks of us.
enum Wish {
    /// To be sent on; `left` is how many hops it may still make after this one.
    Forward { authority: Authority, tls: bool, left: Option<u32> },
    /// Nothing that anybody else could answer.
    Own(Response<Bytes>),
}

impl Wish {
    fn read(thread: &Thread, request: &Request<Source>) -> Result<Self, Reject> {
        if request.version() == Version::HTTP_2 {
            http2::check(thread, request).map_err(Reject::Flaw)?;
        }
        let (uri, headers) = (request.uri(), request.headers());
        let Some(authority) = uri.authority() else {
            return local::asked(request).map(Self::Own).ok_or(Reject::NotForProxy);
        };
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(Reject::BadScheme),
        };
        let authority = thread
            .authority(authority.as_str(), tls)
            .map_err(|why| Reject::BadTarget { target: uri.to_string(), why })?;
        if thread.via.as_ref().is_some_and(|via| via.has_passed(headers)) {
            return Err(Reject::Loop);
        }
        if request.version() != Version::HTTP_10 && headers::expects_continue(headers).is_err() {
            return Err(Reject::Expectation);
        }
        match local::forwards(request.method(), headers) {
            Ok(Forwards::Over) => Ok(Self::Own(local::last(request))),
            Ok(Forwards::Left(left)) => Ok(Self::Forward { authority, tls, left: Some(left) }),
            Ok(Forwards::Unlimited) => Ok(Self::Forward { authority, tls, left: None }),
            Err(()) => Err(Reject::MaxForwards),
        }
    }
}

async fn forward(
    thread: &Thread,
    client: &Asker,
    request: Request<Source>,
    (authority, tls, left): (&Authority, bool, Option<u32>),
    identity: &Identity,
    story: &mut Story,
) -> Result<Response<Kind>, Failed> {
    let (mut parts, body) = request.into_parts();
    let asked = headers::wait(
        parts.headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok()),
    );
    let version = parts.version;
    let upgrade = prepare(&mut parts, client, thread);
    if let Some(left) = left {
        parts.headers.insert(header::MAX_FORWARDS, left.into());
    }
    if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        // Unless it is told so, hyper takes a GET or a HEAD of unknown length for one without a body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let patience = thread.patience(asked);
    let deadline = asked.and_then(|wait| clock::now().checked_add(Duration::from_secs(wait)));
    let apis = thread.apis.load();
    let api = apis.of_host(authority.key()).map(|api| &**api);
    let order =
        Order { thread, client, identity, api, authority, tls, patience, deadline, version };
    let came = pipeline::answer(&order, parts, body, story).await?;
    deliver(&order, came, upgrade).await
}

/// Makes an upstream's response the client's.
async fn deliver(
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
