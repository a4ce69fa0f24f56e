//! Who may use the proxy, over HTTP/2: each stream says so for itself.

use http::Request;
use http::header::PROXY_AUTHORIZATION;

use crate::support::Answer;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Users;
use crate::support::users::credentials;

/// The request with these credentials, if there are any.
fn with(mut request: Request<()>, given: Option<&str>) -> Request<()> {
    if let Some(given) = given {
        request.headers_mut().insert(PROXY_AUTHORIZATION, given.parse().unwrap());
    }
    request
}

fn get(url: &str) -> Request<()> {
    Request::get(url).body(()).unwrap()
}

fn connect(to: &str) -> Request<()> {
    Request::connect(to).body(()).unwrap()
}

fn assert_asked(answer: &Answer) {
    answer.assert_refused(407, "http_request_error");
    let challenge = answer.field("proxy-authenticate");
    assert_eq!(challenge, Some("Basic realm=\"narrows\", charset=\"UTF-8\""), "{answer:?}");
}

/// Method, status and identity of each line of the access log, once there are so many.
async fn told(proxy: &Proxy, lines: usize) -> Vec<(String, u64, Option<String>)> {
    let lines = proxy.stdout.wait_for(lines, "\"identity\"").await;
    let parts = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let identity = line["identity"].as_str().map(str::to_owned);
        (line["method"].as_str().unwrap().to_owned(), line["status"].as_u64().unwrap(), identity)
    };
    lines.iter().map(parts).collect()
}

fn line(method: &str, status: u64, identity: Option<&str>) -> (String, u64, Option<String>) {
    (method.to_owned(), status, identity.map(str::to_owned))
}

#[tokio::test]
async fn streams_without_credentials_are_asked_for_them_and_the_connection_goes_on() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let users = Users::new(&["alice", "bob"]);
    let proxy = users.setup().flags("--access-log stdout").start().await;
    let mut client = Http2::to(proxy.address).await;
    let (url, to) = (origin.url("/x"), echo.authority());
    let wrong = credentials("alice", "bob's");
    for given in [None, Some(wrong.as_str())] {
        assert_asked(&client.request(with(get(&url), given), b"").await);
        assert_asked(&client.request(with(get(&url), given), b"a body").await);
        assert_asked(&client.open(with(connect(&to), given)).await.unwrap_err());
    }
    assert_eq!((origin.accepted(), echo.accepted()), (0, 0), "nothing was opened for them");

    let (alice, bob) = (credentials("alice", "alice's"), credentials("bob", "bob's"));
    let mut tunnel = client.open(with(connect(&to), Some(&alice))).await.expect("a tunnel");
    tunnel.echo("hello").await;
    let answer = client.request(with(get(&url), Some(&bob)), b"").await;
    assert_eq!(answer.status, 200, "another may ask on the same connection");
    assert_eq!(origin.only().head.field("proxy-authorization"), None);
    // What one stream said is no other's.
    assert_asked(&client.request(get(&url), b"").await);
    tunnel.finish();
    assert_eq!(tunnel.rest().await.unwrap(), b"");

    let mut lines = told(&proxy, 9).await;
    lines.sort();
    let asked = [vec![line("CONNECT", 407, None); 2], vec![line("GET", 407, None); 5]].concat();
    let mut all = asked;
    all.extend([line("CONNECT", 200, Some("alice")), line("GET", 200, Some("bob"))]);
    all.sort();
    assert_eq!(lines, all);
}

#[tokio::test]
async fn who_may_not_ask_is_not_told_which_protocols_are_spoken() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    let proxy = users.setup().flags("--access-log stdout").start().await;
    let mut client = Http2::to(proxy.address).await;
    let (alice, url) = (credentials("alice", "alice's"), origin.url("/chat?key=secret"));
    for protocol in ["connect-udp", "websocket"] {
        let request = client.extended(&url, protocol).await;
        assert_asked(&client.open(request).await.unwrap_err());
    }
    let request = client.extended(&url, "connect-udp").await;
    let answer = client.open(with(request, Some(&alice))).await.unwrap_err();
    answer.assert_refused(501, "http_request_error");
    assert_eq!(origin.accepted(), 0);

    // A WebSocket is the GET that it becomes.
    let lines = told(&proxy, 3).await;
    let asked = [line("CONNECT", 407, None), line("GET", 407, None)];
    assert_eq!(lines, [&asked[..], &[line("CONNECT", 501, Some("alice"))]].concat());
    let text = proxy.stdout.text();
    assert!(text.contains("/chat\"") && !text.contains("secret"), "{text}");
}
