//! The key `file` of a registry, and what it grants.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Examiner, TextOr, Way};

/// How the key is written.
pub(crate) const SETTING: &str = "file = \"services.json\"";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:file/file"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["file"];

/// A path, or a table that has one.
pub(crate) type Keys = TextOr<FilePath>;

/// A file, or a folder of files.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["path"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FilePath {
    /// Relative to the folder of the configuration. Required.
    pub path: Option<String>,
}

/// The file, or a folder of files.
pub type Grant = PathBuf;

pub(crate) fn grant(file: &Keys, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let path = match file {
        TextOr::Text(path) => examiner.path(way, path),
        TextOr::Table(table) => {
            let path = examiner.required(way, "path", &table.path)?;
            examiner.path(&way.key("path"), path)
        }
    };
    path.map(Some)
}
