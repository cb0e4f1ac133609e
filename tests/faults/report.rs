//! The table at the end of the suite.

use std::{process::ExitCode, time::Duration};

use crate::support::traffic::Tally;

/// What came of a case that did what it should.
pub struct Outcome {
    pub tally: Tally,
    /// From the moment when the right list could be had to the first request that went by it.
    pub right: Duration,
    /// How many requests may fail, where some have to.
    pub bound: u64,
}

impl Outcome {
    /// No request has failed.
    #[track_caller]
    pub fn without_failure(tally: Tally, right: Duration) -> Self {
        Self { tally: tally.none_failed(), right, bound: 0 }
    }

    /// No more than so many requests have failed.
    #[track_caller]
    pub fn within(bound: u64, tally: Tally, right: Duration) -> Self {
        Self { tally: tally.at_most_failed(bound), right, bound }
    }
}

/// What came of all cases.
#[derive(Default)]
pub struct Report {
    rows: Vec<(&'static str, Option<Outcome>)>,
}

impl Report {
    /// Takes the outcome of a case; none if it failed.
    pub fn add(&mut self, name: &'static str, outcome: Option<Outcome>) {
        let word = if outcome.is_some() { "ok" } else { "FAILED" };
        eprintln!("{name}: {word}");
        self.rows.push((name, outcome));
    }

    /// Prints the table. That there is no case is a failure: a word is wrong then.
    pub fn finish(self) -> ExitCode {
        if self.rows.is_empty() {
            println!("no case has these words in its name; without any all run");
            return ExitCode::FAILURE;
        }
        println!("| case | requests sent | failed | may fail | on the right list after |");
        println!("|---|---:|---:|---:|---:|");
        for (name, outcome) in &self.rows {
            match outcome {
                Some(Outcome { tally, right, bound }) => {
                    let right = right.as_secs_f64();
                    println!("| {name} | {} | {} | {bound} | {right:.2} s |", tally.sent, tally.failed);
                }
                None => println!("| {name} | | **case failed** | | |"),
            }
        }
        let failed = self.rows.iter().filter(|(_, outcome)| outcome.is_none()).count();
        println!("\n{} cases, {failed} failed", self.rows.len());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
