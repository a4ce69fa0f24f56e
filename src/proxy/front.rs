//! The front gate of every request, on whichever protocol it came: who asks, and whether they may.
//!
//! Before it nothing has been looked up, dialled or counted for a request. Who may use the proxy is
//! decided by [`access`](crate::policy::access); what is told to whom it turns away by [`super::reject`].

use super::Thread;
use super::asker::Asker;
use super::reject::Reject;
use crate::base::identity::Identity;
use crate::policy::access::Caller;
use crate::policy::access::Denied;
use crate::policy::access::Given;
use crate::telemetry::metrics::Bound;

/// Who asks by a request of this client's that says `given`, or why it is turned away; none if the client
/// left meanwhile.
pub(crate) async fn admit<'a>(
    thread: &Thread,
    client: &Asker,
    given: impl FnOnce() -> Given<'a>,
) -> Option<Result<Identity, Reject>> {
    if thread.gate.is_none() {
        let identity = client.identity();
        if let Some(name) = identity.name() {
            thread.cells.asked_by(name);
        }
        return Some(Ok(identity.clone()));
    }
    let caller = Caller { address: client.peer().ip(), certificate: client.certificate() };
    client.unless_left(judge(thread, caller, given())).await
}

/// The same by a request of an API whose keys stand in the place of passwords.
pub(crate) fn admit_without_password(thread: &Thread, client: &Asker) -> Result<Identity, Reject> {
    let Some(gate) = &thread.gate else { return Ok(client.identity().clone()) };
    let caller = Caller { address: client.peer().ip(), certificate: client.certificate() };
    gate.admit_without_password(caller).map_err(|denied| turned_away(thread, caller, denied))
}

async fn judge(thread: &Thread, caller: Caller<'_>, given: Given<'_>) -> Result<Identity, Reject> {
    let Some(gate) = &thread.gate else { return Ok(Identity::of_address(caller.address)) };
    match gate.admit(given, caller).await {
        Ok(identity) => {
            if let Some(name) = identity.name() {
                thread.cells.asked_by(name);
            }
            Ok(identity)
        }
        Err(denied) => Err(turned_away(thread, caller, denied)),
    }
}

fn turned_away(thread: &Thread, caller: Caller<'_>, denied: Denied) -> Reject {
    if denied == Denied::Busy {
        thread.cells.bounded(Bound::AuthQueue);
    }
    tracing::debug!(client = %caller.address, why = denied.as_str(), "turned away");
    Reject::Denied(denied)
}
