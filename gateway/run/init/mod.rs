//! `witgate init`: a first configuration, with comments, for a registry.
//!
//! Its parts are files beside this one. `@WORD@` in them is filled in; a line that begins with `#` and no space is a
//! setting that its reader may make by taking the `#` away.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::config;

const HEAD: &str = include_str!("head.toml");
const TAIL: &str = include_str!("tail.toml");

/// A registry that a configuration can be written for.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    /// What it is called in a sentence.
    with: &'static str,
    /// Its table.
    table: &'static str,
    addresses: Addresses,
}

/// Where a registry is.
#[derive(Debug, PartialEq, Eq)]
enum Addresses {
    /// Inside the gateway.
    None,
    /// One path. Written if none is given.
    Path(&'static str),
    Places(&'static str),
    /// Places, each a URL. A path in what is written if none is given belongs to every place alone.
    Urls(&'static str),
}

/// All of them, by name.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "consul",
        with: "services of Consul",
        table: include_str!("consul.toml"),
        addresses: Addresses::Urls("127.0.0.1:8500"),
    },
    Kind {
        name: "discovery",
        with: "services of service_discovery",
        table: include_str!("discovery.toml"),
        addresses: Addresses::Urls("127.0.0.1:6666"),
    },
    Kind {
        name: "dns",
        with: "services that DNS knows",
        table: include_str!("dns.toml"),
        addresses: Addresses::Places("127.0.0.1:53"),
    },
    Kind {
        name: "etcd",
        with: "services in etcd",
        table: include_str!("etcd.toml"),
        addresses: Addresses::Places("127.0.0.1:2379"),
    },
    Kind {
        name: "eureka",
        with: "applications of Eureka",
        table: include_str!("eureka.toml"),
        addresses: Addresses::Urls("127.0.0.1:8761/eureka"),
    },
    Kind {
        name: "file",
        with: "services that a file lists",
        table: include_str!("file.toml"),
        addresses: Addresses::Path("services.json"),
    },
    Kind {
        name: "kubernetes",
        with: "services of Kubernetes",
        table: include_str!("kubernetes.toml"),
        addresses: Addresses::Urls("127.0.0.1:8001"),
    },
    Kind {
        name: "memory",
        with: "services that register in the gateway",
        table: include_str!("memory.toml"),
        addresses: Addresses::None,
    },
    Kind {
        name: "nacos",
        with: "services of Nacos",
        table: include_str!("nacos.toml"),
        addresses: Addresses::Urls("127.0.0.1:8848/nacos"),
    },
    Kind {
        name: "zookeeper",
        with: "services in ZooKeeper",
        table: include_str!("zookeeper.toml"),
        addresses: Addresses::Places("127.0.0.1:2181"),
    },
];

/// What is to be in a configuration.
#[derive(Debug, Clone)]
pub struct Init {
    pub registry: &'static Kind,
    /// Where the registry is. Empty: where it usually is on this machine.
    pub addresses: Vec<String>,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

/// Why no configuration was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the registry {registry} {takes}: leave --address {given:?} out")]
    Addresses { registry: &'static str, takes: &'static str, given: String },
    #[error(
        "others can reach {0}, which has to ask for a token: give --admin an address of this machine alone, and write \
         `address` and `token_file` of [admin] into the file afterwards"
    )]
    Admin(SocketAddr),
    /// An address is wrong, or two are the same.
    #[error("what it would write is no valid configuration:\n{0}")]
    Config(#[from] config::Problems),
    #[error("{file} is there and stays as it is: name another file by --output, or print it by --output -")]
    Exists { file: PathBuf },
    #[error("cannot write {file}: name another file by --output")]
    Write { file: PathBuf, source: io::Error },
}

/// The text of a configuration, which is valid as it stands. Paths in it are relative to the folder of `file`.
pub fn init(what: &Init, file: &Path) -> Result<String, InitError> {
    // The file of a token is made by whoever knows the token.
    if !what.admin.ip().is_loopback() {
        return Err(InitError::Admin(what.admin));
    }
    let Kind { name, with, table, addresses } = what.registry;
    let place = |usual: &str| match what.addresses.is_empty() {
        true => vec![usual.to_owned()],
        false => what.addresses.clone(),
    };
    let too_many = |takes| match what.addresses.last() {
        Some(given) => Err(InitError::Addresses { registry: name, takes, given: given.clone() }),
        None => Ok(String::new()),
    };
    let written = match addresses {
        Addresses::None => too_many("is inside the gateway")?,
        Addresses::Path(_) if what.addresses.len() > 1 => too_many("is one file")?,
        Addresses::Path(usual) => json!(place(usual)[0]).to_string(),
        Addresses::Places(usual) => list(place(usual)),
        Addresses::Urls(usual) => list(place(usual).into_iter().map(|place| url(place, usual))),
    };
    let (listen, admin) = (what.listen.to_string(), what.admin.to_string());
    let text = [HEAD, table, TAIL].concat();
    // An address comes last: whatever it has in it is not looked through again.
    let text = text
        .replace("@WITH@", with)
        .replace("@LISTEN@", &json!(listen).to_string())
        .replace("@ADMIN@", &json!(admin).to_string())
        .replace("@LISTEN_HOST@", &listen)
        .replace("@ADMIN_HOST@", &admin)
        .replace("@ADDRESSES@", &written);
    config::parse(&text, file)?;
    Ok(text)
}

/// Writes a configuration to a file that is not there yet.
pub fn write(text: &str, file: &Path) -> Result<(), InitError> {
    let failed = |source| InitError::Write { file: file.to_owned(), source };
    let mut created = fs::File::create_new(file).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { file: file.to_owned() },
        _ => failed(source),
    })?;
    created.write_all(text.as_bytes()).map_err(|source| {
        // Half of it would be in the way of the next try.
        let _ = fs::remove_file(file);
        failed(source)
    })
}

fn list(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| json!(text).to_string()).collect();
    format!("[{}]", texts.join(", "))
}

fn url(place: String, usual: &str) -> String {
    let path = usual.find('/').map_or("", |at| &usual[at..]);
    match place {
        url if url.contains("://") => url,
        place if place.contains('/') => format!("http://{place}"),
        place => format!("http://{place}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Init {
        let registry = KINDS.iter().find(|kind| kind.name == name).unwrap();
        let [listen, admin] = ["127.0.0.1:8080", "127.0.0.1:9901"].map(|address| address.parse().unwrap());
        Init { registry, addresses: Vec::new(), listen, admin }
    }

    fn text(what: &Init) -> Result<String, InitError> {
        init(what, Path::new("witgate.toml"))
    }

    #[test]
    fn nothing_is_left_to_fill_in_and_lines_are_short() {
        for kind in KINDS {
            let text = text(&named(kind.name)).unwrap();
            let left = ["@WITH", "@LISTEN", "@ADMIN", "@ADDRESS"].iter().find(|word| text.contains(**word));
            assert_eq!(left, None, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        }
    }

    #[test]
    fn a_place_alone_becomes_a_url_with_the_usual_path() {
        for (place, expected) in [
            ("10.0.0.1:8761", "http://10.0.0.1:8761/eureka"),
            ("10.0.0.1:8761/eureka/v2", "http://10.0.0.1:8761/eureka/v2"),
            ("https://eureka.internal", "https://eureka.internal"),
        ] {
            assert_eq!(url(place.to_owned(), "127.0.0.1:8761/eureka"), expected);
        }
        assert_eq!(url("10.0.0.1:8500".to_owned(), "127.0.0.1:8500"), "http://10.0.0.1:8500");
    }

    /// What a reader makes by taking the `#` away may name files that are not there, and nothing else is wrong.
    #[test]
    fn settings_that_are_not_made_are_settings() {
        for kind in KINDS {
            let text = text(&named(kind.name)).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let commented =
                |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
            let block = lines.iter().position(|line| *line == "#[upstream.orders]").unwrap();
            let whole: Vec<String> = lines
                .iter()
                .enumerate()
                .map(|(at, line)| commented(line).filter(|_| at >= block).unwrap_or_else(|| line.to_string()))
                .collect();
            config::parse(&whole.join("\n"), Path::new("witgate.toml")).unwrap();
            for (at, line) in lines[..block].iter().enumerate() {
                let Some(setting) = commented(line).filter(|setting| !setting.is_empty()) else { continue };
                let key = setting.split(" = ").next().unwrap().to_owned() + " = ";
                // The table it stands in has it no second time.
                let table = lines[..at].iter().rposition(|line| line.starts_with('[')).unwrap();
                let made = lines.iter().enumerate().map(|(other, line)| match other {
                    _ if other == at => &setting,
                    _ if other > table && other < at && line.starts_with(&key) => "",
                    _ => line,
                });
                let made: Vec<&str> = made.collect();
                if let Err(problems) = config::parse(&made.join("\n"), Path::new("/nowhere/witgate.toml")) {
                    let problems = problems.to_string();
                    let expected = problems.contains("/nowhere/") || problems.contains("needs `");
                    assert!(
                        expected && !problems.contains("unknown"),
                        "{}: {setting}: {problems}",
                        kind.name
                    );
                }
            }
        }
    }

    #[test]
    fn an_address_is_a_string_whatever_is_in_it() {
        let odd = "@LISTEN_HOST@\"]\nx = [\"";
        let error = text(&Init { addresses: vec![odd.into()], ..named("etcd") }).unwrap_err();
        let InitError::Config(problems) = error else { panic!("{error}") };
        let problems = problems.to_string();
        assert!(
            problems.contains("registry.main.etcd.endpoints") && problems.contains("LISTEN_HOST"),
            "{problems}"
        );
    }

    #[test]
    fn a_registry_that_has_no_address_says_so() {
        let given = vec!["10.0.0.1:1".to_owned(), "b".to_owned()];
        let said = |name| text(&Init { addresses: given.clone(), ..named(name) }).unwrap_err().to_string();
        assert_eq!(said("memory"), "the registry memory is inside the gateway: leave --address \"b\" out");
        assert_eq!(said("file"), "the registry file is one file: leave --address \"b\" out");
    }
}
