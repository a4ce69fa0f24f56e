//! Other settings while it runs: what can change is changed, what cannot is named.
//!
//! A whole new [`Config`] is there before anything is applied, so settings that are wrong change
//! nothing. Nothing under way is disturbed: a request keeps the state of its API that it began
//! with, a lowered limit closes nothing. What was set by the library's face since the last
//! settings stays, unless the new ones say something else than those did.
//!
//! Invariant: one reload at a time, and the settings that the next is compared with are those that
//! were applied last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use super::App;
use crate::admin;
pub use crate::admin::Reloaded;
use crate::config::Config;
use crate::config::Problems;
use crate::limit::Limiter;
use crate::policy::api;
use crate::policy::api::Apis;
use crate::policy::cache::tiers::Tiers;
use crate::store::board::Board;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace;

/// How the settings are read again.
type Reader = Box<dyn Fn() -> Result<Config, Problems> + Send + Sync>;

/// Reads settings again, and applies them.
pub(super) struct Reloader {
    limiter: Limiter,
    apis: Arc<ArcSwap<Apis>>,
    board: Board,
    tiers: Tiers,
    metrics: Arc<Metrics>,
    /// Those that were applied last.
    config: Mutex<Config>,
    reader: OnceLock<Reader>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

impl App {
    /// Puts these settings in the place of those it has, as far as they can change while it runs:
    /// the APIs with all their policies, limits, what identities may have, and the level of the
    /// program's log. Nothing under way is disturbed.
    ///
    /// ```
    /// let mut config = narrows::Config::default();
    /// let app = narrows::App::new(config.clone())?;
    /// config.limit.default_limit = 5;
    /// config.listen.address.set_port(1);
    /// let reloaded = app.reload(config);
    /// assert_eq!(reloaded.changed, ["max-connections"]);
    /// assert_eq!(reloaded.needs_restart, ["listen"]);
    /// # Ok::<(), narrows::app::Error>(())
    /// ```
    pub fn reload(&self, config: Config) -> Reloaded {
        self.reloader.reload(config)
    }

    /// Says how settings are read again, for [`App::reread`] and the admin port. The first who says
    /// so is obeyed; whether it was this one.
    pub fn reread_by(
        &self,
        read: impl Fn() -> Result<Config, Problems> + Send + Sync + 'static,
    ) -> bool {
        self.reloader.reader.set(Box::new(read)).is_ok()
    }

    /// Reads the settings again, as [`App::reread_by`] says, and applies them as [`App::reload`]. If
    /// anything is wrong with them, they are as they were; either way it is logged and counted.
    /// Blocks for as long as the reading takes.
    pub fn reread(&self) -> Result<Reloaded, Problems> {
        self.reloader.reread()
    }

    /// Puts these APIs in the place of all there are. What is under way goes on as it began, and
    /// what policies have learned of an API of the same name stays.
    pub fn set_apis(&self, settings: &[api::Settings]) {
        self.reloader.set_apis(&mut self.reloader.config(), settings);
    }
}

impl Reloader {
    pub(super) fn new(
        config: Config,
        limiter: Limiter,
        apis: Arc<ArcSwap<Apis>>,
        board: Board,
        tiers: Tiers,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (config, reader) = (Mutex::new(config), OnceLock::new());
        Self { limiter, apis, board, tiers, metrics, config, reader }
    }

    pub(super) fn reread(&self) -> Result<Reloaded, Problems> {
        // Held from the reading on: else of two the older could be applied last.
        let mut config = self.config();
        let read = self.reader.get().map_or_else(
            || Err(Problems(vec!["nobody has said how settings are read again".to_owned()])),
            |read| read(),
        );
        match read {
            Ok(new) => Ok(self.apply(&mut config, new)),
            Err(problems) => {
                drop(config);
                self.metrics.config_reloaded(false);
                for problem in &problems.0 {
                    tracing::error!("settings were read again and are wrong: {problem}");
                }
                tracing::error!(problems = problems.0.len(), "the former settings stay in force");
                Err(problems)
            }
        }
    }

    fn reload(&self, new: Config) -> Reloaded {
        self.apply(&mut self.config(), new)
    }

    fn apply(&self, config: &mut Config, new: Config) -> Reloaded {
        let needs_restart: Vec<String> =
            config.fixed_changes(&new).into_iter().map(str::to_owned).collect();
        let mut changed = self.change_apis(config, &new.apis);
        changed.extend(self.change_limits(config, &new).into_iter().map(str::to_owned));
        if config.trace.level != new.trace.level && trace::set_level(new.trace.level) {
            changed.push("log-level".to_owned());
        }
        let Config { apis, limit, trace, .. } = new;
        config.apis = apis;
        config.limit.default_limit = limit.default_limit;
        config.limit.rules = limit.rules;
        config.limit.identities = limit.identities;
        config.trace.level = trace.level;
        self.metrics.config_reloaded(true);
        for key in &needs_restart {
            tracing::warn!("needs a restart: {key}");
        }
        tracing::info!(?changed, "settings were read again and are in force");
        Reloaded { changed, needs_restart }
    }

    fn change_apis(&self, config: &mut Config, new: &[api::Settings]) -> Vec<String> {
        let by_name = |apis: &[api::Settings]| -> BTreeMap<Arc<str>, api::Settings> {
            apis.iter().map(|api| (Arc::clone(&api.name), api.clone())).collect()
        };
        let (old, all) = (by_name(&config.apis), by_name(new));
        let mut changed = Vec::new();
        for name in old.keys().filter(|name| !all.contains_key(*name)) {
            changed.push(format!("api.{name} removed"));
        }
        for (name, api) in &all {
            match old.get(name) {
                None => changed.push(format!("api.{name} added")),
                Some(former) if former != api => changed.push(format!("api.{name} changed")),
                Some(_) => {}
            }
        }
        // The order says who has a host that two claim.
        if config.apis != *new {
            self.set_apis(config, new);
        }
        changed
    }

    fn set_apis(&self, config: &mut Config, settings: &[api::Settings]) {
        let former = self.apis.load();
        self.apis.store(Arc::new(Apis::new(settings, &self.board, &self.tiers, Some(&former))));
        config.apis = settings.to_vec();
    }

    /// The flags of what has changed.
    fn change_limits(&self, config: &Config, new: &Config) -> Vec<&'static str> {
        let (old, new) = (&config.limit, &new.limit);
        let default = (old.default_limit != new.default_limit).then_some(new.default_limit);
        let rules = (old.rules != new.rules).then_some(&*new.rules);
        let identities = (old.identities != new.identities).then_some(&new.identities);
        let named = [
            default.map(|_| "max-connections"),
            rules.map(|_| "host-limit"),
            identities.map(|_| "identity-limit"),
        ];
        let changed: Vec<&str> = named.into_iter().flatten().collect();
        if !changed.is_empty() {
            self.limiter.set_own(default, rules, identities);
        }
        changed
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the admin port asks for.
#[derive(Debug)]
pub(super) struct ByAdmin(pub(super) Arc<Reloader>);

impl admin::Reload for ByAdmin {
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Vec<String>>> {
        let reloader = Arc::clone(&self.0);
        Box::pin(async move {
            // Files are read, and may be somewhere slow.
            let reread = tokio::task::spawn_blocking(move || reloader.reread()).await;
            match reread {
                Ok(reread) => reread.map_err(|problems| problems.0),
                Err(error) => Err(vec![error.to_string()]),
            }
        })
    }
}
