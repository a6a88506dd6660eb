//! A rejecting worker is a defect that the operator sees: backoff, `Retry-After`, and the reason on the dead letter.

use std::time::Duration;

use local::dynamodb::TABLE;
use local::local_relay::{DEAD_LETTERS, QUEUE};
use protocol::clock::rfc3339;
use protocol::messages::WorkerState;
use serde_json::json;

use crate::harness::template::arn;
use crate::harness::{
    Answer, Receiver, Registration, Relay, VISIBILITY, eventually, ids, issue, numbers, relay,
    until,
};

#[tokio::test]
async fn a_500_is_retried_at_growing_distances_and_given_up_after_six_hours_with_the_reason() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Status(500)]);
    let posted = relay.post(&issue("i", 1)).await;
    let began = relay.clock.millis();
    let mut ages = Vec::new();
    while relay.dead_letters().is_empty() {
        let attempts = ages.len() + 1;
        receiver.wait_for(attempts).await;
        ages.push((relay.clock.millis() - began) / 1000);
        let next = eventually("the next attempt is scheduled or given up", || async {
            if !relay.dead_letters().is_empty() {
                return Some(None);
            }
            let queued = relay.queued();
            let (received_at, visible_at) = queued.first()?.in_flight()?;
            (visible_at - received_at != VISIBILITY).then_some(Some(visible_at))
        })
        .await;
        let Some(next) = next else { break };
        let wait = u64::try_from((next - relay.clock.millis()).max(0)).unwrap();
        // Never longer than an hour and its jitter.
        assert!(wait <= 4_321_000, "{wait}");
        relay.clock.advance(Duration::from_millis(wait + 1));
    }
    assert!((12..40).contains(&ages.len()), "{ages:?}");
    assert!(ages.last().is_some_and(|age| *age >= 6 * 3600), "{ages:?}");
    let mut gaps = ages.windows(2).filter(|w| w[0] > 5);
    let do_grow = gaps.all(|w| w[1] - w[0] >= w[0].min(3600) * 3 / 4);
    assert!(do_grow, "{ages:?}");
    let letters = relay.dead_letters();
    let letter = &letters[0];
    assert_eq!(letter.body.as_bytes(), posted.webhook.body);
    let attribute = |name: &str| letter.attributes[name].string_value.clone().unwrap();
    assert_eq!(attribute("event"), posted.event);
    assert_eq!(attribute("reason"), "rejected: answered 500");
    assert!(attribute("firstAttempt") < rfc3339(letter.sent_at));
    assert_eq!(attribute("user"), "ana@example.com");
    relay.settled().await;
    // It answers, so it is not away.
    let worker = relay.read(&worker).await;
    assert_eq!(worker.state, WorkerState::Live);
    let reason = worker.last_error.unwrap().reason;
    assert_eq!(reason, "rejected: answered 500");
}

#[tokio::test]
async fn a_plain_4xx_is_given_up_after_five_minutes() {
    let (relay, receiver, _) = relay().with_worker().await;
    receiver.answer([Answer::Status(400)]);
    relay.post(&issue("i", 1)).await;
    relay.pass(Duration::from_secs(299), &receiver, 1).await;
    receiver.wait_for(2).await;
    assert!(relay.dead_letters().is_empty());
    relay.pass(Duration::from_secs(600), &receiver, 2).await;
    receiver.wait_for(3).await;
    let letters = eventually("a dead letter", || async {
        Some(relay.dead_letters()).filter(|letters| !letters.is_empty())
    })
    .await;
    let reason = &letters[0].attributes["reason"].string_value;
    assert_eq!(reason.as_deref(), Some("rejected: answered 400"));
}

#[tokio::test]
async fn a_conflict_with_another_write_leaves_no_event_in_backoff() {
    let success = "deliver: UpdateItem SET delivered_at = :now, has_delivered = :yes REMOVE failures, failing_since DELETE \
        in_backoff :event, attribute_exists(#state) of WORKER";
    let relay = relay().refused_once_with(success, "TransactionConflictException");
    let (relay, receiver, _) = relay.with_worker().await;
    receiver.answer([Answer::Status(500), Answer::Status(200)]);
    relay.post(&issue("i", 1)).await;
    relay.pass(Duration::from_secs(3), &receiver, 1).await;
    receiver.wait_for(2).await;
    relay.settled().await;
    let in_backoff =
        json!({"TableName": TABLE, "FilterExpression": "attribute_exists(in_backoff)"});
    assert_eq!(relay.dynamodb("Scan", &in_backoff).await["Count"], 0);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let (relay, receiver, _) = relay().with_worker().await;
    for (at, status) in [429, 503].into_iter().enumerate() {
        let later = Answer::With(status, "retry-after", "120".into());
        receiver.answer([later, Answer::Status(200)]);
        let before = receiver.count();
        let nearly = Duration::from_secs(118);
        relay.post(&issue(&format!("i{at}"), at)).await;
        relay.pass(nearly, &receiver, before + 1).await;
        let queued = relay.queued();
        let (received_at, visible_at) = queued[0].in_flight().unwrap();
        assert!(visible_at - received_at >= 120_000, "{status}: too early");
        assert_eq!(receiver.count(), before + 1);
        relay.clock.advance(Duration::from_secs(3));
        receiver.wait_for(before + 2).await;
        relay.settled().await;
    }
}

#[tokio::test]
async fn a_dead_letter_goes_out_when_it_is_moved_back() {
    let (relay, receiver, _) = relay().set("GIVE_UP_4XX_SECONDS", 1).with_worker().await;
    receiver.answer([Answer::Status(400)]);
    let posted = relay.post(&issue("i", 1)).await;
    relay.pass(Duration::from_secs(3), &receiver, 1).await;
    until("a dead letter", async || !relay.dead_letters().is_empty()).await;
    relay.settled().await;
    receiver.answer([Answer::Status(200)]);
    let from_to = json!({"SourceArn": arn(DEAD_LETTERS), "DestinationArn": arn(QUEUE)});
    let (status, _) = relay.sqs("StartMessageMoveTask", &from_to).await;
    assert_eq!(status, 200);
    let received = receiver.wait_for(3).await;
    assert_eq!(received[2].header("webhook-id"), posted.event);
    assert_eq!(received[2].header("edge-attempt"), "3");
    relay.settled().await;
    assert!(relay.dead_letters().is_empty());
}

#[tokio::test]
async fn an_old_delivery_of_an_absent_worker_is_parked_and_not_dead_lettered() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Status(500)]);
    relay.post_all(0..3).await;
    // The relay itself was off for a night, and so is the laptop now; a tunnel's own 404 is no plain 4xx.
    receiver.wait_for(1).await;
    let offline = Answer::With(404, "ngrok-error-code", "ERR_NGROK_3200".into());
    receiver.answer([offline]);
    let night = Duration::from_secs(7 * 3600);
    relay.pass(night, &receiver, 1).await;
    relay.settled().await;
    assert!(relay.dead_letters().is_empty());
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    assert_eq!(relay.pull(&worker, &[], None).await.events.len(), 3);
}

#[tokio::test]
async fn what_waited_behind_a_rejected_delivery_is_tried_as_long_as_anything_else() {
    let (relay, receiver, _) = relay().with_worker().await;
    let [error, wrong, well] = [500, 400, 200].map(Answer::Status);
    receiver.answer([error, wrong.clone(), wrong, well]);
    relay.post_all(0..5).await;
    // Longer than a plain 4xx is tried.
    relay.pass(Duration::from_secs(400), &receiver, 1).await;
    until("the first one is given up", async || {
        !relay.dead_letters().is_empty()
    })
    .await;
    relay.pass(Duration::from_secs(10), &receiver, 3).await;
    relay.settled().await;
    assert_eq!(relay.dead_letters().len(), 1);
    assert_eq!(numbers(&receiver.received()), [0, 0, 1, 1, 2, 3, 4]);
}

/// How many items there are of the worker's mailbox and of failed attempts.
async fn items(relay: &Relay, worker: &Registration) -> usize {
    let [workspace, id] = worker.names();
    let partition = json!({"S": format!("WS#{workspace}#WORKER#{id}")});
    let query = json!({
        "TableName": TABLE, "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": partition},
    });
    let found = relay.dynamodb("Query", &query).await;
    let items = found["Items"].as_array().unwrap().iter();
    items.filter(|item| item["sk"]["S"] != "WORKER").count()
}

#[tokio::test]
async fn failed_attempts_are_forgotten_once_the_delivery_succeeds() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Status(500), Answer::Status(200)]);
    relay.post(&issue("i", 1)).await;
    relay.pass(Duration::from_secs(3), &receiver, 1).await;
    receiver.wait_for(2).await;
    relay.settled().await;
    assert_eq!(items(&relay, &worker).await, 0);
    // Also where the worker fetches the event.
    receiver.answer([Answer::Status(500)]);
    relay.post(&issue("i", 2)).await;
    receiver.wait_for(3).await;
    relay.go_offline(&worker).await;
    relay.pass(Duration::from_secs(3), &receiver, 3).await;
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(mailbox.events[0].headers["edge-attempt"], "2");
    relay.pull(&worker, &ids(&mailbox), None).await;
    assert_eq!(items(&relay, &worker).await, 0);
}

#[tokio::test]
async fn an_error_that_the_record_shows_already_is_not_written_again() {
    let (relay, receiver, worker) = relay().with_worker().await;
    let last_error = async || relay.read(&worker).await.last_error.unwrap();
    receiver.answer([Answer::Status(500)]);
    relay.post(&issue("i", 1)).await;
    relay.pass(Duration::ZERO, &receiver, 1).await;
    let first = last_error().await;
    relay.local.calls.take();
    relay.pass(Duration::from_secs(30), &receiver, 1).await;
    relay.pass(Duration::ZERO, &receiver, 2).await;
    // The attempt is counted, which is a write of its own.
    assert_eq!(relay.local.calls.take()["UpdateItem"], 1);
    assert_eq!(last_error().await.at, first.at);
    // Another error is written at once, and the same one after a while.
    receiver.answer([Answer::Status(501)]);
    // Longer than any wait.
    let hours = Duration::from_secs(2 * 3600);
    relay.pass(hours, &receiver, 2).await;
    relay.pass(Duration::ZERO, &receiver, 3).await;
    let second = last_error().await;
    assert_eq!(second.reason, "rejected: answered 501");
    relay.pass(hours, &receiver, 3).await;
    relay.pass(Duration::ZERO, &receiver, 4).await;
    assert!(last_error().await.at > second.at);
}

#[tokio::test]
async fn a_worker_record_that_cannot_be_read_holds_up_its_own_deliveries_alone() {
    let (relay, receiver, worker) = relay().with_worker().await;
    let other = Receiver::start().await;
    let broken = relay.register("broken", &other.url()).await;
    let [workspace, id] = broken.names();
    let damage = json!({
        "TableName": TABLE,
        "Key": {"pk": {"S": format!("WS#{workspace}#WORKER#{id}")}, "sk": {"S": "WORKER"}},
        "UpdateExpression": "SET secrets = :none", "ExpressionAttributeValues": {":none": {"N": "7"}},
    });
    relay.dynamodb("UpdateItem", &damage).await;
    relay.post_all(0..10).await;
    let received = receiver.wait_for(10).await;
    assert_eq!(numbers(&received), (0..10).collect::<Vec<_>>());
    assert_eq!(other.count(), 0);
    assert_eq!(relay.read(&worker).await.state, WorkerState::Live);
}

#[tokio::test]
async fn a_worker_that_comes_and_goes_has_no_more_deliveries_in_backoff_than_another() {
    let relay = relay().set("DELIVERIES_IN_BACKOFF", 4).start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register("one", &receiver.url()).await;
    receiver.answer([Answer::With(429, "retry-after", "3600".into())]);
    for round in 0..4 {
        for at in 0..6 {
            relay.post(&issue(&format!("i{round}-{at}"), at)).await;
        }
        relay.becomes(&worker, WorkerState::Away).await;
        let is_bounded = async || relay.queued().len() <= 4;
        until("all but four are parked", is_bounded).await;
        let mut mailbox = relay.pull(&worker, &[], None).await;
        while !mailbox.events.is_empty() {
            mailbox = relay.pull(&worker, &ids(&mailbox), None).await;
        }
        assert_eq!(mailbox.state, WorkerState::Live);
    }
}
