//! What operators see of quotas, and change.

use super::File;
use super::ask_from;
use super::assert_over;
use super::early_in;
use super::passed;
use crate::support::Origin;
use crate::support::Redis;

#[tokio::test]
async fn an_operator_sees_what_a_client_has_used_in_the_fleet_and_lets_it_begin_anew() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, "{minute: 100, hour: 5}");
    let setup = || file.setup().shared(&redis).env("NARROWS_ADMIN_TOKEN", "sesame");
    let [one, other] = [setup().start().await, setup().start().await];
    for proxy in [&one, &other] {
        proxy.wait_until_up().await;
    }
    early_in(3600).await;
    assert_eq!(passed(&one, 2, &[]).await, 2);
    assert_eq!(passed(&other, 4, &[]).await, 3);

    let list = one.admin("/quota").await.json();
    assert_eq!(list["quotas"][0]["api"], "a");
    assert_eq!(list["quotas"][0]["tiers"][1]["tier"], "hour");
    for proxy in [&one, &other] {
        let told = proxy.admin("/quota/127.0.0.1").await.json();
        let quotas = told["quotas"].as_array().unwrap();
        assert_eq!(quotas.len(), 1, "{told}");
        let hour = &quotas[0]["tiers"][1];
        assert_eq!((&quotas[0]["api"], &quotas[0]["key"]), (&"a".into(), &"127.0.0.1".into()));
        assert_eq!(
            (&hour["used"], &hour["limit"], &hour["remaining"]),
            (&5.into(), &5.into(), &0.into())
        );
        assert!(
            hour["reset"].as_f64().is_some_and(|reset| (0.0..=3600.0).contains(&reset)),
            "{told}"
        );
    }
    let unused = one.admin("/quota/203.0.113.5?api=a").await.json();
    assert_eq!(unused["quotas"][0]["tiers"][0]["used"], 0);
    assert_eq!(one.admin("/quota/nobody").await.status(), 404);
    assert_eq!(one.admin("/quota/127.0.0.1?api=b").await.status(), 404);
    assert_eq!(one.admin("/quota/%ff").await.status(), 400);

    let path = "/quota/127.0.0.1";
    assert_eq!(one.admin_request("DELETE", path, &[], "").await.status(), 401);
    let token = ["Authorization: Bearer sesame"];
    assert_eq!(one.admin_request("PUT", path, &token, "").await.status(), 405);
    assert_over(&ask_from(&other, "127.0.0.1", &[]).await, "hour");
    assert_eq!(one.admin_request("DELETE", path, &token, "").await.status(), 200);
    for proxy in [&other, &one] {
        crate::support::wait_until("it begins anew", async || {
            ask_from(proxy, "127.0.0.1", &[]).await.status() == 200
        })
        .await;
    }
}
