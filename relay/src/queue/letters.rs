//! The dead-letter queue as the operator uses it: reads what is on it, and moves or deletes single messages.

use std::time::Duration;

use aws_sdk_sqs::types::{
    Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    SendMessageBatchRequestEntry,
};
use bytes::Bytes;
use protocol::clock::UnixMillis;

use super::message::{AttributeValue, attribute};
use super::{BATCH_SIZE, Queue, QueueError};
use crate::delivery::Body;

/// How long a receive waits for a message: only a long poll asks all servers (SQS developer guide, "Short and long polling").
const POLL: i32 = 1;

/// A message on the dead-letter queue.
#[derive(Debug, Clone)]
pub struct DeadLetter(Message);

impl DeadLetter {
    fn attribute(&self, name: &str) -> Option<&str> {
        let attributes = self.0.message_attributes.as_ref()?;
        attributes.get(name)?.string_value()
    }

    fn system(&self, name: &MessageSystemAttributeName) -> Option<&str> {
        self.0.attributes.as_ref()?.get(name).map(String::as_str)
    }

    /// SQS's id of the message.
    pub fn id(&self) -> &str {
        self.0.message_id().unwrap_or_default()
    }

    /// The event's id. A message that `deliver` could not read may be without what follows.
    pub fn event(&self) -> Option<&str> {
        self.attribute(attribute::EVENT)
    }

    /// The event's type.
    pub fn kind(&self) -> Option<&str> {
        self.attribute(attribute::TYPE)
    }

    /// Linear's `organizationId`.
    pub fn workspace(&self) -> Option<&str> {
        self.attribute(attribute::WORKSPACE)
    }

    /// The worker's id.
    pub fn worker(&self) -> Option<&str> {
        self.attribute(attribute::WORKER)
    }

    /// The worker's owner.
    pub fn user(&self) -> Option<&str> {
        self.attribute(attribute::USER)
    }

    /// Why it is here, with the status of the last answer, if there was one; none if SQS has moved it here.
    pub fn reason(&self) -> Option<&str> {
        self.attribute(attribute::REASON)
    }

    /// When the first attempt was made, RFC 3339.
    pub fn first_attempt(&self) -> Option<&str> {
        self.attribute(attribute::FIRST_ATTEMPT)
    }

    /// When it came here, after its last attempt.
    pub fn sent_at(&self) -> UnixMillis {
        let text = self.system(&MessageSystemAttributeName::SentTimestamp);
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The event's body, or where it is stored.
    pub(crate) fn body(&self) -> Option<Body> {
        let attribute = self.0.message_attributes.as_ref()?.get(attribute::BODY)?;
        let value = match (attribute.string_value(), attribute.binary_value()) {
            (_, Some(packed)) => AttributeValue::Binary(Bytes::copy_from_slice(packed.as_ref())),
            (text, None) => AttributeValue::Text(text?.to_owned()),
        };
        super::message::decode(value, self.0.body()?.to_owned())
    }
}

impl Queue {
    /// Receives up to ten messages, which nobody else receives for as long as they are `held`.
    pub(crate) async fn receive(&self, held: Duration) -> Result<Vec<DeadLetter>, QueueError> {
        let received = (self.client.receive_message())
            .queue_url(&self.url)
            .max_number_of_messages(BATCH_SIZE as i32)
            .visibility_timeout(i32::try_from(held.as_secs()).unwrap_or(i32::MAX))
            .wait_time_seconds(POLL)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await
            .map_err(|e| QueueError::call("read the dead-letter queue", e))?;
        let messages = received.messages.unwrap_or_default();
        Ok(messages.into_iter().map(DeadLetter).collect())
    }

    /// About how many messages the queue holds, also those that cannot be received now.
    pub(crate) async fn count(&self) -> Result<u64, QueueError> {
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let read = (self.client.get_queue_attributes())
            .queue_url(&self.url)
            .set_attribute_names(Some(counts.to_vec()))
            .send()
            .await
            .map_err(|e| QueueError::call("count the dead letters", e))?;
        let read = read.attributes.unwrap_or_default();
        let count = |name| read.get(name).and_then(|text| text.parse().ok());
        Ok(counts.iter().map(|name| count(name).unwrap_or(0_u64)).sum())
    }

    /// Makes messages that are held visible at once.
    pub(crate) async fn release(&self, letters: &[DeadLetter]) {
        let handle = |letter: &DeadLetter| letter.0.receipt_handle().map(str::to_owned);
        let handles = letters.iter().filter_map(handle);
        let waits: Vec<_> = handles.map(|handle| (handle, Duration::ZERO)).collect();
        self.return_after(&waits).await;
    }

    /// Deletes a message that is held.
    pub(crate) async fn delete_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        (self.client.delete_message())
            .queue_url(&self.url)
            .set_receipt_handle(letter.0.receipt_handle().map(str::to_owned))
            .send()
            .await
            .map(drop)
            .map_err(|e| QueueError::call("delete a dead letter", e))
    }

    /// Puts a copy of a dead letter on this queue, as it is. A copy that is sent twice, because the first answer was lost, is
    /// one message.
    pub(crate) async fn send_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        let attributes = letter.0.message_attributes.iter().flatten();
        let attributes = attributes.map(|(name, value)| (name.clone(), copy(value)));
        let group = letter.system(&MessageSystemAttributeName::MessageGroupId);
        (self.client.send_message())
            .queue_url(&self.url)
            .set_message_body(letter.0.body.clone())
            .set_message_group_id(group.map(str::to_owned))
            .message_deduplication_id(format!("redrive:{}", letter.id()))
            .set_message_attributes(Some(attributes.collect()))
            .send()
            .await
            .map(drop)
            .map_err(|e| QueueError::call("put a dead letter back on the queue", e))
    }

    /// Puts a message on the queue that was made as one of a batch, whatever was sent before.
    pub(crate) async fn send_again(
        &self,
        entry: SendMessageBatchRequestEntry,
        unique: &str,
    ) -> Result<(), QueueError> {
        (self.client.send_message())
            .queue_url(&self.url)
            .message_body(entry.message_body)
            .set_message_group_id(entry.message_group_id)
            .message_deduplication_id(format!("resend:{unique}"))
            .set_message_attributes(entry.message_attributes)
            .send()
            .await
            .map(drop)
            .map_err(|e| QueueError::call("put the event on the queue", e))
    }
}

/// An attribute without the empty lists that a received one can have, and a sent one cannot.
fn copy(value: &MessageAttributeValue) -> MessageAttributeValue {
    MessageAttributeValue::builder()
        .data_type(value.data_type())
        .set_string_value(value.string_value.clone())
        .set_binary_value(value.binary_value.clone())
        .build()
        .expect("a data type is given")
}
