//! What two readings of the settings differ in, as far as that cannot change while narrows runs.
//!
//! Ports, threads, pools and time-outs are built in where they are obeyed. What is obeyed anew at
//! once (APIs, limits, what identities may have, the level of the log) is not looked at here. Each
//! setting is on one of the two sides; a test compares with the table of [`flags`].

use super::Config;
use super::flags;
use super::flags::Setting;
use crate::admin;
use crate::limit::shared;

/// Which settings, and whether they are the same in both.
type Row = (&'static [&'static Setting], fn(&Config, &Config) -> bool);

static FIXED: &[Row] = &[
    (&[&flags::LISTEN, &flags::PORT, &flags::BIND], |a, b| a.listen.all() == b.listen.all()),
    (
        &[&flags::TLS_CERT, &flags::TLS_KEY, &flags::TLS_CLIENT_CA, &flags::TLS_CLIENT_AUTH],
        |a, b| a.listen.tls == b.listen.tls,
    ),
    (&[&flags::PROXY_PROTOCOL_FROM], |a, b| {
        a.listen.proxy_protocol_from == b.listen.proxy_protocol_from
    }),
    (&[&flags::THREADS], |a, b| a.listen.threads == b.listen.threads),
    (&[&flags::HANDSHAKE_TIMEOUT], |a, b| a.listen.handshake_timeout == b.listen.handshake_timeout),
    (&[&flags::MAX_CLIENTS], |a, b| a.listen.max_clients == b.listen.max_clients),
    (&[&flags::MAX_CLIENTS_PER_ADDRESS], |a, b| {
        a.listen.max_clients_per_address == b.listen.max_clients_per_address
    }),
    (&[&flags::VIA], |a, b| via(a) == via(b)),
    (&[&flags::EXPLAIN], |a, b| a.proxy.explain == b.proxy.explain),
    (&[&flags::ERROR_DETAILS], |a, b| a.proxy.error_details == b.proxy.error_details),
    (&[&flags::REFUSE_STATUS], |a, b| a.proxy.refuse_status == b.proxy.refuse_status),
    (&[&flags::HEADER_TIMEOUT], |a, b| a.proxy.header_timeout == b.proxy.header_timeout),
    (&[&flags::KEEP_ALIVE_TIMEOUT], |a, b| {
        a.proxy.keep_alive_timeout == b.proxy.keep_alive_timeout
    }),
    (&[&flags::TUNNEL_IDLE_TIMEOUT], |a, b| {
        a.proxy.tunnel_idle_timeout == b.proxy.tunnel_idle_timeout
    }),
    (&[&flags::IDLE_RECLAIM], |a, b| a.proxy.idle_reclaim == b.proxy.idle_reclaim),
    (
        &[
            &flags::MAX_HEAD_SIZE,
            &flags::MAX_FIELDS,
            &flags::MAX_REQUEST_LINE,
            &flags::MAX_CHUNK_EXTENSIONS,
            &flags::MAX_TRAILERS,
            &flags::MAX_INTERIM,
        ],
        |a, b| a.proxy.bounds == b.proxy.bounds,
    ),
    (&[&flags::HTTP2_MAX_STREAMS, &flags::HTTP2_WINDOW, &flags::HTTP2_MAX_RESETS], |a, b| {
        a.proxy.http2 == b.proxy.http2
    }),
    (&[&flags::GATEWAY_HOST], |a, b| a.proxy.gateway_hosts == b.proxy.gateway_hosts),
    (
        &[
            &flags::CONNECT_BREAKER_FAILURES,
            &flags::CONNECT_BREAKER_RESET,
            &flags::CONNECT_BREAKER_MODE,
        ],
        |a, b| a.proxy.connect_breaker == b.proxy.connect_breaker,
    ),
    (&[&flags::CACHE_MEMORY], |a, b| a.cache.memory == b.cache.memory),
    (&[&flags::CACHE_REDIS], |a, b| a.cache.redis == b.cache.redis),
    (&[&flags::SHUTDOWN_TIMEOUT], |a, b| a.shutdown_timeout == b.shutdown_timeout),
    (&[&flags::PROXY_AUTH], |a, b| a.clients.users == b.clients.users),
    (&[&flags::PROXY_AUTH_QUEUE], |a, b| a.clients.queue == b.clients.queue),
    (&[&flags::ALLOW_FROM], |a, b| a.clients.networks == b.clients.networks),
    (&[&flags::QUEUE_TIMEOUT], |a, b| a.limit.queue_timeout == b.limit.queue_timeout),
    (&[&flags::QUEUE_SIZE], |a, b| a.limit.queue_size == b.limit.queue_size),
    (&[&flags::QUEUE_TIMEOUT_MAX], |a, b| a.limit.queue_timeout_max == b.limit.queue_timeout_max),
    (&[&flags::HOST_IDLE], |a, b| a.limit.hosts.idle == b.limit.hosts.idle),
    (&[&flags::METRICS_HOSTS], |a, b| a.limit.hosts.named == b.limit.hosts.named),
    (
        &[
            &flags::REDIS_ADDR,
            &flags::REDIS_URL,
            &flags::REDIS_SENTINELS,
            &flags::REDIS_SENTINEL_MASTER,
            &flags::REDIS_SENTINEL_USERNAME,
            &flags::REDIS_SENTINEL_PASSWORD,
            &flags::REDIS_SENTINEL_PASSWORD_FILE,
            &flags::REDIS_CLUSTER,
            &flags::REDIS_USERNAME,
            &flags::REDIS_PASSWORD,
            &flags::REDIS_PASSWORD_FILE,
            &flags::REDIS_DB,
        ],
        |a, b| {
            let of = |config: &Config| {
                config.shared.as_ref().map(|shared| shared.store.deployment.clone())
            };
            of(a) == of(b)
        },
    ),
    (
        &[&flags::REDIS_TLS, &flags::REDIS_TLS_CA, &flags::REDIS_TLS_CERT, &flags::REDIS_TLS_KEY],
        |a, b| shared(a, b, |shared| &shared.store.tls),
    ),
    (&[&flags::REDIS_PREFIX], |a, b| shared(a, b, |shared| &shared.store.prefix)),
    (&[&flags::REDIS_TIMEOUT], |a, b| shared(a, b, |shared| &shared.store.timeout)),
    (&[&flags::REDIS_FAILURE], |a, b| shared(a, b, |shared| &shared.failure)),
    (&[&flags::SLACK], |a, b| shared(a, b, |shared| &shared.slack)),
    (&[&flags::ON_LEASE_LOSS], |a, b| shared(a, b, |shared| &shared.lease_loss)),
    (&[&flags::LEASE], |a, b| shared(a, b, |shared| &shared.lease)),
    (&[&flags::HEARTBEAT], |a, b| shared(a, b, |shared| &shared.heartbeat)),
    (&[&flags::RESOLVER], |a, b| a.upstream.resolver == b.upstream.resolver),
    (&[&flags::RESOLVE], |a, b| a.upstream.pinned == b.upstream.pinned),
    (&[&flags::UPSTREAM_CA], |a, b| a.upstream.authorities == b.upstream.authorities),
    (&[&flags::POOL_IDLE], |a, b| a.upstream.pool_idle == b.upstream.pool_idle),
    (&[&flags::POOL_SIZE], |a, b| a.upstream.pool_size == b.upstream.pool_size),
    (&[&flags::EGRESS], |a, b| a.upstream.egress.reach == b.upstream.egress.reach),
    (&[&flags::EGRESS_ALLOW], |a, b| a.upstream.egress.allow == b.upstream.egress.allow),
    (&[&flags::EGRESS_DENY], |a, b| a.upstream.egress.deny == b.upstream.egress.deny),
    (&[&flags::EGRESS_DEFAULT], |a, b| a.upstream.egress.otherwise == b.upstream.egress.otherwise),
    (&[&flags::CONNECT_PORTS], |a, b| {
        a.upstream.egress.connect_ports == b.upstream.egress.connect_ports
    }),
    (&[&flags::CONNECT_TIMEOUT], |a, b| a.upstream.connect_timeout == b.upstream.connect_timeout),
    (&[&flags::DNS_TIMEOUT], |a, b| a.upstream.dns_timeout == b.upstream.dns_timeout),
    (&[&flags::RESPONSE_TIMEOUT], |a, b| {
        a.upstream.response_timeout == b.upstream.response_timeout
    }),
    (&[&flags::IDLE_TIMEOUT], |a, b| a.upstream.idle_timeout == b.upstream.idle_timeout),
    (&[&flags::TLS_TIMEOUT], |a, b| a.upstream.bounds.tls_timeout == b.upstream.bounds.tls_timeout),
    (&[&flags::MAX_ADDRESSES], |a, b| a.upstream.bounds.addresses == b.upstream.bounds.addresses),
    (
        &[
            &flags::MAX_RESPONSE_HEAD,
            &flags::MAX_RESPONSE_FIELDS,
            &flags::MAX_RESPONSE_CHUNK_EXTENSIONS,
            &flags::MAX_RESPONSE_TRAILERS,
        ],
        |a, b| a.upstream.bounds.responses == b.upstream.bounds.responses,
    ),
    (&[&flags::ADMIN_PORT, &flags::ADMIN_BIND], |a, b| {
        let of = |config: &Config| config.admin.as_ref().map(|admin| admin.address);
        of(a) == of(b)
    }),
    (&[&flags::ADMIN_HOST], |a, b| admin(a, b, |admin| &admin.hosts)),
    (&[&flags::ADMIN_TOKEN, &flags::ADMIN_TOKEN_FILE], |a, b| admin(a, b, |admin| &admin.token)),
    (&[&flags::LOG_FORMAT], |a, b| a.trace.format == b.trace.format),
    (&[&flags::ACCESS_LOG], |a, b| a.access == b.access),
    (&[&flags::DECISION_LOG], |a, b| a.decisions == b.decisions),
];

/// The flags of what is another in `new` than in `old` and needs a restart to be obeyed: each
/// change by its first name.
pub(super) fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = FIXED.iter().filter(|(_, same)| !same(old, new));
    changed.filter_map(|(settings, _)| settings.first().map(|setting| setting.name)).collect()
}

/// The name in Via. One that was made up is another each time it is read, and not a change.
fn via(config: &Config) -> Option<&str> {
    let made_up = |name: &&str| {
        let digits = name.strip_prefix(super::MADE_UP);
        digits.is_some_and(|digits| digits.len() == 8 && u32::from_str_radix(digits, 16).is_ok())
    };
    config.proxy.via.as_deref().map(|name| if made_up(&name) { super::MADE_UP } else { name })
}

/// Of what is in both: that there is none in one of them is told by the first of its rows.
fn shared<T: PartialEq>(a: &Config, b: &Config, of: fn(&shared::Settings) -> &T) -> bool {
    let (Some(a), Some(b)) = (&a.shared, &b.shared) else { return true };
    of(a) == of(b)
}

/// The same.
fn admin<T: PartialEq>(a: &Config, b: &Config, of: fn(&admin::Settings) -> &T) -> bool {
    let (Some(a), Some(b)) = (&a.admin, &b.admin) else { return true };
    of(a) == of(b)
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;

    /// Those that are obeyed at once.
    static LIVE: &[&Setting] = &[
        &flags::CONFIG,
        &flags::SET,
        &flags::REQUEST_TIMEOUT,
        &flags::TOTAL_TIMEOUT,
        &flags::RETRY_ATTEMPTS,
        &flags::RETRY_DELAY,
        &flags::RETRY_ON_STATUS,
        &flags::RETRY_ON_ERRORS,
        &flags::RETRY_UNSAFE,
        &flags::BREAKER_FAILURES,
        &flags::BREAKER_RESET,
        &flags::BREAKER_SUCCESSES,
        &flags::BREAKER_MODE,
        &flags::COOL_DOWN,
        &flags::QUOTA_MINUTE,
        &flags::QUOTA_HOUR,
        &flags::QUOTA_DAY,
        &flags::QUOTA_KEY,
        &flags::PARENT,
        &flags::PARENT_STRATEGY,
        &flags::NO_PARENT,
        &flags::PROXY_URLS,
        &flags::MAX_CONNECTIONS,
        &flags::HOST_LIMIT,
        &flags::IDENTITY_LIMIT,
        &flags::IDENTITY_WEIGHT,
        &flags::LOG_LEVEL,
    ];

    fn read(words: &str) -> Config {
        let words = ["narrows"].into_iter().chain(words.split_whitespace());
        let Command::Serve(serve) = Config::read(words.map(Into::into), []).unwrap() else {
            panic!("not for a proxy")
        };
        serve.config
    }

    #[test]
    fn each_setting_is_obeyed_at_once_or_named_when_it_changes() {
        let named = |setting: &&Setting| {
            let fixed = FIXED
                .iter()
                .filter(|(settings, _)| settings.iter().any(|fixed| fixed.name == setting.name));
            fixed.count() + LIVE.iter().filter(|live| live.name == setting.name).count()
        };
        let lost: Vec<&str> =
            flags::ALL.iter().filter(|row| named(row) != 1).map(|row| row.name).collect();
        assert!(lost.is_empty(), "they need a row above, or to be obeyed at once: {lost:?}");
    }

    #[test]
    fn what_needs_a_restart_is_named_and_nothing_else() {
        let redis = "--redis-addr 127.0.0.1:1";
        for (old, new, named) in [
            ("", "", &[][..]),
            ("", "--max-connections 3 --host-limit a.test=2 --log-level debug", &[]),
            ("--identity-limit a=1", "--identity-weight a=2", &[]),
            ("", "--port 1", &["listen"]),
            ("--threads 2", "--threads 3 --pool-size 1", &["threads", "pool-size"]),
            ("--via a", "", &["via"]),
            ("--via a", "--via b", &["via"]),
            ("--admin-token a", "--admin-token b", &["admin-token"]),
            (redis, "--redis-addr 127.0.0.1:2", &["redis-addr"]),
            ("", redis, &["redis-addr", "pool-idle"]),
            ("--admin-port off", "", &["admin-port"]),
            (redis, "--redis-addr 127.0.0.1:1 --lease 9s --heartbeat 1s", &["lease", "heartbeat"]),
            ("", "--max-response-fields 5 --max-fields 7", &["max-head-size", "max-response-head"]),
        ] {
            assert_eq!(fixed(&read(old), &read(new)), named, "{old} to {new}");
        }
    }
}
