//! A batch from the queue in, [`Deliver::batch`], the partial batch answer out.

use std::collections::HashSet;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures::join;
use lambda_runtime::{Error, LambdaEvent};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{ConfigError, DeliverConfig, Places, Settings, Uses, usable};
use relay::deliver::Deliver;
use relay::queue::{Delivery, Message, Queue};
use relay::table::Table;

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
    event: LambdaEvent<SqsEvent>,
) -> Result<SqsBatchResponse, Error> {
    let mut response = SqsBatchResponse::default();
    let mut deliveries = Vec::with_capacity(event.payload.records.len());
    let mut blocked = HashSet::new();
    for record in event.payload.records {
        let message_id = record.message_id.clone().unwrap_or_default();
        let group = record.attributes.get("MessageGroupId").cloned();
        if blocked.contains(&group) {
            // Nothing overtakes in its group.
            response.add_failure(message_id);
            continue;
        }
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

fn read(mut record: SqsMessage) -> Result<Delivery, &'static str> {
    let body = record.body.take().ok_or("body")?;
    let system = |name: &'static str| record.attributes.get(name).map(String::as_str).ok_or(name);
    let message = Message {
        id: record.message_id.as_deref().ok_or("messageId")?,
        receipt_handle: record.receipt_handle.as_deref().ok_or("receiptHandle")?,
        body,
        group: system("MessageGroupId")?,
        sequence: system("SequenceNumber")?,
        sent_at: system("SentTimestamp")?,
        received: system("ApproximateReceiveCount")?,
    };
    Delivery::read(message, |name| {
        record.message_attributes.get(name)?.string_value.as_deref()
    })
}
