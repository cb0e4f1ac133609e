//! From the bytes of a file to a component that is known to be a plugin, or the reason why it is none.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;

use super::{engine::Engine, runtime};
use crate::{
    connector,
    files::{Opened, ReadError},
};

/// The largest file that is loaded, in bytes. Components that carry an interpreter have tens of megabytes.
const LARGEST: u64 = 256 << 20;

/// How native code that was compiled in advance begins.
const ELF: &[u8] = b"\x7fELF";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Selector,
    Registry,
}

impl Kind {
    /// What a plugin of this kind exports.
    fn export(self) -> Interface {
        match self {
            Self::Selector => Interface("witgate:selector/selector"),
            Self::Registry => Interface("witgate:registry/registry"),
        }
    }

    /// What a plugin of this kind may import beside the runtime of its language.
    fn imports(self) -> impl Iterator<Item = Interface> {
        let (own, lent): (&[_], &[&[_]]) = match self {
            Self::Selector => (&["witgate:selector/types", "witgate:selector/load"], &[]),
            Self::Registry => (&["witgate:registry/types"], connector::INTERFACES),
        };
        [own].into_iter().chain(lent.iter().copied()).flatten().map(|name| Interface(name))
    }
}

/// An interface, with its package, without its version.
#[derive(Clone, Copy)]
struct Interface(&'static str);

/// The versions of packages that this gateway has: later patches may have functions that are not here.
const VERSION: (&str, u64) = ("0.1.", 0);
const WASI: (&str, u64) = ("0.2.", 12);

const ANNOUNCES: Interface = Interface("witgate:registry/registrar");

impl Interface {
    /// Whether this is its name, in whatever version.
    fn is_named(self, name: &str) -> bool {
        let rest = name.strip_prefix(self.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }

    /// Whether this is its name, in a version that is here.
    fn is(self, name: &str) -> bool {
        let version = self.is_named(name).then(|| name.split_once('@')).flatten();
        let (track, newest) = if self.0.starts_with("wasi:") { WASI } else { VERSION };
        version
            .and_then(|(_, version)| version.strip_prefix(track)?.parse::<u64>().ok())
            .is_some_and(|patch| patch <= newest)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Selector => "selector",
            Self::Registry => "registry",
        })
    }
}

/// Why a file is not put to use. The plugin that ran before goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("has {bytes} bytes, and at most {most} are loaded")]
    TooLarge { bytes: u64, most: u64 },
    #[error("its name {0:?} is no plugin name: letters, digits, - and _")]
    Name(String),
    #[error("is native code compiled in advance, which is never loaded")]
    Precompiled,
    #[error("is a core module, not a component")]
    CoreModule,
    #[error("is not WebAssembly")]
    NotWasm,
    #[error("is half written or invalid: {0}")]
    Invalid(String),
    #[error("exports neither witgate:selector/selector nor witgate:registry/registry")]
    NoKnownWorld,
    #[error("exports both a selector and a registry")]
    TwoKinds,
    #[error("uses {0}, and this gateway has 0.1.0")]
    OtherVersion(String),
    #[error("imports {import}, which a {kind} plugin may not")]
    Forbidden { import: String, kind: Kind },
    #[error("does not fit its interfaces: {0}")]
    Mismatch(String),
    #[error("is a {found} plugin, and {wanted} needs a {as_kind} plugin")]
    OtherKind { found: Kind, wanted: String, as_kind: Kind },
    #[error("failed its test: {0}")]
    Test(String),
}

impl From<ReadError> for LoadError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLong { has: Some(bytes), most } => Self::TooLarge { bytes, most },
            error => Self::Unreadable(error.to_string()),
        }
    }
}

/// What a file holds.
pub(super) enum Content {
    /// What it held before.
    Same,
    Loaded(Loaded),
    /// With its digest, if it could be read at all.
    Refused(LoadError, Option<Digest>),
}

/// A component that is a plugin.
#[derive(Clone)]
pub(super) struct Loaded {
    pub kind: Kind,
    /// Whether a registry plugin can also announce.
    pub announces: bool,
    pub component: Component,
    pub digest: Digest,
    /// How long that took to compile, or to find compiled.
    pub took: Duration,
}

/// The SHA-256 of a plugin's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Loads a file, unless it holds what it held before.
pub(super) fn load_file(engine: &Engine, path: &Path, known: Option<Digest>) -> Content {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(refusal) => return Content::Refused(refusal, None),
    };
    let digest = Digest::of(&bytes);
    if known == Some(digest) {
        return Content::Same;
    }
    match load(engine, &bytes) {
        Ok(loaded) => Content::Loaded(loaded),
        Err(refusal) => Content::Refused(refusal, Some(digest)),
    }
}

/// Reads a file that begins like something that could be loaded; of any other the beginning is enough.
fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let file = Opened::open(path)?;
    let mut head = [0; 8];
    let length = file.head(&mut head)?;
    if !head.starts_with(ELF) {
        check_format(&head[..length])?;
    }
    Ok(file.read(LARGEST)?)
}

/// Checks what a plugin imports and exports, and compiles it. Takes seconds, or minutes where the machine is busy:
/// on a thread that nobody waits for.
pub(super) fn load(engine: &Engine, bytes: &[u8]) -> Result<Loaded, LoadError> {
    check_format(bytes)?;
    let (imports, exports) = interfaces(bytes)?;
    let kind = kind(&exports)?;
    imports.into_iter().try_for_each(|import| check_import(import, kind))?;
    let announces = exports.iter().any(|name| ANNOUNCES.is(name));
    let began = Instant::now();
    // A compiler that is wrong about one file costs that file.
    let compiled = catch_unwind(AssertUnwindSafe(|| Component::from_binary(engine.inner(), bytes)));
    let compiled = compiled.map_err(|_| LoadError::Invalid("the compiler failed".to_owned()))?;
    let component = compiled.map_err(|error| LoadError::Invalid(first_line(&format!("{error:#}"))))?;
    Ok(Loaded { kind, announces, component, digest: Digest::of(bytes), took: began.elapsed() })
}

/// The names of what a component itself imports and exports; of those inside it, nothing.
fn interfaces(bytes: &[u8]) -> Result<(Vec<&str>, Vec<&str>), LoadError> {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
    let invalid = |error: wasmparser::BinaryReaderError| LoadError::Invalid(error.to_string());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.name);
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn check_format(bytes: &[u8]) -> Result<(), LoadError> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled);
    }
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [b'\0', b'a', b's', b'm', ..] | [] => Err(LoadError::Invalid("it ends too early".to_owned())),
        _ => Err(LoadError::NotWasm),
    }
}

fn kind(exports: &[&str]) -> Result<Kind, LoadError> {
    let mut kinds = Vec::new();
    for kind in [Kind::Selector, Kind::Registry] {
        for export in exports.iter().filter(|export| kind.export().is_named(export)) {
            if !kind.export().is(export) {
                return Err(LoadError::OtherVersion((*export).to_owned()));
            }
            kinds.push(kind);
        }
    }
    match kinds[..] {
        [kind] => Ok(kind),
        [] => Err(LoadError::NoKnownWorld),
        _ => Err(LoadError::TwoKinds),
    }
}

fn check_import(import: &str, kind: Kind) -> Result<(), LoadError> {
    if runtime::interface(import).is_some() {
        return Ok(());
    }
    match kind.imports().find(|interface| interface.is_named(import)) {
        None => Err(LoadError::Forbidden { import: import.to_owned(), kind }),
        Some(interface) if interface.is(import) => Ok(()),
        Some(_) => Err(LoadError::OtherVersion(import.to_owned())),
    }
}

/// Long explanations of a decoder are of no use in a log line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> LoadError {
        load(&Engine::new(None).unwrap(), bytes).err().unwrap()
    }

    #[test]
    fn what_is_no_plugin_is_refused_with_the_reason() {
        assert_eq!(refused(b"#!/bin/sh\n"), LoadError::NotWasm);
        assert_eq!(refused(b"\0asm\x01\0\0\0"), LoadError::CoreModule);
        assert_eq!(refused(b"\0asm\x0d\0\x01\0"), LoadError::NoKnownWorld);
        assert!(matches!(refused(b""), LoadError::Invalid(_)));
        assert!(matches!(refused(b"\0asm\x0d\0\x01\0\x07"), LoadError::Invalid(_)));
    }

    #[test]
    fn native_code_is_never_loaded() {
        let engine = Engine::new(None).unwrap();
        let component = Component::from_binary(engine.inner(), b"\0asm\x0d\0\x01\0").unwrap();
        assert_eq!(load(&engine, &component.serialize().unwrap()).err(), Some(LoadError::Precompiled));
    }

    #[test]
    fn imports_are_checked_by_kind_and_version() {
        let check = check_import;
        assert_eq!(check("witgate:selector/load@0.1.0", Kind::Selector), Ok(()));
        assert_eq!(check("wasi:clocks/wall-clock@0.2.6", Kind::Selector), Ok(()));
        assert_eq!(check("witgate:etcd/etcd@0.1.0", Kind::Registry), Ok(()));
        assert_eq!(check("wasi:http/outgoing-handler@0.2.0", Kind::Registry), Ok(()));
        for (import, kind) in [
            ("witgate:etcd/etcd@0.1.0", Kind::Selector),
            ("witgate:selector/load@0.1.0", Kind::Registry),
            ("wasi:http/outgoing-handler@0.2.0", Kind::Selector),
            ("wasi:http/incoming-handler@0.2.0", Kind::Registry),
            ("anything", Kind::Selector),
        ] {
            assert_eq!(check(import, kind), Err(LoadError::Forbidden { import: import.into(), kind }));
        }
        for version in ["0.1.1", "0.2.0", "1.0.0"] {
            let import = format!("witgate:selector/load@{version}");
            assert_eq!(check(&import, Kind::Selector), Err(LoadError::OtherVersion(import.clone())));
        }
        let later = "wasi:http/types@0.2.13";
        assert_eq!(check(later, Kind::Registry), Err(LoadError::OtherVersion(later.to_owned())));
    }

    #[test]
    fn exports_tell_the_kind() {
        assert_eq!(kind(&["witgate:selector/selector@0.1.0"]), Ok(Kind::Selector));
        assert_eq!(
            kind(&["witgate:registry/registrar@0.1.0", "witgate:registry/registry@0.1.0"]),
            Ok(Kind::Registry)
        );
        assert_eq!(kind(&["wasi:cli/run@0.2.0"]), Err(LoadError::NoKnownWorld));
        assert_eq!(
            kind(&["witgate:selector/selector@0.1.0", "witgate:registry/registry@0.1.0"]),
            Err(LoadError::TwoKinds)
        );
        let other = "witgate:selector/selector@0.2.0";
        assert_eq!(kind(&[other]), Err(LoadError::OtherVersion(other.to_owned())));
    }
}
