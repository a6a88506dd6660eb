//! `ReceiveMessage`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::send::sequence_number;
use super::{name, write};
use crate::sqs::message::{md5_of_attributes, md5_of_body};
use crate::sqs::{ACCOUNT, Attribute, Consumer, Received, Sqs, SqsError};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceiveCall {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    max_number_of_messages: Option<i64>,
    #[serde(default)]
    visibility_timeout: Option<i64>,
    #[serde(default)]
    wait_time_seconds: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage<'a> {
    message_id: String,
    receipt_handle: &'a str,
    #[serde(rename = "MD5OfBody")]
    md5_of_body: String,
    body: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'static str, String>,
    #[serde(
        rename = "MD5OfMessageAttributes",
        skip_serializing_if = "Option::is_none"
    )]
    md5_of_message_attributes: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    message_attributes: BTreeMap<&'a String, &'a Attribute>,
}

/// The system attributes of a received message.
fn system_attributes(received: &Received) -> BTreeMap<&'static str, String> {
    let message = &received.message;
    let mut attributes = BTreeMap::from([
        ("SenderId", ACCOUNT.to_owned()),
        ("SentTimestamp", message.sent_at.to_string()),
        ("ApproximateReceiveCount", message.received.to_string()),
        ("SequenceNumber", sequence_number(received.sequence)),
        ("MessageDeduplicationId", message.deduplication_id.clone()),
        ("MessageGroupId", message.group.clone()),
    ]);
    if let Some(at) = message.first_received_at {
        attributes.insert("ApproximateFirstReceiveTimestamp", at.to_string());
    }
    if let Some(source) = &message.source {
        attributes.insert("DeadLetterQueueSourceArn", source.clone());
    }
    attributes
}

impl ReceiveCall {
    fn wants_system_attribute(&self, name: &str) -> bool {
        (self.attribute_names.iter())
            .chain(&self.message_system_attribute_names)
            .any(|wanted| wanted == "All" || wanted == name)
    }

    fn wants_attribute(&self, name: &str) -> bool {
        self.message_attribute_names.iter().any(|wanted| {
            matches!(wanted.as_str(), "All" | ".*")
                || wanted == name
                || wanted
                    .strip_suffix(".*")
                    .is_some_and(|prefix| name.starts_with(prefix))
        })
    }

    /// A message with the attributes that the call asks for.
    fn message<'a>(&self, received: &'a Received) -> ReceivedMessage<'a> {
        let mut attributes = system_attributes(received);
        attributes.retain(|name, _| self.wants_system_attribute(name));
        let message_attributes: BTreeMap<_, _> = (received.message.attributes.iter())
            .filter(|(name, _)| self.wants_attribute(name))
            .collect();
        let sent = message_attributes
            .iter()
            .map(|(name, value)| (*name, *value));
        ReceivedMessage {
            message_id: received.message.id.to_string(),
            receipt_handle: &received.receipt_handle,
            md5_of_body: md5_of_body(&received.message.body),
            body: &received.message.body,
            attributes,
            md5_of_message_attributes: md5_of_attributes(sent),
            message_attributes,
        }
    }
}

fn validate(name: &str, value: Option<i64>, range: RangeInclusive<i64>) -> Result<(), SqsError> {
    match value {
        Some(value) if !range.contains(&value) => Err(SqsError::invalid_parameter(format!(
            "Value {value} for parameter {name} is invalid. Reason: Must be between {} and {}, if provided.",
            range.start(),
            range.end()
        ))),
        _ => Ok(()),
    }
}

pub(super) async fn receive(sqs: &Sqs, call: ReceiveCall) -> Result<Vec<u8>, SqsError> {
    validate("MaxNumberOfMessages", call.max_number_of_messages, 1..=10)?;
    validate("WaitTimeSeconds", call.wait_time_seconds, 0..=20)?;
    validate("VisibilityTimeout", call.visibility_timeout, 0..=43_200)?;
    let limit = call
        .max_number_of_messages
        .and_then(|limit| usize::try_from(limit).ok());
    let received = sqs
        .receive(
            name(&call.queue_url)?,
            limit.unwrap_or(1),
            call.visibility_timeout,
            call.wait_time_seconds,
            Consumer::Elsewhere,
        )
        .await?;
    if received.is_empty() {
        return write(&json!({}));
    }
    let messages: Vec<_> = received
        .iter()
        .map(|received| call.message(received))
        .collect();
    write(&BTreeMap::from([("Messages", messages)]))
}
