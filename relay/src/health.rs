//! Probes workers that are away or silent, and counts all workers. Who is probed when, and what the answer means, is decided
//! in [`crate::policy`].
//!
//! Invariant: the cost of a run is bounded: it reads an index of few attributes, the gaps between the probes of a worker
//! grow, and no probe begins after [`BUDGET`]. A probe marks a worker live under the same condition as an empty mailbox
//! does, so nothing stays behind in a mailbox.

use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::clock::{Clock, UnixMillis};
use protocol::messages::{AwayReason, WorkerState};
use tokio::time::Instant;

use crate::cause::chain;
use crate::config::HealthConfig;
use crate::error::Error;
use crate::outbound::{ClientError, Network, Outbound};
use crate::outcome::Outcome;
use crate::policy::{self, AfterProbe, Probed};
use crate::probe::{ping, probe};
use crate::queue::Queue;
use crate::table::{IndexedWorker, SHARDS, Table, TableError};
use crate::worker::Worker;

/// No probe begins after this time. The workers that are left are due again later.
pub const BUDGET: Duration = Duration::from_secs(200);

/// How many shards are read at the same time.
const CONCURRENT_SHARDS: usize = 4;
/// How many probes are under way at the same time. Most of them wait for a timeout.
const CONCURRENT_PROBES: usize = 256;

/// A run of the schedule: its nominal time, and its part of the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledRun {
    at: UnixMillis,
    part: u32,
    of: u32,
}

/// The part does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`of` has to be from 1 to {SHARDS}, and `part` from 0 to below it")]
pub struct InvalidPart;

impl ScheduledRun {
    /// The run at `at` for part `part` of `of`.
    ///
    /// # Errors
    ///
    /// There is no such part.
    pub fn new(at: UnixMillis, part: u32, of: u32) -> Result<Self, InvalidPart> {
        if !(1..=SHARDS).contains(&of) || part >= of {
            return Err(InvalidPart);
        }
        Ok(Self { at, part, of })
    }

    fn is_due(self, worker: &IndexedWorker) -> bool {
        let since = match worker.state {
            WorkerState::Live => Some(worker.delivered_at),
            WorkerState::Away | WorkerState::Pull => worker.away_since,
        };
        policy::is_probe_due(worker.state, since, self.at)
    }
}

/// How many workers there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Their events are POSTed to them.
    pub live: u64,
    /// Their events are parked until they are reachable.
    pub away: u64,
    /// Their events are parked until they pull.
    pub pull: u64,
    /// Their mailbox has been filled since it was last found empty.
    pub waiting: u64,
}

impl WorkerCounts {
    fn count(&mut self, worker: &IndexedWorker) {
        match worker.state {
            WorkerState::Live => self.live += 1,
            WorkerState::Away => self.away += 1,
            WorkerState::Pull => self.pull += 1,
        }
        self.waiting += u64::from(worker.waiting);
    }
}

/// Probes and counts workers.
#[derive(Debug)]
pub struct Health {
    table: Table,
    queue: Queue,
    outbound: Outbound,
    clock: Clock,
}

impl Health {
    /// A `Health` over this network, this table and this queue of deliveries.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub fn new(
        config: &HealthConfig,
        network: Network,
        table: Table,
        queue: Queue,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            table,
            queue,
            outbound: Outbound::new(network, Some(config.egress), config.timeout)?,
            clock,
        })
    }

    /// Counts the workers of a run's shards and probes those that are due.
    ///
    /// # Errors
    ///
    /// The worker index could not be read.
    pub async fn run(&self, run: ScheduledRun) -> Result<WorkerCounts, TableError> {
        let deadline = Instant::now() + BUDGET;
        if run.part == 0 {
            self.send_heartbeat().await;
        }
        let shards = (0..SHARDS).filter(|shard| shard % run.of == run.part);
        let parts: Vec<(WorkerCounts, Vec<IndexedWorker>)> = stream::iter(shards)
            .map(|shard| self.survey(run, shard))
            .buffer_unordered(CONCURRENT_SHARDS)
            .try_collect()
            .await?;
        let mut counts = WorkerCounts::default();
        for (part, _) in &parts {
            counts.live += part.live;
            counts.away += part.away;
            counts.pull += part.pull;
            counts.waiting += part.waiting;
        }
        tracing::info!(
            live = counts.live,
            away = counts.away,
            pull = counts.pull,
            waiting = counts.waiting,
            "counted the workers"
        );
        let due = parts.iter().flat_map(|(_, due)| due);
        stream::iter(due)
            .for_each_concurrent(CONCURRENT_PROBES, |worker| self.probe(worker, deadline))
            .await;
        Ok(counts)
    }

    /// Sends a heartbeat through the queue to `deliver`, which measures how long it took. SQS leaves messages that are received
    /// again and again out of the age of the oldest, or counts them, so that says nothing of how late deliveries are.
    async fn send_heartbeat(&self) {
        if let Err(error) = self.queue.send_heartbeat(self.clock.millis()).await {
            let error = chain(&error);
            tracing::warn!(error, "no heartbeat was sent");
        }
    }

    /// Counts the workers of a shard, collects those that are due, and removes those whose lease has ended.
    async fn survey(
        &self,
        run: ScheduledRun,
        shard: u32,
    ) -> Result<(WorkerCounts, Vec<IndexedWorker>), TableError> {
        let (mut counts, mut due) = (WorkerCounts::default(), Vec::new());
        let each = |worker: IndexedWorker| {
            counts.count(&worker);
            if run.is_due(&worker) {
                due.push(worker);
            }
        };
        let ended = self.table.indexed_workers(shard, each).await?;
        for worker in ended {
            if self.table.end_lease(&worker).await? {
                let (id, workspace) = (worker.id(), worker.workspace());
                tracing::warn!(
                    worker = id,
                    workspace,
                    LeasesEnded = 1,
                    "the lease of worker {id} has ended: it gets no more events"
                );
            }
        }
        Ok((counts, due))
    }

    async fn probe(&self, indexed: &IndexedWorker, deadline: Instant) {
        let (worker, workspace) = (indexed.id(), indexed.workspace());
        if Instant::now() > deadline {
            tracing::warn!(
                worker,
                workspace,
                "worker {worker} was not probed: no time was left"
            );
            return;
        }
        if let Err(error) = self.probe_in_time(indexed).await {
            let error = chain(&error);
            tracing::warn!(
                worker,
                workspace,
                error,
                "worker {worker} could not be probed"
            );
        }
    }

    /// Sends a health check to a worker and records the outcome. A paused one gets none.
    async fn probe_in_time(&self, indexed: &IndexedWorker) -> Result<(), Error> {
        // The index is eventually consistent.
        let found = (self.table.worker(indexed.workspace(), indexed.id())).await?;
        let Some(worker) = found.filter(|worker| worker.state == indexed.state) else {
            return Ok(());
        };
        // After the worker was read: `mark_live` requires that nothing was parked since.
        let waiting = (self.table)
            .count_expired_mail(&worker.workspace, &worker.id)
            .await?;
        if worker.url.is_none() || worker.paused {
            return Ok(());
        }
        let outcome = probe(
            &self.outbound,
            &self.clock,
            &worker,
            &ping(&worker, waiting),
        )
        .await?;
        self.record(&worker, outcome, waiting).await
    }

    /// Carries out what the outcome of a probe says about a worker.
    async fn record(&self, worker: &Worker, outcome: Outcome, waiting: bool) -> Result<(), Error> {
        let table = &self.table;
        let probed = Probed {
            state: worker.state,
            pulls: worker.pulls,
            waiting,
            has_failures: worker.failures > 0,
        };
        let change = match policy::after_probe(probed, outcome) {
            AfterProbe::Nothing => None,
            AfterProbe::RemoveWorker => {
                (table.remove_worker(worker).await?).then_some("is removed: it answered 410")
            }
            AfterProbe::MarkLive => {
                (table.mark_live(worker).await?).then_some("is live: it answered a probe")
            }
            AfterProbe::Drain => {
                self.queue
                    .request_drain(worker, self.clock.millis())
                    .await?;
                None
            }
            AfterProbe::ClearFailures => {
                table.clear_failures(worker).await?;
                None
            }
            AfterProbe::RecordRejection => {
                (table
                    .record_rejection(worker, &outcome.reason(), None)
                    .await)?;
                None
            }
            AfterProbe::CountUnreachable => {
                let reason = outcome.reason();
                let counted = table.count_unreachable(worker, &reason, None).await?;
                let is_away = counted.is_some_and(|attempts| attempts.are_enough())
                    && (table.mark_away(worker, AwayReason::Unreachable).await?).is_some();
                is_away.then_some("is away")
            }
        };
        if let Some(change) = change {
            let (id, workspace) = (worker.id.as_str(), worker.workspace.as_str());
            tracing::info!(worker = id, workspace, "worker {id} {change}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_does_not_exist_is_refused() {
        assert!(ScheduledRun::new(0, 0, 1).is_ok());
        assert!(ScheduledRun::new(0, 15, 16).is_ok());
        for (part, of) in [(0, 0), (1, 1), (0, 17), (16, 16)] {
            assert_eq!(ScheduledRun::new(0, part, of), Err(InvalidPart));
        }
    }
}
