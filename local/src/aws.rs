//! The services of AWS that the relay uses, on one machine: SQS, DynamoDB and Secrets Manager behind one endpoint.
//! `X-Amz-Target` selects the service, as in their JSON protocols. Of Lambda, which has paths, there is one call.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::json;

use crate::access_key::{AccessKey, Refusal};
use crate::dynamodb::{self, DynamoDb};
use crate::lambda;
use crate::secrets::{self, Secrets};
use crate::sqs::{self, Sqs};

/// More than any of the services accepts.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// The embedded servers. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Servers {
    pub(crate) dynamodb: DynamoDb,
    pub(crate) sqs: Sqs,
    pub(crate) secrets: Secrets,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Servers")
    }
}

impl Servers {
    /// Answers one call, over HTTP or in process.
    pub(crate) async fn answer(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        if target.starts_with(secrets::TARGET) {
            return secrets::answer(&self.secrets, target, body);
        }
        if target.starts_with(dynamodb::TARGET) {
            return self.dynamodb.answer(target, body).await;
        }
        sqs::wire::answer(&self.sqs, Some(target), body).await
    }
}

/// What the endpoint answers from, and whom.
#[derive(Debug, Clone)]
struct Endpoint {
    servers: Servers,
    key: Arc<AccessKey>,
}

/// The router of the endpoint for clients that have the key.
pub(crate) fn router(servers: Servers, key: AccessKey) -> axum::Router {
    let key = Arc::new(key);
    axum::Router::new()
        .fallback(over_http)
        .with_state(Endpoint { servers, key })
}

async fn over_http(State(endpoint): State<Endpoint>, request: Request) -> Response<Body> {
    match endpoint.answer(request).await {
        Ok(answer) => answer.map(Body::from),
        Err(refusal) => refuse(refusal),
    }
}

impl Endpoint {
    async fn answer(&self, request: Request) -> Result<Response<Vec<u8>>, Refusal> {
        let (parts, body) = request.into_parts();
        // Nothing is buffered for a client that does not know the key.
        let signature = self.key.signature(&parts, SystemTime::now())?;
        // A body that is too large, or is cut off, is not the one that was signed.
        let body = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
        signature.verify(&body)?;
        if let Some(function) = lambda::function(&parts) {
            return Ok(lambda::configuration(self.servers.resources(), function));
        }
        let target = (parts.headers.get("x-amz-target")).and_then(|value| value.to_str().ok());
        Ok(self.servers.answer(target.unwrap_or_default(), &body).await)
    }
}

/// As "Common Errors" in the API reference of SQS says:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
fn refuse(refusal: Refusal) -> Response<Body> {
    let error = json!({"__type": format!("{refusal:?}"), "message": refusal.to_string()});
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}
