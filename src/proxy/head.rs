//! A request's head and body framing, judged strictly before hyper sees a byte.
//!
//! Pure: bytes in, a verdict out. What two parsers could read in two ways (RFC 9112 §11.2) is
//! refused here: bare CR or LF, NUL, a length beside chunked, repeated lengths, folded lines.

use std::fmt;
use std::mem::MaybeUninit;

use thiserror::Error;

use super::headers;
use crate::base::framing;
use crate::base::framing::Chunk;
use crate::base::framing::Framing;
use crate::base::framing::Malformed;
use crate::listen::greet::TLS_HANDSHAKE;
use crate::policy::access::Given;
use crate::telemetry::metrics::Bound;

/// The longest head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Fields in a head; as many as hyper takes without more room on its stack.
pub(crate) const MAX_FIELDS: usize = 100;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Flaw {
    /// A CONNECT with a body (RFC 9110 §9.3.6).
    #[error("CONNECT must not have Content-Length or Transfer-Encoding")]
    ConnectBody,
    /// More than one Host (RFC 9112 §3.2).
    #[error("there is more than one Host field")]
    Host,
    /// Its lines or chunks are not what they must be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Lengths that contradict each other, or are no numbers.
    #[error("Content-Length must be one decimal number")]
    Length,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    LengthAndCoding,
    /// Not an HTTP/1.1 request.
    #[error("this is not an HTTP/1.1 request: {0}")]
    Syntax(&'static str),
    /// The first bytes of TLS.
    #[error(
        "this is TLS, and the port speaks plain HTTP: is it http:// that the proxy's URL begins with?"
    )]
    Tls,
    /// The head never came.
    #[error("the request's head did not come in time")]
    Timeout,
    /// A head over the bound.
    #[error("the request's head is longer than 65536 bytes or has more than 100 fields")]
    TooLarge,
    /// A transfer coding other than chunked (RFC 9112 §6.1).
    #[error("the only transfer coding understood is chunked")]
    TransferCoding,
    /// A request-target that is no URI.
    #[error("the request-target is malformed")]
    Target,
    /// HTTP/2 or an unknown version.
    #[error("the version must be HTTP/1.0 or HTTP/1.1")]
    Version,
}

impl Flaw {
    /// The status that says so.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Timeout => 408,
            Self::TooLarge => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            Self::ConnectBody
            | Self::Host
            | Self::Length
            | Self::LengthAndCoding
            | Self::Malformed(_)
            | Self::Syntax(_)
            | Self::Target
            | Self::Tls => 400,
        }
    }

    /// The bound that was met, if it was one.
    pub(crate) fn bound(self) -> Option<Bound> {
        match self {
            Self::TooLarge => Some(Bound::HeadSize),
            Self::Timeout => Some(Bound::HeadTime),
            Self::ConnectBody
            | Self::Host
            | Self::Length
            | Self::LengthAndCoding
            | Self::Malformed(_)
            | Self::Syntax(_)
            | Self::Target
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
pub(crate) fn scan(bytes: &[u8]) -> Result<Option<Head>, Flaw> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(Flaw::Tls);
    }
    // RFC 9112 §2.2: a CRLF before the request line is to be ignored.
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") && start < 4 {
        start += 2;
    }
    let Some(end) = framing::end_of_head(&bytes[start..])? else {
        let partial = bytes.len() - start;
        return if partial > MAX_HEAD { Err(Flaw::TooLarge) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(Flaw::TooLarge);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&bytes[start..start + end], &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Flaw::Syntax("the head is cut off")),
        Err(httparse::Error::TooManyHeaders) => return Err(Flaw::TooLarge),
        Err(httparse::Error::Version) => return Err(Flaw::Version),
        Err(httparse::Error::HeaderName) => return Err(Flaw::Syntax("a field name")),
        Err(httparse::Error::HeaderValue) => return Err(Flaw::Syntax("a field value")),
        Err(httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token) => {
            return Err(Flaw::Syntax("the request line"));
        }
    }
    let connect = request.method == Some("CONNECT");
    let framing = body_framing(request.headers, request.version == Some(0))?;
    let connect = if connect {
        if framing != Framing::None || has_length(request.headers) {
            return Err(Flaw::ConnectBody);
        }
        let prefer = request.headers.iter().filter(|field| is(field, "prefer"));
        let prefer = prefer.filter_map(|field| std::str::from_utf8(field.value).ok());
        Some(Connect {
            target: request.path.unwrap_or_default().to_owned(),
            wait: headers::wait(prefer),
            authorization: Authorization::of(request.headers),
        })
    } else {
        None
    };
    let target = request.path.unwrap_or_default();
    if connect.is_none() && !is_usual(target) && target.parse::<http::Uri>().is_err() {
        return Err(Flaw::Target);
    }
    let starred = request.method == Some("OPTIONS")
        && target.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?']));
    Ok(Some(Head { length: start + end, framing, connect, starred }))
}

/// Whether a target is plainly one that every parser takes. PERF: saves parsing most of them twice.
fn is_usual(target: &str) -> bool {
    let Some(rest) = target.strip_prefix("http://") else { return false };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let in_path =
        |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(&byte);
    !host.is_empty()
        && host.bytes().all(in_host)
        && port.len() <= 5
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && path.bytes().all(in_path)
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

fn has_length(fields: &[httparse::Header<'_>]) -> bool {
    fields.iter().any(|field| is(field, "content-length"))
}

fn body_framing(fields: &[httparse::Header<'_>], old: bool) -> Result<Framing, Flaw> {
    let mut length = None;
    let mut coding = None;
    let mut hosts = 0;
    for field in fields {
        if is(field, "host") {
            hosts += 1;
        } else if is(field, "content-length") {
            let digits = field.value;
            let sound = (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
            if length.is_some() || !sound {
                return Err(Flaw::Length);
            }
            length = digits.iter().try_fold(0_u64, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            });
        } else if is(field, "transfer-encoding") {
            if coding.is_some() {
                return Err(Flaw::TransferCoding);
            }
            coding = Some(field.value);
        }
    }
    if hosts > 1 {
        return Err(Flaw::Host);
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err(Flaw::LengthAndCoding),
        (Some(0) | None, None) => Ok(Framing::None),
        (Some(length), None) => Ok(Framing::Length(length)),
        // RFC 9112 §6.1: HTTP/1.0 has no transfer codings.
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && !old => {
            Ok(Framing::Chunked(Chunk::default()))
        }
        (None, Some(_)) => Err(Flaw::TransferCoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let head = scan(b"CONNECT h:443 HTTP/1.1\r\nPrefer: wait=3\r\n\r\nEARLY").unwrap().unwrap();
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
            ("Host: other\r\n", Flaw::Host),
            ("X : y\r\n", Flaw::Syntax("a field name")),
            ("X: y\r\n folded\r\n", Flaw::Syntax("a field name")),
            ("X: a\rb\r\n", Malformed::Control.into()),
            ("X: a\nb\r\n", Malformed::Control.into()),
            ("X: a\0b\r\n", Malformed::Control.into()),
        ] {
            assert_eq!(framing_of(fields), Err(flaw), "{fields:?}");
        }
        assert_eq!(scan(b"GET http://h/ HTTP/2.0\r\n\r\n"), Err(Flaw::Version));
        assert_eq!(
            scan(b"CONNECT h:1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
            Err(Flaw::ConnectBody)
        );
        assert_eq!(scan(&vec![b'a'; MAX_HEAD + 1]), Err(Flaw::TooLarge));
    }
}
