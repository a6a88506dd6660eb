//! An event costs no more AWS calls than the design says.

use std::collections::BTreeMap;

use crate::harness::{Receiver, Relay, issue, relay};

/// The calls that were made since the last time, without the polls that found nothing.
async fn calls(relay: &Relay) -> BTreeMap<String, u64> {
    relay.settled().await;
    let mut calls = relay.local.calls.take();
    calls.retain(|action, _| action != "ReceiveMessage");
    calls
}

#[tokio::test]
async fn an_event_costs_three_calls_and_one_for_ten_workers_and_a_delivery_no_write() {
    for workers in [1, 10, 25] {
        let relay = relay().start().await;
        let receiver = Receiver::start().await;
        for at in 0..workers {
            relay
                .register(&format!("worker {at}"), &receiver.url())
                .await;
        }
        // A worker's first success is recorded.
        relay.post(&issue("i", 0)).await;
        receiver.wait_for(workers).await;
        calls(&relay).await;

        relay.post(&issue("i", 1)).await;
        receiver.wait_for(2 * workers).await;
        let calls = calls(&relay).await;
        let count = |action: &str| calls.get(action).copied().unwrap_or_default();
        let batches = workers.div_ceil(10) as u64;
        for (action, expected) in [
            ("GetItem", 1),
            ("Query", 1),
            ("PutItem", 1),
            ("SendMessageBatch", batches),
        ] {
            assert_eq!(
                count(action),
                expected,
                "{action} for {workers} workers: {calls:?}"
            );
        }
        // One for each batch that `deliver` got, however the queue cut them.
        assert_eq!(
            count("BatchGetItem"),
            count("DeleteMessageBatch"),
            "{calls:?}"
        );
        assert!(
            (batches..=workers as u64).contains(&count("BatchGetItem")),
            "{calls:?}"
        );
        let others: u64 = calls.values().sum::<u64>() - 3 - batches - 2 * count("BatchGetItem");
        assert_eq!(others, 0, "{calls:?}");
    }
}

#[tokio::test]
async fn a_large_body_is_stored_once_for_all() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    for at in 0..20 {
        relay
            .register(&format!("worker {at}"), &receiver.url())
            .await;
    }
    relay.local.calls.take();
    let large = issue("i", 1).replace(
        "\"number\"",
        &format!("\"text\":\"{}\",\"number\"", "x".repeat(200_000)),
    );
    let posted = relay.post(&large).await;
    let received = receiver.wait_for(20).await;
    assert!(received.iter().all(|r| r.body == posted.webhook.body));
    let calls = calls(&relay).await;
    assert_eq!(calls["BatchWriteItem"], 1);
    // The workers, and the body once for each batch.
    assert!(calls["Query"] <= 1 + calls["BatchGetItem"], "{calls:?}");
}
