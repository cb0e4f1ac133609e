//! Routes in words, for people.

use super::{Matches, NameFrom, Scheme, Target};

/// Which requests.
pub fn matches(matches: &Matches) -> String {
    let host = matches.host.as_deref().unwrap_or("*");
    let headers: String = matches.headers.iter().map(|header| format!(" with {}", header.name)).collect();
    format!("{host}{}{headers}", matches.path)
}

/// Where they go.
pub fn target(target: &Target) -> String {
    match target {
        Target::Upstream(name) => name.to_string(),
        Target::Weighted(shares) => {
            let shares: Vec<String> = shares.iter().map(|(name, share)| format!("{name} x{share}")).collect();
            shares.join(", ")
        }
        Target::ByName(by_name) => match &by_name.from {
            NameFrom::Path(prefix) => format!("the service named after {prefix}, in {}", by_name.registry),
            NameFrom::Header(name) => format!("the service named by header {name}, in {}", by_name.registry),
            NameFrom::Sni => format!("the service asked for in TLS, in {}", by_name.registry),
            NameFrom::ServicePath => format!("the service that the call names, in {}", by_name.registry),
        },
        Target::Redirect(to) => {
            let scheme = to.scheme.map_or("", Scheme::as_str);
            let colon = if scheme.is_empty() { "" } else { ":" };
            let port = to.port.map_or_else(String::new, |port| format!(":{port}"));
            format!("{} to {scheme}{colon}//{}{port}", to.status.as_u16(), to.host.as_deref().unwrap_or("*"))
        }
    }
}
