//! Groups: of the workers of a workspace with the same group, one gets each event, by ordering key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::messages::{Renew, WorkerState};
use reqwest::Method;
use serde_json::json;

use crate::harness::{
    Answer, Receiver, Registration, Relay, TOKEN, ids, issue, numbers, pulled, relay,
};

/// Registers a pull worker with this name in a group.
async fn member(relay: &Relay, name: &str, group: &str) -> Registration {
    let request = json!({"name": name, "linearToken": TOKEN, "group": group});
    relay.register_as(request).await
}

/// The numbers of the events in a worker's mailbox, which is empty afterwards.
async fn got(relay: &Relay, worker: &Registration) -> Vec<usize> {
    let mut numbers = Vec::new();
    loop {
        let mailbox = relay.pull(worker, &[], None).await;
        if mailbox.events.is_empty() {
            return numbers;
        }
        numbers.extend(pulled(&mailbox));
        relay.pull(worker, &ids(&mailbox), None).await;
    }
}

#[tokio::test]
async fn with_many_groups_a_webhook_is_answered_within_linears_patience() {
    const GROUPS: usize = 120;
    let is_slow = Arc::new(AtomicBool::new(false));
    let relay = relay()
        .set("WORKERS_PER_USER", GROUPS)
        .set("REGISTRATIONS_PER_MINUTE", GROUPS)
        .slow_while(Arc::clone(&is_slow), "ingest", Duration::from_millis(100));
    let relay = relay.start().await;
    for group in 0..GROUPS {
        member(&relay, &format!("of {group}"), &format!("group-{group}")).await;
    }
    is_slow.store(true, Ordering::Relaxed);
    // A call for each group, one group after another, would take twelve seconds.
    let posted = relay.post(&issue("i", 0)).await;
    assert_eq!(posted.answer["deliveries"], GROUPS);
    relay.settled().await;
    relay.local.calls.take();
    let posted = relay.post(&issue("i", 1)).await;
    assert_eq!(posted.answer["deliveries"], GROUPS);
    relay.settled().await;
    let calls = relay.local.calls.take();
    assert_eq!(calls["GetItem"], 1, "for the marker");
    // `deliver` makes one for each of its batches.
    assert_eq!(calls["BatchGetItem"], 2 + calls["DeleteMessageBatch"]);
}

#[tokio::test]
async fn one_of_a_group_gets_each_event_and_always_the_same_one_of_an_issue() {
    let relay = relay().start().await;
    let workers = [
        member(&relay, "one", "cyrus").await,
        member(&relay, "two", "cyrus").await,
        member(&relay, "three", "cyrus").await,
    ];
    let (other, alone) = (
        member(&relay, "other", "another").await,
        relay.register_pull("alone").await,
    );
    for number in 0..60 {
        let posted = relay
            .post(&issue(&format!("i{}", number % 20), number))
            .await;
        assert_eq!(posted.answer["deliveries"], 3);
    }
    relay.settled().await;
    let mut of_issue = BTreeMap::new();
    let mut total = 0;
    for (at, worker) in workers.iter().enumerate() {
        let got = got(&relay, worker).await;
        assert!((3..=45).contains(&got.len()), "{at}: {}", got.len());
        total += got.len();
        for number in got {
            let first = *of_issue.entry(number % 20).or_insert(at);
            assert_eq!(first, at, "issue {}", number % 20);
        }
    }
    assert_eq!(total, 60);
    let all: Vec<_> = (0..60).collect();
    assert_eq!(got(&relay, &other).await, all);
    assert_eq!(got(&relay, &alone).await, all);
}

#[tokio::test]
async fn events_of_a_new_issue_that_come_at_once_go_to_one_worker() {
    let relay = relay().start().await;
    let workers = [
        member(&relay, "one", "g").await,
        member(&relay, "two", "g").await,
    ];
    let post = async |number: usize| {
        relay.post(&issue("i", number)).await;
    };
    futures::future::join_all((0..20).map(post)).await;
    relay.settled().await;
    let mut counts = Vec::new();
    for worker in &workers {
        counts.push(got(&relay, worker).await.len());
    }
    counts.sort_unstable();
    assert_eq!(counts, [0, 20]);
}

#[tokio::test]
async fn an_issue_moves_only_when_its_worker_is_removed() {
    let relay = relay().start().await;
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    let register = async |name: &str, receiver: &Receiver| {
        let request = json!({
            "name": name, "linearToken": TOKEN, "group": "g", "webhookUrl": receiver.url(),
            "pulls": true,
        });
        relay.register_as(request).await
    };
    let workers = [register("one", &one).await, register("two", &two).await];
    relay.post(&issue("i", 0)).await;
    relay.settled().await;
    let owner = usize::from(two.count() == 1);
    // It goes away, and its issue waits for it.
    relay.go_offline(&workers[owner]).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    assert_eq!(one.count() + two.count(), 1);
    // New issues prefer the other one.
    for at in 0..10 {
        relay.post(&issue(&format!("new {at}"), 100 + at)).await;
    }
    relay.settled().await;
    assert_eq!([&one, &two][1 - owner].count(), 10);
    assert_eq!(got(&relay, &workers[owner]).await, [1]);
    // It is back, and gets new ones, too.
    for at in 0..20 {
        relay.post(&issue(&format!("newer {at}"), 200 + at)).await;
    }
    relay.settled().await;
    assert!([&one, &two][owner].count() > 1);
    relay.remove(&workers[owner]).await;
    relay.post(&issue("i", 2)).await;
    relay.settled().await;
    let received = numbers(&[&one, &two][1 - owner].received());
    assert_eq!(received.last(), Some(&2));
}

#[tokio::test]
async fn an_issue_moves_after_a_failover_if_there_is_one() {
    let relay = relay().set("GROUP_FAILOVER_SECONDS", 600).start().await;
    let receiver = Receiver::start().await;
    let request = json!({
        "name": "one", "linearToken": TOKEN, "group": "g", "webhookUrl": receiver.url(),
        "pulls": true,
    });
    let first = relay.register_as(request).await;
    relay.post(&issue("i", 0)).await;
    receiver.wait_for(1).await;
    let second = member(&relay, "two", "g").await;
    receiver.answer([Answer::Status(502)]);
    relay.go_offline(&first).await;
    relay.post(&issue("i", 1)).await;
    relay.clock.advance(Duration::from_secs(601));
    relay.post(&issue("i", 2)).await;
    relay.settled().await;
    assert_eq!(got(&relay, &second).await, [2]);
    assert_eq!(got(&relay, &first).await, [1]);
    // It stays there.
    relay.post(&issue("i", 3)).await;
    relay.settled().await;
    assert_eq!(got(&relay, &second).await, [3]);
}

#[tokio::test]
async fn without_a_group_nothing_is_asked_for_it_and_with_one_a_read_for_each_event() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    let asked = async |number: usize| {
        relay.settled().await;
        relay.local.calls.take();
        relay.post(&issue("i", number)).await;
        relay.settled().await;
        let calls = relay.local.calls.take();
        ["GetItem", "BatchGetItem", "PutItem"]
            .map(|action| calls.get(action).copied().unwrap_or_default())
    };
    asked(0).await;
    // The marker is read and written, and `deliver` reads the worker.
    assert_eq!(asked(1).await, [1, 1, 1]);
    let join = |group: Option<&str>| Renew {
        group: Some(group.map(str::to_owned)),
        ..Renew::default()
    };
    let joined = relay.renew(&worker, &join(Some("g"))).await;
    assert_eq!(joined.group.as_deref(), Some("g"));
    assert_eq!(asked(2).await, [1, 2, 2], "a new key is given");
    assert_eq!(asked(3).await, [1, 2, 1], "and then read");
    assert_eq!(relay.renew(&worker, &join(None)).await.group, None);
    assert_eq!(asked(4).await, [1, 1, 1]);
    assert_eq!(relay.read(&worker).await.state, WorkerState::Pull);
    let call = (Method::PUT, worker.path.as_str());
    let body = json!({"group": "two words"});
    let expected = (400, "invalid_request");
    relay
        .refuses(call, Some(&worker.token), &body, expected)
        .await;
}
