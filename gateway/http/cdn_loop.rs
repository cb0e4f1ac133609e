//! Requests that come back: a list that names the gateway's own listener, or one of a proxy that leads back here.
//!
//! Each gateway adds its name to `CDN-Loop` (RFC 8586), which nobody on the way may take away. A request that has been
//! here thrice is refused: some setups send a request through the same gateway twice on purpose.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::RequestError;
use crate::syntax::list;

pub(super) const NAME: HeaderName = HeaderName::from_static("cdn-loop");

/// How often a request may have been here before.
const VISITS_MOST: usize = 3;

/// The name of this process, another one after a restart. Never freed, so that workers share no count of its holders.
static OWN: LazyLock<HeaderValue> = LazyLock::new(|| {
    let name: &'static str = format!("witgate-{:016x}", fastrand::u64(..)).leak();
    HeaderValue::from_static(name)
});

/// Refuses a request that has been here too often.
pub(super) fn check(headers: &HeaderMap) -> Result<(), RequestError> {
    if visits(headers, OWN.as_bytes()) >= VISITS_MOST {
        return Err(RequestError::Loop);
    }
    Ok(())
}

/// Adds this gateway. `seen`: others have been named.
pub(super) fn visit(headers: &mut HeaderMap, seen: bool) {
    let mut all = OWN.clone();
    if seen {
        let others = list::of(headers, &NAME).chain([OWN.as_bytes()]);
        let others = others.collect::<Vec<_>>().join(&b", "[..]);
        all = HeaderValue::from_bytes(&others).unwrap_or(all);
    }
    headers.insert(NAME, all);
}

fn visits(headers: &HeaderMap, own: &[u8]) -> usize {
    list::of(headers, &NAME).filter(|visit| list::bare(visit).eq_ignore_ascii_case(own)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_counted_whatever_stands_beside_them() {
        let mut headers = HeaderMap::new();
        for line in
            ["witgate-1, other.example; v=\"witgate-1, x\"", "Witgate-1;a=b", "witgate-10, x-witgate-1,"]
        {
            headers.append(NAME, line.parse().unwrap());
        }
        assert_eq!(visits(&headers, b"witgate-1"), 2);
    }

    #[test]
    fn the_fourth_visit_is_refused_and_others_are_kept() {
        let mut headers = HeaderMap::new();
        headers.append(NAME, "a.example; hops=\"1,2\"".parse().unwrap());
        headers.append(NAME, ", b, \"never closed".parse().unwrap());
        for _ in 0..VISITS_MOST {
            assert!(check(&headers).is_ok());
            visit(&mut headers, true);
        }
        assert!(matches!(check(&headers), Err(RequestError::Loop)));
        let own = OWN.to_str().unwrap();
        assert_eq!(headers[NAME], format!("a.example; hops=\"1,2\", b, \"never closed, {own}, {own}, {own}"));

        let mut headers = HeaderMap::new();
        visit(&mut headers, false);
        assert_eq!(headers[NAME], own);
        assert!(own.bytes().all(crate::syntax::is_token));
    }
}
