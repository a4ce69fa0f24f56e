//! Where the proxy goes and where it does not, judged by what the origin saw.

use std::net::IpAddr;
use std::net::TcpListener;
use std::net::UdpSocket;

use crate::support::Names;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::narrows;
use crate::support::wait_until;

async fn denied(proxy: &Proxy, rule: &str) -> f64 {
    proxy.metric("narrows_egress_denied_total", &[("rule", rule)]).await
}

/// An address of this machine other than loopback, where it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_loopback() && !own.is_unspecified())
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

#[tokio::test]
async fn who_comes_from_elsewhere_reaches_nothing_on_loopback_by_kept_connections_either() {
    let Some(own) = own_address() else { return };
    let (origin, spare) = (Origin::start(), Origin::start());
    // One thread, whose pool all clients share.
    let flags = "--bind 0.0.0.0 --threads 1 --pool-idle 60s --egress-allow";
    let flags = format!("{flags} {}", spare.authority());
    let proxy = narrows().flags(flags).start().await;
    let port = proxy.address.port();
    let mut inside = crate::support::Client::to(([127, 0, 0, 1], port).into()).await;
    assert_eq!(inside.get(origin.url("/")).await.status(), 200);
    wait_until("it is kept", async || proxy.host(&origin.authority()).await.idle == 1).await;

    let outside = async || crate::support::Client::to((own, port).into()).await;
    let answer = outside().await.get(origin.url("/")).await;
    answer.assert_refused(502, "destination_ip_prohibited");
    assert_eq!(origin.hits(), 1, "not by the connection that is kept, either");
    let answer = outside().await.connect(origin.authority()).await;
    answer.assert_refused(502, "destination_ip_prohibited");
    assert_eq!(outside().await.get(spare.url("/")).await.status(), 200, "a rule names it");
    let admin = proxy.admin.unwrap();
    let answer = outside().await.get(format!("http://{admin}/healthz")).await;
    answer.assert_refused(502, "destination_ip_prohibited");
    for host in [own.to_string(), "127.0.0.1".to_owned()] {
        let answer = outside().await.get(format!("http://{host}:{port}/")).await;
        answer.assert_refused(502, "destination_ip_prohibited");
    }
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
