//! Fuzz targets for the requests of SQS's clients: every request is answered as SQS answers, and no request, and no restart, loses,
//! doubles or overtakes a message.
//!
//! An input is a script with a call on each line, `Action {json}`, or a wait, `+milliseconds`. `$1` is the latest receipt handle, `$2` the one
//! before, and so on.

use std::collections::BTreeMap;
use std::path::Path;

use axum::http::{Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::clock::{Clock, UnixMillis};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::message::md5_of_body;
use super::moves::Status;
use super::wire::{TARGET, answer};
use super::{Message, Sqs};

const NOW: UnixMillis = 1_764_400_000_000;
/// The most lines of a script that are carried out.
const MAX_CALLS: usize = 60;
/// Longer than all moves take in simulated time.
const LONG: UnixMillis = 200_000;

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    queue: String,
    sequence: u64,
    group: String,
    /// Until when it is in flight, if it is.
    until: Option<UnixMillis>,
    received: u32,
    /// When it is too old to be received.
    expires_at: UnixMillis,
}

/// All messages, by their ids.
type Places = BTreeMap<String, Place>;

fn places(sqs: &Sqs, now: UnixMillis) -> Places {
    let state = sqs.state();
    let mut places = Places::new();
    for (name, queue) in &state.queues {
        queue.assert_is_consistent();
        let place = |sequence: u64, message: &Message| Place {
            queue: name.clone(),
            sequence,
            group: message.group.clone(),
            until: (message.in_flight())
                .map(|(_, until)| until)
                .filter(|until| *until > now),
            received: message.received,
            expires_at: message.sent_at + queue.settings.retention_seconds * 1000,
        };
        for (sequence, message) in queue.messages() {
            assert!(*sequence < state.next, "its number is not given yet");
            let before = places.insert(message.id.to_string(), place(*sequence, message));
            assert_eq!(before, None, "a message is there twice");
        }
    }
    places
}

/// The body of an answer as the protocol has it, and whether it is a result.
fn result(response: &Response<Vec<u8>>) -> (bool, Value) {
    let body: Value = serde_json::from_slice(response.body()).expect("an answer is JSON");
    assert!(body.is_object());
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/x-amz-json-1.0"
    );
    assert!(response.headers().contains_key("x-amzn-requestid"));
    let is_ok = response.status() == StatusCode::OK;
    if !is_ok {
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
        let name = body["__type"].as_str().unwrap_or_default();
        assert!(name.starts_with("com.amazonaws.sqs#"), "{body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        let code = response.headers()["x-amzn-query-error"].to_str();
        assert!(code.is_ok_and(|code| code.ends_with(";Sender")));
    }
    (is_ok, body)
}

/// A client can read a received message.
fn assert_is_readable(message: &Value) {
    let body = message["Body"].as_str().expect("a message has a body");
    assert_eq!(message["MD5OfBody"], md5_of_body(body));
    let attributes = message["MessageAttributes"].as_object();
    for (name, attribute) in attributes.into_iter().flatten() {
        if let Some(binary) = attribute["BinaryValue"].as_str() {
            assert!(BASE64.decode(binary).is_ok(), "`{name}` is {binary}");
        }
    }
}

/// The received messages were free, and the oldest of their groups.
fn assert_is_in_order(received: &[Value], before: &Places, after: &Places, now: UnixMillis) {
    let stays = |(id, place): &(&String, &Place)| {
        (after.get(*id)).is_some_and(|after| after.queue == place.queue)
    };
    // The others are expired or in the dead-letter queue.
    let mut left: Vec<_> = (before.iter().filter(stays).map(|(_, place)| place)).collect();
    for message in received {
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        assert_is_readable(message);
        // What arrived while the call was waiting is not known.
        let Some(place) = before.get(text("MessageId")) else {
            continue;
        };
        let is_same = |other: &&Place| (&other.queue, &other.group) == (&place.queue, &place.group);
        for other in left.iter().filter(|other| is_same(other)) {
            assert!(
                other.sequence >= place.sequence,
                "{place:?} overtook {other:?}"
            );
            assert!(
                other.until.is_none_or(|until| until <= now),
                "{other:?} is in flight"
            );
        }
        left.retain(|other| other.sequence != place.sequence);
    }
}

/// A script that is carried out.
struct Run {
    sqs: Sqs,
    clock: Clock,
    handles: Vec<String>,
}

impl Run {
    async fn start(file: Option<&Path>) -> Self {
        let clock = Clock::of_runtime(NOW);
        let sqs = Sqs::open(file, "http://localhost".to_owned(), clock.clone());
        Self {
            sqs: sqs.expect("the file can be opened"),
            clock,
            handles: Vec::new(),
        }
    }

    async fn line(&mut self, line: &str) {
        if let Some(wait) = line.strip_prefix('+') {
            let wait: u32 = wait.parse().unwrap_or_default();
            return self
                .clock
                .until(self.clock.millis() + i64::from(wait))
                .await;
        }
        let (action, body) = line.split_once(' ').unwrap_or((line, "{}"));
        let mut body = body.to_owned();
        for (at, handle) in self.handles.iter().rev().take(9).enumerate() {
            body = body.replace(&format!("${}", at + 1), handle);
        }
        let before = places(&self.sqs, self.clock.millis());
        let target = format!("{TARGET}{action}");
        let response = answer(&self.sqs, Some(&target), body.as_bytes()).await;
        let (is_ok, result) = result(&response);
        let after = places(&self.sqs, self.clock.millis());
        self.check(action, is_ok.then_some(&result), &before, &after);
        let received = result["Messages"].as_array().into_iter().flatten();
        self.handles.extend(
            received.filter_map(|message| message["ReceiptHandle"].as_str().map(str::to_owned)),
        );
    }

    /// A call changes what it says and nothing else.
    fn check(&self, action: &str, result: Option<&Value>, before: &Places, after: &Places) {
        let now = self.clock.millis();
        let is_sent = matches!(action, "SendMessage" | "SendMessageBatch");
        let is_end = matches!(
            action,
            "DeleteMessage" | "DeleteMessageBatch" | "DeleteQueue" | "PurgeQueue"
        );
        for (id, place) in before {
            let is_expired = action == "ReceiveMessage" && place.expires_at <= now;
            assert!(
                is_end || is_expired || after.contains_key(id),
                "{action} lost {place:?}"
            );
        }
        let mut new = after.keys().filter(|id| !before.contains_key(*id));
        assert!(is_sent || new.next().is_none(), "{action} made a message");
        let Some(result) = result else { return };
        match action {
            "SendMessage" => {
                assert!(result["MessageId"].is_string() && result["SequenceNumber"].is_string());
            }
            "ReceiveMessage" => {
                let received = result["Messages"].as_array().map_or(&[][..], Vec::as_slice);
                assert!(received.len() <= 10);
                assert_is_in_order(received, before, after, now);
            }
            _ => {}
        }
    }

    /// Every move ends, and what it says to have moved is not where it was.
    async fn end(&self) {
        if self.sqs.state().moves.is_empty() {
            return;
        }
        self.clock.until(self.clock.millis() + LONG).await;
        for task in &self.sqs.state().moves {
            assert_ne!(task.status, Status::Running, "{task:?}");
        }
    }
}

fn runtime() -> Runtime {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime needs nothing")
}

/// A directory that needs no disk, where there is one: each call of a script is synced.
fn in_memory() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn script(input: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(input).unwrap_or_default();
    text.lines().take(MAX_CALLS)
}

#[test]
fn fuzz_sqs() {
    fuzz::target!("sqs", |input: &[u8]| {
        runtime().block_on(async {
            let mut run = Run::start(None).await;
            for line in script(input) {
                run.line(line).await;
            }
            run.end().await;
        });
    });
}

#[test]
fn fuzz_sqs_restart() {
    fuzz::target!("sqs", |input: &[u8]| {
        let directory = in_memory().expect("there is a directory for temporary files");
        let file = directory.path().join("queues");
        let (before, now) = runtime().block_on(async {
            let mut run = Run::start(Some(&file)).await;
            for line in script(input) {
                run.line(line).await;
            }
            run.sqs.flush().await.expect("the file can be written");
            let now = run.clock.millis();
            (places(&run.sqs, now), now)
        });
        let clock = runtime().block_on(async { Clock::of_runtime(now) });
        let again = Sqs::open(Some(&file), String::new(), clock).expect("the file can be read");
        assert_eq!(places(&again, now), before);
    });
}
