//! Errors as responses: RFC 9457 `application/problem+json`. The only place in the crate that gives an error a code, a
//! status and headers.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use protocol::problem::{Code, PROBLEM_JSON, Problem};

use crate::egress::UrlError;
use crate::error::Error;
use crate::linear::api::LinearError;
use crate::linear::secrets::SecretsError;
use crate::table::TableError;

/// How long a caller waits after a failure of AWS.
const STORAGE_RETRY_AFTER: Duration = Duration::from_secs(5);

impl Error {
    /// The error's code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } => *code,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::Envelope(_) => Code::BodyMalformed,
            Self::WebhookUrl(UrlError::Blocked) => Code::AddressBlocked,
            Self::WebhookUrl(_) => Code::InvalidWebhookUrl,
            Self::Linear(error) => match error {
                LinearError::TokenInvalid => Code::LinearTokenInvalid,
                LinearError::TokenForbidden => Code::LinearTokenForbidden,
                LinearError::TokenMalformed => Code::LinearTokenMalformed,
                LinearError::UserRefused => Code::LinearUserRefused,
                LinearError::Unavailable { .. } => Code::LinearUnavailable,
            },
            Self::Secrets(SecretsError::Malformed(_)) => Code::WebhookSecretsMalformed,
            Self::Client(_) | Self::Internal { .. } | Self::Table(TableError::Malformed { .. }) => {
                Code::Internal
            }
            Self::Table(_)
            | Self::Queue(_)
            | Self::Secrets(SecretsError::Call(_))
            | Self::OutOfTime => Code::StorageUnavailable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Linear(LinearError::Unavailable { retry_after, .. }) => Some(*retry_after),
            _ => matches!(
                self.code(),
                Code::StorageUnavailable | Code::WebhookSecretsMalformed
            )
            .then_some(STORAGE_RETRY_AFTER),
        }
    }

    /// The response, and a log line: an error with its causes where the relay is at fault, else the code of the refusal.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let code = self.code();
        let status = code.status();
        if status.is_server_error() {
            tracing::error!(
                error = self.chain(),
                Failed = 1,
                reason = code.as_str(),
                "a request failed: {}",
                code.as_str()
            );
        } else {
            // A wrong method is no request that was meant to be served.
            let is_counted = status != StatusCode::METHOD_NOT_ALLOWED;
            tracing::info!(
                Refused = is_counted.then_some(1),
                reason = code.as_str(),
                "a request was refused: {}",
                code.as_str()
            );
        }
        let problem = Problem::new(code, self.to_string());
        let body = serde_json::to_string(&problem).expect("a problem is texts and a number");
        let mut response = Response::new(B::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        // Every 401 has to name a scheme (RFC 9110, section 15.5.2), and there is none for signatures.
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(wait) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_item_is_not_an_outage_of_the_storage() {
        let operation = "read the worker";
        let malformed = Error::from(TableError::Malformed { operation });
        assert_eq!(malformed.code(), Code::Internal);
        assert_eq!(malformed.retry_after(), None);
        let throttled = Error::from(TableError::Unprocessed { operation });
        assert_eq!(throttled.code(), Code::StorageUnavailable);
        assert_eq!(throttled.retry_after(), Some(STORAGE_RETRY_AFTER));
    }
}
