//! Silent workers are found out, and those that are back are live again, without their doing.

use std::time::Duration;

use local::dynamodb::TABLE;
use local::local_relay::QUEUE;
use protocol::clock::{elapsed, millis};
use protocol::messages::WorkerState;
use serde_json::json;

use crate::admin::does;
use crate::harness::{Answer, Receiver, Relay, ids, issue, pulled, relay, until};

const TICK: Duration = Duration::from_secs(5 * 60);

/// Lets the schedule's time come, again and again, until it holds. After that it is a second ago, so that it does not come by
/// itself.
async fn ticks_until(relay: &Relay, what: &str, most: usize, holds: impl AsyncFn() -> bool) {
    for _ in 0..most {
        let before = relay.local.health_runs();
        let since = elapsed(0, relay.clock.millis() % millis(TICK));
        relay.clock.advance(TICK - since + Duration::from_secs(1));
        let has_run = async || relay.local.health_runs() > before;
        until("the schedule has run", has_run).await;
        if holds().await {
            return;
        }
    }
    panic!("not within {most} runs: {what}");
}

#[tokio::test]
async fn an_away_worker_that_answers_a_ping_is_live_again() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.go_offline(&worker).await;
    let is_live = async || relay.read(&worker).await.state == WorkerState::Live;
    ticks_until(&relay, "it is live", 2, is_live).await;
    let ping = &receiver.pinged()[0];
    assert_eq!(ping.json(), json!({"type": "edge.ping", "waiting": false}));
    assert!(ping.verifies(&worker.secret));
    assert_eq!(receiver.count(), 0);
    relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
}

#[tokio::test]
async fn a_ping_for_a_mailbox_with_events_does_not_make_the_worker_live() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.go_offline(&worker).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let is_pinged = async || !receiver.pinged().is_empty();
    ticks_until(&relay, "it is pinged", 2, is_pinged).await;
    let ping = receiver.pinged()[0].json();
    assert_eq!(ping, json!({"type": "edge.ping", "waiting": true}));
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    let waiting = relay.pull(&worker, &[], None).await;
    let emptied = relay.pull(&worker, &ids(&waiting), None).await;
    assert_eq!(emptied.state, WorkerState::Live);
}

#[tokio::test]
async fn gaps_between_pings_at_a_worker_that_stays_away_grow() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer_ping(Answer::Status(502));
    relay.go_offline(&worker).await;
    let mut runs = 0;
    let mut at = Vec::new();
    while at.len() < 5 {
        runs += 1;
        let pinged = receiver.pinged().len();
        ticks_until(&relay, "", 1, async || true).await;
        if receiver.pinged().len() > pinged {
            at.push(runs);
        }
        assert!(runs < 20, "pinged at {at:?}");
    }
    let gaps: Vec<_> = at.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(gaps, [1, 2, 4, 8]);
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
}

#[tokio::test]
async fn what_expires_for_a_worker_that_is_down_or_paused_is_counted() {
    let relay = relay().set("MAILBOX_SECONDS", 3600).start().await;
    let receiver = Receiver::start().await;
    let down = relay.register("down", &receiver.url()).await;
    receiver.answer_ping(Answer::Status(502));
    relay.go_offline(&down).await;
    let paused = relay.register_pull("paused").await;
    relay.post_all(0..3).await;
    relay.settled().await;
    let [_, id] = paused.names();
    does(&relay, &["pause", &id]).await;
    for worker in [&down, &paused] {
        let is_counted = async || {
            let worker = relay.read(worker).await;
            worker.expired.is_some_and(|expired| expired.count == 3)
        };
        ticks_until(&relay, "it is counted", 40, is_counted).await;
    }
}

#[tokio::test]
async fn a_live_worker_that_has_vanished_is_found_out_before_the_next_event() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer_ping(Answer::Status(530));
    let is_away = async || relay.read(&worker).await.state == WorkerState::Away;
    ticks_until(&relay, "it is away", 5 * 12, is_away).await;
    assert_eq!(receiver.pinged().len(), 3);
    // Its failures are forgotten when it answers in between.
    let other = Receiver::start().await;
    let kept = relay.register("two", &other.url()).await;
    other.answer_ping(Answer::Status(502));
    let pinged = || other.pinged().len();
    ticks_until(&relay, "two pings", 30, async || pinged() == 2).await;
    other.answer_ping(Answer::Status(204));
    ticks_until(&relay, "a third", 30, async || pinged() == 3).await;
    other.answer_ping(Answer::Status(502));
    ticks_until(&relay, "two more", 100, async || pinged() == 5).await;
    assert_eq!(relay.read(&kept).await.state, WorkerState::Live);
}

#[tokio::test]
async fn a_ping_answered_410_removes_the_worker_and_another_answer_is_told_to_its_owner() {
    let relay = relay().start().await;
    let (gone, broken) = (Receiver::start().await, Receiver::start().await);
    let removed = relay.register("gone", &gone.url()).await;
    let kept = relay.register("broken", &broken.url()).await;
    gone.answer_ping(Answer::Status(410));
    relay.go_offline(&removed).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    assert!(relay.read(&removed).await.waiting);
    broken.answer_ping(Answer::Status(500));
    let pinged = || gone.pinged().len() + broken.pinged().len();
    ticks_until(&relay, "both are pinged", 15, async || pinged() == 2).await;
    relay.assert_removed(&removed).await;
    let error = relay.read(&kept).await.last_error.unwrap();
    assert_eq!(error.reason, "rejected: answered 500");
}

#[tokio::test]
async fn what_is_counted_is_what_there_is() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    for at in 0..20 {
        relay.register(&format!("live {at}"), &receiver.url()).await;
    }
    let pull = relay.register_pull("pull").await;
    relay.register_pull("other pull").await;
    let away = relay.register("away", &receiver.url()).await;
    relay.go_offline(&away).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let run = || async { relay.local.run_health().await.unwrap() };
    let counted = run().await;
    assert_eq!((counted.live, counted.away, counted.pull), (20, 1, 2));
    assert_eq!(counted.waiting, 3);
    for worker in [&pull, &away] {
        let mailbox = relay.pull(worker, &[], None).await;
        relay.pull(worker, &ids(&mailbox), None).await;
    }
    let counted = run().await;
    assert_eq!((counted.live, counted.away, counted.pull), (21, 0, 2));
    assert_eq!(counted.waiting, 1);
    // A lease that has ended counts no more, wherever the sweep is.
    relay.clock.advance(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(run().await, relay::health::WorkerCounts::default());
}

#[tokio::test]
async fn a_lease_that_ended_is_removed_and_its_mailbox_stays() {
    let relay = relay().set("LEASE_SECONDS", 3600).start().await;
    let worker = relay.register_pull("one").await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let [workspace, id] = worker.names();
    let key = json!({"pk": {"S": format!("WS#{workspace}#WORKER#{id}")}, "sk": {"S": "WORKER"}});
    let request = json!({"TableName": TABLE, "Key": key});
    relay.local.run_health().await.unwrap();
    let item = relay.dynamodb("GetItem", &request).await;
    assert!(item.get("Item").is_none(), "{item}");
    let again = relay.register_pull("one").await;
    let waiting = relay.pull(&again, &[], None).await;
    assert_eq!(pulled(&waiting), [1]);
}

#[tokio::test]
async fn a_heartbeat_goes_through_the_queue_and_waits_behind_no_worker() {
    let (relay, receiver, _) = relay().with_worker().await;
    receiver.answer([Answer::Status(500)]);
    relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    relay.local.run_health().await.unwrap();
    let has_passed = async || {
        let queued = relay.local.sqs.peek(QUEUE).unwrap();
        queued.len() == relay.queued().len()
    };
    until("the heartbeat has arrived", has_passed).await;
    assert_eq!(relay.queued().len(), 1);
}
