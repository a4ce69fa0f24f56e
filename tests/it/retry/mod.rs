//! What is tried again, how often and when, as the origin counts it.

mod bodies;
mod causes;
mod limits;
mod statuses;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::support::Head;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::narrows;

/// Retries that come fast, and any number of them.
const FAST: &str = "retry: {max_attempts: 3, initial_delay: 10ms, budget: 101}";

/// A proxy whose default API has these keys.
struct Retrying {
    proxy: Proxy,
    _folder: TempDir,
}

impl Deref for Retrying {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

async fn retrying(keys: &str) -> Retrying {
    retrying_with(narrows(), keys).await
}

async fn retrying_with(setup: Setup, keys: &str) -> Retrying {
    configured(setup, "narrows.yaml", &format!("api: {{default: {{{keys}}}}}\n")).await
}

async fn configured(setup: Setup, name: &str, text: &str) -> Retrying {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let proxy = setup.flags(format!("--config {}", file.display())).start().await;
    Retrying { proxy, _folder: folder }
}

/// What an origin does with a request.
#[derive(Clone, Debug)]
enum Step {
    /// Answers with these bytes.
    Say(String),
    /// The same, before it has read the body.
    SayEarly(String),
    /// Asks for the body with a 100 first.
    Continue(String),
    Reset,
    Close,
    /// Says nothing until it is left.
    Hang,
}

/// A response with a body of this status.
fn say(status: u16) -> Step {
    say_with(status, "", &format!("status {status}"))
}

fn say_with(status: u16, fields: &str, body: &str) -> Step {
    Step::Say(response(status, fields, body))
}

fn response(status: u16, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} So\r\nX-Origin: yes\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A request as the origin got it.
#[derive(Clone, Debug)]
struct Hit {
    at: Instant,
    head: Head,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default)]
struct Hits(Arc<Mutex<Vec<Hit>>>);

impl Hits {
    fn all(&self) -> Vec<Hit> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The time between each and the next.
    fn gaps(&self) -> Vec<Duration> {
        self.all().windows(2).map(|pair| pair[1].at - pair[0].at).collect()
    }
}

/// Does with each request, by whatever connection it comes, what the next step says; the last one
/// holds for all that follow.
fn scripted(steps: &[Step]) -> (Origin, Hits) {
    let (steps, hits) = (Arc::new(steps.to_vec()), Hits::default());
    let book = hits.clone();
    let origin = Origin::raw(move |mut connection| {
        let (steps, book) = (Arc::clone(&steps), book.clone());
        async move {
            while let Ok(Some(head)) = connection.head().await {
                let is_head = head.method() == "HEAD";
                let at = {
                    let mut hits = book.0.lock().unwrap();
                    let (at, body) = (Instant::now(), Vec::new());
                    hits.push(Hit { at, head: head.clone(), body, trailers: Vec::new() });
                    hits.len() - 1
                };
                let step = steps.get(at).or(steps.last()).unwrap().clone();
                if let Step::SayEarly(said) = &step {
                    connection.send(said).await.unwrap();
                    connection.end().await;
                    return;
                }
                if let Step::Continue(_) = &step {
                    connection.send("HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                }
                let Ok((body, trailers)) = connection.request_body(&head).await else { return };
                {
                    let mut hits = book.0.lock().unwrap();
                    (hits[at].body, hits[at].trailers) = (body, trailers);
                }
                match step {
                    Step::Say(said) | Step::SayEarly(said) | Step::Continue(said) => {
                        let said = match said.split_once("\r\n\r\n") {
                            Some((head, _)) if is_head => format!("{head}\r\n\r\n"),
                            _ => said,
                        };
                        if connection.send(said).await.is_err() {
                            return;
                        }
                    }
                    Step::Reset => return connection.reset(),
                    Step::Close => return,
                    Step::Hang => {
                        connection.end().await;
                        return;
                    }
                }
            }
        }
    });
    (origin, hits)
}
