//! How much a request may have of everything, as text.

use super::flags;
use super::source::Noted;
use super::source::Source;
use super::whole;
use crate::proxy::Bounds;

/// What hyper takes in all of a head, of a URI, of chunk extensions and of trailers.
const MOST_HEAD: u64 = 256 * 1024;
const MOST_LINE: u64 = 65_000;
const MOST_EXTRAS: u64 = 16 * 1024;

pub(super) fn bounds(source: &mut Source<'_>) -> Result<Bounds, Noted> {
    let head_size = source.read(&flags::MAX_HEAD_SIZE, |text| bytes(text, 1024, MOST_HEAD));
    let fields = source.read(&flags::MAX_FIELDS, |text| whole(text, 1, 10_000, ""));
    let request_line = source.read(&flags::MAX_REQUEST_LINE, |text| bytes(text, 64, MOST_LINE));
    let chunk_extensions =
        source.read(&flags::MAX_CHUNK_EXTENSIONS, |text| bytes(text, 0, MOST_EXTRAS));
    let trailers = source.read(&flags::MAX_TRAILERS, |text| bytes(text, 0, MOST_EXTRAS));
    let interim = source.read(&flags::MAX_INTERIM, |text| whole(text, 1, 1000, ""));
    Ok(Bounds {
        head_size: head_size?,
        fields: fields?,
        request_line: request_line?,
        chunk_extensions: chunk_extensions?,
        trailers: trailers?,
        interim: interim?,
    })
}

/// Reads `65536`, or `64KiB`.
pub(super) fn bytes(text: &str, from: u64, to: u64) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix("KiB") {
        Some(number) => (number, 1024),
        None => (text, 1),
    };
    whole::<u64>(number, 0, to, "")
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| (from..=to).contains(bytes))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or_else(|| format!("a number of bytes from {from} to {to}, such as 16384 or 16KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_number_or_one_of_kibibytes() {
        for (text, is) in [("1024", 1024), ("1KiB", 1024), ("256KiB", 262_144)] {
            assert_eq!(bytes(text, 1024, MOST_HEAD), Ok(is), "{text}");
        }
        for text in ["", "KiB", "1023", "257KiB", "1 KiB", "1kb", "-1", "18014398509481984KiB"] {
            assert!(bytes(text, 1024, MOST_HEAD).is_err(), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_code() {
        let nothing = clap::ArgMatches::default();
        let mut source = Source::new(vec![&nothing], []);
        assert_eq!(bounds(&mut source).unwrap(), Bounds::default());
    }
}
