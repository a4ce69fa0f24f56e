//! All of narrows, built from a [`Config`] and running on threads of its own.
//!
//! One thread per core serves clients, each with a runtime, a listening socket and a pool; one
//! more, the control thread, speaks to Redis and serves the admin port, so that no load delays a
//! heartbeat. Wiring only: nothing is decided here.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::admin;
use crate::base::authority::BadAuthority;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::config::Config;
use crate::limit::Limiter;
use crate::limit::Reclaim;
use crate::limit::hosts;
use crate::limit::rules::BadRule;
use crate::limit::rules::Limit;
use crate::limit::rules::Pattern;
use crate::limit::rules::Rule;
use crate::limit::rules::Scope;
use crate::limit::shared;
use crate::limit::table;
use crate::limit::table::FleetLimits;
use crate::listen;
use crate::listen::Listener;
use crate::listen::accept;
use crate::listen::accept::Handed;
use crate::listen::accept::Threads;
use crate::listen::bounds::Clients;
use crate::listen::bounds::Files;
use crate::listen::drain::Drain;
use crate::listen::greet::Greeter;
use crate::listen::tls;
use crate::policy::access::BadUsers;
use crate::policy::access::Gate;
use crate::policy::api;
use crate::policy::api::Apis;
use crate::proxy;
use crate::store::board::Board;
use crate::telemetry::access::Log;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;
use crate::upstream::egress;
use crate::upstream::tls::Tls;

/// Why narrows did not start, or could not be asked.
#[derive(Debug, Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A host or pattern that is none.
    #[error("{text:?} is not a host: {why}")]
    Host {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: BadAuthority,
    },
    /// A limit that cannot be, as one budget for a single host.
    #[error("{text:?} cannot have this limit: {why}")]
    Limit {
        /// The host.
        text: String,
        /// What is wrong with it.
        why: BadRule,
    },
    /// It runs already, or ran: an [`App`] starts once.
    #[error("it was started before")]
    Started,
    /// Something it needs cannot be had.
    #[error("cannot set up {what}: {source}")]
    SetUp {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// TLS with clients cannot be had with these files.
    #[error("cannot speak TLS with clients: {0}")]
    Tls(#[from] tls::BadFiles),
    /// The fleet's table of limits cannot be changed.
    #[error("cannot change the fleet's limits: {0}")]
    Table(#[from] table::Error),
}

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
    board: Board,
    metrics: Arc<Metrics>,
    readiness: Arc<admin::Readiness>,
    stage: Mutex<Stage>,
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
    log: Log,
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
        let apis = Apis::new(&config.apis, &board, None);
        Ok(Self {
            config,
            limiter,
            apis: Arc::new(ArcSwap::from_pointee(apis)),
            board,
            metrics,
            readiness: Arc::default(),
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
        running.log.close();
        self.stopped.send_replace(true);
        if ended.iter().all(|clean| *clean) { Stopped::Clean } else { Stopped::Cut }
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

    /// The limiter, for whoever takes slots beside the proxy.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Sets the limit of hosts without one of their own; 0 is unlimited. A lowered limit closes
    /// nothing: it holds for what comes.
    pub fn set_default_limit(&self, limit: Limit) {
        self.limiter.set_default_limit(limit);
    }

    /// Sets the limit of a host (`api.example.com`, `api.example.com:8443`, `*.example.com`); 0 is
    /// unlimited.
    pub fn set_host_limit(&self, host: &str, limit: Limit) -> Result<(), Error> {
        self.limiter.set_host_limit(pattern(host)?, limit);
        Ok(())
    }

    /// Puts these limits in the place of all there are for single hosts. Nothing changes if one of
    /// the hosts is none.
    pub fn set_host_limits<'a>(
        &self,
        limits: impl IntoIterator<Item = (&'a str, Limit)>,
    ) -> Result<(), Error> {
        let rules = limits
            .into_iter()
            .map(|(host, limit)| Ok(Rule::each(pattern(host)?, limit)))
            .collect::<Result<_, Error>>()?;
        self.limiter.set_host_limits(rules);
        Ok(())
    }

    /// Takes the limit of a host away, so that the next less exact one holds; whether it had one.
    pub fn remove_host_limit(&self, host: &str) -> Result<bool, Error> {
        Ok(self.limiter.remove_host_limit(&pattern(host)?))
    }

    /// The fleet's table of limits, as this instance obeys it: its version (0 is a table that nobody
    /// has made) and its rules, by pattern. Without Redis it is this process's own.
    pub fn fleet_limits(&self) -> FleetLimits {
        self.limiter.fleet_limits()
    }

    /// Sets the limit of a host (`api.example.com`, `api.example.com:8443`, `*.example.com`, and
    /// `default` or `*` for all others) for the whole fleet, above what each instance's own
    /// settings say; 0 is unlimited. A `*.example.com` can be [`Scope::Shared`]: one budget for all
    /// its hosts. The version of the table that holds it.
    ///
    /// This instance obeys it when this returns, the others within a second. Blocks for some calls
    /// to Redis; from async code call it where blocking is allowed, or use
    /// [`Limiter::set_fleet_limit`]. Errs for a host that is none, and with [`Error::Table`] while
    /// Redis is away or the proxy does not run; then nothing may have changed, or all.
    pub fn set_fleet_limit(&self, host: &str, limit: Limit, scope: Scope) -> Result<u64, Error> {
        let rule = Rule::new(table_pattern(host)?, limit, scope)
            .map_err(|why| Error::Limit { text: host.to_owned(), why })?;
        let limiter = self.limiter.clone();
        Ok(self.ask_control(async move { limiter.set_fleet_limit(rule).await })?)
    }

    /// Takes a host's limit out of the fleet's table, so that the next less exact one holds; the
    /// version of the table without it, none if there was no such limit. Blocks and errs as
    /// [`App::set_fleet_limit`].
    pub fn remove_fleet_limit(&self, host: &str) -> Result<Option<u64>, Error> {
        let pattern = table_pattern(host)?;
        let limiter = self.limiter.clone();
        Ok(self.ask_control(async move { limiter.remove_fleet_limit(pattern).await })?)
    }

    /// Connections to a host that are open or being dialled: of the fleet when shared (of this
    /// instance alone while Redis is away), without slots that are granted but unused; of all hosts
    /// that share its budget, if it shares one. Blocks for
    /// a call to Redis when shared; from async code call it where blocking is allowed.
    pub fn active_connections(&self, host: &str) -> Result<u32, Error> {
        let key = HostKey::parse(host).map_err(|why| Error::Host { text: host.to_owned(), why })?;
        let key = self.limiter.counted(&key);
        let here = self.limiter.open_here(&key);
        let Some(handle) = self.running(|running| running.control_handle.clone()) else {
            return Ok(here);
        };
        if !self.limiter.is_shared() {
            return Ok(here);
        }
        let (sender, fleet) = blocking::channel();
        let limiter = self.limiter.clone();
        handle.spawn(async move {
            // The asker may have given up.
            drop(sender.send(limiter.fleet(&key).await));
        });
        let fleet = fleet.recv_timeout(FLEET_TIMEOUT).ok().flatten();
        Ok(fleet.map_or(here, |fleet| fleet.total))
    }

    /// Runs a change of the fleet's table where Redis is spoken to.
    fn ask_control<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, table::Error>> + Send + 'static,
    ) -> Result<T, table::Error> {
        let handle = self.running(|running| running.control_handle.clone());
        let Some(handle) = handle.filter(|_| self.limiter.is_shared()) else {
            // Nobody is waited for: it is done, or cannot be, when it is polled first.
            return change.now_or_never().unwrap_or(Err(table::Error::Stopped));
        };
        let (sender, changed) = blocking::channel();
        handle.spawn(async move {
            // The asker may have given up.
            drop(sender.send(change.await));
        });
        changed.recv_timeout(FLEET_TIMEOUT).unwrap_or(Err(table::Error::Stopped))
    }

    /// Puts these APIs in the place of all there are. What is under way goes on as it began, and
    /// what policies have learned of an API of the same name stays.
    pub fn set_apis(&self, settings: &[api::Settings]) {
        let former = self.apis.load();
        self.apis.store(Arc::new(Apis::new(settings, &self.board, Some(&former))));
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

    fn launch(&self, ears: Vec<mpsc::UnboundedReceiver<Reclaim>>) -> Result<Running, Error> {
        let config = &self.config;
        let files = Files::raise();
        let clients = Clients::new(&config.listen, files);
        let secure = config.listen.tls.as_ref().map(tls::Tls::new).transpose()?.map(Arc::new);
        let bound = listen::bind(&config.listen)
            .map_err(|(address, source)| Error::Bind { address, source })?;
        let admin = config.admin.as_ref().map(bind_admin).transpose()?;
        let admin_address = admin.as_ref().and_then(|admin| admin.local_addr().ok());
        let mut config = config.clone();
        config.upstream.egress.own = egress::Own {
            proxy: bound.listeners.iter().map(|listener| listener.address).collect(),
            admin: admin_address.into_iter().collect(),
        };
        let log = Log::open(&config.access).map_err(set_up("the access log"))?;
        let tls = Tls::new(&config.upstream.authorities)
            .map_err(set_up("the certificate authorities"))?;

        let by_certificate = config.listen.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let needs_certificate = by_certificate.is_some_and(|clients| !clients.optional);
        let gate = Gate::new(&config.clients, needs_certificate).map_err(set_up_users)?;
        let open = bound.listeners.iter().find(|listener| !listener.address.ip().is_loopback());
        if let Some(gate) = &gate {
            self.limiter.set_users(&gate.traits());
        } else if let Some(open) = open {
            tracing::warn!(
                address = %open.address,
                "open to everybody who reaches it: give --proxy-auth, --allow-from, or client \
                 certificates by --tls-client-ca"
            );
        }

        let (control_stop, control, control_handle) =
            self.start_control(admin, log.clone(), secure.clone(), gate.clone())?;
        let draining = watch::Sender::new(false);
        let deadline = watch::Sender::new(Duration::ZERO);
        let mut threads = Vec::new();
        let parts = Threads::new(bound.sockets.len()).into_iter().zip(bound.sockets).zip(ears);
        for (number, (((view, handed), sockets), ear)) in parts.enumerate() {
            let runtime = runtime("a serving thread")?;
            let seed = Seed {
                number,
                limiter: self.limiter.clone(),
                gate: gate.clone(),
                apis: Arc::clone(&self.apis),
                metrics: Arc::clone(&self.metrics),
                log: log.clone(),
                tls: tls.clone(),
                config: config.clone(),
                listeners: bound.listeners.clone(),
                secure: secure.clone(),
                clients: Arc::clone(&clients),
                files,
                view,
                draining: draining.subscribe(),
                deadline: deadline.subscribe(),
            };
            let thread = std::thread::Builder::new().name(format!("narrows-{number}"));
            let serve = move || seed.serve(&runtime, sockets, handed, ear);
            threads.push(thread.spawn(serve).map_err(set_up("a serving thread"))?);
        }
        Ok(Running {
            listeners: bound.listeners,
            admin: admin_address,
            draining,
            deadline,
            threads,
            control,
            control_stop,
            control_handle,
            log,
        })
    }

    /// The thread beside the serving ones.
    fn start_control(
        &self,
        admin: Option<std::net::TcpListener>,
        access: Log,
        secure: Option<Arc<tls::Tls>>,
        gate: Option<Arc<Gate>>,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>, tokio::runtime::Handle), Error> {
        let runtime = runtime("the control thread")?;
        let handle = runtime.handle().clone();
        let (stop, stopping) = oneshot::channel::<()>();
        let limiter = self.limiter.clone();
        let board = self.board.clone();
        let shared = self.config.shared.clone().zip(limiter.link().map(Arc::clone));
        let patience = shared.as_ref().map(|(settings, _)| settings.store.timeout * 2);
        let (looked, first_look) = blocking::channel();
        let (metrics, watched) = (Arc::clone(&self.metrics), Arc::clone(&self.metrics));
        let sources = Arc::new(admin::Sources {
            limiter: limiter.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            access,
            instances: Box::new(limiter.clone()),
            token: self.config.admin.as_ref().and_then(|admin| admin.token.clone()),
            hosts: self.config.admin.as_ref().map_or_else(Vec::new, |admin| admin.hosts.clone()),
        });
        let run = async move {
            if let Some(listener) = admin {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(admin::serve(listener, sources))),
                    Err(error) => tracing::error!(%error, "cannot serve the admin port"),
                }
            }
            tokio::spawn(hosts::tend(limiter.clone()));
            if let Some(gate) = gate {
                let users = limiter.clone();
                let obey = move |traits| users.set_users(&traits);
                drop(tokio::spawn(gate.watch(watched, obey)));
            }
            if let Some(secure) = secure {
                let metrics = Arc::clone(&metrics);
                drop(tokio::spawn(secure.watch(move |well| metrics.tls_reloaded(well))));
            }
            let stopping = async { drop(stopping.await) };
            if let Some((settings, link)) = shared {
                let calls: shared::Calls = Arc::new(move |took, good| {
                    metrics.redis_called(took);
                    if !good {
                        metrics.redis_failed();
                    }
                });
                let limits =
                    tokio::spawn(table::run(limiter.clone(), settings.store.clone(), looked));
                let policies = tokio::spawn(board.run(settings.store.clone()));
                let run = shared::run(limiter, link, settings, calls, stopping);
                if let Err(error) = run.await {
                    tracing::error!(%error, "cannot speak to Redis");
                }
                limits.abort();
                policies.abort();
            } else {
                stopping.await;
            }
        };
        let thread = std::thread::Builder::new().name("narrows-control".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(run);
            // What a slow reader of the admin port still wants is not waited for.
            runtime.shutdown_background();
        });
        let thread = thread.map_err(set_up("the control thread"))?;
        if let Some(patience) = patience {
            // The fleet's limits are known before anybody is served; without Redis, the flags' are.
            let _known = first_look.recv_timeout(patience);
        }
        Ok((stop, thread, handle))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// How long a question about the fleet may take.
const FLEET_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a draining thread looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What a serving thread grows from.
struct Seed {
    number: usize,
    limiter: Limiter,
    gate: Option<Arc<Gate>>,
    apis: Arc<ArcSwap<Apis>>,
    metrics: Arc<Metrics>,
    log: Log,
    tls: Tls,
    config: Config,
    listeners: Vec<Listener>,
    secure: Option<Arc<tls::Tls>>,
    clients: Arc<Clients>,
    files: Files,
    view: Threads,
    draining: watch::Receiver<bool>,
    deadline: watch::Receiver<Duration>,
}

impl Seed {
    /// Serves until the drain is over; whether all connections ended by themselves.
    fn serve(
        self,
        runtime: &Runtime,
        sockets: Vec<std::net::TcpListener>,
        handed: mpsc::UnboundedReceiver<Handed>,
        ear: mpsc::UnboundedReceiver<Reclaim>,
    ) -> bool {
        let tasks = LocalSet::new();
        let number = self.number;
        let served = tasks.block_on(runtime, self.run(sockets, handed, ear));
        // Dropping the tasks resets what is still open, and frees its slots.
        drop(tasks);
        served.unwrap_or_else(|error| {
            tracing::error!(%error, thread = number, "a serving thread failed");
            false
        })
    }

    async fn run(
        self,
        sockets: Vec<std::net::TcpListener>,
        handed: mpsc::UnboundedReceiver<Handed>,
        ear: mpsc::UnboundedReceiver<Reclaim>,
    ) -> io::Result<bool> {
        let cells = self.metrics.thread(self.number);
        let upstream = Upstream::new(
            self.number,
            self.limiter.clone(),
            self.tls,
            self.config.upstream.clone(),
            Arc::clone(&cells),
        )?;
        tokio::task::spawn_local(Rc::clone(upstream.pool()).watch(ear));
        if let Some(mut losses) = self.limiter.losses() {
            let pool = Rc::clone(upstream.pool());
            tokio::task::spawn_local(async move {
                while losses.changed().await.is_ok() {
                    pool.clear();
                }
            });
        }
        let drain = Rc::<Drain>::default();
        let thread = Rc::new(proxy::Thread {
            limiter: self.limiter,
            gate: self.gate,
            apis: self.apis,
            upstream: Rc::clone(&upstream),
            cells,
            log: self.log,
            via: self.config.proxy.via.as_deref().and_then(proxy::Via::new),
            settings: self.config.proxy,
            greeter: Greeter::new(
                &self.config.listen,
                &self.listeners,
                self.secure.as_ref(),
                &self.clients,
            ),
            turned_away: proxy::TurnedAway::default(),
            load: self.view.load().clone(),
            drain: Rc::clone(&drain),
            authorities: RefCell::default(),
        });
        let mut draining = self.draining;
        let stop = async move {
            // Without a sender the app is gone, which is a stop too.
            let _stop = draining.wait_for(|draining| *draining).await;
        };
        let (view, files) = (self.view.clone(), self.files);
        // PERF: a task of its own, since the future that a runtime blocks on is polled each time
        // that anything at all has happened.
        let accepting = tokio::task::spawn_local(async move {
            let each = |arrival| proxy::admit(&thread, arrival);
            let scarce = || proxy::out_of_files(&thread);
            accept::accept(sockets, &view, files, handed, stop, each, scarce).await
        });
        accepting.await.map_err(io::Error::other)??;
        drain.begin();
        upstream.pool().clear();
        let deadline = clock::now() + *self.deadline.borrow();
        // A task that was spawned just now counts only once it has run.
        tokio::task::yield_now().await;
        while self.view.load().get() > 0 && clock::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK.min(deadline - clock::now())).await;
            upstream.pool().clear();
        }
        Ok(self.view.load().get() == 0)
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

fn bind_admin(settings: &admin::Settings) -> Result<std::net::TcpListener, Error> {
    let failed = |source| Error::Bind { address: settings.address, source };
    let listener = std::net::TcpListener::bind(settings.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn runtime(what: &'static str) -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(set_up(what))
}

fn set_up_users(source: BadUsers) -> Error {
    Error::SetUp { what: "the users file", source: io::Error::other(source) }
}

fn set_up(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::SetUp { what, source }
}

fn pattern(host: &str) -> Result<Pattern, Error> {
    host.parse().map_err(|why| Error::Host { text: host.to_owned(), why })
}

fn table_pattern(host: &str) -> Result<Pattern, Error> {
    Pattern::of_table(host).map_err(|why| Error::Host { text: host.to_owned(), why })
}
