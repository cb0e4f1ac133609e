//! A client for registries that speak HTTP: `wasi:http` as blocking calls.
//!
//! Where it may go, who it is there and by which TLS is the business of the gateway. A call waits, and a wait costs
//! nothing.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bindings::wasi::clocks::monotonic_clock::subscribe_duration;
use bindings::wasi::http::outgoing_handler;
pub use bindings::wasi::http::types::Method;
use bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use bindings::wasi::io::poll::poll;
use bindings::wasi::io::streams::{InputStream, StreamError};
use bindings::witgate::http::http as granted;
pub use bindings::witgate::registry::types::Failure;

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package witgate:guest;
            world client {
                import witgate:http/http@0.1.0;
                import wasi:http/outgoing-handler@0.2.12;
                import wasi:clocks/monotonic-clock@0.2.12;
            }
        ",
        world: "witgate:guest/client",
        generate_all,
    });
}

/// The failure as the `Failure` of the plugin that uses this, which is to be in scope.
#[macro_export]
macro_rules! failure {
    ($failure:expr) => {
        match $failure {
            $crate::http::Failure::Unavailable(text) => Failure::Unavailable(text),
            $crate::http::Failure::Denied(text) => Failure::Denied(text),
            $crate::http::Failure::Invalid(text) => Failure::Invalid(text),
            $crate::http::Failure::Other(text) => Failure::Other(text),
        }
    };
}

/// The longest answer taken. Memory is bounded anyway; this says what was too much.
const LONGEST: usize = 48 << 20;

/// Bytes that are read at once.
const PART: u64 = 64 << 10;

/// A registry at one or more URLs that answer alike.
pub struct Client {
    urls: Vec<String>,
    /// The one that is asked.
    current: Cell<usize>,
}

/// How long an answer may take.
#[derive(Clone, Copy)]
pub enum Limit {
    /// So long until its head, and so long from each part of its body to the next: a list may be long.
    Parts(Duration),
    /// So long until its head, and so long from one part of its body to the next.
    Head(Duration, Duration),
    /// So long for all of it.
    Whole(Duration),
}

/// What was answered, whatever its status.
pub struct Answer {
    /// Who answered, for texts.
    pub url: String,
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Who answered what, for texts: the beginning of the body says more than the status.
    pub fn said(&self) -> String {
        let Answer { url, status, body, .. } = self;
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        format!("{url} answered {status}: {}", text.trim())
    }

    /// The first header of this name, which is written in lower case here.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        str::from_utf8(value).ok()
    }
}

impl Client {
    /// The URLs that the table of the registry grants, beginning with any of them: not every gateway asks the first.
    pub fn granted() -> Result<Client, Failure> {
        let urls = urls()?;
        let current = Cell::new(fastrand::usize(..urls.len().max(1)));
        Ok(Client { urls, current })
    }

    /// The same with an answer that is read while it comes, for what goes on telling.
    pub fn open(&self, path: &str, headers: &[(&str, &str)], limit: Limit) -> Result<Coming, Failure> {
        self.each(
            |base| open(&Method::Get, &format!("{base}{path}"), headers, None, limit),
            |coming| coming.status,
        )
    }

    /// Asks for what lies under the URL, and for the next URL if this one takes no connection.
    pub fn get(&self, path: &str, headers: &[(&str, &str)], limit: Limit) -> Result<Answer, Failure> {
        self.ask(&Method::Get, path, headers, None, limit)
    }

    /// Sends a body there in the same way. What has taken a connection may have taken the body as well, so nobody else
    /// gets it then.
    pub fn put(&self, path: &str, body: &[u8], limit: Limit) -> Result<Answer, Failure> {
        let length = body.len().to_string();
        self.ask(&Method::Put, path, &[("content-length", &length)], Some(body), limit)
    }

    fn ask(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        content: Option<&[u8]>,
        limit: Limit,
    ) -> Result<Answer, Failure> {
        self.each(
            |base| ask(method, &format!("{base}{path}"), headers, content, limit),
            |answer| answer.status,
        )
    }

    fn each<T>(
        &self,
        ask: impl Fn(&str) -> Result<T, Problem>,
        status: impl Fn(&T) -> u16,
    ) -> Result<T, Failure> {
        let mut failures = Vec::new();
        for _ in 0..self.urls.len().max(1) {
            let Some(base) = self.urls.get(self.current.get() % self.urls.len().max(1)) else { break };
            match ask(base) {
                Ok(answer) => {
                    // One that is unwell, or set up in another way than the rest, is not asked again soon.
                    if matches!(status(&answer), 401 | 403 | 500..) {
                        self.next();
                    }
                    return Ok(answer);
                }
                Err(Problem::NoConnection(text)) => failures.push(text),
                Err(Problem::Failure(failure)) => {
                    self.next();
                    return Err(failure);
                }
            }
            self.next();
        }
        Err(Failure::Unavailable(failures.join("; ")))
    }

    fn next(&self) {
        self.current.set(self.current.get().wrapping_add(1));
    }
}

/// An answer whose head is there, and whose body is read while it comes.
pub struct Coming {
    /// Who answers, for texts.
    pub url: String,
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Before the body, which is not given back while there is a stream of it.
    stream: InputStream,
    _body: IncomingBody,
    /// Bytes of it that were read.
    read: Cell<usize>,
}

impl Coming {
    /// Waits for the next part of the body; none at its end.
    pub fn part(&self, until: Option<Instant>) -> Result<Option<Vec<u8>>, Failure> {
        if until.is_some_and(|until| !is_there_by(&self.stream, until)) {
            return Err(self.broke_off("it takes too long"));
        }
        match self.stream.blocking_read(PART) {
            Ok(part) => {
                self.read.set(self.read.get() + part.len());
                Ok(Some(part))
            }
            Err(StreamError::Closed) => Ok(None),
            Err(StreamError::LastOperationFailed(error)) => Err(self.broke_off(&error.to_debug_string())),
        }
    }

    /// Waits until there is a part, or the end, and no longer than that.
    pub fn is_there_by(&self, until: Instant) -> bool {
        self.stream.subscribe().ready() || is_there_by(&self.stream, until)
    }

    /// With all of its body.
    pub fn whole(self, until: Option<Instant>) -> Result<Answer, Failure> {
        let mut body = Vec::new();
        while let Some(part) = self.part(until)? {
            body.extend(part);
            if body.len() > LONGEST {
                return Err(Failure::Invalid(format!(
                    "{}: the answer is longer than {LONGEST} bytes",
                    self.url
                )));
            }
        }
        Ok(Answer { url: self.url, status: self.status, headers: self.headers, body })
    }

    fn broke_off(&self, why: &str) -> Failure {
        let (url, length) = (&self.url, self.read.get());
        Failure::Unavailable(format!("{url}: the answer broke off after {length} bytes: {why}"))
    }
}

/// The URLs that the table of the registry grants, for who asks each by itself.
pub fn urls() -> Result<Vec<String>, Failure> {
    granted::urls()
}

/// Asks for a URL as it is, such as one that an answer points to.
pub fn get(url: &str, headers: &[(&str, &str)], limit: Limit) -> Result<Answer, Failure> {
    Ok(ask(&Method::Get, url, headers, None, limit)?)
}

/// Sends a body of a media type to a URL.
pub fn post(url: &str, media_type: &str, body: &[u8], limit: Limit) -> Result<Answer, Failure> {
    let length = body.len().to_string();
    let headers = [("content-type", media_type), ("content-length", &length)];
    Ok(ask(&Method::Post, url, &headers, Some(body), limit)?)
}

/// Sends a body to a URL.
pub fn put(url: &str, body: &[u8], limit: Limit) -> Result<Answer, Failure> {
    let length = body.len().to_string();
    Ok(ask(&Method::Put, url, &[("content-length", &length)], Some(body), limit)?)
}

/// Has what is at a URL removed.
pub fn delete(url: &str, limit: Limit) -> Result<Answer, Failure> {
    send_nothing(&Method::Delete, url, limit)
}

/// Does what a method means at a URL that says all there is to say: there is no body, so the gateway may send it again.
pub fn send_nothing(method: &Method, url: &str, limit: Limit) -> Result<Answer, Failure> {
    // Some servers want to be told that there is none.
    let headers =
        if matches!(method, Method::Get | Method::Delete) { &[][..] } else { &[("content-length", "0")] };
    Ok(ask(method, url, headers, None, limit)?)
}

/// One failure for those of several URLs: what the operator can mend comes first.
pub fn together(failures: &[Failure]) -> Failure {
    let all = texts(failures);
    let is = |kind: fn(&Failure) -> bool| failures.iter().any(kind);
    if is(|failure| matches!(failure, Failure::Denied(_))) {
        Failure::Denied(all)
    } else if is(|failure| matches!(failure, Failure::Invalid(_))) {
        Failure::Invalid(all)
    } else {
        Failure::Unavailable(all)
    }
}

/// What they say.
pub fn texts(failures: &[Failure]) -> String {
    let texts = failures.iter().map(|failure| match failure {
        Failure::Unavailable(text)
        | Failure::Denied(text)
        | Failure::Invalid(text)
        | Failure::Other(text) => text.as_str(),
    });
    texts.collect::<Vec<_>>().join("; ")
}

enum Problem {
    NoConnection(String),
    Failure(Failure),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        match problem {
            Problem::NoConnection(text) => Failure::Unavailable(text),
            Problem::Failure(failure) => failure,
        }
    }
}

fn ask(
    method: &Method,
    url: &str,
    headers: &[(&str, &str)],
    content: Option<&[u8]>,
    limit: Limit,
) -> Result<Answer, Problem> {
    let until = match limit {
        Limit::Parts(_) | Limit::Head(..) => None,
        Limit::Whole(whole) => Some(Instant::now() + whole),
    };
    open(method, url, headers, content, limit)?.whole(until).map_err(Problem::Failure)
}

fn open(
    method: &Method,
    url: &str,
    headers: &[(&str, &str)],
    content: Option<&[u8]>,
    limit: Limit,
) -> Result<Coming, Problem> {
    let failed = |error: ErrorCode| problem(url, error);
    let invalid = |what: &str| Problem::Failure(Failure::Invalid(format!("{what} in a request to {url}")));
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|_| invalid(name))?;
    }
    let request = OutgoingRequest::new(fields);
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("no scheme"))?;
    let scheme = if scheme.eq_ignore_ascii_case("https") { Scheme::Https } else { Scheme::Http };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    request.set_method(method).map_err(|()| invalid("method"))?;
    request.set_scheme(Some(&scheme)).map_err(|()| invalid("scheme"))?;
    request.set_authority(Some(authority)).map_err(|()| invalid("authority"))?;
    request.set_path_with_query(Some(path)).map_err(|()| invalid("path"))?;
    let options = RequestOptions::new();
    let (head, part) = match limit {
        Limit::Parts(limit) | Limit::Whole(limit) => (limit, limit),
        Limit::Head(head, part) => (head, part),
    };
    let nanoseconds = |limit: Duration| u64::try_from(limit.as_nanos()).ok();
    // Whoever cannot say how long keeps to the limits of the gateway.
    let _ = options.set_first_byte_timeout(nanoseconds(head));
    let _ = options.set_between_bytes_timeout(nanoseconds(part));
    let sink = match content {
        Some(content) => Some((request.body().map_err(|()| invalid("body"))?, content)),
        None => None,
    };
    let waiting = outgoing_handler::handle(request, Some(options)).map_err(failed)?;
    if let Some((sink, content)) = sink {
        send(sink, content);
    }
    waiting.subscribe().block();
    let response = match waiting.get() {
        Some(Ok(answered)) => answered.map_err(failed)?,
        _ => {
            return Err(Problem::Failure(Failure::Other(format!(
                "no answer of {url} where one was told of"
            ))));
        }
    };
    let (status, headers) = (response.status(), response.headers().entries());
    let body = response.consume().map_err(|()| invalid("body"))?;
    let no_body = |()| Problem::Failure(Failure::Other(format!("no body of {url}")));
    let stream = body.stream().map_err(no_body)?;
    Ok(Coming { url: url.to_owned(), status, headers, stream, _body: body, read: Cell::new(0) })
}

/// One that is not taken shows in the answer, or in that there is none.
fn send(body: OutgoingBody, content: &[u8]) {
    if let Ok(stream) = body.write() {
        // More than that is refused at once.
        for part in content.chunks(4096) {
            if stream.blocking_write_and_flush(part).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Waits for a part of the body, or its end. What comes in many parts has no more time than what comes in none.
fn is_there_by(stream: &InputStream, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let timer = subscribe_duration(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
    let ready = stream.subscribe();
    left > Duration::ZERO && poll(&[&ready, &timer]).contains(&0)
}

fn problem(url: &str, error: ErrorCode) -> Problem {
    let text = match error {
        ErrorCode::HttpRequestDenied => {
            let text = format!("{url}: the table `http` of the registry does not grant it");
            return Problem::Failure(Failure::Denied(text));
        }
        ErrorCode::ConnectionRefused => return Problem::NoConnection(format!("{url}: connection refused")),
        ErrorCode::ConnectionTimeout => {
            return Problem::NoConnection(format!("{url}: no connection in time"));
        }
        ErrorCode::DnsError(payload) => {
            let why = payload.rcode.unwrap_or_default();
            return Problem::NoConnection(format!("{url}: its host is not resolved: {why}"));
        }
        ErrorCode::HttpResponseTimeout => "no answer in time".to_owned(),
        ErrorCode::HttpResponseIncomplete => "the connection broke before the answer was complete".to_owned(),
        ErrorCode::InternalError(Some(text)) => text,
        other => format!("{other:?}"),
    };
    Problem::Failure(Failure::Unavailable(format!("{url}: {text}")))
}
