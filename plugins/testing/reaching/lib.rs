//! Does what its settings say, once, when a balancer is made: `lookup`, `socket`, `exit`, `traceback` or `trap`. What
//! came of the first two is the reason for which it refuses the settings.

use std::net::{ToSocketAddrs, UdpSocket};

use exports::witgate::plugin::selector::{CandidateChange, Created, Guest, GuestBalancer, Request};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin" });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let said = |result: std::io::Result<String>| match result {
            Ok(text) => format!("got {text}"),
            Err(error) => format!("was told {error}"),
        };
        if settings.contains("lookup") {
            // Twice: what was lent for the first call must be given back.
            let look = || {
                ("registry.example", 80)
                    .to_socket_addrs()
                    .map(|found| format!("{:?}", found.collect::<Vec<_>>()))
            };
            return Err(format!("{}, {}", said(look()), said(look())));
        }
        if settings.contains("socket") {
            return Err(said(UdpSocket::bind("0.0.0.0:0").map(|socket| format!("{socket:?}"))));
        }
        if settings.contains("exit") {
            std::process::exit(3);
        }
        if settings.contains("traceback") {
            eprintln!(
                "Traceback (most recent call last):\n  File \"app.py\", line 7, in create\nZeroDivisionError: division by zero"
            );
        }
        stumble()
    }
}

#[inline(never)]
fn stumble() -> ! {
    std::process::abort()
}

/// Never made.
enum State {}

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {}

    fn pick(&self, _: Request) -> Option<u32> {
        None
    }
}
