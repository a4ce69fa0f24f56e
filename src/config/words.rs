//! What the text of a single setting may be: numbers, ports, times, addresses, files.
//!
//! Each reads one text, and errs with what is allowed. What settings must be to each other is decided
//! where they are read.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::units;
use crate::base::authority::Host;
use crate::limit::rules::Limit;
use crate::limit::shared::Failure;
use crate::policy::Mode;
use crate::store::Secret;
use crate::telemetry::access::Target;
use crate::telemetry::trace;
use crate::upstream::Pinned;
use crate::upstream::Resolver;

pub(super) fn whole<T: TryFrom<u64>>(
    text: &str,
    from: u64,
    to: u64,
    note: &str,
) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse::<u64>().ok() } else { None };
    number
        .filter(|number| (from..=to).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("a whole number from {from}{note} to {to}"))
}

pub(super) fn mode(text: &str) -> Result<Mode, &'static str> {
    Mode::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or("enforce or observe")
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    whole(text, 0, 65535, " (any free port)")
}

pub(super) fn port_or_off(text: &str) -> Result<Option<u16>, String> {
    if text == "off" {
        return Ok(None);
    }
    port(text).map(Some).map_err(|allowed| format!("off, or {allowed}"))
}

pub(super) fn limit(text: &str) -> Result<Limit, String> {
    whole(text, 0, u32::MAX.into(), " (unlimited)")
}

pub(super) fn bare(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

pub(super) fn ip(text: &str) -> Result<IpAddr, &'static str> {
    bare(text).parse().map_err(|_unparsed| "an IP address, such as 127.0.0.1, 0.0.0.0 or ::")
}

pub(super) fn some_time(text: &str) -> Result<Duration, &'static str> {
    match units::duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("a time above 0 and up to 365d, such as 10s, 500ms, 1m30s or 2h"),
    }
}

/// Zero and "off" are a time so long that it never ends, so that nobody needs a second case.
pub(super) fn time_or_off(text: &str) -> Result<Duration, &'static str> {
    match units::duration(text) {
        Ok(Duration::ZERO) => Ok(units::LONGEST),
        Ok(time) => Ok(time),
        Err(_) if text == "off" => Ok(units::LONGEST),
        Err(_) => Err("off, or a time up to 365d, such as 10s, 500ms, 1m30s or 2h"),
    }
}

/// A pseudonym in Via is a token (RFC 9110 §7.6.3, §5.6.2).
pub(super) fn via(text: &str) -> Result<Option<String>, &'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match text {
        "off" => Ok(None),
        _ if text.bytes().all(is_token) => Ok(Some(text.to_owned())),
        _ => Err("off, or a name of letters, digits and !#$%&'*+-.^_`|~"),
    }
}

/// As a field of a request can carry it.
pub(super) fn token(text: &str) -> Result<Secret, &'static str> {
    if (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Secret(text.to_owned()));
    }
    Err("1 to 512 visible ASCII characters")
}

pub(super) fn token_file(path: &str) -> Result<Secret, String> {
    token(&line_of(path)?).map_err(|allowed| format!("a file with one line of {allowed}"))
}

/// What a short file holds, without the end of its line.
pub(super) fn line_of(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    read.map_err(|error| format!("a file that can be read ({error})"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(super) fn failure(text: &str) -> Result<Failure, &'static str> {
    match text {
        "closed" => Ok(Failure::Closed),
        "open" => Ok(Failure::Open),
        "share" => Ok(Failure::Share),
        _ => Err("closed, share or open"),
    }
}

pub(super) fn resolver(text: &str) -> Result<Resolver, &'static str> {
    if text == "system" {
        return Ok(Resolver::System);
    }
    let server = text.parse().or_else(|_| bare(text).parse().map(|ip| SocketAddr::new(ip, 53)));
    match server {
        Ok(server) if server.port() != 0 => Ok(Resolver::Server(server)),
        _ => Err("system, or the IP address of a DNS server, such as 1.1.1.1 or [::1]:5353"),
    }
}

pub(super) fn pinned(text: &str) -> Result<Pinned, &'static str> {
    let wrong = "HOST=ADDR or HOST:PORT=ADDR, with the name of a host and an IP address";
    let (name, address) = text.rsplit_once('=').ok_or(wrong)?;
    let (name, port) = match name.split_once(':') {
        None => (name, None),
        Some((name, port)) => (name, Some(whole(port, 1, 65535, "").map_err(|_why| wrong)?)),
    };
    match Host::parse(name.trim()) {
        Ok(Host::Name(host)) => {
            let address = bare(address.trim()).parse().map_err(|_why| wrong)?;
            Ok(Pinned { host: host.to_string(), port, address })
        }
        Ok(Host::Address(_)) | Err(_) => Err(wrong),
    }
}

pub(super) fn authorities(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let certificates = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("a PEM file of certificates ({error})"))?;
    if certificates.is_empty() {
        return Err("a PEM file of certificates (it holds none)".to_owned());
    }
    Ok(path)
}

pub(super) fn level(text: &str) -> Result<tracing::Level, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "error" => Ok(tracing::Level::ERROR),
        "warn" | "warning" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("error, warn, info, debug or trace"),
    }
}

pub(super) fn format(text: &str) -> Result<trace::Format, &'static str> {
    match text {
        "json" => Ok(trace::Format::Json),
        "text" => Ok(trace::Format::Text),
        _ => Err("text or json"),
    }
}

pub(super) fn target(text: &str) -> Result<Target, &'static str> {
    match text {
        "off" => Ok(Target::Off),
        "stderr" => Ok(Target::Stderr),
        "stdout" => Ok(Target::Stdout),
        _ => {
            let path = Path::new(text);
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            // Checked here so that a misspelt path is a problem like any other.
            let is_there =
                |path| fs::metadata(path).is_ok_and(|found: fs::Metadata| found.is_dir());
            if is_there(folder) && !is_there(path) {
                return Ok(Target::File(path.to_owned()));
            }
            Err("off, stderr, stdout, or a file in a folder that is there")
        }
    }
}
