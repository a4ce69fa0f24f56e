//! A plain request in absolute-form: made the upstream's, sent, and its response made the client's.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::SystemTime;

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
use http_body::Frame;
use http_body::SizeHint;
use hyper::ext::ReasonPhrase;
use thiserror::Error;
use tokio::time::Instant;

use super::Thread;
use super::asker::Asker;
use super::front;
use super::head::Flaw;
use super::headers;
use super::http2;
use super::local;
use super::local::Forwards;
use super::reject::Answer;
use super::reject::Reject;
use super::status;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::access::Given;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Route;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::dial::Errand;
use crate::upstream::exchange::BodyError;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::exchange::Gate;
use crate::upstream::exchange::RequestBody;
use crate::upstream::exchange::ResponseBody;
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
            forward(&thread, &client, request, bound_for, &identity, &mut story).await?
        }
    };
    client.begin_answer();
    Ok(match result {
        Ok(response) => {
            story.answered(response.status().as_u16(), None);
            response.map(|kind| Body { kind, story })
        }
        Err(reject) => {
            let answer = reject.answer(thread.settings.manner());
            story.answered(answer.status.as_u16(), Some(answer.error));
            let mut response = respond(answer);
            if reject.closes() && matches!(client, Asker::Connection(_)) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response.map(|kind| Body { kind, story })
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
) -> Result<Result<Response<Kind>, Reject>, Left> {
    let (mut parts, body) = request.into_parts();
    let asked = headers::wait(
        parts.headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok()),
    );
    let version = parts.version;
    let upgrade = prepare(&mut parts, client, thread);
    if let Some(left) = left {
        parts.headers.insert(header::MAX_FORWARDS, left.into());
    }
    let expects = headers::expects_continue(&parts.headers) == Ok(true);
    let gate = (expects && !body.is_end_stream()).then(Arc::<Gate>::default);
    if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        // Unless it is told so, hyper takes a GET or a HEAD of unknown length for one without a body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let body = RequestBody::new(body, gate.clone(), Rc::clone(client.pulse()));
    let mut request = Request::from_parts(parts, body);
    let bound = thread.settings.bounds.interim;
    let continues = client.continues_by_itself();
    let interim = Interim::listen(&mut request, gate, continues, (version, bound));

    let errand = Errand {
        authority,
        tls,
        patience: thread.patience(asked),
        client: client.peer(),
        identity,
    };
    let mut sending = std::pin::pin!(thread.upstream.send(errand, request, client.pulse()));
    let sent = client.unless_left(std::future::poll_fn(|cx| {
        let sent = sending.as_mut().poll(cx);
        if interim.pass_on(client, thread) { sent.map(Some) } else { Poll::Ready(None) }
    }));
    let Some(sent) = sent.await.ok_or(Left)? else {
        thread.cells.bounded(Bound::Interim);
        return Ok(Err(Reject::Interim));
    };
    let Sent { mut response, reused, waited, attempts } = match sent {
        Ok(sent) => sent,
        Err(error) => {
            story.waited(error.waited(), false);
            return Ok(Err(unsent(error, client, thread)));
        }
    };
    story.waited(waited, reused);
    if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        // SECURITY: an origin is no proxy, and what it asks for here would be our credentials.
        return Ok(Err(Reject::ForeignProxy));
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
            return Ok(Err(SendError::from(ExchangeError::Upgrade).into()));
        }
        headers::restore(response.headers_mut(), hop);
        let (parts, body) = response.into_parts();
        if let Some(line) = body.into_line() {
            let (upstream, early) = line.upgrade().await;
            client.switch(upstream, early);
        }
        return Ok(Ok(Response::from_parts(parts, Kind::Empty)));
    }
    Ok(Ok(response.map(Kind::Upstream)))
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

/// The 1xx answers of one request's upstream, on their way to the client.
struct Interim {
    heads: Arc<Mutex<Heads>>,
    bound: u32,
    /// HTTP/1.0 knows no such answers (RFC 9110 §15.2).
    is_wanted: bool,
}

#[derive(Default)]
struct Heads {
    seen: u32,
    waiting: Vec<(StatusCode, HeaderMap)>,
}

impl Interim {
    /// Hears the 1xx answers to `request`. 100 opens the gate, and need not be passed on where it
    /// `continues` by itself. 101 is the answer itself.
    fn listen(
        request: &mut Request<RequestBody>,
        gate: Option<Arc<Gate>>,
        continues: bool,
        (version, bound): (Version, u32),
    ) -> Self {
        let heads = Arc::<Mutex<Heads>>::default();
        let queue = Arc::clone(&heads);
        hyper::ext::on_informational(request, move |interim| {
            let mut heads = queue.lock().unwrap_or_else(PoisonError::into_inner);
            heads.seen = heads.seen.saturating_add(1);
            if let Some(gate) = gate.as_ref().filter(|_| interim.status() == StatusCode::CONTINUE) {
                gate.open();
                if continues {
                    return;
                }
            }
            if heads.seen <= bound {
                heads.waiting.push((interim.status(), interim.headers().clone()));
            }
        });
        Self { heads, bound, is_wanted: version != Version::HTTP_10 }
    }

    /// Writes to the client what has come; whether there were not too many.
    fn pass_on(&self, client: &Asker, thread: &Thread) -> bool {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.seen > self.bound {
            return false;
        }
        for (status, mut fields) in heads.waiting.drain(..).filter(|_| self.is_wanted) {
            headers::strip(&mut fields, Version::HTTP_11);
            if let Some(via) = &thread.via {
                via.add(&mut fields, Version::HTTP_11);
            }
            client.interim(status, fields);
        }
        true
    }
}

/// An answer of our own, for hyper to write.
fn respond(answer: Answer) -> Response<Kind> {
    let mut response = Response::new(Kind::Empty);
    *response.status_mut() = answer.status;
    for (name, value) in answer.fields() {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    if let Ok(phrase) = ReasonPhrase::try_from(answer.phrase.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    response.map(|_empty| Kind::Own(Some(Bytes::from(answer.body))))
}

/// What an answer's body is made of.
pub(crate) enum Kind {
    Empty,
    Own(Option<Bytes>),
    Upstream(ResponseBody),
}

/// The body of an answer; when it is dropped, the answer is over.
pub(crate) struct Body {
    kind: Kind,
    story: Story,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.story.received += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(_))) => this.story.end = "broken",
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Own(None) => true,
            Kind::Own(Some(bytes)) => bytes.is_empty(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty | Kind::Own(None) => SizeHint::with_exact(0),
            Kind::Own(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        match &self.kind {
            // Whatever cuts it short, here is where that is known.
            Kind::Upstream(body) if !body.is_over() => self.story.client.cut(),
            Kind::Empty | Kind::Own(_) | Kind::Upstream(_) => self.story.end = "complete",
        }
        self.story.client.end_answer();
    }
}

/// What is counted and logged of a request, once, when it is over.
struct Story {
    thread: Rc<Thread>,
    client: Asker,
    received: u64,
    status: u16,
    route: Route,
    end: &'static str,
    log: Option<Box<Told>>,
}

/// What only the access log wants to know.
struct Told {
    time: SystemTime,
    started: Instant,
    identity: Option<Arc<str>>,
    method: String,
    target: String,
    host: String,
    error: Option<&'static str>,
    waited: Duration,
    reused: bool,
}

impl Story {
    fn begin(thread: &Rc<Thread>, client: &Asker, request: &Request<Source>) -> Self {
        let log = thread.log.is_on().then(|| {
            Box::new(Told {
                time: clock::wall(),
                started: clock::now(),
                identity: None,
                method: request.method().to_string(),
                target: request.uri().to_string(),
                host: String::new(),
                error: None,
                waited: Duration::ZERO,
                reused: false,
            })
        });
        Self {
            thread: Rc::clone(thread),
            client: client.clone(),
            received: 0,
            status: 0,
            route: Route::Own,
            end: "client left",
            log,
        }
    }

    /// Who asked, as far as they said.
    fn asked_by(&mut self, identity: &Identity) {
        if let Some(log) = &mut self.log {
            log.identity = identity.name().map(Arc::clone);
        }
    }

    fn host(&mut self, authority: &Authority) {
        self.route = Route::Forward;
        if let Some(log) = &mut self.log {
            log.host = authority.key().to_string();
        }
    }

    fn waited(&mut self, waited: Duration, reused: bool) {
        if let Some(log) = &mut self.log {
            log.waited = waited;
            log.reused = reused;
        }
    }

    fn answered(&mut self, status: u16, error: Option<&'static str>) {
        self.status = status;
        self.thread.cells.answered(self.route, status);
        if let Some(log) = &mut self.log {
            log.error = error;
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let sent = self.client.pulse().take_uploaded();
        self.thread.cells.sent(sent);
        self.thread.cells.received(self.received);
        if let Some(log) = self.log.take() {
            self.thread.log.write(&Record {
                time: log.time,
                client: self.client.peer(),
                identity: log.identity,
                method: log.method,
                target: log.target,
                host: log.host,
                status: self.status,
                error: log.error,
                sent,
                received: self.received,
                waited: log.waited,
                duration: clock::now() - log.started,
                reused: log.reused,
                end: self.end,
            });
        }
    }
}
