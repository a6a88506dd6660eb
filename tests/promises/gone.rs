//! 410 means stop.

use std::time::Duration;

use crate::harness::{Answer, Receiver, issue, relay};

#[tokio::test]
async fn a_worker_that_answers_410_is_removed_and_its_messages_are_acknowledged() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Status(500), Answer::Status(410)]);
    relay.post_all(0..5).await;
    relay.pass(Duration::from_secs(3), &receiver, 1).await;
    relay.settled().await;
    assert!(relay.dead_letters().is_empty());
    relay.assert_removed(&worker).await;
    assert_eq!(relay.post(&issue("i", 9)).await.answer["deliveries"], 0);
}

#[tokio::test]
async fn a_worker_that_is_removed_takes_its_mailbox_with_it() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    relay.remove(&worker).await;
    let again = relay.register_pull("one").await;
    assert_eq!(again.path, worker.path);
    assert!(relay.pull(&again, &[], None).await.events.is_empty());
}

#[tokio::test]
async fn a_410_from_an_address_that_was_left_meanwhile_removes_nobody() {
    let relay = relay().start().await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    relay.register("one", &old.url()).await;
    old.answer([Answer::Slow(Duration::from_secs(1), 410)]);
    relay.post(&issue("i", 1)).await;
    old.wait_for(1).await;
    let again = relay.register("one", &new.url()).await;
    let received = new.wait_for(1).await;
    assert!(received[0].verifies(&again.secret));
    relay.settled().await;
    relay.read(&again).await;
}
