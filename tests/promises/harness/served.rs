//! The relay as a separate process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use local::samples::Webhook;
use protocol::clock::Clock;
use serde_json::Value;

use super::{SECRET, issue};

/// `edge-relay serve` as a separate process.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Served {
    pub(crate) fn start(directory: &Path, linear: &str) -> Self {
        Self::start_with(directory, linear, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(directory: &Path, linear: &str, more: &[(&str, &Path)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_edge"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--aws-listen",
                "127.0.0.1:0",
            ])
            .arg("--data")
            .arg(directory)
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env("LINEAR_API_URL", linear)
            .envs(more.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = said.next().expect("the relay ended").unwrap();
            if let Some(url) = line.trim().strip_prefix("agents") {
                break url.trim().to_owned();
            }
        };
        std::thread::spawn(move || said.for_each(drop));
        Self { child, url }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Posts a webhook about one issue; answers with what was answered.
pub(crate) async fn post(client: &reqwest::Client, url: &str, number: usize) -> Value {
    let webhook = Webhook::sample(SECRET, &issue("i", number), Clock::system().millis());
    let request = webhook.request(client, &format!("{url}/webhooks/linear"));
    request
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap()
        .json()
        .await
        .unwrap()
}
