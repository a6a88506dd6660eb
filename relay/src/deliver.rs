//! One attempt at each delivery of a batch, and what becomes of it.
//!
//! Invariant: a delivery is acknowledged only when it was delivered, parked, buried with its reason, or when its
//! worker is gone. Groups go side by side; within a group nothing overtakes what failed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use protocol::messages::State;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::Error;
use crate::clock::Clock;
use crate::config::DeliverConfig;
use crate::metrics;
use crate::outbound::{self, Outbound};
use crate::outcome::Outcome;
use crate::queue::{Body, Delivery, Queue, Reason};
use crate::schedule::{self, AWAY_AFTER, AWAY_OVER};
use crate::table::{Known, NotAway, Table};
use crate::worker::Worker;

/// After this long no further attempt is begun: what is left of the batch is handed back.
pub const BATCH_BUDGET: Duration = Duration::from_secs(30);

/// When a batch takes longer than this, what is done is deleted at once: a worker that stalls must not hold up
/// what waits behind another one's delivery.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(500);

/// How long what the relay itself could not do waits.
const OWN_FAULT_WAIT: Duration = Duration::from_secs(5);

/// A worker's first success is recorded, and then one when none was for this long: `lastDelivery` is true to the
/// hour, and a success costs no write.
const RECORD_AFTER: i64 = 3600 * 1000;

/// Delivers batches.
#[derive(Debug, Clone)]
pub struct Deliver {
    config: DeliverConfig,
    table: Table,
    queue: Queue,
    dead_letters: Queue,
    outbound: Outbound,
    clock: Clock,
}

/// What a batch has in common.
struct Batch<'a> {
    known: Known,
    /// Large bodies, each read once for all who get it.
    bodies: HashMap<&'a str, OnceCell<Option<Bytes>>>,
    /// Workers whose success is recorded already.
    recorded: HashMap<&'a str, AtomicBool>,
    until: Instant,
    /// What came of each attempt, and how long after its acceptance in ms.
    attempts: Mutex<Vec<(Outcome, i64)>>,
}

/// What becomes of a message.
enum Fate {
    Done,
    /// Received again after this long.
    Back(Duration),
}

impl Deliver {
    /// With what it reads from and writes to.
    pub fn new(
        config: DeliverConfig,
        table: Table,
        queue: Queue,
        dead_letters: Queue,
        clock: Clock,
    ) -> Result<Self, Error> {
        Ok(Self {
            outbound: Outbound::new(Some(config.reach), config.timeout)?,
            config,
            table,
            queue,
            dead_letters,
            clock,
        })
    }

    /// Tries each delivery of a batch; answers with the ids of the messages that are not done.
    pub async fn batch(&self, deliveries: &[Delivery]) -> Result<Vec<String>, Error> {
        let began = Instant::now();
        let batch = Batch {
            known: self.table.known(deliveries).await?,
            bodies: (deliveries.iter())
                .filter_map(|d| match &d.body {
                    Body::Stored(digest) => Some((digest.as_str(), OnceCell::new())),
                    Body::Inline(_) => None,
                })
                .collect(),
            recorded: (deliveries.iter())
                .map(|d| (d.worker.as_str(), AtomicBool::new(false)))
                .collect(),
            until: began + BATCH_BUDGET,
            attempts: Mutex::default(),
        };
        let mut groups: Vec<Vec<&Delivery>> = Vec::new();
        for delivery in deliveries {
            match groups
                .iter_mut()
                .find(|group| group[0].group == delivery.group)
            {
                Some(group) => group.push(delivery),
                None => groups.push(vec![delivery]),
            }
        }
        let mut under_way: FuturesUnordered<_> = (groups.into_iter())
            .map(|group| self.group(&batch, group))
            .collect();
        let mut waits = Vec::new();
        let mut failed = Vec::new();
        let mut done = Vec::new();
        let mut settling = Vec::new();
        loop {
            let has_news = !(done.is_empty() && waits.is_empty());
            let fates = tokio::select! {
                fates = under_way.next() => fates,
                () = tokio::time::sleep_until(began + ACKNOWLEDGE_AFTER), if has_news => {
                    // Beside the attempts that are still under way, or they would stand still meanwhile.
                    let (done, waits) = (std::mem::take(&mut done), std::mem::take(&mut waits));
                    settling.push(tokio::spawn(self.clone().settle(done, waits)));
                    continue;
                }
            };
            let Some(fates) = fates else { break };
            for (delivery, fate) in fates {
                match fate {
                    Fate::Done => done.push(delivery.receipt_handle.clone()),
                    Fate::Back(wait) => {
                        waits.push((delivery.receipt_handle.clone(), wait));
                        failed.push(delivery.message_id.clone());
                    }
                }
            }
        }
        drop(under_way);
        emit(
            batch
                .attempts
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for settling in settling {
            // What could not be settled comes back by the queue's visibility timeout.
            let _ = settling.await;
        }
        // What is done and still here is deleted by whoever polled it.
        self.queue.hand_back(&waits).await;
        Ok(failed)
    }

    async fn settle(self, done: Vec<String>, waits: Vec<(String, Duration)>) {
        if !done.is_empty() {
            self.queue.delete(&done).await;
        }
        self.queue.hand_back(&waits).await;
    }

    /// Delivers a group in order, until one of it has to wait; the rest is handed back at once and stays
    /// blocked behind that one.
    async fn group<'a>(
        &self,
        batch: &Batch<'a>,
        group: Vec<&'a Delivery>,
    ) -> Vec<(&'a Delivery, Fate)> {
        let mut fates = Vec::with_capacity(group.len());
        let mut worker = batch.known.worker(group[0]).map(Cow::Borrowed);
        for (at, delivery) in group.iter().enumerate() {
            let fate = if Instant::now() > batch.until {
                Ok(Next::Fate(Fate::Back(Duration::ZERO)))
            } else {
                self.one(batch, &mut worker, &group[at..]).await
            };
            match fate {
                Ok(Next::Fate(Fate::Done)) => fates.push((*delivery, Fate::Done)),
                Ok(Next::AllParked) => {
                    fates.extend(group[at..].iter().map(|d| (*d, Fate::Done)));
                    return fates;
                }
                stopped => {
                    let wait = match stopped {
                        Ok(Next::Fate(Fate::Back(wait))) => wait,
                        Err(error) => {
                            tracing::error!(
                                event = %delivery.event,
                                worker = delivery.worker,
                                error = error.chain(),
                                "a delivery could not be dealt with"
                            );
                            self.wait(self.age(delivery), None).max(OWN_FAULT_WAIT)
                        }
                        Ok(_) => Duration::ZERO,
                    };
                    fates.push((delivery, Fate::Back(wait)));
                    let rest = group[at + 1..].iter();
                    fates.extend(rest.map(|d| (*d, Fate::Back(Duration::ZERO))));
                    return fates;
                }
            }
        }
        fates
    }

    /// Deals with the first of what is left of a group.
    async fn one(
        &self,
        batch: &Batch<'_>,
        worker: &mut Option<Cow<'_, Worker>>,
        left: &[&Delivery],
    ) -> Result<Next, Error> {
        let delivery = left[0];
        // A worker that is away can be live when it comes to parking, and the other way round.
        for _ in 0..3 {
            let Some(now) = worker.as_deref() else {
                tracing::info!(event = %delivery.event, worker = delivery.worker, "no such worker any more");
                return Ok(Next::Fate(Fate::Done));
            };
            if now.state == State::Live {
                return self.attempt(batch, worker, left).await;
            }
            if self.park(batch, left, 0).await?.is_ok() {
                return Ok(Next::AllParked);
            }
            *worker = (self.table)
                .worker(&delivery.workspace, &delivery.worker)
                .await?
                .map(Cow::Owned);
        }
        Ok(Next::Fate(Fate::Back(schedule::SHORTEST)))
    }

    /// Parks what is left of a group, whose first was just tried `tried` times more than the table knew.
    async fn park(
        &self,
        batch: &Batch<'_>,
        left: &[&Delivery],
        tried: u64,
    ) -> Result<Result<(), NotAway>, Error> {
        let first = left[0];
        let mut deliveries: Vec<_> = (left.iter())
            .map(|d| (*d, batch.known.attempts(d).map_or(0, |a| a.count) + 1))
            .collect();
        deliveries[0].1 += tried;
        let parked = (self.table)
            .park(
                &first.workspace,
                &first.worker,
                &deliveries,
                self.config.mailbox_retention,
            )
            .await?;
        if parked.is_ok() {
            for delivery in left {
                tracing::info!(
                    event = %delivery.event,
                    workspace = delivery.workspace,
                    worker = delivery.worker,
                    Parked = 1,
                    "parked"
                );
            }
        }
        Ok(parked)
    }

    async fn attempt(
        &self,
        batch: &Batch<'_>,
        worker: &mut Option<Cow<'_, Worker>>,
        left: &[&Delivery],
    ) -> Result<Next, Error> {
        let delivery = left[0];
        let Some(live) = worker.as_deref() else {
            return Ok(Next::Fate(Fate::Done));
        };
        let earlier = batch.known.attempts(delivery);
        let now = self.clock.millis();
        let Some(body) = self.body(batch, delivery).await? else {
            let reason = Reason {
                text: "the stored body is gone".to_owned(),
                status: None,
                first_attempt: earlier.map_or(now, |a| a.first),
                last_attempt: now,
            };
            let attempts = earlier.map_or(0, |a| a.count);
            return self.bury(delivery, &reason, attempts).await;
        };
        let attempt = earlier.map_or(0, |a| a.count) + 1;
        let signed = live.delivery_headers(&delivery.event, &delivery.kind, attempt, &body, now);
        let headers = outbound::headers(signed)?;
        let url = live.url.as_deref().unwrap_or_default();
        let answer = self.outbound.post(url, headers, body).await;
        let now = self.clock.millis();
        let outcome = Outcome::of(answer, now);
        batch.attempted(delivery, attempt, outcome, now);
        match outcome {
            Outcome::Delivered => {
                self.record_success(batch, live, now).await;
                Ok(Next::Fate(Fate::Done))
            }
            Outcome::Gone => {
                if !self.table.remove_worker(live).await? {
                    // It has registered again, or moved, since it was read.
                    return Ok(Next::Fate(Fate::Back(schedule::SHORTEST)));
                }
                tracing::info!(
                    worker = live.id,
                    workspace = live.workspace,
                    "removed: it answered 410"
                );
                *worker = None;
                Ok(Next::Fate(Fate::Done))
            }
            Outcome::Unreachable(_) => self.unreachable(batch, worker, left, outcome).await,
            Outcome::Rejected { retry_after, .. } => {
                let reason = outcome.reason();
                if let Err(error) = self.table.record_answer(live, Some(&reason)).await {
                    tracing::warn!(error = error.chain(), "a rejection was not recorded");
                }
                self.again_or_never(delivery, outcome, retry_after).await
            }
        }
    }

    /// Counts the attempt against the worker; the third in a row turns it away, and its group is parked.
    async fn unreachable(
        &self,
        batch: &Batch<'_>,
        worker: &Option<Cow<'_, Worker>>,
        left: &[&Delivery],
        outcome: Outcome,
    ) -> Result<Next, Error> {
        let Some(live) = worker.as_deref() else {
            return Ok(Next::Fate(Fate::Done));
        };
        let counted = (self.table)
            .count_unreachable(live, &outcome.reason())
            .await?;
        let delivery = left[0];
        self.table
            .record_attempt(delivery, self.attempts_kept())
            .await?;
        let Some((failures, over)) = counted else {
            // Somebody else turned it away, or it has moved: look again soon.
            return Ok(Next::Fate(Fate::Back(schedule::SHORTEST)));
        };
        let age = self.age(delivery);
        let is_away = failures >= AWAY_AFTER && over >= AWAY_OVER;
        // A laptop's lid is never a dead letter: what was tried for long enough waits in the mailbox.
        let is_due = self.config.give_up.is_due(age, None);
        if (is_away || is_due) && self.table.turn_away(live).await? {
            tracing::info!(worker = live.id, workspace = live.workspace, "turned away");
            if self.park(batch, left, 1).await?.is_ok() {
                return Ok(Next::AllParked);
            }
        }
        Ok(Next::Fate(Fate::Back(self.wait(age, None))))
    }

    fn age(&self, delivery: &Delivery) -> Duration {
        let age = self.clock.millis() - delivery.sent_at;
        Duration::from_millis(u64::try_from(age).unwrap_or_default())
    }

    /// Until the next attempt, in the whole seconds that SQS counts.
    fn wait(&self, age: Duration, retry_after: Option<Duration>) -> Duration {
        let wait = schedule::wait(age, retry_after, schedule::jitter());
        Duration::from_secs(wait.as_millis().div_ceil(1000) as u64)
    }

    /// As long as a message can lie on the queue or the dead-letter queue.
    fn attempts_kept(&self) -> Duration {
        self.config.give_up.after + Duration::from_secs(15 * 24 * 3600)
    }

    /// Schedules the next attempt, or buries the delivery with the reason.
    async fn again_or_never(
        &self,
        delivery: &Delivery,
        outcome: Outcome,
        retry_after: Option<Duration>,
    ) -> Result<Next, Error> {
        let age = self.age(delivery);
        let attempts = self
            .table
            .record_attempt(delivery, self.attempts_kept())
            .await?;
        if !self.config.give_up.is_due(age, outcome.status()) {
            return Ok(Next::Fate(Fate::Back(self.wait(age, retry_after))));
        }
        let reason = Reason {
            text: outcome.reason(),
            status: outcome.status(),
            first_attempt: attempts.first,
            last_attempt: self.clock.millis(),
        };
        self.bury(delivery, &reason, attempts.count).await
    }

    async fn bury(
        &self,
        delivery: &Delivery,
        reason: &Reason,
        attempts: u64,
    ) -> Result<Next, Error> {
        self.dead_letters.bury(delivery, reason).await?;
        tracing::warn!(
            event = %delivery.event,
            workspace = delivery.workspace,
            worker = delivery.worker,
            attempts,
            reason = reason.text,
            Deliveries = 1,
            Outcome = "buried",
            "given up: the event is on the dead-letter queue"
        );
        Ok(Next::Fate(Fate::Done))
    }

    async fn record_success(&self, batch: &Batch<'_>, worker: &Worker, now: i64) {
        let is_news = worker.failures > 0
            || !worker.has_delivered
            || now - worker.delivered_at > RECORD_AFTER;
        let recorded = batch.recorded.get(worker.id.as_str());
        if !is_news || recorded.is_none_or(|r| r.swap(true, Ordering::Relaxed)) {
            return;
        }
        if let Err(error) = self.table.record_answer(worker, None).await {
            tracing::warn!(error = error.chain(), "a success was not recorded");
        }
    }

    async fn body(&self, batch: &Batch<'_>, delivery: &Delivery) -> Result<Option<Bytes>, Error> {
        match &delivery.body {
            Body::Inline(bytes) => Ok(Some(bytes.clone())),
            Body::Stored(digest) => match batch.bodies.get(digest.as_str()) {
                Some(cell) => cell
                    .get_or_try_init(|| self.table.body(&delivery.workspace, digest))
                    .await
                    .cloned(),
                None => self.table.body(&delivery.workspace, digest).await,
            },
        }
    }
}

impl Batch<'_> {
    /// Says what came of an attempt, and keeps it for the metrics.
    fn attempted(&self, delivery: &Delivery, attempt: u64, outcome: Outcome, now: i64) {
        let is_delivered = outcome == Outcome::Delivered;
        let latency = (now - delivery.sent_at).max(0);
        tracing::info!(
            event = %delivery.event,
            workspace = delivery.workspace,
            worker = delivery.worker,
            attempt,
            outcome = outcome.class(),
            reason = (!is_delivered).then(|| outcome.reason()),
            latency = is_delivered.then_some(latency),
            "{}",
            if is_delivered { "delivered" } else { "not delivered" }
        );
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push((outcome, latency));
    }
}

/// Emits the metrics of a batch's attempts: a line for each outcome. What makes a line a metric is longer than the
/// rest of it, and CloudWatch bills by the byte. A batch that the function does not end has its lines, and no metrics.
fn emit(mut attempts: Vec<(Outcome, i64)>) {
    attempts.sort_by_key(|(outcome, _)| outcome.class());
    for alike in attempts.chunk_by(|(one, _), (other, _)| one.class() == other.class()) {
        let (outcome, _) = alike[0];
        let is_delivered = outcome == Outcome::Delivered;
        let is_over = is_delivered || outcome == Outcome::Gone;
        let latencies: Vec<_> = alike.iter().map(|(_, latency)| latency).collect();
        tracing::info!(
            target: metrics::TARGET,
            Attempts = alike.len(),
            Deliveries = is_over.then_some(alike.len()),
            Outcome = outcome.class(),
            DeliveryLatency = is_delivered.then(|| tracing::field::debug(&latencies)),
            "attempted"
        );
    }
}

enum Next {
    Fate(Fate),
    /// All that was left of the group.
    AllParked,
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::logging::tests::lines;

    #[test]
    fn a_batchs_metrics_are_a_line_for_each_outcome_with_the_latency_of_each_delivery() {
        let rejected = |status| Outcome::Rejected {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
        };
        let attempts = vec![
            (Outcome::Delivered, 12),
            (rejected(500), 13),
            (Outcome::Gone, 14),
            (Outcome::Delivered, 15),
            (rejected(404), 16),
        ];
        let lines = lines(|| emit(attempts));
        let found = lines.iter().map(|line| {
            ["Outcome", "Attempts", "Deliveries", "DeliveryLatency"].map(|name| line[name].clone())
        });
        let none = json!(null);
        let expected = [
            [json!("delivered"), json!(2), json!(2), json!([12, 15])],
            [json!("gone"), json!(1), json!(1), none.clone()],
            [json!("rejected"), json!(2), none.clone(), none],
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
