//! A request kept as text while it is sent, so that it can be sent again.

use std::cell::RefCell;

use http::{HeaderName, HeaderValue, Method, Request, uri::PathAndQuery};

use super::upload::RequestBody;

/// Neither a target nor a header has it.
const SEPARATOR: u8 = b'\n';

/// So many are kept by a worker for the requests to come.
const KEPT_MOST: usize = 64;

/// A request as it was sent: as text, because that costs less to write and to forget than a copy of each header, and
/// is seldom read.
#[derive(Clone, Default)]
pub(super) struct Spare {
    method: Method,
    /// The target, then a name and a value for each header.
    text: Vec<u8>,
}

/// The spares of one worker that are not in use.
#[derive(Default)]
pub(super) struct Spares(RefCell<Vec<Spare>>);

impl Spares {
    /// A copy of a request, whose target is in origin form, without its body.
    pub(super) fn copy<B>(&self, request: &Request<B>) -> Spare {
        let mut spare = self.0.borrow_mut().pop().unwrap_or_default();
        spare.method = request.method().clone();
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        spare.text.extend_from_slice(target.as_bytes());
        for (name, value) in request.headers() {
            for part in [name.as_ref(), value.as_bytes()] {
                spare.text.push(SEPARATOR);
                spare.text.extend_from_slice(part);
            }
        }
        spare
    }

    /// Takes back what was not needed.
    pub(super) fn keep(&self, mut spare: Spare) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MOST {
            spare.text.clear();
            kept.push(spare);
        }
    }
}

impl Spare {
    /// The request without its body. None if the text cannot be understood, which nothing that was sent leads to.
    pub(super) fn into_request(self) -> Option<Request<RequestBody>> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method;
        let mut parts = self.text.split(|byte| *byte == SEPARATOR);
        *request.uri_mut() = PathAndQuery::try_from(parts.next()?).ok()?.into();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_is_the_request_and_nothing_of_the_one_before() {
        let request = |path: &str, names: &[&str]| {
            let mut request = Request::put(path).body(()).unwrap();
            for name in names {
                request.headers_mut().append(name.parse::<HeaderName>().unwrap(), "1".parse().unwrap());
            }
            request
        };
        let spares = Spares::default();
        spares.keep(spares.copy(&request("/first", &["x-a", "x-b", "x-a"])));

        let sent = request("/second", &["x-c", "x-b", "x-c"]);
        let again = spares.copy(&sent).into_request().unwrap();
        assert_eq!(
            (again.method(), again.uri(), again.headers()),
            (sent.method(), sent.uri(), sent.headers())
        );
    }
}
