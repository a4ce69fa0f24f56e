//! Circuit breakers, for whoever runs narrows inside a program.

use std::sync::Arc;

use super::App;
use super::Error;
use crate::base::authority::HostKey;
use crate::policy::api::Circuits;
use crate::policy::breaker::Circuit;

impl App {
    /// All circuits, by API and host: `@connect` stands for CONNECT. Of hosts there are only those
    /// that failed of late.
    pub fn circuits(&self) -> Vec<Circuit> {
        self.all_circuits().all()
    }

    /// Closes the circuit of an API, or where each host has its own (`default`, `@connect`) that of
    /// a host, for the whole fleet; whether there is one.
    pub fn reset_circuit(&self, api: &str, host: Option<&str>) -> Result<bool, Error> {
        let parse = |text: &str| {
            HostKey::parse(text).map_err(|why| Error::Host { text: text.to_owned(), why })
        };
        let host = host.map(parse).transpose()?;
        Ok(self.all_circuits().reset(api, host.as_ref()))
    }

    /// The way to them.
    pub(super) fn all_circuits(&self) -> Circuits {
        Circuits { apis: Arc::clone(&self.apis), connects: self.connects.clone() }
    }
}
