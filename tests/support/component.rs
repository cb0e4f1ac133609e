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

/// The component of the plugin crate inside an example, built as its README says.
pub fn of_example(example: &str, library: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = root.join("examples").join(example).join("plugin/Cargo.toml");
    // One folder for all of them: they have most of their dependencies in common.
    let built = guest::build(&manifest, &root.join("target/examples"));
    std::fs::read(built.join(format!("{library}.wasm"))).unwrap()
}
