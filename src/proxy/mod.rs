//! Requests: from a client's connection to an upstream's and back.

use std::time::Duration;

/// How narrows speaks with clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a client may take for a request's head.
    pub header_timeout: Duration,
    /// How long a client's connection may idle between requests.
    pub keep_alive_timeout: Duration,
    /// How long a tunnel may be without a byte in either direction.
    pub tunnel_idle_timeout: Duration,
    /// The name put into Via (RFC 9110 §7.6.3); none leaves the field out.
    pub via: Option<String>,
    /// The status of a refusal by the cap, 400 to 599.
    pub refuse_status: u16,
}
