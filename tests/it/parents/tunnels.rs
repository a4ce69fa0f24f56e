//! Tunnels of clients, by parents.

use super::*;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::parent::Act;
use crate::support::wait_until;

async fn tunnel(gate: &Gate, authority: &str) -> Client {
    let mut client = gate.client().await;
    let answer = client.connect(authority).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    client
}

#[tokio::test]
async fn a_tunnel_goes_by_a_parent_with_its_credentials() {
    let (origin, parent) = (Origin::echo(), Parent::for_user(BASIC).await);
    let list = vec![of(&parent, Some(BASIC))];
    let gate = Gate::with(Settings { list, ..Settings::default() }, any_port).await;
    let mut client = tunnel(&gate, &origin.authority()).await;
    client.echo(b"hello").await;
    client.echo(vec![7; 1 << 20]).await;
    let connect = &parent.connects()[0];
    assert_eq!(connect.target(), origin.authority());
    assert_eq!(connect.field("proxy-authorization"), Some(BASIC));
    drop(client);
    wait_until("all is closed", async || parent.open() == 0 && origin.current() == 0).await;
}

#[tokio::test]
async fn bytes_that_come_with_the_parents_answer_are_the_tunnels() {
    let certs = Certs::new();
    let secure = Parent::secure(certs.server(&["127.0.0.1"], &[]).0).await;
    for parent in [Parent::start().await, secure] {
        let origin = Origin::echo();
        parent.speaks_first(b"SSH-2.0-first\r\n");
        let gate = Gate::with(plain(&[&parent]), |config| {
            any_port(config);
            config.upstream.authorities.push(certs.file());
        })
        .await;
        let mut client = tunnel(&gate, &origin.authority()).await;
        assert_eq!(client.exactly(15).await, b"SSH-2.0-first\r\n");
        client.echo(b"hello").await;
        client.echo(vec![7; 600_000]).await;
    }
}

#[tokio::test]
async fn a_tunnel_leaves_by_another_parent_where_the_first_is_no_good() {
    let (origin, parents) = (Origin::echo(), three().await);
    parents[0].always("*", Act::Close);
    parents[1].always("*", Act::Answer(407));
    let gate = Gate::with(plain(&parents.each_ref()), any_port).await;
    for _ in 0..4 {
        tunnel(&gate, &origin.authority()).await.echo(b"hello").await;
    }
    assert_eq!(hits(&parents), [1, 1, 4], "what is no good is not tried again");
}

#[tokio::test]
async fn tunnels_of_http_2_go_by_a_parent_too() {
    let (origin, parent) = (Origin::echo(), Parent::start().await);
    let gate = Gate::with(plain(&[&parent]), any_port).await;
    let mut client = Http2::to(gate.address).await;
    let mut tunnel = client.tunnel(&origin.authority()).await;
    tunnel.echo("hello").await;
    assert_eq!(parent.connects().len(), 1);
}

#[tokio::test]
async fn what_a_parent_says_of_the_destination_is_told() {
    let parent = Parent::start().await;
    let gate = Gate::with(plain(&[&parent]), any_port).await;
    for (act, status, word) in [
        (Act::Answer(502), 502, "destination_unavailable"),
        (Act::Answer(504), 504, "connection_timeout"),
        (Act::Say(b"HTTP/1.1 200 OK\n\n"), 502, "http_protocol_error"),
        (Act::Say(b"SSH-2.0-x\r\n"), 502, "http_protocol_error"),
        (Act::Close, 502, "connection_terminated"),
    ] {
        let settings = Settings { ban: Duration::ZERO, ..plain(&[&parent]) };
        gate.app().set_apis(&[default_api(settings)]);
        for _ in 0..3 {
            parent.next(act.clone());
        }
        let answer = gate.client().await.connect("a.test:443").await;
        answer.assert_refused(status, word);
        let settings = plain(&[&parent]);
        gate.app().set_apis(&[default_api(settings)]);
        while parent.hits() % 3 != 0 {
            gate.client().await.connect("b.test:443").await;
        }
    }
}

#[tokio::test]
async fn a_parent_that_says_nothing_is_given_up() {
    let (origin, parent) = (Origin::echo(), Parent::start().await);
    parent.always("*", Act::Hang);
    let gate = Gate::with(plain(&[&parent]), |config| {
        any_port(config);
        config.upstream.connect_timeout = Duration::from_millis(200);
    })
    .await;
    let answer = gate.client().await.connect(origin.authority()).await;
    answer.assert_refused(504, "connection_timeout");
    wait_until("it is let go", async || parent.open() == 0).await;
}

#[tokio::test]
async fn where_it_may_go_is_judged_though_the_parent_looks_names_up() {
    let parent = Parent::start().await;
    let gate = Gate::with(plain(&[&parent]), |config| {
        any_port(config);
        config.upstream.egress.deny.push("bad.test".parse().unwrap());
        config.upstream.egress.deny.push("192.0.2.0/24".parse().unwrap());
    })
    .await;
    for (to, status, word) in [
        ("bad.test:443", 403, "http_request_denied"),
        ("192.0.2.1:443", 502, "destination_ip_prohibited"),
    ] {
        gate.client().await.connect(to).await.assert_refused(status, word);
    }
    assert_eq!(parent.hits(), 0);
}

#[tokio::test]
async fn a_parent_that_is_this_proxy_is_not_dialled() {
    let first = Parent::start().await;
    let gate = Gate::with(plain(&[&first]), any_port).await;
    let own = narrows::policy::parents::Parent {
        name: "http://own".into(),
        tls: false,
        authority: Authority::parse(&gate.address.to_string(), None).unwrap(),
        authorization: None,
        weight: 1,
    };
    let settings = Settings { list: vec![Arc::new(own)], ..Settings::default() };
    gate.app().set_apis(&[default_api(settings)]);
    let answer = gate.client().await.connect("a.test:443").await;
    answer.assert_refused(502, "proxy_loop_detected");
    gate.get("http://a.test/").await.assert_refused(502, "proxy_loop_detected");
}

fn any_port(config: &mut Config) {
    config.upstream.egress.connect_ports = vec!["1-65535".parse().unwrap()];
}
