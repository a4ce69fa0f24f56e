//! HTTP/1.1 messages as their standard has them, and nothing else: what others are judged by.
//!
//! Written for clarity, slowly, and apart from the parsers that the proxy uses: a message has one
//! reading or none. No leniency is here but for empty lines in front of a request.

/// A message: the start line's words, fields with their values trimmed, the body decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) start: [String; 3],
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// How many bytes it took.
    pub(crate) length: usize,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// More bytes are needed.
    Partial,
    /// It is none.
    Wrong(&'static str),
}

use Unread::Partial;
use Unread::Wrong;

/// The request that `bytes` begin with.
pub(crate) fn request(bytes: &[u8]) -> Result<Message, Unread> {
    let mut message = head(bytes)?;
    let [method, target, version] = &message.start;
    if !is_token(method.as_bytes()) {
        return Err(Wrong("the method is no token"));
    }
    if target.is_empty() || !target.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
        return Err(Wrong("the target has a space or a control character"));
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(Wrong("the version is none"));
    }
    let start = message.length;
    let (body, length) = body(&bytes[start..], &message)?;
    (message.body, message.length) = (body, start + length);
    Ok(message)
}

/// The head that `bytes` begin with; of a response, the third word is the reason phrase.
pub(crate) fn head(bytes: &[u8]) -> Result<Message, Unread> {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") && at < 4 {
        at += 2;
    }
    let mut lines = Vec::new();
    loop {
        let end = bytes[at..].windows(2).position(|pair| pair == b"\r\n").ok_or(Partial)?;
        let line = &bytes[at..at + end];
        at += end + 2;
        if line.is_empty() {
            break;
        }
        if line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err(Wrong("a control character"));
        }
        lines.push(line);
    }
    let Some((start, fields)) = lines.split_first() else { return Err(Wrong("no start line")) };
    let start = String::from_utf8_lossy(start);
    let mut words = start.splitn(3, ' ').map(str::to_owned);
    let start = std::array::from_fn(|_| words.next().unwrap_or_default());
    let fields = fields.iter().map(|line| field(line)).collect::<Result<_, _>>()?;
    Ok(Message { start, fields, body: Vec::new(), length: at })
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), Unread> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Wrong("a field without colon"))?;
    if !is_token(&line[..colon]) {
        return Err(Wrong("a field name that is no token"));
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let value = &line[colon + 1..];
    let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |last| last + 1);
    Ok((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), value[from..to].to_vec()))
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is)
}

impl Message {
    /// All values of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| value.as_slice())
            .collect()
    }
}

/// The body of a request (RFC 9112 §6.3), decoded, and its length as it was sent.
fn body(bytes: &[u8], head: &Message) -> Result<(Vec<u8>, usize), Unread> {
    match (&head.values("content-length")[..], &head.values("transfer-encoding")[..]) {
        ([], []) => Ok((Vec::new(), 0)),
        ([length], []) => {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| is_number);
            let length: usize =
                length.and_then(|text| text.parse().ok()).ok_or(Wrong("a length"))?;
            let body = bytes.get(..length).ok_or(Partial)?;
            Ok((body.to_vec(), length))
        }
        ([], [coding])
            if coding.eq_ignore_ascii_case(b"chunked") && head.start[2] == "HTTP/1.1" =>
        {
            chunked(bytes)
        }
        _ => Err(Wrong("framing that can be read in two ways")),
    }
}

/// RFC 9112 §7.1; trailers are read and left out.
fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), Unread> {
    let line = |at: usize| {
        let end = bytes[at..].windows(2).position(|pair| pair == b"\r\n").ok_or(Partial)?;
        Ok((&bytes[at..at + end], at + end + 2))
    };
    let (mut decoded, mut at) = (Vec::new(), 0);
    loop {
        let (size, next) = line(at)?;
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
        let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_hex);
        let size =
            text.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or(Wrong("a size"))?;
        at = next;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size).ok_or(Wrong("a size"))?;
        decoded.extend_from_slice(bytes.get(at..end).ok_or(Partial)?);
        if bytes.get(end..end + 2).ok_or(Partial)? != b"\r\n" {
            return Err(Wrong("a chunk that does not end where it says"));
        }
        at = end + 2;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Ok((decoded, at));
        }
    }
}
