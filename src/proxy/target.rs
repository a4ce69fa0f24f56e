//! The four forms of a request-target (RFC 9112 §3.2), and what a Host field may hold.
//!
//! Pure, and about shape alone: whether a host is one is decided where it is looked up or dialled,
//! by [`Authority`](crate::base::authority::Authority).

/// The form of a target that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A URL: what a proxy is asked for. `bare` is one without path and query.
    Absolute { bare: bool },
    /// `*`: the server as a whole, which is this one.
    Asterisk,
    /// `host:port`, of a CONNECT.
    Authority,
    /// A path, as to an origin.
    Origin,
}

/// The form of the target of a request with this method, or what is wrong with it.
pub(crate) fn form(method: &str, target: &str) -> Result<Form, &'static str> {
    if method == "CONNECT" {
        return if target.is_ascii() { Ok(Form::Authority) } else { Err("it is not ASCII") };
    }
    let is_options = method == "OPTIONS";
    if is_usual(target) {
        let bare = is_options && !target["http://".len()..].contains(['/', '?']);
        return Ok(Form::Absolute { bare });
    }
    if !target.is_ascii() {
        return Err("it is not ASCII");
    }
    if target.contains('#') {
        return Err("it has a fragment");
    }
    let form = match target.split_once("://") {
        _ if target.starts_with('/') => Form::Origin,
        _ if target == "*" && is_options => Form::Asterisk,
        _ if target == "*" => return Err("* is for OPTIONS alone"),
        None => return Err("it is neither a URL nor a path"),
        Some((scheme, rest)) => {
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return Err("its scheme is neither http nor https");
            }
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            match &rest[..end] {
                "" => return Err("it has no host"),
                // SECURITY: not repeated to anybody, since a password may be in it.
                authority if authority.contains('@') => {
                    return Err("it has userinfo (user@host)");
                }
                _ => Form::Absolute { bare: end == rest.len() },
            }
        }
    };
    match target.parse::<http::Uri>() {
        Ok(_) => Ok(form),
        Err(_) => Err("it is no URI"),
    }
}

/// Whether a target is plainly one that every parser takes. PERF: saves parsing most of them twice.
fn is_usual(target: &str) -> bool {
    let Some(rest) = target.strip_prefix("http://") else { return false };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let in_path =
        |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(&byte);
    !host.is_empty()
        && host.bytes().all(in_host)
        && port.len() <= 5
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && path.bytes().all(in_path)
}

/// Whether a Host field's value is `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2).
///
/// An empty one is, too: it says that the target has no authority.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let in_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let is_sound = match host {
        [b'[', address @ .., b']'] => !address.is_empty() && address.iter().all(in_address),
        [] => port.is_empty() && value.is_empty(),
        name => name.iter().all(in_name),
    };
    is_sound && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_told_from_the_others() {
        let absolute = |bare| Ok(Form::Absolute { bare });
        for (method, target, wanted) in [
            ("GET", "http://h/", absolute(false)),
            ("GET", "HTTPS://[::1]:8443/a?b", absolute(false)),
            ("OPTIONS", "http://h", absolute(true)),
            ("OPTIONS", "https://h", absolute(true)),
            ("OPTIONS", "http://h?q", absolute(false)),
            ("OPTIONS", "*", Ok(Form::Asterisk)),
            ("GET", "/http://h/", Ok(Form::Origin)),
            ("CONNECT", "h:443", Ok(Form::Authority)),
        ] {
            assert_eq!(form(method, target), wanted, "{method} {target}");
        }
        for (method, target) in [
            ("GET", ""),
            ("GET", "*"),
            ("GET", "h:80"),
            ("GET", "ftp://h/"),
            ("GET", "http://"),
            ("GET", "http://?q"),
            ("GET", "http://u@h/"),
            ("GET", "http://u:p@h"),
            ("GET", "http://h/#f"),
            ("GET", "/#f"),
            ("GET", "http://h/\u{e9}"),
            ("CONNECT", "h\u{e9}:443"),
        ] {
            assert!(form(method, target).is_err(), "{method} {target}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in ["h", "h:80", "h:", "1.2.3.4:5", "[::1]", "[::1]:443", "a_b.test", ""] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["u@h", "h/", "http://h", "h:x", "h:123456", "a b", "h,\tg", "[::1", "[]", "::1", ":80"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
