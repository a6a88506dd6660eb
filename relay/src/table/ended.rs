//! The users whose access to a workspace has ended lately: so that no worker is written with what Linear has said before
//! that.
//!
//! Invariant: `ingest` records the end before it reads the workers whose access has ended, and a worker that was checked is
//! written only if no end is recorded since Linear was asked. So either the worker is found, or it is not written.

use std::time::Duration;

use aws_sdk_dynamodb::types::{ConditionCheck, TransactWriteItem};
use protocol::clock::UnixMillis;

use super::workers::conditional;
use super::{Item, Table, TableError, item_key, n};
use crate::worker::Worker;

/// This is longer than a registration takes, and longer than clocks differ.
const RECORDED_FOR: Duration = Duration::from_secs(3600);

fn key(workspace: &str, user: &str) -> Item {
    item_key(format!("KNOWN#{workspace}"), format!("ENDED#{user}"))
}

impl Table {
    /// Records when the access of a user has ended, unless a later end is recorded.
    pub(crate) async fn record_ended(
        &self,
        workspace: &str,
        user: &str,
        ended_at: UnixMillis,
    ) -> Result<(), TableError> {
        let put = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(key(workspace, user)))
            .item("ended_at", n(ended_at))
            .item("expires_at", n(self.expiry(RECORDED_FOR)))
            .condition_expression("attribute_not_exists(ended_at) OR ended_at < :ended")
            .expression_attribute_values(":ended", n(ended_at));
        let recorded = conditional(put.send().await, "record that access has ended");
        recorded.map(drop)
    }

    /// The condition that the access of the worker's user has not ended since Linear was asked at this time.
    pub(super) fn verify_not_ended(
        &self,
        worker: &Worker,
        asked_at: UnixMillis,
    ) -> Option<TransactWriteItem> {
        let user = worker.subscription.user.as_ref()?;
        let check = ConditionCheck::builder()
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &user.id)))
            .condition_expression("attribute_not_exists(ended_at) OR ended_at < :asked")
            .expression_attribute_values(":asked", n(asked_at))
            .build()
            .expect("a table, a key and a condition are given");
        Some(TransactWriteItem::builder().condition_check(check).build())
    }
}
