//! Pauses a worker, and resumes it.
//!
//! Invariant: a paused worker is away or a pull worker, since `mark_live` requires that it is not paused. So its events are
//! parked like those of any other, and its group counts it as away.

use aws_sdk_dynamodb::types::AttributeValue;
use protocol::clock::UnixMillis;
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
            .expression_attribute_values(":now", n(now))
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        let update = match worker.state {
            WorkerState::Live => update
                .update_expression(
                    "SET paused = :yes, #state = :away, away_since = :now \
                     REMOVE failures, failing_since, away_reason",
                )
                .expression_attribute_values(":away", s(WorkerState::Away.as_str())),
            WorkerState::Away | WorkerState::Pull => update.update_expression(
                "SET paused = :yes, away_since = if_not_exists(away_since, :now)",
            ),
        };
        let is_paused = conditional(update.send().await, "pause the worker")?.is_some();
        if is_paused && worker.subscription.group.is_some() {
            let since = worker.away_since.unwrap_or(now);
            self.route_away(&worker.workspace, &worker.id, Some(since))
                .await;
        }
        Ok(is_paused)
    }

    /// Resumes a paused worker. One that is away counts as away from now on, and is live again once its mailbox is empty.
    /// Returns since when it is away, if it was paused and its state is as it was read.
    pub(crate) async fn resume(&self, worker: &Worker) -> Result<Option<UnixMillis>, TableError> {
        let now = self.clock.millis();
        let update = (self.update_worker(worker))
            .condition_expression("#state = :was AND attribute_exists(paused)")
            .expression_attribute_values(":was", s(worker.state.as_str()));
        let is_away = worker.state == WorkerState::Away;
        let update = if is_away {
            update
                .update_expression("SET away_since = :now REMOVE paused")
                .expression_attribute_values(":now", n(now))
        } else {
            update.update_expression("REMOVE paused, away_since")
        };
        let is_resumed = conditional(update.send().await, "resume the worker")?.is_some();
        if is_resumed && worker.subscription.group.is_some() {
            self.route_away(&worker.workspace, &worker.id, is_away.then_some(now))
                .await;
        }
        Ok(is_resumed.then_some(now))
    }
}
