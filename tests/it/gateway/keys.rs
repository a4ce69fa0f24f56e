//! Keys that an API's requests carry and its clients never hold.

use http::header;
use narrows::policy::api::Gateway;
use narrows::policy::api::Settings;
use narrows::policy::api::Target;

use super::Served;
use super::api;
use super::field;
use super::target;
use super::with;
use crate::support::Certs;
use crate::support::Origin;

const KEY: &str = "Bearer cAnArY";

fn keyed() -> Gateway {
    Gateway { headers: vec![field("authorization", KEY)], ..Gateway::default() }
}

#[tokio::test]
async fn an_apis_key_is_put_in_by_either_route_and_replaces_the_clients() {
    let origin = Origin::start();
    let mut settings = with(&origin, keyed());
    settings.hosts = vec!["127.0.0.1".parse().unwrap()];
    let served = Served::new([settings]);
    let mut client = served.client().await;
    for url in ["/api/a/x".to_owned(), origin.url("/x")] {
        let answer = client.request("GET", &url, &["Authorization: Bearer own"]).await;
        assert_eq!(answer.status(), 200);
        assert!(!format!("{answer:?}").contains("cAnArY"));
    }
    for seen in origin.seen() {
        assert_eq!(seen.head.field("authorization"), Some(KEY));
    }
    assert_eq!(origin.hits(), 2);
}

#[tokio::test]
async fn a_key_goes_to_no_other_host_or_port_in_clear_text() {
    let (origin, other) = (Origin::start(), Origin::start());
    let mut settings = with(&origin, keyed());
    settings.hosts = vec!["127.0.0.1".parse().unwrap()];
    let served = Served::new([settings]);
    let mut client = served.client().await;
    assert_eq!(client.get(other.url("/x")).await.status(), 200);
    assert_eq!(client.get(format!("http://localhost:{}/x", other.port())).await.status(), 200);
    for seen in other.seen() {
        assert_eq!(seen.head.field("authorization"), None);
    }
}

#[tokio::test]
async fn a_key_of_a_target_by_tls_is_never_in_clear_text() {
    let certs = Certs::new();
    let (acceptor, _) = certs.server(&["127.0.0.1"], &[]);
    let (secure, clear) = (Origin::https(acceptor), Origin::start());
    let mut settings = Settings::new("a");
    settings.gateway = keyed();
    settings.hosts = vec!["127.0.0.1".parse().unwrap()];
    settings.target = Some(Target { tls: true, ..target(&secure.authority(), "") });
    let served = Served::with([settings], |config| {
        config.upstream.authorities = vec![certs.file()];
    });
    let mut client = served.client().await;
    assert_eq!(client.get("/api/a/x").await.status(), 200);
    let url = format!("https://{}/x", secure.authority());
    assert_eq!(client.get(url).await.status(), 200);
    assert_eq!(client.get(clear.url("/x")).await.status(), 200);
    let keys = |origin: &Origin| -> Vec<Option<String>> {
        let field = |seen: crate::support::Head| seen.field("authorization").map(str::to_owned);
        origin.seen().into_iter().map(|seen| field(seen.head)).collect()
    };
    assert_eq!(keys(&secure), [Some(KEY.to_owned()), Some(KEY.to_owned())]);
    assert_eq!(keys(&clear), [None]);
}

#[tokio::test]
async fn a_key_is_on_no_trace_which_would_tell_it() {
    let origin = Origin::start();
    let served = Served::new([with(&origin, keyed())]);
    assert_eq!(served.request("TRACE", "/api/a/x", &[]).await.status(), 200);
    assert_eq!(origin.only().head.field("authorization"), None);
}

#[tokio::test]
async fn a_key_stays_with_its_api() {
    let (one, two) = (Origin::start(), Origin::start());
    let other = Settings { name: "b".into(), ..api(&two, "") };
    let served = Served::new([with(&one, keyed()), other]);
    assert_eq!(served.get("/api/b/x").await.status(), 200);
    assert_eq!(two.only().head.field("authorization"), None);
    assert_eq!(one.accepted(), 0);
}

#[test]
fn settings_that_are_printed_show_no_key() {
    let mut settings = Settings::new("a");
    settings.gateway = keyed();
    let printed = format!("{settings:?}");
    assert!(!printed.contains("cAnArY") && printed.contains("authorization"), "{printed}");
    assert_eq!(settings.gateway.headers[0].0, header::AUTHORIZATION);
}
