//! What a request is for: the target of its first line, and its host (RFC 9112 3.2).

use std::borrow::Cow;

use http::{HeaderValue, Method, header, request::Parts, uri::PathAndQuery};

use super::{authority, path};

/// The longest target, in bytes: what the parser takes.
pub const LONGEST: usize = 65_534;

/// How a target is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`; the host is in a header.
    Origin,
    /// `http://host/path?query`. The host in the header does not count.
    Absolute,
    /// `*`, of OPTIONS alone: the server and nothing on it.
    Asterisk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("space or control character in the target")]
    Blank,
    #[error("target too long")]
    TooLong,
    #[error("invalid target")]
    Invalid,
    #[error("missing or invalid host")]
    Host,
}

/// Checks a target as it stands in the first line of a request. `host:port` alone is one for CONNECT only, which nobody
/// asks about here.
pub fn check(method: &[u8], target: &[u8]) -> Result<Form, TargetError> {
    // Folded without a short cut: targets are short, and most have nothing in them that is worth a second look.
    let seen = target.iter().fold(0, |seen, byte| seen | kind(*byte));
    if target.is_empty() || seen & BLANK != 0 {
        return Err(TargetError::Blank);
    }
    if target.len() > LONGEST {
        return Err(TargetError::TooLong);
    }
    if seen & NEVER != 0 {
        return Err(TargetError::Invalid);
    }
    if target[0] == b'/' {
        return if seen == 0 { Ok(Form::Origin) } else { path_and_query(target).map(|()| Form::Origin) };
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok(Form::Asterisk) } else { Err(TargetError::Invalid) };
    }
    absolute(target).map(|()| Form::Absolute)
}

fn path_and_query(target: &[u8]) -> Result<(), TargetError> {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let mut bytes = path.iter().map(|byte| (byte, PATH)).chain(query.iter().map(|byte| (byte, QUERY)));
    let sound = bytes.all(|(byte, place)| kind(*byte) & (PATH | QUERY) & !place == 0);
    // Queries are often written by hand, and nothing is decided by what is encoded in them.
    if sound && path::is_encoded_well(path) { Ok(()) } else { Err(TargetError::Invalid) }
}

fn absolute(target: &[u8]) -> Result<(), TargetError> {
    let begins =
        |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    let scheme: &[u8] = if begins(b"http://") { b"http://" } else { b"https://" };
    if !begins(scheme) {
        return Err(TargetError::Invalid);
    }
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    path_and_query(&rest[end..])?;
    let named = authority::parse(&rest[..end]).is_some_and(|authority| is_name(&rest[..end], &authority));
    // Nobody else's parser takes all that may be in a host.
    if named && http::Uri::try_from(target).is_ok() { Ok(()) } else { Err(TargetError::Invalid) }
}

/// Whether a host says anything: the root of all names does not, nor do dots alone, however they are written.
fn is_name(text: &[u8], found: &authority::Authority) -> bool {
    let host = &text[..found.host];
    // Hardly any begins with one of these.
    if !matches!(host.first(), None | Some(b'.' | b'%')) {
        return true;
    }
    let host = String::from_utf8_lossy(host);
    !authority::normal(&host).bytes().all(|byte| byte == b'.')
}

/// Whether a value of `Host` is one: none if it is invalid, and else whether it names a host.
pub fn check_host(value: &[u8]) -> Option<bool> {
    authority::parse(value).map(|authority| is_name(value, &authority))
}

/// Stands in a path only.
const PATH: u8 = 1;
/// Stands in a query only.
const QUERY: u8 = 2;
/// Is followed by two digits, in a path.
const SPECIAL: u8 = 4;
const NEVER: u8 = 8;
const BLANK: u8 = 16;

/// What a byte of a target means. Some are allowed that should be encoded, because clients send them as they are.
const fn kind(byte: u8) -> u8 {
    const KINDS: [u8; 256] = {
        let mut kinds = [0; 256];
        let mut byte = 0;
        while byte < kinds.len() {
            kinds[byte] = match byte as u8 {
                ..=b' ' | 0x7f => BLANK,
                b'<' | b'>' | b'#' | 0x80.. => NEVER,
                b'"' => PATH,
                b'`' => QUERY,
                b'%' => SPECIAL,
                _ => 0,
            };
            byte += 1;
        }
        kinds
    };
    KINDS[byte as usize]
}

/// What a request is for, read once. Routes, forwarding, selectors and logs see this, and a second try does, too.
#[derive(Debug, Clone)]
pub struct HostAndPath {
    /// Host and port as the client wrote them; none of a client of HTTP/1.0 that names none.
    authority: Option<HeaderValue>,
    /// How much of it is the host.
    host: usize,
    /// Path and query as the client wrote them.
    sent: PathAndQuery,
    /// What was written in another form than the normal one. Most requests have none of it.
    normal: Option<Box<Normal>>,
}

#[derive(Debug, Clone, Default)]
struct Normal {
    host: Option<Box<str>>,
    path: Option<Box<str>>,
}

impl HostAndPath {
    /// Reads the head of a request. What the server let through is always one.
    pub fn read(head: &Parts) -> Result<Self, TargetError> {
        let authority = match head.uri.authority() {
            Some(named) => Some(HeaderValue::from_str(named.as_str()).map_err(|_| TargetError::Host)?),
            None => head.headers.get(header::HOST).cloned(),
        };
        let (mut host, mut normal) = (0, None::<Box<Normal>>);
        if let Some(value) = &authority {
            let parsed = authority::parse(value.as_bytes()).filter(|found| is_name(value.as_bytes(), found));
            let parsed = parsed.ok_or(TargetError::Host)?;
            host = parsed.host;
            if !parsed.normal {
                let text = authority::normal(text(&authority, host));
                normal.get_or_insert_default().host = Some(text.into());
            }
        }
        // An absolute form may have a query and no path.
        let sent = match head.uri.path_and_query() {
            Some(sent) if !sent.as_str().starts_with('?') => sent.clone(),
            Some(query) => format!("/{}", query.as_str()).parse().map_err(|_| TargetError::Invalid)?,
            None => return Err(TargetError::Invalid),
        };
        if sent.path() == "*" && head.method != Method::OPTIONS {
            return Err(TargetError::Invalid);
        }
        if let Cow::Owned(path) = path::normal(sent.path()) {
            normal.get_or_insert_default().path = Some(path.into());
        }
        Ok(Self { authority, host, sent, normal })
    }

    /// Host and port as the client wrote them, for `Host`.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.authority.as_ref()
    }

    /// The host without a port and in its normal form; empty if the client named none.
    pub fn host(&self) -> &str {
        let normal = self.normal.as_ref().and_then(|normal| normal.host.as_deref());
        normal.unwrap_or_else(|| text(&self.authority, self.host))
    }

    /// The path in its normal form.
    pub fn path(&self) -> &str {
        let normal = self.normal.as_ref().and_then(|normal| normal.path.as_deref());
        normal.unwrap_or_else(|| self.sent.path())
    }

    pub fn query(&self) -> Option<&str> {
        self.sent.query()
    }

    /// Path and query as the client wrote them.
    pub fn sent(&self) -> &PathAndQuery {
        &self.sent
    }

    /// The path in its normal form without so many bytes at its beginning, and the query.
    pub fn stripped(&self, bytes: usize) -> Option<PathAndQuery> {
        let rest = self.path().get(bytes..)?;
        let slash = if rest.starts_with('/') { "" } else { "/" };
        let query = self.query();
        let mark = if query.is_some() { "?" } else { "" };
        [slash, rest, mark, query.unwrap_or("")].concat().parse().ok()
    }
}

/// The beginning of a value of which the whole is an authority, and so ASCII.
fn text(value: &Option<HeaderValue>, len: usize) -> &str {
    let bytes = value.as_ref().and_then(|value| value.as_bytes().get(..len));
    bytes.and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_three_forms() {
        use Form::{Absolute, Asterisk, Origin};
        let check = |line: &str, expected: Result<Form, TargetError>| {
            let (method, target) = line.split_once(' ').unwrap();
            assert_eq!(check(method.as_bytes(), target.as_bytes()), expected, "{line}");
        };
        for target in [
            "/",
            "/a",
            "//a",
            "/a?b",
            "/?",
            "/a?b?c",
            "/a%20b",
            "/?q=%",
            "/?q=%zz",
            "/a|b[c]^{d}\\\"",
            "/?a|b[c]^`{d}\\",
            "/a:b@c",
            "/http://b/",
            "/..",
            "/*",
            "/a;b=c,d'e(f)!$&*+~",
        ] {
            check(&format!("GET {target}"), Ok(Origin));
        }
        for target in [
            "http://b",
            "http://b/",
            "http://b:80/a?c",
            "http://b?c",
            "HTTPS://B.test./a",
            "https://[::1]:8443/",
            "http://b:/",
            "http://10.0.0.1/%20",
            "http://b/http://c/",
            "http://b_c/",
            "http://b/a:x@c",
        ] {
            check(&format!("GET {target}"), Ok(Absolute));
        }
        check("OPTIONS *", Ok(Asterisk));
        check("OPTIONS /", Ok(Origin));
        for target in [
            "*",
            "**",
            "*/",
            "a",
            "a/b",
            "b:80",
            "b.test:80",
            "?a",
            ":",
            ":80",
            "[::1]:80",
            "http:",
            "http:/",
            "http:/b",
            "http://",
            "http:///a",
            "http://?a",
            "http://:80/",
            "http://./",
            "http://a:x@b/",
            "http://a@b/",
            "http://@b/",
            "http://b:x/",
            "http://b:65536/",
            "http://[::1/",
            "http://[::1%25a]/",
            "http://b,c/",
            "http://b%63/",
            "http://b\\c/",
            "ftp://b/",
            "httpx://b/",
            "ws://b/",
            "javascript:a",
            "//",
            "/%",
            "/%2",
            "/%zz",
            "/%2?",
            "http://b/%zz",
            "/<",
            "/>",
            "/a#b",
            "/?#",
            "/caf\u{e9}",
            "/?\u{e9}",
            "/`",
            "/?\"",
        ] {
            let expected = if target == "//" { Ok(Origin) } else { Err(TargetError::Invalid) };
            check(&format!("GET {target}"), expected);
        }
        for target in ["", "/a b", "/\t", "/\u{0}", "/\u{7f}", " /", "/ "] {
            check(&format!("GET {target}"), Err(TargetError::Blank));
        }
        check(&format!("GET /{}", "a".repeat(LONGEST - 1)), Ok(Origin));
        check(&format!("GET /{}", "a".repeat(LONGEST)), Err(TargetError::TooLong));
    }

    #[test]
    fn a_host_need_not_be_named_but_must_be_one() {
        for (value, expected) in [
            ("a", Some(true)),
            ("a:80", Some(true)),
            ("[::1]", Some(true)),
            ("", Some(false)),
            (":80", Some(false)),
            (".", Some(false)),
            ("..", Some(false)),
            ("%2e", Some(false)),
            (".%2E.:80", Some(false)),
            (".a", Some(true)),
            ("%61", Some(true)),
            ("a b", None),
            ("a, b", None),
            ("a/b", None),
            ("u@a", None),
            ("a:b", None),
            ("[::1", None),
        ] {
            assert_eq!(check_host(value.as_bytes()), expected, "{value}");
        }
    }

    /// Host as sent, host, path, query.
    fn read(method: &str, target: &str, host: Option<&str>) -> Result<[String; 4], TargetError> {
        let mut request = http::Request::builder().method(method).uri(target);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let asked = HostAndPath::read(&request.body(()).unwrap().into_parts().0)?;
        let sent = asked.authority().map_or("", |sent| sent.to_str().unwrap());
        Ok([sent, asked.host(), asked.path(), asked.query().unwrap_or("-")].map(str::to_owned))
    }

    #[test]
    fn host_and_path_are_read_once() {
        let check = |target: &str, host: Option<&str>, expected: [&str; 4]| {
            assert_eq!(read("GET", target, host).unwrap(), expected, "{target} {host:?}");
        };
        check("/a?b", Some("Shop.TEST.:80"), ["Shop.TEST.:80", "shop.test", "/a", "b"]);
        check("/a", Some("[0::1]"), ["[0::1]", "[::1]", "/a", "-"]);
        check("/a", None, ["", "", "/a", "-"]);
        check("http://B.test:8/%61/../c?x=%61", Some("other"), ["B.test:8", "b.test", "/c", "x=%61"]);
        check("http://b.test", Some("other"), ["b.test", "b.test", "/", "-"]);
        check("http://b.test?x", Some(""), ["b.test", "b.test", "/", "x"]);
        check("//a//b?", Some("a"), ["a", "a", "/a/b", ""]);
        assert_eq!(read("OPTIONS", "*", Some("a")).unwrap()[2], "*");
        assert_eq!(read("GET", "*", Some("a")), Err(TargetError::Invalid));
        for host in ["", ":80", "a b", "u@a", "."] {
            assert_eq!(read("GET", "/", Some(host)), Err(TargetError::Host), "{host}");
        }
        assert_eq!(read("GET", "http://u@b/", None), Err(TargetError::Host));
        assert_eq!(read("GET", "b:80", Some("a")), Err(TargetError::Invalid));
    }

    #[test]
    fn what_is_stripped_is_of_the_normal_path() {
        let check = |target: &str, strip: usize, expected: &str| {
            let head = http::Request::get(target).body(()).unwrap().into_parts().0;
            let stripped = HostAndPath::read(&head).unwrap().stripped(strip).unwrap();
            assert_eq!(stripped.as_str(), expected, "{target}");
        };
        check("/orders/1?a=%61", 7, "/1?a=%61");
        check("/orders", 7, "/");
        check("/orders?", 7, "/?");
        check("//%6frders//%2e%2f", 7, "/.%2F");
        check("/x/../orders/", 7, "/");
    }
}
