//! Fuzz targets for what listens: the HTTP API, an agent's listener, and its inspector. Whatever comes, it answers or closes the
//! connection, shows nothing secret, and answers the next one.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::harness::agent::{Agent, Home, run, worker};
use crate::harness::{Receiver, Relay, SECRET, TOKEN, relay};

/// Longer than any of them lets a connection be idle that sends nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most answers are there sooner.
const A_MOMENT: Duration = Duration::from_millis(20);

struct Listening {
    runtime: Runtime,
    address: SocketAddr,
    /// Where the paths begin.
    path: String,
    /// What gives access, if that is a part of a request.
    key: String,
    /// What no answer may have in it.
    secrets: Vec<String>,
}

impl Listening {
    /// Sends these bytes, and closes its side once there is an answer, or none comes. Returns what comes back.
    async fn send(&self, bytes: &[u8], patience: Duration) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answer = Vec::new();
        let exchange = async {
            // It may close the connection before it has read everything.
            let _ = stream.write_all(bytes).await;
            // A client that has closed its side is not answered, but most inputs are no whole request.
            let _ = tokio::time::timeout(patience, stream.readable()).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut answer).await;
        };
        let ended = tokio::time::timeout(PATIENCE, exchange).await;
        ended.expect("the connection stays open");
        answer
    }

    /// An input is a request in which `HOST`, `/PATH` and `KEY` stand for what is not known before.
    fn check(&self, input: &[u8]) {
        let mut request = input.to_vec();
        let host = self.address.to_string();
        for (name, value) in [("HOST", &host), ("/PATH", &self.path), ("KEY", &self.key)] {
            request = replace(&request, name.as_bytes(), value.as_bytes());
        }
        let answer = self.runtime.block_on(self.send(&request, A_MOMENT));
        let answer = String::from_utf8_lossy(&answer);
        if let Some(status) = status(&answer) {
            assert!(!matches!(status, 500 | 502..=504), "{answer}");
        } else {
            assert_eq!(answer, "");
        }
        let shown = self.secrets.iter().find(|secret| answer.contains(*secret));
        assert_eq!(shown, None);
    }

    /// The target: what is not there is answered with 404, before and after all inputs.
    fn fuzz(self) {
        let ask = |listening: &Self| {
            let request = format!(
                "GET {}/nothing HTTP/1.1\r\nHost: {}\r\n\r\n",
                listening.path, listening.address
            );
            let answer = listening
                .runtime
                .block_on(listening.send(request.as_bytes(), PATIENCE));
            assert_eq!(status(&String::from_utf8_lossy(&answer)), Some(404));
        };
        ask(&self);
        let listening = AssertUnwindSafe(self);
        fuzz::target!("http", |input: &[u8]| {
            let AssertUnwindSafe(listening) = &listening;
            listening.check(input);
        });
        ask(&listening);
    }
}

fn replace(bytes: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(name.len()).position(|part| part == name) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(value);
        rest = &rest[at + name.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// The status of an answer of HTTP/1.
fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn world() -> (Runtime, Relay) {
    let runtime = Runtime::new().unwrap();
    let relay = runtime.block_on(relay().start());
    (runtime, relay)
}

#[test]
fn fuzz_http_api() {
    let (runtime, relay) = world();
    let listening = Listening {
        runtime,
        address: relay.local.address,
        path: String::new(),
        key: String::new(),
        secrets: vec![SECRET.to_owned()],
    };
    listening.fuzz();
}

/// Where a URL leads: the socket and the path.
fn socket(url: &str) -> (SocketAddr, String) {
    let url = reqwest::Url::parse(url).unwrap();
    (url.socket_addrs(|| None).unwrap()[0], url.path().to_owned())
}

/// An agent that is reached.
fn agent(runtime: &Runtime, relay: &Relay, home: &Home) -> Agent {
    runtime.block_on(async {
        let handler = Receiver::start().await;
        Agent::inspected(relay, home, &handler).await
    })
}

/// What an agent has that gives access.
fn secrets(home: &Home) -> Vec<String> {
    let worker = worker(home);
    vec![TOKEN.to_owned(), worker.token, worker.secret]
}

#[test]
fn fuzz_agent_listener() {
    let ((runtime, relay), home) = (world(), Home::new());
    let agent = agent(&runtime, &relay, &home);
    let listening = Listening {
        address: socket(&agent.address).0,
        path: String::new(),
        key: String::new(),
        secrets: secrets(&home),
        runtime,
    };
    listening.fuzz();
}

#[test]
fn fuzz_inspector() {
    let ((runtime, relay), home) = (world(), Home::new());
    let _agent = agent(&runtime, &relay, &home);
    let printed = runtime.block_on(run(&home, &["inspect"])).exits(0).stdout;
    let (url, key) = printed.trim_end().split_once("/?key=").unwrap();
    let (address, path) = socket(url);
    let listening = Listening {
        address,
        path,
        key: key.to_owned(),
        secrets: secrets(&home),
        runtime,
    };
    listening.fuzz();
}
