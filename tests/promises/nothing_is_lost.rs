//! Nothing accepted is lost: 200 comes after the queue has it, and what cannot be stored is refused with 5xx.

use std::collections::BTreeSet;

use local::samples::{FIVE_KINDS, WORKSPACE};
use serde_json::json;

use crate::harness::{Receiver, issue, relay, sorted};

#[tokio::test]
async fn every_kind_reaches_every_worker_that_wants_it_byte_for_byte() {
    let relay = relay().start().await;
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    let first = relay.register("one", &one.url()).await;
    relay.register("two", &two.url()).await;
    let mut posted = Vec::new();
    for sample in FIVE_KINDS {
        let event = relay.post(sample).await;
        assert_eq!(event.answer, json!({"event": event.event, "deliveries": 2}));
        posted.push((event.event, event.webhook));
    }
    for receiver in [&one, &two] {
        let received = receiver.wait_for(5).await;
        for (event, webhook) in &posted {
            let delivery = received
                .iter()
                .find(|r| r.header("webhook-id") == event)
                .unwrap();
            assert_eq!(delivery.body, webhook.body);
            assert_eq!(delivery.header("linear-event"), webhook.kind);
            assert_eq!(delivery.header("linear-delivery"), webhook.delivery);
            assert_eq!(delivery.header("edge-attempt"), "1");
            assert!(delivery.header("user-agent").starts_with("edge-relay/"));
            assert!(
                delivery
                    .header("content-type")
                    .starts_with("application/json")
            );
        }
    }
    assert!(one.received().iter().all(|r| r.verifies(&first.secret)));
    assert!(!two.received().iter().any(|r| r.verifies(&first.secret)));
    relay.settled().await;
    assert_eq!((one.count(), two.count()), (5, 5));
}

#[tokio::test]
async fn a_worker_gets_what_its_capabilities_name_and_nothing_else() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    relay
        .register_as(json!({
            "name": "some", "linearToken": crate::harness::TOKEN, "webhookUrl": receiver.url(),
            "capabilities": ["Comment", "Issue.create", "AgentSessionEvent.*"],
        }))
        .await;
    let mut deliveries = Vec::new();
    for sample in FIVE_KINDS {
        deliveries.push(
            relay.post(sample).await.answer["deliveries"]
                .as_u64()
                .unwrap(),
        );
    }
    assert_eq!(deliveries, [1, 1, 1, 0, 0]);
    relay.settled().await;
    let kinds = receiver
        .received()
        .iter()
        .map(|r| r.header("linear-event").to_owned())
        .collect::<Vec<_>>();
    assert_eq!(sorted(kinds), ["AgentSessionEvent", "Comment", "Issue"]);
}

#[tokio::test]
async fn linear_gets_its_200_also_where_nothing_is_to_be_done() {
    let relay = relay().start().await;
    let unknown_type = json!({
        "type": "SomethingNew", "action": "happened", "organizationId": "another-workspace", "webhookTimestamp": 0,
    });
    let posted = relay.post(&unknown_type.to_string()).await;
    assert_eq!(
        posted.answer,
        json!({"event": posted.event, "deliveries": 0})
    );
}

#[tokio::test]
async fn a_thousand_workers_get_one_event() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let expected: BTreeSet<_> = (0..1000).map(|worker| format!("/{worker}")).collect();
    for path in &expected {
        let url = format!("http://{}{path}", receiver.address);
        relay.register(path, &url).await;
    }
    let posted = relay.post(&issue("i", 1)).await;
    assert_eq!(posted.answer["deliveries"], 1000);
    // Deliveries are at least once, so a worker may have received it twice.
    relay.settled().await;
    let received = receiver.received();
    assert!(received.iter().all(|r| r.body == posted.webhook.body));
    let reached: BTreeSet<_> = received.iter().map(|r| r.path.clone()).collect();
    assert_eq!(reached, expected);
}

#[tokio::test]
async fn what_cannot_be_queued_is_answered_with_5xx_and_goes_out_when_linear_tries_again() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    relay.register("one", &receiver.url()).await;
    let sqs = &relay.local.sqs;
    let attributes = sqs.attributes(local::local_relay::QUEUE).unwrap();
    sqs.delete_queue(local::local_relay::QUEUE).await.unwrap();
    let webhook = local::samples::Webhook::sample(
        crate::harness::SECRET,
        &issue("i", 1),
        relay.clock.millis(),
    );
    let problem =
        crate::harness::problem(relay.send(&webhook).await, (503, "storage_unavailable")).await;
    assert!(!problem.detail.contains(WORKSPACE));
    sqs.create_queue(local::local_relay::QUEUE, attributes)
        .await
        .unwrap();
    let again = relay.post_webhook(webhook).await;
    assert_eq!(again.answer["deliveries"], 1);
    assert!(again.answer.get("duplicate").is_none());
    receiver.wait_for(1).await;
}
