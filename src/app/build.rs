//! How it starts: ports, files and threads, from settings that were found to be sound.
//!
//! Whatever cannot be had is told before anybody is served; what was opened by then closes again.

use std::io;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use super::App;
use super::Courier;
use super::Error;
use super::Running;
use super::reload::ByAdmin;
use super::thread::Seed;
use crate::admin;
use crate::base::clock;
use crate::limit::Reclaim;
use crate::limit::hosts;
use crate::limit::shared;
use crate::limit::table;
use crate::listen;
use crate::listen::accept::Threads;
use crate::listen::bounds::Clients;
use crate::listen::bounds::Files;
use crate::listen::tls;
use crate::policy::access::BadUsers;
use crate::policy::access::Gate;
use crate::policy::access::jwt::Jwks;
use crate::policy::api::entrances;
use crate::telemetry::access::Log;
use crate::telemetry::decisions::Decisions;
use crate::upstream::egress;
use crate::upstream::fetch::Document;
use crate::upstream::fetch::Fetcher;
use crate::upstream::shelf::Shelf;
use crate::upstream::tls::Tls;

impl App {
    pub(super) fn launch(
        &self,
        ears: Vec<mpsc::UnboundedReceiver<Reclaim>>,
    ) -> Result<Running, Error> {
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
        let decisions = Decisions::open(&config.decisions, self.board.prefix())
            .map_err(set_up("the decision log"))?;
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

        let courier = self.start_courier()?;
        let started = clock::now();
        let (control_stop, control, control_handle) = self.start_control(
            admin,
            (log.clone(), decisions.clone()),
            secure.clone(),
            gate.clone(),
            tls.clone(),
        )?;
        if let Some(settings) = &self.config.shared {
            // What the fleet has kept is there before anybody is served; without Redis, nothing is.
            let patience = settings.store.timeout * 2;
            while !self.tiers.is_ready() && clock::now() < started + patience {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let draining = watch::Sender::new(false);
        let deadline = watch::Sender::new(Duration::ZERO);
        let mut threads = Vec::new();
        let parts = Threads::new(bound.sockets.len()).into_iter().zip(bound.sockets).zip(ears);
        let kept = Arc::<Shelf>::default();
        for (number, (((view, handed), sockets), ear)) in parts.enumerate() {
            let runtime = runtime("a serving thread")?;
            let seed = Seed {
                number,
                limiter: self.limiter.clone(),
                gate: gate.clone(),
                apis: Arc::clone(&self.apis),
                connects: self.connects.clone(),
                metrics: Arc::clone(&self.metrics),
                log: log.clone(),
                decisions: decisions.clone(),
                tls: tls.clone(),
                shelf: Arc::clone(&kept),
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
            courier,
            log,
            decisions,
        })
    }

    /// The thread that carries kept responses to Redis and back, so that no body delays a heartbeat.
    fn start_courier(&self) -> Result<Option<Courier>, Error> {
        let shared = self.config.shared.as_ref().filter(|_| self.tiers.is_shared());
        let Some(store) = shared.map(|shared| shared.store.clone()) else { return Ok(None) };
        let runtime = runtime("the thread for kept responses")?;
        let (stop, stopping) = oneshot::channel::<()>();
        let run = self.tiers.clone().run(store);
        let carry = async move {
            tokio::select! {
                ended = run => if let Err(error) = ended {
                    tracing::error!(%error, "cannot speak to Redis of kept responses");
                },
                _ = stopping => {}
            }
        };
        let thread = std::thread::Builder::new().name("narrows-cache".to_owned());
        let thread = thread.spawn(move || runtime.block_on(carry));
        let thread = thread.map_err(set_up("the thread for kept responses"))?;
        Ok(Some(Courier { stop, thread }))
    }

    /// The thread beside the serving ones.
    fn start_control(
        &self,
        admin: Option<std::net::TcpListener>,
        (access, decisions): (Log, Decisions),
        secure: Option<Arc<tls::Tls>>,
        gate: Option<Arc<Gate>>,
        trusted: Tls,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>, tokio::runtime::Handle), Error> {
        let runtime = runtime("the control thread")?;
        let handle = runtime.handle().clone();
        let (stop, stopping) = oneshot::channel::<()>();
        let limiter = self.limiter.clone();
        let board = self.board.clone();
        let apis = Arc::clone(&self.apis);
        let upstream = self.config.upstream.clone();
        let shared = self.config.shared.clone().zip(limiter.link().map(Arc::clone));
        let patience = shared.as_ref().map(|(settings, _)| settings.store.timeout * 2);
        let (looked, first_look) = blocking::channel();
        let (metrics, watched) = (Arc::clone(&self.metrics), Arc::clone(&self.metrics));
        let sources = Arc::new(admin::Sources {
            limiter: limiter.clone(),
            board: self.board.clone(),
            tiers: self.tiers.clone(),
            apis: Arc::clone(&self.apis),
            connects: self.connects.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            access,
            decisions,
            reload: Box::new(ByAdmin(Arc::clone(&self.reloader))),
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
            match Fetcher::new(&upstream, trusted) {
                Ok(fetcher) => drop(tokio::spawn(entrances::tend(apis, fetch_by(fetcher)))),
                Err(error) => tracing::error!(%error, "keys of APIs are not looked at again"),
            }
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

/// Fetches key sets.
fn fetch_by(fetcher: Fetcher) -> impl Fn(Jwks) -> BoxFuture<'static, Result<String, String>> {
    const LONGEST: usize = 256 * 1024;
    let fetcher = Arc::new(fetcher);
    move |jwks: Jwks| {
        let fetcher = Arc::clone(&fetcher);
        Box::pin(async move {
            let document = Document {
                tls: jwks.url.tls,
                authority: &jwks.url.authority,
                path: &jwks.url.path,
                accept: "application/jwk-set+json, application/json",
                longest: LONGEST,
            };
            fetcher.get(document, jwks.timeout).await
        })
    }
}

fn bind_admin(settings: &admin::Settings) -> Result<std::net::TcpListener, Error> {
    let failed = |source| Error::Bind { address: settings.address, source };
    let listener = std::net::TcpListener::bind(settings.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

pub(super) fn runtime(what: &'static str) -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(set_up(what))
}

fn set_up_users(source: BadUsers) -> Error {
    Error::SetUp { what: "the users file", source: io::Error::other(source) }
}

pub(super) fn set_up(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::SetUp { what, source }
}
