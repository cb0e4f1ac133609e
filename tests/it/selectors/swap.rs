//! What is known of endpoints outlives the selector that asked for it, and the list.

use tokio::task::LocalSet;
use witgate::upstream::Offer;

use super::{
    load::{Behaviour, Times},
    *,
};
use crate::support::{component::with_custom_section, guest::guest};

#[tokio::test]
async fn statistics_survive_a_change_of_the_selector_and_of_the_list() {
    let test = async {
        let mut process = Process::start("p2c-ewma", "{}", &[1, 1]).await;
        let mut times = Times::start();
        times.behave(&process.member(0), Behaviour { latency_ms: 5, success: 1.0 });
        times.behave(&process.member(1), Behaviour { latency_ms: 50, success: 0.8 });
        let before: Vec<_> = [0, 1].map(|n| process.member(n).stats().clone()).into();
        only_the_fast(&process);

        let version = process.version();
        let folder = process.folder.path().join("plugins");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("part"), with_custom_section(&guest("p2c-ewma"), 1)).unwrap();
        std::fs::rename(folder.join("part"), folder.join("p2c-ewma.wasm")).unwrap();
        while process.version() == version {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        only_the_fast(&process);

        process.publish(vec![Offer::Remove(address(0)), put(1, 3), put(2, 1)]).await;
        process.publish(vec![Offer::Remove(address(2)), put(0, 1), put(1, 1)]).await;
        for (number, before) in (0..).zip(&before) {
            assert!(Arc::ptr_eq(process.member(number).stats(), before), "{number}");
        }
        only_the_fast(&process);
        assert!(process.plugins.list().iter().all(|plugin| plugin.faults == 0));
    };
    LocalSet::new().run_until(test).await;
}

fn only_the_fast(process: &Process) {
    for _ in 0..100 {
        // An endpoint that has been idle for a second would get a request.
        process.reader.snapshot().iter().for_each(|member| drop(member.begin(Instant::now())));
        assert_eq!(process.pick().address(), address(0));
    }
}
