//! What is known of who asks, once the front gates of an API have been passed.

use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;

use crate::base::identity::Identity;

/// What is known of who asks. An identity is always there; the rest is what an API key or a token said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) identity: Identity,
    /// The name of the API key.
    pub(crate) key: Option<Arc<str>>,
    /// The plan that the key or the token is on.
    pub(crate) plan: Option<Arc<str>>,
    /// The claims of the token, as its issuer signed them.
    pub(crate) claims: Option<Arc<Map<String, Value>>>,
}

impl Known {
    /// Somebody of whom no more is known than that.
    pub(crate) fn of(identity: Identity) -> Self {
        Self { identity, ..Self::default() }
    }
}
