//! The Basic scheme: bytes of a `Proxy-Authorization` in, user and password out (RFC 7617 §2).
//!
//! Pure. SECURITY: what it reads is never printed; all types that hold it say so in their Debug.

use std::fmt;

use http::HeaderMap;
use http::HeaderName;
use http::header;

/// The longest value of the field that is looked at.
const LONGEST: usize = 1024;

/// The `Proxy-Authorization` of a request (or its `Authorization`, where that is meant for us), as it came. More than one is as good as a wrong one: nobody
/// could say which counts (RFC 9110 §5.3).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Given<'a>(Option<&'a [u8]>);

impl<'a> Given<'a> {
    /// The one value of the field, or none.
    pub fn new(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (first, None) => Self(first),
            (_, Some(_)) => Self(Some(b"")),
        }
    }

    /// What a request's fields say.
    pub fn of(fields: &'a HeaderMap) -> Self {
        Self::by(fields, &header::PROXY_AUTHORIZATION)
    }

    /// What they say by this field.
    pub fn by(fields: &'a HeaderMap, name: &HeaderName) -> Self {
        Self::new(fields.get_all(name).iter().map(http::HeaderValue::as_bytes))
    }

    pub(super) fn value(self) -> Option<&'a [u8]> {
        self.0
    }
}

impl fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Given(secret)" } else { "Given(nothing)" })
    }
}

/// A user and a password that somebody claims.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Box<str>,
    pub(super) password: Box<[u8]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

impl Credentials {
    /// Reads the field's value; none if it is of another scheme, or malformed.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        Self::parse_within(value, LONGEST)
    }

    /// The same of a value that may have this many bytes.
    pub(super) fn parse_within(value: &[u8], longest: usize) -> Option<Self> {
        if value.len() > longest {
            return None;
        }
        let (scheme, rest) = value.split_at_checked("Basic".len())?;
        let token = rest.trim_ascii_start();
        if !scheme.eq_ignore_ascii_case(b"Basic") || token.len() == rest.len() {
            return None;
        }
        let mut user = decode(token.trim_ascii_end())?;
        // RFC 7617 §2: neither may hold a control character.
        if user.iter().any(u8::is_ascii_control) {
            return None;
        }
        let colon = user.iter().position(|byte| *byte == b':')?;
        let password = user.split_off(colon + 1).into();
        user.pop();
        Some(Self { user: String::from_utf8(user).ok()?.into(), password })
    }
}

/// Base 64 with its padding (RFC 4648 §4), and nothing beside it.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(digit);
        }
        let [_, one, two, three] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            4 => bytes.extend([one, two, three]),
            // What the padding cuts off must be nothing: else one text had many spellings.
            3 if three == 0 => bytes.extend([one, two]),
            2 if two == 0 && three == 0 => bytes.push(one),
            _ => return None,
        }
    }
    (padding == (4 - digits.len() % 4) % 4).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<(String, String)> {
        let Credentials { user, password } = Credentials::parse(value.as_bytes())?;
        Some((user.into(), String::from_utf8(password.into()).unwrap()))
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        // The two examples of RFC 7617 §2 and §2.1.
        assert_eq!(parse("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), pair("Aladdin", "open sesame"));
        assert_eq!(parse("bASIC  dGVzdDoxMjPCow=="), pair("test", "123£"));
        assert_eq!(parse("Basic YTpiOmM="), pair("a", "b:c"));
        assert_eq!(parse("Basic Ojpj"), pair("", ":c"));
        assert_eq!(parse("Basic YTo="), pair("a", ""));
    }

    #[test]
    fn what_is_malformed_is_no_credentials() {
        for value in [
            "",
            "Basic",
            "Basic ",
            "BasicYTpi",
            "Bearer YTpi",
            "Basic YTpi YTpi",
            "Basic YTpiYQ",   // no padding
            "Basic YTpiYR==", // bits behind the end
            "Basic YTpi====",
            "Basic YTp=YTpi",
            "Basic YTpi-_==",
            "Basic YWJj",     // no colon
            "Basic YToKYg==", // a line end
            "Basic gICAOmE=", // a user that is not UTF-8
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
        assert!(Credentials::parse(format!("Basic {}", "YTpi".repeat(400)).as_bytes()).is_none());
    }

    #[test]
    fn two_fields_are_no_credentials_and_none_is_told() {
        let two = Given::new([&b"Basic YTpi"[..], b"Basic YTpi"]);
        assert!(two.value().is_some_and(|value| Credentials::parse(value).is_none()));
        assert_eq!(Given::new([]).value(), None);
        let credentials = Credentials::parse(b"Basic YTpi").unwrap();
        assert_eq!(format!("{credentials:?}"), "Credentials(secret)");
        assert_eq!(format!("{:?}", Given::new([&b"Basic YTpi"[..]])), "Given(secret)");
    }
}
