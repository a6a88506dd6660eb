//! What each memory size of Lambda means for the functions: a bootstrap as it is deployed has as much memory and CPU time as Lambda
//! would give it, from the moment after its process was made.

mod control_group;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use local::local_relay::QUEUE;
use local::testing::lambda_events;
use local::testing::sandbox::Sandbox;
use protocol::clock::Clock;
use relay::queue::BATCH_SIZE;
use serde_json::Value;

use self::control_group::ControlGroup;
use crate::cold_start::{Aws, Bootstrap, median};
use crate::load::{Load, Percentiles, webhook};
use crate::one_machine::{self, Busy, Sent};
use crate::programs::deployed;

/// In MB.
const SIZES: [u64; 3] = [128, 256, 512];
const STARTS: usize = 11;
const EVENTS: usize = 100;
/// Between events: what CPU time one has used up does not delay the next.
const PAUSE: Duration = Duration::from_millis(200);
const BODY: usize = 2_048;
/// As long as a body may be, nearly.
const LARGE_BODY: usize = 5_900_000;
/// More than the time limit of a function.
const PATIENCE: Duration = Duration::from_secs(120);

/// An embedded AWS with a worker, to which events are delivered.
struct Stage {
    aws: Aws,
    load: Load,
    sent: Sent,
}

/// Prints what was measured.
pub(crate) async fn measure(quick: bool, progress: &ProgressBar) -> anyhow::Result<()> {
    let (starts, events) = if quick { (1, 3) } else { (STARTS, EVENTS) };
    let mut stage = Stage::start().await?;
    let webhooks = stage.batch(BODY, 1).await?;
    let large = stage.batch(LARGE_BODY, BATCH_SIZE).await?;
    println!(
        "| MB | function | start ms | first event | event p50 | p99 | peak MB | {BATCH_SIZE} bodies of 5.9 MB: ms | peak MB |"
    );
    println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|");
    for size in SIZES {
        for function in ["ingest", "deliver"] {
            progress.set_message(format!("{function} with {size} MB"));
            let event = |number: usize| match function {
                "ingest" => Ok(lambda_events::webhook(&webhook(number, BODY, 1)?).to_string()),
                _ => Ok(webhooks.clone()),
            };
            let (start, first) = stage.starts(function, size, starts, &event).await?;
            let (ms, peak) = stage.events(function, size, events, &event).await?;
            let large = match function {
                "ingest" => "|".to_owned(),
                _ => stage.large_batch(size, &large).await?,
            };
            println!(
                "| {size} | {function} | {start:.0} | {first:.0} | {:.1} | {:.1} | {peak:.0} | {large} |",
                ms.p50, ms.p99
            );
        }
    }
    stage.aws.local.stop().await;
    Ok(())
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let (options, sent) = one_machine::options_with_endpoint().await?;
        let Busy { local, load, .. } = Busy::start(options, 1, BODY).await?;
        let aws = Aws::of(local).await?;
        Ok(Self { aws, load, sent })
    }

    /// A batch of so many events, which were delivered before: the function reads what it needs for them, and POSTs them again.
    async fn batch(&mut self, body: usize, events: usize) -> anyhow::Result<String> {
        self.load.body = body;
        self.sent.lock().clear();
        for number in 0..events {
            self.load.one(number).await?;
        }
        let sent = self.sent.lock();
        ensure!(sent.len() == events, "{} messages", sent.len());
        let messages = sent.iter().map(lambda_events::message);
        let now = Clock::system().millis();
        Ok(lambda_events::batch(&self.aws.local.sqs.url(QUEUE), now, messages).to_string())
    }

    async fn bootstrap(&self, function: &str, group: &ControlGroup) -> anyhow::Result<Bootstrap> {
        let sandbox = Sandbox::start(PATIENCE).await?;
        let bootstrap = Bootstrap::start(
            &deployed(function)?,
            function,
            &self.aws,
            &self.aws.tls,
            sandbox,
        )?;
        group.add(bootstrap.program.pid()?)?;
        Ok(bootstrap)
    }

    /// Medians of the time to the first `next` and of the first event, in ms.
    async fn starts(
        &self,
        function: &str,
        size: u64,
        times: usize,
        event: &impl Fn(usize) -> anyhow::Result<String>,
    ) -> anyhow::Result<(f64, f64)> {
        let (mut next, mut first) = (Vec::new(), Vec::new());
        for number in 0..times {
            let group = ControlGroup::new(size)?;
            let mut bootstrap = self.bootstrap(function, &group).await?;
            next.push(bootstrap.ready().await?);
            first.push(done(bootstrap.handle(event(number)?).await?)?);
            bootstrap.program.end().await?;
        }
        Ok((median(next), median(first)))
    }

    /// The times of later events, and the process's peak memory in MB.
    async fn events(
        &self,
        function: &str,
        size: u64,
        events: usize,
        event: &impl Fn(usize) -> anyhow::Result<String>,
    ) -> anyhow::Result<(Percentiles, f64)> {
        let group = ControlGroup::new(size)?;
        let mut bootstrap = self.bootstrap(function, &group).await?;
        bootstrap.ready().await?;
        done(bootstrap.handle(event(0)?).await?)?;
        let mut times = Vec::new();
        for number in 1..=events {
            tokio::time::sleep(PAUSE).await;
            let took = done(bootstrap.handle(event(number)?).await?)?;
            times.push(took.as_secs_f64() * 1e3);
        }
        let peak = bootstrap.program.peak_memory()?;
        bootstrap.program.end().await?;
        Ok((Percentiles::of(times), peak))
    }

    async fn large_batch(&self, size: u64, batch: &str) -> anyhow::Result<String> {
        let group = ControlGroup::new(size)?;
        let mut bootstrap = self.bootstrap("deliver", &group).await?;
        bootstrap.ready().await?;
        let handled = bootstrap.handle(batch.to_owned()).await;
        if group.was_killed()? {
            return Ok("out of memory |".to_owned());
        }
        let (took, answer) = handled.context("deliver failed with a large batch")?;
        let left = answer["batchItemFailures"].as_array().map_or(0, Vec::len);
        let peak = bootstrap.program.peak_memory()?;
        bootstrap.program.end().await?;
        let (delivered, ms) = (BATCH_SIZE - left, took.as_secs_f64() * 1e3);
        Ok(format!("{ms:.0}, {delivered} delivered | {peak:.0}"))
    }
}

/// The time that an event took, if the answer says that all of it was done.
fn done((took, answer): (Duration, Value)) -> anyhow::Result<Duration> {
    let failures = answer["batchItemFailures"].as_array();
    let is_done = answer["statusCode"] == 200 || failures.is_some_and(Vec::is_empty);
    ensure!(is_done, "a function answered {answer}");
    Ok(took)
}
