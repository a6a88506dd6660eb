//! What a request carries, and what is wrong with it if it is not in its form.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The largest body of an event: as large as a delivery may be.
pub(super) const MAX_BODY: usize = 10_000_000;
/// The largest request: a body of an event as a JSON string with escapes.
pub(super) const MAX_REQUEST: usize = 2 * MAX_BODY;
/// Within which time a request has to be whole.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The id in the path.
pub(super) struct EventId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for EventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id))
            .map_err(|error| Problem::invalid(format!("{}.", error.body_text())))
    }
}

/// The body of a request.
pub(super) struct Sent {
    is_json: bool,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let is_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
        let read = tokio::time::timeout(TIMEOUT, Bytes::from_request(request, state)).await;
        match read {
            Ok(Ok(body)) => Ok(Self { is_json, body }),
            Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::too_large("A request", MAX_REQUEST))
            }
            Ok(Err(error)) => Err(Problem::invalid(format!("{}.", error.body_text()))),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                format!("The request was not whole after {} s.", TIMEOUT.as_secs()),
            )),
        }
    }
}

impl Sent {
    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// A JSON object, in a request whose media type says so. A page of another origin cannot send this media type without a
    /// CORS preflight.
    pub(super) fn parse<T: DeserializeOwned>(&self, example: &str) -> Result<T, Problem> {
        if !self.is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "The `Content-Type` has to be `application/json`.",
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::invalid(format!("{error}: send {example}.")))
    }
}
