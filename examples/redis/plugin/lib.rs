//! Redis: the instances of a service are the fields of a hash, asked for each second.
//!
//! ```text
//! HSET services:orders one 10.0.0.1:8080
//! ```

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use witgate::registry::types::State;
use witgate::tcp::tcp;

// Reads the WIT text and writes the types and traits used here.
wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Redis);

/// How often Redis is asked, and how long it may take to answer.
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest name or value that is taken, in bytes.
const LONGEST: usize = 64 << 10;

struct Redis;

impl Guest for Redis {
    type Subscription = Followed;

    fn check(settings: String) -> Result<(), String> {
        match settings.as_str() {
            "{}" => Ok(()),
            other => Err(format!("settings of redis: there are none, and {other} was given")),
        }
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        Self::check(settings).map_err(Failure::Invalid)?;
        // Where Redis is stands in the gateway's configuration, and nothing else can be reached.
        let address = tcp::addresses()?.remove(0);
        let connected = TcpStream::connect(&address).and_then(|stream| {
            // A Redis that hangs is no Redis that has nothing to say.
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream =
            connected.map_err(|error| Failure::Unavailable(format!("redis at {address}: {error}")))?;
        let asking = Asking { stream: BufReader::new(stream), known: None };
        Ok(Subscription::new(Followed { key: format!("services:{service}"), asking: RefCell::new(asking) }))
    }
}

/// One service in one gateway.
struct Followed {
    key: String,
    asking: RefCell<Asking>,
}

struct Asking {
    stream: BufReader<TcpStream>,
    /// What was told last.
    known: Option<Vec<(String, String)>>,
}

impl GuestSubscription for Followed {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        if asking.known.is_some() {
            // Costs nothing: the instance is suspended.
            std::thread::sleep(PAUSE);
        }
        let question = format!("*2\r\n$7\r\nHGETALL\r\n${}\r\n{}\r\n", self.key.len(), self.key);
        let lost = |error: Error| Failure::Unavailable(format!("redis: {error}"));
        asking.stream.get_mut().write_all(question.as_bytes()).map_err(lost)?;
        let mut fields = match answer(&mut asking.stream).map_err(lost)? {
            Answer::Fields(fields) => fields,
            Answer::Error(text) if text.starts_with("NOAUTH") => return Err(Failure::Denied(text)),
            Answer::Error(text) if text.starts_with("WRONGTYPE") => return Err(Failure::Invalid(text)),
            // It is loading its data, for instance.
            Answer::Error(text) => return Err(Failure::Unavailable(text)),
        };
        // Redis gives them in any order.
        fields.sort();
        if asking.known.as_ref() == Some(&fields) {
            return Ok(News::Unchanged);
        }
        let list = fields.iter().cloned().map(|(id, address)| endpoint(id, address)).collect();
        asking.known = Some(fields);
        Ok(News::Complete(list))
    }
}

fn endpoint(id: String, address: String) -> Endpoint {
    Endpoint {
        id,
        address,
        weight: 1,
        priority: 0,
        state: State::Ready,
        hostname: None,
        zone: None,
        labels: Vec::new(),
    }
}

/// What Redis says to `HGETALL`.
#[derive(Debug, PartialEq)]
enum Answer {
    Fields(Vec<(String, String)>),
    Error(String),
}

fn answer(stream: &mut impl BufRead) -> Result<Answer, Error> {
    let head = line(stream)?;
    if let Some(error) = head.strip_prefix('-') {
        return Ok(Answer::Error(error.to_owned()));
    }
    let count = number(&head, '*')?;
    let mut fields = Vec::new();
    for _ in 0..count / 2 {
        fields.push((text(stream)?, text(stream)?));
    }
    Ok(Answer::Fields(fields))
}

fn text(stream: &mut impl BufRead) -> Result<String, Error> {
    let length = number(&line(stream)?, '$')?;
    if length > LONGEST {
        return Err(wrong(&format!("a text of {length} bytes")));
    }
    let mut bytes = vec![0; length + 2];
    stream.read_exact(&mut bytes)?;
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| wrong("a text that is no UTF-8"))
}

fn line(stream: &mut impl BufRead) -> Result<String, Error> {
    let mut line = String::new();
    match std::io::Read::take(stream, LONGEST as u64).read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn number(line: &str, kind: char) -> Result<usize, Error> {
    line.strip_prefix(kind).and_then(|digits| digits.parse().ok()).ok_or_else(|| wrong(line))
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what} makes no sense here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<Answer, String> {
        answer(&mut bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_the_fields_of_a_hash() {
        let bytes = b"*4\r\n$1\r\na\r\n$5\r\na:123\r\n$1\r\nb\r\n$3\r\nb:1\r\n";
        let fields = [("a", "a:123"), ("b", "b:1")].map(|(id, address)| (id.to_owned(), address.to_owned()));
        assert_eq!(read(bytes), Ok(Answer::Fields(fields.to_vec())));
        assert_eq!(read(b"*0\r\n"), Ok(Answer::Fields(Vec::new())));
        assert_eq!(read(b"-LOADING of data\r\n"), Ok(Answer::Error("LOADING of data".to_owned())));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for bytes in
            [&b""[..], b"*4\r\n$1\r\na\r\n", b"hello\r\n", b"*2\r\n$99999999\r\n", b"*2\r\n$1\r\n\xff\r\n"]
        {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
