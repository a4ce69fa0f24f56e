//! All circuits there are, for operators: those of APIs and those of CONNECT.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Apis;
use crate::base::authority::HostKey;
use crate::policy::breaker::Breakers;
use crate::policy::breaker::Circuit;
use crate::policy::breaker::TUNNELS;

/// The way to all circuits. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Circuits {
    pub(crate) apis: Arc<ArcSwap<Apis>>,
    pub(crate) connects: Option<Arc<Breakers>>,
}

impl Circuits {
    /// As they are now: by API, then by host.
    pub(crate) fn all(&self) -> Vec<Circuit> {
        let apis = self.apis.load();
        let of_apis = apis.all().into_iter().filter_map(|api| api.breakers.as_ref());
        self.connects.as_deref().into_iter().chain(of_apis).flat_map(Breakers::snapshot).collect()
    }

    /// Closes the circuit of an API (`@connect` for CONNECT), or where each host has its own that of
    /// a host, for the whole fleet; whether there is one.
    pub(crate) fn reset(&self, api: &str, host: Option<&HostKey>) -> bool {
        if api == TUNNELS {
            return self.connects.as_ref().is_some_and(|connects| connects.reset(host));
        }
        let apis = self.apis.load();
        let api = apis.any(api).and_then(|api| api.breakers.as_ref());
        api.is_some_and(|breakers| breakers.reset(host))
    }
}
