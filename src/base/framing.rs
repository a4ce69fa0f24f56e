//! Where an HTTP/1.1 message's head and body end (RFC 9112 §2.1, §6, §7), judged strictly.
//!
//! Pure: bytes in, a verdict out; the same for requests and responses. What two parsers could read
//! in two ways (RFC 9112 §11.2) is malformed here.

use memchr::memchr2_iter;
use thiserror::Error;

/// Bytes of chunk extensions in one body, and as many of its trailer section, unless told otherwise.
pub(crate) const MAX_CHUNK_EXTRAS: u32 = 16 * 1024;

/// Why a message's end cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// A chunk that RFC 9112 §7.1 does not allow.
    #[error("the chunked body is malformed")]
    Chunk,
    /// CR without LF, LF without CR, NUL or another control character.
    #[error("the head holds a bare CR, a bare LF or a control character")]
    Control,
    /// More bytes of chunk extensions in one body than are allowed (RFC 9112 §7.1.1).
    #[error("the chunked body has more bytes of extensions than are allowed")]
    Extensions,
    /// A trailer section longer than is allowed.
    #[error("the trailer section is longer than is allowed")]
    Trailers,
}

/// A number of decimal digits and nothing else, as Content-Length must be (RFC 9110 §8.6).
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked(Chunk),
}

/// The length of the head, if it is whole. Lines end in CRLF and nothing else.
pub(crate) fn end_of_head(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut line = 0;
    let mut after_cr = usize::MAX;
    for at in memchr2_iter(b'\r', b'\n', bytes) {
        if bytes[at] == b'\r' {
            if bytes.get(at + 1).is_some_and(|next| *next != b'\n') {
                return Err(Malformed::Control);
            }
            after_cr = at + 1;
        } else {
            if at != after_cr {
                return Err(Malformed::Control);
            }
            let content = &bytes[line..at - 1];
            if content.is_empty() {
                return Ok(Some(at + 1));
            }
            // PERF: without an early end, so that many bytes are looked at in one step.
            let control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
            if content.iter().fold(false, |found, byte| found | control(*byte)) {
                return Err(Malformed::Control);
            }
            line = at + 1;
        }
    }
    Ok(None)
}

/// Where in a chunked body one is (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    state: ChunkState,
    /// The size being read, or what is left of the data.
    left: u64,
    digits: u8,
    /// Bytes of extensions and of trailers that may still come.
    extensions: u32,
    trailers: u32,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::bounded(MAX_CHUNK_EXTRAS, MAX_CHUNK_EXTRAS)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends it all.
    Trailer,
    TrailerLine,
    TrailerLf,
    LastLf,
}

impl Framing {
    /// How many of `bytes` belong to this body, and whether it ends there.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        match self {
            Self::None => Ok((0, true)),
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok((taken, *left == 0))
            }
            Self::Chunked(chunk) => chunk.take(bytes),
        }
    }
}

impl Chunk {
    /// The start of a body with at most so many bytes of extensions and of trailers.
    pub(crate) fn bounded(extensions: u32, trailers: u32) -> Self {
        Self { state: ChunkState::Size, left: 0, digits: 0, extensions, trailers }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == ChunkState::Data {
                let taken =
                    (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= taken as u64;
                at += taken;
                if self.left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            self.state = match (self.state, byte) {
                (ChunkState::Size, _) if byte.is_ascii_hexdigit() => {
                    self.digits += 1;
                    // 15 digits are 2^60 bytes: more is an overflow in the making.
                    if self.digits > 15 {
                        return Err(Malformed::Chunk);
                    }
                    let digit = (byte as char).to_digit(16).unwrap_or(0);
                    self.left = self.left << 4 | u64::from(digit);
                    ChunkState::Size
                }
                (ChunkState::Size, b';') if self.digits > 0 => ChunkState::Extension,
                (ChunkState::Size, b'\r') if self.digits > 0 => ChunkState::SizeLf,
                (ChunkState::Extension, b'\r') => ChunkState::SizeLf,
                (ChunkState::Extension, _) if is_text(byte) => {
                    self.extensions =
                        self.extensions.checked_sub(1).ok_or(Malformed::Extensions)?;
                    ChunkState::Extension
                }
                (ChunkState::SizeLf, b'\n') => {
                    self.digits = 0;
                    if self.left == 0 { ChunkState::Trailer } else { ChunkState::Data }
                }
                (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
                (ChunkState::DataLf, b'\n') => ChunkState::Size,
                (ChunkState::Trailer, b'\r') => ChunkState::LastLf,
                (ChunkState::Trailer | ChunkState::TrailerLine, _) if is_text(byte) => {
                    self.trailers = self.trailers.checked_sub(1).ok_or(Malformed::Trailers)?;
                    ChunkState::TrailerLine
                }
                (ChunkState::TrailerLine, b'\r') => ChunkState::TrailerLf,
                (ChunkState::TrailerLf, b'\n') => ChunkState::Trailer,
                (ChunkState::LastLf, b'\n') => return Ok((at, true)),
                (
                    ChunkState::Size
                    | ChunkState::Extension
                    | ChunkState::SizeLf
                    | ChunkState::Data
                    | ChunkState::DataCr
                    | ChunkState::DataLf
                    | ChunkState::Trailer
                    | ChunkState::TrailerLine
                    | ChunkState::TrailerLf
                    | ChunkState::LastLf,
                    _,
                ) => return Err(Malformed::Chunk),
            };
        }
        Ok((at, false))
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_digits_and_fits() {
        for (text, number) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("0x1", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_chunked_body_is_found_at_every_cut() {
        let body = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n";
        let next = b"GET ";
        for cut in 0..=body.len() {
            let mut framing = Framing::Chunked(Chunk::default());
            let all = [body.as_slice(), next].concat();
            let (first, ended) = framing.take(&all[..cut]).unwrap();
            assert_eq!((first, ended), (cut, cut == body.len()));
            if !ended {
                let (second, ended) = framing.take(&all[cut..]).unwrap();
                assert_eq!((cut + second, ended), (body.len(), true));
            }
        }
    }

    #[test]
    fn a_malformed_chunk_is_a_flaw() {
        for body in
            ["\r\n", "g\r\n", "1\nx", "1\r\nxy", "1 \r\n", "1000000000000000\r\n", "0\r\n\n"]
        {
            let mut framing = Framing::Chunked(Chunk::default());
            assert_eq!(framing.take(body.as_bytes()), Err(Malformed::Chunk), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_a_bound_each_for_the_whole_body() {
        for (body, taken) in [
            ("1;abc\r\nx\r\n0;de\r\nA: b\r\n\r\n", Ok(true)),
            ("1;abc\r\nx\r\n0;def\r\n\r\n", Err(Malformed::Extensions)),
            ("0\r\nA: b\r\nC\r\n\r\n", Err(Malformed::Trailers)),
        ] {
            let mut framing = Framing::Chunked(Chunk::bounded(5, 4));
            assert_eq!(framing.take(body.as_bytes()).map(|(_, ended)| ended), taken, "{body:?}");
        }
    }
}
