//! The table `http` of a registry, and what it grants.

use std::path::PathBuf;

use http::{HeaderName, header::AUTHORIZATION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    credential::{Credential, Kind},
    in_cluster, kubeconfig,
    login::{self, Login},
    urls::Prefix,
};
use crate::{
    document::{Examiner, Secret, TextOr, Way},
    tls::{self, Authorities, ClientSettings, PairFiles},
};

/// How the table is written.
pub(crate) const SETTING: &str = "http = { urls = [\"http://HOST:PORT\"] }";

/// `in-cluster`, or a table.
pub(crate) type Keys = TextOr<Http>;

/// HTTP to the URLs of a registry. The plugin sees no credential.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Http {
    /// What may be asked, with everything that lies under it: `https://HOST:PORT`, and a path if less is meant.
    /// Required, at least one, where there is no `kubeconfig`.
    pub urls: Vec<String>,
    /// A file with a token that is sent with each request. It is read again when it is older than ten seconds
    /// or was refused. Default: none.
    pub token_file: Option<String>,
    /// The header that the token is sent in. Default: `Authorization`, where `Bearer` is put before the token.
    pub header: Option<String>,
    /// The user to log in as, by basic authentication. Default: none.
    pub user: Option<String>,
    /// A file with the user's password, read like `token_file`. Required with `user`.
    pub password_file: Option<String>,
    /// Log in as a user for a token, which is sent with each request. In the place of what stands above. Default: none.
    pub login: Option<HttpLogin>,
    /// The certificates (PEM) of the authorities that are believed. Default: those of the system.
    pub ca_file: Option<String>,
    /// The gateway's own certificate (PEM), if the registry asks for one. Default: none.
    pub cert_file: Option<String>,
    /// The key (PEM) of `cert_file`. Required with it.
    pub key_file: Option<String>,
    /// A kubeconfig, which says all of this of the API server of a cluster: beside it there is only `context`.
    pub kubeconfig: Option<String>,
    /// The context of `kubeconfig` that counts. Default: its current one.
    pub context: Option<String>,
}

/// A login that a registry asks for: a form with `username` and `password`, answered by JSON with `accessToken` and, in
/// seconds, `tokenTtl`. It is renewed before the token ends, and when it was refused.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["url", "user", "password_file"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpLogin {
    /// Where: a path like `/v1/auth/login`, below each of `urls` for what lies there, or one URL for all of them.
    /// Required.
    pub url: Option<String>,
    /// The user. Required.
    pub user: Option<String>,
    /// A file with the user's password, read like `token_file`. Required.
    pub password_file: Option<String>,
    /// The header that the token is sent in. Default: `Authorization`, where `Bearer` is put before the token.
    pub header: Option<String>,
    /// The parameter of the query that the token is sent as, in the place of a header. Default: none.
    pub query: Option<String>,
}

/// HTTP to some URLs.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// At least one.
    pub urls: Vec<Prefix>,
    pub credential: Option<Credential>,
    /// There in the place of a credential.
    pub login: Option<Login>,
    /// There if a URL asks for TLS.
    pub tls: Option<ClientSettings>,
}

pub(crate) fn grant(http: &Keys, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let found = match http {
        TextOr::Text(text) if text == in_cluster::NAME => {
            in_cluster::grant().map_err(|error| (way.clone(), error.to_string()))
        }
        TextOr::Text(text) => {
            let told = format!("{text:?} is nothing that is known");
            examiner.wrong(way, told).hint("write `\"in-cluster\"`, or a table with `urls`");
            return None;
        }
        TextOr::Table(Http { kubeconfig: Some(path), context, .. }) => {
            let at = way.key("kubeconfig");
            let path = examiner.path(&at, path)?;
            alone(examiner, way)?;
            kubeconfig::grant(&path, context.as_deref()).map_err(|error| (at, error.to_string()))
        }
        TextOr::Table(http) => return of_table(http, examiner, way),
    };
    match found {
        Ok(grant) => Some(Some(grant)),
        Err((at, why)) => {
            examiner.wrong(&at, why);
            None
        }
    }
}

/// A kubeconfig says all of it.
fn alone(examiner: &mut Examiner<'_>, way: &Way) -> Option<()> {
    let others = [
        "urls",
        "token_file",
        "header",
        "user",
        "password_file",
        "login",
        "ca_file",
        "cert_file",
        "key_file",
    ];
    let other = others.map(|key| (way.key(key), key)).into_iter().find(|(way, _)| examiner.mentions(way));
    let Some((way, key)) = other else { return Some(()) };
    examiner.wrong_key(&way, format!("`{key}` has no place beside `kubeconfig`, which says who and where"));
    None
}

fn of_table(http: &Http, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    if http.context.is_some() {
        return examiner.together(way, "context", "kubeconfig");
    }
    let urls = urls(examiner, &way.key("urls"), &http.urls);
    let credential = credential(http, examiner, way);
    let login = match &http.login {
        Some(login) => self::login(http, login, examiner, way).map(Some),
        None => Some(None),
    };
    let place = login.iter().flatten().find_map(|login| match &login.place {
        login::Place::Url(url) => Some(url),
        login::Place::Below(_) => None,
    });
    let tls = tls(http, examiner, way, urls.iter().chain(place));
    Some(Some(Grant { credential: credential?, tls: tls?, login: login?, urls }))
}

fn urls(examiner: &mut Examiner<'_>, way: &Way, texts: &[String]) -> Vec<Prefix> {
    examiner.missing_unless_told(&way.parent().unwrap_or_default(), "urls");
    examiner.not_empty(way);
    let texts = texts.iter().enumerate();
    texts
        .filter_map(|(index, text)| {
            let parsed = Prefix::parse(text);
            parsed
                .inspect_err(|error| {
                    examiner
                        .wrong(&way.index(index), error.to_string())
                        .hint("write `http://HOST:PORT` or `https://HOST:PORT`");
                })
                .ok()
        })
        .collect()
}

fn credential(http: &Http, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Credential>> {
    let mut secret =
        |key: &str, file: &Option<String>| Some(self::secret(examiner, &way.key(key), file.as_ref()?));
    let (token, password) =
        (secret("token_file", &http.token_file), secret("password_file", &http.password_file));
    if http.token_file.is_some() && http.user.is_some() {
        examiner
            .wrong(&way.key("token_file"), "a registry has a token or a user, not both")
            .hint("take `token_file` or `user` and `password_file` away");
        return None;
    }
    match (&http.user, password) {
        (Some(user), Some(password)) => {
            let way = way.key("user");
            let user = examiner.text(&way, user)?;
            if user.contains(':') {
                examiner.wrong(&way, format!("{user:?} has a colon, which ends the name of a user"));
                return None;
            }
            let (file, secret) = password?;
            return Some(Some(Credential { kind: Kind::Basic(user.to_owned()), file: Some(file), secret }));
        }
        (Some(_), None) => return examiner.together(way, "user", "password_file"),
        (None, Some(_)) => return examiner.together(way, "password_file", "user"),
        (None, None) => {}
    }
    match (token, &http.header) {
        (Some(token), header) => {
            let kind = token_kind(examiner, &way.key("header"), header.as_deref())?;
            let (file, secret) = token?;
            Some(Some(Credential { kind, file: Some(file), secret }))
        }
        (None, Some(_)) => examiner.together(way, "header", "token_file"),
        (None, None) => Some(None),
    }
}

fn login(http: &Http, login: &HttpLogin, examiner: &mut Examiner<'_>, way: &Way) -> Option<Login> {
    let table = way.key("login");
    for (key, other) in [("token_file", &http.token_file), ("user", &http.user)] {
        if other.is_some() {
            examiner
                .wrong(&way.key(key), "a registry has a token, a user or a login, and only one of them")
                .hint(format!("take `login` or `{key}` away"));
            return None;
        }
    }
    let url = examiner.required(&table, "url", &login.url);
    let user = examiner.required(&table, "user", &login.user);
    let file = examiner.required(&table, "password_file", &login.password_file);
    let place = url.and_then(|url| place(examiner, &table.key("url"), url));
    let user = user.and_then(|user| examiner.text(&table.key("user"), user).map(str::to_owned));
    let password = file.and_then(|file| secret(examiner, &table.key("password_file"), file));
    let sent = sent(login, examiner, &table);
    let (file, password) = password?;
    Some(Login { place: place?, user: user?, file, password, sent: sent? })
}

fn place(examiner: &mut Examiner<'_>, way: &Way, text: &str) -> Option<login::Place> {
    let parsed = match text.strip_prefix('/') {
        // Below any URL it is what it is below this one.
        Some(_) => match Prefix::parse(&format!("http://host{text}")) {
            Ok(_) => Ok(login::Place::Below(text.to_owned())),
            Err(_) => Err(format!("{text:?} is no path below a URL")),
        },
        None => Prefix::parse(text).map(login::Place::Url).map_err(|error| error.to_string()),
    };
    match parsed {
        Ok(place) => Some(place),
        Err(why) => {
            examiner
                .wrong(way, why)
                .hint("write a path below each of `urls`, like `/v1/auth/login`, or `http://HOST:PORT/PATH`");
            None
        }
    }
}

/// What is in a file, which is read again later.
fn secret(examiner: &mut Examiner<'_>, way: &Way, file: &str) -> Option<(PathBuf, Secret)> {
    let secret = examiner.secret(way, file)?;
    Some((examiner.path(way, file)?, secret))
}

fn sent(login: &HttpLogin, examiner: &mut Examiner<'_>, table: &Way) -> Option<login::Sent> {
    let way = table.key("query");
    match &login.query {
        None => {
            let kind = token_kind(examiner, &table.key("header"), login.header.as_deref())?;
            Some(login::Sent::Header(kind))
        }
        Some(_) if login.header.is_some() => {
            examiner.wrong(&way, "a token is sent in a header or in the query, not in both");
            None
        }
        Some(name) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || !name.bytes().all(plain) {
                examiner.wrong(
                    &way,
                    format!("{name:?} is no name of a parameter: letters, digits, `-`, `_`, `.`"),
                );
                return None;
            }
            Some(login::Sent::Query(name.clone()))
        }
    }
}

/// How a token is sent, in this header if it is another than usual.
pub(crate) fn token_kind(examiner: &mut Examiner<'_>, way: &Way, header: Option<&str>) -> Option<Kind> {
    let Some(name) = header else { return Some(Kind::Bearer) };
    match HeaderName::try_from(name) {
        Ok(name) if name == AUTHORIZATION => Some(Kind::Bearer),
        Ok(name) => Some(Kind::Header(name)),
        Err(_) => {
            examiner.wrong(way, format!("{name:?} is no name of a header"));
            None
        }
    }
}

fn tls<'u>(
    http: &Http,
    examiner: &mut Examiner<'_>,
    way: &Way,
    urls: impl Iterator<Item = &'u Prefix>,
) -> Option<Option<ClientSettings>> {
    let authorities = match &http.ca_file {
        None => Some(Authorities::System),
        Some(file) => examiner.path(&way.key("ca_file"), file).map(Authorities::File),
    };
    let certificate = match (&http.cert_file, &http.key_file) {
        (Some(cert), Some(key)) => {
            let cert = examiner.path(&way.key("cert_file"), cert);
            cert.zip(examiner.path(&way.key("key_file"), key))
                .map(|(certificate, key)| Some(PairFiles { certificate, key }.into()))
        }
        (None, None) => Some(None),
        (Some(_), None) => examiner.together(way, "cert_file", "key_file"),
        (None, Some(_)) => examiner.together(way, "key_file", "cert_file"),
    };
    let settings = ClientSettings { authorities: authorities?, certificate: certificate?, server_name: None };
    let (mut some, mut tls) = (false, false);
    urls.for_each(|url| (some, tls) = (true, tls || url.is_tls()));
    if tls {
        return match tls::check_client(&settings) {
            Ok(()) => Some(Some(settings)),
            Err(error) => {
                examiner.wrong(way, error.to_string());
                None
            }
        };
    }
    for (key, file) in [("ca_file", &http.ca_file), ("cert_file", &http.cert_file)] {
        if file.is_some() && some {
            examiner
                .wrong(&way.key(key), "it is of no use: no URL asks for TLS")
                .hint("write `https://` before the URLs");
            return None;
        }
    }
    Some(None)
}
