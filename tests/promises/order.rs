//! Order per issue: the group waits while its head retries, and nothing else waits with it.

use std::time::Duration;

use local::samples::{FIVE_KINDS, ONE_ISSUE};
use protocol::clock::UnixMillis;
use serde_json::Value;

use crate::harness::{Answer, Receiver, ids, issue, number, numbers, pulled, relay};

#[tokio::test]
async fn fifty_events_of_one_issue_arrive_in_order() {
    let (relay, receiver, _) = relay().with_worker().await;
    relay.post_all(0..50).await;
    let received = receiver.wait_for(50).await;
    assert_eq!(numbers(&received), (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_comes_after_a_failing_event_waits_and_other_issues_do_not() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let wait = || Answer::With(429, "retry-after", "600".into());
    receiver.answer([wait(), wait(), Answer::Status(200)]);
    relay.register("one", &receiver.url()).await;
    relay.post(&issue("stuck", 1)).await;
    receiver.wait_for(1).await;
    for at in 2..8 {
        relay.post(&issue("stuck", at)).await;
    }
    relay.pass(Duration::from_secs(601), &receiver, 1).await;
    receiver.wait_for(2).await;
    relay.post(&issue("free", 100)).await;
    let received = receiver.wait_for(3).await;
    assert_eq!(number(&received[2].body), 100);
    relay.pass(Duration::from_secs(700), &receiver, 3).await;
    let received = receiver.wait_for(10).await;
    let mut order = numbers(&received);
    order.retain(|number| *number < 100);
    assert_eq!(order, [1, 1, 1, 2, 3, 4, 5, 6, 7]);
    let attempts: Vec<_> = (received.iter().filter(|r| number(&r.body) == 1))
        .map(|r| r.header("edge-attempt").to_owned())
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    // What waited behind it was received with it, but not tried.
    let seventh = received.iter().find(|r| number(&r.body) == 7).unwrap();
    assert_eq!(seventh.header("edge-attempt"), "1");
}

#[tokio::test]
async fn events_of_one_issue_keep_their_order_through_mailbox_and_return() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.post(&issue("i", 0)).await;
    receiver.wait_for(1).await;
    relay.go_offline(&worker).await;
    relay.post_all(1..5).await;
    relay.settled().await;
    let mut order = numbers(&receiver.received());
    let mut ack = Vec::new();
    // What is parked while the mailbox is being emptied comes after what was there.
    for at in 5..8 {
        let mailbox = relay.pull(&worker, &ack, Some(2)).await;
        assert_eq!(mailbox.state.as_str(), "away");
        ack = ids(&mailbox);
        order.extend(pulled(&mailbox));
        relay.post(&issue("i", at)).await;
        relay.settled().await;
    }
    loop {
        let mailbox = relay.pull(&worker, &ack, None).await;
        ack = ids(&mailbox);
        order.extend(pulled(&mailbox));
        if ack.is_empty() {
            assert_eq!(mailbox.state.as_str(), "live");
            break;
        }
    }
    relay.post(&issue("i", 8)).await;
    let received = receiver.wait_for(2).await;
    order.push(number(&received[1].body));
    assert_eq!(order, (0..9).collect::<Vec<_>>());
}

/// Two payloads about the same thing, in the order in which they happened.
fn pair(case: &str, now: UnixMillis) -> [String; 2] {
    let case: Value = serde_json::from_str(case).unwrap();
    ["first", "second"].map(|which| {
        let mut payload = case[which].clone();
        payload["webhookTimestamp"] = now.into();
        payload.to_string()
    })
}

#[tokio::test]
async fn payloads_about_one_thing_do_not_overtake_each_other() {
    for case in [
        include_str!(
            "../cases/order/agent-session-entity-create-agent-activity-entity-issue-.json"
        ),
        include_str!("../cases/order/comment-on-document-reaction-on-that-comment.json"),
        include_str!(
            "../cases/order/customer-need-on-issue-create-update-after-it-was-moved-to-a-project.json"
        ),
        include_str!("../cases/order/inbox-documentMention-documentNewComment-same-document.json"),
        include_str!("../cases/order/initiative-initiative-update.json"),
        include_str!("../cases/order/project-update-posted-comment-on-it.json"),
        include_str!(
            "../cases/order/session-created-issue-prompted-that-names-the-session-only.json"
        ),
        include_str!(
            "../cases/order/session-created-without-an-issue-prompted-after-an-issue-was-linked.json"
        ),
    ] {
        let (relay, receiver, _) = relay().with_worker().await;
        let wait = Answer::With(429, "retry-after", "60".into());
        receiver.answer([wait, Answer::Status(200)]);
        let [first, second] = pair(case, relay.clock.millis());
        let first = relay.post(&first).await.event;
        receiver.wait_for(1).await;
        let second = relay.post(&second).await.event;
        relay.pass(Duration::from_secs(61), &receiver, 1).await;
        relay.settled().await;
        let received = receiver.received();
        let ids: Vec<_> = received.iter().map(|r| r.header("webhook-id")).collect();
        assert_eq!(ids, [&first, &first, &second], "{case}");
    }
}

#[tokio::test]
async fn an_agent_session_does_not_wait_for_an_event_of_its_issue_that_is_rejected() {
    let (relay, receiver, _) = relay().with_worker().await;
    let wait = Answer::With(429, "retry-after", "60".into());
    receiver.answer([wait, Answer::Status(200)]);
    relay.post(ONE_ISSUE[0]).await;
    receiver.wait_for(1).await;
    let created = relay.post(FIVE_KINDS[2]).await.event;
    let received = receiver.wait_for(2).await;
    assert_eq!(received[1].header("webhook-id"), created);
}
