//! Cold starts of the release bootstraps: a process each time, driven by our own Lambda Runtime API, with the
//! embedded AWS behind plain HTTP and behind TLS.
//!
//! Source of the Runtime API: the Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use indicatif::ProgressBar;
use local::access_key::AccessKey;
use local::local_relay::{DEAD_LETTERS, FREE_PORT, LocalRelay, Options, QUEUE};
use local::samples::{ONE_ISSUE, Webhook};
use protocol::clock::{Clock, rfc3339};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::events;
use crate::programs::{self, FUNCTIONS, Program};

const SECRET: &str = "the bench's webhook secret";
/// Where Debian and its like keep the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PATIENCE: Duration = Duration::from_secs(10);

/// The Runtime API for one sandbox: one event, and its answer.
struct Sandbox {
    address: SocketAddr,
    asked: mpsc::Receiver<Instant>,
    event: Option<oneshot::Sender<String>>,
    answered: mpsc::Receiver<(Instant, bool, Bytes)>,
}

struct Runtime {
    asked: mpsc::Sender<Instant>,
    event: Mutex<Option<oneshot::Receiver<String>>>,
    answered: mpsc::Sender<(Instant, bool, Bytes)>,
}

impl Sandbox {
    async fn start() -> anyhow::Result<Self> {
        let (asked, was_asked) = mpsc::channel(8);
        let (answered, was_answered) = mpsc::channel(8);
        let (event, has_event) = oneshot::channel();
        let runtime = Arc::new(Runtime {
            asked,
            event: Mutex::new(Some(has_event)),
            answered,
        });
        let answer = |is_done| {
            post(
                move |State(runtime): State<Arc<Runtime>>, body: Bytes| async move {
                    let _ = runtime.answered.send((Instant::now(), is_done, body)).await;
                    StatusCode::ACCEPTED
                },
            )
        };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", answer(true))
            .route("/2018-06-01/runtime/invocation/{id}/error", answer(false))
            .with_state(runtime);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            asked: was_asked,
            event: Some(event),
            answered: was_answered,
        })
    }
}

async fn next(State(runtime): State<Arc<Runtime>>) -> impl IntoResponse {
    let _ = runtime.asked.send(Instant::now()).await;
    let event = match runtime.event.lock().await.take() {
        Some(event) => event.await.unwrap_or_default(),
        // The sandbox is frozen between two invocations.
        None => std::future::pending().await,
    };
    let deadline = (Clock::system().millis() + 60_000).to_string();
    let id = "00000000-0000-0000-0000-000000000000".to_owned();
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:x".to_owned();
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline),
        ("lambda-runtime-invoked-function-arn", arn),
        ("lambda-runtime-trace-id", "Root=1-0-0".to_owned()),
    ];
    (AppendHeaders(headers), event)
}

/// The embedded AWS, in plain and behind TLS.
struct Aws {
    local: LocalRelay,
    plain: String,
    tls: String,
    key: AccessKey,
    authority: tempfile::NamedTempFile,
}

impl Aws {
    async fn start() -> anyhow::Result<Self> {
        let mut options =
            Options::read(&|name| (name == "LINEAR_WEBHOOK_SECRETS").then(|| SECRET.to_owned()))?;
        options.aws_listen = Some(FREE_PORT);
        let local = LocalRelay::start(options).await?;
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
            plain: aws.url(),
            key: aws.key.clone(),
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
        "ingest" => events::webhook(&Webhook::sample(SECRET, ONE_ISSUE[0], now)),
        "register" => {
            let path = format!("/edge/workspaces/x/workers/wrk_{}", "0".repeat(32));
            events::request("GET", &path, json!({"authorization": "Bearer none"}), "")
        }
        "deliver" => {
            let attributes = [
                ("event", "evt_x"),
                ("workspace", "x"),
                ("worker", "wrk_x"),
                ("type", "Issue"),
                ("body", "raw"),
            ];
            let message = ("g".to_owned(), "{}", attributes.to_vec());
            events::batch(&aws.local.sqs.url(QUEUE), now, [message])
        }
        _ => json!({"time": rfc3339(now), "part": 0, "of": 1}),
    }
}

/// One cold start: spawn to the first `next`, the first event to its answer, and the peak memory after it.
struct Start {
    next: Duration,
    first: Duration,
    memory: f64,
}

async fn start(program: &Path, function: &str, aws: &Aws, endpoint: &str) -> anyhow::Result<Start> {
    let mut sandbox = Sandbox::start().await?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", &aws.key.id),
            ("AWS_SECRET_ACCESS_KEY", &aws.key.secret),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_LAMBDA_RUNTIME_API", &sandbox.address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", function),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "x"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "x"),
            ("TABLE_NAME", local::dynamodb::TABLE),
            ("QUEUE_URL", &aws.local.sqs.url(QUEUE)),
            ("DLQ_URL", &aws.local.sqs.url(DEAD_LETTERS)),
            ("LINEAR_WEBHOOK_SECRET_ID", local::secrets::SECRET_ID),
        ])
        .env("SSL_CERT_FILE", aws.authority.path());
    let event = event(function, aws).to_string();
    let began = Instant::now();
    let program = Program::start(command)?;
    let asked = tokio::time::timeout(PATIENCE, sandbox.asked.recv())
        .await
        .ok()
        .flatten();
    let asked = asked.with_context(|| format!("`{function}` did not start"))?;
    let sent = Instant::now();
    if let Some(event_sender) = sandbox.event.take() {
        let _ = event_sender.send(event);
    }
    let answered = tokio::time::timeout(PATIENCE, sandbox.answered.recv())
        .await
        .ok()
        .flatten();
    let (at, is_done, body) = answered.with_context(|| format!("`{function}` did not answer"))?;
    ensure!(
        is_done,
        "`{function}` failed: {}",
        String::from_utf8_lossy(&body)
    );
    let memory = program.peak_memory()?;
    program.end().await?;
    Ok(Start {
        next: asked - began,
        first: at - sent,
        memory,
    })
}

fn median(mut times: Vec<Duration>) -> f64 {
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
    let aws = Aws::start().await?;
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
