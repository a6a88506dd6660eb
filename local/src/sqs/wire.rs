//! awsJson1.0: `X-Amz-Target: AmazonSQS.<Action>`, a JSON object each way.
//!
//! Source: the Smithy documentation, "AWS JSON 1.0 protocol", and the SQS API reference.

use std::collections::{BTreeMap, HashSet};

use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::message::{MAX_BYTES, NewMessage, md5_of_attributes, md5_of_body};
use super::queue::Redrive;
use super::{ACCOUNT, Attribute, Consumer, Received, Sqs, SqsError, arn};

pub(crate) const TARGET: &str = "AmazonSQS.";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// Answers one call, from wherever it came.
pub(crate) async fn answer(sqs: &Sqs, target: Option<&str>, body: &[u8]) -> Response<Vec<u8>> {
    let action = target
        .and_then(|target| target.strip_prefix(TARGET))
        .unwrap_or_default();
    let (status, body, error) = match act(sqs, action, body).await {
        Ok(body) => (StatusCode::OK, body, None),
        Err(error) => {
            let status = if error.sender_fault {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            let body = json!({
                "__type": format!("com.amazonaws.sqs#{}", error.name),
                "message": error.message,
            });
            (status, body.to_string().into_bytes(), Some(error))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    if let Some(error) = error {
        let fault = if error.sender_fault {
            "Sender"
        } else {
            "Receiver"
        };
        let value = HeaderValue::try_from(format!("{};{fault}", error.code));
        headers.extend(
            value
                .ok()
                .map(|value| (header::HeaderName::from_static("x-amzn-query-error"), value)),
        );
    }
    let id = HeaderValue::try_from(uuid::Uuid::new_v4().to_string());
    headers.extend(
        id.ok()
            .map(|id| (header::HeaderName::from_static("x-amzn-requestid"), id)),
    );
    response
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        match text
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next())
        {
            Some(field) => SqsError::missing_parameter(format!(
                "The request must contain the parameter {field}."
            )),
            None => SqsError::serialization("The request is not a JSON object of this action."),
        }
    })
}

fn write(value: &impl Serialize) -> Result<Vec<u8>, SqsError> {
    serde_json::to_vec(value).map_err(|error| SqsError::internal(error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfQueue {
    queue_url: String,
}

/// The name in a queue's address, whatever host it was reached by.
fn name(queue_url: &str) -> Result<&str, SqsError> {
    let wrong = || SqsError::no_such_queue("The specified queue does not exist.");
    let mut parts = queue_url.rsplit('/');
    let name = parts.next().ok_or_else(wrong)?;
    if parts.next() == Some(ACCOUNT) {
        Ok(name)
    } else {
        Err(wrong())
    }
}

async fn act(sqs: &Sqs, action: &str, body: &[u8]) -> Result<Vec<u8>, SqsError> {
    match action {
        "SendMessage" => send(sqs, read(body)?).await,
        "SendMessageBatch" => send_batch(sqs, read(body)?).await,
        "ReceiveMessage" => receive(sqs, read(body)?).await,
        "DeleteMessage" => {
            let call: Delete = read(body)?;
            let deleted = sqs
                .delete(name(&call.queue_url)?, &[call.receipt_handle])
                .await?;
            deleted.into_iter().collect::<Result<Vec<()>, _>>()?;
            write(&json!({}))
        }
        "DeleteMessageBatch" => {
            let call: Batch<Delete> = read(body)?;
            let (queue_url, ids, entries) = call.split()?;
            let handles: Vec<_> = entries
                .into_iter()
                .map(|entry| entry.receipt_handle)
                .collect();
            batch_answer(ids, sqs.delete(name(&queue_url)?, &handles).await?)
        }
        "ChangeMessageVisibility" => {
            let call: ChangeVisibility = read(body)?;
            let change = [(
                call.receipt_handle,
                call.visibility_timeout.unwrap_or_default(),
            )];
            let changed = sqs
                .change_visibility(name(&call.queue_url)?, &change)
                .await?;
            changed.into_iter().collect::<Result<Vec<()>, _>>()?;
            write(&json!({}))
        }
        "ChangeMessageVisibilityBatch" => {
            let call: Batch<ChangeVisibility> = read(body)?;
            let (queue_url, ids, entries) = call.split()?;
            let changes: Vec<_> = (entries.into_iter())
                .map(|entry| {
                    (
                        entry.receipt_handle,
                        entry.visibility_timeout.unwrap_or_default(),
                    )
                })
                .collect();
            batch_answer(
                ids,
                sqs.change_visibility(name(&queue_url)?, &changes).await?,
            )
        }
        "CreateQueue" => {
            let call: CreateQueue = read(body)?;
            let url = sqs.create_queue(&call.queue_name, call.attributes).await?;
            write(&json!({ "QueueUrl": url }))
        }
        "GetQueueUrl" => {
            let call: GetQueueUrl = read(body)?;
            sqs.depth(&call.queue_name)?;
            write(&json!({ "QueueUrl": sqs.url(&call.queue_name) }))
        }
        "ListQueues" => {
            let call: ListQueues = read(body)?;
            let prefix = call.queue_name_prefix.unwrap_or_default();
            let names: Vec<_> = (sqs.state().queues.keys())
                .filter(|name| name.starts_with(&prefix))
                .map(|name| sqs.url(name))
                .collect();
            write(&json!({ "QueueUrls": names }))
        }
        "DeleteQueue" => {
            sqs.delete_queue(name(&read::<OfQueue>(body)?.queue_url)?)
                .await?;
            write(&json!({}))
        }
        "PurgeQueue" => {
            sqs.purge(name(&read::<OfQueue>(body)?.queue_url)?).await?;
            write(&json!({}))
        }
        "GetQueueAttributes" => get_attributes(sqs, read(body)?),
        "SetQueueAttributes" => {
            let call: SetAttributes = read(body)?;
            sqs.set_attributes(name(&call.queue_url)?, call.attributes)
                .await?;
            write(&json!({}))
        }
        "ListDeadLetterSourceQueues" => {
            let call: OfQueue = read(body)?;
            write(&json!({ "queueUrls": sqs.source_urls(name(&call.queue_url)?)? }))
        }
        "StartMessageMoveTask" => {
            let call: StartMove = read(body)?;
            let handle = sqs.start_move(
                &call.source_arn,
                call.destination_arn.as_deref(),
                call.max_number_of_messages_per_second,
            )?;
            write(&json!({ "TaskHandle": handle }))
        }
        "ListMessageMoveTasks" => list_moves(sqs, read(body)?),
        "CancelMessageMoveTask" => {
            let call: CancelMove = read(body)?;
            let moved = sqs.cancel_move(&call.task_handle)?;
            write(&json!({ "ApproximateNumberOfMessagesMoved": moved }))
        }
        _ => Err(SqsError::unknown_operation(
            "The action or operation requested is not kept here.",
        )),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    queue_url: String,
    #[serde(flatten)]
    message: NewMessage,
}

async fn send(sqs: &Sqs, call: Send) -> Result<Vec<u8>, SqsError> {
    let sums = Sums::of(&call.message);
    let sent = sqs.send(name(&call.queue_url)?, vec![call.message]).await?;
    let Some((_, sent)) = sent.into_iter().next() else {
        return Err(SqsError::internal("a sent message has no answer"));
    };
    let sent = sent?;
    write(&json!({
        "MessageId": sent.message_id,
        "SequenceNumber": sequence_number(sent.sequence),
        "MD5OfMessageBody": sums.body,
        "MD5OfMessageAttributes": sums.attributes,
    }))
}

struct Sums {
    body: String,
    attributes: Option<String>,
}

impl Sums {
    fn of(message: &NewMessage) -> Self {
        Self {
            body: md5_of_body(message.message_body.as_deref().unwrap_or_default()),
            attributes: md5_of_attributes(&message.message_attributes),
        }
    }
}

/// AWS's have 20 digits.
pub(crate) fn sequence_number(sequence: u64) -> String {
    format!("{sequence:0>20}")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    queue_url: String,
    #[serde(default = "Vec::new")]
    entries: Vec<T>,
}

trait Entry {
    fn id(&self) -> &str;
}

impl<T: Entry> Batch<T> {
    /// Checks a batch as a whole; answers the entries' ids beside them.
    fn split(self) -> Result<(String, Vec<String>, Vec<T>), SqsError> {
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

impl Entry for NewMessage {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    id: String,
    receipt_handle: String,
}

impl Entry for Delete {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeVisibility {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    id: String,
    receipt_handle: String,
    #[serde(default)]
    visibility_timeout: Option<i64>,
}

impl Entry for ChangeVisibility {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BatchAnswer {
    successful: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Value>,
}

impl BatchAnswer {
    fn fail(&mut self, id: &str, error: &SqsError) {
        self.failed.push(json!({
            "Id": id,
            "Code": error.code,
            "Message": error.message,
            "SenderFault": error.sender_fault,
        }));
    }
}

fn batch_answer(ids: Vec<String>, results: Vec<Result<(), SqsError>>) -> Result<Vec<u8>, SqsError> {
    let mut answer = BatchAnswer::default();
    for (id, result) in ids.into_iter().zip(results) {
        match result {
            Ok(()) => answer.successful.push(json!({ "Id": id })),
            Err(error) => answer.fail(&id, &error),
        }
    }
    write(&answer)
}

async fn send_batch(sqs: &Sqs, call: Batch<NewMessage>) -> Result<Vec<u8>, SqsError> {
    let (queue_url, _, entries) = call.split()?;
    let together: usize = entries.iter().map(NewMessage::bytes).sum();
    if together > MAX_BYTES {
        return Err(SqsError::batch_too_long(format!(
            "Batch requests cannot be longer than {MAX_BYTES} bytes. You have sent {together} bytes."
        )));
    }
    let sums: Vec<_> = entries.iter().map(Sums::of).collect();
    let mut answer = BatchAnswer::default();
    for ((id, sent), sums) in (sqs.send(name(&queue_url)?, entries).await?)
        .into_iter()
        .zip(sums)
    {
        match sent {
            Ok(sent) => answer.successful.push(json!({
                "Id": id,
                "MessageId": sent.message_id,
                "SequenceNumber": sequence_number(sent.sequence),
                "MD5OfMessageBody": sums.body,
                "MD5OfMessageAttributes": sums.attributes,
            })),
            Err(error) => answer.fail(&id, &error),
        }
    }
    write(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
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
    message_id: &'a str,
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
pub(crate) fn system_attributes(received: &Received) -> BTreeMap<&'static str, String> {
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

async fn receive(sqs: &Sqs, call: Receive) -> Result<Vec<u8>, SqsError> {
    let in_range = |name: &str, value: i64, range: std::ops::RangeInclusive<i64>| {
        if range.contains(&value) {
            return Ok(());
        }
        Err(SqsError::invalid_parameter(format!(
            "Value {value} for parameter {name} is invalid. Reason: Must be between {} and {}, if provided.",
            range.start(),
            range.end()
        )))
    };
    let limit = call.max_number_of_messages.unwrap_or(1);
    in_range("MaxNumberOfMessages", limit, 1..=10)?;
    in_range(
        "WaitTimeSeconds",
        call.wait_time_seconds.unwrap_or(0),
        0..=20,
    )?;
    in_range(
        "VisibilityTimeout",
        call.visibility_timeout.unwrap_or(0),
        0..=43_200,
    )?;
    let limit = usize::try_from(limit).unwrap_or(1);
    let received = sqs
        .receive(
            name(&call.queue_url)?,
            limit,
            call.visibility_timeout,
            call.wait_time_seconds,
            Consumer::Elsewhere,
        )
        .await?;
    let wanted_system = |name: &str| {
        (call
            .attribute_names
            .iter()
            .chain(&call.message_system_attribute_names))
        .any(|wanted| wanted == "All" || wanted == name)
    };
    let wanted = |name: &str| {
        call.message_attribute_names.iter().any(|wanted| {
            matches!(wanted.as_str(), "All" | ".*")
                || wanted == name
                || wanted
                    .strip_suffix(".*")
                    .is_some_and(|prefix| name.starts_with(prefix))
        })
    };
    let messages: Vec<_> = (received.iter())
        .map(|received| {
            let mut attributes = system_attributes(received);
            attributes.retain(|name, _| wanted_system(name));
            let message_attributes: BTreeMap<_, _> = (received.message.attributes.iter())
                .filter(|(name, _)| wanted(name))
                .collect();
            ReceivedMessage {
                message_id: &received.message.id,
                receipt_handle: &received.receipt_handle,
                md5_of_body: md5_of_body(&received.message.body),
                body: &received.message.body,
                attributes,
                md5_of_message_attributes: md5_of_attributes(
                    message_attributes
                        .iter()
                        .map(|(name, attribute)| (*name, *attribute)),
                ),
                message_attributes,
            }
        })
        .collect();
    if messages.is_empty() {
        return write(&json!({}));
    }
    write(&BTreeMap::from([("Messages", messages)]))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueUrl {
    queue_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueues {
    #[serde(default)]
    queue_name_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetAttributes {
    queue_url: String,
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

/// What `GetQueueAttributes` may be asked for (API Reference, `QueueAttributeName`).
const ATTRIBUTES: [&str; 22] = [
    "All",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "ContentBasedDeduplication",
    "CreatedTimestamp",
    "DeduplicationScope",
    "DelaySeconds",
    "FifoQueue",
    "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "LastModifiedTimestamp",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "Policy",
    "QueueArn",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
];

fn get_attributes(sqs: &Sqs, call: GetAttributes) -> Result<Vec<u8>, SqsError> {
    let name = name(&call.queue_url)?;
    let is_known = |wanted: &&String| ATTRIBUTES.contains(&wanted.as_str());
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
        ("VisibilityTimeout", settings.visibility.to_string()),
        ("MessageRetentionPeriod", settings.retention.to_string()),
        ("ReceiveMessageWaitTimeSeconds", settings.wait.to_string()),
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
        let redrive: &Redrive = redrive;
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

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StartMove {
    source_arn: String,
    #[serde(default)]
    destination_arn: Option<String>,
    #[serde(default)]
    max_number_of_messages_per_second: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListMoves {
    source_arn: String,
    #[serde(default)]
    max_results: Option<usize>,
}

fn list_moves(sqs: &Sqs, call: ListMoves) -> Result<Vec<u8>, SqsError> {
    let limit = call.max_results.unwrap_or(1);
    if !(1..=10).contains(&limit) {
        return Err(SqsError::invalid_parameter(
            "Value for parameter MaxResults is invalid. Reason: Must be between 1 and 10.",
        ));
    }
    let results: Vec<_> = (sqs.moves(&call.source_arn, limit)?.iter())
        .map(|task| {
            let mut result = json!({
                "Status": task.status.as_str(),
                "SourceArn": arn(&task.from),
                "ApproximateNumberOfMessagesMoved": task.moved,
                "ApproximateNumberOfMessagesToMove": task.to_move,
                "StartedTimestamp": task.started_at,
            });
            if task.status == super::moves::Status::Running {
                result["TaskHandle"] = json!(task.handle);
            }
            if let Some(to) = &task.to {
                result["DestinationArn"] = json!(arn(to));
            }
            if let Some(limit) = task.per_second {
                result["MaxNumberOfMessagesPerSecond"] = json!(limit);
            }
            result
        })
        .collect();
    write(&json!({ "Results": results }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CancelMove {
    task_handle: String,
}
