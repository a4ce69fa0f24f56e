//! The gateway as its users know it from resilient-proxy-out: the real program, their file, curl.

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::Origin;
use crate::support::Parent;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::soon;

/// A file of settings.
struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(name: &str, text: &str) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        File { _folder: folder, path }
    }

    fn setup(&self) -> Setup {
        narrows().flags(format!("--config {}", self.path.display()))
    }
}

/// The example of resilient-proxy-out, as it stands there.
fn known(origin: &Origin, more: &str) -> File {
    let url = origin.url("");
    let text = format!(
        r#"[api.hyperliquid]
target_url="{url}"; method="POST"; requires_body=true; enable_cache=false; cache_ttl=60
cache_header_strategy="none"; proxy_strategy="subset"; proxy_subset_size=3
headers={{"Content-Type"="application/json", Accept="application/json"}}; forward_headers=false
circuit_breaker={{failure_threshold=5, reset_timeout=30, request_timeout=10000, success_threshold=2}}
retry={{max_attempts=3, initial_delay=1, max_delay=10, backoff_factor=2, retry_on_status=[500,502,503,504,429]}}
{more}"#
    );
    File::new("narrows.toml", &text)
}

/// What curl prints: the status, and then the body.
async fn curl(proxy: &Proxy, path: &str, words: &[&str]) -> (u16, Vec<u8>) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-w", "%{stderr}%{http_code}"]).args(words);
    command.arg(format!("{}{path}", proxy.url())).env_clear().stdin(Stdio::null());
    let output = soon("curl", command.output()).await.unwrap();
    let code = String::from_utf8(output.stderr).unwrap();
    (code.parse().unwrap_or_else(|_| panic!("{code}")), output.stdout)
}

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// C0.1, C0.2 of the scenarios.
#[tokio::test]
async fn a_post_arrives_with_its_body_and_default_fields_and_the_answer_untouched() {
    let origin = Origin::start();
    let proxy = known(&origin, "").setup().start().await;
    let (status, body) = curl(&proxy, "/health", &[]).await;
    assert_eq!(
        (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap()["status"].as_str()),
        (200, Some("ok"))
    );
    let sent = "{\"type\":\"x\", \"n\": 9007199254740993}";
    let words = [&JSON[..], &["-d", sent]].concat();
    let (status, body) = curl(&proxy, "/api/hyperliquid/echo", &words).await;
    assert_eq!((status, body.as_slice()), (200, sent.as_bytes()));
    let seen = origin.only();
    assert_eq!(seen.head.start, "POST /echo HTTP/1.1");
    assert_eq!(seen.body, sent.as_bytes());
    assert_eq!(seen.head.field("content-type"), Some("application/json"));
    assert_eq!(seen.head.field("accept"), Some("application/json"));
    assert_eq!(seen.head.field("host"), Some(&*origin.authority()));
    assert_eq!(seen.head.field("user-agent"), None);
    let (status, body) = curl(&proxy, "/api/nope/x", &[]).await;
    assert_eq!(status, 404);
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(told["detail"], "Unknown API: nope");
    assert_eq!(origin.hits(), 1);
}

/// C0.3.
#[tokio::test]
async fn a_body_that_is_missing_or_no_json_is_400_without_a_hit() {
    let origin = Origin::start();
    let proxy = known(&origin, "validate_json=true\n").setup().start().await;
    let missing = curl(&proxy, "/api/hyperliquid/info", &["-X", "POST"]).await;
    assert_eq!(missing.0, 400, "{missing:?}");
    let bad = curl(&proxy, "/api/hyperliquid/info", &[&JSON[..], &["-d", "{bad"]].concat()).await;
    assert_eq!(bad.0, 400, "{bad:?}");
    assert_eq!(origin.accepted(), 0);
    let words = [&JSON[..], &["--path-as-is", "-d", "{}"]].concat();
    for path in ["//x//y?b=2&a=1&b=2", "/a%2Fb", ""] {
        let asked = format!("/api/hyperliquid{path}");
        assert_eq!(curl(&proxy, &asked, &words).await.0, 200, "{asked}");
        let wanted = if path.is_empty() { "/" } else { path };
        assert_eq!(origin.seen().last().unwrap().head.target(), wanted);
    }
}

/// C0.4, in YAML.
#[tokio::test]
async fn forward_headers_in_a_file_is_a_switch_or_a_list() {
    let origin = Origin::start();
    let api = |name: &str, forward: &str| {
        format!(
            "  {name}:\n    target_url: {}/v1/\n    forward_headers: {forward}\n",
            origin.url("")
        )
    };
    let text = format!(
        "api:\n{}{}{}",
        api("none", "false"),
        api("some", "[X-API-KEY]"),
        api("all", "true")
    );
    let file = File::new("narrows.yaml", &text);
    let proxy = file.setup().start().await;
    let fields =
        ["-H", "X-API-KEY: k", "-H", "Cookie: c", "-H", "Connection: x-hop", "-H", "X-Hop: 1"];
    for (name, key, cookie) in
        [("none", None, None), ("some", Some("k"), None), ("all", Some("k"), Some("c"))]
    {
        assert_eq!(curl(&proxy, &format!("/api/{name}/x"), &fields).await.0, 200);
        let seen = origin.seen().pop().unwrap().head;
        assert_eq!(seen.target(), "/v1/x");
        assert_eq!((seen.field("x-api-key"), seen.field("cookie")), (key, cookie), "{name}");
        assert_eq!((seen.field("x-hop"), seen.field("host")), (None, Some(&*origin.authority())));
    }
}

#[tokio::test]
async fn a_key_from_the_file_reaches_the_api_and_no_log() {
    let origin = Origin::start();
    let text = format!(
        "api:\n  a:\n    target_url: {}\n    headers: {{Authorization: Bearer cAnArY}}\n",
        origin.url("")
    );
    let file = File::new("narrows.yaml", &text);
    let setup = file.setup().flags("--log-level trace --access-log stdout");
    let proxy = setup.start().await;
    assert_eq!(curl(&proxy, "/api/a/x", &[]).await.0, 200);
    assert_eq!(curl(&proxy, "/api/a/die", &[]).await.0, 502);
    assert_eq!(curl(&proxy, "/api/a/x", &["-X", "TRACE"]).await.0, 200);
    let keys: Vec<_> =
        origin.seen().iter().map(|seen| seen.head.all("authorization").join("")).collect();
    assert_eq!(keys[0], "Bearer cAnArY");
    assert_eq!(keys.last().unwrap(), "", "a TRACE would tell it");
    let lines = proxy.stdout.wait_for(3, "\"method\"").await;
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (line["target"].as_str(), line["host"].as_str()),
        (Some("/api/a/x"), Some(&*origin.authority()))
    );
    let labels = [("route", "gateway"), ("status_class", "2xx")];
    proxy.wait_until_metric("narrows_requests_total", &labels, 2.0).await;
    let all =
        [proxy.stdout.text(), proxy.stderr.text(), proxy.admin("/metrics").await.text().to_owned()];
    assert!(!all.concat().contains("cAnArY"));
}

#[tokio::test]
async fn a_sticky_key_is_what_the_client_sent_though_it_goes_no_further() {
    let (origin, one, other) = (Origin::start(), Parent::start().await, Parent::start().await);
    let text = format!(
        "api:\n  a:\n    target_url: {}\n    use_proxy: true\n    proxies: ['{}', '{}']\n    \
         proxy_strategy: sticky\n    proxy_sticky_key: header:X-User\n",
        origin.url(""),
        one.url(""),
        other.url("")
    );
    let proxy = File::new("narrows.yaml", &text).setup().start().await;
    for user in 0..12 {
        let before = one.hits();
        let field = format!("X-User: u{user}");
        for _ in 0..2 {
            assert_eq!(curl(&proxy, "/api/a/x", &["-H", &field]).await.0, 200);
        }
        let by_one = one.hits() - before;
        assert!(by_one == 0 || by_one == 2, "one parent for each user, {by_one} of 2 by the first");
    }
    assert!(one.hits() > 0 && other.hits() > 0, "not the same for all");
    assert!(origin.seen().iter().all(|seen| seen.head.all("x-user").is_empty()));
}
