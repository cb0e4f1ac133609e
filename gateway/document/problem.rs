//! What is wrong with a configuration, told so that it can be put right.

use std::{fmt, ops::Range, path::Path};

use super::Way;
use crate::files::ReadError;
use crate::telemetry::text::{is_visible, shown};

/// One mistake, before its place is known in lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub key: Option<Way>,
    pub span: Option<Range<usize>>,
    pub message: String,
    pub hint: Option<String>,
    /// What was probably meant by an unknown key, so that it is not reported missing as well.
    pub meant: Option<Way>,
}

impl Mistake {
    /// Says what to do about it.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }

    pub(crate) fn hint_if_any(&mut self, hint: Option<String>) {
        self.hint = hint;
    }
}

/// One mistake and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The way to the value, like `route[1].upstream`. Empty for what concerns no key.
    pub key: String,
    /// Counted from 1, in lines and characters. None for what concerns the file as a whole.
    pub place: Option<(usize, usize)>,
    /// What is wrong, with the wrong value.
    pub message: String,
    pub hint: Option<String>,
    source: Option<Source>,
}

/// So much of a line is shown, in characters, and so much of it in front of the mistake.
const WIDEST: usize = 240;
const BEFORE: usize = 160;

/// The line with the mistake, or as much of it as helps, and which part of it that is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    line: String,
    /// Characters in front of the mistake.
    before: usize,
    marked: usize,
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
    /// The text is no TOML, so nothing else could be checked.
    unparsed: bool,
}

impl Problems {
    /// The mistakes, in the order of the file.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// The mistakes in one line each, for the log.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|problem| {
            let place = problem.place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
            let key = if problem.key.is_empty() { String::new() } else { format!(": {}", problem.key) };
            let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
            format!("{}{place}{key}: {}{hint}", self.file, problem.message)
        })
    }

    pub(crate) fn unreadable(path: &Path, error: &ReadError) -> Self {
        let message = format!("the configuration cannot be read: {error}");
        let problem = Problem { key: String::new(), place: None, message, hint: None, source: None };
        Self { file: path.display().to_string(), list: vec![problem], unparsed: false }
    }

    /// One problem per line: a parser that has lost its way reports the same mistake in several words.
    pub(crate) fn syntax(path: &Path, text: &str, errors: Vec<toml::de::Error>) -> Self {
        let mistake = |error: toml::de::Error| Mistake {
            key: None,
            span: error.span().or(Some(text.len()..text.len())),
            message: error.message().to_owned(),
            hint: None,
            meant: None,
        };
        let mut list = located(text, errors.into_iter().map(mistake));
        list.dedup_by_key(|problem| problem.place.map(|(line, _)| line));
        Self { file: path.display().to_string(), list, unparsed: true }
    }

    /// What was made, unless something is wrong.
    pub(crate) fn or<T>(made: Option<T>, path: &Path, text: &str, mistakes: Vec<Mistake>) -> Result<T, Self> {
        match (made, mistakes) {
            (Some(made), mistakes) if mistakes.is_empty() => Ok(made),
            (_, mistakes) => {
                let list = located(text, mistakes.into_iter());
                Err(Self { file: path.display().to_string(), list, unparsed: false })
            }
        }
    }
}

fn located(text: &str, mistakes: impl Iterator<Item = Mistake>) -> Vec<Problem> {
    let mut list: Vec<_> = mistakes.map(|mistake| Problem::locate(text, mistake)).collect();
    list.sort_by_key(|problem| problem.place);
    list
}

impl Problem {
    fn locate(text: &str, mistake: Mistake) -> Self {
        let key = mistake.key.map(|way| way.to_string()).unwrap_or_default();
        let (place, source) = match mistake.span {
            Some(span) => {
                let (place, source) = Source::find(text, span);
                (Some(place), Some(source))
            }
            None => (None, None),
        };
        Self { key, place, message: mistake.message, hint: mistake.hint, source }
    }
}

impl Source {
    /// A span may end on a later line, or stand at the end of the text; what is marked is at least one character.
    fn find(text: &str, span: Range<usize>) -> ((usize, usize), Self) {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[..start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        // A line may be as long as the file.
        let from = text[..start]
            .char_indices()
            .rev()
            .nth(BEFORE - 1)
            .map_or(line_start, |(at, _)| at.max(line_start));
        let length = text[from..line_end].char_indices().nth(WIDEST).map_or(line_end - from, |(at, _)| at);
        let until = from + length;
        let before = text[from..start].chars().count();
        let marked = text[start..end.min(until).max(start)].chars().count().max(1);
        ((line, column), Self { line: printable(&text[from..until]), before, marked })
    }
}

/// One column per character, and nothing that a terminal would obey or hide.
fn printable(line: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        c if is_visible(c) => c,
        _ => char::REPLACEMENT_CHARACTER,
    };
    line.trim_end().chars().map(shown).collect()
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            problem.write(&self.file, f)?;
            writeln!(f)?;
        }
        let (count, plural) = (self.list.len(), if self.list.len() == 1 { "" } else { "s" });
        write!(f, "{count} problem{plural} in {}", shown(&self.file))?;
        match self.unparsed {
            true => write!(f, "; the rest is checked once this is TOML"),
            false => Ok(()),
        }
    }
}

impl Problem {
    fn write(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown(file))?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", shown(&self.key))?;
        }
        writeln!(f, ": {}", shown(&self.message))?;
        if let (Some((line, _)), Some(source)) = (self.place, &self.source) {
            let margin = line.to_string().len();
            writeln!(f, " {line} | {}", source.line)?;
            writeln!(f, " {:margin$} | {}{}", "", " ".repeat(source.before), "^".repeat(source.marked))?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, " hint: {}", shown(hint)),
            None => Ok(()),
        }
    }
}
