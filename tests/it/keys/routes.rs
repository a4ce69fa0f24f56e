//! Every route asks for a key, and none passes it on.

use ipnet::IpNet;
use narrows::policy::Mode;
use narrows::policy::access::keys;
use narrows::policy::cache;

use super::ALICE;
use super::BOB;
use super::File;
use super::Served;
use super::api;
use super::basic;
use super::line;
use crate::support::Client;
use crate::support::Origin;
use crate::support::Users;
use crate::support::users::own;
use crate::support::wait_until;

/// C2.7 of the scenarios.
#[tokio::test]
async fn by_no_route_is_anybody_served_without_a_key_that_holds() {
    let origin = Origin::start();
    let served = Served::new(api(
        &origin,
        &[line("alice", ALICE, ""), line("bob", BOB, "expires=2001-01-01")],
    ));
    let refused = [401, 407, 407, 401, 407, 407];
    assert_eq!(served.statuses(&origin, &[], &[]).await, refused);
    for key in [
        "nk_nobody-0123456789abcdef",
        &ALICE[1..],
        &format!("{ALICE}0"),
        BOB,
        &ALICE.to_uppercase(),
    ] {
        let (gateway, proxy) = (format!("X-API-Key: {key}"), basic(key));
        assert_eq!(served.statuses(&origin, &[&gateway], &[&proxy]).await, refused, "{key}");
        let (gateway, proxy) =
            (format!("Authorization: Bearer {key}"), format!("Proxy-Authorization: Bearer {key}"));
        assert_eq!(served.statuses(&origin, &[&gateway], &[&proxy]).await, refused, "{key}");
    }
    // What is for the other kind of route is not heard.
    let (gateway, proxy) = (basic(ALICE), format!("X-API-Key: {ALICE}"));
    assert_eq!(served.statuses(&origin, &[&gateway], &[&proxy]).await, refused);
    assert_eq!((origin.hits(), origin.accepted()), (0, 0));

    for (gateway, proxy) in [
        (format!("X-API-Key: {ALICE}"), basic(ALICE)),
        (format!("Authorization: Bearer {ALICE}"), format!("Proxy-Authorization: Bearer {ALICE}")),
        (format!("x-api-key:   {ALICE}  "), crate::support::users::field(ALICE, "")),
    ] {
        let gateway = gateway.replace(":   ", ": ");
        assert_eq!(served.statuses(&origin, &[gateway.trim()], &[&proxy]).await, [200; 6]);
    }
}

#[tokio::test]
async fn whoever_is_refused_is_told_how_to_ask() {
    let origin = Origin::start();
    let served = Served::new(api(&origin, &[line("alice", ALICE, "")]));
    let mut client = Client::to(served.address).await;
    let answer = client.get("/api/a/x").await;
    answer.assert_refused(401, "http_request_error");
    let asked: Vec<&str> = answer.head.all("www-authenticate");
    assert_eq!(asked, [r#"ApiKey realm="a", header="x-api-key""#, r#"Bearer realm="a""#]);
    let answer = client.request("GET", "/api/a/x", &["Authorization: Bearer wrong"]).await;
    let asked = answer.head.all("www-authenticate")[1];
    assert!(asked.contains(r#"error="invalid_token""#), "{asked}");
    let answer = client.get(origin.url("/x")).await;
    answer.assert_refused(407, "http_request_error");
    let asked: Vec<&str> = answer.head.all("proxy-authenticate");
    assert_eq!(asked, [r#"Basic realm="a""#, r#"Bearer realm="a""#]);
}

/// C-16 of the defects: ours goes to no upstream, and the origin's own does.
#[tokio::test]
async fn what_was_shown_to_us_goes_to_no_upstream_and_what_is_the_origins_does() {
    let origin = Origin::start();
    let served = Served::new(api(&origin, &[line("alice", ALICE, "")]));
    let mut client = Client::to(served.address).await;
    let key = format!("X-API-Key: {ALICE}");
    let bearer = format!("Authorization: Bearer {ALICE}");
    for (url, fields, authorization, x_api_key) in [
        ("/api/a/1".to_owned(), [&*key, "X-Other: 1"], None, None),
        (
            "/api/a/2".to_owned(),
            [&*key, "Authorization: Bearer origins"],
            Some("Bearer origins"),
            None,
        ),
        ("/api/a/3".to_owned(), [&*bearer, "X-Other: 1"], None, None),
        (
            origin.url("/4"),
            [&*basic(ALICE), "Authorization: Bearer origins"],
            Some("Bearer origins"),
            None,
        ),
        (origin.url("/5"), [&*basic(ALICE), "X-API-Key: origins"], None, Some("origins")),
    ] {
        assert_eq!(client.request("GET", &url, &fields).await.status(), 200, "{url}");
        let seen = origin.seen().pop().unwrap();
        assert!(!format!("{seen:?}").contains(ALICE), "{seen:?}");
        assert_eq!(seen.head.field("authorization"), authorization, "{url}");
        assert_eq!(seen.head.field("x-api-key"), x_api_key, "{url}");
        assert_eq!(seen.head.field("proxy-authorization"), None);
    }
}

#[tokio::test]
async fn of_several_keys_nobody_could_say_which_counts() {
    let origin = Origin::start();
    let served = Served::new(api(&origin, &[line("alice", ALICE, ""), line("bob", BOB, "")]));
    let (alice, bob) = (format!("X-API-Key: {ALICE}"), format!("X-API-Key: {BOB}"));
    let mut client = Client::to(served.address).await;
    for fields in [[&alice, &bob], [&alice, &alice]] {
        let fields: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
        let answer = client.request("GET", "/api/a/x", &fields).await;
        answer.assert_refused(400, "http_request_error");
        let asked = answer.head.all("www-authenticate")[1];
        assert!(asked.contains(r#"error="invalid_request""#), "{asked}");
    }
    let fields = [&*basic(ALICE), &*basic(BOB)];
    assert_eq!(client.request("GET", &origin.url("/x"), &fields).await.status(), 400);
    assert_eq!(
        Client::to(served.address).await.connect_with(origin.authority(), &fields).await.status(),
        400
    );
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn a_key_may_be_used_for_its_scopes_alone() {
    let origin = Origin::start();
    let served =
        Served::new(api(&origin, &[line("alice", ALICE, "scopes=read:/v1,POST:/v1/orders")]));
    let key = format!("X-API-Key: {ALICE}");
    let mut client = Client::to(served.address).await;
    for (method, path, status) in [
        ("GET", "/v1/x?a=b", 200),
        ("GET", "/v2/x", 403),
        ("DELETE", "/v1/x", 403),
        ("POST", "/v1/orders", 200),
        ("POST", "/v1/users", 403),
        ("GET", "/v1/%2e%2e/v2", 403),
    ] {
        let fields = [&*key, "Content-Length: 0"];
        let answer = client.request(method, &format!("/api/a{path}"), &fields).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        if status == 403 {
            let asked = answer.head.all("www-authenticate")[1];
            assert!(asked.contains(r#"error="insufficient_scope""#), "{asked}");
        }
        let fields = [&*basic(ALICE), "Content-Length: 0"];
        let answer = client.request(method, &origin.url(path), &fields).await;
        assert_eq!(answer.status(), status, "{method} {path}");
    }
    // Of a tunnel nobody sees a method or a path.
    let answer =
        Client::to(served.address).await.connect_with(origin.authority(), &[&basic(ALICE)]).await;
    answer.assert_refused(403, "http_request_denied");
}

#[tokio::test]
async fn where_an_api_has_keys_they_stand_in_the_place_of_the_proxys_passwords() {
    let (origin, other, users) = (Origin::start(), Origin::start(), Users::new(&["carol"]));
    let served = Served::with(api(&origin, &[line("alice", ALICE, "")]), |config| {
        config.clients.users = Some(users.path.clone());
    });
    let key = format!("X-API-Key: {ALICE}");
    assert_eq!(served.statuses(&origin, &[&key], &[&basic(ALICE)]).await, [200; 6]);
    let mut settings = api(&origin, &[line("alice", ALICE, "")]);
    settings.gateway.methods = vec![http::Method::POST];
    let narrow = Served::with(settings, |config| config.clients.users = Some(users.path.clone()));
    let answer = Client::to(narrow.address).await.request("GET", "/api/a/x", &[&key]).await;
    answer.assert_refused(405, "http_request_error");
    // A user of the proxy is nobody to the API, and a key of the API is nothing to other hosts.
    assert_eq!(
        served.statuses(&origin, &[&own("carol")], &[&own("carol")]).await,
        [401, 407, 407, 401, 407, 407]
    );
    let mut client = Client::to(served.address).await;
    assert_eq!(client.request("GET", &other.url("/"), &[&basic(ALICE)]).await.status(), 407);
    assert_eq!(client.request("GET", &other.url("/"), &[&own("carol")]).await.status(), 200);
    assert_eq!(
        Client::to(served.address)
            .await
            .connect_with(other.authority(), &[&basic(ALICE)])
            .await
            .status(),
        407
    );
}

#[tokio::test]
async fn what_is_kept_of_an_api_is_for_all_its_keys_and_for_nobody_without_one() {
    let origin = Origin::start();
    let mut settings = api(&origin, &[line("alice", ALICE, ""), line("bob", BOB, "scopes=/v1")]);
    settings.cache = Some(cache::Settings::default());
    let served = Served::new(settings);
    for (fields, status) in [
        (&[][..], 401),
        (&[&*format!("X-API-Key: {ALICE}")], 200),
        (&[&*format!("Authorization: Bearer {ALICE}")], 200),
        (&[&*format!("Authorization: Bearer {BOB}")], 403),
        (&["X-API-Key: nk_nobody-0123456789abcdef"], 401),
        (&[], 401),
    ] {
        let mut client = Client::to(served.address).await;
        let answer = client.request("GET", "/api/a/x", fields).await;
        assert_eq!(answer.status(), status, "{fields:?}");
    }
    assert_eq!(origin.hits(), 1, "the field that is ours is none of the origin's");
}

#[tokio::test]
async fn a_key_opens_nothing_to_a_network_that_may_not_use_the_proxy() {
    let origin = Origin::start();
    let served = Served::with(api(&origin, &[line("alice", ALICE, "")]), |config| {
        config.clients.networks = vec!["10.0.0.0/8".parse::<IpNet>().unwrap()];
    });
    let key = format!("X-API-Key: {ALICE}");
    assert_eq!(served.statuses(&origin, &[&key], &[&basic(ALICE)]).await, [403; 6]);
}

#[tokio::test]
async fn keys_that_are_only_observed_keep_nobody_out_and_let_nobody_in() {
    let (origin, users) = (Origin::start(), Users::new(&["carol"]));
    let mut settings = api(&origin, &[line("alice", ALICE, "")]);
    settings.keys.as_mut().unwrap().mode = Mode::Observe;
    let served = Served::new(settings.clone());
    let key = format!("X-API-Key: {ALICE}");
    for (gateway, proxy) in [
        (&[][..], &[][..]),
        (&[&*key], &[&*basic(ALICE)]),
        (&["X-API-Key: wrong"], &["Proxy-Authorization: Bearer wrong"]),
    ] {
        assert_eq!(served.statuses(&origin, gateway, proxy).await, [200; 6]);
    }
    assert!(!format!("{:?}", origin.seen()).contains(ALICE));
    // Nor does a key go on that may not be used for this, has expired, or is not the only one.
    let mut some = settings.clone();
    let lines = [line("alice", ALICE, "scopes=write"), line("bob", BOB, "expires=2001-01-01")];
    some.keys.as_mut().unwrap().own = lines.map(|line| line.trim().parse().unwrap()).to_vec();
    let some = Served::new(some);
    let bob = format!("Authorization: Bearer {BOB}");
    for fields in
        [&[&*key][..], &[&*bob], &["X-API-Key: other", &*key], &[&*bob, "Authorization: x"]]
    {
        let mut client = Client::to(some.address).await;
        assert_eq!(client.request("GET", "/api/a/x", fields).await.status(), 200, "{fields:?}");
        let seen = format!("{:?}", origin.seen().pop());
        assert!(!seen.contains(ALICE) && !seen.contains(BOB), "{seen}");
    }
    let served = Served::with(settings, |config| config.clients.users = Some(users.path.clone()));
    assert_eq!(
        served.statuses(&origin, &[&key], &[&basic(ALICE)]).await,
        [401, 407, 407, 401, 407, 407]
    );
    assert_eq!(served.statuses(&origin, &[&own("carol")], &[&own("carol")]).await, [200; 6]);
}

#[tokio::test]
async fn keys_rotate_under_load_and_no_request_fails() {
    let origin = Origin::start();
    let file = File::new(&line("alice", ALICE, ""));
    let mut settings = api(&origin, &[]);
    settings.keys =
        Some(keys::Settings { file: Some(file.path.clone()), ..keys::Settings::default() });
    let served = Served::new(settings);
    let status = async |key: &str| {
        let field = format!("X-API-Key: {key}");
        Client::to(served.address).await.request("GET", "/api/a/x", &[&field]).await.status()
    };
    let address = served.address;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let old = tokio::spawn(async move {
        let (mut client, mut count) = (Client::to(address).await, 0);
        let field = format!("X-API-Key: {ALICE}");
        while !*stopped.borrow_and_update() {
            assert_eq!(client.request("GET", "/api/a/x", &[&field]).await.status(), 200);
            count += 1;
        }
        count
    });
    // Both hold while clients change, and then the new one alone.
    file.replace(&(line("alice", ALICE, "") + &line("alice", BOB, "")));
    wait_until("the new key holds", async || status(BOB).await == 200).await;
    assert_eq!(status(ALICE).await, 200);
    stop.send(true).unwrap();
    assert!(old.await.unwrap() > 0);
    file.replace(&line("alice", BOB, ""));
    wait_until("the old key is gone", async || status(ALICE).await == 401).await;
    assert_eq!(status(BOB).await, 200);
    // A file that is wrong changes nothing.
    file.replace("nonsense");
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!((status(BOB).await, status(ALICE).await), (200, 401));
}
