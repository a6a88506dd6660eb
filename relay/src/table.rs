//! DynamoDB: the one table, its keys, and all reads and writes.
//!
//! | partition `pk` | sort `sk` | holds |
//! |---|---|---|
//! | `WS#<workspace>#WORKER#<worker>` | `WORKER` | a worker |
//! | `WS#<workspace>#ROUTES` | `<worker>` | a worker's route: what `ingest` needs to know of it |
//! | `WS#<workspace>#ROUTED` | `<milliseconds>-<event>` | what decided who got an event of the last day |
//! | `WS#<workspace>#WORKER#<worker>` | `MAIL#<sequence>-<event>` | a parked event |
//! | `WS#<workspace>#WORKER#<worker>` | `ASIDE#<sequence>-<event>` | a parked event that fits into no response to a pull, or is malformed |
//! | `WS#<workspace>#WORKER#<worker>` | `HELD#<sequence>-<event>` | an event of a team that the worker's user could not see at the last check |
//! | `WS#<workspace>#WORKER#<worker>` | `TRY#<event>` | the failed attempts of a delivery |
//! | `WS#<workspace>#WORKER#<worker>` | `REMOVED` | that the worker was removed, until nothing of it is left |
//! | `WS#<workspace>#GROUP#<group>` | `<ordering key>` | which of a group's workers gets the events of the key |
//! | `WS#<workspace>#SEEN#<sha256>` | `SEEN` | the marker against replays |
//! | `WS#<workspace>#BODY#<sha256>` | `<chunk>` | a part of a large body, compressed |
//! | `RATE#<caller>` | `<minute>`, `slot-<n>` | calls of a caller; challenges under way |
//! | `TOKEN#<sha256>` | `TOKEN` | a Linear token that was accepted |
//! | `KNOWN#<workspace>` | `KNOWN` | a workspace that has a webhook here |
//! | `KNOWN#<workspace>` | `APP#<oauthClientId>` | the user that an application is in the workspace |
//! | `KNOWN#<workspace>` | `ENDED#<user>` | when the access of a user has ended, for an hour |
//!
//! One sparse index, [`worker_index`], holds the workers alone, with the attributes that `health` reads.
//!
//! Invariant: every item has `expires_at` (the TTL attribute, Unix seconds), and an expired item counts as absent,
//! because DynamoDB deletes it up to days later.

mod batch;
mod batch_context;
mod bodies;
mod directory;
mod ended;
mod groups;
mod kept;
mod known;
mod mailbox;
mod marker;
mod pause;
mod rate;
mod removal;
mod routed;
mod routes;
mod transaction;
mod withheld;
mod worker_index;
mod worker_key;
mod worker_state;
mod workers;

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use protocol::clock::{Clock, UnixSeconds};

pub(crate) use batch_context::BatchContext;
pub(crate) use groups::Owner;
pub use kept::{Kept, Place};
pub(crate) use known::KnownBy;
pub(crate) use mailbox::{ParkedEvent, Parking, is_mail_id};
pub(crate) use rate::Counted;
pub(crate) use routed::RoutedEvent;
pub(crate) use routes::Route;
pub(crate) use worker_index::IndexedWorker;
pub(crate) use worker_index::SHARDS;
pub use worker_index::{INDEX, PROJECTED};
pub use worker_key::SHARD;
use worker_key::partition as worker_partition;
pub(crate) use workers::{Change, Check};

use crate::cause::Cause;

type Item = HashMap<String, AttributeValue>;

/// Why the table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// DynamoDB refused or failed a call.
    #[error("could not {operation}; try again")]
    Call {
        /// What could not be done.
        operation: &'static str,
        /// Why.
        source: Cause,
    },
    /// An item lacks an attribute or holds one of a wrong type.
    #[error("could not {operation}: an item is malformed")]
    Malformed {
        /// What could not be done.
        operation: &'static str,
    },
    /// DynamoDB throttled a part of a batch each time that it was sent.
    #[error("could not {operation}: DynamoDB left items unprocessed; try again")]
    Unprocessed {
        /// What could not be done.
        operation: &'static str,
    },
    /// Other transactions changed the same item each time.
    #[error("could not {operation}: other transactions changed the worker; try again")]
    Conflict {
        /// What could not be done.
        operation: &'static str,
    },
}

impl TableError {
    fn call(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Call {
            operation,
            source: source.into(),
        }
    }
}

/// The one table.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
    clock: Clock,
}

impl Table {
    /// The table with this name.
    pub fn new(client: Client, name: String, clock: Clock) -> Self {
        Self {
            client,
            name,
            clock,
        }
    }

    /// Verifies that the table exists and may be read.
    ///
    /// # Errors
    ///
    /// DynamoDB refused to read it.
    pub async fn verify_access(&self) -> Result<(), TableError> {
        (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(item_key("START", "START")))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("read the table", e))
    }

    /// The item with this key; none if it is absent or has expired. What was written before is read.
    async fn get(&self, key: Item, operation: &'static str) -> Result<Option<Item>, TableError> {
        let found = self.find(key, operation).await?;
        Ok(found.filter(|item| self.is_alive(item)))
    }

    /// An item, also one that has expired and is still there.
    async fn find(&self, key: Item, operation: &'static str) -> Result<Option<Item>, TableError> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::call(operation, e))?;
        Ok(found.item)
    }

    /// Writes an item that lives this long, whatever was in its place.
    async fn put(
        &self,
        item: Item,
        lifetime: Duration,
        operation: &'static str,
    ) -> Result<(), TableError> {
        (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(item))
            .item("expires_at", n(self.expiry(lifetime)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call(operation, e))
    }

    fn is_alive(&self, item: &Item) -> bool {
        number::<UnixSeconds>(item, "expires_at").is_some_and(|at| at > self.clock.seconds())
    }

    /// The value of `expires_at` for an item that lives this long.
    fn expiry(&self, lifetime: Duration) -> UnixSeconds {
        self.clock.seconds() + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2)
    }
}

/// An item's key: its partition and its place there.
fn item_key(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    let (pk, sk) = (s(partition), s(sort));
    Item::from([("pk".to_owned(), pk), ("sk".to_owned(), sk)])
}

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn number<T: std::str::FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}
