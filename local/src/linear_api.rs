//! A stand-in for Linear's GraphQL API, which knows tokens and answers the one query of the relay.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::samples::{TEAM, TEAM_KEY};

/// The stand-in. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct LinearApi {
    shared: Arc<Mutex<LinearState>>,
}

#[derive(Debug, Default)]
pub(crate) struct LinearState {
    /// By the value of `Authorization`.
    accounts: HashMap<String, Account>,
    /// The status and body of every response instead.
    pub(crate) fault: Option<(u16, String)>,
    pub(crate) calls: u64,
}

/// What Linear knows of the holder of a token.
#[derive(Debug, Clone)]
pub struct Account {
    /// The user's id.
    pub user: String,
    /// The id, URL key and name of the workspace.
    pub workspace: String,
    /// Whether the user is an application.
    pub is_app: bool,
    /// Whether the user is a guest.
    pub is_guest: bool,
    /// Whether the user is active.
    pub is_active: bool,
    /// The id and key of each team that the user can see.
    pub teams: Vec<(String, String)>,
}

impl Account {
    /// An active member, called like the id, who can see the team of the samples.
    pub fn member(user: &str, workspace: &str) -> Self {
        Self {
            user: user.to_owned(),
            workspace: workspace.to_owned(),
            is_app: false,
            is_guest: false,
            is_active: true,
            teams: vec![(TEAM.to_owned(), TEAM_KEY.to_owned())],
        }
    }

    /// The answer with the page of teams that begins at `from`.
    fn answer(&self, from: usize) -> String {
        let page = self.teams.iter().skip(from).take(PAGE);
        let next = from + PAGE;
        json!({
            "data": {
                "viewer": {
                    "id": self.user,
                    "name": self.user,
                    "displayName": self.user,
                    "email": format!("{}@example.com", self.user),
                    "active": self.is_active,
                    "guest": self.is_guest,
                    "app": self.is_app,
                },
                "organization": {"id": self.workspace, "urlKey": self.workspace, "name": self.workspace},
                "teams": {
                    "nodes": page.map(|(id, key)| json!({"id": id, "key": key})).collect::<Vec<_>>(),
                    "pageInfo": {
                        "hasNextPage": next < self.teams.len(),
                        "endCursor": next.to_string(),
                    },
                },
            }
        })
        .to_string()
    }
}

/// How many teams there are in a page: few, so that there are several pages.
const PAGE: usize = 3;

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

    /// Makes `token` the token of this member of this workspace.
    pub fn admit(&self, token: &str, user: &str, workspace: &str) {
        self.admit_as(token, Account::member(user, workspace));
    }

    /// Makes `token` the token of this account.
    pub fn admit_as(&self, token: &str, account: Account) {
        self.shared().accounts.insert(authorization(token), account);
    }

    /// Makes `token` unknown.
    pub fn revoke(&self, token: &str) {
        self.shared().accounts.remove(&authorization(token));
    }
}

fn authorization(token: &str) -> String {
    if token.starts_with("lin_api_") {
        token.to_owned()
    } else {
        format!("Bearer {token}")
    }
}

async fn answer(
    State(api): State<LinearApi>,
    headers: HeaderMap,
    query: axum::body::Bytes,
) -> Response<Body> {
    let query: Value = serde_json::from_slice(&query).unwrap_or_default();
    let after = query["variables"]["after"].as_str();
    let from = after.and_then(|after| after.parse().ok()).unwrap_or(0);
    let (status, body) = {
        let mut shared = api.shared();
        shared.calls += 1;
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let known = token.and_then(|token| shared.accounts.get(token));
        match (&shared.fault, known) {
            (Some(fault), _) => fault.clone(),
            (None, Some(account)) => (200, account.answer(from)),
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
