//! What is asked for below `/v1/`.

use crate::connector::memory::CheckStatus;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::admin) enum Call {
    Register,
    Deregister(String),
    Maintenance(String),
    RegisterCheck,
    DeregisterCheck(String),
    /// Says how a check stands.
    Say(CheckStatus, String),
    /// The same, with the status in the body.
    Update(String),
    /// What is registered by this API.
    AgentServices,
    AgentService(String),
    AgentChecks,
    /// Who answers.
    Agent,
    Health(String),
    Checks(String),
    Services,
    Service(String),
    Datacenters,
    Leader,
    Peers,
    /// Not spoken here.
    Other(String),
}

/// What is there.
pub(super) const SPOKEN: &str = "agent/service/register, agent/service/deregister/ID, agent/service/maintenance/ID, \
     agent/check/register, agent/check/deregister/ID, agent/check/pass/ID with warn, fail and update, agent/services, \
     agent/service/ID, agent/checks, agent/self, health/service/NAME, health/checks/NAME, catalog/services, \
     catalog/service/NAME, catalog/datacenters, status/leader and status/peers";

impl Call {
    /// What is below `/v1`, decoded. Ids and names may have slashes.
    pub(in crate::admin) fn read(path: &[String]) -> Self {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let named = |rest: &[&str]| rest.join("/");
        match *words {
            ["agent", "service", "register"] => Self::Register,
            ["agent", "service", "deregister", ref id @ ..] if !id.is_empty() => Self::Deregister(named(id)),
            ["agent", "service", "maintenance", ref id @ ..] if !id.is_empty() => {
                Self::Maintenance(named(id))
            }
            ["agent", "service", ref id @ ..] if !id.is_empty() => Self::AgentService(named(id)),
            ["agent", "services"] => Self::AgentServices,
            ["agent", "checks"] => Self::AgentChecks,
            ["agent", "self"] => Self::Agent,
            ["agent", "check", "register"] => Self::RegisterCheck,
            ["agent", "check", verb, ref id @ ..] if !id.is_empty() => {
                let id = named(id);
                match verb {
                    "pass" => Self::Say(CheckStatus::Passing, id),
                    "warn" => Self::Say(CheckStatus::Warning, id),
                    "fail" => Self::Say(CheckStatus::Critical, id),
                    "update" => Self::Update(id),
                    "deregister" => Self::DeregisterCheck(id),
                    _ => Self::Other(words.join("/")),
                }
            }
            ["health", "service", ref name @ ..] if !name.is_empty() => Self::Health(named(name)),
            ["health", "checks", ref name @ ..] if !name.is_empty() => Self::Checks(named(name)),
            ["catalog", "services"] => Self::Services,
            ["catalog", "service", ref name @ ..] if !name.is_empty() => Self::Service(named(name)),
            ["catalog", "datacenters"] => Self::Datacenters,
            ["status", "leader"] => Self::Leader,
            ["status", "peers"] => Self::Peers,
            _ => Self::Other(words.join("/")),
        }
    }

    /// The methods that are for it, as a header lists them.
    pub(in crate::admin) fn allowed(&self) -> &'static str {
        match self {
            Self::Register
            | Self::Deregister(_)
            | Self::Maintenance(_)
            | Self::RegisterCheck
            | Self::DeregisterCheck(_)
            | Self::Say(..)
            | Self::Update(_) => "PUT",
            Self::Other(_) => "GET, HEAD, POST, PUT, DELETE",
            _ => "GET, HEAD",
        }
    }

    /// Whether it may wait for a change: of one service, or of any.
    pub(super) fn follows(&self) -> Option<Option<&str>> {
        match self {
            Self::Health(name) | Self::Checks(name) | Self::Service(name) => Some(Some(name)),
            Self::Services => Some(None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_client() {
        let read = |path: &str| Call::read(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("agent/service/register"), Call::Register);
        assert_eq!(read("agent/service/web"), Call::AgentService("web".into()));
        assert_eq!(
            read("agent/check/pass/service:web"),
            Call::Say(CheckStatus::Passing, "service:web".into())
        );
        assert_eq!(read("agent/check/update/a/b"), Call::Update("a/b".into()));
        assert_eq!(read("health/service/orders"), Call::Health("orders".into()));
        for other in ["kv/a", "session/create", "agent/check/pass", "catalog/register", "", "health/service"]
        {
            assert_eq!(read(other), Call::Other(other.into()));
        }
    }
}
