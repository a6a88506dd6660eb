//! Deletes expired items, which DynamoDB, too, does some time after they have expired.
//!
//! Invariant: it delays nobody, however many items there are: it looks at few of them at once, and pauses in between.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use protocol::clock::{Clock, UnixSeconds};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{DynamoDb, TABLE, TARGET};

/// The time from the end of the table to its beginning.
const AGAIN: Duration = Duration::from_secs(60);
/// How many items are looked at at once.
const AT_ONCE: usize = 25;
/// How many times as long as it took to look at them the pause after that is.
const PAUSE: u32 = 49;

impl DynamoDb {
    /// Deletes expired items, until the task is aborted.
    pub(crate) async fn sweep(self, clock: Clock) {
        let (mut from, mut pause) = (None, AGAIN);
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            from = self.sweep_page(from, clock.seconds()).await;
            pause = match from {
                Some(_) => PAUSE * began.elapsed(),
                None => AGAIN,
            };
        }
    }

    /// Deletes those that have expired of the items after this key. Returns the key of the last one, if there are more.
    async fn sweep_page(&self, from: Option<Value>, now: UnixSeconds) -> Option<Value> {
        let has_expired = "expires_at <= :now";
        let values = json!({":now": {"N": now.to_string()}});
        let mut scan = json!({
            "TableName": TABLE, "Limit": AT_ONCE, "FilterExpression": has_expired,
            "ExpressionAttributeValues": values, "ProjectionExpression": "pk, sk",
        });
        if let Some(from) = from {
            scan["ExclusiveStartKey"] = from;
        }
        let (status, mut page) = self.ask("Scan", &scan).await;
        if status != StatusCode::OK {
            let error = page["__type"].as_str().unwrap_or_default();
            tracing::warn!(error, "expired items could not be looked for");
            return None;
        }
        // At the same time, so that they wait for the disk together.
        let mut deletions = JoinSet::new();
        for key in page["Items"].as_array().into_iter().flatten() {
            // It may have been written again. What cannot be deleted now is found again.
            let delete = json!({
                "TableName": TABLE, "Key": key, "ConditionExpression": has_expired,
                "ExpressionAttributeValues": values,
            });
            let table = self.clone();
            deletions.spawn(async move { table.ask("DeleteItem", &delete).await });
        }
        deletions.join_all().await;
        Some(page["LastEvaluatedKey"].take()).filter(|key| !key.is_null())
    }

    async fn ask(&self, action: &str, request: &Value) -> (StatusCode, Value) {
        let (target, body) = (format!("{TARGET}{action}"), request.to_string());
        let answer = self.answer(&target, body.as_bytes()).await;
        let body = serde_json::from_slice(answer.body()).unwrap_or_default();
        (answer.status(), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_expired_is_deleted_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("table.db");
        for file in [None, Some(file.as_path())] {
            let table = DynamoDb::open(file, Clock::system()).unwrap();
            for at in 0..60 {
                let mut item = json!({"pk": {"S": "p"}, "sk": {"S": at.to_string()}});
                // A third never expires.
                if at % 3 > 0 {
                    item["expires_at"] = json!({"N": (1_000 + at % 3).to_string()});
                }
                let put = json!({"TableName": TABLE, "Item": item});
                assert_eq!(table.ask("PutItem", &put).await.0, 200);
            }
            let (mut from, mut pages) = (None, 0);
            loop {
                pages += 1;
                from = table.sweep_page(from, 1_001).await;
                if from.is_none() {
                    break;
                }
            }
            assert_eq!(pages, 3);
            let (_, left) = table.ask("Scan", &json!({"TableName": TABLE})).await;
            let left = left["Items"].as_array().unwrap();
            let expires: Vec<_> = (left.iter())
                .map(|item| item["expires_at"]["N"].as_str())
                .collect();
            assert_eq!(expires.len(), 40);
            assert!(!expires.contains(&Some("1001")));
        }
    }
}
