//! What a node in ZooKeeper means, by what the operator wrote.

use guest::entries::Entry;
use guest::json;
use guest::rpcx::Wanted;
use serde::Deserialize;

use crate::{curator, dubbo};

/// How instances are written.
#[derive(Clone, Debug)]
pub struct Layout {
    /// With a slash before each part and none at the end.
    base: String,
    of: Of,
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
        let Written { layout, base, networks, group, secure, by, version, protocols } =
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
        Ok(Layout { base, of })
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
            (r#"{"layout":"json","prefix":"x"}"#, "unknown field `prefix`"),
        ] {
            let error = Layout::of(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
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
