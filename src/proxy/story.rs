//! What is counted and logged of a plain request, and the body of its answer, which ends the story.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::Request;
use http_body::Frame;
use http_body::SizeHint;
use tokio::time::Instant;

use super::Thread;
use super::asker::Asker;
use super::cache::Followed;
use super::cache::Kept;
use super::docket::Docket;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::End;
use crate::policy::api::Api;
use crate::policy::cache::status::Outcome;
use crate::policy::parents::Parent;
use crate::policy::quota;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::Route;
use crate::upstream::exchange::BodyError;
use crate::upstream::exchange::ResponseBody;
use crate::upstream::source::Source;

/// What an answer's body is made of.
pub(crate) enum Kind {
    Empty,
    /// Another request, or a task, brings it.
    Followed(Box<Followed>),
    /// The upstream's, which is kept beside.
    Kept(Box<Kept>),
    Own(Option<Bytes>),
    Upstream(ResponseBody),
}

/// The body of an answer; when it is dropped, the answer is over.
pub(crate) struct Body {
    pub(super) kind: Kind,
    pub(super) story: Story,
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
            Kind::Followed(body) => body.poll_frame(cx),
            Kind::Kept(body) => body.poll_frame(cx),
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
            Kind::Followed(body) => body.is_over(),
            Kind::Kept(body) => body.is_end_stream(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty | Kind::Own(None) => SizeHint::with_exact(0),
            Kind::Own(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Followed(body) => body.size_hint(),
            Kind::Kept(body) => body.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let is_over = match &self.kind {
            Kind::Followed(body) => body.is_over(),
            Kind::Kept(body) => body.is_over(),
            Kind::Upstream(body) => body.is_over(),
            Kind::Empty | Kind::Own(_) => true,
        };
        if is_over {
            self.story.end = "complete";
        } else {
            // Whatever cuts it short, here is where that is known.
            self.story.client.cut();
        }
        self.story.client.end_answer();
    }
}

/// What is counted and logged of a request, once, when it is over.
pub(super) struct Story {
    thread: Rc<Thread>,
    client: Asker,
    received: u64,
    status: u16,
    /// Attempts by the policies of an API.
    attempts: u32,
    route: Route,
    end: &'static str,
    /// Those after the first that went out.
    retries: u32,
    pub(super) docket: Docket,
    /// What the answer says of quotas.
    pub(super) told: Option<Box<quota::Told>>,
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
    api: Option<Arc<str>>,
    cache: Option<&'static str>,
    parent: Option<Arc<str>>,
}

impl Story {
    pub(super) fn begin(thread: &Rc<Thread>, client: &Asker, request: &Request<Source>) -> Self {
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
                api: None,
                cache: None,
                parent: None,
            })
        });
        Self::new(thread, client, request.method(), log)
    }

    /// What no client asked for, and nobody is told of.
    pub(super) fn of_nobody(thread: &Rc<Thread>, client: &Asker, method: &Method) -> Self {
        Self::new(thread, client, method, None)
    }

    fn new(thread: &Rc<Thread>, client: &Asker, method: &Method, log: Option<Box<Told>>) -> Self {
        Self {
            thread: Rc::clone(thread),
            client: client.clone(),
            received: 0,
            status: 0,
            attempts: 0,
            route: Route::Own,
            end: "client left",
            retries: 0,
            docket: Docket::begin(thread, client.peer(), method.as_str()),
            told: None,
            log,
        }
    }

    /// Who asked, as far as they said.
    pub(super) fn asked_by(&mut self, identity: &Identity) {
        self.docket.asked_by(identity);
        if let Some(log) = &mut self.log {
            log.identity = identity.name().map(Arc::clone);
        }
    }

    /// By which way it goes, and where.
    pub(super) fn bound_for(&mut self, route: Route, authority: &Authority) {
        self.route = route;
        self.docket.bound_for(route, authority.key());
        if let Some(log) = &mut self.log {
            log.host = authority.key().to_string();
        }
    }

    pub(super) fn waited(&mut self, waited: Duration, reused: bool) {
        if let Some(log) = &mut self.log {
            log.waited = waited;
            log.reused = reused;
        }
    }

    /// So many attempts were made after the first.
    pub(super) fn retried(&mut self, retries: u32) {
        self.retries = retries;
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    /// What its gates say of it.
    pub(super) fn docket(&mut self) -> &mut Docket {
        &mut self.docket
    }

    pub(super) fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// What the cache did for it.
    pub(super) fn cached(&mut self, outcome: Outcome) {
        if let Some(log) = &mut self.log {
            log.cache = Some(outcome.as_str());
        }
    }

    /// Whose policies it meets.
    pub(super) fn meets(&mut self, api: &Api) {
        self.docket.meets(api);
        if let Some(log) = &mut self.log {
            log.api = Some(Arc::clone(api.name()));
        }
    }

    /// An attempt has ended, by way of this parent.
    pub(super) fn attempted(&mut self, api: &Api, end: End, parent: Option<&Parent>) {
        api.counts.attempted(end, self.attempts > 0);
        self.attempts += 1;
        if let Some(log) = &mut self.log {
            log.parent = parent.map(|parent| Arc::clone(&parent.name));
        }
    }

    pub(super) fn answered(&mut self, status: u16, error: Option<&'static str>) {
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
        self.docket.done(self.status);
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
                api: log.api,
                cache: log.cache,
                attempts: self.attempts,
                parent: log.parent,
                end: self.end,
            });
        }
    }
}
