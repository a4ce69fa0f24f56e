//! What a request shows of the one who asks: a key or a token, and by which field.
//!
//! Pure. At the gateway it is the field that the API has for keys, or Authorization with Bearer (RFC 6750 §2.1).
//! Anywhere else those belong to the origin, and it is Proxy-Authorization: Bearer, or Basic with
//! the key as the password, which is what `http://NAME:KEY@PROXY` becomes.
//!
//! SECURITY: nothing here is printed.

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use http::HeaderName;
use http::header;

use super::basic::Credentials;
use super::basic::Given;

/// What a request shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Shown<'a> {
    /// Nothing that is ours.
    Nothing,
    /// A key, by the field for keys.
    Key(&'a [u8]),
    /// A key or a token.
    Bearer(Cow<'a, [u8]>),
    /// Something by the right field that is neither, or more than one of it.
    Unclear,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Shown(nothing)",
            Self::Unclear => "Shown(unclear)",
            Self::Key(_) | Self::Bearer(_) => "Shown(secret)",
        })
    }
}

impl<'a> Shown<'a> {
    /// What a request to the gateway shows, where keys have this field, and the field that it shows it by.
    /// Where the field for keys is there, Authorization is the API's.
    pub(crate) fn at_gateway(
        fields: &'a HeaderMap,
        header: Option<&HeaderName>,
    ) -> (Self, Option<HeaderName>) {
        let own = header.filter(|header| **header != header::AUTHORIZATION);
        if let Some(own) = own
            && fields.contains_key(own)
        {
            let shown = match one(fields, own) {
                Some(value) if !value.is_empty() => Self::Key(value),
                Some(_) | None => Self::Unclear,
            };
            return (shown, Some(own.clone()));
        }
        if !fields.contains_key(header::AUTHORIZATION) {
            return (Self::Nothing, None);
        }
        let ours = Some(header::AUTHORIZATION);
        match one(fields, &header::AUTHORIZATION) {
            None => (Self::Unclear, ours),
            Some(value) => match of_scheme(value, "Bearer") {
                Some(token) if is_token(token) => (Self::Bearer(Cow::Borrowed(token)), ours),
                Some(_) => (Self::Unclear, ours),
                // Of another scheme, as the API may want it.
                None => (Self::Nothing, None),
            },
        }
    }

    /// What a request to the proxy shows; `longest` bounds the field.
    pub(crate) fn at_proxy(given: Given<'a>, longest: usize) -> Self {
        let Some(value) = given.value() else { return Self::Nothing };
        if let Some(token) = of_scheme(value, "Bearer") {
            return if is_token(token) {
                Self::Bearer(Cow::Borrowed(token))
            } else {
                Self::Unclear
            };
        }
        match Credentials::parse_within(value, longest) {
            // `curl -x http://KEY@PROXY` has no password.
            Some(Credentials { user, password }) if password.is_empty() && !user.is_empty() => {
                Self::Bearer(Cow::Owned(user.as_bytes().to_vec()))
            }
            Some(Credentials { password, .. }) if !password.is_empty() => {
                Self::Bearer(Cow::Owned(password.into_vec()))
            }
            Some(_) | None => Self::Unclear,
        }
    }
}

/// The value of a field that is there once.
fn one<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = fields.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes().trim_ascii())
}

/// What stands behind a scheme (RFC 9110 §11.4).
fn of_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    if !name.eq_ignore_ascii_case(scheme.as_bytes()) {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ' | b'\t') => Some(rest.trim_ascii()),
        Some(_) => None,
    }
}

/// RFC 6750 §2.1, `b64token`, and what else keys are made of; nothing that a list could be.
fn is_token(token: &[u8]) -> bool {
    !token.is_empty() && token.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::keys::X_API_KEY;
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    fn bearer(text: &str) -> Shown<'_> {
        Shown::Bearer(Cow::Borrowed(text.as_bytes()))
    }

    #[test]
    fn a_gateways_client_shows_it_by_the_field_for_keys_or_as_a_bearer() {
        let key = ("x-api-key", "k1");
        for (lines, shown, by) in [
            (&[][..], Shown::Nothing, None),
            (&[key], Shown::Key(b"k1"), Some("x-api-key")),
            (&[("x-api-key", "  k1 ")], Shown::Key(b"k1"), Some("x-api-key")),
            (&[key, ("authorization", "Bearer t")], Shown::Key(b"k1"), Some("x-api-key")),
            (&[("authorization", "Bearer t")], bearer("t"), Some("authorization")),
            (&[("authorization", "bEARER   t ")], bearer("t"), Some("authorization")),
            (&[("authorization", "Basic YTpi")], Shown::Nothing, None),
            (&[("authorization", "Bearerx t")], Shown::Nothing, None),
            (&[("authorization", "Bearer")], Shown::Unclear, Some("authorization")),
            (&[("authorization", "Bearer a b")], Shown::Unclear, Some("authorization")),
            (&[("authorization", "Bearer a,b")], Shown::Unclear, Some("authorization")),
            (
                &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
                Shown::Unclear,
                Some("authorization"),
            ),
            (
                &[("authorization", "Basic YTpi"), ("authorization", "Bearer a")],
                Shown::Unclear,
                Some("authorization"),
            ),
            (&[key, key], Shown::Unclear, Some("x-api-key")),
            (&[("x-api-key", "")], Shown::Unclear, Some("x-api-key")),
            (&[("proxy-authorization", "Bearer t")], Shown::Nothing, None),
        ] {
            let fields = fields(lines);
            let (found, field) = Shown::at_gateway(&fields, Some(&X_API_KEY));
            assert!(found == shown, "{lines:?}: {found:?}");
            assert_eq!(field.as_ref().map(HeaderName::as_str), by, "{lines:?}");
        }
        // Without keys, or where they have Authorization, X-API-Key is the API's.
        for header in [None, Some(&header::AUTHORIZATION)] {
            let fields = fields(&[key, ("authorization", "Bearer t")]);
            let (found, field) = Shown::at_gateway(&fields, header);
            assert!(found == bearer("t") && field == Some(header::AUTHORIZATION));
        }
    }

    #[test]
    fn a_proxys_client_shows_it_as_a_bearer_or_as_a_password() {
        for (values, shown) in [
            (&[][..], Shown::Nothing),
            (&["Bearer t"], bearer("t")),
            (&["Basic YWxpY2U6a2V5"], bearer("key")),
            (&["Basic a2V5Og=="], bearer("key")),
            (&["Basic Og=="], Shown::Unclear),
            (&["Basic !"], Shown::Unclear),
            (&["Digest x"], Shown::Unclear),
            (&["Bearer t", "Bearer t"], Shown::Unclear),
        ] {
            let given = Given::new(values.iter().map(|value| value.as_bytes()));
            assert!(Shown::at_proxy(given, 100) == shown, "{values:?}");
        }
        let long = Given::new([&b"Basic YWxpY2U6a2V5"[..]]);
        assert!(Shown::at_proxy(long, 10) == Shown::Unclear);
        assert_eq!(format!("{:?}", bearer("t")), "Shown(secret)");
    }
}
