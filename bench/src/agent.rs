//! The agent on a developer's machine: how fast it is ready, how many deliveries it verifies and stores a second on
//! one core, and what memory that takes.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use local::linear_api::LinearApi;
use local::samples::WORKSPACE;
use protocol::clock::Clock;
use protocol::signature::{Secret, sign};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::relay_process::RelayProcess;

const TOKEN: &str = "lin_api_bench";
/// How many deliveries are under way at once.
const SIDE_BY_SIDE: usize = 64;
const STARTS: usize = 21;

struct Agent {
    child: Child,
    address: String,
    listening: Duration,
    ready: Duration,
}

impl Agent {
    /// On one core, if `core` says which; events go to `handler`, or to a stdout that nobody reads.
    async fn start(
        relay: &str,
        home: &Path,
        core: Option<&str>,
        handler: Option<u16>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("edge-agent");
        let mut command = match core {
            None => Command::new(&program),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(&program);
                command
            }
        };
        command
            .args([
                "up",
                "--name",
                "bench",
                "--listen",
                "127.0.0.1:0",
                "--poll",
                "1h",
                "--relay",
                relay,
                "--data",
            ])
            .arg(home)
            .args(handler.map(|port| port.to_string()))
            .env("LINEAR_TOKEN", TOKEN)
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start `{}`: build the workspace first",
                program.display()
            )
        })?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let (mut address, mut listening) = (None, Duration::ZERO);
        while let Some(line) = said.next_line().await? {
            if let Some((_, url)) = line.split_once("listening on ") {
                address = Some(url.to_owned());
                listening = began.elapsed();
            } else if line.contains("ready:") {
                let ready = began.elapsed();
                tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
                return Ok(Self {
                    child,
                    address: address.context("it did not say where it listens")?,
                    listening,
                    ready,
                });
            }
        }
        bail!("the agent ended before it was ready")
    }

    /// `VmRSS` or `VmHWM`, in MB.
    fn memory(&self, field: &str) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the agent has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kilobytes.context("no such field")? / 1000.0)
    }
}

fn secret(home: &Path) -> anyhow::Result<Secret> {
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.join("registration.json"))?)?;
    Ok(Secret::parse(
        kept["secret"].as_str().context("no secret")?,
    )?)
}

/// Measures all three.
pub(crate) async fn run(events: usize) -> anyhow::Result<()> {
    let (linear, address) = LinearApi::start().await?;
    linear.admit(TOKEN, "ana", WORKSPACE);
    let relay = RelayProcess::start(address, false).await?;
    let home = tempfile::tempdir()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let mut agent = Agent::start(&relay.url, home.path(), None, None).await?;
        starts.push((agent.ready, agent.listening));
        agent.child.kill().await?;
    }
    // The first one registered.
    starts.remove(0);
    starts.sort_unstable();
    let (ready, listening) = starts[starts.len() / 2];
    println!(
        "start, median of {}: listening after {:.1} ms, ready (renewed at the relay) after {:.1} ms",
        starts.len(),
        listening.as_secs_f64() * 1e3,
        ready.as_secs_f64() * 1e3
    );

    let agent = Agent::start(&relay.url, home.path(), Some("0"), None).await?;
    flood_and_tell(&agent, home.path(), events, "printed").await?;
    drop(agent);

    let home = tempfile::tempdir()?;
    let (port, handled) = handler().await?;
    let agent = Agent::start(&relay.url, home.path(), Some("0"), Some(port)).await?;
    let began = Instant::now();
    flood_and_tell(&agent, home.path(), events, "for a handler").await?;
    while handled.load(Ordering::Relaxed) < events {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "all handled over HTTP after {:.1} s; {:.1} MB then, {:.1} MB at most",
        began.elapsed().as_secs_f64(),
        agent.memory("VmRSS")?,
        agent.memory("VmHWM")?
    );
    Ok(())
}

async fn flood_and_tell(
    agent: &Agent,
    home: &Path,
    events: usize,
    how: &str,
) -> anyhow::Result<()> {
    let before = agent.memory("VmRSS")?;
    let took = flood(&agent.address, &secret(home)?, events).await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of events is far below 2^52"
    )]
    let rate = events as f64 / took.as_secs_f64();
    println!(
        "{events} deliveries of 2 KB, {how}, {SIDE_BY_SIDE} at once, agent on one core: {rate:.0} verified and stored a second; \
         {before:.1} MB before, {:.1} MB after, {:.1} MB at most",
        agent.memory("VmRSS")?,
        agent.memory("VmHWM")?
    );
    Ok(())
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
async fn flood(address: &str, secret: &Secret, events: usize) -> anyhow::Result<Duration> {
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
                let filler = "x".repeat(1_900);
                let body = format!(
                    "{{\"type\":\"Issue\",\"action\":\"update\",\"organizationId\":\"{WORKSPACE}\",\"webhookTimestamp\":0,\"data\":{{\"id\":\"{}\",\"description\":\"{filler}\"}}}}",
                    number % 1_000
                );
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
                ensure!(answer.status() == 202, "the agent answered {}", answer.status());
            }
        });
    }
    while let Some(ended) = posters.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}
