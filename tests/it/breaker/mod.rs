//! Circuit breakers: one instance, CONNECT, a fleet.

mod connect;
mod fleet;
mod one;
mod script;

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::Client;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Response;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::wait_until;

/// A file of settings, there as long as this is.
struct File(tempfile::NamedTempFile);

impl File {
    /// One API for all that goes to the origin, with nothing but this breaker.
    fn of(origin: &Origin, breaker: &str) -> File {
        let authority = origin.authority();
        let policies = format!("circuit_breaker: {{{breaker}}}, cool_down: false");
        File::with(&format!("api: {{shop: {{hosts: ['{authority}'], {policies}}}}}"))
    }

    fn with(text: &str) -> File {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        File(file)
    }

    fn setup(&self) -> Setup {
        narrows().flags(format!("--config {}", self.0.path().display()))
    }
}

/// Asserts that a circuit refused it, and says after how many seconds it is to come again.
fn assert_open(answer: &Response) -> u64 {
    answer.assert_refused(503, "destination_unavailable");
    assert_eq!(answer.head.reason(), "circuit open");
    let after = answer.head.field("retry-after").unwrap().parse().unwrap();
    let told = format!("Please try again in {after} seconds");
    assert!(answer.json()["detail"].as_str().unwrap().contains(&told), "{answer:?}");
    after
}

/// Asks until an answer comes from the origin, which is the probe's.
async fn probe(proxy: SocketAddr, url: String) -> Response {
    loop {
        let answer = Client::to(proxy).await.get(&url).await;
        if answer.head.field("x-origin").is_some() {
            return answer;
        }
        assert_open(&answer);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn wait_until_hit(origin: &Origin, hits: usize) {
    wait_until(&format!("{hits} hits"), async || origin.hits() >= hits).await;
}

/// What the admin port says of the one circuit there is.
async fn circuit(proxy: &Proxy) -> serde_json::Value {
    let mut told = proxy.admin("/circuit-status").await.json();
    let circuits = told["circuits"].as_array_mut().unwrap();
    assert_eq!(circuits.len(), 1, "{circuits:?}");
    circuits.remove(0)
}

/// So many GETs at once, each on a connection of its own.
async fn crowd(proxy: &Proxy, url: &str, count: usize) -> Vec<Response> {
    let asking: Vec<_> = (0..count)
        .map(|_| {
            let (address, url) = (proxy.address, url.to_owned());
            tokio::spawn(async move { Client::to(address).await.get(url).await })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers
}
