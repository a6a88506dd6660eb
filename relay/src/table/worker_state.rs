//! What attempts, health checks and pulls change about a worker: its state, its failures, and its last answer.
//!
//! Invariant: as in `workers.rs`, every change requires what it was decided from.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use protocol::clock::{UnixMillis, elapsed};
use protocol::messages::{AwayReason, WorkerState};

use super::workers::{conditional, despite_conflicts, is_as_read};
use super::{Table, TableError, n, number, s};
use crate::event::EventId;
use crate::policy::UnreachableAttempts;
use crate::worker::Worker;

/// What every rejection records.
const REJECTED: &str =
    "SET last_error = :reason, last_error_at = :now REMOVE failures, failing_since";

/// What every unreachable attempt records.
const UNREACHABLE: &str = "SET failing_since = if_not_exists(failing_since, :now), last_error = :reason, \
     last_error_at = :now ADD failures :one";

/// A set of events, each once: DynamoDB refuses a set with a value twice, and the queue can hold an event twice.
pub(super) fn set_of<'a>(events: impl IntoIterator<Item = &'a EventId>) -> AttributeValue {
    let ids: BTreeSet<_> = (events.into_iter())
        .map(|event| event.as_str().to_owned())
        .collect();
    AttributeValue::Ss(ids.into_iter().collect())
}

/// Adds to this condition that nothing was parked for the worker, and that it was not registered anew, since it was read.
fn if_mailbox_as_read(
    mut update: UpdateItemFluentBuilder,
    worker: &Worker,
    condition: &str,
) -> UpdateItemFluentBuilder {
    let mut condition = condition.to_owned();
    let registered_at = worker.registered_at.unsigned_abs();
    for (name, read) in [("parked", worker.parked), ("registered_at", registered_at)] {
        condition.push_str(&is_as_read(name, read));
        if read > 0 {
            update = update.expression_attribute_values(format!(":{name}"), n(read));
        }
    }
    update.condition_expression(condition)
}

impl Table {
    /// Marks an away worker live, unless anything was parked since it was read. Returns whether it is live now.
    pub(crate) async fn mark_live(&self, worker: &Worker) -> Result<bool, TableError> {
        let update = self
            .update_worker(worker)
            .update_expression(
                "SET #state = :live \
                 REMOVE failures, failing_since, away_since, away_reason, waiting",
            )
            .expression_attribute_values(":live", s(WorkerState::Live.as_str()))
            .expression_attribute_values(":away", s(WorkerState::Away.as_str()));
        let may_be = "#state = :away AND attribute_not_exists(paused)";
        let update = if_mailbox_as_read(update, worker, may_be);
        let is_live = conditional(update.send().await, "mark the worker live")?.is_some();
        if is_live && worker.subscription.group.is_some() {
            self.route_away(&worker.workspace, &worker.id, None).await;
        }
        Ok(is_live)
    }

    /// Marks a live worker away, if its address still is the one that was tried. Returns since when, if
    /// it is away now.
    pub(crate) async fn mark_away(
        &self,
        worker: &Worker,
        reason: AwayReason,
    ) -> Result<Option<UnixMillis>, TableError> {
        let now = self.clock.millis();
        let update = self
            .update_worker(worker)
            .update_expression(
                "SET #state = :away, away_since = :now, away_reason = :reason \
                 REMOVE failures, failing_since",
            )
            .condition_expression("#state = :live AND #url = :url")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":now", n(now))
            .expression_attribute_values(":reason", s(reason.as_str()))
            .expression_attribute_values(":away", s(WorkerState::Away.as_str()))
            .expression_attribute_values(":live", s(WorkerState::Live.as_str()))
            .expression_attribute_values(":url", s(worker.url.as_deref().unwrap_or_default()));
        let marked = conditional(update.send().await, "mark the worker away")?;
        if marked.is_some() && worker.subscription.group.is_some() {
            self.route_away(&worker.workspace, &worker.id, Some(now))
                .await;
        }
        Ok(marked.map(|_| now))
    }

    /// Records that the mailbox of a worker was found empty, unless anything was parked since the worker was read.
    pub(crate) async fn clear_waiting(&self, worker: &Worker) -> Result<(), TableError> {
        let update = self
            .update_worker(worker)
            .update_expression("REMOVE waiting")
            .expression_attribute_values(":state", s(worker.state.as_str()));
        let update = if_mailbox_as_read(update, worker, "#state = :state");
        conditional(update.send().await, "record that the mailbox is empty").map(drop)
    }

    /// Records that the worker answered a health check, so that earlier unreachable attempts do not count any more.
    pub(crate) async fn clear_failures(&self, worker: &Worker) -> Result<(), TableError> {
        let update = self
            .update_worker(worker)
            .update_expression("REMOVE failures, failing_since")
            .condition_expression("attribute_exists(#state)");
        conditional(update.send().await, "record that the worker is reachable").map(drop)
    }

    /// Counts an unreachable attempt at the worker's address, at the delivery of an event, which is in backoff now, or a
    /// health check. Returns all of them in a row, or none if the worker has changed since it was read.
    pub(crate) async fn count_unreachable(
        &self,
        worker: &Worker,
        reason: &str,
        event: Option<&EventId>,
    ) -> Result<Option<UnreachableAttempts>, TableError> {
        let now = self.clock.millis();
        let update = match event {
            None => self.update_worker(worker).update_expression(UNREACHABLE),
            Some(event) => self
                .update_worker(worker)
                .update_expression(format!("{UNREACHABLE}, in_backoff :event"))
                .expression_attribute_values(":event", set_of([event])),
        };
        let update = update
            .condition_expression("#state = :live AND #url = :url")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":now", n(now))
            .expression_attribute_values(":reason", s(reason))
            .expression_attribute_values(":live", s(WorkerState::Live.as_str()))
            .expression_attribute_values(":url", s(worker.url.as_deref().unwrap_or_default()))
            .return_values(ReturnValue::UpdatedNew);
        let counted = conditional(update.send().await, "count an unreachable attempt")?;
        Ok(counted.and_then(|done| done.attributes).and_then(|item| {
            let since: UnixMillis = number(&item, "failing_since")?;
            Some(UnreachableAttempts {
                count: number(&item, "failures")?,
                over: elapsed(since, now),
                in_backoff: (item.get("in_backoff"))
                    .and_then(|events| events.as_ss().ok())
                    .map_or(0, |events| events.len() as u64),
            })
        }))
    }

    /// Counts an away worker as away from now on, because it was there in between.
    pub(crate) async fn restart_away(&self, worker: &Worker) -> Result<(), TableError> {
        let update = self
            .update_worker(worker)
            .update_expression("SET away_since = :now")
            .condition_expression("#state = :away")
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":away", s(WorkerState::Away.as_str()));
        conditional(update.send().await, "record that the worker was there").map(drop)
    }

    /// Records that the worker accepted the delivery of an event, which is not in backoff any more.
    pub(crate) async fn record_success(
        &self,
        worker: &Worker,
        event: &EventId,
    ) -> Result<(), TableError> {
        let update = self
            .update_worker(worker)
            .update_expression(
                "SET delivered_at = :now, has_delivered = :yes REMOVE failures, failing_since \
                 DELETE in_backoff :event",
            )
            .condition_expression("attribute_exists(#state)")
            .expression_attribute_values(":event", set_of([event]))
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        despite_conflicts(update, "record the worker's success").await
    }

    /// Records that the worker rejected a delivery or a health check. An event that is given is not in backoff any more.
    pub(crate) async fn record_rejection(
        &self,
        worker: &Worker,
        reason: &str,
        event: Option<&EventId>,
    ) -> Result<(), TableError> {
        let update = self
            .update_worker(worker)
            .condition_expression("attribute_exists(#state)")
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":reason", s(reason));
        let update = match event {
            None => update.update_expression(REJECTED),
            Some(event) => update
                .update_expression(format!("{REJECTED} DELETE in_backoff :event"))
                .expression_attribute_values(":event", set_of([event])),
        };
        despite_conflicts(update, "record the worker's rejection").await
    }

    /// Records that the worker rejected the delivery of an event, which is in backoff now. Returns whether it is: a worker
    /// has at most `limit` of them. An event stays one of them until it is delivered, dead-lettered or parked, also while
    /// the worker is away and live again meanwhile.
    pub(crate) async fn put_in_backoff(
        &self,
        worker: &Worker,
        reason: &str,
        event: &EventId,
        limit: u64,
    ) -> Result<bool, TableError> {
        let update = self
            .update_worker(worker)
            .update_expression(format!("{REJECTED} ADD in_backoff :event"))
            .condition_expression(
                "#state = :live AND (attribute_not_exists(in_backoff) OR size(in_backoff) < :limit \
                 OR contains(in_backoff, :id))",
            )
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":reason", s(reason))
            .expression_attribute_values(":live", s(WorkerState::Live.as_str()))
            .expression_attribute_values(":limit", n(limit))
            .expression_attribute_values(":id", s(event.as_str()))
            .expression_attribute_values(":event", set_of([event]));
        match update.send().await {
            Ok(_) => Ok(true),
            // A conflict with another write says nothing of the room.
            Err(error)
                if (error.as_service_error())
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(TableError::call("put a delivery into backoff", error)),
        }
    }
}
