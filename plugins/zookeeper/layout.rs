//! What a node in ZooKeeper means, by what the operator wrote.

use guest::entries::Entry;
use guest::json;
use guest::rpcx::{self, Wanted};
use serde::Deserialize;

use crate::{curator, dubbo};

/// How instances are written.
#[derive(Clone, Debug)]
pub struct Layout {
    /// With a slash before each part and none at the end.
    base: String,
    of: Of,
    /// How long a session for an announcement is asked for.
    pub ttl_seconds: u32,
}

#[derive(Clone, Debug)]
enum Of {
    Plain,
    Json,
    Rpcx(Wanted),
    Curator { secure: bool },
    DubboInterface(dubbo::Wanted),
    DubboApplication(dubbo::Wanted),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    layout: Name,
    base: Option<String>,
    #[serde(alias = "network")]
    networks: Option<Vec<String>>,
    group: Option<String>,
    secure: Option<bool>,
    by: Option<By>,
    version: Option<String>,
    protocols: Option<Vec<String>>,
    ttl_seconds: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    Plain,
    Json,
    Rpcx,
    Curator,
    Dubbo,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    #[default]
    Interface,
    Application,
}

impl Layout {
    /// What the settings say; the error names the key and the value.
    pub fn of(settings: &str) -> Result<Layout, String> {
        let Written { layout, base, networks, group, secure, by, version, protocols, ttl_seconds } =
            guest::settings::read(settings)?;
        let (rpcx, dubbo) = (layout == Name::Rpcx, layout == Name::Dubbo);
        let by_interface = dubbo && by.unwrap_or_default() == By::Interface;
        for (given, key, allowed) in [
            (networks.is_some(), "networks", rpcx),
            (group.is_some(), "group", rpcx || by_interface),
            (secure.is_some(), "secure", layout == Name::Curator),
            (by.is_some(), "by", dubbo),
            (version.is_some(), "version", by_interface),
            (protocols.is_some(), "protocols", dubbo),
        ] {
            if given && !allowed {
                return Err(format!("settings: {key}: means nothing in this layout"));
            }
        }
        let ttl_seconds = ttl_seconds.unwrap_or(10);
        if !(2..=86_400).contains(&ttl_seconds) {
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between 2 and 86400"));
        }
        let default = match layout {
            Name::Plain | Name::Json => Some("/"),
            Name::Rpcx => None,
            Name::Dubbo if by_interface => Some("/dubbo"),
            Name::Curator | Name::Dubbo => Some("/services"),
        };
        let base = base.or(default.map(str::to_owned));
        let base = base.ok_or("settings: base: missing, and rpcx has no default for it")?;
        let base = match base.trim_matches('/') {
            "" => String::new(),
            base => path(base).map_err(|why| format!("settings: base: {why}"))?,
        };
        let wanted = dubbo::Wanted { group: group.clone(), version, protocols };
        let of = match layout {
            Name::Plain => Of::Plain,
            Name::Json => Of::Json,
            Name::Rpcx => Of::Rpcx(Wanted::new(networks, group)),
            Name::Curator => Of::Curator { secure: secure.unwrap_or_default() },
            Name::Dubbo if by_interface => Of::DubboInterface(wanted),
            Name::Dubbo => Of::DubboApplication(wanted),
        };
        Ok(Layout { base, of, ttl_seconds })
    }

    /// The node whose children are the instances of a service.
    pub fn path(&self, service: &str) -> Result<String, String> {
        let service = path(service).map_err(|why| format!("service: {why}"))?;
        let providers = if matches!(self.of, Of::DubboInterface(_)) { "/providers" } else { "" };
        Ok(format!("{}{service}{providers}", self.base))
    }

    /// Whether there is anything to know of an instance beside its name.
    pub fn has_data(&self) -> bool {
        !matches!(self.of, Of::DubboInterface(_))
    }

    /// The endpoint that a node claims. None when it claims none, or one that is not asked for. One that is switched off
    /// has weight 0.
    ///
    /// What makes no sense is passed on as the address, so that the gateway reports it.
    pub fn read(&self, name: &str, data: &[u8]) -> Option<Entry> {
        let data = String::from_utf8_lossy(data);
        let value = match data.trim() {
            "" => name,
            data => data,
        };
        match &self.of {
            Of::Plain => Some(Entry::plain(value)),
            Of::Json => json::read(value),
            Of::Rpcx(wanted) => wanted.read(name, &data),
            Of::Curator { secure } => Some(curator::read(value, *secure)),
            Of::DubboInterface(wanted) => wanted.provider(name),
            Of::DubboApplication(wanted) => wanted.instance(value),
        }
    }
}

impl Layout {
    /// Says why an instance cannot be announced: nobody would find it, or use it.
    pub fn check(&self, service: &str, entry: &Entry) -> Result<(), String> {
        self.path(service)?;
        if matches!(self.of, Of::DubboInterface(_) | Of::DubboApplication(_)) {
            return Err(
                "settings: layout: nothing is announced to Dubbo, whose clients ask for more".to_owned()
            );
        }
        match self.of {
            Of::Rpcx(_) => rpcx::check_key(entry),
            _ => rpcx::check_key(&Entry::plain(&entry.address)),
        }
    }

    /// The node and the data by which clients of this layout find an instance.
    pub fn write(&self, service: &str, entry: &Entry) -> (String, String) {
        let address = &entry.address;
        let (name, data) = match &self.of {
            Of::Rpcx(_) => (rpcx::write_key(entry), rpcx::write_metadata(entry.weight, &entry.labels)),
            Of::Json => (address.clone(), json::write(entry)),
            Of::Curator { secure } => (address.clone(), curator::write(service, entry, *secure)),
            Of::Plain | Of::DubboInterface(_) | Of::DubboApplication(_) => (address.clone(), address.clone()),
        };
        (format!("{}/{service}/{name}", self.base), data)
    }
}

/// A path with a slash before each part, as ZooKeeper takes it.
fn path(text: &str) -> Result<String, String> {
    let wrong = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
    match text.split('/').find(|part| wrong(part)) {
        Some(part) => Err(format!("{text:?} has the part {part:?}, which no node has")),
        None => Ok(format!("/{text}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str = r#"{"layout":"plain"}"#;
    const JSON: &str = r#"{"layout":"json","base":"/json/"}"#;
    const RPCX: &str = r#"{"layout":"rpcx","base":"rpcx_test"}"#;
    const CURATOR: &str = r#"{"layout":"curator"}"#;
    const DUBBO: &str = r#"{"layout":"dubbo"}"#;
    const APPLICATION: &str = r#"{"layout":"dubbo","by":"application"}"#;

    fn layout(settings: &str) -> Layout {
        Layout::of(settings).unwrap_or_else(|error| panic!("{settings}: {error}"))
    }

    fn read(settings: &str, name: &str, data: &str) -> Option<(String, u32)> {
        let entry = layout(settings).read(name, data.as_bytes());
        entry.map(|entry| (entry.address, entry.weight))
    }

    fn found(address: &str, weight: u32) -> Option<(String, u32)> {
        Some((address.to_owned(), weight))
    }

    #[test]
    fn a_service_is_a_node_below_the_base() {
        for (settings, service, path) in [
            (PLAIN, "orders", "/orders"),
            (PLAIN, "team/orders", "/team/orders"),
            (JSON, "orders", "/json/orders"),
            (RPCX, "Arith", "/rpcx_test/Arith"),
            (CURATOR, "orders", "/services/orders"),
            (DUBBO, "com.acme.Orders", "/dubbo/com.acme.Orders/providers"),
            (APPLICATION, "orders", "/services/orders"),
        ] {
            assert_eq!(layout(settings).path(service).as_deref(), Ok(path), "{settings}");
        }
        for service in ["", "/orders", "orders/", "a//b", "..", "a/./b", "a\0b"] {
            let error = layout(PLAIN).path(service).unwrap_err();
            assert!(error.starts_with("service: ") && error.contains("which no node has"), "{error}");
        }
    }

    #[test]
    fn each_layout_reads_its_own() {
        assert_eq!(read(PLAIN, "i1", "10.0.0.1:80\n"), found("10.0.0.1:80", 1));
        assert_eq!(read(PLAIN, "10.0.0.1:80", ""), found("10.0.0.1:80", 1));
        assert_eq!(read(JSON, "i1", r#"{"address":"a:1","weight":3}"#), found("a:1", 3));
        assert_eq!(read(JSON, "a:1", ""), found("a:1", 1));
        assert_eq!(read(JSON, "i1", r#"{"Op":1,"Addr":"a:1"}"#), None);
        assert_eq!(read(RPCX, "tcp@a:1", "weight=5"), found("a:1", 5));
        assert_eq!(read(RPCX, "tcp@a:1", "state=inactive"), found("a:1", 0));
        assert_eq!(read(RPCX, "quic@a:1", ""), None);
        assert_eq!(read(CURATOR, "id", r#"{"address":"a","port":1}"#), found("a:1", 1));
        assert_eq!(read(DUBBO, "dubbo%3A%2F%2Fa%3A1%2Fx", ""), found("a:1", 100));
        assert_eq!(read(APPLICATION, "a:1", r#"{"address":"a","port":1}"#), found("a:1", 1));
    }

    #[test]
    fn only_a_provider_of_an_interface_has_all_in_its_name() {
        for (settings, has) in [(PLAIN, true), (RPCX, true), (APPLICATION, true), (DUBBO, false)] {
            assert_eq!(layout(settings).has_data(), has, "{settings}");
        }
    }

    #[test]
    fn settings_say_what_is_wrong() {
        for (settings, part) in [
            ("{}", "missing field `layout`"),
            (r#"{"layout":"spring"}"#, "layout: unknown variant `spring`, expected one of `plain`"),
            (r#"{"layout":"rpcx"}"#, "base: missing"),
            (r#"{"layout":"plain","base":"/a//b"}"#, r#"settings: base: "a//b" has the part """#),
            (r#"{"layout":"plain","group":"g"}"#, "group: means nothing"),
            (r#"{"layout":"dubbo","secure":true}"#, "secure: means nothing"),
            (r#"{"layout":"curator","by":"interface"}"#, "by: means nothing"),
            (r#"{"layout":"dubbo","by":"application","version":"1"}"#, "version: means nothing"),
            (r#"{"layout":"curator","protocols":["tri"]}"#, "protocols: means nothing"),
            (r#"{"layout":"plain","ttl_seconds":1}"#, "ttl_seconds: 1 is not"),
            (r#"{"layout":"json","prefix":"x"}"#, "unknown field `prefix`"),
        ] {
            let error = Layout::of(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_found() {
        let labels = vec![("zone".to_owned(), "a b".to_owned())];
        let entry = Entry { weight: 3, labels, ..Entry::plain("10.0.0.1:80") };
        for (settings, node, data) in [
            (PLAIN, "/svc/10.0.0.1:80", "10.0.0.1:80"),
            (
                JSON,
                "/json/svc/10.0.0.1:80",
                r#"{"address":"10.0.0.1:80","labels":[["zone","a b"]],"weight":3}"#,
            ),
            (RPCX, "/rpcx_test/svc/tcp@10.0.0.1:80", "weight=3&zone=a+b"),
        ] {
            let layout = layout(settings);
            assert_eq!(layout.write("svc", &entry), (node.to_owned(), data.to_owned()));
        }
        for settings in [PLAIN, JSON, RPCX, CURATOR] {
            let layout = layout(settings);
            let (node, data) = layout.write("svc", &entry);
            let (parent, name) = node.rsplit_once('/').unwrap();
            assert_eq!(layout.path("svc").as_deref(), Ok(parent));
            assert_eq!(layout.read(name, data.as_bytes()).unwrap().address, entry.address, "{settings}");
        }
        let drained = Entry { weight: 0, ..entry };
        for settings in [JSON, RPCX, CURATOR] {
            let (node, data) = layout(settings).write("svc", &drained);
            let name = node.rsplit_once('/').unwrap().1;
            assert_eq!(layout(settings).read(name, data.as_bytes()).unwrap().weight, 0, "{settings}");
        }
    }

    #[test]
    fn what_nobody_would_find_is_not_announced() {
        let entry = Entry::plain("10.0.0.1:80");
        for settings in [PLAIN, JSON, RPCX, CURATOR] {
            assert_eq!(layout(settings).check("svc", &entry), Ok(()));
            assert!(layout(settings).check("", &entry).is_err());
            assert!(layout(settings).check("svc", &Entry::plain("a/b:1")).is_err());
        }
        for settings in [DUBBO, APPLICATION] {
            assert!(layout(settings).check("svc", &entry).unwrap_err().contains("Dubbo"));
        }
        let odd = Entry { labels: vec![("network".to_owned(), "a@b".to_owned())], ..entry };
        assert!(layout(RPCX).check("svc", &odd).is_err() && layout(JSON).check("svc", &odd).is_ok());
    }

    proptest! {
        #[test]
        fn any_node_is_read(name in ".*", data in any::<Vec<u8>>(), text in "[{}\":,a-zA-Z0-9=&;%@./]*") {
            for settings in [PLAIN, JSON, RPCX, CURATOR, DUBBO, APPLICATION] {
                layout(settings).read(&name, &data);
                layout(settings).read(&text, text.as_bytes());
            }
        }
    }
}
