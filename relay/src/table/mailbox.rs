//! Mailboxes: the parked events of workers that are away or pull.
//!
//! Invariant: an event is parked only while its worker is away or a pull worker, in one transaction that also changes the
//! worker's `parked`. `mark_live` requires the `parked` that was read before the mailbox was found empty. So nothing is
//! parked behind a worker that has just become live.
//!
//! The transaction also requires the registration that the worker was read with, and each item says it. So a removal, which
//! takes a while, deletes what was parked for the worker that it removes, and nothing of one that registered meanwhile.
//!
//! A body is stored compressed, as `packed`, because DynamoDB bills each KB of the item three times: twice for the
//! transaction and once for the delete. A large one is stored beside the item (see `bodies`), which is billed once. A
//! version that did not compress wrote `body`, and may run beside this one.

use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Select, Update};
use bytes::Bytes;
use protocol::clock::{UnixMillis, UnixSeconds};
use protocol::messages::WorkerState;

use super::transaction;
use super::worker_state::set_of;
use super::workers::conditional;
use super::{Item, Table, TableError, item_key, n, number, s, text, worker_key, worker_partition};
use crate::delivery::{Body, Delivery};
use crate::event::EventId;
use crate::transport;
use crate::worker::Worker;

pub(super) const PREFIX: &str = "MAIL#";
/// Instead of it, for an event that fits into no response, or whose item is malformed.
pub(super) const ASIDE: &str = "ASIDE#";
const SET_ASIDE: &str = "set an event aside";
/// How long an expired event stays in the table, beyond the time for which it is kept for its worker, so that it is counted
/// when the mailbox is read and does not vanish silently.
const EXPIRED_STAYS: Duration = Duration::from_secs(7 * 24 * 3600);
/// A SequenceNumber has up to 128 bits.
const SEQUENCE_DIGITS: usize = 39;
/// A parked event.
#[derive(Debug)]
pub(crate) struct ParkedEvent {
    /// Names the event in an `ack`.
    pub(crate) id: String,
    /// The number of its next attempt.
    pub(crate) attempt: u64,
    /// When Linear was asked by the check that released it, if it was withheld.
    pub(super) released_at: UnixMillis,
    /// What was parked. It has no message on the queue any more.
    pub(crate) delivery: Delivery,
}

/// The result of parking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parking {
    /// All deliveries are in the mailbox.
    Parked,
    /// None is, because the worker is live, removed or registered again after a removal.
    NotAway,
}

/// Sequence numbers grow within a group. Padded, they sort in that order.
fn id(delivery: &Delivery) -> String {
    format!(
        "{:0>SEQUENCE_DIGITS$}-{}",
        delivery.sequence, delivery.event
    )
}

/// Whether a text has the form of a parked event's id.
pub(crate) fn is_mail_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(sequence, event)| {
        sequence.len() == SEQUENCE_DIGITS
            && sequence.bytes().all(|b| b.is_ascii_digit())
            && EventId::parse(event).is_some()
    })
}

pub(super) fn key(partition: &str, id: &str) -> Item {
    item_key(partition, format!("{PREFIX}{id}"))
}

/// The body of a parked event, or where it is stored.
pub(super) fn body(item: &Item) -> Option<Body> {
    let bytes = |name| item.get(name)?.as_b().ok().map(AsRef::<[u8]>::as_ref);
    if let Some(packed) = bytes("packed") {
        Some(Body::Inline(transport::unpack(packed)?))
    } else if let Some(body) = bytes("body") {
        Some(Body::Inline(Bytes::copy_from_slice(body)))
    } else {
        Some(Body::Stored(text(item, "stored")?.to_owned()))
    }
}

/// The teams of a withheld or parked event.
pub(super) fn teams(item: &Item) -> impl Iterator<Item = &String> {
    let teams = item.get("teams").and_then(|teams| teams.as_l().ok());
    teams
        .into_iter()
        .flatten()
        .filter_map(|team| team.as_s().ok())
}

fn parse(workspace: &str, worker: &str, item: &Item) -> Option<ParkedEvent> {
    let body = body(item)?;
    let id = text(item, "sk")?.strip_prefix(PREFIX)?.to_owned();
    let owned = |name, otherwise: &str| text(item, name).unwrap_or(otherwise).to_owned();
    Some(ParkedEvent {
        attempt: number(item, "attempt")?,
        released_at: number(item, "released_at").unwrap_or_default(),
        delivery: Delivery {
            message_id: id.clone(),
            receipt_handle: String::new(),
            // An earlier version did not write it: then the whole mailbox stays in order.
            group: owned("group", worker),
            sequence: id.split_once('-')?.0.to_owned(),
            sent_at: 0,
            may_be_tried: true,
            event: EventId::parse(text(item, "event")?)?,
            workspace: workspace.to_owned(),
            worker: worker.to_owned(),
            kind: text(item, "type")?.to_owned(),
            action: owned("action", ""),
            teams: teams(item).cloned().collect(),
            body,
        },
        id,
    })
}

/// The item of a parked delivery, with the number of its next attempt.
pub(super) fn item(
    partition: &str,
    (delivery, attempt): (&Delivery, u64),
    registered_at: UnixMillis,
    kept_until: UnixSeconds,
) -> Item {
    let mut item = key(partition, &id(delivery));
    item.insert("event".to_owned(), s(delivery.event.as_str()));
    item.insert("type".to_owned(), s(&delivery.kind));
    item.insert("action".to_owned(), s(&delivery.action));
    item.insert("group".to_owned(), s(&delivery.group));
    item.insert("registered_at".to_owned(), n(registered_at));
    if !delivery.teams.is_empty() {
        let teams = delivery.teams.iter().map(s).collect();
        item.insert("teams".to_owned(), AttributeValue::L(teams));
    }
    item.insert("attempt".to_owned(), n(attempt));
    item.insert("kept_until".to_owned(), n(kept_until));
    let stays = i64::try_from(EXPIRED_STAYS.as_secs()).unwrap_or_default();
    item.insert("expires_at".to_owned(), n(kept_until + stays));
    let mut packed = |packed: Vec<u8>| {
        let packed = AttributeValue::B(Blob::new(packed));
        item.insert("packed".to_owned(), packed);
    };
    match &delivery.body {
        Body::Inline(bytes) => packed(transport::pack(bytes)),
        Body::Packed(bytes) => packed(bytes.to_vec()),
        Body::Stored(digest) => {
            item.insert("stored".to_owned(), s(digest));
        }
    }
    item
}

impl Table {
    /// Parks up to ten deliveries of one worker, each with the number of its next attempt: all or none.
    pub(crate) async fn park(
        &self,
        worker: &Worker,
        deliveries: &[(&Delivery, u64)],
        keep: Duration,
    ) -> Result<Parking, TableError> {
        let partition = worker_partition(&worker.workspace, &worker.id);
        let is_same = match worker.registered_at {
            0 => "attribute_not_exists(registered_at)",
            _ => "registered_at = :registered",
        };
        let mut grow = Update::builder()
            .table_name(&self.name)
            .set_key(Some(worker_key::key(&worker.workspace, &worker.id)))
            // What is parked is not in backoff any more.
            .update_expression("ADD parked :count SET waiting = :yes DELETE in_backoff :events")
            .condition_expression(format!("#state IN (:away, :pull) AND {is_same}"))
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":count", n(deliveries.len()))
            .expression_attribute_values(
                ":events",
                set_of(deliveries.iter().map(|(d, _)| &d.event)),
            )
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":away", s(WorkerState::Away.as_str()))
            .expression_attribute_values(":pull", s(WorkerState::Pull.as_str()));
        if worker.registered_at > 0 {
            grow = grow.expression_attribute_values(":registered", n(worker.registered_at));
        }
        let grow = grow.build().expect("a key and an expression are given");
        let mut writes = vec![transaction::update(grow)];
        for (delivery, attempt) in deliveries {
            let delivery = self.with_body_beside(delivery, keep).await?;
            let (delivery, kept_until) = ((&*delivery, *attempt), self.expiry(keep));
            writes.push(self.put_of(item(&partition, delivery, worker.registered_at, kept_until)));
        }
        let is_parked = self.transact(writes, "park the event").await?;
        Ok(if is_parked {
            Parking::Parked
        } else {
            Parking::NotAway
        })
    }

    /// The oldest parked events after the one with this id: at most `limit`, and none after their bodies have reached
    /// `bytes`.
    pub(super) async fn oldest_parked(
        &self,
        workspace: &str,
        worker: &str,
        limit: usize,
        bytes: usize,
        after: Option<&str>,
    ) -> Result<Vec<ParkedEvent>, TableError> {
        let operation = "read the mailbox";
        let now = self.clock.seconds();
        let (mut found, mut together) = (Vec::new(), 0);
        let partition = worker_partition(workspace, worker);
        let mut from = after.map(|id| key(&partition, id));
        loop {
            let page = (self.client.query())
                .table_name(&self.name)
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":pk", s(&partition))
                .expression_attribute_values(":prefix", s(PREFIX))
                .consistent_read(true)
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|e| TableError::call(operation, e))?;
            // Counted for each page, so that a mailbox of any size is read through in the end.
            let mut expired = Vec::new();
            for mut item in page.items.unwrap_or_default() {
                if !self.is_alive(&item) {
                    continue;
                }
                if let Some(since) = number(&item, "kept_until").filter(|at| *at <= now) {
                    item.retain(|name, _| matches!(name.as_str(), "pk" | "sk"));
                    expired.push((since, item));
                    continue;
                }
                let Some(mail) = parse(workspace, worker, &item) else {
                    tracing::error!(
                        worker,
                        workspace,
                        event = text(&item, "event"),
                        "an event for worker {worker} cannot be read and is set aside: its item is malformed"
                    );
                    self.move_aside(item).await?;
                    continue;
                };
                if let Body::Inline(body) = &mail.delivery.body {
                    together += body.len();
                }
                found.push(mail);
                if found.len() == limit || together >= bytes {
                    break;
                }
            }
            self.count_expired(workspace, worker, expired).await?;
            from = page.last_evaluated_key;
            if from.is_none() || found.len() == limit || together >= bytes {
                return Ok(found);
            }
        }
    }

    /// Counts events that were kept for as long as events are, and deletes them: the key of each with the time when it expired.
    async fn count_expired(
        &self,
        workspace: &str,
        worker: &str,
        expired: Vec<(UnixSeconds, Item)>,
    ) -> Result<(), TableError> {
        let operation = "count expired events";
        let (count, Some(since)) = (expired.len(), expired.iter().map(|(at, _)| *at).min()) else {
            return Ok(());
        };
        let counted = (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(worker_key::key(workspace, worker)))
            .update_expression(
                "ADD expired :count SET expired_since = if_not_exists(expired_since, :since)",
            )
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":count", n(count))
            .expression_attribute_values(":since", n(since))
            .send()
            .await;
        conditional(counted, operation)?;
        let keys = expired.into_iter().map(|(_, key)| key).collect();
        self.delete_batch(keys, operation).await?;
        tracing::warn!(
            worker,
            workspace,
            Expired = count,
            "{count} events for worker {worker} were parked for longer than they are kept"
        );
        Ok(())
    }

    /// Whether anything is parked, or was kept for as long as events are and was not counted yet: whoever empties the mailbox counts it.
    pub(crate) async fn has_mail(&self, workspace: &str, worker: &str) -> Result<bool, TableError> {
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
                .map_err(|e| TableError::call("look into the mailbox", e))?
                .count
                > 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether anything is parked that has not expired. What has is counted: nobody else reads the mailbox of a worker that stays
    /// away or paused.
    pub(crate) async fn count_expired_mail(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<bool, TableError> {
        let now = self.clock.seconds();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .projection_expression("pk, sk, kept_until, expires_at")
            .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .limit(10)
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("look into the mailbox", e))?;
            let mut expired = Vec::new();
            let mut is_waiting = false;
            for mut item in page.items.unwrap_or_default() {
                if !self.is_alive(&item) {
                    continue;
                }
                match number(&item, "kept_until").filter(|at| *at <= now) {
                    None => is_waiting = true,
                    Some(since) => {
                        item.retain(|name, _| matches!(name.as_str(), "pk" | "sk"));
                        expired.push((since, item));
                    }
                }
            }
            self.count_expired(workspace, worker, expired).await?;
            if is_waiting {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a parked event out of the mailbox, and keeps it as long as before.
    pub(crate) async fn set_aside(&self, worker: &Worker, id: &str) -> Result<(), TableError> {
        let partition = worker_partition(&worker.workspace, &worker.id);
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(key(&partition, id)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::call(SET_ASIDE, e))?;
        match found.item {
            Some(item) => self.move_aside(item).await,
            None => Ok(()),
        }
    }

    async fn move_aside(&self, mut item: Item) -> Result<(), TableError> {
        let key = ["pk", "sk"].map(|name| (name.to_owned(), item[name].clone()));
        let id = text(&item, "sk").unwrap_or_default();
        let id = id.strip_prefix(PREFIX).unwrap_or(id);
        item.insert("sk".to_owned(), s(format!("{ASIDE}{id}")));
        (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(item))
            .send()
            .await
            .map_err(|e| TableError::call(SET_ASIDE, e))?;
        self.delete_batch(vec![Item::from(key)], SET_ASIDE).await
    }

    /// Deletes exactly these parked events.
    pub(crate) async fn delete_parked(
        &self,
        workspace: &str,
        worker: &str,
        ids: &[String],
    ) -> Result<(), TableError> {
        let partition = worker_partition(workspace, worker);
        let mut ids: Vec<_> = ids.iter().collect();
        // BatchWriteItem refuses a key that is given twice.
        ids.sort_unstable();
        ids.dedup();
        let keys = ids.iter().map(|id| key(&partition, id)).collect();
        self.delete_batch(keys, "delete acknowledged events").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_compressed_and_plain() {
        let body = b"{\"type\":\"Issue\"}";
        for (name, kept) in [("packed", transport::pack(body)), ("body", body.to_vec())] {
            let item = Item::from([
                ("sk".to_owned(), s(format!("{PREFIX}1-evt_x"))),
                ("event".to_owned(), s("evt_x")),
                ("type".to_owned(), s("Issue")),
                ("attempt".to_owned(), n(1)),
                (name.to_owned(), AttributeValue::B(Blob::new(kept))),
            ]);
            assert_eq!(
                parse("w", "k", &item).unwrap().delivery.body,
                Body::Inline(Bytes::from_static(body))
            );
        }
    }

    #[test]
    fn an_id_holds_a_sequence_number_and_an_event() {
        let id = format!("{:0>39}-evt_x-y", "18849496460467696128");
        assert!(is_mail_id(&id));
        for wrong in [
            "",
            "evt_x",
            "1-evt_x",
            &id.replace("evt_", ""),
            &format!("{id}."),
        ] {
            assert!(!is_mail_id(wrong), "{wrong}");
        }
    }

    #[test]
    fn fuzz_mail_id() {
        fuzz::target!("mail-id", |input: &[u8]| {
            let Ok(text) = std::str::from_utf8(input) else {
                return;
            };
            let item = |text: &str| {
                let event = text.split_once('-').map_or("", |(_, event)| event);
                Item::from([
                    ("sk".to_owned(), s(format!("{PREFIX}{text}"))),
                    ("event".to_owned(), s(event)),
                    ("type".to_owned(), s("Issue")),
                    ("attempt".to_owned(), n(1)),
                    ("stored".to_owned(), s("digest")),
                ])
            };
            // What acknowledges an event names the item that it was read from, and no other.
            let parked = parse("w", "k", &item(text));
            if let Some(parked) = &parked {
                assert_eq!(parked.id, text);
            }
            if is_mail_id(text) {
                let delivery = parked.expect("its item can be read").delivery;
                assert_eq!(id(&delivery), text);
                assert_eq!(key("p", text), item_key("p", format!("{PREFIX}{text}")));
            }
        });
    }
}
