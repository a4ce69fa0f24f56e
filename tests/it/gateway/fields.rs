//! Which fields reach the origin, and which the client.

use http::HeaderName;
use narrows::policy::api::Forwarded;
use narrows::policy::api::Gateway;

use super::Served;
use super::field;
use super::with;
use crate::support::Head;
use crate::support::Origin;

const CLIENTS: [&str; 12] = [
    "X-API-KEY: k",
    "X-Other: o",
    "Accept: text/x",
    "Accept-Encoding: gzip",
    "User-Agent: test",
    "Cookie: a=1",
    "Authorization: Bearer client",
    "Proxy-Authorization: Basic eDp5",
    "Connection: keep-alive, X-Hop",
    "X-Hop: 1",
    "Keep-Alive: timeout=5",
    "Content-Type: text/plain",
];

/// What the origin sees of a request with the fields above, names in lower case, without those that
/// each request has.
async fn names(gateway: Gateway) -> (Vec<String>, Head) {
    let origin = Origin::start();
    let authority = origin.authority();
    let served = Served::new([with(&origin, gateway)]);
    assert_eq!(served.post("/api/a/x", &CLIENTS, b"body").await.status(), 200);
    let seen = origin.only();
    assert_eq!(seen.body, b"body");
    assert_eq!(seen.head.field("host"), Some(authority.as_str()));
    assert_eq!(seen.head.field("content-length"), Some("4"));
    assert_eq!(seen.head.field("via"), Some("1.1 gate"));
    let usual = ["host", "content-length", "via"];
    let names = seen.head.fields.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut names: Vec<String> = names.filter(|name| !usual.contains(&name.as_str())).collect();
    names.sort();
    (names, seen.head)
}

fn forward(forward_headers: Forwarded) -> Gateway {
    Gateway { forward_headers, ..Gateway::default() }
}

#[tokio::test]
async fn forward_headers_says_which_fields_of_the_client_go_on() {
    assert_eq!(names(forward(Forwarded::None)).await.0, ["content-type"]);
    let listed = ["x-api-key", "host", "connection", "x-hop", "proxy-authorization"];
    let listed = listed.map(HeaderName::from_static).to_vec();
    let (listed, _) = names(forward(Forwarded::Listed(listed))).await;
    assert_eq!(listed, ["content-type", "x-api-key"]);
    let (all, head) = names(forward(Forwarded::All)).await;
    let wanted = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "cookie",
        "user-agent",
        "x-api-key",
        "x-other",
    ];
    assert_eq!(all, wanted, "all but Host, those of the hop, and credentials for proxies");
    assert_eq!(head.field("authorization"), Some("Bearer client"));
}

#[tokio::test]
async fn headers_are_set_in_the_place_of_the_clients() {
    let headers = vec![
        field("content-type", "application/json"),
        field("accept", "application/json"),
        field("x-api-key", "ours"),
        field("host", "evil.test"),
        field("content-length", "9"),
        field("transfer-encoding", "chunked"),
    ];
    let remove_headers = ["cookie", "content-length"].map(HeaderName::from_static).to_vec();
    for forward_headers in [Forwarded::None, Forwarded::All] {
        let gateway = Gateway {
            headers: headers.clone(),
            remove_headers: remove_headers.clone(),
            forward_headers,
            ..Gateway::default()
        };
        let (names, head) = names(gateway).await;
        assert_eq!(head.field("content-type"), Some("application/json"));
        assert_eq!(head.field("accept"), Some("application/json"));
        assert_eq!(head.field("x-api-key"), Some("ours"));
        assert!(!names.contains(&"cookie".to_owned()), "{names:?}");
        assert!(!names.contains(&"transfer-encoding".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn a_target_is_told_of_the_client_only_if_the_api_says_so() {
    let named = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let claims =
        ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-Proto: https"];
    for forward_headers in [Forwarded::None, Forwarded::All] {
        for forwarded in [false, true] {
            let origin = Origin::start();
            let gateway = Gateway {
                forwarded,
                forward_headers: forward_headers.clone(),
                ..Gateway::default()
            };
            let served = Served::new([with(&origin, gateway)]);
            let answer = served.request("GET", "/api/a/x", &claims).await;
            assert_eq!(answer.status(), 200);
            served.http2().await.get(&served.url("/api/a/x")).await;
            let seen = origin.seen();
            let told = |at: usize| named.map(|name| seen[at].head.all(name).join("|"));
            if forwarded {
                let host = served.address.to_string();
                assert_eq!(told(0), ["1.2.3.4, 5.6.7.8, 127.0.0.1", "narrows", "http"]);
                assert_eq!(told(1), ["127.0.0.1", &host, "http"]);
            } else {
                let kept = forward_headers == Forwarded::All;
                let claimed = if kept { ["1.2.3.4|5.6.7.8", "", "https"] } else { ["", "", ""] };
                assert_eq!(told(0), claimed);
                assert_eq!(told(1), ["", "", ""]);
            }
        }
    }
}

#[tokio::test]
async fn response_headers_are_set_in_what_the_client_gets() {
    let origin = Origin::start();
    let response_headers =
        vec![field("x-origin", "hidden"), field("x-ours", "1"), field("content-length", "7")];
    let served = Served::new([with(&origin, Gateway { response_headers, ..Gateway::default() })]);
    let answer = served.get("/api/a/hop").await;
    assert_eq!(answer.head.field("x-origin"), Some("hidden"));
    assert_eq!(answer.head.field("x-ours"), Some("1"));
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.body, b"");
}
