//! Access that has ended stays so, whatever else happens at the same time; and access that was given again stays, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use local::dynamodb::TABLE;
use local::samples::Webhook;
use protocol::messages::{AwayReason, WorkerState};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Receiver, Relay, SECRET, ids, issue, pulled, relay, until};
use crate::who_gets_what::{
    ENG, OPS, account, application, event, got, is_removed, payload, shows_token, token, worker,
};

/// That this user was deactivated.
fn deactivated(user: &str) -> String {
    let data = json!({"data": {"id": user, "active": false}});
    payload("User", "update", data)
}

/// The statuses of a registration during which Linear says that the access of its user has ended, and of one after that. Linear
/// has been asked before.
async fn registered_meanwhile(
    relay: &Relay,
    is_slow: &AtomicBool,
    receiver: &Receiver,
) -> [u16; 2] {
    let request = json!({
        "name": "one", "linearToken": token("ana"), "webhookUrl": receiver.url(), "pulls": true,
    });
    let register = || relay.call(Method::POST, "/edge/register", None, &request);
    let challenged = receiver.challenged();
    is_slow.store(true, Ordering::Relaxed);
    let ends = async {
        until("Linear was asked", async || {
            receiver.challenged() > challenged
        })
        .await;
        relay.clock.advance(Duration::from_secs(1));
        relay.post(&deactivated("ana")).await;
        relay.settled().await;
        is_slow.store(false, Ordering::Relaxed);
    };
    let (registered, ()) = tokio::join!(register(), ends);
    relay.clock.advance(Duration::from_secs(1));
    [
        registered.status().as_u16(),
        register().await.status().as_u16(),
    ]
}

#[tokio::test]
async fn a_registration_does_not_outlive_an_end_of_access_that_linear_did_not_know_when_it_was_asked()
 {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = relay().slow_while(
        Arc::clone(&is_slow),
        "register",
        Duration::from_millis(1_500),
    );
    let (relay, receiver) = (slow.start().await, Receiver::start().await);
    relay.linear.admit_as(&token("ana"), account("ana", &[ENG]));
    // The name is new, and then it has a worker.
    for _ in 0..2 {
        assert_eq!(
            registered_meanwhile(&relay, &is_slow, &receiver).await,
            [409, 201]
        );
    }
}

#[tokio::test]
async fn whoever_registers_again_stays_though_linear_says_late_that_access_had_ended() {
    let relay = relay().start().await;
    let ended_at = relay.clock.millis();
    relay.clock.advance(Duration::from_secs(600));
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    relay.post(&event(1, ENG.0, json!({}))).await;
    relay.settled().await;
    // Its first attempt has failed.
    let late = Webhook::sample(SECRET, &deactivated("ana"), ended_at);
    relay.post_webhook(late).await;
    assert_eq!(got(&relay, &ana).await, [1]);
}

#[tokio::test]
async fn access_ends_at_once_also_while_a_mailbox_waits_to_be_drained() {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    relay.linear.admit_as(&token("ana"), account("ana", &[ENG]));
    let request = json!({"name": "one", "linearToken": token("ana"), "webhookUrl": receiver.url()});
    let ana = relay.register_as(request).await;
    receiver.answer_ping(Answer::Status(502));
    relay.go_offline(&ana).await;
    relay.post(&event(1, ENG.0, json!({}))).await;
    let waits = || async { relay.queued().len() == 1 && relay.is_waiting() };
    until("the drain waits", waits).await;
    let pinged = receiver.pinged().len();
    relay.clock.advance(Duration::from_secs(3600));
    let waits_long = async || receiver.pinged().len() > pinged && waits().await;
    until("it waits for long", waits_long).await;
    relay.post(&deactivated("ana")).await;
    is_removed(&relay, &ana).await;
}

#[tokio::test]
async fn a_removal_that_ended_early_is_completed() {
    let relay = relay()
        .refused_once("deliver: BatchWriteItem Delete of MAIL")
        .start()
        .await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    relay.post(&event(1, ENG.0, json!({}))).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(1));
    relay.post(&deactivated("ana")).await;
    is_removed(&relay, &ana).await;
    let [workspace, id] = ana.names();
    let of_worker = json!({
        "TableName": TABLE, "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": {"S": format!("WS#{workspace}#WORKER#{id}")}},
    });
    let nothing_is_left = async || relay.dynamodb("Query", &of_worker).await["Count"] == 0;
    until("nothing of the worker is left", nothing_is_left).await;
}

#[tokio::test]
async fn a_removal_that_ended_early_leaves_nothing_to_the_next_registration() {
    let relay = relay()
        .refused_once("register: BatchWriteItem Delete of MAIL")
        .start()
        .await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    relay.post(&event(1, ENG.0, json!({}))).await;
    relay.settled().await;
    let call = (Method::DELETE, ana.path.as_str());
    let expected = (503, "storage_unavailable");
    relay.refuses_worker(call, &ana.token, expected).await;
    relay.clock.advance(Duration::from_secs(1));
    let again = worker(&relay, "ana", &[ENG], json!({})).await;
    assert_eq!(got(&relay, &again).await, [0; 0]);
    relay.post(&event(2, ENG.0, json!({}))).await;
    assert_eq!(got(&relay, &again).await, [2]);
}

#[tokio::test]
async fn a_registration_is_answered_though_what_was_withheld_cannot_be_released_yet() {
    let releases = "register: TransactWriteItems Delete of HELD + Put of MAIL + \
        Update #token = :token AND #state = :was of WORKER";
    let relay = relay().set("LEASE_SECONDS", 3600).refused_once(releases);
    let relay = relay.start().await;
    worker(&relay, "eng", &[ENG], json!({})).await;
    relay.post(&event(1, OPS.0, json!({}))).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let again = worker(&relay, "eng", &[ENG, OPS], json!({})).await;
    assert_eq!(relay.read(&again).await.withheld, 1);
    assert_eq!(shows_token(&relay, &again, "eng").await.withheld, 0);
    assert_eq!(got(&relay, &again).await, [1]);
}

#[tokio::test]
async fn what_was_withheld_when_a_lease_ended_is_released_or_dropped_by_the_next_registration() {
    let relay = relay().set("LEASE_SECONDS", 3600).start().await;
    let first = worker(&relay, "eng", &[ENG], json!({})).await;
    for (number, team) in [(1, OPS.0), (2, "team-secret"), (3, OPS.0)] {
        relay.post(&event(number, team, json!({"id": "i"}))).await;
    }
    relay.settled().await;
    assert_eq!(relay.read(&first).await.withheld, 3);
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let again = worker(&relay, "eng", &[ENG, OPS], json!({})).await;
    assert_eq!(relay.read(&again).await.withheld, 0);
    relay.post(&event(4, OPS.0, json!({"id": "i"}))).await;
    relay.settled().await;
    let mailbox = relay.pull(&again, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 3, 4]);
    relay.pull(&again, &ids(&mailbox), None).await;
}

#[tokio::test]
async fn an_application_that_is_another_user_since_today_is_found_when_it_is_removed() {
    let relay = relay().start().await;
    let mut workers = Vec::new();
    for user in ["before", "after"] {
        workers.push(application(&relay, user).await);
        let own: Value = json!({"appUserId": user, "oauthClientId": "client"});
        relay
            .post(&payload("AppUserNotification", "issueMention", own))
            .await;
    }
    let revoked = json!({"oauthClientId": "client"});
    relay.post(&payload("OAuthApp", "revoked", revoked)).await;
    is_removed(&relay, &workers[1]).await;
}

#[tokio::test]
async fn the_time_for_which_nobody_was_there_is_not_time_for_which_an_event_was_rejected() {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    let ana = relay.register_receiving("one", &receiver.url()).await;
    let down = Answer::Status(502);
    receiver.answer([down.clone()]);
    receiver.answer_ping(down);
    relay.post(&issue("i", 1)).await;
    for attempt in 1..=3 {
        relay
            .pass(Duration::from_secs(12), &receiver, attempt)
            .await;
    }
    let away = relay.becomes(&ana, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Unreachable));
    relay.clock.advance(Duration::from_secs(3 * 24 * 3600));
    // It starts.
    receiver.answer([Answer::Status(500), Answer::Status(200)]);
    receiver.answer_ping(Answer::Status(204));
    until("the event is delivered", async || {
        relay.clock.advance(Duration::from_secs(5));
        receiver.count() >= 5 && relay.read(&ana).await.state == WorkerState::Live
    })
    .await;
    assert!(relay.dead_letters().is_empty());
}
