//! SQS: the FIFO queue of deliveries and its dead-letter queue.
//!
//! One message is one delivery: the event's raw body, and beside it in attributes what the relay must know.
//! Invariant: what `send` wrote, [`Delivery::read`] reads back, body bytes included.

use std::borrow::Cow;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use memchr::memmem;

use crate::Error;
use crate::clock::rfc3339;
use crate::event::{Event, EventId};

/// The largest body that travels in the message; a larger one is stored in the table.
pub const INLINE_LIMIT: usize = 60 * 1024;

/// How many messages a batch call takes (SQS).
pub const BATCH: usize = 10;

/// How many batches of one event are under way at once.
const SIDE_BY_SIDE: usize = 16;
/// How often entries that SQS refused in a batch are sent again.
const TRIES: u32 = 3;

mod attribute {
    pub(super) const EVENT: &str = "event";
    pub(super) const WORKSPACE: &str = "workspace";
    pub(super) const WORKER: &str = "worker";
    pub(super) const TYPE: &str = "type";
    pub(super) const ACTION: &str = "action";
    pub(super) const BODY: &str = "body";
    pub(super) const REASON: &str = "reason";
    pub(super) const LAST_STATUS: &str = "lastStatus";
    pub(super) const FIRST_ATTEMPT: &str = "firstAttempt";
    pub(super) const LAST_ATTEMPT: &str = "lastAttempt";
}

/// How a body travels in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// As it is, or in base64 where SQS forbids one of its characters.
    Inline(Bytes),
    /// In the table, under this digest.
    Stored(String),
}

/// SQS takes `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF` (SendMessage, API reference).
fn is_allowed(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Without an early end: compared many at once.
    let has_control = (bytes.iter()).fold(false, |found, b| {
        found | (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r'))
    });
    let has = |character: &str| memmem::find(bytes, character.as_bytes()).is_some();
    !(has_control || has("\u{fffe}") || has("\u{ffff}"))
}

impl Body {
    /// The word in the message's `body` attribute, and the message's body.
    fn written(&self) -> (&'static str, Cow<'_, str>) {
        match self {
            Self::Stored(digest) => ("stored", digest.into()),
            Self::Inline(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if is_allowed(text) => ("raw", text.into()),
                _ => ("base64", BASE64.encode(bytes).into()),
            },
        }
    }

    fn read(encoding: &str, text: String) -> Option<Self> {
        match encoding {
            "raw" => Some(Self::Inline(text.into())),
            "base64" => BASE64
                .decode(text)
                .ok()
                .map(|bytes| Self::Inline(bytes.into())),
            "stored" => Some(Self::Stored(text)),
            _ => None,
        }
    }
}

/// An event on its way to one worker, as it came from the queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// SQS's id of the message: names it in a partial batch answer.
    pub message_id: String,
    /// For this receive alone.
    pub receipt_handle: String,
    /// FIFO: worker and ordering key.
    pub group: String,
    /// FIFO: grows within a group.
    pub sequence: String,
    /// When it was put on the queue, Unix milliseconds.
    pub sent_at: i64,
    /// Whether it may have been tried before: it was received before, or came back from the dead-letter queue.
    pub may_be_tried: bool,
    /// The event.
    pub event: EventId,
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The worker it goes to.
    pub worker: String,
    /// The event's type.
    pub kind: String,
    /// The event's action; may be empty.
    pub action: String,
    /// The event's body, or where it is.
    pub body: Body,
}

/// A message as the event source mapping hands it over, its own attributes aside.
#[derive(Debug)]
pub struct Message {
    /// SQS's id of the message.
    pub id: String,
    /// For this receive alone.
    pub receipt_handle: String,
    /// The message's body.
    pub body: String,
    /// `MessageGroupId`
    pub group: String,
    /// `SequenceNumber`
    pub sequence: String,
    /// `SentTimestamp`
    pub sent_at: String,
    /// `ApproximateReceiveCount`
    pub received: String,
}

impl Delivery {
    /// Reads a message, or says which part of it cannot be read; `take` takes a message attribute by its name.
    pub fn read(
        message: Message,
        mut take: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, &'static str> {
        let mut text = |name: &'static str| take(name).ok_or(name);
        let event = EventId::parse(&text(attribute::EVENT)?).ok_or(attribute::EVENT)?;
        let encoding = text(attribute::BODY)?;
        Ok(Self {
            message_id: message.id,
            receipt_handle: message.receipt_handle,
            group: message.group,
            sequence: message.sequence,
            sent_at: message.sent_at.parse().map_err(|_| "SentTimestamp")?,
            may_be_tried: message.received != "1" || text(attribute::REASON).is_ok(),
            event,
            workspace: text(attribute::WORKSPACE)?,
            worker: text(attribute::WORKER)?,
            kind: text(attribute::TYPE)?,
            action: text(attribute::ACTION).unwrap_or_default(),
            body: Body::read(&encoding, message.body).ok_or(attribute::BODY)?,
        })
    }
}

/// Why a delivery was given up.
#[derive(Debug, Clone)]
pub struct Reason {
    /// In words.
    pub text: String,
    /// The last status, if the worker answered.
    pub status: Option<u16>,
    /// Unix milliseconds.
    pub first_attempt: i64,
    /// Unix milliseconds.
    pub last_attempt: i64,
}

/// A queue, by its address.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

fn string(value: impl Into<String>) -> MessageAttributeValue {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
        .expect("a data type is given")
}

/// What went wrong with a batch or with some of its entries, for the log.
fn trouble(failed: Result<Vec<String>, Error>) -> Option<String> {
    match failed {
        Ok(codes) if codes.is_empty() => None,
        Ok(codes) => Some(codes.join(", ")),
        Err(error) => Some(error.chain()),
    }
}

/// Waits longer each time before a refused call is tried again.
async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_millis(50 << tries)).await;
}

impl Queue {
    /// The queue at `url`.
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    /// Whether the queue is there, may be used, and is a FIFO queue.
    pub async fn check(&self) -> Result<(), Error> {
        let what = "read the queue's attributes";
        let attributes = (self.client.get_queue_attributes())
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::FifoQueue)
            .send()
            .await
            .map_err(|e| Error::storage(what, e))?;
        let fifo =
            (attributes.attributes).and_then(|mut a| a.remove(&QueueAttributeName::FifoQueue));
        match fifo.as_deref() {
            Some("true") => Ok(()),
            _ => Err(Error::storage(what, "it is not a FIFO queue")),
        }
    }

    /// Puts one message for each worker on the queue: answers only when all of them are there.
    pub async fn send(&self, event: &Event, body: &Body, workers: &[String]) -> Result<(), Error> {
        let packed = &Packed::new(event, body);
        let batches: Vec<_> = workers.chunks(BATCH).map(<[String]>::to_vec).collect();
        stream::iter(batches)
            .map(|workers| async move { self.send_batch(packed, &workers).await })
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect()
            .await
    }

    /// Sends a message for each worker, and those that SQS refused once more.
    async fn send_batch(&self, packed: &Packed<'_>, workers: &[String]) -> Result<(), Error> {
        let what = "put the event on the queue";
        let mut left: Vec<_> = (0..workers.len()).collect();
        for tries in 0.. {
            let entries = left.iter().map(|at| packed.entry(&workers[*at], *at));
            let sent = (self.client.send_message_batch())
                .queue_url(&self.url)
                .set_entries(Some(entries.collect()))
                .send()
                .await
                .map_err(|e| Error::storage(what, e))?;
            if sent.failed.is_empty() {
                break;
            }
            if tries == TRIES || sent.failed.iter().any(|f| f.sender_fault) {
                let code = sent.failed[0].code.clone();
                return Err(Error::storage(
                    what,
                    format!("SQS refused an entry: {code}"),
                ));
            }
            left = (sent.failed.iter())
                .filter_map(|f| f.id.parse::<usize>().ok())
                .filter(|at| *at < workers.len())
                .collect();
            pause(tries).await;
        }
        Ok(())
    }

    /// Puts a delivery that was given up on this dead-letter queue, with the reason.
    pub async fn bury(&self, delivery: &Delivery, reason: &Reason) -> Result<(), Error> {
        let (encoding, text) = delivery.body.written();
        let status = reason.status.map_or("none".to_owned(), |s| s.to_string());
        let mut call = (self.client.send_message())
            .queue_url(&self.url)
            .message_body(text)
            .message_group_id(&delivery.group)
            .message_deduplication_id(&delivery.message_id);
        for (name, value) in [
            (attribute::EVENT, delivery.event.as_str()),
            (attribute::WORKSPACE, &delivery.workspace),
            (attribute::WORKER, &delivery.worker),
            (attribute::TYPE, &delivery.kind),
            (attribute::ACTION, &delivery.action),
            (attribute::BODY, encoding),
            (attribute::REASON, &reason.text),
            (attribute::LAST_STATUS, &status),
            (attribute::FIRST_ATTEMPT, &rfc3339(reason.first_attempt)),
            (attribute::LAST_ATTEMPT, &rfc3339(reason.last_attempt)),
        ] {
            if !value.is_empty() {
                call = call.message_attributes(name, string(value));
            }
        }
        match call.send().await {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::storage("put the event on the dead-letter queue", e)),
        }
    }

    /// Makes messages visible again after a wait, each by its receipt handle; what fails keeps the queue's
    /// visibility timeout.
    pub async fn hand_back(&self, waits: &[(String, Duration)]) {
        for waits in waits.chunks(BATCH) {
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
            let failed = changed
                .map(|changed| changed.failed.into_iter().map(|f| f.code).collect())
                .map_err(|error| Error::storage("change the visibility of messages", error));
            if let Some(error) = trouble(failed) {
                tracing::warn!(
                    error,
                    "messages come back at the queue's own visibility timeout"
                );
            }
        }
    }

    /// Deletes messages by their receipt handles; what fails is received once more.
    pub async fn delete(&self, receipt_handles: &[String]) {
        for receipt_handles in receipt_handles.chunks(BATCH) {
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
            let failed = deleted
                .map(|deleted| deleted.failed.into_iter().map(|f| f.code).collect())
                .map_err(|error| Error::storage("delete messages", error));
            if let Some(error) = trouble(failed) {
                tracing::warn!(error, "messages that are done will be received once more");
            }
        }
    }
}

/// An event as its messages: what they have in common.
#[derive(Debug)]
pub struct Packed<'a> {
    event: &'a Event,
    encoding: &'static str,
    text: Cow<'a, str>,
}

impl<'a> Packed<'a> {
    /// With its body as SQS takes it.
    pub fn new(event: &'a Event, body: &'a Body) -> Self {
        let (encoding, text) = body.written();
        Self {
            event,
            encoding,
            text,
        }
    }

    /// The message for a worker; its `id` in the batch is the worker's place there.
    pub fn entry(&self, worker: &str, at: usize) -> SendMessageBatchRequestEntry {
        let event = self.event;
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(at.to_string())
            .message_body(&*self.text)
            .message_group_id(format!("{worker}:{}", event.ordering_key))
            .message_deduplication_id(format!("{}:{worker}", event.id))
            .message_attributes(attribute::EVENT, string(event.id.as_str()))
            .message_attributes(attribute::WORKSPACE, string(&event.workspace))
            .message_attributes(attribute::WORKER, string(worker))
            .message_attributes(attribute::TYPE, string(&event.kind))
            .message_attributes(attribute::BODY, string(self.encoding));
        if !event.action.is_empty() {
            entry = entry.message_attributes(attribute::ACTION, string(&event.action));
        }
        entry.build().expect("an id and a body are given")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
    use aws_smithy_types::body::SdkBody;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_that_sqs_forbids_travel_in_base64() {
        for (text, encoding) in [
            ("{}\r\n\t", "raw"),
            ("{\"a\":\"é\u{1f600}\u{fffd}\u{7f}\"}", "raw"),
            ("{\"a\":\"\u{ffff}\"}", "base64"),
            ("{\"a\":\"\u{fffe}\"}", "base64"),
            ("\u{1}", "base64"),
        ] {
            let body = Body::Inline(Bytes::from(text));
            let (written, message) = body.written();
            assert_eq!(written, encoding, "{text:?}");
            assert!(is_allowed(&message));
            assert_eq!(
                Body::read(written, message.into_owned()),
                Some(body.clone())
            );
        }
    }

    #[test]
    fn ten_of_the_largest_messages_fit_into_one_batch() {
        let body = Body::Inline(Bytes::from("\u{ffff}".repeat(INLINE_LIMIT / 3)));
        let (_, text) = body.written();
        assert!(BATCH * (text.len() + 2048) < 1024 * 1024);
    }

    /// An HTTP client that answers one call after another with these bodies, and keeps what it was sent.
    #[derive(Debug, Clone)]
    struct ToOrder {
        answers: Arc<Mutex<Vec<&'static str>>>,
        sent: Arc<Mutex<Vec<serde_json::Value>>>,
    }

    impl HttpConnector for ToOrder {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let body = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            self.sent.lock().unwrap().push(body);
            let answer = self.answers.lock().unwrap().remove(0);
            let answer = http::Response::new(SdkBody::from(answer));
            HttpConnectorFuture::ready(Ok(answer.try_into().unwrap()))
        }
    }

    impl HttpClient for ToOrder {
        fn http_connector(
            &self,
            _: &HttpConnectorSettings,
            _: &RuntimeComponents,
        ) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    /// Sends an event to three workers; answers with the ids of each call's entries.
    async fn sent_with(answers: &[&'static str]) -> (Result<(), Error>, Vec<Vec<String>>) {
        let to_order = ToOrder {
            answers: Arc::new(Mutex::new(answers.to_vec())),
            sent: Arc::default(),
        };
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .http_client(to_order.clone())
            .build();
        let queue = Queue::new(Client::from_conf(config), "http://queue/".to_owned());
        let body = Bytes::from("{}");
        let event = Event {
            sent_at: 0,
            id: EventId::from_delivery("x").unwrap(),
            workspace: "w".to_owned(),
            kind: "T".to_owned(),
            action: String::new(),
            ordering_key: "k".to_owned(),
            body: body.clone(),
            digest: String::new(),
        };
        let workers = ["a", "b", "c"].map(str::to_owned);
        let done = queue.send(&event, &Body::Inline(body), &workers).await;
        let sent = to_order.sent.lock().unwrap();
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
    async fn only_what_sqs_refused_in_a_batch_is_sent_again() {
        let (done, calls) = sent_with(&[NOT_1_AND_2, ALL]).await;
        assert!(done.is_ok());
        assert_eq!(calls, [vec!["0", "1", "2"], vec!["1", "2"]]);
    }

    #[tokio::test]
    async fn what_stays_refused_is_an_error_and_what_would_be_again_is_not_sent_again() {
        let (done, calls) = sent_with(&[NOT_1_AND_2; 4]).await;
        assert_eq!(done.unwrap_err().status.as_u16(), 503);
        assert_eq!(calls.len(), 4);
        let (done, calls) = sent_with(&[NOT_0]).await;
        assert_eq!(done.unwrap_err().status.as_u16(), 503);
        assert_eq!(calls.len(), 1);
    }

    proptest! {
        #[test]
        fn a_body_comes_back_as_it_went(text in "\\PC{0,100}[\u{0}-\u{20}\u{fff0}-\u{ffff}]{0,4}") {
            let body = Body::Inline(Bytes::from(text));
            let (encoding, message) = body.written();
            prop_assert!(is_allowed(&message));
            prop_assert_eq!(Body::read(encoding, message.into_owned()), Some(body.clone()));
        }
    }
}
