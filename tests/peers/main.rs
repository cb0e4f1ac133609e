//! Programs that others wrote, each with the registry that it knows: whether the gateway finds what they register, and whether
//! they find what the gateway announces for others. And servers that take too long to build for each run of the tests, with
//! the table of faults.
//!
//! Run by `./dev peers`, which builds them and takes words of the names of cases to run only those. Prints a table at its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what helps it, says what it expects by failing"
)]

mod conversation;
mod dubbo;
mod go_zero;
mod kubernetes;
mod nacos;
mod nacos_embedded;
mod nacos_naming;
mod report;
mod spring;
#[path = "../support/mod.rs"]
mod support;

use std::{env, pin::Pin, process::ExitCode, time::Duration};

use Way::{Fault, Finds, Found, Says};
use report::Report;
use support::{fault_table as table, kubernetes_server::Kubernetes, rnacos::Rnacos};

/// No case takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// Whether the gateway finds what the peer registered, or the other way round.
#[derive(Debug, Clone, Copy)]
enum Way {
    Found,
    Finds,
    /// The peer is the registry, and this is what it does while clients send.
    Fault(&'static str),
    /// And this is what it says.
    Says,
}

struct Case {
    peer: &'static str,
    registry: &'static str,
    way: Way,
    /// Requests or calls, all of which went well.
    run: fn() -> Pin<Box<dyn Future<Output = u64> + Send>>,
}

macro_rules! cases {
    ($($peer:literal, $registry:literal, $way:expr, $run:expr;)*) => {
        [$(Case { peer: $peer, registry: $registry, way: $way, run: || Box::pin($run) }),*]
    };
}

#[rustfmt::skip]
fn cases() -> impl IntoIterator<Item = Case> {
    cases![
        "Spring Cloud", "ZooKeeper", Found, spring::found(spring::Registry::ZooKeeper);
        "Spring Cloud", "ZooKeeper", Finds, spring::finds(spring::Registry::ZooKeeper);
        "Spring Cloud", "Consul", Found, spring::found(spring::Registry::Consul);
        "Spring Cloud", "Consul", Finds, spring::finds(spring::Registry::Consul);
        "Spring Cloud", "Eureka", Found, spring::found(spring::Registry::Eureka);
        "Spring Cloud", "Eureka", Finds, spring::finds(spring::Registry::Eureka);
        "Spring Cloud", "the gateway as Eureka", Found, spring::found(spring::Registry::Embedded);
        "Spring Cloud", "the gateway as Eureka", Finds, spring::finds(spring::Registry::Embedded);
        "Spring Cloud", "the gateway as Consul", Found, spring::found(spring::Registry::EmbeddedConsul);
        "Spring Cloud", "the gateway as Consul", Finds, spring::finds(spring::Registry::EmbeddedConsul);
        "Dubbo by interface, triple", "ZooKeeper", Found, dubbo::found("interface", "tri");
        "Dubbo by interface, dubbo", "ZooKeeper", Found, dubbo::found("interface", "dubbo");
        "Dubbo by application, triple", "ZooKeeper", Found, dubbo::found("application", "tri");
        "Dubbo by application, dubbo", "ZooKeeper", Found, dubbo::found("application", "dubbo");
        "nacos-naming", "the gateway as Nacos", Found, nacos_embedded::found();
        "nacos-naming", "the gateway as Nacos", Finds, nacos_embedded::finds();
        "go-zero", "etcd", Found, go_zero::found();
        "go-zero", "etcd", Finds, go_zero::finds();
        "go-zero", "Kubernetes", Found, kubernetes::called_as_go_zero_does();
        "kube-apiserver", "Kubernetes, in a pod", Found, kubernetes::in_cluster();
        "kube-apiserver", "Kubernetes, by a kubeconfig", Found, kubernetes::kubeconfig();
        "kube-apiserver", "Kubernetes, without slices", Found, kubernetes::without_slices();
        "kube-apiserver", "Kubernetes, manifests of the example", Found, kubernetes::manifests_are_taken();
        "kube-apiserver", "Kubernetes", Says, conversation::record();
        "kube-apiserver", "Kubernetes", Fault("forgetting its versions"), kubernetes::compacted();
        "kube-apiserver", "Kubernetes", Fault("killed"), table::killed::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("frozen"), table::frozen::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("restarted with its data"), table::restarted_with_its_data::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("restarted without its data"), table::restarted_without_its_data::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("refusing the account"), table::credential_revoked::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("with nothing in it"), table::empty::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("broken off"), table::partial::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("answering garbage"), table::garbage::<Kubernetes>("suspect", "content-type: application/json\r\n");
        "kube-apiserver", "Kubernetes", Fault("answering a megabyte"), table::a_megabyte::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("with ten thousand instances"), table::ten_thousand::<Kubernetes>();
        "kube-apiserver", "Kubernetes", Fault("flapping"), table::flapping::<Kubernetes>();
        "rnacos", "Nacos", Says, nacos::says();
        "nacos-naming", "Nacos", Found, nacos::found();
        "nacos-naming", "Nacos", Finds, nacos::finds();
        "rnacos", "Nacos", Fault("forgetting what is announced"), nacos::keeps();
        "rnacos", "Nacos", Fault("killed"), table::killed::<Rnacos>();
        "rnacos", "Nacos", Fault("frozen"), table::frozen::<Rnacos>();
        "rnacos", "Nacos", Fault("restarted with its data"), table::restarted_with_its_data::<Rnacos>();
        "rnacos", "Nacos", Fault("restarted without its data"), table::restarted_without_its_data::<Rnacos>();
        "rnacos", "Nacos", Fault("refusing the password"), table::credential_revoked::<Rnacos>();
        "rnacos", "Nacos", Fault("with nothing in it"), table::empty::<Rnacos>();
        "rnacos", "Nacos", Fault("broken off"), table::partial::<Rnacos>();
        "rnacos", "Nacos", Fault("answering garbage"), table::garbage::<Rnacos>("suspect", nacos::JSON);
        "rnacos", "Nacos", Fault("answering a megabyte"), table::a_megabyte::<Rnacos>();
        "rnacos", "Nacos", Fault("with ten thousand instances"), table::ten_thousand::<Rnacos>();
        "rnacos", "Nacos", Fault("flapping"), table::flapping::<Rnacos>();
    ]
}

fn main() -> ExitCode {
    let words = env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let wanted: Vec<String> = words.map(|word| word.to_lowercase()).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut report = Report::default();
    for case in cases() {
        let names = [case.peer, case.registry, report::way(case.way)].map(str::to_lowercase);
        if !wanted.iter().all(|word| names.iter().any(|name| name.contains(word))) {
            continue;
        }
        let run = case.run;
        let running = async move { tokio::time::timeout(LIMIT, run()).await.expect("the case ends in time") };
        // A task of its own, so that one that fails ends alone.
        let outcome = runtime.block_on(async { tokio::spawn(running).await });
        report.add(case, outcome.ok());
    }
    report.finish()
}
