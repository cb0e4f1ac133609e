//! HTTP as plugins see it: `wasi:http/outgoing-handler`, by wasmtime's own, with our client behind it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    p2::bindings::http::{
        outgoing_handler,
        types::{self, ErrorCode},
    },
};

use super::{Client, Grant, client::broken};
use crate::{
    backoff::Backoff,
    bindings::{
        registry::witgate::http::http::{self as wit, add_to_linker as add_urls_to_linker},
        wit::Failure,
    },
    connector::{
        Connectors, HasConnectors, Memory, lock, pauses,
        refused::{Asks, Refused},
    },
    tls::Files,
};

/// All instances for the same registry share its connections, until its table changes.
#[derive(Default)]
pub(crate) struct Shared {
    clients: Mutex<HashMap<Arc<str>, Arc<Client>>>,
    /// The files of TLS, followed, so that renewed certificates count.
    files: Files,
}

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, asks: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        let client = grant.map(|grant| {
            let mut clients = lock(&self.clients);
            match clients.get(&asks.registry) {
                Some(client) if client.granted() == grant => client.clone(),
                _ => {
                    let tls = grant.tls.as_ref().map(|settings| self.files.client(settings));
                    let client = Arc::new(Client::new(grant.clone(), tls));
                    clients.insert(asks.registry.clone(), client.clone());
                    client
                }
            }
        });
        let failing = Arc::new(Mutex::new(pauses()));
        Lent { context: WasiHttpCtx::new(), sender: Sender { client, asks: asks.clone(), failing } }
    }
}

/// What one instance has.
pub(crate) struct Lent {
    context: WasiHttpCtx,
    sender: Sender,
}

/// Sends what one instance wants sent, if that is granted.
struct Sender {
    /// None: nothing is granted.
    client: Option<Arc<Client>>,
    asks: Arc<Asks>,
    /// Requests that failed. An instance that asks again at once hears ever later of it.
    failing: Arc<Mutex<Backoff>>,
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    add_urls_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)?;
    outgoing_handler::add_to_linker::<T, WasiHttp>(linker, view)?;
    types::add_to_linker::<T, WasiHttp>(linker, &types::LinkOptions::default(), view)
}

fn view<T: HasConnectors>(data: &mut T) -> WasiHttpCtxView<'_> {
    let Connectors { table, http: Lent { context, sender }, .. } = data.connectors();
    WasiHttpCtxView { ctx: context, table, hooks: sender }
}

impl wit::Host for Connectors {
    async fn urls(&mut self) -> Result<std::result::Result<Vec<String>, Failure>> {
        Ok(match &self.http.sender.client {
            Some(client) => Ok(client.granted().urls.iter().map(|url| url.text().to_owned()).collect()),
            None => Err(self.ungranted("http")),
        })
    }
}

/// An answer, and what goes on beside it: nothing, since the client keeps its connections itself.
type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl Sender {
    fn client(&self, request: &Request<WasiBody>) -> Option<Arc<Client>> {
        match &self.client {
            Some(client) if client.allows(request) => return Some(client.clone()),
            Some(_) => {
                let (uri, method) = (request.uri(), request.method());
                let (scheme, place) = (uri.scheme_str().unwrap_or("http"), uri.authority());
                let what = format!("{method} {scheme}://{}{}", place.map_or("", |p| p.as_str()), uri.path());
                self.asks.refused(Refused::Url, &what);
            }
            None => drop(self.asks.refused(Refused::Connector("http"), &"connector http")),
        }
        None
    }
}

impl WasiHttpHooks for Sender {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let (client, failing) = (self.client(&request), self.failing.clone());
        Box::new(async move {
            let sent = match client {
                Some(client) => client.send(request, options.unwrap_or_default()).await,
                None => Err(Error::HttpRequestDenied),
            };
            match sent {
                Ok(answer) => {
                    lock(&failing).works();
                    let nothing: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
                    Ok((answer, nothing))
                }
                Err(error) => {
                    let pause = lock(&failing).pause();
                    tokio::time::sleep(pause).await;
                    Err(error)
                }
            }
        })
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        match broken(error) {
            Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
            Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
            Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
            Error::InternalError(text) => ErrorCode::InternalError(text),
            _ => ErrorCode::HttpProtocolError,
        }
    }
}
