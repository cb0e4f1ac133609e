//! Selectors that compute for long, and a worker that has requests to serve meanwhile.

use std::cell::Cell;

use tokio::task::LocalSet;

use super::*;
use crate::support::guest::guest;

/// What each of them computes in `create`, and again for a list or for changes.
const COMPUTES: Duration = Duration::from_millis(400);

const UPSTREAMS: u32 = 10;

/// The longest time that the thread of a worker has computed without a look at anything else. Unlike time by the wall
/// it is the same on a busy machine.
struct Turns {
    last: Cell<Duration>,
    longest: Cell<Duration>,
}

impl Turns {
    fn watch() -> Rc<Self> {
        let turns = Rc::new(Self { last: Cell::new(cpu_time()), longest: Cell::default() });
        let watching = turns.clone();
        tokio::task::spawn_local(async move {
            loop {
                watching.longest.set(watching.longest());
                watching.last.set(cpu_time());
                tokio::task::yield_now().await;
            }
        });
        turns
    }

    fn longest(&self) -> Duration {
        self.longest.get().max(cpu_time() - self.last.get())
    }
}

/// The time that this thread has computed.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[tokio::test]
async fn ten_selectors_that_compute_for_long_leave_their_worker_to_its_requests() {
    let test = async {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        std::fs::write(folder.path().join("plugins/ponder.wasm"), guest("ponder")).unwrap();
        let plugins = plugins(folder.path());
        let ms = COMPUTES.as_millis();
        let settings = [
            format!(r#"{{"create_ms":{ms}}}"#),
            format!(r#"{{"list_ms":{ms}}}"#),
            format!(r#"{{"change_ms":{ms}}}"#),
        ];
        let mut upstreams: Vec<_> = (0..UPSTREAMS)
            .map(|number| {
                let (mut publisher, reader) = Publisher::new(UpstreamName::new(format!("orders-{number}")));
                publisher.publish((0..3).map(|endpoint| put(endpoint, 1)).collect(), Instant::now());
                let settings = settings[number as usize % 3].as_str().into();
                (publisher, reader, config::Selector { plugin: "ponder".into(), settings })
            })
            .collect();
        // None of the settings is known, so that each worker has to find out what takes long.
        let uses = Uses { selectors: [("ponder".into(), Vec::new())].into(), ..Uses::default() };
        plugins.set_uses(uses.clone()).await;
        plugins.settled(uses).await;

        let turns = Turns::watch();
        let selectors = Rc::default();
        let views: Vec<_> = upstreams
            .iter()
            .map(|(_, reader, selector)| {
                let (current, progress) = (plugins.selector("ponder"), Arc::<Progress>::default());
                assert!(current.borrow().is_some());
                let view = View::new(
                    reader.clone(),
                    selector.clone(),
                    current.clone(),
                    Rc::clone(&selectors),
                    progress.clone(),
                );
                (view, progress, current)
            })
            .collect();
        let all_have_caught_up = async |upstreams: &[(Publisher, Reader, config::Selector)]| {
            for ((view, progress, current), (_, reader, _)) in views.iter().zip(upstreams) {
                while progress.selector_version(current) == 0
                    || progress.generation() != reader.snapshot().generation()
                {
                    let (head, client) = (head("/", &[]), CLIENT);
                    assert!(pick(view, &head, client, &[]).is_ok());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        all_have_caught_up(&upstreams).await;
        for round in 0..2 {
            for (publisher, ..) in &mut upstreams {
                publisher.publish(vec![put(10 + round, 1), Offer::Remove(address(round))], Instant::now());
            }
            all_have_caught_up(&upstreams).await;
            let first_left = address(round + 1);
            for (view, ..) in &views {
                let (head, client) = (head("/", &[]), CLIENT);
                let picked = pick(view, &head, client, &[]).unwrap();
                assert_eq!(picked.address(), first_left, "the plugin picks");
            }
        }
        assert!(turns.longest() < COMPUTES / 2, "{:?} without a look at requests", turns.longest());
        assert!(plugins.list().iter().all(|plugin| plugin.faults == 0));
    };
    LocalSet::new().run_until(test).await;
}
