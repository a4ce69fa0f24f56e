//! A serving thread: what it grows from, what it builds for itself, and how it drains.
//!
//! All that belongs to a connection stays on the thread that accepted it, so most of what is built
//! here is `Rc`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::base::clock;
use crate::config::Config;
use crate::limit::Limiter;
use crate::limit::Reclaim;
use crate::listen::Listener;
use crate::listen::accept;
use crate::listen::accept::Handed;
use crate::listen::accept::Threads;
use crate::listen::bounds::Clients;
use crate::listen::bounds::Files;
use crate::listen::drain::Drain;
use crate::listen::greet::Greeter;
use crate::listen::tls;
use crate::policy::access::Gate;
use crate::policy::api::Apis;
use crate::policy::breaker::Breakers;
use crate::proxy;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;
use crate::upstream::shelf::Shelf;
use crate::upstream::tls::Tls;

/// How often a draining thread looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What a serving thread grows from.
pub(super) struct Seed {
    pub(super) number: usize,
    pub(super) limiter: Limiter,
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) apis: Arc<ArcSwap<Apis>>,
    pub(super) connects: Option<Arc<Breakers>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Log,
    pub(super) decisions: Decisions,
    pub(super) tls: Tls,
    pub(super) shelf: Arc<Shelf>,
    pub(super) config: Config,
    pub(super) listeners: Vec<Listener>,
    pub(super) secure: Option<Arc<tls::Tls>>,
    pub(super) clients: Arc<Clients>,
    pub(super) files: Files,
    pub(super) view: Threads,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) deadline: watch::Receiver<Duration>,
}

impl Seed {
    /// Serves until the drain is over; whether all connections ended by themselves.
    pub(super) fn serve(
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
            self.shelf,
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
            connects: self.connects,
            upstream: Rc::clone(&upstream),
            cells,
            log: self.log,
            decisions: self.decisions,
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
