//! From which addresses an API may be used at all.
//!
//! Pure. The address is the client's own, as its connection has it (or a listed balancer says by the
//! PROXY protocol), and nothing that a request says.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::Mode;

/// Networks that may use an API, and such that may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Whether they are obeyed.
    pub mode: Mode,
    /// Those that may; empty is all.
    pub allow: Vec<IpNet>,
    /// Those that may not, even where `allow` has them.
    pub deny: Vec<IpNet>,
}

impl Lists {
    /// Whether nobody is turned away.
    pub(crate) fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a client of this address may come in.
    pub(crate) fn admit(&self, address: IpAddr) -> bool {
        if self.is_open() {
            return true;
        }
        let address = address.to_canonical();
        let has = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        !has(&self.deny) && (self.allow.is_empty() || has(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(allow: &[&str], deny: &[&str], address: &str) -> bool {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (mode, allow, deny) = (Mode::Enforce, networks(allow), networks(deny));
        Lists { mode, allow, deny }.admit(address.parse().unwrap())
    }

    #[test]
    fn who_is_denied_is_out_and_where_anybody_is_allowed_all_others_are() {
        for (allow, deny, address, wanted) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "192.0.3.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.3.1", false),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1", false),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.2", true),
            (&["2001:db8::/32"], &[], "2001:db8::1", true),
            (&["2001:db8::/32"], &[], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "::ffff:192.0.2.1", false),
        ] {
            assert_eq!(admits(allow, deny, address), wanted, "{allow:?} {deny:?} {address}");
        }
    }
}
