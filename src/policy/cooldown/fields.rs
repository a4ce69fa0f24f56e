//! What an answer says about time: when its upstream wants to be asked again.
//!
//! Pure: fields and a clock in, a length of time out. The names and forms are those that are in
//! use, of which only Retry-After is a standard (RFC 9110 §10.2.3):
//!
//! | field | its form |
//! |---|---|
//! | `Retry-After-Ms` | milliseconds |
//! | `Retry-After` | seconds, or a date |
//! | `RateLimit` | `"name";r=0;t=30` (draft-ietf-httpapi-ratelimit-headers), `limit=9, remaining=0, reset=30` (before its 8th version) |
//! | `RateLimit-Reset` beside `RateLimit-Remaining` | seconds |
//! | `X-RateLimit-Reset-After` beside `X-RateLimit-Remaining` | seconds |
//! | `X-RateLimit-Reset` beside the same | seconds, or since 1970 in seconds or milliseconds, or with units |
//! | `X-RateLimit-Reset-Requests`, `-Tokens` beside `X-RateLimit-Remaining-` | with units: `6m0s`, `250ms` |
//!
//! The first row that says something counts. Dates are read against the Date of the same answer, so
//! that an upstream whose clock is wrong is still understood; without one, against ours. What makes
//! no sense is taken for nothing said.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use http::HeaderMap;
use http::header;

/// From here on a number is seconds since 1970, and no length of time: it is 2001.
const SECONDS_SINCE_1970: f64 = 1e9;
/// From here on it is milliseconds.
const MILLIS_SINCE_1970: f64 = 1e11;

/// When an upstream that refused wants to be asked again; none if it does not say. `wall` is our
/// clock.
pub(super) fn after_refusal(fields: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    retry_after(fields, wall).or_else(|| reset(fields, wall, Counted::Unless))
}

/// What Retry-After and its variant say.
pub(super) fn retry_after(fields: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let millis = texts(fields, "retry-after-ms").filter_map(number);
    if let Some(millis) = millis.max_by(f64::total_cmp) {
        return Some(seconds(millis / 1000.0));
    }
    let base = base(fields, wall);
    texts(fields, "retry-after").filter_map(|text| seconds_or_date(text, base)).max()
}

/// When an upstream that answered wants to be asked again, if it says that this was the last one.
pub(super) fn after_last(fields: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    reset(fields, wall, Counted::Must)
}

/// Whether it must be said that nothing remains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// It must be said.
    Must,
    /// It may not be said that something remains.
    Unless,
}

impl Counted {
    fn allows(self, remaining: Option<f64>) -> bool {
        match remaining {
            Some(remaining) => remaining <= 0.0,
            None => self == Self::Unless,
        }
    }
}

fn reset(fields: &HeaderMap, wall: SystemTime, counted: Counted) -> Option<Duration> {
    if let Some(left) = rate_limit(fields, counted) {
        return Some(left);
    }
    let remaining = |name: &str| texts(fields, name).filter_map(number).min_by(f64::total_cmp);
    if counted.allows(remaining("ratelimit-remaining"))
        && let Some(left) =
            texts(fields, "ratelimit-reset").filter_map(number).max_by(f64::total_cmp)
    {
        return Some(seconds(left));
    }
    if counted.allows(remaining("x-ratelimit-remaining")) {
        let left = texts(fields, "x-ratelimit-reset-after").filter_map(length).max();
        let base = base(fields, wall);
        let left = left
            .or_else(|| texts(fields, "x-ratelimit-reset").filter_map(|t| moment(t, base)).max());
        if left.is_some() {
            return left;
        }
    }
    let parts = ["requests", "tokens"].into_iter().filter_map(|part| {
        let exhausted = counted.allows(remaining(&format!("x-ratelimit-remaining-{part}")));
        let left = texts(fields, &format!("x-ratelimit-reset-{part}")).filter_map(length).max()?;
        exhausted.then_some(left)
    });
    parts.max()
}

/// The field `RateLimit`, in either form: the longest time of those of which nothing remains.
fn rate_limit(fields: &HeaderMap, counted: Counted) -> Option<Duration> {
    let items = texts(fields, "ratelimit").flat_map(|text| parts(text, ','));
    let (mut longest, mut remaining, mut left) = (None::<Duration>, None, None);
    for item in items {
        let mut words = parts(item, ';');
        let first = words.next().unwrap_or_default().trim();
        if !first.starts_with('"')
            && let Some((name, value)) = first.split_once('=')
        {
            // A dictionary: its members belong together.
            match name.trim() {
                "remaining" => remaining = number(value),
                "reset" => left = length(value),
                _ => {}
            }
            continue;
        }
        let (mut remaining, mut left) = (None, None);
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match name.trim() {
                "r" => remaining = number(value),
                "t" => left = length(value),
                _ => {}
            }
        }
        if counted.allows(remaining) {
            longest = longest.max(left);
        }
    }
    if counted.allows(remaining) { longest.max(left) } else { longest }
}

/// The parts of a text between separators that do not stand in quotes.
fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == separator && !is_quoted
    })
}

fn texts<'a>(fields: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = fields.get_all(name.to_owned());
    values.iter().filter_map(|value| value.to_str().ok()).map(str::trim)
}

/// The clock that dates are read against.
fn base(fields: &HeaderMap, wall: SystemTime) -> SystemTime {
    let date = fields.get(header::DATE).and_then(|date| date.to_str().ok());
    date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(wall)
}

fn seconds_or_date(text: &str, base: SystemTime) -> Option<Duration> {
    if let Some(number) = number(text) {
        return Some(seconds(number));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(base).unwrap_or_default())
}

/// Seconds, or a moment since 1970.
fn moment(text: &str, base: SystemTime) -> Option<Duration> {
    let Some(number) = number(text) else { return seconds_or_date(text, base).or(length(text)) };
    if number < SECONDS_SINCE_1970 {
        return Some(seconds(number));
    }
    let since = if number < MILLIS_SINCE_1970 { number } else { number / 1000.0 };
    let base = base.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(seconds(since).saturating_sub(base))
}

/// A length of time: seconds, or numbers with units, one after the other (`1m30s`).
fn length(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(number) = number(text) {
        return Some(seconds(number));
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (count, behind) = rest.split_at(end);
        let end = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit.trim() {
            "d" => 86_400.0,
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number(count)? * unit;
        rest = behind;
    }
    (!text.is_empty()).then(|| seconds(sum))
}

/// A number that is not negative: digits, and perhaps a fraction.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !is_plain || !text.starts_with(|letter: char| letter.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// As much as can be said in a `Duration`.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// Tuesday, 2026-11-24 08:00:00 UTC.
    const NOW: u64 = 1_795_507_200;

    fn wall() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let row = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(row).collect()
    }

    fn refused(fields: &[(&str, &str)]) -> Option<Duration> {
        after_refusal(&map(fields), wall())
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is told")]
    fn millis(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn each_form_of_saying_when_is_understood() {
        let rows: [(&[(&str, &str)], u64); 24] = [
            (&[("retry-after", "120")], 120_000),
            (&[("retry-after", "1.5")], 1500),
            (&[("retry-after", "Tue, 24 Nov 2026 08:00:07 GMT")], 7000),
            (&[("retry-after", "Tuesday, 24-Nov-26 08:00:07 GMT")], 7000),
            (&[("retry-after", "Tue Nov 24 08:00:07 2026")], 7000),
            (&[("retry-after", "Tue, 24 Nov 2026 07:00:00 GMT")], 0),
            (&[("retry-after", "3"), ("retry-after", "5")], 5000),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], 250),
            (&[("ratelimit", "\"default\";r=0;t=30")], 30_000),
            (&[("ratelimit", "\"a;r=9,b\";r=0;t=3, \"burst\";r=5;t=60")], 3000),
            (&[("ratelimit", "\"a\";r=0;t=3"), ("ratelimit", "\"b\";t=4;r=0")], 4000),
            (&[("ratelimit", "limit=100, remaining=0, reset=9")], 9000),
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "8")], 8000),
            (&[("ratelimit-reset", "8")], 8000),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "12")], 12_000),
            (&[("x-ratelimit-reset", "1795507205")], 5000),
            (&[("x-ratelimit-reset", "1795507205.5")], 5500),
            (&[("x-ratelimit-reset", "1795507205250")], 5250),
            (&[("x-ratelimit-reset", "1795507100")], 0),
            (&[("x-ratelimit-reset-after", "0.35"), ("x-ratelimit-reset", "1795507205")], 350),
            (&[("x-ratelimit-reset-requests", "1s")], 1000),
            (
                &[("x-ratelimit-reset-requests", "250ms"), ("x-ratelimit-reset-tokens", "6m0s")],
                360_000,
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "1m30.5s"),
                    ("x-ratelimit-remaining-tokens", "17"),
                    ("x-ratelimit-reset-tokens", "6m0s"),
                ],
                90_500,
            ),
            (&[("x-ratelimit-reset", "2h")], 7_200_000),
        ];
        for (fields, expected) in rows {
            assert_eq!(refused(fields), millis(expected), "{fields:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_says_nothing() {
        let rows: [&[(&str, &str)]; 12] = [
            &[],
            &[("retry-after", "")],
            &[("retry-after", "-5")],
            &[("retry-after", "soon")],
            &[("retry-after", "1e3")],
            &[("retry-after", "NaN")],
            &[("retry-after", "Mon, 33 Foo 2026 08:00:07 GMT")],
            &[("ratelimit", "\"default\";r=1;t=30")],
            &[("ratelimit", "\"default\";r=0")],
            &[("ratelimit-remaining", "3"), ("ratelimit-reset", "8")],
            &[("x-ratelimit-reset-tokens", "6 parsecs")],
            &[("x-ratelimit-reset", "s")],
        ];
        for fields in rows {
            assert_eq!(refused(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn a_date_is_read_by_the_clock_of_who_wrote_it() {
        let date = ("date", "Tue, 24 Nov 2020 08:00:00 GMT");
        let after = ("retry-after", "Tue, 24 Nov 2020 08:00:04 GMT");
        assert_eq!(refused(&[date, after]), millis(4000));
        let since = ("x-ratelimit-reset", "1606204806");
        assert_eq!(refused(&[date, since]), millis(6000));
        assert_eq!(
            refused(&[("date", "?"), ("retry-after", "Tue, 24 Nov 2026 08:00:04 GMT")]),
            millis(4000)
        );
    }

    #[test]
    fn an_answer_that_was_the_last_one_must_say_so() {
        let last = |fields: &[(&str, &str)]| after_last(&map(fields), wall());
        assert_eq!(
            last(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "12")]),
            millis(12_000)
        );
        assert_eq!(last(&[("ratelimit", "\"a\";r=0;t=3")]), millis(3000));
        assert_eq!(last(&[("x-ratelimit-reset", "12")]), None);
        assert_eq!(last(&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "12")]), None);
        assert_eq!(last(&[("retry-after", "12")]), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_breaks_it(
            name in prop::sample::select(vec![
                "retry-after", "retry-after-ms", "date", "ratelimit", "ratelimit-reset",
                "x-ratelimit-reset", "x-ratelimit-reset-after", "x-ratelimit-reset-tokens",
            ]),
            value in prop::collection::vec(any::<u8>(), 0..40),
            other in "[0-9a-z;=\", .:]{0,40}",
        ) {
            let mut fields = HeaderMap::new();
            let values = [HeaderValue::from_bytes(&value), HeaderValue::from_str(&other)];
            for value in values.into_iter().flatten() {
                fields.append(name, value);
            }
            let _said = after_refusal(&fields, wall());
            let _said = after_last(&fields, wall());
        }

        #[test]
        fn any_number_of_seconds_is_those_seconds(seconds in any::<u32>()) {
            let said = refused(&[("retry-after", &seconds.to_string())]);
            prop_assert_eq!(said, Some(Duration::from_secs(seconds.into())));
        }

        #[test]
        fn any_date_is_the_time_until_then(ahead in 0_u64..1_000_000_000) {
            let date = httpdate::fmt_http_date(wall() + Duration::from_secs(ahead));
            prop_assert_eq!(refused(&[("retry-after", &date)]), Some(Duration::from_secs(ahead)));
        }

        #[test]
        fn any_length_with_units_is_their_sum(h in 0_u32..99, m in 0_u32..99, s in 0_u32..99, ms in 0_u32..999) {
            let said = refused(&[("x-ratelimit-reset-tokens", &format!("{h}h{m}m{s}s{ms}ms"))]);
            let whole = u64::from(h) * 3600 + u64::from(m) * 60 + u64::from(s);
            let expected = Duration::from_secs(whole) + Duration::from_millis(ms.into());
            let apart = said.unwrap_or_default().abs_diff(expected);
            prop_assert!(apart < Duration::from_micros(1), "{:?} {:?}", said, expected);
        }

        #[test]
        fn a_number_of_any_length_is_a_time(digits in "[0-9]{1,400}") {
            prop_assert!(refused(&[("retry-after", &digits)]).is_some());
            prop_assert!(refused(&[("x-ratelimit-reset", &digits)]).is_some());
        }
    }
}
