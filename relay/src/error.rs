//! Why a verb refused a request or failed.
//!
//! The layers below the verbs have errors of their own, which know nothing of HTTP; `problem.rs` turns all of them into
//! responses. Invariant: the text of an error never holds a token, a secret, a body or the query of a URL.

use std::time::Duration;

use protocol::capability::CapabilityError;
use protocol::envelope::EnvelopeError;
use protocol::problem::Code;

use crate::cause::{Cause, chain};
use crate::egress::UrlError;
use crate::linear::api::LinearError;
use crate::linear::secrets::SecretsError;
use crate::outbound::ClientError;
use crate::queue::QueueError;
use crate::table::TableError;

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong, or the caller may not make it.
    #[error("{detail}")]
    Refused {
        /// Stable, for programs.
        code: Code,
        /// What was wrong and what would be right.
        detail: String,
        /// When it is worth trying again.
        retry_after: Option<Duration>,
    },
    /// The path exists, but not with this method.
    #[error("this path takes {allow}")]
    MethodNotAllowed {
        /// The methods that the path takes.
        allow: &'static str,
    },
    /// The webhook's body has no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// `webhookUrl` is not an address that a worker can have.
    #[error(transparent)]
    WebhookUrl(#[from] UrlError),
    /// Linear refused the token, or could not be asked.
    #[error(transparent)]
    Linear(#[from] LinearError),
    /// DynamoDB failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// SQS failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The webhook secrets could not be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// AWS was too slow for Linear's patience.
    #[error("the event could not be stored in time; try again")]
    OutOfTime,
    /// The HTTP client could not be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A defect of the relay.
    #[error("could not {operation}")]
    Internal {
        /// What could not be done.
        operation: &'static str,
        /// Why.
        source: Cause,
    },
}

impl Error {
    /// A refusal.
    pub fn refused(code: Code, detail: impl Into<String>) -> Self {
        Self::Refused {
            code,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The body is larger than this number of bytes.
    pub fn body_too_large(limit: usize) -> Self {
        Self::refused(
            Code::BodyTooLarge,
            format!("the body is larger than the {limit} bytes accepted here"),
        )
    }

    /// Nothing is at the path.
    pub fn not_found() -> Self {
        Self::refused(Code::NotFound, "there is nothing at this path")
    }

    /// The request's `capabilities` are malformed.
    pub(crate) fn capabilities(error: CapabilityError) -> Self {
        Self::refused(Code::InvalidRequest, error.message("capabilities"))
    }

    /// The error for an unknown, removed or expired worker and for a wrong token. One message for all of them, so that a
    /// caller cannot tell them apart.
    pub(crate) fn worker_token_invalid() -> Self {
        Self::refused(
            Code::WorkerTokenInvalid,
            "there is no registration with this worker and this token: register again",
        )
    }

    /// Other calls changed the worker each time that this one tried to.
    pub(crate) fn worker_changed() -> Self {
        Self::Refused {
            code: Code::WorkerChanged,
            detail: "the worker was changed by another call at the same time: try again".to_owned(),
            retry_after: Some(Duration::from_secs(1)),
        }
    }

    /// The error and its causes in one line, for the log.
    pub fn chain(&self) -> String {
        chain(self)
    }
}
