//! Logs: with `LOG_LEVEL=debug` a connection tracker; refusals counted; one access line per request.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::Closed;
use crate::support::Origin;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_until;

/// A field of a line in JSON, wherever the format puts it.
fn field(line: &str, name: &str) -> Value {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let value = line["fields"].get(name).or(line.get(name));
    value.unwrap_or_else(|| panic!("no {name}: {line}")).clone()
}

/// The same as text, whether it is written as a number or as a string.
fn text(line: &str, name: &str) -> String {
    let value = field(line, name);
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(line: &str, name: &str) -> u64 {
    text(line, name).parse().unwrap_or_else(|_| panic!("{name} is no number: {line}"))
}

#[tokio::test]
async fn each_tunnel_is_one_line_at_its_start_and_one_at_its_end() {
    let origin = Origin::raw(|mut connection| async move {
        connection.exactly(5).await.unwrap();
        connection.send("ok!").await.unwrap();
        connection.end().await;
    });
    let flags = "--max-connections 4 --log-level debug --log-format json";
    let proxy = narrows().flags(flags).start().await;
    let to = origin.authority();
    let mut client = proxy.tunnel(&to).await;
    let opened = &proxy.stderr.wait_for(1, "connection opened").await[0];
    assert_eq!(text(opened, "level").to_lowercase(), "debug");
    assert_eq!(text(opened, "host"), to);
    assert_eq!((number(opened, "in_use"), number(opened, "limit")), (1, 4));
    assert!(text(opened, "client").starts_with("127.0.0.1"), "{opened}");
    assert_eq!(text(opened, "address"), to);
    assert!(proxy.stderr.lines_with("connection closed").is_empty());

    client.send("hello").await;
    assert_eq!(client.exactly(3).await, b"ok!");
    drop(client);
    let closed = &proxy.stderr.wait_for(1, "connection closed").await[0];
    assert_eq!(text(closed, "host"), to);
    assert_eq!((number(closed, "sent"), number(closed, "received")), (5, 3));
    assert_eq!(number(closed, "limit"), 4);
    assert_eq!(text(closed, "client"), text(opened, "client"));
    assert_ne!(text(closed, "duration"), "");
    field(closed, "in_use");
    proxy.wait_until_open(&to, 0).await;
    assert_eq!(proxy.stderr.lines_with("connection opened").len(), 1);
    assert_eq!(proxy.stderr.lines_with("connection closed").len(), 1);
}

#[tokio::test]
async fn a_connection_that_serves_many_requests_is_one_line_and_one_line() {
    let origin = Origin::start();
    let flags = "--log-level debug --pool-idle 300ms";
    let proxy = narrows().flags(flags).start().await;
    let mut client = proxy.client().await;
    for _ in 0..5 {
        client.get(origin.url("/")).await;
    }
    let closed = proxy.stderr.wait_for(1, "connection closed").await;
    let opened = proxy.stderr.lines_with("connection opened");
    assert_eq!((opened.len(), closed.len()), (1, 1), "{}", proxy.stderr.text());
    assert!(opened[0].contains(&origin.authority()), "{opened:?}");
}

#[tokio::test]
async fn a_dial_that_fails_opened_nothing() {
    let (origin, closed) = (Origin::echo(), Closed::new());
    let proxy = narrows().flags("--log-level debug").start().await;
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");
    drop(proxy.tunnel(origin.authority()).await);
    proxy.stderr.wait_for(1, "connection closed").await;
    for line in ["connection opened", "connection closed"] {
        let lines = proxy.stderr.lines_with(line);
        assert!(lines.iter().all(|line| !line.contains(&closed.authority())), "{lines:?}");
    }
}

#[tokio::test]
async fn refusals_are_one_warning_a_second_with_the_limit_that_applied_and_how_many() {
    let origin = Origin::echo();
    let to = origin.authority();
    let flags = "--max-connections 9 --host-limit 127.0.0.1=1 --log-format json";
    let proxy = narrows().flags(flags).start().await;
    let _holder = proxy.tunnel(&to).await;
    let start = Instant::now();
    for _ in 0..10 {
        proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    let counted = |lines: &[String]| lines.iter().map(|line| number(line, "count")).sum::<u64>();
    wait_until("all eleven are told", async || {
        counted(&proxy.stderr.lines_with("connection refused")) == 11
    })
    .await;
    let lines = proxy.stderr.lines_with("connection refused");
    assert!(lines.len() <= seconds + 1, "{} lines in {seconds} s", lines.len());
    for line in &lines {
        assert_eq!(text(line, "level").to_lowercase(), "warn");
        assert_eq!(text(line, "host"), to);
        assert_eq!((number(line, "limit"), number(line, "in_use")), (1, 1));
        assert_eq!(text(line, "reason"), "limit");
    }
}

#[tokio::test]
async fn without_debug_connections_are_not_logged() {
    let origin = Origin::echo();
    let proxy = narrows().start().await;
    drop(proxy.tunnel(origin.authority()).await);
    proxy.wait_until_open(&origin.authority(), 0).await;
    assert!(proxy.stderr.lines_with(&origin.authority()).is_empty(), "{}", proxy.stderr.text());
}

#[tokio::test]
async fn each_line_in_json_is_json() {
    let origin = Origin::start();
    let proxy = narrows().env("LOG_FORMAT", "json").env("LOG_LEVEL", "debug").start().await;
    proxy.get(origin.url("/")).await;
    drop(proxy.tunnel(origin.authority()).await);
    proxy.stderr.wait_for(1, "connection opened").await;
    for line in proxy.stderr.text().lines() {
        field(line, "message");
    }
}

#[tokio::test]
async fn each_request_and_each_tunnel_is_one_line_of_the_access_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let origin = Origin::start();
    let flags = format!("--max-connections 1 --access-log {}", file.display());
    let proxy = narrows().flags(flags).start().await;
    let mut client = proxy.client().await;
    client.get(origin.url("/status/418")).await;
    let tunnel = proxy.tunnel(origin.authority()).await;
    client.get(origin.url("/refused")).await.assert_refused(503, "connection_limit_reached");
    drop(tunnel);
    let lines = async || {
        let text = tokio::fs::read_to_string(&file).await.unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until("three lines are written", async || lines().await.len() == 3).await;
    let lines = lines().await;
    for (method, status) in [("GET", 418), ("GET", 503), ("CONNECT", 200)] {
        let is_it =
            |line: &&String| field(line, "method") == method && number(line, "status") == status;
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{method} {status}: {lines:?}");
    }
    assert!(lines.iter().all(|line| line.contains(&origin.authority())), "{lines:?}");
}

#[tokio::test]
async fn the_access_log_goes_where_it_is_sent_and_nowhere_by_default() {
    // Not the status alone: a port in the ready line may have its digits.
    const TARGET: &str = "/status/418";
    let origin = Origin::start();
    let url = origin.url(TARGET);
    let proxy = narrows().flags("--access-log stdout").start().await;
    proxy.get(&url).await;
    proxy.stdout.wait_for(1, TARGET).await;
    assert!(proxy.stderr.lines_with(TARGET).is_empty());

    let proxy = narrows().flags("--access-log stderr").start().await;
    proxy.get(&url).await;
    proxy.stderr.wait_for(1, TARGET).await;
    assert!(proxy.stdout.lines_with(TARGET).is_empty());

    let mut proxy = narrows().start().await;
    proxy.get(&url).await;
    proxy.terminate();
    proxy.ended().await;
    assert!(proxy.stdout.lines_with(TARGET).is_empty());
    assert!(proxy.stderr.lines_with(TARGET).is_empty());
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let mut redis = Redis::start().await;
    redis.kill();
    let url = format!("redis://somebody:sesame@{}/0", redis.address());
    let setup = narrows().flags("--max-connections 1 --log-level trace --redis-url").flags(&url);
    let origin = Origin::start();
    let proxy = setup.start().await;
    let mut client = proxy.client().await;
    let fields = ["Proxy-Authorization: Basic c2VzYW1l", "Authorization: Bearer sesame"];
    let answer = client.request("GET", &origin.url("/"), &fields).await;
    answer.assert_refused(503, "proxy_internal_error");
    assert!(!String::from_utf8_lossy(&answer.body).contains(&redis.address()), "{answer:?}");
    for secret in ["sesame", "c2VzYW1l"] {
        let lines = proxy.stderr.lines_with(secret);
        assert!(lines.is_empty(), "{lines:?}");
    }
}
