//! Who has how much, and how that changes.

use futures_util::future::join_all;

use super::File;
use super::alone;
use super::early_in;
use super::passed;
use crate::support::Origin;
use crate::support::Redis;
use crate::support::wait_at_most;

const ONE: &str = "X-Tenant: one";
const OTHER: &str = "X-Tenant: other";

fn quota(paid: &str) -> String {
    format!(
        "{{key: 'header:X-Tenant', hour: 5, plans: {{paid: {{hour: 100, keys: [{paid}]}}, \
         inner: {{keys: [staff]}}}}}}"
    )
}

#[tokio::test]
async fn who_has_a_plan_has_its_windows_and_one_without_windows_is_not_counted() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, &quota("other")).await;
    early_in(3600).await;
    assert_eq!(passed(&proxy, 7, &[ONE]).await, 5);
    assert_eq!(passed(&proxy, 7, &[OTHER]).await, 7);
    let mut client = proxy.client().await;
    for _ in 0..9 {
        let answer = client.request("GET", "/api/a/x", &["X-Tenant: staff"]).await;
        assert_eq!((answer.status(), answer.head.field("ratelimit")), (200, None));
    }
    let told = client.request("GET", "/api/a/x", &[OTHER]).await;
    assert_eq!(told.head.field("ratelimit-policy"), Some("\"hour\";q=100;w=3600"));
}

#[tokio::test]
async fn a_file_changes_plans_on_all_instances_within_a_second_and_what_is_in_flight_goes_on() {
    let origin = Origin::start();
    let redis = Redis::start().await;
    let file = File::new(&origin, &quota("other"));
    let start = || file.setup().shared(&redis).start();
    let fleet: Vec<_> = join_all([start(), start()]).await;
    for proxy in &fleet {
        proxy.wait_until_up().await;
    }
    early_in(3600).await;
    assert_eq!(passed(&fleet[0], 7, &[ONE]).await, 5);
    assert_eq!(passed(&fleet[1], 1, &[ONE]).await, 0, "they count together");

    // Its body is not over yet.
    let mut slow = fleet[0].client().await;
    slow.send_request("POST", "/api/a/x", &[OTHER, "Content-Length: 2"]).await;
    slow.send("a").await;
    file.say(&origin, &quota("one"));
    let changed = std::time::Instant::now();
    for proxy in &fleet {
        proxy.hang_up();
    }
    for proxy in &fleet {
        wait_at_most(std::time::Duration::from_secs(1), "the plan holds", async || {
            passed(proxy, 1, &[ONE]).await == 1
        })
        .await;
    }
    assert!(changed.elapsed() < std::time::Duration::from_secs(1), "{:?}", changed.elapsed());
    slow.send("b").await;
    assert_eq!(slow.response("POST").await.status(), 200, "it was under way");
    // What was used before is used still.
    let answer = fleet[0].client().await.request("GET", "/api/a/x", &[ONE]).await;
    let left = answer.head.field("ratelimit").unwrap().to_owned();
    let left: u64 = left.split(';').nth(1).unwrap().trim_start_matches("r=").parse().unwrap();
    assert!(left <= 95 - 3, "{left}");
    assert_eq!(
        passed(&fleet[1], 9, &[OTHER]).await,
        4,
        "and who has it no longer has the rest of five"
    );
}

/// A file of API keys: names, their plans, and what stands behind them.
fn keys(folder: &std::path::Path, lines: &[(&str, &str, &str)]) -> String {
    let line = |(name, key, more): &(&str, &str, &str)| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
        let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} sha256:{} {more}\n", hex.concat())
    };
    let path = folder.join("keys");
    std::fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn two_api_keys_have_separate_budgets_each_by_its_plan_and_an_unknown_one_gets_401() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let lines =
        [("free-1", "key-one", ""), ("free-2", "key-two", ""), ("payer", "key-three", "plan=paid")];
    let path = keys(folder.path(), &lines);
    let quota = format!(
        "{{key: api_key, hour: 5, plans: {{paid: {{hour: 100}}}}}}, keys: {{file: '{path}'}}"
    );
    let (_file, proxy) = alone(&origin, &quota).await;
    early_in(3600).await;
    for key in ["X-API-Key: key-one", "X-API-Key: key-two"] {
        assert_eq!(passed(&proxy, 7, &[key]).await, 5, "{key}");
    }
    assert_eq!(passed(&proxy, 20, &["X-API-Key: key-three"]).await, 20);
    let mut client = proxy.client().await;
    let unknown = client.request("GET", "/api/a/x", &["X-API-Key: key-four"]).await;
    assert_eq!((unknown.status(), unknown.head.field("ratelimit")), (401, None));
    assert_eq!(origin.hits(), 30);
    let told = proxy.admin("/quota/payer?plan=paid").await.json();
    assert_eq!(told["quotas"][0]["key"], "key=payer");
    assert_eq!(told["quotas"][0]["tiers"][0]["used"], 20);
}

#[tokio::test]
async fn tenants_of_tokens_have_separate_budgets_and_the_plan_that_their_token_names() {
    use jsonwebtoken::EncodingKey;
    use jsonwebtoken::Header;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let token = |tenant: &str, subject: &str, plan: &str| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let claims = serde_json::json!({
            "sub": subject, "tenant_id": tenant, "plan": plan, "exp": now.as_secs() + 600,
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        format!("Authorization: Bearer {token}")
    };
    let origin = Origin::start();
    let quota = format!(
        "{{key: 'claim:tenant_id', hour: 3, plans: {{paid: {{hour: 9}}}}, plan_claim: plan}}, \
         jwt: {{secret: {SECRET}}}"
    );
    let (_file, proxy) = alone(&origin, &quota).await;
    early_in(3600).await;
    assert_eq!(passed(&proxy, 2, &[&token("one", "alice", "none")]).await, 2);
    assert_eq!(passed(&proxy, 3, &[&token("one", "bob", "none")]).await, 1, "one tenant");
    assert_eq!(passed(&proxy, 20, &[&token("two", "carol", "paid")]).await, 9);
    let unsigned = "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    let mut client = proxy.client().await;
    let refused = client.request("GET", "/api/a/x", &[unsigned]).await;
    assert_eq!((refused.status(), refused.head.field("ratelimit")), (401, None));
    let told = proxy.admin("/quota/two?plan=paid").await.json();
    assert_eq!(told["quotas"][0]["tiers"][0]["used"], 9, "{told}");
}
