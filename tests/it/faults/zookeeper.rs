//! The table of faults, with a real ZooKeeper that shows its nodes to the gateway alone.

use crate::support::{fault_table as table, zookeeper::ZooKeeper};

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_killed_costs_no_request() {
    table::killed::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_frozen_costs_no_request() {
    table::frozen::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_hiding_its_nodes_costs_no_request() {
    table::credential_revoked::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_with_nothing_in_it_costs_no_request() {
    table::empty::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_broken_off_costs_no_request() {
    table::partial::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_answering_garbage_costs_no_request() {
    table::garbage::<ZooKeeper>("other", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<ZooKeeper>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_flapping_costs_no_request() {
    table::flapping::<ZooKeeper>().await;
}
