//! What is told of APIs, and what of them is not.

use std::sync::Arc;

use http::HeaderMap;
use http_body_util::Full;
use hyper::body::Bytes;

use super::super::tests::get;
use super::super::tests::sources;
use super::*;
use crate::base::authority::Authority;
use crate::policy::api::Apis;
use crate::policy::cache;
use crate::policy::cache::tiers::Tiers;
use crate::store::Secret;
use crate::store::board::Board;

/// An API with all that one may have.
fn full() -> Settings {
    let mut api = Settings::new("orders");
    api.target = Some(Target {
        tls: true,
        authority: Authority::parse("api.test:8443", None).unwrap(),
        path: "/v1".to_owned(),
    });
    api.hosts = vec!["*.api.test".parse().unwrap()];
    let key = ("x-key".parse().unwrap(), "open sesame".parse().unwrap());
    api.gateway.headers = vec![key];
    api.request_timeout = Some(Duration::from_millis(1500));
    api.breaker = Some(breaker::Settings::default());
    api.retry = Some(retry::Settings::default());
    api.cooldown = Some(cooldown::Settings::default());
    api.parents = Some(crate::policy::parents::Settings {
        list: vec![Arc::new(Parent {
            name: "http://parent.test:3128".into(),
            tls: false,
            authority: Authority::parse("parent.test:3128", None).unwrap(),
            authorization: Some("Basic b3BlbiBzZXNhbWU=".parse().unwrap()),
            weight: 2,
        })],
        ..Default::default()
    });
    api
}

fn with(apis: &[Settings]) -> Sources {
    let sources = sources(1);
    sources.apis.store(Arc::new(Apis::new(
        apis,
        &Board::alone(),
        &Tiers::alone(&cache::tiers::Settings::default()),
        None,
    )));
    sources
}

async fn page(sources: &Sources, path: &str) -> Value {
    let (status, kind, text) = get(sources, path).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"), "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_list_is_a_list_when_it_is_empty() {
    let sources = with(&[]);
    for (path, list) in [
        ("/apis", "apis"),
        ("/circuit-status", "circuits"),
        ("/cool-downs", "cool_downs"),
        ("/parents", "apis"),
    ] {
        let told = page(&sources, path).await;
        assert_eq!(told[list], json!([]), "{path}");
        assert!(told["timestamp"].as_u64().is_some_and(|time| time > 1_700_000_000), "{path}");
    }
}

#[tokio::test]
async fn an_api_is_told_with_what_holds_for_it_and_without_its_secrets() {
    let sources = with(&[full(), Settings::new("default")]);
    let told = page(&sources, "/apis").await;
    let names: Vec<&Value> = told["apis"].as_array().unwrap().iter().map(|a| &a["name"]).collect();
    assert_eq!(names, ["default", "orders"]);
    let api = &told["apis"][1];
    assert_eq!(api["target_url"], "https://api.test:8443/v1");
    assert_eq!(api["hosts"], json!(["*.api.test"]));
    assert_eq!(api["headers"], json!({ "x-key": "(secret)" }));
    assert_eq!(api["request_timeout"], 1.5);
    assert_eq!(api["circuit_breaker"]["failure_threshold"], 5);
    assert_eq!(api["retry"]["retry_on_errors"][0], "dns");
    assert_eq!(api["cool_down"]["scope"], "credential");
    let parent = json!({ "url": "http://parent.test:3128", "weight": 2, "has_credentials": true });
    assert_eq!(api["proxies"], json!([parent]));
    assert_eq!(api["requests"]["success"], 0);
    let bare = &told["apis"][0];
    assert!(bare["circuit_breaker"].is_null() && bare["method"] == json!([]), "{bare}");
    for path in ["/apis", "/parents", "/circuit-status", "/metrics"] {
        let (_, _, text) = get(&sources, path).await;
        assert!(!text.contains("sesame") && !text.contains("b3Blbi"), "{path}: {text}");
    }
}

#[tokio::test]
async fn what_policies_have_learned_is_in_the_metrics() {
    let sources = with(&[full(), Settings::new("bare")]);
    let (_, _, text) = get(&sources, "/metrics").await;
    for line in [
        "narrows_breaker_state{api=\"orders\"} 0",
        "narrows_breaker_open_circuits{api=\"orders\"} 0",
        "narrows_cool_downs{api=\"orders\"} 0",
        "narrows_cool_down_events_total{api=\"orders\",event=\"heard\"} 0",
        "narrows_parent_requests_total{api=\"orders\",parent=\"http://parent.test:3128\"} 0",
        "narrows_parent_bans{api=\"orders\",parent=\"http://parent.test:3128\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("breaker_state{api=\"bare\"}"), "it has none");
}

#[tokio::test]
async fn a_circuit_has_the_shape_that_is_known_and_the_name_of_its_api() {
    let sources = with(&[full()]);
    let told = page(&sources, "/circuit-status").await;
    let [circuit] = &told["circuits"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!(
        *circuit,
        json!({
            "api": "orders",
            "target": "https://api.test:8443/v1",
            "state": "CLOSED",
            "failures": 0,
            "successes": 0,
            "last_failure_time": 0,
            "time_to_reset": 0,
            "opened": 0,
            "refused": 0,
            "config": {
                "mode": "enforce",
                "failure_threshold": 5,
                "reset_timeout": 30,
                "success_threshold": 2,
                "probes": 1,
            },
        })
    );
}

async fn deleted(sources: &Sources, path: &str, token: &str) -> u16 {
    let request = Request::delete(path).header("authorization", format!("Bearer {token}"));
    delete(sources, request.body(Full::<Bytes>::default()).unwrap()).await.status().as_u16()
}

#[tokio::test]
async fn who_ends_a_circuit_or_a_cool_down_has_the_token() {
    let mut sources = with(&[full(), Settings::new("bare")]);
    assert_eq!(deleted(&sources, "/circuit-status/orders", "sesame").await, 403);
    sources.token = Some(Secret("sesame".to_owned()));
    for (path, token, status) in [
        ("/circuit-status/orders", "sesam", 401),
        ("/circuit-status/orders", "sesame", 200),
        ("/circuit-status/orders/a.test", "sesame", 404),
        ("/circuit-status/orders/%zz", "sesame", 400),
        ("/circuit-status/bare", "sesame", 404),
        ("/circuit-status/nobody", "sesame", 404),
        ("/cool-downs/orders/api.test", "sesam", 401),
        ("/cool-downs/orders/api.test", "sesame", 404),
        ("/cool-downs/orders", "sesame", 404),
        ("/cool-downs/bare/*", "sesame", 404),
    ] {
        assert_eq!(deleted(&sources, path, token).await, status, "{path}");
    }
}

#[tokio::test]
async fn a_cool_down_is_listed_until_it_is_forgotten() {
    let mut api = full();
    api.parents = None;
    api.cooldown = Some(cooldown::Settings { scope: Scope::Host, ..Default::default() });
    let mut sources = with(&[api]);
    sources.token = Some(Secret("sesame".to_owned()));
    {
        let apis = sources.apis.load();
        let cooldowns = apis.named("orders").unwrap().cooldowns.as_ref().unwrap();
        let host = crate::base::authority::HostKey::parse("api.test:8443").unwrap();
        let subject = cooldowns.subject(&host, &HeaderMap::new());
        let fields = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("9"))]);
        cooldowns.hear(&subject, 429, &fields).unwrap();
    }
    let told = page(&sources, "/cool-downs").await;
    let [one] = &told["cool_downs"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&one["api"], &one["status"]), (&json!("orders"), &json!(429)));
    assert!(one["seconds_left"].as_f64().is_some_and(|left| (8.0..=9.0).contains(&left)), "{one}");
    let name = one["name"].as_str().unwrap();
    assert_eq!(deleted(&sources, &format!("/cool-downs/orders/{name}"), "sesame").await, 200);
    assert_eq!(page(&sources, "/cool-downs").await["cool_downs"], json!([]));
}
