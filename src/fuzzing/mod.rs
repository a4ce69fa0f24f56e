//! What fuzzing and property tests call: one function for each target, of any bytes, that panics when
//! a promise is broken. Not a part of the library: it is here with the feature `fuzzing` alone.
//!
//! `fuzz/` (cargo-fuzz) and the tests below call the same functions, and begin with the same files,
//! `fuzz/corpus/<target>/`. What they judge by is [`reading`], which shares no line with the parsers.

mod forwarded;
pub(crate) mod reading;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::IpAddr;

pub use self::forwarded::forwarded;
use crate::base::authority::Authority;
use crate::base::authority::BadAuthority;
use crate::base::authority::Host;
use crate::base::authority::HostKey;
use crate::config::Command;
use crate::config::Config;
pub use crate::proxy::fuzz::headers;
pub use crate::proxy::fuzz::request;
pub use crate::upstream::screen::fuzz::response;

/// A target's name, and what is called.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("authority", authority),
    ("config", config),
    ("forwarded", forwarded),
    ("headers", headers),
    ("request", request),
    ("response", response),
];

/// An authority says one thing only: its own text is read as the same again, has one key, and no text
/// holds what a log line, a Redis key or a DNS message would mind.
pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for default in [None, Some(80), Some(443)] {
        let Ok(authority) = Authority::parse(text, default) else { continue };
        let again = authority.to_string();
        assert_eq!(Authority::parse(&again, None).as_ref(), Ok(&authority), "{text:?}");
        assert_ne!(authority.port_number(), 0, "{text:?}");
        assert!(!text.contains('@'), "{text:?}");
        let key = authority.key().as_str();
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        assert!(key.bytes().all(is_sound) && key == key.to_ascii_lowercase(), "{key:?}");
        assert_eq!(HostKey::parse(key).as_ref(), Ok(authority.key()), "{text:?}");
        match authority.host() {
            Host::Name(name) => {
                assert!(name.len() <= 253 && name.parse::<IpAddr>().is_err(), "{name:?}");
            }
            Host::Address(IpAddr::V6(address)) => {
                assert_eq!(address.to_ipv4_mapped(), None, "one address has one form");
            }
            Host::Address(IpAddr::V4(_)) => {}
        }
    }
    if Authority::parse(text, None).is_ok() {
        // What may go without a port is what may go with one.
        assert_ne!(Authority::parse(text, Some(80)), Err(BadAuthority::NoPort));
    }
}

/// Whatever the command line and the variables hold, they become settings or problems in words. A line
/// of the input is a word, or a variable if it has the form `NAME=value` in capitals.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let mut words = vec![OsString::from("narrows")];
    let mut variables = Vec::new();
    for line in text.lines() {
        match line.split_once('=') {
            Some((name, value)) if is_name(name) => variables.push((name.into(), value.into())),
            // They name files, which are none of this.
            _ if line.contains("file") || line.contains('/') => {}
            _ => words.push(line.into()),
        }
    }
    match Config::read(words, variables) {
        Ok(Command::Serve(serve)) => {
            let config = serve.config;
            assert!(config.listen.threads >= 1);
            assert!((400..600).contains(&config.proxy.refuse_status));
        }
        Ok(_) => {}
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| !problem.trim().is_empty()));
        }
    }
}
