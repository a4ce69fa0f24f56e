//! What of a value may be told: in problems, and by `narrows config`.
//!
//! SECURITY: what came from a variable, the userinfo of a URL, and whatever a row of a table calls
//! secret is told to nobody.

/// Fields whose values say nothing that anybody would hide.
const PLAIN_FIELDS: [&str; 7] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-type",
    "pragma",
    "user-agent",
];

/// What stands in the place of a secret.
pub(crate) const SECRET: &str = "(secret)";

/// A value in quotation marks, or what stands in its place.
pub(crate) fn told(text: &str, secret: bool, referred: bool) -> String {
    if secret || referred { SECRET.to_owned() } else { format!("{:?}", url(text)) }
}

/// Text without the userinfo of a URL, should it be one that has some.
pub(crate) fn url(text: &str) -> String {
    // Up to the last @: a password may hold what should have been escaped.
    let Some((before, rest)) = text.rsplit_once('@') else { return text.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://***@{rest}"),
        None => format!("***@{rest}"),
    }
}

/// The value of a field, if it may be told.
pub(crate) fn field<'v>(name: &str, value: &'v str, referred: bool) -> &'v str {
    let is_plain = PLAIN_FIELDS.iter().any(|plain| plain.eq_ignore_ascii_case(name));
    if is_plain && !referred { value } else { SECRET }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_a_password() {
        assert_eq!(url("http://a.test/x@y"), "http://***@y");
        assert_eq!(url("http://u:p@a.test:1/x"), "http://***@a.test:1/x");
        assert_eq!(url("http://u:p/w@a.test"), "http://***@a.test");
        assert_eq!(url("http://u:p@w@a.test"), "http://***@a.test");
        assert_eq!(url("http://a.test"), "http://a.test");
        assert_eq!(url("u:p@a.test"), "***@a.test");
        assert_eq!(told("x", true, false), SECRET);
        assert_eq!(told("x", false, true), SECRET);
        assert_eq!(told("x", false, false), "\"x\"");
    }

    #[test]
    fn fields_are_told_if_they_are_known_to_be_harmless() {
        assert_eq!(field("Accept", "text/html", false), "text/html");
        assert_eq!(field("Accept", "text/html", true), SECRET);
        assert_eq!(field("X-Api-Key", "1", false), SECRET);
    }
}
