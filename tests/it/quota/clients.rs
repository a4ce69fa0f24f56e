//! Whose requests are counted together.

use super::alone;
use super::ask;
use super::ask_from;
use super::assert_over;
use super::early_in;
use super::passed;
use crate::support::Origin;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::users::Users;
use crate::support::users::own;

#[tokio::test]
async fn each_address_has_a_budget_of_its_own() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{hour: 2}").await;
    early_in(3600).await;
    for address in ["127.0.0.1", "127.0.0.2"] {
        for _ in 0..2 {
            assert_eq!(ask_from(&proxy, address, &[]).await.status(), 200, "{address}");
        }
        assert_over(&ask_from(&proxy, address, &[]).await, "hour");
    }
    assert_eq!(origin.hits(), 4);
}

#[tokio::test]
async fn x_forwarded_for_is_believed_of_listed_proxies_alone() {
    let origin = Origin::start();
    let quota = "{hour: 1, trusted_proxies: [127.0.0.9, 10.0.0.0/8]}";
    let (_file, proxy) = alone(&origin, quota).await;
    early_in(3600).await;
    let said = async |from: &str, said: &str| {
        ask_from(&proxy, from, &[&format!("X-Forwarded-For: {said}")]).await.status()
    };
    // Behind the balancer each client is itself, whatever it wrote there before.
    assert_eq!(said("127.0.0.9", "203.0.113.1").await, 200);
    assert_eq!(said("127.0.0.9", "203.0.113.2").await, 200);
    assert_eq!(said("127.0.0.9", "203.0.113.1").await, 429);
    assert_eq!(said("127.0.0.9", "198.51.100.7, 203.0.113.1").await, 429, "forged by the client");
    assert_eq!(said("127.0.0.9", "203.0.113.1, 10.1.2.3").await, 429, "by way of two of ours");
    // From elsewhere it changes nothing: neither another's budget is spent, nor a new one begun.
    assert_eq!(said("127.0.0.3", "203.0.113.9").await, 200);
    assert_eq!(said("127.0.0.3", "203.0.113.10").await, 429);
    assert_eq!(said("127.0.0.9", "203.0.113.9").await, 200);
    assert_eq!(origin.hits(), 4);
}

#[tokio::test]
async fn each_value_of_a_field_has_its_own_and_who_sends_none_is_counted_by_address_apart() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{hour: 2, key: 'header:X-Tenant'}").await;
    early_in(3600).await;
    for tenant in ["X-Tenant: one", "x-tenant: two", "X-Tenant: 127.0.0.1"] {
        assert_eq!(passed(&proxy, 3, &[tenant]).await, 2, "{tenant}");
    }
    assert_eq!(passed(&proxy, 3, &[]).await, 2, "not that of the field with this address in it");
    assert_eq!(ask_from(&proxy, "127.0.0.2", &[]).await.status(), 200, "by address");
}

#[tokio::test]
async fn users_have_their_own_wherever_they_come_from() {
    let origin = Origin::start();
    let users = Users::new(&["alice", "bob"]);
    let proxy =
        users.setup().flags("--quota-hour 2 --quota-minute 100 --quota-key identity").start().await;
    early_in(3600).await;
    let asked = async |user: &str, from: &str| {
        let mut client = crate::support::Client::from(from, proxy.address).await;
        client.request("GET", &origin.url("/"), &[&own(user)]).await.status()
    };
    assert_eq!(asked("alice", "127.0.0.1").await, 200);
    assert_eq!(asked("alice", "127.0.0.2").await, 200);
    assert_eq!(asked("alice", "127.0.0.3").await, 429);
    assert_eq!(asked("bob", "127.0.0.1").await, 200);
}

#[tokio::test]
async fn hosts_and_apis_can_be_counted_for_all_clients_together() {
    let [one, other] = [Origin::start(), Origin::start()];
    let flags = "--quota-hour 2 --quota-minute 100 --quota-key";
    let by_host = narrows().flags(flags).flags("host").start().await;
    early_in(3600).await;
    let get = async |proxy: &crate::support::Proxy, origin: &Origin, from: &str| {
        let mut client = crate::support::Client::from(from, proxy.address).await;
        client.get(origin.url("/")).await.status()
    };
    assert_eq!(get(&by_host, &one, "127.0.0.1").await, 200);
    assert_eq!(get(&by_host, &one, "127.0.0.2").await, 200);
    assert_eq!(get(&by_host, &one, "127.0.0.3").await, 429);
    assert_eq!(get(&by_host, &other, "127.0.0.1").await, 200);
    let by_api = narrows().flags(flags).flags("api").start().await;
    assert_eq!(get(&by_api, &one, "127.0.0.1").await, 200);
    assert_eq!(get(&by_api, &other, "127.0.0.2").await, 200);
    assert_eq!(get(&by_api, &one, "127.0.0.3").await, 429);
    let by_both = narrows().flags(flags).flags("host,address").start().await;
    for from in ["127.0.0.1", "127.0.0.2"] {
        for origin in [&one, &other] {
            for status in [200, 200, 429] {
                assert_eq!(get(&by_both, origin, from).await, status);
            }
        }
    }
}

#[tokio::test]
async fn no_value_of_a_field_is_in_redis_in_logs_or_on_pages() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = super::File::new(
        &origin,
        "{hour: 2, key: 'header:X-Tenant', plans: {paid: {hour: 9, keys: [opensesame]}}}",
    );
    let proxy = file.setup().shared(&redis).flags("--log-level debug").start().await;
    proxy.wait_until_up().await;
    early_in(3600).await;
    for _ in 0..4 {
        ask(&proxy, &["X-Tenant: opensesame"]).await;
        ask(&proxy, &["X-Tenant: sesameother"]).await;
    }
    let keys: Vec<String> = redis.ask("KEYS *").await;
    assert!(keys.iter().any(|key| key.contains("x-tenant=#")), "{keys:?}");
    let pages = [
        proxy.admin("/quota").await.text().to_owned(),
        proxy.admin("/quota/opensesame").await.text().to_owned(),
        proxy.admin("/apis").await.text().to_owned(),
        proxy.admin("/metrics").await.text().to_owned(),
    ];
    assert!(pages[1].contains("\"plan\":\"paid\""), "{pages:?}");
    for text in keys.iter().chain(&pages).chain([&proxy.stderr.text(), &proxy.stdout.text()]) {
        assert!(!text.contains("sesame"), "{text}");
    }
}
