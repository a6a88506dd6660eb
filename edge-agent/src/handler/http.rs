//! The HTTP handler: the same bytes and the same headers, POSTed to this machine.

use std::time::{Duration, Instant};

use protocol::headers::{
    EDGE_ATTEMPT, LINEAR_SIGNATURE, LINEAR_TIMESTAMP, WEBHOOK_ID, WEBHOOK_SIGNATURE,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, StatusCode};

use super::{ANSWER_LIMIT, Answer, Attempting, Outcome, linear};
use crate::config::OF_CONNECTION;
use crate::relay::root_cause;
use crate::store::Event;
use crate::target::{LOCALHOST, Target, is_localhost};

/// As Linear's requests have it.
const LINEAR_USER_AGENT: &str = "Linear-Webhook";

/// The client that all events are POSTed with.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        .dns_resolver(Loopback)
        .build()
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

/// POSTs an event; with a secret of Linear's, stamped and signed as Linear would do it now.
pub(super) async fn post(target: &Target, event: &Event, attempting: &Attempting<'_>) -> Answer {
    let Attempting {
        client,
        secret,
        attempt,
        time_limit,
        stamp,
        ..
    } = *attempting;
    let mut headers = forwarded(event, attempt);
    let body = match secret {
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
    let status = response.status();
    let outcome = match status {
        StatusCode::GONE => Outcome::Dropped,
        status if status.is_success() => Outcome::Done,
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => Outcome::Retry,
        status if status.is_client_error() => Outcome::Refused,
        _ => Outcome::Retry,
    };
    let left = time_limit.saturating_sub(began.elapsed());
    let body = read_body(response, left).await;
    Answer::new(outcome, status.as_u16().to_string(), body)
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
