//! The overload test of the field: three times as many requests as a service can do, for half a minute, with and without
//! limits. What comes of it is a picture.
//!
//! Run by `./dev overload`, which says where the picture goes. On loopback, and with so few requests that the machine hardly
//! notices: what is short is the service, not the processor.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what helps it, says what it expects by failing"
)]

mod load;
mod picture;
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::{env, fs, path::PathBuf, time::Duration};

use self::{
    load::{Course, Load},
    service::Service,
};
use crate::support::gateway::Gateway;

/// The service does so many requests at once, each in so long.
const WORKERS: usize = 10;
const WORK: Duration = Duration::from_millis(100);

/// What clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the service can do in a second.
const CAPACITY: u32 = (WORKERS as u128 * 1000 / WORK.as_millis()) as u32;

/// Before and after the overload there is half of what it can do.
const CALM: Duration = Duration::from_secs(5);
const OVERLOAD: Duration = Duration::from_secs(30);

/// What the upstream has beside its defaults, each with its name in the picture.
const CASES: [(&str, &str); 4] = [
    ("no limits", ""),
    ("max_in_flight = 15", "limits = { max_in_flight = 15 }"),
    ("... with queue = 30, queue_ms = 200", "limits = { max_in_flight = 15, queue = 30, queue_ms = 200 }"),
    (
        "adaptive from 100, response_ms = 500",
        "limits = { max_in_flight = 100, adaptive = true }\ntimeouts = { response_ms = 500 }",
    ),
];

fn main() {
    let arguments = env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let picture = arguments.last().map_or_else(|| PathBuf::from("docs/overload.svg"), PathBuf::from);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let courses: Vec<(&str, Course)> =
        CASES.into_iter().map(|(name, settings)| (name, runtime.block_on(run(name, settings)))).collect();
    fs::write(&picture, picture::draw(&courses)).unwrap();
    println!("\nThe picture is in {}.", picture.display());
}

async fn run(name: &str, settings: &str) -> Course {
    let service = Service::start(WORKERS, WORK).await;
    let gateway = Gateway::start(&format!(
        "[registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = ['{}'] }}
         [upstream.main]
         service = 'main'
         registry = 'fixed'
         retries = 0
         {settings}
         [[route]]
         upstream = 'main'",
        service.address
    ));
    let mut load = Load::new(gateway.address(), PATIENCE);
    load.send(CAPACITY / 2, CALM).await;
    load.send(3 * CAPACITY, OVERLOAD).await;
    load.send(CAPACITY / 2, 2 * CALM).await;
    let course = load.end().await;
    println!("{name}: {}", course.summary(CALM, OVERLOAD));
    course
}
