//! The gateway: `/api/NAME/PATH` to the target of an API, as a client and an origin see it.

mod access;
mod answers;
mod bodies;
mod fields;
mod keys;
mod requests;
mod scenarios;
mod targets;

use std::net::SocketAddr;

use http::HeaderName;
use http::HeaderValue;
use narrows::App;
use narrows::Config;
use narrows::base::authority::Authority;
use narrows::policy::api::Gateway;
use narrows::policy::api::Settings;
use narrows::policy::api::Target;

use crate::support::Client;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::Response;

/// narrows as a library, with these APIs.
struct Served {
    address: SocketAddr,
    _app: App,
}

impl Served {
    fn new(apis: impl Into<Vec<Settings>>) -> Served {
        Served::with(apis, |_config| {})
    }

    fn with(apis: impl Into<Vec<Settings>>, change: impl FnOnce(&mut Config)) -> Served {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config.listen.threads = 1;
        config.admin = None;
        config.proxy.via = Some("gate".to_owned());
        config.apis = apis.into();
        change(&mut config);
        let app = App::new(config).unwrap();
        app.start().unwrap();
        Served { address: app.proxy_addr().unwrap(), _app: app }
    }

    async fn client(&self) -> Client {
        Client::to(self.address).await
    }

    async fn http2(&self) -> Http2 {
        Http2::to(self.address).await
    }

    /// A URL of this path, as over HTTP/2 a client names it.
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        self.client().await.get(path).await
    }

    async fn request(&self, method: &str, path: &str, fields: &[&str]) -> Response {
        self.client().await.request(method, path, fields).await
    }

    /// A POST with these fields beside Content-Length.
    async fn post(&self, path: &str, fields: &[&str], body: &[u8]) -> Response {
        let length = format!("Content-Length: {}", body.len());
        let mut client = self.client().await;
        client.send_request("POST", path, &[fields, &[&length]].concat()).await;
        client.try_send(body).await;
        client.response("POST").await
    }
}

/// The API `a`, whose target is this path of the origin.
fn api(origin: &Origin, base: &str) -> Settings {
    let mut settings = Settings::new("a");
    settings.target = Some(target(&origin.authority(), base));
    settings
}

fn target(authority: &str, base: &str) -> Target {
    let authority = Authority::parse(authority, None).unwrap();
    Target { tls: false, authority, path: base.to_owned() }
}

/// The same, with this done to its requests.
fn with(origin: &Origin, gateway: Gateway) -> Settings {
    Settings { gateway, ..api(origin, "") }
}

fn field(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}
