//! An API server of Kubernetes as pods find it: by their environment and the files of their service account.

use std::path::{Path, PathBuf};

use super::{
    credential::{Credential, Kind},
    keys::Grant,
    urls::Prefix,
};
use crate::{
    document::Secret,
    files,
    tls::{self, Authorities, ClientSettings},
};

/// How it is asked for.
pub(super) const NAME: &str = "in-cluster";

/// Where a pod has its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why this is no pod, or none that may ask.
#[derive(Debug, thiserror::Error)]
pub(super) enum InClusterError {
    #[error("this is no pod of Kubernetes: {0} is not in the environment")]
    Environment(&'static str),
    #[error("what KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say is no address: {0:?}")]
    Address(String),
    #[error(
        "the service account of the pod has no token that can be read at {0}: is automountServiceAccountToken off?"
    )]
    Token(PathBuf),
    #[error("the service account of the pod has no authority to believe: {0}")]
    Authority(String),
}

/// What this process may ask.
pub(super) fn grant() -> Result<Grant, InClusterError> {
    grant_of(|name| std::env::var(name).ok(), Path::new(ACCOUNT))
}

fn grant_of(variable: impl Fn(&str) -> Option<String>, account: &Path) -> Result<Grant, InClusterError> {
    let of = |name: &'static str| {
        variable(name).filter(|value| !value.is_empty()).ok_or(InClusterError::Environment(name))
    };
    let (host, port) = (of("KUBERNETES_SERVICE_HOST")?, of("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = format!("https://{host}:{port}");
    let prefix = Prefix::parse(&url).map_err(|_| InClusterError::Address(url))?;
    let file = account.join("token");
    let token = files::read_text(&file, files::SECRET).map(|token| token.trim_end().to_owned());
    let token = token.ok().filter(|token| !token.is_empty());
    let secret = Secret(token.ok_or_else(|| InClusterError::Token(file.clone()))?);
    let authorities = Authorities::File(account.join("ca.crt"));
    let settings = ClientSettings { authorities, certificate: None, server_name: None };
    tls::check_client(&settings).map_err(|error| InClusterError::Authority(error.to_string()))?;
    let credential = Credential { kind: Kind::Bearer, file: Some(file), secret };
    Ok(Grant { urls: vec![prefix], credential: Some(credential), login: None, tls: Some(settings) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str, account: &Path) -> Result<Grant, String> {
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            _ => Some("443".to_owned()),
        };
        grant_of(variable, account).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_finds_the_server_and_who_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let error = grant_of(|_| None, folder.path()).unwrap_err().to_string();
        assert_eq!(error, "this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST is not in the environment");
        let error = read("10.0.0.1", folder.path()).unwrap_err();
        assert!(error.contains("no token that can be read at") && error.contains("/token"), "{error}");
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        let error = read("10.0.0.1", folder.path()).unwrap_err();
        assert!(error.contains("no authority to believe") && error.contains("ca.crt"), "{error}");
        let authority = rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca.crt"), authority.cert.pem()).unwrap();
        assert!(
            read("not a host", folder.path())
                .unwrap_err()
                .contains("is no address: \"https://not a host:443\"")
        );

        for (host, url) in [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")] {
            let Grant { urls, credential, tls, .. } = read(host, folder.path()).unwrap();
            assert_eq!(urls.iter().map(Prefix::text).collect::<Vec<_>>(), [url]);
            let credential = credential.unwrap();
            assert_eq!((credential.kind, credential.secret), (Kind::Bearer, Secret("secret".into())));
            assert_eq!(credential.file, Some(folder.path().join("token")));
            assert_eq!(tls.unwrap().authorities, Authorities::File(folder.path().join("ca.crt")));
        }
    }
}
