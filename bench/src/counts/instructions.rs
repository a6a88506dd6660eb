//! Instructions of the functions as they are deployed: their start, and one event, counted by callgrind.
//!
//! An event's instructions are the difference between many events and few, so that the start and the first event do not
//! count. A number is the least of several runs: what a call that was tried again adds to some of them is not the event's.
//!
//! Source: the Valgrind User Manual, "Callgrind". It prints `Collected : N` at the end of the process, also if a signal
//! ends that.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use local::local_relay::{LocalRelay, QUEUE};
use local::samples::Webhook;
use local::testing::lambda_events;
use local::testing::sandbox::Sandbox;
use protocol::clock::Clock;
use relay::config::environment;
use relay::queue::BATCH_SIZE;
use serde_json::Value;
use tokio::process::Command;

use super::{Counts, INSTRUCTIONS};
use crate::load::SECRET;
use crate::one_machine::{self, Busy};
use crate::payload::body;
use crate::programs::{self, Program};
use crate::receiver::Receiver;
use crate::taken;

const BODY: usize = 2_048;
const FEW: usize = 10;
const MANY: usize = 60;
/// How often each number of events is run.
const RUNS: usize = 2;
/// Under callgrind, a process takes some fifty times as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The version of valgrind.
pub(super) fn valgrind() -> anyhow::Result<String> {
    taken::version("valgrind").context(
        "valgrind is not installed: install it (`apt-get install valgrind`), or count `--without-instructions`",
    )
}

/// Adds the starts of `ingest` and `deliver`, and their events.
pub(super) async fn count(counts: &mut Counts, progress: &ProgressBar) -> anyhow::Result<()> {
    // In this order, because what `ingest` puts on the queue is POSTed, too, and `deliver` counts what is POSTed.
    let starts = [Work::Messages(1), Work::Webhook];
    let works = [Work::Messages(1), Work::Messages(BATCH_SIZE), Work::Webhook];
    progress.set_length(((starts.len() + 2 * works.len()) * RUNS) as u64);
    let mut relay = Relay::start().await?;
    // The starts take no event.
    for work in starts {
        let start = relay.least(work, 0, progress).await?;
        let function = work.function();
        counts.insert(format!("{INSTRUCTIONS}{function}/start"), start);
    }
    for work in works {
        let few = relay.least(work, FEW, progress).await?;
        let many = relay.least(work, MANY, progress).await?;
        let (function, workers) = (work.function(), work.workers());
        let each = (many - few) / (MANY - FEW) as f64;
        counts.insert(format!("{INSTRUCTIONS}{function}/{workers}"), each);
    }
    relay.local.stop().await;
    Ok(())
}

/// What a function does again and again.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// `ingest` accepts a webhook that goes to one worker.
    Webhook,
    /// `deliver` POSTs a batch of so many messages, each in its own group.
    Messages(usize),
}

impl Work {
    fn function(self) -> &'static str {
        match self {
            Self::Webhook => "ingest",
            Self::Messages(_) => "deliver",
        }
    }

    /// How many workers want the event, or how many messages the batch has.
    fn workers(self) -> usize {
        match self {
            Self::Webhook => 1,
            Self::Messages(messages) => messages,
        }
    }

    /// Whether the function's answer says that all of it was done.
    fn is_done(self, answer: &Value) -> bool {
        match self {
            Self::Webhook => {
                let body = answer["body"].as_str().unwrap_or_default();
                answer["statusCode"] == 200 && body.contains("\"deliveries\":1")
            }
            Self::Messages(_) => {
                (answer["batchItemFailures"].as_array()).is_some_and(Vec::is_empty)
            }
        }
    }
}

/// The embedded AWS and one worker.
struct Relay {
    local: LocalRelay,
    receiver: Receiver,
    /// What `ingest` put on the queue for the worker, in different groups.
    sent: Vec<Value>,
    /// How many webhooks there were: no two are alike.
    webhooks: usize,
    /// The only authority that the functions trust, so that their start does not depend on this machine's.
    authority: tempfile::NamedTempFile,
}

impl Relay {
    async fn start() -> anyhow::Result<Self> {
        let (options, sent) = one_machine::options_with_endpoint().await?;
        let Busy {
            local,
            receiver,
            mut load,
            ..
        } = Busy::start(options, 1, BODY).await?;
        // A worker's first success is recorded, which is not what is counted.
        for number in 0..BATCH_SIZE {
            load.one(number).await?;
        }
        let sent = std::mem::take(&mut *sent.lock());
        ensure!(sent.len() == BATCH_SIZE, "{} messages", sent.len());
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let authority = tempfile::NamedTempFile::new()?;
        std::fs::write(authority.path(), certified.cert.pem())?;
        Ok(Self {
            local,
            receiver,
            sent,
            webhooks: BATCH_SIZE,
            authority,
        })
    }

    /// What Lambda hands the function.
    fn event(&mut self, work: Work) -> String {
        match work {
            Work::Webhook => {
                self.webhooks += 1;
                let webhook = Webhook::signed(SECRET, body(self.webhooks, BODY));
                lambda_events::webhook(&webhook).to_string()
            }
            Work::Messages(messages) => {
                let sent = self.sent.iter().take(messages).map(lambda_events::message);
                let now = Clock::system().millis();
                lambda_events::batch(&self.local.sqs.url(QUEUE), now, sent).to_string()
            }
        }
    }

    /// The least number of instructions that a process needed for its start and so many events.
    async fn least(
        &mut self,
        work: Work,
        events: usize,
        progress: &ProgressBar,
    ) -> anyhow::Result<f64> {
        let function = work.function();
        progress.set_message(format!("instructions of {function}"));
        let program = programs::deployed(function)?;
        let mut least = f64::MAX;
        for _ in 0..RUNS {
            let run = self.run(&program, work, events).await;
            least = least.min(run.with_context(|| format!("`{function}` under callgrind"))?);
            progress.inc(1);
        }
        Ok(least)
    }

    /// The instructions of one process.
    async fn run(&mut self, program: &Path, work: Work, events: usize) -> anyhow::Result<f64> {
        let aws = self.local.aws.as_ref().context("there is no endpoint")?;
        let mut sandbox = Sandbox::start(PATIENCE).await?;
        let settings = sandbox.environment(work.function(), &self.local.sqs, &aws.key, &aws.url());
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            // No pipes for a debugger.
            .arg("--vgdb=no")
            .arg(program)
            .env_clear()
            .envs(settings)
            .env("SSL_CERT_FILE", self.authority.path())
            // `valgrind` may be a script.
            .env("PATH", environment("PATH").unwrap_or_default());
        let process = Program::start(command)?;
        let posted = self.receiver.received();
        sandbox.asked().await?;
        for _ in 0..events {
            let (_, answer) = sandbox.invoke(self.event(work)).await?;
            let answer: Value = serde_json::from_slice(&answer)?;
            ensure!(work.is_done(&answer), "the function answered {answer}");
            // It has finished the event only when it asks for the next one.
            sandbox.asked().await?;
        }
        if let Work::Messages(messages) = work {
            let posted = self.receiver.received() - posted;
            ensure!(posted == messages * events, "{posted} POSTs");
        }
        let collected = process.terminate("Collected :");
        let collected = (tokio::time::timeout(PATIENCE, collected).await)
            .context("the process does not end")??;
        (collected.parse()).with_context(|| format!("callgrind collected `{collected}`"))
    }
}
