//! What a key in etcd and its value mean.

use guest::entries::Entry;
use guest::json;
use guest::rpcx::{self, Wanted};
use serde::Deserialize;

/// What the operator wrote, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub layout: Layout,
    /// How long a lease for an announcement is asked for.
    pub ttl_seconds: u32,
}

/// How endpoints are written.
#[derive(Clone, Debug)]
pub enum Layout {
    GoZero,
    Rpcx {
        /// Without a slash at the end.
        base: String,
        wanted: Wanted,
    },
    Plain {
        /// Empty, or with a slash at the end.
        prefix: String,
    },
    Json {
        /// As above.
        prefix: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    layout: Name,
    base: Option<String>,
    #[serde(alias = "network")]
    networks: Option<Vec<String>>,
    group: Option<String>,
    prefix: Option<String>,
    ttl_seconds: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    GoZero,
    Rpcx,
    Plain,
    Json,
}

impl Settings {
    pub fn read(settings: &str) -> Result<Settings, String> {
        let Written { layout, base, networks, group, prefix, ttl_seconds } = guest::settings::read(settings)?;
        let rpcx = layout == Name::Rpcx;
        let prefixed = matches!(layout, Name::Plain | Name::Json);
        for (given, key, allowed) in [
            (base.is_some(), "base", rpcx),
            (networks.is_some(), "networks", rpcx),
            (group.is_some(), "group", rpcx),
            (prefix.is_some(), "prefix", prefixed),
        ] {
            if given && !allowed {
                return Err(format!("settings: {key}: means nothing in this layout"));
            }
        }
        let ttl_seconds = ttl_seconds.unwrap_or(if rpcx { 30 } else { 10 });
        if !(2..=86_400).contains(&ttl_seconds) {
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between 2 and 86400"));
        }
        let prefix = match prefix.unwrap_or_default() {
            prefix if prefix.is_empty() || prefix.ends_with('/') => prefix,
            prefix => prefix + "/",
        };
        let layout = match layout {
            Name::GoZero => Layout::GoZero,
            Name::Rpcx => Layout::Rpcx {
                base: base
                    .ok_or("settings: base: missing, and rpcx has no default for it")?
                    .trim_end_matches('/')
                    .to_owned(),
                wanted: Wanted::new(networks, group),
            },
            Name::Plain => Layout::Plain { prefix },
            Name::Json => Layout::Json { prefix },
        };
        Ok(Settings { layout, ttl_seconds })
    }
}

impl Layout {
    /// What the keys of a service begin with. The slash at its end keeps `users` apart from `users2`.
    pub fn prefix(&self, service: &str) -> Result<String, String> {
        if service.is_empty() {
            return Err("service: \"\" would be every service".to_owned());
        }
        Ok(match self {
            Layout::GoZero => format!("{service}/"),
            Layout::Rpcx { base, .. } => format!("{base}/{service}/"),
            Layout::Plain { prefix } | Layout::Json { prefix } => format!("{prefix}{service}/"),
        })
    }

    /// Says why an instance cannot be announced: nobody would find it.
    pub fn check(&self, service: &str, entry: &Entry) -> Result<(), String> {
        self.prefix(service)?;
        match self {
            Layout::Rpcx { .. } => rpcx::check_key(entry),
            _ => rpcx::check_key(&Entry::plain(&entry.address)),
        }
    }

    /// The endpoint that a key claims, by the rest of the key after the prefix. None when it claims none: a folder,
    /// an instance of another service, or an endpoint that is not asked for. One that is inactive has weight 0.
    ///
    /// A value that makes no sense is passed on as the address, so that the gateway reports it.
    pub fn read(&self, rest: &[u8], value: &[u8]) -> Option<Entry> {
        if rest.is_empty() || rest.contains(&b'/') {
            return None;
        }
        let (rest, value) = (String::from_utf8_lossy(rest), String::from_utf8_lossy(value));
        match self {
            Layout::GoZero | Layout::Plain { .. } => plain(value.trim()),
            Layout::Json { .. } => json::read(value.trim()),
            Layout::Rpcx { wanted, .. } => wanted.read(&rest, &value),
        }
    }

    /// The key and the value by which clients of this layout find an instance. `lease` is the one it hangs on.
    pub fn write(&self, service: &str, entry: &Entry, lease: i64) -> (String, String) {
        let address = &entry.address;
        match self {
            Layout::GoZero => (format!("{service}/{lease}"), address.clone()),
            Layout::Rpcx { base, .. } => {
                let metadata = rpcx::write_metadata(entry.weight, &entry.labels);
                (format!("{base}/{service}/{}", rpcx::write_key(entry)), metadata)
            }
            Layout::Plain { prefix } => (format!("{prefix}{service}/{address}"), address.clone()),
            Layout::Json { prefix } => (format!("{prefix}{service}/{address}"), json::write(entry)),
        }
    }
}

fn plain(value: &str) -> Option<Entry> {
    (!value.is_empty()).then(|| Entry::plain(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use guest::entries::State;

    const GO_ZERO: &str = r#"{"layout":"go-zero"}"#;
    const RPCX: &str = r#"{"layout":"rpcx","base":"/rpcx_test"}"#;
    const PLAIN: &str = r#"{"layout":"plain"}"#;
    const JSON: &str = r#"{"layout":"json","prefix":"/services"}"#;

    fn layout(settings: &str) -> Layout {
        Settings::read(settings).unwrap_or_else(|error| panic!("{settings}: {error}")).layout
    }

    type Expected<'a> = (&'a str, u32, &'a [(&'a str, &'a str)]);

    fn check(settings: &str, rest: &str, value: &str, expected: Option<Expected>) {
        let entry = layout(settings).read(rest.as_bytes(), value.as_bytes());
        let expected = expected.map(|(address, weight, labels)| Entry {
            weight,
            labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Entry::plain(address)
        });
        assert_eq!(entry, expected, "{settings} {rest} {value}");
    }

    #[test]
    fn json_says_how_an_instance_stands() {
        let read = |value: &str| layout(JSON).read(b"1", value.as_bytes()).unwrap();
        let value = r#"{"address":"a:1","priority":2,"state":"unwell","hostname":"a.example","zone":"x"}"#;
        let (hostname, zone) = (Some("a.example".to_owned()), Some("x".to_owned()));
        let expected = Entry { priority: 2, state: State::Unwell, hostname, zone, ..Entry::plain("a:1") };
        assert_eq!(read(value), expected);
        let nonsense = r#"{"address":"a:1","priority":-2,"state":"gone","hostname":7,"zone":""}"#;
        assert_eq!(read(nonsense), Entry::plain("a:1"));
    }

    #[test]
    fn keys_begin_with_the_service_and_a_slash() {
        for (settings, service, prefix) in [
            (GO_ZERO, "user.rpc", "user.rpc/"),
            (GO_ZERO, "team/user.rpc", "team/user.rpc/"),
            (RPCX, "Arith", "/rpcx_test/Arith/"),
            (r#"{"layout":"rpcx","base":"rpcx_test/"}"#, "Arith", "rpcx_test/Arith/"),
            (PLAIN, "/node", "/node/"),
            (r#"{"layout":"plain","prefix":"/etc"}"#, "node", "/etc/node/"),
            (JSON, "orders", "/services/orders/"),
        ] {
            assert_eq!(layout(settings).prefix(service).as_deref(), Ok(prefix));
        }
        assert!(layout(GO_ZERO).prefix("").is_err());
    }

    #[test]
    fn go_zero() {
        check(GO_ZERO, "4390624784388725509", "10.0.0.1:8080", Some(("10.0.0.1:8080", 1, &[])));
        check(GO_ZERO, "1", "10.0.0.1:8080\n", Some(("10.0.0.1:8080", 1, &[])));
        check(GO_ZERO, "1", "", None);
        check(GO_ZERO, "", "10.0.0.1:8080", None);
    }

    #[test]
    fn rpcx() {
        let tcp: &[(&str, &str)] = &[("network", "tcp"), ("protocol", "rpcx")];
        check(RPCX, "tcp@a:1", "", Some(("a:1", 1, tcp)));
        check(RPCX, "a:1", "", Some(("a:1", 1, &[])));
        check(RPCX, "tcp@[::1]:1", "weight=5", Some(("[::1]:1", 5, tcp)));
        check(RPCX, "tcp@a:1", "weight=0", Some(("a:1", 0, tcp)));
        check(RPCX, "tcp@a:1", "state=inactive", Some(("a:1", 0, tcp)));
        check(RPCX, "tcp@a:1", "state=inactive&weight=5", Some(("a:1", 0, tcp)));
        check(RPCX, "tcp@a:1", "state=inactive;", Some(("a:1", 1, tcp)));
        check(RPCX, "", "Arith", None);
        check(RPCX, "Arith", "Arith", None);
        for network in ["unix", "quic", "kcp", "memu", "rdma", "ws", "http"] {
            check(RPCX, &format!("{network}@a:1"), "", None);
        }
        let only_ws = r#"{"layout":"rpcx","base":"/b","networks":["ws"]}"#;
        check(only_ws, "ws@a:1", "", Some(("a:1", 1, &[("network", "ws"), ("protocol", "rpcx")])));
        check(only_ws, "tcp@a:1", "", None);
    }

    #[test]
    fn rpcx_groups_are_labels_and_a_filter() {
        let both: &[(&str, &str)] =
            &[("network", "tcp"), ("protocol", "rpcx"), ("group", "x"), ("group", "y")];
        check(RPCX, "tcp@a:1", "group=x&group=y", Some(("a:1", 1, both)));
        let y = r#"{"layout":"rpcx","base":"/b","group":"y"}"#;
        check(y, "tcp@a:1", "group=x&group=y", Some(("a:1", 1, both)));
        check(y, "tcp@a:1", "group=x", None);
        check(y, "tcp@a:1", "", None);
        check(y, "tcp@a:1", "group=x;", Some(("a:1", 1, &[("network", "tcp"), ("protocol", "rpcx")])));
        check(
            r#"{"layout":"rpcx","base":"/b","group":""}"#,
            "tcp@a:1",
            "group=x",
            Some(("a:1", 1, &both[..3])),
        );
    }

    #[test]
    fn json() {
        check(JSON, "1", r#"{"address":"a:1"}"#, Some(("a:1", 1, &[])));
        check(
            JSON,
            "1",
            r#"{"address":"a:1","weight":3,"labels":{"zone":"x"}}"#,
            Some(("a:1", 3, &[("zone", "x")])),
        );
        check(JSON, "1", r#"{"address":"a:1","weight":-3,"other":[]}"#, Some(("a:1", 0, &[])));
        check(JSON, "1", r#"{"address":"a:1","weight":"many"}"#, Some(("a:1", 1, &[])));
        check(JSON, "1", r#"{"address":"a:1","weight":99999999999}"#, Some(("a:1", u32::MAX, &[])));
        check(JSON, "1", r#"{"Op":0,"Addr":"a:1","Metadata":null}"#, Some(("a:1", 1, &[])));
        check(
            JSON,
            "1",
            r#"{"Op":0,"Addr":"a:1","Metadata":{"v":2,"x":{}}}"#,
            Some(("a:1", 1, &[("v", "2")])),
        );
        check(JSON, "1", r#"{"Op":1,"Addr":"a:1"}"#, None);
        check(JSON, "1", "{broken", Some(("{broken", 1, &[])));
        check(JSON, "1", "", None);
    }

    #[test]
    fn what_is_written_is_found() {
        let labels = vec![("zone".to_owned(), "a b".to_owned()), ("zone".to_owned(), "c".to_owned())];
        let entry = Entry { weight: 3, labels, ..Entry::plain("10.0.0.1:80") };
        for (settings, key, value) in [
            (GO_ZERO, "svc/77", "10.0.0.1:80"),
            (RPCX, "/rpcx_test/svc/tcp@10.0.0.1:80", "weight=3&zone=a+b&zone=c"),
            (PLAIN, "svc/10.0.0.1:80", "10.0.0.1:80"),
            (
                JSON,
                "/services/svc/10.0.0.1:80",
                r#"{"address":"10.0.0.1:80","labels":[["zone","a b"],["zone","c"]],"weight":3}"#,
            ),
        ] {
            let layout = layout(settings);
            assert_eq!(layout.write("svc", &entry, 77), (key.to_owned(), value.to_owned()));
            let rest = key.strip_prefix(&layout.prefix("svc").unwrap()).unwrap();
            assert_eq!(layout.read(rest.as_bytes(), value.as_bytes()).unwrap().address, entry.address);
        }
        let drained = Entry { weight: 0, ..entry };
        assert_eq!(layout(RPCX).write("svc", &drained, 77).1, "state=inactive&zone=a+b&zone=c");
    }

    #[test]
    fn settings_say_what_is_wrong() {
        for (settings, part) in [
            ("{}", "missing field `layout`"),
            (r#"{"layout":"gozero"}"#, "layout: unknown variant `gozero`, expected one of `go-zero`"),
            (r#"{"layout":"rpcx"}"#, "base: missing"),
            (r#"{"layout":"go-zero","base":"/x"}"#, "base: means nothing"),
            (r#"{"layout":"rpcx","base":"/x","prefix":"y"}"#, "prefix: means nothing"),
            (r#"{"layout":"plain","group":"y"}"#, "group: means nothing"),
            (r#"{"layout":"plain","ttl_seconds":1}"#, "ttl_seconds: 1 is not"),
            (r#"{"layout":"plain","ttl":1}"#, "unknown field `ttl`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    #[test]
    fn an_instance_is_one_part_of_a_key() {
        let json = r#"{"address":"10.0.0.1:80"}"#;
        for (settings, value) in [(GO_ZERO, "10.0.0.1:80"), (PLAIN, "10.0.0.1:80"), (JSON, json), (RPCX, "")]
        {
            let layout = layout(settings);
            for rest in ["sub/10.0.0.1:80", "/10.0.0.1:80", "10.0.0.1:80/", "sub/", "/", ""] {
                assert_eq!(layout.read(rest.as_bytes(), value.as_bytes()), None, "{settings} {rest:?}");
            }
            assert!(layout.read(b"10.0.0.1:80", value.as_bytes()).is_some(), "{settings}");
        }
    }

    #[test]
    fn what_would_be_another_service_is_not_announced() {
        let entry = |address: &str, network: &str| Entry {
            labels: vec![("network".to_owned(), network.to_owned())],
            ..Entry::plain(address)
        };
        for settings in [GO_ZERO, PLAIN, JSON, RPCX] {
            let layout = layout(settings);
            assert_eq!(layout.check("svc", &entry("a:1", "tcp")), Ok(()));
            assert!(layout.check("", &entry("a:1", "tcp")).is_err());
            assert!(layout.check("svc", &entry("sub/a:1", "tcp")).is_err());
        }
        for network in ["a/b", "a@b"] {
            assert!(layout(RPCX).check("svc", &entry("a:1", network)).is_err());
            assert_eq!(layout(JSON).check("svc", &entry("a:1", network)), Ok(()));
        }
    }

    proptest! {
        /// Of all services there can be, one has a key: that before its last slash.
        #[test]
        fn a_key_belongs_to_one_service(key in "[ab.]{1,2}[ab/.]{0,8}") {
            for settings in [GO_ZERO, PLAIN] {
                let layout = layout(settings);
                let services = key.match_indices('/').map(|(at, _)| &key[..at]);
                let owners: Vec<_> = services
                    .filter(|service| {
                        let rest = key.strip_prefix(&layout.prefix(service).unwrap()).unwrap();
                        layout.read(rest.as_bytes(), b"10.0.0.1:80").is_some()
                    })
                    .collect();
                let owner = key.rsplit_once('/').filter(|(_, instance)| !instance.is_empty());
                prop_assert_eq!(owners, owner.map(|(service, _)| service).into_iter().collect::<Vec<_>>());
            }
        }

        /// What is announced is found again under its service, as it was announced, and under no other.
        #[test]
        fn what_is_announced_is_found_again(
            service in "[a-z./]{1,8}",
            other in "[a-z./]{1,8}",
            weight in 0u32..3,
            host in "[a-z]{1,5}",
            zone in ".{0,5}",
        ) {
            let labels = vec![("zone".to_owned(), zone)];
            let entry = Entry { weight, labels: labels.clone(), ..Entry::plain(&format!("{host}:80")) };
            for settings in [GO_ZERO, RPCX, PLAIN, JSON] {
                let layout = layout(settings);
                prop_assert_eq!(layout.check(&service, &entry), Ok(()));
                let (key, value) = layout.write(&service, &entry, 77);
                let read = |service: &str| {
                    let rest = key.strip_prefix(&layout.prefix(service).unwrap())?;
                    layout.read(rest.as_bytes(), value.as_bytes())
                };
                let found = read(&service).unwrap();
                prop_assert_eq!(&found.address, &entry.address);
                if matches!(layout, Layout::Rpcx { .. } | Layout::Json { .. }) {
                    prop_assert_eq!(found.weight, weight);
                    prop_assert!(labels.iter().all(|label| found.labels.contains(label)));
                }
                prop_assert!(other == service || read(&other).is_none());
            }
        }

        #[test]
        fn any_bytes_are_read(rest in any::<Vec<u8>>(), value in any::<Vec<u8>>(), text in "[{}\":,a-zA-Z0-9=&;%@.]*") {
            for settings in [GO_ZERO, RPCX, PLAIN, JSON] {
                let layout = layout(settings);
                layout.read(&rest, &value);
                layout.read(text.as_bytes(), text.as_bytes());
            }
        }

        #[test]
        fn any_json_is_read(weight in any::<i64>(), op in any::<i64>(), text in ".*") {
            let value = serde_json::json!({"Addr": text, "weight": weight, "Op": op, "Metadata": {&text: text}});
            layout(JSON).read(b"1", value.to_string().as_bytes());
        }
    }
}
