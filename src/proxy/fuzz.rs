//! Promises of the parsers of requests, tried with any bytes (`crate::fuzzing`).
//!
//! What they are judged by is handed in from above, since this floor knows nothing of it: a second
//! reading of the same bytes, written apart.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Version;

use super::bounds::Bounds;
use super::head;
use super::head::Head;
use super::headers as fields;
use crate::base::framing::Framing;

/// What the guard finds at the front of these bytes.
fn scan(bytes: &[u8]) -> Result<Option<Head>, head::Flaw> {
    head::scan(bytes, &Bounds::default())
}

fn strip(headers: &mut HeaderMap) -> fields::Hop {
    fields::strip(headers, Version::HTTP_11)
}

/// What the guard says of bytes: nothing yet, a refusal, or the length of a whole message (if it is all
/// here) of which hyper will see just that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Connect,
    /// Of the head, and of the message if its body is whole.
    Message(usize, Option<usize>),
    Partial,
    Refused(u16),
}

pub(crate) fn verdict(bytes: &[u8]) -> Verdict {
    match scan(bytes) {
        Ok(None) => Verdict::Partial,
        Err(flaw) => Verdict::Refused(flaw.status()),
        Ok(Some(head)) if head.connect.is_some() => Verdict::Connect,
        Ok(Some(mut head)) => match follow(&mut head.framing, &bytes[head.length..], usize::MAX) {
            Ok((taken, true)) => Verdict::Message(head.length, Some(head.length + taken)),
            Ok((_, false)) => Verdict::Message(head.length, None),
            Err(()) => Verdict::Refused(400),
        },
    }
}

/// Follows a body that comes in pieces; how much of it is here, and whether that is all.
fn follow(framing: &mut Framing, bytes: &[u8], piece: usize) -> Result<(usize, bool), ()> {
    let mut at = 0;
    while *framing != Framing::None && at < bytes.len() {
        let end = bytes.len().min(at.saturating_add(piece));
        let (taken, ended) = framing.take(&bytes[at..end]).map_err(|_malformed| ())?;
        at += taken;
        if ended {
            return Ok((at, true));
        }
    }
    Ok((at, *framing == Framing::None))
}

/// A head is found where it ends, in whatever pieces it comes; httparse reads the same; its body ends
/// at the same byte in whatever pieces that comes; and CONNECT alone is a CONNECT.
///
/// Whether another reading agrees is tried above, in `crate::fuzzing`.
pub(crate) fn request(data: &[u8]) {
    let head = match scan(data) {
        Err(flaw) => {
            assert!((400..=505).contains(&flaw.status()) && !flaw.to_string().is_empty());
            return;
        }
        Ok(None) => {
            let start = data.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(data.len());
            let ends = data[start..].windows(4).any(|four| four == b"\r\n\r\n");
            assert!(!ends, "there is an end");
            return;
        }
        Ok(Some(head)) => head,
    };
    let raw = &data[..head.length];
    assert!(raw.ends_with(b"\r\n\r\n"), "it ends with an empty line");
    for cut in [1, head.length / 3, head.length / 2, head.length - 2, head.length - 1] {
        assert!(matches!(scan(&raw[..cut.min(head.length - 1)]), Ok(None)), "at {cut}");
    }
    assert_eq!(
        scan(raw).as_ref().ok().and_then(Option::as_ref),
        Some(&head),
        "the rest is ignored"
    );
    let text = raw.iter().all(|byte| b"\r\n\t".contains(byte) || (*byte >= b' ' && *byte != 0x7f));
    assert!(text, "no control character");

    let mut room = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut room);
    let complete = parsed.parse(raw).is_ok_and(|status| status.is_complete());
    assert!(complete, "httparse reads it, too");
    assert_eq!(head.connect.is_some(), parsed.method == Some("CONNECT"));
    if let Some(connect) = &head.connect {
        assert_eq!(Some(connect.target.as_str()), parsed.path);
        assert_eq!(head.framing, Framing::None);
    }
    let has = |name: &str| {
        parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
    };
    assert!(has("host") < 2 && has("content-length") + has("transfer-encoding") < 2);
    match head.framing {
        Framing::Chunked(_) => assert_eq!(has("transfer-encoding"), 1),
        Framing::Length(length) => assert!(has("content-length") == 1 && length > 0),
        Framing::None => assert_eq!(has("transfer-encoding"), 0),
    }

    let body = &data[head.length..];
    let whole = follow(&mut head.framing.clone(), body, usize::MAX);
    for piece in [1, 7] {
        assert_eq!(follow(&mut head.framing.clone(), body, piece), whole, "pieces of {piece}");
    }
}

/// What concerns one hop never crosses it, twice is the same as once, no value gains a line's end, and
/// all else stays as it is and in its order.
pub fn headers(data: &[u8]) {
    let mut came = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            came.append(name, value);
        }
    }
    let mut once = came.clone();
    let hop = strip(&mut once);
    let own = ["connection", "keep-alive", "proxy-authorization", "proxy-connection", "te"];
    for name in own.into_iter().chain(["transfer-encoding", "upgrade"]) {
        assert!(!once.contains_key(name), "{name} stays");
    }
    let lists = came.get_all("connection").iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = lists
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in once.keys() {
        let framing = ["content-length", "host", "max-forwards", "trailer", "via"];
        let may_stay = framing.contains(&name.as_str());
        assert!(may_stay || !named.iter().any(|named| named == name.as_str()), "{name} was named");
    }
    // Nothing is made up, and nothing changes places.
    for name in once.keys().filter(|name| *name != http::header::TRAILER) {
        assert!(once.get_all(name).iter().eq(came.get_all(name).iter()), "{name} changed");
    }
    let order: Vec<&HeaderName> = came.keys().filter(|name| once.contains_key(*name)).collect();
    assert!(once.keys().eq(order), "the order changed");

    let mut twice = once.clone();
    assert_eq!(strip(&mut twice), fields::Hop::default());
    assert_eq!(twice, once);

    fields::restore(&mut once, hop);
    for (name, value) in &once {
        assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)), "{name}");
    }
    strip(&mut once);
    assert_eq!(once, twice, "what is put back is of this hop alone");
}
