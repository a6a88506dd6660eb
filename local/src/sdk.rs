//! The AWS SDK's clients, with their requests handed to the embedded servers in process.
//!
//! Invariant: requests and answers are those that would cross the wire, signed and serialised by the SDK; only
//! the socket between is missing. Every call is counted by its target, and shown to who watches.

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
use relay::aws::Clients;

use crate::aws::Servers;
use crate::calls::Calls;

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
        let response = self.servers.answer(target, body).await;
        HttpResponse::try_from(response.map(SdkBody::from))
            .map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// A function's clients of the embedded servers.
pub(crate) fn clients(servers: &Servers, calls: &Calls, function: &'static str) -> Clients {
    let http = SharedHttpClient::new(InProcess {
        servers: servers.clone(),
        calls: calls.clone(),
        function,
    });
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
