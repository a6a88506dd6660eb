//! An event costs no more AWS calls than the design says.

use std::collections::BTreeMap;

use crate::harness::{Receiver, Relay, issue, large_issue, relay};

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
            let name = format!("worker {at}");
            relay.register(&name, &receiver.url()).await;
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
            let count = count(action);
            assert_eq!(count, expected, "{action} for {workers} workers: {calls:?}");
        }
        // One for each batch that `deliver` got, however the queue cut them.
        let reads = count("BatchGetItem");
        assert_eq!(reads, count("DeleteMessageBatch"), "{calls:?}");
        let is_batched = (batches..=workers as u64).contains(&reads);
        assert!(is_batched, "{calls:?}");
        let others = calls.values().sum::<u64>() - 3 - batches - 2 * reads;
        assert_eq!(others, 0, "{calls:?}");
    }
}

#[tokio::test]
async fn a_large_body_that_compresses_well_travels_in_the_messages() {
    let (relay, receiver, _) = relay().with_worker().await;
    relay.local.calls.take();
    let text = format!(
        "\"text\":\"{}\",\"number\"",
        "a little text, ".repeat(20_000)
    );
    let posted = (relay.post(&issue("i", 1).replace("\"number\"", &text))).await;
    let received = receiver.wait_for(1).await;
    assert!(received[0].body == posted.webhook.body);
    let calls = calls(&relay).await;
    assert_eq!(calls.get("BatchWriteItem"), None);
    assert_eq!(calls["Query"], 1, "the routes");
}

#[tokio::test]
async fn a_large_body_is_parked_beside_its_item() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    relay.local.calls.take();
    let posted = relay.post(&large_issue("i", 1, 60_000)).await;
    let calls = calls(&relay).await;
    assert_eq!(
        (calls["BatchWriteItem"], calls["TransactWriteItems"]),
        (1, 1)
    );
    let mailbox = relay.pull(&worker, &[], None).await;
    assert!(mailbox.events[0].body.as_bytes() == posted.webhook.body);
}

#[tokio::test]
async fn a_large_body_is_stored_once_for_all() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    for at in 0..20 {
        let name = format!("worker {at}");
        relay.register(&name, &receiver.url()).await;
    }
    relay.local.calls.take();
    let posted = relay.post(&large_issue("i", 1, 200_000)).await;
    let received = receiver.wait_for(20).await;
    assert!(received.iter().all(|r| r.body == posted.webhook.body));
    let calls = calls(&relay).await;
    assert_eq!(calls["BatchWriteItem"], 1);
    // The workers, and the body once for each batch.
    assert!(calls["Query"] <= 1 + calls["BatchGetItem"], "{calls:?}");
}
