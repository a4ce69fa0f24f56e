//! One canonical line per request or tunnel.

use std::path::PathBuf;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// To a file, appended.
    File(PathBuf),
    /// Nowhere.
    #[default]
    Off,
    /// To standard error.
    Stderr,
    /// To standard output.
    Stdout,
}
