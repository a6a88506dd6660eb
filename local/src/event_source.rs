//! Stands in for the event source mapping between the queue and `deliver`: long polling, batches of ten, concurrent
//! invocations, partial batch responses.
//!
//! Source: the Lambda Developer Guide, "Using Lambda with Amazon SQS". Invariant: a message is deleted only if
//! the function responded and did not name it. After an error, the batch returns after its visibility timeout.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use deliver::{MessageAttribute, Record, SqsBatch, SystemAttributes, handle};
use lambda_runtime::{Context, LambdaEvent};
use relay::deliver::Deliver;
use relay::queue::AttributeValue;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sqs::wire::sequence_number;
use crate::sqs::{Attribute, Consumer, Received, Sqs, SqsError};
use crate::testing::calls::Calls;

const BATCH_SIZE: usize = 10;
/// How many invocations are concurrent. A worker that stalls must not delay the others.
const CONCURRENCY: u32 = 512;
/// How many invocations run before the next receive waits. Meanwhile messages gather for a batch: it costs less than one for each.
const BUSY: usize = 8;
/// An invocation that takes longer than this does not count: it waits for a slow worker, which must not delay the others.
const STALLS_AFTER: Duration = Duration::from_millis(20);
/// The longest long poll of SQS.
const WAIT_SECONDS: i64 = 20;

/// Polls until the shutdown, then waits for the invocations that are running.
pub(crate) async fn run(
    sqs: Sqs,
    queue: &'static str,
    deliver: Arc<Deliver>,
    calls: Calls,
    shutdown: CancellationToken,
) {
    let in_flight = Arc::new(Semaphore::new(CONCURRENCY as usize));
    let busy = Arc::new(Semaphore::new(BUSY));
    while !shutdown.is_cancelled() {
        let began = calls.began();
        let permits = (
            Arc::clone(&in_flight).acquire_owned(),
            Arc::clone(&busy).acquire_owned(),
        );
        let (Ok(permit), Ok(busy)) = (permits.0.await, permits.1.await) else {
            break;
        };
        let received = tokio::select! {
            received = sqs.receive(queue, BATCH_SIZE, None, Some(WAIT_SECONDS), Consumer::Here) => received,
            () = shutdown.cancelled() => break,
        };
        calls.record(
            "deliver",
            "AmazonSQS.ReceiveMessage",
            &queue_url(&sqs, queue),
        );
        calls.ended("deliver", "AmazonSQS.ReceiveMessage", began);
        let carried = received.iter().flatten().map(|r| r.message.bytes());
        calls.record_payload(carried.sum());
        let received = match received {
            Ok(received) if received.is_empty() => continue,
            Ok(received) => received,
            Err(error) => {
                tracing::error!(%error, queue, "the queue cannot be polled");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (sqs, deliver, calls) = (sqs.clone(), Arc::clone(&deliver), calls.clone());
        tokio::spawn(async move {
            let mut invocation = pin!(invoke(&sqs, queue, &deliver, &calls, received));
            let done = tokio::time::timeout(STALLS_AFTER, &mut invocation).await;
            drop(busy);
            let done = match done {
                Ok(done) => done,
                Err(_) => invocation.await,
            };
            if let Err(error) = done {
                tracing::error!(%error, "an invocation failed: its batch returns after the visibility timeout");
            }
            drop(permit);
        });
    }
    // Each running invocation holds a permit.
    let _ = in_flight.acquire_many(CONCURRENCY).await;
}

/// The part of a request that names its queue.
fn queue_url(sqs: &Sqs, queue: &str) -> Vec<u8> {
    json!({"QueueUrl": sqs.url(queue)}).to_string().into_bytes()
}

async fn invoke(
    sqs: &Sqs,
    queue: &str,
    deliver: &Deliver,
    calls: &Calls,
    received: Vec<Received>,
) -> Result<(), lambda_runtime::Error> {
    let done = process(deliver, received).await?;
    if !done.is_empty() {
        calls.record(
            "deliver",
            "AmazonSQS.DeleteMessageBatch",
            &queue_url(sqs, queue),
        );
        calls.record_payload(0);
        let began = calls.began();
        let deleted = sqs.delete_soon(queue, &done)?;
        calls.ended("deliver", "AmazonSQS.DeleteMessageBatch", began);
        deleted.into_iter().collect::<Result<Vec<()>, SqsError>>()?;
    }
    Ok(())
}

/// Invokes `deliver` with a batch. Returns the handles of the messages that are done.
pub(crate) async fn process(
    deliver: &Deliver,
    received: Vec<Received>,
) -> Result<Vec<String>, lambda_runtime::Error> {
    let records = received.iter().map(record).collect();
    let event = SqsBatch { records };
    let answer = handle(deliver, LambdaEvent::new(event, Context::default())).await?;
    let failed: HashSet<Uuid> = (answer.batch_item_failures.iter())
        .filter_map(|failure| failure.item_identifier.parse().ok())
        .collect();
    Ok((received.into_iter())
        .filter(|received| !failed.contains(&received.message.id))
        .map(|received| received.receipt_handle)
        .collect())
}

/// A message as the mapping passes it on. No JSON is written and read again for it within one process.
fn record(received: &Received) -> Record {
    let message = &received.message;
    let attributes = message.attributes.iter();
    Record {
        message_id: message.id.to_string(),
        receipt_handle: received.receipt_handle.clone(),
        body: message.body.to_string(),
        attributes: SystemAttributes {
            message_group_id: message.group.clone(),
            sequence_number: sequence_number(received.sequence),
            sent_timestamp: message.sent_at.to_string(),
            approximate_receive_count: message.received.to_string(),
        },
        message_attributes: attributes
            .map(|(name, attribute)| (name.clone(), MessageAttribute(value(attribute))))
            .collect(),
    }
}

fn value(attribute: &Attribute) -> Option<AttributeValue> {
    match &attribute.binary_value {
        Some(binary) => Some(AttributeValue::Binary(BASE64.decode(binary).ok()?.into())),
        None => (attribute.string_value.clone()).map(AttributeValue::Text),
    }
}
