//! The HTTP handler: the same bytes and the same headers, POSTed to this machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use protocol::headers::{
    EDGE_ATTEMPT, LINEAR_SIGNATURE, LINEAR_TIMESTAMP, WEBHOOK_ID, WEBHOOK_SIGNATURE,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use reqwest::{Client, Response, StatusCode};

use super::{ANSWER_LIMIT, Answer, Attempting, Outcome, linear};
use crate::cause::root_cause;
use crate::config::OF_CONNECTION;
use crate::report::shown;
use crate::store::Event;
use crate::target::{LOCALHOST, Target, is_localhost};

/// As Linear's requests have it.
const LINEAR_USER_AGENT: &str = "Linear-Webhook";

/// How many header fields an answer may have.
const MAX_HEADERS: usize = 1000;

/// What a connection depends on: the socket in the place of a host, and whether any certificate is taken.
type Means = (Option<PathBuf>, bool);

/// The clients that events are POSTed with. Clones share them, and their connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<Means, Client>>>);

impl Clients {
    fn of(&self, target: &Target, insecure: bool) -> reqwest::Result<Client> {
        let means = (target.socket().map(Path::to_owned), insecure);
        let mut clients = self.0.lock();
        if let Some(client) = clients.get(&means) {
            return Ok(client.clone());
        }
        let mut client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .http1_max_headers(MAX_HEADERS)
            .tls_danger_accept_invalid_certs(insecure)
            .dns_resolver(Loopback);
        if let Some(socket) = target.socket() {
            client = client.unix_socket(socket);
        }
        let client = client.build()?;
        clients.insert(means, client.clone());
        Ok(client)
    }
}

/// Resolves `localhost` and the names under it to loopback, and asks the system for others.
struct Loopback;

impl Resolve for Loopback {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Addrs = if is_localhost(name.as_str()) {
                Box::new(LOCALHOST.into_iter())
            } else {
                let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
                Box::new(found.into_iter())
            };
            Ok(addresses)
        })
    }
}

/// POSTs an event.
pub(super) async fn post(target: &Target, event: &Event, attempting: &Attempting<'_>) -> Answer {
    let time_limit = attempting.time_limit;
    let (headers, body) = request(event, attempting);
    let client = match attempting.clients.of(target, attempting.insecure) {
        Ok(client) => client,
        Err(error) => return Answer::new(Outcome::Retry, root_cause(&error), Vec::new()),
    };
    let began = Instant::now();
    let request = client
        .post(target.url().clone())
        .headers(headers)
        .body(body);
    let response = match tokio::time::timeout(time_limit, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let outcome = if error.is_connect() {
                Outcome::Absent
            } else {
                Outcome::Retry
            };
            return Answer::new(outcome, root_cause(&error.without_url()), Vec::new());
        }
        Err(_) => {
            let result = format!(
                "no answer within {}",
                humantime::format_duration(time_limit)
            );
            return Answer::new(Outcome::Retry, result, Vec::new());
        }
    };
    let (outcome, result) = (outcome(response.status()), result(&response));
    let left = time_limit.saturating_sub(began.elapsed());
    let body = read_body(response, left).await;
    Answer::new(outcome, result, body)
}

/// The headers and the body of a request; with a secret of Linear's, stamped and signed as Linear would do it now.
fn request(event: &Event, attempting: &Attempting<'_>) -> (HeaderMap, Vec<u8>) {
    let mut headers = forwarded(event, attempting.attempt);
    let stamp = attempting.stamp;
    let body = match attempting.secret {
        None => event.body.clone(),
        Some(secret) => {
            let body = linear::stamped(&event.body, stamp);
            let signature = protocol::linear_signature::sign(&secret.0, &body);
            if let Ok(signature) = HeaderValue::try_from(signature) {
                headers.insert(LINEAR_SIGNATURE, signature);
            }
            // It covers bytes that are no longer these.
            headers.remove(WEBHOOK_SIGNATURE);
            headers.insert(LINEAR_TIMESTAMP, HeaderValue::from(stamp));
            headers.insert(USER_AGENT, HeaderValue::from_static(LINEAR_USER_AGENT));
            body
        }
    };
    for (name, value) in &attempting.headers.0 {
        headers.insert(name, value.clone());
    }
    (headers, body)
}

/// What the status of an answer means.
fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::GONE => Outcome::Dropped,
        status if status.is_success() => Outcome::Done,
        // A request is not made again elsewhere, and the same answer would come again.
        status if status.is_redirection() => Outcome::Refused,
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => Outcome::Retry,
        status if status.is_client_error() => Outcome::Refused,
        _ => Outcome::Retry,
    }
}

/// The status of an answer, and where a redirection leads: without its query, which may hold a key.
fn result(response: &Response) -> String {
    let status = response.status().as_u16();
    let location = (response.headers().get(LOCATION))
        .filter(|_| response.status().is_redirection())
        .and_then(|location| response.url().join(location.to_str().ok()?).ok());
    match location {
        Some(location) => format!(
            "{status} to {}, which has to be the target then",
            shown(&location)
        ),
        None => status.to_string(),
    }
}

fn forwarded(event: &Event, attempt: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &event.headers.0 {
        if OF_CONNECTION.contains(&name.as_str()) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value),
        ) {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(CONTENT_TYPE) {
        // A mailbox hands out no media type; Linear sends this one.
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(CONTENT_TYPE, json);
    }
    if let Ok(id) = HeaderValue::from_str(&event.id) {
        headers.insert(WEBHOOK_ID, id);
    }
    headers.insert(EDGE_ATTEMPT, HeaderValue::from(attempt));
    headers
}

/// The first part of an answer's body, read within `time`. The status of the answer counts in any case.
async fn read_body(mut response: Response, time: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = ANSWER_LIMIT - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == ANSWER_LIMIT {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(time.min(Duration::from_secs(10)), reading).await;
    body
}
