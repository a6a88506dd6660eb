//! The deliveries of one FIFO group in a batch, one after another.

use std::borrow::Cow;
use std::time::Duration;

use protocol::clock::elapsed;
use protocol::messages::WorkerState;
use tokio::time::Instant;

use super::{Batch, Deliver};
use crate::cause::chain;
use crate::delivery::{DeadLetterReason, Delivery};
use crate::error::Error;
use crate::outbound;
use crate::outcome::Outcome;
use crate::policy;
use crate::table::{Parking, TableError};
use crate::worker::Worker;

/// The shortest wait after a failure of the relay itself.
const INTERNAL_FAILURE_WAIT: Duration = Duration::from_secs(5);

/// How often a worker's state is read again because it changed between the read and the write.
const TRIES: u32 = 3;

/// How long failed attempts are kept: as long as a message can be on the queue and the dead-letter queue (14 days each at
/// most), a day included for delays.
const ATTEMPTS_KEPT_BEYOND: Duration = Duration::from_secs(15 * 24 * 3600);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// It is deleted.
    Acknowledge,
    /// It becomes visible again after this long.
    Return(Duration),
}

/// The result of processing the first of the remaining deliveries.
enum Step {
    /// It is settled.
    Acknowledge,
    /// It is settled, and so are all behind it.
    AcknowledgeAll,
    /// It has to wait, and so do all behind it.
    Return(Duration),
}

/// A group under way.
pub(super) struct Group<'a, 'b> {
    deliver: &'b Deliver,
    batch: &'b Batch<'a>,
    deliveries: Vec<&'a Delivery>,
    /// The worker as last read; none if it is gone.
    worker: Option<Cow<'b, Worker>>,
}

impl<'a, 'b> Group<'a, 'b> {
    pub(super) fn new(
        deliver: &'b Deliver,
        batch: &'b Batch<'a>,
        deliveries: Vec<&'a Delivery>,
    ) -> Self {
        Self {
            deliver,
            batch,
            worker: batch.context.worker(deliveries[0]).map(Cow::Borrowed),
            deliveries,
        }
    }

    /// Processes the deliveries in order until one has to wait. Those behind it return to the queue at once, where the
    /// group stays blocked by the one that waits.
    pub(super) async fn run(mut self) -> Vec<(&'a Delivery, Disposition)> {
        let mut done = Vec::with_capacity(self.deliveries.len());
        while let Some(delivery) = self.deliveries.get(done.len()).copied() {
            let (first, rest) = match self.step(done.len()).await {
                Step::Acknowledge => {
                    done.push((delivery, Disposition::Acknowledge));
                    continue;
                }
                Step::AcknowledgeAll => (Disposition::Acknowledge, Disposition::Acknowledge),
                Step::Return(wait) => (
                    Disposition::Return(wait),
                    Disposition::Return(Duration::ZERO),
                ),
            };
            done.push((delivery, first));
            let behind = self.deliveries[done.len()..].iter();
            done.extend(behind.map(|delivery| (*delivery, rest)));
        }
        done
    }

    async fn step(&mut self, at: usize) -> Step {
        if Instant::now() > self.batch.deadline {
            return Step::Return(Duration::ZERO);
        }
        let delivery = self.deliveries[at];
        match self.process(at).await {
            Ok(step) => step,
            Err(error) => {
                tracing::error!(
                    event = %delivery.event,
                    worker = delivery.worker,
                    error = chain(&error),
                    "event {} for worker {} could not be processed",
                    delivery.event,
                    delivery.worker
                );
                Step::Return(self.backoff(delivery, None).max(INTERNAL_FAILURE_WAIT))
            }
        }
    }

    /// Attempts or parks the delivery at this index.
    async fn process(&mut self, at: usize) -> Result<Step, Error> {
        let delivery = self.deliveries[at];
        for _ in 0..TRIES {
            let Some(worker) = self.worker.clone() else {
                tracing::info!(
                    event = %delivery.event,
                    worker = delivery.worker,
                    "event {} is dropped: worker {} is removed",
                    delivery.event,
                    delivery.worker
                );
                return Ok(Step::Acknowledge);
            };
            if worker.state == WorkerState::Live {
                return self.attempt(&worker, at).await;
            }
            if self.park(at, 0).await? == Parking::Parked {
                return Ok(Step::AcknowledgeAll);
            }
            // The worker has become live, or is gone.
            let table = &self.deliver.table;
            let read = table.worker(&delivery.workspace, &delivery.worker).await?;
            self.worker = read.map(Cow::Owned);
        }
        Ok(Step::Return(policy::SHORTEST))
    }

    /// Parks the delivery at this index and all behind it. `attempted` is how many attempts at the first are newer than
    /// the batch's context.
    async fn park(&self, at: usize, attempted: u64) -> Result<Parking, TableError> {
        let deliveries = &self.deliveries[at..];
        let attempts = |delivery| self.batch.context.attempts(delivery).map_or(0, |a| a.count);
        let mut numbered: Vec<_> = (deliveries.iter())
            .map(|delivery| (*delivery, attempts(delivery) + 1))
            .collect();
        numbered[0].1 += attempted;
        let Delivery {
            workspace, worker, ..
        } = deliveries[0];
        let keep = self.deliver.config.mailbox_retention;
        let parking = (self.deliver.table)
            .park(workspace, worker, &numbered, keep)
            .await?;
        if parking == Parking::Parked {
            for delivery in deliveries {
                tracing::info!(
                    event = %delivery.event,
                    workspace,
                    worker,
                    Parked = 1,
                    "parked event {}",
                    delivery.event
                );
            }
        }
        Ok(parking)
    }

    async fn attempt(&mut self, worker: &Worker, at: usize) -> Result<Step, Error> {
        let delivery = self.deliveries[at];
        let deliver = self.deliver;
        let earlier = self.batch.context.attempts(delivery);
        let now = deliver.clock.millis();
        let Some(body) = deliver.body(self.batch, delivery).await? else {
            let reason = DeadLetterReason {
                text: "the stored body is gone".to_owned(),
                status: None,
                first_attempt_at: earlier.map_or(now, |a| a.first_at),
                last_attempt_at: now,
            };
            return (self.dead_letter(delivery, &reason, earlier.map_or(0, |a| a.count))).await;
        };
        let number = earlier.map_or(0, |a| a.count) + 1;
        let signed = worker.delivery_headers(&delivery.event, &delivery.kind, number, &body, now);
        let headers = outbound::headers(signed)?;
        let url = worker.url.as_deref().unwrap_or_default();
        let answer = deliver.outbound.post(url, headers, body).await;
        let (signed_at, now) = (now, deliver.clock.millis());
        let outcome = Outcome::of(answer, now, |headers| {
            worker.has_answered(headers, delivery.event.as_str(), signed_at)
        });
        self.batch.report.attempt(delivery, number, outcome, now);
        match outcome {
            Outcome::Delivered => {
                (deliver.record_success(self.batch, delivery, worker, now)).await;
                Ok(Step::Acknowledge)
            }
            Outcome::Gone => self.remove(worker).await,
            Outcome::Unreachable(_) => self.unreachable(worker, at, outcome).await,
            Outcome::Rejected { retry_after, .. } => {
                self.rejected(worker, delivery, outcome, retry_after).await
            }
        }
    }

    async fn remove(&mut self, worker: &Worker) -> Result<Step, Error> {
        if !self.deliver.table.remove_worker(worker).await? {
            // It has registered again, or has another address, since it was read.
            return Ok(Step::Return(policy::SHORTEST));
        }
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            "removed worker {}: it answered 410",
            worker.id
        );
        self.worker = None;
        Ok(Step::Acknowledge)
    }

    /// Counts the attempt against the worker. If that marks the worker away, its deliveries are parked.
    async fn unreachable(
        &self,
        worker: &Worker,
        at: usize,
        outcome: Outcome,
    ) -> Result<Step, Error> {
        let delivery = self.deliveries[at];
        let table = &self.deliver.table;
        let counted = table.count_unreachable(worker, &outcome.reason()).await?;
        (table.record_attempt(delivery, self.attempts_kept())).await?;
        let Some(attempts) = counted else {
            // Another batch has marked it away, or it has another address.
            return Ok(Step::Return(policy::SHORTEST));
        };
        // An absent laptop is never a reason for a dead letter: what was retried long enough is parked.
        let gives_up = (self.deliver.config.give_up).is_due(self.age(delivery), None);
        if (attempts.are_enough() || gives_up) && table.mark_away(worker).await? {
            tracing::info!(
                worker = worker.id,
                workspace = worker.workspace,
                "worker {} is away",
                worker.id
            );
            if self.park(at, 1).await? == Parking::Parked {
                return Ok(Step::AcknowledgeAll);
            }
        }
        Ok(Step::Return(self.backoff(delivery, None)))
    }

    /// Records the rejection and returns the delivery to the queue, or dead-letters it.
    async fn rejected(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        outcome: Outcome,
        retry_after: Option<Duration>,
    ) -> Result<Step, Error> {
        let table = &self.deliver.table;
        let text = outcome.reason();
        if let Err(error) = table.record_rejection(worker, &text).await {
            let (worker, error) = (&worker.id, chain(&error));
            tracing::warn!(
                worker,
                error,
                "a rejection of worker {worker} was not recorded"
            );
        }
        let attempts = (table.record_attempt(delivery, self.attempts_kept())).await?;
        let give_up = self.deliver.config.give_up;
        if !give_up.is_due(self.age(delivery), outcome.status()) {
            return Ok(Step::Return(self.backoff(delivery, retry_after)));
        }
        let reason = DeadLetterReason {
            text,
            status: outcome.status(),
            first_attempt_at: attempts.first_at,
            last_attempt_at: self.deliver.clock.millis(),
        };
        self.dead_letter(delivery, &reason, attempts.count).await
    }

    async fn dead_letter(
        &self,
        delivery: &Delivery,
        reason: &DeadLetterReason,
        attempts: u64,
    ) -> Result<Step, Error> {
        (self.deliver.dead_letters.dead_letter(delivery, reason)).await?;
        tracing::warn!(
            event = %delivery.event,
            workspace = delivery.workspace,
            worker = delivery.worker,
            attempts,
            reason = reason.text,
            Deliveries = 1,
            Outcome = "dead_lettered",
            "dead-lettered event {} for worker {}",
            delivery.event,
            delivery.worker
        );
        Ok(Step::Acknowledge)
    }

    fn age(&self, delivery: &Delivery) -> Duration {
        elapsed(delivery.sent_at, self.deliver.clock.millis())
    }

    /// The wait until the next attempt, in the whole seconds that SQS counts.
    fn backoff(&self, delivery: &Delivery, retry_after: Option<Duration>) -> Duration {
        let random = getrandom::u32().expect("the system's random source works");
        let jitter = f64::from(random) / f64::from(u32::MAX) * 2.0 - 1.0;
        let wait = policy::backoff(self.age(delivery), retry_after, jitter);
        Duration::from_secs(wait.as_millis().div_ceil(1000) as u64)
    }

    fn attempts_kept(&self) -> Duration {
        self.deliver.config.give_up.after + ATTEMPTS_KEPT_BEYOND
    }
}
