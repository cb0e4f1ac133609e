//! The access log of a listener: one place that lines go to, and a share of them.

use super::Checker;
use crate::{
    config::file,
    document::{Part, Way, similar},
    telemetry::access::{Destination, Format, Settings},
};

const TEXT: &str = "text";
const JSON: &str = "json";

impl Checker<'_> {
    /// None where there is no log; `Some(None)`: it is wrong.
    pub(super) fn access_log(
        &mut self,
        way: &Way,
        log: Option<&file::AccessLog>,
    ) -> Option<Option<Settings>> {
        let Some(log) = log else { return Some(None) };
        let format = match log.format.as_str() {
            TEXT => Some(Format::Text),
            JSON => Some(Format::Json),
            other => {
                let hint = similar::hint(other, [TEXT, JSON]);
                self.wrong(&way.key("format"), format!("{other:?} is neither text nor json"))
                    .hint_if_any(hint);
                None
            }
        };
        let destination = match (&log.file, &log.socket) {
            (None, None) => Some(Destination::Stdout),
            (Some(file), None) => self.path(&way.key("file"), file).map(Destination::File),
            (None, Some(socket)) => self.path(&way.key("socket"), socket).map(Destination::Socket),
            (Some(_), Some(_)) => {
                self.wrong(&way.key("socket"), "lines go to one place, and `file` is there, too")
                    .hint("take one of `file` and `socket` away");
                None
            }
        };
        let sample = self.share_of(&way.key("sample"), log.sample);
        let at = way.key("hide_headers");
        let names = log.hide_headers.iter().enumerate();
        let hide_headers: Vec<_> =
            names.map(|(index, name)| self.header_name(&at.index(index), name, Part::Value)).collect();
        Some(Some(Settings {
            format: format?,
            destination: destination?,
            sample,
            hide_query: log.hide_query.clone(),
            hide_headers: hide_headers.into_iter().collect::<Option<_>>()?,
        }))
    }
}
