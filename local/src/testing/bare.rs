//! The embedded servers in memory and the functions over them, for a simulation, which calls the functions itself.

use axum::http::Response;
use relay::outbound::Network;
use serde_json::Value;

use crate::aws::Servers;
use crate::backend::Files;
pub use crate::backend::Functions;
use crate::dynamodb::TARGET;
use crate::event_source;
use crate::local_relay::Options;
use crate::sqs::{Received, Sqs};

/// A relay that nothing drives.
#[derive(Debug)]
pub struct BareRelay {
    /// The queues.
    pub sqs: Sqs,
    /// The functions.
    pub functions: Functions,
    servers: Servers,
}

impl BareRelay {
    /// Starts the functions over empty servers in memory, and over this network. What the options say of listeners and of
    /// storage does not count.
    ///
    /// # Errors
    ///
    /// A function does not start.
    pub async fn start(options: Options, network: &Network) -> anyhow::Result<Self> {
        let clock = options.clock;
        let servers =
            Servers::open(Files::default(), None, options.webhook_secrets, &clock).await?;
        let functions =
            Functions::start(&servers, options.configs, &options.calls, network, &clock).await?;
        Ok(Self {
            sqs: servers.sqs.clone(),
            functions,
            servers,
        })
    }

    /// Invokes `deliver` with a batch as the event source mapping does. Returns the handles of the messages that are done.
    ///
    /// # Errors
    ///
    /// The function failed.
    pub async fn deliver(
        &self,
        batch: Vec<Received>,
    ) -> Result<Vec<String>, lambda_runtime::Error> {
        event_source::process(&self.functions.deliver, batch).await
    }

    /// Calls DynamoDB.
    ///
    /// # Errors
    ///
    /// The answer is not JSON.
    pub async fn dynamodb(&self, action: &str, request: &Value) -> serde_json::Result<Value> {
        let target = format!("{TARGET}{action}");
        let answer = self.call_aws(&target, request.to_string().as_bytes()).await;
        serde_json::from_slice(answer.body())
    }

    /// Calls SQS, DynamoDB or Secrets Manager: `X-Amz-Target` and the body.
    pub async fn call_aws(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        self.servers.answer(target, body).await
    }
}
