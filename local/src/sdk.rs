//! The AWS SDK's clients, with their requests handed to the embedded servers in process.
//!
//! Invariant: requests and answers are those that would cross the wire, signed and serialised by the SDK; only
//! the socket between is missing. Every call is counted by its target.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use dynoxide::Database;

use crate::sqs::{self, Sqs};
use crate::{dynamodb, machine::Calls};

/// Hands the SDK's requests to the server that they name.
#[derive(Clone)]
struct InProcess {
    database: Database,
    is_durable: bool,
    sqs: Sqs,
    calls: Calls,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InProcess")
    }
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
        self.calls.count(target);
        let response = if !target.starts_with("DynamoDB") {
            sqs::wire::answer(&self.sqs, Some(target), body).await
        } else if self.is_durable {
            // A commit waits for the disk, and the runtime's workers have other things to do meanwhile.
            let (database, target, body) =
                (self.database.clone(), target.to_owned(), body.to_vec());
            tokio::task::spawn_blocking(move || dynamodb::answer(&database, &target, &body))
                .await
                .map_err(|error| ConnectorError::other(error.into(), None))?
        } else {
            dynamodb::answer(&self.database, target, body)
        };
        HttpResponse::try_from(response.map(SdkBody::from))
            .map_err(|error| ConnectorError::other(error.into(), None))
    }
}

impl Calls {
    /// Counts one call.
    pub(crate) fn count(&self, target: &str) {
        let action = target.rsplit('.').next().unwrap_or(target);
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.get_mut(action) {
            Some(count) => *count += 1,
            None => {
                calls.insert(action.to_owned(), 1);
            }
        }
    }

    /// How often each action was called since the last time.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::new())))
    }
}

fn credentials() -> Credentials {
    Credentials::new("local", "local", None, None, "local")
}

/// Clients of the embedded servers.
pub(crate) fn clients(
    database: Database,
    is_durable: bool,
    sqs: Sqs,
    calls: Calls,
) -> (aws_sdk_dynamodb::Client, aws_sdk_sqs::Client) {
    let in_process = InProcess {
        database,
        is_durable,
        sqs,
        calls,
    };
    let region = Region::from_static("us-east-1");
    let dynamodb = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region.clone())
        .credentials_provider(credentials())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .endpoint_url("http://dynamodb.local")
        .http_client(in_process.clone())
        .build();
    let sqs = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .credentials_provider(credentials())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .endpoint_url("http://sqs.local")
        .http_client(in_process)
        .build();
    (
        aws_sdk_dynamodb::Client::from_conf(dynamodb),
        aws_sdk_sqs::Client::from_conf(sqs),
    )
}
