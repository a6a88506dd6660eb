//! Workers: found, registered, renewed and removed.
//!
//! Invariant: every change requires the state that it was decided from, so that two changes at once never undo each
//! other. The caller of the one that lost reads the worker again.

use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use protocol::messages::{AwayReason, WorkerState};
use serde::Deserialize;

use super::worker_key::{PREFIX, SHARD, id, key, partition, shard, workspace};
use super::{Item, Table, TableError, n, s, text, worker_partition};
use crate::worker::Worker;

/// A worker from its item.
pub(super) fn parse(item: Item) -> Option<Worker> {
    let workspace = workspace(text(&item, "pk")?)?.to_owned();
    let id = id(text(&item, "sk")?)?.to_owned();
    let worker: Worker = serde_dynamo::from_item(item).ok()?;
    Some(Worker {
        workspace,
        id,
        ..worker
    })
}

fn item(worker: &Worker) -> Item {
    let mut item: Item =
        serde_dynamo::to_item(worker).expect("a worker is texts, numbers, flags and lists of them");
    item.extend(key(&worker.workspace, &worker.id));
    item.insert(SHARD.to_owned(), s(shard(&worker.id)));
    item
}

/// What `ingest` reads of a worker.
#[derive(Debug, Deserialize)]
pub(crate) struct Subscriber {
    sk: String,
    /// The patterns of the events that it wants; none: all events.
    pub(crate) capabilities: Option<Vec<String>>,
}

impl Subscriber {
    /// The worker's id.
    pub(crate) fn id(&self) -> &str {
        id(&self.sk).unwrap_or_default()
    }
}

/// What a renewal changes beside the lease.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// A new address, or none from now on.
    pub(crate) url: Option<Option<String>>,
    /// New patterns, or all events from now on.
    pub(crate) capabilities: Option<Option<Vec<String>>>,
    /// A new state.
    pub(crate) state: Option<WorkerState>,
    /// Whether its answers have receipts from now on.
    pub(crate) receipts: Option<bool>,
    /// Whether it empties its mailbox itself from now on.
    pub(crate) pulls: Option<bool>,
}

/// An update under construction: what it sets and what it removes.
struct Changes {
    update: UpdateItemFluentBuilder,
    set: Vec<&'static str>,
    remove: Vec<&'static str>,
}

impl Changes {
    fn new(update: UpdateItemFluentBuilder) -> Self {
        Self {
            update,
            set: Vec::new(),
            remove: Vec::new(),
        }
    }

    /// Adds an assignment `name = :value` and the value that it names.
    fn set(&mut self, assignment: &'static str, value: AttributeValue) {
        let (_, name) = assignment.split_once(" = ").unwrap_or_default();
        self.update = self.update.clone().expression_attribute_values(name, value);
        self.set.push(assignment);
    }

    fn finish(self) -> UpdateItemFluentBuilder {
        let mut expression = format!("SET {}", self.set.join(", "));
        if !self.remove.is_empty() {
            expression.push_str(&format!(" REMOVE {}", self.remove.join(", ")));
        }
        self.update.update_expression(expression)
    }
}

/// The result of a conditional write; none if the condition did not hold. A conflict with a transaction counts as that,
/// too: the caller reads again.
pub(super) fn conditional<T, E>(
    result: Result<T, SdkError<E>>,
    operation: &'static str,
) -> Result<Option<T>, TableError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) => match error.code() {
            Some("ConditionalCheckFailedException" | "TransactionConflictException") => Ok(None),
            _ => Err(TableError::call(operation, error)),
        },
    }
}

impl Table {
    pub(super) fn update_worker(&self, worker: &Worker) -> UpdateItemFluentBuilder {
        (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#state", "state")
    }

    /// All workers of a workspace, with their patterns.
    pub(crate) async fn subscribers(&self, workspace: &str) -> Result<Vec<Subscriber>, TableError> {
        let operation = "find the workspace's workers";
        let mut found = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .projection_expression("sk, capabilities, expires_at")
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call(operation, e))?;
            for item in page.items.unwrap_or_default() {
                if self.is_alive(&item) {
                    // One unreadable item must not keep the event from the other workers.
                    match serde_dynamo::from_item(item) {
                        Ok(subscriber) => found.push(subscriber),
                        Err(_) => tracing::error!(workspace, "a worker's item cannot be read"),
                    }
                }
            }
        }
        Ok(found)
    }

    /// One worker; none if it is absent or its lease has ended.
    pub(crate) async fn worker(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<Option<Worker>, TableError> {
        let operation = "read the worker";
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(key(workspace, worker)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::call(operation, e))?;
        match found.item.filter(|item| self.is_alive(item)) {
            None => Ok(None),
            Some(item) => parse(item)
                .map(Some)
                .ok_or(TableError::Malformed { operation }),
        }
    }

    /// Writes a registration in the place of `previous`. Returns whether the worker still was `previous`.
    pub(crate) async fn put_worker(
        &self,
        worker: &Worker,
        previous: Option<&Worker>,
    ) -> Result<bool, TableError> {
        let put = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(item(worker)));
        let put = match previous {
            // An expired item may still be there.
            None => put
                .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
                .expression_attribute_values(":now", n(self.clock.seconds())),
            // `parked`, too: events that are parked meanwhile must not be forgotten.
            Some(previous) => {
                let put = put
                    .expression_attribute_names("#token", "token")
                    .expression_attribute_names("#state", "state")
                    .expression_attribute_values(":token", s(&previous.token_hash))
                    .expression_attribute_values(":state", s(previous.state.as_str()));
                if previous.parked > 0 {
                    put.condition_expression(
                        "#token = :token AND #state = :state AND parked = :parked",
                    )
                    .expression_attribute_values(":parked", n(previous.parked))
                } else {
                    put.condition_expression(
                        "#token = :token AND #state = :state AND attribute_not_exists(parked)",
                    )
                }
            }
        };
        Ok(conditional(put.send().await, "write the registration")?.is_some())
    }

    /// Renews the lease and makes a change. Returns whether the worker's registration and state still were as read.
    pub(crate) async fn renew(
        &self,
        worker: &Worker,
        lease: Duration,
        change: &Change,
    ) -> Result<bool, TableError> {
        let update = self
            .update_worker(worker)
            .condition_expression("#token = :token AND #state = :was")
            .expression_attribute_names("#token", "token")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_values(":token", s(&worker.token_hash))
            .expression_attribute_values(":was", s(worker.state.as_str()));
        let mut changes = Changes::new(update);
        changes.set("expires_at = :until", n(self.expiry(lease)));
        changes.set("#shard = :shard", s(shard(&worker.id)));
        if let Some(url) = &change.url {
            changes.update = changes.update.expression_attribute_names("#url", "url");
            match url {
                Some(url) => changes.set("#url = :url", s(url)),
                None => changes.remove.push("#url"),
            }
        }
        match &change.capabilities {
            None => {}
            Some(Some(patterns)) => {
                let patterns = AttributeValue::L(patterns.iter().map(s).collect());
                changes.set("capabilities = :capabilities", patterns);
            }
            Some(None) => changes.remove.push("capabilities"),
        }
        if let Some(receipts) = change.receipts {
            changes.set("receipts = :receipts", AttributeValue::Bool(receipts));
        }
        if let Some(pulls) = change.pulls {
            changes.set("pulls = :pulls", AttributeValue::Bool(pulls));
        }
        if let Some(state) = change.state {
            changes.set("#state = :state", s(state.as_str()));
            match state {
                WorkerState::Away => changes.set("away_since = :now", n(self.clock.millis())),
                WorkerState::Live | WorkerState::Pull => changes.remove.push("away_since"),
            }
            // A pull worker that gets an address is away, too, until its mailbox is empty, but has not gone offline.
            if (worker.state, state) == (WorkerState::Live, WorkerState::Away) {
                changes.set("away_reason = :reason", s(AwayReason::Offline.as_str()));
            } else {
                changes.remove.push("away_reason");
            }
        }
        if change.url.is_some() || change.state.is_some() {
            // Attempts at another address say nothing about this one.
            changes.remove.extend(["failures", "failing_since"]);
        }
        let renewed = changes.finish().send().await;
        Ok(conditional(renewed, "renew the registration")?.is_some())
    }

    /// Removes a worker, its mailbox and its failed attempts, and nothing of one that registers meanwhile. Returns whether its registration and address still were as
    /// read.
    pub(crate) async fn remove_worker(&self, worker: &Worker) -> Result<bool, TableError> {
        let operation = "remove the worker";
        let delete = (self.client.delete_item())
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#token", "token")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":token", s(&worker.token_hash));
        let delete = match &worker.url {
            Some(url) => delete
                .condition_expression("#token = :token AND #url = :url")
                .expression_attribute_values(":url", s(url)),
            None => delete.condition_expression("#token = :token AND attribute_not_exists(#url)"),
        };
        if conditional(delete.send().await, operation)?.is_none() {
            return Ok(false);
        }
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(worker_partition(&worker.workspace, &worker.id)))
            .projection_expression("pk, sk")
            .filter_expression(
                "attribute_not_exists(registered_at) OR registered_at <= :registered",
            )
            .expression_attribute_values(":registered", n(worker.registered_at))
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call(operation, e))?;
            self.delete_batch(page.items.unwrap_or_default(), operation)
                .await?;
        }
        Ok(true)
    }
}
