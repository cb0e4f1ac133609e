//! The table `mdns` of a registry, and what it grants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Examiner, Way};

/// How the table is written.
pub(crate) const SETTING: &str = "mdns = { interfaces = [\"eth0\"] }";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:mdns/mdns"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["mdns"];

/// The longest name of an interface, on every system there is.
const LONGEST_NAME: usize = 15;

/// Multicast DNS on some links.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Mdns {
    /// The interfaces to listen and speak on, by name. Default: all that are up and lead to other machines.
    pub interfaces: Vec<String>,
}

/// Multicast DNS on some links.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// None: all.
    pub interfaces: Vec<String>,
}

pub(crate) fn grant(mdns: &Mdns, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let way = way.key("interfaces");
    examiner.not_empty(&way);
    let mut right = true;
    for (index, name) in mdns.interfaces.iter().enumerate() {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(odd) {
            examiner
                .wrong(&way.index(index), format!("{name:?} is no name of an interface"))
                .hint("write a name as `ip link` shows it, like \"eth0\"");
            right = false;
        }
    }
    let mut interfaces = mdns.interfaces.clone();
    interfaces.sort();
    interfaces.dedup();
    right.then_some(Some(Grant { interfaces }))
}
