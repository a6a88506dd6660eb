//! The keys of a worker's item, in the table and in the worker index.
//!
//! A worker has a partition of its own, with its mailbox. So what a workspace with many workers reads and writes for each
//! event is spread over as many partitions (DynamoDB: 3,000 read units a second for each).

use super::{Item, item_key};

/// The sort key of every worker's item.
pub(super) const SORT: &str = "WORKER";

/// The key of the worker index. No other item has it, which makes the index sparse.
pub const SHARD: &str = "shard";

/// The partition that holds a worker, its mailbox and its failed attempts.
pub(super) fn partition(workspace: &str, worker: &str) -> String {
    format!("WS#{workspace}#WORKER#{worker}")
}

/// The workspace and the id in a worker's partition key.
pub(super) fn parse(pk: &str) -> Option<(&str, &str)> {
    pk.strip_prefix("WS#")?.split_once("#WORKER#")
}

/// The key of a worker.
pub(super) fn key(workspace: &str, worker: &str) -> Item {
    item_key(partition(workspace, worker), SORT)
}

/// The key that version 0.1 gave to a worker.
pub(super) fn earlier_key(workspace: &str, worker: &str) -> Item {
    item_key(format!("WS#{workspace}"), format!("WORKER#{worker}"))
}

/// The shard of a worker: the last digit of its id, which is a hash.
pub(super) fn shard(worker: &str) -> &str {
    worker
        .get(worker.len().saturating_sub(1)..)
        .unwrap_or_default()
}
