//! The form in which paths are compared (RFC 3986 6.2.2): what need not be encoded is not, segments of dots are gone, and
//! so are empty segments. `/a/%2e%2e/%6frders//7` is `/orders/7`. An encoded slash stays one: `/a%2fb` is one segment, and
//! becomes `/a%2Fb`.

use std::borrow::Cow;

use super::{encoded, is_unreserved, push_encoded};

/// A path in its normal form; one that is in it already is lent and not copied.
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) { path.into() } else { Cow::Owned(normalised(path)) }
}

/// Whether each percent sign is followed by two digits.
pub fn is_encoded_well(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).all(|at| encoded(&path[at..]).is_some())
}

fn is_normal(path: &[u8]) -> bool {
    // What most paths have nothing of: all that could be otherwise is a percent sign, or a slash before one of these. Folded
    // without a short cut, which lets the compiler look at many bytes at once.
    let next = path.get(1..).unwrap_or_default().iter();
    let doubtful = path.iter().fold(false, |seen, byte| seen | (*byte == b'%'))
        | path
            .iter()
            .zip(next)
            .fold(false, |seen, (byte, next)| seen | ((*byte == b'/') & ((*next == b'/') | (*next == b'.'))));
    !doubtful || is_normal_at_each_slash(path)
}

fn is_normal_at_each_slash(path: &[u8]) -> bool {
    let (mut from, mut slash) = (0, false);
    // Everything that could be otherwise begins with a slash or a percent sign.
    while let Some(found) = memchr::memchr2(b'/', b'%', &path[from..]) {
        let at = from + found;
        if path[at] == b'%' {
            let kept = encoded(&path[at..]).is_some_and(|byte| !is_unreserved(byte));
            if !kept || path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase) {
                return false;
            }
        } else if (slash && found == 0) || is_dots(segment(&path[at + 1..])) {
            return false;
        }
        slash = path[at] == b'/';
        from = at + 1;
    }
    true
}

fn normalised(path: &str) -> String {
    // Decoded first, so that encoded dots are dots.
    let (mut decoded, mut at) = (String::with_capacity(path.len()), 0);
    while let Some(rest) = path.get(at..).filter(|rest| !rest.is_empty()) {
        if encoded(rest.as_bytes()).is_some() {
            push_encoded(&mut decoded, rest.as_bytes());
            at += 3;
        } else {
            // A percent sign alone stands for itself.
            let begin = usize::from(rest.starts_with('%'));
            let len = rest[begin..].find('%').map_or(rest.len(), |next| next + begin);
            decoded.push_str(&rest[..len]);
            at += len;
        }
    }
    let Some(rest) = decoded.strip_prefix('/') else { return decoded };
    let mut normal = String::with_capacity(decoded.len());
    let mut last = "";
    for segment in rest.split('/') {
        last = segment;
        match segment {
            "" | "." => {}
            ".." => normal.truncate(normal.rfind('/').unwrap_or(0)),
            segment => {
                normal.push('/');
                normal.push_str(segment);
            }
        }
    }
    // What ends in no name is a folder.
    if is_dots(last.as_bytes()) || last.is_empty() {
        normal.push('/');
    }
    normal
}

/// What is before the next slash.
fn segment(rest: &[u8]) -> &[u8] {
    // A segment of dots has two bytes at most.
    let near = &rest[..rest.len().min(3)];
    &near[..near.iter().position(|byte| *byte == b'/').unwrap_or(near.len())]
}

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_compared_in_one_form() {
        let check = |path: &str, expected: &str| {
            assert_eq!(normal(path), expected, "{path}");
            assert_eq!(matches!(normal(path), Cow::Borrowed(_)), path == expected, "{path}");
        };
        check("/", "/");
        check("*", "*");
        check("/orders/1", "/orders/1");
        check("/orders/", "/orders/");
        check("/%6Frders/%7e%2D", "/orders/~-");
        check("/a%2Fb", "/a%2Fb");
        check("/a%2fb", "/a%2Fb");
        check("/a%252fb", "/a%252fb");
        check("/caf%c3%a9", "/caf%C3%A9");
        check("/a%20b%00", "/a%20b%00");
        check("//a///b//", "/a/b/");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/b/../../c", "/c");
        check("/a/b/..", "/a/");
        check("/a/b/.", "/a/b/");
        check("/..", "/");
        check("/.", "/");
        check("/../../a", "/a");
        check("/a//../b", "/b");
        check("/%2e%2e/a", "/a");
        check("/a/.%2E/b", "/b");
        check("/a/%2e/b", "/a/b");
        check("/a/..%2fb", "/a/..%2Fb");
        check("/...", "/...");
        check("/.a/..b/c..", "/.a/..b/c..");
        check("/a;x=1/..;/b", "/a;x=1/..;/b");
        check("/a\\..\\b", "/a\\..\\b");
    }

    #[test]
    fn percent_signs_are_followed_by_two_digits() {
        for (path, well) in
            [("/", true), ("/%20", true), ("/%zz", false), ("/%", false), ("/%2", false), ("/%%20", false)]
        {
            assert_eq!(is_encoded_well(path.as_bytes()), well, "{path}");
        }
    }

    proptest! {
        /// Once normal, always normal; and no segment of dots, empty segment or needless encoding is left.
        #[test]
        fn the_normal_form_is_normal(path in "/([a./]|%2[eEfF5]|%[46]1|%[cC]3){0,12}") {
            let once = normal(&path).into_owned();
            prop_assert!(is_normal(once.as_bytes()), "{} becomes {}", path, once);
            prop_assert!(once.starts_with('/'));
            prop_assert!(!once.contains("//") && !once.contains("/./") && !once.contains("/../"), "{}", once);
            prop_assert!(!once.contains("%2E") && !once.contains("%2f") && !once.contains("%61"), "{}", once);
        }
    }
}
