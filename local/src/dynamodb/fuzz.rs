//! A fuzz target for the requests of DynamoDB's clients: every request is answered as DynamoDB answers, one that is refused
//! changes nothing, and what is kept of answers is what is stored.
//!
//! An input is a script with a call on each line, `Action {json}`.

use std::collections::BTreeMap;

use axum::http::{Response, StatusCode, header};
use protocol::clock::Clock;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::{DynamoDb, TABLE, TARGET, act, answered};

/// The most lines of a script that are carried out.
const MAX_CALLS: usize = 20;
/// The most items that are compared: a `BatchGetItem` has no more.
const MAX_ITEMS: usize = 100;

/// All items, by their keys as text.
type Items = BTreeMap<String, Value>;

fn key(item: &Value) -> Value {
    json!({"pk": item["pk"], "sk": item["sk"]})
}

/// Sorts sets, which have no order.
fn sort_sets(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(sort_sets),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Array(set) if matches!(name.as_str(), "SS" | "NS" | "BS") => {
                        set.sort_by_key(Value::to_string);
                    }
                    value => sort_sets(value),
                }
            }
        }
        _ => {}
    }
}

fn by_key(items: &Value) -> Items {
    let mut items = items.clone();
    sort_sets(&mut items);
    let items = items.as_array().expect("an answer has items").iter();
    items
        .map(|item| (key(item).to_string(), item.clone()))
        .collect()
}

fn json_of(response: &Response<Vec<u8>>) -> Value {
    serde_json::from_slice(response.body()).expect("an answer is JSON")
}

/// An answer is a result, or a client's mistake with a name and a text.
fn assert_is_an_answer(line: &str, response: &Response<Vec<u8>>) {
    let body = json_of(response);
    assert!(body.is_object(), "{body}");
    let kind = &response.headers()[header::CONTENT_TYPE];
    assert_eq!(kind, "application/x-amz-json-1.0");
    if response.status() == StatusCode::OK {
        return;
    }
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{line}: {body}");
    let name = body["__type"].as_str().unwrap_or_default();
    assert!(name.starts_with("com.amazon"), "{line}: {body}");
    let text = body["message"].as_str().or(body["Message"].as_str());
    assert!(text.is_some_and(|text| !text.is_empty()), "{line}: {body}");
}

struct Run(DynamoDb);

impl Run {
    /// All items as they are stored.
    fn stored(&self) -> Items {
        let scan = json!({"TableName": TABLE, "ConsistentRead": true}).to_string();
        let all = answered(act(&self.0.changes.database, "Scan", scan.as_bytes()));
        by_key(&json_of(&all)["Items"])
    }

    async fn call(&self, action: &str, body: &str) -> Response<Vec<u8>> {
        let target = format!("{TARGET}{action}");
        self.0.answer(&target, body.as_bytes()).await
    }

    async fn line(&self, line: &str) {
        let (action, body) = line.split_once(' ').unwrap_or((line, "{}"));
        let before = self.stored();
        let response = self.call(action, body).await;
        assert_is_an_answer(line, &response);
        let after = self.stored();
        if response.status() != StatusCode::OK {
            assert_eq!(before, after, "{line} was refused and changed the table");
        }
        self.assert_is_kept_as_stored(line, &after).await;
    }

    /// The relay's two ways to read show what is stored: first as it is read, then as it is kept.
    async fn assert_is_kept_as_stored(&self, line: &str, stored: &Items) {
        let keys: Vec<Value> = stored.values().take(MAX_ITEMS).map(key).collect();
        let Some(first) = keys.first() else { return };
        let values = json!({":pk": first["pk"]});
        let query = json!({"TableName": TABLE, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": values, "ConsistentRead": true})
        .to_string();
        let batch = json!({"RequestItems": {TABLE: {"Keys": keys, "ConsistentRead": true}}});
        let batch = batch.to_string();
        let in_partition = stored.iter().filter(|(_, item)| item["pk"] == first["pk"]);
        let in_partition: Items = in_partition.map(|(k, i)| (k.clone(), i.clone())).collect();
        for _ in 0..2 {
            let got = json_of(&self.call("BatchGetItem", &batch).await);
            let got = by_key(&got["Responses"][TABLE]);
            let expected: Items = (stored.clone().into_iter()).take(MAX_ITEMS).collect();
            assert_eq!(got, expected, "{line}");
            let queried = json_of(&self.call("Query", &query).await);
            assert_eq!(by_key(&queried["Items"]), in_partition, "{line}");
        }
    }
}

fn runtime() -> Runtime {
    (Builder::new_current_thread().build()).expect("a runtime needs nothing")
}

#[test]
fn fuzz_dynamodb() {
    fuzz::target!("dynamodb", |input: &[u8]| {
        runtime().block_on(async {
            let database = DynamoDb::open(None, Clock::system());
            let run = Run(database.expect("memory can be opened"));
            let text = std::str::from_utf8(input).unwrap_or_default();
            for line in text.lines().take(MAX_CALLS) {
                run.line(line).await;
            }
        });
    });
}
