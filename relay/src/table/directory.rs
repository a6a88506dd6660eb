//! Workers as the operator looks for them: all of a workspace, or one by its id.

use std::collections::BTreeSet;

use super::worker_key::{PREFIX, partition, shard};
use super::{SHARDS, Table, TableError, s, workers};
use crate::worker::Worker;

impl Table {
    /// The workspaces that have a worker.
    pub(crate) async fn workspaces(&self) -> Result<BTreeSet<String>, TableError> {
        let mut found = BTreeSet::new();
        for shard in 0..SHARDS {
            let each = |worker: super::IndexedWorker| {
                found.insert(worker.workspace().to_owned());
            };
            self.indexed_workers(shard, each).await?;
        }
        Ok(found)
    }

    /// The workers of a workspace.
    pub(crate) async fn workers(&self, workspace: &str) -> Result<Vec<Worker>, TableError> {
        let operation = "read the workers";
        let mut found = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call(operation, e))?;
            let items = page.items.unwrap_or_default().into_iter();
            for item in items.filter(|item| self.is_alive(item)) {
                match workers::parse(item) {
                    Some(worker) => found.push(worker),
                    None => tracing::error!(workspace, "a worker's item cannot be read"),
                }
            }
        }
        Ok(found)
    }

    /// The worker with this id, in whatever workspace; none if it is absent or its lease has ended.
    pub(crate) async fn find_worker(&self, id: &str) -> Result<Option<Worker>, TableError> {
        let mut workspace = None;
        let Ok(shard) = u32::from_str_radix(shard(id), 16) else {
            return Ok(None);
        };
        let each = |worker: super::IndexedWorker| {
            if worker.id() == id {
                workspace = Some(worker.workspace().to_owned());
            }
        };
        self.indexed_workers(shard, each).await?;
        match workspace {
            Some(workspace) => self.worker(&workspace, id).await,
            None => Ok(None),
        }
    }
}
