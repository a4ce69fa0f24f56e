//! Each strategy, over the wire.

use http::HeaderName;
use narrows::policy::parents::StickyKey;

use super::*;
use crate::support::Origin;
use crate::support::parent::Act;

#[tokio::test]
async fn round_robin_spreads_evenly_over_connections_and_threads() {
    let (origin, parents) = (Origin::start(), three().await);
    let gate = Gate::by(&parents.each_ref()).await;
    for _ in 0..9 {
        assert_eq!(gate.get(origin.url("/x")).await.text(), "/x");
    }
    assert_eq!(hits(&parents), [3, 3, 3]);
    assert_eq!(origin.hits(), 9);
}

#[tokio::test]
async fn sticky_requests_of_one_client_go_by_one_parent() {
    let (origin, parents) = (Origin::start(), three().await);
    let strategy = Strategy::Sticky(StickyKey::ClientIp);
    let gate = Gate::start(by(strategy, &parents.each_ref())).await;
    for _ in 0..6 {
        gate.get(origin.url("/x")).await;
    }
    let mut hits = hits(&parents);
    hits.sort_unstable();
    assert_eq!(hits, [0, 0, 6]);
}

#[tokio::test]
async fn sticky_requests_are_told_apart_by_a_field_that_goes_on() {
    let (origin, parents) = (Origin::start(), three().await);
    let strategy = Strategy::Sticky(StickyKey::Header(HeaderName::from_static("x-user")));
    let gate = Gate::start(by(strategy, &parents.each_ref())).await;
    let mut used = std::collections::HashSet::new();
    for user in 0..12 {
        let before = hits(&parents);
        for _ in 0..2 {
            gate.get_with(&origin.url("/x"), &format!("X-User: u{user}")).await;
        }
        let after = hits(&parents);
        let grown: Vec<usize> = (0..3).filter(|at| after[*at] > before[*at]).collect();
        assert_eq!(grown.len(), 1, "one for each user");
        used.extend(grown);
    }
    assert!(used.len() > 1, "not the same for all");
    assert!(origin.seen().iter().all(|seen| seen.head.field("x-user").is_some()));
}

#[tokio::test]
async fn after_a_429_a_sticky_key_leaves_by_another_parent() {
    let (origin, parents) = (Origin::start(), three().await);
    let strategy = Strategy::Sticky(StickyKey::ApiName);
    let gate = Gate::start(by(strategy, &parents.each_ref())).await;
    gate.get(origin.url("/x")).await;
    let first = hits(&parents).iter().position(|hits| *hits == 1).unwrap();
    assert_eq!(gate.get(origin.url("/status/429")).await.status(), 429);
    for _ in 0..4 {
        gate.get(origin.url("/x")).await;
    }
    let mut hits = hits(&parents);
    assert_eq!(hits.remove(first), 2, "the one before, and the one that was told 429");
    hits.sort_unstable();
    assert_eq!(hits, [0, 4], "all by one other");
}

#[tokio::test]
async fn a_subset_uses_so_many_parents_and_slides_at_a_429() {
    let (origin, parents) = (Origin::start(), three().await);
    let gate = Gate::start(by(Strategy::Subset(2), &parents.each_ref())).await;
    for _ in 0..6 {
        gate.get(origin.url("/x")).await;
    }
    assert_eq!(hits(&parents), [3, 3, 0]);
    parents[0].always(origin.authority(), Act::Answer(429));
    assert_eq!(gate.get(origin.url("/x")).await.status(), 429);
    for _ in 0..6 {
        assert_eq!(gate.get(origin.url("/x")).await.status(), 200);
    }
    assert_eq!(hits(&parents), [4, 6, 3]);
}

#[tokio::test]
async fn on_rate_limit_goes_directly_until_a_429() {
    let (origin, parents) = (Origin::start(), three().await);
    let gate = Gate::start(by(Strategy::OnRateLimit, &parents.each_ref())).await;
    for _ in 0..3 {
        gate.get(origin.url("/x")).await;
    }
    assert_eq!(hits(&parents), [0, 0, 0]);
    assert_eq!(gate.get(origin.url("/status/429")).await.status(), 429);
    for _ in 0..3 {
        assert_eq!(gate.get(origin.url("/x")).await.status(), 200);
    }
    assert_eq!(hits(&parents), [1, 1, 1]);
    let other = Origin::start();
    gate.get(other.url("/x")).await;
    assert_eq!(hits(&parents), [1, 1, 1], "another host has said no 429");
}

#[tokio::test]
async fn never_uses_none_and_excepted_hosts_neither() {
    let (origin, parents) = (Origin::start(), three().await);
    let gate = Gate::start(by(Strategy::Never, &parents.each_ref())).await;
    gate.get(origin.url("/x")).await;
    let except = vec![origin.authority().parse().unwrap()];
    let settings = Settings { except, ..plain(&parents.each_ref()) };
    gate.app().set_apis(&[default_api(settings)]);
    gate.get(origin.url("/x")).await;
    assert_eq!((hits(&parents), origin.hits()), (vec![0, 0, 0], 2));
    gate.get(Origin::start().url("/x")).await;
    assert_eq!(hits(&parents).iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_quota_sends_what_is_beyond_it_by_others_and_then_tells_when_to_come_again() {
    let (origin, parents) = (Origin::start(), three().await);
    let quota = Some((2, Duration::from_mins(5)));
    let gate = Gate::start(Settings { quota, ..plain(&parents.each_ref()) }).await;
    for _ in 0..6 {
        assert_eq!(gate.get(origin.url("/x")).await.status(), 200);
    }
    assert_eq!(hits(&parents), [2, 2, 2]);
    let refused = gate.get(origin.url("/x")).await;
    refused.assert_refused(503, "destination_unavailable");
    let seconds: u64 = refused.head.field("retry-after").unwrap().parse().unwrap();
    assert!((200..=330).contains(&seconds), "{seconds}");
    assert_eq!(origin.hits(), 6);
}

#[tokio::test]
async fn at_most_so_many_connections_go_to_one_host_by_one_parent() {
    let (origin, parent) = (Origin::start(), Parent::start().await);
    let settings = Settings { max_connections: 2, ..plain(&[&parent]) };
    let gate = Gate::with(settings, |config| {
        config.limit.queue_timeout = Duration::from_secs(10);
    })
    .await;
    let all = (0..6).map(|_| gate.get(origin.url("/slow?ms=100")));
    for response in futures_util::future::join_all(all).await {
        assert_eq!(response.status(), 200);
    }
    assert_eq!(origin.peak(), 2);
    assert!(parent.open() <= 2);
    // What idles on one thread does not keep the other from its turn.
    for _ in 0..6 {
        assert_eq!(gate.get(origin.url("/x")).await.status(), 200);
    }
}
