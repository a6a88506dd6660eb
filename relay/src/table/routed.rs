//! What is known of the events of the last day that did not go to all workers, by which a worker's owner learns how many
//! were not for it, and why.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::clock::{UnixMillis, millis};
use protocol::envelope::Audience;
use serde::{Deserialize, Serialize};

use super::{Item, Table, TableError, item_key, s, text};
use crate::event::EventId;

/// For how long events can be looked back at.
const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);
/// How many pages of 1 MB are read at most.
const MAX_PAGES: usize = 10;

/// What decides who gets an event.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RoutedEvent {
    /// The event's type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its action; may be empty.
    #[serde(default)]
    pub(crate) action: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) teams: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) people: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) application: Option<String>,
    /// The ids of those who are mentioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mentioned_ids: Vec<String>,
    /// The display names of those who are mentioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mentioned_names: Vec<String>,
    /// The worker that got it, by group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) groups: BTreeMap<String, String>,
}

impl RoutedEvent {
    /// Whom it concerns.
    pub(crate) fn audience(&self) -> Audience<'_> {
        Audience {
            teams: self.teams.iter().map(Into::into).collect(),
            people: self.people.iter().map(Into::into).collect(),
            application: self.application.as_ref().map(Into::into),
            oauth_client: None,
        }
    }
}

fn partition(workspace: &str) -> String {
    format!("WS#{workspace}#ROUTED")
}

/// Times of this form sort as texts.
fn sort(at: UnixMillis) -> String {
    format!("{at:015}")
}

impl Table {
    /// Records an event that did not go to all workers.
    pub(crate) async fn record_routed(
        &self,
        workspace: &str,
        event: &EventId,
        routed: &RoutedEvent,
    ) -> Result<(), TableError> {
        let mut item: Item = serde_dynamo::to_item(routed).expect("it is texts, lists and a map");
        let at = sort(self.clock.millis());
        item.extend(item_key(partition(workspace), format!("{at}-{event}")));
        self.put(item, LOOK_BACK, "record who got the event").await
    }

    /// What decided who got this event of the last day; none if it went to all workers, or is older.
    pub(crate) async fn routed_event(
        &self,
        workspace: &str,
        event: &EventId,
    ) -> Result<Option<RoutedEvent>, TableError> {
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .into_paginator()
            .items()
            .send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|e| TableError::call("look back at events", e))?;
            let sort = text(&item, "sk").and_then(|sort| sort.split_once('-'));
            if sort.is_some_and(|(_, id)| id == event.as_str()) {
                return Ok(serde_dynamo::from_item(item).ok());
            }
        }
        Ok(None)
    }

    /// Calls `each` with the events of the last day, at most those since `since`, the newest first.
    pub(crate) async fn routed(
        &self,
        workspace: &str,
        since: UnixMillis,
        mut each: impl FnMut(RoutedEvent),
    ) -> Result<(), TableError> {
        let since = since.max(self.clock.millis() - millis(LOOK_BACK));
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND sk >= :since")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .expression_attribute_values(":since", s(sort(since)))
            .scan_index_forward(false)
            .into_paginator()
            .send();
        for _ in 0..MAX_PAGES {
            let Some(page) = pages.next().await else {
                break;
            };
            let page = page.map_err(|e| TableError::call("look back at events", e))?;
            for item in page.items.unwrap_or_default() {
                if let Ok(routed) = serde_dynamo::from_item(item) {
                    each(routed);
                }
            }
        }
        Ok(())
    }
}
