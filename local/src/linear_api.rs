//! A stand-in for Linear's GraphQL API, which knows tokens and answers the one query of the relay.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;
use tokio::net::TcpListener;

/// The stand-in. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct LinearApi {
    shared: Arc<Mutex<LinearState>>,
}

#[derive(Debug, Default)]
pub(crate) struct LinearState {
    tokens: HashMap<String, String>,
    /// The status and body of every response instead.
    pub(crate) fault: Option<(u16, String)>,
    pub(crate) calls: u64,
}

impl LinearApi {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn start() -> std::io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let api = Self::default();
        let router = axum::Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((api, address))
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, LinearState> {
        self.shared.lock()
    }

    /// Makes `token` the token of this user in this workspace.
    pub fn admit(&self, token: &str, user: &str, workspace: &str) {
        let answer = json!({
            "data": {
                "viewer": {"id": user, "active": true, "guest": false},
                "organization": {"id": workspace, "urlKey": workspace, "name": workspace},
            }
        });
        let authorization = match token {
            key if key.starts_with("lin_api_") => key.to_owned(),
            token => format!("Bearer {token}"),
        };
        self.shared()
            .tokens
            .insert(authorization, answer.to_string());
    }
}

async fn answer(State(api): State<LinearApi>, headers: HeaderMap) -> Response<Body> {
    let (status, body) = {
        let mut shared = api.shared();
        shared.calls += 1;
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let known = token.and_then(|token| shared.tokens.get(token));
        match (&shared.fault, known) {
            (Some(fault), _) => fault.clone(),
            (None, Some(answer)) => (200, answer.clone()),
            (None, None) => (401, refusal()),
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
}

fn refusal() -> String {
    json!({
        "errors": [{
            "message": "Authentication required, not authenticated",
            "extensions": {"type": "authentication error", "code": "AUTHENTICATION_ERROR", "statusCode": 401},
        }]
    })
    .to_string()
}
