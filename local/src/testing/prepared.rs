//! AWS clients whose calls are answered at once with prepared responses, so that only the function's own work is measured.

use std::collections::HashMap;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use axum::http::Response;
use relay::aws::Clients;

use crate::sdk::{clients_over, response};

/// Responses by target.
#[derive(Debug, Clone)]
struct Prepared(Arc<HashMap<String, Vec<u8>>>);

impl HttpConnector for Prepared {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        HttpConnectorFuture::ready(match self.0.get(target) {
            Some(body) => response(Response::new(body.clone())),
            None => Err(ConnectorError::user(
                format!("no response to `{target}` is prepared").into(),
            )),
        })
    }
}

/// Clients that answer with these responses, by target (`DynamoDB_20120810.GetItem`).
pub fn clients(responses: HashMap<String, Vec<u8>>) -> Clients {
    clients_over(Prepared(Arc::new(responses)))
}
