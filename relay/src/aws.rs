//! The AWS clients of a function. They are created once and share one connection pool.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::SharedCredentialsProvider;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::config::Aws;
use crate::outbound::Network;

/// What a function calls: one client for each service, and the network to workers and Linear.
#[derive(Debug, Clone)]
pub struct Clients {
    /// DynamoDB
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// SQS
    pub sqs: aws_sdk_sqs::Client,
    /// Secrets Manager
    pub secrets: aws_sdk_secretsmanager::Client,
    /// Workers and Linear
    pub network: Network,
}

impl Clients {
    /// Clients with the credentials that Lambda puts into the environment. The SDK's provider chain would try other sources
    /// in vain at each cold start.
    pub fn new(aws: &Aws) -> Self {
        let http = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .build_https();
        let credentials = EnvironmentVariableCredentialsProvider::new();
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(aws.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http)
            .retry_config(RetryConfig::standard())
            // Every answer is a small JSON object with its own timeout.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    // Linear waits five seconds for an answer, and a connection may have broken during a freeze.
                    .connect_timeout(Duration::from_secs(1))
                    .operation_attempt_timeout(Duration::from_millis(1500))
                    .operation_timeout(Duration::from_secs(4))
                    .build(),
            );
        config.set_endpoint_url(aws.endpoint.clone());
        let config = config.build();
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            network: Network::Internet,
        }
    }
}
