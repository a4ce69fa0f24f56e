//! API keys and tokens: who shows one is served and known by its name, on every route, and what was shown goes
//! no further.

mod program;
mod routes;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Request;
use narrows::App;
use narrows::Config;
use narrows::base::authority::Authority;
use narrows::policy::access::keys;
use narrows::policy::api::Forwarded;
use narrows::policy::api::Gateway;
use narrows::policy::api::Settings;
use narrows::policy::api::Target;
use tempfile::TempDir;

use crate::support::Client;
use crate::support::Http2;
use crate::support::Origin;

/// Two keys, as long as keys must be.
const ALICE: &str = "nk_alice-0123456789abcdef";
const BOB: &str = "nk_bob-0123456789abcdef";

/// A file of keys.
struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        File { _folder: folder, path }
    }

    /// Puts another text in its place, at once.
    fn replace(&self, text: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &self.path).unwrap();
    }
}

/// A line of one.
fn line(name: &str, key: &str, attributes: &str) -> String {
    let attributes: Vec<String> = attributes.split_whitespace().map(str::to_owned).collect();
    keys::line(name, key, &attributes).unwrap() + "\n"
}

/// The API `a` with these keys, whose target is the origin and which claims its host; all fields go on.
fn api(origin: &Origin, keys: &[String]) -> Settings {
    let mut settings = Settings::new("a");
    let authority = Authority::parse(&origin.authority(), None).unwrap();
    settings.target = Some(Target { tls: false, authority, path: String::new() });
    settings.hosts = vec![origin.authority().parse().unwrap()];
    settings.gateway = Gateway { forward_headers: Forwarded::All, ..Gateway::default() };
    let own = keys.iter().map(|line| line.trim().parse().unwrap()).collect();
    settings.keys = Some(keys::Settings { own, ..keys::Settings::default() });
    settings
}

/// narrows as a library, with one API.
struct Served {
    address: SocketAddr,
    _app: App,
}

impl Served {
    fn new(api: Settings) -> Served {
        Served::with(api, |_config| {})
    }

    fn with(api: Settings, change: impl FnOnce(&mut Config)) -> Served {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config.listen.threads = 1;
        config.admin = None;
        config.apis = vec![api];
        change(&mut config);
        let app = App::new(config).unwrap();
        app.start().unwrap();
        Served { address: app.proxy_addr().unwrap(), _app: app }
    }

    /// What a client with these fields at the gateway, and those at the proxy, is told by each route: the
    /// gateway, a host of the API, a tunnel to it, and the same by HTTP/2.
    async fn statuses(&self, origin: &Origin, gateway: &[&str], proxy: &[&str]) -> [u16; 6] {
        let client = async || Client::to(self.address).await;
        let http2 = async || Http2::to(self.address).await;
        let request = |method: &str, url: String, fields: &[&str]| {
            let mut request = Request::builder().method(method).uri(url);
            for field in fields {
                let (name, value) = field.split_once(": ").unwrap();
                request = request.header(name, value);
            }
            request.body(()).unwrap()
        };
        let url = format!("http://{}/api/a/x", self.address);
        let tunnel = http2().await.open(request("CONNECT", origin.authority(), proxy)).await;
        [
            client().await.request("GET", "/api/a/x", gateway).await.status(),
            client().await.request("GET", &origin.url("/x"), proxy).await.status(),
            client().await.connect_with(origin.authority(), proxy).await.status(),
            http2().await.request(request("GET", url, gateway), b"").await.status,
            http2().await.request(request("GET", origin.url("/x"), proxy), b"").await.status,
            tunnel.map_or_else(|answer| answer.status, |_tunnel| 200),
        ]
    }
}

/// Proxy-Authorization with this key as the password.
fn basic(key: &str) -> String {
    crate::support::users::field("anybody", key)
}
