//! The agent on a developer's machine: how fast it is ready, how many deliveries it verifies and stores a second on
//! one core, and what memory that takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use protocol::clock::Clock;
use protocol::signature::{Secret, sign};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::one_machine::{self, TOKEN};
use crate::payload;
use crate::programs::{self, Program};

/// How many deliveries are under way at once: half as many as the agent has places for connections. A client that opens one while
/// another is about to be free does not exceed them either, so that none is closed to make room.
const SIDE_BY_SIDE: usize = 32;

struct Agent {
    program: Program,
    address: String,
    listening: Duration,
    ready: Duration,
}

impl Agent {
    /// On one core, if `core` says which; events go to `handler`, or to a stdout that is not read.
    async fn start(
        relay: &str,
        home: &Path,
        core: Option<&str>,
        handler: Option<u16>,
    ) -> anyhow::Result<Self> {
        let agent = programs::path("edge-agent")?;
        let mut command = match core {
            None => Command::new(&agent),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(&agent);
                command
            }
        };
        command
            .args("up --name bench --replace --listen 127.0.0.1:0 --inspect 127.0.0.1:0 --poll 1h --relay".split(' '))
            .arg(relay)
            .arg("--data")
            .arg(home)
            .args(handler.map(|port| port.to_string()))
            .env("LINEAR_TOKEN", TOKEN)
            .current_dir(home);
        let began = Instant::now();
        let mut program = Program::start(command)?;
        let address = program.says("listening on ").await?;
        let listening = began.elapsed();
        program.says("ready:").await?;
        let ready = began.elapsed();
        program.pass_on(false);
        Ok(Self {
            program,
            address,
            listening,
            ready,
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgentFigures {
    /// Median, ms: from its start until it listens, and until it has renewed at the relay.
    pub(crate) listening_ms: f64,
    pub(crate) ready_ms: f64,
    pub(crate) events: usize,
    pub(crate) side_by_side: usize,
    pub(crate) printed: Flood,
    pub(crate) handled: Flood,
    /// Until the handler had taken all, s.
    pub(crate) all_handled_seconds: f64,
}

/// As many deliveries as it takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// Verified and stored a second.
    pub(crate) rate: f64,
    /// Resident memory before, after and at most, MB.
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) peak: f64,
}

fn secret(home: &Path) -> anyhow::Result<Secret> {
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.join("registration.json"))?)?;
    Ok(Secret::parse(
        kept["secret"].as_str().context("no secret")?,
    )?)
}

/// Measures so many starts, of which the first registers it, its deliveries a second and its memory.
pub(crate) async fn measure(
    times: usize,
    events: usize,
    progress: &ProgressBar,
) -> anyhow::Result<AgentFigures> {
    progress.set_length(times as u64 + 2);
    let (_relay, url) = one_machine::serve(false).await?;
    let home = tempfile::tempdir()?;
    let mut starts = Vec::new();
    for _ in 0..times {
        let agent = Agent::start(&url, home.path(), None, None).await?;
        starts.push((agent.ready, agent.listening));
        agent.program.end().await?;
        progress.inc(1);
    }
    // The first one registered.
    starts.remove(0);
    starts.sort_unstable();
    let (ready, listening) = starts[starts.len() / 2];

    let agent = Agent::start(&url, home.path(), Some("0"), None).await?;
    let printed = flood(&agent, home.path(), events).await?;
    agent.program.end().await?;
    progress.inc(1);

    let home = tempfile::tempdir()?;
    let (port, taken) = handler().await?;
    let agent = Agent::start(&url, home.path(), Some("0"), Some(port)).await?;
    let began = Instant::now();
    let handled = flood(&agent, home.path(), events).await?;
    while taken.load(Ordering::Relaxed) < events {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all_handled_seconds = began.elapsed().as_secs_f64();
    let handled = Flood {
        after: agent.program.memory("VmRSS")?,
        peak: agent.program.peak_memory()?,
        ..handled
    };
    agent.program.end().await?;
    progress.inc(1);
    Ok(AgentFigures {
        listening_ms: listening.as_secs_f64() * 1e3,
        ready_ms: ready.as_secs_f64() * 1e3,
        events,
        side_by_side: SIDE_BY_SIDE,
        printed,
        handled,
        all_handled_seconds,
    })
}

async fn flood(agent: &Agent, home: &Path, events: usize) -> anyhow::Result<Flood> {
    let before = agent.program.memory("VmRSS")?;
    let took = deliver(&agent.address, &secret(home)?, events).await?;
    Ok(Flood {
        rate: events as f64 / took.as_secs_f64(),
        before,
        after: agent.program.memory("VmRSS")?,
        peak: agent.program.peak_memory()?,
    })
}

/// A handler that takes everything; where it listens, and how much it took.
async fn handler() -> anyhow::Result<(u16, Arc<AtomicUsize>)> {
    let handled = Arc::new(AtomicUsize::new(0));
    let router = axum::Router::new().fallback({
        let handled = Arc::clone(&handled);
        move |_: axum::body::Bytes| async move {
            handled.fetch_add(1, Ordering::Relaxed);
        }
    });
    let listener = tokio::net::TcpListener::bind("localhost:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((port, handled))
}

/// Delivers so many events as the relay would; answers how long it took.
async fn deliver(address: &str, secret: &Secret, events: usize) -> anyhow::Result<Duration> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut posters = tokio::task::JoinSet::new();
    for _ in 0..SIDE_BY_SIDE {
        let (client, next) = (client.clone(), Arc::clone(&next));
        let (address, secret) = (address.to_owned(), secret.clone());
        posters.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= events {
                    return anyhow::Ok(());
                }
                let body = payload::body(number, 2_048);
                let id = format!("evt_{number}");
                let now = Clock::system().seconds();
                let signature = sign(std::slice::from_ref(&secret), &id, now, body.as_bytes());
                let answer = client
                    .post(&address)
                    .header("webhook-id", id)
                    .header("webhook-timestamp", now)
                    .header("webhook-signature", signature)
                    .body(body)
                    .send()
                    .await?;
                ensure!(
                    answer.status() == 202,
                    "the agent answered {}",
                    answer.status()
                );
            }
        });
    }
    while let Some(ended) = posters.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}
