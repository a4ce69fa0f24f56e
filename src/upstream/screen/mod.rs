//! What stands between an upstream's socket and hyper: nothing ambiguous reaches hyper, and so no
//! client.
//!
//! It holds each head back until that is whole and has been judged, follows the body to its end,
//! and lets nothing through that no request asked for. Where messages begin and end is decided
//! here; hyper decides it again, by the same rules, on what is left.
//!
//! PERF: reads go straight into hyper's buffer. A head that comes in one read is looked at there,
//! once; only one that comes in pieces is copied. A body is counted, not copied.

pub(crate) mod connect;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use self::head::After;
use self::head::Scan;
use super::conn::Conn;
use crate::base::framing::Framing;
use crate::base::framing::MAX_CHUNK_EXTRAS;
use crate::base::framing::Malformed;
use crate::telemetry::metrics::Bound;

/// How much an upstream may send beside the data of its bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a response's head, up to 256 KiB.
    pub head: usize,
    /// Fields in it.
    pub fields: usize,
    /// Bytes of chunk extensions in one body, up to 16 KiB.
    pub extensions: u32,
    /// Bytes of its trailer section, up to 16 KiB.
    pub trailers: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        let extras = MAX_CHUNK_EXTRAS;
        Self { head: 64 * 1024, fields: 100, extensions: extras, trailers: extras }
    }
}

/// What is wrong with what an upstream sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A chunk that RFC 9112 §7.1 does not allow.
    #[error("the upstream's chunked body is malformed")]
    Chunk,
    /// A transfer coding other than chunked (RFC 9112 §6.1), or more than one.
    #[error("the upstream's Transfer-Encoding is not chunked alone")]
    Coding,
    /// CR without LF, LF without CR, NUL or another control character.
    #[error("the upstream's head holds a bare CR, a bare LF or a control character")]
    Control,
    /// More than [`Bounds::extensions`].
    #[error("the upstream's chunk extensions are too long")]
    Extensions,
    /// A field line that is none, or is folded.
    #[error("the upstream's head holds a malformed field")]
    Field,
    /// More than [`Bounds::fields`].
    #[error("the upstream's head has too many fields")]
    Fields,
    /// More than [`Bounds::head`].
    #[error("the upstream's head is too long")]
    HeadSize,
    /// It ended within a head.
    #[error("the upstream's head is cut off")]
    Incomplete,
    /// A 1xx with a body.
    #[error("the upstream's interim response has a length")]
    Interim,
    /// Lengths that contradict each other, or are no numbers.
    #[error("the upstream's Content-Length is not one decimal number")]
    Length,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.3, rule 3).
    #[error("the upstream sent both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("the upstream did not answer in HTTP/1.0 or HTTP/1.1")]
    NotHttp,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1).
    #[error("the upstream sent Transfer-Encoding in HTTP/1.0")]
    OldCoding,
    /// RFC 9112 §4.
    #[error("the upstream's status line is malformed")]
    StatusLine,
    /// A 101 to a request that asked for no upgrade.
    #[error("the upstream switched protocols unasked")]
    Switch,
    /// More than [`Bounds::trailers`].
    #[error("the upstream's trailer section is too long")]
    Trailers,
    /// Bytes that belong to no response.
    #[error("the upstream sent bytes that nobody asked for")]
    Unsolicited,
}

impl Fault {
    /// The bound that was met, if it was one.
    pub(crate) fn bound(self) -> Option<Bound> {
        match self {
            Self::Extensions => Some(Bound::ResponseExtensions),
            Self::Fields => Some(Bound::ResponseFields),
            Self::HeadSize => Some(Bound::ResponseHead),
            Self::Trailers => Some(Bound::ResponseTrailers),
            Self::Chunk
            | Self::Coding
            | Self::Control
            | Self::Field
            | Self::Incomplete
            | Self::Interim
            | Self::Length
            | Self::LengthAndCoding
            | Self::NotHttp
            | Self::OldCoding
            | Self::StatusLine
            | Self::Switch
            | Self::Unsolicited => None,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Chunk => Self::Chunk,
            Malformed::Control => Self::Control,
            Malformed::Extensions => Self::Extensions,
            Malformed::Trailers => Self::Trailers,
        }
    }
}

/// What the request says about its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// To a HEAD, no body follows (RFC 9112 §6.3, rule 1).
    head: bool,
    /// It may switch protocols.
    upgrade: bool,
}

impl Expected {
    pub(crate) const fn new(head: bool, upgrade: bool) -> Self {
        Self { head, upgrade }
    }
}

/// What is said across hyper: it owns the socket, and we only hear of it.
#[derive(Debug, Default)]
pub(crate) struct Brief {
    /// A request is about to be written.
    expected: Cell<Option<Expected>>,
    fault: Cell<Option<Fault>>,
}

impl Brief {
    /// A request goes out next, whose response is to be as `expected`.
    pub(crate) fn expect(&self, expected: Expected) {
        self.expected.set(Some(expected));
    }

    /// What was wrong, if anything was. The connection is of no use any more.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }
}

/// Where in the conversation one is.
#[derive(Clone, Copy, Debug)]
enum State {
    /// No request is out.
    Idle,
    Head(Scan),
    Body(Framing),
    UntilClose,
    Switched,
    Failed(Fault),
}

/// The rules, without the socket.
#[derive(Debug)]
struct Screen {
    state: State,
    expected: Expected,
    bounds: Bounds,
}

impl Screen {
    fn new(bounds: Bounds) -> Self {
        let expected = Expected::new(false, false);
        Self { state: State::Idle, expected, bounds }
    }

    /// A request begins to be written.
    fn begin(&mut self, expected: Expected) {
        if let State::Idle = self.state {
            self.expected = expected;
            self.state = State::Head(Scan::default());
        }
    }

    /// How many of `bytes` may go on to hyper. What is left then is a part of a head, and is to
    /// be shown again with more behind it; after a fault it is to be thrown away.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let step = match &mut self.state {
                State::Head(scan) => match scan.look(rest, self.expected, &self.bounds) {
                    Ok(Some((length, after))) => {
                        self.state = state_after(after);
                        Ok(length)
                    }
                    Ok(None) => return at,
                    Err(fault) => Err(fault),
                },
                State::Body(framing) => match framing.take(rest) {
                    Ok((taken, ended)) => {
                        if ended {
                            self.state = State::Idle;
                        }
                        Ok(taken)
                    }
                    Err(malformed) => Err(malformed.into()),
                },
                State::UntilClose | State::Switched => Ok(rest.len()),
                State::Idle => Err(Fault::Unsolicited),
                State::Failed(_) => return at,
            };
            match step {
                Ok(length) => at += length,
                Err(fault) => {
                    self.state = State::Failed(fault);
                    return at;
                }
            }
        }
        at
    }
}

fn state_after(after: After) -> State {
    match after {
        // Nothing may follow where the end can be read in two ways.
        After::Body { sure: false, .. } => State::Failed(Fault::Unsolicited),
        After::Body { framing: Framing::None, .. } => State::Idle,
        After::Body { framing, .. } => State::Body(framing),
        After::UntilClose => State::UntilClose,
        After::Head => State::Head(Scan::default()),
        After::Switched => State::Switched,
    }
}

/// What hyper reads and writes instead of the connection.
pub(crate) struct Screened {
    conn: Conn,
    screen: Screen,
    brief: Rc<Brief>,
    /// Bytes read; the first `cleared` of them are for hyper, the rest is a part of a head.
    held: Vec<u8>,
    cleared: usize,
}

impl Screened {
    pub(crate) fn new(conn: Conn, bounds: Bounds) -> (Self, Rc<Brief>) {
        let brief = Rc::<Brief>::default();
        let screen = Screen::new(bounds);
        let screened =
            Self { conn, screen, brief: Rc::clone(&brief), held: Vec::new(), cleared: 0 };
        (screened, brief)
    }

    /// The connection, and what came that hyper, which has `read` already, was not shown.
    pub(crate) fn into_parts(self, read: Bytes) -> (Conn, Bytes) {
        if self.held.is_empty() {
            return (self.conn, read);
        }
        let mut early = BytesMut::from(read);
        early.extend_from_slice(&self.held);
        (self.conn, early.freeze())
    }

    /// Closes in good order.
    pub(crate) fn end(mut self) {
        self.conn.end();
    }

    /// Reads until something may go on to hyper.
    fn poll_pass(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if let State::Failed(fault) = self.screen.state {
                return Poll::Ready(Err(self.fail(fault)));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.conn).poll_read(cx, buf))?;
            let fresh = &buf.filled()[before..];
            if fresh.is_empty() {
                if !self.held.is_empty() {
                    return Poll::Ready(Err(self.fail(Fault::Incomplete)));
                }
                return Poll::Ready(Ok(()));
            }
            let is_first = self.held.is_empty();
            let mut passed = if is_first {
                self.screen.pass(fresh)
            } else {
                self.held.extend_from_slice(fresh);
                self.screen.pass(&self.held)
            };
            if let State::Failed(fault) = self.screen.state {
                // What came in good order goes on; but a fault that is met together with what
                // stands before it can still be answered as what it is.
                if fault != Fault::Unsolicited {
                    passed = 0;
                }
                self.held.truncate(passed);
                self.note(fault);
            } else if is_first {
                self.held.extend_from_slice(&fresh[passed..]);
            }
            if is_first {
                buf.set_filled(before + passed);
            } else {
                buf.set_filled(before);
                self.cleared = passed;
                self.hand_over(buf);
            }
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Passes on what is cleared, as far as there is room.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let passed = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..passed]);
        self.cleared -= passed;
        self.held.drain(..passed);
        if self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = Vec::new();
        }
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.screen.state = State::Failed(fault);
        self.note(fault);
        io::Error::new(io::ErrorKind::InvalidData, fault)
    }

    fn note(&self, fault: Fault) {
        if self.brief.fault.replace(Some(fault)).is_none() {
            let seat = self.conn.seat();
            tracing::debug!(host = seat.key().as_str(), %fault, "upstream at fault");
        }
    }

    fn begin(&mut self) {
        if let Some(expected) = self.brief.expected.take() {
            self.screen.begin(expected);
        }
    }
}

/// An upstream that has left while we write may have said why before: what it said is read first,
/// and the end of that says that it has left (RFC 9112 §9.5). So the write is as good as stuck.
fn unless_left<T>(polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    match &polled {
        Poll::Ready(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
            ) =>
        {
            Poll::Pending
        }
        Poll::Ready(_) | Poll::Pending => polled,
    }
}

impl fmt::Debug for Screened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screened").field("state", &self.screen.state).finish_non_exhaustive()
    }
}

impl AsyncRead for Screened {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cleared > 0 {
            this.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        this.poll_pass(cx, buf)
    }
}

impl AsyncWrite for Screened {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin();
        unless_left(Pin::new(&mut this.conn).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin();
        unless_left(Pin::new(&mut this.conn).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.conn.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        unless_left(Pin::new(&mut self.get_mut().conn).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().conn).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    fn asked() -> Screen {
        let mut screen = Screen::new(Bounds::default());
        screen.begin(Expected::new(false, false));
        screen
    }

    fn fault(screen: &Screen) -> Option<Fault> {
        if let State::Failed(fault) = screen.state { Some(fault) } else { None }
    }

    #[test]
    fn nothing_is_let_through_that_no_request_asked_for() {
        let mut screen = Screen::new(Bounds::default());
        assert_eq!((screen.pass(OK), fault(&screen)), (0, Some(Fault::Unsolicited)));
        let mut screen = asked();
        assert_eq!((screen.pass(OK), fault(&screen)), (OK.len(), None));
        assert_eq!((screen.pass(b"\r\n"), fault(&screen)), (0, Some(Fault::Unsolicited)));
        let mut screen = asked();
        let twice = OK.repeat(2);
        assert_eq!((screen.pass(&twice), fault(&screen)), (OK.len(), Some(Fault::Unsolicited)));
    }

    #[test]
    fn a_response_to_the_next_request_is_let_through() {
        let mut screen = asked();
        screen.pass(OK);
        screen.begin(Expected::new(true, false));
        let head = &OK[..OK.len() - 2];
        assert_eq!((screen.pass(head), fault(&screen)), (head.len(), None));
    }

    #[test]
    fn interim_heads_pass_and_the_part_of_the_final_one_behind_them_waits() {
        let mut screen = asked();
        let interim = b"HTTP/1.1 103 x\r\nA: b\r\n\r\n";
        let bytes = [interim, &OK[..20]].concat();
        assert_eq!(screen.pass(&bytes), interim.len());
        assert_eq!((screen.pass(OK), fault(&screen)), (OK.len(), None));
    }

    #[test]
    fn a_body_that_nobody_needs_to_end_is_not_looked_at() {
        for head in ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n"] {
            let mut screen = Screen::new(Bounds::default());
            screen.begin(Expected::new(false, true));
            let bytes = [head.as_bytes(), b"\0\r\rwhat\n"].concat();
            assert_eq!((screen.pass(&bytes), fault(&screen)), (bytes.len(), None));
        }
    }

    #[test]
    fn a_length_where_no_body_may_be_ends_the_connection() {
        let mut screen = asked();
        let head = b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\n";
        assert_eq!((screen.pass(head), fault(&screen)), (head.len(), Some(Fault::Unsolicited)));
    }

    /// What goes on of bytes that come in these pieces, and how it ends.
    fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Fault>) {
        let mut screen = asked();
        let (mut held, mut passed) = (Vec::new(), Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            let count = screen.pass(&held);
            passed.extend(held.drain(..count));
            if let Some(fault) = fault(&screen) {
                return (passed, Some(fault));
            }
        }
        (passed, None)
    }

    proptest! {
        #[test]
        fn what_comes_in_pieces_is_judged_as_what_comes_whole(
            parts in proptest::collection::vec(prop_oneof![
                Just("HTTP/1.1 103 x\r\nA: b\r\n\r\n"),
                Just("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
                Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Just("HTTP/1.0 200 OK\r\n\r\n"),
                Just("HTTP/1.1 204 No Content\r\n\r\n"),
                Just("4\r\nbody\r\n"),
                Just("2;x\r\nok\r\n"),
                Just("0\r\nA: b\r\n\r\n"),
                Just("body"),
                Just("\r\n"),
                Just("\n"),
            ], 0..6),
            cuts in proptest::collection::vec(1_usize..20, 0..30),
        ) {
            let bytes = parts.concat().into_bytes();
            let whole = feed(std::iter::once(bytes.as_slice()));
            let mut rest = bytes.as_slice();
            let pieces = cuts.into_iter().chain([usize::MAX]).map(|cut| {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                piece
            });
            let in_pieces = feed(pieces);
            prop_assert_eq!(whole.1, in_pieces.1);
            prop_assert!(bytes.starts_with(&in_pieces.0) && in_pieces.0.starts_with(&whole.0));
            prop_assert!(whole.1.is_some() || whole.0 == in_pieces.0);
        }
    }
}
