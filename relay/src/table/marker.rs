//! The marker on a body's SHA-256. It is written after the fan-out, and detects a replay under any `Linear-Delivery`.

use std::time::Duration;

use super::{Item, Table, TableError, item_key};

fn seen_key(workspace: &str, digest: &str) -> Item {
    item_key(format!("WS#{workspace}#SEEN#{digest}"), "SEEN")
}

impl Table {
    /// Whether a body was accepted before. The read costs half because it is not strongly consistent: a marker of less than
    /// about a second ago can be missed, as is one that is not written yet. Linear waits a minute before it tries again.
    pub(crate) async fn is_seen(&self, workspace: &str, digest: &str) -> Result<bool, TableError> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(seen_key(workspace, digest)))
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
        let item = seen_key(workspace, digest);
        self.put(item, keep, "mark the event as accepted").await
    }
}
