//! Text to settings.

use std::time::Duration;

/// All settings of one narrows.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come in.
    pub listen: crate::listen::Settings,
    /// The limits.
    pub limit: crate::limit::Settings,
    /// Through Redis; none counts in memory.
    pub shared: Option<crate::limit::shared::Settings>,
    /// The far side.
    pub upstream: crate::upstream::Settings,
    /// The near side.
    pub proxy: crate::proxy::Settings,
    /// The admin port; none leaves it closed.
    pub admin: Option<crate::admin::Settings>,
    /// The log.
    pub trace: crate::telemetry::trace::Settings,
    /// The access log.
    pub access: crate::telemetry::access::Target,
    /// How long running requests may take to end after a stop.
    pub shutdown_timeout: Duration,
}
