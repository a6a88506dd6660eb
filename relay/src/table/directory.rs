//! Workers as the operator looks for them: all of a workspace, or one by its id.

use std::collections::BTreeSet;

use super::batch::READS;
use super::worker_key::{key, shard};
use super::{SHARDS, Table, TableError, workers};
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
        let routes = self.routes(workspace).await?;
        let mut found = Vec::with_capacity(routes.len());
        for routes in routes.chunks(READS) {
            let keys = routes.iter().map(|route| key(workspace, &route.worker));
            for item in self.get_batch(keys.collect(), "read the workers").await? {
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
