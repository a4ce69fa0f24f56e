//! The far side: connections to where requests are bound for.

mod ahead;
pub(crate) mod conn;
pub(crate) mod dial;
pub mod egress;
pub(crate) mod exchange;
pub(crate) mod fetch;
pub(crate) mod held;
pub(crate) mod idle;
pub(crate) mod parent;
pub(crate) mod pool;
pub(crate) mod replay;
pub(crate) mod resolve;
pub(crate) mod screen;
pub(crate) mod shelf;
pub(crate) mod source;
pub(crate) mod tls;
pub(crate) mod upload;

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use thiserror::Error;

use self::conn::Conn;
use self::dial::DialError;
use self::dial::Dialer;
use self::dial::Errand;
use self::exchange::ExchangeError;
use self::exchange::Failed;
use self::exchange::Line;
use self::exchange::ResponseBody;
use self::pool::Keep;
use self::pool::Pool;
use self::pool::PoolKey;
use self::shelf::Shelf;
use self::tls::Tls;
use self::upload::RequestBody;
use crate::base::clock;
use crate::base::clock::Pulse;
use crate::limit::Limiter;
use crate::policy::Cause;
use crate::policy::End;
use crate::policy::parents::Hop;
use crate::telemetry::metrics::Cells;

/// How long a connection may have idled for a method that must not be sent twice: the shorter, the
/// less likely that the upstream is closing it at this moment.
const UNSAFE_IDLE: Duration = Duration::from_secs(1);

/// Who turns names into addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// This DNS server.
    Server(SocketAddr),
    /// The system (getaddrinfo).
    #[default]
    System,
}

/// A name that is not looked up, as curl's `--resolve`: `HOST=ADDR` or `HOST:PORT=ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The name.
    pub host: String,
    /// The port it holds for; all when none.
    pub port: Option<u16>,
    /// The addresses it has (more than one may be given, by more than one such entry).
    pub address: IpAddr,
}

/// How narrows reaches upstreams.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the first packet to an open connection, all addresses together.
    pub connect_timeout: Duration,
    /// For one look-up.
    pub dns_timeout: Duration,
    /// From the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// Without a byte in either direction of a running message.
    pub idle_timeout: Duration,
    /// How long a kept connection may idle.
    pub pool_idle: Duration,
    /// Kept connections per thread.
    pub pool_size: usize,
    /// Who turns names into addresses.
    pub resolver: Resolver,
    /// Names that are not looked up.
    pub pinned: Vec<Pinned>,
    /// What upstreams may do to us.
    pub bounds: Bounds,
    /// Where it may go.
    pub egress: egress::Settings,
    /// PEM files of certificate authorities trusted beside the system's.
    pub authorities: Vec<PathBuf>,
}

/// How far upstreams are let go, beside the times above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For a TLS handshake.
    pub tls_timeout: Duration,
    /// Addresses of a name that are tried, at least one; further ones are left.
    pub addresses: usize,
    /// Of responses.
    pub responses: screen::Bounds,
}

/// The far side as one thread sees it.
pub(crate) struct Upstream {
    dialer: Dialer,
    pool: Rc<Pool>,
    settings: Settings,
    cells: Arc<Cells>,
}

/// A response, and how it came about.
pub(crate) struct Sent {
    pub(crate) response: Response<ResponseBody>,
    /// It came on a kept connection.
    pub(crate) reused: bool,
    /// How long its slot was waited for.
    pub(crate) waited: Duration,
    /// Connections that were tried, kept ones too.
    pub(crate) attempts: u8,
}

/// Why a request got no response.
#[derive(Debug, Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// There was one, but no response on it.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

impl SendError {
    /// Whether nothing of the request has left.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            Self::Dial(_) => true,
            Self::Exchange(_) => false,
        }
    }

    /// What this says about the upstream.
    pub(crate) fn end(&self) -> End {
        End::Failed(match self {
            Self::Dial(error) => return error.end(),
            Self::Exchange(error) => match error {
                ExchangeError::Request => return End::Neutral,
                ExchangeError::TimedOut(_) => Cause::Timeout,
                ExchangeError::Closed
                | ExchangeError::Fault(_)
                | ExchangeError::Malformed(_)
                | ExchangeError::Upgrade => Cause::Reset,
            },
        })
    }

    /// How long a slot was waited for in vain.
    pub(crate) fn waited(&self) -> Duration {
        match self {
            Self::Dial(error) => error.waited(),
            Self::Exchange(_) => Duration::ZERO,
        }
    }
}

impl Upstream {
    /// The far side for thread number `thread` (from 0).
    pub(crate) fn new(
        thread: usize,
        limiter: Limiter,
        tls: Tls,
        settings: Settings,
        shelf: Arc<Shelf>,
        cells: Arc<Cells>,
    ) -> io::Result<Rc<Self>> {
        let dialer = Dialer::new(limiter, tls, &settings, Arc::clone(&cells))?;
        let (idle, size) = (settings.pool_idle, settings.pool_size);
        let pool = Pool::new(thread, idle, size, shelf, Arc::clone(&cells));
        Ok(Rc::new(Self { dialer, pool, settings, cells }))
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.settings.idle_timeout
    }

    pub(crate) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// A connection of its own, for a tunnel.
    pub(crate) async fn connect(&self, errand: Errand<'_>) -> Result<Conn, DialError> {
        self.dialer.tunnel(errand)?;
        let parent = errand.parent.map(Hop::of_tunnel);
        let errand = Errand { parent, ..errand };
        self.dialer.connect(errand).await
    }

    /// Sends a request on a kept connection or a new one.
    ///
    /// A request is sent a second time only if none of it had left, or if it may be repeated
    /// (RFC 9110 §9.2.2), had no body, and the kept connection ended without a byte of an answer
    /// (RFC 9112 §9.3.1).
    pub(crate) async fn send(
        &self,
        errand: Errand<'_>,
        mut request: Request<RequestBody>,
        pulse: &Rc<Pulse>,
    ) -> Result<Sent, SendError> {
        let inside = egress::is_inside(errand.client);
        let key = PoolKey {
            tls: errand.tls,
            inside,
            authority: errand.authority.clone(),
            parent: errand.parent.map(|hop| Arc::clone(hop.parent)),
        };
        let fresh = match errand.parent {
            // What it costs to come by a parent is worth more than that risk.
            Some(hop) => hop.terms.keepalive_timeout,
            None if request.method().is_safe() => self.settings.pool_idle,
            None => UNSAFE_IDLE,
        };
        if let (Some(hop), false) = (errand.parent, errand.tls) {
            parent::absolute(&mut request, errand.authority, hop.parent);
        }
        let timeout = errand.request_timeout.unwrap_or(self.settings.response_timeout);
        let mut attempts = 0;
        let mut own = None;
        let asked = clock::now();
        if self.dialer.has_shares() {
            // Before a kept connection is taken: while this waits, others may use that.
            own = Box::pin(self.dialer.share(errand)).await?;
        }
        let mut kept = self.pool.take(&key, fresh);
        if kept.is_none() && key.parent.is_some() {
            // PERF: boxed, as a dial is.
            kept = Box::pin(self.pool.fetch(&key, self.settings.bounds.responses)).await;
        }
        if let Some(mut line) = kept {
            self.cells.reused();
            if let Some(hop) = errand.parent {
                hop.reached();
            }
            attempts += 1;
            let waited = if own.is_some() { clock::now() - asked } else { Duration::ZERO };
            line.lend(own.take());
            let spare = spare(&request);
            match line.exchange(request, pulse, timeout).await {
                Ok((response, line)) => {
                    let response = self.carry(response, line, key, pulse);
                    return Ok(Sent { response, reused: true, waited, attempts });
                }
                Err(Failed { error, unsent, silent }) => {
                    let spare = spare.filter(|_| silent && matches!(error, ExchangeError::Closed));
                    let Some(again) = unsent.or(spare) else { return Err(self.give_up(error)) };
                    request = again;
                }
            }
        }
        // PERF: boxed, so that a request on a kept connection does not carry the room for a dial.
        let conn = match own {
            Some(share) => Box::pin(self.dialer.connect_with(Some(share), errand, asked)).await?,
            None => Box::pin(self.dialer.connect(errand)).await?,
        };
        let waited = conn.waited();
        attempts += conn.attempts();
        let mut line = Line::new(conn, self.settings.bounds.responses).await?;
        line.keep(errand.parent.map(|hop| Keep::of(hop.terms)));
        let (response, line) = line
            .exchange(request, pulse, timeout)
            .await
            .map_err(|failed| self.give_up(failed.error))?;
        let response = self.carry(response, line, key, pulse);
        Ok(Sent { response, reused: false, waited, attempts })
    }

    fn give_up(&self, error: ExchangeError) -> SendError {
        if let Some(bound) = error.bound() {
            self.cells.bounded(bound);
        }
        error.into()
    }

    fn carry(
        &self,
        response: Response<Incoming>,
        line: Line,
        key: PoolKey,
        pulse: &Rc<Pulse>,
    ) -> Response<ResponseBody> {
        let (pool, pulse) = (Rc::clone(&self.pool), Rc::clone(pulse));
        let idle_timeout = self.settings.idle_timeout;
        response.map(|incoming| ResponseBody::new(incoming, line, key, pool, pulse, idle_timeout))
    }
}

/// The same request again, if it may be sent twice.
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let bodiless = matches!(request.body(), RequestBody::Empty);
    (bodiless && request.method().is_idempotent()).then(|| {
        let mut spare = Request::new(RequestBody::Empty);
        *spare.method_mut() = request.method().clone();
        *spare.uri_mut() = request.uri().clone();
        *spare.headers_mut() = request.headers().clone();
        *spare.extensions_mut() = request.extensions().clone();
        spare
    })
}
