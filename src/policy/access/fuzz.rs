//! What is promised of anything that somebody shows, for fuzzing and property tests.

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use aws_lc_rs::hmac;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::header;

use super::basic::Given;
use super::digest::Digest;
use super::jwt;
use super::jwt::Tokens;
use super::keys::X_API_KEY;
use super::keys::letters;
use super::keys::parse_keys;
use super::keys::scope::Deed;
use super::keys::scope::Scope;
use super::shown::Shown;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Whatever is shown is a key, a token, or neither, and panics nobody; a token that holds has the signature that its
/// secret makes; a line that is a key is one again; and no path is in a scope that leads out of it.
pub(crate) fn access(data: &[u8]) {
    let _any = Shown::at_proxy(Given::new([data]), 1024);
    if let Ok(value) = HeaderValue::from_bytes(data) {
        for name in [&X_API_KEY, &header::AUTHORIZATION] {
            let mut fields = HeaderMap::new();
            fields.insert(name, value.clone());
            let (shown, field) = Shown::at_gateway(&fields, Some(&X_API_KEY));
            assert!((shown == Shown::Nothing) == field.is_none(), "{value:?}");
        }
    }
    token(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _keys = parse_keys(text, true);
    let mut lines = text.lines();
    let (Some(scope), Some(path)) = (lines.next(), lines.next()) else { return };
    let Ok(scope) = scope.parse::<Scope>() else { return };
    assert_eq!(scope.to_string().parse::<Scope>().as_ref(), Ok(&scope));
    let line = format!("a sha256:{} scopes={scope}", Digest::of(data).hex());
    let keys = parse_keys(&line, false).unwrap_or_default();
    assert_eq!(keys.len(), 1, "{line}");
    let deed = Deed { api: "a", method: &Method::GET, path: Some(path) };
    if let Scope::Requests(_, Some(prefix)) = &scope
        && keys[0].opens(deed)
    {
        for depth in 0..4 {
            let led = resolved(path, depth);
            assert!(led == **prefix || led.starts_with(&format!("{prefix}/")), "{scope}: {led}");
        }
    }
}

/// Where a path leads for a server that unescapes it so often, and then resolves its dot segments.
fn resolved(path: &str, depth: usize) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..depth {
        let mut read = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
            let byte = pair.filter(|pair| !pair.starts_with('+'));
            let byte = byte.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            match byte.filter(|_| bytes[at] == b'%') {
                Some(byte) => read.push(byte),
                None => read.push(bytes[at]),
            }
            at += if bytes[at] == b'%' && byte.is_some() { 3 } else { 1 };
        }
        bytes = read;
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/').skip(1) {
        match segment.split(';').next().unwrap_or_default() {
            ".." => drop(segments.pop()),
            "." => {}
            _ => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn token(data: &[u8]) {
    static TOKENS: OnceLock<Arc<Tokens>> = OnceLock::new();
    // So that no address has shown too many.
    static ADDRESS: AtomicU64 = AtomicU64::new(0);
    let tokens = TOKENS.get_or_init(|| {
        let secret = Some(jwt::Secret::new(SECRET));
        let settings =
            jwt::Settings { secret, required_claims: Vec::new(), ..jwt::Settings::default() };
        Tokens::new("a", &settings, None)
    });
    let address = u128::from(ADDRESS.fetch_add(1, Relaxed)) << 64;
    let address = IpAddr::V6(Ipv6Addr::from(address));
    if tokens.find(data, Digest::of(data), address).is_ok() {
        let at = data.iter().rposition(|byte| *byte == b'.').unwrap_or_default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let signed = letters(hmac::sign(&key, &data[..at]).as_ref());
        assert_eq!(&data[at + 1..], signed.as_bytes());
    }
}
