//! What the user wrote (`file`) and what runs (`running`): two types, and the checks between them.
//!
//! Text becomes a document, whose parts know their places; the document becomes a file, as far as its keys and
//! kinds of values are right; the file becomes what runs, once everything in it was checked. Each step records its
//! problems and goes on with what is left, so all mistakes are told at once.

mod check;
pub mod describe;
mod file;
mod order;
mod restart;
mod running;
mod schema;
mod structure;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::{check::Checker, file::File};
pub use self::{restart::restart_needed, running::*, schema::schema};
pub use crate::document::{Problem, Problems, Secret};
use crate::{document::Document, files};

/// Reads and checks a configuration, and the password and token files that it names.
pub fn load(path: &Path) -> Result<Config, Problems> {
    parse(&read(path)?, path)
}

/// The same for whoever only uses its registries: there need be nothing in it that serves.
pub fn load_registries(path: &Path) -> Result<Config, Problems> {
    checked(&read(path)?, path, |_, _| ())
}

/// Checks the text of a configuration. Paths in it are relative to the folder of `path`.
pub fn parse(text: &str, path: &Path) -> Result<Config, Problems> {
    checked(text, path, |checker, file| checker.has_a_listener(&file.listener))
}

fn read(path: &Path) -> Result<String, Problems> {
    files::read_text(path, files::DOCUMENT).map_err(|error| Problems::unreadable(path, &error))
}

/// `also` is what has to be right beside every single thing.
fn checked(text: &str, path: &Path, also: impl FnOnce(&mut Checker<'_>, &File)) -> Result<Config, Problems> {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(syntax) => return Err(Problems::syntax(path, text, syntax)),
    };
    let mut problems = Vec::new();
    let file = structure::read(&document, &mut problems);
    let mut checker = Checker::new(&document, path, problems);
    let config = file.and_then(|file| {
        also(&mut checker, &file);
        checker.config(&file)
    });
    Problems::or(config, path, text, checker.into_problems())
}
