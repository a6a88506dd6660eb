//! Webhook POST sent → body in the worker's handler: the relay in memory and in files, and beside it, in the same
//! run, a streaming hub that stores nothing and a sender that commits to SQLite.
//!
//! Each system is a separate process, so that its CPU time and memory are its own; webhooks are posted and
//! received in this one.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::load::{Load, PATIENCE, Percentiles};
use crate::one_machine;
use crate::peers::LISTENS;
use crate::programs::{self, Program, cpu_seconds, own_cpu_seconds, peak_memory};
use crate::receiver::Receiver;
use crate::streams;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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

    /// What stands in `results.json`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::RelayInMemory => "relay-in-memory",
            Self::RelayInFiles => "relay-in-files",
            Self::Outbox => "outbox",
            Self::Hub => "hub",
        }
    }

    /// The system with this key.
    pub(crate) fn of(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.key() == key)
    }

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
    /// A [`System::key`], or the name of a sender that is compared.
    pub(crate) system: String,
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
    /// CPU seconds of the system's processes for 1,000 deliveries, meanwhile; none if its processes are not known.
    pub(crate) cpu_seconds: Option<f64>,
    /// The same of the bench's, which posts and receives.
    pub(crate) bench_cpu_seconds: f64,
    /// Peak resident memory of the system's processes, MB; none if its processes are not known.
    pub(crate) memory: Option<f64>,
}

/// A system that runs, and what posts webhooks to it and receives for its workers.
pub(crate) struct Running {
    pub(crate) load: Load,
    /// Its processes on this machine; empty if they are not known.
    pub(crate) pids: Vec<u32>,
    /// Ends after the measurement; none if the bench did not start it.
    pub(crate) program: Option<Program>,
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

/// Posts and registers; a request that gets no response fails instead of blocking the measurement.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy();
    client.timeout(PATIENCE).build()
}

/// Starts a system with so many workers, and what posts webhooks to it and receives for them.
pub(crate) async fn start(system: System, workers: usize, body: usize) -> anyhow::Result<Running> {
    let client = client()?;
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
        workspaces: 1,
    };
    Ok(Running {
        load,
        pids: vec![program.pid()?],
        program: Some(program),
    })
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
                let running = start(system, workers, body).await?;
                rows.push(row(system.key(), running, plan.seconds).await?);
                progress.inc(1);
            }
        }
    }
    Ok(rows)
}

/// Measures a system, and ends it if the bench started it.
pub(crate) async fn row(system: &str, running: Running, seconds: u64) -> anyhow::Result<Row> {
    let Running {
        mut load,
        pids,
        program,
    } = running;
    let (workers, body) = (load.workers, load.body);
    // Connections are open and code is warm before anything is measured.
    load.paced(20.0, 20).await?;
    let rate = rate(workers);
    let events = ((rate * seconds as f64) as usize).max(20);
    let (each, last) = load.paced(rate, events).await?;
    let during = Duration::from_secs(seconds);
    let before = (cpu_seconds(&pids)?, own_cpu_seconds()?);
    let (deliveries, took) = load.sustained(outstanding(workers), during).await?;
    let thousands = deliveries as f64 / 1e3;
    let used = cpu_seconds(&pids)?.zip(before.0);
    let row = Row {
        system: system.to_owned(),
        workers,
        body,
        paced: rate,
        each_ms: Percentiles::of(each),
        last_ms: Percentiles::of(last),
        sustained: deliveries as f64 / took.as_secs_f64(),
        cpu_seconds: used.map(|(after, before)| (after - before) / thousands),
        bench_cpu_seconds: (own_cpu_seconds()? - before.1) / thousands,
        memory: peak_memory(&pids)?,
    };
    if let Some(program) = program {
        program.end().await?;
    }
    Ok(row)
}

/// Deliveries kept by `edge-relay serve --data` do not add to its memory: posts so many, and answers its peak
/// before and after, in MB.
pub(crate) async fn memory(events: usize, progress: &ProgressBar) -> anyhow::Result<(f64, f64)> {
    let Running {
        mut load, program, ..
    } = start(System::RelayInFiles, 1, 2_048).await?;
    let program = program.context("the bench starts `edge-relay`")?;
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

#[cfg(test)]
impl Row {
    /// A row with ten workers, whose latencies are all the same.
    pub(crate) fn example(system: &str, sustained: f64, cpu_seconds: Option<f64>, ms: f64) -> Self {
        let all = Percentiles {
            p50: ms,
            p95: ms,
            p99: ms,
        };
        Self {
            system: system.to_owned(),
            workers: 10,
            body: 2_048,
            paced: 50.0,
            each_ms: all,
            last_ms: all,
            sustained,
            cpu_seconds,
            bench_cpu_seconds: 0.1,
            memory: cpu_seconds.map(|_| 10.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_found_by_its_key() {
        for system in System::ALL {
            assert_eq!(System::of(system.key()), Some(system));
            let option = system.to_possible_value().unwrap();
            assert_eq!(option.get_name(), system.key());
        }
        assert_eq!(System::of("svix"), None);
    }
}
