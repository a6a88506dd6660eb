//! The marker on a body's SHA-256. It is written after the fan-out, and detects a replay under any `Linear-Delivery`.

use std::time::Duration;

use super::{Item, Table, TableError, item_key};

fn seen_key(workspace: &str, digest: &str) -> Item {
    item_key(format!("WS#{workspace}#SEEN#{digest}"), "SEEN")
}

impl Table {
    /// Whether a body was accepted before.
    pub(crate) async fn is_seen(&self, workspace: &str, digest: &str) -> Result<bool, TableError> {
        let seen = self.get(seen_key(workspace, digest), "look for an earlier delivery");
        Ok(seen.await?.is_some())
    }

    /// Marks a body as accepted.
    pub(crate) async fn mark_seen(
        &self,
        workspace: &str,
        digest: &str,
        keep: Duration,
    ) -> Result<(), TableError> {
        let item = seen_key(workspace, digest);
        self.put(item, keep, "mark the event as accepted").await
    }
}
