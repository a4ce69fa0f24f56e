//! What deciders promise, against logs that forget nothing, against another's token bucket, and
//! against `lua/quota.lua` on a real Redis. And ledgers that share a Redis.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::clock::FakeRelativeClock;
use redis::aio::MultiplexedConnection;

use super::count::Count;
use super::count::Denied;
use super::count::Granted;
use super::count::Question;
use super::tier::micros;
use super::word::Reply;
use super::word::Say;
use super::*;
use crate::base::clock;
use crate::store::board::tests::Redis;
use crate::store::board::tests::Running;
use crate::store::board::tests::TIMEOUT;
use crate::store::board::tests::until;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 2026-11-30 00:00:00 UTC.
const MIDNIGHT: u64 = 1_795_996_800 * SECOND;

fn tier(name: &str, limit: u64, window: u64, algorithm: Algorithm) -> Tier {
    Tier { name: name.into(), limit, window: Duration::from_micros(window), algorithm }
}

fn fixed(limit: u64, window: u64) -> Tier {
    tier("fixed", limit, window, Algorithm::Fixed)
}

fn sliding(limit: u64, window: u64) -> Tier {
    tier("sliding", limit, window, Algorithm::Sliding)
}

fn bucket(limit: u64, window: u64, burst: u64) -> Tier {
    tier("bucket", limit, window, Algorithm::TokenBucket { burst })
}

fn apitwo() -> Vec<Tier> {
    let tier = |name, limit, window| tier(name, limit, window, Algorithm::Fixed);
    vec![tier("minute", 5, MINUTE), tier("hour", 50, HOUR), tier("day", 500, DAY)]
}

fn made(tiers: Vec<Tier>) -> Arc<Tiers> {
    assert_eq!(tier::problem(&tiers), None);
    Arc::new(Tiers::new(tiers, 0))
}

/// A count with a clock.
struct Key {
    tiers: Arc<Tiers>,
    count: Count,
}

impl Key {
    fn new(tiers: Vec<Tier>) -> Self {
        let tiers = made(tiers);
        Self { count: Count::new(&tiers), tiers }
    }

    fn with_offset(tiers: Vec<Tier>, offset: i32) -> Self {
        let tiers = Arc::new(Tiers::new(tiers, offset));
        Self { count: Count::new(&tiers), tiers }
    }

    fn take(&mut self, now: u64, cost: u64) -> Result<(), Denied> {
        self.count.take(now, Question::plain(cost), false).map(drop)
    }

    /// How many of one pass.
    fn passing(&mut self, now: u64, most: u64) -> u64 {
        (0..most).map(|_| u64::from(self.take(now, 1).is_ok())).sum()
    }

    fn remaining(&mut self, now: u64) -> Vec<u64> {
        self.count.levels(now).iter().map(|level| level.remaining).collect()
    }

    fn obey(&mut self, tiers: Vec<Tier>) {
        let tiers = made(tiers);
        self.count.adapt(&self.tiers, &tiers);
        self.tiers = tiers;
    }
}

#[test]
fn five_pass_in_a_minute_and_five_in_the_next_and_the_sixth_is_told_when() {
    let mut key = Key::new(apitwo());
    let now = MIDNIGHT + 59 * SECOND;
    assert_eq!(key.passing(now, 6), 5);
    assert_eq!(key.take(now, 1), Err(Denied { tier: 0, left: SECOND }));
    assert_eq!(key.passing(now + SECOND - 1, 6), 0);
    assert_eq!(key.passing(now + SECOND, 6), 5);
    assert_eq!(key.remaining(now + SECOND), [0, 40, 490]);
}

#[test]
fn the_hour_stops_the_fifty_first_and_the_day_the_next() {
    let mut key = Key::new(apitwo());
    for minute in 0..10 {
        assert_eq!(key.passing(MIDNIGHT + minute * MINUTE, 9), 5);
    }
    let now = MIDNIGHT + 10 * MINUTE;
    assert_eq!(key.take(now, 1), Err(Denied { tier: 1, left: 50 * MINUTE }));
    for minute in 60..24 * 60 {
        key.passing(MIDNIGHT + minute * MINUTE, 5);
    }
    let now = MIDNIGHT + 23 * HOUR + MINUTE;
    assert_eq!(key.take(now, 1), Err(Denied { tier: 2, left: 59 * MINUTE }));
    assert_eq!(key.passing(MIDNIGHT + DAY, 9), 5);
}

#[test]
fn who_is_refused_pays_nothing_in_any_tier() {
    let mut key = Key::new(apitwo());
    assert_eq!(key.passing(MIDNIGHT, 1000), 5);
    assert_eq!(key.remaining(MIDNIGHT), [0, 45, 495]);
    assert!(key.take(MIDNIGHT + MINUTE, 6).is_err(), "more than a minute has");
    assert_eq!(key.remaining(MIDNIGHT + MINUTE), [5, 45, 495]);
}

#[test]
fn where_the_refused_pay_they_do_so_up_to_the_first_tier_that_is_full() {
    let mut key = Key::new(apitwo());
    let mut take = |now| key.count.take(now, Question::plain(1), true).is_ok();
    assert_eq!((0..20).filter(|_| take(MIDNIGHT)).count(), 5);
    for minute in 1..10 {
        assert_eq!((0..5).filter(|_| take(MIDNIGHT + minute * MINUTE)).count(), 5);
    }
    // The hour is full: it refuses, and the minute before it has been paid.
    let now = MIDNIGHT + 10 * MINUTE;
    assert_eq!((0..3).filter(|_| take(now)).count(), 0);
    assert_eq!(key.count.used(now).collect::<Vec<_>>(), [3, 53, 50]);
}

#[test]
fn windows_begin_where_the_calendar_has_them() {
    // 2028-02-29 is a day of its own, and so are its hours.
    let leap = 1_835_395_200 * SECOND;
    let day = || Key::new(vec![fixed(1, DAY)]);
    for (midnight, before) in [(MIDNIGHT, SECOND), (leap, 1), (leap + DAY, 1)] {
        let mut key = day();
        assert!(key.take(midnight - before, 1).is_ok());
        assert_eq!(key.take(midnight - 1, 1), Err(Denied { tier: 0, left: 1 }));
        assert!(key.take(midnight, 1).is_ok());
        assert!(key.take(midnight + DAY - 1, 1).is_err());
    }
    let mut hour = Key::new(vec![fixed(1, HOUR)]);
    assert!(hour.take(leap + DAY - 1, 1).is_ok() && hour.take(leap + DAY, 1).is_ok());
}

#[test]
fn a_day_begins_earlier_in_the_east_and_later_in_the_west() {
    for (offset, begins) in [(2 * 3600, MIDNIGHT - 2 * HOUR), (-5 * 3600, MIDNIGHT + 5 * HOUR)] {
        let mut key = Key::with_offset(vec![fixed(1, DAY)], offset);
        assert!(key.take(begins - 1, 1).is_ok());
        assert!(key.take(begins - 1, 1).is_err());
        assert!(key.take(begins, 1).is_ok());
        assert_eq!(key.take(begins + 1, 1), Err(Denied { tier: 0, left: DAY - 1 }));
    }
    let mut minute = Key::with_offset(vec![fixed(1, MINUTE)], 5 * 3600 + 1800);
    assert!(minute.take(MIDNIGHT - 1, 1).is_ok() && minute.take(MIDNIGHT, 1).is_ok());
}

#[test]
fn a_clock_that_goes_back_gives_nothing_twice() {
    for tiers in [vec![fixed(5, MINUTE)], vec![sliding(5, MINUTE)], vec![bucket(5, MINUTE, 5)]] {
        let mut key = Key::new(tiers);
        assert_eq!(key.passing(MIDNIGHT, 9), 5);
        assert_eq!(key.passing(MIDNIGHT - 1, 9), 0);
        assert_eq!(key.passing(MIDNIGHT - 59 * SECOND, 9), 0);
        assert_eq!(key.passing(MIDNIGHT + MINUTE, 9), 5);
    }
}

#[test]
fn a_clock_that_was_far_ahead_is_not_waited_for() {
    for tiers in [vec![fixed(5, MINUTE)], vec![sliding(5, MINUTE)], vec![bucket(5, MINUTE, 5)]] {
        let mut key = Key::new(tiers);
        assert_eq!(key.passing(MIDNIGHT + 30 * 365 * DAY, 9), 5);
        assert_eq!(key.passing(MIDNIGHT, 9), 0, "what was counted counts");
        assert_eq!(key.passing(MIDNIGHT + MINUTE, 9), 5);
    }
}

#[test]
fn a_limit_that_is_raised_holds_at_once_and_what_was_taken_counts() {
    let tiers =
        |limit| vec![fixed(limit, MINUTE), sliding(limit, MINUTE), bucket(limit, MINUTE, limit)];
    let mut key = Key::new(tiers(5));
    assert_eq!(key.passing(MIDNIGHT, 9), 5);
    key.obey(tiers(100));
    assert_eq!(key.passing(MIDNIGHT, 200), 95);
    key.obey(tiers(5));
    assert_eq!(key.passing(MIDNIGHT, 9), 0);
}

#[test]
fn around_the_edge_of_a_minute_a_fixed_window_admits_ten_and_a_sliding_one_five() {
    for (tiers, second) in [(vec![fixed(5, MINUTE)], 5), (vec![sliding(5, MINUTE)], 0)] {
        let mut key = Key::new(tiers);
        assert_eq!(key.passing(MIDNIGHT - SECOND, 9), 5);
        assert_eq!(key.passing(MIDNIGHT, 9), second);
    }
    let mut key = Key::new(vec![sliding(5, MINUTE)]);
    for second in 0..5 {
        assert!(key.take(MIDNIGHT + second * SECOND, 1).is_ok());
    }
    // Exact where the limit is small: one comes free when the first is a minute old.
    assert_eq!(key.take(MIDNIGHT + 10 * SECOND, 1), Err(Denied { tier: 0, left: 50 * SECOND }));
    assert_eq!(key.passing(MIDNIGHT + MINUTE, 9), 1);
}

#[test]
fn who_waits_as_long_as_was_told_passes() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..2000 {
        let (limit, window) = (rng.u64(1..100), rng.u64(1..100) * SECOND);
        let burst = rng.u64(1..100);
        let tiers = match rng.u8(..3) {
            0 => vec![fixed(limit, window), fixed(limit, window * 3)],
            1 => vec![sliding(limit, window)],
            _ => vec![bucket(limit, window, burst)],
        };
        let mut tiers = tiers;
        if let [_, other] = tiers.as_mut_slice() {
            other.name = "other".into();
        }
        let most = tiers.iter().map(Tier::most).min().unwrap();
        let mut key = Key::new(tiers);
        let mut now = MIDNIGHT + rng.u64(..DAY);
        for _ in 0..rng.u64(..50) {
            now += rng.u64(..=window / 10);
            let cost = rng.u64(1..=most);
            if let Err(denied) = key.take(now, cost) {
                assert!(key.take(now + denied.left - 1, cost).is_err(), "no sooner");
                now += denied.left;
                assert!(key.take(now, cost).is_ok(), "{:?} {denied:?}", key.tiers);
            }
        }
    }
}

/// What was used of what was granted: when, and how much.
#[derive(Default)]
struct Log {
    used: Vec<(u64, u64)>,
    /// How much, until when.
    lent: Vec<(u64, u64)>,
}

impl Log {
    /// What an instance may do with a grant at worst: use what is lent at any time that it may.
    fn note(&mut self, now: u64, granted: Granted) {
        self.used.push((now, granted.now));
        if granted.lent > 0 {
            self.lent.push((granted.lent, now + granted.valid));
        }
    }

    fn go_on(&mut self, now: u64, rng: &mut Rng) {
        self.lent.retain_mut(|(left, until)| {
            if now >= *until {
                // At the last moment.
                self.used.push((*until - 1, *left));
                return false;
            }
            let some = rng.u64(..=*left);
            self.used.push((now, some));
            *left -= some;
            *left > 0
        });
    }

    fn between(&self, from: u64, to: u64) -> u64 {
        self.used.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, cost)| cost).sum()
    }
}

fn drive(rng: &mut Rng, tiers: Vec<Tier>, window: u64) -> Log {
    let most = tiers.iter().map(Tier::most).min().unwrap();
    let mut key = Key::new(tiers);
    let mut log = Log::default();
    let mut now = MIDNIGHT + rng.u64(..HOUR);
    for _ in 0..300 {
        now += if rng.u8(..4) == 0 { rng.u64(..=window / 2) } else { rng.u64(..=window / 100) };
        log.go_on(now, rng);
        let asked = Question {
            need: rng.u64(1..=most.min(5)),
            demand: rng.u64(..20),
            want: if rng.bool() { rng.u64(..most) } else { 0 },
            share: rng.u64(1..8),
        };
        if let Ok(granted) = key.count.take(now, asked, false) {
            log.note(now, granted);
        }
    }
    log.go_on(u64::MAX, rng);
    log
}

#[test]
fn no_stretch_of_a_sliding_window_has_more_than_the_limit_even_of_what_was_lent() {
    let mut rng = Rng::with_seed(1);
    for _ in 0..200 {
        let limit = if rng.bool() { rng.u64(1..17) } else { rng.u64(17..500) };
        let window = rng.u64(1..120) * SECOND;
        let log = drive(&mut rng, vec![sliding(limit, window)], window);
        for (at, _) in &log.used {
            assert!(log.between(*at, at + window) <= limit);
        }
    }
}

#[test]
fn no_window_of_the_calendar_has_more_than_the_limit_even_of_what_was_lent() {
    let mut rng = Rng::with_seed(2);
    for _ in 0..200 {
        let (limit, window) = (rng.u64(1..500), rng.u64(1..120) * SECOND);
        let log = drive(&mut rng, vec![fixed(limit, window)], window);
        for (at, _) in &log.used {
            let begins = at / window * window;
            assert!(log.between(begins, begins + window) <= limit);
        }
    }
}

#[test]
fn a_bucket_never_gives_more_than_its_burst_and_what_came_back_even_of_what_was_lent() {
    let mut rng = Rng::with_seed(3);
    for _ in 0..100 {
        let (limit, window) = (rng.u64(1..500), rng.u64(1..120) * SECOND);
        let burst = rng.u64(1..500);
        let log = drive(&mut rng, vec![bucket(limit, window, burst)], window);
        // The bucket itself, by the log of what was used: it must never run over.
        let mut used = log.used;
        used.sort_unstable();
        let (mut missing, mut at) = (0_u128, 0);
        for (now, cost) in used {
            missing = missing.saturating_sub(u128::from(now - at) * u128::from(limit));
            missing += u128::from(cost) * u128::from(window);
            assert!(missing <= u128::from(burst) * u128::from(window));
            at = now;
        }
    }
}

#[test]
fn large_tiers_are_lent_and_give_all_that_they_have() {
    for tiers in
        [vec![fixed(1000, HOUR)], vec![sliding(1000, HOUR)], vec![bucket(1000, HOUR, 1000)]]
    {
        let mut key = Key::new(tiers);
        let mut total = 0;
        let mut asked = 0;
        while let Ok(granted) =
            key.count.take(MIDNIGHT, Question { need: 1, demand: 1, want: 500, share: 8 }, false)
        {
            total += granted.now + granted.lent;
            asked += 1;
        }
        assert_eq!(total, 1000);
        assert!(asked < 60, "{asked} questions");
    }
    let mut small = Key::new(vec![sliding(16, HOUR)]);
    let asked = Question { need: 1, demand: 1, want: 500, share: 1 };
    assert_eq!(small.count.take(MIDNIGHT, asked, false).unwrap().lent, 0);
}

#[test]
fn a_bucket_decides_as_governor_does() {
    let mut rng = Rng::with_seed(4);
    for _ in 0..300 {
        let (period, burst) = (rng.u64(1..SECOND), rng.u32(1..100));
        let quota = Quota::with_period(Duration::from_micros(period)).unwrap();
        let clock = FakeRelativeClock::default();
        let limiter = RateLimiter::direct_with_clock(
            quota.allow_burst(NonZeroU32::new(burst).unwrap()),
            clock.clone(),
        );
        let mut key = Key::new(vec![bucket(1, period.max(10_000), u64::from(burst))]);
        if period < 10_000 {
            key = Key::new(vec![bucket(10_000, period * 10_000, u64::from(burst))]);
        }
        let mut now = MIDNIGHT;
        for _ in 0..300 {
            let step = if rng.u8(..8) == 0 { period * u64::from(burst) } else { period };
            let step = rng.u64(..=step);
            now += step;
            clock.advance(Duration::from_micros(step));
            let cost = rng.u32(1..=burst);
            let theirs = limiter.check_n(NonZeroU32::new(cost).unwrap()).unwrap();
            match (key.take(now, u64::from(cost)), theirs) {
                (Ok(()), Ok(())) => {}
                (Err(denied), Err(until)) => {
                    assert_eq!(denied.left, micros(until.wait_time_from(clock.now())));
                }
                (ours, theirs) => panic!("{ours:?}, governor {theirs:?}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_counted_is_a_problem() {
    let says = |tier: Tier, words: &str| {
        let problem = Settings::default().problem(&[tier]).unwrap();
        assert!(problem.contains(words), "{problem}");
    };
    says(fixed(0, MINUTE), "from 1 to");
    says(fixed(u64::MAX, MINUTE), "from 1 to");
    says(fixed(5, 1), "a window is from");
    says(bucket(5, MINUTE, 0), "from 1 to");
    says(bucket(999_999_999_989, 399 * DAY, 999_999_999_989), "cannot be counted");
    says(Tier { name: "a b".into(), ..fixed(5, MINUTE) }, "letters");
    assert!(Settings::default().problem(&[fixed(5, MINUTE), fixed(5, HOUR)]).is_some());
    let settings = Settings { layout: Layout::Apitwo, ..Settings::default() };
    assert_eq!(settings.problem(&apitwo()), None);
    assert!(settings.problem(&[fixed(5, SECOND)]).is_some());
    assert!(settings.problem(&[sliding(5, MINUTE)]).is_some());
}

/// `lua/quota.lua`, told the time.
struct Lua {
    connection: MultiplexedConnection,
    script: redis::Script,
}

impl Lua {
    async fn new(redis: &Redis) -> Self {
        let code = include_str!("../../../lua/quota.lua");
        let timed = code
            .replace("call('TIME')", "{ ARGV[#ARGV - 1], ARGV[#ARGV] }")
            .replace("for i = 12, #ARGV, 8 do", "for i = 12, #ARGV - 2, 8 do");
        assert_eq!(timed.matches("#ARGV").count(), 3);
        Self { connection: redis.connection().await.unwrap(), script: redis::Script::new(&timed) }
    }

    async fn say(&mut self, now: u64, key: &str, say: &Say<'_>, of: (&Tiers, &Settings)) -> Reply {
        let (tiers, settings) = of;
        let spelt = say.spell(key, tiers, settings);
        let mut call = self.script.prepare_invoke();
        call.key(format!("quota:{key}")).key("quota").arg(&["channel", "PUBLISH", "quota\nkey\n"]);
        call.arg(spelt.words()).arg(now / SECOND).arg(now % SECOND);
        let words: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        Reply::parse(&words, tiers).unwrap()
    }

    async fn query<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.connection).await.unwrap()
    }
}

fn any_tiers(rng: &mut Rng) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for number in 0..rng.u8(1..4) {
        let limit = if rng.bool() { rng.u64(1..20) } else { rng.u64(1..2000) };
        let window = [10_000, SECOND, 7 * SECOND, MINUTE, HOUR, DAY][rng.usize(..6)];
        let mut tier = match rng.u8(..3) {
            0 => fixed(limit, window),
            1 => sliding(limit, window),
            _ => bucket(limit, window, rng.u64(1..2000)),
        };
        tier.name = format!("t{number}").into();
        tiers.push(tier);
    }
    tiers
}

/// The same with other limits.
fn changed(rng: &mut Rng, tiers: &[Tier]) -> Vec<Tier> {
    let change = |tier: &Tier| Tier { limit: tier.limit + rng.u64(..50), ..tier.clone() };
    tiers.iter().map(change).collect()
}

#[tokio::test]
async fn redis_counts_as_we_do() {
    let redis = Redis::start().await;
    let mut lua = Lua::new(&redis).await;
    let settings = Settings::default();
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let offset = rng.i32(-14 * 3600..14 * 3600);
        let list = any_tiers(&mut rng);
        let longest = list.iter().map(|tier| micros(tier.window)).max().unwrap();
        let mut tiers = Arc::new(Tiers::new(list, offset));
        let mut count = Count::new(&tiers);
        let mut now = MIDNIGHT + rng.u64(..DAY);
        let mut granted = Vec::new();
        let key = seed.to_string();
        for step in 0..60 {
            now = match rng.u8(..40) {
                0 => now - rng.u64(..longest * 3),
                1..5 => now + rng.u64(..=longest),
                _ => now + rng.u64(..=longest / 50),
            };
            if rng.u8(..20) == 0 {
                let after = Arc::new(Tiers::new(changed(&mut rng, tiers.list()), offset));
                count.adapt(&tiers, &after);
                tiers = after;
            }
            let of = (&*tiers, &settings);
            let context = format!("seed {seed} step {step} now {now} {tiers:?}");
            if rng.u8(..8) == 0
                && let Some((taken, at)) = granted.pop()
            {
                let Granted { now: cost, lent, .. } = taken;
                count.give_back(now, cost, lent, at);
                let reply = lua.say(now, &key, &Say::Back(cost, lent, at), of).await;
                assert_eq!(reply.levels, count.levels(now), "back: {context}");
                continue;
            }
            let most = tiers.list().iter().map(Tier::most).min().unwrap();
            let question = Question {
                need: rng.u64(..=most),
                demand: rng.u64(..=2 * most),
                want: rng.u64(..=most),
                share: rng.u64(1..10),
            };
            let owed: Option<Vec<u64>> =
                (rng.u8(..8) == 0).then(|| tiers.list().iter().map(|_| rng.u64(..3)).collect());
            let spelt = owed
                .as_ref()
                .map(|owed| owed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            let before = count.clone();
            if let Some(owed) = &owed {
                count.force_each(now, owed);
            }
            let ours = count.take(now, question, false);
            let reply = lua.say(now, &key, &Say::Take(question, spelt.as_deref()), of).await;
            assert_eq!(reply.outcome, ours, "{question:?} {context}");
            assert_eq!(reply.levels, count.levels(now), "{context}");
            assert_eq!(reply.at, now);
            // A refusal writes nothing to Redis, not even how late it is.
            if ours.is_err() && owed.is_none_or(|owed| owed.iter().all(|owed| *owed == 0)) {
                count = before;
            }
            granted.extend(ours.ok().map(|granted| (granted, now)));
        }
    }
}

#[tokio::test]
async fn redis_charges_the_refused_as_we_do_where_that_is_wanted() {
    let redis = Redis::start().await;
    let mut lua = Lua::new(&redis).await;
    let settings = Settings { charge_refused: true, ..Settings::default() };
    let mut rng = Rng::with_seed(5);
    let tiers = made(vec![
        Tier { name: "one".into(), ..fixed(5, MINUTE) },
        Tier { name: "two".into(), ..sliding(9, MINUTE) },
        Tier { name: "three".into(), ..fixed(11, HOUR) },
    ]);
    let mut count = Count::new(&tiers);
    let mut now = MIDNIGHT;
    for _ in 0..300 {
        now += rng.u64(..20 * SECOND);
        let question = Question::plain(rng.u64(1..4));
        let reply = lua.say(now, "k", &Say::Take(question, None), (&tiers, &settings)).await;
        assert_eq!(reply.outcome, count.take(now, question, true));
        assert_eq!(reply.levels, count.levels(now));
    }
}

#[tokio::test]
async fn a_key_is_gone_soon_after_its_longest_window() {
    let redis = Redis::start().await;
    let mut lua = Lua::new(&redis).await;
    let settings = Settings::default();
    for (at, tiers) in
        [apitwo(), vec![sliding(99, MINUTE)], vec![bucket(60, MINUTE, 50)]].into_iter().enumerate()
    {
        let tiers = made(tiers);
        let now = MIDNIGHT + 10 * SECOND;
        let question = Question { need: 2, demand: 2, want: 10, share: 2 };
        let reply =
            lua.say(now, &at.to_string(), &Say::Take(question, None), (&tiers, &settings)).await;
        let longest = reply.levels.iter().map(|level| level.reset).max().unwrap();
        let left: u64 = lua.query(&["PTTL", &format!("quota:{at}")]).await;
        let most = u64::try_from(longest.as_millis()).unwrap() + 1001;
        assert!(left <= most && left + 900 > most, "{left} of {most}");
    }
}

#[tokio::test]
async fn in_the_layout_of_apitwo_redis_holds_three_keys_that_end_with_their_windows() {
    let redis = Redis::start().await;
    let mut lua = Lua::new(&redis).await;
    let settings = Settings { layout: Layout::Apitwo, ..Settings::default() };
    let tiers = made(apitwo());
    let of = (&*tiers, &settings);
    // 2028-02-29 23:59:30, and the next day.
    let leap = 1_835_395_200 * SECOND + DAY - 30 * SECOND;
    let mut count = Count::new(&tiers);
    for now in [leap, leap, leap + MINUTE, leap + MINUTE] {
        for _ in 0..4 {
            let question = Question::plain(1);
            let reply = lua.say(now, "192.0.2.1", &Say::Take(question, None), of).await;
            assert_eq!(reply.outcome, count.take(now, question, false));
            assert_eq!(reply.levels, count.levels(now));
        }
    }
    let mut keys: Vec<String> = lua.query(&["KEYS", "*"]).await;
    keys.sort();
    let stamps = ["day:192.0.2.1:20280229", "day:192.0.2.1:20280301"];
    let hours = ["hour:192.0.2.1:2028022923", "hour:192.0.2.1:2028030100"];
    let minutes = ["minute:192.0.2.1:202802292359", "minute:192.0.2.1:202803010000"];
    let expected = [stamps, hours, minutes].concat();
    assert_eq!(keys, expected.iter().map(|key| format!("limit:{key}")).collect::<Vec<_>>());
    for (key, most) in [("day", 86400), ("hour", 3600), ("minute", 60)] {
        let of_tier = keys.iter().filter(|name| name.starts_with(&format!("limit:{key}")));
        for name in of_tier {
            let left: i64 = lua.query(&["TTL", name]).await;
            assert!((1..=most).contains(&left), "{name}: {left}");
            let used: u64 = lua.query(&["GET", name]).await;
            assert_eq!(used, 5, "{name}");
        }
    }
}

/// Some instances of a fleet.
struct Fleet {
    redis: Redis,
    running: Vec<Running>,
    ledgers: Vec<Ledger>,
}

impl Fleet {
    async fn start(settings: Settings) -> Self {
        let redis = Redis::start().await;
        let (mut running, mut ledgers) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let one = Running::up(&redis).await;
            ledgers.push(Ledger::new(&"shop".into(), settings.clone(), &one.board, None));
            running.push(one);
        }
        Self { redis, running, ledgers }
    }

    /// How many of so many at once pass, at all instances in turn.
    async fn passing(&self, key: &str, tiers: &Arc<Tiers>, requests: usize) -> usize {
        let ledgers = self.ledgers.iter().cycle().take(requests);
        let taken = join_all(ledgers.map(|ledger| ledger.take(key, tiers, 1))).await;
        taken.iter().filter(|taken| taken.verdict == Verdict::Admitted).count()
    }

    /// One after the other, at one instance.
    async fn passing_at(&self, at: usize, key: &str, tiers: &Arc<Tiers>, requests: usize) -> usize {
        let mut passed = 0;
        for _ in 0..requests {
            let taken = self.ledgers[at].take(key, tiers, 1).await;
            passed += usize::from(taken.verdict == Verdict::Admitted);
        }
        passed
    }

    fn asked(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.counted().asked).sum()
    }

    async fn remaining(&self, key: &str, tiers: &Arc<Tiers>) -> Vec<u64> {
        let levels = self.ledgers[0].look(key, tiers).await;
        levels.iter().map(|level| level.remaining).collect()
    }
}

/// Tiers whose windows no test outlives, wherever in one it begins.
fn lasting(limit: u64) -> Arc<Tiers> {
    made(vec![fixed(limit, 400 * DAY)])
}

#[tokio::test]
async fn of_two_hundred_at_once_at_four_instances_exactly_five_pass() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding, Algorithm::TokenBucket { burst: 5 }] {
        let fleet = Fleet::start(Settings::default()).await;
        let tiers = made(vec![tier("day", 5, DAY, algorithm), tier("more", 50, DAY, algorithm)]);
        assert_eq!(fleet.passing("k", &tiers, 200).await, 5);
        assert_eq!(fleet.passing("k", &tiers, 200).await, 0);
        assert!(fleet.asked() < 40, "{} questions for 400 requests", fleet.asked());
    }
}

#[tokio::test]
async fn a_refused_key_asks_redis_for_nothing_until_it_may_again() {
    let fleet = Fleet::start(Settings::default()).await;
    let tiers = lasting(5);
    assert_eq!(fleet.passing("k", &tiers, 40).await, 5);
    let asked = fleet.asked();
    assert_eq!(fleet.passing("k", &tiers, 1000).await, 0);
    assert_eq!(fleet.asked(), asked);

    let short = made(vec![sliding(1, SECOND / 5)]);
    let ledger = &fleet.ledgers[0];
    assert_eq!(ledger.take("s", &short, 1).await.verdict, Verdict::Admitted);
    let Verdict::Denied { left, .. } = ledger.take("s", &short, 1).await.verdict else {
        panic!("the second passed");
    };
    tokio::time::sleep(left).await;
    assert_eq!(ledger.take("s", &short, 1).await.verdict, Verdict::Admitted);
}

#[tokio::test]
async fn where_the_tier_is_large_ten_requests_ask_redis_once_and_none_too_many_pass() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding, Algorithm::TokenBucket { burst: 2000 }]
    {
        let fleet = Fleet::start(Settings::default()).await;
        let tiers = made(vec![tier("large", 2000, 100 * DAY, algorithm)]);
        let mut passed = 0;
        for _ in 0..450 {
            passed += fleet.passing("k", &tiers, 4).await;
        }
        assert_eq!(passed, 1800);
        let asked = fleet.asked();
        assert!(asked <= 180, "{algorithm:?}: {asked} questions for 1800 requests");
        // What others hold comes back when somebody is short.
        until(async || {
            passed += fleet.passing_at(0, "k", &tiers, 10).await;
            passed == 2000
        })
        .await;
        assert_eq!(fleet.passing("k", &tiers, 100).await, 0);
    }
}

#[tokio::test]
async fn a_limit_that_is_raised_lets_a_refused_key_go_on_at_once() {
    let fleet = Fleet::start(Settings::default()).await;
    assert_eq!(fleet.passing("k", &lasting(5), 100).await, 5);
    assert_eq!(fleet.passing("k", &lasting(50), 200).await, 45);
    assert_eq!(fleet.passing("k", &lasting(5), 100).await, 0);
}

#[tokio::test]
async fn a_key_that_an_operator_forgets_begins_anew_on_all_instances() {
    for layout in [Layout::Narrows, Layout::Apitwo] {
        let fleet = Fleet::start(Settings { layout, ..Settings::default() }).await;
        let tiers = made(vec![tier("day", 5, DAY, Algorithm::Fixed)]);
        assert_eq!(fleet.passing("k", &tiers, 100).await, 5);
        assert_eq!(fleet.remaining("k", &tiers).await, [0]);
        assert!(fleet.ledgers[2].forget("k", &tiers));
        let mut passed = 0;
        until(async || {
            passed += fleet.passing("k", &tiers, 4).await;
            passed >= 5
        })
        .await;
        assert_eq!(passed, 5);
        assert!(!fleet.ledgers[2].forget("other", &tiers));
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_redis_is_asked_costs_nobody_else_anything() {
    let fleet = Fleet::start(Settings::default()).await;
    let tiers = lasting(10);
    let (ledger, board) = (&fleet.ledgers[1], &fleet.running[1].board);
    let is_late = || board.snapshot().is_some_and(|board| board.away > 0);
    fleet.redis.hang();
    for _ in 0..20 {
        let mut taken = Box::pin(ledger.take("k", &tiers, 1));
        assert!(futures_util::poll!(&mut taken).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.counted().asked, 1);
    fleet.redis.go_on();
    // On a machine that is too busy the answer comes too late to be heard: nothing can be said then.
    until(async || is_late() || fleet.remaining("k", &tiers).await == [10]).await;
}

#[tokio::test]
async fn a_thread_that_stops_while_it_asks_keeps_nobody_waiting() {
    let fleet = Fleet::start(Settings::default()).await;
    let (tiers, ledger) = (lasting(10), fleet.ledgers[1].clone());
    fleet.redis.hang();
    let stopped = std::thread::spawn({
        let (tiers, ledger) = (Arc::clone(&tiers), ledger.clone());
        move || {
            let thread = tokio::runtime::Builder::new_current_thread().enable_all().build();
            thread.unwrap().block_on(async {
                let mut taken = Box::pin(ledger.take("k", &tiers, 1));
                assert!(futures_util::poll!(&mut taken).is_pending());
                tokio::task::yield_now().await;
            });
        }
    });
    stopped.join().unwrap();
    assert_eq!(ledger.counted().asked, 1);
    fleet.redis.go_on();
    until(async || fleet.running[1].board.is_up()).await;
    let taken = ledger.take("k", &tiers, 1).await;
    assert_eq!(taken.verdict, Verdict::Admitted);
    assert_eq!(ledger.counted().asked, 2, "by itself");
}

#[tokio::test]
async fn cost_is_taken_at_once_or_not_at_all_and_what_can_never_pass_says_so() {
    let fleet = Fleet::start(Settings::default()).await;
    let tiers = made(vec![tier("day", 10, DAY, Algorithm::Sliding)]);
    let costs = [7, 4, 3, 11, u64::MAX, 0];
    let mut verdicts = Vec::new();
    for cost in costs {
        verdicts.push(fleet.ledgers[0].take("k", &tiers, cost).await.verdict);
    }
    assert!(matches!(
        verdicts[..],
        [
            Verdict::Admitted,
            Verdict::Denied { tier: 0, .. },
            Verdict::Admitted,
            Verdict::Never { tier: 0 },
            Verdict::Never { tier: 0 },
            Verdict::Admitted
        ]
    ));
    assert_eq!(fleet.remaining("k", &tiers).await, [0]);
}

#[tokio::test]
async fn while_redis_is_away_each_policy_does_what_it_says() {
    for (policy, first, passing) in [
        (OnRedisError::Closed, Verdict::Away, 0),
        (OnRedisError::Error500, Verdict::Away, 0),
        (OnRedisError::Open, Verdict::Admitted, 400),
        // 21 are five for each of four instances, so that there are never more than 21.
        (OnRedisError::Local, Verdict::Admitted, 20),
    ] {
        let settings = Settings { on_redis_error: policy, ..Settings::default() };
        let mut fleet = Fleet::start(settings).await;
        fleet.redis.kill();
        until(async || fleet.running.iter().all(|running| !running.board.is_up())).await;
        let began = clock::now();
        let tiers = lasting(21);
        assert_eq!(fleet.ledgers[0].take("k", &tiers, 1).await.verdict, first);
        let mut passed = 0;
        for at in 0..4 {
            passed += fleet.passing_at(at, "k", &tiers, 100).await;
        }
        assert_eq!(passed + usize::from(first == Verdict::Admitted && passing == 20), passing);
        assert!(clock::now() - began < TIMEOUT * 20, "nobody waits");
    }
}

#[tokio::test]
async fn an_instance_that_has_let_its_part_through_lets_no_more_through_when_redis_goes_away() {
    let mut fleet = Fleet::start(Settings::default()).await;
    let tiers = lasting(40);
    assert_eq!(fleet.passing_at(0, "k", &tiers, 7).await, 7);
    fleet.redis.kill();
    until(async || fleet.running.iter().all(|running| !running.board.is_up())).await;
    // What it holds it may use: that was counted.
    let passed = fleet.passing_at(0, "k", &tiers, 100).await;
    assert!(passed <= 4, "{passed}");
    assert_eq!(fleet.passing_at(1, "k", &tiers, 100).await, 10);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_time_out_and_what_was_lent_is_still_used() {
    let fleet =
        Fleet::start(Settings { on_redis_error: OnRedisError::Closed, ..Settings::default() })
            .await;
    let tiers = lasting(100_000);
    let passed = fleet.passing_at(0, "k", &tiers, 500).await;
    assert_eq!(passed, 500);
    let held = fleet.ledgers[0].take("k", &tiers, 1).await.levels[0].remaining
        - fleet.remaining("k", &tiers).await[0];
    assert!(held > 50, "{held} are lent");
    fleet.redis.hang();
    let held = usize::try_from(held).unwrap();
    let asked = fleet.asked();
    assert_eq!(fleet.passing_at(0, "k", &tiers, held).await, held);
    assert_eq!(fleet.asked(), asked);
    let began = clock::now();
    let verdicts = join_all((0..100).map(|_| fleet.ledgers[0].take("k", &tiers, 1))).await;
    assert!(verdicts.iter().all(|taken| taken.verdict == Verdict::Away));
    assert_eq!(fleet.passing_at(0, "k", &tiers, 100).await, 0);
    assert!(clock::now() - began < TIMEOUT * 20, "all waited once, at the same time");
}

#[tokio::test]
async fn what_went_without_redis_is_told_to_it_when_it_is_back() {
    let settings = Settings { on_redis_error: OnRedisError::Open, ..Settings::default() };
    let fleet = Fleet::start(settings).await;
    let tiers = lasting(30);
    fleet.redis.hang();
    assert_eq!(fleet.passing("k", &tiers, 20).await, 20);
    until(async || fleet.running.iter().all(|running| !running.board.is_up())).await;
    fleet.redis.go_on();
    until(async || fleet.running.iter().all(|running| running.board.is_up())).await;
    // What was asked while it hung was taken too, perhaps.
    until(async || fleet.remaining("k", &tiers).await[0] <= 10).await;
    assert!(fleet.passing("k", &tiers, 100).await <= 10);
}

#[tokio::test]
async fn an_instance_that_is_alone_counts_by_itself() {
    let board = crate::store::board::Board::alone();
    let ledger = Ledger::new(&"shop".into(), Settings::default(), &board, None);
    let tiers = made(vec![tier("day", 5, DAY, Algorithm::Sliding)]);
    let mut passed = 0;
    for _ in 0..20 {
        passed += usize::from(ledger.take("k", &tiers, 1).await.verdict == Verdict::Admitted);
    }
    assert_eq!(passed, 5);
    let later = Ledger::new(&"shop".into(), Settings::default(), &board, Some(&ledger));
    assert_eq!(later.look("k", &tiers).await[0].remaining, 0);
    assert!(later.forget("k", &tiers));
    assert_eq!(ledger.take("k", &tiers, 5).await.verdict, Verdict::Admitted);
    assert_eq!(ledger.counted().admitted, 6);
}

/// `cargo test --release --lib -- --ignored --nocapture what_a_request_costs`
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_request_costs() {
    const TIMES: u32 = 1_000_000;
    let measure = async |what: &str, ledger: &Ledger, tiers: &Arc<Tiers>| {
        let keys: Vec<String> = (0..1000).map(|number| format!("192.0.2.{number}")).collect();
        let began = clock::now();
        for key in keys.iter().cycle().take(TIMES as usize) {
            ledger.take(key, tiers, 1).await;
        }
        println!("{what}: {:?}", (clock::now() - began) / TIMES);
    };
    let alone = crate::store::board::Board::alone();
    let ledger = Ledger::new(&"shop".into(), Settings::default(), &alone, None);
    measure(
        "alone, admitted",
        &ledger,
        &made(vec![
            Tier { name: "minute".into(), ..fixed(1_000_000, MINUTE) },
            Tier { name: "hour".into(), ..fixed(1_000_000, HOUR) },
            Tier { name: "day".into(), ..fixed(1_000_000, DAY) },
        ]),
    )
    .await;
    measure("alone, refused", &ledger, &made(apitwo())).await;
    let fleet = Fleet::start(Settings::default()).await;
    measure("a fleet, lent", &fleet.ledgers[0], &lasting(100_000_000)).await;
    println!("questions: {}", fleet.asked());
    measure("a fleet, refused", &fleet.ledgers[0], &lasting(1)).await;
}
