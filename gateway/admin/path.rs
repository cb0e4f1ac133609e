//! Which resource a path names, and what may be done with it.

use hyper::Method;

use super::{answer::Rejection, consul, dashboard, discovery::Call, eureka, nacos, orders::Verb};

/// Letters of an unknown path that are told back.
const SHOWN: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// A file of the dashboard.
    Page(&'static str),
    Health,
    Ready,
    Metrics,
    Overview,
    Upstreams,
    Upstream(String),
    Order(String, Verb),
    Plugins,
    Plugin(String),
    Listeners,
    Configuration,
    Services,
    Service(String),
    Instance {
        service: String,
        id: String,
    },
    /// Of the API of service_discovery.
    Discovery(Call),
    /// Of Eureka's.
    Eureka(eureka::Call),
    /// Of Consul's.
    Consul(consul::Call),
    /// Of Nacos'.
    Nacos(nacos::Call),
}

impl Resource {
    /// Segments are percent-decoded after the path is taken apart, so a name may hold a `/` as `%2F`.
    pub(super) fn read(path: &str) -> Result<Self, Rejection> {
        let unknown = || Rejection::NoResource(path.chars().take(SHOWN).collect());
        let segments: Vec<&str> = path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
        Ok(match *segments {
            [""] => Self::Page(dashboard::INDEX),
            ["dashboard", name] => Self::Page(dashboard::find(name).ok_or_else(unknown)?),
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["api", "v1", "overview"] => Self::Overview,
            ["api", "v1", "listeners"] => Self::Listeners,
            ["api", "v1", "configuration"] => Self::Configuration,
            ["api", "v1", "upstreams"] => Self::Upstreams,
            ["api", "v1", "upstreams", name] => Self::Upstream(read_name("upstream", name)?),
            ["api", "v1", "upstreams", name, verb] => {
                Self::Order(read_name("upstream", name)?, Verb::read(verb).ok_or_else(unknown)?)
            }
            ["api", "v1", "plugins"] => Self::Plugins,
            ["api", "v1", "plugins", name] => Self::Plugin(read_name("plugin", name)?),
            ["eureka", ref rest @ ..] => Self::Eureka(eureka::Call::read(&read_names(rest)?)),
            ["nacos", ref rest @ ..] => Self::Nacos(nacos::Call::read(&read_names(rest)?)),
            ["v1", ref rest @ ..] => Self::Consul(consul::Call::read(&read_names(rest)?)),
            ["api", call] => Self::Discovery(Call::read(call).ok_or_else(unknown)?),
            ["api", "v1", "services"] => Self::Services,
            ["api", "v1", "services", service] => Self::Service(read_name("service", service)?),
            ["api", "v1", "services", service, id] => {
                Self::Instance { service: read_name("service", service)?, id: read_name("id", id)? }
            }
            _ => return Err(unknown()),
        })
    }

    pub(super) fn is_for_registrations(&self) -> bool {
        matches!(
            self,
            Self::Health
                | Self::Services
                | Self::Service(_)
                | Self::Instance { .. }
                | Self::Discovery(_)
                | Self::Eureka(_)
                | Self::Consul(_)
                | Self::Nacos(_)
        )
    }

    /// Whoever watches over the process asks for it, and has no token. The page that asks for the token has none yet.
    pub(super) fn is_for_everybody(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Page(_))
    }

    /// Whether it is a document that can be followed.
    pub(super) fn is_document(&self) -> bool {
        matches!(
            self,
            Self::Overview
                | Self::Upstreams
                | Self::Upstream(_)
                | Self::Plugins
                | Self::Plugin(_)
                | Self::Listeners
                | Self::Configuration
        )
    }

    pub(super) fn check_method(&self, method: &Method) -> Result<(), Rejection> {
        let (suits, allowed) = match self {
            Self::Instance { .. } => (
                matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE),
                "GET, HEAD, PUT, DELETE",
            ),
            Self::Eureka(call) => is_one_of(method, call.allowed()),
            Self::Consul(call) => is_one_of(method, call.allowed()),
            Self::Nacos(call) => is_one_of(method, call.allowed()),
            Self::Order(..) | Self::Discovery(_) => (*method == Method::POST, "POST"),
            _ => (matches!(*method, Method::GET | Method::HEAD), "GET, HEAD"),
        };
        if suits { Ok(()) } else { Err(Rejection::WrongMethod { method: method.clone(), allowed }) }
    }
}

fn is_one_of(method: &Method, allowed: &'static str) -> (bool, &'static str) {
    (allowed.split(", ").any(|allowed| allowed == method.as_str()), allowed)
}

fn read_names(words: &[&str]) -> Result<Vec<String>, Rejection> {
    words.iter().map(|word| read_name("path", word)).collect()
}

/// Any text; whether there can be something of that name is not for the path to know.
fn read_name(kind: &'static str, segment: &str) -> Result<String, Rejection> {
    decode(segment)
        .ok_or_else(|| Rejection::Invalid(format!("{kind} {segment:?} is not percent-encoded UTF-8")))
}

fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |byte: u8| (byte as char).to_digit(16);
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources_or_are_refused_with_the_reason() {
        let check = |path: &str, expected: Result<Resource, &str>| match (Resource::read(path), expected) {
            (Ok(resource), Ok(expected)) => assert_eq!(resource, expected, "{path}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{path}: {error}"),
            (found, _) => panic!("{path}: {found:?}"),
        };
        let instance =
            |service: &str, id: &str| Resource::Instance { service: service.into(), id: id.into() };
        check("/healthz", Ok(Resource::Health));
        check("/api/v1/upstreams/hello@main", Ok(Resource::Upstream("hello@main".into())));
        check("/api/v1/upstreams/a/pin", Ok(Resource::Order("a".into(), Verb::Pin)));
        check("/api/v1/upstreams/a/fly", Err("nothing at"));
        check("/api/v1/services/hello/tcp@10.0.0.1:80", Ok(instance("hello", "tcp@10.0.0.1:80")));
        check("/api/v1/services/a%2Fb/%C3%A9", Ok(instance("a/b", "é")));
        check("/", Ok(Resource::Page("index.html")));
        check("/dashboard/app.js", Ok(Resource::Page("app.js")));
        check("/dashboard/mod.rs", Err("nothing at"));
        check("/dashboard/", Err("nothing at"));
        check("/api/renew", Ok(Resource::Discovery(Call::Renew)));
        check("/api/polls", Err("nothing at"));
        check("/eureka/apps/", Ok(Resource::Eureka(eureka::Call::Applications)));
        let (app, id) = ("ORDERS".to_owned(), "h:orders:80".to_owned());
        check("/eureka/apps/ORDERS/h%3Aorders:80", Ok(Resource::Eureka(eureka::Call::Instance { app, id })));
        let pass = consul::Call::Say(Default::default(), "service:a/b".to_owned());
        check("/v1/agent/check/pass/service:a%2Fb", Ok(Resource::Consul(pass)));
        check("/nacos/v1/ns/instance/list", Ok(Resource::Nacos(nacos::Call::Instances)));
        check("/nacos/v2/ns/instance", Ok(Resource::Nacos(nacos::Call::Other("v2/ns/instance".into()))));
        check("/healthz/", Err("nothing at"));
        check("/api/v1/services/a/b/c", Err("nothing at"));
        check("/api/v1/services/a/%2", Err("id \"%2\" is not percent-encoded UTF-8"));
        check("/api/v1/services/a/%ff", Err("is not percent-encoded UTF-8"));
    }
}
