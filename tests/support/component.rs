//! Components for tests beyond those of `plugins/`.

use std::path::Path;

use super::guest;

/// The same component with one more custom section: another file, with another digest.
pub fn with_custom_section(component: &[u8], number: usize) -> Vec<u8> {
    let name = format!("test-{number}");
    // The section's number, its length, and in it the name with its length; all lengths are below 128.
    let section = [&[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
    [component, &section].concat()
}

/// The same component with so many functions more, which nobody calls and which are compiled all the same: a hundred
/// take about as long as a megabyte of an interpreter.
pub fn with_functions(component: &[u8], functions: usize) -> Vec<u8> {
    let body = function();
    let types = [1, 0x60, 0, 0].to_vec();
    let declared = [number(functions), vec![0; functions]].concat();
    let code = [number(functions), body.repeat(functions)].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in [(1, types), (3, declared), (10, code)] {
        module.extend([vec![id], number(content.len()), content].concat());
    }
    [component, &[1], &number(module.len()), &module].concat()
}

/// The same, until the component is of this length at least.
pub fn of_length(component: &[u8], bytes: usize) -> Vec<u8> {
    with_functions(component, bytes.saturating_sub(component.len()).div_ceil(function().len()))
}

/// A function with a local and a few hundred steps on it: x = (x * k) ^ x.
fn function() -> Vec<u8> {
    let mut body = vec![1, 1, 0x7e];
    for step in 0..400u32 {
        body.extend([0x20, 0, 0x42, (step % 63) as u8, 0x7e, 0x20, 0, 0x85, 0x21, 0]);
    }
    body.push(0x0b);
    [number(body.len()), body].concat()
}

/// As WebAssembly and protocol buffers write it: seven bits a byte, the least first.
pub fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The component of the plugin crate inside an example, built as its README says.
pub fn of_example(example: &str, library: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = root.join("examples").join(example).join("plugin/Cargo.toml");
    // One folder for all of them: they have most of their dependencies in common.
    let built = guest::build(&manifest, &root.join("target/examples"));
    std::fs::read(built.join(format!("{library}.wasm"))).unwrap()
}
