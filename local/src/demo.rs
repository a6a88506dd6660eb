//! The demo: five events through the whole relay, and three that are parked while the agent is offline.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use protocol::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::linear_api::LinearApi;
use crate::local_relay::{LocalRelay, Options};
use crate::samples::{FIVE_KINDS, ONE_ISSUE, WORKSPACE, Webhook};

const SECRET: &str = "the demo's webhook secret";
const TOKEN: &str = "lin_api_demo";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo to its end.
pub(crate) async fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    println!("edge-relay demo: all of it on this machine, in memory, no network, no account\n");
    let (linear, api) = LinearApi::start().await?;
    linear.admit(TOKEN, "ana", WORKSPACE);
    let relay = start(api).await?;
    println!(
        "1  relay    HTTP API, ingest, register, deliver, SQS and DynamoDB on {}",
        relay.url()
    );

    let home = tempfile::tempdir()?;
    let port = free_port().await?;
    let mut agent = Agent::start(&relay, home.path(), port).await?;
    println!(
        "2  agent    edge-agent as process {}, its address challenged and registered",
        agent.id()
    );

    println!(
        "3  events   posted as Linear posts them; printed by the agent once verified and stored\n"
    );
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/webhooks/linear", relay.url());
    let mut times = Vec::new();
    for sample in FIVE_KINDS {
        let sent = Instant::now();
        let webhook = post(&client, &url, sample).await?;
        let event = agent.event().await?;
        let took = sent.elapsed();
        verify_delivery(&event, &webhook)?;
        show(&event, &format!("{:.1} ms", took.as_secs_f64() * 1e3));
        times.push(took);
    }

    agent.stop().await?;
    println!("\n4  offline  the agent has gone offline and ended; three more events are posted");
    let mut missed = Vec::new();
    for sample in ONE_ISSUE {
        missed.push(post(&client, &url, sample).await?);
    }
    println!("5  online   the agent starts again and pulls its mailbox\n");
    let mut agent = Agent::start(&relay, home.path(), port).await?;
    for webhook in &missed {
        let event = agent.event().await?;
        verify_delivery(&event, webhook)?;
        show(&event, "from the mailbox, in order");
    }
    agent.stop().await?;
    relay.stop().await;

    times.sort_unstable();
    println!(
        "\n8 events posted, 8 verified byte for byte, none lost, none twice; median {:.1} ms from POST to stdout; {:.1} s in all",
        times[times.len() / 2].as_secs_f64() * 1e3,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn start(api: SocketAddr) -> anyhow::Result<LocalRelay> {
    let options = Options::read(&|name| match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "WORKSPACES" => Some(WORKSPACE.to_owned()),
        "LINEAR_API_URL" => Some(format!("http://{api}/graphql")),
        _ => None,
    })?;
    LocalRelay::start(options).await
}

/// A port for the agent, the same before and after its sleep.
async fn free_port() -> anyhow::Result<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}

async fn post(client: &reqwest::Client, url: &str, sample: &str) -> anyhow::Result<Webhook> {
    let webhook = Webhook::sample(SECRET, sample, Clock::system().millis());
    let answer = webhook.request(client, url).send().await?;
    ensure!(
        answer.status() == 200,
        "the relay answered {}",
        answer.status()
    );
    Ok(webhook)
}

/// Compares a printed event with the webhook that was posted.
fn verify_delivery(event: &Value, webhook: &Webhook) -> anyhow::Result<()> {
    let expected = format!("evt_{}", webhook.delivery);
    ensure!(
        event["id"] == expected,
        "another event arrived: {}",
        event["id"]
    );
    let body = event["body"].as_str().unwrap_or_default();
    ensure!(
        body.as_bytes() == webhook.body,
        "the body of {expected} was changed on its way"
    );
    Ok(())
}

fn show(event: &Value, how: &str) {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let kind = format!("{}.{}", text("type"), text("action"));
    println!("   {kind:<38} {}  {how}", text("id"));
}

/// A real `edge-agent`: this program as a second process.
struct Agent {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    async fn start(relay: &LocalRelay, home: &Path, port: u16) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["agent", "up", "--name", "demo", "--relay", &relay.url()])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--inspect", "off"])
            .args(["--public-url", &format!("http://127.0.0.1:{port}/webhook")])
            .arg("--data")
            .arg(home)
            .env("LINEAR_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the agent")?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("the agent has no output");
        };
        let mut said = BufReader::new(stderr).lines();
        let mut all = Vec::new();
        let ready = async {
            while let Some(line) = said.next_line().await? {
                let is_ready = line.contains("ready:");
                all.push(line);
                if is_ready {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        };
        let is_ready = tokio::time::timeout(PATIENCE, ready).await;
        if !matches!(is_ready, Ok(Ok(true))) {
            bail!("the agent is not ready; its output: {}", all.join("; "));
        }
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The next event that it prints.
    async fn event(&mut self) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line())
            .await
            .context("no event arrived in time")??
            .context("the agent ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Ends it with SIGTERM.
    async fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the agent has ended")?, Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.context("the agent does not end")??;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}
