//! The gateway's source as text, the way a reader takes it in: module by module, without comments, the insides of
//! strings, and tests.

use std::{fs, ops::Range, path::Path};

/// A file that is compiled into the gateway.
pub struct Module {
    /// `["http", "service"]`; empty for `lib.rs`.
    pub path: Vec<String>,
    /// `gateway/http/service.rs`.
    pub file: String,
    /// Line by line as in the file, with blanks where comments, strings and tests were.
    pub code: String,
}

/// All modules, found as the compiler finds them: by the `mod` lines, beginning with `lib.rs`.
pub fn modules() -> Vec<Module> {
    let mut found = Vec::new();
    visit(&root().join("gateway/lib.rs"), Vec::new(), &mut found);
    found
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file below the root, for instance `gateway/main.rs`, cleared of comments, strings and tests.
pub fn code(file: &str) -> String {
    clear(&read(&root().join(file)))
}

/// Names of the modules declared in a piece of code, in their order.
pub fn declared(code: &str) -> Vec<String> {
    let words: Vec<&str> = words(code).map(|(_, word)| word).collect();
    let after_mod = words.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1]);
    after_mod.filter(|name| code.contains(&format!("mod {name};"))).map(str::to_owned).collect()
}

/// The identifiers of a piece of code and where they are.
pub fn words(code: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        at += code[at..].find(part)?;
        let start = at;
        at += code[at..].find(|c| !part(c)).unwrap_or(code.len() - at);
        Some((start..at, &code[start..at]))
    })
}

/// The number of the line that a byte is in.
pub fn line(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn visit(file: &Path, path: Vec<String>, found: &mut Vec<Module>) {
    let code = clear(&read(file));
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "mod") => file.with_file_name(""),
        _ => file.with_extension(""),
    };
    for name in declared(&code) {
        let (flat, nested) = (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
        let file = if flat.exists() { flat } else { nested };
        visit(&file, path.iter().cloned().chain([name]).collect(), found);
    }
    let file = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    found.push(Module { path, file, code });
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Puts blanks in the place of comments, the insides of strings, and what is only compiled for tests.
pub fn clear(text: &str) -> String {
    let mut code: Vec<u8> = text.bytes().collect();
    let mut at = 0;
    while at < code.len() {
        let len = inert(&text.as_bytes()[at..], at.checked_sub(1).map(|before| text.as_bytes()[before]));
        blank(&mut code[at..at + len]);
        at += len.max(1);
    }
    // Only whole characters were blanked.
    let mut code = String::from_utf8(code).unwrap();
    while let Some(test) = first_test(&code) {
        let blanks: String = code[test.clone()].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(test, &blanks);
    }
    code
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// How many bytes of a comment, string or character begin here; 0 if none does.
fn inert(text: &[u8], before: Option<u8>) -> usize {
    let to_end = |len: Option<usize>| len.unwrap_or(text.len());
    let find = |what: &[u8]| text.windows(what.len()).position(|window| window == what);
    match text {
        [b'/', b'/', ..] => to_end(find(b"\n")),
        [b'/', b'*', ..] => block_comment(text),
        [b'"', ..] => quoted(text),
        [b'\'', b'\\', ..] => quoted(text),
        // Otherwise the beginning of a lifetime.
        [b'\'', ..] => {
            let rest = std::str::from_utf8(&text[1..text.len().min(6)]);
            let valid = rest.map_or_else(|error| error.valid_up_to(), str::len);
            let char = std::str::from_utf8(&text[1..1 + valid]).unwrap_or_default().chars().next();
            char.map(|char| 1 + char.len_utf8())
                .filter(|end| text.get(*end) == Some(&b'\''))
                .map_or(0, |end| end + 1)
        }
        [b'r', b'"' | b'#', ..] if !before.is_some_and(is_word) || before == Some(b'b') => {
            let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
            if text.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            let end: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
            let from = 2 + hashes;
            let inside = text[from..].windows(end.len()).position(|window| window == end);
            to_end(inside.map(|len| from + len + end.len()))
        }
        _ => 0,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != text[0] {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Where the first item for tests alone is, with its attributes.
fn first_test(code: &str) -> Option<Range<usize>> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let start = code.find(ATTRIBUTE)?;
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(start + ATTRIBUTE.len()) {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b']' | b')' => depth -= 1,
            b'}' if depth == 1 => return Some(start..at + 1),
            b'}' => depth -= 1,
            b';' if depth == 0 => return Some(start..at + 1),
            _ => {}
        }
    }
    Some(start..code.len())
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let text = r##"
//! crate::a
use crate::b; /* crate::c /* nested */ crate::d */
const TEXT: &str = "crate::e \" // crate::f"; const RAW: &str = r#"crate::g " "#; use crate::h;
fn name<'a>(c: char) -> bool { c == '"' || c == '\'' || c == 'é' || c == '{' } use crate::i;
#[cfg(test)]
#[path = "x.rs"]
mod tests;
#[cfg(test)]
mod more { use crate::j; fn nested() { [0; 3]; } }
use crate::k;
"##;
    let code = clear(text);
    let used: Vec<&str> = code.match_indices("crate::").map(|(at, _)| &code[at + 7..at + 8]).collect();
    assert_eq!(used, ["b", "h", "i", "k"]);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(declared(&code).is_empty());
    assert_eq!(declared("pub mod a;\nmod b { }\npub(crate) mod c;"), ["a", "c"]);
}
