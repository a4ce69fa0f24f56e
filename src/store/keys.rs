//! Every key that narrows writes to Redis, in one list.
//!
//! | key | example | type | life |
//! |---|---|---|---|
//! | `host` | `proxy_rate_limiter:{0}:api.example.com:8443` | hash: instance -> slots granted, `#t` their sum, `#g` generation last swept | while somebody holds a slot; one day if a whole fleet vanishes |
//! | `workers` | `proxy_rate_limiter:{0}:@w` | hash: instance -> epoch, `#s` state and generation, `#run`, `#until`, `#hb`, `#ok` | one day after the last heartbeat |
//! | `leases` | `proxy_rate_limiter:{0}:@lease` | sorted set: instance -> end of lease, ms of Redis time | while there is an instance; one day after the last heartbeat |
//! | `limits` | `proxy_rate_limiter:@limits` | hash: pattern -> limit, or limit and `/shared`; `#v` version, `#at` time of the last change, us of Redis time | for ever |
//!
//! Invariant: the first three share one hash tag, so that a script may use them together on a cluster
//! too; no host's key can be mistaken for one of the others, since a host name holds no `@`.

use crate::base::authority::HostKey;

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    stem: String,
    workers: String,
    leases: String,
    limits: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        // One shard. More of them would carry their number here.
        let stem = format!("{prefix}:{{0}}:");
        let (workers, leases) = (format!("{stem}@w"), format!("{stem}@lease"));
        Self { stem, workers, leases, limits: format!("{prefix}:@limits") }
    }

    pub(crate) fn host(&self, host: &HostKey) -> String {
        [self.stem.as_str(), host.as_str()].concat()
    }

    pub(crate) fn leases(&self) -> &str {
        &self.leases
    }

    /// The fleet's table of limits: one, whatever the number of shards.
    pub(crate) fn limits(&self) -> &str {
        &self.limits
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
        assert_eq!(keys.limits(), "proxy_rate_limiter:@limits");
    }
}
