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
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
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
use super::headers;
use super::http2;
use super::reject::Answer;
use super::reject::Reject;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::access::Given;
use crate::telemetry::access::Record;
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

/// 1xx answers to one request that are passed on; a flood of them is not.
const MAX_INTERIM: usize = 32;

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
    let admitted = match wish {
        // Whoever asks how it is may be a machine that knows no password.
        Ok(Wish::Health) => Ok(Identity::Anonymous),
        Ok(Wish::Forward { .. }) | Err(_) => {
            front::admit(&thread, &client, Given::of(request.headers())).await.ok_or(Left)?
        }
    };
    let result = match (admitted, wish) {
        (Err(reject), _) | (Ok(_), Err(reject)) => Err(reject),
        (Ok(_), Ok(Wish::Health)) => Ok(health()),
        (Ok(identity), Ok(Wish::Forward { authority, tls })) => {
            story.host(&authority, &identity);
            forward(&thread, &client, request, &authority, tls, &identity, &mut story).await?
        }
    };
    client.begin_answer();
    Ok(match result {
        Ok(response) => {
            story.answered(response.status().as_u16(), None);
            response.map(|kind| Body { kind, story })
        }
        Err(reject) => {
            let answer = reject.answer(thread.settings.refuse_status);
            story.answered(answer.status.as_u16(), Some(answer.error));
            let mut response = respond(answer);
            if reject.closes() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response.map(|kind| Body { kind, story })
        }
    })
}

/// What a request asks of us.
enum Wish {
    Forward { authority: Authority, tls: bool },
    Health,
}

impl Wish {
    fn read(thread: &Thread, request: &Request<Source>) -> Result<Self, Reject> {
        if request.version() == Version::HTTP_2 {
            http2::check(thread, request)?;
        }
        let uri = request.uri();
        let Some(authority) = uri.authority() else {
            let asks = matches!(*request.method(), Method::GET | Method::HEAD);
            return if asks && uri.path() == "/health" {
                Ok(Self::Health)
            } else {
                Err(Reject::NotForProxy)
            };
        };
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(Reject::BadScheme),
        };
        let authority = thread
            .authority(authority.as_str(), tls)
            .map_err(|why| Reject::BadTarget { target: uri.to_string(), why })?;
        Ok(Self::Forward { authority, tls })
    }
}

async fn forward(
    thread: &Thread,
    client: &Asker,
    request: Request<Source>,
    authority: &Authority,
    tls: bool,
    identity: &Identity,
    story: &mut Story,
) -> Result<Result<Response<Kind>, Reject>, Left> {
    let (mut parts, body) = request.into_parts();
    let asked = headers::wait(
        parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()),
    );
    let named = parts.uri.authority().map_or("", |authority| authority.as_str());
    let is_named = parts.headers.get(header::HOST).is_some_and(|host| host == named);
    let host = HeaderValue::from_str(named).ok().filter(|_| !is_named);

    let hop = headers::strip(&mut parts.headers);
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    let upgrades = hop.upgrade.is_some();
    headers::restore(&mut parts.headers, hop);
    add_via(&mut parts.headers, parts.version, thread);
    parts.uri = match parts.uri.path_and_query() {
        Some(_) if client.is_starred() => Uri::from_static("*"),
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    parts.version = Version::HTTP_11;

    let expects = parts
        .headers
        .get(header::EXPECT)
        .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let gate = (expects && !body.is_end_stream()).then(Arc::<Gate>::default);
    let body = RequestBody::new(body, gate.clone(), Rc::clone(client.pulse()));
    let mut request = Request::from_parts(parts, body);
    let interim = Interim::listen(&mut request, gate, client.continues_by_itself());

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
        interim.pass_on(client);
        sent
    }));
    let Sent { mut response, reused, waited } = match sent.await.ok_or(Left)? {
        Ok(sent) => sent,
        Err(error) => {
            story.waited(error.waited(), false);
            return Ok(Err(error.into()));
        }
    };
    story.waited(waited, reused);

    let version = response.version();
    let hop = headers::strip(response.headers_mut());
    add_via(response.headers_mut(), version, thread);
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrades {
            // SECURITY: what follows would be relayed raw to a client that expects HTTP.
            let why = "a 101 that nobody asked for".to_owned();
            return Ok(Err(SendError::from(ExchangeError::Malformed(why)).into()));
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

fn add_via(headers: &mut HeaderMap, version: Version, thread: &Thread) {
    if let Some(via) = &thread.via {
        let via = match version {
            Version::HTTP_10 => &via.old,
            Version::HTTP_2 => &via.two,
            _ => &via.new,
        };
        headers.append(header::VIA, via.clone());
    }
}

/// The 1xx answers of one request's upstream, on their way to the client.
struct Interim {
    heads: Arc<Mutex<Heads>>,
}

#[derive(Default)]
struct Heads {
    seen: usize,
    waiting: Vec<(StatusCode, HeaderMap)>,
}

impl Interim {
    /// Hears the 1xx answers to `request`. 100 opens the gate, and need not be passed on if it goes
    /// out by itself. 101 is the answer itself.
    fn listen(
        request: &mut Request<RequestBody>,
        gate: Option<Arc<Gate>>,
        continues_by_itself: bool,
    ) -> Self {
        let heads = Arc::<Mutex<Heads>>::default();
        let queue = Arc::clone(&heads);
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                if let Some(gate) = &gate {
                    gate.open();
                }
                if continues_by_itself {
                    return;
                }
            }
            let mut heads = queue.lock().unwrap_or_else(PoisonError::into_inner);
            heads.seen += 1;
            if heads.seen <= MAX_INTERIM {
                let mut fields = interim.headers().clone();
                headers::strip(&mut fields);
                heads.waiting.push((interim.status(), fields));
            }
        });
        Self { heads }
    }

    fn pass_on(&self, client: &Asker) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        for (status, fields) in heads.waiting.drain(..) {
            client.interim(status, fields);
        }
    }
}

fn health() -> Response<Kind> {
    let mut response = Response::new(Kind::Own(Some(Bytes::from_static(b"{\"status\":\"ok\"}"))));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
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

    fn host(&mut self, authority: &Authority, identity: &Identity) {
        self.route = Route::Forward;
        if let Some(log) = &mut self.log {
            log.identity = identity.name().map(Arc::clone);
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
