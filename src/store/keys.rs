//! Every key that narrows writes to Redis, in one list.
//!
//! | key | example | type | life |
//! |---|---|---|---|
//! | `host` | `proxy_rate_limiter:{0}:api.example.com:8443` | hash: instance -> slots granted, `#t` their sum, `#g` generation last swept | while somebody holds a slot; one day if a whole fleet vanishes |
//! | `queue` | `proxy_rate_limiter:{0}:api.example.com:8443~q` | list of instances, one entry for each request that waits | while somebody waits; one day |
//! | `workers` | `proxy_rate_limiter:{0}:@w` | hash: instance -> epoch, `#s` state and generation, `#run`, `#until`, `#hb`, `#ok` | one day after the last heartbeat |
//! | `leases` | `proxy_rate_limiter:{0}:@lease` | sorted set: instance -> end of lease, ms of Redis time | while there is an instance; one day after the last heartbeat |
//!
//! Hints go to the channel `proxy_rate_limiter:{0}:@n:<instance>`.
//!
//! Invariant: all share one hash tag, so that a script may use them together on a cluster
//! too; no host's key can be mistaken for one of the others, since a host name holds no `@`.

use crate::base::authority::HostKey;

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    stem: String,
    workers: String,
    leases: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        // One shard. More of them would carry their number here.
        let stem = format!("{prefix}:{{0}}:");
        let (workers, leases) = (format!("{stem}@w"), format!("{stem}@lease"));
        Self { stem, workers, leases }
    }

    pub(crate) fn host(&self, host: &HostKey) -> String {
        [self.stem.as_str(), host.as_str()].concat()
    }

    /// The list of those who wait for a slot of this host.
    pub(crate) fn queue(&self, host: &HostKey) -> String {
        [self.stem.as_str(), host.as_str(), "~q"].concat()
    }

    /// The host whose key this is.
    pub(crate) fn host_of(&self, key: &str) -> Option<HostKey> {
        key.strip_prefix(&self.stem).map(HostKey::recalled)
    }

    /// Where an instance hears hints.
    pub(crate) fn channel(&self, worker: &str) -> String {
        [self.stem.as_str(), "@n:", worker].concat()
    }

    /// The command that sends a hint.
    #[expect(clippy::unused_self, reason = "a cluster's is another")]
    pub(crate) fn publish(&self) -> &'static str {
        "PUBLISH"
    }

    pub(crate) fn leases(&self) -> &str {
        &self.leases
    }

    pub(crate) fn workers(&self) -> &str {
        &self.workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_look_as_documented() {
        let keys = Keys::new("proxy_rate_limiter");
        let host = HostKey::parse("api.example.com:8443").unwrap();
        assert_eq!(keys.host(&host), "proxy_rate_limiter:{0}:api.example.com:8443");
        assert_eq!(keys.workers(), "proxy_rate_limiter:{0}:@w");
        assert_eq!(keys.leases(), "proxy_rate_limiter:{0}:@lease");
    }
}
