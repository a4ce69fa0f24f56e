//! The library's face for limits: who may have how many connections, here and in the fleet.
//!
//! What is about the fleet is asked on the control thread, where Redis is spoken to; the caller
//! waits for it.

use std::sync::mpsc as blocking;
use std::time::Duration;

use futures_util::FutureExt;

use super::App;
use super::Error;
use crate::base::authority::HostKey;
use crate::limit::Limiter;
use crate::limit::rules::Limit;
use crate::limit::rules::Pattern;
use crate::limit::rules::Rule;
use crate::limit::rules::Scope;
use crate::limit::table;
use crate::limit::table::FleetLimits;

impl App {
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
}

/// How long a question about the fleet may take.
const FLEET_TIMEOUT: Duration = Duration::from_secs(2);

fn pattern(host: &str) -> Result<Pattern, Error> {
    host.parse().map_err(|why| Error::Host { text: host.to_owned(), why })
}

fn table_pattern(host: &str) -> Result<Pattern, Error> {
    Pattern::of_table(host).map_err(|why| Error::Host { text: host.to_owned(), why })
}
