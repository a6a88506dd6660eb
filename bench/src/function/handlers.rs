//! The whole handlers of the functions. Their calls to AWS are answered at once with recorded responses.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use lambda_http::request::LambdaRequest;
use lambda_runtime::LambdaEvent;
use local::local_relay::{DEAD_LETTERS, Options, QUEUE};
use local::samples::Webhook;
use local::testing::calls::Calls;
use local::testing::lambda_events;
use parking_lot::Mutex;
use protocol::clock::Clock;
use relay::config::Resources;
use serde_json::{Value, json};

use crate::load::SECRET;
use crate::logs;
use crate::one_machine::{self, Busy};
use crate::payload::body;
use crate::receiver::Receiver;

fn resources() -> Resources {
    Resources {
        table: "bench".to_owned(),
        queue: format!("http://aws.local/{QUEUE}"),
        dead_letters: format!("http://aws.local/{DEAD_LETTERS}"),
        webhook_secrets: "bench".to_owned(),
    }
}

/// What the embedded DynamoDB answers a function's reads, and the batch on the queue, when an event of this size
/// goes to so many workers: taken from a relay that did it.
struct Recorded {
    webhook: Webhook,
    /// By function and target.
    reads: HashMap<(String, String), Vec<u8>>,
    /// What `ingest` put on the queue.
    sent: Vec<Value>,
    receiver: Receiver,
}

type Requests = Arc<Mutex<HashMap<(String, String), Vec<Vec<u8>>>>>;

async fn record(size: usize, workers: usize) -> anyhow::Result<Recorded> {
    let requests: Requests = Arc::default();
    let watcher = {
        let requests = Arc::clone(&requests);
        move |function: &'static str, target: &str, body: &[u8]| {
            let mut requests = requests.lock();
            let key = (function.to_owned(), target.to_owned());
            requests.entry(key).or_default().push(body.to_vec());
        }
    };
    let options = Options {
        calls: Calls::observed(Arc::new(watcher)),
        ..one_machine::options().await?
    };
    let Busy {
        local,
        receiver,
        mut load,
        ..
    } = Busy::start(options, workers, size).await?;
    // A worker's first success is recorded; the second event is the one that counts.
    load.one(0).await?;
    requests.lock().clear();
    load.one(1).await?;
    let requests = requests.lock().clone();
    let mut reads = HashMap::new();
    for ((function, target), bodies) in &requests {
        if !(target.ends_with(".Query") || target.ends_with(".BatchGetItem")) {
            continue;
        }
        let body = bodies.last().cloned().unwrap_or_default();
        let answer = local.call_aws(target, &body).await;
        ensure!(answer.status() == 200, "{target} was refused");
        reads.insert((function.clone(), target.clone()), answer.into_body());
    }
    let batches = requests.get(&("ingest".to_owned(), "AmazonSQS.SendMessageBatch".to_owned()));
    let mut sent = Vec::new();
    for batch in batches.into_iter().flatten() {
        sent.extend(lambda_events::entries(batch)?);
    }
    ensure!(
        sent.len() == workers,
        "{} messages for {workers} workers",
        sent.len()
    );
    let webhook = Webhook::signed(SECRET, body(2, size));
    local.stop().await;
    Ok(Recorded {
        webhook,
        reads,
        sent,
        receiver,
    })
}

impl Recorded {
    fn answers(&self, function: &str) -> HashMap<String, Vec<u8>> {
        let secret = json!({"SecretString": SECRET}).to_string();
        let fixed = [
            ("secretsmanager.GetSecretValue", secret.as_str()),
            ("DynamoDB_20120810.GetItem", "{}"),
            ("DynamoDB_20120810.PutItem", "{}"),
            ("DynamoDB_20120810.BatchWriteItem", "{}"),
            (
                "AmazonSQS.GetQueueAttributes",
                r#"{"Attributes":{"FifoQueue":"true"}}"#,
            ),
            ("AmazonSQS.SendMessageBatch", r#"{"Successful":[]}"#),
            (
                "AmazonSQS.ChangeMessageVisibilityBatch",
                r#"{"Successful":[]}"#,
            ),
        ];
        let fixed = fixed.map(|(target, answer)| (target.to_owned(), answer.as_bytes().to_vec()));
        let reads = (self.reads.iter())
            .filter(|((of, _), _)| of == function)
            .map(|((_, target), answer)| (target.clone(), answer.clone()));
        fixed.into_iter().chain(reads).collect()
    }
}

/// Hands the function the same event again and again, and nothing else, with its log lines: for a profiler.
pub(crate) fn handle(
    function: &str,
    size: usize,
    workers: usize,
    times: usize,
) -> anyhow::Result<()> {
    logs::count();
    let handled = |handle: &mut dyn FnMut() -> bool| {
        for _ in 0..times {
            ensure!(handle(), "the function failed");
        }
        Ok(())
    };
    match function {
        "ingest" => handled(&mut ingest_handler(size, workers)?),
        _ => handled(&mut deliver_handler(size, workers)?),
    }
}

/// What handles one webhook that goes to so many workers.
pub(super) fn ingest_handler(size: usize, workers: usize) -> anyhow::Result<impl FnMut() -> bool> {
    let recorded = apart(record(size, workers))?;
    let clients = local::testing::prepared::clients(recorded.answers("ingest"));
    let options = one_machine::options_with(([127, 0, 0, 1], 9).into())?;
    let clock = Clock::system();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = ingest::start(clients, resources(), options.configs.ingest, clock);
    let ingest = runtime.block_on(start)?;
    let event = serde_json::to_vec(&lambda_events::webhook(&recorded.webhook))?;
    let accept = move || {
        let request: LambdaRequest = serde_json::from_slice(&event).ok()?;
        let answer = runtime.block_on(ingest::handle(&ingest, request.into()));
        let answer = answer.ok()?;
        Some((answer.status().as_u16(), answer.into_body()))
    };
    let (status, answer) = accept().context("the event is not one that Lambda hands over")?;
    let expected = format!("\"deliveries\":{workers}");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(
        status == 200 && answer.contains(&expected),
        "ingest answered {status}: {answer}"
    );
    Ok(move || accept().is_some_and(|(status, _)| status == 200))
}

/// What handles one batch of so many messages.
pub(super) fn deliver_handler(
    size: usize,
    messages: usize,
) -> anyhow::Result<impl FnMut() -> bool> {
    // The receivers answer on this runtime's threads, while this thread's time is taken.
    let receivers = tokio::runtime::Runtime::new()?;
    let recorded = receivers.block_on(record(size, messages))?;
    let clients = local::testing::prepared::clients(recorded.answers("deliver"));
    let options = one_machine::options_with(([127, 0, 0, 1], 9).into())?;
    let clock = Clock::system();
    let now = clock.millis();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = deliver::start(clients, resources(), options.configs.deliver, clock);
    let deliver = (runtime.block_on(start)).map_err(anyhow::Error::from_boxed)?;
    let sent = recorded.sent.iter().map(lambda_events::message);
    let event = serde_json::to_vec(&lambda_events::batch(QUEUE, now, sent))?;
    let attempt = move || {
        // They live as long as this does.
        let _ = &receivers;
        let batch: deliver::SqsBatch = serde_json::from_slice(&event).ok()?;
        let batch = LambdaEvent::new(batch, lambda_runtime::Context::default());
        let answer = runtime.block_on(deliver::handle(&deliver, batch)).ok()?;
        Some(answer.batch_item_failures.len())
    };
    let before = recorded.receiver.received();
    ensure!(attempt() == Some(0), "deliver did not deliver");
    let delivered = recorded.receiver.received() - before;
    ensure!(
        delivered == messages,
        "deliver POSTed {delivered} of {messages}"
    );
    Ok(move || attempt() == Some(0))
}

/// Runs on its own runtime, which is gone when this answers.
fn apart<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}
