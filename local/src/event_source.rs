//! Stands in for the event source mapping between the queue and `deliver`: long polling, batches of ten, concurrent
//! invocations, partial batch responses.
//!
//! Source: the Lambda Developer Guide, "Using Lambda with Amazon SQS". Invariant: a message is deleted only if
//! the function responded and did not name it. After an error, the batch returns after its visibility timeout.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use deliver::{SqsBatch, handle};
use lambda_runtime::{Context, LambdaEvent};
use relay::deliver::Deliver;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::sqs::wire::system_attributes;
use crate::sqs::{Consumer, Received, Sqs, SqsError};
use crate::testing::calls::Calls;

const BATCH_SIZE: usize = 10;
/// How many invocations are concurrent. A worker that stalls must not delay the others.
const CONCURRENCY: u32 = 512;
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
    while !shutdown.is_cancelled() {
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else {
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
        let carried = received.iter().flatten().map(|r| r.message.body.len());
        calls.record_payload(carried.sum());
        let received = match received {
            Ok(received) if received.is_empty() => continue,
            Ok(received) => received,
            Err(error) => {
                tracing::error!(%error, queue, "the queue cannot be polled");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        let (sqs, deliver, calls) = (sqs.clone(), Arc::clone(&deliver), calls.clone());
        tokio::spawn(async move {
            if let Err(error) = invoke(&sqs, queue, &deliver, &calls, received).await {
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
        let deleted = sqs.delete(queue, &done).await?;
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
    let event = serde_json::to_vec(&SqsEvent { records })?;
    let event: SqsBatch = serde_json::from_slice(&event)?;
    let answer = handle(deliver, LambdaEvent::new(event, Context::default())).await?;
    let failed: HashSet<_> = (answer.batch_item_failures.into_iter())
        .map(|failure| failure.item_identifier)
        .collect();
    Ok((received.into_iter())
        .filter(|received| !failed.contains(&received.message.id))
        .map(|received| received.receipt_handle)
        .collect())
}

/// The event of the mapping.
#[derive(Serialize)]
struct SqsEvent<'a> {
    #[serde(rename = "Records")]
    records: Vec<Record<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    message_id: &'a str,
    receipt_handle: &'a str,
    body: &'a str,
    attributes: BTreeMap<&'static str, String>,
    message_attributes: BTreeMap<&'a str, MessageAttribute<'a>>,
    event_source: &'static str,
    aws_region: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageAttribute<'a> {
    data_type: &'a str,
    string_value: Option<&'a str>,
    binary_value: Option<&'a str>,
    string_list_values: [(); 0],
    binary_list_values: [(); 0],
}

fn record(received: &Received) -> Record<'_> {
    let message = &received.message;
    let attributes = message.attributes.iter().map(|(name, attribute)| {
        let attribute = MessageAttribute {
            data_type: &attribute.data_type,
            string_value: attribute.string_value.as_deref(),
            binary_value: attribute.binary_value.as_deref(),
            string_list_values: [],
            binary_list_values: [],
        };
        (name.as_str(), attribute)
    });
    Record {
        message_id: &message.id,
        receipt_handle: &received.receipt_handle,
        body: &message.body,
        attributes: system_attributes(received),
        message_attributes: attributes.collect(),
        event_source: "aws:sqs",
        aws_region: "us-east-1",
    }
}
