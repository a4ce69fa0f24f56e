//! Every key that narrows writes to Redis, in one list.
//!
//! | key | example | type | life |
//! |---|---|---|---|
//! | `host` | `proxy_rate_limiter:{0}:api.example.com:8443` | hash: instance -> slots held, and more behind that; `#t` their sum, `#c` limit in force, and what else `lua/grant.lua` says | while somebody holds a slot; one day if a whole fleet vanishes |
//! | `queue` | `proxy_rate_limiter:{0}:api.example.com:8443~q` | list of instances, one entry for each request that waits | while somebody waits; one day |
//! | `workers` | `proxy_rate_limiter:{0}:@w` | hash: instance -> epoch, `#s` state and generation, `#first`, `#run`, `#until`, `#hb`, `#ok` | one day after the last heartbeat |
//! | `leases` | `proxy_rate_limiter:{0}:@lease` | sorted set: instance -> end of lease, ms of Redis time | while there is an instance; one day after the last heartbeat |
//! | `limits` | `proxy_rate_limiter:{0}:@limits` | hash: pattern -> limit, or limit and `/shared`; `#v` version, `#at` time of the last change, us of Redis time | for ever |
//! | `policy` | `proxy_rate_limiter:{0}:@p:cooldown:shop/api.example.com` | what the policy's script in `lua/` says | as that says; always limited |
//! | `policy` | `proxy_rate_limiter:{0}:@p:parents:shop` | hash: parent and host, or parent and `*` -> end of the ban (ms of Redis time), why, its length in ms | until its longest ban ends |
//! | `policy` | `proxy_rate_limiter:{0}:@p:quota:shop/192.0.2.1` | hash: tier -> what is counted of it, as `lua/quota.lua` says | a second longer than its longest window |
//! | none | `limit:minute:192.0.2.1:202611302359` | string: what was taken; only in the layout of apitwo, made by `lua/quota.lua` | until its window ends |
//! | `policies_of` | `proxy_rate_limiter:{0}:@p:cooldown` | what all keys of one policy have in common; as its script says | as that says; always limited |
//! | `policy_channel` | `proxy_rate_limiter:{0}:@p` | pub/sub channel: what all instances are told about APIs | no key |
//! | `kept`, place | `proxy_rate_limiter:{0}:@c:9f86...0a08~p` | string: another each time that all kept of this place was forgotten | as what is kept of it |
//! | `kept`, entries | `proxy_rate_limiter:{0}:@c:9f86...0a08` | hash: kept responses, as `lua/cache.lua` says | as long as one of them may be of use; 30 days at most |
//! | `kept`, flight | `proxy_rate_limiter:{0}:@c:9f86...0a08~f` | hash: who fetches a response, as `lua/cache.lua` says | its lease and 10 s |
//! | `kept`, body | `proxy_rate_limiter:{0}:@c:9f86...0a08~b` | string: as much of that response as has come | its lease and 10 s |
//! | `kept_channel` | `proxy_rate_limiter:{0}:@c` | pub/sub channel: what all instances are told about kept responses of this shard | no key |
//! | `channel` | `proxy_rate_limiter:{0}:@n:0123456789ab` | pub/sub channel: what one instance is told | no key |
//!
//! Hints for one instance go to the channel of its name.
//!
//! The number in braces is the shard. One Redis has the one shard 0, a cluster has [`CLUSTER`] of
//! them, so that its nodes share the work. The shard of a host is the FNV-1a hash (64 bits) of its
//! key, modulo the number of shards: the same in every version and on every machine. The shard of a kept
//! response is that of its place, whose digest needs no other hash.
//!
//! Invariant: all keys of a shard have one hash tag, so that a script may use them together on a
//! cluster; no host's key can be mistaken for one of the others, since a host name holds no `@`
//! and no `~`.

use crate::base::authority::HostKey;

/// Shards of a cluster. Never to be changed: instances of two minds would count apart.
pub(crate) const CLUSTER: u16 = 16;
/// Which of them has the table of limits.
pub(crate) const LIMITS: u16 = 0;
/// Which of them has what policies of APIs share.
pub(crate) const POLICIES: u16 = 0;

/// The digests by which a kept response is found: of its place, its request, its flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) place: [u8; 32],
    pub(crate) request: [u8; 32],
    pub(crate) flight: [u8; 32],
}

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    shards: Vec<Shard>,
    limits: String,
    policies: String,
}

#[derive(Clone, Debug)]
struct Shard {
    stem: String,
    workers: String,
    leases: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, shards: u16) -> Self {
        let shard = |number| {
            let stem = format!("{prefix}:{{{number}}}:");
            let (workers, leases) = (format!("{stem}@w"), format!("{stem}@lease"));
            Shard { stem, workers, leases }
        };
        let limits = format!("{prefix}:{{{LIMITS}}}:@limits");
        let policies = format!("{prefix}:{{{POLICIES}}}:@p");
        let shards = (0..shards.max(1)).map(shard).collect();
        Self { prefix: prefix.to_owned(), shards, limits, policies }
    }

    /// The fleet's table of limits: one, in the shard [`LIMITS`].
    pub(crate) fn limits(&self) -> &str {
        &self.limits
    }

    /// The first part of every key.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What one policy (the topic) keeps under this name.
    pub(crate) fn policy(&self, topic: &str, name: &str) -> String {
        [self.policies.as_str(), ":", topic, ":", name].concat()
    }

    /// What all of that has in common.
    pub(crate) fn policies_of(&self, topic: &str) -> String {
        [self.policies.as_str(), ":", topic].concat()
    }

    /// Where all instances hear what happens to APIs.
    pub(crate) fn policy_channel(&self) -> &str {
        &self.policies
    }

    /// Which shard has what is kept of a place, by its digest.
    pub(crate) fn shard_of_place(&self, place: &[u8; 32]) -> u16 {
        let [.., high, low] = *place;
        u16::from_be_bytes([high, low]) % u16::try_from(self.shards.len()).unwrap_or(1)
    }

    /// The keys of a kept response, all in the shard of its place: place, entries, flight, body.
    pub(crate) fn kept(&self, names: &Names) -> [String; 4] {
        let stem = &self.of(self.shard_of_place(&names.place)).stem;
        let key = |name: &[u8; 32], end: &str| {
            let mut key = String::with_capacity(stem.len() + 69);
            key.push_str(stem);
            key.push_str("@c:");
            push_hex(&mut key, name);
            key.push_str(end);
            key
        };
        let Names { place, request, flight } = names;
        [key(place, "~p"), key(request, ""), key(flight, "~f"), key(flight, "~b")]
    }

    /// Where all instances hear of kept responses of a shard.
    pub(crate) fn kept_channel(&self, shard: u16) -> String {
        [self.of(shard).stem.as_str(), "@c"].concat()
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
    }

    /// Which shard counts this host.
    pub(crate) fn shard(&self, host: &HostKey) -> u16 {
        shard(host, self.shards.len())
    }

    pub(crate) fn host(&self, host: &HostKey) -> String {
        [self.of(self.shard(host)).stem.as_str(), host.as_str()].concat()
    }

    /// Who waits for this host.
    pub(crate) fn queue(&self, host: &HostKey) -> String {
        [self.of(self.shard(host)).stem.as_str(), host.as_str(), "~q"].concat()
    }

    /// The host whose key this is.
    pub(crate) fn host_of(&self, key: &str) -> Option<HostKey> {
        let stem = &self.shards.get(usize::from(shard_of(key.as_bytes())?))?.stem;
        key.strip_prefix(stem).map(HostKey::recalled)
    }

    /// Whether there is more than one shard.
    pub(crate) fn is_sharded(&self) -> bool {
        self.shards.len() > 1
    }

    /// The command that sends a hint: where there are shards, it need not reach every node.
    pub(crate) fn publish(&self) -> &'static str {
        if self.is_sharded() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// The command that subscribes to hints.
    pub(crate) fn subscribe(&self) -> &'static str {
        if self.is_sharded() { "SSUBSCRIBE" } else { "SUBSCRIBE" }
    }

    pub(crate) fn leases(&self, shard: u16) -> &str {
        &self.of(shard).leases
    }

    pub(crate) fn workers(&self, shard: u16) -> &str {
        &self.of(shard).workers
    }

    /// Where one instance hears of what happens in this shard.
    pub(crate) fn channel(&self, shard: u16, worker: &str) -> String {
        [self.of(shard).stem.as_str(), "@n:", worker].concat()
    }

    fn of(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard)]
    }
}

/// A digest as it stands in keys and messages.
pub(crate) fn push_hex(text: &mut String, digest: &[u8; 32]) {
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
}

/// Which of so many shards counts this host.
pub(crate) fn shard(host: &HostKey, shards: usize) -> u16 {
    u16::try_from(hash(host.as_str()) % shards.max(1) as u64).unwrap_or_default()
}

/// The shard that a key or channel belongs to: the number in its hash tag.
pub(crate) fn shard_of(key: &[u8]) -> Option<u16> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[start..].iter().position(|byte| *byte == b'}')?;
    std::str::from_utf8(&key[start..start + length]).ok()?.parse().ok()
}

/// The slot of a cluster that all keys of a shard are in: CRC-16/XMODEM of the hash tag, modulo
/// 16384 (the cluster specification of Redis).
pub(crate) fn slot(shard: u16) -> u16 {
    let mut crc = 0_u16;
    for byte in shard.to_string().bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16384
}

/// FNV-1a with 64 bits.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostKey {
        HostKey::parse(text).unwrap()
    }

    #[test]
    fn keys_look_as_documented() {
        let keys = Keys::new("proxy_rate_limiter", 1);
        let host = host("api.example.com:8443");
        assert_eq!(keys.host(&host), "proxy_rate_limiter:{0}:api.example.com:8443");
        assert_eq!(keys.queue(&host), "proxy_rate_limiter:{0}:api.example.com:8443~q");
        assert_eq!(keys.workers(0), "proxy_rate_limiter:{0}:@w");
        assert_eq!(keys.leases(0), "proxy_rate_limiter:{0}:@lease");
        assert_eq!(keys.channel(0, "0123456789ab"), "proxy_rate_limiter:{0}:@n:0123456789ab");
        assert_eq!(keys.limits(), "proxy_rate_limiter:{0}:@limits");
        let name = "shop/api.example.com";
        let policy = "proxy_rate_limiter:{0}:@p:cooldown:shop/api.example.com";
        assert_eq!(keys.policy("cooldown", name), policy);
        assert_eq!(keys.policies_of("cooldown"), "proxy_rate_limiter:{0}:@p:cooldown");
        assert_eq!(keys.policy_channel(), "proxy_rate_limiter:{0}:@p");
    }

    #[test]
    fn all_keys_of_a_kept_response_are_in_the_shard_of_its_place() {
        let mut names = Names { place: [0xab; 32], request: [0x01; 32], flight: [0xff; 32] };
        names.place[31] = 3;
        let keys = Keys::new("p", CLUSTER);
        let stem = |byte: &str| format!("p:{{3}}:@c:{}", byte.repeat(32));
        let place = format!("p:{{3}}:@c:{}03~p", "ab".repeat(31));
        let flight = [stem("ff") + "~f", stem("ff") + "~b"];
        let [one, other] = flight;
        assert_eq!(keys.kept(&names), [place, stem("01"), one, other]);
        assert_eq!(keys.kept_channel(3), "p:{3}:@c");
        assert_eq!(Keys::new("p", 1).shard_of_place(&names.place), 0);
    }

    #[test]
    fn the_shard_of_a_host_is_the_same_for_ever() {
        // Published test vectors of FNV-1a.
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);

        let keys = Keys::new("p", CLUSTER);
        let host = host("foobar");
        assert_eq!(keys.shard(&host), 8);
        assert_eq!(keys.host(&host), "p:{8}:foobar");
        assert_eq!(keys.queue(&host), "p:{8}:foobar~q");
    }

    #[test]
    fn many_hosts_spread_over_all_shards() {
        let keys = Keys::new("p", CLUSTER);
        let mut counts = [0_u32; CLUSTER as usize];
        for number in 0..1600 {
            counts[usize::from(keys.shard(&host(&format!("host{number}.example.com"))))] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_slot_is_the_one_of_redis() {
        // As CLUSTER KEYSLOT says; tests/it/deployments.rs asks a real one for all shards.
        assert_eq!((slot(0), slot(1), slot(15)), (13_907, 9_842, 4_178));
    }

    #[test]
    fn a_channel_says_its_shard() {
        let keys = Keys::new("p", CLUSTER);
        assert_eq!(shard_of(keys.channel(11, "w").as_bytes()), Some(11));
        for other in ["", "news", "{x}", "{", "{70000}"] {
            assert_eq!(shard_of(other.as_bytes()), None, "{other}");
        }
    }
}
