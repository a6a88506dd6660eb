//! What is done in a history, and what has to be true at its end. What is done when is in the scripts.
//!
//! A request that gets no answer or an error is repeated, as Linear and the agents do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use local::linear_api::LinearApi;
use local::samples::Webhook;
use protocol::clock::UnixMillis;
use relay::policy::PROBE_INTERVAL;
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::scripts::Script;
use super::wire::{Faults, Place, Plan, To, Wire};
use crate::harness::{Receiver, SECRET, TOKEN, number};

/// More than a fault persists.
const ATTEMPTS: usize = 20;

/// A stand-in for Linear that all histories have.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) api: LinearApi,
    pub(super) address: SocketAddr,
}

/// A registered worker.
pub(super) struct Worker {
    name: &'static str,
    pub(super) receiver: Receiver,
    wire: Wire,
    pub(super) path: String,
    token: String,
    /// The ids and bodies of the events that it got, in their order; of the deliveries, the first `delivered`.
    events: Vec<(String, Vec<u8>)>,
    delivered: usize,
}

/// An event that was accepted.
pub(super) struct Accepted {
    id: String,
    body: Vec<u8>,
    number: usize,
}

pub(super) struct History {
    pub(super) cloud: Arc<Cloud>,
    pub(super) linear: LinearApi,
    pub(super) workers: BTreeMap<&'static str, Worker>,
    pub(super) accepted: Vec<Accepted>,
    /// Whether a delivery may be made that has been made already.
    pub(super) repeats: bool,
}

/// Runs a history with this plan, or with no fault. Returns the places that were seen, and how many times of the plan have not
/// come.
pub(super) async fn run(
    script: Script,
    linear: Linear,
    plan: Option<Plan>,
) -> (BTreeSet<Place>, u32) {
    let repeats = plan.as_ref().is_some_and(|plan| plan.what.may_repeat());
    let faults = Arc::new(Faults::new(plan));
    let cloud = Cloud::start(Arc::clone(&faults), linear.address).await;
    let mut history = History {
        cloud,
        linear: linear.api,
        workers: BTreeMap::new(),
        accepted: Vec::new(),
        repeats,
    };
    match script {
        Script::Mailboxes => history.mailboxes().await,
        Script::Members => history.members().await,
        Script::Silence => history.silence().await,
    }
    (faults.seen(), faults.left())
}

impl History {
    /// Asks until one of these statuses is answered.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
        expected: &[u16],
    ) -> Value {
        let mut answers = Vec::new();
        for _ in 0..ATTEMPTS {
            let (status, answer) = self.cloud.call(method, path, token, body).await;
            if expected.contains(&status) {
                return answer;
            }
            answers.push((status, answer));
            self.cloud.advance(Duration::from_secs(20));
        }
        panic!("{method} {path} was answered {answers:?}");
    }

    /// Registers a worker, perhaps again.
    pub(super) async fn register(&mut self, name: &'static str, more: Value) {
        if !self.workers.contains_key(name) {
            let receiver = Receiver::start().await;
            let to = To::Address(name, receiver.address, self.cloud.client.clone());
            let worker = Worker {
                name,
                receiver,
                wire: Wire::open(&self.cloud.faults, to).await,
                path: String::new(),
                token: String::new(),
                events: Vec::new(),
                delivered: 0,
            };
            self.workers.insert(name, worker);
        }
        let address = self.workers[name].wire.address;
        let mut request = json!({
            "name": name, "linearToken": TOKEN, "webhookUrl": format!("http://{address}/hook"),
            "replace": true,
        });
        (request.as_object_mut().unwrap()).extend(more.as_object().unwrap().clone());
        let registered = self
            .ask("POST", "/edge/register", None, &request, &[201])
            .await;
        let text = |name: &str| registered[name].as_str().unwrap().to_owned();
        let worker = self.workers.get_mut(name).unwrap();
        worker.path = text("worker");
        worker.token = text("token");
    }

    /// Posts a webhook until it is accepted.
    pub(super) async fn post(&mut self, payload: &str) {
        self.post_of(payload, self.cloud.clock.millis()).await;
    }

    /// Posts an event of this time.
    pub(super) async fn post_of(&mut self, payload: &str, sent_at: UnixMillis) {
        let webhook = Webhook::sample(SECRET, payload, sent_at);
        let mut answers = Vec::new();
        for _ in 0..ATTEMPTS {
            let (status, answer) = self.cloud.post(&webhook).await;
            if status == 200 {
                self.accepted.push(Accepted {
                    id: format!("evt_{}", webhook.delivery),
                    number: number(&webhook.body),
                    body: webhook.body,
                });
                return;
            }
            answers.push((status, answer));
        }
        panic!("a webhook was answered {answers:?}");
    }

    pub(super) async fn renew(&self, name: &str, renewal: Value) {
        let worker = &self.workers[name];
        self.ask("PUT", &worker.path, Some(&worker.token), &renewal, &[200])
            .await;
        self.ask("GET", &worker.path, Some(&worker.token), &json!({}), &[200])
            .await;
    }

    /// Asks for the worker, until it is not registered any more.
    pub(super) async fn is_removed(&self, name: &str) {
        let worker = &self.workers[name];
        self.ask("GET", &worker.path, Some(&worker.token), &json!({}), &[401])
            .await;
    }

    pub(super) async fn remove(&self, name: &str) {
        let worker = &self.workers[name];
        let (path, token) = (&worker.path, Some(&*worker.token));
        // 401 if the answer of an earlier request was lost.
        self.ask("DELETE", path, token, &json!({}), &[204, 401])
            .await;
    }

    /// Lets so much time pass, in which `health` does not run.
    pub(super) async fn pass(&self, time: Duration) {
        self.cloud.pass(time).await;
    }

    /// Lets time pass for so many runs of `health`. What does not run is run again by the next schedule.
    pub(super) async fn watch(&self, runs: usize) {
        for _ in 0..runs {
            self.cloud
                .pass(PROBE_INTERVAL.saturating_sub(Duration::from_secs(2)))
                .await;
            let _ = self.cloud.health().await;
        }
    }

    /// Pulls until the mailbox is empty.
    pub(super) async fn pull(&mut self, name: &str) {
        let (path, token) = {
            let worker = &self.workers[name];
            (format!("{}/mailbox", worker.path), worker.token.clone())
        };
        let mut ack: Vec<Value> = Vec::new();
        loop {
            let request = json!({"ack": ack, "limit": 1});
            let mailbox = self
                .ask("POST", &path, Some(&token), &request, &[200])
                .await;
            let events = mailbox["events"].as_array().unwrap().clone();
            if events.is_empty() {
                return;
            }
            ack = events.iter().map(|event| event["id"].clone()).collect();
            let worker = self.workers.get_mut(name).unwrap();
            worker.take_delivered();
            worker.events.extend(events.iter().map(|event| {
                let id = event["headers"]["webhook-id"].as_str().unwrap();
                (id.to_owned(), event["body"].as_str().unwrap().into())
            }));
        }
    }

    /// These accepted events, and no others, have come to a worker, once but for repetitions under the same id, byte for byte,
    /// and in their order.
    pub(super) fn check(&mut self, name: &str, expected: impl IntoIterator<Item = usize>) {
        let effects = self.effects(name);
        let once: BTreeSet<_> = effects.iter().copied().collect();
        let expected: BTreeSet<_> = expected.into_iter().collect();
        assert_eq!((effects.len(), once), (expected.len(), expected), "{name}");
    }

    /// The numbers of the events that a worker was given, without repetitions, in their order.
    pub(super) fn effects(&mut self, name: &str) -> Vec<usize> {
        let worker = self.workers.get_mut(name).unwrap();
        worker.take_delivered();
        worker.effects(&self.accepted)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.receiver.close();
    }
}

impl Worker {
    /// Adds what was delivered since the last time.
    fn take_delivered(&mut self) {
        let received = self.receiver.received();
        let new = received[self.delivered..].iter();
        self.events
            .extend(new.map(|r| (r.header("webhook-id").to_owned(), r.body.to_vec())));
        self.delivered = received.len();
    }

    /// How often it was given an event.
    pub(super) fn times(&self, event: usize) -> usize {
        let given = self.events.iter().filter(|(_, body)| number(body) == event);
        given.count()
    }

    fn effects(&self, accepted: &[Accepted]) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let mut effects = Vec::new();
        let mut by_issue: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (id, body) in &self.events {
            let event = accepted.iter().find(|event| event.id == *id);
            let event =
                event.unwrap_or_else(|| panic!("{} got {id}, which was not posted", self.name));
            assert!(*body == event.body, "{} got other bytes", self.name);
            if seen.insert(id) {
                effects.push(event.number);
                let payload: Value = serde_json::from_slice(body).unwrap();
                let issue = payload["data"]["id"].to_string();
                by_issue.entry(issue).or_default().push(event.number);
            }
        }
        for events in by_issue.values() {
            assert!(events.is_sorted(), "{}: {effects:?}", self.name);
        }
        effects
    }
}
