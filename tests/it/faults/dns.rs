//! The table of faults, with a real bind.

use crate::support::{bind::Bind, fault_table as table};

#[tokio::test(flavor = "multi_thread")]
async fn dns_killed_costs_no_request() {
    table::killed::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_frozen_costs_no_request() {
    table::frozen::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_refusing_the_gateway_costs_no_request() {
    table::credential_revoked::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_with_nothing_in_it_costs_no_request() {
    table::empty::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_broken_off_costs_no_request() {
    table::partial::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_answering_garbage_costs_no_request() {
    // What is no message at all is no answer.
    table::garbage::<Bind>("unavailable", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_with_as_many_instances_as_fit_costs_no_request() {
    table::ten_thousand::<Bind>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_flapping_costs_no_request() {
    table::flapping::<Bind>().await;
}
