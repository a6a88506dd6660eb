//! `CreateQueue`, `GetQueueUrl`, `ListQueues`, and the attributes of a queue.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{name, required, write};
use crate::sqs::message::MAX_BYTES;
use crate::sqs::{Sqs, SqsError, arn};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateCall {
    #[serde(default)]
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UrlCall {
    #[serde(default)]
    queue_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListQueuesCall {
    #[serde(default)]
    queue_name_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetAttributesCall {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetAttributesCall {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

/// The attributes of `GetQueueAttributes` (API Reference, `QueueAttributeName`).
const ATTRIBUTES: &str = "All ApproximateNumberOfMessages ApproximateNumberOfMessagesDelayed \
    ApproximateNumberOfMessagesNotVisible ContentBasedDeduplication CreatedTimestamp \
    DeduplicationScope DelaySeconds FifoQueue FifoThroughputLimit KmsDataKeyReusePeriodSeconds \
    KmsMasterKeyId LastModifiedTimestamp MaximumMessageSize MessageRetentionPeriod Policy \
    QueueArn ReceiveMessageWaitTimeSeconds RedriveAllowPolicy RedrivePolicy SqsManagedSseEnabled \
    VisibilityTimeout";

pub(super) fn get_attributes(sqs: &Sqs, call: &GetAttributesCall) -> Result<Vec<u8>, SqsError> {
    let name = name(&call.queue_url)?;
    let is_known = |wanted: &&String| ATTRIBUTES.split_whitespace().any(|name| name == *wanted);
    if let Some(unknown) = call.attribute_names.iter().find(|name| !is_known(name)) {
        return Err(SqsError::invalid_attribute_name(format!(
            "Unknown Attribute {unknown}."
        )));
    }
    let depth = sqs.depth(name)?;
    let mut state = sqs.state();
    let queue = state.queue(name)?;
    let settings = &queue.settings;
    let mut attributes = queue.attributes.clone();
    for (name, value) in [
        ("QueueArn", arn(name)),
        ("ApproximateNumberOfMessages", depth.visible.to_string()),
        (
            "ApproximateNumberOfMessagesNotVisible",
            depth.in_flight.to_string(),
        ),
        ("ApproximateNumberOfMessagesDelayed", "0".to_owned()),
        ("CreatedTimestamp", (queue.created_at / 1000).to_string()),
        ("VisibilityTimeout", settings.visibility_seconds.to_string()),
        (
            "MessageRetentionPeriod",
            settings.retention_seconds.to_string(),
        ),
        (
            "ReceiveMessageWaitTimeSeconds",
            settings.wait_seconds.to_string(),
        ),
        ("MaximumMessageSize", MAX_BYTES.to_string()),
        ("DelaySeconds", "0".to_owned()),
        (
            "ContentBasedDeduplication",
            settings.content_based.to_string(),
        ),
    ] {
        attributes.entry(name.to_owned()).or_insert(value);
    }
    if let Some(redrive) = &settings.redrive {
        let text = serde_json::to_string(redrive).unwrap_or_default();
        attributes.insert("RedrivePolicy".to_owned(), text);
    }
    attributes.retain(|name, _| {
        call.attribute_names
            .iter()
            .any(|wanted| wanted == "All" || wanted == name)
    });
    write(&json!({ "Attributes": attributes }))
}

pub(super) async fn create(sqs: &Sqs, call: CreateCall) -> Result<Vec<u8>, SqsError> {
    let name = required(&call.queue_name, "QueueName")?;
    let url = sqs.create_queue(name, call.attributes).await?;
    write(&json!({ "QueueUrl": url }))
}

pub(super) fn url(sqs: &Sqs, call: &UrlCall) -> Result<Vec<u8>, SqsError> {
    let name = required(&call.queue_name, "QueueName")?;
    sqs.depth(name)?;
    write(&json!({ "QueueUrl": sqs.url(name) }))
}

pub(super) fn list(sqs: &Sqs, call: ListQueuesCall) -> Result<Vec<u8>, SqsError> {
    let prefix = call.queue_name_prefix.unwrap_or_default();
    let urls: Vec<_> = (sqs.state().queues.keys())
        .filter(|name| name.starts_with(&prefix))
        .map(|name| sqs.url(name))
        .collect();
    write(&json!({ "QueueUrls": urls }))
}

pub(super) async fn set_attributes(
    sqs: &Sqs,
    call: SetAttributesCall,
) -> Result<Vec<u8>, SqsError> {
    let name = name(&call.queue_url)?;
    sqs.set_attributes(name, call.attributes).await?;
    write(&json!({}))
}
