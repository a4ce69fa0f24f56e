//! Redis and nothing else.

use std::time::Duration;

/// Where Redis is and how long it may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://`, `rediss://` or `redis+unix://`, with user, password and database filled in.
    pub url: Secret,
    /// The first part of every key.
    pub prefix: String,
    /// How long one call, or one connect, may take.
    pub timeout: Duration,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}
