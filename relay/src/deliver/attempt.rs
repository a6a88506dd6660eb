//! One attempt at a delivery from the queue or from a mailbox, and the records of what came of it.

use std::time::Duration;

use bytes::Bytes;
use protocol::clock::{UnixMillis, elapsed, millis};
use tracing::{Instrument as _, trace_span};

use super::Deliver;
use crate::cause::chain;
use crate::delivery::{DeadLetterReason, Delivery, FailedAttempts};
use crate::error::Error;
use crate::event::EventId;
use crate::outbound;
use crate::outcome::Outcome;
use crate::policy::{self, AfterAttempt};
use crate::table::TableError;
use crate::worker::Worker;

/// The shortest wait after a failure of the relay itself.
pub(super) const INTERNAL_FAILURE_WAIT: Duration = Duration::from_secs(5);

/// How long failed attempts are kept: as long as a message can be on the queue and the dead-letter queue (14 days each at
/// most), a day included for delays.
const ATTEMPTS_KEPT_BEYOND: Duration = Duration::from_secs(15 * 24 * 3600);

/// The number of the attempt that comes after these.
pub(super) fn next_number(earlier: Option<FailedAttempts>) -> u64 {
    earlier.map_or(0, |attempts| attempts.count) + 1
}

impl Deliver {
    /// Signs and POSTs a delivery.
    pub(super) async fn post(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        number: u64,
        body: Bytes,
    ) -> Result<Outcome, Error> {
        let signed_at = self.clock.millis();
        let headers = trace_span!("sign").in_scope(|| {
            let (event, kind) = (&delivery.event, &delivery.kind);
            outbound::headers(worker.delivery_headers(event, kind, number, &body, signed_at))
        })?;
        let url = worker.url.as_deref().unwrap_or_default();
        let posted = self.outbound.post(url, headers, body);
        let answer = posted.instrument(trace_span!("POST")).await;
        Ok(Outcome::of(answer, self.clock.millis(), |headers| {
            worker.has_answered(headers, delivery.event.as_str(), signed_at)
        }))
    }

    /// What the policy makes of an attempt after these earlier ones.
    pub(super) fn decide(&self, outcome: Outcome, earlier: Option<FailedAttempts>) -> AfterAttempt {
        let attempt = policy::Attempt {
            outcome,
            tried_for: self.tried_for(earlier),
            jitter: jitter(),
        };
        policy::after_attempt(attempt, &self.config.give_up)
    }

    /// The wait after a failure of the relay itself, of which there may be no record: as long again as the delivery has been on
    /// the queue. After a few hundred receives, SQS would make it a dead letter without a reason (the template's `maxReceiveCount`).
    pub(super) fn internal_wait(&self, delivery: &Delivery) -> Duration {
        let queued_for = elapsed(delivery.sent_at, self.clock.millis());
        policy::backoff(queued_for, None, jitter()).max(INTERNAL_FAILURE_WAIT)
    }

    fn tried_for(&self, earlier: Option<FailedAttempts>) -> Duration {
        let now = self.clock.millis();
        elapsed(earlier.and_then(|a| a.first_at).unwrap_or(now), now)
    }

    /// Records a failed attempt of a delivery that is attempted again after `wait`.
    pub(super) async fn record_failure(
        &self,
        delivery: &Delivery,
        wait: Duration,
    ) -> Result<FailedAttempts, TableError> {
        let keep = self.config.give_up.after + ATTEMPTS_KEPT_BEYOND;
        let due_at = self.clock.millis() + millis(wait);
        self.table.record_attempt(delivery, due_at, keep).await
    }

    /// Records an attempt that was not answered, which says nothing of how long the worker has rejected the delivery. It is
    /// attempted again after `wait`; returns when.
    pub(super) async fn record_unanswered(
        &self,
        delivery: &Delivery,
        wait: Duration,
    ) -> Result<UnixMillis, TableError> {
        let keep = self.config.give_up.after + ATTEMPTS_KEPT_BEYOND;
        let due_at = self.clock.millis() + millis(wait);
        (self.table.record_unanswered(delivery, due_at, keep)).await?;
        Ok(due_at)
    }

    /// Records the last attempt at a delivery, and dead-letters it with its outcome as the reason.
    pub(super) async fn give_up(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        outcome: Outcome,
    ) -> Result<(), Error> {
        let attempts = self.record_failure(delivery, Duration::ZERO).await?;
        let text = outcome.reason();
        (self.note_rejection(worker, &text, Some(&delivery.event))).await;
        (self.dead_letter(worker, delivery, text, Some(attempts))).await?;
        if let Err(error) = self.table.restart_attempts(delivery).await {
            let error = chain(&error);
            tracing::warn!(error, event = %delivery.event, "moved back, the event is tried once");
        }
        Ok(())
    }

    /// Records a rejection on the worker, as far as that succeeds. An event that is given is not in backoff any more.
    pub(super) async fn note_rejection(
        &self,
        worker: &Worker,
        reason: &str,
        event: Option<&EventId>,
    ) {
        if let Err(error) = self.table.record_rejection(worker, reason, event).await {
            let (workspace, error) = (&worker.workspace, chain(&error));
            let worker = &worker.id;
            tracing::warn!(
                workspace,
                worker,
                error,
                "a rejection of worker {worker} was not recorded"
            );
        }
    }

    /// Records a success on the worker, as far as that succeeds.
    pub(super) async fn note_success(&self, worker: &Worker, event: &EventId) {
        if let Err(error) = self.table.record_success(worker, event).await {
            let (workspace, error) = (&worker.workspace, chain(&error));
            let worker = &worker.id;
            tracing::warn!(
                workspace,
                worker,
                error,
                "a success of worker {worker} was not recorded"
            );
        }
    }

    /// Dead-letters a delivery.
    pub(super) async fn dead_letter(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        text: String,
        attempts: Option<FailedAttempts>,
    ) -> Result<(), Error> {
        let first_attempt_at = attempts.and_then(|a| a.first_at);
        let reason = DeadLetterReason {
            text,
            first_attempt_at: first_attempt_at.unwrap_or_else(|| self.clock.millis()),
            user: worker.owner().map(str::to_owned),
        };
        self.table.store_again(delivery).await?;
        self.dead_letters.dead_letter(delivery, &reason).await?;
        tracing::warn!(
            event = %delivery.event,
            workspace = delivery.workspace,
            worker = delivery.worker,
            user = reason.user,
            attempts = attempts.map_or(0, |a| a.count),
            reason = reason.text,
            outcome = "dead_lettered",
            "dead-lettered event {} for worker {}",
            delivery.event,
            delivery.worker
        );
        Ok(())
    }

    /// Removes a worker that answered 410. Returns whether it still was as read.
    pub(super) async fn remove(&self, worker: &Worker) -> Result<bool, TableError> {
        let is_removed = self.table.remove_worker(worker).await?;
        if is_removed {
            tracing::info!(
                worker = worker.id,
                workspace = worker.workspace,
                user = worker.owner(),
                "removed worker {}: it answered 410",
                worker.id
            );
        }
        Ok(is_removed)
    }
}

pub(super) fn jitter() -> f64 {
    fastrand::f64() * 2.0 - 1.0
}
