//! CONNECT: a slot and a connection first, then 200, then bytes both ways (RFC 9110 §9.3.6).

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Open;
use super::Thread;
use super::guard::Client;
use super::guard::Detached;
use super::head::Connect;
use super::headers;
use super::reject::Reject;
use super::relay;
use super::relay::End;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::base::clock::Pulse;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::Route;
use crate::upstream::conn::Conn;
use crate::upstream::dial::Errand;

/// No Content-Length, no Transfer-Encoding: what follows is the tunnel's.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Serves a CONNECT, to the end of its tunnel or of its refusal.
pub(crate) async fn serve(thread: &Rc<Thread>, client: &Rc<Client>, connect: Connect) {
    let line = Line::begin(client.peer(), connect.target);
    let asked = headers::wait(connect.prefer.as_deref());
    let opened = open(thread, client, &line.target, asked).await;
    let reject = match opened {
        Some(Ok((upstream, key))) => {
            thread.cells.answered(Route::Connect, 200);
            client.write(ESTABLISHED);
            if let Some(near) = client.detach() {
                let pulse = Rc::clone(client.pulse());
                // A task of its own is as small as a tunnel needs; this one is as large as a dial.
                let relay = run(Rc::clone(thread), near, upstream, pulse, line, key);
                tokio::task::spawn_local(relay);
            }
            return;
        }
        Some(Err(reject)) => reject,
        None => return line.end(thread, "", 0, None, (0, 0), "client left"),
    };
    let answer = reject.answer(thread.settings.refuse_status);
    let status = answer.status.as_u16();
    thread.cells.answered(Route::Connect, status);
    line.end(thread, "", status, Some(answer.error), (0, 0), "refused");
    // What came behind the head was meant for the tunnel: the connection cannot go on.
    client.write(&answer.bytes());
    super::linger(client).await;
}

async fn open(
    thread: &Thread,
    client: &Client,
    target: &str,
    asked: Option<u64>,
) -> Option<Result<(Conn, String), Reject>> {
    let authority = match Authority::parse(target, None) {
        Ok(authority) => authority,
        Err(why) => return Some(Err(Reject::BadTarget { target: target.to_owned(), why })),
    };
    let errand = Errand {
        authority: &authority,
        tls: false,
        patience: thread.patience(asked),
        client: client.peer(),
    };
    let connected = client.unless_left(thread.upstream.connect(errand)).await?;
    Some(connected.map(|conn| (conn, authority.key().to_string())).map_err(Reject::from))
}

async fn run(
    thread: Rc<Thread>,
    near: Detached,
    upstream: Conn,
    pulse: Rc<Pulse>,
    line: Line,
    key: String,
) {
    let _open = Open::count(&thread);
    let idle = thread.settings.tunnel_idle_timeout;
    let moved = relay::relay(near, upstream, &[], &pulse, idle).await;
    thread.cells.sent(moved.sent);
    thread.cells.received(moved.received);
    line.end(&thread, &key, 200, None, (moved.sent, moved.received), told(moved.end));
}

/// Relays after a 101: the same as a tunnel, on the connection that the request had.
pub(crate) async fn switched(thread: &Thread, client: &Client, upstream: Conn, early: &[u8]) {
    let Some(near) = client.detach() else { return };
    let idle = thread.settings.tunnel_idle_timeout;
    let moved = relay::relay(near, upstream, early, client.pulse(), idle).await;
    thread.cells.sent(moved.sent);
    thread.cells.received(moved.received);
}

fn told(end: End) -> &'static str {
    match end {
        End::Client => "reset by client",
        End::Complete => "complete",
        End::Silent => "idle",
        End::Upstream => "reset by upstream",
    }
}

/// What the access log will say of a tunnel; a few words kept while it lives.
struct Line {
    client: SocketAddr,
    target: String,
    time: SystemTime,
    started: Instant,
}

impl Line {
    fn begin(client: SocketAddr, target: String) -> Self {
        Self { client, target, time: clock::wall(), started: clock::now() }
    }

    fn end(
        self,
        thread: &Thread,
        host: &str,
        status: u16,
        error: Option<&'static str>,
        (sent, received): (u64, u64),
        end: &'static str,
    ) {
        if thread.log.is_on() {
            thread.log.write(&Record {
                time: self.time,
                client: self.client,
                method: "CONNECT".to_owned(),
                target: self.target,
                host: host.to_owned(),
                status,
                error,
                sent,
                received,
                waited: Duration::ZERO,
                duration: clock::now() - self.started,
                reused: false,
                end,
            });
        }
    }
}
