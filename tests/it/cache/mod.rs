//! The cache, as clients and origins see it.

mod defects;
mod fleet;
mod flights;
mod operating;
mod rfc9111;
mod scenarios;
mod stale;
mod wrap;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::support::Client;
use crate::support::Head;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Response;
use crate::support::Setup;
use crate::support::narrows;

/// An origin that answers as a test says, and counts.
struct Stage {
    origin: Origin,
    seen: Arc<Mutex<Vec<Head>>>,
}

impl Stage {
    /// `answer` gets the number of the request, from 1, its head and body; an answer of nothing closes
    /// the connection.
    fn new(answer: impl Fn(usize, &Head, &[u8]) -> String + Send + Sync + 'static) -> Stage {
        let seen = Arc::<Mutex<Vec<Head>>>::default();
        let (book, answer) = (Arc::clone(&seen), Arc::new(answer));
        let origin = Origin::raw(move |mut connection| {
            let (book, answer) = (Arc::clone(&book), Arc::clone(&answer));
            async move {
                while let Ok(Some(head)) = connection.head().await {
                    let Ok((body, _)) = connection.request_body(&head).await else { return };
                    let number = {
                        let mut seen = book.lock().unwrap();
                        seen.push(head.clone());
                        seen.len()
                    };
                    let text = answer(number, &head, &body);
                    let is_last = text.is_empty() || text.contains("Connection: close");
                    if connection.send(text).await.is_err() || is_last {
                        return;
                    }
                }
            }
        });
        Stage { origin, seen }
    }

    /// One that answers each request with these fields, and its number as the body.
    fn numbered(fields: &'static str) -> Stage {
        Stage::new(move |number, _, _| ok(fields, &number.to_string()))
    }

    fn hits(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }

    /// An instance whose API `a` has this origin as its target, a cache, and these keys (lines of YAML).
    fn setup(&self, keys: &str) -> (TempDir, Setup) {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("narrows.yaml");
        let mut text = format!("api:\n  a:\n    target_url: {}\n", self.origin.url(""));
        text.push_str("    enable_cache: true\n    forward_headers: true\n");
        for line in keys.lines() {
            text.push_str("    ");
            text.push_str(line.trim());
            text.push('\n');
        }
        std::fs::write(&path, text).unwrap();
        (folder, narrows().flags(format!("--config {}", path.display())))
    }

    async fn proxy(&self, keys: &str) -> Cached {
        let (folder, setup) = self.setup(keys);
        Cached { proxy: setup.start().await, _folder: folder, origin: self.origin.url("") }
    }

    async fn shared(&self, redis: &Redis, keys: &str) -> Cached {
        let (folder, setup) = self.setup(keys);
        let proxy = setup.shared(redis).start().await;
        proxy.wait_until_up().await;
        Cached { proxy, _folder: folder, origin: self.origin.url("") }
    }
}

/// An instance with a cache.
struct Cached {
    proxy: Proxy,
    _folder: TempDir,
    origin: String,
}

/// By which way a request comes.
#[derive(Clone, Copy, Debug)]
enum Route {
    Forward,
    Gateway,
}

impl Route {
    const BOTH: [Route; 2] = [Route::Forward, Route::Gateway];
}

impl Cached {
    fn url(&self, route: Route, path: &str) -> String {
        match route {
            Route::Forward => format!("{}{path}", self.origin),
            Route::Gateway => format!("/api/a{path}"),
        }
    }

    async fn client(&self) -> Client {
        self.proxy.client().await
    }

    async fn ask(&self, method: &str, path: &str, fields: &[&str]) -> Response {
        self.client().await.request(method, &self.url(Route::Gateway, path), fields).await
    }

    async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[]).await
    }

    async fn post(&self, path: &str, body: &str) -> Response {
        self.client().await.post(self.url(Route::Gateway, path), body.as_bytes()).await
    }
}

/// A 200 with these fields, each with its line end.
fn ok(fields: &str, body: &str) -> String {
    answer("200 OK", fields, body)
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nX-Origin: yes\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// What `X-Cache` says.
fn cache(response: &Response) -> &str {
    response.head.field("x-cache").unwrap_or("")
}

/// The member of `Cache-Status` that is narrows' own.
fn status(response: &Response) -> &str {
    response.head.all("cache-status").last().copied().unwrap_or("")
}
