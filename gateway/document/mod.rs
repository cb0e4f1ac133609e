//! A text that an operator wrote, what stands where in it, and what is wrong there: what all that is configured is
//! read by.
//!
//! An `Examiner` checks single values, records what is wrong, and goes on, so that all mistakes are told at once.
//! What the keys are called and mean is the business of those below.

mod entry;
mod problem;
pub(crate) mod similar;
mod tree;
mod value;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use self::problem::{Problem, Problems};
pub(crate) use self::{
    entry::{Flag, HeaderIs, NumberOr, OneOrMore, SwitchOr, TextOr},
    problem::Mistake,
    tree::{Document, Way, cut},
};

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Checks what stands in a document, and records what is wrong.
pub(crate) struct Examiner<'a> {
    pub(crate) document: &'a Document<'a>,
    /// What relative paths are relative to.
    folder: PathBuf,
    mistakes: Vec<Mistake>,
}

impl<'a> Examiner<'a> {
    pub(crate) fn new(document: &'a Document<'a>, path: &Path, mistakes: Vec<Mistake>) -> Self {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Self { document, folder, mistakes }
    }

    pub(crate) fn into_problems(self) -> Vec<Mistake> {
        self.mistakes
    }

    /// Records that a value is wrong.
    pub(crate) fn wrong(&mut self, way: &Way, message: impl Into<String>) -> &mut Mistake {
        self.wrong_part(Part::Value, way, message)
    }

    /// Records that a key is wrong, or the thing as a whole that it names.
    pub(crate) fn wrong_key(&mut self, way: &Way, message: impl Into<String>) -> &mut Mistake {
        self.wrong_part(Part::Key, way, message)
    }

    pub(crate) fn wrong_part(&mut self, part: Part, way: &Way, message: impl Into<String>) -> &mut Mistake {
        let place = self.document.nearest(way);
        let span = place.map(|place| if part == Part::Key { place.key } else { place.value });
        let key = Some(way.clone());
        self.mistakes.push(Mistake { key, span, message: message.into(), hint: None, meant: None });
        let last = self.mistakes.len() - 1;
        &mut self.mistakes[last]
    }

    /// A value that must be there. It may be gone because it was of the wrong kind, or have another name because of
    /// a typing error; that was told already.
    pub(crate) fn required<'v, T>(&mut self, table: &Way, key: &str, value: &'v Option<T>) -> Option<&'v T> {
        if value.is_none() {
            self.missing_unless_told(table, key);
        }
        value.as_ref()
    }

    pub(crate) fn missing_unless_told(&mut self, table: &Way, key: &str) {
        if !self.mentions(&table.key(key)) {
            self.wrong(table, format!("`{key}` is missing"));
        }
    }

    /// Whether the file says something there, or meant to.
    pub(crate) fn mentions(&self, way: &Way) -> bool {
        let meant = |mistake: &Mistake| mistake.meant.as_ref() == Some(way);
        self.document.has(way) || self.mistakes.iter().any(meant)
    }

    /// Records that a key was written without the other that it needs.
    pub(crate) fn together<T>(&mut self, table: &Way, written: &str, missing: &str) -> Option<T> {
        if !self.mentions(&table.key(missing)) {
            self.wrong_key(&table.key(written), format!("`{written}` is of no use without `{missing}`"));
        }
        None
    }

    /// Looks at the document, since a list may also be empty here because it was of the wrong kind.
    pub(crate) fn not_empty(&mut self, list: &Way) {
        if self.document.is_empty_array(list) {
            self.wrong(list, "this must not be empty");
        }
    }
}

/// Which of the two that make an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Key,
    Value,
}
