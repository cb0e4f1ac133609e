//! What a grant covers: URLs, and what lies under them.

use http::{Uri, uri::Scheme};

/// A URL, and everything that lies under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    scheme: Scheme,
    /// In lower case; IPv6 addresses in brackets.
    host: String,
    port: u16,
    /// Without a slash at the end.
    path: String,
    text: String,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("{0:?} is no URL")]
    NoUrl(String),
    #[error("{0:?} has neither `http://` nor `https://` in front")]
    Scheme(String),
    #[error("a URL has a user in it, which goes into `user` and `password_file`")]
    User,
    #[error("{0:?} has a query or a fragment, and what lies under a URL is a matter of its path")]
    Query(String),
    #[error("{0:?} has `.` or `..` in its path")]
    Dots(String),
}

impl Prefix {
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let written = || text.to_owned();
        if text.contains(['?', '#']) {
            return Err(PrefixError::Query(written()));
        }
        if !text.contains("://") {
            return Err(PrefixError::Scheme(written()));
        }
        let uri: Uri = text.parse().map_err(|_| PrefixError::NoUrl(written()))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(PrefixError::User);
        }
        let scheme = uri.scheme().cloned().filter(is_spoken).ok_or_else(|| PrefixError::Scheme(written()))?;
        let (host, port) = place(&uri).ok_or_else(|| PrefixError::NoUrl(written()))?;
        if has_dots(uri.path()) {
            return Err(PrefixError::Dots(written()));
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, host, port, path, text: text.trim_end_matches('/').to_owned() })
    }

    /// As the operator wrote it, without a slash at the end.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `HOST:PORT`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Whether a URL is on the same server.
    pub fn is_beside(&self, uri: &Uri) -> bool {
        place(uri).is_some_and(|(host, port)| host == self.host && port == self.port)
    }

    /// The names on the way to it, as the most liberal server reads them.
    pub fn names(&self) -> Vec<String> {
        names(&self.path)
    }

    /// Whether it is this URL or lies under it, however a server reads its path.
    pub fn covers(&self, uri: &Uri) -> bool {
        let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let under = match uri.path().strip_prefix(&self.path) {
            Some(rest) => {
                self.path.is_empty() || ((rest.is_empty() || rest.starts_with('/')) && !has_dots(rest))
            }
            None => false,
        };
        !user && self.is_beside(uri) && under && uri.scheme() == Some(&self.scheme)
    }
}

fn is_spoken(scheme: &Scheme) -> bool {
    *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS
}

/// The host, in lower case and with brackets if it is IPv6, and the port that is meant. None if what stands for the port
/// is none.
pub(crate) fn place(uri: &Uri) -> Option<(String, u16)> {
    let host = uri.host().filter(|host| !host.is_empty())?;
    let authority = uri.authority()?;
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        // What stands behind the host is no port.
        None if !authority.as_str().ends_with(host) => return None,
        None if uri.scheme() == Some(&Scheme::HTTPS) => 443,
        None => 80,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// Whether some server could read a step out of a folder in it.
fn has_dots(path: &str) -> bool {
    names(path).iter().any(|name| name == "." || name == "..")
}

/// The names in a path, as the most liberal server reads them: in lower case, unescaped twice, without parameters.
pub(super) fn names(path: &str) -> Vec<String> {
    let plain = unescaped(&unescaped(path)).to_ascii_lowercase();
    // What stands behind a semicolon is a parameter to some.
    let names = plain.split(['/', '\\']).map(|name| name.split(';').next().unwrap_or_default());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escaped = if *byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        // Two digits of base 16 are a byte.
        let escaped = escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        plain.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(prefix: &str, url: &str) -> bool {
        Prefix::parse(prefix).unwrap().covers(&url.parse().unwrap())
    }

    #[test]
    fn a_url_covers_what_lies_under_it() {
        for (prefix, url) in [
            ("http://a:8500", "http://a:8500/"),
            ("http://a:8500/", "http://a:8500/v1/kv?x=../y"),
            ("http://A", "http://a:80/x/../y"),
            ("https://a", "https://A:443/x"),
            ("http://[::1]:8500", "http://[::1]:8500/x"),
            ("http://a/v1/", "http://a/v1"),
            ("http://a/v1", "http://a/v1/kv/a%2fb"),
        ] {
            assert!(covers(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn nothing_else_is_covered() {
        for (prefix, url) in [
            ("http://a:8500", "https://a:8500/"),
            ("http://a:8500", "http://a:8501/"),
            ("http://a:8500", "http://a/"),
            ("http://a:8500", "http://b:8500/"),
            ("http://a", "http://a.evil/"),
            ("http://a", "http://user@a/"),
            ("http://a", "http://a@evil/"),
            ("http://a/v1", "http://a/v2"),
            ("http://a/v1", "http://a/v10"),
            ("http://a/v1", "http://a/v1/../v2"),
            ("http://a/v1", "http://a/v1/%2E%2e/v2"),
            ("http://a/v1", "http://a/v1/x%2f..%2f..%2fv2"),
            ("http://a/v1", "http://a/v1/%252e%252e/v2"),
            ("http://a/v1", "http://a/v1/..%5cv2"),
            ("http://a/v1", "http://a/v1/..;x=1/v2"),
            ("http://a/v1", "http://a/v1/.%2e/v2"),
        ] {
            assert!(!covers(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (text, why) in [
            ("a:8500", PrefixError::Scheme("a:8500".into())),
            ("ftp://a", PrefixError::Scheme("ftp://a".into())),
            ("http://", PrefixError::NoUrl("http://".into())),
            ("http://a b", PrefixError::NoUrl("http://a b".into())),
            ("http://a:70000", PrefixError::NoUrl("http://a:70000".into())),
            ("http://user:secret@a", PrefixError::User),
            ("http://a/?x=1", PrefixError::Query("http://a/?x=1".into())),
            ("http://a/v1/../v2", PrefixError::Dots("http://a/v1/../v2".into())),
        ] {
            assert_eq!(Prefix::parse(text), Err(why));
        }
    }
}
