//! What a batch of deliveries needs from the table: its workers, and the failed attempts of its messages.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use protocol::clock::UnixMillis;
use protocol::messages::WorkerState;

use super::{
    Item, Table, TableError, item_key, n, number, text, worker_key, worker_partition, workers,
};
use crate::delivery::{Delivery, FailedAttempts};
use crate::worker::Worker;

pub(super) const PREFIX: &str = "TRY#";
const OPERATION: &str = "read the workers";

/// The workers and failed attempts of a batch. A batch is small, so lookups are linear.
#[derive(Debug, Default)]
pub(crate) struct BatchContext {
    workers: Vec<Worker>,
    /// The workers, by workspace and id, whose items cannot be read.
    unreadable: Vec<(String, String)>,
    /// By worker and event.
    attempts: Vec<(String, String, FailedAttempts)>,
}

impl BatchContext {
    /// The delivery's worker; none if it is absent or its lease has ended.
    ///
    /// # Errors
    ///
    /// The worker's item is malformed.
    pub(crate) fn worker(&self, delivery: &Delivery) -> Result<Option<&Worker>, TableError> {
        let is_its = |workspace: &str, worker: &str| {
            worker == delivery.worker && workspace == delivery.workspace
        };
        if (self.unreadable.iter()).any(|(workspace, worker)| is_its(workspace, worker)) {
            return Err(TableError::Malformed {
                operation: OPERATION,
            });
        }
        Ok((self.workers.iter()).find(|worker| is_its(&worker.workspace, &worker.id)))
    }

    /// Whether the delivery's worker is live.
    pub(crate) fn has_live_worker(&self, delivery: &Delivery) -> bool {
        (self.worker(delivery).ok().flatten())
            .is_some_and(|worker| worker.state == WorkerState::Live)
    }

    /// The delivery's failed attempts, if there were any.
    pub(crate) fn attempts(&self, delivery: &Delivery) -> Option<FailedAttempts> {
        (self.attempts.iter())
            .find(|(worker, event, _)| {
                *worker == delivery.worker && event == delivery.event.as_str()
            })
            .map(|(_, _, attempts)| *attempts)
    }

    fn add(&mut self, item: Item) -> Option<()> {
        let (workspace, id) = worker_key::parse(text(&item, "pk")?)?;
        let id = id.to_owned();
        match text(&item, "sk")?.strip_prefix(PREFIX) {
            Some(event) => {
                let event = event.to_owned();
                self.attempts.push((id, event, parse(&item)?));
            }
            None => {
                let workspace = workspace.to_owned();
                match workers::parse(item) {
                    Some(worker) => self.workers.push(worker),
                    // Only this worker's deliveries wait.
                    None => self.unreadable.push((workspace, id)),
                }
            }
        }
        Some(())
    }
}

fn key(delivery: &Delivery) -> Item {
    let partition = worker_partition(&delivery.workspace, &delivery.worker);
    item_key(partition, format!("{PREFIX}{}", delivery.event))
}

fn parse(item: &Item) -> Option<FailedAttempts> {
    Some(FailedAttempts {
        count: number(item, "attempts")?,
        first_at: number(item, "first_attempt"),
        due_at: number(item, "due_at"),
    })
}

/// The keys to read for a batch: each worker once, and the attempts of messages that may have had any.
fn keys(deliveries: &[Delivery]) -> Vec<Item> {
    let mut keys = Vec::new();
    for (at, delivery) in deliveries.iter().enumerate() {
        let mut earlier = (deliveries[..at].iter())
            .filter(|d| d.worker == delivery.worker && d.workspace == delivery.workspace)
            .peekable();
        if earlier.peek().is_none() {
            keys.push(worker_key::key(&delivery.workspace, &delivery.worker));
        }
        // BatchGetItem refuses a key that is given twice.
        if delivery.may_be_tried && !earlier.any(|d| d.may_be_tried && d.event == delivery.event) {
            keys.push(key(delivery));
        }
    }
    keys
}

impl Table {
    /// Reads what a batch needs, in one call.
    pub(crate) async fn batch_context(
        &self,
        deliveries: &[Delivery],
    ) -> Result<BatchContext, TableError> {
        let mut context = BatchContext::default();
        for item in self.get_batch(keys(deliveries), OPERATION).await? {
            if context.add(item).is_none() {
                // The attempts of one delivery: it counts as not tried.
                tracing::error!("an item of failed attempts cannot be read");
            }
        }
        Ok(context)
    }

    /// Records a failed attempt of a delivery, which is attempted again at `due_at`, and returns all of them.
    pub(crate) async fn record_attempt(
        &self,
        delivery: &Delivery,
        due_at: UnixMillis,
        keep: Duration,
    ) -> Result<FailedAttempts, TableError> {
        let operation = "record a failed attempt";
        let recorded = (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(delivery)))
            .update_expression(
                "ADD attempts :one SET expires_at = :until, due_at = :due, \
                 first_attempt = if_not_exists(first_attempt, :now)",
            )
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":due", n(due_at))
            .expression_attribute_values(":until", n(self.expiry(keep)))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|e| TableError::call(operation, e))?;
        (recorded.attributes.as_ref().and_then(parse)).ok_or(TableError::Malformed { operation })
    }

    /// Records an attempt that was not answered: the delivery is attempted again at `due_at`, and the time for which it is tried
    /// begins anew then.
    pub(crate) async fn record_unanswered(
        &self,
        delivery: &Delivery,
        due_at: UnixMillis,
        keep: Duration,
    ) -> Result<(), TableError> {
        (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(delivery)))
            .update_expression(
                "ADD attempts :one SET expires_at = :until, due_at = :due REMOVE first_attempt",
            )
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":due", n(due_at))
            .expression_attribute_values(":until", n(self.expiry(keep)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("record a failed attempt", e))
    }

    /// Begins the time anew for which a delivery is tried: because it is dead-lettered, and should it be moved back, it is tried
    /// as long again; or because its worker is not there. Its attempts stay counted.
    pub(crate) async fn restart_attempts(&self, delivery: &Delivery) -> Result<(), TableError> {
        (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(delivery)))
            .update_expression("REMOVE first_attempt, due_at")
            .condition_expression("attribute_exists(attempts)")
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("restart the attempts", e))
    }

    /// Deletes the failed attempts of deliveries that have ended.
    pub(crate) async fn delete_attempts(&self, deliveries: &[&Delivery]) -> Result<(), TableError> {
        let keys = deliveries.iter().map(|delivery| key(delivery)).collect();
        self.delete_batch(keys, "delete failed attempts").await
    }
}
