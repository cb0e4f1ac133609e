//! What a gateway has to know of gRPC: calls, their deadlines, and how they fail.
//!
//! A call is a POST of HTTP/2; how it went is in `grpc-status`, in the trailers of the answer or, if there is nothing else, in
//! its head. A client understands nothing else, so a failure of the gateway's own is an answer like that, too.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};

use crate::resilience::Cause;
pub(super) use crate::syntax::grpc::Code;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// When an endpoint wants a call to be sent again, if ever (gRPC's proposal A6).
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const KIND: &[u8] = b"application/grpc";

/// Below this a deadline says nothing of an endpoint that does not meet it: it was not given the time.
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// What ends a call so shortly before its deadline, as that is seen here, ends it because of that.
pub(super) const AHEAD: Duration = Duration::from_millis(100);

/// The longest number in a deadline.
const DIGITS: usize = 8;

/// Whether a request is a call.
pub(super) fn is_call(head: &Parts) -> bool {
    head.version == Version::HTTP_2
        && head.method == Method::POST
        && head.headers.get(header::CONTENT_TYPE).is_some_and(is_kind)
}

/// Whether this is the type of what a call sends or is answered with.
pub(super) fn is_kind(content_type: &HeaderValue) -> bool {
    // Not `application/grpc-web`.
    let said = content_type.as_bytes();
    let is_kind = said.get(..KIND.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(KIND));
    is_kind && matches!(said.get(KIND.len()), None | Some(b'+' | b';' | b' '))
}

/// How long a client waits for the end of a call. None: for ever, or it says nothing that can be understood.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Tells an endpoint how long the client still waits.
pub(super) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    let most = 10u128.pow(DIGITS as u32);
    let seconds = u128::from(left.as_secs());
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
        (seconds / 3600, 'H'),
    ];
    let fits = units.into_iter().find(|(number, _)| *number < most);
    // More than ten thousand years are for ever.
    let Some((number, unit)) = fits else { return drop(headers.remove(TIMEOUT)) };
    if let Ok(value) = HeaderValue::try_from(format!("{number}{unit}")) {
        headers.insert(TIMEOUT, value);
    }
}

/// Whether the head of an answer says how the call went, so that nothing comes behind it.
pub(super) fn is_told(headers: &HeaderMap) -> bool {
    headers.contains_key(STATUS)
}

/// Whether an answer, or its trailers, say that the endpoint failed; none where they say nothing of how it went. What the
/// caller did wrong is not the endpoint's failure.
pub(super) fn failed(headers: &HeaderMap) -> Option<bool> {
    let code = Code::of(status(headers)?);
    // A method that one endpoint does not have is on none.
    Some(code.is_some_and(|code| code.is_servers_fault() && code != Code::Unimplemented))
}

/// How a call went, as its headers or trailers say.
pub(super) fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// Why a call could be sent again, of which nothing came but this head. An endpoint that says when it wants the call again
/// says it to the client, and is not asked at once.
pub(super) fn declined(headers: &HeaderMap) -> Option<Cause> {
    let cause = Cause::of_call(status(headers)?)?;
    (!headers.contains_key(PUSHBACK)).then_some(cause)
}

/// What a failure of the gateway is to a call.
pub(super) fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        // There is no such service or method here.
        404 | 501 => Code::Unimplemented,
        413 | 429 | 431 => Code::ResourceExhausted,
        408 | 504 => Code::DeadlineExceeded,
        502 | 503 => Code::Unavailable,
        508 => Code::Aborted,
        _ => Code::Internal,
    }
}

/// Makes of the head of a failure one for a call: its body is nothing.
pub(super) fn fail(headers: &mut HeaderMap, code: Code, reason: &str, text: &str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    set_status(headers, code, &format!("{reason}: {text}"));
}

/// The trailers of a call that the gateway ends.
pub(super) fn trailers(code: Code, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    set_status(&mut trailers, code, text);
    trailers
}

/// Says how a call went.
pub(super) fn set_status(headers: &mut HeaderMap, code: Code, text: &str) {
    headers.insert(STATUS, HeaderValue::from(code as u32));
    // Whatever is no printable ASCII is written by its number, and so is what begins such a number.
    let encoded: String = text
        .bytes()
        .map(|byte| match byte {
            b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    if let Ok(message) = HeaderValue::try_from(encoded) {
        headers.insert(MESSAGE, message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Duration> {
        timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_str(text).unwrap())]))
    }

    #[test]
    fn deadlines_have_units() {
        assert_eq!(timeout(&HeaderMap::new()), None);
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(of(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "1h", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1 S"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_call_is_a_post_of_http_2() {
        let check = |version: Version, method: &str, kind: &str| {
            let request =
                http::Request::builder().version(version).method(method).header("content-type", kind);
            is_call(&request.body(()).unwrap().into_parts().0)
        };
        for kind in
            ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc;charset=x"]
        {
            assert!(check(Version::HTTP_2, "POST", kind), "{kind}");
            assert!(!check(Version::HTTP_11, "POST", kind) && !check(Version::HTTP_2, "GET", kind));
        }
        for kind in
            ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grp"]
        {
            assert!(!check(Version::HTTP_2, "POST", kind), "{kind}");
        }
    }

    #[test]
    fn what_the_caller_did_is_no_failure_of_the_endpoint() {
        let said =
            |code: &str| failed(&HeaderMap::from_iter([(STATUS, HeaderValue::from_str(code).unwrap())]));
        let failures: Vec<u32> = (0..17).filter(|code| said(&code.to_string()) == Some(true)).collect();
        assert_eq!(failures, [2, 4, 13, 14, 15]);
        assert_eq!((said("x"), failed(&HeaderMap::new())), (None, None));
    }

    #[test]
    fn a_call_can_be_sent_again_unless_the_endpoint_says_when() {
        let head = |names: &[(&str, &str)]| {
            let named = names.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            declined(&named.collect())
        };
        assert_eq!(head(&[("grpc-status", "14")]), Some(Cause::Unavailable));
        for other in ["0", "3", "x", "-14", "140"] {
            assert_eq!(head(&[("grpc-status", other)]), None, "{other}");
        }
        for pushback in ["-1", "100", "soon"] {
            assert_eq!(head(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)]), None);
        }
    }

    #[test]
    fn a_failure_of_the_gateway_is_one_of_these() {
        for (status, expected) in [
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (408, Code::DeadlineExceeded),
            (413, Code::ResourceExhausted),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (501, Code::Unimplemented),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
            (508, Code::Aborted),
        ] {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn a_failure_says_why() {
        let mut headers = HeaderMap::new();
        fail(&mut headers, code(StatusCode::SERVICE_UNAVAILABLE), "no-endpoints", "100 % d\u{e9}j\u{e0}");
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "no-endpoints: 100 %25 d%C3%A9j%C3%A0");
        assert_eq!(headers["content-type"], "application/grpc");
    }

    proptest! {
        #[test]
        fn what_is_left_is_told_as_exactly_as_fits(nanos in 0u64..=u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            set_timeout(&mut headers, left);
            let told = timeout(&headers).unwrap();
            prop_assert!(told <= left, "{:?} of {:?}", told, left);
            // Eight digits, less one for the step between units.
            prop_assert!(left - told <= left / 10_000, "{:?} of {:?}", told, left);
        }
    }
}
