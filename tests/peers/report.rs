//! The table at the end of the suite.

use std::process::ExitCode;

use crate::{Case, Way};

/// What came of all cases.
#[derive(Default)]
pub struct Report {
    rows: Vec<(Case, Option<u64>)>,
}

impl Report {
    /// Takes how many requests a case made, all of which went well; none if it failed.
    pub fn add(&mut self, case: Case, requests: Option<u64>) {
        let word = if requests.is_some() { "ok" } else { "FAILED" };
        eprintln!("{}, {}: {}: {word}", case.peer, case.registry, way(case.way));
        self.rows.push((case, requests));
    }

    /// Prints the table. That there is no case is a failure: a word is wrong then.
    pub fn finish(self) -> ExitCode {
        if self.rows.is_empty() {
            println!("no case has these words in its name; without any all run");
            return ExitCode::FAILURE;
        }
        println!("| peer | version | registry | | requests, none failed |");
        println!("|---|---|---|---|---:|");
        for (case, requests) in &self.rows {
            let requests = requests.map_or("**case failed**".to_owned(), |requests| requests.to_string());
            let (peer, registry, way) = (case.peer, case.registry, way(case.way));
            println!("| {peer} | {} | {registry} | {way} | {requests} |", version(peer));
        }
        let failed = self.rows.iter().filter(|(_, requests)| requests.is_none()).count();
        println!("\n{} cases, {failed} failed", self.rows.len());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// In words.
pub fn way(way: Way) -> &'static str {
    match way {
        Way::Found => "the gateway finds it",
        Way::Finds => "it finds what is announced",
        Way::Fault(fault) => fault,
        Way::Says => "it says what was recorded",
    }
}

/// What its build asks for.
fn version(peer: &str) -> &'static str {
    let (build, after, until) = match peer.split(' ').next() {
        Some("Spring") => {
            (include_str!("spring/pom.xml"), "<artifactId>spring-cloud-dependencies</artifactId>", '<')
        }
        Some("Dubbo") => {
            (include_str!("dubbo/pom.xml"), "<artifactId>dubbo</artifactId>\n      <version>", '<')
        }
        Some("kube-apiserver") => (include_str!("kubernetes/go.mod"), "\tk8s.io/kubernetes v", '\n'),
        Some("nacos-naming") => (include_str!("nacos-naming/package.json"), "\"nacos-naming\": \"", '"'),
        Some("rnacos") => (include_str!("../../scripts/servers.sh"), "rnacos=", '\n'),
        _ => (include_str!("go-zero/go.mod"), "github.com/zeromicro/go-zero v", '\n'),
    };
    let rest = build.split_once(after).map_or("", |(_, rest)| rest);
    let rest = rest.trim_start().trim_start_matches("<version>");
    rest.split(until).next().unwrap_or_default()
}
