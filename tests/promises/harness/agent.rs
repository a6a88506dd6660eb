//! The agent under test: a separate process, or a task whose clock is the relay's.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use edge_agent::Failure;
use edge_agent::signal::Signal;
use edge_agent::up::Environment;
use protocol::clock::{Clock, UnixSeconds};
use protocol::signature::{Secret, sign};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Receiver, Registration, Relay, TOKEN, client, relay, terminate, until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The directory of an agent, gone with the test.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file in it that only its owner can read.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.join(name);
        write_private(&file, content);
        file
    }

    /// Writes a program in it.
    pub(crate) fn script(&self, name: &str, content: &str) -> PathBuf {
        let file = self.write(name, content);
        std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        file
    }
}

fn write_private(file: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(file, content).unwrap();
    std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

impl Deref for Home {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

/// What an agent needs.
pub(crate) async fn relay_and_home() -> (Relay, Home) {
    (relay().start().await, Home::new())
}

/// What an agent needs, and a server that it hands events to.
pub(crate) async fn with_handler() -> (Relay, Home, Receiver) {
    (relay().start().await, Home::new(), Receiver::start().await)
}

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
    /// Asserts that it ended with this code.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

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
    let mut command = command(home);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).await.unwrap();
    read_output(child.wait_with_output()).await
}

pub(crate) async fn output(command: &mut Command) -> Output {
    read_output(command.output()).await
}

async fn read_output(ends: impl Future<Output = io::Result<std::process::Output>>) -> Output {
    let output = in_time(ends).await.unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What `events` says of each event, the oldest first.
pub(crate) async fn events(home: &Path) -> Vec<Value> {
    run(home, &["events", "--json"]).await.lines()
}

/// What has to come sooner or later.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
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
            .env("EDGE_AGENT_LISTEN", "127.0.0.1:0")
            .env("EDGE_AGENT_INSPECT", "off");
        command
    }

    pub(crate) async fn pushed(relay: &Relay, home: &Path, port: u16) -> Self {
        Self::start(Self::up(relay, home).args(reached_at(port))).await
    }

    pub(crate) async fn pulling(relay: &Relay, home: &Path) -> Self {
        Self::start(&mut Self::up(relay, home)).await
    }

    /// Hands over to this server, and has an inspector, which other agents under test do not have.
    pub(crate) async fn inspected(relay: &Relay, home: &Path, handler: &Receiver) -> Self {
        let mut up = Self::up(relay, home);
        let up = up.env("EDGE_AGENT_INSPECT", "127.0.0.1:0");
        Self::start(up.arg(handler.port())).await
    }

    /// Has an inspector, and tries each event once.
    pub(crate) async fn inspected_without_retries(
        relay: &Relay,
        home: &Home,
        handler: &Receiver,
    ) -> Self {
        let once = format!("[[handler]]\nto = '{}'\nretries = 0\n", handler.port());
        home.write("edge-agent.toml", once);
        let mut up = Self::up(relay, home);
        Self::start(up.env("EDGE_AGENT_INSPECT", "127.0.0.1:0")).await
    }

    /// Hands over to this server.
    pub(crate) async fn handing(relay: &Relay, home: &Path, handler: &Receiver) -> Self {
        Self::start(Self::up(relay, home).arg(handler.port())).await
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
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.expect("no event in time").unwrap().expect("it ended");
            // An empty one ends a line that an earlier agent may have begun.
            if !line.is_empty() {
                return serde_json::from_str(&line).expect("stdout is lines of JSON alone");
            }
        }
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

    /// Delivers what the agent has to refuse with this status and code.
    pub(crate) async fn refuses(
        &self,
        headers: &[(&str, String)],
        body: &str,
        (status, code): (u16, &str),
    ) {
        let (got, problem) = deliver(&self.address, headers, body).await;
        assert_eq!(
            (got, &problem["code"]),
            (status, &json!(code)),
            "{headers:?}"
        );
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
            if !line.is_empty() {
                left.push(line);
            }
        }
        left
    }

    /// Waits for its end; answers its exit code.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        in_time(self.child.wait()).await.unwrap().code()
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// `edge-agent up` as a task of this process, on the relay's clock.
pub(crate) struct Inside {
    task: JoinHandle<Result<(), Failure>>,
    pub(crate) signal: mpsc::Sender<Signal>,
    home: PathBuf,
}

impl Inside {
    /// Starts it, and waits until the relay knows it.
    pub(crate) async fn start(relay: &Relay, home: &Path, arguments: &[&str]) -> Self {
        let token = home.join("linear-token");
        write_private(&token, TOKEN);
        let mut settings = home.join("edge-agent.toml");
        if !settings.exists() {
            // Settings that say nothing, so that none of this machine's are read.
            settings = home.join("empty.toml");
            std::fs::write(&settings, "").unwrap();
        }
        let url = relay.local.url();
        let mut all: Vec<OsString> = ["edge-agent", "up", "--quiet", "--name", "laptop"]
            .map(Into::into)
            .to_vec();
        all.extend(["--relay".into(), url.into(), "--data".into(), home.into()]);
        all.extend(["--config".into(), settings.into()]);
        all.extend(["--linear-token-file".into(), token.into()]);
        if !arguments.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"].map(Into::into));
        }
        if !arguments.contains(&"--poll") {
            all.extend(["--poll", "1s"].map(Into::into));
        }
        if !arguments.contains(&"--inspect") {
            all.extend(["--inspect", "off"].map(Into::into));
        }
        all.extend(arguments.iter().map(Into::into));
        let (signal, signals) = mpsc::channel(8);
        let around = Environment {
            clock: relay.clock.clone(),
            route: Box::new(|| Some("one".to_owned())),
            program: env!("CARGO_BIN_EXE_agent").into(),
            prints_to_nowhere: false,
            signals,
        };
        let agent = Self {
            task: tokio::spawn(edge_agent::cli::up(all, around)),
            signal,
            home: home.to_owned(),
        };
        until("the agent is ready", async || {
            assert!(!agent.task.is_finished(), "the agent ended");
            let status = agent.status();
            status.is_some_and(|status| status["state"].is_string())
        })
        .await;
        agent
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Option<Value> {
        let text = std::fs::read(self.home.join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) async fn stop(self) {
        self.signal.send(Signal::Shutdown).await.unwrap();
        in_time(self.task).await.unwrap().unwrap();
    }
}

/// The flags of an agent that is reached at this port.
pub(crate) fn reached_at(port: u16) -> [String; 4] {
    let listen = format!("127.0.0.1:{port}");
    let public = format!("http://{listen}/webhook");
    ["--listen".into(), listen, "--public-url".into(), public]
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
    signed_at(home, id, body, Clock::system().seconds())
}

/// As [`signed`], at another time.
pub(crate) fn signed_at(
    home: &Path,
    id: &str,
    body: &str,
    at: UnixSeconds,
) -> Vec<(&'static str, String)> {
    let secret = Secret::parse(&worker(home).secret).unwrap();
    let signature = sign(&[secret], id, at, body.as_bytes());
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signature),
    ]
}

/// POSTs to the agent; answers status and body.
pub(crate) async fn deliver(address: &str, headers: &[(&str, String)], body: &str) -> (u16, Value) {
    let mut request = client().post(address).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}
