//! What parents are told of us, and who else is not.

use super::*;
use crate::support::Origin;

#[tokio::test]
async fn a_plain_request_goes_in_absolute_form_with_credentials_that_the_origin_never_sees() {
    let (origin, parent) = (Origin::start(), Parent::for_user(BASIC).await);
    let list = vec![of(&parent, Some(BASIC))];
    let gate = Gate::start(Settings { list, ..Settings::default() }).await;
    let url = origin.url("/a%2Fb//c?x=1&x=2");
    let field = "Proxy-Authorization: Basic Y2xpZW50OmNsaWVudA==";
    assert_eq!(gate.get_with(&url, field).await.status(), 200);
    let seen = &parent.requests()[0];
    assert_eq!(seen.target(), url);
    assert_eq!(seen.field("proxy-authorization"), Some(BASIC), "ours, not the client's");
    assert_eq!(seen.all("via").len(), 1);
    let seen = origin.only().head;
    assert_eq!(seen.target(), "/a%2Fb//c?x=1&x=2");
    assert_eq!(seen.field("proxy-authorization"), None);
}

#[tokio::test]
async fn inside_a_tunnel_no_request_has_the_credentials() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["localhost"], &["http/1.1"]).0);
    let parent = Parent::for_user(BASIC).await;
    let list = vec![of(&parent, Some(BASIC))];
    let settings = Settings { list, ..Settings::default() };
    let gate = Gate::with(settings, trusting(&certs)).await;
    let mut client = gate.client().await;
    for _ in 0..3 {
        client.get(format!("https://localhost:{}/x", origin.port())).await;
    }
    assert_eq!(parent.connects()[0].field("proxy-authorization"), Some(BASIC));
    for seen in origin.seen() {
        assert_eq!(seen.head.field("proxy-authorization"), None, "{:?}", seen.head);
        assert_eq!(seen.head.target(), "/x");
    }
    assert_eq!(origin.hits(), 3);
}

#[tokio::test]
async fn a_parent_that_wants_other_credentials_is_no_matter_of_the_clients() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["localhost"], &["http/1.1"]).0);
    let parent = Parent::for_user(BASIC).await;
    let gate = Gate::with(plain(&[&parent]), trusting(&certs)).await;
    let response = gate.get(format!("https://localhost:{}/x", origin.port())).await;
    response.assert_refused(502, "proxy_configuration_error");
    assert_eq!(response.head.field("proxy-authenticate"), None);
    let plain_origin = Origin::start();
    let response = gate.get(plain_origin.url("/x")).await;
    response.assert_refused(502, "http_protocol_error");
    assert_eq!(response.head.field("proxy-authenticate"), None);
    assert_eq!((origin.hits(), plain_origin.hits()), (0, 0));
}

#[tokio::test]
async fn an_answer_says_nothing_of_the_parent() {
    let parent = crate::support::Closed::new();
    let mut gone = narrows::policy::parents::Parent {
        name: "x".into(),
        tls: false,
        authority: Authority::parse(&parent.authority(), None).unwrap(),
        authorization: Some(HeaderValue::from_static(BASIC)),
        weight: 1,
    };
    gone.name = format!("http://{}", parent.authority()).into();
    let settings = Settings { list: vec![Arc::new(gone)], ..Settings::default() };
    let gate = Gate::start(settings).await;
    let response = gate.get("http://a.test/x").await;
    response.assert_refused(502, "connection_refused");
    let all = format!("{:?} {}", response.head, response.text());
    assert!(!all.contains(&parent.authority()) && !all.contains(BASIC), "{all}");
    let response = gate.get("http://a.test/x").await;
    let all = format!("{:?} {}", response.head, response.text());
    assert!(!all.contains(&parent.authority()), "{all}");
}
