//! Tailscale Funnel: in the foreground, so that it ends with its process; the address is the machine's name in its
//! tailnet, from `status --json`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use url::Url;

/// The program, to be asked.
pub(super) struct StatusCommand(pub(super) PathBuf);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatusOutput {
    backend_state: String,
    #[serde(rename = "Self")]
    own: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "DNSName")]
    dns_name: String,
}

pub(super) fn arguments(listen: SocketAddr) -> Vec<String> {
    vec!["funnel".to_owned(), format!("http://{listen}")]
}

impl StatusCommand {
    /// The address, once the machine is in its tailnet.
    pub(super) async fn address(&self) -> Option<Url> {
        let mut asked = Command::new(&self.0)
            .args(["status", "--json", "--peers=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut output = Vec::new();
        let mut printed = asked.stdout.take()?.take(super::ANSWER_LIMIT as u64);
        let reading = printed.read_to_end(&mut output);
        let read = tokio::time::timeout(super::PROBE_TIMEOUT, reading).await;
        read.ok()?.ok()?;
        address(&output)
    }
}

/// The address in the output of `status --json`.
pub(super) fn address(output: &[u8]) -> Option<Url> {
    let status: StatusOutput = serde_json::from_slice(output).ok()?;
    if status.backend_state != "Running" {
        return None;
    }
    super::address_of(status.own.dns_name.trim_end_matches('.'))
}
