//! Lists of entries over HTTP. Settings say how they are asked for:
//!
//! - `{ "poll": "/list" }`: every tenth of a second
//! - `{ "redirected": "/list" }`: once, and where the answer points to
//! - `{ "beside": "/event" }`: the list is that of the embedded registry, and what comes of this request, which is waited
//!   for at the same time as that and a timer, is told as the reason of a suspicion

use std::cell::RefCell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::http::{Client, Limit, get};
use guest::poll::{Polled, Poller};
use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::http::outgoing_handler::handle;
use wasi::http::types::{Fields, FutureIncomingResponse, OutgoingRequest, Scheme};
use wasi::io::poll::poll;
use witgate::http::http::urls;
use witgate::memory::memory::{self, Content, Feed};
use witgate::registry::types::State;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package witgate:testing;
        world waiting {
            include witgate:plugin/registry-plugin@0.1.0;
            import wasi:clocks/monotonic-clock@0.2.12;
        }
    ",
    world: "witgate:testing/waiting",
    generate_all,
});

export!(Plugin);

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Settings {
    Poll(String),
    Redirected(String),
    Beside(String),
}

impl Guest for Plugin {
    type Subscription = Way;

    fn check(_: String) -> Result<(), String> {
        Ok(())
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings =
            serde_json::from_str(&settings).map_err(|error| Failure::Invalid(error.to_string()))?;
        let failed = |failure| guest::failure!(failure);
        Ok(Subscription::new(match settings {
            Settings::Poll(path) => {
                Way::Poll(Poller::new(&path, Duration::from_millis(100)).map_err(failed)?)
            }
            Settings::Redirected(path) => Way::Redirected(Client::granted().map_err(failed)?, path),
            Settings::Beside(path) => {
                Way::Beside(memory::follow(&service)?, RefCell::new(Some(request(&path)?)))
            }
        }))
    }
}

enum Way {
    Poll(Poller),
    Redirected(Client, String),
    Beside(Feed, RefCell<Option<FutureIncomingResponse>>),
}

impl GuestSubscription for Way {
    fn next(&self) -> Result<News, Failure> {
        let failed = |failure| guest::failure!(failure);
        match self {
            Way::Poll(poller) => Ok(match poller.next(entries).map_err(failed)? {
                Polled::New(list) => News::Complete(list),
                Polled::Same => News::Unchanged,
                Polled::Suspect(why) => News::Suspect(why),
            }),
            Way::Redirected(client, path) => {
                let limit = Limit::Parts(Duration::from_secs(10));
                let answer = client.get(path, &[], limit).map_err(failed)?;
                let there = answer.header("location").ok_or_else(|| Failure::Other("no redirect".into()))?;
                let answer = get(there, &[], limit).map_err(failed)?;
                entries(&answer.body).map(News::Complete).map_err(Failure::Invalid)
            }
            Way::Beside(feed, waiting) => beside(feed, &mut waiting.borrow_mut()),
        }
    }
}

/// Whichever comes first: a change, the answer, or nothing within a tenth of a second.
fn beside(feed: &Feed, waiting: &mut Option<FutureIncomingResponse>) -> Result<News, Failure> {
    let ready = {
        let (changed, timer) = (feed.subscribe(), subscribe_duration(100_000_000));
        let answered = waiting.as_ref().map(FutureIncomingResponse::subscribe);
        poll(&[&changed, &timer].into_iter().chain(&answered).collect::<Vec<_>>())
    };
    if ready.contains(&2) {
        let status = waiting.take().and_then(|answer| answer.get()?.ok()?.ok()).map(|answer| answer.status());
        return Ok(News::Suspect(format!("the event came with {status:?}")));
    }
    if !ready.contains(&0) {
        return Ok(News::Unchanged);
    }
    Ok(match feed.next()? {
        Content::All(list) => News::Complete(list),
        Content::Changes(changes) => News::Changes(changes),
    })
}

fn request(path: &str) -> Result<FutureIncomingResponse, Failure> {
    let url = urls()?.remove(0);
    let request = OutgoingRequest::new(Fields::new());
    let wrong = |()| Failure::Invalid(path.to_owned());
    request.set_scheme(Some(&Scheme::Http)).map_err(wrong)?;
    request.set_authority(url.strip_prefix("http://")).map_err(wrong)?;
    request.set_path_with_query(Some(path)).map_err(wrong)?;
    handle(request, None).map_err(|error| Failure::Unavailable(format!("{error:?}")))
}

fn entries(body: &[u8]) -> Result<Vec<Endpoint>, String> {
    let entries: Vec<Entry> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(entries.iter().map(|entry| guest::endpoint!(entry.address.clone(), entry.clone())).collect())
}
