//! After `kill -9` and a restart nothing that was answered 200 is gone, and SIGTERM drains.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use local::linear_api::LinearApi;
use local::samples::{WORKSPACE, Webhook};
use protocol::clock::Clock;
use protocol::messages::{Mailbox, Registered};
use serde_json::json;

use crate::harness::served::{Served, post};
use crate::harness::{
    Answer, Receiver, SECRET, TOKEN, eventually, issue, number, relay, sorted, terminate,
};

#[tokio::test]
async fn what_was_answered_200_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    let linear = format!("http://{address}/");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Status(500)]);
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    let pull = json!({"name": "pull", "linearToken": TOKEN});
    let mut workers = Vec::new();
    for request in [register, pull] {
        let answer = client
            .post(format!("{}/edge/register", relay.url))
            .json(&request)
            .send()
            .await
            .unwrap();
        workers.push(answer.json::<Registered>().await.unwrap());
    }
    for number in 0..30 {
        assert_eq!(post(&client, &relay.url, number).await["deliveries"], 2);
    }
    relay.kill();

    receiver.answer([Answer::Status(200)]);
    let relay = Served::start(directory.path(), &linear);
    // The one and the same event may come twice over a kill; none may be missing, and their order holds.
    let order = eventually("all thirty arrive", || async {
        let mut order: Vec<_> = receiver
            .received()
            .iter()
            .map(|r| number(&r.body))
            .collect();
        order.dedup();
        (order.len() >= 30).then_some(order)
    })
    .await;
    assert_eq!(order, (0..30).collect::<Vec<_>>());
    let mailbox = eventually("the mailbox holds all thirty", || async {
        let url = format!("{}{}/mailbox", relay.url, workers[1].worker);
        let request = client
            .post(url)
            .bearer_auth(&workers[1].token)
            .json(&json!({}));
        let mailbox: Mailbox = request.send().await.unwrap().json().await.unwrap();
        (mailbox.events.len() >= 30).then_some(mailbox)
    })
    .await;
    let numbers: Vec<_> = mailbox
        .events
        .iter()
        .map(|e| number(e.body.as_bytes()))
        .collect();
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn sigterm_finishes_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Stall(Duration::from_secs(1))]);
    let mut relay = Served::start(directory.path(), &format!("http://{address}/"));
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    client
        .post(format!("{}/edge/register", relay.url))
        .json(&register)
        .send()
        .await
        .unwrap();
    post(&client, &relay.url, 1).await;
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
    let relay = Served::start(directory.path(), &format!("http://{address}/"));
    post(&client, &relay.url, 2).await;
    let received = receiver.wait_for(2).await;
    assert_eq!(
        received.iter().map(|r| number(&r.body)).collect::<Vec<_>>(),
        [1, 2]
    );
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
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("another edge-relay")
    );
}

#[tokio::test]
async fn backoff_receive_counts_and_deduplication_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let queue = first.local.sqs.url("kept.fifo");
    let create = json!({"QueueName": "kept.fifo", "Attributes": {"FifoQueue": "true"}});
    first.sqs("CreateQueue", &create).await;
    for at in 0..3 {
        let send = json!({"QueueUrl": queue, "MessageBody": at.to_string(), "MessageGroupId": at.to_string(), "MessageDeduplicationId": at.to_string()});
        assert_eq!(first.sqs("SendMessage", &send).await.0, 200);
    }
    let receive = json!({"QueueUrl": queue, "MaxNumberOfMessages": 2, "VisibilityTimeout": 600});
    let (_, received) = first.sqs("ReceiveMessage", &receive).await;
    let handle = &received["Messages"][0]["ReceiptHandle"];
    assert_eq!(
        first
            .sqs(
                "DeleteMessage",
                &json!({"QueueUrl": queue, "ReceiptHandle": handle})
            )
            .await
            .0,
        200
    );
    first.local.stop().await;

    let second = relay().keep(directory.path()).start().await;
    let left = second.local.sqs.peek("kept.fifo").unwrap();
    assert_eq!(
        sorted(left.iter().map(|m| (m.body.as_str(), m.received))),
        [("1", 1), ("2", 0)]
    );
    let again = json!({"QueueUrl": second.local.sqs.url("kept.fifo"), "MessageBody": "0", "MessageGroupId": "0", "MessageDeduplicationId": "0"});
    assert_eq!(second.sqs("SendMessage", &again).await.0, 200);
    assert_eq!(
        second.local.sqs.peek("kept.fifo").unwrap().len(),
        2,
        "it was sent less than five minutes ago"
    );
    let (_, received) = second
        .sqs(
            "ReceiveMessage",
            &json!({"QueueUrl": queue, "MaxNumberOfMessages": 10}),
        )
        .await;
    assert_eq!(
        received["Messages"].as_array().unwrap().len(),
        1,
        "one is still invisible"
    );
}

#[tokio::test]
async fn order_holds_over_a_restart_that_found_the_queue_empty() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let worker = first.register_pull("one").await;
    for at in 0..3 {
        first.post(&issue("i", at)).await;
    }
    first.settled().await;
    first.local.stop().await;
    let second = relay().keep(directory.path()).start().await;
    // What was sent is remembered no more, and nothing is left of it on the queue.
    second.clock.advance(Duration::from_secs(600));
    for at in 3..6 {
        second.post(&issue("i", at)).await;
    }
    second.settled().await;
    let mailbox = second.pull(&worker, &[], None).await;
    let order: Vec<_> = mailbox
        .events
        .iter()
        .map(|e| number(e.body.as_bytes()))
        .collect();
    assert_eq!(order, (0..6).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_queue_whose_attributes_were_changed_does_not_keep_it_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let change = json!({
        "QueueUrl": first.local.sqs.url(local::local_relay::QUEUE),
        "Attributes": {"VisibilityTimeout": "7", "RedrivePolicy": ""},
    });
    assert_eq!(first.sqs("SetQueueAttributes", &change).await.0, 200);
    first.local.stop().await;
    let second = relay().keep(directory.path()).start().await;
    let attributes = second
        .local
        .sqs
        .attributes(local::local_relay::QUEUE)
        .unwrap();
    assert_eq!(attributes["VisibilityTimeout"], "90");
    assert!(attributes["RedrivePolicy"].contains("dead-letters"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(directory.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "the files hold secrets and events");
    }
}

#[tokio::test]
async fn what_was_answered_200_survives_a_kill_in_the_middle_of_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    let linear = format!("http://{address}/");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "pull", "linearToken": TOKEN});
    let answer = client
        .post(format!("{}/edge/register", relay.url))
        .json(&register)
        .send()
        .await
        .unwrap();
    let worker: Registered = answer.json().await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let posting: Vec<_> = (0..200)
        .map(|at| {
            let (client, url) = (client.clone(), format!("{}/webhooks/linear", relay.url));
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let webhook = Webhook::sample(
                    SECRET,
                    &issue(&format!("i{at}"), at),
                    Clock::system().millis(),
                );
                let answer = webhook.request(&client, &url).send().await;
                let accepted = answer.is_ok_and(|answer| answer.status() == 200);
                count.fetch_add(usize::from(accepted), Ordering::Relaxed);
                accepted.then_some(at)
            })
        })
        .collect();
    eventually("some were accepted", || async {
        (count.load(Ordering::Relaxed) >= 20).then_some(())
    })
    .await;
    relay.kill();
    let mut accepted = Vec::new();
    for posting in posting {
        accepted.extend(posting.await.unwrap());
    }
    assert!(
        (20..200).contains(&accepted.len()),
        "it was killed in the middle"
    );
    let relay = Served::start(directory.path(), &linear);
    let arrived = std::sync::Mutex::new(std::collections::HashSet::new());
    eventually("all that was accepted is in the mailbox", || async {
        let mut found = Vec::new();
        let mut ack = Vec::new();
        loop {
            let url = format!("{}{}/mailbox", relay.url, worker.worker);
            let request = client
                .post(url)
                .bearer_auth(&worker.token)
                .json(&json!({"ack": ack}));
            let mailbox: Mailbox = request.send().await.unwrap().json().await.unwrap();
            if mailbox.events.is_empty() {
                break;
            }
            ack = mailbox.events.iter().map(|e| e.id.clone()).collect();
            found.extend(mailbox.events.iter().map(|e| number(e.body.as_bytes())));
        }
        arrived.lock().unwrap().extend(found);
        let arrived = arrived.lock().unwrap();
        accepted.iter().all(|at| arrived.contains(at)).then_some(())
    })
    .await;
}
