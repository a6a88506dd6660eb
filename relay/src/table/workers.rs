//! Workers: found, registered and renewed (`removal` removes them).
//!
//! Invariant: every change requires the state that it was decided from, so that two changes at once never undo each
//! other. The caller of the one that lost reads the worker again.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};
use backon::Retryable as _;
use protocol::clock::UnixMillis;
use protocol::messages::{AwayReason, WorkerState};

use super::transaction;
use super::worker_key::{self, SHARD, earlier_key, key, shard};
use super::{Item, Table, TableError, n, routes, s, text};
use crate::subscription::Subscription;
use crate::worker::Worker;

/// A worker from its item.
pub(super) fn parse(mut item: Item) -> Option<Worker> {
    let (workspace, id) = worker_key::parse(text(&item, "pk")?)?;
    let (workspace, id) = (workspace.to_owned(), id.to_owned());
    // The subscription is read separately, because serde copies all attributes for a flattened field.
    let subscription = (routes::SUBSCRIPTION.iter()).filter_map(|name| item.remove_entry(*name));
    let subscription: Item = subscription.collect();
    let worker: Worker = serde_dynamo::from_item(item).ok()?;
    Some(Worker {
        workspace,
        id,
        subscription: serde_dynamo::from_item(subscription).ok()?,
        ..worker
    })
}

fn item(worker: &Worker) -> Item {
    let mut item: Item =
        serde_dynamo::to_item(worker).expect("a worker is texts, numbers, flags and lists of them");
    item.extend(routes::subscription(&worker.subscription));
    item.extend(key(&worker.workspace, &worker.id));
    item.insert(SHARD.to_owned(), s(shard(&worker.id)));
    item
}

/// What a renewal changes beside the lease.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// A new address, or none from now on.
    pub(crate) url: Option<Option<String>>,
    /// What it may see and wants from now on.
    pub(crate) subscription: Option<Subscription>,
    /// A membership check.
    pub(crate) check: Option<Check>,
    /// A new state.
    pub(crate) state: Option<WorkerState>,
    /// Whether its answers have receipts from now on.
    pub(crate) receipts: Option<bool>,
    /// Whether it empties its mailbox itself from now on.
    pub(crate) pulls: Option<bool>,
}

/// What Linear has said about a worker's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// The keys, by id, of the teams that the user can see.
    pub(crate) team_keys: BTreeMap<String, String>,
    /// When Linear was asked.
    pub(crate) asked_at: UnixMillis,
    /// How many events are withheld after it.
    pub(crate) withheld: u64,
}

/// An update under construction: what it sets and what it removes.
struct Changes {
    update: UpdateBuilder,
    set: Vec<String>,
    remove: Vec<String>,
}

impl Changes {
    fn new(update: UpdateBuilder) -> Self {
        Self {
            update,
            set: Vec::new(),
            remove: Vec::new(),
        }
    }

    fn name(&mut self, attribute: &str) -> String {
        let name = format!("#{attribute}");
        self.update = (self.update.clone()).expression_attribute_names(&name, attribute);
        name
    }

    fn set(&mut self, attribute: &str, value: AttributeValue) {
        self.set_as(attribute, &format!(":{attribute}"), value);
    }

    /// Sets an attribute by a placeholder of another name.
    fn set_as(&mut self, attribute: &str, placeholder: &str, value: AttributeValue) {
        let name = self.name(attribute);
        self.set.push(format!("{name} = {placeholder}"));
        self.update = (self.update.clone()).expression_attribute_values(placeholder, value);
    }

    fn remove(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.remove.push(name);
    }

    /// Sets an attribute that has a value, and removes one that has none.
    fn replace(&mut self, attribute: &str, value: Option<AttributeValue>) {
        match value {
            Some(value) => self.set(attribute, value),
            None => self.remove(attribute),
        }
    }

    fn set_state(&mut self, state: WorkerState, worker: &Worker, now: UnixMillis) {
        self.set("state", s(state.as_str()));
        let is_away = state == WorkerState::Away;
        // A paused worker counts as away since it was paused.
        if !worker.paused {
            self.replace("away_since", is_away.then(|| n(now)));
        }
        // A pull worker that gets an address is away, too, until its mailbox is empty, but has not gone offline.
        let is_offline = is_away && worker.state == WorkerState::Live;
        self.replace(
            "away_reason",
            is_offline.then(|| s(AwayReason::Offline.as_str())),
        );
    }

    fn set_check(&mut self, check: &Check) {
        let keys = (check.team_keys.iter()).map(|(id, key)| (id.clone(), s(key)));
        self.set("team_keys", AttributeValue::M(keys.collect()));
        self.set("checked_at", n(check.asked_at));
        match check.withheld {
            0 => self.remove("withheld"),
            kept => self.set_as("withheld", ":kept", n(kept)),
        }
    }

    fn finish(self) -> Update {
        let mut expression = format!("SET {}", self.set.join(", "));
        if !self.remove.is_empty() {
            expression.push_str(&format!(" REMOVE {}", self.remove.join(", ")));
        }
        (self.update.update_expression(expression).build()).expect("a table and a key are given")
    }
}

/// The condition that a counter, which is absent while it is zero, is as it was read. Its value is named like it.
pub(super) fn is_as_read(counter: &str, read: u64) -> String {
    if read == 0 {
        format!(" AND attribute_not_exists({counter})")
    } else {
        format!(" AND {counter} = :{counter}")
    }
}

/// The condition that a worker is paused, or not, as it was read.
fn if_paused_as_read(worker: &Worker) -> &'static str {
    match worker.paused {
        true => " AND attribute_exists(paused)",
        false => " AND attribute_not_exists(paused)",
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

/// Sends an update again while it conflicts with a transaction, which says nothing of its condition. Whether the condition holds
/// does not matter to the caller.
pub(super) async fn despite_conflicts(
    update: UpdateItemFluentBuilder,
    operation: &'static str,
) -> Result<(), TableError> {
    let send = || async {
        match update.clone().send().await {
            Err(error) if error.code() == Some("TransactionConflictException") => {
                Err(TableError::Conflict { operation })
            }
            result => conditional(result, operation).map(drop),
        }
    };
    (send.retry(transaction::conflict_backoff()))
        .when(|error| matches!(error, TableError::Conflict { .. }))
        .await
}

impl Table {
    pub(super) fn update_worker(&self, worker: &Worker) -> UpdateItemFluentBuilder {
        (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#state", "state")
    }

    /// One worker; none if it is absent or its lease has ended.
    pub(crate) async fn worker(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<Option<Worker>, TableError> {
        let last = self.last_worker(workspace, worker).await?;
        Ok(last.filter(|worker| !self.has_expired(worker)))
    }

    /// One worker, also if its lease has ended; none if it is absent.
    pub(crate) async fn last_worker(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<Option<Worker>, TableError> {
        let operation = "read the worker";
        match self.find(key(workspace, worker), operation).await? {
            None => Ok(None),
            Some(item) => parse(item)
                .map(Some)
                .ok_or(TableError::Malformed { operation }),
        }
    }

    /// Whether the lease of a worker has ended.
    pub(crate) fn has_expired(&self, worker: &Worker) -> bool {
        worker.expires_at <= self.clock.seconds()
    }

    /// Whether version 0.1 has registered a worker whose lease goes on. It is found after it has registered again, which it
    /// does when it is told that its token is not valid.
    pub(crate) async fn has_earlier_worker(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<bool, TableError> {
        let found = self.get(earlier_key(workspace, worker), "look for the worker");
        Ok(found.await?.is_some())
    }

    /// Writes a registration in the place of `previous`, whose lease may have ended, and its route. Returns whether the worker
    /// still was `previous`.
    pub(crate) async fn put_worker(
        &self,
        worker: &Worker,
        previous: Option<&Worker>,
    ) -> Result<bool, TableError> {
        let put = Put::builder()
            .table_name(&self.name)
            .set_item(Some(item(worker)));
        let put = match previous {
            None => put.condition_expression("attribute_not_exists(pk)"),
            // The counters, too: events that are parked or withheld meanwhile must not be forgotten, nor a renewal.
            Some(previous) => {
                let mut condition = "#token = :token AND #state = :state".to_owned();
                condition.push_str(if_paused_as_read(previous));
                let mut put = put
                    .expression_attribute_names("#token", "token")
                    .expression_attribute_names("#state", "state")
                    .expression_attribute_values(":token", s(&previous.token_hash))
                    .expression_attribute_values(":state", s(previous.state.as_str()));
                for (name, read) in [
                    ("parked", previous.parked),
                    ("withheld", previous.withheld),
                    ("revision", previous.revision),
                ] {
                    condition.push_str(&is_as_read(name, read));
                    if read > 0 {
                        put = put.expression_attribute_values(format!(":{name}"), n(read));
                    }
                }
                put.condition_expression(condition)
            }
        };
        let put = transaction::put(put.build().expect("a table and an item are given"));
        self.change_worker(
            put,
            worker,
            Some(worker.checked_at),
            "write the registration",
        )
        .await
    }

    /// Changes a worker, and writes its route as it is then. Returns whether both have happened: if not, the worker was not
    /// as the change requires, or the access of its user has ended since Linear was asked.
    async fn change_worker(
        &self,
        change: TransactWriteItem,
        changed: &Worker,
        asked_at: Option<UnixMillis>,
        operation: &'static str,
    ) -> Result<bool, TableError> {
        let mut writes = vec![change, self.put_of(routes::item(changed))];
        writes.extend(asked_at.and_then(|asked_at| self.verify_not_ended(changed, asked_at)));
        self.transact(writes, operation).await
    }

    /// Renews the lease and makes a change. Returns whether the worker's registration and state still were as read, and
    /// nobody has renewed it since.
    pub(crate) async fn renew(
        &self,
        worker: &Worker,
        lease: Duration,
        change: &Change,
    ) -> Result<bool, TableError> {
        let expires_at = self.expiry(lease);
        let mut update = Update::builder()
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#token", "token")
            .expression_attribute_values(":token", s(&worker.token_hash))
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":was", s(worker.state.as_str()));
        let mut condition = "#token = :token AND #state = :was".to_owned();
        if change.state.is_some() {
            condition.push_str(if_paused_as_read(worker));
        }
        let withheld = change.check.is_some().then_some(worker.withheld);
        for (name, read) in [("revision", Some(worker.revision)), ("withheld", withheld)] {
            let Some(read) = read else { continue };
            condition.push_str(&is_as_read(name, read));
            if read > 0 {
                update = update.expression_attribute_values(format!(":{name}"), n(read));
            }
        }
        let mut changes = Changes::new(update.condition_expression(condition));
        if let Some(check) = &change.check {
            changes.set_check(check);
        }
        changes.set("expires_at", n(expires_at));
        changes.set_as("revision", ":next_revision", n(worker.revision + 1));
        changes.set(SHARD, s(shard(&worker.id)));
        if let Some(url) = &change.url {
            changes.replace("url", url.as_ref().map(s));
        }
        if let Some(subscription) = &change.subscription {
            let mut item: Item = routes::subscription(subscription);
            for attribute in routes::SUBSCRIPTION {
                changes.replace(attribute, item.remove(attribute));
            }
        }
        if let Some(receipts) = change.receipts {
            changes.set("receipts", AttributeValue::Bool(receipts));
        }
        if let Some(pulls) = change.pulls {
            changes.set("pulls", AttributeValue::Bool(pulls));
        }
        if let Some(state) = change.state {
            changes.set_state(state, worker, self.clock.millis());
        }
        if change.url.is_some() || change.state.is_some() {
            // Attempts at another address say nothing about this one.
            changes.remove("failures");
            changes.remove("failing_since");
        }
        let changed = Worker {
            expires_at,
            state: change.state.unwrap_or(worker.state),
            away_since: worker.away_since.or(Some(self.clock.millis())),
            subscription: (change.subscription.clone())
                .unwrap_or_else(|| worker.subscription.clone()),
            ..worker.clone()
        };
        let update = transaction::update(changes.finish());
        let asked_at = change.check.as_ref().map(|check| check.asked_at);
        self.change_worker(update, &changed, asked_at, "renew the registration")
            .await
    }
}
