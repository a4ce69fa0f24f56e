//! Whose requests are counted together: the text that a request has for a quota.
//!
//! A text says its kind, so that no two kinds can meet: an address stands bare (`192.0.2.1`,
//! `2001:db8::/64`), all else as `kind=value`, and where there are several kinds, commas between
//! them. What a request does not say (no such field, no claim, no name) is counted by its address, in
//! a space of its own: `key=@192.0.2.1`.
//!
//! SECURITY: of a field's or a claim's value there is only ever its fingerprint, the first half of an
//! HMAC-SHA-256 keyed by the fleet's prefix over API, kind and value. So all instances have the same,
//! and nothing that is kept, sent to Redis or logged can be used in its place. (Who can read it can
//! still try guesses: a short value is no secret for long.) X-Forwarded-For is believed as far as
//! proxies of ours have written it, and no further.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use aws_lc_rs::hmac;
use http::HeaderMap;
use http::HeaderName;
use ipnet::IpNet;
use serde_json::Value;

use crate::base::identity;
use crate::base::identity::Identity;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The most hops of X-Forwarded-For that are looked at; more than there are proxies of ours in a row.
const HOPS: usize = 64;
/// Before the digits of a fingerprint, which then stands for what has it.
const MARK: char = '#';
/// Before what a request is counted by that does not say what it should.
const INSTEAD: char = '@';
/// Digits of a fingerprint.
const DIGITS: usize = 32;

/// One thing that requests have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The address of the client.
    Address,
    /// The API: all its clients together.
    Api,
    /// The name of the API key.
    ApiKey,
    /// The value of a claim of a token.
    Claim(String),
    /// The value of a field.
    Header(HeaderName),
    /// The host that it is bound for.
    Host,
    /// Who the client is, as it said to the proxy.
    Identity,
}

impl Part {
    /// The parts of a text such as `header:X-Tenant`; none if it is not one of them.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, name) =
            text.split_once(':').map_or((text, ""), |(word, name)| (word, name.trim()));
        match (word.trim(), name) {
            ("address", "") => Some(Self::Address),
            ("api", "") => Some(Self::Api),
            ("api_key", "") => Some(Self::ApiKey),
            ("host", "") => Some(Self::Host),
            ("identity", "") => Some(Self::Identity),
            ("claim", name) if !name.is_empty() => Some(Self::Claim(name.to_owned())),
            ("header", name) => name.parse().ok().map(Self::Header),
            _ => None,
        }
    }

    /// What [`Part::parse`] reads.
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Address => "address".into(),
            Self::Api => "api".into(),
            Self::ApiKey => "api_key".into(),
            Self::Claim(name) => format!("claim:{name}").into(),
            Self::Header(name) => format!("header:{name}").into(),
            Self::Host => "host".into(),
            Self::Identity => "identity".into(),
        }
    }

    /// What stands before the value; nothing before an address.
    fn kind(&self) -> Cow<'static, str> {
        match self {
            Self::Address => "".into(),
            Self::Api => "api=".into(),
            Self::ApiKey => "key=".into(),
            Self::Claim(name) => format!("claim:{}=", identity::label(name)).into(),
            Self::Header(name) => format!("header:{name}=").into(),
            Self::Host => "host=".into(),
            Self::Identity => "user=".into(),
        }
    }
}

/// By what requests are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Keying {
    /// All that requests have in common that are counted together; at least one.
    pub parts: Vec<Part>,
    /// How many bits of an IPv6 address tell clients apart: who has one has a whole network.
    pub ipv6_prefix: u8,
    /// Whose X-Forwarded-For is believed.
    pub trusted: Vec<IpNet>,
}

impl Default for Keying {
    fn default() -> Self {
        Self { parts: vec![Part::Address], ipv6_prefix: 64, trusted: Vec::new() }
    }
}

/// What is known of a request and of who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// Where its connection comes from.
    pub(crate) peer: IpAddr,
    pub(crate) identity: &'a Identity,
    /// The name of its API key.
    pub(crate) key: Option<&'a str>,
    pub(crate) claims: Option<&'a serde_json::Map<String, Value>>,
    /// The host that it is bound for.
    pub(crate) host: &'a str,
    pub(crate) fields: &'a HeaderMap,
}

/// What a record says of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Then<'a> {
    /// The text that it was counted by, if it was.
    pub(crate) text: Option<&'a str>,
    /// For how many requests it counted.
    pub(crate) cost: Option<u64>,
    /// Its plan.
    pub(crate) plan: Option<&'a str>,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) identity: Option<&'a str>,
    /// The name of its API key.
    pub(crate) key: Option<&'a str>,
    pub(crate) host: &'a str,
}

impl<'a> Then<'a> {
    fn parts(self) -> impl Iterator<Item = &'a str> {
        self.text.into_iter().flat_map(|text| text.split(','))
    }
}

/// Makes the texts of one API.
#[derive(Debug)]
pub(super) struct Namer {
    pub(super) keying: Keying,
    /// PERF: what stands before each part, written once.
    kinds: Vec<Cow<'static, str>>,
    api: String,
    secret: hmac::Key,
}

impl Namer {
    /// `prefix` is what the fleet has in common.
    pub(super) fn new(keying: Keying, api: &str, prefix: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, prefix.as_bytes());
        let kinds = keying.parts.iter().map(Part::kind).collect();
        Self { keying, kinds, api: api.to_owned(), secret }
    }

    /// The text of a request.
    pub(super) fn name(&self, asker: Asker<'_>) -> String {
        let mut text = String::with_capacity(64);
        for (part, kind) in self.keying.parts.iter().zip(&self.kinds) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(kind);
            let said = match part {
                Part::Address => false,
                Part::Api => {
                    text.push_str(&self.api);
                    true
                }
                Part::ApiKey => asker.key.map(|key| text.push_str(&identity::label(key))).is_some(),
                Part::Claim(name) => self.claim(&mut text, kind, asker.claims, name).is_some(),
                Part::Header(name) => self.header(&mut text, kind, asker.fields, name).is_some(),
                Part::Host => {
                    text.push_str(asker.host);
                    true
                }
                Part::Identity => asker
                    .identity
                    .name()
                    .map(|name| text.push_str(&identity::label(name)))
                    .is_some(),
            };
            if !said {
                if *part != Part::Address {
                    text.push(INSTEAD);
                }
                self.address(&mut text, asker);
            }
        }
        text
    }

    /// The text of a request that was recorded; none if the record does not say what it is made of.
    pub(super) fn renamed(&self, then: Then<'_>) -> Option<String> {
        let mut text = String::with_capacity(64);
        for (part, kind) in self.keying.parts.iter().zip(&self.kinds) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(kind);
            let said = match part {
                Part::Address => None,
                Part::Api => Some(Cow::Borrowed(&*self.api)),
                Part::ApiKey => then.key.map(identity::label),
                Part::Host => Some(Cow::Borrowed(then.host)),
                Part::Identity => then.identity.map(identity::label),
                // Only its fingerprint was ever written down, or what stood in its place.
                Part::Claim(_) | Part::Header(_) => {
                    let told = then.parts().find_map(|told| told.strip_prefix(&**kind))?;
                    (!told.starts_with(INSTEAD)).then_some(Cow::Borrowed(told))
                }
            };
            if let Some(said) = said {
                text.push_str(&said);
                continue;
            }
            if *part != Part::Address {
                text.push(INSTEAD);
            }
            self.recorded_address(&mut text, then)?;
        }
        Some(text)
    }

    /// The address that it was counted by, or would have been.
    fn recorded_address(&self, text: &mut String, then: Then<'_>) -> Option<()> {
        let peer = then.peer?.to_canonical();
        let is_trusted = self.keying.trusted.iter().any(|network| network.contains(&peer));
        if !is_trusted {
            written(text, peer, self.keying.ipv6_prefix);
            return Some(());
        }
        // What a proxy of ours said of it, if that was believed then.
        let told = then.parts().find_map(|told| match told.split_once(INSTEAD) {
            Some((_, address)) => Some(address),
            None => (!told.contains('=')).then_some(told),
        });
        self.network(text, told?)
    }

    /// What an operator calls a client, as its requests are named: a value of each part, with its
    /// kind or, where there is one part, without. None for what no request can have.
    pub(super) fn recalled(&self, told: &str) -> Option<String> {
        let values: Vec<&str> = match &*self.keying.parts {
            [_one] => vec![told],
            _ => told.split(',').collect(),
        };
        if values.len() != self.keying.parts.len() {
            return None;
        }
        let mut text = String::new();
        for ((part, kind), value) in self.keying.parts.iter().zip(&self.kinds).zip(values) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(kind);
            let value = value.strip_prefix(&**kind).unwrap_or(value);
            if let Some(address) = value.strip_prefix(INSTEAD) {
                text.push(INSTEAD);
                self.network(&mut text, address)?;
                continue;
            }
            match part {
                Part::Address => self.network(&mut text, value)?,
                // There is one, whatever it is called.
                Part::Api => text.push_str(&self.api),
                Part::ApiKey | Part::Identity if value.is_empty() => return None,
                // What is a label already stays one.
                Part::ApiKey | Part::Identity if is_label(value) => text.push_str(value),
                Part::ApiKey | Part::Identity => text.push_str(&identity::label(value)),
                Part::Host if value.contains([',', '\n', ' ']) => return None,
                Part::Host => text.push_str(value),
                Part::Claim(_) | Part::Header(_) => match value.strip_prefix(MARK) {
                    Some(digits) if is_fingerprint(digits) => {
                        text.push(MARK);
                        text.push_str(&digits.to_ascii_lowercase());
                    }
                    Some(_) | None => self.fingerprint(&mut text, kind, [value.as_bytes()]),
                },
            }
        }
        Some(text)
    }

    fn claim(
        &self,
        text: &mut String,
        kind: &str,
        claims: Option<&serde_json::Map<String, Value>>,
        name: &str,
    ) -> Option<()> {
        match claims?.get(name)? {
            Value::Null => None,
            Value::String(value) => {
                self.fingerprint(text, kind, [value.as_bytes()]);
                Some(())
            }
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                self.fingerprint(text, kind, [other.to_string().as_bytes()]);
                Some(())
            }
        }
    }

    fn header(
        &self,
        text: &mut String,
        kind: &str,
        fields: &HeaderMap,
        name: &HeaderName,
    ) -> Option<()> {
        // All of them: whoever comes behind may read the first or the last.
        fields.get(name)?;
        self.fingerprint(text, kind, fields.get_all(name).iter().map(http::HeaderValue::as_bytes));
        Some(())
    }

    fn fingerprint<'v>(
        &self,
        text: &mut String,
        kind: &str,
        values: impl IntoIterator<Item = &'v [u8]>,
    ) {
        let mut digest = hmac::Context::with_key(&self.secret);
        for part in [&*self.api, kind] {
            digest.update(part.as_bytes());
            digest.update(b"\0");
        }
        for value in values {
            digest.update(value);
            digest.update(b"\0");
        }
        text.push(MARK);
        for byte in &digest.sign().as_ref()[..DIGITS / 2] {
            // Writing to a String cannot fail.
            let _written = write!(text, "{byte:02x}");
        }
    }

    fn address(&self, text: &mut String, asker: Asker<'_>) {
        let address = client(asker.peer, asker.fields, &self.keying.trusted);
        written(text, address, self.keying.ipv6_prefix);
    }

    /// An address, or an IPv6 network as it is written here.
    fn network(&self, text: &mut String, value: &str) -> Option<()> {
        let bare = value.split_once('/').map_or(value, |(bare, _)| bare);
        let address: IpAddr = bare.trim_matches(['[', ']']).parse().ok()?;
        written(text, address.to_canonical(), self.keying.ipv6_prefix);
        Some(())
    }
}

fn is_fingerprint(digits: &str) -> bool {
    digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text is one that [`identity::label`] makes of something.
fn is_label(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._%".contains(&byte))
}

fn written(text: &mut String, address: IpAddr, ipv6_prefix: u8) {
    // Writing to a String cannot fail.
    let _written = match address {
        IpAddr::V4(address) => write!(text, "{address}"),
        IpAddr::V6(address) if ipv6_prefix >= 128 => write!(text, "{address}"),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix)).unwrap_or(0);
            write!(text, "{}/{ipv6_prefix}", Ipv6Addr::from(u128::from(address) & mask))
        }
    };
}

/// The address of the client: that of the connection or, where that is a proxy of ours, the last one
/// in X-Forwarded-For that is none. What stands before that one, anybody may have written.
pub(crate) fn client(peer: IpAddr, fields: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut last = peer.to_canonical();
    // PERF: most have no proxy in front.
    if trusted.is_empty() || !is_trusted(&last) {
        return last;
    }
    let values = fields.get_all(&FORWARDED_FOR).into_iter().rev();
    let hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(HOPS) {
        // Of what is no address nobody can say who wrote what is before it.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(address) else { break };
        last = address;
        if !is_trusted(&last) {
            break;
        }
    }
    last
}

/// An address, perhaps in brackets, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text
        .parse()
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    const PEER: &str = "192.0.2.1";

    fn keying(parts: &[&str]) -> Keying {
        let parts = parts.iter().map(|text| Part::parse(text).unwrap()).collect();
        Keying { parts, trusted: vec!["10.0.0.0/8".parse().unwrap()], ..Keying::default() }
    }

    fn namer(parts: &[&str]) -> Namer {
        Namer::new(keying(parts), "shop", "prefix")
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn asker<'a>(peer: &str, fields: &'a HeaderMap) -> Asker<'a> {
        Asker {
            peer: peer.parse().unwrap(),
            identity: &Identity::Anonymous,
            key: None,
            claims: None,
            host: "api.test:443",
            fields,
        }
    }

    #[test]
    fn what_requests_are_counted_by_is_read_as_it_is_written() {
        for text in
            ["address", "api", "api_key", "host", "identity", "claim:sub", "header:x-tenant"]
        {
            assert_eq!(Part::parse(text).unwrap().text(), text);
        }
        for text in ["", "addres", "claim:", "claim", "header:", "header:a b", "api:x", "host:x"] {
            assert_eq!(Part::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_stands_bare_and_one_of_ipv6_as_its_network() {
        let none = HeaderMap::new();
        let name = |peer: &str| namer(&["address"]).name(asker(peer, &none));
        assert_eq!(name("192.0.2.1"), "192.0.2.1");
        assert_eq!(name("::ffff:192.0.2.1"), "192.0.2.1", "the same client by another socket");
        assert_eq!(name("2001:db8::1"), "2001:db8::/64");
        assert_eq!(name("2001:db8::ffff:1"), name("2001:db8::1"), "who has one has all of them");
        assert_ne!(name("2001:db8:0:1::1"), name("2001:db8::1"));
        let mut whole = keying(&["address"]);
        whole.ipv6_prefix = 128;
        let whole = Namer::new(whole, "shop", "prefix");
        assert_eq!(whole.name(asker("2001:db8::1", &none)), "2001:db8::1");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        let of = |peer: &str, said: &[&str]| {
            let pairs: Vec<_> = said.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
            client(peer.parse().unwrap(), &fields(&pairs), &trusted).to_string()
        };
        assert_eq!(of("10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(of("::ffff:10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(of("10.0.0.1", &["198.51.100.1, 203.0.113.7, 10.0.0.2"]), "203.0.113.7");
        assert_eq!(of("10.0.0.1", &["198.51.100.1", "203.0.113.7"]), "203.0.113.7", "two lines");
        assert_eq!(of("10.0.0.1", &["[2001:db8::7]:443,2001:db8:1::1"]), "2001:db8::7");
        assert_eq!(of("10.0.0.1", &["203.0.113.7:1234"]), "203.0.113.7");
        // All are ours: the first of them asked.
        assert_eq!(of("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        // What is no address is where what we know ends.
        assert_eq!(of("10.0.0.1", &["203.0.113.7, unknown"]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &["203.0.113.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        // Nobody else is believed.
        assert_eq!(of("198.51.100.9", &["203.0.113.7"]), "198.51.100.9");
        let many = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(
            of("10.0.0.1", &[&format!("203.0.113.7,{many}")]),
            "10.0.0.2",
            "and not forever"
        );
    }

    #[test]
    fn kinds_do_not_meet_and_what_is_not_said_is_counted_by_address_apart() {
        let claims = json!({ "sub": "192.0.2.1", "n": 5, "none": null });
        let claims = claims.as_object();
        let fields = fields(&[("x-tenant", "192.0.2.1")]);
        let user = Identity::Name("192.0.2.1".into());
        let all = Asker { identity: &user, key: Some("192.0.2.1"), claims, ..asker(PEER, &fields) };
        let none = HeaderMap::new();
        let nobody = asker(PEER, &none);
        let kinds = ["address", "api", "api_key", "host", "identity"];
        let kinds =
            [&kinds[..], &["claim:sub", "claim:n", "claim:none", "header:x-tenant"]].concat();
        let mut names: Vec<String> = Vec::new();
        for kind in &kinds {
            names.extend([namer(&[kind]).name(all), namer(&[kind]).name(nobody)]);
        }
        let told = |name: &str| names.iter().filter(|other| *other == name).count();
        // The address, all of the API, the host, and a claim that says nothing, are the same twice.
        assert_eq!(told("192.0.2.1"), 2);
        assert_eq!((told("api=shop"), told("host=api.test:443")), (2, 2));
        assert_eq!(told("claim:none=@192.0.2.1"), 2);
        assert_eq!((told("key=192.0.2.1"), told("key=@192.0.2.1")), (1, 1));
        assert_eq!((told("user=192.0.2.1"), told("user=@192.0.2.1")), (1, 1));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 2 * kinds.len() - 4, "{names:?}");
        let both = namer(&["api_key", "host"]);
        assert_eq!(both.name(all), "key=192.0.2.1,host=api.test:443");
    }

    #[test]
    fn of_a_secret_there_is_a_fingerprint_that_api_kind_and_fleet_change() {
        let secret = fields(&[("x-tenant", "s3cret")]);
        let name = |namer: Namer| namer.name(asker(PEER, &secret));
        let one = name(namer(&["header:x-tenant"]));
        assert!(one.starts_with("header:x-tenant=#") && !one.contains("s3cret"), "{one}");
        let keying = || keying(&["header:x-tenant"]);
        assert_ne!(name(Namer::new(keying(), "other", "prefix")), one);
        assert_ne!(name(Namer::new(keying(), "shop", "other")), one);
        assert_eq!(name(Namer::new(keying(), "shop", "prefix")), one);
        let twice = fields(&[("x-tenant", "s3cret"), ("x-tenant", "more")]);
        assert_ne!(namer(&["header:x-tenant"]).name(asker(PEER, &twice)), one);
    }

    #[test]
    fn an_operator_calls_a_client_as_its_requests_are_named_or_by_the_value_alone() {
        let secret = fields(&[("x-tenant", "s3cret")]);
        let tenant = namer(&["header:x-tenant"]);
        let name = tenant.name(asker(PEER, &secret));
        assert_eq!(tenant.recalled("s3cret").unwrap(), name);
        assert_eq!(tenant.recalled(&name).unwrap(), name);
        let absent = tenant.name(asker(PEER, &HeaderMap::new()));
        assert_eq!(tenant.recalled(&absent).unwrap(), absent);
        let address = namer(&["address"]);
        assert_eq!(address.recalled("2001:db8::9").unwrap(), "2001:db8::/64");
        assert_eq!(address.recalled("2001:db8::/64").unwrap(), "2001:db8::/64");
        assert_eq!(address.recalled("nobody"), None);
        let key = namer(&["api_key"]);
        assert_eq!(key.recalled("alice").unwrap(), "key=alice");
        assert_eq!(key.recalled("key=alice").unwrap(), "key=alice");
        assert_eq!(key.recalled("a b").unwrap(), "key=a%20b");
        assert_eq!(key.recalled("a%20b").unwrap(), "key=a%20b");
        let both = namer(&["api_key", "address"]);
        assert_eq!(both.recalled("alice,192.0.2.1").unwrap(), "key=alice,192.0.2.1");
        assert_eq!(both.recalled("alice"), None);
        assert_eq!(both.recalled("a,b,c"), None);
    }
}
