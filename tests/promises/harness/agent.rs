//! The agent under test: a separate process, or a task whose clock is the relay's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use edge_agent::Failure;
use edge_agent::signal::Signal;
use edge_agent::up::Environment;
use protocol::signature::{Secret, sign};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Registration, Relay, TOKEN, terminate};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program, with nothing of this process's environment that it would read.
pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("EDGE_AGENT_DATA", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Asserts that stderr has this in it.
    pub(crate) fn warns(&self, part: &str) {
        assert!(self.stderr.contains(part), "{self:?}");
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        (self.stdout.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Runs a command of the agent's to its end.
pub(crate) async fn run(home: &Path, arguments: &[&str]) -> Output {
    output(command(home).args(arguments)).await
}

/// Runs it with something on stdin.
pub(crate) async fn run_with(home: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = (command(home).args(arguments).stdin(Stdio::piped()))
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).await.unwrap();
    read(
        tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap(),
    )
}

pub(crate) async fn output(command: &mut Command) -> Output {
    read(
        tokio::time::timeout(PATIENCE, command.output())
            .await
            .unwrap()
            .unwrap(),
    )
}

fn read(output: std::process::Output) -> Output {
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) async fn free_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// `edge-agent up` as a process.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
    said: mpsc::UnboundedReceiver<String>,
    /// Where it takes deliveries.
    pub(crate) address: String,
}

impl Agent {
    /// `up`, not started yet.
    pub(crate) fn up(relay: &Relay, home: &Path) -> Command {
        let mut command = command(home);
        command
            .args(["up", "--name", "laptop"])
            .env("EDGE_AGENT_RELAY", relay.local.url())
            .env("LINEAR_TOKEN", TOKEN)
            .env("EDGE_AGENT_POLL", "1s")
            .env("EDGE_AGENT_LISTEN", "127.0.0.1:0");
        command
    }

    pub(crate) async fn pushed(relay: &Relay, home: &Path, port: u16) -> Self {
        let mut command = Self::up(relay, home);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--public-url", &format!("http://127.0.0.1:{port}/webhook")]);
        Self::start(&mut command).await
    }

    pub(crate) async fn pulling(relay: &Relay, home: &Path) -> Self {
        Self::start(&mut Self::up(relay, home)).await
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let mut agent = Self::begin(command).await;
        agent.says("ready:").await;
        agent
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn begin(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                let _ = say.send(line);
            }
        });
        let mut agent = Self {
            child,
            lines,
            said,
            address: String::new(),
        };
        let listening = agent.says("listening on ").await;
        agent.address = listening.split("listening on ").nth(1).unwrap().to_owned();
        agent
    }

    /// Waits for a line on stderr with this in it.
    pub(crate) async fn says(&mut self, part: &str) -> String {
        let mut all = Vec::new();
        loop {
            let line = tokio::time::timeout(PATIENCE, self.said.recv()).await;
            match line {
                Ok(Some(line)) if line.contains(part) => return line,
                Ok(Some(line)) => all.push(line),
                _ => panic!("it did not say `{part}`: {all:?}"),
            }
        }
    }

    /// The output that no test has read yet.
    pub(crate) fn unheard(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    pub(crate) async fn event(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("no event in time").unwrap().expect("it ended");
        serde_json::from_str(&line).expect("stdout is lines of JSON alone")
    }

    /// The number of the next event, as [`super::issue`] gave it.
    pub(crate) async fn number(&mut self) -> usize {
        super::number(self.event().await["body"].as_str().unwrap().as_bytes())
    }

    /// Delivers a signed body, which the agent has to accept.
    pub(crate) async fn accepts(&self, home: &Path, id: &str, body: &str) {
        let (status, answer) = deliver(&self.address, &signed(home, id, body), body).await;
        assert_eq!(status, 202, "{answer}");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// SIGTERM; answers with what was still printed.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        terminate(self.id());
        assert_eq!(self.ends().await, Some(0));
        let mut left = Vec::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            left.push(line);
        }
        left
    }

    /// Waits for its end; answers its exit code.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap().unwrap().code()
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// `edge-agent up` as a task of this process, on the relay's clock.
pub(crate) struct Inside {
    pub(crate) task: JoinHandle<Result<(), Failure>>,
    pub(crate) signal: mpsc::Sender<Signal>,
    pub(crate) home: PathBuf,
}

impl Inside {
    /// Starts it, and waits until the relay knows it.
    pub(crate) async fn start(relay: &Relay, home: &Path, arguments: &[&str]) -> Self {
        let agent = Self::begin(relay, home, arguments).await;
        agent.is_ready().await;
        agent
    }

    pub(crate) async fn begin(relay: &Relay, home: &Path, arguments: &[&str]) -> Self {
        let token = home.join("linear-token");
        std::fs::write(&token, TOKEN).unwrap();
        let url = relay.local.url();
        let given = [
            "edge-agent",
            "up",
            "--quiet",
            "--name",
            "laptop",
            "--relay",
            &url,
        ];
        let paths = [
            "--config".into(),
            empty(home).as_os_str().to_owned(),
            "--data".into(),
            home.as_os_str().to_owned(),
            "--linear-token-file".into(),
            token.into_os_string(),
        ] as [OsString; 6];
        let mut all: Vec<OsString> = given.map(Into::into).to_vec();
        all.extend(paths);
        if !arguments.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"].map(Into::into));
        }
        if !arguments.contains(&"--poll") {
            all.extend(["--poll", "1s"].map(Into::into));
        }
        all.extend(arguments.iter().map(Into::into));
        let (signal, signals) = mpsc::channel(8);
        let around = Environment {
            clock: relay.clock.clone(),
            route: Box::new(|| Some("one".to_owned())),
            program: env!("CARGO_BIN_EXE_agent").into(),
            signals,
        };
        Self {
            task: tokio::spawn(edge_agent::cli::up(all, around)),
            signal,
            home: home.to_owned(),
        }
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Option<Value> {
        let text = std::fs::read(self.home.join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until the relay knows it.
    pub(crate) async fn is_ready(&self) {
        super::eventually("the agent is ready", || async {
            assert!(!self.task.is_finished(), "the agent ended");
            self.status()?["state"].is_string().then_some(())
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.signal.send(Signal::Shutdown).await.unwrap();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// A file of settings that says nothing, so that none of this machine's is read.
fn empty(home: &Path) -> PathBuf {
    let file = home.join("empty.toml");
    if !file.exists() {
        std::fs::write(&file, "").unwrap();
    }
    file
}

/// What the agent keeps of its registration.
pub(crate) fn kept(home: &Path) -> Value {
    let text = std::fs::read_to_string(home.join("registration.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The worker that the agent is, as its owner knows it.
pub(crate) fn worker(home: &Path) -> Registration {
    let kept = kept(home);
    let text = |name: &str| kept[name].as_str().unwrap().to_owned();
    Registration {
        path: text("worker"),
        token: text("token"),
        secret: text("secret"),
    }
}

/// The headers of a delivery that the relay could have made now.
pub(crate) fn signed(home: &Path, id: &str, body: &str) -> Vec<(&'static str, String)> {
    let secret = Secret::parse(&worker(home).secret).unwrap();
    let now = protocol::clock::Clock::system().seconds();
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", now.to_string()),
        (
            "webhook-signature",
            sign(&[secret], id, now, body.as_bytes()),
        ),
    ]
}

/// POSTs to the agent; answers status and body.
pub(crate) async fn deliver(address: &str, headers: &[(&str, String)], body: &str) -> (u16, Value) {
    let mut request = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(address)
        .body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.send().await.unwrap();
    (
        answer.status().as_u16(),
        answer.json().await.unwrap_or_default(),
    )
}
