//! The key `memory` of a registry, and what it grants.

use crate::document::{Examiner, Flag, Way};

/// How the key is written.
pub(crate) const SETTING: &str = "memory = true";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:memory/memory"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["memory"];

pub(crate) type Keys = Flag;

/// The registry inside the gateway: there is only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant;

pub(crate) fn grant(keys: &Keys, _: &mut Examiner<'_>, _: &Way) -> Option<Option<Grant>> {
    Some(keys.is_set().then_some(Grant))
}
