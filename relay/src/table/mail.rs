//! Mailboxes: what waits for a worker that is away, or that has no address.
//!
//! Invariant: an event is parked only while the worker is away or a pull worker, in one transaction that also
//! changes the worker's `parked`; `wake` demands the `parked` that was read before the mailbox was seen empty.
//! So nothing can be parked behind a worker that has just become live.
//!
//! A body is kept compressed, as `packed`: DynamoDB bills each KB three times, twice for the transaction and once for
//! the delete. A version that did not compress wrote `body`, and may do so beside this one.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put, Select, TransactWriteItem, Update};
use bytes::Bytes;
use protocol::messages::State;

use super::{Item, Table, bodies, n, number, s, text, unreadable, worker_partition, workers};
use crate::Error;
use crate::event::EventId;
use crate::ingest::BODY_LIMIT;
use crate::queue::{Body, Delivery};
use crate::schedule::jitter;

const PREFIX: &str = "MAIL#";
/// A SequenceNumber has up to 128 bits.
const SEQUENCE_DIGITS: usize = 39;
/// How often a transaction that met another one is tried again.
const TRIES: u32 = 8;

/// A parked event.
#[derive(Debug)]
pub struct Mail {
    /// Names it in an `ack`.
    pub id: String,
    /// The event.
    pub event: EventId,
    /// The event's type.
    pub kind: String,
    /// The number of the attempt that handing it over is.
    pub attempt: u64,
    /// The event's body, or where it is.
    pub body: Body,
}

/// The worker is live, or it is gone: nothing was parked.
#[derive(Debug)]
pub struct NotAway;

/// Sequence numbers grow within a group: padded, they sort as they grow.
fn id(delivery: &Delivery) -> String {
    format!(
        "{:0>SEQUENCE_DIGITS$}-{}",
        delivery.sequence, delivery.event
    )
}

/// Whether a text has the form of a mail's id.
pub(crate) fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(sequence, event)| {
        sequence.len() == SEQUENCE_DIGITS
            && sequence.bytes().all(|b| b.is_ascii_digit())
            && EventId::parse(event).is_some()
    })
}

fn key(partition: &str, id: &str) -> Item {
    Item::from([
        ("pk".to_owned(), s(partition)),
        ("sk".to_owned(), s(format!("{PREFIX}{id}"))),
    ])
}

fn read(item: &Item) -> Option<Mail> {
    let bytes = |name| item.get(name)?.as_b().ok().map(AsRef::<[u8]>::as_ref);
    let body = if let Some(packed) = bytes("packed") {
        Body::Inline(bodies::decompress(packed, BODY_LIMIT)?.into())
    } else if let Some(body) = bytes("body") {
        Body::Inline(Bytes::copy_from_slice(body))
    } else {
        Body::Stored(text(item, "stored")?.to_owned())
    };
    Some(Mail {
        id: text(item, "sk")?.strip_prefix(PREFIX)?.to_owned(),
        event: EventId::parse(text(item, "event")?)?,
        kind: text(item, "type")?.to_owned(),
        attempt: number(item, "attempt")?,
        body,
    })
}

impl Table {
    /// Parks up to ten deliveries of one worker, each with the number of its next attempt: all or none.
    pub async fn park(
        &self,
        workspace: &str,
        worker: &str,
        deliveries: &[(&Delivery, u64)],
        keep: Duration,
    ) -> Result<Result<(), NotAway>, Error> {
        let what = "park the event";
        let partition = worker_partition(workspace, worker);
        let grow = Update::builder()
            .table_name(&self.name)
            .set_key(Some(workers::key(workspace, worker)))
            .update_expression("ADD parked :count SET waiting = :yes")
            .condition_expression("#state IN (:away, :pull)")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":count", n(deliveries.len()))
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":away", s(State::Away.as_str()))
            .expression_attribute_values(":pull", s(State::Pull.as_str()))
            .build()
            .expect("a key and an expression are given");
        let mut writes = vec![TransactWriteItem::builder().update(grow).build()];
        for (delivery, attempt) in deliveries {
            let mut item = key(&partition, &id(delivery));
            item.insert("event".to_owned(), s(delivery.event.as_str()));
            item.insert("type".to_owned(), s(&delivery.kind));
            item.insert("attempt".to_owned(), n(attempt));
            item.insert("expires_at".to_owned(), n(self.in_seconds(keep)));
            match &delivery.body {
                Body::Inline(bytes) => {
                    let packed = Blob::new(bodies::compress(bytes));
                    item.insert("packed".to_owned(), AttributeValue::B(packed));
                }
                Body::Stored(digest) => {
                    item.insert("stored".to_owned(), s(digest));
                }
            }
            let put = Put::builder().table_name(&self.name).set_item(Some(item));
            let put = put.build().expect("an item is given");
            writes.push(TransactWriteItem::builder().put(put).build());
        }
        for tries in 0..TRIES {
            let parked = (self.client.transact_write_items())
                .set_transact_items(Some(writes.clone()))
                .send()
                .await;
            let error = match parked {
                Ok(_) => return Ok(Ok(())),
                Err(error) => error,
            };
            let SdkError::ServiceError(refused) = &error else {
                return Err(Error::storage(what, error));
            };
            let has_reason = |code: &str| {
                use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError as E;
                match refused.err() {
                    E::TransactionCanceledException(cancelled) => {
                        (cancelled.cancellation_reasons().iter()).any(|r| r.code() == Some(code))
                    }
                    _ => false,
                }
            };
            if has_reason("ConditionalCheckFailed") {
                return Ok(Err(NotAway));
            }
            if !has_reason("TransactionConflict") {
                return Err(Error::storage(what, error));
            }
            // Other groups of the same worker are being parked: not all of them again at the same moment.
            let wait = Duration::from_millis(10 << tries);
            tokio::time::sleep(wait.mul_f64(1.0 + 0.9 * jitter())).await;
        }
        Err(Error::storage(
            what,
            "other transactions kept the worker busy",
        ))
    }

    /// The oldest parked events: `limit` at most, and no more once `bytes` of bodies are together.
    pub async fn mail(
        &self,
        workspace: &str,
        worker: &str,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Mail>, Error> {
        let what = "read the mailbox";
        let mut found = Vec::new();
        let mut together = 0;
        let mut from = None;
        loop {
            let page = (self.client.query())
                .table_name(&self.name)
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
                .expression_attribute_values(":prefix", s(PREFIX))
                .consistent_read(true)
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|e| Error::storage(what, e))?;
            for item in page.items.unwrap_or_default() {
                if !self.is_alive(&item) {
                    continue;
                }
                let mail = read(&item).ok_or_else(|| unreadable(what))?;
                if let Body::Inline(body) = &mail.body {
                    together += body.len();
                }
                found.push(mail);
                if found.len() == limit || together >= bytes {
                    return Ok(found);
                }
            }
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(found);
            }
        }
    }

    /// Whether anything is parked.
    pub async fn has_mail(&self, workspace: &str, worker: &str) -> Result<bool, Error> {
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .filter_expression("expires_at > :now")
            .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .expression_attribute_values(":now", n(self.clock.seconds()))
            .select(Select::Count)
            .limit(10)
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            if page
                .map_err(|e| Error::storage("look into the mailbox", e))?
                .count
                > 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes exactly these parked events.
    pub async fn delete_mail(
        &self,
        workspace: &str,
        worker: &str,
        ids: &[String],
    ) -> Result<(), Error> {
        let partition = worker_partition(workspace, worker);
        let mut ids: Vec<_> = ids.iter().collect();
        // BatchWriteItem refuses a key that is given twice.
        ids.sort_unstable();
        ids.dedup();
        let keys = ids.iter().map(|id| key(&partition, id)).collect();
        self.delete(keys, "delete acknowledged events").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_packed_and_as_it_is() {
        let body = b"{\"type\":\"Issue\"}";
        for (name, kept) in [("packed", bodies::compress(body)), ("body", body.to_vec())] {
            let item = Item::from([
                ("sk".to_owned(), s(format!("{PREFIX}1-evt_x"))),
                ("event".to_owned(), s("evt_x")),
                ("type".to_owned(), s("Issue")),
                ("attempt".to_owned(), n(1)),
                (name.to_owned(), AttributeValue::B(Blob::new(kept))),
            ]);
            assert_eq!(
                read(&item).unwrap().body,
                Body::Inline(Bytes::from_static(body))
            );
        }
    }

    #[test]
    fn an_id_names_a_place_and_an_event() {
        let id = format!("{:0>39}-evt_x-y", "18849496460467696128");
        assert!(is_id(&id));
        for wrong in [
            "",
            "evt_x",
            "1-evt_x",
            &id.replace("evt_", ""),
            &format!("{id}."),
        ] {
            assert!(!is_id(wrong), "{wrong}");
        }
    }
}
