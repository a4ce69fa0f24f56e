//! What a cool-down is for: requests that have a name in common.
//!
//! SECURITY: of a credential there is only ever its fingerprint, the first half of an HMAC-SHA-256
//! keyed by the fleet's prefix over the API, the host and the credential. So all instances have the
//! same, two hosts have different ones, and nothing that is kept, sent to Redis or logged can be used
//! in its place. (Who can read it can still try guesses: a short password is no secret for long.)

use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::fmt::Write;

use aws_lc_rs::hmac;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

use super::Scope;
use super::book::Place;
use crate::base::authority::HostKey;

/// Fields that say who asks, for the upstream.
static CREDENTIALS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
];

/// First bytes of the digest.
type Fingerprint = [u8; 16];

/// What is left alone, within one API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    /// None is all of the API.
    pub(super) host: Option<HostKey>,
    /// None is all that come without a credential, or whoever they are.
    pub(super) credential: Option<Fingerprint>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_ref().map_or("*", HostKey::as_str))?;
        if let Some(fingerprint) = &self.credential {
            f.write_char('#')?;
            fingerprint.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

impl Name {
    /// What [`Name`] shows, read again; none for what is no name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, digits) = match text.split_once('#') {
            Some((host, digits)) => (host, Some(digits)),
            None => (text, None),
        };
        let credential = match digits {
            Some(digits) => Some(fingerprint(digits)?),
            None => None,
        };
        let host = match host {
            "" => return None,
            "*" => None,
            host => Some(HostKey::recalled(host)),
        };
        Some(Self { host, credential })
    }
}

fn fingerprint(digits: &str) -> Option<Fingerprint> {
    let mut fingerprint = Fingerprint::default();
    if digits.len() != 2 * fingerprint.len() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return None;
    }
    for (number, byte) in fingerprint.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * number..2 * number + 2], 16).ok()?;
    }
    Some(fingerprint)
}

/// What a request is as far as cool-downs go: what is heard by its answer holds for others like it.
/// One for a request and all of its attempts; it keeps the request's place among those who wait.
pub(crate) struct Subject {
    scope: Scope,
    host: HostKey,
    credentials: [Option<HeaderValue>; 3],
    /// PERF: nothing is hashed before there is a cool-down.
    name: OnceCell<Name>,
    pub(super) place: RefCell<Option<Place>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Subject {
    pub(super) fn new(scope: Scope, host: &HostKey, fields: &HeaderMap) -> Self {
        let is_told_apart = scope == Scope::Credential;
        let credentials =
            CREDENTIALS.each_ref().map(|name| fields.get(name).filter(|_| is_told_apart).cloned());
        let (name, place) = (OnceCell::new(), RefCell::default());
        Self { scope, host: host.clone(), credentials, name, place }
    }

    /// One that was known before, by what it was called then.
    pub(super) fn recalled(scope: Scope, host: &HostKey, credential: Option<&str>) -> Self {
        let credential = credential.filter(|_| scope == Scope::Credential).and_then(fingerprint);
        let name = Name { host: (scope != Scope::Api).then(|| host.clone()), credential };
        let (host, credentials, place) = (host.clone(), [None, None, None], RefCell::default());
        Self { scope, host, credentials, name: OnceCell::from(name), place }
    }

    /// The digits of its fingerprint.
    pub(super) fn digits(&self, api: &str, key: &hmac::Key) -> Option<String> {
        let mut digits = String::with_capacity(2 * size_of::<Fingerprint>());
        for byte in self.name(api, key).credential? {
            // Writing to a String cannot fail.
            let _infallible = write!(digits, "{byte:02x}");
        }
        Some(digits)
    }

    /// It goes on at once though it would wait, since its cool-down only observes: whoever comes next
    /// finds its turn taken, as if it waited for it.
    pub(crate) fn goes_on(&self) {
        if let Some(place) = self.place.take() {
            place.skip();
        }
    }

    /// Whether it is for one credential alone.
    pub(super) fn has_credential(&self) -> bool {
        self.credentials.iter().any(Option::is_some)
            || self.name.get().is_some_and(|name| name.credential.is_some())
    }

    pub(super) fn name(&self, api: &str, key: &hmac::Key) -> &Name {
        self.name.get_or_init(|| Name {
            host: (self.scope != Scope::Api).then(|| self.host.clone()),
            credential: self.has_credential().then(|| self.fingerprint(api, key)),
        })
    }

    fn fingerprint(&self, api: &str, key: &hmac::Key) -> Fingerprint {
        let mut digest = hmac::Context::with_key(key);
        for text in [api, self.host.as_str()] {
            digest.update(text.as_bytes());
            digest.update(b"\0");
        }
        for (name, value) in CREDENTIALS.iter().zip(&self.credentials) {
            if let Some(value) = value {
                digest.update(name.as_str().as_bytes());
                digest.update(b"\0");
                digest.update(value.as_bytes());
                digest.update(b"\0");
            }
        }
        let mut fingerprint = Fingerprint::default();
        let length = fingerprint.len();
        fingerprint.copy_from_slice(&digest.sign().as_ref()[..length]);
        fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(scope: Scope, host: &str, fields: &[(&'static str, &str)]) -> Name {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"prefix");
        let subject = Subject::new(scope, &HostKey::parse(host).unwrap(), &fields);
        let shown = format!("{subject:?}");
        assert!(!shown.contains("secret"), "{shown}");
        subject.name("shop", &key).clone()
    }

    #[test]
    fn requests_are_told_apart_as_far_as_the_scope_says() {
        let one = [("authorization", "Bearer secret-1")];
        let two = [("authorization", "Bearer secret-2")];
        let of = |scope, host, fields| name(scope, host, fields);
        assert_eq!(of(Scope::Api, "a", &one), of(Scope::Api, "b", &two));
        assert_eq!(of(Scope::Host, "a", &one), of(Scope::Host, "a", &two));
        assert_ne!(of(Scope::Host, "a", &one), of(Scope::Host, "b", &one));
        assert_eq!(of(Scope::Credential, "a", &one), of(Scope::Credential, "a", &one));
        assert_ne!(of(Scope::Credential, "a", &one), of(Scope::Credential, "a", &two));
        assert_ne!(of(Scope::Credential, "a", &one), of(Scope::Credential, "a", &[]));
        let key = [("x-api-key", "Bearer secret-1")];
        assert_ne!(of(Scope::Credential, "a", &one), of(Scope::Credential, "a", &key));
        let hosts = [of(Scope::Credential, "a", &one), of(Scope::Credential, "b", &one)];
        assert_ne!(hosts[0].credential, hosts[1].credential, "nobody sees who asks two hosts");
    }

    #[test]
    fn a_name_is_read_as_it_is_shown_and_shows_no_credential() {
        for name in [
            name(Scope::Api, "a", &[]),
            name(Scope::Host, "[::1]:8080", &[]),
            name(Scope::Credential, "a:8443", &[("x-api-key", "secret")]),
        ] {
            assert_eq!(Name::parse(&name.to_string()), Some(name.clone()), "{name}");
            assert!(!name.to_string().contains("secret"));
        }
        for text in ["", "#", "a#", "a#12", "a#zz112233445566778899aabbccddeeff", "#00"] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
