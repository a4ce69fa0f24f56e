//! Moments as text, `2026-01-31T12:00:00.000Z` (RFC 3339), and back.
//!
//! The date is Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// UTC with milliseconds.
pub(super) fn millis(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}Z", seconds(since.as_secs()), since.subsec_millis())
}

/// UTC with microseconds.
pub(crate) fn micros(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:06}Z", seconds(since.as_secs()), since.subsec_micros())
}

fn seconds(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// What [`micros`] has written, or [`millis`]; none for what neither has.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (whole, part) = text.strip_suffix('Z')?.split_once('.')?;
    let (date, time) = whole.split_once('T')?;
    let numbers = |text: &str, at: char| -> Option<[u64; 3]> {
        let mut parts = text.split(at).map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { part.parse().ok() } else { None }
        });
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 || part.len() > 9 {
        return None;
    }
    let digits = u32::try_from(part.len()).ok()?;
    let is_part = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let part: u32 = if is_part { part.parse().ok()? } else { return None };
    let nanos = part * 10_u32.pow(9 - digits);
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let seconds = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(millis(time), text);
            assert_eq!(parse(text), Some(time));
        }
    }

    #[test]
    fn what_is_no_moment_is_not_read_as_one() {
        for text in [
            "",
            "Z",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-13-01T00:00:00.0Z",
            "2026-01-31 12:00:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "2026-01-31T24:00:00.000Z",
            "+2026-01-31T12:00:00.000Z",
            "2026-01-31T12:00:00.0000000000Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_read_as_it_was_written(micros in 0_u64..253_402_300_799_000_000) {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            prop_assert_eq!(parse(&super::micros(time)), Some(time));
        }
    }
}
