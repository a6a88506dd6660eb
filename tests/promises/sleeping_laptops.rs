//! A sleeping laptop misses nothing and costs nothing.

use std::time::Duration;

use local::dynamodb::TABLE;
use protocol::clock::rfc3339;
use protocol::messages::{Renew, WorkerState};
use serde_json::json;

use crate::harness::agent::{Agent, Home};
use crate::harness::raw::{Raw, Script};
use crate::harness::{
    Answer, Receiver, eventually, ids, issue, new_address, number, pulled, relay,
};

#[tokio::test]
async fn three_unreachable_attempts_over_ten_seconds_turn_a_worker_away_and_nothing_is_tried_any_more()
 {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Status(502)]);
    relay.post(&issue("i", 1)).await;
    // Three attempts within ten seconds are not enough.
    relay.pass(Duration::from_millis(1500), &receiver, 1).await;
    relay.pass(Duration::from_millis(2500), &receiver, 2).await;
    relay.pass(Duration::ZERO, &receiver, 3).await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Live);
    relay.pass(Duration::from_secs(12), &receiver, 3).await;
    relay.pass(Duration::from_secs(12), &receiver, 4).await;
    let away = relay.becomes(&worker, WorkerState::Away).await;
    relay.settled().await;
    assert!(away.last_error.unwrap().reason.contains("502"));
    let tried = receiver.count();
    for at in 2..10 {
        relay.post(&issue(&format!("i{at}"), at)).await;
    }
    relay.settled().await;
    assert_eq!(receiver.count(), tried, "nothing is tried while it is away");
    assert!(relay.read(&worker).await.waiting);
    // A sleeping laptop is not a dead letter.
    assert!(relay.dead_letters().is_empty());

    // It is back, days later.
    receiver.answer([Answer::Status(200)]);
    relay.clock.advance(Duration::from_secs(5 * 24 * 3600));
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), (1..10).collect::<Vec<_>>());
    let attempt = &mailbox.events[0].headers["edge-attempt"];
    assert_eq!(*attempt, (tried + 1).to_string());
    let emptied = relay.pull(&worker, &ids(&mailbox), None).await;
    assert_eq!(emptied.state, WorkerState::Live);
    relay.post(&issue("i", 10)).await;
    let received = receiver.wait_for(tried + 1).await;
    assert_eq!(number(&received[tried].body), 10);
}

#[tokio::test]
async fn a_closed_port_a_stall_a_redirect_and_a_dropped_connection_count_as_unreachable() {
    let relay = relay().set("DELIVERY_TIMEOUT_SECONDS", 1).start().await;
    let (receiver, closing) = (Receiver::start().await, Receiver::start().await);
    let dropping = Raw::start(Script::default()).await;
    let redirect = Answer::With(302, "location", receiver.url());
    let offline = Answer::With(404, "ngrok-error-code", "ERR_NGROK_3200".into());
    let stall = Answer::Stall(Duration::from_secs(5));
    let dropping = format!("{}?key=hush", dropping.url());
    let (well, url) = (Answer::Status(200), receiver.url());
    for (name, url, answer, reason) in [
        ("closed", &closing.url(), well.clone(), "could not connect"),
        ("dropping", &dropping, well, "closed without an answer"),
        ("stalling", &url, stall, "no answer in time"),
        ("redirecting", &url, redirect, "302"),
        ("tunnel", &url, offline, "404"),
        ("no tunnel", &url, Answer::Status(404), "404"),
        ("portal", &url, Answer::Status(511), "511"),
        ("cloudflare", &url, Answer::Status(530), "530"),
    ] {
        receiver.answer([answer]);
        let worker = relay.register(name, url).await;
        // It was there for the challenge.
        closing.close();
        relay.post(&issue(name, 1)).await;
        let error = async || relay.read(&worker).await.last_error;
        let error = eventually("the attempt failed", error).await;
        assert!(error.reason.starts_with("unreachable"), "{error:?}");
        assert!(error.reason.contains(reason), "{error:?}");
        assert!(!error.reason.contains("hush"));
        relay.remove(&worker).await;
    }
}

#[tokio::test]
async fn a_worker_that_goes_offline_gets_no_attempts() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.go_offline(&worker).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    assert_eq!(receiver.count(), 0);
    let renewed = relay.renew(&worker, &Renew::default()).await;
    assert_eq!((renewed.state, renewed.waiting), (WorkerState::Away, true));
}

#[tokio::test]
async fn a_pull_worker_is_asked_nothing_and_gets_everything() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Pull);
    relay.post_all(0..3).await;
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(mailbox.events.len(), 3);
    // Not acknowledged: handed out again, signed anew.
    let again = relay.pull(&worker, &[], Some(1)).await;
    assert_eq!(again.events[0].id, mailbox.events[0].id);
    let all = ids(&mailbox);
    let left = relay.pull(&worker, &all[..1], None).await;
    assert_eq!(ids(&left), all[1..]);
    let empty = relay.pull(&worker, &all, None).await;
    assert_eq!((empty.state, empty.events.len()), (WorkerState::Pull, 0));
}

#[tokio::test]
async fn a_pull_worker_that_gets_an_address_is_live_once_its_mailbox_is_empty() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register_pull("one").await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let renewed = relay
        .renew(&worker, &new_address(Some(receiver.url())))
        .await;
    assert_eq!((renewed.state, renewed.waiting), (WorkerState::Away, true));
    let waiting = relay.pull(&worker, &[], None).await;
    assert_eq!(waiting.state, WorkerState::Away);
    let emptied = relay.pull(&worker, &ids(&waiting), None).await;
    assert_eq!(emptied.state, WorkerState::Live);
    relay.post(&issue("i", 2)).await;
    receiver.wait_for(1).await;
    let pulling = relay.renew(&worker, &new_address(None)).await;
    assert_eq!(pulling.state, WorkerState::Pull);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_and_one_that_is_does_not() {
    let relay = relay().start().await;
    let kept = relay.register_pull("kept").await;
    let left = relay.register_pull("left").await;
    for _ in 0..3 {
        relay.clock.advance(Duration::from_secs(3 * 24 * 3600));
        relay.renew(&kept, &Renew::default()).await;
    }
    relay.assert_removed(&left).await;
    let posted = relay.post(&issue("i", 1)).await;
    assert_eq!(posted.answer["deliveries"], 1);
}

#[tokio::test]
async fn an_event_that_was_not_fetched_in_time_is_counted_and_its_owner_is_told() {
    let relay = relay().set("MAILBOX_SECONDS", 3600).start().await;
    let worker = relay.register_pull("one").await;
    relay.post_all(0..3).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(3601));
    relay.post(&issue("i", 3)).await;
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), [3]);
    let renewed = relay.renew(&worker, &Renew::default()).await;
    let expired = renewed.expired.unwrap();
    assert_eq!(expired.count, 3);
    assert!(expired.since < rfc3339(relay.clock.millis()), "{expired:?}");
    // Once.
    relay.pull(&worker, &ids(&mailbox), None).await;
    assert_eq!(relay.read(&worker).await.expired.unwrap().count, 3);
}

#[tokio::test]
async fn what_expired_is_counted_also_by_who_registers_after_the_lease_has_ended() {
    let start = relay().set("MAILBOX_SECONDS", 3600);
    let relay = start.set("LEASE_SECONDS", 7200).start().await;
    relay.register_pull("one").await;
    relay.post_all(0..3).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(7201));
    let again = relay.register_pull("one").await;
    assert!(pulled(&relay.pull(&again, &[], None).await).is_empty());
    assert_eq!(relay.read(&again).await.expired.unwrap().count, 3);
}

#[tokio::test]
async fn an_agent_says_that_events_are_lost() {
    let relay = relay().set("MAILBOX_SECONDS", 3600).start().await;
    let home = Home::new();
    let agent = Agent::pulling(&relay, &home).await;
    agent.stop().await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(3601));
    let worker = crate::harness::agent::worker(&home);
    assert!(relay.pull(&worker, &[], None).await.events.is_empty());
    let mut agent = Agent::begin(&mut Agent::up(&relay, &home)).await;
    agent.says("events lost: 1;").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_parked_event_that_cannot_be_read_is_set_aside_and_does_not_block_the_mailbox() {
    let relay = relay().start().await;
    let worker = relay.register_pull("pull").await;
    relay.post_all(0..3).await;
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    let [workspace, id] = worker.names();
    let key = |kind: &str| {
        json!({
            "pk": {"S": format!("WS#{workspace}#WORKER#{id}")},
            "sk": {"S": format!("{kind}#{}", mailbox.events[1].id)},
        })
    };
    let damage = json!({
        "TableName": TABLE, "Key": key("MAIL"), "UpdateExpression": "SET attempt = :none",
        "ExpressionAttributeValues": {":none": {"S": "seven"}},
    });
    relay.dynamodb("UpdateItem", &damage).await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), [0, 2]);
    let aside = json!({"TableName": TABLE, "Key": key("ASIDE")});
    let aside = relay.dynamodb("GetItem", &aside).await;
    assert_eq!(aside["Item"]["attempt"]["S"], "seven");
    let emptied = relay.pull(&worker, &ids(&mailbox), None).await;
    assert!(emptied.events.is_empty());
}
