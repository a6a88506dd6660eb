//! What the table holds for a worker: events in its mailbox, and failed attempts at events that are on the queue.

use std::collections::HashMap;

use protocol::clock::{UnixMillis, UnixSeconds};

use super::{Item, Table, TableError, batch_context, item_key, mailbox, number, s, text};
use super::{withheld, worker_partition};
use crate::delivery::Body;
use crate::worker::Worker;

/// Where an event for a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its mailbox.
    Mailbox,
    /// Beside it, because it fits into no response to a pull or cannot be read.
    Aside,
    /// Withheld until the next check of its user.
    Withheld,
    /// On the queue, after failed attempts.
    Backoff,
    /// On the dead-letter queue, unless it was dropped there.
    GivenUp,
}

impl Place {
    /// Whether the table holds the event itself.
    fn is_stored(self) -> bool {
        !matches!(self, Self::Backoff | Self::GivenUp)
    }

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Aside => "aside",
            Self::Withheld => "withheld",
            Self::Backoff => "backoff",
            Self::GivenUp => "given up",
        }
    }
}

/// An event that the table holds for a worker.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where it is.
    pub place: Place,
    /// Its id.
    pub event: String,
    /// Its type; none for one on the queue.
    pub kind: Option<String>,
    /// How many attempts have failed.
    pub attempts: u64,
    /// When it is attempted again, while it is in backoff.
    pub due_at: Option<UnixMillis>,
    /// Until when it is kept; none for one on the queue.
    pub kept_until: Option<UnixSeconds>,
    /// The sort key of its item.
    sort: String,
}

/// The prefixes of the items, and where their events are.
const PLACES: [(&str, Place); 4] = [
    (mailbox::PREFIX, Place::Mailbox),
    (mailbox::ASIDE, Place::Aside),
    (withheld::PREFIX, Place::Withheld),
    (batch_context::PREFIX, Place::Backoff),
];

fn parse(item: &Item) -> Option<Kept> {
    let sort = text(item, "sk")?;
    let (name, place) = PLACES
        .iter()
        .find_map(|(prefix, place)| Some((sort.strip_prefix(prefix)?, *place)))?;
    let is_tried = place == Place::Backoff;
    // A dead letter's attempts stay counted, and have no beginning. Of what is parked, see `merged`.
    let is_given_up = is_tried && !item.contains_key("first_attempt");
    let place = if is_given_up { Place::GivenUp } else { place };
    let attempts = if is_tried {
        number(item, "attempts").unwrap_or(0)
    } else {
        // The mailbox has the number of the next one.
        number(item, "attempt").unwrap_or(1).max(1) - 1
    };
    let event = if is_tried {
        name
    } else {
        name.split_once('-')?.1
    };
    Some(Kept {
        place,
        event: event.to_owned(),
        kind: text(item, "type").map(str::to_owned),
        attempts,
        due_at: number(item, "due_at"),
        kept_until: number(item, "kept_until"),
        sort: sort.to_owned(),
    })
}

/// Each event once: one in a mailbox can have failed attempts of its own, while the relay delivers the mailbox.
fn merged(all: Vec<Kept>) -> Vec<Kept> {
    let (tried, mut kept): (Vec<_>, Vec<_>) =
        (all.into_iter()).partition(|kept| !kept.place.is_stored());
    let mut tried: HashMap<String, Kept> =
        (tried.into_iter().map(|kept| (kept.event.clone(), kept))).collect();
    for kept in &mut kept {
        if let Some(tried) = tried.remove(&kept.event) {
            kept.attempts = kept.attempts.max(tried.attempts);
            kept.due_at = tried.due_at;
        }
    }
    let mut tried: Vec<_> = tried.into_values().collect();
    tried.sort_by_key(|kept| kept.due_at);
    kept.extend(tried);
    kept
}

impl Table {
    /// The events that the table holds for a worker, the oldest first, and behind them those in backoff.
    pub(crate) async fn kept(&self, worker: &Worker) -> Result<Vec<Kept>, TableError> {
        let mut found = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(worker_partition(&worker.workspace, &worker.id)))
            .projection_expression(
                "sk, #type, attempt, attempts, first_attempt, due_at, kept_until, expires_at",
            )
            .expression_attribute_names("#type", "type")
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("read what waits for the worker", e))?;
            let items = page.items.unwrap_or_default();
            let alive = items.iter().filter(|item| self.is_alive(item));
            found.extend(alive.filter_map(parse));
        }
        let now = self.clock.seconds();
        found.retain(|kept| kept.kept_until.is_none_or(|until| until > now));
        Ok(merged(found))
    }

    /// The body of an event that the table holds for a worker; none if it has left meanwhile, or is on the queue.
    pub(crate) async fn kept_body(
        &self,
        worker: &Worker,
        kept: &Kept,
    ) -> Result<Option<Body>, TableError> {
        if !kept.place.is_stored() {
            return Ok(None);
        }
        let partition = worker_partition(&worker.workspace, &worker.id);
        let found = (self.get(item_key(partition, &kept.sort), "read the event")).await?;
        Ok(found.as_ref().and_then(mailbox::body))
    }
}
