//! A batch from the queue in, [`Deliver::batch`], the partial batch answer out.

use std::collections::{BTreeMap, HashSet};

use aws_lambda_events::sqs::SqsBatchResponse;
use futures::join;
use lambda_runtime::{Error, LambdaEvent};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{ConfigError, DeliverConfig, Places, Settings, Uses, usable};
use relay::deliver::Deliver;
use relay::queue::{Delivery, Message, Queue};
use relay::table::Table;
use serde::Deserialize;

/// A batch of messages, as the event source mapping hands it over: what of it a delivery is read from.
///
/// Source: the Lambda Developer Guide, "Using Lambda with Amazon SQS".
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Batch {
    records: Vec<Record>,
}

/// SQS gives all of these to every message of a FIFO queue, whoever sent it: without one of them the batch fails.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    receipt_handle: String,
    body: String,
    attributes: SystemAttributes,
    #[serde(default)]
    message_attributes: BTreeMap<String, MessageAttribute>,
}

/// Those that SQS itself gives to a message of a FIFO queue.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SystemAttributes {
    message_group_id: String,
    sequence_number: String,
    sent_timestamp: String,
    approximate_receive_count: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageAttribute {
    string_value: Option<String>,
}

/// What this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Places, DeliverConfig) {
    let uses = Uses {
        queue: true,
        dead_letters: true,
        ..Uses::default()
    };
    (Places::read(settings, uses), DeliverConfig::read(settings))
}

/// Everything that a batch needs, once it is known to be usable.
pub async fn start(places: Places, config: DeliverConfig) -> Result<Deliver, Error> {
    let clients = Clients::new(&places.aws);
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    let queue = Queue::new(clients.sqs.clone(), places.queue);
    let dead_letters = Queue::new(clients.sqs, places.dead_letters);
    check(&table, &queue, &dead_letters).await?;
    Ok(Deliver::new(config, table, queue, dead_letters, clock)?)
}

/// Whether everything can be used.
pub async fn check(table: &Table, queue: &Queue, dead_letters: &Queue) -> Result<(), ConfigError> {
    let (table, queue, dead_letters) = join!(table.check(), queue.check(), dead_letters.check());
    usable([
        ("TABLE_NAME", table),
        ("QUEUE_URL", queue),
        ("DLQ_URL", dead_letters),
    ])
}

/// Delivers one batch; what cannot be read is left to SQS's own redrive.
pub async fn handle(
    deliver: &Deliver,
    event: LambdaEvent<Batch>,
) -> Result<SqsBatchResponse, Error> {
    let mut response = SqsBatchResponse::default();
    let mut deliveries = Vec::with_capacity(event.payload.records.len());
    let mut blocked = HashSet::new();
    for record in event.payload.records {
        if blocked.contains(&record.attributes.message_group_id) {
            // Nothing overtakes in its group.
            response.add_failure(record.message_id);
            continue;
        }
        let (message_id, group) = (
            record.message_id.clone(),
            record.attributes.message_group_id.clone(),
        );
        match read(record) {
            Ok(delivery) => deliveries.push(delivery),
            Err(part) => {
                tracing::error!(message_id, part, "a message cannot be read");
                response.add_failure(message_id);
                blocked.insert(group);
            }
        }
    }
    match deliver.batch(&deliveries).await {
        Ok(failed) => failed.into_iter().for_each(|id| response.add_failure(id)),
        Err(error) => {
            tracing::error!(error = error.chain(), "a batch could not be begun");
            return Err(error.into());
        }
    }
    Ok(response)
}

fn read(record: Record) -> Result<Delivery, &'static str> {
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
    Delivery::read(message, |name| attributes.remove(name)?.string_value)
}
