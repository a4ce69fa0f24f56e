//! What narrows tells: the log, the access log, the metrics.

pub mod access;
pub mod metrics;
pub mod trace;
