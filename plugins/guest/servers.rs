//! Which server is asked, and what it comes to when several do not answer.
//!
//! Servers tell each other what they hear, so one is enough.

use crate::http::{Failure, texts, together};

/// Why a server did not do what it was asked for.
#[derive(Debug)]
pub enum Problem {
    /// Its answer is not to be believed.
    Suspect(String),
    Failed(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Failed(failure)
    }
}

pub struct Servers {
    urls: Vec<String>,
    /// The one that answered last.
    first: usize,
}

impl Servers {
    /// Begins with the server of this number.
    pub fn new(urls: Vec<String>, first: usize) -> Servers {
        Servers { urls, first }
    }

    /// Asks one server after the other until one does it.
    pub fn ask<T>(&mut self, mut ask: impl FnMut(&str) -> Result<T, Problem>) -> Result<T, Problem> {
        let (mut suspect, mut failures) = (None, Vec::new());
        for turn in 0..self.urls.len() {
            let number = (self.first + turn) % self.urls.len();
            match ask(&self.urls[number]) {
                Ok(done) => {
                    self.first = number;
                    return Ok(done);
                }
                Err(Problem::Suspect(why)) => suspect = suspect.or(Some(why)),
                Err(Problem::Failed(failure)) => failures.push(failure),
            }
        }
        Err(match suspect {
            Some(why) if failures.is_empty() => Problem::Suspect(why),
            Some(why) => Problem::Suspect(format!("{why}; {}", texts(&failures))),
            None => Problem::Failed(together(&failures)),
        })
    }

    /// Another one is asked first the next time.
    pub fn turn(&mut self) {
        self.first = (self.first + 1) % self.urls.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who answered, or why nobody did, and who was asked: each does as its name says.
    fn ask(servers: &mut Servers) -> (String, Vec<String>) {
        let mut asked = Vec::new();
        let done = servers.ask(|url| {
            asked.push(url.to_owned());
            match url {
                "suspect" => Err(Problem::Suspect("why".into())),
                "denied" => Err(Problem::Failed(Failure::Denied("who".into()))),
                "gone" => Err(Problem::Failed(Failure::Unavailable("gone".into()))),
                url => Ok(url.to_owned()),
            }
        });
        let done = match done {
            Ok(url) => url,
            Err(Problem::Suspect(why)) => format!("suspect: {why}"),
            Err(Problem::Failed(Failure::Denied(text))) => format!("denied: {text}"),
            Err(Problem::Failed(Failure::Unavailable(text))) => format!("unavailable: {text}"),
            Err(other) => format!("{other:?}"),
        };
        (done, asked)
    }

    fn servers(urls: &[&str]) -> Servers {
        Servers::new(urls.iter().map(ToString::to_string).collect(), 0)
    }

    #[test]
    fn the_next_server_answers_for_one_that_does_not() {
        let mut servers = servers(&["gone", "suspect", "a", "b"]);
        assert_eq!(ask(&mut servers), ("a".into(), ["gone", "suspect", "a"].map(str::to_owned).to_vec()));
        assert_eq!(ask(&mut servers), ("a".into(), vec!["a".to_owned()]));
        servers.turn();
        assert_eq!(ask(&mut servers).0, "b");
    }

    #[test]
    fn when_nobody_does_it_all_are_told_of() {
        for (urls, expected) in [
            (["gone", "gone"], "unavailable: gone; gone"),
            (["gone", "denied"], "denied: gone; who"),
            (["suspect", "suspect"], "suspect: why"),
            (["gone", "suspect"], "suspect: why; gone"),
        ] {
            assert_eq!(ask(&mut servers(&urls)).0, expected);
        }
        servers(&[]).turn();
    }
}
