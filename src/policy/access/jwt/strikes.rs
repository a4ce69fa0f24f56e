//! Addresses whose tokens were wrong of late: no more of theirs are verified than some in a second, so
//! that whoever makes tokens up does not choose what the threads that serve spend their time on.
//!
//! Of fixed size: addresses share places, of an IPv6 address all of its /64. Whoever is known by a token that was
//! verified before is not asked.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

const PLACES: usize = 1024;
/// Wrong tokens of one address that are verified at once, and after that one each so many milliseconds.
const BURST: u64 = 50;
const MILLIS: u64 = 50;

#[derive(Debug)]
pub(super) struct Strikes {
    hasher: RandomState,
    began: Instant,
    /// By place, when the next wrong one would be due if they came evenly: milliseconds since it began.
    due: Box<[AtomicU64]>,
}

impl Strikes {
    pub(super) fn new(now: Instant) -> Self {
        let due = std::iter::repeat_with(AtomicU64::default).take(PLACES).collect();
        Self { hasher: RandomState::new(), began: now, due }
    }

    /// Whether a token of this address may be verified.
    pub(super) fn may(&self, address: IpAddr, now: Instant) -> bool {
        self.place(address).load(Relaxed) < self.millis(now) + BURST * MILLIS
    }

    /// One of this address was wrong.
    pub(super) fn strike(&self, address: IpAddr, now: Instant) {
        let now = self.millis(now);
        let next = |due: u64| Some(due.max(now) + MILLIS);
        // Its closure never declines.
        let _always = self.place(address).fetch_update(Relaxed, Relaxed, next);
    }

    fn place(&self, address: IpAddr) -> &AtomicU64 {
        let whose = match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(prefix))
            }
            address @ IpAddr::V4(_) => address,
        };
        let at = usize::try_from(self.hasher.hash_one(whose) % PLACES as u64).unwrap_or_default();
        &self.due[at]
    }

    fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock;

    const EACH: Duration = Duration::from_millis(MILLIS);

    #[test]
    fn an_address_that_makes_tokens_up_is_heard_less_often_and_others_are_not() {
        let now = clock::now();
        let strikes = Strikes::new(now);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let (one, same, other) =
            (address("2001:db8::1"), address("2001:db8::2"), address("192.0.2.1"));
        for _ in 0..BURST {
            assert!(strikes.may(one, now));
            strikes.strike(one, now);
        }
        assert!(!strikes.may(one, now) && !strikes.may(same, now));
        // Unless they share a place, which is one of a thousand.
        let is_shared = std::ptr::eq(strikes.place(one), strikes.place(other));
        assert!(is_shared || strikes.may(other, now));
        assert!(strikes.may(one, now + EACH));
        strikes.strike(one, now + EACH);
        assert!(!strikes.may(one, now + EACH));
        assert!((0..BURST).all(|_| strikes.may(one, now + EACH * 100)));
    }
}
