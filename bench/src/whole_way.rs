//! Webhook POST sent → body in the worker's handler: the relay in memory and in files, and beside it, in the same
//! run, a streaming hub that stores nothing and a sender that commits to SQLite.
//!
//! Each system is a separate process, so that its CPU time and memory are its own; webhooks are posted and
//! received in this one.

use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::load::{Load, Percentiles};
use crate::one_machine;
use crate::peers::LISTENS;
use crate::programs::{self, Program, own_cpu_seconds};
use crate::receiver::Receiver;
use crate::streams;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    Hub,
    Outbox,
    RelayInMemory,
    RelayInFiles,
}

impl System {
    pub(crate) const ALL: [Self; 4] = [
        Self::RelayInMemory,
        Self::RelayInFiles,
        Self::Outbox,
        Self::Hub,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RelayInMemory => "edge-relay in memory",
            Self::RelayInFiles => "edge-relay in files",
            Self::Outbox => "outbox in SQLite",
            Self::Hub => "streaming hub",
        }
    }
}

/// What is measured of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<System>,
    pub(crate) workers: Vec<usize>,
    pub(crate) bodies: Vec<usize>,
    /// How long each of the two measurements of a row takes.
    pub(crate) seconds: u64,
}

impl Plan {
    pub(crate) fn whole() -> Self {
        Self {
            systems: System::ALL.to_vec(),
            workers: vec![1, 10, 50, 100, 1_000],
            bodies: vec![2_048, 20_480],
            seconds: 5,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            workers: vec![1, 10],
            bodies: vec![2_048],
            seconds: 1,
            ..Self::whole()
        }
    }
}

/// One system with so many workers and bodies of this size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: System,
    pub(crate) workers: usize,
    pub(crate) body: usize,
    /// Events a second while latencies were taken.
    pub(crate) paced: f64,
    /// Of all deliveries, ms.
    pub(crate) each_ms: Percentiles,
    /// Of each event's last delivery, ms.
    pub(crate) last_ms: Percentiles,
    /// Deliveries a second, as many as possible.
    pub(crate) sustained: f64,
    /// CPU seconds of the system's process for 1,000 deliveries, meanwhile.
    pub(crate) cpu_seconds: f64,
    /// The same of the bench's, which posts and receives.
    pub(crate) bench_cpu_seconds: f64,
    /// Peak resident memory of the system's process, MB.
    pub(crate) memory: f64,
}

/// Well below what any of the systems sustains.
fn rate(workers: usize) -> f64 {
    match workers {
        0..=1 => 100.0,
        2..=10 => 50.0,
        11..=50 => 15.0,
        51..=100 => 10.0,
        _ => 1.0,
    }
}

/// Events on their way at once when as many as possible are: so many that no part waits for work, so few that the
/// queue, and with it the memory, is bounded.
fn outstanding(workers: usize) -> usize {
    (640 / workers).clamp(8, 64)
}

/// Starts a peer, with its own file.
async fn peer(name: &str) -> anyhow::Result<(Program, String)> {
    let data = tempfile::tempdir()?;
    let mut command = Command::new(programs::path("bench")?);
    command.args(["peer", name]);
    if name == "outbox" {
        command.arg(data.path().join("outbox.db"));
    }
    let mut program = Program::start(command)?.with_data(Some(data));
    let url = program.says(LISTENS).await?;
    program.pass_on(true);
    Ok((program, url))
}

/// Starts a system with so many workers, and what posts webhooks to it and receives for them.
async fn start(system: System, workers: usize, body: usize) -> anyhow::Result<(Program, Load)> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (program, url) = match system {
        System::RelayInMemory => one_machine::serve(false).await?,
        System::RelayInFiles => one_machine::serve(true).await?,
        System::Outbox => peer("outbox").await?,
        System::Hub => peer("hub").await?,
    };
    let arrivals = if system == System::Hub {
        streams::open(&url, workers).await?
    } else {
        let (receiver, arrivals) = Receiver::start().await?;
        let address = receiver.address;
        if system == System::Outbox {
            for worker in 0..workers {
                let request = client.post(format!("{url}/workers"));
                let request = request.body(format!("http://{address}/{worker}"));
                let status = request.send().await?.status();
                ensure!(status == 201, "the outbox took no worker");
            }
        } else {
            one_machine::register(&client, &url, address, workers).await?;
        }
        arrivals
    };
    let load = Load {
        client,
        url: format!("{url}/webhooks/linear"),
        arrivals,
        workers,
        body,
    };
    Ok((program, load))
}

/// Measures every combination, one after the other.
pub(crate) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    progress.set_length((plan.systems.len() * plan.workers.len() * plan.bodies.len()) as u64);
    for &body in &plan.bodies {
        for &workers in &plan.workers {
            for &system in &plan.systems {
                let what = format!("{}, {workers} workers, {body} bytes", system.name());
                progress.set_message(what);
                rows.push(row(system, workers, body, plan.seconds).await?);
                progress.inc(1);
            }
        }
    }
    Ok(rows)
}

async fn row(system: System, workers: usize, body: usize, seconds: u64) -> anyhow::Result<Row> {
    let (program, mut load) = start(system, workers, body).await?;
    // Connections are open and code is warm before anything is measured.
    load.paced(20.0, 20).await?;
    let rate = rate(workers);
    let events = ((rate * seconds as f64) as usize).max(20);
    let (each, last) = load.paced(rate, events).await?;
    let during = Duration::from_secs(seconds);
    let before = (program.cpu_seconds()?, own_cpu_seconds()?);
    let (deliveries, took) = load.sustained(outstanding(workers), during).await?;
    let thousands = deliveries as f64 / 1e3;
    let row = Row {
        system,
        workers,
        body,
        paced: rate,
        each_ms: Percentiles::of(each),
        last_ms: Percentiles::of(last),
        sustained: deliveries as f64 / took.as_secs_f64(),
        cpu_seconds: (program.cpu_seconds()? - before.0) / thousands,
        bench_cpu_seconds: (own_cpu_seconds()? - before.1) / thousands,
        memory: program.peak_memory()?,
    };
    program.end().await?;
    Ok(row)
}

/// Deliveries kept by `edge-relay serve --data` do not add to its memory: posts so many, and answers its peak
/// before and after, in MB.
pub(crate) async fn memory(events: usize, progress: &ProgressBar) -> anyhow::Result<(f64, f64)> {
    let (program, mut load) = start(System::RelayInFiles, 1, 2_048).await?;
    let at_once = outstanding(1);
    load.sustained(at_once, Duration::from_secs(1)).await?;
    let before = program.peak_memory()?;
    progress.set_length(events as u64);
    let mut done = 0;
    while done < events {
        let (deliveries, _) = load.sustained(at_once, Duration::from_secs(5)).await?;
        done += deliveries;
        progress.set_position(done as u64);
    }
    Ok((before, program.peak_memory()?))
}
