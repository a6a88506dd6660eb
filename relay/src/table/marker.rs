//! The marker on a body's SHA-256: written after the fan-out, so that a replay is known also under a forged
//! `Linear-Delivery`.

use std::time::Duration;

use super::{Table, n, s};
use crate::Error;

const SORT: &str = "SEEN";

fn partition(workspace: &str, digest: &str) -> String {
    format!("WS#{workspace}#SEEN#{digest}")
}

impl Table {
    /// Whether a body was fanned out already.
    pub async fn is_seen(&self, workspace: &str, digest: &str) -> Result<bool, Error> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .key("pk", s(partition(workspace, digest)))
            .key("sk", s(SORT))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| Error::storage("look for an earlier delivery", e))?;
        Ok(found.item.is_some_and(|item| self.is_alive(&item)))
    }

    /// Marks a body as fanned out, for `keep`.
    pub async fn mark_seen(
        &self,
        workspace: &str,
        digest: &str,
        keep: Duration,
    ) -> Result<(), Error> {
        (self.client.put_item())
            .table_name(&self.name)
            .item("pk", s(partition(workspace, digest)))
            .item("sk", s(SORT))
            .item("expires_at", n(self.in_seconds(keep)))
            .send()
            .await
            .map(drop)
            .map_err(|e| Error::storage("mark the event as accepted", e))
    }
}
