//! Which requests may be sent again, and how often.

use http::Method;

use crate::upstream::Slot;

/// Whether a request that may have reached an endpoint can be sent to another one: its method is idempotent
/// (RFC 9110, 9.2.2) and it has no body that is gone now.
pub fn repeatable(method: &Method, has_body: bool) -> bool {
    !has_body && is_idempotent(method)
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The tries of one request. Allocates nothing before the first of them has failed.
#[derive(Debug)]
pub struct Attempts<T> {
    retries: u32,
    tried: Vec<Slot>,
    /// Keeps the slots from being given to other endpoints while this request avoids them.
    holders: Vec<T>,
}

impl<T> Attempts<T> {
    pub fn new(retries: u32) -> Self {
        Self { retries, tried: Vec::new(), holders: Vec::new() }
    }

    /// 0 for the first try, 1 for the first retry.
    pub fn number(&self) -> u32 {
        self.tried.len() as u32
    }

    pub fn tried(&self) -> &[Slot] {
        &self.tried
    }

    /// A try failed. Says whether there may be another.
    pub fn failed(&mut self, slot: Slot, holder: T) -> bool {
        self.tried.push(slot);
        self.holders.push(holder);
        self.number() <= self.retries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idempotent_requests_without_a_body_are_repeatable() {
        let check = |method: &str, has_body, expected| {
            assert_eq!(repeatable(&method.parse().unwrap(), has_body), expected, "{method}");
        };
        check("GET", false, true);
        check("GET", true, false);
        check("DELETE", false, true);
        check("PUT", false, true);
        check("POST", false, false);
        check("PATCH", false, false);
        check("LIST", false, false);
    }

    #[test]
    fn attempts_end_with_the_retries() {
        let mut attempts = Attempts::new(1);
        assert!(attempts.failed(Slot(3), ()));
        assert_eq!((attempts.number(), attempts.tried()), (1, &[Slot(3)][..]));
        assert!(!attempts.failed(Slot(4), ()));
        assert!(!Attempts::new(0).failed(Slot(0), ()));
    }
}
