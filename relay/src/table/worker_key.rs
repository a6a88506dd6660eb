//! The keys of a worker's item, in the table and in the worker index.

use super::{Item, item_key};

pub(super) const PREFIX: &str = "WORKER#";

/// The key of the worker index. No other item has it, which makes the index sparse.
pub const SHARD: &str = "shard";

/// The partition of a workspace's workers.
pub(super) fn partition(workspace: &str) -> String {
    format!("WS#{workspace}")
}

/// The workspace in a worker's partition key.
pub(super) fn workspace(pk: &str) -> Option<&str> {
    pk.strip_prefix("WS#")
}

/// The id in a worker's sort key.
pub(super) fn id(sk: &str) -> Option<&str> {
    sk.strip_prefix(PREFIX)
}

/// The key of a worker.
pub(super) fn key(workspace: &str, worker: &str) -> Item {
    item_key(partition(workspace), format!("{PREFIX}{worker}"))
}

/// The shard of a worker: the last digit of its id, which is a hash.
pub(super) fn shard(worker: &str) -> &str {
    worker
        .get(worker.len().saturating_sub(1)..)
        .unwrap_or_default()
}
