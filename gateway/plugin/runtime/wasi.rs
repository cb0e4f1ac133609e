//! The system as registry plugins see it: wasmtime's own WASI, with everything closed that nothing grants.
//!
//! There is no environment, no folder and no network but what `tcp` grants; clocks and randomness work, and what is
//! written to the standard streams becomes log lines. All waits suspend the guest: a sleep, an answer of HTTP and the
//! feed of a connector can be waited for at once, since their resources are in one table.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::AsyncWrite;
use wasmtime::{
    Result,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    WasiCtx, WasiView, async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{
        self, Network, OutputStream, Pollable, SocketResult, StreamResult,
        bindings::{
            LinkOptions,
            sockets::{
                ip_name_lookup::Host as _,
                network::{ErrorCode, IpAddressFamily},
                tcp_create_socket::Host as _,
            },
        },
    },
    sockets::{SocketAddrUse, WasiSocketsView as _},
};

use super::{Lines, RANDOM, Stream, Who, exit, refuse, trap};
use crate::connector::tcp::Sockets;

/// Bytes that are taken in one write.
const WRITE: usize = 1 << 16;

/// What one instance has of the system.
pub(in crate::plugin) struct Wasi {
    pub context: WasiCtx,
    lines: Arc<Mutex<Lines>>,
    sockets: Arc<Sockets>,
}

impl Wasi {
    pub fn new(who: Who, sockets: Arc<Sockets>) -> Self {
        let lines = Arc::new(Mutex::new(Lines::new(who)));
        let stream = |stream| Output { lines: lines.clone(), stream };
        let granted = sockets.are_granted();
        let uses = sockets.clone();
        let context = WasiCtx::builder()
            .stdout(stream(Stream::Out))
            .stderr(stream(Stream::Err))
            .max_random_size(RANDOM)
            .allow_tcp(granted)
            .allow_ip_name_lookup(granted)
            .allow_udp(false)
            .socket_addr_check(move |address, usage| {
                // On its own, since what waits here is looked at from several threads.
                let asked = tokio::spawn(may(uses.clone(), address, usage));
                Box::pin(async move { asked.await.unwrap_or(false) })
            })
            .build();
        Self { context, lines, sockets }
    }

    /// What the instance says, and on whose behalf.
    pub fn lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }
}

/// Whether a socket may be used so.
async fn may(sockets: Arc<Sockets>, address: SocketAddr, usage: SocketAddrUse) -> bool {
    match usage {
        SocketAddrUse::TcpConnect => sockets.may_connect(address).await,
        // What connects is bound to any port, whether it says so or not.
        SocketAddrUse::TcpBind if address.ip().is_unspecified() && address.port() == 0 => true,
        SocketAddrUse::TcpBind => sockets.refuse(&format!("a socket bound to {address}")),
        _ => sockets.refuse("a socket that listens"),
    }
}

pub(in crate::plugin) trait HasWasi: WasiView + 'static {
    fn wasi(&mut self) -> &mut Wasi;
}

/// Gives plugins all of world `language-runtime`, whatever patch of its version they ask for.
pub(in crate::plugin) fn add_to_linker<T: HasWasi>(linker: &mut Linker<T>) -> Result<()> {
    let mut options = LinkOptions::default();
    options.network_error_code(true);
    p2::add_to_linker_with_options_async(linker, &options)?;
    // What is refused is told in the log, and how a plugin ends itself is told as it is of selectors.
    linker.allow_shadowing(true);
    exit(&mut linker.instance("wasi:cli/exit@0.2.12")?)?;
    let mut udp = linker.instance("wasi:sockets/udp-create-socket@0.2.12")?;
    refuse::<T, Network>(&mut udp, "create-udp-socket", "sockets/udp-create-socket", |data, what| {
        data.wasi().lines().refused(what);
    })?;
    linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        |mut store, (family,): (IpAddressFamily,)| {
            let data = store.data_mut();
            if !data.wasi().sockets.may_be_made() {
                return Ok((Err(ErrorCode::AccessDenied),));
            }
            Ok((told(data.sockets().create_tcp_socket(family))?,))
        },
    )?;
    linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?.func_wrap(
        "resolve-addresses",
        |mut store, (network, name): (Resource<Network>, String)| {
            let data = store.data_mut();
            if !data.wasi().sockets.may_look_up(&name) {
                return Ok((Err(ErrorCode::AccessDenied),));
            }
            Ok((told(data.sockets().resolve_addresses(network, name))?,))
        },
    )?;
    linker.allow_shadowing(false);
    // Unstable, and imported by nothing yet.
    let mut timezone = linker.instance("wasi:clocks/timezone@0.2.12")?;
    ["display", "utc-offset"]
        .into_iter()
        .try_for_each(|function| trap(&mut timezone, "wasi:clocks/timezone", function))
}

/// As the guest is told; what is no answer for it ends the call.
fn told<R>(result: SocketResult<R>) -> Result<std::result::Result<R, ErrorCode>> {
    match result {
        Ok(made) => Ok(Ok(made)),
        Err(error) => error.downcast().map(Err),
    }
}

/// One standard stream.
struct Output {
    lines: Arc<Mutex<Lines>>,
    stream: Stream,
}

impl Output {
    fn say(&self, bytes: &[u8]) {
        lock(&self.lines).write(self.stream, bytes, Instant::now());
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self { lines: self.lines.clone(), stream: self.stream })
    }

    /// Whatever is written is there at once: a plugin that traps has said it.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Self { lines: self.lines.clone(), stream: self.stream })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.say(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.say(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

/// A panic elsewhere leaves a line half said at worst.
fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
