//! Pauses a worker, and resumes it.
//!
//! Invariant: a paused worker is away or a pull worker, since `mark_live` requires that it is not paused. So its events are
//! parked like those of any other.

use aws_sdk_dynamodb::types::AttributeValue;
use protocol::messages::WorkerState;

use super::workers::conditional;
use super::{Table, TableError, n, s};
use crate::worker::Worker;

impl Table {
    /// Pauses a worker. Returns whether it is paused: if not, its registration or state is not as it was read.
    pub(crate) async fn pause(&self, worker: &Worker) -> Result<bool, TableError> {
        let now = self.clock.millis();
        let update = (self.update_worker(worker))
            .condition_expression("#token = :token AND #state = :was")
            .expression_attribute_names("#token", "token")
            .expression_attribute_values(":token", s(&worker.token_hash))
            .expression_attribute_values(":was", s(worker.state.as_str()))
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        let is_live = worker.state == WorkerState::Live;
        let update = if is_live {
            update
                .update_expression(
                    "SET paused = :yes, #state = :away, away_since = :now \
                     REMOVE failures, failing_since, away_reason",
                )
                .expression_attribute_values(":away", s(WorkerState::Away.as_str()))
                .expression_attribute_values(":now", n(now))
        } else {
            update.update_expression("SET paused = :yes")
        };
        let is_paused = conditional(update.send().await, "pause the worker")?.is_some();
        if is_paused && is_live && worker.subscription.group.is_some() {
            self.route_away(&worker.workspace, &worker.id, Some(now))
                .await;
        }
        Ok(is_paused)
    }

    /// Resumes a paused worker. One that is away is live again once its mailbox is empty. Returns whether it was paused.
    pub(crate) async fn resume(&self, worker: &Worker) -> Result<bool, TableError> {
        let update = (self.update_worker(worker))
            .update_expression("REMOVE paused")
            .condition_expression("attribute_exists(#state) AND attribute_exists(paused)");
        Ok(conditional(update.send().await, "resume the worker")?.is_some())
    }
}
