//! Headers that are lists (RFC 9110 5.6.1): `Connection`, `Upgrade`, `Transfer-Encoding`, `TE`, `Trailer`, `Expect`, `CDN-Loop`.
//!
//! Several lines are one list, empty elements are none, and a comma in quotes divides nothing. A quote that is never
//! closed is none, so that nobody can hide what others add behind it.

use http::{HeaderMap, HeaderName};

/// The elements of one line, without the space around them.
pub fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut quotes) = (Some(line), true);
    std::iter::from_fn(move || {
        while let Some(line) = rest {
            let end = end(line, &mut quotes);
            rest = line.get(end + 1..);
            let element = line[..end].trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    })
}

/// The elements of all lines of a header, in order.
pub fn of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().flat_map(|line| elements(line.as_bytes()))
}

/// An element without its parameters.
pub fn bare(element: &[u8]) -> &[u8] {
    let end = memchr::memchr(b';', element).unwrap_or(element.len());
    element[..end].trim_ascii_end()
}

/// Where the first element ends: at a comma that is not in quotes. `quotes` says whether quotes count, which they do not
/// after one that is not closed: nor is any after it.
fn end(line: &[u8], quotes: &mut bool) -> usize {
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        match byte {
            b',' => return at,
            b'"' if *quotes => match closing(&line[at + 1..]) {
                Some(len) => at += len + 1,
                None => *quotes = false,
            },
            _ => {}
        }
        at += 1;
    }
    line.len()
}

/// Where the quote is that closes one before this.
fn closing(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_is_between_its_commas() {
        let check = |line: &str, expected: &[&str]| {
            let found: Vec<&str> =
                elements(line.as_bytes()).map(|element| str::from_utf8(element).unwrap()).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("", &[]);
        check(" , ,\t,", &[]);
        check("close", &["close"]);
        check(" a ,\tb,c ", &["a", "b", "c"]);
        check("a,,b,", &["a", "b"]);
        check("a;q=\"x,y\", b", &["a;q=\"x,y\"", "b"]);
        check("a;q=\"x\\\",y\", b", &["a;q=\"x\\\",y\"", "b"]);
        check("\"never closed, a", &["\"never closed", "a"]);
        check("a=\"1,2\", \"\\\"b, c\\\", d", &["a=\"1,2\"", "\"\\\"b", "c\\\"", "d"]);
        check("\"\\", &["\"\\"]);
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut headers = HeaderMap::new();
        for line in ["a, b", "", "c\u{e9}"] {
            headers.append(http::header::TE, line.parse().unwrap());
        }
        let found: Vec<&[u8]> = of(&headers, &http::header::TE).collect();
        assert_eq!(found, [&b"a"[..], b"b", "c\u{e9}".as_bytes()]);
    }

    #[test]
    fn parameters_are_no_part_of_what_an_element_names() {
        for element in ["trailers", "trailers;q=0.5", "trailers ; q=\"a;b\"", "trailers;"] {
            assert_eq!(bare(element.as_bytes()), b"trailers", "{element}");
        }
    }
}
