//! Where a route leads.

use std::rc::Rc;

use crate::config::{self, ByName};
use crate::upstream::UpstreamName;

/// Where a route leads, with what that is on one worker.
pub enum Goal<T> {
    /// To one of these, by shares. None of them: the upstreams do not exist.
    Shares(Vec<(T, u32)>),
    /// To a service that is named by what came.
    ByName(Rc<ByName>),
}

impl<T> Goal<T> {
    /// What a target of the configuration is, where `upstream` gives what an upstream is. None: it leads nowhere here.
    pub fn new(target: &config::Target, upstream: impl Fn(&UpstreamName) -> Option<T>) -> Option<Self> {
        let share = |(name, share): (&UpstreamName, u32)| Some((upstream(name)?, share));
        Some(match target {
            config::Target::Upstream(name) => Self::Shares(share((name, 1)).into_iter().collect()),
            config::Target::Weighted(shares) => {
                Self::Shares(shares.iter().filter_map(|(name, weight)| share((name, *weight))).collect())
            }
            config::Target::ByName(by_name) => Self::ByName(Rc::new(by_name.clone())),
            config::Target::Redirect(_) => return None,
        })
    }

    /// One of the shares, each as often as its share says over many requests.
    pub fn draw(shares: &[(T, u32)]) -> Option<&T> {
        if let [(only, _)] = shares {
            return Some(only);
        }
        let total: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let mut drawn = if total == 0 { return None } else { fastrand::u64(..total) };
        let chosen = shares.iter().find(|(_, share)| match drawn.checked_sub(u64::from(*share)) {
            Some(rest) => {
                drawn = rest;
                false
            }
            None => true,
        });
        chosen.map(|(target, _)| target)
    }
}

/// Whether a name, in the form in which they are compared, is one or below one: `*.example.com` stands for any name below it.
pub fn is_under(name: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => name == pattern,
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_drawn_as_often_as_they_say() {
        let shares = [("a", 9), ("b", 1)];
        let drawn = (0..10_000).filter(|_| Goal::draw(&shares) == Some(&"b")).count();
        assert!((700..1300).contains(&drawn), "{drawn}");
        assert_eq!(Goal::<u8>::draw(&[]), None);
    }
}
