//! Who the gateway is to a registry that has to be logged in at: a user with a password gets a token there, which is sent
//! with each request for as long as it is worth something.
//!
//! Only the server that is logged in at sees the password, and no plugin sees the token.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header::CONTENT_TYPE, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use tokio::{sync::Semaphore, time::Instant};
use wasmtime_wasi_http::WasiBody;

use super::{
    credential::Kind,
    urls::{Prefix, names},
};
use crate::{
    backoff::Backoff,
    connector::{fresh::FreshSecret, lock, pauses},
    document::Secret,
};

/// A token that nothing is said of is worth something for so long.
const UNSAID: Duration = Duration::from_secs(3_600);
const LONGEST: Duration = Duration::from_secs(86_400);

/// One that is refused sooner is not the reason: what it may do is.
const SETTLED: Duration = Duration::from_secs(5);

/// Where, as whom, and how the token is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    pub place: Place,
    pub user: String,
    pub file: PathBuf,
    /// As it was when the configuration was read.
    pub password: Secret,
    pub sent: Sent,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// At one URL for all that is asked for.
    Url(Prefix),
    /// At each of the granted URLs, below it. Begins with a slash.
    Below(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    Header(Kind),
    /// As the parameter of a query.
    Query(String),
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("the gateway is not let in as {user:?} by {url}, which answered {status}")]
    Refused { user: String, url: String, status: StatusCode },
    #[error("the gateway cannot log in as {user:?} at {url}: {why}")]
    Failed { user: String, url: String, why: String },
}

/// What a server gave for the password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    token: String,
    lifetime: Duration,
}

/// A login in use: one session for each place where the gateway logs in.
pub(super) struct Logins {
    login: Login,
    password: Arc<FreshSecret>,
    /// One, or one for each granted URL, in their order.
    sessions: Vec<Session>,
}

impl Logins {
    pub fn new(login: Login, urls: &[Prefix]) -> Self {
        let password = FreshSecret::new(login.file.clone(), login.password.clone());
        let sessions = match &login.place {
            Place::Url(url) => vec![Session::new(url.clone())],
            Place::Below(path) => {
                let below =
                    urls.iter().filter_map(|url| Prefix::parse(&format!("{}{path}", url.text())).ok());
                below.map(Session::new).collect()
            }
        };
        Self { login, password, sessions }
    }

    /// The one of the granted URL with this number.
    pub fn session(&self, number: usize) -> Option<&Session> {
        self.sessions.get(number).or(self.sessions.first())
    }

    /// Whether what is asked for could be the login itself, or what lies beside it: servers tell there who somebody is,
    /// and their token.
    pub fn hides(&self, uri: &Uri, urls: &[Prefix]) -> bool {
        let asked = names(uri.path());
        self.sessions.iter().any(|session| {
            let login = session.url.names();
            let folder = login.split_last().map_or(&[][..], |(_, folder)| folder);
            // Where the registry itself lies there it is the login alone.
            let holds_all = urls.iter().any(|url| url.names().starts_with(folder));
            let hidden = if holds_all { &login } else { folder };
            session.url.is_beside(uri) && asked.starts_with(hidden)
        })
    }

    /// What is sent to get a token.
    pub async fn request(&self, session: &Session) -> Request<WasiBody> {
        let password = self.password.current().await;
        let form = format!("username={}&password={}", escaped(&self.login.user), escaped(&password.0));
        let body = Full::new(Bytes::from(form)).map_err(|never| match never {}).boxed_unsync();
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        // It was read as one.
        *request.uri_mut() = session.url.text().parse().unwrap_or_default();
        let form = http::HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        request
    }

    /// What comes of its answer; an error that is text says what became of it instead.
    pub fn heard(
        &self,
        session: &Session,
        answer: Result<(StatusCode, Bytes), String>,
    ) -> Result<Granted, LoginError> {
        let (user, url) = (self.login.user.clone(), session.url.text().to_owned());
        match answer {
            Ok((StatusCode::OK, body)) => {
                granted(&body).map_err(|why| LoginError::Failed { user, url, why: why.to_owned() })
            }
            Ok((status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _)) => {
                // Its file may hold another one by now.
                self.password.refused();
                Err(LoginError::Refused { user, url, status })
            }
            Ok((status, _)) => {
                Err(LoginError::Failed { user, url, why: format!("it answered {}", status.as_u16()) })
            }
            Err(why) => Err(LoginError::Failed { user, url, why }),
        }
    }

    /// Puts the token in the place of whatever stands there.
    pub fn add(&self, token: &str, uri: &mut Uri, headers: &mut HeaderMap) {
        match &self.login.sent {
            Sent::Header(kind) => kind.add(token, headers),
            Sent::Query(name) => *uri = with_parameter(uri, name, token),
        }
    }
}

/// The token of one place.
pub(super) struct Session {
    url: Prefix,
    /// One logs in at a time, and the others wait for what comes of it.
    turn: Semaphore,
    state: Mutex<State>,
}

struct State {
    token: Option<Token>,
    /// Why the last login failed, and until when that is so.
    failed: Option<(LoginError, Instant)>,
    pauses: Backoff,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    since: Instant,
    lifetime: Duration,
}

impl Token {
    /// Whether a tenth of its life is left.
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < self.lifetime.mul_f64(0.9)
    }

    fn is_alive(&self) -> bool {
        self.since.elapsed() < self.lifetime
    }
}

impl Session {
    fn new(url: Prefix) -> Self {
        let state = State { token: None, failed: None, pauses: pauses() };
        Self { url, turn: Semaphore::new(1), state: Mutex::new(state) }
    }

    /// The token, by this login if it is time for one. While logins fail, one that there was serves to its end, and
    /// nobody logs in before a pause that grows.
    pub async fn token(
        &self,
        login: impl Future<Output = Result<Granted, LoginError>>,
    ) -> Result<Arc<str>, LoginError> {
        if let Some(known) = self.known() {
            return known;
        }
        // It is never closed.
        let _turn = self.turn.acquire().await;
        if let Some(known) = self.known() {
            return known;
        }
        let granted = login.await;
        let mut state = lock(&self.state);
        match granted {
            Ok(Granted { token, lifetime }) => {
                let text: Arc<str> = token.into();
                state.token = Some(Token { text: text.clone(), since: Instant::now(), lifetime });
                state.failed = None;
                state.pauses.reset();
                Ok(text)
            }
            Err(error) => {
                let pause = state.pauses.pause();
                state.failed = Some((error.clone(), Instant::now() + pause));
                let token = state.token.as_ref().filter(|token| token.is_alive());
                token.map(|token| token.text.clone()).ok_or(error)
            }
        }
    }

    /// What needs no login, or must not have one yet.
    fn known(&self) -> Option<Result<Arc<str>, LoginError>> {
        let state = lock(&self.state);
        let failed = state.failed.as_ref().filter(|(_, until)| Instant::now() < *until);
        match (&state.token, failed) {
            (Some(token), None) if token.is_fresh() => Some(Ok(token.text.clone())),
            (Some(token), Some(_)) if token.is_alive() => Some(Ok(token.text.clone())),
            (_, Some((error, _))) => Some(Err(error.clone())),
            _ => None,
        }
    }

    /// The registry will not have this token. Whether another one may do better.
    pub fn refused(&self, token: &str) -> bool {
        let mut state = lock(&self.state);
        match &state.token {
            Some(known) if &*known.text == token => {
                let settled = known.since.elapsed() >= SETTLED;
                if settled {
                    state.token = None;
                }
                settled
            }
            // Somebody else was refused before, and logs in or has.
            _ => true,
        }
    }
}

/// What an answer grants. An error says what is wrong with it, and nothing of what is in it.
fn granted(body: &[u8]) -> Result<Granted, &'static str> {
    let answer: serde_json::Value =
        serde_json::from_slice(body).map_err(|_| "its answer is no JSON, and so none of a login")?;
    let of = |key: &str| answer.get(key).or_else(|| answer.get("data")?.get(key));
    let token = of("accessToken").and_then(|token| token.as_str()).unwrap_or_default();
    if token.is_empty() {
        return Err("there is no `accessToken` in its answer");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the `accessToken` in its answer is none that can be sent");
    }
    let lifetime = match of("tokenTtl").and_then(serde_json::Value::as_f64) {
        // A second, whatever it says: who gets no time at all would log in for each request.
        Some(seconds) => Duration::try_from_secs_f64(seconds.max(1.0)).unwrap_or(LONGEST).min(LONGEST),
        None => UNSAID,
    };
    Ok(Granted { token: token.to_owned(), lifetime })
}

/// The same with one parameter of this name in its query.
fn with_parameter(uri: &Uri, name: &str, value: &str) -> Uri {
    let query = uri.query().unwrap_or_default().split('&');
    let is_it = |part: &str| names(part.split('=').next().unwrap_or_default()) == names(name);
    let others = query.filter(|part| !part.is_empty() && !is_it(part)).map(str::to_owned);
    let query: Vec<_> = others.chain([format!("{name}={}", escaped(value))]).collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("{}?{}", uri.path(), query.join("&"))).ok();
    Uri::from_parts(parts).unwrap_or_default()
}

/// For a query or a form: nothing in it means anything there.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        Session::new(Prefix::parse("http://a/v1/auth/login").unwrap())
    }

    fn gives(token: &str, seconds: u64) -> Result<Granted, LoginError> {
        Ok(Granted { token: token.to_owned(), lifetime: Duration::from_secs(seconds) })
    }

    fn fails(why: &str) -> Result<Granted, LoginError> {
        Err(LoginError::Failed { user: "u".into(), url: "http://a".into(), why: why.to_owned() })
    }

    async fn token(session: &Session, login: Result<Granted, LoginError>) -> String {
        match session.token(ready(login)).await {
            Ok(token) => token.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_it_ends_and_serves_to_its_end_if_that_fails() {
        let session = session();
        assert_eq!(token(&session, gives("one", 100)).await, "one");
        tokio::time::advance(Duration::from_secs(89)).await;
        assert_eq!(token(&session, gives("two", 100)).await, "one");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(token(&session, fails("down")).await, "one");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(token(&session, fails("still down")).await.ends_with("at http://a: still down"));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(token(&session, gives("two", 100)).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_to_log_in_does_not_try_at_once() {
        let session = session();
        assert!(token(&session, fails("down")).await.ends_with("down"));
        assert!(token(&session, gives("one", 100)).await.ends_with("down"));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(token(&session, gives("one", 100)).await, "one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_refused_is_exchanged_unless_it_is_new() {
        let session = session();
        assert_eq!(token(&session, gives("one", 100)).await, "one");
        assert!(!session.refused("one"), "another one would be refused as well");
        assert_eq!(token(&session, gives("two", 100)).await, "one");
        tokio::time::advance(SETTLED).await;
        assert!(session.refused("one"));
        assert!(session.refused("one"), "it was told already");
        assert_eq!(token(&session, gives("two", 100)).await, "two");
        assert!(session.refused("one"), "this is another by now");
        assert_eq!(token(&session, gives("three", 100)).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_need_a_token_log_in_once() {
        let session = session();
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            gives(&format!("{:?}", Instant::now()), 100)
        };
        let all = [session.token(slow()), session.token(slow()), session.token(slow())];
        let [one, two, three] = all;
        let (one, two, three) = tokio::join!(one, two, three);
        assert!(one == two && two == three, "{one:?} {two:?} {three:?}");
    }

    #[test]
    fn an_answer_grants_a_token_or_says_what_it_lacks() {
        let granted = |body: &str| granted(body.as_bytes());
        let is = |token: &str, seconds: u64| {
            Ok(Granted { token: token.to_owned(), lifetime: Duration::from_secs(seconds) })
        };
        assert_eq!(granted(r#"{"accessToken":"t","tokenTtl":18000,"globalAdmin":true}"#), is("t", 18_000));
        assert_eq!(granted(r#"{"code":0,"data":{"accessToken":"t","tokenTtl":60}}"#), is("t", 60));
        assert_eq!(granted(r#"{"accessToken":"t"}"#), is("t", 3_600));
        for odd in ["0", "-5", "0.1"] {
            assert_eq!(granted(&format!(r#"{{"accessToken":"t","tokenTtl":{odd}}}"#)), is("t", 1));
        }
        assert_eq!(granted(r#"{"accessToken":"t","tokenTtl":1e300}"#), is("t", 86_400));
        for (body, part) in [
            ("<html>", "no JSON"),
            ("[]", "no `accessToken`"),
            (r#"{"accessToken":""}"#, "no `accessToken`"),
            (r#"{"accessToken":7}"#, "no `accessToken`"),
            ("{\"accessToken\":\"a\\nb\"}", "none that can be sent"),
            ("{\"accessToken\":\"a b\"}", "none that can be sent"),
        ] {
            let why = granted(body).unwrap_err();
            assert!(why.contains(part), "{body}: {why}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_the_only_one_there() {
        for (url, expected) in [
            ("http://a/x", "http://a/x?accessToken=t%2F1"),
            ("http://a/x?b=1&c=%20", "http://a/x?b=1&c=%20&accessToken=t%2F1"),
            ("http://a/x?accessToken=own&b=1", "http://a/x?b=1&accessToken=t%2F1"),
            ("http://a/x?%61ccesstoken=own&accessToken", "http://a/x?accessToken=t%2F1"),
        ] {
            assert_eq!(with_parameter(&url.parse().unwrap(), "accessToken", "t/1"), expected);
        }
    }

    #[test]
    fn the_login_and_what_lies_beside_it_is_hidden_from_plugins() {
        let hides = |urls: &[&str], place: Place, asked: &str| {
            let urls: Vec<_> = urls.iter().map(|url| Prefix::parse(url).unwrap()).collect();
            let login = Login {
                place,
                user: "u".into(),
                file: PathBuf::new(),
                password: Secret("p".into()),
                sent: Sent::Query("accessToken".into()),
            };
            Logins::new(login, &urls).hides(&asked.parse().unwrap(), &urls)
        };
        let below = |path: &str| Place::Below(path.to_owned());
        let url = |url: &str| Place::Url(Prefix::parse(url).unwrap());
        let nacos = &["http://a:8848/nacos"][..];
        for (urls, place, asked, hidden) in [
            (nacos, below("/v1/auth/login"), "http://a:8848/nacos/v1/auth/login", true),
            (nacos, below("/v1/auth/login"), "http://a:8848/nacos/v1/AUTH/users/login?x=1", true),
            (nacos, below("/v1/auth/login"), "http://a:8848/nacos/v1//%61uth;x/users", true),
            (nacos, below("/v1/auth/login"), "http://a:8848/nacos/v1/ns/instance/list", false),
            (nacos, below("/v1/auth/login"), "http://b:8848/nacos/v1/auth/login", false),
            (nacos, below("/login"), "http://a:8848/nacos/login", true),
            (nacos, below("/login"), "http://a:8848/nacos/v1/ns", false),
            (nacos, url("http://a:8848/login"), "http://a:8848/nacos/v1/ns", false),
            (nacos, url("http://sso/login"), "http://a:8848/nacos/login", false),
        ] {
            assert_eq!(hides(urls, place, asked), hidden, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_a_token_or_an_error(body in any::<Vec<u8>>()) {
            if let Ok(Granted { token, lifetime }) = granted(&body) {
                prop_assert!(!token.is_empty() && lifetime >= Duration::from_secs(1));
            }
        }

        #[test]
        fn what_else_is_in_a_query_stays(name in "[a-z]{1,5}", value in "[a-z0-9]{0,5}", token in ".{0,9}") {
            prop_assume!(name != "t");
            let asked: Uri = format!("http://a/x?{name}={value}").parse().unwrap();
            let expected = format!("http://a/x?{name}={value}&t={}", escaped(&token));
            prop_assert_eq!(with_parameter(&asked, "t", &token).to_string(), expected);
        }
    }
}
