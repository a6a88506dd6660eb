//! Cold starts of the release bootstraps: a process each time, driven by our own Lambda Runtime API, with the
//! embedded AWS behind plain HTTP and behind TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::ProgressBar;
use local::access_key::AccessKey;
use local::local_relay::{FREE_PORT, LocalRelay, Options, QUEUE};
use local::samples::{ONE_ISSUE, Webhook};
use local::testing::lambda_events;
use local::testing::sandbox::Sandbox;
use protocol::clock::{Clock, rfc3339};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::load::SECRET;
use crate::one_machine;
use crate::programs::{self, FUNCTIONS, Program};

/// Where Debian and its like keep the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PATIENCE: Duration = Duration::from_secs(10);

/// The embedded AWS, in plain and behind TLS.
pub(crate) struct Aws {
    pub(crate) local: LocalRelay,
    key: AccessKey,
    plain: String,
    pub(crate) tls: String,
    authority: tempfile::NamedTempFile,
}

impl Aws {
    /// That of a relay, which has to have an endpoint.
    pub(crate) async fn of(local: LocalRelay) -> anyhow::Result<Self> {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let authority = tempfile::NamedTempFile::new()?;
        // Beside the system's own, which a function on Lambda has to read too.
        let system = std::fs::read_to_string(SYSTEM_AUTHORITIES).unwrap_or_default();
        std::fs::write(authority.path(), system + &certified.cert.pem())?;
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())
            .map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let aws = local.aws.as_ref().context("there is no endpoint")?;
        let inner = aws.address;
        tokio::spawn(async move {
            while let Ok((outer, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    outer.set_nodelay(true)?;
                    let mut outer = acceptor.accept(outer).await?;
                    let mut inner = TcpStream::connect(inner).await?;
                    inner.set_nodelay(true)?;
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        Ok(Self {
            key: aws.key.clone(),
            plain: aws.url(),
            tls: format!("https://localhost:{port}"),
            local,
            authority,
        })
    }
}

/// What Lambda would hand the function first.
fn event(function: &str, aws: &Aws) -> Value {
    let now = Clock::system().millis();
    match function {
        "ingest" => lambda_events::webhook(&Webhook::sample(SECRET, ONE_ISSUE[0], now)),
        "register" => {
            let path = format!("/edge/workspaces/x/workers/wrk_{}", "0".repeat(32));
            lambda_events::request("GET", &path, json!({"authorization": "Bearer none"}), "")
        }
        "deliver" => {
            let attributes = [
                ("event", "evt_x"),
                ("workspace", "x"),
                ("worker", "wrk_x"),
                ("type", "Issue"),
                ("body", "raw"),
            ];
            let message = (
                "g".to_owned(),
                "{}",
                attributes
                    .map(|(name, value)| (name, "stringValue", value))
                    .to_vec(),
            );
            lambda_events::batch(&aws.local.sqs.url(QUEUE), now, [message])
        }
        _ => json!({"time": rfc3339(now), "part": 0, "of": 1}),
    }
}

/// A process of a function, and its Runtime API.
pub(crate) struct Bootstrap {
    pub(crate) program: Program,
    sandbox: Sandbox,
    began: Instant,
}

impl Bootstrap {
    pub(crate) fn start(
        path: &Path,
        function: &str,
        aws: &Aws,
        endpoint: &str,
        sandbox: Sandbox,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(path);
        command
            .env_clear()
            .envs(sandbox.environment(function, &aws.local.sqs, &aws.key, endpoint))
            .env("SSL_CERT_FILE", aws.authority.path());
        let began = Instant::now();
        Ok(Self {
            program: Program::start(command)?,
            sandbox,
            began,
        })
    }

    /// Waits until it asks for an event. Returns how long after its start that was.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Duration> {
        Ok(self.sandbox.asked().await? - self.began)
    }

    /// Has it handle an event, and waits until it asks for the next one. Returns how long it took to its answer, and that.
    pub(crate) async fn handle(&mut self, event: String) -> anyhow::Result<(Duration, Value)> {
        let sent = Instant::now();
        let (at, answer) = self.sandbox.invoke(event).await?;
        self.sandbox.asked().await?;
        Ok((at - sent, serde_json::from_slice(&answer)?))
    }
}

/// One cold start: spawn to the first `next`, the first event to its answer, and the peak memory after it.
struct Start {
    next: Duration,
    first: Duration,
    memory: f64,
}

async fn start(path: &Path, function: &str, aws: &Aws, endpoint: &str) -> anyhow::Result<Start> {
    let event = event(function, aws).to_string();
    let sandbox = Sandbox::start(PATIENCE).await?;
    let mut bootstrap = Bootstrap::start(path, function, aws, endpoint, sandbox)?;
    let which = || format!("`{function}`");
    let next = bootstrap.ready().await.with_context(which)?;
    let (first, _) = bootstrap.handle(event).await.with_context(which)?;
    let memory = bootstrap.program.peak_memory()?;
    bootstrap.program.end().await?;
    Ok(Start {
        next,
        first,
        memory,
    })
}

pub(crate) fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// A function's cold starts: medians in ms, the most memory in MB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ColdStart {
    pub(crate) function: String,
    pub(crate) bytes: u64,
    pub(crate) next_ms: f64,
    pub(crate) next_tls_ms: f64,
    pub(crate) first_ms: f64,
    pub(crate) first_tls_ms: f64,
    pub(crate) memory: f64,
}

/// A row for each function, of so many starts in plain and as many over TLS.
pub(crate) async fn measure(
    times: usize,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<ColdStart>> {
    let options = Options {
        aws_listen: Some(FREE_PORT),
        ..one_machine::options().await?
    };
    let aws = Aws::of(LocalRelay::start(options).await?).await?;
    progress.set_length((FUNCTIONS.len() * 2 * times) as u64);
    let mut rows = Vec::new();
    for function in FUNCTIONS {
        progress.set_message(function);
        let program = programs::path(function)?;
        let mut columns = [(0.0, 0.0); 2];
        let mut memory: f64 = 0.0;
        for (endpoint, column) in [&aws.plain, &aws.tls].into_iter().zip(&mut columns) {
            let mut starts = Vec::new();
            // The first one reads the file from the disk.
            start(&program, function, &aws, endpoint).await?;
            for _ in 0..times {
                starts.push(start(&program, function, &aws, endpoint).await?);
                progress.inc(1);
            }
            memory = starts.iter().map(|s| s.memory).fold(memory, f64::max);
            *column = (
                median(starts.iter().map(|s| s.next).collect()),
                median(starts.iter().map(|s| s.first).collect()),
            );
        }
        let [(next_ms, first_ms), (next_tls_ms, first_tls_ms)] = columns;
        rows.push(ColdStart {
            function: function.to_owned(),
            bytes: std::fs::metadata(&program)?.len(),
            next_ms,
            next_tls_ms,
            first_ms,
            first_tls_ms,
            memory,
        });
    }
    aws.local.stop().await;
    Ok(rows)
}
