//! What operators see of the cache, and have it do.

use super::*;
use crate::support::wait_until;

#[tokio::test]
async fn what_is_kept_of_an_api_or_of_a_url_is_forgotten_at_a_word() {
    let redis = Redis::start().await;
    let stage = Stage::numbered("Cache-Control: max-age=60\r\n");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "sesame-sesame-sesame").unwrap();
    let flags = format!("--admin-token-file {}", token.display());
    let mut instances = Vec::new();
    for _ in 0..2 {
        let (folder, setup) = stage.setup("");
        let proxy = setup.flags(&flags).shared(&redis).start().await;
        proxy.wait_until_up().await;
        instances.push(Cached { proxy, _folder: folder, origin: stage.origin.url("") });
    }
    let [one, other] = &instances[..] else { unreachable!() };
    let is_kept = async |proxy: &Cached, path: &str| {
        wait_until("it is kept", async || cache(&proxy.get(path).await) == "HIT").await;
    };
    for path in ["/a?x=1&y=2", "/b"] {
        is_kept(one, path).await;
        is_kept(other, path).await;
    }
    let hits = stage.hits();
    let fields = &["Authorization: Bearer sesame-sesame-sesame"];
    let url = format!("{}/a?y=2%26x=1", stage.origin.url("")).replace("%26", "&");
    let encoded = url.replace('&', "%26");
    let path = format!("/cache/a?url={encoded}");
    assert_eq!(one.proxy.admin_request("DELETE", &path, &[], "").await.status(), 401);
    let told = one.proxy.admin_request("DELETE", &path, fields, "").await;
    assert_eq!(told.status(), 200, "{told:?}");
    wait_until("the other has heard", async || {
        other.get("/a?x=1&y=2").await;
        stage.hits() > hits
    })
    .await;
    let hits = stage.hits();
    assert_eq!(cache(&one.get("/b").await), "HIT");
    assert_eq!(one.proxy.admin_request("DELETE", "/cache/a", fields, "").await.status(), 200);
    wait_until("the other has heard", async || {
        other.get("/b").await;
        stage.hits() > hits
    })
    .await;
    for (path, status) in [("/cache/none", 404), ("/cache/a?url=x", 400), ("/cache/a?x=y", 400)] {
        let told = one.proxy.admin_request("DELETE", path, fields, "").await;
        assert_eq!(told.status(), status, "{path}");
    }
}

#[tokio::test]
async fn metrics_the_admin_pages_and_the_log_tell_what_the_cache_did() {
    let stage = Stage::new(|number, head, _| match head.field("if-none-match") {
        Some(_) => "HTTP/1.1 304 Not Modified\r\nX-Origin: yes\r\n\r\n".to_owned(),
        None => ok("ETag: \"a\"\r\n", &number.to_string()),
    });
    let (folder, setup) = stage.setup("");
    let log = folder.path().join("access.log");
    let proxy = setup.flags(format!("--access-log {}", log.display())).start().await;
    let proxy = Cached { proxy, _folder: folder, origin: stage.origin.url("") };
    proxy.get("/").await;
    proxy.get("/").await;
    proxy.get("/").await;
    proxy.ask("GET", "/", &["Cache-Control: no-cache"]).await;
    proxy.ask("DELETE", "/x", &[]).await;
    for (outcome, count) in
        [("hit", "2"), ("miss", "1"), ("revalidated", "1"), ("bypass", "1"), ("stale", "0")]
    {
        let labels = [("api", "a"), ("outcome", outcome)];
        let told = proxy.proxy.metric("narrows_cache_requests_total", &labels).await;
        assert_eq!(told.to_string(), count, "{outcome}");
    }
    let told = proxy.proxy.admin("/cache").await.json();
    assert_eq!((&told["apis"][0]["hit"], &told["apis"][0]["stored"]), (&2.into(), &2.into()));
    let told = proxy.proxy.admin("/apis").await.json();
    assert_eq!(
        (&told["apis"][0]["enable_cache"], &told["apis"][0]["cache_ttl"]),
        (&true.into(), &60.into())
    );
    wait_until("the log has them", async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.matches("\"cache\":\"hit\"").count() == 2
            && text.contains("\"cache\":\"miss\"")
            && text.contains("\"cache\":\"revalidated\"")
            && text.contains("\"cache\":\"bypass\"")
    })
    .await;
}
