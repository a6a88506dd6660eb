//! A message, its validation and its checksums.
//!
//! Source of the limits: the SQS Developer Guide, "Amazon SQS message quotas"; of the checksum: "Calculating
//! the MD5 message digest for message attributes".

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use protocol::clock::UnixMillis;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::SqsError;

/// The largest message, and the largest batch: body and attributes together.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attribute {
    /// `String`, `Number` or `Binary`, with an optional label after a full stop.
    #[serde(default)]
    pub data_type: String,
    /// The value of a `String` or a `Number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
    /// The value of a `Binary`, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_value: Option<String>,
}

pub(super) type Attributes = BTreeMap<String, Attribute>;

/// A message in a send request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewMessage {
    /// Names the entry of a batch in the response.
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pub(super) message_body: Option<String>,
    #[serde(default)]
    pub(super) message_attributes: Attributes,
    #[serde(default)]
    pub(super) message_group_id: Option<String>,
    #[serde(default)]
    pub(super) message_deduplication_id: Option<String>,
    #[serde(default)]
    pub(super) delay_seconds: Option<i64>,
}

/// A message in a queue. Clones share the content.
#[derive(Debug, Clone)]
pub struct Message {
    /// Assigned by SQS.
    pub id: Uuid,
    /// Its body.
    pub body: Arc<String>,
    /// Its attributes.
    pub attributes: Arc<Attributes>,
    /// `MessageGroupId`
    pub group: String,
    /// `MessageDeduplicationId`
    pub deduplication_id: String,
    /// `SentTimestamp`.
    pub sent_at: UnixMillis,
    /// `ApproximateReceiveCount`
    pub received: u32,
    /// `ApproximateFirstReceiveTimestamp`.
    pub first_received_at: Option<UnixMillis>,
    /// `DeadLetterQueueSourceArn`
    pub source: Option<String>,
    /// While the message is in flight: when it becomes visible again, and its receive's nonce.
    pub(super) flight: Option<(UnixMillis, String)>,
    /// When the current receive began. A visibility timeout ends at most 12 hours later.
    pub(super) received_at: UnixMillis,
}

/// A body and attributes together, as SQS counts them: a binary value as its bytes.
fn bytes(body: &str, attributes: &Attributes) -> usize {
    let attributes = attributes.iter().map(|(name, attribute)| {
        let value = match (&attribute.string_value, &attribute.binary_value) {
            (Some(text), _) => text.len(),
            (None, Some(binary)) => binary.len() / 4 * 3,
            (None, None) => 0,
        };
        name.len() + attribute.data_type.len() + value
    });
    body.len() + attributes.sum::<usize>()
}

impl Message {
    /// Body and attributes together, as SQS counts them.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.body, &self.attributes)
    }

    /// While the message is in flight: when it was received and when it becomes visible again.
    pub fn in_flight(&self) -> Option<(UnixMillis, UnixMillis)> {
        self.flight
            .as_ref()
            .map(|(until, _)| (self.received_at, *until))
    }
}

impl NewMessage {
    /// Body and attributes together, as SQS counts them.
    pub(super) fn bytes(&self) -> usize {
        let body = self.message_body.as_deref().unwrap_or_default();
        bytes(body, &self.message_attributes)
    }

    /// Validates a message for a FIFO queue. Returns its body, group and deduplication id.
    pub(super) fn validate(&self, content_based: bool) -> Result<(&str, &str, String), SqsError> {
        let missing = |name: &str| {
            SqsError::missing_parameter(format!("The request must contain the parameter {name}."))
        };
        let body = self.message_body.as_deref().unwrap_or_default();
        if body.is_empty() {
            return Err(missing("MessageBody"));
        }
        if self.bytes() > MAX_BYTES {
            return Err(SqsError::invalid_parameter(format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {MAX_BYTES} bytes."
            )));
        }
        if let Some(character) = forbidden(body) {
            return Err(SqsError::invalid_contents(format!(
                "Invalid characters found: #x{:X}",
                u32::from(character)
            )));
        }
        check_attributes(&self.message_attributes)?;
        if self.delay_seconds.is_some_and(|delay| delay != 0) {
            return Err(SqsError::invalid_parameter(
                "Value for parameter DelaySeconds is invalid. Reason: The request include parameter that is not valid for this queue type.",
            ));
        }
        let group = self
            .message_group_id
            .as_deref()
            .ok_or_else(|| missing("MessageGroupId"))?;
        check_token("MessageGroupId", group)?;
        let deduplication_id = match &self.message_deduplication_id {
            Some(id) => {
                check_token("MessageDeduplicationId", id)?;
                id.clone()
            }
            None if content_based => hex::encode(sha2::Sha256::digest(body.as_bytes())),
            None => {
                return Err(SqsError::invalid_parameter(
                    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
                ));
            }
        };
        Ok((body, group, deduplication_id))
    }
}

/// The first character that is none of `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF`.
fn forbidden(text: &str) -> Option<char> {
    // In UTF-8 each of them begins with one of these bytes. Without an early end, many bytes are compared at once.
    let begins_one = |b: u8| b == 0xef || (b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r'));
    if !text.bytes().fold(false, |found, b| found | begins_one(b)) {
        return None;
    }
    let is_allowed = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.chars().find(|c| !is_allowed(c))
}

fn check_token(name: &str, text: &str) -> Result<(), SqsError> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(SqsError::invalid_parameter(format!(
        "Value for parameter {name} is invalid. Reason: {name} can only include alphanumeric and punctuation characters. 1 to 128 in length."
    )))
}

fn check_attributes(attributes: &Attributes) -> Result<(), SqsError> {
    let invalid = |message: String| Err(SqsError::invalid_parameter(message));
    if attributes.len() > 10 {
        return invalid(format!(
            "Number of message attributes [{}] exceeds the allowed maximum [10].",
            attributes.len()
        ));
    }
    for (name, attribute) in attributes {
        let is_name = (1..=256).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            && !name.starts_with('.')
            && !name.ends_with('.')
            && !name.contains("..");
        if !is_name {
            return invalid("The message attribute name is invalid.".to_owned());
        }
        let kind = attribute.data_type.split('.').next();
        let is_binary = kind == Some("Binary");
        let (value, other) = match kind {
            Some("String" | "Number") => (&attribute.string_value, &attribute.binary_value),
            Some("Binary") => (&attribute.binary_value, &attribute.string_value),
            _ => {
                return invalid(format!(
                    "The message attribute '{name}' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String."
                ));
            }
        };
        if other.as_deref().is_some_and(|other| !other.is_empty()) {
            return invalid(format!(
                "The message attribute '{name}' must contain one value, in the field of its type."
            ));
        }
        match value.as_deref() {
            None | Some("") => {
                return invalid(format!(
                    "The message attribute '{name}' must contain a non-empty message attribute value for message attribute type '{}'.",
                    attribute.data_type
                ));
            }
            Some(binary) if is_binary && BASE64.decode(binary).is_err() => {
                return Err(SqsError::serialization(format!(
                    "The message attribute '{name}' holds a binary value that is not base64."
                )));
            }
            Some(text) if forbidden(text).is_some() => {
                return invalid(format!(
                    "The message attribute '{name}' holds an invalid character."
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// `MD5OfMessageBody`
pub(super) fn md5_of_body(body: &str) -> String {
    hex::encode(Md5::digest(body.as_bytes()))
}

/// `MD5OfMessageAttributes`; none without attributes.
pub(super) fn md5_of_attributes<'a>(
    attributes: impl IntoIterator<Item = (&'a String, &'a Attribute)>,
) -> Option<String> {
    let mut hash = Md5::new();
    let mut any = false;
    let part = |hash: &mut Md5, bytes: &[u8]| {
        hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(bytes);
    };
    for (name, attribute) in attributes {
        any = true;
        part(&mut hash, name.as_bytes());
        part(&mut hash, attribute.data_type.as_bytes());
        match (&attribute.string_value, &attribute.binary_value) {
            (Some(text), _) => {
                hash.update([1]);
                part(&mut hash, text.as_bytes());
            }
            (None, binary) => {
                hash.update([2]);
                let binary = BASE64.decode(binary.as_deref().unwrap_or_default());
                part(&mut hash, &binary.unwrap_or_default());
            }
        }
    }
    any.then(|| hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> NewMessage {
        NewMessage {
            message_body: Some(body.to_owned()),
            message_group_id: Some("g".to_owned()),
            message_deduplication_id: Some("d".to_owned()),
            ..NewMessage::default()
        }
    }

    #[test]
    fn a_message_of_a_mebibyte_is_taken_and_not_a_byte_more() {
        assert!(message(&"x".repeat(MAX_BYTES)).validate(false).is_ok());
        let longer = message(&"x".repeat(MAX_BYTES + 1));
        assert_eq!(
            longer.validate(false).unwrap_err().code,
            "InvalidParameterValue"
        );
    }

    #[test]
    fn forbidden_characters_are_refused() {
        for body in ["\u{1}", "\u{fffe}", "\u{ffff}", "a\u{8}"] {
            let error = message(body).validate(false).unwrap_err();
            assert_eq!(error.code, "InvalidMessageContents", "{body:?}");
        }
        assert!(
            message("\t\r\n \u{7f}\u{fffd}\u{10000}\u{10ffff}")
                .validate(false)
                .is_ok()
        );
    }

    #[test]
    fn what_a_fifo_message_needs_is_asked_for() {
        let (missing, invalid) = ("MissingParameter", "InvalidParameterValue");
        type Spoil = fn(&mut NewMessage);
        let cases: [(Spoil, &str); 7] = [
            (|message| message.message_body = None, missing),
            (
                |message| message.message_body = Some(String::new()),
                missing,
            ),
            (|message| message.message_group_id = None, missing),
            (
                |message| message.message_group_id = Some("a b".into()),
                invalid,
            ),
            (|message| message.message_deduplication_id = None, invalid),
            (
                |message| message.message_deduplication_id = Some("d".repeat(129)),
                invalid,
            ),
            (|message| message.delay_seconds = Some(1), invalid),
        ];
        for (spoil, code) in cases {
            let mut broken = message("x");
            spoil(&mut broken);
            assert_eq!(broken.validate(false).unwrap_err().code, code, "{broken:?}");
        }
        let content_based = NewMessage {
            message_deduplication_id: None,
            ..message("x")
        };
        assert!(content_based.validate(true).is_ok());
    }

    #[test]
    fn a_binary_value_is_base64() {
        for (value, is_valid) in [("AAEC", true), ("AAE", false), ("A A=", false)] {
            let attribute = Attribute {
                data_type: "Binary.zlib".to_owned(),
                string_value: None,
                binary_value: Some(value.to_owned()),
            };
            let mut message = message("x");
            (message.message_attributes).insert("body".to_owned(), attribute);
            assert_eq!(message.validate(false).is_ok(), is_valid, "{value}");
        }
    }

    #[test]
    fn an_attribute_has_the_value_of_its_type_alone() {
        let attribute = Attribute {
            data_type: "String".to_owned(),
            string_value: Some("evt_x".to_owned()),
            binary_value: Some("?".to_owned()),
        };
        let mut message = message("x");
        (message.message_attributes).insert("event".to_owned(), attribute);
        let error = message.validate(false).unwrap_err();
        assert_eq!(error.code, "InvalidParameterValue");
    }

    #[test]
    fn checksums_are_those_of_the_clients() {
        assert_eq!(md5_of_body("hello"), "5d41402abc4b2a76b9719d911017c592");
        let attributes = Attributes::from([(
            "test_attribute_name_1".to_owned(),
            Attribute {
                data_type: "String".to_owned(),
                string_value: Some("test_attribute_value_1".to_owned()),
                binary_value: None,
            },
        )]);
        assert_eq!(
            md5_of_attributes(&attributes).as_deref(),
            Some("ba056227cfd9533dba1f72ad9816d233")
        );
        assert_eq!(md5_of_attributes(&Attributes::new()), None);
    }
}
