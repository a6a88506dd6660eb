//! The relay on one machine, as a process or in this one, and workers registered with it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use local::linear_api::LinearApi;
use local::local_relay::{FREE_PORT, LocalRelay, Options};
use local::testing::calls::Calls;
use local::testing::lambda_events;
use parking_lot::Mutex;
use protocol::messages::{Register, Registered};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::load::{Load, SECRET};
use crate::payload::{WORKSPACE, workspace};
use crate::programs::{self, Program};
use crate::receiver::Receiver;

pub(crate) const TOKEN: &str = "lin_api_bench";

/// Starts a relay as a separate process; answers with its address too.
pub(crate) async fn serve(in_files: bool) -> anyhow::Result<(Program, String)> {
    serve_workspaces(in_files, 1).await
}

/// With so many workspaces, each of which has a user with the token that [`token`] says.
pub(crate) async fn serve_workspaces(
    in_files: bool,
    workspaces: usize,
) -> anyhow::Result<(Program, String)> {
    let data = in_files.then(tempfile::tempdir).transpose()?;
    let (program, url) = serve_from(data.as_ref().map(TempDir::path), workspaces).await?;
    Ok((program.with_data(data), url))
}

/// With its files in a directory, or in memory.
pub(crate) async fn serve_from(
    data: Option<&Path>,
    workspaces: usize,
) -> anyhow::Result<(Program, String)> {
    let mut command = Command::new(programs::path("edge-relay")?);
    command.args("serve --allow-private-workers --listen 127.0.0.1:0".split(' '));
    let names: Vec<_> = (0..workspaces).map(workspace).collect();
    let linear = linear(workspaces).await?;
    match data {
        Some(data) => command.arg("--data").arg(data),
        None => command.arg("--in-memory"),
    };
    command
        .env("LINEAR_WEBHOOK_SECRETS", SECRET)
        .env("WORKSPACES", names.join(","))
        .env("LINEAR_API_URL", format!("http://{linear}/"))
        .env("REGISTRATIONS_PER_MINUTE", "100000")
        .env("WORKERS_PER_USER", "100000")
        .env("WORKERS_PER_WORKSPACE", "100000")
        .env("RUST_LOG", "warn,dynoxide=error");
    let mut program = Program::start(command)?;
    let url = program.says("  agents ").await?;
    program.says("  kept ").await?;
    program.pass_on(true);
    Ok((program, url))
}

/// A relay in this process, its workers, and a load for them.
pub(crate) struct Busy {
    pub(crate) local: LocalRelay,
    pub(crate) workers: Vec<Registered>,
    pub(crate) receiver: Receiver,
    pub(crate) load: Load,
}

impl Busy {
    /// With so many workers alike.
    pub(crate) async fn start(
        options: Options,
        workers: usize,
        body: usize,
    ) -> anyhow::Result<Self> {
        Self::start_with(options, body, |receiver| {
            (0..workers).map(move |worker| worker_at(receiver, worker))
        })
        .await
    }

    /// With the workers that listen at a receiver.
    pub(crate) async fn start_with<R: Iterator<Item = Register>>(
        options: Options,
        body: usize,
        workers_at: impl FnOnce(SocketAddr) -> R,
    ) -> anyhow::Result<Self> {
        let local = LocalRelay::start(options).await?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (receiver, arrivals) = Receiver::start().await?;
        let workers = register_each(&client, &local.url(), workers_at(receiver.address)).await?;
        Ok(Self {
            load: Load {
                url: format!("{}/webhooks/linear", local.url()),
                client,
                arrivals,
                workers: workers.len(),
                body,
                workspaces: 1,
            },
            local,
            workers,
            receiver,
        })
    }
}

/// Options for a relay in this process, in memory, whose users Linear knows.
pub(crate) async fn options() -> anyhow::Result<Options> {
    options_with(linear(1).await?)
}

/// What `ingest` has put on the queue, an entry for each message.
pub(crate) type Sent = Arc<Mutex<Vec<Value>>>;

/// With an endpoint for functions in other processes. Also returns what the relay's own `ingest` puts on the queue.
pub(crate) async fn options_with_endpoint() -> anyhow::Result<(Options, Sent)> {
    let sent = Sent::default();
    let seen = Arc::clone(&sent);
    let observe = move |_: &'static str, target: &str, body: &[u8]| {
        if target == "AmazonSQS.SendMessageBatch" {
            (seen.lock()).extend(lambda_events::entries(body).unwrap_or_default());
        }
    };
    let options = Options {
        aws_listen: Some(FREE_PORT),
        calls: Calls::observed(Arc::new(observe)),
        ..options().await?
    };
    Ok((options, sent))
}

/// With another stand-in for Linear's API, or none.
pub(crate) fn options_with(linear: SocketAddr) -> anyhow::Result<Options> {
    Ok(Options::read(&|name| match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "WORKSPACES" => Some(WORKSPACE.to_owned()),
        "LINEAR_API_URL" => Some(format!("http://{linear}/")),
        "REGISTRATIONS_PER_MINUTE" | "WORKERS_PER_USER" | "WORKERS_PER_WORKSPACE" => {
            Some("100000".to_owned())
        }
        _ => None,
    })?)
}

/// The token of the user of one of many workspaces, of which the first is [`TOKEN`].
pub(crate) fn token(number: usize) -> String {
    match number {
        0 => TOKEN.to_owned(),
        _ => format!("{TOKEN}-{number}"),
    }
}

/// A stand-in for Linear's API that knows one user of each of so many workspaces.
async fn linear(workspaces: usize) -> anyhow::Result<SocketAddr> {
    let (linear, address) = LinearApi::start().await?;
    for number in 0..workspaces {
        linear.admit(&token(number), "user", &workspace(number));
    }
    Ok(address)
}

/// Registers so many workers that listen at `receiver`.
pub(crate) async fn register(
    client: &reqwest::Client,
    url: &str,
    receiver: SocketAddr,
    workers: usize,
) -> anyhow::Result<Vec<Registered>> {
    register_each(
        client,
        url,
        (0..workers).map(|worker| worker_at(receiver, worker)),
    )
    .await
}

/// The registration of a worker that listens at `receiver`.
pub(crate) fn worker_at(receiver: SocketAddr, worker: usize) -> Register {
    Register {
        webhook_url: Some(format!("http://{receiver}/{worker}")),
        linear_token: TOKEN.to_owned(),
        name: format!("worker-{worker}"),
        capabilities: None,
        filter: None,
        group: None,
        receipts: false,
        pulls: true,
        replace: None,
        holder: None,
        nonce: None,
    }
}

/// Registers workers, one after another.
pub(crate) async fn register_each(
    client: &reqwest::Client,
    url: &str,
    requests: impl Iterator<Item = Register>,
) -> anyhow::Result<Vec<Registered>> {
    let mut registered = Vec::new();
    for request in requests {
        let answer = client
            .post(format!("{url}/edge/register"))
            .json(&request)
            .send()
            .await?;
        let status = answer.status();
        ensure!(status == 201, "registration: {}", answer.text().await?);
        registered.push(answer.json().await?);
    }
    Ok(registered)
}
