//! Settings of plugins: from TOML to the JSON that plugins get.

use std::sync::Arc;

use serde_json::Value as Json;
use toml::{Table, Value as Toml};

use super::Checker;
use crate::document::Way;

impl Checker<'_> {
    /// A JSON object as text. Equal settings give equal text.
    pub(super) fn settings(&mut self, way: &Way, settings: &Table) -> Option<Arc<str>> {
        Some(self.json_object(way, settings)?.to_string().into())
    }

    // All members are converted before one of them can end it, so that every mistake is told.
    fn json_object(&mut self, way: &Way, table: &Table) -> Option<Json> {
        let members: Vec<_> =
            table.iter().map(|(key, value)| Some((key.clone(), self.json(&way.key(key), value)?))).collect();
        members.into_iter().collect::<Option<_>>().map(Json::Object)
    }

    fn json_array(&mut self, way: &Way, array: &[Toml]) -> Option<Json> {
        let items: Vec<_> =
            array.iter().enumerate().map(|(index, item)| self.json(&way.index(index), item)).collect();
        items.into_iter().collect::<Option<_>>().map(Json::Array)
    }

    fn json(&mut self, way: &Way, value: &Toml) -> Option<Json> {
        match value {
            Toml::String(text) => Some(Json::from(text.as_str())),
            Toml::Integer(number) => Some(Json::from(*number)),
            Toml::Boolean(boolean) => Some(Json::from(*boolean)),
            Toml::Float(number) => self.json_float(way, *number),
            Toml::Datetime(datetime) => {
                let message = format!("plugins get settings as JSON, which has no dates: {datetime}");
                self.wrong(way, message).hint(format!("write a string: \"{datetime}\""));
                None
            }
            Toml::Array(array) => self.json_array(way, array),
            Toml::Table(table) => self.json_object(way, table),
        }
    }

    fn json_float(&mut self, way: &Way, number: f64) -> Option<Json> {
        let json = serde_json::Number::from_f64(number).map(Json::Number);
        if json.is_none() {
            self.wrong(way, format!("plugins get settings as JSON, which has no {number}"));
        }
        json
    }
}
