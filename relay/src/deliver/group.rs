//! The deliveries of one FIFO group in a batch, one after another.

use std::borrow::Cow;
use std::time::Duration;

use protocol::clock::{elapsed, millis};
use protocol::messages::{AwayReason, Control, WorkerState};
use tokio::time::Instant;

use super::attempt::next_number;
use super::{Batch, Deliver, report};
use crate::cause::chain;
use crate::delivery::Delivery;
use crate::error::Error;
use crate::outcome::Outcome;
use crate::policy::{self, AfterAttempt, OnReceipt};
use crate::probe::probe;
use crate::table::Parking;
use crate::worker::Worker;

/// How often a worker's state is read again because it changed between the read and the write.
const TRIES: u32 = 3;

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
    /// So many are settled, from it on.
    Acknowledge(usize),
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
            deliveries,
            worker: None,
        }
    }

    /// Processes the deliveries in order until one has to wait. Those behind it return to the queue at once, where the
    /// group stays blocked by the one that waits.
    pub(super) async fn run(mut self) -> Vec<(&'a Delivery, Disposition)> {
        let mut done = Vec::with_capacity(self.deliveries.len());
        while let Some(delivery) = self.deliveries.get(done.len()).copied() {
            match self.step(done.len()).await {
                Step::Acknowledge(count) => {
                    let settled = self.deliveries[done.len()..].iter().take(count);
                    done.extend(settled.map(|delivery| (*delivery, Disposition::Acknowledge)));
                }
                Step::Return(wait) => {
                    done.push((delivery, Disposition::Return(wait)));
                    let behind = self.deliveries[done.len()..].iter();
                    done.extend(
                        behind.map(|delivery| (*delivery, Disposition::Return(Duration::ZERO))),
                    );
                }
            }
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
                    workspace = delivery.workspace,
                    worker = delivery.worker,
                    user = self.worker.as_deref().and_then(Worker::owner),
                    error = chain(&error),
                    "event {} for worker {} could not be processed",
                    delivery.event,
                    delivery.worker
                );
                Step::Return(self.deliver.internal_wait(delivery))
            }
        }
    }

    /// Attempts or parks the delivery at this index.
    async fn process(&mut self, at: usize) -> Result<Step, Error> {
        let delivery = self.deliveries[at];
        if at == 0 {
            self.worker = self.batch.context.worker(delivery)?.map(Cow::Borrowed);
        }
        for _ in 0..TRIES {
            let worker = self.worker.clone();
            let is_overdue = |w: &Worker| {
                let (membership, now) =
                    (self.deliver.config.membership, self.deliver.clock.millis());
                policy::is_membership_overdue(w.checked_at, membership, now)
            };
            let known = worker.as_deref().map(|w| (w.state, is_overdue(w)));
            match (policy::on_receipt(known), worker) {
                (OnReceipt::Drop, _) | (_, None) => {
                    let table = &self.deliver.table;
                    let (workspace, id) = (&delivery.workspace, &delivery.worker);
                    if table.has_earlier_worker(workspace, id).await? {
                        return Ok(Step::Return(self.deliver.internal_wait(delivery)));
                    }
                    tracing::info!(
                        event = %delivery.event,
                        workspace = delivery.workspace,
                        worker = delivery.worker,
                        "event {} is dropped: worker {} is removed",
                        delivery.event,
                        delivery.worker
                    );
                    return Ok(Step::Acknowledge(1));
                }
                (_, Some(worker)) if !worker.may_see(&delivery.teams) => {
                    if self.withhold(&worker, delivery).await? {
                        return Ok(Step::Acknowledge(1));
                    }
                }
                (OnReceipt::MarkAway, Some(worker)) => {
                    let reason = AwayReason::Unchecked;
                    return self.away(&worker, at, 0, reason, policy::SHORTEST).await;
                }
                (OnReceipt::Attempt, Some(worker)) => return self.attempt(&worker, at).await,
                (OnReceipt::Park, Some(worker)) => {
                    if let Some(parked) = self.park(&worker, at, 0).await? {
                        return Ok(Step::Acknowledge(parked));
                    }
                }
            }
            // The worker has become live or gone, or its user was seen to see other teams.
            let table = &self.deliver.table;
            let read = table.worker(&delivery.workspace, &delivery.worker).await?;
            self.worker = read.map(Cow::Owned);
        }
        Ok(Step::Return(policy::SHORTEST))
    }

    /// Withholds a delivery. Returns whether it is withheld: if not, the worker has changed.
    async fn withhold(&self, worker: &Worker, delivery: &Delivery) -> Result<bool, Error> {
        let deliver = self.deliver;
        let keep = deliver.config.mailbox_retention;
        if !deliver.table.withhold(worker, delivery, keep).await? {
            return Ok(false);
        }
        tracing::info!(
            event = %delivery.event,
            workspace = worker.workspace,
            worker = worker.id,
            Withheld = 1,
            "withheld event {}: the user of the worker could not see its team at the last check",
            delivery.event
        );
        // Once for each check. Whether it arrives is no matter: the next renewal says it, too.
        if worker.withheld == 0 && worker.pulls && worker.state == WorkerState::Live {
            let ping = Control::Ping {
                waiting: worker.waiting,
                withheld: true,
            };
            probe(&deliver.outbound, &deliver.clock, worker, &ping).await?;
        }
        Ok(true)
    }

    /// Parks the delivery at this index and all behind it that are not withheld. Returns how many, or none if the worker is
    /// not away any more. `attempted` is how many attempts at the first are newer than the batch's context.
    async fn park(
        &self,
        worker: &Worker,
        at: usize,
        attempted: u64,
    ) -> Result<Option<usize>, Error> {
        let behind = self.deliveries[at..].iter();
        let count = behind.take_while(|d| worker.may_see(&d.teams)).count();
        let deliveries = &self.deliveries[at..at + count];
        let mut numbered: Vec<_> = (deliveries.iter())
            .map(|delivery| {
                (
                    *delivery,
                    next_number(self.batch.context.attempts(delivery)),
                )
            })
            .collect();
        numbered[0].1 += attempted;
        // Before the first event is parked, so that none can be parked with nobody to deliver it.
        if worker.is_drained() && !worker.waiting {
            let due_at = self.deliver.clock.millis() + millis(policy::DRAIN_FIRST);
            self.deliver.queue.request_drain(worker, due_at).await?;
        }
        let tried = (numbered.iter()).filter(|(_, next)| *next > 1);
        let tried: Vec<_> = tried.map(|(delivery, _)| *delivery).collect();
        if worker.is_drained() && worker.away_reason == Some(AwayReason::Unreachable) {
            // The time for which the worker was unreachable does not count as time for which it rejected them.
            for delivery in &tried {
                self.deliver.table.restart_attempts(delivery).await?;
            }
        }
        let keep = self.deliver.config.mailbox_retention;
        let parking = self.deliver.table.park(worker, &numbered, keep).await?;
        if parking == Parking::Parked {
            if !policy::is_drained(worker.state, worker.pulls) {
                // The numbers of their next attempts are in the mailbox, and the relay attempts them no more.
                self.deliver.forget_attempts(&tried).await;
            }
            for delivery in deliveries {
                tracing::info!(
                    event = %delivery.event,
                    workspace = worker.workspace,
                    worker = worker.id,
                    reason = worker.why_away().map(AwayReason::as_str),
                    Parked = 1,
                    "parked event {}",
                    delivery.event
                );
            }
        }
        Ok((parking == Parking::Parked).then_some(count))
    }

    async fn attempt(&mut self, worker: &Worker, at: usize) -> Result<Step, Error> {
        let delivery = self.deliveries[at];
        let deliver = self.deliver;
        let earlier = self.batch.context.attempts(delivery);
        let Some(body) = deliver.body(self.batch, delivery).await? else {
            let reason = "the stored body is gone".to_owned();
            (deliver.dead_letter(worker, delivery, reason, earlier)).await?;
            return Ok(Step::Acknowledge(1));
        };
        let number = next_number(earlier);
        let outcome = deliver.post(worker, delivery, number, body).await?;
        let now = deliver.clock.millis();
        let latency_ms = (now - delivery.sent_at).max(0);
        report::attempt(delivery, worker.owner(), number, outcome, Some(latency_ms));
        match deliver.decide(outcome, earlier) {
            AfterAttempt::Acknowledge => {
                let was_tried = earlier.is_some();
                (deliver.record_success(self.batch, delivery, worker, was_tried)).await;
                Ok(Step::Acknowledge(1))
            }
            AfterAttempt::RemoveWorker if deliver.remove(worker).await? => {
                self.worker = None;
                Ok(Step::Acknowledge(1))
            }
            // It has registered again, or has another address, since it was read.
            AfterAttempt::RemoveWorker => Ok(Step::Return(policy::SHORTEST)),
            AfterAttempt::Unreachable { is_overdue, wait } => {
                (self.unreachable(worker, at, outcome, is_overdue, wait)).await
            }
            AfterAttempt::Retry(wait) => self.rejected(worker, at, outcome, wait).await,
            AfterAttempt::DeadLetter => {
                deliver.give_up(worker, delivery, outcome).await?;
                Ok(Step::Acknowledge(1))
            }
        }
    }

    /// Counts the attempt against the worker. If that marks the worker away, its deliveries are parked.
    async fn unreachable(
        &mut self,
        worker: &Worker,
        at: usize,
        outcome: Outcome,
        is_overdue: bool,
        wait: Duration,
    ) -> Result<Step, Error> {
        let (deliver, delivery) = (self.deliver, self.deliveries[at]);
        // Should it be parked now, it is due as soon as the worker is back.
        deliver.record_failure(delivery, Duration::ZERO).await?;
        let limit = deliver.config.deliveries_in_backoff;
        let counted = (deliver.table)
            .count_unreachable(worker, &outcome.reason(), Some(&delivery.event))
            .await?;
        match counted {
            // Another batch has marked it away, or it has another address.
            None => Ok(Step::Return(policy::SHORTEST)),
            Some(attempts) if attempts.are_enough() || attempts.exceed(limit) || is_overdue => {
                self.away(worker, at, 1, AwayReason::Unreachable, wait)
                    .await
            }
            Some(_) => Ok(Step::Return(wait)),
        }
    }

    /// Puts the delivery into backoff. If the worker has no room for another one there, or too much waits behind this one, it is
    /// away.
    async fn rejected(
        &mut self,
        worker: &Worker,
        at: usize,
        outcome: Outcome,
        wait: Duration,
    ) -> Result<Step, Error> {
        let (deliver, delivery) = (self.deliver, self.deliveries[at]);
        let attempts = deliver.record_failure(delivery, wait).await?;
        let (event, reason, now) = (&delivery.event, outcome.reason(), deliver.clock.millis());
        let limit = deliver.config.deliveries_in_backoff;
        let holds_up = policy::holds_up(policy::Rejected {
            tried_for: elapsed(attempts.first_at.unwrap_or(now), now),
            queued_for: elapsed(delivery.sent_at, now),
            behind: self.deliveries.len() - at - 1,
        });
        let has_room = !holds_up
            && (worker.shows_rejection(event, &reason, now)
                || (deliver.table)
                    .put_in_backoff(worker, &reason, event, limit)
                    .await?);
        if has_room {
            return Ok(Step::Return(wait));
        }
        self.away(worker, at, 1, AwayReason::Rejecting, policy::SHORTEST)
            .await
    }

    /// Marks the worker away and parks its deliveries, of which the first was just attempted so often. If it has changed
    /// meanwhile, they return after `wait`.
    async fn away(
        &mut self,
        worker: &Worker,
        at: usize,
        attempted: u64,
        reason: AwayReason,
        wait: Duration,
    ) -> Result<Step, Error> {
        let Some(away_since) = self.deliver.table.mark_away(worker, reason).await? else {
            return Ok(Step::Return(wait));
        };
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            user = worker.owner(),
            reason = reason.as_str(),
            "worker {} is away: it is {}",
            worker.id,
            reason.as_str()
        );
        let away = Worker {
            state: WorkerState::Away,
            away_since: Some(away_since),
            away_reason: Some(reason),
            waiting: false,
            ..worker.clone()
        };
        let parked = self.park(&away, at, attempted).await?;
        // What comes behind is not attempted as if it were still there.
        self.worker = Some(Cow::Owned(away));
        Ok(parked.map_or(Step::Return(wait), Step::Acknowledge))
    }
}
