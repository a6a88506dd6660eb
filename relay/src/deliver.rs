//! Delivers batches: one attempt at each delivery, and what its outcome means for the message.
//!
//! What an outcome means is decided in [`crate::policy`].
//!
//! Invariant: a message is acknowledged only when its delivery was delivered, parked or dead-lettered, or when its worker
//! is gone. Groups are processed concurrently; within a group, nothing overtakes a delivery that has to wait.

mod attempt;
mod drain;
mod group;
mod report;
mod revoke;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use protocol::clock::{Clock, elapsed};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::cause::chain;
use crate::config::DeliverConfig;
use crate::delivery::{Body, Delivery};
use crate::metrics;
use crate::outbound::{ClientError, Network, Outbound};
use crate::queue::{Heartbeat, Queue};
use crate::table::{BatchContext, Table, TableError};
use crate::worker::Worker;
use group::{Disposition, Group};

/// No attempt begins after this time. The rest of the batch returns to the queue.
pub const BATCH_BUDGET: Duration = Duration::from_secs(30);

/// If a batch takes longer than this, what is settled is deleted and returned at once, so that a worker that stalls does
/// not delay what is behind another worker's deliveries.
const SETTLE_AFTER: Duration = Duration::from_millis(500);

/// A worker's first success is recorded, then one after this long without a record. So `lastDelivery` is true to the
/// hour, and a success costs no write.
const RECORD_INTERVAL: Duration = Duration::from_secs(3600);

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

/// What the groups of a batch share.
struct Batch<'a> {
    context: BatchContext,
    /// The bodies that are not there as they are, each read or unpacked once for all its deliveries.
    bodies: HashMap<&'a Body, OnceCell<Option<Bytes>>>,
    /// The workers whose success is recorded.
    recorded: Mutex<HashSet<&'a str>>,
    deadline: Instant,
}

impl<'a> Batch<'a> {
    fn new(context: BatchContext, deliveries: &'a [Delivery], deadline: Instant) -> Self {
        let is_to_be_read = |body: &&Body| !matches!(body, Body::Inline(_));
        let bodies = deliveries.iter().map(|d| &d.body).filter(is_to_be_read);
        Self {
            context,
            bodies: bodies.map(|body| (body, OnceCell::new())).collect(),
            recorded: Mutex::default(),
            deadline,
        }
    }
}

/// Messages whose disposition is known and not yet carried out, by receipt handle.
#[derive(Default)]
struct Settled {
    acknowledged: Vec<String>,
    returned: Vec<(String, Duration)>,
}

impl Settled {
    fn is_empty(&self) -> bool {
        self.acknowledged.is_empty() && self.returned.is_empty()
    }
}

/// The deliveries of a batch by FIFO group, in their order.
fn by_group(deliveries: &[Delivery]) -> Vec<Vec<&Delivery>> {
    let mut groups: Vec<Vec<&Delivery>> = Vec::new();
    for delivery in deliveries {
        let group = groups.iter_mut().find(|g| g[0].group == delivery.group);
        match group {
            Some(group) => group.push(delivery),
            None => groups.push(vec![delivery]),
        }
    }
    groups
}

impl Deliver {
    /// A `Deliver` over this network, this table and these queues.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub fn new(
        config: DeliverConfig,
        network: Network,
        table: Table,
        queue: Queue,
        dead_letters: Queue,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            outbound: Outbound::new(network, Some(config.egress), config.timeout)?,
            config,
            table,
            queue,
            dead_letters,
            clock,
        })
    }

    /// Attempts each delivery of a batch. Returns the ids of the messages that are not acknowledged. Those that are, are deleted
    /// here if the invocation `goes_on` with something else, and by the event source mapping at its end otherwise.
    ///
    /// # Errors
    ///
    /// The workers could not be read. Nothing was attempted.
    pub async fn batch(
        &self,
        deliveries: &[Delivery],
        goes_on: bool,
    ) -> Result<Vec<String>, TableError> {
        let began = Instant::now();
        let context = self.table.batch_context(deliveries).await?;
        let batch = Batch::new(context, deliveries, began + BATCH_BUDGET);
        let mut groups = by_group(deliveries);
        // What is parked does not hurry.
        groups.sort_by_key(|group| !batch.context.has_live_worker(group[0]));
        // In boxes, because each has ten kilobytes, which would be moved again and again.
        let mut running: FuturesUnordered<_> = (groups.into_iter())
            .map(|group| Box::pin(Group::new(self, &batch, group).run()))
            .collect();
        let mut settled = Settled::default();
        let mut failed = Vec::new();
        let mut settling = Vec::new();
        loop {
            let dispositions = tokio::select! {
                biased;
                next = running.next() => next,
                () = tokio::time::sleep_until(began + SETTLE_AFTER), if !settled.is_empty() => {
                    // Spawned, because awaiting it here would halt the attempts that are still running.
                    let settled = std::mem::take(&mut settled);
                    settling.push(tokio::spawn(self.clone().settle(settled)));
                    continue;
                }
            };
            let Some(dispositions) = dispositions else {
                break;
            };
            for (delivery, disposition) in dispositions {
                let receipt_handle = delivery.receipt_handle.clone();
                match disposition {
                    Disposition::Acknowledge => settled.acknowledged.push(receipt_handle),
                    Disposition::Return(wait) => {
                        settled.returned.push((receipt_handle, wait));
                        failed.push(delivery.message_id.clone());
                    }
                }
            }
        }
        for settling in settling {
            // Messages that could not be settled become visible after the queue's visibility timeout.
            let _ = settling.await;
        }
        if !goes_on {
            settled.acknowledged.clear();
        }
        self.clone().settle(settled).await;
        Ok(failed)
    }

    async fn settle(self, settled: Settled) {
        if !settled.acknowledged.is_empty() {
            self.queue.delete(&settled.acknowledged).await;
        }
        self.queue.return_after(&settled.returned).await;
    }

    /// Measures how long a heartbeat was on the queue.
    pub fn measure(&self, heartbeat: Heartbeat) {
        let latency_ms = (self.clock.millis() - heartbeat.sent_at).max(0);
        tracing::info!(target: metrics::TARGET, QueueLatency = latency_ms, "a heartbeat has come");
    }

    /// The body of a delivery; none if the stored body is gone.
    async fn body(
        &self,
        batch: &Batch<'_>,
        delivery: &Delivery,
    ) -> Result<Option<Bytes>, TableError> {
        let read = || self.table.body(&delivery.workspace, &delivery.body);
        match batch.bodies.get(&delivery.body) {
            Some(cell) => cell.get_or_try_init(read).await.cloned(),
            None => read().await,
        }
    }

    /// Records a success if it changes what the worker's state shows. A delivery that `was_tried` before is not in backoff
    /// any more.
    async fn record_success<'a>(
        &self,
        batch: &Batch<'a>,
        delivery: &'a Delivery,
        worker: &Worker,
        was_tried: bool,
    ) {
        if was_tried {
            self.forget_attempts(&[delivery]).await;
        }
        let since = elapsed(worker.delivered_at, self.clock.millis());
        let is_news = worker.failures > 0 || !worker.has_delivered || since > RECORD_INTERVAL;
        let is_recorded = is_news && batch.recorded.lock().insert(&delivery.worker);
        if !is_recorded && !was_tried {
            return;
        }
        self.note_success(worker, &delivery.event).await;
    }

    /// Deletes the records of failed attempts at deliveries that have ended.
    async fn forget_attempts(&self, deliveries: &[&Delivery]) {
        if let Err(error) = self.table.delete_attempts(deliveries).await {
            let error = chain(&error);
            tracing::warn!(
                error,
                "failed attempts at deliveries that have ended are kept"
            );
        }
    }
}
