//! What the process has for kept responses, from text.

use super::flags;
use super::source::Noted;
use super::source::Source;
use crate::policy::cache::tiers::Settings;

/// More than any machine has.
const MOST: u64 = 1 << 44;
const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

pub(super) fn read(source: &mut Source<'_>) -> Result<Settings, Noted> {
    let memory = source.read(&flags::CACHE_MEMORY, room);
    let redis = source.read(&flags::CACHE_REDIS, |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off"),
    });
    Ok(Settings { memory: memory?, redis: redis? })
}

/// A number of bytes, perhaps in units.
fn room(text: &str) -> Result<u64, &'static str> {
    let unit = UNITS.into_iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
    let (digits, size) = unit.unwrap_or((text, 1));
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { digits.parse::<u64>().ok() } else { None };
    number
        .and_then(|number| number.checked_mul(size))
        .filter(|bytes| *bytes <= MOST)
        .ok_or("a number of bytes such as 500000, 64MiB or 2GiB; 0 keeps nothing in memory")
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::serve;
    use super::*;

    #[test]
    fn room_is_bytes_or_has_a_unit() {
        for (text, is) in [
            ("0", 0),
            ("500000", 500_000),
            ("16KiB", 16 << 10),
            ("64MiB", 64 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(room(text), Ok(is), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64MB", "64 MiB", "99999999GiB"] {
            assert!(room(text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_tiers_are_there_unless_they_are_not_wanted() {
        assert_eq!(serve(&[], &[]).config.cache, Settings::default());
        let read = serve(&["--cache-memory=0", "--cache-redis=off"], &[]).config.cache;
        assert_eq!(read, Settings { memory: 0, redis: false });
        let found = problems(&["--cache-memory=much", "--cache-redis=maybe"], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
