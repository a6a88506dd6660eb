//! The roll of all workers, in shards: a thin index, so that counting them reads nothing else.
//!
//! Invariant: what is projected seldom changes (a lease is true to a hundredth of its length, a success to the
//! hour), so the index costs next to no writes. It may be a moment old: whoever acts on a worker reads it first.

use protocol::messages::State;

use super::{Table, number, s, text, workers};
use crate::Error;

/// The index's name, and that of its one key.
pub const INDEX: &str = "roll";

/// What it holds beside the keys.
pub const PROJECTED: [&str; 5] = [
    "state",
    "expires_at",
    "delivered_at",
    "away_since",
    "waiting",
];

/// How many shards there are: one for each last digit of a worker's id.
pub const SHARDS: u32 = 16;

/// A worker, as the roll has it.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The worker's id.
    pub id: String,
    /// Where its events go.
    pub state: State,
    /// When the last delivery was recorded; at first, the registration. Unix milliseconds.
    pub delivered_at: i64,
    /// Since when it is away, Unix milliseconds.
    pub away_since: Option<i64>,
    /// Whether anything was parked since its mailbox was last seen empty.
    pub waiting: bool,
}

/// The shard of a worker: the last digit of its id, which is a hash.
pub(super) fn shard(worker: &str) -> &str {
    worker
        .get(worker.len().saturating_sub(1)..)
        .unwrap_or_default()
}

impl Table {
    /// Tells of each worker of a shard, from 0 to [`SHARDS`].
    pub async fn roll(&self, shard: u32, mut each: impl FnMut(Enrolled)) -> Result<(), Error> {
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .index_name(INDEX)
            .key_condition_expression("roll = :roll")
            .expression_attribute_values(":roll", s(format!("{shard:x}")))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Error::storage("call the roll", e))?;
            for item in page.items.unwrap_or_default() {
                if let (true, Some(enrolled)) = (self.is_alive(&item), read(&item)) {
                    each(enrolled);
                }
            }
        }
        Ok(())
    }
}

fn read(item: &super::Item) -> Option<Enrolled> {
    Some(Enrolled {
        workspace: text(item, "pk")?.strip_prefix("WS#")?.to_owned(),
        id: text(item, "sk")?.strip_prefix(workers::PREFIX)?.to_owned(),
        state: workers::state(item)?,
        delivered_at: number(item, "delivered_at")?,
        away_since: number(item, "away_since"),
        waiting: item.contains_key("waiting"),
    })
}
