//! The receiver: `POST /webhook` for deliveries, `GET /health`, and nothing else.
//!
//! Invariant: a delivery is answered with a success only after it is stored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::headers::WEBHOOK_SIGNATURE;
use protocol::messages::{ChallengeAnswer, Control, PROBLEM_JSON, Problem};
use protocol::signature::{Secret, SignatureError};
use tokio::sync::Notify;

use crate::delivery::Delivery;
use crate::store::Store;
use crate::talk::say;

/// The largest delivery.
const BODY_LIMIT: usize = 10 * 1000 * 1000;

/// What the receiver and the rest of the agent share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    /// The secrets that deliveries are signed with.
    pub(crate) secrets: RwLock<Vec<Secret>>,
    /// A challenge is answered only while this agent itself registers: nobody else can have this address
    /// admitted for a worker of theirs.
    pub(crate) is_registering: AtomicBool,
    /// Something was stored.
    pub(crate) stored: Notify,
    /// The mailbox holds something.
    pub(crate) waiting: Notify,
}

impl Shared {
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.secrets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_secret(&self, secret: Secret) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = vec![secret];
    }
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
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
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
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
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(
        HeaderName::from_static("x-robots-tag"),
        HeaderValue::from_static("noindex"),
    );
    response
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let Ok(body) = body else {
        let detail = format!("a delivery is at most {BODY_LIMIT} bytes long");
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    };
    if !headers.contains_key(WEBHOOK_SIGNATURE) {
        return unsigned(&shared, &body);
    }
    let headers: BTreeMap<String, String> = (headers.iter())
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    match Delivery::verify(&shared.secrets(), headers, body.into()) {
        Err(error) => {
            say(format_args!("a delivery was refused: {error}"));
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
                shared.stored.notify_one();
                StatusCode::ACCEPTED.into_response()
            }
            Err(error) => {
                say(format_args!("an event could not be stored: {error:#}"));
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
        Ok(Control::Challenge { challenge }) if shared.is_registering.load(Ordering::Acquire) => {
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
