//! `edge-relay serve` as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::whole_way::SECRET;

pub(crate) struct RelayProcess {
    child: Child,
    pub(crate) url: String,
    _data: Option<tempfile::TempDir>,
}

impl RelayProcess {
    pub(crate) async fn start(linear: SocketAddr, durable: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("edge-relay");
        let data = durable.then(tempfile::tempdir).transpose()?;
        let mut command = Command::new(&program);
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--aws-listen",
            "127.0.0.1:0",
        ]);
        match &data {
            Some(data) => command.arg("--data").arg(data.path()),
            None => command.arg("--in-memory"),
        };
        let mut child = command
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env("LINEAR_API_URL", format!("http://{linear}/"))
            .env("REGISTRATIONS_PER_MINUTE", "100000")
            .env("RUST_LOG", "warn,dynoxide=error")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start `{}`: build the workspace first",
                    program.display()
                )
            })?;
        let stderr = child.stderr.take().context("the relay has no stderr")?;
        let mut said = BufReader::new(stderr).lines();
        while let Some(line) = said.next_line().await? {
            if let Some(url) = line.trim().strip_prefix("agents") {
                let url = url.trim().to_owned();
                tokio::spawn(async move {
                    while let Ok(Some(line)) = said.next_line().await {
                        eprintln!("{line}");
                    }
                });
                return Ok(Self {
                    child,
                    url,
                    _data: data,
                });
            }
        }
        bail!("the relay ended before it was ready")
    }

    /// CPU time used so far, in seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the relay has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // utime and stime are the 14th and 15th field, in ticks of 10 ms; the name may hold spaces.
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after.split_whitespace().skip(11).take(2);
        Ok(ticks
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0)
    }

    /// Peak resident memory, in MB.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<f64> {
        peak_memory(self.child.id().context("the relay has ended")?)
    }
}

/// Peak resident memory of a process, in MB.
pub(crate) fn peak_memory(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = peak
        .and_then(|p| p.split_whitespace().next()?.parse().ok())
        .context("no VmHWM")?;
    Ok(kib * 1024.0 / 1e6)
}
