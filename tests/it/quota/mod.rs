//! How often a client may ask an API, as clients, origins and operators see it.

mod admin;
mod clients;
mod fields;
mod fleet;
mod plans;
mod tiers;

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use crate::support::Client;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Response;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::wait_at_most;

/// A file with one API `a`, which has this origin and this quota.
struct File {
    folder: TempDir,
}

impl File {
    fn new(origin: &Origin, quota: &str) -> File {
        let file = File { folder: tempfile::tempdir().unwrap() };
        file.say(origin, quota);
        file
    }

    /// Puts another quota in the place of the one that it has.
    fn say(&self, origin: &Origin, quota: &str) {
        let authority = origin.authority();
        let text = format!(
            "api:\n  a: {{target_url: 'http://{authority}', circuit_breaker: false, \
             cool_down: false, quota: {quota}}}\n"
        );
        let beside = self.folder.path().join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.folder.path().join("narrows.yaml")).unwrap();
    }

    fn setup(&self) -> Setup {
        narrows().flags(format!("--config {}", self.folder.path().join("narrows.yaml").display()))
    }
}

/// An instance that is alone, with this quota.
async fn alone(origin: &Origin, quota: &str) -> (File, Proxy) {
    let file = File::new(origin, quota);
    let proxy = file.setup().start().await;
    (file, proxy)
}

/// A GET by the gateway.
async fn ask(proxy: &Proxy, fields: &[&str]) -> Response {
    proxy.client().await.request("GET", "/api/a/x", fields).await
}

/// The same from another address.
async fn ask_from(proxy: &Proxy, address: &str, fields: &[&str]) -> Response {
    Client::from(address, proxy.address).await.request("GET", "/api/a/x", fields).await
}

/// The statuses of so many in a row.
async fn statuses(proxy: &Proxy, times: usize, fields: &[&str]) -> Vec<u16> {
    let mut client = proxy.client().await;
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(client.request("GET", "/api/a/x", fields).await.status());
    }
    statuses
}

/// How many of so many in a row pass.
async fn passed(proxy: &Proxy, times: usize, fields: &[&str]) -> usize {
    statuses(proxy, times, fields).await.iter().filter(|status| **status == 200).count()
}

/// A refusal by this tier.
fn assert_over(response: &Response, tier: &str) {
    response.assert_refused(429, "http_request_error");
    let told = response.json();
    assert_eq!(told["code"], 429, "{response:?}");
    assert_eq!(told["msg"], format!("Request too frequent ({tier})"), "{response:?}");
    let after: u64 = response.head.field("retry-after").unwrap().parse().unwrap();
    assert!(after > 0, "{response:?}");
}

/// Waits until the window of the calendar that has so many seconds will last for some more.
async fn early_in(seconds: u64) {
    let margin = 3.min(seconds / 2);
    wait_at_most(Duration::from_secs(5), "a window that lasts a while", async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() % seconds + margin < seconds
    })
    .await;
}
