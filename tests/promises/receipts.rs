//! A receipt proves that the worker itself answered: what a tunnel, a parked domain or a stranger answers in its place is
//! never a delivery, never a dead letter and never the end of a registration.

use std::time::Duration;

use protocol::messages::{Renew, WorkerState};
use serde_json::json;

use crate::harness::agent::{Agent, Home, free_port, signed};
use crate::harness::{
    Answer, Receiver, Registration, Relay, client, issue, pulled, registration, relay,
};

/// A worker whose answers have receipts, at a receiver whose answers have none.
async fn with_receipts() -> (Relay, Receiver, Registration) {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    let mut request = registration("one", &receiver.url());
    request["receipts"] = json!(true);
    let worker = relay.register_as(request).await;
    (relay, receiver, worker)
}

/// Lets the three attempts pass after which an unreachable worker is away.
async fn becomes_away(relay: &Relay, receiver: &Receiver, worker: &Registration) {
    let tried = receiver.count();
    for attempt in 1..3 {
        relay
            .pass(Duration::from_secs(12), receiver, tried + attempt)
            .await;
    }
    relay.becomes(worker, WorkerState::Away).await;
    relay.settled().await;
}

#[tokio::test]
async fn what_answers_in_a_workers_place_is_no_delivery_no_dead_letter_and_removes_nobody() {
    for status in [200, 202, 401, 404, 410, 500] {
        let (relay, receiver, worker) = with_receipts().await;
        receiver.answer([Answer::Status(status)]);
        relay.post(&issue("i", 1)).await;
        becomes_away(&relay, &receiver, &worker).await;
        assert!(relay.dead_letters().is_empty());
        let waiting = relay.pull(&worker, &[], None).await;
        assert_eq!(pulled(&waiting), [1], "{status}");
        let reason = relay.read(&worker).await.last_error.unwrap().reason;
        let expected =
            format!("unreachable: something else answered {status}, without the worker's receipt");
        assert_eq!(reason, expected);
    }
}

#[tokio::test]
async fn an_answer_with_its_receipt_is_the_workers_own() {
    let (relay, receiver, worker) = with_receipts().await;
    receiver.answer([Answer::Receipt(500, worker.secret.clone())]);
    relay.post(&issue("i", 1)).await;
    relay.pass(Duration::from_secs(2), &receiver, 1).await;
    let reason = relay.read(&worker).await.last_error.unwrap().reason;
    assert_eq!(reason, "rejected: answered 500");
    receiver.answer([Answer::Receipt(200, worker.secret.clone())]);
    receiver.wait_for(2).await;
    relay.settled().await;
    receiver.answer([Answer::Receipt(410, worker.secret.clone())]);
    relay.post(&issue("i", 2)).await;
    relay.settled().await;
    relay.assert_removed(&worker).await;
}

#[tokio::test]
async fn a_worker_gives_receipts_from_the_registration_or_the_renewal_that_says_so() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let renew = Renew {
        receipts: Some(true),
        ..Renew::default()
    };
    relay.renew(&worker, &renew).await;
    relay.post(&issue("i", 2)).await;
    becomes_away(&relay, &receiver, &worker).await;
    let waiting = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&waiting), [2]);
}

#[tokio::test]
async fn an_agent_that_is_killed_behind_a_proxy_that_answers_200_gets_its_events_when_it_is_back() {
    let (relay, home, port) = (relay().start().await, Home::new(), free_port().await);
    let mut agent = Agent::pushed(&relay, &home, port).await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(agent.number().await, 1);
    let worker = crate::harness::agent::worker(&home);
    agent.kill().await;
    let proxy = Receiver::start_at(&format!("127.0.0.1:{port}")).await;
    relay.post(&issue("i", 2)).await;
    becomes_away(&relay, &proxy, &worker).await;
    proxy.close();
    let mut agent = Agent::pulling(&relay, &home).await;
    // The first one may be printed again: the agent was killed.
    while agent.number().await != 2 {}
}

#[tokio::test]
async fn an_agent_answers_with_a_receipt_to_those_alone_who_could_sign() {
    let (relay, home) = (relay().start().await, Home::new());
    let agent = Agent::pulling(&relay, &home).await;
    let receipt_of = async |headers: Vec<(&str, String)>, body: &'static str| {
        let mut request = client().post(&agent.address).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.unwrap();
        answer.headers().contains_key("webhook-receipt")
    };
    let ping = r#"{"type":"edge.ping","waiting":false}"#;
    assert!(receipt_of(signed(&home, "ping_1", ping), ping).await);
    let event = r#"{"type":"T"}"#;
    assert!(receipt_of(signed(&home, "evt_1", event), event).await);
    let challenge = r#"{"type":"edge.challenge","challenge":"x"}"#;
    let refused = signed(&home, "evt_2", challenge);
    assert!(receipt_of(refused, challenge).await);
    assert!(!receipt_of(signed(&home, "evt_3", event), ping).await);
    assert!(!receipt_of(Vec::new(), challenge).await);
}
