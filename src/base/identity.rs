//! Who asks: a word that the limits, the policies and the logs share.

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
}
