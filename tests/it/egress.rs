//! Where the proxy goes and where it does not, judged by what the origin saw.

use std::net::TcpListener;

use crate::support::Client;
use crate::support::Http2;
use crate::support::Names;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

async fn denied(proxy: &Proxy, rule: &str) -> f64 {
    proxy.metric("narrows_egress_denied_total", &[("rule", rule)]).await
}

/// A client that a balancer passes on as one at this address.
async fn from(address: &str, proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    let (family, to) = if address.contains(':') { (6, "2001:db8::1") } else { (4, "192.0.2.1") };
    client.send(format!("PROXY TCP{family} {address} {to} 12345 80\r\n")).await;
    client
}

#[tokio::test]
async fn public_only_goes_to_no_address_of_this_machine_whatever_it_is_called() {
    let origin = Origin::start();
    let port = origin.port();
    let names = Names::of(&[("rebound.test", &["127.0.0.1", "::1"])]).await;
    let flags = format!("--egress public-only --resolver {}", names.address());
    let proxy = narrows().flags(flags).start().await;
    let hosts = [
        "127.0.0.1",
        "rebound.test",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "0.0.0.0",
        "[::]",
    ];
    for host in hosts {
        let answer = proxy.get(format!("http://{host}:{port}/")).await;
        answer.assert_refused(502, "destination_ip_prohibited");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(!answer.text().contains("7f00") && !detail.contains("127."), "{host}: {detail}");
        let answer = proxy.connect(format!("{host}:{port}")).await;
        answer.assert_refused(502, "destination_ip_prohibited");
    }
    assert_eq!(origin.accepted(), 0);
    proxy.wait_until_metric("narrows_dials_total", &[("result", "prohibited")], 18.0).await;
    assert!(denied(&proxy, "local").await >= 9.0);
    proxy.wait_until_open(&format!("127.0.0.1:{port}"), 0).await;
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_what_was_judged_is_dialled() {
    let origin = Origin::at("127.0.0.3");
    let decoy = TcpListener::bind(("127.0.0.2", origin.port())).unwrap();
    decoy.set_nonblocking(true).unwrap();
    let names = Names::of(&[("two.test", &["127.0.0.2", "127.0.0.3"])]).await;
    let flags = format!("--egress-deny 127.0.0.2 --resolver {}", names.address());
    let proxy = narrows().flags(flags).start().await;
    let url = format!("http://two.test:{}/", origin.port());
    assert_eq!(proxy.get(&url).await.status(), 200);
    assert_eq!(names.asked(), 2, "once for each family");
    assert_eq!(origin.accepted(), 1);
    assert!(decoy.accept().is_err(), "the first of the two addresses is denied");
}

#[tokio::test]
async fn a_rule_opens_what_public_only_closes() {
    let origin = Origin::start();
    let flags = "--egress public-only --egress-allow 127.0.0.1 --egress-deny *:1";
    let proxy = narrows().flags(flags).start().await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    let tunnel = proxy.connect(origin.authority()).await;
    assert_eq!(tunnel.status(), 200);
    proxy.get("http://127.0.0.1:1/").await.assert_refused(403, "http_request_denied");
    assert!(denied(&proxy, "deny").await > 0.0);
}

#[tokio::test]
async fn a_name_that_is_denied_is_403_and_is_not_looked_up() {
    let origin = Origin::start();
    let names = Names::of(&[("a.bad.test", &["127.0.0.1"]), ("good.test", &["127.0.0.1"])]).await;
    let flags = format!("--egress-deny *.bad.test --resolver {}", names.address());
    let proxy = narrows().flags(flags).start().await;
    let to = format!("a.BAD.test.:{}", origin.port());
    proxy.get(format!("http://{to}/")).await.assert_refused(403, "http_request_denied");
    proxy.connect(&to).await.assert_refused(403, "http_request_denied");
    assert_eq!((names.asked(), origin.accepted()), (0, 0));
    let url = format!("http://good.test:{}/", origin.port());
    assert_eq!(proxy.get(url).await.status(), 200);
    let line = &proxy.stderr.wait_for(1, "egress denied").await[0];
    assert!(line.contains("a.bad.test") && line.contains("rule=\"deny\""), "{line}");
}

#[tokio::test]
async fn what_no_rule_allows_is_denied_by_default_where_that_is_set() {
    let origin = Origin::start();
    let names = Names::of(&[("a.test", &["127.0.0.1"])]).await;
    let flags = "--egress-default deny --egress-allow a.test";
    let proxy = narrows().flags(flags).flags(format!("--resolver {}", names.address()));
    let proxy = proxy.start().await;
    assert_eq!(proxy.get(format!("http://a.test:{}/", origin.port())).await.status(), 200);
    proxy.get(origin.url("/")).await.assert_refused(403, "http_request_denied");
    assert!((denied(&proxy, "default").await - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn a_tunnel_to_a_port_that_is_not_listed_is_403() {
    let origin = Origin::echo();
    let proxy = narrows().start().await;
    for port in [22, 25, 110, 1023] {
        let answer = proxy.connect(format!("127.0.0.1:{port}")).await;
        answer.assert_refused(403, "http_request_denied");
    }
    assert!((denied(&proxy, "connect_port").await - 4.0).abs() < 1e-9);
    let flags = format!("--connect-ports 22,{}", origin.port());
    let proxy = narrows().flags(flags).start().await;
    proxy.connect("127.0.0.1:443").await.assert_refused(403, "http_request_denied");
    assert_eq!(proxy.connect(origin.authority()).await.status(), 200);
}

#[tokio::test]
async fn the_proxy_does_not_go_to_itself() {
    let proxy = narrows().start().await;
    let port = proxy.address.port();
    for host in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let answer = proxy.connect(format!("{host}:{port}")).await;
        answer.assert_refused(502, "proxy_loop_detected");
        let answer = proxy.get(format!("http://{host}:{port}/health")).await;
        answer.assert_refused(502, "proxy_loop_detected");
    }
    let admin = proxy.admin.unwrap();
    let answer = proxy.get(format!("http://{admin}/healthz")).await;
    assert_eq!(answer.status(), 200, "from loopback the admin port is reached anyway");
}

const ELSEWHERE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

#[tokio::test]
async fn who_comes_from_elsewhere_reaches_nothing_on_loopback() {
    let origin = Origin::start();
    let proxy = narrows().flags("--proxy-protocol-from 127.0.0.0/8").start().await;
    let (own, admin) = (proxy.address, proxy.admin.unwrap());
    let to = origin.authority();
    for address in ELSEWHERE {
        for there in [
            &to,
            &format!("[::ffff:127.0.0.1]:{}", origin.port()),
            &admin.to_string(),
            &own.to_string(),
            &format!("0.0.0.0:{}", own.port()),
        ] {
            let url = format!("http://{there}/healthz");
            let answer = from(address, &proxy).await.get(&url).await;
            answer.assert_refused(502, "destination_ip_prohibited");
            let answer = from(address, &proxy).await.connect(there).await;
            answer.assert_refused(502, "destination_ip_prohibited");
            let mut client = Http2::over(from(address, &proxy).await.into_stream()).await;
            client.get(&url).await.assert_refused(502, "destination_ip_prohibited");
            let answer = client.connect(there).await.unwrap_err();
            answer.assert_refused(502, "destination_ip_prohibited");
        }
    }
    assert_eq!(origin.accepted(), 0);
    assert!(denied(&proxy, "local").await >= 24.0);
    let answer = from("127.9.9.9", &proxy).await.get(origin.url("/")).await;
    assert_eq!(answer.status(), 200, "it is the client's address that counts");
}

#[tokio::test]
async fn who_comes_from_elsewhere_goes_where_a_rule_lets_them() {
    let (origin, other) = (Origin::start(), Origin::at("127.0.0.2"));
    let flags = "--proxy-protocol-from 127.0.0.0/8 --egress-allow 127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    for address in ELSEWHERE {
        assert_eq!(from(address, &proxy).await.get(origin.url("/")).await.status(), 200);
        assert_eq!(from(address, &proxy).await.connect(origin.authority()).await.status(), 200);
        let mut client = Http2::over(from(address, &proxy).await.into_stream()).await;
        assert_eq!(client.get(&origin.url("/")).await.status, 200);
        drop(client.tunnel(&origin.authority()).await);
        let answer = from(address, &proxy).await.get(other.url("/")).await;
        answer.assert_refused(502, "destination_ip_prohibited");
        let own = from(address, &proxy).await.connect(proxy.address).await;
        own.assert_refused(502, "destination_ip_prohibited");
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn who_comes_from_elsewhere_does_not_go_on_a_connection_that_is_kept_either() {
    let origin = Origin::start();
    // One thread, whose pool all clients share.
    let flags = "--proxy-protocol-from 127.0.0.0/8 --threads 1 --pool-idle 60s";
    let proxy = narrows().flags(flags).start().await;
    assert_eq!(from("127.0.0.1", &proxy).await.get(origin.url("/")).await.status(), 200);
    wait_until("it is kept", async || proxy.host(&origin.authority()).await.idle == 1).await;
    let answer = from("203.0.113.9", &proxy).await.get(origin.url("/")).await;
    answer.assert_refused(502, "destination_ip_prohibited");
    assert_eq!(from("127.0.0.1", &proxy).await.get(origin.url("/")).await.status(), 200);
    assert_eq!((origin.accepted(), origin.hits()), (1, 2));
}

#[tokio::test]
async fn who_has_a_limit_of_their_own_goes_nowhere_else_either() {
    let origin = Origin::start();
    let names = Names::of(&[("bad.test", &["127.0.0.1"])]).await;
    let flags = "--identity-limit *=5 --egress-deny bad.test,127.0.0.2";
    let proxy = narrows().flags(flags).flags(format!("--resolver {}", names.address()));
    let proxy = proxy.start().await;
    let url = format!("http://bad.test:{}/", origin.port());
    proxy.get(url).await.assert_refused(403, "http_request_denied");
    let answer = proxy.get(format!("http://127.0.0.2:{}/", origin.port())).await;
    answer.assert_refused(502, "destination_ip_prohibited");
    assert_eq!((names.asked(), origin.accepted()), (0, 0));
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
}
