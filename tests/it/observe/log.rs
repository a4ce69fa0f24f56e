//! The decision log: what it says of requests, and what it never says.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

/// An instance with a decision log, and a file of settings.
struct Logged {
    _folder: TempDir,
    log: PathBuf,
    proxy: Proxy,
}

impl Logged {
    async fn start(origin: &Origin, policies: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, log) = (folder.path().join("narrows.yaml"), folder.path().join("decided.log"));
        let authority = origin.authority();
        let text = format!("api: {{shop: {{hosts: ['{authority}'], {policies}}}}}");
        std::fs::write(&file, text).unwrap();
        let flags = format!("--config {} --decision-log {}", file.display(), log.display());
        let proxy = narrows().flags(flags).start().await;
        Self { _folder: folder, log, proxy }
    }

    /// The lines, once there are so many of this kind.
    async fn lines(&self, count: usize, kind: &str) -> Vec<Value> {
        let mut lines: Vec<Value> = Vec::new();
        wait_until(&format!("{count} lines about {kind}"), async || {
            let text = std::fs::read_to_string(&self.log).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            lines = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            // On a machine that is busy, a free slot is late too.
            lines.retain(|line| line["rule"] != "limit");
            lines.iter().filter(|line| line["kind"] == kind).count() >= count
        })
        .await;
        lines
    }
}

#[tokio::test]
async fn a_request_is_told_of_from_its_coming_to_its_end() {
    let origin = Origin::start();
    let policies = "circuit_breaker: {failure_threshold: 1}, cool_down: {scope: host}";
    let logged = Logged::start(&origin, policies).await;
    let mut client = logged.proxy.client().await;
    client.request("PUT", &origin.url("/status/500"), &[]).await;
    client.get(origin.url("/")).await.assert_refused(503, "destination_unavailable");
    let lines = logged.lines(2, "done").await;
    let told: Vec<String> = lines
        .iter()
        .map(|line| {
            let words = ["kind", "rule", "outcome", "status"].map(|key| line[key].to_string());
            words.join(" ").replace("null", "").replace('"', "").trim().to_owned()
        })
        .collect();
    assert_eq!(
        told,
        [
            "request",
            "attempt",
            "decision breaker admitted",
            "decision cool_down admitted",
            "end   500",
            "done   500",
            "request",
            "attempt",
            "decision breaker refused",
            "done   503",
        ]
    );
    let host = origin.authority();
    for (line, method) in [(&lines[0], "PUT"), (&lines[2], "PUT"), (&lines[8], "GET")] {
        assert_eq!(
            (&line["api"], &line["host"], &line["method"], &line["route"]),
            (&"shop".into(), &host.as_str().into(), &method.into(), &"forward".into()),
            "{line}"
        );
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    let refused = &lines[8];
    assert_eq!((&refused["mode"], &refused["key"]), (&"enforce".into(), &host.as_str().into()));
    assert_eq!((&refused["value"], &refused["limit"]), (&1.into(), &1.into()), "{refused}");
    assert!((29_000.0..=30_000.0).contains(&refused["wait_ms"].as_f64().unwrap()), "{refused}");
    assert!(lines.windows(2).all(|pair| pair[0]["at"].as_u64() <= pair[1]["at"].as_u64()));
    assert_ne!(lines[0]["id"], lines[9]["id"]);
}

#[tokio::test]
async fn what_is_observed_says_what_it_would_have_been() {
    let origin = Origin::start();
    let policies = "circuit_breaker: {failure_threshold: 1, mode: observe}, \
                    cool_down: {scope: host, mode: observe}";
    let logged = Logged::start(&origin, policies).await;
    for path in ["/status/429", "/status/500", "/"] {
        logged.proxy.get(origin.url(path)).await;
    }
    let lines = logged.lines(3, "done").await;
    let observed: Vec<_> = lines
        .iter()
        .filter(|line| line["outcome"] == "observed")
        .map(|line| {
            [&line["rule"], &line["would"], &line["mode"]].map(|word| word.as_str().unwrap())
        })
        .collect();
    assert_eq!(
        observed,
        [
            ["cool_down", "waited", "observe"],
            ["breaker", "refused", "observe"],
            ["cool_down", "waited", "observe"],
        ]
    );
}

#[tokio::test]
async fn no_credential_and_no_path_is_in_it() {
    let origin = Origin::start();
    let logged = Logged::start(&origin, "circuit_breaker: true").await;
    let mut client = logged.proxy.client().await;
    let fields = ["Authorization: Bearer hidden-one", "X-Api-Key: hidden-two"];
    for path in ["/status/429?hidden=three", "/hidden-four"] {
        client.request("GET", &origin.url(path), &fields).await;
    }
    let lines = logged.lines(2, "done").await;
    let text = std::fs::read_to_string(&logged.log).unwrap();
    assert!(!text.contains("hidden"), "{text}");
    let credentials: Vec<&str> =
        lines.iter().filter_map(|line| line["credential"].as_str()).collect();
    assert!(credentials.len() >= 2 && credentials[0].len() == 32, "{credentials:?}");
    assert!(credentials.iter().all(|other| *other == credentials[0]), "{credentials:?}");
}

#[tokio::test]
async fn a_tunnel_is_told_of_too_and_what_we_answer_ourselves_is_not() {
    let echo = Origin::echo();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("decided.log");
    let flags = format!("--decision-log {} --connect-breaker-failures 1", log.display());
    let proxy = narrows().flags(flags).start().await;
    proxy.client().await.get("/health").await;
    proxy.tunnel(echo.authority()).await.echo("through").await;
    let logged = Logged { _folder: folder, log, proxy };
    let lines = logged.lines(1, "done").await;
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["request", "attempt", "decision", "end", "done"]);
    assert_eq!((&lines[0]["route"], &lines[0]["method"]), (&"connect".into(), &"CONNECT".into()));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew_on_sighup() {
    let origin = Origin::start();
    let logged = Logged::start(&origin, "circuit_breaker: true").await;
    logged.proxy.get(origin.url("/")).await;
    logged.lines(1, "done").await;
    let moved = logged.log.with_extension("1");
    std::fs::rename(&logged.log, &moved).unwrap();
    logged.proxy.hang_up();
    logged.proxy.stderr.wait_for(1, "settings were read again").await;
    logged.proxy.get(origin.url("/")).await;
    wait_until("there is a file again", async || logged.log.exists()).await;
    let lines = logged.lines(1, "done").await;
    assert_eq!(lines[0]["kind"], "request");
    assert_eq!(std::fs::read_to_string(moved).unwrap().matches("\"done\"").count(), 1);
}
