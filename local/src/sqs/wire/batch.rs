//! Batches: their entries, and the result of each.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::write;
use crate::sqs::SqsError;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchCall<T> {
    #[serde(default)]
    queue_url: String,
    #[serde(default = "Vec::new")]
    entries: Vec<T>,
}

/// An entry of a batch.
pub(super) trait Entry {
    /// Names the entry in the response.
    fn id(&self) -> &str;
}

impl<T: Entry> BatchCall<T> {
    /// Validates a batch as a whole. Returns the URL of its queue, the ids of its entries, and the entries.
    pub(super) fn split(self) -> Result<(String, Vec<String>, Vec<T>), SqsError> {
        let entries = self.entries;
        if entries.is_empty() {
            return Err(SqsError::empty_batch(
                "There should be at least one entry in the request.",
            ));
        }
        if entries.len() > 10 {
            return Err(SqsError::too_many_entries(format!(
                "Maximum number of entries per request are 10. You have sent {}.",
                entries.len()
            )));
        }
        let mut ids = HashSet::new();
        for entry in &entries {
            let id = entry.id();
            let is_id = (1..=80).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            if !is_id {
                return Err(SqsError::invalid_entry_id(
                    "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.",
                ));
            }
            if !ids.insert(id) {
                return Err(SqsError::ids_not_distinct(format!("Id {id} repeated.")));
            }
        }
        let ids = entries.iter().map(|entry| entry.id().to_owned()).collect();
        Ok((self.queue_url, ids, entries))
    }
}

/// The response to a batch.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchResponse {
    pub(super) successful: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Value>,
}

impl BatchResponse {
    pub(super) fn fail(&mut self, id: &str, error: &SqsError) {
        self.failed.push(json!({
            "Id": id,
            "Code": error.code,
            "Message": error.message,
            "SenderFault": error.sender_fault,
        }));
    }
}

/// The response to a batch whose entries have no result but success.
pub(super) fn batch_response(
    ids: Vec<String>,
    results: Vec<Result<(), SqsError>>,
) -> Result<Vec<u8>, SqsError> {
    let mut response = BatchResponse::default();
    for (id, result) in ids.into_iter().zip(results) {
        match result {
            Ok(()) => response.successful.push(json!({ "Id": id })),
            Err(error) => response.fail(&id, &error),
        }
    }
    write(&response)
}
