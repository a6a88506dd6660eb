//! Drains the mailbox of an away worker that does not empty it itself: probes the worker, soon and then at growing gaps,
//! and once it answers, delivers its mailbox oldest first and marks it live.
//!
//! A drain is a message on the queue in a FIFO group of its own, so that it survives a crash, no two drains of a worker
//! overlap, and its visibility timeout is the wait until the next probe. Invariant: an event leaves the mailbox only after
//! it was delivered or dead-lettered. New events are parked behind until the mailbox is empty, so order holds; an event
//! that is rejected, or never answered, holds back those with its ordering key, and no others.

use std::collections::HashMap;
use std::time::Duration;

use protocol::clock::{UnixMillis, elapsed, millis};
use tokio::time::Instant;

use super::attempt::INTERNAL_FAILURE_WAIT;
use super::attempt::next_number;
use super::{BATCH_BUDGET, Deliver, report};
use crate::cause::chain;
use crate::delivery::FailedAttempts;
use crate::error::Error;
use crate::outcome::Outcome;
use crate::policy::{self, AfterAttempt, AfterProbe, Probed};
use crate::probe::{ping, probe};
use crate::queue::DrainRequest;
use crate::table::{BatchContext, ParkedEvent};
use crate::worker::Worker;

/// How many events are read from the mailbox at once.
const PAGE: usize = 25;
/// No more events are read at once after this many bytes of bodies.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A message that was received so often is replaced by a new one, long before the queue's redrive policy would move it to
/// the dead-letter queue.
const RECEIVED_OFTEN: u64 = 50;
/// So is one that is so old, and none is invisible for longer: so the age of the oldest message on the queue, on which there
/// is an alarm, says nothing of a worker that is away.
const HELD: Duration = Duration::from_secs(5 * 60);

/// How a drain, or a part of it, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is nothing to drain any more.
    Done,
    /// It is not due yet.
    NotDue,
    /// It goes on after this long.
    Wait(Duration),
    /// It goes on at once, in an invocation of its own.
    OutOfTime,
}

impl End {
    /// Whether it is done, or the worker has changed meanwhile.
    fn if_done(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::OutOfTime }
    }
}

/// What became of an event in the mailbox.
enum Step {
    /// It leaves the mailbox, and the records of its failed attempts go.
    Delivered,
    /// It leaves the mailbox, and its attempts stay counted.
    DeadLettered,
    /// It stays, because it or an earlier one of its group is in backoff.
    Blocked,
    /// It stays, and so does everything behind it.
    End(End),
}

/// What became of a page of the mailbox.
enum Page {
    /// Its events are delivered, but for those that are blocked.
    Delivered,
    /// More was parked since the pages before it were read, or the worker was changed.
    OutOfDate,
    /// The drain ends here.
    End(End),
}

/// A drain under way.
struct Drain<'a> {
    deliver: &'a Deliver,
    worker: Worker,
    began: Instant,
    /// The groups whose head is in backoff, and until when.
    blocked: HashMap<String, UnixMillis>,
    has_delivered: bool,
    /// It has answered the ping, and an event not. Before another one is passed over, it has to answer a ping again.
    is_in_doubt: bool,
}

impl Deliver {
    /// Drains a mailbox as far as it goes. Returns whether the request is settled.
    pub async fn drain(&self, request: &DrainRequest) -> bool {
        let (workspace, worker) = (&request.workspace, &request.worker);
        let end = self.drain_in_time(request).await.unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::error!(
                workspace,
                worker,
                error,
                "the mailbox of worker {worker} could not be drained"
            );
            End::Wait(INTERNAL_FAILURE_WAIT)
        });
        let now = self.clock.millis();
        let is_worn = request.received >= RECEIVED_OFTEN || elapsed(request.sent_at, now) >= HELD;
        let (wait, is_replaced) = match end {
            End::Done => return true,
            End::NotDue => (self.until(request.due_at), is_worn),
            End::Wait(wait) => (wait, is_worn || wait > HELD),
            End::OutOfTime => (Duration::ZERO, true),
        };
        if is_replaced {
            match self.queue.continue_drain(request, now + millis(wait)).await {
                Ok(()) => return true,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(
                        workspace,
                        worker,
                        error,
                        "a request to drain was not replaced"
                    );
                }
            }
        }
        let wait = wait.min(HELD);
        let returned = [(request.receipt_handle.clone(), wait)];
        self.queue.return_after(&returned).await;
        false
    }

    async fn drain_in_time(&self, request: &DrainRequest) -> Result<End, Error> {
        let found = self
            .table
            .worker(&request.workspace, &request.worker)
            .await?;
        let Some(worker) = found.filter(Worker::is_drained) else {
            return Ok(End::Done);
        };
        let now = self.clock.millis();
        if request.due_at > now {
            return Ok(End::NotDue);
        }
        if policy::is_membership_overdue(worker.checked_at, self.config.membership, now) {
            let away_for = elapsed(worker.away_since.unwrap_or(now), now);
            return Ok(End::Wait(policy::drain_wait(away_for)));
        }
        let mut drain = Drain {
            deliver: self,
            worker,
            began: Instant::now(),
            blocked: HashMap::new(),
            has_delivered: false,
            is_in_doubt: false,
        };
        drain.run().await
    }

    /// The wait until `due_at`, in the whole seconds that SQS counts.
    fn until(&self, due_at: UnixMillis) -> Duration {
        let left = elapsed(self.clock.millis(), due_at).max(policy::SHORTEST);
        Duration::from_secs(left.as_millis().div_ceil(1000) as u64)
    }
}

impl Drain<'_> {
    async fn run(&mut self) -> Result<End, Error> {
        let (deliver, worker) = (self.deliver, &self.worker);
        // After the worker was read: `mark_live` requires that nothing was parked since.
        let waiting = deliver
            .table
            .has_mail(&worker.workspace, &worker.id)
            .await?;
        match self.probe(waiting).await? {
            AfterProbe::RemoveWorker => self.remove().await,
            AfterProbe::Drain => self.empty().await,
            AfterProbe::MarkLive => self.mark_live().await,
            _ => Ok(End::Wait(self.wait())),
        }
    }

    /// Pings the worker.
    async fn probe(&self, waiting: bool) -> Result<AfterProbe, Error> {
        let (deliver, worker) = (self.deliver, &self.worker);
        let ping = ping(worker, waiting);
        let outcome = probe(&deliver.outbound, &deliver.clock, worker, &ping).await?;
        let probed = Probed {
            state: worker.state,
            pulls: worker.pulls,
            waiting,
            has_failures: false,
        };
        Ok(policy::after_probe(probed, outcome))
    }

    /// Delivers the mailbox until it is empty or has to wait.
    async fn empty(&mut self) -> Result<End, Error> {
        // What stays, because it is blocked, is passed over. Other groups may have events parked meanwhile whose place is
        // before that: then what is behind must wait until they were seen.
        let (mut after, mut parked): (Option<String>, _) = (None, self.worker.parked);
        loop {
            let page = (self.deliver.table)
                .oldest_visible(&self.worker, PAGE, PAGE_BYTES, after.as_deref())
                .await?;
            let Some(page) = page else {
                // The next drain reads the worker as it is now.
                return Ok(End::OutOfTime);
            };
            let Some(last) = page.last() else {
                break;
            };
            let expected = after.is_some().then_some(parked);
            match self.deliver_page(&page, expected).await? {
                Page::Delivered if self.blocked.is_empty() => after = None,
                Page::Delivered => after = Some(last.id.clone()),
                Page::OutOfDate => after = None,
                Page::End(end) => return Ok(end),
            }
            if after.is_none() {
                parked = self.worker.parked;
            }
        }
        match self.pause() {
            Some(pause) => Ok(pause),
            None => self.mark_live().await,
        }
    }

    /// How the drain goes on if events are blocked: when the first of them is due, or when it is time to look for others.
    fn pause(&self) -> Option<End> {
        let due_in = self.deliver.until(*self.blocked.values().min()?);
        let again_in = policy::drain_again(self.began.elapsed());
        Some(End::Wait(due_in.min(again_in)))
    }

    /// Delivers a page of the mailbox, and removes from it what is settled, also when something fails on the way. The page
    /// is out of date unless as many events as `expected` were parked so far.
    async fn deliver_page(
        &mut self,
        page: &[ParkedEvent],
        expected: Option<u64>,
    ) -> Result<Page, Error> {
        let (deliver, table) = (self.deliver, &self.deliver.table);
        let deliveries: Vec<_> = page.iter().map(|parked| parked.delivery.clone()).collect();
        let context = table.batch_context(&deliveries).await?;
        match context.worker(&deliveries[0])? {
            Some(worker) if worker.is_drained() => {
                // The page is what may be seen by the registration and the subscription that were read before it.
                let is_same = worker.revision == self.worker.revision
                    && worker.token_hash == self.worker.token_hash;
                self.worker = worker.clone();
                if !is_same || expected.is_some_and(|parked| parked != self.worker.parked) {
                    return Ok(Page::OutOfDate);
                }
            }
            _ => return Ok(Page::End(End::Done)),
        }
        let (mut settled, mut tried) = (Vec::new(), Vec::new());
        let mut end = Ok(Page::Delivered);
        for parked in page {
            match self.deliver_one(parked, &context).await {
                Ok(Step::DeadLettered) => settled.push(parked.id.clone()),
                Ok(Step::Delivered) => {
                    settled.push(parked.id.clone());
                    if context.attempts(&parked.delivery).is_some() {
                        tried.push(&parked.delivery);
                    }
                }
                Ok(Step::Blocked) => {}
                Ok(Step::End(early)) => {
                    end = Ok(Page::End(early));
                    break;
                }
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        let Worker { workspace, id, .. } = &self.worker;
        table.delete_parked(workspace, id, &settled).await?;
        deliver.forget_attempts(&tried).await;
        end
    }

    async fn deliver_one(
        &mut self,
        parked: &ParkedEvent,
        context: &BatchContext,
    ) -> Result<Step, Error> {
        let (deliver, delivery) = (self.deliver, &parked.delivery);
        if self.began.elapsed() > BATCH_BUDGET {
            // What is blocked need not be passed over again at once.
            let pause = self.pause().filter(|_| !self.has_delivered);
            return Ok(Step::End(pause.unwrap_or(End::OutOfTime)));
        }
        if self.blocked.contains_key(&delivery.group) {
            return Ok(Step::Blocked);
        }
        let earlier = context.attempts(delivery);
        if let Some(due_at) = earlier.and_then(|attempts| attempts.due_at)
            && due_at > deliver.clock.millis()
        {
            return Ok(self.block(parked, due_at));
        }
        let read = deliver.table.body(&delivery.workspace, &delivery.body);
        let Some(body) = read.await? else {
            let reason = "the stored body is gone".to_owned();
            (deliver.dead_letter(&self.worker, delivery, reason, earlier)).await?;
            return Ok(Step::DeadLettered);
        };
        let number = next_number(earlier).max(parked.attempt);
        let outcome = deliver.post(&self.worker, delivery, number, body).await?;
        report::attempt(delivery, self.worker.owner(), number, outcome, None);
        self.settle(parked, outcome, earlier).await
    }

    async fn settle(
        &mut self,
        parked: &ParkedEvent,
        outcome: Outcome,
        earlier: Option<FailedAttempts>,
    ) -> Result<Step, Error> {
        let (deliver, delivery) = (self.deliver, &parked.delivery);
        match deliver.decide(outcome, earlier) {
            AfterAttempt::Acknowledge => {
                if !self.has_delivered {
                    self.has_delivered = true;
                    deliver.note_success(&self.worker, &delivery.event).await;
                }
                Ok(Step::Delivered)
            }
            AfterAttempt::RemoveWorker => self.remove().await.map(Step::End),
            AfterAttempt::Unreachable { .. } => self.unanswered(parked, earlier).await,
            AfterAttempt::Retry(wait) => {
                let attempts = deliver.record_failure(delivery, wait).await?;
                (deliver.note_rejection(&self.worker, &outcome.reason(), None)).await;
                let due_at = attempts.due_at.unwrap_or_default();
                Ok(self.block(parked, due_at))
            }
            AfterAttempt::DeadLetter => {
                deliver.give_up(&self.worker, delivery, outcome).await?;
                Ok(Step::DeadLettered)
            }
        }
    }

    /// Holds back the group of an event that was not answered, or ends the drain, because the worker is not there any more.
    async fn unanswered(
        &mut self,
        parked: &ParkedEvent,
        earlier: Option<FailedAttempts>,
    ) -> Result<Step, Error> {
        let (deliver, delivery) = (self.deliver, &parked.delivery);
        if self.has_delivered {
            deliver.table.restart_away(&self.worker).await?;
        }
        let is_there = match self.is_in_doubt {
            false => true,
            true => match self.probe(true).await? {
                AfterProbe::RemoveWorker => return self.remove().await.map(Step::End),
                answer => answer == AfterProbe::Drain,
            },
        };
        self.is_in_doubt = true;
        if is_there {
            let wait = policy::unanswered_wait(next_number(earlier));
            let due_at = deliver.record_unanswered(delivery, wait).await?;
            return Ok(self.block(parked, due_at));
        }
        deliver.record_unanswered(delivery, Duration::ZERO).await?;
        Ok(Step::End(End::Wait(match self.has_delivered {
            true => policy::DRAIN_FIRST,
            false => self.wait(),
        })))
    }

    /// Holds back the group of an event until `due_at`. A worker that rejects as many groups as a live one may have in
    /// backoff gets nothing else meanwhile.
    fn block(&mut self, parked: &ParkedEvent, due_at: UnixMillis) -> Step {
        self.blocked.insert(parked.delivery.group.clone(), due_at);
        let earliest = self.blocked.values().min().copied().unwrap_or(due_at);
        if (self.blocked.len() as u64) < self.deliver.config.deliveries_in_backoff {
            Step::Blocked
        } else {
            Step::End(End::Wait(self.deliver.until(earliest)))
        }
    }

    /// The wait until the worker is probed again.
    fn wait(&self) -> Duration {
        let now = self.deliver.clock.millis();
        policy::drain_wait(elapsed(self.worker.away_since.unwrap_or(now), now))
    }

    async fn remove(&self) -> Result<End, Error> {
        Ok(End::if_done(self.deliver.remove(&self.worker).await?))
    }

    /// Marks the worker live. Events that were parked meanwhile are delivered by another invocation.
    async fn mark_live(&self) -> Result<End, Error> {
        let worker = &self.worker;
        let is_live = self.deliver.table.mark_live(worker).await?;
        if is_live {
            tracing::info!(
                worker = worker.id,
                workspace = worker.workspace,
                "worker {} is live: its mailbox is delivered",
                worker.id
            );
        }
        Ok(End::if_done(is_live))
    }
}
