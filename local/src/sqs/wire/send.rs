//! `SendMessage` and `SendMessageBatch`.

use serde::Deserialize;
use serde_json::json;

use super::batch::{BatchCall, BatchResponse, Entry};
use super::{name, write};
use crate::sqs::message::{MAX_BYTES, NewMessage, md5_of_attributes, md5_of_body};
use crate::sqs::{Sqs, SqsError};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendCall {
    #[serde(default)]
    queue_url: String,
    #[serde(flatten)]
    message: NewMessage,
}

pub(super) async fn send(sqs: &Sqs, call: SendCall) -> Result<Vec<u8>, SqsError> {
    let sums = Checksums::of(&call.message);
    let sent = sqs.send(name(&call.queue_url)?, vec![call.message]).await?;
    let Some((_, sent)) = sent.into_iter().next() else {
        return Err(SqsError::internal("a sent message has no result"));
    };
    let sent = sent?;
    write(&json!({
        "MessageId": sent.message_id.to_string(),
        "SequenceNumber": sequence_number(sent.sequence),
        "MD5OfMessageBody": sums.body,
        "MD5OfMessageAttributes": sums.attributes,
    }))
}

/// The checksums in a response, which clients verify.
struct Checksums {
    body: String,
    attributes: Option<String>,
}

impl Checksums {
    fn of(message: &NewMessage) -> Self {
        Self {
            body: md5_of_body(message.message_body.as_deref().unwrap_or_default()),
            attributes: md5_of_attributes(&message.message_attributes),
        }
    }
}

/// A sequence number as AWS writes it, with 20 digits.
pub(crate) fn sequence_number(sequence: u64) -> String {
    format!("{sequence:0>20}")
}

/// How many bytes of messages a request sends, as SQS counts them, by which it bills.
pub(crate) fn bytes_sent(body: &[u8]) -> usize {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Sent {
        #[serde(default)]
        entries: Vec<NewMessage>,
        #[serde(flatten)]
        message: NewMessage,
    }
    let sent: Option<Sent> = serde_json::from_slice(body).ok();
    sent.map_or(0, |sent| {
        let entries = sent.entries.iter().map(NewMessage::bytes);
        sent.message.bytes() + entries.sum::<usize>()
    })
}

impl Entry for NewMessage {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) async fn send_batch(
    sqs: &Sqs,
    call: BatchCall<NewMessage>,
) -> Result<Vec<u8>, SqsError> {
    let (queue_url, _, entries) = call.split()?;
    let bytes: usize = entries.iter().map(NewMessage::bytes).sum();
    if bytes > MAX_BYTES {
        return Err(SqsError::batch_too_long(format!(
            "Batch requests cannot be longer than {MAX_BYTES} bytes. You have sent {bytes} bytes."
        )));
    }
    let mut sums: Vec<Checksums> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        // The messages of one event have the same body.
        let before = at.checked_sub(1).map(|at| (&entries[at], &sums[at]));
        let same = before.filter(|(before, _)| before.message_body == entry.message_body);
        sums.push(match same {
            Some((_, before)) => Checksums {
                body: before.body.clone(),
                attributes: md5_of_attributes(&entry.message_attributes),
            },
            None => Checksums::of(entry),
        });
    }
    let mut response = BatchResponse::default();
    for ((id, sent), sums) in (sqs.send(name(&queue_url)?, entries).await?)
        .into_iter()
        .zip(sums)
    {
        match sent {
            Ok(sent) => response.successful.push(json!({
                "Id": id,
                "MessageId": sent.message_id.to_string(),
                "SequenceNumber": sequence_number(sent.sequence),
                "MD5OfMessageBody": sums.body,
                "MD5OfMessageAttributes": sums.attributes,
            })),
            Err(error) => response.fail(&id, &error),
        }
    }
    write(&response)
}
