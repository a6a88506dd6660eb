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
}

impl Clients {
    /// Region, credentials and endpoints as Lambda gives them.
    pub async fn from_environment() -> Self {
        let config = aws_config::from_env()
            // Every answer is a small JSON object under a timeout.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(2))
                    .operation_attempt_timeout(Duration::from_secs(5))
                    .operation_timeout(Duration::from_secs(12))
                    .build(),
            )
            .load()
            .await;
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
        }
    }
}
