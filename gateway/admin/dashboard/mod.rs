//! The dashboard: files inside the binary.
//!
//! They hold no data, so everybody may read them; what the page shows it asks the API for. The page may load nothing
//! but these files, run no script and take no style from elsewhere, and send nothing to anybody but this gateway.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH},
};
use sha2::{Digest, Sha256};

use super::answer::{Body, whole, with_type};

/// The page of `/`; all others are below `/dashboard/`.
pub(super) const INDEX: &str = "index.html";

/// By name. A test sees to it that each file of the folder is here.
const FILES: [(&str, &str); 20] = [
    (INDEX, include_str!("page/index.html")),
    ("app.js", include_str!("page/app.js")),
    ("api.js", include_str!("page/api.js")),
    ("changes.js", include_str!("page/changes.js")),
    ("configuration.js", include_str!("page/configuration.js")),
    ("dom.js", include_str!("page/dom.js")),
    ("endpoints.js", include_str!("page/endpoints.js")),
    ("feed.js", include_str!("page/feed.js")),
    ("format.js", include_str!("page/format.js")),
    ("icon.svg", include_str!("page/icon.svg")),
    ("layout.css", include_str!("page/layout.css")),
    ("listeners.js", include_str!("page/listeners.js")),
    ("orders.js", include_str!("page/orders.js")),
    ("overview.js", include_str!("page/overview.js")),
    ("parts.css", include_str!("page/parts.css")),
    ("plugins.js", include_str!("page/plugins.js")),
    ("state.js", include_str!("page/state.js")),
    ("table.js", include_str!("page/table.js")),
    ("timeline.js", include_str!("page/timeline.js")),
    ("upstream.js", include_str!("page/upstream.js")),
];

/// What goes with every file. Styles and scripts are files of their own; text becomes part of the page as text only
/// (Trusted Types), and no other page may show this one in a frame.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("referrer-policy"), "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// One for all files: they change together, with the binary.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    FILES.iter().for_each(|(_, content)| digest.update(content));
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
});

/// The name of a file as it is known here, if there is one of that name.
pub(super) fn find(name: &str) -> Option<&'static str> {
    FILES.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// The file, or 304 for who has it.
pub(super) fn answer(name: &str, headers: &HeaderMap) -> Response<Body> {
    let content = FILES.iter().find(|(known, _)| *known == name).map_or("", |(_, content)| content);
    let has_it = headers.get_all(IF_NONE_MATCH).iter().any(|tag| *tag == *TAG);
    let mut response = if has_it {
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        with_type(content.as_bytes(), content_type(name))
    };
    let own = response.headers_mut();
    // Asked about each time, so that a gateway that was exchanged shows its own page.
    own.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    own.insert(ETAG, TAG.clone());
    own.extend(HEADERS.map(|(header, value)| (header, HeaderValue::from_static(value))));
    response
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_has_a_type() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway/admin/dashboard/page");
        let entries =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<String> = entries.collect();
        found.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        served.sort();
        assert_eq!(served, found);
        for name in served {
            assert_ne!(content_type(name), "application/octet-stream", "{name}");
        }
    }

    #[test]
    fn no_file_makes_markup_of_text_or_has_scripts_and_styles_inside() {
        for (name, content) in FILES {
            let forbidden: &[&str] = match name.rsplit_once('.') {
                Some((_, "js")) => {
                    &["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
                }
                _ => &["<style", "style=", "onclick", "onload", "javascript:", "//cdn"],
            };
            for word in forbidden {
                assert!(!content.contains(word), "{name} has {word:?}");
            }
        }
    }
}
