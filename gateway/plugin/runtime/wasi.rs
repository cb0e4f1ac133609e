//! The system as registry plugins see it: wasmtime's own WASI, with everything closed that nothing grants.
//!
//! There is no environment, no folder and no network; clocks and randomness work, and what is written to the standard
//! streams becomes log lines. All waits suspend the guest: a sleep, an answer of HTTP and the feed of a connector can be
//! waited for at once, since their resources are in one table.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::AsyncWrite;
use wasmtime::{Result, component::Linker};
use wasmtime_wasi::{
    WasiCtx, WasiView, async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{self, Network, OutputStream, Pollable, StreamResult, bindings::LinkOptions},
};

use super::{Lines, RANDOM, Stream, Who, exit, refuse, trap};

/// Bytes that are taken in one write.
const WRITE: usize = 1 << 16;

/// What one instance has of the system.
pub(in crate::plugin) struct Wasi {
    pub context: WasiCtx,
    lines: Arc<Mutex<Lines>>,
}

impl Wasi {
    pub fn new(who: Who) -> Self {
        let lines = Arc::new(Mutex::new(Lines::new(who)));
        let stream = |stream| Output { lines: lines.clone(), stream };
        let context = WasiCtx::builder()
            .stdout(stream(Stream::Out))
            .stderr(stream(Stream::Err))
            .max_random_size(RANDOM)
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        Self { context, lines }
    }

    /// What the instance says, and on whose behalf.
    pub fn lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
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
    for (interface, function) in [
        ("sockets/ip-name-lookup", "resolve-addresses"),
        ("sockets/tcp-create-socket", "create-tcp-socket"),
        ("sockets/udp-create-socket", "create-udp-socket"),
    ] {
        let mut linker = linker.instance(&format!("wasi:{interface}@0.2.12"))?;
        refuse::<T, Network>(&mut linker, function, interface, |data, what| {
            data.wasi().lines().refused(what)
        })?;
    }
    linker.allow_shadowing(false);
    // Unstable, and imported by nothing yet.
    let mut timezone = linker.instance("wasi:clocks/timezone@0.2.12")?;
    ["display", "utc-offset"]
        .into_iter()
        .try_for_each(|function| trap(&mut timezone, "wasi:clocks/timezone", function))
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
