//! Ping workers that are away or that have had nothing for long, and count all of them.
//!
//! Invariant: what a tick costs is bounded: a thin index is read, gaps between pings grow, and no ping is begun
//! after [`BUDGET`]. A ping makes a worker live only as an empty mailbox does: nothing is stranded.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::messages::{Control, State};
use tokio::time::Instant;

use crate::Error;
use crate::clock::Clock;
use crate::config::HealthConfig;
use crate::outbound::{self, Outbound};
use crate::outcome::Outcome;
use crate::schedule::{AWAY_AFTER, AWAY_OVER};
use crate::table::{Enrolled, SHARDS, Table};
use crate::worker::Worker;

/// How far apart ticks are.
pub const EVERY: Duration = Duration::from_secs(5 * 60);

/// After this long no further ping is begun: those left are due again later.
pub const BUDGET: Duration = Duration::from_secs(200);

/// When an away worker is pinged first; then after twice that, and so on, up to every [`AWAY_LONGEST`].
const AWAY_FIRST: Duration = EVERY;
const AWAY_LONGEST: Duration = Duration::from_secs(160 * 60);

/// The same for a live worker that has had nothing.
const SILENT_FIRST: Duration = Duration::from_secs(3600);
const SILENT_LONGEST: Duration = Duration::from_secs(4 * 3600);

/// Shards that are read at once.
const READING: usize = 4;
/// Pings that are under way at once: most of them only wait for nobody.
const PINGING: usize = 256;

/// One run of the schedule: the moment that it stands for, and its part of the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    at: i64,
    part: u32,
    of: u32,
}

impl Tick {
    /// At `at` (Unix milliseconds), part `part` of `of`.
    pub fn new(at: i64, part: u32, of: u32) -> Result<Self, Error> {
        if !(1..=SHARDS).contains(&of) || part >= of {
            return Err(Error::bad_request(
                "invalid_tick",
                format!("`of` has to be from 1 to {SHARDS}, and `part` from 0 to below it"),
            ));
        }
        Ok(Self { at, part, of })
    }

    fn age(self, since: i64) -> Duration {
        Duration::from_millis(u64::try_from(self.at - since).unwrap_or_default())
    }

    fn is_due(self, worker: &Enrolled) -> bool {
        match (worker.state, worker.away_since) {
            (State::Live, _) => is_due(self.age(worker.delivered_at), SILENT_FIRST, SILENT_LONGEST),
            (State::Away, Some(since)) => is_due(self.age(since), AWAY_FIRST, AWAY_LONGEST),
            (State::Away, None) | (State::Pull, _) => false,
        }
    }
}

/// Whether a ping falls between the last tick and this one: `first` after the beginning, then each time after as
/// long again, at last every `longest`. So gaps grow, and nothing has to be written down.
fn is_due(age: Duration, first: Duration, longest: Duration) -> bool {
    let (age, first, longest) = (age.as_secs(), first.as_secs(), longest.as_secs());
    let since_due = if age < first {
        return false;
    } else if age < longest {
        age - first * (1 << (age / first).ilog2())
    } else {
        age % longest
    };
    since_due < EVERY.as_secs()
}

/// How many workers there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Roll {
    /// Their events are POSTed to them.
    pub live: u64,
    /// Their events wait until they are back.
    pub away: u64,
    /// Their events wait until they ask.
    pub pull: u64,
    /// Something was parked since their mailbox was last seen empty.
    pub waiting: u64,
}

impl Roll {
    fn count(&mut self, worker: &Enrolled) {
        match worker.state {
            State::Live => self.live += 1,
            State::Away => self.away += 1,
            State::Pull => self.pull += 1,
        }
        self.waiting += u64::from(worker.waiting);
    }
}

/// Looks after workers that say nothing.
#[derive(Debug)]
pub struct Health {
    table: Table,
    outbound: Outbound,
    clock: Clock,
}

impl Health {
    /// With what it reads from and writes to.
    pub fn new(config: &HealthConfig, table: Table, clock: Clock) -> Result<Self, Error> {
        Ok(Self {
            table,
            outbound: Outbound::new(Some(config.reach), config.timeout)?,
            clock,
        })
    }

    /// Counts the workers of a tick's shards, and pings those that are due.
    pub async fn tick(&self, tick: Tick) -> Result<Roll, Error> {
        let until = Instant::now() + BUDGET;
        let shards = (0..SHARDS).filter(|shard| shard % tick.of == tick.part);
        let parts: Vec<(Roll, Vec<Enrolled>)> = stream::iter(shards)
            .map(|shard| async move {
                let (mut roll, mut due) = (Roll::default(), Vec::new());
                self.table
                    .roll(shard, |worker| {
                        roll.count(&worker);
                        if tick.is_due(&worker) {
                            due.push(worker);
                        }
                    })
                    .await?;
                Ok::<_, Error>((roll, due))
            })
            .buffer_unordered(READING)
            .try_collect()
            .await?;
        let mut all = Roll::default();
        for (roll, _) in &parts {
            all.live += roll.live;
            all.away += roll.away;
            all.pull += roll.pull;
            all.waiting += roll.waiting;
        }
        tracing::info!(
            Live = all.live,
            Away = all.away,
            Pull = all.pull,
            Waiting = all.waiting,
            "counted"
        );
        let due = parts.iter().flat_map(|(_, due)| due);
        stream::iter(due)
            .for_each_concurrent(PINGING, |worker| self.look_after(worker, until))
            .await;
        Ok(all)
    }

    async fn look_after(&self, worker: &Enrolled, until: Instant) {
        let (id, workspace) = (worker.id.as_str(), worker.workspace.as_str());
        if Instant::now() > until {
            tracing::warn!(worker = id, workspace, "not pinged: there was no time left");
            return;
        }
        if let Err(error) = self.ping(worker).await {
            let error = error.chain();
            tracing::warn!(worker = id, workspace, error, "not pinged");
        }
    }

    /// Asks a worker whether it is there, and keeps what that says about it.
    async fn ping(&self, enrolled: &Enrolled) -> Result<(), Error> {
        // The index may be a moment old.
        let found = (self.table)
            .worker(&enrolled.workspace, &enrolled.id)
            .await?;
        let Some(worker) = found.filter(|worker| worker.state == enrolled.state) else {
            return Ok(());
        };
        let Some(url) = &worker.url else {
            return Ok(());
        };
        // After the worker was read: `wake` demands that nothing was parked since.
        let waiting = self.table.has_mail(&worker.workspace, &worker.id).await?;
        let body = serde_json::to_vec(&Control::Ping { waiting })
            .expect("a ping is a word and a truth value");
        let now = self.clock.millis();
        let headers = outbound::headers(worker.ping_headers(&body, now))?;
        let answer = self.outbound.post(url, headers, Bytes::from(body)).await;
        let outcome = Outcome::of(answer, self.clock.millis());
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            state = worker.state.as_str(),
            waiting,
            reason = outcome.reason(),
            Pings = 1,
            Outcome = outcome.class(),
            "pinged"
        );
        self.keep(&worker, outcome, waiting).await
    }

    async fn keep(&self, worker: &Worker, outcome: Outcome, waiting: bool) -> Result<(), Error> {
        let (id, workspace) = (worker.id.as_str(), worker.workspace.as_str());
        match (worker.state, outcome) {
            (_, Outcome::Gone) => {
                let is_removed = self.table.remove_worker(worker).await?;
                if is_removed {
                    tracing::info!(worker = id, workspace, "removed: it answered 410");
                }
            }
            // With mail it becomes live by emptying its mailbox, which the ping has told it to do.
            (State::Away, Outcome::Delivered) if !waiting => {
                let is_awake = self.table.wake(worker).await?;
                if is_awake {
                    tracing::info!(worker = id, workspace, "live again");
                }
            }
            (State::Live, Outcome::Delivered) if worker.failures > 0 => {
                self.table.reached(worker).await?;
            }
            (State::Live, Outcome::Rejected { .. }) => {
                (self.table)
                    .record_answer(worker, Some(&outcome.reason()))
                    .await?;
            }
            (State::Live, Outcome::Unreachable(_)) => {
                let counted = (self.table)
                    .count_unreachable(worker, &outcome.reason())
                    .await?;
                let is_away = counted
                    .is_some_and(|(failures, over)| failures >= AWAY_AFTER && over >= AWAY_OVER);
                if is_away && self.table.turn_away(worker).await? {
                    tracing::info!(worker = id, workspace, "turned away");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60;

    /// The minutes at which something that began at `offset` seconds before a tick is due, in two days.
    fn due(offset: u64, first: Duration, longest: Duration) -> Vec<u64> {
        (0..2 * 24 * 12)
            .map(|tick| offset + tick * EVERY.as_secs())
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
        fn wherever_the_ticks_fall_each_ping_falls_into_one_of_them(offset in 0_u64..300) {
            let away = due(offset, AWAY_FIRST, AWAY_LONGEST);
            // Five while the gap grows, then one every 160 minutes until the two days end.
            prop_assert_eq!(away.len(), 5 + 17);
        }
    }

    #[test]
    fn a_tick_that_is_none_says_what_one_is() {
        assert!(Tick::new(0, 0, 1).is_ok());
        assert!(Tick::new(0, 15, 16).is_ok());
        for (part, of) in [(0, 0), (1, 1), (0, 17), (16, 16)] {
            let error = Tick::new(0, part, of).unwrap_err();
            assert!(error.detail.contains("1 to 16"), "{error}");
        }
    }
}
