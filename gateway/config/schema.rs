//! The JSON schema of the configuration, for editors.

use schemars::{
    Schema,
    generate::SchemaSettings,
    transform::{RecursiveTransform, Transform},
};

use super::file::File;

/// The schema of a configuration file, as JSON text that ends with a new line.
pub fn schema() -> String {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<File>();
    RecursiveTransform(without_null).transform(&mut schema);
    RecursiveTransform(unwrapped).transform(&mut schema);
    format!("{:#}\n", schema.as_value())
}

/// TOML has no null: what is absent is left out.
fn without_null(schema: &mut Schema) {
    if schema.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
        schema.remove("default");
    }
    if let Some(types) = schema.get_mut("type").and_then(|types| types.as_array_mut()) {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            schema.insert("type".into(), kind);
        }
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(|choices| choices.as_array_mut()) {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    }
}

/// Lines of comments are broken for the width of the source, those of an editor are not.
fn unwrapped(schema: &mut Schema) {
    let Some(text) = schema.get("description").and_then(|description| description.as_str()) else { return };
    let paragraphs: Vec<_> = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
    schema.insert("description".into(), paragraphs.join("\n\n").into());
}
