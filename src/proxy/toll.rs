//! The last front gate of an API: what a request takes of its client's quotas.
//!
//! Who the client is and what is left, [`quota`](crate::policy::quota) decides. Here is done what it
//! says: a request goes on, or is refused, or goes on since the quotas are only observed; and the
//! answer, whichever it is, tells how much is left.

use http::HeaderMap;
use http::Method;

use super::asker::Asker;
use super::docket::Docket;
use super::docket::Halt;
use super::reject::Reject;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::policy::Ruling;
use crate::policy::access::Known;
use crate::policy::api::Api;
use crate::policy::quota;
use crate::policy::quota::Quotas;
use crate::policy::quota::Told;

/// What is known of a request and of who asks.
#[derive(Clone, Copy)]
pub(super) struct Payer<'a> {
    pub(super) client: &'a Asker,
    pub(super) known: &'a Known,
    pub(super) host: &'a HostKey,
    pub(super) method: &'a Method,
    /// As they came.
    pub(super) fields: &'a HeaderMap,
}

/// Takes what it costs; none if the client left. What there is to be told is put into `told`.
pub(super) async fn take(
    api: &Api,
    payer: Payer<'_>,
    docket: &mut Docket,
    told: &mut Option<Box<Told>>,
) -> Option<Result<(), Reject>> {
    match &api.quotas {
        // PERF: boxed, so that a request without quotas does not carry the room for them.
        Some(quotas) => {
            let is_held = docket.is_on();
            Box::pin(clock::held(is_held, taken(api, quotas, payer, docket, told))).await
        }
        None => Some(Ok(())),
    }
}

async fn taken(
    api: &Api,
    quotas: &Quotas,
    payer: Payer<'_>,
    docket: &mut Docket,
    told: &mut Option<Box<Told>>,
) -> Option<Result<(), Reject>> {
    let Payer { client, known, host, method, fields } = payer;
    let Known { identity, key, plan, claims } = known;
    let (key, plan, host) = (key.as_deref(), plan.as_deref(), host.as_str());
    let claims = claims.as_deref();
    let asker = quota::Asker { peer: client.peer().ip(), identity, key, claims, host, fields };
    let said = client.unless_left(quotas.take(asker, method, plan)).await?;
    *told = said.told.map(Box::new);
    let (value, limit) = said.used.unzip();
    docket.costs(said.cost, said.plan.as_ref());
    let (rule, mode) = (Quotas::RULE, quotas.mode());
    let ruling = Ruling { rule, mode, key: &said.key, value, limit };
    match docket.obey(api.counts.decided(), &ruling, said.decision) {
        Ok(_) => Some(Ok(())),
        Err(Halt::Wait(refusal) | Halt::Refuse(refusal)) => {
            api.counts.asked(refusal.rule.into());
            Some(Err(Reject::Policy(refusal)))
        }
    }
}
