//! Parents that are dead, limited or hostile.

use super::*;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::parent::Act;

#[tokio::test]
async fn of_ten_parents_two_dead_and_two_banned_by_one_host_nobody_fails_for_long() {
    let (a, b) = (Origin::start(), Origin::start());
    let mut live = Vec::new();
    for _ in 0..8 {
        live.push(Parent::start().await);
    }
    let dead = [Closed::new(), Closed::new()];
    for parent in &live[..2] {
        parent.always(a.authority(), Act::Answer(403));
    }
    let mut settings = plain(&live.iter().collect::<Vec<_>>());
    for closed in &dead {
        let authority = Authority::parse(&closed.authority(), None).unwrap();
        let name = format!("http://{authority}").into();
        let (tls, authorization, weight) = (false, None, 1);
        let parent =
            narrows::policy::parents::Parent { name, tls, authority, authorization, weight };
        settings.list.insert(3, Arc::new(parent));
    }
    let gate = Gate::start(settings).await;
    let mut failed = Vec::new();
    for number in 0..60 {
        for origin in [&a, &b] {
            let status = gate.get(origin.url("/x")).await.status();
            if status != 200 {
                failed.push((number, status));
            }
        }
    }
    assert!(failed.len() <= 6, "each fault is met once by each host: {failed:?}");
    assert!(failed.iter().all(|(number, _)| *number < 10), "{failed:?}");
    let by_banned = live[0].hits() + live[1].hits();
    assert!(by_banned > 10, "they are used for the other host: {by_banned}");
    let to_a = |parent: &Parent| {
        let start = format!("http://{}/", a.authority());
        parent.requests().iter().filter(|head| head.target().starts_with(&start)).count()
    };
    assert_eq!((to_a(&live[0]), to_a(&live[1])), (1, 1));
}

#[tokio::test]
async fn where_all_parents_are_dead_clients_are_told_at_once_and_a_parent_that_lives_again_is_found()
 {
    let closed = Closed::new();
    let origin = Origin::start();
    let authority = Authority::parse(&closed.authority(), None).unwrap();
    let name = format!("http://{authority}").into();
    let (tls, authorization, weight) = (false, None, 1);
    let parent = narrows::policy::parents::Parent { name, tls, authority, authorization, weight };
    let settings = Settings { list: vec![Arc::new(parent)], ..Settings::default() };
    let gate = Gate::start(settings).await;
    gate.get(origin.url("/x")).await.assert_refused(502, "connection_refused");
    gate.get(origin.url("/x")).await.assert_refused(502, "connection_refused");
    let refused = gate.get(origin.url("/x")).await;
    refused.assert_refused(503, "destination_unavailable");
    assert_eq!(refused.head.field("retry-after"), Some("1"));
}
