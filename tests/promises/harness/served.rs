//! The relay as a separate process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use local::samples::{WORKSPACE, Webhook};
use protocol::clock::Clock;
use protocol::messages::{Mailbox, Registered};
use reqwest::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{SECRET, client, issue};

/// `edge-relay serve` as a separate process.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) client: Client,
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
                "--allow-private-workers",
                "--listen",
                "127.0.0.1:0",
            ])
            .arg("--data")
            .arg(directory)
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env("WORKSPACES", WORKSPACE)
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
        Self {
            child,
            url,
            client: client(),
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Registers a worker; its answer as it comes.
    pub(crate) async fn register<T: DeserializeOwned>(&self, request: &Value) -> T {
        let call = self.client.post(format!("{}/edge/register", self.url));
        let answer = call.json(request).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Posts a webhook about one issue; answers with what was answered.
    pub(crate) async fn post(&self, number: usize) -> Value {
        let webhook = Webhook::sample(SECRET, &issue("i", number), Clock::system().millis());
        let request = webhook.request(&self.client, &format!("{}/webhooks/linear", self.url));
        let answer = request.send().await.unwrap().error_for_status().unwrap();
        answer.json().await.unwrap()
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
