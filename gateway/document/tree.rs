//! The parsed text, and where in it everything stands.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

/// The way to a value from the top of the file, printed as `route[1].upstream`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Way(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Way {
    pub(crate) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.into()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// The way to the innermost key: what is wrong in a list is told of the list.
    pub(crate) fn to_key(&self) -> Self {
        let end = self.0.iter().rposition(|step| matches!(step, Step::Key(_))).map_or(0, |last| last + 1);
        Self(self.0[..end].to_vec())
    }

    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, parent) = self.0.split_last()?;
        Some(Self(parent.to_vec()))
    }

    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if place == 0 => write!(f, "{}", Key(key))?,
                Step::Key(key) => write!(f, ".{}", Key(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A key as one writes it: in quotes where TOML asks for them.
struct Key<'a>(&'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match !self.0.is_empty() && self.0.chars().all(bare) {
            true => f.write_str(self.0),
            false => write!(f, "{:?}", self.0),
        }
    }
}

/// Where a key and its value stand, in bytes. The place of a table is its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub key: Range<usize>,
    pub value: Range<usize>,
}

/// A text that is TOML.
pub(crate) struct Document<'a> {
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Vec<Error>> {
        match DeTable::parse_recoverable(text) {
            (root, errors) if errors.is_empty() => Ok(Self { root }),
            (_, errors) => Err(errors),
        }
    }

    pub(crate) fn root(&self) -> &Spanned<DeTable<'a>> {
        &self.root
    }

    /// Whether the file says anything there.
    pub(crate) fn has(&self, way: &Way) -> bool {
        self.place(way).is_some()
    }

    pub(crate) fn is_empty_array(&self, way: &Way) -> bool {
        self.find(way)
            .is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Array(array) if array.is_empty()))
    }

    pub(crate) fn is_empty_table(&self, way: &Way) -> bool {
        self.find(way)
            .is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Table(table) if table.is_empty()))
    }

    /// Where the value stands; none if the file does not mention it.
    pub(crate) fn place(&self, way: &Way) -> Option<Place> {
        let (key, value) = self.find(way)?;
        Some(Place { key, value: value.span() })
    }

    fn find(&self, way: &Way) -> Option<(Range<usize>, &Spanned<DeValue<'a>>)> {
        let (Step::Key(key), rest) = way.0.split_first()? else { return None };
        let (key, value) = self.root.get_ref().get_key_value(key.as_str())?;
        let mut found = (key.span(), value);
        for step in rest {
            found = match (step, found.1.get_ref()) {
                (Step::Key(name), DeValue::Table(table)) => {
                    let (key, value) = table.get_key_value(name.as_str())?;
                    (key.span(), value)
                }
                (Step::Index(index), DeValue::Array(array)) => {
                    let value = array.get(*index)?;
                    (value.span(), value)
                }
                _ => return None,
            };
        }
        Some(found)
    }

    /// The place of the nearest thing on the way that the file mentions; the top of the file has none.
    pub(crate) fn nearest(&self, way: &Way) -> Option<Place> {
        let mut way = way.clone();
        loop {
            if let Some(place) = self.place(&way) {
                return Some(place);
            }
            way = way.parent()?;
        }
    }

    /// The keys of a table at the top, whether their values are right or not. None if it is no table.
    pub(crate) fn keys(&self, table: &str) -> Option<Vec<String>> {
        match self.root.get_ref().get(table).map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => Some(table.keys().map(|key| key.get_ref().to_string()).collect()),
            Some(_) => None,
            None => Some(Vec::new()),
        }
    }

    /// The innermost thing that stands at `byte`.
    pub(crate) fn at(&self, byte: usize) -> Option<Way> {
        let mut found = None;
        search(self.root.get_ref(), &Way::default(), byte, &mut found);
        found
    }
}

fn search(table: &DeTable<'_>, way: &Way, byte: usize, found: &mut Option<Way>) {
    for (key, value) in table {
        let here = way.key(key.get_ref());
        search_value(&here, key.span().contains(&byte), value, byte, found);
    }
}

fn search_value(way: &Way, at_key: bool, value: &Spanned<DeValue<'_>>, byte: usize, found: &mut Option<Way>) {
    let here = at_key || value.span().contains(&byte);
    if here && found.as_ref().is_none_or(|other| other.0.len() < way.0.len()) {
        *found = Some(way.clone());
    }
    match value.get_ref() {
        DeValue::Table(table) => search(table, way, byte, found),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                search_value(&way.index(index), false, value, byte, found);
            }
        }
        _ => {}
    }
}

/// Takes a key out of a table, with everything under it. False if there is none.
pub(crate) fn cut(table: &mut DeTable<'_>, way: &Way) -> bool {
    let Some((Step::Key(key), rest)) = way.0.split_first() else { return false };
    match rest {
        [] => table.remove(key.as_str()).is_some(),
        _ => table.get_mut(key.as_str()).is_some_and(|value| cut_inside(value.get_mut(), rest)),
    }
}

fn cut_inside(value: &mut DeValue<'_>, rest: &[Step]) -> bool {
    match (value, rest) {
        (DeValue::Table(table), _) => cut(table, &Way(rest.to_vec())),
        (DeValue::Array(array), [Step::Index(index), rest @ ..]) => {
            array.get_mut(*index).is_some_and(|value| cut_inside(value.get_mut(), rest))
        }
        _ => false,
    }
}
