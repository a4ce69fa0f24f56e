//! Who a client is by its certificate: one name out of it.
//!
//! Whether the certificate is to be believed is rustls' to say, before anybody asks here.

use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The longest name that is taken.
const MAX_NAME: usize = 255;

/// The subject's common name, or else the first alternative name that is a DNS name, a URI or a
/// mail address. None if it has neither, or only such as no log line should carry.
pub(crate) fn name(der: &[u8]) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut common = certificate.subject().iter_common_name();
    let common = common.find_map(|part| part.as_str().ok().filter(|name| is_fit(name)));
    common.map(Arc::from).or_else(|| alternative(&certificate))
}

fn alternative(certificate: &X509Certificate<'_>) -> Option<Arc<str>> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut names = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) =
            name
        {
            Some(*name)
        } else {
            None
        }
    });
    names.find(|name| is_fit(name)).map(Arc::from)
}

fn is_fit(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;
    use rcgen::DnType;
    use rcgen::KeyPair;
    use rcgen::SanType;

    use super::*;

    fn named(common: Option<&str>, alternatives: Vec<SanType>) -> Option<Arc<str>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = alternatives;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(certificate.der())
    }

    #[test]
    fn the_common_name_comes_before_the_others() {
        let dns = || SanType::DnsName("worker-7.example.com".try_into().unwrap());
        let uri = || SanType::URI("spiffe://example.com/worker".try_into().unwrap());
        let mail = SanType::Rfc822Name("worker@example.com".try_into().unwrap());
        let address = SanType::IpAddress("192.0.2.1".parse().unwrap());
        for (common, alternatives, expected) in [
            (Some("worker 7"), vec![dns()], Some("worker 7")),
            (None, vec![address, dns(), uri()], Some("worker-7.example.com")),
            (None, vec![uri(), dns()], Some("spiffe://example.com/worker")),
            (None, vec![mail], Some("worker@example.com")),
            (Some("evil\nline"), vec![dns()], Some("worker-7.example.com")),
            (None, vec![], None),
        ] {
            assert_eq!(named(common, alternatives).as_deref(), expected);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        assert_eq!(name(b""), None);
        assert_eq!(name(&[0x30; 64]), None);
    }
}
