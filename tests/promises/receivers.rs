//! The receivers of `examples/receivers`, each run as its page says: in the place of edge-agent they lose nothing, keep the order, and
//! believe nobody but the relay.
//!
//! They need Python 3, Go, and node 22.18 or newer, which runs TypeScript.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::harness::agent::{free_port, in_time};
use crate::harness::{Posted, Relay, TOKEN, client, issue, relay};

/// An example, and where it stores.
struct Example {
    command: fn() -> Command,
    directory: TempDir,
    port: u16,
}

/// One that runs.
struct Running {
    child: Child,
    stored: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/receivers")
}

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(examples());
    command
}

fn typescript() -> Command {
    program("node", &["receiver.ts"])
}

fn python() -> Command {
    program("python3", &["receiver.py"])
}

/// Built first: `go run` has a process of its own between.
fn go() -> Command {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("receiver");
    let mut go = std::process::Command::new("go");
    go.args(["build", "-o"]).arg(&built).arg(".");
    let done = go.current_dir(examples().join("go")).status().unwrap();
    assert!(done.success());
    Command::new(built)
}

impl Example {
    async fn new(command: fn() -> Command) -> Self {
        Self {
            command,
            directory: tempfile::tempdir().unwrap(),
            port: free_port().await,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Starts it, as a worker that is POSTed to or that pulls, and waits until it is registered.
    async fn start(&self, relay: &Relay, is_pushed: bool) -> Running {
        let mut command = (self.command)();
        command
            .env("RELAY", relay.local.url())
            .env("LINEAR_TOKEN", TOKEN)
            .env("NAME", "example")
            .env("DIR", self.directory.path())
            .env("LISTEN", format!("127.0.0.1:{}", self.port))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if is_pushed {
            command.env("WEBHOOK_URL", self.url());
        }
        let mut child = command.spawn().unwrap();
        let stored = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut running = Running {
            child,
            stored,
            said,
        };
        running.says("registered as example").await;
        running
    }

    /// Asserts that the events are stored byte for byte, after it has said so in their order.
    async fn stores(&self, running: &mut Running, posted: &[Posted]) {
        for posted in posted {
            let line = in_time(running.stored.next_line()).await.unwrap();
            assert_eq!(line, Some(format!("{} Issue", posted.event)));
            let file = self.directory.path().join(format!("{}.json", posted.event));
            assert_eq!(std::fs::read(file).unwrap(), posted.webhook.body);
        }
    }

    /// Asserts that it refuses what the relay has not signed, without a receipt.
    async fn refuses_a_stranger(&self) {
        let now = protocol::clock::Clock::system().seconds().to_string();
        let signature = format!("v1,{}", "A".repeat(43) + "=");
        for (body, signature) in [
            (json!({"type": "Issue"}), None),
            (json!({"type": "Issue"}), Some(signature.as_str())),
            (json!({"type": "edge.ping"}), Some(signature.as_str())),
            (json!({"type": "edge.challenge", "challenge": "x"}), None),
            (
                json!({"type": "edge.challenge", "challenge": "x", "nonce": ""}),
                None,
            ),
        ] {
            let mut call = client().post(self.url()).json(&body);
            if let Some(signature) = signature {
                let headers = [
                    ("id", "evt_1"),
                    ("timestamp", &now),
                    ("signature", signature),
                ];
                for (name, value) in headers {
                    call = call.header(format!("webhook-{name}"), value);
                }
            }
            let answer = call.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{body}");
            assert!(!answer.headers().contains_key("webhook-receipt"), "{body}");
        }
        assert!(!self.directory.path().join("evt_1.json").exists());
    }
}

impl Running {
    async fn says(&mut self, part: &str) {
        loop {
            let line = in_time(self.said.next_line()).await.unwrap();
            if line.expect("it runs").contains(part) {
                return;
            }
        }
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn post(relay: &Relay, numbers: std::ops::Range<usize>) -> Vec<Posted> {
    let mut posted = Vec::new();
    for number in numbers {
        posted.push(relay.post(&issue("i", number)).await);
    }
    posted
}

async fn keeps_the_protocol(command: fn() -> Command) {
    let (relay, example) = (relay().start().await, Example::new(command).await);
    let mut running = example.start(&relay, true).await;
    let posted = post(&relay, 0..3).await;
    example.stores(&mut running, &posted).await;
    // Without a valid receipt the relay would try again.
    relay.settled().await;
    example.refuses_a_stranger().await;

    running.kill().await;
    let posted = post(&relay, 3..6).await;
    let mut running = example.start(&relay, true).await;
    example.stores(&mut running, &posted).await;
    relay.settled().await;
    running.kill().await;

    // From now on it asks for its events.
    let mut running = example.start(&relay, false).await;
    let posted = post(&relay, 6..9).await;
    example.stores(&mut running, &posted).await;
    running.kill().await;
    assert!(relay.dead_letters().is_empty());
}

#[tokio::test]
#[ignore = "needs node 22.18 or newer"]
async fn the_receiver_in_typescript_keeps_the_protocol() {
    keeps_the_protocol(typescript).await;
}

#[tokio::test]
#[ignore = "needs Python 3"]
async fn the_receiver_in_python_keeps_the_protocol() {
    keeps_the_protocol(python).await;
}

#[tokio::test]
#[ignore = "needs Go"]
async fn the_receiver_in_go_keeps_the_protocol() {
    keeps_the_protocol(go).await;
}
