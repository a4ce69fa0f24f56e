//! Requests: from a client's connection to an upstream's and back.
//!
//! [`admit`] takes a connection in, and [`serve`] is its life: a guard reads it, hyper serves its plain
//! requests, a CONNECT leaves HTTP for good. Nothing here dials, counts slots or knows Redis.
//!
//! Invariants: no 200 to a CONNECT before its upstream is connected; an answer of our own comes
//! from [`reject`] alone; a client that leaves takes all it asked for with it.

mod asker;
mod bounds;
mod cache;
mod docket;
mod door;
mod forward;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gates;
mod gateway;
mod guard;
mod head;
mod headers;
mod http2;
mod interim;
mod local;
mod names;
mod passage;
mod pipeline;
mod reject;
mod relay;
mod send;
mod status;
mod story;
mod tally;
mod target;
mod toll;
mod tunnel;
mod via;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use self::asker::Asker;
pub use self::bounds::Bounds;
pub(crate) use self::door::TurnedAway;
pub(crate) use self::door::admit;
pub(crate) use self::door::out_of_files;
use self::guard::Client;
use self::guard::Guarded;
use self::guard::Next;
use self::guard::Phase;
use self::head::Flaw;
use self::http2::Ahead;
pub use self::http2::Settings as Http2;
use self::reject::Manner;
use self::reject::Reject;
pub(crate) use self::via::Via;
use crate::base::authority::Authority;
use crate::base::authority::BadAuthority;
use crate::base::authority::Host;
use crate::base::clock;
use crate::limit::Limiter;
use crate::limit::Patience;
use crate::listen::Accepted;
use crate::listen::accept::Counted;
use crate::listen::accept::Load;
use crate::listen::drain::Drain;
use crate::listen::greet::Greeter;
use crate::listen::tls;
use crate::policy::access::Gate;
use crate::policy::api::Apis;
use crate::policy::breaker;
use crate::policy::breaker::Breakers;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Cells;
use crate::telemetry::metrics::Route;
use crate::upstream::Upstream;
use crate::upstream::source::Source;

/// How narrows speaks with clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a client may take for a request's head.
    pub header_timeout: Duration,
    /// How long a client's connection may idle between requests.
    pub keep_alive_timeout: Duration,
    /// How long a tunnel may be without a byte in either direction.
    pub tunnel_idle_timeout: Duration,
    /// How long a tunnel must be without a byte to be closed when others wait for its host; none
    /// closes no tunnel for others.
    pub idle_reclaim: Option<Duration>,
    /// The name put into Via (RFC 9110 §7.6.3), and by which a loop is known: no other instance may
    /// have it. None leaves the field out, and knows no loop.
    pub via: Option<String>,
    /// Names by which clients of HTTP/2 call the gateway, beside its address and the name that they
    /// asked for in TLS: over HTTP/2 each request names a host.
    pub gateway_hosts: Vec<Host>,
    /// What a connection of HTTP/2 may have.
    pub http2: Http2,
    /// How much a request may have of everything.
    pub bounds: Bounds,
    /// When a host to which no tunnel can be opened is left alone; none goes on trying.
    pub connect_breaker: Option<breaker::Settings>,
    /// The status of a refusal by the cap, 400 to 599.
    pub refuse_status: u16,
    /// Whether `Proxy-Status` of what was forwarded tells how that went.
    pub explain: bool,
    /// Whether answers of our own tell what only operators should know.
    pub error_details: bool,
}

impl Settings {
    fn manner(&self) -> Manner {
        let Self { refuse_status, explain, error_details: details, .. } = *self;
        Manner { refuse_status, explain, details }
    }
}

/// What a thread needs to serve its clients.
pub(crate) struct Thread {
    pub(crate) limiter: Limiter,
    /// Who may use it; none lets all.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Which requests meet which policies.
    pub(crate) apis: Arc<ArcSwap<Apis>>,
    /// Whether a tunnel to a host is tried at all; none always tries.
    pub(crate) connects: Option<Arc<Breakers>>,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) cells: Arc<Cells>,
    pub(crate) log: Log,
    pub(crate) decisions: Decisions,
    pub(crate) settings: Settings,
    pub(crate) via: Option<Via>,
    pub(crate) greeter: Greeter,
    pub(crate) turned_away: TurnedAway,
    pub(crate) load: Load,
    pub(crate) drain: Rc<Drain>,
    /// Authorities by the text that named them. PERF: parsing one allocates and formats.
    pub(crate) authorities: RefCell<HashMap<Box<str>, [Option<Authority>; 2]>>,
}

/// Texts that the table of authorities holds before it begins anew.
const AUTHORITIES: usize = 1024;

impl Thread {
    /// Reads the authority of an `http` or (`tls`) an `https` target, or remembers it.
    fn authority(&self, text: &str, tls: bool) -> Result<Authority, BadAuthority> {
        let mut known = self.authorities.borrow_mut();
        if let Some(authority) =
            known.get(text).and_then(|by_scheme| by_scheme[usize::from(tls)].as_ref())
        {
            return Ok(authority.clone());
        }
        let authority = Authority::parse(text, Some(if tls { 443 } else { 80 }))?;
        if known.len() >= AUTHORITIES {
            known.clear();
        }
        known.entry(text.into()).or_default()[usize::from(tls)] = Some(authority.clone());
        Ok(authority)
    }

    /// Until when a request may wait for a full host: what it asks for itself, within bounds, or
    /// what the settings say.
    fn patience(&self, asked: Option<u64>) -> Patience {
        let settings = self.limiter.settings();
        let asked =
            asked.map(|seconds| Duration::from_secs(seconds).min(settings.queue_timeout_max));
        let wait = asked.unwrap_or(settings.queue_timeout);
        if wait.is_zero() { Patience::None } else { Patience::Until(clock::now() + wait) }
    }
}

/// Runs what owns connections as a task of this thread. It is dropped, and they are cut, when the
/// lease runs out and that is to be so.
pub(crate) fn spawn(thread: &Thread, task: impl Future<Output = ()> + 'static) {
    let Some(mut losses) = thread.limiter.losses() else {
        tokio::task::spawn_local(task);
        return;
    };
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = task => {}
            // Its sender lives as long as the limiter.
            Ok(()) = losses.changed() => {}
        }
    });
}

/// Serves one client connection to its end.
async fn serve(thread: Rc<Thread>, accepted: Accepted) {
    let open = Open::count(&thread);
    let is_http2 = accepted.stream.protocol() == Some(tls::HTTP2);
    let client = Client::new(accepted, thread.settings.bounds);
    let mut next =
        if is_http2 { Next::Http2 } else { watched(&thread, &client, client.next()).await };
    if let Next::Plain = next {
        // Boxed, so that a connection that becomes a tunnel does not keep the room for this.
        next = Box::pin(plain(&thread, &client)).await;
    }
    match next {
        Next::Connect(connect) => Box::pin(tunnel::serve(&thread, &client, connect)).await,
        Next::Flaw(flaw) => {
            let answer = Reject::Flaw(flaw).answer(thread.settings.manner());
            thread.cells.answered(Route::Own, answer.status.as_u16());
            if let Some(bound) = flaw.bound() {
                thread.cells.bounded(bound);
            }
            if let Flaw::Tls = flaw {
                door::hint(
                    &thread,
                    client.peer(),
                    "TLS to a plain port: must its URL begin with http://?",
                );
            }
            client.write(&answer.bytes());
            linger(&client).await;
        }
        Next::Http2 => {
            client.note_names();
            if let Some(near) = client.detach() {
                let near = Ahead::new(near.early, near.stream);
                Box::pin(http2::serve(&thread, &client, near, open)).await;
            }
        }
        // hyper is done with the connection, but the client may not be: it may still send a body
        // whose answer is out already.
        Next::Plain => linger(&client).await,
        Next::Left => {}
    }
}

/// Counts a client's connection until it is dropped, however that comes.
struct Open {
    cells: Arc<Cells>,
    _load: Counted,
}

impl Open {
    fn count(thread: &Thread) -> Self {
        thread.cells.client_opened();
        Self { cells: Arc::clone(&thread.cells), _load: thread.load.count() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cells.client_closed();
    }
}

/// How long the rest of a head may take once the proxy stops.
const DRAIN_HEAD: Duration = Duration::from_secs(1);
/// How long a client may take to read the answer after which its connection closes.
const LINGER: Duration = Duration::from_secs(2);

/// Closes after an answer of our own, so that the answer arrives.
async fn linger(client: &Client) {
    if tokio::time::timeout(LINGER, client.close()).await.is_err() {
        client.cut();
    }
}

/// Lets hyper serve plain requests until something else comes, or the end.
async fn plain(thread: &Rc<Thread>, client: &Rc<Client>) -> Next {
    let service = service_fn(|request: Request<Incoming>| {
        let asker = Asker::Connection(Rc::clone(client));
        forward::serve(Rc::clone(thread), asker, request.map(Source::from))
    });
    let next = {
        let io = TokioIo::new(Guarded(Rc::clone(client)));
        let mut builder = http1::Builder::new();
        // The upstream's Date is not ours to touch; answers of our own bring theirs.
        builder.preserve_header_case(true).title_case_headers(true).auto_date_header(false);
        let fields = thread.settings.bounds.fields;
        if fields > Bounds::USUAL_FIELDS {
            // PERF: to say so costs room on the heap for each request.
            builder.max_headers(fields as usize);
        }
        let mut hyper = std::pin::pin!(builder.serve_connection(io, service));
        watched(
            thread,
            client,
            poll_fn(|cx| {
                if thread.drain.is_on() {
                    hyper.as_mut().graceful_shutdown();
                }
                // Whatever ended it: there is nobody left to tell.
                hyper.as_mut().poll(cx).map(|_ended| Next::Plain)
            }),
        )
        .await
    };
    if let Some((upstream, early)) = client.take_switched() {
        tunnel::switched(thread, client, upstream, &early).await;
        return Next::Left;
    }
    match next {
        Next::Plain => client
            .take_next()
            .unwrap_or_else(|| if client.may_linger() { Next::Plain } else { Next::Left }),
        Next::Connect(_) | Next::Flaw(_) | Next::Http2 | Next::Left => next,
    }
}

/// Runs a stage of a client connection under the time limits of the phase it is in.
async fn watched(thread: &Thread, client: &Client, stage: impl Future<Output = Next>) -> Next {
    let mut stage = std::pin::pin!(stage);
    let mut listener = None;
    poll_fn(move |cx| {
        listener.get_or_insert_with(|| thread.drain.listen(cx.waker().clone()));
        if let Poll::Ready(next) = stage.as_mut().poll(cx) {
            return Poll::Ready(next);
        }
        if thread.drain.is_on() && client.phase() == Phase::Idle {
            return Poll::Ready(Next::Left);
        }
        expire(thread, client, cx)
    })
    .await
}

fn expire(thread: &Thread, client: &Client, cx: &mut Context<'_>) -> Poll<Next> {
    let pulse = client.pulse();
    match client.phase() {
        Phase::Idle => {
            pulse.poll_silent(cx, thread.settings.keep_alive_timeout).map(|()| Next::Left)
        }
        Phase::Head => {
            let timeout = thread.settings.header_timeout;
            let timeout = if thread.drain.is_on() { timeout.min(DRAIN_HEAD) } else { timeout };
            pulse.poll_silent(cx, timeout).map(|()| Next::Flaw(Flaw::Timeout))
        }
        // Who answers has its own limits, each with an answer of its own.
        Phase::Waiting => Poll::Pending,
        Phase::Answering => {
            // The client's silence: that of the upstream has ended the answer by now.
            pulse.poll_silent(cx, thread.upstream.idle_timeout()).map(|()| {
                thread.cells.bounded(Bound::BodyIdle);
                Next::Left
            })
        }
    }
}
