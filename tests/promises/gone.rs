//! 410 means stop.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Receiver, issue, pulled, relay, until};

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

#[tokio::test]
async fn a_removal_takes_nothing_of_a_registration_that_comes_while_it_is_under_way() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    relay.post_all(0..300).await;
    relay.settled().await;
    let again_and_events = async {
        // Registered anew, and not in the place of the one that is being removed.
        until("it is removed", async || {
            let (path, token, body) = (&worker.path, Some(&*worker.token), json!({}));
            relay.call(Method::GET, path, token, &body).await.status() == 401
        })
        .await;
        let again = relay.register_pull("one").await;
        relay.post_all(300..320).await;
        again
    };
    let ((), again) = tokio::join!(relay.remove(&worker), again_and_events);
    relay.settled().await;
    let waiting = relay.pull(&again, &[], None).await;
    assert_eq!(pulled(&waiting), (300..320).collect::<Vec<_>>());
}
