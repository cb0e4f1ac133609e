//! What goes on at an endpoint that has left the list, and when that has to end.

use std::{future::pending, rc::Rc, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::{
    net::{Place, Watch, Watched},
    upstream::Stats,
};

/// Tells when something has to end because its endpoint has left.
pub struct Leaving {
    over: Rc<Endpoint>,
    _place: Place,
}

struct Endpoint {
    stats: Arc<Stats>,
    limit: Duration,
    over: Notify,
}

impl Leaving {
    pub fn watch(watch: &Rc<Watch>, stats: Arc<Stats>, limit: Duration) -> Self {
        let over = Rc::new(Endpoint { stats, limit, over: Notify::new() });
        let place = watch.enter(over.clone());
        place.wait(Some(limit));
        Self { over, _place: place }
    }
}

impl Watched for Endpoint {
    fn look(&self, now: Instant) -> bool {
        let over = self.stats.gone_for(now.into_std()).is_some_and(|gone| gone >= self.limit);
        if over {
            self.over.notify_one();
        }
        !over
    }
}

/// Waits until it has to end, for ever if there is no limit.
pub async fn over(leaving: Option<Leaving>) {
    match leaving {
        Some(leaving) => leaving.over.over.notified().await,
        None => pending().await,
    }
}
