//! Which node is asked, and what the answers of several come to.
//!
//! Nodes pass on to each other what they are told, and do not look whether that arrives. So a node may know less than
//! another, and one that has just started may know nothing.

use std::cell::Cell;

use guest::entries::Entry;
use guest::http::{Failure, texts, together};

/// What one node came to.
#[derive(Debug)]
pub enum Told {
    List(Vec<(String, Entry)>),
    Nothing,
    /// Not to be believed, and why.
    Suspect(String),
    Failed(Failure),
}

/// What all of them came to.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// The list of one of them; empty if all of them know nothing.
    List(Vec<(String, Entry)>),
    Suspect(String),
}

pub struct Nodes {
    urls: Vec<String>,
    /// The one that had a list last.
    first: usize,
}

impl Nodes {
    /// Begins with the node of this number.
    pub fn new(urls: Vec<String>, first: usize) -> Nodes {
        Nodes { urls, first }
    }

    /// Asks one node after the other until one has a list.
    pub fn ask(&mut self, mut ask: impl FnMut(&str) -> Told) -> Result<Heard, Failure> {
        let (mut nothing, mut suspect, mut failures) = (None, None, Vec::new());
        for turn in 0..self.urls.len() {
            let number = (self.first + turn) % self.urls.len();
            let url = &self.urls[number];
            match ask(url) {
                Told::List(list) => {
                    self.first = number;
                    return Ok(Heard::List(list));
                }
                Told::Nothing => nothing = nothing.or(Some(url)),
                Told::Suspect(why) => suspect = suspect.or(Some(why)),
                Told::Failed(failure) => failures.push(failure),
            }
        }
        match (nothing, suspect) {
            (_, Some(why)) => Ok(Heard::Suspect(why)),
            (Some(_), None) if failures.is_empty() => Ok(Heard::List(Vec::new())),
            (Some(url), None) => {
                let why = texts(&failures);
                Ok(Heard::Suspect(format!(
                    "{url} knows no instance, and not all nodes could be asked: {why}"
                )))
            }
            (None, None) => Err(together(&failures)),
        }
    }
}

/// Tells each node. It is enough when one has heard it.
pub fn tell_one(
    urls: &[String],
    first: &Cell<usize>,
    tell: impl Fn(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failures = failures(urls, first, tell);
    if failures.len() < urls.len() { Ok(()) } else { Err(together(&failures)) }
}

/// The same, where all must have heard it.
pub fn tell_all(
    urls: &[String],
    first: &Cell<usize>,
    tell: impl Fn(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failures = failures(urls, first, tell);
    if failures.is_empty() { Ok(()) } else { Err(together(&failures)) }
}

/// Begins with the node of this number. The first one that hears it is the first to be told the next time.
fn failures(
    urls: &[String],
    first: &Cell<usize>,
    tell: impl Fn(&str) -> Result<(), Failure>,
) -> Vec<Failure> {
    let (begin, mut heard, mut failures) = (first.get(), None, Vec::new());
    for turn in 0..urls.len() {
        let number = (begin + turn) % urls.len();
        match tell(&urls[number]) {
            Ok(()) => heard = heard.or(Some(number)),
            Err(failure) => failures.push(failure),
        }
    }
    first.set(heard.unwrap_or(begin));
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<(String, Entry)> {
        vec![("h".to_owned(), Entry::plain("10.0.0.1:80"))]
    }

    /// What each node says by its letter: a list, nothing, suspect, unavailable, denied, invalid. Also who was asked.
    fn heard(nodes: &mut Nodes) -> (String, Vec<String>) {
        let mut asked = Vec::new();
        let heard = nodes.ask(|url| {
            asked.push(url.to_owned());
            match url.split('-').next().unwrap() {
                "list" => Told::List(list()),
                "nothing" => Told::Nothing,
                "suspect" => Told::Suspect("why".into()),
                "denied" => Told::Failed(Failure::Denied("who".into())),
                "invalid" => Told::Failed(Failure::Invalid("what".into())),
                _ => Told::Failed(Failure::Unavailable("gone".into())),
            }
        });
        let heard = match heard {
            Ok(Heard::List(list)) => format!("{} instances", list.len()),
            Ok(Heard::Suspect(why)) => format!("suspect: {why}"),
            Err(Failure::Unavailable(text)) => format!("unavailable: {text}"),
            Err(Failure::Denied(text)) => format!("denied: {text}"),
            Err(Failure::Invalid(text)) => format!("invalid: {text}"),
            Err(Failure::Other(text)) => format!("other: {text}"),
        };
        (heard, asked)
    }

    fn nodes(urls: &[&str], first: usize) -> Nodes {
        Nodes::new(urls.iter().map(ToString::to_string).collect(), first)
    }

    #[test]
    fn a_list_of_one_node_is_enough() {
        for urls in [["list", "gone"], ["gone", "list"], ["nothing", "list"], ["suspect", "list"]] {
            assert_eq!(heard(&mut nodes(&urls, 0)).0, "1 instances", "{urls:?}");
        }
    }

    #[test]
    fn nothing_is_believed_when_all_say_so() {
        assert_eq!(heard(&mut nodes(&["nothing", "nothing-2"], 0)).0, "0 instances");
        assert_eq!(
            heard(&mut nodes(&["nothing", "gone"], 0)).0,
            "suspect: nothing knows no instance, and not all nodes could be asked: gone"
        );
        assert_eq!(heard(&mut nodes(&["nothing", "suspect"], 0)).0, "suspect: why");
    }

    #[test]
    fn failures_are_told_together_as_what_the_operator_can_mend() {
        for (urls, expected) in [
            (["gone", "gone-2"], "unavailable: gone; gone"),
            (["gone", "denied"], "denied: gone; who"),
            (["invalid", "gone"], "invalid: what; gone"),
        ] {
            assert_eq!(heard(&mut nodes(&urls, 0)).0, expected);
        }
        assert_eq!(heard(&mut nodes(&[], 0)).0, "unavailable: ");
    }

    #[test]
    fn every_node_is_told_and_one_or_all_must_have_heard() {
        for (gone, one, all) in [(&[][..], true, true), (&["a"], true, false), (&["a", "b"], false, false)] {
            let urls = ["a", "b"].map(str::to_owned);
            let (first, told) = (Cell::new(0), std::cell::RefCell::new(Vec::new()));
            let tell = |url: &str| {
                told.borrow_mut().push(url.to_owned());
                match gone.contains(&url) {
                    true => Err(Failure::Unavailable(format!("{url} is gone"))),
                    false => Ok(()),
                }
            };
            assert_eq!(
                (tell_one(&urls, &first, tell).is_ok(), tell_all(&urls, &first, tell).is_ok()),
                (one, all),
                "{gone:?}"
            );
            let second = if gone == ["a"] { ["b", "a"] } else { ["a", "b"] };
            assert_eq!(*told.borrow(), [["a", "b"], second].concat(), "who has heard it is told first");
        }
    }

    #[test]
    fn the_node_that_had_a_list_is_asked_first_the_next_time() {
        let mut nodes = nodes(&["gone", "nothing", "list"], 0);
        assert_eq!(heard(&mut nodes).1, ["gone", "nothing", "list"]);
        assert_eq!(heard(&mut nodes).1, ["list"]);
    }
}
