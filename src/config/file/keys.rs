//! The table of keys that an API has in the config file.
//!
//! From this table come the reading of values, the suggestions for unknown keys, the JSON schema,
//! what `narrows config` shows and the table in the documentation, so that none of them can know a
//! key that another does not. A new key is a row here and a line in [`super::api`], which puts what
//! was read where it is obeyed; a test fails for a row that nobody reads.

use std::fmt;

/// Within what a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// `api.NAME` itself.
    Api,
    Breaker,
    Retry,
    CoolDown,
    /// API keys.
    Keys,
    /// Tokens.
    Jwt,
    Quota,
    /// One of `quota.plans`.
    Plan,
    /// One of `proxies`.
    Parent,
}

impl Section {
    /// The key that it is the value of.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Api => "",
            Self::Breaker => "circuit_breaker",
            Self::Retry => "retry",
            Self::CoolDown => "cool_down",
            Self::Keys => "keys",
            Self::Jwt => "jwt",
            Self::Quota => "quota",
            Self::Plan => "plans",
            Self::Parent => "proxies",
        }
    }

    /// The keys in it.
    pub(crate) fn keys(self) -> impl Iterator<Item = &'static Key> {
        ALL.iter().copied().filter(move |key| key.section == self)
    }
}

/// What a number alone is in a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
}

/// What a length of time of zero is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// As any other.
    Allowed,
    Refused,
    /// The same as `off`.
    Off,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number, from and to.
    Whole(u64, u64),
    /// A number, from and to.
    Decimal(f64, f64),
    Time(Unit, Zero),
    /// A number of bytes, from and to.
    Bytes(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text, which these words describe.
    Text(&'static str),
    /// One text or a list of them.
    Texts(&'static str),
    /// A list of whole numbers, from and to.
    Numbers(u64, u64),
    /// A map of text to text.
    Pairs(&'static str),
    /// `true`, `false`, or texts.
    SwitchOrTexts(&'static str),
    /// `true`, `false`, or a number of bytes, from and to.
    SwitchOrBytes(u64, u64),
    /// `true`, `false`, or the keys of a section.
    Part(Section),
    /// A list of texts, or of the keys of a section.
    Parts(Section, &'static str),
    /// A map of names, which these words describe, to the keys of a section.
    Named(Section, &'static str),
}

impl fmt::Display for Kind {
    /// What is allowed, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("true or false"),
            Self::Whole(from, to) => write!(f, "a whole number from {from} to {to}"),
            Self::Decimal(from, to) => write!(f, "a number from {from} to {to}"),
            Self::Time(unit, zero) => {
                f.write_str(match zero {
                    Zero::Allowed => "a time",
                    Zero::Refused => "a time above 0",
                    Zero::Off => "off, or a time",
                })?;
                f.write_str(" such as 500ms, 10s or 1m30s, up to 365d; a number alone is ")?;
                f.write_str(match unit {
                    Milliseconds => "milliseconds",
                    Seconds => "seconds",
                })
            }
            Self::Bytes(from, to) => bytes(f, *from, *to),
            Self::Word(words) => f.write_str(&words.join(", ")),
            Self::Text(words) => f.write_str(words),
            Self::Texts(words) | Self::Parts(_, words) => write!(f, "a list of {words}"),
            Self::Numbers(from, to) => write!(f, "a list of whole numbers from {from} to {to}"),
            Self::Pairs(words) | Self::Named(_, words) => write!(f, "a map of {words}"),
            Self::SwitchOrTexts(words) => write!(f, "true, false, or a list of {words}"),
            Self::SwitchOrBytes(from, to) => {
                f.write_str("true, false, or ")?;
                bytes(f, *from, *to)
            }
            Self::Part(_) => f.write_str("true, false, or a map"),
        }
    }
}

fn bytes(f: &mut fmt::Formatter<'_>, from: u64, to: u64) -> fmt::Result {
    write!(f, "a number of bytes from {from} to {to}, such as 16384 or 16KiB")
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) section: Section,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What holds when it is not given, as it would be written; empty where there is nothing.
    pub(crate) unset: &'static str,
    pub(crate) help: &'static str,
    /// Whether values may hold what must not be printed.
    pub(crate) secret: bool,
}

impl Key {
    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Its way within an API.
    pub(crate) fn path(&self) -> String {
        match self.section {
            Api => self.name.to_owned(),
            Breaker | Retry | CoolDown | Keys | Jwt | Quota | Plan | Parent => {
                format!("{}.{}", self.section.name(), self.name)
            }
        }
    }
}

const fn row(
    section: Section,
    name: &'static str,
    kind: Kind,
    unset: &'static str,
    help: &'static str,
) -> Key {
    Key { section, name, kind, unset, help, secret: false }
}

macro_rules! keys {
    ($($id:ident = $row:expr;)*) => {
        $(pub(crate) static $id: Key = $row;)*
        /// All of them.
        pub(crate) static ALL: &[&Key] = &[$(&$id),*];
    };
}

use Kind::Bytes;
use Kind::Decimal;
use Kind::Named;
use Kind::Numbers;
use Kind::Pairs;
use Kind::Part;
use Kind::Parts;
use Kind::Switch;
use Kind::SwitchOrBytes;
use Kind::SwitchOrTexts;
use Kind::Text;
use Kind::Texts;
use Kind::Time;
use Kind::Whole;
use Kind::Word;
use Section::Api;
use Section::Breaker;
use Section::CoolDown;
use Section::Jwt;
use Section::Keys;
use Section::Parent;
use Section::Plan;
use Section::Quota;
use Section::Retry;
use Unit::Milliseconds;
use Unit::Seconds;

const FIELD: &str = "field names and values, such as Accept: application/json";
const NAMES: &str = "field names, such as X-Api-Key";
const NETWORKS: &str = "networks such as 10.0.0.0/8 or 2001:db8::/32, or addresses";
const TIMES: u64 = 1_000_000;
const MODE: Kind = Word(&["enforce", "observe"]);
const COUNTED_BY: &str = "address, identity, api_key, header:NAME, claim:NAME, host or api";
/// The largest number of requests.
const REQUESTS: u64 = 1_000_000_000;
const PER_CENT: Kind = Decimal(0.0, 101.0);

keys! {
    TARGET_URL = row(Api, "target_url", Text("a URL such as https://api.example.com or http://HOST:PORT/PATH, without credentials, query and fragment"), "",
        "Where requests of /api/NAME/PATH go: to this URL, a slash, and PATH. Without it the API has no gateway path.");
    HOSTS = row(Api, "hosts", Texts("HOST, HOST:PORT or *.SUFFIX"), "",
        "Hosts whose forward traffic meets these policies too; if it is not given, the host of target_url, and [] is none.");
    ALLOW_FROM = row(Api, "allow_from", Texts(NETWORKS), "[]",
        "Networks whose clients alone may use the API, by whichever route; [] is all.");
    DENY_FROM = row(Api, "deny_from", Texts(NETWORKS), "[]",
        "Networks whose clients may not, even if allow_from has them.");
    NETWORKS_MODE = row(Api, "networks_mode", MODE, "enforce",
        "observe counts and logs who would be turned away by allow_from and deny_from, and lets them in.");
    KEYS = row(Api, "keys", Part(Keys), "false",
        "Serve those alone who show a key of these, by whichever route.");
    JWT = row(Api, "jwt", Part(Jwt), "false",
        "Serve those alone who show a token (JSON Web Token) that holds, by whichever route; beside keys, either will do.");
    METHOD = row(Api, "method", Texts("methods, such as POST"), "",
        "Without effect, as in resilient-proxy-out: a request keeps its method. See methods.");
    METHODS = row(Api, "methods", Texts("methods, such as POST"), "",
        "Methods that the gateway takes, others being answered with 405; without it all.");
    REQUIRES_BODY = row(Api, "requires_body", Switch, "false",
        "Answer a request without a body with 400.");
    VALIDATE_JSON = row(Api, "validate_json", SwitchOrBytes(1, 16 * 1024 * 1024), "false",
        "Answer a request whose Content-Type is JSON and whose body is none with 400; true looks at bodies of up to 1024KiB.");
    HEADERS = row(Api, "headers", Pairs(FIELD), "{}",
        "Fields that requests get, in the place of the client's.").secret();
    FORWARD_HEADERS = row(Api, "forward_headers", SwitchOrTexts(NAMES), "false",
        "Fields of the client that go on: those that describe the body alone, or all but Host, those of the hop and credentials for proxies, or these.");
    FORWARDED = row(Api, "forwarded", Switch, "false",
        "Tell the target of the client: X-Forwarded-For (behind what stands there), X-Forwarded-Host and X-Forwarded-Proto.");
    REMOVE_HEADERS = row(Api, "remove_headers", Texts(NAMES), "[]",
        "Fields that are taken out of requests, whoever put them there.");
    RESPONSE_HEADERS = row(Api, "response_headers", Pairs(FIELD), "{}",
        "Fields that responses get.").secret();
    REWRITE = row(Api, "rewrite", Pairs("beginnings of paths and what stands in their place, such as /v1: /api/v1"), "{}",
        "Beginnings of the path behind /api/NAME, and what takes their place; the longest that fits counts.");
    SSL_VERIFY = row(Api, "ssl_verify", Switch, "true",
        "Certificates are verified in any case; false is refused.");
    REQUEST_TIMEOUT = row(Api, "request_timeout", Time(Milliseconds, Zero::Off), "10000",
        "How long one attempt may take to connect, and then to the head of its response.");
    TOTAL_TIMEOUT = row(Api, "total_timeout", Time(Milliseconds, Zero::Off), "off",
        "From the head of a request to the head of its answer, all attempts and all waits together.");
    RETRY_UNSAFE_OF_API = row(Api, "retry_unsafe", Switch, "false",
        "The same as retry.retry_unsafe.");
    ENABLE_CACHE = row(Api, "enable_cache", Switch, "false",
        "Keep responses, as RFC 9111 has it for a shared cache.");
    CACHE_TTL = row(Api, "cache_ttl", Time(Seconds, Zero::Allowed), "60",
        "How long a response is fresh to which its origin gives no lifetime; 0 keeps none of those.");
    CACHE_FORCE = row(Api, "cache_force", Switch, "false",
        "cache_ttl holds whatever lifetime the origin gives, and whatever it says of validation; not over no-store, private, Authorization and Set-Cookie.");
    CACHE_FORCE_OVER = row(Api, "cache_force_over", Texts("no-store, private, authorization, set-cookie"), "[]",
        "With cache_force, over these too. With authorization, who asks is part of what is asked.");
    CACHE_NEGATIVE = row(Api, "cache_negative", Pairs("statuses from 400 to 599 and times, such as 404: 10s"), "{}",
        "Failures that are kept, and for how long where their origin gives no lifetime.");
    CACHE_HEADER_STRATEGY = row(Api, "cache_header_strategy", Word(&["none", "all", "listed"]), "none",
        "Which fields of a request make it another, beside those that Vary names: none, all, or those of cache_headers. If cache_headers is given, listed.");
    CACHE_HEADERS = row(Api, "cache_headers", Texts("field names, or none"), "[]",
        "These fields.");
    CACHE_POST = row(Api, "cache_post", SwitchOrBytes(1, 16 * 1024 * 1024), "false",
        "Keep answers to POST too, each for its body of up to so many bytes; true is 64KiB. For an API whose POST only asks.");
    CACHE_MAX_OBJECT = row(Api, "cache_max_object", Bytes(1, 1024 * 1024 * 1024), "8192KiB",
        "The longest body that is kept.");
    CACHE_STALE_WHILE_REVALIDATE = row(Api, "cache_stale_while_revalidate", Time(Seconds, Zero::Allowed), "0",
        "How long beyond its lifetime a response is served while it is asked for anew, where its origin does not say.");
    CACHE_STALE_IF_ERROR = row(Api, "cache_stale_if_error", Time(Seconds, Zero::Allowed), "0",
        "The same where asking fails: no answer, or 500, 502, 503, 504.");
    CIRCUIT_BREAKER = row(Api, "circuit_breaker", Part(Breaker), "true",
        "Stop asking an upstream that fails. For the API default false, if nothing is given.");
    RETRY = row(Api, "retry", Part(Retry), "false",
        "Try again what failed.");
    COOL_DOWN = row(Api, "cool_down", Part(CoolDown), "true",
        "Leave an upstream alone for as long as it asks (429, or 503 with Retry-After). For the API default false, if nothing is given.");
    QUOTA = row(Api, "quota", Part(Quota), "false",
        "Requests that each client may make in a time, of the whole fleet.");
    USE_PROXY = row(Api, "use_proxy", Switch, "false",
        "Go to the upstream by other proxies: those of proxies, or else of PROXY_URLS.");
    PROXIES = row(Api, "proxies", Parts(Parent, "URLs such as http://USER:PASSWORD@HOST:PORT, or maps of url and weight"), "[]",
        "These proxies.").secret();
    PROXY_STRATEGY = row(Api, "proxy_strategy",
        Word(&["round_robin", "sticky", "subset", "on_rate_limit", "never", "least_used", "weighted"]), "round_robin",
        "How one is chosen: each in its turn; always the same for what proxy_sticky_key says; each of a window of proxy_subset_size; none until a 429 was seen; none; the one with the fewest requests; by weight.");
    PROXY_STICKY_KEY = row(Api, "proxy_sticky_key", Text("client_ip, api_name or header:NAME"), "client_ip",
        "What requests have in common that go by the same proxy, with sticky.");
    PROXY_SUBSET_SIZE = row(Api, "proxy_subset_size", Whole(1, 10_000), "3",
        "Proxies in the window, with subset.");
    KEEPALIVE_TIMEOUT = row(Api, "keepalive_timeout", Time(Milliseconds, Zero::Allowed), "60000",
        "How long an idle connection through a proxy is kept.");
    KEEPALIVE_POOL = row(Api, "keepalive_pool", Whole(0, 100_000), "50",
        "Idle connections that are kept for one origin through one proxy.");
    PROXY_BAN = row(Api, "proxy_ban", Time(Seconds, Zero::Allowed), "30",
        "How long a proxy that fails, or is refused by a host, is not used for that host.");
    PROXY_MAX_CONNECTIONS = row(Api, "proxy_max_connections", Whole(0, u32::MAX as u64), "0",
        "Connections at once to one host through one proxy, of the whole fleet; 0 is unlimited.");
    PROXY_QUOTA = row(Api, "proxy_quota", Text("off, or N/TIME such as 600/1m"), "off",
        "Requests to one host through one proxy in a time, of the whole fleet.");
    NO_PROXY = row(Api, "no_proxy", Texts("hosts such as a.test, a.test:8443 or *.a.test"), "[]",
        "Hosts that are gone to directly.");

    PARENT_URL = row(Parent, "url", Text("a URL such as http://USER:PASSWORD@HOST:PORT, or with https"), "",
        "The proxy.").secret();
    PARENT_WEIGHT = row(Parent, "weight", Whole(1, 1000), "1",
        "How much of the requests it gets, with weighted.");

    BREAKER_MODE = row(Breaker, "mode", MODE, "enforce",
        "observe counts and logs what the breaker would refuse, and refuses nothing.");
    FAILURE_THRESHOLD = row(Breaker, "failure_threshold", Whole(0, TIMES), "5",
        "Failures one after the other that open the circuit; 0 counts none.");
    RESET_TIMEOUT = row(Breaker, "reset_timeout", Time(Seconds, Zero::Refused), "30",
        "How long it stays open before it is tried whether it can be closed.");
    SUCCESS_THRESHOLD = row(Breaker, "success_threshold", Whole(1, TIMES), "2",
        "Successes one after the other, of those that try, that close it.");
    BREAKER_REQUEST_TIMEOUT = row(Breaker, "request_timeout", Time(Milliseconds, Zero::Off), "10000",
        "The same as request_timeout of the API, where that is not given.");
    PROBES = row(Breaker, "probes", Whole(1, 1000), "1",
        "Requests of the whole fleet that may try at once whether it can be closed.");
    PROBE_LEASE = row(Breaker, "probe_lease", Time(Seconds, Zero::Refused), "",
        "How long the place of such a request is kept if nothing is heard of it; without it as long as request_timeout, or 10 s, and two seconds more.");
    WINDOW = row(Breaker, "window", Time(Seconds, Zero::Refused), "60",
        "The time that is looked back over for the rates.");
    MINIMUM_CALLS = row(Breaker, "minimum_calls", Whole(1, TIMES), "20",
        "Calls in it without which no rate is judged.");
    FAILURE_RATE = row(Breaker, "failure_rate", PER_CENT, "101",
        "Per cent of failed calls that open the circuit; above 100 is off. Given alone, 50 is usual.");
    SLOW_CALL_RATE = row(Breaker, "slow_call_rate", PER_CENT, "101",
        "Per cent of slow calls that open it; above 100 is off.");
    SLOW_CALL = row(Breaker, "slow_call", Time(Seconds, Zero::Refused), "60",
        "A call that takes so long is slow.");

    KEYS_FILE = row(Keys, "file", Text("a file of keys, one a line: NAME sha256:HEX, as narrows key new NAME prints one"), "",
        "Keys, one a line: NAME sha256:HEX, and behind that scopes=A,B, plan=NAME, not_before=DAY and expires=DAY if wanted. Obeyed within a second of a change.");
    KEYS_LIST = row(Keys, "list", Texts("keys as they stand in a file, NAME sha256:HEX; from a variable also NAME KEY"), "[]",
        "Keys in this place. Keys themselves, in the place of their hashes, only from variables: alice ${ALICE_KEY}.").secret();
    KEYS_HEADER = row(Keys, "header", Text("the name of a field, such as X-API-Key"), "X-API-Key",
        "The field of the gateway's requests that has the key; Authorization: Bearer is heard where it is not there.");
    KEYS_MODE = row(Keys, "mode", MODE, "enforce",
        "observe counts and logs who has no key, and refuses nobody.");

    JWT_SECRET = row(Jwt, "secret", Text("a secret of at least 32 bytes, such as ${NAME} has"), "",
        "A secret that tokens are signed with (HS256, HS384, HS512).").secret();
    JWT_SECRET_FILE = row(Jwt, "secret_file", Text("a file of a secret of at least 32 bytes"), "",
        "The same, as the one line of a file. Files are obeyed within a second of a change.");
    JWT_PUBLIC_KEY_FILE = row(Jwt, "public_key_file", Text("a file of public keys in PEM"), "",
        "PEM file of public keys: RSA (RS256, PS256, ...), P-256 (ES256), P-384 (ES384), Ed25519 (EdDSA).");
    JWT_JWKS_FILE = row(Jwt, "jwks_file", Text("a file of a JSON Web Key Set"), "",
        "File of a JSON Web Key Set.");
    JWT_JWKS_URL = row(Jwt, "jwks_url", Text("an https:// URL without credentials and fragment, or http:// on this machine"), "",
        "Where a JSON Web Key Set is fetched from. The last good one stays.");
    JWT_JWKS_REFRESH = row(Jwt, "jwks_refresh", Time(Seconds, Zero::Refused), "600",
        "How often it is fetched.");
    JWT_JWKS_REFRESH_MIN = row(Jwt, "jwks_refresh_min", Time(Seconds, Zero::Refused), "10",
        "How long at least lies between two fetches: a token of a key that is not known has it fetched.");
    JWT_JWKS_TIMEOUT = row(Jwt, "jwks_timeout", Time(Seconds, Zero::Refused), "5",
        "How long a fetch may take.");
    JWT_ALGORITHMS = row(Jwt, "algorithms", Texts("HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"), "[]",
        "Algorithms that are allowed; [] is all that fit the keys. A token never chooses.");
    JWT_ISSUER = row(Jwt, "issuer", Texts("issuers, as iss has them"), "[]",
        "Whose tokens are taken; [] is anybody's who has the key.");
    JWT_AUDIENCE = row(Jwt, "audience", Texts("audiences, as aud has them"), "[]",
        "Of which one a token must name; [] takes those alone that name none.");
    JWT_LEEWAY = row(Jwt, "leeway", Time(Seconds, Zero::Allowed), "60",
        "How far the clock of an issuer may be off.");
    JWT_REQUIRED_CLAIMS = row(Jwt, "required_claims", Texts("names of claims, such as exp"), "[exp]",
        "Claims that a token must have.");
    JWT_SUBJECT_CLAIM = row(Jwt, "subject_claim", Text("the name of a claim, such as sub"), "sub",
        "The claim that is the name of who asks; one who has none goes by the address.");
    JWT_PLAN_CLAIM = row(Jwt, "plan_claim", Text("the name of a claim"), "",
        "The claim that names the plan of a quota.");
    JWT_SCOPE_CLAIM = row(Jwt, "scope_claim", Text("the name of a claim, such as scope or scp"), "scope",
        "The claim of its scopes: words with spaces between them, or a list.");
    JWT_REQUIRED_SCOPES = row(Jwt, "required_scopes", Texts("scopes"), "[]",
        "Scopes that must be among them.");
    JWT_TYPES = row(Jwt, "types", Texts("types, as typ has them"), "[JWT, at+jwt]",
        "What a token may say that it is; one that says nothing is taken.");
    JWT_MAX_LENGTH = row(Jwt, "max_length", Bytes(256, 64 * 1024), "8KiB",
        "The longest token that is looked at.");
    JWT_MODE = row(Jwt, "mode", MODE, "enforce",
        "observe counts and logs who has no token, and refuses nobody.");

    MAX_ATTEMPTS = row(Retry, "max_attempts", Whole(1, 100), "3",
        "Attempts in all, the first one counted.");
    INITIAL_DELAY = row(Retry, "initial_delay", Time(Seconds, Zero::Allowed), "1",
        "Before the second attempt.");
    MAX_DELAY = row(Retry, "max_delay", Time(Seconds, Zero::Allowed), "10",
        "The longest delay.");
    BACKOFF_FACTOR = row(Retry, "backoff_factor", Decimal(1.0, 100.0), "2",
        "Each further delay is so many times the one before.");
    JITTER = row(Retry, "jitter", Decimal(0.0, 1.0), "0.2",
        "By which part of itself, up or down, a delay is changed at random.");
    RETRY_ON_STATUS = row(Retry, "retry_on_status", Numbers(400, 599), "[500, 502, 503, 504, 429]",
        "Statuses after which another attempt is made.");
    RETRY_ON_ERRORS = row(Retry, "retry_on_errors", Texts("dns, connect_refused, reset, timeout and tls"), "[dns, connect_refused, reset, timeout, tls]",
        "Failures after which another attempt is made.");
    RETRY_UNSAFE = row(Retry, "retry_unsafe", Switch, "false",
        "Try again what may not be by its method too, POST among them: an upstream may get it twice.");
    BUDGET = row(Retry, "budget", PER_CENT, "20",
        "Per cent of the requests that may be retries; above 100 is off.");
    BUDGET_FLOOR = row(Retry, "budget_floor", Decimal(0.0, 1_000_000.0), "10",
        "Retries per second that are allowed beside that, so that few requests can be repeated.");
    MAX_BODY = row(Retry, "max_body", Bytes(0, 64 * 1024 * 1024), "64KiB",
        "Bytes of a body that are kept for another attempt; a longer one has only one.");

    COOL_DOWN_MODE = row(CoolDown, "mode", MODE, "enforce",
        "observe counts and logs what would wait or be refused, and lets it go on at once.");
    SCOPE = row(CoolDown, "scope", Word(&["api", "host", "credential"]), "credential",
        "What is left alone: all requests of the API, those to the same host, or those to the same host with the same credential.");
    COOL_DOWN_MAX = row(CoolDown, "max", Time(Seconds, Zero::Refused), "600",
        "The longest that is obeyed; what asks for more gets this.");
    COOL_DOWN_DEFAULT = row(CoolDown, "default", Time(Seconds, Zero::Allowed), "1",
        "For a 429 that says nothing about time; 0 lets it go unheard.");
    RAMP = row(CoolDown, "ramp", Decimal(0.0, 1_000_000.0), "10",
        "Requests per second of the whole fleet right after it, growing from there; 0 does not pace.");
    COOL_DOWN_WAIT = row(CoolDown, "wait", Time(Seconds, Zero::Allowed), "10",
        "How long a request waits it out at most that does not say itself (Prefer: wait=SECONDS); 0 refuses at once.");
    ON_EXHAUSTED = row(CoolDown, "on_exhausted", Switch, "false",
        "Begin one too when a success says that it was the last for now (RateLimit, X-RateLimit-Remaining: 0).");

    QUOTA_MINUTE = row(Quota, "minute", Whole(1, REQUESTS), "5",
        "Requests in a minute. If no window is given, there are these of a minute, an hour and a day; if any is, those alone.");
    QUOTA_HOUR = row(Quota, "hour", Whole(1, REQUESTS), "50",
        "In an hour.");
    QUOTA_DAY = row(Quota, "day", Whole(1, REQUESTS), "500",
        "In a day.");
    QUOTA_WINDOWS = row(Quota, "windows", Texts("N/TIME such as 100/10s"), "[]",
        "In any other time.");
    ALGORITHM = row(Quota, "algorithm", Word(&["fixed", "sliding", "token_bucket"]), "fixed",
        "How a window is counted: from one full minute, hour or day (UTC) to the next; in any stretch of its length; as tokens that come back evenly.");
    QUOTA_BURST = row(Quota, "burst", Whole(1, REQUESTS), "",
        "Tokens of the shortest window that may be there at once, with token_bucket; without it, as many as its requests.");
    TZ = row(Quota, "tz", Text("UTC, or a distance from it such as +02:00"), "UTC",
        "Where a fixed window of an hour or a day begins; the distance stays the same all year.");
    QUOTA_KEY = row(Quota, "key", Texts(COUNTED_BY), "address",
        "Whose requests are counted together; of several, those that have all of them in common.");
    IPV6_PREFIX = row(Quota, "ipv6_prefix", Whole(1, 128), "64",
        "How many bits of an IPv6 address make a client.");
    TRUSTED_PROXIES = row(Quota, "trusted_proxies", Texts("networks such as 10.0.0.0/8 or 2001:db8::/32, or addresses"), "[]",
        "Whose X-Forwarded-For is believed.");
    PLANS = row(Quota, "plans", Named(Plan, "names, such as paid, to windows"), "{}",
        "Other windows for those who have a plan: by their API key, by plan_claim, or as the plan lists them.");
    PLAN_CLAIM = row(Quota, "plan_claim", Text("the name of a claim"), "",
        "The claim of a token that names the plan.");
    COST = row(Quota, "cost", Text("a number of requests, or header:NAME for a field of the request that has one"), "1",
        "For how many requests one counts.");
    COST_OF = row(Quota, "cost_of", Pairs("methods and numbers, such as POST: 5"), "{}",
        "The same by method; 0 is not counted.");
    COST_MAX = row(Quota, "cost_max", Whole(1, 1_000_000), "100",
        "The most that a field of a request may say.");
    ON_REDIS_ERROR = row(Quota, "on_redis_error", Word(&["local", "closed", "open", "error500"]), "local",
        "While Redis is away: each instance counts by itself, its part of it; or requests are answered with 503; or they are not counted; or they are answered with 500.");
    CHARGE_REFUSED = row(Quota, "charge_refused", Switch, "false",
        "Count requests that are refused too, as apitwo did.");
    LAYOUT = row(Quota, "layout", Word(&["narrows", "apitwo"]), "narrows",
        "How the counts lie in Redis; apitwo is limit:minute:ADDRESS:YYYYMMDDHHMM and so on.");
    QUOTA_MODE = row(Quota, "mode", MODE, "enforce",
        "observe counts and logs what would be refused, refuses nothing, and tells clients nothing.");
    X_RATELIMIT = row(Quota, "x_ratelimit", Switch, "false",
        "Say it in X-RateLimit-Limit, -Remaining and -Reset too.");

    PLAN_MINUTE = row(Plan, "minute", Whole(1, REQUESTS), "",
        "Requests in a minute; a plan without any window is not counted.");
    PLAN_HOUR = row(Plan, "hour", Whole(1, REQUESTS), "",
        "In an hour.");
    PLAN_DAY = row(Plan, "day", Whole(1, REQUESTS), "",
        "In a day.");
    PLAN_WINDOWS = row(Plan, "windows", Texts("N/TIME such as 100/10s"), "[]",
        "In any other time.");
    PLAN_BURST = row(Plan, "burst", Whole(1, REQUESTS), "",
        "Tokens of the shortest window that may be there at once, with token_bucket.");
    PLAN_KEYS = row(Plan, "keys", Texts("values of what key says, such as an address or the name of an API key"), "[]",
        "Those who have it, whatever else is said of them.").secret();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_there_twice_and_all_are_explained() {
        for (at, key) in ALL.iter().enumerate() {
            assert!(!ALL[..at].iter().any(|other| other.path() == key.path()), "{}", key.path());
            assert!(key.help.ends_with('.'), "{}", key.path());
        }
    }
}
