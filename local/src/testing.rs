//! What tests and benches alone use: the calls to the embedded servers, prepared responses, faults of the stand-in for
//! Linear, a look into a queue, the functions without anything that calls them, and what Lambda is to a process of one.

pub mod bare;
pub mod calls;
mod copies;
pub mod lambda_events;
pub mod partly;
pub mod place;
pub mod prepared;
pub mod sandbox;

use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningError};
use axum::http::Response;

use crate::access_key::AccessKey;
use crate::linear_api::LinearApi;
use crate::local_relay::LocalRelay;
use crate::sqs::{Message, Sqs, SqsError};

impl LinearApi {
    /// Answers every call with this status and body from now on, or normally again.
    pub fn fail(&self, fault: Option<(u16, &str)>) {
        self.shared().fault = fault.map(|(status, body)| (status, body.to_owned()));
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.shared().calls
    }
}

impl AccessKey {
    /// The header fields that sign a POST of this body with these fields, now.
    ///
    /// # Errors
    ///
    /// The request is not one of HTTP.
    pub fn fields(
        &self,
        service: &str,
        url: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Vec<(String, String)>, SigningError> {
        let body = SignableBody::Bytes(body);
        let request = SignableRequest::new("POST", url, fields.iter().copied(), body)?;
        let signed = self.sign(("us-east-1", service), SystemTime::now(), request)?;
        let fields = signed.output().headers();
        Ok(fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }
}

impl LocalRelay {
    /// Calls SQS, DynamoDB or Secrets Manager: `X-Amz-Target` and the body.
    pub async fn call_aws(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        self.servers.answer(target, body).await
    }
}

impl Sqs {
    /// All messages of a queue, the oldest first.
    ///
    /// # Errors
    ///
    /// There is no such queue.
    pub fn peek(&self, name: &str) -> Result<Vec<Message>, SqsError> {
        let mut state = self.state();
        let messages = state.queue(name)?.messages();
        Ok(messages.map(|(_, message)| message.clone()).collect())
    }
}
