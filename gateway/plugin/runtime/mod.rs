//! What the runtime of a plugin's language imports, whether the plugin needs it or not: world `language-runtime`.
//!
//! Clocks and randomness work, standard output and error become log lines. Everything else is there and gives
//! nothing: no environment, no arguments, no folders, no network. What cannot even be reached that way (a method
//! of a file, when there is no file) traps.
//!
//! Selectors have stand-ins, which are here: nothing in them waits, a sleep returns at once. Registry plugins have
//! wasmtime's own, which are in `wasi`: a wait suspends the guest and costs nothing.

mod lines;
mod wasi;

use std::{
    convert::Infallible,
    time::{Duration, Instant, SystemTime},
};

use wasmtime::{
    Result,
    component::{
        Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTable, ResourceType,
        Val, types::ComponentItem,
    },
};

use self::lines::Stream;
pub(super) use self::{
    lines::{Lines, Who},
    wasi::{HasWasi, Wasi, add_to_linker},
};

/// Sleeps that a guest may hold at once.
const POLLABLES: usize = 1_000;

/// Random bytes that are given in one call.
const RANDOM: u64 = 1 << 20;

/// What the runtime of one selector's instance keeps.
pub(super) struct Runtime {
    start: Instant,
    pollables: ResourceTable,
    lines: Lines,
}

impl Runtime {
    pub fn new(who: Who) -> Self {
        let mut pollables = ResourceTable::new();
        pollables.set_max_capacity(POLLABLES);
        Self { start: Instant::now(), pollables, lines: Lines::new(who) }
    }

    /// On whose behalf the instance runs.
    pub fn who(&mut self) -> &mut Who {
        &mut self.lines.who
    }

    /// What the instance says.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn due(&self, pollable: &Resource<Pollable>) -> Result<u64> {
        Ok(self.pollables.get(pollable)?.due)
    }

    fn pollable(&mut self, due: u64) -> Result<Resource<Pollable>> {
        Ok(self.pollables.push(Pollable { due })?)
    }
}

pub(super) trait HasRuntime: 'static {
    fn runtime(&mut self) -> &mut Runtime;
}

/// Ready when so many nanoseconds have passed since the instance was made.
struct Pollable {
    due: u64,
}

/// `wasi:io/error`; there is never one.
struct IoError;
/// Standard input: always at its end.
struct Input;
/// Standard output (1) or error (2), told by the number of the resource.
struct Output;
/// A network that refuses everything.
struct Network;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    Failed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// The interfaces of world `language-runtime`, without `wasi:` and without version.
pub(super) const INTERFACES: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/timezone",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

/// Gives a selector everything it imports from world `language-runtime`, under the versions it asks for: the
/// types of these interfaces have not changed since 0.2.0.
pub(super) fn define<T: HasRuntime>(linker: &mut Linker<T>, component: &Component) -> Result<()> {
    let engine = linker.engine().clone();
    // What works takes the place of the trap that was put there first.
    linker.allow_shadowing(true);
    for (import, item) in component.component_type().imports(&engine) {
        if let (Some(interface), ComponentItem::ComponentInstance(instance)) = (interface(import), item.ty) {
            let mut linker = linker.instance(import)?;
            for (name, item) in instance.exports(&engine) {
                if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                    trap(&mut linker, import, name)?;
                }
            }
            define_interface(&mut linker, interface)?;
        }
    }
    linker.allow_shadowing(false);
    Ok(())
}

fn trap<T: 'static>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> Result<()> {
    let path = format!("{interface}#{name}");
    linker.func_new(name, move |_, _, _, _| wasmtime::bail!("{path} gives nothing to plugins"))
}

/// `io/poll` of `wasi:io/poll@0.2.6`, if it is one of [`INTERFACES`] in a version that this host knows.
pub(super) fn interface(import: &str) -> Option<&'static str> {
    let (name, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    let known = version.strip_prefix("0.2.")?.parse::<u8>().is_ok_and(|patch| patch <= 12);
    INTERFACES.iter().find(|interface| known && **interface == name).copied()
}

fn define_interface<T: HasRuntime>(
    linker: &mut LinkerInstance<'_, T>,
    interface: &'static str,
) -> Result<()> {
    let refused = |linker: &mut LinkerInstance<'_, T>, function: &str| {
        refuse::<T, Network>(linker, function, interface, |data, what| data.runtime().lines.refused(what))
    };
    match interface {
        "cli/environment" => {
            constant(linker, "get-environment", || Val::List(Vec::new()))?;
            constant(linker, "get-arguments", || Val::List(Vec::new()))?;
            constant(linker, "initial-cwd", || Val::Option(None))
        }
        "cli/exit" => exit(linker),
        "cli/stdin" => linker.func_wrap("get-stdin", |_, (): ()| Ok((Resource::<Input>::new_own(0),))),
        "cli/stdout" => linker.func_wrap("get-stdout", |_, (): ()| Ok((Resource::<Output>::new_own(1),))),
        "cli/stderr" => linker.func_wrap("get-stderr", |_, (): ()| Ok((Resource::<Output>::new_own(2),))),
        "cli/terminal-stdin" => constant(linker, "get-terminal-stdin", || Val::Option(None)),
        "cli/terminal-stdout" => constant(linker, "get-terminal-stdout", || Val::Option(None)),
        "cli/terminal-stderr" => constant(linker, "get-terminal-stderr", || Val::Option(None)),
        "clocks/monotonic-clock" => monotonic_clock(linker),
        "clocks/wall-clock" => wall_clock(linker),
        "filesystem/preopens" => constant(linker, "get-directories", || Val::List(Vec::new())),
        "cli/terminal-input" => never(linker, "terminal-input"),
        "cli/terminal-output" => never(linker, "terminal-output"),
        "filesystem/types" => {
            never(linker, "descriptor")?;
            never(linker, "directory-entry-stream")?;
            constant(linker, "filesystem-error-code", || Val::Option(None))
        }
        "io/error" => resource::<T, IoError>(linker, "error"),
        "io/poll" => poll(linker),
        "io/streams" => streams(linker),
        "random/random" => random(linker, "get-random-bytes", "get-random-u64"),
        "random/insecure" => random(linker, "get-insecure-random-bytes", "get-insecure-random-u64"),
        "random/insecure-seed" => {
            linker.func_wrap("insecure-seed", |_, (): ()| Ok(((random_u64()?, random_u64()?),)))
        }
        "sockets/network" => resource::<T, Network>(linker, "network"),
        "sockets/instance-network" => {
            linker.func_wrap("instance-network", |_, (): ()| Ok((Resource::<Network>::new_own(0),)))
        }
        "sockets/ip-name-lookup" => {
            never(linker, "resolve-address-stream")?;
            refused(linker, "resolve-addresses")
        }
        "sockets/tcp" => never(linker, "tcp-socket"),
        "sockets/udp" => {
            never(linker, "udp-socket")?;
            never(linker, "incoming-datagram-stream")?;
            never(linker, "outgoing-datagram-stream")
        }
        "sockets/tcp-create-socket" => refused(linker, "create-tcp-socket"),
        "sockets/udp-create-socket" => refused(linker, "create-udp-socket"),
        // The time zone: unstable, and imported by nothing yet.
        _ => Ok(()),
    }
}

fn access_denied() -> Val {
    Val::Result(Err(Some(Box::new(Val::Enum("access-denied".into())))))
}

/// A function that gives the same whatever it is asked.
fn constant<T: 'static>(linker: &mut LinkerInstance<'_, T>, name: &str, value: fn() -> Val) -> Result<()> {
    linker.func_new(name, move |_, _, _, results| {
        results.fill_with(value);
        Ok(())
    })
}

/// A function that always denies, and says so in the log. `N` is what stands for a network.
fn refuse<T: 'static, N: 'static>(
    linker: &mut LinkerInstance<'_, T>,
    function: &str,
    interface: &'static str,
    tell: fn(&mut T, &'static str),
) -> Result<()> {
    linker.func_new(function, move |mut store, _, parameters, results| {
        // A network that was lent for the call is given back; a call that ends with something lent traps.
        for parameter in parameters {
            if let Val::Resource(network) = parameter {
                network.try_into_resource::<N>(&mut store)?;
            }
        }
        tell(store.data_mut(), interface);
        results.fill_with(access_denied);
        Ok(())
    })
}

fn resource<T: 'static, R: 'static>(linker: &mut LinkerInstance<'_, T>, name: &str) -> Result<()> {
    linker.resource(name, ResourceType::host::<R>(), |_, _| Ok(()))
}

/// A resource that no function gives.
fn never<T: 'static>(linker: &mut LinkerInstance<'_, T>, name: &str) -> Result<()> {
    resource::<T, Infallible>(linker, name)
}

fn exit<T: 'static>(linker: &mut LinkerInstance<'_, T>) -> Result<()> {
    linker.func_wrap("exit", |_, (status,): (Result<(), ()>,)| -> Result<()> {
        let how = if status.is_ok() { "success" } else { "failure" };
        Err(wasmtime::format_err!("the plugin called exit with {how}"))
    })?;
    linker.func_wrap("exit-with-code", |_, (code,): (u8,)| -> Result<()> {
        Err(wasmtime::format_err!("the plugin called exit with code {code}"))
    })
}

fn monotonic_clock<T: HasRuntime>(linker: &mut LinkerInstance<'_, T>) -> Result<()> {
    linker.func_wrap("now", |mut store, (): ()| Ok((store.data_mut().runtime().now(),)))?;
    linker.func_wrap("resolution", |_, (): ()| Ok((1u64,)))?;
    linker.func_wrap("subscribe-instant", |mut store, (when,): (u64,)| {
        Ok((store.data_mut().runtime().pollable(when)?,))
    })?;
    linker.func_wrap("subscribe-duration", |mut store, (duration,): (u64,)| {
        let runtime = store.data_mut().runtime();
        let due = runtime.now().saturating_add(duration);
        Ok((runtime.pollable(due)?,))
    })
}

fn wall_clock<T: 'static>(linker: &mut LinkerInstance<'_, T>) -> Result<()> {
    let datetime = |seconds, nanoseconds| {
        Val::Record(vec![
            ("seconds".into(), Val::U64(seconds)),
            ("nanoseconds".into(), Val::U32(nanoseconds)),
        ])
    };
    linker.func_new("now", move |_, _, _, results| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        results.fill(datetime(now.as_secs(), now.subsec_nanos()));
        Ok(())
    })?;
    linker.func_new("resolution", move |_, _, _, results| {
        results.fill(datetime(0, 1));
        Ok(())
    })
}

fn random<T: 'static>(linker: &mut LinkerInstance<'_, T>, bytes: &str, number: &str) -> Result<()> {
    linker.func_wrap(bytes, |_, (len,): (u64,)| {
        if len > RANDOM {
            wasmtime::bail!("the plugin asked for {len} random bytes at once");
        }
        let mut bytes = vec![0; len as usize];
        getrandom::fill(&mut bytes).map_err(unrandom)?;
        Ok((bytes,))
    })?;
    linker.func_wrap(number, |_, (): ()| Ok((random_u64()?,)))
}

fn random_u64() -> Result<u64> {
    getrandom::u64().map_err(unrandom)
}

fn unrandom(error: getrandom::Error) -> wasmtime::Error {
    wasmtime::format_err!("no randomness: {error}")
}

/// Nothing waits: whatever is waited for is ready.
fn poll<T: HasRuntime>(linker: &mut LinkerInstance<'_, T>) -> Result<()> {
    linker.resource("pollable", ResourceType::host::<Pollable>(), |mut store, rep| {
        store.data_mut().runtime().pollables.delete(Resource::<Pollable>::new_own(rep))?;
        Ok(())
    })?;
    linker.func_wrap("[method]pollable.ready", |mut store, (pollable,): (Resource<Pollable>,)| {
        let runtime = store.data_mut().runtime();
        Ok((runtime.due(&pollable)? <= runtime.now(),))
    })?;
    linker.func_wrap("[method]pollable.block", |_, (_,): (Resource<Pollable>,)| Ok(()))?;
    linker.func_wrap("poll", |_, (pollables,): (Vec<Resource<Pollable>>,)| {
        Ok(((0..pollables.len() as u32).collect::<Vec<u32>>(),))
    })
}

fn streams<T: HasRuntime>(linker: &mut LinkerInstance<'_, T>) -> Result<()> {
    resource::<T, Input>(linker, "input-stream")?;
    resource::<T, Output>(linker, "output-stream")?;
    for read in ["read", "blocking-read"] {
        let name = format!("[method]input-stream.{read}");
        linker.func_wrap(&name, |_, (_, _): (Resource<Input>, u64)| {
            Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
        })?;
    }
    for skip in ["skip", "blocking-skip"] {
        let name = format!("[method]input-stream.{skip}");
        linker.func_wrap(&name, |_, (_, _): (Resource<Input>, u64)| {
            Ok((Err::<u64, _>(StreamError::Closed),))
        })?;
    }
    linker.func_wrap("[method]input-stream.subscribe", |mut store, (_,): (Resource<Input>,)| {
        Ok((store.data_mut().runtime().pollable(0)?,))
    })?;
    linker.func_wrap("[method]output-stream.subscribe", |mut store, (_,): (Resource<Output>,)| {
        Ok((store.data_mut().runtime().pollable(0)?,))
    })?;
    linker.func_wrap("[method]output-stream.check-write", |_, (_,): (Resource<Output>,)| {
        Ok((Ok::<u64, StreamError>(1 << 16),))
    })?;
    for write in ["write", "blocking-write-and-flush"] {
        let name = format!("[method]output-stream.{write}");
        linker.func_wrap(&name, |mut store, (output, bytes): (Resource<Output>, Vec<u8>)| {
            let stream = if output.rep() == 1 { Stream::Out } else { Stream::Err };
            store.data_mut().runtime().lines.write(stream, &bytes, Instant::now());
            Ok((Ok::<(), StreamError>(()),))
        })?;
    }
    for flush in ["flush", "blocking-flush"] {
        let name = format!("[method]output-stream.{flush}");
        linker.func_wrap(&name, |_, (_,): (Resource<Output>,)| Ok((Ok::<(), StreamError>(()),)))?;
    }
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_interfaces_in_known_versions_belong_to_the_runtime() {
        assert_eq!(interface("wasi:io/poll@0.2.0"), Some("io/poll"));
        assert_eq!(interface("wasi:io/poll@0.2.12"), Some("io/poll"));
        for other in ["wasi:io/poll@0.2.13", "wasi:io/poll@0.3.0", "wasi:io/poll", "wasi:http/types@0.2.0"] {
            assert_eq!(interface(other), None, "{other}");
        }
    }

    /// The list here and the world in `wit/` are the same.
    #[test]
    fn interfaces_are_those_of_the_vendored_worlds() {
        let mut found = Vec::new();
        for package in ["cli", "clocks", "filesystem", "io", "random", "sockets"] {
            let path = format!("{}/wit/deps/{package}.wit", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.lines().filter_map(|line| line.strip_prefix("interface ")?.strip_suffix(" {"));
            // Programs export it; nobody imports it.
            found.extend(names.filter(|name| *name != "run").map(|name| format!("{package}/{name}")));
        }
        found.sort();
        assert_eq!(found, INTERFACES);
    }
}
