//! The table of faults, with a real Eureka that asks for a password. It keeps nothing when it ends: what it holds again is
//! what its clients tell it again.

use crate::support::{eureka::Eureka, fault_table as table};

#[tokio::test(flavor = "multi_thread")]
async fn eureka_killed_costs_no_request() {
    table::killed::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_frozen_costs_no_request() {
    table::frozen::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data_and_suspect::<Eureka>("has just started").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_refusing_the_password_costs_no_request() {
    table::credential_revoked::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_with_nothing_in_it_costs_no_request() {
    table::empty::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_broken_off_costs_no_request() {
    table::partial::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_answering_garbage_costs_no_request() {
    table::garbage::<Eureka>("suspect", "content-type: application/json\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<Eureka>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eureka_flapping_costs_no_request() {
    table::flapping::<Eureka>().await;
}
