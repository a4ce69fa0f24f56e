//! Cool-downs of one instance, at a clock that is moved; what fleets do is in `tests/it/cooldown/`.

use futures_util::FutureExt;
use http::HeaderName;
use http::HeaderValue;

use super::*;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::store::board::tests::Redis;
use crate::store::board::tests::Running;
use crate::store::board::tests::until;
use crate::store::scripts::COOLDOWN;

fn cooldowns(tune: impl FnOnce(&mut Settings)) -> CoolDowns {
    let mut settings = Settings::default();
    tune(&mut settings);
    CoolDowns::new(&"shop".into(), settings, false, &Board::alone(), None)
}

fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    let row = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(row).collect()
}

fn of(cooldowns: &CoolDowns, key: &str) -> Subject {
    let host = HostKey::parse("api.example.com").unwrap();
    cooldowns.subject(&host, &fields(&[("authorization", key)]))
}

#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn soon(seconds: u64) -> Option<Instant> {
    Some(clock::now() + Duration::from_secs(seconds))
}

/// How long a request is refused for; none if it passes.
fn refused(cooldowns: &CoolDowns, subject: &Subject) -> Option<(u16, u128)> {
    match cooldowns.enter(subject, None) {
        Decision::Pass(()) => None,
        Decision::Refuse(Refusal { rule: Rule::CoolDown(status), left }) => {
            Some((status, left.as_millis()))
        }
        Decision::Wait(refusal) | Decision::Refuse(refusal) => panic!("{refusal:?}"),
    }
}

fn waits(cooldowns: &CoolDowns, subject: &Subject, seconds: u64) -> u128 {
    let Decision::Wait(refusal) = cooldowns.enter(subject, soon(seconds)) else { panic!() };
    refusal.left.as_millis()
}

#[tokio::test(start_paused = true)]
async fn what_one_answer_asks_for_holds_for_its_like_and_nobody_else() {
    let cooldowns = cooldowns(|_| ());
    let (one, other) = (of(&cooldowns, "one"), of(&cooldowns, "other"));
    assert_eq!(refused(&cooldowns, &one), None);
    let left = cooldowns.hear(&one, 429, &fields(&[("retry-after", "2")]));
    assert_eq!(left, Some(Duration::from_secs(2)));
    assert_eq!(refused(&cooldowns, &of(&cooldowns, "one")), Some((429, 2000)));
    assert_eq!(refused(&cooldowns, &other), None);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(refused(&cooldowns, &one), Some((429, 500)));
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(refused(&cooldowns, &one), None);
}

#[tokio::test(start_paused = true)]
async fn only_answers_that_mean_it_begin_one() {
    let after = fields(&[("retry-after", "7")]);
    let rows: [(u16, &HeaderMap, Option<u64>); 7] = [
        (429, &after, Some(7)),
        (429, &HeaderMap::new(), Some(1)),
        (429, &fields(&[("retry-after", "0")]), Some(1)),
        (503, &after, Some(7)),
        (503, &HeaderMap::new(), None),
        (500, &after, None),
        (200, &fields(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9")]), None),
    ];
    for (status, fields, expected) in rows {
        let cooldowns = cooldowns(|_| ());
        let subject = of(&cooldowns, "one");
        let left = cooldowns.hear(&subject, status, fields);
        assert_eq!(left.map(|left| left.as_secs()), expected, "{status} {fields:?}");
        let refused = refused(&cooldowns, &subject).map(|(told, _)| told);
        assert_eq!(refused, expected.map(|_| status), "{status} {fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_the_last_one_begins_one_if_that_is_wanted() {
    let cooldowns = cooldowns(|settings| settings.on_exhausted = true);
    let subject = of(&cooldowns, "one");
    let last = fields(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9")]);
    assert_eq!(cooldowns.hear(&subject, 200, &last), Some(Duration::from_secs(9)));
    assert_eq!(refused(&cooldowns, &subject), Some((429, 9000)));
}

#[tokio::test(start_paused = true)]
async fn the_longest_wins_and_an_absurd_one_is_cut_short_and_seen() {
    let cooldowns = cooldowns(|settings| settings.max = Duration::from_mins(1));
    let subject = of(&cooldowns, "one");
    cooldowns.hear(&subject, 503, &fields(&[("retry-after", "9")]));
    cooldowns.hear(&subject, 429, &fields(&[("retry-after", "3")]));
    assert_eq!(refused(&cooldowns, &subject), Some((503, 9000)));
    let left = cooldowns.hear(&subject, 429, &fields(&[("retry-after", "31536000")]));
    assert_eq!(left, Some(Duration::from_mins(1)));
    assert_eq!(refused(&cooldowns, &subject), Some((429, 60_000)));
    let seen = cooldowns.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].is_capped && seen[0].name.starts_with("api.example.com#"), "{seen:?}");
    assert_eq!(cooldowns.counted().capped, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_when_it_is_over_one_after_the_other() {
    let cooldowns = cooldowns(|_| ());
    let subject = of(&cooldowns, "one");
    cooldowns.hear(&subject, 429, &fields(&[("retry-after", "2")]));
    let start = clock::now();
    let mut went = Vec::new();
    let wait = async || {
        let subject = of(&cooldowns, "one");
        while !matches!(cooldowns.enter(&subject, soon(10)), Decision::Pass(())) {
            cooldowns.wait(&subject).await;
        }
        (clock::now() - start).as_millis()
    };
    for at in futures_util::future::join_all((0..12).map(|_| wait())).await {
        went.push(at);
    }
    went.sort_unstable();
    let in_time = |(number, at): (usize, &u128)| {
        let at = at.checked_sub(2000 + 100 * number as u128);
        at.is_some_and(|late| late <= 5)
    };
    assert!(went[..10].iter().enumerate().all(in_time), "{went:?}");
    assert!((3000..3060).contains(&went[10]), "{went:?}");
    assert_eq!((cooldowns.book.waiting(), cooldowns.counted().waited), (0, 12));
}

#[tokio::test(start_paused = true)]
async fn who_has_not_the_time_is_refused_at_once_with_what_is_left() {
    let cooldowns = cooldowns(|_| ());
    let subject = of(&cooldowns, "one");
    cooldowns.hear(&subject, 503, &fields(&[("retry-after", "60")]));
    assert!(matches!(cooldowns.enter(&subject, soon(59)), Decision::Refuse(_)));
    assert_eq!(refused(&cooldowns, &subject), Some((503, 60_000)));
    assert_eq!(waits(&cooldowns, &subject, 61), 60_000);
    assert_eq!(cooldowns.counted().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_the_place_up() {
    let cooldowns = cooldowns(|_| ());
    let first = of(&cooldowns, "one");
    cooldowns.hear(&first, 429, &fields(&[("retry-after", "5")]));
    waits(&cooldowns, &first, 10);
    let second = of(&cooldowns, "one");
    assert_eq!(waits(&cooldowns, &second, 10), 5100);
    assert_eq!(cooldowns.book.waiting(), 2);
    assert_eq!(cooldowns.seen()[0].waiting, 2);
    drop(first);
    drop(second);
    assert_eq!(cooldowns.book.waiting(), 0);
    assert_eq!(waits(&cooldowns, &of(&cooldowns, "one"), 10), 5000);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let cooldowns = cooldowns(|settings| settings.ramp = 1e6);
    let subject = of(&cooldowns, "one");
    cooldowns.hear(&subject, 429, &fields(&[("retry-after", "5")]));
    let waiting: Vec<Subject> = (0..1024).map(|_| of(&cooldowns, "one")).collect();
    for subject in &waiting {
        waits(&cooldowns, subject, 10);
    }
    assert!(matches!(cooldowns.enter(&subject, soon(10)), Decision::Refuse(_)));
    waits(&cooldowns, &waiting[7], 10);
    drop(waiting);
    waits(&cooldowns, &subject, 10);
}

#[tokio::test(start_paused = true)]
async fn an_operator_ends_one_and_those_who_wait_go() {
    let cooldowns = cooldowns(|_| ());
    let subject = of(&cooldowns, "one");
    cooldowns.hear(&subject, 429, &fields(&[("retry-after", "500")]));
    waits(&cooldowns, &subject, 600);
    let mut waiting = std::pin::pin!(cooldowns.wait(&subject));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(!cooldowns.forget("nobody"));
    assert!(cooldowns.forget(&cooldowns.seen()[0].name));
    waiting.await;
    assert!(matches!(cooldowns.enter(&subject, soon(1)), Decision::Pass(())));
    assert_eq!(cooldowns.book.waiting(), 0);
    assert_eq!(cooldowns.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn a_longer_one_is_waited_for_too_or_given_up() {
    let cooldowns = cooldowns(|_| ());
    let (patient, hasty) = (of(&cooldowns, "one"), of(&cooldowns, "one"));
    cooldowns.hear(&patient, 429, &fields(&[("retry-after", "2")]));
    waits(&cooldowns, &patient, 60);
    let latest = soon(5);
    assert!(matches!(cooldowns.enter(&hasty, latest), Decision::Wait(_)));
    cooldowns.hear(&patient, 429, &fields(&[("retry-after", "30")]));
    cooldowns.wait(&hasty).await;
    assert!(matches!(cooldowns.enter(&hasty, latest), Decision::Refuse(_)));
    assert_eq!(waits(&cooldowns, &patient, 60), 30_000, "it has its turn still");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_lives_on_under_new_settings() {
    let before = cooldowns(|_| ());
    let subject = of(&before, "one");
    before.hear(&subject, 429, &fields(&[("retry-after", "9")]));
    let settings = Settings { max: Duration::from_secs(20), ..Settings::default() };
    let after = CoolDowns::new(&"shop".into(), settings, false, &Board::alone(), Some(&before));
    assert_eq!(refused(&after, &of(&after, "one")), Some((429, 9000)));
    let left = after.hear(&subject, 429, &fields(&[("retry-after", "99")]));
    assert_eq!(left, Some(Duration::from_secs(20)));
}

#[tokio::test(start_paused = true)]
async fn names_that_are_made_up_fill_no_memory() {
    let cooldowns = cooldowns(|_| ());
    for number in 0..10_000 {
        let subject = of(&cooldowns, &number.to_string());
        let seconds = (number % 300 + 100).to_string();
        cooldowns.hear(&subject, 429, &fields(&[("retry-after", &seconds)]));
    }
    let seen = cooldowns.seen();
    assert!((2000..=4096).contains(&seen.len()), "{}", seen.len());
    assert_eq!(seen[0].left.as_secs(), 399, "those that end last stay");
    tokio::time::advance(Duration::from_secs(500)).await;
    assert_eq!(refused(&cooldowns, &of(&cooldowns, "x")), None);
    assert_eq!(cooldowns.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn where_another_parent_may_be_asked_only_a_credential_is_paused() {
    let settings = Settings::default();
    let cooldowns = CoolDowns::new(&"shop".into(), settings, true, &Board::alone(), None);
    let host = HostKey::parse("api.example.com").unwrap();
    let anybody = cooldowns.subject(&host, &HeaderMap::new());
    let after = fields(&[("retry-after", "2")]);
    assert_eq!(cooldowns.hear(&anybody, 429, &after), Some(Duration::from_secs(2)));
    assert_eq!(refused(&cooldowns, &anybody), None);
    let somebody = of(&cooldowns, "one");
    cooldowns.hear(&somebody, 429, &after);
    assert_eq!(refused(&cooldowns, &somebody), Some((429, 2000)));
}

/// The cool-downs of one API at an instance of a fleet.
async fn member(redis: &Redis) -> (Running, CoolDowns) {
    let running = Running::up(redis).await;
    let settings = Settings::default();
    let cooldowns = CoolDowns::new(&"shop".into(), settings, false, &running.board, None);
    (running, cooldowns)
}

#[tokio::test]
async fn an_operator_ends_one_at_all_instances() {
    let redis = Redis::start().await;
    let (_one, first) = member(&redis).await;
    let (_other, second) = member(&redis).await;
    first.hear(&of(&first, "one"), 429, &fields(&[("retry-after", "300")]));
    until(async || refused(&second, &of(&second, "one")).is_some()).await;
    assert_eq!(second.counted().told, 1);
    let name = second.seen()[0].name.clone();
    assert!(second.forget(&name));
    until(async || refused(&first, &of(&first, "one")).is_none()).await;
    let (_late, third) = member(&redis).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(third.seen(), [], "Redis has forgotten it too");
}

#[tokio::test]
async fn of_two_that_instances_heard_the_longer_holds_for_both() {
    let redis = Redis::start().await;
    let (_one, first) = member(&redis).await;
    let (_other, second) = member(&redis).await;
    first.hear(&of(&first, "one"), 429, &fields(&[("retry-after", "5")]));
    second.hear(&of(&second, "one"), 503, &fields(&[("retry-after", "300")]));
    let lasts = |cooldowns: &CoolDowns| {
        cooldowns.seen().first().is_some_and(|seen| seen.status == 503 && seen.left.as_secs() > 200)
    };
    until(async || lasts(&first) && lasts(&second)).await;
    second.hear(&of(&second, "one"), 429, &fields(&[("retry-after", "9")]));
    let (_late, third) = member(&redis).await;
    until(async || lasts(&third)).await;
    assert!(lasts(&first) && lasts(&second));
}

#[tokio::test]
async fn what_was_heard_without_redis_is_said_when_it_is_there() {
    let redis = Redis::start().await;
    let running = Running::start(&redis);
    let settings = Settings::default();
    let cooldowns = CoolDowns::new(&"shop".into(), settings, false, &running.board, None);
    // The board has not connected yet: nothing of this task's has run since.
    cooldowns.hear(&of(&cooldowns, "one"), 429, &fields(&[("retry-after", "300")]));
    let (_other, second) = member(&redis).await;
    until(async || refused(&second, &of(&second, "one")).is_some()).await;
}

#[tokio::test]
async fn apis_are_kept_apart_and_nothing_outlives_its_end() {
    let redis = Redis::start().await;
    let (running, shop) = member(&redis).await;
    let other =
        CoolDowns::new(&"shop.two".into(), Settings::default(), false, &running.board, None);
    shop.hear(&of(&shop, "one"), 429, &fields(&[("retry-after-ms", "400")]));
    other.hear(&of(&other, "one"), 429, &fields(&[("retry-after", "300")]));
    let all = async |prefix: &str| {
        let told = running.board.ask(&COOLDOWN, "cooldown", prefix, &["all", prefix]).await;
        told.unwrap().len() / 3
    };
    until(async || all("shop").await == 2).await;
    assert_eq!((all("shop/").await, all("shop.two/").await), (1, 1));
    assert!(refused(&shop, &of(&shop, "one")).is_some_and(|(_, left)| left <= 400));
    until(async || all("shop").await == 1).await;
    other.forget(&other.seen()[0].name);
    until(async || all("").await == 0).await;
    let keys = redis.query(&["KEYS", "*"]).await;
    assert_eq!(keys, Some(redis::Value::Array(Vec::new())));
}
