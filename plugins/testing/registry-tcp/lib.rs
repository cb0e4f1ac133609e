//! Asks for a service by a line, and gets a list in each line that comes back. The settings may have another `to` than
//! the first address of the table, or ask to `listen` or to use `udp` first.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use serde_json::Value;
use witgate::registry::types::State;
use witgate::tcp::tcp::addresses;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Subscription = Following;

    fn check(_: String) -> Result<(), String> {
        Ok(())
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings: Value = serde_json::from_str(&settings).unwrap_or_default();
        let failed = |error: std::io::Error| Failure::Unavailable(error.to_string());
        if settings["listen"] == true {
            TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        }
        if settings["udp"] == true {
            UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
        }
        let address = match settings["to"].as_str() {
            Some(address) => address.to_owned(),
            None => addresses()?.remove(0),
        };
        let mut stream = TcpStream::connect(address).map_err(failed)?;
        stream.write_all(format!("{service}\n").as_bytes()).map_err(failed)?;
        Ok(Subscription::new(Following(RefCell::new(BufReader::new(stream)))))
    }
}

struct Following(RefCell<BufReader<TcpStream>>);

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut line = String::new();
        match self.0.borrow_mut().read_line(&mut line) {
            Ok(0) => return Err(Failure::Unavailable("the connection has ended".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(Failure::Unavailable(error.to_string())),
        }
        let entries: Vec<Entry> =
            serde_json::from_str(&line).map_err(|error| Failure::Invalid(error.to_string()))?;
        let endpoints = entries.iter().map(|entry| guest::endpoint!(entry.address.clone(), entry.clone()));
        Ok(News::Complete(endpoints.collect()))
    }
}
