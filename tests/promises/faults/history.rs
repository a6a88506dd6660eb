//! What happens in each history, and what has to be true at its end.
//!
//! Seven events about two issues, to a worker whose mailbox the relay delivers (Ann), to one that pulls it (Bob), and to a group of
//! two. Ann and Bob are away in between; Ann's membership is checked, and Ann rejects an event; Bob leaves. A request that gets no answer or an error is repeated, as
//! Linear and the agents do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use local::samples::Webhook;
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::wire::{Faults, Place, Plan, To, Wire};
use crate::harness::{Answer, Receiver, SECRET, TOKEN, issue, large_issue, number};

/// More than a fault persists.
const ATTEMPTS: usize = 20;
/// Does not fit into a message, compressed or not.
const LARGE: usize = 250_000;
/// What Ann rejects.
const REJECTED: usize = 6;

/// A registered worker.
struct Worker {
    name: &'static str,
    receiver: Receiver,
    _wire: Wire,
    path: String,
    token: String,
    /// The ids and bodies of the events that it got, in their order; of the deliveries, the first `delivered`.
    events: Vec<(String, Vec<u8>)>,
    delivered: usize,
}

/// An event that was accepted.
struct Accepted {
    id: String,
    body: Vec<u8>,
    number: usize,
}

struct History {
    cloud: Arc<Cloud>,
    workers: BTreeMap<&'static str, Worker>,
    accepted: Vec<Accepted>,
}

/// Runs a history with this plan, or with no fault. Returns the places that were seen, and how many times of the plan have not
/// come.
pub(super) async fn run(linear: SocketAddr, plan: Option<Plan>) -> (BTreeSet<Place>, u32) {
    let repeats = plan.as_ref().is_some_and(|plan| plan.what.may_repeat());
    let faults = Arc::new(Faults::new(plan));
    let cloud = Cloud::start(Arc::clone(&faults), linear).await;
    let mut history = History {
        cloud,
        workers: BTreeMap::new(),
        accepted: Vec::new(),
    };
    history.happen().await;
    history.check(repeats);
    (faults.seen(), faults.left())
}

impl History {
    async fn happen(&mut self) {
        self.register("ann", json!({})).await;
        self.register("bob", json!({"pulls": true})).await;
        self.register("cy", json!({"group": "g"})).await;
        self.register("di", json!({"group": "g"})).await;
        self.post(&issue("i", 1)).await;
        self.post(&issue("j", 2)).await;
        self.post(&large_issue("i", 3, LARGE)).await;
        self.cloud.settle().await;

        self.renew("ann", json!({"state": "away"})).await;
        self.renew("bob", json!({"state": "away"})).await;
        self.post(&issue("i", 4)).await;
        self.post(&large_issue("j", 5, LARGE)).await;
        self.cloud.settle().await;
        // What does not run is run again by the next minute's schedule.
        let _ = self.cloud.health().await;
        let _ = self.cloud.health().await;
        self.renew("ann", json!({})).await;
        self.pull("bob").await;
        self.cloud.settle().await;

        // A membership check.
        self.renew("ann", json!({"linearToken": TOKEN})).await;
        let rejects = Answer::To("\"number\":6", 400);
        self.workers["ann"].receiver.answer([rejects]);
        self.post(&issue("i", REJECTED)).await;
        self.cloud.settle().await;
        self.pull("bob").await;
        let bob = &self.workers["bob"];
        let (path, token) = (bob.path.clone(), bob.token.clone());
        self.ask("DELETE", &path, Some(&token), &json!({}), &[204, 401])
            .await;
        self.post(&issue("i", 7)).await;
        self.cloud.settle().await;
        // What a fault has put into a mailbox is delivered, or pulled.
        self.renew("ann", json!({})).await;
        self.cloud.settle().await;
        self.pull("cy").await;
        self.pull("di").await;
    }

    /// Asks until one of these statuses is answered.
    async fn ask(
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

    async fn register(&mut self, name: &'static str, more: Value) {
        let receiver = Receiver::start().await;
        let to = To::Address(name, receiver.address, self.cloud.client.clone());
        let wire = Wire::open(&self.cloud.faults, to).await;
        let mut request = json!({
            "name": name, "linearToken": TOKEN, "webhookUrl": format!("http://{}/hook", wire.address),
            "replace": true,
        });
        (request.as_object_mut().unwrap()).extend(more.as_object().unwrap().clone());
        let registered = self
            .ask("POST", "/edge/register", None, &request, &[201])
            .await;
        let text = |name: &str| registered[name].as_str().unwrap().to_owned();
        let worker = Worker {
            name,
            receiver,
            _wire: wire,
            path: text("worker"),
            token: text("token"),
            events: Vec::new(),
            delivered: 0,
        };
        self.workers.insert(name, worker);
    }

    /// Posts a webhook until it is accepted.
    async fn post(&mut self, payload: &str) {
        let webhook = Webhook::sample(SECRET, payload, self.cloud.clock.millis());
        for _ in 0..ATTEMPTS {
            let (status, _) = self.cloud.post(&webhook).await;
            if status == 200 {
                self.accepted.push(Accepted {
                    id: format!("evt_{}", webhook.delivery),
                    number: number(&webhook.body),
                    body: webhook.body,
                });
                return;
            }
        }
        panic!("a webhook is not accepted");
    }

    async fn renew(&self, name: &str, renewal: Value) {
        let worker = &self.workers[name];
        self.ask("PUT", &worker.path, Some(&worker.token), &renewal, &[200])
            .await;
        self.ask("GET", &worker.path, Some(&worker.token), &json!({}), &[200])
            .await;
    }

    /// Pulls until the mailbox is empty.
    async fn pull(&mut self, name: &str) {
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

    /// Each accepted event has come to each worker that was there, once but for repetitions under the same id, byte for byte, in
    /// its order, and nothing else has. What was rejected is a dead letter, and two if its delivery `repeats`.
    fn check(&mut self, repeats: bool) {
        self.workers.values_mut().for_each(Worker::take_delivered);
        let numbers = |range: std::ops::RangeInclusive<usize>| range.collect::<BTreeSet<_>>();
        self.workers["ann"].check(&self.accepted, &numbers(1..=7));
        self.workers["bob"].check(&self.accepted, &numbers(1..=6));
        let [cy, di] = ["cy", "di"].map(|name| self.workers[name].effects(&self.accepted));
        let both: Vec<_> = cy.iter().chain(&di).copied().collect();
        let once: BTreeSet<_> = both.iter().copied().collect();
        assert_eq!((both.len(), once), (7, numbers(1..=7)), "of the group");
        let letters = self.cloud.dead_letters();
        let most = if repeats { 2 } else { 1 };
        assert!((1..=most).contains(&letters.len()), "{letters:?}");
        for letter in letters {
            let attribute = |name: &str| letter.attributes[name].string_value.as_deref().unwrap();
            assert_eq!(number(letter.body.as_bytes()), REJECTED);
            assert!(self.workers["ann"].path.ends_with(attribute("worker")));
            assert!(attribute("reason").starts_with("rejected"));
        }
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

    /// The numbers of the events that it was given, without repetitions, in their order.
    fn effects(&self, accepted: &[Accepted]) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let mut effects = Vec::new();
        for (id, body) in &self.events {
            let event = accepted.iter().find(|event| event.id == *id);
            let event =
                event.unwrap_or_else(|| panic!("{} got {id}, which was not posted", self.name));
            assert!(*body == event.body, "{} got other bytes", self.name);
            if seen.insert(id) {
                effects.push(event.number);
            }
        }
        for issue in [&[1, 3, 4, 6, 7][..], &[2, 5]] {
            let of: Vec<_> = effects.iter().filter(|n| issue.contains(n)).collect();
            assert!(of.is_sorted(), "{}: {effects:?}", self.name);
        }
        effects
    }

    fn check(&self, accepted: &[Accepted], expected: &BTreeSet<usize>) {
        let effects = self.effects(accepted);
        let once: BTreeSet<_> = effects.iter().copied().collect();
        assert_eq!(
            (&once, effects.len()),
            (expected, expected.len()),
            "{}",
            self.name
        );
    }
}
