//! Who asks: a word that the limits, the policies and the logs share.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// Who asks. Those who wait for a slot are served in turn, one identity after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A client that said who it is, by that name.
    Name(Arc<str>),
    /// A client that did not: its address.
    Address(IpAddr),
    /// Nobody in particular.
    #[default]
    Anonymous,
}

impl Identity {
    /// A client that has not said who it is: its address, by whichever kind of socket it came.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// The name of a client that said it.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) | Self::Anonymous => None,
        }
    }

    /// A text that no other identity has: letters, digits and `-._%=:`. None for nobody in
    /// particular.
    pub(crate) fn label(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Name(name) => Some(label(name)),
            // No name has a "=" that is not written "%3D".
            Self::Address(address) => Some(Cow::Owned(format!("ip={address}"))),
            Self::Anonymous => None,
        }
    }
}

/// The label of a name.
pub(crate) fn label(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() * 2);
    for byte in name.bytes() {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    Cow::Owned(text)
}

/// The label of what goes by one way, a parent's name say, of which there may be so many at once. No
/// identity has it, and it says its limit: ways of one name and two limits are counted apart.
pub(crate) fn way(name: &str, limit: u32) -> String {
    format!("via={}={limit}", label(name))
}

/// The limit that a [`way`] says; none if the label is an identity's.
pub(crate) fn limit_of_way(label: &str) -> Option<u32> {
    label.strip_prefix("via=")?.rsplit_once('=')?.1.parse().ok()
}

/// What an identity may have that others do not; none is what all have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Connections at once to each host; 0 is unlimited.
    pub limit: Option<u32>,
    /// Its turns in a round of those who wait, at least 1.
    pub weight: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_address_whatever_its_kind_of_socket() {
        let of = |text: &str| Identity::of_address(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), Identity::Address("192.0.2.1".parse().unwrap()));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8::2"));
    }

    #[test]
    fn no_two_identities_have_one_label() {
        let name = |text: &str| Identity::Name(text.into()).label().unwrap().into_owned();
        assert_eq!(name("alice-1.x_y"), "alice-1.x_y");
        assert_eq!(name("a@b ü%"), "a%40b%20%C3%BC%25");
        let address = Identity::of_address("192.0.2.1".parse().unwrap());
        assert_eq!(address.label().unwrap(), "ip=192.0.2.1");
        assert_eq!(name("ip=192.0.2.1"), "ip%3D192.0.2.1");
        assert_eq!(Identity::Anonymous.label(), None);
    }

    #[test]
    fn the_label_of_a_way_says_its_limit_and_is_no_identitys() {
        let label = way("http://p.test:3128", 5);
        assert_eq!(label, "via=http%3A%2F%2Fp.test%3A3128=5");
        assert_eq!(limit_of_way(&label), Some(5));
        let named = Identity::Name(label.as_str().into());
        assert_eq!(limit_of_way(&named.label().unwrap()), None);
        assert_eq!(limit_of_way("ip=192.0.2.1"), None);
    }
}
