//! What a batch of deliveries goes by: its workers, and the earlier attempts of its messages.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnValue};

use super::{Item, Table, n, number, s, text, unreadable, worker_partition, workers};
use crate::Error;
use crate::queue::Delivery;
use crate::worker::Worker;

const PREFIX: &str = "TRY#";
/// How often keys that DynamoDB did not get to are read again.
const TRIES: u32 = 6;

/// The failed attempts of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// How many there were.
    pub count: u64,
    /// When the first was made, Unix milliseconds.
    pub first: i64,
}

/// What the table knows about a batch: so few that they are looked through.
#[derive(Debug, Default)]
pub struct Known {
    workers: Vec<Worker>,
    attempts: Vec<(String, String, Attempts)>,
}

impl Known {
    /// The delivery's worker; none if it is absent or its lease has ended.
    pub fn worker(&self, delivery: &Delivery) -> Option<&Worker> {
        (self.workers.iter()).find(|w| w.id == delivery.worker && w.workspace == delivery.workspace)
    }

    /// The delivery's failed attempts, if there were any.
    pub fn attempts(&self, delivery: &Delivery) -> Option<Attempts> {
        (self.attempts.iter())
            .find(|(worker, event, _)| {
                *worker == delivery.worker && event == delivery.event.as_str()
            })
            .map(|(_, _, attempts)| *attempts)
    }
}

fn key(delivery: &Delivery) -> Item {
    Item::from([
        (
            "pk".to_owned(),
            s(worker_partition(&delivery.workspace, &delivery.worker)),
        ),
        ("sk".to_owned(), s(format!("{PREFIX}{}", delivery.event))),
    ])
}

fn read(item: &Item) -> Option<Attempts> {
    Some(Attempts {
        count: number(item, "attempts")?,
        first: number(item, "first_attempt")?,
    })
}

impl Table {
    /// Reads all that a batch goes by, in one call.
    pub async fn known(&self, deliveries: &[Delivery]) -> Result<Known, Error> {
        let what = "read the workers";
        let mut keys = Vec::new();
        for (at, delivery) in deliveries.iter().enumerate() {
            let mut earlier = (deliveries[..at].iter())
                .filter(|d| d.worker == delivery.worker && d.workspace == delivery.workspace)
                .peekable();
            if earlier.peek().is_none() {
                keys.push(workers::key(&delivery.workspace, &delivery.worker));
            }
            // DynamoDB takes no key twice.
            if delivery.may_be_tried
                && !earlier.any(|d| d.may_be_tried && d.event == delivery.event)
            {
                keys.push(key(delivery));
            }
        }
        let mut known = Known::default();
        let mut left = (!keys.is_empty()).then(|| {
            let keys = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .consistent_read(true)
                .build()
                .expect("keys are given");
            HashMap::from([(self.name.clone(), keys)])
        });
        for tries in 0..TRIES {
            if left.is_none() {
                return Ok(known);
            }
            let read = (self.client.batch_get_item())
                .set_request_items(left.take())
                .send()
                .await
                .map_err(|e| Error::storage(what, e))?;
            for item in read
                .responses
                .into_iter()
                .flat_map(HashMap::into_values)
                .flatten()
            {
                if self.is_alive(&item) {
                    known.add(&item).ok_or_else(|| unreadable(what))?;
                }
            }
            left = read.unprocessed_keys.filter(|keys| !keys.is_empty());
            if left.is_some() {
                tokio::time::sleep(Duration::from_millis(20 << tries)).await;
            }
        }
        Err(Error::storage(what, "DynamoDB left keys unprocessed"))
    }

    /// Records a failed attempt; answers how many there were.
    pub async fn record_attempt(
        &self,
        delivery: &Delivery,
        keep: Duration,
    ) -> Result<Attempts, Error> {
        let what = "record a failed attempt";
        let recorded = (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(delivery)))
            .update_expression(
                "ADD attempts :one SET expires_at = :until, \
                 first_attempt = if_not_exists(first_attempt, :now)",
            )
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":now", n(self.clock.millis()))
            .expression_attribute_values(":until", n(self.in_seconds(keep)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(|e| Error::storage(what, e))?;
        (recorded.attributes.as_ref().and_then(read)).ok_or_else(|| unreadable(what))
    }
}

impl Known {
    fn add(&mut self, item: &Item) -> Option<()> {
        let partition = text(item, "pk")?.strip_prefix("WS#")?;
        match partition.split_once("#WORKER#") {
            None => {
                self.workers.push(workers::read(partition, item)?);
            }
            Some((_, worker)) => {
                let event = text(item, "sk")?.strip_prefix(PREFIX)?;
                self.attempts
                    .push((worker.to_owned(), event.to_owned(), read(item)?));
            }
        }
        Some(())
    }
}
