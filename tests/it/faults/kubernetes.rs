//! The table of faults, with a double of an API server that asks for a token. `./dev peers` runs the same with a real one.

use crate::support::{fault_table as table, kubernetes_double::KubernetesDouble};

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_killed_costs_no_request() {
    table::killed::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_frozen_costs_no_request() {
    table::frozen::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_refusing_the_token_costs_no_request() {
    table::credential_revoked::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_with_nothing_in_it_costs_no_request() {
    table::empty::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_broken_off_costs_no_request() {
    table::partial::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_answering_garbage_costs_no_request() {
    table::garbage::<KubernetesDouble>("suspect", "content-type: application/json\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<KubernetesDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_flapping_costs_no_request() {
    table::flapping::<KubernetesDouble>().await;
}
