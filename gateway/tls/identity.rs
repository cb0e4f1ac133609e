//! What a certificate says of whom it belongs to.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// When a certificate counts, in time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub begins: Duration,
    pub ends: Duration,
}

impl Validity {
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        since_1970(now) > self.ends
    }
}

pub(super) fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Who somebody is, by a certificate.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// As RFC 4514 writes it, in ASCII: the most specific part first.
    pub subject: String,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub validity: Validity,
}

impl Identity {
    /// Nothing is known, and nothing of it ends.
    pub(super) fn unknown() -> Self {
        let validity = Validity { begins: Duration::ZERO, ends: Duration::MAX };
        Self { subject: String::new(), uris: Vec::new(), dns: Vec::new(), validity }
    }

    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        // Others made it, and have chosen its serial number.
        let certificate =
            CertificateInner::<Raw>::from_der(certificate).map_err(|error| error.to_string())?;
        let certificate = certificate.tbs_certificate();
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        let names = certificate.get_extension::<SubjectAltName>().map_err(|error| error.to_string())?;
        for name in names.map(|(_, names)| names.0).unwrap_or_default() {
            match name {
                GeneralName::DnsName(name) => dns.push(name.as_str().to_owned()),
                GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().to_owned()),
                _ => {}
            }
        }
        let validity = certificate.validity();
        let validity = Validity {
            begins: validity.not_before.to_unix_duration(),
            ends: validity.not_after.to_unix_duration(),
        };
        Ok(Self { subject: ascii(&certificate.subject().to_string()), uris, dns, validity })
    }
}

/// An element of `X-Forwarded-Client-Cert` about the client that showed a certificate, in Envoy's form. `by` is the
/// URI of the certificate that was shown to the client, if it has one.
pub(super) fn forwarded(client: &CertificateDer<'_>, identity: &Identity, by: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(by) = by {
        let _ = write!(text, "By={};", value(by));
    }
    text.push_str("Hash=");
    for byte in Sha256::digest(client) {
        let _ = write!(text, "{byte:02x}");
    }
    // A quote within is escaped by RFC 4514 already.
    let _ = write!(text, ";Subject=\"{}\"", identity.subject);
    for uri in &identity.uris {
        let _ = write!(text, ";URI={}", value(uri));
    }
    for name in &identity.dns {
        let _ = write!(text, ";DNS={}", value(name));
    }
    text
}

/// Quoted where it would be understood otherwise.
fn value(text: &str) -> String {
    let text = ascii(text);
    match text.contains([',', ';', '=', '"']) {
        true => format!("\"{}\"", text.replace('"', "\\\"")),
        false => text,
    }
}

/// Every byte that cannot stand in a header as RFC 4514 writes it: a backslash and two digits.
fn ascii(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut text, byte| {
        match byte {
            b' '..=b'~' => text.push(byte.into()),
            _ => drop(write!(text, "\\{byte:02x}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

    use super::*;

    fn certificate(name: &str, alternatives: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "SE");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn ia5(text: &str) -> Ia5String {
        text.try_into().unwrap()
    }

    #[test]
    fn a_client_is_told_of_in_envoys_form() {
        let check = |name: &str, alternatives: Vec<SanType>, by: Option<&str>, expected: &str| {
            let certificate = certificate(name, alternatives);
            let identity = Identity::of(&certificate).unwrap();
            let text = forwarded(&certificate, &identity, by);
            let hash: String =
                Sha256::digest(&certificate).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, expected.replace("HASH", &hash));
            http::HeaderValue::try_from(text).unwrap();
        };
        check("a", vec![], None, "Hash=HASH;Subject=\"CN=a,C=SE\"");
        check(
            "a",
            vec![
                SanType::DnsName(ia5("a.example")),
                SanType::URI(ia5("spiffe://x/a")),
                SanType::DnsName(ia5("b")),
            ],
            Some("spiffe://x/gw"),
            "By=spiffe://x/gw;Hash=HASH;Subject=\"CN=a,C=SE\";URI=spiffe://x/a;DNS=a.example;DNS=b",
        );
        // What means something in the header or in a name is said so that it does not.
        check(
            "a\",b;c=\\",
            vec![SanType::URI(ia5("http://a/?b=c;d,\""))],
            Some("http://gw/?a=b"),
            "By=\"http://gw/?a=b\";Hash=HASH;Subject=\"CN=a\\\"\\,b\\;c=\\\\,C=SE\";URI=\"http://a/?b=c;d,\\\"\"",
        );
        check("ö\r\nx", vec![], None, "Hash=HASH;Subject=\"CN=\\c3\\b6\\0d\\0ax,C=SE\"");
    }

    #[test]
    fn the_end_is_known() {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let validity = Identity::of(made.der()).unwrap().validity;
        assert_eq!(validity.ends.as_secs(), 1_924_992_000);
        assert!(!validity.is_over(SystemTime::now()));
        assert!(validity.is_over(UNIX_EPOCH + Duration::from_secs(1_924_992_001)));
        assert!(Identity::of(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
