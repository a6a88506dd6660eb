//! The AWS clients of a function, from its environment: made once, and shared by all that it does.

use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;

/// One client for each service; each keeps its connections.
#[derive(Debug, Clone)]
pub struct Clients {
    /// DynamoDB
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// SQS
    pub sqs: aws_sdk_sqs::Client,
    /// Secrets Manager
    pub secrets: aws_sdk_secretsmanager::Client,
}

impl Clients {
    /// Region, credentials and endpoints as Lambda gives them.
    pub async fn from_environment() -> Self {
        let config = aws_config::from_env()
            // Every answer is a small JSON object under a timeout.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    // Linear waits five seconds for its answer, and a connection may have died in a freeze.
                    .connect_timeout(Duration::from_secs(1))
                    .operation_attempt_timeout(Duration::from_millis(1500))
                    .operation_timeout(Duration::from_secs(4))
                    .build(),
            )
            .load()
            .await;
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
        }
    }
}
