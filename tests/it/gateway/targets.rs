//! Which API a path is for, and what becomes of the target.

use http::Method;
use narrows::Config;
use narrows::base::authority::Host;
use narrows::policy::api::Gateway;
use narrows::policy::api::Settings;

use super::Served;
use super::api;
use super::with;
use crate::support::Origin;

/// What reaches the origin of a request for this.
async fn arrives(served: &Served, origin: &Origin, asked: &str) -> String {
    let answer = served.get(asked).await;
    assert_eq!(answer.status(), 200, "{asked}: {answer:?}");
    let over_http1 = origin.seen().last().unwrap().head.target().to_owned();
    let answer = served.http2().await.get(&served.url(asked)).await;
    assert_eq!(answer.status, 200, "{asked}: {answer:?}");
    let over_http2 = origin.seen().last().unwrap().head.target().to_owned();
    assert_eq!(over_http1, over_http2, "HTTP/1.1 and HTTP/2");
    over_http1
}

#[tokio::test]
async fn path_and_query_arrive_as_they_were_written() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    for path in [
        "/x",
        "/a%2Fb/%2f",
        "//x//y///",
        "/a/../b/./c/..",
        "/%7Euser/%E4%BD%A0/%41%zz%",
        "/x?a=1&b=2&a=1&b=3&&=&a",
        "/x?b=2&a=1:b=2;c",
        "/x?",
        "/?/../?%00%0a%20+",
        "/x;v=1/y@z:80/$&'()*+,=!~",
        "/{\"a\":[1]}|^\\",
        "/api/a/x",
    ] {
        assert_eq!(arrives(&served, &origin, &format!("/api/a{path}")).await, path);
    }
}

#[tokio::test]
async fn no_argument_of_many_is_lost_or_moved() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    for count in [150, 2000] {
        let arguments: Vec<String> = (0..count).map(|at| format!("{:x}", at * 7 % count)).collect();
        let path = format!("/x?{}", arguments.join("&"));
        assert_eq!(arrives(&served, &origin, &format!("/api/a{path}")).await, path);
    }
}

#[tokio::test]
async fn the_joint_is_one_slash() {
    let origin = Origin::start();
    let served =
        Served::new([api(&origin, "/v1"), Settings { name: "root".into(), ..api(&origin, "") }]);
    for (asked, wanted) in [
        ("/api/a", "/v1"),
        ("/api/a?q=1", "/v1?q=1"),
        ("/api/a/", "/v1/"),
        ("/api/a/x", "/v1/x"),
        ("/api/a//x", "/v1//x"),
        ("/api/root", "/"),
        ("/api/root?q", "/?q"),
        ("/api/root/", "/"),
        ("/api/root//", "//"),
    ] {
        assert_eq!(arrives(&served, &origin, asked).await, wanted, "{asked}");
    }
}

#[tokio::test]
async fn dot_segments_stay_below_the_base_path_or_are_refused() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "/v1")]);
    assert_eq!(arrives(&served, &origin, "/api/a/x/../y").await, "/v1/x/../y");
    let hits = origin.hits();
    for path in ["/..", "/x/../../y", "/%2e%2E/x", "/..%2fx", "/..%5cx", "/..;/x", "/x//../../y"] {
        let asked = format!("/api/a{path}");
        served.get(&asked).await.assert_refused(400, "http_request_error");
        let answer = served.http2().await.get(&served.url(&asked)).await;
        answer.assert_refused(400, "http_request_error");
    }
    assert_eq!(origin.hits(), hits);
}

#[tokio::test]
async fn a_target_that_is_no_uri_is_refused() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    for path in ["/<x>", "/x#y", "/`", "/\u{e9}"] {
        let answer = served.get(&format!("/api/a{path}")).await;
        answer.assert_refused(400, "http_request_error");
    }
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn an_api_that_there_is_not_is_answered_with_404_that_names_it() {
    let origin = Origin::start();
    let mut hosts_only = Settings::new("hosts");
    hosts_only.hosts = vec!["127.0.0.1".parse().unwrap()];
    let default = Settings { name: "default".into(), ..api(&origin, "") };
    let served = Served::new([api(&origin, ""), hosts_only, default]);
    for name in ["nope", "A", "a%61", "hosts", "default"] {
        let answer = served.get(&format!("/api/{name}/x")).await;
        answer.assert_refused(404, "destination_not_found");
        let told = answer.json()["detail"].to_string();
        assert!(told.contains(&format!("Unknown API: {name}")), "{told}");
        let answer = served.http2().await.get(&served.url(&format!("/api/{name}/x"))).await;
        answer.assert_refused(404, "destination_not_found");
    }
    let long = served.get(&format!("/api/{}/x", "n".repeat(4000))).await;
    assert!(long.body.len() < 500, "{long:?}");
    for path in ["/api", "/api/", "/api//x", "/apis/a", "/"] {
        let answer = served.get(path).await;
        answer.assert_refused(404, "destination_not_found");
        let told = answer.json()["detail"].to_string();
        assert!(!told.contains("hosts"), "no list to strangers: {told}");
    }
    assert_eq!(served.get("/health").await.json()["status"], "ok");
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_beginning_of_the_path_is_rewritten() {
    let origin = Origin::start();
    let rewrite = vec![("/v1".to_owned(), "/new".to_owned()), ("/up".to_owned(), String::new())];
    let mut settings = with(&origin, Gateway { rewrite, ..Gateway::default() });
    settings.target.as_mut().unwrap().path = "/b".to_owned();
    let served = Served::new([settings]);
    for (asked, wanted) in [
        ("/api/a/v1/x?/v1", "/b/new/x?/v1"),
        ("/api/a/v10/x", "/b/v10/x"),
        ("/api/a/v1", "/b/new"),
        ("/api/a/up", "/b"),
        ("/api/a/up/%2F//x", "/b/%2F//x"),
    ] {
        assert_eq!(arrives(&served, &origin, asked).await, wanted, "{asked}");
    }
    served.get("/api/a/up/../x").await.assert_refused(400, "http_request_error");
}

#[tokio::test]
async fn a_method_that_the_api_does_not_take_is_told_those_it_does() {
    let origin = Origin::start();
    let methods = vec![Method::GET, Method::POST];
    let served = Served::new([with(&origin, Gateway { methods, ..Gateway::default() })]);
    for method in ["DELETE", "get", "OPTIONS"] {
        let answer = served.request(method, "/api/a/x", &[]).await;
        answer.assert_refused(405, "http_request_error");
        assert_eq!(answer.head.field("allow"), Some("GET, POST, HEAD"));
    }
    assert_eq!(origin.accepted(), 0);
    for method in ["GET", "HEAD", "POST"] {
        assert_eq!(served.request(method, "/api/a/x", &[]).await.status(), 200, "{method}");
    }
}

#[tokio::test]
async fn over_http_2_the_gateway_is_known_by_its_address_and_its_names() {
    let origin = Origin::start();
    let served = Served::with([api(&origin, "")], |config: &mut Config| {
        config.proxy.gateway_hosts = vec![host("gate.test")];
    });
    let port = served.address.port();
    let ask = async |url: String| served.http2().await.get(&url).await;
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "gate.test".to_owned()] {
        assert_eq!(ask(format!("http://{host}/api/a/x")).await.status, 200, "{host}");
        assert_eq!(ask(format!("http://{host}/health")).await.status, 200, "{host}");
    }
    let hits = origin.hits();
    // Forward traffic to others, whatever its path is.
    let url = origin.url("/api/a/x");
    assert_eq!(ask(url).await.body, b"/api/a/x");
    assert_eq!(origin.hits(), hits + 1);
    let other = ask(format!("http://localhost:{}/api/a/x", origin.port())).await;
    assert_eq!(other.body, b"/api/a/x", "localhost at another port is another host");
    // And over HTTP/1.1 an absolute-form is forward traffic, even to us.
    let own = served.get(&served.url("/api/a/x")).await;
    own.assert_refused(502, "proxy_loop_detected");
}

#[tokio::test]
async fn a_gateway_with_names_turns_others_away() {
    let origin = Origin::start();
    let served = Served::with([api(&origin, "")], |config: &mut Config| {
        config.proxy.gateway_hosts = vec![host("gate.test")];
    });
    let ask = async |host: &str| {
        let mut client = served.client().await;
        client.send(format!("GET /api/a/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        client.response("GET").await
    };
    for host in ["gate.test", "Gate.Test:8087", "localhost:1", "127.0.0.1", "[::1]:8087"] {
        assert_eq!(ask(host).await.status(), 200, "{host}");
    }
    let hits = origin.hits();
    for host in ["evil.test", "gate.test.evil.test", ""] {
        ask(host).await.assert_refused(421, "http_request_error");
    }
    assert_eq!(origin.hits(), hits);
}

fn host(name: &str) -> Host {
    Host::parse(name).unwrap()
}
