//! What one instance finds out about parents, all of the fleet know.

use super::*;
use crate::support::Origin;
use crate::support::parent::Act;
use crate::support::wait_until;

async fn keys(redis: &Redis) -> String {
    let keys: Vec<String> = redis.ask("KEYS *@p:parents*").await;
    let mut all = keys.join(" ");
    for key in keys {
        let values: Vec<String> = redis.ask(&format!("HVALS {key}")).await;
        let fields: Vec<String> = redis.ask(&format!("HKEYS {key}")).await;
        let ttl: i64 = redis.ask(&format!("PTTL {key}")).await;
        assert!(ttl > 0, "{key} stays for ever");
        all += &format!(" {fields:?} {values:?}");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_that_one_instance_makes_holds_for_all_and_for_those_that_come_later() {
    let (redis, origin, parents) = (Redis::start().await, Origin::start(), three().await);
    let list: Vec<_> = parents.iter().map(|parent| of(parent, Some(BASIC))).collect();
    let settings = Settings { list, ..Settings::default() };
    let one = Gate::with(settings.clone(), sharing(&redis)).await;
    let other = Gate::with(settings.clone(), sharing(&redis)).await;
    parents[0].always(origin.authority(), Act::Answer(429));
    // Until Redis is found nobody hears anything: so more than once, for hosts of their own.
    let mut seen = false;
    wait_until("the ban stands in Redis", async || {
        if !seen {
            let fresh = Origin::start();
            parents[0].always(fresh.authority(), Act::Answer(429));
            for _ in 0..3 {
                one.get(fresh.url("/x")).await;
            }
        }
        seen = keys(&redis).await.contains("limited");
        seen
    })
    .await;
    while one.get(origin.url("/x")).await.status() != 429 {}
    let field = format!("{} {}", parents[0].url(""), origin.authority());
    wait_until("this one too", async || keys(&redis).await.contains(&field)).await;
    let all = keys(&redis).await;
    assert!(!all.contains(&BASIC[6..]) && !all.contains("secret"), "{all}");

    let late = Gate::with(settings, sharing(&redis)).await;
    let clean = async |gate: &Gate| {
        let before = parents[0].hits();
        let mut good = true;
        for _ in 0..3 {
            good &= gate.get(origin.url("/x")).await.status() == 200;
        }
        good && parents[0].hits() == before
    };
    assert!(clean(&other).await, "it was told");
    wait_until("the late one has learned", async || clean(&late).await).await;
}
