//! The table of faults, with a real Consul that asks for a token.

use crate::support::{consul::Consul, fault_table as table};

#[tokio::test(flavor = "multi_thread")]
async fn consul_killed_costs_no_request() {
    table::killed::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_frozen_costs_no_request() {
    table::frozen::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_refusing_the_token_costs_no_request() {
    table::credential_revoked::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_with_nothing_in_it_costs_no_request() {
    table::empty::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_broken_off_costs_no_request() {
    table::partial::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_answering_garbage_costs_no_request() {
    table::garbage::<Consul>("suspect", "content-type: application/json\r\nx-consul-index: 99\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<Consul>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_flapping_costs_no_request() {
    table::flapping::<Consul>().await;
}
