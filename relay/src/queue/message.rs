//! A delivery as an SQS message: the event's raw body, and in attributes what the relay needs beside it.
//!
//! Invariant: [`Delivery::parse`] reads what [`OutgoingEvent::entry`] and [`dead_letter`] write, body bytes included.

use std::borrow::Cow;

use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memmem;
use protocol::clock::{UnixMillis, rfc3339};

use crate::delivery::{Body, DeadLetterReason, Delivery};
use crate::event::{Event, EventId};

/// The largest body that travels in the message. A larger one is stored in the table.
pub const INLINE_LIMIT: usize = 60 * 1024;

pub(super) mod attribute {
    pub(crate) const EVENT: &str = "event";
    pub(crate) const WORKSPACE: &str = "workspace";
    pub(crate) const WORKER: &str = "worker";
    pub(crate) const TYPE: &str = "type";
    pub(crate) const ACTION: &str = "action";
    pub(crate) const BODY: &str = "body";
    pub(crate) const REASON: &str = "reason";
    pub(crate) const LAST_STATUS: &str = "lastStatus";
    pub(crate) const FIRST_ATTEMPT: &str = "firstAttempt";
    pub(crate) const USER: &str = "user";
    /// The ids of the event's teams, if it is withheld for the worker.
    pub(crate) const WITHHELD: &str = "withheld";
    /// Tells that the access of a worker has ended: when, in milliseconds since the Unix epoch.
    pub(crate) const REVOKE: &str = "revoke";
    /// Tells a heartbeat.
    pub(crate) const HEARTBEAT: &str = "heartbeat";
    /// Tells a request to drain from a delivery: when it is due, in milliseconds since the Unix epoch.
    pub(crate) const DRAIN: &str = "drain";
}

/// SQS accepts `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF` (SendMessage, API reference).
fn is_allowed(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Without an early end, so that many bytes are compared at once.
    let has_control = (bytes.iter()).fold(false, |found, b| {
        found | (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r'))
    });
    let has = |character: &str| memmem::find(bytes, character.as_bytes()).is_some();
    !(has_control || has("\u{fffe}") || has("\u{ffff}"))
}

/// The value of the `body` attribute, and the text of the message: the body as it is, in base64 where SQS forbids one of
/// its characters, or the digest of a stored one.
fn encode(body: &Body) -> (&'static str, Cow<'_, str>) {
    match body {
        Body::Stored(digest) => ("stored", digest.into()),
        Body::Inline(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if is_allowed(text) => ("raw", text.into()),
            _ => ("base64", BASE64.encode(bytes).into()),
        },
    }
}

pub(super) fn decode(encoding: &str, text: String) -> Option<Body> {
    match encoding {
        "raw" => Some(Body::Inline(text.into())),
        "base64" => BASE64
            .decode(text)
            .ok()
            .map(|bytes| Body::Inline(bytes.into())),
        "stored" => Some(Body::Stored(text)),
        _ => None,
    }
}

/// A message as the event source mapping passes it on, without its message attributes.
#[derive(Debug)]
pub struct Message {
    /// SQS's id of the message.
    pub id: String,
    /// The receipt handle of this receive.
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

/// A part of a message is missing or malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message has no readable `{0}`")]
pub struct UnreadablePart(pub &'static str);

/// A request to drain the mailbox of a worker.
#[derive(Debug, Clone)]
pub struct DrainRequest {
    /// SQS's id of the message, which names it in a partial batch response.
    pub message_id: String,
    /// The receipt handle of this receive.
    pub receipt_handle: String,
    /// How often the message was received, this receive included.
    pub received: u64,
    /// When the message was put on the queue.
    pub sent_at: UnixMillis,
    /// Nothing is done before this time.
    pub due_at: UnixMillis,
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The worker's id.
    pub worker: String,
}

/// The access of a worker's user has ended.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// SQS's id of the message, which names it in a partial batch response.
    pub message_id: String,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The worker's id.
    pub worker: String,
}

/// Shows that messages get from the queue to `deliver`, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// When it was put on the queue.
    pub sent_at: UnixMillis,
}

/// What a message is.
#[derive(Debug)]
pub enum Received {
    /// One event for one worker.
    Delivery(Delivery),
    /// The access of a worker's user has ended.
    Revocation(Revocation),
    /// A request of the relay to itself.
    Drain(DrainRequest),
    /// A heartbeat of the relay.
    Heartbeat(Heartbeat),
}

impl Received {
    /// Reads a message; `take` removes and returns a message attribute.
    ///
    /// # Errors
    ///
    /// The first part that is missing or malformed.
    pub fn parse(
        message: Message,
        mut take: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, UnreadablePart> {
        if let Some(ended_at) = take(attribute::REVOKE) {
            let mut text = |name: &'static str| take(name).ok_or(UnreadablePart(name));
            return Ok(Self::Revocation(Revocation {
                message_id: message.id,
                ended_at: ended_at
                    .parse()
                    .map_err(|_| UnreadablePart(attribute::REVOKE))?,
                workspace: text(attribute::WORKSPACE)?,
                worker: text(attribute::WORKER)?,
            }));
        }
        if take(attribute::HEARTBEAT).is_some() {
            let sent_at = message.sent_at.parse();
            let sent_at = sent_at.map_err(|_| UnreadablePart("SentTimestamp"))?;
            return Ok(Self::Heartbeat(Heartbeat { sent_at }));
        }
        let Some(due_at) = take(attribute::DRAIN) else {
            return Delivery::parse(message, take).map(Self::Delivery);
        };
        let mut text = |name: &'static str| take(name).ok_or(UnreadablePart(name));
        let (received, sent_at) = (message.received.parse(), message.sent_at.parse());
        Ok(Self::Drain(DrainRequest {
            message_id: message.id,
            receipt_handle: message.receipt_handle,
            received: received.map_err(|_| UnreadablePart("ApproximateReceiveCount"))?,
            sent_at: sent_at.map_err(|_| UnreadablePart("SentTimestamp"))?,
            due_at: due_at
                .parse()
                .map_err(|_| UnreadablePart(attribute::DRAIN))?,
            workspace: text(attribute::WORKSPACE)?,
            worker: text(attribute::WORKER)?,
        }))
    }
}

impl Delivery {
    /// Reads a message; `take` removes and returns a message attribute.
    ///
    /// # Errors
    ///
    /// The first part that is missing or malformed.
    pub fn parse(
        message: Message,
        mut take: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, UnreadablePart> {
        let mut text = |name: &'static str| take(name).ok_or(UnreadablePart(name));
        let event =
            EventId::parse(&text(attribute::EVENT)?).ok_or(UnreadablePart(attribute::EVENT))?;
        let encoding = text(attribute::BODY)?;
        let sent_at = message.sent_at.parse();
        Ok(Self {
            message_id: message.id,
            receipt_handle: message.receipt_handle,
            group: message.group,
            sequence: message.sequence,
            sent_at: sent_at.map_err(|_| UnreadablePart("SentTimestamp"))?,
            may_be_tried: message.received != "1" || text(attribute::REASON).is_ok(),
            event,
            workspace: text(attribute::WORKSPACE)?,
            worker: text(attribute::WORKER)?,
            kind: text(attribute::TYPE)?,
            action: text(attribute::ACTION).unwrap_or_default(),
            withheld: text(attribute::WITHHELD)
                .map(|teams| teams.split(' ').map(str::to_owned).collect())
                .unwrap_or_default(),
            body: decode(&encoding, message.body).ok_or(UnreadablePart(attribute::BODY))?,
        })
    }
}

fn string(value: impl Into<String>) -> MessageAttributeValue {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
        .expect("a data type is given")
}

/// A worker that gets an event.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The worker's id.
    pub worker: String,
    /// Whether the event is withheld until it is known whether the worker's user may see its teams.
    pub is_withheld: bool,
    /// Its group, of which one worker gets the event.
    pub group: Option<String>,
}

/// An event on its way to the queue: what its messages have in common.
#[derive(Debug)]
pub struct OutgoingEvent<'a> {
    event: &'a Event,
    encoding: &'static str,
    text: Cow<'a, str>,
}

impl<'a> OutgoingEvent<'a> {
    /// Encodes the body once for all messages.
    pub fn new(event: &'a Event, body: &'a Body) -> Self {
        let (encoding, text) = encode(body);
        Self {
            event,
            encoding,
            text,
        }
    }

    /// The message for a worker. Its `id` in the batch is `at`.
    pub fn entry(&self, recipient: &Recipient, at: usize) -> SendMessageBatchRequestEntry {
        let (event, worker) = (self.event, &recipient.worker);
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
        if recipient.is_withheld {
            let teams = event.audience.teams.join(" ");
            entry = entry.message_attributes(attribute::WITHHELD, string(teams));
        }
        entry.build().expect("an id and a body are given")
    }
}

/// Adds to a call that sends it to the queue that the access of a worker's user has ended. Its group has no ordering key, so
/// that it waits behind no delivery.
pub(super) fn revocation(
    call: SendMessageFluentBuilder,
    event: &Event,
    worker: &str,
    ended_at: UnixMillis,
) -> SendMessageFluentBuilder {
    call.message_body(attribute::REVOKE)
        .message_group_id(worker)
        .message_deduplication_id(format!("revoke:{}:{worker}", event.id))
        .message_attributes(attribute::REVOKE, string(ended_at.to_string()))
        .message_attributes(attribute::WORKSPACE, string(&event.workspace))
        .message_attributes(attribute::WORKER, string(worker))
}

/// Adds a request to drain a mailbox to a call that sends it to the queue. Its group has no ordering key, so that it is
/// no delivery's group.
pub(super) fn drain(
    call: SendMessageFluentBuilder,
    workspace: &str,
    worker: &str,
    unique: &str,
    due_at: UnixMillis,
) -> SendMessageFluentBuilder {
    call.message_body(attribute::DRAIN)
        .message_group_id(worker)
        .message_deduplication_id(format!("drain:{unique}"))
        .message_attributes(attribute::DRAIN, string(due_at.to_string()))
        .message_attributes(attribute::WORKSPACE, string(workspace))
        .message_attributes(attribute::WORKER, string(worker))
}

/// Adds a heartbeat to a call that sends it to the queue. It waits behind nothing but other heartbeats.
pub(super) fn heartbeat(
    call: SendMessageFluentBuilder,
    now: UnixMillis,
) -> SendMessageFluentBuilder {
    call.message_body(attribute::HEARTBEAT)
        .message_group_id(attribute::HEARTBEAT)
        .message_deduplication_id(now.to_string())
        .message_attributes(attribute::HEARTBEAT, string("1"))
}

/// Adds a delivery and the reason to a call that sends it to the dead-letter queue. These are as many attributes as a message
/// may have (SQS quotas); when the last attempt was made, `SentTimestamp` says.
pub(super) fn dead_letter(
    call: SendMessageFluentBuilder,
    delivery: &Delivery,
    reason: &DeadLetterReason,
) -> SendMessageFluentBuilder {
    let (encoding, text) = encode(&delivery.body);
    let status = reason.status.map_or("none".to_owned(), |s| s.to_string());
    let call = call
        .message_body(text)
        .message_group_id(&delivery.group)
        .message_deduplication_id(&delivery.message_id);
    let attributes = [
        (attribute::EVENT, delivery.event.as_str()),
        (attribute::WORKSPACE, &delivery.workspace),
        (attribute::WORKER, &delivery.worker),
        (attribute::TYPE, &delivery.kind),
        (attribute::ACTION, &delivery.action),
        (attribute::BODY, encoding),
        (attribute::REASON, &reason.text),
        (attribute::LAST_STATUS, &status),
        (attribute::FIRST_ATTEMPT, &rfc3339(reason.first_attempt_at)),
        (attribute::USER, reason.user.as_deref().unwrap_or_default()),
    ];
    (attributes.into_iter())
        .filter(|(_, value)| !value.is_empty() && is_allowed(value))
        .fold(call, |call, (name, value)| {
            call.message_attributes(name, string(value))
        })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::queue::BATCH_SIZE;

    #[test]
    fn characters_that_sqs_forbids_travel_in_base64() {
        for (text, expected) in [
            ("{}\r\n\t", "raw"),
            ("{\"a\":\"é\u{1f600}\u{fffd}\u{7f}\"}", "raw"),
            ("{\"a\":\"\u{ffff}\"}", "base64"),
            ("{\"a\":\"\u{fffe}\"}", "base64"),
            ("\u{1}", "base64"),
        ] {
            let body = Body::Inline(Bytes::from(text));
            let (encoding, message) = encode(&body);
            assert_eq!(encoding, expected, "{text:?}");
            assert!(is_allowed(&message));
            assert_eq!(decode(encoding, message.into_owned()), Some(body.clone()));
        }
    }

    #[test]
    fn ten_of_the_largest_messages_fit_into_one_batch() {
        let body = Body::Inline(Bytes::from("\u{ffff}".repeat(INLINE_LIMIT / 3)));
        let (_, text) = encode(&body);
        assert!(BATCH_SIZE * (text.len() + 2048) < 1024 * 1024);
    }

    proptest! {
        #[test]
        fn a_decoded_body_is_the_encoded_one(text in "\\PC{0,100}[\u{0}-\u{20}\u{fff0}-\u{ffff}]{0,4}") {
            let body = Body::Inline(Bytes::from(text));
            let (encoding, message) = encode(&body);
            prop_assert!(is_allowed(&message));
            prop_assert_eq!(decode(encoding, message.into_owned()), Some(body.clone()));
        }
    }
}
