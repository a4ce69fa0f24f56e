//! The second port: what narrows does, for operators and their tools.
//!
//! Everything here reads, but for [`limits`], [`reload`] and the DELETEs of [`apis`]; nothing of the proxy's way waits for it.
//! It runs on the control thread, so a slow reader costs the relays nothing: a connection has one
//! request and [`TIME`] to be done with it, and there are at most [`CONNECTIONS`] of them. Who is
//! let in is decided in [`door`].
//!
//! [`ENDPOINTS`] is the list of what there is, here and on the index page.

mod apis;
mod door;
mod health;
mod hosts;
mod limits;
mod metrics;
mod reload;
mod tiers;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub use self::health::Readiness;
pub use self::reload::Reload;
pub use self::reload::Reloaded;
use crate::base::authority::Host;
use crate::base::authority::HostKey;
use crate::limit::Limiter;
use crate::policy::api::Apis;
use crate::policy::breaker::Breakers;
use crate::policy::cache::tiers::Tiers;
use crate::store::Fleet;
use crate::store::Secret;
use crate::store::board::Board;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;

/// Where operators come in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 picks a free one.
    pub address: SocketAddr,
    /// What a change of the fleet's limits must carry; without it they cannot be changed here.
    pub token: Option<Secret>,
    /// The names by which it may be asked, beside those of loopback and the address itself.
    pub hosts: Vec<Host>,
}

/// One thing that can be asked.
struct Endpoint {
    path: &'static str,
    what: &'static str,
    answer: for<'a> fn(&'a Sources, &'a str) -> BoxFuture<'a, Answer>,
}

/// All that can be asked, by GET or HEAD. Answers get the sources and the query (without `?`).
const ENDPOINTS: [Endpoint; 12] = [
    Endpoint { path: "/", what: "this list", answer: index },
    Endpoint {
        path: "/healthz",
        what: "200 as long as the process answers",
        answer: |_, _| ready(health::live()),
    },
    Endpoint {
        path: "/readyz",
        what: "200 while it serves, 503 before and while it stops; ?verbose tells of Redis and settings",
        answer: |sources, query| ready(health::ready(sources, query)),
    },
    Endpoint {
        path: "/metrics",
        what: "numbers for Prometheus",
        answer: |sources, _| ready(metrics::text(sources)),
    },
    Endpoint {
        path: "/hosts",
        what: "connections per host, here and in the fleet; ?host=HOST for one",
        answer: |sources, query| Box::pin(hosts::list(sources, query)),
    },
    Endpoint {
        path: "/limits",
        what: "the fleet's table of limits; PUT and DELETE of /limits/PATTERN change it",
        answer: |sources, _| ready(limits::list(sources)),
    },
    Endpoint {
        path: "/apis",
        what: "APIs: what holds for them, and what was counted; POST of /-/reload reads settings again",
        answer: |sources, _| ready(apis::list(sources)),
    },
    Endpoint {
        path: "/circuit-status",
        what: "circuit breakers; DELETE of /circuit-status/API, or /API/HOST, closes one",
        answer: |sources, _| ready(apis::circuits::list(sources)),
    },
    Endpoint {
        path: "/cache",
        what: "what is kept; DELETE of /cache/API, or /cache/API?url=URL, has it forgotten",
        answer: |sources, _| ready(apis::kept::list(sources)),
    },
    Endpoint {
        path: "/cool-downs",
        what: "upstreams that asked not to be asked; DELETE of /cool-downs/API/NAME forgets one",
        answer: |sources, _| ready(apis::cooldowns::list(sources)),
    },
    Endpoint {
        path: "/quota",
        what: "APIs that count requests; /quota/KEY what a client has used, DELETE lets it begin anew",
        answer: |sources, _| ready(apis::quota::list(sources)),
    },
    Endpoint {
        path: "/parents",
        what: "proxies on the way, and for which hosts they are not used now",
        answer: |sources, _| ready(apis::parents::list(sources)),
    },
];

/// Connections at once; further ones wait in the listening socket.
const CONNECTIONS: usize = 64;
/// From accepting a connection to having written all of the answer.
const TIME: Duration = Duration::from_secs(30);
/// For the head of the request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long that may be, in bytes and in fields.
const HEAD_SIZE: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// After a failed accept (no file descriptor left), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// How the way to Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisState {
    /// It does not answer.
    Away,
    /// It lost its data and hears from the instances what they hold.
    Learning,
    /// There is none: this process counts alone.
    Off,
    /// It answers.
    Up,
}

impl RedisState {
    /// The word for answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Learning => "learning",
            Self::Off => "off",
            Self::Up => "up",
        }
    }
}

/// Who holds how many slots of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Slots held in the fleet.
    pub total: u32,
    /// By which instance how many.
    pub holders: BTreeMap<String, u32>,
}

/// What is known of the other instances.
pub trait Instances: fmt::Debug + Send + Sync {
    /// How the way to them is.
    fn redis(&self) -> RedisState;

    /// Who holds slots of these hosts, one answer each; none if that cannot be found out now. It
    /// ends within the time that a call to Redis may take.
    fn held(&self, hosts: Vec<HostKey>) -> BoxFuture<'_, Option<Vec<Held>>>;
}

impl Instances for Limiter {
    fn redis(&self) -> RedisState {
        match self.link().map(|link| link.state_name()) {
            None => RedisState::Off,
            Some("up") => RedisState::Up,
            Some("learning") => RedisState::Learning,
            Some(_) => RedisState::Away,
        }
    }

    fn held(&self, hosts: Vec<HostKey>) -> BoxFuture<'_, Option<Vec<Held>>> {
        Box::pin(async move {
            let fleets = self.fleets(hosts).await?;
            let held = |fleet: Fleet| Held { total: fleet.total, holders: fleet.holders };
            Some(fleets.into_iter().map(held).collect())
        })
    }
}

/// What the admin port may read.
#[derive(Debug)]
pub struct Sources {
    /// Slots.
    pub limiter: Limiter,
    /// APIs, and what their policies have learned.
    pub(crate) apis: Arc<ArcSwap<Apis>>,
    /// The policies' way to Redis.
    pub(crate) board: Board,
    /// Kept responses.
    pub(crate) tiers: Tiers,
    /// Circuits of CONNECT.
    pub(crate) connects: Option<Arc<Breakers>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether it serves.
    pub readiness: Arc<Readiness>,
    /// The access log, for the lines that it dropped.
    pub access: Log,
    /// The decision log, for the same.
    pub decisions: Decisions,
    /// Who reads the settings again.
    pub reload: Box<dyn Reload>,
    /// The other instances: a clone of the limiter, outside tests.
    pub instances: Box<dyn Instances>,
    /// As in [`Settings`].
    pub token: Option<Secret>,
    /// As in [`Settings`].
    pub hosts: Vec<Host>,
}

type Answer = Response<Full<Bytes>>;

/// Answers on `listener` until the future is dropped, which ends all connections too.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an answer on the admin port failed");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&sources)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the admin port");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, sources: Arc<Sources>) {
    let at = stream.local_addr().ok().map(|at| at.ip());
    let service = service_fn(|request| {
        let sources = Arc::clone(&sources);
        async move { Ok::<_, std::convert::Infallible>(answer(&sources, request, at).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEAD_FIELDS)
        // One request each: who scrapes once a minute would only hold one of few connections.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin port broke"),
        Err(_elapsed) => tracing::debug!("a connection to the admin port took too long"),
    }
}

async fn answer(sources: &Sources, request: Request<Incoming>, at: Option<IpAddr>) -> Answer {
    let uri = request.uri();
    let mut answer = match door::admit(&request, at, &sources.hosts) {
        Err(refusal) => *refusal,
        Ok(()) if uri.path() == reload::PATH => reload::ask(sources, request).await,
        Ok(()) if apis::is_deletable(uri.path()) => apis::delete(sources, request).await,
        Ok(()) if apis::quota::is_change(&request) => apis::quota::forget(sources, request).await,
        Ok(()) if uri.path().starts_with(limits::RULES) => limits::change(sources, request).await,
        Ok(()) => respond(sources, request.method(), uri.path(), uri.query()).await,
    };
    door::protect(answer.headers_mut());
    answer
}

async fn respond(sources: &Sources, method: &Method, path: &str, query: Option<&str>) -> Answer {
    if path.starts_with(apis::quota::CLIENTS) {
        return apis::quota::one(sources, path, query.unwrap_or("")).await;
    }
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        return problem(StatusCode::NOT_FOUND, "there is no such page; / lists those there are");
    };
    if method != Method::GET && method != Method::HEAD {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    // To a HEAD, hyper sends the length of the body and not the body.
    (endpoint.answer)(sources, query.unwrap_or("")).await
}

fn index<'a>(_: &'a Sources, _: &'a str) -> BoxFuture<'a, Answer> {
    let mut text = format!("narrows {}\n\n", env!("CARGO_PKG_VERSION"));
    for Endpoint { path, what, .. } in ENDPOINTS {
        text.extend([&format!("{path:<16}"), what, "\n"]);
    }
    ready(body(StatusCode::OK, "text/plain; charset=utf-8", text))
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    body(status, "application/json", value.to_string())
}

/// A refusal, as RFC 9457 has it.
fn problem(status: StatusCode, detail: &str) -> Answer {
    let value = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    body(status, "application/problem+json", value.to_string())
}

/// Percent-decoding (RFC 3986 §2.1); none if it is malformed or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::limit;

    /// Reads nothing again.
    #[derive(Debug)]
    struct Nobody;

    impl Reload for Nobody {
        fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Vec<String>>> {
            ready(Ok(Reloaded::default()))
        }
    }

    /// Sources of a narrows that counts alone, with this limit.
    pub(super) fn sources(limit: limit::rules::Limit) -> Sources {
        let settings = limit::Settings { default_limit: limit, ..limit::Settings::default() };
        let limiter = Limiter::local(settings);
        Sources {
            instances: Box::new(limiter.clone()),
            reload: Box::new(Nobody),
            limiter,
            apis: Arc::default(),
            board: Board::alone(),
            tiers: Tiers::alone(&crate::policy::cache::tiers::Settings::default()),
            connects: None,
            metrics: Arc::new(Metrics::new(1, false)),
            readiness: Arc::default(),
            access: Log::off(),
            decisions: Decisions::default(),
            token: None,
            hosts: Vec::new(),
        }
    }

    /// Status, kind and text of the answer to a GET.
    pub(super) async fn get(sources: &Sources, target: &str) -> (u16, String, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let answer = respond(sources, &Method::GET, path, Some(query)).await;
        let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_index_lists_every_endpoint_and_each_answers() {
        let sources = sources(1);
        sources.readiness.serving();
        let (_, _, index) = get(&sources, "/").await;
        for endpoint in ENDPOINTS {
            assert!(index.contains(endpoint.path) && index.contains(endpoint.what), "{index}");
            assert_eq!(get(&sources, endpoint.path).await.0, 200, "{}", endpoint.path);
        }
    }

    #[tokio::test]
    async fn another_page_or_method_is_a_problem_in_json() {
        let sources = sources(1);
        let (status, kind, text) = get(&sources, "/nowhere").await;
        assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["status"] == 404);

        let answer = respond(&sources, &Method::POST, "/hosts", None).await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[header::ALLOW], "GET, HEAD");
    }

    async fn said(listener: SocketAddr, request: &str) -> String {
        let mut stream = raw(listener).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[expect(clippy::disallowed_methods, reason = "a test's client")]
    async fn raw(listener: SocketAddr) -> TcpStream {
        TcpStream::connect(listener).await.unwrap()
    }

    #[tokio::test]
    async fn it_answers_on_a_socket_one_request_each() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(sources(1))));
        let answer = said(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n{\"status\":\"ok\"}"), "{answer}");
        let answer = said(address, "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.contains("content-length: 15\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = said(address, "nonsense\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        server.abort();
    }

    #[tokio::test]
    async fn every_answer_protects_browsers_and_lets_no_other_site_read_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(sources(1))));
        let mut wanted: Vec<(String, u16)> =
            ENDPOINTS.iter().map(|endpoint| (format!("GET {}", endpoint.path), 200)).collect();
        wanted.push(("GET /nothing".to_owned(), 404));
        wanted.push(("POST /hosts".to_owned(), 405));
        wanted.push(("OPTIONS /limits".to_owned(), 405));
        wanted.push(("PUT /limits/a.test".to_owned(), 403));
        wanted.push(("DELETE /circuit-status/a".to_owned(), 403));
        wanted.push(("DELETE /cool-downs/a/b".to_owned(), 403));
        wanted.push(("POST /-/reload".to_owned(), 403));
        for (begins, status) in wanted {
            for host in ["localhost", "evil.test"] {
                let fields = "Origin: http://evil.test\r\nAccess-Control-Request-Method: GET";
                let head = format!("{begins} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n");
                let answer = said(address, &head).await.to_ascii_lowercase();
                let status = if host == "localhost" { status } else { 421 };
                // It is not ready before it serves.
                let status = if begins == "GET /readyz" && status == 200 { 503 } else { status };
                assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{begins}: {answer}");
                for field in [
                    "x-content-type-options: nosniff",
                    "cache-control: no-store",
                    "content-security-policy: default-src 'none'",
                    "x-frame-options: deny",
                    "referrer-policy: no-referrer",
                    "cross-origin-resource-policy: same-origin",
                ] {
                    assert!(answer.contains(field), "{begins}: {field} is not in {answer}");
                }
                assert!(!answer.contains("access-control"), "{begins}: {answer}");
            }
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_431() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(sources(1))));
        let begins = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
        let long = format!("{begins}A: {}\r\n\r\n", "a".repeat(HEAD_SIZE));
        let many = format!("{begins}{}\r\n", "A: a\r\n".repeat(HEAD_FIELDS));
        for head in [long, many] {
            let answer = said(address, &head).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn silent_connections_are_bounded_and_end_with_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(sources(1))));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(raw(address).await);
        }
        let waiting = said(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tokio::pin!(waiting);
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, &mut waiting).await.is_err(), "one too many waits");
        silent.pop();
        assert!(waiting.await.starts_with("HTTP/1.1 200 "));
        server.abort();
        let mut byte = [0];
        assert_eq!(silent[0].read(&mut byte).await.unwrap_or(0), 0);
    }
}
