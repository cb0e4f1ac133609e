//! An API server of Kubernetes as `kubectl` finds it: a file that names servers, users, and which of them belong
//! together.

use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::{
    credential::{Credential, Kind},
    keys::Grant,
    urls::Prefix,
};
use crate::{
    document::Secret,
    files,
    tls::{Authorities, Certificate, ClientSettings, PairFiles, ServerName},
};

/// Why such a file says nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KubeconfigError {
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, String),
    #[error("{0} is no kubeconfig: {1}")]
    Unknown(PathBuf, String),
    #[error("{0} has no current context: name one with `context`")]
    NoContext(PathBuf),
    #[error("{file} has no {what} {name:?}")]
    Missing { file: PathBuf, what: &'static str, name: String },
    #[error("{file}: {place}: {why}")]
    Unfit { file: PathBuf, place: String, why: String },
}

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default, rename = "current-context")]
    current_context: String,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
}

/// Something with a name, in a field that is called what it is.
#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(alias = "user", alias = "context")]
    cluster: Value,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    username: Option<String>,
    exec: Option<Value>,
    auth_provider: Option<Value>,
    #[serde(rename = "as")]
    instead: Option<String>,
}

/// The file, and one of the things in it.
struct Place<'a> {
    file: &'a Path,
    what: &'static str,
    name: &'a str,
}

/// What a file grants: by the current context, or by the one that is named.
pub(super) fn grant(file: &Path, context: Option<&str>) -> Result<Grant, KubeconfigError> {
    let text = files::read_text(file, files::SECRET)
        .map_err(|error| KubeconfigError::Unreadable(file.into(), error.to_string()))?;
    let all: Kubeconfig = parse(&text).map_err(|why| KubeconfigError::Unknown(file.into(), why))?;
    let name = context.unwrap_or(&all.current_context);
    if name.is_empty() {
        return Err(KubeconfigError::NoContext(file.into()));
    }
    let Context { cluster, user } = Place { file, what: "context", name }.read(&all.contexts)?;
    let place = Place { file, what: "cluster", name: &cluster };
    let (url, authorities, server_name) = place.cluster(place.read(&all.clusters)?)?;
    let place = Place { file, what: "user", name: &user };
    let (credential, certificate) = match user.is_empty() {
        true => (None, None),
        false => place.user(place.read(&all.users)?)?,
    };
    let settings = ClientSettings { authorities, certificate, server_name };
    if url.is_tls() {
        crate::tls::check_client(&settings).map_err(|error| KubeconfigError::Unfit {
            file: file.into(),
            place: format!("context {name:?}"),
            why: error.to_string(),
        })?;
    }
    let tls = url.is_tls().then_some(settings);
    Ok(Grant { urls: vec![url], credential, login: None, tls })
}

impl Place<'_> {
    fn read<T: DeserializeOwned>(&self, all: &[Named]) -> Result<T, KubeconfigError> {
        let Place { file, what, name } = self;
        let found = all.iter().find(|named| named.name == *name).ok_or_else(|| KubeconfigError::Missing {
            file: file.to_path_buf(),
            what,
            name: (*name).to_owned(),
        })?;
        T::deserialize(&found.cluster).map_err(|error| self.unfit("", &error.to_string()))
    }

    fn unfit(&self, key: &str, why: &str) -> KubeconfigError {
        let Place { file, what, name } = self;
        let place = [format!("{what} {name:?}"), key.to_owned()];
        let place = place.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        KubeconfigError::Unfit { file: file.to_path_buf(), place, why: why.to_owned() }
    }

    /// A path is relative to the folder of the file that names it.
    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    fn data(&self, key: &str, data: &str) -> Result<String, KubeconfigError> {
        let packed: String = data.split_whitespace().collect();
        let bytes = BASE64_STANDARD.decode(packed).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| self.unfit(key, "what stands there is no PEM in base64"))
    }

    fn cluster(
        &self,
        cluster: Cluster,
    ) -> Result<(Prefix, Authorities, Option<ServerName>), KubeconfigError> {
        let Cluster { server, certificate_authority, certificate_authority_data, .. } = cluster;
        if cluster.insecure_skip_tls_verify {
            let why = "a server that nobody looks at may be anybody's: name its `certificate-authority`";
            return Err(self.unfit("insecure-skip-tls-verify", why));
        }
        if cluster.proxy_url.is_some() {
            return Err(self.unfit("proxy-url", "the gateway goes through no proxy"));
        }
        let url = Prefix::parse(&server).map_err(|error| self.unfit("server", &error.to_string()))?;
        let authorities = match (certificate_authority_data, certificate_authority) {
            (Some(data), _) => {
                let pem = self.data("certificate-authority-data", &data)?;
                Authorities::Given { within: self.file.to_owned(), pem }
            }
            (None, Some(path)) => Authorities::File(self.path(&path)),
            (None, None) => Authorities::System,
        };
        let name = cluster.tls_server_name.map(|name| {
            ServerName::new(&name)
                .ok_or_else(|| self.unfit("tls-server-name", &format!("{name:?} is no name")))
        });
        Ok((url, authorities, name.transpose()?))
    }

    fn user(&self, user: User) -> Result<(Option<Credential>, Option<Certificate>), KubeconfigError> {
        let User { client_certificate, client_certificate_data, client_key, client_key_data, .. } = user;
        let own = "make a service account for the gateway, and name its `token`";
        for (key, there) in [("exec", user.exec.is_some()), ("auth-provider", user.auth_provider.is_some())] {
            if there {
                return Err(self.unfit(key, &format!("the gateway runs no program to get a token: {own}")));
            }
        }
        for (key, there) in [("username", user.username.is_some()), ("as", user.instead.is_some())] {
            if there {
                return Err(self.unfit(key, &format!("the gateway does not do that: {own}")));
            }
        }
        let certificate = match (client_certificate_data, client_certificate) {
            (Some(data), _) => Some(Ok(self.data("client-certificate-data", &data)?)),
            (None, path) => path.map(Err),
        };
        let key = match (client_key_data, client_key) {
            (Some(data), _) => Some(Ok(self.data("client-key-data", &data)?)),
            (None, path) => path.map(Err),
        };
        let certificate = match (certificate, key) {
            (None, None) => None,
            (Some(Err(certificate)), Some(Err(key))) => Some(Certificate::Files(PairFiles {
                certificate: self.path(&certificate),
                key: self.path(&key),
            })),
            (Some(Ok(certificate)), Some(Ok(key))) => {
                Some(Certificate::Given { within: self.file.to_owned(), certificate, key: Secret(key) })
            }
            _ => {
                let why = "certificate and key belong together: both are files, or both are given as data";
                return Err(self.unfit("client-certificate", why));
            }
        };
        let token = |file: Option<PathBuf>, secret: String| Credential {
            kind: Kind::Bearer,
            file,
            secret: Secret(secret.trim_end().to_owned()),
        };
        let credential = match (user.token_file, user.token) {
            (Some(path), _) => {
                let path = self.path(&path);
                let secret = files::read_text(&path, files::SECRET);
                let secret = secret
                    .map_err(|error| self.unfit("tokenFile", &format!("{}: {error}", path.display())))?;
                Some(token(Some(path), secret))
            }
            (None, Some(secret)) => Some(token(None, secret)),
            (None, None) => None,
        };
        Ok((credential, certificate))
    }
}

fn parse(text: &str) -> Result<Kubeconfig, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let [document] = &documents[..] else { return Err(format!("it has {} documents", documents.len())) };
    serde_json::from_value(value(document)).map_err(|error| error.to_string())
}

/// What YAML has beyond that is nothing here.
fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => Value::from(text.as_str()),
        // A token of digits is text all the same.
        Yaml::Real(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(number.to_string()),
        Yaml::Boolean(boolean) => Value::from(*boolean),
        Yaml::Array(all) => all.iter().map(value).collect(),
        Yaml::Hash(all) => {
            let pairs = all.iter().filter_map(|(key, of)| Some((key.as_str()?.to_owned(), value(of))));
            Value::Object(pairs.collect())
        }
        Yaml::Null | Yaml::Alias(_) | Yaml::BadValue => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c
  cluster:
    server: http://10.0.0.1:8080
users:
- name: u
  user:
    token: secret
contexts:
- name: one
  context: {cluster: c, user: u, namespace: shop}
- name: two
  context: {cluster: c, user: nobody}
";

    fn read(text: &str, context: Option<&str>) -> Result<Grant, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, text).unwrap();
        grant(&file, context).map_err(|error| error.to_string())
    }

    #[test]
    fn the_current_context_says_where_and_who() {
        let Grant { urls, credential, tls, .. } = read(PLAIN, None).unwrap();
        assert_eq!(urls.iter().map(Prefix::text).collect::<Vec<_>>(), ["http://10.0.0.1:8080"]);
        let expected = Credential { kind: Kind::Bearer, file: None, secret: Secret("secret".into()) };
        assert_eq!((credential, tls), (Some(expected), None));
        for (context, why) in [("two", "has no user \"nobody\""), ("three", "has no context \"three\"")] {
            let error = read(PLAIN, Some(context)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn certificates_stand_in_it_or_in_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(folder.path().join("own.crt"), &certificate).unwrap();
        std::fs::write(folder.path().join("own.key"), &key).unwrap();
        std::fs::write(folder.path().join("token"), "of the file\n").unwrap();
        let data = |text: &str| BASE64_STANDARD.encode(text);
        let text = format!(
            "
current-context: data
clusters:
- name: data
  cluster: {{server: 'https://a:6443', tls-server-name: kubernetes, certificate-authority-data: {ca}}}
- name: files
  cluster: {{server: 'https://a:6443', certificate-authority: own.crt}}
users:
- name: data
  user: {{client-certificate-data: {ca}, client-key-data: {key}}}
- name: files
  user: {{client-certificate: own.crt, client-key: own.key, tokenFile: token, token: of the user}}
contexts:
- name: data
  context: {{cluster: data, user: data}}
- name: files
  context: {{cluster: files, user: files}}
",
            ca = data(&certificate),
            key = data(&key)
        );
        let file = folder.path().join("config");
        std::fs::write(&file, text).unwrap();
        let given = grant(&file, None).unwrap().tls.unwrap();
        assert_eq!(given.authorities, Authorities::Given { within: file.clone(), pem: certificate.clone() });
        let expected = Certificate::Given { within: file.clone(), certificate, key: Secret(key) };
        assert_eq!((given.certificate, given.server_name), (Some(expected), ServerName::new("kubernetes")));
        let Grant { credential, tls, .. } = grant(&file, Some("files")).unwrap();
        let (tls, beside) = (tls.unwrap(), |name: &str| folder.path().join(name));
        assert_eq!(tls.authorities, Authorities::File(beside("own.crt")));
        let expected = PairFiles { certificate: beside("own.crt"), key: beside("own.key") };
        assert_eq!(tls.certificate, Some(Certificate::Files(expected)));
        let credential = credential.unwrap();
        assert_eq!(
            (credential.file, credential.secret),
            (Some(beside("token")), Secret("of the file".into()))
        );
    }

    #[test]
    fn what_the_gateway_does_not_do_is_told_with_its_place() {
        let cluster = |more: &str| PLAIN.replace("server: http://10.0.0.1:8080", more);
        let user = |more: &str| PLAIN.replace("token: secret", more);
        for (text, why) in [
            (
                cluster("server: https://a\n    insecure-skip-tls-verify: true"),
                "cluster \"c\": insecure-skip-tls-verify: a server that nobody looks at",
            ),
            (
                cluster("server: http://a\n    proxy-url: http://p"),
                "cluster \"c\": proxy-url: the gateway goes",
            ),
            (cluster("server: a"), "cluster \"c\": server: \"a\" has neither `http://` nor"),
            (
                cluster("server: https://a\n    certificate-authority-data: '%'"),
                "certificate-authority-data: what stands there is no PEM in base64",
            ),
            (user("exec: {command: aws}"), "user \"u\": exec: the gateway runs no program"),
            (user("auth-provider: {name: gcp}"), "user \"u\": auth-provider: the gateway runs no program"),
            (user("username: me"), "user \"u\": username: the gateway does not do that"),
            (user("client-certificate: a"), "client-certificate: certificate and key belong together"),
            (user("tokenFile: none"), "user \"u\": tokenFile: "),
            (PLAIN.replace("current-context: one", ""), "has no current context"),
            ("nothing".to_owned(), "is no kubeconfig: "),
            ("a: [".to_owned(), "is no kubeconfig: "),
            (String::new(), "is no kubeconfig: it has 0 documents"),
        ] {
            let error = read(&text, None).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        let error = grant(Path::new("/nowhere/config"), None).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/config cannot be read: "), "{error}");
    }
}
