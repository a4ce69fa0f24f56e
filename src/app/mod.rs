//! All of narrows, built from a [`Config`] and running on threads of its own.
//!
//! One thread per core serves clients, each with a runtime, a listening socket and a pool; one
//! more, the control thread, speaks to Redis and serves the admin port, so that no load delays a
//! heartbeat. Wiring only: nothing is decided here.

mod build;
mod circuits;
mod error;
mod file;
mod limits;
mod reload;
mod thread;

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use self::build::runtime;
pub use self::error::Error;
use self::file::Watch;
pub use self::reload::Reloaded;
use self::reload::Reloader;
use crate::admin;
use crate::config::Config;
use crate::limit::Limiter;
use crate::limit::Reclaim;
use crate::limit::shared;
use crate::listen::Listener;
use crate::policy::api::Apis;
use crate::policy::breaker::Breakers;
use crate::policy::cache::tiers::Tiers;
use crate::store::board::Board;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All that ran has ended by itself.
    Clean,
    /// Some connections were still open at the deadline, and were cut.
    Cut,
}

/// A proxy: built, then started, then stopped. `Send` and `Sync`; its threads are its own.
///
/// ```
/// use std::time::Duration;
///
/// use narrows::app::App;
/// use narrows::config::Config;
///
/// let mut config = Config::default();
/// config.listen.address = "127.0.0.1:0".parse()?; // port 0 picks one
/// config.admin = None;
/// config.limit.default_limit = 20;
///
/// let app = App::new(config)?;
/// app.set_host_limit("api.example.com", 5)?;
/// app.start()?;
/// println!("export HTTP_PROXY={}", app.proxy_url().expect("it runs"));
/// app.stop(Duration::from_secs(10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct App {
    config: Config,
    limiter: Limiter,
    apis: Arc<ArcSwap<Apis>>,
    connects: Option<Arc<Breakers>>,
    board: Board,
    tiers: Tiers,
    reloader: Arc<Reloader>,
    metrics: Arc<Metrics>,
    readiness: Arc<admin::Readiness>,
    stage: Mutex<Stage>,
    watch: Mutex<Option<Watch>>,
    /// Told when the proxy has stopped.
    stopped: watch::Sender<bool>,
}

/// What an app is at.
enum Stage {
    Built { ears: Vec<mpsc::UnboundedReceiver<Reclaim>> },
    Running(Running),
    Over,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built { .. } => "Built",
            Self::Running(_) => "Running",
            Self::Over => "Over",
        })
    }
}

struct Running {
    listeners: Vec<Listener>,
    admin: Option<SocketAddr>,
    draining: watch::Sender<bool>,
    /// When what runs is cut; told to the threads with the drain.
    deadline: watch::Sender<Duration>,
    threads: Vec<JoinHandle<bool>>,
    control: JoinHandle<()>,
    control_stop: oneshot::Sender<()>,
    control_handle: tokio::runtime::Handle,
    courier: Option<Courier>,
    log: Log,
    decisions: Decisions,
}

/// The thread that carries kept responses to Redis and back.
struct Courier {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl App {
    /// A proxy with these settings. Nothing is opened yet.
    pub fn new(config: Config) -> Result<Self, Error> {
        let threads = config.listen.threads.max(1);
        let link = config.shared.as_ref().map(shared::Link::new);
        let metrics = Arc::new(Metrics::new(threads, link.is_some()));
        let (limiter, ears) = Limiter::new(config.limit.clone(), link, threads);
        let board = config.shared.as_ref().zip(limiter.link()).map(|(settings, link)| {
            let link = Arc::clone(link);
            Board::new(&settings.store, move || link.instances())
        });
        let board = board.unwrap_or_else(Board::alone);
        let redis = config.shared.as_ref().map(|settings| &settings.store);
        let tiers = Tiers::new(&config.cache, redis, &board);
        let apis = Apis::new(&config.apis, &board, &tiers, None);
        let connects = config.proxy.connect_breaker.as_ref().map(|settings| {
            let timeout = config.upstream.dns_timeout + config.upstream.connect_timeout;
            Arc::new(Breakers::of_tunnels(settings.clone(), timeout, &board))
        });
        let apis = Arc::new(ArcSwap::from_pointee(apis));
        let reloader = Reloader::new(
            config.clone(),
            limiter.clone(),
            Arc::clone(&apis),
            board.clone(),
            tiers.clone(),
            Arc::clone(&metrics),
        );
        Ok(Self {
            config,
            limiter,
            reloader: Arc::new(reloader),
            apis,
            connects,
            board,
            tiers,
            metrics,
            readiness: Arc::default(),
            watch: Mutex::default(),
            stage: Mutex::new(Stage::Built { ears }),
            stopped: watch::Sender::new(false),
        })
    }

    /// Starts serving, on threads of its own; returns when the ports are open.
    pub fn start(&self) -> Result<(), Error> {
        let mut stage = self.stage();
        let Stage::Built { ears } = std::mem::replace(&mut *stage, Stage::Over) else {
            return Err(Error::Started);
        };
        *stage = Stage::Running(self.launch(ears)?);
        self.readiness.serving();
        Ok(())
    }

    /// Starts, and returns when some other thread has called [`App::stop`].
    pub fn serve(&self) -> Result<(), Error> {
        self.start()?;
        let mut stopped = self.stopped.subscribe();
        let runtime = runtime("a waiting thread")?;
        // The sender lives as long as `self`, so this ends by the stop alone.
        let _stopped = runtime.block_on(stopped.wait_for(|stopped| *stopped));
        Ok(())
    }

    /// Stops: no new connections, what runs may end within `deadline`, then the rest is cut and
    /// all slots are given back. Blocks until that is done; from async code call it on a thread
    /// where blocking is allowed.
    pub fn stop(&self, deadline: Duration) -> Stopped {
        let Stage::Running(running) = std::mem::replace(&mut *self.stage(), Stage::Over) else {
            return Stopped::Clean;
        };
        self.readiness.draining();
        running.deadline.send_replace(deadline);
        running.draining.send_replace(true);
        // A thread that panicked has dropped its connections, and with them their slots.
        let ended: Vec<bool> =
            running.threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
        // The control thread may have ended by itself; then there is nobody to tell.
        let _gone = running.control_stop.send(());
        if running.control.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        if let Some(Courier { stop, thread }) = running.courier {
            let _gone = stop.send(());
            if thread.join().is_err() {
                tracing::error!("the thread for kept responses panicked");
            }
        }
        running.log.close();
        running.decisions.close();
        self.stopped.send_replace(true);
        if ended.iter().all(|clean| *clean) { Stopped::Clean } else { Stopped::Cut }
    }

    /// Goes on in new files of the same names, if logs go to files: the former ones were moved away.
    pub fn reopen_logs(&self) {
        let _none_before_the_start = self.running(|running| {
            running.log.reopen();
            running.decisions.reopen();
        });
    }

    /// Where clients come in, in the order of the settings, with the ports that were picked; empty
    /// before the start and after the stop.
    pub fn listeners(&self) -> Vec<Listener> {
        self.running(|running| running.listeners.clone()).unwrap_or_default()
    }

    /// The address of the (first) proxy port; none before the start and after the stop.
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.listeners().first().map(|listener| listener.address)
    }

    /// The address of the admin port, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.running(|running| running.admin).flatten()
    }

    /// What a client's `HTTP_PROXY` would be, reachable from this machine; none before the start
    /// and after the stop. Of several, the first of [`App::proxy_urls`].
    pub fn proxy_url(&self) -> Option<String> {
        self.proxy_urls().into_iter().next()
    }

    /// The same of each of [`App::listeners`]; `https://` where clients speak TLS with the proxy.
    pub fn proxy_urls(&self) -> Vec<String> {
        self.listeners().into_iter().map(url).collect()
    }

    fn running<T>(&self, read: impl FnOnce(&Running) -> T) -> Option<T> {
        match &*self.stage() {
            Stage::Running(running) => Some(read(running)),
            Stage::Built { .. } | Stage::Over => None,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn url(listener: Listener) -> String {
    let Listener { mut address, tls } = listener;
    if address.ip().is_unspecified() {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    format!("{}://{address}", if tls { "https" } else { "http" })
}
