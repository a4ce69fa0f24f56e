//! CONNECT: a slot and a connection first, then 200, then bytes both ways (RFC 9110 §9.3.6).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::Method;
use tokio::time::Instant;

use super::Open;
use super::Thread;
use super::asker::Asker;
use super::docket::Docket;
use super::front;
use super::gates;
use super::gates::Ask;
use super::guard::Client;
use super::guard::Detached;
use super::head::Connect;
use super::passage;
use super::passage::Barred;
use super::passage::Road;
use super::reject::Reject;
use super::relay;
use super::relay::End;
use super::relay::Moved;
use super::status;
use super::toll;
use super::toll::Payer;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::clock::Pulse;
use crate::base::identity::Identity;
use crate::policy::access::Given;
use crate::policy::access::Known;
use crate::policy::access::entrance::Place;
use crate::policy::api::Api;
use crate::policy::quota::Told;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Route;
use crate::telemetry::metrics::Yielded;
use crate::upstream::conn::Conn;
use crate::upstream::dial::Errand;

/// No Content-Length, no Transfer-Encoding: what follows is the tunnel's.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The same, with how it came about.
fn established(thread: &Thread, upstream: &Conn, left: Option<&Told>) -> Cow<'static, [u8]> {
    if !thread.settings.explain && left.is_none() {
        return Cow::Borrowed(ESTABLISHED);
    }
    let told = status::of_success(upstream.waited(), upstream.attempts(), false);
    let told = thread.settings.explain.then_some(("Proxy-Status", told));
    let mut head = "HTTP/1.1 200 Connection established\r\n".to_owned();
    for (name, value) in told.into_iter().chain(left.into_iter().flat_map(Told::lines)) {
        head.extend([name, ": ", &value, "\r\n"]);
    }
    head.push_str("\r\n");
    Cow::Owned(head.into_bytes())
}

/// Serves a CONNECT, to the end of its tunnel or of its refusal.
pub(crate) async fn serve(thread: &Rc<Thread>, client: &Rc<Client>, connect: Connect) {
    let mut line = Line::begin(thread, client.peer(), connect.target);
    let asker = Asker::Connection(Rc::clone(client));
    let given = connect.authorization.given();
    let reject = match open(thread, &asker, &mut line, connect.wait, given).await {
        Some(Ok(upstream)) => {
            thread.cells.answered(Route::Connect, 200);
            client.write(&established(thread, &upstream, line.told.take().as_deref()));
            if let Some(near) = client.detach() {
                let pulse = Rc::clone(client.pulse());
                // A task of its own is as small as a tunnel needs; this one is as large as a dial.
                super::spawn(thread, run(Rc::clone(thread), near, upstream, pulse, line));
            }
            return;
        }
        Some(Err(reject)) => reject,
        None => return line.end(thread, 0, None, (0, 0), "client left"),
    };
    let mut answer = reject.answer(thread.settings.manner());
    answer.told = line.told.take();
    let status = answer.status.as_u16();
    thread.cells.answered(Route::Connect, status);
    line.end(thread, status, Some(answer.error), (0, 0), "refused");
    // What came behind the head was meant for the tunnel: the connection cannot go on.
    client.write(&answer.bytes());
    super::linger(client).await;
}

/// The connection that a CONNECT asks for, if whoever asks may; none if the client left.
pub(super) async fn open(
    thread: &Thread,
    client: &Asker,
    line: &mut Line,
    wait: Option<u64>,
    given: Given<'_>,
) -> Option<Result<Conn, Reject>> {
    let target = Authority::parse(&line.target, None);
    // One state of the APIs for all that follows, as for a plain request.
    let apis = thread.apis.load();
    let api = target.as_ref().ok().and_then(|authority| apis.of_host(authority.key()));
    let api = api.map(|api| &**api);
    let admitted = if api.is_some_and(Api::asks_for_keys) {
        front::admit_without_password(thread, client)
    } else {
        front::admit(thread, client, || given).await?
    };
    let identity = match admitted {
        Ok(identity) => identity,
        Err(reject) => return Some(Err(reject)),
    };
    line.asked_by(&identity);
    let authority = match target {
        Ok(authority) => authority,
        Err(why) => {
            return Some(Err(Reject::BadTarget { target: line.target.clone(), why }));
        }
    };
    line.host = Some(authority.key().clone());
    line.docket.bound_for(Route::Connect, authority.key());
    let mut known = Known::of(identity.clone());
    if let Some(api) = api {
        line.docket.meets(api);
        let ask = Ask {
            thread,
            client,
            api,
            identity: &identity,
            place: Place::Proxy(given),
            method: &Method::CONNECT,
            path: None,
        };
        match gates::enter(ask, &mut line.docket).await? {
            Ok(entered) => known = entered.known,
            Err(reject) => return Some(Err(reject)),
        }
        line.asked_by(&known.identity);
        let (known, host) = (&known, authority.key());
        // Of a CONNECT no field is kept.
        let (method, fields) = (&Method::CONNECT, &HeaderMap::new());
        let payer = Payer { client, known, host, method, fields };
        if let Err(reject) = toll::take(api, payer, &mut line.docket, &mut line.told).await? {
            return Some(Err(reject));
        }
    }
    let patience = thread.patience(wait);
    let errand = Errand {
        authority: &authority,
        tls: false,
        patience,
        client: client.peer(),
        identity: &known.identity,
        parent: None,
        request_timeout: None,
    };
    let connected =
        passage::connect(thread, client, api, errand, &mut line.road, &mut line.docket).await?;
    line.waited = match &connected {
        Ok(conn) => conn.waited(),
        Err(Barred::Dial(error) | Barred::Way(error)) => error.waited(),
        Err(Barred::Policy(_)) => Duration::ZERO,
    };
    Some(connected.map_err(Reject::from))
}

async fn run(thread: Rc<Thread>, near: Detached, upstream: Conn, pulse: Rc<Pulse>, line: Line) {
    let _open = Open::count(&thread);
    let moved = relay::relay(near, upstream, &[], &pulse, &thread).await;
    count(&thread, &moved);
    line.end(&thread, 200, None, (moved.sent, moved.received), told(moved.end));
}

/// Relays after a 101: the same as a tunnel, on the connection that the request had.
pub(crate) async fn switched(thread: &Thread, client: &Client, upstream: Conn, early: &[u8]) {
    let Some(near) = client.detach() else { return };
    let moved = relay::relay(near, upstream, early, client.pulse(), thread).await;
    count(thread, &moved);
}

pub(super) fn count(thread: &Thread, moved: &Moved) {
    thread.cells.sent(moved.sent);
    thread.cells.received(moved.received);
    match moved.end {
        End::Silent => thread.cells.bounded(Bound::TunnelIdle),
        End::Yielded => thread.cells.yielded(Yielded::Tunnel),
        End::Client | End::Complete | End::Upstream => {}
    }
}

pub(super) fn told(end: End) -> &'static str {
    match end {
        End::Client => "reset by client",
        End::Complete => "complete",
        End::Silent => "idle",
        End::Upstream => "reset by upstream",
        End::Yielded => "yielded",
    }
}

/// What the access log will say of a tunnel; a few words kept while it lives.
pub(super) struct Line {
    client: SocketAddr,
    identity: Option<Arc<str>>,
    target: String,
    host: Option<HostKey>,
    time: SystemTime,
    started: Instant,
    waited: Duration,
    /// Boxed, since few tunnels have one.
    road: Option<Box<Road>>,
    docket: Docket,
    /// What the answer says of quotas.
    pub(super) told: Option<Box<Told>>,
}

impl Line {
    pub(super) fn begin(thread: &Thread, client: SocketAddr, target: String) -> Self {
        let (time, started) = (clock::wall(), clock::now());
        let (identity, host, waited) = (None, None, Duration::ZERO);
        Self {
            client,
            identity,
            target,
            host,
            time,
            started,
            waited,
            road: None,
            docket: Docket::begin(thread, client, "CONNECT"),
            told: None,
        }
    }

    /// Who asked, as far as they said.
    pub(super) fn asked_by(&mut self, identity: &Identity) {
        self.identity = identity.name().map(Arc::clone);
        self.docket.asked_by(identity);
    }

    pub(super) fn end(
        mut self,
        thread: &Thread,
        status: u16,
        error: Option<&'static str>,
        (sent, received): (u64, u64),
        end: &'static str,
    ) {
        self.docket.done(status);
        if thread.log.is_on() {
            let (api, attempts, parent) = self.road.map(|road| *road).unwrap_or_default().parts();
            thread.log.write(&Record {
                time: self.time,
                client: self.client,
                identity: self.identity,
                method: "CONNECT".to_owned(),
                target: self.target,
                host: self.host.map_or_else(String::new, |host| host.to_string()),
                status,
                error,
                sent,
                received,
                waited: self.waited,
                duration: clock::now() - self.started,
                reused: false,
                api,
                cache: None,
                attempts,
                parent,
                end,
            });
        }
    }
}
