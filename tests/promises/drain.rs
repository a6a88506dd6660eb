//! A worker that only receives gets its mailbox too: the relay probes it, delivers what waits oldest first, and marks it
//! live once nothing waits.

use std::collections::BTreeSet;
use std::time::Duration;

use local::local_relay::QUEUE;
use protocol::clock::{elapsed, millis};
use protocol::messages::{AwayReason, WorkerState};
use relay::policy::PROBE_INTERVAL;
use reqwest::Method;
use serde_json::json;

use crate::harness::{
    Answer, Receiver, Registration, Relay, eventually, issue, numbers, relay, until,
};

/// A worker that does not pull, at a receiver.
async fn receiving() -> (Relay, Receiver, Registration) {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    let worker = relay.register_receiving("one", &receiver.url()).await;
    (relay, receiver, worker)
}

/// Makes the worker away: nothing is at its address.
async fn becomes_away(relay: &Relay, receiver: &Receiver, worker: &Registration) {
    let down = Answer::Status(502);
    receiver.answer([down.clone()]);
    receiver.answer_ping(down);
    relay.post(&issue("i", 0)).await;
    let tried = receiver.count();
    for attempt in 1..3 {
        relay
            .pass(Duration::from_secs(12), receiver, tried + attempt)
            .await;
    }
    let away = relay.becomes(worker, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Unreachable));
}

/// The receiver is there again.
fn is_back(receiver: &Receiver) {
    receiver.answer([Answer::Status(200)]);
    receiver.answer_ping(Answer::Status(204));
}

/// Moves the clock, and waits until all that is due then is done.
async fn step(relay: &Relay, by: Duration) {
    let run = || relay.clock.millis() / millis(PROBE_INTERVAL);
    let (runs, before) = (relay.local.health_runs(), run());
    relay.clock.advance(by);
    if run() > before {
        let has_run = async || relay.local.health_runs() > runs;
        until("health has run", has_run).await;
    }
    until("every message waits", async || relay.is_waiting()).await;
}

/// Moves the clock until the worker is live.
async fn becomes_live(relay: &Relay, worker: &Registration, within: Duration) {
    for _ in 0..120 {
        step(relay, within / 120).await;
        if relay.read(worker).await.state == WorkerState::Live {
            return;
        }
    }
    panic!("not within {within:?}");
}

/// The numbers of the events that were delivered, without the attempts that failed.
fn delivered(receiver: &Receiver, from: usize) -> Vec<usize> {
    numbers(&receiver.received()[from..])
}

#[tokio::test]
async fn what_has_expired_meanwhile_is_counted_before_a_receiver_is_live() {
    let relay = relay().set("MAILBOX_SECONDS", 3600).start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register_receiving("one", &receiver.url()).await;
    becomes_away(&relay, &receiver, &worker).await;
    relay.post_all(1..4).await;
    let all_wait = async || relay.queued().len() == 1;
    until("only the drain is on the queue", all_wait).await;
    relay.clock.advance(Duration::from_secs(3601));
    is_back(&receiver);
    becomes_live(&relay, &worker, Duration::from_secs(3600)).await;
    // The first of them had made the worker away.
    assert_eq!(relay.read(&worker).await.expired.unwrap().count, 4);
}

#[tokio::test]
async fn a_receiver_that_was_down_gets_its_mailbox_in_order_soon_after_it_is_back() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post_all(1..40).await;
    let all_wait = async || relay.queued().len() == 1;
    until("only the drain is on the queue", all_wait).await;
    assert_eq!(receiver.count(), tried);
    is_back(&receiver);
    becomes_live(&relay, &worker, Duration::from_secs(60)).await;
    assert_eq!(delivered(&receiver, tried), (0..40).collect::<Vec<_>>());
    relay.settled().await;
    relay.post(&issue("i", 40)).await;
    receiver.wait_for(tried + 41).await;
    assert!(relay.read(&worker).await.away_reason.is_none());
}

#[tokio::test]
async fn probes_of_a_receiver_that_stays_down_come_at_doubling_gaps() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let began = relay.clock.millis();
    let mut at = Vec::new();
    for second in 0..200 {
        if receiver.pinged().len() > at.len() {
            at.push(second);
        }
        step(&relay, Duration::from_secs(1)).await;
    }
    assert!(relay.clock.millis() - began >= 200_000);
    assert!((3..=6).contains(&at.len()), "{at:?}");
    let gaps: Vec<_> = at.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.windows(2).all(|w| w[1] + 2 >= 2 * w[0] - 2), "{at:?}");
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
}

#[tokio::test]
async fn a_receiver_that_fails_again_half_way_gets_the_rest_when_it_is_back_again() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post_all(1..10).await;
    receiver.answer_ping(Answer::Status(204));
    let well = Answer::Status(200);
    receiver.answer([
        well.clone(),
        well.clone(),
        well.clone(),
        Answer::Status(502),
    ]);
    until("it fails half-way", async || {
        relay.clock.advance(Duration::from_millis(500));
        receiver.count() > tried + 3
    })
    .await;
    // What comes meanwhile waits behind.
    relay.post_all(10..13).await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    is_back(&receiver);
    becomes_live(&relay, &worker, Duration::from_secs(60)).await;
    let mut order = delivered(&receiver, tried);
    order.dedup();
    assert_eq!(order, (0..13).collect::<Vec<_>>());
    relay.settled().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_know_pings_and_one_that_rejects_an_event_get_the_rest() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post(&issue("other", 1)).await;
    relay.post(&issue("i", 2)).await;
    receiver.answer_ping(Answer::Status(400));
    // The first event of `i` is rejected, so the second one waits. That of the other issue does not.
    receiver.answer([Answer::Status(500), Answer::Status(200)]);
    becomes_live(&relay, &worker, Duration::from_secs(60)).await;
    assert_eq!(delivered(&receiver, tried), [0, 1, 0, 2]);
    relay.settled().await;
}

#[tokio::test]
async fn a_receiver_that_was_there_for_a_moment_is_probed_soon_again() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post_all(1..4).await;
    // It has been away for so long that it is probed in hours.
    step(&relay, Duration::from_secs(10 * 3600)).await;
    receiver.answer_ping(Answer::Status(204));
    receiver.answer([
        Answer::Status(200),
        Answer::Status(200),
        Answer::Status(502),
    ]);
    until("it was there for a moment", async || {
        if receiver.count() < tried + 3 {
            step(&relay, Duration::from_secs(60)).await;
        }
        receiver.count() >= tried + 3
    })
    .await;
    receiver.answer_ping(Answer::Status(502));
    step(&relay, Duration::from_secs(15)).await;
    is_back(&receiver);
    becomes_live(&relay, &worker, Duration::from_secs(120)).await;
    assert_eq!(delivered(&receiver, tried), [0, 1, 2, 2, 3]);
}

#[tokio::test]
async fn events_that_are_never_answered_hold_back_their_ordering_keys_and_no_others() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    let keys = ["bad", "bad", "other", "third", "bad too", "bad as well"];
    for (key, number) in keys.into_iter().zip([1, 2, 3, 4, 11, 12]) {
        relay.post(&issue(key, number)).await;
    }
    relay.post(&issue("last", 6)).await;
    // To a worker without receipts, this is a network's login page.
    receiver.answer([Answer::To("\"number\":1", 511)]);
    receiver.answer_ping(Answer::Status(204));
    until("the others are delivered", async || {
        relay.clock.advance(Duration::from_millis(500));
        delivered(&receiver, tried).contains(&6)
    })
    .await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    // So are those that come later, within a minute.
    relay.post(&issue("fourth", 5)).await;
    let posted_at = relay.clock.millis();
    until("the later one is delivered", async || {
        step(&relay, Duration::from_secs(1)).await;
        delivered(&receiver, tried).contains(&5)
    })
    .await;
    let waited = elapsed(posted_at, relay.clock.millis());
    assert!(waited < Duration::from_secs(120), "{waited:?}");
    is_back(&receiver);
    becomes_live(&relay, &worker, Duration::from_secs(3600)).await;
    let bad: Vec<_> = (delivered(&receiver, tried).into_iter())
        .filter(|number| matches!(number, 1 | 2))
        .collect();
    assert_eq!(bad[bad.len() - 2..], [1, 2]);
    assert!(relay.dead_letters().is_empty());
}

#[tokio::test]
async fn a_worker_has_a_bounded_number_of_deliveries_in_backoff_and_gets_all_when_it_recovers() {
    let relay = relay().set("DELIVERIES_IN_BACKOFF", 4).start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register_receiving("one", &receiver.url()).await;
    let busy = Answer::With(429, "retry-after", "3600".into());
    receiver.answer([busy]);
    receiver.answer_ping(Answer::Status(204));
    for at in 0..20 {
        relay.post(&issue(&format!("i{at}"), at)).await;
    }
    let away = relay.becomes(&worker, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Rejecting));
    // Four in backoff and the drain.
    let is_bounded = async || relay.queued().len() <= 5;
    until("the others are parked", is_bounded).await;
    assert!(relay.dead_letters().is_empty());
    let other = Receiver::start().await;
    relay.register("other", &other.url()).await;
    relay.post(&issue("i", 99)).await;
    other.wait_for(1).await;
    receiver.answer([Answer::Status(200)]);
    becomes_live(&relay, &worker, Duration::from_secs(3 * 3600)).await;
    relay.settled().await;
    let all = receiver.received();
    let mut last: Vec<_> = numbers(&all).into_iter().collect();
    last.sort_unstable();
    last.dedup();
    let mut expected: Vec<_> = (0..20).collect();
    expected.push(99);
    assert_eq!(last, expected);
}

#[tokio::test]
async fn a_worker_that_rejects_what_many_events_wait_behind_is_away_and_gets_all_in_order_when_it_recovers()
 {
    let (relay, receiver, worker) = receiving().await;
    receiver.answer([Answer::To("\"number\":0", 500)]);
    receiver.answer_ping(Answer::Status(204));
    relay.post_all(0..30).await;
    let away = eventually("it is away", || async {
        let worker = relay.read(&worker).await;
        relay.clock.advance(Duration::from_secs(1));
        (worker.state == WorkerState::Away).then_some(worker)
    });
    assert_eq!(away.await.away_reason, Some(AwayReason::Rejecting));
    let all_wait = async || relay.queued().len() == 1;
    until("only the drain is on the queue", all_wait).await;
    // What is about something else is not held up for long.
    relay.post(&issue("another", 99)).await;
    let posted_at = relay.clock.millis();
    until("the other issue's event", async || {
        if relay.is_waiting() {
            relay.clock.advance(Duration::from_secs(1));
        }
        numbers(&receiver.received()).contains(&99)
    })
    .await;
    let waited = elapsed(posted_at, relay.clock.millis());
    assert!(waited < Duration::from_secs(120), "{waited:?}");
    receiver.answer([Answer::Status(200)]);
    becomes_live(&relay, &worker, Duration::from_secs(600)).await;
    relay.settled().await;
    // The clock may have ended the visibility timeout of a drain, which is then carried out twice.
    let mut seen = BTreeSet::new();
    let mut others = numbers(&receiver.received());
    others.retain(|number| (1..30).contains(number) && seen.insert(*number));
    assert_eq!(others, (1..30).collect::<Vec<_>>());
    assert!(relay.dead_letters().is_empty());
}

#[tokio::test]
async fn a_worker_that_rejects_what_few_events_wait_behind_stays_live() {
    let (relay, receiver, worker) = receiving().await;
    receiver.answer([Answer::To("\"number\":0", 500)]);
    relay.post_all(0..8).await;
    let tried = async || {
        relay.clock.advance(Duration::from_secs(10));
        receiver.count() >= 10
    };
    until("it was tried for long", tried).await;
    relay.post(&issue("another", 99)).await;
    until("the other issue's event", async || {
        numbers(&receiver.received()).contains(&99)
    })
    .await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Live);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_mailbox_of_a_hundred_thousand_events_is_delivered_in_order_by_several_invocations() {
    const ISSUES: usize = 8;
    const EACH: usize = 12_500;
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    let post = async |of: usize| {
        for at in 0..EACH {
            let number = of * EACH + at;
            relay.post(&issue(&format!("i{of}"), number)).await;
        }
    };
    futures::future::join_all((0..ISSUES).map(post)).await;
    let all_wait = async || relay.queued().len() == 1;
    until("only the drain is on the queue", all_wait).await;
    is_back(&receiver);
    while relay.read(&worker).await.state == WorkerState::Away {
        relay.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let delivered = delivered(&receiver, tried + 1);
    assert_eq!(delivered.len(), ISSUES * EACH);
    let of = |issue: usize| {
        let range = issue * EACH..(issue + 1) * EACH;
        let its = delivered.iter().filter(|number| range.contains(number));
        its.copied().eq(range.clone())
    };
    assert!((0..ISSUES).all(of), "not in order");
}

#[tokio::test]
async fn two_drains_at_once_deliver_each_event_once() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post_all(1..10).await;
    let [workspace, id] = worker.names();
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    let second = json!({
        "QueueUrl": relay.local.sqs.url(QUEUE), "MessageBody": "drain", "MessageGroupId": id,
        "MessageDeduplicationId": "second", "MessageAttributes": {
            "drain": text("0"), "workspace": text(&workspace), "worker": text(&id),
        },
    });
    is_back(&receiver);
    let (status, _) = relay.sqs("SendMessage", &second).await;
    assert_eq!(status, 200);
    becomes_live(&relay, &worker, Duration::from_secs(60)).await;
    relay.settled().await;
    assert_eq!(delivered(&receiver, tried), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_mailbox_that_outlived_its_lease_is_drained_by_health() {
    let relay = relay().set("LEASE_SECONDS", 3600).start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register_receiving("one", &receiver.url()).await;
    becomes_away(&relay, &receiver, &worker).await;
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let (path, token) = (worker.path.as_str(), worker.token.as_str());
    relay
        .refuses_worker((Method::GET, path), token, (401, "worker_token_invalid"))
        .await;
    relay.settled().await;
    is_back(&receiver);
    let tried = receiver.count();
    let worker = relay.register_receiving("one", &receiver.url()).await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    becomes_live(&relay, &worker, Duration::from_secs(1200)).await;
    assert_eq!(delivered(&receiver, tried), [0]);
}

#[tokio::test]
async fn a_receiver_that_registers_again_gets_its_mailbox_within_minutes_however_long_it_was_away()
{
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let probed = receiver.pinged().len();
    relay.clock.advance(Duration::from_secs(25 * 3600));
    until("the next probe is hours away", async || {
        receiver.pinged().len() > probed && relay.queued().iter().all(|m| m.in_flight().is_some())
    })
    .await;
    is_back(&receiver);
    let tried = receiver.count();
    let worker = relay.register_receiving("one", &receiver.url()).await;
    assert_eq!(relay.read(&worker).await.state, WorkerState::Away);
    becomes_live(&relay, &worker, Duration::from_secs(900)).await;
    assert_eq!(delivered(&receiver, tried), [0]);
}

#[tokio::test]
async fn a_mailbox_that_takes_longer_than_an_invocation_is_drained_by_several() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let tried = receiver.count();
    relay.post_all(1..6).await;
    receiver.answer_ping(Answer::Status(204));
    // No attempt begins after 30 s.
    receiver.answer([Answer::Slow(Duration::from_secs(8), 200)]);
    relay.clock.advance(Duration::from_secs(60));
    receiver.wait_for(tried + 6).await;
    relay.becomes(&worker, WorkerState::Live).await;
    assert_eq!(delivered(&receiver, tried), (0..6).collect::<Vec<_>>());
    relay.settled().await;
}

#[tokio::test]
async fn a_drain_holds_up_nothing_that_came_in_its_batch() {
    let (relay, receiver, worker) = receiving().await;
    becomes_away(&relay, &receiver, &worker).await;
    let other = Receiver::start().await;
    relay.register_receiving("two", &other.url()).await;
    let later = Answer::With(429, "retry-after", "30".to_owned());
    other.answer([later, Answer::Status(200)]);
    relay.post(&issue("j", 1)).await;
    other.wait_for(1).await;
    // Two events of eight seconds.
    receiver.answer_ping(Answer::Status(204));
    receiver.answer([Answer::Slow(Duration::from_secs(8), 200)]);
    let pinged = receiver.pinged().len();
    // The drain and the retry are due at once.
    relay.pass(Duration::from_secs(200), &other, 1).await;
    until("the drain runs", async || receiver.pinged().len() > pinged).await;
    other.wait_for(2).await;
    let began = std::time::Instant::now();
    relay.post(&issue("j", 2)).await;
    other.wait_for(3).await;
    let took = began.elapsed();
    assert_eq!(numbers(&other.received()), [1, 1, 2]);
    assert!(took < Duration::from_secs(6), "{took:?}");
}
