//! What Lambda, API Gateway, the event source mapping and the schedule are to the functions, each of which is a process: it is
//! started when none is idle, and handles one event at a time.
//!
//! Time is moved when nothing is going on and messages wait.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use local::access_key::AccessKey;
use local::local_relay::{DEAD_LETTERS, Options, QUEUE};
use local::samples::{WORKSPACE, Webhook};
use local::sqs::{Consumer, Message, Received};
use local::testing::bare::BareRelay;
use local::testing::lambda_events;
use local::testing::sandbox::Sandbox;
use parking_lot::Mutex;
use protocol::clock::{Clock, UnixMillis, elapsed, millis, rfc3339};
use relay::outbound::Network;
use reqwest::Client;
use rustix::process::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::wire::{Faults, To, Wire};
use crate::harness::tls::Certificate;
use crate::harness::{SECRET, client};

/// Longer than an invocation takes in which calls are not answered. Lambda ends a process that takes as long as its limit.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// More than the longest time between two probes of a live worker, after each of which it renews.
pub(super) const LEASE: Duration = Duration::from_secs(5 * 3600);
/// More than a lease, so that a mailbox outlives one.
pub(super) const MAILBOX: Duration = Duration::from_secs(8 * 3600);
/// How long messages may take to be settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// A function's process.
struct Process {
    function: &'static str,
    _aws: Wire,
    sandbox: Sandbox,
    child: Child,
    /// Each line moves its clock, after which it says so.
    stdin: ChildStdin,
    clock_is_moved: UnboundedReceiver<()>,
    /// How many seconds it was moved.
    moved: u64,
}

pub(super) struct Cloud {
    relay: Arc<BareRelay>,
    pub(super) clock: Clock,
    pub(super) faults: Arc<Faults>,
    linear: Wire,
    /// Reaches the other side of a wire.
    pub(super) client: Client,
    /// One certificate authority, which is sooner read than those of the system.
    authorities: TempDir,
    idle: Mutex<Vec<Process>>,
    /// How many seconds the clock was moved.
    moved: AtomicU64,
}

impl Cloud {
    /// Its Linear is at this address.
    pub(super) async fn start(faults: Arc<Faults>, linear: SocketAddr) -> Arc<Self> {
        let clock = Clock::system();
        let secret = |name: &str| (name == "LINEAR_WEBHOOK_SECRETS").then(|| SECRET.to_owned());
        let options = Options {
            clock: clock.clone(),
            ..Options::read(&secret).unwrap()
        };
        let client = client();
        let authorities = tempfile::tempdir().unwrap();
        Certificate::new().write(authorities.path());
        let relay = BareRelay::start(options, &Network::Internet).await.unwrap();
        let linear = To::Address("Linear", linear, client.clone());
        let linear = Wire::open(&faults, linear).await;
        Arc::new(Self {
            relay: Arc::new(relay),
            clock,
            faults,
            linear,
            client,
            authorities,
            idle: Mutex::default(),
            moved: AtomicU64::new(0),
        })
    }

    async fn process(&self, function: &'static str) -> Process {
        let id = Arc::new(OnceLock::new());
        let aws = To::Aws {
            relay: Arc::clone(&self.relay),
            function,
            process: Arc::clone(&id),
        };
        let aws = Wire::open(&self.faults, aws).await;
        let sandbox = Sandbox::start(2 * TIME_LIMIT).await.unwrap();
        let endpoint = format!("http://{}", aws.address);
        // No signature is verified here.
        let key = AccessKey {
            id: "key".to_owned(),
            secret: "secret".to_owned(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_function"))
            .arg(function)
            .env_clear()
            .envs(sandbox.environment(function, &self.relay.sqs, &key, &endpoint))
            .env(
                "LINEAR_API_URL",
                format!("http://{}/graphql", self.linear.address),
            )
            .env("SSL_CERT_FILE", self.authorities.path().join("ca.pem"))
            .env("WORKSPACES", WORKSPACE)
            .env("REGISTRATIONS_PER_MINUTE", "1000")
            .env("GIVE_UP_4XX_SECONDS", "1")
            .env("DELIVERY_TIMEOUT_SECONDS", "2")
            .env("LEASE_SECONDS", LEASE.as_secs().to_string())
            .env("MAILBOX_SECONDS", MAILBOX.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        id.set(pid.unwrap()).unwrap();
        Process {
            function,
            _aws: aws,
            sandbox,
            stdin: child.stdin.take().unwrap(),
            clock_is_moved: moves(child.stdout.take().unwrap()),
            child,
            moved: 0,
        }
    }

    /// Invokes a function. None if it failed, or was killed.
    pub(super) async fn invoke(&self, function: &'static str, event: &Value) -> Option<Value> {
        let idle = {
            let mut idle = self.idle.lock();
            let at = idle.iter().position(|process| process.function == function);
            at.map(|at| idle.swap_remove(at))
        };
        let mut process = match idle {
            Some(process) => process,
            None => self.process(function).await,
        };
        let moved = self.moved.load(Ordering::Relaxed);
        if moved > process.moved {
            let line = format!("{}\n", moved - process.moved);
            process.stdin.write_all(line.as_bytes()).await.ok()?;
            process.clock_is_moved.recv().await?;
            process.moved = moved;
        }
        let (sandbox, child) = (&mut process.sandbox, &mut process.child);
        let answered = async {
            sandbox.asked().await?;
            sandbox.invoke(event.to_string()).await
        };
        let answered = tokio::select! {
            answered = answered => answered,
            ended = child.wait() => {
                assert_ne!(ended.unwrap().code(), Some(101), "`{function}` panicked");
                return None;
            }
            () = tokio::time::sleep(TIME_LIMIT) => return None,
        };
        // After an error, too, as on Lambda.
        self.idle.lock().push(process);
        let (_, answer) = answered.ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// Calls the HTTP API. What a function does not answer, API Gateway answers with 500.
    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (u16, Value) {
        let mut headers = json!({"content-type": "application/json"});
        if let Some(token) = token {
            headers["authorization"] = format!("Bearer {token}").into();
        }
        let event = lambda_events::request(method, path, headers, &body.to_string());
        answered(self.invoke("register", &event).await)
    }

    /// Posts a webhook.
    pub(super) async fn post(&self, webhook: &Webhook) -> (u16, Value) {
        answered(
            self.invoke("ingest", &lambda_events::webhook(webhook))
                .await,
        )
    }

    /// Runs `health`.
    pub(super) async fn health(&self) -> Option<Value> {
        let time = rfc3339(self.clock.millis());
        let event = json!({"time": time, "part": 0, "of": 1});
        self.invoke("health", &event).await
    }

    /// Has all messages delivered, also those that wait for their next attempt.
    pub(super) async fn settle(self: &Arc<Self>) {
        self.run(UnixMillis::MAX).await;
    }

    /// Lets so much time pass, and has the messages delivered that are due in it.
    pub(super) async fn pass(self: &Arc<Self>, time: Duration) {
        let until = self.clock.millis() + millis(time);
        self.run(until).await;
        if self.clock.millis() < until {
            self.advance(elapsed(self.clock.millis(), until));
        }
    }

    /// Has messages delivered until none is due before then.
    async fn run(self: &Arc<Self>, until: UnixMillis) {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut invocations = JoinSet::new();
        loop {
            assert!(Instant::now() < deadline, "not settled: {:?}", self.queue());
            let sqs = &self.relay.sqs;
            let received = sqs.receive(QUEUE, 10, None, Some(0), Consumer::Here).await;
            let received = received.unwrap();
            if !received.is_empty() {
                let cloud = Arc::clone(self);
                invocations.spawn(async move { cloud.deliver(received).await });
            } else if !invocations.is_empty() {
                let next = invocations.join_next();
                if let Ok(Some(ended)) = tokio::time::timeout(Duration::from_millis(10), next).await
                {
                    ended.unwrap();
                }
            } else {
                let waiting = self.queue();
                let due = waiting.iter().filter_map(|message| message.in_flight());
                let Some(due) = due.map(|(_, until)| until).min() else {
                    assert!(waiting.is_empty(), "messages are stuck: {waiting:?}");
                    return;
                };
                if due > until {
                    return;
                }
                self.advance(elapsed(self.clock.millis(), due));
            }
        }
    }

    /// Moves the clock, by a second more than this.
    pub(super) fn advance(&self, time: Duration) {
        let seconds = time.as_secs() + 1;
        self.clock.advance(Duration::from_secs(seconds));
        self.moved.fetch_add(seconds, Ordering::Relaxed);
    }

    async fn deliver(&self, received: Vec<Received>) {
        let records: Vec<_> = received.iter().map(record).collect();
        let event = json!({"Records": records});
        // A batch that failed returns after its visibility timeout.
        let Some(answer) = self.invoke("deliver", &event).await else {
            return;
        };
        let failures = answer["batchItemFailures"].as_array();
        let failed: HashSet<_> = failures
            .into_iter()
            .flatten()
            .filter_map(|failure| failure["itemIdentifier"].as_str())
            .collect();
        let done = received
            .into_iter()
            .filter(|received| !failed.contains(received.message.id.to_string().as_str()))
            .map(|received| received.receipt_handle);
        let done: Vec<_> = done.collect();
        self.relay.sqs.delete(QUEUE, &done).await.unwrap();
    }

    fn queue(&self) -> Vec<Message> {
        self.relay.sqs.peek(QUEUE).unwrap()
    }

    pub(super) fn dead_letters(&self) -> Vec<Message> {
        self.relay.sqs.peek(DEAD_LETTERS).unwrap()
    }
}

fn answered(answer: Option<Value>) -> (u16, Value) {
    let answer = answer.unwrap_or_default();
    let status = answer["statusCode"].as_u64().unwrap_or(500);
    let body = answer["body"].as_str().unwrap_or_default();
    (
        u16::try_from(status).unwrap(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

/// Each time when a process says that its clock has been moved. What else it writes is its log.
fn moves(stdout: ChildStdout) -> UnboundedReceiver<()> {
    let (said, moves) = unbounded_channel();
    let mut lines = BufReader::new(stdout).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "moved" && said.send(()).is_err() {
                return;
            }
        }
    });
    moves
}

/// A message as the event source mapping hands it over.
fn record(received: &Received) -> Value {
    let message = &received.message;
    let attributes = message.attributes.iter().map(|(name, attribute)| {
        let value = json!({
            "dataType": if attribute.binary_value.is_some() { "Binary" } else { "String" },
            "stringValue": attribute.string_value,
            "binaryValue": attribute.binary_value,
        });
        (name.clone(), value)
    });
    json!({
        "messageId": message.id.to_string(),
        "receiptHandle": received.receipt_handle,
        "body": *message.body,
        "attributes": {
            "MessageGroupId": message.group,
            "SequenceNumber": format!("{:020}", received.sequence),
            "SentTimestamp": message.sent_at.to_string(),
            "ApproximateReceiveCount": message.received.to_string(),
        },
        "messageAttributes": attributes.collect::<serde_json::Map<_, _>>(),
        "eventSource": "aws:sqs",
        "awsRegion": "us-east-1",
    })
}
