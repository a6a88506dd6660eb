//! Stands in for Lambda around one process of a function: its environment, and the Runtime API that hands it events.
//!
//! Source of the Runtime API: the Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use protocol::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::access_key::AccessKey;
use crate::backend::{DEAD_LETTERS, QUEUE};
use crate::sqs::Sqs;
use crate::{dynamodb, secrets};

/// The Runtime API for one process. It hands out events one at a time.
#[derive(Debug)]
pub struct Sandbox {
    /// Listens until this is dropped.
    _serving: JoinSet<()>,
    address: SocketAddr,
    /// How long the process may take to ask for an event, and to answer one.
    patience: Duration,
    asked: mpsc::Receiver<Instant>,
    events: mpsc::Sender<String>,
    answered: mpsc::Receiver<(Instant, bool, Bytes)>,
}

struct Runtime {
    asked: mpsc::Sender<Instant>,
    events: Mutex<mpsc::Receiver<String>>,
    answered: mpsc::Sender<(Instant, bool, Bytes)>,
}

impl Sandbox {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn start(patience: Duration) -> anyhow::Result<Self> {
        let (asked, was_asked) = mpsc::channel(8);
        let (answered, was_answered) = mpsc::channel(8);
        let (events, handed_out) = mpsc::channel(1);
        let runtime = Arc::new(Runtime {
            asked,
            events: Mutex::new(handed_out),
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
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            _serving: serving,
            address,
            patience,
            asked: was_asked,
            events,
            answered: was_answered,
        })
    }

    /// What Lambda and the template put into the environment of a function. Its AWS is an embedded one, at `endpoint`, which
    /// wants this key.
    pub fn environment(
        &self,
        function: &str,
        sqs: &Sqs,
        key: &AccessKey,
        endpoint: &str,
    ) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", key.id.clone()),
            ("AWS_SECRET_ACCESS_KEY", key.secret.clone()),
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_LAMBDA_RUNTIME_API", self.address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "x".to_owned()),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "x".to_owned()),
            ("TABLE_NAME", dynamodb::TABLE.to_owned()),
            ("QUEUE_URL", sqs.url(QUEUE)),
            ("DLQ_URL", sqs.url(DEAD_LETTERS)),
            ("LINEAR_WEBHOOK_SECRET_ID", secrets::SECRET_ID.to_owned()),
        ]
    }

    /// Waits until the function asks for its next event. Returns when it did.
    ///
    /// # Errors
    ///
    /// It did not in time.
    pub async fn asked(&mut self) -> anyhow::Result<Instant> {
        let asked = tokio::time::timeout(self.patience, self.asked.recv()).await;
        (asked.ok().flatten()).context("the function did not ask for an event")
    }

    /// Hands the function an event. Returns when it answered, and what.
    ///
    /// # Errors
    ///
    /// It did not in time, or answered with an error.
    pub async fn invoke(&mut self, event: String) -> anyhow::Result<(Instant, Bytes)> {
        (self.events.send(event).await).context("the Runtime API has ended")?;
        let answered = tokio::time::timeout(self.patience, self.answered.recv()).await;
        let answered = answered.ok().flatten();
        let (at, is_done, body) = answered.context("the function did not answer")?;
        ensure!(
            is_done,
            "the function failed: {}",
            String::from_utf8_lossy(&body)
        );
        Ok((at, body))
    }
}

async fn next(State(runtime): State<Arc<Runtime>>) -> impl IntoResponse {
    let _ = runtime.asked.send(Instant::now()).await;
    let event = runtime.events.lock().await.recv().await;
    let event = match event {
        Some(event) => event,
        // The sandbox is gone, and its process is about to end.
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
