//! Which of the responses to one URI a request gets (RFC 9111 §4.1).

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

use super::entry::Vary;

/// What Vary says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// The response was chosen by these fields, or by none; sorted, each once.
    By(Vec<HeaderName>),
    /// Nobody knows by what, or it cannot be read: it answers no other request.
    Unknown,
}

impl Chosen {
    /// What the fields of a response say.
    pub(crate) fn of(fields: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in fields.get_all(header::VARY) {
            for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if member.is_empty() {
                    continue;
                }
                // `*` is a token too; but no field has that name.
                match HeaderName::from_bytes(member) {
                    Ok(name) if name != "*" => names.push(name),
                    Ok(_) | Err(_) => return Self::Unknown,
                }
            }
        }
        names.sort_unstable_by(|one: &HeaderName, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        Self::By(names)
    }
}

/// The values in normal form: lines in one, without what whitespace stands around commas. None where
/// there are none.
pub(crate) fn value<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Option<HeaderValue> {
    let mut lines = lines.into_iter();
    let first = lines.next()?;
    let mut normal = Vec::with_capacity(first.len());
    let mut is_first = true;
    for line in std::iter::once(first).chain(lines) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            if !is_first {
                normal.push(b',');
            }
            is_first = false;
            normal.extend_from_slice(member.trim_ascii());
        }
    }
    // What was taken out and put in leaves values of a field.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(normal)).ok()
}

/// The fields of a request that were nominated. `seen` says whether the origin sees a field of the
/// client's at all.
pub(crate) fn nominate(
    names: &[HeaderName],
    fields: &HeaderMap,
    seen: impl Fn(&HeaderName) -> bool,
) -> Vary {
    let nominate = |name: &HeaderName| {
        let value = if seen(name) { value(fields.get_all(name)) } else { None };
        (name.clone(), Vec::from_iter(value))
    };
    Vary(names.iter().map(nominate).collect())
}

/// Whether a request has the same values in the nominated fields.
pub(crate) fn matches(
    nominated: &Vary,
    fields: &HeaderMap,
    seen: impl Fn(&HeaderName) -> bool,
) -> bool {
    nominated.0.iter().all(|(name, wanted)| {
        let mut lines = fields.get_all(name).iter().filter(|_| seen(name));
        match (wanted.first(), lines.next()) {
            (None, None) => true,
            // PERF: mostly the value is in normal form as it comes.
            (Some(wanted), Some(first)) => {
                first == wanted && lines.next().is_none()
                    || value(fields.get_all(name)).as_ref() == Some(wanted)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn vary_names_fields_in_one_line_or_several_and_a_star_is_none() {
        let names = |names: &[&'static str]| {
            Chosen::By(names.iter().map(|name| HeaderName::from_static(name)).collect())
        };
        for (lines, wanted) in [
            (&[][..], names(&[])),
            (&["Accept"], names(&["accept"])),
            (&["Origin, accept", "ACCEPT ,, cookie"], names(&["accept", "cookie", "origin"])),
            (&["*"], Chosen::Unknown),
            (&["accept, *"], Chosen::Unknown),
            (&["accept", "*"], Chosen::Unknown),
            (&["not a name"], Chosen::Unknown),
            (&[""], names(&[])),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(header::VARY, HeaderValue::from_static(line));
            }
            assert_eq!(Chosen::of(&fields), wanted, "{lines:?}");
        }
    }

    #[test]
    fn a_request_matches_if_what_was_nominated_is_the_same_but_for_form() {
        for (kept, asked, is_same) in [
            (&[("x-a", "1")][..], &[("x-a", "1")][..], true),
            (&[("x-a", "1")], &[("x-a", "2")], false),
            (&[("x-a", "1")], &[], false),
            (&[], &[("x-a", "")], false),
            (&[], &[], true),
            (&[("x-a", "1, 2")], &[("x-a", "1"), ("x-a", "2")], true),
            (&[("x-a", "1,2")], &[("x-a", "1 ,\t2 ")], true),
            (&[("x-a", "1, 2")], &[("x-a", "2, 1")], false),
            (&[("x-a", "1")], &[("x-a", "1"), ("x-a", "1")], false),
            (&[("x-a", "a")], &[("x-a", "A")], false),
            // Whatever else differs.
            (&[("x-a", "1"), ("x-b", "1")], &[("x-a", "1"), ("x-b", "2")], true),
        ] {
            let names = [HeaderName::from_static("x-a")];
            let nominated = nominate(&names, &fields(kept), |_| true);
            assert_eq!(
                matches(&nominated, &fields(asked), |_| true),
                is_same,
                "{kept:?} {asked:?}"
            );
        }
    }

    #[test]
    fn a_field_that_the_origin_does_not_see_makes_no_difference() {
        let names = [HeaderName::from_static("x-a")];
        let nominated = nominate(&names, &fields(&[("x-a", "1")]), |_| false);
        assert_eq!(nominated, Vary(vec![(names[0].clone(), Vec::new())]));
        assert!(matches(&nominated, &fields(&[("x-a", "2")]), |_| false));
        assert!(!matches(&nominated, &fields(&[("x-a", "2")]), |_| true));
    }
}
