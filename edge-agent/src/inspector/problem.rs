//! The errors of the interface, as JSON: a code for programs and a sentence for people.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::output::warn;

/// An error answer.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    code: &'static str,
    message: String,
    #[serde(skip)]
    status: StatusCode,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            status,
        }
    }

    /// A parameter or a body that is not in its form.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(super) fn too_large(what: &str, limit: usize) -> Self {
        let message = format!("{what} has {limit} bytes at most.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    pub(super) fn no_such_event(id: &str) -> Self {
        let message = format!("There is no event `{id}` here.");
        Self::new(StatusCode::NOT_FOUND, "no_such_event", message)
    }
}

/// The store failed. The cause is for the log.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        warn(format_args!("the inspector: {error:#}"));
        let message = "The stored events cannot be read or written: see the agent's log.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
