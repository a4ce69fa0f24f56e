//! Counters, gauges, histograms.
use std::time::Duration;

/// stub
#[derive(Debug, Default)]
pub struct Cells {}

/// stub
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum DialResult {
    Cancelled,
    DnsError,
    DnsTimeout,
    Ok,
    Other,
    Refused,
    Timeout,
    Tls,
    Unreachable,
}

/// stub
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Route {
    Connect,
    Forward,
    Own,
}

#[allow(missing_docs)]
impl Cells {
    pub fn client_opened(&self) {}
    pub fn client_closed(&self) {}
    pub fn answered(&self, _: Route, _: u16) {}
    pub fn sent(&self, _: u64) {}
    pub fn received(&self, _: u64) {}
    pub fn dialled(&self, _: DialResult, _: Duration) {}
    pub fn pooled(&self) {}
    pub fn unpooled(&self) {}
    pub fn reused(&self) {}
}
