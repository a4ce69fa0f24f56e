//! Secrets stay where they are: canaries are planted wherever a secret can stand, and all that
//! narrows lets out is read.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use rustls_pki_types::ServerName;

use crate::support::Certs;
use crate::support::Client;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Sentinel;
use crate::support::Setup;
use crate::support::Users;
use crate::support::Wire;
use crate::support::narrows;
use crate::support::soon;
use crate::support::users::field;
use crate::support::users::hash;
use crate::support::wait_until;

/// In each canary; the words around it say which secret got out.
const CANARY: &str = "cAnArY";
/// `user:cAnArY-basic`, as Basic credentials have it.
const BASIC: &str = "dXNlcjpjQW5BclktYmFzaWM=";

/// Who says whose connection it passes on.
const BALANCER: &str = "127.0.0.77";

const FIELDS: [&str; 6] = [
    "Proxy-Authorization: Basic dXNlcjpjQW5BclktYmFzaWM=",
    "Authorization: Bearer cAnArY-bearer",
    "Cookie: session=cAnArY-cookie",
    "X-Api-Key: cAnArY-api-key",
    "Referer: http://a.test/?key=cAnArY-referer",
    "Prefer: wait=0, cAnArY-prefer=1",
];

/// All that came out so far, with where; and what must not be in it.
struct Heard {
    told: Vec<(String, String)>,
    secrets: Vec<String>,
}

impl Heard {
    fn note(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.told.push((place.into(), text.into()));
    }

    fn assert_no_canary(&self) {
        let mut leaks = String::new();
        let leaks_in = |line: &&str| self.secrets.iter().any(|secret| line.contains(secret));
        for (place, text) in &self.told {
            for line in text.lines().filter(leaks_in) {
                writeln!(leaks, "{place}: {line}").unwrap();
            }
        }
        assert!(leaks.is_empty(), "secrets got out:\n{leaks}");
    }
}

/// Requests with secrets, good and bad; what the proxy itself answers is noted.
async fn use_it(proxy: &Proxy, heard: &mut Heard) {
    let (origin, closed) = (Origin::start(), Closed::new());
    let broken = Origin::raw(|mut connection| async move {
        if let Ok(Some(_)) = connection.head().await {
            let nonsense = "HTTP/1.1 cAnArY-line\r\nSet-Cookie: cAnArY-set-cookie\r\n\r\n";
            connection.send(nonsense).await.unwrap();
        }
    });
    let (good, gone) = (origin.authority(), closed.authority());
    let fields = FIELDS.join("\r\n");
    let heads = [
        format!("GET http://{good}/path?key=cAnArY-query#cAnArY-fragment HTTP/1.1\r\nHost: {good}"),
        format!("GET http://{good}/path?key=cAnArY-query HTTP/1.1\r\nHost: {good}"),
        format!("GET http://{gone}/path?key=cAnArY-query HTTP/1.1\r\nHost: {gone}"),
        format!("GET http://{}/path?key=cAnArY-query HTTP/1.1\r\nHost: h", broken.authority()),
        format!("GET http://user:cAnArY-userinfo@{good}/ HTTP/1.1\r\nHost: {good}"),
        format!("GET http://cAnArY-user@{good}/?key=cAnArY-query HTTP/1.1\r\nHost: {good}"),
        format!("GET ftp://user:cAnArY-userinfo@{good}/ HTTP/1.1\r\nHost: {good}"),
        "GET http://nowhere.invalid/?key=cAnArY-query HTTP/1.1\r\nHost: nowhere.invalid".to_owned(),
        "GET /health?key=cAnArY-query HTTP/1.1\r\nHost: narrows".to_owned(),
        "GET /origin-form?key=cAnArY-query HTTP/1.1\r\nHost: narrows".to_owned(),
        format!("CONNECT {good} HTTP/1.1\r\nHost: {good}"),
        format!("CONNECT {gone} HTTP/1.1\r\nHost: {gone}"),
        format!("CONNECT user:cAnArY-userinfo@{good} HTTP/1.1\r\nHost: {good}"),
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22".to_owned(),
        format!("GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\nBad Field: cAnArY-field"),
        format!("GET http://{good}/ HTTP/1.1\r\nHost: {good}\r\nX: cAnArY\0nul"),
        format!("GET http://{good}/ HTTP/9.9\r\nHost: {good}"),
        format!("cAnArY-method http://{good}/status/400 HTTP/1.1\r\nHost: {good}\r\nHost: b"),
        format!("POST http://{good}/ HTTP/1.1\r\nHost: {good}\r\nContent-Length: cAnArY"),
    ];
    let mut requests: Vec<_> = heads.into_iter().map(|head| (head, fields.clone())).collect();
    for head in [format!("GET http://{good}/ HTTP/1.1"), format!("CONNECT {good} HTTP/1.1")] {
        requests.push((format!("{head}\r\nHost: {good}"), field("user", "cAnArY-wrong")));
    }
    for (head, fields) in requests {
        let mut client = proxy.client().await;
        client.send(format!("{head}\r\n{fields}\r\nConnection: close\r\n\r\n")).await;
        if head.starts_with(&format!("CONNECT {good}")) && fields.contains(BASIC) {
            assert_eq!(client.head().await.status(), 200);
            continue;
        }
        let answer = client.rest().await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // What an origin says is its own.
        if answer.contains("Proxy-Status: narrows; error=") {
            heard.note(format!("the answer to {head:?}"), answer);
        }
    }
    // The same by HTTP/2, whose frames are logged by others.
    let target = format!("http://{good}/path?key=cAnArY-query");
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "--connect-to", &format!("::{}", proxy.address)]);
    for field in FIELDS {
        curl.args(["-H", field]);
    }
    let output = curl.arg(&target).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(origin.hits(), 2, "they were forwarded");
}

/// What comes before a request: TLS, and what a balancer says, good and bad.
async fn come_in(proxy: &Proxy, certs: &Certs, heard: &mut Heard) {
    let origin = Origin::start();
    let (to, fields) = (origin.authority(), FIELDS.join("\r\n"));
    let get = format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n{fields}");
    let get = format!("{get}\r\nConnection: close\r\n\r\n");
    let address: SocketAddr = proxy.listeners[1].strip_prefix("https://").unwrap().parse().unwrap();
    let stream = Client::to(address).await.into_stream();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = soon("TLS", certs.client(&[]).connect(name, stream)).await.unwrap();
    let mut client = Wire::new(stream);
    client.send(&get).await.unwrap();
    assert!(soon("an answer", client.rest()).await.unwrap().starts_with(b"HTTP/1.1 200 "));
    let mut client = Client::to(address).await;
    client.send("cAnArY-no-tls\r\n\r\n").await;
    let answer = client.rest().await.unwrap_or_default();
    heard.note("the answer to no TLS", String::from_utf8_lossy(&answer));

    for (header, is_sound) in [
        (passed_on(0x11), true),
        (passed_on(0x99), false),
        (b"PROXY TCP4 cAnArY-address 192.0.2.1 1 2\r\n".to_vec(), false),
        (b"cAnArY-no-header\r\n".to_vec(), false),
    ] {
        let mut client = Client::from(BALANCER, proxy.address).await;
        client.send(header).await;
        client.try_send(&get).await;
        let answer = client.rest().await.unwrap_or_default();
        assert_eq!(answer.starts_with(b"HTTP/1.1 200 "), is_sound);
    }
    assert_eq!(origin.hits(), 2, "they were forwarded");
}

/// A header of the PROXY protocol, version 2, with secrets behind the addresses.
fn passed_on(family: u8) -> Vec<u8> {
    let mut told = vec![127, 9, 9, 7, 192, 0, 2, 1, 0x30, 0x39, 0, 80];
    for (kind, value) in
        [(0x02, "cAnArY-authority"), (0x05, "cAnArY-unique-id"), (0xe0, "cAnArY-of-their-own")]
    {
        told.extend([kind, 0, u8::try_from(value.len()).unwrap()]);
        told.extend(value.as_bytes());
    }
    let length = u16::try_from(told.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &told].concat()
}

async fn ask_admin(proxy: &Proxy, heard: &mut Heard) {
    let token = "Authorization: Bearer cAnArY-admin-token";
    let wrong = "Authorization: Bearer cAnArY-wrong-token";
    for (method, path, field, body) in [
        ("PUT", "/limits/a.test", token, r#"{"limit":1}"#),
        ("PUT", "/limits/a.test", wrong, r#"{"limit":1}"#),
        ("DELETE", "/limits/b.test", "Authorization: Basic cAnArY-basic-token", ""),
        ("GET", "/", token, ""),
        ("GET", "/metrics", "Cookie: cAnArY", ""),
        ("GET", "/hosts", token, ""),
        ("GET", "/limits", token, ""),
        ("GET", "/healthz", token, ""),
        ("GET", "/readyz?verbose", token, ""),
        ("GET", "/nothing?key=cAnArY-query", token, ""),
    ] {
        let answer = proxy.admin_request(method, path, &[field], body).await;
        heard.note(format!("the admin port's {method} {path}"), format!("{answer:?}"));
        heard.note(format!("the admin port's {method} {path}"), answer.text());
    }
    let mut client = Client::to(proxy.admin.unwrap()).await;
    client.send("GET / HTTP/1.1\r\nHost: cAnArY.evil.test\r\n\r\n").await;
    heard.note("the admin port, misdirected", format!("{:?}", client.unchecked_response().await));
}

async fn hear_out(setup: Setup, redis: Option<&Redis>) {
    let (certs, users) = (Certs::new(), Users::new(&[]));
    let hash = hash("cAnArY-basic", 1);
    std::fs::write(&users.path, format!("user:{hash}\n")).unwrap();
    let (certificate, key) = certs.files("proxy", &["127.0.0.1"]);
    let mut secrets = vec![CANARY.to_owned(), BASIC.to_owned()];
    secrets.extend(hash.rsplit('$').take(2).map(str::to_owned));
    secrets.extend(field("user", "cAnArY-wrong").rsplit(' ').next().map(str::to_owned));
    secrets.extend(lines_of_key(&key));
    let mut heard = Heard { told: Vec::new(), secrets };
    let folder = tempfile::tempdir().unwrap();
    let (log, token) = (folder.path().join("access.log"), folder.path().join("token"));
    std::fs::write(&token, "cAnArY-admin-token\n").unwrap();
    let flags = format!(
        "--log-level trace --explain on --error-details on --access-log {} --admin-token-file {}",
        log.display(),
        token.display()
    );
    let come_in_by = format!(
        "--proxy-auth {} --tls-cert {} --tls-key {} --listen https://127.0.0.1:0 \
         --proxy-protocol-from {BALANCER}",
        users.path.display(),
        certificate.display(),
        key.display()
    );
    let mut proxy = setup.flags(flags).flags(come_in_by).start().await;
    if redis.is_some() {
        proxy.wait_until_up().await;
    }
    use_it(&proxy, &mut heard).await;
    come_in(&proxy, &certs, &mut heard).await;
    ask_admin(&proxy, &mut heard).await;
    if let Some(redis) = redis {
        let keys: Vec<String> = redis.ask("KEYS *").await;
        assert!(!keys.is_empty());
        for key in &keys {
            let dump: Vec<u8> = redis.ask(&format!("DUMP {key}")).await;
            heard.note(format!("Redis's {key}"), String::from_utf8_lossy(&dump));
        }
        heard.note("Redis's keys", keys.join("\n"));
    }
    let lines = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    wait_until("the access log is written", async || lines() > 10).await;
    proxy.terminate();
    proxy.ended().await;
    heard.note("stdout", proxy.stdout.text());
    heard.note("stderr", proxy.stderr.text());
    heard.note("the access log", std::fs::read_to_string(&log).unwrap());
    assert!(proxy.stderr.text().contains("TRACE"), "it told all it knows");
    heard.assert_no_canary();
}

/// The lines of a key in PEM that are the key.
fn lines_of_key(file: &Path) -> Vec<String> {
    let pem = std::fs::read_to_string(file).unwrap();
    let lines: Vec<String> = pem
        .lines()
        .filter(|line| line.len() > 30 && !line.contains("--"))
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty());
    lines
}

#[tokio::test]
async fn no_secret_gets_out_of_a_proxy_that_counts_alone() {
    hear_out(narrows(), None).await;
}

#[tokio::test]
async fn no_secret_gets_out_of_one_that_logs_in_at_redis_by_url() {
    let redis = Redis::with_password("cAnArY-redis").await;
    let url = format!("redis://:cAnArY-redis@{}", redis.address());
    hear_out(narrows().shared_by(&format!("--redis-url {url}")), Some(&redis)).await;
}

#[tokio::test]
async fn no_secret_gets_out_of_one_that_logs_in_at_redis_by_variable() {
    let redis = Redis::with_password("cAnArY-redis").await;
    let setup = narrows().shared(&redis).env("REDIS_PASSWORD", "cAnArY-redis");
    hear_out(setup, Some(&redis)).await;
}

#[tokio::test]
async fn no_secret_gets_out_of_one_that_logs_in_at_redis_by_file() {
    let redis = Redis::with_password("cAnArY-redis").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "cAnArY-redis\n").unwrap();
    let setup = narrows().shared(&redis);
    let setup = setup.flags(format!("--redis-password-file {}", file.display()));
    hear_out(setup, Some(&redis)).await;
}

#[tokio::test]
async fn no_secret_gets_out_of_one_that_logs_in_at_a_sentinel_by_file() {
    let redis = Sentinel::with_password("cAnArY-sentinel").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "cAnArY-sentinel\n").unwrap();
    let setup = narrows().shared_by(&redis.flags());
    let setup = setup.flags(format!("--redis-sentinel-password-file {}", file.display()));
    hear_out(setup, Some(&redis.servers[0])).await;
}

#[tokio::test]
async fn no_secret_gets_out_of_settings_that_are_refused() {
    let certs = Certs::new();
    let (cert, key) = certs.files("client", &["client.test"]);
    let pem = std::fs::read_to_string(&key).unwrap();
    let lines = lines_of_key(&key);
    let (broken, users) = (key.with_file_name("broken.pem"), key.with_file_name("users"));
    std::fs::write(&broken, pem.replace("BEGIN", "BEGINN")).unwrap();
    std::fs::write(&users, "user:cAnArY-in-the-clear\n").unwrap();
    let tls = |key: &Path| {
        let (cert, key) = (cert.display(), key.display());
        format!("--redis-addr 127.0.0.1:1 --redis-tls-cert {cert} --redis-tls-key {key}")
    };
    for flags in [
        "--redis-url http://user:cAnArY-url@h".to_owned(),
        "--redis-url redis://user:cAnArY-url@h:99999".to_owned(),
        "--redis-url redis://h --redis-password cAnArY --redis-password-file /nowhere".to_owned(),
        format!("--admin-token cAnArY{}", "x".repeat(600)),
        "--admin-token cAnArY --admin-token-file /nowhere".to_owned(),
        "--redis-sentinels h --redis-sentinel-password cAnArY \
         --redis-sentinel-password-file /nowhere"
            .to_owned(),
        tls(&broken),
        format!("--tls-cert {} --tls-key {}", cert.display(), broken.display()),
        format!("--proxy-auth {}", users.display()),
    ] {
        let ended = narrows().flags(&flags).run().await;
        assert_eq!(ended.code, Some(2), "{flags}: {}", ended.stderr);
        let told = ended.stdout + &ended.stderr;
        let is_told = |secret: &String| told.contains(secret.as_str());
        assert!(!told.contains(CANARY) && !lines.iter().any(is_told), "{flags}: {told}");
    }
    let proxy =
        narrows().flags(tls(&key)).flags("--max-connections 1 --log-level trace").start().await;
    proxy.connect("127.0.0.1:1024").await.assert_refused(503, "proxy_internal_error");
    let told = proxy.stderr.text();
    assert!(!lines.iter().any(|line| told.contains(line)), "a key is in the log");
}
