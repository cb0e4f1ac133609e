//! gRPC-Web: calls of pages in browsers, which may come by HTTP/1.1 and see no trailers (gRPC's `doc/PROTOCOL-WEB.md`).
//!
//! For everything on its way such a call is one of gRPC: its head becomes one before anything else is done with it, and
//! what comes of it, be it of the gateway itself, becomes an answer of gRPC-Web last of all.

mod body;
mod text;

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

pub(super) use body::WebBody;
pub(super) use text::{Decoder, NotBase64};

use super::{cors::Cors, grpc, reply::ReplyBody, service::Call};
use crate::syntax::list;

const KIND: &[u8] = b"application/grpc-web";

/// A media type of gRPC-Web.
struct Kind<'a> {
    /// It is base64.
    text: bool,
    /// What messages are made of: `+proto`, or nothing.
    format: &'a [u8],
}

impl<'a> Kind<'a> {
    fn of(value: &'a [u8]) -> Option<Self> {
        let (kind, rest) = list::bare(value).split_at_checked(KIND.len())?;
        let (text, format) = match rest.strip_prefix(b"-text") {
            Some(rest) => (true, rest.strip_prefix(b"-base64").unwrap_or(rest)),
            None => (false, rest),
        };
        let known = kind.eq_ignore_ascii_case(KIND) && matches!(format.first(), None | Some(b'+'));
        known.then_some(Self { text, format })
    }

    /// The same as text or not, or as gRPC has it.
    fn named(&self, name: &str) -> HeaderValue {
        let named = [name.as_bytes(), self.format].concat();
        // What was in a header can be in one.
        HeaderValue::from_bytes(&named).unwrap_or(HeaderValue::from_static("application/grpc"))
    }
}

/// What is to be done with the answer to a call of gRPC-Web, and with its body.
pub(super) struct Translation {
    cors: Rc<Cors>,
    /// Of the page, if it may use the answer.
    origin: Option<HeaderValue>,
    /// The call's body is base64.
    pub from_text: bool,
    /// The answer's is to be.
    to_text: bool,
    content_type: HeaderValue,
}

/// Makes of a call of gRPC-Web one of gRPC, and says how it is to be answered. None: it is no such call.
pub(super) fn translate(cors: Rc<Cors>, head: &mut Parts) -> Option<Translation> {
    if head.method != Method::POST {
        return None;
    }
    let sent = Kind::of(head.headers.get(header::CONTENT_TYPE)?.as_bytes())?;
    let wanted = list::of(&head.headers, &header::ACCEPT).find_map(Kind::of);
    let answer = wanted.as_ref().unwrap_or(&sent);
    let translation = Translation {
        origin: cors.listed(&head.headers),
        cors,
        from_text: sent.text,
        to_text: answer.text,
        content_type: answer.named(if answer.text {
            "application/grpc-web-text"
        } else {
            "application/grpc-web"
        }),
    };
    let content_type = sent.named("application/grpc");
    let headers = &mut head.headers;
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    // Of the text. The parser says that of the messages if it knows it.
    headers.remove(header::CONTENT_LENGTH);
    // No call goes on with another protocol.
    headers.remove(header::UPGRADE);
    Some(translation)
}

impl Translation {
    /// Makes of an answer to a call of gRPC one of gRPC-Web. What tells in its head how it went, stays there.
    fn answer(self, response: Response<ReplyBody>) -> Response<ReplyBody> {
        let (mut head, mut body) = response.into_parts();
        let headers = &mut head.headers;
        let told = grpc::is_told(headers);
        let understood = told || head.status == StatusCode::OK && is_grpc(headers);
        if !understood {
            let text = format!("the instance answered with HTTP status {} and no call", head.status.as_u16());
            grpc::set_status(headers, code(head.status), &text);
            headers.remove(header::CONTENT_ENCODING);
        }
        head.status = StatusCode::OK;
        headers.insert(header::CONTENT_TYPE, self.content_type);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRAILER);
        self.cors.answer(self.origin, headers);
        if !(told && matches!(body, ReplyBody::Empty)) {
            body = ReplyBody::Web(Box::new(WebBody::new(body, self.to_text, told, understood)));
        }
        Response::from_parts(head, body)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(grpc::is_kind)
}

/// What an answer that is none to a call is to a client (gRPC's `doc/http-grpc-status-mapping.md`).
fn code(status: StatusCode) -> grpc::Code {
    match status.as_u16() {
        400 | 431 => grpc::Code::Internal,
        401 => grpc::Code::Unauthenticated,
        403 => grpc::Code::PermissionDenied,
        404 => grpc::Code::Unimplemented,
        429 | 502..=504 => grpc::Code::Unavailable,
        _ => grpc::Code::Unknown,
    }
}

/// A call of gRPC-Web under way.
pub(super) struct WebCall {
    call: Call,
    /// None once it is answered.
    translation: Option<Translation>,
}

impl WebCall {
    pub(super) fn new(call: Call, translation: Translation) -> Self {
        Self { call, translation: Some(translation) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<ReplyBody>> {
        let response = ready!(Pin::new(&mut self.call).poll(cx));
        Poll::Ready(match self.translation.take() {
            Some(translation) => translation.answer(response),
            None => response,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors() -> Rc<Cors> {
        Rc::new(Cors::new(&crate::config::GrpcWeb {
            allow_origins: vec!["https://app.test".into()],
            allow_headers: vec![],
            expose_headers: vec![],
            max_age: std::time::Duration::ZERO,
            allow_credentials: false,
        }))
    }

    #[test]
    fn an_answer_has_the_kind_that_is_asked_for_or_that_of_the_call() {
        let check = |sent: &str, accept: &str, expected: Option<(&str, bool, &str, bool)>| {
            let request = http::Request::post("/a.B/C").header("content-type", sent).header("accept", accept);
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            let found = translate(cors(), &mut head);
            let found = found.as_ref().map(|found| {
                let Translation { from_text, to_text, content_type, .. } = found;
                (
                    head.headers["content-type"].to_str().unwrap(),
                    *from_text,
                    content_type.to_str().unwrap(),
                    *to_text,
                )
            });
            assert_eq!(found, expected, "{sent} {accept}");
        };
        let (web, text) = ("application/grpc-web", "application/grpc-web-text");
        check(web, "*/*", Some(("application/grpc", false, web, false)));
        check(text, "", Some(("application/grpc", true, text, true)));
        check(web, text, Some(("application/grpc", false, text, true)));
        check(text, "a/b, application/grpc-web;q=1", Some(("application/grpc", true, web, false)));
        check(
            "Application/gRPC-Web+proto; charset=utf-8",
            "*/*",
            Some(("application/grpc+proto", false, "application/grpc-web+proto", false)),
        );
        check(
            "application/grpc-web-text-base64+json",
            "application/json",
            Some(("application/grpc+json", true, "application/grpc-web-text+json", true)),
        );
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-website",
            "application/grpc-web-texts",
            "text/plain",
        ] {
            check(kind, text, None);
        }
    }

    #[test]
    fn a_call_is_a_post() {
        let request = http::Request::put("/a.B/C").header("content-type", "application/grpc-web");
        assert!(translate(cors(), &mut request.body(()).unwrap().into_parts().0).is_none());
    }
}
