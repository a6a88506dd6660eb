//! Removals: of a worker, its route, its mailbox and its failed attempts.
//!
//! Invariant: the transaction that removes a worker leaves a record of that, which goes when nothing of the worker is left. A
//! removal that ended early is completed before the same worker is registered again. So no later registration gets the mailbox of a
//! removed worker.

use aws_sdk_dynamodb::types::{Delete, Update};
use protocol::clock::UnixMillis;

use super::worker_key::{self, SORT};
use super::workers::conditional;
use super::{
    Item, Table, TableError, item_key, n, number, routes, s, text, transaction, worker_partition,
};
use crate::config::LONGEST_MAILBOX;
use crate::worker::Worker;

/// The sort key of the record.
const REMOVED: &str = "REMOVED";
const OPERATION: &str = "remove the worker";

fn key(workspace: &str, worker: &str) -> Item {
    item_key(worker_partition(workspace, worker), REMOVED)
}

impl Table {
    /// Removes a worker, and nothing of one that registers meanwhile. Returns whether its registration and address still were as
    /// read.
    pub(crate) async fn remove_worker(&self, worker: &Worker) -> Result<bool, TableError> {
        let (workspace, id) = (&worker.workspace, &worker.id);
        let delete = Delete::builder()
            .table_name(&self.name)
            .set_key(Some(worker_key::key(workspace, id)))
            .expression_attribute_names("#token", "token")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":token", s(&worker.token_hash));
        let delete = match &worker.url {
            Some(url) => delete
                .condition_expression("#token = :token AND #url = :url")
                .expression_attribute_values(":url", s(url)),
            None => delete.condition_expression("#token = :token AND attribute_not_exists(#url)"),
        };
        let delete = delete.build().expect("a table and a key are given");
        let record = Update::builder()
            .table_name(&self.name)
            .set_key(Some(key(workspace, id)))
            .update_expression("SET registered_at = :registered, expires_at = :until")
            .expression_attribute_values(":registered", n(worker.registered_at))
            .expression_attribute_values(":until", n(self.expiry(LONGEST_MAILBOX)))
            .build()
            .expect("a table, a key and an expression are given");
        let writes = vec![
            transaction::delete(delete),
            self.delete_of(routes::key(workspace, id)),
            transaction::update(record),
        ];
        if !self.transact(writes, OPERATION).await? {
            return Ok(false);
        }
        self.delete_rest(workspace, id, worker.registered_at)
            .await?;
        Ok(true)
    }

    /// Completes a removal of this worker, if one has ended early.
    pub(crate) async fn complete_removal(
        &self,
        workspace: &str,
        worker: &str,
    ) -> Result<(), TableError> {
        let record = self.get(key(workspace, worker), OPERATION).await?;
        match record.and_then(|record| number(&record, "registered_at")) {
            Some(registered_at) => self.delete_rest(workspace, worker, registered_at).await,
            None => Ok(()),
        }
    }

    /// Deletes what a removed worker that was registered then has left, and the record of its removal.
    async fn delete_rest(
        &self,
        workspace: &str,
        worker: &str,
        registered_at: UnixMillis,
    ) -> Result<(), TableError> {
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
            .projection_expression("pk, sk")
            .filter_expression(
                "attribute_not_exists(registered_at) OR registered_at <= :registered",
            )
            .expression_attribute_values(":registered", n(registered_at))
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call(OPERATION, e))?;
            let mut items = page.items.unwrap_or_default();
            // The worker itself was deleted. If it is there, it is one that has registered meanwhile.
            items.retain(|item| !matches!(text(item, "sk"), Some(SORT | REMOVED)));
            self.delete_batch(items, OPERATION).await?;
        }
        let deleted = (self.client.delete_item())
            .table_name(&self.name)
            .set_key(Some(key(workspace, worker)))
            .condition_expression("registered_at = :registered")
            .expression_attribute_values(":registered", n(registered_at))
            .send()
            .await;
        conditional(deleted, OPERATION).map(drop)
    }
}
