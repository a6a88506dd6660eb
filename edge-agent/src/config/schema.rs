//! The JSON schema of `edge-agent.toml`, by which editors complete and check it.

use anyhow::Context as _;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use super::settings::Settings;
use crate::failure::Failure;

/// The schema, as editors read it (draft 7).
pub(crate) fn schema() -> Result<String, Failure> {
    let schema = SchemaSettings::draft07()
        .with_transform(RecursiveTransform(without_null))
        .into_generator()
        .into_root_schema_for::<Settings>();
    let mut text = serde_json::to_string_pretty(&schema).context("cannot write JSON")?;
    text.push('\n');
    Ok(text)
}

/// Removes what TOML does not have: a key without a value is left out.
fn without_null(schema: &mut Schema) {
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_aux::serde_introspection::serde_introspect;

    use super::super::settings::HandlerTable;
    use super::*;

    #[test]
    fn the_schema_has_the_keys_of_the_file_and_no_others() {
        let schema: Value = serde_json::from_str(&schema().unwrap()).unwrap();
        for (part, keys) in [
            (&schema, serde_introspect::<Settings>()),
            (
                &schema["definitions"]["HandlerTable"],
                serde_introspect::<HandlerTable>(),
            ),
        ] {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            let mut known: Vec<_> = part["properties"].as_object().unwrap().keys().collect();
            known.sort_unstable();
            assert_eq!(known, keys);
            assert_eq!(part["additionalProperties"], false);
        }
        assert!(!schema.to_string().contains("null"), "{schema}");
    }
}
