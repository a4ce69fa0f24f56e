//! The table of settings: each one's flag, variables, default and meaning.
//!
//! From this table come the command line, the reading of the environment, `--help` and the table
//! in the README, so that none of them can know a setting that another does not. What a text must
//! look like to be allowed is in the module above, which reads the settings one by one.

use std::fmt;
use std::fmt::Write;

use clap::Arg;
use clap::ArgAction;
use clap::Command;
use clap::builder::OsStringValueParser;

use super::access;
use super::bench;
use super::inspect;
use super::key;
use super::limits;
use super::replay;

/// Where a setting stands in `--help` and in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Proxy,
    Access,
    Limits,
    Fleet,
    Upstream,
    Egress,
    Policies,
    Timeouts,
    Bounds,
    Admin,
    Logs,
}

impl Group {
    pub(super) const ALL: [Self; 11] = [
        Self::Proxy,
        Self::Access,
        Self::Limits,
        Self::Fleet,
        Self::Upstream,
        Self::Egress,
        Self::Policies,
        Self::Timeouts,
        Self::Bounds,
        Self::Admin,
        Self::Logs,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Proxy => "Proxy",
            Self::Access => "Access",
            Self::Limits => "Limits",
            Self::Fleet => "Fleet",
            Self::Upstream => "Upstream",
            Self::Egress => "Egress",
            Self::Policies => "Policies",
            Self::Timeouts => "Time-outs",
            Self::Bounds => "Bounds",
            Self::Admin => "Admin",
            Self::Logs => "Logs",
        }
    }
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset {
    /// Nothing.
    Nothing,
    /// What these words describe.
    Said(&'static str),
    /// This text, as if it had been given.
    Text(&'static str),
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::Said(words) => f.write_str(words),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// One; of a repeated flag the last counts.
    One,
    /// Any number: flag repeated, or separated by commas.
    Many,
    /// Any number: flag repeated (a value may hold a comma), or separated by commas in a variable.
    Files,
    /// Any number: flag repeated, or separated by semicolons in a variable.
    Parts,
}

impl Values {
    /// What stands between several in one text; for values that may hold anything what none can.
    pub(super) fn separator(self) -> &'static str {
        match self {
            Self::One | Self::Many => ",",
            Self::Files | Self::Parts => "\0",
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) group: Group,
    /// The flag without its dashes.
    pub(crate) name: &'static str,
    metavar: &'static str,
    /// Variables, the stronger first: ours, then names that users already have.
    pub(crate) variables: &'static [&'static str],
    pub(crate) unset: Unset,
    help: &'static str,
    pub(crate) values: Values,
    /// Whether the value must never be printed.
    pub(crate) secret: bool,
}

const fn row(
    group: Group,
    name: &'static str,
    metavar: &'static str,
    variables: &'static [&'static str],
    unset: Unset,
    help: &'static str,
) -> Setting {
    Setting { group, name, metavar, variables, unset, help, values: Values::One, secret: false }
}

impl Setting {
    const fn takes(mut self, values: Values) -> Self {
        self.values = values;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(super) fn help(&self) -> &'static str {
        self.help
    }

    /// Whether its value is a length of time.
    pub(super) fn is_time(&self) -> bool {
        self.metavar.starts_with("TIME")
    }

    /// Whether its value may be this word.
    pub(super) fn takes_word(&self, word: &str) -> bool {
        self.metavar.split('|').any(|other| other == word)
    }

    pub(super) fn arg(&self) -> Arg {
        let default = match self.unset {
            Nothing => String::new(),
            unset @ (Said(_) | Text(_)) => format!(" [default: {unset}]"),
        };
        let help = format!("{}\n[variable: {}]{default}", self.help, self.variables.join(", "));
        let action = match self.values {
            Values::One => ArgAction::Set,
            Values::Many | Values::Files | Values::Parts => ArgAction::Append,
        };
        Arg::new(self.name)
            .long(self.name)
            .value_name(self.metavar)
            .value_parser(OsStringValueParser::new())
            .allow_negative_numbers(true)
            .help_heading(self.group.title())
            .action(action)
            .help(help)
    }
}

macro_rules! settings {
    ($($id:ident = $row:expr;)*) => {
        $(pub(crate) static $id: Setting = $row;)*
        /// All of them, in the order of `--help`.
        pub(crate) static ALL: &[&Setting] = &[$(&$id),*];
    };
}

use Group::Access;
use Group::Admin;
use Group::Bounds;
use Group::Egress;
use Group::Fleet;
use Group::Limits;
use Group::Logs;
use Group::Policies;
use Group::Proxy;
use Group::Timeouts;
use Group::Upstream;
use Unset::Nothing;
use Unset::Said;
use Unset::Text;

settings! {
    CONFIG = row(Proxy, "config", "FILE", &["NARROWS_CONFIG"], Nothing,
        "File of settings and APIs, YAML or (if its name ends in .toml) TOML. All settings of this \
         list may stand in it by their flag's name, with _ for -; flags and variables beat it.");
    SET = row(Proxy, "set", "KEY=VALUE", &["NARROWS_SET"], Nothing,
        "Any key of the config file, over what it says, such as \
         api.NAME.retry.max_attempts=5; VALUE is YAML. Repeatable, or separated by semicolons in \
         the variable, which flags add to.").takes(Values::Parts).secret();
    PORT = row(Proxy, "port", "PORT", &["NARROWS_PORT", "DPRL_PORT"], Text("8080"),
        "Where clients connect; 0 picks a free port, told by the ready line.");
    BIND = row(Proxy, "bind", "ADDR", &["NARROWS_BIND"], Text("127.0.0.1"),
        "IP address to listen on; 0.0.0.0 or :: lets other machines in, who then may reach \
         whatever this machine can reach.");
    LISTEN = row(Proxy, "listen", "URL", &["NARROWS_LISTEN"], Nothing,
        "Where clients connect, in place of --bind and --port (beside them if --port is given): \
         http://ADDR:PORT, or https://ADDR:PORT for TLS. Repeatable, or separated by \
         commas.").takes(Values::Many);
    TLS_CERT = row(Proxy, "tls-cert", "FILE", &["NARROWS_TLS_CERT"], Nothing,
        "PEM file of the certificate shown to clients that speak TLS with narrows itself, and of \
         those above it; read again when it changes. Without --listen, --port is for TLS then.");
    TLS_KEY = row(Proxy, "tls-key", "FILE", &["NARROWS_TLS_KEY"], Nothing,
        "PEM file of its key.");
    TLS_CLIENT_CA = row(Proxy, "tls-client-ca", "FILE", &["NARROWS_TLS_CLIENT_CA"], Nothing,
        "PEM file of authorities: clients that speak TLS must show a certificate of theirs.");
    TLS_CLIENT_AUTH = row(Proxy, "tls-client-auth", "required|optional",
        &["NARROWS_TLS_CLIENT_AUTH"], Text("required"),
        "Whether a client without a certificate is turned away; one with a wrong one always is.");
    PROXY_PROTOCOL_FROM = row(Proxy, "proxy-protocol-from", "CIDR",
        &["NARROWS_PROXY_PROTOCOL_FROM"], Nothing,
        "Networks of balancers that begin each connection with a header of the PROXY protocol, \
         version 1 or 2, and are believed whose it is. Repeatable, or separated by \
         commas.").takes(Values::Many);
    THREADS = row(Proxy, "threads", "N", &["NARROWS_THREADS"], Said("one per CPU"),
        "Threads that serve, 1 to 1024.");
    VIA = row(Proxy, "via", "NAME|off", &["NARROWS_VIA"],
        Said("narrows- and eight random digits"),
        "Name that narrows gives itself in the Via field of plain requests, and by which it knows \
         one that comes back to it (a loop); no two in a chain of proxies may have the same. off \
         leaves the field as it came, and knows no loop.");
    GATEWAY_HOST = row(Proxy, "gateway-host", "NAME", &["NARROWS_GATEWAY_HOST"], Nothing,
        "Names by which clients call the gateway (/api/NAME/...), beside localhost and addresses: over \
         HTTP/2, where each request names a host, they are how it is known (with the name that TLS \
         asked for), and once there is one, other names are turned away with 421, so that no web page \
         uses the gateway through a browser. Repeatable, or separated by commas.")
        .takes(Values::Many);
    EXPLAIN = row(Proxy, "explain", "on|off", &["NARROWS_EXPLAIN"], Text("off"),
        "Say in Proxy-Status of what was forwarded how long it waited for a slot, how many \
         connections were tried, and whether it went out on a kept one.");
    ERROR_DETAILS = row(Proxy, "error-details", "on|off", &["NARROWS_ERROR_DETAILS"], Text("off"),
        "Tell clients why a connection failed in the words of the system, the resolver and TLS, \
         addresses and inner names included; off keeps that for the log (debug).");
    SHUTDOWN_TIMEOUT = row(Proxy, "shutdown-timeout", "TIME", &["NARROWS_SHUTDOWN_TIMEOUT"],
        Text("10s"),
        "On SIGTERM or SIGINT, how long what runs may take to end before it is cut; a second \
         signal cuts it at once.");

    PROXY_AUTH = row(Access, "proxy-auth", "FILE", &["NARROWS_PROXY_AUTH"], Nothing,
        "Users who may use the proxy, one a line: NAME:HASH as `narrows passwd NAME` prints it, and \
         :limit=N,weight=N behind it if wanted. Others are asked for a user and password (Basic). \
         Obeyed within a second of a change.");
    PROXY_AUTH_QUEUE = row(Access, "proxy-auth-queue", "N", &["NARROWS_PROXY_AUTH_QUEUE"],
        Text("256"),
        "Passwords that may wait to be verified, a quarter of them for one client address; further \
         ones are told to come again. Those verified in the last minutes do not wait.");
    ALLOW_FROM = row(Access, "allow-from", "NETWORK", &["NARROWS_ALLOW_FROM"], Nothing,
        "Networks whose clients may use the proxy, such as 10.0.0.0/8 or ::1; others are refused. \
         Repeatable, or separated by commas.").takes(Values::Many);

    MAX_CONNECTIONS = row(Limits, "max-connections", "N",
        &["NARROWS_MAX_CONNECTIONS", "DPRL_MAX_CONNECTIONS"], Text("0"),
        "Connections at once to each host, tunnels and plain requests together; 0 is unlimited.");
    HOST_LIMIT = row(Limits, "host-limit", "HOST=N", &["NARROWS_HOST_LIMITS"], Nothing,
        "The same for one host, over --max-connections. HOST is a name (its other ports counted \
         apart, each with this limit), HOST:PORT just that, *.example.com each deeper name (with \
         /shared behind N all of them together); the most exact rule wins. Repeatable, or separated by commas.").takes(Values::Many);
    IDENTITY_LIMIT = row(Limits, "identity-limit", "NAME=N", &["NARROWS_IDENTITY_LIMIT"], Nothing,
        "Connections at once to each host that one user (or certificate) may have, within the \
         host's own limit; * is each user, and each address of those who have no name. Repeatable, or \
         separated by commas.").takes(Values::Many);
    IDENTITY_WEIGHT = row(Limits, "identity-weight", "NAME=N", &["NARROWS_IDENTITY_WEIGHT"],
        Nothing,
        "Turns of one user in each round of those who wait for a host, 1 to 100; all others have \
         one, or what * says. Repeatable, or separated by commas.").takes(Values::Many);
    QUEUE_TIMEOUT = row(Limits, "queue-timeout", "TIME", &["NARROWS_QUEUE_TIMEOUT"], Text("0s"),
        "How long a request waits for a full host, first come first served; 0 refuses at once.");
    QUEUE_SIZE = row(Limits, "queue-size", "N", &["NARROWS_QUEUE_SIZE"], Text("1000"),
        "Requests that may wait for one host; further ones are refused.");
    QUEUE_TIMEOUT_MAX = row(Limits, "queue-timeout-max", "TIME", &["NARROWS_QUEUE_TIMEOUT_MAX"],
        Text("60s"),
        "The longest wait that a client may ask for by itself (Prefer: wait=SECONDS).");
    MAX_CLIENTS = row(Limits, "max-clients", "N", &["NARROWS_MAX_CLIENTS"],
        Said("half of the open files it may have"),
        "Connections of clients at once; further ones are told 503, or just closed where they \
         speak TLS.");
    MAX_CLIENTS_PER_ADDRESS = row(Limits, "max-clients-per-address", "N",
        &["NARROWS_MAX_CLIENTS_PER_ADDRESS"], Text("0"),
        "The same from one IPv4 address or one IPv6 /64, told 429; 0 is as many as in all, since \
         many clients may share an address.");
    HOST_IDLE = row(Limits, "host-idle", "TIME", &["NARROWS_HOST_IDLE"], Text("10s"),
        "How long a host that nobody uses is remembered, at most.");
    REFUSE_STATUS = row(Limits, "refuse-status", "STATUS", &["NARROWS_REFUSE_STATUS"], Text("503"),
        "Status of a refusal by the limit, 400 to 599; users of dprl may want 500.");

    REDIS_ADDR = row(Fleet, "redis-addr", "HOST:PORT", &["NARROWS_REDIS_ADDR", "REDIS_ADDR"],
        Nothing,
        "Redis through which all instances share one count per host; without it (or one of the \
         three below) each instance counts alone.");
    REDIS_URL = row(Fleet, "redis-url", "URL", &["NARROWS_REDIS_URL", "REDIS_URL"], Nothing,
        "The same as a URL: redis://HOST, rediss://HOST for TLS, redis+unix:///PATH.").secret();
    REDIS_SENTINELS = row(Fleet, "redis-sentinels", "HOST:PORT", &["NARROWS_REDIS_SENTINELS"],
        Nothing,
        "The same behind sentinels, who say which Redis is the master. Repeatable, or separated by \
         commas.").takes(Values::Many);
    REDIS_SENTINEL_MASTER = row(Fleet, "redis-sentinel-master", "NAME",
        &["NARROWS_REDIS_SENTINEL_MASTER"], Text("mymaster"),
        "What the sentinels call the master.");
    REDIS_SENTINEL_USERNAME = row(Fleet, "redis-sentinel-username", "NAME",
        &["NARROWS_REDIS_SENTINEL_USERNAME"], Nothing, "User at the sentinels.");
    REDIS_SENTINEL_PASSWORD = row(Fleet, "redis-sentinel-password", "TEXT",
        &["NARROWS_REDIS_SENTINEL_PASSWORD"], Nothing, "Password at the sentinels.").secret();
    REDIS_SENTINEL_PASSWORD_FILE = row(Fleet, "redis-sentinel-password-file", "FILE",
        &["NARROWS_REDIS_SENTINEL_PASSWORD_FILE"], Nothing, "The same, as the one line of a file.");
    REDIS_CLUSTER = row(Fleet, "redis-cluster", "HOST:PORT", &["NARROWS_REDIS_CLUSTER"], Nothing,
        "The same on a cluster (Redis 7 or later): some of its nodes, who know the others. \
         Repeatable, or separated by commas.").takes(Values::Many);
    REDIS_TLS = row(Fleet, "redis-tls", "on|off", &["NARROWS_REDIS_TLS"], Text("off"),
        "TLS to Redis, its sentinels and all nodes of its cluster; a URL says so by rediss://.");
    REDIS_TLS_CA = row(Fleet, "redis-tls-ca", "FILE", &["NARROWS_REDIS_TLS_CA"], Nothing,
        "PEM file of the authorities to trust there, in place of the system's; turns TLS on.");
    REDIS_TLS_CERT = row(Fleet, "redis-tls-cert", "FILE", &["NARROWS_REDIS_TLS_CERT"], Nothing,
        "PEM file of the certificate that a Redis which asks for one is shown; turns TLS on.");
    REDIS_TLS_KEY = row(Fleet, "redis-tls-key", "FILE", &["NARROWS_REDIS_TLS_KEY"], Nothing,
        "PEM file of its key.");
    REDIS_USERNAME = row(Fleet, "redis-username", "NAME", &["NARROWS_REDIS_USERNAME"], Nothing,
        "User at Redis.");
    REDIS_PASSWORD = row(Fleet, "redis-password", "TEXT",
        &["NARROWS_REDIS_PASSWORD", "REDIS_PASSWORD"], Nothing,
        "Password at Redis; better given by variable: others can read a command line.").secret();
    REDIS_PASSWORD_FILE = row(Fleet, "redis-password-file", "FILE",
        &["NARROWS_REDIS_PASSWORD_FILE"], Nothing, "The same, as the one line of a file.");
    REDIS_DB = row(Fleet, "redis-db", "N", &["NARROWS_REDIS_DB", "REDIS_DB"], Said("0"),
        "Number of the database at Redis; a cluster has only 0.");
    REDIS_PREFIX = row(Fleet, "redis-prefix", "TEXT", &["NARROWS_REDIS_PREFIX"],
        Text("proxy_rate_limiter"),
        "First part of every key at Redis; instances with the same one share their counts.");
    REDIS_TIMEOUT = row(Fleet, "redis-timeout", "TIME", &["NARROWS_REDIS_TIMEOUT"], Text("200ms"),
        "How long one call to Redis may take before Redis counts as away.");
    REDIS_FAILURE = row(Fleet, "redis-failure", "closed|share|open", &["NARROWS_REDIS_FAILURE"],
        Text("closed"),
        "New connections while Redis is away: closed refuses them, share gives this instance its \
         part of each limit, open lets all pass. Running ones go on in any case.");
    SLACK = row(Fleet, "slack", "N", &["NARROWS_SLACK"], Text("8"),
        "The most slots of one host that an instance holds ahead of need, while there are plenty, so \
         that most requests need no call to Redis. 0 holds none.");
    ON_LEASE_LOSS = row(Fleet, "on-lease-loss", "keep|close", &["NARROWS_ON_LEASE_LOSS"],
        Text("keep"),
        "Open connections when the lease has run out and their slots may be given to others: keep \
         lets them go on and opens nothing until they fit again, close cuts all.");
    LEASE = row(Fleet, "lease", "TIME", &["NARROWS_LEASE"], Text("15s"),
        "How long Redis keeps the slots of an instance that has gone silent; at least 300ms.");
    HEARTBEAT = row(Fleet, "heartbeat", "TIME", &["NARROWS_HEARTBEAT"],
        Said("3s, or a fifth of a shorter lease"),
        "How often an instance renews its lease; at most a third of it.");

    RESOLVER = row(Upstream, "resolver", "system|ADDR[:PORT]", &["NARROWS_RESOLVER"],
        Text("system"),
        "Who turns names into addresses: the system, or the DNS server at this IP address.");
    RESOLVE = row(Upstream, "resolve", "HOST[:PORT]=ADDR", &["NARROWS_RESOLVE"], Nothing,
        "IP address of a name, which then is not looked up. Repeatable, or separated by \
         commas.").takes(Values::Many);
    UPSTREAM_CA = row(Upstream, "upstream-ca", "FILE", &["NARROWS_UPSTREAM_CA"], Nothing,
        "PEM file of authorities to trust beside the system's, for https:// requests that narrows \
         makes itself (never for tunnels). Repeatable; separated by commas in the \
         variable.").takes(Values::Files);
    POOL_IDLE = row(Upstream, "pool-idle", "TIME", &["NARROWS_POOL_IDLE"],
        Said("4s, 1s with Redis"),
        "How long a connection is kept for the next plain request; it counts against the limit, \
         and is closed first when its host is full. 0 keeps none.");
    POOL_SIZE = row(Upstream, "pool-size", "N", &["NARROWS_POOL_SIZE"], Text("256"),
        "Connections kept per thread.");

    EGRESS = row(Egress, "egress", "any|public-only", &["NARROWS_EGRESS"], Text("any"),
        "Addresses that may be dialled: any, though for clients that are not on loopback themselves \
         neither loopback, link-local nor a cloud's metadata; or those alone that are globally \
         reachable, whoever asks. Rules for networks make exceptions.");
    EGRESS_ALLOW = row(Egress, "egress-allow", "RULE", &["NARROWS_EGRESS_ALLOW"], Nothing,
        "Destinations to allow: HOST or *.example.com by the name that is asked for, an address or \
         NETWORK/PREFIX by the address that is dialled, * for all; with :PORT or :FIRST-LAST for \
         these ports alone. Repeatable, or separated by commas.").takes(Values::Many);
    EGRESS_DENY = row(Egress, "egress-deny", "RULE", &["NARROWS_EGRESS_DENY"], Nothing,
        "Destinations to deny, whatever is allowed; written in the same \
         way.").takes(Values::Many);
    EGRESS_DEFAULT = row(Egress, "egress-default", "allow|deny", &["NARROWS_EGRESS_DEFAULT"],
        Text("allow"), "What becomes of destinations that no rule speaks of.");
    CONNECT_PORTS = row(Egress, "connect-ports", "PORTS", &["NARROWS_CONNECT_PORTS"],
        Text("80,443,1024-65535"),
        "Ports to which CONNECT may open tunnels: PORT or FIRST-LAST. Repeatable, or separated by \
         commas.").takes(Values::Many);

    CONNECT_BREAKER_FAILURES = row(Policies, "connect-breaker-failures", "N|off",
        &["NARROWS_CONNECT_BREAKER_FAILURES"], Text("off"),
        "After so many tunnels in a row that could not be opened to a host (look-up, connection, \
         time-out), of all instances, CONNECT to it is answered 503 at once for a while.");
    CONNECT_BREAKER_RESET = row(Policies, "connect-breaker-reset", "TIME",
        &["NARROWS_CONNECT_BREAKER_RESET"], Text("30s"),
        "How long, before one tunnel is tried again; if that is opened, all are.");
    CONNECT_BREAKER_MODE = row(Policies, "connect-breaker-mode", "enforce|observe",
        &["NARROWS_CONNECT_BREAKER_MODE"], Text("enforce"),
        "observe counts and logs what would be refused so, and refuses nothing.");

    CONNECT_TIMEOUT = row(Timeouts, "connect-timeout", "TIME", &["NARROWS_CONNECT_TIMEOUT"],
        Text("10s"), "For a connection to an upstream, all its addresses together.");
    DNS_TIMEOUT = row(Timeouts, "dns-timeout", "TIME", &["NARROWS_DNS_TIMEOUT"], Text("5s"),
        "For looking up a name.");
    TLS_TIMEOUT = row(Timeouts, "tls-timeout", "TIME", &["NARROWS_TLS_TIMEOUT"], Text("10s"),
        "For a TLS handshake with an upstream, for https:// requests that narrows makes itself.");
    RESPONSE_TIMEOUT = row(Timeouts, "response-timeout", "TIME|off", &["NARROWS_RESPONSE_TIMEOUT"],
        Text("300s"), "From a sent request to the head of its response.");
    IDLE_TIMEOUT = row(Timeouts, "idle-timeout", "TIME|off", &["NARROWS_IDLE_TIMEOUT"],
        Text("300s"), "Without a byte in either direction of a running message body.");
    TUNNEL_IDLE_TIMEOUT = row(Timeouts, "tunnel-idle-timeout", "TIME|off",
        &["NARROWS_TUNNEL_IDLE_TIMEOUT"], Text("15m"),
        "Without a byte in either direction of a tunnel.");
    IDLE_RECLAIM = row(Timeouts, "idle-reclaim", "TIME|off", &["NARROWS_IDLE_RECLAIM"], Text("off"),
        "A tunnel without a byte for this long is closed when others wait for its host, the longest \
         idle first.");
    HEADER_TIMEOUT = row(Timeouts, "header-timeout", "TIME", &["NARROWS_HEADER_TIMEOUT"],
        Text("10s"), "For a client to send the head of a request.");
    HANDSHAKE_TIMEOUT = row(Timeouts, "handshake-timeout", "TIME", &["NARROWS_HANDSHAKE_TIMEOUT"],
        Text("10s"),
        "For TLS with a client, and a balancer's PROXY header before it.");
    KEEP_ALIVE_TIMEOUT = row(Timeouts, "keep-alive-timeout", "TIME",
        &["NARROWS_KEEP_ALIVE_TIMEOUT"], Text("75s"),
        "How long a client's connection may stay without a request.");

    REQUEST_TIMEOUT = row(Policies, "request-timeout", "TIME|off", &["NARROWS_REQUEST_TIMEOUT"],
        Said("off"),
        "For one attempt of a plain request to connect, and then to the head of its response. This \
         and the others of this group are for requests that no API of the config file claims.");
    TOTAL_TIMEOUT = row(Policies, "total-timeout", "TIME|off", &["NARROWS_TOTAL_TIMEOUT"],
        Said("off"),
        "From the head of such a request to the head of its answer, all attempts and all waits \
         together.");
    RETRY_ATTEMPTS = row(Policies, "retry-attempts", "N", &["NARROWS_RETRY_ATTEMPTS"], Said("1"),
        "Attempts in all, 1 to 100, where it failed or was answered with a status of \
         --retry-on-status; 1 is no retry.");
    RETRY_DELAY = row(Policies, "retry-delay", "TIME", &["NARROWS_RETRY_DELAY"], Said("1s"),
        "Before the second attempt; each further delay is twice the one before, up to 10s.");
    RETRY_ON_STATUS = row(Policies, "retry-on-status", "STATUS", &["NARROWS_RETRY_ON_STATUS"],
        Said("500,502,503,504,429"),
        "Statuses after which another attempt is made. Repeatable, or separated by \
         commas.").takes(Values::Many);
    RETRY_ON_ERRORS = row(Policies, "retry-on-errors", "WORD", &["NARROWS_RETRY_ON_ERRORS"],
        Said("dns,connect_refused,reset,timeout,tls"),
        "Failures after which another attempt is made. Repeatable, or separated by \
         commas.").takes(Values::Many);
    RETRY_UNSAFE = row(Policies, "retry-unsafe", "on|off", &["NARROWS_RETRY_UNSAFE"], Said("off"),
        "Repeat what may not be by its method, too, POST among them: an upstream may get it twice.");
    BREAKER_FAILURES = row(Policies, "breaker-failures", "N", &["NARROWS_BREAKER_FAILURES"],
        Said("off"),
        "Failures one after the other after which a host is not asked for a while.");
    BREAKER_RESET = row(Policies, "breaker-reset", "TIME", &["NARROWS_BREAKER_RESET"], Said("30s"),
        "That while; then one request may try.");
    BREAKER_SUCCESSES = row(Policies, "breaker-successes", "N", &["NARROWS_BREAKER_SUCCESSES"],
        Said("2"), "Such requests that must succeed before all may again.");
    BREAKER_MODE = row(Policies, "breaker-mode", "enforce|observe", &["NARROWS_BREAKER_MODE"],
        Said("enforce"), "observe counts and logs what would be refused so, and refuses nothing.");
    COOL_DOWN = row(Policies, "cool-down", "on|off|observe", &["NARROWS_COOL_DOWN"],
        Said("off"),
        "Leave a host alone for as long as it asks (429, or 503 with Retry-After); observe counts and \
         logs what would wait, and lets it go on.");
    QUOTA_MINUTE = row(Policies, "quota-minute", "N", &["NARROWS_QUOTA_MINUTE"], Said("off"),
        "Requests that each client may make in a minute, of the whole fleet; more are answered 429.");
    QUOTA_HOUR = row(Policies, "quota-hour", "N", &["NARROWS_QUOTA_HOUR"], Said("off"),
        "The same in an hour.");
    QUOTA_DAY = row(Policies, "quota-day", "N", &["NARROWS_QUOTA_DAY"], Said("off"),
        "The same in a day.");
    QUOTA_KEY = row(Policies, "quota-key", "WORD", &["NARROWS_QUOTA_KEY"], Said("address"),
        "What a client is: address, identity, api_key, header:NAME, claim:NAME, host or api. \
         Repeatable, or separated by commas: those that have all of them in \
         common.").takes(Values::Many);
    PARENT = row(Policies, "parent", "URL", &["NARROWS_PARENT"], Nothing,
        "Proxy by which upstreams are reached: http:// or https://, USER:PASSWORD@, HOST:PORT. \
         Repeatable, or separated by semicolons in the \
         variable.").takes(Values::Parts).secret();
    PARENT_STRATEGY = row(Policies, "parent-strategy", "WORD", &["NARROWS_PARENT_STRATEGY"],
        Said("round_robin"),
        "How one of several is chosen: round_robin, sticky (by client address), subset, \
         on_rate_limit, never, least_used or weighted.");
    NO_PARENT = row(Policies, "no-parent", "HOST", &["NARROWS_NO_PARENT"], Nothing,
        "Host that is gone to directly: HOST, HOST:PORT or *.SUFFIX. Repeatable, or separated by \
         commas.").takes(Values::Many);
    CACHE_MEMORY = row(Policies, "cache-memory", "BYTES", &["NARROWS_CACHE_MEMORY"], Text("64MiB"),
        "What kept responses of all APIs together may take in memory, heads and keys included: a \
         number of bytes, or 64MiB, 2GiB; 0 keeps none there.");
    CACHE_REDIS = row(Policies, "cache-redis", "on|off", &["NARROWS_CACHE_REDIS"], Text("on"),
        "Keep them in Redis too, where there is one: what one instance has fetched all have, and one \
         fetches for all.");
    PROXY_URLS = row(Policies, "proxy-urls", "URL", &["NARROWS_PROXY_URLS", "PROXY_URLS"], Nothing,
        "Parents of those APIs of the config file that say use_proxy: true and name none. \
         Repeatable, or separated by semicolons in the \
         variable.").takes(Values::Parts).secret();

    MAX_HEAD_SIZE = row(Bounds, "max-head-size", "BYTES", &["NARROWS_MAX_HEAD_SIZE"],
        Text("64KiB"), "Bytes of a request's head, 1 to 256KiB; more is answered by 431.");
    MAX_FIELDS = row(Bounds, "max-fields", "N", &["NARROWS_MAX_FIELDS"], Text("100"),
        "Fields in a request's head, 1 to 10000; more are answered by 431.");
    MAX_REQUEST_LINE = row(Bounds, "max-request-line", "BYTES", &["NARROWS_MAX_REQUEST_LINE"],
        Text("16KiB"), "Bytes of a request line, 64 to 65000; more is answered by 414.");
    MAX_CHUNK_EXTENSIONS = row(Bounds, "max-chunk-extensions", "BYTES",
        &["NARROWS_MAX_CHUNK_EXTENSIONS"], Text("16KiB"),
        "Bytes of chunk extensions in one request's body, at most 16KiB; more is answered by 400.");
    MAX_TRAILERS = row(Bounds, "max-trailers", "BYTES", &["NARROWS_MAX_TRAILERS"], Text("16KiB"),
        "Bytes of fields behind a request's body, at most 16KiB; more is answered by 400.");
    MAX_INTERIM = row(Bounds, "max-interim", "N", &["NARROWS_MAX_INTERIM"], Text("32"),
        "Interim responses (1xx) to one request, 1 to 1000; more is answered by 502.");
    HTTP2_MAX_STREAMS = row(Bounds, "http2-max-streams", "N", &["NARROWS_HTTP2_MAX_STREAMS"],
        Text("256"),
        "Requests and tunnels that a connection of HTTP/2 may have at a time, 1 to 65535.");
    HTTP2_WINDOW = row(Bounds, "http2-window", "BYTES", &["NARROWS_HTTP2_WINDOW"], Text("64KiB"),
        "Bytes that a client may send on one stream of HTTP/2 ahead of what its upstream took, \
         64KiB to 16384KiB. A connection may take that for each of its streams.");
    HTTP2_MAX_RESETS = row(Bounds, "http2-max-resets", "N", &["NARROWS_HTTP2_MAX_RESETS"],
        Text("200"),
        "Requests that a client may reset before they are answered, less those answered, before \
         its connection of HTTP/2 is closed.");
    MAX_ADDRESSES = row(Bounds, "max-addresses", "N", &["NARROWS_MAX_ADDRESSES"], Text("32"),
        "Addresses of one name that are tried, 1 to 1000; further ones are left out.");
    MAX_RESPONSE_HEAD = row(Bounds, "max-response-head", "BYTES",
        &["NARROWS_MAX_RESPONSE_HEAD"], Text("64KiB"),
        "Bytes of the head of an upstream's response, 1KiB to 256KiB; a longer one is answered by 502.");
    MAX_RESPONSE_FIELDS = row(Bounds, "max-response-fields", "N",
        &["NARROWS_MAX_RESPONSE_FIELDS"], Text("100"),
        "Fields in it, 1 to 1000; more are answered by 502. Up to 100 cost nothing.");
    MAX_RESPONSE_CHUNK_EXTENSIONS = row(Bounds, "max-response-chunk-extensions", "BYTES",
        &["NARROWS_MAX_RESPONSE_CHUNK_EXTENSIONS"], Text("16KiB"),
        "Bytes of chunk extensions in one body of an upstream, at most 16KiB; more cut it short.");
    MAX_RESPONSE_TRAILERS = row(Bounds, "max-response-trailers", "BYTES",
        &["NARROWS_MAX_RESPONSE_TRAILERS"], Text("16KiB"),
        "Bytes of fields behind one body of an upstream, at most 16KiB; more cut it short.");

    ADMIN_PORT = row(Admin, "admin-port", "PORT|off", &["NARROWS_ADMIN_PORT"], Text("9900"),
        "Port of /healthz, /readyz, /metrics, /hosts and /limits; 0 picks a free one.");
    ADMIN_BIND = row(Admin, "admin-bind", "ADDR", &["NARROWS_ADMIN_BIND"], Text("127.0.0.1"),
        "IP address of the admin port.");
    ADMIN_HOST = row(Admin, "admin-host", "NAME", &["NARROWS_ADMIN_HOST"], Nothing,
        "Names by which the admin port may be asked (Host), beside localhost, loopback addresses and \
         the address that it was reached at; others are turned away with 421, so that no web page \
         reads it through a browser. Repeatable, or separated by commas.").takes(Values::Many);
    ADMIN_TOKEN = row(Admin, "admin-token", "TEXT", &["NARROWS_ADMIN_TOKEN"], Nothing,
        "What a change by the admin port (limits, circuits, cool-downs, a reload) must carry as its \
         bearer token; without it nothing but a reload can be asked for there. Better given by \
         variable or file: others can read a command line.").secret();
    ADMIN_TOKEN_FILE = row(Admin, "admin-token-file", "FILE", &["NARROWS_ADMIN_TOKEN_FILE"],
        Nothing, "The same, as the one line of a file.");
    METRICS_HOSTS = row(Admin, "metrics-hosts", "N", &["NARROWS_METRICS_HOSTS"], Text("100"),
        "Hosts without a rule that have names in /metrics; the others are counted as one.");

    LOG_LEVEL = row(Logs, "log-level", "LEVEL", &["NARROWS_LOG_LEVEL", "LOG_LEVEL"], Text("info"),
        "error, warn, info, debug or trace; debug tells each opening and closing of a connection \
         to an upstream. The log goes to standard error.");
    LOG_FORMAT = row(Logs, "log-format", "text|json", &["NARROWS_LOG_FORMAT", "LOG_FORMAT"],
        Text("text"), "Lines for people, or one JSON object each.");
    ACCESS_LOG = row(Logs, "access-log", "off|stderr|stdout|FILE", &["NARROWS_ACCESS_LOG"],
        Text("off"), "One line of JSON per request or tunnel, when it has ended. A file is opened anew on \
         SIGHUP.");
    DECISION_LOG = row(Logs, "decision-log", "off|stderr|stdout|FILE", &["NARROWS_DECISION_LOG"],
        Text("off"), "What each rule decided of each request, in lines of JSON that `narrows replay` reads. A \
         file is opened anew on SIGHUP.");
}

/// The hidden flag that prints [`markdown_table`].
pub(crate) const PRINT_MARKDOWN: &str = "print-flags-markdown";
/// The subcommand of the health check.
pub(crate) const HEALTH: &str = "health";
/// The subcommand about Redis, and its one subcommand.
pub(crate) const REDIS: &str = "redis";
pub(crate) const CHECK: &str = "check";
/// The flag of [`CHECK`] for programs.
pub(crate) const JSON: &str = "json";
/// The flag of [`HEALTH`] for how long it waits.
pub(crate) const HEALTH_TIMEOUT: &str = "timeout";

const ABOUT: &str = "A forward proxy that caps connections per destination host, \
    for one process or a whole fleet";

const LONG_ABOUT: &str = "A forward proxy for HTTP and HTTPS (CONNECT) that caps how many \
    connections are open at once to each destination host, in one process or, through Redis, in a \
    whole fleet.

Flags beat variables, variables beat the config file, that beats defaults; an empty variable is an unset one. TIME is written \
    10s, 500ms, 1m30s or 2h; a number alone is seconds.";

const EXAMPLES: &str = "Examples:
  narrows --max-connections 25
      At most 25 connections to any host; then: curl -x http://127.0.0.1:8080 https://example.com/
  narrows --max-connections 25 --host-limit api.example.com=5 --queue-timeout 30s
      One host has its own limit, and who finds a host full waits up to half a minute.
  narrows --max-connections 25 --redis-addr redis:6379
      The same limit for all instances together that use this Redis.
  narrows passwd alice >> users; narrows --bind 0.0.0.0 --proxy-auth users
      Only who gives a user and password may use it.
  narrows key new alice --plan paid >> keys
      An API key for the file of api.NAME.keys.file; the key itself is shown once, on standard error.
  narrows limits set api.example.com 5 --redis-addr redis:6379
      The limit of one host, for all of them, while they run.
  narrows redis check --redis-addr redis:6379
      Says in words whether that Redis is fit for it, and what to do if it is not.
  narrows bench limiter --quick
      What the limiter costs here, measured with a redis-server of its own.
  narrows check narrows.yaml; narrows --config narrows.yaml
      Settings and APIs with their policies from a file; the first says whether it is good.
  narrows replay decided.log --config new.yaml
      What other settings would have decided of the requests that --decision-log wrote down.
  narrows health
      Exit code 0 if the narrows whose admin port is on 9900 is well.

Exit codes: 0 after a stop as asked, 1 if it could not start or go on, 2 for bad settings.";

/// The command line.
pub(crate) fn command() -> Command {
    let health = Command::new(HEALTH)
        .about("Ask the narrows that runs here whether it is well: exit code 0 or 1")
        .args([ADMIN_PORT.arg(), ADMIN_BIND.arg()])
        .arg(
            Arg::new(HEALTH_TIMEOUT)
                .long(HEALTH_TIMEOUT)
                .value_name("TIME")
                .value_parser(OsStringValueParser::new())
                .help("How long the answer may take [default: 2s]"),
        );
    let settings = ALL.iter().filter(|setting| setting.group == Fleet);
    let check = Command::new(CHECK)
        .about("Say whether this Redis is fit for narrows, and what to do if not: exit code 0 or 1")
        .args(settings.map(|setting| setting.arg()))
        .arg(
            Arg::new(JSON)
                .long(JSON)
                .action(ArgAction::SetTrue)
                .help("One JSON object per finding, for programs"),
        );
    let redis = Command::new(REDIS)
        .about("Questions about the Redis that a fleet shares")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .subcommand(check.args_override_self(true));
    Command::new("narrows")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .max_term_width(100)
        .args_override_self(true)
        .disable_help_subcommand(true)
        .args(ALL.iter().map(|setting| setting.arg()))
        .arg(Arg::new(PRINT_MARKDOWN).long(PRINT_MARKDOWN).hide(true).action(ArgAction::SetTrue))
        .subcommands([
            health,
            limits::command(),
            access::command(),
            key::command(),
            redis,
            bench::command(),
            replay::command(),
        ])
        .subcommands(inspect::commands())
}

/// The table of all flags in Markdown, as it stands in the README.
pub fn markdown_table() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        text.push_str(if text.is_empty() { "" } else { "\n" });
        row_of(&mut text, &[group.title(), "variable", "default", "meaning"]);
        row_of(&mut text, &["---"; 4]);
        for setting in ALL.iter().filter(|setting| setting.group == group) {
            let flag = format!("`--{} {}`", setting.name, setting.metavar);
            let variables: Vec<String> =
                setting.variables.iter().map(|name| format!("`{name}`")).collect();
            let unset = match setting.unset {
                Nothing => String::new(),
                Said(words) => words.to_owned(),
                Text(value) => format!("`{value}`"),
            };
            // A star would begin emphasis.
            let help = setting.help.replace("*.example.com", "`*.example.com`");
            row_of(&mut text, &[&flag, &variables.join(", "), &unset, &help]);
        }
    }
    text
}

fn row_of(text: &mut String, cells: &[&str; 4]) {
    text.push('|');
    for cell in cells {
        // A bar ends a cell even within backquotes (GitHub Flavored Markdown, 4.10).
        // Writing to a String cannot fail.
        let _written = write!(text, " {} |", cell.replace('|', "\\|"));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn each_flag_has_the_variable_of_its_name() {
        for setting in ALL {
            let mut name = format!("NARROWS_{}", setting.name.replace('-', "_").to_uppercase());
            if setting.name == "host-limit" {
                name.push('S');
            }
            assert_eq!(setting.variables[0], name);
        }
    }

    #[test]
    fn help_tells_every_flag_variable_and_default() {
        let help = command().render_long_help().to_string();
        // However the lines were broken.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in ALL {
            assert!(help.contains(&format!("--{} <{}>", setting.name, setting.metavar)), "{help}");
            assert!(help.contains(&setting.variables.join(", ")), "{help}");
            if let Text(text) = setting.unset {
                assert!(help.contains(&format!("[default: {text}]")), "{help}");
            }
        }
        for group in Group::ALL {
            assert!(help.contains(&format!(" {}: --", group.title())), "{help}");
        }
        assert!(help.contains("Examples:") && !help.contains(PRINT_MARKDOWN), "{help}");
    }

    #[test]
    fn the_readme_has_the_table_of_flags() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        assert!(
            readme.contains(&markdown_table()),
            "put what `narrows --{PRINT_MARKDOWN}` prints into README.md"
        );
    }
}
