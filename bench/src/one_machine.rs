//! The relay on one machine, as a process or in this one, and workers registered with it.

use std::net::SocketAddr;

use anyhow::ensure;
use local::linear_api::LinearApi;
use local::local_relay::Options;
use protocol::messages::{Register, Registered};
use tokio::process::Command;

use crate::load::SECRET;
use crate::payload::WORKSPACE;
use crate::programs::{self, Program};

pub(crate) const TOKEN: &str = "lin_api_bench";

/// Starts a relay as a separate process; answers with its address too.
pub(crate) async fn serve(in_files: bool) -> anyhow::Result<(Program, String)> {
    let mut command = Command::new(programs::path("edge-relay")?);
    command.args("serve --allow-private-workers --listen 127.0.0.1:0".split(' '));
    let data = in_files.then(tempfile::tempdir).transpose()?;
    match &data {
        Some(data) => command.arg("--data").arg(data.path()),
        None => command.arg("--in-memory"),
    };
    command
        .env("LINEAR_WEBHOOK_SECRETS", SECRET)
        .env("WORKSPACES", WORKSPACE)
        .env("LINEAR_API_URL", format!("http://{}/", linear().await?))
        .env("REGISTRATIONS_PER_MINUTE", "100000")
        .env("WORKERS_PER_USER", "100000")
        .env("WORKERS_PER_WORKSPACE", "100000")
        .env("RUST_LOG", "warn,dynoxide=error");
    let mut program = Program::start(command)?.with_data(data);
    let url = program.says("  agents ").await?;
    program.says("  kept ").await?;
    program.pass_on(true);
    Ok((program, url))
}

/// Options for a relay in this process, in memory.
pub(crate) fn options(linear: SocketAddr) -> anyhow::Result<Options> {
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

/// A stand-in for Linear's API that knows one user of one workspace.
pub(crate) async fn linear() -> anyhow::Result<SocketAddr> {
    let (linear, address) = LinearApi::start().await?;
    linear.admit(TOKEN, "user", WORKSPACE);
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
