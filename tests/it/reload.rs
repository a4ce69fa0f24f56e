//! Other settings while it runs: all of them or none, and nothing under way notices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::wait_until;

/// A config file that a test changes.
struct Settings {
    folder: TempDir,
    path: PathBuf,
}

impl Settings {
    fn new(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("narrows.yaml");
        fs::write(&path, text).unwrap();
        Settings { folder, path }
    }

    fn setup(&self) -> Setup {
        narrows().flags(format!("--config {}", self.path.display()))
    }

    /// As editors and careful programs do.
    fn replace(&self, text: &str) {
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, &self.path).unwrap();
    }
}

/// An API `a` at this origin, without anything that counts failures.
fn api(name: &str, origin: &Origin) -> String {
    format!(
        "  {name}: {{target_url: 'http://{}', circuit_breaker: false, cool_down: false}}\n",
        origin.authority()
    )
}

fn apis(all: &[(&str, &Origin)]) -> String {
    let all: String = all.iter().map(|(name, origin)| api(name, origin)).collect();
    format!("api:\n{all}")
}

async fn status(proxy: &Proxy, path: &str) -> u16 {
    proxy.get(path).await.status()
}

async fn wait_until_reloaded(proxy: &Proxy, result: &str, times: f64) {
    proxy.wait_until_metric("narrows_config_reloads_total", &[("result", result)], times).await;
}

#[tokio::test]
async fn a_changed_file_is_obeyed_by_itself_however_it_changes() {
    let origins = [Origin::start(), Origin::start(), Origin::start(), Origin::start()];
    let text = |at: usize| apis(&[("a", &origins[at])]);
    let settings = Settings::new(&text(0));
    let proxy = settings.setup().start().await;
    let goes_to = async |at: usize| {
        wait_until(&format!("requests go to origin {at}"), async || {
            let before = origins[at].hits();
            assert_eq!(status(&proxy, "/api/a/x").await, 200);
            origins[at].hits() > before
        })
        .await;
    };
    goes_to(0).await;
    // In place: truncated, then written.
    fs::write(&settings.path, text(1)).unwrap();
    goes_to(1).await;
    settings.replace(&text(2));
    goes_to(2).await;
    // And once more, since the file that was watched first is gone.
    settings.replace(&text(3));
    goes_to(3).await;
    fs::write(&settings.path, text(0)).unwrap();
    goes_to(0).await;
}

#[tokio::test]
async fn a_link_that_is_swapped_as_kubernetes_does_is_followed() {
    let (one, two) = (Origin::start(), Origin::start());
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, origin: &Origin| {
        let inner = folder.path().join(name);
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("narrows.yaml"), apis(&[("a", origin)])).unwrap();
        let beside = folder.path().join("..data_tmp");
        symlink(name, &beside).unwrap();
        fs::rename(beside, folder.path().join("..data")).unwrap();
    };
    put("..2026_one", &one);
    let path = folder.path().join("narrows.yaml");
    symlink(Path::new("..data/narrows.yaml"), &path).unwrap();
    let proxy = narrows().flags(format!("--config {}", path.display())).start().await;
    assert_eq!(status(&proxy, "/api/a/x").await, 200);
    assert_eq!((one.hits(), two.hits()), (1, 0));
    for (name, origin) in [("..2026_two", &two), ("..2026_three", &one)] {
        put(name, origin);
        wait_until("the other origin is asked", async || {
            let before = origin.hits();
            assert_eq!(status(&proxy, "/api/a/x").await, 200);
            origin.hits() > before
        })
        .await;
    }
}

#[tokio::test]
async fn a_hangup_brings_new_apis_and_takes_old_ones_away() {
    let origin = Origin::start();
    let settings = Settings::new(&apis(&[("a", &origin)]));
    let proxy = settings.setup().start().await;
    assert_eq!(status(&proxy, "/api/a/x").await, 200);
    assert_eq!(status(&proxy, "/api/b/x").await, 404);
    settings.replace(&apis(&[("b", &origin)]));
    proxy.hang_up();
    wait_until("b is there", async || status(&proxy, "/api/b/x").await == 200).await;
    assert_eq!(status(&proxy, "/api/a/x").await, 404);
    let told = proxy.stderr.wait_for(1, "settings were read again and are in force").await;
    assert!(told[0].contains("api.a removed") && told[0].contains("api.b added"), "{told:?}");
    assert_eq!(proxy.admin("/apis").await.json()["apis"][0]["name"], "b");
}

#[tokio::test]
async fn settings_that_are_wrong_change_nothing_and_are_loud() {
    let origin = Origin::start();
    let good = apis(&[("a", &origin)]);
    let settings = Settings::new(&good);
    let proxy = settings.setup().start().await;
    let is_good = async || proxy.metric("narrows_config_last_reload_successful", &[]).await > 0.5;
    assert!(is_good().await);
    assert_eq!(proxy.admin("/readyz?verbose").await.json()["settings"]["current"], true);
    let since = "narrows_config_last_reload_success_timestamp_seconds";
    let since = proxy.metric(since, &[]).await;
    assert!(since > 1.7e9, "{since}");

    // The API is gone from it, and two things are wrong: neither is to be seen in what is served.
    let bad = "max_connections: many\napi:\n  b: {target: 'http://a.test'}\n";
    settings.replace(bad);
    wait_until_reloaded(&proxy, "failed", 1.0).await;
    assert!(!is_good().await);
    assert_eq!(status(&proxy, "/api/a/x").await, 200);
    assert_eq!(status(&proxy, "/api/b/x").await, 404);
    let ready = proxy.admin("/readyz?verbose").await;
    assert_eq!((ready.status(), &ready.json()["settings"]["current"]), (200, &json!(false)));
    let lines = proxy.stderr.lines_with("narrows.yaml:");
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains(":1:")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains(":3:")), "{lines:?}");

    let told = proxy.admin_request("POST", "/-/reload", &[], "").await;
    let problems = told.json()["problems"].as_array().unwrap().clone();
    assert_eq!(told.status(), 422);
    for line in [":1:", ":3:"] {
        assert!(problems.iter().any(|told| told.as_str().unwrap().contains(line)), "{problems:?}");
    }

    settings.replace(&good);
    wait_until_reloaded(&proxy, "ok", 1.0).await;
    assert!(is_good().await);
}

#[tokio::test]
async fn nothing_under_way_notices_ten_reloads() {
    const SIZE: usize = 20_000_000;
    let (origin, echo) = (Origin::start(), Origin::echo());
    let text = |round: usize| {
        // What is asked has an API, and in each other round has none.
        let name = if round.is_multiple_of(2) { "a" } else { "other" };
        apis(&[(name, &origin)]) + &format!("limits: {{default: {}}}\n", 1 + round)
    };
    let settings = Settings::new(&text(0));
    let proxy = settings.setup().flags("--max-connections 100").start().await;
    let mut tunnel = proxy.tunnel(echo.authority()).await;
    let mut download = proxy.client().await;
    download.send_request("GET", &format!("/api/a/size?n={SIZE}"), &[]).await;
    let mut slow = proxy.client().await;
    slow.send_request("GET", "/api/a/slow?ms=2000", &[]).await;
    wait_until("all is under way", async || origin.hits() == 2).await;
    let head = download.head().await;
    assert_eq!(head.field("content-length"), Some(SIZE.to_string().as_str()));
    let mut body = Vec::new();
    for round in 1..=10 {
        settings.replace(&text(round));
        let told = proxy.admin_request("POST", "/-/reload", &[], "").await;
        assert_eq!(told.status(), 200, "{}", told.text());
        tunnel.echo(format!("round {round}")).await;
        body.extend(download.exactly(SIZE / 20).await);
    }
    body.extend(download.exactly(SIZE - SIZE / 20 * 10).await);
    assert!(body == pattern(SIZE), "the body is what was sent");
    assert_eq!(slow.response("GET").await.text(), "slow");
    tunnel.echo("still there").await;
    assert_eq!((proxy.open(&echo.authority()).await, echo.accepted()), (1, 1));
}

#[tokio::test]
async fn limits_are_obeyed_at_once_and_what_needs_a_restart_is_named() {
    let echo = Origin::echo();
    let settings = Settings::new("limits: {default: 1}\nqueue_timeout: 0s\nthreads: 1\n");
    let proxy = settings.setup().start().await;
    let _first = proxy.tunnel(echo.authority()).await;
    assert_eq!(proxy.connect(echo.authority()).await.status(), 503);
    settings.replace(&format!(
        "limits: {{default: 1, hosts: {{'{}': 2}}}}\nqueue_timeout: 1s\nthreads: 3\n\
         log_level: debug\nidentity_limit: ['*=7']\n",
        echo.authority()
    ));
    let told = proxy.admin_request("POST", "/-/reload", &[], "").await;
    assert_eq!(
        told.json(),
        json!({
            "changed": ["host-limit", "identity-limit", "log-level"],
            "needs_restart": ["threads", "queue-timeout"],
        })
    );
    let _second = proxy.tunnel(echo.authority()).await;
    proxy.stderr.wait_for(1, "needs a restart: threads").await;
    proxy.stderr.wait_for(1, "needs a restart: queue-timeout").await;
    proxy.stderr.wait_for(1, "DEBUG").await;
    // Nothing has changed since, but what needs a restart still does.
    let told = proxy.admin_request("POST", "/-/reload", &[], "").await.json();
    assert_eq!(told, json!({ "changed": [], "needs_restart": ["threads", "queue-timeout"] }));
}

#[tokio::test]
async fn a_reload_asks_for_the_token_if_there_is_one() {
    let settings = Settings::new("");
    let proxy = settings.setup().env("NARROWS_ADMIN_TOKEN", "open-sesame").start().await;
    for (fields, status) in [
        (&[][..], 401),
        (&["Authorization: Bearer open"], 401),
        (&["Authorization: Bearer open-sesame"], 200),
    ] {
        let told = proxy.admin_request("POST", "/-/reload", fields, "").await;
        assert_eq!(told.status(), status, "{fields:?}: {}", told.text());
    }
}

/// Defect A-20 of the gateway that this one replaces: thresholds were of the target, and those of
/// the first request for ever.
#[tokio::test]
async fn a_breaker_obeys_its_apis_settings_and_new_ones_at_once() {
    let origin = Origin::start();
    let text = |a: u32, b: u32| {
        let api = |name: &str, threshold: u32| {
            format!(
                "  {name}: {{target_url: 'http://{}', \
                 circuit_breaker: {{failure_threshold: {threshold}}}}}\n",
                origin.authority()
            )
        };
        format!("api:\n{}{}", api("a", a), api("b", b))
    };
    let settings = Settings::new(&text(3, 100));
    let proxy = settings.setup().start().await;
    for name in ["a", "b"] {
        for _ in 0..2 {
            assert_eq!(status(&proxy, &format!("/api/{name}/status/500")).await, 500);
        }
    }
    let circuits = proxy.admin("/circuit-status").await.json()["circuits"].clone();
    let failures: Vec<_> = circuits.as_array().unwrap().iter().map(|c| &c["failures"]).collect();
    assert_eq!(failures, [2, 2]);

    // Another threshold: what was learned stays, and both are counted against their own.
    settings.replace(&text(100, 3));
    assert_eq!(proxy.admin_request("POST", "/-/reload", &[], "").await.status(), 200);
    for _ in 0..2 {
        assert_eq!(status(&proxy, "/api/a/status/500").await, 500);
    }
    assert_eq!(status(&proxy, "/api/b/status/500").await, 500);
    assert_eq!(status(&proxy, "/api/b/status/500").await, 503);
    assert_eq!(origin.hits(), 7);
    let circuits = proxy.admin("/circuit-status").await.json()["circuits"].clone();
    let told: Vec<_> = circuits
        .as_array()
        .unwrap()
        .iter()
        .map(|c| json!([c["api"], c["state"], c["config"]["failure_threshold"]]))
        .collect();
    assert_eq!(told, [json!(["a", "CLOSED", 100]), json!(["b", "OPEN", 3])]);
}
