//! What Consul is asked next, and what its answer is worth.
//!
//! A blocking query names the index of the answer before, and comes back when there is another or when the time is
//! over. Coming back promises no change. The rules of the index are those of Consul's documentation.

use std::time::Duration;

use guest::http::{Answer, Failure};

/// What Consul needs beyond the time that it is asked to wait: it adds a sixteenth of that itself.
const BEYOND: Duration = Duration::from_secs(10);

/// A follower that has not heard from the leader for longer is behind in a way that matters.
const BEHIND: Duration = Duration::from_secs(5);

pub struct Question {
    path: String,
    wait: Duration,
    /// None: asked for the first time, or again from the beginning.
    index: Option<u64>,
}

/// An answer that is one.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// Its body counts.
    Answer,
    /// There is nothing under the key that was asked for.
    Nothing,
    /// Not to be believed, and why.
    Suspect(String),
}

impl Question {
    /// `path` has a query that more can be put to.
    pub fn new(path: String, wait: Duration) -> Question {
        Question { path, wait, index: None }
    }

    pub fn path(&self) -> String {
        let Question { path, wait, index } = self;
        match index {
            None => path.trim_end_matches(['?', '&']).to_owned(),
            Some(index) => format!("{path}index={index}&wait={}s", wait.as_secs()),
        }
    }

    /// How long the answer may take.
    pub fn patience(&self) -> Duration {
        match self.index {
            None => BEYOND,
            Some(_) => self.wait + self.wait / 16 + BEYOND,
        }
    }

    /// The next answer is the list as it is then, whatever was heard.
    pub fn forget(&mut self) {
        self.index = None;
    }

    /// Takes in an answer.
    pub fn heard(&mut self, answer: &Answer) -> Result<Heard, Failure> {
        let index = answer.header("x-consul-index").and_then(|index| index.parse::<u64>().ok());
        match answer.status {
            200 => {}
            // The key-value store says so of a prefix that nothing begins with.
            404 if index.is_some() => {}
            401 | 403 => return Err(Failure::Denied(answer.said())),
            _ => return Err(Failure::Unavailable(answer.said())),
        }
        let suspect = suspect(answer, index);
        // What is not believed is asked for again, and at once.
        self.index = match (&suspect, index) {
            (None, Some(index)) => self.follow(index),
            _ => None,
        };
        Ok(match (suspect, answer.status) {
            (Some(why), _) => Heard::Suspect(why),
            (None, 404) => Heard::Nothing,
            (None, _) => Heard::Answer,
        })
    }

    /// The index to ask with the next time. One that goes back says that Consul was restored or is another one, and 0
    /// would be answered at once for ever.
    fn follow(&self, index: u64) -> Option<u64> {
        (self.index.is_none_or(|before| index >= before)).then_some(index.max(1))
    }
}

/// Why an answer with this index is not to be believed.
fn suspect(answer: &Answer, index: Option<u64>) -> Option<String> {
    let url = &answer.url;
    let is = |name: &str, expected: &str| {
        answer.header(name).is_some_and(|value| value.trim().eq_ignore_ascii_case(expected))
    };
    if index.is_none() {
        return Some(format!("{url} answered without X-Consul-Index, which Consul never does"));
    }
    if is("x-consul-results-filtered-by-acls", "true") {
        return Some(format!("{url} left out what the token may not see"));
    }
    if is("x-consul-knownleader", "false") {
        return Some(format!("{url} answered without a leader, from what it knew before"));
    }
    let last = answer.header("x-consul-lastcontact").and_then(|last| last.trim().parse().ok());
    let last = Duration::from_millis(last.unwrap_or(0));
    (last > BEHIND).then(|| format!("{url} has not heard from the leader for {last:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question::new("/v1/health/service/web?".to_owned(), Duration::from_secs(60))
    }

    fn hear(question: &mut Question, status: u16, headers: &[(&str, &str)]) -> Result<Heard, Failure> {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let (url, body) = ("http://c".to_owned(), b"what it says".to_vec());
        question.heard(&Answer { url, status, headers: headers.collect(), body })
    }

    fn index(question: &mut Question, index: &str) -> String {
        assert_eq!(hear(question, 200, &[("x-consul-index", index)]).ok(), Some(Heard::Answer));
        question.path()
    }

    #[test]
    fn the_first_question_waits_for_nothing_and_the_next_for_a_change() {
        let mut question = question();
        assert_eq!(question.path(), "/v1/health/service/web");
        assert_eq!(question.patience(), BEYOND);
        assert_eq!(index(&mut question, "17"), "/v1/health/service/web?index=17&wait=60s");
        assert!(question.patience() > Duration::from_secs(60) * 17 / 16);
    }

    #[test]
    fn an_index_that_goes_back_is_forgotten_and_zero_is_one() {
        let mut question = question();
        index(&mut question, "17");
        assert_eq!(index(&mut question, "17"), "/v1/health/service/web?index=17&wait=60s");
        assert_eq!(index(&mut question, "16"), "/v1/health/service/web");
        assert_eq!(index(&mut question, "0"), "/v1/health/service/web?index=1&wait=60s");
    }

    #[test]
    fn what_consul_itself_would_not_believe_is_suspect() {
        for headers in [
            &[][..],
            &[("x-consul-index", "nonsense")],
            &[("x-consul-index", "17"), ("x-consul-results-filtered-by-acls", "true")],
            &[("x-consul-index", "17"), ("x-consul-knownleader", "false")],
            &[("x-consul-index", "17"), ("x-consul-lastcontact", "5001")],
        ] {
            let mut question = question();
            index(&mut question, "17");
            assert!(matches!(hear(&mut question, 200, headers), Ok(Heard::Suspect(_))), "{headers:?}");
            assert_eq!(question.path(), "/v1/health/service/web", "{headers:?}");
        }
        let fine = [
            ("x-consul-index", "17"),
            ("x-consul-knownleader", "true"),
            ("x-consul-lastcontact", "12"),
            ("x-consul-results-filtered-by-acls", "false"),
        ];
        assert_eq!(hear(&mut question(), 200, &fine).ok(), Some(Heard::Answer));
    }

    #[test]
    fn a_status_says_what_an_answer_is() {
        let index = [("x-consul-index", "17")];
        assert_eq!(hear(&mut question(), 404, &index).ok(), Some(Heard::Nothing));
        for status in [404, 429, 500, 503, 301] {
            assert!(matches!(hear(&mut question(), status, &[]), Err(Failure::Unavailable(_))), "{status}");
        }
        for status in [401, 403] {
            let Err(Failure::Denied(text)) = hear(&mut question(), status, &index) else {
                panic!("{status}")
            };
            assert_eq!(text, format!("http://c answered {status}: what it says"));
        }
    }
}
