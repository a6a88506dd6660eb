//! A fuzz target for webhooks, from their headers and their body to the answer and the message on the queue.

mod on_a_socket;
mod requests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Bytes;
use lambda_http::http::{self, StatusCode};
use lambda_http::{Body, Request, Response};
use local::local_relay::{Options, QUEUE};
use local::samples::WORKSPACE;
use local::testing::bare::BareRelay;
use protocol::clock::{Clock, UnixMillis};
use protocol::envelope::{self, is_identifier};
use protocol::linear_signature::sign;
use protocol::problem::{Code, Problem};
use relay::outbound::Network;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::harness::SECRET;

/// The time of the webhooks in the corpus.
const NOW: UnixMillis = 1_764_400_000_000;
/// The default of `ACCEPTED_AGE_SECONDS`.
const ACCEPTED_AGE_MS: f64 = 8.0 * 3600.0 * 1e3;
/// How far a webhook may be ahead.
const SKEW_MS: f64 = 60.0 * 1e3;

/// Linear's API, in which every token is that of the same user, who sees one team.
fn linear() -> Network {
    Network::Simulated(Arc::new(|_| {
        let answer = json!({"data": {
            "viewer": {"id": "u", "active": true, "guest": false},
            "organization": {"id": WORKSPACE, "urlKey": "k", "name": "n"},
            "teams": {"nodes": [{"id": "t", "key": "T"}], "pageInfo": {"hasNextPage": false}},
        }});
        Box::pin(async move { Ok(Response::new(Bytes::from(answer.to_string()))) })
    }))
}

/// A relay with one worker, which pulls all events.
async fn start() -> BareRelay {
    let mut options = Options::read(&|name| match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "WORKSPACES" => Some(WORKSPACE.to_owned()),
        // Time does not go by.
        "REGISTRATIONS_PER_MINUTE" => Some("100000".to_owned()),
        _ => None,
    })
    .unwrap();
    options.clock = Clock::of_runtime(NOW);
    let relay = BareRelay::start(options, &linear()).await.unwrap();
    let request = json!({"linearToken": "lin_api_x", "name": "one", "pulls": true});
    let request = post("/edge/register")
        .body(Body::Text(request.to_string()))
        .unwrap();
    let answer = register::handle(&relay.functions.register, request)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{answer:?}");
    relay
}

fn post(path: &str) -> http::request::Builder {
    http::Request::builder()
        .method("POST")
        .uri(format!("https://relay.example{path}"))
}

/// A webhook as an input has it: lines with a header each, an empty line, and the body. `SIGNED` is the signature.
struct Webhook {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Webhook {
    fn parse(input: &[u8]) -> Option<Self> {
        let at = input.windows(2).position(|two| two == b"\n\n")?;
        let body = input[at + 2..].to_vec();
        let head = std::str::from_utf8(&input[..at]).ok()?;
        let headers = (head.lines().filter_map(|line| line.split_once(": ")))
            .map(|(name, value)| {
                // White space around a value is no part of it (RFC 9110, section 5.5): the gateway has removed it.
                let value = value.trim_matches([' ', '\t']);
                (
                    name.to_lowercase(),
                    value.replace("SIGNED", &sign(SECRET, &body)),
                )
            })
            .collect();
        Some(Self { headers, body })
    }

    /// None if it is not HTTP.
    fn request(&self) -> Option<Request> {
        let mut request = post("/webhooks/linear");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = match String::from_utf8(self.body.clone()) {
            Ok(text) => Body::Text(text),
            Err(error) => Body::Binary(error.into_bytes()),
        };
        request.body(body).ok()
    }

    /// The value of a header that is there once.
    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value.as_str())
    }

    /// The status that it has to be answered with.
    fn expected(&self) -> u16 {
        let signature = self.only("linear-signature").unwrap_or_default();
        if !signature.eq_ignore_ascii_case(&sign(SECRET, &self.body)) {
            return 401;
        }
        let is_named = self.only("linear-delivery").is_some_and(is_identifier);
        let (true, Ok(body)) = (is_named, std::str::from_utf8(&self.body)) else {
            return 400;
        };
        match envelope::parse(body) {
            Ok(envelope) => match envelope.sent_at_ms {
                Some(at) if at < NOW as f64 - ACCEPTED_AGE_MS || at > NOW as f64 + SKEW_MS => 401,
                _ => 200,
            },
            Err(error) if error.is_undeliverable() => 200,
            Err(_) => 400,
        }
    }
}

/// A queue that knows no deduplication id.
async fn empty_queue(relay: &BareRelay) {
    let attributes = relay.sqs.attributes(QUEUE).unwrap();
    relay.sqs.delete_queue(QUEUE).await.unwrap();
    relay.sqs.create_queue(QUEUE, attributes).await.unwrap();
}

/// It is a problem that is described, with this status.
fn assert_is_problem(status: u16, text: &str) {
    let problem: Problem = serde_json::from_str(text).unwrap();
    let code = Code::ALL
        .iter()
        .find(|code| code.as_str() == problem.code)
        .unwrap();
    assert_eq!((code.status().as_u16(), problem.status), (status, status));
}

/// The answer is the expected one, and the worker's message is on the queue if it says so, with the body as it came.
async fn assert_is_answered(relay: &BareRelay, input: &[u8]) {
    let Some(webhook) = Webhook::parse(input) else {
        return;
    };
    let Some(request) = webhook.request() else {
        return;
    };
    empty_queue(relay).await;
    let answer = ingest::handle(&relay.functions.ingest, request)
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let Body::Text(text) = answer.body() else {
        panic!("{answer:?}")
    };
    assert_eq!(status, webhook.expected(), "{text}");
    assert!(!text.contains(SECRET));
    let messages = relay.sqs.peek(QUEUE).unwrap();
    if status != 200 {
        assert_is_problem(status, text);
        assert_eq!(messages.len(), 0);
        return;
    }
    let accepted: Value = serde_json::from_str(text).unwrap();
    let delivery = webhook.only("linear-delivery").unwrap();
    assert_eq!(accepted["event"], format!("evt_{delivery}"));
    let deliveries = messages
        .iter()
        .filter(|message| message.attributes.contains_key("event"));
    assert_eq!(accepted["deliveries"], deliveries.clone().count());
    for message in deliveries {
        let is_raw = message.attributes["body"].string_value.as_deref() == Some("raw");
        assert!(!is_raw || message.body.as_bytes() == webhook.body);
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap()
}

#[test]
fn fuzz_webhook() {
    let runtime = runtime();
    let relay = runtime.block_on(start());
    let world: AssertUnwindSafe<(Runtime, BareRelay)> = AssertUnwindSafe((runtime, relay));
    fuzz::target!("webhook", |input: &[u8]| {
        let AssertUnwindSafe((runtime, relay)) = &world;
        runtime.block_on(assert_is_answered(relay, input));
    });
}
