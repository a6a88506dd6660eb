//! What can go wrong, as a caller sees it: a status, a stable code, and a sentence.
//!
//! Invariant: `detail` never holds a token, a secret, a body or a URL's query; the cause goes to the log only.

use std::time::Duration;

use http::{Response, StatusCode, header};
use protocol::messages::{PROBLEM_JSON, Problem};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A refusal or a failure.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// What was wrong and what would be right.
    pub detail: String,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// With 405: the methods that are taken.
    allow: Option<&'static str>,
    #[source]
    cause: Option<Cause>,
}

impl Error {
    /// An error without a cause.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
            allow: None,
            cause: None,
        }
    }

    /// 400
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401
    pub fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
    }

    /// 413, with the number of bytes that would have been accepted.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is larger than the {limit} bytes accepted here"),
        )
    }

    /// 404
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing at this path",
        )
    }

    /// 405, with the methods that would have been accepted.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("this path takes {allow}"),
            )
        }
    }

    /// 503: DynamoDB or SQS could not do `what`.
    pub fn storage(what: &'static str, cause: impl Into<Cause>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "storage_unavailable",
            detail: format!("could not {what}; try again"),
            retry_after: Some(Duration::from_secs(5)),
            allow: None,
            cause: Some(cause.into()),
        }
    }

    /// Tells the caller when to try again.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Keeps what caused it, for the log.
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// RFC 9457 `application/problem+json`; what is our fault goes to the log, with its cause.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        if self.status.is_server_error() {
            tracing::error!(
                error = self.chain(),
                Failed = 1,
                Reason = self.code,
                "a request failed"
            );
        } else {
            tracing::info!(Refused = 1, Reason = self.code, "a request was refused");
        }
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail,
        };
        let body = serde_json::to_string(&problem).expect("a problem is plain text and a number");
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(PROBLEM_JSON),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer"),
            );
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, header::HeaderValue::from_static(allow));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        response
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
