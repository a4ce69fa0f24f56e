//! What narrows tells: the log, the access log, the decision log, the metrics.

pub mod access;
pub mod decisions;
pub mod lines;
pub mod metrics;
pub(crate) mod rfc3339;
pub mod trace;
