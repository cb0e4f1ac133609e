//! All faults that must not cost a request, one after the other, with clients that send throughout.
//!
//! Run by `./dev faults`, which takes words of the names of cases to run only those. Prints a table at its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what helps it, says what it expects by failing"
)]

mod backends;
mod compiling;
mod config;
mod etcd;
mod flapping;
mod found;
mod gateway;
mod network;
mod news;
mod plugin;
mod report;
mod state;
#[path = "../support/mod.rs"]
mod support;

use std::{env, pin::Pin, process::ExitCode, time::Duration};

use report::{Outcome, Report};
use support::{consul::Consul, zookeeper::ZooKeeper};

/// No case takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(300);

type Run = fn() -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

const CASES: [(&str, Run); 50] = [
    ("etcd: killed", || Box::pin(etcd::killed())),
    ("etcd: down for 60 s", || Box::pin(etcd::down_for_a_minute())),
    ("etcd: stopped with SIGSTOP", || Box::pin(etcd::stopped())),
    ("etcd: restarted with its data", || Box::pin(etcd::restarted())),
    ("etcd: restarted empty", || Box::pin(etcd::restarted_empty())),
    ("etcd: restored from an older backup", || Box::pin(etcd::restored_from_a_backup())),
    ("etcd: leader of three killed", || Box::pin(etcd::leader_killed())),
    ("etcd: quorum of three lost", || Box::pin(etcd::quorum_lost())),
    ("etcd: compacted while disconnected", || Box::pin(etcd::compacted())),
    ("etcd: password revoked, connection broken", || Box::pin(etcd::password_revoked())),
    ("etcd: certificate expired, connection broken", || Box::pin(etcd::certificate_expired())),
    ("etcd: all leases expired", || Box::pin(etcd::leases_expired())),
    ("network: a fifth of all packets lost", || Box::pin(network::loss())),
    ("network: connections reset", || Box::pin(network::reset())),
    ("network: nothing reaches etcd", || Box::pin(network::deaf())),
    ("network: nothing comes back from etcd", || Box::pin(network::mute())),
    ("network: cut for 30 s", || Box::pin(network::cut())),
    ("gateway: killed, etcd down", || Box::pin(gateway::killed_while_etcd_is_down())),
    ("gateway: killed, etcd silent", || Box::pin(gateway::killed_while_etcd_is_silent())),
    ("gateway: killed, data changed", || Box::pin(gateway::killed_while_the_data_changes())),
    ("gateway: killed, state damaged", || Box::pin(gateway::killed_and_its_state_damaged())),
    ("gateway: killed, all instances replaced", || Box::pin(gateway::killed_after_all_were_replaced())),
    ("gateway: killed, strangers ask first", || Box::pin(found::strangers_come_first())),
    ("gateway: lists change while workers take them up", || Box::pin(found::changed_while_taken_up())),
    ("gateway: configuration gone", || Box::pin(config::gone())),
    ("gateway: resolver silent", || Box::pin(config::silent_resolver())),
    ("gateway: state directory full", || Box::pin(state::full())),
    ("gateway: state directory read-only", || Box::pin(state::read_only())),
    ("gateway: state directory of another user", || Box::pin(state::wrong_owner())),
    ("gateway: state directory of another gateway", || Box::pin(state::held())),
    ("plugin: traps on the third call", || Box::pin(plugin::traps())),
    ("plugin: loops", || Box::pin(plugin::loops())),
    ("plugin: leaks memory", || Box::pin(plugin::leaks())),
    ("plugin: answers garbage", || Box::pin(plugin::garbage())),
    ("plugin: names a hundred dead addresses", || Box::pin(plugin::dead())),
    ("plugin: names instances twice", || Box::pin(plugin::duplicates())),
    ("plugin: 100,000 endpoints at once", || Box::pin(plugin::many())),
    ("plugin: 12 MB are compiled", || Box::pin(compiling::large())),
    ("plugin: files without end beside it", || Box::pin(config::odd_plugins())),
    ("plugin: a selector traps, the list changes", || Box::pin(plugin::selector_traps())),
    ("plugin: exchanged in an outage", || Box::pin(plugin::exchanged())),
    ("backends: one hangs", || Box::pin(backends::hangs())),
    ("backends: one answers 500", || Box::pin(backends::answers_500())),
    ("backends: one resets", || Box::pin(backends::resets())),
    ("backends: one is gone but registered", || Box::pin(backends::gone())),
    ("backends: an address is another service's", || Box::pin(backends::reused())),
    ("news: of etcd", || Box::pin(news::of_etcd())),
    ("news: of Consul", || Box::pin(news::of::<Consul>(Duration::from_secs(1)))),
    ("news: of ZooKeeper", || Box::pin(news::of::<ZooKeeper>(Duration::ZERO))),
    ("flapping: ten times a second for a minute", || Box::pin(flapping::for_a_minute())),
];

fn main() -> ExitCode {
    let words = env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let wanted: Vec<String> = words.map(|word| word.to_lowercase()).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut report = Report::default();
    for (name, run) in CASES {
        let lower = name.to_lowercase();
        if !wanted.iter().all(|word| lower.contains(word)) {
            continue;
        }
        let case = async move { tokio::time::timeout(LIMIT, run()).await.expect("the case ends in time") };
        // A task of its own, so that one that fails ends alone.
        let outcome = runtime.block_on(async { tokio::spawn(case).await });
        report.add(name, outcome.ok());
    }
    report.finish()
}
