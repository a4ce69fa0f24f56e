//! What is told of APIs: on the admin port, in the metrics and in the access log.

use serde_json::Value;
use serde_json::json;

use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::parent::Parent;
use crate::support::wait_until;

/// narrows with this API `a`, which is at the origin.
async fn with(origin: &Origin, rest: &str, flags: &str) -> (tempfile::TempDir, Proxy) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("narrows.yaml");
    let text = format!("api: {{a: {{target_url: 'http://{}', {rest}}}}}\n", origin.authority());
    std::fs::write(&path, text).unwrap();
    let flags = format!("--config {} {flags}", path.display());
    let proxy = narrows().flags(flags).env("NARROWS_ADMIN_TOKEN", "sesame").start().await;
    (folder, proxy)
}

async fn requests(proxy: &Proxy, outcome: &str) -> u64 {
    number(proxy, "narrows_api_requests_total", &[("api", "a"), ("outcome", outcome)]).await
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
async fn number(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> u64 {
    proxy.metric(name, labels).await as u64
}

#[tokio::test]
async fn each_request_is_counted_once_by_what_its_client_got() {
    let origin = Origin::start();
    let rest = "circuit_breaker: {failure_threshold: 2}";
    let (_folder, proxy) = with(&origin, rest, "").await;
    proxy.get("/api/a/x").await;
    proxy.get("/api/a/status/404").await;
    for status in [500, 500, 503] {
        assert_eq!(proxy.get("/api/a/status/500").await.status(), status);
    }
    // Nobody's API, and it makes no label.
    proxy.get("/api/nobody/x").await;
    for (outcome, n) in [("success", 2), ("failure", 2), ("breaker_open", 1), ("client_left", 0)] {
        assert_eq!(requests(&proxy, outcome).await, n, "{outcome}");
    }
    for (result, n) in [("2xx", 1), ("4xx", 1), ("5xx", 2), ("reset", 0)] {
        let labels = [("api", "a"), ("result", result)];
        assert_eq!(number(&proxy, "narrows_api_attempts_total", &labels).await, n, "{result}");
    }
    assert_eq!(number(&proxy, "narrows_breaker_state", &[("api", "a")]).await, 2);
    let names: Vec<_> = proxy.metrics().await.into_iter().flat_map(|line| line.labels).collect();
    assert!(!names.iter().any(|(_, value)| value == "nobody"), "{names:?}");
}

#[tokio::test]
async fn what_the_gateway_refuses_itself_is_no_failure_of_the_api() {
    let origin = Origin::start();
    let (_folder, proxy) = with(&origin, "requires_body: true", "").await;
    assert_eq!(proxy.get("/api/a/x").await.status(), 400);
    assert_eq!((requests(&proxy, "bad_request").await, origin.hits()), (1, 0));
    assert_eq!(requests(&proxy, "failure").await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_one() {
    let origin = Origin::start();
    let (_folder, proxy) = with(&origin, "", "").await;
    let mut client = proxy.client().await;
    client.send_request("GET", "/api/a/slow?ms=60000", &[]).await;
    wait_until("it is asked", async || origin.hits() == 1).await;
    drop(client);
    wait_until("it is counted", async || requests(&proxy, "client_left").await == 1).await;
    assert_eq!(requests(&proxy, "failure").await, 0);
}

#[tokio::test]
async fn the_access_log_names_the_api_and_counts_the_attempts() {
    let origin = Origin::start();
    let rest = "retry: {max_attempts: 3, initial_delay: 10ms}";
    let (_folder, proxy) = with(&origin, rest, "--access-log stdout").await;
    proxy.get("/api/a/x").await;
    proxy.get("/api/a/status/500").await;
    let other = Origin::start();
    proxy.get(other.url("/x")).await;
    let lines = proxy.stdout.wait_for(3, "\"method\"").await;
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<Value> =
        lines.iter().map(|line| json!([line["api"], line["attempts"], line["status"]])).collect();
    assert_eq!(told[0], json!(["a", 1, 200]));
    assert_eq!(told[1], json!(["a", 3, 500]));
    assert_eq!(told[2], json!([null, null, 200]));
    assert_eq!(number(&proxy, "narrows_api_retries_total", &[("api", "a")]).await, 2);
    assert_eq!(requests(&proxy, "failure").await, 1);
}

#[tokio::test]
async fn the_access_log_names_the_parent_of_a_request_and_of_a_tunnel() {
    let (origin, parent) = (Origin::start(), Parent::start().await);
    let rest = format!("use_proxy: true, proxies: ['{}']", parent.url("user:cAnArY@"));
    let (_folder, proxy) = with(&origin, &rest, "--access-log stdout").await;
    proxy.get("/api/a/x").await;
    drop(proxy.tunnel(origin.authority()).await);
    let lines = proxy.stdout.wait_for(2, "\"method\"").await;
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        let told = json!([line["api"], line["attempts"], line["parent"]]);
        assert_eq!(told, json!(["a", 1, parent.url("")]), "{line}");
    }
    let labels = [("api", "a"), ("parent", &*parent.url(""))];
    assert_eq!(number(&proxy, "narrows_parent_requests_total", &labels).await, 2);
    let told = proxy.admin("/parents").await;
    assert_eq!(told.json()["apis"][0]["parents"][0]["parent"], parent.url(""));
    assert!(!told.text().contains("cAnArY"), "{}", told.text());
}

#[tokio::test]
async fn an_operator_closes_a_circuit_and_forgets_a_cool_down() {
    let origin = Origin::start();
    let rest =
        "circuit_breaker: {failure_threshold: 1, reset_timeout: 60}, cool_down: {scope: host}";
    let (_folder, proxy) = with(&origin, rest, "").await;
    let token = ["Authorization: Bearer sesame"];
    proxy.get("/api/a/status/500").await;
    assert_eq!(proxy.get("/api/a/x").await.status(), 503);
    let circuits = proxy.admin("/circuit-status").await.json();
    let circuit = &circuits["circuits"][0];
    assert_eq!((&circuit["state"], &circuit["failures"]), (&json!("OPEN"), &json!(1)));
    assert!((55..=60).contains(&circuit["time_to_reset"].as_u64().unwrap()), "{circuit}");
    assert!(circuit["last_failure_time"].as_u64().unwrap() > 1_700_000_000, "{circuit}");
    let told = proxy.admin_request("DELETE", "/circuit-status/a", &[], "").await;
    assert_eq!(told.status(), 401);
    let told = proxy.admin_request("DELETE", "/circuit-status/a", &token, "").await;
    assert_eq!(told.status(), 200, "{}", told.text());
    assert_eq!(proxy.get("/api/a/x").await.status(), 200);

    proxy.get("/api/a/status/429").await;
    let told = proxy.admin("/cool-downs").await.json();
    let name = told["cool_downs"][0]["name"].as_str().unwrap_or_else(|| panic!("{told}"));
    let path = format!("/cool-downs/a/{name}");
    assert_eq!(proxy.admin_request("DELETE", &path, &token, "").await.status(), 200);
    assert_eq!(proxy.admin("/cool-downs").await.json()["cool_downs"], json!([]));
}
