//! Listeners: those for clients, and that of the administration.

use std::{collections::HashMap, net::SocketAddr};

use ipnet::IpNet;

use super::Checker;
use crate::{
    config::{
        file,
        running::{
            Access, Admin, Consul, Discovery, Eureka, Listener, ListenerProtocol, Nacos, Registrations,
        },
    },
    document::{Way, similar},
};

/// Instead of an address: no listener.
const OFF: &str = "off";

impl Checker<'_> {
    /// What serves nobody is a mistake.
    pub(in crate::config) fn has_a_listener(&mut self, listeners: &[file::Listener]) {
        let way = Way::default().key("listener");
        if listeners.is_empty() && !self.mentions(&way) {
            let hint = "write [[listener]] and address = \"0.0.0.0:8080\"";
            self.wrong(&way, "there is no listener, so no request could arrive").hint(hint);
        }
    }

    pub(super) fn listeners(&mut self, listeners: &[file::Listener]) -> Vec<Listener> {
        let way = Way::default().key("listener");
        self.distinct_names(&way, listeners);
        let places = listeners.iter().enumerate();
        places.filter_map(|(index, listener)| self.listener(&way.index(index), listener)).collect()
    }

    fn listener(&mut self, way: &Way, listener: &file::Listener) -> Option<Listener> {
        let address = self
            .required(way, "address", &listener.address)
            .and_then(|address| self.listen_address(&way.key("address"), address));
        if let Some(name) = &listener.name {
            self.own_name(&way.key("name"), name);
        }
        let protocol = self.listener_protocol(&way.key("protocol"), listener.protocol.as_deref());
        if let Some(protocol @ (ListenerProtocol::Tcp | ListenerProtocol::Rpcx)) = protocol {
            self.nothing_of_http(way, protocol);
        }
        let tls = self.listener_tls(&way.key("tls"), listener.tls.as_ref());
        let proxy_protocol = self.proxies(&way.key("proxy_protocol"), listener.proxy_protocol.as_ref());
        let access_log = self.access_log(&way.key("access_log"), listener.access_log.as_ref());
        let trusted_proxies = self.networks(&way.key("trusted_proxies"), &listener.trusted_proxies);
        let max_connections =
            self.count(&way.key("max_connections"), listener.max_connections, 1..=10_000_000);
        let header_timeout = self.duration_ms(&way.key("header_timeout_ms"), listener.header_timeout_ms);
        let idle_timeout = self.duration_ms(&way.key("idle_timeout_ms"), listener.idle_timeout_ms);
        let body_timeout = self.duration_ms(&way.key("body_timeout_ms"), listener.body_timeout_ms);
        let write_timeout = self.duration_ms(&way.key("write_timeout_ms"), listener.write_timeout_ms);
        let tunnel_idle = self.duration_ms(&way.key("tunnel_idle_ms"), listener.tunnel_idle_ms);
        let max_age = self.limit_ms(&way.key("max_age_ms"), listener.max_age_ms);
        let bytes = &way.key("max_header_bytes");
        let max_header_bytes = self.count(bytes, listener.max_header_bytes, 8_192..=16_777_216);
        Some(Listener {
            name: name(listener)?.into(),
            address: address?,
            protocol: protocol?,
            tls: tls?,
            proxy_protocol: proxy_protocol?,
            access_log: access_log?,
            request_ids: listener.request_ids.unwrap_or(listener.access_log.is_some()),
            trusted_proxies,
            max_connections,
            header_timeout,
            idle_timeout,
            body_timeout,
            write_timeout,
            tunnel_idle,
            max_age,
            max_header_bytes,
        })
    }

    fn listener_protocol(&mut self, way: &Way, name: Option<&str>) -> Option<ListenerProtocol> {
        let Some(name) = name else { return Some(ListenerProtocol::default()) };
        let protocol = by_name(name);
        if protocol.is_none() {
            let hint = similar::hint(name, ListenerProtocol::ALL.map(ListenerProtocol::as_str));
            self.wrong(way, format!("there is no protocol {name:?} of listeners")).hint_if_any(hint);
        }
        protocol
    }

    /// Records the keys that say something of requests.
    fn nothing_of_http(&mut self, way: &Way, protocol: ListenerProtocol) {
        let (keys, hint): (&[&str], _) = match protocol {
            ListenerProtocol::Rpcx => (
                &["request_ids", "trusted_proxies", "max_header_bytes", "max_age_ms"],
                "take it away: with `protocol = \"rpcx\"` clients make calls of rpcx",
            ),
            ListenerProtocol::Http | ListenerProtocol::Tcp => (
                &["request_ids", "trusted_proxies", "body_timeout_ms", "max_header_bytes", "max_age_ms"],
                "take it away: with `protocol = \"tcp\"` bytes are passed on as they are",
            ),
        };
        for key in keys {
            let at = way.key(key);
            if self.document.has(&at) {
                self.wrong_key(&at, format!("`{key}` is for requests of HTTP")).hint(hint);
            }
        }
    }

    fn proxies(&mut self, way: &Way, proxies: Option<&file::ProxyProtocol>) -> Option<Vec<IpNet>> {
        let Some(file::ProxyProtocol { from }) = proxies else { return Some(Vec::new()) };
        let from = self.required(way, "from", from)?;
        let way = way.key("from");
        self.not_empty(&way);
        Some(self.networks(&way, from))
    }

    pub(super) fn networks(&mut self, way: &Way, texts: &[String]) -> Vec<IpNet> {
        let networks = texts.iter().enumerate().filter_map(|(index, text)| match text.parse() {
            Ok(network) => Some(network),
            Err(_) => {
                let hint = match text.parse::<std::net::IpAddr>() {
                    Ok(address) => format!("for one address write `{}`", IpNet::from(address)),
                    Err(_) => "write an address and the length of its prefix, like `10.0.0.0/8`".into(),
                };
                self.wrong(&way.index(index), format!("{text:?} is no network")).hint(hint);
                None
            }
        });
        networks.collect()
    }

    fn distinct_names(&mut self, way: &Way, listeners: &[file::Listener]) {
        let mut seen = HashMap::new();
        for (index, name) in
            listeners.iter().enumerate().filter_map(|(index, l)| Some((index, l.name.as_ref()?)))
        {
            let way = way.index(index).key("name");
            if let Some(first) = seen.get(name) {
                self.wrong(&way, format!("the name {name:?} belongs to {first} already"));
                continue;
            }
            seen.insert(name, way);
        }
    }

    /// Two listeners on one address would share its connections by chance.
    pub(super) fn distinct_addresses(&mut self, listeners: &[file::Listener], admin: &file::Admin) {
        let mut seen: HashMap<SocketAddr, Way> = HashMap::new();
        for (way, address) in addresses(listeners, admin) {
            // Port 0 asks for any free port, and gets another one each time.
            let Some(address) = address.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
            else {
                continue;
            };
            if let Some(first) = seen.get(&address) {
                self.wrong(&way, format!("{address} is the address of {first} already"));
                continue;
            }
            seen.insert(address, way);
        }
    }

    pub(super) fn admin(&mut self, way: &Way, admin: &file::Admin) -> Option<Admin> {
        let at = way.key("address");
        let address = match admin.address.as_str() {
            OFF => Some(None),
            text => self.listen_address(&at, text).map(Some),
        };
        let access =
            self.access(way, &admin.token_file, &admin.read_token_file, &admin.hosts, &admin.trusted_proxies);
        if let Some(Some(address)) = address {
            self.guarded(&at, address, &admin.token_file);
        }
        let tls = self.listener_tls(&way.key("tls"), admin.tls.as_ref());
        let registrations = admin.registrations.as_ref().map(|r| self.registrations(way, r));
        Some(Admin { address: address?, registrations: registrations.flatten(), access, tls: tls? })
    }

    fn registrations(&mut self, way: &Way, registrations: &file::Registrations) -> Option<Registrations> {
        let way = way.key("registrations");
        let at = way.key("address");
        let address = self
            .required(&way, "address", &registrations.address)
            .and_then(|address| self.listen_address(&at, address));
        let file::Registrations { token_file, read_token_file, hosts, trusted_proxies, .. } = registrations;
        let mut access = self.access(&way, token_file, read_token_file, hosts, trusted_proxies);
        let discovery = registrations.discovery.as_ref();
        access.discovery = discovery.and_then(|discovery| self.discovery(&way.key("discovery"), discovery));
        access.eureka = registrations
            .eureka
            .as_ref()
            .map(|eureka| Eureka { from: self.networks(&way.key("eureka").key("from"), &eureka.from) });
        access.consul =
            registrations.consul.as_ref().and_then(|consul| self.consul(&way.key("consul"), consul));
        access.nacos = registrations
            .nacos
            .as_ref()
            .map(|nacos| Nacos { from: self.networks(&way.key("nacos").key("from"), &nacos.from) });
        let tls = self.listener_tls(&way.key("tls"), registrations.tls.as_ref());
        self.guarded(&at, address?, token_file);
        Some(Registrations { address: address?, access, tls: tls? })
    }

    fn access(
        &mut self,
        way: &Way,
        token_file: &Option<String>,
        read_token_file: &Option<String>,
        hosts: &[String],
        trusted_proxies: &[String],
    ) -> Access {
        let mut token =
            |key, file: &Option<String>| file.as_ref().and_then(|file| self.secret(&way.key(key), file));
        let (token, read_token) =
            (token("token_file", token_file), token("read_token_file", read_token_file));
        for (index, host) in hosts.iter().enumerate() {
            self.host_name(&way.key("hosts").index(index), host);
        }
        let trusted_proxies = self.networks(&way.key("trusted_proxies"), trusted_proxies);
        Access {
            token,
            read_token,
            hosts: hosts.to_vec(),
            trusted_proxies,
            discovery: None,
            eureka: None,
            consul: None,
            nacos: None,
        }
    }

    fn consul(&mut self, way: &Way, consul: &file::Consul) -> Option<Consul> {
        let file::Consul { from, datacenter } = consul;
        let from = self.networks(&way.key("from"), from);
        let datacenter = self.text(&way.key("datacenter"), datacenter)?;
        Some(Consul { from, datacenter: datacenter.to_owned() })
    }

    fn discovery(&mut self, way: &Way, discovery: &file::Discovery) -> Option<Discovery> {
        let from = self.networks(&way.key("from"), &discovery.from);
        let env = self.required(way, "env", &discovery.env)?;
        let env = self.text(&way.key("env"), env)?.to_owned();
        Some(Discovery { env, from })
    }

    /// A name or an address as it stands in `Host`, without a port.
    fn host_name(&mut self, way: &Way, host: &str) {
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !is_address && !is_name {
            let message = format!("{host:?} is no host");
            self.wrong(way, message).hint("write a name or an address alone, like `gateway.internal`");
        }
    }

    /// Whoever can write there directs traffic, so an address that others reach needs a token.
    fn guarded(&mut self, way: &Way, address: SocketAddr, token_file: &Option<String>) {
        if token_file.is_none() && !address.ip().is_loopback() {
            let message = format!("others can reach {address}, and no token is asked for");
            self.wrong(way, message).hint("write `token_file`, or listen on 127.0.0.1");
        }
    }
}

/// What the clients of a listener speak. None if that is written wrongly.
pub(super) fn protocol(listener: &file::Listener) -> Option<ListenerProtocol> {
    listener.protocol.as_deref().map_or(Some(ListenerProtocol::default()), by_name)
}

fn by_name(name: &str) -> Option<ListenerProtocol> {
    ListenerProtocol::ALL.into_iter().find(|protocol| protocol.as_str() == name)
}

/// What a listener is called. None if it has neither a name nor an address.
pub(super) fn name(listener: &file::Listener) -> Option<String> {
    let by_address =
        |text: &String| text.parse().map_or(text.clone(), |address: SocketAddr| address.to_string());
    listener.name.clone().or_else(|| listener.address.as_ref().map(by_address))
}

/// Every address of the file and the way to it, right or wrong. That of the administration comes first: it may be
/// a default, and then the place to report is that of the other.
fn addresses<'f>(
    listeners: &'f [file::Listener],
    admin: &'f file::Admin,
) -> impl Iterator<Item = (Way, &'f str)> {
    let way = Way::default().key("admin");
    let of_admin = [(way.key("address"), admin.address.as_str())];
    let registrations = admin.registrations.as_ref().and_then(|table| table.address.as_deref());
    let registrations = registrations.map(|address| (way.key("registrations").key("address"), address));
    let way = Way::default().key("listener");
    let of_clients = listeners.iter().enumerate().filter_map(move |(index, listener)| {
        Some((way.index(index).key("address"), listener.address.as_deref()?))
    });
    of_admin.into_iter().chain(registrations).chain(of_clients)
}
