//! Withheld events: those of teams that a worker's user could not see at the last check. The next check releases them into
//! the mailbox, or drops them, unless they came after Linear was asked: then they wait for the check after it. What was parked
//! before a check is dropped when the mailbox is read, if the user cannot see its teams any more.
//!
//! Invariant: an event is withheld only while the worker's subscription is the one that withholds it, and a new subscription
//! is written only when as many events are withheld as were released, dropped or kept. So none is left behind, and none comes
//! after one of its teams that was sent later. What is released says by which check, and obeys the checks after that one: it
//! is in the mailbox before the check is recorded, which may fail.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Select, Update};
use protocol::clock::UnixMillis;
use protocol::messages::{AwayReason, WorkerState};

use super::mailbox::{self, PREFIX as MAIL, ParkedEvent, teams};
use super::transaction;
use super::worker_key;
use super::worker_state::set_of;
use super::{Item, Table, TableError, n, number, s, text, worker_partition};
use crate::delivery::Delivery;
use crate::worker::Worker;

pub(super) const PREFIX: &str = "HELD#";

/// How long an expired event stays in the table. It is counted after the next check, and an agent may show its token once in 30
/// days (the default of `MEMBERSHIP_SECONDS`).
const EXPIRED_STAYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many events one transaction moves: it has at most 100 writes, and 4 MB (DynamoDB API reference,
/// `TransactWriteItems`).
const PAGE: i32 = 10;

/// How many events one transaction drops: it has at most 100 writes (DynamoDB API reference, `TransactWriteItems`).
const DROPPED_AT_ONCE: usize = 50;

/// What became of the withheld events of a worker.
#[derive(Debug, Default)]
pub(crate) struct Released {
    /// How many are in the mailbox now.
    pub(crate) released: usize,
    /// How many were dropped.
    pub(crate) dropped: usize,
    /// How many are still withheld.
    pub(crate) kept: usize,
}

impl Table {
    /// Withholds a delivery. Returns whether it is withheld: if not, the worker's registration or subscription is not the one
    /// that was read.
    pub(crate) async fn withhold(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        keep: Duration,
    ) -> Result<bool, TableError> {
        let partition = worker_partition(&worker.workspace, &worker.id);
        let kept_until = self.expiry(keep);
        let kept = self.with_body_beside(delivery, keep).await?;
        let mut item = mailbox::item(&partition, (&kept, 1), worker.registered_at, kept_until);
        let id = text(&item, "sk").and_then(|sk| sk.strip_prefix(MAIL));
        let held = s(format!("{PREFIX}{}", id.unwrap_or_default()));
        item.insert("sk".to_owned(), held);
        item.insert("withheld_at".to_owned(), n(self.clock.millis()));
        let stays = i64::try_from(EXPIRED_STAYS.as_secs()).unwrap_or_default();
        item.insert("expires_at".to_owned(), n(kept_until + stays));
        let count = Update::builder()
            .table_name(&self.name)
            .set_key(Some(worker_key::key(&worker.workspace, &worker.id)))
            // What is withheld is not in backoff any more.
            .update_expression("ADD withheld :one DELETE in_backoff :event")
            .expression_attribute_values(":event", set_of([&delivery.event]))
            .condition_expression("registered_at = :registered AND revision = :revision")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":registered", n(worker.registered_at))
            .expression_attribute_values(":revision", n(worker.revision))
            .build()
            .expect("a table and a key are given");
        let writes = vec![transaction::update(count), self.put_of(item)];
        self.transact(writes, "withhold the event").await
    }

    /// How many events are withheld from a worker: also one of which nothing but these events is left.
    pub(crate) async fn count_withheld(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<u64, TableError> {
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .select(Select::Count)
            .consistent_read(true)
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("count withheld events", e))?;
            count += u64::try_from(page.count).unwrap_or_default();
        }
        Ok(count)
    }

    /// Moves the withheld events of a worker into its mailbox whose teams are among these, and drops the others if they were
    /// withheld before Linear was asked. A live worker is away then, so that what is sent later comes after them. Returns none if
    /// the worker was changed meanwhile.
    pub(crate) async fn release(
        &self,
        worker: &Worker,
        visible: &BTreeMap<String, String>,
        asked_at: UnixMillis,
    ) -> Result<Option<Released>, TableError> {
        let operation = "release withheld events";
        let mut done = Released::default();
        let mut state = worker.state;
        let mut from = None;
        loop {
            let page = (self.client.query())
                .table_name(&self.name)
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(
                    ":pk",
                    s(worker_partition(&worker.workspace, &worker.id)),
                )
                .expression_attribute_values(":prefix", s(PREFIX))
                .consistent_read(true)
                .limit(PAGE)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|e| TableError::call(operation, e))?;
            let (released, hidden): (Vec<_>, Vec<_>) = (page.items.unwrap_or_default().into_iter())
                .partition(|item| teams(item).any(|team| visible.contains_key(team)));
            let is_earlier = |item: &Item| {
                let withheld_at: UnixMillis = number(item, "withheld_at").unwrap_or_default();
                withheld_at < asked_at
            };
            let (dropped, kept): (Vec<_>, Vec<_>) = hidden.into_iter().partition(is_earlier);
            done.dropped += dropped.len();
            done.released += released.len();
            done.kept += kept.len();
            let keys = dropped.into_iter().map(|item| key_of(&item)).collect();
            self.delete_batch(keys, operation).await?;
            if !released.is_empty() {
                if !(self.release_page(worker, state, released, asked_at)).await? {
                    return Ok(None);
                }
                if state == WorkerState::Live {
                    state = WorkerState::Away;
                }
            }
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(Some(done));
            }
        }
    }

    /// The oldest parked events after the one with this id that the worker's user may see: at most `limit`, and none after their
    /// bodies have reached `bytes`. Those before them that the user could not see any more at the last check are dropped. Returns
    /// none if the worker's registration or subscription is not the one that was read.
    pub(crate) async fn oldest_visible(
        &self,
        worker: &Worker,
        limit: usize,
        bytes: usize,
        after: Option<&str>,
    ) -> Result<Option<Vec<ParkedEvent>>, TableError> {
        loop {
            let Worker { workspace, id, .. } = worker;
            let oldest = self.oldest_parked(workspace, id, limit, bytes, after);
            let is_visible = |mail: &ParkedEvent| {
                mail.released_at > worker.checked_at || worker.may_see(&mail.delivery.teams)
            };
            let (visible, hidden): (Vec<_>, Vec<_>) =
                oldest.await?.into_iter().partition(is_visible);
            if !self.drop_hidden(worker, &hidden).await? {
                return Ok(None);
            }
            if hidden.is_empty() || !visible.is_empty() {
                return Ok(Some(visible));
            }
        }
    }

    /// Drops events that were parked before a check saw that the worker's user cannot see their teams. Returns whether that
    /// still holds.
    async fn drop_hidden(
        &self,
        worker: &Worker,
        hidden: &[ParkedEvent],
    ) -> Result<bool, TableError> {
        let partition = worker_partition(&worker.workspace, &worker.id);
        for hidden in hidden.chunks(DROPPED_AT_ONCE) {
            let same = Update::builder()
                .table_name(&self.name)
                .set_key(Some(worker_key::key(&worker.workspace, &worker.id)))
                .update_expression("SET revision = :revision")
                .condition_expression("#token = :token AND revision = :revision")
                .expression_attribute_names("#token", "token")
                .expression_attribute_values(":token", s(&worker.token_hash))
                .expression_attribute_values(":revision", n(worker.revision))
                .build()
                .expect("a key and an expression are given");
            let mut writes = vec![transaction::update(same)];
            writes.extend(
                hidden
                    .iter()
                    .map(|mail| self.delete_of(mailbox::key(&partition, &mail.id))),
            );
            if !self.transact(writes, "drop events of the mailbox").await? {
                return Ok(false);
            }
            tracing::info!(
                workspace = worker.workspace,
                worker = worker.id,
                "worker {}: {} parked events are dropped, of teams that its user could not see at the last check",
                worker.id,
                hidden.len()
            );
        }
        Ok(true)
    }

    async fn release_page(
        &self,
        worker: &Worker,
        was: WorkerState,
        released: Vec<Item>,
        asked_at: UnixMillis,
    ) -> Result<bool, TableError> {
        let grow = Update::builder()
            .table_name(&self.name)
            .set_key(Some(worker_key::key(&worker.workspace, &worker.id)))
            .condition_expression("#token = :token AND #state = :was")
            .expression_attribute_names("#token", "token")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":token", s(&worker.token_hash))
            .expression_attribute_values(":was", s(was.as_str()))
            .expression_attribute_values(":count", n(released.len()))
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        let grow = if was == WorkerState::Live {
            let now: UnixMillis = self.clock.millis();
            grow.update_expression(
                "ADD parked :count SET waiting = :yes, #state = :away, away_since = :now, \
                 away_reason = :reason REMOVE failures, failing_since",
            )
            .expression_attribute_values(":away", s(WorkerState::Away.as_str()))
            .expression_attribute_values(":reason", s(AwayReason::Withheld.as_str()))
            .expression_attribute_values(":now", n(now))
        } else {
            grow.update_expression("ADD parked :count SET waiting = :yes")
        };
        let grow = grow.build().expect("a table and a key are given");
        let mut writes = vec![transaction::update(grow)];
        for mut item in released {
            writes.push(self.delete_of(key_of(&item)));
            let id = text(&item, "sk").and_then(|sk| sk.strip_prefix(PREFIX));
            let mail = s(format!("{MAIL}{}", id.unwrap_or_default()));
            item.insert("sk".to_owned(), mail);
            item.insert("released_at".to_owned(), n(asked_at));
            writes.push(self.put_of(item));
        }
        self.transact(writes, "release withheld events").await
    }
}

fn key_of(item: &Item) -> Item {
    (item.iter())
        .filter(|(name, _)| matches!(name.as_str(), "pk" | "sk"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
