//! Each strategy, and what becomes of bans, with values alone.

use std::collections::HashMap;

use http::HeaderMap;

use super::*;
use crate::policy::Cause;
use crate::policy::End;
use crate::policy::Facts;

fn list(count: usize) -> Vec<Arc<Parent>> {
    let parent = |number: usize| {
        let authority = Authority::parse(&format!("p{number}.test:3128"), None).unwrap();
        let name = format!("http://{authority}").into();
        let authorization = Some(HeaderValue::from_static("Basic c2VjcmV0"));
        Arc::new(Parent { name, tls: false, authority, authorization, weight: 1 })
    };
    (0..count).map(parent).collect()
}

fn parents(count: usize, strategy: Strategy) -> Parents {
    with(Settings { list: list(count), strategy, ..Settings::default() }, None)
}

fn with(settings: Settings, former: Option<&Parents>) -> Parents {
    Parents::new(&"api".into(), settings, &Board::alone(), former)
}

fn host(text: &str) -> HostKey {
    HostKey::parse(text).unwrap()
}

/// What a request says of itself.
struct Request {
    client: IpAddr,
    host: HostKey,
    fields: HeaderMap,
}

impl Request {
    fn new() -> Self {
        let (client, fields) = ([192, 0, 2, 1].into(), HeaderMap::new());
        Self { client, host: host("a.test"), fields }
    }

    fn from(client: u8) -> Self {
        Self { client: [192, 0, 2, client].into(), ..Self::new() }
    }

    fn to(name: &str) -> Self {
        Self { host: host(name), ..Self::new() }
    }

    fn way(&self, parents: &Parents) -> Way {
        match self.ask(parents, None) {
            Decision::Pass(way) => way,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, parents: &Parents, before: Option<(Option<&Arc<Parent>>, u16)>) -> Decision<Way> {
        let Self { client, host, fields } = self;
        parents.choose(Asked { client: *client, host, fields, before })
    }

    /// Which parent it goes by, by number.
    fn goes(&self, parents: &Parents) -> Option<usize> {
        number(&self.way(parents))
    }

    /// Goes by a parent, and comes back with this.
    fn ends(&self, parents: &Parents, end: End) -> Option<usize> {
        let way = self.way(parents);
        let number = number(&way);
        way.record(facts(end));
        number
    }
}

fn number(way: &Way) -> Option<usize> {
    let name = &way.parent.as_ref()?.name;
    name.strip_prefix("http://p")?.split('.').next()?.parse().ok()
}

fn facts(end: End) -> Facts {
    Facts { end, took: Duration::ZERO }
}

const LIMITED: End = End::Status(429);
const OK: End = End::Status(200);
const DOWN: End = End::Failed(Cause::Refused);

#[test]
fn in_turn_each_gets_as_many_as_the_others_whatever_thread_asks() {
    let parents = parents(3, Strategy::RoundRobin);
    let counts = std::sync::Mutex::new([0; 3]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let number = Request::new().goes(&parents).unwrap();
                    counts.lock().unwrap()[number] += 1;
                }
            });
        }
    });
    assert_eq!(counts.into_inner().unwrap(), [300; 3]);
}

#[test]
fn a_limited_parent_is_not_used_for_that_host_and_is_for_others() {
    let parents = parents(3, Strategy::RoundRobin);
    let limited = Request::new().ends(&parents, LIMITED).unwrap();
    let used: Vec<_> = (0..9).map(|_| Request::new().goes(&parents).unwrap()).collect();
    assert!(!used.contains(&limited), "{used:?}");
    let elsewhere = Request::to("b.test");
    let used: Vec<_> = (0..9).map(|_| elsewhere.goes(&parents).unwrap()).collect();
    assert!(used.contains(&limited), "{used:?}");
}

#[test]
fn who_was_under_way_when_a_parent_was_limited_does_not_end_its_ban() {
    let parents = parents(2, Strategy::RoundRobin);
    let ways: Vec<Way> = (0..4).map(|_| Request::new().way(&parents)).collect();
    for (at, way) in ways.into_iter().enumerate() {
        way.record(facts(if at == 0 { LIMITED } else { OK }));
    }
    assert!((0..4).all(|_| Request::new().goes(&parents) == Some(1)));
}

#[test]
fn sticky_requests_go_by_one_parent_and_stay_there_when_the_list_grows() {
    let strategy = Strategy::Sticky(StickyKey::ClientIp);
    let few = parents(5, strategy.clone());
    let settings = Settings { list: list(6), strategy, ..Settings::default() };
    let more = with(settings, Some(&few));
    let mut counts = [0; 6];
    let mut moved = 0;
    for client in 0..=255 {
        let request = Request::from(client);
        let (before, after) = (request.goes(&few).unwrap(), request.goes(&more).unwrap());
        assert_eq!(request.goes(&few), Some(before));
        counts[after] += 1;
        moved += usize::from(before != after);
        assert!(before == after || after == 5, "only to the new one");
    }
    assert!(counts.iter().all(|count| (20..70).contains(count)), "{counts:?}");
    assert_eq!(moved, counts[5]);
}

#[test]
fn sticky_requests_are_told_apart_by_a_field_or_not_at_all() {
    let by_field =
        parents(8, Strategy::Sticky(StickyKey::Header(HeaderName::from_static("x-user"))));
    let of = |user: &'static str, client| {
        let mut request = Request::from(client);
        request.fields.insert("x-user", HeaderValue::from_static(user));
        request.goes(&by_field).unwrap()
    };
    assert_eq!(of("alice", 1), of("alice", 2));
    let users = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|user| of(user, 1));
    assert!(users.iter().any(|number| *number != users[0]), "{users:?}");
    let by_api = parents(8, Strategy::Sticky(StickyKey::ApiName));
    let all: Vec<_> = (0..20).map(|client| Request::from(client).goes(&by_api)).collect();
    assert!(all.iter().all(|number| *number == all[0]), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sticky_key_moves_to_the_next_best_while_its_parent_is_limited_and_comes_back() {
    let parents = parents(4, Strategy::Sticky(StickyKey::ClientIp));
    let request = Request::new();
    let first = request.ends(&parents, LIMITED);
    let next = request.goes(&parents);
    assert_ne!(next, first);
    assert_eq!(request.goes(&parents), next);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(request.ends(&parents, OK), first);
    assert_eq!(request.goes(&parents), first);
}

#[test]
fn a_retry_leaves_by_another_even_where_nothing_is_banned() {
    let strategy = Strategy::Sticky(StickyKey::ClientIp);
    let settings = Settings { list: list(3), strategy, ban: Duration::ZERO, ..Settings::default() };
    let parents = with(settings, None);
    let request = Request::new();
    let first = request.way(&parents);
    let before = first.parent.clone().unwrap();
    let Decision::Pass(second) = request.ask(&parents, Some((Some(&before), 429))) else {
        panic!()
    };
    assert_ne!(number(&second), number(&first));
    first.record(facts(LIMITED));
    assert_eq!(request.goes(&parents), number(&request.way(&parents)));
}

#[test]
fn a_subset_uses_so_many_and_slides_by_one_at_a_429() {
    let parents = parents(5, Strategy::Subset(2));
    let used = || {
        let mut used: Vec<_> = (0..4).map(|_| Request::new().goes(&parents).unwrap()).collect();
        used.sort_unstable();
        used.dedup();
        used
    };
    assert_eq!(used(), [0, 1]);
    assert_eq!(Request::new().ends(&parents, LIMITED), Some(0));
    assert_eq!(used(), [1, 2]);
    let ways = [Request::new().way(&parents), Request::new().way(&parents)];
    let twice = ways.iter().map(|way| number(way).unwrap()).max();
    assert_eq!(twice, Some(2));
    for way in ways {
        way.record(facts(OK));
    }
    assert_eq!(used(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn on_rate_limit_goes_directly_until_a_429_and_again_when_its_ban_is_over() {
    let parents = parents(2, Strategy::OnRateLimit);
    let request = Request::new();
    assert_eq!(request.ends(&parents, OK), None);
    assert_eq!(request.ends(&parents, DOWN), None);
    assert_eq!(request.goes(&parents), None, "a failure is no reason");
    assert!(matches!(
        request.ask(&parents, Some((None, 429))),
        Decision::Pass(Way { parent: Some(_), .. })
    ));
    assert_eq!(request.ends(&parents, LIMITED), None);
    assert!(request.goes(&parents).is_some());
    assert_eq!(Request::to("b.test").goes(&parents), None);
    tokio::time::advance(Duration::from_secs(30)).await;
    let trial = request.way(&parents);
    assert_eq!(number(&trial), None);
    assert!(request.goes(&parents).is_some(), "one tries, others wait for what comes of it");
    trial.record(facts(OK));
    assert_eq!(request.goes(&parents), None);
}

#[test]
fn never_and_hosts_that_are_excepted_go_directly() {
    assert_eq!(Request::new().goes(&parents(3, Strategy::Never)), None);
    let except = vec!["*.inside.test".parse().unwrap(), "a.test".parse().unwrap()];
    let parents = with(Settings { list: list(3), except, ..Settings::default() }, None);
    assert_eq!(Request::new().goes(&parents), None);
    assert_eq!(Request::to("x.inside.test:8080").goes(&parents), None);
    assert!(Request::to("b.test").goes(&parents).is_some());
}

#[test]
fn the_least_used_is_the_one_with_the_fewest_under_way() {
    let parents = parents(3, Strategy::LeastUsed);
    let ways: Vec<Way> = (0..5).map(|_| Request::new().way(&parents)).collect();
    let mut counts = [0; 3];
    ways.iter().for_each(|way| counts[number(way).unwrap()] += 1);
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 2]);
    let left: Vec<Way> = ways.into_iter().filter(|way| number(way) != Some(1)).collect();
    assert_eq!(Request::new().goes(&parents), Some(1));
    drop(left);
}

#[test]
fn by_weight_each_gets_its_part_and_none_all_at_once() {
    let mut list = list(3);
    for (parent, weight) in list.iter_mut().zip([5, 1, 1]) {
        Arc::get_mut(parent).unwrap().weight = weight;
    }
    let settings = Settings { list, strategy: Strategy::Weighted, ..Settings::default() };
    let parents = with(settings, None);
    let order: Vec<_> = (0..7).map(|_| Request::new().goes(&parents).unwrap()).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_parent_is_tried_once_when_its_ban_is_over_and_used_when_it_lives() {
    let parents = parents(2, Strategy::RoundRobin);
    let request = Request::new();
    assert_eq!(request.ends(&parents, DOWN), Some(0));
    assert!((0..6).all(|_| request.ends(&parents, OK) == Some(1)));
    tokio::time::advance(Duration::from_secs(30)).await;
    let ways: Vec<Way> = (0..6).map(|_| request.way(&parents)).collect();
    let trials = ways.iter().filter(|way| number(way) == Some(0)).count();
    assert_eq!(trials, 1);
    let trial = ways.into_iter().find(|way| number(way) == Some(0)).unwrap();
    trial.record(facts(OK));
    let used: Vec<_> = (0..4).map(|_| request.goes(&parents).unwrap()).collect();
    assert_eq!(used.iter().filter(|number| **number == 0).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_all_are_down_one_tries_each_second_and_the_others_are_refused() {
    let parents = parents(2, Strategy::RoundRobin);
    let request = Request::new();
    request.ends(&parents, DOWN);
    request.ends(&parents, DOWN);
    request.ends(&parents, DOWN);
    let left = Duration::from_secs(1);
    for _ in 0..3 {
        let refused = request.ask(&parents, None);
        let Decision::Refuse(refusal) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal, Refusal { rule: Rule::Parents, left });
    }
    tokio::time::advance(left).await;
    let used = request.ends(&parents, OK);
    assert!(used.is_some());
    assert_eq!(request.goes(&parents), used, "it lives");
}

#[test]
fn where_all_are_limited_the_host_is_asked_all_the_same() {
    let parents = parents(2, Strategy::RoundRobin);
    let request = Request::new();
    let first = request.ends(&parents, LIMITED);
    request.ends(&parents, LIMITED);
    assert_eq!(request.ends(&parents, LIMITED), first, "by the one whose ban ends first");
}

#[test]
fn a_quota_sends_on_to_the_next_and_makes_wait_when_all_is_used() {
    let quota = Some((2, Duration::from_mins(1)));
    let parents = with(Settings { list: list(2), quota, ..Settings::default() }, None);
    let mut counts: HashMap<_, u32> = HashMap::new();
    for _ in 0..4 {
        *counts.entry(Request::new().goes(&parents)).or_default() += 1;
    }
    assert_eq!(counts, HashMap::from([(Some(0), 2), (Some(1), 2)]));
    let Decision::Wait(refusal) = Request::new().ask(&parents, None) else { panic!() };
    assert!(refusal.left > Duration::from_secs(50), "{refusal:?}");
    assert!(Request::to("b.test").goes(&parents).is_some());
}

#[test]
fn what_is_known_outlives_other_settings() {
    let before = parents(3, Strategy::RoundRobin);
    let limited = Request::new().ends(&before, LIMITED).unwrap();
    let settings = Settings { list: list(4), strategy: Strategy::LeastUsed, ..Settings::default() };
    let after = with(settings, Some(&before));
    let used: Vec<_> = (0..9).map(|_| Request::new().goes(&after).unwrap()).collect();
    assert!(!used.contains(&limited), "{used:?}");
}

#[test]
fn what_is_told_of_parents_holds_no_credentials() {
    let parents = parents(2, Strategy::RoundRobin);
    Request::new().ends(&parents, LIMITED);
    let snapshot = serde_json::to_string(&parents.snapshot()).unwrap();
    assert!(snapshot.contains(r#""why":"limited""#), "{snapshot}");
    let way = Request::new().way(&parents);
    for text in [snapshot, format!("{parents:?}"), format!("{way:?}"), format!("{:?}", way.hop())] {
        assert!(!text.contains("c2VjcmV0") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn one_place_by_two_credentials_is_two_parents() {
    let mut list = list(1);
    let Parent { name, tls, authority, weight, .. } = &*list[0];
    let other = Parent {
        name: Arc::clone(name),
        tls: *tls,
        authority: authority.clone(),
        authorization: Some(HeaderValue::from_static("Basic b3RoZXI=")),
        weight: *weight,
    };
    list.push(Arc::new(other));
    let parents = with(Settings { list, ..Settings::default() }, None);
    Request::new().ends(&parents, LIMITED);
    let second = Request::new().way(&parents).parent.unwrap();
    assert_eq!(second.authorization.as_ref().unwrap(), "Basic b3RoZXI=");
}
