//! A kept response, the variants of one resource, and their form as bytes.
//!
//! What is kept is the final response of an origin as it was when fields of the hop had been taken
//! out. Whether it may be kept, and whether it may still be used, is decided elsewhere. The form as
//! bytes is for Redis, which other versions of narrows share: it begins with the number of its
//! version, and what has another is no entry.
//!
//! Invariants: each byte of each field is kept, and two heads that differ have two forms. Whatever
//! bytes come back, they become an entry or none; nothing panics, and nothing takes more memory than
//! they do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;

/// Variants of one resource that are kept; of more, the oldest goes.
pub(crate) const VARIANTS: usize = 16;
/// The version of the form.
const VERSION: u8 = 1;
/// What an entry costs beside its bytes: about what its structures and its place in a table take.
const OVERHEAD: usize = 512;
/// What a field costs beside its bytes.
const PER_FIELD: usize = 64;

/// What two requests have in common that one kept response may answer: a digest (SHA-256) of the API's
/// name and all that tells resources apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl Key {
    /// The key of this text, as it is displayed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [hex(pair[0])?, hex(pair[1])?];
            *byte = high << 4 | low;
        }
        Some(Self(key))
    }
}

/// Lower case alone: a key has one text.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Which requests a response is for: each field that its Vary nominates (RFC 9111 §4.1), with the values
/// that the request had, in the form in which they are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vary(pub(crate) Vec<(HeaderName, Vec<HeaderValue>)>);

impl Vary {
    /// Its form as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut form = Writer(Vec::new());
        form.vary(self);
        form.0
    }

    /// What has this form; none for anything else.
    pub(crate) fn decode(form: &[u8]) -> Option<Self> {
        let mut form = Reader(form);
        form.vary().filter(|_| form.0.is_empty())
    }
}

/// All of a kept response but its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The method that it answers.
    pub(crate) method: Method,
    pub(crate) status: StatusCode,
    /// Without those of the hop.
    pub(crate) fields: HeaderMap,
    /// When its request was sent, by the wall clock of who sent it.
    pub(crate) asked: SystemTime,
    /// When its head had come.
    pub(crate) answered: SystemTime,
    pub(crate) vary: Vary,
    /// For how long it is fresh, from when it was made at the origin, as was decided when it was stored.
    pub(crate) lifetime: Duration,
    /// For how long after `answered` it may be of any use, if only to be validated: what is kept longer
    /// wastes room.
    pub(crate) keep: Duration,
    pub(crate) terms: Terms,
}

/// What else was decided of a response when it was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Its age when it came (RFC 9111 §4.2.3, `corrected_initial_age`).
    pub(crate) initial_age: Duration,
    /// It is asked about each time, fresh or not.
    pub(crate) is_always_validated: bool,
    /// Nothing forbids that it is used when it is stale.
    pub(crate) may_be_stale: bool,
    /// For how long beyond its lifetime it may be used while it is asked for anew (RFC 5861 §3).
    pub(crate) while_revalidated: Duration,
    /// The same where asking anew fails (RFC 5861 §4).
    pub(crate) if_error: Duration,
}

/// A kept response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) head: Arc<Head>,
    /// Whole.
    pub(crate) body: Bytes,
}

impl Entry {
    /// About how much memory it takes.
    pub(crate) fn size(&self) -> usize {
        self.head.size() + self.body.len()
    }
}

impl Head {
    /// How old it is (RFC 9111 §4.2.3, `current_age`).
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        // A clock that was put back makes nothing younger than it came.
        self.terms.initial_age + now.duration_since(self.answered).unwrap_or_default()
    }

    /// Whether it can be asked whether it still holds (RFC 9111 §4.3.1).
    pub(crate) fn has_validator(&self) -> bool {
        self.fields.contains_key(header::ETAG) || self.fields.contains_key(header::LAST_MODIFIED)
    }

    /// About how much memory it takes.
    pub(crate) fn size(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.as_str().len() + value.len());
        let fields: usize = fields.map(|length| length + PER_FIELD).sum();
        let vary = self.vary.0.iter().map(|(name, values)| {
            let values: usize = values.iter().map(|value| value.len() + PER_FIELD).sum();
            name.as_str().len() + values + PER_FIELD
        });
        OVERHEAD + fields + vary.sum::<usize>()
    }

    /// Its form as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut form = Writer(Vec::with_capacity(self.size()));
        form.0.push(VERSION);
        form.bytes(self.method.as_str().as_bytes());
        form.0.extend(self.status.as_u16().to_be_bytes());
        for time in [self.asked, self.answered] {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            form.duration(since);
        }
        form.duration(self.lifetime);
        form.duration(self.keep);
        let Terms { initial_age, is_always_validated, may_be_stale, while_revalidated, if_error } =
            self.terms;
        form.duration(initial_age);
        form.0.push(u8::from(is_always_validated) << 1 | u8::from(may_be_stale));
        form.duration(while_revalidated);
        form.duration(if_error);
        form.vary(&self.vary);
        for (name, value) in &self.fields {
            form.bytes(name.as_str().as_bytes());
            form.bytes(value.as_bytes());
        }
        form.0
    }

    /// The head of this form; none for anything else.
    pub(crate) fn decode(form: &[u8]) -> Option<Self> {
        let mut form = Reader(form);
        if form.take(1)? != [VERSION] {
            return None;
        }
        let method = Method::from_bytes(form.bytes()?).ok()?;
        let status = u16::from_be_bytes(form.array()?);
        let status = StatusCode::from_u16(status).ok()?;
        let mut times = [SystemTime::UNIX_EPOCH; 2];
        for time in &mut times {
            *time = time.checked_add(form.duration()?)?;
        }
        let [asked, answered] = times;
        let (lifetime, keep, initial_age) = (form.duration()?, form.duration()?, form.duration()?);
        let [flags @ 0..4] = form.array()? else { return None };
        let (while_revalidated, if_error) = (form.duration()?, form.duration()?);
        let (is_always_validated, may_be_stale) = (flags & 2 != 0, flags & 1 != 0);
        let terms =
            Terms { initial_age, is_always_validated, may_be_stale, while_revalidated, if_error };
        let vary = form.vary()?;
        let mut fields = HeaderMap::new();
        while !form.0.is_empty() {
            let (name, value) = (form.name()?, form.value()?);
            fields.try_append(name, value).ok()?;
        }
        Some(Self { method, status, fields, asked, answered, vary, lifetime, keep, terms })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: usize) {
        // A head that long was refused when it came.
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.0.extend(number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend(bytes);
    }

    fn vary(&mut self, vary: &Vary) {
        self.number(vary.0.len());
        for (name, values) in &vary.0 {
            self.bytes(name.as_str().as_bytes());
            self.number(values.len());
            for value in values {
                self.bytes(value.as_bytes());
            }
        }
    }

    fn duration(&mut self, duration: Duration) {
        self.0.extend(duration.as_secs().to_be_bytes());
        self.0.extend(duration.subsec_nanos().to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    fn name(&mut self) -> Option<HeaderName> {
        HeaderName::from_lowercase(self.bytes()?).ok()
    }

    fn value(&mut self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.bytes()?).ok()
    }

    fn vary(&mut self) -> Option<Vary> {
        let mut vary = Vec::new();
        for _ in 0..self.number()? {
            let name = self.name()?;
            let mut values = Vec::new();
            for _ in 0..self.number()? {
                values.push(self.value()?);
            }
            vary.push((name, values));
        }
        Some(Vary(vary))
    }

    fn duration(&mut self) -> Option<Duration> {
        let seconds = u64::from_be_bytes(self.array()?);
        let nanos = u32::from_be_bytes(self.array()?);
        // More would be carried over: another form of the same time.
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }
}

/// What is kept under one key: the newest first, no two for the same requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variants(Vec<Arc<Entry>>);

impl Variants {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one more, which takes the place of the one for the same requests, or of the oldest where
    /// there are [`VARIANTS`] already.
    #[must_use]
    pub(crate) fn with(&self, entry: Arc<Entry>) -> Self {
        let others = self.0.iter().filter(|other| other.head.vary != entry.head.vary);
        let others: Vec<Arc<Entry>> = others.take(VARIANTS - 1).cloned().collect();
        Self([vec![entry], others].concat())
    }

    /// About how much memory they take.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|entry| entry.size()).sum()
    }
}

/// For fuzzing: whatever bytes there are, they are the form of one head or of none, and that head's form
/// is read as the same again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some(head) = Head::decode(data) else { return };
    let form = head.encode();
    assert_eq!(Head::decode(&form).as_ref(), Some(&head));
    assert_eq!(form.len(), data.len(), "nothing is left out, but fields of one name may move");
    for cut in 0..form.len().min(64) {
        if let Some(short) = Head::decode(&form[..cut]) {
            assert_ne!(short, head, "a part is not the whole");
        }
    }
    assert!(head.size() >= form.len() / 2);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        Head {
            method: Method::GET,
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            asked: at(1_700_000_000_123),
            answered: at(1_700_000_000_456),
            vary: Vary::default(),
            lifetime: Duration::from_mins(1),
            keep: Duration::from_hours(1),
            terms: Terms::default(),
        }
    }

    fn entry(language: &str, body: &'static str) -> Arc<Entry> {
        let value = HeaderValue::from_str(language).unwrap();
        let vary = Vary(vec![(header::ACCEPT_LANGUAGE, vec![value])]);
        let head = Arc::new(Head { vary, ..head() });
        Arc::new(Entry { head, body: Bytes::from_static(body.as_bytes()) })
    }

    fn name() -> impl Strategy<Value = HeaderName> {
        "[a-z0-9!#$%&'*+.^_`|~-]{1,12}".prop_map(|name| name.parse().unwrap())
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        let byte = prop_oneof![0x20..=0x7e_u8, 0x80..=0xff_u8, Just(b'\t')];
        prop::collection::vec(byte, 0..40)
            .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
    }

    prop_compose! {
        fn any_head()(
            method in "[A-Z!]{1,10}",
            status in 100..1000_u16,
            fields in prop::collection::vec((name(), value()), 0..20),
            vary in prop::collection::vec((name(), prop::collection::vec(value(), 0..3)), 0..4),
            times in any::<[u32; 2]>(),
            spans in any::<[u64; 2]>(),
            flags in any::<[bool; 2]>(),
            nanos in 0..1_000_000_000_u32,
        ) -> Head {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::new(u64::from(seconds), nanos);
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(name, value);
            }
            Head {
                method: method.parse().unwrap(),
                status: StatusCode::from_u16(status).unwrap(),
                fields: map,
                asked: at(times[0]),
                answered: at(times[1]),
                vary: Vary(vary),
                lifetime: Duration::from_secs(spans[0]),
                keep: Duration::new(spans[1], nanos),
                terms: Terms {
                    initial_age: Duration::from_secs(spans[1]),
                    is_always_validated: flags[0],
                    may_be_stale: flags[1],
                    while_revalidated: Duration::new(spans[0], nanos),
                    if_error: Duration::from_secs(spans[0]),
                },
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_head_comes_back_from_its_form_byte_for_byte(head in any_head()) {
            let form = head.encode();
            prop_assert_eq!(Head::decode(&form), Some(head));
            for end in (0..form.len()).rev().take(50) {
                // At the end of a field it is a head with fewer of them; nowhere is it the same.
                prop_assert_ne!(Head::decode(&form[..end]), Head::decode(&form));
            }
        }

        #[test]
        fn two_heads_have_two_forms(one in any_head(), other in any_head()) {
            prop_assert_eq!(one == other, one.encode() == other.encode());
        }

        #[test]
        fn any_bytes_are_an_entry_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
            fuzz(&[&[VERSION], bytes.as_slice()].concat());
        }
    }

    #[test]
    fn which_requests_it_is_for_comes_back_from_its_form() {
        let vary = &entry("de", "").head.vary;
        let form = vary.encode();
        assert_eq!(Vary::decode(&form).as_ref(), Some(vary));
        assert_eq!(Vary::decode(&form[1..]), None);
        assert_eq!(Vary::decode(&[form.as_slice(), b"x"].concat()), None);
    }

    #[test]
    fn what_another_version_wrote_is_none() {
        let mut form = head().encode();
        assert!(Head::decode(&form).is_some());
        form[0] = VERSION + 1;
        assert_eq!(Head::decode(&form), None);
    }

    #[test]
    fn a_key_has_one_text() {
        let key = Key(std::array::from_fn(|at| u8::try_from(at * 8).unwrap()));
        let text = key.to_string();
        assert_eq!(Key::parse(&text), Some(key));
        assert_eq!(Key::parse(&text.to_uppercase()), None);
        assert_eq!(Key::parse(&text[1..]), None);
        assert_eq!(Key::parse(&text.replace("18", "é")), None);
    }

    #[test]
    fn a_new_variant_takes_the_place_of_its_like_and_stands_first() {
        let variants = Variants::default().with(entry("en", "one")).with(entry("de", "zwei"));
        let variants = variants.with(entry("en", "two"));
        let bodies: Vec<_> = variants.iter().map(|entry| entry.body.clone()).collect();
        assert_eq!(bodies, ["two", "zwei"]);
    }

    #[test]
    fn there_are_no_more_variants_than_may_be() {
        let mut variants = Variants::default();
        for number in 0..VARIANTS * 2 {
            variants = variants.with(entry(&number.to_string(), "body"));
        }
        assert_eq!(variants.iter().count(), VARIANTS);
        let first = variants.iter().next().unwrap();
        assert_eq!(*first, entry(&(VARIANTS * 2 - 1).to_string(), "body"));
        assert_eq!(variants.size(), VARIANTS * first.size());
    }

    #[test]
    fn the_size_counts_heads_and_bodies() {
        let mut large = head();
        large.fields.insert("x", HeaderValue::from_str(&"x".repeat(5000)).unwrap());
        let entry = Entry { head: Arc::new(large), body: Bytes::from_static(&[0; 1000]) };
        assert!((6000..7000).contains(&entry.size()), "{}", entry.size());
    }
}
