//! The admin port: what an operator and a monitor see.

use serde_json::json;

use crate::support::Closed;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::wait_until;

#[tokio::test]
async fn healthz_and_readyz_say_ok() {
    let proxy = narrows().start().await;
    let health = proxy.admin("/healthz").await;
    assert_eq!((health.status(), health.json()), (200, json!({"status": "ok"})));
    assert_eq!(proxy.admin("/readyz").await.status(), 200);
    let verbose = proxy.readiness().await;
    assert_eq!((&verbose["status"], &verbose["redis"]), (&json!("ready"), &json!("off")));
}

#[tokio::test]
async fn the_index_lists_what_there_is_and_nothing_else_is_found() {
    let proxy = narrows().start().await;
    let index = proxy.admin("/").await;
    assert_eq!(index.status(), 200);
    for path in ["/healthz", "/readyz", "/metrics", "/hosts", "/limits"] {
        assert!(index.text().contains(path), "{}", index.text());
        assert_eq!((path, proxy.admin(path).await.status()), (path, 200));
    }
    assert_eq!(proxy.admin("/nothing").await.status(), 404);
}

#[tokio::test]
async fn hosts_tells_what_is_open_waiting_and_idle() {
    let flags = "--max-connections 2 --queue-timeout 20s --pool-idle 60s";
    let proxy = narrows().flags(flags).start().await;
    let (busy, quiet) = (Origin::start(), Origin::start());
    let (to, calm) = (busy.authority(), quiet.authority());
    let _tunnels = (proxy.tunnel(&to).await, proxy.tunnel(&to).await);
    let mut waiter = proxy.client().await;
    waiter.send_request("CONNECT", &to, &[]).await;
    proxy.wait_until_waiting(&to, 1).await;
    assert_eq!(proxy.get(quiet.url("/")).await.status(), 200);
    wait_until("one is idle", async || proxy.host(&calm).await.idle == 1).await;

    let row = proxy.host(&to).await;
    assert_eq!((row.key.as_str(), row.limit), (to.as_str(), Some(2)));
    assert_eq!((row.open, row.fleet_open, row.waiting, row.idle), (2, 2, 1, 0));
    let row = proxy.host(&calm).await;
    assert_eq!((row.open, row.fleet_open, row.waiting, row.idle), (1, 1, 0, 1));

    let mut known: Vec<String> = proxy.hosts().await.into_iter().map(|row| row.key).collect();
    known.sort();
    let mut wanted = [to, calm];
    wanted.sort();
    assert_eq!(known, wanted);
}

#[tokio::test]
async fn a_host_nobody_has_heard_of_is_all_zeros_under_its_limit() {
    let proxy = narrows().flags("--max-connections 3").start().await;
    let row = proxy.host("never.test").await;
    assert_eq!((row.key.as_str(), row.limit), ("never.test", Some(3)));
    assert_eq!((row.open, row.fleet_open, row.waiting, row.idle), (0, 0, 0, 0));
    assert!(row.holders.is_empty());
    assert_eq!(proxy.host("Never.TEST.").await.key, "never.test", "the key is normalised");
    assert!(proxy.hosts().await.is_empty(), "asking is not knowing");
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let proxy = narrows().flags("--max-connections 1 --pool-idle 60s").start().await;
    let (origin, closed) = (Origin::start(), Closed::new());
    let to = origin.authority();
    let host = ("host", to.as_str());

    let mut client = proxy.client().await;
    assert_eq!(client.post(origin.url("/echo"), &[b'x'; 5000]).await.status(), 200);
    assert_eq!(client.get(origin.url("/status/404")).await.status(), 404);
    let tunnel = proxy.tunnel(&to).await;
    proxy.connect(&to).await.assert_refused(503, "connection_limit_reached");
    proxy.connect(closed.authority()).await.assert_refused(502, "connection_refused");

    proxy.wait_until_metric("narrows_connections", &[host], 1.0).await;
    proxy.wait_until_metric("narrows_connection_limit", &[host], 1.0).await;
    proxy.wait_until_metric("narrows_waiting", &[host], 0.0).await;
    proxy.wait_until_metric("narrows_refused_total", &[host, ("reason", "limit")], 1.0).await;
    proxy.wait_until_metric("narrows_pool_idle", &[], 0.0).await;
    proxy
        .wait_until_metric("narrows_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0)
        .await;
    // One connection for the two requests, one for the tunnel, one for the port that refused.
    proxy.wait_until_metric("narrows_dial_duration_seconds_count", &[], 3.0).await;
    proxy.wait_until_metric("narrows_dials_total", &[], 3.0).await;
    let admitted = proxy.metric("narrows_admitted_total", &[host]).await;
    assert!(admitted >= 2.0, "{admitted}");
    let up = proxy.metric("narrows_bytes_total", &[("direction", "to_upstream")]).await;
    let down = proxy.metric("narrows_bytes_total", &[("direction", "to_client")]).await;
    assert!(up >= 5000.0 && down >= 5000.0, "{up} up, {down} down");

    drop((tunnel, client));
    proxy.wait_until_metric("narrows_connections", &[host], 0.0).await;
    proxy.wait_until_metric("narrows_client_connections", &[], 0.0).await;
    // Two forwarded, one tunnel, two refused.
    proxy.wait_until_metric("narrows_requests_total", &[], 5.0).await;
    let classes = [("2xx", 2.0), ("4xx", 1.0), ("5xx", 2.0)];
    for (class, count) in classes {
        let labels = [("status_class", class)];
        proxy.wait_until_metric("narrows_requests_total", &labels, count).await;
    }
}

#[tokio::test]
async fn hosts_that_come_and_go_do_not_fill_the_metrics() {
    let proxy = narrows().flags("--max-connections 5").start().await;
    let mut client = proxy.client().await;
    for n in 0..1500 {
        // Any address of 127/8 is here, and nobody listens on port 1.
        let host = format!("127.{}.{}.1:1", n / 250 + 1, n % 250 + 1);
        let answer = client.get(format!("http://{host}/")).await;
        answer.assert_refused(502, "connection_refused");
    }
    let series = proxy.metrics().await.len();
    assert!(series < 3000, "{series} series after 1,500 hosts");
}

#[tokio::test]
async fn types_and_help_come_with_the_metrics() {
    let proxy = narrows().start().await;
    let metrics = proxy.admin("/metrics").await;
    let kind = metrics.head.field("content-type").unwrap();
    assert!(kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"));
    for (name, kind) in [
        ("narrows_connections", "gauge"),
        ("narrows_refused", "counter"),
        ("narrows_dial_duration_seconds", "histogram"),
    ] {
        let told = metrics.text().lines().any(|line| {
            line.strip_prefix("# TYPE ")
                .is_some_and(|line| line.starts_with(name) && line.ends_with(kind))
        });
        assert!(told, "no TYPE of {name}:\n{}", metrics.text());
    }
}

#[tokio::test]
async fn a_name_that_is_not_known_is_421_until_it_is() {
    let ask = async |proxy: &crate::support::Proxy, host: &str| {
        let mut client = crate::support::Client::to(proxy.admin.unwrap()).await;
        client.send(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let answer = client.unchecked_response().await;
        assert_eq!(answer.head.field("x-content-type-options"), Some("nosniff"));
        answer.status()
    };
    let proxy = narrows().start().await;
    let admin = proxy.admin.unwrap().to_string();
    assert_eq!(ask(&proxy, &admin).await, 200);
    assert_eq!(ask(&proxy, "localhost").await, 200);
    assert_eq!(ask(&proxy, "narrows-1:9900").await, 421, "a page's own name, perhaps");
    let proxy = narrows().flags("--admin-host narrows-1,metrics.corp").start().await;
    assert_eq!(ask(&proxy, "narrows-1:9900").await, 200);
    assert_eq!(ask(&proxy, "Metrics.Corp").await, 200);
    assert_eq!(ask(&proxy, "other.corp").await, 421);
}
