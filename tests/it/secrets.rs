//! Secrets stay where they are: canaries are planted wherever a secret can stand, and all that
//! narrows lets out is read.

use std::fmt::Write;

use crate::support::Certs;
use crate::support::Client;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::wait_until;

/// In each canary; the words around it say which secret got out.
const CANARY: &str = "cAnArY";
/// `user:cAnArY-basic`, as Basic credentials have it.
const BASIC: &str = "dXNlcjpjQW5BclktYmFzaWM=";

const FIELDS: [&str; 6] = [
    "Proxy-Authorization: Basic dXNlcjpjQW5BclktYmFzaWM=",
    "Authorization: Bearer cAnArY-bearer",
    "Cookie: session=cAnArY-cookie",
    "X-Api-Key: cAnArY-api-key",
    "Referer: http://a.test/?key=cAnArY-referer",
    "Prefer: wait=0, cAnArY-prefer=1",
];

/// All that came out so far, with where.
struct Heard(Vec<(String, String)>);

impl Heard {
    fn note(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn assert_no_canary(&self) {
        let mut leaks = String::new();
        for (place, text) in &self.0 {
            for line in text.lines().filter(|line| line.contains(CANARY) || line.contains(BASIC)) {
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
    for head in heads {
        let mut client = proxy.client().await;
        client.send(format!("{head}\r\n{fields}\r\nConnection: close\r\n\r\n")).await;
        if head.starts_with(&format!("CONNECT {good}")) {
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
    let mut heard = Heard(Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let (log, token) = (folder.path().join("access.log"), folder.path().join("token"));
    std::fs::write(&token, "cAnArY-admin-token\n").unwrap();
    let flags = format!(
        "--log-level trace --explain on --error-details on --access-log {} --admin-token-file {}",
        log.display(),
        token.display()
    );
    let mut proxy = setup.flags(flags).start().await;
    if redis.is_some() {
        proxy.wait_until_up().await;
    }
    use_it(&proxy, &mut heard).await;
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
async fn no_secret_gets_out_of_settings_that_are_refused() {
    let certs = Certs::new();
    let (cert, key) = certs.files("client", &["client.test"]);
    let pem = std::fs::read_to_string(&key).unwrap();
    let line = pem.lines().nth(1).unwrap().to_owned();
    let broken = key.with_file_name("broken.pem");
    std::fs::write(&broken, pem.replace("BEGIN", "BEGINN")).unwrap();
    let tls = |key: &std::path::Path| {
        let (cert, key) = (cert.display(), key.display());
        format!("--redis-addr 127.0.0.1:1 --redis-tls-cert {cert} --redis-tls-key {key}")
    };
    for flags in [
        "--redis-url http://user:cAnArY-url@h".to_owned(),
        "--redis-url redis://user:cAnArY-url@h:99999".to_owned(),
        "--redis-url redis://h --redis-password cAnArY --redis-password-file /nowhere".to_owned(),
        format!("--admin-token cAnArY{}", "x".repeat(600)),
        "--admin-token cAnArY --admin-token-file /nowhere".to_owned(),
        tls(&broken),
    ] {
        let ended = narrows().flags(&flags).run().await;
        assert_eq!(ended.code, Some(2), "{flags}: {}", ended.stderr);
        let told = ended.stdout + &ended.stderr;
        assert!(!told.contains("cAnArY") && !told.contains(&line), "{flags}: {told}");
    }
    let proxy =
        narrows().flags(tls(&key)).flags("--max-connections 1 --log-level trace").start().await;
    proxy.connect("127.0.0.1:1024").await.assert_refused(503, "proxy_internal_error");
    assert!(!proxy.stderr.text().contains(&line), "a key is in the log");
}
