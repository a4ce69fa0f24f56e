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
use crate::config::said_of;
use crate::listen::proxy_protocol as header;
use crate::policy::cache::entry;
use crate::proxy::fuzz;
use crate::proxy::fuzz::Verdict;
pub use crate::proxy::fuzz::headers;
pub use crate::upstream::screen::fuzz::response;

/// A target's name, and what is called.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("access", access),
    ("authority", authority),
    ("config", config),
    ("config_file", config_file),
    ("forwarded", forwarded),
    ("headers", headers),
    ("kept", kept),
    ("proxy_protocol", proxy_protocol),
    ("request", request),
    ("response", response),
];

/// Whatever somebody shows is a key, a token, or neither; a token that holds has the signature that its secret
/// makes, and no path is in a scope that leads out of it.
pub fn access(data: &[u8]) {
    crate::policy::access::fuzz::access(data);
}

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

/// Whatever a config file or an expression of `--set` holds, it becomes settings or problems in words, each
/// of which says where; and no part of what is said is the value of a variable.
pub fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let said = said_of(text);
    assert!(said.iter().all(|said| !said.trim().is_empty()));
    let hides = !text.contains("sesame");
    assert!(!hides || said.iter().all(|said| !said.contains("sesame")), "{said:?}");
}

/// Whatever bytes Redis has, they are the head of one kept response or none.
pub fn kept(data: &[u8]) {
    entry::fuzz(data);
}

/// A request is found where it ends, in whatever pieces it comes, and a plain reading of the standard ends
/// it at the same byte.
pub fn request(data: &[u8]) {
    fuzz::request(data);
    let read = reading::request(data);
    match fuzz::verdict(data) {
        Verdict::Message(_, Some(length)) => {
            assert_eq!(read.map(|message| message.length), Ok(length), "the standard");
        }
        Verdict::Message(_, None) => assert_eq!(read, Err(reading::Unread::Partial)),
        Verdict::Connect | Verdict::Partial | Verdict::Refused(_) => {}
    }
}

/// A header of the PROXY protocol ends where it ends, in whatever pieces it comes and whatever follows;
/// what is none stays none; and a line of text says the address that stands in it.
pub fn proxy_protocol(data: &[u8]) {
    let more = [data, b"GET "].concat();
    match header::parse(data) {
        Err(_) => assert!(header::parse(&more).is_err(), "more bytes mend nothing"),
        Ok(None) => assert!(data.len() < header::MAX_HEADER, "somebody waits for ever"),
        Ok(Some((length, source))) => {
            assert!(length <= data.len().min(header::MAX_HEADER));
            assert_eq!(header::parse(&more).ok(), Some(Some((length, source))), "more bytes");
            for cut in [0, 1, length / 2, length - 1] {
                assert!(matches!(header::parse(&data[..cut]), Ok(None)), "at {cut}");
            }
            if let (true, Some(source)) = (data.starts_with(b"PROXY "), source) {
                let line = String::from_utf8_lossy(&data[..length]);
                let words: Vec<&str> = line.trim_end().split(' ').collect();
                assert!(words.len() == 6 && line.ends_with("\r\n"), "{line:?}");
                assert_eq!(words[2].parse(), Ok(source.ip()), "{line:?}");
                assert_eq!(words[4], source.port().to_string(), "{line:?}");
                assert_eq!(words[1] == "TCP6", source.is_ipv6(), "{line:?}");
            }
        }
    }
}
