//! Instances of a fleet on a real Redis, which stands still, and dies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::entry::Entry;
use super::entry::Head;
use super::entry::Vary;
use super::fleet::LEASE;
use super::flight::Broken;
use super::memory::tests::entry;
use super::memory::tests::keys;
use super::tiers::Begun;
use super::tiers::Drawer;
use super::tiers::Followed;
use super::tiers::Follower;
use super::tiers::Lead;
use super::tiers::Looked;
use super::tiers::Manner;
use super::tiers::Relayed;
use super::tiers::Settings;
use super::tiers::Tiers;
use crate::base::clock;
use crate::policy::Cause;
use crate::store::board::tests::Redis;
use crate::store::board::tests::Running;
use crate::store::board::tests::until;

const OBJECT: usize = 1 << 20;

/// One instance.
struct Instance {
    tiers: Tiers,
    drawer: Drawer,
    _board: Running,
    task: JoinHandle<()>,
}

impl Instance {
    async fn start(redis: &Redis) -> Self {
        let board = Running::up(redis).await;
        let tiers = Tiers::new(&Settings::default(), Some(&redis.settings()), &board.board);
        let run = tiers.clone().run(redis.settings());
        let task = tokio::spawn(async move { drop(run.await) });
        let drawer = tiers.drawer(&"shop".into(), OBJECT, Duration::from_secs(30));
        let instance = Self { tiers, drawer, _board: board, task };
        until(async || instance.is_up()).await;
        instance
    }

    fn is_up(&self) -> bool {
        self.tiers.snapshot().vault.is_some_and(|vault| vault.is_up)
    }

    /// As if it had been killed: it says nothing any more.
    fn die(&self) {
        self.task.abort();
    }

    fn lead(&self) -> Lead {
        match self.drawer.begin(&keys(1), None, None) {
            Begun::Lead(lead) => lead,
            begun @ (Begun::Apart | Begun::Follow(_) | Begun::Kept(_)) => panic!("{begun:?}"),
        }
    }

    fn kept(&self) -> Option<Bytes> {
        self.drawer.recall(&keys(1))?.iter().next().map(|entry| entry.body.clone())
    }

    async fn fetched(&self) -> Option<Bytes> {
        self.drawer.fetch(&keys(1), |_| true).await.map(|entry| entry.body.clone())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn head(fields: &[(&'static str, &str)]) -> Arc<Head> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let now = clock::wall();
    let plain = Head::clone(&entry("").head);
    Arc::new(Head { fields: map, asked: now, answered: now, ..plain })
}

fn fresh(body: &'static str) -> Arc<Entry> {
    Arc::new(Entry { head: head(&[]), body: body.into() })
}

async fn look(lead: &mut Lead) -> Looked {
    lead.look(|_| true).await
}

async fn body(follower: &mut Follower) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    while let Some(chunk) = std::future::poll_fn(|cx| follower.poll_chunk(cx)).await {
        bytes.extend(chunk?);
    }
    Ok(bytes)
}

async fn next(follower: &mut Follower) -> Bytes {
    std::future::poll_fn(|cx| follower.poll_chunk(cx)).await.unwrap().unwrap()
}

/// A relay in a task of its own, and somebody who follows it.
async fn relay(instance: &Instance) -> (JoinHandle<Relayed>, Follower) {
    let mut lead = instance.lead();
    let follower = lead.follow();
    let looked = look(&mut lead).await;
    assert!(matches!(looked, Looked::Elsewhere), "{looked:?}");
    (tokio::spawn(lead.relay(|_| true)), follower)
}

#[tokio::test]
async fn what_one_has_kept_is_found_by_others_and_by_who_comes_later() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis).await;
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    lead.head(head(&[("content-type", "text/plain")]), Manner::Keep).unwrap();
    lead.chunk("hello ".into()).await.unwrap();
    lead.chunk(Bytes::from_static(b"\0\xff\r\n")).await.unwrap();
    let stored = lead.end().unwrap().unwrap();

    let other = Instance::start(&redis).await;
    until(async || other.fetched().await.is_some()).await;
    let third = Instance::start(&redis).await;
    let mut lead = third.lead();
    let Looked::Kept(found) = look(&mut lead).await else { panic!() };
    assert_eq!(found, stored);
    assert_eq!(other.kept().unwrap(), stored.body, "it is in memory now");
}

#[tokio::test]
async fn while_one_fetches_the_others_get_it_as_it_comes() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    let (relayed, mut follower) = relay(&other).await;
    lead.head(head(&[("etag", "\"a\"")]), Manner::Keep).unwrap();
    let Followed::Head(told) = follower.head().await else { panic!() };
    assert_eq!(told.fields[header::ETAG], "\"a\"");
    lead.chunk(Bytes::from(vec![1; 70_000])).await.unwrap();
    assert!(!next(&mut follower).await.is_empty(), "before it is whole");
    lead.chunk(Bytes::from(vec![2; 10])).await.unwrap();
    assert_eq!(lead.end().unwrap().unwrap().body.len(), 70_010);
    body(&mut follower).await.unwrap();
    assert!(matches!(relayed.await.unwrap(), Relayed::Whole));
    let expected = [vec![1; 70_000], vec![2; 10]].concat();
    assert_eq!(other.kept().unwrap(), expected);
    let late = Instance::start(&redis).await;
    assert_eq!(late.fetched().await.unwrap(), expected, "put together in Redis");
}

#[tokio::test]
async fn what_is_short_is_told_at_once_when_it_is_whole() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    let (relayed, mut follower) = relay(&other).await;
    lead.head(head(&[("content-length", "5")]), Manner::Keep).unwrap();
    lead.chunk("short".into()).await.unwrap();
    lead.end().unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    assert_eq!(body(&mut follower).await.unwrap(), b"short");
    assert!(matches!(relayed.await.unwrap(), Relayed::Whole));
}

#[tokio::test]
async fn an_instance_that_dies_in_the_middle_is_followed_by_one_that_goes_on_where_it_was() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let fields = [("etag", "\"a\""), ("content-length", "140000")];
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    let (relayed, mut follower) = relay(&other).await;
    lead.head(head(&fields), Manner::Keep).unwrap();
    lead.chunk(Bytes::from(vec![1; 70_000])).await.unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    let first = next(&mut follower).await.len();
    let died = clock::now();
    one.die();
    let Relayed::Fetch(mut heir) = relayed.await.unwrap() else { panic!() };
    assert!(died.elapsed() < LEASE + Duration::from_secs(2), "{:?}", died.elapsed());
    heir.head(head(&fields), Manner::Keep).unwrap();
    heir.chunk(Bytes::from(vec![1; 70_000])).await.unwrap();
    heir.chunk(Bytes::from(vec![2; 70_000])).await.unwrap();
    assert_eq!(heir.end().unwrap().unwrap().body.len(), 140_000);
    let rest = body(&mut follower).await.unwrap();
    assert_eq!(first + rest.len(), 140_000);
    assert!(rest.ends_with(&vec![2; 70_000]));
    let late = Instance::start(&redis).await;
    until(async || late.fetched().await.is_some()).await;
    assert_eq!(late.kept().unwrap().len(), 140_000, "all of the second attempt");
}

#[tokio::test]
async fn who_gives_it_up_is_followed_at_once() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    let (relayed, _follower) = relay(&other).await;
    // Once it waits.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let start = clock::now();
    drop(lead);
    assert!(matches!(relayed.await.unwrap(), Relayed::Fetch(_)));
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
}

#[tokio::test]
async fn who_leaves_before_it_hears_that_it_leads_holds_up_nobody() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    {
        let mut looking = std::pin::pin!(look(&mut lead));
        // It has asked when it has been polled once.
        assert!(futures_util::poll!(&mut looking).is_pending());
    }
    drop(lead);
    let start = clock::now();
    until(async || matches!(look(&mut other.lead()).await, Looked::Fetch)).await;
    assert!(start.elapsed() < LEASE / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_its_leader_waits() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    let (relayed, mut follower) = relay(&other).await;
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert!(!relayed.is_finished());
    lead.head(head(&[]), Manner::Keep).unwrap();
    lead.end().unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    assert!(matches!(relayed.await.unwrap(), Relayed::Whole));
}

#[tokio::test]
async fn what_is_nobody_elses_or_fails_is_told_to_who_waits_elsewhere() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    look(&mut lead).await;
    let (relayed, mut follower) = relay(&other).await;
    lead.fail(Some(Cause::Timeout));
    assert!(matches!(relayed.await.unwrap(), Relayed::Failed(Some(Cause::Timeout))));
    let broken = follower.head().await;
    assert!(matches!(broken, Followed::Broken(Broken::Failed(Some(Cause::Timeout)))), "{broken:?}");

    let mut lead = one.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch), "a failure holds nobody up");
    let (relayed, mut follower) = relay(&other).await;
    lead.dissolve();
    assert!(matches!(relayed.await.unwrap(), Relayed::Apart));
    assert!(matches!(follower.head().await, Followed::Apart));
    let third = Instance::start(&redis).await;
    assert!(matches!(look(&mut third.lead()).await, Looked::Apart), "for a while");
}

#[tokio::test]
async fn a_failure_that_is_shared_has_each_instance_ask_once_for_all_of_its_own() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    look(&mut lead).await;
    let (relayed, mut follower) = relay(&other).await;
    lead.head(head(&[]), Manner::Share).unwrap();
    lead.end().unwrap();
    let Relayed::Fetch(mut heir) = relayed.await.unwrap() else { panic!() };
    heir.head(head(&[]), Manner::Share).unwrap();
    heir.chunk("sorry".into()).await.unwrap();
    heir.end().unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    assert_eq!(body(&mut follower).await.unwrap(), b"sorry");
}

#[tokio::test]
async fn variants_are_told_apart_and_the_newest_of_each_is_kept() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis).await;
    let vary = |language: &'static str| {
        Vary(vec![(header::ACCEPT_LANGUAGE, vec![HeaderValue::from_static(language)])])
    };
    for (language, text) in [("de", "alt"), ("en", "new"), ("de", "neu")] {
        let head = Arc::new(Head { vary: vary(language), ..Head::clone(&head(&[])) });
        let entry = Arc::new(Entry { head, body: text.into() });
        one.drawer.keep(&keys(1), entry, one.drawer.moment());
    }
    let other = Instance::start(&redis).await;
    for (language, text) in [("de", Some("neu")), ("en", Some("new")), ("fr", None)] {
        let found = other.drawer.fetch(&keys(1), |kept| *kept == vary(language)).await;
        assert_eq!(found.map(|entry| entry.body.clone()), text.map(Bytes::from), "{language}");
    }
}

#[tokio::test]
async fn what_one_forgets_all_forget_and_what_was_on_its_way_is_not_kept() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.drawer.keep(&keys(1), fresh("old"), one.drawer.moment());
    until(async || other.fetched().await.is_some()).await;
    assert_eq!(other.kept().unwrap(), "old");

    one.drawer.forget(&keys(1));
    until(async || other.kept().is_none()).await;
    assert_eq!(other.fetched().await, None);

    let mut lead = other.lead();
    assert!(matches!(look(&mut lead).await, Looked::Fetch));
    one.drawer.forget(&keys(1));
    until(async || {
        redis.query(&["EXISTS", &format!("p:{{0}}:@c:{}~p", keys(1).place)]).await
            == Some(redis::Value::Int(0))
    })
    .await;
    lead.head(head(&[]), Manner::Keep).unwrap();
    lead.end().unwrap();
    let third = Instance::start(&redis).await;
    assert_eq!(third.fetched().await, None);
}

#[tokio::test]
async fn an_api_that_is_purged_is_purged_everywhere_and_at_who_comes_later() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.drawer.keep(&keys(1), fresh("old"), one.drawer.moment());
    until(async || other.fetched().await.is_some()).await;
    // What is said is heard by who listens.
    tokio::time::sleep(Duration::from_millis(50)).await;
    one.drawer.purge();
    until(async || other.kept().is_none()).await;
    assert_eq!(other.fetched().await, None, "what is in Redis is no use either");

    one.drawer.keep(&keys(1), fresh("new"), one.drawer.moment());
    until(async || other.fetched().await.is_some()).await;
    assert_eq!(other.kept().unwrap(), "new");
    let late = Instance::start(&redis).await;
    assert_eq!(late.fetched().await.unwrap(), "new");
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_time_out_once_and_each_flies_alone() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis).await;
    redis.signal(Signal::STOP);
    let start = clock::now();
    assert!(matches!(look(&mut one.lead()).await, Looked::Fetch));
    let timeout = redis.settings().timeout;
    assert!(start.elapsed() >= timeout && start.elapsed() < timeout * 3, "{:?}", start.elapsed());
    let start = clock::now();
    for _ in 0..100 {
        let mut lead = one.lead();
        assert!(matches!(look(&mut lead).await, Looked::Fetch));
        lead.head(head(&[]), Manner::Keep).unwrap();
        lead.end().unwrap();
        one.drawer.forget(&keys(1));
    }
    assert!(start.elapsed() < timeout, "{:?}", start.elapsed());
    redis.signal(Signal::CONT);
    until(async || one.is_up()).await;
}

#[tokio::test]
async fn what_was_forgotten_while_redis_was_away_the_others_hear_when_it_is_back() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.drawer.keep(&keys(1), fresh("old"), one.drawer.moment());
    until(async || other.fetched().await.is_some()).await;
    redis.signal(Signal::STOP);
    assert!(one.drawer.fetch(&keys(2), |_| true).await.is_none());
    assert!(!one.is_up());
    one.drawer.forget(&keys(1));
    assert_eq!(other.kept().unwrap(), "old");
    redis.signal(Signal::CONT);
    until(async || other.kept().is_none()).await;
    assert_eq!(other.fetched().await, None);
}

#[tokio::test]
async fn a_redis_that_goes_while_another_fetches_leaves_each_to_itself() {
    let mut redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    look(&mut lead).await;
    let (relayed, mut follower) = relay(&other).await;
    redis.kill();
    let Relayed::Fetch(mut heir) = relayed.await.unwrap() else { panic!() };
    for leading in [&mut lead, &mut heir] {
        leading.head(head(&[]), Manner::Keep).unwrap();
        leading.chunk("alone".into()).await.unwrap();
    }
    lead.end().unwrap();
    heir.end().unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    assert_eq!(body(&mut follower).await.unwrap(), b"alone");
    assert_eq!(one.kept().unwrap(), "alone");
}

#[tokio::test]
async fn what_is_too_long_goes_to_who_has_its_beginning_and_nobody_else_waits() {
    let redis = Redis::start().await;
    let (one, other) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut lead = one.lead();
    let mut own = lead.follow();
    look(&mut lead).await;
    let (relayed, mut follower) = relay(&other).await;
    lead.head(head(&[]), Manner::Keep).unwrap();
    lead.chunk(Bytes::from(vec![1; OBJECT])).await.unwrap();
    assert!(matches!(follower.head().await, Followed::Head(_)));
    let reading = tokio::spawn(async move { body(&mut own).await.map(|body| body.len()) });
    lead.chunk(Bytes::from(vec![1; 10])).await.unwrap();
    assert_eq!(lead.end(), Ok(None));
    assert_eq!(reading.await.unwrap(), Ok(OBJECT + 10));
    // It has no strong tag: what the other goes on with cannot be known to be the same.
    let Relayed::Fetch(mut heir) = relayed.await.unwrap() else { panic!() };
    assert!(heir.head(head(&[]), Manner::Keep).is_err());
    assert_eq!(body(&mut follower).await, Err(Broken::Failed(None)));
}

#[tokio::test]
async fn whatever_redis_holds_is_an_entry_or_none() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis).await;
    one.drawer.keep(&keys(1), fresh("body"), one.drawer.moment());
    let key = format!("p:{{0}}:@c:{}", keys(1).request);
    let id = async || match redis.query(&["HGET", &key, "o"]).await {
        Some(redis::Value::BulkString(id)) => String::from_utf8(id).ok(),
        _ => None,
    };
    until(async || id().await.is_some()).await;
    let field = format!("e{}", id().await.unwrap());
    for bytes in
        ["", "\u{1}", "\u{2}aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\u{1}aaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    {
        redis.query(&["HSET", &key, &field, bytes]).await.unwrap();
        let other = Instance::start(&redis).await;
        assert_eq!(other.fetched().await, None, "{bytes:?}");
        assert!(!matches!(look(&mut other.lead()).await, Looked::Kept(_)));
    }
}

#[tokio::test]
async fn no_key_is_left_for_ever() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis).await;
    let mut lead = one.lead();
    look(&mut lead).await;
    lead.head(head(&[]), Manner::Keep).unwrap();
    lead.chunk(Bytes::from(vec![1; 70_000])).await.unwrap();
    one.drawer.purge();
    let keys = async || match redis.query(&["KEYS", "*"]).await {
        Some(redis::Value::Array(keys)) => keys,
        _ => Vec::new(),
    };
    // Place, flight, body, and the number of purges.
    until(async || keys().await.len() == 4).await;
    lead.end().unwrap();
    until(async || keys().await.len() == 5).await;
    for key in keys().await {
        let key: String = redis::from_redis_value(key).unwrap();
        let left = redis.query(&["PTTL", &key]).await;
        assert!(matches!(left, Some(redis::Value::Int(1..))), "{key}: {left:?}");
    }
}
