//! Translates a batch of the event source mapping, calls [`Deliver::batch`], and responds with the messages that failed.

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;

use aws_lambda_events::encodings::Base64Data;
use aws_lambda_events::sqs::SqsBatchResponse;
use futures::future::join_all;
use futures::join;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use protocol::clock::Clock;
use relay::aws::Clients;
use relay::config::{DeliverConfig, Deployment, Resources, Settings, environment, verify_access};
use relay::deliver::Deliver;
use relay::delivery::Delivery;
use relay::logging;
use relay::queue::{
    AttributeValue, DrainRequest, Heartbeat, Message, Queue, Received, Revocation, UnreadablePart,
};
use relay::table::Table;
use serde::Deserialize;

/// A batch of messages from the event source mapping, as far as a delivery is read from it.
///
/// Source: the Lambda Developer Guide, "Using Lambda with Amazon SQS".
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SqsBatch {
    /// The messages, of each group in their order.
    pub records: Vec<Record>,
}

/// SQS gives all of these to every message of a FIFO queue. Without one of them, the batch fails.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// SQS's id of the message.
    pub message_id: String,
    /// The receipt handle of this receive.
    pub receipt_handle: String,
    /// The text of the message.
    pub body: String,
    /// The system attributes.
    pub attributes: SystemAttributes,
    /// The message attributes by their names.
    #[serde(default)]
    pub message_attributes: BTreeMap<String, MessageAttribute>,
}

/// The system attributes of a message on a FIFO queue, as text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SystemAttributes {
    /// The message's group.
    pub message_group_id: String,
    /// Grows within the group.
    pub sequence_number: String,
    /// Milliseconds since the Unix epoch.
    pub sent_timestamp: String,
    /// How often it was received.
    pub approximate_receive_count: String,
}

/// A message attribute; none if it has no value that is read here.
#[derive(Debug, Deserialize)]
#[serde(from = "EventAttribute")]
pub struct MessageAttribute(pub Option<AttributeValue>);

/// A message attribute as Lambda writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventAttribute {
    string_value: Option<String>,
    binary_value: Option<Base64Data>,
}

impl From<EventAttribute> for MessageAttribute {
    fn from(attribute: EventAttribute) -> Self {
        Self(match attribute.binary_value {
            Some(packed) => Some(AttributeValue::Binary(packed.0.into())),
            None => attribute.string_value.map(AttributeValue::Text),
        })
    }
}

/// The settings that this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Deployment, DeliverConfig) {
    let deployment = Deployment::read(settings)
        .with_queue(settings)
        .with_dead_letters(settings);
    (deployment, DeliverConfig::read(settings))
}

/// Runs the function on Lambda, with the settings in the environment, until the process ends.
pub async fn run(clock: Clock) -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (deployment, config) = config(&mut settings);
    logging::json();
    let serve = async {
        let (deployment, config) = settings.finish((deployment, config))?;
        let clients = Clients::new(&deployment.aws);
        let deliver = start(clients, deployment.resources, config, clock).await?;
        lambda_runtime::run(service_fn(|event: LambdaEvent<_>| handle(&deliver, event))).await
    };
    logging::exit_code(serve.await)
}

/// Wires the function and verifies that its resources are accessible.
///
/// # Errors
///
/// A resource is not accessible, or the certificate authorities of this machine cannot be read.
pub async fn start(
    clients: Clients,
    resources: Resources,
    config: DeliverConfig,
    clock: Clock,
) -> Result<Deliver, Error> {
    let table = Table::new(clients.dynamodb, resources.table, clock.clone());
    let queue = Queue::new(clients.sqs.clone(), resources.queue);
    let dead_letters = Queue::new(clients.sqs, resources.dead_letters);
    let (table_access, queue_access, dead_letters_access) = join!(
        table.verify_access(),
        queue.verify_access(),
        dead_letters.verify_access()
    );
    verify_access([
        ("TABLE_NAME", table_access.map_err(Into::into)),
        ("QUEUE_URL", queue_access.map_err(Into::into)),
        ("DLQ_URL", dead_letters_access.map_err(Into::into)),
    ])?;
    Ok(Deliver::new(
        config,
        clients.network,
        table,
        queue,
        dead_letters,
        clock,
    )?)
}

/// Delivers one batch. A message that cannot be read is left to SQS's redrive policy.
///
/// # Errors
///
/// The workers of the batch could not be read. Lambda retries the whole batch.
pub async fn handle(
    deliver: &Deliver,
    event: LambdaEvent<SqsBatch>,
) -> Result<SqsBatchResponse, Error> {
    let mut response = SqsBatchResponse::default();
    let Batch {
        deliveries,
        revocations,
        drains,
        heartbeats,
    } = read(event.payload.records, &mut response);
    for heartbeat in heartbeats {
        deliver.measure(heartbeat);
    }
    // First, because nothing may be delivered to who has no access any more.
    for revocation in &revocations {
        if !deliver.revoke(revocation).await {
            response.add_failure(revocation.message_id.clone());
        }
    }
    let drains = drains.values().map(|request| async {
        let is_settled = deliver.drain(request).await;
        (!is_settled).then(|| request.message_id.clone())
    });
    // A drain may take as long as an invocation. What is delivered beside it does not wait for its end.
    let goes_on = drains.len() > 0;
    let (delivered, unsettled) = join!(deliver.batch(&deliveries, goes_on), join_all(drains));
    for id in unsettled.into_iter().flatten() {
        response.add_failure(id);
    }
    match delivered {
        Ok(failed) => failed.into_iter().for_each(|id| response.add_failure(id)),
        Err(error) => {
            let error = relay::Error::from(error);
            tracing::error!(error = error.chain(), "a batch could not be processed");
            return Err(error.into());
        }
    }
    Ok(response)
}

/// The messages of a batch, by what they are.
#[derive(Default)]
struct Batch {
    deliveries: Vec<Delivery>,
    revocations: Vec<Revocation>,
    /// One for each worker.
    drains: BTreeMap<String, DrainRequest>,
    heartbeats: Vec<Heartbeat>,
}

/// Reads a batch. What cannot be read has failed.
fn read(records: Vec<Record>, response: &mut SqsBatchResponse) -> Batch {
    let mut batch = Batch {
        deliveries: Vec::with_capacity(records.len()),
        ..Batch::default()
    };
    let mut blocked = HashSet::new();
    for record in records {
        let (message_id, group) = (
            record.message_id.clone(),
            record.attributes.message_group_id.clone(),
        );
        if blocked.contains(&group) {
            // A message in the same group cannot be read, and nothing may overtake it.
            response.add_failure(message_id);
            continue;
        }
        match parse(record) {
            Ok(Received::Delivery(delivery)) => batch.deliveries.push(delivery),
            Ok(Received::Revocation(revocation)) => batch.revocations.push(revocation),
            // One drain of a worker is enough, and the others are acknowledged. It is the newest: it may have replaced an
            // older one, which could then not be replaced again.
            Ok(Received::Drain(request)) => drop(batch.drains.insert(group, request)),
            Ok(Received::Heartbeat(heartbeat)) => batch.heartbeats.push(heartbeat),
            Err(UnreadablePart(part)) => {
                tracing::error!(
                    message_id,
                    part,
                    "message {message_id} has no readable `{part}`"
                );
                response.add_failure(message_id);
                blocked.insert(group);
            }
        }
    }
    batch
}

fn parse(record: Record) -> Result<Received, UnreadablePart> {
    let mut attributes = record.message_attributes;
    let message = Message {
        id: record.message_id,
        receipt_handle: record.receipt_handle,
        body: record.body,
        group: record.attributes.message_group_id,
        sequence: record.attributes.sequence_number,
        sent_at: record.attributes.sent_timestamp,
        received: record.attributes.approximate_receive_count,
    };
    Received::parse(message, |name| attributes.remove(name)?.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_two_requests_to_drain_a_mailbox_the_newer_is_carried_out() {
        let record = |id: &str, worker: &str| {
            let text = |value: &str| json!({"stringValue": value, "dataType": "String"});
            json!({
                "messageId": id, "receiptHandle": id, "body": "-",
                "attributes": {
                    "MessageGroupId": worker, "SequenceNumber": "1", "SentTimestamp": "1",
                    "ApproximateReceiveCount": "1",
                },
                "messageAttributes": {
                    "drain": text("1"), "workspace": text("w"), "worker": text(worker),
                },
            })
        };
        let batch =
            json!({"Records": [record("old", "a"), record("other", "b"), record("new", "a")]});
        let batch: SqsBatch = serde_json::from_value(batch).unwrap();
        let mut response = SqsBatchResponse::default();
        let read = read(batch.records, &mut response);
        let ids: Vec<_> = read
            .drains
            .values()
            .map(|d| d.message_id.as_str())
            .collect();
        assert_eq!(ids, ["new", "other"]);
        assert!(read.deliveries.is_empty() && response.batch_item_failures.is_empty());
    }
}
