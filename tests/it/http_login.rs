//! What `login` in the table `http` of a registry does: the gateway logs in, and its plugin sees neither password nor
//! token.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{
    gateway::{Gateway, until},
    guest::guest,
    origin::{Origin, Reply, Seen},
    service::{becomes, endpoints, source},
};

const PASSWORD: &str = "s3cr3t &=%";
/// As a form has it.
const WRITTEN: &str = "username=gw&password=s3cr3t%20%26%3D%25";

/// A registry whose list is for those who have logged in.
struct Registry {
    origin: Origin,
    plan: Arc<Mutex<Plan>>,
}

struct Plan {
    form: String,
    ttl: Duration,
    /// With the time that each ends at.
    tokens: BTreeMap<String, Instant>,
    /// What is answered to who logs in, in the place of a token.
    instead: Option<Instead>,
}

type Instead = fn() -> Reply;

impl Registry {
    /// Its tokens live for an hour.
    async fn start() -> Self {
        let plan = Plan {
            form: WRITTEN.to_owned(),
            ttl: Duration::from_secs(3_600),
            tokens: BTreeMap::new(),
            instead: None,
        };
        let plan = Arc::new(Mutex::new(plan));
        let current = plan.clone();
        let origin = Origin::replying(move |seen| current.lock().unwrap().answer(seen)).await;
        Self { origin, plan }
    }

    fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap());
    }

    /// The requests that were logins, and the others.
    fn seen(&self) -> (Vec<Seen>, Vec<Seen>) {
        self.origin.seen().into_iter().partition(|seen| seen.path() == "/api/v1/auth/login")
    }

    fn logins(&self) -> usize {
        self.seen().0.len()
    }

    fn gateway(&self, login: &str, settings: &str) -> Gateway {
        gateway(&format!("\"http://{}/api\"", self.origin.address), login, settings)
    }
}

impl Plan {
    fn answer(&mut self, seen: &Seen) -> Reply {
        if seen.path() == "/api/v1/auth/login" {
            if let Some(instead) = self.instead {
                return instead();
            }
            if String::from_utf8_lossy(&seen.body) != self.form {
                // As one that is set up badly.
                return text("403 Forbidden", &format!("unknown: {}", String::from_utf8_lossy(&seen.body)));
            }
            let token = format!("token-{}", self.tokens.len());
            self.tokens.insert(token.clone(), Instant::now() + self.ttl);
            let seconds = self.ttl.as_secs();
            return text("200 OK", &format!(r#"{{"accessToken":"{token}","tokenTtl":{seconds}}}"#));
        }
        let query = seen.path().split_once("accessToken=").map(|(_, token)| token);
        let bearer = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = query.or(bearer).or(seen.header("accesstoken"));
        match token.and_then(|token| self.tokens.get(token)) {
            Some(end) if *end > Instant::now() => text("200 OK", "[\"127.0.0.1:1\"]"),
            _ => text("403 Forbidden", "who is that"),
        }
    }
}

fn text(status: &str, body: &str) -> Reply {
    Reply::raw(&format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A gateway whose registry is a plugin that may ask these URLs, and logs in like this.
fn gateway(urls: &str, login: &str, settings: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/listing.wasm"), guest("registry-http")).unwrap();
    write_password(folder.path(), PASSWORD);
    let config = format!(
        "[registry.main]\nplugin = \"listing\"\nmemory = true\nhttp = {{ urls = [{urls}], login = {{ {login}, \
         user = \"gw\", password_file = \"password\" }} }}\nsettings = {settings}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    );
    Gateway::start_early(folder, &config)
}

fn write_password(folder: &Path, password: &str) {
    fs::write(folder.join("password"), format!("{password}\n")).unwrap();
}

const LOGIN: &str = "url = \"/v1/auth/login\"";
const POLLS: &str = "{ poll = \"/list\" }";

async fn fails(gateway: &Gateway, kind: &str, text: &str) {
    until(text, || async {
        let failure = &source(gateway).await["failure"];
        failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
}

/// Neither is in what the gateway says.
async fn says_no_secret(gateway: &Gateway) {
    let said = [gateway.log(), gateway.api("/api/v1/upstreams/orders").await.to_string()];
    for secret in [PASSWORD, "s3cr3t", "token-"] {
        assert!(!said.iter().any(|text| text.contains(secret)), "{secret}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_sent_where_the_registry_looks_for_it() {
    for (more, expected) in [
        ("", "\r\nauthorization: Bearer token-0\r\n"),
        (", header = \"accessToken\"", "\r\naccesstoken: token-0\r\n"),
        (", query = \"accessToken\"", "GET /api/list?accessToken=token-0 HTTP/1.1\r\n"),
    ] {
        let registry = Registry::start().await;
        let gateway = registry.gateway(&format!("{LOGIN}{more}"), POLLS);
        endpoints(&gateway, 1).await;
        until("it polls", || async { registry.seen().1.len() > 5 }).await;
        let (logins, polls) = registry.seen();
        assert_eq!(logins.len(), 1, "{logins:?}");
        assert_eq!(logins[0].header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(String::from_utf8_lossy(&logins[0].body), WRITTEN);
        assert!(polls.iter().all(|seen| seen.head.contains(expected)), "{polls:?}");
        says_no_secret(&gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_itself_is_granted_to_no_plugin() {
    let registry = Registry::start().await;
    for path in ["/v1/auth/login", "/v1/auth/users/login"] {
        let gateway = registry.gateway(LOGIN, &format!("{{ poll = {path:?} }}"));
        fails(&gateway, "denied", "does not grant it").await;
    }
    assert!(registry.origin.seen().is_empty(), "{:?}", registry.origin.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends() {
    let registry = Registry::start().await;
    registry.plan(|plan| plan.ttl = Duration::from_secs(2));
    let gateway = registry.gateway(LOGIN, POLLS);
    endpoints(&gateway, 1).await;
    until("it has been renewed", || async {
        assert_eq!(source(&gateway).await["origin"], "live");
        registry.logins() > 2
    })
    .await;
    says_no_secret(&gateway).await;
}

/// One who has restarted knows nobody, and a plugin does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_forgotten_a_token_is_logged_in_at_again() {
    let registry = Registry::start().await;
    let gateway = registry.gateway(LOGIN, POLLS);
    endpoints(&gateway, 1).await;
    let since = Instant::now();
    until("the token is not new", || async { since.elapsed() > Duration::from_secs(6) }).await;
    registry.plan(|plan| plan.tokens.values_mut().for_each(|end| *end = Instant::now()));
    let polls = registry.seen().1.len();
    until("it goes on", || async {
        assert_eq!(source(&gateway).await["origin"], "live");
        registry.seen().1.len() > polls + 5
    })
    .await;
    assert_eq!(registry.logins(), 2);
}

/// Another login would not help, and there is not one for each request.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_nothing_does_not_log_in_again_and_again() {
    let registry = Registry::start().await;
    registry.plan(|plan| plan.ttl = Duration::ZERO);
    let gateway = registry.gateway(&format!("{LOGIN}, header = \"X-Elsewhere\""), POLLS);
    fails(&gateway, "denied", "answered 403: who is that").await;
    until("it asks on", || async { registry.seen().1.len() > 3 }).await;
    let (logins, polls) = registry.seen();
    assert!(logins.len() <= polls.len(), "{} logins for {} requests", logins.len(), polls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_says_why_and_is_tried_again() {
    let registry = Registry::start().await;
    let gateway = registry.gateway(LOGIN, POLLS);
    endpoints(&gateway, 1).await;
    let answers: [(Instead, &str, &str); 8] = [
        (|| text("401 Unauthorized", "s3cr3t"), "denied", "is not let in as \"gw\" by http://"),
        (|| text("403 Forbidden", "s3cr3t"), "denied", "/api/v1/auth/login, which answered 403"),
        (|| text("500 Internal", "s3cr3t"), "unavailable", "/api/v1/auth/login: it answered 500"),
        (|| text("302 Found\r\nlocation: /", ""), "unavailable", "it answered 302"),
        (|| text("200 OK", "<html>s3cr3t"), "unavailable", "its answer is no JSON"),
        (|| text("200 OK", "{\"accessToken\":\"\"}"), "unavailable", "there is no `accessToken`"),
        (|| text("200 OK", &" ".repeat(100_000)), "unavailable", "its answer broke off, or is too long"),
        (|| Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-".to_vec()), "unavailable", "cannot log in as \"gw\""),
    ];
    for (instead, kind, why) in answers {
        registry.plan(|plan| {
            plan.instead = Some(instead);
            plan.tokens.clear();
        });
        fails(&gateway, kind, why).await;
        becomes(&gateway, "frozen").await;
    }
    registry.plan(|plan| plan.instead = None);
    becomes(&gateway, "live").await;
    says_no_secret(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_who_logs_in_holds_nobody_up_for_ever() {
    let registry = Registry::start().await;
    registry.plan(|plan| plan.instead = Some(|| Reply::Hang));
    let gateway = registry.gateway(LOGIN, POLLS);
    fails(&gateway, "unavailable", "no answer within 10s").await;
    registry.plan(|plan| plan.instead = None);
    endpoints(&gateway, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_refused_is_read_again() {
    let registry = Registry::start().await;
    registry.plan(|plan| plan.form = "username=gw&password=another".to_owned());
    let gateway = registry.gateway(LOGIN, POLLS);
    fails(&gateway, "denied", "is not let in").await;
    write_password(gateway.folder(), "another");
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
    says_no_secret(&gateway).await;
}

/// Each has tokens of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_below_each_url_is_one_at_each_server_and_at_a_url_one_for_all() {
    let (one, other) = (Registry::start().await, Registry::start().await);
    other.plan(|plan| {
        plan.tokens.insert("of another".to_owned(), Instant::now());
    });
    let urls = |first: &str| format!("\"{first}\", \"http://{}/api\"", other.origin.address);
    let (nobody, alive) = ("http://127.0.0.1:1/api", format!("http://{}/api", one.origin.address));
    let below = gateway(&urls(nobody), LOGIN, POLLS);
    endpoints(&below, 1).await;
    assert_eq!((one.logins(), other.logins()), (0, 1));

    let at = format!("url = \"{alive}/v1/auth/login\"");
    let together = gateway(&format!("\"{alive}\""), &at, POLLS);
    endpoints(&together, 1).await;
    assert_eq!(one.logins(), 1);
    let elsewhere = gateway(&format!("\"{alive}\""), &format!("url = \"{nobody}/login\""), POLLS);
    let why = "cannot log in as \"gw\" at http://127.0.0.1:1/api/login: connection refused";
    fails(&elsewhere, "unavailable", why).await;
}
