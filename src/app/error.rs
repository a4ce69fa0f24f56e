//! Why narrows did not start, or could not be asked.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::base::authority::BadAuthority;
use crate::limit::rules::BadRule;
use crate::limit::table;
use crate::listen::tls;

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
    /// It runs already, or ran: an [`App`](super::App) starts once.
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
