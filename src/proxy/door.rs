//! Who comes in: a connection from the accept loop to where HTTP begins, or to the word that it
//! cannot come in.
//!
//! What is refused here costs little: no TLS for somebody there is no room for, and no waiting for more than a
//! few at a time to read why.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::DRAIN_HEAD;
use super::Open;
use super::Thread;
use super::guard::Client;
use super::linger;
use super::reject::Reject;
use super::serve;
use super::spawn;
use crate::base::clock;
use crate::base::socket;
use crate::listen::Accepted;
use crate::listen::accept::Arrival;
use crate::listen::bounds::Full;
use crate::listen::greet::Entrant;
use crate::listen::greet::Entry;
use crate::listen::greet::Unfit;
use crate::listen::stream::Stream;
use crate::telemetry::metrics::Bound;
use crate::telemetry::metrics::Route;

/// Clients on one thread that are being told that there is no room; others are just cut.
const TELLING: usize = 16;
/// How often the log may say that clients are turned away.
const SAY: Duration = Duration::from_secs(1);

/// Those on one thread that there was no room for.
#[derive(Default)]
pub(crate) struct TurnedAway {
    /// Who is being told just now.
    telling: Cell<usize>,
    /// Since the log said so last.
    count: Cell<u64>,
    said: Cell<Option<Instant>>,
    /// When the log last said that somebody mistook a port.
    hinted: Cell<Option<Instant>>,
}

/// Takes a connection in, or turns it away.
pub(crate) fn admit(thread: &Rc<Thread>, arrival: Arrival) {
    match thread.greeter.enter(arrival) {
        Entry::Ready(accepted) => spawn(thread, serve(Rc::clone(thread), accepted)),
        Entry::Strange(entrant) => spawn(thread, welcome(Rc::clone(thread), entrant)),
        Entry::Full(full, accepted) => {
            note(thread, full);
            let Some(accepted) = accepted else { return };
            let telling = &thread.turned_away.telling;
            if telling.get() >= TELLING {
                return reset(&accepted);
            }
            telling.set(telling.get() + 1);
            let thread = Rc::clone(thread);
            tokio::task::spawn_local(async move {
                tell(&thread, accepted, Reject::Full(full)).await;
                let telling = &thread.turned_away.telling;
                telling.set(telling.get() - 1);
            });
        }
    }
}

/// Greets a connection, and serves it if it is fit.
async fn welcome(thread: Rc<Thread>, entrant: Entrant) {
    let open = Open::count(&thread);
    let greeted = Box::pin(greet(&thread, entrant)).await;
    // Nothing is awaited until it counts again.
    drop(open);
    if let Some(accepted) = greeted {
        serve(thread, accepted).await;
    }
}

/// Hears what comes before HTTP, within the time for that; none if it never comes to HTTP.
async fn greet(thread: &Thread, entrant: Entrant) -> Option<Accepted> {
    let client = entrant.peer();
    let mut listener = None;
    let draining = poll_fn(|cx| {
        listener.get_or_insert_with(|| thread.drain.listen(cx.waker().clone()));
        if thread.drain.is_on() { Poll::Ready(()) } else { Poll::Pending }
    });
    let drained = async {
        draining.await;
        tokio::time::sleep(DRAIN_HEAD).await;
    };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(thread.greeter.timeout(), entrant.greet()) => greeted,
        () = drained => return None,
    };
    match greeted {
        Ok(Ok(accepted)) => {
            if let Stream::Tls(_) = accepted.stream {
                thread.cells.shook_hands(true);
            }
            return Some(accepted);
        }
        Ok(Err(Unfit::ClearText(accepted))) => {
            hint(thread, client, "plain HTTP to a port for TLS: must its URL begin with https://?");
            tell(thread, accepted, Reject::ClearText).await;
        }
        Ok(Err(Unfit::Full(full, accepted))) => {
            note(thread, full);
            if let Some(accepted) = accepted {
                tell(thread, accepted, Reject::Full(full)).await;
            }
        }
        Ok(Err(Unfit::Header(error))) => {
            tracing::debug!(%client, %error, "no header of the PROXY protocol");
        }
        Ok(Err(Unfit::Tls(error))) => {
            thread.cells.shook_hands(false);
            tracing::debug!(%client, %error, "TLS with a client failed");
        }
        Err(_late) => {
            thread.cells.bounded(Bound::HandshakeTime);
            tracing::debug!(%client, "a client was too slow to come to HTTP");
        }
    }
    None
}

/// Answers a connection that is then over.
async fn tell(thread: &Thread, accepted: Accepted, reject: Reject) {
    let client = Client::new(accepted, thread.settings.bounds);
    let answer = reject.answer(thread.settings.refuse_status);
    thread.cells.answered(Route::Own, answer.status.as_u16());
    client.write(&answer.bytes());
    linger(&client).await;
}

fn reset(accepted: &Accepted) {
    socket::reset_on_close(accepted.stream.tcp());
}

/// Says once in a while that a client has mistaken a port for one of another kind.
pub(super) fn hint(thread: &Thread, client: SocketAddr, words: &str) {
    let (now, hinted) = (clock::now(), &thread.turned_away.hinted);
    if hinted.get().is_none_or(|hinted| now - hinted >= SAY) {
        hinted.set(Some(now));
        tracing::warn!(%client, "{words}");
    }
}

/// Counts a bound that a client met, and logs it once in a while.
fn note(thread: &Thread, full: Full) {
    let bound = match full {
        Full::Clients => Bound::Clients,
        Full::Files => Bound::OpenFiles,
        Full::OfAddress => Bound::ClientsPerAddress,
    };
    thread.cells.bounded(bound);
    let away = &thread.turned_away;
    away.count.set(away.count.get() + 1);
    let now = clock::now();
    if away.said.get().is_none_or(|said| now - said >= SAY) {
        away.said.set(Some(now));
        tracing::warn!(bound = bound.as_str(), count = away.count.take(), "clients turned away");
    }
}

/// The accept loop waits: there are no descriptors for clients.
pub(crate) fn out_of_files(thread: &Thread) {
    note(thread, Full::Files);
}
