//! The front gates of an API, which stand before a request of whatever route: who may ask at all.
//!
//! Here is where they are asked, in their order; each decides in a module of
//! [`policy`](crate::policy). Nothing has been made of a request before them, nor looked up, dialled
//! or counted for it. The gate of the proxy itself, which all requests meet, is [`super::front`].

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::Method;

use super::Thread;
use super::asker::Asker;
use super::docket::Docket;
use super::docket::Halt;
use super::reject::Asks;
use super::reject::Reject;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::Decision;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::Ruling;
use crate::policy::access::Known;
use crate::policy::access::entrance::Deed;
use crate::policy::access::entrance::Entrance;
use crate::policy::access::entrance::Place;
use crate::policy::access::entrance::Stranger;
use crate::policy::api::Api;
use crate::policy::api::counts::Outcome;

/// What the gates look at.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) thread: &'a Thread,
    pub(super) client: &'a Asker,
    pub(super) api: &'a Api,
    /// Who asks, as far as the proxy's own gate knows.
    pub(super) identity: &'a Identity,
    /// Where the request shows who asks.
    pub(super) place: Place<'a>,
    pub(super) method: &'a Method,
    /// Its path as the API has it, with the query; none of a tunnel.
    pub(super) path: Option<&'a str>,
}

/// Somebody whom the gates have let in.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) known: Known,
    /// The field that said who it is: it was meant for us, and goes no further.
    pub(super) field: Option<HeaderName>,
}

/// Lets a request in, or says why not; none if the client left meanwhile.
pub(super) async fn enter(ask: Ask<'_>, docket: &mut Docket) -> Option<Result<Entered, Reject>> {
    let Ask { api, identity, .. } = ask;
    if let Err(reject) = listed(ask, docket) {
        return Some(Err(reject));
    }
    match &api.entrance {
        Some(entrance) => {
            let is_held = docket.is_on();
            clock::held(is_held, prove(ask, entrance, docket)).await
        }
        None => Some(Ok(Entered { known: Known::of(identity.clone()), field: None })),
    }
}

/// Whether its address may use the API.
fn listed(ask: Ask<'_>, docket: &mut Docket) -> Result<(), Reject> {
    let Ask { client, api, .. } = ask;
    let lists = &api.settings.lists;
    if lists.is_open() {
        return Ok(());
    }
    let (rule, mode, address) = (Rule::Networks, lists.mode, client.peer().ip());
    let ruling = Ruling { rule, mode, key: &address, value: None, limit: None };
    let refusal = Refusal { rule, left: Duration::ZERO };
    let decision =
        if lists.admit(address) { Decision::Pass(()) } else { Decision::Refuse(refusal) };
    match docket.obey(api.counts.decided(), &ruling, decision) {
        Ok(_) => Ok(()),
        Err(Halt::Wait(_) | Halt::Refuse(_)) => {
            api.counts.asked(Outcome::Denied);
            Err(Reject::NotListed)
        }
    }
}

/// Who asks by a key of the API.
async fn prove(
    ask: Ask<'_>,
    entrance: &Entrance,
    docket: &mut Docket,
) -> Option<Result<Entered, Reject>> {
    let Ask { thread, client, api, identity, place, method, path } = ask;
    let address = client.peer().ip();
    let deed = Deed { api: api.name(), method, path };
    let Stranger { why, field } =
        match client.unless_left(entrance.judge(place, deed, address)).await? {
            Ok(mut proven) => {
                match proven.known.identity.name() {
                    Some(name) => thread.cells.asked_by(name),
                    None => proven.known.identity = identity.clone(),
                }
                docket.knows(&proven.known);
                let Known { key, identity, .. } = &proven.known;
                let key = key.as_deref().or(identity.name().map(|name| &**name)).unwrap_or("");
                let (rule, mode) = (Rule::Access, entrance.mode());
                let ruling = Ruling { rule, mode, key: &key, value: None, limit: None };
                // What passes is not refused.
                let _passed = docket.obey(api.counts.decided(), &ruling, Decision::Pass(()));
                return Some(Ok(Entered { known: proven.known, field: proven.field }));
            }
            Err(stranger) => stranger,
        };
    tracing::debug!(client = %address, api = %api.name(), why = why.as_str(), "no key that holds");
    let (rule, mode) = (Rule::Access, entrance.mode());
    let ruling = Ruling { rule, mode, key: &address, value: None, limit: None };
    let decision = Decision::Refuse(Refusal { rule, left: Duration::ZERO });
    match docket.obey::<()>(api.counts.decided(), &ruling, decision) {
        Ok(_) => Some(Ok(Entered { known: Known::of(identity.clone()), field })),
        Err(Halt::Wait(_) | Halt::Refuse(_)) => {
            api.counts.asked(why.into());
            let asks = Asks {
                api: Arc::clone(api.name()),
                header: entrance.header().cloned(),
                takes_tokens: entrance.takes_tokens(),
                at_gateway: matches!(place, Place::Gateway(_)),
            };
            Some(Err(Reject::Unproven { why, asks }))
        }
    }
}
