//! A fuzz target for what agents ask: registrations, renewals, and looks into a mailbox.

use std::panic::AssertUnwindSafe;

use lambda_http::{Body, Request, Response, http};
use local::testing::bare::BareRelay;
use protocol::messages::Registered;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{assert_is_problem, post, start};
use crate::harness::{SECRET, TOKEN};

/// A request as an input has it: a line with the method and the path, lines with a header each, an empty line, and the body.
fn request(input: &str) -> Option<Request> {
    let (head, body) = input.split_once("\n\n")?;
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("https://relay.example{path}"));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    request.body(Body::Text(body.to_owned())).ok()
}

async fn answer(relay: &BareRelay, request: Request) -> Response<Body> {
    let answer = register::handle(&relay.functions.register, request).await;
    answer.unwrap()
}

/// The answer is one of those that are described, whatever comes: `WORKER` is the path of a worker that is there, and `TOKEN` its
/// token.
async fn check(relay: &BareRelay, input: &[u8]) {
    let mine = json!({"linearToken": TOKEN, "name": "mine"}).to_string();
    let registered = answer(
        relay,
        post("/edge/register").body(Body::Text(mine)).unwrap(),
    )
    .await;
    let registered: Registered = serde_json::from_slice(registered.body()).unwrap();
    let input = String::from_utf8_lossy(input);
    let input = input
        .replace("WORKER", &registered.worker)
        .replace("TOKEN", &registered.token);
    let Some(request) = request(&input) else {
        return;
    };
    let answer = answer(relay, request).await;
    let text = String::from_utf8_lossy(answer.body());
    assert!(!answer.status().is_server_error(), "{text}");
    assert!(!text.contains(SECRET) && !text.contains(TOKEN), "{text}");
    if !answer.status().is_success() {
        assert_is_problem(answer.status().as_u16(), &text);
    }
}

#[test]
fn fuzz_request() {
    let runtime = super::runtime();
    let relay = runtime.block_on(start());
    let world: AssertUnwindSafe<(Runtime, BareRelay)> = AssertUnwindSafe((runtime, relay));
    fuzz::target!("request", |input: &[u8]| {
        let AssertUnwindSafe((runtime, relay)) = &world;
        runtime.block_on(check(relay, input));
    });
}
