//! Who may use the gateway, and by which field they say so.

use http::Request;
use narrows::Config;
use narrows::listen::tls;
use narrows::listen::tls::Clients;
use narrows::policy::access::Lists;
use narrows::policy::api::Forwarded;
use narrows::policy::api::Gateway;
use tokio::net::TcpStream;

use super::Served;
use super::with;
use crate::support::Certs;
use crate::support::Origin;
use crate::support::Response;
use crate::support::Users;
use crate::support::Wire;
use crate::support::users::credentials;
use crate::support::users::own;

const CHALLENGE: &str = "Basic realm=\"narrows\", charset=\"UTF-8\"";

/// A gateway for alice alone.
fn guarded(origin: &Origin, users: &Users, forward_headers: Forwarded) -> Served {
    let gateway = Gateway { forward_headers, ..Gateway::default() };
    Served::with([with(origin, gateway)], |config: &mut Config| {
        config.clients.users = Some(users.path.clone());
    })
}

fn basic(user: &str) -> String {
    format!("Authorization: {}", credentials(user, &format!("{user}'s")))
}

fn assert_asked(answer: &Response) {
    answer.assert_refused(401, "http_request_error");
    assert_eq!(answer.head.field("www-authenticate"), Some(CHALLENGE));
    assert_eq!(answer.head.field("proxy-authenticate"), None);
}

#[tokio::test]
async fn a_stranger_is_asked_by_401_and_learns_of_no_api() {
    let (origin, users) = (Origin::start(), Users::new(&["alice"]));
    let served = guarded(&origin, &users, Forwarded::None);
    let wrong = format!("Authorization: {}", credentials("alice", "x"));
    for path in ["/api/a/x", "/api/nope/x"] {
        for fields in [&[][..], &[&*wrong], &["Authorization: Bearer x"], &[&*basic("bob")]] {
            assert_asked(&served.request("GET", path, fields).await);
        }
        let answer = served.http2().await.get(&served.url(path)).await;
        answer.assert_refused(401, "http_request_error");
        assert_eq!(answer.field("www-authenticate"), Some(CHALLENGE));
    }
    let forward = served.client().await.get(origin.url("/x")).await;
    forward.assert_refused(407, "http_request_error");
    assert_eq!(served.get("/health").await.status(), 200);
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_client_says_who_it_is_by_either_field_and_neither_goes_on() {
    let (origin, users) = (Origin::start(), Users::new(&["alice"]));
    for forward_headers in [Forwarded::None, Forwarded::All] {
        let served = guarded(&origin, &users, forward_headers);
        for field in [basic("alice"), own("alice")] {
            assert_eq!(served.request("GET", "/api/a/x", &[&field]).await.status(), 200, "{field}");
            let seen = origin.seen().pop().unwrap().head;
            assert!(seen.all("authorization").is_empty(), "{seen:?}");
            assert!(seen.all("proxy-authorization").is_empty(), "{seen:?}");
        }
        let request = Request::get(served.url("/api/a/x"));
        let request = request.header("authorization", credentials("alice", "alice's"));
        let answer = served.http2().await.request(request.body(()).unwrap(), b"").await;
        assert_eq!(answer.status, 200);
        assert!(origin.seen().pop().unwrap().head.all("authorization").is_empty());
    }
}

#[tokio::test]
async fn an_authorization_beside_our_own_field_is_the_apis() {
    let (origin, users) = (Origin::start(), Users::new(&["alice"]));
    let served = guarded(&origin, &users, Forwarded::All);
    let fields = [&*own("alice"), "Authorization: Bearer api"];
    assert_eq!(served.request("GET", "/api/a/x", &fields).await.status(), 200);
    assert_eq!(origin.only().head.field("authorization"), Some("Bearer api"));
    // Ours counts first, whatever the other says.
    let fields = [&*own("bob"), &*basic("alice")];
    assert_asked(&served.request("GET", "/api/a/x", &fields).await);
}

#[tokio::test]
async fn where_nobody_is_asked_for_a_password_authorization_is_the_apis() {
    let origin = Origin::start();
    let gateway = Gateway { forward_headers: Forwarded::All, ..Gateway::default() };
    for networks in [vec![], vec!["127.0.0.0/8".parse().unwrap()]] {
        let served = Served::with([with(&origin, gateway.clone())], |config: &mut Config| {
            config.clients.networks = networks;
        });
        let fields = ["Authorization: Basic eDp5"];
        assert_eq!(served.request("GET", "/api/a/x", &fields).await.status(), 200);
        let seen = origin.seen().pop().unwrap().head;
        assert_eq!(seen.field("authorization"), Some("Basic eDp5"));
    }
}

#[tokio::test]
async fn a_client_of_another_network_is_refused_by_403() {
    let origin = Origin::start();
    let served = Served::with([with(&origin, Gateway::default())], |config: &mut Config| {
        config.clients.networks = vec!["10.0.0.0/8".parse().unwrap()];
    });
    served.get("/api/a/x").await.assert_refused(403, "http_request_denied");
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn of_a_client_that_is_known_by_its_certificate_authorization_is_the_apis() {
    let (origin, users, certs) = (Origin::start(), Users::new(&["alice"]), Certs::new());
    let (certificate, key) = certs.files("gate", &["gate.test"]);
    let gateway = Gateway { forward_headers: Forwarded::All, ..Gateway::default() };
    let served = Served::with([with(&origin, gateway)], |config: &mut Config| {
        config.clients.users = Some(users.path.clone());
        let clients = Some(Clients { authorities: certs.file(), optional: true });
        config.listen.tls = Some(tls::Settings { certificate, key, clients });
    });
    let known = certs.client_with(&certs.files("carol", &["carol.test"]));
    let unknown = certs.client(&[]);
    for (client, status) in [(known, 200), (unknown, 401)] {
        let stream = TcpStream::connect(served.address).await.unwrap();
        let stream = client.connect("gate.test".try_into().unwrap(), stream).await.unwrap();
        let mut wire = Wire::new(stream);
        let head = "GET /api/a/x HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer api\r\n\r\n";
        wire.send(head).await.unwrap();
        assert_eq!(wire.head().await.unwrap().unwrap().status(), status);
    }
    assert_eq!(origin.only().head.field("authorization"), Some("Bearer api"));
}

#[tokio::test]
async fn an_api_is_only_for_the_addresses_that_its_lists_let_in_by_every_route() {
    let origin = Origin::start();
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    for (allow, deny, is_in) in [
        (&["10.0.0.0/8"][..], &[][..], false),
        (&["127.0.0.0/8"], &["127.0.0.1/32"], false),
        (&["10.0.0.0/8", "127.0.0.1/32"], &["127.0.0.2/32"], true),
    ] {
        let mut settings = with(&origin, Gateway::default());
        settings.hosts = vec![origin.authority().parse().unwrap()];
        settings.lists = Lists { allow: networks(allow), deny: networks(deny), ..Lists::default() };
        let served = Served::new([settings]);
        let mut client = served.client().await;
        let answers = [
            client.get("/api/a/x").await,
            client.get(origin.url("/x")).await,
            served.client().await.connect(origin.authority()).await,
        ];
        let stream = served.http2().await.connect(&origin.authority()).await;
        assert_eq!(stream.is_ok(), is_in, "{allow:?} {deny:?}");
        for answer in answers {
            if is_in {
                assert_eq!(answer.status(), 200);
            } else {
                answer.assert_refused(403, "http_request_denied");
            }
        }
    }
    // Another host is none of the API's business.
    let mut settings = with(&origin, Gateway::default());
    settings.lists.deny = networks(&["127.0.0.0/8"]);
    let other = Origin::start();
    assert_eq!(Served::new([settings]).get(&other.url("/x")).await.status(), 200);
}
