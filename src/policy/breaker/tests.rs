//! Circuits as an instance that is alone has them, and what it makes of the words of a fleet.

use super::*;
use crate::policy::Cause;

const FAILED: Facts = Facts { end: End::Failed(Cause::Reset), took: Duration::ZERO };
const WELL: Facts = Facts { end: End::Status(200), took: Duration::ZERO };

fn settings(failure_threshold: u32) -> Settings {
    Settings { failure_threshold, ..Settings::default() }
}

fn api(settings: Settings, former: Option<&Breakers>) -> Breakers {
    Breakers::new(&"shop".into(), settings, false, None, &Board::alone(), former)
}

fn hosts(settings: Settings) -> Breakers {
    Breakers::new(&"default".into(), settings, true, None, &Board::alone(), None)
}

fn host(text: &str) -> HostKey {
    HostKey::parse(text).unwrap()
}

/// Lets an attempt have come to this; whether it could be made.
async fn attempt(breakers: &Breakers, host: &HostKey, facts: Facts) -> bool {
    match breakers.enter(host).await {
        Decision::Pass(pass) => {
            pass.record(facts).await;
            true
        }
        Decision::Wait(_) | Decision::Refuse(_) => false,
    }
}

async fn left(breakers: &Breakers, host: &HostKey) -> Option<Duration> {
    match breakers.enter(host).await {
        Decision::Pass(_) => None,
        Decision::Wait(refusal) | Decision::Refuse(refusal) => {
            assert_eq!(refusal.rule, Rule::Breaker);
            Some(refusal.left)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_opens_and_says_for_how_long() {
    let (breakers, host) = (api(settings(2), None), host("a.test"));
    for _ in 0..2 {
        assert!(attempt(&breakers, &host, FAILED).await);
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(left(&breakers, &host).await, Some(Duration::from_secs(20)));
    let circuit = &breakers.snapshot()[0];
    assert_eq!((circuit.condition.as_str(), circuit.failures), ("OPEN", 2));
    assert_eq!((circuit.left, circuit.trips), (Duration::from_secs(20), 1));
    assert_eq!(circuit.refused, 1);
    assert!(circuit.last_failure.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_leaves_its_place() {
    let (breakers, host) = (api(settings(1), None), host("a.test"));
    attempt(&breakers, &host, FAILED).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    let Decision::Pass(probe) = breakers.enter(&host).await else { panic!("no probe") };
    assert_eq!(breakers.snapshot()[0].condition, Condition::HalfOpen);
    assert!(left(&breakers, &host).await.is_some());
    drop(probe);
    assert!(attempt(&breakers, &host, WELL).await);
    assert_eq!(breakers.snapshot()[0].successes, 1);
    assert!(attempt(&breakers, &host, WELL).await);
    assert_eq!(breakers.snapshot()[0].condition, Condition::Closed);
}

#[tokio::test(start_paused = true)]
async fn new_settings_hold_at_once_and_what_was_learned_stays() {
    let (before, host) = (api(settings(5), None), host("a.test"));
    for _ in 0..3 {
        attempt(&before, &host, FAILED).await;
    }
    let after = api(settings(4), Some(&before));
    assert!(attempt(&after, &host, FAILED).await);
    assert!(left(&after, &host).await.is_some());
    assert!(left(&before, &host).await.is_some(), "of a request that began before");
    assert_eq!(after.snapshot()[0].settings.failure_threshold, 4);
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_close_it() {
    let (breakers, host) = (api(settings(1), None), host("a.test"));
    attempt(&breakers, &host, FAILED).await;
    assert!(breakers.reset(None));
    assert!(attempt(&breakers, &host, WELL).await);
    assert!(!breakers.reset(Some(&host)), "an API has one for all of its hosts");
}

#[tokio::test(start_paused = true)]
async fn hosts_are_kept_apart_and_one_that_never_fails_is_not_remembered() {
    let breakers = hosts(settings(1));
    let (good, bad) = (host("good.test"), host("bad.test"));
    assert!(attempt(&breakers, &good, WELL).await);
    assert!(breakers.snapshot().is_empty(), "an empty list");
    assert!(attempt(&breakers, &bad, FAILED).await);
    assert!(left(&breakers, &bad).await.is_some());
    assert!(attempt(&breakers, &good, WELL).await);
    let all = breakers.snapshot();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].host.as_ref(), Some(&bad));
    assert!(breakers.reset(Some(&bad)));
    assert!(!breakers.reset(Some(&good)));
    assert!(attempt(&breakers, &bad, WELL).await);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_clients_make_up_do_not_push_out_those_that_are_open() {
    let breakers = hosts(settings(2));
    let open = host("open.test");
    for _ in 0..2 {
        attempt(&breakers, &open, FAILED).await;
    }
    for number in 0..2 * HOSTS {
        // Room is made at times only.
        tokio::time::advance(Duration::from_millis(2)).await;
        attempt(&breakers, &host(&format!("h{number}.test")), FAILED).await;
    }
    assert!(breakers.table.hosts().len() <= HOSTS);
    assert!(left(&breakers, &open).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_share_of_slow_calls_opens_it_and_quick_probes_close_it() {
    let rates = Rates {
        minimum_calls: 2,
        failure_rate: 101.0,
        slow_call_rate: 100.0,
        slow_call: Duration::from_secs(1),
        ..Rates::default()
    };
    let breakers = api(Settings { rates: Some(rates), ..settings(5) }, None);
    let (host, slow) = (host("a.test"), Facts { took: Duration::from_secs(1), ..WELL });
    for _ in 0..2 {
        assert!(attempt(&breakers, &host, slow).await);
    }
    assert!(left(&breakers, &host).await.is_some());
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(attempt(&breakers, &host, slow).await, "a slow probe");
    assert!(left(&breakers, &host).await.is_some());
    tokio::time::advance(Duration::from_secs(30)).await;
    for _ in 0..2 {
        assert!(attempt(&breakers, &host, WELL).await);
    }
    assert_eq!(breakers.snapshot()[0].condition, Condition::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_newest_word_of_the_fleet_holds() {
    let (breakers, host) = (api(settings(5), None), host("a.test"));
    let word = |version: &'static str, letter: &'static str| {
        breakers.table.heard("shop", &[version, version, letter, "5", "0", "4000"]);
    };
    word("7", "o");
    assert_eq!(left(&breakers, &host).await, Some(Duration::from_secs(4)));
    word("6", "c");
    assert!(left(&breakers, &host).await.is_some(), "an older word");
    breakers.table.heard("other", &["8", "8", "c", "0", "0", "0"]);
    assert!(left(&breakers, &host).await.is_some(), "another API's");
    word("9", "c");
    assert!(left(&breakers, &host).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn while_others_probe_nobody_here_does() {
    let (breakers, host) = (api(settings(5), None), host("a.test"));
    breakers.table.heard("shop", &["7", "7", "h", "5", "0", "4000"]);
    assert_eq!(left(&breakers, &host).await, Some(state::SHORTLY));
    // Their lease has ended, and Redis is away.
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(left(&breakers, &host).await.is_none());
}

#[tokio::test]
async fn what_is_said_of_a_host_is_remembered_unless_it_is_well() {
    let breakers = hosts(settings(5));
    breakers.table.heard("default/a.test", &["7", "7", "o", "5", "0", "4000"]);
    breakers.table.heard("default/b.test", &["7", "7", "c", "0", "0", "0"]);
    breakers.table.heard("default2/c.test", &["7", "7", "o", "5", "0", "4000"]);
    let all = breakers.snapshot();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].host, Some(host("a.test")));
}
