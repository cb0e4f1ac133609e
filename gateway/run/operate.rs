//! `witgate upstream`: what the admin API of a running gateway shows and does, in words for a terminal.

use std::{net::SocketAddr, path::PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{StartError, describe};
use crate::{
    admin::client::{AskError, Client},
    config::Secret,
    files::{self, ReadError},
    telemetry::text::shown,
    tls::{self, Authorities, ClientSettings, PairFiles, ServerName},
};

/// What is encoded in a segment of a path.
pub(super) const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-').remove(b'@').remove(b'~');

/// What is wanted of the upstreams of a running gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    List,
    Show { name: String },
    Pin { name: String },
    Unpin { name: String },
    Rollback { name: String, generation: u64 },
    Accept { name: String, source: Option<String> },
    Drain { name: String, addresses: Vec<SocketAddr> },
    Undrain { name: String, addresses: Vec<SocketAddr> },
}

/// Which gateway is asked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// `HOST:PORT` of its admin API; with TLS, `https://HOST:PORT`.
    pub admin: String,
    /// Who is believed to say who it is. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What is shown if it asks.
    pub certificate: Option<PairFiles>,
    pub token_file: Option<PathBuf>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error("cannot read the token in {file}, which --token-file names")]
    Token { file: PathBuf, source: ReadError },
    #[error("no TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Does it, and says what came of it.
pub fn operate(gateway: Gateway, operation: &Operation) -> Result<String, OperateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Threads)?;
    runtime.block_on(async { Ok(carry_out(&client(gateway)?, operation).await?) })
}

/// Asks that gateway. Must be called on a runtime.
pub(super) fn client(gateway: Gateway) -> Result<Client, OperateError> {
    let (address, policy) = policy(&gateway)?;
    let token = gateway.token_file.map(token).transpose()?;
    let tls = policy.map(|policy| tls::Files::default().client(&policy));
    Ok(Client { address, tls, token })
}

/// The address of a gateway, and how it is spoken to if that is TLS.
fn policy(gateway: &Gateway) -> Result<(String, Option<ClientSettings>), OperateError> {
    let Some(address) = gateway.admin.strip_prefix("https://") else {
        if gateway.ca_file.is_some() || gateway.certificate.is_some() {
            return Err(OperateError::Tls(format!("write the address as https://{}", gateway.admin)));
        }
        return Ok((gateway.admin.clone(), None));
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let policy = ClientSettings {
        authorities: gateway.ca_file.clone().map_or(Authorities::System, Authorities::File),
        certificate: gateway.certificate.clone().map(Into::into),
        server_name: ServerName::new(host),
    };
    tls::check_client(&policy).map_err(|error| OperateError::Tls(error.to_string()))?;
    Ok((address.to_owned(), Some(policy)))
}

fn token(file: PathBuf) -> Result<Secret, OperateError> {
    match files::read_text(&file, files::SECRET) {
        Ok(token) => Ok(Secret(token.trim_end_matches(['\r', '\n']).to_owned())),
        Err(source) => Err(OperateError::Token { file, source }),
    }
}

async fn carry_out(client: &Client, operation: &Operation) -> Result<String, AskError> {
    match operation {
        Operation::List => Ok(describe::list(&client.get("/api/v1/upstreams").await?)),
        Operation::Show { name } => Ok(describe::one(&client.get(&path(name, "")).await?)),
        Operation::Pin { name } => {
            let after = client.post(&path(name, "/pin"), &json!({})).await?;
            Ok(format!("{} is pinned, with {}", shown(name), endpoints(&after)))
        }
        Operation::Unpin { name } => {
            let after = client.post(&path(name, "/unpin"), &json!({})).await?;
            Ok(format!("{} is what its sources say again, with {}", shown(name), endpoints(&after)))
        }
        Operation::Rollback { name, generation } => {
            let body = json!({ "generation": generation });
            let after = client.post(&path(name, "/rollback"), &body).await?;
            let (name, with) = (shown(name), endpoints(&after));
            Ok(format!("{name} is pinned as it was at generation {generation}, with {with}"))
        }
        Operation::Accept { name, source } => {
            let body = source.as_deref().map_or(json!({}), |source| json!({ "source": named(source) }));
            let after = client.post(&path(name, "/accept"), &body).await?;
            Ok(format!("removals of {} are accepted, {} left", shown(name), endpoints(&after)))
        }
        Operation::Drain { name, addresses } => {
            let after = client.post(&path(name, "/drain"), &json!({ "addresses": addresses })).await?;
            Ok(describe::drained(&after, addresses))
        }
        Operation::Undrain { name, addresses } => {
            let after = client.post(&path(name, "/undrain"), &json!({ "addresses": addresses })).await?;
            let are = if addresses.len() == 1 { "is" } else { "are" };
            let (name, with) = (shown(name), endpoints(&after));
            Ok(format!("{} of {name} {are} drained no more, {name} has {with}", describe::names(addresses)))
        }
    }
}

/// A number is the place of a source, anything else the name of its registry.
fn named(source: &str) -> Value {
    source.parse::<u64>().map_or_else(|_| json!(source), |number| json!(number))
}

fn endpoints(upstream: &Value) -> String {
    describe::many(upstream["endpoint_count"].as_u64().unwrap_or_default(), "endpoint")
}

fn path(name: &str, rest: &str) -> String {
    format!("/api/v1/upstreams/{}{rest}", utf8_percent_encode(name, SEGMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_in_paths() {
        assert_eq!(path("orders@main", "/pin"), "/api/v1/upstreams/orders@main/pin");
        assert_eq!(path("a/b c", ""), "/api/v1/upstreams/a%2Fb%20c");
    }

    #[test]
    fn a_source_is_a_number_or_a_registry() {
        assert_eq!((named("1"), named("main")), (json!(1), json!("main")));
    }
}
