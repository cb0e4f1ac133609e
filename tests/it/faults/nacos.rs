//! The table of faults with doubles of Nacos, by each version of its API, which ask for a login. `./dev peers` has it with a
//! real server for the first.

use crate::support::{fault_table as table, nacos_double::NacosDouble};

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_killed_costs_no_request() {
    table::killed::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_frozen_costs_no_request() {
    table::frozen::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_refusing_the_password_costs_no_request() {
    table::credential_revoked::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_with_nothing_in_it_costs_no_request() {
    table::empty::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_broken_off_costs_no_request() {
    table::partial::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_answering_garbage_costs_no_request() {
    table::garbage::<NacosDouble<1>>("suspect", "content-type: application/json\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_1_flapping_costs_no_request() {
    table::flapping::<NacosDouble<1>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_killed_costs_no_request() {
    table::killed::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_frozen_costs_no_request() {
    table::frozen::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_restarted_with_its_data_costs_no_request() {
    table::restarted_with_its_data::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_restarted_without_its_data_costs_no_request() {
    table::restarted_without_its_data::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_refusing_the_password_costs_no_request() {
    table::credential_revoked::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_with_nothing_in_it_costs_no_request() {
    table::empty::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_broken_off_costs_no_request() {
    table::partial::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_answering_garbage_costs_no_request() {
    table::garbage::<NacosDouble<3>>("suspect", "content-type: application/json\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_answering_a_megabyte_costs_no_request() {
    table::a_megabyte::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_with_ten_thousand_instances_costs_no_request() {
    table::ten_thousand::<NacosDouble<3>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nacos_3_flapping_costs_no_request() {
    table::flapping::<NacosDouble<3>>().await;
}
