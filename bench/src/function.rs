//! CPU time and allocations of the functions, for one event: step by step with the SDK's calls taken out, beside the
//! bare HMAC, which is the limit; and the whole handlers, their calls answered at once.
//!
//! CPU time of the thread, by criterion: what else the machine does counts little.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use criterion::Criterion;
use indicatif::ProgressBar;
use lambda_http::request::LambdaRequest;
use lambda_runtime::LambdaEvent;
use local::calls::Calls;
use local::machine::{DEAD_LETTERS, Machine, Options, QUEUE};
use local::samples::Webhook;
use protocol::capability;
use protocol::envelope::{self, digest};
use protocol::linear_signature::sign;
use protocol::messages::State;
use protocol::signature::Secret;
use relay::clock::Clock;
use relay::deliver::Deliver;
use relay::event::{Event, EventId};
use relay::ingest::Ingest;
use relay::linear::secrets::Secrets;
use relay::linear::signature::{WebhookSecret, signer};
use relay::outbound;
use relay::queue::{BATCH, Body, Delivery, Message, Packed, Queue};
use relay::table::{Interested, Table};
use relay::worker::{ActiveSecret, Worker};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::load::{Load, SECRET};
use crate::payload::{WORKSPACE, body};
use crate::receiver::Receiver;
use crate::results::{grouped, table};
use crate::{events, logs, one_machine};

/// Given, as most workers give some.
const CAPABILITIES: [&str; 3] = ["Comment.create", "AgentSessionEvent.*", "Issue"];

/// The sizes of bodies.
const SMALL: usize = 2_048;
const MIDDLE: usize = 20_480;
const LARGE: usize = 204_800;

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
}

/// One step for one event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) function: String,
    pub(crate) step: String,
    pub(crate) body: usize,
    /// How many workers want the event, or how many messages the batch has.
    pub(crate) workers: usize,
    /// CPU time, µs.
    pub(crate) micros: f64,
    pub(crate) allocations: u64,
    pub(crate) allocated: u64,
}

/// The rows of the whole handlers.
pub(crate) const HANDLER: &str = "the whole handler, every call answered at once";
/// The rows of all steps together.
const ALL: &str = "all of these";

impl Found {
    /// CPU time of the whole handler, µs: for the nearest number of workers that was measured.
    pub(crate) fn handler(&self, function: &str, body: usize, workers: usize) -> Option<f64> {
        (self.rows.iter())
            .filter(|row| row.function == function && row.step == HANDLER && row.body == body)
            .min_by_key(|row| row.workers.abs_diff(workers))
            .map(|row| row.micros)
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(
            "CPU time of the thread, median by criterion, and what is allocated, for one event in `ingest` and one \
             batch in `deliver`, whose rows have the number of messages. The whole handlers start from the JSON that \
             Lambda hands over; `deliver` POSTs over loopback, which is in its time.\n",
        );
        for function in ["ingest", "deliver"] {
            out += &format!("\n### {function}\n\n");
            let rows = self.rows.iter().filter(|row| row.function == function);
            out += &table(
                "step | body | workers | µs | allocations | bytes allocated | times the body",
                "l r r r r r r",
                rows.map(|row| {
                    format!(
                        "{} | {} KB | {} | {:.2} | {} | {} | {:.2}",
                        row.step,
                        row.body / 1024,
                        grouped(row.workers),
                        row.micros,
                        grouped(row.allocations as usize),
                        grouped(row.allocated as usize),
                        row.allocated as f64 / row.body as f64
                    )
                }),
            );
        }
        out
    }
}

/// CPU time that this thread used so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Measures steps one after the other.
struct Bench<'a> {
    criterion: Criterion,
    progress: &'a ProgressBar,
    estimates: tempfile::TempDir,
    rows: Vec<Row>,
}

impl<'a> Bench<'a> {
    fn new(quick: bool, progress: &'a ProgressBar) -> anyhow::Result<Self> {
        let estimates = tempfile::tempdir()?;
        let (warm_up, measured) = if quick { (10, 50) } else { (300, 2_000) };
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(estimates.path())
            .sample_size(if quick { 10 } else { 50 })
            .nresamples(1_001)
            .warm_up_time(Duration::from_millis(warm_up))
            .measurement_time(Duration::from_millis(measured));
        Ok(Self {
            criterion,
            progress,
            estimates,
            rows: Vec::new(),
        })
    }

    fn step<T>(
        &mut self,
        (function, step): (&str, &str),
        (body, workers): (usize, usize),
        mut run: impl FnMut() -> T,
    ) -> anyhow::Result<()> {
        let allocated = allocation_counter::measure(|| drop(black_box(run())));
        let name = format!("{}", self.rows.len());
        self.progress.set_message(format!("{function}: {step}"));
        self.criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|times| {
                let began = thread_time();
                for _ in 0..times {
                    drop(black_box(run()));
                }
                thread_time() - began
            });
        });
        self.progress.inc(1);
        self.rows.push(Row {
            function: function.to_owned(),
            step: step.to_owned(),
            body,
            workers,
            micros: median(self.estimates.path(), &name)? / 1e3,
            allocations: allocated.count_total,
            allocated: allocated.bytes_total,
        });
        Ok(())
    }
}

/// In nanoseconds, as criterion wrote it down.
fn median(directory: &Path, name: &str) -> anyhow::Result<f64> {
    let file = directory.join(name).join("new/estimates.json");
    let estimates: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    (estimates["median"]["point_estimate"].as_f64()).context("criterion wrote no median")
}

/// Measures everything; takes its thread for itself.
pub(crate) fn measure(quick: bool, progress: &ProgressBar) -> anyhow::Result<Found> {
    logs::count();
    let mut bench = Bench::new(quick, progress)?;
    for size in [SMALL, MIDDLE] {
        ingest_steps(&mut bench, size)?;
    }
    for (size, workers) in [(SMALL, 1), (SMALL, 10), (SMALL, 100), (SMALL, 1_000)]
        .into_iter()
        .chain(
            [MIDDLE, LARGE]
                .into_iter()
                .flat_map(|size| [1, 10, 100].map(|n| (size, n))),
        )
    {
        let handler = ingest_handler(size, workers)?;
        bench.step(("ingest", HANDLER), (size, workers), handler)?;
    }
    for size in [SMALL, MIDDLE] {
        deliver_steps(&mut bench, size)?;
    }
    for size in [SMALL, MIDDLE, LARGE] {
        for messages in [1, BATCH] {
            let handler = deliver_handler(size, messages)?;
            bench.step(("deliver", HANDLER), (size, messages), handler)?;
        }
    }
    Ok(Found { rows: bench.rows })
}

/// An event with its signature, read and checked without asking anybody.
fn read(text: &Bytes, signature: &str, secrets: &[WebhookSecret]) -> Option<Event> {
    signer(secrets, text, signature)?;
    let envelope = envelope::read(std::str::from_utf8(text).ok()?).ok()?;
    Some(Event {
        id: EventId::from_delivery("234d1a4e-b617-4388-90fe-adc3633d6b72")?,
        workspace: envelope.workspace.into_owned(),
        kind: envelope.kind.into_owned(),
        action: envelope.action.into_owned(),
        ordering_key: envelope.ordering_key,
        sent_at: 0,
        digest: digest(text),
        body: text.clone(),
    })
}

fn matched(workers: &[Interested], event: &Event) -> Vec<String> {
    (workers.iter())
        .filter(|w| capability::wanted(w.capabilities.as_deref(), &event.kind, &event.action))
        .map(|w| w.worker.clone())
        .collect()
}

fn pack(event: &Event, workers: &[String]) -> usize {
    let body = Body::Inline(event.body.clone());
    let packed = Packed::new(event, &body);
    // One batch after the other, as they are sent.
    (workers.chunks(BATCH))
        .map(|workers| {
            let entries = workers.iter().enumerate();
            let entries: Vec<_> = entries.map(|(at, w)| packed.entry(w, at)).collect();
            black_box(entries).len()
        })
        .sum()
}

fn interested(workers: usize) -> Vec<Interested> {
    (0..workers)
        .map(|at| Interested {
            worker: format!("wrk_{at:032x}"),
            capabilities: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        })
        .collect()
}

fn ingest_steps(bench: &mut Bench<'_>, size: usize) -> anyhow::Result<()> {
    let text = Bytes::from(body(7, size));
    let signature = sign(SECRET, &text);
    let secrets = [WebhookSecret::any(SECRET)];
    let event = read(&text, &signature, &secrets).context("the event cannot be read")?;
    let step = |name: &'static str| ("ingest", name);
    bench.step(step("the bare HMAC-SHA256"), (size, 1), || {
        sign(SECRET, &text)
    })?;
    bench.step(step("verify"), (size, 1), || {
        signer(&secrets, &text, &signature)
    })?;
    bench.step(step("parse"), (size, 1), || {
        let text = std::str::from_utf8(&text).ok()?;
        envelope::read(text).ok().map(|envelope| envelope.sent_at)
    })?;
    bench.step(step("digest, for the marker"), (size, 1), || digest(&text))?;
    for workers in [1, 10, 1_000] {
        let found = interested(workers);
        let ids = matched(&found, &event);
        bench.step(step("match"), (size, workers), || matched(&found, &event))?;
        bench.step(step("pack"), (size, workers), || pack(&event, &ids))?;
        bench.step(step(ALL), (size, workers), || {
            let event = read(&text, &signature, &secrets)?;
            Some(pack(&event, &matched(&found, &event)))
        })?;
    }
    Ok(())
}

/// A message as `deliver` gets it, and the worker it is for.
fn message(size: usize) -> anyhow::Result<(Event, Worker)> {
    let text = Bytes::from(body(7, size));
    let signature = sign(SECRET, &text);
    let event = read(&text, &signature, &[WebhookSecret::any(SECRET)]);
    let worker = Worker {
        workspace: WORKSPACE.to_owned(),
        id: format!("wrk_{:032x}", 7),
        name: "laptop".to_owned(),
        url: Some("http://127.0.0.1:9/".to_owned()),
        capabilities: None,
        state: State::Live,
        token_hash: String::new(),
        replaced_hash: None,
        secrets: vec![ActiveSecret {
            secret: Secret::generate(),
            until: None,
        }],
        expires_at: i64::MAX,
        failures: 0,
        delivered_at: 0,
        has_delivered: true,
        last_error: None,
        parked: 0,
        waiting: false,
        away_since: None,
    };
    Ok((event.context("the event cannot be read")?, worker))
}

fn unpack(event: &Event, worker: &str, text: String) -> Option<Delivery> {
    let message = Message {
        id: "00000000-0000-0000-0000-000000000000".to_owned(),
        receipt_handle: "handle".to_owned(),
        body: text,
        group: worker.to_owned(),
        sequence: "1".to_owned(),
        sent_at: "0".to_owned(),
        received: "1".to_owned(),
    };
    let read = Delivery::read(message, |name| {
        let value = match name {
            "event" => event.id.as_str(),
            "workspace" => &event.workspace,
            "worker" => worker,
            "type" => &event.kind,
            "action" => &event.action,
            "body" => "raw",
            _ => return None,
        };
        Some(value.to_owned())
    });
    read.ok()
}

fn deliver_steps(bench: &mut Bench<'_>, size: usize) -> anyhow::Result<()> {
    let (event, worker) = message(size)?;
    let now = Clock::system().millis();
    let text = String::from_utf8(event.body.to_vec())?;
    let step = |name: &'static str| ("deliver", name);
    let signed = || worker.delivery_headers(&event.id, &event.kind, 1, &event.body, now);
    bench.step(step("the bare HMAC-SHA256"), (size, 1), || {
        sign(SECRET, &event.body)
    })?;
    // Handing the message's body over is the copy that the JSON parser makes.
    bench.step(step("read the message"), (size, 1), || {
        unpack(&event, &worker.id, text.clone())
    })?;
    bench.step(step("sign"), (size, 1), signed)?;
    bench.step(step("prepare the headers"), (size, 1), || {
        outbound::headers([("webhook-id", event.id.as_str().to_owned())]).is_ok()
    })?;
    bench.step(step(ALL), (size, 1), || {
        let delivery = unpack(&event, &worker.id, text.clone())?;
        let Body::Inline(body) = &delivery.body else {
            return None;
        };
        outbound::headers(worker.delivery_headers(&delivery.event, &delivery.kind, 1, body, now))
            .ok()
    })
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
            let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (function.to_owned(), target.to_owned());
            requests.entry(key).or_default().push(body.to_vec());
        }
    };
    let linear = one_machine::linear().await?;
    let machine = Machine::start(Options {
        calls: Calls::watched(Arc::new(watcher)),
        ..one_machine::options(linear)?
    })
    .await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (receiver, arrivals) = Receiver::start().await?;
    one_machine::register(&client, &machine.url(), receiver.address, workers).await?;
    let mut load = Load {
        url: format!("{}/webhooks/linear", machine.url()),
        client,
        arrivals,
        workers,
        body: size,
    };
    // A worker's first success is recorded; the second event is the one that counts.
    load.one(0).await?;
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
    load.one(1).await?;
    let requests = requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut reads = HashMap::new();
    for ((function, target), bodies) in &requests {
        if !(target.ends_with(".Query") || target.ends_with(".BatchGetItem")) {
            continue;
        }
        let body = bodies.last().cloned().unwrap_or_default();
        let answer = (load.client)
            .post(format!("http://{}/", machine.aws_address))
            .header("x-amz-target", target)
            .body(body)
            .send()
            .await?;
        let answer = answer.error_for_status()?.bytes().await?;
        reads.insert((function.clone(), target.clone()), answer.to_vec());
    }
    let batches = requests.get(&("ingest".to_owned(), "AmazonSQS.SendMessageBatch".to_owned()));
    let mut sent = Vec::new();
    for batch in batches.into_iter().flatten() {
        let batch: Value = serde_json::from_slice(batch)?;
        sent.extend(batch["Entries"].as_array().into_iter().flatten().cloned());
    }
    ensure!(
        sent.len() == workers,
        "{} messages for {workers} workers",
        sent.len()
    );
    let webhook = Webhook::signed(SECRET, body(2, size));
    machine.stop().await;
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
fn ingest_handler(size: usize, workers: usize) -> anyhow::Result<impl FnMut() -> bool> {
    let recorded = apart(record(size, workers))?;
    let clients = local::sdk::prepared(recorded.answers("ingest"));
    let options = one_machine::options(([127, 0, 0, 1], 9).into())?;
    let clock = Clock::system();
    let secrets = Secrets::new(clients.secrets, "bench".to_owned(), clock.clone());
    let table = Table::new(clients.dynamodb, "bench".to_owned(), clock.clone());
    let queue = Queue::new(clients.sqs, format!("http://aws.local/{QUEUE}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(secrets.read())?;
    let ingest = Ingest::new(options.ingest, secrets, table, queue, clock);
    let event = serde_json::to_vec(&events::webhook(&recorded.webhook))?;
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
fn deliver_handler(size: usize, messages: usize) -> anyhow::Result<impl FnMut() -> bool> {
    // The receivers answer on this runtime's threads, while this thread's time is taken.
    let receivers = tokio::runtime::Runtime::new()?;
    let recorded = receivers.block_on(record(size, messages))?;
    let clients = local::sdk::prepared(recorded.answers("deliver"));
    let options = one_machine::options(([127, 0, 0, 1], 9).into())?;
    let clock = Clock::system();
    let now = clock.millis();
    let table = Table::new(clients.dynamodb, "bench".to_owned(), clock.clone());
    let queue = |name: &str| Queue::new(clients.sqs.clone(), format!("http://aws.local/{name}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let deliver = Deliver::new(
        options.deliver,
        table,
        queue(QUEUE),
        queue(DEAD_LETTERS),
        clock,
    )?;
    let sent = recorded.sent.iter().map(|entry| {
        let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
        let attributes = attributes
            .filter_map(|(name, value)| Some((name.as_str(), value["StringValue"].as_str()?)));
        (
            entry["MessageGroupId"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            entry["MessageBody"].as_str().unwrap_or_default(),
            attributes.collect(),
        )
    });
    let event = serde_json::to_vec(&events::batch(QUEUE, now, sent))?;
    let attempt = move || {
        // They live as long as this does.
        let _ = &receivers;
        let batch: deliver::Batch = serde_json::from_slice(&event).ok()?;
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

/// Runs on a runtime of its own, which is gone when this answers.
fn apart<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The design's target: in neither function is the body allocated more than twice beside the SDK calls.
    #[test]
    fn a_body_is_allocated_twice_at_most() {
        let size = 100 * 1024 / 2;
        let text = Bytes::from(body(7, size));
        let signature = sign(SECRET, &text);
        let secrets = [WebhookSecret::any(SECRET)];
        let workers: Vec<_> = matched(&interested(1), &read(&text, &signature, &secrets).unwrap());
        let ingest = allocation_counter::measure(|| {
            let event = read(&text, &signature, &secrets).unwrap();
            black_box(pack(&event, &workers));
        });
        let (event, worker) = message(size).unwrap();
        let text = String::from_utf8(event.body.to_vec()).unwrap();
        let deliver = allocation_counter::measure(|| {
            let delivery = unpack(&event, &worker.id, text.clone()).unwrap();
            let Body::Inline(body) = &delivery.body else {
                panic!("the body is in the message");
            };
            let signed = worker.delivery_headers(&delivery.event, &delivery.kind, 1, body, 0);
            black_box(outbound::headers(signed).unwrap());
        });
        for (function, allocated) in [("ingest", ingest), ("deliver", deliver)] {
            let times = allocated.bytes_total / size as u64;
            assert!(times <= 2, "`{function}` allocates the body {times} times");
        }
    }
}
