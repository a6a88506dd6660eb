//! Secrets Manager for one machine: the one secret that the relay reads.
//!
//! Invariant: the secret is in memory only, and comes from the environment at each start.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

/// The secret's name.
pub const SECRET_ID: &str = "edge-relay/linear-webhook-secrets";

pub(crate) const TARGET: &str = "secretsmanager.";

/// The one secret. Clones are the same one.
#[derive(Clone)]
pub struct Secrets(Arc<Mutex<String>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    pub(crate) fn new(text: String) -> Self {
        Self(Arc::new(Mutex::new(text)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    secret_id: String,
    #[serde(default)]
    secret_string: Option<String>,
}

/// Answers `GetSecretValue` and `PutSecretValue`.
pub(crate) fn answer(secrets: &Secrets, target: &str, body: &[u8]) -> Response<Vec<u8>> {
    let (status, answer) = match act(secrets, target, body) {
        Ok(answer) => (StatusCode::OK, answer),
        Err((code, message)) => (
            StatusCode::BAD_REQUEST,
            json!({"__type": code, "Message": message}),
        ),
    };
    let mut response = Response::new(answer.to_string().into_bytes());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/x-amz-json-1.1");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn act(
    secrets: &Secrets,
    target: &str,
    body: &[u8],
) -> Result<Value, (&'static str, &'static str)> {
    let request: Request = serde_json::from_slice(body).map_err(|_| {
        (
            "InvalidRequestException",
            "The request is not one of this action.",
        )
    })?;
    if request.secret_id != SECRET_ID {
        let message = "Secrets Manager can't find the specified secret.";
        return Err(("ResourceNotFoundException", message));
    }
    let mut text = secrets.0.lock();
    let mut answer = json!({
        "ARN": format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{SECRET_ID}-local0"),
        "Name": SECRET_ID,
        "VersionId": "00000000-0000-0000-0000-000000000000",
        "VersionStages": ["AWSCURRENT"],
    });
    match (target.strip_prefix(TARGET), request.secret_string) {
        (Some("GetSecretValue"), _) => answer["SecretString"] = json!(*text),
        (Some("PutSecretValue"), Some(put)) => *text = put,
        (Some("PutSecretValue"), None) => {
            return Err(("InvalidParameterException", "`SecretString` is needed."));
        }
        _ => {
            return Err((
                "UnknownOperationException",
                "This action is not supported here.",
            ));
        }
    }
    Ok(answer)
}
