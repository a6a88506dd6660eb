//! The services of AWS that the relay uses, on one machine: SQS, DynamoDB and Secrets Manager behind one endpoint.
//! `X-Amz-Target` selects the service, as in their JSON protocols.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response};

use crate::dynamodb::{self, DynamoDb};
use crate::loopback::own_clients_only;
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

/// The router of the loopback endpoint.
pub(crate) fn router(servers: Servers) -> axum::Router {
    axum::Router::new()
        .fallback(over_http)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn(own_clients_only))
        .with_state(servers)
}

async fn over_http(
    State(servers): State<Servers>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let target = headers
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    let answer = servers.answer(target.unwrap_or_default(), &body).await;
    answer.map(Body::from)
}
