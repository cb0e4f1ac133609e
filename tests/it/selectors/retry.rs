//! A request that is tried again, by every selector.

use std::collections::BTreeSet;

use tokio::task::LocalSet;

use super::*;

#[tokio::test]
async fn every_selector_avoids_what_was_tried() {
    let test = async {
        for (plugin, settings) in SHIPPED {
            // The heavy one is what they would pick.
            let process = Process::start(plugin, settings, &[1_000_000, 1, 1]).await;
            for number in 0..200u8 {
                let (head, client) = (head("/", &[]), [10, 0, 0, number].into());
                let mut tried = Vec::new();
                for _ in 0..3 {
                    tried.push(process.pick_for(&head, client, &tried).slot());
                }
                assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), 3, "{plugin}: {tried:?}");
                // Where there is no choice it picks all the same.
                process.pick_for(&head, client, &tried);
            }
        }
    };
    LocalSet::new().run_until(test).await;
}
