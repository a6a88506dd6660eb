//! Fuzz targets for what the queue carries.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use protocol::envelope;

use super::message::attribute;
use super::{AttributeValue, Message, OutgoingEvent, Received, Recipient, UnreadablePart};
use crate::delivery::{Body, Delivery};
use crate::event::{Event, EventId, MAX_BODY_BYTES};
use crate::transport;

type Attributes = BTreeMap<String, AttributeValue>;

fn message(body: &str, group: &str) -> Message {
    Message {
        id: "m".to_owned(),
        receipt_handle: "r".to_owned(),
        body: body.to_owned(),
        group: group.to_owned(),
        sequence: "18849496460467696128".to_owned(),
        sent_at: "1764400000000".to_owned(),
        received: "1".to_owned(),
    }
}

/// A message with these attributes.
fn parse(message: Message, mut attributes: Attributes) -> Result<Received, UnreadablePart> {
    Received::parse(message, |name| attributes.remove(name))
}

fn attributes(entry: &SendMessageBatchRequestEntry) -> Attributes {
    let value = |value: &MessageAttributeValue| match value.binary_value() {
        Some(binary) => AttributeValue::Binary(Bytes::copy_from_slice(binary.as_ref())),
        None => AttributeValue::Text(value.string_value().unwrap_or_default().to_owned()),
    };
    (entry.message_attributes().into_iter().flatten())
        .map(|(name, attribute)| (name.clone(), value(attribute)))
        .collect()
}

/// SQS accepts the message.
fn assert_is_accepted(entry: &SendMessageBatchRequestEntry) {
    let is_text = |text: &str| !text.is_empty() && transport::is_allowed(text.as_bytes());
    assert!(is_text(entry.message_body()), "its body");
    let attributes = attributes(entry);
    assert!(attributes.len() <= 10);
    for (name, value) in attributes {
        match value {
            AttributeValue::Text(text) => assert!(is_text(&text), "`{name}` is {text:?}"),
            AttributeValue::Binary(bytes) => assert!(!bytes.is_empty(), "`{name}` is empty"),
        }
    }
    for token in [entry.message_group_id(), entry.message_deduplication_id()] {
        let token = token.unwrap_or_default();
        let is_token =
            (1..=128).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
        assert!(is_token, "{token:?}");
    }
}

/// The event's message to a worker is one that SQS accepts, and is read as what it was.
fn assert_is_carried(event: &Event, body: &Body, is_by_team: bool) {
    let recipient = Recipient {
        worker: format!("wrk_{}", "0".repeat(32)),
        is_withheld: false,
        is_by_team,
        group: None,
    };
    let entry = OutgoingEvent::new(event, body).entry(&recipient, 0);
    assert_is_accepted(&entry);
    let group = entry.message_group_id().unwrap_or_default();
    let received = parse(message(entry.message_body(), group), attributes(&entry));
    let Ok(Received::Delivery(delivery)) = received else {
        panic!("it is read as {received:?}");
    };
    assert_eq!(
        (&delivery.event, &delivery.workspace),
        (&event.id, &event.workspace)
    );
    assert_eq!(
        (&delivery.kind, &delivery.action),
        (&event.kind, &event.action)
    );
    assert_eq!(
        (&delivery.worker, delivery.may_be_tried),
        (&recipient.worker, false)
    );
    let teams = if is_by_team {
        &*event.audience.teams
    } else {
        &[]
    };
    assert_eq!(delivery.teams, teams);
    match (&delivery.body, body) {
        (Body::Packed(packed), Body::Inline(bytes)) => {
            assert_eq!(transport::unpack(packed).as_ref(), Some(bytes));
        }
        (received, sent) => assert_eq!(received, sent),
    }
}

#[test]
fn fuzz_event() {
    fuzz::target!("payloads", ["samples"], |body: &[u8]| {
        let Ok(text) = std::str::from_utf8(body) else {
            return;
        };
        let Ok(envelope) = envelope::parse(text) else {
            return;
        };
        let id = EventId::from_delivery("234d1a4e-b617-4388-90fe-adc3633d6b72");
        let body = Bytes::copy_from_slice(body);
        let event = Event::new(id.expect("it is a UUID"), envelope, &body, false, 0);
        assert_eq!(event.body, body);
        for carried in [
            Body::Inline(body.clone()),
            Body::Packed(transport::pack(&body).into()),
            Body::Stored(event.digest.clone()),
        ] {
            assert_is_carried(&event, &carried, false);
            assert_is_carried(&event, &carried, true);
        }
    });
}

/// What is in a delivery is what its message says.
fn assert_is_read(delivery: &Delivery, body: &str, attributes: &BTreeMap<&str, &str>) {
    let text = |name| attributes.get(name).copied().unwrap_or_default();
    assert_eq!(delivery.event.as_str(), text(attribute::EVENT));
    assert_eq!(
        delivery.event.as_str(),
        format!("evt_{}", delivery.event.delivery())
    );
    assert_eq!(delivery.workspace, text(attribute::WORKSPACE));
    assert_eq!(delivery.worker, text(attribute::WORKER));
    assert_eq!(delivery.kind, text(attribute::TYPE));
    assert_eq!(delivery.action, text(attribute::ACTION));
    assert_eq!(delivery.teams.join(" "), text(attribute::TEAMS));
    match (&delivery.body, text(attribute::BODY)) {
        (Body::Inline(bytes), "raw") => assert_eq!(bytes, body),
        (Body::Inline(bytes), "base64") => assert_eq!(BASE64.encode(bytes), body),
        (Body::Stored(digest), "stored") => assert_eq!(digest, body),
        (Body::Packed(packed), _) => {
            let unpacked = transport::unpack(packed).unwrap_or_default();
            assert!(unpacked.len() <= MAX_BODY_BYTES);
        }
        (body, encoding) => panic!("`{encoding}` is read as {body:?}"),
    }
}

#[test]
fn fuzz_queue_message() {
    fuzz::target!("queue-message", |input: &[u8]| {
        // Lines with an attribute each, an empty line, and the body. Binary values are base64 after `base64:`.
        let Ok(input) = std::str::from_utf8(input) else {
            return;
        };
        let (head, body) = input.split_once("\n\n").unwrap_or((input, ""));
        let texts: BTreeMap<_, _> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let value = |text: &str| match text.strip_prefix("base64:").map(|text| BASE64.decode(text))
        {
            Some(Ok(binary)) => AttributeValue::Binary(binary.into()),
            _ => AttributeValue::Text(text.to_owned()),
        };
        let values = texts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)));
        match parse(message(body, "g"), values.collect()) {
            Ok(Received::Delivery(delivery)) => assert_is_read(&delivery, body, &texts),
            Ok(Received::Revocation(revocation)) => {
                assert_eq!(texts[attribute::REVOKE].parse(), Ok(revocation.ended_at));
                assert_eq!(texts[attribute::WORKER], revocation.worker);
            }
            Ok(Received::Drain(drain)) => {
                assert_eq!(texts[attribute::DRAIN].parse(), Ok(drain.due_at));
                assert_eq!(texts[attribute::WORKER], drain.worker);
            }
            Ok(Received::Heartbeat(_)) => assert!(texts.contains_key(attribute::HEARTBEAT)),
            Err(UnreadablePart(part)) => assert!(!part.is_empty()),
        }
    });
}
