//! The receiver: `POST /webhook` for deliveries, `GET /health`, and nothing else.
//!
//! Invariant: a delivery is answered with a success only after it is stored. What strangers can make it hold is
//! bounded: connections, the time for a request, and the bytes of a body.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use protocol::clock::Clock;
use protocol::headers::WEBHOOK_SIGNATURE;
use protocol::messages::{ChallengeAnswer, Control, PROBLEM_JSON, Problem};
use protocol::signature::{Secret, SignatureError};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};

use crate::delivery::Delivery;
use crate::registration::Registration;
use crate::store::{Headers, Store, is_damage};
use crate::talk::{detail, warn};

/// The largest delivery.
const BODY_LIMIT: usize = 10 * 1000 * 1000;
/// The largest body that carries no signature: a challenge.
const UNSIGNED_LIMIT: usize = 4096;
/// How long a connection may take to say what it wants, also between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections are served side by side; the others wait to be accepted.
const CONNECTIONS: usize = 64;

/// What the receiver and the rest of the agent share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    /// Whose secrets deliveries are signed with.
    pub(crate) registration: RwLock<Option<Registration>>,
    /// A challenge of the relay is answered only while this agent itself registers: nobody else can have this
    /// address admitted for a worker of theirs.
    pub(crate) is_registering: AtomicBool,
    /// A challenge of this agent's own, on its way around through the tunnel.
    pub(crate) own_challenge: Mutex<Option<String>>,
    /// Nothing more is taken.
    pub(crate) is_ending: AtomicBool,
    /// Something was stored.
    pub(crate) stored: Notify,
    /// The mailbox holds something.
    pub(crate) waiting: Notify,
    /// The store is damaged: the agent has to end.
    pub(crate) damaged: Notify,
    /// What was last said about the store, so that it is not said for every delivery.
    trouble: Mutex<String>,
}

impl Shared {
    pub(crate) fn new(clock: Clock, store: Store, registration: Option<Registration>) -> Self {
        Self {
            clock,
            store,
            registration: RwLock::new(registration),
            is_registering: AtomicBool::new(false),
            own_challenge: Mutex::new(None),
            is_ending: AtomicBool::new(false),
            stored: Notify::new(),
            waiting: Notify::new(),
            damaged: Notify::new(),
            trouble: Mutex::new(String::new()),
        }
    }

    /// The registration, if there is one.
    pub(crate) fn registration(&self) -> Option<Registration> {
        let registration = self.registration.read();
        registration.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_registration(&self, registration: Registration) {
        let mut held = (self.registration.write()).unwrap_or_else(PoisonError::into_inner);
        *held = Some(registration);
    }

    /// Every secret that deliveries may be signed with at `now` (Unix milliseconds).
    pub(crate) fn secrets(&self, now: i64) -> Vec<Secret> {
        let registration = (self.registration.read()).unwrap_or_else(PoisonError::into_inner);
        registration.as_ref().map_or(Vec::new(), |r| r.secrets(now))
    }

    /// Expects this challenge, or none.
    pub(crate) fn expect_challenge(&self, challenge: Option<String>) {
        *(self.own_challenge.lock()).unwrap_or_else(PoisonError::into_inner) = challenge;
    }

    fn answers(&self, challenge: &str) -> bool {
        let own = (self.own_challenge.lock()).unwrap_or_else(PoisonError::into_inner);
        self.is_registering.load(Ordering::Acquire) || own.as_deref() == Some(challenge)
    }

    /// Notes what writing to the store came to: says once what is wrong, and once that it is well again.
    pub(crate) fn note_store(&self, written: Result<(), &anyhow::Error>) {
        if written.is_err_and(is_damage) {
            self.damaged.notify_one();
        }
        let trouble = written.map_or_else(|error| format!("{error:#}"), |()| String::new());
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == trouble {
            return;
        }
        if trouble.is_empty() {
            warn("events can be stored again");
        } else {
            warn(format_args!(
                "events cannot be stored, and wait at the relay: {trouble}"
            ));
        }
        *said = trouble;
    }
}

/// Serves until `stop` says so; what is being answered then has a moment to end.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let router = router(shared);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let ending = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024);
    loop {
        let accepting = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, say: it passes.
                warn(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = ending.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                detail(format_args!("a connection broke off: {error}"));
            }
            drop(place);
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), ending.shutdown()).await;
}

/// The routes.
fn router(shared: Arc<Shared>) -> Router {
    let not_found = || async {
        problem(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing at this path",
        )
    };
    let post_only = || async {
        problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path takes POST",
        )
    };
    Router::new()
        .route("/webhook", post(receive).fallback(post_only))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(not_found)
        .layer(map_response(async |mut response: Response| {
            response.headers_mut().insert(
                HeaderName::from_static("x-robots-tag"),
                HeaderValue::from_static("noindex"),
            );
            Ok::<_, Infallible>(response)
        }))
        .with_state(shared)
}

fn problem(status: StatusCode, code: &str, detail: impl Into<String>) -> Response {
    let problem = Problem {
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        code: code.to_owned(),
        detail: detail.into(),
    };
    let mut response = (status, Json(problem)).into_response();
    (response.headers_mut()).insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    response
}

/// Reads a body within its bounds. What is too long is read on for a while and dropped, since most clients listen
/// for an answer only after they have sent all.
async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, Response> {
    let reading = async {
        let mut bytes = Vec::with_capacity(
            usize::try_from(body.size_hint().lower())
                .unwrap_or(limit)
                .min(limit),
        );
        let mut length = 0;
        while length <= limit + BODY_LIMIT {
            let Some(Ok(frame)) = body.frame().await else {
                break;
            };
            if let Some(data) = frame.data_ref() {
                length += data.len();
                if length <= limit {
                    bytes.extend_from_slice(data);
                }
            }
        }
        (length <= limit).then_some(bytes)
    };
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("this body may be {limit} bytes long at most"),
        )),
        Err(_) => Err(problem(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            format!("a body may take {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    if shared.is_ending.load(Ordering::Acquire) {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "ending",
            "this agent is about to end",
        );
    }
    let is_signed = headers.contains_key(WEBHOOK_SIGNATURE);
    let limit = if is_signed {
        BODY_LIMIT
    } else {
        UNSIGNED_LIMIT
    };
    let body = match read(body, limit).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    if !is_signed {
        return unsigned(&shared, &body);
    }
    let headers = (headers.iter())
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    let now = shared.clock.millis();
    match Delivery::verify(&shared.secrets(now), Headers(headers), body, now) {
        Err(error) => {
            warn(format_args!("a delivery was refused: {error}"));
            let code = match error {
                SignatureError::Format { .. } => "signature_format",
                SignatureError::Age { .. } => "signature_age",
                SignatureError::Digest => "signature_digest",
            };
            problem(StatusCode::UNAUTHORIZED, code, error.to_string())
        }
        Ok(Delivery::Control(Control::Ping { waiting })) => {
            if waiting {
                shared.waiting.notify_one();
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Delivery::Control(Control::Challenge { .. })) => problem(
            StatusCode::BAD_REQUEST,
            "challenge_signed",
            "a challenge comes before there is a secret",
        ),
        Ok(Delivery::Event(event)) => match shared.store.add(vec![event]).await {
            Ok(_) => {
                shared.note_store(Ok(()));
                shared.stored.notify_one();
                StatusCode::ACCEPTED.into_response()
            }
            Err(error) => {
                shared.note_store(Err(&error));
                problem(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not_stored",
                    "the event could not be stored",
                )
            }
        },
    }
}

fn unsigned(shared: &Shared, body: &[u8]) -> Response {
    match serde_json::from_slice(body) {
        Ok(Control::Challenge { challenge }) if shared.answers(&challenge) => {
            Json(ChallengeAnswer { challenge }).into_response()
        }
        Ok(Control::Challenge { .. }) => problem(
            StatusCode::FORBIDDEN,
            "not_registering",
            "a challenge is answered only while this agent registers",
        ),
        _ => problem(
            StatusCode::UNAUTHORIZED,
            "signature_format",
            format!("the `{WEBHOOK_SIGNATURE}` header is missing"),
        ),
    }
}
