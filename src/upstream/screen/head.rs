//! The head of a response, judged strictly line by line as it comes (RFC 9112 §2.2, §4, §5, §6.3).
//!
//! Pure: bytes in, a verdict out. What two parsers could read in two ways (RFC 9112 §11.2) is
//! refused here; a head that has been looked at needs no second look where it was cut.

use memchr::memchr_iter;

use super::Bounds;
use super::Expected;
use super::Fault;
use crate::base::framing;
use crate::base::framing::Chunk;
use crate::base::framing::Framing;

/// What every response begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// What follows a whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// A body whose end can be told; `sure` is whether every recipient would agree on it.
    Body { framing: Framing, sure: bool },
    /// A body up to the connection's end (RFC 9112 §6.3, rule 8).
    UntilClose,
    /// The head of the final response: this was a 1xx.
    Head,
    /// Another protocol.
    Switched,
}

/// Where in a head one is. Positions count from its first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// Where the current line begins.
    line: usize,
    /// Up to where its end has been looked for.
    seen: usize,
    /// Whole lines.
    lines: usize,
    fields: usize,
    /// 0 before the status line.
    status: u16,
    /// HTTP/1.0.
    old: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Scan {
    /// Looks at the head at the front of `bytes`, of which no call may have seen more; its length
    /// and what follows it, if it is whole.
    pub(super) fn look(
        &mut self,
        bytes: &[u8],
        expected: Expected,
        bounds: &Bounds,
    ) -> Result<Option<(usize, After)>, Fault> {
        let from = self.seen;
        for at in memchr_iter(b'\n', &bytes[from..]) {
            let end = from + at;
            if end >= bounds.head {
                return Err(Fault::HeadSize);
            }
            let Some((b'\r', content)) = bytes[self.line..end].split_last() else {
                return Err(if self.status == 0 { Fault::NotHttp } else { Fault::Control });
            };
            self.line = end + 1;
            if self.status == 0 {
                self.read_status_line(content)?;
            } else if content.is_empty() {
                self.seen = end + 1;
                if holds_control(&bytes[..end], self.lines + 1) {
                    return Err(Fault::Control);
                }
                return Ok(Some((end + 1, self.after(expected, bounds)?)));
            } else {
                self.read_field(content, bounds)?;
            }
            self.lines += 1;
        }
        self.seen = bytes.len();
        let begun = &bytes[..bytes.len().min(VERSION.len())];
        if !VERSION.starts_with(begun) {
            return Err(Fault::NotHttp);
        }
        if bytes.len() > bounds.head { Err(Fault::HeadSize) } else { Ok(None) }
    }

    /// The status, once its line was seen; 0 before.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// RFC 9112 §4. The space behind the status may be missing where there is no reason phrase:
    /// many origins leave it out, and nobody reads that in another way.
    fn read_status_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (version, rest) =
            line.strip_prefix(VERSION).and_then(|rest| rest.split_first()).ok_or(Fault::NotHttp)?;
        self.old = match version {
            b'0' => true,
            b'1' => false,
            _ => return Err(Fault::NotHttp),
        };
        let (&[b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'], reason) =
            rest.split_first_chunk::<4>().ok_or(Fault::StatusLine)?
        else {
            return Err(Fault::StatusLine);
        };
        if !(reason.is_empty() || reason[0] == b' ') {
            return Err(Fault::StatusLine);
        }
        let digit = |byte: u8| u16::from(byte - b'0');
        self.status = digit(a) * 100 + digit(b) * 10 + digit(c);
        Ok(())
    }

    /// RFC 9112 §5. A folded line (§5.2) begins with a space, which no name holds.
    fn read_field(&mut self, line: &[u8], bounds: &Bounds) -> Result<(), Fault> {
        self.fields += 1;
        if self.fields > bounds.fields {
            return Err(Fault::Fields);
        }
        let end = line.iter().position(|byte| !TOKEN[usize::from(*byte)]);
        let (name, rest) = line.split_at(end.unwrap_or(line.len()));
        let Some((b':', value)) = rest.split_first() else { return Err(Fault::Field) };
        if name.is_empty() {
            return Err(Fault::Field);
        }
        // PERF: the length tells most names apart.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => self.read_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.read_coding(value),
            _ => return Ok(()),
        }
        // What is wrong with all of the head comes before what is wrong with these.
        .map_err(|fault| if holds_control(value, 0) { Fault::Control } else { fault })
    }

    /// One decimal number, once: equal ones are not merged, though they might be (RFC 9112 §6.3,
    /// rule 5; RFC 9110 §8.6).
    fn read_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::Length);
        }
        self.length = Some(framing::decimal(value.trim_ascii()).ok_or(Fault::Length)?);
        Ok(())
    }

    fn read_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Coding);
        }
        self.chunked = true;
        Ok(())
    }

    fn after(&self, expected: Expected, bounds: &Bounds) -> Result<After, Fault> {
        if self.chunked && self.old {
            return Err(Fault::OldCoding);
        }
        if self.chunked && self.length.is_some() {
            return Err(Fault::LengthAndCoding);
        }
        let framed = self.chunked || self.length.is_some_and(|length| length > 0);
        Ok(match self.status {
            // RFC 9112 §6.1 and RFC 9110 §8.6: no 1xx says how long it is. One that does could
            // hide what some recipient takes for the final response.
            100..=199 if framed => return Err(Fault::Interim),
            101 if !expected.upgrade || self.old => return Err(Fault::Switch),
            101 => After::Switched,
            100..=199 => After::Head,
            204 => After::Body { framing: Framing::None, sure: !framed },
            304 => After::Body { framing: Framing::None, sure: true },
            _ if expected.head => After::Body { framing: Framing::None, sure: true },
            _ if self.chunked => {
                let chunk = Chunk::bounded(bounds.extensions, bounds.trailers);
                After::Body { framing: Framing::Chunked(chunk), sure: true }
            }
            _ => match self.length {
                Some(0) => After::Body { framing: Framing::None, sure: true },
                Some(length) => After::Body { framing: Framing::Length(length), sure: true },
                None => After::UntilClose,
            },
        })
    }
}

/// Whether a head holds what none may: controls but for the tab (RFC 9110 §5.5), or a CR that is not the
/// end of a line, of which it has as many as `ends`.
fn holds_control(head: &[u8], ends: usize) -> bool {
    // PERF: once for all lines and without an early end, so that many bytes are looked at in one step.
    let control =
        |byte: u8| (byte < 0x20 && !matches!(byte, b'\t' | b'\r' | b'\n')) || byte == 0x7f;
    let found = head.iter().fold(false, |found, byte| found | control(*byte));
    found || memchr_iter(b'\r', head).count() != ends
}

/// The bytes of a token (RFC 9110 §5.6.2).
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"!#$%&'*+-.^_`|~";
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: Expected = Expected::new(false, false);

    fn whole(head: &str) -> Result<After, Fault> {
        expect(head, GET)
    }

    fn expect(head: &str, expected: Expected) -> Result<After, Fault> {
        let found = Scan::default().look(head.as_bytes(), expected, &Bounds::default())?;
        let (length, after) = found.expect("a whole head");
        assert_eq!(length, head.len());
        Ok(after)
    }

    fn body(framing: Framing) -> After {
        After::Body { framing, sure: true }
    }

    #[test]
    fn a_body_ends_as_its_head_says() {
        let chunked = Framing::Chunked(Chunk::default());
        for (head, after) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", body(Framing::Length(5))),
            ("HTTP/1.1 200 OK\r\ncontent-length:\t5 \r\n\r\n", body(Framing::Length(5))),
            ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", body(Framing::None)),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n", body(chunked)),
            ("HTTP/1.0 200 OK\r\nA:b\r\n\r\n", After::UntilClose),
            ("HTTP/1.1 999 No way\r\n\r\n", After::UntilClose),
            ("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", body(Framing::None)),
            ("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", body(Framing::None)),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", After::Head),
        ] {
            assert_eq!(whole(head), Ok(after), "{head:?}");
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(expect(head, Expected::new(true, false)), Ok(body(Framing::None)));
        let switch = "HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n";
        assert_eq!(expect(switch, Expected::new(false, true)), Ok(After::Switched));
        let unsure = After::Body { framing: Framing::None, sure: false };
        assert_eq!(whole("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n"), Ok(unsure));
    }

    #[test]
    fn what_is_malformed_or_could_be_read_in_two_ways_is_refused() {
        for (head, fault) in [
            ("HTTP/2.0 200 OK\r\n\r\n", Fault::NotHttp),
            ("HTTP/1.2 200 OK\r\n\r\n", Fault::NotHttp),
            ("http/1.1 200 OK\r\n\r\n", Fault::NotHttp),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::NotHttp),
            ("<html>", Fault::NotHttp),
            ("HTTX", Fault::NotHttp),
            ("HTTP/1.1 20 OK\r\n\r\n", Fault::StatusLine),
            ("HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLine),
            ("HTTP/1.1 099 OK\r\n\r\n", Fault::StatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Fault::StatusLine),
            ("HTTP/1.1\t200 OK\r\n\r\n", Fault::StatusLine),
            ("HTTP/1.1 200 O\rK\r\n\r\n", Fault::Control),
            ("HTTP/1.1 200 OK\n\r\n", Fault::NotHttp),
        ] {
            assert_eq!(whole(head), Err(fault), "{head:?}");
        }
        for (fields, fault) in [
            ("A: b\n", Fault::Control),
            ("A: b\rc\r\n", Fault::Control),
            ("A: b\0c\r\n", Fault::Control),
            ("A\0: b\r\n", Fault::Field),
            ("A : b\r\n", Fault::Field),
            (": b\r\n", Fault::Field),
            ("A b\r\n", Fault::Field),
            ("A: b\r\n folded\r\n", Fault::Field),
            ("A: b\r\n\tfolded: x\r\n", Fault::Field),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Fault::Length),
            ("Content-Length: 5, 5\r\n", Fault::Length),
            ("Content-Length: +5\r\n", Fault::Length),
            ("Content-Length: 0x5\r\n", Fault::Length),
            ("Content-Length:\r\n", Fault::Length),
            ("Content-Length: 18446744073709551616\r\n", Fault::Length),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::Coding),
            ("Transfer-Encoding: gzip, chunked\r\n", Fault::Coding),
            ("Transfer-Encoding: chunked, identity\r\n", Fault::Coding),
            ("Transfer-Encoding: xchunked\r\n", Fault::Coding),
            ("Transfer-Encoding:\r\n", Fault::Coding),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(whole(&head), Err(fault), "{fields:?}");
        }
        assert_eq!(
            whole("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Fault::OldCoding)
        );
        assert_eq!(whole("HTTP/1.1 103 x\r\nContent-Length: 9\r\n\r\n"), Err(Fault::Interim));
        assert_eq!(whole("HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n"), Err(Fault::Switch));
    }

    #[test]
    fn a_head_may_be_as_long_as_the_bounds_say_and_no_longer() {
        let head = b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n";
        let look = |bytes: &[u8], head, fields| {
            let bounds = Bounds { head, fields, ..Bounds::default() };
            Scan::default().look(bytes, GET, &bounds).map(|found| found.is_some())
        };
        assert_eq!(look(head, head.len(), 2), Ok(true));
        assert_eq!(look(head, head.len() - 1, 2), Err(Fault::HeadSize));
        assert_eq!(look(head, head.len(), 1), Err(Fault::Fields));
        let endless = [head[..head.len() - 2].to_vec(), vec![b'x'; 100]].concat();
        assert_eq!(look(&endless, endless.len(), 9), Ok(false));
        assert_eq!(look(&endless, endless.len() - 1, 9), Err(Fault::HeadSize));
    }

    proptest! {
        #[test]
        fn a_head_that_comes_in_pieces_is_judged_as_one_that_comes_whole(
            lines in proptest::collection::vec("[ -~\\t\\r\\x00]{0,12}|Content-Length: [0-9]{1,3}|A: b", 0..6),
            cuts in proptest::collection::vec(1_usize..7, 0..40),
        ) {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", lines.join("\r\n"));
            let bounds = Bounds::default();
            let at_once = Scan::default().look(head.as_bytes(), GET, &bounds);
            let mut scan = Scan::default();
            let mut end = 0_usize;
            let mut in_pieces = Ok(None);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                end = head.len().min(end.saturating_add(cut));
                in_pieces = scan.look(&head.as_bytes()[..end], GET, &bounds);
                if !matches!(in_pieces, Ok(None)) {
                    break;
                }
            }
            prop_assert_eq!(at_once, in_pieces);
        }
    }
}
