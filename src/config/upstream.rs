//! The settings that bound what upstreams may do.

use super::bounds::bytes;
use super::flags;
use super::some_time;
use super::source::Noted;
use super::source::Source;
use super::whole;
use crate::base::framing::MAX_CHUNK_EXTRAS;
use crate::upstream::Bounds;
use crate::upstream::screen;

pub(super) fn bounds(source: &mut Source<'_>) -> Result<Bounds, Noted> {
    let addresses = source.read(&flags::MAX_ADDRESSES, |text| whole(text, 1, 1000, ""));
    let head = source.read(&flags::MAX_RESPONSE_HEAD, |text| bytes(text, 1024, 256 * 1024));
    let fields = source.read(&flags::MAX_RESPONSE_FIELDS, |text| whole(text, 1, 1000, ""));
    let extra = |text: &str| bytes(text, 0, MAX_CHUNK_EXTRAS.into());
    let extensions = source.read(&flags::MAX_RESPONSE_CHUNK_EXTENSIONS, extra);
    let trailers = source.read(&flags::MAX_RESPONSE_TRAILERS, extra);
    let tls_timeout = source.read(&flags::TLS_TIMEOUT, some_time);
    let responses = screen::Bounds {
        head: head? as usize,
        fields: fields?,
        extensions: extensions?,
        trailers: trailers?,
    };
    Ok(Bounds { tls_timeout: tls_timeout?, addresses: addresses?, responses })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::Command;
    use super::super::Config;

    fn read(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["narrows"].iter().chain(arguments).map(OsString::from);
        let command = Config::read(arguments, []).map_err(|problems| problems.to_string())?;
        let Command::Serve(serve) = command else { return Err(format!("{command:?}")) };
        Ok(serve.config)
    }

    #[test]
    fn bounds_on_upstreams_are_read() {
        let bounds = read(&[
            "--max-addresses=1",
            "--max-response-head=1KiB",
            "--max-response-fields=1000",
            "--max-response-chunk-extensions=0",
            "--max-response-trailers=16384",
            "--tls-timeout=3s",
        ])
        .unwrap()
        .upstream
        .bounds;
        assert_eq!((bounds.addresses, bounds.tls_timeout.as_secs()), (1, 3));
        let responses = bounds.responses;
        assert_eq!((responses.head, responses.fields), (1024, 1000));
        assert_eq!((responses.extensions, responses.trailers), (0, 16384));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_what_is_allowed() {
        for (argument, allowed) in [
            ("--max-addresses=0", "a whole number from 1 to 1000"),
            ("--max-response-head=1023", "a number of bytes from 1024 to 262144"),
            ("--max-response-head=64k", "a number of bytes from 1024 to 262144"),
            ("--max-response-fields=1001", "a whole number from 1 to 1000"),
            ("--max-response-chunk-extensions=16385", "a number of bytes from 0 to 16384"),
            ("--max-response-trailers=-1", "a number of bytes from 0 to 16384"),
            ("--tls-timeout=0", "a time above 0"),
        ] {
            let problem = read(&[argument]).unwrap_err();
            let name = argument.split('=').next().unwrap();
            assert!(problem.contains(name) && problem.contains(allowed), "{argument}: {problem}");
        }
    }
}
