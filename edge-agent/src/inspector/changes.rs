//! The fields that an update changed.

use serde::Serialize;
use serde_json::Value;

/// One field that an update changed.
#[derive(Serialize)]
pub(super) struct Change {
    field: String,
    before: Value,
    after: Value,
}

/// What an update says that it changed: `updatedFrom` has the values before (Linear Developers, "Data change events").
pub(super) fn changes(body: &[u8]) -> Vec<Change> {
    let mut payload: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(Value::Object(before)) = payload.get_mut("updatedFrom").map(Value::take) else {
        return Vec::new();
    };
    let changes = before.into_iter().map(|(field, before)| Change {
        before,
        after: (payload.get_mut("data"))
            .and_then(|data| data.get_mut(&field))
            .map(Value::take)
            .unwrap_or_default(),
        field,
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_says_what_it_changed() {
        let body = json!({
            "updatedFrom": {"title": "a", "labelIds": [], "gone": 1},
            "data": {"title": "b", "labelIds": ["l"]},
        });
        let changes = serde_json::to_value(changes(body.to_string().as_bytes())).unwrap();
        let change = |field, before: Value, after: Value| json!({"field": field, "before": before, "after": after});
        let expected = json!([
            change("gone", json!(1), Value::Null),
            change("labelIds", json!([]), json!(["l"])),
            change("title", json!("a"), json!("b")),
        ]);
        assert_eq!(changes, expected);
        for body in [
            "{}",
            "[]",
            "not JSON",
            r#"{"updatedFrom":null}"#,
            r#"{"updatedFrom":[1],"data":{}}"#,
        ] {
            assert!(super::changes(body.as_bytes()).is_empty(), "{body}");
        }
        // Without data there is nothing after.
        for body in [
            r#"{"updatedFrom":{"a":1}}"#,
            r#"{"updatedFrom":{"a":1},"data":"text"}"#,
        ] {
            assert_eq!(super::changes(body.as_bytes()).len(), 1, "{body}");
        }
    }
}
