//! Routes: what `ingest` needs to know of a worker, in an item of its own without secrets, so that `ingest` reads little and
//! may read nothing else.
//!
//! Invariant: a route is written and deleted in one transaction with its worker, and says what the worker's item says. So no
//! worker is without its route.

use protocol::clock::UnixMillis;
use protocol::messages::WorkerState;

use super::{Item, Table, TableError, item_key, n, number, s, text};
use crate::subscription::Subscription;
use crate::worker::Worker;

/// A worker's route.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// The worker's id.
    pub(crate) worker: String,
    /// What it may see, and wants.
    pub(crate) subscription: Subscription,
    /// Since when it is away or paused; recorded for a worker with a group alone.
    pub(crate) away_since: Option<UnixMillis>,
}

/// The partition of a workspace's routes.
fn partition(workspace: &str) -> String {
    format!("WS#{workspace}#ROUTES")
}

/// The key of a worker's route.
pub(super) fn key(workspace: &str, worker: &str) -> Item {
    item_key(partition(workspace), worker)
}

/// The attributes of a subscription, here and in a worker's item.
pub(super) const SUBSCRIPTION: [&str; 7] = [
    "user",
    "is_oauth",
    "teams",
    "capabilities",
    "mine",
    "only_teams",
    "group",
];

/// The attributes that a subscription has.
pub(super) fn subscription(subscription: &Subscription) -> Item {
    serde_dynamo::to_item(subscription).expect("a subscription is texts, flags and lists of them")
}

/// A worker's route from its item. Since when it is away only says whom a new key prefers, so what cannot be read there counts as none.
fn parse(item: Item) -> Option<Route> {
    Some(Route {
        worker: text(&item, "sk")?.to_owned(),
        away_since: number(&item, "away_since"),
        subscription: serde_dynamo::from_item(item).ok()?,
    })
}

/// The route of a worker.
pub(super) fn item(worker: &Worker) -> Item {
    let mut item = subscription(&worker.subscription);
    item.extend(key(&worker.workspace, &worker.id));
    item.insert("expires_at".to_owned(), n(worker.expires_at));
    let is_away =
        (worker.state == WorkerState::Away || worker.paused) && worker.subscription.group.is_some();
    if let Some(since) = worker.away_since.filter(|_| is_away) {
        item.insert("away_since".to_owned(), n(since));
    }
    item
}

impl Table {
    /// The routes of a workspace.
    pub(crate) async fn routes(&self, workspace: &str) -> Result<Vec<Route>, TableError> {
        let operation = "find the workspace's workers";
        let mut found = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call(operation, e))?;
            for item in page.items.unwrap_or_default() {
                if self.is_alive(&item) {
                    // One unreadable item must not keep the event from the other workers.
                    match parse(item) {
                        Some(route) => found.push(route),
                        None => tracing::error!(workspace, "a worker's route cannot be read"),
                    }
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::User;

    #[test]
    fn the_list_of_attributes_has_all_that_a_subscription_has() {
        let text = || "x".to_owned();
        let whole = Subscription {
            user: Some(User {
                id: text(),
                name: text(),
                display_name: text(),
                email: text(),
                is_app: true,
            }),
            is_oauth: true,
            teams: Some([text()].into()),
            capabilities: Some(vec![text()]),
            mine: true,
            only_teams: Some([text()].into()),
            group: Some(text()),
        };
        let mut attributes: Vec<_> = subscription(&whole).into_keys().collect();
        attributes.sort_unstable();
        let mut listed = SUBSCRIPTION;
        listed.sort_unstable();
        assert_eq!(attributes, listed);
    }
}
