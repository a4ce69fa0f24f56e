//! Lengths of time as people write them.
//!
//! Everywhere else a length of time is a [`Duration`]; only here is it text.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The longest that may be written. Larger ones would overflow when added to an instant.
pub(crate) const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Why a text is no length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadDuration {
    /// Not a number and a unit, or several of them.
    #[error("a time such as 10s, 500ms, 1m30s or 2h; a number alone is seconds")]
    Shape,
    /// More than a year.
    #[error("a time of at most 365d")]
    TooLong,
}

/// The units, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads `10s`, `500ms`, `1m30s`, `2h`, `1d`; a bare number is seconds. Each unit may stand once,
/// longer ones before shorter ones.
pub(crate) fn duration(text: &str) -> Result<Duration, BadDuration> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return number(text).and_then(|seconds| within(seconds.checked_mul(1000)));
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let letters = rest.find(|c: char| !c.is_ascii_digit()).ok_or(BadDuration::Shape)?;
        let (count, tail) = rest.split_at(letters);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        // Taken from what is left of the list, so that order and uniqueness hold by themselves.
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or(BadDuration::Shape)?;
        let part = number(count)?.checked_mul(*millis).ok_or(BadDuration::TooLong)?;
        total = total.checked_add(part).ok_or(BadDuration::TooLong)?;
        rest = tail;
    }
    within(Some(total))
}

fn number(digits: &str) -> Result<u64, BadDuration> {
    match digits.len() {
        0 => Err(BadDuration::Shape),
        _ => digits.parse().map_err(|_overflow| BadDuration::TooLong),
    }
}

fn within(millis: Option<u64>) -> Result<Duration, BadDuration> {
    let time = Duration::from_millis(millis.ok_or(BadDuration::TooLong)?);
    if time <= LONGEST { Ok(time) } else { Err(BadDuration::TooLong) }
}

/// A length of time as [`duration`] reads it; what is below a millisecond is left out.
pub(crate) struct Written(pub(crate) Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in UNITS {
            if millis >= size {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1d12h", 129_600_000),
            ("1s500ms", 1500),
            ("15", 15_000),
            ("0", 0),
            ("0s", 0),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "", "s", "10x", "10 s", "-1s", "1.5s", "1s1m", "1s1s", "s10", "10s5", "1ms1s", "é",
            "1sé",
        ] {
            assert_eq!(duration(text), Err(BadDuration::Shape), "{text}");
        }
        for text in [
            "366d",
            "365d1ms",
            "99999999999999999999s",
            "99999999999999999999",
            "9999999999999999d",
        ] {
            assert_eq!(duration(text), Err(BadDuration::TooLong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_time_is_read_back(millis in 0..=31_536_000_000_u64) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&Written(time).to_string()), Ok(time));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            prop_assert!(duration(&text).is_ok_and(|time| time <= LONGEST) || duration(&text).is_err());
        }
    }
}
