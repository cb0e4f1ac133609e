//! TLS: files that are there, can be read, and fit each other.

use super::Checker;
use crate::{
    config::file,
    document::{SwitchOr, Way},
    tls::{self, Authorities, ClientRule, ClientSettings, PairFiles, ServerName, ServerSettings},
};

const REQUIRED: &str = "required";
const OPTIONAL: &str = "optional";

impl Checker<'_> {
    /// Of a listener. None where it has no TLS; `Some(None)`: it is wrong.
    pub(super) fn listener_tls(
        &mut self,
        way: &Way,
        tls: Option<&file::ListenerTls>,
    ) -> Option<Option<ServerSettings>> {
        let Some(tls) = tls else { return Some(None) };
        let list = way.key("certificates");
        let written = self.required(way, "certificates", &tls.certificates);
        self.not_empty(&list);
        let pairs = written.map(Vec::as_slice).unwrap_or_default().iter().enumerate();
        let pairs: Vec<_> = pairs.map(|(index, pair)| self.certificate(&list.index(index), pair)).collect();
        let certificates: Option<Vec<_>> = pairs.into_iter().collect();
        let clients = self.clients(way, tls);
        let ticket_keys = match &tls.ticket_keys_file {
            Some(file) => self.ticket_keys(&way.key("ticket_keys_file"), file).map(Some),
            None => Some(None),
        };
        let certificates = certificates.filter(|certificates| !certificates.is_empty())?;
        Some(Some(ServerSettings { certificates, clients: clients?, ticket_keys: ticket_keys? }))
    }

    fn certificate(&mut self, way: &Way, pair: &file::Certificate) -> Option<PairFiles> {
        let mut path = |key: &str, file: &Option<String>| {
            self.required(way, key, file).and_then(|path| self.path(&way.key(key), path))
        };
        let (certificate, key) = (path("cert_file", &pair.cert_file), path("key_file", &pair.key_file));
        let files = PairFiles { certificate: certificate?, key: key? };
        self.fits(way, &tls::check_pair(&files)).map(|()| files)
    }

    fn clients(&mut self, way: &Way, tls: &file::ListenerTls) -> Option<Option<ClientRule>> {
        let at = way.key("client_certificate");
        let required = match tls.client_certificate.as_deref() {
            None | Some(REQUIRED) => Some(true),
            Some(OPTIONAL) => Some(false),
            Some(other) => {
                let hint = format!("write \"{REQUIRED}\" or \"{OPTIONAL}\"");
                self.wrong(&at, format!("{other:?} is no rule for the certificates of clients")).hint(hint);
                None
            }
        };
        let Some(file) = &tls.client_ca_file else {
            if tls.client_certificate.is_some() {
                return self.together(way, "client_certificate", "client_ca_file");
            }
            return Some(None);
        };
        let at = way.key("client_ca_file");
        let ca_file = self.path(&at, file)?;
        self.fits(&at, &tls::check_clients(&ca_file))?;
        Some(Some(ClientRule { ca_file, required: required? }))
    }

    fn ticket_keys(&mut self, way: &Way, file: &str) -> Option<std::path::PathBuf> {
        let path = self.path(way, file)?;
        self.fits(way, &tls::check_keys(&path)).map(|()| path)
    }

    /// Of an upstream. None where it has no TLS; `Some(None)`: it is wrong.
    pub(super) fn upstream_tls(
        &mut self,
        way: &Way,
        tls: Option<&SwitchOr<file::UpstreamTls>>,
    ) -> Option<Option<ClientSettings>> {
        let none = file::UpstreamTls::default();
        let tls = match tls {
            None | Some(SwitchOr::Is(false)) => return Some(None),
            Some(SwitchOr::Is(true)) => &none,
            Some(SwitchOr::Table(table)) => table,
        };
        let authorities = match &tls.ca_file {
            None => Some(Authorities::System),
            Some(file) => self.path(&way.key("ca_file"), file).map(Authorities::File),
        };
        let certificate = match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => {
                let (cert, key) =
                    (self.path(&way.key("cert_file"), cert), self.path(&way.key("key_file"), key));
                cert.zip(key).map(|(certificate, key)| Some(PairFiles { certificate, key }.into()))
            }
            (None, None) => Some(None),
            (Some(_), None) => self.together(way, "cert_file", "key_file"),
            (None, Some(_)) => self.together(way, "key_file", "cert_file"),
        };
        let server_name = match &tls.server_name {
            None => Some(None),
            Some(name) => self.server_name(&way.key("server_name"), name).map(Some),
        };
        let settings = ClientSettings {
            authorities: authorities?,
            certificate: certificate?,
            server_name: server_name?,
        };
        self.fits(way, &tls::check_client(&settings)).map(|()| Some(settings))
    }

    fn server_name(&mut self, way: &Way, name: &str) -> Option<ServerName> {
        let parsed = ServerName::new(name);
        if parsed.is_none() {
            self.wrong(way, format!("{name:?} is neither a host name nor an address"));
        }
        parsed
    }

    fn fits(&mut self, way: &Way, checked: &Result<(), tls::FileError>) -> Option<()> {
        match checked {
            Ok(()) => Some(()),
            Err(error) => {
                self.wrong(way, error.to_string());
                None
            }
        }
    }
}
