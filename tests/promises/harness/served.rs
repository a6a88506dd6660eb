//! The relay as a separate process.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use local::samples::{WORKSPACE, Webhook};
use protocol::clock::Clock;
use protocol::messages::{Mailbox, Registered};
use reqwest::{Client, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{SECRET, client, issue};

/// `edge-relay serve` as a separate process.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) client: Client,
    /// What it said before it was ready.
    pub(crate) said: String,
}

impl Served {
    pub(crate) fn start(directory: &Path, linear: &str) -> Self {
        Self::start_with(directory, linear, &[] as &[(&str, &Path)])
    }

    /// With more in its environment.
    pub(crate) fn start_with(
        directory: &Path,
        linear: &str,
        more: &[(&str, impl AsRef<OsStr>)],
    ) -> Self {
        let mut command = Self::command(directory, linear, "127.0.0.1:0");
        let more = more.iter().map(|(name, value)| (name, value.as_ref()));
        Self::run(command.envs(more)).expect("the relay ended")
    }

    pub(crate) fn command(directory: &Path, linear: &str, listen: &str) -> Command {
        // It fails to write a file that may not be larger, instead of being ended by a signal.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_edge"))
            .args(["serve", "--allow-private-workers", "--listen", listen])
            .arg("--data")
            .arg(directory)
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env("WORKSPACES", WORKSPACE)
            .env("LINEAR_API_URL", linear);
        command
    }

    /// Starts it. Fails with what it has said if it ends instead.
    pub(crate) fn run(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let url = loop {
            let Some(line) = lines.next() else {
                child.wait().unwrap();
                return Err(said);
            };
            let line = line.unwrap();
            if let Some(url) = line.trim().strip_prefix("agents") {
                break url.trim().to_owned();
            }
            said.push_str(&line);
            said.push('\n');
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            child,
            url,
            client: client(),
            said,
        })
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A number that proc_pid_status(5) says of it.
    #[cfg(target_os = "linux")]
    pub(crate) fn status(&self, name: &str) -> usize {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let value = value.unwrap().trim_start_matches(':');
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The most memory that it has had.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_megabytes(&self) -> usize {
        self.status("VmHWM") / 1024
    }

    /// Registers a worker; its answer as it comes.
    pub(crate) async fn register<T: DeserializeOwned>(&self, request: &Value) -> T {
        let call = self.client.post(format!("{}/edge/register", self.url));
        let answer = call.json(request).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Posts a webhook about one issue; answers with what was answered.
    pub(crate) async fn post(&self, number: usize) -> Value {
        let answer = self.send(&self.webhook(&issue("i", number))).await;
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    pub(crate) fn webhook(&self, payload: &str) -> Webhook {
        Webhook::sample(SECRET, payload, Clock::system().millis())
    }

    pub(crate) async fn send(&self, webhook: &Webhook) -> Response {
        let url = format!("{}/webhooks/linear", self.url);
        webhook.request(&self.client, &url).send().await.unwrap()
    }

    /// Answers with what is in a worker's mailbox.
    pub(crate) async fn pull(&self, worker: &Registered, request: &Value) -> Mailbox {
        let url = format!("{}{}/mailbox", self.url, worker.worker);
        let call = self.client.post(url).bearer_auth(&worker.token);
        let answer = call.json(request).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
