//! The command line: flags, the process, its exit code.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser},
};
use witgate::{
    config,
    registry::HostPort,
    run,
    telemetry::{
        log,
        text::{Shown, shown, shown_lines},
    },
    tls,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A gateway that finds the instances of a service by its name.
///
/// Exit codes: 0 all went well, 1 the configuration, the start or what was asked for failed, 2 a flag is wrong.
#[derive(Parser)]
#[command(name = "witgate", version, propagate_version = true)]
struct Flags {
    /// What is logged: a level like `info` or `debug`, or a filter like `info,witgate::registry=debug`. Default: the
    /// variable WITGATE_LOG, or `info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// How it is logged: `text` or `json`.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway. The configuration file is followed: a valid change takes effect without a restart.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The configuration file.
        #[arg(long, short, default_value = "witgate.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Write a first configuration, with comments, for a registry. A file that is there is never overwritten.
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// Where services are found; `memory` is the registry inside the gateway.
        #[arg(value_name = "REGISTRY", value_parser = registry_kind())]
        registry: &'static run::RegistryKind,
        /// Where the registry is: HOST:PORT, for consul, discovery, eureka, kubernetes and nacos also a URL; for `file` the path
        /// of the file. May be given several times. Default: where it usually is on this machine.
        #[arg(long = "address", value_name = "ADDR")]
        addresses: Vec<String>,
        /// Where clients reach the gateway.
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: SocketAddr,
        /// Where the admin API and the dashboard listen, for this machine alone. For others, write `address` and
        /// `token_file` of [admin] into the file afterwards.
        #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
        admin: SocketAddr,
        /// The file that is written. `-` is standard output.
        #[arg(long, short, default_value = "witgate.toml", value_name = "FILE")]
        output: PathBuf,
    },
    /// Say what a configuration file would run, or all its mistakes.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Look at a configuration and at this machine, and say what will hurt: files, ports, memory, clocks, certificates,
    /// plugins, and whether the registries can be read.
    ///
    /// Changes nothing. Nobody can connect to it; for a registry with mDNS it hears what comes to port 5353. Ask as
    /// root, who may look at everything, or as the user who runs the gateway. The exit code is 1 if something will not
    /// work.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor {
        /// The configuration file.
        #[arg(default_value = "witgate.toml", value_name = "FILE")]
        file: PathBuf,
    },
    /// Try it: three sample backends, the embedded registry and the gateway in one process.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo {
        /// Where clients reach the gateway.
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: SocketAddr,
        /// Where the admin API listens.
        #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
        admin: SocketAddr,
        /// The folder for plugins; drop a .wasm into it.
        #[arg(long, default_value = "plugins", value_name = "DIR")]
        plugins: PathBuf,
    },
    /// Announce a service in a registry, beside its command or until this is stopped.
    ///
    /// Waits until the address takes connections, announces it, and keeps the announcement alive. When COMMAND ends,
    /// or a signal asks for the end, it is withdrawn; only then is the signal handed on to COMMAND. The exit code is
    /// that of COMMAND, or 128 and the number of the signal that ended it.
    #[command(after_help = REGISTER_EXAMPLES)]
    Register {
        /// The name of the service.
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        service: String,
        /// Where the service takes connections, as others reach it.
        #[arg(long, value_name = "HOST:PORT")]
        address: HostPort,
        /// The registry, by its name in the configuration file. Default: the one inside the gateway at `--admin`.
        #[arg(long, value_name = "NAME")]
        registry: Option<String>,
        /// The configuration file. Nothing in it is needed but the table of the registry.
        #[arg(long, short, default_value = "witgate.toml", value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        gateway: GatewayFlags,
        /// Its share of requests beside others of the service. 0: no new ones.
        #[arg(long, default_value_t = 1, value_name = "N")]
        weight: u32,
        /// A label of the instance. May be given several times.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// How long the address may take until it takes connections. After that COMMAND is ended.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        wait_secs: u32,
        /// How long COMMAND goes on after the withdrawal, so that whoever sends requests has heard of it.
        #[arg(long, default_value_t = 1_000, value_name = "MILLISECONDS")]
        stop_delay_ms: u32,
        /// The command that serves, with its arguments.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// See and steer the upstreams of a running gateway.
    #[command(after_help = UPSTREAM_EXAMPLES)]
    Upstream {
        #[command(flatten)]
        gateway: GatewayFlags,
        #[command(subcommand)]
        operation: Operation,
    },
    /// Watch how a running gateway stands: the first screen of its dashboard, in this terminal.
    ///
    /// It is drawn anew every second, and ends with `q` or Ctrl-C. Where standard output is no terminal, it is said once.
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        #[command(flatten)]
        gateway: GatewayFlags,
        /// Say it once, as text, and end.
        #[arg(long)]
        once: bool,
    },
    /// Print the JSON schema of the configuration file, for editors.
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
}

/// Which running gateway is meant.
#[derive(Args)]
struct GatewayFlags {
    /// Where its admin API listens; with TLS, https://HOST:PORT.
    #[arg(long, global = true, default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: String,
    /// With TLS: the certificates (PEM) of the authorities that are believed. Default: those of the system.
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// With TLS: a certificate (PEM) to show, if it asks for one.
    #[arg(long, global = true, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The key (PEM) of that certificate.
    #[arg(long, global = true, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// A file with the token that it asks for.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl From<GatewayFlags> for run::Gateway {
    fn from(flags: GatewayFlags) -> Self {
        let GatewayFlags { admin, ca_file, cert_file, key_file, token_file } = flags;
        let pair = cert_file.zip(key_file);
        let certificate = pair.map(|(certificate, key)| tls::PairFiles { certificate, key });
        Self { admin, ca_file, certificate, token_file }
    }
}

const REGISTER_EXAMPLES: &str = "\
Examples:
  witgate register --service orders --address 127.0.0.1:9000 -- ./orders --port 9000
  witgate register --registry etcd --service user.rpc --address 10.0.0.5:8080 -- ./user-rpc -f user.yaml
  witgate register --registry etcd --service orders --address 10.0.0.5:9000 --weight 2 --label zone=a";

const DRAIN_EXAMPLES: &str = "\
Examples:
  witgate upstream drain orders 10.0.0.5:9000
  witgate upstream drain orders 10.0.0.5:9000 10.0.0.5:9001
  witgate upstream show orders
  witgate upstream undrain orders 10.0.0.5:9000 10.0.0.5:9001";

const INIT_EXAMPLES: &str = "\
Examples:
  witgate init etcd
  witgate init etcd --address 10.0.0.1:2379 --address 10.0.0.2:2379 --listen 0.0.0.0:8080
  witgate init consul --address https://consul.internal:8501 --output gateway.toml
  witgate init file --address /etc/witgate/services.json --output -";

const RUN_EXAMPLES: &str = "\
Examples:
  witgate run
  witgate run --config /etc/witgate/witgate.toml --log-format json
  witgate run --log info,witgate::registry=debug";

const CHECK_EXAMPLES: &str = "\
Examples:
  witgate check witgate.toml
  witgate check new.toml && mv new.toml witgate.toml";

const DEMO_EXAMPLES: &str = "\
Examples:
  witgate demo
  witgate demo --listen 127.0.0.1:8000 --admin 127.0.0.1:9000";

const UPSTREAM_EXAMPLES: &str = "\
Examples:
  witgate upstream list
  witgate upstream show orders
  witgate upstream accept orders --source etcd
  witgate upstream rollback orders 41 --admin https://gateway.internal:9901 --token-file admin.token";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  witgate schema > witgate.schema.json";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  witgate doctor
  sudo witgate doctor /etc/witgate/witgate.toml";

const TOP_EXAMPLES: &str = "\
Examples:
  witgate top
  witgate top --admin https://gateway.internal:9901 --ca-file ca.pem --token-file read.token
  witgate top --once | head -1";

/// A registry that `witgate init` knows, by its name.
fn registry_kind() -> impl TypedValueParser<Value = &'static run::RegistryKind> {
    let names = PossibleValuesParser::new(run::REGISTRIES.iter().map(|kind| kind.name));
    names.try_map(|name| {
        run::REGISTRIES.iter().find(|kind| kind.name == name).ok_or("there is no such registry")
    })
}

/// Reads `KEY=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[derive(Subcommand)]
enum Operation {
    /// All upstreams, and how they stand.
    List,
    /// One upstream: its sources, its endpoints, and what changed last.
    Show {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Keep the list as it is now, over restarts, until it is unpinned. Endpoints that fail are still taken out.
    Pin {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Let the list be what the registries say again.
    Unpin {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Pin the list as it was at an earlier generation.
    Rollback {
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(value_name = "GENERATION")]
        generation: u64,
    },
    /// Let endpoints drain, over restarts and changes of the list: no new requests while any other endpoint is well.
    ///
    /// Requests under way end. The endpoints go on to be in the list, and are checked. An address that leaves the list and
    /// comes back drains still, until `undrain`.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        #[arg(value_name = "NAME")]
        name: String,
        /// As `witgate upstream show` names it.
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Let endpoints that drain get requests again.
    Undrain {
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Believe the removals that are held back.
    Accept {
        #[arg(value_name = "NAME")]
        name: String,
        /// Only those of this registry, or of the source with this number, from 0.
        #[arg(long, value_name = "REGISTRY")]
        source: Option<String>,
    },
}

impl From<Operation> for run::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::List => Self::List,
            Operation::Show { name } => Self::Show { name },
            Operation::Pin { name } => Self::Pin { name },
            Operation::Unpin { name } => Self::Unpin { name },
            Operation::Rollback { name, generation } => Self::Rollback { name, generation },
            Operation::Accept { name, source } => Self::Accept { name, source },
            Operation::Drain { name, addresses } => Self::Drain { name, addresses },
            Operation::Undrain { name, addresses } => Self::Undrain { name, addresses },
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match flags.command {
        Command::Run { config } => {
            serve(flags.log_format, flags.log.as_deref(), || run::run(&config).map(|()| ExitCode::SUCCESS))
        }
        Command::Demo { listen, admin, plugins } => {
            // People read the demo's own words; what goes wrong is told beside them.
            let filter = flags.log.as_deref().unwrap_or("warn");
            serve(flags.log_format, Some(filter), || {
                run::demo(listen, admin, &plugins).map(|()| ExitCode::SUCCESS)
            })
        }
        Command::Init { registry, addresses, listen, admin, output } => {
            init(&run::Init { registry, addresses, listen, admin }, &output)
        }
        Command::Check { file } => check(&file),
        Command::Doctor { file } => doctor(&file),
        Command::Register {
            service,
            address,
            registry,
            config,
            gateway,
            weight,
            labels,
            wait_secs,
            stop_delay_ms,
            command,
        } => {
            let registry = match registry {
                Some(name) => run::Where::Configured { config, name },
                None => run::Where::Embedded(gateway.into()),
            };
            let wait = Duration::from_secs(wait_secs.into());
            let stop_delay = Duration::from_millis(stop_delay_ms.into());
            let what =
                run::Register { service, address, weight, labels, registry, wait, stop_delay, command };
            serve(flags.log_format, flags.log.as_deref(), || run::register(what).map(ExitCode::from))
        }
        Command::Upstream { gateway, operation } => match run::operate(gateway.into(), &operation.into()) {
            Ok(text) => {
                say(text.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, shown(&error)),
        },
        Command::Top { gateway, once } => match run::top(gateway.into(), once) {
            Ok(said) => {
                said.iter().for_each(|text| say(text.trim_end()));
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, shown(&error)),
        },
        Command::Schema => {
            say(&config::schema());
            ExitCode::SUCCESS
        }
    }
}

fn serve<E: std::error::Error>(
    format: log::Format,
    filter: Option<&str>,
    run: impl FnOnce() -> Result<ExitCode, E>,
) -> ExitCode {
    let _flushed_at_the_end = match log::start(format, filter) {
        Ok(guard) => guard,
        Err(error) => return fail(&error, shown(&error)),
    };
    match run() {
        Ok(code) => code,
        Err(error) => fail(&error, shown_lines(&error)),
    }
}

fn init(what: &run::Init, output: &Path) -> ExitCode {
    let to_stdout = output == "-";
    let written = run::init(what, output).and_then(|text| match to_stdout {
        true => {
            say(text.trim_end());
            Ok(())
        }
        false => run::write_configuration(&text, output),
    });
    match written {
        Ok(()) if to_stdout => ExitCode::SUCCESS,
        Ok(()) => {
            let file = shown(output.display());
            say(&format!("wrote {file}\nnext: witgate check {file}, then witgate run --config {file}"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, shown_lines(&error)),
    }
}

fn check(file: &Path) -> ExitCode {
    match run::check(file) {
        Ok(text) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, shown_lines(&error)),
    }
}

fn doctor(file: &Path) -> ExitCode {
    match run::doctor(file) {
        Ok(run::Examination { text, has_errors }) => {
            say(text.trim_end());
            if has_errors { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => fail(&error, shown_lines(&error)),
    }
}

/// Says something on standard output. Whoever closed that does not want to hear of it.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{}", shown_lines(text));
}

/// Says an error, which may have several lines where the gateway made them, and what caused it on standard error.
fn fail<T: Display>(error: &dyn std::error::Error, words: Shown<T>) -> ExitCode {
    let mut text = format!("witgate: {words}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {}", shown(error)));
        cause = error.source();
    }
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}
