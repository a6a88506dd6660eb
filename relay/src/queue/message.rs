//! A delivery as an SQS message: the event's raw body, and in attributes what the relay needs beside it.
//!
//! Invariant: [`Delivery::parse`] reads what [`OutgoingEvent::entry`] and [`dead_letter`] write, body bytes included.

use std::borrow::Cow;

use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use protocol::clock::{UnixMillis, rfc3339};

use crate::delivery::{Body, DeadLetterReason, Delivery};
use crate::event::{Event, EventId};
use crate::transport;

/// The text of a message whose body is in its attribute. SQS accepts no empty one.
const PACKED: &str = "packed";

pub(super) mod attribute {
    pub(crate) const EVENT: &str = "event";
    pub(crate) const WORKSPACE: &str = "workspace";
    pub(crate) const WORKER: &str = "worker";
    pub(crate) const TYPE: &str = "type";
    pub(crate) const ACTION: &str = "action";
    pub(crate) const BODY: &str = "body";
    pub(crate) const REASON: &str = "reason";
    pub(crate) const FIRST_ATTEMPT: &str = "firstAttempt";
    pub(crate) const USER: &str = "user";
    /// The ids of the event's teams, unless it names the worker's application. An earlier version sent them only if the event was
    /// withheld for the worker, and reads them as this one does: the functions of a stack are not updated at the same moment.
    pub(crate) const TEAMS: &str = "withheld";
    /// Tells that the access of a worker has ended: when, in milliseconds since the Unix epoch.
    pub(crate) const REVOKE: &str = "revoke";
    /// Tells a heartbeat.
    pub(crate) const HEARTBEAT: &str = "heartbeat";
    /// Tells a request to drain from a delivery: when it is due, in milliseconds since the Unix epoch.
    pub(crate) const DRAIN: &str = "drain";
}

/// What the message carries of a body: its text, and the value of its attribute `body`.
#[derive(Debug)]
struct Carried<'a> {
    text: Cow<'a, str>,
    attribute: MessageAttributeValue,
}

/// As it is, compressed in the attribute, or the digest of a stored one.
fn encode(body: &Body) -> Carried<'_> {
    let packed = |packed: Vec<u8>| Carried {
        text: PACKED.into(),
        attribute: binary(packed),
    };
    match body {
        Body::Stored(digest) => Carried {
            text: digest.into(),
            attribute: string("stored"),
        },
        Body::Packed(bytes) => packed(bytes.to_vec()),
        Body::Inline(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if transport::fits_raw(bytes) => Carried {
                text: text.into(),
                attribute: string("raw"),
            },
            _ => packed(transport::pack(bytes)),
        },
    }
}

/// The value of a message attribute.
#[derive(Debug)]
pub enum AttributeValue {
    /// Of the type `String`.
    Text(String),
    /// Of the type `Binary`.
    Binary(Bytes),
}

impl AttributeValue {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }
}

/// The body of a message with this attribute `body` and this text.
pub(super) fn decode(attribute: AttributeValue, text: String) -> Option<Body> {
    let encoding = match attribute {
        AttributeValue::Binary(packed) => return Some(Body::Packed(packed)),
        AttributeValue::Text(encoding) => encoding,
    };
    match encoding.as_str() {
        "raw" => Some(Body::Inline(text.into())),
        "stored" => Some(Body::Stored(text)),
        // An earlier version sent so what SQS does not accept as text.
        "base64" => (BASE64.decode(text).ok()).map(|bytes| Body::Inline(bytes.into())),
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
    /// The receipt handle of this receive.
    pub receipt_handle: String,
    /// When the message was put on the queue.
    pub sent_at: UnixMillis,
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
        mut take: impl FnMut(&str) -> Option<AttributeValue>,
    ) -> Result<Self, UnreadablePart> {
        let mut take_text = |name: &str| take(name).and_then(AttributeValue::text);
        if let Some(ended_at) = take_text(attribute::REVOKE) {
            let mut text = |name: &'static str| take_text(name).ok_or(UnreadablePart(name));
            let sent_at = message.sent_at.parse();
            return Ok(Self::Revocation(Revocation {
                message_id: message.id,
                receipt_handle: message.receipt_handle,
                sent_at: sent_at.map_err(|_| UnreadablePart("SentTimestamp"))?,
                ended_at: ended_at
                    .parse()
                    .map_err(|_| UnreadablePart(attribute::REVOKE))?,
                workspace: text(attribute::WORKSPACE)?,
                worker: text(attribute::WORKER)?,
            }));
        }
        if take_text(attribute::HEARTBEAT).is_some() {
            let sent_at = message.sent_at.parse();
            let sent_at = sent_at.map_err(|_| UnreadablePart("SentTimestamp"))?;
            return Ok(Self::Heartbeat(Heartbeat { sent_at }));
        }
        let Some(due_at) = take_text(attribute::DRAIN) else {
            return Delivery::parse(message, take).map(Self::Delivery);
        };
        let mut text = |name: &'static str| take_text(name).ok_or(UnreadablePart(name));
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
        mut take: impl FnMut(&str) -> Option<AttributeValue>,
    ) -> Result<Self, UnreadablePart> {
        let carried = take(attribute::BODY).ok_or(UnreadablePart(attribute::BODY))?;
        let mut text = |name: &'static str| {
            let value = take(name).and_then(AttributeValue::text);
            value.ok_or(UnreadablePart(name))
        };
        let event =
            EventId::parse(&text(attribute::EVENT)?).ok_or(UnreadablePart(attribute::EVENT))?;
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
            teams: text(attribute::TEAMS)
                .map(|teams| teams.split(' ').map(str::to_owned).collect())
                .unwrap_or_default(),
            body: decode(carried, message.body).ok_or(UnreadablePart(attribute::BODY))?,
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

fn binary(value: Vec<u8>) -> MessageAttributeValue {
    MessageAttributeValue::builder()
        .data_type("Binary")
        .binary_value(Blob::new(value))
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
    /// Whether it may see the event only because its user may see a team of it, or there is none.
    pub is_by_team: bool,
    /// Its group, of which one worker gets the event.
    pub group: Option<String>,
}

/// An event on its way to the queue: what its messages have in common.
#[derive(Debug)]
pub struct OutgoingEvent<'a> {
    event: &'a Event,
    carried: Carried<'a>,
}

impl<'a> OutgoingEvent<'a> {
    /// Encodes the body once for all messages.
    pub fn new(event: &'a Event, body: &'a Body) -> Self {
        Self {
            event,
            carried: encode(body),
        }
    }

    /// The message for a worker. Its `id` in the batch is `at`.
    pub fn entry(&self, recipient: &Recipient, at: usize) -> SendMessageBatchRequestEntry {
        let (event, worker) = (self.event, &recipient.worker);
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(at.to_string())
            .message_body(&*self.carried.text)
            .message_group_id(format!("{worker}:{}", event.ordering_key))
            .message_deduplication_id(format!("{}:{worker}", event.id))
            .message_attributes(attribute::EVENT, string(event.id.as_str()))
            .message_attributes(attribute::WORKSPACE, string(&event.workspace))
            .message_attributes(attribute::WORKER, string(worker))
            .message_attributes(attribute::TYPE, string(&event.kind))
            .message_attributes(attribute::BODY, self.carried.attribute.clone());
        if !event.action.is_empty() {
            entry = entry.message_attributes(attribute::ACTION, string(&event.action));
        }
        if recipient.is_by_team && !event.audience.teams.is_empty() {
            let teams = event.audience.teams.join(" ");
            entry = entry.message_attributes(attribute::TEAMS, string(teams));
        }
        entry.build().expect("an id and a body are given")
    }
}

/// Adds to a call that sends it to the queue that the access of a worker's user has ended. Its group is its own, so
/// that it waits behind no delivery and no drain.
pub(super) fn revocation(
    call: SendMessageFluentBuilder,
    event: &Event,
    worker: &str,
    ended_at: UnixMillis,
) -> SendMessageFluentBuilder {
    call.message_body(attribute::REVOKE)
        .message_group_id(format!("{}:{worker}", attribute::REVOKE))
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
    let Carried { text, attribute } = encode(&delivery.body);
    let teams = delivery.teams.join(" ");
    let call = call
        .message_body(text)
        .message_group_id(&delivery.group)
        .message_deduplication_id(&delivery.message_id)
        .message_attributes(attribute::BODY, attribute);
    let attributes = [
        (attribute::EVENT, delivery.event.as_str()),
        (attribute::WORKSPACE, &delivery.workspace),
        (attribute::WORKER, &delivery.worker),
        (attribute::TYPE, &delivery.kind),
        (attribute::ACTION, &delivery.action),
        (attribute::REASON, &reason.text),
        (attribute::TEAMS, &teams),
        (attribute::FIRST_ATTEMPT, &rfc3339(reason.first_attempt_at)),
        (attribute::USER, reason.user.as_deref().unwrap_or_default()),
    ];
    (attributes.into_iter())
        .filter(|(_, value)| !value.is_empty() && transport::is_allowed(value.as_bytes()))
        .fold(call, |call, (name, value)| {
            call.message_attributes(name, string(value))
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::MESSAGE_LIMIT;

    /// The body that is read from what carries this one.
    fn carried(body: &Body) -> Option<Body> {
        let Carried { text, attribute } = encode(body);
        assert!(transport::is_allowed(text.as_bytes()));
        let value = match attribute.binary_value {
            Some(packed) => AttributeValue::Binary(packed.into_inner().into()),
            None => AttributeValue::Text(attribute.string_value.unwrap()),
        };
        decode(value, text.into_owned())
    }

    #[test]
    fn a_body_is_carried_as_it_is_unless_sqs_forbids_it_or_it_is_too_large() {
        let too_large = " ".repeat(MESSAGE_LIMIT + 1);
        for text in ["\u{ffff}", "\u{1}", &too_large] {
            let Some(Body::Packed(packed)) = carried(&Body::Inline(text.to_owned().into())) else {
                panic!("{} bytes are not packed", text.len());
            };
            assert_eq!(transport::unpack(&packed).unwrap(), text);
        }
        for body in [
            Body::Inline("{}\r\n\t\u{fffd}".into()),
            Body::Packed(transport::pack(b"{}").into()),
            Body::Stored("digest".to_owned()),
        ] {
            assert_eq!(carried(&body), Some(body.clone()));
        }
    }

    #[test]
    fn a_message_of_an_earlier_version_is_read() {
        let base64 = AttributeValue::Text("base64".to_owned());
        let read = decode(base64, BASE64.encode("\u{ffff}"));
        assert_eq!(read, Some(Body::Inline("\u{ffff}".into())));
        assert_eq!(
            decode(AttributeValue::Text("gzip".to_owned()), String::new()),
            None
        );
    }

    proptest! {
        #[test]
        fn a_decoded_body_is_the_encoded_one(text in "\\PC{0,100}[\u{0}-\u{20}\u{fff0}-\u{ffff}]{0,4}") {
            let read = match carried(&Body::Inline(Bytes::from(text.clone()))) {
                Some(Body::Packed(packed)) => transport::unpack(&packed),
                Some(Body::Inline(bytes)) => Some(bytes),
                _ => None,
            };
            prop_assert_eq!(read, Some(Bytes::from(text)));
        }
    }
}
