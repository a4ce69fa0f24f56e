//! A request's head and body framing, judged strictly before hyper sees a byte.
//!
//! Pure: bytes in, a verdict out. What two parsers could read in two ways (RFC 9112 §11.2) is
//! refused here: bare CR or LF, NUL, a length beside chunked, repeated lengths, folded lines.

use std::fmt;
use std::mem::MaybeUninit;

use thiserror::Error;

use super::bounds::Bounds;
use super::headers;
use super::target;
use super::target::Form;
use crate::base::framing;
use crate::base::framing::Chunk;
use crate::base::framing::Framing;
use crate::base::framing::Malformed;
use crate::listen::greet::TLS_HANDSHAKE;
use crate::policy::access::Given;
use crate::telemetry::metrics::Bound;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Flaw {
    /// A method that has no body, with one (RFC 9110 §9.3.6, §9.3.8).
    #[error("{0} must not have Content-Length or Transfer-Encoding")]
    Body(&'static str),
    /// No Host, or more than one, or one that is none (RFC 9112 §3.2).
    #[error("{0}")]
    Host(&'static str),
    /// Its lines or chunks are not what they must be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Lengths that contradict each other, or are no numbers.
    #[error("Content-Length must be one decimal number")]
    Length,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    LengthAndCoding,
    /// A request line over its bound.
    #[error("the request line is longer than is allowed")]
    LongLine,
    /// More fields than are allowed.
    #[error("the request's head has more fields than are allowed")]
    ManyFields,
    /// A `:protocol` that nobody here speaks (RFC 8441 §4).
    #[error("the only :protocol understood is websocket")]
    Protocol,
    /// Not an HTTP/1.1 request.
    #[error("this is not an HTTP/1.1 request: {0}")]
    Syntax(&'static str),
    /// A request-target that is none (RFC 9112 §3.2).
    #[error("the request-target is malformed: {0}")]
    Target(&'static str),
    /// The first bytes of TLS.
    #[error(
        "this is TLS, and the port speaks plain HTTP: is it http:// that the proxy's URL begins with?"
    )]
    Tls,
    /// The head never came.
    #[error("the request's head did not come in time")]
    Timeout,
    /// A head over its bound.
    #[error("the request's head is longer than is allowed")]
    TooLarge,
    /// A transfer coding other than chunked (RFC 9112 §6.1).
    #[error("the only transfer coding understood is chunked")]
    TransferCoding,
    /// HTTP/2 or an unknown version.
    #[error("the version must be HTTP/1.0 or HTTP/1.1")]
    Version,
}

impl Flaw {
    /// The status that says so.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Timeout => 408,
            Self::LongLine => 414,
            Self::ManyFields | Self::TooLarge => 431,
            Self::Protocol | Self::TransferCoding => 501,
            Self::Version => 505,
            Self::Body(_)
            | Self::Host(_)
            | Self::Length
            | Self::LengthAndCoding
            | Self::Malformed(_)
            | Self::Syntax(_)
            | Self::Target(_)
            | Self::Tls => 400,
        }
    }

    /// The bound that was met, if it was one.
    pub(crate) fn bound(self) -> Option<Bound> {
        match self {
            Self::LongLine => Some(Bound::RequestLine),
            Self::ManyFields => Some(Bound::Fields),
            Self::TooLarge => Some(Bound::HeadSize),
            Self::Timeout => Some(Bound::HeadTime),
            Self::Malformed(Malformed::Extensions) => Some(Bound::ChunkExtensions),
            Self::Malformed(Malformed::Trailers) => Some(Bound::Trailers),
            Self::Malformed(Malformed::Chunk | Malformed::Control)
            | Self::Body(_)
            | Self::Host(_)
            | Self::Length
            | Self::LengthAndCoding
            | Self::Protocol
            | Self::Syntax(_)
            | Self::Target(_)
            | Self::Tls
            | Self::TransferCoding
            | Self::Version => None,
        }
    }
}

/// A head that is complete and sound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length in bytes, the empty line included.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
    /// The target of a CONNECT and its preference to wait.
    pub(crate) connect: Option<Connect>,
    /// OPTIONS for the server as a whole: an absolute-form without path and query.
    pub(crate) starred: bool,
}

/// What is of interest in a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) target: String,
    /// The seconds of `Prefer: wait=N`.
    pub(crate) wait: Option<u64>,
    /// Whose request it is, as it says.
    pub(crate) authorization: Authorization,
}

/// The `Proxy-Authorization` of a CONNECT, kept until it was judged.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Authorization(Vec<Box<[u8]>>);

impl Authorization {
    fn of(fields: &[httparse::Header<'_>]) -> Self {
        let own = fields.iter().filter(|field| is(field, "proxy-authorization"));
        Self(own.map(|field| field.value.into()).collect())
    }

    pub(crate) fn given(&self) -> Given<'_> {
        Given::new(self.0.iter().map(AsRef::as_ref))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.given().fmt(f)
    }
}

/// Looks for a head at the front of `bytes`; `None` asks for more bytes.
pub(crate) fn scan(bytes: &[u8], bounds: &Bounds) -> Result<Option<Head>, Flaw> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(Flaw::Tls);
    }
    // RFC 9112 §2.2: a CRLF before the request line is to be ignored.
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") && start < 4 {
        start += 2;
    }
    let bytes = &bytes[start..];
    let Some(end) = framing::end_of_head(bytes)? else {
        return judge_part(bytes, bounds).map(|()| None);
    };
    let bytes = &bytes[..end];
    judge_part(bytes, bounds)?;
    let mut few = [const { MaybeUninit::uninit() }; Bounds::USUAL_FIELDS as usize];
    let mut many;
    let count = bounds.fields as usize;
    let fields = if count <= few.len() {
        &mut few[..count]
    } else {
        many = vec![MaybeUninit::uninit(); count];
        &mut many[..]
    };
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Flaw::Syntax("the head is cut off")),
        Err(httparse::Error::TooManyHeaders) => return Err(Flaw::ManyFields),
        Err(httparse::Error::Version) if has_version(bytes) => return Err(Flaw::Version),
        Err(httparse::Error::HeaderName) => return Err(Flaw::Syntax("a field name")),
        Err(httparse::Error::HeaderValue) => return Err(Flaw::Syntax("a field value")),
        Err(
            httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => {
            return Err(Flaw::Syntax("the request line"));
        }
    }
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let form = target::form(method, target).map_err(Flaw::Target)?;
    let fields = &*request.headers;
    judge_host(fields, request.version == Some(0), form, target)?;
    let framing = body_framing(fields, request.version == Some(0), bounds)?;
    let has_body = framing != Framing::None;
    if method == "TRACE" && has_body {
        return Err(Flaw::Body("TRACE"));
    }
    let connect = if form == Form::Authority {
        if has_body || fields.iter().any(|field| is(field, "content-length")) {
            return Err(Flaw::Body("CONNECT"));
        }
        let prefer = fields.iter().filter(|field| is(field, "prefer"));
        let prefer = prefer.filter_map(|field| std::str::from_utf8(field.value).ok());
        Some(Connect {
            target: target.to_owned(),
            wait: headers::wait(prefer),
            authorization: Authorization::of(fields),
        })
    } else {
        None
    };
    let starred = method == "OPTIONS" && form == Form::Absolute { bare: true };
    Ok(Some(Head { length: start + end, framing, connect, starred }))
}

/// Whether a head, or what is here of one, has met a bound of size.
fn judge_part(part: &[u8], bounds: &Bounds) -> Result<(), Flaw> {
    let line = bounds.request_line as usize;
    if part.len() > line && !part[..=line].contains(&b'\r') {
        return Err(Flaw::LongLine);
    }
    if part.len() > bounds.head_size as usize { Err(Flaw::TooLarge) } else { Ok(()) }
}

/// Whether the request line ends in a version, be it one that nobody here speaks.
fn has_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let digits = |version: &[u8]| matches!(version, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit());
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    version.is_some_and(digits) && words.next().is_none()
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

/// One Host, and a sound one (RFC 9112 §3.2); HTTP/1.0 may go without.
fn judge_host(
    fields: &[httparse::Header<'_>],
    old: bool,
    form: Form,
    target: &str,
) -> Result<(), Flaw> {
    let mut hosts = fields.iter().filter(|field| is(field, "host"));
    let Some(host) = hosts.next() else {
        return if old { Ok(()) } else { Err(Flaw::Host("there is no Host field")) };
    };
    if hosts.next().is_some() {
        return Err(Flaw::Host("there is more than one Host field"));
    }
    // PERF: most say what the target says, which has been judged.
    let after = target.strip_prefix("http://").map(str::as_bytes);
    let after = after.and_then(|named| named.strip_prefix(host.value));
    if !host.value.is_empty() && after.is_some_and(|rest| rest.starts_with(b"/")) {
        return Ok(());
    }
    if !target::is_host(host.value) {
        return Err(Flaw::Host("the Host field is not a host and perhaps a port"));
    }
    let has_authority = matches!(form, Form::Absolute { .. } | Form::Authority);
    if host.value.is_empty() && has_authority {
        return Err(Flaw::Host("the Host field is empty, and the target has a host"));
    }
    Ok(())
}

/// At most 19 digits: more are an overflow in the making.
pub(super) fn content_length(digits: &[u8]) -> Result<u64, Flaw> {
    framing::decimal(digits).filter(|_| digits.len() <= 19).ok_or(Flaw::Length)
}

fn body_framing(
    fields: &[httparse::Header<'_>],
    old: bool,
    bounds: &Bounds,
) -> Result<Framing, Flaw> {
    let mut length = None;
    let mut coding = None;
    for field in fields {
        if is(field, "content-length") {
            if length.is_some() {
                return Err(Flaw::Length);
            }
            length = Some(content_length(field.value)?);
        } else if is(field, "transfer-encoding") {
            if coding.is_some() {
                return Err(Flaw::TransferCoding);
            }
            coding = Some(field.value);
        }
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err(Flaw::LengthAndCoding),
        (Some(0) | None, None) => Ok(Framing::None),
        (Some(length), None) => Ok(Framing::Length(length)),
        // RFC 9112 §6.1: HTTP/1.0 has no transfer codings.
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && !old => {
            Ok(Framing::Chunked(Chunk::bounded(bounds.chunk_extensions, bounds.trailers)))
        }
        (None, Some(_)) => Err(Flaw::TransferCoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<Head>, Flaw> {
        super::scan(bytes, &Bounds::default())
    }

    fn framing_of(fields: &str) -> Result<Framing, Flaw> {
        let head = format!("POST http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        scan(head.as_bytes()).map(|head| head.unwrap().framing)
    }

    #[test]
    fn a_head_is_asked_for_until_it_is_whole() {
        let head = b"\r\nGET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(scan(&head[..cut]), Ok(None), "{cut}");
        }
        let whole = scan(head).unwrap().unwrap();
        assert_eq!((whole.length, whole.framing), (head.len(), Framing::None));
    }

    #[test]
    fn a_connect_tells_its_target_and_its_preference() {
        let head = scan(b"CONNECT h:443 HTTP/1.0\r\nPrefer: wait=3\r\n\r\nEARLY").unwrap().unwrap();
        assert_eq!(head.length, 42);
        let connect = head.connect.unwrap();
        assert_eq!((connect.target.as_str(), connect.wait), ("h:443", Some(3)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (fields, flaw) in [
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Flaw::Length),
            ("Content-Length: +1\r\n", Flaw::Length),
            ("Content-Length: 1, 1\r\n", Flaw::Length),
            ("Content-Length:\r\n", Flaw::Length),
            ("Content-Length: 99999999999999999999\r\n", Flaw::Length),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Flaw::LengthAndCoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Flaw::TransferCoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Flaw::TransferCoding),
            ("Transfer-Encoding: identity\r\n", Flaw::TransferCoding),
            ("Host: other\r\n", Flaw::Host("there is more than one Host field")),
            ("X : y\r\n", Flaw::Syntax("a field name")),
            ("X: y\r\n folded\r\n", Flaw::Syntax("a field name")),
            ("X: a\rb\r\n", Malformed::Control.into()),
            ("X: a\nb\r\n", Malformed::Control.into()),
            ("X: a\0b\r\n", Malformed::Control.into()),
        ] {
            assert_eq!(framing_of(fields), Err(flaw), "{fields:?}");
        }
        assert_eq!(scan(b"GET http://h/ HTTP/2.0\r\n\r\n"), Err(Flaw::Version));
        let syntax = Flaw::Syntax("the request line");
        assert_eq!(scan(b"GET http://h/ a HTTP/1.1\r\n\r\n"), Err(syntax));
        assert_eq!(
            scan(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
            Err(Flaw::Body("CONNECT"))
        );
        assert_eq!(
            scan(b"TRACE http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"),
            Err(Flaw::Body("TRACE"))
        );
    }

    #[test]
    fn each_bound_holds_for_a_head_that_is_whole_and_for_one_that_is_not() {
        let bounds = Bounds { head_size: 100, fields: 2, request_line: 30, ..Bounds::default() };
        let of = |line: usize, fields: &str| {
            let path = "a".repeat(line - "GET http://h/ HTTP/1.1".len());
            format!("GET http://h/{path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
        };
        let long = "b".repeat(100);
        for (head, wanted) in [
            (of(30, "A: b\r\n"), Ok(())),
            (of(31, "A: b\r\n"), Err(Flaw::LongLine)),
            (of(30, "A: b\r\nC: d\r\n"), Err(Flaw::ManyFields)),
            (of(30, &format!("A: {long}\r\n")), Err(Flaw::TooLarge)),
            (of(200, ""), Err(Flaw::LongLine)),
        ] {
            let whole = super::scan(head.as_bytes(), &bounds).map(|head| assert!(head.is_some()));
            assert_eq!(whole, wanted, "{head}");
        }
        for (part, wanted) in [
            (of(30, &format!("A: {long}")), Err(Flaw::TooLarge)),
            ("G".repeat(31), Err(Flaw::LongLine)),
            ("G".repeat(30), Ok(None)),
        ] {
            let part = part.trim_end_matches("\r\n");
            assert_eq!(super::scan(part.as_bytes(), &bounds), wanted, "{part}");
        }
        let many = "A: b\r\n".repeat(150);
        let bounds = Bounds { fields: 151, ..Bounds::default() };
        assert!(super::scan(of(30, &many).as_bytes(), &bounds).unwrap().is_some());
    }

    #[test]
    fn a_host_is_asked_of_http_1_1_and_judged_wherever_it_is() {
        for (head, sound) in [
            ("GET http://h/ HTTP/1.0", true),
            ("GET http://h/ HTTP/1.1", false),
            ("CONNECT h:1 HTTP/1.1", false),
            ("CONNECT h:1 HTTP/1.0", true),
            ("GET http://h/ HTTP/1.1\r\nHost: u@h", false),
            ("CONNECT h:1 HTTP/1.0\r\nHost: a b", false),
            ("GET http://h/ HTTP/1.1\r\nHost:", false),
            ("CONNECT h:1 HTTP/1.1\r\nHost:", false),
            ("GET /health HTTP/1.1\r\nHost:", true),
            ("OPTIONS * HTTP/1.1\r\nHost:", true),
        ] {
            let result = scan(format!("{head}\r\n\r\n").as_bytes());
            assert_eq!(result.is_ok(), sound, "{head}");
        }
    }
}
