//! The connection for a tunnel: if the circuit of its host lets it be tried, and by the way that its
//! API says, directly or by a parent.
//!
//! Nothing of a tunnel is sent before it is there, so where a parent itself was no good another is
//! tried at once, [`TRIES`] in all. What the destination had to say is not tried again.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::Thread;
use super::asker::Asker;
use super::docket::Docket;
use super::docket::Ended;
use super::docket::Halt;
use super::docket::Trial;
use crate::base::clock;
use crate::policy::End;
use crate::policy::Facts;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::Ruling;
use crate::policy::api::Api;
use crate::policy::breaker::Pass;
use crate::policy::parents::Asked;
use crate::policy::parents::Parent;
use crate::upstream::conn::Conn;
use crate::upstream::dial::DialError;
use crate::upstream::dial::Errand;

/// Ways that are tried for one tunnel.
const TRIES: u32 = 3;

/// By which way a tunnel was tried, for the access log.
#[derive(Default)]
pub(super) struct Road {
    api: Option<Arc<str>>,
    attempts: u32,
    parent: Option<Arc<str>>,
}

impl Road {
    /// An attempt, by way of this parent.
    fn went(&mut self, api: &Api, parent: Option<&Parent>) {
        self.api = Some(Arc::clone(api.name()));
        self.attempts += 1;
        self.parent = parent.map(|parent| Arc::clone(&parent.name));
    }

    /// The API, the attempts, and the parent of the last one.
    pub(super) fn parts(self) -> (Option<Arc<str>>, u32, Option<Arc<str>>) {
        (self.api, self.attempts, self.parent)
    }
}

/// Why there is no connection.
pub(super) enum Barred {
    Dial(DialError),
    /// By the doing of the way itself, which says nothing of the destination.
    Way(DialError),
    Policy(Refusal),
}

/// Opens the connection; none if the client left.
pub(super) async fn connect(
    thread: &Thread,
    client: &Asker,
    api: Option<&Api>,
    errand: Errand<'_>,
    road: &mut Option<Box<Road>>,
    docket: &mut Docket,
) -> Option<Result<Conn, Barred>> {
    let entered = clock::held(docket.is_on(), enter(thread, client, errand, docket)).await?;
    let pass = match entered {
        Ok(pass) => pass,
        Err(refusal) => return Some(Err(Barred::Policy(refusal))),
    };
    let started = clock::now();
    let connected = dial(thread, client, api, errand, road, docket).await?;
    let end = match &connected {
        Ok(_conn) => End::Status(200),
        Err(Barred::Dial(error)) => error.end(),
        Err(Barred::Policy(_) | Barred::Way(_)) => End::Neutral,
    };
    let (waited, refused) = match &connected {
        Ok(conn) => (conn.waited(), None),
        Err(Barred::Dial(DialError::Refused(refused))) => (refused.waited, Some(refused)),
        Err(Barred::Dial(error) | Barred::Way(error)) => (error.waited(), None),
        Err(Barred::Policy(_)) => (Duration::ZERO, None),
    };
    docket.slot(errand.authority.key(), waited, refused);
    let is_held = docket.is_on();
    let over = async {
        docket.ended(|| {
            let took = clock::now().saturating_duration_since(started);
            Ended { number: 1, end, took, pause: None, is_ways: false }
        });
        if let Some(pass) = pass {
            // No share of slow ones is judged.
            pass.record(Facts { end, took: Duration::ZERO }).await;
        }
    };
    clock::held(is_held, over).await;
    Some(connected)
}

/// Asks the circuit of the host, if it has one; none if the client left.
async fn enter<'a>(
    thread: &'a Thread,
    client: &Asker,
    errand: Errand<'a>,
    docket: &mut Docket,
) -> Option<Result<Option<Pass<'a>>, Refusal>> {
    let host = errand.authority.key();
    docket.attempts(|| Trial::first(None));
    let Some(circuits) = &thread.connects else { return Some(Ok(None)) };
    let mut ruling = Ruling {
        rule: Rule::Breaker,
        mode: circuits.mode(),
        key: host,
        value: None,
        limit: circuits.threshold().map(u64::from),
    };
    if docket.is_on() {
        ruling.value = Some(circuits.failures(host).into());
    }
    let decision = client.unless_left(circuits.enter(host)).await?;
    Some(match docket.obey(circuits.decided(), &ruling, decision) {
        Ok(pass) => Ok(pass),
        Err(Halt::Wait(refusal) | Halt::Refuse(refusal)) => Err(refusal),
    })
}

async fn dial(
    thread: &Thread,
    client: &Asker,
    api: Option<&Api>,
    errand: Errand<'_>,
    road: &mut Option<Box<Road>>,
    docket: &mut Docket,
) -> Option<Result<Conn, Barred>> {
    let Some((api, parents)) = api.and_then(|api| Some((api, api.parents.as_ref()?))) else {
        let connected = client.unless_left(thread.upstream.connect(errand)).await?;
        return Some(connected.map_err(Barred::Dial));
    };
    let (fields, host) = (HeaderMap::new(), errand.authority.key());
    let mut before = None;
    let mut tries = 0;
    loop {
        let before_it = before.as_ref().map(|parent| (Some(parent), 0));
        let ip = errand.client.ip();
        let decision =
            parents.choose(Asked { client: ip, host, fields: &fields, before: before_it });
        let (rule, mode) = (Rule::Parents, Mode::Enforce);
        let ruling = Ruling { rule, mode, key: host, value: None, limit: None };
        let way = match docket.obey(api.counts.decided(), &ruling, decision) {
            Ok(Some(way)) => way,
            // What is enforced passes with a way, or not at all.
            Ok(None) => return Some(Err(Barred::Policy(Refusal { rule, left: Duration::ZERO }))),
            Err(Halt::Wait(refusal) | Halt::Refuse(refusal)) => {
                return Some(Err(Barred::Policy(refusal)));
            }
        };
        tries += 1;
        if thread.log.is_on() {
            road.get_or_insert_default().went(api, way.parent.as_deref());
        }
        let started = clock::now();
        let errand = Errand { parent: way.hop(), ..errand };
        let connected = client.unless_left(thread.upstream.connect(errand)).await?;
        let waited = connected.as_ref().map_or_else(DialError::waited, Conn::waited);
        let end = connected.as_ref().map_or_else(DialError::end, |_conn| End::Status(200));
        let is_ways = matches!(end, End::Failed(_)) && way.is_to_blame();
        before = way.parent.clone();
        way.record(Facts { end, took: (clock::now() - started).saturating_sub(waited) });
        if !is_ways || tries >= TRIES {
            let barred = if is_ways { Barred::Way } else { Barred::Dial };
            return Some(connected.map_err(barred));
        }
    }
}
