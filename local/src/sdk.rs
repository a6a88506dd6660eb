//! The AWS SDK's clients, whose requests go to the embedded servers in process.
//!
//! Invariant: requests and responses are those that would cross the wire, signed and serialised by the SDK; only
//! the socket is missing. Every call is recorded.

use aws_sdk_sqs::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use axum::http::{Response, StatusCode};
use relay::aws::Clients;
use relay::outbound::Network;

use crate::aws::Servers;
use crate::testing::calls::{Calls, Fault, Interference};
use crate::testing::partly::Part;
use crate::{dynamodb, sqs};

const SEND_BATCH: &str = "AmazonSQS.SendMessageBatch";
/// A `SendMessageBatch` request of at least so many bytes is probably one of several for an event.
const FULL_BATCH_BYTES: usize = 16 * 1024;

/// Passes a function's requests to the embedded servers.
#[derive(Debug, Clone)]
struct InProcess {
    servers: Servers,
    calls: Calls,
    function: &'static str,
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move { this.answer(&request).await })
    }
}

impl InProcess {
    async fn answer(&self, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let body = request.body().bytes().unwrap_or_default();
        self.calls.record(self.function, target, body);
        let began = self.calls.began();
        let Interference {
            delay,
            body: changed,
            fault,
        } = self.calls.interference(self.function, target, body);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let body = changed.as_deref().unwrap_or(body);
        match fault {
            Some(Fault::Unsent) => return Err(broken()),
            Some(Fault::Swallowed) => return std::future::pending().await,
            Some(Fault::Refused(status, code)) => return refusal(status, code),
            Some(Fault::Partly) => return self.answer_partly(target, body).await,
            Some(Fault::AnswerLost | Fault::Unanswered) | None => {}
        }
        let response = if self.calls.is_metered() {
            self.metered(target, body).await
        } else if target == SEND_BATCH && body.len() >= FULL_BATCH_BYTES {
            self.answer_in_own_task(target, body).await?
        } else {
            self.servers.answer(target, body).await
        };
        self.calls.ended(self.function, target, began);
        match fault {
            Some(Fault::AnswerLost) => Err(broken()),
            Some(Fault::Unanswered) => std::future::pending().await,
            _ => self::response(response),
        }
    }

    async fn answer_partly(
        &self,
        target: &str,
        body: &[u8],
    ) -> Result<HttpResponse, ConnectorError> {
        let Some(part) = Part::of(target, body) else {
            return response(self.servers.answer(target, body).await);
        };
        let answer = match &part.body {
            None => None,
            Some(body) => Some(self.servers.answer(target, body).await.into_body()),
        };
        response(Response::new(part.answer(answer.as_deref())))
    }

    /// Answers in a task of its own. A receiver that is woken runs next on the thread that wakes it, once the task there waits or
    /// ends. On the caller's thread that would be after all batches of the event.
    async fn answer_in_own_task(
        &self,
        target: &str,
        body: &[u8],
    ) -> Result<Response<Vec<u8>>, ConnectorError> {
        let (servers, target, body) = (self.servers.clone(), target.to_owned(), body.to_vec());
        let sent = tokio::spawn(async move { servers.answer(&target, &body).await });
        sent.await
            .map_err(|error| ConnectorError::other(error.into(), None))
    }

    /// Asks DynamoDB for the capacity that the call consumes, which the relay does not. The response has one field more.
    async fn metered(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        let Some(action) = target.strip_prefix(dynamodb::TARGET) else {
            if target.starts_with(sqs::wire::TARGET) {
                self.calls.record_payload(sqs::wire::bytes_sent(body));
            }
            return self.servers.answer(target, body).await;
        };
        let asking = [
            br#"{"ReturnConsumedCapacity":"TOTAL","#,
            body.strip_prefix(b"{").unwrap_or(body),
        ]
        .concat();
        let response = self.servers.answer(target, &asking).await;
        let used = consumed(response.body());
        self.calls.record_units(|units| match action {
            "GetItem" | "BatchGetItem" | "Query" | "Scan" => units.read += used,
            _ => units.write += used,
        });
        response
    }
}

/// The connection broke.
fn broken() -> ConnectorError {
    ConnectorError::io("the connection broke".into())
}

/// An error response of the service.
fn refusal(status: u16, code: &str) -> Result<HttpResponse, ConnectorError> {
    let mut refusal = Response::new(Fault::refusal(code));
    *refusal.status_mut() = StatusCode::from_u16(status).expect("this is a status");
    response(refusal)
}

pub(crate) fn response(response: Response<Vec<u8>>) -> Result<HttpResponse, ConnectorError> {
    HttpResponse::try_from(response.map(SdkBody::from))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

/// The capacity units in a response, which has a list of them for several tables.
fn consumed(answer: &[u8]) -> f64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let consumed = &answer["ConsumedCapacity"];
    let units = |of: &serde_json::Value| of["CapacityUnits"].as_f64().unwrap_or_default();
    match consumed.as_array() {
        Some(tables) => tables.iter().map(units).sum(),
        None => units(consumed),
    }
}

/// A function's clients of the embedded servers, and of this network.
pub(crate) fn clients(
    servers: &Servers,
    calls: &Calls,
    network: &Network,
    function: &'static str,
) -> Clients {
    let clients = clients_over(InProcess {
        servers: servers.clone(),
        calls: calls.clone(),
        function,
    });
    Clients {
        network: network.clone(),
        ..clients
    }
}

/// Where the clients think that they call.
pub(crate) const ENDPOINT: &str = "http://aws.local";

/// Clients whose requests go to this connector.
pub(crate) fn clients_over(connector: impl HttpConnector + 'static) -> Clients {
    let connector = SharedHttpConnector::new(connector);
    let http = http_client_fn(move |_, _| connector.clone());
    let credentials = Credentials::new("local", "local", None, None, "local");
    // Otherwise all clients of a process would share a budget for retries.
    let retries = RetryPartition::custom("local")
        .token_bucket(TokenBucket::unlimited())
        .build();
    macro_rules! config {
        ($sdk:ident) => {
            $sdk::Client::from_conf(
                $sdk::Config::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .region(Region::from_static("us-east-1"))
                    .credentials_provider(credentials.clone())
                    .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                    .endpoint_url(ENDPOINT)
                    .http_client(http.clone())
                    .retry_partition(retries.clone())
                    .build(),
            )
        };
    }
    Clients {
        dynamodb: config!(aws_sdk_dynamodb),
        sqs: config!(aws_sdk_sqs),
        secrets: config!(aws_sdk_secretsmanager),
        network: Network::Internet,
    }
}
