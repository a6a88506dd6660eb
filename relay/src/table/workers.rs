//! Workers: registered, renewed, turned away and live, removed.
//!
//! Invariant: a change names what it was decided from in its condition, so that two at once never undo each
//! other; whoever loses reads again.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, ReturnValue, WriteRequest};
use protocol::messages::State;
use protocol::signature::Secret;

use super::{Item, Table, n, number, roll, s, text, unreadable, worker_partition};
use crate::Error;
use crate::worker::{ActiveSecret, Worker};

pub(super) const PREFIX: &str = "WORKER#";

fn partition(workspace: &str) -> String {
    format!("WS#{workspace}")
}

/// What `ingest` needs to know of a worker.
#[derive(Debug)]
pub struct Interested {
    /// The worker's id.
    pub worker: String,
    /// None: all events.
    pub capabilities: Option<Vec<String>>,
}

/// What a renewal changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A new address, or none from now on.
    pub url: Option<Option<String>>,
    /// New patterns, or all events from now on.
    pub capabilities: Option<Option<Vec<String>>>,
    /// Where its events go from now on.
    pub state: Option<State>,
}

pub(super) fn state(item: &Item) -> Option<State> {
    match text(item, "state")? {
        "live" => Some(State::Live),
        "away" => Some(State::Away),
        "pull" => Some(State::Pull),
        _ => None,
    }
}

fn capabilities(item: &Item) -> Option<Vec<String>> {
    let list = item.get("capabilities")?.as_l().ok()?;
    Some(list.iter().filter_map(|v| v.as_s().ok().cloned()).collect())
}

fn list(patterns: &[String]) -> AttributeValue {
    AttributeValue::L(patterns.iter().map(s).collect())
}

fn secrets(item: &Item) -> Option<Vec<ActiveSecret>> {
    (item.get("secrets")?.as_l().ok()?.iter())
        .map(|entry| {
            let entry = entry.as_m().ok()?;
            Some(ActiveSecret {
                secret: Secret::parse(text(entry, "secret")?).ok()?,
                until: number(entry, "until"),
            })
        })
        .collect()
}

pub(super) fn read(workspace: &str, item: &Item) -> Option<Worker> {
    Some(Worker {
        workspace: workspace.to_owned(),
        id: text(item, "sk")?.strip_prefix(PREFIX)?.to_owned(),
        name: text(item, "name")?.to_owned(),
        url: text(item, "url").map(str::to_owned),
        capabilities: capabilities(item),
        state: state(item)?,
        token_hash: text(item, "token")?.to_owned(),
        replaced_hash: text(item, "replaced_token").map(str::to_owned),
        secrets: secrets(item)?,
        expires_at: number(item, "expires_at")?,
        failures: number(item, "failures").unwrap_or_default(),
        delivered_at: number(item, "delivered_at")?,
        has_delivered: item.contains_key("has_delivered"),
        last_error: (text(item, "last_error"))
            .zip(number(item, "last_error_at"))
            .map(|(reason, at)| (reason.to_owned(), at)),
        parked: number(item, "parked").unwrap_or_default(),
        waiting: item.contains_key("waiting"),
        away_since: number(item, "away_since"),
    })
}

fn write(worker: &Worker) -> Item {
    let secrets = (worker.secrets.iter())
        .map(|active| {
            let mut entry = Item::from([("secret".to_owned(), s(active.secret.expose()))]);
            if let Some(until) = active.until {
                entry.insert("until".to_owned(), n(until));
            }
            AttributeValue::M(entry)
        })
        .collect();
    let mut item = key(&worker.workspace, &worker.id);
    for (name, value) in [
        ("name", Some(s(&worker.name))),
        ("url", worker.url.as_ref().map(s)),
        ("capabilities", worker.capabilities.as_deref().map(list)),
        ("state", Some(s(worker.state.as_str()))),
        ("token", Some(s(&worker.token_hash))),
        ("replaced_token", worker.replaced_hash.as_ref().map(s)),
        ("secrets", Some(AttributeValue::L(secrets))),
        ("expires_at", Some(n(worker.expires_at))),
        ("delivered_at", Some(n(worker.delivered_at))),
        (
            "has_delivered",
            worker.has_delivered.then(|| AttributeValue::Bool(true)),
        ),
        ("parked", (worker.parked > 0).then(|| n(worker.parked))),
        (
            "waiting",
            worker.waiting.then(|| AttributeValue::Bool(true)),
        ),
        ("away_since", worker.away_since.map(n)),
        ("roll", Some(s(roll::shard(&worker.id)))),
    ] {
        if let Some(value) = value {
            item.insert(name.to_owned(), value);
        }
    }
    item
}

pub(super) fn key(workspace: &str, worker: &str) -> Item {
    Item::from([
        ("pk".to_owned(), s(partition(workspace))),
        ("sk".to_owned(), s(format!("{PREFIX}{worker}"))),
    ])
}

/// Whether a conditional update was done, or its condition did not hold.
fn held<T>(
    result: Result<T, SdkError<UpdateItemError>>,
    what: &'static str,
) -> Result<Option<T>, Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        // A transaction on the same item counts as a condition that did not hold: whoever lost reads again.
        Err(SdkError::ServiceError(e))
            if e.err().is_conditional_check_failed_exception()
                || e.err().is_transaction_conflict_exception() =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::storage(what, e)),
    }
}

impl Table {
    fn update_worker(&self, worker: &Worker) -> UpdateItemFluentBuilder {
        (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#state", "state")
    }

    /// All workers of a workspace, by what they want.
    pub async fn interested(&self, workspace: &str) -> Result<Vec<Interested>, Error> {
        let mut found = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", s(partition(workspace)))
            .expression_attribute_values(":prefix", s(PREFIX))
            .projection_expression("sk, capabilities, expires_at")
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Error::storage("find the workspace's workers", e))?;
            found.extend(
                page.items()
                    .iter()
                    .filter(|item| self.is_alive(item))
                    .filter_map(|item| {
                        Some(Interested {
                            worker: text(item, "sk")?.strip_prefix(PREFIX)?.to_owned(),
                            capabilities: capabilities(item),
                        })
                    }),
            );
        }
        Ok(found)
    }

    /// One worker; none if it is absent or its lease has ended.
    pub async fn worker(&self, workspace: &str, worker: &str) -> Result<Option<Worker>, Error> {
        let what = "read the worker";
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(key(workspace, worker)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| Error::storage(what, e))?;
        match found.item.filter(|item| self.is_alive(item)) {
            None => Ok(None),
            Some(item) => read(workspace, &item)
                .map(Some)
                .ok_or_else(|| unreadable(what)),
        }
    }

    /// Writes a registration, if the worker still is what `was` says; false if another one was faster.
    pub async fn put_worker(&self, worker: &Worker, was: Option<&Worker>) -> Result<bool, Error> {
        let what = "write the registration";
        let put = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(write(worker)));
        let put = match was {
            // An expired item may still be there.
            None => put
                .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
                .expression_attribute_values(":now", n(self.clock.seconds())),
            // `parked` too: what is parked meanwhile must not be forgotten.
            Some(was) => {
                let put = put
                    .expression_attribute_names("#token", "token")
                    .expression_attribute_names("#state", "state")
                    .expression_attribute_values(":token", s(&was.token_hash))
                    .expression_attribute_values(":state", s(was.state.as_str()));
                if was.parked > 0 {
                    put.condition_expression(
                        "#token = :token AND #state = :state AND parked = :parked",
                    )
                    .expression_attribute_values(":parked", n(was.parked))
                } else {
                    put.condition_expression(
                        "#token = :token AND #state = :state AND attribute_not_exists(parked)",
                    )
                }
            }
        };
        match put.send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(e))
                if e.err().is_conditional_check_failed_exception()
                    || e.err().is_transaction_conflict_exception() =>
            {
                Ok(false)
            }
            Err(e) => Err(Error::storage(what, e)),
        }
    }

    /// Renews the lease of a worker that still is what was read, and changes what is named; false if it is not.
    pub async fn renew(
        &self,
        worker: &Worker,
        lease: Duration,
        change: &Change,
    ) -> Result<bool, Error> {
        let mut set = vec!["expires_at = :until", "roll = :roll"];
        let mut remove = Vec::new();
        let mut update = self
            .update_worker(worker)
            .condition_expression("#token = :token AND #state = :was")
            .expression_attribute_names("#token", "token")
            .expression_attribute_values(":token", s(&worker.token_hash))
            .expression_attribute_values(":was", s(worker.state.as_str()))
            .expression_attribute_values(":roll", s(roll::shard(&worker.id)))
            .expression_attribute_values(":until", n(self.in_seconds(lease)));
        match &change.url {
            None => {}
            Some(Some(url)) => {
                set.push("#url = :url");
                update = update
                    .expression_attribute_names("#url", "url")
                    .expression_attribute_values(":url", s(url));
            }
            Some(None) => {
                remove.push("#url");
                update = update.expression_attribute_names("#url", "url");
            }
        }
        match &change.capabilities {
            None => {}
            Some(Some(patterns)) => {
                set.push("capabilities = :capabilities");
                update = update.expression_attribute_values(":capabilities", list(patterns));
            }
            Some(None) => remove.push("capabilities"),
        }
        if let Some(state) = change.state {
            set.push("#state = :state");
            update = update.expression_attribute_values(":state", s(state.as_str()));
            if state == State::Away {
                set.push("away_since = :now");
                update = update.expression_attribute_values(":now", n(self.clock.millis()));
            } else {
                remove.push("away_since");
            }
        }
        if change.url.is_some() || change.state.is_some() {
            // Attempts at another address say nothing about this one.
            remove.extend(["failures", "failing_since"]);
        }
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression.push_str(&format!(" REMOVE {}", remove.join(", ")));
        }
        let renewed = update.update_expression(expression).send().await;
        Ok(held(renewed, "renew the registration")?.is_some())
    }

    /// Makes an away worker live, unless anything was parked since it was read.
    pub async fn wake(&self, worker: &Worker) -> Result<bool, Error> {
        let mut update = self
            .update_worker(worker)
            .update_expression(
                "SET #state = :live REMOVE failures, failing_since, away_since, waiting",
            )
            .expression_attribute_values(":live", s(State::Live.as_str()))
            .expression_attribute_values(":away", s(State::Away.as_str()));
        update = if worker.parked > 0 {
            update
                .condition_expression("#state = :away AND parked = :parked")
                .expression_attribute_values(":parked", n(worker.parked))
        } else {
            update.condition_expression("#state = :away AND attribute_not_exists(parked)")
        };
        Ok(held(update.send().await, "make the worker live")?.is_some())
    }

    /// Notes that the mailbox of a worker that is not away was seen empty, unless anything was parked since the
    /// worker was read.
    pub async fn emptied(&self, worker: &Worker) -> Result<(), Error> {
        let update = self
            .update_worker(worker)
            .update_expression("REMOVE waiting")
            .condition_expression("#state = :state AND parked = :parked")
            .expression_attribute_values(":state", s(worker.state.as_str()))
            .expression_attribute_values(":parked", n(worker.parked));
        held(update.send().await, "note that the mailbox is empty").map(drop)
    }

    /// Notes that the worker answered a ping: earlier attempts say nothing any more.
    pub async fn reached(&self, worker: &Worker) -> Result<(), Error> {
        let update = self
            .update_worker(worker)
            .update_expression("REMOVE failures, failing_since")
            .condition_expression("attribute_exists(#state)");
        held(update.send().await, "note that the worker is there").map(drop)
    }

    /// Counts an unreachable attempt at the worker's address; answers how many there were in a row and how
    /// long ago the first was, or none if the worker has changed since it was read.
    pub async fn count_unreachable(
        &self,
        worker: &Worker,
        reason: &str,
    ) -> Result<Option<(u64, Duration)>, Error> {
        let now = self.clock.millis();
        let update = self
            .update_worker(worker)
            .update_expression(
                "ADD failures :one SET failing_since = if_not_exists(failing_since, :now), \
                 last_error = :reason, last_error_at = :now",
            )
            .condition_expression("#state = :live AND #url = :url")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":now", n(now))
            .expression_attribute_values(":reason", s(reason))
            .expression_attribute_values(":live", s(State::Live.as_str()))
            .expression_attribute_values(":url", s(worker.url.as_deref().unwrap_or_default()))
            .return_values(ReturnValue::AllNew);
        let counted = held(update.send().await, "count an unreachable attempt")?;
        Ok(counted.and_then(|done| done.attributes).and_then(|item| {
            let since: i64 = number(&item, "failing_since")?;
            let over = Duration::from_millis(u64::try_from(now - since).unwrap_or_default());
            Some((number(&item, "failures")?, over))
        }))
    }

    /// Turns a live worker away, if its address is still the one that could not be reached.
    pub async fn turn_away(&self, worker: &Worker) -> Result<bool, Error> {
        let update = self
            .update_worker(worker)
            .update_expression(
                "SET #state = :away, away_since = :now REMOVE failures, failing_since",
            )
            .expression_attribute_values(":now", n(self.clock.millis()))
            .condition_expression("#state = :live AND #url = :url")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":away", s(State::Away.as_str()))
            .expression_attribute_values(":live", s(State::Live.as_str()))
            .expression_attribute_values(":url", s(worker.url.as_deref().unwrap_or_default()));
        Ok(held(update.send().await, "turn the worker away")?.is_some())
    }

    /// Records that the worker answered: with a success, or with a rejection and its reason.
    pub async fn record_answer(
        &self,
        worker: &Worker,
        rejection: Option<&str>,
    ) -> Result<(), Error> {
        let update = self
            .update_worker(worker)
            .condition_expression("attribute_exists(#state)")
            .expression_attribute_values(":now", n(self.clock.millis()));
        let update = match rejection {
            None => update
                .update_expression(
                    "SET delivered_at = :now, has_delivered = :yes REMOVE failures, failing_since",
                )
                .expression_attribute_values(":yes", AttributeValue::Bool(true)),
            Some(reason) => update
                .update_expression(
                    "SET last_error = :reason, last_error_at = :now REMOVE failures, failing_since",
                )
                .expression_attribute_values(":reason", s(reason)),
        };
        held(update.send().await, "record the worker's answer").map(drop)
    }

    /// Removes a worker that still is what was read, and all that its own partition holds; false if it is not.
    pub async fn remove_worker(&self, worker: &Worker) -> Result<bool, Error> {
        let what = "remove the worker";
        let mut delete = (self.client.delete_item())
            .table_name(&self.name)
            .set_key(Some(key(&worker.workspace, &worker.id)))
            .expression_attribute_names("#token", "token")
            .expression_attribute_names("#url", "url")
            .expression_attribute_values(":token", s(&worker.token_hash));
        delete = match &worker.url {
            Some(url) => delete
                .condition_expression("#token = :token AND #url = :url")
                .expression_attribute_values(":url", s(url)),
            None => delete.condition_expression("#token = :token AND attribute_not_exists(#url)"),
        };
        match delete.send().await {
            Ok(_) => {}
            Err(SdkError::ServiceError(e))
                if e.err().is_conditional_check_failed_exception()
                    || e.err().is_transaction_conflict_exception() =>
            {
                return Ok(false);
            }
            Err(e) => return Err(Error::storage(what, e)),
        }
        let (workspace, worker) = (&worker.workspace, &worker.id);
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(worker_partition(workspace, worker)))
            .projection_expression("pk, sk")
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Error::storage(what, e))?;
            self.delete(page.items.unwrap_or_default(), what).await?;
        }
        Ok(true)
    }

    /// Deletes items by their keys.
    pub(super) async fn delete(&self, keys: Vec<Item>, what: &'static str) -> Result<(), Error> {
        for keys in keys.chunks(25) {
            let writes = (keys.iter())
                .map(|key| {
                    let delete = DeleteRequest::builder().set_key(Some(key.clone())).build();
                    WriteRequest::builder()
                        .delete_request(delete.expect("a key is given"))
                        .build()
                })
                .collect();
            self.write(writes, what).await?;
        }
        Ok(())
    }
}
