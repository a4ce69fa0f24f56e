//! Every answer that narrows makes itself: status, reason phrase, `Proxy-Status` (RFC 9209), and a
//! body in `application/problem+json` (RFC 9457).
//!
//! | cause | status | `Proxy-Status` error | also |
//! | --- | --- | --- | --- |
//! | a target that is no target | 400 | `http_request_error` | |
//! | a malformed message | 400, 408, 414, 431, 501, 505 | `http_request_error` | the connection closes, or over HTTP/2 the stream |
//! | a Max-Forwards that is no number | 400 | `http_request_error` | |
//! | an expectation other than 100-continue | 417 | `http_request_error` | |
//! | a request that has been here before | 502 | `proxy_loop_detected` | |
//! | an origin-form request to the proxy port | 404 | `destination_not_found` | says how to use a proxy |
//! | a gateway path of an API that there is not | 404 | `destination_not_found` | names it |
//! | the gateway, by a name that it has not | 421 | `http_request_error` | |
//! | a method that an API does not take | 405 | `http_request_error` | `Allow` |
//! | a path that leaves its API's | 400 | `http_request_error` | |
//! | no body, or one that is no JSON, where an API wants it | 400 | `http_request_error` | says where |
//! | a body longer than an API looks at | 413 | `http_request_error` | |
//! | a body that an API waits for in vain | 408 | `http_request_error` | |
//! | no user and password, or wrong ones | 407 | `http_request_error` | `Proxy-Authenticate` |
//! | the same by the gateway's path | 401 | `http_request_error` | `WWW-Authenticate` |
//! | a client that may not use the proxy | 403 | `http_request_denied` | the connection closes |
//! | more passwords to verify than may wait | 503 | `proxy_internal_error` | `Retry-After` |
//! | only what is kept was asked for, and there is nothing that may answer | 504 | `http_request_error` | |
//! | the request for the same that was waited for failed | 502, 504 | `dns_error`, `connection_refused`, `connection_terminated`, `http_response_timeout`, `tls_protocol_error` | |
//! | a client of an address that may not use an API | 403 | `http_request_denied` | |
//! | no key or token of an API, or one that does not hold | 401 by the gateway's path, else 407 | `http_request_error` | `WWW-Authenticate`, `Proxy-Authenticate` |
//! | more than one, or none that can be read | 400 | `http_request_error` | the same |
//! | one that may not be used for this | 403 | `http_request_denied` | the same |
//! | a token of an address that showed many wrong ones | 429 | `http_request_error` | `Retry-After` |
//! | a token, and no keys to verify it with | 503 | `proxy_internal_error` | `Retry-After` |
//! | plain HTTP on a port for TLS | 400 | `http_request_error` | in the clear; the connection closes |
//! | as many clients as may be | 503 | `proxy_internal_response` | `Retry-After`; the connection closes |
//! | as many from one address | 429 | `http_request_error` | `Retry-After`; the connection closes |
//! | a host is at its limit, or what its asker may have of it | 503 (`--refuse-status`) | `connection_limit_reached` | `Retry-After`, telling reason phrase |
//! | Redis is away, and the policy is to refuse | 503 | `proxy_internal_error` | `Retry-After` |
//! | no address | 502, 504 when it took too long | `dns_error`, `dns_timeout` | |
//! | a host, or a port for tunnels, that the settings deny | 403 | `http_request_denied` | |
//! | no address that may be dialled | 502 | `destination_ip_prohibited` | |
//! | the address is this proxy | 502 | `proxy_loop_detected` | |
//! | no connection | 502, 504 when it took too long | `connection_refused`, `connection_timeout`, `destination_ip_unroutable` | |
//! | TLS failed | 502 | `tls_certificate_error`, `tls_protocol_error` | |
//! | closed before the response's head | 502 | `connection_terminated` | |
//! | a head that is cut off | 502 | `http_response_incomplete` | |
//! | a head that is too long | 502 | `http_response_header_section_size` | |
//! | a transfer coding that is malformed, or not chunked | 502 | `http_response_transfer_coding` | |
//! | trailers that are too long | 502 | `http_response_trailer_section_size` | |
//! | an upgrade to another protocol than was asked for | 502 | `http_upgrade_failed` | |
//! | not a response, or one that can be read in two ways | 502 | `http_protocol_error` | |
//! | too many interim responses, or a 407, which is a proxy's to say | 502 | `http_protocol_error` | |
//! | a client has used up a quota | 429 | `http_request_error` | `Retry-After`, `RateLimit`; members `code` and `msg` |
//! | nobody can say what it has used, and the policy is to refuse | 503, 500 (`on_redis_error`) | `proxy_internal_error` | `Retry-After` with 503 |
//! | the circuit of an API or a host is open | 503 | `destination_unavailable` | `Retry-After` |
//! | the upstream asked not to be asked for a while | 429, 503 as it did | `destination_unavailable` | `Retry-After` |
//! | no parent can be used | 503 | `destination_unavailable` | `Retry-After` |
//! | a parent opens no tunnel, or wants other credentials | 502 | `destination_unavailable`, `proxy_configuration_error` | |
//! | no response in time | 504 | `http_response_timeout` | |
//!
//! No other module chooses a status of our own. The README has this table too; a test compares
//! both with what is answered.
//!
//! SECURITY: an answer says nothing of what is inside: no address, and no text of a resolver, of TLS
//! or of the system, unless `--error-details` asks for that (RFC 9209 §4); nor does it repeat the
//! userinfo or query of a target.

mod door;
mod response;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::StatusCode;
use serde::Serialize;

pub(crate) use self::response::respond;
use super::head::Flaw;
use super::passage::Barred;
use super::status;
use crate::base::authority::BadAuthority;
use crate::base::clock;
use crate::limit::Reason;
use crate::limit::Refused;
use crate::listen::bounds::Full;
use crate::policy::Cause;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::access::Denied;
use crate::policy::access::entrance::Unproven;
use crate::policy::quota;
use crate::policy::quota::Told;
use crate::telemetry::access::presentable;
use crate::upstream::SendError;
use crate::upstream::dial::DialError;
use crate::upstream::egress;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::parent::ParentError;
use crate::upstream::resolve::ResolveError;
use crate::upstream::screen;
use crate::upstream::tls::TlsError;

/// Why narrows answers by itself.
#[derive(Debug)]
pub(crate) enum Reject {
    BadTarget {
        target: String,
        why: BadAuthority,
    },
    Denied(Denied),
    BadScheme,
    /// Plain HTTP where TLS is spoken.
    ClearText,
    /// The request that this one waited for, as it is for the same, got no response.
    Collapsed(Cause),
    /// Something other than 100-continue is expected (RFC 9110 §10.1.1).
    Expectation,
    Flaw(Flaw),
    /// An origin asks for credentials as only a proxy may (RFC 9110 §15.5.8).
    ForeignProxy,
    /// No room for another client.
    Full(Full),
    /// More interim responses than are allowed.
    Interim,
    /// A body that an API wants as JSON and that is none, and where that shows.
    Json(String),
    /// A path that would leave the base path of its API's target.
    LeavesApi,
    /// A body of more bytes than an API looks at.
    LongBody(u64),
    /// Via has our name already (RFC 9110 §7.6.3).
    Loop,
    MaxForwards,
    /// A method that an API does not take, and those that it does.
    Method(String),
    /// The gateway is called by a name that it has not (RFC 9110 §15.5.20).
    Misdirected,
    /// No body where an API wants one.
    NoBody,
    /// Nothing kept may answer it, and the client wants nothing else (RFC 9111 §5.2.1.7).
    NotCached,
    NotForProxy,
    /// A client of an address that may not use the API.
    NotListed,
    /// A policy of the API says no.
    Policy(Refusal),
    Send(SendError),
    /// A body that must be read before it is sent on, and does not come.
    SlowBody,
    /// As [`Denied::Credentials`], by the gateway's path.
    Stranger,
    /// A gateway path of an API that there is not, by this name.
    UnknownApi(String),
    /// Nobody whom the API knows, and what it wants to see.
    Unproven {
        why: Unproven,
        asks: Asks,
    },
}

/// What an API asks of who would use it.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    pub(crate) api: Arc<str>,
    /// The field for its keys at the gateway, if it has keys.
    pub(crate) header: Option<HeaderName>,
    pub(crate) takes_tokens: bool,
    /// By which route it was asked.
    pub(crate) at_gateway: bool,
}

impl From<SendError> for Reject {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<Barred> for Reject {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Dial(error) | Barred::Way(error) => error.into(),
            Barred::Policy(refusal) => Self::Policy(refusal),
        }
    }
}

impl From<DialError> for Reject {
    fn from(error: DialError) -> Self {
        Self::Send(SendError::Dial(error))
    }
}

/// How answers of our own are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The status of a refusal by the cap.
    pub(crate) refuse_status: u16,
    /// Whether `Proxy-Status` says how long a slot was waited for.
    pub(crate) explain: bool,
    /// Whether answers may tell what only operators should know.
    pub(crate) details: bool,
}

impl From<u16> for Manner {
    /// With this status of a refusal, else as by default.
    fn from(refuse_status: u16) -> Self {
        Self { refuse_status, explain: false, details: false }
    }
}

/// An answer of our own, ready to be written.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// One line for clients that show nothing else of a failed CONNECT.
    pub(crate) phrase: String,
    /// The error's word in RFC 9209 §2.3.
    pub(crate) error: &'static str,
    pub(crate) retry_after: Option<u64>,
    details: Option<String>,
    waited: Option<Duration>,
    /// What would help, and the field that says so (RFC 9110 §11.6.1, §11.7.1).
    challenges: Vec<(&'static str, Cow<'static, str>)>,
    /// The methods that are taken (RFC 9110 §15.5.6).
    allow: Option<String>,
    /// What the client has left of its quotas.
    pub(crate) told: Option<Box<Told>>,
    pub(crate) body: String,
}

/// The body, RFC 9457 §3.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    error: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<u32>,
    /// What clients of apitwo look for.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<&'a str>,
}

impl Reject {
    /// Whether the client's connection ends with the answer, because nobody can tell, or wants to
    /// read, where the next request would begin.
    pub(crate) fn closes(&self) -> bool {
        matches!(
            self,
            Self::Denied(Denied::Certificate | Denied::Network)
                | Self::Expectation
                | Self::Flaw(_)
                | Self::LongBody(_)
                | Self::SlowBody
        )
    }

    /// The answer.
    pub(crate) fn answer(&self, manner: impl Into<Manner>) -> Answer {
        let manner = manner.into();
        let mut answer = self.make(manner);
        if let (Self::Send(error), true) = (self, manner.explain) {
            answer.waited = Some(error.waited());
        }
        answer
    }

    fn make(&self, manner: Manner) -> Answer {
        let (status, error, title, detail) = match self {
            Self::BadTarget { target, why } => (
                400,
                "http_request_error",
                "bad target".to_owned(),
                format!("{:?} is not where a request can go: {why}", presentable(target)),
            ),
            Self::BadScheme => (
                400,
                "http_request_error",
                "bad target".to_owned(),
                "the target's scheme must be http or https".to_owned(),
            ),
            Self::Denied(denied) => return door::turned_away(*denied),
            Self::Expectation => (
                417,
                "http_request_error",
                "unknown expectation".to_owned(),
                "the only expectation understood is 100-continue".to_owned(),
            ),
            Self::ClearText => (
                400,
                "http_request_error",
                "this port speaks TLS".to_owned(),
                "this is plain HTTP, and the port speaks TLS: the proxy's URL must begin with \
                 https://"
                    .to_owned(),
            ),
            Self::Collapsed(cause) => return collapsed(*cause),
            Self::Full(full) => return door::no_room(*full),
            Self::Flaw(flaw) => {
                (flaw.status(), "http_request_error", "bad request".to_owned(), flaw.to_string())
            }
            Self::ForeignProxy => (
                502,
                "http_protocol_error",
                "bad response".to_owned(),
                "the upstream answered 407, as only a proxy may".to_owned(),
            ),
            Self::Interim => (
                502,
                "http_protocol_error",
                "bad response".to_owned(),
                "the upstream sent more interim responses (1xx) than are allowed".to_owned(),
            ),
            Self::Loop => (
                502,
                "proxy_loop_detected",
                "proxy loop".to_owned(),
                "the request has been through this proxy before: its name is in Via".to_owned(),
            ),
            Self::Json(why) => (
                400,
                "http_request_error",
                "bad request".to_owned(),
                format!("Invalid JSON in request body: {why}"),
            ),
            Self::LeavesApi => (
                400,
                "http_request_error",
                "bad target".to_owned(),
                "the path would leave that of the API: it has too many dot segments (..)"
                    .to_owned(),
            ),
            Self::LongBody(bound) => (
                413,
                "http_request_error",
                "body too long".to_owned(),
                format!("a JSON body of this API has at most {bound} bytes"),
            ),
            Self::MaxForwards => (
                400,
                "http_request_error",
                "bad request".to_owned(),
                "Max-Forwards must be one decimal number".to_owned(),
            ),
            Self::Method(methods) => return door::not_taken(methods),
            Self::Misdirected => (
                421,
                "http_request_error",
                "misdirected request".to_owned(),
                "this gateway is not called by that name: see --gateway-host".to_owned(),
            ),
            Self::NoBody => (
                400,
                "http_request_error",
                "bad request".to_owned(),
                "Request body is required".to_owned(),
            ),
            Self::NotCached => (
                504,
                "http_request_error",
                "not cached".to_owned(),
                "only what is kept was asked for (only-if-cached), and nothing kept may answer"
                    .to_owned(),
            ),
            Self::NotForProxy => (
                404,
                "destination_not_found",
                "this is a forward proxy".to_owned(),
                "set HTTP_PROXY and HTTPS_PROXY to this address, or: curl -x http://PROXY:PORT \
                 http://example.com/ ; GET /health tells whether the proxy is alive"
                    .to_owned(),
            ),
            Self::NotListed => return door::not_listed(),
            Self::Policy(refusal) => return by_policy(*refusal),
            Self::Send(SendError::Dial(DialError::Refused(refused))) => {
                return refusal(refused, manner.refuse_status);
            }
            Self::Send(error) => {
                let (status, word) = classify(error);
                return failure(error, status, word, manner.details);
            }
            Self::SlowBody => (
                408,
                "http_request_error",
                "bad request".to_owned(),
                "the request's body did not come in time".to_owned(),
            ),
            Self::Stranger => return door::stranger(),
            Self::Unproven { why, asks } => return door::unproven(*why, asks),
            Self::UnknownApi(name) => (
                404,
                "destination_not_found",
                "unknown API".to_owned(),
                format!("Unknown API: {:.64}", presentable(name)),
            ),
        };
        make(status, title, error, None, &detail, None)
    }
}

fn failure(error: &SendError, status: u16, word: &'static str, details: bool) -> Answer {
    let inner = matches!(
        error,
        SendError::Dial(
            DialError::Connect { .. }
                | DialError::Resolve(ResolveError::Failed(_))
                | DialError::Tls(_)
        ) | SendError::Exchange(ExchangeError::Malformed(_))
    );
    let title = word.replace('_', " ");
    if inner && !details {
        let told = status::error(word).map_or("", |error| error.title);
        return make(status, title, word, None, told, None);
    }
    let told = error.to_string();
    let answer = make(status, title, word, None, &told, None);
    Answer { details: details.then_some(told), ..answer }
}

/// What those are told who waited for a request that failed: as much as whose it was, less what is inside.
fn collapsed(cause: Cause) -> Answer {
    let (status, word) = match cause {
        Cause::Dns => (502, "dns_error"),
        Cause::Refused => (502, "connection_refused"),
        Cause::Reset => (502, "connection_terminated"),
        Cause::Timeout => (504, "http_response_timeout"),
        Cause::Tls => (502, "tls_protocol_error"),
    };
    let told = status::error(word).map_or("", |error| error.title);
    make(status, word.replace('_', " "), word, None, told, None)
}

/// Rounded up, so that nobody comes too early; never 0, which would say now.
fn seconds_left(left: Duration) -> u64 {
    u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

fn by_policy(refusal: Refusal) -> Answer {
    let seconds = seconds_left(refusal.left);
    let (status, title, why) = match refusal.rule {
        Rule::Breaker => (503, "circuit open", "the upstream has failed too often"),
        Rule::CoolDown(status) => {
            (status, "cooling down", "the upstream asked not to be asked for a while")
        }
        Rule::Parents => (503, "no parent", "no proxy on the way can be used"),
        // Who is not let in is told what would help: that is `door::unproven`.
        Rule::Networks => return door::not_listed(),
        Rule::Access => (503, "not let in", "the API knows nobody who asks like this"),
        Rule::Quota(window) => return over_quota(window, seconds),
        Rule::QuotaAway(status) => return uncounted(status, seconds),
    };
    let detail =
        format!("Service temporarily unavailable. Please try again in {seconds} seconds: {why}");
    make(status, title.to_owned(), "destination_unavailable", Some(seconds), &detail, None)
}

fn over_quota(window: Duration, seconds: u64) -> Answer {
    let tier = quota::name(window);
    let msg = format!("Request too frequent ({tier})");
    let detail = format!("too many requests for this {tier}: try again in {seconds} seconds");
    let members = Members { code: Some(429), msg: Some(&msg), ..Members::default() };
    write(429, msg.clone(), "http_request_error", Some(seconds), &detail, members)
}

fn uncounted(status: u16, seconds: u64) -> Answer {
    let detail = "quotas cannot be counted now, and requests are refused until they can be";
    let title = "quota away".to_owned();
    // Who asks for 500 asks for what apitwo said.
    let retry_after = (status == 503).then_some(seconds);
    make(status, title, "proxy_internal_error", retry_after, detail, None)
}

fn classify(error: &SendError) -> (u16, &'static str) {
    match error {
        SendError::Dial(error) => match error {
            // RFC 9209 §2.3.5 recommends 502, and 403 would say that the client may not ask: it may,
            // and where the name leads is the name server's doing.
            DialError::Denied(egress::Denied::Address) => (502, "destination_ip_prohibited"),
            DialError::Denied(egress::Denied::Host | egress::Denied::Port) => {
                (403, "http_request_denied")
            }
            DialError::Denied(egress::Denied::Loop) => (502, "proxy_loop_detected"),
            DialError::Refused(_) => (503, "connection_limit_reached"),
            DialError::Resolve(ResolveError::Failed(_)) => (502, "dns_error"),
            DialError::Resolve(ResolveError::TimedOut(_)) => (504, "dns_timeout"),
            DialError::Connect { source, .. } => {
                if source.kind() == io::ErrorKind::ConnectionRefused {
                    (502, "connection_refused")
                } else if source.kind() == io::ErrorKind::TimedOut {
                    (504, "connection_timeout")
                } else {
                    (502, "destination_ip_unroutable")
                }
            }
            DialError::TimedOut(_) | DialError::TlsTimedOut(_) => (504, "connection_timeout"),
            DialError::Tls(TlsError::Certificate(_)) => (502, "tls_certificate_error"),
            DialError::Tls(TlsError::Protocol(_)) => (502, "tls_protocol_error"),
            DialError::Parent(error) => match error {
                ParentError::Closed => (502, "connection_terminated"),
                ParentError::Fault(fault) => (502, word(*fault)),
                ParentError::TimedOut(_) | ParentError::Status(504) => (504, "connection_timeout"),
                // What it asks for are the operator's credentials, not the client's.
                ParentError::Status(407) => (502, "proxy_configuration_error"),
                ParentError::Status(_) => (502, "destination_unavailable"),
            },
        },
        SendError::Exchange(error) => match error {
            ExchangeError::Closed => (502, "connection_terminated"),
            ExchangeError::Fault(fault) => (502, word(*fault)),
            ExchangeError::Malformed(_) => (502, "http_protocol_error"),
            ExchangeError::Request => (400, "http_request_error"),
            ExchangeError::TimedOut(_) => (504, "http_response_timeout"),
            ExchangeError::Upgrade => (502, "http_upgrade_failed"),
        },
    }
}

fn word(fault: screen::Fault) -> &'static str {
    match fault {
        screen::Fault::Incomplete => "http_response_incomplete",
        screen::Fault::Fields | screen::Fault::HeadSize => "http_response_header_section_size",
        screen::Fault::Chunk
        | screen::Fault::Coding
        | screen::Fault::Extensions
        | screen::Fault::OldCoding => "http_response_transfer_coding",
        screen::Fault::Trailers => "http_response_trailer_section_size",
        screen::Fault::Control
        | screen::Fault::Field
        | screen::Fault::Interim
        | screen::Fault::Length
        | screen::Fault::LengthAndCoding
        | screen::Fault::NotHttp
        | screen::Fault::StatusLine
        | screen::Fault::Switch
        | screen::Fault::Unsolicited => "http_protocol_error",
    }
}

fn refusal(refused: &Refused, refuse_status: u16) -> Answer {
    let Refused { host, reason, in_use, limit, waited, identity } = refused;
    let whose = if identity.is_some() { "identity" } else { "host" };
    let full = format!("{whose} limit {in_use}/{limit} {host}");
    let (status, error, phrase) = match reason {
        Reason::Away => (503, "proxy_internal_error", format!("limiter away {host}")),
        Reason::Full => (refuse_status, "connection_limit_reached", full),
        Reason::QueueFull => {
            (refuse_status, "connection_limit_reached", format!("{full} queue full"))
        }
        Reason::TimedOut => (
            refuse_status,
            "connection_limit_reached",
            format!("{full} waited {}", seconds(*waited)),
        ),
    };
    let detail = match reason {
        Reason::Away => {
            "the fleet's limiter cannot be reached; nothing new is opened until it is back"
        }
        Reason::Full | Reason::QueueFull | Reason::TimedOut if identity.is_some() => {
            "whoever asks has as many connections to the host as each may have at once"
        }
        Reason::Full => "the host has as many connections as it may have",
        Reason::QueueFull => "the host is at its limit, and as many requests wait as may wait",
        Reason::TimedOut => "the host stayed at its limit for as long as the request could wait",
    };
    // A slot frees when some connection ends, and nobody knows when: a second is an honest guess.
    make(status, phrase, error, Some(1), detail, Some(refused))
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

fn make(
    status: u16,
    phrase: String,
    error: &'static str,
    retry_after: Option<u64>,
    detail: &str,
    refused: Option<&Refused>,
) -> Answer {
    write(status, phrase, error, retry_after, detail, Members { refused, ..Members::default() })
}

/// Further members of a body.
#[derive(Clone, Copy, Default)]
struct Members<'a> {
    refused: Option<&'a Refused>,
    code: Option<u16>,
    msg: Option<&'a str>,
}

fn write(
    status: u16,
    phrase: String,
    error: &'static str,
    retry_after: Option<u64>,
    detail: &str,
    members: Members<'_>,
) -> Answer {
    let Members { refused, code, msg } = members;
    let known = status::error(error);
    let problem = Problem {
        r#type: known.map_or("about:blank", |known| known.link),
        title: known.map_or(&phrase, |known| known.title),
        status,
        detail,
        error,
        host: refused.map(|refused| refused.host.as_str()),
        limit: refused.map(|refused| refused.limit),
        in_use: refused.map(|refused| refused.in_use),
        code,
        msg,
    };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    Answer {
        status,
        phrase,
        error,
        retry_after,
        details: None,
        waited: None,
        challenges: Vec::new(),
        allow: None,
        told: None,
        body,
    }
}

impl Answer {
    /// The fields of the answer, but for those of framing.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            Some(("Date", httpdate::fmt_http_date(clock::wall()))),
            Some(("Proxy-Status", self.proxy_status())),
            Some(("Content-Type", "application/problem+json".to_owned())),
            self.retry_after.map(|seconds| ("Retry-After", seconds.to_string())),
            self.allow.as_ref().map(|methods| ("Allow", methods.clone())),
        ]
        .into_iter()
        .flatten()
        .chain(self.challenges.iter().map(|(name, text)| (*name, text.to_string())))
        .chain(self.told.iter().flat_map(|told| told.lines()))
    }

    fn proxy_status(&self) -> String {
        status::of_error(self.error, self.details.as_deref(), self.waited)
    }

    /// The whole answer as bytes, for a connection that closes after it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status.as_u16(), self.phrase);
        for (name, value) in self.fields() {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "{name}: {value}\r\n");
        }
        let length = self.body.len();
        let _infallible =
            write!(text, "Content-Length: {length}\r\nConnection: close\r\n\r\n{}", self.body);
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests;
