//! Does what its settings say, once, when a balancer is made: `lookup`, `socket`, `leave-well`, `leave-badly`, `code-42`,
//! `traceback` or `trap`. What came of the first two is the reason for which it refuses the settings.

use std::net::{ToSocketAddrs, UdpSocket};

use exports::witgate::selector::selector::{CandidateChange, Created, Guest, GuestBalancer, Request};

wit_bindgen::generate!({
    path: "../../../wit",
    // The standard library knows of no exit with a number.
    inline: "
        package witgate:testing;
        world leaving {
            include witgate:plugin/selector-plugin@0.1.0;
            import wasi:cli/exit@0.2.12;
        }
    ",
    world: "witgate:testing/leaving",
    generate_all,
});

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
        if settings.contains("leave-well") {
            std::process::exit(0);
        }
        if settings.contains("leave-badly") {
            std::process::exit(3);
        }
        if settings.contains("code-42") {
            wasi::cli::exit::exit_with_code(42);
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
