//! What is tried again and when, with time that is handed in.

use proptest::prelude::*;

use super::*;
use crate::base::clock;

fn quick() -> Settings {
    Settings { initial_delay: Duration::from_millis(200), ..Settings::default() }
}

fn unlimited() -> Settings {
    Settings { budget: 101.0, ..quick() }
}

fn over(end: End) -> Attempt {
    Attempt { end, is_unsent: false, has_body: true, asked: None }
}

fn failed(status: u16) -> Attempt {
    over(End::Status(status))
}

/// What follows the first attempt of a request.
fn first(settings: &Settings, method: &Method, attempt: Attempt) -> Verdict {
    let retry = Retry::new(settings.clone(), None);
    retry.begin(method, &HeaderMap::new(), None).judge(attempt, clock::now())
}

fn is_retried(settings: &Settings, method: &Method, attempt: Attempt) -> bool {
    matches!(first(settings, method, attempt), Verdict::After(_))
}

/// Delays of a request whose attempts all end so.
fn delays(retry: &Retry, attempt: Attempt) -> Vec<Duration> {
    let mut attempts = retry.begin(&Method::GET, &HeaderMap::new(), None);
    let mut now = clock::now();
    let mut all = Vec::new();
    while let Verdict::After(delay) = attempts.judge(attempt, now) {
        now += delay;
        all.push(delay);
        assert!(all.len() < 1000, "it never ends");
    }
    assert_eq!(attempts.count() as usize, all.len());
    all
}

#[test]
fn the_defaults_are_those_that_are_promised() {
    let settings = Settings::default();
    assert_eq!((settings.max_attempts, settings.backoff_factor), (3, 2.0));
    assert_eq!((settings.initial_delay.as_secs(), settings.max_delay.as_secs()), (1, 10));
    assert_eq!(settings.retry_on_status, [500, 502, 503, 504, 429]);
    assert_eq!(settings.retry_on_errors, Cause::ALL);
    assert!((settings.jitter, settings.retry_unsafe) == (0.2, false));
}

#[test]
fn three_attempts_are_made_in_all() {
    let retry = Retry::new(unlimited(), None);
    assert_eq!(delays(&retry, failed(500)).len(), 2);
    assert_eq!(retry.withheld(), 0);
}

#[test]
fn one_attempt_is_made_where_one_is_allowed_or_none() {
    for max_attempts in [0, 1] {
        let settings = Settings { max_attempts, ..unlimited() };
        let retry = Retry::new(settings.clone(), None);
        assert!(retry.begin(&Method::GET, &HeaderMap::new(), None).is_last());
        assert!(!is_retried(&settings, &Method::GET, failed(500)), "{max_attempts}");
    }
}

#[test]
fn delays_grow_by_the_factor_and_differ_by_the_jitter() {
    let settings = quick();
    let of = |number, roll| settings.delay(number, roll).as_secs_f64();
    for (number, roll, is) in [
        (1, 0.0, 0.16),
        (1, 0.5, 0.2),
        (1, 1.0, 0.24),
        (2, 0.0, 0.32),
        (2, 1.0, 0.48),
        (3, 0.5, 0.8),
    ] {
        assert!((of(number, roll) - is).abs() < 1e-6, "{number} {roll}: {}", of(number, roll));
    }
}

#[test]
fn the_longest_delay_is_never_exceeded_by_jitter() {
    let settings = Settings { max_delay: Duration::from_millis(300), ..quick() };
    assert_eq!(settings.delay(2, 1.0), Duration::from_millis(300));
    assert_eq!(settings.delay(u32::MAX, 1.0), Duration::from_millis(300));
}

#[test]
fn only_what_is_listed_is_tried_again() {
    let settings = Settings {
        retry_on_status: vec![503],
        retry_on_errors: vec![Cause::Dns, Cause::Timeout],
        ..unlimited()
    };
    for (end, is) in [
        (End::Status(503), true),
        (End::Status(500), false),
        (End::Status(200), false),
        (End::Failed(Cause::Dns), true),
        (End::Failed(Cause::Timeout), true),
        (End::Failed(Cause::Reset), false),
        (End::Failed(Cause::Refused), false),
        (End::Failed(Cause::Tls), false),
    ] {
        assert_eq!(is_retried(&settings, &Method::GET, over(end)), is, "{end:?}");
    }
}

#[test]
fn a_refusal_of_our_own_is_never_tried_again_nor_counted() {
    let retry = Retry::new(unlimited(), None);
    let mut attempts = retry.begin(&Method::GET, &HeaderMap::new(), None);
    assert!(matches!(attempts.judge(failed(500), clock::now()), Verdict::After(_)));
    assert_eq!(attempts.judge(over(End::Neutral), clock::now()), Verdict::Deliver);
    assert_eq!(attempts.count(), 0, "the second attempt was none");
}

#[test]
fn what_is_not_idempotent_is_tried_again_only_if_nothing_of_it_had_left() {
    let sent = failed(500);
    let unsent = Attempt { is_unsent: true, ..over(End::Failed(Cause::Refused)) };
    for (method, is) in [
        (Method::GET, true),
        (Method::HEAD, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::OPTIONS, true),
        (Method::POST, false),
        (Method::PATCH, false),
    ] {
        assert_eq!(is_retried(&unlimited(), &method, sent), is, "{method}");
        assert!(is_retried(&unlimited(), &method, unsent), "{method}");
        let settings = Settings { retry_unsafe: true, ..unlimited() };
        assert!(is_retried(&settings, &method, sent), "{method}");
    }
}

#[test]
fn an_idempotency_key_makes_a_post_repeatable() {
    let retry = Retry::new(unlimited(), None);
    let mut fields = HeaderMap::new();
    fields.insert("Idempotency-Key", "\"8e03978e\"".parse().unwrap());
    let mut attempts = retry.begin(&Method::POST, &fields, None);
    assert!(matches!(attempts.judge(failed(500), clock::now()), Verdict::After(_)));
}

#[test]
fn nothing_follows_once_the_body_is_gone() {
    let gone = Attempt { has_body: false, ..failed(500) };
    assert!(!is_retried(&unlimited(), &Method::PUT, gone));
}

#[test]
fn what_the_upstream_asks_for_is_waited_for_but_not_slept_through() {
    let asks = |seconds| Attempt { asked: Some(Duration::from_secs(seconds)), ..failed(429) };
    let Verdict::After(delay) = first(&unlimited(), &Method::GET, asks(1)) else { panic!() };
    assert_eq!(delay, Duration::from_secs(1), "longer than the back-off, and not jittered");
    assert!(is_retried(&unlimited(), &Method::GET, asks(10)));
    for seconds in [11, 300, u64::MAX] {
        assert_eq!(first(&unlimited(), &Method::GET, asks(seconds)), Verdict::Deliver);
    }
}

#[test]
fn no_attempt_begins_at_or_after_the_deadline() {
    let retry = Retry::new(Settings { jitter: 0.0, ..unlimited() }, None);
    let now = clock::now();
    for (left, is) in [(0, false), (199, false), (200, false), (201, true), (5000, true)] {
        let deadline = now + Duration::from_millis(left);
        let mut attempts = retry.begin(&Method::GET, &HeaderMap::new(), Some(deadline));
        let follows = matches!(attempts.judge(failed(500), now), Verdict::After(_));
        assert_eq!(follows, is, "{left} ms");
    }
}

#[test]
fn a_spent_budget_lets_the_answer_through() {
    let retry = Retry::new(Settings { budget: 50.0, budget_floor: 0.0, ..quick() }, None);
    let now = clock::now();
    let mut follows = Vec::new();
    for _ in 0..6 {
        let mut attempts = retry.begin(&Method::GET, &HeaderMap::new(), None);
        follows.push(matches!(attempts.judge(failed(500), now), Verdict::After(_)));
    }
    assert_eq!(follows, [false, true, false, true, false, true]);
    assert_eq!(retry.withheld(), 3);
}

#[test]
fn what_was_spent_outlives_a_change_of_settings() {
    let settings = Settings { budget: 0.0, budget_floor: 1.0, ..quick() };
    let before = Retry::new(settings.clone(), None);
    assert_eq!(delays(&before, failed(500)).len(), 1);
    let after = Retry::new(settings, Some(&before));
    assert_eq!(delays(&after, failed(500)).len(), 0);
    assert_eq!(after.withheld(), 2);
}

#[test]
fn an_outage_is_not_multiplied() {
    let settings = Settings { initial_delay: Duration::ZERO, ..Settings::default() };
    let retry = Retry::new(settings, None);
    let hits: usize =
        (0..1000).map(|_| 1 + delays(&retry, over(End::Failed(Cause::Reset))).len()).sum();
    // What took longer than the second of the floor's burst is this machine's time.
    assert!((1200..1300).contains(&hits), "{hits}");
}

proptest! {
    #[test]
    fn attempts_and_delays_are_bounded(
        max_attempts in 0..20_u32,
        initial in 0..5000_u64,
        factor in 0.0..10.0_f64,
        longest in 0..5000_u64,
        jitter in 0.0..=1.0_f64,
        asked in prop::option::of(0..6000_u64),
    ) {
        let settings = Settings {
            max_attempts,
            initial_delay: Duration::from_millis(initial),
            backoff_factor: factor,
            max_delay: Duration::from_millis(longest),
            jitter,
            ..unlimited()
        };
        let asked = asked.map(Duration::from_millis);
        let delays = delays(&Retry::new(settings, None), Attempt { asked, ..failed(503) });
        prop_assert!(delays.len() < max_attempts.max(1) as usize);
        let longest = Duration::from_millis(longest);
        for delay in &delays {
            prop_assert!(*delay <= longest && *delay >= asked.unwrap_or_default());
        }
        prop_assert!(delays.iter().sum::<Duration>() <= longest * max_attempts);
    }
}
