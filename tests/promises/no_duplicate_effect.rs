//! No duplicate effect: the same webhook again goes nowhere, whatever header it comes under.

use std::time::Duration;

use local::samples::Webhook;

use crate::harness::{Answer, SECRET, issue, pulled, relay};

#[tokio::test]
async fn a_retry_is_answered_as_a_duplicate_and_delivered_once() {
    let (relay, receiver, _) = relay().with_worker().await;
    let first = relay.post(&issue("i", 1)).await;
    for _ in 0..3 {
        let again = relay.post_webhook(first.webhook.clone()).await;
        assert_eq!(again.answer["duplicate"], true);
        assert_eq!(again.answer["event"], first.answer["event"]);
        assert_eq!(again.answer["deliveries"], 0);
    }
    receiver.wait_for(1).await;
    relay.settled().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_replay_under_a_forged_delivery_id_goes_nowhere_for_as_long_as_its_age_is_accepted() {
    let (relay, receiver, _) = relay().with_worker().await;
    let first = relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    for hours in [0, 1, 6] {
        relay.clock.advance(Duration::from_secs(hours * 3600));
        let replay = Webhook {
            delivery: format!("forged-{hours}"),
            ..first.webhook.clone()
        };
        assert_eq!(relay.post_webhook(replay).await.answer["duplicate"], true);
    }
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let expected = (401, "timestamp_too_old");
    relay.refuses_webhook(&first.webhook, expected).await;
    relay.settled().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_retry_with_a_fresh_timestamp_is_kept_from_the_queue_within_its_window() {
    let (relay, receiver, _) = relay().with_worker().await;
    let first = relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    relay.clock.advance(Duration::from_secs(60));
    // Linear's own retry after a minute, if it stamps and signs anew: the body differs, the delivery does not.
    let again = Webhook {
        delivery: first.webhook.delivery.clone(),
        ..Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis())
    };
    assert_ne!(again.body, first.webhook.body);
    relay.post_webhook(again).await;
    relay.settled().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn ten_at_once_are_one_delivery() {
    let (relay, receiver, _) = relay().with_worker().await;
    let webhook = Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis());
    let all = (0..10).map(|_| relay.send(&webhook));
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.status(), 200);
    }
    receiver.wait_for(1).await;
    relay.settled().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn the_same_event_twice_on_the_queue_is_parked_with_what_is_behind_it() {
    let (relay, receiver, worker) = relay().with_worker().await;
    let later = Answer::With(429, "retry-after", "3600".into());
    receiver.answer([later]);
    let first = relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    // Linear's retry after an hour, if it stamps and signs anew, is not kept from the queue by its deduplication.
    relay.clock.advance(Duration::from_secs(600));
    let again = Webhook {
        delivery: first.webhook.delivery.clone(),
        ..Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis())
    };
    relay.post_webhook(again).await;
    relay.post(&issue("i", 2)).await;
    relay.go_offline(&worker).await;
    relay.clock.advance(Duration::from_secs(3600));
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 1, 2]);
}
