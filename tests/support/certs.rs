//! A certificate authority for one test, with certificates for a server on loopback and for clients.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// Files in a folder that the test owns.
pub struct Certs {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certs {
    /// A new authority; its certificate is at [`ca`](Self::ca).
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut params = named("test authority", vec![]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        fs::write(folder.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder: folder.into(), issuer: Issuer::new(params, key) }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// For `localhost`, `127.0.0.1` and `::1`.
    pub fn server(&self) -> Pair {
        let mut params = named("localhost", vec!["localhost".into(), "127.0.0.1".into(), "::1".into()]);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue("server", &params)
    }

    /// For these names and addresses, in files called so. The common name is that of the files.
    pub fn of(&self, file: &str, alternatives: &[&str]) -> Pair {
        let names = alternatives.iter().map(|name| (*name).to_owned()).collect();
        self.issue(file, &named(file, names))
    }

    /// For a client of this name that has these URIs and host names.
    pub fn client_with(&self, name: &str, uris: &[&str], dns: &[&str]) -> Pair {
        let mut params = named(name, dns.iter().map(|name| (*name).to_owned()).collect());
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, &params)
    }

    /// For a client of this name that ends so soon.
    pub fn client_ending_in(&self, name: &str, rest: Duration) -> Pair {
        let mut params = named(name, vec![]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(1970, 1, 1) + UNIX_EPOCH.elapsed().unwrap() + rest;
        self.issue(name, &params)
    }

    /// For a server of these names that ends so many days from now.
    pub fn ending(&self, file: &str, alternatives: &[&str], days: u32) -> Pair {
        let names = alternatives.iter().map(|name| (*name).to_owned()).collect();
        let mut params = named(file, names);
        let day = Duration::from_secs(24 * 3600);
        let now = date_time_ymd(1970, 1, 1) + UNIX_EPOCH.elapsed().unwrap();
        (params.not_before, params.not_after) = (now - day * 300, now + day * days);
        self.issue(file, &params)
    }

    /// For a server of these names that counts only so many days from now.
    pub fn beginning(&self, file: &str, alternatives: &[&str], days: u32) -> Pair {
        let names = alternatives.iter().map(|name| (*name).to_owned()).collect();
        let mut params = named(file, names);
        let day = Duration::from_secs(24 * 3600);
        params.not_before = date_time_ymd(1970, 1, 1) + UNIX_EPOCH.elapsed().unwrap() + day * days;
        params.not_after = params.not_before + day * 300;
        self.issue(file, &params)
    }

    /// For a client of this name.
    pub fn client(&self, name: &str) -> Pair {
        let mut params = named(name, vec![]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, &params)
    }

    /// For a client of this name who is one of an organization.
    pub fn client_of(&self, name: &str, organization: &str) -> Pair {
        let mut params = named(name, vec![]);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, &params)
    }

    /// In place of the one for a client of this name: another that was valid long ago.
    pub fn expired_client(&self, name: &str) -> Pair {
        let mut params = named(name, vec![]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.issue(name, &params)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

fn named(name: &str, alternatives: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(alternatives).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
