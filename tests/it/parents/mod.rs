//! Parents: which of them requests and tunnels go by, judged by what parents and origins saw.

mod credentials;
mod failures;
mod fleet;
mod kept;
mod program;
mod strategies;
mod tunnels;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use narrows::App;
use narrows::Config;
use narrows::base::authority::Authority;
use narrows::limit::shared;
use narrows::policy::api;
use narrows::policy::parents::Settings;
use narrows::policy::parents::Strategy;

use crate::support::Certs;
use crate::support::Client;
use crate::support::Parent;
use crate::support::Redis;
use crate::support::Response;

/// `user:secret`, as Basic credentials have it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A narrows in this process, whose default API has parents.
struct Gate {
    app: Option<App>,
    address: SocketAddr,
}

impl Gate {
    async fn start(settings: Settings) -> Gate {
        Gate::with(settings, |_| {}).await
    }

    /// By these parents, each in its turn.
    async fn by(parents: &[&Parent]) -> Gate {
        Gate::start(plain(parents)).await
    }

    #[expect(clippy::unused_async, reason = "whatever starts in a test is waited for")]
    async fn with(settings: Settings, change: impl FnOnce(&mut Config)) -> Gate {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config.listen.threads = 2;
        config.admin = None;
        config.apis = vec![default_api(settings)];
        change(&mut config);
        let app = App::new(config).unwrap();
        app.start().unwrap();
        let address = app.proxy_addr().unwrap();
        Gate { app: Some(app), address }
    }

    fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    async fn client(&self) -> Client {
        Client::to(self.address).await
    }

    /// One GET on a connection of its own.
    async fn get(&self, url: impl std::fmt::Display) -> Response {
        self.client().await.get(url).await
    }

    async fn get_with(&self, url: &str, field: &str) -> Response {
        self.client().await.request("GET", url, &[field]).await
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // What it waits for is other threads alone, and not for long.
        if let Some(app) = self.app.take() {
            app.stop(Duration::ZERO);
        }
    }
}

fn default_api(settings: Settings) -> api::Settings {
    api::Settings { parents: Some(settings), ..api::Settings::new(api::DEFAULT) }
}

fn plain(parents: &[&Parent]) -> Settings {
    let list = parents.iter().map(|parent| of(parent, None)).collect();
    Settings { list, ..Settings::default() }
}

fn by(strategy: Strategy, parents: &[&Parent]) -> Settings {
    Settings { strategy, ..plain(parents) }
}

/// What narrows knows of a parent.
fn of(
    parent: &Parent,
    authorization: Option<&'static str>,
) -> Arc<narrows::policy::parents::Parent> {
    Arc::new(narrows::policy::parents::Parent {
        name: parent.url("").into(),
        tls: parent.url("").starts_with("https"),
        authority: Authority::parse(&parent.address().to_string(), None).unwrap(),
        authorization: authorization.map(|value| {
            let mut value = HeaderValue::from_static(value);
            value.set_sensitive(true);
            value
        }),
        weight: 1,
    })
}

async fn three() -> [Parent; 3] {
    [Parent::start().await, Parent::start().await, Parent::start().await]
}

fn hits(parents: &[Parent]) -> Vec<usize> {
    parents.iter().map(Parent::hits).collect()
}

fn trusting(certs: &Certs) -> impl FnOnce(&mut Config) {
    let file = certs.file();
    move |config| config.upstream.authorities.push(file)
}

fn sharing(redis: &Redis) -> impl FnOnce(&mut Config) {
    let url = format!("redis://{}", redis.address());
    move |config| {
        let mut settings = shared::Settings::new(url);
        settings.store.timeout = Duration::from_secs(1);
        config.shared = Some(settings);
    }
}
