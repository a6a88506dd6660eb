//! The marker on a body's SHA-256. It is written after the fan-out, and detects a replay under any `Linear-Delivery`.

use std::time::Duration;

use super::{Table, TableError, n, s};

const SORT: &str = "SEEN";

fn partition(workspace: &str, digest: &str) -> String {
    format!("WS#{workspace}#SEEN#{digest}")
}

impl Table {
    /// Whether a body was accepted before.
    pub(crate) async fn is_seen(&self, workspace: &str, digest: &str) -> Result<bool, TableError> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .key("pk", s(partition(workspace, digest)))
            .key("sk", s(SORT))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::call("look for an earlier delivery", e))?;
        Ok(found.item.is_some_and(|item| self.is_alive(&item)))
    }

    /// Marks a body as accepted.
    pub(crate) async fn mark_seen(
        &self,
        workspace: &str,
        digest: &str,
        keep: Duration,
    ) -> Result<(), TableError> {
        (self.client.put_item())
            .table_name(&self.name)
            .item("pk", s(partition(workspace, digest)))
            .item("sk", s(SORT))
            .item("expires_at", n(self.expiry(keep)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("mark the event as accepted", e))
    }
}
