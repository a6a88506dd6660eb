//! Our SQS, over its wire: concurrent consumers, visibility, order, deduplication, redrive, moves, and its errors.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::sqs::{Queue, message, redrive};
use crate::harness::template::arn;
use crate::harness::{eventually, relay, until};

/// The call has to be refused with SQS's error of this name.
async fn refuses(queue: &Queue, action: &str, request: Value, name: &str) {
    let name = format!("com.amazonaws.sqs#{name}");
    queue.refuses(action, request, &[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_consumers_get_each_message_once_and_each_group_in_order() {
    let relay = relay().start().await;
    let queue = relay.queue("many.fifo", json!({})).await;
    for number in 0..200 {
        let group = format!("g{}", number % 7);
        queue.send(&group, &format!("{number:03}")).await;
    }
    let consumer = || async {
        let mut got = Vec::new();
        loop {
            let messages = queue.receive_with(10, json!({"WaitTimeSeconds": 1})).await;
            if messages.is_empty() {
                return got;
            }
            for message in messages {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let group = text(&message["Attributes"]["MessageGroupId"]);
                got.push((group, text(&message["Body"]), Instant::now()));
                tokio::task::yield_now().await;
                queue.delete(&message).await;
            }
        }
    };
    let mut got = futures::future::join_all((0..8).map(|_| consumer()))
        .await
        .concat();
    assert_eq!(got.len(), 200, "none twice, none missing");
    got.sort_by_key(|(_, _, at)| *at);
    let mut by_group: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (group, body, _) in got {
        by_group.entry(group).or_default().push(body);
    }
    for (group, bodies) in by_group {
        assert!(bodies.is_sorted(), "{group}: {bodies:?}");
    }
}

#[tokio::test]
async fn a_group_is_blocked_while_one_of_it_is_in_flight() {
    let relay = relay().start().await;
    let queue = relay.queue("blocked.fifo", json!({})).await;
    queue.send_all("a", &["1", "2", "3"]).await;
    queue.send("b", "4").await;
    let first = queue.receives(1, &["1"]).await;
    queue.receives(10, &["4"]).await;
    queue.receives(10, &[]).await;
    // Visible again at once, behind a head that stays invisible: nothing comes.
    queue.delete(&first[0]).await;
    let both = queue.receives(10, &["2", "3"]).await;
    queue.hide(&both[1], 0).await;
    queue.hide(&both[0], 60).await;
    queue.receives(10, &[]).await;
    relay.clock.advance(Duration::from_secs(59));
    let others = queue.receive(10).await;
    assert!(others.iter().all(|m| m["Body"] == "4"));
    relay.clock.advance(Duration::from_secs(2));
    let again = queue.receives(10, &["2", "3"]).await;
    assert_eq!(again[0]["Attributes"]["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn no_message_comes_twice_within_its_visibility_and_an_old_handle_is_worth_nothing() {
    let relay = relay().start().await;
    let queue = relay.queue("visible.fifo", json!({})).await;
    queue.send("a", "1").await;
    let hidden = json!({"VisibilityTimeout": 10});
    let first = queue.receive_with(1, hidden).await;
    relay.clock.advance(Duration::from_secs(9));
    queue.receives(1, &[]).await;
    relay.clock.advance(Duration::from_secs(2));
    let second = queue.receive(1).await;
    assert_eq!(second[0]["MessageId"], first[0]["MessageId"]);
    let old = json!({"ReceiptHandle": first[0]["ReceiptHandle"]});
    let (action, again) = ("DeleteMessage", old.clone());
    refuses(&queue, action, again, "InvalidParameterValue").await;
    queue.delete(&second[0]).await;
    // Deleted already: no error, whichever handle.
    queue.delete(&second[0]).await;
    queue.call("DeleteMessage", old).await;
}

#[tokio::test]
async fn a_deduplication_id_is_taken_once_in_five_minutes() {
    let relay = relay().start().await;
    for (name, scope, others) in [
        ("queue.fifo", "queue", 1),
        ("group.fifo", "messageGroup", 2),
    ] {
        let scoped = json!({"DeduplicationScope": scope});
        let queue = relay.queue(name, scoped).await;
        let send = |group: &str| message(group, "d", "x");
        let ids = |sent: &Value| [sent["MessageId"].clone(), sent["SequenceNumber"].clone()];
        let first = queue.call("SendMessage", send("a")).await;
        relay.clock.advance(Duration::from_secs(299));
        let again = queue.call("SendMessage", send("a")).await;
        assert_eq!(ids(&again), ids(&first));
        queue.call("SendMessage", send("b")).await;
        assert_eq!(queue.receive(10).await.len(), others, "{scope}");
        relay.clock.advance(Duration::from_secs(2));
        let later = queue.call("SendMessage", send("a")).await;
        assert_ne!(later["MessageId"], first["MessageId"], "{scope}");
    }
}

#[tokio::test]
async fn a_message_that_is_received_too_often_is_redriven_and_can_be_moved_back() {
    let relay = relay().start().await;
    let dead = relay.queue("dead.fifo", json!({})).await;
    let redrive = redrive(&arn("dead.fifo"), 3);
    let queue = relay.queue("source.fifo", redrive).await;
    queue.send("a", "1").await;
    queue.send("a", "2").await;
    for _ in 0..3 {
        queue.peeks(1, &["1"]).await;
    }
    // The fourth receive redrives it, and what was behind it comes.
    queue.receives(1, &["2"]).await;
    let letters = dead.peeks(10, &["1"]).await;
    let source = &letters[0]["Attributes"]["DeadLetterQueueSourceArn"];
    assert_eq!(*source, arn("source.fifo"));
    let sources = dead.call("ListDeadLetterSourceQueues", json!({})).await;
    assert_eq!(sources["queueUrls"], json!([queue.url]));

    let source = json!({"SourceArn": arn("dead.fifo")});
    let (status, started) = relay.sqs("StartMessageMoveTask", &source).await;
    assert_eq!(status, 200, "{started}");
    let ended = eventually("the move has ended", || async {
        let (_, tasks) = relay.sqs("ListMessageMoveTasks", &source).await;
        (tasks["Results"][0]["Status"] != "RUNNING").then(|| tasks["Results"][0].clone())
    })
    .await;
    assert_eq!(ended["Status"], "COMPLETED");
    assert_eq!(ended["ApproximateNumberOfMessagesMoved"], 1);
    relay.clock.advance(Duration::from_secs(31));
    queue.receives(10, &["2", "1"]).await;
    dead.receives(10, &[]).await;
}

#[tokio::test]
async fn a_slow_move_can_be_cancelled() {
    let relay = relay().start().await;
    let dead = relay.queue("dead.fifo", json!({})).await;
    let redrive = redrive(&arn("dead.fifo"), 3);
    let queue = relay.queue("source.fifo", redrive).await;
    for body in 0..30 {
        dead.send("a", &body.to_string()).await;
    }
    let start = json!({
        "SourceArn": arn("dead.fifo"), "DestinationArn": arn("source.fifo"),
        "MaxNumberOfMessagesPerSecond": 1,
    });
    let (_, started) = relay.sqs("StartMessageMoveTask", &start).await;
    let action = "StartMessageMoveTask";
    refuses(&queue, action, start, "UnsupportedOperation").await;
    let at_once = json!({"VisibilityTimeout": 0});
    until("one has been moved", async || {
        !queue.receive_with(10, at_once.clone()).await.is_empty()
    })
    .await;
    let cancel = json!({"TaskHandle": started["TaskHandle"]});
    let (status, cancelled) = relay.sqs("CancelMessageMoveTask", &cancel).await;
    assert_eq!(status, 200);
    let moved = cancelled["ApproximateNumberOfMessagesMoved"].as_u64();
    let moved = moved.unwrap();
    let left = relay.local.sqs.peek("dead.fifo").unwrap().len() as u64;
    assert!((1..30).contains(&moved));
    assert_eq!(moved + left, 30);
}

#[tokio::test]
async fn a_long_poll_ends_when_something_comes() {
    let relay = relay().start().await;
    let queue = relay.queue("poll.fifo", json!({})).await;
    let empty = relay.queue("poll-empty.fifo", json!({})).await;
    let wait = json!({"WaitTimeSeconds": 20});
    let comes = async {
        tokio::join!(queue.receives_with(1, wait.clone(), &["1"]), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            queue.send("a", "1").await;
        })
    };
    tokio::select! {
        _ = comes => {}
        _ = empty.receive_with(1, wait.clone()) => panic!("the poll lasted to its end"),
    }
}

#[tokio::test]
async fn a_message_that_is_too_old_is_gone() {
    let relay = relay().start().await;
    let kept = json!({"MessageRetentionPeriod": "60"});
    let queue = relay.queue("old.fifo", kept).await;
    queue.send("a", "1").await;
    relay.clock.advance(Duration::from_secs(61));
    queue.send("a", "2").await;
    queue.receives(10, &["2"]).await;
}

#[tokio::test]
async fn batches_answer_for_each_entry() {
    let relay = relay().start().await;
    let queue = relay.queue("batch.fifo", json!({})).await;
    let entry = |id: &str, body: &str| {
        json!({
            "Id": id, "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": id,
            "MessageAttributes": {"kind": {"DataType": "String", "StringValue": "x"}},
        })
    };
    let entries = json!({"Entries": [entry("a", "1"), entry("b", "\u{ffff}"), entry("c", "3")]});
    let sent = queue.call("SendMessageBatch", entries).await;
    let ids = |list: &Value| -> Vec<Value> {
        let entries = list.as_array().unwrap().iter();
        entries.map(|e| e["Id"].clone()).collect()
    };
    assert_eq!(ids(&sent["Successful"]), ["a", "c"]);
    assert_eq!(sent["Failed"][0]["Id"], "b");
    assert_eq!(sent["Failed"][0]["Code"], "InvalidMessageContents");
    assert_eq!(sent["Failed"][0]["SenderFault"], true);
    let received = queue.receive(10).await;
    let (came, went) = (&received[0], &sent["Successful"][0]);
    assert_eq!(came["MessageAttributes"]["kind"]["StringValue"], "x");
    assert_eq!(
        came["MD5OfMessageAttributes"],
        went["MD5OfMessageAttributes"]
    );
    assert_eq!(came["MD5OfBody"], went["MD5OfMessageBody"]);
    let handle =
        |at: usize, id: &str| json!({"Id": id, "ReceiptHandle": received[at]["ReceiptHandle"]});
    let wrong = json!({"Id": "z", "ReceiptHandle": "nonsense"});
    let entries = json!({"Entries": [handle(0, "x"), handle(1, "y"), wrong]});
    let deleted = queue.call("DeleteMessageBatch", entries).await;
    assert_eq!(ids(&deleted["Successful"]), ["x", "y"]);
    assert_eq!(deleted["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
}

/// An action, the error that it gets, and the request.
const REFUSED: &str = r#"
SendMessage MissingParameter {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
SendMessage MissingParameter {"MessageBody": "x", "MessageDeduplicationId": "d"}
SendMessage InvalidParameterValue {"MessageBody": "x", "MessageGroupId": "g"}
SendMessage InvalidMessageContents {"MessageBody": "\u0001", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
SendMessageBatch EmptyBatchRequest {"Entries": []}
ReceiveMessage InvalidParameterValue {"MaxNumberOfMessages": 11}
ReceiveMessage InvalidParameterValue {"MaxNumberOfMessages": 0}
ReceiveMessage InvalidParameterValue {"WaitTimeSeconds": 21}
ReceiveMessage InvalidParameterValue {"VisibilityTimeout": 43201}
ReceiveMessage SerializationException {"MaxNumberOfMessages": "many"}
DeleteMessage ReceiptHandleIsInvalid {"ReceiptHandle": "nonsense"}
DeleteMessage MissingParameter {}
SetQueueAttributes InvalidAttributeValue {"Attributes": {"VisibilityTimeout": "never"}}
SetQueueAttributes InvalidAttributeName {"Attributes": {"Colour": "blue"}}
CreateQueue InvalidParameterValue {"QueueName": "standard"}
CreateQueue QueueNameExists {"QueueName": "errors.fifo", "Attributes": {"FifoQueue": "true"}}
GetQueueUrl QueueDoesNotExist {"QueueName": "unknown.fifo"}
StartMessageMoveTask ResourceNotFoundException {"SourceArn": "ARN:unknown.fifo"}
StartMessageMoveTask InvalidParameterValue {"SourceArn": "ARN:errors.fifo"}
CancelMessageMoveTask ResourceNotFoundException {"TaskHandle": "unknown"}
TagQueue UnknownOperationException {}
"#;

#[tokio::test]
async fn wrong_calls_get_sqss_own_errors() {
    let relay = relay().start().await;
    let queue = relay.queue("errors.fifo", json!({})).await;
    queue.send("a", "1").await;
    let received = queue.receive(1).await;
    let handle = &received[0]["ReceiptHandle"];
    for line in REFUSED.trim().lines() {
        let mut parts = line
            .splitn(3, ' ')
            .map(|part| part.replace("ARN:", &arn("")));
        let [action, name, request] = std::array::from_fn(|_| parts.next().unwrap());
        let request = serde_json::from_str(&request).unwrap();
        refuses(&queue, &action, request, &name).await;
    }
    let entry = |id: &str, size: usize| {
        let mut entry = message("g", "d", &"x".repeat(size));
        entry["Id"] = json!(id);
        entry
    };
    let large = 1024 * 1024;
    let over = message("g", "d", &"x".repeat(large + 1));
    refuses(&queue, "SendMessage", over, "InvalidParameterValue").await;
    let many = (0..11).map(|at| entry(&at.to_string(), 1)).collect();
    let alike = vec![entry("a", 1), entry("a", 1)];
    let long = vec![entry("a", large / 2), entry("b", large / 2 + 1)];
    for (entries, name) in [
        (many, "TooManyEntriesInBatchRequest"),
        (alike, "BatchEntryIdsNotDistinct"),
        (vec![entry("a b", 1)], "InvalidBatchEntryId"),
        (long, "BatchRequestTooLong"),
    ] {
        let request = json!({"Entries": entries});
        refuses(&queue, "SendMessageBatch", request, name).await;
    }
    let change = "ChangeMessageVisibility";
    for seconds in [43_201, -1] {
        let request = json!({"ReceiptHandle": handle, "VisibilityTimeout": seconds});
        refuses(&queue, change, request, "InvalidParameterValue").await;
    }
    let visible = json!({"ReceiptHandle": handle, "VisibilityTimeout": 0});
    queue.call(change, visible.clone()).await;
    refuses(&queue, change, visible, "MessageNotInflight").await;
    let unknown = json!({"QueueUrl": "http://x/000000000000/unknown.fifo"});
    let (status, gone) = relay.sqs("PurgeQueue", &unknown).await;
    assert_eq!(status, 400);
    assert_eq!(gone["__type"], "com.amazonaws.sqs#QueueDoesNotExist");
}

#[tokio::test]
async fn attributes_tell_how_much_there_is() {
    let relay = relay().start().await;
    let queue = relay.queue("count.fifo", json!({})).await;
    for body in ["1", "2", "3"] {
        queue.send(body, body).await;
    }
    queue.receive(1).await;
    let all = json!({"AttributeNames": ["All"]});
    let answer = queue.call("GetQueueAttributes", all).await;
    let attributes: HashMap<String, String> =
        serde_json::from_value(answer["Attributes"].clone()).unwrap();
    assert_eq!(attributes["ApproximateNumberOfMessages"], "2");
    assert_eq!(attributes["ApproximateNumberOfMessagesNotVisible"], "1");
    assert_eq!(attributes["QueueArn"], arn("count.fifo"));
    assert_eq!(attributes["VisibilityTimeout"], "30");
    queue.call("PurgeQueue", json!({})).await;
    queue.receives(1, &[]).await;
}

#[tokio::test]
async fn a_redrive_to_a_queue_that_is_not_there_leaves_the_message_where_it_is() {
    let relay = relay().start().await;
    let redrive = redrive(&arn("unknown.fifo"), 1);
    let queue = relay.queue("source.fifo", redrive).await;
    queue.send("a", "1").await;
    for _ in 0..3 {
        queue.peeks(1, &["1"]).await;
    }
}
