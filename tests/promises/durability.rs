//! After `kill -9` and a restart nothing that was answered 200 is gone, and SIGTERM drains.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use local::local_relay::QUEUE;
use local::samples::Webhook;
use protocol::clock::Clock;
use protocol::messages::Registered;
use serde_json::{Value, json};

use crate::harness::served::Served;
use crate::harness::{Answer, Receiver, SECRET, TOKEN, eventually, ids, issue, linear};
use crate::harness::{numbers, pulled, relay, sorted, terminate, until};

#[tokio::test]
async fn what_was_answered_200_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Status(500)]);
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    let pull = json!({"name": "pull", "linearToken": TOKEN});
    let _: Registered = relay.register(&register).await;
    let worker: Registered = relay.register(&pull).await;
    for number in 0..30 {
        assert_eq!(relay.post(number).await["deliveries"], 2);
    }
    relay.kill();

    receiver.answer([Answer::Status(200)]);
    let relay = Served::start(directory.path(), &linear);
    // The one and the same event may come twice over a kill; none may be missing, and their order holds.
    let order = eventually("all thirty arrive", || async {
        let mut order = numbers(&receiver.received());
        order.dedup();
        (order.len() >= 30).then_some(order)
    })
    .await;
    assert_eq!(order, (0..30).collect::<Vec<_>>());
    let mailbox = eventually("the mailbox holds all thirty", || async {
        let mailbox = relay.pull(&worker, &json!({})).await;
        (mailbox.events.len() >= 30).then_some(mailbox)
    })
    .await;
    assert_eq!(pulled(&mailbox), (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn sigterm_finishes_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Stall(Duration::from_secs(1))]);
    let mut relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    let _: Value = relay.register(&register).await;
    relay.post(1).await;
    receiver.wait_for(1).await;
    terminate(relay.child.id());
    let status = tokio::task::spawn_blocking(move || {
        let status = relay.child.wait().unwrap();
        drop(relay);
        status
    })
    .await
    .unwrap();
    assert_eq!(status.code(), Some(0));
    // It waited for the answer and deleted the message: nothing comes again.
    let relay = Served::start(directory.path(), &linear);
    relay.post(2).await;
    let received = receiver.wait_for(2).await;
    assert_eq!(numbers(&received), [1, 2]);
}

#[tokio::test]
async fn two_relays_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _first = relay().keep(directory.path()).start().await;
    let output = Command::new(env!("CARGO_BIN_EXE_edge"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(directory.path())
        .env("LINEAR_WEBHOOK_SECRETS", SECRET)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another edge-relay"));
}

#[tokio::test]
async fn backoff_receive_counts_and_deduplication_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let queue = first.queue("kept.fifo", json!({})).await;
    for at in ["0", "1", "2"] {
        queue.send(at, at).await;
    }
    let hidden = json!({"VisibilityTimeout": 600});
    let received = queue.receives_with(2, hidden, &["0", "1"]).await;
    queue.delete(&received[0]).await;
    first.local.stop().await;

    let second = relay().keep(directory.path()).start().await;
    let left = second.local.sqs.peek("kept.fifo").unwrap();
    let left = sorted(left.iter().map(|m| (m.body.as_str(), m.received)));
    assert_eq!(left, [("1", 1), ("2", 0)]);
    let queue = second.queue("kept.fifo", json!({})).await;
    // It was sent less than five minutes ago.
    queue.send("0", "0").await;
    assert_eq!(second.local.sqs.peek("kept.fifo").unwrap().len(), 2);
    // The other one is still invisible.
    queue.receives(10, &["2"]).await;
}

#[tokio::test]
async fn order_holds_over_a_restart_that_found_the_queue_empty() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let worker = first.register_pull("one").await;
    first.post_all(0..3).await;
    first.settled().await;
    first.local.stop().await;
    let second = relay().keep(directory.path()).start().await;
    // What was sent is remembered no more, and nothing is left of it on the queue.
    second.clock.advance(Duration::from_secs(600));
    second.post_all(3..6).await;
    second.settled().await;
    let mailbox = second.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_queue_whose_attributes_were_changed_does_not_keep_it_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let change = json!({
        "QueueUrl": first.local.sqs.url(QUEUE),
        "Attributes": {"VisibilityTimeout": "7", "RedrivePolicy": ""},
    });
    assert_eq!(first.sqs("SetQueueAttributes", &change).await.0, 200);
    first.local.stop().await;
    let second = relay().keep(directory.path()).start().await;
    let attributes = second.local.sqs.attributes(QUEUE).unwrap();
    assert_eq!(attributes["VisibilityTimeout"], "360");
    assert!(attributes["RedrivePolicy"].contains("dead-letters"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(directory.path()).unwrap();
        let mode = metadata.permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "the files hold secrets and events");
    }
}

#[tokio::test]
async fn what_was_answered_200_survives_a_kill_in_the_middle_of_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "pull", "linearToken": TOKEN});
    let worker: Registered = relay.register(&register).await;
    let count = Arc::new(AtomicUsize::new(0));
    let posting: Vec<_> = (0..200)
        .map(|at| {
            let url = format!("{}/webhooks/linear", relay.url);
            let (client, count) = (relay.client.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let issue = issue(&format!("i{at}"), at);
                let webhook = Webhook::sample(SECRET, &issue, Clock::system().millis());
                let answer = webhook.request(&client, &url).send().await;
                let accepted = answer.is_ok_and(|answer| answer.status() == 200);
                count.fetch_add(usize::from(accepted), Ordering::Relaxed);
                accepted.then_some(at)
            })
        })
        .collect();
    let are_some = async || count.load(Ordering::Relaxed) >= 20;
    until("some were accepted", are_some).await;
    relay.kill();
    let mut accepted = Vec::new();
    for posting in posting {
        accepted.extend(posting.await.unwrap());
    }
    // It was killed in the middle.
    assert!((20..200).contains(&accepted.len()), "{accepted:?}");
    let relay = Served::start(directory.path(), &linear);
    let arrived = Mutex::new(HashSet::new());
    until("all that was accepted is in the mailbox", async || {
        let mut ack = Vec::new();
        loop {
            let mailbox = relay.pull(&worker, &json!({"ack": ack})).await;
            if mailbox.events.is_empty() {
                break;
            }
            ack = ids(&mailbox);
            arrived.lock().unwrap().extend(pulled(&mailbox));
        }
        let arrived = arrived.lock().unwrap();
        accepted.iter().all(|at| arrived.contains(at))
    })
    .await;
}
