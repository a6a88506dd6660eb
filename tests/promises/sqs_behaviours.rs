//! The behaviours of SQS that the relay and its operator build on, asked of ours and of two implementations that are
//! not ours: where those two agree and ours differs, ours is wrong.
//!
//! Source: the SQS Developer Guide and API Reference.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::{Duration, Instant};

use local::access_key::AccessKey;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::agent::free_port;
use crate::harness::emulator::{Emulator, serve};
use crate::harness::relay;
use crate::harness::sqs::{Sqs, message, redrive};

fn entry(id: &str, group: &str, body: &str) -> Value {
    let mut entry = message(group, &format!("{group}-{body}"), body);
    entry["Id"] = json!(id);
    entry
}

fn text_attribute(value: &str) -> Value {
    json!({"DataType": "String", "StringValue": value})
}

macro_rules! behaviours {
    ($($name:ident ($sqs:ident) $body:block)+) => {
        $(async fn $name($sqs: Sqs) $body)+

        type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

        const BEHAVIOURS: &[(&str, fn(Sqs) -> Asked)] =
            &[$((stringify!($name), |sqs| Box::pin($name(sqs)))),+];
    };
}

behaviours! {
    a_group_comes_in_order (sqs) {
        let queue = sqs.queue("order.fifo", json!({})).await;
        queue.send_all("a", &["1", "2", "3"]).await;
        queue.receives(10, &["1", "2", "3"]).await;
    }

    a_group_waits_while_one_of_it_is_in_flight (sqs) {
        let queue = sqs.queue("blocked.fifo", json!({})).await;
        queue.send_all("a", &["1", "2"]).await;
        let first = queue.receives(1, &["1"]).await;
        queue.receives(10, &[]).await;
        queue.delete(&first[0]).await;
        queue.receives(10, &["2"]).await;
    }

    other_groups_go_on_meanwhile (sqs) {
        let queue = sqs.queue("others.fifo", json!({})).await;
        queue.send("a", "1").await;
        queue.send("a", "2").await;
        queue.send("b", "3").await;
        queue.receives(1, &["1"]).await;
        queue.receives(10, &["3"]).await;
    }

    a_message_sent_twice_is_there_once (sqs) {
        let queue = sqs.queue("twice.fifo", json!({})).await;
        let first = queue.send("a", "1").await;
        let second = queue.send("a", "1").await;
        assert!(first["MessageId"] == second["MessageId"], "another id: {first} {second}");
        assert!(first["SequenceNumber"] == second["SequenceNumber"], "another number");
        queue.receives(10, &["1"]).await;
    }

    it_is_known_after_it_was_deleted_too (sqs) {
        let queue = sqs.queue("deleted.fifo", json!({})).await;
        queue.send("a", "1").await;
        let received = queue.receives(1, &["1"]).await;
        queue.delete(&received[0]).await;
        queue.send("a", "1").await;
        queue.receives(10, &[]).await;
    }

    in_high_throughput_mode_two_groups_may_have_the_same_deduplication_id (sqs) {
        let fast = json!({"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"});
        let queue = sqs.queue("scope.fifo", fast).await;
        for group in ["a", "b"] {
            let message = message(group, "same", group);
            queue.call("SendMessage", message).await;
        }
        queue.receives(10, &["a", "b"]).await;
    }

    content_can_stand_for_the_deduplication_id (sqs) {
        let queue = sqs.queue("content.fifo", json!({"ContentBasedDeduplication": "true"})).await;
        for _ in 0..2 {
            queue.call("SendMessage", json!({"MessageBody": "1", "MessageGroupId": "a"})).await;
        }
        queue.receives(10, &["1"]).await;
    }

    without_it_the_deduplication_id_is_needed (sqs) {
        let queue = sqs.queue("needed.fifo", json!({})).await;
        let message = json!({"MessageBody": "1", "MessageGroupId": "a"});
        queue.refuses("SendMessage", message, &["InvalidParameterValue", "InvalidParameterValueException"]).await;
    }

    the_group_is_needed (sqs) {
        let queue = sqs.queue("group.fifo", json!({})).await;
        let message = json!({"MessageBody": "1", "MessageDeduplicationId": "1"});
        queue.refuses("SendMessage", message, &["MissingParameter", "MissingRequiredParameterException"]).await;
    }

    what_is_not_deleted_comes_back_and_is_counted (sqs) {
        let queue = sqs.queue("back.fifo", json!({"VisibilityTimeout": "1"})).await;
        queue.send("a", "1").await;
        let first = queue.receives(1, &["1"]).await;
        tokio::time::sleep(Duration::from_millis(1300)).await;
        let second = queue.receives(1, &["1"]).await;
        let count = |m: &Value| m["Attributes"]["ApproximateReceiveCount"].clone();
        assert!(count(&first[0]) == "1" && count(&second[0]) == "2", "{first:?} {second:?}");
        assert!(first[0]["ReceiptHandle"] != second[0]["ReceiptHandle"], "the same handle");
        assert!(first[0]["MessageId"] == second[0]["MessageId"], "another message");
    }

    visibility_can_be_ended_at_once (sqs) {
        let queue = sqs.queue("ended.fifo", json!({})).await;
        queue.send_all("a", &["1", "2"]).await;
        let both = queue.receives(2, &["1", "2"]).await;
        queue.hide(&both[0], 0).await;
        queue.hide(&both[1], 0).await;
        queue.receives(10, &["1", "2"]).await;
    }

    the_head_that_waits_blocks_what_was_handed_back_behind_it (sqs) {
        let queue = sqs.queue("head.fifo", json!({})).await;
        queue.send_all("a", &["1", "2"]).await;
        let both = queue.receives(2, &["1", "2"]).await;
        queue.hide(&both[1], 0).await;
        queue.receives(10, &[]).await;
        queue.hide(&both[0], 0).await;
        queue.receives(10, &["1", "2"]).await;
    }

    visibility_can_be_changed_in_a_batch (sqs) {
        let queue = sqs.queue("batch-visibility.fifo", json!({})).await;
        queue.send("a", "1").await;
        let received = queue.receives(1, &["1"]).await;
        let entries = json!({"Entries": [
            {"Id": "0", "ReceiptHandle": received[0]["ReceiptHandle"], "VisibilityTimeout": 0},
            {"Id": "1", "ReceiptHandle": "junk", "VisibilityTimeout": 0},
        ]});
        let changed = queue.call("ChangeMessageVisibilityBatch", entries).await;
        assert!(changed["Successful"][0]["Id"] == "0", "{changed}");
        assert!(changed["Failed"][0]["Id"] == "1", "{changed}");
        queue.receives(1, &["1"]).await;
    }

    what_is_deleted_in_a_batch_is_gone (sqs) {
        let queue = sqs.queue("batch-delete.fifo", json!({"VisibilityTimeout": "1"})).await;
        queue.send_all("a", &["1", "2"]).await;
        let both = queue.receives(2, &["1", "2"]).await;
        let entries: Vec<_> = (both.iter().enumerate())
            .map(|(at, m)| json!({"Id": at.to_string(), "ReceiptHandle": m["ReceiptHandle"]}))
            .collect();
        let deleted = queue.call("DeleteMessageBatch", json!({"Entries": entries})).await;
        assert!(deleted["Successful"].as_array().map(Vec::len) == Some(2), "{deleted}");
        tokio::time::sleep(Duration::from_millis(1300)).await;
        queue.receives(10, &[]).await;
    }

    deleting_twice_is_no_error (sqs) {
        let queue = sqs.queue("again.fifo", json!({})).await;
        queue.send("a", "1").await;
        let received = queue.receives(1, &["1"]).await;
        queue.delete(&received[0]).await;
        queue.delete(&received[0]).await;
    }

    a_handle_that_is_none_is_refused (sqs) {
        let queue = sqs.queue("handle.fifo", json!({})).await;
        let junk = json!({"ReceiptHandle": "junk"});
        queue.refuses("DeleteMessage", junk, &["ReceiptHandleIsInvalid"]).await;
    }

    attributes_come_as_they_went_with_their_digest (sqs) {
        let queue = sqs.queue("attributes.fifo", json!({})).await;
        let attributes = json!({"event": text_attribute("evt_1"), "worker": text_attribute("wrk_é")});
        let mut message = message("a", "a-1", "1");
        message["MessageAttributes"] = attributes.clone();
        let sent = queue.call("SendMessage", message).await;
        let received = queue.receives(1, &["1"]).await;
        for (name, attribute) in attributes.as_object().unwrap() {
            let came = &received[0]["MessageAttributes"][name];
            assert!(came["StringValue"] == attribute["StringValue"], "{name}: {came}");
            assert!(came["DataType"] == "String", "{name}: {came}");
        }
        assert!(sent["MD5OfMessageAttributes"].is_string(), "{sent}");
        assert!(sent["MD5OfMessageAttributes"] == received[0]["MD5OfMessageAttributes"], "another digest");
        // MD5 of "1".
        assert!(sent["MD5OfMessageBody"] == "c4ca4238a0b923820dcc509a6f75849b", "{sent}");
    }

    a_message_says_when_and_where_it_was_sent (sqs) {
        let queue = sqs.queue("system.fifo", json!({})).await;
        queue.send("a", "1").await;
        let received = queue.receives(2, &["1"]).await;
        let system = &received[0]["Attributes"];
        assert!(system["MessageGroupId"] == "a", "{system}");
        assert!(system["MessageDeduplicationId"] == "a-1", "{system}");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let sent: u128 = system["SentTimestamp"].as_str().and_then(|t| t.parse().ok()).unwrap_or_default();
        assert!(now.abs_diff(sent) < 60_000, "{system}");
    }

    sequence_numbers_grow (sqs) {
        let queue = sqs.queue("sequence.fifo", json!({})).await;
        let mut last: u128 = 0;
        for at in 0..10 {
            let sent = queue.send("a", &at.to_string()).await;
            let number = sent["SequenceNumber"].as_str().and_then(|n| n.parse().ok());
            assert!(number > Some(last), "{sent} after {last}");
            last = number.unwrap_or_default();
        }
    }

    what_is_received_too_often_goes_to_the_dead_letter_queue_as_it_was (sqs) {
        let dead = sqs.queue("redrive-dead.fifo", json!({})).await;
        let arn = dead.attribute("QueueArn").await;
        let queue = sqs.queue("redrive.fifo", redrive(&arn, 2)).await;
        queue.send("a", "1").await;
        for _ in 0..2 {
            let received = queue.receives(1, &["1"]).await;
            queue.hide(&received[0], 0).await;
        }
        queue.receives(1, &[]).await;
        let letters = dead.receives(1, &["1"]).await;
        assert!(letters[0]["Attributes"]["MessageGroupId"] == "a", "{letters:?}");
        assert!(letters[0]["Attributes"]["MessageDeduplicationId"] == "a-1", "{letters:?}");
    }

    dead_letters_can_be_moved_to_a_queue_that_is_named (sqs) {
        let dead = sqs.queue("move-dead.fifo", json!({})).await;
        let arn = dead.attribute("QueueArn").await;
        let queue = sqs.queue("move.fifo", redrive(&arn, 2)).await;
        dead.send("a", "1").await;
        let task = json!({"SourceArn": arn, "DestinationArn": queue.attribute("QueueArn").await});
        sqs.call("StartMessageMoveTask", task).await;
        let deadline = Instant::now() + Duration::from_secs(5);
        while queue.attribute("ApproximateNumberOfMessages").await != "1" {
            assert!(Instant::now() < deadline, "nothing was moved");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        queue.receives(1, &["1"]).await;
    }

    a_dead_letter_queue_knows_its_sources (sqs) {
        let dead = sqs.queue("sources-dead.fifo", json!({})).await;
        let arn = dead.attribute("QueueArn").await;
        let queue = sqs.queue("sources.fifo", redrive(&arn, 2)).await;
        let sources = dead.call("ListDeadLetterSourceQueues", json!({})).await;
        assert!(sources["queueUrls"] == json!([queue.url]), "{sources}");
    }

    a_queue_that_is_not_there_is_an_error (sqs) {
        let url = format!("{}/000000000000/nowhere.fifo", sqs.url);
        let names = ["QueueDoesNotExist", "NonExistentQueue"];
        sqs.refuses("ReceiveMessage", json!({"QueueUrl": url}), &names).await;
    }

    a_fifo_queues_name_says_so (sqs) {
        let create = json!({"QueueName": "plain", "Attributes": {"FifoQueue": "true"}});
        let names = ["InvalidParameterValue", "InvalidParameterValueException"];
        sqs.refuses("CreateQueue", create, &names).await;
    }

    creating_a_queue_again_is_no_error_unless_it_would_be_another (sqs) {
        let first = sqs.queue("same.fifo", json!({})).await;
        let second = sqs.queue("same.fifo", json!({})).await;
        assert!(first.url == second.url, "{} {}", first.url, second.url);
        let other = json!({"QueueName": "same.fifo", "Attributes": {"FifoQueue": "true", "VisibilityTimeout": "31"}});
        sqs.refuses("CreateQueue", other, &["QueueNameExists", "QueueAlreadyExists"]).await;
    }

    a_queue_is_found_by_its_name (sqs) {
        let queue = sqs.queue("found.fifo", json!({})).await;
        let found = sqs.call("GetQueueUrl", json!({"QueueName": "found.fifo"})).await;
        assert!(found["QueueUrl"] == queue.url, "{found}");
        let listed = sqs.call("ListQueues", json!({"QueueNamePrefix": "found"})).await;
        assert!(listed["QueueUrls"] == json!([queue.url]), "{listed}");
    }

    attributes_of_a_queue_are_counted_and_can_be_changed (sqs) {
        let queue = sqs.queue("counted.fifo", json!({})).await;
        for body in ["1", "2", "3"] {
            queue.send(body, body).await;
        }
        queue.receive(1).await;
        assert!(queue.attribute("ApproximateNumberOfMessages").await == "2", "visible");
        assert!(queue.attribute("ApproximateNumberOfMessagesNotVisible").await == "1", "in flight");
        assert!(queue.attribute("FifoQueue").await == "true", "fifo");
        queue.call("SetQueueAttributes", json!({"Attributes": {"VisibilityTimeout": "77"}})).await;
        assert!(queue.attribute("VisibilityTimeout").await == "77", "changed");
    }

    an_attribute_that_is_none_is_refused (sqs) {
        let queue = sqs.queue("unknown.fifo", json!({})).await;
        let wrong = json!({"AttributeNames": ["Nonsense"]});
        queue.refuses("GetQueueAttributes", wrong, &["InvalidAttributeName"]).await;
    }

    numbers_out_of_range_are_refused (sqs) {
        let queue = sqs.queue("range.fifo", json!({})).await;
        let names = ["InvalidParameterValue", "InvalidParameterValueException"];
        queue.refuses("ReceiveMessage", json!({"MaxNumberOfMessages": 11}), &names).await;
        queue.refuses("ReceiveMessage", json!({"WaitTimeSeconds": 21}), &names).await;
    }

    a_batch_answers_for_each_entry (sqs) {
        let queue = sqs.queue("entries.fifo", json!({})).await;
        let entries = json!({"Entries": [entry("x", "a", "1"), entry("y", "a", "2")]});
        let sent = queue.call("SendMessageBatch", entries).await;
        let ids: BTreeSet<_> = (sent["Successful"].as_array().into_iter().flatten())
            .filter_map(|s| s["Id"].as_str())
            .collect();
        assert!(ids == BTreeSet::from(["x", "y"]), "{sent}");
        queue.receives(10, &["1", "2"]).await;
    }

    a_batch_of_none_eleven_or_two_alike_is_refused (sqs) {
        let queue = sqs.queue("batches.fifo", json!({})).await;
        let eleven: Vec<_> = (0..11).map(|at| entry(&at.to_string(), "a", &at.to_string())).collect();
        queue.refuses("SendMessageBatch", json!({"Entries": eleven}), &["TooManyEntriesInBatchRequest"]).await;
        let alike = json!({"Entries": [entry("x", "a", "1"), entry("x", "a", "2")]});
        queue.refuses("SendMessageBatch", alike, &["BatchEntryIdsNotDistinct"]).await;
        queue.refuses("SendMessageBatch", json!({"Entries": []}), &["EmptyBatchRequest"]).await;
    }

    a_message_over_a_mebibyte_is_refused (sqs) {
        let queue = sqs.queue("large.fifo", json!({})).await;
        queue.call("SendMessage", message("a", "1", &"x".repeat(1 << 20))).await;
        let over = message("a", "2", &"x".repeat((1 << 20) + 1));
        queue.refuses("SendMessage", over, &["InvalidParameterValue", "InvalidParameterValueException", "InvalidMessageContents"]).await;
    }

    a_batch_over_a_mebibyte_is_refused (sqs) {
        let queue = sqs.queue("large-batch.fifo", json!({})).await;
        let half = "x".repeat((1 << 19) + 1);
        let entries = [("x", "1"), ("y", "2")].map(|(id, group)| {
            json!({"Id": id, "MessageBody": half, "MessageGroupId": group, "MessageDeduplicationId": id})
        });
        queue.refuses("SendMessageBatch", json!({"Entries": entries}), &["BatchRequestTooLong"]).await;
    }

    a_character_that_xml_forbids_is_refused (sqs) {
        let queue = sqs.queue("character.fifo", json!({})).await;
        let message = json!({"MessageBody": "a\u{1}", "MessageGroupId": "a", "MessageDeduplicationId": "1"});
        queue.refuses("SendMessage", message, &["InvalidMessageContents"]).await;
    }

    an_empty_body_is_refused (sqs) {
        let queue = sqs.queue("empty.fifo", json!({})).await;
        let message = message("a", "1", "");
        queue.refuses("SendMessage", message, &["MissingParameter", "InvalidParameterValue", "InvalidMessageContents"]).await;
    }

    eleven_attributes_are_refused (sqs) {
        let queue = sqs.queue("eleven.fifo", json!({})).await;
        let attributes: serde_json::Map<_, _> = (0..11).map(|at| (format!("a{at}"), text_attribute("x"))).collect();
        let mut message = message("a", "1", "1");
        message["MessageAttributes"] = json!(attributes);
        queue.refuses("SendMessage", message, &["InvalidParameterValue", "InvalidParameterValueException"]).await;
    }

    a_long_poll_ends_when_a_message_comes (sqs) {
        let queue = sqs.queue("poll.fifo", json!({})).await;
        let began = Instant::now();
        let (received, sent) = tokio::join!(
            queue.receive_with(1, json!({"WaitTimeSeconds": 10})),
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                queue.send("a", "1").await
            }
        );
        assert!(received.len() == 1, "nothing came: {sent}");
        assert!(began.elapsed() < Duration::from_secs(10), "the poll lasted to its end");
    }

    a_long_poll_without_a_message_lasts_as_long_as_it_was_told (sqs) {
        let queue = sqs.queue("poll-empty.fifo", json!({})).await;
        let began = Instant::now();
        let received = queue.receive_with(1, json!({"WaitTimeSeconds": 1})).await;
        assert!(received.is_empty(), "{received:?}");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(900), "{took:?}");
    }

    a_purged_queue_is_empty (sqs) {
        let queue = sqs.queue("purged.fifo", json!({})).await;
        queue.send("a", "1").await;
        queue.call("PurgeQueue", json!({})).await;
        queue.receives(1, &[]).await;
    }
}

/// Where moto 5.2.5 leaves AWS's documentation.
const OF_MOTO: &str = r#"
a_message_sent_twice_is_there_once: it answers a repeated send with another id and number; the message is there once
it_is_known_after_it_was_deleted_too: it forgets a deduplication id with its message, not after five minutes
in_high_throughput_mode_two_groups_may_have_the_same_deduplication_id: it takes no notice of `DeduplicationScope`
sequence_numbers_grow: its sequence numbers are random
dead_letters_can_be_moved_to_a_queue_that_is_named: it has no `StartMessageMoveTask`
a_character_that_xml_forbids_is_refused: it takes every character
an_empty_body_is_refused: it takes it
eleven_attributes_are_refused: it takes them; SQS's quota is ten (Developer Guide, "Message quotas")
"#;

/// Where ministack 1.5.33 does.
const OF_MINISTACK: &str = r#"
deleting_twice_is_no_error: it knows a handle no more once its message is deleted
dead_letters_can_be_moved_to_a_queue_that_is_named: it has no `StartMessageMoveTask`
a_dead_letter_queue_knows_its_sources: it has no `ListDeadLetterSourceQueues`
an_attribute_that_is_none_is_refused: it answers without it
numbers_out_of_range_are_refused: it takes the nearest one in range
eleven_attributes_are_refused: it takes them; SQS's quota is ten (Developer Guide, "Message quotas")
"#;

/// The emulators check no signature.
fn any_key() -> AccessKey {
    let [id, secret] = ["test"; 2].map(str::to_owned);
    AccessKey { id, secret }
}

/// Asks for every behaviour; answers with those that did not hold, and why.
async fn deviations(url: String, key: AccessKey) -> Vec<(&'static str, String)> {
    let sqs = Sqs::new(url, key);
    let mut found = Vec::new();
    for (name, ask) in BEHAVIOURS {
        let asked = tokio::spawn(ask(sqs.clone())).await;
        assert_eq!(sqs.unanswered(), None, "{name}");
        if let Err(why) = asked {
            found.push((*name, why.to_string()));
        }
    }
    found
}

/// Holds what was found against what is known, each with its reason: no more, and no less.
fn hold_to(known: &'static str, found: &[(&'static str, String)]) {
    let names: BTreeSet<_> = found.iter().map(|(name, _)| *name).collect();
    let known: BTreeSet<_> = (known.lines().filter_map(|line| line.split_once(": ")))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, known, "{found:#?}");
}

#[tokio::test]
async fn ours_has_them_all() {
    let relay = relay().start().await;
    let aws = relay.aws_endpoint();
    let found = deviations(aws.url(), aws.key.clone()).await;
    hold_to("", &found);
}

#[tokio::test]
#[ignore = "needs ministack: .ci/run"]
async fn ministack_has_them_but_for_what_is_known() {
    let emulator = Emulator::start().await;
    let found = deviations(emulator.url.clone(), any_key()).await;
    hold_to(OF_MINISTACK, &found);
}

#[tokio::test]
#[ignore = "needs moto: .ci/run"]
async fn moto_has_them_but_for_what_is_known() {
    let port = free_port().await;
    let url = format!("http://127.0.0.1:{port}");
    let mut moto = Command::new("moto_server");
    moto.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let _moto = serve(&mut moto, &url).await;
    let found = deviations(url, any_key()).await;
    hold_to(OF_MOTO, &found);
}
