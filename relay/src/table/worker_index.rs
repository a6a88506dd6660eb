//! The worker index: all workers in shards, with few attributes, so that counting them reads nothing else.
//!
//! Invariant: the projected attributes seldom change (the lease is true to a hundredth of its length, a success to the
//! hour), so the index costs next to no writes. It is eventually consistent: read a worker before acting on it.

use aws_sdk_dynamodb::types::Delete;
use protocol::clock::UnixMillis;
use protocol::messages::WorkerState;
use serde::Deserialize;

use super::transaction;
use super::worker_key::{self, SHARD};
use super::{Table, TableError, n, routes, s, text};

/// The index's name.
pub const INDEX: &str = "workers";

/// The attributes that it holds beside the keys.
pub const PROJECTED: [&str; 5] = [
    "state",
    "expires_at",
    "delivered_at",
    "away_since",
    "waiting",
];

/// How many shards there are: one for each last digit of a worker's id.
pub(crate) const SHARDS: u32 = 16;

/// A worker in the index.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct IndexedWorker {
    pk: String,
    /// Whether its events are POSTed or parked.
    pub(crate) state: WorkerState,
    /// When the last delivery was recorded, at first the registration.
    pub(crate) delivered_at: UnixMillis,
    /// Since when it is away.
    pub(crate) away_since: Option<UnixMillis>,
    /// Whether anything was parked since its mailbox was last found empty.
    #[serde(default)]
    pub(crate) waiting: bool,
}

impl IndexedWorker {
    /// Linear's `organizationId`.
    pub(crate) fn workspace(&self) -> &str {
        worker_key::parse(&self.pk).unwrap_or_default().0
    }

    /// The worker's id.
    pub(crate) fn id(&self) -> &str {
        worker_key::parse(&self.pk).unwrap_or_default().1
    }
}

impl Table {
    /// Calls `each` with every worker of a shard, from 0 to [`SHARDS`]. Returns those whose lease has ended.
    pub(crate) async fn indexed_workers(
        &self,
        shard: u32,
        mut each: impl FnMut(IndexedWorker),
    ) -> Result<Vec<IndexedWorker>, TableError> {
        let mut ended = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .index_name(INDEX)
            .key_condition_expression("#shard = :shard")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_values(":shard", s(format!("{shard:x}")))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("read the worker index", e))?;
            for item in page.items.unwrap_or_default() {
                // A worker that version 0.1 registered has another key.
                if text(&item, "pk").and_then(worker_key::parse).is_none() {
                    continue;
                }
                let is_alive = self.is_alive(&item);
                match serde_dynamo::from_item(item) {
                    Ok(worker) if is_alive => each(worker),
                    Ok(worker) => ended.push(worker),
                    Err(_) => {}
                }
            }
        }
        Ok(ended)
    }

    /// Deletes a worker whose lease has ended and its route, and nothing of its mailbox, which can outlive it. Returns whether
    /// it was there still: DynamoDB deletes it, too, sooner or later.
    pub(crate) async fn end_lease(&self, worker: &IndexedWorker) -> Result<bool, TableError> {
        let (workspace, id) = (worker.workspace(), worker.id());
        let delete = Delete::builder()
            .table_name(&self.name)
            .set_key(Some(worker_key::key(workspace, id)))
            .condition_expression("expires_at <= :now")
            .expression_attribute_values(":now", n(self.clock.seconds()))
            .build()
            .expect("a table and a key are given");
        let writes = vec![
            transaction::delete(delete),
            self.delete_of(routes::key(workspace, id)),
        ];
        self.transact(writes, "end a lease").await
    }
}
