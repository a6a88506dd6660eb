//! DynamoDB: the one table, its keys, every read and write.
//!
//! | partition `pk` | sort `sk` | holds |
//! |---|---|---|
//! | `WS#<workspace>` | `WORKER#<worker>` | a worker |
//! | `WS#<workspace>#WORKER#<worker>` | `MAIL#<sequence>-<event>` | a parked event |
//! | `WS#<workspace>#WORKER#<worker>` | `TRY#<event>` | the failed attempts of a delivery |
//! | `WS#<workspace>#SEEN#<sha256>` | `SEEN` | the marker against replays |
//! | `WS#<workspace>#BODY#<sha256>` | `<chunk>` | a part of a large body, compressed |
//! | `RATE#<caller>` | `<minute>` | calls of a caller |
//!
//! One index, [`roll`], of the workers alone, with what `health` counts; its key is their shard.
//!
//! Invariant: every item has `expires_at` (the TTL attribute, Unix seconds), and an expired one counts as
//! absent: DynamoDB deletes it up to days later.

mod attempts;
mod bodies;
mod limits;
mod mail;
mod marker;
mod roll;
mod workers;

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

pub use attempts::{Attempts, Known};
pub use mail::{Mail, NotAway};
pub use roll::{Enrolled, INDEX, PROJECTED, SHARDS};
pub use workers::{Change, Interested};

pub(crate) use mail::is_id as is_mail_id;

use crate::Error;
use crate::clock::Clock;

type Item = HashMap<String, AttributeValue>;

/// The one table.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
    clock: Clock,
}

impl Table {
    /// The table called `name`.
    pub fn new(client: Client, name: String, clock: Clock) -> Self {
        Self {
            client,
            name,
            clock,
        }
    }
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

/// A worker's own partition: its mailbox, and its failed attempts.
fn worker_partition(workspace: &str, worker: &str) -> String {
    format!("WS#{workspace}#WORKER#{worker}")
}

impl Table {
    /// Whether the table is there and may be read.
    pub async fn check(&self) -> Result<(), Error> {
        (self.client.get_item())
            .table_name(&self.name)
            .key("pk", s("START"))
            .key("sk", s("START"))
            .send()
            .await
            .map(drop)
            .map_err(|e| Error::storage("read the table", e))
    }

    fn is_alive(&self, item: &Item) -> bool {
        number::<i64>(item, "expires_at").is_some_and(|at| at > self.clock.seconds())
    }

    /// The moment this far from now, for `expires_at`.
    fn in_seconds(&self, from_now: std::time::Duration) -> i64 {
        self.clock.seconds() + i64::try_from(from_now.as_secs()).unwrap_or(i64::MAX / 2)
    }
}

fn unreadable(what: &'static str) -> Error {
    Error::storage(
        what,
        "an item lacks an attribute or holds one of a wrong type",
    )
}
