//! Where each event is at a moment: stored by its worker, in a mailbox, on the queue, or on the dead-letter queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use local::local_relay::{DEAD_LETTERS, QUEUE, VISIBILITY_SECONDS};
use local::sqs::Message;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::world::World;

/// What is where, by the machine.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The events that the machine has stored, by when.
    pub(crate) stored: BTreeMap<String, usize>,
    pub(crate) in_mailbox: BTreeSet<String>,
    pub(crate) on_queue: BTreeSet<String>,
    pub(crate) dead: BTreeSet<String>,
    /// Whether a request to drain its mailbox is on the queue.
    pub(crate) is_drained: bool,
    /// Its state at the relay.
    pub(crate) state: Option<String>,
}

impl Places {
    /// Where everything of a machine is, in the order of the machines.
    pub(crate) async fn of_all(world: &World) -> anyhow::Result<Vec<Self>> {
        let relay = world.relay();
        let queue = relay.sqs.peek(QUEUE)?;
        let dead_letters = relay.sqs.peek(DEAD_LETTERS)?;
        let scan = json!({"TableName": local::dynamodb::TABLE});
        let items = relay.dynamodb("Scan", &scan).await?;
        let items = items["Items"].as_array().cloned().unwrap_or_default();
        let mut all = Vec::new();
        for machine in &world.machines {
            let worker = machine.worker();
            let mut places = Self::default();
            for (at, (_, event)) in machine.agent().stored()?.into_iter().enumerate() {
                let twice = places.stored.insert(event, at);
                ensure!(twice.is_none(), "an event is stored twice");
            }
            for item in &items {
                places.add_item(&worker, item);
            }
            for message in queue.iter().filter(|m| text(m, "worker") == Some(&worker)) {
                places.add_message(message);
            }
            for message in dead_letters
                .iter()
                .filter(|m| text(m, "worker") == Some(&worker))
            {
                let reason = text(message, "reason").filter(|reason| !reason.is_empty());
                let reason = reason.context("a dead letter has no reason")?;
                // What nobody answers waits, however long.
                ensure!(reason.starts_with("rejected"), "a dead letter was {reason}");
                places
                    .dead
                    .extend(text(message, "event").map(str::to_owned));
            }
            all.push(places);
        }
        Ok(all)
    }

    fn add_item(&mut self, worker: &str, item: &Value) {
        let key = |name: &str| item[name]["S"].as_str().unwrap_or_default();
        if !key("pk").ends_with(&format!("#WORKER#{worker}")) {
            return;
        }
        if key("sk") == "WORKER" {
            self.state = item["state"]["S"].as_str().map(str::to_owned);
        }
        if key("sk").starts_with("MAIL#") {
            self.in_mailbox.insert(key("event").to_owned());
        }
    }

    fn add_message(&mut self, message: &Message) {
        let Some(event) = text(message, "event") else {
            self.is_drained = true;
            return;
        };
        self.on_queue.insert(event.to_owned());
    }
}

/// How many deliveries of each machine wait on the queue for longer than an invocation takes.
pub(crate) fn in_backoff(world: &World) -> anyhow::Result<Vec<u64>> {
    let longest = i64::from(VISIBILITY_SECONDS) * 1000;
    let after = world.wire.clock.millis() + longest;
    let mut waiting = world.relay().sqs.peek(QUEUE)?;
    waiting.retain(|message| {
        let is_later = message.in_flight().is_some_and(|(_, until)| until > after);
        is_later && text(message, "event").is_some()
    });
    let of = |machine: &Arc<Machine>| {
        let its = waiting
            .iter()
            .filter(|m| text(m, "worker") == Some(&machine.worker()));
        its.count() as u64
    };
    Ok(world.machines.iter().map(of).collect())
}

fn text<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.attributes.get(name)?.string_value.as_deref()
}
