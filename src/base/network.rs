//! What kind of address an address is: tables of the world's special ones, and what is hidden in
//! addresses that carry others.
//!
//! Facts alone: whether somebody may go there is decided elsewhere. The tables follow IANA's
//! registries of special-purpose addresses (RFC 6890, RFC 8190) row by row, and beside them what
//! RFC 4291 and RFC 5771 keep for multicast and for later.
//!
//! SECURITY: whoever judges an address judges all its [`faces`]. What a table does not know is not
//! global.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use ipnet::IpNet;
use ipnet::Ipv4Net;
use ipnet::Ipv6Net;

/// A row of a registry.
#[derive(Debug)]
pub(crate) struct Range {
    /// Its name there.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever reads the table"))]
    pub(crate) name: &'static str,
    pub(crate) network: IpNet,
    /// "Globally Reachable"; where the registry says neither (N/A), it is not.
    pub(crate) global: bool,
}

const fn four(octets: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

/// The first four groups are enough for nearly all rows.
const fn six(groups: [u16; 4], length: u8) -> IpNet {
    let [a, b, c, d] = groups;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length))
}

const fn six_host(groups: [u16; 8], length: u8) -> IpNet {
    let [first, second, third, fourth, rest @ ..] = groups;
    let address = Ipv6Addr::new(first, second, third, fourth, rest[0], rest[1], rest[2], rest[3]);
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

const fn range(name: &'static str, network: IpNet, global: bool) -> Range {
    Range { name, network, global }
}

/// All rows; of those that hold an address the narrowest speaks.
pub(crate) static RANGES: [Range; 58] = [
    range("all of IPv4", four([0, 0, 0, 0], 0), true),
    range("\"This network\"", four([0, 0, 0, 0], 8), false),
    range("\"This host on this network\"", four([0, 0, 0, 0], 32), false),
    range("Private-Use", four([10, 0, 0, 0], 8), false),
    range("Shared Address Space", four([100, 64, 0, 0], 10), false),
    range("Loopback", four([127, 0, 0, 0], 8), false),
    range("Link Local", four([169, 254, 0, 0], 16), false),
    range("Private-Use", four([172, 16, 0, 0], 12), false),
    range("IETF Protocol Assignments", four([192, 0, 0, 0], 24), false),
    range("IPv4 Service Continuity Prefix", four([192, 0, 0, 0], 29), false),
    range("IPv4 dummy address", four([192, 0, 0, 8], 32), false),
    range("Port Control Protocol Anycast", four([192, 0, 0, 9], 32), true),
    range("Traversal Using Relays around NAT Anycast", four([192, 0, 0, 10], 32), true),
    range("NAT64/DNS64 Discovery", four([192, 0, 0, 170], 32), false),
    range("NAT64/DNS64 Discovery", four([192, 0, 0, 171], 32), false),
    range("Documentation (TEST-NET-1)", four([192, 0, 2, 0], 24), false),
    range("AS112-v4", four([192, 31, 196, 0], 24), true),
    range("AMT", four([192, 52, 193, 0], 24), true),
    range("Deprecated (6to4 Relay Anycast)", four([192, 88, 99, 0], 24), false),
    range("6a44-relay anycast address", four([192, 88, 99, 2], 32), false),
    range("Private-Use", four([192, 168, 0, 0], 16), false),
    range("Direct Delegation AS112 Service", four([192, 175, 48, 0], 24), true),
    range("Benchmarking", four([198, 18, 0, 0], 15), false),
    range("Documentation (TEST-NET-2)", four([198, 51, 100, 0], 24), false),
    range("Documentation (TEST-NET-3)", four([203, 0, 113, 0], 24), false),
    range("Multicast", four([224, 0, 0, 0], 4), false),
    range("Reserved", four([240, 0, 0, 0], 4), false),
    range("Limited Broadcast", four([255, 255, 255, 255], 32), false),
    range("all of IPv6, kept by the IETF", six([0, 0, 0, 0], 0), false),
    range("Global Unicast", six([0x2000, 0, 0, 0], 3), true),
    range("Unspecified Address", six([0, 0, 0, 0], 128), false),
    range("Loopback Address", six_host([0, 0, 0, 0, 0, 0, 0, 1], 128), false),
    range("IPv4-mapped Address", six_host([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), false),
    range("IPv4-IPv6 Translat.", six([0x64, 0xff9b, 0, 0], 96), true),
    range("IPv4-IPv6 Translat.", six([0x64, 0xff9b, 1, 0], 48), false),
    range("Discard-Only Address Block", six([0x100, 0, 0, 0], 64), false),
    range("Dummy IPv6 Prefix", six([0x100, 0, 0, 1], 64), false),
    range("IETF Protocol Assignments", six([0x2001, 0, 0, 0], 23), false),
    range("TEREDO", six([0x2001, 0, 0, 0], 32), false),
    range("Port Control Protocol Anycast", six_host([0x2001, 1, 0, 0, 0, 0, 0, 1], 128), true),
    range(
        "Traversal Using Relays around NAT Anycast",
        six_host([0x2001, 1, 0, 0, 0, 0, 0, 2], 128),
        true,
    ),
    range(
        "DNS-SD Service Registration Protocol Anycast",
        six_host([0x2001, 1, 0, 0, 0, 0, 0, 3], 128),
        true,
    ),
    range("Benchmarking", six([0x2001, 2, 0, 0], 48), false),
    range("AMT", six([0x2001, 3, 0, 0], 32), true),
    range("AS112-v6", six([0x2001, 4, 0x112, 0], 48), true),
    range("Deprecated (previously ORCHID)", six([0x2001, 0x10, 0, 0], 28), false),
    range("ORCHIDv2", six([0x2001, 0x20, 0, 0], 28), true),
    range("Drone Remote ID Protocol Entity Tags", six([0x2001, 0x30, 0, 0], 28), true),
    range("Documentation", six([0x2001, 0xdb8, 0, 0], 32), false),
    range("6to4", six([0x2002, 0, 0, 0], 16), false),
    range("Direct Delegation AS112 Service", six([0x2620, 0x4f, 0x8000, 0], 48), true),
    range("Documentation", six([0x3fff, 0, 0, 0], 20), false),
    range("Segment Routing (SRv6) SIDs", six([0x5f00, 0, 0, 0], 16), false),
    range("Unique-Local", six([0xfc00, 0, 0, 0], 7), false),
    range("Link-Local Unicast", six([0xfe80, 0, 0, 0], 10), false),
    range("Site-Local (deprecated, RFC 3879)", six([0xfec0, 0, 0, 0], 10), false),
    range("Multicast", six([0xff00, 0, 0, 0], 8), false),
    // Not in IANA's registry, and within ::/0 anyway: here to be found by its name.
    range("IPv4-compatible (deprecated)", six([0, 0, 0, 0], 96), false),
];

/// Addresses that mean this machine or its cable, and those at which clouds tell their machines
/// who they are, keys included. None of them is anybody else's business.
static LOCAL: [IpNet; 12] = [
    four([0, 0, 0, 0], 8),
    four([127, 0, 0, 0], 8),
    // With 169.254.169.254, the metadata of most clouds.
    four([169, 254, 0, 0], 16),
    // Alibaba Cloud.
    four([100, 100, 100, 200], 32),
    // Azure's fabric.
    four([168, 63, 129, 16], 32),
    // Oracle Cloud, older shapes.
    four([192, 0, 0, 192], 32),
    six([0, 0, 0, 0], 128),
    six_host([0, 0, 0, 0, 0, 0, 0, 1], 128),
    six([0xfe80, 0, 0, 0], 10),
    // EC2: fd00:ec2::254 and its neighbours.
    six([0xfd00, 0xec2, 0, 0], 32),
    // Google Cloud.
    six_host([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // Scaleway.
    six_host([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
];

/// The row that speaks of this address.
fn row(address: IpAddr) -> Option<&'static Range> {
    let holds = |range: &&Range| range.network.contains(&address);
    RANGES.iter().filter(holds).max_by_key(|range| range.network.prefix_len())
}

/// Whether the whole internet means the same by this address and can reach it. Looks at this face
/// alone.
pub(crate) fn is_global(address: IpAddr) -> bool {
    row(address).is_some_and(|range| range.global)
}

/// Whether it is this machine, its link, or a cloud's word to its machines. Looks at this face
/// alone.
pub(crate) fn is_local(address: IpAddr) -> bool {
    LOCAL.iter().any(|network| network.contains(&address))
}

/// An address, and all that it may turn into on its way: first itself (IPv4-mapped as the IPv4 that
/// it is), then the IPv4 addresses that translators and tunnels would take out of it.
pub(crate) fn faces(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let canonical = address.to_canonical();
    let inner = match canonical {
        IpAddr::V4(_) => [None; 6],
        IpAddr::V6(six) => embedded(six),
    };
    std::iter::once(canonical).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

fn embedded(six: Ipv6Addr) -> [Option<Ipv4Addr>; 6] {
    let octets = six.octets();
    let at = |[a, b, c, d]: [usize; 4]| Ipv4Addr::new(octets[a], octets[b], octets[c], octets[d]);
    let last = at([12, 13, 14, 15]);
    // In the local prefix one cannot see which of RFC 6052's forms is in use (§2.2): all that say
    // something are looked at, and what begins with 0 is padding.
    let translated = |places| Some(at(places)).filter(|inner| inner.octets()[0] != 0);
    let mut found = match six.segments() {
        // `::` and `::1` are themselves (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 6],
        // IPv4-compatible (RFC 4291 §2.5.5.1), IPv4-translated (RFC 2765 §2.1), NAT64 (RFC 6052
        // §2.1).
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            [Some(last), None, None, None, None, None]
        }
        // NAT64 of one's own (RFC 8215).
        [0x64, 0xff9b, 1, ..] => [
            translated([6, 7, 9, 10]),
            translated([7, 9, 10, 11]),
            translated([9, 10, 11, 12]),
            translated([12, 13, 14, 15]),
            None,
            None,
        ],
        // 6to4 (RFC 3056 §2).
        [0x2002, ..] => [Some(at([2, 3, 4, 5])), None, None, None, None, None],
        // Teredo: the server, and the client with all bits turned (RFC 4380 §4).
        [0x2001, 0, ..] => {
            let client = Ipv4Addr::from_bits(!last.to_bits());
            [Some(at([4, 5, 6, 7])), Some(client), None, None, None, None]
        }
        _ => [None; 6],
    };
    // ISATAP: 0000:5efe or 0200:5efe before the address, behind any prefix (RFC 5214 §6.1).
    if octets[8] & 0xfc == 0 && octets[9..12] == [0, 0x5e, 0xfe] {
        found[5] = Some(last);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn shifted(address: IpAddr, by: i128) -> Option<IpAddr> {
        match address {
            IpAddr::V4(four) => {
                let moved = i128::from(four.to_bits()) + by;
                Some(Ipv4Addr::from_bits(u32::try_from(moved).ok()?).into())
            }
            IpAddr::V6(six) => {
                let (bits, step) = (six.to_bits(), by.unsigned_abs());
                let moved = if by < 0 { bits.checked_sub(step) } else { bits.checked_add(step) };
                Some(Ipv6Addr::from_bits(moved?).into())
            }
        }
    }

    #[test]
    fn every_row_begins_and_ends_where_it_says() {
        for range in &RANGES {
            let network = range.network;
            let (first, last) = (network.network(), network.broadcast());
            assert_eq!(first, network.addr(), "{}: bits behind the prefix", range.name);
            for inside in [first, last] {
                let found = row(inside).unwrap();
                assert!(network.contains(&found.network), "{inside}: {found:?}, not {range:?}");
            }
            for outside in [shifted(first, -1), shifted(last, 1)].into_iter().flatten() {
                let found = row(outside).unwrap();
                assert_ne!(found.network, network, "{outside}");
                assert!(!network.contains(&found.network), "{outside}: {found:?}");
            }
        }
    }

    /// First, last, one before and one after of each row (and of what lies inside), by hand.
    #[test]
    fn what_is_global_is_so_to_the_last_address() {
        let private = [
            "0.0.0.0",
            "0.0.0.1",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.0",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.7",
            "192.0.0.8",
            "192.0.0.11",
            "192.0.0.170",
            "192.0.0.171",
            "192.0.0.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.88.99.0",
            "192.88.99.2",
            "192.88.99.255",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::ffff:0.0.0.0",
            "::ffff:8.8.8.8",
            "::ffff:255.255.255.255",
            "::1:0:0:0",
            "64:ff9b:0:0:0:1::",
            "64:ff9b:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b:2::",
            "100::",
            "100::ffff:ffff:ffff:ffff",
            "100:0:0:1::",
            "100:0:0:1:ffff:ffff:ffff:ffff",
            "100:0:0:2::",
            "1fff:ffff::",
            "2001::",
            "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:1::",
            "2001:1::4",
            "2001:2::",
            "2001:2:0:ffff:ffff:ffff:ffff:ffff",
            "2001:2:1::",
            "2001:4:111::",
            "2001:4:113::",
            "2001:10::",
            "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:40::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "4000::",
            "5f00::",
            "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fbff::",
            "fc00::",
            "fd00:ec2::254",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe00::",
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fec0::",
            "feff::",
            "ff00::",
            "ff02::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        let public = [
            "1.0.0.0",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.0.1.255",
            "192.0.3.0",
            "192.31.196.0",
            "192.31.196.255",
            "192.52.193.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "192.175.48.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "64:ff9b::",
            "64:ff9b::ffff:ffff",
            "2000::",
            "2001:1::1",
            "2001:1::2",
            "2001:1::3",
            "2001:3::",
            "2001:3:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:4:112::",
            "2001:4:112:ffff:ffff:ffff:ffff:ffff",
            "2001:20::",
            "2001:2f:ffff::",
            "2001:30::",
            "2001:3f:ffff::",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::",
            "2620:4f:8000::",
            "2620:4f:8000:ffff:ffff:ffff:ffff:ffff",
            "3ffe:ffff::",
            "3fff:1000::",
            "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        for text in private {
            assert!(!is_global(ip(text)), "{text} is not global");
        }
        for text in public {
            assert!(is_global(ip(text)), "{text} is global");
        }
    }

    #[test]
    fn this_machine_its_link_and_the_clouds_word_are_local() {
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.0",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::",
            "fe80::a9fe:a9fe",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
        ] {
            assert!(is_local(ip(text)), "{text}");
        }
        for text in [
            "1.0.0.0",
            "10.0.0.1",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "192.168.0.1",
            "100.100.100.199",
            "100.100.100.201",
            "168.63.129.15",
            "::2",
            "fe7f:ffff::",
            "fec0::",
            "fd00:ec1:ffff::",
            "fd00:ec3::",
            "fd00::1",
        ] {
            assert!(!is_local(ip(text)), "{text}");
        }
    }

    #[test]
    fn an_address_within_an_address_is_found() {
        for (text, inner) in [
            // IPv4-mapped, however it is written.
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:7f00:1", "127.0.0.1"),
            // IPv4-compatible and IPv4-translated.
            ("::127.0.0.1", "127.0.0.1"),
            ("::10.0.0.1", "10.0.0.1"),
            ("::ffff:0:127.0.0.1", "127.0.0.1"),
            // NAT64, the well-known prefix, and one's own in the four forms that fit it.
            ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
            ("64:ff9b:1:7f00:0:100::", "127.0.0.1"),
            ("64:ff9b:1:7f:0:1::", "127.0.0.1"),
            ("64:ff9b:1:0:7f:0:100:0", "127.0.0.1"),
            ("64:ff9b:1::7f00:1", "127.0.0.1"),
            ("64:ff9b:1:fffe::a9fe:a9fe", "169.254.169.254"),
            // 6to4 and Teredo, whose client is turned.
            ("2002:7f00:1::", "127.0.0.1"),
            ("2002:a9fe:a9fe:1::5", "169.254.169.254"),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", "127.0.0.1"),
            ("2001:0:7f00:1::", "127.0.0.1"),
            // ISATAP behind whatever prefix.
            ("2001:db8::5efe:127.0.0.1", "127.0.0.1"),
            ("2001:db8::200:5efe:10.1.2.3", "10.1.2.3"),
            ("fe80::5efe:c0a8:1", "192.168.0.1"),
        ] {
            let found: Vec<IpAddr> = faces(ip(text)).collect();
            assert!(found.contains(&ip(inner)), "{text}: {found:?}");
        }
        for text in ["127.0.0.1", "::", "::1", "2606:4700::1111", "2001:db8::1"] {
            assert_eq!(faces(ip(text)).collect::<Vec<_>>(), [ip(text)], "{text}");
        }
        let own = faces(ip("64:ff9b:1::808:808")).collect::<Vec<_>>();
        assert_eq!(own, [ip("64:ff9b:1::808:808"), ip("8.8.8.8")], "padding is no address");
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_found_in_every_coat(bits in any::<u32>(), more in any::<u64>()) {
            let inner = Ipv4Addr::from_bits(bits);
            let [high, low] = [(bits >> 16) as u16, (bits & 0xffff) as u16];
            let port = (more & 0xffff) as u16;
            let coats = [
                inner.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, port, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, port, !high, !low),
                Ipv6Addr::new(0x2001, 0xdb8, port, 0, 0, 0x5efe, high, low),
            ];
            for coat in coats {
                prop_assert!(faces(coat.into()).any(|face| face == inner), "{}", coat);
            }
        }
    }
}
