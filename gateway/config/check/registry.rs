//! Registries: the plugin, and the connectors that are lent to it.

use std::path::PathBuf;

use super::{Checker, EMBEDDED};
use crate::config::{
    document::Way,
    file::{self, TextOr},
    running::{ClientTls, Etcd, Grants, Registry, Secret},
};

/// Shipped plugins that are of no use without the connector of the same name.
const NEED_THEIR_CONNECTOR: [(&str, &str); 3] = [
    ("etcd", "write etcd = { endpoints = [\"HOST:2379\"] }"),
    ("file", "write file = \"services.json\""),
    ("memory", "write memory = true"),
];

/// The registry that exists when a file names none.
pub(super) fn embedded() -> Registry {
    Registry {
        name: EMBEDDED.into(),
        plugin: "memory".into(),
        grants: Grants { memory: true, ..Grants::default() },
        settings: "{}".into(),
    }
}

impl Checker<'_> {
    pub(super) fn registry(&mut self, way: &Way, name: &str, registry: &file::Registry) -> Option<Registry> {
        let plugin = self
            .required(way, "plugin", &registry.plugin)
            .and_then(|plugin| self.text(&way.key("plugin"), plugin));
        let grants = self.grants(way, registry);
        let settings = self.settings(&way.key("settings"), &registry.settings);
        self.trust(&way.key("trust"), &registry.trust);
        if let Some(plugin) = plugin {
            self.has_its_connector(way, plugin);
        }
        Some(Registry { name: name.into(), plugin: plugin?.into(), grants: grants?, settings: settings? })
    }

    fn has_its_connector(&mut self, way: &Way, plugin: &str) {
        for (connector, hint) in NEED_THEIR_CONNECTOR {
            if plugin == connector && !self.mentions(&way.key(connector)) {
                self.wrong(way, format!("the plugin `{plugin}` needs `{connector}`, and may not use it"))
                    .hint(hint);
            }
        }
    }

    fn grants(&mut self, way: &Way, registry: &file::Registry) -> Option<Grants> {
        let etcd = registry.etcd.as_ref().map(|etcd| self.etcd(&way.key("etcd"), etcd));
        let file = registry.file.as_ref().map(|file| self.file(&way.key("file"), file));
        let memory = registry.memory.as_ref().is_some_and(|memory| memory.is_set());
        // The outer absence is no grant, the inner one a mistake.
        Some(Grants { etcd: granted(etcd)?, file: granted(file)?, memory })
    }

    fn file(&mut self, way: &Way, file: &TextOr<file::FilePath>) -> Option<PathBuf> {
        match file {
            TextOr::Text(path) => self.path(way, path),
            TextOr::Table(table) => {
                let path = self.required(way, "path", &table.path)?;
                self.path(&way.key("path"), path)
            }
        }
    }

    fn etcd(&mut self, way: &Way, etcd: &file::Etcd) -> Option<Etcd> {
        let tls_wanted = self.mentions(&way.key("tls"));
        let endpoints = self.endpoints(&way.key("endpoints"), &etcd.endpoints, tls_wanted);
        let credentials = self.credentials(way, etcd);
        let tls = etcd.tls.as_ref().map(|tls| self.client_tls(&way.key("tls"), tls));
        let connect_timeout = self.duration_ms(&way.key("connect_timeout_ms"), etcd.connect_timeout_ms);
        let silence = self.duration_ms(&way.key("silence_ms"), etcd.silence_ms);
        Some(Etcd { endpoints, credentials: credentials?, tls: granted(tls)?, connect_timeout, silence })
    }

    fn endpoints(&mut self, way: &Way, texts: &[String], tls: bool) -> Vec<String> {
        self.missing_unless_told(&way.parent().unwrap_or_default(), "endpoints");
        self.not_empty(way);
        let endpoints =
            texts.iter().enumerate().filter_map(|(index, text)| self.endpoint(&way.index(index), text, tls));
        endpoints.collect()
    }

    fn endpoint(&mut self, way: &Way, text: &str, tls: bool) -> Option<String> {
        let (scheme, rest) =
            text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        match (scheme, tls) {
            (None, _) | (Some("http"), false) | (Some("https"), true) => {}
            (Some("http"), true) => {
                self.wrong(way, format!("{text:?} asks for no TLS, and the table `tls` for TLS"))
                    .hint(format!("write `https://{rest}`, or take `tls` away"));
            }
            (Some("https"), false) => {
                self.wrong(way, format!("{text:?} asks for TLS, and there is no table `tls`"))
                    .hint("write tls = { ca_file = \"ca.pem\" } beside `endpoints`");
            }
            (Some(scheme), _) => {
                self.wrong(way, format!("{text:?} has the scheme `{scheme}`, which etcd does not speak"))
                    .hint("write `HOST:PORT`");
            }
        }
        if !is_host_and_port(rest) {
            self.wrong(way, format!("{text:?} is no endpoint of etcd"))
                .hint("write `HOST:PORT`, like `127.0.0.1:2379` or `[::1]:2379`");
            return None;
        }
        Some(rest.to_owned())
    }

    fn credentials(&mut self, way: &Way, etcd: &file::Etcd) -> Option<Option<(String, Secret)>> {
        let (user, file) = (etcd.user.as_deref(), etcd.password_file.as_deref());
        let secret = file.map(|file| self.secret(&way.key("password_file"), file));
        match (user, secret) {
            (None, None) => Some(None),
            (Some(user), Some(secret)) => {
                let user = self.text(&way.key("user"), user);
                Some(Some((user?.to_owned(), secret?)))
            }
            (Some(_), None) => self.together(way, "user", "password_file"),
            (None, Some(_)) => self.together(way, "password_file", "user"),
        }
    }

    fn client_tls(&mut self, way: &Way, tls: &file::Tls) -> Option<ClientTls> {
        let ca_file =
            self.required(way, "ca_file", &tls.ca_file).and_then(|path| self.path(&way.key("ca_file"), path));
        let cert = tls.cert_file.as_ref().map(|path| self.path(&way.key("cert_file"), path));
        let key = tls.key_file.as_ref().map(|path| self.path(&way.key("key_file"), path));
        let certificate = match (cert, key) {
            (Some(cert), Some(key)) => cert.zip(key),
            (None, None) => None,
            (Some(_), None) => self.together(way, "cert_file", "key_file"),
            (None, Some(_)) => self.together(way, "key_file", "cert_file"),
        };
        if let Some(name) = &tls.server_name {
            self.text(&way.key("server_name"), name);
        }
        Some(ClientTls { ca_file: ca_file?, certificate, server_name: tls.server_name.clone() })
    }

    /// Records that a key was written without the other that it needs.
    fn together<T>(&mut self, table: &Way, written: &str, missing: &str) -> Option<T> {
        if !self.mentions(&table.key(missing)) {
            self.wrong_key(&table.key(written), format!("`{written}` is of no use without `{missing}`"));
        }
        None
    }

    /// Looks at the document, since a list may also be empty here because it was of the wrong kind.
    pub(super) fn not_empty(&mut self, list: &Way) {
        if self.document.is_empty_array(list) {
            self.wrong(list, "this must not be empty");
        }
    }
}

/// What was asked for: nothing, or what was made of it. None when that was a mistake.
fn granted<T>(made: Option<Option<T>>) -> Option<Option<T>> {
    match made {
        None => Some(None),
        Some(made) => made.map(Some),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
    };
    port_good && host_good
}
