//! The front gates of an API, which stand before a request of whatever route: who may ask at all.
//!
//! Here is where they are asked, in their order; each decides in a module of
//! [`policy`](crate::policy). Nothing has been made of a request before them, nor looked up, dialled
//! or counted for it. The gate of the proxy itself, which all requests meet, is [`super::front`].

use super::asker::Asker;
use super::reject::Reject;
use crate::policy::api::Api;
use crate::policy::api::counts::Outcome;

/// What the gates look at.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) client: &'a Asker,
    pub(super) api: &'a Api,
}

/// Lets a request in, or says why not.
pub(super) fn enter(ask: Ask<'_>) -> Result<(), Reject> {
    let Ask { client, api } = ask;
    if !api.settings.lists.admit(client.peer().ip()) {
        tracing::debug!(client = %client.peer().ip(), api = %api.name(), "not of a network that may");
        api.counts.asked(Outcome::Denied);
        return Err(Reject::NotListed);
    }
    Ok(())
}
