//! Our SQS, over its wire: concurrent consumers, visibility, order, deduplication, redrive, moves, and its errors.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Relay, eventually, relay};

const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:";

struct Queue<'a> {
    relay: &'a Relay,
    url: String,
}

impl<'a> Queue<'a> {
    async fn create(relay: &'a Relay, name: &str, attributes: Value) -> Self {
        let mut all = json!({"FifoQueue": "true", "VisibilityTimeout": "30"});
        all.as_object_mut()
            .unwrap()
            .extend(attributes.as_object().unwrap().clone());
        let create = json!({"QueueName": name, "Attributes": all});
        let (status, answer) = relay.sqs("CreateQueue", &create).await;
        assert_eq!(status, 200, "{answer}");
        Self {
            relay,
            url: answer["QueueUrl"].as_str().unwrap().to_owned(),
        }
    }

    async fn call(&self, action: &str, request: Value) -> Value {
        let (status, answer) = self.try_call(action, request).await;
        assert_eq!(status, 200, "{action}: {answer}");
        answer
    }

    async fn try_call(&self, action: &str, mut request: Value) -> (u16, Value) {
        request["QueueUrl"] = json!(self.url);
        self.relay.sqs(action, &request).await
    }

    async fn send(&self, group: &str, body: &str) -> Value {
        let id = format!("{group}-{body}");
        let message =
            json!({"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": id});
        self.call("SendMessage", message).await
    }

    async fn receive(&self, limit: u32, more: Value) -> Vec<Value> {
        let mut request = json!({"MaxNumberOfMessages": limit, "AttributeNames": ["All"]});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = self.call("ReceiveMessage", request).await;
        answer["Messages"].as_array().cloned().unwrap_or_default()
    }

    async fn delete(&self, message: &Value) -> Value {
        self.call(
            "DeleteMessage",
            json!({"ReceiptHandle": message["ReceiptHandle"]}),
        )
        .await
    }

    async fn refuses(&self, action: &str, request: Value, name: &str) {
        let (status, answer) = self.try_call(action, request.clone()).await;
        assert_eq!(status, 400, "{request}");
        assert_eq!(
            answer["__type"],
            format!("com.amazonaws.sqs#{name}"),
            "{request}: {answer}"
        );
    }
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|m| m["Body"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_consumers_get_each_message_once_and_each_group_in_order() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "many.fifo", json!({})).await;
    for number in 0..200 {
        queue
            .send(&format!("g{}", number % 7), &format!("{number:03}"))
            .await;
    }
    let consumer = || async {
        let mut got = Vec::new();
        loop {
            let messages = queue.receive(10, json!({"WaitTimeSeconds": 1})).await;
            if messages.is_empty() {
                return got;
            }
            for message in messages {
                got.push((
                    message["Attributes"]["MessageGroupId"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                    message["Body"].as_str().unwrap().to_owned(),
                    std::time::Instant::now(),
                ));
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
    let queue = Queue::create(&relay, "blocked.fifo", json!({})).await;
    for body in ["1", "2", "3"] {
        queue.send("a", body).await;
    }
    queue.send("b", "4").await;
    let first = queue.receive(1, json!({})).await;
    assert_eq!(bodies(&first), ["1"]);
    assert_eq!(bodies(&queue.receive(10, json!({})).await), ["4"]);
    assert!(queue.receive(10, json!({})).await.is_empty());
    // Visible again at once, behind a head that stays invisible: nothing comes.
    queue.delete(&first[0]).await;
    let both = queue.receive(10, json!({})).await;
    assert_eq!(bodies(&both), ["2", "3"]);
    let visible = |message: &Value, seconds: i64| json!({"ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": seconds});
    queue
        .call("ChangeMessageVisibility", visible(&both[1], 0))
        .await;
    queue
        .call("ChangeMessageVisibility", visible(&both[0], 60))
        .await;
    assert!(queue.receive(10, json!({})).await.is_empty());
    relay.clock.advance(Duration::from_secs(59));
    assert!(
        queue
            .receive(10, json!({}))
            .await
            .iter()
            .all(|m| m["Body"] == "4")
    );
    relay.clock.advance(Duration::from_secs(2));
    let again = queue.receive(10, json!({})).await;
    assert_eq!(bodies(&again), ["2", "3"]);
    assert_eq!(again[0]["Attributes"]["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn no_message_comes_twice_within_its_visibility_and_an_old_handle_is_worth_nothing() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "visible.fifo", json!({})).await;
    queue.send("a", "1").await;
    let first = queue.receive(1, json!({"VisibilityTimeout": 10})).await;
    relay.clock.advance(Duration::from_secs(9));
    assert!(queue.receive(1, json!({})).await.is_empty());
    relay.clock.advance(Duration::from_secs(2));
    let second = queue.receive(1, json!({})).await;
    assert_eq!(second[0]["MessageId"], first[0]["MessageId"]);
    let old = json!({"ReceiptHandle": first[0]["ReceiptHandle"]});
    queue
        .refuses("DeleteMessage", old.clone(), "InvalidParameterValue")
        .await;
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
        let queue = Queue::create(&relay, name, json!({"DeduplicationScope": scope})).await;
        let send = |group: &str| json!({"MessageBody": "x", "MessageGroupId": group, "MessageDeduplicationId": "d"});
        let first = queue.call("SendMessage", send("a")).await;
        relay.clock.advance(Duration::from_secs(299));
        let again = queue.call("SendMessage", send("a")).await;
        assert_eq!(
            (&again["MessageId"], &again["SequenceNumber"]),
            (&first["MessageId"], &first["SequenceNumber"])
        );
        queue.call("SendMessage", send("b")).await;
        assert_eq!(queue.receive(10, json!({})).await.len(), others, "{scope}");
        relay.clock.advance(Duration::from_secs(2));
        let later = queue.call("SendMessage", send("a")).await;
        assert_ne!(later["MessageId"], first["MessageId"], "{scope}");
    }
}

#[tokio::test]
async fn a_message_that_is_received_too_often_is_redriven_and_can_be_moved_back() {
    let relay = relay().start().await;
    let dead = Queue::create(&relay, "dead.fifo", json!({})).await;
    let redrive =
        json!({"deadLetterTargetArn": format!("{ARN}dead.fifo"), "maxReceiveCount": 3}).to_string();
    let queue = Queue::create(&relay, "source.fifo", json!({"RedrivePolicy": redrive})).await;
    queue.send("a", "1").await;
    queue.send("a", "2").await;
    for _ in 0..3 {
        assert_eq!(
            bodies(&queue.receive(1, json!({"VisibilityTimeout": 0})).await),
            ["1"]
        );
    }
    // The fourth receive redrives it, and what was behind it comes.
    assert_eq!(bodies(&queue.receive(1, json!({})).await), ["2"]);
    let letters = dead.receive(10, json!({"VisibilityTimeout": 0})).await;
    assert_eq!(bodies(&letters), ["1"]);
    assert_eq!(
        letters[0]["Attributes"]["DeadLetterQueueSourceArn"],
        format!("{ARN}source.fifo")
    );
    let sources = dead.call("ListDeadLetterSourceQueues", json!({})).await;
    assert_eq!(sources["queueUrls"], json!([queue.url]));

    let (status, started) = relay
        .sqs(
            "StartMessageMoveTask",
            &json!({"SourceArn": format!("{ARN}dead.fifo")}),
        )
        .await;
    assert_eq!(status, 200, "{started}");
    let ended = eventually("the move has ended", || async {
        let (_, tasks) = relay
            .sqs(
                "ListMessageMoveTasks",
                &json!({"SourceArn": format!("{ARN}dead.fifo")}),
            )
            .await;
        (tasks["Results"][0]["Status"] != "RUNNING").then(|| tasks["Results"][0].clone())
    })
    .await;
    assert_eq!(
        (&ended["Status"], &ended["ApproximateNumberOfMessagesMoved"]),
        (&json!("COMPLETED"), &json!(1))
    );
    relay.clock.advance(Duration::from_secs(31));
    assert_eq!(bodies(&queue.receive(10, json!({})).await), ["2", "1"]);
    assert!(dead.receive(10, json!({})).await.is_empty());
}

#[tokio::test]
async fn a_slow_move_can_be_cancelled() {
    let relay = relay().start().await;
    let dead = Queue::create(&relay, "dead.fifo", json!({})).await;
    let redrive =
        json!({"deadLetterTargetArn": format!("{ARN}dead.fifo"), "maxReceiveCount": 3}).to_string();
    let queue = Queue::create(&relay, "source.fifo", json!({"RedrivePolicy": redrive})).await;
    for body in 0..30 {
        dead.send("a", &body.to_string()).await;
    }
    let start = json!({
        "SourceArn": format!("{ARN}dead.fifo"), "DestinationArn": format!("{ARN}source.fifo"),
        "MaxNumberOfMessagesPerSecond": 1,
    });
    let (_, started) = relay.sqs("StartMessageMoveTask", &start).await;
    let (status, twice) = relay.sqs("StartMessageMoveTask", &start).await;
    assert_eq!(
        (status, &twice["__type"]),
        (400, &json!("com.amazonaws.sqs#UnsupportedOperation"))
    );
    eventually("one has been moved", || async {
        let got = queue.receive(10, json!({"VisibilityTimeout": 0})).await;
        (!got.is_empty()).then_some(())
    })
    .await;
    let cancel = json!({"TaskHandle": started["TaskHandle"]});
    let (status, cancelled) = relay.sqs("CancelMessageMoveTask", &cancel).await;
    assert_eq!(status, 200);
    let moved = cancelled["ApproximateNumberOfMessagesMoved"]
        .as_u64()
        .unwrap();
    let left = relay.local.sqs.peek("dead.fifo").unwrap().len() as u64;
    assert!((1..30).contains(&moved));
    assert_eq!(moved + left, 30);
}

#[tokio::test]
async fn a_long_poll_ends_when_something_comes() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "poll.fifo", json!({})).await;
    let began = std::time::Instant::now();
    let (received, ()) = tokio::join!(queue.receive(1, json!({"WaitTimeSeconds": 20})), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        queue.send("a", "1").await;
    });
    assert_eq!(bodies(&received), ["1"]);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "the poll lasted to its end"
    );
}

#[tokio::test]
async fn a_message_that_is_too_old_is_gone() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "old.fifo", json!({"MessageRetentionPeriod": "60"})).await;
    queue.send("a", "1").await;
    relay.clock.advance(Duration::from_secs(61));
    queue.send("a", "2").await;
    assert_eq!(bodies(&queue.receive(10, json!({})).await), ["2"]);
}

#[tokio::test]
async fn batches_answer_for_each_entry() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "batch.fifo", json!({})).await;
    let entry = |id: &str, body: &str| {
        json!({
            "Id": id, "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": id,
            "MessageAttributes": {"kind": {"DataType": "String", "StringValue": "x"}},
        })
    };
    let sent = queue
        .call(
            "SendMessageBatch",
            json!({"Entries": [entry("a", "1"), entry("b", "\u{ffff}"), entry("c", "3")]}),
        )
        .await;
    let ids = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|e| e["Id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&sent["Successful"]), ["a", "c"]);
    assert_eq!(sent["Failed"][0]["Id"], "b");
    assert_eq!(sent["Failed"][0]["Code"], "InvalidMessageContents");
    assert_eq!(sent["Failed"][0]["SenderFault"], true);
    let received = queue
        .receive(10, json!({"MessageAttributeNames": ["All"]}))
        .await;
    assert_eq!(received[0]["MessageAttributes"]["kind"]["StringValue"], "x");
    assert_eq!(
        received[0]["MD5OfMessageAttributes"],
        sent["Successful"][0]["MD5OfMessageAttributes"]
    );
    assert_eq!(
        received[0]["MD5OfBody"],
        sent["Successful"][0]["MD5OfMessageBody"]
    );
    let handle =
        |at: usize, id: &str| json!({"Id": id, "ReceiptHandle": received[at]["ReceiptHandle"]});
    let wrong = json!({"Id": "z", "ReceiptHandle": "nonsense"});
    let deleted = queue
        .call(
            "DeleteMessageBatch",
            json!({"Entries": [handle(0, "x"), handle(1, "y"), wrong]}),
        )
        .await;
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
    let queue = Queue::create(&relay, "errors.fifo", json!({})).await;
    queue.send("a", "1").await;
    let received = queue.receive(1, json!({})).await;
    let handle = &received[0]["ReceiptHandle"];
    for line in REFUSED.trim().lines() {
        let mut parts = line.splitn(3, ' ').map(|part| part.replace("ARN:", ARN));
        let [action, name, request] = std::array::from_fn(|_| parts.next().unwrap());
        let request = serde_json::from_str(&request).unwrap();
        queue.refuses(&action, request, &name).await;
    }
    let entry = |id: &str, size: usize| {
        json!({
            "Id": id, "MessageBody": "x".repeat(size), "MessageGroupId": "g", "MessageDeduplicationId": "d",
        })
    };
    let large = 1024 * 1024;
    let mut over = entry("a", large + 1);
    over.as_object_mut().unwrap().remove("Id");
    queue
        .refuses("SendMessage", over, "InvalidParameterValue")
        .await;
    let many = (0..11).map(|at| entry(&at.to_string(), 1)).collect();
    for (entries, name) in [
        (many, "TooManyEntriesInBatchRequest"),
        (
            vec![entry("a", 1), entry("a", 1)],
            "BatchEntryIdsNotDistinct",
        ),
        (vec![entry("a b", 1)], "InvalidBatchEntryId"),
        (
            vec![entry("a", large / 2), entry("b", large / 2 + 1)],
            "BatchRequestTooLong",
        ),
    ] {
        let request = json!({"Entries": entries});
        queue.refuses("SendMessageBatch", request, name).await;
    }
    for seconds in [43_201, -1] {
        let request = json!({"ReceiptHandle": handle, "VisibilityTimeout": seconds});
        let name = "InvalidParameterValue";
        queue
            .refuses("ChangeMessageVisibility", request, name)
            .await;
    }
    let visible = json!({"ReceiptHandle": handle, "VisibilityTimeout": 0});
    queue.call("ChangeMessageVisibility", visible.clone()).await;
    queue
        .refuses("ChangeMessageVisibility", visible, "MessageNotInflight")
        .await;
    let (status, gone) = relay
        .sqs(
            "PurgeQueue",
            &json!({"QueueUrl": "http://x/000000000000/unknown.fifo"}),
        )
        .await;
    assert_eq!(
        (status, &gone["__type"]),
        (400, &json!("com.amazonaws.sqs#QueueDoesNotExist"))
    );
}

#[tokio::test]
async fn attributes_tell_how_much_there_is() {
    let relay = relay().start().await;
    let queue = Queue::create(&relay, "count.fifo", json!({})).await;
    for body in ["1", "2", "3"] {
        queue.send(body, body).await;
    }
    queue.receive(1, json!({})).await;
    let answer = queue
        .call("GetQueueAttributes", json!({"AttributeNames": ["All"]}))
        .await;
    let attributes: HashMap<String, String> =
        serde_json::from_value(answer["Attributes"].clone()).unwrap();
    assert_eq!(attributes["ApproximateNumberOfMessages"], "2");
    assert_eq!(attributes["ApproximateNumberOfMessagesNotVisible"], "1");
    assert_eq!(attributes["QueueArn"], format!("{ARN}count.fifo"));
    assert_eq!(attributes["VisibilityTimeout"], "30");
    queue.call("PurgeQueue", json!({})).await;
    assert!(queue.receive(1, json!({})).await.is_empty());
}

#[tokio::test]
async fn a_redrive_to_a_queue_that_is_not_there_leaves_the_message_where_it_is() {
    let relay = relay().start().await;
    let redrive =
        json!({"deadLetterTargetArn": format!("{ARN}unknown.fifo"), "maxReceiveCount": 1});
    let queue = Queue::create(
        &relay,
        "source.fifo",
        json!({"RedrivePolicy": redrive.to_string()}),
    )
    .await;
    queue.send("a", "1").await;
    for _ in 0..3 {
        assert_eq!(
            bodies(&queue.receive(1, json!({"VisibilityTimeout": 0})).await),
            ["1"]
        );
    }
}
