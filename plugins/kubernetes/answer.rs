//! What an API server answers: lists, page by page, and the events of a watch, line by line.

use serde::Deserialize;
use serde_json::Value;

use crate::slice::{EndpointSlice, Endpoints, Metadata, Object};

/// The longest event taken.
const LONGEST: usize = 8 << 20;

/// What says where the instances of a service are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Api {
    Slices,
    /// Of a server that has no slices.
    Endpoints,
}

/// A page of a list.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// Of the whole list: what a watch goes on from.
    pub version: String,
    pub objects: Vec<Object>,
    /// What the next page is asked for with. Empty: this is the last.
    pub more: String,
}

#[derive(Debug, PartialEq)]
pub enum Event {
    Put(Object, String),
    /// The name, and the version of the list without it.
    Gone(String, String),
    /// Nothing has changed until this version.
    Bookmark(String),
    Error(Status),
}

/// What a server says in place of what it was asked for.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

/// What is to be done about a status.
#[derive(Debug)]
pub enum After {
    /// What was known is too old, or newer than what the server knows: the list is asked for again.
    List,
    /// Who asks may not do that.
    Denied(String),
    Failed(String),
}

impl Status {
    /// What an answer with this code and body says.
    pub fn of(code: u16, body: &[u8]) -> Status {
        let status = serde_json::from_slice(body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            Status { message: text.trim().to_owned(), ..Status::default() }
        });
        Status { code, ..status }
    }

    /// `url` is who said it.
    pub fn after(&self, url: &str) -> After {
        let Status { code, reason, message } = self;
        let text = format!("{url} answered {code}: {message}");
        match (code, reason.as_str()) {
            (410, _) | (_, "Expired" | "Gone") => After::List,
            // One that lags behind the server of the list says so, or was restored from what was saved.
            (504, _) | (_, "Timeout") => After::List,
            (401 | 403, _) => After::Denied(text),
            _ => After::Failed(text),
        }
    }
}

#[derive(Deserialize)]
struct List<T> {
    kind: String,
    metadata: Metadata,
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

#[derive(Deserialize)]
struct OfKind {
    kind: String,
    metadata: Metadata,
}

impl Api {
    /// Where all that is said of a service is, in a form that more can be put to.
    pub fn path(self, namespace: &str, name: &str) -> String {
        match self {
            Api::Slices => format!(
                "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=\
                 kubernetes.io%2Fservice-name%3D{name}"
            ),
            Api::Endpoints => {
                format!("/api/v1/namespaces/{namespace}/endpoints?fieldSelector=metadata.name%3D{name}")
            }
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Api::Slices => "EndpointSlice",
            Api::Endpoints => "Endpoints",
        }
    }

    /// The error says what the answer is instead of a list.
    pub fn page(self, body: &[u8]) -> Result<Page, String> {
        let (kind, metadata, objects) = match self {
            Api::Slices => page::<EndpointSlice>(body)?,
            Api::Endpoints => page::<Endpoints>(body)?,
        };
        let expected = format!("{}List", self.kind());
        if kind != expected {
            return Err(format!("no list: its kind is {kind:?} and not {expected:?}"));
        }
        if metadata.resource_version.is_empty() {
            return Err("no list: it has no resourceVersion".to_owned());
        }
        Ok(Page { version: metadata.resource_version, objects, more: metadata.more })
    }

    /// The error says what a line is instead of an event.
    pub fn event(self, line: &[u8]) -> Result<Event, String> {
        let wrong = |error: serde_json::Error| format!("no event: {error}");
        let Raw { kind, object } = serde_json::from_slice(line).map_err(wrong)?;
        if kind == "ERROR" {
            return serde_json::from_value(object).map(Event::Error).map_err(wrong);
        }
        let of: OfKind = OfKind::deserialize(&object).map_err(wrong)?;
        if of.kind != self.kind() {
            return Err(format!("no event: it is about {:?} and not {:?}", of.kind, self.kind()));
        }
        let Metadata { name, resource_version: version, .. } = of.metadata;
        if version.is_empty() {
            return Err("no event: it has no resourceVersion".to_owned());
        }
        Ok(match kind.as_str() {
            "ADDED" | "MODIFIED" => {
                let object = match self {
                    Api::Slices => serde_json::from_value::<EndpointSlice>(object).map_err(wrong)?.into(),
                    Api::Endpoints => serde_json::from_value::<Endpoints>(object).map_err(wrong)?.into(),
                };
                Event::Put(object, version)
            }
            "DELETED" => Event::Gone(name, version),
            "BOOKMARK" => Event::Bookmark(version),
            other => return Err(format!("no event: its type is {other:?}")),
        })
    }
}

fn page<'a, T: Deserialize<'a> + Into<Object>>(
    body: &'a [u8],
) -> Result<(String, Metadata, Vec<Object>), String> {
    let List { kind, metadata, items } =
        serde_json::from_slice::<List<T>>(body).map_err(|error| format!("no list: {error}"))?;
    Ok((kind, metadata, items.into_iter().flatten().map(Into::into).collect()))
}

/// The lines of a body that comes in parts.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Those that are whole now. The error says that one is too long.
    pub fn of(&mut self, part: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut lines = Vec::new();
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend(piece);
            if self.0.len() > LONGEST {
                return Err(format!("no event: it is longer than {LONGEST} bytes"));
            }
            if self.0.ends_with(b"\n") {
                let line = std::mem::take(&mut self.0);
                if !line.trim_ascii().is_empty() {
                    lines.push(line);
                }
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn page(body: Value) -> Result<Page, String> {
        Api::Slices.page(body.to_string().as_bytes())
    }

    fn event(body: Value) -> Result<Event, String> {
        Api::Slices.event(body.to_string().as_bytes())
    }

    fn slice(name: &str, version: &str) -> Value {
        json!({ "kind": "EndpointSlice", "metadata": { "name": name, "resourceVersion": version },
            "addressType": "IPv4", "endpoints": null, "ports": null })
    }

    #[test]
    fn a_page_has_objects_and_says_what_follows() {
        let list = json!({ "kind": "EndpointSliceList", "items": [slice("a", "1"), slice("b", "2")],
            "metadata": { "resourceVersion": "7", "continue": "next", "remainingItemCount": 1 } });
        let Page { version, objects, more } = page(list).unwrap();
        let names: Vec<_> = objects.into_iter().map(|object| object.name).collect();
        assert_eq!((version.as_str(), names.join(" "), more.as_str()), ("7", "a b".to_owned(), "next"));
        let empty =
            json!({ "kind": "EndpointSliceList", "metadata": { "resourceVersion": "7" }, "items": null });
        assert_eq!(page(empty), Ok(Page { version: "7".into(), objects: vec![], more: String::new() }));
    }

    #[test]
    fn what_is_no_list_is_told() {
        for (body, why) in [
            ("<html>", "no list: expected value"),
            (r#"{"sign":"in"}"#, "no list: missing field `kind`"),
            (
                r#"{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[]}"#,
                r#"its kind is "PodList""#,
            ),
            (r#"{"kind":"EndpointSliceList","metadata":{},"items":[]}"#, "it has no resourceVersion"),
            (
                r#"{"kind":"EndpointSliceList","metadata":{"resourceVersion":"1"},"items":[{}]}"#,
                "no list: missing field `metadata`",
            ),
        ] {
            let error = Api::Slices.page(body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn events_are_what_their_type_says() {
        let told = |kind: &str| event(json!({ "type": kind, "object": slice("a", "9") }));
        for kind in ["ADDED", "MODIFIED"] {
            let Ok(Event::Put(object, version)) = told(kind) else { panic!("{kind}") };
            assert_eq!((object.name.as_str(), version.as_str()), ("a", "9"));
        }
        assert_eq!(told("DELETED"), Ok(Event::Gone("a".into(), "9".into())));
        let bookmark = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": "12" }, "endpoints": null, "addressType": "", "ports": null });
        let bookmark = event(json!({ "type": "BOOKMARK", "object": bookmark }));
        assert_eq!(bookmark, Ok(Event::Bookmark("12".into())));
        let expired = json!({ "kind": "Status", "status": "Failure", "message": "too old resource version: 1 (9)",
            "reason": "Expired", "code": 410 });
        let Ok(Event::Error(status)) = event(json!({ "type": "ERROR", "object": expired })) else { panic!() };
        assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
        assert!(told("MOVED").unwrap_err().contains(r#"its type is "MOVED""#));
        let other =
            json!({ "type": "ADDED", "object": { "kind": "Pod", "metadata": { "resourceVersion": "1" } } });
        assert!(event(other).unwrap_err().contains(r#"about "Pod""#));
        assert!(event(json!({ "sign": "in" })).unwrap_err().contains("missing field `type`"));
    }

    #[test]
    fn a_status_says_what_to_do() {
        let after = |code: u16, body: Value| match Status::of(code, body.to_string().as_bytes()).after("u") {
            After::List => "list".to_owned(),
            After::Denied(text) => format!("denied: {text}"),
            After::Failed(text) => format!("unavailable: {text}"),
        };
        assert_eq!(after(410, json!("gone")), "list");
        assert_eq!(after(400, json!({ "reason": "Expired", "code": 410 })), "list");
        assert_eq!(after(500, json!({ "reason": "Gone" })), "list");
        assert_eq!(
            after(504, json!({ "reason": "Timeout", "message": "Too large resource version" })),
            "list"
        );
        let forbidden = json!({ "reason": "Forbidden", "message": "endpointslices is forbidden" });
        assert_eq!(after(403, forbidden), "denied: u answered 403: endpointslices is forbidden");
        assert_eq!(after(401, json!({ "message": "Unauthorized" })), "denied: u answered 401: Unauthorized");
        assert_eq!(after(500, json!({ "message": "m" })), "unavailable: u answered 500: m");
        let text = Status::of(404, b"404 page not found\n");
        assert_eq!((text.code, text.message.as_str()), (404, "404 page not found"));
    }

    #[test]
    fn a_line_that_never_ends_is_no_event() {
        let mut lines = Lines::default();
        let part = vec![b'x'; LONGEST / 2];
        assert_eq!(lines.of(&part), Ok(vec![]));
        assert_eq!(lines.of(&part), Ok(vec![]));
        assert!(lines.of(b"x").is_err());
    }

    proptest! {
        #[test]
        fn lines_are_the_same_in_whatever_parts_they_come(
            text in "[ab\n]{0,40}", cuts in proptest::collection::vec(0..40_usize, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let parts = cuts.windows(2).flat_map(|cut| lines.of(&text.as_bytes()[cut[0]..cut[1]]).unwrap());
            let told: Vec<Vec<u8>> = parts.collect();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.len() > 1);
            prop_assert_eq!(told, whole.map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
        }

        #[test]
        fn no_answer_is_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Api::Slices.page(&body), Api::Endpoints.page(&body));
            let _ = (Api::Slices.event(&body), Api::Endpoints.event(&body));
        }
    }
}
