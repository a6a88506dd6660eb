//! What a consumer does with a message that it received: `DeleteMessage` and `ChangeMessageVisibility`, and their batches.

use serde::Deserialize;
use serde_json::json;

use super::batch::{BatchCall, Entry, batch_response};
use super::{name, required, write};
use crate::sqs::{Sqs, SqsError};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteCall {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    receipt_handle: String,
}

impl Entry for DeleteCall {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeCall {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    receipt_handle: String,
    #[serde(default)]
    visibility_timeout: Option<i64>,
}

impl Entry for ChangeCall {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) async fn delete(sqs: &Sqs, call: DeleteCall) -> Result<Vec<u8>, SqsError> {
    required(&call.receipt_handle, "ReceiptHandle")?;
    let handles = [call.receipt_handle];
    let deleted = sqs.delete(name(&call.queue_url)?, &handles).await?;
    deleted.into_iter().collect::<Result<Vec<()>, _>>()?;
    write(&json!({}))
}

pub(super) async fn delete_batch(
    sqs: &Sqs,
    call: BatchCall<DeleteCall>,
) -> Result<Vec<u8>, SqsError> {
    let (queue_url, ids, entries) = call.split()?;
    let handles: Vec<_> = (entries.into_iter())
        .map(|entry| entry.receipt_handle)
        .collect();
    batch_response(ids, sqs.delete(name(&queue_url)?, &handles).await?)
}

impl ChangeCall {
    /// The receipt handle and the timeout in seconds.
    fn change(self) -> (String, i64) {
        (
            self.receipt_handle,
            self.visibility_timeout.unwrap_or_default(),
        )
    }
}

pub(super) async fn change(sqs: &Sqs, mut call: ChangeCall) -> Result<Vec<u8>, SqsError> {
    required(&call.receipt_handle, "ReceiptHandle")?;
    let queue_url = std::mem::take(&mut call.queue_url);
    let changes = [call.change()];
    let changed = sqs.change_visibility(name(&queue_url)?, &changes).await?;
    changed.into_iter().collect::<Result<Vec<()>, _>>()?;
    write(&json!({}))
}

pub(super) async fn change_batch(
    sqs: &Sqs,
    call: BatchCall<ChangeCall>,
) -> Result<Vec<u8>, SqsError> {
    let (queue_url, ids, entries) = call.split()?;
    let changes: Vec<_> = entries.into_iter().map(ChangeCall::change).collect();
    let changed = sqs.change_visibility(name(&queue_url)?, &changes).await?;
    batch_response(ids, changed)
}
