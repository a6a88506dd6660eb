//! Groups: which of a group's workers gets the events of an ordering key.
//!
//! Invariant: a key has one worker at a time. It is given by a conditional write, so that two events of the key at once go to
//! the same worker.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::try_join_all;
use protocol::clock::{UnixMillis, UnixSeconds};

use super::batch::READS;
use super::workers::conditional;
use super::{Item, Table, TableError, item_key, n, number, routes, s, text};

/// How long a key stays with its worker after its last events.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The worker of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The worker's id.
    pub(crate) worker: String,
    /// Until when the key stays with it.
    until: UnixSeconds,
}

/// What the partitions of a workspace's groups begin with.
fn prefix(workspace: &str) -> String {
    format!("WS#{workspace}#GROUP#")
}

fn owner_key(workspace: &str, group: &str, ordering_key: &str) -> Item {
    item_key(prefix(workspace) + group, ordering_key)
}

/// An item's group and owner.
fn parse(item: &Item, prefix: &str) -> Option<(String, Owner)> {
    let group = text(item, "pk")?.strip_prefix(prefix)?.to_owned();
    let owner = Owner {
        worker: text(item, "worker")?.to_owned(),
        until: number(item, "expires_at")?,
    };
    Some((group, owner))
}

impl Table {
    /// Reads the worker of a key in each of these groups, a hundred groups in a call.
    pub(crate) async fn owners(
        &self,
        workspace: &str,
        groups: &[&str],
        ordering_key: &str,
    ) -> Result<HashMap<String, Owner>, TableError> {
        let read = try_join_all(groups.chunks(READS).map(|groups| {
            let keys = groups.iter();
            let keys = keys.map(|group| owner_key(workspace, group, ordering_key));
            self.get_batch(keys.collect(), "look for the workers of a key")
        }));
        let (items, prefix) = (read.await?, prefix(workspace));
        let owners = items.iter().flatten();
        Ok(owners.filter_map(|item| parse(item, &prefix)).collect())
    }

    /// Whether a key has to be given to its worker again soon, so that it stays there while there are events.
    pub(crate) fn is_to_be_kept(&self, owner: &Owner) -> bool {
        owner.until - self.clock.seconds() < i64::try_from(KEPT.as_secs() / 2).unwrap_or_default()
    }

    /// Gives a key to a worker, in the place of `previous`. Returns whether it still was the worker of the key.
    pub(crate) async fn give_key(
        &self,
        (workspace, group, ordering_key): (&str, &str, &str),
        worker: &str,
        previous: Option<&Owner>,
    ) -> Result<bool, TableError> {
        let put = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(owner_key(workspace, group, ordering_key)))
            .item("worker", s(worker))
            .item("expires_at", n(self.expiry(KEPT)));
        let put = match previous {
            None => put
                .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
                .expression_attribute_values(":now", n(self.clock.seconds())),
            Some(previous) => put
                .condition_expression("worker = :previous")
                .expression_attribute_values(":previous", s(&previous.worker)),
        };
        Ok(conditional(put.send().await, "give a key to a worker")?.is_some())
    }

    /// Records in a worker's route since when it is away, or that it is not. A failure makes new keys prefer a worker that is
    /// away, and no more.
    pub(super) async fn route_away(
        &self,
        workspace: &str,
        worker: &str,
        since: Option<UnixMillis>,
    ) {
        let update = (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(routes::key(workspace, worker)))
            .condition_expression("attribute_exists(pk)");
        let update = match since {
            Some(since) => update
                .update_expression("SET away_since = :since")
                .expression_attribute_values(":since", n(since)),
            None => update.update_expression("REMOVE away_since"),
        };
        let updated = conditional(update.send().await, "record a worker's state for its group");
        if let Err(error) = updated {
            let error = crate::cause::chain(&error);
            tracing::warn!(worker, error, "the route of worker {worker} is out of date");
        }
    }
}
