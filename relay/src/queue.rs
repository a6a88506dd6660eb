//! SQS: the FIFO queue of deliveries and its dead-letter queue.

#[cfg(test)]
mod fuzz;
mod letters;
mod message;

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
    DeleteMessageBatchRequestEntry, QueueAttributeName,
};
use backon::{ExponentialBuilder, RetryableWithContext as _};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::clock::UnixMillis;

pub use letters::DeadLetter;
pub use message::{
    AttributeValue, DrainRequest, Heartbeat, Message, OutgoingEvent, Received, Recipient,
    Revocation, UnreadablePart,
};

use crate::cause::{Cause, chain};
use crate::delivery::{Body, DeadLetterReason, Delivery};
use crate::event::Event;
pub use crate::transport::BATCH_SIZE;
use crate::worker::Worker;

/// How many batches of one event are sent at the same time.
const CONCURRENT_BATCHES: usize = 16;

/// Why a queue could not be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// SQS refused or failed a call.
    #[error("could not {operation}; try again")]
    Call {
        /// What could not be done.
        operation: &'static str,
        /// Why.
        source: Cause,
    },
    /// SQS refused a message of a batch.
    #[error("could not {operation}: SQS refused a message ({code}); try again")]
    Refused {
        /// What could not be done.
        operation: &'static str,
        /// SQS's error code.
        code: String,
        /// Whether SQS would refuse the same message again.
        is_final: bool,
    },
    /// The queue is a standard queue.
    #[error("the queue is not a FIFO queue")]
    NotFifo,
}

impl QueueError {
    fn call(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Call {
            operation,
            source: source.into(),
        }
    }
}

/// A queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// Logs what went wrong with a batch or with some of its entries, and what follows.
fn warn_of(
    failed: Result<Vec<BatchResultErrorEntry>, &dyn std::error::Error>,
    consequence: &'static str,
) {
    let error = match failed {
        Ok(failed) if failed.is_empty() => return,
        Ok(failed) => {
            let codes: Vec<_> = failed.into_iter().map(|entry| entry.code).collect();
            codes.join(", ")
        }
        Err(error) => chain(error),
    };
    tracing::warn!(error, "{consequence}");
}

impl Queue {
    /// The queue at this URL.
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    /// Verifies that the queue exists, may be used, and is a FIFO queue.
    ///
    /// # Errors
    ///
    /// SQS refused to read its attributes, or it is a standard queue.
    pub async fn verify_access(&self) -> Result<(), QueueError> {
        let attributes = (self.client.get_queue_attributes())
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::FifoQueue)
            .send()
            .await
            .map_err(|e| QueueError::call("read the queue's attributes", e))?;
        let fifo =
            (attributes.attributes).and_then(|mut a| a.remove(&QueueAttributeName::FifoQueue));
        match fifo.as_deref() {
            Some("true") => Ok(()),
            _ => Err(QueueError::NotFifo),
        }
    }

    /// Puts one message for each worker on the queue. Returns only after all of them are there.
    pub(crate) async fn send(
        &self,
        event: &Event,
        body: &Body,
        recipients: &[Recipient],
    ) -> Result<(), QueueError> {
        let outgoing = &OutgoingEvent::new(event, body);
        let batches: Vec<_> = (recipients.chunks(BATCH_SIZE))
            .map(<[Recipient]>::to_vec)
            .collect();
        stream::iter(batches)
            .map(|recipients| async move { self.send_batch(outgoing, &recipients).await })
            .buffer_unordered(CONCURRENT_BATCHES)
            .try_collect()
            .await
    }

    /// Sends a message for each worker, and again those that SQS refused.
    async fn send_batch(
        &self,
        outgoing: &OutgoingEvent<'_>,
        recipients: &[Recipient],
    ) -> Result<(), QueueError> {
        let operation = "put the event on the queue";
        let send = |left: Vec<usize>| async {
            let entries = left.iter().map(|at| outgoing.entry(&recipients[*at], *at));
            let sent = (self.client.send_message_batch())
                .queue_url(&self.url)
                .set_entries(Some(entries.collect()))
                .send()
                .await;
            let failed = match sent {
                Ok(sent) => sent.failed,
                Err(error) => return (left, Err(QueueError::call(operation, error))),
            };
            let Some(first) = failed.first() else {
                return (left, Ok(()));
            };
            let refused = QueueError::Refused {
                operation,
                code: first.code.clone(),
                is_final: failed.iter().any(|entry| entry.sender_fault),
            };
            let left = (failed.iter())
                .filter_map(|entry| entry.id.parse().ok())
                .filter(|at| *at < recipients.len())
                .collect();
            (left, Err(refused))
        };
        let backoff = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_times(3)
            .with_jitter();
        let (_, sent) = send
            .retry(backoff)
            .context((0..recipients.len()).collect())
            .when(|error| {
                matches!(
                    error,
                    QueueError::Refused {
                        is_final: false,
                        ..
                    }
                )
            })
            .await;
        sent
    }

    /// Puts a delivery with its reason on this dead-letter queue.
    pub(crate) async fn dead_letter(
        &self,
        delivery: &Delivery,
        reason: &DeadLetterReason,
    ) -> Result<(), QueueError> {
        let call = self.client.send_message().queue_url(&self.url);
        match message::dead_letter(call, delivery, reason).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let operation = "put the event on the dead-letter queue";
                Err(QueueError::call(operation, error))
            }
        }
    }

    /// Puts a message on the queue that has a worker removed, because the access of its user has ended by this event.
    pub(crate) async fn revoke(
        &self,
        event: &Event,
        worker: &str,
        ended_at: UnixMillis,
    ) -> Result<(), QueueError> {
        let call = self.client.send_message().queue_url(&self.url);
        match (message::revocation(call, event, worker, ended_at).send()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(QueueError::call("have a worker removed", error)),
        }
    }

    /// Puts a request on the queue to drain the mailbox of a worker that is away, once for each time that it is.
    pub(crate) async fn request_drain(
        &self,
        worker: &Worker,
        due_at: UnixMillis,
    ) -> Result<(), QueueError> {
        let since = worker.away_since.unwrap_or_default();
        (self.send_drain(&worker.workspace, &worker.id, &since.to_string(), due_at)).await
    }

    /// Puts a request on the queue that goes on with a drain.
    pub(crate) async fn continue_drain(
        &self,
        request: &DrainRequest,
        due_at: UnixMillis,
    ) -> Result<(), QueueError> {
        let DrainRequest {
            workspace, worker, ..
        } = request;
        (self.send_drain(workspace, worker, &request.message_id, due_at)).await
    }

    /// Puts a heartbeat on the queue.
    pub(crate) async fn send_heartbeat(&self, now: UnixMillis) -> Result<(), QueueError> {
        let call = self.client.send_message().queue_url(&self.url);
        match message::heartbeat(call, now).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(QueueError::call("send a heartbeat", error)),
        }
    }

    async fn send_drain(
        &self,
        workspace: &str,
        worker: &str,
        unique: &str,
        due_at: UnixMillis,
    ) -> Result<(), QueueError> {
        let call = self.client.send_message().queue_url(&self.url);
        let call = message::drain(call, workspace, worker, unique, due_at);
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(QueueError::call("request to drain a mailbox", error)),
        }
    }

    /// Makes messages visible again after a wait, each by its receipt handle. If that fails, they become visible after the
    /// queue's visibility timeout.
    pub(crate) async fn return_after(&self, waits: &[(String, Duration)]) {
        for waits in waits.chunks(BATCH_SIZE) {
            let entries = (waits.iter().enumerate())
                .map(|(at, (receipt_handle, wait))| {
                    ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(at.to_string())
                        .receipt_handle(receipt_handle)
                        .visibility_timeout(i32::try_from(wait.as_secs()).unwrap_or(i32::MAX))
                        .build()
                        .expect("an id and a receipt handle are given")
                })
                .collect();
            let changed = (self.client.change_message_visibility_batch())
                .queue_url(&self.url)
                .set_entries(Some(entries))
                .send()
                .await;
            warn_of(
                changed
                    .as_ref()
                    .map(|c| c.failed.clone())
                    .map_err(|e| e as _),
                "messages return to the queue after its visibility timeout, not after their backoff",
            );
        }
    }

    /// Deletes messages by their receipt handles. If that fails, they are received once more.
    pub(crate) async fn delete(&self, receipt_handles: &[String]) {
        for receipt_handles in receipt_handles.chunks(BATCH_SIZE) {
            let entries = (receipt_handles.iter().enumerate())
                .map(|(at, receipt_handle)| {
                    DeleteMessageBatchRequestEntry::builder()
                        .id(at.to_string())
                        .receipt_handle(receipt_handle)
                        .build()
                        .expect("an id and a receipt handle are given")
                })
                .collect();
            let deleted = (self.client.delete_message_batch())
                .queue_url(&self.url)
                .set_entries(Some(entries))
                .send()
                .await;
            warn_of(
                deleted
                    .as_ref()
                    .map(|d| d.failed.clone())
                    .map_err(|e| e as _),
                "acknowledged messages could not be deleted and will be received once more",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_types::body::SdkBody;
    use bytes::Bytes;

    use super::*;
    use crate::event::EventId;

    /// An HTTP client that answers one call after another with these bodies and records the requests.
    #[derive(Debug, Clone)]
    struct Scripted {
        answers: Arc<Mutex<Vec<&'static str>>>,
        sent: Arc<Mutex<Vec<serde_json::Value>>>,
    }

    impl HttpConnector for Scripted {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let body = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            self.sent.lock().unwrap().push(body);
            let answer = self.answers.lock().unwrap().remove(0);
            let answer = http::Response::new(SdkBody::from(answer));
            HttpConnectorFuture::ready(Ok(answer.try_into().unwrap()))
        }
    }

    /// Sends an event to three workers and returns the ids of each call's entries.
    async fn sent_with(answers: &[&'static str]) -> (Result<(), QueueError>, Vec<Vec<String>>) {
        let scripted = Scripted {
            answers: Arc::new(Mutex::new(answers.to_vec())),
            sent: Arc::default(),
        };
        let connector = SharedHttpConnector::new(scripted.clone());
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        let queue = Queue::new(Client::from_conf(config), "http://queue/".to_owned());
        let body = Bytes::from("{}");
        let event = Event {
            audience: protocol::envelope::Audience::default(),
            ended: None,
            is_bound: false,
            sent_at: 0,
            id: EventId::from_delivery("x").unwrap(),
            workspace: "w".to_owned(),
            kind: "T".to_owned(),
            action: String::new(),
            ordering_key: "k".to_owned(),
            body: body.clone(),
            digest: String::new(),
        };
        let recipients = ["a", "b", "c"].map(|worker| Recipient {
            worker: worker.to_owned(),
            is_withheld: false,
            is_by_team: true,
            group: None,
        });
        let done = queue.send(&event, &Body::Inline(body), &recipients).await;
        let sent = scripted.sent.lock().unwrap();
        let ids = sent.iter().map(|call| {
            let entries = call["Entries"].as_array().unwrap();
            entries
                .iter()
                .map(|e| e["Id"].as_str().unwrap().to_owned())
                .collect()
        });
        (done, ids.collect())
    }

    const ALL: &str = r#"{"Successful":[]}"#;
    const NOT_1_AND_2: &str = r#"{"Successful":[],"Failed":[{"Id":"1","Code":"InternalError","SenderFault":false},{"Id":"2","Code":"InternalError","SenderFault":false}]}"#;
    const NOT_0: &str = r#"{"Successful":[],"Failed":[{"Id":"0","Code":"InvalidMessageContents","SenderFault":true}]}"#;

    #[tokio::test]
    async fn only_refused_messages_of_a_batch_are_sent_again() {
        let (done, calls) = sent_with(&[NOT_1_AND_2, ALL]).await;
        assert!(done.is_ok());
        assert_eq!(calls, [vec!["0", "1", "2"], vec!["1", "2"]]);
    }

    #[tokio::test]
    async fn a_message_that_stays_refused_is_an_error_and_a_final_refusal_is_not_retried() {
        let (done, calls) = sent_with(&[NOT_1_AND_2; 4]).await;
        assert!(matches!(
            done,
            Err(QueueError::Refused {
                is_final: false,
                ..
            })
        ));
        assert_eq!(calls.len(), 4);
        let (done, calls) = sent_with(&[NOT_0]).await;
        assert!(matches!(
            done,
            Err(QueueError::Refused { is_final: true, .. })
        ));
        assert_eq!(calls.len(), 1);
    }
}
