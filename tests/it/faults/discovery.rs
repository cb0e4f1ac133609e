//! The table of faults, with a double of service_discovery behind what asks for a token.

use crate::support::{discovery_double::DiscoveryDouble, fault_table as table};

#[tokio::test(flavor = "multi_thread")]
async fn discovery_killed_costs_no_request() {
    table::killed::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_frozen_costs_no_request() {
    table::frozen::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_refusing_the_token_costs_no_request() {
    table::credential_revoked::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_with_nothing_in_it_costs_no_request() {
    table::empty::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_broken_off_costs_no_request() {
    table::partial::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_answering_garbage_costs_no_request() {
    table::garbage::<DiscoveryDouble>("suspect", "content-type: application/json\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<DiscoveryDouble>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_flapping_costs_no_request() {
    table::flapping::<DiscoveryDouble>().await;
}
