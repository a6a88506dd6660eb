//! Probes workers that are away or silent, and counts all workers.
//!
//! Invariant: the cost of a run is bounded: it reads an index of few attributes, the gaps between the probes of a worker
//! grow, and no probe begins after [`BUDGET`]. A probe marks a worker live under the same condition as an empty mailbox
//! does, so nothing stays behind in a mailbox.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::clock::{Clock, UnixMillis, elapsed};
use protocol::messages::{Control, WorkerState};
use tokio::time::Instant;

use crate::cause::chain;
use crate::config::HealthConfig;
use crate::error::Error;
use crate::outbound::{self, ClientError, Outbound};
use crate::outcome::Outcome;
use crate::table::{IndexedWorker, SHARDS, Table, TableError};
use crate::worker::{self, Worker};

/// The time between two runs.
pub const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// No probe begins after this time. The workers that are left are due again later.
pub const BUDGET: Duration = Duration::from_secs(200);

/// When an away worker is probed first; then after twice that, and so on, up to every [`AWAY_LONGEST`].
const AWAY_FIRST: Duration = INTERVAL;
const AWAY_LONGEST: Duration = Duration::from_secs(160 * 60);

/// The same for a live worker without deliveries.
const SILENT_FIRST: Duration = Duration::from_secs(3600);
const SILENT_LONGEST: Duration = Duration::from_secs(4 * 3600);

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
        match (worker.state, worker.away_since) {
            (WorkerState::Live, _) => {
                let silent_for = elapsed(worker.delivered_at, self.at);
                is_due(silent_for, SILENT_FIRST, SILENT_LONGEST)
            }
            (WorkerState::Away, Some(since)) => {
                is_due(elapsed(since, self.at), AWAY_FIRST, AWAY_LONGEST)
            }
            (WorkerState::Away, None) | (WorkerState::Pull, _) => false,
        }
    }
}

/// Whether a probe falls between the previous run and this one: `first` after the beginning, then each time after as long
/// again, at last every `longest`. So the gaps grow, and nothing has to be stored.
fn is_due(age: Duration, first: Duration, longest: Duration) -> bool {
    let (age, first, longest) = (age.as_secs(), first.as_secs(), longest.as_secs());
    let since_due = if age < first {
        return false;
    } else if age < longest {
        age - first * (1 << (age / first).ilog2())
    } else {
        age % longest
    };
    since_due < INTERVAL.as_secs()
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
    outbound: Outbound,
    clock: Clock,
}

impl Health {
    /// A `Health` over this table.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub fn new(config: &HealthConfig, table: Table, clock: Clock) -> Result<Self, ClientError> {
        Ok(Self {
            table,
            outbound: Outbound::new(Some(config.egress), config.timeout)?,
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
            Live = counts.live,
            Away = counts.away,
            Pull = counts.pull,
            Waiting = counts.waiting,
            "counted the workers"
        );
        let due = parts.iter().flat_map(|(_, due)| due);
        stream::iter(due)
            .for_each_concurrent(CONCURRENT_PROBES, |worker| self.probe(worker, deadline))
            .await;
        Ok(counts)
    }

    /// Counts the workers of a shard, and collects those that are due.
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
        self.table.indexed_workers(shard, each).await?;
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

    /// Sends a health check to a worker and records the outcome.
    async fn probe_in_time(&self, indexed: &IndexedWorker) -> Result<(), Error> {
        // The index is eventually consistent.
        let found = (self.table.worker(indexed.workspace(), indexed.id())).await?;
        let Some(worker) = found.filter(|worker| worker.state == indexed.state) else {
            return Ok(());
        };
        let Some(url) = &worker.url else {
            return Ok(());
        };
        // After the worker was read: `mark_live` requires that nothing was parked since.
        let waiting = self.table.has_mail(&worker.workspace, &worker.id).await?;
        let body =
            serde_json::to_vec(&Control::Ping { waiting }).expect("a ping is a text and a flag");
        let (id, signed_at) = (worker::ping_id(), self.clock.millis());
        let headers = outbound::headers(worker.ping_headers(&id, &body, signed_at))?;
        let answer = self.outbound.post(url, headers, Bytes::from(body)).await;
        let outcome = Outcome::of(answer, self.clock.millis(), |headers| {
            worker.has_answered(headers, &id, signed_at)
        });
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            state = worker.state.as_str(),
            waiting,
            reason = outcome.reason(),
            Probes = 1,
            Outcome = outcome.name(),
            "probed worker {}: {}",
            worker.id,
            outcome.name()
        );
        self.record(&worker, outcome, waiting).await
    }

    /// Records what the outcome of a probe says about a worker.
    async fn record(&self, worker: &Worker, outcome: Outcome, waiting: bool) -> Result<(), Error> {
        let table = &self.table;
        let change = match (worker.state, outcome) {
            (_, Outcome::Gone) => {
                (table.remove_worker(worker).await?).then_some("is removed: it answered 410")
            }
            // A worker with mail becomes live when it has emptied its mailbox, which the ping asks it to do.
            (WorkerState::Away, Outcome::Delivered) if !waiting => {
                (table.mark_live(worker).await?).then_some("is live: it answered a probe")
            }
            (WorkerState::Live, Outcome::Delivered) if worker.failures > 0 => {
                table.clear_failures(worker).await?;
                None
            }
            (WorkerState::Live, Outcome::Rejected { .. }) => {
                (table.record_rejection(worker, &outcome.reason())).await?;
                None
            }
            (WorkerState::Live, Outcome::Unreachable(_)) => {
                let counted = (table.count_unreachable(worker, &outcome.reason())).await?;
                let is_away = counted.is_some_and(|attempts| attempts.are_enough());
                (is_away && table.mark_away(worker).await?).then_some("is away")
            }
            _ => None,
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
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60;

    /// The minutes at which something that began at `offset` seconds before a run is due, in two days.
    fn due(offset: u64, first: Duration, longest: Duration) -> Vec<u64> {
        (0..2 * 24 * 12)
            .map(|run| offset + run * INTERVAL.as_secs())
            .filter(|age| is_due(Duration::from_secs(*age), first, longest))
            .map(|age| age / MINUTE)
            .collect()
    }

    #[test]
    fn gaps_grow_and_then_stay() {
        let away = due(0, AWAY_FIRST, AWAY_LONGEST);
        assert_eq!(away[..8], [5, 10, 20, 40, 80, 160, 320, 480]);
        let silent = due(0, SILENT_FIRST, SILENT_LONGEST);
        assert_eq!(silent[..5], [60, 120, 240, 480, 720]);
    }

    proptest! {
        #[test]
        fn each_probe_falls_into_one_run_whatever_the_offset(offset in 0_u64..300) {
            let away = due(offset, AWAY_FIRST, AWAY_LONGEST);
            // Five while the gap grows, then one every 160 minutes until the two days end.
            prop_assert_eq!(away.len(), 5 + 17);
        }
    }

    #[test]
    fn a_part_that_does_not_exist_is_refused() {
        assert!(ScheduledRun::new(0, 0, 1).is_ok());
        assert!(ScheduledRun::new(0, 15, 16).is_ok());
        for (part, of) in [(0, 0), (1, 1), (0, 17), (16, 16)] {
            assert_eq!(ScheduledRun::new(0, part, of), Err(InvalidPart));
        }
    }
}
