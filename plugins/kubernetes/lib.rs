//! The registry that is Kubernetes: the endpoints of its services, listed once and then watched.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `namespace` | `default` | where services are whose names do not say it |
//! | `port` | the only one | which port of an instance: its name in the service, or its number |
//! | `family` | `any` | `ipv4` or `ipv6`: only addresses of it; with `any` an instance that has both is at that of IPv4 |
//! | `watch_seconds` | 60 | how long the server is to let a watch last |
//!
//! The name of a service is `orders`, `shop/orders` or `shop/orders:grpc`, or a target of go-zero. Where the API server is
//! and who the gateway is there is in the registry's table in the configuration, under `http`.
//!
//! For plugin authors: `answer.rs` says what is in an answer, `slice.rs` what an object says of endpoints, and `service.rs`
//! what all of them come to. None of them knows a connection.

mod answer;
mod service;
mod settings;
mod slice;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use answer::{After, Api, Event, Lines, Status};
use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::escape::escape;
use guest::http::{Client, Coming, Failure as Failed, Limit};
use guest::pace::Pace;
use guest::pause::jittered;
use service::{List, Service, Step};
use settings::{Settings, Wanted};
use witgate::registry::types::{Change, State};

wit_bindgen::generate!({ path: "../../wit", world: "registry-plugin", generate_all });

export!(Kubernetes);

/// What a server has for the head of an answer, for each part of a list, and at the end of a watch that is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// Objects of one page.
const PAGE: usize = 500;

/// Pages of one list. Servers make them shorter than they are asked for, and no service has so many slices.
const MOST_PAGES: usize = 200;

/// Changes within so long of one that was told are told together: all of a service is looked at for each.
const TOGETHER: Duration = Duration::from_millis(250);

struct Kubernetes;

impl Guest for Kubernetes {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let wanted = settings.wanted(&service).map_err(Failure::Invalid)?;
        let client = Client::granted().map_err(|failure| guest::failure!(failure))?;
        let asking = Asking {
            pace: Pace::new(Instant::now()),
            service: Service::default(),
            told: None,
            changed: None,
            watch: None,
        };
        let watch = settings.watch;
        Ok(Subscription::new(Following { client, wanted, watch, asking: RefCell::new(asking) }))
    }
}

struct Following {
    client: Client,
    wanted: Wanted,
    /// How long a watch is to last.
    watch: Duration,
    asking: RefCell<Asking>,
}

struct Asking {
    pace: Pace,
    service: Service,
    /// What was told last.
    told: Option<List>,
    /// When a change was told last.
    changed: Option<Instant>,
    /// None: the list is asked for next.
    watch: Option<Watch>,
}

/// What goes on from a list.
struct Watch {
    api: Api,
    /// What is known already.
    version: String,
    open: Option<Open>,
    /// The one before broke off, and this one has not said anything yet.
    broken: bool,
}

/// A watch that a server answers.
struct Open {
    coming: Coming,
    lines: Lines,
    since: Instant,
    lasts: Duration,
    /// It has said something.
    heard: bool,
    ended: Option<Result<(), Failed>>,
}

/// What was heard of a watch.
enum Heard {
    /// There may be changes.
    Events,
    /// It was over, and nothing has changed.
    Over,
    /// Nothing that counts.
    Nothing,
    /// It cannot go on from what is known.
    Expired,
}

/// Why there is nothing to tell.
enum Problem {
    Suspect(String),
    Failed(Failed),
}

impl From<Failed> for Problem {
    fn from(failure: Failed) -> Problem {
        Problem::Failed(failure)
    }
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        match self.news(&mut asking) {
            Ok(news) => Ok(news),
            Err(Problem::Failed(failure)) => Err(guest::failure!(failure)),
            Err(Problem::Suspect(why)) => {
                // What stands behind it is another thing, and has other versions.
                asking.watch = None;
                Ok(News::Suspect(why))
            }
        }
    }
}

impl Following {
    fn news(&self, asking: &mut Asking) -> Result<News, Problem> {
        loop {
            let Some(watch) = &mut asking.watch else {
                let (service, watch) = self.list(&mut asking.pace)?;
                (asking.service, asking.watch) = (service, Some(watch));
                let list = self.joined(&asking.service)?;
                let same = asking.told.as_ref() == Some(&list);
                let told = asking.told.insert(list);
                return Ok(match same {
                    true => News::Unchanged,
                    false => News::Complete(endpoints(told)),
                });
            };
            let together = asking.changed.map_or(Instant::now(), |changed| changed + TOGETHER);
            match self.hear(watch, &mut asking.service, &mut asking.pace, together)? {
                Heard::Nothing => {}
                Heard::Expired => asking.watch = None,
                Heard::Over => return Ok(News::Unchanged),
                Heard::Events => {
                    let list = self.joined(&asking.service)?;
                    let steps = service::steps(asking.told.as_ref().unwrap_or(&List::new()), &list);
                    (asking.told, asking.changed) = (Some(list), Some(Instant::now()));
                    return Ok(match steps.is_empty() {
                        true => News::Unchanged,
                        false => News::Changes(steps.into_iter().map(change).collect()),
                    });
                }
            }
        }
    }

    fn joined(&self, service: &Service) -> Result<List, Problem> {
        service.list(&self.wanted).map_err(|why| Problem::Failed(Failed::Invalid(why)))
    }

    /// All that is said of the service now.
    fn list(&self, pace: &mut Pace) -> Result<(Service, Watch), Problem> {
        std::thread::sleep(pace.take(Instant::now()));
        let found = match self.list_of(Api::Slices)? {
            Ok(found) => Ok((Api::Slices, found)),
            // It has no such API.
            Err(_) => self.list_of(Api::Endpoints)?.map(|found| (Api::Endpoints, found)),
        };
        let (api, (service, version)) =
            found.map_err(|text| Failed::Unavailable(format!("{text}: is that an API server?")))?;
        Ok((service, Watch { api, version, open: None, broken: false }))
    }

    /// The objects of one API and their version. The inner error says that the server has no such API.
    fn list_of(&self, api: Api) -> Result<Result<(Service, String), String>, Problem> {
        let path = api.path(&self.wanted.namespace, &self.wanted.name);
        let (mut limit, mut service, mut more) = (Some(PAGE), Service::default(), String::new());
        for _ in 0..MOST_PAGES {
            let mut page = path.clone();
            page.extend(limit.map(|limit| format!("&limit={limit}")));
            if !more.is_empty() {
                page += &format!("&continue={}", escape(&more, false));
            }
            let answer = self.client.get(&page, JSON, Limit::Parts(PATIENCE))?;
            let url = &answer.url;
            if answer.status != 200 {
                let status = Status::of(answer.status, &answer.body);
                if status.code == 404 {
                    return Ok(Err(format!("{url} answered 404: {}", status.message)));
                }
                match (status.after(url), limit) {
                    // Pages lie too far apart for the server: all of it at once, then.
                    (After::List, Some(_)) => {
                        (limit, service, more) = (None, Service::default(), String::new())
                    }
                    (After::List, None) => {
                        let text = format!("{url} answered {}: {}", status.code, status.message);
                        return Err(Failed::Unavailable(text).into());
                    }
                    (After::Denied(text), _) => return Err(Failed::Denied(text).into()),
                    (After::Failed(text), _) => return Err(Failed::Unavailable(text).into()),
                }
                continue;
            }
            is_json(url, answer.header("content-type"))?;
            let read = api.page(&answer.body).map_err(|why| Problem::Suspect(format!("{url}: {why}")))?;
            read.objects.into_iter().for_each(|object| service.put(object));
            if read.more.is_empty() {
                return Ok(Ok((service, read.version)));
            }
            more = read.more;
        }
        Err(Problem::Suspect(format!("{path} goes on after {MOST_PAGES} pages")))
    }

    /// Waits until a watch says something, or is over. What comes by `together` belongs to it.
    fn hear(
        &self,
        watch: &mut Watch,
        service: &mut Service,
        pace: &mut Pace,
        together: Instant,
    ) -> Result<Heard, Problem> {
        let Watch { api, version, open, broken } = watch;
        let Some(current) = open else {
            std::thread::sleep(pace.take(Instant::now()));
            let lasts = jittered(self.watch);
            match self.open(*api, version, lasts)? {
                Some(coming) => *open = Some(Open::new(coming, lasts)),
                None => return Ok(Heard::Expired),
            }
            return Ok(Heard::Nothing);
        };
        let heard = current.read(*api, version, service, together)?;
        *broken &= !current.heard;
        let Some(ended) = current.ended.take() else { return Ok(heard) };
        if matches!(heard, Heard::Events) {
            // The end comes in its turn.
            current.ended = Some(ended);
            return Ok(heard);
        }
        let (silent, early) = (!current.heard, current.since.elapsed() < current.lasts / 2);
        *open = None;
        match ended {
            // Some answer so where they do not have the version any more.
            Ok(()) if silent && early => Ok(Heard::Expired),
            Ok(()) => Ok(Heard::Over),
            // Whatever stands between may end what takes long: the next one goes on.
            Err(_) if !*broken => {
                *broken = true;
                Ok(Heard::Nothing)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// None: the server does not have this version.
    fn open(&self, api: Api, version: &str, lasts: Duration) -> Result<Option<Coming>, Problem> {
        let path = format!(
            "{}&watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            api.path(&self.wanted.namespace, &self.wanted.name),
            escape(version, false),
            lasts.as_secs().max(1)
        );
        // A connection that is half dead says nothing: then the watch should have been over long ago.
        let coming = self.client.open(&path, JSON, Limit::Head(PATIENCE, lasts + PATIENCE))?;
        if coming.status == 200 {
            let kind = coming.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            is_json(&coming.url, kind.and_then(|(_, value)| str::from_utf8(value).ok()))?;
            return Ok(Some(coming));
        }
        let answer = coming.whole(Some(Instant::now() + PATIENCE))?;
        let status = Status::of(answer.status, &answer.body);
        match status.after(&answer.url) {
            After::List => Ok(None),
            // Whatever has become of the API, the list shows.
            After::Failed(_) if answer.status == 404 => Ok(None),
            After::Denied(text) => Err(Failed::Denied(text).into()),
            After::Failed(text) => Err(Failed::Unavailable(text).into()),
        }
    }
}

const JSON: &[(&str, &str)] = &[("accept", "application/json")];

/// An answer of an API server says that it is JSON.
fn is_json(url: &str, kind: Option<&str>) -> Result<(), Problem> {
    let json = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    match kind {
        Some(kind) if json(kind) => Ok(()),
        kind => Err(Problem::Suspect(format!(
            "{url} answered with {:?} where JSON was expected",
            kind.unwrap_or_default()
        ))),
    }
}

impl Open {
    fn new(coming: Coming, lasts: Duration) -> Open {
        let (lines, since) = (Lines::default(), Instant::now());
        Open { coming, lines, since, lasts, heard: false, ended: None }
    }

    /// Whether there is more that is to be told together. What never pauses is told all the same.
    fn goes_on(&self, together: Instant) -> bool {
        Instant::now() < together + TOGETHER && self.coming.is_there_by(together)
    }

    /// Waits for a part, and takes with it what is there then, or comes by `together`.
    fn read(
        &mut self,
        api: Api,
        version: &mut String,
        service: &mut Service,
        together: Instant,
    ) -> Result<Heard, Problem> {
        let (mut heard, mut is_first) = (Heard::Nothing, true);
        while self.ended.is_none() && (is_first || self.goes_on(together)) {
            is_first = false;
            let part = match self.coming.part(Some(self.since + self.lasts + PATIENCE)) {
                Ok(Some(part)) => part,
                Ok(None) => {
                    self.ended = Some(Ok(()));
                    break;
                }
                Err(failure) => {
                    self.ended = Some(Err(failure));
                    break;
                }
            };
            let suspect = |why| Problem::Suspect(format!("{}: {why}", self.coming.url));
            for line in self.lines.of(&part).map_err(suspect)? {
                match api.event(&line).map_err(suspect)? {
                    Event::Put(object, of) => {
                        service.put(object);
                        *version = of;
                    }
                    Event::Gone(name, of) => {
                        service.remove(&name);
                        *version = of;
                    }
                    Event::Bookmark(of) => *version = of,
                    Event::Error(status) => match status.after(&self.coming.url) {
                        After::List => return Ok(Heard::Expired),
                        After::Denied(text) => return Err(Failed::Denied(text).into()),
                        After::Failed(text) => return Err(Failed::Unavailable(text).into()),
                    },
                }
                (heard, self.heard) = (Heard::Events, true);
            }
        }
        Ok(heard)
    }
}

fn endpoints(list: &List) -> Vec<Endpoint> {
    list.iter().map(|(id, entry)| endpoint(id.clone(), entry.clone())).collect()
}

fn change(step: Step) -> Change {
    match step {
        Step::Put(id, entry) => Change::Put(endpoint(id, entry)),
        Step::Remove(id) => Change::Remove(id),
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}
