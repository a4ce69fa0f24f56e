//! The config file, `--set`, and the flags of forward traffic's own policies, by the real program.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::Closed;
use crate::support::Origin;
use crate::support::narrows;

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("narrows.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[tokio::test]
async fn a_good_file_is_called_good_and_a_bad_one_is_told_by_its_lines() {
    let (_folder, good) = file("max_connections: 5\napi: {shop: {target_url: 'http://a.test'}}\n");
    let ended = narrows().bare().flags(format!("check {}", good.display())).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("is good: 1 setting, 1 API (shop)"), "{}", ended.stdout);

    let (_folder, bad) = file("max_connections: many\napi:\n  shop: {retry: {max_atempts: 3}}\n");
    for flags in [format!("check {}", bad.display()), format!("--config {}", bad.display())] {
        let ended = narrows().bare().flags(flags).run().await;
        assert_eq!(ended.code, Some(2));
        for part in [
            ":1:18: max_connections: \"many\" is not allowed",
            ":3:18: ",
            "did you mean max_attempts?",
        ] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn what_holds_in_the_end_is_shown_without_secrets() {
    let (_folder, path) =
        file("api: {shop: {target_url: 'http://a.test', headers: {X-Key: '${SHOP_KEY}'}}}\n");
    let setup = narrows()
        .bare()
        .flags("config")
        .env("NARROWS_CONFIG", path.display())
        .env("SHOP_KEY", "sesame");
    let ended = setup.run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("X-Key: \"(secret)\""), "{}", ended.stdout);
    assert!(!ended.stdout.contains("sesame") && !ended.stderr.contains("sesame"));
}

#[tokio::test]
async fn the_file_the_variable_and_the_flag_are_obeyed_in_this_order() {
    let origin = Origin::start();
    let (_folder, path) = file("refuse_status: 500\nmax_connections: 1\nqueue_timeout: 0s\n");
    for (variable, flag, status) in
        [(None, "", 500), (Some("501"), "", 501), (Some("501"), "--refuse-status 502", 502)]
    {
        let mut setup = narrows().flags(format!("--config {} {flag}", path.display()));
        if let Some(variable) = variable {
            setup = setup.env("NARROWS_REFUSE_STATUS", variable);
        }
        let proxy = setup.start().await;
        let mut first = proxy.client().await;
        assert_eq!(first.connect(origin.authority()).await.status(), 200);
        let refused = proxy.client().await.connect(origin.authority()).await;
        assert_eq!(refused.status(), status);
    }
}

#[tokio::test]
async fn forward_traffic_has_the_policies_of_its_flags() {
    let origin = Origin::start();
    let flags = "--retry-attempts 3 --retry-delay 1ms --retry-on-status 503";
    let proxy = narrows().flags(flags).start().await;
    let answer = proxy.client().await.get(origin.url("/status/503")).await;
    assert_eq!((answer.status(), origin.hits()), (503, 3));

    let closed = Closed::new();
    let proxy = narrows().flags("--breaker-failures 1 --breaker-reset 60s").start().await;
    let url = format!("http://{}/", closed.authority());
    assert_eq!(proxy.client().await.get(&url).await.status(), 502);
    let open = proxy.client().await.get(&url).await;
    assert_eq!(open.status(), 503, "{}", open.text());
    assert_eq!(
        proxy.client().await.get(origin.url("/")).await.status(),
        200,
        "each host has its own"
    );
}

#[tokio::test]
async fn an_api_can_be_made_on_the_command_line_alone() {
    let origin = Origin::start();
    let set = format!("--set api.shop.target_url={}", origin.url(""));
    let proxy =
        narrows().flags(set).env("NARROWS_SET", "api.shop.headers={X-Key: sesame}").start().await;
    let answer = proxy.client().await.get("/api/shop/a?b=c").await;
    assert_eq!(answer.status(), 200);
    let seen = origin.only();
    assert_eq!(seen.head.target(), "/a?b=c");
    assert_eq!(seen.head.field("x-key"), Some("sesame"));
    assert!(!proxy.stderr.text().contains("sesame"), "{}", proxy.stderr.text());
}
