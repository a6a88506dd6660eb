//! The AWS SDK's clients, with their requests handed to the embedded servers in process.
//!
//! Invariant: requests and answers are those that would cross the wire, signed and serialised by the SDK; only
//! the socket between is missing. Every call is counted by its target, and shown to who watches.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_sqs::config::{
    BehaviorVersion, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use axum::http::Response;
use relay::aws::Clients;

use crate::aws::Servers;
use crate::calls::Calls;
use crate::{dynamodb, sqs};

/// Hands a function's requests to the embedded servers.
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

impl HttpClient for InProcess {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl InProcess {
    async fn answer(&self, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let body = request.body().bytes().unwrap_or_default();
        self.calls.saw(self.function, target, body);
        let response = if self.calls.is_metered() {
            self.metered(target, body).await
        } else {
            self.servers.answer(target, body).await
        };
        self::response(response)
    }

    /// Asks DynamoDB what the call used, which the relay does not; the answer only has one field more for it.
    async fn metered(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        let Some(action) = target.strip_prefix(dynamodb::TARGET) else {
            if target.starts_with(sqs::wire::TARGET) {
                // With its escapes: a little more than the messages themselves.
                self.calls.carried(body.len());
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
        self.calls.used(|units| match action {
            "GetItem" | "BatchGetItem" | "Query" | "Scan" => units.read += used,
            _ => units.write += used,
        });
        response
    }
}

fn response(response: Response<Vec<u8>>) -> Result<HttpResponse, ConnectorError> {
    HttpResponse::try_from(response.map(SdkBody::from))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

/// The capacity units in an answer; several tables' are in a list.
fn consumed(answer: &[u8]) -> f64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let consumed = &answer["ConsumedCapacity"];
    let units = |of: &serde_json::Value| of["CapacityUnits"].as_f64().unwrap_or_default();
    match consumed.as_array() {
        Some(tables) => tables.iter().map(units).sum(),
        None => units(consumed),
    }
}

/// A function's clients of the embedded servers.
pub(crate) fn clients(servers: &Servers, calls: &Calls, function: &'static str) -> Clients {
    over(SharedHttpClient::new(InProcess {
        servers: servers.clone(),
        calls: calls.clone(),
        function,
    }))
}

/// Answers by target, for clients that ask nobody.
#[derive(Debug, Clone)]
struct Prepared(Arc<HashMap<String, Vec<u8>>>);

impl HttpConnector for Prepared {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        HttpConnectorFuture::ready(match self.0.get(target) {
            Some(answer) => response(Response::new(answer.clone())),
            None => Err(ConnectorError::user(
                format!("no answer to `{target}` is prepared").into(),
            )),
        })
    }
}

impl HttpClient for Prepared {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// Clients whose calls are answered at once with what is prepared: what a function does itself is left to measure.
pub fn prepared(answers: HashMap<String, Vec<u8>>) -> Clients {
    over(SharedHttpClient::new(Prepared(Arc::new(answers))))
}

fn over(http: SharedHttpClient) -> Clients {
    let credentials = Credentials::new("local", "local", None, None, "local");
    macro_rules! config {
        ($sdk:ident) => {
            $sdk::Client::from_conf(
                $sdk::Config::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .region(Region::from_static("us-east-1"))
                    .credentials_provider(credentials.clone())
                    .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                    .endpoint_url("http://aws.local")
                    .http_client(http.clone())
                    .build(),
            )
        };
    }
    Clients {
        dynamodb: config!(aws_sdk_dynamodb),
        sqs: config!(aws_sdk_sqs),
        secrets: config!(aws_sdk_secretsmanager),
    }
}
