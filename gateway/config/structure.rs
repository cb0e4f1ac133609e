//! From a document to a file: every key must be known and every value of the right kind.

use serde::Deserialize;
use toml::de::{Deserializer, Error};

use super::file::File;
use crate::document::{self, Document, Mistake, Way, similar};

/// More mistakes than anybody reads at once.
const ENOUGH: usize = 100;

/// What is right in a document. Serde stops at the first mistake, so each is recorded, its key is taken out, and the
/// rest is read again.
pub(super) fn read(document: &Document<'_>, mistakes: &mut Vec<Mistake>) -> Option<File> {
    let mut rest = document.root().clone();
    for _ in 0..ENOUGH {
        let error = match File::deserialize(Deserializer::from(rest.clone())) {
            Ok(file) => return Some(file),
            Err(error) => error,
        };
        let way = error.span().and_then(|span| document.at(span.start));
        mistakes.push(mistake(&error, way.clone()));
        if !way.is_some_and(|way| document::cut(rest.get_mut(), &way.to_key())) {
            return None;
        }
    }
    None
}

fn mistake(error: &Error, key: Option<Way>) -> Mistake {
    let span = error.span();
    let Some((wrong, known)) = unknown_field(error.message()) else {
        return Mistake { key, span, message: in_words_of_toml(error.message()), hint: None, meant: None };
    };
    let table = key.as_ref().and_then(Way::parent);
    let meant = table.zip(similar::most_similar(wrong, &known)).map(|(table, name)| table.key(name));
    Mistake { key, span, message: format!("unknown key `{wrong}`"), hint: similar::hint(wrong, known), meant }
}

/// Serde tells of an unknown field, and of those it knows, by text alone.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// Serde speaks of its data model; the reader wrote TOML.
fn in_words_of_toml(message: &str) -> String {
    let words = [
        ("invalid type: map", "invalid type: table"),
        ("invalid type: sequence", "invalid type: array"),
        ("expected a map", "expected a table"),
        ("expected a sequence", "expected an array"),
        ("expected f64", "expected a number"),
        ("expected u64", "expected a whole number that is not negative"),
    ];
    let message = words.iter().fold(message.to_owned(), |text, (serde, toml)| text.replace(serde, toml));
    match message.split_once(", expected struct ") {
        Some((found, _)) => format!("{found}, expected a table"),
        None => message,
    }
}
